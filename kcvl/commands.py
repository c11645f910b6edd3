"""What each command does. Every command ends with what it wrote and what to do next."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf

from kcvl.demo import run_demo
from kcvl.parser import UsageError
from kcvl.settings import find_recipe, parse_settings, size_of
from kcvl.terminal import Progress, next_steps, quiet, quoted, say, warn, wrote
from kcvl.text import count_text, export_table, scores_table, table
from kcvl.training import run_train
from keras_cv_lectures.benchmarking import benchmark, gflops
from keras_cv_lectures.data import Source, doctor, open_source
from keras_cv_lectures.errors import DataError, ModelError
from keras_cv_lectures.exporting import export_saved_model, export_tflite
from keras_cv_lectures.metadata import Metadata, metadata_path
from keras_cv_lectures.predicting import picture_files, predict
from keras_cv_lectures.reporting import REPORT, SCORES, count_trained_on, export_run, report_evaluation, run_of
from keras_cv_lectures.runners import Runner, load_runner
from keras_cv_lectures.systems import SYSTEMS

_SHOWN_FILES = 4


def run(arguments: argparse.Namespace) -> int:
    """Runs the command that `arguments` name. Returns the exit code."""
    # Readers say how they understood masks that came without a label file.
    notes = logging.StreamHandler(sys.stdout)
    notes.setFormatter(logging.Formatter("Note: %(message)s"))
    said: set[str] = set()
    notes.addFilter(lambda record: record.getMessage() not in said and not said.add(record.getMessage()))
    logger = logging.getLogger("keras_cv_lectures")
    before = logger.handlers[:], logger.propagate, logger.level
    logger.handlers[:], logger.propagate = [notes], False
    logger.setLevel(logging.INFO)
    try:
        return _COMMANDS[arguments.command](arguments)
    except tf.errors.ResourceExhaustedError as error:
        raise ModelError(
            "the memory of the device is full. Try smaller pictures (--set input_size=HxW), a smaller --set batch_size "
            f"or fewer --set filters. ({str(error).splitlines()[0]})"
        ) from error
    finally:
        logger.handlers[:], logger.propagate = before[:2]
        logger.setLevel(before[2])


def _list(arguments) -> int:
    rows = [
        [name, recipe.reference.year, f"{recipe.reference.parameters:,}", recipe.summary, recipe.reference.paper]
        for name, recipe in SYSTEMS.items()
    ]
    say(table(["system", "year", "parameters", "what it is", "paper"], rows))
    next_steps("kcvl demo", "kcvl train SYSTEM --data SPEC --out DIR   (kcvl train --help lists the kinds of data)")
    return 0


def _demo(arguments) -> int:
    recipe = find_recipe(arguments.system)
    out = _folder(arguments.out or f"saved_models/{recipe.name}/demo-{time.strftime('%Y%m%d-%H%M%S')}")
    with quiet():
        run_demo(recipe, out, say=say, progress=Progress)
    next_steps(f"open {quoted(out / REPORT)}", f"{quoted('kcvl', 'predict', out)} YOUR_PICTURE.jpg --out predictions")
    return 0


def _doctor(arguments) -> int:
    with Progress("examining") as progress:
        report = doctor(arguments.data, progress=progress)
    say(report.text())
    again = quoted("kcvl", "doctor", arguments.data)
    if not report.ok:
        next_steps(f"repair what is listed under problems, then run `{again}` again")
        return 1
    next_steps(quoted("kcvl", "train", "unet", "--data", arguments.data, "--out", "runs/mine"))
    return 0


def _evaluate(arguments) -> int:
    out = _folder(arguments.out) if arguments.out else None
    with quiet():
        runner = load_runner(arguments.model)
        source = open_labelled(runner, arguments.data)
        recipe = SYSTEMS.get(runner.metadata.system, next(iter(SYSTEMS.values())))
        seen = count_trained_on(run_of(arguments.model), source)
        with Progress("evaluating") as progress:
            evaluation = recipe.evaluate(runner, source, original_size=arguments.original_size, progress=progress)
        if out:
            command = quoted("kcvl", *arguments.words)
            report_evaluation(out, runner, source, evaluation, command=command)
    say(scores_table(evaluation.scores))
    at = "each picture's own size" if evaluation.size is None else "{}x{} pixels".format(*evaluation.size)
    pictures = count_text(evaluation.pictures, "picture")
    say(f"{pictures} of {source.name}, compared at {at}, in {evaluation.seconds:.1f} s")
    if seen:
        say(f"Note: {seen} of these pictures were trained on; their scores say nothing about new pictures.")
    if out:
        wrote(out / SCORES, out / REPORT)
    next_steps(f"{quoted('kcvl', 'predict', arguments.model)} PICTURE --out predictions")
    return 0


def open_labelled(runner: Runner, spec: str) -> Source:
    """Pictures with masks that mean what the model's classes mean.

    A file without its card has no class names: then masks without a label file are read as the classes 0, 1, 2, ... of
    as many as the model has, even if these masks do not show the last of them.
    """
    if runner.metadata.classes:
        return open_source(spec, split="val", like=runner.metadata)
    source = open_source(spec, split="val")
    count = len(predict(runner, source[0]["image"]).classes)
    if count > max(2, len(source.classes)) and source.classes[0] in ("background", "class 0"):
        numbered = Metadata(classes=tuple(f"class {label}" for label in range(count)))
        return open_source(spec, split="val", like=numbered)
    return source


def _predict(arguments) -> int:
    out = _folder(arguments.out)
    pictures, failed = _pictures_at(arguments.paths, out)
    written: list[Path] = []
    with quiet():
        runner = load_runner(arguments.model)
        with Progress("predicting") as progress:
            for done, (path, name) in enumerate(output_names(pictures).items(), 1):
                try:
                    written += predict(runner, path, tile=arguments.tile).save(out, name).values()
                except DataError as error:
                    failed.append(str(error))
                except OSError as error:
                    raise ModelError(
                        f"the prediction of {path} could not be written to {out}: {error}. The {len(written)} files "
                        "before it are complete. Free some space or choose another --out."
                    ) from error
                progress(done, len(pictures))
    for message in failed:
        warn(f"skipped: {message}")
    if not written:
        raise DataError("no picture could be predicted; see the lines above.")
    wrote(*written[:_SHOWN_FILES], more=len(written) - _SHOWN_FILES)
    next_steps(f"look at {quoted(out)}")
    return 1 if failed else 0


def _pictures_at(paths: Iterable[str], out: Path) -> tuple[list[Path], list[str]]:
    """The pictures that a command names, each once, and what is wrong with the other names."""
    found: dict[Path, Path] = {}
    failed = []
    for path in map(Path, paths):
        if path.is_dir() and path.resolve() == out.resolve():
            raise UsageError(f"--out {out} is the folder of the pictures, where results would be taken for pictures.")
        try:
            for picture in picture_files(path) if path.is_dir() else [path]:
                found.setdefault(picture.resolve(), picture)
        except DataError as error:
            failed.append(str(error))
    return list(found.values()), failed


def output_names(pictures: Iterable[Path]) -> dict[Path, str]:
    """A name for the files of each picture: its stem, with as many folders before it as tell it from the others.

    Two pictures of one stem in one folder are told apart by their suffix. Upper and lower case count as equal, as they
    do on some disks.
    """
    places = {picture: picture.resolve() for picture in pictures}
    stems = Counter((place.parent, place.stem.casefold()) for place in places.values())
    longer: dict[Path, list[str]] = {}
    for picture, place in places.items():
        alone = stems[place.parent, place.stem.casefold()] == 1
        words = [*place.parent.parts[1:], place.stem if alone else place.name.replace(".", "_")]
        longer[picture] = ["_".join(words[start:]) for start in range(len(words) - 1, -1, -1)]
    taken = Counter(name.casefold() for names in longer.values() for name in names)
    names: dict[Path, str] = {}
    used: set[str] = set()
    for picture, candidates in longer.items():
        name = next((name for name in candidates if taken[name.casefold()] == 1), candidates[-1])
        number = 2
        while name.casefold() in used:
            name, number = f"{candidates[-1]}_{number}", number + 1
        used.add(name.casefold())
        names[picture] = name
    return names


def _export(arguments) -> int:
    out, path = _folder(arguments.out), Path(arguments.model)
    size = size_of(arguments.size) if arguments.size else None
    if arguments.format == "saved_model" and arguments.precision != "float32":
        raise UsageError(f"a SavedModel is float32; --precision {arguments.precision} needs --format tflite.")
    if arguments.dynamic and arguments.precision == "int8":
        raise UsageError("--precision int8 needs a fixed input size: drop --dynamic, or choose float32 or float16.")
    if arguments.dynamic and size:
        raise UsageError("--dynamic leaves the size open and --size fixes it. Drop one of them.")
    warn(f"exporting {path} to {arguments.format}, {arguments.precision} ...")
    with quiet():
        row = export_run(
            path,
            out=out,
            file_format=arguments.format,
            precision=arguments.precision,
            spec=arguments.data,
            size=size,
            dynamic=arguments.dynamic,
            progress=Progress,
        )
    say(export_table(row))
    if row["mean_iou"] is None:
        say("The file was not scored: there are no labelled pictures. --data SPEC names some.")
    card = metadata_path(Path(row["file"]))
    wrote(row["file"], card, *([row["report"]] if row["report"] else []))
    page = card.with_name("MODEL_CARD.md") if arguments.format == "saved_model" else card.with_suffix(".md")
    next_steps(f"{quoted('kcvl', 'predict', row['file'])} PICTURE --out predictions", f"read {quoted(page)}")
    return 0


def _benchmark(arguments) -> int:
    recipe, size = find_recipe(arguments.system), size_of(arguments.size)
    config, options, augmentation = parse_settings(recipe, arguments.settings)
    if options != recipe.options or augmentation:
        raise UsageError("--set of benchmark takes options of the network only, such as filters=64.")
    model = recipe.build((*size, 3), arguments.classes, **{**recipe.config, **config})
    cost = gflops(model, size)
    say(
        f"{recipe.name}: {model.count_params():,} parameters, {cost:.3g} GFLOPs for a picture of {size[0]}x{size[1]}; "
        f"random weights, batch 1, {count_text(arguments.repeats, 'round')} in which the forms take turns"
    )
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder, quiet():
        forms = {"Keras": Path(folder) / "model.keras", "SavedModel": Path(folder) / "saved"}
        model.save(forms["Keras"])
        warn("exporting SavedModel ...")
        export_saved_model(model, forms["SavedModel"], verify=False)
        for precision in ("float32", "float16", "int8"):
            warn(f"exporting TFLite {precision} ...")
            forms[f"TFLite {precision}"] = path = Path(folder) / f"{precision}.tflite"
            noise = (picture for _ in range(100)) if precision == "int8" else None
            export_tflite(model, path, precision=precision, representative=noise, verify=False)
        warn("measuring with 1 and 2 threads ...")
        rows = benchmark(forms, picture, repeats=arguments.repeats)
    say(
        table(
            ["form", "threads", "median ms", "min ms", "GFLOP/s", "MB"],
            [[r.name, r.threads, r.median_ms, r.min_ms, 1000 * cost / r.median_ms, r.size_bytes / 1e6] for r in rows],
        )
    )
    fastest = min(rows, key=lambda r: r.median_ms)
    say(f"fastest: {fastest.name} with {count_text(fastest.threads, 'thread')}; nothing was kept")
    next_steps("kcvl export MODEL --format tflite --precision int8 --out DIR")
    return 0


def _folder(name: str) -> Path:
    path = Path(name)
    if path.exists() and not path.is_dir():
        raise UsageError(f"--out {path} is a file. Name a folder.")
    return path


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "list": _list,
    "demo": _demo,
    "doctor": _doctor,
    "train": run_train,
    "evaluate": _evaluate,
    "predict": _predict,
    "export": _export,
    "benchmark": _benchmark,
}
