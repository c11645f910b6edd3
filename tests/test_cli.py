"""The command line as a stranger meets it: every command, from relative paths, with its last lines and exit codes."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from command_line import call
from PIL import Image

from kcvl import benchmarking, commands, demo, main, resuming, settings, training
from kcvl.terminal import Progress, own_warnings, quiet
from kcvl.text import scores_table
from keras_cv_lectures import __version__
from keras_cv_lectures.benchmarking import PATHS, BenchmarkRow, SystemBenchmark
from keras_cv_lectures.data import open_source, shapes_source
from keras_cv_lectures.data.headers import picture_sizes
from keras_cv_lectures.errors import DataError, KcvlWarning
from keras_cv_lectures.metadata import Metadata, read_metadata
from keras_cv_lectures.metrics import scores
from keras_cv_lectures.predicting import CaptionResult, DetectionResult, SegmentationResult
from keras_cv_lectures.recipe import TrainingOptions
from keras_cv_lectures.reporting import absolute_spec, exports, run_of, training_source, validation_source
from keras_cv_lectures.systems import SYSTEMS

TINY = [word for name in ("filters=2", "depth=1", "epochs=1", "batch_size=10") for word in ("--set", name)]
SIZE = (32, 40)


def write_pictures(folder, count, *, size=SIZE, grey=False):
    """`images/` and `masks/` with the class ids of generated shapes."""
    source = shapes_source(count, size=size)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index, example in enumerate(source):
        image = example["image"][..., 0] if grey else example["image"]
        Image.fromarray(image).save(folder / "images" / f"p{index}.png")
        Image.fromarray(example["mask"].astype(np.uint8)).save(folder / "masks" / f"p{index}.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with pictures in `data/`, where commands are typed with relative paths."""
    folder = tmp_path_factory.mktemp("place")
    write_pictures(folder / "data", 120)
    write_pictures(folder / "other", 3, size=(24, 30))
    write_pictures(folder / "grey", 2, grey=True)
    (folder / "elsewhere").mkdir()
    return folder


@pytest.fixture(autouse=True)
def _typed_in(place, monkeypatch):
    monkeypatch.chdir(place)


@pytest.fixture(scope="module")
def trained(place):
    """What `kcvl train` printed; the run is `run` in `place`."""
    with contextlib.chdir(place):
        code, out, err = call("train", "unet", "--data", "folder:data/images,data/masks", *TINY, "--out", "run")
    assert code == 0, err
    return out, err


@pytest.fixture(scope="module")
def exported(place, trained):
    """precision or format -> (what `kcvl export` printed, the file); typed in another folder than the training was."""
    results = {}
    for name, words, file in (
        ("float32", [], "unet_float32.tflite"),
        ("int8", ["--precision", "int8"], "unet_int8.tflite"),
        ("saved_model", ["--format", "saved_model"], "unet_saved_model"),
    ):
        with contextlib.chdir(place / "elsewhere"):
            code, out, err = call("export", "../run", *words, "--out", "../run/exports")
        assert code == 0, err
        results[name] = out, place / "run" / "exports" / file
    return results


def test_train_says_what_it_understood_wrote_and_what_comes_next(trained):
    out, err = trained
    lines = out.splitlines()
    assert lines[0].startswith("Note: data/images: Mask values were taken as the classes 0..6.")
    assert "102 pictures at 32x40, 7 classes, 1 epoch in batches of 10; 18 pictures to validate" in lines[1]
    assert sum(line.startswith("Note:") for line in lines) == 1
    assert re.search(r"^mean IoU +0\.\d{4}$", out, re.M)
    assert "wrote run/best.keras\n      run/history.csv\n      run/report.html\n" in out
    assert lines[-3:] == [
        "next  open run/report.html",
        "      kcvl predict run PICTURE --out predictions",
        "      kcvl export run --precision int8 --out run/exports",  # 100 pictures are there.
    ]
    assert err == "evaluating the best epoch (18 pictures) ...\n"


def test_a_run_knows_its_data_from_any_folder(trained, place):
    run = json.loads((place / "run" / "run.json").read_text())
    assert run["data"] == run["val_data"] == f"folder:{place}/data/images,{place}/data/masks"
    assert run["command"].startswith("kcvl train unet --data folder:data/images,data/masks --set filters=2")
    assert run["seconds"] > 0
    assert re.search(r"\d CPU", run["machine"])
    assert run["versions"]["keras_cv_lectures"] == __version__
    assert run["val_ids"] == [f"p{i}" for i in range(102, 120)]
    assert run["train_root"] == f"{place}/data/images"


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(
    ("typed_in", "model"),
    [
        (".", "run"),
        ("elsewhere", "../run/exports/unet_int8.tflite"),
        ("run", "."),
        ("run", "best.keras"),
        ("run/files", "unet_int8.tflite"),
        ("run/files", "."),
        ("run/files/unet_saved_model", "."),
    ],
)
def test_the_run_of_a_model_is_found_from_any_folder(place, monkeypatch, typed_in, model):
    (place / "run/files/unet_saved_model").mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(place / typed_in)
    run = run_of(model)
    assert run["train_ids"] == [f"p{i}" for i in range(102)]
    assert Path(run["folder"]).resolve() == place / "run"
    assert not Path(run["folder"]).is_absolute()
    assert run_of(Path(model).resolve())["folder"] == str(place / "run")


@pytest.mark.parametrize(
    ("data", "run", "spec", "expected"),
    [
        ("train", {"train_ids": ["p0", "p1", "p2"], "val_ids": ["p0", "p1", "p2"]}, None, [0, 1, 2]),
        ("all", {"train_ids": ["p0", "p1", "p2"], "val_ids": ["p3"]}, None, [0, 1, 2]),
        ("all", {"train_ids": ["p0", "p1", "p2"], "val_ids": ["p3"]}, "all", [0, 1, 2, 3]),
        ("all", {}, None, [0, 1, 2, 3]),
    ],
    ids=["val has the same names", "val is the rest", "data was given", "ids are not known"],
)
def test_int8_is_calibrated_with_what_was_trained_on(tmp_path, monkeypatch, data, run, spec, expected):
    for name, count in (("train", 3), ("all", 4)):
        write_pictures(tmp_path / name, count, size=(16, 16))
    spec_of = {name: f"folder:{tmp_path}/{name}/images,{tmp_path}/{name}/masks" for name in ("train", "all")}
    monkeypatch.setattr(exports, "MIN_CALIBRATION", 3)
    source, indices = exports._calibration_data(spec_of.get(spec), {**run, "data": spec_of[data]}, Metadata())
    assert (source.name, indices) == (f"{tmp_path}/{data}/images", expected)


