"""What an export agrees on with its model: floats, labels that are no tie, whole numbers, and detections."""

import contextlib
import json
import re
import runpy
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_cv_lectures.errors import KcvlWarning, ModelError
from keras_cv_lectures.exporting import export_saved_model, export_tflite, tflite
from keras_cv_lectures.exporting.agreement import compare_detections
from keras_cv_lectures.exporting.result import Comparison, _compare_arrays, compare, facts, warn_of_loss
from keras_cv_lectures.metadata import Metadata
from keras_cv_lectures.predicting import as_runner, is_detector, predict
from keras_cv_lectures.runners import load_runner


@keras.saving.register_keras_serializable("keras_cv_lectures_tests")
class Brightest(keras.layers.Layer):
    """Which channel is the brightest."""

    def call(self, x):
        return tf.argmax(x, axis=-1, output_type=tf.int32)


def compared(one, other):
    return _compare_arrays([tuple({k: np.array(v) for k, v in each.items()} for each in (one, other))])


def test_whole_and_boolean_outputs_are_counted():
    classes, seen = [[0, 1, 2, 3]], [[True, False]]
    found = compared({"classes": classes, "seen": seen}, {"classes": [[0, 1, 7, 3]], "seen": [[True, True]]})
    assert (found.max_difference, found.scale) == (None, 0.0)
    assert found.label_agreement == found.changed * 2 == pytest.approx(2 / 3)
    with pytest.raises(ModelError, match=r"33\.3 % of the labels are others, at most 0\.1 % may be ties.*Nothing was"):
        found.require_equal("x")
    compared({"classes": classes}, {"classes": classes}).require_equal("x")
    many = np.zeros((1, 2001), np.int64)
    compared({"classes": many}, {"classes": np.eye(1, 2001, dtype=np.int64)}).require_equal("x")
    with pytest.raises(ModelError):
        compared({"classes": many[:, :999]}, {"classes": np.eye(1, 999, dtype=np.int64)}).require_equal("x")


@pytest.mark.parametrize(
    ("logits", "labels"),
    [([[[[1, 1.0001, -9], [5, 0, 4]]]], [[[1, 0]]]), ([[[[-0.00005], [3]]]], [[[0, 1]]])],
    ids=["classes", "foreground"],
)
def test_labels_may_differ_where_logits_tie(logits, labels):
    one = {"logits": np.float32(logits), "class_map": labels}
    tie, other = [[[1 - labels[0][0][0], labels[0][0][1]]]], [[[labels[0][0][0], 1 - labels[0][0][1]]]]
    found = compared(one, {**one, "class_map": tie})
    assert (found.max_difference, found.label_agreement, found.changed) == (0.0, 0.5, 0.0)
    found.require_equal("x")
    found = compared(one, {**one, "class_map": other})
    assert (found.label_agreement, found.changed) == (0.5, 0.5)
    with pytest.raises(ModelError, match="50 % of the labels are others"):
        found.require_equal("x")


def test_nothing_is_said_of_what_was_not_compared():
    image = keras.Input((4, 4, 1))
    assert compare(keras.Model(image, image), lambda batch: {}, []) == Comparison()
    assert facts(Comparison()) == {"max_difference": None, "label_agreement": None, "agreement": None}
    assert facts(compared({"a": [0.5]}, {"a": [0.25]}))["max_difference"] == 0.25


def test_a_file_of_labels_alone_that_disagrees_is_refused(tmp_path, monkeypatch):
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, Brightest()(image))
    result = export_tflite(model, tmp_path / "m.tflite")
    assert (result.max_difference, result.label_agreement) == (None, 1.0)
    assert "| whole numbers equal to the model's | 100.00 % |" in (tmp_path / "m.md").read_text()

    def one_wrong(path):
        runner = load_runner(path)

        def run(batch):
            found = runner(batch)
            found["output"][0, 0, 0] += 1
            return found

        return run

    monkeypatch.setattr(tflite, "load_runner", one_wrong)
    with pytest.raises(ModelError, match=r"1\.56 % of the labels are others"):  # 1 of 64
        export_tflite(model, tmp_path / "n.tflite")
    assert not list(tmp_path.glob("n*"))


