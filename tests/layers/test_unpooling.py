"""Pooling with positions and max unpooling: the lecture's numbers, TensorFlow's operator, torch, XLA and LiteRT."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.layers import MaxPoolWithArgmax, MaxUnpool
from keras_cv_lectures.layers.unpooling import flat_argmax, window_argmax

RNG = np.random.default_rng(0)
LECTURE = np.array([[1, 2, 6, 3], [3, 5, 2, 1], [1, 2, 2, 1], [7, 3, 4, 8]], "float32").reshape(1, 4, 4, 1)
SIZES = [(6, 8), (7, 9), (6, 9), (7, 8)]


def rectified(*shape):
    """After a ReLU: most windows have equal maxima, many are all zero. Rounded, so that positive values tie too."""
    return np.maximum(np.round(RNG.normal(size=shape) * 2 - 1) / 2, 0).astype("float32")


def window_maxima(x, k, s, padding):
    """Maxima and positions by loops, the first of equal ones."""
    batch, height, width, channels = x.shape
    rounded = {"valid": np.floor, "same": np.ceil}[padding]
    h, w = (int(rounded((size - k) / s)) + 1 for size in (height, width))
    pooled, index = np.zeros((2, batch, h, w, channels), "float32")
    for b, i, j, c in np.ndindex(batch, h, w, channels):
        window = x[b, i * s : i * s + k, j * s : j * s + k, c]
        row, column = np.unravel_index(np.argmax(window), window.shape)
        pooled[b, i, j, c], index[b, i, j, c] = window[row, column], row * k + column
    return pooled, index


def gradient(function, x, weights):
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(tf.cast(function(x), "float32") * weights)
    return tape.gradient(loss, x)


def chain(pool_size=2, strides=None, padding="valid"):
    pool = MaxPoolWithArgmax(pool_size, strides, padding)
    unpool = MaxUnpool(pool_size, strides)

    def function(x):
        pooled, index = pool(x)
        return pooled, index, unpool([2 * pooled + 1, index, x])

    return function


def test_the_lectures_4x4_example():
    pooled, index = MaxPoolWithArgmax()(LECTURE)
    np.testing.assert_array_equal(pooled[0, :, :, 0], [[5, 6], [7, 8]])
    np.testing.assert_array_equal(index[0, :, :, 0], [[3, 0], [2, 3]])
    np.testing.assert_array_equal(flat_argmax(index, (4, 4))[0, :, :, 0], [[5, 2], [12, 15]])
    values = np.array([[1, 2], [3, 4]], "float32").reshape(1, 2, 2, 1)
    unpooled = MaxUnpool()([values, index, LECTURE])
    np.testing.assert_array_equal(unpooled[0, :, :, 0], [[0, 0, 2, 0], [0, 1, 0, 0], [0, 0, 0, 0], [3, 0, 0, 4]])
    np.testing.assert_array_equal(MaxUnpool()([values, index]), unpooled)


def test_the_first_of_equal_maxima_is_taken():
    # Ties between columns, between rows, along the diagonals, and of all four.
    windows = [[1, 1, 0, 0], [0, 2, 0, 2], [0, 3, 3, 0], [4, 0, 0, 4], [0, 0, 0, 0], [-1, -1, -1, -1], [0, 0, 5, 5]]
    x = np.array(windows, "float32").reshape(len(windows), 2, 2, 1)
    pooled, index = MaxPoolWithArgmax()(x)
    np.testing.assert_array_equal(np.ravel(index), [0, 1, 1, 0, 0, 0, 2])
    np.testing.assert_array_equal(np.ravel(pooled), [1, 2, 3, 4, 0, -1, 5])


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("k", "s"), [(2, 2), (3, 2), (3, 3), (3, 1), (5, 2), (1, 1)])
@pytest.mark.parametrize("size", SIZES)
def test_equals_loops_over_windows(k, s, padding, size):
    x = rectified(2, *size, 3)
    x[1] -= 5  # negative throughout: padding by zeros would show
    layer = MaxPoolWithArgmax(k, s, padding)
    pooled, index = layer(x)
    expected_pooled, expected_index = window_maxima(x, k, s, padding)
    np.testing.assert_array_equal(pooled, expected_pooled)
    np.testing.assert_array_equal(index, expected_index)
    assert layer.compute_output_shape(x.shape) == [pooled.shape, index.shape]

    unpooled = np.asarray(MaxUnpool(k, s)([pooled, index, x]))
    flat = np.asarray(flat_argmax(index, size, k, s))
    np.testing.assert_array_equal(window_argmax(flat, size, k, s), index)
    expected = np.zeros((2, x[0].size), "float32")
    np.put_along_axis(expected, flat.reshape(2, -1), np.asarray(pooled).reshape(2, -1), axis=1)
    np.testing.assert_array_equal(unpooled, expected.reshape(x.shape))


@pytest.mark.parametrize("size", SIZES)
def test_equals_tensorflows_operator_with_ties(size):
    x = rectified(2, *size, 3)
    pooled, flat = tf.nn.max_pool_with_argmax(x, 2, 2, "SAME")
    found, index = MaxPoolWithArgmax(padding="same")(x)
    np.testing.assert_array_equal(found, pooled)
    np.testing.assert_array_equal(flat_argmax(index, size), flat)
    np.testing.assert_array_equal(window_argmax(flat, size), index)

    entries = x[0].size
    places = tf.reshape(flat, (2, -1)) + entries * tf.range(2, dtype=flat.dtype)[:, None]

    def scatter(values):
        return tf.reshape(
            tf.scatter_nd(tf.reshape(places, (-1, 1)), tf.reshape(values, (-1,)), (2 * entries,)), x.shape
        )

    values = RNG.normal(size=pooled.shape).astype("float32")
    np.testing.assert_array_equal(MaxUnpool()([values, index, x]), scatter(values))
    weights = RNG.normal(size=x.shape).astype("float32")
    np.testing.assert_array_equal(
        gradient(lambda v: MaxUnpool()([v, index, x]), values, weights), gradient(scatter, values, weights)
    )
    np.testing.assert_array_equal(
        gradient(lambda v: MaxPoolWithArgmax(padding="same")(v)[0], x, values),
        gradient(lambda v: tf.nn.max_pool_with_argmax(v, 2, 2, "SAME")[0], x, values),
    )


@pytest.mark.golden
def test_tensorflow_addons_unpooling(golden):
    arrays, _ = golden("tfa_max_unpool")
    x = arrays["in/x"]
    pooled, index = MaxPoolWithArgmax(padding="same")(x)
    np.testing.assert_array_equal(pooled, arrays["out/values"])
    np.testing.assert_array_equal(flat_argmax(index, x.shape[1:3]), arrays["out/argmax"])
    np.testing.assert_array_equal(MaxUnpool()([pooled, index, x]), arrays["out/unpooled"])
    np.testing.assert_array_equal(MaxUnpool()([arrays["in/y"], index, x]), arrays["out/unpooled_y"])


@pytest.mark.golden
def test_torch_unpooling(golden):
    arrays, cfg = golden("op_max_unpool2d")
    cases = sorted(key[len("in/") : -len("_x")] for key in arrays if key.startswith("in/") and key.endswith("_x"))
    assert cases
    for case in cases:
        # "k3s2" or "k2 s2", in the name or in its description.
        digits = [int(letter) for letter in f"{cfg.get(case, '')} {case} k2s2" if letter.isdigit()]
        k, s = digits[:2]
        x, z, weights = (_channels_last(arrays[key]) for key in (f"in/{case}_x", f"in/{case}_z", f"out/{case}_unpool"))
        pooled, index = MaxPoolWithArgmax(k, s)(x)
        np.testing.assert_array_equal(pooled, _channels_last(arrays[f"out/{case}_pool"]), err_msg=case)
        flat = np.asarray(flat_argmax(index, x.shape[1:3], k, s)) // x.shape[3]
        np.testing.assert_array_equal(flat, _channels_last(arrays[f"out/{case}_idx"]), err_msg=case)

        expected = arrays[f"out/{case}_unpool"]
        np.testing.assert_array_equal(MaxUnpool(k, s)([z, index, x]), _channels_last(expected), err_msg=case)
        weights = _channels_last(np.linspace(-1, 1, expected.size, dtype="float32").reshape(expected.shape))
        found = gradient(lambda v, k=k, s=s, i=index, x=x: MaxUnpool(k, s)([v, i, x]), z, weights)
        np.testing.assert_allclose(found, _channels_last(arrays[f"grad/{case}_z"]), atol=1e-6, err_msg=case)


def _channels_last(x):
    return np.moveaxis(x, 1, -1)


@pytest.mark.parametrize(("k", "s", "padding"), [(2, 2, "valid"), (2, 2, "same"), (3, 2, "same")])
def test_dynamic_sizes_and_xla_agree_with_the_cpu(k, s, padding):
    dynamic = tf.function(chain(k, s, padding), input_signature=[tf.TensorSpec((None, None, None, 2))], autograph=False)
    compiled = tf.function(chain(k, s, padding), jit_compile=True, autograph=False)
    for size in ((6, 8), (7, 9)):
        x = rectified(2, *size, 2)
        expected = chain(k, s, padding)(x)
        for function in (dynamic, compiled):
            for found, reference in zip(function(tf.constant(x)), expected, strict=True):
                np.testing.assert_array_equal(found, reference)


def test_xla_takes_the_same_gradient():
    x = rectified(1, 7, 8, 2)
    weights = RNG.normal(size=x.shape).astype("float32")

    def through(x):
        return gradient(lambda v: chain(padding="same")(v)[2], x, weights)

    compiled = tf.function(through, jit_compile=True, autograph=False)
    np.testing.assert_allclose(compiled(tf.constant(x)), through(x), atol=1e-6)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(("k", "s", "padding"), [(2, 2, "valid"), (2, 2, "same"), (3, 2, "same")])
def test_lite_runs_it_on_builtin_operators(k, s, padding, dynamic):
    size = (None, None) if dynamic else (7, 9)
    traced = tf.function(chain(k, s, padding), input_signature=[tf.TensorSpec((1, *size, 2))], autograph=False)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([traced.get_concrete_function()])
    x = rectified(1, 7, 9, 2)
    for found, expected in zip(_run_lite(_converted(converter), x), chain(k, s, padding)(x), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_int8_keeps_the_positions(tmp_path):
    pool, unpool = MaxPoolWithArgmax(), MaxUnpool()

    def function(x):
        pooled, index = pool(x)
        return unpool([pooled, index, x])

    x = RNG.uniform(0, 1, (1, 8, 10, 3)).astype("float32")
    traced = tf.function(function, input_signature=[tf.TensorSpec(x.shape)], autograph=False)
    module = tf.Module()
    module.run = traced
    tf.saved_model.save(module, tmp_path / "m", signatures=traced)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "m"))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: [[x]]
    (found,) = _run_lite(_converted(converter), x)
    expected = np.asarray(function(x))
    # Steps of 1 / 255: what is rounded to equal numbers may trade places, nothing else.
    step = 1.01 / 255
    moved = (found != 0) != (expected != 0)
    assert moved.mean() < 0.02
    np.testing.assert_allclose(found[~moved], expected[~moved], atol=step)


def _converted(converter):
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    return converter.convert()


def _run_lite(content, x):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    (place,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(place["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(place["index"], x)
    interpreter.invoke()
    outputs = sorted(interpreter.get_output_details(), key=lambda detail: detail["name"])
    return [interpreter.get_tensor(detail["index"]) for detail in outputs]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_positions_are_exact_in_sixteen_bits(policy):
    x = rectified(1, 31, 33, 2)  # multiples of 1/2 are exact too
    for k in (2, 16):
        pooled, index = MaxPoolWithArgmax(k, dtype=policy)(x)
        assert pooled.dtype == index.dtype == policy.removeprefix("mixed_")
        expected_pooled, expected_index = MaxPoolWithArgmax(k)(x)
        np.testing.assert_array_equal(tf.cast(index, "float32"), expected_index)
        unpooled = MaxUnpool(k, dtype=policy)([pooled, index, x])
        np.testing.assert_array_equal(tf.cast(unpooled, "float32"), MaxUnpool(k)([expected_pooled, expected_index, x]))


def test_saved_and_reloaded(tmp_path):
    inputs = keras.Input((None, None, 3))
    pooled, index = MaxPoolWithArgmax(3, 2, "same", name="pool")(inputs)
    values = keras.layers.Conv2D(3, 3, padding="same", name="conv")(pooled)
    model = keras.Model(inputs, MaxUnpool(3, 2, name="unpool")([values, index, inputs]))
    assert model.output_shape == (None, None, None, 3)
    model.save(tmp_path / "m.keras")
    reloaded = keras.saving.load_model(tmp_path / "m.keras")
    x = rectified(2, 9, 12, 3)
    np.testing.assert_array_equal(reloaded.predict(x, verbose=0), model.predict(x, verbose=0))
    for name in ("pool", "unpool"):
        assert reloaded.get_layer(name).get_config() == model.get_layer(name).get_config()


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="pool_size=17"):
        MaxPoolWithArgmax(17)
    with pytest.raises(ValueError, match="strides=3"):
        MaxUnpool(2, 3)
    with pytest.raises(ValueError, match="padding='full'"):
        MaxPoolWithArgmax(padding="full")
    with pytest.raises(ValueError, match="holds no window of 4"):
        MaxPoolWithArgmax(4)(rectified(1, 3, 8, 1))
    pooled, index = MaxPoolWithArgmax()(LECTURE)
    with pytest.raises(ValueError, match=r"\[values, index, reference\]"):
        MaxUnpool()(pooled)
    with pytest.raises(ValueError, match="Pooling 8 rows or columns with pool_size=2"):
        MaxUnpool()([pooled, index, rectified(1, 8, 4, 1)])
    with pytest.raises(ValueError, match="below 2\\^31"):
        flat_argmax(index, (2**16, 2**15))
