"""What `train` refuses before it builds anything: it would fail hours later, or silently do nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_cv_lectures.data import Source
from keras_cv_lectures.data.contract import check_example
from keras_cv_lectures.data.headers import picture_sizes
from keras_cv_lectures.data.objects import without_sides
from keras_cv_lectures.errors import DataError, KcvlWarning, ModelError
from keras_cv_lectures.files import locked
from keras_cv_lectures.metadata import RUN_FILE, read_metadata, read_run
from keras_cv_lectures.preprocessing import Augmentation, resize_rule
from keras_cv_lectures.recipe import Recipe, TrainingOptions
from keras_cv_lectures.text import SPECIAL_WORDS
from keras_cv_lectures.training.callbacks import BEST, LAST, STATE
from keras_cv_lectures.training.scores import VALIDATION

# Held by the process that writes a run folder, and gone when it has ended; empty where it was killed.
LOCK = "training.lock"
# Also of one replica.
_MIRRORED = (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy)


def check_folder(out: Path, resume: bool) -> None:
    """Refuses a folder with a training that is not to be continued, or with models that cannot be."""
    if (out / STATE).exists():
        if not resume:
            raise ModelError(f"{out} already holds a training. Continue it with --resume, or choose another --out.")
        return
    models = [name for name in (BEST, LAST) if (out / name).exists()]
    # A training that was killed in its first epoch has begun the folder of its checkpoints.
    if models and not (resume and models == [BEST] and (out / STATE).parent.is_dir()):
        raise ModelError(
            f"{out} holds {' and '.join(models)} without the checkpoint that a training is continued from "
            f"({STATE}), and a new training would replace them. Choose another --out, or move the files."
        )


@contextlib.contextmanager
def sole_training(out: Path, resume: bool, *, writes: bool) -> Iterator[None]:
    """Makes `out` and keeps every other training out of it while the block lasts; leaves no empty folder.

    Args:
        out: the run folder.
        resume: as in `check_folder`, which is asked again once nobody else writes.
        writes: whether this process writes the folder; one that does not keeps nobody out.

    Raises:
        ModelError: another training writes there, or as `check_folder`.
    """

    def refuse():
        raise ModelError(
            f"another training is writing to {out}, and each would delete what the other keeps. Wait until it has "
            "ended, or choose another --out."
        )

    if not writes:
        yield
        return
    there = out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with locked(out / LOCK, refuse):
            check_folder(out, resume)
            yield
    finally:
        if not there:
            with contextlib.suppress(OSError):  # It is not empty.
                out.rmdir()


def check_sources(recipe: Recipe, train_source: Source, val_source: Source | None) -> None:
    """Refuses pictures without what `recipe` learns, those whose first example breaks what readers promise, and
    validation data whose labels mean other classes.
    """
    if len(train_source) == 0:
        raise DataError(f"{train_source.name} holds no pictures; there is nothing to train on.")
    if val_source is not None and len(val_source) == 0:
        raise DataError(
            f"{val_source.name} holds no pictures; there is nothing to validate on. Give others, or leave it out to "
            "train without validation."
        )
    for source in (train_source, val_source):
        if source is not None:
            recipe.check_source(source)
            check_example(source[0], f"{source.name}, example {source.ids[0]}")
    if val_source is None or "captions" in recipe.keys:  # The labels of captioners are words.
        return
    kind = "object_classes" if "boxes" in recipe.keys else "classes"
    learned, validated = tuple(getattr(train_source, kind)), tuple(getattr(val_source, kind))
    if learned != validated:
        raise DataError(
            f"`val_source` {val_source.name} has the {kind} {_shown(validated)}, the training data "
            f"{train_source.name} {_shown(learned)}: the same label would mean two classes. Open the validation data "
            "with like=train_source, or give both the same labels=FILE."
        )


def _shown(classes: tuple[str, ...]) -> str:
    return f"({', '.join(classes[:8])}{', ...' if len(classes) > 8 else ''}; {len(classes)})"


def check_options(recipe: Recipe, options: TrainingOptions, augmentation: Mapping[str, Any] | None = None) -> None:
    """Refuses options and fields of the augmentation that were changed and have no effect."""
    asked = Augmentation(**{**recipe.augmentation, **(augmentation or {})})
    given = dataclasses.asdict(options) | dataclasses.asdict(asked)
    usual = [
        dataclasses.asdict(recipe.options) | dataclasses.asdict(Augmentation(**recipe.augmentation)),
        dataclasses.asdict(TrainingOptions()) | dataclasses.asdict(Augmentation()),
    ]
    without = dict.fromkeys(recipe.unused, f"on {recipe.name}. Leave it out")
    if options.cache_features is not None:
        encoded = "on pictures that are encoded once, as they are. Leave it out, or train without cache_features"
        without |= dict.fromkeys(dataclasses.asdict(asked), encoded)
        usual.append(usual[1] | dataclasses.asdict(Augmentation.none()))
    if options.optimizer != "sgd":
        without["momentum"] = f"on {options.optimizer}. Choose optimizer=sgd, or leave it out"
    if options.optimizer == "adam" and options.weight_decay:
        without["weight_decay"] = "on adam, which has none. Choose optimizer=adamw, or leave it out"
    if options.schedule != "steps":
        reason = f"on schedule={options.schedule}. Choose schedule=steps, or leave it out"
        without |= dict.fromkeys(("milestones", "milestone_factor"), reason)
    if options.vocabulary is not None:
        without.setdefault("min_count", f"on the words of vocabulary={options.vocabulary}. Leave one of the two out")
    if options.captions_per_picture == 1:
        without.setdefault("captions", "where every caption is an example (captions_per_picture=1). Leave it out")
    for name, reason in without.items():
        if all(given[name] != other[name] for other in usual):
            raise ValueError(f"`{name}` has no effect {reason}. Received: {name}={given[name]!r}")


def check_network(config: Mapping[str, Any]) -> None:
    """Refuses a network for pictures that somebody else normalises: the trainer gives them as they are."""
    if not config.get("include_preprocessing", True):
        raise ValueError(
            "`include_preprocessing` must be true for a network that `train` trains: it is given pictures of 0..255, "
            "which nothing else would normalise. Leave it out, or train with `model.fit` on pictures of your own. "
            f"Received: include_preprocessing={config['include_preprocessing']!r}"
        )


def check_scores(recipe: Recipe, options: TrainingOptions, val_source: Source | None) -> None:
    """Refuses to measure during the training what cannot be measured."""
    every, monitored = options.evaluate_every, options.keep_best.removeprefix(VALIDATION)
    if every and recipe.epoch_scores is None:
        raise ValueError(
            f"{recipe.name} measures all its scores after every epoch. Leave out evaluate_every={every}, which is for "
            "systems whose scores need whole predictions, such as detectors."
        )
    if every and val_source is None:
        raise ValueError(f"evaluate_every={every} needs validation data, and there is none. Leave it out.")
    if monitored not in recipe.epoch_score_names:
        return
    if options.keep_best == monitored:
        raise ValueError(
            f"`keep_best` of a score of the validation data begins with {VALIDATION}: {VALIDATION}{monitored}. "
            f"Received: keep_best={options.keep_best!r}"
        )
    if not every:
        raise ValueError(
            f"keep_best={options.keep_best} needs evaluate_every=1 (or more), which measures it during the training."
        )
    try:
        recipe.check_score(monitored)
    except ValueError as error:
        raise ValueError(f"keep_best={options.keep_best}: {error}") from error


def check_words(weights: Any, words: tuple[str, ...]) -> None:
    """A captioner's ids are words of the vocabulary that it was trained with; of another, as large, they are others."""
    if not isinstance(weights, str | os.PathLike) or words[: len(SPECIAL_WORDS)] != SPECIAL_WORDS:
        return
    known = read_metadata(weights).classes
    if known and known != words:
        raise DataError(
            f"`weights` {weights} belongs to a run whose {len(known)} words are not the {len(words)} of this training. "
            f"Train with its vocabulary: vocabulary={Path(weights).parent}."
        )


