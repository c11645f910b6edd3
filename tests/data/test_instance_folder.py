import json

import numpy as np
import pytest
from PIL import Image

from keras_cv_lectures.data import doctor, instance_folder_source, open_source
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.geometry.masks import unpack_masks
from keras_cv_lectures.geometry.rle import rle_decode

H, W = 5, 7


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.asarray(array)
    Image.fromarray(array.astype(np.uint16 if array.max(initial=0) > 255 else np.uint8)).save(path)
    return path


def picture(path, value=9):
    return write(path, np.full((H, W, 3), value))


def labels():
    """Object 3 has two parts, object 300 lies within its box."""
    mask = np.zeros((H, W), int)
    mask[1, 1:3] = mask[3, 5] = 3
    mask[2:4, 2:4] = 300
    return mask


def dense(example):
    return unpack_masks(example["mask_pixels"], example["mask_windows"], example["image"].shape[:2])


def test_label_pictures(tmp_path):
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "images" / "b.png")
    write(tmp_path / "masks" / "a_mask.png", labels())
    write(tmp_path / "masks" / "b_mask.png", np.zeros((H, W)))
    source = instance_folder_source(tmp_path / "images", tmp_path / "masks")
    assert source.ids == ("a", "b")
    assert source.classes == source.object_classes == ("object",)
    example, empty = source
    np.testing.assert_array_equal(example["boxes"], [[1, 1, 6, 4], [2, 2, 4, 4]])
    np.testing.assert_array_equal(example["mask_windows"], example["boxes"])
    np.testing.assert_array_equal(dense(example), [labels() == 3, labels() == 300])
    assert example["labels"].tolist() == [0, 0]
    assert empty["boxes"].shape == (0, 4)
    assert set(empty) == set(example)
    report = doctor(f"instances:{tmp_path}/images,{tmp_path}/masks,class=cell")
    assert report.ok
    assert [(c.name, c.objects, c.pictures) for c in report.splits[0].objects] == [("cell", 2, 1)]
    assert report.splits[0].without_objects == 1


def test_folders_of_masks_may_lie_among_the_pictures(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / f"{name}.png")
        write(tmp_path / "masks" / name / "1.png", labels() == 3)
    report = doctor(f"instances:{tmp_path},{tmp_path}/masks")
    assert (report.problems, report.splits[0].without_objects) == ((), 0)
    source = instance_folder_source(tmp_path, tmp_path / "masks")
    assert source.ids == ("a", "b")
    assert [example["boxes"].tolist() for example in source] == [[[1, 1, 6, 4]]] * 2


def test_coloured_label_pictures_and_void(tmp_path):
    picture(tmp_path / "images" / "a.png")
    colored = np.zeros((H, W, 3), np.uint8)
    colored[0, :2] = 200, 0, 0
    colored[4, 3:] = 0, 0, 1
    write(tmp_path / "masks" / "a.png", colored)
    assert instance_folder_source(tmp_path / "images", tmp_path / "masks")[0]["boxes"].tolist() == [
        [3, 4, 7, 5],
        [0, 0, 2, 1],
    ]
    write(tmp_path / "masks" / "a.png", np.where(labels() == 300, 255, labels()))
    spec = f"instances:{tmp_path}/images,{tmp_path}/masks"
    assert len(open_source(spec)[0]["boxes"]) == 2
    assert open_source(f"{spec},void=255")[0]["boxes"].tolist() == [[1, 1, 6, 4]]
    # The same values, saved as RGB.
    write(tmp_path / "masks" / "a.png", np.where(labels() == 300, 255, labels())[..., None].repeat(3, -1))
    assert open_source(f"{spec},void=255")[0]["boxes"].tolist() == [[1, 1, 6, 4]]
    write(tmp_path / "masks" / "a.png", colored)
    with pytest.raises(DataError, match=r"a\.png is a coloured mask, but void=255 .* Drop void"):
        open_source(f"{spec},void=255")[0]


@pytest.mark.parametrize("mask", ["a.jpg", "a/1.JPEG"])
def test_jpeg_masks_are_refused(tmp_path, mask):
    picture(tmp_path / "images" / "a.png")
    file = write(tmp_path / "masks" / mask, np.eye(H, W) * 255)
    spec = f"instances:{tmp_path}/images,{tmp_path}/masks"
    with pytest.raises(DataError, match="masks are stored as JPEG .* Save the masks as PNG"):
        open_source(spec)
    assert [str(file) in problem for problem in doctor(spec).problems] == [True]


