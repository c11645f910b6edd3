"""Examines data before anyone trains on it: counts what is there and names every file that is at fault."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_cv_lectures.data.folders import Pairing, paired_source
from keras_cv_lectures.data.images import read_image, read_mask
from keras_cv_lectures.data.label_inference import label_map_of_values, mask_values
from keras_cv_lectures.data.labels import IGNORE, LabelMap
from keras_cv_lectures.data.source import Source
from keras_cv_lectures.data.specs import channels_of, labels_of, open_source, pairs_of, parse_spec, splits_of
from keras_cv_lectures.errors import DataError

Progress = Callable[[int, int], None]

_SAMPLE = 500  # Masks that a label map is guessed from, as in `infer_label_map`.
_NAMED = 5  # Files that a warning names before it goes on to count.


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
class SplitReport:
    """What one split holds.

    Attributes:
        name: of the source.
        examples: how many there are.
        readable: how many of them could be read.
        sizes: (height, width) -> number of pictures.
        labels: one count per class, in label order; empty where examples have no mask.
        ignored: pixels with label 255.
    """

    name: str
    examples: int
    readable: int
    sizes: Mapping[tuple[int, int], int]
    labels: tuple[LabelCount, ...]
    ignored: LabelCount


@dataclass(frozen=True, kw_only=True)
class Report:
    """The doctor's findings.

    Attributes:
        name: what was examined.
        splits: one report per split.
        problems: what makes training fail; each names the file and the repair.
        warnings: what training survives, but results may suffer from.
        notes: what was guessed.
    """

    name: str
    splits: tuple[SplitReport, ...]
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether training can read everything."""
        return not self.problems

    @property
    def examples(self) -> int:
        return sum(split.examples for split in self.splits)

    @property
    def sizes(self) -> dict[tuple[int, int], int]:
        """(height, width) -> number of pictures, the most frequent first."""
        total: Counter = Counter()
        for split in self.splits:
            total.update(split.sizes)
        return dict(total.most_common())

    def text(self) -> str:
        """The report for a terminal."""
        lines = [f"Data: {self.name}"]
        for split in self.splits:
            lines += ["", *_split_lines(split)]
        for title, entries in (("Note", self.notes), ("Warning", self.warnings), ("Problem", self.problems)):
            if entries:
                lines += ["", f"{title}s: {len(entries)}", *("  - " + e.replace("\n", "\n    ") for e in entries)]
        verdict = (
            "Nothing stands in the way of training." if self.ok else "Training would fail: repair the problems above."
        )
        return "\n".join([*lines, "", verdict])


def doctor(spec: str, *, progress: Progress | None = None) -> Report:
    """Examines all splits of the data that `spec` names (see `open_source`).

    It goes on after each fault, so that one run names every file to repair.

    Args:
        spec: a data specification or a folder.
        progress: called with (examples done, examples in all).
    """
    try:
        parsed = parse_spec(spec)
        splits = splits_of(parsed)
        fixed_labels = labels_of(parsed)
        channels = channels_of(parsed)
    except DataError as error:
        return Report(name=str(spec), splits=(), problems=(str(error),))
    if parsed.kind == "shapes":
        try:
            return examine([open_source(spec, split) for split in splits], name=spec, progress=progress)
        except DataError as error:
            return Report(name=spec, splits=(), problems=(str(error),))
    sources, problems, notes = [], [], []
    for split in splits:
        try:
            pairing = pairs_of(parsed, split)
        except DataError as error:
            problems.append(str(error))
            continue
        problems += pairing.problems
        try:
            labels = fixed_labels or _guess(pairing)
        except DataError as error:
            problems += [str(error), *_damaged(pairing)]
            continue
        notes += [labels.note] if labels.note else []
        sources.append(paired_source(pairing, labels, channels=channels))
    return examine(sources, name=spec, problems=problems, notes=notes, progress=progress)


