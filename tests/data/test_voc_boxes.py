import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from keras_cv_lectures.data import VOC_CLASSES, doctor, open_source, to_dataset, voc_boxes_source
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.metrics import match_objects
from keras_cv_lectures.systems import SYSTEMS


def xml(*objects, size=(8, 6), database="Unknown", filename="x.jpg"):
    rows = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, (x1, y1, x2, y2), difficult in objects
    )
    return (
        f"<annotation><filename>{filename}</filename><source><database>{database}</database></source>"
        f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>{rows}</annotation>"
    )


@pytest.fixture
def voc(tmp_path):
    """Three pictures of 8 x 6, the last without objects; `add` writes a further one."""

    def add(name, text, root=tmp_path, folders=("JPEGImages", "Annotations")):
        for folder in folders:
            (root / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 8, 3), 20, np.uint8)).save(root / folders[0] / f"{name}.jpg")
        (root / folders[1] / f"{name}.xml").write_text(text)

    add("a1", xml(("dog", (2, 1, 5, 4), 0), ("cat", (0.5, 0, 8, 6), 0)))
    add("a2", xml(("cat", (1, 1, 3, 3), 0)))
    add("a10", xml())
    add.root = tmp_path
    return add


def lists(root, **names):
    folder = root / "ImageSets" / "Main"
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in names.items():
        (folder / f"{name}.txt").write_text("\n".join(lines))


def test_all_files_without_lists(voc):
    source = voc_boxes_source(voc.root)
    assert source.ids == ("a1", "a2", "a10")
    assert source.classes == source.object_classes == ("cat", "dog")
    np.testing.assert_array_equal(source[0]["boxes"], [[2, 1, 5, 4], [0.5, 0, 8, 6]])
    np.testing.assert_array_equal(source[0]["labels"], [1, 0])
    assert source[2]["boxes"].shape == (0, 4)
    assert set(source[2]) == {"image", "boxes", "labels", "image_id"}
    assert source.files(0) == (voc.root / "JPEGImages" / "a1.jpg", voc.root / "Annotations" / "a1.xml")


def test_lists_share_the_classes_of_the_folder(voc):
    lists(voc.root, train=["a2 1", "a10"], val=["a1"])
    train, val = (open_source(f"vocboxes:{voc.root}", split) for split in ("train", "val"))
    assert (train.ids, val.ids) == (("a2", "a10"), ("a1",))
    assert train.classes == val.classes == ("cat", "dog")
    assert open_source(str(voc.root), "val").ids == ("a1",)
    with pytest.raises(DataError, match=r"test\.txt does not exist; there is train, val"):
        voc_boxes_source(voc.root, "test")
    lists(voc.root, train=["a2", "../../secret"])
    with pytest.raises(DataError, match="secret.*expected a path inside"):
        voc_boxes_source(voc.root, "train")
    with pytest.raises(DataError, match="expected a path inside"):
        voc_boxes_source(voc.root, "../../secret")


def test_the_challenges_own_files_count_pixels_from_one(voc):
    voc("a1", xml(("dog", (1, 1, 8, 6), 0), ("dog", (3, 2, 3, 4), 0), database="The VOC2007 Database"))
    example, left_out = voc_boxes_source(voc.root).inspect(0)
    np.testing.assert_array_equal(example["boxes"], [[0, 0, 8, 6], [2, 1, 3, 4]])
    assert not left_out


def test_vocs_twenty_classes_come_in_vocs_order(voc):
    voc("a1", xml(*[(name, (1, 1, 3, 3), 0) for name in reversed(VOC_CLASSES[1:])]))
    (voc.root / "Annotations" / "a2.xml").write_text(xml())
    assert voc_boxes_source(voc.root).classes == VOC_CLASSES[1:]


def test_difficult_objects_are_marked_and_not_trained_on(voc):
    voc("a2", xml(("cat", (1, 1, 3, 3), 1), ("cat", (2, 2, 4, 4), 0)))
    source = voc_boxes_source(voc.root)
    assert [example["difficult"].tolist() for example in source] == [[False, False], [True, False], []]
    assert not any("crowd" in example for example in source)
    assert doctor(f"vocboxes:{voc.root}").splits[0].crowds == 1
    recipe = SYSTEMS["faster_rcnn"]
    dataset = to_dataset(source, shuffle=False, seed=0, epochs=1, keys=[k for k in recipe.keys if k in source[0]])
    context = {"sizes": None, "max_objects": 3}
    batches = recipe.make_batches(dataset, output_size=(6, 8), base_size=None, batch_size=3, context=context)
    ((_, targets),) = batches.as_numpy_iterator()
    np.testing.assert_array_equal(targets["labels"], [[1, 0, -1], [0, -1, -1], [-1, -1, -1]])
    np.testing.assert_array_equal(targets["boxes"][1, 0], [2, 2, 4, 4])


