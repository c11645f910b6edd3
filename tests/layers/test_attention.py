"""Soft and hard attention: numbers worked by hand, a NumPy reference, tensorflow-addons' Bahdanau attention."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.layers import HardAttention, SoftAttention
from keras_cv_lectures.layers.attention import draw_places, likeliest_places

RNG = np.random.default_rng(0)


def random(*shape):
    return RNG.normal(size=shape).astype("float32")


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def reference(layer, annotations, query, mask=None):
    """Weights (B, N, L) and context (B, N, D) in float64, query by query and place by place."""
    value = {v.path.removeprefix(layer.name + "/"): np.asarray(v, "float64") for v in layer.weights}
    batch, places, _ = annotations.shape
    scores = np.zeros((batch, query.shape[1], places))
    score = value["score"]
    if layer.normalize:
        score = value["gain"] * score / np.sqrt(np.sum(score**2))
    for b, n, i in np.ndindex(scores.shape):
        x = annotations[b, i].astype("float64")
        for k in range(1, layer.depth + 1):
            x = x @ value[f"annotations_{k}/kernel"] + value.get(f"annotations_{k}/bias", 0)
            x = np.tanh(x) if k > 1 else x
        x = x + query[b, n] @ value["query/kernel"] + value.get("query/bias", 0) + value.get("shift", 0)
        x = np.tanh(x) if layer.activation == "tanh" else np.maximum(x, 0)
        scores[b, n, i] = layer.temperature * x @ score
        if mask is not None and not mask[b, i]:
            scores[b, n, i] = -np.inf
    weights = softmax(scores)
    return weights, weights @ annotations.astype("float64")


def randomize(layer):
    """Values for what starts at zero, too."""
    for v in layer.weights:
        if v.trainable:
            v.assign(random(*v.shape) if v.shape else 1.7)


@pytest.fixture
def by_hand():
    """One unit, all kernels 1, no bias: scores are tanh(a + h) or relu(a + h)."""

    def make(kind=SoftAttention, **options):
        layer = kind(1, activation="relu", **options)
        layer.build([(None, None, 1), (None, 1)])
        for v in (layer.annotation_layers[0].kernel, layer.query_layer.kernel, layer.score):
            v.assign(np.ones(v.shape))
        return layer

    return make


def test_two_places_by_hand(by_hand):
    # relu(a + h) is 0 and log 3, so the weights are 1/4 and 3/4.
    annotations = np.array([[[-5.0], [np.log(3) - 1]]], "float32")
    context, weights = by_hand()([annotations, np.array([[1.0]], "float32")])
    np.testing.assert_allclose(weights, [[0.25, 0.75]], rtol=1e-6)
    np.testing.assert_allclose(context, [[0.25 * -5 + 0.75 * (np.log(3) - 1)]], rtol=1e-6)


def test_temperature_multiplies_the_scores(by_hand):
    annotations = np.array([[[-5.0], [np.log(3) - 1]]], "float32")
    _, weights = by_hand(temperature=2.0)([annotations, np.array([[1.0]], "float32")])
    np.testing.assert_allclose(weights, [[0.1, 0.9]], rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"activation": "relu"},
        {"depth": 3},
        {"normalize": True, "use_bias": False, "query_bias": False},
        {"temperature": 0.3},
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_numpy_reference(options, masked):
    layer = SoftAttention(4, **options)
    annotations, query = random(3, 5, 6), random(3, 2, 7)
    mask = np.arange(5) < np.array([[5], [1], [3]]) if masked else None
    layer.build([annotations.shape, query.shape])
    randomize(layer)
    context, weights = layer([annotations, query], mask=mask)
    expected_weights, expected_context = reference(layer, annotations, query, mask)
    np.testing.assert_allclose(weights, expected_weights, atol=1e-6)
    np.testing.assert_allclose(context, expected_context, atol=2e-6)
    if masked:
        assert not np.asarray(weights)[np.broadcast_to(~mask[:, None], weights.shape)].any()


@pytest.mark.golden
@pytest.mark.parametrize("name", ["tfa_bahdanau_norm0", "tfa_bahdanau_norm1"])
def test_alignments_are_those_of_tensorflow_addons(golden, name):
    arrays, _ = golden(name)
    memory, query = arrays["in/memory"], arrays["in/query"]
    normalize = "param/BahdanauAttention_attention_g" in arrays
    kernel = arrays["param/BahdanauAttention_kernel"]
    layer = SoftAttention(kernel.shape[1], normalize=normalize, use_bias=False, query_bias=False)
    layer.build([memory.shape, query.shape])
    layer.annotation_layers[0].kernel.assign(kernel)
    layer.query_layer.kernel.assign(arrays["param/query_kernel"])
    layer.score.assign(arrays["param/BahdanauAttention_attention_v"])
    if normalize:
        layer.gain.assign(arrays["param/BahdanauAttention_attention_g"])
        layer.shift.assign(arrays["param/BahdanauAttention_attention_b"])
    mask = np.arange(memory.shape[1]) < arrays["in/lengths"][:, None]
    context, weights = layer([memory, query], mask=mask)
    np.testing.assert_allclose(weights, arrays["out/alignments"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(context, np.einsum("bl,bld->bd", arrays["out/alignments"], memory), atol=1e-5)


def test_a_mask_that_comes_with_the_annotations_counts_and_ends():
    annotations = random(2, 5, 6)
    annotations[0, 3:] = 0
    masked = keras.layers.Masking()(annotations)
    layer = SoftAttention(4)
    context, weights = layer([masked, random(2, 7)])
    np.testing.assert_array_equal(np.asarray(weights) == 0, [[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]])
    assert getattr(context, "_keras_mask", None) is None


def test_one_query_and_several_agree_and_a_constant_score_is_the_mean():
    layer = SoftAttention(4)
    annotations, query = random(2, 5, 6), random(2, 3, 7)
    context, weights = layer([annotations, query])
    for n in range(3):
        one_context, one_weights = layer([annotations, query[:, n]])
        np.testing.assert_allclose(one_weights, weights[:, n], atol=1e-6)
        np.testing.assert_allclose(one_context, context[:, n], atol=1e-6)
    layer.score.assign(np.zeros(4))
    np.testing.assert_allclose(layer([annotations, query[:, 0]])[0], annotations.mean(1), atol=1e-6)


def test_one_place_gets_everything_and_still_a_gradient_of_zero():
    layer = SoftAttention(4)
    annotations = tf.constant(random(2, 1, 6))
    query = tf.constant(random(2, 7))
    with tf.GradientTape() as tape:
        tape.watch(query)
        context, weights = layer([annotations, query])
    np.testing.assert_array_equal(weights, np.ones((2, 1)))
    np.testing.assert_allclose(context, annotations[:, 0])
    np.testing.assert_array_equal(tape.gradient(context, query), np.zeros((2, 7)))


@pytest.mark.parametrize("options", [{"depth": 2, "normalize": True, "query_bias": False}, {"activation": "relu"}])
@pytest.mark.parametrize("kind", [SoftAttention, HardAttention])
def test_a_model_with_it_is_saved_and_reloaded_exactly(tmp_path, kind, options):
    annotations, query = keras.Input((None, 6)), keras.Input((None, 7))
    more = {"inference": "argmax", "seed": 4} if kind is HardAttention else {}
    model = keras.Model([annotations, query], kind(4, temperature=0.5, **options, **more)([annotations, query]))
    assert model.output_shape == [(None, None, 6), (None, None, None)]
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    x = [random(2, 5, 6), random(2, 3, 7)]
    for before, after in zip(model(x), again(x), strict=True):
        np.testing.assert_array_equal(before, after)


def test_weights_stay_float32_and_exact_under_bfloat16():
    layer = SoftAttention(4, dtype="mixed_bfloat16")
    _, weights = layer([random(2, 5, 6), random(2, 7)])
    assert weights.dtype == "float32"
    np.testing.assert_allclose(np.sum(weights, -1), 1, atol=1e-6)


# Hard attention


def test_draws_have_the_weights_frequencies():
    wanted = np.array([0.5, 0.0, 0.3, 0.2], "float32")
    count = 20000
    layer = HardAttention(3, seed=1)
    layer.build([(None, None, 2), (None, 2)])
    drawn = np.asarray(layer.sample(np.tile(wanted, (count, 1))))
    np.testing.assert_array_equal(drawn.sum(-1), 1)
    assert set(np.unique(drawn)) == {0.0, 1.0}
    # Three standard deviations of a share.
    np.testing.assert_allclose(drawn.mean(0), wanted, atol=3 * np.sqrt(0.25 / count))
    assert drawn[:, 1].sum() == 0


@pytest.mark.parametrize(
    ("uniform", "place"), [(0.0, 1), (0.19, 1), (0.21, 2), (0.69, 2), (0.71, 4), (0.999999, 4), (1.0, 4)]
)
def test_draw_by_hand(uniform, place):
    # Running sums 0, 0.2, 0.7, 0.7, 1: places without weight are never drawn, whatever the number.
    weights = np.array([[0.0, 0.2, 0.5, 0.0, 0.3]], "float32")
    assert int(np.argmax(draw_places(weights, np.array([uniform], "float32")))) == place


def test_the_first_of_equal_places_is_the_likeliest():
    np.testing.assert_array_equal(likeliest_places(np.array([[0.4, 0.2, 0.4]], "float32")), [[1, 0, 0]])


def test_what_hard_attention_looks_at(by_hand):
    # As in the first test: weights 1/4 and 3/4.
    values = np.array([-5.0, np.log(3) - 1], "float32")
    inputs = [np.tile(values.reshape(1, 2, 1), (4000, 1, 1)), np.ones((4000, 1), "float32")]
    expected, weights = by_hand(HardAttention)(inputs)
    np.testing.assert_allclose(weights[0], [0.25, 0.75], rtol=1e-6)
    np.testing.assert_allclose(expected[:, 0], np.full(4000, [0.25, 0.75] @ values), rtol=1e-5)
    argmax, _ = by_hand(HardAttention, inference="argmax")(inputs)
    np.testing.assert_allclose(argmax[:, 0], np.full(4000, values[1]), rtol=1e-6)
    for drawn, again in (
        (
            by_hand(HardAttention, inference="sample", seed=2)(inputs),
            by_hand(HardAttention, inference="sample")(inputs),
        ),
        (by_hand(HardAttention, seed=2)(inputs, training=True), by_hand(HardAttention)(inputs, training=True)),
    ):
        places = np.isclose(drawn[0][:, :1], values)  # (4000, 2)
        np.testing.assert_array_equal(places.sum(1), 1)
        assert abs(places[:, 1].mean() - 0.75) < 3 * np.sqrt(0.1875 / 4000)
        assert not np.array_equal(drawn[0], again[0])


def test_a_drawn_place_gives_the_annotations_a_gradient_and_the_scores_none():
    layer = HardAttention(3, seed=0)
    annotations, query = tf.constant(random(1, 4, 2)), tf.constant(random(1, 2))
    with tf.GradientTape() as tape:
        tape.watch([annotations, query])
        context, _ = layer([annotations, query], training=True)
    to_annotations, to_query = tape.gradient(context, [annotations, query], unconnected_gradients="zero")
    assert sorted(np.sum(to_annotations, axis=(0, 2))) == [0, 0, 0, 2]
    np.testing.assert_array_equal(to_query, np.zeros((1, 2)))


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        (SoftAttention, {"units": 0}, "`units`.*units=0"),
        (SoftAttention, {"units": 2.5}, "`units`.*units=2.5"),
        (SoftAttention, {"units": 4, "depth": 0}, "`depth`.*depth=0"),
        (SoftAttention, {"units": 4, "activation": "gelu"}, "tanh.*gelu"),
        (SoftAttention, {"units": 4, "temperature": 0}, "`temperature`.*temperature=0"),
        (HardAttention, {"units": 4, "inference": "mean"}, "expected.*argmax.*mean"),
    ],
)
def test_wrong_arguments(kind, arguments, words):
    with pytest.raises(ValueError, match=words):
        kind(**arguments)
