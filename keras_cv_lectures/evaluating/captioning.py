"""Scores of a captioner, from whatever kind of file, on a source of pictures with captions."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_cv_lectures.data import Source
from keras_cv_lectures.errors import DataError, ModelError
from keras_cv_lectures.evaluating.classes import Progress
from keras_cv_lectures.metrics.captions import caption_scores, cider_d, rouge_l
from keras_cv_lectures.metrics.constant_caption import best_constant
from keras_cv_lectures.metrics.grounding import attention_inside, pointing_hits
from keras_cv_lectures.predicting import CaptionResult, as_runner, predict
from keras_cv_lectures.runners import Runner
from keras_cv_lectures.text import Vocabulary, as_text, tokenize


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionEvaluation:
    """Scores over a source.

    Attributes:
        scores: ready for JSON: `bleu1` ... `bleu4`, `rouge_l` (0..1) and `cider` (CIDEr-D, 0..10) of
            `metrics.caption_scores`, with `java` also `meteor` and `spice`; `exact_match`, the share of pictures whose
            caption is word for word one of the references. Where pictures say which word names which box and the model
            has attention: `attention_in_box`, the mean share of its attention that lies inside the box while it says
            the right word; `attention_peak_in_box`, how often the location that counts most does; and to compare with
            `even_in_box`, the mean share of the picture that these boxes cover.
        constant: the same of `constant_caption`; {} where it was left out.
        constant_caption: the one of the references that has the highest BLEU-4 if it is said about every picture. A
            larger set to choose from, such as the training captions, may hold a better one: `best_constant_caption`.
        captions: what was said about each picture, in the order of the source.
        picture_cider: CIDEr-D of each picture, 0 of a single one.
        picture_rouge_l: ROUGE-L of each picture.
        grounded_words: number of words that the scores of attention are the mean of.
        distinct: number of different captions that were said.
        references: number of captions that were compared with.
        pictures: number of pictures.
        seconds: of predicting and scoring.
    """

    scores: dict[str, float]
    constant: dict[str, float]
    constant_caption: str
    captions: list[str]
    picture_cider: list[float]
    picture_rouge_l: list[float]
    grounded_words: int
    distinct: int
    references: int
    pictures: int
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConstantCaption:
    """One caption for all pictures, and its scores: those of `metrics.caption_scores`, and `exact_match`."""

    caption: str
    scores: dict[str, float]


def evaluate_captioning(
    model: keras.Model | Runner | str | os.PathLike,
    source: Source,
    *,
    progress: Progress | None = None,
    batch_size: int = 8,
    classes: Sequence[str] | Vocabulary | None = None,
    java: bool = False,
    baseline: bool = True,
) -> CaptionEvaluation:
    """Describes every picture of `source` and compares with the captions that people wrote.

    Args:
        model: a captioner, a runner, or the path of a run folder, `.keras` file, SavedModel or `.tflite`.
        source: pictures (not the features of `training.cache_features`) with `captions`; `boxes` and `caption_objects`
            (for each word of the first caption the row of its box, or -1), where there are any, tell where attention
            should lie.
        progress: called with (done, total) after every picture.
        batch_size: pictures that the network sees at once, where it sees all at one size.
        classes: the vocabulary; None takes the one beside the file.
        java: METEOR and SPICE too, see `metrics.caption_scores`.
        baseline: compute `constant` too.

    Raises:
        DataError: there is nothing to compare with, or there are no pictures.
        ModelError: the model is no captioner, its words are not known or do not fit, or Java is missing.
    """
    started = time.perf_counter()
    _check_source(source)
    if "image" not in source[0]:
        raise DataError(
            f"{source.name} has no pictures, only what an encoder said of them (`cache_features`). A model is "
            "evaluated on pictures: give the source that the features were made of."
        )
    runner = as_runner(model)
    said: list[tuple[str, ...]] = []
    references: list[list[list[str]]] = []
    grounding = _Grounding()
    for example, result in _described(runner, source, batch_size, classes):
        words = [tokenize(as_text(text)) for text in example["captions"]]
        if not any(words):
            raise DataError(f"{source.name}: {source.ids[len(said)]} has no caption to compare with. Leave it out.")
        said.append(result.words)
        references.append(words)
        grounding.add(example, words[0], result)
        if progress is not None:
            progress(len(said), len(source))
    scores = caption_scores(said, references, java=java)
    scores["exact_match"] = _exact_match(said, references)
    constant = _best_constant(references, None) if baseline else ConstantCaption(caption="", scores={})
    return CaptionEvaluation(
        scores=scores | grounding.scores(),
        constant=constant.scores,
        constant_caption=constant.caption,
        captions=[" ".join(words) for words in said],
        picture_cider=cider_d(said, references).tolist(),
        picture_rouge_l=rouge_l(said, references).tolist(),
        grounded_words=len(grounding.inside),
        distinct=len(set(said)),
        references=sum(len(each) for each in references),
        pictures=len(source),
        seconds=time.perf_counter() - started,
    )


def best_constant_caption(source: Source, *, candidates: Iterable[str] | None = None) -> ConstantCaption:
    """The one caption that has the highest BLEU-4 if it is said about every picture of `source`.

    Args:
        source: pictures with captions; they are not opened where the source knows its captions without.
        candidates: captions to choose from, such as those of the training pictures (`train_source.texts()`); None takes
            those of `source` itself.

    Raises:
        DataError: a picture has no caption.
    """
    if source.captions_at is not None:
        texts = [source.captions_at(index) for index in range(len(source))]
    else:
        _check_source(source)
        texts = [example.get("captions", ()) for example in source]
    return _best_constant([[tokenize(as_text(text)) for text in each] for each in texts], candidates)


def caption_headlines(scores: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that a captioner is judged by during its training and in lists of files.

    Args:
        scores: of a `CaptionEvaluation`.
    """
    names = ("bleu1", "bleu4", "rouge_l", "cider", "exact_match", "attention_in_box", "even_in_box")
    return {name: float(scores[name]) for name in names if scores.get(name) is not None}


