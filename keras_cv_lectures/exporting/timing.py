"""The time that one call of a runner takes."""

from __future__ import annotations

import math
import statistics
import time

import numpy as np

from keras_cv_lectures.runners import Runner


def latency(
    runner: Runner, image: np.ndarray, *, repeats: int = 10, warmup: int = 2, seconds: float = math.inf
) -> dict[str, float]:
    """Time of one call in milliseconds.

    Args:
        image: (H, W, C) picture or (B, H, W, C) batch.
        repeats: timed calls.
        warmup: calls before the clock starts (tracing, memory, weights in the order that the kernels want).
        seconds: after which no further call begins; a slow model has one call to warm up and one that is timed.

    Returns:
        `median_ms`, `min_ms`, `max_ms`.
    """
    batch = image if np.ndim(image) == 4 else np.asarray(image)[None]
    end = time.perf_counter() + seconds
    for count in range(warmup):
        if count and time.perf_counter() > end:
            break
        runner(batch)
    times = [_milliseconds(runner, batch)]
    while len(times) < repeats and time.perf_counter() < end:
        times.append(_milliseconds(runner, batch))
    return {"median_ms": statistics.median(times), "min_ms": min(times), "max_ms": max(times)}


def _milliseconds(runner: Runner, batch: np.ndarray) -> float:
    start = time.perf_counter()
    runner(batch)
    return 1000 * (time.perf_counter() - start)


__all__ = ["latency"]
