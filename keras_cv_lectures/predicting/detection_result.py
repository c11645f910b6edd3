"""What a detector finds in one picture, for people and for programs."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from keras_cv_lectures import files
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.geometry.masks import split_masks
from keras_cv_lectures.postprocessing import detection
from keras_cv_lectures.visualize.objects import draw_objects

# Detections below it are not drawn or saved unless asked for: a detector gives many unsure ones, for its scores' sake.
SHOWN_SCORE = 0.5
_FEW = 10


@dataclass(frozen=True, eq=False, kw_only=True)
class DetectionResult:
    """N objects of one picture, in the picture's own pixels, the surest first.

    Attributes:
        image: (H, W, C) uint8, the picture as given.
        boxes: (N, 4) float32 (x1, y1, x2, y2).
        scores: (N,) float32 in 0..1, descending.
        labels: (N,) int32 from 0.
        classes: names in label order, background not among them.
        colors: (red, green, blue) in 0..255 for each class.
        name: name of the picture's file without suffix, "" where it had none; unique among those of one `predict`.
        mask_probabilities: (N, m, m) float32 in 0..1, each spread over its box; None of a detector without masks.
        mask_boxes: (N, 4) float32, those boxes where they are not `boxes`: before the cut at the picture's border.
        keypoints: (N, K, 3) float32 x, y and score, the height of a heat map's peak, which may be negative; None of a
            detector without keypoints.
        keypoint_names: K names in their order; () where they are not known.
        file_name: whole name of the picture's file, without its folder, "" where it had none.
    """

    image: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    name: str = ""
    mask_probabilities: np.ndarray | None = field(default=None, repr=False)
    mask_boxes: np.ndarray | None = field(default=None, repr=False)
    keypoints: np.ndarray | None = field(default=None, repr=False)
    keypoint_names: tuple[str, ...] = ()
    file_name: str = ""

    def __repr__(self) -> str:
        height, width = self.size
        found = [f"{self.classes[k]} {s:.2f}" for k, s in zip(self.labels, self.scores, strict=True)]
        more = [f"{len(found) - _FEW} more"] if len(found) > _FEW else []
        return f"DetectionResult({self.name!r}, {height}x{width} pixels: {', '.join(found[:_FEW] + more) or 'nothing'})"

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the picture."""
        return self.image.shape[0], self.image.shape[1]

    @cached_property
    def masks(self) -> tuple[np.ndarray, np.ndarray] | None:
        """`mask_pixels` (P,) uint8 and `mask_windows` (N, 4) int32, pasted at first use; None without masks.

        This is the compact form of the whole package: `geometry.masks.split_masks` gives the crops, `unpack_masks`
        (N, H, W).
        """
        if self.mask_probabilities is None:
            return None
        boxes = self.boxes if self.mask_boxes is None else self.mask_boxes
        return detection.paste_masks(self.mask_probabilities, boxes, self.size)

    def crops(self) -> tuple[list[np.ndarray], np.ndarray]:
        """Masks (h, w) uint8, 0 or 1, and the windows (N, 4) int32 of the picture that they cover.

        Raises:
            DataError: the detector has no masks.
        """
        if self.masks is None:
            raise DataError("this detector gives no masks. Train or load a Mask R-CNN (build_mask_rcnn).")
        pixels, windows = self.masks
        return split_masks(pixels, windows), windows

    def instance_map(self) -> np.ndarray:
        """(H, W) int32: 0 where there is no object, else 1 + its row; of two objects the surer one has the pixel.

        Raises:
            DataError: the detector has no masks.
        """
        return detection.instance_map(*self.crops(), self.size)

    def above(self, score: float) -> DetectionResult:
        """Only the objects with at least that score."""
        rows = np.flatnonzero(self.scores >= score)
        names = ("boxes", "scores", "labels", "mask_probabilities", "mask_boxes", "keypoints")
        chosen = {name: getattr(self, name)[rows] for name in names if getattr(self, name) is not None}
        return replace(self, **chosen)

    def draw(self, score: float = SHOWN_SCORE, **settings: Any) -> np.ndarray:
        """(h, w, 3) uint8: the picture with its objects, enlarged by a whole factor where it is small.

        Args:
            score: objects below it are not drawn.
            settings: of `visualize.objects.draw_objects`: `alpha`, `tags`, `skeleton`, `color_by`, ....
        """
        shown = self.above(score)
        # The one name there is, said a hundred times, would cover the picture; the score is enough.
        names = None if len(self.classes) == 1 and len(shown) > _FEW else self.classes
        # Neighbours of one class, such as cells, are told apart by a colour for each.
        colors = None if shown.masks is not None and len(self.classes) == 1 else self.colors
        picture = self.image[..., : 3 if self.image.shape[-1] >= 3 else 1]  # of other channels the first ones
        return draw_objects(
            picture,
            shown.boxes,
            shown.labels,
            shown.scores,
            shown.masks,
            shown.keypoints,
            # All keypoints: the height of a heat map's peak has no zero that means anything.
            **{"names": names, "colors": colors, "keypoint_threshold": -np.inf, **settings},
        )

    def as_prediction(self) -> dict[str, Any]:
        """What the metrics of detection take as a prediction: see `metrics.objects`."""
        found: dict[str, Any] = {
            "boxes": self.boxes,
            "scores": self.scores,
            "labels": self.labels,
            "size": np.array(self.size),
        }
        if self.masks is not None:
            found["mask_pixels"], found["mask_windows"] = self.masks
        if self.keypoints is not None:
            found["keypoints"] = self.keypoints
        return found

    def coco(self) -> dict[str, Any]:
        """The objects as a COCO file of one picture, ready for JSON: `images`, `categories` and `annotations`.

        Annotations have a `score`, masks are run-length codes, and `category_id` is the label, from 0. `file_name` is
        that of the picture's file, or `name` where it had none. Keypoints without names are called point_1, point_2,
        .... Annotation tools that import COCO take it as a first draft, and `coco_source` reads it.
        """
        found = {"boxes": self.boxes, "scores": self.scores, "labels": self.labels}
        points = {}
        if self.keypoints is not None:
            found["keypoints"] = self.keypoints
            count = self.keypoints.shape[1]
            points["keypoints"] = list(self.keypoint_names) or [f"point_{k}" for k in range(1, count + 1)]
        height, width = self.size
        return {
            "images": [{"id": 1, "file_name": self.file_name or self.name, "height": height, "width": width}],
            "categories": [{"id": label, "name": name, **points} for label, name in enumerate(self.classes)],
            "annotations": detection.coco_annotations(
                found, self.size, crops=None if self.mask_probabilities is None else self.crops()
            ),
        }

    def save(
        self, folder: str | os.PathLike, stem: str | None = None, *, score: float = SHOWN_SCORE
    ) -> dict[str, Path]:
        """Writes `STEM_overlay.png`, the picture with its objects, and `STEM_objects.json` (see `coco`).

        Args:
            folder: made if it does not exist.
            stem: beginning of the file names; None for `name`, or "prediction" where that is empty.
            score: objects below it are in neither file.

        Returns:
            `{"objects": path, "overlay": path}`.
        """
        from PIL import Image

        stem = stem or self.name or "prediction"
        shown = self.above(score)
        paths = {"objects": Path(folder) / f"{stem}_objects.json", "overlay": Path(folder) / f"{stem}_overlay.png"}
        picture = Image.fromarray(shown.draw(score))
        files.write_json(paths["objects"], shown.coco())
        with files.atomic_path(paths["overlay"]) as temporary:
            picture.save(temporary)
        return paths
