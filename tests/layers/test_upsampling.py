"""Upsampling operators: the lectures' vectors, torch's and Keras's numbers, dynamic sizes and LiteRT."""

from __future__ import annotations

import itertools
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.layers import (
    BedOfNails,
    Bilinear,
    BilinearConv2DTranspose,
    MaxPoolWithArgmax,
    MaxUnpool,
    Upsample,
    UpsampleTwice,
    bilinear_kernel,
    convolution_matrix,
    flat_argmax,
    interpolation_matrix,
)

RNG = np.random.default_rng(0)
SQUARE = np.array([[1, 2], [3, 4]], "float32").reshape(1, 2, 2, 1)
PAIR = np.array([1, 2], "float32").reshape(1, 1, 2, 1)


def random(*shape):
    return RNG.normal(size=shape).astype("float32")


def test_nearest_and_bed_of_nails_by_hand():
    np.testing.assert_array_equal(
        Upsample(2)(SQUARE)[0, :, :, 0], [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    )
    np.testing.assert_array_equal(
        BedOfNails(2)(SQUARE)[0, :, :, 0], [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]
    )
    x = random(2, 3, 4, 5)
    nail = np.zeros((1, 3, 3, 1), "float32")
    nail[0, 0, 0] = 1
    np.testing.assert_array_equal(BedOfNails(3)(x), np.kron(x, nail))
    np.testing.assert_array_equal(Upsample(3)(x), np.kron(x, np.ones((1, 3, 3, 1))))


def test_bilinear_by_hand():
    np.testing.assert_allclose(Upsample(2, "bilinear")(PAIR)[0, 0, :, 0], [1, 1.25, 1.75, 2])
    aligned = Upsample(2, "bilinear", align_corners=True)(PAIR)
    np.testing.assert_allclose(aligned[0, 0, :, 0], [1, 4 / 3, 5 / 3, 2], rtol=1e-6)
    np.testing.assert_array_equal(aligned[0, 0], aligned[0, 1])
    # As a transposed convolution zeros lie beyond the border: of the single row 0.75 is left.
    transposed = BilinearConv2DTranspose(2, padding="same")(PAIR)
    np.testing.assert_allclose(transposed[0, :, :, 0], 0.75 * np.array([[0.75, 1.25, 1.75, 1.5]] * 2))
    np.testing.assert_array_equal(16 * bilinear_kernel(4), np.outer([1, 3, 3, 1], [1, 3, 3, 1]))
    np.testing.assert_allclose(9 * bilinear_kernel(5), np.outer([1, 2, 3, 2, 1], [1, 2, 3, 2, 1]), rtol=1e-6)


def test_bicubic_by_hand():
    # Output pixel 4 reads position 1.75, so its taps 0, 1, 2, 3 have distances 1.75, 0.75, 0.25, 1.25.
    for a in (-0.5, -0.75):
        outer, inner = (a * (d**3 - 5 * d**2 + 8 * d - 4) for d in (1.75, 1.25))
        near, nearest = ((a + 2) * d**3 - (a + 3) * d**2 + 1 for d in (0.75, 0.25))
        matrix = interpolation_matrix(5, 10, "bicubic", cubic_coefficient=a)
        np.testing.assert_allclose(matrix[4], [outer, near, nearest, inner, 0], atol=1e-6)
        np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)


def test_constants_stay_constant_and_aligned_corners_keep_the_corners():
    x = np.full((1, 4, 5, 2), 3, "float32")
    for interpolation in ("nearest", "bilinear", "bicubic"):
        np.testing.assert_allclose(Upsample(3, interpolation)(x), np.full((1, 12, 15, 2), 3), rtol=1e-6)
    x = random(1, 4, 5, 2)
    y = Upsample(3, "bicubic", align_corners=True)(x)
    np.testing.assert_allclose(y[:, :: 12 - 1, :: 15 - 1], x[:, :: 4 - 1, :: 5 - 1], atol=1e-6)


