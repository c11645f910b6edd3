"""Segmentation data in folders: any pair of an image and a mask folder, and CamVid's layout."""

from __future__ import annotations

import functools
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_cv_lectures.data.gif_masks import reading_of_gifs
from keras_cv_lectures.data.headers import orientation
from keras_cv_lectures.data.images import IMAGE_SUFFIXES, read_image, read_mask
from keras_cv_lectures.data.label_inference import infer_label_map
from keras_cv_lectures.data.labels import CAMVID_LABELS, LabelMap, read_label_file
from keras_cv_lectures.data.source import Source
from keras_cv_lectures.errors import DataError, KcvlWarning
from keras_cv_lectures.files import read_text

# What is commonly appended to the name of a mask, or of an image, to tell the two apart.
_MASK_ENDING = re.compile(
    r"[-_. ](masks?|labels?|L|gt|seg|segmentation|annot|annotation|(gtFine_|gtCoarse_)?label(Train)?Ids|matte)$", re.I
)
_IMAGE_ENDING = re.compile(r"[-_. ](leftImg8bit|images?|img|sat|rgb)$", re.I)
# Of the last part of a path, up to a sign between words.
_BEGINNING = re.compile(r"(?:.*/)?[^/_. -]*")


class Pair(NamedTuple):
    """The files of one example."""

    id: str
    image: Path
    mask: Path


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Pairs of picture and mask, before any of them is opened.

    Attributes:
        name: for messages.
        pairs: in natural order ("2" before "10"), or in the order of the list file.
        problems: one message for each file without a partner and each other reason why this cannot be trained on.
        labels: what the mask values mean, where the layout says it.
        notes: what was guessed.
    """

    name: str
    pairs: tuple[Pair, ...]
    problems: tuple[str, ...] = ()
    labels: LabelMap | None = None
    notes: tuple[str, ...] = ()

    def check(self, show: int = 3) -> Pairing:
        """Returns itself, or raises a `DataError` with the first few problems."""
        refuse(self.name, self.problems, show)
        return self


def refuse(name: str, problems: Sequence[str], show: int = 3) -> None:
    """Raises a `DataError` with the first few `problems`; returns where there is none."""
    if problems:
        more = len(problems) - show
        rest = f"\n... and {more} more; `kcvl doctor` lists all of them." if more > 0 else ""
        raise DataError(f"{name}: " + "\n".join(problems[:show]) + rest)


def folder_source(
    images: str | Path,
    masks: str | Path,
    *,
    labels: str | Path | LabelMap | None = None,
    list_file: str | Path | None = None,
    channels: int | None = 3,
    classes: Sequence[str] | None = None,
    name: str | None = None,
) -> Source:
    """Pictures in one folder and their masks in another, paired by file name.

    `a.jpg` goes with `a.png`, and also with `a_mask.png`, `a_label.png`, `a_L.png`, `a_labelIds.png` and the like.
    Where no two names go together like this, but all pictures end alike, and so do all masks, beginnings pair them:
    `21_training.tif` and `22_training.tif` go with `21_manual1.gif` and `22_manual1.gif`. The two folders may be one if
    the masks have one of the first endings, and one may lie inside the other. Subfolders are searched, also those that
    are links to folders elsewhere, each once; hidden files are not.

    Args:
        images: folder of pictures of any kind that `read_image` reads.
        masks: folder of masks of any kind that `read_mask` reads.
        labels: what the mask values mean: a label file (see `read_label_file`) or a map. None guesses it from the
            values in the masks (see `infer_label_map`).
        list_file: text file with one name per line (with or without extension; what follows a blank is not read);
            only these examples, in this order. This is how one folder is split into training and validation.
        channels: 3 for RGB, 1 for grey.
        classes: where `labels` is None, the class names that were guessed for the training masks.
        name: for messages; None means the image folder.

    Raises:
        DataError: a folder is missing or empty, a file has no partner, the list names unknown files, or the masks'
            values cannot be understood. Damaged pictures and differing sizes are reported when they are read.
    """
    pairing = find_pairs(images, masks, list_file=list_file, name=name).check()
    if labels is None:
        labels = infer_label_map([pair.mask for pair in pairing.pairs], classes=classes)
    elif not isinstance(labels, LabelMap):
        labels = read_label_file(labels)
    return paired_source(pairing, labels, channels=channels)


def camvid_source(folder: str | Path, split: str = "train", *, channels: int | None = 3) -> Source:
    """CamVid as the SegNet tutorial lays it out: `train/ trainannot/ val/ valannot/ (test/ testannot/)`.

    11 classes; mask value 11 (unlabelled) becomes 255.

    Raises:
        DataError: as `folder_source`.
    """
    return paired_source(camvid_pairs(folder, split).check(), CAMVID_LABELS, channels=channels)


def paired_source(pairing: Pairing, labels: LabelMap, *, channels: int | None = 3) -> Source:
    """Examples of `image`, `mask` and `image_id` read from pairs of files."""
    pairs = pairing.pairs
    gifs = functools.cache(lambda: _attempt(lambda: reading_of_gifs([pair.mask for pair in pairs], labels)))

    def read_stored(path: Path) -> np.ndarray:
        if path.suffix.lower() != ".gif":
            return read_mask(path, colors=labels.by_color)
        how, error = gifs()
        if error:
            raise DataError(error)
        return read_mask(path, **how)

    def read(index: int) -> dict[str, np.ndarray | str]:
        pair = pairs[index]
        image, image_error = _attempt(lambda: read_image(pair.image, channels))
        raw, mask_error = _attempt(lambda: read_stored(pair.mask))
        errors = [error for error in (image_error, mask_error) if error]
        if not errors and image.shape[:2] != raw.shape[:2]:
            repair = "Export the mask at the picture's size (resizing by nearest neighbour)."
            if image.shape[:2] == raw.shape[1::-1] and orientation(pair.image) != 1:
                repair = (
                    "Reading turns a picture as its camera noted (EXIF). Draw the mask on the turned picture, or save "
                    "the picture without that note."
                )
            errors = [
                f"{pair.image} is {image.shape[1]}x{image.shape[0]} (width x height), but its mask {pair.mask} is "
                f"{raw.shape[1]}x{raw.shape[0]}. {repair}"
            ]
        if errors:
            raise DataError("\n".join(errors))
        return {"image": image, "mask": labels.encode(raw, pair.mask), "image_id": pair.id}

    return Source(
        name=pairing.name,
        ids=tuple(pair.id for pair in pairs),
        read=read,
        classes=labels.classes,
        colors=labels.colors,
        files=lambda index: (pairs[index].image, pairs[index].mask),
    )


def find_pairs(
    images: str | Path,
    masks: str | Path,
    *,
    list_file: str | Path | None = None,
    name: str | None = None,
    labels: LabelMap | None = None,
) -> Pairing:
    """Pairs the files of two folders by name; what `folder_source` describes, without reading any picture.

    `labels` is passed on.

    Raises:
        DataError: a folder is missing or holds no picture, or the list file cannot be read.
    """
    images, masks = Path(images), Path(masks)
    name = name or str(images)
    image_files, mask_files = pictures_below(images, without=masks), pictures_below(masks, without=images)
    if images.resolve() == masks.resolve():
        mask_files = {key: p for key, p in mask_files.items() if _MASK_ENDING.search(key)}
        image_files = {key: p for key, p in image_files.items() if key not in mask_files}
    problems = [
        f"{paths[0]} and {paths[1].name} have the same name; which one is meant? Remove or rename one."
        for files in (image_files, mask_files)
        for paths in files.values()
        if len(paths) > 1
    ]
    partners, notes = _partners(image_files, mask_files), ()
    if not partners and (partners := _partners_by_beginning(list(image_files), list(mask_files))):
        key, other = next(iter(partners.items()))
        notes = (
            f"No mask is called like its picture, so that the beginnings of names pair them, such as "
            f"{image_files[key][0].name} with {mask_files[other][0].name}.",
        )
    if list_file is None:
        wanted = sorted(image_files, key=natural)
        used = set(partners.values())
        problems += [
            f"{mask_files[key][0]} has no picture in {images}. Add the picture or remove the mask."
            for key in sorted(mask_files, key=natural)
            if key not in used
        ]
    else:
        wanted, listed_problems = listed_keys(Path(list_file), image_files, images)
        problems += listed_problems
    problems += [
        f"{image_files[key][0]} has no mask in {masks}. Add the mask or remove the picture."
        for key in wanted
        if key not in partners
    ]
    pairs = [Pair(key, image_files[key][0], mask_files[partners[key]][0]) for key in wanted if key in partners]
    return Pairing(name=name, pairs=tuple(pairs), problems=tuple(problems), labels=labels, notes=notes)


def camvid_pairs(folder: str | Path, split: str) -> Pairing:
    """The pairs of one split in CamVid's layout.

    Raises:
        DataError: as `find_pairs`.
    """
    folder = Path(folder)
    present = camvid_splits(folder)
    if split not in present:
        raise DataError(
            f"{folder} has no split {split!r}: folders {split}/ and {split}annot/ with pictures and masks are "
            f"expected, and it has {', '.join(present) or 'no such pair'}. Check the path."
        )
    return find_pairs(folder / split, folder / f"{split}annot", name=f"camvid {split}", labels=CAMVID_LABELS)


def camvid_splits(folder: str | Path) -> tuple[str, ...]:
    """The splits that are there, of train, val and test."""
    folder = Path(folder)
    return tuple(s for s in ("train", "val", "test") if (folder / s).is_dir() and (folder / f"{s}annot").is_dir())


def _attempt(read: Callable[[], Any]) -> tuple[Any, str | None]:
    try:
        return read(), None
    except DataError as error:
        return None, str(error)


def pictures_below(folder: Path, *, without: Path | None = None) -> dict[str, list[Path]]:
    """Pictures below `folder`: relative path without extension -> the files of that name.

    Args:
        without: a folder whose files are left out if it lies inside of `folder`.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder. Check the path.")
    inner = _place_inside(without, folder) if without is not None else None
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(files_below(folder)):
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            inside = path.relative_to(folder)
            if inner is None or not inside.is_relative_to(inner):
                found[inside.with_suffix("").as_posix()].append(path)
    if not found:
        beside = f" outside of {without}" if inner is not None else ""
        raise DataError(f"{folder} holds no picture ({', '.join(IMAGE_SUFFIXES)}){beside}. Check the path.")
    return dict(found)


