"""A label map guessed from the values that mask files hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from keras_cv_lectures.data.images import read_mask
from keras_cv_lectures.data.labels import (
    IGNORE,
    VOC_CLASSES,
    VOC_COLORS,
    VOC_LABELS,
    VOC_VOID_COLOR,
    Color,
    LabelMap,
    default_colors,
    is_grey,
    listed_values,
    pack_colors,
)
from keras_cv_lectures.errors import DataError

BINARY_CLASSES = ("background", "foreground")
LOSSY = (".jpg", ".jpeg")


def mask_values(path: str | Path) -> np.ndarray:
    """The distinct values in a mask file: (K,) int64, or (K, 3) int64 colours of an RGB file, grey or not.

    Raises:
        DataError: the file cannot be read.
    """
    return values_of(read_mask(path))


def values_of(raw: np.ndarray) -> np.ndarray:
    """`mask_values` of a mask that was read already."""
    if raw.ndim == 3:
        if is_grey(raw):
            return values_of(raw[..., 0])[:, None].repeat(3, axis=1)
        packed = np.unique(pack_colors(raw))
        return np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=-1)
    if raw.dtype == np.uint8:
        return np.flatnonzero(np.bincount(raw.ravel(), minlength=256))
    return np.unique(raw).astype(np.int64)


def infer_label_map(
    masks: Sequence[str | Path], *, classes: Sequence[str] | None = None, sample: int = 500
) -> LabelMap:
    """Guesses a label map from the values in mask files, all of them or `sample` evenly spaced ones if there are more.

    * Only 0 and 255, or only 0 and 1: background and foreground.
    * Other integers: classes 0..max, named "class 0", "class 1", ...; 255 is ignored.
    * Colours: the Pascal VOC classes if every colour is one of theirs, otherwise one class for each colour, black
      first, the rest by ascending (red, green, blue), named by their hexadecimal code. RGB files that are grey
      throughout hold colours where another file is coloured, and integers where none is.

    The map's `note` says what was chosen and how to override it. Validation masks may lack a class, and a guess from
    them alone would number the classes differently: give the `classes` that were guessed for the training masks.

    Raises:
        DataError: a mask cannot be read, the values cannot be labels or are ambiguous, or `classes` were not guessed.
    """
    paths = list(masks)
    if len(paths) > sample:
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, sample).astype(int)]
    return label_map_of_values({Path(path): mask_values(path) for path in paths}, classes=classes)


def label_map_of_values(found: Mapping[Path, np.ndarray], *, classes: Sequence[str] | None = None) -> LabelMap:
    """`infer_label_map` for values that were read already: file -> its `mask_values`."""
    if not found:
        raise DataError("there is no mask to take labels from. Check the mask folder.")
    if all(values.ndim == 1 or is_grey(values) for values in found.values()):
        found = {path: values[:, 0] if values.ndim == 2 else values for path, values in found.items()}
    if classes is not None and tuple(classes) != BINARY_CLASSES:
        guess = _guess_behind(tuple(classes))
        held = {value for values in found.values() if values.ndim == 1 for value in values.tolist()}
        if held == {0, IGNORE} and all(values.ndim == 1 for values in found.values()) and IGNORE in guess.ignore:
            note = (
                f"these masks hold 0 and 255 alone, and 255 is left out, because the classes are {guess.classes[0]} to "
                f"{guess.classes[-1]}. If it is a class, say which in a file labels=FILE (lines `VALUE NAME`)."
            )
            return replace(guess, note=note)
        return guess
    guess = _guess(found)
    if classes is not None and guess.classes != tuple(classes):
        raise DataError(
            f"these masks do not hold the two values of {' and '.join(classes)} alone (such as {next(iter(found))}), "
            "unlike those that the model was trained with. Describe them in a file labels=FILE."
        )
    return guess


def _guess_behind(classes: tuple[str, ...]) -> LabelMap:
    """The guessed map that must have given these class names."""
    if classes == VOC_CLASSES:
        return VOC_LABELS
    if classes == _numbered(len(classes)):
        values = {i: i for i in range(len(classes))}
        return LabelMap(classes=classes, colors=default_colors(len(classes)), values=values)
    if all(re.fullmatch("#[0-9a-f]{6}", name) for name in classes):
        colors = tuple((int(n[1:3], 16), int(n[3:5], 16), int(n[5:7], 16)) for n in classes)
        values = {color: i for i, color in enumerate(colors)}
        return LabelMap(classes=classes, colors=colors, values=values, ignore=frozenset())
    raise DataError(
        f"which mask values stand for the classes {', '.join(classes[:12])}{', ...' if len(classes) > 12 else ''} of "
        "the model or training data? Name them in a file labels=FILE, the same one as for the training masks."
    )


def _guess(found: Mapping[Path, np.ndarray]) -> LabelMap:
    # Masks that are black throughout may be stored in any way.
    colored = [path for path, values in found.items() if values.ndim == 2 and values.any()]
    if not colored:
        return _map_of_integers({path: set(values.tolist()) for path, values in found.items()})
    grey = [path for path, values in found.items() if values.ndim == 1 and values.any()]
    if grey:
        example = next(path for path in colored if not is_grey(found[path]))
        raise DataError(f"{example} is a coloured mask but {grey[0]} is a grey one. Save all masks in one way.")
    colors = {tuple(color) for path in colored for color in found[path].tolist()}
    colors |= {(0, 0, 0)} if len(colored) < len(found) else set()
    return _map_of_colors(colors, colored)


def _map_of_integers(found: Mapping[Path, set[int]]) -> LabelMap:
    values = set().union(*found.values())
    override = "Override it with labels=FILE (lines `VALUE NAME`)."
    if values <= {0, 1} or values <= {0, IGNORE}:
        value = IGNORE if IGNORE in values else 1
        return LabelMap(
            classes=BINARY_CLASSES,
            colors=((0, 0, 0), (255, 255, 255)),
            values={0: 0, value: 1},
            ignore=frozenset({IGNORE} - {value}),
            note=f"Mask values 0 and {value} were taken as background and foreground. {override}",
        )
    example = next(path for path, inside in found.items() if inside - {0, IGNORE})
    if values == {0, 1, IGNORE} and not any({1, IGNORE} <= inside for inside in found.values()):
        raise DataError(
            f"some masks mark the foreground with 1 (such as {example}) and others hold 255 instead, which usually "
            "means 'ignore'. Say what 255 is in a file labels=FILE: `0 background`, `1 foreground`, `255 foreground`."
        )
    labels = values - {IGNORE}
    if len(labels) > 64:
        raise DataError(
            f"the masks hold {len(labels)} different values (such as in {example}): they look like pictures, not like "
            "masks. Check that IMAGES,MASKS are in this order and that masks are PNG, not JPEG; if all values are "
            "labels, name them in a file labels=FILE (lines `VALUE NAME`)."
        )
    if max(labels) > 64:
        raise DataError(
            f"the masks hold the values {listed_values(values)} (such as in {example}), which are not class ids 0, 1, "
            "2, ... Name them in a file labels=FILE: `VALUE NAME` for each, `ignore VALUE` for those to leave out."
        )
    _refuse_lossy(found)
    count = max(labels) + 1
    ignored = " and 255 as ignore" if IGNORE in values else ""
    return LabelMap(
        classes=_numbered(count),
        colors=default_colors(count),
        values={i: i for i in range(count)},
        note=f"Mask values were taken as the classes 0..{count - 1}{ignored}. {override}",
    )


def _map_of_colors(colors: set[Color], masks: Sequence[Path]) -> LabelMap:
    override = "Override it with labels=FILE (lines `RED GREEN BLUE NAME`)."
    if colors <= {*VOC_COLORS, VOC_VOID_COLOR}:
        return replace(VOC_LABELS, note=f"Mask colours were taken as the 21 Pascal VOC classes. {override}")
    if len(colors) > 64:
        raise DataError(
            f"the masks hold {len(colors)} different colours (such as in {masks[0]}): they look like pictures, not "
            "like masks. Check that IMAGES,MASKS are in this order and that masks are PNG, not JPEG; if all colours "
            "are labels, name them in a file labels=FILE (lines `RED GREEN BLUE NAME`)."
        )
    _refuse_lossy(masks)
    ordered = tuple(sorted(colors))
    names = tuple(f"#{r:02x}{g:02x}{b:02x}" for r, g, b in ordered)
    return LabelMap(
        classes=names,
        colors=ordered,
        values={color: i for i, color in enumerate(ordered)},
        ignore=frozenset(),
        note=f"Each of the {len(names)} mask colours was taken as a class, in the order {', '.join(names)}. {override}",
    )


def _refuse_lossy(masks: Iterable[Path]) -> None:
    """JPEG blurs the values at edges into their neighbours, which then look like a few rare classes."""
    lossy = [path for path in masks if path.suffix.lower() in LOSSY]
    if lossy:
        raise DataError(
            f"masks are stored as JPEG (such as {lossy[0]}), which changes values where classes meet, so that they "
            "cannot be told from further classes. Save the masks as PNG from where they were drawn; if these values "
            "are right, name them in a file labels=FILE."
        )


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"class {i}" for i in range(count))
