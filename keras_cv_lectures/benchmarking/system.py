"""One system by every path that it can be run by, in turns."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keras_cv_lectures.benchmarking.request import EXPORTS, MATRIX, PATHS, PREPARED_FILE, Request
from keras_cv_lectures.benchmarking.turns import Turns, ending_of, take_turns
from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.files import read_json
from keras_cv_lectures.recipe import Recipe
from keras_cv_lectures.runners import versions
from keras_cv_lectures.systems import SYSTEMS

_MODULE = "keras_cv_lectures.benchmarking.contender"
# What a network has where its paper does not say: VOC's classes, COCO's, the vocabulary of Show, Attend and Tell.
_CLASSES = {"segmentation": 21, "detection": 80, "captioning": 10_000}
# A step goes forward once, and back to the inputs and to the weights of every layer.
_TRAINING_COST = 3


@dataclass(frozen=True, kw_only=True)
class BenchmarkRow:
    """Speed of one path of a system.

    Attributes:
        system: its name in `SYSTEMS`.
        path: key of `PATHS`.
        label: the path in words.
        pictures: of one call.
        median_ms, min_ms: milliseconds of one call over the rounds; None where it is missing, like the others below.
        peak_mb: the most memory that its process held (1e6 bytes), libraries and loading included.
        gflops_per_second: of convolutions and matrix products. None for the training step of detectors and captioners,
            whose graph is another one than that of inference; three times inference is counted for the others.
        share_of_matrix_product: that, divided by what a product of float32 matrices reached in the same rounds on the
            same threads. The 8-bit path may be above 1.
        size_bytes: of the exported file or folder; None for what was not exported.
        seconds: of every call.
        missing: why it was not measured; None where it was.
    """

    system: str
    path: str
    label: str
    pictures: int
    median_ms: float | None = None
    min_ms: float | None = None
    peak_mb: float | None = None
    gflops_per_second: float | None = None
    share_of_matrix_product: float | None = None
    size_bytes: int | None = None
    seconds: tuple[float, ...] = ()
    missing: str | None = None


@dataclass(frozen=True, kw_only=True)
class SystemBenchmark:
    """What was measured of one system.

    Attributes:
        system: its name in `SYSTEMS`.
        size: (height, width) of the picture.
        classes: `num_classes` of the builder.
        config: arguments of the builder.
        parameters, gflops: of the network, the latter for one picture; None where it could not be built.
        matrix_gflops: GFLOP/s of the product of float32 matrices.
        matrix_mb: the most memory of the process that did nothing else: libraries, and three such matrices.
        rows: one for each path.
    """

    system: str
    size: tuple[int, int]
    classes: int
    config: Mapping[str, Any]
    parameters: int | None
    gflops: float | None
    matrix_gflops: float | None
    matrix_mb: float | None
    rows: tuple[BenchmarkRow, ...]

    def to_json(self) -> dict[str, Any]:
        # A model as an argument has no form in a file.
        return asdict(self) | {"config": {key: str(value) for key, value in self.config.items()}}


def benchmark_system(
    system: str,
    *,
    size: tuple[int, int] = (256, 256),
    classes: int | None = None,
    config: Mapping[str, Any] | None = None,
    threads: int = 2,
    batch: int = 2,
    rounds: int = 7,
    paths: Sequence[str] = tuple(PATHS),
    matrix: int = 2048,
    tell: Callable[[str], object] = lambda text: None,
) -> SystemBenchmark:
    """Times a system of random weights by every path that it can be run by, each in a process of its own.

    In each round every path has one call. Inference is of one picture: of a detector with about 400 boxes above its
    threshold, of a captioner from the picture to a sentence of full length by beam search. The training step is that of
    the trainer, on generated pictures. A detector works at the size of the picture unless `config` has `min_size`.

    Args:
        system: name in `SYSTEMS`.
        size: (height, width) of the picture in pixels.
        classes: `num_classes`; None takes that of the published network. Of a captioner the words of its vocabulary.
        config: arguments of the builder, over the recipe's; Python literals.
        threads: threads that compute.
        batch: pictures of a training step.
        rounds: timed calls of each path, after three that are not.
        paths: keys of `PATHS` to measure.
        matrix: rows and columns of the matrices whose product tells what the machine can do.
        tell: called with a line of progress.

    Raises:
        ModelError: an argument does not fit. A path that cannot be run is a row that says why.
    """
    _check(system, size, threads, batch, rounds, paths, matrix)
    recipe = SYSTEMS[system]
    request = Request(
        system=system,
        folder="",
        size=tuple(size),
        classes=published_classes(recipe) if classes is None else classes,
        config={**recipe.config, **(config or {})},
        threads=threads,
        batch=batch,
        paths=tuple(paths),
        matrix=matrix,
    )
    with tempfile.TemporaryDirectory() as folder:
        request = Request(**{**vars(request), "folder": folder})
        tell(f"{system}: building and exporting ...")
        prepared = _prepare(request)
        failed = prepared["failed"]
        names = [path for path in paths if path not in failed]

        def told(name: str, turns: Turns | None) -> None:
            if turns is None:
                tell(f"{system}: starting {PATHS.get(name, 'the matrix product')} ...")
            elif turns.missing:
                tell(f"{system}: {PATHS.get(name, 'the matrix product')} is missing: {turns.missing}")

        commands = {name: _command(request, name) for name in [*names, MATRIX]} if names else {}
        found = take_turns(commands, rounds, threads, environment=_environment(), tell=told)
        sizes = {name: _size(request.file(file)) for name, file in EXPORTS.items() if name in names}
    product = found.get(MATRIX, Turns(missing="nothing was measured"))
    peak = None if product.missing else 2 * matrix**3 / 1e9 / product.median
    found |= {name: Turns(missing=reason) for name, reason in failed.items() if name in paths}
    return SystemBenchmark(
        system=system,
        size=request.size,
        classes=request.classes,
        config=request.config,
        parameters=prepared["parameters"],
        gflops=prepared["gflops"],
        matrix_gflops=peak,
        matrix_mb=product.megabytes,
        rows=tuple(_row(request, name, found[name], prepared["gflops"], peak, sizes.get(name)) for name in paths),
    )


def published_classes(recipe: Recipe) -> int:
    """`num_classes` of the published network, else what is usual for its task."""
    task = "captioning" if "captions" in recipe.keys else "detection" if "boxes" in recipe.keys else "segmentation"
    return recipe.reference.parameters_of.get("num_classes", _CLASSES[task])


def machine() -> dict[str, Any]:
    """What the times belong to: processor, cores and versions."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # Another system than Linux, or another processor than x86.
        pass
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **versions(),
    }


