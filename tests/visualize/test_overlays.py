"""Pictures of class maps: every pixel by hand, and what happens with ignored, unknown and mismatched labels."""

import numpy as np
import pytest

from keras_cv_lectures.errors import DataError
from keras_cv_lectures.visualize import colorize, comparison, error_map, legend, overlay

COLORS = [(200, 0, 0), (0, 100, 0), (0, 0, 50)]
CLASSES = ["sky", "road", "a very long name of a class that cannot fit"]
RED = (214, 39, 40)


def test_each_label_gets_its_color_and_ignored_pixels_are_white():
    picture = colorize(np.array([[0, 1], [2, 255]]), COLORS)
    assert picture.dtype == np.uint8
    assert picture.tolist() == [[[200, 0, 0], [0, 100, 0]], [[0, 0, 50], [255, 255, 255]]]


def test_ignore_label_may_be_a_class_number_or_nothing():
    assert colorize(np.array([[1, 2]]), COLORS, ignore_label=2).tolist() == [[[0, 100, 0], [255, 255, 255]]]
    with pytest.raises(DataError, match="label 255"):
        colorize(np.array([[1, 255]], np.uint8), COLORS, ignore_label=None)


@pytest.mark.parametrize("label", [3, -1])
def test_a_label_without_color_is_named(label):
    with pytest.raises(DataError, match=f"label {label}, but colors has 3 entries"):
        colorize(np.array([[0, label]]), COLORS)


def test_overlay_mixes_and_leaves_ignored_and_transparent_pixels():
    image = np.full((1, 4, 3), 100, np.uint8)
    result = overlay(image, np.array([[0, 1, 2, 255]]), COLORS, alpha=0.5, border=False, transparent=(2,))
    assert result.tolist() == [[[150, 50, 50], [50, 100, 50], [100, 100, 100], [100, 100, 100]]]
    assert result.dtype == np.uint8


def test_border_is_one_pixel_on_each_side_in_the_full_color():
    image = np.full((5, 6, 3), 100, np.uint8)
    labels = np.repeat([[0, 0, 0, 1, 1, 1]], 5, axis=0)
    row = overlay(image, labels, COLORS, alpha=0.5)[2].tolist()
    inside, outside = [150, 50, 50], [50, 100, 50]
    assert row == [inside, inside, [200, 0, 0], [0, 100, 0], outside, outside]


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 3)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_grey_and_float_pictures_are_welcome(shape, dtype):
    image = np.full(shape, 40, dtype)
    assert overlay(image, np.zeros((6, 5), int), COLORS, alpha=0.0).tolist() == np.full((6, 5, 3), 40).tolist()


def test_inputs_are_left_as_they_were():
    image = np.full((4, 4, 3), 40, np.uint8)
    labels = np.eye(4, dtype=np.int32)
    overlay(image, labels, COLORS)
    error_map(image, labels, 1 - labels)
    assert (image == 40).all()
    assert (labels == np.eye(4)).all()


def test_errors_are_red_where_labelled():
    truth = np.array([[0, 1, 255, 255]])
    result = error_map(np.zeros((1, 4), np.uint8), truth, np.array([[0, 0, 0, 1]]))
    assert (result == RED).all(-1).tolist() == [[False, True, False, False]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((4, 5, 3)), np.zeros((5, 4), int)), "5 x 4 pixels"),
        ((np.zeros((2, 4, 5, 3)), np.zeros((4, 5), int)), "Pass one picture"),
        ((np.zeros((4, 5, 3)), np.zeros((4, 5))), "take the argmax first"),
        ((np.zeros((4, 5, 3)), np.zeros((0, 5), int)), "integers"),
    ],
)
def test_wrong_arrays_are_refused_with_advice(arguments, message):
    with pytest.raises(DataError, match=message):
        overlay(*arguments, COLORS)


def test_wrong_settings_are_refused():
    with pytest.raises(DataError, match="alpha"):
        overlay(np.zeros((2, 2)), np.zeros((2, 2), int), COLORS, alpha=1.5)
    with pytest.raises(DataError, match="red, green, blue"):
        colorize(np.zeros((2, 2), int), [(0, 0, 256)])
    with pytest.raises(DataError, match="3 classes and 1 colors"):
        legend(CLASSES, COLORS[:1])
    with pytest.raises(DataError, match="four"):
        comparison(np.zeros((2, 2)), None, np.zeros((2, 2), int), COLORS, captions=("a",))


def colors_in(picture):
    return {tuple(color) for color in picture.reshape(-1, 3).tolist()}


def test_legend_shows_the_colors_of_the_classes_that_are_present():
    assert set(COLORS) <= colors_in(legend(CLASSES, COLORS))
    some = colors_in(legend(CLASSES, COLORS, present=[2, 0, 255]))
    assert {COLORS[0], COLORS[2]} <= some
    assert COLORS[1] not in some
    assert legend(CLASSES, COLORS, present=[]).ndim == 3


def test_legend_writes_names_and_keeps_to_its_width():
    assert legend(["wider name", "b", "c"], COLORS).shape[1] > legend(["b", "b", "c"], COLORS).shape[1]
    narrow, wide = (legend(CLASSES, COLORS, width=width) for width in (120, 600))
    assert narrow.shape[1] == 120
    assert narrow.shape[0] > wide.shape[0]
    assert (narrow[:, -4:] == 255).all()  # the long name was shortened: no letter runs into the margin


def test_comparison_sets_four_panels_or_two_and_enlarges_small_pictures():
    image = np.full((100, 200, 3), 90, np.uint8)
    truth, prediction = np.zeros((100, 200), int), np.zeros((100, 200), int)
    prediction[:, 150:] = 1
    four = comparison(image, truth, prediction, COLORS, classes=CLASSES)
    two = comparison(image, None, prediction, COLORS)
    assert 800 < four.shape[1] < 900
    assert 400 < two.shape[1] < 450
    assert RED in colors_in(four)
    assert RED not in colors_in(two)
    assert COLORS[2] not in colors_in(four)  # does not occur, so the legend is silent about it
    small = comparison(image[:20, :32], None, prediction[:20, :32], COLORS)
    assert small.shape[1] >= 2 * 192
