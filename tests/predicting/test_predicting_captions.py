"""Captioners through the predictor: every kind of file says the same about pictures of every size."""

import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from PIL import Image

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.metadata import Metadata
from keras_cv_lectures.predicting import (
    CaptionResult,
    is_captioner,
    is_detector,
    predict,
    predict_averaged,
    predict_tiled,
    vocabulary_of,
)
from keras_cv_lectures.predicting.tiled import as_runner
from keras_cv_lectures.runners import Runner
from keras_cv_lectures.text import Vocabulary

WORDS = Vocabulary(("<pad>", "<start>", "<end>", "<unk>", "a", "dark", "bright", "picture"))
GRID = (2, 3)


def describer(input_shape=(16, 24, 3), *, attention=True):
    """Says "a bright picture" or "a dark picture", and looks at all of it, then at the brightest sixth."""
    image = keras.Input(input_shape, name="image")
    level = ops.mean(image, axis=(1, 2, 3))  # (B,)
    bright = ops.cast(level > 127.5, "int32")
    ones = ops.ones_like(bright)
    columns = [ones * 4, 5 + bright, ones * 7, ones * 2, ones * 0]
    outputs = {
        "tokens": ops.stack(columns, axis=1),
        "length": ones * 3,
        "log_probability": -level / 100,
    }
    if attention:
        cells = ops.mean(keras.layers.AveragePooling2D((8, 8))(image), axis=-1)  # (B, 2, 3)
        best = ops.cast(cells >= ops.max(cells, axis=(1, 2), keepdims=True), "float32")
        even = ops.ones_like(best) / 6
        outputs["attention"] = ops.stack([even, even, best, even, even * 0], axis=1)
    return keras.Model(image, outputs)