def test_difficult_objects_alone_are_refused(voc):
    for name in ("a1", "a2", "a10"):
        voc(name, xml(("cat", (1, 1, 3, 3), 1)))
    with pytest.raises(DataError, match=r"Annotations: all 3 objects have <difficult> 1, and such objects are not"):
        voc_boxes_source(voc.root)


def test_what_lies_inside_a_difficult_object_is_wrong(voc):
    """As VOCevaldet.m of the challenge says: below IoU 0.5 with the object it overlaps most it is a false alarm."""
    voc("a2", xml(("cat", (0, 0, 8, 6), 1)))
    boxes = np.float32([[0, 0, 8, 6], [1, 1, 2, 3], [0, 0, 8, 5]])  # IoU 1, 2 / 48, 40 / 48
    found = {"boxes": boxes, "labels": np.zeros(3, np.int32), "scores": np.float32([0.9, 0.8, 0.7])}
    assert match_objects(voc_boxes_source(voc.root)[1], found, 2).tolist() == [-2, -1, -2]


def test_parts_of_an_object_are_no_objects(voc):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    text = xml(("dog", (2, 1, 5, 4), 0)).replace("<name>dog", f"{part}<name>dog")
    voc("a1", text)
    source = voc_boxes_source(voc.root)
    assert source.classes == ("cat", "dog")
    np.testing.assert_array_equal(source[0]["boxes"], [[2, 1, 5, 4]])


def test_boxes_of_no_size_are_left_out_and_named(voc):
    voc("a2", xml(("cat", (3, 3, 3, 5), 0), ("dog", (1, 1, 3, 3), 0), ("cat", (9, 1, 12, 3), 0), size=(0, 0)))
    example, left_out = voc_boxes_source(voc.root).inspect(1)
    np.testing.assert_array_equal(example["boxes"], [[1, 1, 3, 3]])
    assert example["labels"].tolist() == [1]
    assert [line.split(": its")[0] for line in left_out] == [
        f"{voc.root}/Annotations/a2.xml: object {number} (cat)" for number in (1, 3)
    ]
    report = doctor(str(voc.root))
    assert report.ok
    assert report.splits[0].left_out == left_out
    assert [(count.name, count.objects, count.pictures) for count in report.splits[0].objects] == [
        ("cat", 1, 1),
        ("dog", 2, 2),
    ]
    assert report.splits[0].without_objects == 1


@pytest.mark.parametrize("folders", [("images", "annotations"), (".", ".")])
def test_other_layouts(voc, tmp_path, folders):
    voc("b", xml(("cat", (1, 1, 3, 3), 0)), tmp_path / "other", folders)
    assert voc_boxes_source(tmp_path / "other").ids == ("b",)


def test_extensions_in_capitals(voc):
    picture = voc.root / "JPEGImages" / "a2.jpg"
    picture.rename(picture.with_suffix(".JPG"))
    assert voc_boxes_source(voc.root).files(1)[0] == picture.with_suffix(".JPG")


def test_hidden_files_are_passed_over(voc, tmp_path):
    """macOS puts `._NAME`, which is no XML, beside each NAME on disks of other systems."""
    for name in ("Annotations/._a1.xml", "JPEGImages/._a1.jpg"):
        (voc.root / name).write_bytes(b"\0\5\x16\7\xff")
    report = doctor(f"vocboxes:{voc.root}")
    assert report.ok
    assert "._a1" not in report.text()
    assert voc_boxes_source(voc.root).ids == ("a1", "a2", "a10")
    for folder in ("Annotations", "."):
        (tmp_path / "bare" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "bare" / folder / "._a1.xml").write_bytes(b"\0\5\x16\7")
    with pytest.raises(DataError, match="holds no XML file"):
        voc_boxes_source(tmp_path / "bare")


def test_voc2012_below_the_folder(voc, tmp_path):
    voc("b", xml(("cat", (1, 1, 3, 3), 0)), tmp_path / "top" / "VOCdevkit" / "VOC2012")
    assert voc_boxes_source(tmp_path / "top").ids == ("b",)