# Files of less than 32 bits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "facts", "message"),
    [
        ("float16", {"max_difference": 0.5, "scale": 50.0, "label_agreement": 1.0}, None),
        (
            "float16",
            {"max_difference": 0.6, "scale": 50.0, "label_agreement": 1.0},
            "differs .* by 0.6, .* up to 50, .*: 11 bits are",
        ),
        ("float16", {"max_difference": np.nan, "scale": 50.0}, "by nan.*infinite. Choose float32, or measure"),
        (
            "float16",
            {"max_difference": np.nan, "scale": np.nan},
            "by nan.*: 11 bits are too few for its weights. Choose",
        ),
        ("float16", {"label_agreement": 0.79}, r"agrees with its model on 79\.0 % of the labels"),
        ("int8", {"max_difference": 40.0, "scale": 50.0, "label_agreement": 0.8}, None),
        ("int8", {"max_difference": 0.0, "scale": 50.0, "label_agreement": 0.79}, "Choose float32 or float16"),
        ("int8", {"max_difference": 13.0, "scale": 50.0}, "differs from its model by 13"),
        ("float32", {"max_difference": 13.0, "scale": 50.0}, None),
        ("int8", {}, None),
    ],
)
def test_what_fewer_bits_lose_is_told(precision, facts, message):
    with contextlib.ExitStack() as stack:
        if message:
            stack.enter_context(pytest.warns(KcvlWarning, match=rf"m.tflite in {precision} .*{message}"))
        warn_of_loss(Comparison(**facts), "m.tflite", precision, "eight pictures")


@pytest.mark.parametrize(("weight", "cause"), [(-65505.0, "weights beyond 65504 become inf"), (65504.0, "11 bits are")])
def test_a_weight_that_float16_lacks_is_the_cause_where_nothing_shows_it(weight, cause):
    """Behind a sigmoid infinity is 1; the state of random numbers is larger, and no weight of float16."""
    weights = [keras.Variable(np.float32([0, weight])), keras.Variable(np.uint32([10**6]), dtype="uint32")]
    with pytest.warns(KcvlWarning, match=f"eight pictures: {cause}"):
        warn_of_loss(Comparison(label_agreement=0.5), "m.tflite", "float16", "eight pictures", weights)


def test_weights_that_float16_lacks_are_told(tmp_path):
    image = keras.Input((4, 4, 1))
    layer = keras.layers.Conv2D(1, 1, kernel_initializer=keras.initializers.Constant(1e5), name="depth")
    model = keras.Model(image, layer(image))
    with pytest.warns(KcvlWarning, match=r"m\.tflite in float16 differs.*on the first 2 pictures of `representative`:"):
        export_tflite(
            model, tmp_path / "m.tflite", precision="float16", representative=np.full((2, 4, 4, 1), 9, np.uint8)
        )
    assert "| compared with the model on | the first 2 pictures of `representative` |" in (
        (tmp_path / "m.md").read_text()
    )


# Detectors of one's own ----------------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("keras_cv_lectures_tests")
class Boxes(keras.layers.Layer):
    """Three rows of which the second is no object; the scores are the picture's brightness and half of it."""

    def call(self, x):
        light = ops.mean(x, axis=(1, 2, 3))[:, None] / 255  # (B, 1)
        boxes = np.float32([[[0, 0, 8, 16], [0, 0, 0, 0], [0, 0, 16, 16]]])
        return {
            "boxes": ops.zeros_like(light)[..., None] + boxes,
            "scores": light * np.float32([[1.0, 0.0, 0.5]]),
            "labels": ops.cast(ops.zeros_like(light), "int32") + np.int32([[0, -1, 1]]),
        }


def own_detector(names=("boxes", "scores", "labels")):
    image = keras.Input((16, 16, 3), name="image")
    found = Boxes()(image)
    return keras.Model(image, {name: found[name] for name in names}, name="own")


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)


def test_detections_without_a_count_end_where_no_label_is():
    one = {
        "boxes": np.float32([[[0, 0, 8, 8], [0, 0, 0, 0]]]),
        "scores": np.float32([[0.5, 0.4]]),
        "labels": np.int32([[1, -1]]),
    }
    result = compare_detections([(one, one)])
    assert (result.detections, result.paired) == (2, 2)
    counted = {**one, "labels": np.int32([[1, 1]]), "count": np.int32([1])}
    assert compare_detections([(counted, one)]).detections == 2


