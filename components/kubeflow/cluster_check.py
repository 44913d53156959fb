"""Whether a cluster has what a compiled pipeline asks for, through the clients of Kubernetes and of KFP.

Everything that is asked for is read from the compiled pipeline. Of a secret only the names of its keys are looked at.
What is asked of one of the two servers does not depend on the other being there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from kubernetes.utils.quantity import parse_quantity

from components.core.errors import MotionEnhancerError, ParameterError, TryAgainError
from components.core.units import readable_bytes
from components.kubeflow import client as kubeflow_client
from components.kubeflow.client import Kubeflow, Spec
from components.store.access import check_access
from components.store.address import open_backend
from components.store.settings import settings

KUBERNETES = "1.29"  # the oldest that `manifests/` is for
# Fields of the platform's specification, and the KFP that knows them first: an older one refuses the run. By the
# `.proto` files of KFP's releases; all other fields that `compile` writes are older than the oldest of these.
SINCE = {
    ("deploymentSpec", "executors", "*", "securityContext"): "2.16",
    ("deploymentSpec", "executors", "*", "pvcMount", "*", "subPath"): "2.16",
    ("pipelineConfig", "activeDeadlineSeconds"): "2.17",
}
_LOGIN = ".dockerconfigjson"  # the key of a secret of type docker-registry
Pool = tuple[tuple[tuple[str, str], ...], str]  # labels of nodes, and the resource that they have


@dataclass(frozen=True)
class Finding:
    """One thing that a pipeline needs: `ok`, `missing`, or `?` where these credentials may not look."""

    what: str
    name: str
    state: str
    remedy: str


@dataclass(frozen=True)
class Needs:
    """What a compiled pipeline asks of a cluster: GPUs by node labels and resource, keys by secret, volume claims.

    `disks` holds the bytes of local disk that one task asks for, where `gpus` holds its GPUs; `fields` the KFP that
    knows a field of the platform's specification first.
    """

    gpus: dict[Pool, int]
    disks: dict[Pool, int]
    secrets: dict[str, set[str]]
    claims: set[str]
    fields: dict[str, str]


def core_api() -> Any:
    """Return the Kubernetes API of the kubeconfig, or inside a pod of its own cluster; None where there is neither."""
    try:
        return client.CoreV1Api(config.new_client_from_config())
    except ConfigException:
        settings = client.Configuration()
    try:
        config.load_incluster_config(settings)
    except ConfigException:
        return None
    return client.CoreV1Api(client.ApiClient(settings))


def needs(documents: list[Spec]) -> Needs:
    """Return what the compiled pipeline asks for; nothing where it was compiled for no cluster."""
    platform = documents[1] if len(documents) > 1 else {}
    specification = platform.get("platforms", {}).get("kubernetes", {})
    executors = specification.get("deploymentSpec", {}).get("executors", {})
    gpus: dict[Pool, int] = {}
    disks: dict[Pool, int] = {}
    secrets: dict[str, set[str]] = {}
    claims: set[str] = set()
    for name, executor in executors.items():
        container = documents[0]["deploymentSpec"]["executors"][name].get("container", {})
        if (accelerator := container.get("resources", {}).get("accelerator")) is not None:
            labels = executor.get("nodeSelector", {}).get("labels", {})
            key = (tuple(sorted(labels.items())), str(accelerator["resourceType"]))
            gpus[key] = max(gpus.get(key, 0), int(accelerator["resourceCount"]))
            folders = [item for item in executor.get("emptyDirMounts", []) if item.get("medium") != "Memory"]
            disk = sum(int(parse_quantity(item["sizeLimit"])) for item in folders)
            disks[key] = max(disks.get(key, 0), disk)
        for item in executor.get("secretAsEnv", []):
            if not item.get("optional"):
                secrets.setdefault(item["secretName"], set()).update(key["secretKey"] for key in item["keyToEnv"])
        for item in executor.get("imagePullSecret", []):
            secrets.setdefault(item["secretName"], set()).add(_LOGIN)
        claims |= {item["constant"] for item in executor.get("pvcMount", []) if "constant" in item}
    fields = {path[-1]: since for path, since in SINCE.items() if any(True for _ in _at(specification, path))}
    return Needs(gpus, disks, secrets, claims, fields)


def _at(tree: Any, path: tuple[str, ...]) -> Iterator[Any]:
    """Yield what lies at a path, where `*` stands for every key or item."""
    if not path:
        yield tree
    elif path[0] == "*":
        for item in tree.values() if isinstance(tree, dict) else tree:
            yield from _at(item, path[1:])
    elif path[0] in tree:
        yield from _at(tree[path[0]], path[1:])


def check_store(uri: str) -> list[Finding]:
    """Tell what is in force towards the store and try it, where the environment says how this machine reaches it."""
    what = "store: put, get, list, delete"
    if "S3_ENDPOINT" not in settings():
        remedy = "not tried: no S3_ENDPOINT here; the Job motion-enhancer-bootstrap tries it in the cluster"
        return [Finding(what, uri, "?", remedy)]
    try:
        lines = check_access(open_backend(uri, patience=0.1))
    except TryAgainError as error:
        return [Finding(what, uri, "?", f"{error.problem}; {error.remedy}")]
    except ParameterError as error:
        return [Finding(what, uri, "missing", f"{error.problem}; {error.remedy}")]
    return [Finding(what, uri, "ok", "; ".join(lines[1:-1]))]


def check_kfp(host: str, namespace: str, wanted: Needs) -> Finding:
    """Compare KFP's version with the newest field of a pipeline; `?` where no host is given and none is found.

    Raises ParameterError: the host that is given is no KFP, or refuses; TryAgainError: it cannot be reached.
    """
    newest, field = max(((_numbers(since), name) for name, since in wanted.fields.items()), default=((2, 0), ""))
    least = ".".join(map(str, newest))
    what = f"KFP {least} or newer" + (f", for {field}" if field else "")
    try:
        kubeflow = kubeflow_client.connect(host, namespace)
        tag = _kfp_tag(kubeflow)
    except MotionEnhancerError as error:
        if host:
            raise
        return Finding(what, "KFP's API", "?", f"not looked at ({error.problem}): name it with --host")
    name = f"{tag or 'no version'} at {kubeflow.where}"
    if not (found := _numbers(tag)):
        return Finding(what, name, "?", "a build of its own: ask who made it, or submit and see")
    if found < newest:
        return Finding(what, name, "missing", f"it refuses the run ({field} is unknown to it): upgrade KFP")
    return Finding(what, name, "ok", "")


def _kfp_tag(kubeflow: Kubeflow) -> str:
    """Return the release that KFP's API server names, also where its UI's server passes it on under another name."""
    with kubeflow_client.kfp_errors(kubeflow.where):
        call = kubeflow._healthz_api.api_client.call_api  # the model of this answer leaves the version out
        how = {"response_type": "object", "auth_settings": ["Bearer"], "_return_http_data_only": True}
        health: dict[str, Any] = call("/apis/v2beta1/healthz", "GET", **how)
    return str(health.get("tag_name") or health.get("apiServerTagName") or "")


def _numbers(version: str) -> tuple[int, ...]:
    """Return major and minor version; nothing where this is no version."""
    found = re.match(r"v?(\d+)\.(\d+)", version)
    return tuple(map(int, found.groups())) if found else ()


def check(api: Any, namespace: str, wanted: Needs) -> list[Finding]:
    """Look for everything that a pipeline needs.

    Raises ParameterError: the credentials of the kubeconfig are refused; TryAgainError: the cluster cannot be reached.
    """
    found = [_version(api)]
    found += [_nodes(api, *pool, count, wanted.disks[pool]) for pool, count in sorted(wanted.gpus.items())]
    found += [_secret(api, namespace, name, keys) for name, keys in sorted(wanted.secrets.items())]
    return found + [_claim(api, namespace, name) for name in sorted(wanted.claims)]


def ask(question: Any, *arguments: Any, **options: Any) -> Any:
    """Return the API's answer; None where there is no such thing, the exception where it may not be looked at."""
    host = question.__self__.api_client.configuration.host
    try:
        return question(*arguments, _request_timeout=30, **options)
    except ApiException as error:
        if error.status in (403, 404):
            return error if error.status == 403 else None
        if error.status == 401:
            problem, remedy = "the cluster refuses these credentials", "log in, or set KUBECONFIG"
            raise ParameterError(problem, source=host, remedy=remedy) from error
        raise TryAgainError(f"the cluster failed: HTTP {error.status}", source=host, remedy="run again") from error
    except urllib3.exceptions.HTTPError as error:
        remedy = "check KUBECONFIG and its current context"
        raise TryAgainError(f"cannot reach the cluster ({type(error).__name__})", source=host, remedy=remedy) from error


