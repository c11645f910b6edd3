"""What headers of picture files say, and what the doctor makes of it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from keras_cv_lectures.data import doctor, folder_source, read_image
from keras_cv_lectures.data.headers import orientation, picture_sizes
from keras_cv_lectures.errors import DataError

TURNED = "pictures are turned as their camera noted"


@pytest.fixture
def pair(tmp_path):
    """Writes `images/a.SUFFIX`, stored as (4, 6) and turned, and its mask of a given size; gives the two folders."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()

    def write(turn, suffix="jpg", stored=(4, 6), mask=(4, 6), mask_exif=None):
        exif = Image.Exif()
        exif[0x0112] = turn
        pixels = np.arange(np.prod(stored) * 3).reshape(*stored, 3).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"a.{suffix}", exif=exif)
        Image.fromarray(np.eye(*mask, dtype=np.uint8)).save(tmp_path / "masks" / "a.png", exif=mask_exif or b"")
        return tmp_path / "images", tmp_path / "masks"

    return write


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_sizes_from_headers_are_those_of_the_pictures_read(pair, suffix, turn):
    images, masks = pair(turn, suffix, mask=(6, 4) if turn > 4 else (4, 6))
    shape = read_image(images / f"a.{suffix}").shape[:2]
    assert shape == ((6, 4) if turn > 4 else (4, 6))
    assert orientation(images / f"a.{suffix}") == turn
    assert orientation(masks) == 1
    assert picture_sizes(folder_source(images, masks)) == {shape: 1}


def test_a_mask_of_the_stored_size_is_not_to_be_squashed(pair):
    with pytest.raises(DataError, match=r"is 4x6 .* is 6x4\. Reading turns a picture as its camera noted \(EXIF\)"):
        folder_source(*pair(6))[0]
    with pytest.raises(DataError, match=r"is 6x4 .* is 4x6\. Export the mask at the picture's size"):
        folder_source(*pair(1, mask=(6, 4)))[0]


@pytest.mark.parametrize(
    ("turn", "sizes", "told"),
    [
        (1, {}, False),
        (2, {}, True),
        (3, {}, True),
        (6, {"mask": (6, 4)}, False),  # It fits the turned picture alone.
        (6, {"stored": (4, 4), "mask": (4, 4)}, True),
    ],
)
def test_the_doctor_warns_where_a_turn_may_not_be_in_the_mask(pair, turn, sizes, told):
    images, masks = pair(turn, **sizes)
    assert any(TURNED in warning for warning in doctor(f"folder:{images},{masks}").warnings) == told


def test_a_mask_that_is_turned_like_its_picture_fits(pair):
    exif = Image.Exif()
    exif[0x0112] = 3
    images, masks = pair(3, mask_exif=exif)
    assert not any(TURNED in warning for warning in doctor(f"folder:{images},{masks}").warnings)


def test_the_doctor_warns_of_boxes_on_turned_pictures(pair):
    images, _ = pair(6)
    images.with_name("labels").mkdir()
    (images.with_name("labels") / "a.txt").write_text("0 0.5 0.5 1 1")
    (warning,) = (line for line in doctor(f"yolo:{images.parent}").warnings if TURNED in line)
    assert "1 pictures are turned as their camera noted (EXIF): a." in warning


@pytest.mark.parametrize(
    ("brightest", "told"),
    [
        (1023, "is 4 of 255; they look like 10 bits, of which few grey levels are left. Multiply their values by 64"),
        (4095, "is 16 of 255; they look like 12 bits, of which few grey levels are left. Multiply their values by 16"),
        (16383, "is 64 of 255; they look like 14 bits, of which few grey levels are left. Multiply their values by 4,"),
        (65535, None),
    ],
)
def test_the_doctor_knows_pictures_of_fewer_bits_than_they_are_stored_with(pair, brightest, told):
    images, masks = pair(1, "png")
    Image.fromarray(np.linspace(0, brightest, 24).reshape(4, 6).astype(np.uint16)).save(images / "a.png")
    found = [warning for warning in doctor(f"folder:{images},{masks}").warnings if "of 16 bits" in warning]
    assert len(found) == (told is not None)
    assert all(told in warning for warning in found)


def test_dark_pictures_of_8_bits_are_not_taken_for_deep_ones(pair):
    images, masks = pair(1, "png")
    Image.fromarray(np.full((4, 6), 16, np.uint8)).save(images / "a.png")
    assert not any("of 16 bits" in warning for warning in doctor(f"folder:{images},{masks}").warnings)
