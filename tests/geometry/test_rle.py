"""Run-length codes and polygons: by hand, there and back, hostile codes, and pycocotools."""

import numpy as np
import pytest

from keras_cv_lectures.errors import DataError
from keras_cv_lectures.geometry.rle import (
    polygons_to_mask,
    rle_area,
    rle_decode,
    rle_encode,
    rle_from_string,
    rle_size,
    rle_to_string,
)


@pytest.fixture(scope="module")
def coco():
    return pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed: pip install pycocotools")


def masks(seed, number):
    """Random masks of every kind: noise of any density, empty, full, rectangles that touch the border."""
    rng = np.random.default_rng(seed)
    for index in range(number):
        height, width = rng.integers(1, 40, 2)
        mask = rng.random((height, width)) < rng.random()
        if index % 4 == 1:
            mask[:] = index % 8 == 1
        elif index % 4 == 2:
            mask[:] = False
            mask[rng.integers(0, height) :, rng.integers(0, width) : rng.integers(0, width) + 1] = True
        yield mask.astype(np.uint8)


def outlines(seed, number):
    """Random outlines, with whole, half and any coordinates, some crossing themselves or leaving the picture."""
    rng = np.random.default_rng(seed)
    for index in range(number):
        size = tuple(int(side) for side in rng.integers(1, 50, 2))
        polygons = [rng.uniform(-8, 58, 2 * rng.integers(3, 9)) for _ in range(rng.integers(1, 4))]
        rounded = [(np.round(p), np.round(2 * p) / 2, p)[index % 3].tolist() for p in polygons]
        yield rounded, size


def test_by_hand():
    mask = np.array([[0, 1, 0], [1, 1, 0]])  # columns 01, 11, 00
    assert rle_encode(mask) == {"size": [2, 3], "counts": [1, 3, 2]}
    assert rle_encode(1 - mask) == {"size": [2, 3], "counts": [0, 1, 3, 2]}
    assert rle_encode(np.zeros((2, 3))) == {"size": [2, 3], "counts": [6]}
    assert rle_encode(np.ones((2, 3))) == {"size": [2, 3], "counts": [0, 6]}
    code = {"size": [2, 3], "counts": [1, 3, 2]}
    np.testing.assert_array_equal(rle_decode(code), mask)
    assert rle_decode(code).dtype == np.uint8
    assert (rle_area(code), rle_size(code)) == (3, (2, 3))


def test_text_by_hand():
    # 1, 3, 2 are characters 48 + value. The fourth number is the difference 4 - 3 = 1, a fifth 5 - 2 = 3.
    assert rle_to_string([1, 3, 2, 4, 5]) == "13213"
    # 16 needs a second group, because bit 4 alone would be a sign: 16 + 32, then 0. 3 after 40 is -37.
    assert rle_to_string([16]) == chr(48 + 48) + "0"
    assert rle_to_string([0, 40, 1, 3]) == "0" + chr(48 + 40) + "1" + "1" + chr(48 + 27 + 32) + chr(48 + 30)
    assert rle_from_string(b"13213") == [1, 3, 2, 4, 5]
    assert rle_from_string("") == []


def test_there_and_back():
    for mask in masks(0, 60):
        for compress in (False, True):
            code = rle_encode(mask, compress=compress)
            np.testing.assert_array_equal(rle_decode(code, mask.shape), mask)
            assert rle_area(code) == mask.sum()
        assert rle_from_string(code["counts"]) == rle_encode(mask)["counts"]


