"""Dilation: the dilated network holds the old one at every second, every fourth position."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures import backbones
from keras_cv_lectures.backbones import DilatedPooling2D, dilate

L = keras.layers


def _vgg_like():
    """Convolutions and poolings whose windows do not overlap; five poolings."""
    image = x = keras.Input((None, None, 2))
    for k in range(1, 6):
        x = L.Conv2D(3 + k, 3, padding="same", activation="relu", kernel_initializer="he_normal")(x)
        x = L.MaxPooling2D(2)(x)
    return keras.Model(image, x)


def _xception_like():
    """Separable convolutions, "same" 3x3 poolings with stride, beside 1x1 convolutions with stride."""
    image = keras.Input((None, None, 2))
    x = L.Conv2D(4, 3, strides=2, padding="same")(image)
    for _ in range(4):
        shortcut = L.Conv2D(4, 1, strides=2, padding="same")(x)
        x = L.SeparableConv2D(4, 3, padding="same")(L.ReLU()(x))
        x = L.Add()([L.MaxPooling2D(3, strides=2, padding="same")(x), shortcut])
    return keras.Model(image, {"c5": L.SeparableConv2D(5, 3, padding="same")(x)})


def _densenet_like():
    """Average poolings between concatenations, behind a padded 3x3 pooling."""
    image = keras.Input((None, None, 2))
    x = L.Conv2D(4, 7, strides=2)(L.ZeroPadding2D(3)(image))
    x = L.MaxPooling2D(3, strides=2)(L.ZeroPadding2D(1)(x))
    for _ in range(3):
        x = L.Concatenate()([x, L.Conv2D(3, 3, padding="same")(x)])
        x = L.AveragePooling2D(2, strides=2)(L.Conv2D(4, 1)(x))
    return keras.Model(image, L.Conv2D(4, 3, padding="same")(x))


def _inception_like():
    """Branches without padding: 3x3 convolutions and poolings with stride, averages of stride 1."""
    image = keras.Input((None, None, 2))
    x = L.Conv2D(4, 3, strides=2)(image)
    for _ in range(4):
        x = L.Concatenate()([L.Conv2D(3, 3, strides=2)(x), L.MaxPooling2D(3, strides=2)(x)])
        x = L.Concatenate()([L.Conv2D(3, 1)(x), L.AveragePooling2D(3, strides=1, padding="same")(x)])
    return keras.Model(image, x)


def _patches():
    """Patches side by side, as ConvNeXt downsamples."""
    image = keras.Input((None, None, 2))
    x = L.Conv2D(4, 4, strides=4)(image)
    for _ in range(3):
        x = L.Conv2D(4, 2, strides=2)(L.DepthwiseConv2D(3, padding="same")(x))
    return keras.Model(image, L.DepthwiseConv2D(3, padding="same")(x))


def _value(outputs) -> np.ndarray:
    return np.asarray(outputs["c5"] if isinstance(outputs, dict) else outputs)


def _smallest_difference(model, output_stride, size, border):
    """Over the offsets: largest difference between the map and the subsampled dilated map, in parts of the largest."""
    x = np.random.default_rng(0).normal(size=(1, *size, model.input_shape[-1])).astype("float32")
    expected = _value(model(x))
    dense = _value(dilate(model, output_stride)(x))
    factor = 32 // output_stride
    best = np.inf
    for a in range(factor):
        for b in range(factor):
            sampled = dense[:, a::factor, b::factor]
            height, width = (min(sampled.shape[i], expected.shape[i]) for i in (1, 2))
            rows, columns = slice(border, height - border), slice(border, width - border)
            difference = np.abs(sampled[:, rows, columns] - expected[:, rows, columns])
            assert difference.size
            best = min(best, difference.max() / np.abs(expected).max())
    return best


@pytest.mark.parametrize("output_stride", [16, 8])
@pytest.mark.parametrize("size", [(160, 192), (161, 223)])
@pytest.mark.parametrize("build", [_vgg_like, _xception_like, _densenet_like])
def test_subsampled_it_is_the_old_network_to_the_border(build, size, output_stride):
    assert _smallest_difference(build(), output_stride, size, border=0) < 2e-6


@pytest.mark.parametrize("output_stride", [16, 8])
@pytest.mark.parametrize("size", [(287, 319), (300, 350)])
@pytest.mark.parametrize("build", [_inception_like, _patches])
def test_subsampled_it_is_the_old_network_away_from_the_border(build, size, output_stride):
    assert _smallest_difference(build(), output_stride, size, border=3) < 2e-6


def test_a_network_that_pads_one_side():
    network = keras.applications.MobileNetV2(alpha=0.35, weights=None, include_top=False, input_shape=(None, None, 3))
    assert _smallest_difference(network, 8, (224, 256), border=2) < 2e-6


@pytest.mark.parametrize(("gate", "equal"), [("zeros", True), ("glorot_uniform", False)])
def test_a_mean_over_the_picture_is_all_that_differs(gate, equal):
    image = keras.Input((None, None, 2))
    x = L.Conv2D(4, 8, strides=8, padding="same")(image)
    for _ in range(2):
        x = L.DepthwiseConv2D(3, strides=2)(L.ZeroPadding2D(((0, 1), (0, 1)))(x))
        mean = L.GlobalAveragePooling2D(keepdims=True)(x)
        x = L.Multiply()([x, L.Conv2D(4, 1, activation="sigmoid", kernel_initializer=gate)(mean)])
    difference = _smallest_difference(keras.Model(image, x), 8, (192, 192), border=1)
    assert (difference < 2e-6) == equal


def test_weights_and_model_are_kept(tmp_path):
    model = _xception_like()
    before = model.get_weights()
    dilated = dilate(model, 8)
    assert [w.shape for w in dilated.weights] == [w.shape for w in model.weights]
    for old, new in zip(before, dilated.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    model.save_weights(tmp_path / "old.weights.h5")
    dilated.load_weights(tmp_path / "old.weights.h5")
    dilated.save(tmp_path / "dilated.keras")
    again = keras.saving.load_model(tmp_path / "dilated.keras")
    x = np.random.default_rng(0).normal(size=(1, 64, 70, 2)).astype("float32")
    np.testing.assert_array_equal(_value(again(x)), _value(dilated(x)))
    assert _value(model(x)).shape[1:3] == (2, 3)


def test_a_network_of_small_stride_is_copied_unchanged():
    image = keras.Input((None, None, 1))
    model = keras.Model(image, L.Conv2D(1, 3, strides=2, padding="same")(image))
    x = np.random.default_rng(0).normal(size=(1, 9, 9, 1)).astype("float32")
    np.testing.assert_array_equal(dilate(model, 8)(x), model(x))


def test_a_row_by_hand():
    row = np.array([1, 3, 2, 5], "float32").reshape(1, 1, 4, 1)
    maxima = DilatedPooling2D((1, 2), (1, 2), "end", dilation_rate=2)
    np.testing.assert_array_equal(np.ravel(maxima(row)), [2, 5, 2, 5])
    averages = DilatedPooling2D((1, 2), (1, 2), "end", dilation_rate=2, mode="average")
    np.testing.assert_array_equal(np.ravel(averages(row)), [1.5, 4, 2, 5])
    inside = DilatedPooling2D((1, 2), (1, 2), "valid", dilation_rate=2)
    np.testing.assert_array_equal(np.ravel(inside(row)), [2, 5])
    # A window of three with stride 2 begins at its position where the size is even, one before it where it is odd.
    around = DilatedPooling2D((1, 3), (1, 2), "same")
    np.testing.assert_array_equal(np.ravel(around(row)), [3, 5, 5, 5])
    np.testing.assert_array_equal(np.ravel(around(row[:, :, :3])), [3, 3, 3])


@pytest.mark.parametrize("mode", ["max", "average"])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("rate", [1, 2, 4])
@pytest.mark.parametrize("size", [(16, 24), (13, 21), (5, 9)])
def test_every_second_position_is_the_pooling_with_stride(size, rate, padding, mode):
    if padding == "valid" and min(size) <= 2 * rate:
        pytest.skip("no whole window")
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype("float32")
    pool = (tf.nn.max_pool2d if mode == "max" else tf.nn.avg_pool2d)(x[:, ::rate, ::rate], 3, 2, padding.upper())
    got = DilatedPooling2D((3, 3), (2, 2), padding, rate, mode)(x)[:, :: 2 * rate, :: 2 * rate]
    np.testing.assert_allclose(got, pool, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("padding", ["same", "end", "valid"])
def test_sizes_unknown_when_traced_and_in_tflite(padding):
    layer = DilatedPooling2D((3, 3), (2, 2), padding, dilation_rate=2)
    image = keras.Input((None, None, 2))
    model = keras.Model(image, layer(image))
    traced = tf.function(lambda x: model(x), input_signature=[tf.TensorSpec((None, None, None, 2))])
    x = np.random.default_rng(0).normal(size=(1, 9, 12, 2)).astype("float32")
    expected = np.asarray(layer(x))
    assert model.output_shape == (None, None, None, 2)
    assert layer.compute_output_shape(x.shape) == expected.shape
    np.testing.assert_array_equal(traced(x), expected)

    fixed = tf.function(lambda x: model(x), input_signature=[tf.TensorSpec(x.shape)])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([fixed.get_concrete_function()])
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_content=converter.convert())
    runner.allocate_tensors()
    runner.set_tensor(runner.get_input_details()[0]["index"], x)
    runner.invoke()
    np.testing.assert_array_equal(runner.get_tensor(runner.get_output_details()[0]["index"]), expected)


def _sequence(*layers):
    image = x = keras.Input((64, 64, 1))
    for layer in layers:
        x = layer(x)
    return keras.Model(image, x)


@keras.saving.register_keras_serializable("tests")
class _Strided(keras.layers.Layer):
    strides = 16

    def call(self, x):
        return x[:, ::16, ::16]


@pytest.mark.parametrize(
    ("model", "output_stride", "message"),
    [
        (_vgg_like, 4, "`output_stride` must be one of"),
        (lambda: keras.Sequential([L.Conv2D(1, 3)]), 8, "functional"),
        (lambda: "vgg16", 8, "functional"),
        (lambda: _sequence(_sequence(L.Conv2D(1, 3))), 8, "nested models"),
        (lambda: _sequence(L.Conv2DTranspose(1, 2, strides=2)), 8, "upsampling"),
        (lambda: _sequence(L.Conv2D(1, 3, strides=(2, 1))), 8, "equal strides"),
        (lambda: _sequence(_Strided()), 8, "cannot be dilated"),
    ],
)
def test_what_cannot_be_dilated_is_refused(model, output_stride, message):
    with pytest.raises(ValueError, match=message):
        dilate(model(), output_stride)


@pytest.mark.parametrize(
    "options", [{"padding": "causal"}, {"mode": "median"}, {"dilation_rate": 0}], ids=lambda o: next(iter(o))
)
def test_wrong_options_of_the_pooling_are_named(options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}`"):
        backbones.DilatedPooling2D(**options)
