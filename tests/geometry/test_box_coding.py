"""Box coding: the lecture's examples, extreme deltas, and the recorded outputs of torchvision and Model Garden."""

import math
import re

import numpy as np
import pytest

from keras_cv_lectures import geometry

REFERENCE = [10.0, 20.0, 26.0, 28.0]  # 16 wide, 8 high, centre (18, 24)


def test_the_examples_of_the_lecture():
    # Exactly right; too far left by a quarter of its width; an eighth too wide.
    np.testing.assert_array_equal(geometry.encode_boxes([REFERENCE], [REFERENCE]), [[0, 0, 0, 0]])
    np.testing.assert_array_equal(geometry.encode_boxes([REFERENCE], [[14, 20, 30, 28]]), [[0.25, 0, 0, 0]])
    too_wide = geometry.encode_boxes([[0, 0, 18, 8]], [[1, 0, 17, 8]])
    np.testing.assert_allclose(too_wide, [[0, 0, math.log(16 / 18), 0]], rtol=1e-6)
    np.testing.assert_allclose(too_wide[0, 2], -0.125, atol=0.01)


def test_weights_multiply_and_decoding_divides():
    box = [[14, 21, 46, 25]]
    deltas = [[12 / 16, -1 / 8, math.log(2), math.log(0.5)]]
    weights = (10, 10, 5, 5)
    np.testing.assert_allclose(geometry.encode_boxes([REFERENCE], box), deltas, rtol=1e-6)
    np.testing.assert_allclose(
        geometry.encode_boxes([REFERENCE], box, weights), np.multiply(deltas, weights), rtol=1e-6
    )
    np.testing.assert_allclose(
        geometry.decode_boxes([REFERENCE], np.multiply(deltas, weights), weights), box, rtol=1e-6
    )
    swapped = geometry.encode_boxes([REFERENCE], box, (10, 20, 5, 7), order="yx")
    np.testing.assert_allclose(swapped[0], np.multiply(deltas[0], (20, 10, 7, 5))[[1, 0, 3, 2]], rtol=1e-6)
    np.testing.assert_allclose(geometry.decode_boxes([REFERENCE], swapped, (10, 20, 5, 7), order="yx"), box, rtol=1e-6)


def test_references_broadcast_over_classes():
    deltas = np.zeros((2, 3, 4), np.float32)
    deltas[0, 1, 0], deltas[1, 2, 3] = 1.0, math.log(2)
    references = np.float32([[REFERENCE], [[0, 0, 4, 4]]])
    boxes = geometry.decode_boxes(references, deltas)
    expected = np.repeat(references, 3, axis=1)
    expected[0, 1, [0, 2]] += 16
    expected[1, 2] = [0, -2, 4, 6]
    np.testing.assert_allclose(boxes, expected, atol=1e-6)


def test_growth_is_limited_and_rows_of_padding_are_finite():
    wide = geometry.decode_boxes([REFERENCE], [[0, 0, 1000, 0]])[0]
    np.testing.assert_allclose(wide[2] - wide[0], 1000, rtol=1e-5)
    free = geometry.decode_boxes([REFERENCE], [[0, 0, math.log(100), 0]], clip=None)[0]
    np.testing.assert_allclose(free[2] - free[0], 1600, rtol=1e-5)
    for reference, box in ((REFERENCE, [0, 0, 0, 0]), ([0, 0, 0, 0], REFERENCE), ([0, 0, 0, 0], [0, 0, 0, 0])):
        assert np.isfinite(geometry.encode_boxes([reference], [box])).all()
    assert geometry.decode_boxes(np.zeros((0, 1, 4)), np.zeros((0, 5, 4))).shape == (0, 5, 4)


def test_caffe_counts_the_last_pixel():
    # Pixels 0..15 are 16 wide with the centre at 8; pixels 4..11 are 8 wide with the same centre.
    deltas = geometry.encode_boxes([[0, 0, 15, 15]], [[4, 0, 11, 15]], inclusive=True)
    np.testing.assert_allclose(deltas, [[0, 0, -math.log(2), 0]], atol=1e-6)
    boxes = geometry.decode_boxes([[0, 0, 15, 15]], deltas, clip=None, inclusive=True)
    np.testing.assert_allclose(boxes, [[4, 0, 12, 16]], atol=1e-5)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="four positive"):
        geometry.encode_boxes([REFERENCE], [REFERENCE], (1, 1, 1))
    with pytest.raises(ValueError, match="four positive"):
        geometry.decode_boxes([REFERENCE], [REFERENCE], (1, 0, 1, 1))
    with pytest.raises(ValueError, match='"xy" or "yx"'):
        geometry.decode_boxes([REFERENCE], [REFERENCE], order="yxyx")


@pytest.mark.golden
def test_coder_equals_torchvision(golden):
    arrays, cfg = golden("op_box_coder")
    references, truths = arrays["in/proposals"], arrays["in/reference"]
    deltas = arrays["in/deltas"].reshape(len(references), -1, 4)
    for name, weights in cfg["weights"].items():
        encoded = geometry.encode_boxes(references, truths, weights)
        np.testing.assert_allclose(encoded, arrays[f"out/encode_{name}"], rtol=1e-5, atol=1e-5)
        decoded = geometry.decode_boxes(references[:, None], deltas, weights, cfg["bbox_xform_clip"])
        np.testing.assert_allclose(decoded, arrays[f"out/decode_{name}"], rtol=1e-5, atol=1e-4)
        back = geometry.decode_boxes(references, encoded, weights)
        np.testing.assert_allclose(back, arrays[f"out/roundtrip_{name}"][:, 0], atol=1e-4)


@pytest.mark.golden
def test_coder_equals_model_garden(golden):
    arrays, cfg = golden("tfm_box_ops")
    weights = tuple(float(n) for n in re.search(r"weights ([\d., ]+)\)", cfg["what"]).group(1).split(","))
    anchors, boxes = (geometry.convert_boxes(arrays[f"in/{name}"], "yxyx", "xyxy") for name in ("anchors", "boxes"))
    encoded = geometry.encode_boxes(anchors, boxes, weights, order="yx")
    np.testing.assert_allclose(encoded, arrays["out/encoded"], rtol=1e-5, atol=1e-5)
    decoded = geometry.decode_boxes(anchors, arrays["out/encoded"], weights, order="yx")
    np.testing.assert_allclose(geometry.convert_boxes(decoded, "xyxy", "yxyx"), arrays["out/decoded"], atol=1e-4)
