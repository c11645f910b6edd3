"""How networks in torchvision's shape convolve, pool and normalise, as PyTorch recorded it: values, gradients, state.

Not served, because no system needs them: overlapping windows with a ceiling, averages that count their border, and a
maximum over a border of negative values.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.backbones.torch_shape import batch_norm, conv2d, max_pool
from keras_cv_lectures.layers import SyncBatchNormalization
from keras_cv_lectures.layers.blocks import normalize

pytestmark = pytest.mark.golden
# Name of the recorded convolution -> how it is asked for.
CONVOLUTIONS = {
    "conv3_s2p1": {"strides": 2},
    "conv3_d4p4": {"dilation_rate": 4},
    "conv7_s2p3": {"strides": 2},
    "depthwise3_d2": {"dilation_rate": 2, "depthwise": True},
}


def last(x):
    """Channels last."""
    return np.moveaxis(x, 1, -1)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_and_their_gradients(golden, name):
    arrays, _ = golden("op_conv")
    kernel = np.transpose(arrays[f"param/{name}.weight"], (2, 3, 1, 0))
    bias, options = arrays.get(f"param/{name}.bias"), CONVOLUTIONS[name]
    if "depthwise" in options:
        kernel = kernel.swapaxes(2, 3)  # Keras's (rows, columns, channels, 1).
    image = keras.Input((None, None, arrays[f"in/{name}"].shape[1]))
    filters = arrays[f"out/{name}"].shape[1]
    model = keras.Model(image, conv2d(image, filters, len(kernel), name="conv", use_bias=bias is not None, **options))
    model.get_layer("conv").set_weights([kernel] if bias is None else [kernel, bias])
    x, weight = tf.Variable(last(arrays[f"in/{name}"])), model.trainable_variables[0]
    with tf.GradientTape() as tape:
        y = model(x)
        count = tf.size(y)
        above = tf.reshape(tf.linspace(-1.0, 1.0, count), tf.shape(tf.transpose(y, (0, 3, 1, 2))))
        total = tf.reduce_sum(y * tf.transpose(above, (0, 2, 3, 1)))
    np.testing.assert_allclose(y, last(arrays[f"out/{name}"]), atol=1e-5)
    by_x, by_weight = tape.gradient(total, (x, weight.value))
    np.testing.assert_allclose(by_x, last(arrays[f"gradx/{name}"]), atol=1e-5)
    expected = np.transpose(arrays[f"gradw/{name}"], (2, 3, 1, 0))
    expected = expected.swapaxes(2, 3) if "depthwise" in options else expected
    np.testing.assert_allclose(by_weight, expected, atol=1e-5 * np.abs(expected).max())


def test_the_maximum_behind_a_relu_and_halving(golden):
    arrays, _ = golden("op_conv")
    x, image = last(arrays["in/pool"]), keras.Input((None, None, arrays["in/pool"].shape[1]))
    # The maximum goes through a ReLU: torch's border, the lowest number, and ours, zero, are then alike.
    pooled = keras.Model(image, max_pool(image, name="pool"))(np.maximum(x, 0))
    np.testing.assert_array_equal(pooled, np.maximum(last(arrays["out/maxpool3_s2p1"]), 0))
    halved = keras.layers.MaxPooling2D(2, padding="same")(x)  # What a ceiling does with windows that do not overlap.
    np.testing.assert_array_equal(halved, last(arrays["out/maxpool2_s2_ceil"]))


def test_a_step_of_batch_normalisation(golden):
    arrays, _ = golden("op_norm")
    x, count = tf.Variable(last(arrays["in/x"])), arrays["in/x"].size // arrays["in/x"].shape[1]
    image = keras.Input(x.shape[1:])
    layer = keras.Model(image, batch_norm(image, name="norm")).get_layer("norm")
    assert isinstance(layer, SyncBatchNormalization)
    layer.set_weights([arrays[f"param/{name}"] for name in ("weight", "bias", "running_mean", "running_var")])
    with tf.GradientTape() as tape:
        y = layer(x, training=True)
        above = tf.reshape(tf.linspace(-1.0, 1.0, tf.size(y)), arrays["in/x"].shape)
        total = tf.reduce_sum(y * tf.transpose(above, (0, 2, 3, 1)))
    np.testing.assert_allclose(y, last(arrays["out/train"]), atol=1e-5)
    gradients = tape.gradient(total, (x, layer.gamma.value, layer.beta.value))
    for found, name in zip(gradients, ("x", "weight", "bias"), strict=True):
        expected = arrays[f"grad/{name}"]
        np.testing.assert_allclose(found, last(expected) if name == "x" else expected, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(layer.moving_mean, arrays["after/running_mean"], atol=1e-6)
    # Torch keeps the unbiased variance, Keras the biased one: the share of this batch is (count - 1) / count of it.
    old, new = arrays["param/running_var"], arrays["after/running_var"]
    np.testing.assert_allclose(layer.moving_variance, 0.9 * old + (new - 0.9 * old) * (count - 1) / count, atol=1e-6)
    layer.set_weights([arrays[f"after/{name}"] for name in ("weight", "bias", "running_mean", "running_var")])
    np.testing.assert_allclose(layer(x, training=False), last(arrays["out/eval_after"]), atol=1e-5)


def test_group_normalisation(golden):
    arrays, _ = golden("op_norm")
    x = last(arrays["in/gn"])
    layer = keras.layers.GroupNormalization(2, epsilon=1e-5)
    np.testing.assert_allclose(layer(x), last(arrays["out/gn_groups2"]), atol=1e-5)
    built = normalize(keras.Input(x.shape[1:]), "group", name="norm")._keras_history.operation
    assert (type(built), built.epsilon) == (type(layer), layer.epsilon)
