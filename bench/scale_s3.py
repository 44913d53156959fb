"""An S3 endpoint for benches: folders as buckets, every answer `--delay` milliseconds after its request, all counted.

Servers that are ready to use (moto, gofakes3, rclone) would need a proxy of this size for the wait
and the counts.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from bench.scale_bucket import Buckets, Request
from components.runtime.launch import die_with_parent

_REASONS = {200: "OK", 204: "No Content", 206: "Partial Content", 404: "Not Found", 501: "Not Implemented"}


class Connection(asyncio.Protocol):
    """One connection: requests one after another, each answered `delay` seconds after it came."""

    def __init__(self, buckets: Buckets, delay: float) -> None:
        self.buckets, self.delay, self.loop = buckets, delay, asyncio.get_running_loop()
        self._received = bytearray()
        self._needed = 0  # bytes of the whole request, once its head is there

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (cut := self._received.find(b"\r\n\r\n")) >= 0 and len(self._received) >= self._needed:
            first, *lines = self._received[:cut].decode("latin-1").split("\r\n")
            pairs = (line.partition(":") for line in lines)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            self._needed = cut + 4 + int(headers.get("content-length", 0))
            if len(self._received) < self._needed:
                return
            body = bytes(self._received[cut + 4 : self._needed])
            del self._received[: self._needed]
            self._needed = 0
            self._respond(first, headers, body)

    def _respond(self, first: str, headers: Mapping[str, str], body: bytes) -> None:
        due, (method, target, _) = self.loop.time() + self.delay, first.split(" ")
        url = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        answer = self.buckets.answer(Request(method, unquote(url.path).lstrip("/"), query, headers, body))
        own = any(line.startswith("Content-Length") for line in answer.headers)
        length = () if own or answer.status == 204 else (f"Content-Length: {len(answer.body)}",)
        head = [f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}", "Server: bench", *answer.headers, *length]
        sent = "\r\n".join([*head, "", ""]).encode() + (b"" if method == "HEAD" else answer.body)
        self.loop.call_at(due, self.transport.write, sent)


async def serve(root: Path, delay: float) -> None:
    """Serve for ever, and print the port."""
    loop, make = asyncio.get_running_loop(), partial(Connection, Buckets(root), delay)
    server = await loop.create_server(make, "127.0.0.1", 0, backlog=256)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    """`python -m bench.scale_s3 ROOT --delay MS`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("--delay", type=float, default=10.0)
    given = parser.parse_args()
    die_with_parent()
    asyncio.run(serve(given.root, given.delay / 1000))


if __name__ == "__main__":
    main()