@pytest.mark.golden
def test_torch_resizing(golden):
    arrays, _ = golden("op_resize")
    x = np.moveaxis(arrays["in/x"], 1, -1)
    checked = set()
    for key, expected in arrays.items():
        found = re.fullmatch(r"out/(bilinear|bicubic|nearest_exact)(?:_ac([01]))?_(\d+)x(\d+)", key)
        if not found:
            continue
        interpolation, align = found[1].removesuffix("_exact"), found[2] == "1"
        expected = np.moveaxis(expected, 1, -1)
        rows, columns = (
            interpolation_matrix(size, new_size, interpolation, align_corners=align)
            for size, new_size in zip(x.shape[1:3], expected.shape[1:3], strict=True)
        )
        np.testing.assert_allclose(np.einsum("ph,qw,bhwc->bpqc", rows, columns, x), expected, atol=1e-5, err_msg=key)
        checked.add((interpolation, align))
        factors = {new / old for new, old in zip(expected.shape[1:3], x.shape[1:3], strict=True)}
        if len(factors) == 1 and (factor := factors.pop()).is_integer():
            layer = Upsample(int(factor), interpolation, align_corners=align)
            np.testing.assert_allclose(layer(x), expected, atol=1e-5, err_msg=key)
            checked.add(int(factor))
    assert checked >= {("bilinear", False), ("bilinear", True), ("bicubic", False), ("nearest", False), 2}


def test_bicubic_of_tensorflow_inside_the_border():
    x = random(2, 7, 8, 3)
    expected = np.asarray(tf.image.resize(x, (14, 16), method="bicubic"))
    found = np.asarray(Upsample(2, "bicubic", cubic_coefficient=-0.5)(x))
    np.testing.assert_allclose(found[:, 3:-3, 3:-3], expected[:, 3:-3, 3:-3], atol=1e-5)
    np.testing.assert_array_equal(Upsample(2, "bilinear")(x), UpsampleTwice("bilinear")(x))


LAYERS = {
    "nearest": lambda **kwargs: Upsample(2, **kwargs),
    "bilinear": lambda **kwargs: Upsample(3, "bilinear", **kwargs),
    "aligned": lambda **kwargs: Upsample(2, "bilinear", align_corners=True, **kwargs),
    "bicubic": lambda **kwargs: Upsample(2, "bicubic", cubic_coefficient=-0.5, **kwargs),
    "nails": lambda **kwargs: BedOfNails(3, **kwargs),
    "transposed": lambda **kwargs: BilinearConv2DTranspose(4, **kwargs),
    "odd": lambda **kwargs: BilinearConv2DTranspose(2, 5, padding="same", trainable=True, **kwargs),
}


