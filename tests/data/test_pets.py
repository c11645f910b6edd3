import numpy as np
import pytest
from PIL import Image

from keras_cv_lectures.data import PETS_CLASSES, doctor, has_splits, open_source, pets_boxes_source, pets_source
from keras_cv_lectures.data.spec_text import parse_spec
from keras_cv_lectures.data.specs import splits_of
from keras_cv_lectures.errors import DataError

TRIMAP = np.array([[2, 2, 3, 1], [2, 3, 1, 1]], np.uint8)
XML = """<annotation><filename>{name}.jpg</filename><source><database>OXIIIT</database></source>
<size><width>40</width><height>20</height><depth>3</depth></size><object><name>{kind}</name>
<bndbox><xmin>4</xmin><ymin>2</ymin><xmax>24</xmax><ymax>12</ymax></bndbox></object></annotation>"""


def put(root, name, kind=None):
    """A picture, its trimap and, for a `kind`, the box of its head."""
    for folder in ("images", "annotations/trimaps", "annotations/xmls"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 40, 3), len(name), np.uint8)).save(root / "images" / f"{name}.jpg")
    trimap = Image.fromarray(TRIMAP.repeat(10, 0).repeat(10, 1))
    trimap.save(root / "annotations" / "trimaps" / f"{name}.png")
    if kind:
        (root / "annotations" / "xmls" / f"{name}.xml").write_text(XML.format(name=name, kind=kind))


@pytest.fixture
def pets(tmp_path):
    put(tmp_path, "Abyssinian_1", "cat")
    put(tmp_path, "beagle_1", "dog")
    put(tmp_path, "beagle_2")
    put(tmp_path, "pug_1")
    # As they are distributed: class, species and breed behind the name, comments, and what an archive leaves behind.
    lists = tmp_path / "annotations"
    (lists / "trainval.txt").write_text("Abyssinian_1 1 1 1\nbeagle_1 2 2 1\nbeagle_2 2 2 1\n")
    (lists / "test.txt").write_text("pug_1 3 2 2\n")
    (lists / "list.txt").write_text("#Image CLASS-ID SPECIES BREED ID\n#ID: 1:37 Class ids\nAbyssinian_1 1 1 1\n")
    for name in ("trimaps/._pug_1.png", "xmls/._beagle_1.xml"):
        (lists / name).write_bytes(b"\0\5\x16\7")
    (tmp_path / "images" / "Abyssinian_100.mat").write_bytes(b"MATLAB")
    return tmp_path


def test_trimaps_are_background_and_pet_and_the_border_is_ignored(pets):
    source = open_source(f"pets:{pets}")
    assert source.ids == ("Abyssinian_1", "beagle_1", "beagle_2")
    assert source.classes == PETS_CLASSES == ("background", "pet")
    np.testing.assert_array_equal(source[0]["mask"][::10, ::10], [[0, 0, 255, 1], [0, 255, 1, 1]])


def test_lists_are_splits(pets):
    spec = f"pets:{pets}"
    assert splits_of(parse_spec(spec)) == ("trainval",)
    assert has_splits(spec)
    assert open_source(spec, "train").ids == open_source(f"{spec},split=trainval").ids == open_source(str(pets)).ids
    assert open_source(f"{spec},split=test").ids == ("pug_1",)
    assert open_source(f"{spec},split=list").ids == ("Abyssinian_1",)
    with pytest.raises(DataError, match=r"val\.txt does not exist; there is list, test, trainval"):
        open_source(spec, "val")
    with pytest.raises(DataError, match="expected a path inside"):
        open_source(f"{spec},split=../../secret")
    for name in ("trainval", "test", "list"):
        (pets / "annotations" / f"{name}.txt").unlink()
    assert not has_splits(spec)
    assert len(open_source(spec)) == 4


def test_the_border_can_be_a_class(pets):
    (pets / "labels.txt").write_text("1 pet\n2 background\n3 border\n")
    source = open_source(f"pets:{pets},labels={pets}/labels.txt")
    assert source.classes == ("pet", "background", "border")
    np.testing.assert_array_equal(source[0]["mask"][::10, ::10], TRIMAP.astype(int) - 1)


def test_heads_are_read_where_a_picture_has_one(pets):
    source = open_source(f"petsboxes:{pets}")
    assert source.ids == ("Abyssinian_1", "beagle_1")
    assert source.classes == ("cat", "dog")
    assert [example["labels"].tolist() for example in source] == [[0], [1]]
    # Only the files of the VOC challenge itself count from 1.
    assert source[0]["boxes"].tolist() == [[4, 2, 24, 12]]
    report = doctor(f"petsboxes:{pets}")
    assert report.ok
    assert any("1 pictures of the list 'trainval' have no XML file: beagle_2" in w for w in report.warnings)
    with pytest.raises(DataError, match="no picture of the list 'test' has an XML file"):
        open_source(f"petsboxes:{pets},split=test")
    assert pets_boxes_source(pets).ids == ("Abyssinian_1", "beagle_1")


def test_pictures_of_other_kinds_under_the_name_jpg(pets):
    # Some are GIF, PNG or grey in the original, whatever their names say.
    grey = Image.fromarray(np.full((20, 40), 90, np.uint8))
    grey.save(pets / "images" / "Abyssinian_1.jpg")
    grey.convert("P").save(pets / "images" / "beagle_1.jpg", format="GIF")
    Image.fromarray(np.full((20, 40, 4), 90, np.uint8)).save(pets / "images" / "beagle_2.jpg", format="PNG")
    for example in open_source(f"pets:{pets}"):
        assert example["image"].shape == (20, 40, 3)
        assert abs(example["image"].astype(int) - 90).max() <= 1


def test_faults_are_named(pets):
    for root in (pets, pets.parent / "other"):
        (root / "oxford-iiit-pet").mkdir(parents=True)
    with pytest.raises(DataError, match=r"does not hold the Oxford-IIIT Pet data: images/ and annotations/trimaps/"):
        pets_source(pets.parent / "other")
    with pytest.raises(DataError, match="is not a folder"):
        open_source(f"petsboxes:{pets}/nowhere")
    content = (pets / "images" / "beagle_1.jpg").read_bytes()
    (pets / "images" / "beagle_1.jpg").write_bytes(content[: len(content) // 2])
    (pets / "annotations" / "trimaps" / "beagle_2.png").unlink()
    with (pets / "annotations" / "trainval.txt").open("a") as file:
        file.write("pug_9 3 2 2\n")
    report = doctor(f"pets:{pets}")
    for fault in ("beagle_1.jpg is truncated", "trimaps/beagle_2.png is missing", "images/pug_9.jpg is missing"):
        assert any(fault in problem for problem in report.problems), fault
    (pets / "annotations" / "trainval.txt").write_text("../../secret 1 1 1\n")
    with pytest.raises(DataError, match="expected a path inside"):
        open_source(f"pets:{pets}")


def test_the_folder_that_torchvision_makes(tmp_path):
    put(tmp_path / "oxford-iiit-pet", "pug_1", "dog")
    assert open_source(str(tmp_path)).ids == ("pug_1",)
    assert open_source(f"petsboxes:{tmp_path}")[0]["labels"].tolist() == [0]
