"""Where the files of a data set in YOLO's layouts lie: by the names of its folders, and by what its YAML file says."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from keras_cv_lectures.data.folders import files_below, pictures_below
from keras_cv_lectures.data.images import IMAGE_SUFFIXES
from keras_cv_lectures.data.objects import path_inside, shortened
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.files import read_text

# Names of folders that hold a split, with a year or without, such as `val2017`.
_SPLITS = {"train": r"train\d*", "val": r"(val|valid|validation)\d*", "test": r"test\d*"}
# Names that say that a folder is a split without saying which, or in another way.
_LIKE_A_SPLIT = re.compile(
    r"(train|val|test|dev|eval)(ing|id|idation|uation)?[-_. ]?(set|split|data|images)?[-_. ]?\d*", re.I
)
# A name as YAML writes it: in quotes, or plain, up to a comment; inside of brackets up to a comma, too. Names in double
# quotes that hold a backslash are refused.
_QUOTED = r"""'(?:[^'\n]|'')*'|"[^"\\\n]*\""""
_NUMBER = r"(?:\d+\s*:\s*)?"
_PLAIN = r"""(?!-\s)[^\s'"\[\]{},#&*!|>%@`]"""
_FLOW_ITEM = re.compile(rf"{_NUMBER}(?:{_QUOTED}|{_PLAIN}(?:[^,\[\]{{}}\n#]|(?<=\S)#)*)")
_BLOCK_LINE = re.compile(rf"\s*(?:-\s*)?({_NUMBER}(?:{_QUOTED}|{_PLAIN}(?:[^#]|(?<=\S)#)*))\s*(?:#.*)?")
_GAP = re.compile(r"(?:\s|#[^\n]*)*")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where pictures and their text files lie.

    Attributes:
        images, labels: a folder of pictures and one of text files.
        listed: path without extension -> picture and text file, whether they exist or not; None takes all files.
        problems: one message for each line of a list that names no picture.
    """

    images: Path
    labels: Path
    listed: dict[str, tuple[Path, Path]] | None = None
    problems: tuple[str, ...] = ()

    def pictures(self) -> dict[str, list[Path]]:
        """Path without extension -> the pictures of that name; raises a `DataError` where there is none."""
        if self.listed is None:
            return pictures_below(self.images)
        return {key: [picture] for key, (picture, _) in self.listed.items()}

    def texts(self) -> dict[str, Path]:
        """Path without extension -> text file."""
        if self.listed is None:
            return _text_files(self.labels)
        return {key: text for key, (_, text) in self.listed.items() if text.is_file()}


def yolo_layout(folder: Path) -> tuple[dict[str | None, tuple[Place, ...]], tuple[str, ...]]:
    """Split -> where its files lie, and what to say of it; the key None is for data without splits.

    What `train:`, `val:` and `test:` of data.yaml, or of a `.yaml` file with `train:` or `names:`, say goes before the
    names of folders: folders and lists of pictures inside of `folder`, as they are written, below `path:`, or without
    the `../` that they begin with. The text file of a picture lies where the last folder `images` of its path is called
    `labels`, or else beside it. An empty entry is none.

    Raises:
        DataError: `folder` has no layout that is known, or splits that are not understood.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder. Check the path.")
    by_name, warnings = _by_name(folder)
    written, more = _written(folder, by_name)
    warnings += more
    found: dict[str | None, tuple[Place, ...]] = {}
    for split in _SPLITS:
        places = by_name.get(split, ())
        if split not in written and len(places) > 1:
            raise DataError(
                f"{folder}: which folder holds the pictures of {split}: "
                f"{', '.join(str(place.images.relative_to(folder)) for place in places)}? Say so in its data.yaml "
                f"(`{split}: FOLDER`), or take the others out."
            )
        if split in written or places:
            found[split] = written.get(split, places)
    if found:
        alone = not by_name and list(found) == ["train"]
        return {None: found["train"]} if alone else found, tuple(warnings)
    images, labels = folder / "images", folder / "labels"
    if images.is_dir() and labels.is_dir():
        unclear = [path.name for path in _folders(images, _LIKE_A_SPLIT)]
        if unclear:
            raise DataError(
                f"{images} holds {', '.join(unclear)}, which are called like splits. Call them train, val and test, in "
                f"{labels}, too, or name them in data.yaml (`train: images/{unclear[0]}`)."
            )
        return {None: (Place(images=images, labels=labels),)}, ()
    if _text_files(folder):
        return {None: (Place(images=folder, labels=folder),)}, ()
    raise DataError(
        f"{folder} does not hold YOLO's layout: images/train and labels/train, or train/images and train/labels, or "
        "images and labels, or text files beside the pictures are expected. Check the path."
    )


