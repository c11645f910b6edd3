"""Recurrent computation: a loop over steps, and the attention LSTM with its derivative written out.

Automatic differentiation keeps every intermediate of every step, the (B, N, L, units) meeting of annotations and
queries above all, and adds the gradients of weights step by step. Written out, the loop keeps small tensors only, meets
again on the way back, and multiplies for each weight once, over all steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
from keras import ops

from keras_cv_lectures.layers.attention import additive_scores, draw_places, meet, place_probabilities


def scan(step: Callable, state, inputs: Sequence, outputs: int, reverse: bool = False):
    """Applies `step(state, inputs at t) -> (state, outputs at t)` along the first axis of `inputs`.

    Args:
        step: called with a tuple and a list; gives a tuple of equal shapes and a list of `outputs` float32 tensors.
        state: tuple of tensors before the first step.
        inputs: tensors (T, ...).
        outputs: how many tensors a step gives.
        reverse: from the last to the first step; outputs lie where their inputs lie.

    Returns:
        (state after the last step, [outputs (T, ...)]). Not differentiable on TensorFlow by design: see the module.
    """
    if keras.backend.backend() == "tensorflow":
        return _scan_tensorflow(step, state, inputs, outputs, reverse)
    if keras.backend.backend() == "jax":
        import jax

        return jax.lax.scan(step, state, list(inputs), reverse=reverse)
    found = []
    order = range(inputs[0].shape[0])
    for t in reversed(order) if reverse else order:
        state, given = step(state, [x[t] for x in inputs])
        found.append(given)
    found = found[::-1] if reverse else found
    return state, [ops.stack(given) for given in zip(*found, strict=True)]


def _scan_tensorflow(step, state, inputs, outputs, reverse):
    import tensorflow as tf

    length = tf.shape(inputs[0])[0]
    arrays = tuple(tf.TensorArray(tf.float32, size=length) for _ in range(outputs))

    def body(t, state, arrays):
        place = length - 1 - t if reverse else t
        state, given = step(state, [x[place] for x in inputs])
        return t + 1, tuple(state), tuple(a.write(place, x) for a, x in zip(arrays, given, strict=True))

    _, state, arrays = tf.while_loop(lambda t, *_: t < length, body, (tf.constant(0), tuple(state), arrays))
    return state, [array.stack() for array in arrays]


class AttentionStep(NamedTuple):
    """What one step of the attention LSTM gives, and what its derivative needs."""

    hidden: object  # (B, N, H)
    cell: object  # (B, N, H)
    context: object  # (B, N, D), gated
    weights: object  # (B, N, L), the probabilities
    used: object  # (B, N, L), what the context is the mean under: the same, or one-hot rows
    ungated: object  # (B, N, D)
    gate: object  # (B, N, 1 or D)
    query: object  # (B, N, U)
    gates: object  # (B, N, 4 H), input, forget, candidate, output, after their activations


def attention_step(tensors, inputs, hidden, cell, *, activation, choose: Callable | None = None, fuse: bool = False):
    """One step.

    Args:
        tensors: annotations (B, L, D); these projected (B, L, U); score (U,); joint (H, 4 H + G + U), what the state
            is multiplied with, for gates, the context's gate (G is 1, D or 0 for none) and the query; joint bias
            (G + U,); context kernel (D, 4 H).
        inputs: (B, N, 4 H), the word's part of the gates, bias included.
        hidden, cell: (B, N, H).
        activation: where annotation and query meet.
        choose: weights -> what the context is the mean under; None: the weights.
        fuse: see `_fused`.

    Returns:
        AttentionStep.
    """
    annotations, projected, score, joint, joint_bias, context_kernel = tensors
    units = hidden.shape[-1]
    asked = ops.matmul(hidden, joint)
    recurrent, rest = asked[..., : 4 * units], asked[..., 4 * units :] + joint_bias
    width = joint.shape[-1] - 4 * units - score.shape[0]
    query = rest[..., width:]
    attend = _fused(_attend, fuse)
    weights, used, ungated = attend(annotations, projected, query, score, activation, choose)
    gate = ops.sigmoid(rest[..., :width]) if width else ops.ones_like(hidden[..., :1])
    context = gate * ungated
    before = inputs + recurrent + ops.matmul(context, context_kernel)
    i, f, g, o = ops.split(before, 4, axis=-1)
    i, f, g, o = ops.sigmoid(i), ops.sigmoid(f), ops.tanh(g), ops.sigmoid(o)
    cell = f * cell + i * g
    gates = ops.concatenate([i, f, g, o], axis=-1)
    return AttentionStep(o * ops.tanh(cell), cell, context, weights, used, ungated, gate, query, gates)


def attention_lstm(tensors, inputs, hidden, cell, *, activation, uniform=None, expected=None, fuse=None):
    """All steps of the attention LSTM, differentiable.

    Args:
        tensors, activation: as `attention_step`.
        inputs: (T, B, N, 4 H).
        hidden, cell: (B, N, H), before the first step.
        uniform: (T, B, N) numbers in 0..1 that draw the places of hard attention; None for soft attention.
        expected: with `uniform`: () 1 where the expected context is taken instead of the drawn one, else 0.
        fuse: whether XLA compiles what looks at the annotations; None: where they are large.

    Returns:
        (hidden (T, B, N, H), context (T, B, N, D), weights (T, B, N, L), used (T, B, N, L)). The last has no gradient;
        neither have weights through a context that was drawn.
    """
    hard = uniform is not None
    fuse = _worth_fusing(tensors[1]) if fuse is None else fuse
    # Soft attention ignores these two; they keep one signature.
    uniform = ops.zeros_like(inputs[..., 0]) if uniform is None else uniform
    expected = ops.ones(()) if expected is None else ops.cast(expected, "float32")

    @ops.custom_gradient
    def run(annotations, projected, score, joint, joint_bias, context_kernel, inputs, hidden, cell):
        tensors = (annotations, projected, score, joint, joint_bias, context_kernel)

        def forward(state, given):
            choose = (lambda w: expected * w + (1 - expected) * draw_places(w, given[1])) if hard else None
            step = attention_step(tensors, given[0], *state, activation=activation, choose=choose, fuse=fuse)
            return (step.hidden, step.cell), list(step)

        _, found = scan(forward, (hidden, cell), [inputs, uniform], len(AttentionStep._fields))
        steps = AttentionStep(*found)

        def gradient(*upstream):
            upstream = upstream[0] if len(upstream) == 1 else upstream
            d_hidden, d_context, d_weights, _ = upstream
            earlier = ops.concatenate([hidden[None], steps.hidden[:-1]])
            earlier_cell = ops.concatenate([cell[None], steps.cell[:-1]])
            transposed = [ops.transpose(x) for x in (joint, context_kernel)]
            width = joint_bias.shape[0] - score.shape[0]

            def backward(state, given):
                dh, dc, d_score = state
                up_h, up_z, up_w, before_c, *saved = given
                return _step_back(
                    (dh + up_h, dc, d_score),
                    (up_z, up_w),
                    before_c,
                    AttentionStep(None, *saved),
                    (annotations, projected, score, *transposed),
                    (activation, width, expected if hard else None, fuse),
                )

            zeros = (ops.zeros_like(hidden), ops.zeros_like(cell), ops.zeros_like(score))
            (dh, dc, d_score), (d_asked, d_ungated, d_scores, d_met) = scan(
                backward, zeros, [d_hidden, d_context, d_weights, earlier_cell, *steps[1:]], 4, reverse=True
            )
            slopes = _fused(_slopes_of_places, fuse)(projected, steps.query, d_scores, activation)
            d_projected = slopes * score
            if activation == "relu":
                # Where it is not flat it is the identity, so its values need not be met again.
                d_score = ops.sum(projected * slopes, axis=(0, 1)) + ops.sum(steps.query * d_met, axis=(0, 1, 2))
            units = hidden.shape[-1]
            # Each weight's gradient is one product over all steps; the annotations', one a picture.
            rows = _rows(d_asked)
            d_joint = ops.matmul(ops.transpose(_rows(earlier)), rows)
            d_kernel = ops.matmul(ops.transpose(_rows(steps.context)), rows[:, : 4 * units])
            d_annotations = ops.matmul(ops.swapaxes(_of_picture(steps.used), 1, 2), _of_picture(d_ungated))
            d_bias = ops.sum(rows[:, 4 * units :], axis=0)
            d_inputs = d_asked[..., : 4 * units]
            return d_annotations, d_projected, d_score, d_joint, d_bias, d_kernel, d_inputs, dh, dc

        return (steps.hidden, steps.context, steps.weights, steps.used), gradient

    return run(*tensors, inputs, hidden, cell)


def _attend(annotations, projected, query, score, activation, choose):
    """-> (weights (B, N, L), what was used of them, the context before its gate (B, N, D))."""
    weights = place_probabilities(additive_scores(projected, query, score, activation))
    used = weights if choose is None else choose(weights)
    return weights, used, ops.matmul(used, annotations)


def _step_back(state, upstream, before_cell, step, tensors, settings):
    """The derivative of `attention_step`: -> (state of the step before, [of hidden x joint, of the context before its
    gate, of the scores, of the meeting summed over places])."""
    dh, dc, d_score = state
    up_context, up_weights = upstream
    annotations, projected, score, joint_transposed, kernel_transposed = tensors
    activation, width, expected, fuse = settings
    i, f, g, o = ops.split(step.gates, 4, axis=-1)
    squashed = ops.tanh(step.cell)
    dc = dc + dh * o * (1 - ops.square(squashed))
    d_before = ops.concatenate(
        [
            dc * g * i * (1 - i),
            dc * before_cell * f * (1 - f),
            dc * i * (1 - ops.square(g)),
            dh * squashed * o * (1 - o),
        ],
        axis=-1,
    )
    dz = up_context + ops.matmul(d_before, kernel_transposed)
    d_ungated = dz * step.gate
    back = _fused(_attend_back, fuse)
    d_met, d_scores, more = back(
        annotations, projected, step.query, step.weights, d_ungated, up_weights, activation, expected
    )
    parts = [d_before, d_met * score]
    if width:
        d_gate = dz * step.ungated
        d_gate = ops.sum(d_gate, axis=-1, keepdims=True) if width == 1 else d_gate
        parts.insert(1, d_gate * step.gate * (1 - step.gate))
    d_asked = ops.concatenate(parts, axis=-1)
    return (ops.matmul(d_asked, joint_transposed), dc * f, d_score + more), [d_asked, d_ungated, d_scores, d_met]


def _attend_back(annotations, projected, query, weights, d_context, up_weights, activation, expected):
    """The derivative of `_attend`, that of the projected annotations left out.

    Returns:
        that of the meeting, without the score's vector, summed over places (B, N, U); of the scores (B, N, L); of the
        score's vector (U,) where the activation is tanh.
    """
    d_used = ops.matmul(d_context, ops.swapaxes(annotations, 1, 2))
    d_weights = up_weights + (d_used if expected is None else expected * d_used)
    d_scores = weights * (d_weights - ops.sum(weights * d_weights, axis=-1, keepdims=True))
    met = meet(projected, query, activation)
    d_met = ops.matmul(d_scores[:, :, None], _slope(met, activation))[:, :, 0]
    if activation == "relu":
        return d_met, d_scores, ops.zeros_like(met[0, 0, 0])
    d_score = ops.matmul(ops.reshape(d_scores, (1, -1)), ops.reshape(met, (-1, met.shape[-1])))[0]
    return d_met, d_scores, d_score


def _slopes_of_places(projected, queries, d_scores, activation):
    """Derivative of the projected annotations (B, L, U), without the score's vector: over all queries (T, B, N, U) and
    their scores (T, B, N, L)."""
    pictures, places, units = ops.shape(projected)[0], projected.shape[1], projected.shape[2]
    queries = ops.reshape(ops.transpose(queries, (0, 2, 1, 3)), (-1, pictures, 1, units))
    d_scores = ops.reshape(ops.transpose(d_scores, (0, 2, 1, 3)), (-1, pictures, places, 1))

    def add(k, total):
        met = projected + queries[k]
        met = ops.tanh(met) if activation == "tanh" else ops.relu(met)
        return total + d_scores[k] * _slope(met, activation)

    return ops.fori_loop(0, ops.shape(queries)[0], add, ops.zeros_like(projected))


def _slope(met, activation):
    """The derivative of the activation, from its value."""
    return 1 - ops.square(met) if activation == "tanh" else ops.cast(met > 0, "float32")


# Numbers of the projected annotations of a picture from which compiling pays.
_LARGE = 2**14


def _worth_fusing(projected) -> bool:
    places, units = projected.shape[1:]
    on_tensorflow = keras.backend.backend() == "tensorflow"
    return on_tensorflow and places is not None and places * units >= _LARGE


def _fused(function: Callable, fuse: bool) -> Callable:
    """`function`, compiled by XLA if asked for: what meets the annotations is as fast as memory is read, and XLA reads
    it once where TensorFlow's kernels read and write it for each operation. JAX compiles everything anyway."""
    if not fuse:
        return function
    import tensorflow as tf

    def run(*arguments):
        # What is no tensor is a constant of the compiled function.
        tensors = [x for x in arguments if tf.is_tensor(x)]
        others = [None if tf.is_tensor(x) else x for x in arguments]

        def on_tensors(*given):
            given = iter(given)
            return function(*(next(given) if tf.is_tensor(x) else y for x, y in zip(arguments, others, strict=True)))

        return tf.function(on_tensors, autograph=False, jit_compile=True)(*tensors)

    return run


def _rows(x):
    """(T, B, N, K) -> (T B N, K)."""
    return ops.reshape(x, (-1, x.shape[-1]))


def _of_picture(x):
    """(T, B, N, K) -> (B, T N, K)."""
    x = ops.transpose(x, (1, 0, 2, 3))
    return ops.reshape(x, (ops.shape(x)[0], -1, x.shape[-1]))


__all__ = ["AttentionStep", "attention_lstm", "attention_step", "scan"]
