"""A Kubernetes API server by TLS, with Kubeflow Trainer behind it as far as a TrainJob's launcher sees either.

A created TrainJob's nodes are processes here with the variables that Trainer's torch plugin sets; they run the
manifest's own command.
"""

import contextlib
import datetime
import ipaddress
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from components.kubeflow.tree import ROOT


class Cluster:
    """TrainJobs by name and every request; creating one runs it (`nodes`), or sets the given last condition."""

    def __init__(self, create="nodes", faults=()):
        self.jobs, self.requests, self.create, self.faults = {}, [], create, list(faults)
        self.token = "a-service-account's-token"

    def answer(self, method, path, body, token):
        """Status and JSON of a request; `faults` are statuses that come first."""
        self.requests.append((method, path))
        if token.partition(" ") != ("bearer", " ", self.token):
            return 401, {"message": "Unauthorized"}
        if self.faults and (status := self.faults.pop(0)):
            return status, {"message": f"made to fail with {status}"}
        name = path.rpartition("/")[2]
        if method == "POST":
            name = body["metadata"]["name"]
            if name in self.jobs:
                return 409, {"message": f'trainjobs "{name}" already exists'}
            self.put(name, body)
            threading.Thread(target=self.run, args=(name, body), daemon=True).start()
            return 201, body
        if name not in self.jobs:
            return 404, {"message": f'trainjobs "{name}" not found'}
        if method == "GET":
            return 200, self.jobs[name]
        if body.get("preconditions", {}).get("uid") not in (None, self.jobs[name]["metadata"]["uid"]):
            return 409, {"message": "the UID in the precondition does not match"}
        return 200, self.jobs.pop(name)

    def put(self, name, body=None):
        """A new TrainJob under a name."""
        body = body or {}
        self.jobs[name] = {**body, "metadata": {**body.get("metadata", {}), "uid": os.urandom(8).hex()}, "status": {}}

    def run(self, name, manifest):
        """Run a TrainJob's nodes to their end, as processes."""
        if self.create != "nodes":
            self.jobs[name]["status"] = {"conditions": [{"status": "True", **self.create}]}
            return
        trainer = manifest["spec"]["trainer"]
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]  # which nobody listens on
        torch = {"PET_NNODES": trainer["numNodes"], "PET_NPROC_PER_NODE": trainer["numProcPerNode"]}
        torch |= {"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": port, "OMP_NUM_THREADS": 1, "PYTHONPATH": ROOT}
        environment = {**os.environ, **{key: str(value) for key, value in torch.items()}}
        command = [sys.executable, *trainer["command"][1:], *trainer["args"]]
        ranks = range(trainer["numNodes"])
        nodes = [subprocess.Popen(command, env={**environment, "PET_NODE_RANK": str(rank)}) for rank in ranks]
        codes = [node.wait() for node in nodes]
        end = (
            {"type": "Failed", "reason": "JobFailed"} if any(codes) else {"type": "Complete", "reason": "JobsCompleted"}
        )
        self.jobs[name]["status"] = {"conditions": [{"status": "True", "message": "", **end}]}


@contextlib.contextmanager
def serving(cluster, folder, monkeypatch):
    """The API of `cluster` at a port of this machine; this process finds it as in a pod, its account in `folder`."""
    account = service_account(folder, cluster.token)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections stay, as a real one's do

        def handle_any(self):
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, found = cluster.answer(self.command, self.path, body, self.headers.get("Authorization", ""))
            data = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = handle_any

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(account / "ca.crt", folder / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.server_port))
    for name, file in (("TOKEN", "token"), ("CERT", "ca.crt")):
        monkeypatch.setattr(f"kubernetes.config.incluster_config.SERVICE_{name}_FILENAME", str(account / file))
    try:
        yield account
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def service_account(folder, token):
    """Token, namespace and a certificate that is its own authority, as a pod finds them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    account = folder / "serviceaccount"
    account.mkdir()
    (account / "ca.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(*private))
    (account / "token").write_text(token)
    (account / "namespace").write_text("team-video")
    return account
