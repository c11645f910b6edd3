"""`python:MODULE:FUNCTION` and docs/own_reader.md, whose program is run as it stands there."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kcvl import main
from keras_cv_lectures.data import doctor, has_splits, open_source
from keras_cv_lectures.data.trained_on import count_trained_on
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.reporting import absolute_spec, training_source, validation_source

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "own_reader.md"


@pytest.fixture
def scans(tmp_path, monkeypatch):
    """A folder with the program of the document and the data that it reads, as the current one.

    Pictures of both splits have the same names.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (program,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "scans.py").write_text(program)
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        folder = tmp_path / "scans" / split
        folder.mkdir(parents=True)
        for i in range(count):
            mask = np.zeros((32, 48), np.uint8)
            y, x = rng.integers(0, 16, 2)
            mask[y : y + 16, x : x + 16] = 1
            noise = rng.integers(0, 60, (32, 48, 3), np.uint8)
            Image.fromarray(noise + 180 * mask[..., None]).save(folder / f"{i:03}.png")
            np.save(folder / f"{i:03}.npy", mask)
    yield tmp_path
    sys.modules.pop("scans", None)


@pytest.mark.slow
def test_the_program_of_the_document_trains(scans, capsys):
    before = list(sys.path)
    runpy.run_path("scans.py", run_name="__main__")
    assert capsys.readouterr().out.splitlines()[-1] == str(Path("runs/scans"))
    rows = (scans / "runs" / "scans" / "history.csv").read_text().splitlines()
    scores = [float(row.split(",")[rows[0].split(",").index("val_mean_iou")]) for row in rows[1:]]
    assert len(scores) == 20
    assert max(scores) > 0.6, "bright squares on dark ground; one class everywhere scores less than 0.5"
    assert sys.path == before


@pytest.mark.slow
def test_a_function_trains_on_the_command_line(scans):
    spec = "python:scans:make"
    settings = ["input_size=32x48", "epochs=1", "batch_size=2", "filters=4", "depth=1"]
    settings = [word for setting in settings for word in ("--set", setting)]
    assert main(["train", "unet", "--data", spec, *settings, "--out", "run"]) == 0
    assert main(["evaluate", "run", "--data", spec]) == 0


def test_a_function_is_named_on_the_command_line(scans, capsys):
    before = list(sys.path)
    spec = "python:scans:make"
    assert has_splits(spec)
    trained, held_out = open_source(spec), open_source(spec, "val")
    assert trained.ids == tuple(f"train/00{i}" for i in range(6))
    assert held_out.ids == open_source(f"{spec},split=val").ids == ("val/000", "val/001")
    assert [example["image_id"] for example in held_out] == list(held_out.ids)
    # What `kcvl evaluate` says of each.
    assert [count_trained_on({"train_ids": trained.ids}, each) for each in (trained, held_out)] == [6, 0]
    assert main(["doctor", spec]) == 0
    assert "cell" in capsys.readouterr().out
    assert absolute_spec(f"{spec},split=val") == f"{spec},split=val"
    assert sys.path == [*before, str(scans)]


def test_a_function_may_import_what_lies_beside_it(scans):
    (scans / "lying_beside.py").write_text("LETTERS = 'val'\n")
    lines = ["import scans", "def make():", "    import lying_beside", "    return scans.make(lying_beside.LETTERS)"]
    (scans / "late.py").write_text("\n".join(lines))
    assert len(open_source("python:late:make")) == 2
    for name in ("late", "lying_beside"):
        sys.modules.pop(name)


def test_a_function_without_arguments_has_no_splits(scans):
    (scans / "whole.py").write_text("from scans import make\n\ndef everything():\n    return make('train')\n")
    assert not has_splits("python:whole:everything")
    assert len(open_source("python:whole:everything", "val")) == 6
    sys.modules.pop("whole")


def test_the_doctor_lists_what_the_reader_refuses(scans):
    for name in ("001", "004"):
        (scans / "scans" / "train" / f"{name}.png").write_bytes(b"")
    report = doctor("python:scans:make")
    assert len(report.problems) == 2
    assert all("is empty" in problem for problem in report.problems)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_function_that_finds_nothing_is_named(scans, capsys, split):
    for path in (scans / "scans" / split).iterdir():
        path.unlink()
    assert main(["train", "unet", "--data", "python:scans:make", "--out", "run"]) == 1
    assert f"scans {split} has no examples. Check the path" in capsys.readouterr().err
    assert not (scans / "run").exists()


def test_a_system_refuses_examples_without_what_it_learns_from(scans, capsys):
    for system, needed in (
        ("faster_rcnn", "a detector needs 'boxes'"),
        ("show_and_tell", "a captioner needs 'captions'"),
    ):
        assert main(["train", system, "--data", "python:scans:make", "--out", "run"]) == 1
        message = capsys.readouterr().err
        assert f"{needed} in every example, but those of scans train hold mask beside the picture" in message
    assert not (scans / "run").exists()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("python:scans", "must be python:MODULE:FUNCTION"),
        ("python:../scans:make", "must be python:MODULE:FUNCTION"),
        ("python:", "1 name"),
        ("python:nowhere_at_all:make", "cannot be imported from .*ModuleNotFoundError"),
        ("python:broken:make", "cannot be imported from .*ZeroDivisionError"),
        ("python:scans:other", "has no function other"),
        ("python:wrong:make", r"must return a `keras_cv_lectures.data.Source`, but returned list"),
        ("python:scans:make,labels=x", "'labels=x' is no option of 'python'; its options are split"),
    ],
)
def test_errors_say_what_is_expected(scans, spec, message):
    (scans / "broken.py").write_text("1 / 0")
    (scans / "wrong.py").write_text("def make(split):\n    return []\n")
    with pytest.raises(DataError, match=message):
        open_source(spec)
    assert not doctor(spec).ok


def test_a_run_folder_neither_runs_a_program_nor_downloads(scans, monkeypatch, caplog):
    (scans / "harmful.py").write_text("raise SystemExit('run')")
    with caplog.at_level("INFO"):
        for spec in ("python:harmful:make", "PYTHON:harmful:make,split=val"):
            assert validation_source({"val_data": spec}) is None
            assert training_source({"data": spec}) is None
    assert caplog.text.count("is not run because a file names it") == 4
    asked = []

    def opened(spec, *rest, **more):
        asked.append(spec)
        raise DataError("that is enough")

    monkeypatch.setattr("keras_cv_lectures.reporting.runs.open_source", opened)
    assert validation_source({"val_data": "tfds:coco/2017,download=yes,split=train[:1%]"}) is None
    assert asked == ["tfds:coco/2017,split=train[:1%]"]
