"""Contenders that take turns: each is a process of its own that answers "run" with the seconds of one call.

Only one computes at a time and all see the same state of the machine, so ratios of their medians can be trusted where
single times cannot.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence


def take_turns(commands: Mapping[str, Sequence[str]], rounds: int, threads: int) -> dict[str, list[float]]:
    """Starts a process for each command, has them run in turn, prints medians and ratios; seconds of each call.

    Memory is the most that the whole process ever held: libraries, building or loading the model, and the calls.
    A contender that does not start is said to be missing.
    """
    workers, times = {}, {}
    for name, command in commands.items():
        worker = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": str(threads)},
        )
        if worker.stdout.readline().strip() != "ready":
            print(f"  {name:24s} missing")
            continue
        workers[name], times[name] = worker, []
    for _ in range(rounds):
        for name, worker in workers.items():
            worker.stdin.write("run\n")
            worker.stdin.flush()
            times[name].append(json.loads(worker.stdout.readline()))
    memory = {}
    for name, worker in workers.items():
        worker.stdin.close()
        memory[name] = json.loads(worker.stdout.readline())
        worker.wait()
    best = min(statistics.median(t) for t in times.values()) if times else 0
    for name, values in sorted(times.items(), key=lambda item: statistics.median(item[1])):
        median = statistics.median(values)
        print(
            f"  {name:24s} median {median:.4f} s  min {min(values):.4f} s  {median / best:5.2f}x of the fastest"
            f"  peak memory {memory[name]:5.0f} MB",
            flush=True,
        )
    return times


def answer(make: Callable[[], Callable[[], object]]) -> None:
    """What a contender does: makes its function, runs it three times, then once for each line that comes in."""
    # Libraries print to standard output; only the protocol may.
    protocol = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    run = make()
    for _ in range(3):
        run()
    protocol.write("ready\n")
    for _ in sys.stdin:
        started = time.perf_counter()
        run()
        protocol.write(json.dumps(time.perf_counter() - started) + "\n")
    # Kilobytes on Linux, bytes on macOS.
    unit = 1e6 if sys.platform == "darwin" else 1e3
    protocol.write(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit) + "\n")
