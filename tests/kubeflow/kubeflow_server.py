"""Servers of this machine that answer as KFP and as Kubernetes do, as far as their real clients ask here.

KFP: v2beta1 experiments, pipelines, runs and health as its REST proxy writes them. Kubernetes: version, nodes, secrets,
volume claims, pods.
"""

import base64
import email
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlparse

import yaml

PREFIX = "/apis/v2beta1"
BUILD = ("buildDate", "compiler", "gitCommit", "gitTreeState", "goVersion", "platform")  # of a Kubernetes


class Server(ThreadingHTTPServer):
    """An address, requests as they came (method, path, body, headers), and a status that replaces every answer."""

    daemon_threads = True

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.requests, self.broken = answer, [], None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def bodies(self, method, path):
        wanted = (method, path)
        return [json.loads(body) for made, seen, body, _ in self.requests if (made, urlparse(seen).path) == wanted]


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((self.command, self.path, body, dict(self.headers)))
        if self.server.broken is not None:
            status, kind, data = self.server.broken
        else:
            status, kind, data = self.server.answer(self.command, urlparse(self.path), body, self.headers)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = handle_any


@contextmanager
def serve(server):
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def as_json(value, status=200):
    return status, "application/json", json.dumps(value).encode()


def refused(status, message):
    return as_json({"error": message, "code": 5, "message": message, "details": []}, status)


class Kfp:
    """KFP's state: experiments, uploaded pipelines with their versions, and runs by id."""

    def __init__(self):
        self.multi_user, self.token, self.tag = False, None, "2.17.0"
        self.experiments, self.pipelines, self.versions, self.runs = [], [], [], {}

    def __call__(self, method, url, body, headers):
        shown = (headers.get("authorization"), headers.get("Cookie"))
        if self.token and f"Bearer {self.token}" != shown[0] and self.token != shown[1]:
            return refused(401, "who are you")
        path, query = url.path.removeprefix(PREFIX), parse_qs(url.query)
        if path.startswith("/pipelines"):
            return self.uploaded(path, query, package(body, headers) if method == "POST" else None)
        return self.api(method, path, query, json.loads(body) if body else None)

    def uploaded(self, path, query, spec):
        """Pipelines: a first upload makes one with a version of its name, as KFP does; then come further versions."""
        _, _, *ids = path.split("/")  # "", "pipelines"
        if spec is not None:
            if ids == ["upload"]:
                known = {"pipeline_id": f"pipeline-{len(self.pipelines)}", "display_name": query["name"][0]}
                self.pipelines.append(known)
            made = {"pipeline_version_id": f"version-{len(self.versions)}", "display_name": query["name"][0]}
            made |= {"pipeline_id": query.get("pipelineid", [f"pipeline-{len(self.pipelines) - 1}"])[0]}
            self.versions.append({**made, "pipeline_spec": spec})
            return as_json(self.pipelines[-1] if ids == ["upload"] else made)
        if not ids:
            name = json.loads(unquote(query["filter"][0]))["predicates"][0]["stringValue"]
            return as_json({"pipelines": [item for item in self.pipelines if item["display_name"] == name]})
        wanted = {"pipeline_id": ids[0], "pipeline_version_id": ids[2]}
        found = [item for item in self.versions if wanted.items() <= item.items()]
        return as_json(found[0]) if found else refused(404, f"ResourceNotFoundError: {path} not found")

    def api(self, method, path, query, body):
        if path == "/healthz":
            return as_json({"commit_sha": "abc", "tag_name": self.tag, "multi_user": self.multi_user})
        if path == "/experiments" and method == "POST":
            self.experiments.append({"experiment_id": f"experiment-{len(self.experiments)}", **body})
            return as_json(self.experiments[-1])
        if path == "/experiments":
            name = json.loads(unquote(query["filter"][0]))["predicates"][0]["stringValue"]
            return as_json({"experiments": [item for item in self.experiments if item["display_name"] == name]})
        if path == "/runs" and method == "POST":
            run_id = f"run-{len(self.runs)}"
            self.runs[run_id] = {"run_id": run_id, "state": "PENDING", **body}
            return as_json(self.runs[run_id])
        if path == "/runs":
            of = query["experiment_id"][0]
            return self.listed([run for run in self.runs.values() if run["experiment_id"] == of], query)
        run = self.runs.get(path.removeprefix("/runs/"))
        return as_json(run) if run else refused(404, f"ResourceNotFoundError: {path} not found")

    def listed(self, runs, query):
        """Two a page, so that somebody who reads one page reads too few."""
        start = int(query.get("page_token", ["0"])[0] or 0)
        more = {"next_page_token": str(start + 2)} if start + 2 < len(runs) else {}
        return as_json({"runs": runs[start : start + 2], "total_size": len(runs), **more})


