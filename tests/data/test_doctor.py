import re
import shutil

import numpy as np
import pytest
from PIL import Image

from keras_cv_lectures.data import CAMVID_CLASSES, Source, doctor, examine, open_source, shapes_source


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)
    return path


@pytest.fixture
def camvid(tmp_path):
    """Four training and two validation pictures, all different, all in order."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for i in range(count):
            write(tmp_path / split / f"{split}{i}.png", rng.integers(0, 256, (6, 8, 3)))
            write(tmp_path / f"{split}annot" / f"{split}{i}.png", np.arange(48).reshape(6, 8) % 12)
    return tmp_path


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_counts_of_data_in_order(camvid):
    calls = []
    report = doctor(f"camvid:{camvid}", progress=lambda done, total: calls.append((done, total)))
    assert report.ok
    assert report.problems == report.warnings == ()
    assert report.examples == 6
    assert report.sizes == {(6, 8): 6}
    assert calls == [(i, 6) for i in range(1, 7)]
    train = report.splits[0]
    assert [label.name for label in train.labels] == list(CAMVID_CLASSES)
    assert {(label.pixels, label.pictures) for label in train.labels} == {(16, 4)}
    assert train.labels[0].share == pytest.approx(1 / 11)
    assert (train.ignored.pixels, train.ignored.share) == (16, pytest.approx(1 / 12))
    text = report.text()
    for expected in ("camvid train: 4 examples", "8x6 (4)", "Bicyclist", "9.09%", "Nothing stands in the way"):
        assert expected in text


def test_every_fault_is_named(camvid):
    cut(camvid / "train" / "train0.png")
    cut(camvid / "trainannot" / "train0.png")
    write(camvid / "trainannot" / "train1.png", np.zeros((6, 9)))
    write(camvid / "trainannot" / "train2.png", np.full((6, 8), 77))
    (camvid / "trainannot" / "train3.png").unlink()
    (camvid / "val" / "val0.png").write_bytes(b"")
    write(camvid / "valannot" / "stray.png", np.zeros((6, 8)))
    report = doctor(f"camvid:{camvid}")
    assert not report.ok
    expected = {
        f"{camvid / 'train' / 'train3.png'} has no mask": 1,
        f"{camvid / 'train' / 'train0.png'} is truncated": 1,
        f"{camvid / 'trainannot' / 'train0.png'} is truncated": 1,
        f"{camvid / 'train' / 'train1.png'} is 8x6": 1,
        f"{camvid / 'trainannot' / 'train2.png'} holds mask values outside the label map: 77 (48 pixels)": 1,
        f"{camvid / 'valannot' / 'stray.png'} has no picture": 1,
        f"{camvid / 'val' / 'val0.png'} is empty": 1,
    }
    assert {text: sum(p.startswith(text) for p in report.problems) for text in expected} == expected
    assert len(report.problems) == len(expected)
    text = report.text()
    assert all(problem.split("\n")[0] in text for problem in report.problems)
    assert "Problems: 7" in text
    assert "Training would fail" in text
    assert "3 of them unreadable" in text


def test_duplicates_within_and_across_splits(camvid):
    shutil.copy(camvid / "train" / "train0.png", camvid / "val" / "val1.png")
    shutil.copy(camvid / "train" / "train2.png", camvid / "train" / "train3.png")
    report = doctor(f"camvid:{camvid}")
    assert report.ok
    across, within = report.warnings
    assert "several splits" in across
    assert str(camvid / "train" / "train0.png") in across
    assert str(camvid / "val" / "val1.png") in across
    assert "occurs 2 times in camvid train" in within
    assert "train3.png" in within


def test_warnings_about_content(camvid):
    write(camvid / "train" / "train1.png", np.arange(48).reshape(6, 8))
    for i in range(2):
        write(camvid / "valannot" / f"val{i}.png", [[4] * 8] * 2 + [[11] * 8] * 4)
    report = doctor(f"camvid:{camvid}")
    assert report.ok
    grey, single, ignored = report.warnings
    assert "camvid train: 1 of 4 pictures are grey among coloured ones: train1" in grey
    assert "camvid val: every labelled pixel is 'Pavement'" in single
    assert "camvid val: 67% of the pixels are ignored" in ignored

    write(camvid / "valannot" / "val0.png", [[5] * 8] * 6)
    assert any("camvid val: no pixel of 'Sky', 'Building'" in warning for warning in doctor(str(camvid)).warnings)


def test_folder_with_guessed_labels(tmp_path):
    for i in range(3):
        write(tmp_path / "images" / f"{i}.png", np.full((4, 4, 3), [i, 0, 9]))
        write(tmp_path / "masks" / f"{i}.png", np.eye(4) * 255)
    spec = f"folder:{tmp_path}/images,{tmp_path}/masks"
    report = doctor(spec)
    assert report.ok
    assert [(label.name, label.pixels) for label in report.splits[0].labels] == [("background", 36), ("foreground", 12)]
    assert "0 and 255 were taken as background and foreground" in report.notes[0]
    assert report.notes[0] in report.text()

    # A truncated mask does not keep the others from being understood.
    cut(tmp_path / "masks" / "1.png")
    report = doctor(spec)
    assert len(report.problems) == 1
    assert report.splits[0].readable == 2

    # Masks that are no masks: the verdict, and the damaged file nevertheless.
    write(tmp_path / "masks" / "0.png", np.arange(100).reshape(10, 10))
    report = doctor(spec)
    assert not report.ok
    assert "look like pictures" in report.problems[0]
    assert "1.png is truncated" in report.problems[1]


def test_unusable_specifications_are_problems_not_exceptions(tmp_path):
    (tmp_path / "empty").mkdir()
    for spec, message in [
        (f"folder:{tmp_path}/empty,{tmp_path}/empty", "holds no picture"),
        ("nothing:here", "no known kind"),
        (f"camvid:{tmp_path}", "no split"),
        (f"voc:{tmp_path}", "Pascal VOC"),
        ("shapes:count=0", "count must be"),
    ]:
        report = doctor(spec)
        assert not report.ok
        assert message in report.problems[0]
        assert message in report.text()


def test_generated_data_and_sources_of_any_kind():
    report = doctor("shapes:count=4,size=32")
    assert report.ok
    assert [split.examples for split in report.splits] == [4, 1]
    source = shapes_source(2, size=(32, 32), seed=1)
    report = examine([source, source.subset([0], "copy")])
    assert sum("several splits" in warning for warning in report.warnings) == 1
    assert not examine([source.subset([], "none")]).ok


def test_masks_that_cannot_be_labels_are_problems():
    """A reader of one's own may return anything; the examples that are right are counted nevertheless."""
    masks = {
        "high": np.array([[300, 1], [1, 7]], np.int32),
        "low": np.array([[0, -1], [1, -2]], np.int64),
        "real": np.ones((2, 2), np.float32),
        "wide": np.array([[2**63, 0], [0, 0]], np.uint64),
        "small": np.array([[0, 1], [1, 255]], np.uint8),
        "large": np.array([[0, 1], [1, 1]], np.uint64),
        "yes": np.array([[True, False], [False, True]]),
    }
    ids = tuple(masks)

    def read(index):
        return {"image": np.full((2, 2, 3), [index, 0, 9], np.uint8), "mask": masks[ids[index]], "image_id": ids[index]}

    source = Source(name="own", ids=ids, read=read, classes=("a", "b"), colors=((0, 0, 0), (9, 9, 9)))
    report = examine([source])
    expected = "'mask' must hold integers in 0..255, where 255 = ignore, but "
    told = ("holds 300.", "holds -2, -1.", "is float32.", f"holds {2**63}.")
    for problem, name, words in zip(report.problems, ids, told, strict=False):
        assert problem.startswith(f"own, example {name}: {expected}{words}")
    assert len(report.problems) == len(told)
    (split,) = report.splits
    assert (split.examples, split.readable, split.sizes) == (7, 3, {(2, 2): 3})
    assert [(label.pixels, label.pictures) for label in split.labels] == [(4, 3), (7, 3)]
    assert split.ignored.pixels == 1


