"""`kcvl benchmark`: systems by every path they can be run by, as a table, and as files where asked."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kcvl.parser import UsageError
from kcvl.settings import find_recipe, output_folder, parse_settings, size_of
from kcvl.terminal import next_steps, say, warn, wrote
from kcvl.text import count_text, table
from keras_cv_lectures.benchmarking import PATHS, SystemBenchmark, benchmark_system
from keras_cv_lectures.benchmarking.results import HEADS, as_json, cells, chart, headline, markdown
from keras_cv_lectures.files import atomic_path, write_json, write_text
from keras_cv_lectures.recipe import Recipe
from keras_cv_lectures.systems import SYSTEMS

ALL = "all"


def run_benchmark(arguments: argparse.Namespace) -> int:
    """Measures, prints and writes. Returns the exit code: 1 where nothing could be measured."""
    names = list(SYSTEMS) if arguments.systems == [ALL] else list(dict.fromkeys(arguments.systems))
    if ALL in names:
        raise UsageError(f"{ALL} stands for every system. Name it alone.")
    size, out = size_of(arguments.size), output_folder(arguments.out) if arguments.out else None
    unknown = [path for path in arguments.paths or () if path not in PATHS]
    if unknown:
        raise UsageError(f"there is no path {unknown[0]!r}. Paths: {', '.join(PATHS)}.")
    configs = {name: _config(find_recipe(name), arguments) for name in names}
    common = {
        "size": size,
        "threads": arguments.threads,
        "batch": arguments.batch,
        "rounds": arguments.repeats,
        "paths": tuple(arguments.paths or PATHS),
    }
    settings = {**common, "size": "{}x{}".format(*size), "scale": arguments.scale, "set": arguments.settings}
    settings["paths"] = list(common["paths"])
    measured: list[SystemBenchmark] = []
    for name in names:
        found = benchmark_system(name, classes=arguments.classes, config=configs[name], tell=warn, **common)
        measured.append(found)
        say(headline(found))
        say(table(HEADS, [cells(row) for row in found.rows]) + "\n")
        if out is not None:  # After each, so that a run that is stopped leaves what it had.
            _write(out, measured, settings)
    rows = [row for found in measured for row in found.rows]
    missing = sum(row.missing is not None for row in rows)
    say(
        f"{count_text(len(rows) - missing, 'path')} measured, {missing} missing; random weights, "
        f"{count_text(arguments.threads, 'thread')}, {count_text(arguments.repeats, 'round')} of turns"
    )
    if out is not None:
        wrote(*(out / name for name in ("benchmark.json", "benchmark.md", "benchmark.png")))
    next_steps("kcvl export MODEL --format tflite --precision int8 --out DIR")
    return int(missing == len(rows))


def _config(recipe: Recipe, arguments: argparse.Namespace) -> dict[str, Any]:
    """The builder's arguments: those of the scale, and over them those of --set."""
    config, options, augmentation = parse_settings(recipe, arguments.settings)
    if options != recipe.options or augmentation:
        raise UsageError("--set of benchmark takes options of the network only, such as filters=64.")
    return {**{"default": {}, "demo": recipe.demo, "smoke": recipe.smoke}[arguments.scale], **config}


def _write(out: Path, measured: list[SystemBenchmark], settings: dict[str, Any]) -> None:
    write_json(out / "benchmark.json", as_json(measured, settings))
    write_text(out / "benchmark.md", markdown(measured, settings))
    with atomic_path(out / "benchmark.png") as path:
        path.write_bytes(chart(measured))
