"""Contenders that take turns: each is a process of its own that answers "run" with the seconds of one call.

Only one computes at a time and all see the same state of the machine, so ratios of their medians can be trusted where
single times cannot.

Only the standard library is imported: a contender may live in an environment that has none of this package's
libraries, and then loads this file by its path.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

WARM = 3
_LONGEST_REASON = 300


@dataclass(frozen=True, kw_only=True)
class Turns:
    """What was measured of one contender.

    Attributes:
        seconds: of each call, in the order of the rounds; empty where it is missing.
        megabytes: the most that the whole process ever held: libraries, building or loading the model, and the calls.
        missing: why it could not be measured; None where it could.
    """

    seconds: tuple[float, ...] = ()
    megabytes: float | None = None
    missing: str | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def take_turns(
    commands: Mapping[str, Sequence[str]],
    rounds: int,
    threads: int,
    *,
    environment: Mapping[str, str] | None = None,
    tell: Callable[[str, Turns | None], object] = lambda name, turns: None,
) -> dict[str, Turns]:
    """Starts a process for each command and has them run in turn.

    Args:
        commands: name of a contender -> its command line, which ends in `answer`.
        rounds: timed calls of each.
        threads: given as `OMP_NUM_THREADS`; what else a library needs the contender sets itself.
        environment: variables over those of this process.
        tell: called before a contender is started with (name, None), and with (name, turns) for one that is missing.

    Returns:
        What was found of each, in the order of `commands`.
    """
    variables = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": str(threads), **(environment or {})}
    workers: dict[str, subprocess.Popen] = {}
    found: dict[str, Turns] = {}
    times: dict[str, list[float]] = {}

    def lose(name: str, missing: str) -> None:
        found[name] = Turns(missing=missing)
        _end(workers.pop(name, None))
        tell(name, found[name])

    try:
        for name, command in commands.items():
            tell(name, None)
            try:
                workers[name] = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    env=variables,
                )
            except OSError as error:
                lose(name, f"it cannot be started: {error}")
                continue
            answer = _read(workers[name])
            if answer != "ready":
                lose(name, answer["missing"])
            else:
                times[name] = []
        for _ in range(rounds):
            for name, worker in list(workers.items()):
                answer = _ask(worker)
                if isinstance(answer, float):
                    times[name].append(answer)
                else:
                    lose(name, answer["missing"])
        for name, worker in list(workers.items()):
            worker.stdin.close()
            answer = _read(worker)
            if isinstance(answer, float):
                found[name] = Turns(seconds=tuple(times[name]), megabytes=answer)
                worker.wait()
                worker.stdout.close()
                del workers[name]
            else:
                lose(name, answer["missing"])
    finally:
        for worker in workers.values():
            _end(worker)
    return {name: found[name] for name in commands}


def answer(make: Callable[[], Callable[[], object]], *, warm: int = WARM) -> None:
    """What a contender does: makes its function, runs it `warm` times, then once for each line that comes in.

    Whatever is raised is told as the reason why the contender is missing.
    """
    # Libraries print to standard output; only the protocol may.
    protocol = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(value: object) -> None:
        protocol.write(json.dumps(value) + "\n")

    try:
        run = make()
        for _ in range(warm):
            run()
        say("ready")
        for _ in sys.stdin:
            started = time.perf_counter()
            run()
            say(time.perf_counter() - started)
    # A library may raise anything, and a person wants to read what.
    except Exception as error:
        say({"missing": reason_of(error)})
        return
    say(peak_megabytes())


def peak_megabytes() -> float:
    """The most memory that this process has held so far, in units of 1e6 bytes."""
    # Linux hands ru_maxrss of the parent on to a child that it starts; the high-water mark of the child is its own.
    with contextlib.suppress(OSError, StopIteration), open("/proc/self/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    import resource

    # Bytes on macOS, kilobytes elsewhere.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def reason_of(error: BaseException) -> str:
    """An exception on one line."""
    # Keras tells first, at length, where it was, and then what happened there.
    text = str(error).rpartition("Exception encountered: ")[2].strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no details'}"[:_LONGEST_REASON]


def ending_of(code: int) -> str:
    """What became of a process that said nothing, by its exit code."""
    if code == -9:
        return "the process was killed, as the system does where memory is full"
    return f"the process ended by signal {-code}" if code < 0 else f"the process ended with exit code {code}"


def _ask(worker: subprocess.Popen):
    try:
        worker.stdin.write("run\n")
        worker.stdin.flush()
    except OSError:
        pass  # It is gone; reading says why.
    return _read(worker)


def _read(worker: subprocess.Popen):
    """What a contender says; {"missing": why} where it has gone."""
    line = worker.stdout.readline()
    if line:
        return json.loads(line)
    return {"missing": ending_of(worker.wait())}


def _end(worker: subprocess.Popen | None) -> None:
    if worker is not None:
        worker.kill()
        with contextlib.suppress(OSError):
            worker.stdin.close()
        worker.stdout.close()
        worker.wait()


__all__ = ["WARM", "Turns", "answer", "ending_of", "peak_megabytes", "reason_of", "take_turns"]
