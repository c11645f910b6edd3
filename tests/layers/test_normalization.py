"""Batch normalisation where a batch has one value a channel, under pure half precision, and with renormalisation."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.layers import SyncBatchNormalization

# Mean 7 and variance 8: divided by sqrt(8 + 1), times 2, plus 1. What the moving statistics become with momentum 0.9.
PAIR = (7 - math.sqrt(8), 7 + math.sqrt(8))
EXPECTED = [1 - 2 * math.sqrt(8) / 3, 1 + 2 * math.sqrt(8) / 3]
AFTER = [0.9 * 3 + 0.1 * 7, 0.9 * 3 + 0.1 * 8]


def _layer():
    """By the moving statistics it gives 2 (x - 3) / sqrt(3 + 1) + 1."""
    layer = SyncBatchNormalization(momentum=0.9, epsilon=1.0)
    layer.build((None, 1, 1, 1))
    layer.set_weights([np.array([value], "float32") for value in (2, 1, 3, 3)])
    return layer


def _vectors(*values):
    return tf.constant(np.reshape(values, (-1, 1, 1, 1)), "float32")


def _statistics(layer):
    return [float(layer.moving_mean[0]), float(layer.moving_variance[0])]


@pytest.fixture(params=["batch known", "batch unknown"])
def called(request):
    """A layer, and what calls it in training."""
    layer = _layer()
    if request.param == "batch known":
        return layer, lambda x: layer(x, training=True)
    signature = [tf.TensorSpec((None, 1, 1, 1))]
    return layer, tf.function(lambda x: layer(x, training=True), input_signature=signature, autograph=False)


def test_one_value_a_channel_is_normalised_with_the_moving_statistics_and_leaves_them(called):
    layer, call = called
    x = _vectors(7)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = call(x)
    np.testing.assert_allclose(np.ravel(y), [5], rtol=1e-6)
    np.testing.assert_allclose(np.ravel(tape.gradient(y, x)), [2 / 2], rtol=1e-6)
    assert _statistics(layer) == [3, 3]


def test_two_values_a_channel_are_a_batch(called):
    layer, call = called
    np.testing.assert_allclose(np.ravel(call(_vectors(*PAIR))), EXPECTED, rtol=1e-6)
    np.testing.assert_allclose(_statistics(layer), AFTER, rtol=1e-6)


@pytest.mark.parametrize(("values", "expected"), [(PAIR, EXPECTED), ((7,), [5])])
def test_replicas_count_the_global_batch(replicas, values, expected):
    """One vector on each of two replicas is a batch of two; one on the first and none on the second is a single one."""
    with replicas.scope():
        layer = _layer()
    shares = [_vectors(*values[k : k + 1]) for k in (0, 1)]
    given = replicas.experimental_distribute_values_from_function(lambda c: shares[c.replica_id_in_sync_group])
    step = tf.function(lambda x: layer(x, training=True), autograph=False)
    got = np.concatenate([np.ravel(y) for y in replicas.experimental_local_results(replicas.run(step, (given,)))])
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    np.testing.assert_allclose(_statistics(layer), AFTER if len(values) == 2 else [3, 3], rtol=1e-6)


def test_renormalisation_is_that_of_keras():
    x = np.random.default_rng(0).normal(2.0, 3.0, (2, 5, 4, 3)).astype("float32")
    layers = [kind(renorm=True) for kind in (keras.layers.BatchNormalization, SyncBatchNormalization)]
    expected, got = ([layer(x, training=True), *layer.weights] for layer in layers)
    for one, other in zip(expected, got, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
