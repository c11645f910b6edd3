"""Captioners of others: their arrays give our network their numbers, and what does not fit changes nothing."""

from __future__ import annotations

import json
import pickle

import keras
import numpy as np
import pytest

from keras_cv_lectures.errors import DataError, ModelError
from keras_cv_lectures.language import AttentionDecoder, Captioner, PlainDecoder
from keras_cv_lectures.language.show_attend_tell import VARIANT_DEFAULTS
from keras_cv_lectures.weights import arctic_vocabulary, load_caption_weights, load_weights, tutorial_vocabulary

WORDS, EMBEDDING, UNITS, ATTENTION, WIDTH = 7, 3, 4, 5, 6
GRID = (2, 3)


def build(variant="paper", words=WORDS, units=UNITS, embedding=EMBEDDING, attention=ATTENTION, width=WIDTH, **more):
    """A captioner of annotations: its encoder changes nothing."""
    options = VARIANT_DEFAULTS[variant] | {"units": units, "attention_units": attention} | more
    decoder = AttentionDecoder(words, embedding_units=embedding, dropout=0.5, name="decoder", **options)
    return captioner(decoder, width)


def captioner(decoder, width=WIDTH):
    image = keras.Input((None, None, width))
    encoder = keras.Model(image, keras.layers.Identity()(image), name="encoder")
    return Captioner(encoder, decoder, input_shape=(None, None, width), max_words=4)


def arrays_of(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 0.6, shape).astype("f4") for name, shape in shapes.items()}


def arctic(words=WORDS, **changed):
    """Arrays as the authors' code saves them, attention as wide as the annotations."""
    v, e, h, d = words, EMBEDDING, UNITS, WIDTH
    shapes = {
        "Wemb": (v, e),
        "ff_init_1_W": (d, d),
        "ff_init_1_b": (d,),
        "ff_state_W": (d, h),
        "ff_state_b": (h,),
        "ff_memory_W": (d, h),
        "ff_memory_b": (h,),
        "decoder_W": (e, 4 * h),
        "decoder_U": (h, 4 * h),
        "decoder_b": (4 * h,),
        "decoder_Wc": (d, 4 * h),
        "decoder_Wc_att": (d, d),
        "decoder_Wd_att": (h, d),
        "decoder_b_att": (d,),
        "decoder_W_att_1": (d, d),
        "decoder_b_att_1": (d,),
        "decoder_U_att": (d, 1),
        "decoder_c_tt": (1,),
        "decoder_W_sel": (h, 1),
        "decoder_b_sel": (),
        "ff_logit_lstm_W": (h, e),
        "ff_logit_lstm_b": (e,),
        "ff_logit_ctx_W": (d, e),
        "ff_logit_ctx_b": (e,),
        "ff_logit_W": (e, v),
        "ff_logit_b": (v,),
        "history_errs": (3, 2),
    }
    arrays = {name: np.asarray(value) for name, value in arrays_of(shapes | changed).items()}
    return {name: value for name, value in arrays.items() if value is not None}


def tutorial(words=WORDS, attention="attention.", cell="decode_step", **changed):
    """The decoder's state dict."""
    v, e, h, a, d = words, EMBEDDING, UNITS, ATTENTION, WIDTH
    linear = {
        f"{attention}encoder_att": (a, d),
        f"{attention}decoder_att": (a, h),
        f"{attention}full_att": (1, a),
        "init_h": (h, d),
        "init_c": (h, d),
        "f_beta": (d, h),
        "fc": (v, h),
    }
    shapes = {"embedding.weight": (v, e)}
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    shapes |= {f"{cell}.weight_ih": (4 * h, e + d), f"{cell}.weight_hh": (4 * h, h)}
    shapes |= {f"{cell}.bias_ih": (4 * h,), f"{cell}.bias_hh": (4 * h,)}
    return arrays_of(shapes | changed)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def arctic_forward(p, annotations, ids, dropout=True):
    """capgen.py at test time, one picture and one caption: probabilities (T, V) of each next word, weights (T, L)."""
    half = 0.5 if dropout else 1.0
    n = UNITS
    mean = half * np.maximum(annotations.mean(0) @ p["ff_init_1_W"] + p["ff_init_1_b"], 0)
    h = np.tanh(mean @ p["ff_state_W"] + p["ff_state_b"])
    c = np.tanh(mean @ p["ff_memory_W"] + p["ff_memory_b"])
    projected = annotations @ p["decoder_Wc_att"] + p["decoder_b_att"]
    projected = np.tanh(projected @ p["decoder_W_att_1"] + p["decoder_b_att_1"])
    found, weights = [], []
    for word in [None, *ids]:
        embedded = np.zeros(EMBEDDING) if word is None else p["Wemb"][word]
        scores = np.tanh(projected + h @ p["decoder_Wd_att"]) @ p["decoder_U_att"] + p["decoder_c_tt"]
        alpha = softmax(scores[:, 0])
        context = sigmoid(h @ p["decoder_W_sel"] + p["decoder_b_sel"]) * (alpha @ annotations)
        gates = h @ p["decoder_U"] + embedded @ p["decoder_W"] + p["decoder_b"] + context @ p["decoder_Wc"]
        i, f, o = (sigmoid(gates[k * n : (k + 1) * n]) for k in range(3))
        c = f * c + i * np.tanh(gates[3 * n :])
        h = o * np.tanh(c)
        logit = (half * h) @ p["ff_logit_lstm_W"] + p["ff_logit_lstm_b"] + embedded
        logit = np.tanh(logit + context @ p["ff_logit_ctx_W"] + p["ff_logit_ctx_b"])
        found.append(softmax((half * logit) @ p["ff_logit_W"] + p["ff_logit_b"]))
        weights.append(alpha)
    return np.stack(found), np.stack(weights)


