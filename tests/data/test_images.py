import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from keras_cv_lectures.data import images
from keras_cv_lectures.data.images import read_image, read_mask
from keras_cv_lectures.errors import DataError

RGB = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [10, 20, 30]], [[1, 2, 3], [200, 100, 50]]], np.uint8)
GREY = np.array([[0, 50, 100], [150, 200, 255]], np.uint8)


def save(path, array, mode=None, **options):
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm"])
def test_colour_survives_exactly(tmp_path, suffix):
    image = read_image(save(tmp_path / f"a{suffix}", RGB))
    assert image.dtype == np.uint8
    assert image.flags.writeable
    np.testing.assert_array_equal(image, RGB)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_grey_becomes_three_equal_channels_unless_one_is_asked_for(tmp_path, suffix):
    path = save(tmp_path / f"a{suffix}", GREY)
    np.testing.assert_array_equal(read_image(path), np.stack([GREY] * 3, axis=-1))
    np.testing.assert_array_equal(read_image(path, channels=1), GREY[..., None])
    np.testing.assert_array_equal(read_image(path, channels=None), GREY[..., None])


def test_colour_as_one_channel_is_luma(tmp_path):
    path = save(tmp_path / "a.png", RGB)
    image = read_image(path, channels=1)
    expected = RGB @ np.array([0.299, 0.587, 0.114])
    assert image.shape == (3, 2, 1)
    assert np.abs(image[..., 0] - expected).max() <= 1
    assert read_image(path, channels=None).shape == (3, 2, 3)


def test_jpeg_is_close_and_turned_as_exif_says(tmp_path):
    left_black = np.zeros((16, 32, 3), np.uint8)
    left_black[:, 16:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was held upright: turn by 90 degrees clockwise to show.
    image = read_image(save(tmp_path / "a.jpg", left_black, exif=exif, quality=95))
    assert image.shape == (32, 16, 3)
    assert image[:12].max() < 10
    assert image[20:].min() > 245


def png_of_few_bits(bits, values):
    """One row of grey, which Pillow does not write in 2 or 4 bits."""
    row = int("".join(f"{value:0{bits}b}" for value in values), 2).to_bytes(len(values) * bits // 8, "big")
    header = struct.pack(">IIBBBBB", len(values), 1, bits, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b""))
    parts = (struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c)) for name, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("content", "values", "largest"),
    [
        (png_of_few_bits(2, [0, 1, 2, 3]), [0, 1, 2, 3], 3),
        (png_of_few_bits(4, [0, 1, 9, 15]), [0, 1, 9, 15], 15),
        (png_of_few_bits(8, [0, 1, 2, 85]), [0, 1, 2, 85], 255),
        (b"P5 4 1 20\n" + bytes([0, 1, 19, 20]), [0, 1, 19, 20], 20),
        (b"P5 4 1 255\n" + bytes([0, 1, 19, 20]), [0, 1, 19, 20], 255),
        (b"P5 4 1 1000\n" + struct.pack(">4H", 0, 5, 7, 1000), [0, 5, 7, 1000], 1000),
    ],
)
def test_masks_of_few_bits_hold_the_values_of_the_file(content, values, largest):
    """Pictures are as bright as their largest possible value says."""
    assert read_mask("a", content=content).tolist() == [values]
    shades = [round(value * 255 / largest) for value in values]
    assert abs(read_image("a", 1, content=content)[0, :, 0].astype(int) - shades).max() <= 1


