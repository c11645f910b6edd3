"""Batches for detection: torchvision's resize, draw-transform-redraw of boxes, masks and keypoints, padding, limits."""

import logging
import math

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from keras_cv_lectures.data.shapes import make_scene, render
from keras_cv_lectures.preprocessing import (
    Augmentation,
    augment,
    detection_batches,
    detection_example,
    resize_rule,
)
from keras_cv_lectures.preprocessing.detection import _Surplus

OBJECTS = ("image", "boxes", "labels", "keypoints")


def numpy(example):
    return {key: value.numpy() for key, value in example.items()}


def compact(masks, boxes):
    """Dense masks (N, H, W) as crops over the pixels that the boxes touch."""
    low, high = np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])
    windows = np.concatenate([low, high], axis=1).astype(np.int32)
    crops = [m[y1:y2, x1:x2].ravel() for m, (x1, y1, x2, y2) in zip(masks, windows, strict=True)]
    return {"mask_pixels": np.concatenate([np.zeros(0, np.uint8), *crops]), "mask_windows": windows}


def shapes_example(index, size, count=5, seed=0):
    scene = make_scene(11, index, size, count)
    example = render(scene, size)
    kept = {key: example[key] for key in OBJECTS} | compact(example["instance_masks"], example["boxes"])
    return scene, kept | {"seed": np.int32([seed, index])}, example["instance_masks"]


def sampled(mask, box, size):
    """A mask (H, W) at size x size points over a box, zero outside: the crop that it should have."""
    x, y = (box[k] + (box[k + 2] - box[k]) * (np.arange(size) + 0.5) / size for k in range(2))
    column, row = (np.floor(p + 1e-3).astype(int) for p in (x, y))
    padded = np.pad(mask, 1)
    column, row = (np.clip(p + 1, 0, n + 1) for p, n in ((column, mask.shape[1]), (row, mask.shape[0])))
    return padded[row[:, None], column[None]] > 0


def assert_same_object(crop, mask, box):
    """The crop over `box` shows `mask` (H, W); both are sampled at pixels, so their borders may differ by one."""
    expected = sampled(mask, box, len(crop))
    border = ndimage.binary_dilation(mask, np.ones((3, 3))) & ~ndimage.binary_erosion(mask, np.ones((3, 3)))
    different = (crop > 0) != expected
    assert not (different & ~sampled(border, box, len(crop))).any()
    assert different.sum() < 0.3 * expected.sum()  # thin objects are all border


def fitted_matrix(settings, source, canvas, sizes, seed):
    """(2, 3) map fitted to where the augmentation puts the points of a lattice."""
    x, y = np.meshgrid(np.linspace(0.5, source[1] - 0.5, 9), np.linspace(0.5, source[0] - 0.5, 9))
    points = np.stack([x.ravel(), y.ravel(), np.full(x.size, 2)], -1)[None].astype(np.float32)
    example = {"image": np.zeros((*source, 3), np.uint8), "labels": np.zeros(1, np.int32), "seed": np.int32(seed)}
    example |= {"boxes": np.float32([[0, 0, source[1], source[0]]]), "keypoints": points}
    result = numpy(detection_example(example, canvas=canvas, sizes=sizes, augmentation=settings))
    moved = result["keypoints"][0]
    seen = moved[:, 2] > 0
    homogeneous = np.concatenate([points[0, seen, :2], np.ones((seen.sum(), 1))], axis=1)
    matrix, *_ = np.linalg.lstsq(homogeneous, moved[seen, :2], rcond=None)
    assert np.abs(homogeneous @ matrix - moved[seen, :2]).max() < 1e-3  # the map is affine
    return matrix.T, tuple(result["size"])