def picture_of(size, level, corner=True):
    """One grey, with a white lower right sixth."""
    picture = np.full((*size, 3), level, np.uint8)
    if corner:
        picture[size[0] // 2 :, 2 * size[1] // 3 :] = 255
    return picture


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The captioner as every kind of file: name -> path. The `.tflite` has signatures of steps too."""
    folder = tmp_path_factory.mktemp("stored")
    model = describer()
    facts = Metadata(classes=WORDS.words, input_size=(16, 24)).to_json()
    (folder / "run").mkdir()
    model.save(folder / "run" / "best.keras")
    archive = keras.export.ExportArchive()
    archive.track(model)
    spec = tf.TensorSpec((1, 16, 24, 3), tf.uint8, name="image")
    archive.add_endpoint("encode", lambda image: {"mean": tf.reduce_mean(tf.cast(image, tf.float32))}, [spec])
    archive.add_endpoint("beam", lambda image: model(tf.cast(image, tf.float32)), [spec])
    archive.write_out(folder / "saved", verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved"))
    (folder / "model.tflite").write_bytes(converter.convert())
    for card in ("run/run.json", "model.json", "saved/model_card.json"):
        (folder / card).write_text(json.dumps(facts))
    return {"run": folder / "run", "saved": folder / "saved", "tflite": folder / "model.tflite"}


@pytest.mark.parametrize("kind", ["saved", "tflite"])
def test_words_beside_a_file_without_its_card_are_read(stored, tmp_path, kind):
    file = tmp_path / stored[kind].name
    if kind == "saved":
        shutil.copytree(stored[kind], file, ignore=shutil.ignore_patterns("model_card.json"))
    else:
        shutil.copy(stored[kind], file)
    with pytest.raises(ModelError, match="the words of .* are not known"):
        predict(file, picture_of((16, 24), 30))
    WORDS.save(file / "labels.txt" if kind == "saved" else tmp_path / "model.txt")
    assert predict(file, picture_of((16, 24), 30)).caption == "a dark picture"


@pytest.mark.parametrize("size", [(16, 24), (61, 47)], ids=str)
@pytest.mark.parametrize("kind", ["run", "saved", "tflite"])
def test_every_kind_of_file_says_the_same(stored, kind, size):
    result = predict(stored[kind], picture_of(size, 30))
    assert isinstance(result, CaptionResult)
    assert (result.caption, result.words, result.ended) == ("a dark picture", ("a", "dark", "picture"), True)
    assert result.tokens.tolist() == [4, 5, 7]
    assert result.log_probability == pytest.approx(-(30 * 5 / 6 + 255 / 6) / 100, abs=0.03)  # edges are mixed
    assert result.attention.shape == (3, *GRID)
    np.testing.assert_allclose(result.attention.sum(axis=(1, 2)), 1, atol=1e-6)
    assert result.attention[2].argmax() == 5
    assert result.image.shape == (*size, 3)
    assert str(predict(stored[kind], picture_of(size, 200))) == "a bright picture"


def test_what_is_a_captioner_is_known_before_or_seen_in_the_answer(stored):
    assert [is_captioner(as_runner(path)) for path in stored.values()] == [True] * 3
    assert is_detector(as_runner(stored["run"])) is False
    model, asked = describer((None, None, 3), attention=False), []

    def run(images):
        asked.append(images.shape)
        return {name: np.asarray(value) for name, value in model(images.astype(np.float32)).items()}

    runner = dataclasses.replace(_runner(run), input_shape=(None, None, 3))
    assert is_captioner(runner) is None
    results = list(predict(runner, [picture_of((9, 9), 0), picture_of((11, 8), 220)], batch_size=2))
    assert is_captioner(runner) is True
    assert [str(result) for result in results] == ["a dark picture", "a bright picture"]
    assert results[0].attention is None
    assert asked == [(1, 9, 9, 3), (1, 9, 9, 3), (1, 11, 8, 3)]  # the first tells what the file gives


def test_pictures_share_a_batch_and_come_from_a_folder(stored, tmp_path):
    for number, level in enumerate((10, 240, 20)):
        Image.fromarray(picture_of((30, 20 + number), level)[..., 0]).save(tmp_path / f"p{number}.png")
    found = list(predict(stored["run"], tmp_path, batch_size=2))
    assert [(each.name, each.words[1], each.image.shape[-1]) for each in found] == [
        ("p0", "dark", 1),
        ("p1", "bright", 1),
        ("p2", "dark", 1),
    ]


def test_a_keras_captioner_is_prepared_once_for_all_batches(stored):
    runner = as_runner(stored["run"])
    list(predict(runner, [picture_of((20, 20), 1)] * 3, batch_size=2))
    assert runner.facts["open"].structured_outputs["tokens"].shape == (None, 5)


@pytest.mark.parametrize("settings", [{"tile": 32}, {"tile": "auto"}, {"margin": 8}, {"stride": 4}], ids=str)
def test_captioners_are_not_tiled(stored, settings):
    with pytest.raises(ModelError, match="captioner is not predicted in tiles"):
        predict(stored["tflite"], picture_of((20, 20), 1), **settings)


def test_captioners_are_neither_averaged_nor_coloured(stored):
    with pytest.raises(ModelError, match="Only a segmentation can be averaged"):
        predict_averaged(stored["run"], picture_of((16, 24), 1))
    with pytest.raises(ModelError, match="captioner is not predicted in tiles"):
        predict_tiled(stored["saved"], picture_of((16, 24), 1), margin=2)
    with pytest.raises(ModelError, match="no colours"):
        predict(stored["run"], picture_of((16, 24), 1), colors=[(0, 0, 0)])


def test_words_asked_for_take_the_place_of_those_beside_the_file(stored):
    other = Vocabulary((*WORDS.words[:4], "ein", "dunkles", "helles", "Bild"))
    assert str(predict(stored["run"], picture_of((16, 24), 9), classes=other.words)) == "ein dunkles Bild"
    assert str(predict(stored["run"], picture_of((16, 24), 9), classes=other)) == "ein dunkles Bild"


def test_words_that_do_not_fit(stored, tmp_path):
    picture = picture_of((16, 24), 9)
    with pytest.raises(ModelError, match="said word 7, but the vocabulary has 6 words"):
        predict(stored["tflite"], picture, classes=WORDS.words[:6])
    with pytest.raises(ModelError, match=r"`classes`: a vocabulary begins with <pad>"):
        predict(stored["run"], picture, classes=("cat", "dog"))
    model = describer()
    with pytest.raises(ModelError, match=r"are not known.*classes=Vocabulary.load"):
        predict(model, picture)
    model.vocabulary_size = 9
    with pytest.raises(ModelError, match="made for 9 words, the vocabulary has 8"):
        predict(model, picture, classes=WORDS)
    # A `.tflite` that lost its card still has its words in the text file beside it.
    (tmp_path / "model.tflite").write_bytes(stored["tflite"].read_bytes())
    WORDS.save(tmp_path / "model.txt")
    assert vocabulary_of(as_runner(tmp_path / "model.tflite")) == WORDS
    (tmp_path / "model.txt").write_text("cat\ndog\n")
    with pytest.raises(ModelError, match=r"words beside the model: .*model.txt"):
        predict(tmp_path / "model.tflite", picture)


def _runner(run):
    shape = {"input_shape": (16, 24, 3), "input_dtype": "uint8"}
    return Runner(kind="other", metadata=Metadata(classes=WORDS.words), path=None, run=run, **shape)


def _answers(tokens, attention=None):
    found = {"tokens": np.int32([tokens]), "length": np.int32([0]), "log_probability": np.float32([-1])}
    return found if attention is None else found | {"attention": np.asarray(attention, np.float32)[None]}


def test_captions_of_no_words_and_without_an_end():
    silent = predict(_runner(lambda images: _answers([2, 0, 0], np.ones((3, 1, 1)))), picture_of((16, 24), 1))
    assert (silent.words, silent.caption, silent.ended, silent.attention.shape) == ((), "", True, (0, 1, 1))
    assert silent.draw().shape[2] == 3
    endless = predict(_runner(lambda images: _answers([4, 3, 4])), picture_of((16, 24), 1))
    assert (endless.caption, endless.ended) == ("a <unk> a", False)


@pytest.mark.parametrize(
    "answer",
    [
        {"tokens": np.zeros((1, 3), np.int32)},
        {**_answers([4, 2]), "tokens": np.zeros(1, np.int32)},
        _answers([4, 2], np.ones((2, 6))),
        _answers([4, 2], np.ones((3, 2, 3))),
    ],
    ids=["only tokens", "flat", "flat attention", "longer attention"],
)
def test_answers_that_are_no_caption(answer):
    with pytest.raises(ModelError, match="expected a captioner|attention must be"):
        predict(_runner(lambda images: answer), picture_of((16, 24), 1))


@pytest.mark.parametrize("attention", [True, False])
def test_a_caption_is_drawn_and_saved(tmp_path, attention):
    picture = picture_of((32, 48), 60)
    result = predict(describer(attention=attention), picture, classes=WORDS)
    paths = result.save(tmp_path / "out", "mine")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["mine_caption.json", "mine_caption.png"]
    found = json.loads(paths["caption"].read_text())
    assert (found["caption"], found["words"], found["tokens"]) == (
        "a dark picture",
        ["a", "dark", "picture"],
        [4, 5, 7],
    )
    assert found["log_probability"] == pytest.approx(result.log_probability)
    if attention:
        np.testing.assert_allclose(found["attention"], result.attention, atol=1e-5)
    else:
        assert "attention" not in found
    with Image.open(paths["picture"]) as image:
        np.testing.assert_array_equal(np.asarray(image), result.draw())
    assert min(result.draw(side=100).shape[:2]) > 60
    silent = dataclasses.replace(result, words=())
    assert silent.draw(columns=2, side=100).shape == silent.draw(side=100).shape
