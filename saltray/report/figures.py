"""What all pictures share: resolution, ink, and how they become PNG files."""

import io

from matplotlib.figure import Figure

DPI = 144
"""Pixels per inch."""
INK = "#1d2329"
"""Colour of text."""


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG: the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": "saltray"})
    return buffer.getvalue()
