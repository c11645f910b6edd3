"""Keypoint targets and decoding: by hand, all pixels computed, torchvision, TensorFlow Lite."""

import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.geometry.keypoints import (
    heatmaps_to_keypoints,
    heatmaps_to_keypoints_numpy,
    keypoint_targets,
)


def smooth_maps(count, side, points, seed, rounds=2):
    """Noise (R, side, side, K) averaged over neighbours, so that peaks are some cells wide."""
    maps = np.random.default_rng(seed).normal(size=(count, side, side, points))
    for _ in range(rounds):
        for axis in (1, 2):
            maps = (np.roll(maps, 1, axis) + 2 * maps + np.roll(maps, -1, axis)) / 4
    return maps.astype(np.float32)


def random_boxes(count, low, high, seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 100, (count, 2))
    return np.concatenate([corners, corners + np.exp(rng.uniform(np.log(low), np.log(high), (count, 2)))], 1).astype(
        "f"
    )


def test_targets_by_hand():
    # Box of 8 x 4 pixels at (10, 20), maps of 4 x 4 cells: cells are 2 pixels wide and 1 high.
    points = np.array([[[11, 21.5, 2], [18, 24, 1], [10, 20, 1], [13, 22, 0], [9.9, 22, 2], [18.1, 22, 2]]], "float32")
    index, valid = keypoint_targets(points, [[10, 20, 18, 24]], [0], 4)
    # (0, 1), the last cell for the far corner, the first, not visible, left of the box, right of it.
    assert np.array(index).tolist() == [[4, 15, 0, 0, 0, 0]]
    assert np.array(valid).tolist() == [[True, True, True, False, False, False]]


def test_targets_of_batches():
    points = np.float32([[[[1, 1, 1]], [[3, 3, 1]]], [[[5, 5, 2]], [[7, 7, 2]]]])
    boxes = np.float32([[[0, 0, 8, 8]] * 3] * 2)
    boxes[:, 2] = 0  # a padded row
    index, valid = keypoint_targets(points, boxes, [[1, 0, 0], [-1, 1, 1]], 8)
    assert np.array(index)[..., 0].tolist() == [[27, 9, 0], [0, 63, 0]]
    assert np.array(valid)[..., 0].tolist() == [[True, True, False], [False, True, False]]
    specs = [tf.TensorSpec([None, None, 1, 3]), tf.TensorSpec([None, None, 4]), tf.TensorSpec([None, None], "int32")]
    traced = tf.function(lambda p, b, m: keypoint_targets(p, b, m, 8), input_signature=specs)
    again = traced(points, boxes, np.array([[1, 0, 0], [-1, 1, 1]], "int32"))
    np.testing.assert_array_equal(again[0], index)
    np.testing.assert_array_equal(again[1], valid)


def test_no_objects():
    for points, boxes in (((0, 5, 3), (2, 4)), ((3, 5, 3), (0, 4))):
        index, valid = keypoint_targets(np.zeros(points), np.zeros(boxes), np.zeros(boxes[0]), 56)
        assert index.shape == valid.shape == (boxes[0], 5)
        assert not np.any(valid)
    assert heatmaps_to_keypoints(np.zeros((2, 0, 8, 8, 5)), np.zeros((2, 0, 4))).shape == (2, 0, 5, 3)
    assert heatmaps_to_keypoints_numpy(np.zeros((0, 8, 8, 5)), np.zeros((0, 4))).shape == (0, 5, 3)


@pytest.mark.parametrize("decode", [heatmaps_to_keypoints, heatmaps_to_keypoints_numpy])
def test_decoding_by_hand(decode):
    maps = np.zeros((1, 8, 8, 2), "float32")
    maps[0, 2, 5, 0] = 3.0
    # A box of 8 x 8 pixels has one pixel a cell: the peak's centre. Equal values: the first pixel.
    found = np.array(decode(maps, [[10.0, 20.0, 18.0, 28.0]]))
    np.testing.assert_allclose(found, [[[15.5, 22.5, 3.0], [10.5, 20.5, 0.0]]], atol=1e-6)
    # 24 x 40 pixels: the middle ones of the peak's 3 x 5.
    found = np.array(decode(maps, [[10.0, 20.0, 34.0, 60.0]]))
    np.testing.assert_allclose(found[0, 0], [10 + 16.5, 20 + 12.5, 3.0], atol=1e-5)
    # 3.2 pixels are 4, whose centres are 0.8 apart; a box without extent is one pixel.
    found = np.array(decode(np.full((2, 8, 8, 1), 2.0), [[10.0, 20.0, 13.2, 23.2], [5.0, 5.0, 5.0, 5.0]]))
    np.testing.assert_allclose(found[:, 0], [[10.4, 20.4, 2.0], [5.5, 5.5, 2.0]], atol=1e-5)


def test_small_boxes_are_searched_wholly():
    """Where the pixels are no more than the cells, noise too is decoded exactly."""
    maps = np.random.default_rng(0).normal(size=(40, 14, 14, 3)).astype("float32")
    boxes = random_boxes(40, 0.5, 14, 1)
    np.testing.assert_allclose(heatmaps_to_keypoints(maps, boxes), heatmaps_to_keypoints_numpy(maps, boxes), atol=1e-4)


