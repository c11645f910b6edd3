"""What a person sees while a command runs: lines, progress, and silence from C++ libraries."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
import warnings
from collections.abc import Iterator
from typing import IO, Any

_EVERY_SECONDS = 30.0  # Between lines of progress in a log file.
_REDRAW_SECONDS = 0.1


def say(text: str, file: IO[str] | None = None) -> None:
    """Prints a line at once, on standard output unless told otherwise."""
    print(text, file=file or sys.stdout, flush=True)


def warn(text: str) -> None:
    """Prints what went wrong without stopping the command, on standard error."""
    say(text, sys.stderr)


def wrote(*paths: object, more: int = 0) -> None:
    """The line before the last: which files the command left."""
    say("wrote " + "\n      ".join(str(path) for path in paths) + (f"\n      and {more} more" if more > 0 else ""))


def next_steps(*steps: str) -> None:
    """The last line: what to do now."""
    say("next  " + "\n      ".join(steps))


def quoted(*words: object) -> str:
    """Words as a shell takes them."""
    return shlex.join(str(word) for word in words)


class Progress:
    """Progress on standard error while `with` lasts; called with (done, total).

    In a terminal one line that redraws itself; in a log file a line at the start and one every half minute.
    """

    def __init__(self, label: str):
        self.label, self.width, self.started, self.shown = label, 0, 0.0, 0.0

    def __enter__(self) -> Progress:
        return self

    def __call__(self, done: int, total: int) -> None:
        now, terminal = time.monotonic(), sys.stderr.isatty()
        if not self.started:
            self.started = self.shown = now
            if not terminal:
                warn(f"{self.label} ({total} picture{'s' * (total != 1)}) ...")
        if now - self.shown < (_REDRAW_SECONDS if terminal else _EVERY_SECONDS) and (done < total or not terminal):
            return
        self.shown = now
        left = (now - self.started) / max(1, done) * (total - done)
        line = f"{self.label}: {done} of {total}" + (f", {left:.0f} s left" if done < total and left >= 1 else "")
        if terminal:
            sys.stderr.write("\r" + line.ljust(self.width))
            sys.stderr.flush()
            self.width = len(line)
        else:
            warn(line)

    def __exit__(self, *error: object) -> None:
        if self.width:
            warn("")


@contextlib.contextmanager
def own_warnings() -> Iterator[None]:
    """Prints warnings of ours as a line, without the place in the program; others as Python does."""
    from keras_cv_lectures.errors import KcvlWarning

    with warnings.catch_warnings():
        # Not "always": the stages of a training would each say the same.
        warnings.simplefilter("default", KcvlWarning)
        others = warnings.showwarning

        def show(message, category, *place, **more):
            if issubclass(category, KcvlWarning):
                warn(f"Warning: {message}")
            else:
                others(message, category, *place, **more)

        warnings.showwarning = show
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides what C++ libraries write to standard error, whatever their log level; what Python writes there is shown."""
    python = sys.stderr
    try:
        kept = os.dup(2)
    except OSError:  # A program may run without standard error.
        yield
        return
    own = None
    if _is_standard_error(python):
        python.flush()
        own = open(os.dup(kept), "w", buffering=1, encoding=python.encoding, errors="backslashreplace")  # noqa: SIM115
        sys.stderr = stand_in = _Stream(own)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
        if own is not None:
            sys.stderr = stand_in.behind = python
            own.close()


class _Stream:
    """Standard error for whoever keeps it: TensorFlow's log does, and would write to a closed file afterwards."""

    def __init__(self, behind: IO[str]):
        self.behind = behind

    def __getattr__(self, name: str) -> Any:
        return getattr(self.behind, name)


def _is_standard_error(stream: IO[str] | None) -> bool:
    try:
        return stream is not None and stream.fileno() == 2
    except (OSError, ValueError):  # A test's or a notebook's stand-in has no file behind it.
        return False