def objects_source(boxes, windows=None, classes=("cat", "dog")):
    """Pictures with given boxes, all of the first class."""

    def read(index):
        found = np.asarray(boxes[index], np.float32).reshape(-1, 4)
        example = {"image": np.full((8, 8, 3), index, np.uint8), "boxes": found}
        example |= {"labels": np.zeros(len(found), np.int32), "crowd": np.zeros(len(found), bool)}
        return example | ({"mask_windows": np.asarray(windows[index], np.int32).reshape(-1, 4)} if windows else {})

    return Source(
        name="toy",
        ids=tuple(f"e{i}" for i in range(len(boxes))),
        read=read,
        classes=classes,
        colors=((0, 0, 0),) * len(classes),
        object_classes=classes,
    )


def test_counts_of_objects():
    report = examine([objects_source([[[0, 0, 2, 8], [0, 0, 8, 8]], [], [[1, 1, 3, 3]]])])
    split = report.splits[0]
    cat, dog = split.objects
    assert (cat.name, cat.objects, cat.share, cat.pictures, cat.side) == ("cat", 3, 1.0, 2, 4.0)
    assert (dog.objects, dog.share, dog.pictures, dog.side) == (0, 0.0, 0, 0.0)
    assert split.without_objects == 1
    assert split.labels == ()
    assert report.warnings == ("toy: no object of 'dog'.",)
    text = report.text()
    assert "pictures without objects: 1" in text
    assert re.search(r"0 +cat +3 +100\.00% +2 +4\.0 px", text)


def test_warnings_about_objects():
    twice = examine([objects_source([[[0, 0, 2, 8]] * 2, [[0, 0, 2, 8]]], classes=("cat",))])
    assert any("1 pictures name an object twice, with the same box and class: e0" in w for w in twice.warnings)
    windows = [[[0, 0, 8, 2]], [[0, 0, 3, 8]]]
    turned = examine([objects_source([[[0, 0, 2, 8]], [[0, 0, 2.4, 8]]], windows, classes=("cat",))])
    assert any("1 pictures have an object whose mask and box hardly overlap: e0" in w for w in turned.warnings)
    assert any("no picture has an object" in w for w in examine([objects_source([[], []])]).warnings)
    many = tuple(f"c{i}" for i in range(30))
    text = examine([objects_source([[[0, 0, 2, 8]]], classes=many)]).text()
    assert re.search(r"\n +0 +c0 +1 ", text)
    assert not re.search(r"\n +1 +c1 ", text)


@pytest.mark.realdata
def test_real_camvid_is_in_order(realdata, tmp_path):
    folder = realdata("camvid")
    for split in ("train", "val"):
        for part in (split, f"{split}annot"):
            (tmp_path / part).mkdir()
            for path in sorted((folder / part).iterdir())[:8]:
                shutil.copy(path, tmp_path / part)
    report = doctor(f"camvid:{tmp_path}")
    assert report.ok, report.problems
    assert report.examples == 16
    picture = sorted((tmp_path / "val").iterdir())[3]
    cut(picture)
    report = doctor(f"camvid:{tmp_path}")
    assert len(report.problems) == 1
    assert str(picture) in report.problems[0]
    whole = open_source(f"camvid:{tmp_path}")
    assert sum(label.pixels for label in report.splits[0].labels) + report.splits[0].ignored.pixels == sum(
        example["mask"].size for example in whole
    )