def test_16_bit_grey_is_divided_by_257_whatever_the_content(tmp_path):
    deep = np.array([[0, 128, 129, 257], [385, 386, 32896, 65535]], np.uint16)
    expected = np.rint(deep / 257.0).astype(np.uint8)
    for suffix in (".png", ".tif"):
        np.testing.assert_array_equal(read_image(save(tmp_path / f"a{suffix}", deep), channels=1)[..., 0], expected)
    dark = save(tmp_path / "dark.png", deep // 256)
    assert read_image(dark).max() <= 1


def test_floating_point_tiff(tmp_path):
    values = np.array([[0, 0.5], [0.25, 1]], np.float32)
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.tif", values), 1)[..., 0], [[0, 128], [64, 255]])
    for bad in (values * 300, np.where(values > 0.6, np.nan, values).astype(np.float32)):
        with pytest.raises(DataError, match=r"b\.tif holds floating-point values.*0\.\.1"):
            read_image(save(tmp_path / "b.tif", bad))


def test_palette_one_bit_and_transparent_pictures(tmp_path):
    palette = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), mode=None).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette.save(tmp_path / "p.png", transparency=bytes([0, 255, 255]))
    np.testing.assert_array_equal(read_image(tmp_path / "p.png")[0], [[10, 20, 30], [40, 50, 60]])

    one_bit = save(tmp_path / "one.png", np.array([[0, 255]], np.uint8), mode="1")
    np.testing.assert_array_equal(read_image(one_bit, channels=1)[..., 0], [[0, 255]])

    rgba = np.concatenate([RGB, np.full((3, 2, 1), 7, np.uint8)], axis=-1)
    np.testing.assert_array_equal(read_image(save(tmp_path / "rgba.png", rgba)), RGB)
    np.testing.assert_array_equal(read_mask(tmp_path / "rgba.png"), RGB)
    la = np.stack([GREY, GREY // 2], axis=-1)
    np.testing.assert_array_equal(read_image(save(tmp_path / "la.png", la), 1)[..., 0], GREY)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".bmp"])
def test_truncated_files_are_named_with_the_repair(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = save(tmp_path / f"whole{suffix}", noise)
    content = path.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(content[: len(content) // 2])
    for read in (read_image, read_mask):
        read(path)
        with pytest.raises(DataError, match=rf"cut\{suffix} is truncated or damaged.*remove it") as caught:
            read(cut)
        assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.jpg", {"progressive": True}), ("b.png", {}), ("c.tif", {"compression": "tiff_lzw"}), ("d.bmp", {})],
)
def test_no_truncated_picture_is_ever_read_as_another_one(tmp_path, name, options):
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    path = save(tmp_path / name, noise, **options)
    whole, content = read_image(path), path.read_bytes()
    for length in range(1, len(content), len(content) // 25):
        path.write_bytes(content[:length])
        try:
            image = read_image(path)
        except DataError:
            continue
        np.testing.assert_array_equal(image, whole)  # Nothing but a closing mark was missing.


def test_missing_empty_and_foreign_files(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(DataError, match="does not exist"):
        read_image(tmp_path / "no.png")
    with pytest.raises(DataError, match=r"empty\.png is empty \(0 bytes\)"):
        read_image(tmp_path / "empty.png")
    with pytest.raises(DataError, match=r"text\.png is not a picture"):
        read_image(tmp_path / "text.png")
    with pytest.raises(DataError, match="channels must be 1, 3 or None, not 4"):
        read_image(tmp_path / "text.png", channels=4)


def tiff(bands, bits, sample_format, order="<"):
    """A TIFF of one black pixel: header, directory, what does not fit into it, and the pixel."""
    count, size = 11, bands * bits // 8
    behind = 8 + 2 + 12 * count + 4
    values = {256: (1, 1), 257: (1, 1), 258: (bands, bits), 259: (1, 1), 262: (1, 2 if bands == 3 else 1)}
    values |= {273: (1, behind + 4 * bands), 277: (1, bands), 278: (1, 1), 279: (1, size), 284: (1, 1)}
    values |= {339: (bands, sample_format)}
    entries = b""
    for tag, (number, value) in values.items():
        if number < 3:
            field = struct.pack(f"{order}{number}H", *[value] * number).ljust(4, b"\0")
        else:
            field = struct.pack(f"{order}L", behind + 2 * bands * (tag == 339))
        entries += struct.pack(f"{order}HHL", tag, 3, number) + field
    repeated = struct.pack(f"{order}{2 * bands}H", *[bits] * bands, *[sample_format] * bands)
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}L", 8)
    return header + struct.pack(f"{order}H", count) + entries + bytes(4) + repeated + bytes(size)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("kind", "words"),
    [((5, 8, 1), "5 bands of 8 bits"), ((3, 32, 3), "3 bands of 32 bits floating point")],
)
def test_valid_tiffs_of_other_kinds_are_not_called_damaged(tmp_path, order, kind, words):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(*kind, order))
    with pytest.raises(DataError, match=rf"a\.tif is a TIFF of {words}, which is not read.*docs/own_reader\.md"):
        read_image(path)
    path.write_bytes(tiff(*kind, order)[:100])
    with pytest.raises(DataError, match="truncated or damaged"):
        read_image(path)
    path.write_bytes(tiff(1, 8, 1, order))  # The writer above is right: what can be read is.
    assert read_image(path).tolist() == [[[0, 0, 0]]]


def test_huge_pictures_are_refused_by_their_header_alone(tmp_path, monkeypatch):
    # A header that claims 30000 x 20000 pixels (1.8 GB as RGB) and nothing behind it.
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "huge.bmp")
    content = bytearray((tmp_path / "huge.bmp").read_bytes())
    content[18:26] = (30000).to_bytes(4, "little") + (20000).to_bytes(4, "little")
    (tmp_path / "huge.bmp").write_bytes(content)
    with pytest.raises(DataError, match=r"huge\.bmp is too large.*178,956,970 pixels.*tiles"):
        read_image(tmp_path / "huge.bmp")

    monkeypatch.setattr(images, "MAX_PIXELS", 5)
    with pytest.raises(DataError, match=r"a\.png is too large \(2x3 pixels\): at most 5 pixels"):
        read_image(save(tmp_path / "a.png", RGB))


