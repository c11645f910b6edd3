"""How well the detections of an export agree with those of its model.

Arrays of detections cannot be compared row by row: two scores that differ in the last digit change places. Here every
detection of one side looks for its partner on the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_cv_lectures.errors import ModelError

Outputs = dict[str, np.ndarray]

# Detections below it are not looked at, unless there are no others.
SCORE = 0.1
# Partners have one label and overlap by at least this much.
PARTNER_IOU = 0.5
# What a float32 export may differ by.
IOU = 0.99
SCORE_TOLERANCE = 1e-3
MASK_TOLERANCE = 1e-2
KEYPOINT_TOLERANCE = 0.5


@dataclass(frozen=True, kw_only=True)
class DetectionComparison:
    """Agreement of two detectors on the same pictures.

    Attributes:
        detections: how many of either side were looked at: those with a score above the limit (0.1), or all if
            there is none.
        paired: how many of them have a partner on the other side.
        lowest_iou, mean_iou: overlap of partners, 0..1; 1 where there are none.
        box_difference: largest distance between the same sides of partners, in pixels.
        score_difference: largest difference of scores of partners.
        mask_difference: largest difference of mask probabilities of partners; None without masks.
        keypoint_difference: median distance between the same keypoints of partners, in pixels; None without keypoints.
            Not the largest: of two peaks of equal height either may win.
        unpaired: description of the first detection without a partner, or "".
    """

    detections: int = 0
    paired: int = 0
    lowest_iou: float = 1.0
    mean_iou: float = 1.0
    box_difference: float = 0.0
    score_difference: float = 0.0
    mask_difference: float | None = None
    keypoint_difference: float | None = None
    unpaired: str = ""

    @property
    def max_difference(self) -> float:
        """The largest difference of scores."""
        return self.score_difference

    @property
    def label_agreement(self) -> float | None:
        """Share of the detections that have a partner; None where there are no detections."""
        return self.paired / self.detections if self.detections else None

    def to_json(self) -> dict[str, Any]:
        """The numbers by name, without those that do not apply."""
        found = {name: value for name, value in vars(self).items() if name != "unpaired" and value is not None}
        return {name: round(value, 6) if isinstance(value, float) else value for name, value in found.items()}

    def require_equal(self, path: Path) -> None:
        """Raises ModelError unless every detection has a partner that float32 arithmetic explains.

        Partners overlap by 0.99, their scores differ by at most 1e-3, their masks by 1e-2, their keypoints by half a
        pixel.
        """
        problem = None
        # Written so that a NaN fails.
        if self.paired != self.detections:
            problem = f"{self.detections - self.paired} of {self.detections} have no partner ({self.unpaired})"
        elif not self.lowest_iou >= IOU:
            problem = f"partners overlap by {self.lowest_iou:.3f}, at least {IOU} is expected"
        elif not self.score_difference <= SCORE_TOLERANCE:
            problem = f"scores differ by {self.score_difference:.1e}, at most {SCORE_TOLERANCE:.0e} is allowed"
        elif self.mask_difference is not None and not self.mask_difference <= MASK_TOLERANCE:
            problem = f"masks differ by {self.mask_difference:.1e}, at most {MASK_TOLERANCE:.0e} is allowed"
        elif self.keypoint_difference is not None and not self.keypoint_difference <= KEYPOINT_TOLERANCE:
            problem = (
                f"keypoints are {self.keypoint_difference:.2f} pixels apart, at most {KEYPOINT_TOLERANCE} is allowed"
            )
        if problem:
            raise ModelError(
                f"The export {path} disagrees with its model: of the detections with a score above {SCORE}, {problem}. "
                "A layer behaves differently outside Keras; look for code that depends on training or on random "
                "numbers. Nothing was written."
            )


def compare_detections(pairs: Iterable[tuple[Outputs, Outputs]], *, score: float = SCORE) -> DetectionComparison:
    """Compares outputs of a model with those of its export, both as a detector returns them.

    Args:
        pairs: (model's, export's) outputs of the same batch of pictures.
        score: a detection above it must have a partner, whose own score may be lower; where no detection is above
            it, all must.
    """
    pictures = [
        (_picture(expected, i), _picture(found, i)) for expected, found in pairs for i in range(len(expected["scores"]))
    ]
    if not any((one["scores"] > score).any() for pair in pictures for one in pair):
        score = -np.inf
    counts, paired, unpaired = 0, 0, ""
    overlaps, boxes, scores, masks, points = [], [], [], [], []
    for pair in pictures:
        partners, iou = _partners(*pair)
        for side in (0, 1):
            alone = set(range(len(pair[side]["scores"]))) - {one[side] for one in partners}
            wanted = np.flatnonzero(pair[side]["scores"] > score)
            lost = [i for i in wanted if i in alone and not _cut(pair[side], pair[1 - side], i)]
            counts += len(wanted)
            paired += len(wanted) - len(lost)
            if lost and not unpaired:
                unpaired = _described(pair[side], lost[0], ("the model", "the export")[side])
        for i, j in partners:
            one, other = pair[0], pair[1]
            if max(one["scores"][i], other["scores"][j]) <= score:
                continue
            overlaps.append(iou[i, j])
            boxes.append(np.abs(one["boxes"][i] - other["boxes"][j]).max())
            scores.append(abs(float(one["scores"][i]) - float(other["scores"][j])))
            if "masks" in one:
                masks.append(np.abs(one["masks"][i] - other["masks"][j]).max())
            if "keypoints" in one:
                points += list(np.linalg.norm(one["keypoints"][i, :, :2] - other["keypoints"][j, :, :2], axis=-1))
    # NumPy's maxima keep a NaN, Python's lose it.
    return DetectionComparison(
        detections=counts,
        paired=paired,
        lowest_iou=float(np.min(overlaps, initial=1.0)),
        mean_iou=float(np.mean(overlaps)) if overlaps else 1.0,
        box_difference=float(np.max(boxes, initial=0.0)),
        score_difference=float(np.max(scores, initial=0.0)),
        mask_difference=float(np.max(masks)) if masks else None,
        keypoint_difference=float(np.median(points)) if points else None,
        unpaired=unpaired,
    )


def _picture(outputs: Outputs, index: int) -> Outputs:
    """The detections of one picture, without padding; `full` says that there may have been more."""
    used = outputs["labels"][index] >= 0
    if "count" in outputs:
        used = used & (np.arange(len(used)) < outputs["count"][index])
    # Others say nothing of a row, and may have another number of them.
    names = set(outputs) & {"boxes", "scores", "labels", "masks", "keypoints"}
    found = {name: outputs[name][index][used] for name in names}
    return {**found, "full": used.all()}


def _partners(one: Outputs, other: Outputs) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Pairs of rows with one label, best overlap first, each row at most once; and all overlaps (D, E)."""
    iou = _overlaps(one["boxes"], other["boxes"])
    allowed = np.where(one["labels"][:, None] == other["labels"][None], iou, 0.0)
    pairs, used = [], (set(), set())
    for place in np.argsort(-allowed, axis=None, kind="stable"):
        i, j = (int(n) for n in np.unravel_index(place, allowed.shape))
        if not allowed[i, j] >= PARTNER_IOU:
            break
        if i not in used[0] and j not in used[1]:
            pairs.append((i, j))
            used[0].add(i)
            used[1].add(j)
    return pairs, iou


def _overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (D, 4) and (E, 4) in float64; 1 for equal boxes without an area."""
    a, b = a.astype(np.float64)[:, None], b.astype(np.float64)[None]
    sides = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0.0)
    common = sides.prod(axis=-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(axis=-1) for box in (a, b)]
    union = areas[0] + areas[1] - common
    return np.where(union > 0, common / np.where(union > 0, union, 1.0), (a == b).all(axis=-1))


def _cut(one: Outputs, other: Outputs, row: int) -> bool:
    """Whether a detection may be missing on the other side only because that side was full of equally good ones."""
    return bool(other["full"]) and one["scores"][row] <= other["scores"].min() + SCORE_TOLERANCE


def _described(one: Outputs, row: int, owner: str) -> str:
    box = ", ".join(f"{side:.1f}" for side in one["boxes"][row])
    return f"{owner} alone has label {one['labels'][row]} with score {one['scores'][row]:.3f} at ({box})"


__all__ = ["DetectionComparison", "Outputs", "compare_detections"]
