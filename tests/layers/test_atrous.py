"""Atrous convolution and corner-to-corner interpolation: hand-worked rows, Keras's own convolution, a matrix."""

from __future__ import annotations

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.layers import AtrousConv2D, ResizeCornersLike
from keras_cv_lectures.layers.atrous import weight_by_weight, whole_convolutions
from keras_cv_lectures.layers.corners import corner_matrix
from keras_cv_lectures.layers.portable import portable_operators
from keras_cv_lectures.serving import gflops


@pytest.mark.parametrize("rate", [1, 2, 5])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_atrous_convolution_is_keras_s(rate, padding):
    keras.utils.set_random_seed(0)
    ours = AtrousConv2D(3, 3, padding=padding, dilation_rate=rate)
    theirs = keras.layers.Conv2D(3, 3, padding=padding, dilation_rate=rate)
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 13, 12, 2)).astype("float32"))
    results = []
    for layer in (ours, theirs):
        layer.build(x.shape)
        layer.set_weights(ours.get_weights())
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
            loss = tf.reduce_sum(y * tf.reshape(tf.linspace(-1.0, 1.0, tf.size(y)), y.shape))
        results.append([y, *tape.gradient(loss, [x, layer.kernel.value, layer.bias.value])])
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_atrous_convolution_by_hand():
    """One row, kernel 1 0 -1 at rate 2: y[i] = x[i - 2] - x[i + 2], zeros beyond the ends."""
    layer = AtrousConv2D(1, 3, padding="same", dilation_rate=2, use_bias=False)
    layer.build((None, None, None, 1))
    kernel = np.zeros((3, 3, 1, 1))
    kernel[1, :, 0, 0] = [1, 0, -1]
    layer.set_weights([kernel])
    got = np.asarray(layer(np.array([1, 2, 3, 4, 5], "float32").reshape(1, 1, 5, 1))).ravel()
    np.testing.assert_array_equal(got, [-3, -4, 1 - 5, 2, 3])


def test_atrous_convolution_is_one_operator():
    layer = AtrousConv2D(2, 3, padding="same", dilation_rate=2)
    layer.build((None, None, None, 2))
    graph = tf.function(lambda x: layer(x)).get_concrete_function(tf.TensorSpec((1, 9, 9, 2))).graph
    kinds = {operation.type for operation in graph.get_operations()}
    assert "Conv2D" in kinds
    assert "SpaceToBatchND" not in kinds


def test_corner_interpolation_by_hand_and_by_matrix():
    np.testing.assert_array_equal(corner_matrix(2, 3), [[1, 0], [0.5, 0.5], [0, 1]])
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 2)).astype("float32")
    layer = ResizeCornersLike()
    for height, width in ((9, 7), (3, 4), (2, 3), (1, 1), (5, 1)):
        got = np.asarray(layer([x, np.zeros((2, height, width, 1))]))
        expected = np.einsum("bhwc,Hh,Ww->bHWc", x, corner_matrix(3, height), corner_matrix(4, width))
        np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.golden
def test_corner_interpolation_equals_torch_s(golden):
    arrays, _ = golden("op_resize")
    compared = 0
    for key, expected in arrays.items():
        if not key.startswith("out/bilinear_ac1_"):
            continue
        x = arrays["in/x"].transpose(0, 2, 3, 1)
        got = ResizeCornersLike()([x, np.zeros((len(x), *expected.shape[2:], 1))])
        np.testing.assert_allclose(got, expected.transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-5, err_msg=key)
        compared += 1
    assert compared


