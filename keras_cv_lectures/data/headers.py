"""What the headers of picture files say of sizes, orientation and depth: no picture is decoded."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from keras_cv_lectures.data.source import Source
from keras_cv_lectures.errors import DataError

_READ = 1000
_EXAMPLES = 64  # That are read of a source without files: they are decoded, or made, for their size alone.
_ORIENTATION, FIRST_TURNED = 0x0112, 5  # EXIF tag; from this value on height and width change places.


def picture_sizes(source: Source) -> Counter[tuple[int, int]]:
    """(height, width) -> number of pictures, of evenly spaced ones.

    A thousand at most, from the headers of the files; of a source without files, or whose examples are no whole
    pictures of its files (such as crops of them), 64 at most, which are read.
    """
    # Of an example that is at fault nothing is known; the trainer will name it.
    whole = source.files is not None and _example_size(source, 0) in (None, _header_size(source, 0))
    size, most = (_header_size, _READ) if whole else (_example_size, _EXAMPLES)
    indices = np.linspace(0, len(source) - 1, min(len(source), most)).astype(int)
    found = [size(source, int(index)) for index in indices]
    return Counter(each for each in found if each is not None) or Counter([source[0]["image"].shape[:2]])


def _example_size(source: Source, index: int) -> tuple[int, int] | None:
    try:
        return tuple(source[index]["image"].shape[:2])
    except DataError:
        return None


def orientation(path: Path) -> int:
    """How a camera noted that a picture is turned (EXIF): 1 as it is stored, 2 to 8; 1 also of what is no picture."""
    header = _header(path)
    return header[1] if header and header[1] in range(1, 9) else 1


def is_deep_grey(path: Path) -> bool:
    """Whether a picture is grey of 16 bits."""
    header = _header(path)
    return header is not None and header[2].startswith("I;16")


def _header_size(source: Source, index: int) -> tuple[int, int] | None:
    header = _header(source.files(index)[0])
    return header and header[0]


def _header(path: Path) -> tuple[tuple[int, int], int, str] | None:
    """(height, width) as it is read, orientation as it is stored, and Pillow's mode; None of a damaged file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as picture:
                width, height = picture.size
                turned = picture.getexif().get(_ORIENTATION, 1)
                # Pillow gives the turned size of a TIFF.
                swapped = turned >= FIRST_TURNED and picture.format != "TIFF"
                return (width, height) if swapped else (height, width), turned, picture.mode
    except Exception:  # Damaged files raise almost anything; the trainer will name this one.
        return None
