"""Pictures are reproducible PNG files, and drawn without pyplot's global state."""

import io
import subprocess
import sys

from matplotlib.figure import Figure
from PIL import Image

from saltray.report.figures import DPI, to_png


def square() -> Figure:
    figure = Figure(figsize=(1, 2))
    figure.add_subplot().plot([0, 1], [0, 1])
    return figure


def test_a_png_of_the_same_bytes_each_time() -> None:
    data = to_png(square())
    picture = Image.open(io.BytesIO(data))
    assert (picture.format, picture.size) == ("PNG", (DPI, 2 * DPI))
    assert to_png(square()) == data


def test_drawing_loads_neither_pyplot_nor_torch() -> None:
    code = (
        "import sys, saltray.report.examples, saltray.report.search_figures\n"
        "assert 'matplotlib.figure' in sys.modules\n"
        "assert not {'matplotlib.pyplot', 'torch', 'ray'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