@pytest.mark.parametrize("name", LAYERS)
def test_saved_and_exported_with_any_size(name, tmp_path):
    inputs = keras.Input((None, None, 2))
    model = keras.Model(inputs, LAYERS[name](name="up")(inputs))
    model.save(tmp_path / "m.keras")
    reloaded = keras.saving.load_model(tmp_path / "m.keras")
    assert reloaded.get_layer("up").get_config() == model.get_layer("up").get_config()
    assert len(reloaded.trainable_weights) == len(model.trainable_weights)

    model.export(tmp_path / "m", verbose=False)
    served = tf.saved_model.load(tmp_path / "m")
    for size in ((4, 5), (3, 7)):
        x = random(1, *size, 2)
        expected = model(x)
        assert tuple(model.get_layer("up").compute_output_shape(x.shape)) == expected.shape
        np.testing.assert_array_equal(reloaded(x), expected)
        np.testing.assert_allclose(served.serve(x), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "size"), [*((name, (None, None)) for name in LAYERS), ("bilinear", (4, 5)), ("transposed", (4, 5))]
)
def test_lite_runs_it_on_builtin_operators(name, size, tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    inputs = keras.Input((None, None, 2))
    model = keras.Model(inputs, LAYERS[name]()(inputs))
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", model, [tf.TensorSpec((1, *size, 2), name="x")])
    archive.write_out(str(tmp_path / "m"), verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "m"))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    interpreter = Interpreter(model_content=converter.convert())
    x = random(1, 4, 5, 2)
    place = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(place, x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(place, x)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(found, model(x), atol=2e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_bfloat16_stays_close(name):
    x = random(1, 4, 5, 2)
    y = LAYERS[name](dtype="mixed_bfloat16")(x)
    assert y.dtype == "bfloat16"
    expected = np.asarray(LAYERS[name]()(x))
    np.testing.assert_allclose(tf.cast(y, "float32"), expected, atol=2e-2 * np.abs(expected).max())


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("factor", "kernel_size"), [(2, None), (3, None), (1, None), (2, 5), (3, 3), (4, 7)])
def test_bilinear_transposed_convolution_is_the_dense_one(factor, kernel_size, padding):
    x = random(2, 5, 4, 3)
    layer = BilinearConv2DTranspose(factor, kernel_size, padding=padding)
    expected_shape = layer.compute_output_shape(x.shape)
    dense = keras.layers.Conv2DTranspose(
        3, layer.kernel_size, strides=factor, padding=padding, use_bias=False, kernel_initializer=Bilinear()
    )
    np.testing.assert_allclose(layer(x), dense(x), atol=1e-6)
    assert expected_shape == dense(x).shape
    assert layer.trainable_weights == []
    # And with any other kernel.
    kernel = random(*layer.kernel.shape)
    layer.set_weights([kernel])
    dense.set_weights([kernel[..., None] * np.eye(3, dtype="float32")])
    np.testing.assert_allclose(layer(x), dense(x), atol=5e-6)


def test_bilinear_transposed_convolution_interpolates_inside():
    x = random(1, 6, 7, 2)
    for factor in (2, 3, 4):
        inside = slice(factor, -factor)
        np.testing.assert_allclose(
            BilinearConv2DTranspose(factor, padding="same")(x)[:, inside, inside],
            Upsample(factor, "bilinear")(x)[:, inside, inside],
            atol=1e-5,
        )


@pytest.mark.golden
def test_torch_transposed_convolutions(golden):
    """A kernel that mixes channels is a sum of kernels that do not, each between other pairs of channels."""
    arrays, _ = golden("op_conv")
    matches = [re.fullmatch(r"out/(deconv(\d+)_s(\d+)(?:p(\d)o(\d))?)", key) for key in arrays]
    matches = [match for match in matches if match]
    assert matches
    for match in matches:
        size, stride, pad, extra = (int(digits or 0) for digits in match.groups()[1:])
        x = np.moveaxis(arrays[f"in/{match[1]}"], 1, -1)
        kernel = np.transpose(arrays[f"param/{match[1]}.weight"], (2, 3, 1, 0))  # as Keras has it
        filters, channels = kernel.shape[2:]
        layer = BilinearConv2DTranspose(stride, size)
        layer.build(x.shape)
        rows, columns = layer.compute_output_shape(x.shape)[1:3]
        full = np.zeros((len(x), rows + extra, columns + extra, filters), "float32")
        for turn in range(filters):
            to = (np.arange(channels) + turn) % filters
            layer.set_weights([kernel[:, :, to, np.arange(channels)]])
            np.add.at(full, np.s_[:, :rows, :columns, to], np.asarray(layer(x)))
        found = full[:, pad : rows + extra - pad, pad : columns + extra - pad]
        found = found + arrays.get(f"param/{match[1]}.bias", np.float32(0))
        np.testing.assert_allclose(found, np.moveaxis(arrays[match[0]], 1, -1), atol=1e-5, err_msg=match[1])


def test_transposed_convolution_learns():
    layer = BilinearConv2DTranspose(2, trainable=True)
    x = random(1, 4, 4, 2)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x) ** 2)
    (gradient,) = tape.gradient(loss, [weight.value for weight in layer.trainable_weights])
    assert gradient.shape == (4, 4, 2)
    assert np.abs(gradient).min() > 0


