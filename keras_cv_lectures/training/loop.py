"""The one trainer: `model.fit` under a strategy, resumable, reproducible by seed."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_cv_lectures.data import Source, cached, data_error, to_dataset, wait_for_readers
from keras_cv_lectures.errors import DataError, ModelError
from keras_cv_lectures.files import write_json, write_text
from keras_cv_lectures.metadata import RUN_FILE, Metadata
from keras_cv_lectures.preprocessing import Augmentation
from keras_cv_lectures.recipe import Recipe, TrainingOptions
from keras_cv_lectures.training.callbacks import BEST, LAST, STATE, Checkpoints, StopOnNaN, save_model
from keras_cv_lectures.training.multiworker import repair_fit
from keras_cv_lectures.training.optimizers import make_optimizer
from keras_cv_lectures.training.strategies import is_chief, make_strategy


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """What a training left behind.

    Attributes:
        folder: the run folder: `best.keras`, `last.keras`, `run.json`, `history.csv`, `checkpoint/`.
        model: the model after the last epoch.
        history: one dict an epoch: loss and metrics, "val_" for validation, "seconds".
        seconds: of training in this process.
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
        config: builder arguments, over the recipe's.
        options: how to train; the recipe's by default.
        augmentation: fields of `Augmentation`, over the recipe's.
        channels: of the pictures: 3 (colour) or 1 (grey).
        strategy: "none", "mirrored", "multiworker" (from `TF_CONFIG`), or a strategy.
        resume: continue from the last checkpoint in `out`; starts anew where there is none.
        callbacks: more Keras callbacks.
        verbose: as in `model.fit`.
        record: more to write into `run.json`.

    Raises:
        DataError: for pictures or masks that cannot be trained on, naming the file.
        ModelError: for a NaN loss, a checkpoint that does not fit, a full folder without `resume`, or a worker of the
            cluster that went away.
    """
    out = Path(out)
    options = options or recipe.options
    _check_folder(out, resume)
    if len(train_source) == 0:
        raise DataError(f"{train_source.name} holds no pictures; there is nothing to train on.")
    keras.utils.set_random_seed(options.seed)
    strategy = make_strategy(strategy) if isinstance(strategy, str) else strategy
    if options.batch_size % strategy.num_replicas_in_sync:
        raise ValueError(
            f"`batch_size` must be divisible by the {strategy.num_replicas_in_sync} replicas. "
            f"Received: batch_size={options.batch_size}."
        )
    chief = is_chief(strategy)
    config = {**recipe.config, **(config or {})}
    augment = Augmentation(**{**recipe.augmentation, **(augmentation or {})})

    train_source = recipe.add_weights(cached(train_source), options)
    class_weights = _class_weights(recipe, train_source, options)
    steps = options.steps_per_epoch or math.ceil(len(train_source) / options.batch_size)
    with strategy.scope(), _precision(options.precision):
        model = repair_fit(recipe.build((None, None, channels), len(train_source.classes), **config))
        model.compile(
            optimizer=make_optimizer(options, steps),
            loss=recipe.make_loss(options, class_weights),
            metrics=recipe.make_metrics(len(train_source.classes)),
            # XLA on CPUs makes convolution networks slower; on GPUs Keras decides.
            jit_compile="auto" if tf.config.list_physical_devices("GPU") else False,
        )
        model.optimizer.build(model.trainable_variables)
        checkpoints = Checkpoints(out, monitor=options.keep_best, seed=options.seed, writes=chief)
        first_epoch = checkpoints.restore(model) if resume else 0

    metadata = Metadata(
        system=recipe.name,
        classes=train_source.classes,
        colors=train_source.colors,
        input_size=options.input_size,
        config=config,
    )
    if chief:
        write_json(
            out / RUN_FILE,
            {
                **metadata.to_json(),
                "channels": channels,
                "options": dataclasses.asdict(options),
                "augmentation": dataclasses.asdict(augment),
                "class_weights": class_weights,
                "parameters": model.count_params(),
                "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
                **(record or {}),
            },
        )
        write_text(out / "train_ids.txt", "\n".join(train_source.ids) + "\n")

    batches = recipe.make_batches(
        to_dataset(
            train_source,
            shuffle=True,
            seed=options.seed,
            first_epoch=first_epoch,
            epochs=options.epochs,
            examples_per_epoch=steps * options.batch_size,
            keys=_keys(recipe, train_source),
        ),
        output_size=options.crop_size or options.input_size,
        base_size=options.input_size,
        batch_size=options.batch_size,
        augmentation=augment,
        channels=channels,
        drop_remainder=True,
        context=recipe.context(config),
    )
    started = time.perf_counter()
    if first_epoch < options.epochs:
        with _readable_errors(strategy):
            model.fit(
                _sharded(batches),
                epochs=options.epochs,
                initial_epoch=first_epoch,
                steps_per_epoch=steps,
                validation_data=_validation(recipe, val_source, options, channels, config),
                callbacks=[StopOnNaN(), *callbacks, *_tensorboard(out, chief), checkpoints],
                verbose=verbose if chief else 0,
                shuffle=False,
            )
    if chief:
        save_model(model, out / LAST)
        if not (out / BEST).exists():
            save_model(model, out / BEST)
    return TrainingRun(
        folder=out,
        model=model,
        history=checkpoints.history,
        seconds=time.perf_counter() - started,
        chief=chief,
    )


def _validation(recipe, source, options, channels, config):
    if source is None or len(source) == 0:
        return None
    # Whole pictures, one at a time where they may differ in size.
    batch_size = options.batch_size if options.input_size else 1
    return _sharded(
        recipe.make_batches(
            to_dataset(cached(source), shuffle=False, seed=0, epochs=1, keys=_keys(recipe, source)),
            output_size=options.input_size,
            base_size=options.input_size,
            batch_size=batch_size,
            augmentation=None,
            channels=channels,
            drop_remainder=False,
            context=recipe.context(config),
        )
    )


def _keys(recipe: Recipe, source: Source) -> tuple[str, ...]:
    first = source[0]
    return tuple(key for key in recipe.keys if key in first)


def _class_weights(recipe: Recipe, source: Source, options: TrainingOptions) -> list[float] | None:
    if options.class_weights == "none":
        return None
    weights = recipe.count_labels(source)
    power = 0.5 if options.class_weights.startswith("sqrt") else 1.0
    return [float(w) ** power for w in weights]


def _sharded(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Every worker reads all pictures and keeps its share of each global batch: the batches of one process."""
    options = tf.data.Options()
    # Threads of its own: readers are Python, and where they fill TensorFlow's pool of two (on two cores) while a step
    # waits for a batch of another data set, nothing moves any more.
    options.threading.private_threadpool_size = 4
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return dataset.with_options(options)


@contextlib.contextmanager
def _precision(name: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if name == "bfloat16" else "float32")
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


def _tensorboard(out: Path, chief: bool) -> list[Callable]:
    import importlib.util

    if not chief or importlib.util.find_spec("tensorboard") is None:
        return []
    return [keras.callbacks.TensorBoard(out / "tensorboard", write_graph=False)]


def _check_folder(out: Path, resume: bool) -> None:
    if not resume and (out / STATE).exists():
        raise ModelError(f"{out} already holds a training. Continue it with --resume, or choose another --out.")