def test_crop_is_coded_as_the_picture_is():
    rng = np.random.default_rng(1)
    for mask in masks(2, 40):
        height, width = mask.shape[0] + 7, mask.shape[1] + 5
        x, y = (int(v) for v in rng.integers(0, (6, 8)))
        picture = np.zeros((height, width))
        picture[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
        window = (x, y, x + mask.shape[1], y + mask.shape[0])
        assert rle_encode(mask, window, (height, width)) == rle_encode(picture)
    assert rle_encode(np.zeros((0, 0)), (0, 0, 0, 0), (4, 5)) == rle_encode(np.zeros((4, 5)))


def test_wrong_windows_are_refused():
    with pytest.raises(ValueError, match="window must lie in the picture"):
        rle_encode(np.ones((2, 2)), (3, 0, 5, 2), (4, 4))
    with pytest.raises(ValueError, match="window must lie in the picture"):
        rle_encode(np.ones((2, 2)), (0, 0, 3, 2), (4, 4))
    with pytest.raises(ValueError, match="size must be the"):
        rle_encode(np.ones((2, 2)), (0, 0, 2, 2))
    with pytest.raises(ValueError, match="one by one"):
        rle_encode(np.ones((1, 2, 2)))


@pytest.mark.parametrize(
    "code",
    [
        {"counts": [4]},
        {"size": [2], "counts": [4]},
        {"size": [2, 2.5e300], "counts": [4]},
        {"size": [-2, -2], "counts": [4]},
        {"size": [10**6, 10**6], "counts": [10**12]},
        {"size": [2, 2], "counts": [3]},
        {"size": [2, 2], "counts": [5]},
        {"size": [2, 2], "counts": [-1, 5]},
        {"size": [2, 2], "counts": [1.5, 2.5]},
        {"size": [2, 2], "counts": [[4]]},
        {"size": [2, 2], "counts": ["4"]},
        {"size": [2, 2], "counts": [10**30]},
        {"size": [2, 2], "counts": None},
        {"size": [2, 2]},
        {"size": [2, 2], "counts": "4 "},
        {"size": [2, 2], "counts": "é"},
        {"size": [2, 2], "counts": "T"},  # says that another group follows
        {"size": [2, 2], "counts": "o" * 30 + "0"},
    ],
)
def test_damaged_codes_are_refused(code):
    with pytest.raises(DataError, match="run-length code"):
        rle_decode(code)


def test_another_size_is_refused_before_memory_is_taken():
    with pytest.raises(DataError, match="2x2"):
        rle_decode({"size": [30000, 30000], "counts": [900000000]}, (2, 2))


def test_polygon_by_hand():
    # A rectangle from (1, 1) to (4, 3) holds the pixels whose centres it holds.
    mask = polygons_to_mask([[1, 1, 4, 1, 4, 3, 1, 3]], (4, 6))
    np.testing.assert_array_equal(mask, [[0] * 6, [0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 0, 0], [0] * 6])
    assert mask.dtype == np.uint8
    # Two outlines are united, a picture-sized one fills, one outside leaves nothing.
    both = polygons_to_mask([[1, 1, 4, 1, 4, 3, 1, 3], [0, 0, 1, 0, 1, 1, 0, 1]], (4, 6))
    assert both.sum() == 7
    assert polygons_to_mask([[-9, -9, 99, -9, 99, 99, -9, 99]], (4, 6)).all()
    assert not polygons_to_mask([[10, 10, 12, 10, 11, 12]], (4, 6)).any()
    assert not polygons_to_mask([], (4, 6)).any()


@pytest.mark.parametrize("polygon", [[1, 2, 3, 4], [1] * 7, [1, 2, 3, 4, 5, np.nan], [1, 2, 3, 4, 5, 1e9], "abc", None])
def test_broken_polygons_are_refused(polygon):
    with pytest.raises(DataError, match="polygon"):
        polygons_to_mask([polygon], (4, 6))


def test_codes_equal_pycocotools(coco):
    for mask in masks(3, 80):
        theirs = coco.encode(np.asfortranarray(mask))
        ours = rle_encode(mask, compress=True)
        assert ours == {"size": theirs["size"], "counts": theirs["counts"].decode()}
        np.testing.assert_array_equal(rle_decode(theirs), mask)
        uncompressed = rle_encode(mask)
        assert coco.frPyObjects(uncompressed, *uncompressed["size"]) == theirs


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools 2.0.11 on NumPy 2
def test_polygons_equal_pycocotools(coco):
    for polygons, size in outlines(4, 300):
        theirs = coco.decode(coco.merge(coco.frPyObjects(polygons, *size)))
        np.testing.assert_array_equal(polygons_to_mask(polygons, size), theirs, str((polygons, size)))
