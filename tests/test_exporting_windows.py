"""Exports of runs see pictures as the runs do: in windows, at the size of the training; and what they are scored on."""

import dataclasses
import json
import re
import types
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from command_line import call
from keras import layers
from PIL import Image

from kcvl import commands
from keras_cv_lectures.data import open_source
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.evaluating import evaluate_segmentation
from keras_cv_lectures.exporting import card, export_saved_model, export_tflite
from keras_cv_lectures.exporting.given import window_facts
from keras_cv_lectures.geometry.tiles import cut_window
from keras_cv_lectures.layers import UpsampleTwice
from keras_cv_lectures.metadata import Metadata, read_metadata
from keras_cv_lectures.metrics import confusion_matrix
from keras_cv_lectures.predicting import as_runner, predict, predict_tiled
from keras_cv_lectures.reporting import export_run, exports
from keras_cv_lectures.runners import Runner, load_runner

WINDOW = (16, 24)
# Four pictures of 32x40 with 7 classes.
DATA = "shapes:count=16,size=32x40,split=val"
SHAPES = open_source(DATA)


def _network(*, global_view=False):
    """By hand: an output pixel looks 4 pixels far (1 + 1 + 2), and its stride is 2."""
    keras.utils.set_random_seed(3)
    x = keras.Input((None, None, 3))
    y = layers.Rescaling(1 / 128, -1.0)(x)
    y = layers.Conv2D(6, 3, padding="same", activation="tanh", kernel_initializer="random_normal")(y)
    y = layers.MaxPooling2D(2)(y)
    y = layers.Conv2D(6, 3, padding="same", activation="tanh", kernel_initializer="glorot_normal")(y)
    if global_view:
        y = layers.Add()([y, layers.GlobalAveragePooling2D(keepdims=True)(y)])
    y = UpsampleTwice("nearest")(y)
    # Of random classifiers most choose one class everywhere; this one is steep.
    steep = keras.initializers.RandomNormal(0.0, 9.0, seed=5)
    return keras.Model(x, layers.Conv2D(7, 1, kernel_initializer=steep, name="logits")(y))


def _run(folder, model, *, train_ids=(), train_root=None, **facts):
    folder.mkdir()
    model.save(folder / "best.keras")
    metadata = Metadata(system="unet", classes=SHAPES.classes, colors=SHAPES.colors, config={}, **facts)
    (folder / "run.json").write_text(json.dumps({**metadata.to_json(), "train_root": train_root}))
    (folder / "train_ids.txt").write_text("\n".join(train_ids))
    return folder


@pytest.fixture(scope="module")
def model():
    return _network()


@pytest.fixture(scope="module")
def cropped(tmp_path_factory, model):
    """A run that was trained on crops alone, so that it knows no size of pictures, and its files: format -> path."""
    run = _run(tmp_path_factory.mktemp("cropped") / "run", model)
    formats = ("tflite", "saved_model")
    rows = [export_run(run, out=run / "exports", file_format=kind, size=WINDOW) for kind in formats]
    return run, {kind: row["file"] for kind, row in zip(formats, rows, strict=True)}


@pytest.fixture(scope="module")
def sized(tmp_path_factory, model):
    """A run that was trained at 16x24, and its file of open size."""
    run = _run(tmp_path_factory.mktemp("sized") / "run", model, input_size=WINDOW)
    return run, export_run(run, out=run / "exports", dynamic=True)["file"]


