"""Precision-recall curves: what the picture shows, and what it refuses."""

import io

import numpy as np
import pytest
from PIL import Image

from keras_cv_lectures.errors import DataError
from keras_cv_lectures.visualize import precision_recall
from keras_cv_lectures.visualize.precision_recall import precision_recall_curves

CELL = (np.array([0.5, 0.5, 1.0]), np.array([1.0, 0.5, 2 / 3]), np.array([0.9, 0.8, 0.7]))


@pytest.fixture
def drawn(monkeypatch):
    """The figure of the last call instead of its PNG file."""
    figures = []
    monkeypatch.setattr(precision_recall, "_png", lambda figure: figures.append(figure) or b"")

    def draw(*arguments, **settings):
        precision_recall_curves(*arguments, **settings)
        return figures[-1]

    return draw


def names_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_one_curve_by_hand(drawn):
    figure = drawn({"cell": CELL})
    # Area 1/2 + 1/2 * 2/3; F1 is 2/3, 1/2 and 4/5 after the three detections.
    assert names_of(figure) == ["cell  0.833  ● 0.70"]
    line = next(line for line in figure.axes[0].lines if line.get_label().startswith("cell"))
    x, y = line.get_data()
    np.testing.assert_allclose(x, [0, 0.5, 0.5, 0.5, 0.5, 1, 1])
    np.testing.assert_allclose(y, [1, 1, 2 / 3, 2 / 3, 2 / 3, 2 / 3, 0])
    assert np.sum(np.diff(x) * y[1:]) == pytest.approx(5 / 6)


def test_best_first_then_the_mean(drawn):
    low = (np.array([0.25]), np.array([0.5]))
    figure = drawn({"low": low, "cell": CELL[:2], "none": ([], []), "absent": low}, averages=None)
    assert names_of(figure) == ["cell  0.833", "low  0.125", "absent  0.125", "none  0.000", "mean of 4  0.271"]
    figure = drawn({"low": low, "cell": CELL[:2]}, averages={"low": None, "cell": 0.5, "other": 0.1})
    assert names_of(figure) == ["cell  0.500"]


def test_of_many_classes_the_best_and_the_worst_are_named(drawn):
    curves = {f"class {i}": (np.array([1.0]), np.array([i / 30])) for i in range(30)}
    shown = [name.split("  ")[0] for name in names_of(drawn(curves))]
    assert shown == [f"class {i}" for i in (29, 28, 27, 26, 25, 4, 3, 2, 1, 0)] + ["mean of 30"]
    assert len(drawn(curves).axes[0].lines) == 4 + 30 + 1


def test_a_class_is_named_whatever_its_name_begins_with(drawn):
    figure = drawn({"cell": CELL[:2], "_void": (np.array([0.25]), np.array([0.5]))})
    assert names_of(figure) == ["cell  0.833", "_void  0.125", "mean of 2  0.479"]
    colors = [line.get_color() for line in figure.legends[0].get_lines()]
    assert colors == [line.get_color() for line in figure.axes[0].lines if line.get_label() in names_of(figure)]


def test_a_picture_in_two_themes_with_any_name():
    light, dark = (
        Image.open(io.BytesIO(precision_recall_curves({"$_1$ 漢": CELL}, title="$x 漢", theme=theme)))
        for theme in ("light", "dark")
    )
    assert light.size == dark.size
    assert light.getpixel((0, 0))[0] > 200 > 100 > dark.getpixel((0, 0))[0]
    pixels = np.asarray(light.convert("RGB")).astype(int)
    assert (np.abs(pixels - [31, 95, 208]).sum(-1) < 6).sum() > 500  # the one curve in the theme's blue


@pytest.mark.parametrize(
    ("curves", "settings", "message"),
    [
        ({}, {}, "no class with objects"),
        ({"cell": CELL}, {"averages": {"cell": None}}, "no class with objects"),
        ({"cell": CELL}, {"averages": {}}, "averages lack cell"),
        ({"cell": CELL}, {"theme": "blue"}, "theme must be"),
        ({"cell": CELL[:1]}, {}, "each .M,."),
        ({"cell": (CELL[0], CELL[1][:2])}, {}, "each .M,."),
        ({"cell": (CELL[0][::-1], CELL[1])}, {}, "recall must not fall"),
        ({"cell": (CELL[0] * 2, CELL[1])}, {}, "lie in 0..1"),
        ({"cell": (CELL[0], CELL[1] * np.nan)}, {}, "lie in 0..1"),
    ],
)
def test_refusals(curves, settings, message):
    with pytest.raises(DataError, match=message):
        precision_recall_curves(curves, **settings)
