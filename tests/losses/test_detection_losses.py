"""Detection losses: by hand, torchvision and TensorFlow Addons, rows that do not count."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.geometry.keypoints import keypoint_targets
from keras_cv_lectures.geometry.masks import mask_targets
from keras_cv_lectures.losses.detection import (
    binary_cross_entropy,
    ciou_loss,
    diou_loss,
    fast_rcnn_loss,
    focal_loss,
    giou_loss,
    iou_loss,
    keypoint_loss,
    mask_rcnn_loss,
    rpn_losses,
    smooth_l1,
)


def value_and_gradient(loss, predictions):
    predictions = tf.constant(predictions)
    with tf.GradientTape() as tape:
        tape.watch(predictions)
        value = loss(predictions)
    return value.numpy(), tape.gradient(value, predictions).numpy()


def test_smooth_l1_by_hand():
    np.testing.assert_allclose(smooth_l1([0.0, 0, 0, 3], [0.5, -1, 4, 3]), [0.125, 0.5, 3.5, 0])
    np.testing.assert_allclose(smooth_l1([0.0, 0], [0.5, -2], beta=2.0), [0.0625, 1.0])
    np.testing.assert_allclose(smooth_l1([0.0, 0], [0.5, -2], beta=0.0), [0.5, 2.0])


def test_cross_entropies_by_hand():
    logit = np.float32(np.log(3))  # p = 3/4
    np.testing.assert_allclose(binary_cross_entropy([1.0, 0.0], [logit, logit]), [np.log(4 / 3), np.log(4)], rtol=1e-6)
    expected = [0.25 / 16 * np.log(4 / 3), 0.75 * 9 / 16 * np.log(4)]
    np.testing.assert_allclose(focal_loss([1.0, 0.0], [logit, logit]), expected, rtol=1e-6)
    np.testing.assert_allclose(focal_loss([1.0], [logit], None, 0.0), [np.log(4 / 3)], rtol=1e-6)
    # Far out nothing overflows, and at 0 the gradient is not lost.
    extreme = np.float32([-1e4, 1e4, 0.0])
    for loss in (binary_cross_entropy, focal_loss, lambda t, x: focal_loss(t, x, 0.25, 0.5)):
        value, gradient = value_and_gradient(lambda x, loss=loss: loss([0.0, 1.0, 1.0], x), extreme)
        assert value[:2].tolist() == [0, 0]
        assert np.isfinite(gradient).all()
        assert gradient[2] < 0


def test_box_losses_by_hand():
    a, b = np.float32([[0, 0, 2, 2]]), np.float32([[1, 0, 3, 2]])
    np.testing.assert_allclose(iou_loss(a, b), [1 - 2 / 6], rtol=1e-6)
    np.testing.assert_allclose(giou_loss(a, b), [1 - 2 / 6], rtol=1e-6)  # the box around both is their union
    np.testing.assert_allclose(diou_loss(a, b), [1 - 2 / 6 + 1 / 13], rtol=1e-6)  # centres 1 apart, diagonal^2 9 + 4
    np.testing.assert_allclose(ciou_loss(a, b), diou_loss(a, b), rtol=1e-6)  # the same shape
    for loss in (iou_loss, giou_loss, diou_loss, ciou_loss):
        np.testing.assert_allclose(loss(a, a), [0], atol=1e-6)
        value, gradient = value_and_gradient(lambda x, loss=loss: loss(np.zeros((1, 4)), x), np.zeros((1, 4), "f"))
        assert np.isfinite(value).all()
        assert np.isfinite(gradient).all()


def test_rpn_losses_by_hand():
    logits = np.array([[np.log(3), 0.0, 7.0], [0.0, -50.0, 0.0]], "float32")
    positive, negative = [[True, False, False], [True, False, False]], [[False, True, False], [False, True, False]]
    deltas, targets = np.zeros((2, 3, 4), "float32"), np.full((2, 3, 4), np.nan, "float32")
    targets[0, 0], targets[1, 0] = [1, 0, 0, 0], [0, 0, 2, 0]
    objectness, box = rpn_losses(logits, deltas, positive, negative, targets, beta=1.0)
    np.testing.assert_allclose(objectness, (np.log(4 / 3) + 2 * np.log(2)) / 4, rtol=1e-6)
    np.testing.assert_allclose(box, (0.5 + 1.5) / 4, rtol=1e-6)
    half = rpn_losses(logits, deltas, positive, negative, targets, beta=1.0, number=8)
    np.testing.assert_allclose(half, [objectness / 2, box / 2], rtol=1e-6)


def test_fast_rcnn_loss_by_hand():
    logits = np.log(np.array([[[1, 3, 4], [2, 1, 1], [1, 1, 1]]], "float32"))
    deltas = np.zeros((1, 3, 12), "float32")
    deltas[0, 0, 8:] = 5, 0, 0, 0  # the code of class 2
    targets = np.zeros((1, 3, 4), "float32")
    targets[0, 1:] = np.nan
    labels = [[2, 0, -1]]
    expected = (np.log(8 / 4) + np.log(4 / 2)) / 2, (5 - 0.5) / 2
    np.testing.assert_allclose(fast_rcnn_loss(logits, deltas, labels, targets, beta=1.0), expected, rtol=1e-6)
    split = deltas.reshape(1, 3, 3, 4)
    np.testing.assert_allclose(fast_rcnn_loss(logits, split, labels, targets, beta=1.0), expected, rtol=1e-6)
    # One code for all classes; and the background as the last class, without a code.
    shared = fast_rcnn_loss(logits, split[:, :, 2:], labels, targets, beta=1.0)
    np.testing.assert_allclose(shared, expected, rtol=1e-6)
    last = fast_rcnn_loss(np.roll(logits, -1, axis=-1), split[:, :, 1:], [[1, 2, -1]], targets, beta=1.0, background=2)
    np.testing.assert_allclose(last, expected, rtol=1e-6)


def test_a_label_without_a_logit_is_no_number():
    logits, deltas, targets = np.zeros((1, 2, 3)), np.zeros((1, 2, 12)), np.zeros((1, 2, 4))
    assert np.isnan(fast_rcnn_loss(logits, deltas, np.int32([[0, 3]]), targets)[0])
    assert np.isfinite(fast_rcnn_loss(logits, deltas, np.int32([[0, 2]]), targets)[0])


def test_mask_rcnn_loss_by_hand():
    logits = np.zeros((1, 3, 1, 2, 2), "float32")
    logits[0, 0, 0, :, 1] = np.log(3)
    targets = np.full((1, 3, 1, 2), np.nan, "float32")
    targets[0, 0] = [[1, 0.5]]
    expected = (np.log(4 / 3) + (np.log(4 / 3) + np.log(4)) / 2) / 2
    np.testing.assert_allclose(mask_rcnn_loss(logits, targets, [[1, 0, -1]]), expected, rtol=1e-6)
    shared = mask_rcnn_loss(logits[..., 1:], targets, [[7, 0, -1]])
    np.testing.assert_allclose(shared, expected, rtol=1e-6)
    # Without a background among the masks label 0 is an object.
    targets[0, 1] = 0
    both = mask_rcnn_loss(logits, targets, [[1, 0, -1]], background=None)
    np.testing.assert_allclose(both, (expected + np.log(2)) / 2, rtol=1e-6)


def test_keypoint_loss_by_hand():
    logits = np.zeros((1, 2, 2, 2, 1), "float32")
    logits[0, 0, 1, 0] = np.log(5)
    loss = keypoint_loss(logits, [[[2], [99]]], [[[True], [False]]])
    np.testing.assert_allclose(loss, np.log(8 / 5), rtol=1e-6)


ROWS = {
    "rpn": lambda x, on: sum(rpn_losses(x[:, :, 0], x[:, :, :4], on, np.zeros_like(on), _nan_off(on, (4,)))),
    "box": lambda x, on: sum(fast_rcnn_loss(x, x, np.where(on, 1, -1), _nan_off(on, (4,)))),
    "mask": lambda x, on: mask_rcnn_loss(
        keras.ops.reshape(x, (2, 3, 2, 2, 2)), _nan_off(on, (2, 2)), np.where(on, 1, -1)
    ),
    "keypoint": lambda x, on: keypoint_loss(
        keras.ops.reshape(x, (2, 3, 2, 2, 2)), np.zeros((2, 3, 2)), on[..., None] & np.ones(2, bool)
    ),
}


def _nan_off(on, shape):
    values = np.full((*on.shape, *shape), np.nan, "float32")
    values[on] = 0.5
    return values


@pytest.mark.parametrize("name", ROWS)
def test_rows_that_do_not_count_change_nothing(name):
    predictions = np.random.default_rng(0).normal(size=(2, 3, 8)).astype("float32")
    on = np.array([[True, False, False], [True, True, False]])
    value, gradient = value_and_gradient(lambda x: ROWS[name](x, on), predictions)
    assert value > 0
    assert gradient[on].any()
    assert not gradient[~on].any()
    predictions[~on] = np.inf
    again = value_and_gradient(lambda x: ROWS[name](x, on), predictions)
    np.testing.assert_array_equal(again[0], value)
    np.testing.assert_array_equal(again[1], gradient)
    nothing = value_and_gradient(lambda x: ROWS[name](x, np.zeros_like(on)), predictions)
    assert nothing[0] == 0
    assert not nothing[1].any()
    low = tf.function(lambda x: ROWS[name](tf.cast(x, "bfloat16"), on))(predictions)
    assert low.dtype == tf.float32


def test_a_class_that_is_ruled_out_costs_nothing():
    logits = np.float32([[[0.0, 0.0, -np.inf]]])
    loss, _ = fast_rcnn_loss(logits, np.zeros((1, 1, 12), "f"), np.zeros((1, 1), int), np.zeros((1, 1, 4), "f"))
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-6)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("name", "predictions", "targets", "loss"),
    [
        ("smoothl1_b1", "pred", "true", lambda t, p: smooth_l1(t, p, 1.0)),
        ("smoothl1_b19", "pred", "true", lambda t, p: smooth_l1(t, p, 1 / 9)),
        ("bce", "pred", "binary", binary_cross_entropy),
        ("focal", "pred", "binary", focal_loss),
        ("giou_loss", "boxes_a", "boxes_b", giou_loss),
        ("ciou_loss", "boxes_a", "boxes_b", ciou_loss),
    ],
)
def test_elementwise_losses_equal_torch(golden, name, predictions, targets, loss):
    arrays, _ = golden("op_losses")
    value, gradient = value_and_gradient(
        lambda x: tf.reduce_mean(loss(arrays[f"in/{targets}"], x)), arrays[f"in/{predictions}"]
    )
    np.testing.assert_allclose(value, arrays[f"out/{name}"], rtol=1e-5)
    np.testing.assert_allclose(gradient, arrays[f"grad/{name}"], rtol=1e-3, atol=1e-6)


@pytest.mark.golden
def test_fast_rcnn_loss_equals_torchvision(golden):
    arrays, _ = golden("op_losses")
    inputs = [arrays[f"in/frcnn_{name}"][None] for name in ("logits", "reg", "labels", "targets")]
    expected = arrays["out/frcnn_cls"], arrays["out/frcnn_box"]
    np.testing.assert_allclose(fast_rcnn_loss(*inputs), expected, rtol=1e-5)
    # Padded rows leave it as it is.
    padded = [np.pad(x, [(0, 0), (0, 5)] + [(0, 0)] * (x.ndim - 2), constant_values=-1) for x in inputs]
    np.testing.assert_allclose(fast_rcnn_loss(*padded), expected, rtol=1e-5)


@pytest.mark.golden
def test_mask_rcnn_loss_equals_torchvision(golden):
    arrays, _ = golden("op_losses")
    logits, masks = arrays["in/mask_logits"].transpose(0, 2, 3, 1), arrays["in/mask_gt"]
    matched = arrays["in/mask_matched"]
    whole = np.tile(np.float32([0, 0, masks.shape[2], masks.shape[1]]), (len(masks), 1))
    targets = mask_targets(masks, whole, arrays["in/mask_proposals"], matched, logits.shape[1])
    loss = mask_rcnn_loss(logits, targets, arrays["in/mask_gt_labels"][matched])
    np.testing.assert_allclose(loss, arrays["out/mask_loss"], rtol=1e-5)


@pytest.mark.golden
def test_losses_equal_tensorflow_addons(golden):
    arrays, _ = golden("tfa_losses")
    a, b = (arrays[f"in/boxes{index}"][:, [1, 0, 3, 2]] for index in (1, 2))
    np.testing.assert_allclose(giou_loss(a, b), arrays["out/giou_loss"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(iou_loss(a, b), arrays["out/iou_loss"], rtol=1e-5, atol=1e-6)
    focal = np.asarray(focal_loss(arrays["in/targets"], arrays["in/logits"]))
    reference = arrays["out/focal"]
    np.testing.assert_allclose(focal.sum(axis=-1) if reference.ndim == 1 else focal, reference, rtol=1e-5)


def test_keypoint_loss_of_targets():
    """Heatmaps that peak at the targets have a small loss, shifted ones a large one."""
    rng = np.random.default_rng(0)
    boxes = np.float32([[[0, 0, 16, 16], [2, 4, 10, 12]]])
    points = np.concatenate([rng.uniform(4, 10, (1, 2, 3, 2)), np.ones((1, 2, 3, 1))], axis=-1)
    index, valid = keypoint_targets(points, boxes, [[0, 1]], 8)
    right = 20.0 * np.eye(64)[np.array(index)].transpose(0, 1, 3, 2).reshape(1, 2, 8, 8, 3)
    assert keypoint_loss(right, index, valid) < 1e-5
    assert keypoint_loss(np.roll(right, 1, axis=2), index, valid) > 19