def _version(api: Any) -> Finding:
    answer = ask(client.VersionApi(api.api_client).get_code)
    what, tag = f"Kubernetes {KUBERNETES} or newer", getattr(answer, "git_version", None) or ""
    if not (found := _numbers(tag)):
        return Finding(what, api.api_client.configuration.host, "?", "it does not tell its version")
    if found < _numbers(KUBERNETES):
        return Finding(what, tag, "missing", "the Jobs of manifests/ are for a newer one: upgrade the cluster")
    return Finding(what, tag, "ok", "")


def _nodes(api: Any, labels: tuple[tuple[str, str], ...], resource: str, count: int, disk: int) -> Finding:
    selector = ",".join(f"{key}={value}" for key, value in labels)
    answer = ask(api.list_node, label_selector=selector)
    what, name = f"node with {count} {resource}", selector or "any"
    if isinstance(answer, ApiException):  # it holds no items
        return Finding(what, name, "?", "these credentials may not list nodes; ask who may")
    nodes = [node.status.allocatable or {} for node in answer.items if not node.spec.unschedulable]
    counts = [int(offers.get(resource, 0)) for offers in nodes]
    most = max(counts, default=0)
    if not nodes:
        remedy = "no schedulable node has these labels: compile --node-selector KEY=VALUE names others"
        return Finding(what, name, "missing", remedy)
    if most < count:
        remedy = f"the largest of {len(nodes)} nodes offers {most}: a larger node, or --node-selector for another pool"
        return Finding(what, name, "missing", remedy)
    disks = [int(parse_quantity(offers.get("ephemeral-storage", 0))) for offers in nodes]
    if (largest := max(has for has, found in zip(disks, counts, strict=True) if found >= count)) < disk:
        remedy = f"their largest local disk offers {readable_bytes(largest)}, fine-tuning asks for "
        remedy += f"{readable_bytes(disk)}: `plan` predicts what it takes, compile --scratch asks for less"
        return Finding(what, name, "missing", remedy)
    return Finding(what, name, "ok", f"{len(nodes)} nodes, up to {most} each")