def test_evaluate_gives_the_scores_of_the_training(trained, place, monkeypatch):
    (place / "val.txt").write_text("\n".join(f"p{i}" for i in range(102, 120)))
    monkeypatch.chdir(place / "elsewhere")
    spec = "folder:../data/images,../data/masks,list=../val.txt"
    code, out, err = call("evaluate", "../run", "--data", spec, "--out", "scores")
    assert code == 0, err
    assert "18 pictures of ../data/images, compared at 32x40 pixels" in out
    assert "trained on" not in out
    assert out.endswith(
        "wrote scores/scores.json\n      scores/report.html\nnext  kcvl predict ../run PICTURE --out predictions\n"
    )
    found = json.loads(Path("scores/scores.json").read_text())
    trained_scores = json.loads((place / "run" / "evaluation.json").read_text())["scores"]
    assert found["pictures"] == 18
    assert found["scores"]["mean_iou"] == pytest.approx(trained_scores["mean_iou"], abs=1e-6)
    assert "data:image/png;base64" in Path("scores/report.html").read_text()


def test_evaluate_tells_pictures_that_were_trained_on(trained, place):
    out = call("evaluate", "run", "--data", "folder:data/images,data/masks")[1]
    assert "Note: 102 of these pictures were trained on" in out
    # Other pictures of the same names were not.
    code, out, _ = call("evaluate", "run", "--data", "folder:other/images,other/masks", "--original-size")
    assert code == 0
    assert "trained on" not in out
    assert "compared at each picture's own size" in out


def test_predict_pictures_folders_and_grey_ones(trained, place):
    code, out, err = call("predict", "run", "data/images/p0.png", "other/images", "grey/images", "--out", "predicted")
    assert code == 0, err
    names = sorted(path.name for path in Path("predicted").iterdir())
    stems = [
        "data_images_p0",
        *(f"grey_images_p{i}" for i in range(2)),
        *(f"other_images_p{i}" for i in range(2)),
        "p2",
    ]
    assert names == sorted(f"{stem}_{kind}.png" for stem in stems for kind in ("classes", "overlay"))
    with Image.open("predicted/p2_classes.png") as picture:
        assert picture.size == (30, 24)
    assert re.search(r"^wrote predicted/\S+\n( +predicted/\S+\n){3}      and 8 more\nnext  look at predicted\n$", out)


def test_predict_in_tiles(trained):
    assert call("predict", "run", "data/images/p1.png", "--tile", 24, "--out", "tiled")[0] == 0
    assert call("predict", "run", "data/images/p1.png", "--tile", "0", "--out", "tiled")[0] == 2