@pytest.mark.golden
def test_pictures_and_boxes_go_through_torchvisions_transform(golden):
    arrays, cfg = golden("op_rcnn_transform")
    expected = arrays["out/batch"].transpose(0, 2, 3, 1)
    mean, deviation = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    for k, name in enumerate("ab"):
        image, boxes = arrays[f"in/{name}"].transpose(1, 2, 0), arrays[f"in/boxes_{name}"]
        size = tuple(cfg["image_sizes"][k])
        assert resize_rule(image.shape[:2], cfg["min_size"], cfg["max_size"]) == size
        result = numpy(
            detection_example(
                {"image": image, "boxes": boxes, "labels": np.zeros(len(boxes), np.int32)},
                canvas=expected.shape[1:3],
                sizes=(cfg["min_size"], cfg["max_size"]),
            )
        )
        assert tuple(result["size"]) == size
        inside = np.zeros((*expected.shape[1:3], 1), bool)
        inside[: size[0], : size[1]] = True
        picture = np.where(inside, (result["image"] - mean) / deviation, 0)
        # Coordinates near 90 are rounded by 4e-6 pixels, and neighbours differ by up to 4.5.
        np.testing.assert_allclose(picture, expected[k], atol=5e-5)
        np.testing.assert_allclose(result["boxes"], arrays[f"out/boxes_{name}"], rtol=1e-6)
        back = result["boxes"] * np.tile(np.divide(image.shape[1::-1], size[::-1], dtype=np.float64), 2)
        np.testing.assert_allclose(back, arrays[f"out/back_{name}"], rtol=1e-6)


def test_the_resize_rule_by_hand_and_in_a_graph():
    assert resize_rule((600, 1000), 800, 1333) == (799, 1333)  # the long side decides: 1.333 * 600 = 799.8
    assert resize_rule((1000, 600), 800, 1333) == (1333, 799)
    assert resize_rule((300, 300), 600, 1000) == (600, 600)
    assert resize_rule((30, 40), None, None) == (30, 40)
    assert resize_rule((1, 4000), 800, 1333) == (1, 1333)  # never less than a pixel
    graph = tf.function(lambda size: resize_rule(size, 800, 1333), input_signature=[tf.TensorSpec([2], tf.int32)])
    rng = np.random.default_rng(0)
    for size in [(600, 1000), *rng.integers(1, 3000, (30, 2)).tolist()]:
        scale = min(800 / min(size), 1333 / max(size))
        expected = tuple(max(math.floor(side * scale), 1) for side in size)
        assert resize_rule(size, 800, 1333) == expected
        assert tuple(int(side) for side in graph(tf.constant(size, tf.int32))) == expected


MAPS = {
    "none": (None, (64, 100)),
    "flip": (Augmentation(flip=1.0), (64, 100)),
    "upside down": (Augmentation(flip=0.0, flip_vertical=1.0), (64, 100)),
    "jitter and cut": (Augmentation(scale=(0.5, 2.0)), (64, 100)),
    "quarter turns": (Augmentation(quarter_turns=True, scale=(0.8, 1.3)), (64, 100)),
    "own size, cut": (Augmentation(), None),
    "rotate": (Augmentation(rotate=40.0), (64, 100)),
    "all": (Augmentation(scale=(0.7, 1.4), rotate=25.0, translate=0.1, quarter_turns=True), (64, 100)),
}


