"""Boxes: hand-worked numbers, and the recorded outputs of torchvision and Model Garden."""

import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures import geometry

# Two by two at the origin; the same moved right by one; far away; no width.
SQUARE, MOVED, FAR, THIN = [0, 0, 2, 2], [1, 0, 3, 2], [10, 10, 14, 12], [1, 0, 1, 2]


def as_xyxy(boxes):
    """Boxes that are stored as (y1, x1, y2, x2)."""
    return geometry.convert_boxes(boxes, "yxyx", "xyxy")


def test_area_and_sides_by_either_convention():
    np.testing.assert_array_equal(geometry.box_area([SQUARE, FAR, THIN]), [4, 8, 0])
    np.testing.assert_array_equal(geometry.box_area([SQUARE], inclusive=True), [9])
    np.testing.assert_array_equal(geometry.large_enough([SQUARE, FAR, THIN], 2), [True, True, False])
    np.testing.assert_array_equal(geometry.large_enough([FAR], 3, inclusive=True), [True])
    np.testing.assert_array_equal(geometry.large_enough([FAR], 3), [False])


def test_iou_and_the_share_inside():
    np.testing.assert_allclose(geometry.pairwise_iou([SQUARE, FAR], [MOVED, FAR, THIN]), [[1 / 3, 0, 0], [0, 1, 0]])
    np.testing.assert_allclose(geometry.pairwise_overlap([SQUARE], [MOVED, [0, 0, 9, 9]]), [[0.5, 1.0]])
    # Columns 0, 1, 2 against 1, 2, 3: six of twelve pixels.
    np.testing.assert_allclose(geometry.pairwise_iou([SQUARE], [MOVED], inclusive=True), [[0.5]])
    np.testing.assert_allclose(geometry.box_iou([SQUARE, THIN], [MOVED, THIN]), [1 / 3, 0])


def test_the_other_overlaps_by_hand():
    # Union 6, box around both 3 x 2, so nothing of it is empty; centres 1 apart, diagonal squared 13.
    for function, expected in (
        (geometry.generalized_iou, 1 / 3),
        (geometry.distance_iou, 1 / 3 - 1 / 13),
        (geometry.complete_iou, 1 / 3 - 1 / 13),
    ):
        np.testing.assert_allclose(function([SQUARE], [MOVED]), [expected], rtol=1e-6)
        np.testing.assert_allclose(function([SQUARE, MOVED], [MOVED], pairwise=True), [[expected], [1]], rtol=1e-6)
        assert np.isfinite(function([THIN], [THIN])).all()
    # Apart: intersection 0, union 12, box around both 14 x 12.
    np.testing.assert_allclose(geometry.generalized_iou(SQUARE, FAR), -(168 - 12) / 168, rtol=1e-6)
    # Another shape at the same place: a square inside of 4 x 2, v = 4 / pi^2 (atan 1 - atan 2)^2.
    v = 4 / np.pi**2 * (np.arctan(1) - np.arctan(2)) ** 2
    np.testing.assert_allclose(geometry.complete_iou([1, 0, 3, 2], [0, 0, 4, 2]), 0.5 - v * v / (0.5 + v), rtol=1e-5)


def test_clipping_takes_one_size_or_one_for_each_picture():
    boxes = np.float32([[[-1, -2, 30, 40]], [[3, 4, 5, 6]]])
    np.testing.assert_array_equal(geometry.clip_boxes(boxes, (10, 20)), [[[0, 0, 20, 10]], [[3, 4, 5, 6]]])
    np.testing.assert_array_equal(geometry.clip_boxes(boxes, [[10, 20], [5, 4]]), [[[0, 0, 20, 10]], [[3, 4, 4, 5]]])
    np.testing.assert_array_equal(geometry.clip_boxes(boxes[0], (tf.constant(10), 20), inclusive=True), [[0, 0, 19, 9]])


def test_every_format_leads_to_every_other_and_back():
    written = {"xyxy": [1, 2, 5, 10], "xywh": [1, 2, 4, 8], "cxcywh": [3, 6, 4, 8], "yxyx": [2, 1, 10, 5]}
    for source, box in written.items():
        for target, expected in written.items():
            np.testing.assert_array_equal(geometry.convert_boxes([box], source, target), [expected])
    with pytest.raises(ValueError, match="`target`.*xywh"):
        geometry.convert_boxes([SQUARE], "xyxy", "rel")


