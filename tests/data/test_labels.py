import re

import numpy as np
import pytest
from PIL import Image

from keras_cv_lectures.data import (
    CAMVID_LABELS,
    VOC_CLASSES,
    VOC_LABELS,
    LabelMap,
    default_colors,
    infer_label_map,
    read_label_file,
    read_mask,
)
from keras_cv_lectures.errors import DataError

BLACK, WHITE, RED, GREEN = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0)


def label_map(values, ignore=(255,)):
    count = max(values.values()) + 1
    return LabelMap(
        classes=tuple(f"c{i}" for i in range(count)),
        colors=default_colors(count),
        values=values,
        ignore=frozenset(ignore),
    )


def test_integers_are_looked_up_and_ignored_ones_become_255():
    labels = label_map({7: 0, 300: 1, 9: 0}, ignore=(255, 4))
    encoded = labels.encode(np.array([[7, 300], [4, 9]], np.uint16), "m.png")
    assert encoded.dtype == np.int32
    np.testing.assert_array_equal(encoded, [[0, 1], [255, 0]])


def test_unknown_integers_are_named_counted_and_repaired():
    raw = np.array([[0, 12, 12], [12, 31, 1]], np.uint8)
    with pytest.raises(DataError) as caught:
        label_map({i: i for i in range(12)}).encode(raw, "folder/m.png")
    message = str(caught.value)
    assert message.startswith("folder/m.png holds mask values outside the label map: 12 (3 pixels), 31 (1 pixels);")
    assert "the map knows 0..11." in message
    assert "`12 NAME`, or `ignore 12`" in message
    for raw in ([[-1]], [[70000]], [[2**31 - 1]]):
        with pytest.raises(DataError, match=re.escape(str(raw[0][0]))):
            label_map({0: 0}).encode(np.array(raw, np.int32), "m.png")
    with pytest.raises(DataError, match=r"m\.jpg .*JPEG changes label values: save masks as PNG"):
        label_map({0: 0}).encode(np.array([[3]], np.uint8), "m.jpg")


def test_colours_match_a_loop_over_pixels():
    values = {color: i for i, color in enumerate([(9, 8, 7), RED, BLACK, GREEN, (255, 255, 255)])}
    labels = label_map(values, ignore=[(1, 2, 3)])
    rng = np.random.default_rng(1)
    colors = [*values, (1, 2, 3)]
    picks = rng.integers(0, len(colors), (13, 17))
    raw = np.array(colors, np.uint8)[picks]
    expected = [[255 if p == 5 else p for p in row] for row in picks]
    np.testing.assert_array_equal(labels.encode(raw, "m.png"), expected)
    assert labels.by_color
    raw[0, 0] = (1, 2, 4)
    with pytest.raises(DataError, match=r"1 2 4 \(1 pixels\); the map knows"):
        labels.encode(raw, "m.png")


def test_grey_files_for_colour_maps_and_colour_files_for_integer_maps():
    white = (255, 255, 255)
    np.testing.assert_array_equal(
        label_map({BLACK: 0, white: 1}, ignore=()).encode(np.array([[0, 255]], np.uint8), "m"), [[0, 1]]
    )
    grey_as_rgb = np.repeat(np.array([[0, 1, 255]], np.uint8)[..., None], 3, -1)
    np.testing.assert_array_equal(label_map({0: 0, 1: 1}).encode(grey_as_rgb, "m"), [[0, 1, 255]])
    with pytest.raises(DataError, match=r"m\.png is a coloured mask, but the label map knows integers only"):
        label_map({0: 0, 1: 1}).encode(np.array([[RED]], np.uint8), "m.png")


def test_impossible_maps_are_refused():
    with pytest.raises(DataError, match="1 to 255 classes, not 256"):
        label_map({i: i for i in range(256)})
    with pytest.raises(DataError, match="one color for each class"):
        LabelMap(classes=("a", "b"), colors=(BLACK,), values={0: 0})
    with pytest.raises(DataError, match=r"not \[-3\]"):
        label_map({-3: 0})


