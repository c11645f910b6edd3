import os
import re

import numpy as np
import pytest
from PIL import Image

from keras_cv_lectures.data import CAMVID_CLASSES, LabelMap, camvid_source, folder_source, read_mask
from keras_cv_lectures.data.folders import find_pairs, pictures_below
from keras_cv_lectures.errors import DataError, KcvlWarning


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)
    return path


def image(value=0, size=(4, 6)):
    return np.full((*size, 3), value)


def mask(value=0, size=(4, 6)):
    return np.full(size, value)


@pytest.fixture
def pair(tmp_path):
    def add(image_name, mask_name, value=0):
        write(tmp_path / "images" / image_name, image(value))
        write(tmp_path / "masks" / mask_name, mask(value % 2))

    add.images, add.masks = tmp_path / "images", tmp_path / "masks"
    return add


def test_examples_follow_the_contract_in_natural_order(pair):
    for number in (10, 2, 1):
        pair(f"{number}.png", f"{number}.png", number)
    source = folder_source(pair.images, pair.masks)
    assert source.ids == ("1", "2", "10")
    example = source[2]
    assert example["image"].dtype == np.uint8
    assert example["image"].shape == (4, 6, 3)
    assert example["mask"].dtype == np.int32
    assert example["mask"].shape == (4, 6)
    assert example["image_id"] == "10"
    assert [int(source[i]["image"][0, 0, 0]) for i in range(3)] == [1, 2, 10]
    assert [int(source[i]["mask"][0, 0]) for i in range(3)] == [1, 0, 0]
    assert source.files(2) == (pair.images / "10.png", pair.masks / "10.png")
    assert source.classes == ("background", "foreground")


@pytest.mark.parametrize(
    ("image_name", "mask_name"),
    [
        ("a.jpg", "a.png"),
        ("a.bmp", "a_mask.png"),
        ("a.tif", "a_label.tif"),
        ("0001TP_006690.png", "0001TP_006690_L.png"),
        ("town/town_1_leftImg8bit.png", "town/town_1_gtFine_labelIds.png"),
        ("b_L.png", "b_L.png"),
        ("c d.png", "c d_Mask.PNG"),
    ],
)
def test_names_that_belong_together(pair, image_name, mask_name):
    pair(image_name, mask_name)
    assert len(folder_source(pair.images, pair.masks)) == 1


def test_files_of_two_endings_are_paired_by_their_beginnings(pair):
    """As in DRIVE."""
    for number in (21, 22, 23):
        pair(f"x/{number}_training.tif", f"x/{number}_manual1.gif", number)
    source = folder_source(pair.images, pair.masks)
    assert [source.files(i)[1].name for i in range(3)] == [f"{number}_manual1.gif" for number in (21, 22, 23)]
    assert find_pairs(pair.images, pair.masks).notes == (
        "No mask is called like its picture, so that the beginnings of names pair them, such as 21_training.tif with "
        "21_manual1.gif.",
    )
    (pair.masks / "x" / "22_manual1.gif").unlink()
    with pytest.raises(DataError, match=r"22_training\.tif has no mask"):
        folder_source(pair.images, pair.masks)
    # Of one file of each kind any two would have one ending.
    (pair.images / "x" / "21_training.tif").unlink()
    (pair.images / "x" / "22_training.tif").unlink()
    with pytest.raises(DataError, match=r"23_training\.tif has no mask"):
        folder_source(pair.images, pair.masks)


def test_beginnings_pair_nothing_beside_ordinary_names(pair):
    """Copies that were turned in different ways are no pairs."""
    for name in "abc":
        pair(f"{name}.png", f"{name}.png")
    assert find_pairs(pair.images, pair.masks).notes == ()
    for name in "ab":
        pair(f"{name}_flip.png", f"{name}_rot.png")
    problems = find_pairs(pair.images, pair.masks).problems
    assert [problem.partition(" has no ")[0].rpartition("/")[2] for problem in problems] == [
        "a_rot.png",
        "b_rot.png",
        "a_flip.png",
        "b_flip.png",
    ]


def test_beginnings_of_files_of_several_endings_say_nothing(pair):
    for image_name, mask_name in (("a_1.png", "a_x.png"), ("b_2.png", "b_x.png")):
        pair(image_name, mask_name)
    with pytest.raises(DataError, match=r"a_1\.png has no mask"):
        folder_source(pair.images, pair.masks)


