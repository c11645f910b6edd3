"""What the readers of boxes, instance masks and keypoints share: from annotations as written to examples.

Annotations are taken as they are; what no detector can learn from is left out and said. An object is left out if its
box has no width or height, on paper or inside the picture, or if its mask has no pixel.
"""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from keras_cv_lectures.data.folders import refuse
from keras_cv_lectures.data.images import read_image
from keras_cv_lectures.data.labels import default_colors
from keras_cv_lectures.data.source import Source
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.files import read_text
from keras_cv_lectures.geometry.masks import pack_crops
from keras_cv_lectures.geometry.rle import polygons_to_mask, rle_decode

# An outline this many times the picture's size away from its corner would take gigabytes to draw.
FARTHEST = 2
# Of a tree that a file holds, `repr` itself may be endless, or too deep.
_SHORT = reprlib.Repr()
_SHORT.maxlist = _SHORT.maxdict = _SHORT.maxstring = 60
# In bytes; file systems take 255 and 4096, and the folder and an ending come on top.
_LONGEST_NAME, _LONGEST_PATH = 240, 1000
# Where the picture's corner and an outline span at most so many pixels, it is drawn in its place, exactly as
# pycocotools does. Otherwise it is moved to the corner first: faster, but some pixels of its edge round differently.
_UNMOVED = 1 << 20

# Of keypoints: how a side is written, and what it is in a mirror.
_SIDES = {"left": "l", "right": "r"}
_OTHER_SIDE = {"l": "r", "r": "l"}
# Where words meet without a sign between them: "lEye", "LEye", "eye2", "2nd".
_WORD_ENDS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=\d)(?=[^\W\d_])|(?<=[^\W\d_])(?=\d)")

Size = tuple[int, int]
Window = tuple[int, int, int, int]
Crop = tuple[np.ndarray, Window]


@dataclass(frozen=True, kw_only=True)
class Objects:
    """The objects of one picture as their file describes them: N may be 0, nothing is clipped or left out yet.

    Attributes:
        names: N texts that name each object in a message, with the file.
        boxes: (N, 4) float64 (x1, y1, x2, y2) in pixels.
        labels: (N,) positions in the class names.
        crowd: (N,) bool, groups; None where the data set has no such mark.
        difficult: (N,) bool, objects that Pascal VOC marks so; None where the data set has no such mark.
        area: (N,) annotated square pixels, nan where an object has none; None where the data set has none at all.
        masks: N pairs of a crop (h, w), not 0 where the object is, and its window (x1, y1, x2, y2), half-open and
            inside the picture; None where the data set has no masks.
        keypoints: (N, K, 3) x, y, visibility; None where the data set has none.
    """

    names: Sequence[str]
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray | None = None
    difficult: np.ndarray | None = None
    area: np.ndarray | None = None
    masks: Sequence[Crop] | None = None
    keypoints: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class ObjectListing:
    """Pictures and the files that describe their objects, before any picture is opened.

    Attributes:
        name: for messages.
        ids: one per picture, unique.
        files: one tuple per picture: the picture first, then what belongs to it alone.
        objects: (index, (height, width) of the picture) -> its objects; raises `DataError` naming the file at fault.
        classes: names in the order of labels.
        problems: one message for each reason why this can be read neither to train nor to validate on.
        unlearnable: likewise, why it cannot be trained on.
        warnings: what training survives, for `doctor`.
        keypoint_names: names of the K keypoints of an object; () without keypoints.
    """

    name: str
    ids: tuple[str, ...]
    files: tuple[tuple[Path, ...], ...]
    objects: Callable[[int, Size], Objects]
    classes: tuple[str, ...]
    problems: tuple[str, ...] = ()
    unlearnable: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    keypoint_names: tuple[str, ...] = ()

    def check(self) -> ObjectListing:
        """Returns itself, or raises a `DataError` with the first few problems."""
        refuse(self.name, (*self.problems, *self.unlearnable))
        return self


