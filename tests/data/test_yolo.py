import numpy as np
import pytest
from PIL import Image

from keras_cv_lectures.data import doctor, open_source, yolo_source
from keras_cv_lectures.data.yolo import read_yaml_names
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.geometry.masks import unpack_masks

H, W = 10, 20
SQUARE = "0.1 0.2 0.3 0.2 0.3 0.6 0.1 0.6"  # Columns 2..5, rows 2..5.


def put(root, name, text=None, images="images", labels="labels"):
    (root / images).mkdir(parents=True, exist_ok=True)
    (root / labels).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((H, W, 3), 20, np.uint8)).save(root / images / f"{name}.png")
    if text is not None:
        (root / labels / f"{name}.txt").write_text(text)


def test_boxes_in_pixels(tmp_path):
    put(tmp_path, "a.rf.1", "1 0.5 0.5 1 1\n\n0 0.25 0.3 0.1 0.2\n")
    put(tmp_path, "b", "")
    put(tmp_path, "c")
    (tmp_path / "classes.txt").write_text("cell\ndish\n")
    source = yolo_source(tmp_path)
    assert source.ids == ("a.rf.1", "b", "c")
    assert source.classes == source.object_classes == ("cell", "dish")
    np.testing.assert_allclose(source[0]["boxes"], [[0, 0, 20, 10], [4, 2, 6, 4]], rtol=1e-6)
    assert source[0]["labels"].tolist() == [1, 0]
    for index in (1, 2):
        assert set(source[index]) == {"image", "boxes", "labels", "image_id"}
        assert source[index]["boxes"].shape == (0, 4)
    report = doctor(f"yolo:{tmp_path}")
    assert report.ok
    assert report.splits[0].without_objects == 2
    assert any("1 pictures have no text file and count as pictures without objects: c" in w for w in report.warnings)


def test_outlines_become_masks_and_boxes(tmp_path):
    put(tmp_path, "a", f"0 {SQUARE}\n0 0 0 1 0 1 1 0 1\n")
    put(tmp_path, "b")
    source = yolo_source(tmp_path)
    example = source[0]
    np.testing.assert_allclose(example["boxes"], [[2, 2, 6, 6], [0, 0, W, H]], rtol=1e-6)
    square = np.zeros((H, W))
    square[2:6, 2:6] = 1
    masks = unpack_masks(example["mask_pixels"], example["mask_windows"], (H, W))
    np.testing.assert_array_equal(masks, [square, np.ones((H, W))])
    assert source[1]["mask_pixels"].shape == (0,)
    assert "mask_pixels" not in open_source(f"yolo:{tmp_path},masks=no")[0]
    put(tmp_path, "b", "0 0.5 0.5 1 1\n")
    with pytest.raises(DataError, match=r"b\.txt, line 1: a box among outlines"):
        yolo_source(tmp_path)
    np.testing.assert_allclose(yolo_source(tmp_path, masks=False)[0]["boxes"], example["boxes"])


@pytest.mark.parametrize("layout", ["images/{}|labels/{}", "{}/images|{}/labels"])
def test_splits(tmp_path, layout):
    val = "valid" if layout.startswith("{") else "val"
    for split in ("train", val):
        images, labels = layout.format(split, split).split("|")
        put(tmp_path, split, f"{2 * (split == 'train')} 0.5 0.5 1 1\n", images, labels)
    train, held = (open_source(f"yolo:{tmp_path}", split) for split in ("train", "val"))
    assert (train.ids, held.ids) == (("train",), (val,))
    assert train.classes == held.classes == ("class 0", "class 1", "class 2")
    with pytest.raises(DataError, match="has no split 'test'; there is train, val"):
        yolo_source(tmp_path, "test")
    assert any("no file of class names" in warning for warning in doctor(f"yolo:{tmp_path}").warnings)


