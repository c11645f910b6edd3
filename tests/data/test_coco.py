import json

import numpy as np
import pytest
from PIL import Image

from keras_cv_lectures.data import coco_source, doctor, keypoint_flip, open_source, to_dataset
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.geometry.masks import unpack_masks
from keras_cv_lectures.geometry.rle import rle_encode

H, W = 6, 8
# Rows 1..3, columns 2..5 of a picture of 6 x 8, column by column.
RUNS = {"size": [H, W], "counts": [13, 3, 3, 3, 3, 3, 3, 3, 14]}
BLOCK = np.pad(np.ones((3, 4), np.uint8), ((1, 2), (2, 2)))
SQUARE = [2, 1, 6, 1, 6, 4, 2, 4]


def annotation(number, **fields):
    return {"id": number, "image_id": 10, "category_id": 7, "bbox": [2, 1, 4, 3], "iscrowd": 0} | fields


@pytest.fixture
def coco(tmp_path):
    """Writes a COCO file of two pictures, 10 (`a.png`) and 20 (`sub/b.png`), the latter without objects."""
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for value, name in enumerate(("a", "sub/b")):
        Image.fromarray(np.full((H, W, 3), 60 * value, np.uint8)).save(tmp_path / "images" / f"{name}.png")

    def write(*annotations, **changes):
        content = {
            "images": [
                {"id": 10, "file_name": "a.png", "height": H, "width": W},
                {"id": 20, "file_name": "sub/b.png", "height": H, "width": W},
            ],
            "categories": [{"id": 90, "name": "toothbrush"}, {"id": 7, "name": "train"}],
            "annotations": list(annotations),
        } | changes
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(content))
        return path, tmp_path / "images"

    return write


def dense(example):
    return unpack_masks(example["mask_pixels"], example["mask_windows"], example["image"].shape[:2])


def test_boxes_and_contiguous_labels(coco):
    source = coco_source(*coco(annotation(1), annotation(2, category_id=90, bbox=[0.5, 2, 1.25, 3.5])))
    assert source.ids == ("a", "sub/b")
    assert source.classes == source.object_classes == ("train", "toothbrush")
    assert len(set(source.object_colors) | {(0, 0, 0)}) == 3
    first, second = source
    assert set(first) == set(second) == {"image", "boxes", "labels", "image_id"}
    assert first["boxes"].dtype == np.float32
    np.testing.assert_array_equal(first["boxes"], [[2, 1, 6, 4], [0.5, 2, 1.75, 5.5]])
    np.testing.assert_array_equal(first["labels"], [0, 1])
    assert first["labels"].dtype == np.int32
    assert second["boxes"].shape == (0, 4)
    assert second["labels"].shape == (0,)
    assert second["image_id"] == "sub/b"
    assert second["image"].max() == 60


@pytest.mark.parametrize(
    "segmentation",
    [[SQUARE], RUNS, rle_encode(BLOCK, compress=True), [SQUARE[:2] + [4, 1, 4, 4, 2, 4], [4, 1, 6, 1, 6, 4, 4, 4]]],
    ids=["polygon", "runs", "compressed", "two polygons"],
)
def test_every_kind_of_segmentation_is_cropped_to_the_object(coco, segmentation):
    source = coco_source(*coco(annotation(1, segmentation=segmentation), annotation(2, segmentation=segmentation)))
    example = source[0]
    np.testing.assert_array_equal(example["mask_windows"], [[2, 1, 6, 4]] * 2)
    assert example["mask_windows"].dtype == np.int32
    np.testing.assert_array_equal(example["mask_pixels"], np.ones(24))
    np.testing.assert_array_equal(dense(example), [BLOCK, BLOCK])
    assert source[1]["mask_pixels"].shape == (0,)
    assert source[1]["mask_windows"].shape == (0, 4)
    assert "mask_pixels" not in coco_source(*coco(annotation(1, segmentation=segmentation)), masks=False)[0]


def test_empty_and_full_examples_batch_alike_in_tf_data(coco):
    source = coco_source(*coco(annotation(1, segmentation=RUNS), annotation(2, iscrowd=1, segmentation=RUNS)))
    dataset = to_dataset(source, shuffle=False, seed=0, epochs=1)
    assert dataset.element_spec["mask_windows"].shape.as_list() == [None, 4]
    assert [len(example["crowd"]) for example in dataset] == [2, 0]