class _Grounding:
    """Collects how much of the attention lies in the boxes of the words that are said."""

    def __init__(self):
        self.inside: list[float] = []
        self.hits: list[bool] = []
        self.even: list[float] = []

    def add(self, example: Mapping[str, Any], words: Sequence[str], result: CaptionResult) -> None:
        """A word counts where it is said at the place that it has in the reference, so that its box is beyond doubt."""
        if result.attention is None or not {"caption_objects", "boxes"} <= set(example):
            return
        objects = np.asarray(example["caption_objects"])
        if len(objects) != len(words):
            raise DataError(
                f"`caption_objects` must hold one number for each of the {len(words)} words of the first caption. "
                f"Received: {len(objects)}."
            )
        said = zip(words, result.words, objects.tolist(), strict=False)
        places = [place for place, (wanted, word, row) in enumerate(said) if row >= 0 and word == wanted]
        boxes = np.asarray(example["boxes"], np.float64).reshape(-1, 4)[objects[places]]
        maps = result.attention[places]
        self.inside += attention_inside(maps, boxes, result.size).tolist()
        self.even += attention_inside(np.ones_like(maps), boxes, result.size).tolist()
        self.hits += pointing_hits(maps, boxes, result.size).tolist()

    def scores(self) -> dict[str, float]:
        known = [share for share in self.inside if np.isfinite(share)]
        if not known:
            return {}
        return {
            "attention_in_box": float(np.mean(known)),
            "attention_peak_in_box": float(np.mean(self.hits)),
            "even_in_box": float(np.mean(self.even)),
        }


def _described(
    runner: Runner, source: Source, batch_size: int, classes: Sequence[str] | Vocabulary | None
) -> Iterator[tuple[Mapping[str, Any], CaptionResult]]:
    """Each example and what the model says about it."""
    examples, pictures = itertools.tee(source)
    results = predict(runner, (example["image"] for example in pictures), batch_size=batch_size, classes=classes)
    for example, result in zip(examples, results, strict=True):
        if not isinstance(result, CaptionResult):
            raise ModelError(
                f"{runner.path or 'the model'} is no captioner. Score it with evaluate_segmentation or "
                "evaluate_detection, on data with masks or boxes."
            )
        yield example, result


def _check_source(source: Source) -> None:
    if len(source) == 0:
        raise DataError(f"{source.name} holds no pictures; there is nothing to evaluate.")
    if "captions" not in source[0]:
        raise DataError(
            f"{source.name} has no captions to compare with. Give pictures with sentences, such as flickr:DIR, "
            "cococaptions:JSON,IMAGES or captions:CSV,IMAGES."
        )


def _exact_match(said: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> float:
    pairs = zip(said, references, strict=True)
    return float(np.mean([list(words) in [list(each) for each in known if each] for words, known in pairs]))


def _best_constant(references: list[list[list[str]]], candidates: Iterable[str] | None) -> ConstantCaption:
    known = [words for each in references for words in each if words] if candidates is None else list(candidates)
    best = best_constant(known, references)
    said = [best] * len(references)
    scores = caption_scores(said, references) | {"exact_match": _exact_match(said, references)}
    return ConstantCaption(caption=" ".join(best), scores=scores)
