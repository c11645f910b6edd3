"""Resizing, cropping, padding and normalisation layers against hand-worked numbers and Keras's own layers."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.layers import CropLike, PadToMultiple, ResizeLike, SyncBatchNormalization, UpsampleTwice


def _grid(height, width):
    return np.arange(height * width, dtype="float32").reshape(1, height, width, 1)


def test_pad_to_multiple_by_hand():
    padded = np.asarray(PadToMultiple(4)(_grid(3, 5)))[0, :, :, 0]
    assert padded.shape == (4, 8)
    np.testing.assert_array_equal(padded[:3, :5], _grid(3, 5)[0, :, :, 0])
    assert padded.sum() == _grid(3, 5).sum()
    np.testing.assert_array_equal(PadToMultiple(5)(_grid(5, 10)), _grid(5, 10))


def test_crop_like_by_hand():
    x = _grid(5, 6)
    np.testing.assert_array_equal(CropLike()([x, _grid(3, 3)])[0, :, :, 0], x[0, 1:4, 1:4, 0])
    np.testing.assert_array_equal(CropLike("start")([x, _grid(3, 3)])[0, :, :, 0], x[0, :3, :3, 0])
    with pytest.raises(ValueError, match="`anchor` must be"):
        CropLike("end")


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
def test_upsample_twice_equals_tensorflow(method):
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 2)).astype("float32")
    expected = tf.image.resize(x, (6, 10), method=method)
    np.testing.assert_allclose(UpsampleTwice(method)(x), expected, atol=1e-6)
    if method == "nearest":
        np.testing.assert_array_equal(UpsampleTwice(method)(x), x.repeat(2, 1).repeat(2, 2))
    resized = ResizeLike(method)([x, np.zeros((2, 7, 4, 1))])
    np.testing.assert_allclose(resized, tf.image.resize(x, (7, 4), method=method), atol=1e-6)


@pytest.mark.parametrize("make", [lambda: PadToMultiple(4), lambda: UpsampleTwice("bilinear")])
def test_dynamic_sizes_in_a_traced_function_give_the_static_result(make):
    x = np.random.default_rng(0).normal(size=(1, 6, 9, 2)).astype("float32")
    layer = make()
    traced = tf.function(layer, input_signature=[tf.TensorSpec((None, None, None, 2))], autograph=False)
    np.testing.assert_allclose(traced(x), layer(x), atol=1e-6)
    assert tuple(layer.compute_output_shape((1, 6, 9, 2))) == tuple(layer(x).shape)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "bfloat16", "float16"])
def test_fused_batch_normalisation_is_that_of_keras(policy):
    x = np.random.default_rng(0).normal(2.0, 3.0, (2, 5, 4, 3)).astype("float32")
    target = np.random.default_rng(1).normal(size=x.shape).astype("float32")
    layers = [
        kind(momentum=0.9, epsilon=1e-5, dtype=policy)
        for kind in (keras.layers.BatchNormalization, SyncBatchNormalization)
    ]
    results = []
    for layer in layers:
        layer.build(x.shape)
        layer.gamma.assign([0.5, 1.0, 2.0])
        with tf.GradientTape() as tape:
            inputs = tf.constant(x)
            tape.watch(inputs)
            y = tf.cast(layer(inputs, training=True), "float32")
            loss = tf.reduce_sum(y * target)
        gradients = tape.gradient(loss, [inputs, layer.gamma.value, layer.beta.value])
        results.append([y, *gradients, *(w.value for w in layer.weights), layer(inputs, training=False)])
    tolerance = 1e-5 if policy == "float32" else 2e-2
    for expected, got in zip(*results, strict=True):
        scale = max(1.0, float(np.abs(np.asarray(expected, "float32")).max()))
        np.testing.assert_allclose(np.asarray(got, "float32"), np.asarray(expected, "float32"), atol=tolerance * scale)


def test_frozen_batch_normalisation_keeps_its_statistics():
    layer = SyncBatchNormalization()
    layer.build((None, 2, 2, 1))
    layer.trainable = False
    x = _grid(2, 2)
    np.testing.assert_allclose(layer(x, training=True), layer(x, training=False))
    np.testing.assert_array_equal(layer.moving_mean, [0.0])
