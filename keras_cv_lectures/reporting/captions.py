"""The report of a captioner: what is kept of its scores, and pictures with what was said and where it looked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_cv_lectures.data import Source
from keras_cv_lectures.evaluating import CaptionEvaluation
from keras_cv_lectures.predicting import predict
from keras_cv_lectures.reporting.pictures import shown_image
from keras_cv_lectures.reporting.runs import without_nan
from keras_cv_lectures.runners import Runner
from keras_cv_lectures.text import as_text
from keras_cv_lectures.visualize import CaptionPicture

_SHOWN = 4


def captions_json(evaluation: CaptionEvaluation, source: Source) -> dict[str, Any]:
    """What `evaluation.json` and `scores.json` keep."""
    return {
        "data": source.name,
        "scores": without_nan(evaluation.scores),
        "constant": without_nan(evaluation.constant),
        "constant_caption": evaluation.constant_caption,
        "captions": evaluation.captions,
        "picture_cider": without_nan(evaluation.picture_cider),
        "picture_rouge_l": without_nan(evaluation.picture_rouge_l),
        "grounded_words": evaluation.grounded_words,
        "distinct": evaluation.distinct,
        "references": evaluation.references,
        "pictures": evaluation.pictures,
    }


def caption_pages(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `write_caption_report` that `captions_json` knows."""
    return {
        "scores": evaluation.get("scores"),
        "constant": evaluation.get("constant"),
        "constant_caption": evaluation.get("constant_caption", ""),
    }


def caption_examples(
    runner: Runner, source: Source, evaluation: Mapping[str, Any]
) -> tuple[list[CaptionPicture], list[CaptionPicture]]:
    """The best and the worst pictures of an evaluation, described again."""
    cider = np.array([0.0 if v is None else v for v in evaluation.get("picture_cider", ())], float)
    rouge = np.array([0.0 if v is None else v for v in evaluation.get("picture_rouge_l", ())], float)
    if len(cider) != len(source) or len(rouge) != len(source):
        return [], []
    order = np.lexsort((-rouge, -cider)).tolist()
    shown = min(_SHOWN, (len(order) + 1) // 2)

    def example(index: int) -> CaptionPicture:
        found = source[index]
        result = predict(runner, found["image"])
        return CaptionPicture(
            name=source.ids[index],
            image=shown_image(found["image"]),
            words=result.words,
            references=[as_text(text) for text in found["captions"]],
            attention=result.attention,
            log_probability=result.log_probability,
            scores={"CIDEr-D": float(cider[index]), "ROUGE-L": float(rouge[index])},
        )

    return [example(i) for i in order[:shown]], [example(i) for i in order[::-1][: min(shown, len(order) - shown)]]
