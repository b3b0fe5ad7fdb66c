"""The web service without Ray, by a real server and clients, with the models in this process."""

import asyncio
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx
import numpy as np
import pytest
from web_server import web_server

from saltray.distributed import web
from saltray.distributed.served_masks import MAX_BODY, Masked, Refused
from saltray.distributed.web import digest_of, make_web

TOKEN = "a-token-of-some-length"
SALT = np.eye(5, 7) > 0


class Echo:
    """A backend that gives always the same mask, and keeps what it got."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.refusal: Refused | None = None

    async def predict(self, data: bytes) -> Masked | Refused:
        self.got.append(data)
        return self.refusal or Masked(ensemble="r1 v3", salt=SALT, mean_probability=0.5)

    async def describe(self) -> Mapping[str, Any] | Refused:
        return self.refusal or {"ensemble": "r1 v3", "height": 5, "width": 7}


@pytest.fixture
def backend() -> Echo:
    return Echo()


@pytest.fixture
def call(backend: Echo) -> Callable[..., httpx.Response]:
    """Calls the service: `call("POST", "/predict", token=..., content=...)`."""

    def call(method: str, path: str, *, token: str | None = None, **request: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(make_web(backend, token and digest_of(token)))
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **request)

        return asyncio.run(send())

    return call


@pytest.fixture
def address(backend: Echo) -> Iterator[tuple[str, int]]:
    """Of the service as a real server."""
    with web_server(make_web(backend, None)) as address:
        yield address


Call = Callable[..., httpx.Response]


def test_a_body_and_a_form_are_the_same(call: Call, backend: Echo) -> None:
    for request in ({"content": b"tile"}, {"files": {"any": ("t.png", b"tile")}}, {"files": {"file": b"tile"}}):
        answer = call("POST", "/predict", **request)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        assert answer.headers["x-saltray-ensemble"] == "r1 v3"
    assert backend.got == [b"tile"] * 3


def test_forms_by_header_and_by_query(call: Call) -> None:
    answer = call("POST", "/predict", content=b"tile", headers={"Accept": "application/json"})
    assert answer.json()["salt_pixels"] == 5
    answer = call("POST", "/predict?format=rle", content=b"tile")
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text == "1 1 7 1 13 1 19 1 25 1"


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        ({"files": [("a", b"1"), ("b", b"2")]}, 422, "the form has 2 files; send one tile in each request"),
        ({"data": {"a": "b"}, "headers": {"Content-Type": "multipart/form-data"}}, 400, "boundary"),
        ({"files": [(str(n), b"1") for n in range(20)]}, 400, "Too many files"),
        ({"content": b"x" * (MAX_BODY + 1)}, 413, f"the body has {MAX_BODY + 1:,} bytes; the limit is {MAX_BODY:,}"),
        ({"content": b"x", "params": {"format": "gif"}}, 422, "format is 'gif'; use png, json or rle"),
        ({"content": b"x", "headers": {"Accept": "text/html"}}, 406, "accept one of image/png"),
    ],
)
def test_what_cannot_be_answered_is_told_as_json(
    call: Call, backend: Echo, request_: dict[str, Any], status: int, message: str
) -> None:
    answer = call("POST", "/predict", **request_)
    assert answer.status_code == status
    assert message in answer.json()["error"]
    assert not backend.got


def test_other_routes_and_methods_are_told_as_json(call: Call) -> None:
    assert (call("GET", "/nothing").status_code, call("GET", "/predict").status_code) == (404, 405)
    assert call("GET", "/nothing").json() == {"error": "Not Found"}


def test_a_body_of_unknown_length_is_cut_off_at_the_limit(call: Call) -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while True:
            sent += 2**20
            yield bytes(2**20)

    assert call("POST", "/predict", content=endless()).status_code == 413
    assert sent < 2 * MAX_BODY


def test_a_slow_body_is_not_waited_for(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "BODY_S", 0.2)
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n\r\nfew")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))  # and the connection is closed
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"the body did not arrive within 0.2 s; send it faster" in answer


def test_a_large_body_is_refused_before_it_is_sent(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: 99999999999\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"99,999,999,999 bytes" in answer


@pytest.mark.parametrize("header", [None, "Bearer another-token", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x"])
def test_without_its_token_nothing_is_predicted(call: Call, backend: Echo, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    answer = call("POST", "/predict", token=TOKEN, content=b"x" * (MAX_BODY + 1), headers=headers)
    assert answer.status_code == 401  # before the body is looked at
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "Authorization: Bearer TOKEN" in answer.json()["error"]
    assert not backend.got


def test_with_its_token_it_predicts_and_the_rest_needs_none(call: Call) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert call("POST", "/predict", token=TOKEN, content=b"tile", headers=headers).status_code == 200
    for path in ("/", "/health", "/ready", "/docs", "/openapi.json"):
        answer = call("GET", path, token=TOKEN)
        assert answer.status_code == 200
        assert TOKEN not in answer.text
        assert digest_of(TOKEN) not in answer.text


def test_overload_says_when_to_try_again(call: Call, backend: Echo) -> None:
    backend.refusal = Refused(503, "too many requests wait; send it again later")
    answer = call("POST", "/predict", content=b"tile")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert call("GET", "/ready").status_code == 503
    assert call("GET", "/health").status_code == 200  # it is alive


def test_a_fault_of_the_service_is_told_without_a_traceback(call: Call, backend: Echo) -> None:
    backend.got = None  # type: ignore[assignment]
    with pytest.raises(AttributeError):  # Starlette logs it by raising again, after the answer
        call("POST", "/predict", content=b"tile")


def test_the_schema_describes_what_is_taken_and_given(call: Call) -> None:
    schema = call("GET", "/openapi.json", token=TOKEN).json()
    assert set(schema["paths"]) == {"/predict", "/health", "/ready"}
    predict = schema["paths"]["/predict"]["post"]
    assert {"image/png", "multipart/form-data"} <= set(predict["requestBody"]["content"])
    assert set(predict["responses"]["200"]["content"]) == {"image/png", "application/json", "text/plain"}
    assert {"401", "413", "422", "503"} <= set(predict["responses"])
    assert predict["security"]


def test_the_pages_load_nothing_from_elsewhere(call: Call) -> None:
    for path in ("/", "/docs"):
        answer = call("GET", path)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "http://" not in answer.text.replace("http://test", "")
        assert "https://" not in answer.text
