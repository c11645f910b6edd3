"""What each command does. Every command ends with what it wrote and what to do next."""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import tensorflow as tf

from kcvl.advice import for_full_memory, for_unused_gpu
from kcvl.benchmarking import run_benchmark
from kcvl.demo import run_demo
from kcvl.parser import UsageError
from kcvl.scoring import run_evaluate
from kcvl.settings import find_recipe, output_folder, size_of
from kcvl.terminal import Progress, next_steps, quiet, quoted, say, warn, wrote
from kcvl.text import count_text, export_table, headline, table
from kcvl.training import open_training_data, run_train
from kcvl.vocab import run_vocab
from keras_cv_lectures.data import doctor
from keras_cv_lectures.errors import DataError, ModelError, PictureError
from keras_cv_lectures.metadata import RUN_FILE, metadata_path
from keras_cv_lectures.predicting import (
    SHOWN_SCORE,
    CaptionResult,
    DetectionResult,
    SegmentationResult,
    output_names,
    picture_files,
    predict,
)
from keras_cv_lectures.reporting import REPORT, export_run
from keras_cv_lectures.runners import load_runner
from keras_cv_lectures.systems import SYSTEMS
from keras_cv_lectures.training.callbacks import BEST, LAST, STATE

_SHOWN_FILES, _SHOWN_CLASSES, _SHOWN_CAPTIONS = 4, 6, 8


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
            f"the memory of the device is full. {for_full_memory(arguments.command)} ({str(error).splitlines()[0]})"
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
    out = output_folder(arguments.out or f"saved_models/{recipe.name}/demo-{time.strftime('%Y%m%d-%H%M%S')}")
    if any((out / name).exists() for name in (STATE, BEST, LAST)):
        raise ModelError(f"{out} already holds a training, and the demo begins one of its own. Choose another --out.")
    unused = for_unused_gpu(len(tf.config.list_physical_devices("GPU")))
    if unused:
        say(unused)
    with quiet():
        run_demo(recipe, out, say=say, progress=Progress, command=quoted("kcvl", *arguments.words))
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
    has = {kind for kind in ("labels", "objects", "captions") if any(getattr(s, kind) for s in report.splits)}
    if has == {"captions"}:
        next_steps(quoted("kcvl", "vocab", "--data", arguments.data, "--out", "vocabulary.txt"))
        return 0
    system = "unet" if "labels" in has or not has else _detector_for(arguments.data)
    next_steps(quoted("kcvl", "train", system, "--data", arguments.data, "--out", "runs/mine"))
    return 0


def _detector_for(spec: str) -> str:
    """The detector that learns the most of what the first picture of `spec` is labelled with."""
    first = open_training_data(spec, None)[0][0]
    kinds = ("mask_pixels", "mask_rcnn"), ("instance_masks", "mask_rcnn"), ("keypoints", "keypoint_rcnn")
    return next((system for key, system in kinds if key in first), "faster_rcnn")


def _evaluate(arguments) -> int:
    out = output_folder(arguments.out) if arguments.out else None
    if out and (out / RUN_FILE).exists():
        instead = out / "scores"
        raise UsageError(f"--out {out} is a run folder, whose own {REPORT} would be replaced. Name another: {instead}.")
    return run_evaluate(arguments, out)


def _predict(arguments) -> int:
    out = output_folder(arguments.out)
    pictures, failed = _pictures_at(arguments.paths, out)
    written: list[Path] = []
    refused: list[str] = []
    tally = _Tally(arguments.score)
    tiles = {name: getattr(arguments, name) for name in ("tile", "margin", "stride")}
    with quiet():
        runner = load_runner(arguments.model)
        with Progress("predicting") as progress:
            for done, (path, name) in enumerate(output_names(pictures).items(), 1):
                try:
                    result = predict(runner, path, **tiles)
                    written += result.save(out, name, **tally.take(result)).values()
                except DataError as error:
                    failed.append(str(error))
                except PictureError as error:
                    refused.append(f"{path}: {error}")
                except OSError as error:
                    raise ModelError(
                        f"the prediction of {path} could not be written to {out}: {error}. The {len(written)} files "
                        "before it are complete. Free some space or choose another --out."
                    ) from error
                progress(done, len(pictures))
    for message in failed + (refused if written else []):
        warn(f"skipped: {message}")
    if refused and not written:
        several = f"the model failed on all {len(refused)} pictures, so no single one is at fault. The first: "
        raise ModelError((several if len(refused) > 1 else "") + refused[0])
    if not written:
        raise DataError("no picture could be predicted; see the lines above.")
    tally.tell()
    wrote(*written[:_SHOWN_FILES], more=len(written) - _SHOWN_FILES)
    next_steps(f"look at {quoted(out)}")
    return 1 if failed or refused else 0


