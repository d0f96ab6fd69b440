"""The drawings of docs/strategies.md, as SVG: `python docs/figures.py docs/figures`.

Every number in them is computed here, most by the project's own functions.  The same matplotlib draws the same bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from gpucnn.kernels import conv2d
from gpucnn.kernels.conv.numpy_im2col_gemm import im2col
from gpucnn.kernels.conv.winograd import transforms
from gpucnn.kernels.problem import parse

UNIT = 36  # points: the side of a cell, and what all drawings are measured in
INK, FAINT = "#24292f", "#6e7781"
BLUE, ORANGE, GREEN = "#0969da", "#bc4c00", "#1a7f37"  # outlines: inputs, filters, outputs
INPUT, FILTER, OUTPUT, NOTHING = "#ddf0ff", "#ffe5cc", "#d5f3da", "#f0f1f3"  # cells, and padding
STRONG = {INPUT: "#9ed0fb", FILTER: "#fdc38a", OUTPUT: "#94dba2"}  # those of them that matter
SETTINGS = {
    "svg.hashsalt": "gpucnn",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "path.simplify": False,
}

IMAGE = np.arange(1.0, 17.0).reshape(4, 4)
TAPS = np.array([[1.0, 0.0, 1.0], [0.0, 2.0, 0.0], [1.0, 0.0, 1.0]])
LAYER = parse("mb1ic1ih4oc1kh3")  # of the two


def sums() -> np.ndarray:
    """LAYER's outputs (2, 2)."""
    return conv2d(IMAGE[None, None], TAPS[None, None], strategy="numpy_direct")[0, 0]


def columns() -> np.ndarray:
    """LAYER's im2col matrix (9, 4)."""
    return im2col(LAYER, IMAGE[None, None])[0, 0]


def number(value: float) -> str:
    """As people write it: no point where there is no fraction, a minus sign that is one."""
    return f"{value:.4g}".replace("-", "−")


