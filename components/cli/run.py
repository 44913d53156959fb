"""`motion-enhancer run | plan | step | synthesize | look`: what computes on this machine."""

from __future__ import annotations

import json
import shlex
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from components.cli.options import Assignments, Image, Lock, PipelineOptions, pipeline_options
from components.cli.run_folder import Output, read_record, write_record
from components.core.errors import ParameterError
from components.core.job import start_logging
from components.core.records import sha256
from components.kubeflow.arguments import parse_assignments, parse_value, pipeline, pipeline_defaults, split_assignments
from components.kubeflow.images import LOCK
from components.kubeflow.tree import ROOT, own_part, run_store, tree_is_dirty
from components.runtime.declaration import Step, declared
from components.runtime.runner import executor_input, run_step, run_task
from components.store.entries import Store

Out = Annotated[
    Path,
    typer.Option(
        help="folder of the run: logs, artifacts, KFP's cache, report, run.json, and its store unless one is given"
    ),
]


@pipeline_options
def run(
    name: Annotated[str, typer.Argument(metavar="PIPELINE", help="motion_priors, fine_tune or motion_enhancer")],
    given: PipelineOptions,
    out: Out = Path("runs/local"),
    engine: Annotated[
        str, typer.Option(help="process: no services; docker: each task in its image, in the engine of DOCKER_HOST")
    ] = "process",
    image: Image = "",
    lock: Lock = LOCK,
    network: Annotated[str, typer.Option(help="network of the containers")] = "host",
) -> None:
    """Run a pipeline on this machine under KFP's local orchestrator."""
    from components.kubeflow.compile import chosen_images, compile_pipeline
    from components.kubeflow.local import open_engine, run_compiled

    if tree_is_dirty(ROOT):
        part = own_part("store").partition("/")[2]
        typer.echo(
            f"Uncommitted changes in the code: results are kept under {part} of the store, apart from all others."
        )
    made = compile_pipeline(name, out.absolute() / f"{name}.yaml", chosen_images(image, engine == "process", lock))
    store, values = local_values(pipeline_defaults(made), given, out)
    write_record(out, store, {})
    start = time.monotonic()
    with open_engine(engine, network) as opened:
        journal = run_compiled(out.absolute() / f"{name}.yaml", values, out.absolute(), opened)
    _table(journal.runs, time.monotonic() - start)
    if (failed := journal.failed) is not None:
        typer.echo(f"\n{failed.task} ended with code {failed.code}; the end of {failed.log}:\n")
        typer.echo("\n".join(failed.log.read_text(errors="replace").splitlines()[-25:]))
        raise typer.Exit(failed.code)
    outputs = _outputs(journal.outputs, values["store"])
    write_record(out, store, outputs)
    _show(outputs, journal.outputs, out)


def local_values(known: Mapping[str, Any], given: PipelineOptions, out: Path) -> tuple[str, dict[str, Any]]:
    """Return the store that was given (not its part for uncommitted code), and the arguments of a run here.

    Without a store the folder's earlier runs name it, and the first run takes `<out>/store`.
    """
    values = given.local_values(dict(known))
    before = read_record(out)
    store = values.get("store") or (before.store if before else (out.absolute() / "store").as_uri())
    return store, {**values, "store": run_store(store)}


def _table(runs: list[Any], seconds: float) -> None:
    typer.echo(f"\n{'task':<22}{'seconds':>9}  code")
    for item in runs:
        typer.echo(f"{item.task:<22}{item.seconds:>9.1f}  {item.code}")
    typer.echo(f"{'all':<22}{seconds:>9.1f}  ({len(runs)} executed, the others from cache)\n")


def _outputs(folders: Mapping[str, Path], store: str) -> dict[str, Output]:
    """Return what a run made, by name. Where the pipeline does not end with a prior set, its report read one."""
    from components.core.artifacts import Report, load_manifest

    digests = {
        name: "sha256:" + sha256((folder / "manifest.json").read_bytes())
        for name, folder in folders.items()
        if (folder / "manifest.json").is_file()
    }
    if "report" in digests:
        step, key, _ = load_manifest(folders["report"], Report).page.path.split("/")
        entry = Store(store).entry(step, key)
        assert entry is not None, "the report's page is of no work"
        digests["priors"] = f"sha256:{entry.reads['priors']}"
    return {
        name: Output(digest=digests[name], store=store) for name in ("priors", "model", "report") if name in digests
    }


