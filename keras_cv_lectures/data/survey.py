"""Counts over the examples of one source, for the doctor."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_cv_lectures.data.contract import check_example
from keras_cv_lectures.data.labels import IGNORE
from keras_cv_lectures.data.source import Source
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.text import as_text, tokenize

_NAMED = 5  # Files that a warning names before it goes on to count.
_CLASSES = 20  # Up to so many classes are all shown.
_FREQUENT = 5  # Words that occur less often are rare; a vocabulary leaves them out.
_LISTED = 50  # Objects left out that a warning lists.


@dataclass(frozen=True, kw_only=True)
class LabelCount:
    """Pixels of one class: how many, their share of all pixels that count, and the number of pictures that have some.

    The share of the ignore label is of all pixels.
    """

    name: str
    pixels: int
    share: float
    pictures: int


@dataclass(frozen=True, kw_only=True)
class ObjectCount:
    """Objects of one class: how many, crowds included, their share of all, the number of pictures that have some, and
    the median of their side, the root of the box's area, in pixels."""

    name: str
    objects: int
    share: float
    pictures: int
    side: float


@dataclass(frozen=True, kw_only=True)
class CaptionCount:
    """Captions of the readable pictures: how many in all, fewest and most of a picture, and their words.

    `mean_words` and `longest` are of one caption; `words` is the number of different ones, and `rare` the number of
    those that occur fewer than five times.
    """

    captions: int
    fewest: int
    most: int
    mean_words: float
    longest: int
    words: int
    rare: int


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """What one split holds.

    Attributes:
        name: of the source.
        examples: how many there are.
        readable: how many of them could be read.
        sizes: (height, width) -> number of pictures.
        labels: one count per class, in label order; empty where examples have no mask.
        ignored: pixels with label 255.
        objects: one count per class of objects; empty where examples have no boxes.
        without_objects: readable pictures that have none, where examples have boxes.
        crowds: objects marked as groups or as difficult.
        left_out: one line for each object that readers leave out, with its file.
        captions: of the sentences; None where examples have none.
    """

    name: str
    examples: int
    readable: int
    sizes: Mapping[tuple[int, int], int]
    labels: tuple[LabelCount, ...]
    ignored: LabelCount
    objects: tuple[ObjectCount, ...] = ()
    without_objects: int = 0
    crowds: int = 0
    left_out: tuple[str, ...] = ()
    captions: CaptionCount | None = None


class Survey:
    """Running counts over the examples of one source."""

    def __init__(self, source: Source):
        self.source = source
        self.sizes: Counter = Counter()
        self.pixels = np.zeros(256, np.int64)
        self.pictures = np.zeros(256, np.int64)
        self.grey: list[str] = []
        self.readable = 0
        self.channels: int | None = None
        self.masks = 0
        self.objects = ObjectSurvey(source)
        self.rows_left_out: list[str] = []
        self.captions: list[int] = []
        self.lengths: list[int] = []
        self.words: Counter = Counter()

    def add(self, example: dict, name: str, left_out: Sequence[str] = ()) -> None:
        """Counts one example.

        Raises:
            DataError: it has no picture, `check_example` refuses it, or its mask holds what cannot be a label; then
                nothing of it is counted.
        """
        where = f"{self.source.name}, example {name}"
        if "image" not in example:
            raise DataError(f"{where} has no 'image'. Let the reader give (H, W, C) uint8.")
        check_example(example, where, channels=self.channels)
        image = example["image"]
        counts = label_counts(example["mask"], where) if "mask" in example else None
        self.channels = image.shape[-1]
        self.readable += 1
        self.sizes[image.shape[:2]] += 1
        if image.shape[-1] == 3 and (image[..., :1] == image[..., 1:]).all():
            self.grey.append(name)
        if counts is not None:
            self.pixels += counts
            self.pictures += counts > 0
            self.masks += 1
        if "boxes" in example:
            self.objects.add(example, name, left_out)
        else:
            self.rows_left_out += left_out
        if "captions" in example:
            self.captions.append(len(example["captions"]))
            for caption in example["captions"]:
                words = tokenize(as_text(caption))
                self.lengths.append(len(words))
                self.words.update(words)

    def report(self) -> SplitReport:
        valid = max(1, int(self.pixels[:IGNORE].sum()))
        labels = tuple(
            LabelCount(
                name=name, pixels=int(self.pixels[i]), share=self.pixels[i] / valid, pictures=int(self.pictures[i])
            )
            for i, name in enumerate(self.source.classes)
        )
        ignored = LabelCount(
            name="(ignored)",
            pixels=int(self.pixels[IGNORE]),
            share=self.pixels[IGNORE] / max(1, int(self.pixels.sum())),
            pictures=int(self.pictures[IGNORE]),
        )
        return SplitReport(
            name=self.source.name,
            examples=len(self.source),
            readable=self.readable,
            sizes=dict(self.sizes.most_common()),
            labels=labels if self.masks else (),
            ignored=ignored,
            **self.objects.counts(),
            captions=self._caption_count() if self.lengths else None,
        )

    def _caption_count(self) -> CaptionCount:
        return CaptionCount(
            captions=len(self.lengths),
            fewest=min(self.captions),
            most=max(self.captions),
            mean_words=float(np.mean(self.lengths)),
            longest=max(self.lengths),
            words=len(self.words),
            rare=sum(count < _FREQUENT for count in self.words.values()),
        )

    def warnings(self) -> list[str]:
        source, found = self.source, []
        if 0 < len(self.grey) < self.readable:
            found.append(
                f"{source.name}: {len(self.grey)} of {self.readable} pictures are grey among coloured ones: "
                f"{some(self.grey)}. They are read as three equal channels."
            )
        if self.rows_left_out:
            found.append(f"{source.name}: captions left out: {listed(self.rows_left_out)}")
        if not self.masks:
            return found + self.objects.warnings()
        present = [name for i, name in enumerate(source.classes) if self.pixels[i]]
        absent = [name for i, name in enumerate(source.classes) if not self.pixels[i]]
        if len(present) == 1:
            found.append(f"{source.name}: every labelled pixel is {present[0]!r}; there is nothing to tell apart.")
        elif absent:
            found.append(f"{source.name}: no pixel of {', '.join(map(repr, absent))}.")
        share = self.pixels[IGNORE] / max(1, self.pixels.sum())
        if share > 0.5:
            found.append(f"{source.name}: {share:.0%} of the pixels are ignored (255). Is the label map right?")
        return found


