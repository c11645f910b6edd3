"""Counts over the examples of one source, for the doctor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_cv_lectures.data.contract import check_example
from keras_cv_lectures.data.headers import FIRST_TURNED, is_deep_grey, orientation
from keras_cv_lectures.data.labels import IGNORE
from keras_cv_lectures.data.object_survey import NAMED, ObjectCount, ObjectSurvey, listed, some
from keras_cv_lectures.data.source import Source
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.text import as_text, tokenize

_CLASSES = 20  # Up to so many classes are all shown.
_FREQUENT = 5  # Words that occur less often are rare; a vocabulary leaves them out.


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
        self.present: list[frozenset[int]] = []
        self.turned: list[str] = []
        self.deep = 0
        self.brightest = 0
        self.readable = 0
        self.channels: int | None = None
        self.masks = 0
        self.objects = ObjectSurvey(source)
        self.rows_left_out: list[str] = []
        self.captions: list[int] = []
        self.lengths: list[int] = []
        self.words: Counter = Counter()

    def add(self, example: dict, name: str, left_out: Sequence[str] = (), files: Sequence[Path] = ()) -> None:
        """Counts one example; `files` are those that it was read from, the picture first.

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
        if files:
            self._add_header(example, name, files)
        labels = np.flatnonzero(counts[:IGNORE]) if counts is not None else np.unique(example.get("labels", ()))
        self.present.append(frozenset(labels.tolist()))
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

    def _add_header(self, example: dict, name: str, files: Sequence[Path]) -> None:
        (height, width), turn = example["image"].shape[:2], orientation(files[0])
        # A mask of the size of the turned picture was drawn on that.
        certain = "boxes" not in example and turn >= FIRST_TURNED and height != width
        if turn != 1 and not certain and not any(orientation(file) == turn for file in files[1:]):
            self.turned.append(name)
        if is_deep_grey(files[0]):
            self.deep += 1
            self.brightest = max(self.brightest, int(example["image"].max(initial=0)))

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
        if self.turned and (self.masks or self.objects.examples):
            found.append(
                f"{source.name}: {len(self.turned)} pictures are turned as their camera noted (EXIF): "
                f"{some(self.turned)}. What is read for them from other files must fit the turned pictures. Look at "
                "some of them, or save the pictures turned, without that note, and annotate these."
            )
        if self.deep and 0 < self.brightest <= 64:  # 14 bits; scenes may be dark.
            bits = int(np.ceil(np.log2(self.brightest * 257 - 128)))  # Of the darkest value that becomes this one.
            found.append(
                f"{source.name}: the brightest of {self.deep} grey pictures of 16 bits is {self.brightest} of 255; "
                f"they look like {bits} bits, of which few grey levels are left. Multiply their values by "
                f"{2 ** (16 - bits)}, or save them as 8 bits."
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
        shown = ", ".join(map(str, wrong[:NAMED])) + (", ..." if wrong.size > NAMED else "")
        raise DataError(f"{labels}, but holds {shown}. Let the reader give these pixels a class id or 255.")
    return np.bincount(mask.ravel().astype(np.int64), minlength=IGNORE + 1)


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
