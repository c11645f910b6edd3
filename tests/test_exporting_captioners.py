"""Exported captioners say what their model says, word by word; a program beside the file prints it."""

import json
import runpy
import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from command_line import call

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.exporting import card, export_saved_model, export_tflite
from keras_cv_lectures.exporting.caption_agreement import compare_captions
from keras_cv_lectures.exporting.captioner import captioner_in_float32
from keras_cv_lectures.exporting.captioner_files import caption_program
from keras_cv_lectures.language import AttentionDecoder, Captioner, PlainDecoder, build_show_attend_tell
from keras_cv_lectures.metadata import Metadata
from keras_cv_lectures.predicting import predict
from keras_cv_lectures.predicting.pictures import resize_picture
from keras_cv_lectures.runners import load_runner
from keras_cv_lectures.text import END, SPECIAL_WORDS, START

SIZE, WORDS = (32, 48), 23
VOCABULARY = (*SPECIAL_WORDS, *(f"word{k}" for k in range(4, WORDS)))
METADATA = Metadata(classes=VOCABULARY, input_size=SIZE)
SENTENCES = ("beam", "greedy", "serving_default")


def tiny_captioner(decoder=None, *, beam_size=3, seed=7, channels=3, **search):
    """Six places of a picture and a vocabulary of 23: a captioner in a second. Its sentences depend on the picture."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((*SIZE, channels), name="image")
    x = keras.layers.Conv2D(8, 3, strides=8, padding="same", activation="tanh", name="first")(image / 127.5 - 1.0)
    encoder = keras.Model(image, keras.layers.MaxPooling2D(2)(x), name="encoder")
    decoder = decoder or AttentionDecoder(WORDS, embedding_units=6, units=10, attention_units=5, name="decoder")
    model = Captioner(encoder, decoder, input_shape=(*SIZE, channels), max_words=7, beam_size=beam_size, **search)
    rng = np.random.default_rng(seed)
    for weight in (*model.encoder.weights, *model.decoder.weights):
        if "seed" not in weight.path:
            weight.assign(rng.normal(0, 1.2, weight.shape))
    bias = np.zeros(WORDS, np.float32)
    bias[END] = 1.5
    model.decoder.vocabulary.bias.assign(bias)
    return model


def blobs(count, seed=0):
    """(count, 32, 48, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 6, 3), np.uint8).repeat(8, 1).repeat(8, 2)


def assert_same(found, expected, tolerance=1e-4):
    assert set(found) == set(expected)
    np.testing.assert_array_equal(found["tokens"], expected["tokens"])
    np.testing.assert_array_equal(found["length"], expected["length"])
    for name in set(found) & {"log_probability", "attention"}:
        np.testing.assert_allclose(found[name], expected[name], atol=tolerance, err_msg=name)


@pytest.fixture(scope="module")
def captioner():
    return tiny_captioner()


@pytest.fixture(scope="module")
def exported(captioner, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    return export_tflite(captioner, folder / "m.tflite", metadata=METADATA, metrics={"BLEU-4": 0.25})


@pytest.fixture(scope="module")
def signatures(exported):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(exported.path))
    return {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}


def answer(tokens, log_probability, attention=None):
    found = {"tokens": np.int32(tokens), "log_probability": np.float32(log_probability)}
    return found if attention is None else {**found, "attention": np.float32(attention)}


def test_sentences_are_compared_word_by_word():
    one = answer([[4, 5, 2, 0], [6, 7, 8, 2]], [-1.0, -20.0], [[0.5, 0.5], [1, 0]])
    other = answer([[4, 5, 2, 0], [6, 7, 8, 2]], [-1.00005, -20.001], [[0.50002, 0.5], [1, 0]])
    result = compare_captions([(one, other)])
    assert (result.pictures, result.equal, result.ties, result.label_agreement) == (2, 2, 0, 1.0)
    assert result.log_probability_difference == pytest.approx(5e-5, rel=0.01)
    assert result.attention_difference == pytest.approx(2e-5, rel=0.01)
    result.require_equal("x")


