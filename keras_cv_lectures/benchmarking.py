"""How fast the same model runs in each of its forms, and what one picture costs.

Times on a shared machine vary by tens of per cent from minute to minute. Hence the forms take turns, one call each a
round, and the median and the minimum are reported: compare rows of one run, never of two.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

# Registers the package's layers, which a process that only loads model files needs.
import keras_cv_lectures.layers  # noqa: F401
from keras_cv_lectures import runners
from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.runners import Runner, load_runner
from keras_cv_lectures.serving import gflops

__all__ = ["BenchmarkRow", "benchmark", "gflops", "latency"]

_TIMEOUT_SECONDS = 3600


@dataclass(frozen=True, kw_only=True)
class BenchmarkRow:
    """Speed of one form of a model.

    Attributes:
        name: as given, with ", frozen" for a Keras model whose weights became constants.
        kind: "keras", "saved_model" or "tflite".
        threads: threads that computed.
        median_ms: milliseconds of one call, median over the rounds.
        min_ms: the fastest call.
        size_bytes: of the file or folder.
    """

    name: str
    kind: str
    threads: int
    median_ms: float
    min_ms: float
    size_bytes: int


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
    return runners.latency(runner, image, repeats=repeats)


def benchmark(
    models: Mapping[str, str | os.PathLike],
    image: np.ndarray,
    *,
    threads: Sequence[int] = (1, 2),
    repeats: int = 7,
) -> list[BenchmarkRow]:
    """Compares the forms of a model on one picture.

    Each number of threads is measured in a process of its own, because TensorFlow fixes it when it starts. Within a
    process the models take turns.

    Args:
        models: name -> `.keras` file or run folder (measured as it is and frozen), SavedModel folder or `.tflite`.
        image: (H, W, C) uint8 picture.
        threads: numbers of threads.
        repeats: rounds, after two that are not timed.

    Returns:
        One row for each form and number of threads, ordered by threads, then as given.

    Raises:
        ModelError: a model cannot be run on the picture.
    """
    if image.ndim != 3 or image.dtype != np.uint8:
        raise ModelError(f"`image` must be a uint8 picture (H, W, C). Received: {image.dtype} of shape {image.shape}")
    if repeats < 1 or not threads or min(threads) < 1:
        raise ModelError(f"`repeats` and `threads` must be at least 1. Received: {repeats} and {tuple(threads)}")
    paths = {name: str(Path(path).resolve()) for name, path in models.items()}
    rows = []
    for count in threads:
        request = {"models": paths, "shape": image.shape, "threads": count, "repeats": repeats}
        rows += _measure_in_child(request, image)
    return rows


def _measure_in_child(request: dict, image: np.ndarray) -> list[BenchmarkRow]:
    header = json.dumps(request).encode() + b"\n"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "keras_cv_lectures.benchmarking"],
        input=header + image.tobytes(),
        capture_output=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        timeout=_TIMEOUT_SECONDS,
        check=False,
    )
    try:
        answer = json.loads(done.stdout.decode().strip().splitlines()[-1])
    except (ValueError, IndexError):
        tail = done.stderr.decode(errors="replace").strip()[-500:]
        raise ModelError(f"The measurement with {request['threads']} threads stopped: {tail}") from None
    if "error" in answer:
        raise ModelError(answer["error"])
    return [BenchmarkRow(**row) for row in answer["rows"]]


def _child() -> dict:
    """Answers one request from standard input; the other half of `_measure_in_child`."""
    request = json.loads(sys.stdin.buffer.readline())
    batch = np.frombuffer(sys.stdin.buffer.read(), np.uint8).reshape(1, *request["shape"])
    tf.config.threading.set_intra_op_parallelism_threads(request["threads"])
    tf.config.threading.set_inter_op_parallelism_threads(1)
    try:
        rows = _measure(request["models"], batch, request["threads"], request["repeats"])
    except ModelError as error:
        return {"error": str(error)}
    return {"rows": [asdict(row) for row in rows]}


def _measure(paths: Mapping[str, str], batch: np.ndarray, threads: int, repeats: int) -> list[BenchmarkRow]:
    forms: dict[str, tuple[Runner, str]] = {}
    for name, path in paths.items():
        forms[name] = load_runner(path, threads=threads), path
        if forms[name][0].kind == "keras":
            forms[f"{name}, frozen"] = load_runner(path, optimize=True), path
    times: dict[str, list[float]] = {name: [] for name in forms}
    for round_ in range(repeats + 2):
        for name, (runner, _) in forms.items():
            start = time.perf_counter()
            runner(batch)
            if round_ >= 2:
                times[name].append(1000 * (time.perf_counter() - start))
    return [
        BenchmarkRow(
            name=name,
            kind=runner.kind,
            threads=threads,
            median_ms=statistics.median(times[name]),
            min_ms=min(times[name]),
            size_bytes=_size(Path(path)),
        )
        for name, (runner, path) in forms.items()
    ]


def _size(path: Path) -> int:
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size


if __name__ == "__main__":
    answer = json.dumps(_child())
    sys.stdout.write(answer + "\n")
