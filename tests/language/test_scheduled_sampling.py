"""Scheduled sampling: words that the network would have said are what it reads in training."""

from __future__ import annotations

import contextlib

import keras
import numpy as np
import pytest

from keras_cv_lectures.language import AttentionDecoder, Captioner, PlainDecoder
from keras_cv_lectures.text import END, PAD, START, UNKNOWN

VOCABULARY, WIDTH = 9, 5
RNG = np.random.default_rng(3)
ANNOTATIONS = RNG.normal(size=(2, 2, 3, WIDTH)).astype("f4")
# The last caption is one that the second picture lacks.
TOKENS = np.int32([[[1, 4, 5, 6, 7, 2], [1, 8, 3, 2, 0, 0]], [[1, 7, 7, 2, 0, 0], [0, 0, 0, 0, 0, 0]]])


def build(rate, kind=AttentionDecoder, **more):
    keras.utils.set_random_seed(0)
    decoder = kind(VOCABULARY, embedding_units=4, units=6, dropout=0.0, name="decoder", **more)
    image = keras.Input((None, None, WIDTH))
    encoder = keras.Model(image, keras.layers.Identity()(image), name="encoder")
    options = {"max_words": 5, "scheduled_sampling": rate, "doubly_stochastic_weight": 0}
    model = Captioner(encoder, decoder, input_shape=(None, None, WIDTH), **options)
    rng = np.random.default_rng(0)
    for v in decoder.trainable_variables:
        v.assign(rng.normal(size=v.shape))
    return model


def taught(model, tokens, training):
    return np.asarray(model({"annotations": ANNOTATIONS, "tokens": tokens}, training=training)["logits"])


def own_words(logits, tokens):
    """What the network says in the place of every word, by hand."""
    mixed = tokens.copy()
    for place in np.ndindex(*tokens[:, :, 1:].shape):
        b, n, t = place
        if tokens[b, n, t + 1] not in (PAD, START, END):
            allowed = [k for k in range(VOCABULARY) if k not in (PAD, START, END, UNKNOWN)]
            mixed[b, n, t + 1] = max(allowed, key=lambda k: logits[place][k])
    return mixed


@pytest.mark.parametrize(("kind", "more"), [(AttentionDecoder, {}), (PlainDecoder, {})])
def test_always_reads_its_own_words(kind, more):
    model, plain = build(1.0, kind, **more), build(0.0, kind, **more)
    first = taught(plain, TOKENS, training=True)
    mixed = own_words(first, TOKENS)
    assert (mixed != TOKENS).any()
    np.testing.assert_array_equal(model._with_own_words(ANNOTATIONS.reshape(2, 6, WIDTH), TOKENS), mixed)
    np.testing.assert_allclose(taught(model, TOKENS, training=True), taught(plain, mixed, training=True), atol=1e-6)


def test_without_it_and_outside_training_true_words_are_read():
    model, plain = build(1.0), build(0.0)
    assert plain.draws is None
    np.testing.assert_array_equal(taught(model, TOKENS, training=False), taught(plain, TOKENS, training=False))
    np.testing.assert_array_equal(taught(plain, TOKENS, training=True), taught(plain, TOKENS, training=False))


def test_the_share_of_replaced_words_is_the_chance():
    model = build(0.25)
    tokens = np.concatenate([np.ones((2, 300, 1)), 4 + RNG.integers(0, 5, (2, 300, 5))], axis=-1).astype("i4")
    annotations = ANNOTATIONS.reshape(2, 6, WIDTH)
    own = own_words(taught(build(0.0), tokens, training=True), tokens)
    differs = own != tokens
    replaced = np.asarray(model._with_own_words(annotations, tokens)) != tokens
    assert not (replaced & ~differs).any()
    # 3000 draws: a standard deviation is 0.008.
    assert replaced.sum() / differs.sum() == pytest.approx(0.25, abs=0.04)
    again = np.asarray(model._with_own_words(annotations, tokens)) != tokens
    assert (again != replaced).any()


