"""What a model answers with, known before it is asked where that is possible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import keras

from keras_cv_lectures.predicting.tiled import black_answer
from keras_cv_lectures.runners import Runner

# Kind of model, as `Runner.facts` keeps it -> the output that only this kind has.
_OUTPUTS = {"detector": "boxes", "captioner": "tokens"}


def is_detector(runner: Runner) -> bool | None:
    """Whether the model gives boxes; None where only its answer to a picture can tell (a file of open size)."""
    return _is(runner, "detector")


def is_captioner(runner: Runner) -> bool | None:
    """Whether the model gives the words of a sentence; None where only its answer to a picture can tell."""
    return _is(runner, "captioner")


def note_outputs(runner: Runner, names: Iterable[str]) -> None:
    """Keeps what the model answers with, once that is known."""
    names = set(names)
    runner.facts.update({kind: output in names for kind, output in _OUTPUTS.items()})


def _is(runner: Runner, kind: str) -> bool | None:
    if kind not in runner.facts:
        if any(runner.facts.get(other) for other in _OUTPUTS):
            return False
        if isinstance(runner.model, keras.Function):
            outputs = runner.model.output
            note_outputs(runner, outputs if isinstance(outputs, Mapping) else ())
        elif None not in runner.input_shape[:2]:
            note_outputs(runner, black_answer(runner, runner.input_shape[:2]))
        else:
            return None
    return runner.facts[kind]
