"""Data, damaged at random: every reader answers with a `DataError` that names the file, or reads what is left.

Each layout begins as a small valid one. A case damages one of its files, from a seed that the test's name tells, and
the data are then opened, read to the end and examined. docs/bad_input.md is what users are told of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fuzzing import DEEPER, damage, guard
from made_tfds import prepare
from PIL import Image

import keras_cv_lectures as kcvl
from keras_cv_lectures.data import doctor
from keras_cv_lectures.errors import DataError

TESTS = Path(__file__).parent
SIZE = (32, 40)
HEIGHT, WIDTH = SIZE
RNG = np.random.default_rng(0)
PICTURES = [RNG.integers(0, 256, (*SIZE, 3), np.uint8) for _ in range(3)]
MASK = np.repeat(np.arange(4), HEIGHT * WIDTH // 4).reshape(SIZE).astype(np.uint8)
FAST, SLOW = 40, 200 * DEEPER


def picture(path, index=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PICTURES[index]).save(path)
    return path


def mask(path, values=MASK):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def folder(root):
    files = [picture(root / "images" / "a.png"), picture(root / "images" / "b.jpg", 1)]
    files += [mask(root / "masks" / "a.png"), mask(root / "masks" / "b.png")]
    names = text(root / "list.txt", "a\nb.jpg  train\n# a comment\n")
    labels = text(root / "labels.txt", "0 sky\n1 road 128 64 128\n2 car\n3 tree\nignore 255\n")
    return f"folder:{root}/images,{root}/masks,list={names},labels={labels}", [*files, names, names, labels, labels]


def folder_with_colors(root):
    palette = np.random.default_rng(1).integers(0, 256, (4, 3), np.uint8)
    files = [picture(root / "images" / "a.tif"), mask(root / "masks" / "a.png", palette[MASK])]
    rows = "".join(f"c{i},{r},{g},{b}\n" for i, (r, g, b) in enumerate(palette.tolist()))
    labels = text(root / "class_dict.csv", f"name,r,g,b\n{rows}")
    return f"folder:{root}/images,{root}/masks,labels={labels}", [*files, labels, labels]


def folder_without_labels(root):
    files = [picture(root / "images" / "a.bmp"), picture(root / "images" / "b.gif", 1)]
    files += [mask(root / "masks" / "a.png"), mask(root / "masks" / "b.tif")]
    return f"folder:{root}/images,{root}/masks", files


def camvid(root):
    files = [picture(root / s / "a.png", i) for i, s in enumerate(("train", "val"))]
    return f"camvid:{root}", files + [mask(root / f"{s}annot" / "a.png") for s in ("train", "val")]


def voc(root):
    files = [picture(root / "JPEGImages" / "a.jpg"), mask(root / "SegmentationClass" / "a.png")]
    names = text(root / "ImageSets" / "Segmentation" / "train.txt", "a\n")
    return f"voc:{root}", [*files, names, names]


XML = """<annotation><filename>a.jpg</filename><source><database>The VOC2007 Database</database></source>
<size><width>40</width><height>32</height><depth>3</depth></size>
<object><name>cat</name><difficult>0</difficult><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>30</ymax></bndbox>
</object><object><name>dog</name><bndbox><xmin>1.5</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>
</annotation>"""


def vocboxes(root):
    files = [picture(root / "JPEGImages" / "a.jpg"), text(root / "Annotations" / "a.xml", XML)]
    names = text(root / "ImageSets" / "Main" / "train.txt", "a 1\n")
    return f"vocboxes:{root}", [*files, files[1], files[1], names]


COCO = {
    "images": [{"id": i + 1, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in range(2)],
    "categories": [{"id": 1, "name": "person", "keypoints": ["nose", "left_eye"]}, {"id": 7, "name": "cat"}],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "bbox": [2, 3, 10.5, 12],
            "iscrowd": 0,
            "segmentation": [[2, 3, 12.5, 3, 12.5, 15, 2, 15]],
            "keypoints": [5, 6, 2, 0, 0, 0],
        },
        {
            "id": 2,
            "image_id": 2,
            "category_id": 7,
            "bbox": [0, 0, 20, 20],
            "iscrowd": 1,
            "segmentation": {"size": [HEIGHT, WIDTH], "counts": [100, 50, 1130]},
        },
        {
            "id": 3,
            "image_id": 2,
            "category_id": 7,
            "bbox": [0, 0, 5, 32],
            "segmentation": {"size": [HEIGHT, WIDTH], "counts": "PP5Pb0"},
        },
    ],
}


def coco(root):
    from keras_cv_lectures.geometry.rle import rle_to_string

    content = json.loads(json.dumps(COCO))
    content["annotations"][2]["segmentation"]["counts"] = rle_to_string([0, 160, 1120])
    files = [picture(root / "images" / f"{i}.png", i) for i in range(2)]
    json_file = text(root / "instances.json", json.dumps(content))
    return f"coco:{json_file},{root}/images", [files[0], *[json_file] * 6]


def yolo(root):
    files = [picture(root / "images" / "a.png"), picture(root / "images" / "b.png", 1)]
    boxes = text(root / "labels" / "a.txt", "0 0.5 0.5 0.2 0.4\n1 0.25 0.5 0.5 1\n")
    names = text(root / "data.yaml", "path: .\nnames:\n  0: cat\n  1: 'dog'\nnc: 2\n")
    return f"yolo:{root}", [files[0], boxes, boxes, boxes, names, names]


def yolo_with_outlines(root):
    picture(root / "images" / "a.png")
    outlines = text(root / "labels" / "a.txt", "0 0.1 0.1 0.9 0.1 0.9 0.9\n1 0.2 0.2 0.4 0.2 0.4 0.4 0.2 0.4\n")
    names = text(root / "classes.txt", "cat\ndog\n")
    return f"yolo:{root}", [outlines, outlines, names]


def instances(root):
    return (
        f"instances:{root}/images,{root}/masks,void=255,list={text(root / 'list.txt', 'a')}",
        [picture(root / "images" / "a.png"), mask(root / "masks" / "a.png"), root / "list.txt"],
    )


def instance_files(root):
    files = [picture(root / "images" / "a.png"), mask(root / "masks" / "a" / "0.png", (MASK == 1) * np.uint8(255))]
    return f"instances:{root}/images,{root}/masks", [*files, mask(root / "masks" / "a" / "1.png", MASK // 3)]


def captions(root):
    files = [picture(root / "images" / "a.jpg"), picture(root / "images" / "b.jpg", 1)]
    rows = 'image,caption\na.jpg,A dog runs.\na.jpg,"A dog, brown, ""runs""."\nb.jpg,Two cats\nb.jpg,"A line\nbreak"\n'
    return f"captions:{text(root / 'captions.csv', rows)},{root}/images", [files[0], *[root / "captions.csv"] * 4]


def flickr(root):
    picture(root / "Images" / "a.jpg")
    tokens = text(root / "Flickr8k.token.txt", "a.jpg#0\tA dog runs .\na.jpg#1\tThe dog's tail isn't long\n")
    names = text(root / "Flickr_8k.trainImages.txt", "a.jpg\n")
    return f"flickr:{root}", [tokens, tokens, names]


def coco_captions(root):
    picture(root / "images" / "0.png")
    content = {"images": COCO["images"][:1], "annotations": [{"id": 1, "image_id": 1, "caption": "A cat sits."}]}
    json_file = text(root / "captions.json", json.dumps(content))
    return f"cococaptions:{json_file},{root}/images", [json_file]


def cityscapes(root):
    image = picture(root / "leftImg8bit" / "train" / "ulm" / "ulm_0_leftImg8bit.png")
    return f"cityscapes:{root}", [image, mask(root / "gtFine" / "train" / "ulm" / "ulm_0_gtFine_labelIds.png")]


def cityscapes_objects(root):
    image = picture(root / "leftImg8bit" / "train" / "ulm" / "ulm_0_leftImg8bit.png")
    values = (MASK.astype(np.uint16) + 24) * 1000
    file = mask(root / "gtFine" / "train" / "ulm" / "ulm_0_gtFine_instanceIds.png", values)
    return f"cityscapesobjects:{root}", [image, file, file]


def pets(root):
    files = [picture(root / "images" / "a.jpg"), mask(root / "annotations" / "trimaps" / "a.png", MASK // 2 + 1)]
    names = text(root / "annotations" / "trainval.txt", "a 1 1 1\n")
    return f"pets:{root}", [*files, names, names]


def pets_boxes(root):
    files = [picture(root / "images" / "a.jpg"), text(root / "annotations" / "xmls" / "a.xml", XML)]
    names = text(root / "annotations" / "trainval.txt", "a 1 1 1\n")
    return f"petsboxes:{root}", [*files, files[1], names]


def tfds(root):
    kinds = pytest.importorskip("tensorflow_datasets", reason="tensorflow-datasets is not installed").features
    objects = kinds.Sequence({"bbox": kinds.BBoxFeature(), "label": kinds.ClassLabel(names=["cat", "dog"])})
    features = {"image": kinds.Image(), "objects": objects, "caption": kinds.Text()}
    box = kinds.BBox(ymin=0.25, xmin=0.5, ymax=0.5, xmax=0.75)

    def example(index):
        return {"image": PICTURES[index], "objects": [{"bbox": box, "label": index}], "caption": "A cat runs."}

    folder = prepare(root, "made", features, example, {"train": (0, 2)})
    records = next(folder.glob("*.tfrecord*"))
    names = folder / "objects-label.labels.txt"
    return f"tfds:made,dir={root}", [records] * 4 + [folder / "features.json", folder / "dataset_info.json", names]


LAYOUTS: dict[str, Callable] = {
    layout.__name__: layout
    for layout in (
        *(folder, folder_with_colors, folder_without_labels, camvid, voc, vocboxes, coco, yolo, yolo_with_outlines),
        *(instances, instance_files, captions, flickr, coco_captions),
        *(cityscapes, cityscapes_objects, pets, pets_boxes, tfds),
    )
}


def check_example(example):
    """What `keras_cv_lectures.data` promises of an example."""
    image = example["image"]
    assert image.dtype == np.uint8
    assert image.ndim == 3
    height, width = image.shape[:2]
    if "mask" in example:
        assert example["mask"].shape == (height, width)
        assert example["mask"].min() >= 0
        assert example["mask"].max() <= 255
    if "boxes" in example:
        boxes = example["boxes"]
        assert np.isfinite(boxes).all()
        assert (boxes >= 0).all()
        assert (boxes <= [width, height, width, height]).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert len(example["labels"]) == len(boxes)
    if "mask_pixels" in example:
        windows = example["mask_windows"]
        assert ((windows[:, 2:] - windows[:, :2]).prod(axis=1)).sum() == example["mask_pixels"].size
    if "keypoints" in example:
        assert np.isfinite(example["keypoints"]).all()
    if "captions" in example:
        assert all(str(caption).strip() for caption in example["captions"])


def read_or_refuse(spec: str, root: Path) -> bool:
    """Reads all of the data; False where it is refused, by a message that names what lies below `root`."""
    refusal = None
    with guard():
        report = doctor(spec)
        report.text().encode()  # It can be shown on any terminal.
        try:
            for example in kcvl.open_source(spec):
                check_example(example)
        except DataError as error:
            refusal = str(error)
    if refusal is not None:
        assert str(root) in refusal
        assert len(refusal) < 20_000
        assert not report.ok, refusal
    return refusal is None


def fuzz(root: Path, layout: str, rounds: int, seed: int) -> int:
    """Damages one file after the other; returns how often the data were refused."""
    spec, files = LAYOUTS[layout](root)
    assert read_or_refuse(spec, root), "the data must be good before they are damaged"
    rng, refused = np.random.default_rng(seed), 0
    whole = {path: path.read_bytes() for path in files}
    for number in range(rounds):
        path = files[number % len(files)]
        how = damage(path, whole[path], rng)
        try:
            refused += not read_or_refuse(spec, root)
        except BaseException as error:
            error.add_note(f"{layout}, seed {seed}, round {number}: {path.name} {how}: {path.read_bytes()[:300]!r}")
            raise
        path.write_bytes(whole[path])
    return refused


@pytest.mark.parametrize("layout", LAYOUTS)
def test_damaged_data_are_read_or_refused_by_name(tmp_path, layout):
    refused = fuzz(tmp_path, layout, FAST, seed=0)
    assert refused >= FAST // 4, "the damage is too small to test anything"


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_much_damaged_data_are_read_or_refused_by_name(tmp_path, layout):
    assert fuzz(tmp_path, layout, SLOW, seed=DEEPER) >= SLOW // 4


def test_the_table_for_users_names_tests_that_exist():
    table = (TESTS.parent / "docs" / "bad_input.md").read_text(encoding="utf-8")
    rows = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith(("| input", "| ---"))]
    files = [*TESTS.glob("test_fuzzing*.py"), TESTS / "test_hostile_input.py", TESTS / "test_runners.py"]
    files += [TESTS / "data" / "test_tfds.py", TESTS / "data" / "test_own_reader.py"]
    there = set(re.findall(r"^def (test_\w+)", "\n".join(f.read_text(encoding="utf-8") for f in files), re.M))
    assert len(rows) > 25
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named, row
        assert set(named) <= there, row
