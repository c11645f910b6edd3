"""Pictures of objects: pixels by hand, every form of masks, and what may be in each other's way."""

import numpy as np
import pytest

from keras_cv_lectures.errors import DataError
from keras_cv_lectures.geometry.masks import pack_masks
from keras_cv_lectures.visualize.objects import distinct_colors, draw_objects, object_comparison

RED, GREEN, BLUE = (200, 0, 0), (0, 100, 0), (0, 0, 50)
COLORS = [RED, GREEN, BLUE]
PLAIN = {"tags": False, "enlarge": False}


def grey(height=40, width=60):
    return np.full((height, width, 3), 100, np.uint8)


def changed(picture, ground=100):
    return (picture != ground).any(axis=-1)


def test_a_box_covers_the_pixels_from_its_first_to_its_last_edge():
    picture = draw_objects(grey(), [[10, 5, 20, 12]], [1], colors=COLORS, **PLAIN)
    assert picture.shape == (40, 60, 3)
    assert picture.dtype == np.uint8
    rows, columns = np.nonzero((picture == GREEN).all(-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 11, 10, 19)
    # The line is two pixels wide; inside of it the picture stays.
    assert not changed(picture[7:10, 12:18]).any()
    assert changed(picture).sum() == 7 * 10 - 3 * 6


def test_masks_are_mixed_and_rimmed_in_every_form():
    dense = np.zeros((2, 40, 60), np.uint8)
    dense[0, 4:20, 6:30] = 1
    dense[1, 25:38, 40:60] = 1
    boxes = np.array([[6, 4, 30, 20], [40, 25, 60, 38]])
    forms = [dense, dense * 0.9, dense.astype(bool), pack_masks(dense)]
    pictures = [draw_objects(grey(), boxes, [0, 1], masks=m, colors=COLORS, alpha=0.5, **PLAIN) for m in forms]
    assert all((picture == pictures[0]).all() for picture in pictures)
    assert pictures[0][10, 15].tolist() == [150, 50, 50]
    assert pictures[0][30, 50].tolist() == [50, 100, 50]
    assert pictures[0][4, 15].tolist() == list(RED)
    assert pictures[0][22, 35].tolist() == [100, 100, 100]
    faint = draw_objects(grey(), boxes, [0, 1], masks=dense * 0.4, colors=COLORS, **PLAIN)
    assert faint[10, 15].tolist() == [100, 100, 100]


def test_windows_beyond_the_picture_are_cut():
    pixels, windows = np.ones(400, np.uint8), np.array([[50, 30, 70, 50]])
    picture = draw_objects(grey(), [[50, 30, 70, 50]], masks=(pixels, windows), colors=[RED], alpha=1.0, **PLAIN)
    assert (changed(picture)[30:, 50:]).all()
    assert changed(picture).sum() == 100
    outside = np.array([[-30, 0, -10, 20]])
    assert not changed(draw_objects(grey(), outside, masks=(pixels, outside), **PLAIN)).any()


def test_the_smaller_object_is_drawn_over_the_larger():
    boxes = np.array([[20, 10, 30, 20], [10, 5, 50, 35]])
    masks = np.zeros((2, 40, 60), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    picture = draw_objects(grey(), boxes, [0, 1], masks=masks, colors=COLORS, alpha=1.0, **PLAIN)
    assert picture[15, 25].tolist() == list(RED)
    assert picture[30, 25].tolist() == list(GREEN)


def test_padding_and_pictures_without_objects_are_left_as_they_are():
    padded = {"boxes": [[1, 1, 9, 9], [0, 0, 0, 0]], "labels": [-1, -1], "scores": [0.5, 0.0]}
    assert not changed(draw_objects(grey(), **padded, names=["cell"], enlarge=False)).any()
    empty = {"labels": [], "scores": [], "masks": np.zeros((0, 40, 60)), "keypoints": np.zeros((0, 5, 3))}
    assert not changed(draw_objects(grey(), np.zeros((0, 4)), **empty, names=["cell"], enlarge=False)).any()
    compact = (np.zeros(0, np.uint8), np.zeros((0, 4), np.int32))
    assert not changed(draw_objects(grey(), [], masks=compact, enlarge=False)).any()


def test_small_pictures_are_enlarged_and_the_input_stays():
    image = grey(20, 30)
    picture = draw_objects(image, [[3, 2, 9, 8]], tags=False, colors=[RED])
    assert picture.shape == (160, 240, 3)  # 8 times is the most
    rows, columns = np.nonzero(changed(picture))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (16, 63, 24, 71)
    assert draw_objects(grey(100, 80), []).shape == (400, 320, 3)
    assert draw_objects(grey(320, 10), []).shape == (320, 10, 3)
    assert not changed(image).any()


@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 1)])
def test_grey_and_float_pictures_are_welcome(shape):
    picture = draw_objects(np.full(shape, 100.0), [[10, 5, 20, 12]], colors=[RED], **PLAIN)
    assert (picture == draw_objects(grey(), [[10, 5, 20, 12]], colors=[RED], **PLAIN)).all()


