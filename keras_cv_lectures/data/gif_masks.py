"""What a label file means by the integers of GIF masks: their greys, or the numbers of colours in the files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_cv_lectures.data.images import read_mask
from keras_cv_lectures.data.labels import IGNORE, LabelMap, listed_values, pack_colors
from keras_cv_lectures.errors import DataError

_SAMPLE = 500  # Masks that are looked at, as in `infer_label_map`.


def reading_of_gifs(masks: Sequence[Path], labels: LabelMap) -> dict[str, bool]:
    """The arguments of `read_mask` for the GIF files among `masks`.

    Programs number the colours of a GIF anew in each file. Numbers are taken only where a label file names them, names
    none of the greys but black, and each number has one colour in all files.

    Raises:
        DataError: the masks hold black and white alone, and `labels` name neither white nor such numbers.
    """
    usual = {"colors": labels.by_color}
    gifs = [path for path in masks if path.suffix.lower() == ".gif"]
    if labels.by_color or not labels.written or not gifs:
        return usual
    if len(gifs) > _SAMPLE:
        gifs = [gifs[i] for i in np.linspace(0, len(gifs) - 1, _SAMPLE).astype(int)]
    pairs = {pair for path in gifs for pair in _numbers_and_colors(path)}
    numbers, colors = {number for number, _ in pairs}, {color for _, color in pairs}
    known = {value for value in (*labels.values, *labels.ignore) if isinstance(value, int)}
    if colors <= {value for value in (*labels.values, *labels.ignore) if not isinstance(value, int)}:
        return {"colors": True}
    greys = {color[0] for color in colors} if all(len(set(color)) == 1 for color in colors) else None
    # A label file need not say that 255 is ignored.
    named = known if IGNORE in labels.values else known - {IGNORE}
    if greys is not None and (greys == {0} or (greys - {0}) & named):
        return usual
    if numbers <= known and len(pairs) == len(numbers) == len(colors):
        return {"numbers": True}
    if greys is not None and greys <= known:
        raise DataError(
            f"the GIF masks (such as {gifs[0]}) hold the greys {listed_values(greys)}, of which the label file names "
            "no class but that of 0, and their files number these greys in different ways. Name the greys in it: "
            "`255 NAME`."
        )
    return usual


def _numbers_and_colors(path: Path) -> set[tuple[int, tuple[int, int, int]]]:
    """What occurs in a GIF; nothing of a damaged one, which is said when its turn comes."""
    try:
        numbers, colors = read_mask(path, numbers=True), read_mask(path, colors=True)
    except DataError:
        return set()
    if colors.ndim == 2:
        colors = colors[..., None].repeat(3, axis=-1)
    packed = np.unique(numbers.astype(np.int64) << 24 | pack_colors(colors)).tolist()
    return {(p >> 24, (p >> 16 & 255, p >> 8 & 255, p & 255)) for p in packed}
