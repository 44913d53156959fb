"""A pipeline on a cluster through kfp's own client: upload it, submit a run, and submit it again with a new nonce.

Addresses and credentials are kfp's: `KF_PIPELINES_ENDPOINT`, `KF_PIPELINES_SA_TOKEN_PATH`, its IAP variables,
`~/.config/kfp/context.json`, a kubeconfig. None of them is printed, stored, or put into an error. Caching is as
compiled: on for every task but `plan`.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import secrets
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import kfp
import urllib3
import yaml
from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials
from kfp_server_api.exceptions import ApiException

from components.core.errors import DataError, MotionEnhancerError, ParameterError, TryAgainError
from components.kubeflow.arguments import PIPELINES, parse_assignments

log = logging.getLogger(__name__)
TOKEN_PATH = "KF_PIPELINES_SA_TOKEN_PATH"
AGAIN = " · again: "
_NONCE = re.compile(r"(\d+)(?:-[0-9a-f]{8})?$")
Spec = dict[str, Any]


class Kubeflow(kfp.Client):  # type: ignore[misc] # kfp ships no types
    """kfp's client that asks for health once, and names a namespace only where namespaces separate users."""

    multi_user = False

    def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:
        """Return the server's health, or raise its error at once."""
        return self._healthz_api.healthz_service_get_healthz()

    def get_user_namespace(self) -> str:
        """Return the namespace of experiments and runs; empty on an installation for one team."""
        return str(super().get_user_namespace()) if self.multi_user else ""

    @property
    def where(self) -> str:
        """The address that is asked."""
        return str(self._existing_config.host)

    def page(self, run_id: str) -> str:
        """Return a run's address in the UI."""
        return f"{os.environ.get('KF_PIPELINES_UI_ENDPOINT', self.where).rstrip('/')}/#/runs/details/{run_id}"


def connect(host: str, namespace: str) -> Kubeflow:
    """Return the client for a host, or without one for what the kubeconfig or the pod's own cluster offers.

    Raises ParameterError: credentials are refused, no KFP answers, or it separates users and no namespace is given;
    TryAgainError: nothing answers.
    """
    credentials = ServiceAccountTokenVolumeCredentials() if os.environ.get(TOKEN_PATH) else None
    where = host or "the cluster of the kubeconfig"
    with kfp_errors(where), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # kfp warns at each start that it wants KFP 2
        kubeflow = Kubeflow(host=host or None, namespace=namespace, credentials=credentials)
        health = kubeflow.get_kfp_healthz()
    if health.multi_user is None:  # KFP always answers this
        remedy = "--host is the KFP UI's address; behind a login page, log in with kfp's own variables or context.json"
        raise ParameterError("what answers is not KFP's API", source=where, remedy=remedy)
    kubeflow.multi_user = bool(health.multi_user)
    if kubeflow.multi_user and not kubeflow.get_user_namespace():
        remedy = "give yours with --namespace"
        raise ParameterError("this KFP separates users by namespace", source=where, remedy=remedy)
    return kubeflow


@contextmanager
def kfp_errors(where: str, missing: str = "nothing there") -> Iterator[None]:
    """Turn errors of kfp's client into ours; `missing` is what a 404 means.

    Raises ParameterError: not allowed, or a request that the server calls wrong; DataError: not found; TryAgainError:
    unreachable, or the server's own fault.
    """
    try:
        yield
    except urllib3.exceptions.HTTPError as error:
        forward = "kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80"
        remedy = f"check --host; e.g. {forward}, then --host http://localhost:8080"
        raise TryAgainError(f"cannot reach KFP ({type(error).__name__})", source=where, remedy=remedy) from error
    except ApiException as error:
        raise _refusal(error, where, missing) from error


def _refusal(error: ApiException, where: str, missing: str) -> MotionEnhancerError:
    status = f"HTTP {error.status} {error.reason or ''}".strip() if error.status else "TLS failed"
    if error.status in (401, 403):
        ways = f"{TOKEN_PATH}, its IAP variables or ~/.config/kfp/context.json"
        remedy = f"log in as kfp.Client does: {ways}; check --namespace"
        return ParameterError(f"KFP refuses these credentials: {status}", source=where, remedy=remedy)
    if error.status == 404:
        return DataError(missing, source=where, remedy="check the run's id, --host and --namespace")
    try:  # KFP's own error; nothing of anybody else's page
        problem = f"{status}: {json.loads(error.body)['message']}"
    except (TypeError, ValueError, KeyError):
        problem = status
    if error.status == 429 or (error.status or 0) >= 500:
        return TryAgainError(f"KFP failed: {problem}", source=where, remedy="run again; see the ml-pipeline pod's log")
    return ParameterError(f"KFP refuses the request: {problem}", source=where, remedy="correct what it names")


