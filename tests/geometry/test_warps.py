"""Warps: hand-worked numbers, a NumPy reference, and the recorded outputs of other libraries."""

import math

import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures import geometry


def centres(height, width):
    rows, columns = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    return np.float32(columns), np.float32(rows)


def test_compose_applies_the_first_matrix_first():
    matrix = geometry.compose(geometry.scaling(2.0, 3.0), geometry.translation(10.0, 20.0))
    np.testing.assert_array_equal(geometry.transform_points(tf.constant([[1.0, 1.0]]), matrix), [[12.0, 23.0]])


def test_rotation_is_clockwise_on_the_screen():
    turned = geometry.transform_points(tf.constant([[1.0, 0.0]]), geometry.rotation(math.pi / 2))
    np.testing.assert_allclose(turned, [[0.0, 1.0]], atol=1e-6)
    about = geometry.about(geometry.rotation(math.pi), 3.0, 4.0)
    np.testing.assert_allclose(geometry.transform_points(tf.constant([[0.0, 0.0]]), about), [[6.0, 8.0]], atol=1e-5)


def test_inverse_undoes_any_affine_matrix():
    matrix = geometry.compose(geometry.scaling(-1.5, 0.5), geometry.rotation(0.7), geometry.translation(9.0, -4.0))
    np.testing.assert_allclose(tf.matmul(geometry.inverse(matrix), matrix), np.eye(3), atol=1e-6)


def test_boxes_follow_a_flip_exactly_and_none_stay_none():
    flip = geometry.compose(geometry.scaling(-1.0, 1.0), geometry.translation(10.0, 0.0))
    boxes = tf.constant([[1.0, 2.0, 4.0, 8.0]])
    np.testing.assert_array_equal(geometry.transform_boxes(boxes, flip), [[6.0, 2.0, 9.0, 8.0]])
    assert geometry.transform_boxes(tf.zeros([0, 4]), flip).shape == (0, 4)


def test_box_outlines_go_around_once():
    points = geometry.box_outlines(tf.constant([[0.0, 0.0, 4.0, 2.0]]), 2)
    np.testing.assert_array_equal(points[0], [[0, 0], [2, 0], [4, 0], [4, 1], [4, 2], [2, 2], [0, 2], [0, 1]])
    np.testing.assert_array_equal(geometry.boxes_around(points), [[0, 0, 4, 2]])


def test_identity_sampling_returns_the_picture():
    image = np.arange(3 * 4 * 2, dtype=np.float32).reshape(3, 4, 2)
    x, y = geometry.sampling_grid(tf.eye(3), (3, 4))
    np.testing.assert_array_equal(geometry.sample_bilinear(image, x, y), image)
    np.testing.assert_array_equal(geometry.sample_nearest(image[..., 0], x, y), image[..., 0])


def test_reflect_mirrors_with_the_border_pixel_repeated_any_number_of_times():
    row = np.array([[10, 20, 30]], np.int32)
    x = tf.constant([np.arange(-7, 10) + 0.5], tf.float32)
    y = tf.fill(x.shape, 0.5)
    expected = np.pad(row[0], (7, 7), mode="symmetric")[None]
    np.testing.assert_array_equal(geometry.sample_nearest(row, x, y), expected)
    np.testing.assert_array_equal(geometry.sample_bilinear(row[..., None], x, y)[..., 0], expected)


def test_constant_border_fills_by_channel_and_does_not_blend():
    image = np.full((2, 2, 2), 100, np.uint8)
    x, y = tf.constant([[-0.1, 0.1, 1.9, 2.1]]), tf.fill([1, 4], 1.0)
    values = geometry.sample_bilinear(image, x, y, border="constant", fill=tf.constant([1.0, 2.0]))
    np.testing.assert_array_equal(values[0], [[1, 2], [100, 100], [100, 100], [1, 2]])
    labels = geometry.sample_nearest(np.ones((2, 2), np.int32), x, y, border="constant", fill=255)
    np.testing.assert_array_equal(labels, [[255, 1, 1, 255]])
    assert labels.dtype == tf.int32