def test_predict_goes_on_after_a_broken_picture(trained, place):
    folder = place / "some"
    folder.mkdir()
    good = (place / "data" / "images" / "p3.png").read_bytes()
    (folder / "good.png").write_bytes(good)
    (folder / "cut.png").write_bytes(good[: len(good) // 2])
    code, out, err = call("predict", "run", "some", "missing.png", "--out", "predicted_some")
    assert code == 1
    assert "skipped: some/cut.png is truncated or damaged" in err
    assert "skipped: missing.png does not exist" in err
    assert "wrote predicted_some/good_classes.png\n      predicted_some/good_overlay.png\n" in out
    code, out, err = call("predict", "run", "missing.png", "--out", "nothing")
    assert (code, out) == (1, "")
    assert err.endswith("kcvl: no picture could be predicted; see the lines above.\n")
    assert not Path("nothing").exists()


def test_export_measures_the_file_and_says_where_it_is(exported):
    for kind, (out, path) in exported.items():
        assert path.exists()
        assert re.search(r"^mean IoU of the file +0\.\d+$", out, re.M), kind
        assert f"wrote {Path('../run/exports') / path.name}\n" in out
        assert "../run/report.html\n" in out
        assert (
            f"next  kcvl predict ../run/exports/{path.name} PICTURE --out predictions\n      read ../run/exports/"
            in out
        )


@pytest.mark.parametrize("kind", ["float32", "int8", "saved_model"])
def test_an_export_scores_what_its_card_says_and_what_the_model_scores(exported, place, kind, monkeypatch):
    (place / "val.txt").write_text("\n".join(f"p{i}" for i in range(102, 120)))
    path = exported[kind][1]
    card = json.loads((path / "model_card.json" if path.is_dir() else path.with_suffix(".json")).read_text())
    monkeypatch.chdir(place / "elsewhere")
    spec = "folder:../data/images,../data/masks,list=../val.txt"
    code, out, err = call("evaluate", os.path.relpath(path), "--data", spec)
    assert code == 0, err
    score = float(re.search(r"^mean IoU +(\S+)$", out, re.M).group(1))
    assert score == pytest.approx(card["metrics"]["mean_iou"], abs=1e-4)
    assert "data/images" in card["metrics_data"]
    if kind != "int8":
        model = json.loads((place / "run" / "evaluation.json").read_text())["scores"]["mean_iou"]
        assert score == pytest.approx(model, abs=1e-3)


def test_the_report_shows_curves_pictures_and_exports_after_exporting(exported, place):
    page = (place / "run" / "report.html").read_text()
    assert page.count("data:image/png;base64") >= 8
    rows = re.search(r'id="export-table".*?</table>', page, re.DOTALL).group(0)
    assert rows.count("<tr>") == 1 + len(exported)
    for _, path in exported.values():
        assert path.name in rows
    assert "training time" in page  # Kept when the page is written again.


def test_exports_are_found_again_after_the_run_folder_moved(exported, place, tmp_path):
    import shutil

    from keras_cv_lectures.reporting import refresh_report

    moved = tmp_path / "moved"
    shutil.copytree(place / "run", moved)
    shutil.move(place / "run", place / "hidden")
    try:
        refresh_report(SYSTEMS["unet"], moved, None)
    finally:
        shutil.move(place / "hidden", place / "run")
    assert "unet_int8.tflite" in (moved / "report.html").read_text()


def test_a_tflite_file_alone_works_without_names(exported, place):
    Path("alone").mkdir()
    Path("alone/m.tflite").write_bytes(exported["float32"][1].read_bytes())
    assert read_metadata("alone/m.tflite").classes == ()
    # Masks that show fewer classes than the model has are still read as its first classes.
    Path("few").mkdir()
    for name in ("images", "masks"):
        Path("few", name).mkdir()
    Image.fromarray(open_source("shapes:count=1,size=32x40")[0]["image"]).save("few/images/a.png")
    mask = np.zeros(SIZE, np.uint8)
    mask[3:9, 4:9] = 1
    Image.fromarray(mask).save("few/masks/a.png")
    code, out, err = call("evaluate", "alone/m.tflite", "--data", "folder:few/images,few/masks")
    assert code == 0, err
    assert re.search(r"^class 6 ", out, re.M)
    code, out, err = call("predict", "alone/m.tflite", "few/images/a.png", "--out", "alone/predicted")
    assert code == 0, err
    assert Path("alone/predicted/a_overlay.png").exists()


def test_resume_takes_the_settings_of_the_run(trained, place, tmp_path):
    import shutil

    run = shutil.copytree(place / "run", tmp_path / "run")
    words = ["train", "unet", "--data", "folder:data/images,data/masks", "--out", run]
    code, out, err = call(*words)
    assert (code, "already holds a training. Continue it with --resume" in err) == (1, True)
    code, out, err = call(*words, "--resume", "--set", "filters=4")
    assert code == 2
    assert "--resume continues the network" in err
    assert "filters=4 (2 in the run)" in err
    code, out, err = call(*words, "--resume", "--set", "epochs=2")
    assert code == 0, err
    assert "2 epochs in batches of 10" in out
    assert "continuing after epoch 1" in out
    again = json.loads((run / "run.json").read_text())
    assert again["config"] == {"filters": 2, "depth": 1}
    assert again["seconds"] > json.loads((place / "run" / "run.json").read_text())["seconds"]
    assert len((run / "history.csv").read_text().splitlines()) == 3
    other = ["train", "unet", "--data", "folder:other/images,other/masks,labels=labels.txt", "--out", run, "--resume"]
    Path("labels.txt").write_text("".join(f"{i} shape{i}\n" for i in range(7)))
    code, out, err = call(*other)
    assert (code, "Continue with the same data" in err) == (1, True)


def test_resume_validates_on_the_pictures_of_the_run(tmp_path, monkeypatch):
    validated = []

    def begun(recipe, train_source, val_source, *, out, record, **settings):
        validated.append(val_source.ids)
        (out / "checkpoint").mkdir(parents=True, exist_ok=True)
        (out / "checkpoint" / "state.json").write_text('{"epochs_done": 1, "best": null, "history": []}')
        (out / "train_ids.txt").write_text("\n".join(train_source.ids))
        (out / "run.json").write_text(json.dumps({"system": recipe.name, **record}))
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", begun)
    for name, count in (("data", 14), ("val", 3)):
        write_pictures(tmp_path / name, count)
    for path in (tmp_path / "val").rglob("*.png"):
        path.rename(path.with_name(f"v{path.name}"))
    data, val = (f"folder:{tmp_path}/{name}/images,{tmp_path}/{name}/masks" for name in ("data", "val"))
    words = ["train", "unet", "--data", data, "--out", tmp_path / "run"]
    call(*words, "--val", val)
    _, out, _ = call(*words, "--resume")
    assert validated == [("vp0", "vp1", "vp2")] * 2
    assert "Warning" not in out

    code, _, err = call(*words, "--resume", "--val", data)
    assert (code, "3 are missing and 14 are new. It was trained on 14 of the new ones" in err) == (1, True)
    for name in ("images", "masks"):
        (tmp_path / "data" / name / "p0.png").unlink()
    _, out, _ = call(*words, "--resume")
    assert "Warning: the run in" in out
    assert "of its 14 pictures to train on 1 are missing and 0 are new." in out
    assert len(validated) == 3


def test_a_continued_run_keeps_the_pictures_that_it_was_validated_on(tmp_path):
    """However many there are now: the last 15 % would be others."""
    write_pictures(tmp_path, 12)
    data = f"folder:{tmp_path}/images,{tmp_path}/masks"
    _, val, _ = training.open_training_data(data, None)
    train_source, again, _ = training.open_training_data(data, None, validated=["p3", val.ids[-1], "gone"])
    assert set(again.ids) == {"p3", val.ids[-1]}
    assert not set(again.ids) & set(train_source.ids)
    assert len(again) + len(train_source) == 12
    assert training.open_training_data(data, None, validated=["gone"])[1].ids == val.ids


def test_resume_says_that_nothing_was_begun_or_all_is_done(trained, tmp_path):
    assert resuming.resumption(tmp_path, TrainingOptions()).startswith("there is no checkpoint")
    done = resuming.resumption(Path("run"), TrainingOptions(epochs=1))
    assert done == (
        "all 1 epochs are done already; --set epochs=2 would go on, its learning rate raised again to that of epoch 2 "
        "of 2"
    )
    state = {"epochs_done": 2, "best": 0.5, "history": [{"epoch": k, "val_mean_iou": 0.5} for k in (1, 2)]}
    (tmp_path / "ended" / "checkpoint").mkdir(parents=True)
    (tmp_path / "ended" / "checkpoint" / "state.json").write_text(json.dumps(state))
    ended = resuming.resumption(tmp_path / "ended", TrainingOptions(epochs=9, patience=1))
    assert ended == "patience=1 ended it after epoch 2; --set patience=9 would go on"
    assert resuming.resumption(tmp_path / "ended", TrainingOptions(epochs=9)) == "continuing after epoch 2"
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "state.json").write_text("{")
    with pytest.raises(ValueError, match="state.json is damaged"):
        resuming.resumption(tmp_path, TrainingOptions())


TRAIN = ["train", "unet", "--data", "folder:data/images,data/masks", *TINY, "--out", "never"]


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        ([], 2, ["the following arguments are required: COMMAND", "kcvl --help"]),
        (["frobnicate"], 2, ["invalid choice: 'frobnicate'", "train"]),
        (["predict", "run"], 2, ["kcvl predict: the following arguments are required: PATH, --out"]),
        (["train", "unett", *TRAIN[2:]], 2, ["there is no system 'unett'. Systems: fcn32s, ", "unet, "]),
        ([*TRAIN, "--staged"], 2, ["unet is not trained in stages", "it is for fcn16s, fcn8s"]),
        ([*TRAIN, "--set", "epoch=3"], 2, ["unet has no option `epoch`. Close: epochs", "Augmentation: flip"]),
        ([*TRAIN, "--set", "epochs"], 2, ["--set takes OPTION=VALUE. Received: 'epochs'"]),
        ([*TRAIN, "--set", "learning_rate=fast"], 2, ["`learning_rate` takes a number. Received: 'fast'"]),
        ([*TRAIN, "--set", "input_size=32"], 2, ["`input_size` takes two numbers, such as 180x240"]),
        ([*TRAIN, "--set", "loss=foo"], 2, ["`loss` must be a sum of"]),
        ([*TRAIN, "--set", "rotate=abc"], 2, ["`rotate` takes a number. Received: 'abc'"]),
        ([*TRAIN, "--set", "fill=black"], 2, ["fill: expected 'reflect' or 'constant', received"]),
        ([*TRAIN, "--set", "seed=-1"], 2, ["--set: `seed` must be at least 0. Received: seed=-1"]),
        ([*TRAIN, "--set", "patience=0"], 2, ["`patience` must be a positive integer. Received: patience=0"]),
        ([*TRAIN, "--set", "filters=0"], 2, ["unet cannot be built with filters=0, depth=1"]),
        ([*TRAIN, "--set", "keep_best=val_x"], 2, ["keep_best=val_x is nothing that is measured", "val_mean_iou"]),
        ([*TRAIN, "--set", "elastic=100"], 2, ["elastic: expected at most", "the picture would fold over. Lower it."]),
        ([*TRAIN, "--val", "folder:gone,gone"], 1, ["gone is not a folder. Check the path."]),
        ([*TRAIN[:-1], "labels.txt"], 2, ["--out labels.txt is a file. Name a folder."]),
        (["train", "unet", "--data", "nowhere", "--out", "never"], 1, ["is no data specification", "camvid:DIR"]),
        (
            ["train", "unet", "--data", "folder:data/images", "--out", "never"],
            1,
            ["2 path(s) expected after 'folder:'"],
        ),
        (["evaluate", "gone", "--data", "shapes"], 1, ["There is no gone. Expected a run folder with best.keras"]),
        (["evaluate", "data", "--data", "shapes"], 1, ["data holds neither best.keras"]),
        (["export", "runs/gone", "--out", "never"], 1, ["There is no runs/gone. Expected a run folder"]),
        (["predict", "gone.tflite", "data/images/p0.png", "--out", "never"], 1, ["There is no gone.tflite"]),
        (["predict", "run", "data/images", "--out", "data/images"], 2, ["is the folder of the pictures"]),
        (["export", "run", "--size", "32", "--out", "never"], 2, ["--size takes HEIGHTxWIDTH, such as 180x240"]),
        (["export", "run", "--precision", "int8", "--dynamic", "--out", "never"], 2, ["int8 needs a fixed input size"]),
        (["export", "run", "--dynamic", "--size", "32x40", "--out", "never"], 2, ["Drop one of them"]),
        (
            ["export", "run", "--format", "saved_model", "--precision", "int8", "--out", "n"],
            2,
            ["SavedModel is float32"],
        ),
        (["benchmark", "unet", "--set", "epochs=3"], 2, ["options of the network only"]),
        (["benchmark", "unet", "--repeats", "0"], 2, ["a whole number of at least 1 is expected, not '0'"]),
        (["benchmark", "unet", "nonet"], 2, ["there is no system 'nonet'"]),
        (["benchmark", "unet", "all"], 2, ["all stands for every system. Name it alone"]),
        (["benchmark", "unet", "--paths", "gpu"], 2, ["there is no path 'gpu'. Paths: predict, call, frozen"]),
        (["doctor", "nowhere"], 1, []),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else None,
)
def test_what_is_wrong_is_said_with_the_repair(words, code, parts):
    Path("labels.txt").touch()
    found, _, err = call(*words)
    assert found == code, err
    for part in parts:
        assert part in err
    assert "Traceback" not in err
    assert not Path("never", "best.keras").exists()
    if code == 2 and words:
        assert "--help`." in err


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (
            ["evaluate", "run", "--data", "camvid:camvid"],
            ["the model has 7 classes (class 0, ", "camvid val has 11 (Sky, ", "labels=FILE"],
        ),
        (
            ["export", "run", "--precision", "int8", "--data", "folder:other/images,other/masks", "--out", "never"],
            ["int8 needs at least 100 pictures", "has 3 to train on", "--precision float16"],
        ),
        (["export", "run/best.keras", "--out", "labels.txt"], ["--out labels.txt is a file"]),
        (
            ["export", "run", "--data", "folder:gone/images,gone/masks", "--out", "unmade"],
            ["gone/images is not a folder"],
        ),
    ],
)
def test_what_does_not_fit_the_model_is_refused(place, words, parts):
    Path("labels.txt").touch()
    for name, values in (("val", 200), ("valannot", 3)):
        (place / "camvid" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*SIZE, 3) if name == "val" else SIZE, values, np.uint8)).save(f"camvid/{name}/a.png")
    code, _, err = call(*words)
    assert code == (2 if "a file" in parts[0] else 1)
    for part in parts:
        assert part in err
    assert not Path("unmade").exists()


