"""A proxy in front of an S3 server that simulates faults of the network and the server."""

import http.client
import re
import socket
import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest

from saltray.errors import StorageError

BUCKET = "saltray-test"
FOREVER = 10**6


@dataclass
class Fault:
    """A fault of the next requests that match.

    Args:
        method: HTTP method.
        text: part of the request's target.
        status: HTTP status of the reply in place of the server's; 0 for the server's reply, or what `action` says.
        code: S3's error code in that reply.
        message: the error's text in that reply.
        action: reset (the connection is closed before the server sees the request), corrupt (a bit of the request's
            body is flipped), execute (the server executes the request before it replies with `status`), lose reply (the
            server executes the request, then the connection is closed), truncate (the reply, also one of `status`, has
            half its body), break off (all but its last byte), unframed (half of it, and no length), ignore (status 200
            without execution), unconditional (If-None-Match is removed), short pages (a listing has two names per
            page), reversed (a listing has its names in reverse).
        abrupt: a connection that the fault closes ends with RST, as that of a process that died, not with FIN.
        body: of the reply with `status`, in place of the error's XML.
        headers: of that reply.
        times: number of requests with the fault.
        before: called first.
    """

    method: str
    text: str = ""
    status: int = 0
    code: str = "Fault"
    message: str = "simulated"
    action: str = ""
    abrupt: bool = False
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1
    before: Callable[[], object] = lambda: None


class FaultProxy(ThreadingHTTPServer):
    """Forwards requests to the server at `target`, with `faults`.

    For each request, `seen` has 'METHOD target', `ports` the client's port, and `regions` the region in the signature.
    For each PUT and POST, `encryptions` has 'METHOD target' and the encryption that it asks for.
    """

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), FaultHandler)
        self.target = urlsplit(target).netloc
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.faults: list[Fault] = []
        self.seen: list[str] = []
        self.ports: list[int] = []
        self.regions: list[str] = []
        self.encryptions: list[tuple[str, tuple[str | None, str | None]]] = []
        self.abrupt: set[socket.socket] = set()
        self._lock = threading.Lock()

    def shutdown_request(self, request: Any) -> None:
        if request in self.abrupt:
            self.abrupt.discard(request)
            request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_request(request)  # with nothing to linger for, RST
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing of a client that is gone: Python 3.11 would call `ast.parse`, which two threads cannot do."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def fault_for(self, method: str, target: str) -> Fault | None:
        with self._lock:
            self.seen.append(f"{method} {target}")
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and fault.text in target:
                    fault.times -= 1
                    return fault
        return None


class FaultHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultProxy

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.ports.append(self.client_address[1])
        # Authorization: AWS4-HMAC-SHA256 Credential=KEY/DAY/REGION/s3/aws4_request, …
        self.server.regions.append(self.headers["Authorization"].split("/")[2])
        if self.command in ("PUT", "POST"):
            kind, key = "x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id"
            asked = self.headers[kind], self.headers[key]
            self.server.encryptions.append((f"{self.command} {self.path}", asked))
        fault = self.server.fault_for(self.command, self.path) or Fault(self.command, times=0)
        fault.before()
        if fault.abrupt:
            self.server.abrupt.add(self.connection)
        if fault.action == "corrupt":
            body = bytes([body[0] ^ 1]) + body[1:]
        if fault.action == "unconditional":
            del self.headers["If-None-Match"]
        if fault.action == "short pages":
            self.path += "&max-keys=2"
        if fault.action == "execute":
            self._forward(body)
        if fault.status:
            text = f"<Error><Code>{fault.code}</Code><Message>{fault.message}</Message></Error>".encode()
            text = text if fault.body is None else fault.body
            self._reply(fault.status, fault.headers, b"" if self.command == "HEAD" else text, fault.action)
        elif fault.action == "ignore":
            self._reply(200, {"ETag": '"0"'}, b"")
        elif fault.action == "reset":
            self.close_connection = True
        else:
            try:
                status, headers, reply = self._forward(body)
            except OSError:  # the server is down
                self.close_connection = True
                return
            if fault.action == "reversed":
                start, *names = re.split(rb"(?=<Contents>)", reply)
                *names, last = names or [b""]
                last, end = last[: last.rfind(b"</Contents>") + 11], last[last.rfind(b"</Contents>") + 11 :]
                reply = b"".join([start, *reversed([*names, last]), end]) if last else reply
            if fault.action == "lose reply":
                self.close_connection = True
            else:
                self._reply(status, headers, reply, fault.action)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing."""

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.server.target)
        connection.request(self.command, self.path, body, dict(self.headers))
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        return reply.status, {"Content-Length": str(len(content)), **dict(reply.getheaders())}, content

    def _reply(self, status: int, headers: dict[str, str], body: bytes, action: str = "") -> None:
        self.send_response_only(status)
        dropped = {"connection", "transfer-encoding"} | ({"content-length"} if action == "unframed" else set())
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            if name.lower() not in dropped:
                self.send_header(name, value)
        self.end_headers()
        half = body[: len(body) // 2]
        self.wfile.write({"truncate": half, "unframed": half, "break off": body[:-1]}.get(action, body))
        self.close_connection |= action in ("truncate", "unframed", "break off")


def refused(
    call: Callable[[], object], kind: type[StorageError] = StorageError, *, at_once_by: FaultProxy | None = None
) -> str:
    """The message with which a call fails; with `at_once_by`, the call must send exactly one request to the proxy."""
    if at_once_by is not None:
        at_once_by.seen.clear()
    with pytest.raises(StorageError) as caught:
        call()
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    if at_once_by is not None:
        assert len(at_once_by.seen) == 1
    return str(caught.value)
