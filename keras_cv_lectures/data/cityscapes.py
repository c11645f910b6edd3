"""Cityscapes' layout: leftImg8bit/SPLIT/CITY/*_leftImg8bit.png and gtFine/SPLIT/CITY/*_gtFine_*.png.

Its files number 34 classes (`labelIds`), of which 19 are trained on and scored, numbered anew (`labelTrainIds`, which
its scripts write). Either is read; the other 15 are ignored. A value of `instanceIds` is 1000 times the class, plus a
number, for an object, and the class alone for a group that nobody could tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_cv_lectures.data.folders import Pair, Pairing, natural, paired_source, pictures_below, visible
from keras_cv_lectures.data.images import read_mask
from keras_cv_lectures.data.labels import IGNORE, Color, LabelMap, read_label_file
from keras_cv_lectures.data.objects import (
    ObjectListing,
    Objects,
    Size,
    box_of,
    check_size,
    class_numbers,
    crops_of_values,
    object_source,
    path_inside,
)
from keras_cv_lectures.data.source import Source
from keras_cv_lectures.errors import DataError

# Label id, name, colour of the classes that are scored, in the order of their train ids.
_CLASSES: tuple[tuple[int, str, Color], ...] = (
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)
CITYSCAPES_CLASSES = tuple(name for _, name, _ in _CLASSES)
CITYSCAPES_COLORS = tuple(color for _, _, color in _CLASSES)
# Those with instances: persons and vehicles are the last eight.
CITYSCAPES_OBJECTS = CITYSCAPES_CLASSES[11:]
_OBJECT_NAMES = {label: name for label, name, _ in _CLASSES[11:]}
_OBJECT = 1000  # Smaller values of `instanceIds` are groups.

_LABEL_IDS = {label: i for i, (label, _, _) in enumerate(_CLASSES)}
# A licence plate's id is -1, which its scripts leave out or write as 255.
CITYSCAPES_LABELS = LabelMap(
    classes=CITYSCAPES_CLASSES,
    colors=CITYSCAPES_COLORS,
    values=_LABEL_IDS,
    ignore=frozenset({*range(34), IGNORE} - set(_LABEL_IDS)),
)
CITYSCAPES_TRAIN_LABELS = LabelMap(
    classes=CITYSCAPES_CLASSES, colors=CITYSCAPES_COLORS, values={i: i for i in range(len(_CLASSES))}
)

_IMAGES, _MASKS = "leftImg8bit", "gtFine"
_IMAGE_ENDING = "_leftImg8bit"
_ENDINGS = {"_gtFine_labelIds": CITYSCAPES_LABELS, "_gtFine_labelTrainIds": CITYSCAPES_TRAIN_LABELS}
_INSTANCES = "_gtFine_instanceIds"


def cityscapes_source(
    folder: str | Path,
    split: str = "train",
    *,
    labels: str | Path | LabelMap | None = None,
    channels: int | None = 3,
) -> Source:
    """The semantic segmentation task of Cityscapes: 19 classes; everything else is ignored.

    Args:
        folder: holds `leftImg8bit` and `gtFine`.
        split: "train", "val" or another folder in both. The masks of "test" are secret, its files ignore every pixel.
        labels: label file or map that gives `labelIds` another meaning (`labelTrainIds` where there are no others);
            None means the 19 classes.
        channels: 3 for RGB, 1 for grey.

    Raises:
        DataError: a folder or a mask is missing. Damaged pictures are reported when they are read.
    """
    pairing = cityscapes_pairs(folder, split).check()
    if labels is None:
        labels = pairing.labels
    elif not isinstance(labels, LabelMap):
        labels = read_label_file(labels)
    return paired_source(pairing, labels, channels=channels)


def cityscapes_objects_source(
    folder: str | Path,
    split: str = "train",
    *,
    classes: Sequence[str] | None = None,
    masks: bool = True,
    channels: int | None = 3,
) -> Source:
    """The instances of Cityscapes: persons, riders and six kinds of vehicles, with boxes and masks; groups are `crowd`.

    Args:
        folder: holds `leftImg8bit` and `gtFine`.
        split: as of `cityscapes_source`.
        classes: the eight classes in another order of labels; None means that of `CITYSCAPES_OBJECTS`.
        masks: whether examples hold them.
        channels: 3 for RGB, 1 for grey.

    Raises:
        DataError: as `cityscapes_source`, or `classes` lacks one of the eight.
    """
    return object_source(cityscapes_objects(folder, split, classes=classes, masks=masks).check(), channels=channels)


def cityscapes_pairs(folder: str | Path, split: str) -> Pairing:
    """The pairs of one split, with the map of the labels that its masks hold: `labelIds` where there are any.

    Raises:
        DataError: a folder is missing or holds no picture.
    """
    images, masks = _folders(folder, split)
    ending = next((e for e in _ENDINGS if any(visible(masks.glob(f"*/*{e}.png")))), next(iter(_ENDINGS)))
    return _pairs(images, masks, ending, f"cityscapes {split}", _ENDINGS[ending])


def cityscapes_objects(
    folder: str | Path, split: str, *, classes: Sequence[str] | None = None, masks: bool = True
) -> ObjectListing:
    """What `cityscapes_objects_source` reads, with all problems.

    Raises:
        DataError: as there.
    """
    pairing = _pairs(*_folders(folder, split), _INSTANCES, f"cityscapesobjects {split}")
    numbers = class_numbers(classes or CITYSCAPES_OBJECTS, "the list of classes")
    missing = [name for name in CITYSCAPES_OBJECTS if name not in numbers]
    if missing:
        raise DataError(
            f"the classes are {', '.join(list(numbers)[:8])}, but Cityscapes has {', '.join(missing)}, too. Name all: "
            f"{', '.join(CITYSCAPES_OBJECTS)}."
        )

    def objects(index: int, size: Size) -> Objects:
        _, picture, file = pairing.pairs[index]
        raw = read_mask(file)
        if raw.ndim != 2:
            raise DataError(f"{file} is a coloured picture; expected 16-bit instance ids. Copy it again.")
        check_size(size, raw.shape, picture, file)
        known = _OBJECT_NAMES
        found = [(v, v // _OBJECT if v >= _OBJECT else v, crop) for v, crop in crops_of_values(raw)]
        rows = [(value, known[label], crop) for value, label, crop in found if label in known]
        return Objects(
            names=[f"{file}: the {name} of value {value}" for value, name, _ in rows],
            boxes=np.array([box_of(crop, size) for _, _, crop in rows], np.float64).reshape(-1, 4),
            labels=np.array([numbers[name] for _, name, _ in rows], np.int32),
            crowd=np.array([value < _OBJECT for value, _, _ in rows], bool),
            masks=[crop for _, _, crop in rows] if masks else None,
        )

    return ObjectListing(
        name=pairing.name,
        ids=tuple(pair.id for pair in pairing.pairs),
        files=tuple((pair.image, pair.mask) for pair in pairing.pairs),
        objects=objects,
        classes=tuple(numbers),
        problems=pairing.problems,
    )


def cityscapes_splits(folder: str | Path) -> tuple[str, ...]:
    """Those of train and val that are there."""
    folder = Path(folder)
    return tuple(s for s in ("train", "val") if (folder / _IMAGES / s).is_dir() and (folder / _MASKS / s).is_dir())


def has_cityscapes(folder: str | Path) -> bool:
    """Whether `folder` holds pictures and masks in this layout."""
    return bool(cityscapes_splits(folder))


def _folders(folder: str | Path, split: str) -> tuple[Path, Path]:
    """The folders of pictures and of masks of one split."""
    folder = Path(folder)
    found = [path_inside(folder / name, split, f"the split {split!r}") for name in (_IMAGES, _MASKS)]
    missing = [path for path in found if not path.is_dir()]
    if missing:
        there = ", ".join(cityscapes_splits(folder)) or "neither train nor val"
        raise DataError(
            f"{missing[0]} is not a folder: Cityscapes is expected as {_IMAGES}/{split}/CITY/*{_IMAGE_ENDING}.png and "
            f"{_MASKS}/{split}/CITY/*_gtFine_labelIds.png in {folder}; there is {there}. Unpack both archives in one "
            "folder, or choose another split=NAME."
        )
    return found[0], found[1]


def _pairs(images: Path, masks: Path, ending: str, name: str, labels: LabelMap | None = None) -> Pairing:
    pictures = {
        key.removesuffix(_IMAGE_ENDING): paths[0]
        for key, paths in pictures_below(images).items()
        if key.endswith(_IMAGE_ENDING)
    }
    if not pictures:
        raise DataError(f"{images} holds no picture CITY/*{_IMAGE_ENDING}.png. Check the path.")
    found = {key: masks / f"{key}{ending}.png" for key in sorted(pictures, key=natural)}
    problems = [
        f"{mask} is missing, though {pictures[key].name} is there. Add the file or remove the picture."
        for key, mask in found.items()
        if not mask.is_file()
    ]
    known = set(found.values())
    problems += [
        f"{mask} has no picture in {images}. Add the picture or remove the mask."
        for mask in sorted(visible(masks.glob(f"*/*{ending}.png")))
        if mask not in known
    ]
    pairs = tuple(Pair(key, pictures[key], mask) for key, mask in found.items() if mask.is_file())
    return Pairing(name=name, pairs=pairs, problems=tuple(problems), labels=labels)
