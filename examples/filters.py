"""The textbook's filters over a photograph: convolution, ReLU and max pooling, as a PNG grid of feature maps.

python examples/filters.py
python examples/filters.py --picture photo.jpg --strategy numpy_winograd_f2x3 --out photo_maps.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from gpucnn.kernels import choose, conv2d, conv2d_problem, max_pool2d

PHOTOGRAPH = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"  # Grace Hopper; public domain
LUMA = (0.299, 0.587, 0.114)  # what red, green and blue add to brightness (ITU-R BT.601)
FILTERS = {
    "Sobel, x": [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
    "Sobel, y": [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],
    "Laplacian": [[0, 1, 0], [1, -4, 1], [0, 1, 0]],
    "emboss": [[-2, -1, 0], [-1, 1, 1], [0, 1, 2]],
    "sharpen": [[0, -1, 0], [-1, 5, -1], [0, -1, 0]],
    "box blur": [[1 / 9] * 3] * 3,
    "Gaussian blur": [[1 / 16, 2 / 16, 1 / 16], [2 / 16, 4 / 16, 2 / 16], [1 / 16, 2 / 16, 1 / 16]],
}


def load(path: Path) -> np.ndarray:
    """A picture as x (1, 3, H, W), float32 in 0 to 1, its longer side at most 256 pixels."""
    with Image.open(path) as picture:
        rgb = picture.convert("RGB")
    rgb.thumbnail((256, 256))
    return np.ascontiguousarray(np.asarray(rgb, np.float32).transpose(2, 0, 1)[None] / 255)


def brightness(x: np.ndarray) -> np.ndarray:
    """x (1, 3, H, W) -> (1, 1, H, W): a 1x1 convolution of the colours."""
    return conv2d(x, np.array(LUMA, np.float32).reshape(1, 3, 1, 1))


def feature_maps(gray: np.ndarray, strategy: str | None) -> tuple[dict[str, np.ndarray], str]:
    """gray (1, 1, H, W) -> ({stage: maps (1, K, P, Q)}, the name of the strategy that convolved)."""
    w = np.array(list(FILTERS.values()), np.float32)[:, None]
    layer = {"padding": "same", "padding_mode": "reflect"}
    ran = strategy or choose(conv2d_problem(gray, w, **layer), "cpu").name
    rectified = conv2d(gray, w, **layer, activation="relu", strategy=ran)
    maps = {
        "convolution": conv2d(gray, w, **layer, strategy=ran),
        "+ ReLU": rectified,
        "+ max pooling 2x2": max_pool2d(rectified, 2),
    }
    return maps, ran


def draw(x: np.ndarray, gray: np.ndarray, maps: dict[str, np.ndarray], strategy: str) -> Image.Image:
    """A column for the picture and for each filter: its numbers, then its map at each stage."""
    height, width = x.shape[2:]
    cell, title = 1.6, 0.75  # inches: the width of a map; the height of the titles
    rows = [0.6 * cell, *[cell * height / width] * len(maps)]
    columns = 1 + len(FILTERS)
    figure = Figure(figsize=(columns * cell, sum(rows) + title), dpi=100, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.05, wspace=0, hspace=0)
    figure.suptitle(f"Feature maps of a 3x3 layer, by the strategy {strategy}", fontsize=15)
    axes = figure.subplots(len(rows), columns, height_ratios=rows)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)

    axes[1, 0].imshow(x[0].transpose(1, 2, 0))
    axes[1, 0].set_title("photograph", fontsize=12)
    axes[2, 0].imshow(gray[0, 0], cmap="gray", vmin=0, vmax=1)
    axes[3, 0].text(0.5, 0.98, "its brightness,\nthe layer's input", fontsize=11, ha="center", va="top")

    for column, (name, numbers) in enumerate(FILTERS.items(), start=1):
        largest = np.abs(numbers).max()
        axes[0, column].set_title(name, fontsize=12)
        axes[0, column].imshow(numbers, cmap="RdBu_r", vmin=-2 * largest, vmax=2 * largest)
        for (r, s), number in np.ndenumerate(numbers):
            text = str(Fraction(number).limit_denominator(16)).replace("-", "−")
            axes[0, column].text(s, r, text, ha="center", va="center", fontsize=9)

        keeps_brightness = np.sum(numbers) > 0.5  # its numbers sum to 1; those of an edge filter to 0
        for line, (stage, planes) in zip(axes[1:], maps.items(), strict=True):
            plane = planes[0, column - 1]
            limit = 1 if keeps_brightness else np.quantile(np.abs(plane), 0.99)
            low = -limit if plane.min() < 0 and not keeps_brightness else 0  # then gray is 0
            line[column].imshow(plane, cmap="gray", vmin=low, vmax=limit)
            if column == 1:
                line[column].set_ylabel(stage, fontsize=12)

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("feature_maps.png"), help="where the PNG goes")
    parser.add_argument("--strategy", help="which strategy convolves; the fastest here if left out")
    parser.add_argument("--picture", type=Path, default=PHOTOGRAPH, help="a photograph; Grace Hopper if left out")
    options = parser.parse_args(arguments)
    try:
        x = load(options.picture)
        gray = brightness(x)
        maps, strategy = feature_maps(gray, options.strategy)
        palette = Image.Quantize.FASTOCTREE  # 128 colours: a third of the bytes, and no difference to see
        draw(x, gray, maps, strategy).quantize(128, method=palette).save(options.out, "PNG", optimize=True)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(f"{len(FILTERS)} filters of 3x3 over {x.shape[2]}x{x.shape[3]} pixels, by the strategy {strategy}.")
    print(f"The feature maps are in {options.out}.")


if __name__ == "__main__":
    main()
