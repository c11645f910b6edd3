"""What a `.yaml` file of YOLO's format says of the splits, where it is not what lies there."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from keras_cv_lectures.data import doctor, open_source, yolo_source
from keras_cv_lectures.data.yolo import yolo_splits
from keras_cv_lectures.errors import DataError


@pytest.fixture
def put(tmp_path):
    """Writes pictures NAME.png into a folder `images`, and text files of an object of class 0 below `labels`."""

    def write(images, *names):
        labels = images.replace("images", "labels")
        for folder in (images, labels):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            Image.fromarray(np.full((4, 6, 3), ord(name), np.uint8)).save(tmp_path / images / f"{name}.png")
            (tmp_path / labels / f"{name}.txt").write_text("0 0.5 0.5 1 1\n")

    return write


@pytest.mark.parametrize("prefix", ["/home/someone/data/images/train/", "data/images/train/"])
def test_lists_of_another_machine_give_way_to_folders(tmp_path, put, prefix):
    put("images/train", "a", "b")
    (tmp_path / "train.txt").write_text(f"{prefix}a.png\n{prefix}b.png\n")
    (tmp_path / "data.yaml").write_text("train: train.txt\nnames: [cat]\n")
    assert open_source(f"yolo:{tmp_path}").ids == ("a", "b")
    (warning,) = doctor(f"yolo:{tmp_path}").warnings
    assert f"no line of the list `train: train.txt` names a picture ({tmp_path}/train.txt, line 1: " in warning
    assert warning.endswith(f"{tmp_path}/images/train is read.")
    (tmp_path / "data.yaml").write_text("train: train.txt\nval: train.txt\nnames: [cat]\n")
    with pytest.raises(DataError, match="no line of the list `val: train.txt` names a picture"):
        yolo_splits(tmp_path)


def test_without_the_pictures_to_validate_on_those_to_train_on_are_taken(tmp_path, put):
    """As Roboflow exports data of one split."""
    put("train/images", "a")
    for entries in ("train: ../train/images\nval: ../valid/images\n", "val: ../valid/images\n"):
        (tmp_path / "data.yaml").write_text(f"{entries}names: [cat]\n")
        assert yolo_splits(tmp_path) == ("train",)
        (warning,) = doctor(f"yolo:{tmp_path}").warnings
        assert "`val: ../valid/images` names no folder" in warning
        assert warning.endswith("pictures of `train` are validated on instead.")
    (tmp_path / "data.yaml").write_text("train: ../training/images\n")
    assert yolo_splits(tmp_path) == ("train",)
    (tmp_path / "train").rename(tmp_path / "mine")
    with pytest.raises(DataError, match=r"`train: ../training/images` names no folder.*Correct it there"):
        yolo_splits(tmp_path)


def test_settings_of_a_training_say_nothing_of_splits(tmp_path, put):
    """As of Ultralytics."""
    put("images/a", "a")
    put("images/b", "b")
    (tmp_path / "args.yaml").write_text("task: detect\ndata: coco8.yaml\nval: true\nsplit: val\n")
    assert yolo_splits(tmp_path) == (None,)
    (tmp_path / "coco8.yaml").write_text("train: images/a\nval: images/b\nnames: {0: cat}\n")
    assert [open_source(f"yolo:{tmp_path}", split).ids for split in ("train", "val")] == [("a",), ("b",)]


@pytest.mark.parametrize("empty", ["''", '""', "[]", "[ ]  # none"])
def test_empty_entries_are_none(tmp_path, put, empty):
    put("images/a", "a")
    (tmp_path / "data.yaml").write_text(f"path: {empty}\ntrain: images/a\nval: {empty}\ntest: {empty}\nnames: [cat]\n")
    assert yolo_splits(tmp_path) == (None,)
    assert open_source(f"yolo:{tmp_path}").ids == ("a",)
    assert doctor(f"yolo:{tmp_path}").warnings == ()


def test_a_picture_in_two_places_is_refused(tmp_path, put):
    put("images/train", "a")
    put("images/val", "b")
    (tmp_path / "data.yaml").write_text("train: [images, images/train]\nnames: [cat]\n")
    with pytest.raises(DataError, match=r"images/train/a\.png is named twice, because one entry .* inside of another"):
        yolo_source(tmp_path, "train")
