"""`motion-enhancer submit | rerun | status | fetch | cluster-smoke`: pipelines on a cluster, through KFP's API."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.cli.options import Assignments, Image, Lock, PipelineOptions, pipeline_options
from components.core.errors import ParameterError
from components.kubeflow.arguments import PIPELINES, nested, parse_value, split_assignments
from components.kubeflow.images import LOCK

if TYPE_CHECKING:
    from components.kubeflow.run_status import RunStatus

Host = Annotated[
    str,
    typer.Option(envvar="KF_PIPELINES_ENDPOINT", help="address of KFP's UI; without it, kfp's own ways to find one"),
]
Namespace = Annotated[str, typer.Option(help="namespace of the pods, and of the runs where namespaces separate users")]
Run = Annotated[str, typer.Argument(metavar="RUN_ID", help="as submit prints it, or from the UI's address")]
Account = Annotated[str, typer.Option(help="of the pods; KFP's own unless given")]
Every = Annotated[float, typer.Option(min=1, help="seconds between requests of --watch")]
Watch = Annotated[bool, typer.Option("--watch", help="wait for the end, with progress")]


@contextmanager
def package(name: str, image: str, lock: Path, profile: str) -> Iterator[Path]:
    """Yield the compiled pipeline: a file that `compile` wrote, or one of the pipelines, compiled now."""
    if name not in PIPELINES and name.endswith((".yaml", ".yml")):
        if image or lock != LOCK:
            remedy = "leave them out, or give a pipeline"
            raise ParameterError(f"{name} names its images already", source="--image, --lock", remedy=remedy)
        yield Path(name)
        return
    from components.kubeflow.compile import chosen_images, compile_pipeline
    from components.kubeflow.scheduling import Profile

    if profile not in ("a100", "cpu"):
        raise ParameterError(f"unknown profile {profile!r}", source="--profile", remedy="a100 or cpu")
    with tempfile.TemporaryDirectory(prefix="submit-") as folder:
        target = Path(folder) / f"{name}.yaml"
        compile_pipeline(name, target, chosen_images(image, False, lock), Profile(kind=profile))
        yield target


@pipeline_options
def submit(
    given: PipelineOptions,
    name: Annotated[
        str, typer.Argument(metavar="[PIPELINE]", help="a pipeline, or a YAML that compile wrote")
    ] = "motion_enhancer",
    host: Host = "",
    namespace: Namespace = "kubeflow",
    experiment: Annotated[str, typer.Option(help="made if there is none of this name")] = "motion-enhancer",
    image: Image = "",
    lock: Lock = LOCK,
    profile: Annotated[str, typer.Option(help="a100 or cpu; for the other options of compile, compile first")] = "a100",
    service_account: Account = "",
    check: Annotated[
        bool, typer.Option("--check", help="look whether the cluster has what the pipeline asks for; submit nothing")
    ] = False,
    watch: Watch = False,
    every: Every = 15,
) -> None:
    """Submit a pipeline to a cluster and print the run's id and address. What has not changed is not executed."""
    from components.kubeflow import client

    with package(name, image, lock, profile) as file:
        documents = client.read_package(file)
        known = client.defaults(documents[0])
        values = {**known, **given.values(known)}
        if check:
            _check(documents, host, namespace, str(values["store"]))
            return
        _record_fits(documents, values)
        kubeflow = client.connect(host, namespace)
        run_id = client.submit(kubeflow, file, values, experiment, account=service_account)
    _started(kubeflow, run_id, watch, every)


def rerun(
    run_id: Run,
    task: Annotated[
        list[str], typer.Option("--task", help="task that is executed again, with what follows; repeatable")
    ],
    host: Host = "",
    namespace: Namespace = "kubeflow",
    assignments: Assignments = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="compute everything of these tasks; without it, remembered files are checked"),
    ] = False,
    watch: Watch = False,
    every: Every = 15,
) -> None:
    """Make the run again, same pipeline and parameters, with a new nonce for each --task."""
    from components.kubeflow import client

    kubeflow = client.connect(host, namespace)
    made, nonces = client.rerun(kubeflow, run_id, task, assignments, force)
    typer.echo(" ".join(f"{name}={value}" for name, value in nonces.items()))
    _started(kubeflow, made, watch, every)


def status(
    run_id: Run, host: Host = "", namespace: Namespace = "kubeflow", watch: Watch = False, every: Every = 15
) -> None:
    """Print a run's tasks: state, iterations done, cache hits, time. A failed run says why and ends with code 1."""
    from components.kubeflow import client, run_status

    kubeflow = client.connect(host, namespace)
    found = run_status.watch(kubeflow, run_id, every) if watch else run_status.run_status(kubeflow, run_id)
    _end(kubeflow, found)


def fetch(
    run_id: Run,
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for report.html and manifests.json")],
    host: Host = "",
    namespace: Namespace = "kubeflow",
    report: Annotated[str, typer.Option(help="sha256:… of the page, where several fit the run's parameters")] = "",
) -> None:
    """Bring a finished run's report or comparison here, with the digests of the manifests it was made of."""
    from components.kubeflow import client, run_report

    for file in run_report.fetch(client.connect(host, namespace), run_id, output, report):
        typer.echo(str(file))