def files_below(folder: Path) -> Iterator[Path]:
    """Files in `folder` and in all folders below it, hidden ones left out, in no particular order.

    Links to folders are followed. Every folder is entered once, by its own path rather than by a link to it, so that no
    picture is found twice and rings end. Folders below that cannot be read, such as a disk's `lost+found`, are left out
    with a `KcvlWarning`.

    Raises:
        DataError: `folder` itself cannot be read.
    """
    entered: set[str] = set()
    # Links wait until all folders that need none have been entered.
    folders, links = [folder], []
    while folders or links:
        if not folders:
            links.sort(reverse=True)
        here = folders.pop() if folders else links.pop()
        place = os.path.realpath(here)
        if place in entered:
            continue
        entered.add(place)
        try:
            with os.scandir(here) as listing:
                entries = [entry for entry in listing if not entry.name.startswith(".")]
        except OSError as error:
            if here == folder:
                raise DataError(f"{folder} cannot be read ({error.strerror}). Check who may read it.") from error
            warnings.warn(f"{here} cannot be read ({error.strerror}) and is left out.", KcvlWarning, stacklevel=2)
            continue
        for entry in entries:
            path = here / entry.name
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif entry.is_symlink() and os.path.isdir(path):  # `entry.is_dir` raises of a link to itself.
                links.append(path)
            else:
                yield path


