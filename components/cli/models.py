"""`motion-enhancer models fetch`: published checkpoints, at their pinned commits, into the models' folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from components.models.registry import CHECKPOINTS

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Checkpoints on this machine."""


@app.command()
def fetch(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]…", help=", ".join(CHECKPOINTS))] = None,
    folder: Annotated[
        Path, typer.Option("--models-dir", envvar="MODELS_DIR", help="where steps look for models")
    ] = Path("/models"),
) -> None:
    """Download checkpoints of the registry (all, unless some are named) at their pinned commits.

    What is there already stays. HF_TOKEN opens gated repositories.
    """
    from components.models.fetch import fetch as fetch_one

    for name in names or list(CHECKPOINTS):
        typer.echo(fetch_one(name, folder))
