"""Decoders: a recorded PyTorch network, what the papers say of them, and steps that equal the whole sentence."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.language import AttentionDecoder, PlainDecoder, beam_search
from keras_cv_lectures.losses.captions import doubly_stochastic, word_cross_entropy

RNG = np.random.default_rng(0)
TUTORIAL = {
    "attention_activation": "relu",
    "query_bias": True,
    "gate": "vector",
    "begin_depth": 1,
    "begin_activation": None,
    "readout": "plain",
}
ATTENTION = [{}, TUTORIAL, {"attention": "hard"}, {"attention": "mean"}, {"gate": None, "attention_depth": 2}]
PLAIN = [{}, {"picture": "every", "layers": 2}, {"picture": "first", "layers": 2, "picture_activation": "relu"}]


def build(kind, options, vocabulary=11, width=6):
    sizes = {"embedding_units": 5, "units": 7, "dropout": 0.0, "seed": 0}
    if kind is AttentionDecoder:
        sizes |= {"attention_units": 4}
    decoder = kind(vocabulary, **{**sizes, **options})
    decoder.build((None, None, width))
    for v in decoder.trainable_variables:
        v.assign(0.7 * RNG.normal(size=v.shape))
    return decoder


def captions(batch, count, words, vocabulary=11):
    tokens = RNG.integers(4, vocabulary, (batch, count, words + 1)).astype("int32")
    tokens[:, :, 0] = 1
    return tokens


def annotations(batch=2, places=9, width=6):
    return RNG.normal(size=(batch, places, width)).astype("float32")


DECODERS = pytest.mark.parametrize(
    ("kind", "options"), [*((AttentionDecoder, x) for x in ATTENTION), *((PlainDecoder, x) for x in PLAIN)]
)


# A recorded network


@pytest.fixture(scope="module")
def recorded(golden):
    """The PyTorch tutorial's decoder with recorded weights, and what was recorded of it."""
    arrays, cfg = golden("model_caption_tiny")
    value = {name.removeprefix("param/"): x for name, x in arrays.items() if name.startswith("param/")}
    words, embedding = value["embedding.weight"].shape
    decoder = AttentionDecoder(
        words,
        embedding_units=embedding,
        units=value["init_h.weight"].shape[0],
        attention_units=value["encoder_att.weight"].shape[0],
        dropout=0.0,
        **TUTORIAL,
    )
    decoder.build(arrays["in/features"].shape)
    for layer, name in (
        (decoder.attention.annotation_layers[0], "encoder_att"),
        (decoder.attention.query_layer, "decoder_att"),
        (decoder.begin_hidden, "init_h"),
        (decoder.begin_cell, "init_c"),
        (decoder.gate, "f_beta"),
        (decoder.vocabulary, "fc"),
    ):
        layer.kernel.assign(value[f"{name}.weight"].T)
        layer.bias.assign(value[f"{name}.bias"])
    # The score's bias moves all places alike and is left out.
    decoder.attention.score.assign(value["full_att.weight"][0])
    decoder.embedding.embeddings.assign(value["embedding.weight"])
    of_inputs = value["cell.weight_ih"].T
    decoder.word_kernel.assign(of_inputs[:embedding])
    decoder.context_kernel.assign(of_inputs[embedding:])
    decoder.recurrent_kernel.assign(value["cell.weight_hh"].T)
    decoder.bias.assign(value["cell.bias_ih"] + value["cell.bias_hh"])
    return decoder, arrays, cfg