class Drawing:
    """A white page; x runs right and y down, both in cells."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width * UNIT / 72, height * UNIT / 72), facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        self.axes.set_axis_off()

    def text(self, x: float, y: float, what: str, size: float = 13, color: str = INK, **more: object) -> None:
        self.axes.text(x, y, what, fontsize=size, color=color, **{"ha": "center", "va": "center", **more})

    def box(self, x: float, y: float, wide: float, high: float, color: str, **more: object) -> None:
        """An outline."""
        style = {"facecolor": "none", "edgecolor": color, "linewidth": 2.5, "joinstyle": "miter", **more}
        self.axes.add_patch(Rectangle((x, y), wide, high, **style))

    def cell(self, x: float, y: float, fill: str, what: str = "", side: float = 1, **more: object) -> None:
        self.axes.add_patch(Rectangle((x, y), side, side, facecolor=fill, edgecolor="white", linewidth=1.5))
        if what:
            self.text(x + side / 2, y + side / 2 + 0.02, what, **more)

    def grid(
        self,
        x: float,
        y: float,
        values: np.ndarray,
        fill: str,
        side: float = 1,
        strong: Callable[[int, int], bool] = lambda i, j: False,
        **more: object,
    ) -> None:
        """A matrix of numbers, or of strings; some cells stronger than the others."""
        for (i, j), value in np.ndenumerate(values):
            shade = STRONG[fill] if strong(i, j) else fill
            what = value if isinstance(value, str) else number(value)
            self.cell(x + j * side, y + i * side, shade, what, side, **more)

    def arrow(self, start: tuple[float, float], end: tuple[float, float], color: str = INK, **more: object) -> None:
        style = {"arrowstyle": "-|>", "mutation_scale": 14, "linewidth": 1.5, "shrinkA": 0, "shrinkB": 0, **more}
        self.axes.add_patch(FancyArrowPatch(start, end, color=color, **style))

    def line(self, xs: Sequence[float], ys: Sequence[float], color: str = INK, **more: object) -> None:
        self.axes.plot(xs, ys, color=color, **{"linewidth": 1.5, "solid_capstyle": "butt", **more})

    def write(self, path: Path) -> None:
        FigureCanvasSVG(self.figure).print_svg(path, metadata={"Date": None})
        text = path.read_text(encoding="utf-8")
        path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")


# The drawings ---------------------------------------------------------------------------------------------------------


def sliding() -> Drawing:
    """A filter over an image: one output is one sum of products."""
    d = Drawing(14.4, 6.9)
    d.text(2.4, 0.5, "image x, 4×4")
    d.grid(0.4, 1, IMAGE, INPUT, strong=lambda i, j: i < 3 and j < 3)
    d.box(0.4, 1, 3, 3, ORANGE)
    d.arrow((0.5, 5.3), (4.3, 5.3), ORANGE)
    d.arrow((4.7, 1.1), (4.7, 4.9), ORANGE)
    d.text(5.6, 3, "∗", 22)
    d.text(8, 0.5, "filter w, 3×3")
    d.grid(6.5, 1.5, TAPS, FILTER)
    d.text(10.35, 3, "=", 22)
    d.text(12.2, 0.5, "output y, 2×2")
    d.grid(11.2, 2, sums(), OUTPUT, strong=lambda i, j: i == j == 0)
    terms = [(tap, IMAGE[at]) for at, tap in np.ndenumerate(TAPS) if tap]
    text = " + ".join(f"{number(tap)}·{number(value)}" for tap, value in terms)
    d.text(7.2, 6.2, f"{text} = {number(sum(tap * value for tap, value in terms))}   (and five products with 0)", 13)
    return d


def roofline() -> Drawing:
    """Two roofs, no numbers."""
    d = Drawing(14.4, 7.2)
    left, bottom, top, ridge, right = 1.6, 6.0, 1.5, 7.4, 13.8
    d.axes.fill([left, ridge, ridge, left], [5.4, top, bottom, bottom], color=INPUT, linewidth=0)
    d.axes.fill([ridge, right, right, ridge], [top, top, bottom, bottom], color=OUTPUT, linewidth=0)
    d.line([left, ridge, right], [5.4, top, top], linewidth=3)
    d.line([ridge, ridge], [top, bottom], FAINT, linestyle=(0, (4, 3)))
    d.arrow((left, bottom), (right + 0.3, bottom))
    d.arrow((left, bottom), (left, 0.7))
    d.text(0.8, 3.4, "FLOPs a second  (log)", rotation=90)
    d.text(7.7, 6.65, "arithmetic intensity: FLOPs a byte  (log)")
    d.text(4.0, 2.85, "bandwidth × intensity", rotation=35.5, rotation_mode="anchor")
    d.text(10.6, 1.0, "the arithmetic units' rate")
    d.text(5.2, 5.2, "memory limits:\nmove fewer bytes", color=BLUE)
    d.text(10.6, 3.9, "arithmetic limits:\nexecute fewer FLOPs,\nor on faster units", color=GREEN)
    return d


def direct() -> Drawing:
    """What a block stages, and what a thread holds."""
    d = Drawing(15.4, 8.2)
    d.text(3.4, 0.5, "a block: staged in shared memory")
    side = 0.6
    d.text(2.1, 1.35, "inputs", 12, BLUE)
    for i, j in np.ndindex(6, 6):
        d.cell(0.3 + j * side, 1.8 + i * side, STRONG[INPUT] if 0 < i < 5 and 0 < j < 5 else INPUT, side=side)
    d.box(0.3, 1.8, 6 * side, 6 * side, BLUE)
    d.text(5.5, 1.35, "filters", 12, ORANGE)
    for k in range(2):
        for i, j in np.ndindex(3, 3):
            d.cell(4.6 + j * side, 1.8 + k * 2.1 + i * side, FILTER, side=side)
        d.box(4.6, 1.8 + k * 2.1, 3 * side, 3 * side, ORANGE)
    d.text(3.5, 7.0, "6×6 inputs serve 4×4 outputs\nof every filter; the rim is the\nneighbours' too", 12)
    d.line([7.3, 7.3], [0.9, 7.8], FAINT, linewidth=1)
    d.text(11.4, 0.5, "a thread: sums in registers")
    x, y = 10.2, 3.1
    d.text(x + 2, 1.35, "one tap, under 4 pixels", 12, BLUE)
    for j in range(4):
        d.cell(x + j, y - 1.25, STRONG[INPUT], f"x{j}")
    d.text(x - 1.4, y + 1, "of 2\nfilters", 12, ORANGE, ha="right")
    for i in range(2):
        d.cell(x - 1.25, y + i, STRONG[FILTER], f"w{i}")
    for i, j in np.ndindex(2, 4):
        d.cell(x + j, y + i, OUTPUT, f"w{i}·x{j}", size=10)
    d.box(x, y, 4, 2, GREEN)
    d.text(11.4, 7.0, "for each tap and channel, 4 + 2 values\nread from shared memory feed 4·2\nmultiply-adds", 12)
    return d


def groups() -> Drawing:
    """Which input channels an output channel reads."""
    d = Drawing(15.4, 5.6)
    panels = [("dense: groups = 1", 4), ("groups = 2", 2), ("depthwise: groups = C", 1)]
    for panel, (title, size) in enumerate(panels):
        x = 0.8 + panel * 5.1
        d.text(x + 1.8, 0.5, title)
        for k, c in np.ndindex(4, 4):
            if k // size == c // size:
                d.line([x + 0.8, x + 2.8], [1.5 + c, 1.5 + k], ORANGE, linewidth=1.3)
        for channel in range(4):
            d.cell(x, 1.1 + channel, STRONG[INPUT], f"c{channel}", 0.8)
            d.cell(x + 2.8, 1.1 + channel, STRONG[OUTPUT], f"k{channel}", 0.8)
        d.text(x + 1.8, 5.2, f"{4 * size} filter planes", 12, ORANGE)
    return d


def depthwise() -> Drawing:
    """A row in registers, under which a row of taps slides."""
    d = Drawing(15.4, 6.6)
    rows = np.arange(1.0, 19.0).reshape(3, 6)
    d.text(3.3, 0.5, "one channel's input")
    d.grid(0.3, 1.1, rows, INPUT, strong=lambda i, j: i == 1)
    d.box(0.3, 2.1, 6, 1, ORANGE)
    d.arrow((6.5, 2.6), (8.2, 2.6), ORANGE)
    d.text(7.35, 1.8, "loaded\nonce", 12, ORANGE)
    side = 0.76
    d.text(11.7, 0.5, "4 outputs in a row, 3 taps each")
    for output in range(4):
        y = 1.1 + output * (side + 0.12)
        d.grid(8.4, y, rows[1:2], INPUT, side, lambda i, j, first=output: first <= j < first + 3, size=12)
        d.box(8.4 + output * side, y, 3 * side, side, ORANGE, linewidth=2)
        d.arrow((13.1, y + side / 2), (13.6, y + side / 2))
        d.cell(13.7, y, OUTPUT, f"y{output}", side, size=12)
    d.text(7.7, 5.5, "6 loads feed 12 multiply-adds; windows that are read anew would take 12.", 12)
    d.text(7.7, 6.0, "The other two rows of the input meet the other two rows of taps in the same way.", 12)
    return d


def im2col_drawing() -> Drawing:
    """The columns of LAYER, and the product."""
    d = Drawing(15.4, 9.3)
    side, top = 0.76, 1.1
    inner = {6.0, 7.0, 10.0, 11.0}
    matrix = columns()
    x = 7.8
    d.text(3.65, 3.1, "filter: one row, 1×9")
    d.grid(0.2, 3.6, TAPS.reshape(1, 9), FILTER, side)
    d.text(7.37, 3.98, "×", 20)
    d.text(x + 2 * side, 0.6, "columns, 9×4", color=BLUE)
    d.grid(x, top, matrix, INPUT, side, strong=lambda i, j: matrix[i, j] in inner, size=12)
    for j in range(4):
        d.text(x + (j + 0.5) * side, top + 9 * side + 0.35, f"{j // 2},{j % 2}", 11, FAINT)
    d.text(x + 2 * side, top + 9 * side + 0.9, "output p,q", 11, FAINT)
    d.text(11.3, 3.98, "=", 20)
    d.text(11.8 + 2 * side, 3.1, "outputs, 1×4")
    d.grid(11.8, 3.6, sums().reshape(1, 4), OUTPUT, side)
    d.text(
        3.65, 5.6, "16 inputs became 36 elements:\neach window is a column, and the\nstrong ones stand in all four", 12
    )
    return d


def implicit_gemm() -> Drawing:
    """A tile of the matrix that is never built, and the pixels that it is."""
    d = Drawing(15.4, 9.3)
    side, top, x = 0.76, 1.1, 1.6
    matrix = columns()
    rows, cols = range(3, 6), range(2)
    d.text(x + 2 * side, 0.5, "columns: never built", color=FAINT)
    for (i, j), value in np.ndenumerate(matrix):
        if i in rows and j in cols:
            d.cell(x + j * side, top + i * side, STRONG[INPUT], number(value), side, size=12)
        else:
            d.cell(x + j * side, top + i * side, NOTHING, "·", side, color=FAINT)
    d.box(x, top, 4 * side, 9 * side, FAINT, linewidth=1.5, linestyle=(0, (4, 3)))
    d.box(x, top + 3 * side, 2 * side, 3 * side, BLUE)
    for i in range(9):
        strong = i in rows
        d.text(x - 0.15, top + (i + 0.5) * side, f"{i // 3},{i % 3}", 11, INK if strong else FAINT, ha="right")
    d.text(0.45, top + 4.5 * side, "tap r,s", 11, FAINT, rotation=90)
    for j in range(4):
        strong = j in cols
        color = INK if strong else FAINT
        d.text(x + (j + 0.5) * side, top + 9 * side + 0.35, f"{j // 2},{j % 2}", 11, color)
    d.text(x + 2 * side, top + 9 * side + 0.9, "output p,q", 11, FAINT)
    image_x, image_y = 10.6, 2.2
    d.text(image_x + 2, image_y - 0.6, "image, as it lies in memory")
    d.grid(image_x, image_y, IMAGE, INPUT, strong=lambda i, j: i == 1)
    d.box(image_x, image_y + 1, 3, 1, BLUE)
    d.box(image_x + 1.08, image_y + 1.08, 2.84, 0.84, GREEN)
    d.arrow((image_x - 0.1, image_y + 1.5), (x + 2 * side + 0.15, top + 4.5 * side), BLUE)
    d.text(7.5, 2.6, "gathered into shared\nmemory: x[p+r, q+s]", 12, BLUE)
    d.text(image_x + 2, image_y + 5.0, "column 0,0 reads 5 6 7", 12, BLUE)
    d.text(image_x + 2, image_y + 5.6, "column 0,1 reads 6 7 8", 12, GREEN)
    return d


def tma() -> Drawing:
    """One box, moved by a tap."""
    d = Drawing(15.4, 7.4)
    side = 0.7
    for panel, (r, s) in enumerate([(0, 0), (1, 1), (2, 2)]):
        x, y = 0.5 + panel * 5.1, 1.3
        d.text(x + 3 * side, 0.6, f"tap (r,s) = ({r},{s})")
        for i, j in np.ndindex(6, 6):
            inside = 1 <= i <= 4 and 1 <= j <= 4
            boxed = r <= i < r + 4 and s <= j < s + 4
            at = (x + j * side, y + i * side)
            if inside:
                d.cell(*at, STRONG[INPUT] if boxed else INPUT, number(IMAGE[i - 1, j - 1]), side, size=11)
            else:
                d.cell(*at, NOTHING, "0" if boxed else "", side, size=11, color=FAINT)
        d.box(x + s * side, y + r * side, 4 * side, 4 * side, ORANGE, linewidth=3)
        d.text(x + 3 * side, y + 6 * side + 0.5, f"box starts at ({number(r - 1)},{number(s - 1)})", 12, ORANGE)
    d.text(7.7, 6.9, "4×4 outputs, padding 1: the copy engine fills in zeros; no thread computes an address", 12)
    return d


def winograd() -> Drawing:
    """F(2,3) as four lanes."""
    d = Drawing(15.4, 9.1)
    at, g, bt = transforms(2)
    taps, inputs = np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0, 7.0])
    moved, spread = bt @ inputs, g @ taps
    products = moved * spread
    lane = [4.3 + 2.9 * i for i in range(4)]

    def formula(row: np.ndarray, name: str) -> str:
        scale = min(abs(row[row != 0]))
        order = sorted(np.flatnonzero(row), key=lambda i: row[i] < 0)
        terms = [("−" if row[i] < 0 else "+", f"{name}{i}", abs(row[i]) / scale) for i in order]
        text = "".join(f"{sign}{term}" for sign, term, _ in terms).removeprefix("+")
        assert all(weight == 1 for *_, weight in terms)
        return text if scale == 1 else f"({text})/{number(1 / scale)}"

    def row(y: float, label: str, texts: Sequence[str], values: np.ndarray, fill: str) -> None:
        d.text(0.3, y + 0.4, label, 12, ha="left")
        for x, text, value in zip(lane, texts, values, strict=True):
            d.text(x, y - 0.05, text, 11, FAINT)
            d.cell(x - 0.45, y + 0.25, STRONG[fill], number(value), 0.9)

    d.text(0.3, 0.7, "4 inputs d, 3 taps g", 12, ha="left")
    for i, value in enumerate(inputs):
        d.cell(lane[0] - 0.45 + i * 0.9, 0.25, INPUT, number(value), 0.9)
    for i, value in enumerate(taps):
        d.cell(lane[2] + 1.0 + i * 0.9, 0.25, FILTER, number(value), 0.9)
    row(1.95, "4 sums of inputs", [formula(line, "d") for line in bt], moved, INPUT)
    row(3.55, "4 sums of taps,\nmade once", [formula(line, "g") for line in g], spread, FILTER)
    d.text(0.3, 5.55, "4 products\n(directly: 6)", 12, ha="left")
    for i, (x, value) in enumerate(zip(lane, products, strict=True)):
        d.arrow((x, 4.75), (x, 5.1), FAINT)
        d.cell(x - 0.45, 5.1, NOTHING, number(value), 0.9)
        d.text(x + 0.6, 5.55, f"m{i}", 11, FAINT, ha="left")
    row_y = 7.1
    d.text(0.3, row_y + 0.4, "2 outputs", 12, ha="left")
    outputs = at @ products
    assert np.array_equal(outputs, np.correlate(inputs, taps))
    for j, (x, value) in enumerate(zip((lane[1], lane[2]), outputs, strict=True)):
        d.text(x, row_y - 0.05, formula(at[j], "m"), 11, FAINT)
        d.cell(x - 0.45, row_y + 0.25, STRONG[OUTPUT], number(value), 0.9)
        window = " + ".join(f"{number(a)}·{number(b)}" for a, b in zip(inputs[j:], taps, strict=False))
        d.text(x, row_y + 1.5, window, 11, FAINT)
    return d


def fft() -> Drawing:
    """LAYER as a product of spectra."""
    d = Drawing(15.4, 7.4)
    side, top, low = 0.62, 1.1, 4.6
    middle, half = (top + low) / 2, 2 * side
    plane = np.zeros((4, 4))
    plane[:3, :3] = TAPS
    image, filters = np.fft.fft2(IMAGE), np.fft.fft2(plane).conj()
    result = np.fft.ifft2(image * filters).real.round(6)
    assert np.array_equal(result[:2, :2], sums())

    def spectrum(x: float, y: float, values: np.ndarray) -> None:
        """Purple: the larger, the darker."""
        size = np.log1p(np.abs(values))
        for (i, j), value in np.ndenumerate(size / size.max()):
            shade = to_hex([1 - (1 - part) * (0.12 + 0.75 * value) for part in (0.51, 0.31, 0.87)])
            d.cell(x + j * side, y + i * side, shade, side=side)

    d.text(0.3 + half, top - 0.5, "image")
    d.grid(0.3, top, IMAGE, INPUT, side, size=10)
    d.text(0.3 + half, low - 0.5, "filter, and 0")
    for (i, j), value in np.ndenumerate(plane):
        d.cell(0.3 + j * side, low + i * side, FILTER if max(i, j) < 3 else NOTHING, number(value), side, size=10)
    for y, title, values in ((top, "spectrum", image), (low, "conjugate", filters)):
        d.arrow((3.0, y + half), (4.2, y + half))
        d.text(3.6, y + half - 0.4, "FFT", 12)
        d.text(4.4 + half, y - 0.5, title)
        spectrum(4.4, y, values)
    d.line([7.1, 7.6, 7.6, 7.1], [top + half, top + half, low + half, low + half])
    d.arrow((7.6, middle + half), (8.3, middle + half))
    d.text(8.5 + half, middle - 0.5, "product")
    spectrum(8.5, middle, image * filters)
    d.arrow((11.2, middle + half), (12.4, middle + half))
    d.text(11.8, middle + half - 0.75, "inverse\nFFT", 12)
    d.text(12.6 + half, middle - 0.5, "outputs")
    for (i, j), value in np.ndenumerate(result):
        fill, color = (STRONG[OUTPUT], INK) if max(i, j) < 2 else (NOTHING, FAINT)
        d.cell(12.6 + j * side, middle + i * side, fill, number(value), side, size=10, color=color)
    d.text(12.1, middle + 2 * half + 0.75, "gray: windows that wrapped\naround, thrown away", 12, FAINT)
    return d


def stem() -> Drawing:
    """Pixels of three channels, and the copy with four."""
    d = Drawing(15.4, 7.6)
    side, x = 0.66, 0.5
    d.text(x, 0.5, "x in channels_last: r, g, b, 2 bytes each", ha="left")
    for at in range(21):
        d.cell(x + at * side, 0.95, INPUT, f"{'rgb'[at % 3]}{at // 3}", side, size=10)
    for word in range(6):
        left = x + word * 4 * side
        d.line([left, left], [0.8, 1.85], FAINT, linestyle=(0, (3, 2)))
    d.text(x, 2.2, "dashed: every 8 bytes; pixels begin anywhere", 12, FAINT, ha="left")
    d.arrow((7.4, 2.6), (7.4, 3.2))
    d.text(x, 3.5, "the copy: padding in its place, a channel of zeros", ha="left")
    y = 4.0
    for pixel in range(5):
        for channel in range(4):
            nothing = pixel == 0 or channel == 3
            what = "0" if nothing else f"{'rgb'[channel]}{pixel - 1}"
            color = FAINT if nothing else INK
            at = x + (4 * pixel + channel) * side
            d.cell(at, y, NOTHING if nothing else STRONG[INPUT], what, side, size=10, color=color)
        d.box(x + 4 * pixel * side, y, 4 * side, side, BLUE, linewidth=1.8)
    d.text(x + 20 * side + 0.2, y + side / 2, "…", ha="left")
    for start, pixels, height, color, name in (
        (0, 3, 5.1, ORANGE, "one window's row: 3 loads"),
        (2, 3, 5.9, GREEN, "the next, by stride 2"),
    ):
        left, right = x + 4 * start * side, x + 4 * (start + pixels) * side
        d.line([left, left, right, right], [height - 0.25, height, height, height - 0.25], color, linewidth=2)
        d.text((left + right) / 2, height + 0.35, name, 12, color)
    d.text(7.7, 7.1, "each blue box is one load of 8 bytes", 12, BLUE)
    return d


DRAWINGS: dict[str, Callable[[], Drawing]] = {
    "sliding": sliding,
    "roofline": roofline,
    "direct": direct,
    "groups": groups,
    "depthwise": depthwise,
    "im2col": im2col_drawing,
    "implicit_gemm": implicit_gemm,
    "tma": tma,
    "winograd": winograd,
    "fft": fft,
    "stem": stem,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the files go")
    folder = parser.parse_args(arguments).folder
    with matplotlib.rc_context(SETTINGS):
        for name, draw in DRAWINGS.items():
            draw().write(folder / f"{name}.svg")
    print(f"{len(DRAWINGS)} drawings are in {folder}.")


if __name__ == "__main__":
    main()
