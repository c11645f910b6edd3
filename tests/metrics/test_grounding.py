"""Attention inside boxes, by hand and by counting pixels."""

import numpy as np
import pytest

from keras_cv_lectures.errors import DataError
from keras_cv_lectures.metrics import attention_inside, pointing_hits


def test_by_hand():
    # 2 x 2 locations of 10 x 20 pixels each; the box covers the left half of the upper right one.
    attention = np.array([[[0.1, 0.6], [0.3, 0.0]]])
    box = [[20, 0, 30, 10]]
    assert attention_inside(attention, box, (20, 40)) == pytest.approx([0.3])
    assert pointing_hits(attention, box, (20, 40)).tolist() == [False]  # (30, 5) is its first pixel outside
    assert pointing_hits(attention, [[20, 0, 31, 10]], (20, 40)).tolist() == [True]
    assert attention_inside(attention * 7, [[0, 0, 40, 20]], (20, 40)) == pytest.approx([1.0])
    assert np.isnan(attention_inside(attention * 0, box, (20, 40))).all()
    assert attention_inside(np.ones((1, 2, 2)), box, (20, 40)) == pytest.approx([100 / 800])


def test_against_pixels():
    rng = np.random.default_rng(0)
    height, width, grid = 24, 36, (4, 6)
    attention = rng.random((20, *grid))
    corners = np.sort(rng.integers(0, 25, (20, 2, 2)), axis=1)
    boxes = np.concatenate([corners[:, 0], corners[:, 1]], axis=1).astype(float)
    found = attention_inside(attention, boxes, (height, width))
    for share, weights, (x1, y1, x2, y2) in zip(found, attention, boxes.astype(int), strict=True):
        pixels = np.kron(weights, np.ones((6, 6)))
        assert share == pytest.approx(pixels[y1:y2, x1:x2].sum() / pixels.sum())


def test_nothing_and_what_does_not_belong_together():
    assert attention_inside(np.zeros((0, 3, 3)), np.zeros((0, 4)), (9, 9)).shape == (0,)
    assert pointing_hits(np.zeros((0, 3, 3)), np.zeros((0, 4)), (9, 9)).shape == (0,)
    with pytest.raises(DataError, match=r"one box \(x1, y1, x2, y2\) each"):
        attention_inside(np.ones((2, 3, 3)), np.zeros((1, 4)), (9, 9))