class _Tally:
    """Counts the objects that a detector found in all pictures, or keeps what a captioner said about them."""

    def __init__(self, score: float | None):
        self.asked, self.score = score is not None, SHOWN_SCORE if score is None else score
        self.pictures, self.lowest = 0, 1.0
        self.shown, self.unsure = Counter(), 0
        self.captions: list[str] = []

    def take(self, result: CaptionResult | DetectionResult | SegmentationResult) -> dict[str, float]:
        """Counts a picture. Returns the settings of its `save`."""
        if not isinstance(result, DetectionResult):
            captioner = isinstance(result, CaptionResult)
            if self.asked:
                gives = "describes pictures in words" if captioner else "gives a class for every pixel"
                raise UsageError(f"--score is for detectors; this model {gives}.")
            if captioner:
                self.captions.append(f"{result.name}: {result.caption}")
            return {}
        sure = result.above(self.score)
        self.pictures += 1
        self.shown.update(result.classes[label] for label in sure.labels)
        self.unsure += len(result) - len(sure)
        self.lowest = min([self.lowest, *result.scores.tolist()])
        return {"score": self.score}

    def tell(self) -> None:
        for line in self.captions[:_SHOWN_CAPTIONS]:
            say(line)
        if len(self.captions) > _SHOWN_CAPTIONS:
            say(f"... and {len(self.captions) - _SHOWN_CAPTIONS:,} more, each in its _caption.json")
        if not self.pictures:
            return
        kinds = ", ".join(f"{count:,} {name}" for name, count in self.shown.most_common(_SHOWN_CLASSES))
        kinds += ", ..." if len(self.shown) > _SHOWN_CLASSES else ""
        line = f"{count_text(self.shown.total(), 'object')} with a score of at least {self.score:g}"
        line += f" in {count_text(self.pictures, 'picture')}" + (f": {kinds}" if kinds else "")
        if self.unsure:
            lower = math.floor(100 * self.lowest) / 100
            line += f"; {self.unsure:,} less sure (--score {lower:g} shows all)"
        say(line)


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


def _export(arguments) -> int:
    out, path = output_folder(arguments.out), Path(arguments.model)
    size = size_of(arguments.size) if arguments.size else None
    if arguments.format == "saved_model" and arguments.precision != "float32":
        raise UsageError(f"a SavedModel is float32; --precision {arguments.precision} needs --format tflite.")
    if arguments.low_memory and arguments.format != "saved_model":
        raise UsageError("--low-memory is for --format saved_model; a TFLite file holds its weights once anyway.")
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
            low_memory=arguments.low_memory,
            progress=Progress,
        )
    say(export_table(row))
    if headline(row) is None:
        say(f"The file was not scored: {row['not_scored'] or 'nothing was measured'}.")
    card = metadata_path(Path(row["file"]))
    wrote(row["file"], card, *([row["report"]] if row["report"] else []))
    page = card.with_name("MODEL_CARD.md") if arguments.format == "saved_model" else card.with_suffix(".md")
    next_steps(f"{quoted('kcvl', 'predict', row['file'])} PICTURE --out predictions", f"read {quoted(page)}")
    return 0


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "list": _list,
    "demo": _demo,
    "doctor": _doctor,
    "vocab": run_vocab,
    "train": run_train,
    "evaluate": _evaluate,
    "predict": _predict,
    "export": _export,
    "benchmark": run_benchmark,
}
