"""How a captioner is fitted: weights of captions, an optimizer's view of the embedding, float16, a changed search."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_captioners import captions, loss_of, make, pictures, policy

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.language import decoders, plain_decoder

LossScale = keras.optimizers.LossScaleOptimizer


@pytest.fixture(scope="module")
def batch():
    tokens = captions()
    return {"image": pictures(), "tokens": tokens}, tokens


def rows(batch, chosen):
    x, y = batch
    return {name: value[chosen] for name, value in x.items()}, y[chosen]


# Sample weights


def test_a_picture_of_weight_two_is_two_pictures(batch):
    """In training, with an entropy and a baseline; nothing is drawn, which would differ from row to row."""
    found = []
    for chosen, weights in (([0, 1, 2, 3], np.float32([2, 0, 1, 3])), ([0, 0, 2, 3, 3, 3], None)):
        model = make("hard", decoder={"expected": 1.0}, entropy_weight=0.5, label_smoothing=0.1)
        x, y = rows(batch, chosen)
        loss, parts = loss_of(model, x, y, training=True, sample_weight=weights)
        found.append({"loss": loss, "baseline": float(model.baseline), **parts})
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0]["baseline"] > 0


def test_weights_of_captions_are_divided_by_their_sum(batch):
    model, (x, y) = make("soft"), batch
    present = np.array([[1, 0], [0, 1], [1, 1], [0, 0]])
    # A caption of weight 0 is one that the picture lacks; and so small weights are as good as large ones.
    lacking = y * present[..., None]
    expected = loss_of(model, {**x, "tokens": lacking}, lacking)
    for scale in (1.0, 0.01):
        loss, parts = loss_of(model, x, y, sample_weight=np.float32(scale * present))
        assert loss == pytest.approx(expected[0], rel=1e-5)
        assert parts == pytest.approx(expected[1], rel=1e-5)


def test_keras_hands_the_weights_over(batch):
    model, (x, y) = make("plain"), batch
    model.compile(run_eagerly=True)
    weights = np.float32([0.5, 0, 0, 2])
    got = model.evaluate(x, y, sample_weight=weights, batch_size=4, verbose=0, return_dict=True)
    assert got["loss"] == pytest.approx(loss_of(model, x, y, sample_weight=weights)[0], rel=1e-5)
    assert got["loss"] != pytest.approx(loss_of(model, x, y)[0], rel=1e-3)


@pytest.mark.parametrize("shape", [(4, 3), (4, 2, 5)])
def test_other_weights_are_refused(batch, shape):
    model, (x, y) = make("plain"), batch
    with pytest.raises(ValueError, match=r"`sample_weight`.*\(B, N\), here N = 2.*Received.*\(4, "):
        loss_of(model, x, y, sample_weight=np.ones(shape, "float32"))


# The weight of the doubly stochastic term


def test_weights_that_give_the_terms_of_others(batch):
    x, y = batch
    model = make("soft")
    found = model(x)
    mask = y[:, :, 1:] > 0
    far = np.square(1 - (np.asarray(found["attention"]) * mask[..., None]).sum(2))  # (B, N, places)
    places, count, words = far.shape[-1], mask.shape[0] * mask.shape[1], mask.sum() / (mask.shape[0] * mask.shape[1])
    for weight, term, scale in (
        (places, far.sum(-1).mean(), 1),  # the paper's formula, a sum over places, of each caption
        (count, far.mean(-1).sum(), 1),  # its code: a sum over the batch
        (words, far.mean(), words),  # the tutorial: beside a cross entropy that is a mean over words
    ):
        model.weights_of_losses["doubly_stochastic_weight"] = float(weight)
        loss, parts = loss_of(model, x, y)
        assert loss / scale == pytest.approx(parts["cross_entropy"] / scale + term, rel=1e-5)


@pytest.mark.parametrize("training", [False, True], ids=["evaluating", "training"])
def test_factors_of_compile_are_of_the_parts_of_the_loss(batch, training):
    """Beside the model's own weights; the history has the parts without them."""
    model, (x, y) = make("hard", decoder={"expected": 1.0}, doubly_stochastic_weight=3.0), batch
    plain, parts = loss_of(model, x, y, training=training)
    model.baseline.assign(0.0)
    factors = {"cross_entropy": 0.5, "doubly_stochastic": 2.0, "reinforce": -1.0}
    model.compile(loss_weights=factors, run_eagerly=True)
    loss, again = loss_of(model, x, y, training=training)
    assert again == pytest.approx(parts, rel=1e-5)
    terms = [parts["cross_entropy"], 3 * parts["doubly_stochastic"], parts["reinforce"] if training else 0.0]
    assert plain == pytest.approx(sum(terms), rel=1e-5)
    assert loss == pytest.approx(0.5 * terms[0] + 2 * terms[1] - terms[2], rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "mse"}, "captioner brings its losses itself: cross_entropy, doubly_stochastic. Received: loss='mse'"),
        ({"metrics": ["accuracy"]}, r"takes no `metrics`.*with `kcvl\.evaluate_captioning`"),
        ({"loss_weights": {"word_accuracy": 1.0}}, "which are cross_entropy, doubly_stochastic. Received: .*word_acc"),
    ],
)
def test_compile_refuses_what_has_no_effect(arguments, message):
    with pytest.raises(ModelError, match=message):
        make("soft").compile("adam", **arguments)