def object_source(listing: ObjectListing, *, channels: int | None = 3) -> Source:
    """Examples of `image`, `boxes`, `labels`, `image_id` and what else the data set has, read from files.

    `crowd` and `difficult` (N,) bool, `area` (N,) float32, `mask_pixels` (P,) uint8 with `mask_windows` (N, 4) int32,
    and `keypoints` (N, K, 3) float32 are in every example of a data set that has them at all; see
    `keras_cv_lectures.data`.
    """

    def inspect(index: int) -> tuple[dict[str, Any], tuple[str, ...]]:
        image = read_image(listing.files[index][0], channels)
        size = image.shape[:2]
        arrays, left_out = object_arrays(listing.objects(index, size), size)
        return {"image": image, **arrays, "image_id": listing.ids[index]}, left_out

    # The first colour of Pascal VOC's map is black, which is for the background.
    colors = default_colors(len(listing.classes) + 1)[1:]
    return Source(
        name=listing.name,
        ids=listing.ids,
        read=lambda index: inspect(index)[0],
        classes=listing.classes,
        colors=colors,
        files=lambda index: listing.files[index],
        object_classes=listing.classes,
        keypoint_names=listing.keypoint_names,
        keypoint_flip=keypoint_flip(listing.keypoint_names),
        inspect=inspect,
    )


def keypoint_flip(names: Sequence[str]) -> tuple[int, ...]:
    """For each keypoint the index of the one it becomes in a mirrored picture, by the sides in the names.

    A side is "left" or "right" anywhere in a name, or "l" or "r" as a word of its own, as in "l_eye", "Eye L" and
    "lEye". A keypoint whose name has no side, or not exactly one partner, stays itself.

    >>> keypoint_flip(["nose", "left_eye", "right_eye", "ear_L", "ear_R"])
    (0, 2, 1, 4, 3)
    """
    words = [_words_with_sides(name) for name in names]
    places: dict[tuple[str, ...], list[int]] = {}
    for index, key in enumerate(words):
        places.setdefault(key, []).append(index)
    partners = [places.get(tuple(_OTHER_SIDE.get(word, word) for word in key), []) for key in words]
    return tuple(
        partner[0] if len(partner) == len(places[key]) == 1 else index
        for index, (key, partner) in enumerate(zip(words, partners, strict=True))
    )


def _words_with_sides(name: str) -> tuple[str, ...]:
    """The words of a name in lower case, "left" and "right" as "l" and "r"."""
    parted = _WORD_ENDS.sub(" ", re.sub("(left|right)", r" \1 ", name, flags=re.IGNORECASE))
    return tuple(_SIDES.get(word, word) for word in re.split(r"[\W_]+", parted.lower()) if word)


def without_sides(names: Sequence[str]) -> str:
    """What to say of keypoints none of which changes places in a mirrored picture; "" where one does, or K is 1."""
    if len(names) < 2 or keypoint_flip(names) != tuple(range(len(names))):
        return ""
    shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    return (
        f"no keypoint of {shown} has a partner on the other side by its name (left and right, or l and r), so that "
        "mirrored pictures exchange none. Where they have sides, rename them, or train with keypoint_flip=(...): for "
        "each keypoint the index of the one that it becomes. (0, 1, 2, ...) says that there are no sides."
    )


def path_inside(folder: Path, text: object, where: str) -> Path:
    """`folder / text`, where `text` comes from a file that anybody may have written.

    Raises:
        DataError: `text` is no relative path, or leaves the folder.
    """
    usable = isinstance(text, str) and text.strip() not in ("", ".") and "\0" not in text
    inner = PurePosixPath(text.replace("\\", "/")) if usable else PurePosixPath("/")
    too_long = len(str(inner)) > _LONGEST_PATH or any(len(os.fsencode(part)) > _LONGEST_NAME for part in inner.parts)
    if inner.is_absolute() or PureWindowsPath(str(inner)).drive or ".." in inner.parts or too_long:
        shown = shortened(text)
        raise DataError(f"{where} names the picture {shown}; expected a path inside {folder}. Correct the name.")
    return folder / inner