def test_peaks_are_found_exactly():
    """What a trained head gives: one peak, anywhere, over some noise."""
    rng = np.random.default_rng(0)
    places, cells = rng.uniform(0, 28, (2, 60, 1, 1, 3)), np.arange(28)
    distance = (cells[:, None, None] + 0.5 - places[0]) ** 2 + (cells[None, :, None] + 0.5 - places[1]) ** 2
    maps = (10 * np.exp(-distance / 8) + smooth_maps(60, 28, 3, 1)).astype("float32")
    boxes = random_boxes(60, 3, 300, 2)
    exact = heatmaps_to_keypoints_numpy(maps, boxes)
    for rounds in (None, 2):  # In a loop, and less than in a file.
        found = heatmaps_to_keypoints(maps, boxes, rounds=rounds, max_extent=308)
        np.testing.assert_allclose(found, exact, atol=1e-3, err_msg=f"{rounds=}")


@pytest.mark.parametrize("seed", range(4))
def test_noise_is_decoded_exactly(seed):
    """The worst case, where many maxima are nearly as high; also of maps and boxes that are not square."""
    maps = np.random.default_rng(seed).normal(size=(6, 40, 28, 2)).astype("float32")
    boxes = random_boxes(6, 3, 150, seed)
    exact = heatmaps_to_keypoints_numpy(maps, boxes)
    found = np.array(heatmaps_to_keypoints(maps, boxes, max_extent=160))
    np.testing.assert_allclose(found[..., :2], exact[..., :2], atol=1e-3)
    np.testing.assert_allclose(found[..., 2], exact[..., 2], atol=1e-4)
    few, more = (
        heatmaps_to_keypoints(maps, boxes, candidates=2, rounds=rounds, max_extent=160)[..., 2] for rounds in (1, 40)
    )
    assert np.all(few <= exact[..., 2] + 1e-4)
    np.testing.assert_allclose(more, exact[..., 2], atol=1e-4)


def test_the_first_of_equal_pixels_is_found():
    # Two pixels a cell lie beside its centre, so that four have the same value.
    maps = np.zeros((1, 8, 8, 1), "float32")
    maps[0, 2, 5] = 3.0
    found = np.array(heatmaps_to_keypoints(maps, [[0.0, 0.0, 16.0, 16.0]], max_extent=16))
    # Keys' kernel at a quarter: 1.25 / 64 - 2.25 / 16 + 1.
    np.testing.assert_allclose(found[0, 0], [10.5, 4.5, 3.0 * (1.25 / 64 - 2.25 / 16 + 1) ** 2], atol=1e-5)


def test_boxes_beyond_the_largest_extent_stay_near_the_peak():
    maps = np.zeros((1, 8, 8, 1), "float32")
    maps[0, 2, 5] = 1.0
    found = np.array(heatmaps_to_keypoints(maps, [[0.0, 0.0, 800.0, 800.0]], max_extent=80))
    np.testing.assert_allclose(found[0, 0], [550, 250, 1], atol=1.0)


def test_batches_and_unknown_sizes():
    maps, boxes = smooth_maps(6, 14, 2, 3).reshape(2, 3, 14, 14, 2), random_boxes(6, 3, 60, 4).reshape(2, 3, 4)
    specs = [tf.TensorSpec([None, None, 14, 14, 2]), tf.TensorSpec([None, None, 4])]
    traced = tf.function(lambda m, b: heatmaps_to_keypoints(m, b, max_extent=64), input_signature=specs)
    together = traced(maps, boxes).numpy()
    assert together.shape == (2, 3, 2, 3)
    for index in range(2):
        np.testing.assert_allclose(together[index], heatmaps_to_keypoints_numpy(maps[index], boxes[index]), atol=1e-3)


def test_tensorflow_lite_decodes_with_builtin_operators():
    from ai_edge_litert.interpreter import Interpreter

    maps, boxes = smooth_maps(4, 14, 2, 5)[None], random_boxes(4, 3, 60, 6)[None]
    specs = [tf.TensorSpec(maps.shape), tf.TensorSpec(boxes.shape)]
    traced = tf.function(lambda m, b: heatmaps_to_keypoints(m, b, max_extent=64), input_signature=specs)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([traced.get_concrete_function()])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    interpreter = Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], maps if len(detail["shape"]) == 5 else boxes)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(found, heatmaps_to_keypoints(maps, boxes, max_extent=64), atol=1e-4)


@pytest.mark.golden
@pytest.mark.parametrize("decode", [heatmaps_to_keypoints, heatmaps_to_keypoints_numpy])
def test_decoding_equals_torchvision(golden, decode):
    arrays, _ = golden("op_losses")
    found = np.array(decode(arrays["in/heatmaps"].transpose(0, 2, 3, 1), arrays["in/heatmap_rois"]))
    np.testing.assert_allclose(found[..., :2], arrays["out/keypoints"][..., :2], atol=1e-4)
    np.testing.assert_allclose(found[..., 2], arrays["out/keypoint_scores"], atol=1e-5)
