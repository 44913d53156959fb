"""What KFP's metadata store remembers of a run: every task with its state, cache hit and pod, every artifact with its metadata.

KFP's own API tells neither. Its UI asks the store through gRPC-web (`/ml_metadata.MetadataStoreService/…`), so here the
same three calls go through the same host with the same credentials. The messages are those fields of ml-metadata 1.17's
that are read.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from kfp_server_api.exceptions import ApiException

from components.core.errors import DataError, TryAgainError
from components.kubeflow.client import Kubeflow, talking_to

STATES = ("UNKNOWN", "NEW", "RUNNING", "COMPLETE", "FAILED", "CACHED", "CANCELED")  # ml-metadata's numbers
_RUN_CONTEXT = "system.PipelineRun"
_CONTAINER = "system.ContainerExecution"
_SERVICE = "ml_metadata.MetadataStoreService"
_GRPC_WEB = "application/grpc-web+proto"
_NOT_FOUND = 5  # gRPC's number

_Type = descriptor_pb2.FieldDescriptorProto
_MESSAGES: dict[str, dict[str, tuple[int, Any]]] = {
    "Value": {
        "int_value": (1, _Type.TYPE_INT64),
        "double_value": (2, _Type.TYPE_DOUBLE),
        "string_value": (3, _Type.TYPE_STRING),
    },
    "Property": {"key": (1, _Type.TYPE_STRING), "value": (2, "Value")},  # on the wire, an entry of a map
    "Context": {"id": (1, _Type.TYPE_INT64)},
    "Artifact": {"uri": (3, _Type.TYPE_STRING), "custom_properties": (5, "*Property"), "type": (8, _Type.TYPE_STRING)},
    "Execution": {
        "last_known_state": (3, _Type.TYPE_INT64),
        "custom_properties": (5, "*Property"),
        "type": (7, _Type.TYPE_STRING),
        "create_time_since_epoch": (8, _Type.TYPE_INT64),
        "last_update_time_since_epoch": (9, _Type.TYPE_INT64),
    },
    "GetContextByTypeAndNameRequest": {"type_name": (1, _Type.TYPE_STRING), "context_name": (2, _Type.TYPE_STRING)},
    "GetContextByTypeAndNameResponse": {"context": (1, "Context")},
    "GetExecutionsByContextRequest": {"context_id": (1, _Type.TYPE_INT64)},
    "GetExecutionsByContextResponse": {"executions": (1, "*Execution")},
    "GetArtifactsByContextRequest": {"context_id": (1, _Type.TYPE_INT64)},
    "GetArtifactsByContextResponse": {"artifacts": (1, "*Artifact")},
}


@dataclass(frozen=True)
class Execution:
    """One task, or one iteration of a task in a loop."""

    task: str
    title: str
    state: str
    started: float  # seconds since the epoch
    changed: float
    pod: str
    namespace: str

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self.state in ("COMPLETE", "FAILED", "CACHED", "CANCELED")


@dataclass(frozen=True)
class Published:
    """One artifact; `metadata` is what the step wrote and KFP's own, as text."""

    task: str
    output: str
    uri: str
    metadata: dict[str, str]


class NoMetadataError(Exception):
    """The host does not pass on calls to the metadata store."""


def executions(kubeflow: Kubeflow, run_id: str) -> list[Execution]:
    """Every container task of a run, cached ones included, as they started.

    Raises:
        NoMetadataError: the host answers, but not for the metadata store.
        TryAgainError: unreachable, or the store's own error.
    """
    answer = _by_context(kubeflow, "GetExecutionsByContext", run_id)
    found = []
    for item in answer.executions if answer is not None else ():
        if item.type == _CONTAINER:
            more = _properties(item)
            state = STATES[item.last_known_state] if item.last_known_state < len(STATES) else "UNKNOWN"
            times = item.create_time_since_epoch / 1000, item.last_update_time_since_epoch / 1000
            texts = (more.get(key, "") for key in ("pod_name", "namespace"))
            found.append(Execution(more.get("task_name", "?"), more.get("display_name", ""), state, *times, *texts))
    return sorted(found, key=lambda item: (item.started, item.task))