def picture_ids(files: Sequence[Path], images: Path) -> tuple[str, ...]:
    """The paths of different `files` inside of `images`: without their endings, unless two would then be the same."""
    inside = [file.relative_to(images) for file in files]
    bare = [path.with_suffix("").as_posix() for path in inside]
    return tuple(bare if len(set(bare)) == len(bare) else [path.as_posix() for path in inside])


def shortened(value: Any, most: int = 60) -> str:
    """What a file holds, for a message: one line of at most so many characters."""
    text = _SHORT.repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def check_size(size: Size, expected: tuple[float, float] | None, image: Path, source: str | Path) -> None:
    """Compares the size of a picture with the one that its annotation was made for, where that is known.

    Args:
        size: (height, width) as read.
        expected: (height, width) as annotated, or None.
        image: of the message, as is `source`, the file that says so.

    Raises:
        DataError: the two differ.
    """
    if expected is None or tuple(size) == tuple(expected):
        return
    turned = " Reading turns a picture as its camera noted (EXIF)." if tuple(size) == tuple(expected)[::-1] else ""
    raise DataError(
        f"{image} is {size[1]}x{size[0]} (width x height), but {source} describes a picture of "
        f"{expected[1]:g}x{expected[0]:g}.{turned} Annotate the picture as it is, or bring it back to that size."
    )


def without_learnable(passed_over: Sequence[bool], where: str, marks: str) -> list[str]:
    """What makes data unlearnable: all objects, of which there are some, are `passed_over` for the `marks`."""
    if not passed_over or not all(passed_over):
        return []
    return [
        f"{where}: all {len(passed_over)} objects have {marks}, and such objects are not learned. Set the mark to 0 "
        "where one object is meant."
    ]


def class_numbers(classes: Sequence[str], where: str | Path) -> dict[str, int]:
    """Class name -> label.

    Raises:
        DataError: there is no class, or two have one name.
    """
    numbers = {name: label for label, name in enumerate(classes)}
    if not numbers or len(numbers) != len(classes):
        twice = sorted({name for name in classes if list(classes).count(name) > 1})
        fault = f"names {', '.join(map(repr, twice))} twice" if twice else "names no class"
        raise DataError(f"{where} {fault}. Give each class one name of its own.")
    return numbers


def read_class_file(path: str | Path) -> tuple[str, ...]:
    """Class names, one a line in the order of labels, as in `classes.txt` or `obj.names`.

    Raises:
        DataError: the file cannot be read, is empty or names a class twice.
    """
    lines = read_text(path, what="the class file", repair="Give a text file of names.").splitlines()
    names = tuple(line.strip() for line in lines if line.strip())
    class_numbers(names, f"the class file {path}")
    return names


