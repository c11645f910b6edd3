"""Compact masks, pasting and mask targets: by hand, a NumPy reference, and the golden files."""

import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.geometry.masks import (
    mask_targets,
    pack_crops,
    pack_masks,
    paste_masks_numpy,
    place_crops,
    rle_decode,
    rle_encode,
    split_masks,
    unpack_masks,
)


def round_masks(size, number, seed):
    """Ellipses (N, H, W) uint8 anywhere, some cut by the border."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    masks = []
    for _ in range(number):
        y, x = rng.uniform(0, size)
        ry, rx = rng.uniform(3, np.array(size) / 3)
        masks.append((((rows - y) / ry) ** 2 + ((columns - x) / rx) ** 2 < 1).astype(np.uint8))
    return np.stack(masks)


def targets_reference(masks, boxes, matched, size):
    """RoIAlign of picture-sized masks, sample by sample, in float64."""
    height, width = masks.shape[1:]
    result = np.zeros((len(boxes), size, size))

    def value(mask, y, x):
        if not (-1 <= y <= height and -1 <= x <= width):
            return 0.0
        y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
        top, left = int(min(y, max(height - 2, 0))), int(min(x, max(width - 2, 0)))
        total = 0.0
        for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
            share = max(0, 1 - abs(y - row)) * max(0, 1 - abs(x - column))
            total += share * mask[row, column] if share else 0.0
        return total

    for index, (x1, y1, x2, y2) in enumerate(boxes):
        bins = np.maximum([y2 - y1, x2 - x1], 1) / size
        counts = np.ceil(bins).astype(int)
        for i, j in np.ndindex(size, size):
            samples = [
                value(
                    masks[matched[index]],
                    y1 + bins[0] * (i + (k + 0.5) / counts[0]),
                    x1 + bins[1] * (j + (m + 0.5) / counts[1]),
                )
                for k, m in np.ndindex(*counts)
            ]
            result[index, i, j] = np.mean(samples)
    return result


def test_compact_by_hand():
    masks = np.zeros((3, 4, 5))
    masks[0, 1, 2:4] = 7
    masks[2, 3, 0] = masks[2, 1, 1] = 1
    pixels, windows = pack_masks(masks)
    assert (pixels.dtype, windows.dtype) == (np.uint8, np.int32)
    assert windows.tolist() == [[2, 1, 4, 2], [0, 0, 0, 0], [0, 1, 2, 4]]
    assert pixels.tolist() == [1, 1, 0, 1, 0, 0, 1, 0]
    np.testing.assert_array_equal(unpack_masks(pixels, windows, (4, 5)), masks != 0)
    np.testing.assert_array_equal(pack_crops(split_masks(pixels, windows)), pixels)
    # Pixels outside of a smaller picture are cut off.
    np.testing.assert_array_equal(unpack_masks(pixels, windows, (2, 3)), (masks != 0)[:, :2, :3])
    moved = unpack_masks(pixels, windows - [0, 2, 0, 2], (4, 5))
    assert moved.sum() == 1
    assert moved[2, 1].tolist() == [1, 0, 0, 0, 0]


def test_no_objects():
    pixels, windows = pack_masks(np.zeros((0, 4, 5)))
    assert (pixels.shape, windows.shape) == ((0,), (0, 4))
    assert unpack_masks(pixels, windows, (4, 5)).shape == (0, 4, 5)
    assert split_masks(pixels, windows) == []
    assert paste_masks_numpy(np.zeros((0, 28, 28)), np.zeros((0, 4)), (4, 5)).shape == (0, 4, 5)
    assert mask_targets(np.zeros((0, 4, 5)), np.zeros((0, 4)), np.zeros((3, 4)), np.zeros(3), 7).shape == (3, 7, 7)
    assert mask_targets(np.zeros((2, 4, 5)), np.zeros((2, 4)), np.zeros((0, 4)), np.zeros(0), 7).shape == (0, 7, 7)


def test_windows_must_cover_the_pixels():
    with pytest.raises(ValueError, match="4 pixels"):
        split_masks(np.zeros(5, np.uint8), [[0, 0, 2, 2]])
    with pytest.raises(ValueError, match="mask_windows"):
        split_masks(np.zeros(4, np.uint8), [[2, 2, 0, 0]])


def test_pasting_by_hand():
    mask = np.array([[[0.0, 1.0]]])  # one row of two cells over the pixels 2 .. 6
    box = [[2, 0, 6, 1]]
    # Pixel centres at cells -1/4, 1/4, 3/4, 5/4: half a cell outside fades to 0.
    exact = paste_masks_numpy(mask, box, (1, 8), "detectron2")
    np.testing.assert_allclose(exact, [[[0, 0, 0, 0.25, 0.75, 0.75, 0.25, 0]]], atol=1e-6)
    assert paste_masks_numpy(mask, box, (1, 8), "detectron2", threshold=0.75).tolist() == [[[0, 0, 0, 0, 1, 1, 0, 0]]]
    # Detectron: one cell of 0 around; a box of 4 x 1 pixels around (4, 0.5) grows by max(4 / 2, 3 / 1) = 3 to
    # (-2, -1, 10, 2): 13 x 4 pixels. Row 0 is the second: (1 + 1/2) 3/4 - 1/2 = 5/8 of the way to the cell.
    ours = paste_masks_numpy(mask, box, (1, 8), "model_garden")
    places = (np.arange(2, 10) + 0.5) * 4 / 13 - 0.5
    np.testing.assert_allclose(ours[0, 0], 0.625 * np.maximum(0, 1 - np.abs(places - 2)), atol=1e-6)
    # torchvision's grows by 4 / 2 of the two columns alone, to (0, -0.5, 8, 1.5): 9 x 2 pixels, a quarter of the way.
    places = (np.arange(8) + 0.5) * 4 / 9 - 0.5
    ours = paste_masks_numpy(mask, box, (1, 8))
    np.testing.assert_allclose(ours[0, 0], 0.25 * np.maximum(0, 1 - np.abs(places - 2)), atol=1e-6)


@pytest.mark.parametrize("rule", ["torchvision", "detectron2", "model_garden"])
def test_crops_are_what_is_pasted(rule):
    rng = np.random.default_rng(0)
    masks = rng.random((40, 14, 14))
    corners = rng.uniform(-20, 50, (40, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.1, 40, (40, 2))], axis=1)
    boxes[:4] = [[0, 0, 0, 0], [5, 5, 4, 9], [np.nan, 0, 5, 5], [-1e30, 0, 1e30, 5]]
    boxes[4] = [200, 200, 220, 220]
    dense = paste_masks_numpy(masks, boxes, (30, 40), rule)
    assert dense.dtype == np.float32
    assert not dense[:5].any()
    crops, windows = paste_masks_numpy(masks, boxes, (30, 40), rule, crops=True)
    assert (windows >= 0).all()
    assert (windows[:, 2:] <= [40, 30]).all()
    np.testing.assert_array_equal(place_crops(crops, windows, (30, 40)), dense)
    binary = paste_masks_numpy(masks, boxes, (30, 40), rule, threshold=0.5)
    np.testing.assert_array_equal(binary, dense > 0.5)
    crops, windows = paste_masks_numpy(masks, boxes, (30, 40), rule, threshold=0.5, crops=True)
    np.testing.assert_array_equal(unpack_masks(pack_crops(crops), windows, (30, 40)), binary)
    for crop, window, mask in zip(crops, windows, binary, strict=True):
        np.testing.assert_array_equal(rle_decode(rle_encode(crop, window, (30, 40))), mask)


def test_300_objects_fit_a_large_picture():
    boxes = np.tile(np.float32([[5000, 4000, 5040, 4060]]), (300, 1))
    crops, windows = paste_masks_numpy(np.ones((300, 28, 28)), boxes, (20000, 30000), crops=True, threshold=0.5)
    assert sum(crop.size for crop in crops) < 300 * 50 * 70
    assert windows[0].tolist() == [4998, 3997, 5042, 4063]


def test_wrong_pasting_is_refused():
    with pytest.raises(ValueError, match="rule must be one of torchvision"):
        paste_masks_numpy(np.zeros((1, 2, 2)), np.zeros((1, 4)), (4, 4), "caffe")
    with pytest.raises(ValueError, match="with the same D"):
        paste_masks_numpy(np.zeros((1, 2, 2, 3)), np.zeros((1, 4)), (4, 4))


def test_targets_by_hand():
    # The box (1, 0, 3, 2) in cells of one pixel: one sample a cell at half pixels, so neighbours are averaged.
    mask = np.zeros((1, 4, 4))
    mask[0, 1, 2] = 1
    target = mask_targets(mask, [[0, 0, 4, 4]], [[1, 0, 3, 2]], [0], 2)
    np.testing.assert_allclose(target, [[[0.25, 0.25], [0.25, 0.25]]])


def test_targets_are_roi_align_of_picture_sized_masks():
    size, cells = (30, 40), 5
    masks = round_masks(size, 4, 0)
    rng = np.random.default_rng(1)
    corners = rng.uniform(-4, 25, (8, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.3, 30, (8, 2))], axis=1).astype(np.float32)
    boxes[0], boxes[1] = [0, 0, 40, 30], [20, 10, 40, 30]  # the borders, where values are repeated
    matched = rng.integers(0, 4, 8)
    expected = targets_reference(masks, boxes, matched, cells)
    whole = np.tile(np.float32([0, 0, size[1], size[0]]), (4, 1))
    np.testing.assert_allclose(mask_targets(masks, whole, boxes, matched, cells), expected, atol=1e-5)
    pixels, windows = pack_masks(masks)
    crops = split_masks(pixels, windows)
    for box, index, target in zip(boxes, matched, expected, strict=True):
        found = mask_targets(crops[index][None], windows[index][None], box[None], [0], cells, image_size=size)
        np.testing.assert_allclose(found[0], target, atol=1e-5)


def test_targets_of_coarse_crops_are_near_those_of_the_picture():
    """Crops of 56 x 56 cells of larger objects, as training batches hold: wrong only along the outline."""
    size = (240, 320)
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    mask = ((rows - 118) / 100) ** 2 + ((columns - 160) / 130) ** 2 < 1
    window = np.float32([[30, 18, 290, 218]])
    y, x = (np.linspace(low, high, 57)[:-1] + (high - low) / 112 for low, high in ((18, 218), (30, 290)))
    crop = mask[y.astype(int)][:, x.astype(int)]
    boxes = np.float32([[30, 18, 290, 218], [5, 5, 200, 140], [100, 100, 310, 235]])
    whole = mask_targets(mask[None], [[0, 0, 320, 240]], boxes, [0, 0, 0])
    coarse = np.asarray(mask_targets(crop[None], window, boxes, [0, 0, 0]))
    assert np.abs(coarse - whole).mean() < 0.01
    # Straight edges of the window stay sharp: a box full to the brim.
    full = np.asarray(mask_targets(np.ones((1, 56, 56)), window, window, [0]))
    np.testing.assert_allclose(full[:, 1:-1, 1:-1], 1.0, atol=1e-6)
    assert full.min() > 0.8


def test_targets_of_batches_equal_those_of_pictures():
    masks = np.stack([round_masks((20, 24), 3, seed) for seed in (0, 1)])
    windows = np.tile(np.float32([[0, 0, 24, 20], [2, 1, 24, 20], [0, 0, 0, 0]]), (2, 1, 1))
    boxes = np.float32([[[1, 2, 15, 17], [0, 0, 24, 20], [3, 3, 9, 9], [3, 3, 9, 9]]] * 2) + np.float32([[[0]], [[1]]])
    matched = np.array([[0, 1, 2, -1], [1, 0, 0, -1]])
    sizes = np.array([[20, 24], [19, 23]])
    together = mask_targets(masks, windows, boxes, matched, 6, image_size=sizes).numpy()
    for index in range(2):
        picture = (masks[index], windows[index], boxes[index], matched[index], 6)
        np.testing.assert_array_equal(mask_targets(*picture, image_size=sizes[index]), together[index])
    assert not together[0, 2:].any()  # a window without extent; no object
    assert together[:, :2].any(axis=(2, 3)).all()
    specs = [tf.TensorSpec(s, t) for s, t in (([None, None, None, None], "uint8"), ([None, None, 4], "float32"))]
    specs += [tf.TensorSpec([None, None, 4]), tf.TensorSpec([None, None], "int64"), tf.TensorSpec([None, 2], "int64")]
    traced = tf.function(lambda m, w, b, i, s: mask_targets(m, w, b, i, 6, image_size=s), input_signature=specs)
    np.testing.assert_allclose(traced(masks, windows, boxes, matched, sizes), together, atol=5e-6)


def test_targets_have_no_gradient():
    boxes = tf.constant([[1.0, 0.0, 3.0, 2.0]])
    with tf.GradientTape() as tape:
        tape.watch(boxes)
        target = mask_targets(np.ones((1, 4, 4)), [[0, 0, 4, 4]], boxes, [0], 2)
    assert tape.gradient(target, boxes) is None


@pytest.mark.parametrize("rule", ["torchvision", "model_garden"])
def test_the_border_of_masks_that_are_not_square(rule):
    """The box is 4 x 4. torchvision grows it by (n + 2) / n of n = 4 columns, 6; Model Garden by that of 1 row, 12."""
    _, windows = paste_masks_numpy(np.ones((1, 1, 4), "f"), np.float32([[10, 10, 14, 14]]), (30, 30), rule, crops=True)
    low, high = (9, 16) if rule == "torchvision" else (6, 19)
    np.testing.assert_array_equal(windows, [[low, low, high, high]])


@pytest.mark.golden
def test_pasting_equals_torchvision(golden):
    arrays, cfg = golden("op_paste_masks")
    ours = paste_masks_numpy(arrays["in/masks"][:, 0], arrays["in/boxes"], cfg["image_hw"])
    np.testing.assert_allclose(ours, arrays["out/masks"][:, 0], atol=2e-6)
    np.testing.assert_array_equal(ours > 0.5, arrays["out/binary"][:, 0])


@pytest.mark.golden
def test_pasting_equals_model_garden(golden):
    arrays, _ = golden("tfm_paste_masks")
    boxes = arrays["in/boxes"]
    boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    size = arrays["out/pasted"].shape[1:]
    ours = paste_masks_numpy(arrays["in/masks"], boxes, size, "model_garden", threshold=0.5)
    np.testing.assert_array_equal(ours, arrays["out/pasted"])


@pytest.mark.golden
def test_targets_equal_torchvision(golden):
    arrays, cfg = golden("op_mask_targets")
    masks, boxes, matched = (arrays[f"in/{name}"] for name in ("gt_masks", "boxes", "matched"))
    whole = np.tile(np.float32([0, 0, masks.shape[2], masks.shape[1]]), (len(masks), 1))
    ours = mask_targets(masks, whole, boxes, matched, cfg["M"])
    np.testing.assert_allclose(ours, arrays["out/targets"], atol=5e-6)
    pixels, windows = pack_masks(masks)
    crops = split_masks(pixels, windows)
    for box, index, target in zip(boxes, matched, arrays["out/targets"], strict=True):
        ours = mask_targets(
            crops[index][None], windows[index][None], box[None], [0], cfg["M"], image_size=masks.shape[1:]
        )
        np.testing.assert_allclose(ours[0], target, atol=5e-6)
