"""Trains every system for about a minute on generated pictures and takes it through evaluation, export and prediction.

python tools/train_zoo.py                      all systems, into saved_models/zoo; skips what is done
python tools/train_zoo.py --only unet          one system; repeat the option for more
python tools/train_zoo.py --retry              tries again what failed
python tools/train_zoo.py --check              one training step of every system, nothing is kept

Each system gets a run folder in --out, made by `kcvl train` (with the demo settings of `SYSTEMS`), `kcvl evaluate`,
`kcvl export` and `kcvl predict`, from which `tools/model_zoo.py` writes docs/model_zoo.md. All of it may be stopped; a
training that was not finished starts again. What fails is noted in the run folder (failures.json) and stops nothing:
every system has a process of its own, which is started again after a crash and goes on with the next step.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import itertools
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
from zoo_records import FAILURES, FORMS, PREDICTIONS, PUBLISHED, UNSEEN

from kcvl import commands
from kcvl.parser import make_parser
from kcvl.settings import find_recipe, parse_settings
from keras_cv_lectures.data import Source, open_source
from keras_cv_lectures.files import atomic_path, read_json, write_json, write_text
from keras_cv_lectures.layers.atrous import whole_convolutions
from keras_cv_lectures.layers.portable import portable_operators
from keras_cv_lectures.metadata import RUN_FILE
from keras_cv_lectures.recipe import Recipe
from keras_cv_lectures.reporting import REPORT, SCORES, refresh_report, validation_source
from keras_cv_lectures.reporting.pages import EVALUATION
from keras_cv_lectures.serving import gflops
from keras_cv_lectures.systems import SYSTEMS
from keras_cv_lectures.training import train

ROOT = Path(__file__).resolve().parent.parent
# Side of the picture whose cost is counted where the published network takes any.
PUBLISHED_SIZE = (512, 512)

_TRAIN, _VALIDATE, _UNSEEN = "shapes:count={0},size=96x128{1}", ",split=val", ",seed=1000"
# A captioner in a minute learns sentences about few shapes.
_OF_CAPTIONS = ",shapes=2,clear=yes"
_EPOCHS, _TRIAL_STEPS = 8, 6
# Times as long as the others, by what is in their examples: detectors find little after a minute, and captioners
# say one sentence about everything.
_LONGER = {"boxes": 2, "captions": 5}
# Of the time left after the first step: the rest goes to validation and checkpoints.
_FOR_STEPS = 0.85
# A detector is not sure of much after a minute; the picture shows the scores.
_LOWEST_SCORE = "0.3"
_PLAN, _UNDER_WAY, _PICTURE = "plan.json", "under_way.txt", "picture.png"
_PATIENCE_SECONDS = 1200


class Step(NamedTuple):
    """A part of the work: its name, whether it was done, and what does it."""

    name: str
    done: Callable[[], bool]
    run: Callable[[], Any]


class Data(NamedTuple):
    """Specifications of generated pictures that have none in common."""

    train: str
    validate: str
    unseen: str


def main(argv: Sequence[str] | None = None) -> int:
    """Runs all systems, or in a process of its own one. Returns the exit code: 1 where a step failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "saved_models" / "zoo", metavar="DIR")
    parser.add_argument("--only", action="append", default=[], choices=list(SYSTEMS), metavar="SYSTEM")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="of training, roughly, more for some tasks (default: 60)"
    )
    parser.add_argument("--retry", action="store_true", help="forget what failed and try it again")
    parser.add_argument("--check", action="store_true", help="one training step of each system")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    names = arguments.only or list(SYSTEMS)
    if arguments.here:
        return work_on(find_recipe(names[0]), arguments.out / names[0], arguments.seconds, check=arguments.check)
    started, failed = time.perf_counter(), []
    for number, name in enumerate(names, 1):
        _say(f"{number}/{len(names)} {name}, after {(time.perf_counter() - started) / 60:.1f} minutes")
        folder = arguments.out / name
        if arguments.retry:
            (folder / FAILURES).unlink(missing_ok=True)
        options = ["--out", str(arguments.out), "--only", name, "--seconds", str(arguments.seconds)]
        if not in_own_process([*options, *(["--check"] if arguments.check else [])], folder):
            failed.append(name)
    _say(f"done in {(time.perf_counter() - started) / 60:.1f} minutes")
    if failed:
        _say(f"something failed for {', '.join(failed)}: see {FAILURES} in their folders; --retry tries it again")
    elif not arguments.check:
        _say(f"next  python tools/model_zoo.py {arguments.out}")
    return 1 if failed else 0