def test_one_pixel_pictures_can_be_sampled():
    x, y = tf.constant([[-3.0, 0.5, 7.0]]), tf.constant([[0.2, 0.5, -9.0]])
    np.testing.assert_array_equal(geometry.sample_bilinear(np.full((1, 1, 1), 7.0), x, y)[..., 0], [[7, 7, 7]])
    np.testing.assert_array_equal(geometry.sample_nearest(np.full((1, 1), 7), x, y), [[7, 7, 7]])


def test_halving_takes_the_lower_right_pixel_whichever_way_rounding_falls():
    labels = np.arange(36).reshape(6, 6)
    for noise in (-2e-6, 0.0, 2e-6):  # four steps of float32 at the lower right
        x, y = (2 * c + np.float32(noise) for c in centres(3, 3))
        np.testing.assert_array_equal(geometry.sample_nearest(labels, x, y), labels[1::2, 1::2])


def test_instance_masks_are_sampled_along_the_last_two_axes():
    masks = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    x, y = geometry.sampling_grid(tf.eye(3), (3, 4))
    np.testing.assert_array_equal(geometry.sample_nearest(masks, x, y), masks)
    assert geometry.sample_nearest(masks[:0], x, y).shape == (0, 3, 4)


def keys_cubic(nodes, position):
    """Keys' formula, written out for one position, with the grid continued in a straight line."""
    values = np.concatenate([[2 * nodes[0] - nodes[1]], nodes, [2 * nodes[-1] - nodes[-2]]])
    i = min(int(position), len(nodes) - 2)
    p0, p1, p2, p3 = values[i : i + 4]
    t = position - i
    return p1 + 0.5 * t * (p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0)))


@pytest.mark.parametrize("nodes", [2, 3, 5])
def test_displacement_is_bicubic(nodes):
    rng = np.random.default_rng(nodes)
    coarse = rng.normal(size=(nodes, nodes, 2)).astype(np.float32)
    size = (30, 40)
    points = np.float32(rng.uniform(0, 1, (20, 2)) * (size[1], size[0]))
    expected = []
    for x, y in points:
        column, row = x / size[1] * (nodes - 1), y / size[0] * (nodes - 1)
        expected.append([keys_cubic([keys_cubic(r[:, k], column) for r in coarse], row) for k in range(2)])
    np.testing.assert_allclose(geometry.displacement(coarse, points, size), expected, atol=1e-5)


def test_displacement_meets_its_nodes_and_keeps_straight_lines():
    coarse = np.zeros((3, 3, 2), np.float32)
    coarse[1, 2] = (5.0, -3.0)  # middle row, right border
    np.testing.assert_allclose(geometry.displacement(coarse, tf.constant([[8.0, 3.0]]), (6, 8)), [[5.0, -3.0]])
    coarse[..., 0], coarse[..., 1] = np.linspace(-4, 4, 3)[None, :], 1.0
    dx, dy = geometry.dense_displacement(tf.constant(coarse), (6, 8))
    np.testing.assert_allclose(dx, np.broadcast_to(np.arange(8) + 0.5 - 4, (6, 8)), atol=1e-5)
    np.testing.assert_allclose(dy, np.ones((6, 8)), atol=1e-6)


def test_dense_displacement_equals_the_field_at_the_pixel_centres():
    coarse = tf.constant(np.random.default_rng(1).normal(size=(4, 4, 2)), tf.float32)
    x, y = centres(7, 9)
    dense = tf.stack(geometry.dense_displacement(coarse, (7, 9)), axis=-1)
    np.testing.assert_allclose(dense, geometry.displacement(coarse, np.stack([x, y], -1), (7, 9)), atol=1e-5)


def test_undo_displacement_is_the_inverse_map():
    rng = np.random.default_rng(2)
    size = (180, 240)
    coarse = tf.constant(rng.normal(0, 10, (3, 3, 2)), tf.float32)
    points = np.float32(rng.uniform(0, 1, (200, 2)) * (size[1], size[0]))
    there = points + geometry.displacement(coarse, points, size)
    np.testing.assert_allclose(geometry.undo_displacement(coarse, there, size), points, atol=1e-3)