def test_one_folder_for_both(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.png", image())
        write(tmp_path / f"{name}_mask.png", mask())
    write(tmp_path / "._a.png", image())
    (tmp_path / "Thumbs.db").touch()
    assert folder_source(tmp_path, tmp_path).ids == ("a", "b")


def test_missing_partners_are_listed(pair):
    pair("a.png", "a.png")
    for name in "bcdef":
        write(pair.images / f"{name}.png", image())
    write(pair.masks / "z.png", mask())
    with pytest.raises(DataError) as caught:
        folder_source(pair.images, pair.masks)
    message = str(caught.value)
    assert f"{pair.masks / 'z.png'} has no picture in {pair.images}." in message
    assert f"{pair.images / 'b.png'} has no mask in {pair.masks}." in message
    assert "... and 3 more; `kcvl doctor` lists all of them." in message


def test_two_files_of_one_name_are_ambiguous(pair):
    pair("a.png", "a.png")
    write(pair.images / "a.bmp", image())
    with pytest.raises(DataError, match=r"a\.bmp and a\.png have the same name"):
        folder_source(pair.images, pair.masks)


def test_empty_and_absent_folders(tmp_path, pair):
    pair("a.png", "a.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no picture"):
        folder_source(tmp_path / "empty", pair.masks)
    with pytest.raises(DataError, match="absent is not a folder"):
        folder_source(pair.images, tmp_path / "absent")


def test_list_file_chooses_and_orders(tmp_path, pair):
    for name in ("a", "b", "c 1", "d"):
        pair(f"{name}.png", f"{name}_mask.png")
    (pair.masks / "d_mask.png").unlink()
    names = tmp_path / "train.txt"
    names.write_text("c 1\n/other/place/a.png /other/place/a_mask.png\n\n")
    assert folder_source(pair.images, pair.masks, list_file=names).ids == ("c 1", "a")

    names.write_text("a\nnobody\na.png\nd\n")
    with pytest.raises(DataError) as caught:
        folder_source(pair.images, pair.masks, list_file=names)
    assert "line 2: 'nobody' is no picture in" in str(caught.value)
    assert "line 3: 'a.png' is listed twice" in str(caught.value)
    assert "d.png has no mask" in str(caught.value)

    names.write_text("\n")
    with pytest.raises(DataError, match="is empty"):
        folder_source(pair.images, pair.masks, list_file=names)
    with pytest.raises(DataError, match="cannot be read"):
        folder_source(pair.images, pair.masks, list_file=tmp_path / "absent.txt")


def test_size_mismatch_names_both_files(pair):
    pair("a.png", "a.png")
    write(pair.masks / "a.png", mask(size=(5, 6)))
    source = folder_source(pair.images, pair.masks)
    expected = f"{pair.images / 'a.png'} is 6x4 (width x height), but its mask {pair.masks / 'a.png'} is 6x5."
    with pytest.raises(DataError, match=re.escape(expected)):
        source[0]


def test_both_damaged_files_of_an_example_are_named(pair):
    pair("a.png", "a.png")
    labels = LabelMap(classes=("x",), colors=((0, 0, 0),), values={0: 0})
    source = folder_source(pair.images, pair.masks, labels=labels)
    for path in source.files(0):
        path.write_bytes(path.read_bytes()[:44])
    with pytest.raises(DataError) as caught:
        source[0]
    assert [line.split(" is ")[0] for line in str(caught.value).split("\n")] == [str(p) for p in source.files(0)]


def test_label_file_and_grey_reading(tmp_path, pair):
    pair("a.png", "a.png")
    write(pair.masks / "a.png", np.where(np.eye(4, 6), 255, 7))
    (tmp_path / "labels.txt").write_text("255 cell 1 2 3\n7 membrane\n")
    source = folder_source(pair.images, pair.masks, labels=tmp_path / "labels.txt", channels=1)
    assert source.classes == ("cell", "membrane")
    assert source.colors[0] == (1, 2, 3)
    assert source[0]["image"].shape == (4, 6, 1)
    np.testing.assert_array_equal(source[0]["mask"], 1 - np.eye(4, 6))


def test_palette_masks_described_by_colours(tmp_path, pair):
    pair("a.png", "a.png")
    palette = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8)).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette.save(pair.masks / "a.png")
    write(pair.images / "a.png", image(size=(2, 2)))
    (tmp_path / "labels.csv").write_text("name,r,g,b\nx,40,50,60\ny,10,20,30\nignore,70,80,90\n")
    np.testing.assert_array_equal(
        folder_source(pair.images, pair.masks, labels=tmp_path / "labels.csv")[0]["mask"], [[1, 0], [255, 0]]
    )
    np.testing.assert_array_equal(folder_source(pair.images, pair.masks)[0]["mask"], [[0, 1], [2, 1]])


