"""`motion-enhancer submit | rerun | status | logs | fetch`: pipelines on a cluster, through KFP's API."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.cli.options import Assignments, Image, Lock, PipelineOptions, pipeline_options
from components.core.errors import ParameterError
from components.kubeflow.arguments import PIPELINES
from components.kubeflow.images import LOCK

if TYPE_CHECKING:
    from components.kubeflow.client_runs import Look

Host = Annotated[
    str,
    typer.Option(envvar="KF_PIPELINES_ENDPOINT", help="address of KFP's UI; without it, kfp's own ways to find one"),
]
Namespace = Annotated[str, typer.Option(help="namespace of the pods, and of the runs where namespaces separate users")]
Run = Annotated[str, typer.Argument(metavar="RUN_ID", help="as submit prints it, or from the UI's address")]
Every = Annotated[float, typer.Option(min=1, help="seconds between looks of --watch")]
Watch = Annotated[bool, typer.Option("--watch", help="wait for the end, with progress")]


def say(text: str = "") -> None:
    """Print to the person at the terminal."""
    sys.stdout.write(text + "\n")


@contextmanager
def package(name: str, image: str, lock: Path, profile: str) -> Iterator[Path]:
    """The compiled pipeline: a file that `compile` wrote, or one of the three compiled now."""
    if name not in PIPELINES and name.endswith((".yaml", ".yml")):
        if image or lock != LOCK:
            raise ParameterError(
                f"{name} names its images already",
                source="--image, --lock",
                remedy="leave them out, or give a pipeline",
            )
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
    service_account: Annotated[str, typer.Option(help="of the pods; KFP's own unless given")] = "",
    check: Annotated[
        bool, typer.Option("--check", help="look whether the cluster has what the pipeline asks for; submit nothing")
    ] = False,
    watch: Watch = False,
    every: Every = 15,
) -> None:
    """Make a run of a pipeline on a cluster and print its id and address. What only changed since earlier runs is executed."""
    from components.kubeflow import client

    with package(name, image, lock, profile) as file:
        documents = client.read_package(file)
        known = client.defaults(documents[0])
        values = {**known, **given.values(known)}
        if check:
            _check(documents, namespace)
            return
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
    say(" ".join(f"{name}={value}" for name, value in nonces.items()))
    _started(kubeflow, made, watch, every)


def status(
    run_id: Run, host: Host = "", namespace: Namespace = "kubeflow", watch: Watch = False, every: Every = 15
) -> None:
    """Print a run's tasks: state, iterations done, cache hits, time. A failed run ends with the failed step's own exit code."""
    from components.kubeflow import client, client_runs

    kubeflow = client.connect(host, namespace)
    _end(kubeflow, client_runs.watch(kubeflow, run_id, every) if watch else client_runs.look(kubeflow, run_id))


def logs(
    run_id: Run,
    task: Annotated[str, typer.Argument(help="a task as status names it")],
    host: Host = "",
    namespace: Namespace = "kubeflow",
) -> None:
    """Print the logs of a task: from the cluster where a kubeconfig is, else from KFP."""
    from components.kubeflow import client, client_runs

    found = client_runs.task_logs(client.connect(host, namespace), run_id, task)
    for pod, text in found.items():
        if len(found) > 1:
            say(f"—— {pod}")
        say(text.rstrip())


def fetch(
    run_id: Run,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="folder for report.html, summary.md and manifests.json")
    ],
    host: Host = "",
    namespace: Namespace = "kubeflow",
) -> None:
    """Bring the report of a finished run here, with the digests of all manifests for export and inspect."""
    from components.kubeflow import client, client_runs

    for file in client_runs.fetch(client.connect(host, namespace), run_id, output, namespace):
        say(str(file))


def _started(kubeflow: Any, run_id: str, watch: bool, every: float) -> None:
    from components.kubeflow import client_runs

    say(f"{run_id}\n{kubeflow.page(run_id)}")
    if watch:
        _end(kubeflow, client_runs.watch(kubeflow, run_id, every))


def _end(kubeflow: Any, found: Look) -> None:
    """The table; of a failed run also the end of the failed task's log, and its exit code as this command's."""
    from components.kubeflow import client_runs
    from components.kubeflow.client_cluster import MEANINGS

    say("\n".join(client_runs.table(found)))
    if found.state != "FAILED":
        return
    code, text = client_runs.verdict(kubeflow, found)
    task = found.failed[0].task if found.failed else "a task"
    if code is None:
        say(f"\n{task} failed; its exit code is not told. {text or 'See the UI: ' + kubeflow.page(found.run_id)}")
        raise typer.Exit(1)
    say(f"\n{text}\n\n{task} ended with code {code}: {MEANINGS.get(code, 'not a code of these steps')}")
    raise typer.Exit(code or 1)


def _check(documents: list[dict[str, Any]], namespace: str) -> None:
    from components.kubeflow import client_cluster

    if (api := client_cluster.core_api()) is None:
        raise ParameterError("no cluster to look at", source="KUBECONFIG", remedy="set it, or leave --check out")
    found = client_cluster.check(api, namespace, client_cluster.needs(documents))
    for item in found:
        say(f"{item.state:<9}{item.what:<48}{item.name:<60}{item.said}".rstrip())
    say("Parameters, models, memory and costs are `motion-enhancer plan`'s to check, and the run's own first task's.")
    if missing := [item for item in found if item.state == "missing"]:
        remedy = "; ".join(f"{item.name}: {item.said}" for item in missing)
        raise ParameterError(
            f"{len(missing)} of {len(found)} things are missing in {namespace}", source="--check", remedy=remedy
        )


COMMANDS = (submit, rerun, status, logs, fetch)
