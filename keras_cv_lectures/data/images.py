"""Picture and mask files -> arrays.

Rules that hold for every format:

* Rotation that a camera noted in EXIF is applied.
* Transparency is dropped, not blended: the stored colours are used.
* 16-bit grey becomes 8-bit as `round(value / 257)`, so 65535 is 255, whatever the brightest pixel of the file; 16-bit
  colour keeps its high byte. Floating-point files must lie in 0..1 and are multiplied by 255.
* Of an animation the first frame is used. A TIFF with several pages is refused, since nobody can know which one is
  meant (smaller copies of the first page, as in pyramid files, are no pages).
* A picture of more than 178 million pixels is refused before it is decoded.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_cv_lectures.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

# Where Pillow itself refuses to decode (twice its MAX_IMAGE_PIXELS); half a gigabyte as RGB.
MAX_PIXELS = 178_956_970
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".jp2")

# Kinds for which Pillow starts another program (Ghostscript), whatever the file is called.
_PROGRAMS = ("EPS",)
_FIRST_BYTES = (b"\xff\xd8", b"\x89PNG", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"BM", b"GIF8", b"RIFF")
_NEW_SUBFILE_TYPE = 254  # TIFF tag; bit 0 marks a reduced copy of another page.
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _BANDS, _SAMPLE_FORMAT = 256, 257, 258, 259, 277, 339  # TIFF tags


def read_image(path: str | Path, channels: int | None = 3, *, content: bytes | None = None) -> np.ndarray:
    """Reads a picture as (H, W, C) uint8, RGB or grey.

    Args:
        path: JPEG, PNG, TIFF, BMP or another format that Pillow knows; grey, RGB, palette, CMYK, with or without
            transparency, of 1, 8 or 16 bits or floating point.
        channels: 3 gives RGB (three equal channels for a grey file), 1 gives grey (ITU-R 601 luma of a coloured one),
            None gives 1 for a grey and 3 for a coloured file.
        content: of the file, where it is no file of its own; `path` then only names it in messages.

    Raises:
        DataError: the file is missing, empty, truncated, too large, not a picture, or holds several pages.
    """
    if channels not in (1, 3, None):
        raise DataError(f"channels must be 1, 3 or None, not {channels!r}.")
    return _decode(path, lambda picture, scale: _to_pixels(picture, channels, path), content)


def read_mask(
    path: str | Path, *, colors: bool = False, numbers: bool = False, content: bytes | None = None
) -> np.ndarray:
    """Reads the stored label values of a mask: (H, W) integers, or (H, W, 3) uint8 for an RGB file and a coloured GIF.

    Args:
        path: palette PNG (its indices), GIF (its grey values, or its colours where its palette has some), grey of 1, 2,
            4, 8, 16 or 32 bits (its values; 2-bit files give 0 to 3), floating point with whole numbers, or RGB.
            Transparency is dropped.
        colors: give a palette file as its RGB colours instead of its indices.
        numbers: give a GIF as the indices of its palette, which programs number anew in each file.
        content: as of `read_image`.

    Raises:
        DataError: as `read_image`, or a kind of file that holds no labels (CMYK, fractions).
    """
    return _decode(path, lambda picture, scale: _to_labels(picture, colors, numbers, path, scale), content)


def _decode(path: str | Path, convert: Callable[[Image, float], np.ndarray], content: bytes | None) -> np.ndarray:
    """What `convert` makes of the picture and of `_scale_of_grey`."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = Path(path)
    if content is None and not path.is_file():
        raise DataError(f"{path} does not exist or is not a file. Check the path.")
    if (path.stat().st_size if content is None else len(content)) == 0:
        raise DataError(f"{path} is empty (0 bytes). Copy it again from its origin, or remove it and its partner.")
    try:
        with Image.open(path if content is None else io.BytesIO(content)) as picture:
            if picture.format in _PROGRAMS:
                raise UnidentifiedImageError
            if picture.width * picture.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{picture.width}x{picture.height} pixels")
            if picture.format == "TIFF":
                _refuse_pages(picture, path)
            scale = _scale_of_grey(picture)
            picture.load()
            ImageOps.exif_transpose(picture, in_place=True)
            return convert(picture, scale)
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"{path} is too large ({error}): at most {MAX_PIXELS:,} pixels are read. "
            "Cut it (and its mask) into tiles, or shrink it first."
        ) from error
    except Exception as error:  # Damaged files make Pillow's decoders raise almost anything.
        repair = "Copy it again from its origin, or remove it and its partner."
        if isinstance(error, UnidentifiedImageError):
            with path.open("rb") if content is None else io.BytesIO(content) as file:
                if not file.read(4).startswith(_FIRST_BYTES):
                    raise DataError(f"{path} is not a picture (JPEG, PNG, TIFF, BMP ...). {repair}") from error
                kind = _kind_of_tiff(file)
            if kind:
                raise DataError(
                    f"{path} is a TIFF of {kind}, which is not read; grey, palette, RGB and CMYK of 8 or 16 bits "
                    "and grey of floating point are. Save it as one of these, or read it yourself (tifffile, "
                    "rasterio): predict takes arrays (height, width, channels), training a reader of your own "
                    "(docs/own_reader.md)."
                ) from error
            raise DataError(f"{path} is truncated or damaged within its first bytes. {repair}") from error
        raise DataError(f"{path} is truncated or damaged ({type(error).__name__}: {error}). {repair}") from error