def test_outlines_far_from_the_corner_are_drawn_alike(coco, monkeypatch):
    """Moved before they are drawn, as in large pictures, or not: the same but for rounding; clipped at all edges."""
    outlines = [
        [[-3.53, 1.23, 4.32, -2.12, 11.73, 2.24, 6.14, 8.93]],
        [[4.13, 3.17, 7.93, 3.36, 6.22, 4.96]],
        [[-4, 1, -1, 1, -1, 4]],
    ]
    files = coco(*[annotation(i, segmentation=outline) for i, outline in enumerate(outlines)])
    expected, left_out = coco_source(*files).inspect(0)
    assert len(expected["boxes"]) == 2
    assert len(left_out) == 1
    assert "covers no pixel" in left_out[0]
    monkeypatch.setattr("keras_cv_lectures.data.objects._UNMOVED", 0)
    moved = coco_source(*files)[0]
    np.testing.assert_array_equal(moved["mask_windows"], expected["mask_windows"])
    np.testing.assert_array_equal(moved["mask_pixels"], expected["mask_pixels"])


def test_crowds_are_kept_and_marked(coco):
    example = coco_source(*coco(annotation(1), annotation(2, iscrowd=1)))[0]
    np.testing.assert_array_equal(example["crowd"], [False, True])
    assert example["crowd"].dtype == bool


@pytest.mark.parametrize("masks", [True, False])
def test_areas_are_those_of_the_file_else_of_the_mask_else_of_the_box(coco, masks):
    """Of a block of 12 pixels in a box of 20; whatever is no area counts as left out, and rows stay in step."""
    given = [7.5, "12", 0, None, -1, True, float("nan"), 3]
    more = [{"bbox": [2, 1, 5, 4], "segmentation": RUNS, "area": area} for area in given]
    more[-1]["bbox"] = [2, 1, 0, 4]  # is left out
    bare = {key: value for key, value in more[0].items() if key != "area"}
    annotations = [annotation(i, **fields) for i, fields in enumerate([bare, *more])]
    source = coco_source(*coco(*annotations), masks=masks)
    own = 12 if masks else 20
    np.testing.assert_array_equal(source[0]["area"], [own, 7.5, own, 0, own, own, own, own])
    assert source[0]["area"].dtype == np.float32
    assert source[1]["area"].shape == (0,)
    assert "area" not in coco_source(*coco(annotation(1, area=None), annotation(2)), masks=masks)[0]


def test_keypoints_with_absent_ones_and_their_mirror(coco):
    categories = [{"id": 7, "name": "face", "keypoints": ["nose", "left_eye", "right_eye"]}]
    points = [3.5, 2, 2, 4, 1, 1, 99, 99, 0]
    source = coco_source(*coco(annotation(1, keypoints=points), annotation(2), categories=categories))
    expected = [[[3.5, 2, 2], [4, 1, 1], [0, 0, 0]], np.zeros((3, 3))]
    np.testing.assert_array_equal(source[0]["keypoints"], expected)
    assert source[0]["keypoints"].dtype == np.float32
    assert source[1]["keypoints"].shape == (0, 3, 3)
    assert source.keypoint_names == ("nose", "left_eye", "right_eye")
    assert source.keypoint_flip == keypoint_flip(["Tip", "LEFT ear", "Right ear"]) == (0, 2, 1)
    assert keypoint_flip(["left_eye", "mouth"]) == (0, 1)


@pytest.mark.parametrize(("names", "told"), [(["nose", "l_eye", "r_eye"], 0), (["tip", "middle", "base"], 1)])
def test_the_doctor_says_which_keypoints_no_mirror_exchanges(coco, names, told):
    categories = [{"id": 7, "name": "face", "keypoints": names}]
    path, images = coco(annotation(1, keypoints=[3.5, 2, 2, 4, 1, 1, 5, 2, 2]), categories=categories)
    found = [warning for warning in doctor(f"coco:{path},{images}").warnings if "no keypoint of" in warning]
    assert len(found) == told
    assert all("tip, middle, base" in warning and "keypoint_flip" in warning for warning in found)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("l_eye", "r_eye", "nose"), (1, 0, 2)),
        (("nose", "L_Eye", "R_Eye"), (0, 2, 1)),
        (("eye_L", "ear_L", "eye_R", "ear_R"), (2, 3, 0, 1)),
        (("leftEye", "rightEye"), (1, 0)),
        (("lEye", "rEye", "RWrist", "LWrist"), (1, 0, 3, 2)),
        (("eye-l-1", "eye-l-2", "eye-r-1", "eye-r-2"), (2, 3, 0, 1)),
        (("lefteye", "righteye"), (1, 0)),
        (("lip", "rip"), (0, 1)),  # No side, but words that begin so.
        (("upright", "upleftmost"), (0, 1)),
        (("l_eye", "L eye", "r_eye"), (0, 1, 2)),  # Which of two is meant is not known.
    ],
    ids=str,
)
def test_keypoints_change_places_by_the_sides_in_their_names(names, expected):
    assert keypoint_flip(names) == expected


