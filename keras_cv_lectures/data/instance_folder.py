"""Instance masks in folders: a label picture whose values are objects, or one mask file an object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_cv_lectures.data.folders import find_pairs, listed_keys, natural, pictures_below
from keras_cv_lectures.data.images import IMAGE_SUFFIXES, read_mask
from keras_cv_lectures.data.label_inference import LOSSY
from keras_cv_lectures.data.labels import is_grey, pack_colors
from keras_cv_lectures.data.objects import (
    Crop,
    ObjectListing,
    Objects,
    Size,
    box_of,
    check_size,
    crops_of_values,
    object_source,
    tight,
)
from keras_cv_lectures.data.source import Source
from keras_cv_lectures.errors import DataError

OBJECT = "object"


def instance_folder_source(
    images: str | Path,
    masks: str | Path,
    *,
    name: str | None = None,
    void: int | None = None,
    list_file: str | Path | None = None,
    classes: Sequence[str] | None = None,
    channels: int | None = 3,
) -> Source:
    """Pictures of one kind of object and the mask of each object.

    Either `masks` holds a label picture for every picture, paired by name as in `folder_source`, where 0 (or black) is
    background and every other value or colour is one object. Or it holds a folder for every picture, called like it,
    with one mask file an object, anything but 0 being the object; masks may overlap. `masks` may lie inside `images`.
    The Data Science Bowl's layout, `ID/images/ID.png` beside `ID/masks/*.png`, is read with its folder as both `images`
    and `masks`.

    Args:
        images: folder of pictures.
        masks: folder of masks.
        name: of the class; None means "object", or the one class of `classes`.
        void: a value of label pictures that is no object, such as 255, the border in VOC's SegmentationObject.
        list_file: text file with one picture name per line; only these examples, in this order.
        classes: the classes of a model or another data set, of which `name` must be one.
        channels: 3 for RGB, 1 for grey.

    Raises:
        DataError: a folder is missing or empty, a picture has no mask or the other way round, masks are JPEG, or `name`
            is not among `classes`. Damaged files and differing sizes are reported when they are read.
    """
    listing = instance_folder_objects(images, masks, name=name, void=void, list_file=list_file, classes=classes)
    return object_source(listing.check(), channels=channels)


def instance_folder_objects(
    images: str | Path,
    masks: str | Path,
    *,
    name: str | None = None,
    void: int | None = None,
    list_file: str | Path | None = None,
    classes: Sequence[str] | None = None,
) -> ObjectListing:
    """What `instance_folder_source` reads, with all problems of the file names.

    Raises:
        DataError: a folder is missing or empty, or `name` is not among `classes`.
    """
    images, masks = Path(images), Path(masks)
    classes, label = _class(name, classes)
    folders = _mask_folders(images, masks)
    problems: list[str] = []
    if folders:
        rows = []
        wanted = list(folders)
        if list_file is not None:
            wanted, problems = listed_keys(Path(list_file), {key: [files[0]] for key, files in folders.items()}, images)
        for key in wanted:
            picture, folder = folders[key]
            found = _mask_files(folder)
            if folder.is_dir():
                rows.append((key, picture, found))
            else:
                problems.append(
                    f"{picture} has no folder of masks {folder}. Add it; it is empty where there is no object."
                )
    else:
        pairing = find_pairs(images, masks, list_file=list_file)
        rows = [(pair.id, pair.image, (pair.mask,)) for pair in pairing.pairs]
        problems += pairing.problems
    lossy = [file for _, _, files in rows for file in files if file.suffix.lower() in LOSSY]
    if lossy:
        problems.append(
            f"masks are stored as JPEG (such as {lossy[0]}), which changes values at edges, so that they cannot be "
            "told from objects. Save the masks as PNG from where they were drawn."
        )

    def objects(index: int, size: Size) -> Objects:
        _, picture, files = rows[index]
        if folders:
            names = [str(file) for file in files]
            crops = [_one_object(file, size, picture) for file in files]
        else:
            names, crops = _label_picture(files[0], size, picture, void)
        return Objects(
            names=names,
            boxes=np.array([box_of(crop, size) for crop in crops], np.float64).reshape(-1, 4),
            labels=np.full(len(crops), label, np.int32),
            masks=crops,
        )

    return ObjectListing(
        name=f"instances {images}",
        ids=tuple(key for key, _, _ in rows),
        files=tuple((picture, *files) for _, picture, files in rows),
        objects=objects,
        classes=classes,
        problems=tuple(problems),
    )


def _class(name: str | None, classes: Sequence[str] | None) -> tuple[tuple[str, ...], int]:
    """The class names and the label of the objects."""
    if not classes:
        return (name or OBJECT,), 0
    if name is None and len(classes) == 1:
        return tuple(classes), 0
    if (name or OBJECT) not in classes:
        raise DataError(
            f"the objects are called {name or OBJECT!r}, but the classes are {', '.join(classes[:8])}. Name one of "
            "them with class=NAME."
        )
    return tuple(classes), list(classes).index(name or OBJECT)


def _mask_folders(images: Path, masks: Path) -> dict[str, tuple[Path, Path]]:
    """Example id -> its picture and its folder of masks; {} where masks are label pictures."""
    pictures = pictures_below(images, without=masks)
    if not masks.is_dir():
        raise DataError(f"{masks} is not a folder. Check the path.")
    # The Data Science Bowl: ID/images/ID.png and ID/masks/*.png.
    found = {
        key.rsplit("/", 2)[0]: (paths[0], masks / key.rsplit("/", 2)[0] / "masks")
        for key, paths in pictures.items()
        if key.count("/") >= 2 and key.rsplit("/", 2)[1] == "images"
    }
    if any(folder.is_dir() for _, folder in found.values()):
        return {key: found[key] for key in sorted(found, key=natural)}
    found = {key: (paths[0], masks / key) for key, paths in pictures.items()}
    if images.resolve() != masks.resolve() and any(folder.is_dir() for _, folder in found.values()):
        return {key: found[key] for key in sorted(found, key=natural)}
    return {}


def _mask_files(folder: Path) -> tuple[Path, ...]:
    if not folder.is_dir():
        return ()
    files = (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    return tuple(sorted(files, key=lambda path: natural(path.name)))


def _one_object(file: Path, size: Size, picture: Path) -> Crop:
    mask = read_mask(file)
    check_size(size, mask.shape[:2], picture, file)
    return tight(mask.any(axis=-1) if mask.ndim == 3 else mask)


def _label_picture(file: Path, size: Size, picture: Path, void: int | None) -> tuple[list[str], list[Crop]]:
    """Each value but 0 and `void` is an object: what messages call it, and its crop."""
    raw = read_mask(file)
    check_size(size, raw.shape[:2], picture, file)
    if raw.ndim == 3 and is_grey(raw):
        raw = raw[..., 0]
    packed = pack_colors(raw) if raw.ndim == 3 else raw
    if void is not None:
        if raw.ndim == 3:
            raise DataError(
                f"{file} is a coloured mask, but void={void} is a value of grey and palette masks. Drop void, or paint "
                "what is no object black."
            )
        packed = np.where(packed == void, 0, packed)
    found = crops_of_values(packed)
    return [f"{file}: the object of value {value}" for value, _ in found], [crop for _, crop in found]