def _show(outputs: Mapping[str, Output], folders: Mapping[str, Path], out: Path) -> None:
    """Print where the results are and what to do next; copy the report's page into the run's folder."""
    from components.core.artifacts import Report, load_manifest

    for name, output in outputs.items():
        typer.echo(f"{name:<8}{output.digest}")
    typer.echo(f"{'store':<8}{next(iter(outputs.values())).store}\n")
    folder = shlex.quote(str(out))
    if "report" in outputs:
        page = out / "report.html"
        page.write_bytes(Store(outputs["report"].store).read(load_manifest(folders["report"], Report).page))
        typer.echo(f"{folders['summary'].read_text()}\nreport  {page.absolute()}")
        typer.echo(f"next    motion-enhancer export {folder} model model")
    else:
        typer.echo(f"next    motion-enhancer export {folder} priors priors")
        priors = f"--priors {outputs['priors'].digest}"
        typer.echo(f"        motion-enhancer run fine_tune --out {folder} {priors} --benchmark motionbench=DIR")


@pipeline_options
def plan(
    given: PipelineOptions,
    name: Annotated[str, typer.Argument(metavar="[PIPELINE]")] = "motion_enhancer",
    out: Out = Path("runs/local"),
) -> None:
    """Check what `run` with these options is given, and print what it will compute and cost. Computes none of it."""
    from components.plan.step import STEP, forecast

    known = pipeline_defaults(pipeline(name))
    values = {**known, **local_values(known, given, out)[1]}
    wanted = {key: values[key] for key in STEP.form(name).names}
    with tempfile.TemporaryDirectory(prefix="plan-") as folder:
        run_step(replace(STEP, run=forecast), Path(folder), wanted)
        typer.echo((Path(folder) / "plan").read_text().rstrip())


def step(
    name: Annotated[str, typer.Argument(help="a step, e.g. attention_capture")],
    store: Annotated[str, typer.Option(help="file:///folder or minio://bucket/prefix")],
    out: Annotated[Path, typer.Option(help="folder for the outputs")],
    inputs: Annotated[
        list[str] | None, typer.Option("--in", help="INPUT=FOLDER, an artifact's folder; repeat for collected inputs")
    ] = None,
    assignments: Assignments = None,
    params: Annotated[str, typer.Option(help="the step's parameters as JSON; --set params_<step>.FIELD wins")] = "{}",
    rerun: Annotated[
        str, typer.Option(help="anything but 0: check remembered files; force…: compute everything")
    ] = "0",
) -> None:
    """Run one step in this process, with the same contract as its container."""
    found = declared(name)
    if not isinstance(parsed := parse_value(params), dict):
        raise ParameterError(f"no JSON object: {params}", source="--params", remedy='e.g. {"pictures": 0}')
    shared = {key for form in found.forms or [""] for key in found.form(form).shared.model_fields} - {"store"}
    own = f"params_{name}"
    values = parse_assignments(assignments, {**dict.fromkeys(shared), own: {**found.defaults(), **parsed}})
    values["params"] = values.pop(own, parsed)
    request = executor_input(
        found, out, {**values, "store": store, "rerun": rerun}, _input_folders(found, inputs or [])
    )
    start_logging()
    raise typer.Exit(run_task(found, name, json.dumps(request)))


def _input_folders(step: Step[Any], inputs: list[str]) -> dict[str, list[Path]]:
    folders: dict[str, list[Path]] = {}
    for item in inputs:
        key, sign, folder = item.partition("=")
        if not sign or key not in step.inputs:
            remedy = f"NAME=FOLDER with NAME one of {', '.join(step.inputs) or '-'}"
            raise ParameterError(f"no input {item!r}", source="--in", remedy=remedy)
        folders.setdefault(key, []).append(Path(folder))
    return folders


def synthesize(
    folder: Path,
    preset: Annotated[str, typer.Option(help="scenes: captions; bench: six question types")] = "scenes",
    count: int = 8,
    seed: int = 1,
    size: int = 64,
) -> None:
    """Write a synthetic video set with ground-truth masks, in MotionBench's layout."""
    from components.synthetic.scenes import write_set

    write_set(folder, preset=preset, count=count, seed=seed, size=(size, size))
    typer.echo(folder)


def look(
    clip: Annotated[Path, typer.Argument(help="a video file")],
    text: Annotated[str, typer.Argument(help='what happens in it, e.g. "a man raises his arm"')],
    vdm: Annotated[str, typer.Option(help="video model: a registry name or a diffusers folder")] = "scenes-cogvideox",
    output: Annotated[Path, typer.Option("--output", "-o", help="the page")] = Path("look.html"),
    assignments: Assignments = None,
) -> None:
    """Show what a video model attends to in one clip: steps 1 to 4 in this process, and one page."""
    from components.cli.look import look as look_at

    look_at(clip, text, vdm, output=output, settings=split_assignments(assignments))
    typer.echo(output)
