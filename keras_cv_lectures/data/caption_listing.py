"""Rows of picture and caption on their way to a listing: what is left out, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from keras_cv_lectures.data.folders import refuse
from keras_cv_lectures.data.images import IMAGE_SUFFIXES
from keras_cv_lectures.data.objects import path_inside, picture_ids, shortened
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.text import tokenize

_LISTED = 50  # Rows left out that a warning lists.
_NAMED = 5

# Picture, caption, where it stands; a fault instead of a caption where the row is malformed.
Row = tuple[str, str | None, str]


@dataclass(frozen=True, kw_only=True)
class CaptionListing:
    """Pictures and their captions, no picture opened.

    Attributes:
        name: for messages.
        ids: one per picture, unique.
        files: one picture each.
        captions: one or more sentences for each picture.
        left_out: one line for each row that cannot be used, with its file and the reason.
        warnings: what training survives, for `doctor`.
        problems: why nothing can be trained on this.
        notes: what was guessed, for `doctor`.
    """

    name: str
    ids: tuple[str, ...]
    files: tuple[Path, ...]
    captions: tuple[tuple[str, ...], ...]
    left_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def check(self) -> CaptionListing:
        """Returns itself, or raises a `DataError` with the first few problems."""
        refuse(self.name, self.problems)
        return self

    def all_warnings(self) -> tuple[str, ...]:
        """`warnings`, and one that lists the rows left out."""
        if not self.left_out:
            return self.warnings
        rest = len(self.left_out) - _LISTED
        lines = [*self.left_out[:_LISTED], *([f"... and {rest} more"] if rest > 0 else [])]
        return (*self.warnings, f"{self.name}: rows left out: {len(self.left_out)}\n" + "\n".join(lines))


@dataclass
class Gathered:
    """Rows on their way to a listing."""

    images: Path
    captions: dict[Path, list[str]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)  # Picture -> what is wrong with it.
    known: dict[str, Path] = field(default_factory=dict)
    expected: list[str] = field(default_factory=list)

    def add(self, row: Row) -> None:
        picture, caption, where = row
        if caption is None:
            self.left_out.append(f"{where} {picture}")
            return
        caption = " ".join(caption.split())
        if not tokenize(caption):
            shown = f"the caption {shortened(caption)} has no word" if caption else "has no caption"
            self.left_out.append(f"{where} ({picture}): {shown}. Write one or remove the row.")
            return
        file = self.file_of(picture, where)
        if file is not None:
            self.captions.setdefault(file, []).append(caption)

    def file_of(self, picture: str, where: str) -> Path | None:
        if picture not in self.known and picture not in self.unknown:
            try:
                file = path_inside(self.images, picture, where)
            except DataError as error:
                self.left_out.append(str(error))
                return None
            if file.is_file():
                self.known[picture] = file
            else:
                self.unknown[picture] = f"{file} does not exist. Add the picture or remove the row."
        if picture in self.unknown:
            self.left_out.append(f"{where}: {self.unknown[picture]}")
        return self.known.get(picture)

    def expect(self, pictures: Iterable[str]) -> None:
        """Pictures that the annotations list, captions or not."""
        self.expected += pictures

    def listing(
        self, name: str, origin: Path, warnings: Sequence[str] = (), *, every_picture: bool = False
    ) -> CaptionListing:
        """The listing; with `every_picture` each picture in the folder should have a caption."""
        files = tuple(self.captions)
        problems = []
        if not files:
            problems.append(
                f"{origin} has no usable row"
                + (f"; the first is left out because {self.left_out[0]}" if self.left_out else ".")
                + f" Expected are pictures inside {self.images} and captions."
            )
        return CaptionListing(
            name=name,
            ids=picture_ids(files, self.images),
            files=files,
            captions=tuple(tuple(texts) for texts in self.captions.values()),
            left_out=tuple(self.left_out),
            warnings=(*warnings, *self._without_captions(name, every_picture), *self._twice(name)),
            problems=tuple(problems),
        )

    def _without_captions(self, name: str, every_picture: bool) -> Iterator[str]:
        there = {file.name for file in self.captions if file.parent == self.images}
        bare = [p for p in self.expected if self.images / p not in self.captions]
        if every_picture:
            bare += sorted(
                p.name
                for p in self.images.iterdir()
                if p.suffix.lower() in IMAGE_SUFFIXES and p.name not in there and p.is_file()
            )
        if bare and self.captions:
            yield f"{name}: pictures without a caption, which are not trained on: {len(bare)}: {_some(bare)}."

    def _twice(self, name: str) -> Iterator[str]:
        twice = [file.name for file, texts in self.captions.items() if len(set(texts)) < len(texts)]
        if twice:
            yield f"{name}: pictures that have the same caption more than once: {len(twice)}: {_some(twice)}."


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
