"""Pictures that lie in files as arrays, such as memory does not hold, and windows at another scale than in training."""

from __future__ import annotations

import dataclasses
import re
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from command_line import call
from conftest import ROOT

from keras_cv_lectures.errors import DataError, KcvlWarning
from keras_cv_lectures.predicting import predict, predict_tiled
from keras_cv_lectures.predicting.pictures import picture_files, read_picture
from keras_cv_lectures.runners import load_runner
from keras_cv_lectures.segmentation import build_unet


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture(scope="module")
def five():
    return build_unet((None, None, 5), 2, filters=2, depth=1)


@pytest.fixture
def array(tmp_path, rng):
    pixels = rng.integers(0, 256, (12, 10, 5), np.uint8)
    np.save(tmp_path / "scan.npy", pixels)
    return pixels


def test_the_command_takes_an_array_of_five_channels(five, array, tmp_path):
    five.save(tmp_path / "five.keras")
    code, out, err = call("predict", tmp_path / "five.keras", tmp_path / "scan.npy", "--out", tmp_path / "found")
    assert (code, err) == (0, "predicting (1 picture) ...\n"), out
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == ["scan_classes.png", "scan_overlay.png"]
    of_file, of_array = predict(five, tmp_path / "scan.npy"), predict(five, array)
    assert of_file.name == "scan"
    np.testing.assert_array_equal(of_file.probabilities, of_array.probabilities)


def test_arrays_are_mapped_and_not_read(array, tmp_path):
    mapped = np.load(tmp_path / "scan.npy", mmap_mode="r+")
    assert np.shares_memory(read_picture(mapped)[0], mapped)
    of_file = read_picture(str(tmp_path / "scan.npy"))[0]
    mapped[3, 4, 2] = ~array[3, 4, 2]
    mapped.flush()
    assert of_file[3, 4, 2] == mapped[3, 4, 2] != array[3, 4, 2]
    # Masks may lie beside the pictures as arrays.
    with pytest.raises(DataError, match=r"holds no pictures .*name the files: .*/\*\.npy\."):
        picture_files(tmp_path)
    (tmp_path / "scan.npy").unlink()
    with pytest.raises(DataError, match="Pictures in folders below it are not looked for"):
        picture_files(tmp_path)


def test_files_that_hold_no_picture_are_refused_by_name(array, tmp_path):
    content = (tmp_path / "scan.npy").read_bytes()
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "small.npy", np.full((4, 4, 5), 0.5))
    (tmp_path / "cut.npy").write_bytes(content[:-7])
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "huge.npy").write_bytes(content.replace(b"(12, 10, 5)", b"(12, 9**9)"))
    for name in ("objects", "cut", "empty", "text", "huge", "missing"):
        with pytest.raises(DataError, match=rf"{name}\.npy is no array of numbers as numpy.save writes it"):
            read_picture(tmp_path / f"{name}.npy")
    with pytest.raises(DataError, match=r"small\.npy: A picture must lie in 0..255; this one seems to lie in 0..1"):
        read_picture(tmp_path / "small.npy")


def test_the_program_for_slides_larger_than_memory(tmp_path, monkeypatch):
    """That of docs/faq.md, on a smaller slide; its blocks make up the answer for all of it in memory."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "faq.md").read_text(encoding="utf-8"), re.DOTALL)
    (program,) = (block for block in blocks if "stream_tiles" in block)
    program = program.replace("(700, 900, 3)", "(70, 90, 3)").replace("tile=512", "tile=64")
    filled = "slide[:] = np.random.default_rng(0).integers(0, 256, slide.shape)\n"
    names: dict = {}
    keras.utils.set_random_seed(0)  # Some random networks give all pixels one class.
    exec(program.replace("labels = ", f"{filled}labels = "), names)
    expected = predict_tiled(names["model"], np.array(names["slide"]), tile=64).argmax(axis=-1)
    labels = np.load(Path("labels.npy"))
    assert 0 < labels.mean() < 1
    np.testing.assert_array_equal(labels, expected)


def test_windows_at_another_scale_than_the_training_are_said_once(rng):
    runner = load_runner(build_unet((None, None, 3), 2, filters=2, depth=1))
    trained = _trained(runner)
    sizes = (12, 18, 3), (11, 17, 3), (12, 8, 3)
    larger, close, portrait = (rng.integers(0, 256, size, np.uint8) for size in sizes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict(trained, close, tile=32)
        predict(trained, portrait, tile=32)
        predict(trained, larger)
        predict(runner, larger, tile=32)
        predict(_trained(runner, shrunk_by=1.4), np.tile(larger, (4, 4, 1)), tile=32)  # A slide, after patches of it.
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", KcvlWarning)
        list(predict(trained, [larger, np.repeat(larger, 2, axis=0)], tile=32))
        predict(trained, larger, tile=32)
    (message,) = (str(warning.message) for warning in told)
    assert "to 8x12 (height x width). Tiles see 12x18 unshrunk: if pictures were shrunk in training, too" in message
    with pytest.warns(KcvlWarning, match="shrunk in training to about 1/2.5 of their sides, to 8x12 .height x width."):
        predict(_trained(runner, shrunk_by=2.5), larger, tile=32)


def _trained(runner, **facts):
    """`runner` as of a run with pictures of 8x12."""
    return dataclasses.replace(
        runner, metadata=dataclasses.replace(runner.metadata, input_size=(8, 12), **facts), facts={}
    )