def test_masks_to_boxes_encloses_what_is_set():
    masks = np.zeros((3, 4, 6), np.uint8)
    masks[0, 1:3, 2:5] = 1
    masks[1, 3, 5] = 7
    np.testing.assert_array_equal(geometry.masks_to_boxes(masks), [[2, 1, 5, 3], [5, 3, 6, 4], [0, 0, 0, 0]])
    np.testing.assert_array_equal(geometry.masks_to_boxes(masks[:2] > 0, inclusive=True), [[2, 1, 4, 2], [5, 3, 5, 3]])


def test_no_boxes_and_unknown_sizes():
    @tf.function(input_signature=[tf.TensorSpec([None, None, 4]), tf.TensorSpec([None, None, 4])])
    def overlaps(a, b):
        return geometry.pairwise_iou(a, b), geometry.complete_iou(a, b, pairwise=True), geometry.clip_boxes(a, (8, 9))

    iou, complete, clipped = overlaps(np.zeros((2, 0, 4), np.float32), np.zeros((2, 3, 4), np.float32))
    assert iou.shape == complete.shape == (2, 0, 3)
    assert clipped.shape == (2, 0, 4)
    np.testing.assert_allclose(overlaps(np.float32([[SQUARE]]), np.float32([[MOVED]]))[0], [[[1 / 3]]])
    assert geometry.masks_to_boxes(np.zeros((0, 4, 6), bool)).shape == (0, 4)
    assert geometry.convert_boxes(np.zeros((0, 4)), "xywh", "xyxy").shape == (0, 4)


def test_box_arithmetic_stays_float32_whatever_comes_in():
    big = tf.constant([[1001.0, 0.0, 1011.0, 10.0]], tf.float64)
    assert geometry.convert_boxes(big, "xyxy", "cxcywh").dtype == tf.float32
    assert geometry.pairwise_iou(tf.cast(big, tf.bfloat16), tf.cast(big, tf.bfloat16)).dtype == tf.float32


@pytest.mark.golden
def test_boxes_equal_torchvision(golden):
    arrays, cfg = golden("op_boxes")
    a, b = arrays["in/a"], arrays["in/b"]
    np.testing.assert_allclose(geometry.box_area(a), arrays["out/area"], rtol=1e-6)
    np.testing.assert_allclose(geometry.pairwise_iou(a, b), arrays["out/iou"], atol=1e-6)
    for name in ("generalized", "distance", "complete"):
        function, expected = getattr(geometry, f"{name}_iou"), arrays[f"out/{name[0]}iou"]
        np.testing.assert_allclose(function(a, b, pairwise=True), expected, atol=1e-6)
        some = min(len(a), len(b))
        np.testing.assert_allclose(function(a[:some], b[:some]), np.diagonal(expected), atol=1e-6)
    np.testing.assert_array_equal(geometry.clip_boxes(arrays["in/wild"], cfg["clip_size_hw"]), arrays["out/clip"])
    kept = np.flatnonzero(geometry.large_enough(arrays["in/tiny"], cfg["min_size"]))
    np.testing.assert_array_equal(kept, arrays["out/keep_small"])
    for target in ("cxcywh", "xywh"):
        np.testing.assert_allclose(geometry.convert_boxes(a, "xyxy", target), arrays[f"out/{target}"], atol=1e-5)


@pytest.mark.golden
def test_masks_to_boxes_equals_torchvision(golden):
    arrays, _ = golden("op_masks_to_boxes")
    boxes = geometry.masks_to_boxes(arrays["in/masks"], inclusive=True)
    np.testing.assert_array_equal(boxes, arrays["out/boxes"])


@pytest.mark.golden
def test_iou_equals_model_garden(golden):
    arrays, _ = golden("tfm_box_ops")
    boxes = as_xyxy(arrays["in/all"])
    expected = arrays["out/iou"]
    iou = geometry.pairwise_iou(boxes, boxes[:, : expected.shape[-1]])
    np.testing.assert_allclose(iou, expected, atol=1e-6)