def tutorial_forward(p, annotations, ids):
    """The tutorial's decoder on one picture and the words that it is given: logits (T, V)."""

    def linear(name, x):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    mean, found = annotations.mean(0), []
    h, c = linear("init_h", mean), linear("init_c", mean)
    for word in ids:
        met = np.maximum(linear("attention.encoder_att", annotations) + linear("attention.decoder_att", h), 0)
        alpha = softmax(linear("attention.full_att", met)[:, 0])
        context = sigmoid(linear("f_beta", h)) * (alpha @ annotations)
        x = np.concatenate([p["embedding.weight"][word], context])
        gates = x @ p["decode_step.weight_ih"].T + p["decode_step.bias_ih"]
        i, f, g, o = np.split(gates + h @ p["decode_step.weight_hh"].T + p["decode_step.bias_hh"], 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        found.append(linear("fc", h))
    return np.stack(found)


def teach(model, annotations, tokens):
    """Logits (T, V) and weights (T, L) of one picture and one caption with its start."""
    grid = annotations.reshape(1, *GRID, -1).astype("f4")
    found = model({"annotations": grid, "tokens": np.int32(tokens)[None, None]})
    return np.asarray(found["logits"])[0, 0], np.asarray(found["attention"])[0, 0]


def values(model):
    return [np.array(w) for w in model.get_weights()]


def unchanged(model, before):
    return all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))


@pytest.fixture
def annotations():
    return np.random.default_rng(1).normal(size=(GRID[0] * GRID[1], WIDTH))


@pytest.mark.parametrize("dropout", [True, False])
def test_the_authors_network_with_its_words_in_our_order(tmp_path, annotations, dropout):
    arrays = arctic()
    np.savez(tmp_path / "model.npz", **arrays)
    model = build(words=WORDS + 2, attention=None)
    if dropout:
        load_weights(model, tmp_path / "model.npz")
    else:
        load_caption_weights(model, tmp_path / "model.npz", halved=False)
    # Theirs: 0 end, 1 unknown, then words. Ours: start 1, end 2, unknown 3, then words.
    expected, alpha = arctic_forward(arrays, annotations, [4, 1, 6], dropout)
    logits, attention = teach(model, annotations, [1, 6, 3, 8, 2])
    found = np.stack([softmax(row.astype("f8")) for row in logits])
    np.testing.assert_allclose(found[:, 2:], expected, rtol=2e-5, atol=1e-6)
    assert found[:, :2].max() < 1e-30  # Padding and start are never said.
    np.testing.assert_allclose(attention, alpha, rtol=2e-5, atol=1e-6)


def test_the_tutorials_network_with_its_words_in_our_order(tmp_path, annotations):
    arrays = tutorial()
    write_torch(tmp_path / "decoder.pth", arrays)
    model = build("tutorial")
    load_weights(model, tmp_path / "decoder.pth")
    # Theirs: 0 padding, 1 to 3 words, 4 unknown, 5 start, 6 end.
    expected = tutorial_forward(arrays, annotations, [5, 3, 4, 1])
    logits, _ = teach(model, annotations, [1, 6, 3, 4, 2])
    np.testing.assert_allclose(logits, expected[:, [0, 5, 6, 4, 1, 2, 3]], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name,
        lambda name: name.replace("attention.", "").replace("decode_step", "cell"),
        lambda name: f"decoder.{name}",
        lambda name: f"param/{name.replace('decode_step', 'cell')}",
    ],
)
def test_names_of_the_tutorial_and_of_those_who_rewrote_it(tmp_path, rename):
    arrays = tutorial()
    one, other = build("tutorial"), build("tutorial")
    load_caption_weights(one, arrays)
    np.savez(tmp_path / "a.npz", **{rename(name): value for name, value in arrays.items()})
    load_weights(other, tmp_path / "a.npz")
    assert unchanged(one, values(other))