@pytest.mark.parametrize("name", MAPS)
def test_draw_transform_redraw(name):
    settings, sizes = MAPS[name]
    source, canvas, compared = (72, 96), (70, 90), 0
    for index in range(4):
        scene, example, _ = shapes_example(index, source, seed=3)
        result = numpy(detection_example(example, canvas=canvas, sizes=sizes, augmentation=settings, mask_size=40))
        matrix, size = fitted_matrix(settings, source, canvas, sizes, (3, index))
        redrawn = render(scene.transformed(matrix), canvas)
        height, width = result["size"]
        assert (height, width) == size
        assert not result["image"][height:].any()
        assert not result["image"][:, width:].any()
        assert (result["boxes"] >= 0).all()
        assert (result["boxes"] <= [width, height, width, height]).all()
        np.testing.assert_array_equal(result["mask_windows"], result["boxes"])
        # The redrawn world goes on where the source picture ends: only what the source shows can be compared.
        covered = covered_by(source, matrix, canvas) & inside(size, canvas)
        for j, shape in enumerate(redrawn["instance_masks"] > 0):
            if (shape & inside(size, canvas)).sum() < 40 or not covered[shape & inside(size, canvas)].all():
                continue
            shape &= inside(size, canvas)
            rows, columns = np.nonzero(shape)
            box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            i = int(np.argmin(np.abs(result["boxes"] - box).max(axis=1)))
            # A pixel of either picture.
            np.testing.assert_allclose(result["boxes"][i], box, atol=1 + abs(np.linalg.det(matrix[:, :2])) ** 0.5)
            assert result["labels"][i] == redrawn["labels"][j]
            assert_same_object(result["masks"][i], shape, result["boxes"][i])
            both = (result["keypoints"][i, :, 2] > 0) & (redrawn["keypoints"][j, :, 2] > 0)
            np.testing.assert_allclose(result["keypoints"][i, both, :2], redrawn["keypoints"][j, both, :2], atol=0.75)
            compared += 1
    assert compared >= 4


def inside(size, canvas):
    area = np.zeros(canvas, bool)
    area[: size[0], : size[1]] = True
    return area


def covered_by(source, matrix, canvas):
    """Which canvas pixels come from the source picture, one pixel less at its border."""
    x, y = np.meshgrid(np.arange(canvas[1]) + 0.5, np.arange(canvas[0]) + 0.5)
    origin = np.linalg.inv(np.vstack([matrix, [0, 0, 1]])) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    seen = (origin[0] > 1) & (origin[0] < source[1] - 1) & (origin[1] > 1) & (origin[1] < source[0] - 1)
    return seen.reshape(canvas)


@pytest.mark.parametrize(
    "settings",
    [
        Augmentation(flip=1.0, quarter_turns=True, scale=(0.6, 1.7)),
        Augmentation(scale=(1.3, 1.3), flip=0.0),
    ],
    ids=["turned", "cut"],
)
def test_pictures_are_moved_by_the_map_of_the_points(settings):
    """The fast path, by whole rows and columns, shows at each point the coordinates that it came from."""
    source, canvas = (48, 64), (56, 60)
    x, y = np.meshgrid(np.arange(64) + 0.5, np.arange(48) + 0.5)
    image = np.stack([x, y, 0 * x], -1).astype(np.float32)
    for index in range(5):
        seed = (8, index)
        matrix, size = fitted_matrix(settings, source, canvas, (48, 70), seed)
        example = {"image": image, "boxes": np.zeros((0, 4), np.float32), "labels": np.zeros(0, np.int32)}
        example["seed"] = np.int32(seed)
        picture = detection_example(example, canvas=canvas, sizes=(48, 70), augmentation=settings)["image"].numpy()
        columns, rows = np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5)
        back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
        origin = back @ np.stack([columns.ravel(), rows.ravel(), np.ones(columns.size)])
        # Within half a pixel of the border the picture is constant.
        expected = np.clip(origin[:2].T, 0.5, [63.5, 47.5]).reshape(*size, 2)
        np.testing.assert_allclose(picture[: size[0], : size[1], :2], expected, atol=2e-3)


SMOOTH = Augmentation(scale=(1.0, 1.6), rotate=20.0, elastic=2.0, flip_vertical=0.5, min_visible=0.0)