def test_text_label_file(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("# my labels\n5 street lamp  10 20 30   # lamps\n\n7 car\n8 car\nignore 9\n")
    labels = read_label_file(path)
    assert labels.classes == ("street lamp", "car")
    assert labels.colors == ((10, 20, 30), default_colors(2)[1])
    np.testing.assert_array_equal(labels.encode(np.array([[5, 7, 8, 9, 255]]), "m"), [[0, 1, 1, 255, 255]])
    np.testing.assert_array_equal(labels.encode(np.array([[[10, 20, 30]]], np.uint8), "m"), [[0]])


def test_255_can_be_a_class(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("0 membrane\n255 cell\n")
    np.testing.assert_array_equal(read_label_file(path).encode(np.array([[255, 0]]), "m"), [[1, 0]])


def test_colour_label_files(tmp_path):
    text, table = tmp_path / "label_colors.txt", tmp_path / "class_dict.csv"
    text.write_text("64 128 64\tAnimal\n192 0 128\tArch\nignore 0 0 0\n0 0 1 #000001\n")
    table.write_text("name,r,g,b\nAnimal,64,128,64\nArch, 192, 0, 128\nignore,0,0,0\n#000001,0,0,1\n")
    raw = np.array([[(192, 0, 128), (64, 128, 64), BLACK, (0, 0, 1)]], np.uint8)
    for path in (text, table):
        labels = read_label_file(path)
        assert labels.classes == ("Animal", "Arch", "#000001")
        assert labels.by_color
        np.testing.assert_array_equal(labels.encode(raw, "m"), [[1, 0, 255, 2]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 a\nnonsense\n", "line 2: 'nonsense' is not `VALUE NAME"),
        ("0 a\n0 b\n", "line 2: '0 b': 0 has another name already"),
        ("300 0 0 red\n", "colours lie in 0..255"),
        ("", "names no class"),
        ("name,r,g,b\nfoo,1,2\n", "does not fit the header name,r,g,b"),
    ],
)
def test_faulty_label_files(tmp_path, text, message):
    path = tmp_path / "labels.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=re.escape(message)):
        read_label_file(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_label_file(tmp_path / "absent.txt")


def test_colour_map_of_pascal_voc():
    colors = default_colors(256)
    assert colors[:5] == (BLACK, (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128))
    assert colors[20] == (0, 64, 128)
    assert colors[255] == (224, 224, 192)
    assert len(set(colors)) == 256


def test_voc_masks_may_be_indices_or_colours():
    np.testing.assert_array_equal(VOC_LABELS.encode(np.array([[0, 20, 255]], np.uint8), "m"), [[0, 20, 255]])
    raw = np.array([[BLACK, (0, 64, 128), (224, 224, 192)]], np.uint8)
    np.testing.assert_array_equal(VOC_LABELS.encode(raw, "m"), [[0, 20, 255]])
    np.testing.assert_array_equal(CAMVID_LABELS.encode(np.array([[10, 11]], np.uint8), "m"), [[10, 255]])


@pytest.fixture
def masks(tmp_path):
    def write(*arrays):
        paths = [tmp_path / f"{i}.png" for i in range(len(arrays))]
        for path, array in zip(paths, arrays, strict=True):
            Image.fromarray(np.array(array, np.uint8)).save(path)
        return paths

    return write


@pytest.mark.parametrize("foreground", [1, 255])
def test_two_values_are_background_and_foreground(masks, foreground):
    paths = masks([[0, 0]], [[foreground, 0]])
    labels = infer_label_map(paths)
    assert labels.classes == ("background", "foreground")
    np.testing.assert_array_equal(labels.encode(read_mask(paths[1]), paths[1]), [[1, 0]])
    assert f"0 and {foreground}" in labels.note
    assert "labels=FILE" in labels.note


def test_integers_are_class_ids_and_255_is_ignored(masks):
    paths = masks([[0, 1]], [[3, 255]])
    labels = infer_label_map(paths)
    assert labels.classes == ("class 0", "class 1", "class 2", "class 3")
    np.testing.assert_array_equal(labels.encode(read_mask(paths[1]), paths[1]), [[3, 255]])


def test_grey_saved_as_rgb_counts_as_grey(masks):
    assert infer_label_map(masks([[[0] * 3, [255] * 3]])).classes == ("background", "foreground")


def test_colours_are_voc_or_numbered_in_order(masks):
    labels = infer_label_map(masks([[BLACK, (128, 0, 0)]], [[(224, 224, 192), BLACK]]))
    assert labels.classes == VOC_CLASSES
    paths = masks([[(200, 0, 0), (1, 2, 3)]], [[BLACK, BLACK]])
    labels = infer_label_map(paths)
    assert labels.classes == ("#000000", "#010203", "#c80000")
    assert labels.colors == (BLACK, (1, 2, 3), (200, 0, 0))
    np.testing.assert_array_equal(labels.encode(read_mask(paths[0]), "m"), [[2, 1]])
    np.testing.assert_array_equal(labels.encode(read_mask(paths[1]), "m"), [[0, 0]])
    assert "#010203" in labels.note


@pytest.mark.parametrize(
    ("tile", "classes", "ids"),
    [
        ([WHITE, WHITE], ("#00ff00", "#ff0000", "#ffffff"), [2, 2]),
        ([WHITE, BLACK], ("#000000", "#00ff00", "#ff0000", "#ffffff"), [3, 0]),
        ([(90, 90, 90), (9, 9, 9)], ("#00ff00", "#090909", "#5a5a5a", "#ff0000"), [2, 1]),
    ],
)
def test_a_grey_tile_among_coloured_ones_is_coloured(masks, tile, classes, ids):
    paths = masks([[RED, GREEN]], [tile])
    for labels in (infer_label_map(paths), infer_label_map(paths[1:], classes=classes)):
        assert labels.classes == classes
        assert labels.ignore == frozenset()
        np.testing.assert_array_equal(labels.encode(read_mask(paths[1], colors=labels.by_color), paths[1]), [ids])
    car = infer_label_map(masks([[(128, 0, 0), BLACK]], [[(128, 128, 128), BLACK]]))
    assert car.classes == VOC_CLASSES


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (([range(0, 200)],), "200 different values .*look like pictures"),
        (([[0, 85, 170]],), "hold the values 0, 85, 170 .*labels=FILE"),
        (([[0, 1]], [[0, 255]]), "some masks mark the foreground with 1"),
        (([[RED, GREEN]], [[0, 4]]), "0.png is a coloured mask but .*1.png is a grey one"),
        (([[WHITE]], [[RED, GREEN]], [[255]]), "1.png is a coloured mask but .*2.png is a grey one"),
        (([[(i, 0, 1) for i in range(70)]],), "70 different colours .*look like pictures"),
        ((), "no mask"),
    ],
)
def test_values_that_cannot_be_guessed(masks, arrays, message):
    with pytest.raises(DataError, match=message):
        infer_label_map(masks(*arrays))


def test_large_sets_are_sampled_from_first_to_last(masks):
    paths = masks([[0, 1]], [[2, 9]], [[0, 4]])
    assert len(infer_label_map(paths, sample=2).classes) == 5
    assert len(infer_label_map(paths).classes) == 10


def test_validation_masks_take_the_classes_of_the_training_masks(masks):
    train = infer_label_map(masks([[0, 1, 2]]))
    val_paths = masks([[0, 1]])
    assert infer_label_map(val_paths).classes != train.classes
    assert infer_label_map(val_paths, classes=train.classes).classes == train.classes

    train = infer_label_map(masks([[RED, (9, 9, 8), GREEN]]))
    val_paths = masks([[RED, (9, 9, 8)]])
    labels = infer_label_map(val_paths, classes=train.classes)
    assert labels.classes == train.classes
    np.testing.assert_array_equal(labels.encode(read_mask(val_paths[0]), "m"), [[2, 1]])

    with pytest.raises(DataError, match="which mask values stand for the classes cell, membrane"):
        infer_label_map(val_paths, classes=("cell", "membrane"))
    with pytest.raises(DataError, match="do not hold the two values"):
        infer_label_map(masks([[0, 1, 2]]), classes=("background", "foreground"))