def read_package(file: Path) -> list[Spec]:
    """Return a compiled pipeline's documents: its specification, and its platform's; else it is a ParameterError."""
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML was built with it
        documents = [item for item in yaml.load_all(file.read_text(), Loader=loader) if item]
        documents[0]["pipelineInfo"], documents[0]["root"]
    except (OSError, yaml.YAMLError, LookupError, TypeError) as error:
        problem, remedy = f"{file} is no compiled pipeline", "motion-enhancer compile makes one"
        raise ParameterError(problem, source="command line", remedy=remedy) from error
    return documents


def defaults(spec: Spec) -> dict[str, Any]:
    """Return a compiled pipeline's parameters with their defaults."""
    inputs = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    return {
        name: int(item["defaultValue"]) if item["parameterType"] == "NUMBER_INTEGER" else item["defaultValue"]
        for name, item in inputs.items()
    }


class Uploaded(NamedTuple):
    """A version of a pipeline that KFP keeps, and the pipeline's name."""

    name: str
    pipeline_id: str
    version_id: str

    @property
    def source(self) -> dict[str, str]:
        """How kfp's `run_pipeline` names it."""
        return {"pipeline_id": self.pipeline_id, "version_id": self.version_id}


def upload(kubeflow: Kubeflow, package: Path, version: str) -> Uploaded:
    """Upload a compiled pipeline: as a new version of the one of its name, or as the first of a new one.

    Raises ParameterError: several pipelines have this name, or as `kfp_errors`.
    """
    name, namespace = str(read_package(package)[0]["pipelineInfo"]["name"]), kubeflow.get_user_namespace() or None
    wanted = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
    with kfp_errors(kubeflow.where), redirect_stdout(io.StringIO()):
        listed = kubeflow.list_pipelines(filter=json.dumps({"predicates": [wanted]}), namespace=namespace)
        known = [item.pipeline_id for item in listed.pipelines or []]
        if len(known) > 1:
            problem, remedy = f"{len(known)} pipelines are called {name!r}", "delete all but one in KFP's UI"
            raise ParameterError(problem, source=kubeflow.where, remedy=remedy)
        pipeline_id = (
            known[0] if known else kubeflow.upload_pipeline(str(package), name, namespace=namespace).pipeline_id
        )
        made = kubeflow.upload_pipeline_version(str(package), version, pipeline_id=pipeline_id)
    return Uploaded(name, pipeline_id, str(made.pipeline_version_id))


def submit(
    kubeflow: Kubeflow, package: Path | Uploaded, values: dict[str, Any], experiment: str, account: str = ""
) -> str:
    """Make a run of a pipeline and return its id.

    Args:
        kubeflow: from `connect`.
        package: YAML that `compile` wrote, or what `upload` returned.
        values: of every parameter.
        experiment: name of the experiment; made if there is none.
        account: the service account of the pods; KFP's own unless given.

    Raises ParameterError: several experiments have this name, or as `kfp_errors`.
    """
    if isinstance(package, Uploaded):
        name, source = package.name, package.source
    else:
        name, source = read_package(package)[0]["pipelineInfo"]["name"], {"pipeline_package_path": str(package)}
    label = f"{name} {datetime.now().astimezone():%Y-%m-%d %H:%M}"
    with kfp_errors(kubeflow.where), redirect_stdout(io.StringIO()):
        try:
            found = kubeflow.create_experiment(experiment)
        except ValueError as error:  # kfp's error for several of one name
            raise ParameterError(str(error), source="--experiment", remedy="give another name") from error
        fields = {"params": values, "service_account": account or None, **source}
        run = kubeflow.run_pipeline(found.experiment_id, label, **fields)
    return str(run.run_id)


def get_run(kubeflow: Kubeflow, run_id: str) -> Any:
    """Return a run from KFP's API. Raises DataError: there is no such run."""
    with kfp_errors(kubeflow.where, f"no run {run_id}"):
        return kubeflow.get_run(run_id)


def documents_of(kubeflow: Kubeflow, run: Any) -> list[Spec]:
    """Return a run's pipeline as `read_package` does: of the run itself, or of the uploaded version that it names.

    Raises DataError: the run has no pipeline of its own and its version is deleted.
    """
    spec = run.pipeline_spec or _version_spec(kubeflow, *_version_of(run))
    if "pipeline_spec" in spec:
        return [spec["pipeline_spec"], *([spec["platform_spec"]] if spec.get("platform_spec") else [])]
    return [spec]