def test_objects_without_size_or_pixels_are_left_out_and_named(coco):
    wrong = [
        annotation(2, bbox=[3, 1, 0, 2], segmentation=RUNS),
        annotation(3, bbox=[3, 1, 2, -2], segmentation=RUNS),
        annotation(4, bbox=[9, 1, 2, 2], segmentation=RUNS),
        annotation(5, segmentation={"size": [H, W], "counts": [H * W]}),
        annotation(6, bbox=[3, 1, 1e-9, 2], segmentation=RUNS),
    ]
    files = coco(annotation(1, bbox=[-3, -1, 20, 3], segmentation=RUNS), *wrong)
    source = coco_source(*files)
    example, left_out = source.inspect(0)
    np.testing.assert_array_equal(example["boxes"], [[0, 0, 8, 2]])
    np.testing.assert_array_equal(dense(example), [BLOCK])
    assert len(left_out) == 5
    for line, (number, reason) in zip(
        left_out, [(2, "no width"), (3, "no height"), (4, "outside"), (5, "no pixel"), (6, "no width")], strict=True
    ):
        assert line.startswith(f"{files[0]}: annotation {number} (a.png)")
        assert reason in line
    report = doctor(f"coco:{files[0]},{files[1]}")
    assert report.ok
    assert report.splits[0].left_out == left_out
    assert "objects left out: 5" in report.text()
    assert all(line in report.text() for line in left_out)


def test_classes_of_other_data_keep_their_labels(coco):
    files = coco(annotation(1))
    classes = ("car", "train", "bus")
    source = coco_source(*files, classes=classes)
    assert (source.classes, source[0]["labels"].tolist()) == (classes, [1])
    with pytest.raises(DataError, match="annotation 1 is a 'train', but the classes are car, bus"):
        coco_source(*files, classes=("car", "bus"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_id": 11}, "belongs to picture 11"),
        ({"image_id": [10]}, "belongs to picture"),
        ({"category_id": 8}, "is of category 8"),
        ({"bbox": [1, 2, 3]}, "has bbox"),
        ({"bbox": [1, 2, 3, "4"]}, "has bbox"),
        ({"bbox": [1, 2, 3, float("nan")]}, "has bbox"),
        ({"bbox": [1, 2, 3, 10**400]}, "has bbox"),
        ({"iscrowd": "no"}, "has iscrowd 'no'"),
        ({"segmentation": [[1, 2, 3, 4]]}, "three points"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "three points"),
        ({"segmentation": [SQUARE[:-1] + [None]]}, "three points"),
        ({"segmentation": "x"}, "three points"),
        ({"segmentation": [[0, 0, 1e8, 0, 1e8, 1e8]]}, "far outside"),
        ({"segmentation": {"size": [H, W], "counts": [1.5, "a"]}}, "no whole numbers"),
    ],
)
def test_faulty_annotations_are_named(coco, fields, message):
    with pytest.raises(DataError, match=f"instances.json: annotation 5 .*({message})"):
        coco_source(*coco(annotation(5, **fields)))


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ({"size": [W, H], "counts": [13, 3, 32]}, "8x6"),
        ({"size": [10**6, 10**6], "counts": [10**12]}, "1000000x1000000"),
        ({"size": [H, W], "counts": [1, 2]}, "sum to 3"),
        ({"size": [H, W], "counts": "é"}, "damaged"),
        ({"size": [H, W]}, "counts"),
        ({"counts": [48]}, "size"),
    ],
)
def test_damaged_run_lengths_are_named_when_read(coco, runs, message):
    source = coco_source(*coco(annotation(5, segmentation=runs)))
    with pytest.raises(DataError, match=f"annotation 5 .a.png.: .*{message}"):
        source[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no valid JSON"),
        ('{"images": [', "no valid JSON"),
        ("[" * 100_000, "no valid JSON"),
        ("[]", "a list 'images', 'annotations', 'categories' is expected"),
        ('{"images": [], "annotations": {}, "categories": []}', "a list 'annotations' is expected"),
        ('{"images": [], "annotations": [], "categories": []}', "names no class"),
        ('{"images": [], "annotations": [], "categories": [3]}', "category 1 must have a number"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}',
            "names 'a' twice",
        ),
    ],
)
def test_broken_files(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=message):
        coco_source(tmp_path / "a.json", tmp_path)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "sub/../../a.png", "C:\\a.png", "..\\a.png", "", 7])
def test_pictures_outside_of_the_folder_are_refused(coco, name):
    files = coco(images=[{"id": 10, "file_name": name}])
    Image.new("RGB", (W, H)).save(files[1].parent / "secret.png")
    with pytest.raises(DataError, match="picture 10 names the picture .* expected a path inside"):
        coco_source(*files)