@pytest.mark.parametrize("kind", ["tflite", "saved_model"])
def test_a_file_of_a_run_trained_on_crops_sees_larger_pictures_at_their_own_resolution(cropped, model, kind):
    run, files = cropped
    picture = _picture((42, 50))
    found, expected = predict(files[kind], picture), predict(run, picture)
    assert len(np.unique(expected.class_map)) >= 3
    # Nearer to the border than the network looks, windows see a mirror image, the run the network's own padding.
    inner = slice(4, -4), slice(4, -4)
    np.testing.assert_allclose(found.probabilities[inner], expected.probabilities[inner], atol=1e-5)
    top = np.sort(expected.probabilities[inner], -1)
    clear = top[..., -1] - top[..., -2] > 1e-4
    np.testing.assert_array_equal(found.class_map[inner][clear], expected.class_map[inner][clear])
    np.testing.assert_allclose(found.probabilities, predict_tiled(model, picture, tile=WINDOW), atol=1e-5)
    metadata = read_metadata(files[kind])
    assert (metadata.input_size, metadata.tiled) == (None, True)
    assert (metadata.tile_margin, metadata.tile_stride) == ((4, 4), 2)


def test_of_a_model_in_a_folder_of_its_own_below_a_run_nothing_is_known(model, tmp_path):
    """Least of all that it was trained on crops, because the run's `input_size` is not read for it."""
    folder = _run(tmp_path / "run", model, input_size=WINDOW) / "mine"
    folder.mkdir()
    model.save(folder / "m.keras")
    export_tflite(folder / "m.keras", tmp_path / "m.tflite", input_shape=WINDOW, verify=False)
    assert read_metadata(tmp_path / "m.tflite") == Metadata()
    row = export_run(folder / "m.keras", out=tmp_path / "exports", size=WINDOW)
    assert (read_metadata(row["file"]).tiled, read_metadata(row["file"]).input_size) == (False, WINDOW)


def test_the_exporters_see_the_pictures_of_a_run_as_the_command_does(cropped, sized, tmp_path):
    run, files = cropped
    picture = _picture((42, 50))
    for kind, export, name in (("tflite", export_tflite, "m.tflite"), ("saved_model", export_saved_model, "m")):
        export(run, tmp_path / name, input_shape=WINDOW, verify=False)
        assert read_metadata(tmp_path / name) == read_metadata(files[kind])
        expected = predict(files[kind], picture).probabilities
        np.testing.assert_allclose(predict(tmp_path / name, picture).probabilities, expected, atol=1e-5)
    # What was trained at one size sees pictures resized.
    export_tflite(sized[0], tmp_path / "n.tflite", dynamic=True, verify=False)
    assert read_metadata(tmp_path / "n.tflite") == read_metadata(sized[1])


def test_such_a_file_sees_a_picture_of_its_own_size_whole(cropped):
    run, files = cropped
    picture = _picture(WINDOW)
    expected = predict(run, picture).probabilities
    np.testing.assert_allclose(predict(files["tflite"], picture).probabilities, expected, atol=1e-5)
    # Asked for windows, it cuts it, and the border differs.
    assert np.abs(predict(files["tflite"], picture, margin=4).probabilities - expected).max() > 1e-3


def test_such_a_file_is_scored_in_windows(cropped, model):
    _, files = cropped
    evaluation = evaluate_segmentation(files["tflite"], SHAPES)
    assert evaluation.size is None
    answers = [predict_tiled(model, example["image"], tile=WINDOW).argmax(-1) for example in SHAPES]
    expected = sum(confusion_matrix(e["mask"], a, 7) for e, a in zip(SHAPES, answers, strict=True))
    np.testing.assert_array_equal(evaluation.confusion, expected)
    page = Path(files["tflite"]).with_suffix(".md").read_text()
    assert "a multiple of 2 pixels apart; 4 and 4 pixels at each edge" in page
    assert "top, left = (image.shape[1] - 16) // 2, (image.shape[2] - 24) // 2" in page


def test_int8_is_calibrated_on_windows(cropped, monkeypatch):
    seen = []

    class Stopped(Exception):
        pass

    def stop(*args, representative, **kwargs):
        seen.extend(representative)
        raise Stopped

    monkeypatch.setattr(exports, "export_tflite", stop)
    spec = "shapes:count=100,size=32x40"
    with pytest.raises(Stopped):
        export_run(cropped[0], out=cropped[0] / "never", precision="int8", spec=spec, size=WINDOW)
    for picture, example in zip(seen, open_source(spec), strict=True):
        np.testing.assert_array_equal(picture, cut_window(example["image"], (8, 8), WINDOW))


