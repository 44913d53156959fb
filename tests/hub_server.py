"""A model hub on a port of this machine: the endpoints that `snapshot_download` uses, over a folder, with faults."""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Hub:
    """One repository at one commit. Safetensors are listed by sha256, the other files by Git's hash.

    `requests` are (method, path, authorization) in order; `fault(method, path)` may return a status, or a number of
    bytes (negative) after which the connection breaks.
    """

    def __init__(self, folder, repository, revision):
        self.folder, self.repository, self.revision = folder, repository, revision
        self.requests, self.fault = [], lambda method, path: None

    def entry(self, file):
        path, data = file.relative_to(self.folder).as_posix(), file.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        made = {"type": "file", "oid": git, "size": len(data), "path": path}
        if file.suffix == ".safetensors":
            made["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": made["size"], "pointerSize": 130}
        return made

    def tree(self):
        return json.dumps([self.entry(file) for file in sorted(self.folder.rglob("*")) if file.is_file()]).encode()

    def downloads(self):
        paths = [path for method, path, _ in self.requests if method == "GET" and "/resolve/" in path]
        return [path.split(f"/resolve/{self.revision}/")[1] for path in paths]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        hub, path = self.server.hub, self.path.split("?")[0]
        hub.requests.append((self.command, path, self.headers.get("Authorization")))
        fault = hub.fault(self.command, path)
        if fault is not None and fault > 0:
            return self.send(fault, b"{}", {"X-Error-Code": "GatedRepo"} if fault == 403 else {})
        if path == f"/api/models/{hub.repository}/tree/{hub.revision}":
            return self.send(200, hub.tree(), {"Content-Type": "application/json"})
        file = hub.folder / path.removeprefix(f"/{hub.repository}/resolve/{hub.revision}/")
        if not path.startswith(f"/{hub.repository}/resolve/{hub.revision}/") or not file.is_file():
            return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        entry, data = hub.entry(file), file.read_bytes()
        headers = {"ETag": f'"{entry.get("lfs", entry)["oid"]}"', "X-Repo-Commit": hub.revision}
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(match.group(1))
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return self.send(206, data[start:], headers)
        return self.send(200, data, headers, breaks=-fault if fault else None)

    do_HEAD = do_GET

    def send(self, status, body, headers, breaks=None):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body if breaks is None else body[:breaks])
        if breaks is not None:
            self.close_connection = True

    def log_message(self, *_):
        pass


@contextmanager
def hub_server(folder, repository, revision):
    """A hub that serves `folder`; HF_ENDPOINT leads there meanwhile. Yields the `Hub`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub = Hub(folder, repository, revision)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
            yield server.hub
    finally:
        server.shutdown()
        server.server_close()
