"""Oxford-IIIT Pet's layout: images/*.jpg, annotations/trimaps/*.png, annotations/xmls/*.xml, annotations/trainval.txt.

A trimap holds 1 for the pet, 2 for what is behind it and 3 for the border between them, which is ignored. The XML files
hold a box around the head; about half of the pictures, those of the test list among them, have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from keras_cv_lectures.data.folders import Pairing, find_pairs, paired_source
from keras_cv_lectures.data.labels import IGNORE, LabelMap, default_colors, read_label_file
from keras_cv_lectures.data.objects import ObjectListing, object_source
from keras_cv_lectures.data.source import Source
from keras_cv_lectures.data.voc import list_of_split, listed_pairs
from keras_cv_lectures.data.voc_boxes import BoxFolders, boxes_listing
from keras_cv_lectures.errors import DataError

PETS_CLASSES = ("background", "pet")
PETS_LABELS = LabelMap(
    classes=PETS_CLASSES, colors=default_colors(2), values={2: 0, 1: 1}, ignore=frozenset({3, IGNORE})
)

_LISTS, _XMLS, _TRIMAPS = Path("annotations"), Path("annotations", "xmls"), Path("annotations", "trimaps")


def pets_source(
    folder: str | Path,
    split: str | None = None,
    *,
    labels: str | Path | LabelMap | None = None,
    channels: int | None = 3,
) -> Source:
    """Pets and their background, from the trimaps of Oxford-IIIT Pet.

    Args:
        folder: holds `images` and `annotations`, or a folder `oxford-iiit-pet` that does.
        split: name of a list in `annotations`: "trainval", "test", "list" or one of your own. "train" takes "trainval"
            where there is no such list. None takes all pictures.
        labels: label file or map of the values 1, 2 and 3, for instance with the border as a class of its own; None
            means background and pet.
        channels: 3 for RGB, 1 for grey.

    Raises:
        DataError: the folders or the list are missing, or a listed picture or mask is. Damaged pictures are reported
            when they are read.
    """
    if labels is None:
        labels = PETS_LABELS
    elif not isinstance(labels, LabelMap):
        labels = read_label_file(labels)
    return paired_source(pets_pairs(folder, split).check(), labels, channels=channels)


def pets_boxes_source(
    folder: str | Path,
    split: str | None = None,
    *,
    classes: Sequence[str] | None = None,
    channels: int | None = 3,
) -> Source:
    """The boxes around the heads of cats and dogs; pictures without an XML file are left out.

    Args:
        folder: as of `pets_source`.
        split: likewise; None takes every XML file.
        classes: as of `voc_boxes_source`.
        channels: 3 for RGB, 1 for grey.

    Raises:
        DataError: the folders or the list are missing, no picture of the list has an XML file, or one is damaged.
    """
    return object_source(pets_boxes_objects(folder, split, classes=classes).check(), channels=channels)


def pets_pairs(folder: str | Path, split: str | None) -> Pairing:
    """What `pets_source` reads, with the map of its labels.

    Raises:
        DataError: as there.
    """
    root = _root(folder, _TRIMAPS)
    if split is None:
        return find_pairs(root / "images", root / _TRIMAPS, name="pets", labels=PETS_LABELS)
    list_file = list_of_split(root / _LISTS, _own_name(root, split))
    return listed_pairs(f"pets {split}", list_file, root / "images", root / _TRIMAPS, labels=PETS_LABELS)


def pets_boxes_objects(
    folder: str | Path, split: str | None = None, *, classes: Sequence[str] | None = None
) -> ObjectListing:
    """What `pets_boxes_source` reads, with all problems.

    Raises:
        DataError: as there.
    """
    root = _root(folder, _XMLS)
    folders = BoxFolders(root, root / _XMLS, root / "images", root / _LISTS)
    split = split and _own_name(root, split)
    return boxes_listing(folders, split, name=f"petsboxes {split or root.name}", classes=classes, complete=False)


def pets_splits(folder: str | Path) -> tuple[str, ...]:
    """Those of train and val that have a list; trainval where neither has; () where there are no lists."""
    lists = _root(folder, _LISTS) / _LISTS
    present = tuple(split for split in ("train", "val") if (lists / f"{split}.txt").is_file())
    return present or (("trainval",) if (lists / "trainval.txt").is_file() else ())


def has_pets(folder: str | Path) -> bool:
    """Whether `folder` holds pictures and trimaps in this layout."""
    return any((root / "images").is_dir() and (root / _TRIMAPS).is_dir() for root in _roots(folder))


def _roots(folder: str | Path) -> tuple[Path, Path]:
    return Path(folder), Path(folder, "oxford-iiit-pet")


def _root(folder: str | Path, needed: Path) -> Path:
    """The folder that holds `images` and the folder `needed`."""
    if not Path(folder).is_dir():
        raise DataError(f"{folder} is not a folder. Check the path.")
    for root in _roots(folder):
        if (root / "images").is_dir() and (root / needed).is_dir():
            return root
    raise DataError(
        f"{folder} does not hold the Oxford-IIIT Pet data: images/ and {needed.as_posix()}/ are expected in it. Unpack "
        "images.tar.gz and annotations.tar.gz in one folder, or check the path."
    )


def _own_name(root: Path, split: str) -> str:
    """Its one list to train on is called trainval."""
    return "trainval" if split == "train" and not (root / _LISTS / "train.txt").is_file() else split
