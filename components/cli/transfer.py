"""`motion-enhancer export | import | inspect`: prior sets and models between stores and folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from components.cli.run_folder import find_manifest
from components.core.artifacts import PriorSet
from components.core.errors import ParameterError
from components.store.entries import Store
from components.store.transfer import export_folder, import_folder, parse_transferable

What = Annotated[
    str, typer.Argument(help="the folder of a run (--out), a manifest's digest (sha256:…) or an artifact's folder")
]
StoreUri = Annotated[str, typer.Option(help="file:///folder or minio://bucket/prefix; a run's folder names its own")]


def export(
    what: What,
    names: Annotated[
        list[str],
        typer.Argument(metavar="[priors|model] DIR", help="of a run's folder, what it made; then an empty folder"),
    ],
    store: StoreUri = "",
    videos: Annotated[bool, typer.Option(help="with the videos; without them, import needs them in its store")] = True,
) -> None:
    """Write a prior set or a tuned model with all its files into a folder."""
    from components.prior_set.page import card as priors_card
    from components.sft.page import card as model_card

    if len(names) > 2:
        raise ParameterError(f"too many names: {' '.join(names)}", source="export", remedy="WHAT [priors|model] DIR")
    *output, folder = names
    found = find_manifest(what, store, *output)
    manifest = parse_transferable(found.data, found.source)
    card = priors_card(manifest) if isinstance(manifest, PriorSet) else model_card(manifest)
    export_folder(found.store, manifest, Path(folder), card, videos=videos)
    typer.echo(folder)


def import_(
    folder: Path,
    store: Annotated[str, typer.Option(help="file:///folder or minio://bucket/prefix")],
    videos: Annotated[
        bool, typer.Option(help="with the folder's videos; without them, the store must hold them")
    ] = True,
) -> None:
    """Bring an exported prior set or model into a store and print its digest."""
    typer.echo("sha256:" + import_folder(folder, Store(store), videos=videos))


def inspect(
    what: What,
    output: Annotated[
        str, typer.Argument(metavar="[priors|model|report]", help="of a run's folder, what it made")
    ] = "",
    store: StoreUri = "",
) -> None:
    """Print a manifest as JSON."""
    found = json.loads(find_manifest(what, store, output).data)
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
