"""YOLO's text files: one line `CLASS X Y WIDTH HEIGHT` an object, in fractions of the picture, or an outline.

`CLASS X1 Y1 X2 Y2 X3 Y3 ...` is an object with an outline, from which its mask and its box are made.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_cv_lectures.data.folders import files_below, natural, pictures_below
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
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.files import read_text

_SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_CLASS_FILES = ("classes.txt", "obj.names", "labels/classes.txt")
# Programs round fractions, and boxes at the edge reach a little beyond 1.
_SLACK = 0.01
_MAX_CLASSES = 65536
# A name as YAML writes it: in quotes, or plain, up to a comment; inside of brackets up to a comma, too. Names in double
# quotes that hold a backslash are refused.
_QUOTED = r"""'(?:[^'\n]|'')*'|"[^"\\\n]*\""""
_NUMBER = r"(?:\d+\s*:\s*)?"
_PLAIN = r"""(?!-\s)[^\s'"\[\]{},#&*!|>%@`]"""
_FLOW_ITEM = re.compile(rf"{_NUMBER}(?:{_QUOTED}|{_PLAIN}(?:[^,\[\]{{}}\n#]|(?<=\S)#)*)")
_BLOCK_LINE = re.compile(rf"\s*(?:-\s*)?({_NUMBER}(?:{_QUOTED}|{_PLAIN}(?:[^#]|(?<=\S)#)*))\s*(?:#.*)?")
_GAP = re.compile(r"(?:\s|#[^\n]*)*")


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

    Args:
        folder: the folder of one of these layouts.
        split: "train", "val" or "test"; "val" also finds `valid`. None takes data without splits.
        classes: class names in the order of the numbers; None reads them from a `.yaml` file (`names:`),
            `classes.txt`, `obj.names` or another `.names` file in the folder, and where there is none calls them
            "class 0", "class 1" and so on, up to the highest number in any split.
        masks: False takes an outline's box alone.
        channels: 3 for RGB, 1 for grey.

    Raises:
        DataError: the layout is none of these, a text file has no picture, a line is not of this form, or a `.yaml`
            file says that the data have keypoints.
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
    found = _layouts(folder)
    if split not in found:
        there = ", ".join(name for name in found if name) or "no split: the pictures lie in one folder"
        raise DataError(f"{folder} has no split {split!r}; there is {there}. Choose another, or add the folders.")
    _refuse_keypoints(folder)
    classes = classes or _class_names(folder)
    images, labels = found[split]
    pictures = pictures_below(images)
    problems = [
        f"{paths[0]} and {paths[1].name} have the same name; which one is meant? Remove or rename one."
        for paths in pictures.values()
        if len(paths) > 1
    ]
    texts = _text_files(labels)
    alone = sorted(set(texts) - set(pictures), key=natural)
    # Darknet's lists of pictures and texts for people lie beside the pictures, too.
    prose = [key for key in alone if images == labels and "/" not in key and _is_prose(texts[key])]
    problems += [
        f"{texts[key]} has no picture in {images}. Add the picture or remove the text file."
        for key in alone
        if key not in prose
    ]
    rows, unlabelled = [], []
    warnings = [f"{texts[key]} has no picture and holds no objects; it is passed over." for key in prose]
    for key in sorted(pictures, key=natural):
        entries: list[_Entry] = []
        if key in texts:
            entries, faults = _read(texts[key], len(classes) if classes else _MAX_CLASSES)
            problems += faults
        else:
            unlabelled.append(key)
        rows.append((key, pictures[key][0], texts.get(key), entries))
    if unlabelled:
        warnings.append(
            f"{labels}: {len(unlabelled)} pictures have no text file and count as pictures without objects: "
            f"{', '.join(unlabelled[:5])}{', ...' if len(unlabelled) > 5 else ''}."
        )
    if not classes:
        others = [path for name, pair in found.items() if name != split for path in _text_files(pair[1]).values()]
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
    found = _layouts(Path(folder))
    return tuple(split for split in found if split != "test") or tuple(found)


def has_yolo_labels(folder: Path) -> bool:
    """Whether a text file below `labels` has a picture of its name below `images`."""
    labels = folder / "labels"
    files = files_below(labels) if labels.is_dir() else ()
    stems = (path.relative_to(labels).with_suffix("") for path in files if path.suffix == ".txt")
    listed: dict[Path, dict[str, Path]] = {}
    return any(with_suffix(folder / "images" / stem, listed).is_file() for stem in stems)


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