def test_without_a_bound_a_quarter_of_the_window_is_left_out():
    model, picture = _network(global_view=True), _picture((42, 50))
    facts = window_facts(model, WINDOW, True)
    assert facts == {"tiled": True, "tile_margin": (4, 6), "tile_stride": 2}
    assert window_facts(model, WINDOW, False) == {}
    # What the exporter would write, without a file.
    file = Runner(
        kind="tflite",
        metadata=Metadata(**facts),
        input_shape=(*WINDOW, 3),
        input_dtype="uint8",
        path=None,
        run=as_runner(model),
    )
    expected = predict_tiled(model, picture, tile=WINDOW, margin=(4, 6))
    np.testing.assert_allclose(predict(file, picture).probabilities, expected, atol=1e-5)


def test_a_file_of_open_size_keeps_the_size_of_the_training(sized):
    run, file = sized
    picture = _picture((60, 51))
    assert read_metadata(file).input_size == WINDOW
    expected = predict(run, picture).probabilities
    np.testing.assert_allclose(predict(file, picture).probabilities, expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:this model is made for pictures:keras_cv_lectures.errors.KcvlWarning")
def test_the_card_knows_the_margin_of_tiles(sized, model):
    picture = _picture((42, 50))
    expected = predict_tiled(model, picture, tile=32)
    np.testing.assert_allclose(predict(sized[1], picture, tile=32).probabilities, expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:this model is made for pictures:keras_cv_lectures.errors.KcvlWarning")
def test_the_commands_take_tile_margin_and_stride(sized, tmp_path):
    run, file = sized
    picture = _picture((42, 50))
    Image.fromarray(picture).save(tmp_path / "large.png")
    words = ["--tile", 32, "--margin", 0, "--stride", 16, "--out", tmp_path / "found"]
    code, _, err = call("predict", file, tmp_path / "large.png", *words)
    assert code == 0, err
    found = np.asarray(Image.open(tmp_path / "found" / "large_classes.png"))
    expected = predict(run, picture, tile=32, margin=0, stride=16)
    assert np.mean(found == expected.class_map) > 0.999
    assert np.mean(predict(run, picture, tile=32).class_map == expected.class_map) < 0.99
    code, _, err = call("predict", file, tmp_path / "large.png", "--margin", 8, "--out", tmp_path / "found")
    assert (code, "needs `tile`" in err) == (1, True)

    code, out, err = call("evaluate", run, "--data", DATA, "--tile", 24, "--margin", 0)
    assert code == 0, err
    assert "compared at each picture's own size" in out
    answers = [predict_tiled(run, example["image"], tile=24, margin=0).argmax(-1) for example in SHAPES]
    right = [(answer == example["mask"])[example["mask"] < 7] for answer, example in zip(answers, SHAPES, strict=True)]
    assert re.search(rf"^pixel accuracy +{np.concatenate(right).mean():.4f}$", out, re.M)
    assert call("predict", file, "x.png", "--tile", "wide", "--out", tmp_path / "never")[0] == 2


def test_pictures_that_were_trained_on_are_not_scored(tmp_path, model, monkeypatch):
    for example, name in zip(SHAPES, "abcd", strict=True):
        for folder, key in (("images", "image"), ("masks", "mask")):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(example[key].astype(np.uint8)).save(tmp_path / folder / f"{name}.png")
    (tmp_path / "labels.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(SHAPES.classes)))
    spec = f"folder:{tmp_path}/images,{tmp_path}/masks,labels={tmp_path}/labels.txt"
    run = _run(tmp_path / "run", model, input_size=(32, 40), train_ids="abc", train_root=str(tmp_path / "images"))
    row = export_run(run, out=run / "exports", spec=spec)
    assert row["scored_on"].endswith("(1 of 4 pictures; the others were trained on)")
    expected = evaluate_segmentation(run, SHAPES.subset([3])).scores["mean_iou"]
    assert row["mean_iou"] == pytest.approx(expected, abs=1e-3)
    card = json.loads((run / "exports" / "unet_float32.json").read_text())
    assert card["metrics_data"] == row["scored_on"]
    source, seen = open_source(spec), {"train_ids": "abcd", "train_root": str(tmp_path)}
    nothing, reason = exports._unseen(source, seen)
    assert (nothing, reason) == (None, f"every picture of {source.name} was trained on. --data SPEC names others")
    # Elsewhere are others of the same names.
    assert exports._unseen(source, {**seen, "train_root": str(tmp_path / "other")}) == (source, "")
    unscored = {**row, "mean_iou": None, "not_scored": reason}
    monkeypatch.setattr(commands, "export_run", lambda *args, **kwargs: unscored)
    out = call("export", run, "--data", spec, "--out", run / "exports")[1]
    assert f"The file was not scored: {reason}.\n" in out


@pytest.mark.parametrize("files", [None, lambda index: (Path(f"{index}.png"),)])
def test_names_alone_leave_no_picture_out_of_a_score(files):
    """A source without files, and the run of an earlier version, which did not keep where its pictures lay."""
    source = dataclasses.replace(SHAPES, files=files)
    run = {"train_ids": SHAPES.ids[1:], **({} if files else {"train_root": "/somewhere"})}
    scored, reason = exports._unseen(source, run)
    assert (scored.ids, reason) == (SHAPES.ids, "")
    assert scored.name.endswith("(3 of 4 pictures have names that pictures of the training had, and may be those)")


def test_a_lone_model_is_scored_on_the_data_and_takes_its_names(tmp_path, model):
    model.save(tmp_path / "lone.keras")
    code, out, err = call(
        "export", tmp_path / "lone.keras", "--data", DATA, "--size", "32x40", "--out", tmp_path / "exports"
    )
    assert code == 0, err
    metadata = read_metadata(tmp_path / "exports" / "lone_float32.tflite")
    assert (metadata.classes, metadata.colors) == (SHAPES.classes, SHAPES.colors)
    card = json.loads((tmp_path / "exports" / "lone_float32.json").read_text())
    expected = evaluate_segmentation(load_runner(model), SHAPES).scores["mean_iou"]
    assert card["metrics"]["mean_iou"] == pytest.approx(expected, abs=1e-3)
    assert "mean IoU of the file" in out
    assert "not scored" not in out


def test_a_lone_model_that_cannot_be_scored_is_exported_all_the_same(tmp_path, monkeypatch):
    # A hundred pictures are cut faster than they are resized.
    monkeypatch.setattr(exports, "resize_example", lambda example, size: {"image": example["image"][:8, :12]})
    x = keras.Input((8, 12, 3))
    y = layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 255)(x))
    keras.Model(x, layers.Dense(5, activation="softmax", name="answer")(y)).save(tmp_path / "lone.keras")
    data = "shapes:count=100,size=32x40"
    row = export_run(tmp_path / "lone.keras", out=tmp_path / "exports", precision="int8", spec=data)
    assert Path(row["file"]).exists()
    assert (row["mean_iou"], row["scored_on"]) == (None, None)
    assert "expected a segmentation model with an output 'probabilities'" in row["not_scored"]


def test_a_damaged_picture_or_one_that_the_model_cannot_take_is_no_score():
    def damaged(index):
        raise DataError("a.png is damaged.")

    x = keras.Input((None, None, 3))
    halves = layers.UpSampling2D(2)(layers.AveragePooling2D(2)(x))
    uneven = keras.Model(x, layers.Conv2D(7, 1, name="logits")(layers.Add()([x, halves])))
    none = Metadata()
    broken = dataclasses.replace(SHAPES, read=damaged)
    assert exports._fitting(broken, None, "mask", uneven, none, None) == (None, "a.png is damaged", none)
    odd = dataclasses.replace(SHAPES, read=lambda index: {"image": np.zeros((5, 7, 3), np.uint8), "mask": 0})
    source, reason, metadata = exports._fitting(odd, None, "mask", uneven, none, None)
    assert (source, metadata) == (None, none)
    assert "5x7" in reason


def test_a_lone_model_of_other_classes_is_not_scored():
    x = keras.Input((None, None, 3))
    other, source = keras.Model(x, layers.Conv2D(9, 1, name="logits")(x)), SHAPES.subset([0])
    found = exports._fitting(source, None, "mask", other, Metadata(), None)
    assert found == (None, f"the model has 9 classes and {source.name} has 7", Metadata())
    named = Metadata(classes=tuple("abc"))
    reason = f"the pictures of {source.name} have no weights"
    assert exports._fitting(source, None, "weights", other, named, None) == (None, reason, named)
    assert exports._fitting(source, None, "mask", other, named, None) == (source, "", named)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(16, 24), (9, 30), (1, 11), (31, 25), (5, 7)], ids=str)
