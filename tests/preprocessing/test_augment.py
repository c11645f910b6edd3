"""Joint augmentation: draw, transform, redraw; the map read back from a picture of coordinates; ranges of options."""

import dataclasses
import importlib

import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.data.shapes import make_scene, render
from keras_cv_lectures.preprocessing import Augmentation, augment, segmentation_batches

# The package has the function under the module's name.
augment_module = importlib.import_module("keras_cv_lectures.preprocessing.augment")
FULL = Augmentation(
    flip_vertical=0.5,
    scale=(0.7, 1.5),
    rotate=25.0,
    elastic=3.0,
    brightness=0.2,
    contrast=0.2,
    saturation=0.3,
    hue=0.1,
    grey_value=0.1,
    gamma=0.2,
    noise=4.0,
)


def seeded(example, *seed):
    return {**example, "seed": np.array(seed, np.int32)}


def numpy(example):
    return {key: value.numpy() for key, value in example.items()}


def coordinates(height, width, step=1.0):
    """A float picture whose two first channels hold the pixel centres `(x, y)`, times `step`."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.stack([x * step, y * step, 0 * x], axis=-1).astype(np.float32)


def lattice(height, width):
    """Visible keypoints (1, K, 3) all over the picture."""
    x, y = np.meshgrid(np.linspace(1, width - 1, 12), np.linspace(1, height - 1, 12))
    return np.stack([x.ravel(), y.ravel(), np.full(x.size, 2)], axis=-1)[None].astype(np.float32)


def fitted_matrix(augmentation, source, output, seed):
    """(2, 3) map of the augmentation, fitted to where it puts the points of a lattice."""
    points = lattice(*source)
    example = seeded({"image": np.zeros((*source, 3), np.uint8), "keypoints": points}, *seed)
    moved = augment(example, augmentation, output)["keypoints"].numpy()[0]
    seen = moved[:, 2] > 0
    homogeneous = np.concatenate([points[0, seen, :2], np.ones((seen.sum(), 1))], axis=1)
    matrix, *_ = np.linalg.lstsq(homogeneous, moved[seen, :2], rcond=None)
    assert np.abs(homogeneous @ matrix - moved[seen, :2]).max() < 1e-3  # the map is affine
    return matrix.T


def near_border(mask, reach=1.5):
    """Pixels within `reach` pixels of another class."""
    from scipy.ndimage import distance_transform_edt

    edge = np.zeros(mask.shape, bool)
    for axis in (0, 1):
        for a, b in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
            index, other = [slice(None)] * 2, [slice(None)] * 2
            index[axis], other[axis] = a, b
            edge[tuple(index)] |= mask[tuple(index)] != mask[tuple(other)]
    return distance_transform_edt(~edge) <= reach if edge.any() else edge


AFFINE = {
    "flip": Augmentation(flip=1.0),
    "upside down": Augmentation(flip=0.0, flip_vertical=1.0),
    "zoom": Augmentation(scale=(0.6, 1.6)),
    "rotate": Augmentation(rotate=40.0),
    "window": Augmentation(resize=False, translate=0.1),
    "all": Augmentation(flip_vertical=0.5, scale=(0.7, 1.4), rotate=30.0, translate=0.1),
}


@pytest.mark.parametrize("name", AFFINE)
def test_draw_transform_redraw(name):
    source, output = (96, 128), (80, 112)
    compared = 0
    for index in range(4):
        scene = make_scene(11, index, source, 5)
        example = render(scene, source)
        result = numpy(augment(seeded(example, 3, index), AFFINE[name], output))
        redrawn = render(scene.transformed(fitted_matrix(AFFINE[name], source, output, (3, index))), output)

        drawn = result["mask"] != 255  # the redrawn world has no border, the augmented picture has
        different = drawn & (result["mask"] != redrawn["mask"])
        # Two pictures are compared at their own resolution; thin shapes sampled twice differ along their border only.
        assert different.sum() < 0.01 * different.size
        assert not (different & ~near_border(redrawn["mask"])).any()

        for j, shape in enumerate(redrawn["instance_masks"] > 0):
            # The redrawn world goes on where the source picture ends: only whole shapes have the same box.
            if shape.sum() < 40 or not drawn[shape].all():
                continue
            overlaps = [(shape & (m > 0)).sum() / (shape | (m > 0)).sum() for m in result["instance_masks"]]
            i = int(np.argmax(overlaps))
            assert overlaps[i] > 0.8
            assert result["labels"][i] == redrawn["labels"][j]
            assert result["attributes"][i, 1].decode() == redrawn["attributes"][j, 1]
            np.testing.assert_allclose(result["boxes"][i], redrawn["boxes"][j], atol=1.5)
            both = (result["keypoints"][i, :, 2] > 0) & (redrawn["keypoints"][j, :, 2] > 0)
            np.testing.assert_allclose(
                result["keypoints"][i, both, :2], redrawn["keypoints"][j, both, :2], atol=0.75, err_msg=name
            )
            compared += 1
    assert compared >= 3


@pytest.mark.parametrize(
    ("output", "scale"),
    # Shrinking by a whole factor: by another one the filter itself bends a straight ramp by up to 0.1 pixel.
    [((90, 120), (1.0, 1.3)), ((90, 60), (1.0, 1.0))],
    ids=["growing", "halving the width"],
)
@pytest.mark.parametrize("elastic", [0.0, 4.0])
def test_image_mask_weights_and_keypoints_follow_one_map(elastic, output, scale):
    source = (90, 120)
    augmentation = Augmentation(flip_vertical=0.5, scale=scale, rotate=20.0, elastic=elastic)
    image, points = coordinates(*source), lattice(*source)
    for seed in range(4):
        example = seeded({"image": image, "mask": np.arange(90 * 120, dtype=np.int32).reshape(source)}, 5, seed)
        example |= {"weights": example["mask"].astype(np.float32), "keypoints": points}
        result = numpy(augment(example, augmentation, output))
        x, y = result["image"][..., 0], result["image"][..., 1]
        # Near the border (the reach of the shrinking filter) the picture of coordinates is no longer a straight ramp.
        known = (result["mask"] != 255) & (x > 4) & (x < 116) & (y > 4) & (y < 86)
        assert known.mean() > 0.5
        row, column = np.divmod(result["mask"], 120)
        assert np.abs(column + 0.5 - x)[known].max() <= 0.51
        assert np.abs(row + 0.5 - y)[known].max() <= 0.51
        np.testing.assert_array_equal(result["weights"][known], result["mask"][known])
        # Where a keypoint went, the picture shows the coordinates it came from.
        moved = result["keypoints"][0]
        for (px, py, visibility), origin in zip(moved, points[0, :, :2], strict=True):
            j, i = int(px - 0.5), int(py - 0.5)
            if visibility == 0 or i + 1 >= output[0] or j + 1 >= output[1] or not known[i : i + 2, j : j + 2].all():
                continue
            fx, fy = px - 0.5 - j, py - 0.5 - i
            corners = result["image"][i : i + 2, j : j + 2, :2]
            seen = (corners[0] * [[1 - fx], [fx]] * (1 - fy) + corners[1] * [[1 - fx], [fx]] * fy).sum(axis=0)
            np.testing.assert_allclose(seen, origin, atol=0.05)


def test_boxes_without_masks_hold_the_object_under_rotation_and_elastic():
    mask = np.zeros((96, 128), np.int32)
    mask[30:60, 40:90] = 1
    example = {"image": np.zeros((96, 128, 3), np.uint8), "mask": mask, "labels": np.zeros(1, np.int32)}
    example |= {"boxes": np.float32([[40, 30, 90, 60]])}
    augmentation = Augmentation(rotate=30.0, elastic=3.0)
    for seed in range(4):
        result = numpy(augment(seeded(example, 1, seed), augmentation, (96, 128)))
        rows, columns = np.nonzero(result["mask"] == 1)
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(result["boxes"][0], seen, atol=1.5)


def test_without_augmentation_everything_is_resized():
    image = np.repeat(np.repeat(np.uint8([[[10], [20]], [[30], [40]]]), 4, 0), 4, 1)
    example = {"image": image, "mask": np.int32(image[..., 0]), "boxes": np.float32([[2, 4, 6, 8]])}
    example |= {"labels": np.int32([3]), "keypoints": np.float32([[[2, 6, 1], [0, 0, 0]]]), "image_id": "a"}
    result = numpy(augment(example, Augmentation.none(), (4, 2)))
    np.testing.assert_array_equal(result["mask"], np.repeat([[10, 20], [30, 40]], 2, 0))
    np.testing.assert_array_equal(result["boxes"], [[0.5, 2, 1.5, 4]])
    np.testing.assert_array_equal(result["keypoints"], [[[0.5, 3, 1], [0, 0, 0]]])
    assert result["image"].shape == (4, 2, 1)
    assert result["image"].dtype == np.uint8
    assert result["image_id"] == b"a"


@pytest.mark.golden
def test_shrinking_is_antialiased_as_in_torch(golden):
    arrays, _ = golden("op_resize")
    image = arrays["in/x"][0].transpose(1, 2, 0)
    for key in (key for key in arrays if key.startswith("out/bilinear_aa")):
        expected = arrays[key][0].transpose(1, 2, 0)
        # Grey levels are cut to 0..255, so the recorded numbers are moved into that range.
        result = augment({"image": 100 + 10 * image}, Augmentation.none(), expected.shape[:2])["image"]
        np.testing.assert_allclose(result, 100 + 10 * expected, atol=1e-3, err_msg=key)


def test_a_fine_pattern_turns_grey_when_a_moved_picture_shrinks():
    board = np.indices((120, 120)).sum(axis=0) % 2 * 255
    example = seeded({"image": np.repeat(np.uint8(board)[..., None], 3, 2)}, 0, 0)
    shrunk = augment(example, Augmentation(scale=(0.45, 0.5), rotate=10.0), (120, 120))["image"].numpy()
    assert np.abs(shrunk.astype(float) - 127.5).max() < 40  # 127.5 when sampled without a filter


def test_flip_and_crop_copy_pixels():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    flipped = augment(seeded({"image": image}, 0, 0), Augmentation(flip=1.0), (20, 30))["image"]
    np.testing.assert_array_equal(flipped, image[:, ::-1])
    places = set()
    for seed in range(12):
        example = seeded({"image": image, "mask": np.arange(600, dtype=np.int32).reshape(20, 30)}, 1, seed)
        result = numpy(augment(example, Augmentation(flip=0.0, resize=False), (8, 10)))
        top, left = divmod(int(result["mask"][0, 0]), 30)
        np.testing.assert_array_equal(result["image"], image[top : top + 8, left : left + 10])
        places.add((top, left))
    assert len(places) > 6


def test_without_crop_the_middle_is_taken_and_a_small_picture_is_padded():
    image = np.arange(1, 17, dtype=np.uint8).reshape(4, 4, 1)
    window = Augmentation(flip=0.0, resize=False, crop=False, fill="constant")
    np.testing.assert_array_equal(augment({"image": image}, window, (2, 2))["image"], image[1:3, 1:3])
    padded = numpy(augment({"image": image, "mask": image[..., 0].astype(np.int32)}, window, (6, 6)))
    np.testing.assert_array_equal(padded["mask"], np.pad(image[..., 0], 1, constant_values=255))
    assert padded["image"][0, 0, 0] == 9  # the mean, 8.5, rounded
    mirrored = augment({"image": image}, dataclasses.replace(window, fill="reflect"), (6, 6))["image"]
    np.testing.assert_array_equal(mirrored[..., 0], np.pad(image[..., 0], 1, mode="symmetric"))


def test_masks_keep_their_dtype_and_gain_no_label():
    mask = np.random.default_rng(0).choice([0, 3, 7, 255], (40, 50))
    for dtype in (np.int32, np.uint8, np.int64):
        example = seeded({"image": np.zeros((40, 50, 3), np.uint8), "mask": mask.astype(dtype)}, 4, 2)
        result = augment(example, FULL, (40, 50))["mask"].numpy()
        assert result.dtype == dtype
        assert set(np.unique(result)) == {0, 3, 7, 255}


def test_labelled_objects_forbid_mirrored_borders():
    example = {"image": np.zeros((20, 20, 3), np.uint8), "mask": np.zeros((20, 20), np.int32)}
    small = Augmentation(scale=(0.5, 0.5), fill="reflect")
    assert 255 not in augment(seeded(example, 1, 1), small, (20, 20))["mask"].numpy()
    example |= {"boxes": np.zeros((0, 4), np.float32), "labels": np.zeros(0, np.int32)}
    assert (augment(seeded(example, 1, 1), small, (20, 20))["mask"].numpy() == 255).sum() == 300


def test_objects_that_leave_are_dropped_from_every_key():
    boxes = np.float32([[0, 0, 10, 10], [12, 12, 18, 18], [9, 9, 31, 31]])
    masks = np.zeros((3, 40, 40), np.uint8)
    for mask, box in zip(masks, boxes.astype(int), strict=True):
        mask[box[1] : box[3], box[0] : box[2]] = 1
    example = {"image": np.zeros((40, 40, 3), np.uint8), "boxes": boxes, "labels": np.int32([5, 6, 7])}
    example |= {"keypoints": np.tile(np.float32([[[15, 15, 2], [0.5, 0.5, 2]]]), (3, 1, 1)), "phrases": ["a", "b", "c"]}
    example |= {"difficult": np.array([False, True, False]), "area": np.float32([50, 30, 242])}
    window = Augmentation(flip=0.0, resize=False, crop=False)  # rows and columns 10..29
    for extra in ({}, {"instance_masks": masks}):
        result = numpy(augment({**example, **extra}, window, (20, 20)))
        np.testing.assert_array_equal(result["boxes"], [[2, 2, 8, 8], [0, 0, 20, 20]])
        np.testing.assert_array_equal(result["labels"], [6, 7])
        np.testing.assert_array_equal(result["keypoints"], np.tile([[[5, 5, 2], [0, 0, 0]]], (2, 1, 1)))
        assert result["phrases"].tolist() == [b"b", b"c"]
        assert result["difficult"].tolist() == [True, False]
        # Of the last one 20 x 20 of 22 x 22 pixels are seen, and so as much of its area.
        np.testing.assert_allclose(result["area"], [30, 200], rtol=1e-6)
    stricter = augment(example, dataclasses.replace(window, min_visible=0.9), (20, 20))
    np.testing.assert_array_equal(stricter["labels"], [6])


def test_an_object_that_only_shrinks_is_wholly_visible():
    mask = np.zeros((1, 40, 40), np.uint8)
    mask[0, 8:24, 8:24] = 1
    example = {"image": np.zeros((40, 40, 3), np.uint8), "instance_masks": mask, "labels": np.int32([2])}
    example["area"] = np.float32([200])
    shrunk = Augmentation(flip=0.0, crop=False, scale=(0.5, 0.5), min_visible=0.95)
    for extra in ({}, {"boxes": np.float32([[8, 8, 24, 24]])}):
        result = augment({**example, **extra}, shrunk, (40, 40))
        np.testing.assert_array_equal(result["labels"], [2])
        np.testing.assert_allclose(result["area"], [50], rtol=1e-6)


def test_one_pixel_objects_survive_a_flip_and_vanish_below_a_pixel():
    mask = np.zeros((1, 10, 10), np.uint8)
    mask[0, 2, 3] = 1
    example = {"image": np.zeros((10, 10, 3), np.uint8), "boxes": np.float32([[3, 2, 4, 3]])}
    example |= {"labels": np.int32([0])}
    for extra in ({}, {"instance_masks": mask}):
        flipped = numpy(augment(seeded({**example, **extra}, 0, 0), Augmentation(flip=1.0), (10, 10)))
        np.testing.assert_array_equal(flipped["boxes"], [[6, 2, 7, 3]])
        shrunk = Augmentation(flip=0.0, crop=False, scale=(0.5, 0.5))
        assert len(augment({**example, **extra}, shrunk, (10, 10))["labels"]) == 0
        # A plain resize is what evaluation uses: it must not lose objects.
        assert len(augment({**example, **extra}, Augmentation.none(), (5, 5))["labels"]) == 1


@pytest.mark.parametrize("augmentation", [Augmentation.none(), FULL], ids=["none", "full"])
def test_pictures_without_objects(augmentation):
    example = {
        "image": np.zeros((24, 32, 3), np.uint8),
        "mask": np.zeros((24, 32), np.int32),
        "boxes": np.zeros((0, 4), np.float32),
        "labels": np.zeros(0, np.int32),
        "instance_masks": np.zeros((0, 24, 32), np.uint8),
        "keypoints": np.zeros((0, 5, 3), np.float32),
    }
    result = augment(seeded(example, 1, 2), augmentation, (40, 36))
    shapes = {key: tuple(result[key].shape) for key in example}
    assert shapes == {
        "image": (40, 36, 3),
        "mask": (40, 36),
        "boxes": (0, 4),
        "labels": (0,),
        "instance_masks": (0, 40, 36),
        "keypoints": (0, 5, 3),
    }


def test_mirror_swaps_left_and_right_keypoints():
    example = {"image": np.zeros((10, 10, 3), np.uint8), "keypoints": np.float32([[[5, 1, 2], [2, 4, 1], [8, 4, 2]]])}
    flip = Augmentation(flip=1.0, keypoint_flip=(0, 2, 1))
    result = augment(seeded(example, 0, 0), flip, (10, 10))["keypoints"]
    np.testing.assert_array_equal(result, [[[5, 1, 2], [2, 4, 2], [8, 4, 1]]])
    # Both mirrors together are half a turn: nobody's left hand becomes a right one.
    turned = augment(seeded(example, 0, 0), dataclasses.replace(flip, flip_vertical=1.0), (10, 10))["keypoints"]
    np.testing.assert_array_equal(turned, [[[5, 9, 2], [8, 6, 1], [2, 6, 2]]])


def test_the_seed_decides_and_nothing_else():
    example = render(make_scene(1, 1, (48, 64), 4), (48, 64))
    first, again, other = (numpy(augment(seeded(example, *s), FULL, (48, 64))) for s in ((1, 2), (1, 2), (1, 3)))
    for key in first:
        np.testing.assert_array_equal(first[key], again[key], err_msg=key)
    assert (first["image"] != other["image"]).mean() > 0.5


def test_eager_and_tf_data_agree():
    examples = [render(make_scene(1, i, (48, 64), 4), (48, 64)) for i in range(3)]
    keys = ("image", "mask", "boxes", "labels", "instance_masks", "keypoints", "seed")
    examples = [{k: v for k, v in seeded(e, 7, i).items() if k in keys} for i, e in enumerate(examples)]
    free = {"image": (None, None, 3), "mask": (None, None), "boxes": (None, 4), "labels": (None,)}
    free |= {"instance_masks": (None, None, None), "keypoints": (None, 5, 3), "seed": (2,)}
    signature = {k: tf.TensorSpec(free[k], examples[0][k].dtype) for k in keys}
    dataset = tf.data.Dataset.from_generator(lambda: iter(examples), output_signature=signature)
    dataset = dataset.map(lambda e: augment(e, FULL, (40, 56)))
    assert dataset.element_spec["image"].shape == (40, 56, 3)
    assert dataset.element_spec["mask"].shape == (40, 56)
    assert dataset.element_spec["instance_masks"].shape.as_list() == [None, 40, 56]
    for example, graph in zip(examples, dataset.as_numpy_iterator(), strict=True):
        eager = numpy(augment(example, FULL, (40, 56)))
        for key in ("mask", "labels", "instance_masks"):
            np.testing.assert_array_equal(eager[key], graph[key], err_msg=key)
        for key in ("boxes", "keypoints"):
            np.testing.assert_allclose(eager[key], graph[key], atol=1e-3, err_msg=key)
        # The graph optimiser may reorder sums, so a grey level at a half may round the other way.
        assert np.abs(eager["image"].astype(int) - graph["image"].astype(int)).max() <= 1


def test_autograph_does_not_read_the_augmentation(monkeypatch):
    """That took seconds, and found nothing to convert."""
    seen = []

    def drawn(seed, draw=augment_module.draw_numbers):
        seen.append(tf.__internal__.autograph.control_status_ctx().status.name)
        return draw(seed)

    monkeypatch.setattr(augment_module, "draw_numbers", drawn)
    example = {"image": np.zeros((8, 8, 3), np.uint8), "mask": np.zeros((8, 8), np.int32), "seed": np.int32([0, 1])}
    dataset = tf.data.Dataset.from_tensors(example)
    dataset.map(lambda example: augment(example, Augmentation(rotate=9.0), (8, 8)))
    segmentation_batches(dataset, output_size=(8, 8), batch_size=1, augmentation=Augmentation(rotate=9.0))
    assert seen == ["DISABLED", "DISABLED"]


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_pictures_stay_grey(channels):
    image = np.repeat(np.random.default_rng(0).integers(0, 256, (16, 16, 1)), channels, 2).astype(np.uint8)
    colour = Augmentation(brightness=0.3, contrast=0.3, saturation=0.5, hue=0.5, grey_value=0.2, gamma=0.5)
    result = augment(seeded({"image": image}, 0, 1), colour, (16, 16))["image"].numpy().astype(int)
    assert result.shape == (16, 16, channels)
    assert np.ptp(result, axis=-1).max() <= 1


def measured(augmentation, image, count=60):
    return [
        augment(seeded({"image": image}, 9, i), augmentation, image.shape[:2])["image"].numpy() for i in range(count)
    ]


@pytest.mark.parametrize(
    ("option", "low", "high"),
    [
        ({"brightness": 0.2}, 80.0, 120.0),
        ({"grey_value": 0.1}, 74.5, 125.5),
        ({"gamma": 0.5}, 255 * (100 / 255) ** 1.5, 255 * (100 / 255) ** (1 / 1.5)),
    ],
)
def test_grey_levels_fill_their_range(option, low, high):
    image = np.full((4, 4, 3), 100.0, np.float32)
    levels = np.array([r[0, 0, 0] for r in measured(Augmentation(flip=0.0, **option), image)])
    assert low - 1e-3 <= levels.min() < low + 0.15 * (high - low)
    assert high - 0.15 * (high - low) < levels.max() <= high + 1e-3
    assert abs(levels.mean() - (low + high) / 2) < 0.15 * (high - low)


def test_contrast_keeps_the_mean_and_scales_the_spread():
    image = np.tile(np.float32([[[80], [120]]]), (4, 2, 1))
    results = np.array(measured(Augmentation(flip=0.0, contrast=0.5), image))
    np.testing.assert_allclose(results.mean(axis=(1, 2, 3)), 100.0, atol=1e-3)
    spread = results[:, 0, 1, 0] - results[:, 0, 0, 0]
    assert 20 <= spread.min() < 26
    assert 54 < spread.max() <= 60


def test_hue_and_saturation_keep_brightness():
    image = np.tile(np.float32([[[140, 100, 90]]]), (2, 2, 1))
    luma = np.array([0.299, 0.587, 0.114])
    results = np.array(measured(Augmentation(flip=0.0, saturation=0.5, hue=0.5), image))[:, 0, 0]
    np.testing.assert_allclose(results @ luma, image[0, 0] @ luma, atol=1e-3)
    assert np.ptp(results[:, 0] - results[:, 2]) > 40


def test_noise_has_the_asked_strength():
    image = np.full((32, 32, 1), 128.0, np.float32)
    deviations = np.array([r.std() for r in measured(Augmentation(flip=0.0, noise=10.0), image)])
    assert deviations.min() < 1.5
    assert 8.5 < deviations.max() < 10.8


def test_flip_scale_and_rotation_fill_their_ranges():
    augmentation = Augmentation(flip=0.5, scale=(0.5, 2.0), rotate=30.0, crop=False)
    flips, scales, angles = [], [], []
    for i in range(80):
        a, b, _, c, d, _ = fitted_matrix(augmentation, (40, 60), (40, 60), (2, i)).ravel()
        determinant = a * d - b * c
        flips.append(determinant < 0)
        scales.append(np.sqrt(abs(determinant)))
        angles.append(np.degrees(np.arctan2(-b, d)))
    assert 0.3 < np.mean(flips) < 0.7
    assert 0.49 < min(scales) < 0.57
    assert 1.75 < max(scales) < 2.02
    assert 0.3 < np.mean(np.array(scales) < 1) < 0.7
    assert -30.01 < min(angles) < -25
    assert 25 < max(angles) < 30.01


def test_options_do_not_disturb_each_other():
    image = np.random.default_rng(0).integers(0, 256, (30, 30, 3)).astype(np.uint8)
    example = seeded({"image": image, "mask": np.arange(900, dtype=np.int32).reshape(30, 30)}, 3, 4)
    plain = Augmentation(rotate=20.0)
    coloured = dataclasses.replace(plain, brightness=0.3, hue=0.2, noise=5.0)
    np.testing.assert_array_equal(*(augment(example, a, (30, 30))["mask"] for a in (plain, coloured)))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"flip": 1.5}, "flip"),
        ({"scale": (2.0, 1.0)}, "scale"),
        ({"scale": 2.0}, "scale"),
        ({"rotate": -1.0}, "rotate"),
        ({"elastic_grid": 1}, "elastic_grid"),
        ({"hue": 0.7}, "hue"),
        ({"fill": "edge"}, "fill"),
        ({"keypoint_flip": (0, 2)}, "keypoint_flip"),
    ],
)
def test_wrong_options_are_named(options, name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        Augmentation(**options)


def test_wrong_examples_are_named():
    image = np.zeros((32, 32, 4), np.uint8)
    with pytest.raises(ValueError, match=r"example\['seed'\]"):
        augment({"image": image}, Augmentation(), (32, 32))
    with pytest.raises(ValueError, match=r"at most 3\.2 pixels"):
        augment(seeded({"image": image}, 0, 0), Augmentation(elastic=10.0), (32, 32))
    with pytest.raises(ValueError, match="4 channels"):
        augment(seeded({"image": image}, 0, 0), Augmentation(hue=0.1), (32, 32))
    with pytest.raises(ValueError, match="output_size"):
        augment({"image": image}, Augmentation.none(), (0, 32))


def test_lists_from_json_are_accepted():
    assert hash(Augmentation(scale=[0.5, 1.0])) == hash(Augmentation(scale=(0.5, 1.0)))


def test_pictures_that_are_not_warped_keep_their_pixels():
    """With `warp=0` an example is only flipped, turned by quarters and cropped: no pixel is resampled."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (24, 24, 1), dtype=np.uint8)
    plan = Augmentation(
        flip_vertical=0.5, quarter_turns=True, scale=(0.5, 2.0), rotate=45.0, elastic=1.0, warp=0.0, resize=False
    )
    turned = [np.rot90(picture, k) for picture in (image, image[:, ::-1]) for k in range(4)]
    windows = np.concatenate(
        [np.lib.stride_tricks.sliding_window_view(t[..., 0], (16, 16)).reshape(-1, 16, 16) for t in turned]
    )
    seen = set()
    for k in range(12):
        example = {"image": image, "mask": image[..., 0].astype("int32"), "seed": np.int32([k, 7])}
        out = augment(example, plan, (16, 16))
        found = np.flatnonzero((windows == out["image"].numpy()[..., 0]).all(axis=(1, 2)))
        assert len(found) >= 1
        np.testing.assert_array_equal(out["mask"], out["image"][..., 0])
        seen.add(int(found[0]) // (len(windows) // 8))
    assert len(seen) >= 4


def test_a_share_that_is_scaled_is_random():
    plan = Augmentation(flip=0.0, crop=False, scale=(2.0, 2.0), warp=0.5)
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 1), dtype=np.uint8)
    with pytest.raises(ValueError, match="seed: expected"):
        augment({"image": image}, plan, (8, 8))
    seen = {
        augment({"image": image, "seed": np.int32([k, 0])}, plan, (8, 8))["image"].numpy().tobytes() for k in range(9)
    }
    assert len(seen) == 2
    for warp in (0.0, 1.0):
        assert not Augmentation(flip=0.0, crop=False, scale=(2.0, 2.0), warp=warp).random


def test_the_warped_share_is_as_asked():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 1), dtype=np.uint8)
    plan = Augmentation(flip=0.0, rotate=45.0, warp=0.3)
    seeds = tf.data.Dataset.from_tensor_slices(np.int32([[k, 0] for k in range(200)]))
    moved = seeds.map(lambda seed: augment({"image": image, "seed": seed}, plan, (16, 16))["image"])
    same = sum(int((each == image).all()) for each in moved.as_numpy_iterator())
    # 140 expected, standard deviation 6.5.
    assert 115 <= same <= 165
