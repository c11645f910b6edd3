"""DeconvNet's two training sets: crops around single objects first, crops of proposals later.

Noh, Hong and Han, "Learning Deconvolution Network for Semantic Segmentation", ICCV 2015, https://arxiv.org/abs/1505.04366,
section 4.2. The network trains on the first source, then goes on with the second; both are read like any other source,
with `input_size=(250, 250)` and `crop_size=(224, 224)` in the paper.

stage_1 = instance_crops(source)
stage_2 = proposal_crops(source)                    # or proposal_crops(source, lambda example: edge_boxes(example))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from keras_cv_lectures.errors import DataError

Source = TypeVar("Source")

IGNORE = 255


def instance_crops(source: Source, *, enlarge: float = 1.2, min_side: int = 8) -> Source:
    """Stage 1: one example for each object, cut out around it; the pixels of other objects count as background.

    Objects are the example's `instance_masks` where it has them, otherwise the 4-connected components of each
    foreground class. Every example is read once to find them, and the whole picture again for each crop: give a
    `cached` source.

    Args:
        source: a `data.Source` with `image` and `mask`, or any frozen dataclass with `name`, `ids`, `read` and `files`.
        enlarge: the object's box grows by this factor around its centre: 1.2 in the paper. What lies outside the
            picture is cut off.
        min_side: objects whose box is narrower or lower (pixels) are left out.

    Returns:
        A source of `image`, `mask` (the object's label, 0 elsewhere, 255 where the source has it) and `image_id`; ids
        are those of the pictures with the object's number.

    Raises:
        DataError: there is no object, or examples have no mask.
        ValueError: `enlarge` < 1.
    """
    if enlarge < 1:
        raise ValueError(f"`enlarge` must be at least 1. Received: enlarge={enlarge}")
    windows = []
    for index in range(len(source.ids)):
        for number, instance in enumerate(_instances(source, source.read(index))):
            box = _tight_box(instance)
            if min(box[2] - box[0], box[3] - box[1]) >= min_side:
                windows.append((index, number, _enlarged(box, enlarge, instance.shape)))

    def read(example: dict[str, Any], number: int) -> np.ndarray:
        mask = np.asarray(example["mask"])
        instance = next(m for n, m in enumerate(_instances(source, example)) if n == number)
        return np.where(instance | (mask == IGNORE), mask, 0)

    return _crops(source, windows, read, f"{source.name} objects", f"objects with sides of at least {min_side} pixels")


def proposal_crops(
    source: Source,
    proposals: Callable[[Mapping[str, Any]], np.ndarray] | None = None,
    *,
    min_iou: float = 0.5,
    min_side: int = 8,
    seed: int = 0,
) -> Source:
    """Stage 2: one example for each proposal that overlaps an object; everything inside the box keeps its label.

    Differs from the paper: its proposals are EdgeBox's, which is not part of this package; by default the boxes of the
    objects are moved and scaled at random (`jittered_boxes`), which gives the same kind of crop.

    Args:
        source: as for `instance_crops`.
        proposals: example -> (N, 4) boxes (x1, y1, x2, y2) in pixels.
        min_iou: smallest intersection over union with the box of an object.
        min_side: objects and proposals with a shorter side (pixels) are left out.
        seed: of the default proposals, which depend on nothing else and the picture's index.

    Returns:
        A source of `image`, `mask` and `image_id`.

    Raises:
        DataError: no proposal overlaps an object, or examples have no mask.
    """
    windows = []
    for index in range(len(source.ids)):
        example = source.read(index)
        height, width = np.shape(example["image"])[:2]
        objects = np.array([_tight_box(m) for m in _instances(source, example)], np.float32).reshape(-1, 4)
        objects = objects[_shorter_side(objects) >= min_side]
        if not len(objects):
            continue
        found = jittered_boxes(objects, seed=(seed, index)) if proposals is None else proposals(example)
        found = np.asarray(found, np.float32).reshape(-1, 4)
        found = np.clip(np.floor(found + 0.5), 0, [width, height, width, height])
        good = (_shorter_side(found) >= min_side) & (_iou(found, objects).max(axis=1, initial=0) >= min_iou)
        windows += [(index, number, tuple(box)) for number, box in enumerate(found[good].astype(int))]
    wanted = f"proposals with an IoU of at least {min_iou} with an object"
    return _crops(source, windows, lambda example, _: np.asarray(example["mask"]), f"{source.name} proposals", wanted)


def jittered_boxes(
    boxes: np.ndarray, *, per_box: int = 4, shift: float = 0.15, scale: float = 0.25, seed: int | tuple[int, ...] = 0
) -> np.ndarray:
    """Boxes around `boxes`: centres moved by up to `shift` of the sides, sides scaled by 1 / (1 + scale) .. 1 + scale.

    Args:
        boxes: (N, 4), (x1, y1, x2, y2) in pixels.
        per_box: number of boxes for each.
        shift, scale: widths of the uniform (for the sides log-uniform) distributions.
        seed: an integer or several.

    Returns:
        (N * per_box, 4) float32, those of the first box first; they may reach outside the picture.
    """
    rng = np.random.default_rng(seed)
    boxes = np.repeat(np.asarray(boxes, np.float64).reshape(-1, 4), per_box, axis=0)
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    centres = centres + sides * rng.uniform(-shift, shift, sides.shape)
    sides = sides * (1 + scale) ** rng.uniform(-1, 1, sides.shape)
    return np.concatenate([centres - sides / 2, centres + sides / 2], axis=1).astype(np.float32)


def _crops(source, windows, labels, name, wanted):
    """The source of the windows (picture's index, number in it, box), with `labels(example, number)` for the mask."""
    if not windows:
        raise DataError(f"{source.name}: has no {wanted}, so there is nothing to cut out. Check the masks.")
    ids = tuple(f"{source.ids[index]}#{number}" for index, number, _ in windows)

    def read(position: int) -> dict[str, Any]:
        index, number, (x1, y1, x2, y2) = windows[position]
        example = source.read(index)
        return {
            # Copies, or a cached crop would keep the whole picture.
            "image": np.asarray(example["image"])[y1:y2, x1:x2].copy(),
            "mask": labels(example, number)[y1:y2, x1:x2].astype(np.int32),
            "image_id": ids[position],
        }

    files = source.files
    return dataclasses.replace(
        source, name=name, ids=ids, read=read, files=None if files is None else lambda i: files(windows[i][0])
    )


def _instances(source, example: Mapping[str, Any]) -> Iterator[np.ndarray]:
    """(H, W) bool of every object that has pixels, always in the same order."""
    if example.get("mask") is None:
        raise DataError(f"{source.name}: has no masks, which crops of objects need. Use a source for segmentation.")
    if example.get("instance_masks") is not None:
        for instance in np.asarray(example["instance_masks"]):
            if instance.any():
                yield instance.astype(bool)
        return
    from scipy import ndimage

    mask = np.asarray(example["mask"])
    for label in np.unique(mask[(mask > 0) & (mask != IGNORE)]):
        components, count = ndimage.label(mask == label)
        for number in range(1, count + 1):
            yield components == number


def _tight_box(instance: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(instance.any(axis=1)), np.flatnonzero(instance.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _enlarged(box, factor: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box grown around its centre, to whole pixels outwards, within a picture of `size` (height, width)."""
    x1, y1, x2, y2 = box
    grow_x, grow_y = (x2 - x1) * (factor - 1) / 2, (y2 - y1) * (factor - 1) / 2
    # Rounding errors of the product must not add a pixel.
    left, top = np.floor(x1 - grow_x + 1e-6), np.floor(y1 - grow_y + 1e-6)
    right, bottom = np.ceil(x2 + grow_x - 1e-6), np.ceil(y2 + grow_y - 1e-6)
    return max(int(left), 0), max(int(top), 0), min(int(right), size[1]), min(int(bottom), size[0])


def _shorter_side(boxes: np.ndarray) -> np.ndarray:
    return np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])


def _iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N, M) intersection over union of (N, 4) and (M, 4) boxes."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.prod(np.maximum(high - low, 0), axis=-1)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1) for boxes in (first, second)]
    return common / np.maximum(areas[0][:, None] + areas[1][None] - common, 1e-9)


__all__ = ["instance_crops", "jittered_boxes", "proposal_crops"]
