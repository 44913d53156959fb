"""The page that a finished run made, its report or its comparison of variants, out of the run's own store.

KFP's API does not name what a run published, and runs share a store: the page is the one that was made with the run's
parameters. A report's provenance has them. A comparison's entry has the variants and what it read, and those manifests'
provenance has the parameters of each variant.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from datetime import datetime, timezone
from itertools import product
from pathlib import Path
from typing import Any

from components.comparison.step import PRIORS, manifest_name
from components.core.artifacts import Report
from components.core.errors import DataError, ParameterError
from components.core.records import Json, StepRecord
from components.kubeflow.client import Kubeflow, get_run, values_of
from components.runtime.variants import baseline_of, changed, parse_variants
from components.store.backend import disk_error
from components.store.check import parse_any, products
from components.store.entries import Entry, Store

PAGES = ("report", "comparison")  # the steps that make one
_READ = ("priors", "model", "untouched", "tuned")  # of a report
_LISTED = 10  # pages that an error names


def fetch(kubeflow: Kubeflow, run_id: str, folder: Path, digest: str = "") -> list[Path]:
    """Bring a finished run's page out of the run's store, with the digests of the manifests it was made of.

    `digest` names the page where several were made with the run's parameters. `folder` gets `report.html` and
    `manifests.json`, both or neither.

    Raises DataError: no such run, it is not over, or the store lacks its page; ParameterError: a pipeline that makes
    none, several pages fit, the store cannot be opened (no keys), or the folder cannot be written; TryAgainError: KFP
    or the store cannot be reached, or the disk is full.
    """
    run = get_run(kubeflow, run_id)
    if run.state != "SUCCEEDED":
        remedy = "wait for its end: motion-enhancer status --watch"
        raise DataError(f"run {run_id} is {run.state}", source=kubeflow.where, remedy=remedy)
    values = values_of(kubeflow, run)
    store = Store(str(values["store"]))
    report = store.manifest(digest, Report) if digest else report_of(store, values)
    digests = {"report": report.digest, **_manifests(_entry(store, report))}
    files = {"report.html": store.read(report.page), "manifests.json": json.dumps(digests, indent=2).encode() + b"\n"}
    _write_all(folder, files)
    return [folder / name for name in files]


def _write_all(folder: Path, files: dict[str, bytes]) -> None:
    """Write all files or none: into a folder beside the one that is wanted, which then takes its place or fills it."""
    folder = folder.absolute()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as temporary:
            whole = Path(temporary) / folder.name
            whole.mkdir()
            for name, data in files.items():
                (whole / name).write_bytes(data)
            if folder.exists():
                for name in files:
                    (whole / name).replace(folder / name)
            else:
                whole.rename(folder)
    except OSError as error:
        raise disk_error(error, folder, "--output", "free space there") from error


# Which page is the run's ----------------------------------------------------------------------------------------------


def report_of(store: Store, values: Mapping[str, Any]) -> Report:
    """Return the store's one page that was made with these parameters of a run; errors as `fetch`."""
    step = next((name for name in PAGES if f"rerun_{name}" in values), "")
    if not step:
        remedy = "give the run of another pipeline, or a page's digest with --report"
        raise ParameterError("this run's pipeline makes no report", source="RUN_ID", remedy=remedy)
    made = [one for one in products(store, [Report.KIND]) if isinstance(one, Report) and _step_of(one) == step]
    found = [one for one in made if _fits(store, one, values)]
    if len(found) == 1:
        return found[0]
    if found:
        problem = f"{len(found)} {step}s fit this run's parameters"
        raise ParameterError(problem, source=store.uri, remedy=f"name one with --report:{_listed(store, found)}")
    remedy = "the store holds none at all: look whether it was emptied, then run again"
    if made:
        remedy = f"if one of these is wanted nevertheless, name it with --report:{_listed(store, made)}"
    raise DataError(f"no {step} with this run's parameters", source=store.uri, remedy=remedy)