def test_given_classes(voc):
    (voc.root / "labels.txt").write_text("bird\ndog\ncat\n")
    source = open_source(f"vocboxes:{voc.root},labels={voc.root}/labels.txt")
    assert (source.classes, source[0]["labels"].tolist()) == (("bird", "dog", "cat"), [1, 2])
    assert open_source(f"vocboxes:{voc.root}", like=source)[0]["labels"].tolist() == [1, 2]
    with pytest.raises(DataError, match=r"a1\.xml holds 'dog', but the classes are cat"):
        voc_boxes_source(voc.root, classes=["cat"])


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;">]>'
    "<annotation><object><name>&y;</name></object></annotation>"
)
LEAK = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><filename>&x;</filename></annotation>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "has a document type"),
        (LEAK, "has a document type"),
        ("", "no valid XML"),
        ("<annotation><object>", "no valid XML"),
        ("<annotation>&nbsp;</annotation>", "no valid XML"),
        ('<?xml version="1.0" encoding="gb2312"?><annotation/>', "no valid XML"),
        ("<html/>", "begins with <html>"),
        ("<annotation><object><name>cat</name></object></annotation>", "object 1 has no <bndbox>"),
        (xml(("cat", (1, "x", 3, 3), 0)), "object 1 has no <bndbox> of four numbers"),
        (xml(("cat", (1, "nan", 3, 3), 0)), "object 1 has no <bndbox> of four numbers"),
        (xml((" ", (1, 1, 3, 3), 0)), "object 1 has no name"),
    ],
)
def test_faulty_files_are_named(voc, text, message):
    (voc.root / "Annotations" / "a2.xml").write_text(text)
    with pytest.raises(DataError, match=rf"a2\.xml.*{message}"):
        voc_boxes_source(voc.root)
    report = doctor(f"vocboxes:{voc.root}")
    assert sum("a2.xml" in problem for problem in report.problems) == 1


def test_missing_files_and_wrong_sizes(voc):
    (voc.root / "JPEGImages" / "a2.jpg").unlink()
    with pytest.raises(DataError, match=r"a2\.jpg is missing, though .*a2\.xml describes it"):
        voc_boxes_source(voc.root)
    (voc.root / "Annotations" / "a2.xml").write_text(xml(filename="../../a1.jpg"))
    with pytest.raises(DataError, match="expected a path inside"):
        voc_boxes_source(voc.root)
    (voc.root / "Annotations" / "a2.xml").write_text(xml(filename="renamed.JPG"))
    Image.new("RGB", (8, 6)).save(voc.root / "JPEGImages" / "renamed.JPG")
    assert voc_boxes_source(voc.root).files(1)[0].name == "renamed.JPG"
    voc("a2", xml(("cat", (1, 1, 3, 3), 0), size=(9, 6)))
    with pytest.raises(DataError, match=r"a2\.jpg is 8x6 .*a2\.xml describes a picture of 9x6"):
        voc_boxes_source(voc.root)[1]
    lists(voc.root, train=["a1", "a7"])
    with pytest.raises(DataError, match=r"a7\.xml cannot be read"):
        voc_boxes_source(voc.root, "train")
    with pytest.raises(DataError, match="does not hold Pascal VOC boxes"):
        voc_boxes_source(voc.root / "JPEGImages")


def test_pictures_without_a_file_are_mentioned(voc):
    Image.new("RGB", (8, 6)).save(voc.root / "JPEGImages" / "b.png")
    report = doctor(f"vocboxes:{voc.root}")
    assert report.ok
    assert any("1 pictures have no XML file and are not used: b.png" in warning for warning in report.warnings)


@pytest.mark.realdata
def test_real_blood_cells(realdata):
    folder = realdata("bccd")
    spec = f"vocboxes:{folder},split=val"
    report = doctor(spec)
    assert report.ok, report.problems
    total, empty = 0, []
    for name in (folder / "ImageSets" / "Main" / "val.txt").read_text().split():
        path = folder / "Annotations" / f"{name}.xml"
        for number, item in enumerate(ElementTree.parse(path).getroot().findall("object"), 1):
            x1, y1, x2, y2 = (float(item.findtext(f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax"))
            total += 1
            if x2 <= x1 or y2 <= y1:
                empty.append(f"{path}: object {number} ({item.findtext('name')})")
    left_out = [line.split(": its")[0] for split in report.splits for line in split.left_out]
    assert sorted(left_out) == sorted(empty)
    assert sum(count.objects for split in report.splits for count in split.objects) == total - len(empty)
    assert all(name in report.text() for name in empty)
    for example in open_source(spec).subset(range(5)):
        x1, y1, x2, y2 = example["boxes"].T
        assert (x1 >= 0).all()
        assert (x1 < x2).all()
        assert (x2 <= example["image"].shape[1]).all()
        assert (y1 >= 0).all()
        assert (y1 < y2).all()
        assert (y2 <= example["image"].shape[0]).all()
