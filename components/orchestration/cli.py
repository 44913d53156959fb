"""The command line `motion-enhancer`: compile, run, step, synthesize, inspect, export, import."""

from __future__ import annotations

import json
import logging
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from components.core.errors import MotionEnhancerError, ParameterError
from components.core.parameters import Scalars
from components.core.step import Step
from components.core.step import main as step_main
from components.core.tree import tree_digest, tree_is_dirty

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
ROOT = Path(__file__).resolve().parents[2]
PIPELINES = ("motion_priors", "fine_tune", "motion_enhancer")

Assignments = Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE, or params_<step>.FIELD=VALUE; VALUE is JSON or text")]


def say(text: str = "") -> None:
    """Print to the person at the terminal."""
    sys.stdout.write(text + "\n")


def pipeline(name: str) -> Any:
    """One of the three pipelines by name."""
    if name not in PIPELINES:
        raise ParameterError(f"unknown pipeline {name!r}", source="command line", remedy=f"use one of {', '.join(PIPELINES)}")
    return getattr(import_module("pipeline"), name)


def parse_value(text: str) -> Any:
    """JSON if it reads as JSON, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def parse_assignments(assignments: list[str] | None, known: dict[str, Any]) -> dict[str, Any]:
    """Pipeline arguments from NAME=VALUE; `params_<step>.FIELD` changes one field and keeps the step's other defaults.

    Raises:
        ParameterError: no `=`, or a name that the pipeline does not have.
    """
    arguments: dict[str, Any] = {}
    for item in assignments or []:
        name, sign, text = item.partition("=")
        name, _, field = name.partition(".")
        if not sign or name not in known:
            raise ParameterError(f"cannot set {item!r}", source="--set", remedy=f"NAME=VALUE with NAME one of {', '.join(sorted(known))}")
        if field:
            arguments.setdefault(name, dict(known[name]))[field] = parse_value(text)
        else:
            arguments[name] = parse_value(text)
    return arguments


def pipeline_defaults(made: Any) -> dict[str, Any]:
    """Parameters of a pipeline with their defaults."""
    return {name: spec.default for name, spec in made.component_spec.inputs.items()}


def _compile(name: str, target: Path, image: str) -> Any:
    from kfp import compiler

    from components.orchestration import component

    component.use_image(image)
    made = pipeline(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(made, str(target))
    return made


@app.command("compile")
def compile_command(
    name: Annotated[str, typer.Argument(metavar="[PIPELINE]")] = "motion_enhancer",
    output: Annotated[Path, typer.Option("--output", "-o", help="YAML to write")] = Path("motion_enhancer.yaml"),
    image: Annotated[str, typer.Option(help="name@sha256:… that the steps run in")] = "",
    local: Annotated[bool, typer.Option("--local", help="name no image but this tree's digest (for local runs)")] = False,
    profile: Annotated[str, typer.Option(help="a100: GPU steps on A100 nodes; cpu: everything on CPU nodes")] = "a100",
) -> None:
    """Compile a pipeline into the YAML that the KFP UI takes."""
    from components.orchestration.local import local_image
    from components.orchestration.scheduling import PROFILE, Profile

    if not image and not local:
        raise ParameterError("no image", source="compile", remedy="give --image name@sha256:…, or --local for a local run")
    if profile not in ("a100", "cpu"):
        raise ParameterError(f"unknown profile {profile!r}", source="--profile", remedy="a100 or cpu")
    PROFILE.set(Profile(gpu=profile == "a100"))
    _compile(name, output, image or local_image())
    say(str(output))


@app.command()
def run(
    name: Annotated[str, typer.Argument(metavar="PIPELINE")],
    out: Annotated[Path, typer.Option(help="folder of the run: logs, artifacts, KFP's cache, report")] = Path("runs/local"),
    arguments: Annotated[Path | None, typer.Option(help="JSON file with pipeline arguments")] = None,
    assignments: Assignments = None,
    engine: Annotated[str, typer.Option(help="process: no services; docker: a real Docker engine")] = "process",
) -> None:
    """Run a pipeline on this machine under KFP's local orchestrator."""
    from components.orchestration.local import local_image, run_compiled

    out = out.absolute()
    made = _compile(name, out / f"{name}.yaml", local_image())
    known = pipeline_defaults(made)
    given = parse_assignments([f"{key}={json.dumps(value)}" for key, value in _read_arguments(arguments).items()], known)
    for key, value in parse_assignments(assignments, {**known, **given}).items():
        given[key] = value
    given["store"] = run_store(given.get("store", (out / "store").as_uri()))
    start = time.monotonic()
    journal = run_compiled(out / f"{name}.yaml", given, out, engine)
    _table(journal.runs, time.monotonic() - start)
    if (failed := journal.failed) is not None:
        say(f"\n{failed.task} ended with code {failed.code}; the end of {failed.log}:\n")
        say("\n".join(failed.log.read_text(errors="replace").splitlines()[-25:]))
        raise typer.Exit(failed.code)
    _show_results(out, given["store"])


def _read_arguments(file: Path | None) -> dict[str, Any]:
    """Pipeline arguments of a JSON file, `params_<step>` as partial dicts written `params_<step>.FIELD`."""
    return json.loads(file.read_text()) if file else {}


def run_store(uri: str) -> str:
    """The store of this tree: uncommitted code works under a prefix of its own, so nothing stale is met and nothing mixes."""
    return f"{uri}/dev-{tree_digest(ROOT)[:16]}" if tree_is_dirty(ROOT) else uri