def test_two_sentences_as_likely_as_each_other_are_a_tie():
    result = compare_captions([(answer([[4, 5, 2]], [-1.0]), answer([[4, 6, 2]], [-1.00001]))])
    assert (result.equal, result.ties) == (0, 1)
    assert result.label_agreement == pytest.approx(2 / 3)
    result.require_equal("x")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (answer([[4, 6, 2]], [-1.1], [[1.0]]), "1 of 1 sentences are others .4 5 2 of the model, 4 6 2 of the export"),
        (answer([[4, 6, 2]], [np.nan], [[1.0]]), "1 of 1 sentences are others"),
        (answer([[4, 5, 2]], [-1.001], [[1.0]]), "log probabilities differ by 1.0e-03"),
        (answer([[4, 5, 2]], [np.nan], [[1.0]]), "log probabilities differ by nan"),
        (answer([[4, 5, 2]], [-1.0], [[0.99]]), "attention by 1.0e-02"),
        (answer([[4, 5, 2]], [-1.0], [[np.nan]]), "attention by nan"),
    ],
)
def test_what_float32_does_not_explain_is_refused(other, message):
    result = compare_captions([(answer([[4, 5, 2]], [-1.0], [[1.0]]), other)])
    with pytest.raises(ModelError, match=f"{message}.*Nothing was written"):
        result.require_equal("x")


def test_the_file_says_what_the_model_says(captioner, exported):
    pictures = blobs(30)
    expected = load_runner(captioner)(pictures)
    assert len(np.unique(expected["tokens"], axis=0)) > 5
    assert len(set(expected["length"].tolist())) > 1
    assert_same(load_runner(exported.path)(pictures), expected)


def test_greedy_is_a_search_with_one_hypothesis(captioner, signatures):
    greedy = load_runner(captioner.with_search(beam_size=1))
    differs = 0
    for picture in blobs(8, seed=1)[:, None]:
        found = signatures["greedy"](image=picture)
        assert_same(found, greedy(picture))
        beam = signatures["beam"](image=picture)
        assert_same(signatures["serving_default"](image=picture), beam, 0)
        differs += (beam["tokens"] != found["tokens"]).any()
    assert differs, "the searches should not be the same"


def test_a_loop_over_steps_finds_the_greedy_sentence(signatures):
    for picture in blobs(5, seed=2)[:, None]:
        found = signatures["greedy"](image=picture)
        state = signatures["encode"](image=picture)
        assert {name: value.shape for name, value in state.items()} == {
            "annotations": (1, 6, 8),
            "projected": (1, 6, 5),
            "hidden": (1, 3, 10),
            "cell": (1, 3, 10),
        }
        word, total = START, 0.0
        for t, expected in enumerate(found["tokens"][0]):
            step = signatures["decode_step"](tokens=np.full((1, 3), word, np.int32), **state)
            scores = step["log_probabilities"][0, 0]
            np.testing.assert_allclose(np.exp(scores.astype(np.float64)).sum(), 1, atol=1e-5)
            np.testing.assert_allclose(step["attention"][0, 0], found["attention"][0, t].ravel(), atol=1e-5)
            scores[[0, 1, 3]] = -np.inf  # Padding, start and unknown are never said.
            word = int(np.argmax(scores))
            assert word == expected
            total += scores[word]
            if word == END:
                break
            state |= {"hidden": step["hidden"], "cell": step["cell"]}
        assert found["log_probability"][0] == pytest.approx(total, abs=1e-4)


def test_what_lies_beside_the_file(captioner, exported):
    folder = exported.path.parent
    assert sorted(p.name for p in folder.iterdir()) == ["m.json", "m.md", "m.tflite", "m.txt", "m_run.py"]
    assert (folder / "m.txt").read_text(encoding="utf-8").split("\n") == [*VOCABULARY, ""]
    card = json.loads((folder / "m.json").read_text())
    assert card["task"] == "captioning"
    assert (card["vocabulary_size"], card["beam_size"], card["max_words"]) == (WORDS, 3, 7)
    assert card["metrics"] == {"BLEU-4": 0.25}
    assert card["program"] == (folder / "m_run.py").read_text()
    assert card["agreement"]["equal"] == card["agreement"]["pictures"] == 1
    text = (folder / "m.md").read_text()
    for part in ("sentences equal to the model's | 1 of 1", "words that it knows | 23", "BLEU-4 | 0.25"):
        assert part in text
    assert "word7" not in text
    assert exported.label_agreement == 1
    assert exported.max_difference < 1e-5


