"""The page of a few held-out tiles of a run, each large, with all layers."""

from collections.abc import Sequence
from dataclasses import dataclass

from saltray.report.templating import template
from saltray.report.tile_pictures import TileView


@dataclass(frozen=True, kw_only=True)
class TilesReport:
    """All that the page shows."""

    run: str
    ensemble: str
    """URI of the published version."""
    postprocess: str
    """How probabilities become masks, in words."""
    tiles: Sequence[TileView]


def render_tiles(report: TilesReport) -> str:
    """One self-contained HTML page."""
    return template("tiles.html.j2").render(report=report)
