"""The generated world: the same everywhere, exact labels, true sentences."""

import pickle
import zlib

import numpy as np
import pytest

from keras_cv_lectures.data.shapes import (
    EMPTY_SHARE,
    KEYPOINT_FLIP,
    KEYPOINT_NAMES,
    MIN_VISIBLE,
    SHAPE_CLASSES,
    SHAPE_COLORS,
    Background,
    Scene,
    Shape,
    draw_example,
    make_scene,
    make_shape,
    render,
    shapes_source,
)
from keras_cv_lectures.errors import DataError

SIZE = (96, 128)
PLAIN = Background.plain((100, 100, 100))


@pytest.fixture(scope="module")
def examples():
    return [draw_example(11, index, SIZE) for index in range(120)]


def rectangle(x1, y1, x2, y2, *, label=1, color="red", rgb=(200.0, 200.0, 200.0)):
    corners = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], np.float64)
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return Shape(label, color, rgb, (corners,), np.array([(x, y), (x, y1), (x2, y), (x, y2), (x1, y)]))


def plain_scene(*shapes):
    return Scene(shapes, PLAIN)


# The same example everywhere.


@pytest.mark.parametrize(
    ("seed", "index", "expected"), [(0, 0, 3355342109), (1, 10, 2040449551), (2**32 - 1, 8, 4026359393)]
)
def test_an_example_is_the_same_on_every_machine(seed, index, expected):
    example = draw_example(seed, index, SIZE)
    checksum = zlib.crc32("\n".join([*example["sentences"], *example["questions"].flat, *example["phrases"]]).encode())
    for key in ("mask", "labels", "boxes", "image"):
        checksum = zlib.crc32(example[key].astype("<i4").tobytes(), checksum)
    assert len(example["labels"]) > 1
    assert checksum == expected


def test_neighbors_in_seed_and_index_differ():
    pictures = [draw_example(s, i, SIZE)["image"].tobytes() for s in range(3) for i in range(3)]
    assert len(set(pictures)) == 9


def test_the_last_bit_of_sine_and_cosine_cannot_matter():
    for shape in make_scene(0, 3, SIZE).shapes + make_scene(0, 4, SIZE).shapes:
        for points in (*shape.contours, shape.points):
            np.testing.assert_array_equal(points * 64, np.rint(points * 64))


# Labels.


def test_dtypes_and_shapes(examples):
    for example in examples:
        n = len(example["labels"])
        expected = {
            "image": ((*SIZE, 3), np.uint8),
            "mask": (SIZE, np.int32),
            "instance_masks": ((n, *SIZE), np.uint8),
            "boxes": ((n, 4), np.float32),
            "labels": ((n,), np.int32),
            "keypoints": ((n, len(KEYPOINT_NAMES), 3), np.float32),
        }
        for key, (shape, dtype) in expected.items():
            assert (example[key].shape, example[key].dtype) == (shape, dtype), key
        assert example["attributes"].shape == (n, 2)
        assert example["phrases"].shape == (n,)
        assert example["captions"].shape == (1,)
        assert example["caption_objects"].shape == (len(example["captions"][0].split()),)
        assert example["caption_objects"].dtype == np.int32
        assert example["sentences"].ndim == 1
        assert len(example["sentences"]) >= 2
        assert example["questions"].shape[1] == 2
        assert isinstance(example["image_id"], str)


def test_the_mask_is_the_union_of_the_instances(examples):
    for example in examples:
        instances, labels = example["instance_masks"], example["labels"]
        union = np.zeros(SIZE, np.int32)
        for instance, label in zip(instances, labels, strict=True):
            assert instance.sum() >= MIN_VISIBLE
            assert not union[instance == 1].any(), "two instances share a pixel"
            union[instance == 1] = label + 1
        np.testing.assert_array_equal(union, example["mask"])
    assert set(np.unique(np.concatenate([e["labels"] for e in examples]))) == set(range(len(SHAPE_CLASSES)))