def label_counts(mask: np.ndarray, where: str) -> np.ndarray:
    """Number of pixels of each label: (256,) int64.

    Args:
        mask: (H, W) labels in 0..255, of an integer type.
        where: begins the message.

    Raises:
        DataError: the mask is of another type, or holds other numbers.
    """
    labels = f"{where}: 'mask' must hold integers in 0..255, where 255 = ignore"
    if mask.dtype.kind not in "biu":
        raise DataError(f"{labels}, but is {mask.dtype}. Let the reader convert it: mask.astype(np.int32).")
    wrong = np.unique(mask[(mask < 0) | (mask > IGNORE)])
    if wrong.size:
        shown = ", ".join(map(str, wrong[:_NAMED])) + (", ..." if wrong.size > _NAMED else "")
        raise DataError(f"{labels}, but holds {shown}. Let the reader give these pixels a class id or 255.")
    return np.bincount(mask.ravel().astype(np.int64), minlength=IGNORE + 1)


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
        if not any(self.sides.values()):
            found.append(f"{name}: no picture has an object; there is nothing to learn.")
        else:
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
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def split_lines(split: SplitReport) -> list[str]:
    unread = split.examples - split.readable
    lines = [f"{split.name}: {split.examples} examples" + (f", {unread} of them unreadable" if unread else "")]
    if split.sizes:
        sizes = [f"{w}x{h} ({n})" for (h, w), n in list(split.sizes.items())[:6]]
        more = f" and {len(split.sizes) - 6} other sizes" if len(split.sizes) > 6 else ""
        lines.append(f"  width x height: {', '.join(sizes)}{more}")
    if split.captions:
        count = split.captions
        each = f"{count.fewest}" if count.fewest == count.most else f"{count.fewest} to {count.most}"
        lines += [
            f"  captions: {count.captions:,}, {each} a picture; {count.mean_words:.1f} words on average, at most "
            f"{count.longest}",
            f"  different words: {count.words:,}, {count.words - count.rare:,} of them {_FREQUENT} times or more often",
        ]
    if split.objects:
        lines += _object_lines(split)
    if split.labels:
        width = max(10, *(len(label.name) for label in split.labels))
        lines.append(f"  {'id':>3}  {'label':<{width}} {'pixels':>15} {'share':>8} {'pictures':>9}")
        rows = [(str(i), label) for i, label in enumerate(split.labels)]
        rows += [(str(IGNORE), split.ignored)] if split.ignored.pixels else []
        lines += [
            f"  {i:>3}  {label.name:<{width}} {label.pixels:>15,} {label.share:>8.2%} {label.pictures:>9,}"
            for i, label in rows
        ]
    return lines


def _object_lines(split: SplitReport) -> list[str]:
    width = max(10, *(len(count.name) for count in split.objects))
    notes = [("pictures without objects", split.without_objects), ("crowds or difficult objects", split.crowds)]
    notes += [("objects left out", len(split.left_out))]
    # Of a long list of classes only those that occur; a warning names some of the others.
    rows = [(i, c) for i, c in enumerate(split.objects) if c.objects or len(split.objects) <= _CLASSES]
    return [
        *(f"  {what}: {number}" for what, number in notes if number),
        f"  {'id':>3}  {'object':<{width}} {'objects':>15} {'share':>8} {'pictures':>9} {'median side':>12}",
        *(
            f"  {i:>3}  {c.name:<{width}} {c.objects:>15,} {c.share:>8.2%} {c.pictures:>9,} {c.side:>9.1f} px"
            for i, c in rows
        ),
    ]
