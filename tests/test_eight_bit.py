"""8-bit files after the exchange of slow operators: the same positions and labels, hard swish to a step."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.exporting.eight_bit import with_fast_kernels
from keras_cv_lectures.exporting.quantize import main_operators
from keras_cv_lectures.layers import MaxPoolWithArgmax, MaxUnpool
from keras_cv_lectures.layers.portable import portable_operators

# The converter warns about what it is told to do: to measure only.
pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")


def _quantized(function, x) -> bytes:
    """The converter's own 8-bit file of a function; its input and output stay float32."""
    from tensorflow.lite.python.convert import mlir_quantize

    with portable_operators():
        concrete = tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec((1, *x.shape[1:])))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([row[None]] for row in x)
    converter._experimental_calibrate_only = True
    return mlir_quantize(converter.convert(), denylisted_ops=[])


def _run(content: bytes, x) -> list[np.ndarray]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    outputs = []
    for row in x:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], row[None])
        interpreter.invoke()
        outputs.append([interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()])
    return [np.concatenate(parts) for parts in zip(*outputs, strict=True)]


def _kinds(content: bytes) -> set[str]:
    return {operator.kind for operator in main_operators(content)}


@pytest.mark.parametrize("span", [0.004, 1.0, 8.0, 40.0])
def test_hard_swish_to_a_step(span):
    x = np.random.default_rng(0).uniform(-span, span, (4, 8, 8, 16)).astype("float32")
    x.flat[:2] = -span, span
    content = _quantized(lambda t: keras.activations.hard_swish(t), x)
    assert "HARD_SWISH" in _kinds(content)
    fast = with_fast_kernels(content)
    assert "HARD_SWISH" not in _kinds(fast)
    [got], expected = _run(fast, x), np.asarray(keras.activations.hard_swish(x))
    [before] = _run(content, x)
    # A step of the result, and what a step of the argument makes of it.
    step = np.ptp(expected) / 255 + 1.1 * 2 * span / 255
    assert np.abs(before - expected).max() <= step
    assert np.abs(got - expected).max() <= step
    assert np.abs(got - before).max() <= 1.01 * np.ptp(expected) / 255 + 1e-6


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("scale", [0.01, 1.0, 90.0])
def test_unpooling_puts_8_bit_numbers_at_the_first_maximum(size, scale):
    """Few different values make ties in most windows. Whole steps of the range lose nothing in 8 bits."""
    rng = np.random.default_rng(0)
    side = 6 * size
    x = (rng.integers(0, 4, (4, side, side, 8)) * scale).astype("float32")
    x[0, 0, 0, 0] = 255 / 85 * scale
    pool, unpool = MaxPoolWithArgmax(size), MaxUnpool(size)

    def function(t):
        pooled, index = pool(t)
        return unpool([pooled, index, t])

    content = _quantized(function, x)
    assert {"LESS", "EQUAL"} <= _kinds(content)
    fast = with_fast_kernels(content)
    assert not {"LESS", "EQUAL", "CAST", "LOGICAL_AND"} & _kinds(fast)
    np.testing.assert_allclose(_run(fast, x)[0], np.asarray(function(x)), atol=scale * 3e-6)


def test_overlapping_windows_stay_right():
    x = np.random.default_rng(0).integers(0, 4, (4, 9, 9, 8)).astype("float32")
    pool, unpool = MaxPoolWithArgmax(3, 2), MaxUnpool(3, 2)

    def function(t):
        pooled, index = pool(t)
        return unpool([pooled, index, t])

    content = _quantized(function, x)
    np.testing.assert_array_equal(_run(with_fast_kernels(content), x)[0], _run(content, x)[0])


def test_argmax_reads_the_logits_that_are_given_anyway():
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 5)).astype("float32")

    def function(t):
        t = t * 1.5
        return tf.argmax(t, -1, output_type="int32"), t

    content = _quantized(function, x)
    fast = with_fast_kernels(content)
    for got, expected in zip(_run(fast, x), _run(content, x), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_a_file_without_such_operators_stays_as_it_is():
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 5)).astype("float32")
    content = _quantized(lambda t: tf.nn.relu(t) * 2.0, x)
    assert main_operators(with_fast_kernels(content)) == main_operators(content)
