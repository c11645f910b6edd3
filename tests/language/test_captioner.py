"""The captioning model: what `fit` minimises, what a call returns, files, options of the builders."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_captioners import DECODERS, MAX_WORDS, WORDS, captions, loss_of, make, pictures, policy

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.language import (
    AppendPositions,
    AverageToGrid,
    Captioner,
    build_show_and_tell,
    build_show_attend_tell,
)

RNG = np.random.default_rng(0)
# Building a network takes half a second each time; the slow tier takes all.
EACH = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in ("hard", "plain") else pytest.mark.slow) for kind in DECODERS]
)


def small_backbone():
    image = keras.Input((None, None, 3))
    stages, x = {}, keras.layers.Rescaling(1 / 255)(image)
    for k in range(1, 6):
        x = keras.layers.Conv2D(4 + k, 3, strides=2, padding="same", activation="relu")(x)
        x = keras.layers.BatchNormalization()(x)
        stages[f"c{k}"] = x
    return keras.Model(image, stages)


# What fit minimises


@EACH
def test_losses_are_numpys(kind):
    model = make(kind, doubly_stochastic_weight=0.7)
    x, tokens = pictures(), captions()
    found = model({"image": x, "tokens": tokens})
    loss, parts = loss_of(model, {"image": x, "tokens": tokens}, tokens)
    logits, targets = np.asarray(found["logits"], "float64"), tokens[:, :, 1:]
    mask = targets > 0
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    cost = (-np.take_along_axis(logs, targets[..., None], -1)[..., 0] * mask).sum(-1)  # in nats, of a caption
    expected = {"cross_entropy": cost.mean(), "word_accuracy": (logits.argmax(-1) == targets)[mask].mean()}
    total = expected["cross_entropy"]
    if kind in ("soft", "hard"):
        seen = (np.asarray(found["attention"]) * mask[..., None]).sum(2)
        expected["doubly_stochastic"] = np.square(1 - seen).mean()
        total += 0.7 * expected["doubly_stochastic"]
    if kind == "hard":
        # Nothing was drawn, so that only the entropy is left; its value means nothing and is not part of the loss.
        weights = np.asarray(found["attention"])
        entropy = -(weights * np.log(weights)).sum(-1)
        expected["reinforce"] = -0.002 * (entropy * mask).sum(-1).mean()
    assert parts == pytest.approx(expected, rel=1e-5)
    assert loss == pytest.approx(total, rel=1e-5)


def test_label_smoothing_is_that_of_numpy():
    model = make(label_smoothing=0.1, doubly_stochastic_weight=0.0)
    x = {"image": pictures(), "tokens": captions()}
    logits, targets = np.asarray(model(x)["logits"], "float64"), x["tokens"][:, :, 1:]
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = 0.9 * np.eye(WORDS)[targets] + 0.1 / WORDS
    expected = -(wanted * logs).sum(-1) * (targets > 0)
    loss, parts = loss_of(model, x, x["tokens"])
    assert loss == pytest.approx(expected.sum(-1).mean(), rel=1e-5)
    assert "doubly_stochastic" not in parts
    # What is reported stays comparable between trainings.
    assert parts["cross_entropy"] == pytest.approx(loss_of(make(), x, x["tokens"])[1]["cross_entropy"], rel=1e-5)


@pytest.mark.parametrize("kind", ["hard"])
def test_captions_that_a_picture_lacks_and_padding_do_not_count(kind):
    model, x, tokens = make(kind), pictures(), captions()
    expected = loss_of(model, {"image": x, "tokens": tokens}, tokens)
    lacking = np.zeros((4, 5, 9), "int32")
    lacking[:, :2, : tokens.shape[-1]] = tokens
    got = loss_of(model, {"image": x, "tokens": lacking}, lacking)
    assert got[0] == pytest.approx(expected[0], rel=1e-5)
    assert got[1] == pytest.approx(expected[1], rel=1e-5)
    nothing = np.zeros_like(tokens)
    assert loss_of(model, {"image": x, "tokens": nothing}, nothing)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", DECODERS)
def test_fit_lists_its_losses_and_lowers_them(kind):
    model, x = make(kind, dropout=0.1), {"image": pictures(), "tokens": captions()}
    model.compile(keras.optimizers.Adam(0.03))
    history = model.fit(x, x["tokens"], batch_size=4, epochs=12, verbose=0, validation_data=(x, x["tokens"])).history
    names = {"loss", "cross_entropy", "word_accuracy"}
    names |= {"doubly_stochastic"} if kind in ("soft", "hard") else set()
    names |= {"reinforce"} if kind == "hard" else set()
    assert set(history) == {*names, *(f"val_{name}" for name in names)}
    assert history["val_cross_entropy"][-1] < 0.9 * history["val_cross_entropy"][0]


def test_batches_count_by_their_captions():
    """Batches of 3 captions and 1: the mean over captions, not over batches."""
    model, x, tokens = make(), pictures(4), captions(4, 1)
    model.compile()
    data = {"image": x, "tokens": tokens}
    once = model.evaluate(data, tokens, batch_size=4, verbose=0, return_dict=True)
    parts = model.evaluate(data, tokens, batch_size=3, verbose=0, return_dict=True)
    for name in ("cross_entropy", "word_accuracy", "doubly_stochastic"):
        assert parts[name] == pytest.approx(once[name], rel=1e-5), name


def test_a_caption_weighs_the_same_on_every_replica(replicas):
    """One replica has a picture with one caption, the other one with three: together the gradient of both."""
    x, y = pictures(2), captions(2, count=3)
    y[0, 1:] = 0
    with replicas.scope():
        model = make("soft")

    def gradients(x, y):
        for tracker in model.loss_trackers.values():
            tracker.reset_state()
        inputs = {"image": tf.cast(x, "float32"), "tokens": y}
        with tf.GradientTape() as tape:
            loss = model.compute_loss(inputs, y, model(inputs, training=True), training=True)
        return loss, tape.gradient(loss, [v.value for v in model.trainable_variables])

    @tf.function
    def shares(x, y):
        place = tf.distribute.get_replica_context().replica_id_in_sync_group
        return gradients(x[place : place + 1], y[place : place + 1])

    expected = gradients(x, tf.constant(y))
    wanted = {name: float(tracker.result()) for name, tracker in model.loss_trackers.items()}
    found = replicas.run(shares, (tf.constant(x), tf.constant(y)))
    for a, b in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        total = np.asarray(replicas.reduce("SUM", a, axis=None))
        np.testing.assert_allclose(total, b, atol=1e-5 * max(1.0, float(tf.reduce_max(tf.abs(b)))))
    for name, tracker in model.loss_trackers.items():
        assert float(tracker.result()) == pytest.approx(wanted[name], rel=1e-5), name


def test_what_the_encoder_said_takes_the_place_of_pictures():
    model, x, tokens = make(), pictures(), captions()
    seen = np.asarray(model.encoder(x))
    expected = model({"image": x, "tokens": tokens})
    for name, value in model({"annotations": seen, "tokens": tokens}).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-6, err_msg=name)
    for name, value in model({"annotations": seen}).items():
        np.testing.assert_allclose(value, model(x)[name], atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_fit_with_what_the_encoder_said():
    model, tokens = make(), captions()
    model.encoder.trainable = False
    seen = np.asarray(model.encoder(pictures()))
    encoder = [np.asarray(v) for v in model.encoder.weights]
    before = float(model.decoder.bias[0])
    model.compile(keras.optimizers.Adam(0.03))
    model.fit({"annotations": seen, "tokens": tokens}, tokens, verbose=0)
    assert float(model.decoder.bias[0]) != before
    for v, old in zip(model.encoder.weights, encoder, strict=True):
        np.testing.assert_array_equal(v, old)


# Hard attention


def test_the_baseline_is_a_moving_mean_of_the_costs_and_only_training_moves_it():
    model, x = make("hard"), {"image": pictures(), "tokens": captions()}
    _, parts = loss_of(model, x, x["tokens"])
    assert float(model.baseline) == 0
    expected = 0.0
    for _ in range(3):
        _, parts = loss_of(model, x, x["tokens"], training=True)
        expected = 0.9 * expected + 0.1 * parts["cross_entropy"]
        assert float(model.baseline) == pytest.approx(expected, rel=1e-5)
    assert not any(v is model.baseline for v in model.trainable_variables)


@pytest.mark.parametrize("drawn", [True, False])
def test_only_a_step_that_drew_is_rewarded(drawn):
    x = {"image": pictures(), "tokens": captions()}
    values = []
    for weight in (0.1, 0.2):
        model = make("hard", decoder={"expected": float(not drawn)}, reinforce_weight=weight, entropy_weight=0.0)
        values.append(loss_of(model, x, x["tokens"], training=True)[1]["reinforce"])
    if drawn:
        assert values[0] != 0
        assert values[1] == pytest.approx(2 * values[0], rel=1e-4)
    else:
        assert values == [0, 0]


# What a call returns


@EACH
def test_a_call_searches(kind):
    model = make(kind)
    found = {name: np.asarray(x) for name, x in model.predict(pictures(), verbose=0).items()}
    assert set(found) == {"tokens", "length", "log_probability", *(["attention"] if kind in ("soft", "hard") else [])}
    assert found["tokens"].shape == (4, MAX_WORDS)
    assert found["tokens"].dtype == found["length"].dtype == np.int32
    for tokens, length in zip(found["tokens"], found["length"], strict=True):
        assert tokens[:length].min(initial=4) >= 4
        assert list(tokens[length:]) == ([2] + [0] * (MAX_WORDS - length - 1) if length < MAX_WORDS else [])
    if "attention" in found:
        assert found["attention"].shape == (4, MAX_WORDS, 4, 6)
        emitted = found["tokens"] > 0
        np.testing.assert_allclose(found["attention"].sum((2, 3)), emitted, atol=1e-5)
    # The log probability is what teaching the same words says.
    x = pictures()
    found = model(x)
    tokens = np.concatenate([np.ones((4, 1), "int32"), found["tokens"]], axis=1)[:, None]
    logits = np.asarray(model({"image": x, "tokens": tokens})["logits"])[:, 0]
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    said = np.take_along_axis(logs, tokens[:, 0, 1:, None], -1)[..., 0] * (tokens[:, 0, 1:] > 0)
    np.testing.assert_allclose(found["log_probability"], said.sum(-1), atol=1e-4)


def test_open_picture_sizes():
    model = make(input_shape=(None, None, 3))
    assert np.asarray(model(np.zeros((2, 20, 36, 3), "uint8"))["attention"]).shape == (2, MAX_WORDS, 5, 9)


def test_with_search_shares_the_network_and_changes_the_search():
    model, x = make(), pictures()
    greedy = model.with_search(beam_size=1, max_words=3, ban_unknown=False)
    assert greedy.decoder is model.decoder
    assert greedy.encoder is model.encoder
    found = {name: np.asarray(v) for name, v in greedy(x).items()}
    assert found["tokens"].shape == (4, 3)
    flat = np.asarray(model.encoder(x)).reshape(4, 24, 6)
    memory = model.decoder.prepare(flat)
    state, last = model.decoder.begin(memory, 1), np.ones((4, 1), "int32")
    running = np.ones(4, bool)
    for t in range(3):
        logits, state, _ = model.decoder.step(memory, state, last)
        logits = np.array(logits)[:, 0]
        logits[:, :2] = -np.inf
        last = logits.argmax(-1).astype("int32")[:, None]
        np.testing.assert_array_equal(found["tokens"][:, t], np.where(running, last[:, 0], 0))
        running &= last[:, 0] != 2
    assert float(greedy.search.beam_size) == 1
    # A wider search never finds less, on these.
    assert (
        np.asarray(model.with_search(max_words=3, ban_unknown=False, beam_size=60)(x)["log_probability"])
        >= found["log_probability"] - 1e-5
    ).all()
    with pytest.raises(TypeError, match=r"max_words.*\['beams'\]"):
        model.with_search(beams=2)
    with pytest.raises(ValueError, match="`beam_size`.*beam_size=0"):
        model.with_search(beam_size=0)


@pytest.mark.parametrize("kind", ["soft", "lrcn"])
def test_samples(kind):
    model, x = make(kind), pictures(2)
    found = {name: np.asarray(v) for name, v in model.sample(x, 6, seed=1).items()}
    assert found["tokens"].shape == (2, 6, MAX_WORDS)
    assert len({tuple(row) for row in found["tokens"][0]}) > 1
    assert not np.isin(found["tokens"], [1, 3]).any()
    np.testing.assert_array_equal(model.sample(x, 6, seed=1)["tokens"], found["tokens"])
    assert (np.asarray(model.sample(x, 6, seed=2)["tokens"]) != found["tokens"]).any()
    if kind == "soft":
        assert found["attention"].shape == (2, 6, MAX_WORDS, 4, 6)
        np.testing.assert_allclose(found["attention"].sum((3, 4)), found["tokens"] > 0, atol=1e-5)
    # Cold enough, everyone says what is likeliest word by word.
    cold = np.asarray(model.sample(x, 3, temperature=1e-6, seed=1)["tokens"])
    greedy = np.asarray(model.with_search(beam_size=1)(x)["tokens"])
    np.testing.assert_array_equal(cold, np.repeat(greedy[:, None], 3, axis=1))


# Precision and files


def in_bfloat16(kind):
    with policy("mixed_bfloat16"):
        return make(kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hard", "plain"])
def test_mixed_bfloat16_learns(kind):
    model, x = in_bfloat16(kind), {"image": pictures(), "tokens": captions()}
    model.compile(keras.optimizers.Adam(0.03))
    history = model.fit(x, x["tokens"], batch_size=4, epochs=12, verbose=0).history["cross_entropy"]
    assert history[-1] < 0.9 * history[0]


@pytest.mark.parametrize("kind", ["soft", pytest.param("hard", marks=pytest.mark.slow), "plain"])
def test_mixed_bfloat16_keeps_weights_outputs_and_losses_in_float32(kind):
    exact, model = make(kind), in_bfloat16(kind)
    model.set_weights(exact.get_weights())
    x = {"image": pictures(), "tokens": captions()}
    assert {v.dtype for v in model.weights if "seed" not in v.path} == {"float32"}
    found, expected = model(x), exact(x)
    assert found["logits"].dtype == "float32"
    np.testing.assert_allclose(found["logits"], expected["logits"], atol=0.05 * np.abs(expected["logits"]).max())
    assert np.abs(found["logits"] - expected["logits"]).max() > 0  # It is another precision.
    if kind == "soft":
        np.testing.assert_allclose(np.sum(found["attention"], -1), 1, atol=1e-6)
    assert model(x["image"])["log_probability"].dtype == "float32"


@pytest.mark.parametrize("kind", ["soft", "plain"])
def test_a_file_of_bfloat16_computes_in_it_in_any_session(kind, tmp_path):
    model, x = in_bfloat16(kind), {"image": pictures(), "tokens": captions()}
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(model(x)["logits"], again(x)["logits"])
    exact = make(kind)
    exact.save(tmp_path / "exact.keras")
    with policy("mixed_bfloat16"):
        again = keras.saving.load_model(tmp_path / "exact.keras")
        np.testing.assert_array_equal(exact(x)["logits"], again(x)["logits"])


@EACH
def test_keras_file_round_trip_is_exact(kind, tmp_path):
    model, x = make(kind, beam_size=2, length_penalty=0.5), {"image": pictures(), "tokens": captions()}
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again) is Captioner
    assert again.get_config()["length_penalty"] == 0.5
    for given in (x["image"], x):
        before, after = model(given), again(given)
        assert set(before) == set(after)
        for name in before:
            np.testing.assert_array_equal(before[name], after[name])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hard", "plain"])  # `tests/test_systems.py` and `_training.py` go on with the others.
def test_a_trained_model_is_saved_with_its_state_and_goes_on(kind, tmp_path):
    model, x = make(kind), {"image": pictures(), "tokens": captions()}
    model.compile(keras.optimizers.Adam(0.01))
    model.fit(x, x["tokens"], verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(x)["logits"], model(x)["logits"])
    if kind == "hard":
        assert float(again.baseline) == float(model.baseline) > 0
    assert int(again.optimizer.iterations) == 1
    again.fit(x, x["tokens"], verbose=0)
    assert int(again.optimizer.iterations) == 2
    model.save_weights(tmp_path / "model.weights.h5")
    third = make(kind)
    third.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(third(x)["logits"], model(x)["logits"])


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_weights_of_another_vocabulary_are_refused(tmp_path, suffix):
    options = {"backbone": small_backbone(), "units": 7, "embedding_units": 5, "attention_units": 4}
    model = build_show_attend_tell((32, 32, 3), 12, **options)
    path = tmp_path / f"model{suffix}"
    model.save(path) if suffix == ".keras" else model.save_weights(path)
    again = build_show_attend_tell((32, 32, 3), 12, **{**options, "backbone": small_backbone()}, weights=path)
    np.testing.assert_array_equal(again.decoder.word_kernel, model.decoder.word_kernel)
    with pytest.raises(ModelError, match="(?s)does not fit.*num_classes=13.*vocabulary.* such as backbone: "):
        build_show_attend_tell((32, 32, 3), 13, **{**options, "backbone": small_backbone()}, weights=path)
    with pytest.raises(ModelError, match="existing file"):
        build_show_and_tell((32, 32, 3), 13, backbone=small_backbone(), units=7, weights=tmp_path / "none.keras")


# Options of the builders


@pytest.mark.slow
def test_a_frozen_backbone_does_not_learn_and_its_statistics_stay():
    for frozen in (True, False):
        model = build_show_and_tell(
            (32, 32, 3), WORDS, backbone=small_backbone(), freeze_backbone=frozen, units=7, embedding_units=5
        )
        assert bool(model.encoder.trainable_variables) != frozen
        before = [np.asarray(v) for v in model.encoder.weights]
        tokens = captions()
        model.compile(keras.optimizers.Adam(0.01))
        model.fit({"image": RNG.integers(0, 256, (4, 32, 32, 3)), "tokens": tokens}, tokens, verbose=0)
        same = [np.array_equal(a, b) for a, b in zip(before, model.encoder.weights, strict=True)]
        assert all(same) if frozen else not any(same)


@pytest.mark.parametrize(
    ("options", "shape"), [({}, (4, 6)), ({"annotation_stage": "c3"}, (8, 12)), ({"annotation_grid": (3, 2)}, (3, 2))]
)
def test_annotations(options, shape):
    model = build_show_attend_tell((64, 96, 3), WORDS, backbone=small_backbone(), units=7, **options)
    assert model.encoder.output_shape[1:3] == shape
    assert model.output["attention"].shape[-2:] == shape


def test_annotations_say_where_they_are():
    x = RNG.normal(size=(2, 2, 4, 3)).astype("float32")
    layer = AppendPositions()
    found = np.asarray(layer(x))
    np.testing.assert_array_equal(found[..., :3], x)
    # Middles of four columns and two rows of a picture that reaches from -1 to 1.
    np.testing.assert_array_equal(found[1, :, :, 3], [[-0.75, -0.25, 0.25, 0.75]] * 2)
    np.testing.assert_array_equal(found[0, :, :, 4], [[-0.5] * 4, [0.5] * 4])
    assert layer.compute_output_shape(x.shape) == found.shape
    of_any_size = tf.function(layer.call, input_signature=[tf.TensorSpec([None, None, None, 3])], autograph=False)
    np.testing.assert_allclose(of_any_size(x), found, atol=1e-7)


def test_positions_are_known_to_the_decoder():
    model = build_show_attend_tell((64, 96, 3), WORDS, backbone=small_backbone(), units=7, positions=True)
    assert model.encoder.output_shape == (None, 4, 6, 8 + 2)
    assert model.decoder.annotation_width == 10


@pytest.mark.parametrize(("size", "grid"), [((7, 5), (3, 2)), ((6, 4), (3, 2)), ((3, 2), (6, 4)), ((5, 5), (14, 3))])
def test_average_to_grid_is_adaptive_pooling(size, grid):
    x = RNG.normal(size=(2, *size, 3)).astype("float32")
    expected = np.zeros((2, *grid, 3))
    for i, j in np.ndindex(*grid):
        rows = slice(i * size[0] // grid[0], -(-(i + 1) * size[0] // grid[0]))
        columns = slice(j * size[1] // grid[1], -(-(j + 1) * size[1] // grid[1]))
        expected[:, i, j] = x[:, rows, columns].mean((1, 2))
    layer = AverageToGrid(grid)
    np.testing.assert_allclose(layer(x), expected, atol=1e-6)
    assert layer.compute_output_shape(x.shape) == expected.shape
    assert AverageToGrid.from_config(layer.get_config()).grid == grid


def test_a_grid_needs_pictures_whose_size_is_known():
    layer = AverageToGrid((2, 2))
    run = tf.function(layer.call, input_signature=[tf.TensorSpec([None, None, None, 3])], autograph=False)
    with pytest.raises(ValueError, match="`annotation_grid` needs pictures of one size.*input_shape"):
        run(np.zeros((1, 4, 4, 3), "float32"))


def test_a_grid_of_the_maps_size_leaves_it_alone():
    x = RNG.normal(size=(1, 3, 4, 2)).astype("float32")
    np.testing.assert_array_equal(AverageToGrid((3, 4))(x), x)


@pytest.mark.parametrize(
    ("variant", "attention"), [("paper", "soft"), ("paper", "mean"), ("tutorial", "hard"), ("tutorial", "soft")]
)
def test_variants_of_show_attend_tell(variant, attention):
    model = build_show_attend_tell(
        (32, 32, 3), WORDS, backbone=small_backbone(), variant=variant, attention=attention, embedding_units=5, units=7
    )
    decoder = model.decoder
    assert decoder.kind == attention
    assert decoder.gate_kind == {"paper": "scalar", "tutorial": "vector"}[variant]
    assert len(decoder.attention.annotation_layers) == {"paper": 2, "tutorial": 1}[variant]
    assert decoder.attention.units == {"paper": 8, "tutorial": 512}[variant]  # c4 has 8 channels here
    assert model(np.zeros((1, 32, 32, 3), "uint8"))["tokens"].shape == (1, 20)


def test_variants_of_show_and_tell():
    small = {"backbone": small_backbone(), "units": 7, "embedding_units": 5}
    for variant, (layers, picture, activation) in {
        "show_and_tell": (1, "first", "linear"),
        "neuraltalk2": (1, "first", "relu"),
        "lrcn": (2, "every", "linear"),
    }.items():
        decoder = build_show_and_tell((32, 32, 3), WORDS, variant=variant, **small).decoder
        assert len(decoder.recurrent) == layers
        assert decoder.picture == picture
        # Of NeuralTalk2 what the LSTM reads is whole.
        assert (decoder.drop_input.rate == 0 < decoder.drop.rate) == (variant == "neuraltalk2")
        assert decoder.look.activation.__name__ == activation


@pytest.mark.parametrize(
    ("build", "options", "error", "words"),
    [
        (build_show_attend_tell, {"variant": "video"}, ValueError, "`variant`.*tutorial.*video"),
        (build_show_attend_tell, {"attention": "firm"}, ValueError, "`attention`.*hard.*firm"),
        (build_show_attend_tell, {"annotation_stage": "c9"}, ValueError, "`annotation_stage`.*c5.*c9"),
        (build_show_attend_tell, {"annotation_grid": (0, 2)}, ValueError, "`grid`.*rows, columns"),
        (build_show_attend_tell, {"beam_size": 0}, ValueError, "`beam_size`.*beam_size=0"),
        (build_show_attend_tell, {"num_classes": 3}, ValueError, "`num_classes`.*num_classes=3"),
        (build_show_attend_tell, {"n_classes": 30}, TypeError, "num_classes"),
        (build_show_and_tell, {"variant": "video"}, ValueError, "`variant`.*lrcn.*video"),
        (build_show_and_tell, {"max_words": 0}, ValueError, "`max_words`.*max_words=0"),
        (build_show_and_tell, {"attention": "soft"}, TypeError, "attention"),
    ],
)
def test_wrong_options_are_explained(build, options, error, words):
    arguments = {"input_shape": (32, 32, 3), "num_classes": WORDS, "backbone": small_backbone(), "units": 7}
    if "n_classes" in options:
        del arguments["num_classes"]
    with pytest.raises(error, match=words):
        build(**{**arguments, **options})
