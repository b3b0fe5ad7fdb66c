"""A proxy in front of the S3 server that plays a network or a server at fault."""

import http.client
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

BUCKET = "saltray-test"


@dataclass
class Fault:
    """What goes wrong with the next requests that match.

    Args:
        method: HTTP method.
        text: found in the request's target.
        status: answered in place of the server's; 0 to do what `action` says.
        code: S3's error code in that answer.
        message: its text.
        action: reset (closed before the server sees it), damage (a bit of the request's body is flipped), silence (the
            server does it, but the reply is lost), truncate (half of the reply's body), swallow (200 without doing it),
            unconditional (If-None-Match is left out), short pages (a listing gives two names a page).
        times: how many requests it hits.
        first: called before the action.
    """

    method: str
    text: str = ""
    status: int = 0
    code: str = "Fault"
    message: str = "played by the test"
    action: str = ""
    times: int = 1
    first: Callable[[], object] = lambda: None


class FaultProxy(ThreadingHTTPServer):
    """Forwards to the server at `target`, except what `faults` spoils.

    Of each request `seen` holds 'METHOD target', `ports` the client's port, and `regions` the one it is signed for.
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
        self._lock = threading.Lock()

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
        fault = self.server.fault_for(self.command, self.path) or Fault(self.command, times=0)
        fault.first()
        if fault.action == "damage":
            body = bytes([body[0] ^ 1]) + body[1:]
        if fault.action == "unconditional":
            del self.headers["If-None-Match"]
        if fault.action == "short pages":
            self.path += "&max-keys=2"
        if fault.status:
            text = f"<Error><Code>{fault.code}</Code><Message>{fault.message}</Message></Error>".encode()
            self._reply(fault.status, {}, b"" if self.command == "HEAD" else text)
        elif fault.action == "swallow":
            self._reply(200, {"ETag": '"0"'}, b"")
        elif fault.action == "reset":
            self.close_connection = True
        else:
            try:
                status, headers, reply = self._forward(body)
            except OSError:  # the server is away
                self.close_connection = True
                return
            if fault.action == "silence":
                self.close_connection = True
            else:
                self._reply(status, headers, reply[: len(reply) // 2] if fault.action == "truncate" else reply)
                self.close_connection |= fault.action == "truncate"

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Keep quiet."""

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.server.target)
        connection.request(self.command, self.path, body, dict(self.headers))
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        return reply.status, {"Content-Length": str(len(content)), **dict(reply.getheaders())}, content

    def _reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            if name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
