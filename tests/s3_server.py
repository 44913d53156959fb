"""Servers that speak S3 on a port of this machine: moto's, and one that answers as a test wants."""

import os
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

from minio import Minio
from moto.server import ThreadedMotoServer

KEYS = {"S3_ACCESS_KEY": "testing", "S3_SECRET_KEY": "testing-secret"}


@contextmanager
def s3_server(*buckets):
    """A moto server with these buckets; endpoint and keys stand in the environment meanwhile."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    before = dict(os.environ)
    os.environ.update({"S3_ENDPOINT": f"http://{host}:{port}", **KEYS})
    access, secret = KEYS.values()
    client = Minio(f"{host}:{port}", access_key=access, secret_key=secret, secure=False, region="us-east-1")
    for bucket in buckets:
        client.make_bucket(bucket)
    try:
        yield client
    finally:
        os.environ.clear()
        os.environ.update(before)
        server.stop()


@contextmanager
def scripted_server(*answers):
    """Serve these (status, body) answers in turn, the last one for ever; yield the URL and the request lines."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, body = answers[min(len(seen), len(answers) - 1)]
            seen.append(self.requestline)
            self.send_response(status)
            self.send_header("Content-Type", "application/xml" if body.startswith(b"<?xml") else "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_PUT = do_POST = do_GET

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def s3_error(code):
    """S3's error document."""
    rest = "<Message>m</Message><Resource>/</Resource><RequestId>1</RequestId><HostId>1</HostId>"
    return f'<?xml version="1.0"?><Error><Code>{code}</Code>{rest}</Error>'.encode()


def closed_port():
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