def test_a_known_displacement_moves_a_known_pixel():
    picture = np.zeros((9, 9), np.int32)
    picture[4, 6] = 1
    coarse = np.zeros((3, 3, 2), np.float32)
    coarse[..., 0] = 2.0  # every output pixel looks two pixels to its right
    x, y = geometry.sampling_grid(tf.eye(3), (9, 9), tf.constant(coarse))
    np.testing.assert_array_equal(np.argwhere(geometry.sample_nearest(picture, x, y).numpy()), [[4, 4]])


def test_sampling_grid_displaces_before_the_matrix():
    coarse = tf.constant(np.random.default_rng(3).normal(0, 2, (3, 3, 2)), tf.float32)
    matrix = geometry.compose(geometry.scaling(2.0, 0.5), geometry.rotation(0.4), geometry.translation(3.0, 1.0))
    points = np.stack(centres(8, 10), -1)
    expected = geometry.transform_points(points + geometry.displacement(coarse, points, (8, 10)), matrix)
    np.testing.assert_allclose(tf.stack(geometry.sampling_grid(matrix, (8, 10), coarse), -1), expected, atol=1e-4)


def test_the_nearest_pixel_close_to_a_border_and_of_no_place():
    row = np.arange(13, dtype=np.int32)[None]
    x = np.float32([[3.0 - 5e-4, 3.0 - 1e-6, 3.0, 3.5, np.nan, np.inf]])
    # Only roundings of float32 before the border belong to the pixel behind it.
    found = geometry.sample_nearest(row, x, np.full_like(x, 0.5)).numpy()
    np.testing.assert_array_equal(found, [[2, 3, 3, 3, 0, 0]])
    np.testing.assert_array_equal(
        geometry.sample_nearest(row, x, np.full_like(x, 0.5), border="constant", fill=-1).numpy()[0, 4:], [-1, -1]
    )


@pytest.mark.golden
def test_sampling_equals_torch_grid_sample(golden):
    arrays, _ = golden("op_grid_sample")
    images = arrays["in/x"].transpose(0, 2, 3, 1)
    size = images.shape[1:3]
    # grid_sample without aligned corners: -1 and 1 are the picture's borders.
    grid = (arrays["in/grid"] + 1) / 2 * np.float32([size[1], size[0]])
    for i, image in enumerate(images):
        x, y = tf.constant(grid[i, ..., 0]), tf.constant(grid[i, ..., 1])
        bilinear = arrays["out/bilinear_reflection_ac0"][i].transpose(1, 2, 0)
        np.testing.assert_allclose(geometry.sample_bilinear(image, x, y), bilinear, atol=1e-4)
        nearest = geometry.sample_nearest(image.transpose(2, 0, 1), x, y)
        np.testing.assert_array_equal(nearest, arrays["out/nearest_reflection_ac0"][i])


@pytest.mark.golden
def test_sampling_grid_equals_torch_affine_grid(golden):
    arrays, _ = golden("op_grid_sample")
    for theta, expected in zip(arrays["in/theta"], arrays["out/affine_ac0"], strict=True):
        height, width = expected.shape[:2]
        to_unit = geometry.compose(geometry.scaling(2 / width, 2 / height), geometry.translation(-1.0, -1.0))
        matrix = geometry.compose(to_unit, tf.constant(np.vstack([theta, [0, 0, 1]]), tf.float32))
        grid = tf.stack(geometry.sampling_grid(matrix, (height, width)), axis=-1)
        np.testing.assert_allclose(grid, expected, atol=1e-5)


@pytest.mark.golden
def test_sample_bilinear_equals_interpolate_bilinear(golden):
    arrays, _ = golden("tfa_interpolate_bilinear")
    for image, points, expected in zip(arrays["in/grid"], arrays["in/points"], arrays["out/values"], strict=True):
        x, y = tf.constant(points[None, :, 1] + 0.5), tf.constant(points[None, :, 0] + 0.5)
        np.testing.assert_allclose(geometry.sample_bilinear(image, x, y)[0], expected, atol=1e-5)
