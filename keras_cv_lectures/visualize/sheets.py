"""Several pictures with their objects: what is right and wrong in one, and the first ones of a data set on a sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from keras_cv_lectures.errors import DataError
from keras_cv_lectures.geometry.masks import pack_crops, split_masks
from keras_cv_lectures.visualize.objects import draw_objects
from keras_cv_lectures.visualize.overlays import Colors, _caption, rgb

_NOTHING = {"boxes": np.zeros((0, 4))}
FOUND, WRONG, MISSED = (26, 150, 65), (222, 30, 38), (255, 150, 0)


@dataclass(frozen=True, kw_only=True)
class ObjectPicture:
    """One picture of a sheet or a report.

    Attributes:
        caption: for example the file name.
        image: (H, W, 3), (H, W, 1) or (H, W) in 0..255.
        truth: labelled objects by the names of the arguments of `draw_objects`: `boxes` (N, 4), `labels` (N,), `masks`,
            `keypoints`; and `ignored` (N,) bool for those that need not be found. None where nothing is labelled.
        prediction: detected objects in the same way, with `scores`; None where nothing was detected yet.
        found: (D,) for each detection the row of the labelled object that it has found, -1 where it is wrong, -2 where
            it is neither right nor wrong; None leaves out the picture of errors.
        score: F1 of this picture in 0..1, None or nan where it has none.
    """

    caption: str
    image: np.ndarray
    truth: Mapping[str, Any] | None = None
    prediction: Mapping[str, Any] | None = None
    found: np.ndarray | None = None
    score: float | None = None

    def counts(self) -> tuple[int, int, int] | None:
        """Detections that are right, detections that are wrong, objects missed; None where that is not known."""
        if self.found is None or self.truth is None:
            return None
        found = np.asarray(self.found)
        return int((found >= 0).sum()), int((found == -1).sum()), int(self.missed().sum())

    def missed(self) -> np.ndarray:
        """(N,) bool: labelled objects that should have been found and were not."""
        boxes = np.asarray(self.truth["boxes"]).reshape(-1, 4)
        missed = np.asarray(self.truth.get("labels", np.zeros(len(boxes)))) >= 0
        missed &= ~np.asarray(self.truth.get("ignored", np.zeros(len(boxes), bool)), bool)
        found = np.asarray(self.found).astype(np.int64)
        missed[found[found >= 0]] = False
        return missed


def resize_picture(picture: ObjectPicture, longest: int, *, enlarge: bool = False) -> ObjectPicture:
    """The picture and its objects at no more than `longest` pixels a side, so that lines and letters stay legible.

    Args:
        picture: of any size; a larger one is averaged.
        longest: pixels of the longer side.
        enlarge: bring a smaller picture to that size too, by repeating pixels.
    """
    from PIL import Image

    image = rgb(picture.image)
    factor = longest / max(image.shape[:2])
    if factor == 1 or (factor > 1 and not enlarge):
        return picture
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    filtering = Image.Resampling.BOX if factor < 1 else Image.Resampling.NEAREST
    resized = np.asarray(Image.fromarray(image).resize((width, height), filtering))
    scale = np.array([width / image.shape[1], height / image.shape[0]])

    def resize(objects: Mapping[str, Any] | None) -> dict[str, Any] | None:
        if objects is None:
            return None
        result = {**objects, "boxes": np.asarray(objects["boxes"], np.float64).reshape(-1, 4) * np.tile(scale, 2)}
        if objects.get("masks") is not None:
            result["masks"] = _resize_masks(objects["masks"], scale)
        if objects.get("keypoints") is not None:
            result["keypoints"] = np.asarray(objects["keypoints"], np.float64) * np.append(scale, 1.0)
        return result

    return replace(picture, image=resized, truth=resize(picture.truth), prediction=resize(picture.prediction))


def object_errors(picture: ObjectPicture) -> np.ndarray:
    """The boxes of right detections in green, wrong ones in red and missed objects in orange, on a pale picture.

    Returns:
        (H, W, 3) uint8, larger by a whole factor where the picture is small.

    Raises:
        DataError: `truth`, `prediction` or `found` is missing.
    """
    if picture.truth is None or picture.prediction is None or picture.found is None:
        raise DataError("errors need truth, prediction and found. Match the two first (metrics.match_objects).")
    found = np.asarray(picture.found)
    kinds = np.where(found >= 0, 0, np.where(found == -1, 1, -1))
    missed = np.asarray(picture.truth["boxes"], np.float64).reshape(-1, 4)[picture.missed()]
    detected = np.asarray(picture.prediction["boxes"], np.float64).reshape(-1, 4)
    grey = rgb(picture.image) @ np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
    pale = np.rint(110 + grey * (135 / 255)).astype(np.uint8)
    return draw_objects(
        pale,
        np.concatenate([detected, missed]),
        np.concatenate([kinds, np.full(len(missed), 2)]),
        colors=(FOUND, WRONG, MISSED),
        tags=False,
    )


def object_sheet(
    pictures: Sequence[ObjectPicture],
    *,
    names: Sequence[str] | None = None,
    colors: Colors | None = None,
    columns: int = 3,
    side: int = 340,
) -> np.ndarray:
    """The labelled objects of several pictures, side by side and row after row, their names above.

    Args:
        pictures: with `truth`; without, the picture alone is shown.
        names: one for each label, for `draw_objects`.
        colors: one for each label, for `draw_objects`.
        columns: pictures in a row, at most.
        side: pixels of the longer side of each.

    Returns:
        (h, w, 3) uint8, white ground.

    Raises:
        DataError: there is no picture, or `columns` or `side` is below 1.
    """
    if not pictures or columns < 1 or side < 1:
        raise DataError(
            f"a sheet needs pictures, and columns and side of at least 1, received {len(pictures)} pictures, "
            f"columns={columns}, side={side}."
        )
    letters = max(12, side // 24)
    cells = []
    for picture in pictures:
        resized = resize_picture(picture, side, enlarge=True)
        truth = {k: v for k, v in (resized.truth or _NOTHING).items() if k != "ignored"}
        drawn = draw_objects(resized.image, **truth, names=names, colors=colors, enlarge=False)
        cells.append(np.concatenate([_caption(picture.caption, drawn.shape[1], letters), drawn]))
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    return np.concatenate([_row(row, min(columns, len(cells)), side, letters) for row in rows])


def _row(cells: Sequence[np.ndarray], columns: int, side: int, gap: int) -> np.ndarray:
    height = max(cell.shape[0] for cell in cells)
    row = np.full((height + gap, columns * (side + gap) + gap, 3), 255, np.uint8)
    for number, cell in enumerate(cells):
        left = gap + number * (side + gap)
        row[: cell.shape[0], left : left + cell.shape[1]] = cell
    return row


def _resize_masks(masks: Any, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dense or compact masks as compact ones of the resized picture; the fullest pixel of an object is always kept."""
    from PIL import Image

    if isinstance(masks, tuple):
        windows = np.asarray(masks[1], np.int64).reshape(-1, 4)
        crops = split_masks(masks[0], windows)
    else:
        crops = np.asarray(masks)
        windows = np.tile([0, 0, *crops.shape[:0:-1]], (len(crops), 1)) if len(crops) else np.zeros((0, 4), np.int64)
    edges = np.rint(windows * np.tile(scale, 2)).astype(np.int64)
    edges[:, 2:] = np.maximum(edges[:, 2:], edges[:, :2] + 1)
    pieces = []
    for crop, (x1, y1, x2, y2) in zip(crops, edges.tolist(), strict=True):
        inside = crop > 0.5 if np.issubdtype(crop.dtype, np.floating) else crop != 0
        if not inside.size:
            pieces.append(np.zeros((y2 - y1, x2 - x1), np.uint8))
            continue
        shares = np.asarray(Image.fromarray(inside.astype(np.float32)).resize((x2 - x1, y2 - y1), Image.Resampling.BOX))
        pieces.append((shares >= min(0.5, shares.max())).astype(np.uint8) * inside.any())
    return pack_crops(pieces), edges.astype(np.int32)