@pytest.mark.golden
def test_logits_attention_losses_and_gradients_are_the_recorded_ones(recorded):
    decoder, arrays, _ = recorded
    tokens = arrays["in/words"][:, None].astype("int32")
    ones = np.ones(tokens[:, 0, 1:].shape, "float32")
    with tf.GradientTape() as tape:
        found = decoder.teach(tf.constant(arrays["in/features"]), tokens)
        cost = tf.reduce_mean(word_cross_entropy(found["logits"][:, 0], tokens[:, 0, 1:], ones))
        places = tf.reduce_mean(doubly_stochastic(found["attention"][:, 0], ones))
        loss = cost + places
    np.testing.assert_allclose(found["logits"][:, 0], arrays["out/logits"], atol=1e-5)
    np.testing.assert_allclose(found["attention"][:, 0], arrays["out/alphas"], atol=1e-6)
    np.testing.assert_allclose(cost, arrays["out/nll"], rtol=1e-6)
    np.testing.assert_allclose(places, arrays["out/alpha_reg"], rtol=1e-5)
    query, word, context = tape.gradient(
        loss, [decoder.attention.query_layer.kernel.value, decoder.word_kernel.value, decoder.context_kernel.value]
    )
    for got, name in ((query, "decoder_att.weight"), (tf.concat([word, context], 0), "cell.weight_ih")):
        expected = arrays[f"grad/{name}"]
        np.testing.assert_allclose(tf.transpose(got), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.golden
def test_beams_are_the_recorded_ones(recorded):
    decoder, arrays, cfg = recorded
    features = tf.constant(arrays["in/features"])
    batch, places, _ = features.shape
    memory = decoder.prepare(features)
    found = beam_search(
        lambda state, tokens: decoder.step(memory, state, tokens),
        decoder.begin(memory, cfg["beam"]),
        batch=batch,
        beams=cfg["beam"],
        max_words=cfg["max_steps"],
        start=cfg["start"],
        end=cfg["end"],
        banned=(),
        places=places,
    )
    for i in range(batch):
        expected, ended = arrays[f"out/beam{i}"], bool(arrays[f"out/beam{i}_finished"])
        assert expected[0] == cfg["start"]
        words = expected[1:]
        tokens = np.asarray(found["tokens"][i, 0])
        np.testing.assert_array_equal(tokens[: len(words)], words)
        assert not tokens[len(words) :].any()
        assert int(found["length"][i, 0]) == len(words) - ended
        np.testing.assert_allclose(found["log_probability"][i, 0], arrays[f"out/beam{i}_logp"], rtol=1e-5)


# What the papers say


@DECODERS
def test_step_by_step_equals_all_words_at_once(kind, options):
    decoder, seen, tokens = build(kind, options), annotations(), captions(2, 3, 4)
    whole = decoder.teach(seen, tokens)
    memory = decoder.prepare(seen)
    state = decoder.begin(memory, 3)
    for t in range(4):
        logits, state, weights = decoder.step(memory, state, tokens[:, :, t])
        np.testing.assert_allclose(logits, whole["logits"][:, :, t], atol=5e-6)
        if weights is None:
            assert "attention" not in whole
        else:
            np.testing.assert_allclose(weights, whole["attention"][:, :, t], atol=1e-6)


@DECODERS
def test_captions_of_a_picture_and_pictures_of_a_batch_do_not_meet(kind, options):
    decoder, seen, tokens = build(kind, options), annotations(), captions(2, 3, 4)
    whole = decoder.teach(seen, tokens)["logits"]
    for b, n in ((0, 1), (1, 2)):
        alone = decoder.teach(seen[b : b + 1], tokens[b : b + 1, n : n + 1])["logits"]
        np.testing.assert_allclose(alone[0, 0], whole[b, n], atol=5e-6)


@DECODERS
def test_words_do_not_see_what_follows(kind, options):
    decoder, seen, tokens = build(kind, options), annotations(), captions(2, 3, 4)
    before = decoder.teach(seen, tokens)["logits"]
    tokens[:, :, 2] = 3
    after = np.abs(decoder.teach(seen, tokens)["logits"] - before).max((0, 1, 3))
    assert after[:2].max() == 0
    assert after[2:].min() > 1e-3


@DECODERS
def test_a_decoder_is_described_by_its_config(kind, options):
    decoder, seen, tokens = build(kind, options), annotations(), captions(2, 1, 3)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(decoder))
    again.set_weights(decoder.get_weights())
    np.testing.assert_array_equal(again.teach(seen, tokens)["logits"], decoder.teach(seen, tokens)["logits"])


@pytest.mark.parametrize("options", [x for x in ATTENTION if x.get("attention") != "mean"])
def test_attention_sums_to_one_and_changes_with_the_words(options):
    decoder = build(AttentionDecoder, options)
    weights = np.asarray(decoder.teach(annotations(), captions(2, 3, 4))["attention"])
    assert weights.shape == (2, 3, 4, 9)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    assert weights.min() >= 0
    assert np.abs(np.diff(weights, axis=2)).max(-1).min() > 1e-4


def test_without_attention_only_the_mean_annotation_counts():
    seen, tokens = annotations(), captions(2, 1, 3)
    shuffled = np.concatenate([seen[:, 4:], seen[:, :4]], axis=1)
    mean = build(AttentionDecoder, {"attention": "mean"})
    logits = mean.teach(seen, tokens)["logits"]
    np.testing.assert_allclose(mean.teach(shuffled, tokens)["logits"], logits, atol=1e-5)
    np.testing.assert_allclose(mean.teach(seen.mean(1, keepdims=True), tokens)["logits"], logits, atol=1e-5)


