"""How fast a system runs by each of its paths, what it takes, and how far from what the machine can do it is.

Times on a shared machine vary by tens of per cent from minute to minute. Hence the paths take turns, one call each a
round, every one in a process of its own, and the median and the minimum are reported: compare rows of one run, never of
two.
"""

from __future__ import annotations

import os

import keras
import numpy as np

# Registers the package's layers, which a process that only loads model files needs.
import keras_cv_lectures.layers  # noqa: F401
from keras_cv_lectures.benchmarking.results import as_json, markdown
from keras_cv_lectures.benchmarking.system import (
    PATHS,
    BenchmarkRow,
    SystemBenchmark,
    benchmark_system,
    machine,
    published_classes,
)
from keras_cv_lectures.benchmarking.turns import Turns, answer, take_turns
from keras_cv_lectures.exporting import timing
from keras_cv_lectures.runners import Runner, load_runner
from keras_cv_lectures.serving import gflops

__all__ = [
    "PATHS",
    "BenchmarkRow",
    "SystemBenchmark",
    "Turns",
    "answer",
    "as_json",
    "benchmark_system",
    "gflops",
    "latency",
    "machine",
    "markdown",
    "published_classes",
    "take_turns",
]


def latency(
    model: Runner | keras.Model | str | os.PathLike,
    image: np.ndarray,
    *,
    threads: int = 2,
    repeats: int = 10,
    optimize: bool = False,
) -> dict[str, float]:
    """Time of one call in milliseconds, in this process.

    Args:
        model: a runner, a Keras model, or a path as `load_runner` takes it.
        image: (H, W, C) uint8 picture or (B, H, W, C) batch.
        threads: for a `.tflite` path. TensorFlow uses the threads that the process was given.
        repeats: timed calls, after two that are not.
        optimize: for Keras models, as in `load_runner`.

    Returns:
        `median_ms`, `min_ms`, `max_ms`.
    """
    runner = model if isinstance(model, Runner) else load_runner(model, threads=threads, optimize=optimize)
    return timing.latency(runner, image, repeats=repeats)
