"""RoIAlign, RoIPool and pyramids against recorded outputs and gradients of torchvision and Model Garden."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.layers.roi import MultiLevelRoIAlign, RoIAlign, RoIPool, roi_levels

BOTH = pytest.mark.parametrize("implementation", ["sparse", "gather"])


def _by_picture(rows: np.ndarray, batch: int):
    """Boxes (B, R, 4) of rows (picture, x1, y1, x2, y2), and (picture, place) of each row among them."""
    count = np.bincount(rows[:, 0].astype(int), minlength=batch)
    boxes, places, used = np.zeros((batch, count.max(), 4), "float32"), [], [0] * batch
    for picture, *box in rows:
        picture = int(picture)
        boxes[picture, used[picture]] = box
        places.append((picture, used[picture]))
        used[picture] += 1
    return boxes, np.array(places)


def _channels_last(x):
    return np.moveaxis(x, 1, -1)


def _check_golden(make, arrays, cfg, pattern: str) -> None:
    x = _channels_last(arrays["in/x"])
    boxes, places = _by_picture(arrays["in/rois"], len(x))
    keys = [key for key in arrays if key.startswith("out/")]
    assert keys
    for key in keys:
        layer = make(*(int(number) for number in re.fullmatch(pattern, key).groups()), cfg["spatial_scale"])
        expected = arrays[key]
        weights = _channels_last(np.linspace(-1, 1, expected.size, dtype="float32").reshape(expected.shape))
        x_ = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(x_)
            found = tf.gather_nd(layer([x_, boxes]), places)
            loss = tf.reduce_sum(found * weights)
        np.testing.assert_allclose(found, _channels_last(expected), rtol=1e-5, atol=1e-5, err_msg=key)
        if key.replace("out", "grad") in arrays:
            expected = _channels_last(arrays[key.replace("out", "grad")])
            found, scale = tape.gradient(loss, x_), np.abs(expected).max()
            np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=1e-5, err_msg=key)


@BOTH
@pytest.mark.golden
def test_torchvision_roi_align(golden, implementation):
    def make(height, width, ratio, aligned, scale):
        return RoIAlign((height, width), scale, ratio, bool(aligned), implementation=implementation)

    _check_golden(make, *golden("op_roi_align"), r"out/s(\d+)x(\d+)_r(\d+)_a(\d+)")


@pytest.mark.golden
def test_torchvision_roi_pool(golden):
    _check_golden(lambda h, w, scale: RoIPool((h, w), scale), *golden("op_roi_pool"), r"out/s(\d+)x(\d+)")


@BOTH
@pytest.mark.golden
def test_torchvision_pyramid(golden, implementation):
    arrays, cfg = golden("op_fpn_pool")
    levels = range(cfg["k_min"], cfg["k_max"] + 1)
    maps = {f"p{level}": _channels_last(arrays[f"in/feat{i}"]) for i, level in enumerate(levels)}
    found = np.asarray(roi_levels(arrays["in/squares"], cfg["strides"], 224, cfg["canonical_level"]))
    np.testing.assert_array_equal(found + cfg["k_min"], arrays["out/level_squares"])
    batch = len(maps[f"p{cfg['k_min']}"])
    rows = [np.pad(arrays[f"in/boxes{b}"], [[0, 0], [1, 0]], constant_values=b) for b in range(batch)]
    boxes, places = _by_picture(np.concatenate(rows), batch)
    for key in (key for key in arrays if key.startswith("out/pool")):
        size, canonical = (int(number) for number in re.fullmatch(r"out/pool(\d+)_canon(\d+)", key).groups())
        layer = MultiLevelRoIAlign(size, 2, canonical, cfg["canonical_level"], implementation=implementation)
        found = tf.gather_nd(layer(maps, boxes, image_size=tuple(cfg["image_hw"])), places)
        np.testing.assert_allclose(found, _channels_last(arrays[key]), rtol=1e-5, atol=1e-5, err_msg=key)
        level = f"out/level_canon{canonical}"
        if level in arrays:
            found = tf.gather_nd(roi_levels(boxes, cfg["strides"], canonical, cfg["canonical_level"]), places)
            np.testing.assert_array_equal(found + cfg["k_min"], arrays[level])


@BOTH
@pytest.mark.golden
@pytest.mark.parametrize("name", ["tfm_multilevel_roi_align_7", "tfm_multilevel_roi_align_14"])
def test_model_garden_pyramid(golden, name, implementation):
    arrays, _ = golden(name)
    maps = {key[len("in/") :]: x for key, x in arrays.items() if re.fullmatch(r"in/p\d+", key)}
    first = min(int(key[1:]) for key in maps)
    side = [2**first * size for size in maps[f"p{first}"].shape[1:3]]
    layer = MultiLevelRoIAlign(
        arrays["out/rois"].shape[2], sampling_ratio=1, rule="model_garden", implementation=implementation
    )
    found = layer(maps, arrays["in/boxes"][..., [1, 0, 3, 2]], image_size=tuple(side))
    np.testing.assert_allclose(found, arrays["out/rois"], rtol=1e-5, atol=1e-5)
