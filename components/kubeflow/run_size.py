"""How large Argo's record of a run becomes: its nodes, made of a compiled pipeline as KFP's driver and Argo write them.

Learnt from two Workflows that KFP 2.17 and Argo 4.0.5 left: every part of a run is a pair of nodes, the retries and the
one try that there mostly is. A task is three pairs (its driver, a DAG of one, its pod), an iteration of a loop three
more. The task's pod, as the driver makes it, stands in six of its nodes, with KFP's executor input inside: what a task
is given costs six times its length, and each of its quotes four bytes.

Names, numbers and addresses that only the cluster knows have the length that they had there, and random digits, so that
they are compressed as badly.
"""

from __future__ import annotations

import base64
import graphlib
import gzip
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from components.core.artifacts import PRODUCTS
from components.core.json_text import whole_numbers
from components.core.records import Json, sha256
from components.plan.run_size import RunSize

_ROOT = "minio://mlpipeline/v2/artifacts"
_SESSION = (
    '{"Provider":"minio","Params":{"accessKeyKey":"accesskey","disableSSL":"true","endpoint":"seaweedfs.kubeflow:9000",'
    '"fromEnv":"false","maxRetries":"5","region":"minio","secretKeyKey":"secretkey",'
    '"secretName":"mlpipeline-minio-artifact"}}'
)
_LOGS = {"artifactType": {"schemaTitle": "system.Artifact"}}  # of KFP's own output of every task
_LAUNCHER = ["--pod_name", "$(KFP_POD_NAME)", "--pod_uid", "$(KFP_POD_UID)", "--ml_pipeline_server_address"]
_LAUNCHER += ["ml-pipeline.kubeflow.svc.cluster.local", "--ml_pipeline_server_port", "8887", "--mlmd_server_address"]
_LAUNCHER += ["metadata-grpc-service.kubeflow.svc.cluster.local", "--mlmd_server_port", "8080"]
_LAUNCHER += ["--publish_logs", "true", "--publish_logs", "true", "--"]
_GZIP_LEVEL = 5  # of zlib; what comes closest to the level 6 of Argo's pgzip
# Bytes of a Workflow's specification that no pipeline changes, and those that each of its tasks and loops adds
_FIXED, _TASK, _LOOP = 10_800, 1_390, 2_420

Artifacts = dict[str, list[Json]]
Describe = Callable[[str, str], Json]  # metadata of an artifact by its kind and digest


def described(kind: str, digest: str) -> Json:
    """Return the metadata that a step gives KFP for an artifact (`Context.publish`)."""
    return {"digest": f"sha256:{digest}"} if kind in PRODUCTS else {}


def run_size(documents: list[Json], values: Mapping[str, Any], describe: Describe = described) -> RunSize:
    """Return the size that a run's record will have when every task was executed once.

    Args:
        documents: a compiled pipeline: its specification, and its platform's where there is one.
        values: of the pipeline's parameters; those that are absent have their defaults.
        describe: metadata of an artifact.
    """
    run = _Run(documents, values, describe)
    run.record()
    status = _text(dict(sorted(run.nodes.items()))).encode()
    packed = base64.b64encode(gzip.compress(status, _GZIP_LEVEL, mtime=0))
    specification = run.specification()
    return RunSize(len(run.nodes), specification + len(status), specification + len(packed))


def written_nodes(documents: list[Json], values: Mapping[str, Any]) -> list[Json]:
    """Return the nodes that `run_size` counts."""
    run = _Run(documents, values, described)
    run.record()
    return list(run.nodes.values())


