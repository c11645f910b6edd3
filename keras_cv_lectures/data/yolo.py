"""YOLO's text files: one line `CLASS X Y WIDTH HEIGHT` an object, in fractions of the picture, or an outline.

`CLASS X1 Y1 X2 Y2 X3 Y3 ...` is an object with an outline, from which its mask and its box are made.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_cv_lectures.data.folders import files_below, natural
from keras_cv_lectures.data.objects import (
    ObjectListing,
    Objects,
    Size,
    class_numbers,
    crop_of,
    object_source,
    read_class_file,
)
from keras_cv_lectures.data.source import Source
from keras_cv_lectures.data.voc import with_suffix
from keras_cv_lectures.data.yolo_layout import read_yaml_names, yaml_files, yolo_layout
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.files import read_text

_CLASS_FILES = ("classes.txt", "obj.names", "labels/classes.txt")
# Programs round fractions, and boxes at the edge reach a little beyond 1.
_SLACK = 0.01
_MAX_CLASSES = 65536


def yolo_source(
    folder: str | Path,
    split: str | None = None,
    *,
    classes: Sequence[str] | None = None,
    masks: bool = True,
    channels: int | None = 3,
) -> Source:
    """Pictures with YOLO's text files: boxes, and instance masks where the files hold outlines.

    `images/train/NAME.jpg` goes with `labels/train/NAME.txt`; so do `train/images` and `train/labels`, `images` and
    `labels` without splits, and text files beside the pictures, where texts of other kinds are passed over. A picture
    without a text file has no objects.

    What a `.yaml` file in the folder says of the splits (`train:`, `val:`, `test:`, folders or lists of pictures) goes
    before the names of folders.

    Args:
        folder: the folder of one of these layouts.
        split: "train", "val" or "test", with a year or without (`val2017`); "val" also finds `valid` and `validation`.
            None takes data without splits.
        classes: class names in the order of the numbers; None reads them from a `.yaml` file (`names:`),
            `classes.txt`, `obj.names` or another `.names` file in the folder, and where there is none calls them
            "class 0", "class 1" and so on, up to the highest number in any split.
        masks: False takes an outline's box alone.
        channels: 3 for RGB, 1 for grey.

    Raises:
        DataError: the layout is none of these, its splits are not understood, a text file has no picture, a line is not
            of this form, or a `.yaml` file says that the data have keypoints.
    """
    return object_source(yolo_objects(folder, split, classes=classes, masks=masks).check(), channels=channels)


def yolo_objects(
    folder: str | Path, split: str | None = None, *, classes: Sequence[str] | None = None, masks: bool = True
) -> ObjectListing:
    """What `yolo_source` reads, with all problems.

    Raises:
        DataError: the layout is unknown or has no such split, the class names cannot be read, or there are keypoints.
    """
    folder = Path(folder)
    found, warned = yolo_layout(folder)
    if split not in found:
        there = ", ".join(name for name in found if name) or "no split: the pictures lie in one folder"
        raise DataError(f"{folder} has no split {split!r}; there is {there}. Choose another, or add the folders.")
    _refuse_keypoints(folder)
    classes = classes or _class_names(folder)
    rows, unlabelled = [], []
    problems, warnings = [], list(warned)
    for place in found[split]:
        apart = len(found[split]) > 1 and place.listed is None
        prefix = f"{place.images.relative_to(folder).as_posix()}/" if apart else ""
        pictures, texts = place.pictures(), place.texts()
        problems += place.problems
        problems += [
            f"{paths[0]} and {paths[1].name} have the same name; which one is meant? Remove or rename one."
            for paths in pictures.values()
            if len(paths) > 1
        ]
        alone = sorted(set(texts) - set(pictures), key=natural)
        # Darknet's lists of pictures and texts for people lie beside the pictures, too.
        prose = [key for key in alone if place.images == place.labels and "/" not in key and _is_prose(texts[key])]
        problems += [
            f"{texts[key]} has no picture in {place.images}. Add the picture or remove the text file."
            for key in alone
            if key not in prose
        ]
        warnings += [f"{texts[key]} has no picture and holds no objects; it is passed over." for key in prose]
        for key in sorted(pictures, key=natural):
            entries: list[_Entry] = []
            if key in texts:
                entries, faults = _read(texts[key], len(classes) if classes else _MAX_CLASSES)
                problems += faults
            else:
                unlabelled.append(prefix + key)
            rows.append((prefix + key, pictures[key][0], texts.get(key), entries))
    problems += _twice([row[1] for row in rows])
    if unlabelled:
        warnings.append(
            f"{found[split][0].labels}: {len(unlabelled)} pictures have no text file and count as pictures without "
            f"objects: {', '.join(unlabelled[:5])}{', ...' if len(unlabelled) > 5 else ''}."
        )
    if not classes:
        others = [
            path
            for name, places in found.items()
            for place in places
            if name != split
            for path in place.texts().values()
        ]
        entries = [e for row in rows for e in row[3]] + [e for path in others for e in _read(path, _MAX_CLASSES)[0]]
        numbers = [entry.label for entry in entries]
        classes = tuple(f"class {label}" for label in range(max(numbers, default=0) + 1))
        warnings.append(
            f"{folder} has no file of class names, so they are called 'class 0' to {classes[-1]!r}. Write them into "
            "classes.txt there, one a line, or into a file labels=FILE."
        )
    class_numbers(classes, "the list of classes")
    every = [(entry, text) for _, _, text, entries in rows for entry in entries]
    has_masks = masks and any(len(entry.values) > 4 for entry, _ in every)
    if has_masks:
        problems += [
            f"{text}, line {entry.line}: a box among outlines; expected an outline for every object. Add it, or train "
            "on boxes alone (masks=no)."
            for entry, text in every
            if len(entry.values) == 4
        ]

    def objects(index: int, size: Size) -> Objects:
        _, _, text, entries = rows[index]
        names = [f"{text}, line {e.line} ({classes[e.label]})" for e in entries]
        scale = np.array([size[1], size[0]], np.float64)
        outlines = [e.values.reshape(-1, 2) * scale for e in entries]
        return Objects(
            names=names,
            boxes=np.array([_box(points) for points in outlines], np.float64).reshape(-1, 4),
            labels=np.array([e.label for e in entries], np.int32),
            masks=[crop_of([points.reshape(-1)], size, n) for points, n in zip(outlines, names, strict=True)]
            if has_masks
            else None,
        )

    return ObjectListing(
        name=f"yolo {split or folder.name}",
        ids=tuple(key for key, *_ in rows),
        files=tuple((image,) if text is None else (image, text) for _, image, text, _ in rows),
        objects=objects,
        classes=tuple(classes),
        problems=tuple(problems),
        warnings=tuple(warnings),
    )


def yolo_splits(folder: str | Path) -> tuple[str | None, ...]:
    """Those of train and val that are there, test where it is alone, (None,) where the layout has no splits."""
    found, _ = yolo_layout(Path(folder))
    return tuple(split for split in found if split != "test") or tuple(found)


def has_yolo_labels(folder: Path) -> bool:
    """Whether a text file below `labels` has a picture of its name below `images`."""
    labels = folder / "labels"
    files = files_below(labels) if labels.is_dir() else ()
    stems = (path.relative_to(labels).with_suffix("") for path in files if path.suffix == ".txt")
    listed: dict[Path, dict[str, Path]] = {}
    return any(with_suffix(folder / "images" / stem, listed).is_file() for stem in stems)


def _twice(pictures: Sequence[Path]) -> list[str]:
    """A problem for each picture that lies in several places of one split; in one place each is found once."""
    return [
        f"{path} is named twice, because one entry of the .yaml file lies inside of another. Remove one there."
        for path, count in Counter(pictures).items()
        if count > 1
    ]


class _Entry(NamedTuple):
    """`values`: x, y, width, height, or an outline of at least six numbers, as written."""

    line: int
    label: int
    values: np.ndarray


def _box(points: np.ndarray) -> tuple[float, ...]:
    """(x1, y1, x2, y2) of centre and size (2, 2), or of an outline (P, 2)."""
    if len(points) == 2:
        return (*(points[0] - points[1] / 2), *(points[0] + points[1] / 2))
    return (*points.min(axis=0), *points.max(axis=0))


def _read(path: Path, count: int) -> tuple[list[_Entry], list[str]]:
    """The objects of a text file, and a problem for each line that describes none."""
    try:
        lines = read_text(path, repair="Export or copy it again.").splitlines()
    except DataError as error:
        return [], [str(error)]
    entries, problems = [], []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        where = f"{path}, line {number}"
        try:
            values = np.array(words, np.float64)
        except ValueError:
            problems.append(f"{where}: {line[:60]!r} holds something else than numbers. Correct or remove it.")
            continue
        if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
            problems.append(
                f"{where}: {len(words)} numbers; expected CLASS X Y WIDTH HEIGHT, or CLASS and the X Y of at least "
                "three points of an outline. Correct or remove it."
            )
        elif not (0 <= values[0] < count and values[0] == int(values[0])):
            problems.append(
                f"{where}: class {words[0]}; expected a whole number below {count}, the number of classes. Correct it, "
                "or name the class in a file labels=FILE."
            )
        elif not ((values[1:] >= -_SLACK) & (values[1:] <= 1 + _SLACK)).all():
            problems.append(
                f"{where}: {line[:60]!r}; expected fractions of the picture's width and height, from 0 to 1. Divide "
                "pixels by the picture's size, or remove the line."
            )
        else:
            entries.append(_Entry(number, int(values[0]), values[1:]))
    return entries, problems


def _refuse_keypoints(folder: Path) -> None:
    """Lines of a box and points without visibility have as many numbers as outlines."""
    for path in yaml_files(folder):
        try:
            text = read_text(path, repair="")
        except DataError:  # Said where names are read from it.
            continue
        if re.search(r"^kpt_shape[ \t]*:", text, re.M):
            raise DataError(
                f"{path} describes keypoints (kpt_shape), which are not read from YOLO's text files. Export the data "
                "as COCO JSON (keypoints)."
            )


def _is_prose(path: Path) -> bool:
    """Whether a text file holds something, but no object."""
    entries, problems = _read(path, _MAX_CLASSES)
    return bool(problems) and not entries


def _class_names(folder: Path) -> tuple[str, ...] | None:
    """Class names of a file in the folder, None where there is none."""
    for path in yaml_files(folder):
        names = read_yaml_names(path)
        if names:
            return names
    others = [folder / name for name in _CLASS_FILES] + sorted(folder.glob("*.names"))
    return next((read_class_file(path) for path in others if path.is_file()), None)
