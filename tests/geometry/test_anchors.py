"""Anchors: hand-worked cells and grids, and the recorded outputs of torchvision and Model Garden."""

import re

import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures import geometry


def test_one_cell_rounds_halves_to_even_ratio_by_ratio():
    np.testing.assert_array_equal(
        geometry.cell_anchors(32), [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    )
    np.testing.assert_array_equal(geometry.cell_anchors((33, 35), 1), [[-16, -16, 16, 16], [-18, -18, 18, 18]])
    np.testing.assert_array_equal(geometry.cell_anchors((2, 4), (1, 4))[:, 2:] * 2, [[2, 2], [4, 4], [0, 4], [2, 8]])


def test_a_grid_goes_row_column_anchor():
    cell = np.float32([[-1, -2, 1, 2], [0, 0, 5, 5]])
    anchors = geometry.grid_anchors(cell, (2, 3), (10, 100))
    assert anchors.shape == (12, 4)
    np.testing.assert_array_equal(anchors[:4], [[-1, -2, 1, 2], [0, 0, 5, 5], [99, -2, 101, 2], [100, 0, 105, 5]])
    np.testing.assert_array_equal(anchors[6], [-1, 8, 1, 12])
    np.testing.assert_array_equal(anchors[-1], [200, 10, 205, 15])
    assert geometry.grid_anchors(cell, (0, 3), 16).shape == (0, 4)


def test_a_pyramid_of_unknown_size_equals_that_of_a_known_one():
    @tf.function(input_signature=[tf.TensorSpec([], tf.int32)] * 2)
    def anchors(height, width):
        grids = [(height // 4, width // 4), (height // 8, width // 8)]
        return geometry.pyramid_anchors(grids, (height, width), [8, (16, 20)])

    known = geometry.pyramid_anchors([(8, 12), (4, 6)], (32, 48), [8, (16, 20)])
    assert known.shape == (8 * 12 * 3 + 4 * 6 * 6, 4)
    np.testing.assert_array_equal(anchors(32, 48), known)


def test_the_table_of_2015():
    """MATLAB's published numbers count from 1: all are larger by one."""
    matlab = [
        *([-83, -39, 100, 56], [-175, -87, 192, 104], [-359, -183, 376, 200]),
        *([-55, -55, 72, 72], [-119, -119, 136, 136], [-247, -247, 264, 264]),
        *([-35, -79, 52, 96], [-79, -167, 96, 184], [-167, -343, 184, 360]),
    ]
    np.testing.assert_array_equal(geometry.caffe_anchors() + 1, matlab)
    # Squares of 128, 256 and 512 pixels, the last one counted.
    areas = geometry.box_area(geometry.caffe_anchors(), inclusive=True)
    np.testing.assert_allclose(areas[3:6], [128**2, 256**2, 512**2])


def test_default_boxes_by_hand():
    # One cell on 20 x 40: squares of 0.2 and sqrt(0.2 * 0.8) = 0.4 of the sides, then twice as wide, twice as high.
    boxes = geometry.default_boxes([(1, 1)], (20, 40), [[4]], [0.2, 0.8])
    expected = [[16, 8, 24, 12], [12, 6, 28, 14], [12, 9, 28, 11], [18, 6, 22, 14]]
    np.testing.assert_allclose(boxes, expected, rtol=1e-6)
    wide = geometry.default_boxes([(1, 1)], (20, 40), [[4]], [0.8, 1.0], clip=False)
    np.testing.assert_allclose(wide[2], [20 - 32, 10 - 4, 20 + 32, 10 + 4], rtol=1e-6)
    np.testing.assert_allclose(
        geometry.default_boxes([(1, 1)], (20, 40), [[4]], [0.8, 1.0])[2], [0, 6, 40, 14], rtol=1e-6
    )
    # Cells of 10 pixels that are given, not the picture's side over the grid's.
    stepped = geometry.default_boxes([(2, 3)], (25, 35), [[]], [0.2, 0.8], steps=[10])
    np.testing.assert_allclose((stepped[:, :2] + stepped[:, 2:])[-1] / 2, [25, 15], rtol=1e-6)
    even = geometry.default_boxes([(1, 1)] * 3, (100, 100), [[]] * 3, scale_range=(0.2, 0.8))
    np.testing.assert_allclose(even[::2, 2] - even[::2, 0], [20, 50, 80], rtol=1e-5)


def test_model_garden_stands_on_the_centres():
    level = geometry.model_garden_anchors((16, 24), 3, 3, num_scales=2, ratios=(1.0, 4.0), anchor_size=2)[3]
    assert level.shape == (2 * 3 * 4, 4)
    np.testing.assert_allclose(level[0], [4 - 8, 4 - 8, 4 + 8, 4 + 8])
    np.testing.assert_allclose(level[1], [4 - 16, 4 - 4, 4 + 16, 4 + 4])  # four times as wide as high
    np.testing.assert_allclose(level[2], np.add([4, 4, 4, 4], np.multiply([-8, -8, 8, 8], 2**0.5)), rtol=1e-6)
    np.testing.assert_allclose(level[-4], [20 - 8, 12 - 8, 20 + 8, 12 + 8])


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="positive.*sizes"):
        geometry.cell_anchors((32, 0))
    with pytest.raises(ValueError, match="2 grids, 1 sizes"):
        geometry.pyramid_anchors([(2, 2), (1, 1)], (8, 8), [8])
    with pytest.raises(ValueError, match="one more"):
        geometry.default_boxes([(1, 1)], (8, 8), [[2]], [0.5])
    with pytest.raises(ValueError, match="min_level=4"):
        geometry.model_garden_anchors((8, 8), 4, 3)


@pytest.mark.golden
def test_anchors_equal_torchvision(golden):
    arrays, cfg = golden("op_anchors")
    image, sizes, ratios = cfg["image_hw"], cfg["fpn_sizes"], cfg["aspect_ratios"]
    grids = cfg["fpn_feature_hw"]
    np.testing.assert_array_equal(geometry.pyramid_anchors(grids, image, sizes, ratios), arrays["out/fpn"])
    counts = [h * w * len(ratios) for h, w in grids]
    np.testing.assert_array_equal(counts, arrays["out/fpn_sizes"])
    for i, size in enumerate(sizes):
        np.testing.assert_array_equal(geometry.cell_anchors(size, ratios), arrays[f"out/fpn_cell{i}"])
    c4 = geometry.pyramid_anchors([cfg["c4_feature_hw"]], image, [sizes], [ratios])
    np.testing.assert_array_equal(c4, arrays["out/c4"])
    np.testing.assert_array_equal(geometry.cell_anchors(sizes, ratios), arrays["out/mobilenet320_cell"])
    retina = geometry.pyramid_anchors(cfg["retina_feature_hw"], image, cfg["retina_sizes"], ratios)
    np.testing.assert_array_equal(retina, arrays["out/retina"])
    assert [list(geometry.octave_sizes(level[0])) for level in cfg["retina_sizes"]] == cfg["retina_sizes"]


@pytest.mark.golden
def test_default_boxes_equal_torchvision(golden):
    arrays, cfg = golden("op_anchors")
    ssd = cfg["ssd"]
    grids = [(side, side) for side in ssd["maps"]]
    boxes = geometry.default_boxes(grids, cfg["image_hw"], ssd["aspect_ratios"], ssd["scales"])
    np.testing.assert_allclose(boxes, arrays["out/ssd"], rtol=1e-5, atol=1e-4)


@pytest.mark.golden
def test_anchors_equal_model_garden(golden):
    arrays, cfg = golden("tfm_anchors")
    settings = re.search(
        r"min_level (\d+) max_level (\d+) num_scales (\d+) aspect_ratios ([\d. ]+) anchor_size ([\d.]+), "
        r"picture (\d+)x(\d+)",
        cfg["what"],
    ).groups()
    low, high, scales, height, width = (int(settings[i]) for i in (0, 1, 2, 5, 6))
    ratios = [float(ratio) for ratio in settings[3].split()]
    levels = geometry.model_garden_anchors(
        (height, width), low, high, num_scales=scales, ratios=ratios, anchor_size=float(settings[4])
    )
    assert {f"out/level{level}" for level in levels} == set(arrays)
    for level, anchors in levels.items():
        expected = geometry.convert_boxes(arrays[f"out/level{level}"].reshape(-1, 4), "yxyx", "xyxy")
        np.testing.assert_allclose(anchors, expected, rtol=1e-5, atol=1e-4)
