"""Non-maximum suppression: by hand, greedily in NumPy, as torchvision recorded it, and in TensorFlow Lite."""

import importlib
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures import geometry

# IoU of 0 and 1 is 0.8, of 1 and 2 is 2/3, of 0 and 2 is 10/19; 3 is alone.
BOXES = np.float32([[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 12, 6], [50, 50, 60, 60]])


def one_by_one(*arguments, **settings):
    """What `nms_portable` does with boxes that are too many to be compared all with all."""
    with mock.patch.object(importlib.import_module("keras_cv_lectures.geometry.nms"), "COMPARED", 0):
        return tf.function(geometry.nms_portable)(*arguments, **settings)


BOTH = pytest.mark.parametrize("function", [geometry.nms, geometry.nms_portable])
ALL = pytest.mark.parametrize("function", [geometry.nms, geometry.nms_portable, one_by_one])


def crowd(count, places, seed, size=200.0):
    """Boxes around a few places, whole numbers of scores so that many are equal, and labels."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, size, (places, 2))[rng.integers(0, places, count)] + rng.normal(0, 4, (count, 2))
    sides = rng.uniform(10, 40, (count, 2))
    boxes = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1).astype(np.float32)
    return boxes, rng.integers(0, 25, count).astype(np.float32), rng.integers(0, 3, count).astype(np.int32)


def greedy(boxes, scores, threshold, labels):
    """The definition."""
    iou = np.array(geometry.pairwise_iou(boxes, boxes))
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        if all(iou[i, j] <= threshold or labels[i] != labels[j] for j in kept):
            kept.append(i)
    return kept


def kept(result):
    """What is kept, after the padding was looked at."""
    indices, count = np.array(result[0]), int(result[1])
    assert not indices[count:].any()
    return indices[:count].tolist()


@ALL
def test_by_hand(function):
    scores = np.float32([0.5, 0.9, 0.7, 0.1])
    assert kept(function(BOXES, scores, 4, 0.6)) == [1, 3]
    assert kept(function(BOXES, scores, 4, 0.7)) == [1, 2, 3]
    # Who was dropped drops nobody: 0 goes because of 1, 2 stays although 0 would have dropped it.
    assert kept(function(BOXES, np.float32([0.9, 1.0, 0.5, 0.1]), 6, 0.75)) == [1, 2, 3]
    assert kept(function(BOXES, scores, 1, 0.7)) == [1]
    assert kept(function(BOXES, scores, 4, 0.0)) == [1, 3]
    assert kept(function(BOXES, scores, 4, 1.0)) == [1, 2, 0, 3]


@ALL
def test_labels_thresholds_and_rows_that_are_never_kept(function):
    scores = np.float32([0.5, 0.9, 0.7, 0.1])
    assert kept(function(BOXES, scores, 4, 0.6, [0, 1, 1, 0])) == [1, 0, 3]
    assert kept(function(BOXES, scores, 4, 0.6, score_threshold=0.1)) == [1]
    assert kept(function(BOXES, np.float32([-1, -np.inf, -2, -3]), 4, 0.5)) == [0, 3]
    assert kept(function(BOXES - 55, scores, 4, 0.6, [0, 1, 2, 3])) == [1, 2, 0, 3]  # left of and above the origin
    # Equal scores: the lower index first. Boxes without area overlap nothing.
    assert kept(function(BOXES[[0, 0, 3, 3]], np.ones(4, np.float32), 4, 0.5)) == [0, 2]
    assert kept(function(np.zeros((3, 4), np.float32), np.ones(3, np.float32), 4, 0.5)) == [0, 1, 2]


@BOTH
def test_nothing_in_nothing_out(function):
    indices, count = function(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), 3, 0.5, np.zeros(0, np.int32))
    assert indices.shape == (3,)
    assert kept((indices, count)) == []
    assert indices.dtype == count.dtype == tf.int32


@ALL
@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_equals_the_definition_with_many_equal_scores(function, threshold):
    boxes, scores, labels = crowd(150, 5, seed=1)
    assert kept(function(boxes, scores, 150, threshold)) == greedy(boxes, scores, threshold, np.zeros(150))
    assert kept(function(boxes, scores, 150, threshold, labels)) == greedy(boxes, scores, threshold, labels)


def test_a_long_chain_needs_as_many_rounds():
    boxes = np.float32([[i, 0, i + 10, 1] for i in range(40)])  # neighbours 9/11, the next but one 8/12
    scores = -np.arange(40, dtype=np.float32)
    assert kept(geometry.nms_portable(boxes, scores, 40, 0.7)) == list(range(0, 40, 2))


def lite(function, *arrays):
    """What TensorFlow Lite, built-in operators only, makes of the function; and the names of its operators."""
    from ai_edge_litert.interpreter import Interpreter

    module = tf.Module()
    module.serve = tf.function(
        lambda **inputs: dict(zip(("indices", "count"), function(*inputs.values()), strict=True)), autograph=False
    )
    specs = {f"x{i}": tf.TensorSpec(array.shape, array.dtype, name=f"x{i}") for i, array in enumerate(arrays)}
    graph = module.serve.get_concrete_function(**specs)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([graph], module)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    interpreter = Interpreter(model_content=converter.convert())
    names = {operator["op_name"] for operator in interpreter._get_ops_details()}
    outputs = interpreter.get_signature_runner()(**{f"x{i}": array for i, array in enumerate(arrays)})
    return (outputs["indices"], outputs["count"]), names


def test_tensorflow_lite_has_it_built_in_and_agrees():
    boxes, scores, labels = (np.stack(pair) for pair in zip(crowd(60, 4, 2), crowd(60, 4, 3), strict=True))
    scores += np.arange(60, dtype=np.float32) / 64  # No two are equal: TensorFlow Lite leaves their order open.
    scores[1, :30] = -np.inf

    def call(boxes, scores, labels):
        return geometry.batched_nms(boxes, scores, 50, 0.5, labels, score_threshold=3.0)

    (indices, counts), names = lite(call, boxes, scores, labels)
    assert "NON_MAX_SUPPRESSION_V4" in names
    expected = call(boxes, scores, labels)
    np.testing.assert_array_equal(indices, expected[0])
    np.testing.assert_array_equal(counts, expected[1])
    assert 0 < counts[1] < counts[0] < 50


@pytest.mark.parametrize(("threshold", "stays"), [(0.5, True), (0.3, False)])
def test_an_iou_equal_to_the_threshold_means_the_same_everywhere(threshold, stays):
    """As in torchvision: 5/10 is not larger than 0.5; 3/10 as float32 is larger than 0.3."""
    boxes = np.float32([[0, 0, 10, 1], [0, 0, 10 * threshold, 1]])
    scores = np.float32([2, 1])
    expected = [0, 1] if stays else [0]
    assert kept(geometry.nms(boxes, scores, 2, threshold)) == expected
    assert kept(geometry.nms_portable(boxes, scores, 2, threshold)) == expected
    assert kept(lite(lambda *x: geometry.nms(*x, 2, threshold), boxes, scores)[0]) == expected


def test_batches_of_known_and_unknown_size():
    boxes, scores, labels = (np.stack(pair) for pair in zip(*(crowd(40, 4, seed) for seed in (4, 5, 6)), strict=True))
    arguments = (20, 0.5, labels, 2.0)
    single = [geometry.nms(b, s, 20, 0.5, n, 2.0) for b, s, n in zip(boxes, scores, labels, strict=True)]
    indices, counts = (np.stack(values) for values in zip(*single, strict=True))
    unknown = [tf.TensorSpec([None, None, 4]), tf.TensorSpec([None, None]), tf.TensorSpec([None, None], tf.int32)]

    @tf.function(input_signature=unknown)
    def traced(boxes, scores, labels):
        return *geometry.batched_nms(boxes, scores, 20, 0.5, labels, 2.0), *geometry.nms_portable(
            boxes, scores, 20, 0.5, labels, 2.0
        )

    results = traced(boxes, scores, labels)
    for pair in (geometry.batched_nms(boxes, scores, *arguments), results[:2], results[2:]):
        np.testing.assert_array_equal(pair[0], indices)
        np.testing.assert_array_equal(pair[1], counts)
    empty = traced(boxes[:0], scores[:0], labels[:0])
    assert empty[0].shape == (0, 20)
    assert empty[1].shape == (0,)


@BOTH
def test_many_labels_cost_no_precision(function):
    # IoU 0.5002. At 79 times the picture's width float32 counts in steps of 1/128, and both would be equal to 0.5.
    boxes = np.float32([[0, 0, 10, 10], [0, 0, 10, 5.002], [1300, 1300, 1333, 1333]])
    assert kept(function(boxes, np.float32([3, 2, 1]), 3, 0.5, [79, 79, 0])) == [0, 2]


SOFT = pytest.mark.parametrize("function", [geometry.soft_nms, geometry.soft_nms_portable])


@SOFT
def test_soft_nms_by_hand(function):
    # IoU of 1 and 0 is 0.8: 0.8 exp(-0.64 / 0.5) = 0.222, after the box that is alone.
    indices, scores, count = function(BOXES[[0, 1, 3]], np.float32([0.9, 0.8, 0.3]), 4)
    np.testing.assert_array_equal(indices, [0, 2, 1, 0])
    np.testing.assert_allclose(scores, [0.9, 0.3, 0.8 * np.exp(-1.28), 0], rtol=1e-6)
    assert count == 3
    _, scores, count = function(BOXES[[0, 1, 3]], np.float32([0.9, 0.8, 0.3]), 4, score_threshold=0.25)
    np.testing.assert_allclose(scores, [0.9, 0.3, 0, 0], rtol=1e-6)
    assert count == 2
    np.testing.assert_allclose(function(BOXES[:2], np.float32([0.9, 0.8]), 2, labels=[0, 1])[1], [0.9, 0.8])
    assert function(BOXES[:0], np.zeros(0, np.float32), 2)[2] == 0


def test_soft_nms_portable_equals_the_operator():
    boxes, _, labels = crowd(60, 3, seed=7)
    scores = np.random.default_rng(7).uniform(size=60).astype(np.float32)
    for sigma, threshold in ((0.5, 0.01), (0.1, 0.05)):
        settings = {"sigma": sigma, "score_threshold": threshold, "labels": labels}
        got, expected = (f(boxes, scores, 60, **settings) for f in (geometry.soft_nms_portable, geometry.soft_nms))
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_allclose(got[1], expected[1], rtol=1e-5)
        assert 0 < got[2] == expected[2] < 60


def test_wrong_settings_are_refused():
    for call in (geometry.nms, geometry.batched_nms, geometry.nms_portable):
        with pytest.raises(ValueError, match="iou_threshold=50"):
            call(BOXES, BOXES[:, 0], 4, 50)
        with pytest.raises(ValueError, match="max_outputs=0"):
            call(BOXES, BOXES[:, 0], 0, 0.5)
    with pytest.raises(ValueError, match="sigma=0"):
        geometry.soft_nms(BOXES, BOXES[:, 0], 4, sigma=0)
    with pytest.raises(ValueError, match="score_threshold=-1"):
        geometry.soft_nms_portable(BOXES, BOXES[:, 0], 4, score_threshold=-1)


@BOTH
@pytest.mark.golden
def test_nms_equals_torchvision(golden, function):
    arrays, cfg = golden("op_nms")
    for size in {key.split("/")[1].removesuffix("_boxes") for key in arrays if key.endswith("_boxes")}:
        boxes, scores, labels = (arrays[f"in/{size}_{name}"] for name in ("boxes", "scores", "labels"))
        for threshold in cfg["thresholds"]:
            for kind, classes in (("nms", None), ("batched", labels)):
                expected = arrays[f"out/{kind}_{size}_t{round(threshold * 10)}"].tolist()
                assert kept(function(boxes, scores, len(boxes), threshold, classes)) == expected
                some = max(len(expected) // 2, 1)
                assert kept(function(boxes, scores, some, threshold, classes)) == expected[:some]