def in_own_process(options: Sequence[str], folder: Path) -> bool:
    """Works on one system until nothing is left to do. Returns whether all went well."""
    (folder / _UNDER_WAY).unlink(missing_ok=True)  # Of a run that was stopped, which is no fault of the step.
    while True:
        command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), *options, "--here"]
        try:
            code = subprocess.run(command, check=False, timeout=_PATIENCE_SECONDS).returncode
        except subprocess.TimeoutExpired:
            code = None
        if code in (0, 1) or not note_crash(folder, code):
            return code == 0


def note_crash(folder: Path, code: int | None) -> bool:
    """Notes the step that a process died in as failed. Returns whether there was one.

    Args:
        code: exit code, negative for a signal; None for a process that took too long.
    """
    under_way = folder / _UNDER_WAY
    if not under_way.exists():
        return False
    how = f"with exit code {code}"
    if code is None:
        how = f"after {_PATIENCE_SECONDS} seconds, when it was stopped"
    elif code < 0:
        how = f"by {signal.Signals(-code).name}"
    _note(folder, under_way.read_text(encoding="utf-8"), f"the process ended {how}")
    under_way.unlink()
    return True


def work_on(recipe: Recipe, folder: Path, seconds: float, *, check: bool = False) -> int:
    """Does what is left to do for one system. Returns 1 where a step failed, now or before."""
    if check:
        data = data_for(recipe)
        first, _ = trial(recipe, settings_of(recipe), open_source(data.train, split="train"), steps=1)
        _say(f"{recipe.name}: one step with its demo settings, {first:.1f} s with building it")
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    seconds *= max([1, *(times for key, times in _LONGER.items() if key in recipe.keys)])
    return 0 if run_steps(steps_of(recipe, folder, seconds), folder) else 1


def run_steps(steps: Sequence[Step], folder: Path) -> bool:
    """Runs the steps that were neither done nor failed before; the first one is needed by all others.

    Returns:
        Whether all of them are done.
    """
    good = True
    for number, step in enumerate(steps):
        if step.done():
            continue
        if step.name not in _failures(folder):
            _say(f"  {step.name}")
            write_text(folder / _UNDER_WAY, step.name)
            try:
                step.run()
            except Exception as error:  # Of any kind: it belongs on the page, and the other steps go on.
                traceback.print_exc()
                _note(folder, step.name, f"{type(error).__name__}: {error}")
            (folder / _UNDER_WAY).unlink()
        if step.name in _failures(folder):
            _say(f"  {step.name} failed: {_failures(folder)[step.name]}")
            good = False
            if number == 0:
                break
    return good


def steps_of(recipe: Recipe, folder: Path, seconds: float) -> list[Step]:
    """What is done for a system, in order. The name of an export is that of its form, such as "tflite int8"."""
    data, run = data_for(recipe), str(folder)

    def trained() -> bool:
        # Zero until the training has ended; then the best epoch is scored, which may take the process down, too.
        ended = (folder / RUN_FILE).exists() and read_json(folder / RUN_FILE).get("seconds", 0) > 0
        return ended and (folder / EVALUATION).exists()

    def export(kind: str, precision: str) -> None:
        into = ["--format", kind, "--precision", precision, "--data", data.unseen, "--out", str(folder / "exports")]
        _kcvl("export", run, *into)

    def exported(kind: str, precision: str) -> bool:
        rows = read_json(folder / "exports.json")["rows"] if (folder / "exports.json").exists() else []
        return any((row["format"], row["precision"]) == (kind, precision) for row in rows)

    return [
        Step("train", trained, lambda: _train(recipe, folder, data, seconds)),
        Step(
            "evaluate",
            (folder / UNSEEN / SCORES).exists,
            lambda: _kcvl("evaluate", run, "--data", data.unseen, "--out", str(folder / UNSEEN)),
        ),
        *(Step(" ".join(form), lambda form=form: exported(*form), lambda form=form: export(*form)) for form in FORMS),
        Step(
            "predict", (folder / PREDICTIONS).exists, lambda: _predict(recipe, folder, open_source(data.unseen, "val"))
        ),
        Step("published form", (folder / PUBLISHED).exists, lambda: write_json(folder / PUBLISHED, published(recipe))),
        Step("report", (folder / REPORT).exists, lambda: _report(recipe, folder)),
    ]


def data_for(recipe: Recipe) -> Data:
    """The pictures that a system is trained, validated and judged on; the last are a quarter of the count."""
    more = _OF_CAPTIONS if "captions" in recipe.keys else ""
    return Data(
        _TRAIN.format(2000 if more else 600, more),
        _TRAIN.format(240, more + _VALIDATE),
        _TRAIN.format(240, more + _UNSEEN),
    )


