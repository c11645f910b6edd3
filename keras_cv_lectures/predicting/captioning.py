"""Captioners on pictures of any size: what they see of each, and the words of what they say."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from keras_cv_lectures.errors import DataError, ModelError
from keras_cv_lectures.metadata import labels_file
from keras_cv_lectures.predicting.caption_result import CaptionResult
from keras_cv_lectures.predicting.detecting import open_run
from keras_cv_lectures.predicting.pictures import read_picture, resize_picture, with_channels
from keras_cv_lectures.runners import Outputs, Runner
from keras_cv_lectures.text import END, PAD, START, Vocabulary

_NEEDED = {"tokens": 2, "length": 1, "log_probability": 1}


def caption(
    runner: Runner, images: Iterable[Any], *, batch_size: int = 1, classes: Sequence[str] | Vocabulary | None = None
) -> Iterator[CaptionResult]:
    """A caption of each picture; the arguments are those of `predict`.

    A captioner that takes one size, or was trained at one, gets each picture resized to it, aspect not kept, so that
    its attention covers the whole picture; any other gets the picture as it is.

    Args:
        classes: the words in the order of their ids, the four special ones included, or a `Vocabulary`; None takes the
            ones beside the file.

    Raises:
        ModelError: the model is no captioner, its words are not known, or they are not the ones that it was made for.
    """
    vocabulary = vocabulary_of(runner, classes)
    height, width = runner.input_shape[:2]
    size = (height, width) if height and width else runner.metadata.input_size
    run = open_run(runner)
    images = iter(images)
    while batch := [read_picture(image) for image in itertools.islice(images, batch_size if size else 1)]:
        adapted = [with_channels(picture, runner.input_shape[2]) for picture, _ in batch]
        outputs = run(np.stack([resize_picture(p, size or p.shape[:2]) for p in adapted]))
        check_captioner(outputs)
        for index, (picture, name) in enumerate(batch):
            yield _result(outputs, index, picture, name, vocabulary)


def vocabulary_of(runner: Runner, classes: Sequence[str] | Vocabulary | None = None) -> Vocabulary:
    """The words of a captioner: those asked for, those of its metadata, or those in the text file of an export.

    That file lies beside a `.tflite`, and in the folder of a SavedModel.

    Raises:
        ModelError: there are none, they are no vocabulary, or there are not as many as the model was made for.
    """
    exported = runner.path is not None and runner.kind in ("tflite", "saved_model")
    beside = labels_file(runner.path) if exported else None
    try:
        if isinstance(classes, Vocabulary):
            vocabulary = classes
        elif classes is not None or runner.metadata.classes:
            vocabulary = Vocabulary(tuple(runner.metadata.classes if classes is None else classes))
        elif beside is not None and beside.exists():
            vocabulary = Vocabulary.load(beside)
        else:
            raise ModelError(
                f"the words of {runner.path or 'the model'} are not known: it gives numbers. Pass "
                "classes=Vocabulary.load(FILE) with the vocabulary that it was trained with, or load it from its run "
                "folder."
            )
    except DataError as error:
        raise ModelError(f"{'`classes`' if classes is not None else 'the words beside the model'}: {error}") from error
    # The decoder's own number: an export has none, but says an id that is too high sooner or later.
    wanted = getattr(getattr(runner.model, "decoder", runner.model), "vocabulary_size", None)
    if wanted is not None and wanted != len(vocabulary):
        raise ModelError(
            f"the model was made for {wanted} words, the vocabulary has {len(vocabulary)}. Pass the vocabulary that it "
            "was trained with."
        )
    return vocabulary


def check_captioner(outputs: Outputs) -> None:
    """Raises a ModelError where outputs are not those of a captioner."""
    shapes = {name: tuple(np.shape(value)) for name, value in outputs.items()}
    if not all(len(shapes.get(name, ())) == rank for name, rank in _NEEDED.items()):
        raise ModelError(
            "expected a captioner with the outputs tokens (B, T), length (B,) and log_probability (B,). Received: "
            f"{shapes}."
        )
    if "attention" in shapes and (len(shapes["attention"]) != 4 or shapes["attention"][:2] != shapes["tokens"]):
        raise ModelError(
            f"attention must be (B, T, h, w), one map for each of the tokens {shapes['tokens']}. Received: "
            f"{shapes['attention']}."
        )


def _result(outputs: Outputs, index: int, picture: np.ndarray, name: str, vocabulary: Vocabulary) -> CaptionResult:
    tokens = np.asarray(outputs["tokens"][index]).astype(np.int32)
    ends = np.flatnonzero(tokens == END)
    emitted = np.arange(len(tokens)) < (ends[0] if len(ends) else len(tokens))
    places = np.flatnonzero(emitted & (tokens != PAD) & (tokens != START))
    if tokens.max(initial=0) >= len(vocabulary) or tokens.min(initial=0) < 0:
        raise ModelError(
            f"the model said word {tokens.max()}, but the vocabulary has {len(vocabulary)} words (0 to "
            f"{len(vocabulary) - 1}). Pass the vocabulary that the model was trained with."
        )
    attention = outputs.get("attention")
    return CaptionResult(
        image=picture,
        words=tuple(vocabulary.words[token] for token in tokens[places].tolist()),
        tokens=tokens[places],
        log_probability=float(outputs["log_probability"][index]),
        ended=bool(len(ends)),
        attention=None if attention is None else np.asarray(attention[index][places], np.float32),
        name=name,
    )