def test_linked_folders_are_read(tmp_path):
    put(tmp_path / "disk", "a", "0 0.5 0.5 1 1")
    for kind in ("images", "labels"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        (tmp_path / "data" / kind / "monday").symlink_to(tmp_path / "disk" / kind)
    assert open_source(str(tmp_path / "data")).ids == ("monday/a",)
    (example,) = yolo_source(tmp_path / "data")
    np.testing.assert_array_equal(example["boxes"], [[0, 0, W, H]])


def test_folder_is_recognised_and_text_files_may_lie_beside_pictures(tmp_path):
    put(tmp_path / "a", "x", "0 0.5 0.5 1 1\n")
    assert open_source(str(tmp_path / "a")).ids == ("x",)
    (tmp_path / "a" / "images" / "x.png").rename(tmp_path / "a" / "images" / "x.PNG")
    assert open_source(str(tmp_path / "a")).ids == ("x",)
    put(tmp_path / "b", "x", "0 0.5 0.5 1 1\n", ".", ".")
    (tmp_path / "b" / "classes.txt").write_text("cell")
    assert open_source(f"yolo:{tmp_path / 'b'}").classes == ("cell",)
    with pytest.raises(DataError, match="does not hold YOLO's layout"):
        yolo_source(tmp_path / "a" / "images")
    with pytest.raises(DataError, match="is not a folder"):
        yolo_source(tmp_path / "c")


@pytest.mark.parametrize(
    "text",
    [
        "path: x\nnames: [cat, 'big dog', \"hen, black\"]\nnc: 3\n",
        "names: [cat,\n  big dog,  # the second\n  'hen, black']\n",
        "names:\n  0: cat\n  1: big dog\n  2: 'hen, black'\nnc: 3\n",
        "names:\n- cat\n# comment\n- big dog # the second\n- 'hen, black'\ntrain: ../train\n",
        "names: {0: cat, 1: 'big dog', 2: 'hen, black'}\r\n",
        "nc: 3\nnames:\r\n    2: hen, black\r\n    0: cat\r\n    1: big dog\r\n",
    ],
)
def test_names_in_yaml(tmp_path, text):
    (tmp_path / "data.yaml").write_bytes(text.encode())
    assert read_yaml_names(tmp_path / "data.yaml") == ("cat", "big dog", "hen, black")


@pytest.mark.parametrize(
    "text",
    [
        """names: ['it''s', "a # b", 'a [x]', b#c, it's]""",
        """names: {2: 'a [x]', 0: 'it''s', 1: "a # b", 3: b#c, 4: it's}  # {five}""",
        """names:  # five\n- 'it''s'\n- "a # b" # c\n- 'a [x]'\n\n- b#c\n- it's\n---\nx: y""",
        """names:\n  0: 'it''s'\n  1: "a # b"\n  2: 'a [x]' # it's\n  3: b#c\n  4: it's\n""",
    ],
)
def test_names_with_quotes_brackets_and_numbers_signs(tmp_path, text):
    (tmp_path / "data.yaml").write_text(text)
    assert read_yaml_names(tmp_path / "data.yaml") == ("it's", "a # b", "a [x]", "b#c", "it's")


@pytest.mark.parametrize(
    "text",
    [
        "names: []\n",
        "names: 3\n",
        "names:\n  0: cat\n  2: dog\n",
        "names:\nnc: 3\n",
        "names: [cat, dog\n",
        "names: [cat, 'dog]\n",
        "names: [big\n dog]\n",
        "names: [cat, [dog]]\n",
        r'names: [cat, "\x64og"]',
        r"""names: {0: cat, 1: "a \"b\""}""",
        "names:\n- cat\n- [dog]\n",
        "names:\n- 'cat' s\n",
        "names:\n  0: {cat}\n",
        "names:\n  0: |\n   cat\n",
    ],
)
def test_names_of_another_form_are_refused(tmp_path, text):
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=r"data\.yaml: `names` must be"):
        read_yaml_names(tmp_path / "data.yaml")