def test_the_cost_is_that_of_a_sentence(captioner, exported, monkeypatch):
    monkeypatch.setattr(card, "gflops", lambda model, size, loop_steps: 0.5 + loop_steps)
    assert card.build_card(captioner, exported, (1, *SIZE, 3), METADATA)["gflops"] == 7.5


def test_weights_are_stored_once_and_annotations_projected_once(captioner, exported):
    from ai_edge_litert import schema_py_generated as schema

    content = exported.path.read_bytes()
    model = schema.Model.GetRootAs(content, 0)
    weights = [model.Buffers(i).DataLength() for i in range(model.BuffersLength())]
    assert sum(weights) < 4 * captioner.count_params() + 6000  # The rest: shapes, names of axes, empty sentences.
    loops = 0
    for number in range(model.SubgraphsLength()):
        graph = model.Subgraphs(number)
        if b"while" in graph.Name():
            loops += 1
            for i in range(graph.OperatorsLength()):
                code = model.OperatorCodes(graph.Operators(i).OpcodeIndex()).BuiltinCode()
                if code == schema.BuiltinOperator.FULLY_CONNECTED:
                    kernel = graph.Tensors(graph.Operators(i).Inputs(1)).ShapeAsNumpy().tolist()
                    assert kernel != [5, 8], "the annotations are projected for every word"
    assert loops == 4


def _printed(folder, program, picture):
    """What the program prints, in a process that cannot import this package."""
    run = [sys.executable, "-I", str(program), str(picture)]
    return subprocess.run(run, cwd=folder, capture_output=True, text=True, check=True).stdout


def test_the_program_prints_the_sentence(captioner, exported, tmp_path):
    from PIL import Image

    # Of the exported size, because Pillow and TensorFlow round resized pictures differently.
    Image.fromarray(blobs(1, seed=5)[0]).save(tmp_path / "picture.png")
    expected = predict(captioner, tmp_path / "picture.png", classes=VOCABULARY).caption
    assert expected
    assert _printed(tmp_path, exported.path.parent / "m_run.py", "picture.png") == f"{expected}\n"
    Image.fromarray(blobs(1, seed=5)[0]).convert("L").resize((77, 31)).save(tmp_path / "grey.png")
    words = _printed(tmp_path, exported.path.parent / "m_run.py", "grey.png").split()
    assert set(words) <= set(VOCABULARY)


def test_pictures_of_any_size_are_described(captioner, exported):
    runner = load_runner(exported.path)
    for size in ((31, 57), (80, 20), (33, 33)):
        picture = np.random.default_rng(size[0]).integers(0, 256, (*size, 3), np.uint8)
        found, expected = predict(runner, picture), predict(captioner, picture, classes=VOCABULARY)
        assert found.caption == expected.caption
        assert found.attention.shape == (len(found.words), 2, 3)
        np.testing.assert_allclose(found.attention.sum((1, 2)), 1, atol=1e-5)


@pytest.mark.slow
def test_the_program_takes_an_array_of_other_channels(tmp_path, monkeypatch, capsys):
    captioner = tiny_captioner(channels=5)
    export_tflite(captioner, tmp_path / "m.tflite", metadata=METADATA, verify=False)
    array = np.random.default_rng(8).integers(0, 256, (*SIZE, 5), np.uint8)
    np.save(tmp_path / "array.npy", array)
    monkeypatch.setattr(sys, "argv", ["m_run.py", str(tmp_path / "array.npy")])
    runpy.run_path(str(tmp_path / "m_run.py"))
    expected = predict(captioner, array, classes=VOCABULARY).caption
    assert expected
    assert capsys.readouterr().out == f"{expected}\n"