def test_it_trains_on_the_true_words():
    model = build(0.5, attention="hard")
    model.compile(optimizer=keras.optimizers.Adam(0.02))
    history = model.fit(
        {"annotations": np.repeat(ANNOTATIONS, 4, 0), "tokens": np.repeat(TOKENS, 4, 0)},
        np.repeat(TOKENS, 4, 0),
        batch_size=8,
        epochs=30,
        verbose=0,
    ).history
    assert history["cross_entropy"][-1] < 0.5 * history["cross_entropy"][0]


class Assigned(keras.callbacks.Callback):
    """Assigns the chances of the epochs."""

    def __init__(self, chances):
        super().__init__()
        self.chances = chances

    def on_epoch_begin(self, epoch, logs=None):
        self.model.scheduled_sampling = self.chances[epoch]


def fitted(rate, chances, scope=contextlib.nullcontext):
    """The loss of each epoch, one step long, of a network that does not learn."""
    with scope():
        model = build(rate, PlainDecoder)
        model.compile(optimizer=keras.optimizers.SGD(0.0), jit_compile=False)
    data = {"annotations": ANNOTATIONS, "tokens": TOKENS}
    options = {"batch_size": 2, "shuffle": False, "epochs": len(chances), "verbose": 0}
    history = model.fit(data, TOKENS, callbacks=[Assigned(chances)], **options).history["cross_entropy"]
    return model, history


@pytest.mark.replicas
@pytest.mark.parametrize(
    ("rate", "chances", "mirrored"),
    [
        (0.0, (0.0, 1.0, 0.0), False),
        pytest.param(1.0, (1.0, 0.0, 1.0), False, marks=pytest.mark.slow),
        pytest.param(0.0, (0.0, 1.0, 0.0), True, marks=pytest.mark.slow),
    ],
)
def test_a_callback_changes_the_chance_between_epochs(rate, chances, mirrored, replicas):
    """With 0 the true words are read, with 1 the network's own: two losses that no chance is in."""
    plain = build(0.0, PlainDecoder)
    mixed = own_words(taught(plain, TOKENS, training=True), TOKENS)

    def loss(read):
        logits = taught(plain, read, training=True)
        targets, shifted = TOKENS[:, :, 1:], logits - logits.max(-1, keepdims=True)
        cost = np.log(np.exp(shifted).sum(-1)) - np.take_along_axis(shifted, targets[..., None], -1)[..., 0]
        # Of the four captions one is padding.
        return (cost * (targets != PAD)).sum() / 3

    expected = {0.0: loss(TOKENS), 1.0: loss(mixed)}
    assert abs(expected[1.0] - expected[0.0]) > 0.1
    model, history = fitted(rate, chances, replicas.scope if mirrored else contextlib.nullcontext)
    np.testing.assert_allclose(history, [expected[chance] for chance in chances], rtol=1e-5)
    assert model.get_config()["scheduled_sampling"] == chances[-1]


def test_no_file_keeps_the_chance(tmp_path):
    model, other = build(0.5), build(0.0)
    assert len(model.weights) == len(other.weights)
    model.save_weights(tmp_path / "a.weights.h5")
    other.load_weights(tmp_path / "a.weights.h5")
    assert other.scheduled_sampling == 0
    model.scheduled_sampling = 0.75
    model.save(tmp_path / "a.keras")
    assert keras.saving.load_model(tmp_path / "a.keras").scheduled_sampling == 0.75


def test_it_is_part_of_the_description():
    model = build(0.25)
    copy = Captioner.from_config(model.get_config())
    assert copy.scheduled_sampling == 0.25
    assert model.with_search(beam_size=1).scheduled_sampling == 0.25
    for wrong in (-0.1, 1.5):
        with pytest.raises(ValueError, match="`scheduled_sampling` must be a chance"):
            build(wrong)
        with pytest.raises(ValueError, match="`scheduled_sampling` must be a chance"):
            model.scheduled_sampling = wrong
