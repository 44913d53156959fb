"""`motion-enhancer run | plan | synthesize | look`: what computes on this machine."""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option, echo

from components.cli.look import look as look_at
from components.cli.options import Assignments, Image, Lock, PipelineOptions, pipeline_options
from components.cli.run_folder import Output, write_record
from components.core.artifacts import Report, load_manifest
from components.core.records import sha256
from components.kubeflow.arguments import (
    PIPELINES,
    pipeline,
    pipeline_defaults,
    split_assignments,
)
from components.kubeflow.images import LOCK
from components.kubeflow.tree import ROOT, own_part, tree_is_dirty
from components.plan.step import STEP, forecast
from components.runtime.runner import run_step
from components.store.entries import Store

_OUT = "folder of the run: logs, artifacts, KFP's cache, report, run.json, and its store unless one is given"
_ENGINE = "process: no services; docker: each task in its image, in the engine of DOCKER_HOST"
_COMPILED = (
    "a pipeline that `compile` wrote: its time limits and pods count, and exit code 2 where the run does not fit"
)
Out = Annotated[Path, Option(help=_OUT)]


@pipeline_options
def run(
    name: Annotated[str, Argument(metavar="PIPELINE", help=", ".join(PIPELINES))],
    given: PipelineOptions,
    out: Out = Path("runs/local"),
    engine: Annotated[str, Option(help=_ENGINE)] = "process",
    image: Image = "",
    lock: Lock = LOCK,
    network: Annotated[str, Option(help="network of the containers")] = "host",
) -> None:
    """Run a pipeline on this machine under KFP's local orchestrator."""
    from components.kubeflow.compile import chosen_images, compile_pipeline
    from components.kubeflow.local import open_engine, run_compiled

    if tree_is_dirty(ROOT):
        part = own_part("store").partition("/")[2]
        echo(f"Uncommitted changes in the code: results are kept under {part} of the store, apart from all others.")
    file = out.absolute() / f"{name}.yaml"
    made = compile_pipeline(name, file, chosen_images(image, engine == "process", lock))
    store, values = given.local_values(pipeline_defaults(made), out)
    write_record(out, store, {})
    start = time.monotonic()
    with open_engine(engine, network) as opened:
        journal = run_compiled(file, values, out.absolute(), opened)
    echo(f"\n{'task':<22}{'seconds':>9}  code")
    for item in journal.runs:
        echo(f"{item.task:<22}{item.seconds:>9.1f}  {item.code}")
    seconds = time.monotonic() - start
    echo(f"{'all':<22}{seconds:>9.1f}  ({len(journal.runs)} executed, the others from cache)\n")
    if (failed := journal.failed) is not None:
        echo(f"\n{failed.task} ended with code {failed.code}; the end of {failed.log}:\n")
        echo("\n".join(failed.log.read_text(errors="replace").splitlines()[-25:]))
        raise Exit(failed.code)
    _finish(journal.outputs, store, values["store"], out)


def _finish(folders: Mapping[str, Path], store: str, own_store: str, out: Path) -> None:
    """Record what the run made, copy the report's page into its folder, print where all is and what to do next."""
    names = [name for name in ("priors", "model", "report") if name in folders]
    digests = {name: sha256((folders[name] / "manifest.json").read_bytes()) for name in names}
    folder, opened = shlex.quote(str(out)), Store(own_store)
    if "report" in digests:
        page = load_manifest(folders["report"], Report).page
        step, key, _ = page.path.split("/")
        entry = opened.entry(step, key)
        assert entry is not None, "the report's page is of no work"
        if "model" in digests:  # the pipeline does not end with its prior set
            digests = {"priors": entry.reads["priors"], **digests}
    outputs = {name: Output(digest=f"sha256:{digest}", store=own_store) for name, digest in digests.items()}
    write_record(out, store, outputs)
    for name, output in outputs.items():
        echo(f"{name:<8}{output.digest}")
    echo(f"{'store':<8}{own_store}\n")
    if "report" in digests:
        (target := out / "report.html").write_bytes(opened.read(page))
        echo(f"{folders['summary'].read_text()}\nreport  {target.absolute()}")
        if "model" in digests:
            echo(f"next    motion-enhancer export {folder} model model")
    else:
        priors = f"--priors {outputs['priors'].digest}"
        echo(f"next    motion-enhancer export {folder} priors priors")
        echo(f"        motion-enhancer run fine_tune --out {folder} {priors} --benchmark motionbench=DIR")


@pipeline_options
def plan(
    given: PipelineOptions,
    name: Annotated[str, Argument(metavar="[PIPELINE]")] = "motion_enhancer",
    out: Out = Path("runs/local"),
    compiled: Annotated[Path | None, Option(help=_COMPILED)] = None,
) -> None:
    """Check what `run` with these options is given, and print what it will compute and cost. Computes none of it."""
    from components.kubeflow.compile import compiled_limits

    known = pipeline_defaults(pipeline(name))
    values = {**known, **given.local_values(known, out)[1]}
    chosen = partial(forecast, limits=None if compiled is None else compiled_limits(compiled))
    with tempfile.TemporaryDirectory(prefix="plan-") as folder:
        page = Path(folder) / "plan"
        try:
            run_step(replace(STEP, run=chosen), Path(folder), {key: values[key] for key in STEP.form(name).names})
        finally:
            if page.exists():  # also where the run does not fit
                echo(page.read_text().rstrip())


def synthesize(
    folder: Path,
    preset: Annotated[str, Option(help="scenes: captions; bench: six question types")] = "scenes",
    count: int = 8,
    seed: int = 1,
    size: int = 64,
) -> None:
    """Write a synthetic video set with ground-truth masks, in MotionBench's layout."""
    from components.synthetic.scenes import write_set

    write_set(folder, preset=preset, count=count, seed=seed, size=(size, size))
    echo(folder)


def look(
    clip: Annotated[Path, Argument(help="a video file")],
    text: Annotated[str, Argument(help='what happens in it, e.g. "a man raises his arm"')],
    vdm: Annotated[str, Option(help="video model: a registry name or a diffusers folder")] = "scenes-cogvideox",
    output: Annotated[Path, Option("--output", "-o", help="the page")] = Path("look.html"),
    assignments: Assignments = None,
) -> None:
    """Show what a video model attends to in one clip: steps 1 to 4 in this process, and one page."""
    look_at(clip, text, vdm, output=output, settings=split_assignments(assignments))
    echo(output)
