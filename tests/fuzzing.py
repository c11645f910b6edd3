"""What the fuzzing tests share: ways to damage a file, and the guard that a damaged file is read under."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

SECONDS = 30  # A case takes milliseconds; half a minute is a hang even where the machine is busy.
MEMORY = 1 << 30  # Bytes that reading a file of a few kilobytes may ask for, all told.
DEEP = 10_000
# How often the slow tier damages each kind of file, and from which seed. The same seed finds nothing new: looking for
# more is `KCVL_FUZZ=7 pytest -m slow tests/test_fuzzing*.py`, seven times the cases, others than with any other number.
DEEPER = int(os.environ.get("KCVL_FUZZ", "1"))
# Numbers of a JSON file that Python would neither write nor read.
_RAW = {'"@digits"': "9" * 5000, '"@float"': "1e999", '"@deep"': "[" * DEEP + "]" * DEEP, '"@surrogate"': r'"\ud800"'}
JSON_VALUES = (
    *(None, True, False, 0, -1, 3, 0.5, -0.5, 1e308, float("nan"), float("inf"), 2**31, 2**63, 10**30, "", "3", "x"),
    *([], {}, [[]], [None], [1, [2]], ["1", "2"], {"a": 1}, [1e308] * 6, [float("nan")] * 8, [-1] * 4, list(range(5))),
    *("a" * 5000, "a/" * 3000, "../../secret.png", "/etc/passwd", "a\0b", "é\u2028", "C:\\x.png", "\u00b2.png", "~/x"),
    *({"size": [32, 40], "counts": [2**62, 5]}, {"size": [2**40, 2**40], "counts": "0"}, {"counts": "~~~~"}),
    *({"size": [32, 40], "counts": "0" * 4000 + "P"}, {"size": "12", "counts": [1.5, 1278.5]}, [[0, 0, 9, 9]]),
    *([[float("inf"), 1, 2, 3, 4, 5]], [[1e9, 1, 2, 3, 4, 5]], [[0, 0, 39, 31] * 50], *(name[1:-1] for name in _RAW)),
)
WORDS = (
    *("", "-1", "0", "1", "3", "0.5", "1.5", "nan", "inf", "-inf", "1e308", "1e-400", "255", "256", "65536"),
    *("99999999999999999999", "9" * 5000, "1_000", "\u0663", "\u00b2", "x", "#", '"', "''", ",", "\t", ";", "|", ":"),
    *("\0", "\ufeff", "\u2028", "\x0b", "\x1c", "é", "<", "&", "]]>", "[", "{", "../../x.png", "/etc/passwd", "~"),
    *("a" * 5000, '"' + "a" * 200_000 + '"', "'s" * 3000, "p.jpg", "<object>" * 50, "&#0;", "&lt;", "<!--", "\r"),
)


class Hang(BaseException):
    """A case took longer than `SECONDS`. Not an Exception: what is tested must not swallow it."""


@contextlib.contextmanager
def guard(seconds: int = SECONDS, memory: int | None = MEMORY) -> Iterator[None]:
    """Raises `Hang` after `seconds`; asking for more than `memory` bytes beyond those in use fails."""

    def alarm(*_):
        raise Hang(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, alarm)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        if memory is not None:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, limits[1]))
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


Mutator = Callable[[bytes, np.random.Generator], bytes]


def truncated(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: int(rng.integers(0, len(content) + 1))]


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    """One to eight bytes changed, half of the time among the first 200, where formats keep their sizes."""
    changed = bytearray(content)
    end = min(len(changed), 200) if rng.random() < 0.5 else len(changed)
    for place in rng.integers(0, max(1, end), int(rng.integers(1, 9))) if changed else ():
        changed[place] = int(rng.choice([0, 255, 127, 128, int(rng.integers(0, 256))]))
    return bytes(changed)


def spliced(content: bytes, rng: np.random.Generator) -> bytes:
    """A part left out, doubled, or replaced by noise."""
    a, b = sorted(rng.integers(0, len(content) + 1, 2).tolist())
    b = min(b, a + 64)
    middle = [b"", content[a:b] * 2, rng.bytes(b - a), b"\xff" * 8, b"\0" * 8][int(rng.integers(0, 5))]
    return content[:a] + middle + content[b:]


def noise(content: bytes, rng: np.random.Generator) -> bytes:
    return [b"", rng.bytes(int(rng.integers(1, 400))), content[:16] + rng.bytes(100)][int(rng.integers(0, 3))]


def worded(content: bytes, rng: np.random.Generator) -> bytes:
    """A word or number of a text replaced by an unlikely one, or a line doubled or left out."""
    text = content.decode("utf-8", "surrogateescape")
    kind = int(rng.integers(0, 4))
    if kind == 0:
        lines = text.split("\n")
        place = int(rng.integers(0, len(lines)))
        lines[place : place + 1] = [[], [lines[place]] * 2, [" " + lines[place]]][int(rng.integers(0, 3))]
        return "\n".join(lines).encode("utf-8", "surrogateescape")
    places = list(re.finditer(r"[\w.]+" if kind < 3 else r"[^\w\s]", text))
    if not places:
        return content
    found = places[int(rng.integers(0, len(places)))]
    word = WORDS[int(rng.integers(0, len(WORDS)))]
    return (text[: found.start()] + word + text[found.end() :]).encode("utf-8", "surrogateescape")


def retyped(content: bytes, rng: np.random.Generator) -> bytes:
    """A value or a key of a JSON text replaced or removed."""
    value = json.loads(content)
    for _ in range(int(rng.integers(1, 3))):
        places = [place for place in _places(value) if place]
        if not places:
            break
        *way, last = places[int(rng.integers(0, len(places)))]
        parent = value
        for step in way:
            parent = parent[step]
        kind = int(rng.integers(0, 8))
        if kind == 0:
            del parent[last]
        elif kind == 1 and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[last]))
        else:
            parent[last] = copy.deepcopy(JSON_VALUES[int(rng.integers(0, len(JSON_VALUES)))])
    text = json.dumps(value)
    for mark, raw in _RAW.items():
        text = text.replace(mark, raw)
    return text.encode()


def _places(value, way=()) -> Iterator[tuple]:
    yield way
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*way, key))


BINARY: tuple[Mutator, ...] = (truncated, flipped, flipped, spliced, noise)
TEXT: tuple[Mutator, ...] = (worded, worded, worded, worded, flipped, spliced, truncated, noise)
JSON: tuple[Mutator, ...] = (retyped, retyped, retyped, retyped, retyped, worded, flipped, truncated, noise)


def mutators_of(path: Path) -> tuple[Mutator, ...]:
    if path.suffix == ".json":
        return JSON
    return TEXT if path.suffix in (".txt", ".csv", ".xml", ".yaml", ".names") else BINARY


def damage(path: Path, content: bytes, rng: np.random.Generator) -> str:
    """Writes a damaged form of `content` to `path`; returns how it was made."""
    mutators = mutators_of(path)
    mutate = mutators[int(rng.integers(0, len(mutators)))]
    path.write_bytes(mutate(content, rng))
    return mutate.__name__
