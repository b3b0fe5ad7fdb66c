"""The web service of an ensemble, without Ray: routes, token, limits and errors."""

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Mapping
from http import HTTPStatus
from importlib.metadata import version
from typing import Annotated, Any, Protocol

from fastapi import Depends, FastAPI, Query, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from saltray.distributed.served_masks import (
    MAX_BODY,
    MEDIA_TYPES,
    Masked,
    Refused,
    choose_form,
    encode_answer,
    too_large,
)
from saltray.report.serve_page import docs_page, upload_page

log = logging.getLogger(__name__)

BODY_S = 20.0
"""Longest time that a client may take to send a body."""
RETRY_AFTER_S = 1
MAX_PARTS = 8
"""Of a multipart body, one of which is the tile."""

# Nothing from elsewhere, nothing sent elsewhere, in no other page's frame.
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
}
ANSWER_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


class Backend(Protocol):
    """What predicts."""

    async def predict(self, data: bytes) -> Masked | Refused:
        """The mask of a tile, by the bytes of its file."""

    async def describe(self) -> Mapping[str, Any] | Refused:
        """What is served, for `/ready`."""


def make_web(backend: Backend, token_digest: str | None) -> FastAPI:
    """The web service.

    Args:
        backend: what predicts.
        token_digest: SHA-256, in hex, of the token that a client of `/predict` has to send; None for no token.
    """
    app = FastAPI(
        title="saltray",
        version=version("saltray"),
        summary="Seismic tiles in, salt masks out.",
        docs_url=None,  # FastAPI's page loads its script from another site
        redoc_url=None,
        exception_handlers={HTTPException: _tell, RequestValidationError: _tell_invalid, Exception: _tell_unexpected},
    )
    bearer = Security(HTTPBearer(auto_error=False, description="The token that the service was started with."))

    async def check_token(credentials: HTTPAuthorizationCredentials | None = bearer) -> None:  # before the body is read
        if credentials is None or not hmac.compare_digest(digest_of(credentials.credentials), str(token_digest)):
            message = "no token, or a wrong one; send the header `Authorization: Bearer TOKEN`"
            raise _refusal(Refused(HTTPStatus.UNAUTHORIZED, message), {"WWW-Authenticate": "Bearer"})

    @app.post(
        "/predict",
        summary="The salt mask of one tile",
        response_class=Response,
        openapi_extra=_REQUEST,
        dependencies=[Depends(check_token)] if token_digest else [],
    )
    async def predict(
        request: Request,
        format: Annotated[  # noqa: A002
            str | None, Query(description="png, json or rle; counts before the Accept header.")
        ] = None,
    ) -> Response:
        """The body is the file of a grey tile (PNG, TIFF or JPEG), of the size in /ready, or a form with one."""
        form = choose_form(format, request.headers.get("accept"))
        if isinstance(form, Refused):
            raise _refusal(form)
        answer = await backend.predict(await _tile_of(request))
        if isinstance(answer, Refused):
            raise _refusal(answer)
        headers = ANSWER_HEADERS | {"X-Saltray-Ensemble": answer.ensemble, "Vary": "Accept"}
        return Response(encode_answer(answer, form), media_type=MEDIA_TYPES[form], headers=headers)

    @app.get("/health", summary="Whether the web service runs", response_description="It does.")
    async def health() -> dict[str, str]:
        return {"status": "running"}

    @app.get(
        "/ready",
        summary="Whether tiles are taken",
        response_description="Name and version of the ensemble, and the size of its tiles.",
        responses={503: {"description": "No replica answers, or too many requests wait.", **_ERROR}},
    )
    async def ready() -> JSONResponse:
        description = await backend.describe()
        if isinstance(description, Refused):
            raise _refusal(description)
        return JSONResponse({"status": "ready", **description}, headers={"Cache-Control": "no-store"})

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(upload_page(needs_token=token_digest is not None), headers=PAGE_HEADERS)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(app.openapi()), headers=PAGE_HEADERS)

    return app