def test_annotations_are_projected_once_a_picture(monkeypatch):
    decoder = build(AttentionDecoder, {})
    calls = []
    project = decoder.attention.project
    monkeypatch.setattr(decoder.attention, "project", lambda x: (calls.append(tuple(x.shape)), project(x))[1])
    seen = annotations()
    decoder.teach(seen, captions(2, 5, 4))
    assert calls == [(2, 9, 6)]
    memory = decoder.prepare(seen)
    state = decoder.begin(memory, 3)
    for _ in range(3):
        _, state, _ = decoder.step(memory, state, np.full((2, 3), 5, "int32"))
    assert calls == [(2, 9, 6)] * 2


def test_deep_projection_is_linear_then_tanh():
    decoder, seen = build(AttentionDecoder, {"attention_depth": 2}), annotations()
    first, second = decoder.attention.annotation_layers
    linear = seen @ np.asarray(first.kernel) + np.asarray(first.bias)
    expected = np.tanh(linear @ np.asarray(second.kernel) + np.asarray(second.bias))
    np.testing.assert_allclose(decoder.prepare(seen)[1], expected, atol=1e-6)


def test_the_first_state_is_tanh_of_a_trunk_over_the_mean_annotation():
    decoder, seen = build(AttentionDecoder, {}), annotations()
    (trunk,) = decoder.begin_layers
    mean = np.maximum(seen.mean(1) @ np.asarray(trunk.kernel) + np.asarray(trunk.bias), 0)
    states = decoder.begin(decoder.prepare(seen), 2)
    for state, layer in zip(states, (decoder.begin_hidden, decoder.begin_cell), strict=True):
        expected = np.tanh(mean @ np.asarray(layer.kernel) + np.asarray(layer.bias))
        for n in range(2):
            np.testing.assert_allclose(state[:, n], expected, atol=1e-6)


def test_deep_output_by_the_formula():
    decoder, seen, tokens = build(AttentionDecoder, {"gate": "vector"}), annotations(1), captions(1, 1, 1)
    memory = decoder.prepare(seen)
    before = decoder.begin(memory, 1)
    logits, (hidden, _), weights = decoder.step(memory, before, tokens[:, :, 0])
    value = lambda layer: (np.asarray(layer.kernel), np.asarray(layer.bias))  # noqa: E731
    gate = 1 / (1 + np.exp(-(np.asarray(before[0]) @ value(decoder.gate)[0] + value(decoder.gate)[1])))
    context = gate * (np.asarray(weights) @ seen)
    word = np.asarray(decoder.embedding.embeddings)[tokens[:, :, 0]]
    total = word
    for x, layer in ((np.asarray(hidden), decoder.readout_state), (context, decoder.readout_context)):
        total = total + x @ value(layer)[0] + value(layer)[1]
    expected = np.tanh(total) @ value(decoder.vocabulary)[0] + value(decoder.vocabulary)[1]
    np.testing.assert_allclose(logits, expected, atol=5e-6)


def test_recurrent_weights_start_as_four_orthogonal_blocks():
    decoder = AttentionDecoder(11, embedding_units=5, units=7, attention_units=4)
    decoder.build((None, None, 6))
    blocks = np.split(np.asarray(decoder.recurrent_kernel), 4, axis=1)
    for block in blocks:
        np.testing.assert_allclose(block.T @ block, np.eye(7), atol=1e-5)
    assert all(np.abs(blocks[0] - block).max() > 0.1 for block in blocks[1:])


def test_show_and_tell_sees_the_picture_once_and_lrcn_at_every_word():
    """The gradient of what is said at each step with respect to the state and to the picture's vector."""
    for options, first_only in (({}, True), ({"picture": "every", "layers": 2}, False)):
        decoder = build(PlainDecoder, options)
        memory = [tf.constant(np.asarray(x)) for x in decoder.prepare(annotations())]
        state = [tf.constant(np.asarray(x)) for x in decoder.begin(memory, 1)]
        with tf.GradientTape() as tape:
            tape.watch(memory)
            logits, *_ = decoder.step(memory, state, np.full((2, 1), 5, "int32"))
        gradient = tape.gradient(logits, memory[0], unconnected_gradients="zero")
        assert (np.abs(gradient).max() == 0) == first_only
        # Without a picture's first step the state begins at zero.
        assert (max(np.abs(x).max() for x in state) > 0) == first_only