def test_boxes_are_tight(examples):
    for example in examples:
        for instance, box in zip(example["instance_masks"], example["boxes"], strict=True):
            rows, columns = np.nonzero(instance)
            np.testing.assert_array_equal(box, [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def test_rectangle_by_hand():
    # Columns 2-5 and rows 3-7 have their centres inside: 4 * 5 pixels.
    example = render(plain_scene(rectangle(2, 3, 6, 8)), (16, 20))
    expected = np.zeros((16, 20), np.int32)
    expected[3:8, 2:6] = 2
    np.testing.assert_array_equal(example["mask"], expected)
    np.testing.assert_array_equal(example["boxes"], [[2, 3, 6, 8]])
    np.testing.assert_array_equal(example["image"][..., 0], np.where(expected, 200, 100))
    np.testing.assert_array_equal(
        example["keypoints"][0], [(4, 5.5, 2), (4, 3, 2), (6, 5.5, 2), (4, 8, 2), (2, 5.5, 2)]
    )


def test_half_covered_pixels_are_half_blended():
    # The left and right edges run through the centres of columns 2 and 6: the left one counts, the right one does not.
    example = render(plain_scene(rectangle(2.5, 3, 6.5, 8)), (16, 20))
    np.testing.assert_array_equal(np.nonzero(example["mask"][4])[0], [2, 3, 4, 5])
    np.testing.assert_array_equal(example["image"][4, 1:8, 0], [100, 150, 200, 200, 200, 150, 100])


def test_a_hole_is_background():
    outer, hole = rectangle(2, 2, 10, 10), rectangle(4, 4, 8, 8)
    ring = Shape(5, "red", (200.0, 200.0, 200.0), outer.contours + hole.contours, outer.points)
    example = render(plain_scene(ring), (16, 20))
    assert example["instance_masks"].sum() == 64 - 16
    assert not example["mask"][4:8, 4:8].any()


def test_the_front_shape_hides_the_one_behind():
    behind = rectangle(2, 2, 8, 8, label=1)
    front = rectangle(5, 2, 12, 8, label=0, rgb=(50.0, 50.0, 50.0))
    example = render(plain_scene(behind, front), (16, 20))
    np.testing.assert_array_equal(example["boxes"], [[2, 2, 5, 8], [5, 2, 12, 8]])
    np.testing.assert_array_equal(example["instance_masks"].sum(axis=(1, 2)), [18, 42])
    np.testing.assert_array_equal(example["mask"][4, 1:13], [0, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 0])
    np.testing.assert_array_equal(example["image"][4, 1:13, 0], [100] + [200] * 3 + [50] * 7 + [100])
    # center, top and bottom of the one behind lie on the front's left border, right inside it.
    np.testing.assert_array_equal(example["keypoints"][0, :, 2], [1, 1, 1, 2, 2])
    np.testing.assert_array_equal(example["keypoints"][1, :, 2], [2] * 5)


def test_keypoints_outside_the_picture_are_zero():
    example = render(plain_scene(rectangle(-4, 2, 4, 10)), (16, 20))
    np.testing.assert_array_equal(example["keypoints"][0], [(0, 6, 2), (0, 2, 2), (4, 6, 2), (0, 10, 2), (0, 0, 0)])
    np.testing.assert_array_equal(example["boxes"], [[0, 2, 4, 10]])


def test_a_shape_with_too_few_visible_pixels_is_not_painted():
    # In front of the middle one lies all but a column of 11 pixels; what it would cover belongs to the one behind it.
    assert MIN_VISIBLE == 12
    back, middle = rectangle(2, 2, 12, 13, label=2), rectangle(3, 2, 8, 13, label=1, rgb=(0.0, 0.0, 0.0))
    front = rectangle(4, 2, 8, 13, label=0, rgb=(50.0, 50.0, 50.0))
    example = render(plain_scene(back, middle, front), (16, 20))
    np.testing.assert_array_equal(example["labels"], [2, 0])
    np.testing.assert_array_equal(example["instance_masks"].sum(axis=(1, 2)), [6 * 11, 4 * 11])
    assert (example["image"] >= 50).all(), "the dropped shape left a trace"
    assert len(example["phrases"]) == len(example["keypoints"]) == len(example["attributes"]) == 2
    kept = render(plain_scene(back, rectangle(3, 2, 8, 14, label=1), front), (16, 20))
    np.testing.assert_array_equal(kept["labels"], [2, 1, 0])


def test_every_visibility_occurs(examples):
    keypoints = np.concatenate([example["keypoints"] for example in examples])
    x, y, visibility = np.moveaxis(keypoints, -1, 0)
    share = [np.mean(visibility == v) for v in (0, 1, 2)]
    assert share[0] > 0.02
    assert share[1] > 0.02
    assert share[2] > 0.7
    assert not x[visibility == 0].any()
    assert not y[visibility == 0].any()
    assert (x < SIZE[1]).all()
    assert (y < SIZE[0]).all()


# Pictures.


def test_outlines_are_anti_aliased():
    for label in range(len(SHAPE_CLASSES)):
        shape = make_shape(label, "red", (24.3, 25.1), 18.0, 0.3, rgb=(200.0, 200.0, 200.0))
        example = render(plain_scene(shape), (50, 50))
        share = (example["image"][..., 0] - 100.0) / 100.0
        assert np.unique(share).size > 8
        assert ((share > 0.01) & (share < 0.99)).sum() > 30
        # The even-odd area of nested polygons: the outer one less the hole.
        areas = [abs(_shoelace(contour)) for contour in shape.contours]
        assert share.sum() == pytest.approx(2 * max(areas) - sum(areas), rel=0.01)
        assert example["mask"].astype(bool).sum() == pytest.approx(share.sum(), rel=0.03)


def test_pictures_have_texture_and_noise(examples):
    for example in examples:
        empty = example["mask"] == 0
        image = example["image"].astype(np.float64)
        assert image[empty].std(axis=0).min() > 4
        step = image[:, 1:] - image[:, :-1]
        assert step[empty[:, 1:] & empty[:, :-1]].std() > 2


def test_empty_pictures_occur_at_the_stated_rate():
    count = 1200
    empty = [index for index in range(count) if not make_scene(5, index, SIZE).shapes]
    assert abs(len(empty) - count * EMPTY_SHARE) < 4 * np.sqrt(count * EMPTY_SHARE * (1 - EMPTY_SHARE))
    example = draw_example(5, empty[0], SIZE)
    assert not example["mask"].any()
    assert example["captions"].tolist() == ["an empty picture"]
    assert example["caption_objects"].tolist() == [-1, -1, -1]
    assert "empty" in example["sentences"][0]
    assert ("how many shapes are there?", "0") in {tuple(pair) for pair in example["questions"].tolist()}
    shapes = {key: example[key].shape for key in ("instance_masks", "boxes", "labels", "keypoints", "phrases")}
    assert shapes == {
        "instance_masks": (0, *SIZE),
        "boxes": (0, 4),
        "labels": (0,),
        "keypoints": (0, 5, 3),
        "phrases": (0,),
    }


def test_color_is_independent_of_class():
    shapes = [shape for index in range(700) for shape in make_scene(2, index, SIZE).shapes]
    colors = list(SHAPE_COLORS)
    table = np.zeros((len(SHAPE_CLASSES), len(colors)))
    for shape in shapes:
        table[shape.label, colors.index(shape.color)] += 1
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    assert ((table - expected) ** 2 / expected).sum() < 59.7  # chi-squared, 30 degrees of freedom, 0.1 %
    assert table.sum(axis=1).min() > 0.8 * table.sum() / len(SHAPE_CLASSES)


# Geometry.


@pytest.mark.parametrize("label", range(len(SHAPE_CLASSES)), ids=SHAPE_CLASSES)
def test_a_mirrored_shape_has_its_keypoints_in_the_flipped_order(label):
    shape = make_shape(label, "red", (32.0, 30.0), 20.0)
    mirrored = shape.transformed(np.array([[-1.0, 0.0, 64.0], [0.0, 1.0, 0.0]]))
    np.testing.assert_array_equal(mirrored.points[list(KEYPOINT_FLIP)], shape.points)


@pytest.mark.parametrize("label", range(len(SHAPE_CLASSES)), ids=SHAPE_CLASSES)
def test_keypoints_lie_on_the_outline_and_turn_clockwise(label):
    shape = make_shape(label, "red", (32.0, 30.0), 20.0, rotation=0.5)
    assert shape.center == (32.0, 30.0)
    assert shape.radius == pytest.approx(20.0, abs=0.03)
    assert shape.rotation == pytest.approx(0.5, abs=0.002)
    assert shape.points[1, 0] > 32, "clockwise: the top moves to the right"
    start = shape.contours[0]
    end = np.roll(start, -1, axis=0)
    for point in shape.points[1:]:
        along = ((point - start) * (end - start)).sum(axis=1) / ((end - start) ** 2).sum(axis=1)
        nearest = start + np.clip(along, 0, 1)[:, None] * (end - start)
        assert np.hypot(*(point - nearest).T).min() < 0.03


@pytest.mark.parametrize("index", range(8))
def test_a_translated_scene_gives_translated_labels(index):
    # On a larger canvas, so that nothing is cut and no pixel enters or leaves.
    scene = make_scene(4, index, (64, 80)).transformed(np.array([[1.0, 0.0, 30.0], [0.0, 1.0, 30.0]]))
    moved = scene.transformed(np.array([[1.0, 0.0, 5.0], [0.0, 1.0, 3.0]]))
    before, after = render(scene, (130, 150)), render(moved, (130, 150))
    for key in ("mask", "instance_masks"):
        np.testing.assert_array_equal(after[key], np.roll(before[key], (3, 5), axis=(-2, -1)))
    np.testing.assert_array_equal(after["boxes"], before["boxes"] + [5, 3, 5, 3])
    np.testing.assert_array_equal(after["keypoints"], before["keypoints"] + np.float32([5, 3, 0]))
    np.testing.assert_array_equal(after["labels"], before["labels"])


def test_an_affine_map_moves_points_and_keeps_the_background():
    scene = plain_scene(rectangle(2, 3, 6, 8))
    moved = scene.transformed(np.array([[0.0, -2.0, 20.0], [1.0, 0.0, 1.0]]))  # (x, y) -> (20 - 2y, x + 1)
    np.testing.assert_array_equal(moved.shapes[0].contours[0], [(14, 3), (14, 7), (4, 7), (4, 3)])
    np.testing.assert_array_equal(moved.shapes[0].points[0], [9, 5])
    assert moved.background is scene.background
    np.testing.assert_array_equal(render(moved, (16, 20))["boxes"], [[4, 3, 14, 7]])


# Source.


def test_source():
    source = shapes_source(7, size=(32, 48), seed=3, max_shapes=2)
    assert len(source) == len(set(source.ids)) == 7
    assert source.classes == ("background", *SHAPE_CLASSES)
    assert len(source.colors) == len(source.classes)
    example = source.read(4)
    assert example["image_id"] == source.ids[4]
    assert example["image"].shape == (32, 48, 3)
    assert all(len(e["labels"]) <= 2 for e in source)
    sent = pickle.loads(pickle.dumps(source.read))(4)  # to another process
    for key, value in draw_example(3, 4, (32, 48), 2).items():
        np.testing.assert_array_equal(value, example[key])
        np.testing.assert_array_equal(value, sent[key])
    assert shapes_source(9, size=(32, 48), seed=3).ids[:7] == source.ids


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count"),
        ({"size": (8, 64)}, "size"),
        ({"size": (64, 64, 3)}, "size"),
        ({"seed": -1}, "seed"),
        ({"max_shapes": 0}, "max_shapes"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(DataError, match=message):
        shapes_source(**arguments)


@pytest.mark.parametrize("matrix", [np.eye(3), np.zeros((2, 3)), np.full((2, 3), np.nan)])
def test_wrong_matrices_are_refused(matrix):
    with pytest.raises(DataError, match="matrix"):
        plain_scene(rectangle(2, 3, 6, 8)).transformed(matrix)


def _shoelace(contour):
    x, y = contour.T
    return 0.5 * (x * np.roll(y, -1) - np.roll(x, -1) * y).sum()