def test_a_recorded_network(golden, tmp_path):
    arrays, _ = golden("model_caption_tiny")
    np.savez(tmp_path / "recorded.npz", **{k: v for k, v in arrays.items() if k.startswith("param/")})
    words, embedding = arrays["param/embedding.weight"].shape
    model = build(
        "tutorial",
        words=words,
        embedding=embedding,
        units=len(arrays["param/init_h.bias"]),
        attention=len(arrays["param/encoder_att.bias"]),
        width=arrays["in/features"].shape[-1],
    )
    load_caption_weights(model, tmp_path / "recorded.npz", order=range(words))
    features, tokens = arrays["in/features"], arrays["in/words"].astype("i4")
    found = model({"annotations": features[:, None], "tokens": tokens[:, None]})
    np.testing.assert_allclose(found["logits"][:, 0], arrays["out/logits"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["attention"][:, 0], arrays["out/alphas"], rtol=1e-5, atol=1e-6)


def without(arrays, *names):
    return {name: value for name, value in arrays.items() if name not in names}


ARCTIC = {"words": WORDS + 2, "attention": None}
WRONG = {
    "missing": (arctic, {}, lambda a: without(a, "decoder_b_sel"), ARCTIC, "decoder_b_sel is missing"),
    "left over": (arctic, {}, lambda a: a | {"decoder_1_W": a["decoder_W"]}, ARCTIC, "decoder_1_W has no place"),
    "units": (arctic, {}, lambda a: a, ARCTIC | {"units": 8}, r"ff_state_W has shape \(6, 4\).*the model \(6, 8\)"),
    "output": (
        arctic,
        {"ff_logit_b": (WORDS + 2,)},
        lambda a: a,
        ARCTIC,
        r"ff_logit_b has shape \(9,\), and the embedding has 7 words",
    ),
    "one axis": (arctic, {"Wemb": (WORDS,)}, lambda a: a, ARCTIC, "does not fit"),
    "words": (arctic, {}, lambda a: a, ARCTIC | {"words": 7}, "the model has 7 words, .* has 9. Build .*num_classes=9"),
    "variant": (arctic, {}, lambda a: a, ARCTIC | {"variant": "tutorial"}, 'is for variant="paper"'),
    "tutorial words": (tutorial, {}, lambda a: a, {"variant": "tutorial", "words": 8}, "num_classes=7"),
    "tutorial missing": (
        tutorial,
        {},
        lambda a: without(a, "decode_step.bias_hh"),
        {"variant": "tutorial"},
        "decode_step.bias_ih and bias_hh is missing",
    ),
    "tutorial shape": (
        tutorial,
        {"f_beta.weight": (5, 4)},
        lambda a: a,
        {"variant": "tutorial"},
        r"f_beta.weight has shape \(4, 5\) in Keras's layout, the model \(4, 6\)",
    ),
    "tutorial variant": (tutorial, {}, lambda a: a, {}, 'is for variant="tutorial"'),
    "no embedding": (tutorial, {}, lambda a: without(a, "embedding.weight"), {"variant": "tutorial"}, "is missing"),
    "other": (tutorial, {}, lambda a: {"x": a["fc.bias"]}, {}, "no captioner known here.* It has x"),
    "nothing": (tutorial, {}, lambda a: {}, {}, "It has nothing"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_changes_nothing(tmp_path, case):
    make, changed, change, options, message = WRONG[case]
    np.savez(tmp_path / "a.npz", **change(make(**changed)))
    model = build(**options)
    before = values(model)
    with pytest.raises(ModelError, match=message):
        load_weights(model, tmp_path / "a.npz")
    assert unchanged(model, before)


def test_an_order_of_words_of_ones_own():
    arrays = tutorial()
    model = build("tutorial", words=5)
    load_caption_weights(model, arrays, order=[0, 5, -1, 2, 6])
    table = np.asarray(model.decoder.embedding.embeddings)
    np.testing.assert_array_equal(table[[0, 1, 3, 4]], arrays["embedding.weight"][[0, 5, 2, 6]])
    assert not table[2].any()
    for wrong, message in (([0, 1, 2], "`order` has 3"), ([0, 1, 2, 3, 7], r"the ids \[7\], and the file has 0 to 6")):
        with pytest.raises(ModelError, match=message):
            load_caption_weights(model, arrays, order=wrong)


def test_networks_without_attention_are_refused():
    model = captioner(PlainDecoder(WORDS, embedding_units=3, units=4, name="decoder"))
    with pytest.raises(ModelError, match="no decoder with attention"):
        load_caption_weights(model, tutorial())
    image = keras.Input((4,))
    with pytest.raises(ModelError, match="no decoder with attention"):
        load_caption_weights(keras.Model(image, keras.layers.Dense(2)(image)), tutorial())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no archive", "pickle", "cut"])
def test_damaged_and_dangerous_files(tmp_path, content):
    path = tmp_path / "a.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **arctic() | ({"Wemb": np.array([Bomb()], object)} if content == "pickle" else {}))
        if content == "cut":
            path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ModelError, match=r"a\.npz cannot be read as arrays of numbers"):
        load_weights(build(**ARCTIC), path)
    with pytest.raises(ModelError, match="existing file"):
        load_weights(build(**ARCTIC), tmp_path / "absent.npz")


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a weight file was run",)


def test_vocabulary_of_the_authors_code():
    expected = ("<pad>", "<start>", "<end>", "<unk>", "a", "dog")
    assert arctic_vocabulary(["a", "dog"]).words == expected
    assert arctic_vocabulary({"dog": 3, "a": 2}).words == expected
    # What the dictionary may say of the first two is known; `n_words` counts them.
    assert arctic_vocabulary({"<eos>": 0, "UNK": 1, "a": 2, "dog": 3, "cat": 4}, size=4).words == expected
    for wrong in ({"a": 2, "dog": 4}, {"a": 2, "dog": 2}, {"a b": 2}):
        with pytest.raises(DataError):
            arctic_vocabulary(wrong)


def test_vocabulary_of_the_tutorial(tmp_path):
    numbers = {"a": 1, "dog": 2, "<unk>": 3, "<start>": 4, "<end>": 5, "<pad>": 0}
    (tmp_path / "WORDMAP.json").write_text(json.dumps(numbers))
    for given in (numbers, tmp_path / "WORDMAP.json"):
        assert tutorial_vocabulary(given).words == ("<pad>", "<start>", "<end>", "<unk>", "a", "dog")
    for wrong, message in (
        ({**numbers, "<pad>": 6}, "must give each word one of the ids 0 to 5"),
        ({**numbers, "<end>": 4, "<start>": 5}, "must begin with <pad> and end with <unk>, <start>, <end>"),
        ({**numbers, "a": "1"}, "is no word map"),
        (tmp_path / "absent.json", "cannot be read"),
    ):
        with pytest.raises(DataError, match=message):
            tutorial_vocabulary(wrong)
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(DataError, match=r"list\.json is no word map"):
        tutorial_vocabulary(tmp_path / "list.json")


def write_torch(path, arrays):
    """A file of torch.save in its older form, by hand: the pickle names torch's functions without torch."""
    numbers = {name: np.ascontiguousarray(value, "<f4") for name, value in arrays.items()}

    def text(value):
        return b"X" + len(value).to_bytes(4, "little") + value.encode()

    def integer(value):
        return b"J" + value.to_bytes(4, "little")

    def integers(items):
        return b"(" + b"".join(map(integer, items)) + b"t"

    def tensor(key, value):
        kind = b"ctorch\nFloatStorage\n"
        storage = b"(" + text("storage") + kind + text(key) + text("cpu") + integer(value.size) + b"NtQ"
        strides = [n // 4 for n in value.strides]
        return (
            b"ctorch._utils\n_rebuild_tensor_v2\n("
            + storage
            + integer(0)
            + integers(value.shape)
            + integers(strides)
            + b"\x89}tR"
        )

    items = b"".join(text(name) + tensor(str(k), value) for k, (name, value) in enumerate(numbers.items()))
    head = [pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    keys = pickle.dumps([str(k) for k in range(len(numbers))], 2)
    tail = [value.size.to_bytes(8, "little") + value.tobytes() for value in numbers.values()]
    path.write_bytes(b"".join([*head, b"\x80\x02}(" + items + b"u.", keys, *tail]))