def test_data_that_a_file_was_calibrated_with_need_no_validation_split(tmp_path, caplog):
    for name in ("train", "trainannot"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.zeros(SIZE, np.uint8)).save(tmp_path / name / "a.png")
    spec = f"camvid:{tmp_path}"
    with pytest.raises(DataError):
        exports._scoring_data(spec, {}, Metadata(), needed=True)
    with caplog.at_level("INFO", logger="keras_cv_lectures"):
        assert exports._scoring_data(spec, {}, Metadata(), needed=False) is None
    assert f"the file is not scored, because the validation data cannot be opened: {tmp_path}" in caplog.text


def test_exports_of_lone_files_say_what_is_missing(trained, tmp_path):
    lone = tmp_path / "lone.keras"
    lone.write_bytes(Path("run/best.keras").read_bytes())
    assert "choose the export's with --size HEIGHTxWIDTH" in call("export", lone, "--out", tmp_path)[2]
    code, _, err = call("export", lone, "--size", "32x40", "--precision", "int8", "--out", tmp_path)
    assert (code, "none are known for this model. Pass --data SPEC" in err) == (1, True)


def test_exporting_an_export_is_refused(exported):
    code, _, err = call("export", exported["int8"][1], "--out", "never")
    assert (code, "is an export already" in err) == (1, True)


