"""`motion-enhancer store check | gc`: which files of a run are missing and how to get them back; what may go."""

from __future__ import annotations

from itertools import groupby
from typing import Annotated

import typer

from components.core.units import readable_bytes
from components.store.backend import Listed
from components.store.check import Damage, check, load, products
from components.store.entries import Store
from components.store.gc import Collector

app = typer.Typer(no_args_is_help=True, help="Look after a store: find damage, free space.")

StoreUri = Annotated[str, typer.Option("--store", help="file:///folder or minio://bucket/prefix")]


@app.command("check")
def check_command(
    store: StoreUri,
    what: Annotated[
        list[str] | None, typer.Argument(metavar="[WHAT]…", help="manifests (sha256:…) or artifact folders")
    ] = None,
    content: Annotated[bool, typer.Option("--content", help="read every file and compare its sha256")] = False,
) -> None:
    """Find missing or damaged files of a run, and the nonce that computes them again; code 3 if there are any.

    Without WHAT, of every prior set, model and report in the store.
    """
    opened = Store(store)
    manifests = [load(opened, item) for item in what] if what else list(products(opened))
    found = check(opened, manifests, content=content)
    _damages(found.damages)
    seen = f"{len(manifests)} manifests, {found.files} files, {readable_bytes(found.bytes)}"
    how = "sha256 compared" if content else "sizes compared"
    typer.echo(f"{seen}, {how}: {len(found.damages)} missing or damaged")
    if found.emptied:
        typer.echo(
            f"{found.emptied} trajectories are gone from scratch, as they may be: what needs one computes it again"
        )
    raise typer.Exit(3 if found.damages else 0)


def _damages(damages: list[Damage]) -> None:
    width = max([len(item.path) for item in damages], default=0)
    for task, group in groupby(damages, key=lambda item: item.task):
        listed = list(group)
        remedy = f"set rerun_{task} to a new value (it computes what is damaged or missing, nothing else)"
        typer.echo(f"made by {task}: {remedy}")
        for item in listed:
            more = f" and {len(item.units) - 1} more" if len(item.units) > 1 else ""
            typer.echo(f"  {item.path:<{width}}  {item.problem:<13}  {item.units[0]}{more}")
        typer.echo()


@app.command()
def gc(
    store: StoreUri,
    older_than: Annotated[
        float, typer.Option("--older-than", min=0, metavar="DAYS", help="days after its last write that anything stays")
    ] = 30,
    drop: Annotated[
        list[str] | None, typer.Option(help="sha256:… of a prior set, model or report to give up; repeatable")
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="do it; without, only print what would go")] = False,
) -> None:
    """Delete what no prior set, model or report leads to and nobody wrote for --older-than days."""
    collector = Collector(Store(store), older_than, frozenset(item.removeprefix("sha256:") for item in drop or []))
    plan = collector.plan()
    gone = collector.delete() if delete else plan.all()
    _table(gone)
    typer.echo(f"kept: {plan.kept_files} files, {readable_bytes(plan.kept_bytes)}")
    if plan.others:
        typer.echo(f"left alone: {plan.others} files that are not this store's")
    if gone and not delete:
        typer.echo("nothing is deleted yet: --delete does it")


def _table(gone: list[Listed]) -> None:
    if not gone:
        typer.echo("nothing to delete")
        return
    groups: dict[str, list[int]] = {}
    for item in gone:
        groups.setdefault(item.path.split("/")[0], []).append(item.size)
    groups = {**dict(sorted(groups.items())), "all": [item.size for item in gone]}
    typer.echo(f"{'':<28}{'files':>9}{'size':>12}")
    for name, sizes in groups.items():
        typer.echo(f"{name:<28}{len(sizes):>9}{readable_bytes(sum(sizes)):>12}")
