"""What a model answers with, known before it is asked where that is possible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras

from keras_cv_lectures.postprocessing.detection import are_detections
from keras_cv_lectures.predicting.tiled import black_answer
from keras_cv_lectures.runners import Runner

# As `Runner.facts` keeps them.
_KINDS = ("detector", "captioner")


def is_detector(runner: Runner) -> bool | None:
    """Whether the model gives what `are_detections` knows; None where only an answer can tell (a file of open size)."""
    return _is(runner, "detector")


def is_captioner(runner: Runner) -> bool | None:
    """Whether the model gives the words of a sentence; None where only its answer to a picture can tell."""
    return _is(runner, "captioner")


def note_outputs(runner: Runner, shapes: Mapping[str, Sequence[int | None]]) -> None:
    """Keeps what the model answers with, once its outputs' shapes are known; by name."""
    runner.facts.update(detector=are_detections(shapes), captioner="tokens" in shapes)


def _is(runner: Runner, kind: str) -> bool | None:
    if kind not in runner.facts:
        if any(runner.facts.get(other) for other in _KINDS):
            return False
        if isinstance(runner.model, keras.Function):
            outputs = runner.model.output
            outputs = outputs if isinstance(outputs, Mapping) else {}
            note_outputs(runner, {name: tuple(getattr(output, "shape", ())) for name, output in outputs.items()})
        elif None not in runner.input_shape[:2]:
            note_outputs(runner, black_answer(runner, runner.input_shape[:2]))
        else:
            return None
    return runner.facts[kind]