def test_camvid_layout(tmp_path):
    for split, value in (("train", 11), ("val", 10)):
        write(tmp_path / split / "a.png", image())
        write(tmp_path / f"{split}annot" / "a.png", mask(value))
    assert camvid_source(tmp_path)[0]["mask"].tolist() == mask(255).tolist()
    assert camvid_source(tmp_path, "val")[0]["mask"].tolist() == mask(10).tolist()
    with pytest.raises(DataError, match=r"no split 'test'.*it has train, val"):
        camvid_source(tmp_path, "test")


@pytest.mark.realdata
def test_real_camvid(realdata):
    train, val = (camvid_source(realdata("camvid"), split) for split in ("train", "val"))
    assert train.classes == CAMVID_CLASSES
    assert not set(train.ids) & set(val.ids)
    for source in (train, val):
        assert len(source) > 50
        example = source[len(source) // 2]
        assert example["image"].shape == (*example["mask"].shape, 3)
        stored = read_mask(source.files(len(source) // 2)[1])
        np.testing.assert_array_equal(example["mask"], np.where(stored == 11, 255, stored))


@pytest.mark.realdata
def test_real_isbi_is_binary(realdata):
    folder = realdata("isbi2012")
    source = folder_source(folder / "image", folder / "label", channels=1)
    assert source.classes == ("background", "foreground")
    assert [int(name) for name in source.ids] == sorted(int(name) for name in source.ids)
    example = source[0]
    assert example["image"].shape == (*example["mask"].shape, 1)
    np.testing.assert_array_equal(example["mask"] * 255, read_mask(source.files(0)[1]))


# Places --------------------------------------------------------------------------------------------------------------


def test_linked_folders_are_searched_once(tmp_path, pair):
    write(tmp_path / "disk" / "a.png", image())
    write(tmp_path / "disk" / "more" / "b.png", image())
    pair("own.png", "own.png")
    for name in ("one", "two"):  # Two ways to one folder.
        (pair.images / name).symlink_to(tmp_path / "disk")
    for inside in ("a.png", "more/b.png"):
        write(pair.masks / "one" / inside, mask())
    (tmp_path / "disk" / "round").symlink_to(pair.images)  # A ring through another disk.
    (pair.images / "lost").symlink_to(tmp_path / "absent")
    (pair.images / "itself").symlink_to(pair.images / "itself")
    assert set(pictures_below(pair.images)) == {"own", "one/a", "one/more/b"}
    assert folder_source(pair.images, pair.masks).ids == ("one/a", "one/more/b", "own")


@pytest.mark.parametrize("link", ["latest", "april/next", "april/deep/../../all"])
def test_a_link_beside_its_target_brings_no_picture_twice(pair, link):
    pair("april/deep/a.png", "april/deep/a.png")
    pair("may/b.png", "may/b.png")
    place = (pair.images / link).resolve()
    place.symlink_to(pair.images if place.name == "all" else pair.images / "may")
    assert folder_source(pair.images, pair.masks).ids == ("april/deep/a", "may/b")


def test_folders_below_that_cannot_be_read_are_left_out(pair, monkeypatch):
    pair("a.png", "a.png")
    pair("lost+found/b.png", "b.png")
    (pair.masks / "b.png").unlink()
    scandir, refused = os.scandir, "lost+found"

    def guarded(path):
        if os.path.basename(path) == refused:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)  # The tests may run as root, who may read everything.
    with pytest.warns(KcvlWarning, match=r"lost\+found cannot be read \(Permission denied\) and is left out\."):
        assert folder_source(pair.images, pair.masks).ids == ("a",)
    refused = "images"
    with pytest.raises(DataError, match=r"images cannot be read \(Permission denied\)\. Check who may read it\."):
        folder_source(pair.images, pair.masks)


@pytest.mark.parametrize("linked", [False, True])
def test_one_folder_may_lie_in_the_other(tmp_path, linked):
    data = tmp_path / "data"
    for name in ("a", "b"):
        write(data / f"{name}.png", image())
        write(data / "masks" / f"{name}.png", mask())
    if linked:
        (tmp_path / "link").symlink_to(data)
    outer = tmp_path / "link" if linked else data
    assert folder_source(outer, data / "masks").ids == ("a", "b")
    for name in ("a", "b"):  # The other way round: what lies outside are masks.
        write(data / f"{name}.png", mask())
        write(data / "masks" / f"{name}.png", image())
    assert folder_source(data / "masks", outer).ids == ("a", "b")
    for name in ("a", "b"):
        (data / f"{name}.png").unlink()
    with pytest.raises(DataError, match=r"data holds no picture .* outside of .*masks\. Check the path"):
        folder_source(data, data / "masks")
