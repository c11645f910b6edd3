"""`sample_weight` of segmentation losses, of pictures and of pixels: what it multiplies, and what is refused."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_segmentation_losses import LOSSES

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.losses import DiceLoss, SegmentationCrossEntropy, WeightedSum

# Square pictures, as many as one has columns: where broadcasting would not fail.
B = H = W = 4


@pytest.fixture(scope="module")
def batch():
    """Labels (4, 4, 4) of 3 classes and 255, logits, and weights of pixels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (B, H, W))
    labels[rng.random(labels.shape) < 0.2] = 255
    return labels, rng.normal(size=(B, H, W, 3)).astype("float32"), rng.uniform(0, 3, (B, H, W)).astype("float32")


def test_cross_entropy_is_that_of_keras(batch):
    """Of pictures without void; Keras divides the weighted sum over all pixels by their number."""
    _, logits, weights = batch
    labels = np.random.default_rng(1).integers(0, 3, (B, H, W))
    wide = logits.astype("float64")
    log_p = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    expected = -(weights * np.take_along_axis(log_p, labels[..., None], -1)[..., 0]).sum() / (B * H * W)
    theirs = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, logits, weights)
    for loss in (SegmentationCrossEntropy(), WeightedSum([SegmentationCrossEntropy()])):
        np.testing.assert_allclose(loss(labels, logits, weights), expected, rtol=1e-6)
    np.testing.assert_allclose(theirs, expected, rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_weights_of_pixels_are_those_beside_the_labels(name, batch):
    labels, logits, weights = batch
    other = np.flip(weights, axis=1)
    for reduction in ("sum_over_batch_size", None):
        loss = LOSSES[name](reduction=reduction)
        expected = loss(np.stack([labels, weights], axis=-1), logits)
        np.testing.assert_allclose(loss(labels, logits, weights), expected, rtol=1e-6)
        np.testing.assert_allclose(loss(labels, logits, weights[..., None]), expected, rtol=1e-6)
        both = loss(np.stack([labels, other], axis=-1), logits, weights)
        np.testing.assert_allclose(both, loss(np.stack([labels, weights * other], axis=-1), logits), rtol=1e-6)


@pytest.mark.parametrize("name", ["cross_entropy", "dice", "sum"])
def test_weights_of_pictures_multiply_their_loss(name, batch):
    labels, logits, _ = batch
    weights = np.float32([2, 0, 1, 0.5])
    values = np.asarray(LOSSES[name]().call(labels, logits))
    for given in (weights, weights[:, None]):
        np.testing.assert_allclose(LOSSES[name]()(labels, logits, given), (weights * values).mean(), rtol=1e-6)
        np.testing.assert_allclose(LOSSES[name](reduction=None)(labels, logits, given), weights * values, rtol=1e-6)
    mean = LOSSES[name](reduction="mean_with_sample_weight")(labels, logits, weights)
    np.testing.assert_allclose(mean, (weights * values).sum() / weights.sum(), rtol=1e-6)
    np.testing.assert_allclose(LOSSES[name]()(labels, logits, 3.0), 3 * values.mean(), rtol=1e-6)


def test_weights_that_leave_the_foreground_out_are_no_one_hot_mask():
    """Beside the labels of two classes, 1 - label would be one."""
    labels = np.int32([[[0, 1, 1, 0]]])
    loss = SegmentationCrossEntropy()(labels, np.zeros((1, 1, 4, 2), "float32"), 1 - labels)
    np.testing.assert_allclose(loss, 2 * np.log(2) / 4, rtol=1e-6)


def test_a_pixel_without_a_label_counts_for_nothing_whatever_its_weight(batch):
    labels, logits, weights = batch
    holes = np.where(labels == 255, np.nan, weights)
    assert float(DiceLoss()(labels, logits, holes)) == float(DiceLoss()(labels, logits, weights))


def test_fit_hands_them_over(batch):
    labels, logits, weights = batch
    model = keras.Sequential([keras.layers.Input((None, None, 3)), keras.layers.Conv2D(3, 1)])
    loss = WeightedSum([SegmentationCrossEntropy(), DiceLoss()])
    model.compile(keras.optimizers.SGD(0.0), loss, run_eagerly=True)
    expected = loss(np.stack([labels, weights], axis=-1), model(logits))
    found = model.fit(logits, labels, sample_weight=weights, batch_size=B, verbose=0).history["loss"][0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_replicas_weigh_their_own_pixels(batch, replicas):
    loss = DiceLoss(reduction=None)
    (shards,) = replicas.experimental_distribute_dataset(tf.data.Dataset.from_tensor_slices(batch).batch(B))
    values = tf.function(lambda shards: replicas.run(loss, args=shards))(shards)
    values = [value.numpy() for value in replicas.experimental_local_results(values)]
    np.testing.assert_allclose(np.concatenate(values), loss(*batch), rtol=1e-6)


class PerPicture(keras.losses.Loss):
    """A loss of one value per example that is none of ours."""

    def call(self, y_true, y_pred):
        return keras.ops.mean(y_pred, axis=(1, 2, 3))


@pytest.mark.parametrize(
    ("loss", "shape", "message"),
    [
        (DiceLoss(), (B - 1,), r"`sample_weight` must be .*y_pred is \(4, 4, 4, 3\)\. Received: .*\(3,\)\.$"),
        (DiceLoss(), (B, 2), r"Received: .*\(4, 2\)"),
        (DiceLoss(), (B, H), r"Received: .*\(4, 4\)"),
        (DiceLoss(), (B, H, W - 1), r"Received: .*\(4, 4, 3\)"),
        (DiceLoss(), (B, H, 1), r"Received: .*\(4, 4, 1\)"),
        (DiceLoss(), (B, H, W, 3), r"Received: .*\(4, 4, 4, 3\)"),
        (WeightedSum([DiceLoss()]), (B, H), r"Received: .*\(4, 4\)"),
        (WeightedSum([DiceLoss(), PerPicture(name="mine")]), (B, H, W), "mine takes no weights of pixels"),
        (DiceLoss(reduction="mean_with_sample_weight"), (B, H, W), "divides by the weights of pictures"),
    ],
)
def test_what_does_not_fit_is_refused(batch, loss, shape, message):
    labels, logits, _ = batch
    with pytest.raises(ModelError, match=message):
        loss(labels, logits, np.ones(shape, "float32"))


@pytest.mark.parametrize("lost", ["labels", "weights"])
def test_a_pipeline_that_lost_the_shape_is_told_so(batch, lost):
    """As after `tf.numpy_function`."""

    @tf.function(input_signature=[tf.TensorSpec(None)], autograph=False)
    def step(x):
        labels, weights = (x, None) if lost == "labels" else (batch[0], x)
        return DiceLoss()(labels, batch[1], weights)

    with pytest.raises(ModelError, match=r"your tf\.data pipeline lost the shape.*mask\.set_shape"):
        step(np.float32(batch[0]))