def _kind_of_tiff(file: Any) -> str:
    """Bands and bits of a TIFF that Pillow has no mode for; "" where the file is none, or damaged."""
    from PIL.TiffImagePlugin import COMPRESSION_INFO, ImageFileDirectory_v2

    try:
        file.seek(0)
        header = file.read(8)
        tags = ImageFileDirectory_v2(header + (file.read(8) if header[2:3] == b"+" else b""))
        file.seek(tags.next)
        with warnings.catch_warnings(action="error"):  # of entries that are cut off
            tags.load(file)
        bands, bits, format_ = tags.get(_BANDS, 1), tags.get(_BITS, (1,)), tags.get(_SAMPLE_FORMAT, (1,))
        if not tags[_WIDTH] or not tags[_HEIGHT] or tags.get(_COMPRESSION, 1) not in COMPRESSION_INFO:
            return ""
        depth = "/".join(str(b) for b in dict.fromkeys(bits))
        return f"{bands} band{'s' * (bands != 1)} of {depth} bits{' floating point' if 3 in format_ else ''}"
    except Exception:  # Damaged files make Pillow raise almost anything.
        return ""


def _scale_of_grey(picture: Any) -> float:
    """The file's values by Pillow's, which makes the largest of grey of 2 and 4 bits and of PGM 255 or 65535."""
    raw = str(picture.tile[0][3]) if picture.mode in ("L", "I") and picture.tile else ""
    bits, stated = re.search(r"\bL;([24])", raw), re.fullmatch(r"\('L', (\d+)\)", raw)
    if bits:
        return (2 ** int(bits[1]) - 1) / 255
    return int(stated[1]) / (255 if picture.mode == "L" else 65535) if stated and picture.format == "PPM" else 1.0


def _refuse_pages(picture: Any, path: Path) -> None:
    pages = 0
    for frame in range(picture.n_frames):
        picture.seek(frame)
        pages += frame == 0 or not picture.tag_v2.get(_NEW_SUBFILE_TYPE, 0) & 1
    picture.seek(0)
    if pages > 1:
        raise DataError(
            f"{path} holds {pages} pages, but one picture per file is expected. Split it, for example with "
            "`tiffsplit` or Pillow's ImageSequence, into one file per page (its mask likewise)."
        )


def _to_pixels(picture: Image, channels: int | None, path: str | Path) -> np.ndarray:
    if picture.mode == "F" or picture.mode.startswith("I"):
        grey = _deep_grey(picture, path)
    elif picture.mode in ("1", "L", "LA", "La"):
        grey = np.array(picture.convert("L"))
    else:
        # By way of RGBA, because Pillow warns where a palette's transparency would be lost silently.
        with_alpha = picture.mode in ("P", "PA", "RGBa")
        colored = (picture.convert("RGBA") if with_alpha else picture).convert("RGB")
        if channels == 1:
            return np.array(colored.convert("L"))[..., None]
        return np.array(colored)
    return np.repeat(grey[..., None], 3 if channels == 3 else 1, axis=-1)


def _deep_grey(picture: Image, path: str | Path) -> np.ndarray:
    """8-bit grey of a 16-bit, 32-bit or floating-point picture."""
    values = np.array(picture)
    low, high = (values.min(), values.max()) if np.isfinite(values).all() else (np.nan, np.nan)
    if values.dtype.kind == "f":
        if not (low >= 0 and high <= 1):
            raise DataError(
                f"{path} holds floating-point values from {low} to {high}; a picture must lie in 0..1. "
                "Scale it (divide by its largest possible value) or save it as 8- or 16-bit integers."
            )
        return np.rint(values * 255.0).astype(np.uint8)
    if low < 0 or high > 65535:
        raise DataError(
            f"{path} holds values from {low} to {high}; a picture must lie in 0..65535. Save it as 16 bits."
        )
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _has_grey_palette(picture: Image) -> bool:
    palette = np.array(picture.getpalette("RGB")).reshape(-1, 3)
    return bool((palette == palette[:, :1]).all())


def _to_labels(picture: Image, colors: bool, numbers: bool, path: str | Path, scale: float) -> np.ndarray:
    mode = picture.mode
    if mode == "P":
        # Programs number the colours of a GIF anew in each file, by those that occur in it.
        if numbers or not (colors or picture.format == "GIF"):
            return np.array(picture)
        values = np.array(picture.convert("RGBA"))[..., :3]
        return (values if colors or not _has_grey_palette(picture) else values[..., 0]).copy()
    if mode in ("LA", "PA"):
        return np.array(picture)[..., 0].copy()
    if mode in ("RGB", "RGBA", "RGBX"):
        return np.array(picture)[..., :3].copy()
    values = np.array(picture)
    if mode == "1":
        return values.astype(np.uint8)
    if mode == "F":
        whole = np.isfinite(values).all() and (values == np.rint(values)).all() and abs(values).max() < 2**31
        if not whole:
            raise DataError(f"{path} holds fractions, but a mask holds whole numbers. Save it as integers.")
        return values.astype(np.int32)
    if mode == "L" or mode.startswith("I"):
        if scale != 1:
            return np.rint(values * scale).astype(np.uint8 if mode == "L" else np.int32)
        return values.astype(np.int32) if values.dtype.byteorder == ">" else values
    raise DataError(f"{path} is of kind {mode}; a mask must be grey, palette or RGB. Save it as such a PNG.")
