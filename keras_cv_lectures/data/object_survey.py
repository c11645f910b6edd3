"""Counts over the boxes of one source, for the doctor."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_cv_lectures.data.source import Source

NAMED = 5  # Files that a warning names before it goes on to count.
_LISTED = 50  # Objects left out that a warning lists.


@dataclass(frozen=True, kw_only=True)
class ObjectCount:
    """Objects of one class: how many, crowds included, their share of all, the number of pictures that have some, and
    the median of their side, the root of the box's area, in pixels."""

    name: str
    objects: int
    share: float
    pictures: int
    side: float


class ObjectSurvey:
    """Running counts over the boxes of one source."""

    def __init__(self, source: Source):
        self.source = source
        self.sides: dict[int, list[float]] = defaultdict(list)
        self.pictures: Counter = Counter()
        self.examples = 0
        self.empty = 0
        self.crowds = 0
        self.left_out: list[str] = []
        self.astray: list[str] = []
        self.twice: list[str] = []

    def add(self, example: dict, name: str, left_out: Sequence[str]) -> None:
        boxes, labels = example["boxes"], example["labels"]
        self.examples += 1
        self.empty += not len(boxes)
        self.left_out += left_out
        self.pictures.update(np.unique(labels).tolist())
        sides = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
        for label, side in zip(labels.tolist(), sides.tolist(), strict=True):
            self.sides[label].append(side)
        marks = [example[key] for key in ("crowd", "difficult") if key in example]
        if marks:
            self.crowds += int(np.logical_or.reduce(marks).sum())
        if len(np.unique(np.column_stack([labels, boxes]), axis=0)) < len(boxes):
            self.twice.append(name)
        if "mask_windows" in example and (_overlap(boxes, example["mask_windows"]) < 0.5).any():
            self.astray.append(name)

    def counts(self) -> dict[str, Any]:
        """The fields of a `SplitReport` that are about objects."""
        if not self.examples:
            return {}
        total = max(1, sum(map(len, self.sides.values())))
        names = self.source.object_classes or [f"class {label}" for label in range(max(self.sides, default=-1) + 1)]
        counts = tuple(
            ObjectCount(
                name=name,
                objects=len(self.sides[label]),
                share=len(self.sides[label]) / total,
                pictures=self.pictures[label],
                side=float(np.median(self.sides[label])) if self.sides[label] else 0.0,
            )
            for label, name in enumerate(names)
        )
        return {
            "objects": counts,
            "without_objects": self.empty,
            "crowds": self.crowds,
            "left_out": tuple(self.left_out),
        }

    def warnings(self) -> list[str]:
        name, found = self.source.name, []
        if not self.examples:
            return found
        if self.left_out:
            found.append(f"{name}: objects left out: {listed(self.left_out)}")
        count = sum(map(len, self.sides.values()))
        if not count:
            found.append(f"{name}: no picture has an object; there is nothing to learn.")
        elif self.crowds == count:
            found.append(
                f"{name}: every object is marked as a group or as difficult (`iscrowd`, `ignore` or `difficult`), and "
                "such objects are not learned. Set the mark to 0 where one object is meant."
            )
        if count:
            absent = [c for label, c in enumerate(self.source.object_classes) if not self.sides[label]]
            if absent:
                found.append(f"{name}: no object of {some(list(map(repr, absent)))}.")
        if self.twice:
            found.append(
                f"{name}: {len(self.twice)} pictures name an object twice, with the same box and class: "
                f"{some(self.twice)}. Remove one of each."
            )
        if self.astray:
            found.append(
                f"{name}: {len(self.astray)} pictures have an object whose mask and box hardly overlap: "
                f"{some(self.astray)}. Were rows and columns, or two annotations, mixed up?"
            )
        return found


def _overlap(boxes: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Intersection over union of each box (N, 4) with the window (N, 4) of its mask, both grown by a pixel.

    Grown, because a mask is drawn in whole pixels: that of a box of half a pixel may be twice as large.
    """
    a, b = (x.astype(np.float64) + [-1, -1, 1, 1] for x in (boxes, windows))
    shared = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None).prod(axis=1)
    return shared / ((a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1) - shared)


def listed(lines: Sequence[str]) -> str:
    """How many there are, and the first of them, one a line."""
    rest = len(lines) - _LISTED
    return "\n".join([str(len(lines)), *lines[:_LISTED], *([f"... and {rest} more"] if rest > 0 else [])])


def some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