def _place_inside(inner: Path, outer: Path) -> Path | None:
    """The way from `outer` to `inner`; None where that lies elsewhere or is the same folder."""
    for place in (os.path.abspath, os.path.realpath):
        low, high = Path(place(inner)), Path(place(outer))
        if low != high and low.is_relative_to(high):
            return low.relative_to(high)
    return None


def visible(paths: Iterable[Path]) -> Iterator[Path]:
    """Those of `paths` whose last part does not begin with a dot; macOS puts a file `._NAME` beside NAME."""
    return (path for path in paths if not path.name.startswith("."))


def _partners(images: dict[str, list[Path]], masks: dict[str, list[Path]]) -> dict[str, str]:
    """Image key -> mask key: equal names first, then names that are equal without their usual endings."""
    partners = {key: key for key in images if key in masks}
    bare_masks: dict[str, list[str]] = defaultdict(list)
    for key in masks:
        if key not in partners:
            bare_masks[_MASK_ENDING.sub("", key)].append(key)
    for key in images:
        if key in partners:
            continue
        found = bare_masks.get(key) or bare_masks.get(_IMAGE_ENDING.sub("", key), [])
        if len(found) == 1:
            partners[key] = found[0]
    return partners


def _partners_by_beginning(images: list[str], masks: list[str]) -> dict[str, str]:
    """Image key -> mask key of equal beginnings in natural order, if all images have one ending and all masks another.

    A single pair would always do, such as `img_1` and `img_2`, and is none.
    """
    begun = []
    for keys in (images, masks):
        parts = [_BEGINNING.match(key)[0] for key in keys]
        endings = {key[len(part) :] for key, part in zip(keys, parts, strict=True)}
        begun.append(dict(zip(parts, keys, strict=True)) if len(endings) == 1 else {})
    both = begun[0].keys() & begun[1].keys()
    return {begun[0][part]: begun[1][part] for part in sorted(both, key=natural)} if len(both) > 1 else {}


def listed_keys(list_file: Path, images: dict[str, list[Path]], folder: Path) -> tuple[list[str], list[str]]:
    """Image keys named in a list file, and a problem for each line that names none."""
    content = read_text(list_file, what="the list file", repair="Give a text file of names.")
    lines = [line.strip() for line in content.splitlines()]
    by_name: dict[str, list[str]] = defaultdict(list)
    for key in images:
        by_name[key.rsplit("/", 1)[-1]].append(key)
    wanted: dict[str, None] = {}
    problems = []
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        key = _resolve(line, images, by_name) or _resolve(line.split()[0], images, by_name)
        where = f"{list_file}, line {number}: {line[:100]!r}"
        if key is None:
            problems.append(f"{where} is no picture in {folder}. Correct the list or add the picture.")
        elif key in wanted:
            problems.append(f"{where} is listed twice. Remove one.")
        else:
            wanted[key] = None
    if not wanted and not problems:
        raise DataError(f"the list file {list_file} is empty. Write one picture name per line.")
    return list(wanted), problems


def _resolve(text: str, images: dict[str, list[Path]], by_name: dict[str, list[str]]) -> str | None:
    path = Path(text)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        path = path.with_suffix("")
    if path.as_posix() in images:
        return path.as_posix()
    same_name = by_name.get(path.name, [])
    return same_name[0] if len(same_name) == 1 else None


def natural(text: str) -> list[tuple[bool, int, str]]:
    """Sorting key by which "2" comes before "10"."""
    # Not `isdigit`, which also takes superscripts, which are no numbers.
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", text)]