def _layouts(folder: Path) -> dict[str | None, tuple[Path, Path]]:
    """Split -> its folders of pictures and of text files; the key None for data without splits."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder. Check the path.")
    found: dict[str | None, tuple[Path, Path]] = {}
    for split, names in _SPLITS.items():
        pairs = [(folder / "images" / n, folder / "labels" / n) for n in names]
        pairs += [(folder / n / "images", folder / n / "labels") for n in names]
        usable = [pair for pair in pairs if pair[0].is_dir() and pair[1].is_dir()]
        if usable:
            found[split] = usable[0]
    if found:
        return found
    if (folder / "images").is_dir() and (folder / "labels").is_dir():
        return {None: (folder / "images", folder / "labels")}
    if _text_files(folder):
        return {None: (folder, folder)}
    raise DataError(
        f"{folder} does not hold YOLO's layout: images/train and labels/train, or train/images and train/labels, or "
        "images and labels, or text files beside the pictures are expected. Check the path."
    )


def _text_files(folder: Path) -> dict[str, Path]:
    """Relative path without extension -> text file."""
    files = (path for path in sorted(files_below(folder)) if path.suffix == ".txt" and path.is_file())
    return {
        path.relative_to(folder).as_posix().removesuffix(".txt"): path for path in files if path.name != "classes.txt"
    }


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


def _yaml_files(folder: Path) -> list[Path]:
    """data.yaml first."""
    found = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".yaml", ".yml")]
    return sorted(found, key=lambda path: path.stem != "data")


def _refuse_keypoints(folder: Path) -> None:
    """Lines of a box and points without visibility have as many numbers as outlines."""
    for path in _yaml_files(folder):
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
    for path in _yaml_files(folder):
        names = read_yaml_names(path)
        if names:
            return names
    others = [folder / name for name in _CLASS_FILES] + sorted(folder.glob("*.names"))
    return next((read_class_file(path) for path in others if path.is_file()), None)


def read_yaml_names(path: Path) -> tuple[str, ...] | None:
    """The entry `names:` of a YAML file in the forms that occur there; None where it has none.

    Understood are `names: [a, b]`, `names: {0: a, 1: b}`, also over several lines, and lines `- a` or `0: a` below.

    Raises:
        DataError: the file cannot be read, or its `names` have another form.
    """
    text = read_text(path, repair="Give the names in a file labels=FILE.")
    head = re.search(r"^names[ \t]*:[ \t]*", text, re.M)
    if head is None:
        return None
    rest = text[head.end() :]
    items = _flow_items(rest) if rest[:1] in ("[", "{") else _block_items(rest.split("\n")[1:])
    pairs = [re.fullmatch(r"0*(\d+)\s*:\s*(.*)", item.strip()) for item in items]
    if items and all(pairs):
        # Numbers as texts: Python does not convert one of thousands of digits.
        named = {pair[1]: pair[2] for pair in pairs}
        items = [named.get(str(index), "") for index in range(len(named))]
    names = tuple(_unquoted(item.strip()).strip() for item in items)
    if not names or not all(names):
        raise DataError(
            f"{path}: `names` must be a list of class names, or numbers from 0 without gaps with a name each. Correct "
            "it, or give the names in a file labels=FILE."
        )
    return names


def _flow_items(text: str) -> list[str]:
    """The items of `[a, b]` or `{0: a, 1: b}` at the start of a text, quotes kept; [] where it is no such list."""
    close, at, items = "]" if text[0] == "[" else "}", 1, []
    while True:
        at = _GAP.match(text, at).end()
        if text[at : at + 1] == close:
            return items
        item = _FLOW_ITEM.match(text, at)
        if item is None:
            return []
        items.append(item[0])
        at = _GAP.match(text, item.end()).end()
        if text[at : at + 1] not in (",", close):
            return []
        at += text[at] == ","


def _block_items(lines: Sequence[str]) -> list[str]:
    """The items of lines `- a` or `0: a`, quotes kept; [] where a line is none."""
    items = []
    for line in (line.rstrip("\r") for line in lines):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not re.match(r"\s|-(?!--)", line):
            break
        item = _BLOCK_LINE.fullmatch(line)
        if item is None or not re.match(r"\s*(-|\d+\s*:)", line):
            return []
        items.append(item[1])
    return items


def _unquoted(item: str) -> str:
    """A name without its quotes; "" where it is no name."""
    if re.fullmatch(_QUOTED, item):
        return item[1:-1].replace("''", "'") if item[0] == "'" else item[1:-1]
    return item if re.match(_PLAIN, item) else ""