@pytest.mark.parametrize("tflite", [True, False])
@pytest.mark.parametrize("shape", [(16, 24, 5), (None, None, 2)])
def test_the_program_shows_the_network_what_predict_shows_it(tflite, shape, tmp_path, monkeypatch):
    shown = []

    def run(image):
        shown.append(np.asarray(image))
        return {"tokens": np.int32([[4, END]]), "length": np.int32([1])}

    model = SimpleNamespace(get_signature_runner=lambda key: run, signatures={"caption": run})
    monkeypatch.setattr("ai_edge_litert.interpreter.Interpreter", lambda *args, **options: model)
    monkeypatch.setattr(tf.saved_model, "load", lambda folder: model)
    array = np.random.default_rng(9).integers(0, 256, (31, 57, shape[-1]), np.uint8)
    np.save(tmp_path / "array.npy", array)
    (tmp_path / "run.py").write_text(caption_program("m.tflite", shape, None, tflite=tflite))
    monkeypatch.setattr(sys, "argv", ["run.py", str(tmp_path / "array.npy")])
    runpy.run_path(str(tmp_path / "run.py"))
    expected = array if None in shape else resize_picture(array, shape[:2])
    assert [image.shape for image in shown] == [(1, *expected.shape)]
    assert shown[0].dtype == np.uint8
    # Pillow rounds after each of the two directions.
    assert np.abs(shown[0][0].astype(int) - expected).max() <= 2 * (None not in shape)


@pytest.mark.parametrize("tflite", [True, False])
@pytest.mark.parametrize("shape", [(32, 48, 3), (None, None, 1), (32, 48, 2), (None, None, 5)])
def test_programs_of_all_kinds_are_python(tflite, shape):
    for words in ("m.txt", None):
        text = caption_program("m.tflite", shape, words, tflite=tflite)
        compile(text, "program", "exec")
        assert ("words" in text.replace("in words", "")) == bool(words)


@pytest.mark.parametrize("export", [export_tflite, export_saved_model])
def test_words_that_do_not_fit_are_refused(captioner, tmp_path, export):
    with pytest.raises(ModelError, match="made for 23 words, `metadata.classes` has 22"):
        export(captioner, tmp_path / "m.tflite", metadata=Metadata(classes=VOCABULARY[:-1]))
    with pytest.raises(ModelError, match="are its vocabulary: a vocabulary begins with <pad>"):
        export(captioner, tmp_path / "m.tflite", metadata=Metadata(classes=VOCABULARY[4:]))
    assert list(tmp_path.iterdir()) == []


def test_open_sizes_are_refused(captioner, tmp_path):
    with pytest.raises(ModelError, match="is a captioner.*takes one size"):
        export_tflite(captioner, tmp_path / "m.tflite", dynamic=True)


