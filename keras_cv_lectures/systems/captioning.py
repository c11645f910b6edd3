"""The captioners.

An entry holds what is peculiar to the system; what all systems of the task share stands in `_captioning`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_cv_lectures.data import caption_pairs, caption_texts
from keras_cv_lectures.data.captions import has_captions
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.evaluating import evaluate_captioning
from keras_cv_lectures.evaluating.captioning import caption_headlines
from keras_cv_lectures.language import build_show_and_tell, build_show_attend_tell
from keras_cv_lectures.language.captioner import weights_of_backbone
from keras_cv_lectures.metadata import read_metadata
from keras_cv_lectures.preprocessing import caption_batches
from keras_cv_lectures.recipe import Recipe, Reference, TrainingOptions
from keras_cv_lectures.text import Vocabulary

# The losses are the network's own, and so is their label smoothing.
_UNUSED = ("loss", "label_smoothing", "class_weights", "border_weights", "max_objects")
# What `caption_headlines` gives.
_SCORES = ("bleu1", "bleu4", "rouge_l", "cider", "exact_match", "attention_in_box", "even_in_box")


def _captioning(**more: Any) -> Recipe:
    """A recipe of captioning."""
    options = TrainingOptions(batch_size=16, input_size=(224, 224), keep_best="val_loss", clip_norm=5.0)
    defaults = {
        "options": options,
        "smoke_options": TrainingOptions(
            epochs=2,
            batch_size=2,
            input_size=(48, 64),
            warmup_epochs=0,
            learning_rate=5e-3,
            min_count=1,
            keep_best="val_loss",
        ),
        "demo_options": dataclasses.replace(
            options, epochs=12, input_size=(96, 128), learning_rate=2e-3, min_count=1, captions=1
        ),
        # Shapes are described from left to right and by their size.
        "demo_augmentation": {"flip": 0.0, "scale": (1.0, 1.0)},
        "augmentation": {"flip": 0.5, "scale": (0.9, 1.2), "brightness": 0.2, "contrast": 0.2},
        "make_batches": caption_batches,
        "keys": ("image", "annotations", "captions"),
        "add_weights": _pairs,
        "count_labels": None,
        "unused": _UNUSED,
        "make_loss": lambda options, class_weights: None,
        "make_metrics": lambda classes: [],
        "evaluate": evaluate_captioning,
        "epoch_evaluate": functools.partial(evaluate_captioning, baseline=False),
        "epoch_scores": lambda evaluation: caption_headlines(evaluation.scores),
        "epoch_score_names": _SCORES,
        "check_score": _check_score,
        "agreement": _agreement,
        "names": _words,
        "context": lambda config, options, names: {
            "vocabulary": names,
            "max_words": config.get("max_words", 20),
            "captions": options.captions,
            "captions_per_picture": options.captions_per_picture,
            "examples_per_epoch": options.steps_per_epoch and options.steps_per_epoch * options.batch_size,
        },
        "overfit_steps": 150,
        "overfit_rate": 3e-3,
    }
    return Recipe(**{**defaults, **more})


def _pairs(source, options: TrainingOptions, class_weights):
    return caption_pairs(source) if options.captions_per_picture == 1 else source


def _words(source, options: TrainingOptions) -> tuple[tuple[str, ...], tuple]:
    """The vocabulary of a training: that of a file or of another run, or of the training captions."""
    if options.vocabulary is not None:
        if Path(options.vocabulary).is_dir():
            return Vocabulary(read_metadata(options.vocabulary).classes).words, ()
        return Vocabulary.load(options.vocabulary).words, ()
    if not has_captions(source):
        return (), ()
    words = Vocabulary.build(caption_texts(source), min_count=options.min_count).words
    if len(words) <= 4:
        raise DataError(
            f"no word occurs {options.min_count} times in the captions of {source.name}. Lower min_count, or give more "
            "captions."
        )
    return words, ()


def _check_score(name: str) -> None:
    if name == "even_in_box":
        raise ValueError("`even_in_box` is of the pictures and no model changes it. Choose val_attention_in_box.")


def _agreement(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """The share of equal tokens, among those that either sentence has."""
    a, b = np.asarray(one["tokens"]), np.asarray(other["tokens"])
    said = (a > 0) | (b > 0)
    return float(np.mean((a == b)[said])) if said.any() else 1.0


def _learns_from_scratch(
    config: Mapping[str, Any],
    options: TrainingOptions,
    source: Any,
    build: Callable[..., Any] = build_show_attend_tell,
) -> dict[str, Any]:
    """A backbone with batch normalisation, unless the builder was told which one, or with which pretrained weights.

    The paper's VGG-19 has none and hardly learns from random numbers. Weights of a whole network go with the backbone
    of the run that they lie in. A builder of one's own that does not leave VGG-19 to its caller keeps its backbone.
    """
    paper = inspect.signature(build_show_attend_tell).parameters["backbone"]
    left_open = inspect.signature(build).parameters.get("backbone")
    if left_open is None or left_open.default != paper.default:
        return dict(config)
    weights = config.get("weights")
    if any(config.get(name) is not None for name in ("backbone", "backbone_weights")):
        return dict(config)
    if weights is None:
        return {**config, "backbone": "resnet14_v1_5"}
    whole = weights_of_backbone(weights)
    if whole is None:  # Of the decoder alone, which the paper's authors trained on VGG-19.
        return dict(config)
    begun = read_metadata(whole)
    if begun.config is None:
        return {**config, "backbone": "resnet14_v1_5"}
    return {**config, "backbone": begun.config.get("backbone") or paper.default}


_SMALL = {"backbone": "resnet14_v1_5", "embedding_units": 32, "units": 64, "dropout": 0.0, "max_words": 16}
_DEMO = {"backbone": "resnet14_v1_5", "embedding_units": 128, "units": 256, "dropout": 0.2, "max_words": 16}

RECIPES: tuple[Recipe, ...] = (
    _captioning(
        name="show_attend_tell",
        summary="Show, Attend and Tell: a sentence, and where the network looked for each of its words",
        build=build_show_attend_tell,
        config={},
        smoke={**_SMALL, "attention_units": 32},
        demo={**_DEMO, "attention_units": 128, "positions": True},
        fit_config=_learns_from_scratch,
        reference=Reference(
            paper="Xu et al.: Show, Attend and Tell, ICML 2015",
            year=2015,
            url="https://arxiv.org/abs/1502.03044",
            result="Flickr8k: BLEU-1 67.0, BLEU-4 19.5 (soft), 21.3 (hard); COCO: BLEU-4 24.3 (soft), 25.0 (hard); "
            "without brevity penalty",
            # The authors' decoder for COCO, without its score's bias.
            parameters=35_333_449,
            parameters_of={"freeze_backbone": True},
        ),
    ),
    _captioning(
        name="show_and_tell",
        summary="Show and Tell: a sentence from one vector of the picture",
        build=build_show_and_tell,
        config={},
        smoke=_SMALL,
        demo=_DEMO,
        reference=Reference(
            paper="Vinyals, Toshev, Bengio, Erhan: Show and Tell, CVPR 2015",
            year=2015,
            url="https://arxiv.org/abs/1411.4555",
            result="COCO: BLEU-4 27.7, METEOR 23.7, CIDEr 85.5; Flickr8k: BLEU-1 63",
            # The released code's decoder: 12,000 words, 512 units, a picture of 2048 numbers.
            parameters=15_447_776,
            parameters_of={"freeze_backbone": True},
        ),
    ),
)