@pytest.mark.parametrize("plan", [SMOOTH, Augmentation(scale=(1.0, 1.5), min_visible=0.0), Augmentation.none()])
def test_compact_masks_agree_with_dense_ones_in_augment(plan):
    size, compared = (64, 80), 0.0
    x, y = np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5)
    for index in range(3):
        _, example, dense = shapes_example(index, size, seed=5)
        # A picture of coordinates shows where each point comes from.
        example["image"] = np.stack([x, y, 0 * x], -1).astype(np.float32)
        whole = {k: v for k, v in example.items() if not k.startswith("mask_")} | {"instance_masks": dense}
        a = numpy(augment(example, plan, (72, 88), mask_size=48))
        b = numpy(augment(whole, plan, (72, 88)))
        assert "mask_pixels" not in a
        assert a["masks"].shape == (len(a["labels"]), 48, 48)
        assert a["masks"].dtype == np.uint8
        np.testing.assert_array_equal(a["mask_windows"], a["boxes"])
        np.testing.assert_array_equal(a["labels"], b["labels"])
        np.testing.assert_allclose(a["boxes"], b["boxes"], atol=1.5)
        for crop, label, box in zip(a["masks"], a["labels"], a["boxes"], strict=True):
            points = [box[k] + (box[k + 2] - box[k]) * (np.arange(48) + 0.5) / 48 - 0.5 for k in (1, 0)]
            rows, columns = np.meshgrid(*points, indexing="ij")
            origin = [ndimage.map_coordinates(a["image"][..., k], [rows, columns], order=1) for k in range(2)]
            # Away from the lines between pixels, and from the border, where the ramp ends.
            clear = [
                (np.abs(o - np.round(o)) > 0.12) & (o > 2) & (o < n - 2)
                for o, n in zip(origin, size[::-1], strict=True)
            ]
            column, row = (np.clip(np.floor(o).astype(int), 0, n - 1) for o, n in zip(origin, size[::-1], strict=True))
            known = clear[0] & clear[1] & ~outside_of(a["image"], rows, columns)
            same = [(crop == mask[row, column])[known].mean() for mask in dense[example["labels"] == label]]
            assert max(same) == 1.0
            compared += known.mean()
    assert compared > 4  # as if all of four objects were looked at


def outside_of(picture, rows, columns):
    """Points that see a pixel from outside the source, which has the mean colour."""
    blank = (picture == picture[0, 0]).all(axis=-1) | (picture == picture[-1, -1]).all(axis=-1)
    return ndimage.map_coordinates(blank.astype(np.float32), [rows, columns], order=1) > 0


def test_a_mask_at_its_own_size_is_copied_mirrored_and_cut():
    mask = np.random.default_rng(0).integers(0, 2, (8, 8)).astype(np.uint8)
    mask[0] = mask[:, 0] = mask[-1] = mask[:, -1] = 1
    example = {"image": np.zeros((20, 24, 3), np.uint8), "labels": np.int32([4]), "boxes": np.float32([[3, 5, 11, 13]])}
    example |= {"mask_pixels": mask.ravel(), "mask_windows": np.int32([[3, 5, 11, 13]])}
    example |= {"seed": np.int32([0, 0])}
    same = numpy(detection_example(example, canvas=(20, 24), sizes=None, mask_size=8))
    np.testing.assert_array_equal(same["masks"][0], mask)
    flip = Augmentation(flip=1.0)
    mirrored = numpy(detection_example(example, canvas=(20, 24), sizes=None, augmentation=flip, mask_size=8))
    np.testing.assert_array_equal(mirrored["masks"][0], mask[:, ::-1])
    np.testing.assert_array_equal(mirrored["boxes"], [[13, 5, 21, 13]])
    # Only rows 5..8 and columns 3..6 of the object lie on a canvas of 9 x 7 pixels.
    cut = numpy(detection_example(example, canvas=(9, 7), sizes=None, mask_size=4))
    np.testing.assert_array_equal(cut["boxes"], [[3, 5, 7, 9]])
    np.testing.assert_array_equal(cut["masks"][0], mask[:4, :4])
    # Twice as large, each pixel is four.
    double = numpy(detection_example(example, canvas=(40, 48), sizes=(40, 48), mask_size=16))
    np.testing.assert_array_equal(double["boxes"], [[6, 10, 22, 26]])
    np.testing.assert_array_equal(double["masks"][0], mask.repeat(2, 0).repeat(2, 1))