@pytest.mark.parametrize("known", [True, False], ids=["known", "open"])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("size", "rate"), [(3, 2), (3, (4, 3)), ((2, 4), (3, 2)), (3, (8, 1)), (3, 20)])
def test_a_sum_over_weights_is_the_convolution(size, rate, padding, known):
    """On a map of 19 x 12: weights that meet it all, a part of it, or (padding "same") nothing."""
    if padding == "valid" and rate == 20:
        pytest.skip("there is no such result")
    keras.utils.set_random_seed(0)
    theirs = keras.layers.Conv2D(3, size, padding=padding, dilation_rate=rate, use_bias=False)
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 19, 12, 2)).astype("float32"))
    theirs.build(x.shape)

    def results(function):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
            loss = tf.reduce_sum(y * tf.reshape(tf.linspace(-1.0, 1.0, tf.size(y)), tf.shape(y)))
        return [y, *tape.gradient(loss, [x, theirs.kernel.value])]

    shape = (None, None, None, 2) if not known else x.shape

    @tf.function(input_signature=[tf.TensorSpec(shape)])
    def ours(x):
        return results(lambda t: weight_by_weight(t, theirs.kernel.value, theirs.dilation_rate, padding))

    for got, expected in zip(ours(x), results(theirs), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rate", [2, 5])
def test_float64_has_no_dilated_gradient_on_a_cpu_and_is_computed_otherwise(rate):
    layer = AtrousConv2D(1, 3, padding="same", dilation_rate=rate, dtype="float64")
    layer.build((None, 7, 7, 1))

    @tf.function
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        return tape.gradient(y, x)

    assert np.isfinite(gradient(tf.ones((1, 7, 7, 1), "float64"))).all()


@pytest.mark.parametrize("rate", [4, 5, 6, 7, 9, 11, (5, 8), (9, 3), (3, 6)])
@pytest.mark.parametrize("portable", [False, True])
def test_weights_that_meet_only_padding_can_be_left_out(rate, portable):
    """Maps of 9 x 8: weights that are needed everywhere, in parts, along one axis, and in the middle alone."""
    keras.utils.set_random_seed(0)
    layer = AtrousConv2D(3, 3, padding="same", dilation_rate=rate)
    theirs = keras.layers.Conv2D(3, 3, padding="same", dilation_rate=rate)
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 9, 8, 2)).astype("float32"))
    layer.build(x.shape)
    theirs.build(x.shape)
    theirs.set_weights(layer.get_weights())
    with tf.GradientTape() as tape, portable_operators() if portable else contextlib.nullcontext():
        y = layer(x)
        loss = tf.reduce_sum(y * tf.reshape(tf.linspace(-1.0, 1.0, tf.size(y)), y.shape))
    np.testing.assert_allclose(y, theirs(x), rtol=1e-5, atol=1e-5)
    if portable:
        return  # For exports, which nothing trains.
    with tf.GradientTape() as other:
        z = theirs(x)
        expected = tf.reduce_sum(z * tf.reshape(tf.linspace(-1.0, 1.0, tf.size(z)), z.shape))
    gradients = tape.gradient(loss, layer.trainable_weights)
    for got, wanted in zip(gradients, other.gradient(expected, theirs.trainable_weights), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_far_weights_are_not_multiplied_in_portable_graphs():
    layer = AtrousConv2D(2, 3, padding="same", dilation_rate=6)
    layer.build((None, None, None, 2))
    with portable_operators():
        graph = tf.function(lambda x: layer(x)).get_concrete_function(tf.TensorSpec((1, 9, 9, 2))).graph
    shapes = [tuple(op.outputs[0].shape[1:3]) for op in graph.get_operations() if op.type == "Conv2D"]
    assert sorted(shapes) == sorted([(a, b) for a in (3, 3, 3) for b in (3, 3, 3)])


@pytest.mark.parametrize("rate", [2, 6, 36, (5, 8)])
def test_all_weights_of_a_dilated_convolution_are_counted(rate):
    """Those that meet padding alone, too, as in every other convolution with padding."""
    inputs = keras.Input((9, 9, 2))
    model = keras.Model(inputs, AtrousConv2D(4, 3, padding="same", dilation_rate=rate, name="logits")(inputs))
    with portable_operators(), whole_convolutions():
        assert gflops(model, (9, 9)) * 1e9 == pytest.approx(2 * 9 * 9 * 4 * 9 * 2)


def test_channels_first_is_left_to_keras():
    layer = AtrousConv2D(4, 3, dilation_rate=2, padding="same", data_format="channels_first")
    assert layer.compute_output_shape((1, 3, 9, 9)) == (1, 4, 9, 9)
    x = np.random.default_rng(0).normal(size=(1, 3, 9, 7)).astype("float32")
    last = AtrousConv2D(4, 3, dilation_rate=2, padding="same")
    last.build((1, 9, 7, 3))
    layer.build(x.shape)
    layer.set_weights(last.get_weights())
    # A GPU or oneDNN computes it; elsewhere TensorFlow says itself that it cannot.
    try:
        found = np.array(layer(x))
    except tf.errors.OpError as error:
        pytest.skip(f"TensorFlow here has no convolution with channels first: {type(error).__name__}")
    np.testing.assert_allclose(found.transpose(0, 2, 3, 1), last(x.transpose(0, 2, 3, 1)), atol=1e-5)
