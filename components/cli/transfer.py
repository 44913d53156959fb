"""`motion-enhancer export | import | inspect | models fetch`: prior sets, tuned models and checkpoints on the move."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from typer import Argument, Option, Typer, echo

from components.benchmark_eval.export import FORMATS, exported
from components.cli.run_folder import find_manifest
from components.core.artifacts import EvalResult, PriorSet, parse_manifest
from components.core.errors import ParameterError
from components.models.fetch import fetch as fetch_checkpoint
from components.models.registry import CHECKPOINTS
from components.prior_set.page import card as priors_card
from components.sft.page import card as model_card
from components.store.entries import Store
from components.store.transfer import check_new, export_folder, import_folder, parse_transferable

models = Typer(no_args_is_help=True, help="Checkpoints on this machine.")

_WHAT = "the folder of a run (--out), a manifest's digest (sha256:…) or an artifact's folder"
_NAMES = "of a run's folder, what it made; then an empty folder"
What = Annotated[str, Argument(help=_WHAT)]
StoreUri = Annotated[str, Option(help="file:///folder or minio://bucket/prefix; a run's folder names its own")]


def export(
    what: What,
    names: Annotated[list[str], Argument(metavar="[priors|model] DIR", help=_NAMES)],
    store: StoreUri = "",
    videos: Annotated[bool, Option(help="with the videos; without them, import needs them in its store")] = True,
    form: Annotated[str, Option("--format", metavar="|".join(FORMATS), help="of an evaluation's replies")] = "",
) -> None:
    """Write a prior set or a tuned model with all its files into a folder, or an evaluation for other tools."""
    if len(names) > 2:
        raise ParameterError(f"too many names: {' '.join(names)}", source="export", remedy="WHAT [priors|model] DIR")
    *output, folder = names
    if form and output:
        remedy = "give the evaluation's digest or its artifact's folder"
        raise ParameterError(f"{output[0]} has no format", source="--format", remedy=remedy)
    if form:
        _export_evaluation(what, store, Path(folder), form)
        return
    found = find_manifest(what, store, *output)
    manifest = parse_transferable(found.data, found.source).bind(found.store.part)
    card = priors_card(manifest) if isinstance(manifest, PriorSet) else model_card(manifest)
    export_folder(found.store, manifest, Path(folder), card, videos=videos)
    echo(folder)


def _export_evaluation(what: str, store: str, folder: Path, form: str) -> None:
    """Write an evaluation, by its digest or from an artifact's folder; the store holds its lines."""
    found = find_manifest(what, store)
    files = exported(parse_manifest(found.data, EvalResult, found.source).bind(found.store.part), form)
    check_new(folder)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8", newline="")
        echo(folder / name)


def import_(
    folder: Path,
    store: Annotated[str, Option(help="file:///folder or minio://bucket/prefix")],
    videos: Annotated[bool, Option(help="with the folder's videos; without them, the store must hold them")] = True,
) -> None:
    """Bring an exported prior set or model into a store and print its digest."""
    echo("sha256:" + import_folder(folder, Store(store), videos=videos))


def inspect(
    what: What,
    output: Annotated[str, Argument(metavar="[priors|model|report]", help="of a run's folder, what it made")] = "",
    store: StoreUri = "",
) -> None:
    """Print a manifest as JSON."""
    found = json.loads(find_manifest(what, store, output).data)
    echo(json.dumps(found, indent=2, ensure_ascii=False))


@models.command()
def fetch(
    names: Annotated[list[str] | None, Argument(metavar="[NAME]…", help=", ".join(CHECKPOINTS))] = None,
    folder: Annotated[Path, Option("--models-dir", envvar="MODELS_DIR", help="where steps look for models")] = Path(
        "/models"
    ),
) -> None:
    """Download checkpoints of the registry (all, unless some are named) at their pinned commits.

    What is there already stays. HF_TOKEN opens gated repositories.
    """
    for name in names or list(CHECKPOINTS):
        echo(fetch_checkpoint(name, folder))