def _text(value: Any) -> str:
    """Return JSON as Go writes it: no spaces, UTF-8, `<`, `>` and `&` escaped, whole numbers without a point."""
    text = json.dumps(whole_numbers(value), ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def _parameters(defaults: Mapping[str, str] | None = None, /, **values: str) -> list[Json]:
    """Return a node's parameters; underscores of the names stand for hyphens."""
    found = [{"name": name.replace("_", "-"), "value": value} for name, value in values.items()]
    known = defaults or {}
    return [item | ({"default": known[item["name"]]} if item["name"] in known else {}) for item in found]


@dataclass
class _Scope:
    """What the tasks of a DAG see: where their nodes are, and the DAG's own inputs."""

    path: str
    values: Mapping[str, Any]
    artifacts: Artifacts


@dataclass
class _Run:
    """A run that is made up: `record` writes its nodes."""

    documents: list[Json]
    given: Mapping[str, Any]
    describe: Describe
    nodes: dict[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._drawn = 0
        self.spec = self.documents[0]
        platform = self.documents[1] if len(self.documents) > 1 else {}
        self.pods = platform.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
        self.pipeline = self.spec["pipelineInfo"]["name"]
        self.name = f"{self.pipeline}-{self._hex(5)}"
        self.id = self._uuid()
        inputs = self.spec["root"].get("inputDefinitions", {}).get("parameters", {})
        self.values = {name: item.get("defaultValue") for name, item in inputs.items()} | dict(self.given)

    def _hex(self, digits: int) -> str:
        """Return up to 64 hex digits, others at each call."""
        self._drawn += 1
        return sha256(str(self._drawn).encode())[:digits]

    def _uuid(self) -> str:
        return str(uuid.UUID(self._hex(32)))

    def _number(self, low: int, high: int) -> str:
        return str(low + int(self._hex(16), 16) % (high - low))

    # Nodes ------------------------------------------------------------------------------------------------------------

    def record(self) -> None:
        """Write all nodes."""
        runtime = _text({"parameterValues": self.values})
        self._pair("", "entrypoint", "DAG")
        self._dag_driver("(0).root-driver", self.spec["root"], runtime=runtime)
        self._pair("(0).root", "root", "DAG", _parameters(parent_dag_id="2"))
        self._dag(self.spec["root"], _Scope("(0).root(0)", self.values, {}))

    def _dag(self, component: Json, scope: _Scope) -> Artifacts:
        """Write the nodes of a DAG's tasks and return what it puts out."""
        tasks = component["dag"]["tasks"]
        order = graphlib.TopologicalSorter({name: task.get("dependentTasks", []) for name, task in tasks.items()})
        made: dict[str, Artifacts] = {}
        for name in order.static_order():
            task = tasks[name]
            step = self._loop if "parameterIterator" in task else self._container
            inputs = self._artifacts(task, scope, made)
            made[name] = step(name, task, _Scope(scope.path, self._given(task, scope), inputs))
        outputs = component["dag"].get("outputs", {}).get("artifacts", {})
        selected = {name: list(item["artifactSelectors"]) for name, item in outputs.items()}
        return {
            name: [entry for one in chosen for entry in made[one["producerSubtask"]][one["outputArtifactKey"]]]
            for name, chosen in selected.items()
        }

    def _given(self, task: Json, scope: _Scope) -> Json:
        """Return the values of a task's parameters."""
        found: Json = {}
        for name, source in task.get("inputs", {}).get("parameters", {}).items():
            if "componentInputParameter" in source:
                found[name] = scope.values.get(source["componentInputParameter"])
            elif "runtimeValue" in source:
                found[name] = source["runtimeValue"]["constant"]
            else:  # the digest of a listing, from `plan`
                found[name] = self._hex(64)
        return found

    def _artifacts(self, task: Json, scope: _Scope, made: Mapping[str, Artifacts]) -> Artifacts:
        found: Artifacts = {}
        for name, source in task.get("inputs", {}).get("artifacts", {}).items():
            if "componentInputArtifact" in source:
                found[name] = scope.artifacts[source["componentInputArtifact"]]
            else:
                output = source["taskOutputArtifact"]
                found[name] = made[output["producerTask"]][output["outputArtifactKey"]]
        return found

    def _loop(self, name: str, task: Json, scope: _Scope) -> Artifacts:
        """Write a loop: its pair, its driver and a group, and for each item a pair, a driver and the DAG's pair."""
        reference = task["componentRef"]["name"]
        component = self.spec["components"][reference]
        iterator, path = task["parameterIterator"], f"{scope.path}.{name}(0)"
        source = iterator["items"]
        items = json.loads(source["raw"]) if "raw" in source else scope.values[source["inputParameter"]]
        parent = _parameters(parent_dag_id=self._number(2, 999))
        self._pair(f"{scope.path}.{name}", f"{reference}-{name}-iterator", "DAG", parent, outbound=len(items))
        driver: Json = {"component": component, "task": task, "name": name}
        self._dag_driver(f"{path}.iteration-driver", **driver, iterations=len(items))
        self._node(f"{path}.iteration-iterations", "TaskGroup", f"{reference}-iteration", children=len(items))
        made: Artifacts = {}
        for number, item in enumerate(items):
            place = f"{path}.iteration-iterations({number}:{number})"
            index = _parameters(parent_dag_id=self._number(2, 999), iteration_index=str(number))
            self._pair(place, f"{reference}-iteration", "DAG", index)
            self._dag_driver(f"{place}(0).iteration-item-driver", **driver, index=number)
            self._pair(f"{place}(0).iteration-item", reference, "DAG", parent)
            values = {**scope.values, iterator["itemInput"]: item}
            inner = _Scope(f"{place}(0).iteration-item(0)", values, scope.artifacts)
            for key, entries in self._dag(component, inner).items():
                made.setdefault(key, []).extend(entries)
        return made

    def _dag_driver(
        self,
        path: str,
        component: Json,
        task: Json | None = None,
        name: str = "",
        *,
        runtime: str = "",
        index: int = -1,
        iterations: int = 0,
    ) -> None:
        defaults = {"runtime-config": "", "task": "", "task-name": "", "parent-dag-id": "0", "iteration-index": "-1"}
        values = {"component": _text(component), "runtime_config": runtime, "task": _text(task) if task else ""}
        values |= {"task_name": name, "parent_dag_id": self._number(2, 999), "iteration_index": str(index)}
        outputs = [_output("execution-id", self._number(2, 999)), _output("iteration-count", str(iterations), "0")]
        self._pair(path, "system-dag-driver", "Pod", _parameters(defaults, **values), [*outputs, _CONDITION])

    def _container(self, name: str, task: Json, scope: _Scope) -> Artifacts:
        """Write a task: its driver, the DAG that holds its pod, and the pod."""
        reference = task["componentRef"]["name"]
        component = self.spec["components"][reference]
        label = component["executorLabel"]
        container = self.spec["deploymentSpec"]["executors"][label]["container"]
        config = self.pods.get(label, {})
        place = f"{_ROOT}/{self.pipeline}/{self.id}/{name}/{self._uuid()}"
        patch = _text(self._pod(component, container, config, scope, place))
        driver = {"component": _text(component), "task": _text(task), "container": _text(container), "task_name": name}
        driver |= {"parent_dag_id": self._number(2, 999), "iteration_index": "-1", "kubernetes_config": _text(config)}
        outputs = [_output("pod-spec-patch", patch, ""), _output("cached-decision", "false", "false"), _CONDITION]
        defaults = {"iteration-index": "-1", "kubernetes-config": ""}
        path = f"{scope.path}.{name}"
        self._pair(f"{path}-driver", "system-container-driver", "Pod", _parameters(defaults, **driver), outputs)
        policy = task.get("retryPolicy", {})
        retry = {"retry_max_count": str(policy.get("maxRetryCount", 0))}
        retry["retry_backoff_duration"] = str(policy.get("backoffDuration", "0s"))[:-1]
        retry["retry_backoff_factor"] = str(whole_numbers(policy.get("backoffFactor", 0)))
        retry["retry_backoff_max_duration"] = str(policy.get("backoffMaxDuration", "0s"))[:-1]
        zeros = {key.replace("_", "-"): "0" for key in retry} | {"cached-decision": "false"}
        held = _parameters(zeros, pod_spec_patch=patch, cached_decision="false", **retry)
        self._pair(path, "retry-system-container-executor", "DAG", held)
        given = _parameters(pod_spec_patch=patch, **retry)
        self._pair(f"{path}(0).executor", "retry-system-container-impl", "Pod", given, [])
        definitions = component.get("outputDefinitions", {}).get("artifacts", {})
        kinds = {key: item["artifactType"]["schemaTitle"] for key, item in definitions.items()}
        return {key: [self._artifact(f"{place}/{key}", key, kind)] for key, kind in kinds.items()}

    def _artifact(self, uri: str, name: str, kind: str) -> Json:
        """Return an artifact as the input of the tasks that read it."""
        own = self.describe(kind.removeprefix("system.MotionEnhancer"), self._hex(64))
        metadata = {**own, "display_name": name, "store_session_info": _SESSION}
        return {"name": self._number(2, 999), "type": {"instanceSchema": ""}, "uri": uri, "metadata": metadata}

    def _pod(self, component: Json, container: Json, config: Json, scope: _Scope, place: str) -> Json:
        """Return a pod as the driver makes it of the image's container, of Kubernetes' options and of the inputs."""
        outputs = component.get("outputDefinitions", {})
        artifacts = {**outputs.get("artifacts", {}), "executor-logs": _LOGS}
        made = {
            key: {"artifacts": [{"name": key, "type": item["artifactType"], "uri": f"{place}/{key}"}]}
            for key, item in artifacts.items()
        }
        files = {key: {"outputFile": f"/tmp/kfp/outputs/{key}"} for key in outputs.get("parameters", {})}
        read = {key: {"artifacts": entries} for key, entries in scope.artifacts.items()}
        request = {
            "inputs": {**({"artifacts": read} if read else {}), "parameterValues": scope.values},
            "outputs": {
                "artifacts": made,
                **({"parameters": files} if files else {}),
                "outputFile": f"/{place.replace('://', '/')}/output_metadata.json",
            },
        }
        interface = component | {"outputDefinitions": outputs | {"artifacts": artifacts}}
        command = ["/kfp-launcher/launch", "--pipeline_name", self.pipeline, "--run_id", self.id, "--execution_id"]
        command += [self._number(2, 999), "--executor_input", _text(request), "--component_spec", _text(interface)]
        volumes, mounts = _volumes(config)
        main = {"name": "main", "image": container["image"], "command": [*command, *_LAUNCHER]}
        main |= {
            "args": [*container.get("command", []), *container.get("args", [])],
            "env": list(_environment(container, config)),
        }
        main |= {"resources": _resources(container.get("resources", {})), "volumeMounts": mounts}
        user = {name: int(config["securityContext"][name]) for name in ("runAsUser", "runAsGroup")} if config else {}
        context = {"capabilities": {"drop": ["ALL"]}, **user, "runAsNonRoot": True}
        main |= {"imagePullPolicy": "IfNotPresent", "securityContext": context}
        pod: Json = {"volumes": volumes, "containers": [main]}
        if selector := config.get("nodeSelector"):
            pod["nodeSelector"] = selector["labels"]
        if tolerations := config.get("tolerations"):
            pod["tolerations"] = tolerations
        return pod | {"activeDeadlineSeconds": int(config.get("activeDeadlineSeconds", 0))}

    def _pair(
        self,
        path: str,
        template: str,
        kind: str,
        inputs: list[Json] | None = None,
        outputs: list[Json] | None = None,
        outbound: int = 1,
    ) -> None:
        """Write a node for the retries and one for the try, a Pod or a DAG."""
        self._node(path, "Retry", template, inputs, outputs)
        self._node(f"{path}(0)", kind, template, inputs, outputs, outbound=outbound if kind == "DAG" else 0)

    def _node(
        self,
        path: str,
        kind: str,
        template: str,
        inputs: list[Json] | None = None,
        outputs: list[Json] | None = None,
        children: int = 1,
        outbound: int = 0,
    ) -> None:
        scope, number = f"local/{self.name}", self._node_id()
        node: Json = {"id": number, "name": self.name + path, "displayName": path.rpartition(".")[2] or self.name}
        node |= {"type": kind, "templateName": template, "templateScope": scope, "phase": "Succeeded"}
        node |= {"boundaryID": self._node_id(), "startedAt": self._time(), "finishedAt": self._time()}
        node |= {"progress": "1/1", "resourcesDuration": {"cpu": 10, "memory": int(self._number(100, 999))}}
        node |= {} if kind == "Retry" else {"nodeFlag": {"retried": True}}
        node |= {} if inputs is None else {"inputs": {"parameters": inputs}}
        if outputs is not None:
            key = f"private-artifacts/kubeflow/{self.name}/2026/11/29/{self.name}-{template}-{number[-10:]}/main.log"
            logs = [{"name": "main-logs", "s3": {"key": key}}]
            node["outputs"] = ({"parameters": outputs} if outputs else {}) | {"artifacts": logs, "exitCode": "0"}
        node |= {"children": [self._node_id() for _ in range(children)]}
        node |= {"outboundNodes": [self._node_id() for _ in range(outbound)]} if outbound else {}
        self.nodes[number] = node | ({"taskResultSynced": True} if kind == "Pod" else {})

    def _node_id(self) -> str:
        return f"{self.name}-{self._number(10**9, 2**32)}"

    def _time(self) -> str:
        return f"2026-11-29T17:{self._number(10, 60)}:{self._number(10, 60)}Z"

    # Specification ----------------------------------------------------------------------------------------------------

    def specification(self) -> int:
        """Return the bytes of the Workflow without its nodes: KFP's arguments, each task in the template of its DAG."""
        components, executors = self.spec["components"], self.spec["deploymentSpec"]["executors"]
        arguments = [*components.values(), self.spec["root"], *(item["container"] for item in executors.values())]
        arguments += [*self.pods.values(), {"parameterValues": self.values}]
        size = _FIXED + sum(len(_text(_text(item)).encode()) for item in arguments)
        for dag in [self.spec["root"], *(item for item in components.values() if "dag" in item)]:
            for task in dag["dag"]["tasks"].values():
                looped = "parameterIterator" in task
                text = len(_text(_text(task)).encode())
                size += 2 * text + _LOOP if looped else text + _TASK
        return size


def _output(name: str, value: str, default: str | None = None) -> Json:
    """Return a driver's output parameter."""
    source = {"path": f"/tmp/outputs/{name}"} | ({} if default is None else {"default": default})
    return {"name": name, "value": value, "valueFrom": source}


_CONDITION = _output("condition", "nil", "true")


def _environment(container: Json, config: Json) -> Iterator[Json]:
    yield from container.get("env", [])
    for item in config.get("secretAsEnv", []):
        for pair in item["keyToEnv"]:
            reference = {"name": item["secretName"], "key": pair["secretKey"], "optional": item.get("optional", False)}
            yield {"name": pair["envVar"], "valueFrom": {"secretKeyRef": reference}}
    for item in config.get("fieldPathAsEnv", []):
        yield {"name": item["name"], "valueFrom": {"fieldRef": {"fieldPath": item["fieldPath"]}}}


def _volumes(config: Json) -> tuple[list[Json], list[Json]]:
    volumes: list[Json] = []
    mounts: list[Json] = []
    for item in config.get("secretAsVolume", []):
        secret = {"secretName": item["secretName"], "optional": item.get("optional", False)}
        volumes.append({"name": item["secretName"], "secret": secret})
        mounts.append({"name": item["secretName"], "mountPath": item["mountPath"]})
    for item in config.get("pvcMount", []):
        claim = item["constant"]
        volumes.append({"name": claim, "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": claim, "mountPath": item["mountPath"]})
    for item in config.get("emptyDirMounts", []):
        kept = {name: item[name] for name in ("medium", "sizeLimit") if name in item}
        volumes.append({"name": item["volumeName"], "emptyDir": kept})
        mounts.append({"name": item["volumeName"], "mountPath": item["mountPath"]})
    return volumes, mounts


def _resources(asked: Json) -> Json:
    def kept(kind: str) -> Json:
        names = {"cpu": f"resourceCpu{kind}", "memory": f"resourceMemory{kind}"}
        return {name: asked[key] for name, key in names.items() if key in asked}

    accelerator = asked.get("accelerator")
    devices = {accelerator["resourceType"]: accelerator["resourceCount"]} if accelerator else {}
    return {"limits": kept("Limit") | devices, "requests": kept("Request")}