def cluster_smoke(
    store: Annotated[str, typer.Option(help="minio://bucket/prefix; the runs get a new folder below it")],
    source: Annotated[str, typer.Option(help="minio:// address of `synthesize --preset scenes`")],
    benchmark: Annotated[
        list[str], typer.Option(metavar="PROTOCOL=DIR", help="e.g. motionbench=minio://…; repeatable, or a JSON list")
    ],
    host: Host = "",
    namespace: Namespace = "kubeflow",
    image: Image = "",
    lock: Lock = LOCK,
    service_account: Account = "",
    disturb: Annotated[
        bool, typer.Option("--disturb", help="delete a pod of the first run; the kubeconfig must allow it")
    ] = False,
    task: Annotated[str, typer.Option(help="the task that is run again")] = "sft",
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for the report")] = Path("runs/cluster-smoke"),
    assignments: Assignments = None,
    every: Every = 15,
    limit: Annotated[float, typer.Option(min=1, help="seconds that one run may take")] = 7200,
) -> None:
    """Check a cluster: run the smoke's pipeline, the same again, and with one task rerun; print what held.

    Takes about three times as long as one run and ends with code 1 if anything did not hold. The store's endpoint and
    keys are taken from the environment, the endpoint as this machine reaches it.
    """
    from components.kubeflow import acceptance, client, cluster_check

    stamp = f"cluster-smoke-{datetime.now(timezone.utc):%Y%m%d-%H%M%S}"
    parsed = [value if isinstance(value := parse_value(item), list) else [item] for item in benchmark]
    places = {"source": source, "benchmarks": [*chain(*parsed)], "store": f"{store.rstrip('/')}/{stamp}"}
    smoke_arguments = json.loads(Path(__file__).with_name("smoke.json").read_text())
    given = places | smoke_arguments | split_assignments(assignments)
    with package("motion_enhancer", image, lock, "cpu") as file:
        known = client.defaults(client.read_package(file)[0])
        values = {**known, **nested(given, known, "--set")}
        disturbance = None
        if disturb:
            if (api := cluster_check.core_api()) is None:
                raise ParameterError("no cluster to delete a pod in", source="KUBECONFIG", remedy="set it")
            disturbance = acceptance.Disturbance(api, namespace)
        smoke = acceptance.Smoke(file, values, task, service_account, every, limit)
        test = acceptance.Acceptance(client.connect(host, namespace), smoke, output / stamp, disturbance)
        checks = test.run()
    for item in checks:
        first, *more = item.seen.splitlines() or [""]
        typer.echo("\n".join([f"{item.state:<9}{item.what:<56}{first}".rstrip(), *(f"{'':<9}{line}" for line in more)]))
    failed = sum(not item.holds for item in checks)
    typer.echo(f"{failed or 'nothing'} of {len(checks)} did not hold; what the runs wrote: {values['store']}")
    if failed:
        raise typer.Exit(1)


def _started(kubeflow: Any, run_id: str, watch: bool, every: float) -> None:
    from components.kubeflow import run_status

    typer.echo(f"{run_id}\n{kubeflow.page(run_id)}")
    if watch:
        _end(kubeflow, run_status.watch(kubeflow, run_id, every))


def _end(kubeflow: Any, found: RunStatus) -> None:
    """Print the table; a failed run ends with code 1, why it failed, and the address of its logs."""
    from components.kubeflow import run_failure, run_status

    typer.echo("\n".join(run_status.table(found)))
    if found.state == "FAILED":
        typer.echo("\n".join([*run_failure.reasons(kubeflow, found), f"logs: {kubeflow.page(found.run_id)}"]))
        raise typer.Exit(1)


def _record_fits(documents: list[dict[str, Any]], values: dict[str, Any]) -> None:
    """Print how large the run's record becomes and what that forbids; ParameterError where Argo would end the run."""
    from components.kubeflow.run_size import run_size

    found = run_size(documents, values)
    found.check("shards")
    typer.echo(f"The record that Argo keeps of this run: {found}. {found.warning}".rstrip(), err=True)


def _check(documents: list[dict[str, Any]], host: str, namespace: str, store: str) -> None:
    from components.kubeflow import cluster_check

    wanted, api = cluster_check.needs(documents), cluster_check.core_api()
    if api is None and not host:
        remedy = "set one of them, or leave --check out"
        raise ParameterError("no cluster and no KFP to look at", source="KUBECONFIG, --host", remedy=remedy)
    found = [cluster_check.check_kfp(host, namespace, wanted)]
    if api is not None:
        found += cluster_check.check(api, namespace, wanted)
    else:
        remedy = "not looked at: no kubeconfig; set KUBECONFIG"
        found.append(cluster_check.Finding("nodes, secrets and volume claims", namespace, "?", remedy))
    found += cluster_check.check_store(store)
    for item in found:
        typer.echo(f"{item.state:<9}{item.what:<48}{item.name:<60}{item.remedy}".rstrip())
    others = "Parameters, models, memory and costs are checked by `motion-enhancer plan` and by the run's first task."
    typer.echo(others)
    if missing := [item for item in found if item.state == "missing"]:
        remedy = "; ".join(f"{item.name}: {item.remedy}" for item in missing)
        problem = f"{len(missing)} of {len(found)} things are missing in {namespace}"
        raise ParameterError(problem, source="--check", remedy=remedy)


COMMANDS = (submit, rerun, status, fetch, cluster_smoke)