@pytest.mark.parametrize("layout", ["masks/{}", "science bowl"])
def test_one_file_an_object(tmp_path, layout):
    """A folder called like the picture, or the Data Science Bowl's folder for each picture. Masks may overlap."""
    for name in ("p10", "p2"):
        image = tmp_path / "images" / f"{name}.png"
        folder = tmp_path / "masks" / name
        if layout == "science bowl":
            image, folder = tmp_path / name / "images" / f"{name}.png", tmp_path / name / "masks"
        picture(image)
        folder.mkdir(parents=True)
    masks = np.zeros((3, H, W), np.uint8)
    masks[0, :3, :3] = 255
    masks[1, 2:4, 2:6] = 255
    write(folder / "m10.png", masks[1])
    write(folder / "m2.png", np.repeat(masks[0][..., None], 3, axis=-1))
    write(folder / "m11.png", masks[2])
    if layout == "science bowl":
        source = instance_folder_source(tmp_path, tmp_path, name="nucleus")
    else:
        source = instance_folder_source(tmp_path / "images", tmp_path / "masks", name="nucleus")
    assert source.ids == ("p2", "p10")
    assert source.classes == ("nucleus",)
    example, left_out = source.inspect(0)
    np.testing.assert_array_equal(dense(example), masks[:2] > 0)
    np.testing.assert_array_equal(example["boxes"], [[0, 0, 3, 3], [2, 2, 6, 4]])
    assert left_out == (f"{folder}/m11.png: its mask covers no pixel. Correct or remove it.",)
    assert source[1]["mask_windows"].shape == (0, 4)
    assert source.files(0)[1:] == tuple(folder / f"m{number}.png" for number in (2, 10, 11))


def test_lists_splits_and_classes(tmp_path):
    for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
        picture(tmp_path / split / "images" / f"{name}.png")
        write(tmp_path / split / "masks" / f"{name}.png", labels())
    spec = f"instances:{tmp_path}/{{split}}/images,{tmp_path}/{{split}}/masks"
    assert open_source(spec).ids == ("a", "b")
    assert open_source(spec, "val").ids == ("c",)
    assert open_source(f"{spec},split=val", "train").ids == ("c",)
    (tmp_path / "list.txt").write_text("b\n")
    plain = f"instances:{tmp_path}/train/images,{tmp_path}/train/masks"
    assert open_source(f"{plain},list={tmp_path}/list.txt").ids == ("b",)
    nuclei = open_source(f"{plain},class=nucleus")
    assert open_source(plain, like=nuclei).classes == ("nucleus",)
    source = instance_folder_source(
        tmp_path / "val" / "images", tmp_path / "val" / "masks", name="cell", classes=("dish", "cell")
    )
    assert source[0]["labels"].tolist() == [1, 1]
    with pytest.raises(DataError, match="called 'object', but the classes are dish, cell.*class=NAME"):
        instance_folder_source(tmp_path / "val" / "images", tmp_path / "val" / "masks", classes=("dish", "cell"))


def test_faults_are_named(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / "images" / f"{name}.png")
    write(tmp_path / "masks" / "a.png", np.ones((H, W + 1)))
    spec = f"instances:{tmp_path}/images,{tmp_path}/masks"
    report = doctor(spec)
    assert [problem.split(" (")[0] for problem in report.problems] == [
        f"{tmp_path}/images/b.png has no mask in {tmp_path}/masks. Add the mask or remove the picture.",
        f"{tmp_path}/images/a.png is 7x5",
    ]
    with pytest.raises(DataError, match=r"b\.png has no mask"):
        open_source(spec)
    with pytest.raises(DataError, match="is not a folder"):
        instance_folder_source(tmp_path / "images", tmp_path / "none")
    (tmp_path / "folders" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match=r"b\.png has no folder of masks .*b\. Add it"):
        instance_folder_source(tmp_path / "images", tmp_path / "folders")
    (tmp_path / "folders" / "b").mkdir()
    (tmp_path / "folders" / "b" / "m.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"b/m\.png is empty"):
        instance_folder_source(tmp_path / "images", tmp_path / "folders")[1]


@pytest.mark.realdata
def test_real_nuclei_from_files_equal_those_of_the_json(realdata, tmp_path):
    """The nuclei of one picture, written as the Data Science Bowl ships them and as a label picture."""
    folder = realdata("dsb2018")
    content = json.loads((folder / "annotations" / "instances_val.json").read_text())
    entry = content["images"][0]
    picture_file = folder / "images" / "val" / entry["file_name"]
    image = np.array(Image.open(picture_file).convert("RGB"))
    masks = [rle_decode(a["segmentation"]) for a in content["annotations"] if a["image_id"] == entry["id"]]
    write(tmp_path / "bowl" / "x" / "images" / "x.png", image)
    for number, mask in enumerate(masks):
        write(tmp_path / "bowl" / "x" / "masks" / f"{number}.png", 255 * mask)
    example = open_source(f"instances:{tmp_path}/bowl,{tmp_path}/bowl,class=nucleus")[0]
    np.testing.assert_array_equal(dense(example), masks)
    known = open_source(f"coco:{folder}/annotations/instances_val.json,{picture_file.parent}")[0]
    np.testing.assert_array_equal(example["boxes"], known["boxes"])
    np.testing.assert_array_equal(example["mask_pixels"], known["mask_pixels"])

    together = np.zeros(image.shape[:2], int)
    for number, mask in enumerate(masks, 1):
        together[mask > 0] = number
    write(tmp_path / "images" / "x.png", image)
    write(tmp_path / "masks" / "x.png", together)
    example = instance_folder_source(tmp_path / "images", tmp_path / "masks")[0]
    expected = [together == number for number in range(1, len(masks) + 1) if (together == number).any()]
    np.testing.assert_array_equal(dense(example), expected)
