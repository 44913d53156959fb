"""A proxy in front of an S3 server that forwards every request as it came, but for the faults that a test asks for."""

import http.client
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

RESET, UNAVAILABLE, TRUNCATE = "reset", "503", "truncate"


class FaultyProxy:
    """`fault(number, method, path)`, for requests from 1 on, returns a fault's name, seconds to wait, or None."""

    def __init__(self, target, fault=lambda number, method, path: None):
        self.fault, self.count, self.made, self._lock = fault, 0, 0, threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with proxy._lock:
                    proxy.count += 1
                    fault = proxy.fault(proxy.count, self.command, self.path)
                    proxy.made += fault is not None
                if isinstance(fault, (int, float)):
                    time.sleep(fault)
                if fault == RESET:
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()
                    self.close_connection = True
                    return
                if fault == UNAVAILABLE:
                    self.send_response(503)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.hand_on(body, truncate=fault == TRUNCATE)

            def hand_on(self, body, truncate):
                connection = http.client.HTTPConnection(target, timeout=60)
                # the host stays: it is part of the signature
                connection.request(self.command, self.path, body, dict(self.headers))
                reply = connection.getresponse()
                content = reply.read()
                self.send_response(reply.status)
                for name, value in reply.getheaders():
                    if name.lower() not in ("transfer-encoding", "content-length", "connection", "server", "date"):
                        self.send_header(name, value)
                length = reply.getheader("Content-Length") if self.command == "HEAD" else len(content)
                self.send_header("Content-Length", str(length or 0))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if truncate else content)
                if truncate:
                    self.close_connection = True
                connection.close()

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
