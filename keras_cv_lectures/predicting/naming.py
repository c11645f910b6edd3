"""Names for what is written about several pictures: each its own, and no longer than it takes to tell them apart."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from keras_cv_lectures.predicting.pictures import file_of

Result = TypeVar("Result")


def output_names(pictures: Iterable[Path]) -> dict[Path, str]:
    """A name for the files of each picture: its stem, with as many folders before it as tell it from the others.

    Two pictures of one stem in one folder are told apart by their suffix. Upper and lower case count as equal, as they
    do on some disks. A link has its own name, not that of the file behind it.
    """
    places = {picture: _place(picture) for picture in pictures}
    stems = Counter((place.parent, place.stem.casefold()) for place in places.values())
    longer = {
        picture: _candidates(place, alone=stems[place.parent, place.stem.casefold()] == 1)
        for picture, place in places.items()
    }
    taken = Counter(name.casefold() for names in longer.values() for name in names)
    used: set[str] = set()
    return {
        picture: _unused([next((name for name in names if taken[name.casefold()] == 1), names[-1])], used)
        for picture, names in longer.items()
    }


def named(images: Iterable[Any], predict: Callable[[Iterable[Any]], Iterator[Result]]) -> Iterator[Result]:
    """What `predict` gives for `images` one by one, each with a `name` of its own.

    Of a list the names are those of `output_names`. Of other iterables, whose next pictures are not known, the first
    picture of a stem has it as its name, and the next ones have longer names. A picture without a file is called
    "prediction_" and its place in four digits, from 1.
    """
    files: deque[Path | None] = deque()

    def noted() -> Iterator[Any]:
        for image in images:
            files.append(file_of(image))
            yield image

    known: dict[Path, str] = {}
    if isinstance(images, list | tuple):
        known = output_names(file for file in map(file_of, images) if file)
    used: set[str] = set()
    stems: set[Path] = set()
    for number, result in enumerate(predict(noted()), 1):
        file = files.popleft()
        if file is None:
            choice = [f"prediction_{number:04d}"]
        elif file in known:
            choice = [known[file]]
        else:
            stem = _place(file).with_suffix("")
            choice = _candidates(_place(file), alone=stem not in stems)
            stems.add(stem)
        yield dataclasses.replace(result, name=_unused(choice, used))


def _place(picture: Path) -> Path:
    return Path(os.path.abspath(picture))


def _candidates(place: Path, *, alone: bool) -> list[str]:
    """Names that get longer by one folder each; with the suffix unless the stem is `alone` in its folder."""
    words = [*place.parent.parts[1:], place.stem if alone else place.name.replace(".", "_")]
    return ["_".join(words[start:]) for start in range(len(words) - 1, -1, -1)]


def _unused(candidates: list[str], used: set[str]) -> str:
    """The first of `candidates` that is not `used`, else the last one with a number; it is used from then on."""
    name = next((name for name in candidates if name.casefold() not in used), None)
    number = 2
    while name is None or name.casefold() in used:
        name, number = f"{candidates[-1]}_{number}", number + 1
    used.add(name.casefold())
    return name