def _by_name(folder: Path) -> tuple[dict[str, tuple[Place, ...]], list[str]]:
    """Split -> the places that are called so, one if it is called so without a year; and what is passed over."""
    found, warnings = {}, []
    for split, pattern in _SPLITS.items():
        pairs = [(path, folder / "labels" / path.name) for path in _folders(folder / "images", pattern)]
        pairs += [(path / "images", path / "labels") for path in _folders(folder, pattern)]
        places = [Place(images=pair[0], labels=pair[1]) for pair in pairs if pair[0].is_dir() and pair[1].is_dir()]
        if places:
            certain = re.search(r"\d", str(places[0].images.relative_to(folder))) is None
            found[split] = tuple(places[:1] if certain else places)
        elif split != "test":
            warnings += [
                f"{images} has no folder {labels} of text files; its pictures are passed over."
                for images, labels in pairs
                if images.is_dir()
            ]
    return found, warnings


def _folders(folder: Path, pattern: str | re.Pattern) -> list[Path]:
    """Folders in `folder` whose names match, those without a year and with short names first."""
    inside = folder.iterdir() if folder.is_dir() else ()
    found = [path for path in inside if re.fullmatch(pattern, path.name) and path.is_dir()]
    return sorted(found, key=lambda path: (bool(re.search(r"\d", path.name)), len(path.name), path.name))


def _written(folder: Path, by_name: dict[str, tuple[Place, ...]]) -> tuple[dict[str, tuple[Place, ...]], list[str]]:
    """Split -> the places that the YAML file names, without those to validate on that are the ones to train on."""
    found, warnings = {}, []
    for path in yaml_files(folder):
        entries = _entries(path, ("path", *_SPLITS, "names"))
        # Others are settings of a training, such as args.yaml of Ultralytics with `val: true`.
        if entries.keys() & _SPLITS.keys() and (path.stem == "data" or entries.get("train") or "names" in entries):
            break
    else:
        return {}, []
    for key in ("path", *_SPLITS):
        if not entries.get(key, ["."]):
            raise DataError(f"{path}: `{key}` must be a path, or a list of paths. Correct it, or leave it out.")
    base = next((place for text in entries.get("path", ()) for place in _inside(text, [folder])), folder)
    for split in _SPLITS:
        places = []
        for text in entries.get(split, ()):
            there = next(_inside(text, [base, folder]), None)
            place = _place(there, folder) if there else None
            astray = place is not None and place.listed == {} and place.problems
            if place is not None and place.labels.is_dir() and not astray:
                places.append(place)
                continue
            fault = (
                f"{path}: `{split}: {shortened(text)[1:-1]}` names no folder and no list of pictures in {folder}"
                if place is None
                else f"{path}: the pictures of `{split}` lie in {place.images}, but {place.labels} is no folder"
            )
            if astray:
                fault = f"{path}: no line of the list `{split}: {shortened(text)[1:-1]}` names a picture ({astray[0]})"
            if by_name.get(split):
                warnings.append(f"{fault}; {by_name[split][0].images} is read.")
            elif split == "val" and place is None and (found.get("train") or by_name.get("train")):
                warnings.append(f"{fault}; pictures of `train` are validated on instead.")
            elif split != "test":  # Which is often given out without its objects.
                raise DataError(f"{fault}. Correct it there.")
            places = []
            break
        if places:
            found[split] = tuple(places)
    if found.get("val") is not None and found["val"] == found.get("train"):
        warnings.append(f"{path}: `val` names the pictures of `train`, and is not read.")
        del found["val"]
    return found, warnings


