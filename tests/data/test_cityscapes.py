import numpy as np
import pytest
from PIL import Image

from keras_cv_lectures.data import (
    CITYSCAPES_CLASSES,
    CITYSCAPES_COLORS,
    cityscapes_objects_source,
    cityscapes_source,
    doctor,
    has_splits,
    open_source,
)
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.geometry.masks import unpack_masks

# The table of labels.py of cityscapesScripts, written out once more: id -> train id, 255 where none.
TRAIN_IDS = dict.fromkeys(range(34), 255) | dict(
    zip([7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33], range(19), strict=True)
)


def put(root, split, name, label_ids=None, *, kind="labelIds", picture=True):
    """A picture `name` of a city of its own and, if given, its annotation; returns the annotation's path."""
    city = name.split("_")[0]
    image = root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png"
    mask = root / "gtFine" / split / city / f"{name}_gtFine_{kind}.png"
    for path in (image, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    if picture:
        shape = (4, 34) if label_ids is None else label_ids.shape
        Image.fromarray(np.full((*shape, 3), len(name), np.uint8)).save(image)
    if label_ids is not None:
        Image.fromarray(label_ids).save(mask)
    return mask


@pytest.fixture
def ids():
    return np.tile(np.arange(34, dtype=np.uint8), (4, 1))


def test_34_ids_become_19_train_ids(tmp_path, ids):
    put(tmp_path, "train", "aachen_000000_000019", ids)
    put(tmp_path, "val", "ulm_000000_000019", ids)
    source = open_source(f"cityscapes:{tmp_path}")
    assert source.ids == ("aachen/aachen_000000_000019",)
    assert len(source.classes) == 19
    np.testing.assert_array_equal(source[0]["mask"][0], [TRAIN_IDS[i] for i in range(34)])
    assert source.classes[TRAIN_IDS[26]] == "car"
    assert source.colors[TRAIN_IDS[26]] == (0, 0, 142)
    assert source.classes[TRAIN_IDS[21]] == "vegetation"
    assert source.colors[TRAIN_IDS[21]] == (107, 142, 35)
    assert (source.classes, source.colors) == (CITYSCAPES_CLASSES, CITYSCAPES_COLORS)
    assert has_splits(f"cityscapes:{tmp_path}")
    assert open_source(str(tmp_path), "val").ids == ("ulm/ulm_000000_000019",)


def test_train_ids_are_taken_where_there_are_no_label_ids(tmp_path, ids):
    train_ids = np.vectorize(TRAIN_IDS.get)(ids).astype(np.uint8)
    put(tmp_path, "train", "aachen_0", train_ids, kind="labelTrainIds")
    np.testing.assert_array_equal(cityscapes_source(tmp_path)[0]["mask"], train_ids)
    # With both, the files that everybody has are read: as train ids these would mean something else.
    put(tmp_path, "train", "aachen_0", ids)
    np.testing.assert_array_equal(cityscapes_source(tmp_path)[0]["mask"], train_ids)


def test_a_label_file_gives_the_ids_another_meaning(tmp_path, ids):
    put(tmp_path, "train", "aachen_0", ids)
    lines = [f"{i} {'flat' if i in (7, 8) else 'rest'}" for i in range(34)]
    (tmp_path / "labels.txt").write_text("\n".join(lines))
    source = open_source(f"cityscapes:{tmp_path},labels={tmp_path}/labels.txt,channels=1")
    assert source.classes == ("rest", "flat")
    np.testing.assert_array_equal(np.flatnonzero(source[0]["mask"][0] == 1), [7, 8])
    assert source[0]["image"].shape == (4, 34, 1)


def test_instances_are_objects_and_groups_are_crowds(tmp_path):
    values = np.zeros((20, 30), np.uint16)
    values[:, :10] = 7  # Road: no object.
    values[2:6, 12:18] = 26001
    values[4:9, 20:22] = 26000  # The first car has the number 0.
    values[10:12, 20:29] = 24  # A group of persons.
    values[15:18, 3:7] = 33002
    values[19, 0] = 29001  # A caravan, which is not scored.
    put(tmp_path, "train", "aachen_0", values, kind="instanceIds")
    source = open_source(f"cityscapesobjects:{tmp_path}")
    assert source.classes == ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
    example = source[0]
    rows = {
        tuple(box): (source.classes[label], crowd)
        for box, label, crowd in zip(
            example["boxes"].tolist(), example["labels"].tolist(), example["crowd"].tolist(), strict=True
        )
    }
    assert rows == {
        (12, 2, 18, 6): ("car", False),
        (20, 4, 22, 9): ("car", False),
        (20, 10, 29, 12): ("person", True),
        (3, 15, 7, 18): ("bicycle", False),
    }
    masks = unpack_masks(example["mask_pixels"], example["mask_windows"], (20, 30))
    for box, mask in zip(example["boxes"].astype(int).tolist(), np.asarray(masks), strict=True):
        expected = np.zeros((20, 30), np.uint8)
        expected[box[1] : box[3], box[0] : box[2]] = 1
        np.testing.assert_array_equal(mask, expected)
    assert "mask_pixels" not in open_source(f"cityscapesobjects:{tmp_path},masks=no")[0]


def test_objects_take_the_order_of_a_model(tmp_path):
    values = np.zeros((8, 8), np.uint16)
    values[1:3, 1:3] = 33000
    put(tmp_path, "val", "ulm_0", values, kind="instanceIds")
    order = ("bicycle", "person", "rider", "car", "truck", "bus", "train", "motorcycle")
    assert cityscapes_objects_source(tmp_path, "val", classes=order)[0]["labels"].tolist() == [0]
    with pytest.raises(DataError, match="Cityscapes has person, rider, truck, bus, train, motorcycle, too"):
        cityscapes_objects_source(tmp_path, "val", classes=("bicycle", "car"))


def test_missing_parts_are_named(tmp_path, ids):
    with pytest.raises(DataError, match=r"leftImg8bit/train is not a folder.*neither train nor val.*Unpack both"):
        cityscapes_source(tmp_path)
    put(tmp_path, "val", "ulm_0", ids)
    with pytest.raises(DataError, match="there is val"):
        open_source(f"cityscapes:{tmp_path},split=train")
    with pytest.raises(DataError, match="expected a path inside"):
        open_source(f"cityscapes:{tmp_path},split=../leftImg8bit/val")
    put(tmp_path, "val", "ulm_1")
    put(tmp_path, "val", "ulm_2", ids, picture=False)
    report = doctor(f"cityscapes:{tmp_path}")
    assert len(report.problems) == 2
    assert "ulm_1_gtFine_labelIds.png is missing" in report.problems[0]
    assert "ulm_2_gtFine_labelIds.png has no picture" in report.problems[1]


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_what_macos_leaves_behind_is_no_mask(tmp_path, ids, kind):
    values = np.zeros((8, 8), np.uint16)
    values[1:3, 1:3] = 33000
    put(tmp_path, "train", "aachen_0", np.zeros((8, 8), np.uint8), kind=kind)
    city = put(tmp_path, "train", "aachen_0", values, kind="instanceIds").parent
    for ending in ("labelIds", "labelTrainIds", "instanceIds"):
        for folder in (city, tmp_path / "__MACOSX" / "gtFine" / "train" / "aachen"):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"._aachen_0_gtFine_{ending}.png").write_bytes(b"\0\5\x16\7")
    for spec in (str(tmp_path), f"cityscapesobjects:{tmp_path}"):
        assert open_source(spec).ids == ("aachen/aachen_0",)
    road_or_ignored = {"labelTrainIds": 0, "labelIds": 255}[kind]
    assert (cityscapes_source(tmp_path)[0]["mask"] == road_or_ignored).all()


def test_the_doctor_goes_on_after_a_damaged_file(tmp_path, ids):
    put(tmp_path, "train", "aachen_0", ids)
    put(tmp_path, "train", "aachen_1", np.full((4, 34), 99, np.uint8))
    put(tmp_path, "val", "ulm_0", ids).write_bytes(b"")
    report = doctor(str(tmp_path))
    assert "aachen_1_gtFine_labelIds.png holds mask values outside the label map: 99" in report.problems[0]
    assert "ulm_0_gtFine_labelIds.png is empty" in report.problems[1]
    assert report.splits[0].labels[13].pixels == 4