def test_class_files(tmp_path):
    put(tmp_path, "a", "1 0.5 0.5 1 1\n")
    (tmp_path / "other.yaml").write_text("train: images\n")
    (tmp_path / "obj.names").write_text("cell\ndish\n")
    assert yolo_source(tmp_path).classes == ("cell", "dish")
    (tmp_path / "data.yaml").write_text("names: [x, y, z]\n")
    assert yolo_source(tmp_path).classes == ("x", "y", "z")
    (tmp_path / "mine.txt").write_text("u\nv\n")
    assert open_source(f"yolo:{tmp_path},labels={tmp_path}/mine.txt").classes == ("u", "v")
    (tmp_path / "mine.txt").write_text("u\nu\n")
    with pytest.raises(DataError, match="names 'u' twice"):
        open_source(f"yolo:{tmp_path},labels={tmp_path}/mine.txt")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 1", "4 numbers; expected CLASS X Y WIDTH HEIGHT"),
        ("0 0.5 0.5 1 1 0.9", "6 numbers"),
        ("0 0.5 0.5 1 1 0.9 0.1 0.2", "8 numbers"),
        ("0 0.5 0.5 1 x", "something else than numbers"),
        ("2 0.5 0.5 1 1", "class 2; expected a whole number below 2"),
        ("-1 0.5 0.5 1 1", "class -1"),
        ("0.5 0.5 0.5 1 1", "class 0.5"),
        ("nan 0.5 0.5 1 1", "class nan"),
        ("0 0.5 nan 1 1", "expected fractions"),
        ("0 120 80 40 40", "expected fractions"),
    ],
)
def test_faulty_lines_are_named(tmp_path, line, message):
    put(tmp_path, "a", f"0 0.5 0.5 1 1\n{line}\n")
    (tmp_path / "classes.txt").write_text("cell\ndish\n")
    with pytest.raises(DataError, match=rf"a\.txt, line 2.*{message}"):
        yolo_source(tmp_path)
    report = doctor(f"yolo:{tmp_path}")
    assert len(report.problems) == 1
    assert message in report.problems[0]


def test_keypoints_are_refused(tmp_path):
    """A box and two points have as many numbers as an outline of four points."""
    put(tmp_path, "a", "0 0.5 0.5 0.4 0.4 0.4 0.4 0.6 0.6\n")
    (tmp_path / "data.yaml").write_text("kpt_shape: [2, 2]\nnames: [cat]\n")
    with pytest.raises(DataError, match=r"data\.yaml describes keypoints .* Export the data as COCO JSON"):
        yolo_source(tmp_path)


def test_darknets_lists_lie_beside_pictures(tmp_path):
    put(tmp_path, "a", "0 0.5 0.5 1 1\n", ".", ".")
    (tmp_path / "obj.names").write_text("cat\n")
    (tmp_path / "train.txt").write_text("data/a.png\n")
    (tmp_path / "README.txt").write_text("Pictures of cats.\n")
    assert yolo_source(tmp_path).ids == ("a",)
    report = doctor(f"yolo:{tmp_path}")
    assert report.ok
    assert sum("has no picture and holds no objects" in warning for warning in report.warnings) == 2
    for text in ("", "0 0.5 0.5 1 1\n0\n"):
        (tmp_path / "b.txt").write_text(text)
        with pytest.raises(DataError, match=r"b\.txt has no picture in"):
            yolo_source(tmp_path)


def test_boxes_of_no_size_and_stray_files(tmp_path):
    put(tmp_path, "a", "0 0.5 0.5 0 0.5\n0 1.005 0.5 0.005 0.5\n0 1.002 0.5 0.2 0.5\n")
    example, left_out = yolo_source(tmp_path).inspect(0)
    np.testing.assert_allclose(example["boxes"], [[18.04, 2.5, 20, 7.5]], rtol=1e-5)
    assert [line.split(": its")[0] for line in left_out] == [
        f"{tmp_path}/labels/a.txt, line {number} (class 0)" for number in (1, 2)
    ]
    assert "no width" in left_out[0]
    assert "outside" in left_out[1]
    (tmp_path / "labels" / "z.txt").write_text("")
    (tmp_path / "labels" / "y.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"z\.txt has no picture in"):
        yolo_source(tmp_path)


@pytest.mark.realdata
def test_real_sample(realdata):
    folder = realdata("coco_sample") / "coco8"
    report = doctor(f"yolo:{folder}")
    assert report.ok, report.problems
    lines = [line for path in folder.rglob("labels/*/*.txt") for line in path.read_text().splitlines() if line.strip()]
    assert sum(count.objects for split in report.splits for count in split.objects) == len(lines)
    for split in ("train", "val"):
        source = open_source(str(folder), split)
        assert len(source.classes) == 1 + max(int(line.split()[0]) for line in lines)
        for index, example in enumerate(source):
            height, width = example["image"].shape[:2]
            rows = np.loadtxt(source.files(index)[1], ndmin=2)
            x1, y1, x2, y2 = example["boxes"].T
            centre = np.stack([(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height], 1)
            np.testing.assert_allclose(centre, rows[:, 1:], atol=2e-4)
            np.testing.assert_array_equal(example["labels"], rows[:, 0])