def test_a_tag_stands_above_the_box_or_below_where_there_is_no_room():
    ground = np.full((400, 500, 3), 100, np.uint8)
    for top, rows in ((200, slice(180, 200)), (0, slice(100, 120))):
        boxes = [[100, top, 300, top + 100]]
        bare = draw_objects(ground, boxes, [0], colors=[RED], tags=False)
        picture = draw_objects(ground, boxes, [0], [0.87], names=["cell"], colors=[RED])
        where = np.flatnonzero((picture != bare).any(axis=(1, 2)))
        assert rows.start <= where.min() <= where.max() < rows.stop
        written = (picture[rows, 100:300] == 255).all(-1)
        assert written.any()  # white letters on a dark ground


def test_tags_cover_neither_each_other_nor_objects():
    ground = np.full((400, 500, 3), 100, np.uint8)
    boxes = np.array([[100, 200, 300, 300], [101, 201, 301, 301]])
    settings = {"labels": [0, 1], "names": ["cell", "platelet"], "colors": [RED, GREEN]}
    both = draw_objects(ground, boxes, scores=[0.2, 0.9], **settings)
    # The surer stands at the first place, above at the left; the other at the right.
    assert (both[186:200, 101:103] == GREEN).all()
    assert (both[185:199, 298:300] == RED).all()
    # A small object where the tag would stand pushes it below.
    crowded = draw_objects(ground, [[100, 200, 300, 300], [105, 186, 117, 196], [290, 186, 299, 196]], tags=False)
    tagged = draw_objects(
        ground, [[100, 200, 300, 300], [105, 186, 117, 196], [290, 186, 299, 196]], [0, 1, 1], names=["cell", ""]
    )
    assert changed(tagged, crowded).any()
    assert (changed(tagged[186:196]) == changed(crowded[186:196])).all()
    assert changed(tagged[302:310]).any()


@pytest.mark.parametrize("size", [(8, 8), (30, 2000), (2500, 40), (1500, 2000)])
def test_any_size_and_any_name(size):
    image = np.full((*size, 3), 100, np.uint8)
    boxes = np.array([[0, 0, size[1], size[0]], [-5, -5, 3, 3], [size[1] - 1, size[0] - 1, 1e9, 1e9], [2, 2, 2, 2]])
    name = "a very long name of a class 漢字\nin two lines $_1$"
    picture = draw_objects(image, boxes, [0, 0, 0, 0], [1, 0.5, 0.2, 0.1], names=[name])
    assert changed(picture).any()


