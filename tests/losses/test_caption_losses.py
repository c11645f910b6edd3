"""Losses of captioning: NumPy, numbers by hand, and REINFORCE against the exact gradient of the bound."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.language import AttentionDecoder, attention_step
from keras_cv_lectures.losses.captions import doubly_stochastic, reinforce_attention, word_cross_entropy

RNG = np.random.default_rng(0)


def test_cross_entropy_is_that_of_numpy_and_0_where_no_word_is():
    logits = 3 * RNG.normal(size=(2, 3, 4, 7)).astype("float32")
    targets = RNG.integers(0, 7, (2, 3, 4))
    mask = np.arange(4) < RNG.integers(0, 5, (2, 3, 1))
    shifted = logits - logits.max(-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    expected = -np.take_along_axis(logs, targets[..., None], -1)[..., 0] * mask
    np.testing.assert_allclose(word_cross_entropy(logits, targets, mask.astype("float32")), expected, atol=2e-6)


def test_cross_entropy_by_hand():
    logits = np.log([[[3.0, 1.0], [1.0, 1.0]]]).astype("float32")
    np.testing.assert_allclose(
        word_cross_entropy(logits, [[0, 1]], np.ones((1, 2), "float32")), [[-np.log(0.75), np.log(2)]], rtol=1e-6
    )


def test_doubly_stochastic_by_hand():
    attention = np.array([[[0.5, 0.5], [1.0, 0.0], [0.25, 0.75]]], "float32")
    # Places get 1.5 and 0.5 in two words, 1.75 and 1.25 in three, nothing in none.
    for words, expected in ((2, 0.25), (3, (0.75**2 + 0.25**2) / 2), (0, 1.0)):
        mask = (np.arange(3) < words).astype("float32")[None]
        np.testing.assert_allclose(doubly_stochastic(attention, mask), [expected], rtol=1e-6)


def test_reinforce_by_hand():
    attention = tf.constant([[[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]]])
    used = np.array([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]], "float32")
    mask = np.array([[1.0, 1.0, 0.0]], "float32")
    cost = tf.constant([3.0])
    with tf.GradientTape() as tape:
        tape.watch([attention, cost])
        value = reinforce_attention(cost, 1.0, attention, used, mask, reward_weight=0.1)
    np.testing.assert_allclose(value, [0.1 * 2 * np.log(0.2 * 0.5)], rtol=1e-6)
    to_attention, to_cost = tape.gradient(value, [attention, cost])
    # weight * (cost - baseline) / probability at what was drawn, and nowhere else; the reward is no path.
    np.testing.assert_allclose(to_attention[0], [[0.2 / 0.2, 0], [0, 0.2 / 0.5], [0, 0]], rtol=1e-6)
    assert to_cost is None


def test_entropy_by_hand():
    attention = tf.constant([[[0.25, 0.75], [0.5, 0.5]]])
    mask, zeros = np.array([[1.0, 0.0]], "float32"), np.zeros((1, 2, 2), "float32")
    with tf.GradientTape() as tape:
        tape.watch(attention)
        value = reinforce_attention(tf.zeros(1), 0.0, attention, zeros, mask, reward_weight=1.0, entropy_weight=0.5)
    np.testing.assert_allclose(value, [0.5 * (0.25 * np.log(0.25) + 0.75 * np.log(0.75))], rtol=1e-6)
    expected = [0.5 * (np.log(0.25) + 1), 0.5 * (np.log(0.75) + 1)]
    np.testing.assert_allclose(tape.gradient(value, attention)[0], [expected, [0, 0]], rtol=1e-6)


def test_a_place_that_cannot_be_drawn_gives_no_nan():
    attention = tf.constant([[[0.0, 1.0]]])
    with tf.GradientTape() as tape:
        tape.watch(attention)
        value = reinforce_attention(
            tf.ones(1), 0.0, attention, tf.constant([[[0.0, 1.0]]]), tf.ones((1, 1)), entropy_weight=0.1
        )
    assert np.isfinite(value).all()
    assert np.isfinite(tape.gradient(value, attention)).all()


# Hard attention over 3 places and 2 words: 9 sequences of places can be enumerated.

PLACES, STEPS = 3, 2
SEQUENCES = np.array(list(itertools.product(range(PLACES), repeat=STEPS)))
ONE_HOT = np.eye(PLACES, dtype="float32")[SEQUENCES]


class Case:
    """A hard decoder, one picture and one caption, and the exact gradient of the variational bound."""

    def __init__(self):
        sizes = {"embedding_units": 3, "units": 4, "attention_units": 3}
        self.decoder = AttentionDecoder(6, **sizes, attention="hard", gate=None, dropout=0.0, expected=0.0, seed=3)
        self.decoder.build((None, None, 5))
        generator = np.random.default_rng(5)
        for v in self.decoder.trainable_variables:
            v.assign(generator.normal(size=v.shape))
        # Where one looks matters.
        for v in (self.decoder.context_kernel, self.decoder.readout_context.kernel):
            v.assign(2 * v)
        self.annotations = tf.constant(2 * generator.normal(size=(1, PLACES, 5)), "float32")
        self.tokens = np.array([[[1, 4, 2]]], "int32")
        self.variables = [v.value for v in self.decoder.trainable_variables]
        self.of_attention = np.concatenate(
            [np.full(int(np.prod(v.shape)), "attention/" in v.path) for v in self.decoder.trainable_variables]
        )

    def along(self, places):
        """(cost, log probabilities (STEPS, PLACES)), from plain steps that look at the given places (STEPS, PLACES)."""
        decoder = self.decoder
        memory = decoder.prepare(self.annotations)
        hidden, cell = decoder.begin(memory, 1)
        cost, logs = 0.0, []
        for t in range(STEPS):
            words = decoder.embedding(self.tokens[:, :, t])
            given = places[t][None, None]
            step = attention_step(
                memory, decoder._word_part(words), hidden, cell, activation="tanh", choose=lambda w, x=given: x
            )
            hidden, cell = step.hidden, step.cell
            logits = decoder._logits(hidden, words, step.context, False)
            cost -= tf.nn.log_softmax(logits)[0, 0, self.tokens[0, 0, t + 1]]
            logs.append(tf.math.log(step.weights[0, 0]))
        return cost, tf.stack(logs)

    @tf.function(autograph=False)
    def exact(self):
        """Gradient of -sum_s p(s) log p(y | s), the costs (9,) and the chances (9,)."""
        with tf.GradientTape() as tape:
            costs, logs = (tf.stack(x) for x in zip(*(self.along(s) for s in ONE_HOT), strict=True))
            chances = tf.exp(tf.reduce_sum(logs * ONE_HOT, axis=(1, 2)))
            bound = tf.reduce_sum(chances * costs)
        return self.flat(tape.gradient(bound, self.variables)), costs, chances

    @tf.function(autograph=False)
    def estimate(self, places, baseline, reward_weight):
        """The estimator, if these places are drawn."""
        with tf.GradientTape() as tape:
            cost, logs = self.along(places)
            surrogate = reinforce_attention(
                cost, baseline, tf.exp(logs), places, tf.ones(STEPS), reward_weight=reward_weight
            )
            loss = cost + surrogate
        return self.flat(tape.gradient(loss, self.variables))

    def estimates(self, baseline, reward_weight=1.0):
        """The estimator for each of the 9 sequences that may be drawn: (9, parameters)."""
        settings = tf.constant(baseline, "float32"), tf.constant(reward_weight, "float32")
        return np.stack([self.estimate(tf.constant(s), *settings).numpy() for s in ONE_HOT]).astype("float64")

    def sampled(self, count, baseline):
        """The mean of the estimator over `count` draws of the decoder itself, and the places it drew."""
        tokens = np.tile(self.tokens, (1, count, 1))
        mask = np.ones((1, count, STEPS), "float32")
        with tf.GradientTape() as tape:
            found = self.decoder.teach(self.annotations, tokens, training=True)
            cost = tf.reduce_sum(word_cross_entropy(found["logits"], tokens[:, :, 1:], mask), -1)
            surrogate = reinforce_attention(cost, tf.cast(baseline, "float32"), found["attention"], found["used"], mask)
            loss = tf.reduce_mean(cost + surrogate)
        assert float(found["drawn"]) == 1
        return self.flat(tape.gradient(loss, self.variables)).numpy(), np.argmax(found["used"], -1)[0]

    def flat(self, gradients):
        return tf.concat([tf.reshape(tf.convert_to_tensor(g), [-1]) for g in gradients], axis=0)


@pytest.fixture(scope="module")
def case():
    return Case()


@pytest.fixture(scope="module")
def exact(case):
    return tuple(np.asarray(x, "float64") for x in case.exact())


def variance(estimates, chances):
    mean = chances @ estimates
    return chances @ ((estimates - mean) ** 2)


def test_the_estimators_expectation_is_the_exact_gradient_whatever_the_baseline(case, exact):
    gradient, costs, chances = exact
    np.testing.assert_allclose(chances.sum(), 1, atol=1e-6)
    assert np.ptp(costs) > 0.5
    for baseline in (0.0, chances @ costs, -5.0):
        expected = chances @ case.estimates(baseline)
        np.testing.assert_allclose(expected, gradient, atol=5e-6 * np.abs(gradient).max())


def test_without_the_reward_attention_learns_nothing(case, exact):
    gradient, _, chances = exact
    without = chances @ case.estimates(0.0, reward_weight=0.0)
    assert np.abs(gradient[case.of_attention]).max() > 0.1
    assert not without[case.of_attention].any()


def test_the_baseline_lowers_the_variance(case, exact):
    _, costs, chances = exact
    mean = chances @ costs
    with_baseline, without = (variance(case.estimates(b), chances).sum() for b in (mean, 0.0))
    assert with_baseline < 0.7 * without


def test_the_mean_over_many_draws_of_the_decoder_is_the_exact_gradient(case, exact):
    gradient, costs, chances = exact
    baseline, count = chances @ costs, 4000
    mean, drawn = case.sampled(count, baseline)
    frequencies = np.array([np.mean((drawn == s).all(-1)) for s in SEQUENCES])
    np.testing.assert_allclose(frequencies, chances, atol=4 * np.sqrt(0.25 / count))
    deviations = np.sqrt(variance(case.estimates(baseline), chances) / count)
    np.testing.assert_array_less(np.abs(mean - gradient), 5 * deviations + 1e-5)
    # Few enough that the bound says something.
    assert np.linalg.norm(mean - gradient) < 0.1 * np.linalg.norm(gradient)