@pytest.mark.slow
def test_a_captioner_that_disagrees_is_refused(captioner, tmp_path, monkeypatch):
    from keras_cv_lectures.exporting import tflite

    def others(path):
        runner = load_runner(path)
        return lambda x: {**(found := runner(x)), "log_probability": found["log_probability"] - 1}

    monkeypatch.setattr(tflite, "load_runner", others)
    with pytest.raises(ModelError, match="log probabilities differ by.*Nothing was written"):
        export_tflite(captioner, tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_saved_model_says_what_the_model_says(captioner, tmp_path, monkeypatch, capsys):
    from PIL import Image

    result = export_saved_model(captioner, tmp_path / "m", metadata=METADATA)
    assert result.label_agreement == 1
    pictures = blobs(12, seed=3)
    expected = load_runner(captioner)(pictures)
    runner = load_runner(tmp_path / "m")
    assert_same(runner(pictures), expected)
    assert_same(runner(pictures[:1]), {name: value[:1] for name, value in expected.items()})
    loaded = tf.saved_model.load(str(tmp_path / "m"))
    assert {"caption", "serving_default", "serve"} <= set(loaded.signatures)
    assert_same({k: v.numpy() for k, v in loaded.signatures["caption"](image=pictures).items()}, expected)
    sentence = predict(captioner, pictures[0], classes=VOCABULARY).caption
    assert predict(runner, pictures[0]).caption == sentence
    Image.fromarray(pictures[0]).save(tmp_path / "picture.png")
    monkeypatch.setattr(sys, "argv", ["run.py", str(tmp_path / "picture.png")])
    runpy.run_path(str(tmp_path / "m" / "run.py"))
    assert capsys.readouterr().out == f"{sentence}\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("decoder", "search"),
    [
        (lambda: PlainDecoder(WORDS, embedding_units=6, units=9, name="decoder"), {}),
        (lambda: PlainDecoder(WORDS, units=9, embedding_units=6, picture="every", layers=2, name="decoder"), {}),
        (lambda: AttentionDecoder(WORDS, embedding_units=6, units=9, attention="mean", name="decoder"), {}),
        (
            lambda: AttentionDecoder(
                WORDS, embedding_units=6, units=9, attention="hard", gate="vector", readout="plain", name="decoder"
            ),
            {"beam_size": 1},
        ),
        (
            lambda: AttentionDecoder(WORDS, embedding_units=6, units=9, gate=None, name="decoder"),
            {"beam_size": 5, "length_penalty": 0.7, "ban_unknown": False},
        ),
    ],
    ids=["plain", "lrcn", "mean", "hard", "penalty"],
)
def test_all_decoders_convert(decoder, search, tmp_path):
    model = tiny_captioner(decoder(), **search)
    pictures = blobs(10, seed=4)
    export_tflite(model, tmp_path / "m.tflite", representative=pictures[:4])
    assert_same(load_runner(tmp_path / "m.tflite")(pictures), load_runner(model)(pictures))


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tokens", "nats"), [("float16", 0.98, 0.05), ("int8", 0.6, 3.0)])
def test_other_precisions_keep_the_sentences(captioner, tmp_path, precision, tokens, nats):
    # Random weights: far nearer to ties than a trained captioner, whose int8 file keeps 99 % of its words.
    calibration, pictures = blobs(120, seed=6), blobs(40, seed=7)
    result = export_tflite(captioner, tmp_path / "m.tflite", precision=precision, representative=calibration)
    assert result.label_agreement >= tokens
    agreement = compare_captions([(load_runner(captioner)(pictures), load_runner(result.path)(pictures))])
    assert agreement.label_agreement >= tokens
    assert agreement.log_probability_difference < nats


@pytest.mark.slow
def test_a_captioner_of_bfloat16_is_exported_in_float32(tmp_path):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = tiny_captioner()
    finally:
        keras.config.set_dtype_policy(policy)
    copy = captioner_in_float32(model)
    assert copy is not model
    assert captioner_in_float32(copy) is copy
    export_tflite(model, tmp_path / "m.tflite")
    pictures = blobs(6)
    assert_same(load_runner(tmp_path / "m.tflite")(pictures), load_runner(copy)(pictures))


@pytest.mark.slow
def test_export_and_predict_on_the_command_line(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    model = build_show_attend_tell(
        (*SIZE, 3), WORDS, backbone="resnet14_v1_5", units=16, embedding_units=8, attention_units=8, max_words=5
    )
    (tmp_path / "run").mkdir()
    model.save("run/best.keras")
    metadata = Metadata(system="show_attend_tell", classes=VOCABULARY, input_size=SIZE)
    (tmp_path / "run" / "run.json").write_text(json.dumps(metadata.to_json()))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (45, 70, 3), np.uint8)).save("p.png")
    said = {}
    for kind in ("tflite", "saved_model"):
        code, out, _ = call("export", "run", "--format", kind, "--out", "exports")
        assert code == 0
        file = "show_attend_tell_float32.tflite" if kind == "tflite" else "show_attend_tell_saved_model"
        assert "tokens that the model has, too" in out
        code, _, _ = call("predict", f"exports/{file}", "p.png", "--out", kind)
        assert code == 0
        said[kind] = json.loads((tmp_path / kind / "p_caption.json").read_text())["tokens"]
    code, _, _ = call("predict", "run", "p.png", "--out", "keras")
    expected = json.loads((tmp_path / "keras" / "p_caption.json").read_text())["tokens"]
    assert said == {"tflite": expected, "saved_model": expected}