# What is missing


@pytest.mark.parametrize("lacking", ["tokens", "targets", "axis"])
def test_captions_are_inputs_and_targets(batch, lacking):
    model, (x, y) = make("plain"), batch
    model.compile(run_eagerly=True)
    given, words = {
        "tokens": ((x["image"], y), "inputs without tokens"),
        "targets": ((x,), "inputs with tokens and targets of shape None"),
        "axis": ((x, y[:, 0]), r"targets of shape \(4, 6\)"),
    }[lacking]
    with pytest.raises(ModelError, match=r'`fit\(\{"image": pictures, "tokens": tokens\}, tokens\)`.*' + words):
        model.fit(*given, batch_size=4, verbose=0)


# Copies


def test_a_copy_is_made_from_the_configuration(batch):
    """And not by Keras's `clone_model`, whose model has no losses."""
    (x, y), model = batch, make("plain")
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    assert loss_of(copy, x, y) == loss_of(model, x, y)
    assert not isinstance(keras.models.clone_model(model), type(model))


# What an optimizer sees


@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [
        ("soft", lambda: keras.optimizers.SGD(1.0, global_clipnorm=0.1)),
        ("plain", lambda: keras.optimizers.Adam(0.01, epsilon=0.1)),
    ],
    ids=["clipped", "adam"],
)
def test_a_word_that_occurs_often_is_one_word_for_the_optimizer(monkeypatch, kind, optimizer):
    """The same step with the embedding as a matrix product, whose gradient is that of the whole table."""
    tokens = np.full((4, 2, 6), 5, "int32")
    tokens[:, :, 0], tokens[:, :, 3] = 1, 7
    x = {"image": np.full((4, 16, 24, 3), 200, "uint8"), "tokens": tokens}

    def product(embedding, tokens):
        return tf.one_hot(tokens, embedding.input_dim) @ tf.convert_to_tensor(embedding.embeddings)

    after = []
    for replaced in (False, True):
        if replaced:
            monkeypatch.setattr(decoders, "look_up", product)
            monkeypatch.setattr(plain_decoder, "look_up", product)
        model = make(kind)
        model.compile(optimizer(), run_eagerly=True)
        before = np.asarray(model.decoder.embedding.embeddings)
        model.train_on_batch(x, tokens)
        after.append([np.asarray(v) for v in model.trainable_variables])
        moved = np.abs(np.asarray(model.decoder.embedding.embeddings) - before).max(1) > 0
        np.testing.assert_array_equal(np.flatnonzero(moved), [1, 5, 7])
    for one, other in zip(*after, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


# Precision


def test_float16_scales_its_loss_and_other_precisions_do_not(batch, tmp_path):
    x, y = batch
    with policy("mixed_float16"):
        model = make("soft")
    model.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
    assert isinstance(model.optimizer, LossScale)
    assert np.isfinite(model.train_on_batch(x, y)).all()
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(again.optimizer, LossScale)
    assert isinstance(again.optimizer.inner_optimizer, keras.optimizers.Adam)
    assert int(again.optimizer.iterations) == int(model.optimizer.iterations) == 1
    model.compile("adam", auto_scale_loss=False)
    assert not isinstance(model.optimizer, LossScale)
    model.compile(LossScale(keras.optimizers.SGD(), initial_scale=8.0))
    assert isinstance(model.optimizer.inner_optimizer, keras.optimizers.SGD)
    with policy("mixed_bfloat16"):
        model = make("plain")
    model.compile("adam")
    assert not isinstance(model.optimizer, LossScale)


def test_a_decoder_in_float16_is_enough():
    model = make("plain", decoder={"dtype": "mixed_float16"})
    model.compile("adam")
    assert isinstance(model.optimizer, LossScale)


# Another search


def test_with_search_carries_the_baseline_over():
    model = make("hard")
    model.baseline.assign(3.5)
    greedy = model.with_search(beam_size=1)
    assert float(greedy.baseline) == 3.5
    greedy.baseline.assign(1.0)
    assert float(model.baseline) == 3.5
