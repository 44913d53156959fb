"""Motion priors from a video diffusion model for a vision-language model: run the pipelines here, or on a Kubeflow cluster."""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from components.cli import cluster as client_commands
from components.cli import images as image_commands
from components.cli import models as model_commands
from components.cli import store as store_commands
from components.core.errors import MotionEnhancerError, ParameterError
from components.core.job import start_logging
from components.kubeflow.arguments import (
    given_arguments,
    parse_assignments,
    parse_value,
    pipeline,
    pipeline_arguments,
    pipeline_defaults,
)
from components.kubeflow.images import LOCK
from components.runtime.declaration import declared
from components.runtime.executor import executor_input
from components.runtime.parameters import Scalars
from components.runtime.runner import run_step, run_task
from components.store.entries import named_manifest

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(image_commands.app, name="images")
client_commands.add_to(app)
app.add_typer(store_commands.app, name="store")
app.add_typer(model_commands.app, name="models")

Assignments = Annotated[
    list[str] | None, typer.Option("--set", help="NAME=VALUE, or params_<step>.FIELD=VALUE; VALUE is JSON or text")
]
Out = Annotated[
    Path,
    typer.Option(help="folder of the run: logs, artifacts, KFP's cache, report, and its store unless one is given"),
]
Arguments = Annotated[
    Path | None, typer.Option("--arguments", "--params", help="JSON file with pipeline arguments, for those not --set")
]
StoreUri = Annotated[str, typer.Option(help="file:///folder or minio://bucket/prefix")]
Image = Annotated[str, typer.Option(help="name@sha256:… that every step runs in; without it, the lock's images")]
Lock = Annotated[Path, typer.Option(help="file with both images, from `images lock`")]
What = Annotated[str, typer.Argument(help="a manifest's digest (sha256:…) or an artifact's folder")]


def say(text: str = "") -> None:
    """Print to the person at the terminal."""
    sys.stdout.write(text + "\n")


@app.command("compile")
def compile_command(
    name: Annotated[str, typer.Argument(metavar="[PIPELINE]")] = "motion_enhancer",
    output: Annotated[Path, typer.Option("--output", "-o", help="YAML to write")] = Path("motion_enhancer.yaml"),
    image: Image = "",
    lock: Lock = LOCK,
    local: Annotated[
        bool, typer.Option("--local", help="name no image but this tree's digest (for local runs)")
    ] = False,
    profile: Annotated[str, typer.Option(help="a100: GPU steps on A100 nodes; cpu: everything on CPU nodes")] = "a100",
    parallelism: Annotated[
        int | None, typer.Option(help="shards or benchmarks at once; KFP's own limit unless given")
    ] = None,
    timeout: Annotated[int, typer.Option(help="seconds that one try of a task may take")] = 12 * 3600,
    deadline: Annotated[int | None, typer.Option(help="seconds that a whole run may take (KFP 2.17 or newer)")] = None,
    retries: Annotated[
        int, typer.Option(help="tries of a task after its first; nodes that can be taken away need more")
    ] = 1,
    node_selector: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE, label of the GPU nodes, in place of A100-SXM4-80GB's")
    ] = None,
    queue: Annotated[str | None, typer.Option(help="Kueue's local queue for the GPU steps")] = None,
    store_secret: Annotated[
        str, typer.Option(help="secret with endpoint, accesskey and secretkey")
    ] = "motion-enhancer-store",
    model_claim: Annotated[
        str, typer.Option(help="volume claim of checkpoints; KFP's cache keys hold it")
    ] = "motion-enhancer-models",
    sft_nodes: Annotated[int, typer.Option(help="nodes that fine-tuning takes; above 1 through Kubeflow Trainer")] = 1,
    scratch_claim: Annotated[
        str, typer.Option(help="volume claim that these nodes share while they train")
    ] = "motion-enhancer-scratch",
) -> None:
    """Compile a pipeline into the YAML that the KFP UI takes."""
    from components.kubeflow.compile import chosen_images, compile_pipeline
    from components.kubeflow.scheduling import Profile, node_labels

    if profile not in ("a100", "cpu"):
        raise ParameterError(f"unknown profile {profile!r}", source="--profile", remedy="a100 or cpu")
    labels = node_labels(profile, node_selector or ())
    chosen = Profile(
        kind=profile,
        parallelism=parallelism,
        timeout=timeout,
        deadline=deadline,
        retries=retries,
        node_selector=labels,
        queue=queue,
        store_secret=store_secret,
        model_claim=model_claim,
        sft_nodes=sft_nodes,
        scratch_claim=scratch_claim,
    )
    compile_pipeline(name, output, chosen_images(image, local, lock), chosen)
    say(str(output))


