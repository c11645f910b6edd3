"""The files of Flickr8k and Flickr30k, as they have been distributed over the years."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from keras_cv_lectures.data.caption_tables import caption_rows, read_lines
from keras_cv_lectures.data.folders import visible
from keras_cv_lectures.errors import DataError

_CAPTION_FILES = ("captions.txt", "captions.csv", "results.csv", "Flickr8k.token.txt", "results_20130124.token",
                  "Flickr30k.token.txt")  # fmt: skip
_KEY = re.compile(r"(?P<picture>[^\t]+?)#(?P<number>\d+)\s*\t(?P<caption>.*)")
_LISTS = {
    "train": re.compile(r"(^|[._-])train(_?images)?$", re.IGNORECASE),
    "val": re.compile(r"(^|[._-])(val|dev|valid|validation)(_?images)?$", re.IGNORECASE),
    "test": re.compile(r"(^|[._-])test(_?images)?$", re.IGNORECASE),
}
_DEEP = 2  # Folders between the one that is given and a file.


@dataclass(frozen=True, kw_only=True)
class FlickrLayout:
    """Where things are.

    Attributes:
        folder: as it was given.
        captions: the file of captions.
        pictures: the folder of pictures.
        lists: split -> the list of its pictures.
    """

    folder: Path
    captions: Path
    pictures: Path
    lists: dict[str, Path]


@dataclass(frozen=True, kw_only=True)
class _Split:
    names: frozenset[str]
    list_file: Path

    def takes(self, picture: str) -> bool:
        # Flickr30k's lists hold names without ".jpg".
        return picture in self.names or picture.rpartition(".")[0] in self.names

    def missing(self, layout: FlickrLayout) -> tuple[str, ...]:
        """A warning about listed pictures that have no row."""
        captioned = {row[0] for row in flickr_rows(layout) if row[1] is not None}
        captioned |= {name.rpartition(".")[0] for name in captioned}
        bare = sorted(self.names - captioned)
        if not bare:
            return ()
        shown = ", ".join(bare[:5]) + (f" and {len(bare) - 5} more" if len(bare) > 5 else "")
        return (f"{self.list_file} names pictures without a caption: {len(bare)}: {shown}.",)


def find_flickr(folder: str | Path) -> FlickrLayout:
    """Finds captions, pictures and lists in `folder` and up to two folders below.

    Raises:
        DataError: there is no file of captions, or no folder with its pictures.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder. Check the path.")
    folders = _folders(folder)
    captions = next((f / name for name in _CAPTION_FILES for f in folders if (f / name).is_file()), None)
    if captions is None:
        raise DataError(
            f"{folder} holds no captions: one of {', '.join(_CAPTION_FILES)} is expected in it or below. For another "
            "table of captions use captions:CSV,IMAGES."
        )
    names = _first_pictures(captions)
    pictures = next((f for f in folders if any(os.path.isfile(f / name) for name in names)), None)
    if pictures is None:
        raise DataError(
            f"{folder} holds none of the pictures that {captions} names, such as {names[0] if names else 'photo.jpg'}. "
            "Unpack the pictures into a folder of it."
        )
    lists = {}
    texts = [p for f in folders if f != pictures or f == folder for p in sorted(visible(f.glob("*.txt")))]
    for split, pattern in _LISTS.items():
        found = [path for path in texts if pattern.search(path.stem)]
        if len(found) > 1:
            raise DataError(f"{folder} holds several lists for {split}: {', '.join(map(str, found))}. Keep one.")
        lists |= {split: found[0]} if found else {}
    return FlickrLayout(folder=folder, captions=captions, pictures=pictures, lists=lists)


def has_flickr(folder: Path) -> bool:
    """Whether `folder` itself holds a file of captions of one of the known names."""
    return any((folder / name).is_file() for name in _CAPTION_FILES)


def flickr_splits(folder: str | Path) -> tuple[str, ...]:
    """Those of train and val that have a list."""
    return tuple(split for split in ("train", "val") if split in find_flickr(folder).lists)


def in_split(layout: FlickrLayout, split: str) -> _Split:
    """The pictures of one split ("dev" is "val").

    Raises:
        DataError: there is no list of it, or it is empty.
    """
    split = "val" if split == "dev" else split
    if split not in layout.lists:
        present = ", ".join(layout.lists) or "none"
        raise DataError(
            f"{layout.folder} has no list of the split {split!r}; there is {present}. Choose one with split=NAME, or "
            f"add a list of picture names such as Flickr_8k.{split}Images.txt."
        )
    names = frozenset(line.strip() for line in read_lines(layout.lists[split]) if line.strip())
    if not names:
        raise DataError(f"the list file {layout.lists[split]} is empty. Write one picture name per line.")
    return _Split(names=names, list_file=layout.lists[split])


def flickr_rows(layout: FlickrLayout) -> Iterator[tuple[str, str | None, str]]:
    """Rows as of `caption_rows`, of a table or of a token file."""
    if not _is_token_file(layout.captions):
        yield from caption_rows(layout.captions)
        return
    seen: set[tuple[str, str]] = set()
    for number, line in enumerate(read_lines(layout.captions), 1):
        where = f"{layout.captions}, line {number}"
        if not line.strip():
            continue
        found = _KEY.fullmatch(line)
        if found is None:
            yield f"is {line[:40]!r}; expected name.jpg#0, a tab, and the caption. Correct or remove it.", None, where
        elif (key := (found["picture"], found["number"])) in seen:
            yield f"has {key[0]}#{key[1]} a second time. Remove one.", None, where
        else:
            seen.add(key)
            yield found["picture"].strip(), found["caption"], where


def _is_token_file(path: Path) -> bool:
    return ".token" in path.name


def _first_pictures(captions: Path) -> list[str]:
    """Some pictures that the captions name, to find their folder by."""
    layout = FlickrLayout(folder=captions.parent, captions=captions, pictures=captions.parent, lists={})
    names: dict[str, None] = {}
    for picture, caption, _ in flickr_rows(layout):
        usable = caption is not None and picture and ".." not in picture and not picture.startswith("/")
        if usable and "\0" not in picture:
            names[picture] = None
        if len(names) == 100:
            break
    return list(names)


def _folders(folder: Path) -> list[Path]:
    """`folder` and those below it, the nearest first, hidden ones left out."""
    found, level = [folder], [folder]
    for _ in range(_DEEP):
        level = [p for f in level for p in sorted(f.iterdir()) if p.is_dir() and not p.name.startswith(".")]
        found += level
    return found