def check_replicas(options: TrainingOptions, strategy: tf.distribute.Strategy, val_source: Source | None) -> None:
    """Refuses what TensorFlow cannot do under `strategy`."""
    replicas = strategy.num_replicas_in_sync
    if options.batch_size % replicas:
        raise ValueError(
            f"`batch_size` must be divisible by the {replicas} replicas. Received: batch_size={options.batch_size}."
        )
    if replicas > 1 and options.input_size is None and val_source is not None:
        raise ValueError(
            f"pictures of their own sizes are validated on one by one, and {replicas} replicas need as many at once. "
            "Set input_size, or train without validation data. Received: input_size=None."
        )
    if options.accumulate > 1 and isinstance(strategy, _MIRRORED):
        raise ValueError(
            "`accumulate` works without a mirrored strategy only: replicas cannot pass an update over. "
            f"Raise batch_size instead, to {options.accumulate * options.batch_size} for the same updates. Received: "
            f"accumulate={options.accumulate}."
        )


def warn_of_shared_pictures(train_source: Source, val_source: Source | None) -> None:
    """Says so where pictures to validate on are trained on."""
    if val_source is None:
        return
    shared = _shared(train_source, val_source)
    if shared:
        warnings.warn(
            f"{shared} of the {len(val_source)} pictures to validate on are trained on, too: scores on them say "
            "nothing about new pictures, and the best epoch is chosen by them. Give others to validate on.",
            KcvlWarning,
            stacklevel=3,
        )


