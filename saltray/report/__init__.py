"""What a person looks at: pictures of predictions, and one self-contained HTML page a run."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saltray.report.demo import draw_demo as draw_demo
    from saltray.report.demo import draw_examples as draw_examples
    from saltray.report.page import render_run as render_run
    from saltray.report.search import draw_range_test as draw_range_test
    from saltray.report.search import draw_search as draw_search

_HOME = {
    "draw_demo": "demo",
    "draw_examples": "demo",
    "draw_range_test": "search",
    "draw_search": "search",
    "render_run": "page",
}
__all__ = ["draw_demo", "draw_examples", "draw_range_test", "draw_search", "render_run"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