def tight(mask: np.ndarray, left: int = 0, top: int = 0) -> Crop:
    """The smallest crop that holds all pixels of `mask` (h, w), whose first pixel lies at (`left`, `top`)."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return np.zeros((0, 0), np.uint8), (left, top, left, top)
    (y1, y2), (x1, x2) = (rows[0], rows[-1] + 1), (columns[0], columns[-1] + 1)
    crop = (mask[y1:y2, x1:x2] != 0).astype(np.uint8)
    return crop, (int(x1) + left, int(y1) + top, int(x2) + left, int(y2) + top)


def crop_of(segmentation: Sequence[np.ndarray] | Mapping[str, Any], size: Size, where: str) -> Crop:
    """The mask of outlines, each [x1, y1, x2, y2, ...] in pixels, or of a run-length code, cropped to its pixels.

    Args:
        segmentation: one or the other.
        size: (height, width) of the picture.
        where: begins the message.

    Raises:
        DataError: the segmentation is damaged or of another size.
    """
    try:
        if isinstance(segmentation, Mapping):
            return tight(rle_decode(segmentation, size))
        points = np.concatenate(segmentation).reshape(-1, 2)
        if abs(points).max() > FARTHEST * max(size):
            raise DataError("an outline lies far outside of the picture. Correct or remove it.")
        # Drawn no further than a pixel behind the outline; a mask of the whole picture is slow.
        low = np.clip(np.floor(points.min(axis=0)) - 1, 0, size[::-1]).astype(int)
        high = np.clip(np.ceil(points.max(axis=0)) + 1, low, size[::-1]).astype(int)
        if high.prod() <= _UNMOVED:
            low = np.zeros(2, int)
        moved = [outline - np.tile(low, outline.size // 2) for outline in segmentation]
        return tight(polygons_to_mask(moved, tuple(high - low)[::-1]), *low.tolist())
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def crops_of_values(values: np.ndarray) -> list[tuple[int, Crop]]:
    """Each value but 0 in a picture of numbers (H, W), ascending, with the crop of its pixels."""
    from scipy.ndimage import find_objects

    different, places = np.unique(values, return_inverse=True)
    places = places.reshape(values.shape).astype(np.int32) + 1
    return [
        (value, tight(places[window] == number, window[1].start, window[0].start))
        for number, (value, window) in enumerate(zip(different.tolist(), find_objects(places), strict=True), 1)
        if value != 0
    ]


def box_of(crop: Crop, size: Size) -> tuple[float, ...]:
    """The box of a mask. One without pixels is given the whole picture, so that it is left out for its mask."""
    return crop[1] if crop[0].size else (0, 0, size[1], size[0])


def object_arrays(objects: Objects, size: Size) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The arrays of an example, and why which objects are missing in it."""
    raw = np.asarray(objects.boxes, np.float64).reshape(-1, 4)
    boxes = np.clip(raw, 0, np.array([size[1], size[0]] * 2)).astype(np.float32)
    kept, left_out = [], []
    for i, (x1, y1, x2, y2) in enumerate(raw.tolist()):
        shown = f"{objects.names[i]}: its box ({x1:g}, {y1:g}, {x2:g}, {y2:g})"
        if not (np.float32(x2) > np.float32(x1) and np.float32(y2) > np.float32(y1)):
            left_out.append(f"{shown} has no width or no height. Correct or remove it.")
        elif not (boxes[i, 2] > boxes[i, 0] and boxes[i, 3] > boxes[i, 1]):
            left_out.append(f"{shown} lies outside of the picture of {size[1]}x{size[0]}. Correct or remove it.")
        elif objects.masks is not None and not objects.masks[i][0].any():
            left_out.append(f"{objects.names[i]}: its mask covers no pixel. Correct or remove it.")
        else:
            kept.append(i)
    result = {"boxes": boxes[kept], "labels": np.asarray(objects.labels, np.int32).reshape(-1)[kept]}
    for key, marks in (("crowd", objects.crowd), ("difficult", objects.difficult)):
        if marks is not None:
            result[key] = np.asarray(marks, bool).reshape(-1)[kept]
    if objects.area is not None:
        result["area"] = _areas(objects, kept, result["boxes"])
    if objects.masks is not None:
        result["mask_pixels"] = pack_crops([objects.masks[i][0] for i in kept])
        result["mask_windows"] = np.array([objects.masks[i][1] for i in kept], np.int32).reshape(-1, 4)
    if objects.keypoints is not None:
        result["keypoints"] = np.asarray(objects.keypoints, np.float32)[kept]
    return result, tuple(left_out)


def _areas(objects: Objects, kept: Sequence[int], boxes: np.ndarray) -> np.ndarray:
    """(M,) float32 of the objects that are kept: as annotated, else of the mask, else of the box."""
    areas = np.asarray(objects.area, np.float32).reshape(-1)[kept]
    for row in np.flatnonzero(np.isnan(areas)).tolist():
        if objects.masks is not None:
            areas[row] = np.count_nonzero(objects.masks[kept[row]][0])
        else:
            areas[row] = np.prod(boxes[row, 2:] - boxes[row, :2])
    return areas
