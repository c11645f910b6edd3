"""The attention LSTM: its written-out derivative is that of the plain steps, and XLA computes the same."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.language import attention_lstm, attention_step
from keras_cv_lectures.language.recurrence import scan
from keras_cv_lectures.layers.attention import draw_places

PICTURES, CAPTIONS, STEPS, PLACES, WIDTH, MEET, UNITS = 2, 3, 4, 5, 6, 7, 8
TENSORS = ("annotations", "projected", "score", "joint", "joint_bias", "context_kernel")
GATES = {"none": 0, "scalar": 1, "vector": WIDTH}
MODES = {"soft": None, "drawn": 0.0, "expected": 1.0}


def random_values(gate: str, seed: int = 0) -> dict[str, tf.Tensor]:
    generator = np.random.default_rng(seed)
    width = GATES[gate]
    shapes = {
        "annotations": (PICTURES, PLACES, WIDTH),
        "projected": (PICTURES, PLACES, MEET),
        "score": (MEET,),
        "joint": (UNITS, 4 * UNITS + width + MEET),
        "joint_bias": (width + MEET,),
        "context_kernel": (WIDTH, 4 * UNITS),
        "inputs": (STEPS, PICTURES, CAPTIONS, 4 * UNITS),
        "hidden": (PICTURES, CAPTIONS, UNITS),
        "cell": (PICTURES, CAPTIONS, UNITS),
    }
    return {name: tf.constant(0.5 * generator.normal(size=shape), "float32") for name, shape in shapes.items()}


def plain(values, activation, uniform, expected):
    """The steps one by one, for automatic differentiation."""
    tensors, state, found = [values[name] for name in TENSORS], (values["hidden"], values["cell"]), []
    for t in range(values["inputs"].shape[0]):
        choose = None
        if uniform is not None:
            choose = lambda w, t=t: expected * w + (1 - expected) * draw_places(w, uniform[t])  # noqa: E731
        step = attention_step(tensors, values["inputs"][t], *state, activation=activation, choose=choose)
        state = (step.hidden, step.cell)
        found.append(step)
    return [tf.stack([getattr(step, name) for step in found]) for name in ("hidden", "context", "weights", "used")]


def written_out(values, activation, uniform, expected, fuse=False):
    tensors = [values[name] for name in TENSORS]
    state = values["hidden"], values["cell"]
    return attention_lstm(
        tensors, values["inputs"], *state, activation=activation, uniform=uniform, expected=expected, fuse=fuse
    )


def loss_and_gradients(function, values, *arguments):
    generator = np.random.default_rng(1)
    with tf.GradientTape() as tape:
        tape.watch(list(values.values()))
        found = function(values, *arguments)
        # Another number for every output: hidden states, contexts and weights all send something back.
        loss = sum(tf.reduce_sum(x * generator.normal(size=x.shape).astype("float32")) for x in found[:3])
    return found, dict(zip(values, tape.gradient(loss, list(values.values())), strict=True))


def draws(mode):
    if MODES[mode] is None:
        return None, None
    uniform = np.random.default_rng(2).uniform(size=(STEPS, PICTURES, CAPTIONS))
    return tf.constant(uniform, "float32"), MODES[mode]


def assert_same(one, other, tolerance=2e-6):
    for a, b in zip(one[0], other[0], strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance)
    for name, gradient in one[1].items():
        scale = max(1.0, float(np.abs(gradient).max()))
        assert np.abs(gradient).max() > 1e-3, name
        np.testing.assert_allclose(gradient, other[1][name], atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_written_out_derivative_is_that_of_the_plain_steps(activation, gate, mode):
    values, arguments = random_values(gate), (activation, *draws(mode))
    assert_same(loss_and_gradients(plain, values, *arguments), loss_and_gradients(written_out, values, *arguments))


@pytest.mark.parametrize(
    ("activation", "gate", "mode"), [("tanh", "scalar", "soft"), ("relu", "vector", "drawn"), ("tanh", "none", "drawn")]
)
def test_xla_and_open_lengths_compute_the_same(activation, gate, mode):
    values, arguments = random_values(gate), (activation, *draws(mode))

    def compiled(fuse):
        # Lengths and batch are known when it runs.
        open_axes = {"inputs": (0, 1, 2), "hidden": (0, 1), "cell": (0, 1), "annotations": (0,), "projected": (0,)}
        signature = {
            name: tf.TensorSpec([None if k in open_axes.get(name, ()) else n for k, n in enumerate(x.shape)])
            for name, x in values.items()
        }

        @tf.function(input_signature=[signature], autograph=False)
        def run(given):
            with tf.GradientTape() as tape:
                tape.watch(list(given.values()))
                found = written_out(given, *arguments, fuse)
                loss = sum(tf.reduce_sum(x * tf.cos(tf.cast(tf.range(x.shape[-1]), "float32"))) for x in found[:3])
            return found, dict(zip(given, tape.gradient(loss, list(given.values())), strict=True))

        return run(values)

    eager = written_out(values, *arguments)
    without, fused = compiled(False), compiled(True)
    for a, b in zip(eager, without[0], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert_same(without, fused)


def test_a_step_by_hand():
    # One unit, one query number, two places; everything that is multiplied is 1, so numbers can be followed.
    one = np.ones((1, 1), "float32")
    annotations = np.array([[[1.0], [3.0]]], "float32")
    joint = np.array([[0, 0, 0, 0, 0, 1]], "float32")  # four gates, the context's gate, the query
    tensors = [annotations, annotations - 2, one[0], joint, np.zeros(2, "float32"), np.array([[0, 0, 1, 0]], "float32")]
    step = attention_step(tensors, np.zeros((1, 1, 4), "float32"), one[None], one[None] * 0.5, activation="relu")
    weights = np.exp([0, 2]) / np.exp([0, 2]).sum()  # relu of (1 - 2) + 1 and (3 - 2) + 1
    context = 0.5 * weights @ [1, 3]  # the gate says sigmoid(0)
    cell = 0.5 * 0.5 + 0.5 * np.tanh(context)
    np.testing.assert_allclose(step.weights[0, 0], weights, rtol=1e-6)
    np.testing.assert_allclose(step.context[0, 0], [context], rtol=1e-6)
    np.testing.assert_allclose(step.cell[0, 0], [cell], rtol=1e-6)
    np.testing.assert_allclose(step.hidden[0, 0], [0.5 * np.tanh(cell)], rtol=1e-6)


@pytest.mark.parametrize("reverse", [False, True])
def test_scan_goes_forth_and_back_and_leaves_outputs_in_their_place(reverse):
    x = tf.constant([1.0, 2.0, 4.0])
    (total,), (sums, halves) = scan(
        lambda state, given: ((state[0] + given[0],), [state[0] + given[0], given[0] / 2]),
        (tf.constant(10.0),),
        [x],
        2,
        reverse,
    )
    assert float(total) == 17
    np.testing.assert_array_equal(sums, [17, 16, 14] if reverse else [11, 13, 17])
    np.testing.assert_array_equal(halves, [0.5, 1, 2])
