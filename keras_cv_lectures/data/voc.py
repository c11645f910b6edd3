"""Pascal VOC's layout: JPEGImages, SegmentationClass, ImageSets."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from keras_cv_lectures.data.folders import Pair, Pairing, paired_source
from keras_cv_lectures.data.images import IMAGE_SUFFIXES
from keras_cv_lectures.data.labels import VOC_LABELS, LabelMap, read_label_file
from keras_cv_lectures.data.objects import path_inside
from keras_cv_lectures.data.source import Source
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.files import read_text

_LISTS = Path("ImageSets", "Segmentation")
_LABEL_FILE = "labelmap.txt"


def voc_segmentation_source(
    folder: str | Path,
    split: str = "train",
    *,
    labels: str | Path | LabelMap | None = None,
    channels: int | None = 3,
) -> Source:
    """The semantic segmentation task of Pascal VOC: 20 object classes and background; 255 (void) is ignored.

    Args:
        folder: the folder that holds `JPEGImages`, `SegmentationClass` and `ImageSets`, or one above it, such as the
            one where `VOCtrainval_11-May-2012.tar` was unpacked.
        split: name of a list in `ImageSets/Segmentation`: "train", "val", "trainval" or one of your own.
        labels: label file or map of a data set in this layout with other classes; None takes `labelmap.txt` beside
            these folders, if it has lines `NAME:R,G,B::` as CVAT and Datumaro write them, and otherwise VOC's 21.
        channels: 3 for RGB, 1 for grey.

    Raises:
        DataError: the folders or the list are missing, or a listed picture or mask is. Damaged pictures are reported
            when they are read.
    """
    if labels is not None and not isinstance(labels, LabelMap):
        labels = read_label_file(labels)
    pairing = voc_pairs(folder, split, labels=labels).check()
    return paired_source(pairing, pairing.labels, channels=channels)


def voc_pairs(folder: str | Path, split: str, *, labels: LabelMap | None = None) -> Pairing:
    """The pairs that the list `split` names; with `labels` no `labelmap.txt` is looked at.

    Raises:
        DataError: the folders or the list are missing, the list is empty or names what lies outside of `folder`, or
            `labelmap.txt` is damaged.
    """
    root = find_voc_root(folder)
    list_file, label_file = list_of_split(root / _LISTS, split), root / _LABEL_FILE
    if labels is None:
        labels = read_label_file(label_file) if _names_colors(label_file) else VOC_LABELS
    return listed_pairs(f"voc {split}", list_file, root / "JPEGImages", root / "SegmentationClass", labels=labels)


def _names_colors(label_file: Path) -> bool:
    """Whether the file is there and one of its lines has the form of CVAT and Datumaro; others write other things."""
    if not label_file.is_file():
        return False
    text = read_text(label_file, what="the label file", repair="Give the labels in a file labels=FILE.")
    return re.search(r"^[^#:\n][^:\n]*:\s*\d+\s*,\s*\d+\s*,\s*\d+\s*:", text, re.M) is not None


def list_of_split(lists: Path, split: str) -> Path:
    """The file NAME.txt in the folder `lists` that names the pictures of a split.

    Raises:
        DataError: there is none; the message names those that there are.
    """
    file = path_inside(lists, f"{split}.txt", f"the split {split!r}")
    if not file.is_file():
        present = ", ".join(sorted(p.stem for p in lists.glob("*.txt"))) or "no list"
        raise DataError(f"{file} does not exist; there is {present}. Choose one with split=NAME, or add the list.")
    return file


def listed_names(list_file: Path, folder: Path) -> list[str]:
    """The names in a list, one a line; lines with # are comments.

    What follows a blank is not read, unless the whole line is the name of a picture in `folder`.

    Raises:
        DataError: the list is empty, or names what lies outside of `folder`.
    """
    lines = read_text(list_file, what="the list file").splitlines()
    listed: dict[Path, dict[str, Path]] = {}
    names = [_name(line, folder, listed) for line in lines if line.strip() and not line.startswith("#")]
    if not names:
        raise DataError(f"the list file {list_file} is empty. Write one picture name per line.")
    for name in names:
        path_inside(folder, name, f"the list file {list_file}")
    return names


def _name(line: str, folder: Path, listed: dict[Path, dict[str, Path]]) -> str:
    whole, first = line.strip(), line.split()[0]
    if whole != first:
        try:
            if with_suffix(path_inside(folder, whole, ""), listed).is_file():
                return whole
        except DataError:  # It is no path, so that only its beginning can be one.
            pass
    return first


def listed_pairs(name: str, list_file: Path, images: Path, masks: Path, *, labels: LabelMap | None = None) -> Pairing:
    """The pairs of `images/NAME` with any extension and `masks/NAME.png` for each name in a list.

    `labels` is passed on.

    Raises:
        DataError: as `listed_names`.
    """
    names = listed_names(list_file, images)
    pairs, problems, listed = [], [], {}
    for each in dict.fromkeys(names):
        image, mask = with_suffix(images / each, listed), masks / f"{each}.png"
        problems += [
            f"{path} is missing, though {list_file} names it. Add the file or remove the line."
            for path in (image, mask)
            if not path.is_file()
        ]
        if image.is_file() and mask.is_file():
            pairs.append(Pair(each, image, mask))
    twice = sorted(each for each, count in Counter(names).items() if count > 1)
    problems += [f"{list_file} names {each} twice. Remove one." for each in twice]
    return Pairing(name=name, pairs=tuple(pairs), problems=tuple(problems), labels=labels)


def voc_splits(folder: str | Path) -> tuple[str, ...]:
    """Those of train and val that have a list; trainval where neither has."""
    lists = find_voc_root(folder) / _LISTS
    present = tuple(split for split in ("train", "val") if (lists / f"{split}.txt").is_file())
    return present or (("trainval",) if (lists / "trainval.txt").is_file() else ())


def find_voc_root(folder: str | Path) -> Path:
    """The folder with `JPEGImages` and `SegmentationClass`: `folder`, or one at most three levels below it.

    Raises:
        DataError: there is none, or there are several and none is VOC2012.
    """
    found = find_below(folder, ("JPEGImages", "SegmentationClass", _LISTS))
    if found is None:
        raise DataError(
            f"{folder} does not hold Pascal VOC segmentation data: JPEGImages/, SegmentationClass/ and "
            "ImageSets/Segmentation/ are expected in it or in VOCdevkit/VOC2012 below it. Check the path."
        )
    return found


def find_below(folder: str | Path, parts: Sequence[str | Path]) -> Path | None:
    """`folder`, or one named VOC* at most three levels below it, if it holds the folders `parts`; None without.

    Raises:
        DataError: `folder` is none, or several are found and none is VOC2012.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder. Check the path.")
    for candidates in ([folder], *(sorted(folder.glob(pattern)) for pattern in ("VOC*", "*/VOC*", "*/*/VOC*"))):
        found = [path for path in candidates if all((path / part).is_dir() for part in parts)]
        if len(found) > 1:
            found = [p for p in found if p.name == "VOC2012"] or found
        if len(found) > 1:
            raise DataError(f"{folder} holds {', '.join(p.name for p in found)}. Give the folder of one of them.")
        if found:
            return found[0]
    return None


def with_suffix(stem: Path, listed: dict[Path, dict[str, Path]] | None = None) -> Path:
    """The picture file of this name and any extension; with the first extension where there is none.

    Args:
        listed: folder -> name without extension -> picture, of folders that were looked through. Extensions in capitals
            are found so; pass one dict for many names, so that a folder is listed once.
    """
    candidates = [stem.with_name(stem.name + suffix) for suffix in IMAGE_SUFFIXES]
    found = next((path for path in candidates if path.is_file()), None)
    if found:
        return found
    listed, folder = {} if listed is None else listed, stem.parent
    if folder not in listed:
        files = sorted(folder.iterdir(), reverse=True) if folder.is_dir() else ()
        listed[folder] = {p.stem: p for p in files if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()}
    return listed[folder].get(stem.name, candidates[0])