def test_a_truncated_picture_stops_the_training_by_name(place, tmp_path):
    write_pictures(tmp_path / "cut", 12)
    path = tmp_path / "cut" / "images" / "p4.png"
    path.write_bytes(path.read_bytes()[:200])
    spec = f"folder:{tmp_path}/cut/images,{tmp_path}/cut/masks"
    code, _, err = call("train", "unet", "--data", spec, *TINY, "--out", tmp_path / "run")
    assert code == 1
    assert f"{path} is truncated or damaged" in err
    assert f"`kcvl doctor {spec}` names every file at fault." in err
    code, out, err = call("doctor", spec)
    assert code == 1
    assert f"  - {path} is truncated" in out
    assert "Training would fail" in out
    assert out.endswith(f"next  repair what is listed under problems, then run `kcvl doctor {spec}` again\n")


def test_doctor_passes_good_data(place):
    code, out, _ = call("doctor", "folder:other/images,other/masks")
    assert code == 0
    assert "Mask values were taken as the classes" in out
    assert out.endswith("next  kcvl train unet --data folder:other/images,other/masks --out runs/mine\n")


def test_ctrl_c_ends_with_advice(place, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", interrupted)
    code, _, err = call("train", "unet", "--data", "shapes:count=2,size=32x40", *TINY, "--out", "never")
    assert code == 1
    assert "kcvl: interrupted. Complete epochs are kept in never: the same command with --resume continues" in err
    monkeypatch.setattr(commands, "load_runner", interrupted)
    assert call("predict", "run", "data/images/p0.png", "--out", "never")[0] == 1


def test_full_memory_ends_with_advice(monkeypatch):
    import tensorflow as tf

    def full(error):
        def fail(*args, **kwargs):
            raise error

        return fail

    monkeypatch.setattr(training, "train", full(tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")))
    words = ["train", "unet", "--data", "shapes:count=2,size=32x40", *TINY, "--out", "never"]
    code, _, err = call(*words)
    assert (code, "a smaller --set batch_size" in err) == (1, True)
    monkeypatch.setattr(training, "train", full(MemoryError()))
    code, _, err = call(*words)
    assert (code, "the memory is full" in err) == (1, True)


def test_batches_that_replicas_cannot_share(place):
    words = ["--strategy", "mirrored", "--set", "batch_size=3"]  # The tests' machine has two logical CPUs.
    code, _, err = call("train", "unet", "--data", "shapes:count=4,size=32x40", *words, "--out", "never")
    assert (code, "`batch_size` must be divisible by the 2 replicas" in err) == (2, True)


def test_the_paper_network_is_trained_on_crops_exported_and_run_in_windows(place, tmp_path):
    """Valid convolutions: the file's input is larger than what it answers for, by the network's context."""
    words = [*TINY, "--set", "variant=paper", "--set", "crop_size=20x20"]
    code, _, err = call("train", "unet", "--data", "folder:data/images,data/masks", *words, "--out", tmp_path / "run")
    assert code == 0, err
    scores = json.loads((tmp_path / "run" / "evaluation.json").read_text())["scores"]
    code, _, err = call("export", tmp_path / "run", "--out", tmp_path)
    assert code == 0, err
    card = json.loads((tmp_path / "unet_float32.json").read_text())
    assert card["input_size"] == list(SIZE)
    height, width = card["input"]["image"]["shape"][1:3]
    assert height > SIZE[0]
    assert width > SIZE[1]
    assert card["metrics"]["mean_iou"] == pytest.approx(scores["mean_iou"], abs=1e-3)
    code, _, err = call("export", tmp_path / "run", "--dynamic", "--out", tmp_path)
    assert (code, "drop --dynamic" in err) == (1, True)
    code, _, err = call("export", tmp_path / "run", "--precision", "int8", "--out", tmp_path)
    assert code == 0, err


@pytest.mark.slow
def test_stages_are_trained_in_turn_and_each_can_be_used(place, monkeypatch, tmp_path):
    small = ("filters=2", "convolutions=(1,1,1,1,1)", "fc_filters=4", "epochs=1", "batch_size=10", "steps_per_epoch=1")
    words = [word for setting in small for word in ("--set", setting)]
    monkeypatch.chdir(place)
    data = ("--data", "folder:data/images,data/masks")
    code, out, err = call("train", "fcn16s", *data, *words, "--staged", "--out", tmp_path / "run")
    assert code == 0, err
    assert out.index("stage fcn32s") < out.index("stage fcn16s") < out.index("wrote")
    for name in ("fcn32s", "fcn16s"):
        assert read_metadata(tmp_path / "run" / name).system == name
        assert (tmp_path / "run" / name / "report.html").exists()
    code, out, _ = call("predict", tmp_path / "run" / "fcn16s", "data/images/p0.png", "--out", tmp_path / "found")
    assert (code, len(list((tmp_path / "found").iterdir()))) == (0, 2)
    code, _, err = call("train", "fcn16s", *data, *words, "--staged", "--out", tmp_path / "run")
    assert (code, "already holds a training" in err) == (1, True)
    code, out, err = call("train", "fcn16s", *data, "--staged", "--resume", "--out", tmp_path / "run")
    assert code == 0, err


def test_warnings_of_ours_are_lines_without_a_place(capsys):
    with own_warnings():
        for _ in range(2):  # As the stages of a training do.
            warnings.warn("the sky is grey", KcvlWarning, stacklevel=1)
        with pytest.raises(UserWarning, match="another's"):  # The tests' own filter goes on.
            warnings.warn("another's", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "Warning: the sky is grey\n"


def test_input_size_is_the_most_frequent_one(tmp_path):
    write_pictures(tmp_path, 4, size=(40, 48))
    Image.new("RGB", (600, 300)).save(tmp_path / "images" / "p0.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (40, 48)).save(tmp_path / "images" / "p1.png", exif=turned)  # Seen as 40 high, 48 wide.
    source = open_source(f"folder:{tmp_path}/images,{tmp_path}/masks")
    assert picture_sizes(source) == {(300, 600): 1, (40, 48): 3}
    unet = SYSTEMS["unet"]
    written = {"written": "--set {}=HEIGHTxWIDTH"}
    options, note = training.choose_input_size(unet, source, TrainingOptions(), **written)
    assert options.input_size == (40, 48)
    assert note.startswith("the pictures have 2 sizes, 40x48 to 300x600 (height x width). All are stretched to")
    assert "--set crop_size=" in note
    assert training.choose_input_size(unet, source, TrainingOptions(crop_size=(32, 32)))[0].input_size is None
    assert training.choose_input_size(unet, source, TrainingOptions(input_size=(8, 8))) == (
        TrainingOptions(input_size=(8, 8)),
        "",
    )
    crops = TrainingOptions(crop_size=(32, 32))
    assert training.choose_input_size(unet, source, crops, {"variant": "paper"})[0].input_size == (40, 48)
    options, note = training.choose_input_size(unet, source.subset([0]), TrainingOptions(), **written)
    assert (options.input_size, note.startswith("pictures of 300x600 are shrunk")) == ((256, 512), True)


def test_validation_data_is_the_split_or_the_last_pictures(tmp_path):
    train_source, val_source, spec = training.open_training_data("shapes:count=8", None)
    assert (len(train_source), len(val_source), spec) == (8, 2, "shapes:count=8")
    write_pictures(tmp_path / "x", 20)
    folder = f"folder:{tmp_path}/x/images,{tmp_path}/x/masks"
    train_source, val_source, spec = training.open_training_data(folder, None)
    assert (train_source.ids[-1], val_source.ids, spec) == ("p16", ("p17", "p18", "p19"), folder)
    assert training.open_training_data(folder, folder)[1].ids == training.open_training_data(folder, folder)[0].ids
    # A layout that has splits, of which only one is there, in a folder that is called like an option.
    camvid = tmp_path / "split=1"
    camvid.mkdir()
    (tmp_path / "x" / "images").rename(camvid / "train")
    (tmp_path / "x" / "masks").rename(camvid / "trainannot")
    train_source, val_source, spec = training.open_training_data(f"camvid:{camvid}", None)
    assert (len(train_source), len(val_source), spec) == (17, 3, f"camvid:{camvid},split=train")
    assert training.open_training_data("shapes:count=2,split=train", None)[1:] == (None, "")


# Kind of data -> a system for it, the folder of pictures, their annotations, the list of a split.
LAYOUTS = {
    "camvid": ("unet", "train", "trainannot/{}.png", None),
    "pets": ("unet", "images", "annotations/trimaps/{}.png", "annotations/{}.txt"),
    "voc": ("unet", "JPEGImages", "SegmentationClass/{}.png", "ImageSets/Segmentation/{}.txt"),
    "vocboxes": ("faster_rcnn", "JPEGImages", "Annotations/{}.xml", "ImageSets/Main/{}.txt"),
    "yolo": ("faster_rcnn", "images/train", "labels/train/{}.txt", None),
    "flickr": ("show_and_tell", "Images", None, "{}.txt"),
}
XML = """<annotation><size><width>8</width><height>8</height></size><object><name>cell</name><bndbox>
<xmin>1</xmin><ymin>1</ymin><xmax>6</xmax><ymax>6</ymax></bndbox></object></annotation>"""


def write_one_split(folder, kind, split):
    """Seven pictures, p0 to p6, all in one split of a layout. Returns a system that learns from it."""
    system, pictures, annotation, listed = LAYOUTS[kind]
    names = [f"p{i}" for i in range(7)]
    files = {folder / pictures / f"{name}.png": np.full((8, 8, 3), 9, np.uint8) for name in names}
    if annotation:
        content = {".png": np.eye(8, dtype=np.uint8) + 1, ".xml": XML, ".txt": "0 0.5 0.5 0.5 0.5"}[annotation[-4:]]
        files |= {folder / annotation.format(name): content for name in names}
    if listed:
        files[folder / listed.format(split)] = "".join(f"{name}\n" for name in names)
    if kind == "flickr":
        files[folder / "captions.txt"] = "image,caption\n" + "".join(f"{name}.png,A cell.\n" for name in names)
    if kind == "yolo":
        files[folder / "classes.txt"] = "cell\n"
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content) if isinstance(content, str) else Image.fromarray(content).save(path)
    return system


@pytest.mark.parametrize(
    ("kind", "split"),
    [(kind, "train") for kind in LAYOUTS if kind != "pets"]
    + [(kind, "trainval") for kind in ("pets", "voc", "vocboxes")],
)
def test_a_bare_folder_of_one_split_is_trained_on_but_for_its_last_pictures(tmp_path, monkeypatch, kind, split):
    system = write_one_split(tmp_path / "data", kind, split)
    begun = []

    def begin(recipe, train_source, val_source, *, record, **settings):
        begun.append((train_source.ids, val_source.ids, record))
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", begin)
    monkeypatch.chdir(tmp_path)
    _, _, err = call("train", system, "--data", "data", "--out", "never")
    assert "interrupted" in err
    ((trained, held_out, record),) = begun
    assert (trained, held_out) == (tuple(f"p{i}" for i in range(6)), ("p6",))
    # The run finds both again, from any folder.
    monkeypatch.chdir("/")
    assert record["val_data"] == f"{kind}:{tmp_path}/data,split={split}"
    assert validation_source(record).ids == held_out
    assert training_source({**record, "train_ids": list(trained)}).ids == trained


def test_a_bare_folder_with_a_comma_in_its_path_is_trained_on(tmp_path):
    folder = tmp_path / "cats, dogs"
    write_one_split(folder, "pets", "trainval")
    train_source, val_source, spec = training.open_training_data(str(folder), None)
    assert (len(train_source), val_source.ids) == (6, ("p6",))
    assert absolute_spec(spec) == str(folder), "no option can follow such a path"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("180x240", (180, 240)),
        ("0.5..2", (0.5, 2.0)),
        ("1e-3", 1e-3),
        ("true", True),
        ("none", None),
        ("cross_entropy+dice", "cross_entropy+dice"),
        ("[2, 4]", [2, 4]),
        ("0x10", (0, 10)),
    ],
)
def test_values_of_settings(text, value):
    assert settings.value_of(text) == value


def test_settings_go_where_they_belong():
    config, options, augmentation = settings.parse_settings(
        SYSTEMS["unet"], ["filters=8", "epochs=3", "clip_norm=1", "rotate=5", "scale=0.5..2", "border_weights=true"]
    )
    assert config == {"filters": 8}
    assert (options.epochs, options.clip_norm, options.border_weights) == (3, 1, True)
    assert augmentation == {"rotate": 5, "scale": (0.5, 2.0)}


def test_absolute_specifications(place, monkeypatch):
    assert absolute_spec("shapes") == "shapes"
    assert absolute_spec("shapes:count=4") == "shapes:count=4"
    assert absolute_spec("camvid:x,split=val") == f"camvid:{place}/x,split=val"
    assert absolute_spec("folder:a,../b,labels=l.txt,channels=1") == (
        f"folder:{place}/a,{place.parent}/b,labels={place}/l.txt,channels=1"
    )
    assert absolute_spec("data") == f"folder:{place}/data/images,{place}/data/masks"  # a folder with a usual layout
    (place / "a, b").mkdir()
    monkeypatch.chdir(place / "a, b")
    assert absolute_spec("camvid:x") == "camvid:x"


def test_output_names_tell_pictures_apart(tmp_path):
    paths = [tmp_path / p for p in ("a/x.png", "b/x.png", "b/y.png", "c/d/Z.jpg", "e/d/z.jpg", "f/w.png", "f/w.jpg")]
    names = commands.output_names(paths)
    assert list(names.values()) == ["a_x", "b_x", "y", "c_d_Z", "e_d_z", "w_png", "w_jpg"]
    tricky = [Path("/a_b/c.png"), Path("/a/b_c.png"), Path("/c.png")]
    assert len(set(commands.output_names(tricky).values())) == 3


def test_help_is_worth_reading(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    page = capsys.readouterr().out
    assert "examples:" in page
    assert "exit codes: 0 done" in page
    for command in ("doctor", "train", "evaluate", "predict", "export", "benchmark"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        page = capsys.readouterr().out
        assert f"  kcvl {command} " in page
        assert max(len(line) for line in page.splitlines()) <= 120


def test_list_shows_every_system():
    code, out, _ = call("list")
    assert code == 0
    assert all(name in out for name in SYSTEMS)
    assert "31,030,658" in out


@pytest.fixture
def benchmarked(monkeypatch):
    """What `kcvl benchmark` asks for; every path takes 2 ms but the 8-bit one, which is missing."""
    asked = []

    def fake(system, *, paths, classes, tell, **options):
        asked.append({"system": system, "classes": classes, **options})
        row = {"system": system, "pictures": 1}
        rows = [
            BenchmarkRow(**row, path=path, label=PATHS[path], missing="no builtin")
            if path == "tflite_int8"
            else BenchmarkRow(**row, path=path, label=PATHS[path], median_ms=2.0, min_ms=1.5, peak_mb=700.4)
            for path in paths
        ]
        facts = {"size": (16, 24), "classes": 2, "config": {}, "parameters": 1234, "gflops": 0.5}
        return SystemBenchmark(system=system, **facts, matrix_gflops=50.0, matrix_mb=600.0, rows=tuple(rows))

    monkeypatch.setattr(benchmarking, "benchmark_system", fake)
    return asked


def test_benchmark_measures_every_path(benchmarked):
    code, out, err = call("benchmark", "unet", "--set", "filters=2", "--set", "depth=1", "--size", "16x24")
    assert code == 0, err
    options = {"size": (16, 24), "threads": 2, "batch": 2, "rounds": 7}
    assert benchmarked == [{"system": "unet", "classes": None, "config": {"filters": 2, "depth": 1}, **options}]
    assert re.search(r"^compiled call +2 +1.5 +- +- +700 +-$", out, re.M)
    assert re.search(r"^TFLite int8 .* no builtin$", out, re.M)
    assert "8 paths measured, 1 missing" in out


def test_benchmark_of_all_systems_at_a_scale_writes_files(benchmarked, tmp_path, monkeypatch):
    drawn, chart = [], benchmarking.chart
    monkeypatch.setattr(benchmarking, "chart", lambda found: drawn.append(found) or chart(found[:2]))  # All: seconds.
    words = ("--scale", "smoke", "--paths", "frozen", "tflite_int8", "--out", str(tmp_path / "speed"))
    code, out, err = call("benchmark", "all", *words)
    assert code == 0, err
    assert {each["system"]: each["config"] for each in benchmarked} == {n: dict(r.smoke) for n, r in SYSTEMS.items()}
    stored = json.loads((tmp_path / "speed/benchmark.json").read_text())
    assert [each["system"] for each in stored["systems"]] == list(SYSTEMS)
    assert stored["settings"]["scale"] == "smoke"
    page = (tmp_path / "speed/benchmark.md").read_text()
    assert page.count("| TFLite int8 |") == len(SYSTEMS)
    assert [each.system for each in drawn[-1]] == list(SYSTEMS)
    assert (tmp_path / "speed/benchmark.png").read_bytes().startswith(b"\x89PNG")
    assert f"wrote {tmp_path}/speed/benchmark.json" in out


def test_benchmark_where_nothing_could_be_measured_fails(benchmarked):
    code, out, _ = call("benchmark", "unet", "segnet", "--paths", "tflite_int8")
    assert (code, "0 paths measured, 2 missing" in out) == (1, True)


def test_demo_takes_every_step(place, monkeypatch):
    monkeypatch.setattr(demo, "TRAIN", "shapes:count=110,size=32x40")
    monkeypatch.setattr(demo, "VAL", "shapes:count=8,size=32x40,split=val")
    recipe = SYSTEMS["unet"]
    tiny = dataclasses.replace(recipe.demo_options, epochs=1, batch_size=10, input_size=SIZE)
    monkeypatch.setitem(
        SYSTEMS, "unet", dataclasses.replace(recipe, demo={"filters": 2, "depth": 1}, demo_options=tiny)
    )
    code, out, err = call("demo", "--out", "demo run")
    assert code == 0, err
    for step in ("1/5 training unet on 110", "2/5", "3/5", "4/5", "5/5", "wrote demo run in"):
        assert step in out
    assert out.endswith(
        "next  open 'demo run/report.html'\n      kcvl predict 'demo run' YOUR_PICTURE.jpg --out predictions\n"
    )
    assert re.search(r"tflite float32: (100.00|99.\d\d) % of the pixels as the model says", out)
    assert len(list(Path("demo run/predictions").glob("*_overlay.png"))) == 4
    assert json.loads(Path("demo run/run.json").read_text())["command"] == "kcvl demo --out 'demo run'"
    page = Path("demo run/report.html").read_text()
    assert "unet_int8.tflite" in page
    code, _, err = call("demo", "--out", "demo run")
    assert (code, "already holds a training" in err) == (1, True)


def said(text):
    words, image = tuple(text.split()), np.zeros((2, 2, 3), np.uint8)
    return CaptionResult(image=image, words=words, tokens=np.arange(len(words)), log_probability=-1.0)


def painted(*labels):
    class_map, image = np.reshape(labels, (2, 2)), np.zeros((2, 2, 3), np.uint8)
    names = {"classes": ("a", "b"), "colors": ((0, 0, 0), (9, 9, 9))}
    return SegmentationResult(image=image, class_map=class_map, **names, make_probabilities=lambda: None)


def found(*sides):
    boxes, image = np.float32([[0, 0, side, side] for side in sides]), np.zeros((60, 60, 3), np.uint8)
    names = {"labels": np.zeros(len(sides), np.int32), "classes": ("a",), "colors": ((9, 9, 9),)}
    return DetectionResult(image=image, boxes=boxes, scores=np.full(len(sides), 0.9, np.float32), **names)


@pytest.mark.parametrize(
    ("export", "model", "told"),
    [
        (said("a red star"), said("a red star"), "3 of 3 words"),
        (said("a red star"), said("a blue star"), "2 of 3 words"),
        (said("a red star here"), said("a red star"), "3 of 4 words"),
        (said("star"), said("star"), "1 of 1 word"),
        (said(""), said("star"), "0 of 1 word"),
        (painted(0, 1, 1, 0), painted(0, 1, 1, 1), "75.00 % of the pixels"),
        (found(10, 50), found(10, 20), "1 of 2 objects"),
    ],
    ids=str,
)
def test_the_demo_tells_what_an_export_and_its_model_agree_on(export, model, told):
    assert demo._agreement(export, model) == told


@pytest.mark.parametrize("result", [said("a star"), painted(0, 1, 1, 0), found(10)], ids=str)
def test_help_names_the_files_that_predict_writes(result, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    page = capsys.readouterr().out
    assert all(path.name in page for path in result.save(tmp_path, "NAME").values())


def test_a_class_that_is_never_predicted_is_not_said_to_be_absent():
    """As in the report: rows are the truth, the second class has pixels, the third has none."""
    table = scores_table(scores(np.array([[5, 0, 0], [3, 0, 0], [0, 0, 0]]), ("road", "cell", "tree")))
    rows = {line.split()[0]: re.split(r"  +", line) for line in table.splitlines() if line}
    assert rows["road"] == ["road", "0.6250", "1.0000", "0.6250", "5"]
    assert rows["cell"] == ["cell", "0.0000", "0.0000", "not predicted", "3"]
    assert rows["tree"] == ["tree", "absent", "absent", "absent", "0"]


def test_c_code_is_silent_and_python_is_not(capfd):
    with quiet():
        os.write(2, b"INFO: from C++\n")
        sys.stderr.write("from Python\n")
    os.write(2, b"afterwards\n")
    err = capfd.readouterr().err
    assert "C++" not in err
    assert "from Python" in err
    assert "afterwards" in err


def test_progress_in_a_log_file_is_a_line_now_and_then(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("kcvl.terminal.time.monotonic", lambda: now[0])
    err = io.StringIO()
    with contextlib.redirect_stderr(err), Progress("counting") as progress:
        for done in range(1, 101):
            progress(done, 100)
            now[0] += 1.0
    assert err.getvalue().splitlines() == [
        "counting (100 pictures) ...",
        "counting: 31 of 100, 67 s left",
        "counting: 61 of 100, 38 s left",
        "counting: 91 of 100, 9 s left",
    ]


def test_progress_in_a_terminal_redraws_one_line(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    err = Terminal()
    monkeypatch.setattr(sys, "stderr", err)
    with Progress("counting") as progress:
        progress(1, 2)
        progress(2, 2)
    assert err.getvalue() == "\rcounting: 2 of 2\n"


def test_logging_is_left_as_it_was(place):
    import logging

    logger = logging.getLogger("keras_cv_lectures")
    before = logger.handlers[:], logger.propagate, logger.level
    call("doctor", "shapes:count=1")
    assert (logger.handlers[:], logger.propagate, logger.level) == before
