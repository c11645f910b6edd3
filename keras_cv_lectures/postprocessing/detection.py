"""Outputs of a detector -> the objects of one picture, in its own pixels. NumPy.

A detector's outputs are a dict of fixed sizes: `boxes` (B, D, 4), `scores` (B, D), `labels` (B, D) with -1 behind the
last, `count` (B,), and maybe `masks` (B, D, m, m), probabilities spread over each box, and `keypoints` (B, D, K, 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.geometry.masks import PasteRule, pack_crops, paste_masks_numpy
from keras_cv_lectures.geometry.rle import rle_encode

# What is around a picture on a larger canvas, in training too: the mean of ImageNet's pixels, which normalisation
# brings to about 0.
CANVAS_COLOR = (124, 116, 104)
MASK_THRESHOLD = 0.5


def are_detections(shapes: Mapping[str, Sequence[int | None] | None]) -> bool:
    """Whether outputs of these shapes are detections: `boxes` (B, D, 4), `scores` (B, D) and `labels` (B, D).

    Raw heads may have the same names. `count` may be missing.

    Args:
        shapes: by name; None for a side, or for a whole shape, that is not known and so may fit.

    >>> are_detections({"boxes": (1, 100, 4), "scores": (1, 100), "labels": (1, 100)})
    True
    >>> are_detections({"boxes": (1, 100, 4), "scores": (1, 100, 80), "labels": (1, 100)})
    False
    """
    ranks = {"boxes": 3, "scores": 2, "labels": 2}
    if not ranks.keys() <= shapes.keys():
        return False
    known = {name: shapes[name] for name in ranks if shapes[name] is not None}
    if any(len(shape) != ranks[name] for name, shape in known.items()):
        return False
    batch, rows = ({shape[axis] for shape in known.values()} - {None} for axis in (0, 1))
    return len(batch) <= 1 and len(rows) <= 1 and known.get("boxes", (4,))[-1] in (4, None)


def fitted_size(size: tuple[int, int], canvas: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a picture of `size` brought to the largest size that fits into `canvas`, its aspect kept.

    Sides are rounded down, as `preprocessing.resize_rule` does in training.

    >>> fitted_size((100, 50), (320, 320))
    (320, 160)
    """
    scale = min(canvas[0] / size[0], canvas[1] / size[1])
    height, width = (min(max(1, int(side * scale)), limit) for side, limit in zip(size, canvas, strict=True))
    return height, width


def canvas_color(channels: int) -> tuple[int, ...]:
    """`CANVAS_COLOR` for a picture of `channels` channels: its mean in each, unless there are three."""
    return CANVAS_COLOR if channels == 3 else (round(sum(CANVAS_COLOR) / 3),) * channels


def on_canvas(picture: np.ndarray, canvas: tuple[int, int]) -> np.ndarray:
    """Picture (h, w, C) at the top left of a canvas (H, W, C), the rest of which has `CANVAS_COLOR`.

    Raises:
        ValueError: the picture is larger than the canvas.
    """
    height, width, channels = picture.shape
    if height > canvas[0] or width > canvas[1]:
        raise ValueError(
            f"picture must fit on the canvas of {canvas[0]} x {canvas[1]}. Received: {height} x {width}. Resize it to "
            "`fitted_size` first."
        )
    if (height, width) == tuple(canvas):
        return picture
    result = np.empty((*canvas, channels), picture.dtype)
    result[:] = canvas_color(channels)
    result[:height, :width] = picture
    return result


def detected_objects(
    outputs: Mapping[str, Any],
    index: int,
    size: tuple[int, int],
    *,
    seen_size: tuple[int, int] | None = None,
) -> dict[str, np.ndarray]:
    """What a detector found in one picture of a batch, without padding.

    Args:
        outputs: of the detector, see the top of this file.
        index: of the picture in the batch.
        size: (height, width) of the picture as a person has it.
        seen_size: (height, width) that the picture had on the canvas that the detector saw; None for `size`.

    Returns:
        `boxes` (N, 4) float32 in pixels of the picture, cut at its border, `scores` (N,) float32, `labels` (N,) int32,
        and where the outputs have them `masks` (N, m, m) float32 with `mask_boxes` (N, 4) float32, the boxes that they
        are spread over, before the cut, and `keypoints` (N, K, 3) float32, whose x and y are brought to the picture
        too. Rows by descending score; boxes that have no area inside the picture are left out.

    Raises:
        ModelError: the outputs are not those of a detector.
    """
    check_detector(outputs)
    values = {
        name: np.asarray(outputs[name])[index]
        for name in ("boxes", "scores", "labels", "masks", "keypoints")
        if name in outputs
    }
    rows = np.flatnonzero(values["labels"] >= 0)
    rows = rows[rows < int(np.asarray(outputs["count"])[index])] if "count" in outputs else rows
    # Sorted already, unless 8 bits made two scores equal or changed places.
    rows = rows[np.argsort(-values["scores"][rows].astype(np.float32), kind="stable")]
    factors = np.float32([real / seen for real, seen in zip(size, seen_size or size, strict=True)])[::-1]  # x, y
    height, width = size
    whole = values["boxes"][rows].astype(np.float32) * np.tile(factors, 2)
    boxes = np.clip(whole, 0, np.float32([width, height, width, height]))
    # The canvas may be larger than the picture, and the detector knows of the canvas only.
    inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    rows, whole, boxes = rows[inside], whole[inside], boxes[inside]
    found = {
        "boxes": boxes,
        "scores": values["scores"][rows].astype(np.float32),
        "labels": values["labels"][rows].astype(np.int32),
    }
    if "masks" in values:
        found["masks"] = values["masks"][rows].astype(np.float32)
        found["mask_boxes"] = whole
    if "keypoints" in values:
        points = values["keypoints"][rows].astype(np.float32)
        found["keypoints"] = np.concatenate([points[..., :2] * factors, points[..., 2:]], axis=-1)
    return found