def test_keypoints_and_their_lines():
    points = np.array([[[10, 20, 2], [40, 20, 1], [25, 35, 0]]], float)
    box = [[5, 15, 45, 38]]
    bare = draw_objects(grey(), box, colors=[RED], **PLAIN)
    dots = draw_objects(grey(), box, keypoints=points, colors=[RED], **PLAIN)
    assert dots[20, 10].tolist() == dots[20, 40].tolist() == list(RED)
    assert (dots[30:] == bare[30:]).all()  # the third is not labelled
    assert (dots[:, 20:30] == bare[:, 20:30]).all()
    lines = draw_objects(grey(), box, keypoints=points, colors=[RED], skeleton=[(0, 1), (1, 2)], **PLAIN)
    assert lines[20, 25].tolist() == list(RED)
    assert (lines[30:] == bare[30:]).all()
    surer = draw_objects(grey(), box, keypoints=points, colors=[RED], keypoint_threshold=1.5, **PLAIN)
    assert (surer[:, 30:] == bare[:, 30:]).all()
    people = np.ones((1, 17, 3)) * [[20, 20, 1]]
    people[0, 16] = [40, 30, 1]
    assert draw_objects(grey(), box, keypoints=people, colors=[RED], **PLAIN)[25, 30].tolist() == list(RED)


def test_neighbours_of_one_class_with_masks_differ_in_color():
    masks = np.zeros((2, 40, 60), bool)
    masks[0, 5:20, 5:20] = masks[1, 5:20, 20:35] = True
    boxes = [[5, 5, 20, 20], [20, 5, 35, 20]]
    picture = draw_objects(grey(), boxes, [0, 0], masks=masks, names=["cell"], **PLAIN)
    assert picture[12, 12].tolist() != picture[12, 28].tolist()
    same = draw_objects(grey(), boxes, [0, 0], masks=masks, names=["cell"], color_by="label", **PLAIN)
    assert same[12, 12].tolist() == same[12, 28].tolist()


def test_colors_are_distinct():
    colors = distinct_colors(80).astype(int)
    assert colors.shape == (80, 3)
    assert distinct_colors(0).shape == (0, 3)
    assert len({tuple(c) for c in colors.tolist()}) == 80
    first = colors[:8]
    apart = np.abs(first[:, None] - first[None]).sum(-1)[~np.eye(8, dtype=bool)]
    assert apart.min() > 100


def test_two_pictures_side_by_side():
    truth = {"boxes": [[10, 5, 20, 12]], "labels": [0]}
    prediction = {"boxes": np.zeros((0, 4)), "labels": [], "scores": []}
    picture = object_comparison(grey(320, 320), truth, prediction, names=["cell"], colors=[RED])
    left, right = picture[-320:, :320], picture[-320:, -320:]
    assert (left == draw_objects(grey(320, 320), **truth, names=["cell"], colors=[RED])).all()
    assert not changed(right).any()
    with pytest.raises(DataError, match="two words"):
        object_comparison(grey(), truth, prediction, captions=("truth",))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"boxes": [[1, 2, 3]]}, r"boxes must have shape \(N, 4\), received \(1, 3\)"),
        ({"labels": [0, 1]}, r"labels must have shape \(1\)"),
        ({"labels": [3], "names": ["cell"]}, "label 3 has no name"),
        ({"labels": [3], "colors": COLORS}, "colors has 3 entries, but labels reach 3"),
        ({"colors": [], "color_by": "object"}, "colors has 0 entries, but objects reach 0"),
        ({"masks": np.zeros((1, 28, 28))}, "Paste a detector's masks"),
        ({"masks": (np.ones(3), [[0, 0, 2, 2]])}, "masks: "),
        ({"keypoints": np.zeros((1, 5, 2))}, r"keypoints must have shape \(1, N, 3\)"),
        ({"alpha": 2.0}, "alpha is a share"),
        ({"color_by": "class"}, "color_by must be"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(DataError, match=message):
        draw_objects(grey(), **({"boxes": [[1, 1, 9, 9]]} | arguments))