def _version_of(run: Any) -> tuple[str, str]:
    """Return the ids of the uploaded pipeline and version that a run was made of; empty where it was of none."""
    reference = run.pipeline_version_reference
    ids = (reference.pipeline_id, reference.pipeline_version_id) if reference is not None else (None, None)
    return (str(ids[0]), str(ids[1])) if all(ids) else ("", "")


@cache
def _version_spec(kubeflow: Kubeflow, pipeline_id: str, version_id: str) -> Spec:
    """Return an uploaded version's pipeline, which never changes. A run that was started in the UI has no other."""
    problem, remedy = "KFP no longer has this run's pipeline", "upload it again and make a new run"
    if not version_id:
        raise DataError(problem, source=kubeflow.where, remedy=remedy)
    with kfp_errors(kubeflow.where, problem):
        return dict(kubeflow.get_pipeline_version(pipeline_id, version_id).pipeline_spec or {})


def values_of(kubeflow: Kubeflow, run: Any) -> dict[str, Any]:
    """Return all parameters of a run: its own and its pipeline's defaults. Raises DataError: not one of ours."""
    try:
        known = defaults(documents_of(kubeflow, run)[0])
    except KeyError as error:
        remedy = f"give a run of {', '.join(PIPELINES)}"
        raise DataError(f"run {run.run_id} shows no pipeline of ours", source="KFP", remedy=remedy) from error
    given = run.runtime_config.parameters if run.runtime_config is not None else None
    return {**known, **(given or {})}


def rerun(
    kubeflow: Kubeflow, run_id: str, tasks: Sequence[str], assignments: list[str] | None, force: bool
) -> tuple[str, dict[str, str]]:
    """Submit a run again with a nonce for each of `tasks` that no run of the experiment has had.

    Returns:
        The new run's id, and the nonces by parameter.

    Raises DataError: no such run; ParameterError: no such task, or an assignment that does not fit.
    """
    old = get_run(kubeflow, run_id)
    values = values_of(kubeflow, old)
    names = [_nonce_of(task, values) for task in tasks]
    runs = [values, *_experiment_values(kubeflow, old.experiment_id)]
    nonces = {name: next_nonce(runs, name, force) for name in names}
    values |= nonces
    values |= parse_assignments(assignments, values)
    (pipeline_id, version_id), label = _version_of(old), f"{old.display_name.split(AGAIN)[0]}{AGAIN}{', '.join(tasks)}"
    with tempfile.TemporaryDirectory(prefix="rerun-") as folder, kfp_errors(kubeflow.where):
        if version_id:
            source = {"pipeline_id": pipeline_id, "version_id": version_id}
        else:
            package = Path(folder) / "pipeline.yaml"
            package.write_text(yaml.safe_dump_all(documents_of(kubeflow, old)))
            source = {"pipeline_package_path": str(package)}
        root = old.runtime_config.pipeline_root if old.runtime_config is not None else None
        fields = {"params": values, "pipeline_root": root, "service_account": old.service_account, **source}
        with redirect_stdout(io.StringIO()):
            run = kubeflow.run_pipeline(old.experiment_id, label, **fields)
    return str(run.run_id), {name: str(values[name]) for name in names}


def _nonce_of(task: str, values: dict[str, Any]) -> str:
    name = f"rerun_{task.removeprefix('rerun_').replace('-', '_')}"
    if name not in values:
        known = sorted(item.removeprefix("rerun_").replace("_", "-") for item in values if item.startswith("rerun_"))
        raise ParameterError(f"this pipeline has no task {task!r}", source="--task", remedy=f"use {', '.join(known)}")
    return name


def _experiment_values(kubeflow: Kubeflow, experiment_id: str) -> Iterator[dict[str, Any]]:
    """Yield parameters of every run of an experiment: KFP's cache would answer a nonce that one of them had."""
    token: str | None = ""
    while token is not None:
        with kfp_errors(kubeflow.where):
            listed = kubeflow.list_runs(page_token=token, page_size=100, experiment_id=experiment_id)
        yield from (run.runtime_config.parameters or {} for run in listed.runs or [] if run.runtime_config is not None)
        token = listed.next_page_token or None


def next_nonce(runs: Sequence[dict[str, Any]], name: str, force: bool) -> str:
    """Return one more than the largest nonce of these runs.

    With `force` before it everything is computed again, once for the nonce: it ends in random digits, for the store may
    have seen the number in another experiment.
    """
    numbers = [int(found[1]) for values in runs if (found := _NONCE.search(str(values.get(name, "0"))))]
    number = max(numbers, default=0) + 1
    return f"force{number}-{secrets.token_hex(4)}" if force else str(number)
