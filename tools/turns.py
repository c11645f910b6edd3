"""Contenders that take turns, as `keras_cv_lectures.benchmarking.turns` has them, with what the tools print about them.

That file is loaded by its path: the environment of PyTorch, which contenders may live in, has none of the package's
libraries.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

_FILE = Path(__file__).resolve().parent.parent / "keras_cv_lectures" / "benchmarking" / "turns.py"
_spec = importlib.util.spec_from_file_location("package_turns", _FILE)
_turns = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _turns  # Its data class looks its own module up.
_spec.loader.exec_module(_turns)

Turns, answer = _turns.Turns, _turns.answer


def take_turns(commands: Mapping[str, Sequence[str]], rounds: int, threads: int) -> dict[str, Turns]:
    """Starts a process for each command, has them run in turn, prints medians, ratios and who is missing.

    Returns:
        What was found of each contender, the missing ones included.
    """

    def tell(name: str, turns: Turns | None) -> None:
        if turns is not None:
            print(f"  {name:24s} missing: {turns.missing}", flush=True)

    found = _turns.take_turns(commands, rounds, threads, tell=tell)
    measured = {name: turns for name, turns in found.items() if not turns.missing}
    best = min((turns.median for turns in measured.values()), default=0.0)
    for name, turns in sorted(measured.items(), key=lambda item: item[1].median):
        print(
            f"  {name:24s} median {turns.median:.4f} s  min {min(turns.seconds):.4f} s"
            f"  {turns.median / best:5.2f}x of the fastest  host memory {turns.megabytes:5.0f} MB",
            flush=True,
        )
    return found


def milliseconds(calls: Mapping[Hashable, Callable[[], Any]], rounds: int, warm: int = 2) -> dict[Any, list[float]]:
    """Milliseconds of functions of one process that take turns: of each, one number a round.

    Args:
        calls: key -> what is timed.
        warm: rounds before, which are not timed.
    """
    times: dict[Any, list[float]] = {key: [] for key in calls}
    for number in range(rounds + warm):
        for key, call in calls.items():
            started = time.perf_counter()
            call()
            if number >= warm:
                times[key].append(1e3 * (time.perf_counter() - started))
    return times


def straight_line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """(y of 0, what one more x adds to y, share of the variance explained) of a straight line through points."""
    import numpy as np  # PyTorch's environment need not have it.

    x, y = np.asarray(x, float), np.asarray(y, float)
    slope, start = np.polyfit(x, y, 1)
    left = y - (start + slope * x)
    spread = float(np.sum((y - y.mean()) ** 2))
    return float(start), float(slope), 1 - float(np.sum(left**2)) / spread if spread else 1.0
