"""`motion-enhancer store check | gc`: which files of a run are missing and how to get them back; what may go."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Annotated

import typer

from components.cli.run_folder import find_manifests
from components.core.artifacts import Manifest
from components.core.errors import ParameterError
from components.core.units import readable_bytes
from components.kubeflow.tree import own_part
from components.store.backend import Listed
from components.store.check import Damage, Findings, check, parse_any, products
from components.store.entries import Store, rerun_remedy
from components.store.gc import Collector

_PARTS = "parts of manifests: set rerun_… of the task that published it to a new value, or import the manifest again"

app = typer.Typer(no_args_is_help=True, help="Look after a store: find damage, free space.")

StoreUri = Annotated[str, typer.Option("--store", help="file:///folder or minio://bucket/prefix")]


@app.command("check")
def check_command(
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="[WHAT]…", help="folders of runs, manifests (sha256:…) or artifact folders"),
    ] = None,
    store: Annotated[
        str, typer.Option(help="file:///folder or minio://bucket/prefix; a run's folder names its own")
    ] = "",
    content: Annotated[bool, typer.Option("--content", help="read every file and compare its sha256")] = False,
) -> None:
    """Find missing or damaged files of a run, and the nonce that computes them again; code 3 if there are any.

    Without WHAT, of every prior set, model and report in the store.
    """
    found = [(opened, check(opened, manifests, content=content)) for opened, manifests in _manifests(what or [], store)]
    for opened, findings in [pair for pair in found if pair[1].manifests] or found[:1]:
        _show(opened, findings, content)
    raise typer.Exit(3 if any(findings.damages for _, findings in found) else 0)


def _manifests(what: list[str], store: str) -> list[tuple[Store, Iterable[Manifest]]]:
    """Return what is checked, by store: uncommitted code keeps its results in a part of the store of its own."""
    if what:
        named = [found for item in what for found in find_manifests(item, store)]
        stores = {found.store.uri: found.store for found in named}
        return [
            (opened, [parse_any(found.data, found.source, opened) for found in named if found.store.uri == uri])
            for uri, opened in stores.items()
        ]
    if not store:
        raise ParameterError("nothing to check", source="store check", remedy="give --store, or the folder of a run")
    return [(opened, products(opened)) for opened in (Store(store), Store(own_part(store)))]


def _show(store: Store, found: Findings, content: bool) -> None:
    _damages(found.damages)
    seen = f"{found.manifests} manifests, {found.files} files, {readable_bytes(found.bytes)}"
    how = "sha256 compared" if content else "sizes compared"
    typer.echo(f"{store.uri}: {seen}, {how}: {len(found.damages)} missing or damaged")
    if found.emptied:
        what = f"{found.emptied} trajectories are gone from scratch"
        typer.echo(f"{what}, as they may be: what needs one computes it again")


def _damages(damages: list[Damage]) -> None:
    width = max([len(item.path) for item in damages], default=0)
    for task, group in groupby(damages, key=lambda item: item.task):
        listed = list(group)
        typer.echo(f"made by {task}: {rerun_remedy(task)}" if task else _PARTS)
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
    gone = collector.delete(plan) if delete else plan.all()
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