def package(body, headers):
    """The pipeline in an uploaded form, as KFP keeps it."""
    form = email.message_from_bytes(b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + body)
    (file,) = (part for part in form.get_payload() if part.get_filename())
    spec, *platform = yaml.load_all(file.get_payload(decode=True), Loader=yaml.CSafeLoader)
    return {"pipeline_spec": spec, "platform_spec": platform[0]} if platform else spec


class Kubernetes:
    """A cluster's state: nodes, pods, and by (namespace, kind, name) everything else."""

    def __init__(self):
        self.nodes, self.pods, self.items, self.denied, self.version = [], [], {}, set(), "v1.35.0"

    def __call__(self, method, url, body, headers):
        if url.path.rstrip("/") == "/version":
            return as_json({"major": "1", "minor": "35", "gitVersion": self.version, **dict.fromkeys(BUILD, "")})
        parts = url.path.removeprefix("/api/v1/").split("/")
        if parts[0] == "nodes" or parts[2] in self.denied:
            if parts[0] in self.denied or len(parts) > 2:
                return self.status(403, "Forbidden")
            selector = parse_qs(url.query).get("labelSelector", [""])[0]
            wanted = dict(item.split("=") for item in selector.split(",") if item)
            found = [node for node in self.nodes if wanted.items() <= node["metadata"]["labels"].items()]
            return as_json({"kind": "NodeList", "apiVersion": "v1", "metadata": {}, "items": found})
        if parts[2] == "pods":
            if method == "DELETE":
                self.pods = [pod for pod in self.pods if pod["metadata"]["name"] != parts[3]]
                return as_json({"kind": "Status", "status": "Success"})
            name, _, value = parse_qs(url.query).get("labelSelector", ["=any"])[0].partition("=")
            found = [pod for pod in self.pods if value in ("any", pod["metadata"]["labels"].get(name))]
            return as_json({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": found})
        item = self.items.get((parts[1], parts[2], parts[3]))
        if item is None:
            return self.status(404, "NotFound")
        return as_json(item)

    def status(self, code, reason):
        return as_json({"kind": "Status", "status": "Failure", "reason": reason, "code": code}, code)

    def node(self, labels, gpus, unschedulable=False):
        own = {"cpu": "96", "ephemeral-storage": str(2**40)}  # a kubelet offers bytes without a unit
        status = {"allocatable": {**own, **({"nvidia.com/gpu": str(gpus)} if gpus else {})}}
        spec = {"unschedulable": unschedulable}
        metadata = {"name": f"node-{len(self.nodes)}", "labels": labels}
        self.nodes.append({"metadata": metadata, "spec": spec, "status": status})

    def pod(self, run_id, node, phase="Running"):
        """A pod of a run, with what KFP and Argo write on it."""
        metadata = {"name": f"pod-{len(self.pods)}", "labels": {"pipeline/runid": run_id}}
        metadata["annotations"] = {"workflows.argoproj.io/node-name": node}
        self.pods.append({"metadata": metadata, "status": {"phase": phase}})

    def secret(self, namespace, name, values):
        data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
        self.items[namespace, "secrets", name] = {"kind": "Secret", "metadata": {"name": name}, "data": data}

    def claim(self, namespace, name, phase="Bound"):
        made = {"kind": "PersistentVolumeClaim", "metadata": {"name": name}, "status": {"phase": phase}}
        self.items[namespace, "persistentvolumeclaims", name] = made


def kubeconfig(file, url):
    """A kubeconfig for a server without TLS."""
    entry = {
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": "kube-token"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    }
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "x", **entry}))
    return file
