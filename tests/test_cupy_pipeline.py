"""The image pipeline runs as its docstring says, and finds what is there to find."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLE = Path(__file__).parent.parent / "examples" / "cupy_pipeline.py"


@pytest.fixture(scope="module")
def pipeline():
    """On NumPy's arrays, here as on a machine with a GPU."""
    spec = importlib.util.spec_from_file_location("cupy_pipeline", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.xp = np
    return module


def flat(*shape):
    return np.full(shape, 0.5, np.float32)


def ramp():
    """gray (1, 1, 12, 20): dark, half as bright at column 9, bright from there on."""
    row = np.repeat([0, 0.5, 1], [9, 1, 10]).astype(np.float32)
    return np.tile(row, (1, 1, 12, 1))


def test_it_says_what_ran_and_writes_a_picture(pipeline, tmp_path, capsys):
    out = tmp_path / "figure.png"
    pipeline.main(["--out", str(out)])
    said = capsys.readouterr().out
    assert "2 x 427 x 640 pixels, on numpy's arrays." in said
    assert str(out) in said
    with Image.open(out) as drawn:
        assert drawn.format == "PNG"
        assert len(np.unique(np.asarray(drawn.convert("L")))) > 64  # not blank
    assert out.stat().st_size < 400_000


def test_it_takes_any_picture(pipeline, tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 70, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    pipeline.main(["--out", str(tmp_path / "figure.png"), "--picture", str(tmp_path / "photo.png")])
    assert "1 x 48 x 70 pixels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("picture", "message"), [("nowhere.jpg", "nowhere.jpg"), (str(EXAMPLE), "cannot identify image file")]
)
def test_a_mistake_gives_a_sentence(pipeline, picture, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        pipeline.main(["--picture", picture, "--out", str(tmp_path / "figure.png")])
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "figure.png").exists()


def test_a_smooth_flat_picture_stays_as_it_is_up_to_its_border(pipeline):
    np.testing.assert_allclose(pipeline.smooth(flat(2, 3, 9, 12), 1.0), 0.5, rtol=1e-6)


def test_smoothing_is_a_gaussian(pipeline):
    point = np.zeros((1, 1, 21, 21), np.float32)
    point[0, 0, 10, 10] = 1
    v, u = np.mgrid[-3:4, -3:4]
    bell = np.exp(-(u**2 + v**2) / 2)
    np.testing.assert_allclose(pipeline.smooth(point, 1.0)[0, 0, 7:14, 7:14], bell / bell.sum(), rtol=1e-5, atol=1e-8)


def test_a_pyramid_halves(pipeline):
    levels = pipeline.pyramid(flat(2, 3, 43, 64))
    assert [level.shape for level in levels] == [(2, 3, 43, 64), (2, 3, 21, 32), (2, 3, 10, 16), (2, 3, 5, 8)]
    for level in levels:
        np.testing.assert_allclose(level, 0.5, rtol=1e-6)


def test_a_ramps_gradient_is_its_slope(pipeline):
    """Sobel, divided by 8, is brightness per pixel; the border is continued, not dark."""
    along_w, along_h = pipeline.gradient(np.tile(np.arange(8, dtype=np.float32), (1, 1, 6, 1)))
    np.testing.assert_array_equal(along_w[0, 0, :, 1:-1], 1)
    np.testing.assert_array_equal(along_h, 0)


def test_a_square_has_four_corners(pipeline):
    gray = np.zeros((1, 1, 60, 80), np.float32)
    gray[..., 20:41, 30:51] = 1
    places = np.argwhere(pipeline.corners(gray)[0, 0])
    np.testing.assert_allclose(places, [(20, 30), (20, 50), (40, 30), (40, 50)], atol=1)


def test_a_flat_picture_and_a_straight_edge_have_no_corner(pipeline):
    assert not pipeline.corners(flat(1, 1, 30, 30)).any()
    assert not pipeline.corners(ramp()).any()


@pytest.mark.parametrize("turned", [False, True], ids=["along H", "along W"])
def test_an_edge_is_a_line_a_pixel_wide(pipeline, turned):
    gray = ramp()
    lines = pipeline.edges(gray.transpose(0, 1, 3, 2) if turned else gray)[0, 0]
    found = (lines.T if turned else lines) > 1e-3
    np.testing.assert_array_equal(found, np.tile(np.arange(20) == 9, (12, 1)))


@pytest.mark.parametrize(("turned", "channel"), [(False, 0), (True, 4)], ids=["along H", "along W"])
def test_an_edges_orientation_has_the_largest_share(pipeline, turned, channel):
    gray = ramp().transpose(0, 1, 3, 2) if turned else ramp()
    shares, strength = pipeline.orientations(gray)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-6)
    here = shares[0, :, 9, 6] if turned else shares[0, :, 6, 9]
    assert here.argmax() == channel
    strongest = strength[0, 0].argmax(axis=0 if turned else 1)
    assert (strongest == 9).all()
    assert strength.max() == pytest.approx(0.5)  # from dark to bright: half of what a filter's numbers add up to


def test_colours_say_the_orientation(pipeline):
    """Red where brightness changes along W; black where it does not change."""
    shares, strength = pipeline.orientations(ramp())
    colours = pipeline.coloured(shares[0], strength[0])
    red, green, blue = colours[6, 9]
    assert red > 0.9 > 0.5 > max(green, blue)
    np.testing.assert_allclose(colours[6, 0], 0, atol=1e-3)