def examine(
    sources: Sequence[Source],
    *,
    name: str = "",
    problems: Sequence[str] = (),
    notes: Sequence[str] = (),
    progress: Progress | None = None,
) -> Report:
    """Reads every example of `sources`, the splits of one data set, and reports on them.

    Args:
        sources: for example training and validation data.
        name: what is examined; "" means the names of the sources.
        problems: those found before, to be put first.
        notes: what was guessed before.
        progress: called with (examples done, examples in all).
    """
    total, done = sum(len(source) for source in sources), 0
    problems, warnings, splits = list(problems), [], []
    seen: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
    for source in sources:
        survey = _Survey(source)
        for index in range(len(source)):
            try:
                example = source.read(index)
            except DataError as error:
                problems += str(error).split("\n") if source.files else [str(error)]
            else:
                survey.add(example, source.ids[index])
                seen[_fingerprint(source, index, example)].append((source.name, _file_name(source, index)))
            done += 1
            if progress:
                progress(done, total)
        if len(source) == 0 and not problems:
            problems.append(f"{source.name} has no examples. Check the path and the list file.")
        splits.append(survey.report())
        warnings += survey.warnings()
    warnings += _duplicates(seen)
    return Report(
        name=name or ", ".join(source.name for source in sources),
        splits=tuple(splits),
        problems=tuple(dict.fromkeys(problems)),
        warnings=tuple(warnings),
        notes=tuple(dict.fromkeys(notes)),
    )


class _Survey:
    """Running counts over the examples of one source."""

    def __init__(self, source: Source):
        self.source = source
        self.sizes: Counter = Counter()
        self.pixels = np.zeros(256, np.int64)
        self.pictures = np.zeros(256, np.int64)
        self.grey: list[str] = []
        self.readable = 0
        self.masks = 0

    def add(self, example: dict, name: str) -> None:
        image = example["image"]
        self.readable += 1
        self.sizes[image.shape[:2]] += 1
        if image.shape[-1] == 3 and (image[..., :1] == image[..., 1:]).all():
            self.grey.append(name)
        if "mask" in example:
            counts = np.bincount(example["mask"].ravel(), minlength=256)
            self.pixels += counts
            self.pictures += counts > 0
            self.masks += 1

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
        )

    def warnings(self) -> list[str]:
        source, found = self.source, []
        if 0 < len(self.grey) < self.readable:
            found.append(
                f"{source.name}: {len(self.grey)} of {self.readable} pictures are grey among coloured ones: "
                f"{_some(self.grey)}. They are read as three equal channels."
            )
        if not self.masks:
            return found
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


def _guess(pairing: Pairing) -> LabelMap:
    """`infer_label_map` that passes over unreadable masks, which are reported when their turn comes."""
    pairs = pairing.pairs
    if len(pairs) > _SAMPLE:
        pairs = [pairs[i] for i in np.linspace(0, len(pairs) - 1, _SAMPLE).astype(int)]
    found = {}
    for pair in pairs:
        try:
            found[pair.mask] = mask_values(pair.mask)
        except DataError:
            continue
    return label_map_of_values(found)


def _damaged(pairing: Pairing) -> list[str]:
    """Unreadable files where masks cannot be understood anyway."""
    problems = []
    for pair in pairing.pairs:
        for read, path in ((read_image, pair.image), (read_mask, pair.mask)):
            try:
                read(path)
            except DataError as error:
                problems.append(str(error))
    return problems


def _fingerprint(source: Source, index: int, example: dict) -> bytes:
    content = source.files(index)[0].read_bytes() if source.files else np.ascontiguousarray(example["image"]).data
    return hashlib.blake2b(content, digest_size=16).digest()


def _file_name(source: Source, index: int) -> str:
    return str(source.files(index)[0]) if source.files else source.ids[index]


def _duplicates(seen: Mapping[bytes, list[tuple[str, str]]]) -> list[str]:
    across = [group for group in seen.values() if len({split for split, _ in group}) > 1]
    within = [group for group in seen.values() if len(group) > 1 and len({split for split, _ in group}) == 1]
    shown = [f"the same picture is in several splits, so validation results are too good: {_group(g)}" for g in across]
    return shown + [f"the same picture occurs {len(g)} times in {g[0][0]}: {_group(g)}" for g in within]


def _group(group: list[tuple[str, str]]) -> str:
    return _some([Path(name).as_posix() for _, name in group]) + "."


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _split_lines(split: SplitReport) -> list[str]:
    unread = split.examples - split.readable
    lines = [f"{split.name}: {split.examples} examples" + (f", {unread} of them unreadable" if unread else "")]
    if split.sizes:
        sizes = [f"{w}x{h} ({n})" for (h, w), n in list(split.sizes.items())[:6]]
        more = f" and {len(split.sizes) - 6} other sizes" if len(split.sizes) > 6 else ""
        lines.append(f"  width x height: {', '.join(sizes)}{more}")
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