def settings_of(recipe: Recipe) -> list[str]:
    """What `kcvl train --set` is given for the demo settings of `recipe`."""
    options = {
        field.name: getattr(recipe.demo_options, field.name)
        for field in dataclasses.fields(recipe.demo_options)
        if getattr(recipe.demo_options, field.name) != getattr(recipe.options, field.name)
    }
    settings = {**recipe.demo, **options, **recipe.demo_augmentation, "epochs": _EPOCHS}
    return [f"{name}={_setting(value)}" for name, value in settings.items()]


def _setting(value: Any) -> str:
    if isinstance(value, tuple) and len(value) == 2 and all(type(number) in (int, float) for number in value):
        return ("{}x{}" if type(value[0]) is int else "{}..{}").format(*value)
    return str(value)


def trial(recipe: Recipe, settings: Sequence[str], source: Source, *, steps: int) -> tuple[float, float]:
    """Seconds of the first training step, in which TensorFlow prepares itself, and of a later one."""
    config, options, augmentation = parse_settings(recipe, settings)
    clock = _Clock()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        train(
            recipe,
            source.subset(range(min(len(source), steps * options.batch_size))),
            out=Path(folder) / "trial",
            config=config,
            options=dataclasses.replace(options, epochs=1, steps_per_epoch=steps),
            augmentation=augmentation,
            callbacks=[clock],
            verbose=0,
        )
    times = clock.times
    later = [b - a for a, b in itertools.pairwise(times[1:])]
    return times[0] - started, statistics.median(later) if later else 0.0


def published(recipe: Recipe) -> dict[str, Any]:
    """What the network of the paper costs: (height, width, channels) of a picture, and billions of operations."""
    model = recipe.build(**recipe.reference.parameters_of)
    height, width, channels = model.input_shape[1:]
    size = (height, width) if height and width else PUBLISHED_SIZE
    with portable_operators(), whole_convolutions():  # As a model card counts.
        return {"size": [*size, channels], "gflops": round(gflops(model, size), 3)}


class _Clock(keras.callbacks.Callback):
    """When each step ended."""

    def __init__(self):
        super().__init__()
        self.times: list[float] = []

    def on_train_batch_end(self, batch, logs=None):
        self.times.append(time.perf_counter())


def _train(recipe: Recipe, folder: Path, data: Data, seconds: float) -> None:
    settings = settings_of(recipe)
    # A training that was stopped starts again: the minutes that it took before were not recorded.
    for path in folder.iterdir():
        if path.name not in (_PLAN, _UNDER_WAY, FAILURES):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not (folder / _PLAN).exists():
        first, later = trial(recipe, settings, open_source(data.train, split="train"), steps=_TRIAL_STEPS)
        left = max(seconds / 3, seconds - first) * _FOR_STEPS
        plan = {"steps_per_epoch": max(1, int(left / later / _EPOCHS)), "first_step": first, "later_step": later}
        write_json(folder / _PLAN, plan)
        keras.backend.clear_session()
        gc.collect()
    settings.append(f"steps_per_epoch={read_json(folder / _PLAN)['steps_per_epoch']}")
    words = ["--data", data.train, "--val", data.validate]
    words += [word for setting in settings for word in ("--set", setting)]
    _kcvl("train", recipe.name, *words, "--out", str(folder))
    (folder / REPORT).unlink()  # Every export would write it again; it is written once, at the end.


def _predict(recipe: Recipe, folder: Path, source: Source) -> None:
    """Predicts the first picture with at least two shapes."""
    from PIL import Image

    image = next(e["image"] for e in (source[i] for i in range(len(source))) if len(e["labels"]) >= 2)
    with atomic_path(folder / UNSEEN / _PICTURE) as temporary:
        Image.fromarray(image).save(temporary)
    score = ["--score", _LOWEST_SCORE] if "boxes" in recipe.keys else []
    _kcvl("predict", str(folder), str(folder / UNSEEN / _PICTURE), *score, "--out", str(folder / PREDICTIONS))


def _report(recipe: Recipe, folder: Path) -> None:
    refresh_report(recipe, folder, validation_source(read_json(folder / RUN_FILE)))


def _kcvl(*words: str) -> None:
    """A command line of `kcvl`, in this process.

    Raises:
        ValueError, OSError: of the command.
        RuntimeError: it ended with an exit code.
    """
    arguments = make_parser().parse_args(words)
    arguments.words = list(words)
    with _silent():
        code = commands.run(arguments)
    if code:
        raise RuntimeError(f"`kcvl {words[0]}` ended with exit code {code}")


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """What commands print goes nowhere: it is in the files that they write."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _failures(folder: Path) -> dict[str, str]:
    return read_json(folder / FAILURES) if (folder / FAILURES).exists() else {}


def _note(folder: Path, step: str, message: str) -> None:
    write_json(folder / FAILURES, {**_failures(folder), step: message})


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
