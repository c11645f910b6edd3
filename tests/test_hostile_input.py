"""Files and folders as the world delivers them: every answer names the file, or is a documented skip."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import resource
import shutil
import struct
import warnings
import zlib
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import keras_cv_lectures as kcvl
from kcvl import main
from keras_cv_lectures import files
from keras_cv_lectures.data import doctor, shapes_source
from keras_cv_lectures.errors import DataError, KcvlWarning, ModelError
from keras_cv_lectures.metadata import Metadata
from keras_cv_lectures.recipe import TrainingOptions
from keras_cv_lectures.systems import SYSTEMS

SIZE = (32, 40)
OPTIONS = TrainingOptions(epochs=1, batch_size=4, input_size=SIZE, warmup_epochs=0)


def write_pair(folder, name, image, mask):
    for kind, array in (("images", image), ("masks", mask)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(array, np.uint8)).save(folder / kind / f"{name}.png")


def write_examples(folder, count=8, classes=3):
    for index, example in enumerate(shapes_source(count, size=SIZE)):
        write_pair(folder, f"p{index}", example["image"], np.minimum(example["mask"], classes - 1))
    return f"folder:{folder / 'images'},{folder / 'masks'}"


@pytest.fixture
def spec(tmp_path):
    """Eight good pictures with masks of the classes 0..2, in `tmp_path`."""
    return write_examples(tmp_path)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return kcvl.build_unet((None, None, 3), 3, filters=2, depth=1)


@pytest.fixture(scope="module")
def stored(model, tmp_path_factory):
    """A run folder with `exports/`."""
    folder = tmp_path_factory.mktemp("stored") / "run"
    folder.mkdir()
    metadata = Metadata(
        system="unet", classes=("class 0", "class 1", "class 2"), colors=((0, 0, 0),) * 3, input_size=SIZE
    )
    model.save(folder / "best.keras")
    (folder / "run.json").write_text(json.dumps(metadata.to_json()))
    kcvl.export_tflite(model, folder / "exports" / "m.tflite", input_shape=SIZE, metadata=metadata)
    kcvl.export_saved_model(model, folder / "exports" / "saved", input_shape=SIZE, metadata=metadata)
    return folder


def fit(spec, out):
    """Trains one epoch of a tiny network; the validation data are the training data."""
    source = kcvl.open_source(spec)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*pictures to validate on are trained on, too", KcvlWarning)
        run = kcvl.train(
            SYSTEMS["unet"], source, source, out=out, config={"filters": 2, "depth": 1}, options=OPTIONS, verbose=0
        )
    assert np.isfinite([row["loss"] for row in run.history]).all()
    return run


# Damaged pictures


def png_header(width, height):
    """A valid PNG that claims to be large and holds next to nothing."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def damaged_file(kind, folder):
    """A file that is no picture, and what is said about it."""
    good = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    path = folder / ("bad.jpg" if "jpeg" in kind else "bad.png")
    Image.fromarray(good).save(path)
    content = path.read_bytes()
    content, message = {
        "truncated jpeg": (content[: len(content) // 2], "is truncated or damaged"),
        "truncated png": (content[: len(content) // 2], "is truncated or damaged"),
        "jpeg header only": (content[:3], "is truncated or damaged"),
        "zero bytes": (b"", "is empty (0 bytes)"),
        "text": (b"this is a shopping list, not a picture\n", "is not a picture"),
        "html from a failed download": (b"<!DOCTYPE html><title>404</title>", "is not a picture"),
        "huge": (png_header(60_000, 60_000), "is too large"),
    }[kind]
    path.write_bytes(content)
    return path, message


KINDS = (
    *("truncated jpeg", "truncated png", "jpeg header only", "zero bytes"),
    *("text", "html from a failed download", "huge"),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["images", "masks"])
def test_a_damaged_picture_or_mask_is_named(spec, tmp_path, kind, place):
    good = tmp_path / place / "p3.png"
    bad, message = damaged_file(kind, tmp_path)
    good.unlink()
    bad = Path(shutil.move(bad, good.with_suffix(bad.suffix)))
    report = doctor(spec)
    assert not report.ok
    assert [p for p in report.problems if str(bad) in p and message in p]
    with pytest.raises(DataError) as error:
        list(kcvl.open_source(spec))
    assert str(bad) in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_picture_is_not_predicted(model, tmp_path, kind):
    bad, message = damaged_file(kind, tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError) as error:
        kcvl.predict(model, bad)
    assert str(bad) in str(error.value)
    assert message in str(error.value)
    # 60000x60000 pixels would be 10 GB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_a_damaged_picture_stops_training_by_name(spec, tmp_path):
    bad = tmp_path / "images" / "p5.png"
    bad.write_bytes(bad.read_bytes()[:300])
    with pytest.raises(DataError) as error:
        fit(spec, tmp_path / "run")
    assert f"{bad} is truncated or damaged" in str(error.value)


# Unusual but good data


def test_pictures_without_any_label_are_trained_around(spec, tmp_path):
    """A mask of 255 only: no pixel counts."""
    write_pair(tmp_path, "nothing", np.zeros((*SIZE, 3)), np.full(SIZE, 255))
    run = fit(spec, tmp_path / "run")
    source = kcvl.open_source(spec)
    evaluation = kcvl.evaluate_segmentation(kcvl.load_runner(run.folder), source)
    assert evaluation.pictures == 9
    assert evaluation.confusion.sum() == 8 * SIZE[0] * SIZE[1]
    assert evaluation.scores["mean_iou"] >= 0


def test_masks_of_255_only_are_all_foreground_and_said_so(tmp_path, model):
    for name in "ab":
        write_pair(tmp_path, name, np.zeros((*SIZE, 3)), np.full(SIZE, 255))
    report = doctor(f"folder:{tmp_path}/images,{tmp_path}/masks")
    assert report.ok
    assert "every labelled pixel is 'foreground'" in report.text()
    assert "0 and 255 were taken as background and foreground" in report.text()


def test_grey_pictures_among_coloured_ones(spec, tmp_path):
    example = shapes_source(9, size=SIZE)[8]
    write_pair(tmp_path, "grey", example["image"][..., 0], np.minimum(example["mask"], 2))
    assert "1 of 9 pictures are grey among coloured ones: grey" in doctor(spec).text()
    run = fit(spec, tmp_path / "run")
    result = kcvl.predict(run.folder, tmp_path / "images" / "grey.png")
    assert result.class_map.shape == SIZE


def test_a_class_of_one_pixel_and_one_that_validation_lacks(tmp_path):
    spec = write_examples(tmp_path / "train")
    val_spec = write_examples(tmp_path / "val", 3, classes=2)
    mask = np.zeros(SIZE)
    mask[7, 9] = 3
    write_pair(tmp_path / "train", "dot", np.zeros((*SIZE, 3)), mask)
    source = kcvl.open_source(spec)
    assert len(source.classes) == 4
    val = kcvl.open_source(val_spec, like=source)
    options = dataclasses.replace(OPTIONS, class_weights="median_frequency", loss="cross_entropy+dice")
    run = kcvl.train(
        SYSTEMS["unet"],
        source,
        val,
        out=tmp_path / "run",
        config={"filters": 2, "depth": 1},
        options=options,
        verbose=0,
    )
    assert np.isfinite([row["val_loss"] for row in run.history]).all()
    scores = kcvl.evaluate_segmentation(kcvl.load_runner(run.folder), val).scores
    absent = scores["per_class"][3]
    assert absent["pixels"] == 0
    assert absent["accuracy"] is None
    assert np.isfinite(scores["mean_iou"])


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 2), (333, 517)])
def test_odd_sizes_are_predicted(stored, size):
    for path in (stored, stored / "exports" / "m.tflite"):
        assert kcvl.predict(path, np.zeros((*size, 3), np.uint8)).class_map.shape == size


def test_empty_folders(tmp_path, model):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    spec = f"folder:{tmp_path}/images,{tmp_path}/masks"
    with pytest.raises(DataError, match=f"{tmp_path}/images holds no picture"):
        kcvl.open_source(spec)
    with pytest.raises(DataError, match=f"{tmp_path}/images holds no pictures"):
        kcvl.predict(model, tmp_path / "images")
    assert not doctor(spec).ok


# Damaged models


def damaged_copy(stored, folder, kind, content):
    """A copy of the run where the file of `kind` holds `content(its bytes)`; returns (the model to load, the file)."""
    run = shutil.copytree(stored, folder / "run")
    model, file = {
        "keras": (run / "best.keras", run / "best.keras"),
        "run folder": (run, run / "best.keras"),
        "tflite": (run / "exports" / "m.tflite", run / "exports" / "m.tflite"),
        "saved_model": (run / "exports" / "saved", run / "exports" / "saved" / "saved_model.pb"),
        "run.json": (run, run / "run.json"),
        "card": (run / "exports" / "m.tflite", run / "exports" / "m.json"),
    }[kind]
    file.write_bytes(content(file.read_bytes()))
    return model, file


def flipped(content):
    """Twenty bytes changed."""
    rng, changed = np.random.default_rng(0), bytearray(content)
    for place in rng.integers(0, len(changed), 20):
        changed[place] ^= int(rng.integers(1, 256))
    return bytes(changed)


@pytest.mark.parametrize("kind", ["keras", "run folder", "tflite", "saved_model"])
@pytest.mark.parametrize(
    "content",
    [lambda b: b"", lambda b: b[:20], lambda b: b[: len(b) // 2], lambda b: b[:-1], lambda b: b"text\n" * 40, flipped],
    ids=["empty", "start", "half", "last byte", "text", "flipped"],
)
def test_a_damaged_model_is_named(stored, tmp_path, kind, content):
    model, _ = damaged_copy(stored, tmp_path, kind, content)
    with pytest.raises(ModelError) as error:
        kcvl.predict(model, np.zeros((*SIZE, 3), np.uint8))
    assert str(model) in str(error.value)


@pytest.mark.parametrize("kind", ["run.json", "card"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1, 2]", b'{"classes": 3}', b'{"input_size": 3}', b"\xff\xfe\x00"], ids=repr
)
def test_a_damaged_description_is_named(stored, tmp_path, kind, content):
    model, file = damaged_copy(stored, tmp_path, kind, lambda b: content)
    with pytest.raises(ModelError, match="is not a valid description of a model") as error:
        kcvl.load_runner(model)
    assert str(file) in str(error.value)


def test_a_damaged_description_of_the_run_around_an_export(stored, tmp_path, capsys):
    """Scoring an export looks whether the run around it was trained on these pictures."""
    _, file = damaged_copy(stored, tmp_path, "run.json", lambda b: b[:30])
    data = write_examples(tmp_path / "data", 2)
    assert main(["evaluate", str(file.parent / "exports" / "m.tflite"), "--data", data]) == 1
    assert f"kcvl: {file}" in capsys.readouterr().err


def test_code_in_a_keras_file_is_not_run(tmp_path):
    marker = tmp_path / "was_here"

    def touch(x):
        marker.touch()
        return x

    inputs = keras.Input((*SIZE, 3))
    hidden = keras.layers.Lambda(touch)(inputs)
    outputs = keras.layers.Conv2D(2, 1, name="logits")(hidden)
    keras.Model(inputs, outputs).save(tmp_path / "m.keras")
    marker.unlink(missing_ok=True)
    with pytest.raises(ModelError, match="cannot be loaded") as error:
        kcvl.predict(tmp_path / "m.keras", np.zeros((*SIZE, 3), np.uint8))
    assert str(tmp_path / "m.keras") in str(error.value)
    assert not marker.exists()


# Disks


@contextlib.contextmanager
def full_disk(monkeypatch, after):
    """The disk is full after that many files."""
    written = []
    atomic_path = files.atomic_path

    @contextlib.contextmanager
    def limited(path):
        with atomic_path(path) as temporary:
            yield temporary
            written.append(path)
            if len(written) > after:
                raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "atomic_path", limited)
        yield


def test_a_full_disk_while_saving_predictions(stored, spec, tmp_path, monkeypatch, capsys):
    with full_disk(monkeypatch, after=3):
        code = main(["predict", str(stored), str(tmp_path / "images"), "--out", str(tmp_path / "out")])
    assert code == 1
    err = capsys.readouterr().err
    assert f"the prediction of {tmp_path / 'images' / 'p1.png'} could not be written to {tmp_path / 'out'}" in err
    assert "No space left on device" in err
    # What is there is whole, and nothing else is there.
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == ["p0_classes.png", "p0_overlay.png", "p1_classes.png"]
    for name in left:
        with Image.open(tmp_path / "out" / name) as picture:
            picture.load()


@pytest.mark.parametrize("command", ["train", "predict", "export", "evaluate"])
def test_a_folder_that_cannot_be_written(stored, spec, tmp_path, capsys, command):
    """Below a file, because whoever runs the tests may be allowed to write everywhere else."""
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out"
    words = {
        "train": ["train", "unet", "--data", spec, "--set", "filters=2", "--set", "depth=1"],
        "predict": ["predict", str(stored), str(tmp_path / "images" / "p0.png")],
        "export": ["export", str(stored)],
        "evaluate": ["evaluate", str(stored), "--data", spec],
    }[command]
    assert main([*words, "--out", str(out)]) == 1
    err = capsys.readouterr().err
    assert str(out.parent) in err.splitlines()[-1]
    assert "Traceback" not in err


def test_an_export_that_cannot_be_written_leaves_nothing(model, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises((ModelError, OSError), match="file"):
        kcvl.export_saved_model(model, tmp_path / "file" / "saved", input_shape=SIZE)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