def _shared(train_source: Source, val_source: Source) -> int:
    """Pictures of `val_source` that are in `train_source`: by their files, or by names where there are none."""
    if train_source.files is None and val_source.files is None:
        return len(set(train_source.ids) & set(val_source.ids))
    if train_source.files is None or val_source.files is None:
        return 0
    files = {os.path.abspath(train_source.files(index)[0]) for index in range(len(train_source))}
    return sum(os.path.abspath(val_source.files(index)[0]) in files for index in range(len(val_source)))


def warn_of_cut_pictures(source: Source, sizes: tuple[int, float] | None, canvas: tuple[int, int]) -> None:
    """Says so where pictures that a detector brings to `sizes` do not fit into `canvas`."""
    found = picture_sizes(source)
    brought = {size: resize_rule(size, *(sizes or (None, None))) for size in found}
    cut = sum(found[size] for size, (height, width) in brought.items() if height > canvas[0] or width > canvas[1])
    if not cut:
        return
    needed = [max(canvas[axis], *(size[axis] for size in brought.values())) for axis in (0, 1)]
    warnings.warn(
        f"input_size={canvas[0]}x{canvas[1]} (height x width) cuts {cut} of {found.total()} pictures looked at: the "
        "detector brings them to a larger size, and training and validation miss the objects that lie below or right "
        f"of it. input_size={needed[0]}x{needed[1]} holds all.",
        KcvlWarning,
        stacklevel=3,
    )


def warn_of_a_rate_that_stays(options: TrainingOptions) -> None:
    """Says so where the rate of schedule=steps never falls; a training may be continued with more epochs."""
    if options.schedule == "steps" and min(options.falls) >= options.epochs:
        warnings.warn(
            f"the rate never falls: milestones={options.milestones!r} begin when the training of epochs="
            f"{options.epochs} has ended. Choose milestones below {options.epochs}, unless it will be continued with "
            "more epochs.",
            KcvlWarning,
            stacklevel=3,
        )


def warn_of_stronger_decay(out: Path, options: TrainingOptions) -> None:
    """Says so where the run in `out`, which is continued, was begun when momentum did not amplify the decay of sgd."""
    begun = read_run(out).get("options") if (out / RUN_FILE).exists() else None
    # `milestones` came with that change.
    if not isinstance(begun, dict) or "milestones" in begun or begun.get("weight_decay") != options.weight_decay:
        return
    if options.optimizer == "sgd" and options.weight_decay and 0 < options.momentum < 1:
        kept = 1 - options.momentum
        warnings.warn(
            "this run was begun by a version whose sgd took the weight decay off beside the momentum; now it goes "
            f"through the momentum, as in PyTorch, and weighs {1 / kept:g} times as much. weight_decay="
            f"{options.weight_decay * kept:g} goes on as before.",
            KcvlWarning,
            stacklevel=3,
        )


def warn_of_unmirrored_keypoints(source: Source, augmentation: Augmentation) -> None:
    """Says so where pictures of `source` are mirrored and none of their keypoints changes places with another."""
    mirrored = augmentation.flip > 0 or augmentation.flip_vertical > 0
    known = augmentation.keypoint_flip is not None or list(source.keypoint_flip) != sorted(source.keypoint_flip)
    if mirrored and not known and (said := without_sides(source.keypoint_names)):
        warnings.warn(f"{source.name}: {said}", KcvlWarning, stacklevel=3)


__all__ = [
    "check_folder",
    "check_network",
    "check_options",
    "check_replicas",
    "check_scores",
    "check_sources",
    "check_words",
    "sole_training",
    "warn_of_a_rate_that_stays",
    "warn_of_cut_pictures",
    "warn_of_shared_pictures",
    "warn_of_stronger_decay",
    "warn_of_unmirrored_keypoints",
]