def test_dropout_of_what_the_lstm_says_and_not_of_what_it_reads():
    """NeuralTalk2's. The vocabulary layer passes the hidden units on as they are."""
    seen, tokens = annotations(), captions(2, 3, 4)

    def said(training, **options):
        decoder = build(PlainDecoder, {"dropout": 0.5, **options})
        for v in decoder.trainable_variables:
            v.assign(0.7 * np.random.default_rng(len(v.shape)).normal(size=v.shape))
        decoder.vocabulary.kernel.assign(np.eye(7, 11))
        decoder.vocabulary.bias.assign(np.zeros(11))
        begun = decoder.begin(decoder.prepare(seen), 1, training=training)
        return np.asarray(decoder.teach(seen, tokens, training=training)["logits"])[..., :7], begun

    whole, begun = said(False, input_dropout=0.0)
    dropped, begun_in_training = said(True, input_dropout=0.0)
    np.testing.assert_allclose(dropped, np.where(dropped == 0, 0, 2 * whole), atol=1e-6)
    assert 0.3 < (dropped == 0).mean() < 0.7
    for one, other in zip(begun, begun_in_training, strict=True):
        np.testing.assert_array_equal(one, other)
    # Without the option what is read is dropped, too.
    dropped, begun_in_training = said(True)
    assert np.abs(dropped - np.where(dropped == 0, 0, 2 * whole)).max() > 0.1
    assert np.abs(begun_in_training[1] - begun[1]).max() > 0.1
    # Between two layers what the first one says is dropped: the second begins otherwise.
    _, begun = said(False, input_dropout=0.0, layers=2)
    dropped, begun_in_training = said(True, input_dropout=0.0, layers=2)
    differs = [np.abs(a - b).max() > 0.01 for a, b in zip(begun, begun_in_training, strict=True)]
    assert differs == [False, False, True, True]


def test_a_decoder_of_a_file_without_the_dropout_of_inputs():
    """As files were before there was one: the same rate for both, and the same variables."""
    decoder = build(PlainDecoder, {"dropout": 0.5})
    config = decoder.get_config()
    assert config.pop("input_dropout") is None
    again = PlainDecoder.from_config(config)
    again.build((None, None, 6))
    assert again.drop_input.rate == 0.5
    again.set_weights(decoder.get_weights())
    of_inputs = build(PlainDecoder, {"dropout": 0.5, "input_dropout": 0.0})
    assert len(of_inputs.variables) == len(decoder.variables)


# Hard attention


def test_semi_sampling_draws_in_half_of_the_steps():
    decoder = build(AttentionDecoder, {"attention": "hard"})
    seen, tokens = annotations(1), captions(1, 2, 3)
    teach = tf.function(lambda: decoder.teach(seen, tokens, training=True), autograph=False)
    drawn = []
    for _ in range(200):
        found = teach()
        used, weights = np.asarray(found["used"]), np.asarray(found["attention"])
        drawn.append(float(found["drawn"]))
        if drawn[-1]:
            assert set(np.unique(used)) == {0.0, 1.0}
            np.testing.assert_array_equal(used.sum(-1), 1)
        else:
            np.testing.assert_array_equal(used, weights)
    # Three standard deviations.
    assert abs(np.mean(drawn) - 0.5) < 3 * 0.5 / np.sqrt(200)
    assert float(decoder.teach(seen, tokens)["drawn"]) == 0


@pytest.mark.parametrize(("expected", "drawn"), [(0.0, 1.0), (1.0, 0.0)])
def test_the_chance_of_the_expected_context_can_be_set(expected, drawn):
    decoder = build(AttentionDecoder, {"attention": "hard", "expected": expected})
    found = [float(decoder.teach(annotations(1), captions(1, 1, 2), training=True)["drawn"]) for _ in range(5)]
    assert found == [drawn] * 5


def test_soft_attention_draws_nothing():
    found = build(AttentionDecoder, {}).teach(annotations(1), captions(1, 1, 2), training=True)
    assert float(found["drawn"]) == 0
    np.testing.assert_array_equal(found["used"], found["attention"])


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        (AttentionDecoder, {"attention": "firm"}, "`attention`.*soft.*firm"),
        (AttentionDecoder, {"gate": "matrix"}, "`gate`.*scalar.*matrix"),
        (AttentionDecoder, {"readout": "shallow"}, "`readout`.*deep.*shallow"),
        (AttentionDecoder, {"begin_activation": "relu"}, "`begin_activation`.*tanh.*relu"),
        (AttentionDecoder, {"begin_depth": 0}, "`begin_depth`.*begin_depth=0"),
        (AttentionDecoder, {"vocabulary_size": 4}, "`num_classes`.*num_classes=4"),
        (PlainDecoder, {"vocabulary_size": 4}, "`num_classes`.*num_classes=4"),
        (PlainDecoder, {"picture": "last"}, "`picture`.*first.*last"),
        (PlainDecoder, {"layers": 0}, "`layers`.*layers=0"),
    ],
)
def test_wrong_arguments(kind, arguments, words):
    with pytest.raises(ValueError, match=words):
        kind(**{"vocabulary_size": 11, **arguments})
