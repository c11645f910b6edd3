"""Pascal VOC's layout: JPEGImages, SegmentationClass, ImageSets."""

from __future__ import annotations

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
        labels: label file or map of a data set in this layout with other classes; None means VOC's 21.
        channels: 3 for RGB, 1 for grey.

    Raises:
        DataError: the folders or the list are missing, or a listed picture or mask is. Damaged pictures are reported
            when they are read.
    """
    if labels is None:
        labels = VOC_LABELS
    elif not isinstance(labels, LabelMap):
        labels = read_label_file(labels)
    return paired_source(voc_pairs(folder, split).check(), labels, channels=channels)


def voc_pairs(folder: str | Path, split: str) -> Pairing:
    """The pairs that the list `split` names.

    Raises:
        DataError: the folders or the list are missing, or the list is empty or names what lies outside of `folder`.
    """
    root = find_voc_root(folder)
    list_file = root / _LISTS / f"{split}.txt"
    if not list_file.is_file():
        present = ", ".join(sorted(p.stem for p in (root / _LISTS).glob("*.txt"))) or "no list"
        raise DataError(f"{list_file} does not exist; there is {present}. Choose one with split=NAME, or add the list.")
    names = [line.split()[0] for line in read_text(list_file, what="the list file").splitlines() if line.strip()]
    if not names:
        raise DataError(f"the list file {list_file} is empty. Write one picture name per line.")
    pairs, problems = [], []
    for name in dict.fromkeys(names):
        path_inside(root, name, f"the list file {list_file}")
        image = with_suffix(root / "JPEGImages" / name)
        mask = root / "SegmentationClass" / f"{name}.png"
        problems += [
            f"{path} is missing, though {list_file} names it. Add the file or remove the line."
            for path in (image, mask)
            if not path.is_file()
        ]
        if image.is_file() and mask.is_file():
            pairs.append(Pair(name, image, mask))
    problems += [
        f"{list_file} names {name} twice. Remove one." for name in sorted({n for n in names if names.count(n) > 1})
    ]
    return Pairing(name=f"voc {split}", pairs=tuple(pairs), problems=tuple(problems))


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


def with_suffix(stem: Path) -> Path:
    """The picture file of this name and any extension; with the first extension where there is none."""
    candidates = [stem.with_name(stem.name + suffix) for suffix in IMAGE_SUFFIXES]
    return next((path for path in candidates if path.is_file()), candidates[0])
