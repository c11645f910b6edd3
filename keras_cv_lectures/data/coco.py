"""COCO's format: one JSON file of pictures, categories and annotations.

Polygons and run-length codes (compressed or not) become masks cropped to the object, equal to what pycocotools draws.
Keypoints keep their written coordinates; those marked absent are (0, 0, 0).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_cv_lectures.data.objects import (
    FARTHEST,
    ObjectListing,
    Objects,
    Size,
    check_size,
    class_numbers,
    crop_of,
    object_source,
    path_inside,
    picture_ids,
    shortened,
    without_learnable,
)
from keras_cv_lectures.data.source import Source
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.files import read_json

_NAMES = {"file_name", "coco_url"}  # Of a picture.


def coco_source(
    json_file: str | Path,
    images: str | Path,
    *,
    classes: Sequence[str] | None = None,
    masks: bool = True,
    channels: int | None = 3,
) -> Source:
    """Pictures of a COCO file with `boxes`, `labels`, and what it has of `crowd`, `area`, instance masks, `keypoints`.

    Labels count the categories in the order of their ids without gaps: COCO's ids 1 ... 90 become 0 ... 79. Boxes are
    cut at the edge of the picture; see `object_source` for objects that are left out. `area` is what the file says, by
    which COCO tells small objects from large ones; of an object without it, that of its mask, or else of its box.
    An object with `ignore` 1 is `difficult`: not learned, and to be found in COCO's average precision, as in
    pycocotools, which reads `iscrowd` alone. A category without annotations is left out if one with annotations has
    its name. LVIS's pictures are found by the last two parts of their `coco_url`, or by the last.

    Args:
        json_file: such as `instances_train2017.json` or `person_keypoints_val2017.json`.
        images: the folder that `file_name` is relative to.
        classes: category names in the order of labels, if it is to be that of another data set or a model; categories
            that are not among them must have no annotation. None takes those of the file.
        masks: False passes over the segmentations, damaged ones, too.
        channels: 3 for RGB, 1 for grey.

    Raises:
        DataError: the file is not of this form, names unknown ids or a picture that is missing or outside of `images`,
            some objects only have a segmentation, or all are marked as crowds or to be ignored. Damaged pictures and
            segmentations are reported when read.
    """
    return object_source(coco_objects(json_file, images, classes=classes, masks=masks).check(), channels=channels)


def coco_objects(
    json_file: str | Path, images: str | Path, *, classes: Sequence[str] | None = None, masks: bool = True
) -> ObjectListing:
    """What `coco_source` reads, with all problems of the file.

    Raises:
        DataError: the file cannot be read or lacks a list, or `images` is no folder.
    """
    json_file, images = Path(json_file), Path(images)
    content = _load(json_file)
    if not images.is_dir():
        raise DataError(f"{images} is not a folder. Check the path.")
    problems: list[str] = []
    pictures = _pictures(content["images"], json_file, images, problems)
    used = _ids(content["annotations"], "category_id")
    categories = _categories(content["categories"], json_file, classes, used, problems)
    faulty = _ids(content["images"], "id") - pictures.keys()
    unnamed = 0
    for number, entry in enumerate(content["annotations"]):
        if isinstance(entry, dict):
            # The picture itself is named as faulty.
            if _is_id(entry.get("image_id")) and entry["image_id"] in faulty:
                continue
            unnamed += bool(entry.get("keypoints")) and not categories.keypoint_names
        try:
            annotation = _annotation(entry, pictures, categories, masks)
        except DataError as error:
            name = entry.get("id", f"number {number + 1}") if isinstance(entry, dict) else f"number {number + 1}"
            problems.append(f"{json_file}: annotation {name} {error}")
        else:
            pictures[entry["image_id"]].annotations.append(annotation)
    rows = list(pictures.values())
    every = [annotation for row in rows for annotation in row.annotations]
    has_masks = any(a.segmentation is not None for a in every)
    bare = [a for a in every if has_masks and a.segmentation is None]
    problems += [
        f"{json_file}: annotation {a.id} has no segmentation, though others have. Add it, remove the annotation, "
        "or train on boxes alone (masks=no)."
        for a in bare
    ]
    # The doctor goes on to look at the boxes.
    has_masks = has_masks and not bare
    has_difficult = any(a.difficult for a in every)
    has_crowd = has_difficult or any(a.crowd for a in every)  # By which alone COCO's evaluation goes where it is there.
    unlearnable = without_learnable([a.crowd or a.difficult for a in every], f"{json_file}", "`iscrowd` or `ignore` 1")
    has_area = not all(math.isnan(a.area) for a in every)
    count = len(categories.keypoint_names)

    def objects(index: int, size: Size) -> Objects:
        row = rows[index]
        check_size(size, row.size, row.file, json_file)
        found = row.annotations
        names = [f"{json_file}: annotation {a.id} ({row.file.name})" for a in found]
        return Objects(
            names=names,
            boxes=np.array([a.box for a in found], np.float64).reshape(-1, 4),
            labels=np.array([a.label for a in found], np.int32),
            crowd=np.array([a.crowd for a in found], bool) if has_crowd else None,
            difficult=np.array([a.difficult for a in found], bool) if has_difficult else None,
            area=np.array([a.area for a in found], np.float32) if has_area else None,
            masks=[crop_of(a.segmentation, size, n) for a, n in zip(found, names, strict=True)] if has_masks else None,
            keypoints=np.array([a.keypoints for a in found], np.float32).reshape(-1, count, 3) if count else None,
        )

    return ObjectListing(
        name=f"coco {json_file.name}",
        ids=picture_ids([row.file for row in rows], images),
        files=tuple((row.file,) for row in rows),
        objects=objects,
        classes=categories.classes,
        problems=tuple(problems),
        unlearnable=tuple(unlearnable),
        warnings=(
            f"{json_file}: {unnamed} annotations have keypoints, but no category names them, so that they are not "
            'read. Give the category a list `"keypoints": [NAME, ...]`.',
        )
        if unnamed
        else (),
        keypoint_names=categories.keypoint_names,
    )


@dataclass(frozen=True, kw_only=True)
class _Annotation:
    id: Any
    box: tuple[float, float, float, float]
    label: int
    crowd: bool
    difficult: bool
    area: float
    segmentation: list[np.ndarray] | dict[str, Any] | None
    keypoints: np.ndarray | None


@dataclass(frozen=True, kw_only=True)
class _Picture:
    file: Path
    size: tuple[float, float] | None
    annotations: list[_Annotation]


@dataclass(frozen=True, kw_only=True)
class _Categories:
    """`labels`: category id -> label, None for one that is not among the wanted classes."""

    classes: tuple[str, ...]
    labels: dict[int, int | None]
    names: dict[int, str]
    keypoint_names: tuple[str, ...]


def _load(json_file: Path) -> dict[str, Any]:
    content = read_json(json_file)
    names = ("images", "annotations", "categories")
    missing = [n for n in names if not isinstance(content, dict) or not isinstance(content.get(n), list)]
    if missing:
        raise DataError(
            f"{json_file} is no COCO file of objects: a list {', '.join(map(repr, missing))} is expected at its top. "
            "Export the annotations as COCO JSON (instances or keypoints)."
        )
    return content


def _pictures(entries: list, json_file: Path, images: Path, problems: list[str]) -> dict[Any, _Picture]:
    """Picture id -> picture, in the order of the file."""
    found: dict[Any, _Picture] = {}
    owners: dict[Path, Any] = {}
    missing: list[Path] = []
    if len(entries) > 1 and all(isinstance(entry, dict) and not _NAMES & entry.keys() for entry in entries):
        raise DataError(f"no picture of {json_file} has a file_name. Write the path inside of {images} into each.")
    for number, entry in enumerate(entries):
        key = entry.get("id") if isinstance(entry, dict) else None
        where = f"{json_file}: picture {number + 1 if key is None else key}"
        if not _is_id(key):
            problems.append(f"{where} has no id. Give every picture one.")
            continue
        if key in found:
            problems.append(f"{where}: the id occurs twice. Give every picture its own.")
            continue
        try:
            file = _file(entry, images, where)
        except DataError as error:
            problems.append(str(error))
            continue
        if file in owners:
            problems.append(f"{where} is the file of picture {owners[file]}, {file}. Unite the two.")
            continue
        if not file.is_file():
            missing.append(file)
        size = tuple(entry.get(side) for side in ("height", "width"))
        owners[file] = key
        known = all(_is_number(side) and side > 0 for side in size)
        found[key] = _Picture(file=file, size=size if known else None, annotations=[])
    if len(missing) == len(found) > 1:
        raise DataError(
            f"none of the {len(missing)} pictures that {json_file} names is in {images}; the first would be "
            f"{missing[0]}. Give the folder that holds them: coco:JSON,IMAGES."
        )
    problems += [
        f"{file} is missing, though {json_file} names it. Add the file or remove the picture." for file in missing
    ]
    return found


def _file(entry: dict[str, Any], images: Path, where: str) -> Path:
    """The file of a picture; of one without `file_name`, as in LVIS, by the end of `coco_url`."""
    url = entry.get("coco_url")
    if "file_name" in entry or not isinstance(url, str):
        return path_inside(images, entry.get("file_name"), where)
    near, far = (path_inside(images, "/".join(url.split("/")[-parts:]), where) for parts in (1, 2))
    return near if near.is_file() and not far.is_file() else far


def _ids(entries: list, key: str) -> set[int | str]:
    """The ids that `entries` have under `key`."""
    return {entry[key] for entry in entries if isinstance(entry, dict) and _is_id(entry.get(key))}


def _categories(
    entries: list, json_file: Path, classes: Sequence[str] | None, used: set[int | str], problems: list[str]
) -> _Categories:
    """`used`: the ids of categories that annotations name."""
    names: dict[int, str] = {}
    points: dict[tuple[str, ...], str] = {}
    for number, entry in enumerate(entries):
        entry = entry if isinstance(entry, dict) else {}
        key, name, parts = entry.get("id"), entry.get("name"), entry.get("keypoints") or []
        if not (_is_id(key) and isinstance(key, int) and isinstance(name, str) and name.strip()) or key in names:
            raise DataError(
                f"{json_file}: category {number + 1} must have a number of its own as id, and a name. Correct it."
            )
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            raise DataError(f"{json_file}: the keypoints of category {name!r} must be a list of names. Correct it.")
        names[key] = name.strip()
        if parts:
            points.setdefault(tuple(parts), name)
    if len(points) > 1:
        problems.append(
            f"{json_file}: the categories {', '.join(map(repr, points.values()))} have different keypoints. Split the "
            "file: one network learns one list of keypoints."
        )
    # Roboflow adds a category of all others, which may be called like one of them.
    used_names = {name for key, name in names.items() if key in used}
    seen: set[str] = set()
    for key in sorted(names):
        if key not in used and (names[key] in used_names or (classes and names[key] in seen)):
            del names[key]
        else:
            seen.add(names[key])
    order = [names[key] for key in sorted(names)]
    class_numbers(order, f"{json_file}: its categories")
    numbers = class_numbers(classes or order, "the list of classes")
    return _Categories(
        classes=tuple(numbers),
        labels={key: numbers.get(name) for key, name in names.items()},
        names=names,
        keypoint_names=next(iter(points), ()),
    )


def _annotation(entry: Any, pictures: dict[Any, _Picture], categories: _Categories, masks: bool) -> _Annotation:
    """An annotation in numbers; the text of a `DataError` goes on after "annotation 7 "."""
    if not isinstance(entry, dict):
        raise DataError("is no JSON object. Remove it.")
    picture, category = entry.get("image_id"), entry.get("category_id")
    if not _is_id(picture) or picture not in pictures:
        raise DataError(
            f"belongs to picture {shortened(picture)}, which is not in the list of images. Correct or remove it."
        )
    if not _is_id(category) or category not in categories.labels:
        raise DataError(
            f"is of category {shortened(category)}, which is not in the list of categories. Correct or remove it."
        )
    label = categories.labels[category]
    if label is None:
        known = ", ".join(categories.classes[:8]) + (", ..." if len(categories.classes) > 8 else "")
        raise DataError(
            f"is a {categories.names[category]!r}, but the classes are {known}. Rename the category, or remove it."
        )
    crowd = entry.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise DataError(f"has iscrowd {shortened(crowd)}; expected 0 or 1. Correct it.")
    segmentation = _segmentation(entry.get("segmentation"), pictures[picture].size) if masks else None
    return _Annotation(
        id=entry.get("id", "without id"),
        box=_box(entry.get("bbox")),
        label=label,
        crowd=bool(crowd),
        difficult=entry.get("ignore") in (1, True),
        area=_area(entry.get("area")),
        segmentation=segmentation,
        keypoints=_keypoints(entry.get("keypoints"), len(categories.keypoint_names)),
    )


def _box(values: Any) -> tuple[float, float, float, float]:
    numbers = _numbers(values)
    if numbers is None or len(numbers) != 4:
        raise DataError(
            f"has bbox {shortened(values)}; expected [x, y, width, height] in pixels. Correct or remove it."
        )
    x, y, width, height = numbers.tolist()
    return x, y, x + width, y + height


def _area(value: Any) -> float:
    """Square pixels; nan for what is none, which tools write or leave out as they like."""
    return float(value) if _is_number(value) and value >= 0 else math.nan


def _segmentation(value: Any, size: tuple[float, float] | None) -> list[np.ndarray] | dict[str, Any] | None:
    if value is None or value == []:
        return None
    if isinstance(value, dict):
        if isinstance(value.get("counts"), list):
            # An array takes an eighth of the memory of a list.
            try:
                value = value | {"counts": np.asarray(value["counts"], np.int64)}
            except (TypeError, ValueError, OverflowError):
                raise DataError("has run lengths that are no whole numbers. Correct or remove it.") from None
        return value
    outlines = value if isinstance(value, list) else [value]
    height, width = size or (np.inf, np.inf)
    result = []
    for outline in outlines:
        points = _numbers(outline)
        if points is None or len(points) < 6 or len(points) % 2:
            raise DataError(
                f"has the outline {shortened(outline)}; expected [x1, y1, x2, y2, x3, y3, ...] of three points or "
                "more, in pixels. Correct or remove it."
            )
        if abs(points[::2]).max() > FARTHEST * width or abs(points[1::2]).max() > FARTHEST * height:
            raise DataError(f"has the outline {shortened(outline)} far outside of its picture. Correct or remove it.")
        result.append(points)
    return result


def _keypoints(values: Any, count: int) -> np.ndarray | None:
    if not count:
        return None
    if not values:
        return np.zeros((count, 3), np.float32)
    numbers = _numbers(values)
    if numbers is None or len(numbers) != 3 * count:
        raise DataError(f"has keypoints {shortened(values)}; expected {count} times x, y, visibility. Correct it.")
    points = numbers.astype(np.float32).reshape(count, 3)
    if not np.isin(points[:, 2], (0, 1, 2)).all():
        raise DataError("has a keypoint whose visibility is not 0 (absent), 1 (hidden) or 2 (visible). Correct it.")
    return np.where(points[:, 2:] > 0, points, 0)


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _numbers(values: Any) -> np.ndarray | None:
    """A JSON list of numbers as float64; None if it is none, or holds what is no number of pixels."""
    if not isinstance(values, list):
        return None
    try:
        array = np.asarray(values)
    except ValueError:  # Lists within lists, of several lengths.
        return None
    if array.ndim != 1 or array.dtype.kind not in "iuf" or not (abs(array) < 1e9).all():
        return None
    return array.astype(np.float64)