def _table(runs: list[Any], seconds: float) -> None:
    say(f"\n{'task':<22}{'seconds':>9}  code")
    for item in runs:
        say(f"{item.task:<22}{item.seconds:>9.1f}  {item.code}")
    say(f"{'all':<22}{seconds:>9.1f}  ({len(runs)} executed, the others from cache)")


def _show_results(out: Path, store_uri: str) -> None:
    """Copy the newest report page out of the run's artifacts and print the evaluation table."""
    from components.core.artifacts import Report, load_manifest
    from components.core.store import Store

    found = sorted(out.glob("artifacts/*/report/report/manifest.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        return
    report = load_manifest(found[-1].parent, Report)
    (out / "report.html").write_bytes(Store(store_uri).read(report.page))
    summary = found[-1].parents[1] / "summary"
    if summary.is_file():
        say("\n" + summary.read_text())
    say(f"\n{out / 'report.html'}")


@app.command("step", context_settings={"ignore_unknown_options": True})
def step_command(
    name: Annotated[str, typer.Argument(help="a step, e.g. attention_capture")],
    store: Annotated[str, typer.Option(help="file:///folder or minio://bucket/prefix")],
    out: Annotated[Path, typer.Option(help="folder for the outputs")],
    inputs: Annotated[
        list[str] | None, typer.Option("--in", help="INPUT=FOLDER, an artifact's folder; repeat for collected inputs")
    ] = None,
    assignments: Assignments = None,
    params: Annotated[str, typer.Option(help="the step's parameters as JSON")] = "{}",
    rerun: Annotated[str, typer.Option(help="anything but 0: check remembered files; force…: compute everything")] = "0",
) -> None:
    """Run one step in this process, with the same contract as its container."""
    found: Step[Any] = import_module(f"components.{name}.step").STEP
    scalars = parse_assignments(assignments, Scalars.model_fields)
    request = executor_input(found, out, {**scalars, "store": store, "params": json.loads(params), "rerun": rerun}, inputs or [])
    raise typer.Exit(step_main(found, [name, json.dumps(request)]))


def executor_input(step: Step[Any], out: Path, values: dict[str, Any], inputs: list[str]) -> dict[str, Any]:
    """KFP's executor input for a step whose outputs go to `out`."""
    artifacts: dict[str, Any] = {}
    for item in inputs:
        name, _, folder = item.partition("=")
        artifacts.setdefault(name, {"artifacts": []})["artifacts"].append({"uri": str(Path(folder).absolute())})
    out = out.absolute()
    return {
        "inputs": {"parameterValues": values, "artifacts": artifacts},
        "outputs": {
            "artifacts": {name: {"artifacts": [{"name": name, "uri": str(out / name)}]} for name in (*step.outputs, *step.pages)},
            "parameters": {name: {"outputFile": str(out / name)} for name in step.values},
            "outputFile": str(out / "executor_output.json"),
        },
    }


@app.command()
def synthesize(
    folder: Path,
    preset: Annotated[str, typer.Option(help="scenes: captions; bench: six question types")] = "scenes",
    count: int = 8,
    seed: int = 1,
    size: int = 64,
) -> None:
    """Write a synthetic video set with ground-truth masks, in MotionBench's layout."""
    from components.media.scenes import write_set

    write_set(folder, preset=preset, count=count, seed=seed, size=(size, size))
    say(str(folder))


@app.command()
def export(
    what: Annotated[str, typer.Argument(help="a manifest's digest (sha256:…) or an artifact's folder")],
    folder: Annotated[Path, typer.Argument(help="an empty folder")],
    store: Annotated[str, typer.Option(help="file:///folder or minio://bucket/prefix")],
    videos: Annotated[bool, typer.Option(help="with the videos")] = True,
) -> None:
    """Write a prior set or a tuned model with all its files into a folder."""
    from components.core.artifacts import PriorSet, TunedModel, parse_manifest
    from components.core.store import Store
    from components.prior_set.transfer import export_model, export_priors

    opened = Store(store)
    data = _manifest_data(what, opened)
    if json.loads(data).get("kind") == "TunedModel":
        export_model(opened, parse_manifest(data, TunedModel, what), folder)
    else:
        export_priors(opened, parse_manifest(data, PriorSet, what), folder, videos=videos)
    say(str(folder))


def _manifest_data(what: str, store: Any) -> bytes:
    file = Path(what) / "manifest.json"
    data: bytes | None = file.read_bytes() if file.is_file() else store.backend.get(f"manifests/{what.removeprefix('sha256:')}.json")
    if data is None:
        raise ParameterError(
            f"no manifest {what!r}", source="command line", remedy="give sha256:… of a manifest in the store, or an artifact folder"
        )
    return data


@app.command("import")
def import_command(
    folder: Path,
    store: Annotated[str, typer.Option(help="file:///folder or minio://bucket/prefix")],
    videos: Annotated[bool, typer.Option(help="with the videos")] = True,
) -> None:
    """Bring an exported prior set into a store and print its digest."""
    from components.core.store import Store
    from components.prior_set.transfer import import_priors

    say("sha256:" + import_priors(folder, Store(store), videos=videos))


@app.command()
def inspect(
    what: Annotated[str, typer.Argument(help="a manifest's digest (sha256:…) or an artifact's folder")],
    store: Annotated[str, typer.Option(help="file:///folder or minio://bucket/prefix")],
) -> None:
    """Print a manifest as JSON."""
    from components.core.store import Store

    say(json.dumps(json.loads(_manifest_data(what, Store(store))), indent=2, ensure_ascii=False))


def main() -> None:
    """Entry point: expected errors end with their own exit code and no traceback."""
    logging.basicConfig(level="INFO", format="%(levelname)s %(message)s")
    try:
        app()
    except MotionEnhancerError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