def test_convolution_as_a_matrix():
    # The lecture's filter (x, y, z) and input (a, b, c, d), as primes: every product tells its factors.
    x, y, z = 2, 3, 5
    a, b, c, d = 7, 11, 13, 17
    kernel, full = np.array([x, y, z]), np.array([0, a, b, c, d, 0])
    convolved = [a * y + b * z, a * x + b * y + c * z, b * x + c * y + d * z, c * x + d * y]

    rows = convolution_matrix(kernel, 6)
    np.testing.assert_array_equal(rows[:2], [[x, y, z, 0, 0, 0], [0, x, y, z, 0, 0]])
    np.testing.assert_array_equal(rows @ full, convolved)
    np.testing.assert_array_equal(convolution_matrix(kernel, 4, padding=1) @ [a, b, c, d], convolved)
    np.testing.assert_array_equal(
        rows.T @ [a, b, c, d],
        [a * x, a * y + b * x, a * z + b * y + c * x, b * z + c * y + d * x, c * z + d * y, d * z],
    )
    # With stride 1 the transpose is a convolution, with the kernel flipped.
    np.testing.assert_array_equal(rows.T @ [a, b, c, d], convolution_matrix(kernel[::-1], 4, padding=2) @ [a, b, c, d])

    rows = convolution_matrix(kernel, 6, stride=2)
    np.testing.assert_array_equal(rows, [[x, y, z, 0, 0, 0], [0, 0, x, y, z, 0]])
    np.testing.assert_array_equal(rows @ full, [a * y + b * z, b * x + c * y + d * z])
    np.testing.assert_array_equal(rows.T @ [a, b], [a * x, a * y, a * z + b * x, b * y, b * z, 0])


@pytest.mark.parametrize(("k", "stride", "extra"), [(3, 1, 0), (3, 2, 0), (3, 2, 1), (4, 2, 0), (2, 2, 0), (5, 3, 2)])
def test_the_matrix_is_what_keras_computes(k, stride, extra):
    kernel = random(k)
    y = random(5)
    length = (5 - 1) * stride + k + extra
    layer = keras.layers.Conv1DTranspose(1, k, strides=stride, use_bias=False)
    layer.build((None, None, 1))
    layer.set_weights([kernel[:, None, None]])
    spread = convolution_matrix(kernel, length, stride).T @ y
    np.testing.assert_allclose(spread[: length - extra], layer(y[None, :, None])[0, :, 0], atol=1e-6)
    assert not spread[length - extra :].any()
    x = random(length)
    forward = keras.ops.conv(x[None, :, None], kernel[:, None, None], strides=stride, padding="valid")
    np.testing.assert_allclose(convolution_matrix(kernel, length, stride) @ x, forward[0, :, 0], atol=1e-6)


def test_the_docstrings_say_what_happens():
    """Every `>>>` line with numbers below it; names live on from one docstring to the next."""
    owners = (MaxPoolWithArgmax, MaxUnpool, flat_argmax, Upsample, BedOfNails, BilinearConv2DTranspose)
    owners += (bilinear_kernel, convolution_matrix, interpolation_matrix)
    space = dict(globals())
    for owner in owners:
        checked = 0
        for line, below in itertools.pairwise(line.strip() for line in owner.__doc__.splitlines()):
            if line.startswith(">>> ") and below.startswith(">>> "):
                exec(line[4:], space)
            elif line.startswith(">>> "):
                np.testing.assert_allclose(np.array(eval(line[4:], space)), np.array(eval(below)), atol=5e-4)
                checked += 1
        assert checked, owner


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="factor=0"):
        Upsample(0)
    with pytest.raises(ValueError, match="'area'"):
        Upsample(2, "area")
    with pytest.raises(ValueError, match="`align_corners` needs"):
        Upsample(2, align_corners=True)
    with pytest.raises(ValueError, match="factor=1.5"):
        BedOfNails(1.5)
    with pytest.raises(ValueError, match="Received: 1"):
        BilinearConv2DTranspose(2, 1)
    with pytest.raises(ValueError, match='"valid" or "same"'):
        BilinearConv2DTranspose(2, padding="full")
    with pytest.raises(ValueError, match=r"shape=\(3, 4, 1, 1\)"):
        Bilinear()((3, 4, 1, 1))
    with pytest.raises(ValueError, match="length=2"):
        convolution_matrix([1, 2, 3], 2)
    with pytest.raises(ValueError, match="must be one of"):
        interpolation_matrix(2, 4, "area")