def _step_of(report: Report) -> str:
    return report.page.path.partition("/")[0]


def _entry(store: Store, report: Report) -> Entry | None:
    """Return the entry of the work that the page is of; None where it is gone."""
    step, key, _ = report.page.path.split("/")
    return store.entry(step, key)


def _manifests(entry: Entry | None) -> Json:
    """Return the digests of the manifests that a page was made of, by what they are."""
    if entry is None:
        return {}
    if entry.step == "comparison":
        return dict(entry.reads["manifests"])
    return {name: entry.reads.get(name) for name in _READ}


def _fits(store: Store, report: Report, values: Mapping[str, Any]) -> bool:
    """Return whether a page was made with a run's parameters; a comparison also of the run's variants and seeds."""
    if not _has(report.provenance, values):
        return False
    if _step_of(report) != "comparison":
        return True
    entry, changes, wanted = _entry(store, report), _changes_of(values), _read_by(values)
    if entry is None or entry.reads["changes"] != changes:
        return False
    if entry.reads["baseline"] != baseline_of(values["baseline"], list(changes)):
        return False
    manifests = _manifests(entry)
    return manifests.keys() == wanted.keys() and all(
        (data := store.manifest_bytes(digest)) is not None
        and _has(parse_any(data, store.manifest_place(digest), store).provenance, *wanted[name])
        for name, digest in manifests.items()
    )


def _changes_of(values: Mapping[str, Any]) -> dict[str, Json]:
    """Return what each variant of a run changes, by its name."""
    return {one.name: one.changes for one in parse_variants(values["variants"])}


def _read_by(values: Mapping[str, Any]) -> dict[str, tuple[Json, int | None]]:
    """Return what a comparison of this run reads: by each manifest's name its variant's parameters and its seed."""
    found: dict[str, tuple[Json, int | None]] = {}
    protocols = [str(item).partition("=")[0] for item in values["benchmarks"]]
    for name, changes in _changes_of(values).items():
        own = changed(dict(values), changes)
        found[manifest_name(PRIORS, name)] = own, None
        for protocol, seed in product(protocols, [None, *map(int, values["seeds"])]):
            found[manifest_name(protocol, name, seed)] = own, seed
    return found


def _has(provenance: Mapping[str, StepRecord], values: Mapping[str, Any], seed: int | None = None) -> bool:
    """Return whether every parameter in a provenance has the run's value, and every model the run's name.

    `seed` is that of the training, where the run trains with several.
    """
    groups = [value for value in values.values() if isinstance(value, dict)]
    trained = values if seed is None else {**values, "seed": seed}
    return all(
        all((trained if task == "sft" else values).get(name) == value for name, value in record.scalars.items())
        and all(Path(str(values.get(role))).name == model.name for role, model in record.models.items())
        and any(all(group.get(name) == value for name, value in record.params.items()) for group in groups)
        for task, record in provenance.items()
    )


def _listed(store: Store, found: list[Report]) -> str:
    """Return pages as lines, the newest first: digest, when it was written, and of a comparison what it compares."""
    dates = {one.digest: store.backend.modified(f"manifests/{one.digest}.json") or 0.0 for one in found}
    newest = sorted(found, key=lambda one: dates[one.digest], reverse=True)
    lines = [
        f"sha256:{one.digest}  {datetime.fromtimestamp(dates[one.digest], timezone.utc):%Y-%m-%d %H:%M} UTC"
        f"{_compared(_entry(store, one))}"
        for one in newest[:_LISTED]
    ]
    more = [f"and {len(newest) - _LISTED} older ones"] if len(newest) > _LISTED else []
    return "".join(f"\n    {line}" for line in [*lines, *more])


def _compared(entry: Entry | None) -> str:
    if entry is None or entry.step != "comparison":
        return ""
    return f"  {', '.join(entry.reads['changes'])}; against {entry.reads['baseline']}"