@app.command()
def run(
    name: Annotated[str, typer.Argument(metavar="PIPELINE")],
    out: Out = Path("runs/local"),
    arguments: Arguments = None,
    assignments: Assignments = None,
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

    out = out.absolute()
    made = compile_pipeline(name, out / f"{name}.yaml", chosen_images(image, engine == "process", lock))
    given = pipeline_arguments(pipeline_defaults(made), arguments, assignments, out)
    start = time.monotonic()
    with open_engine(engine, network) as opened:
        journal = run_compiled(out / f"{name}.yaml", given, out, opened)
    _table(journal.runs, time.monotonic() - start)
    if (failed := journal.failed) is not None:
        say(f"\n{failed.task} ended with code {failed.code}; the end of {failed.log}:\n")
        say("\n".join(failed.log.read_text(errors="replace").splitlines()[-25:]))
        raise typer.Exit(failed.code)
    _show_results(journal.outputs, out, given["store"])


def _table(runs: list[Any], seconds: float) -> None:
    say(f"\n{'task':<22}{'seconds':>9}  code")
    for item in runs:
        say(f"{item.task:<22}{item.seconds:>9.1f}  {item.code}")
    say(f"{'all':<22}{seconds:>9.1f}  ({len(runs)} executed, the others from cache)")


def _show_results(outputs: dict[str, Path], out: Path, store_uri: str) -> None:
    """Say where the pipeline's outputs lie; copy its report into the run's folder and print the evaluation table.

    What came from the cache lies in the folder of the run that made it.
    """
    from components.core.artifacts import Report, load_manifest
    from components.store.entries import Store

    say()
    for name, place in outputs.items():
        if place.is_dir():
            say(f"{name:<8}{place}")
    if "report" in outputs:
        page = load_manifest(outputs["report"], Report).page
        (out / "report.html").write_bytes(Store(store_uri).read(page))
        say("\n" + outputs["summary"].read_text())
        say(f"\n{out / 'report.html'}")


@app.command()
def plan(
    name: Annotated[str, typer.Argument(metavar="[PIPELINE]")] = "motion_enhancer",
    out: Out = Path("runs/local"),
    arguments: Arguments = None,
    assignments: Assignments = None,
) -> None:
    """Check what `run` with the same options would be given, and say what it will compute and cost. Computes none of it."""
    from components.plan.step import STEP, look

    known = pipeline_defaults(pipeline(name))
    values = {**known, **pipeline_arguments(known, arguments, assignments, out.absolute())}
    form = STEP.form(name)
    wanted = {key: values[key] for key in (*form.scalars, *form.step_params)}
    with tempfile.TemporaryDirectory(prefix="plan-") as folder:
        run_step(replace(STEP, run=look), Path(folder), wanted)
        say((Path(folder) / "plan").read_text().rstrip())


@app.command()
def look(
    clip: Annotated[Path, typer.Argument(help="a video file")],
    text: Annotated[str, typer.Argument(help='what happens in it, e.g. "a man raises his arm"')],
    vdm: Annotated[str, typer.Option(help="video model: a registry name or a diffusers folder")] = "scenes-cogvideox",
    output: Annotated[Path, typer.Option("--output", "-o", help="the page")] = Path("look.html"),
    assignments: Assignments = None,
) -> None:
    """Show what a video model attends to in one clip: steps 1 to 4 in this process, one page; frames and size are the model's own."""
    from components.cli.look import look as look_at
    from components.cli.look import model_size, write

    known = pipeline_defaults(pipeline("motion_priors")) | {"vdm": vdm}
    known["params_ddim_inversion"] |= model_size(vdm)
    write(look_at(clip, text, {**known, **given_arguments(known, None, assignments)}), output)
    say(str(output))


@app.command("step", context_settings={"ignore_unknown_options": True})
def step_command(
    name: Annotated[str, typer.Argument(help="a step, e.g. attention_capture")],
    store: StoreUri,
    out: Annotated[Path, typer.Option(help="folder for the outputs")],
    inputs: Annotated[
        list[str] | None, typer.Option("--in", help="INPUT=FOLDER, an artifact's folder; repeat for collected inputs")
    ] = None,
    assignments: Assignments = None,
    params: Annotated[str, typer.Option(help="the step's parameters as JSON")] = "{}",
    rerun: Annotated[
        str, typer.Option(help="anything but 0: check remembered files; force…: compute everything")
    ] = "0",
) -> None:
    """Run one step in this process, with the same contract as its container."""
    found = declared(name, "step")
    scalars = parse_assignments(assignments, Scalars.model_fields)
    if not isinstance(parsed := parse_value(params), dict):
        raise ParameterError(f"no JSON object: {params}", source="--params", remedy='e.g. {"pictures": 0}')
    folders: dict[str, list[Path]] = {}
    for item in inputs or []:
        key, sign, folder = item.partition("=")
        if not sign or key not in found.inputs:
            raise ParameterError(
                f"no input {item!r}",
                source="--in",
                remedy=f"NAME=FOLDER with NAME one of {', '.join(found.inputs) or '-'}",
            )
        folders.setdefault(key, []).append(Path(folder))
    request = executor_input(found, out, {**scalars, "store": store, "params": parsed, "rerun": rerun}, folders)
    start_logging()
    raise typer.Exit(run_task(found, name, json.dumps(request)))


@app.command()
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
    say(str(folder))


@app.command()
def export(
    what: What,
    folder: Annotated[Path, typer.Argument(help="an empty folder")],
    store: StoreUri,
    videos: Annotated[bool, typer.Option(help="with the videos; without them, import needs them in its store")] = True,
) -> None:
    """Write a prior set or a tuned model with all its files into a folder."""
    from components.core.artifacts import PriorSet
    from components.prior_set.page import card as priors_card
    from components.sft.card import card as model_card
    from components.store.entries import Store
    from components.store.transfer import export_folder, parse_transferable

    opened = Store(store)
    manifest = parse_transferable(named_manifest(what, opened)[0], what)
    card = priors_card(manifest) if isinstance(manifest, PriorSet) else model_card(manifest)
    export_folder(opened, manifest, folder, card, videos=videos)
    say(str(folder))


@app.command("import")
def import_command(
    folder: Path,
    store: StoreUri,
    videos: Annotated[
        bool, typer.Option(help="with the folder's videos; without them, the store must hold them")
    ] = True,
) -> None:
    """Bring an exported prior set or model into a store and print its digest."""
    from components.store.entries import Store
    from components.store.transfer import import_folder

    say("sha256:" + import_folder(folder, Store(store), videos=videos))


@app.command()
def inspect(
    what: What,
    store: StoreUri,
) -> None:
    """Print a manifest as JSON."""
    from components.store.entries import Store

    say(json.dumps(json.loads(named_manifest(what, Store(store))[0]), indent=2, ensure_ascii=False))


def main(arguments: list[str] | None = None) -> None:
    """Entry point: expected errors end with their own exit code and no traceback."""
    logging.basicConfig(level="INFO", format="%(levelname)s %(message)s")
    try:
        app(arguments)
    except MotionEnhancerError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
