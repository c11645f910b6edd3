"""The sizes of a source's pictures from the headers of their files, no picture decoded."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
from PIL import Image

from keras_cv_lectures.data.source import Source

_READ = 1000
_ORIENTATION, _FIRST_TURNED = 0x0112, 5  # EXIF tag; from this value on height and width change places.


def picture_sizes(source: Source) -> Counter[tuple[int, int]]:
    """(height, width) -> number of pictures, from the headers of the files, of a thousand evenly spaced at most."""
    if source.files is None:
        return Counter([source[0]["image"].shape[:2]])
    sizes: Counter[tuple[int, int]] = Counter()
    for index in np.linspace(0, len(source) - 1, min(len(source), _READ)).astype(int):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(source.files(int(index))[0]) as picture:
                    width, height = picture.size
                    turned = picture.getexif().get(_ORIENTATION, 1) >= _FIRST_TURNED
        except Exception:  # Damaged files raise almost anything; the trainer will name this one.
            continue
        sizes[(width, height) if turned else (height, width)] += 1
    return sizes or Counter([source[0]["image"].shape[:2]])
