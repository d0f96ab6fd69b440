"""The examples run as their docstrings say, and what they find is what the textbook says of it."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

EXAMPLES = Path(__file__).parent.parent / "examples"
EXAMPLE = EXAMPLES / "filters.py"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def filters():
    return load("filters")


@pytest.fixture
def picture(tmp_path) -> Path:
    """A small photograph: the example must take any, not its own alone."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 36, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_it_says_what_ran_and_writes_a_picture(filters, tmp_path, capsys):
    out = tmp_path / "maps.png"
    filters.main(["--out", str(out), "--strategy", "numpy_winograd_f2x3"])
    said = capsys.readouterr().out
    assert "7 filters of 3x3 over 256x218 pixels" in said
    assert "numpy_winograd_f2x3" in said
    assert str(out) in said
    with Image.open(out) as drawn:
        assert drawn.format == "PNG"
        assert len(np.unique(np.asarray(drawn.convert("L")))) > 64  # not blank
    assert out.stat().st_size < 300_000


def test_it_chooses_where_no_strategy_is_named(filters, picture, tmp_path, capsys):
    filters.main(["--out", str(tmp_path / "maps.png"), "--picture", str(picture)])
    assert "over 24x36 pixels, by the strategy " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strategy", "numpy_dircet"], "did you mean numpy_direct"),
        (["--picture", "nowhere.jpg"], "nowhere.jpg"),
        (["--picture", str(EXAMPLE)], "cannot identify image file"),
    ],
)
def test_a_mistake_gives_a_sentence(filters, arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        filters.main([*arguments, "--out", str(tmp_path / "maps.png")])
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "maps.png").exists()


def test_flat_picture_has_no_edges_and_stays_as_bright(filters):
    maps, _ = filters.feature_maps(np.full((1, 1, 8, 10), 0.5, np.float32), "numpy_direct")
    for name, numbers, plane in zip(filters.FILTERS, filters.FILTERS.values(), maps["convolution"][0], strict=True):
        edges = name.startswith("Sobel") or name == "Laplacian"
        assert np.sum(numbers) == pytest.approx(0 if edges else 1), name
        # A ninth is no binary fraction: nine products, rounded once each, and eight sums, all below 1.
        rounding = 17 * np.finfo(np.float32).eps / 2 if name == "box blur" else 0
        np.testing.assert_allclose(plane, 0 if edges else 0.5, rtol=0, atol=rounding, err_msg=name)


def test_a_step_is_an_edge_for_sobel_x_alone(filters):
    """Dark left of column 4, bright from there on: Sobel x answers 4 on both sides of the step, Sobel y nowhere."""
    gray = np.zeros((1, 1, 6, 8), np.float32)
    gray[..., 4:] = 1
    maps, _ = filters.feature_maps(gray, "numpy_direct")
    names = list(filters.FILTERS)
    sobel_x, sobel_y = (maps["convolution"][0, names.index(name)] for name in ("Sobel, x", "Sobel, y"))
    np.testing.assert_array_equal(sobel_x, np.tile([0, 0, 0, 4, 4, 0, 0, 0], (6, 1)))
    np.testing.assert_array_equal(sobel_y, 0)


def test_stages_follow_each_other(filters):
    gray = np.random.default_rng(1).random((1, 1, 6, 8), np.float32)
    maps, _ = filters.feature_maps(gray, "numpy_direct")
    convolved, rectified, pooled = maps.values()
    np.testing.assert_array_equal(rectified, np.maximum(convolved, 0))
    np.testing.assert_array_equal(pooled, rectified.reshape(1, -1, 3, 2, 4, 2).max((3, 5)))


# A ResNet on digits ---------------------------------------------------------------------------------------------------


@pytest.fixture
def resnet_digits():
    """On one thread, as other tests may run beside it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load("resnet_digits")
    torch.set_num_threads(threads)


def test_a_replaced_resnet_reads_digits_as_well(resnet_digits, capsys):
    resnet_digits.main(["--epochs", "2", "--passes", "1"])
    said = capsys.readouterr().out
    assert "17 modules replaced, 22 fused into them" in said
    before, after = (float(right) for right in re.findall(r"(?:before|after) +(\d+\.\d+)% right", said))
    assert before == after
    assert before > 80  # guessing gets 10
    assert said.endswith("0 predictions differ.\n")
