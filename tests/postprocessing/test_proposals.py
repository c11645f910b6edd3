"""DeconvNet's inference by proposals, with hand-worked numbers."""

from __future__ import annotations

import numpy as np
import pytest

from keras_cv_lectures.postprocessing.proposals import (
    ensemble_scores,
    merge_proposals,
    segment_proposals,
    sliding_boxes,
)


def test_proposals_are_merged_by_the_maximum_over_a_volume_of_zeros():
    first = np.full((2, 2, 2), [1.0, -3.0])
    second = np.full((2, 2, 2), [0.5, 2.0])
    merged = merge_proposals([first, second], [[0, 0, 2, 2], [1, 1, 3, 3]], (3, 4))
    # Class 0: the first box gives 1, the second 0.5 where the first is not. Class 1: -3 is less than the zeros.
    np.testing.assert_array_equal(merged[..., 0], [[1, 1, 0, 0], [1, 1, 0.5, 0], [0, 0.5, 0.5, 0]])
    np.testing.assert_array_equal(merged[..., 1], [[0, 0, 0, 0], [0, 2, 2, 0], [0, 2, 2, 0]])
    assert merged.dtype == np.float32


def test_scores_are_resized_to_their_box_and_cut_at_the_picture():
    score = np.array([[1.0, 3.0]])[..., None]
    # One row of two values on a box of 1 x 4 pixels, bilinear at half-pixel centres: 1, 1.5, 2.5, 3.
    np.testing.assert_allclose(merge_proposals([score], [[0, 0, 4, 1]], (1, 4))[0, :, 0], [1, 1.5, 2.5, 3])
    # The same box two pixels further left: its last two pixels remain. Boxes round to whole pixels.
    np.testing.assert_allclose(merge_proposals([score], [[-2.2, 0, 1.8, 1.3]], (1, 3))[0, :, 0], [2.5, 3, 0])
    np.testing.assert_array_equal(merge_proposals([score], [[9, 0, 12, 1]], (1, 3)), 0)


def test_ensemble_by_hand():
    deconvnet = np.array([[2.0, 3.0, -1.0, 4.0]])
    fcn8s = np.array([[0.5, -2.0, 3.0, 0.0]])
    np.testing.assert_array_equal(ensemble_scores(deconvnet, fcn8s), [[1, 0, -3, 0]])
    with pytest.raises(ValueError, match="must have one shape"):
        ensemble_scores(deconvnet, fcn8s[:, :3])


def test_a_picture_is_scored_box_by_box():
    image = np.zeros((4, 6, 3), np.uint8)
    image[:, 3:] = 200
    seen = []

    def predict(crops):
        seen.append(crops.shape)
        return crops[..., :2] * [1.0, -1.0]  # The score of class 0 is the brightness of the pixel.

    boxes = [[0, 0, 6, 4], [3, 0, 6, 3], [0, 0, 1, 4], [0, 1, 3, 4]]
    scores = segment_proposals(predict, image, boxes, size=(4, 6), min_side=2, limit=2, batch_size=1)
    np.testing.assert_allclose(scores[..., 0], image[..., 0])
    np.testing.assert_array_equal(scores[..., 1], 0)
    assert seen == [(1, 4, 6, 3)] * 2  # The third box is too narrow, the fourth beyond the limit.
    only = segment_proposals(predict, image, boxes[1:], size=(2, 2), min_side=3)
    np.testing.assert_allclose(only[..., 0], np.where(np.add.outer([0, 0, 0, 9], [9, 9, 9, 0, 0, 0]) < 9, 200, 0))


def test_sliding_boxes_by_hand():
    # Windows of half the sides, 2 x 3: with half of a window shared they start every 1 row and every 1.5 columns.
    boxes = sliding_boxes((4, 6), fractions=(0.5, 1.0))
    np.testing.assert_array_equal(boxes[0], [0, 0, 6, 4])
    assert len(boxes) == 1 + 3 * 3
    np.testing.assert_array_equal(np.unique(boxes[1:, 1]), [0, 1, 2])
    np.testing.assert_array_equal(np.unique(boxes[1:, 0]), [0, 2, 3])
    covered = np.zeros((97, 131), int)
    for x1, y1, x2, y2 in sliding_boxes((97, 131), fractions=(0.3,), overlap=0.0).astype(int):
        covered[y1:y2, x1:x2] += 1
    assert covered.min() >= 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: merge_proposals([], [], (2, 2)), "at least one"),
        (lambda: merge_proposals(np.zeros((2, 1, 1, 1)), np.zeros((1, 4)), (2, 2)), "2 score maps and 1 boxes"),
        (lambda: merge_proposals(np.zeros((1, 1, 1, 1)), np.zeros((1, 3)), (2, 2)), r"shape \(N, 4\)"),
        (lambda: merge_proposals(np.zeros((1, 1, 1, 1)), [[0, 0, np.nan, 1]], (2, 2)), "finite"),
        (lambda: segment_proposals(None, np.zeros((4, 4)), [[0, 0, 4, 4]]), "`image` must be"),
        (lambda: segment_proposals(None, np.zeros((4, 4, 3)), [[0, 0, 4, 4]]), "Lower `min_side`"),
        (lambda: sliding_boxes((4, 4), overlap=1.0), "`overlap` at least 0 and below 1"),
        (lambda: sliding_boxes((4, 4), fractions=(1.5,)), "`fractions` must be above 0"),
    ],
)
def test_what_is_wrong_is_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call()