_FILE = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "schema": {
        "type": "object",
        "properties": {"file": {"type": "string", "format": "binary"}},
        "required": ["file"],
    }
}
_ERROR = {
    "content": {
        "application/json": {"schema": {"type": "object", "properties": {"error": {"type": "string"}}}},
    }
}
_REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"image/png": _FILE, "image/tiff": _FILE, "image/jpeg": _FILE, "multipart/form-data": _FORM},
    },
    "responses": {
        "200": {
            "description": "The mask: a PNG of 0 and 255, a JSON object, or the run-length encoding alone.",
            "content": {
                "image/png": _FILE,
                "application/json": {
                    "schema": {
                        "type": "object",
                        "properties": {
                            "ensemble": {"type": "string"},
                            "height": {"type": "integer"},
                            "width": {"type": "integer"},
                            "salt_pixels": {"type": "integer"},
                            "mean_probability": {"type": "number"},
                            "rle": {"type": "string"},
                        },
                    }
                },
                "text/plain": {"schema": {"type": "string"}},
            },
        },
        "401": {"description": "No token, or a wrong one.", **_ERROR},
        "406": {"description": "None of the forms is accepted.", **_ERROR},
        "408": {"description": f"The body took longer than {BODY_S:g} s.", **_ERROR},
        "413": {"description": f"More than {MAX_BODY:,} bytes, or too many pixels.", **_ERROR},
        "422": {"description": "No image, damaged, not grey, or not of the ensemble's size.", **_ERROR},
        "503": {"description": "Too many requests: send it again after the seconds in Retry-After.", **_ERROR},
    },
}


def digest_of(token: str) -> str:
    """What the service keeps of its token."""
    return hashlib.sha256(token.encode()).hexdigest()


async def _tile_of(request: Request) -> bytes:
    """The file in the body of a request, read within the limits of size and time."""
    try:
        async with asyncio.timeout(BODY_S):
            body = await _body(request)
    except TimeoutError:
        message = f"the body did not arrive within {BODY_S:g} s; send it faster"
        raise _refusal(Refused(HTTPStatus.REQUEST_TIMEOUT, message)) from None
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return body

    async def replay() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    limits = {"max_files": MAX_PARTS, "max_fields": MAX_PARTS, "max_part_size": MAX_BODY}
    async with Request(request.scope, replay).form(**limits) as form:  # raises HTTPException where it is no form
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if len(files) != 1:
            message = f"the form has {len(files)} files; send one tile in each request"
            raise _refusal(Refused(HTTPStatus.UNPROCESSABLE_ENTITY, message))
        return await files[0].read()


async def _body(request: Request) -> bytes:
    """All bytes of the body, of which no more than the limit are ever kept."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > MAX_BODY:
        raise _refusal(too_large(int(declared)))
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise _refusal(too_large())
    return bytes(body)


def _refusal(refused: Refused, headers: Mapping[str, str] | None = None) -> HTTPException:
    """The exception that becomes the answer. The rest of a body that was not read is not waited for."""
    more = {"Connection": "close"} if refused.status in (401, 408, 413) else {}
    if refused.status == HTTPStatus.SERVICE_UNAVAILABLE:
        more = {"Retry-After": str(RETRY_AFTER_S)}
    return HTTPException(refused.status, refused.message, {**ANSWER_HEADERS, **more, **(headers or {})})


async def _tell(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def _tell_invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = "; ".join(f"{'.'.join(map(str, fault['loc'][1:]))}: {fault['msg']}" for fault in error.errors())
    return JSONResponse({"error": faults}, HTTPStatus.UNPROCESSABLE_ENTITY)


async def _tell_unexpected(_request: Request, error: Exception) -> JSONResponse:
    log.error("a request failed", exc_info=error)
    return JSONResponse({"error": "it failed; the service's log says why"}, HTTPStatus.INTERNAL_SERVER_ERROR)
