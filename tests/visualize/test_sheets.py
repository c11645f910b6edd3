"""Pictures with what is right and wrong in them, resized pictures, sheets: by hand on pictures of a few pixels."""

import numpy as np
import pytest

from keras_cv_lectures.errors import DataError
from keras_cv_lectures.geometry.masks import unpack_masks
from keras_cv_lectures.visualize import ObjectPicture, object_sheet
from keras_cv_lectures.visualize.sheets import FOUND, MISSED, WRONG, object_errors, resize_picture

GREY = np.full((40, 60, 3), 128, np.uint8)
TRUTH = {
    "boxes": np.float32([[2, 2, 12, 12], [20, 2, 30, 12], [40, 2, 50, 12], [2, 20, 12, 30]]),
    "labels": np.int32([0, 1, 0, -1]),
    "ignored": np.array([False, False, True, False]),
}
PREDICTION = {
    "boxes": np.float32([[3, 2, 12, 12], [20, 22, 30, 32], [40, 22, 50, 32]]),
    "labels": np.int32([0, 0, 1]),
    "scores": np.float32([0.9, 0.8, 0.7]),
}


def picture(**changes):
    fields = {"caption": "one", "image": GREY, "truth": TRUTH, "prediction": PREDICTION, "found": np.array([0, -1, -2])}
    return ObjectPicture(**fields | changes)


def test_right_wrong_and_missed_are_counted():
    # The third object need not be found, the fourth is padding, the third detection is neither right nor wrong.
    assert picture().counts() == (1, 1, 1)
    assert picture(found=np.array([0, 1, -2])).counts() == (2, 0, 0)
    assert picture(found=None).counts() is None
    assert picture(truth=None).counts() is None
    nothing = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, int)}
    assert picture(truth=nothing, prediction=nothing, found=np.zeros(0)).counts() == (0, 0, 0)


def test_errors_have_their_colours():
    large = picture(image=np.full((400, 600, 3), 128, np.uint8))
    drawn = object_errors(large)
    assert drawn.shape == (400, 600, 3)
    assert tuple(drawn[2, 6]) == FOUND
    assert tuple(drawn[22, 25]) == WRONG
    assert tuple(drawn[2, 25]) == MISSED
    pale = round(110 + 128 * 135 / 255)
    for row, column in ((22, 45), (2, 45), (20, 6), (100, 100)):  # left out, ignored, padding, ground
        assert tuple(drawn[row, column]) == (pale, pale, pale)
    with pytest.raises(DataError, match="truth, prediction and found"):
        object_errors(picture(found=None))


def test_objects_are_resized_with_their_picture():
    pixels = np.concatenate([np.ones(8 * 4, np.uint8), np.zeros(4 * 4, np.uint8)])
    truth = {
        "boxes": np.float32([[4, 8, 12, 12], [0, 0, 4, 4]]),
        "masks": (pixels, np.int32([[4, 8, 12, 12], [0, 0, 4, 4]])),
        "keypoints": np.float32([[[6, 10, 2]], [[0, 0, 0]]]),
    }
    small = resize_picture(picture(truth=truth, prediction=None), 30)
    assert small.image.shape == (20, 30, 3)
    np.testing.assert_allclose(small.truth["boxes"], [[2, 4, 6, 6], [0, 0, 2, 2]])
    np.testing.assert_allclose(small.truth["keypoints"], [[[3, 5, 2]], [[0, 0, 0]]])
    expected = np.zeros((2, 20, 30), np.uint8)
    expected[0, 4:6, 2:6] = 1
    np.testing.assert_array_equal(unpack_masks(*small.truth["masks"], (20, 30)), expected)
    assert small.prediction is None
    assert resize_picture(small, 30) is small
    assert resize_picture(small, 60) is small
    back = resize_picture(small, 60, enlarge=True)
    assert back.image.shape == (40, 60, 3)
    np.testing.assert_allclose(back.truth["boxes"], truth["boxes"])
    np.testing.assert_array_equal(back.truth["masks"][1], truth["masks"][1])
    np.testing.assert_array_equal(back.truth["masks"][0], pixels)


@pytest.mark.parametrize("dtype", ["uint8", "bool", "float32"])
def test_dense_masks_and_thin_objects_survive(dtype):
    dense = np.zeros((2, 40, 60), dtype)
    dense[0, 10:30, 20:40] = 1
    dense[1, 5, 7] = 1  # one pixel: a twenty-fifth of a pixel in the small picture
    truth = {"boxes": np.float32([[20, 10, 40, 30], [7, 5, 8, 6]]), "masks": dense}
    small = resize_picture(picture(truth=truth), 12)
    masks = unpack_masks(*small.truth["masks"], (8, 12))
    assert masks[0].sum() == 16
    assert masks[1].sum() == 1
    assert masks[1, 1, 1] == 1
    none = {"boxes": np.zeros((0, 4)), "masks": dense[:0]}
    assert len(resize_picture(picture(truth=none), 12).truth["masks"][1]) == 0


def test_a_sheet_sets_pictures_in_rows():
    red = picture(image=np.full((20, 40, 3), (200, 0, 0), np.uint8), truth=None)
    sheet = object_sheet([red, red, picture()], names=("a", "b"), columns=2, side=60)
    gap = 12
    assert sheet.shape[1] == 2 * (60 + gap) + gap
    marked = (sheet == (200, 0, 0)).all(-1)
    rows, columns = np.flatnonzero(marked.any(axis=1)), np.flatnonzero(marked.any(axis=0))
    assert rows[-1] - rows[0] + 1 == 30  # enlarged to 60 pixels wide
    assert columns.tolist() == [*range(gap, gap + 60), *range(2 * gap + 60, 2 * gap + 120)]
    assert (sheet[rows[-1] + gap + 1 :] != 255).any()  # the third one below
    assert object_sheet([red], side=60).shape[1] == 60 + 2 * gap
    with pytest.raises(DataError, match="received 0 pictures"):
        object_sheet([])
    with pytest.raises(DataError, match="columns=0"):
        object_sheet([red], columns=0)