def test_the_program_of_the_card_sees_the_middle_window_of_any_picture(tmp_path, monkeypatch, channels, size):
    """The middle of the picture endlessly mirrored, as prediction and calibration cut it."""
    seen = []
    runner = types.SimpleNamespace(signatures={"serving_default": lambda image: seen.append(image) or {"a": image}})
    monkeypatch.setattr(tf.saved_model, "load", lambda path: runner)
    monkeypatch.setattr(tf, "constant", lambda value: value)
    monkeypatch.chdir(tmp_path)
    picture = np.random.default_rng(0).integers(0, 256, (*size, channels), np.uint8)
    if channels == 4:
        np.save("PICTURE.npy", picture)
    else:
        Image.fromarray(picture[..., 0] if channels == 1 else picture).save("PICTURE.jpg", format="PNG")
    program = card._program("m", (*WINDOW, channels), "a", tflite=False, middle=True)
    exec(compile(program, "program", "exec"), {})
    middle = tuple((have - want) // 2 for have, want in zip(size, WINDOW, strict=True))
    np.testing.assert_array_equal(seen[0], cut_window(picture, middle, WINDOW)[None])


def test_the_program_of_a_valid_network_sees_what_is_around_the_middle(tmp_path, monkeypatch):
    """Windows of 21x27 that answer for 15x21: the picture itself is around the middle, not its mirror image."""
    keras.utils.set_random_seed(2)
    x = keras.Input((None, None, 3))
    y = layers.Conv2D(6, 7, activation="tanh", kernel_initializer="random_normal")(layers.Rescaling(1 / 64, -2.0)(x))
    run = _run(tmp_path / "run", keras.Model(x, layers.Conv2D(7, 1, name="logits")(y)))
    export_saved_model(run, tmp_path / "m", input_shape=(21, 27), verify=False)
    picture = _picture((40, 52))
    Image.fromarray(picture).save(tmp_path / "PICTURE.jpg", format="PNG")
    monkeypatch.chdir(tmp_path)
    exec(compile(json.loads((tmp_path / "m" / "model_card.json").read_text())["program"], "program", "exec"), {})
    # The middle window begins at (9, 12), its answer 3 pixels behind that.
    expected = predict(run, picture).class_map[12:27, 15:36]
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(np.load("OUTPUT.npy"), expected)


def _picture(size, seed=0):
    """Smooth enough for the network to see regions."""
    coarse = np.random.default_rng(seed).integers(0, 256, (size[0] // 3 + 1, size[1] // 3 + 1, 3), np.uint8)
    return coarse.repeat(3, 0).repeat(3, 1)[: size[0], : size[1]]