@pytest.mark.parametrize("name", ["m.tflite", "m"])
def test_a_detector_without_a_count_is_exported_as_predict_takes_it(name, picture, tmp_path, monkeypatch, capsys):
    from PIL import Image

    model, path = own_detector(), tmp_path / name
    result = (export_tflite if path.suffix else export_saved_model)(model, path)
    assert result.agreement["detections"] == result.agreement["paired"] == 4
    expected = predict(model, picture)
    assert expected.labels.tolist() == [0, 1]
    np.testing.assert_allclose(predict(path, picture).boxes, expected.boxes)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture).save("picture.png")
    program = tmp_path / "m_run.py" if path.suffix else path / "run.py"
    monkeypatch.setattr(sys, "argv", [str(program), "picture.png"])
    runpy.run_path(str(program))
    found = [[float(n) for n in re.findall(r"[\d.]+", line)] for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in found] == [0, 1]
    np.testing.assert_allclose([row[1] for row in found], expected.scores, atol=1e-3)
    np.testing.assert_allclose([row[2:] for row in found], expected.boxes, atol=0.1)


def test_an_export_takes_away_the_words_of_the_one_before(tmp_path):
    places = {"m_run.py", "m.txt", "n.txt"}
    (tmp_path / "n.txt").write_text("mine")
    export_tflite(own_detector(), tmp_path / "m.tflite", metadata=Metadata(classes=("a", "b")), verify=False)
    assert places <= {path.name for path in tmp_path.iterdir()}
    export_tflite(own_detector(), tmp_path / "m.tflite", verify=False)
    assert not (tmp_path / "m.txt").exists()
    assert '"m.txt"' not in (tmp_path / "m_run.py").read_text()
    # Of this one no card says that it belongs to the file.
    (tmp_path / "m.txt").write_text("mine")
    export_tflite(own_detector(("boxes", "scores")), tmp_path / "m.tflite", verify=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.json", "m.md", "m.tflite", "m.txt", "n.txt"]


def test_files_that_no_export_wrote_stay(tmp_path):
    """Whatever a card, or somebody's own file of its name, says: they go only with the text that it gave them."""
    path = tmp_path / "m.tflite"
    card = {"file": "m.tflite", "task": "detection", "program": "print(1)\n", "classes": ["a", "b c"]}
    ours = {"m_run.py": "print(1)\n", "m.txt": "a\nb c\n"}

    def found(card, files):
        (tmp_path / "m.json").write_text(card if isinstance(card, str) else json.dumps(card))
        for name, text in files.items():
            (tmp_path / name).write_bytes(text.encode("latin-1"))
        return {place.name for place in tflite._beside_older(path)}

    assert found(card, ours) == {"m_run.py", "m.txt"}
    assert found(card, {**ours, "m_run.py": "print(2)\n"}) == {"m.txt"}
    assert found(card, {**ours, "m.txt": "\xe4"}) == {"m_run.py"}
    assert found({**card, "classes": 7}, ours) == found({**card, "classes": [7]}, ours) == {"m_run.py"}
    assert found({**card, "classes": []}, {**ours, "m.txt": ""}) == {"m_run.py"}
    for other in ({"file": "n.tflite"}, {"program": None}, {"task": None}, {"task": "train"}):
        assert found({**card, **other}, ours) == set()
    for content in ("damaged", "[]", "{}", ""):
        assert found(content, ours) == set()


def test_an_old_file_that_cannot_be_removed_is_told(tmp_path, monkeypatch):
    export_tflite(own_detector(), tmp_path / "m.tflite", metadata=Metadata(classes=("a", "b")), verify=False)
    unlink = Path.unlink

    def refuse(self, **options):
        if self.name == "m.txt":
            raise PermissionError("used by another program")
        unlink(self, **options)

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.warns(
        KcvlWarning, match=r"m\.txt belongs to the export that this one replaced.*used by another.*Remove"
    ):
        result = export_tflite(own_detector(), tmp_path / "m.tflite", verify=False)
    assert json.loads(result.card_path.read_text())["classes"] == []


def raw_heads():
    """Of the names of detections, with a score for each class."""
    model = own_detector()
    outputs = model.output
    return keras.Model(model.input, {**outputs, "scores": ops.repeat(outputs["scores"][..., None], 5, axis=-1)})


@pytest.mark.parametrize("make", [lambda: own_detector(("boxes", "scores")), raw_heads], ids=["no labels", "raw"])
def test_heads_that_are_no_detections_are_compared_as_arrays(make, picture, tmp_path):
    model = make()
    result = export_tflite(model, tmp_path / "m.tflite")
    assert result.agreement is None
    for each in (model, result.path):
        assert is_detector(as_runner(each)) is False
        with pytest.raises(
            ModelError, match=r"expected a segmentation model.* A detector gives boxes \(B, D, 4\), sco"
        ):
            predict(each, picture)
    assert result.max_difference < 1e-6
    assert "task" not in json.loads(result.card_path.read_text())
    assert not (tmp_path / "m_run.py").exists()
