"""A proxy in front of an S3 server that forwards every request as it came, but for the faults that a test asks for."""

import collections
import http.client
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.s3_server import s3_error

# a connection that breaks before the request is done, or after it; no answer (for three seconds); 503, 429; half of the
# body, with and without the length of the whole
RESET, LOST, HANG, UNAVAILABLE, THROTTLED = "reset", "lost", "hang", "503", "429"
TRUNCATE, UNMEASURED, GONE = "truncate", "unmeasured", "gone"  # the last: S3's answer about an upload that has ended
HANG_S = 3.0


class FaultyProxy:
    """`fault(number, method, path)`, for requests from 1 on, returns a fault's name, seconds to wait, or None.

    `done` counts the requests by method and path that the server answered with success, whatever came of the answer.
    `keys` is how many objects a page of a listing holds, where that is not the client's wish.
    """

    def __init__(self, target, fault=lambda number, method, path: None, keys=None):
        self.target, self.fault, self.count, self.made, self._lock = target, fault, 0, 0, threading.Lock()
        self.done, self.keys, self.down, self.port = collections.Counter(), keys, False, 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with proxy._lock:
                    proxy.count += 1
                    fault = RESET if proxy.down else proxy.fault(proxy.count, self.command, self.path)
                    proxy.made += fault is not None
                if isinstance(fault, (int, float)):
                    time.sleep(fault)
                if fault == HANG:
                    time.sleep(HANG_S)
                if fault in (RESET, HANG):
                    self.reset()
                elif fault == GONE:
                    self.send_response(404)
                    self.send_header("Content-Type", "application/xml")
                    self.send_header("Content-Length", str(len(document := s3_error("NoSuchUpload"))))
                    self.end_headers()
                    self.wfile.write(document)
                elif fault in (UNAVAILABLE, THROTTLED):
                    self.send_response(int(fault))
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                else:
                    self.hand_on(body, fault)

            def reset(self):
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True

            def hand_on(self, body, fault):
                path = self.path.replace("max-keys=1000", f"max-keys={proxy.keys or 1000}")
                connection = http.client.HTTPConnection(proxy.target, timeout=60)
                # the host stays: it is part of the signature
                connection.request(self.command, path, body, dict(self.headers))
                reply = connection.getresponse()
                content = reply.read()
                connection.close()
                proxy.done[self.command, self.path] += reply.status < 300
                if fault == LOST:
                    return self.reset()
                self.send_response(reply.status)
                for name, value in reply.getheaders():
                    if name.lower() not in ("transfer-encoding", "content-length", "connection", "server", "date"):
                        self.send_header(name, value)
                length = reply.getheader("Content-Length") if self.command == "HEAD" else len(content)
                if fault != UNMEASURED:
                    self.send_header("Content-Length", str(length or 0))
                self.end_headers()
                cut = fault in (TRUNCATE, UNMEASURED)
                self.wfile.write(content[: len(content) // 2] if cut else content)
                if cut:
                    self.close_connection = True

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

        self._handler = Handler
        self.start()
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def start(self):
        """Listen, at the same port as before."""
        self.server, self.down = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler), False
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self, seconds=None):
        """Refuse every connection and break those that stand, for so long."""
        self.down = True
        self.server.shutdown()
        self.server.server_close()
        if seconds is not None:
            threading.Timer(seconds, self.start).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