def artifacts(kubeflow: Kubeflow, run_id: str) -> list[Published]:
    """Every artifact of a run, those of cached tasks included; errors as `executions`."""
    answer = _by_context(kubeflow, "GetArtifactsByContext", run_id)
    found = []
    for item in answer.artifacts if answer is not None else ():
        parts = item.uri.split("/")  # …/<pipeline>/<run>/<task>/<uuid>/<output>
        task = parts[-3] if len(parts) > 3 and re.fullmatch(r"[0-9a-f-]{36}", parts[-2]) else ""
        found.append(Published(task, parts[-1], item.uri, _properties(item)))
    return sorted(found, key=lambda item: (item.task, item.output, item.uri))


def _properties(item: Any) -> dict[str, str]:
    return {
        entry.key: entry.value.string_value or f"{entry.value.int_value or entry.value.double_value:g}"
        for entry in item.custom_properties
    }


def _by_context(kubeflow: Kubeflow, method: str, run_id: str) -> Any:
    """The method's answer for a run; None while the run has not begun."""
    context = _call(kubeflow, "GetContextByTypeAndName", type_name=_RUN_CONTEXT, context_name=run_id)
    if context is None or not context.HasField("context"):
        return None
    return _call(kubeflow, method, context_id=context.context.id)


def _call(kubeflow: Kubeflow, method: str, **fields: Any) -> Any:
    """One unary call; None where the store says not found."""
    request = _classes()[f"{method}Request"](**fields).SerializeToString()
    headers = {"Content-Type": _GRPC_WEB, "Accept": _GRPC_WEB, "X-Grpc-Web": "1"}
    framed = struct.pack(">BI", 0, len(request)) + request
    try:
        with talking_to(kubeflow.where):
            answer, head = kubeflow.raw("POST", f"/{_SERVICE}/{method}", headers, framed, at_root=True)
    except (DataError, TryAgainError) as error:
        if isinstance(error.__cause__, ApiException):  # it answers, but knows no such path or no store behind it
            raise NoMetadataError(str(error)) from error
        raise
    if not answer and "grpc-status" in head:  # an error without a message has its trailer in front
        messages, status, said = b"", int(head["grpc-status"]), head.get("grpc-message", "")
    else:
        messages, status, said = frames(answer)
    if status == _NOT_FOUND:
        return None
    if status != 0:
        raise TryAgainError(
            f"the metadata store failed: {said or f'gRPC status {status}'}", source=kubeflow.where, remedy="run again"
        )
    return _classes()[f"{method}Response"].FromString(messages)


def frames(answer: bytes) -> tuple[bytes, int, str]:
    """The message, gRPC status and status text of a gRPC-web answer.

    Raises:
        NoMetadataError: it is something else, a web page for example.
    """
    message, status, said, at = b"", 0, "", 0
    while at + 5 <= len(answer):
        kind, size = struct.unpack_from(">BI", answer, at)
        body = answer[at + 5 : at + 5 + size]
        if kind not in (0x00, 0x80) or len(body) != size:
            break
        if kind == 0x00:
            message += body
        else:
            trailer = dict(line.split(":", 1) for line in body.decode("latin-1").lower().splitlines() if ":" in line)
            status, said = int(trailer.get("grpc-status", "2")), trailer.get("grpc-message", "").strip()
        at += 5 + size
    if at != len(answer) or not answer:
        raise NoMetadataError("the answer is no gRPC-web")
    return message, status, said


@cache
def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="motion_enhancer/metadata.proto", package="motion_enhancer_metadata", syntax="proto2"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            label = _Type.LABEL_REPEATED if isinstance(kind, str) and kind.startswith("*") else _Type.LABEL_OPTIONAL
            if isinstance(kind, str):
                reference = f".motion_enhancer_metadata.{kind.removeprefix('*')}"
                message.field.add(name=field, number=number, label=label, type=_Type.TYPE_MESSAGE, type_name=reference)
            else:
                message.field.add(name=field, number=number, label=label, type=kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{name}"))
        for name in _MESSAGES
    }