def test_faulty_pictures_are_named(coco):
    entries = [
        {"id": 1, "file_name": "none.png"},
        {"id": 1, "file_name": "a.png"},
        {"file_name": "a.png"},
        {"id": 2, "file_name": "a.png"},
        {"id": 3, "file_name": "a.png"},
    ]
    files = coco(images=entries)
    report = doctor(f"coco:{files[0]},{files[1]}")
    for text in ("none.png is missing", "picture 1: the id occurs twice", "has no id", "is the file of picture 2"):
        assert sum(text in problem for problem in report.problems) == 1
    with pytest.raises(DataError, match="is 8x6 .*, but .*instances.json describes a picture of 6x8.*EXIF"):
        coco_source(*coco(images=[{"id": 10, "file_name": "a.png", "height": W, "width": H}]))[0]
    with pytest.raises(DataError, match="is not a folder"):
        coco_source(files[0], files[1] / "none")


@pytest.mark.parametrize("names", [("a.png", "a.bmp", "sub/b.png"), ("frame.0001", "frame.0002")])
def test_pictures_that_differ_in_their_ending_alone_are_two(coco, names):
    entries = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    files = coco(annotation(1, image_id=1), images=entries)
    for value, name in enumerate(names):
        Image.fromarray(np.full((H, W, 3), 50 * value, np.uint8)).save(files[1] / name, format="PNG")
    source = coco_source(*files)
    assert source.ids == names
    assert [example["image"].max() for example in source] == [50 * value for value in range(len(names))]
    assert [len(example["boxes"]) for example in source] == [i == 1 for i in range(len(names))]


def test_segmentation_that_is_missing_on_some(coco):
    files = coco(annotation(1, segmentation=RUNS), annotation(2, segmentation=[]))
    with pytest.raises(DataError, match="annotation 2 has no segmentation, though others have"):
        coco_source(*files)
    assert len(open_source(f"coco:{files[0]},{files[1]},masks=no")[0]["boxes"]) == 2


def test_keypoints_that_do_not_fit(coco):
    parts = [{"id": 7, "name": "a", "keypoints": ["x", "y"]}, {"id": 8, "name": "b", "keypoints": ["z"]}]
    with pytest.raises(DataError, match="'a', 'b' have different keypoints"):
        coco_source(*coco(categories=parts))
    for values, message in (([1, 2, 2], "expected 2 times x, y"), ([1, 2, 2, 3, 4, 5], "visibility is not 0")):
        with pytest.raises(DataError, match=f"annotation 1 has .*{message}"):
            coco_source(*coco(annotation(1, keypoints=values), categories=parts[:1]))


@pytest.mark.realdata
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
@pytest.mark.parametrize("name", ["coco_sample", "dsb2018"])
def test_real_masks_equal_pycocotools(realdata, name):
    """Polygons and run lengths, cropped and put back, against masks drawn by the reference."""
    api = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed (extra [coco])")
    folder = realdata(name)
    json_file = next(iter(sorted(folder.rglob("*val.json")) + sorted(folder.glob("*.json"))))
    images = folder / "images" / "val" if (folder / "images").is_dir() else folder
    content = json.loads(json_file.read_text())
    source = coco_source(json_file, images)
    assert len(source) == len(content["images"])
    for index in range(min(12, len(source))):
        entry = content["images"][index]
        size = entry["height"], entry["width"]
        example, left_out = source.inspect(index)
        wanted = [a for a in content["annotations"] if a["image_id"] == entry["id"]]
        assert not left_out
        masks = []
        for a in wanted:
            code = a["segmentation"]
            masks.append(api.decode(api.merge(api.frPyObjects(code, *size)) if isinstance(code, list) else code))
        np.testing.assert_array_equal(dense(example), np.reshape(masks, (-1, *size)))
        boxes = np.array([a["bbox"] for a in wanted]).reshape(-1, 4)
        np.testing.assert_allclose(example["boxes"][:, 2:] - example["boxes"][:, :2], boxes[:, 2:], atol=0.01)
        assert (example["boxes"][:, 2:] <= size[::-1]).all()
        np.testing.assert_allclose(example["area"], [a["area"] for a in wanted], rtol=1e-6)
        if "keypoints" in example:
            counted = (example["keypoints"][..., 2] > 0).sum(axis=1)
            np.testing.assert_array_equal(counted, [a["num_keypoints"] for a in wanted])


@pytest.mark.realdata
def test_real_splits_by_placeholder(realdata):
    folder = realdata("dsb2018")
    spec = f"coco:{folder}/annotations/instances_{{split}}.json,{folder}/images/{{split}}"
    val = open_source(spec, "val")
    assert len(val) == len(json.loads((folder / "annotations" / "instances_val.json").read_text())["images"])
    assert not any(val.inspect(index)[1] for index in range(10))
    assert open_source(spec).classes == val.classes