def test_first_frame_of_an_animation_but_no_tiff_with_pages(tmp_path):
    frames = [Image.fromarray(np.full((4, 4, 3), value, np.uint8)) for value in (0, 255)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif").max() == 0
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=r"a\.tif holds 2 pages.*[Ss]plit"):
        read_image(tmp_path / "a.tif")


def test_masks_keep_their_stored_values(tmp_path):
    palette = Image.fromarray(np.array([[0, 3], [1, 2]], np.uint8)).convert("P")
    palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    palette.save(tmp_path / "p.png", bits=2)
    np.testing.assert_array_equal(read_mask(tmp_path / "p.png"), [[0, 3], [1, 2]])
    np.testing.assert_array_equal(read_mask(tmp_path / "p.png", colors=True)[0], [[0, 0, 0], [128, 128, 0]])

    np.testing.assert_array_equal(read_mask(save(tmp_path / "l.png", GREY)), GREY)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "l.tif", GREY)), GREY)
    deep = GREY.astype(np.uint16) * 200
    np.testing.assert_array_equal(read_mask(save(tmp_path / "d.png", deep)), deep)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "i.tif", deep.astype(np.int32) * 9)), deep.astype(int) * 9)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "f.tif", GREY.astype(np.float32))), GREY)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "1.png", GREY // 200 * 255, mode="1")), GREY // 200)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "c.bmp", RGB)), RGB)


def test_masks_that_cannot_be_labels(tmp_path):
    with pytest.raises(DataError, match=r"f\.tif holds fractions"):
        read_mask(save(tmp_path / "f.tif", GREY.astype(np.float32) / 7))
    with pytest.raises(DataError, match=r"c\.tif is of kind CMYK"):
        read_mask(save(tmp_path / "c.tif", RGB, mode="CMYK"))


@pytest.mark.parametrize("values", [(0, 255), (0, 128, 255), (128, 255), (5,), (0, 1, 2)], ids=str)
def test_grey_values_of_a_gif_are_those_of_the_mask_not_their_numbers_in_the_file(tmp_path, values):
    """Pillow, like other programs, writes the values that occur in a file as colours 0, 1 and so on of a palette."""
    mask = np.resize(np.uint8(values), (4, 6))
    Image.fromarray(mask).save(tmp_path / "a.gif")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.gif"), mask)


def test_coloured_palettes_of_a_gif_are_colours(tmp_path):
    mask = np.resize(np.uint8([0, 1, 2]), (4, 6))
    picture = Image.fromarray(mask).convert("P")
    picture.putpalette([0, 0, 0, 128, 0, 0, 128, 128, 128])
    picture.save(tmp_path / "a.gif", optimize=False)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.gif", numbers=True), mask)
    for options in ({}, {"colors": True}):
        np.testing.assert_array_equal(read_mask(tmp_path / "a.gif", **options)[0, 1], [128, 0, 0])
    # Those of a PNG are numbers.
    picture.putpalette([0, 0, 0, 128, 128, 128, 255, 255, 255])
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), mask)
