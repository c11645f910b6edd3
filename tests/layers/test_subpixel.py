"""SubPixelConv2DTranspose equals the transposed convolution whose kernel it converted."""

import keras
import numpy as np
import pytest

from keras_cv_lectures.layers.subpixel import SubPixelConv2DTranspose, subpixel_kernel

RNG = np.random.default_rng(0)


def test_2x2_kernel_places_each_tap_at_its_parity():
    # One input pixel of value 1 spreads the kernel [[1, 2], [3, 4]] over the 2x2 block that it becomes.
    kernel = np.array([[1.0, 2.0], [3.0, 4.0]], "float32")[:, :, None, None]
    layer = SubPixelConv2DTranspose(1, 2, use_bias=False)
    layer.build((None, None, None, 1))
    layer.set_weights([subpixel_kernel(kernel)])
    x = np.zeros((1, 2, 2, 1), "float32")
    x[0, 1, 0] = 1
    expected = [[0, 0, 0, 0], [0, 0, 0, 0], [1, 2, 0, 0], [3, 4, 0, 0]]
    np.testing.assert_array_equal(np.asarray(layer(x))[0, :, :, 0], expected)


def test_4x4_kernel_reads_the_documented_taps():
    # Along one axis: parity 0 reads t = 3 at offset -1 and t = 1 at 0; parity 1 reads t = 2 at 0 and t = 0 at +1.
    rows = np.array([10.0, 11.0, 12.0, 13.0])
    kernel = (rows[:, None] * [1.0, 0.0, 0.0, 0.0])[:, :, None, None]  # column tap 0 only: parity 1 at offset +1
    converted = subpixel_kernel(kernel).reshape(3, 3, 2, 2)  # (row offset, column offset, row parity, column parity)
    np.testing.assert_array_equal(converted[:, 2, 0, 1], [13, 11, 0])
    np.testing.assert_array_equal(converted[:, 2, 1, 1], [0, 12, 10])
    assert not converted[:, :2].any()
    assert not converted[:, :, :, 0].any()


@pytest.mark.parametrize(("kernel_size", "padding"), [(2, "same"), (2, "valid"), (4, "same")])
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (8, 4)])
def test_equals_conv2d_transpose(kernel_size, padding, size):
    x = RNG.normal(size=(2, *size, 3)).astype("float32")
    reference = keras.layers.Conv2DTranspose(4, kernel_size, strides=2, padding=padding, activation="tanh")
    reference.build(x.shape)
    reference.set_weights([RNG.normal(size=w.shape) for w in reference.get_weights()])
    kernel, bias = reference.get_weights()

    layer = SubPixelConv2DTranspose(4, kernel_size, activation="tanh")
    layer.build(x.shape)
    layer.set_weights([subpixel_kernel(kernel), bias])

    expected = np.asarray(reference(x))
    assert layer.compute_output_shape(x.shape) == expected.shape
    np.testing.assert_allclose(np.asarray(layer(x)), expected, atol=2e-6)


def test_saved_and_reloaded(tmp_path):
    inputs = keras.Input((None, None, 3))
    outputs = SubPixelConv2DTranspose(2, 4, activation="relu", name="up")(inputs)
    model = keras.Model(inputs, outputs)
    assert outputs.shape == (None, None, None, 2)
    model.save(tmp_path / "m.keras")
    reloaded = keras.saving.load_model(tmp_path / "m.keras")
    x = RNG.normal(size=(1, 4, 5, 3)).astype("float32")
    np.testing.assert_array_equal(np.asarray(reloaded(x)), np.asarray(model(x)))
    assert reloaded.get_layer("up").get_config() == model.get_layer("up").get_config()


def test_unsupported_kernels_are_refused():
    with pytest.raises(ValueError, match="kernel_size=3"):
        SubPixelConv2DTranspose(2, 3)
    with pytest.raises(ValueError, match="Received: shape"):
        subpixel_kernel(np.zeros((3, 3, 1, 1)))
