"""Charts of measurements are PNG files that show every bar and curve, the missing ones included."""

import io

import numpy as np
import pytest
from PIL import Image

from keras_cv_lectures.errors import DataError
from keras_cv_lectures.visualize import Bar, LinePanel, bars, lines
from keras_cv_lectures.visualize.curves import THEMES


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def count(png, color):
    """Pixels of a colour such as "#1f5fd0"."""
    wanted = [int(color[k : k + 2], 16) for k in (1, 3, 5)]
    return int(np.sum(np.all(np.abs(pixels(png) - wanted) <= 1, axis=-1)))


def test_bars_are_as_long_as_their_values_and_the_shortest_is_blue():
    theme = THEMES["light"]
    rows = [Bar("slow", 30.0), Bar("fast", 10.0), Bar("gone", None, "missing")]
    picture = bars({"unet": rows})
    ratio = count(picture, theme.training) / count(picture, theme.validation)
    assert ratio == pytest.approx(3, rel=0.05)


def test_one_panel_for_each_key_and_none_for_empty_ones():
    one = pixels(bars({"a": [Bar("x", 1.0)]}))
    two = pixels(bars({"a": [Bar("x", 1.0)], "none": [], "b": [Bar("x", 2.0)]}))
    assert two.shape[1] == pytest.approx(2 * one.shape[1], rel=0.02)
    assert two.shape[0] == one.shape[0]


def test_missing_bars_alone_can_be_drawn():
    picture = bars({"a": [Bar("x", None, "missing")]}, theme="dark")
    assert count(picture, THEMES["dark"].validation) == 0


def test_a_curve_has_one_colour_in_all_panels():
    curves = {"unet": ([1, 2, 3], [1.0, 2.0, 3.0]), "other": ([1, 2, 3], [3.0, 2.0, 1.0])}
    both = LinePanel(title="a", x_label="x", y_label="ms", curves=curves, fits={"unet": (0.0, 1.0)})
    alone = LinePanel(title="b", x_label="x", y_label="ms", curves={"other": curves["other"]}, fits={})
    first, second = count(lines([both]), "#ff7f0e"), count(lines([both, alone]), "#ff7f0e")
    assert first > 100
    assert second > 1.8 * first


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: bars({}), "no bar"),
        (lambda: bars({"a": [Bar("x", 1.0)]}, theme="blue"), "theme must be one of"),
        (lambda: lines([]), "nothing to draw"),
        (
            lambda: lines([LinePanel(title="t", x_label="", y_label="", curves={"c": ([1], [1, 2])}, fits={})]),
            "t: x and y of c",
        ),
    ],
)
def test_what_cannot_be_drawn_is_explained(draw, message):
    with pytest.raises(DataError, match=message):
        draw()
