"""The one trainer: `model.fit` under a strategy, resumable, reproducible by seed."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_cv_lectures.data import Source, cached, data_error, to_dataset, wait_for_readers
from keras_cv_lectures.data.captions import most_captions
from keras_cv_lectures.data.trained_on import picture_root
from keras_cv_lectures.errors import DataError, KcvlWarning, ModelError
from keras_cv_lectures.files import read_json, write_json, write_text
from keras_cv_lectures.metadata import RUN_FILE, Metadata, read_run
from keras_cv_lectures.preprocessing import Augmentation
from keras_cv_lectures.recipe import Recipe, TrainingOptions
from keras_cv_lectures.runners import load_runner, machine, versions
from keras_cv_lectures.training.callbacks import BEST, LAST, Checkpoints, StopOnNaN, save_model, tensorboard
from keras_cv_lectures.training.checks import (
    check_folder,
    check_network,
    check_options,
    check_replicas,
    check_scores,
    check_sources,
    check_words,
    sole_training,
    warn_of_a_rate_that_stays,
    warn_of_cut_pictures,
    warn_of_shared_pictures,
    warn_of_stronger_decay,
    warn_of_unmirrored_keypoints,
)
from keras_cv_lectures.training.features import trained_on_features
from keras_cv_lectures.training.feeding import keys_of, sharded, validation_batches
from keras_cv_lectures.training.multiworker import repair_fit
from keras_cv_lectures.training.optimizers import make_optimizer, stand_at
from keras_cv_lectures.training.scores import VALIDATION, EpochScores
from keras_cv_lectures.training.sizes import input_size, shrunk_by
from keras_cv_lectures.training.strategies import is_chief, make_strategy


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """What a training left behind.

    Attributes:
        folder: the run folder: `best.keras`, `last.keras`, `run.json`, `history.csv`, `checkpoint/`.
        model: the model after the last epoch.
        history: one dict an epoch: "epoch", loss and metrics, "val_" for validation; and after the epochs that
            `evaluate_every` names such as "val_ap50".
        seconds: of training, over all parts of a run that was continued.
        chief: whether this process writes the folder; one of several workers does.
    """

    folder: Path
    model: keras.Model
    history: list[dict[str, float]]
    seconds: float
    chief: bool


def train(
    recipe: Recipe,
    train_source: Source,
    val_source: Source | None = None,
    *,
    out: str | os.PathLike,
    config: Mapping[str, Any] | None = None,
    options: TrainingOptions | None = None,
    augmentation: Mapping[str, Any] | None = None,
    channels: int = 3,
    strategy: str | tf.distribute.Strategy = "none",
    resume: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int | str = "auto",
    record: Mapping[str, Any] | None = None,
) -> TrainingRun:
    """Trains `recipe` on `train_source` and writes a run folder.

    The order of the pictures, their augmentation and the random layers depend on (seed, epoch, index) alone, so a run
    that was killed and resumed ends where an uninterrupted one ends.

    Args:
        recipe: the system, `SYSTEMS[name]`.
        train_source: pictures with what the system learns.
        val_source: the same of other pictures, measured after every epoch; None for none.
        out: the run folder, see `TrainingRun`; made where it does not exist.
        config: builder arguments, over the recipe's.
        options: how to train; the recipe's by default. Without `input_size` and `crop_size` pictures are brought to the
            size that most of them have, shrunk to 512 pixels on the longer side; a `KcvlWarning` says so where that
            changes a picture.
        augmentation: fields of `Augmentation`, over the recipe's.
        channels: of the pictures: 3 (colour), 1 (grey) or any other number.
        strategy: "none", "mirrored", "multiworker" (from `TF_CONFIG`), or a strategy.
        resume: continue from the last checkpoint in `out`; starts anew where there is none. The learning rate goes on
            where the schedule of `options` has it after that epoch, also with another number of steps in an epoch.
        callbacks: more Keras callbacks.
        verbose: as in `model.fit`.
        record: more to write into `run.json`.

    Raises:
        ValueError: options that exclude each other, such as `keep_best` by a score that is not measured, or that the
            system or the strategy cannot do anything with.
        DataError: for pictures or masks that cannot be trained on, naming the file.
        ModelError: for a NaN loss, a checkpoint that does not fit, a full folder without `resume` or one that another
            training writes to, models that no checkpoint goes with, or a worker of the cluster that went away.
    """
    out = Path(out)
    options = options or recipe.options
    val_source = None if val_source is None else cached(val_source)
    check_folder(out, resume)
    check_options(recipe, options, augmentation)
    check_network({**recipe.config, **(config or {})})
    check_scores(recipe, options, val_source)
    check_sources(recipe, train_source, val_source)
    options, size_told = input_size(recipe, train_source, options, config, out if resume else None)
    keras.utils.set_random_seed(options.seed)
    strategy = make_strategy(strategy) if isinstance(strategy, str) else strategy
    check_replicas(options, strategy, val_source)
    chief = is_chief(strategy)
    if chief:
        if size_told:
            warnings.warn(size_told, KcvlWarning, stacklevel=2)
        warn_of_shared_pictures(train_source, val_source)
        warn_of_a_rate_that_stays(options)
    config = _fitted(recipe, {**recipe.config, **(config or {})}, options, train_source, out if resume else None)
    classes, colors = recipe.names(train_source, options)
    if not classes:
        raise DataError(
            f"{train_source.name} has no classes that {recipe.name} could learn. Detectors need data with boxes, "
            "segmentation needs masks, captioners need captions."
        )
    check_words(config.get("weights"), classes)
    if chief and "boxes" in recipe.keys:
        warn_of_cut_pictures(train_source, recipe.context(config, options, classes)["sizes"], options.input_size)
    augment = Augmentation(**{**recipe.augmentation, **(augmentation or {})})
    if chief and "keypoints" in recipe.keys:
        warn_of_unmirrored_keypoints(train_source, augment)
    if train_source.keypoint_flip and augment.keypoint_flip is None:
        augment = dataclasses.replace(augment, keypoint_flip=tuple(train_source.keypoint_flip))

    pictures = train_source if options.cache_features else cached(train_source)
    class_weights = weigh_classes(recipe, pictures, options)
    train_source = recipe.add_weights(pictures, options, class_weights)
    steps = options.steps_per_epoch or math.ceil(len(train_source) / options.batch_size)
    with strategy.scope(), _precision(options.precision):
        model = repair_fit(recipe.build((None, None, channels), len(classes), **config))
        loss = recipe.make_loss(options, class_weights)
        if loss is not None and isinstance(model.output, dict):
            raise ModelError(
                f"{model.name} has the outputs {', '.join(model.output)}, and the trainer gives one target. Build it "
                "with one output, or train it with `model.fit` and a loss for each output."
            )
        model.compile(
            optimizer=make_optimizer(options, steps),
            loss=loss,
            metrics=recipe.make_metrics(len(classes)) or None,
            jit_compile=_jit_compile(recipe, options),
        )
        # What is restored needs its variables, and TensorFlow would trace the step twice.
        model.optimizer.build(model.trainable_variables)
    checkpoints = Checkpoints(
        out,
        monitor=options.keep_best,
        seed=options.seed,
        writes=chief,
        patience=options.patience,
        # One of the caller's callbacks may measure it after an epoch.
        sometimes=bool(callbacks) or options.keep_best.removeprefix(VALIDATION) in recipe.epoch_score_names,
    )
    with sole_training(out, resume, writes=chief):
        with strategy.scope():
            first_epoch = checkpoints.restore(model) if resume else 0
            if first_epoch:
                stand_at(model.optimizer, first_epoch * steps)
        if chief and 0 < first_epoch < options.epochs:
            warn_of_stronger_decay(out, options)
        if chief and val_source is None and first_epoch < options.epochs and checkpoints.was_validated():
            warnings.warn(
                f"the epochs so far were judged by {options.keep_best}, and without validation data none of those to "
                f"come is: {BEST} stays as it is. Give `val_source` (--val) to go on choosing.",
                KcvlWarning,
                stacklevel=2,
            )
        described, asked = val_source, augment
        if options.cache_features:
            told = verbose if chief else 0
            pictures, described = trained_on_features(model, options, pictures, val_source, verbose=told)
            train_source, augment = recipe.add_weights(pictures, options, class_weights), Augmentation.none()

        metadata = Metadata(
            system=recipe.name,
            classes=classes,
            colors=colors,
            input_size=options.input_size,
            config=_told(config),
            shrunk_by=shrunk_by(pictures, options.input_size) if "mask" in recipe.keys else None,
            keypoint_names=train_source.keypoint_names if "keypoints" in recipe.keys else (),
        )
        if chief:
            write_json(
                out / RUN_FILE,
                {
                    **metadata.to_json(),
                    "channels": channels,
                    "options": _told(dataclasses.asdict(options)),
                    "augmentation": dataclasses.asdict(asked),
                    "class_weights": class_weights,
                    "parameters": model.count_params(),
                    "versions": versions(),
                    "machine": machine(),
                    "seconds": round(checkpoints.seconds_before, 1),
                    "train_root": picture_root(pictures),
                    "kept": checkpoints.kept,
                    **(record or {}),
                },
            )
            write_text(out / "train_ids.txt", "\n".join(pictures.ids) + "\n")

        captions = options.captions
        if "captions" in recipe.keys and options.captions_per_picture == "all":
            # Rows that no picture fills would be computed all the same.
            captions = most_captions(train_source, val_source, limit=captions)

        def context(steps):
            used = dataclasses.replace(options, steps_per_epoch=steps, captions=captions)
            return recipe.context(config, used, classes)

        batches = recipe.make_batches(
            to_dataset(
                train_source,
                shuffle=True,
                seed=options.seed,
                first_epoch=first_epoch,
                epochs=options.epochs,
                examples_per_epoch=steps * options.batch_size,
                keys=keys_of(recipe, train_source),
            ),
            output_size=options.crop_size or options.input_size,
            base_size=options.input_size,
            batch_size=options.batch_size,
            augmentation=augment,
            channels=channels,
            drop_remainder=True,
            context=context(steps),
        )
        checkpoints.started = time.perf_counter()
        if first_epoch < options.epochs and not checkpoints.without_gain(validated=val_source is not None):
            with _readable_errors(strategy), warnings.catch_warnings():
                # Keras says so of validation data whose batches cannot be counted beforehand.
                warnings.filterwarnings("ignore", message="Your input ran out of data")
                model.fit(
                    sharded(batches),
                    epochs=options.epochs,
                    initial_epoch=first_epoch,
                    steps_per_epoch=steps,
                    validation_data=validation_batches(recipe, described, options, channels, context(None)),
                    callbacks=[
                        StopOnNaN(),
                        *_scores(recipe, options, model, val_source, metadata, strategy),
                        *callbacks,
                        *tensorboard(out, chief),
                        checkpoints,
                    ],
                    verbose=verbose if chief else 0,
                    shuffle=False,
                )
        if chief:
            save_model(model, out / LAST)
            if not (out / BEST).exists():
                save_model(model, out / BEST)
            write_json(out / RUN_FILE, {**read_json(out / RUN_FILE), "kept": checkpoints.kept})
    return TrainingRun(
        folder=out,
        model=model,
        history=checkpoints.history,
        seconds=checkpoints.seconds,
        chief=chief,
    )


def _fitted(
    recipe: Recipe, config: Mapping[str, Any], options: TrainingOptions, source: Source, continued: Path | None
) -> dict[str, Any]:
    """Builder arguments with what the recipe adds to them; to a run in the folder `continued` nothing that it lacked.

    What `run.json` tells of a run is complete: there the builder's own defaults made the rest of the network.
    """
    fitted = dict(recipe.fit_config(config, options, source, recipe.build))
    begun = read_run(continued).get("config") if continued and (continued / RUN_FILE).exists() else None
    if begun is None:
        return fitted
    return {name: value for name, value in fitted.items() if name in config or name in begun}


def _jit_compile(recipe: Recipe, options: TrainingOptions) -> str | bool:
    """XLA on CPUs makes convolution networks slower; on GPUs Keras decides, where it has to compile but once.

    It compiles for every shape: pictures of their own sizes are validated on as they are, and batches of captions are
    as long as their longest one.
    """
    one_shape = options.input_size is not None and "captions" not in recipe.keys
    return "auto" if one_shape and tf.config.list_physical_devices("GPU") else False


def _scores(recipe, options, model, source, metadata, strategy) -> list[EpochScores]:
    """What measures the model on whole predictions, if the options ask for it."""
    if not options.evaluate_every:
        return []
    # One for all epochs: it keeps what it prepared for each picture size.
    runner = dataclasses.replace(load_runner(model), metadata=metadata)
    monitored = options.keep_best.removeprefix(VALIDATION)
    return [
        EpochScores(
            lambda: recipe.epoch_scores((recipe.epoch_evaluate or recipe.evaluate)(runner, source)),
            recipe.epoch_score_names,
            every=options.evaluate_every,
            epochs=options.epochs,
            strategy=strategy,
            needed=monitored if monitored in recipe.epoch_score_names else None,
        )
    ]


def _told(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` for `run.json`: paths as texts; a model (one's own backbone) by its name, it is in `best.keras`."""
    told = {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in settings.items()}
    return {key: f"model {value.name}" if isinstance(value, keras.Model) else value for key, value in told.items()}