def check_detector(outputs: Mapping[str, Any]) -> None:
    """Raises a ModelError that says what was received unless `outputs` are those of a detector."""
    shapes = {name: tuple(np.shape(value)) for name, value in outputs.items()}
    if are_detections(shapes):
        return
    raise ModelError(
        "expected a detector with the outputs boxes (B, D, 4), scores (B, D) and labels (B, D). "
        f"Received: {shapes}. Give the dict those names."
    )


def paste_masks(
    masks: np.ndarray,
    boxes: np.ndarray,
    size: tuple[int, int],
    *,
    threshold: float = MASK_THRESHOLD,
    rule: PasteRule = "torchvision",
) -> tuple[np.ndarray, np.ndarray]:
    """Masks of a detector as objects of the picture, compact: 300 objects of a large picture take what they cover.

    Args:
        masks: (N, m, m) probabilities, each spread over its box.
        boxes: (N, 4) in pixels of the picture; may reach beyond it.
        size: (height, width) of the picture.
        threshold: a pixel belongs to the object where the probability is above it.
        rule: see `geometry.masks.paste_masks_numpy`.

    Returns:
        `mask_pixels` (P,) uint8, 0 or 1, and `mask_windows` (N, 4) int32 (see `geometry.masks`, whose `unpack_masks`
        makes (N, H, W) of them).
    """
    crops, windows = paste_masks_numpy(masks, boxes, size, rule, threshold=threshold, crops=True)
    return pack_crops(crops), windows


def instance_map(crops: list[np.ndarray], windows: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) int32: 0 where there is no object, else 1 + the row of the object; of two the earlier (surer) row wins.

    Args:
        crops: N masks (h, w), not 0 where the object is, by descending score.
        windows: (N, 4) int32 that they cover, inside the picture.
        size: (height, width) of the picture.
    """
    result = np.zeros(size, np.int32)
    for row in reversed(range(len(crops))):
        x1, y1, x2, y2 = (int(edge) for edge in windows[row])
        result[y1:y2, x1:x2][crops[row] != 0] = row + 1
    return result


def coco_annotations(
    found: Mapping[str, np.ndarray],
    size: tuple[int, int],
    *,
    crops: tuple[list[np.ndarray], np.ndarray] | None = None,
    image_id: int = 1,
) -> list[dict[str, Any]]:
    """Objects as the records of a COCO file, ready for JSON; `category_id` is the label, from 0.

    Every keypoint is written, with the visibility 2 (labelled and visible): heat maps have a peak for each, and its
    height, in `keypoint_scores`, has no zero that tells seen points from others. COCO's evaluation does not read it.

    Args:
        found: `boxes`, `scores`, `labels`, maybe `keypoints`, as `detected_objects` gives them.
        size: (height, width) of the picture.
        crops: masks (h, w) and the windows that they cover; None leaves masks out.
        image_id: of the records.
    """
    records = []
    for row, (x1, y1, x2, y2) in enumerate(np.asarray(found["boxes"], np.float64).round(3).tolist()):
        record: dict[str, Any] = {
            "id": row + 1,
            "image_id": image_id,
            "category_id": int(found["labels"][row]),
            "score": round(float(found["scores"][row]), 6),
            "bbox": [x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)],
            "area": round((x2 - x1) * (y2 - y1), 3),
            "iscrowd": 0,
        }
        if crops is not None:
            record["segmentation"] = rle_encode(crops[0][row], crops[1][row], size, compress=True)
            record["area"] = int(np.count_nonzero(crops[0][row]))
        if "keypoints" in found:
            points = np.asarray(found["keypoints"][row], np.float64).round(3)
            record["keypoints"] = [number for x, y, _ in points.tolist() for number in (x, y, 2)]
            record["num_keypoints"] = len(points)
            record["keypoint_scores"] = points[:, 2].tolist()
        records.append(record)
    return records
