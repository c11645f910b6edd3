"""Where the splits of a data set in YOLO's format lie."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from keras_cv_lectures.data import doctor, open_source, yolo_source
from keras_cv_lectures.data.yolo import yolo_splits
from keras_cv_lectures.errors import DataError


@pytest.fixture
def put(tmp_path):
    """Writes a picture `images/NAME.png`, and its text file with one object of class 0 below `labels`."""

    def write(images, name, labels=None):
        (tmp_path / images).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 6, 3), len(name), np.uint8)).save(tmp_path / images / f"{name}.png")
        if labels is not None:
            (tmp_path / labels).mkdir(parents=True, exist_ok=True)
            (tmp_path / labels / f"{name}.txt").write_text("0 0.5 0.5 1 1\n")

    return write


@pytest.fixture
def coco(put):
    """COCO as Ultralytics lays it out: the pictures of the test split have no text files."""
    put("images/train2017", "a", "labels/train2017")
    put("images/train2017", "ab", "labels/train2017")
    put("images/val2017", "abc", "labels/val2017")
    put("images/test2017", "abcd")


def test_splits_with_a_year(tmp_path, coco):
    assert yolo_splits(tmp_path) == ("train", "val")
    train, val = (open_source(f"yolo:{tmp_path}", split) for split in ("train", "val"))
    assert (train.ids, val.ids) == (("a", "ab"), ("abc",))
    assert [len(example["boxes"]) for example in (*train, *val)] == [1, 1, 1]


def test_two_years_of_a_split_are_not_mixed(tmp_path, put, coco):
    put("images/train2014", "b", "labels/train2014")
    with pytest.raises(DataError, match="which folder holds the pictures of train: images/train2014, images/train2017"):
        yolo_splits(tmp_path)
    (tmp_path / "coco.yaml").write_text("train: images/train2014\n")
    assert open_source(f"yolo:{tmp_path}").ids == ("b",)
    (tmp_path / "coco.yaml").write_text("train:  # both\n  - images/train2014\n  - images/train2017\n")
    source = open_source(f"yolo:{tmp_path}")
    assert source.ids == ("images/train2014/b", "images/train2017/a", "images/train2017/ab")
    assert source.files(2) == (
        tmp_path / "images/train2017/ab.png",
        tmp_path / "labels/train2017/ab.txt",
    )


def test_folders_called_like_splits_are_not_taken_for_one_folder(tmp_path, put):
    put("images/Training", "a", "labels/Training")
    put("images/dev_set", "ab", "labels/dev_set")
    with pytest.raises(DataError, match=r"images holds dev_set, Training, which are called like splits.*data\.yaml"):
        yolo_source(tmp_path)
    (tmp_path / "data.yaml").write_text("train: images/Training\nval: images/dev_set\n")
    assert open_source(f"yolo:{tmp_path}", "val").ids == ("ab",)


@pytest.mark.parametrize("folders", [("images/trainer", "images/valves"), ("images/1", "images/testimonials")])
def test_folders_of_other_names_are_one_data_set(tmp_path, put, folders):
    for number, folder in enumerate(folders):
        put(folder, f"p{number}", folder.replace("images", "labels"))
    assert yolo_splits(tmp_path) == (None,)
    assert len(yolo_source(tmp_path)) == 2


@pytest.mark.parametrize(
    "entries",
    [
        "train: train.txt\nval: 'lists/val.txt'  # held out\n",
        "path: ../datasets/mine\ntrain: ./train.txt\nval: [lists/val.txt]\ntest:\n",
        "path: .\r\ntrain:\r\n- train.txt\r\nval: lists/val.txt\r\ntest: ~\r\n",
    ],
)
def test_lists_of_pictures(tmp_path, put, entries):
    for name in ("a", "ab", "abc"):
        put("images", name, "labels")
    put("images", "abcd")
    (tmp_path / "lists").mkdir()
    (tmp_path / "train.txt").write_text(f"./images/abcd.png\n\n{tmp_path}/images/a.png\n")
    (tmp_path / "lists" / "val.txt").write_text("../images/ab.png\n")
    (tmp_path / "data.yaml").write_bytes((entries + "names: [cat]\n").encode())
    train, val = (open_source(f"yolo:{tmp_path}", split) for split in ("train", "val"))
    assert (train.ids, val.ids) == (("images/a", "images/abcd"), ("images/ab",))
    assert [len(example["boxes"]) for example in (*train, *val)] == [1, 0, 1]
    (tmp_path / "train.txt").write_text("images/a.png\nimages/z.png\nimages/a.png\n")
    problems = doctor(f"yolo:{tmp_path}").problems
    assert [p.partition("train.txt, ")[2][:38] for p in problems] == [
        "line 2: 'images/z.png' is no picture i",
        "line 3: 'images/a.png' is listed twice",
    ]


def test_paths_that_lead_out_of_the_folder_are_sought_inside(tmp_path, put):
    """As Roboflow writes them."""
    put("train/images", "a", "train/labels")
    put("valid/images", "ab", "valid/labels")
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\ntest: ../test/images\n")
    assert open_source(f"yolo:{tmp_path}", "val").ids == ("ab",)
    assert doctor(f"yolo:{tmp_path}").warnings[0].startswith(f"{tmp_path} has no file of class names")
    (tmp_path / "data.yaml").write_text("train: train\nval: /content/valid/images\n")
    report = doctor(f"yolo:{tmp_path}")
    assert report.ok
    assert [split.examples for split in report.splits] == [1, 1]
    assert any("`val: /content/valid/images` names no folder" in warning for warning in report.warnings)


def test_entries_that_are_not_understood_are_refused(tmp_path, put):
    put("images/all", "a", "labels/all")
    put("images/bare", "ab")
    for entries, message in [
        ("val: images/held", r"data\.yaml: `val: images/held` names no folder and no list of pictures"),
        ("train: images/bare", r"the pictures of `train` lie in .*images/bare, but .*labels/bare is no folder"),
        ("train: [[images/all]]", r"data\.yaml: `train` must be a path, or a list of paths"),
        ("val:\n  a: images/all", r"data\.yaml: `val` must be a path, or a list of paths"),
    ]:
        (tmp_path / "data.yaml").write_text(entries)
        with pytest.raises(DataError, match=message):
            yolo_source(tmp_path)
    (tmp_path / "data.yaml").write_text("test: images/bare\n")
    assert yolo_splits(tmp_path) == (None,)


def test_pictures_to_train_on_are_not_validated_on(tmp_path, put):
    """As in coco128, whose file names them twice."""
    put("images/train2017", "a", "labels/train2017")
    (tmp_path / "coco128.yaml").write_text("path: coco128\ntrain: images/train2017\nval: images/train2017\n")
    assert yolo_splits(tmp_path) == ("train",)
    assert any("`val` names the pictures of `train`" in warning for warning in doctor(f"yolo:{tmp_path}").warnings)


def test_pictures_of_a_split_without_text_files_are_said_to_be_passed_over(tmp_path, put):
    put("images/train", "a", "labels/train")
    put("images/val", "ab")
    report = doctor(f"yolo:{tmp_path}")
    assert [split.examples for split in report.splits] == [1]
    assert any(f"{tmp_path}/images/val has no folder {tmp_path}/labels/val" in warning for warning in report.warnings)


@pytest.mark.parametrize("name", ["../../secret", "/secret", "images/../../secret", "..\\..\\secret", "a" * 5000, "\0"])
def test_nothing_outside_of_the_folder_is_read(tmp_path, put, name):
    put(".", "secret")
    put("data/images", "a", "data/labels")
    data, outside = tmp_path / "data", name.replace("/secret", f"{tmp_path}/secret") if name[0] == "/" else name
    (data / "data.yaml").write_text(f"train: {outside}\n")
    (tmp_path / "secret.txt").write_text("images/a.png\n")
    with pytest.raises(DataError, match="names no folder and no list of pictures"):
        yolo_source(data)
    (data / "data.yaml").write_text("train: train.txt\n")
    (data / "train.txt").write_text(f"images/a.png\n{outside}.png\n")
    with pytest.raises(DataError, match=r"train\.txt, line 2: .* is no picture in"):
        yolo_source(data)
