"""The pages of a served ensemble. Each is one HTML file that loads nothing from another site."""

from collections.abc import Mapping
from typing import Any

from saltray.report.templating import template


def upload_page(*, needs_token: bool) -> str:
    """The page on which tiles are dropped and their masks seen.

    Args:
        needs_token: whether `/predict` takes no request without a token.
    """
    return template("serve.html.j2").render(needs_token=needs_token)


def docs_page(schema: Mapping[str, Any]) -> str:
    """The routes of an OpenAPI schema, with their parameters, bodies and answers."""
    routes = [
        (method.upper(), path, operation)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    return template("serve_docs.html.j2").render(info=schema["info"], routes=routes)