def test_a_cut_object_gets_the_box_of_what_is_seen():
    """A triangle whose tip alone stays on the canvas."""
    mask = np.tri(12, 12, dtype=np.uint8)  # row i has pixels 0..i
    example = {"image": np.zeros((12, 12, 3), np.uint8), "labels": np.int32([0]), "boxes": np.float32([[0, 0, 12, 12]])}
    example |= {"mask_pixels": mask.ravel(), "mask_windows": np.int32([[0, 0, 12, 12]])}
    seen = numpy(detection_example(example, canvas=(6, 12), sizes=None, mask_size=6))
    np.testing.assert_array_equal(seen["boxes"], [[0, 0, 6, 6]])
    np.testing.assert_array_equal(seen["masks"][0], mask[:6, :6])
    # 21 of 78 pixels are seen.
    for least, count in ((0.26, 1), (0.28, 0)):
        plan = Augmentation(flip=0.0, crop=False, min_visible=least)
        found = detection_example(example, canvas=(6, 12), sizes=None, augmentation=plan)
        assert len(found["labels"]) == count


def picture(boxes, labels=None, crowd=None, difficult=None, size=(20, 30)):
    boxes = np.float32(boxes).reshape(-1, 4)
    labels = np.arange(len(boxes)) if labels is None else labels
    crowd, difficult = (np.zeros(len(boxes)) if marks is None else marks for marks in (crowd, difficult))
    masks = np.zeros((len(boxes), *size), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        mask[y1:y2, x1:x2] = 1
    example = {"image": np.full((*size, 3), 7, np.uint8), "boxes": boxes, "labels": np.int32(labels)}
    example |= {"crowd": np.array(crowd, bool), "keypoints": np.ones((len(boxes), 2, 3), np.float32)}
    example |= {"difficult": np.array(difficult, bool), "area": np.full(len(boxes), 9, np.float32)}
    return example | {"image_id": np.array("x", object), "seed": np.int32([1, 2])} | compact(masks, boxes)


def dataset_of(*examples):
    axes = {"image": 1, "boxes": 1, "keypoints": 2, "seed": 1}
    signature = {
        key: tf.TensorSpec(
            [None] * (value.ndim - axes.get(key, 0)) + list(value.shape[value.ndim - axes.get(key, 0) :]),
            tf.string if value.dtype == object else value.dtype,
        )
        for key, value in examples[0].items()
    }
    return tf.data.Dataset.from_generator(lambda: iter(examples), output_signature=signature)


BOXES = [[2, 3, 12, 13], [0, 0, 4, 4], [10, 5, 30, 20]]


def test_batches_are_padded_and_have_static_shapes():
    dataset = dataset_of(picture(BOXES), picture([]), picture(BOXES[:1]))
    batches = detection_batches(
        dataset, canvas=(32, 48), sizes=(24, 40), batch_size=3, max_objects=5, mask_size=14, drop_remainder=True
    )
    inputs, targets = batches.element_spec
    assert inputs == {
        "image": tf.TensorSpec((3, 32, 48, 3), tf.uint8),
        "size": tf.TensorSpec((3, 2), tf.int32),
    }
    assert targets == {
        "boxes": tf.TensorSpec((3, 5, 4), tf.float32),
        "labels": tf.TensorSpec((3, 5), tf.int32),
        "masks": tf.TensorSpec((3, 5, 14, 14), tf.uint8),
        "mask_windows": tf.TensorSpec((3, 5, 4), tf.float32),
        "keypoints": tf.TensorSpec((3, 5, 2, 3), tf.float32),
    }
    ((inputs, targets),) = batches.as_numpy_iterator()
    np.testing.assert_array_equal(inputs["size"], [[24, 36]] * 3)
    assert (inputs["image"][:, :24, :36] == 7).all()
    assert not inputs["image"][:, 24:].any()
    assert not inputs["image"][:, :, 36:].any()
    np.testing.assert_array_equal(targets["labels"], [[0, 1, 2, -1, -1], [-1] * 5, [0, -1, -1, -1, -1]])
    np.testing.assert_allclose(targets["boxes"][0, :3], np.float32(BOXES) * 1.2, rtol=1e-6)
    real = targets["labels"] >= 0
    assert targets["masks"][real].all()  # the objects are rectangles, and fill their boxes
    for value in targets.values():
        assert not value[~real].any() or value is targets["labels"]


def test_crowds_difficult_objects_and_those_without_area_are_left_out():
    boxes = [[2, 3, 12, 13], [5, 5, 5, 9], [0, 0, 4, 4], [1, 1, 9, 9], [10, 5, 30, 20], [3, 3, 6, 8]]
    example = picture(boxes, labels=[3, 4, 5, -1, 7, 8], crowd=[0, 0, 1, 0, 0, 0], difficult=[0, 0, 0, 0, 0, 1])
    found = numpy(detection_example(example, canvas=(20, 30), sizes=None, mask_size=10))
    np.testing.assert_array_equal(found["labels"], [3, 7])
    np.testing.assert_array_equal(found["boxes"], np.float32(boxes)[[0, 4]])
    assert found["masks"].shape == (2, 10, 10)
    assert found["masks"].all()
    assert len(found["keypoints"]) == 2
    alone = picture(boxes[2:3], crowd=[1])
    assert len(detection_example(alone, canvas=(20, 30), sizes=None)["labels"]) == 0


def test_the_largest_objects_are_kept_and_it_is_logged_once(caplog):
    dataset = dataset_of(picture(BOXES), picture(BOXES))
    with caplog.at_level(logging.WARNING):
        batches = list(
            detection_batches(
                dataset, canvas=(20, 30), sizes=None, batch_size=1, max_objects=2, mask_size=4
            ).as_numpy_iterator()
        )
    for _, targets in batches:
        np.testing.assert_array_equal(targets["labels"], [[0, 2]])
        np.testing.assert_array_equal(targets["boxes"][0], np.float32(BOXES)[[0, 2]])
    lines = [record.getMessage() for record in caplog.records if "max_objects" in record.getMessage()]
    assert len(lines) == 1
    assert "3 objects, but max_objects=2" in lines[0]


@pytest.mark.parametrize(("findable", "lines"), [(2, 1), (3, 0), (None, 0)])
def test_pictures_with_more_objects_than_the_detector_finds_are_told_and_kept(caplog, findable, lines):
    keep = _Surplus(4, findable)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            np.testing.assert_array_equal(keep({"boxes": tf.constant(BOXES, tf.float32)})["boxes"], BOXES)
    told = [record.getMessage() for record in caplog.records if "max_detections=2" in record.getMessage()]
    assert len(told) == lines
    assert all("3 objects, but the detector finds at most" in line for line in told)


def test_masks_and_keypoints_are_optional():
    plain = {key: value for key, value in picture(BOXES).items() if key in ("image", "boxes", "labels")}
    for dataset, options in (
        (dataset_of(plain), {}),
        (dataset_of(picture(BOXES)), {"masks": False, "keypoints": False}),
    ):
        batches = detection_batches(dataset, canvas=(20, 30), sizes=None, batch_size=1, max_objects=4, **options)
        assert set(batches.element_spec[1]) == {"boxes", "labels"}
        ((_, targets),) = batches.as_numpy_iterator()
        np.testing.assert_array_equal(targets["labels"], [[0, 1, 2, -1]])


def test_dense_masks_give_the_same_crops_as_compact_ones():
    settings = Augmentation(scale=(0.7, 1.5), quarter_turns=True)
    _, example, dense = shapes_example(0, (48, 64), seed=2)
    whole = {k: v for k, v in example.items() if not k.startswith("mask_")} | {"instance_masks": dense}
    options = {"canvas": (56, 56), "sizes": (48, 80), "augmentation": settings, "mask_size": 20}
    a, b = (numpy(detection_example(e, **options)) for e in (example, whole))
    assert len(a["labels"]) >= 2
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_many_objects_need_memory_for_their_crops_only():
    """1000 objects on 2000 x 2000 pixels would be 4 GB of dense masks."""
    corners = np.random.default_rng(0).integers(0, 1990, (1000, 2))
    boxes = np.concatenate([corners, corners + 8], axis=1).astype(np.float32)
    example = {"image": np.zeros((2000, 2000, 3), np.uint8), "boxes": boxes, "labels": np.zeros(1000, np.int32)}
    example |= {"mask_pixels": np.ones(64_000, np.uint8), "mask_windows": boxes.astype(np.int32)}
    found = numpy(detection_example(example, canvas=(500, 500), sizes=(500, 500), mask_size=4))
    np.testing.assert_array_equal(found["boxes"], boxes / 4)
    assert found["masks"].shape == (1000, 4, 4)
    assert found["masks"].all()


def test_eager_and_tf_data_agree_and_the_seed_decides():
    settings = Augmentation(scale=(0.7, 1.4), rotate=10.0, brightness=0.2, saturation=0.3, hue=0.1, noise=3.0)
    examples = [shapes_example(i, (40, 48), seed=4)[1] for i in range(2)]
    options = {"canvas": (48, 48), "sizes": (40, 60), "augmentation": settings, "mask_size": 12}
    dataset = dataset_of(*examples)
    batches = detection_batches(dataset, batch_size=1, max_objects=8, **options)
    first, again = (list(batches.as_numpy_iterator()) for _ in range(2))
    for (inputs, targets), (same, _), example in zip(first, again, examples, strict=True):
        np.testing.assert_array_equal(inputs["image"], same["image"])
        eager = numpy(detection_example(example, **options))
        count = len(eager["labels"])
        assert (targets["labels"][0, count:] == -1).all()
        np.testing.assert_array_equal(targets["labels"][0, :count], eager["labels"])
        np.testing.assert_allclose(targets["boxes"][0, :count], eager["boxes"], atol=1e-3)
        np.testing.assert_array_equal(inputs["size"][0], eager["size"])
        # The graph optimiser may reorder sums, so a value at a half may round the other way.
        assert np.abs(inputs["image"][0].astype(int) - eager["image"]).max() <= 1
    other = detection_example({**examples[0], "seed": np.int32([9, 9])}, **options)
    assert (other["image"].numpy() != first[0][0]["image"][0]).mean() > 0.3


def test_mirrored_keypoints_change_hands():
    example = picture([[2, 2, 20, 18]])
    example["keypoints"] = np.float32([[[5, 6, 2], [9, 6, 1]]])
    flip = Augmentation(flip=1.0, keypoint_flip=(1, 0))
    found = detection_example(example, canvas=(20, 30), sizes=None, augmentation=flip)
    np.testing.assert_array_equal(found["keypoints"], [[[21, 6, 1], [25, 6, 2]]])


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"canvas": (0, 8)}, "canvas"),
        ({"sizes": (10, 5)}, "sizes"),
        ({"mask_size": 0}, "mask_size"),
        ({"max_objects": 0}, "max_objects"),
        ({"augmentation": Augmentation(elastic=9.0)}, "elastic"),
        ({"channels": 4}, "channels"),
    ],
)
def test_wrong_settings_are_named(settings, name):
    with pytest.raises(ValueError, match=f"{name}: expected"):
        detection_batches(dataset_of(picture(BOXES)), **{"canvas": (32, 32), "batch_size": 1} | settings)


def test_missing_keys_are_named():
    for key in ("boxes", "labels", "seed"):
        example = {k: v for k, v in picture(BOXES).items() if k != key}
        with pytest.raises(ValueError, match=f"{key}: expected"):
            detection_example(example, canvas=(20, 30), augmentation=Augmentation())
