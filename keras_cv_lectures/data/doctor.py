"""Examines data before anyone trains on it: counts what is there and names every file that is at fault."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_cv_lectures.data.captions import caption_source
from keras_cv_lectures.data.folders import Pairing, paired_source
from keras_cv_lectures.data.held_out import held_out, missing_classes
from keras_cv_lectures.data.images import read_image, read_mask
from keras_cv_lectures.data.label_inference import label_map_of_values, mask_values
from keras_cv_lectures.data.labels import LabelMap
from keras_cv_lectures.data.objects import object_source, without_sides
from keras_cv_lectures.data.source import Source
from keras_cv_lectures.data.spec_text import CAPTION_KINDS, MIXED_KINDS, OBJECT_KINDS, DataSpec, parse_spec
from keras_cv_lectures.data.specs import captions_of, labels_of, objects_of, open_source, pairs_of, splits_of
from keras_cv_lectures.data.survey import SplitReport, Survey, some, split_lines
from keras_cv_lectures.errors import DataError

Progress = Callable[[int, int], None]

_SAMPLE = 500  # Masks that a label map is guessed from, as in `infer_label_map`.


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
            lines += ["", *split_lines(split)]
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
        fixed_labels = None if parsed.kind in (*OBJECT_KINDS, *CAPTION_KINDS, *MIXED_KINDS) else labels_of(parsed)
        channels = parsed.channels()
    except DataError as error:
        return Report(name=str(spec), splits=(), problems=(str(error),))
    if parsed.kind in MIXED_KINDS:
        return _examine_mixed(parsed, splits, progress)
    if parsed.kind in OBJECT_KINDS:
        return _examine_objects(parsed, splits, channels, progress)
    if parsed.kind in CAPTION_KINDS:
        return _examine_captions(parsed, splits, channels, progress)
    sources, problems, notes = [], [], []
    for split in splits:
        try:
            pairing = pairs_of(parsed, split)
        except DataError as error:
            problems.append(str(error))
            continue
        problems += pairing.problems
        notes += pairing.notes
        try:
            labels = fixed_labels or pairing.labels or _guess(pairing)
        except DataError as error:
            problems += [str(error), *_damaged(pairing)]
            continue
        notes += [labels.note] if labels.note else []
        sources.append(paired_source(pairing, labels, channels=channels))
    return examine(
        sources,
        name=spec,
        kind=parsed.kind,
        problems=problems,
        notes=notes,
        splits=len(splits),
        progress=progress,
    )


def examine(
    sources: Sequence[Source],
    *,
    name: str = "",
    kind: str = "",
    problems: Sequence[str] = (),
    warnings: Sequence[str] = (),
    notes: Sequence[str] = (),
    splits: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Reads every example of `sources`, the splits of one data set, and reports on them.

    Args:
        sources: for example training and validation data.
        name: what is examined; "" means the names of the sources.
        kind: of the data specification, such as "pets".
        problems: those found before, to be put first.
        warnings: likewise.
        notes: what was guessed before.
        splits: how many the data have, of which some may not have opened; None means as many as `sources`.
        progress: called with (examples done, examples in all).
    """
    alone = (len(sources) if splits is None else splits) == 1
    total, done = sum(len(source) for source in sources), 0
    problems, warnings, reports = list(problems), list(warnings), []
    missing = {problem.partition(" is missing, though")[0] for problem in problems}
    seen: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
    for source in sources:
        survey = Survey(source)
        for index in range(len(source)):
            try:
                example, left_out = source.inspect(index) if source.inspect else (source.read(index), ())
                survey.add(example, source.ids[index], left_out, source.files(index) if source.files else ())
            except DataError as error:
                lines = str(error).split("\n") if source.files else [str(error)]
                problems += [line for line in lines if line.partition(" does not exist")[0] not in missing]
            else:
                seen[_fingerprint(source, index, example)].append((source.name, _file_name(source, index)))
            done += 1
            if progress:
                progress(done, total)
        if len(source) == 0 and not problems:
            problems.append(f"{source.name} has no examples. Check the path and the list file.")
        reports.append(survey.report())
        warnings += survey.warnings()
        if alone and survey.readable == len(source):
            warnings += _not_validated(source, survey, kind)
    warnings += _duplicates(seen)
    return Report(
        name=name or ", ".join(source.name for source in sources),
        splits=tuple(reports),
        problems=tuple(dict.fromkeys(problems)),
        warnings=tuple(warnings),
        notes=tuple(dict.fromkeys(notes)),
    )


def _examine_mixed(spec: DataSpec, splits: Sequence[str | None], progress: Progress | None) -> Report:
    """The doctor for data that say only when opened what they hold."""
    sources, problems = [], []
    for split in splits:
        try:
            sources.append(open_source(spec.text, split, like=sources[0] if sources else None))
        except DataError as error:
            problems.append(str(error))
    notes = [note for source in sources for note in source.notes]
    return examine(sources, name=spec.text, problems=problems, notes=notes, splits=len(splits), progress=progress)


def _examine_objects(spec: DataSpec, splits: Sequence[str | None], channels: int, progress: Progress | None) -> Report:
    """The doctor for data of boxes, masks of objects and keypoints."""
    sources, problems, warnings = [], [], []
    for split in splits:
        try:
            # The classes of the first split, as a training has them.
            listing = objects_of(spec, split, like=sources[0] if sources else None)
        except DataError as error:
            problems.append(str(error))
            continue
        problems += [*listing.problems, *listing.unlearnable]
        warnings += listing.warnings
        if not sources and (said := without_sides(listing.keypoint_names)):
            warnings.append(said)
        sources.append(object_source(listing, channels=channels))
    return examine(
        sources,
        name=spec.text,
        kind=spec.kind,
        problems=problems,
        warnings=warnings,
        splits=len(splits),
        progress=progress,
    )


def _examine_captions(spec: DataSpec, splits: Sequence[str | None], channels: int, progress: Progress | None) -> Report:
    """The doctor for pictures with sentences."""
    sources, problems, warnings, notes = [], [], [], []
    for split in splits:
        try:
            listing = captions_of(spec, split)
        except DataError as error:
            problems.append(str(error))
            continue
        problems += listing.problems
        warnings += listing.all_warnings()
        notes += listing.notes
        if listing.ids:
            sources.append(caption_source(listing, channels=channels))
    return examine(sources, name=spec.text, problems=problems, warnings=warnings, notes=notes, progress=progress)


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


def _not_validated(source: Source, survey: Survey, kind: str) -> list[str]:
    """What to say of data without a split to validate on whose last pictures lack a class."""
    held = held_out(source.ids, kind)
    names = (source.classes if survey.masks else source.object_classes) if held else ()
    missing = [names[label] for label in missing_classes(survey.present, held) if label < len(names)]
    if not missing:
        return []
    return [
        f"{source.name}: the {len(held)} pictures that `kcvl train` validates on without --val, the last, have none of "
        f"{some(list(map(repr, missing)))}. Are they sorted by class? Give others with --val, or rename the files."
    ]


def _group(group: list[tuple[str, str]]) -> str:
    return some([Path(name).as_posix() for _, name in group]) + "."