def _inside(text: str, bases: Sequence[Path]) -> Iterator[Path]:
    """What `text` names in one of the folders `bases`: as it is written, or without the `../` that it begins with."""
    for base in bases:
        if text in (".", "./"):
            yield base
        root = os.path.abspath(base)
        inner = os.path.relpath(text, root) if os.path.isabs(text) and "\0" not in text else text
        for each in dict.fromkeys((inner, re.sub(r"^(\.\.[/\\])+", "", inner))):
            try:
                path = path_inside(base, each, "")
            except DataError:
                continue
            if path.exists():
                yield path


def _place(path: Path, folder: Path) -> Place | None:
    """The place that an entry of the YAML file stands for, None where it is no folder and no list."""
    if path.is_dir():
        if "images" not in path.relative_to(folder).parts and (path / "images").is_dir():
            path = path / "images"
        return Place(images=path, labels=_labels_of(path, folder))
    if path.suffix != ".txt":
        return None
    listed, problems = {}, []
    for number, line in enumerate(read_text(path, what="the list", repair="").splitlines(), 1):
        text = line.strip()
        if not text:
            continue
        picture = next((p for p in _inside(text, [folder, path.parent]) if p.suffix.lower() in IMAGE_SUFFIXES), None)
        where = f"{path}, line {number}: {shortened(text)}"
        if picture is None:
            problems.append(f"{where} is no picture in {folder}. Correct the list or add the picture.")
            continue
        key = picture.relative_to(folder).with_suffix("").as_posix()
        if key in listed:
            problems.append(f"{where} is listed twice. Remove one.")
        listed[key] = picture, _labels_of(picture, folder).with_suffix(".txt")
    return Place(images=folder, labels=folder, listed=listed, problems=tuple(problems))


def _labels_of(path: Path, folder: Path) -> Path:
    """`path` with its last folder `images` inside of `folder` called `labels`."""
    parts = list(path.relative_to(folder).parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return folder.joinpath(*parts)


def _text_files(folder: Path) -> dict[str, Path]:
    """Relative path without extension -> text file."""
    files = (path for path in sorted(files_below(folder)) if path.suffix == ".txt" and path.is_file())
    return {
        path.relative_to(folder).as_posix().removesuffix(".txt"): path for path in files if path.name != "classes.txt"
    }


def yaml_files(folder: Path) -> list[Path]:
    """data.yaml first."""
    found = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".yaml", ".yml")]
    return sorted(found, key=lambda path: path.stem != "data")


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
    items = _items(text[head.end() :])
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


def _entries(path: Path, keys: Sequence[str]) -> dict[str, list[str]]:
    """Those of `keys` that a YAML file gives something, as a list of texts; [] for what is no text and no such list."""
    try:
        text, found = read_text(path, repair=""), {}
    except DataError:  # Said where names are read from it.
        return {}
    for key in keys:
        head = re.search(rf"^{key}[ \t]*:(?=\s|$)[ \t]*", text, re.M)
        if head is None:
            continue
        if re.match(r"(''|\"\"|\[\s*\])\s*(#.*)?$", text[head.end() :], re.M):
            continue
        first, *others = (line.rstrip("\r") for line in text[head.end() :].split("\n"))
        if re.fullmatch(r"(~|null)?\s*(#.*)?", first):
            below = next((line for line in others if line.strip() and not line.lstrip().startswith("#")), "")
            if not re.match(r"\s|-(?!--)", below):
                continue
        scalar = _BLOCK_LINE.fullmatch(first)
        items = [scalar[1]] if scalar else _items(text[head.end() :])
        texts = [_unquoted(item.strip()).strip() for item in items]
        found[key] = texts if all(texts) else []
    return found


def _items(text: str) -> list[str]:
    """The items of a list of YAML that begins `text`, quotes kept; [] where it is none that is understood."""
    return _flow_items(text) if text[:1] in ("[", "{") else _block_items(text.split("\n")[1:])


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