def weigh_classes(recipe: Recipe, source: Source, options: TrainingOptions) -> list[float] | None:
    """A weight for every class of `source` as `options.class_weights` asks for them; None for none."""
    if options.class_weights == "none":
        return None
    weights = recipe.count_labels(source)
    power = 0.5 if options.class_weights.startswith("sqrt") else 1.0
    return [float(w) ** power for w in weights]


_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


@contextlib.contextmanager
def _precision(name: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(_POLICIES[name])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@contextlib.contextmanager
def _readable_errors(strategy) -> Iterator[None]:
    """Turns TensorFlow's wrapping of our errors, and its words for a lost worker, into ours."""
    try:
        try:
            yield
        except BaseException:
            # While the exception still holds the iterator: its destructor would block on a reader at work.
            wait_for_readers()
            raise
    except tf.errors.UnavailableError as error:
        raise ModelError(
            "a worker of the cluster went away. The last checkpoint is kept: start all workers again with --resume. "
            f"({str(error).splitlines()[0]})"
        ) from error
    except tf.errors.OpError as error:
        message = data_error(error)
        if message is None:
            raise
        raise DataError(message) from error
    except OSError as error:
        raise ModelError(
            f"the run could not be written: {error}. Free space or choose another --out; the last complete "
            "checkpoint is kept, and --resume continues from it."
        ) from error