def _row(
    request: Request, name: str, turns: Turns, cost: float | None, peak: float | None, size_bytes: int | None
) -> BenchmarkRow:
    training = name == "training"
    common = {
        "system": request.system,
        "path": name,
        "label": PATHS[name],
        "pictures": request.batch if training else 1,
        "missing": turns.missing,
    }
    if turns.missing:
        return BenchmarkRow(**common)
    counted = cost is not None and not (training and {"boxes", "captions"} & set(SYSTEMS[request.system].keys))
    speed = cost * (_TRAINING_COST * request.batch if training else 1) / turns.median if counted else None
    return BenchmarkRow(
        **common,
        median_ms=1000 * turns.median,
        min_ms=1000 * min(turns.seconds),
        peak_mb=turns.megabytes,
        gflops_per_second=speed,
        share_of_matrix_product=speed / peak if speed is not None and peak else None,
        size_bytes=size_bytes,
        seconds=turns.seconds,
    )


def _prepare(request: Request) -> dict[str, Any]:
    """Has a process build and export the system, whose memory is gone when the paths are measured."""
    done = subprocess.run(
        _command(request, "prepare"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, **_environment()},
        check=False,
    )
    file = request.file(PREPARED_FILE)
    found = read_json(file) if file.exists() else {"parameters": None, "gflops": None, "failed": {}, "done": []}
    lines = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    if done.returncode:
        reason = lines[-1][:300] if done.returncode > 0 and lines else ending_of(done.returncode)
        # Without a file the network itself could not be built, and no path is left.
        without = request.paths if found["parameters"] is None else EXPORTS
        lost = (name for name in without if name in request.paths and name not in found["done"])
        found["failed"] = {**dict.fromkeys(lost, reason), **found["failed"]}
    return found


def _command(request: Request, name: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", _MODULE, request.to_text(), name]


def _environment() -> dict[str, str]:
    return {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}


def _size(path: Path) -> int:
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size


def _check(system, size, threads, batch, rounds, paths, matrix) -> None:
    if system not in SYSTEMS:
        raise ModelError(f"`system` must be one of {', '.join(SYSTEMS)}. Received: system={system!r}")
    unknown = [path for path in paths if path not in PATHS]
    if unknown or not paths:
        received = ", ".join(map(str, paths)) or "none"
        raise ModelError(f"`paths` must be some of {', '.join(PATHS)}. Received: {received}")
    numbers = {"threads": threads, "batch": batch, "rounds": rounds, "matrix": matrix}
    wrong = {name: value for name, value in numbers.items() if type(value) is not int or value < 1}
    if wrong:
        name, value = next(iter(wrong.items()))
        raise ModelError(f"`{name}` must be a whole number of at least 1. Received: {name}={value!r}")
    # The generated pictures of the training step are no smaller.
    if len(size) != 2 or min(size) < 16:
        raise ModelError(f"`size` must be (height, width), each at least 16 pixels. Received: size={size!r}")


__all__ = ["PATHS", "BenchmarkRow", "SystemBenchmark", "benchmark_system", "machine", "published_classes"]
