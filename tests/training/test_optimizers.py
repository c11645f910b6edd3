"""The optimizers of the trainer by hand: what weight decay takes off a weight, and when a rate falls."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.errors import KcvlWarning
from keras_cv_lectures.recipe import TrainingOptions
from keras_cv_lectures.training.checks import warn_of_a_rate_that_stays
from keras_cv_lectures.training.optimizers import make_optimizer, make_schedule

RATE, DECAY, MOMENTUM = 0.1, 0.5, 0.9


def made(scope=contextlib.nullcontext, **more):
    """The optimizer, a kernel and a bias, both (3, 4)."""
    options = {"optimizer": "sgd", "learning_rate": RATE, "weight_decay": DECAY, "momentum": MOMENTUM}
    with scope():
        variables = [keras.Variable(np.float32([3.0, 4.0]), name=name) for name in ("kernel", "bias")]
        optimizer = make_optimizer(
            TrainingOptions(**{**options, "schedule": "constant", "warmup_epochs": 0, **more}), steps_per_epoch=10
        )
        optimizer.build(variables)
    return optimizer, variables


def by_hand(gradients, decay):
    """v = 0.9 v + (g + decay w), w -= 0.1 v, as PyTorch's SGD has it."""
    weight, velocity = np.array([3.0, 4.0]), np.zeros(2)
    for gradient in gradients:
        velocity = MOMENTUM * velocity + gradient + decay * weight
        weight = weight - RATE * velocity
    return weight


GRADIENTS = np.float32([[1.0, -2.0], [0.5, 0.0], [0.0, 3.0]])


def test_decay_of_sgd_is_part_of_the_gradient():
    optimizer, variables = made()
    for gradient in GRADIENTS:
        optimizer.apply([gradient, gradient], variables)
    for variable, decay in zip(variables, (DECAY, 0.0), strict=True):
        np.testing.assert_allclose(variable, by_hand(GRADIENTS, decay), rtol=1e-5)


def test_clipping_comes_before_the_decay():
    """The gradient (6, 8) of norm 10 is clipped to (0.6, 0.8), and the decay of (3, 4) adds (1.5, 2)."""
    optimizer, (kernel, _) = made(clip_norm=1.0)
    optimizer.apply([np.float32([6, 8]), np.zeros(2, "float32")])
    np.testing.assert_allclose(kernel, [3 - 0.1 * 2.1, 4 - 0.1 * 2.8], rtol=1e-6)


def test_accumulated_gradients_decay_once():
    optimizer, (kernel, _) = made(accumulate=2)
    for gradient in ([2.0, 0.0], [0.0, 2.0]):
        optimizer.apply([np.float32(gradient)] * 2)
    np.testing.assert_allclose(kernel, by_hand([np.ones(2)], DECAY), rtol=1e-6)


@pytest.mark.replicas
@pytest.mark.parametrize("clip_norm", [None, 100.0])
def test_replicas_decay_once(replicas, clip_norm):
    optimizer, variables = made(replicas.scope, clip_norm=clip_norm)

    def step(shares):
        share = shares[tf.distribute.get_replica_context().replica_id_in_sync_group]
        optimizer.apply([share, 1.0 * share], variables)

    for gradient in GRADIENTS:
        shares = tf.constant([0.25 * gradient, 0.75 * gradient])
        replicas.run(tf.function(lambda shares=shares: step(shares)))
    for variable, decay in zip(variables, (DECAY, 0.0), strict=True):
        np.testing.assert_allclose(variable, by_hand(GRADIENTS, decay), rtol=1e-5)


def test_the_gradient_of_a_table_decays_all_its_rows():
    optimizer, (table, _) = made()
    optimizer.apply([tf.IndexedSlices(tf.constant([1.0]), tf.constant([1]), tf.constant([2])), tf.zeros(2)])
    np.testing.assert_allclose(table, by_hand([np.array([0.0, 1.0])], DECAY), rtol=1e-6)


@pytest.mark.parametrize("momentum", [0, 1])
def test_momentum_may_be_a_whole_number(momentum):
    """As the command line reads it. Two steps of a gradient of 1 at a rate of 1/8: 1 + 1 of them, or 1 + 2."""
    optimizer, (kernel, _) = made(momentum=momentum, weight_decay=0.0, learning_rate=0.125)
    for _ in range(2):
        optimizer.apply([np.ones(2, "float32")] * 2)
    np.testing.assert_allclose(kernel, [3 - (2 + momentum) * 0.125, 4 - (2 + momentum) * 0.125])


def test_it_is_kept_in_a_file():
    again = keras.optimizers.deserialize(keras.optimizers.serialize(made()[0]))
    assert (type(again).__name__, again.weight_decay, again.momentum) == ("PenalizedSGD", DECAY, MOMENTUM)


def test_a_rate_that_falls_by_hand():
    """Ten steps an epoch: up until step 5, a fifth from 20 on and a fifth of that from 25 on."""
    options = TrainingOptions(
        learning_rate=1.0, schedule="steps", milestones=(2, 2.5), milestone_factor=0.2, epochs=4, warmup_epochs=0.5
    )
    schedule = make_schedule(options, 10)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    expected = {0: 0, 2: 0.4, 5: 1, 19: 1, 20: 0.2, 24: 0.2, 25: 0.04, 50: 0.04}
    for rate in (schedule, again):
        assert {step: float(rate(step)) for step in expected} == pytest.approx(expected)
    one = make_schedule(dataclasses.replace(options, milestones=3, warmup_epochs=0), 10)
    assert [float(one(step)) for step in (0, 29, 30)] == pytest.approx([1, 1, 0.2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "steps"}, "`milestones` must be the epochs.*Received: milestones=\\(\\), schedule='steps'"),
        ({"schedule": "steps", "milestones": (11, 8)}, "`milestones` must be the epochs, in ascending order"),
        ({"schedule": "steps", "milestones": "12"}, "`milestones` must be the epochs"),
        ({"schedule": "steps", "milestones": -1}, "`milestones` must be the epochs"),
        ({"schedule": "steps", "milestones": 3, "milestone_factor": 10}, "`milestone_factor` must be between 0 and 1"),
    ],
)
def test_milestones_that_are_none(options, message):
    with pytest.raises(ValueError, match=message):
        TrainingOptions(**options)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"schedule": "steps", "milestones": (16, 22), "epochs": 12}, True),
        ({"schedule": "steps", "milestones": 12, "epochs": 12}, True),
        ({"schedule": "steps", "milestones": (11.5, 22), "epochs": 12}, False),
        ({"schedule": "cosine", "milestones": (16, 22), "epochs": 12}, False),
    ],
)
def test_a_rate_that_never_falls_is_told(options, told):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", KcvlWarning)
        warn_of_a_rate_that_stays(TrainingOptions(**options))
    assert [str(w.message).startswith("the rate never falls: milestones=") for w in found] == [True] * told