def _secret(api: Any, namespace: str, name: str, keys: set[str]) -> Finding:
    answer = ask(api.read_namespaced_secret, name, namespace)
    kind, given = ("docker-registry", "--docker-…") if _LOGIN in keys else ("generic", "--from-literal for each key")
    create = f"kubectl create secret {kind} {name} -n {namespace} with {given}, or see manifests/"
    if isinstance(answer, ApiException):
        state, remedy = "?", f"these credentials may not read secrets in {namespace}"
    elif answer is None:
        state, remedy = "missing", create
    elif lacking := sorted(keys - set(answer.data or {})):
        state, remedy = "missing", f"it has no {', '.join(lacking)}: {create}"
    else:
        state, remedy = "ok", ""
    return Finding(f"secret with {', '.join(sorted(keys))}", name, state, remedy)


def _claim(api: Any, namespace: str, name: str) -> Finding:
    answer = ask(api.read_namespaced_persistent_volume_claim, name, namespace)
    if isinstance(answer, ApiException):
        state, remedy = "?", f"these credentials may not read volume claims in {namespace}"
    elif answer is None:
        state, remedy = "missing", f"make it in {namespace} (manifests/ holds one), or compile with --model-claim"
    elif answer.status.phase == "Lost":
        state, remedy = "missing", "its volume is lost: make claim and volume again"
    else:
        state, remedy = "ok", answer.status.phase or ""
    return Finding("volume claim", name, state, remedy)
