"""Training in stages, coarse to fine: FCN-32s, then 16s, then 8s, each from the best weights of the one before.

Long, Shelhamer and Darrell, CVPR 2015, section 4.2: https://arxiv.org/abs/1411.4038.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_cv_lectures.data import Source
from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.recipe import Recipe, TrainingOptions
from keras_cv_lectures.training.callbacks import BEST
from keras_cv_lectures.training.checks import check_folder
from keras_cv_lectures.training.loop import TrainingRun, train
from keras_cv_lectures.training.strategies import make_strategy
from keras_cv_lectures.weights import copy_weights


def train_staged(
    stages: Mapping[str, Recipe],
    train_source: Source,
    val_source: Source | None = None,
    *,
    out: str | os.PathLike,
    options: TrainingOptions | None = None,
    rate_factor: float = 0.1,
    strategy: str | tf.distribute.Strategy = "none",
    resume: bool = False,
    on_stage: Callable[[str], None] | None = None,
    record: Mapping[str, Any] | None = None,
    **settings: Any,
) -> list[TrainingRun]:
    """Trains the networks of `stages` one after the other, each from the best weights of the one before.

    Layers of equal name and shapes are copied. Of the others the score layers (`score...`) start at zero, so that a
    finer network begins where the coarser one ended (its upsampling apart), and the rest as its builder made it.

    Differs from the paper: the learning rate falls to a tenth from stage to stage, not to a hundredth, which suits
    shorter trainings.

    Args:
        stages: folder name -> recipe, coarsest first, such as `{"32s": ..., "16s": ..., "8s": ...}`.
        train_source, val_source: of every stage, as in `train`.
        out: every stage writes the run folder `out/NAME`; the last is the result.
        options: of every stage; by default those of its recipe. `epochs` counts for each stage.
        rate_factor: factor on the learning rate from one stage to the next.
        strategy: as in `train`.
        resume: finished stages are kept, one that was begun continues from its checkpoint, the others are trained.
        on_stage: called with a stage's name before it starts.
        record: more to write into every `run.json`, which also gets "stage" and "started_from".
        settings: `config`, `augmentation`, `channels`, `callbacks` and `verbose`, as in `train`; `config` goes to all
            builders.

    Returns:
        What `train` returned for each stage.

    Raises:
        ValueError: no stage, or a `rate_factor` that is not positive.
        ModelError: a stage fits no layer of the one before, or as `train`.
        DataError: as `train`.
    """
    if not stages:
        raise ValueError("`stages` must name at least one recipe. Received: stages={}")
    if not rate_factor > 0:
        raise ValueError(f"`rate_factor` must be positive. Received: rate_factor={rate_factor!r}")
    folders = {name: Path(out) / name for name in stages}
    for folder in folders.values():
        check_folder(folder, resume)  # Before the first stage, not hours later.
    strategy = make_strategy(strategy) if isinstance(strategy, str) else strategy

    runs, before = [], None
    for index, (name, recipe) in enumerate(stages.items()):
        if on_stage is not None:
            on_stage(name)
        chosen = options or recipe.options
        if before is not None:
            source = keras.saving.load_model(before, compile=False)
            recipe = dataclasses.replace(recipe, build=_started_from(source, recipe.build))
        run = train(
            recipe,
            train_source,
            val_source,
            out=folders[name],
            options=dataclasses.replace(chosen, learning_rate=chosen.learning_rate * rate_factor**index),
            strategy=strategy,
            resume=resume,
            record={**(record or {}), "stage": name, "started_from": None if before is None else str(before)},
            **settings,
        )
        _wait_for_all(strategy)
        runs.append(run)
        before = run.folder / BEST
    return runs


def start_from(source: keras.Model, target: keras.Model) -> list[str]:
    """Copies what `target` shares with `source`; score layers that it has alone are set to zero.

    Returns:
        Names of the layers with weights that `source` does not have in this shape.

    Raises:
        ModelError: if the two share no layer.
    """
    copied, new = copy_weights(source, target)
    if not copied:
        raise ModelError(
            f"{target.name!r} cannot start from {source.name!r}: they share no layer of equal name and shapes. Build "
            "both with the same widths and classes."
        )
    for layer in target.layers:
        if layer.name.startswith("score") and layer.name in new:
            layer.set_weights([np.zeros(w.shape, w.dtype) for w in layer.weights])
    return new


def _started_from(source: keras.Model, build: Callable[..., keras.Model]) -> Callable[..., keras.Model]:
    @functools.wraps(build)
    def started(*args: Any, **config: Any) -> keras.Model:
        model = build(*args, **config)
        start_from(source, model)
        return model

    return started


def _wait_for_all(strategy: tf.distribute.Strategy) -> None:
    """The first worker writes the weights that all start the next stage from: nobody reads before it has."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return
    strategy.reduce("SUM", strategy.run(tf.function(lambda: tf.ones([]))), axis=None)


__all__ = ["start_from", "train_staged"]
