"""Corners, edges, their orientations and a pyramid of two photographs: images on CuPy arrays, by a network's operators.

python examples/cupy_pipeline.py
python examples/cupy_pipeline.py --picture photo.jpg --out photo_edges.png

Everything stays on the GPU, where there is one, until it is drawn: CuPy arrays go into the operators and come out.
Elsewhere the same lines run on NumPy's.
"""

from __future__ import annotations

import argparse
import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_sample_images

from gpucnn.kernels import avg_pool2d, conv2d, max_pool2d, softmax

try:
    import cupy
except ImportError:
    cupy = None

xp: Any = cupy if cupy is not None and cupy.is_available() else np

CREDIT = "photographs: danielbuechele and vultilion on flickr, CC BY 2.0"  # scikit-learn's
LUMA = (0.299, 0.587, 0.114)  # what red, green and blue add to brightness (ITU-R BT.601)
SOBEL = [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
LEVELS = 4  # of the pyramid
ORIENTATIONS = 8  # over half a circle
SHARPNESS = 8.0  # of the softmax: how far the strongest orientation stands out
LEAST_CORNER = 0.2  # of the picture's strongest


def filters(*planes: Any) -> Any:
    """Planes (R, S) as w (K, 1, R, S)."""
    return xp.asarray(np.stack([np.asarray(plane) for plane in planes])[:, None], "float32")


def smooth(x: Any, sigma: float) -> Any:
    """x (N, C, H, W) under a Gaussian: two depthwise convolutions, along W and along H, the border reflected."""
    taps = np.arange(-np.ceil(3 * sigma), np.ceil(3 * sigma) + 1)
    bell = np.exp(-((taps / sigma) ** 2) / 2)
    row = filters(*[bell[None] / bell.sum()] * x.shape[1])
    layer: dict[str, Any] = {"groups": x.shape[1], "padding": "same", "padding_mode": "reflect"}
    return conv2d(conv2d(x, row, **layer), row.transpose(0, 1, 3, 2), **layer)


def pyramid(x: Any) -> list[Any]:
    """x (N, C, H, W) and smaller ones, each half as large as the one before."""
    levels = [x]
    while len(levels) < LEVELS:
        levels.append(avg_pool2d(smooth(levels[-1], 1.0), 2))
    return levels


def gradient(gray: Any) -> tuple[Any, Any]:
    """gray (N, 1, H, W) -> brightness per pixel along W and along H, both (N, 1, H, W)."""
    sobel = np.array(SOBEL) / 8
    both = conv2d(gray, filters(sobel, sobel.T), padding="same", padding_mode="replicate")
    return both[:, :1], both[:, 1:]


def corners(gray: Any) -> Any:
    """gray (N, 1, H, W) -> where brightness changes in two directions the most, as bool (N, 1, H, W).

    That is where the structure tensor's smaller eigenvalue is the largest of its window (Shi and Tomasi, 1994).
    """
    gx, gy = gradient(smooth(gray, 1.0))
    tensor = smooth(xp.concatenate([gx * gx, gx * gy, gy * gy], axis=1), 1.5)
    xx, xy, yy = tensor[:, :1], tensor[:, 1:2], tensor[:, 2:]
    least = (xx + yy) / 2 - xp.hypot((xx - yy) / 2, xy)
    strongest = least.max(axis=(2, 3), keepdims=True)
    return (least == max_pool2d(least, 15, stride=1, padding=7)) & (least > LEAST_CORNER * strongest) & (least > 1e-6)


def edges(gray: Any) -> Any:
    """gray (N, 1, H, W) -> how steep it is where it is steeper than on both sides, 0 elsewhere: lines a pixel wide."""
    gx, gy = gradient(smooth(gray, 1.0))
    steep = xp.hypot(gx, gy)
    across = xp.where(
        xp.abs(gx) >= xp.abs(gy),
        max_pool2d(steep, (1, 3), stride=1, padding=(0, 1)),
        max_pool2d(steep, (3, 1), stride=1, padding=(1, 0)),
    )
    return xp.where(steep == across, steep, 0)


def orientations(gray: Any) -> tuple[Any, Any]:
    """gray (N, 1, H, W) -> (the share of each orientation (N, K, H, W), how strong the edge is (N, 1, H, W)).

    Channel k answers to a brightness that changes along the angle k * pi / K: a Gaussian's derivative.
    """
    v, u = np.mgrid[-4:5, -4:5]
    angles = np.arange(ORIENTATIONS) * np.pi / ORIENTATIONS
    along = [np.cos(angle) * u + np.sin(angle) * v for angle in angles]
    bank = [plane * np.exp(-(u**2 + v**2) / (2 * 1.5**2)) for plane in along]
    answers = xp.abs(conv2d(gray, filters(*[plane / np.abs(plane).sum() for plane in bank]),
                            padding="same", padding_mode="reflect"))  # fmt: skip
    strength = answers.max(axis=1, keepdims=True)
    return softmax(SHARPNESS * answers / (strength + 0.01), axis=1), strength


def host(array: Any) -> np.ndarray:
    return array if xp is np else array.get()


def coloured(shares: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Of one picture: shares (K, H, W), strength (1, H, W) -> colours (H, W, 3); hue orientation, light strength."""
    turns = np.arange(len(shares)) / len(shares)
    mean = np.tensordot(np.exp(2j * np.pi * turns), shares, 1)
    hues = np.stack([hue(turn) for turn in np.arange(256) / 256])[np.int64(np.angle(mean) / (2 * np.pi) * 256) % 256]
    light = np.minimum(1, strength[0] / np.quantile(strength, 0.98))[..., None]
    certain = np.minimum(1, 1.5 * np.abs(mean))[..., None]
    return light * (certain * hues + 1 - certain)


def hue(turn: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(turn, 0.85, 1.0))


def mosaic(levels: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures (3, H, W), each half as large, as one (H, 1.5 W, 3): the first, and the others at its right."""
    first = levels[0].transpose(1, 2, 0)
    canvas = np.ones((first.shape[0], first.shape[1] + levels[1].shape[2], 3), np.float32)
    canvas[:, : first.shape[1]] = first
    top = 0
    for level in levels[1:]:
        picture = level.transpose(1, 2, 0)
        canvas[top : top + picture.shape[0], first.shape[1] : first.shape[1] + picture.shape[1]] = picture
        top += picture.shape[0]
    return np.clip(canvas, 0, 1)


def draw(x: Any, credit: str) -> Image.Image:
    """x (N, 3, H, W), in 0 to 1: a row for each picture."""
    gray = conv2d(x, xp.asarray(np.reshape(LUMA, (1, 3, 1, 1)), "float32"))
    colours, grays = pyramid(x), pyramid(gray)
    found = [host(corners(level)) for level in grays]
    lines, (shares, strength) = host(edges(gray)), map(host, orientations(gray))

    height, width = x.shape[2:]
    row, gap, top, bottom = 2.6, 0.08, 0.75, 0.4  # inches
    columns = [row * width / height] * 3 + [row * 1.5 * width / height]
    size = (sum(columns) + 3 * gap, len(x) * (row + gap) - gap + top + bottom)
    figure = Figure(size, dpi=96)
    around = {"left": 0, "right": 1, "bottom": bottom / size[1], "top": 1 - top / size[1]}
    between = {"wspace": 4 * gap / sum(columns), "hspace": gap / row}
    axes = figure.subplots(len(x), 4, width_ratios=columns, squeeze=False, gridspec_kw={**around, **between})
    titles = {
        "corners, at every scale": "max_pool2d: the largest of their windows",
        "edges, a pixel wide": "max_pool2d: steeper than on both sides",
        "orientations": "softmax over the channels of a conv2d",
        "pyramid": "depthwise conv2d, then avg_pool2d",
    }
    for axis, (title, how) in zip(axes[0], titles.items(), strict=True):
        axis.set_title(title, fontsize=15, pad=22)
        axis.text(0.5, 1.03, how, fontsize=12, color="0.35", ha="center", transform=axis.transAxes)
    for n, line in enumerate(axes):
        for axis in line:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        line[0].imshow(host(x)[n].transpose(1, 2, 0))
        for level, where in enumerate(found):
            scale = 2**level
            v, u = (scale * (places + 0.5) - 0.5 for places in np.nonzero(where[n, 0]))
            for colour, thick in (("black", 2.4), ("#ffe600", 1.1)):
                line[0].scatter(u, v, (5 * scale) ** 2 / 2, "none", edgecolors=colour, linewidths=thick)
        line[0].set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        line[1].imshow(lines[n, 0], cmap="gray_r", vmin=0, vmax=max(0.02, np.quantile(lines[n], 0.97)))
        line[2].imshow(coloured(shares[n], strength[n]))
        line[3].imshow(mosaic([host(level)[n] for level in colours]))
    for place, (bar, turn) in enumerate({"|": 0, "\\": 0.75, "—": 0.5, "/": 0.25}.items()):
        axes[-1, 2].text(0.35 + 0.1 * place, -0.11, bar, color=0.85 * hue(turn), fontsize=18, weight="bold",
                         ha="center", transform=axes[-1, 2].transAxes)  # fmt: skip

    figure.text(0.002, 0.02, credit, fontsize=10, color="0.35")

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def load(path: Path | None) -> Any:
    """A picture, or scikit-learn's two, as x (N, 3, H, W), float32 in 0 to 1."""
    if path is None:
        pictures = load_sample_images().images  # a palace's roof and a flower
    else:
        with Image.open(path) as picture:
            rgb = picture.convert("RGB")
        rgb.thumbnail((640, 640))
        pictures = [np.asarray(rgb)]
    return xp.ascontiguousarray(xp.asarray(np.stack(pictures), "float32").transpose(0, 3, 1, 2) / 255)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("cupy_pipeline.png"), help="where the PNG goes")
    parser.add_argument("--picture", type=Path, help="a photograph; two of scikit-learn's if left out")
    options = parser.parse_args(arguments)
    try:
        x = load(options.picture)
        palette = Image.Quantize.FASTOCTREE  # 256 colours: a quarter of the bytes
        draw(x, "" if options.picture else CREDIT).quantize(256, method=palette).save(options.out, "PNG", optimize=True)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(f"{x.shape[0]} x {x.shape[2]} x {x.shape[3]} pixels, on {xp.__name__}'s arrays.")
    print(f"The figure is in {options.out}.")


if __name__ == "__main__":
    main()
