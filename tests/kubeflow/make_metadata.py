"""Writes `metadata.json`: calls to an ml-metadata store and its answers, byte by byte as they cross the wire.

The store is the real one (ml-metadata 1.17, which no environment here can hold beside kfp's protobuf); the rows are
what KFP's driver and launcher write. In an environment of its own: `pip install ml-metadata==1.17.1 && python
tests/orchestration/make_metadata.py DIGEST FILE` where DIGEST is the report manifest's that `test_client_runs.py`
publishes.
"""

import base64
import json
import sys
import time

from ml_metadata.metadata_store import metadata_store
from ml_metadata.proto import metadata_store_pb2 as rows
from ml_metadata.proto import metadata_store_service_pb2 as calls

STATES = {"COMPLETE": 3, "FAILED": 4, "CACHED": 5, "RUNNING": 2}
VIDEOS = "sha256:" + "a" * 64
ROOT = "minio://mlpipeline/v2/artifacts/motion-enhancer"
RUNS = {
    "done": "11111111-1111-4111-8111-111111111111",
    "failed": "22222222-2222-4222-8222-222222222222",
    "running": "33333333-3333-4333-8333-333333333333",
}
TASKS = {  # task and state, a line an iteration
    "done": [
        ("plan", "COMPLETE"),
        ("dataset-import", "CACHED"),
        ("ddim-inversion", "CACHED"),
        ("ddim-inversion", "COMPLETE"),
        ("report", "COMPLETE"),
    ],
    "failed": [("plan", "COMPLETE"), ("sft", "FAILED")],
    "running": [("plan", "COMPLETE"), ("ddim-inversion", "COMPLETE"), ("ddim-inversion", "RUNNING")],
}
FILES = [  # task, output, type, metadata
    (
        "dataset-import",
        "videos",
        "system.MotionEnhancerVideoDataset",
        {"digest": VIDEOS, "kind": "VideoDataset", "lines": 8.0},
    ),
    ("report", "report", "system.MotionEnhancerReport", {"kind": "Report", "lines": 0.0}),
    ("report", "summary", "system.Markdown", {}),
    ("dataset-import", "metrics", "system.Metrics", {"units": 8.0, "failed": 0.0}),
]


def value(item):
    return rows.Value(double_value=item) if isinstance(item, float) else rows.Value(string_value=item)


def properties(**items):
    return {name: value(item) for name, item in items.items()}


def put(store, execution, context):
    (number,) = store.put_executions([execution])
    store.put_attributions_and_associations([], [rows.Association(execution_id=number, context_id=context)])


def fill(store, digest):
    context_type = store.put_context_type(rows.ContextType(name="system.PipelineRun"))
    container = store.put_execution_type(rows.ExecutionType(name="system.ContainerExecution"))
    dag = store.put_execution_type(rows.ExecutionType(name="system.DAGExecution"))
    for name, run in RUNS.items():
        (context,) = store.put_contexts(
            [rows.Context(type_id=context_type, name=run, custom_properties=properties(namespace="team-a"))]
        )
        loop = rows.Execution(type_id=dag, last_known_state=2, custom_properties=properties(task_name="for-loop-1"))
        loop.custom_properties["iteration_index"].int_value = 0
        put(store, loop, context)
        for number, (task, state) in enumerate(TASKS[name]):
            time.sleep(0.01)  # the store's clock orders them
            item = rows.Execution(type_id=container, last_known_state=STATES[state])
            texts = {"display_name": f"title of {task}", "task_name": task, "image": "x@sha256:0"}
            texts |= (
                {"pod_name": f"{name}-{task}-{number}", "namespace": "team-a"}
                if state != "CACHED"
                else {"cached_execution_id": "7"}
            )
            for key, entry in properties(**texts).items():
                item.custom_properties[key].CopyFrom(entry)
            item.custom_properties["inputs"].struct_value.update({"rerun": "0"})
            put(store, item, context)
    context = store.get_context_by_type_and_name("system.PipelineRun", RUNS["done"])
    for task, output, kind, metadata in FILES:
        item = rows.Artifact(type_id=store.put_artifact_type(rows.ArtifactType(name=kind)), state=2)
        item.uri = f"{ROOT}/{RUNS['done']}/{task}/44444444-4444-4444-8444-444444444444/{output}"
        more = {"digest": digest} if kind.endswith("Report") else {}
        session = (
            {"store_session_info": '{"Provider":"minio","Params":{"fromEnv":"true"}}'}
            if kind == "system.Markdown"
            else {}
        )
        for key, entry in properties(display_name=output, **metadata, **more, **session).items():
            item.custom_properties[key].CopyFrom(entry)
        (number,) = store.put_artifacts([item])
        store.put_attributions_and_associations([rows.Attribution(artifact_id=number, context_id=context.id)], [])


def asked(store):
    """Each call that the client makes with the store's answer to it."""
    for run in (*RUNS.values(), "unknown"):
        request = calls.GetContextByTypeAndNameRequest(type_name="system.PipelineRun", context_name=run)
        answer = calls.GetContextByTypeAndNameResponse()
        store._call("GetContextByTypeAndName", request, answer)
        yield "GetContextByTypeAndName", request, answer
        if run != "unknown":
            for method in ("GetExecutionsByContext", "GetArtifactsByContext"):
                request = getattr(calls, f"{method}Request")(context_id=answer.context.id)
                reply = getattr(calls, f"{method}Response")()
                store._call(method, request, reply)
                yield method, request, reply


def main(digest, file):
    settings = rows.ConnectionConfig()
    settings.sqlite.filename_uri, settings.sqlite.connection_mode = ":memory:", 3
    store = metadata_store.MetadataStore(settings)
    fill(store, digest)
    packed = []
    for method, *both in asked(store):
        texts = [base64.b64encode(item.SerializeToString()).decode() for item in both]
        packed.append({"method": method, "request": texts[0], "answer": texts[1]})
    with open(file, "w") as out:
        json.dump({"made by": "ml-metadata 1.17.1", "report": digest, "runs": RUNS, "calls": packed}, out, indent=1)
        out.write("\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
