"""`motion-enhancer store check | gc`: what of a run is missing and how to get it back, and what a store may forget."""

from __future__ import annotations

import sys
from itertools import groupby
from typing import Annotated

import typer

from components.core.units import readable_bytes
from components.store.check import Damage, check, load, products
from components.store.entries import Store
from components.store.gc import Collector, Plan, Policy, Victim

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
    how = "sha256 compared" if content else "sizes compared"
    _say(
        f"{len(manifests)} manifests, {found.files} files, {readable_bytes(found.bytes)}, {how}: {len(found.damages)} missing or damaged"
    )
    if found.emptied:
        _say(
            f"{found.emptied} trajectories are gone from scratch, as they may be: what still needs one computes it again"
        )
    raise typer.Exit(3 if found.damages else 0)


def _damages(damages: list[Damage]) -> None:
    width = max([len(item.path) for item in damages], default=0)
    for task, group in groupby(damages, key=lambda item: item.task):
        listed = list(group)
        _say(f"made by {task}: set rerun_{task} to a new value (it computes what is damaged or missing, nothing else)")
        for item in listed:
            more = f" and {len(item.units) - 1} more" if len(item.units) > 1 else ""
            _say(f"  {item.path:<{width}}  {item.problem:<13}  {item.units[0]}{more}")
        _say("")


@app.command()
def gc(
    store: StoreUri,
    delete: Annotated[bool, typer.Option("--delete", help="do it; without, only say what would go")] = False,
    drop: Annotated[
        list[str] | None, typer.Option(help="sha256:… of a prior set, model or report to give up; repeatable")
    ] = None,
    keep_days: Annotated[
        float, typer.Option(min=0, help="days after its last write that any other manifest, or unnamed work, is kept")
    ] = 30,
    scratch: Annotated[bool, typer.Option("--scratch", help="empty scratch (trajectories) and nothing else")] = False,
    min_age_hours: Annotated[float, typer.Option(min=0, help="what was written later than this is never deleted")] = 24,
    listed: Annotated[bool, typer.Option("--list", help="name everything that goes")] = False,
) -> None:
    """Delete what no prior set, model or report names, and no manifest of late.

    Kept: every prior set, model and report with all that they lead to, unless given to --drop.
    """
    policy = Policy(keep_days, min_age_hours, frozenset(item.removeprefix("sha256:") for item in drop or []), scratch)
    collector = Collector(Store(store), policy)
    plan = collector.plan()
    gone = collector.delete() if delete else plan.all()
    if listed:
        for victim in gone:
            _say(victim.name)
    _table(gone)
    _kept(plan, scratch)
    if gone and not delete:
        _say("nothing is deleted yet: --delete does it")


def _table(victims: list[Victim]) -> None:
    if not victims:
        _say("nothing to delete")
        return
    _say(f"{'':<28}{'items':>9}{'files':>9}{'size':>12}")
    for group in sorted({victim.group for victim in victims}):
        _row(group, [victim for victim in victims if victim.group == group])
    _row("all", victims)


def _row(name: str, victims: list[Victim]) -> None:
    files = [item for victim in victims for item in victim.files]
    _say(f"{name:<28}{len(victims):>9}{len(files):>9}{readable_bytes(sum(item.size for item in files)):>12}")


def _kept(plan: Plan, scratch: bool) -> None:
    if not scratch:
        _say(f"kept: {plan.kept_works} works and their files, {readable_bytes(plan.kept_bytes)}")
    if plan.others:
        _say(f"left alone: {plan.others} files that are not this store's")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
