import shutil

import numpy as np
import pytest
from PIL import Image

from keras_cv_lectures.data import VOC_CLASSES, default_colors, doctor, open_source, read_mask, voc_segmentation_source
from keras_cv_lectures.errors import DataError


def make_voc(root, names=("2007_000001", "2007_000002"), lists=("train", "val")):
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for value, name in enumerate(names):
        Image.fromarray(np.full((6, 8, 3), 60 * value, np.uint8)).save(root / "JPEGImages" / f"{name}.jpg")
        picture = Image.fromarray(np.array([[value, 15] * 4] * 5 + [[255] * 8], np.uint8)).convert("P")
        picture.putpalette([c for color in default_colors(256) for c in color])
        picture.save(root / "SegmentationClass" / f"{name}.png")
    for name, member in zip(lists, names, strict=False):
        (root / "ImageSets" / "Segmentation" / f"{name}.txt").write_text(f"{member}\n")
    return root


@pytest.mark.parametrize("below", [".", "VOC2012", "VOCdevkit/VOC2012", "data/VOCdevkit/VOC2012"])
def test_layout_is_found_at_and_below_the_folder(tmp_path, below):
    make_voc(tmp_path / below)
    source = voc_segmentation_source(tmp_path, "val")
    assert source.ids == ("2007_000002",)
    assert source.classes == VOC_CLASSES
    example = source[0]
    np.testing.assert_array_equal(example["mask"], [[1, 15] * 4] * 5 + [[255] * 8])
    assert abs(example["image"].astype(int) - 60).max() <= 2


def test_extensions_in_capitals(tmp_path):
    make_voc(tmp_path, names=("a", "b", "c"))
    for name in ("a", "b"):
        (tmp_path / "JPEGImages" / f"{name}.jpg").rename(tmp_path / "JPEGImages" / f"{name}.JPG")
    (tmp_path / "JPEGImages" / "b.TXT").write_text("")
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("a\nb\nc\n")
    files = [path.name for index in range(3) for path in voc_segmentation_source(tmp_path).files(index)[:1]]
    assert files == ["a.JPG", "b.JPG", "c.jpg"]


def test_voc2012_wins_and_other_years_must_be_named(tmp_path):
    make_voc(tmp_path / "VOCdevkit/VOC2007", names=("a", "b"))
    make_voc(tmp_path / "VOCdevkit/VOC2010", names=("c", "d"))
    with pytest.raises(DataError, match="holds VOC2007, VOC2010"):
        voc_segmentation_source(tmp_path)
    make_voc(tmp_path / "VOCdevkit/VOC2012", names=("e", "f"))
    assert voc_segmentation_source(tmp_path).ids == ("e",)


def test_colour_coded_masks_and_own_classes(tmp_path):
    make_voc(tmp_path)
    mask = tmp_path / "SegmentationClass" / "2007_000001.png"
    Image.open(mask).convert("RGB").save(mask)
    np.testing.assert_array_equal(voc_segmentation_source(tmp_path)[0]["mask"], [[0, 15] * 4] * 5 + [[255] * 8])

    (tmp_path / "labels.txt").write_text("15 person\n1 plane\nignore 0\n")
    source = voc_segmentation_source(tmp_path, "val", labels=tmp_path / "labels.txt")
    assert source.classes == ("person", "plane")
    np.testing.assert_array_equal(source[0]["mask"], [[1, 0] * 4] * 5 + [[255] * 8])


def test_names_with_blanks(tmp_path):
    """What follows a blank is a mark of the list, unless the name has the blank itself."""
    make_voc(tmp_path, names=("a b", "c"))
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("a b\nc  -1\n")
    assert voc_segmentation_source(tmp_path).ids == ("a b", "c")
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("c ../../d\n")
    assert voc_segmentation_source(tmp_path).ids == ("c",)


def test_label_map_of_cvat_beside_the_folders(tmp_path):
    """Its colours count, not the indices of a palette; `make_voc` writes the colours of 0, 15 and 255, or 1 and 15."""
    make_voc(tmp_path)
    (tmp_path / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nred car:128,0,0:wheel,door:drives\n"
        "person:192,128,128::\nignored:224,224,192::\n"
    )
    for source in (voc_segmentation_source(tmp_path, "val"), open_source(f"voc:{tmp_path}", "val")):
        assert source.classes == ("background", "red car", "person")
        np.testing.assert_array_equal(source[0]["mask"], [[1, 2] * 4] * 5 + [[255] * 8])
    (tmp_path / "labels.txt").write_text("0 sky\n1 plane\n15 person\n")
    assert open_source(f"voc:{tmp_path},labels={tmp_path}/labels.txt").classes == ("sky", "plane", "person")
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\ncar:\n")
    assert open_source(f"voc:{tmp_path},labels={tmp_path}/labels.txt").classes == ("sky", "plane", "person")
    with pytest.raises(DataError, match=r"labelmap\.txt, line 2: 'car:' is not .*NAME:RED,GREEN,BLUE::"):
        voc_segmentation_source(tmp_path)
    # Of another program.
    (tmp_path / "labelmap.txt").write_text("item {\n  id: 1\n  name: 'car'\n}\n")
    assert voc_segmentation_source(tmp_path).classes == VOC_CLASSES


def test_missing_parts_are_named(tmp_path):
    with pytest.raises(DataError, match=r"does not hold Pascal VOC.*JPEGImages/"):
        voc_segmentation_source(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        voc_segmentation_source(tmp_path / "absent")
    make_voc(tmp_path)
    with pytest.raises(DataError, match=r"test\.txt does not exist; there is train, val"):
        voc_segmentation_source(tmp_path, "test")
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("2007_000001\n2007_000009\n2007_000001\n")
    with pytest.raises(DataError) as caught:
        voc_segmentation_source(tmp_path)
    for text in ("JPEGImages/2007_000009.jpg is missing", "2007_000009.png is missing", "names 2007_000001 twice"):
        assert text in str(caught.value)
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("")
    with pytest.raises(DataError, match="is empty"):
        voc_segmentation_source(tmp_path)


@pytest.mark.realdata
def test_real_voc_pictures(realdata, tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    pictures = sorted(realdata("voc_crf_sample").glob("*_0img.png"))
    names = [path.name.removesuffix("_0img.png") for path in pictures]
    for name, path in zip(names, pictures, strict=True):
        shutil.copy(path, root / "JPEGImages" / f"{name}.png")
        shutil.copy(path.with_name(f"{name}_5labels.png"), root / "SegmentationClass" / f"{name}.png")
    (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(names[1:]))
    (root / "ImageSets/Segmentation/val.txt").write_text(names[0])
    source = voc_segmentation_source(tmp_path)
    assert source.ids == tuple(names[1:])
    for index, example in enumerate(source):
        assert example["image"].shape == (*example["mask"].shape, 3)
        np.testing.assert_array_equal(example["mask"], read_mask(source.files(index)[1]))
    report = doctor(f"voc:{tmp_path}")
    assert report.ok, report.problems
    assert [split.examples for split in report.splits] == [len(names) - 1, 1]
