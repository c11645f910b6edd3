"""A recipe: everything about a system that the trainer, the exporter and the predictor need to know."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

LOSSES = ("cross_entropy", "dice", "jaccard", "focal", "tversky", "lovasz")
# Those of them that take weights of classes.
WEIGHTED = ("cross_entropy", "focal")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How a system is trained. Every field can be set by `kcvl train SYSTEM --set FIELD=VALUE`.

    Attributes:
        epochs: passes over the training pictures.
        batch_size: pictures a step, over all replicas and workers.
        input_size: (height, width) that pictures are resized to. None with `crop_size` is their own size, except for
            detectors and valid convolutions; otherwise it is the size that most of them have, shrunk to 512 pixels on
            the longer side.
        crop_size: (height, width) of random crops taken for training, or None to train on whole pictures.
        optimizer: "adamw", "adam", "sgd" (Nesterov off) or "rmsprop" (as Show, Attend and Tell has it on Flickr8k: 0.95
            running means of gradient and square, centred, momentum 0.9).
        learning_rate: the highest of the schedule.
        momentum: of "sgd", 0..1.
        weight_decay: not applied to biases and normalisation; of "sgd" the factor of the weights in the gradient, after
            clipping (the L2 penalty of Caffe and PyTorch), of "adamw" and "rmsprop" decoupled; "adam" has none.
        schedule: "cosine", "poly" (power 0.9), "constant", or "steps", at whose `milestones` the rate falls.
        milestones: of "steps", the epoch, or the epochs in ascending order, after which the rate is multiplied by
            `milestone_factor`; may be fractions. Faster R-CNN's 60,000 steps at 0.001 and 20,000 at 0.0001 are
            `epochs=16`, `milestones=12`; torchvision's 26 epochs have `milestones=16x22`.
        milestone_factor: of "steps".
        warmup_epochs: epochs of linear warm-up from zero; may be a fraction.
        clip_norm: largest global norm of a gradient, or None.
        accumulate: steps whose gradients are averaged before an update; not on replicas.
        precision: "float32" or "bfloat16" (mixed).
        loss: one of "cross_entropy", "dice", "jaccard", "focal", "tversky", "lovasz", or a sum such as
            "cross_entropy+dice".
        label_smoothing: of the cross entropy.
        class_weights: of cross entropy and focal loss: "none", "median_frequency" (SegNet) or "sqrt_median_frequency"
            (its square root, milder).
        border_weights: weights the border between touching objects as the U-Net paper does (w0 10, sigma 5), in every
            term of the loss; `class_weights` are then part of the map, as in the paper: w_c plus the border term. The
            validation loss is measured without the map.
        max_objects: objects of a picture that a detector is trained on; the largest are kept.
        captions: sentences of a picture that a captioner is trained on in one step; a picture with more gives others in
            the next epoch.
        captions_per_picture: "all" encodes a picture once for all its captions; 1 makes every caption an example of its
            own and batches of similar length.
        min_count: how often a word must occur in the captions to be in a captioner's vocabulary.
        cache_features: folder where what a captioner's frozen encoder says of the pictures is kept, computed once and
            trained on instead of the pictures, which are not augmented then (`run.json` keeps the augmentation of a
            training that goes on without the folder); None for pictures.
        vocabulary: file of the vocabulary (`kcvl vocab`), or the folder of a run that has it; None builds one from the
            training captions.
        steps_per_epoch: None for one pass over the pictures.
        evaluate_every: epochs after which a detector's average precision (`Recipe.epoch_scores`) is measured on the
            validation data, and after the last; 0 measures it when training is done, on the best epoch only.
        patience: epochs without a gain in `keep_best` after which training ends; None for all epochs.
        keep_best: metric that chooses the best checkpoint, such as "val_mean_iou", "val_mean_dice", or "val_ap50" with
            `evaluate_every`; falls back to the training value in a run that never had validation data.
        seed: of initial weights, order and augmentation.
    """

    epochs: int = 30
    batch_size: int = 8
    input_size: tuple[int, int] | None = None
    crop_size: tuple[int, int] | None = None
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    milestones: tuple[float, ...] | float = ()
    milestone_factor: float = 0.1
    warmup_epochs: float = 1.0
    clip_norm: float | None = None
    accumulate: int = 1
    precision: str = "float32"
    loss: str = "cross_entropy"
    label_smoothing: float = 0.0
    class_weights: str = "none"
    border_weights: bool = False
    max_objects: int = 100
    captions: int = 5
    captions_per_picture: str | int = "all"
    min_count: int = 5
    cache_features: str | None = None
    vocabulary: str | None = None
    steps_per_epoch: int | None = None
    evaluate_every: int = 0
    patience: int | None = None
    keep_best: str = "val_mean_iou"
    seed: int = 0

    def __post_init__(self):
        choices = {
            "optimizer": ("adamw", "adam", "sgd", "rmsprop"),
            "captions_per_picture": ("all", 1),
            "schedule": ("cosine", "poly", "constant", "steps"),
            "precision": ("float32", "bfloat16"),
            "class_weights": ("none", "median_frequency", "sqrt_median_frequency"),
        }
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise ValueError(f"`{field}` must be one of {allowed}. Received: {field}={getattr(self, field)!r}")
        for term in self.loss.split("+"):
            if term not in LOSSES:
                raise ValueError(f"`loss` must be a sum of {LOSSES}. Received: loss={self.loss!r}")
        for field, unused, terms in (("class_weights", "none", WEIGHTED), ("label_smoothing", 0, WEIGHTED[:1])):
            if getattr(self, field) != unused and not set(terms) & set(self.loss.split("+")):
                raise ValueError(
                    f"`{field}` has an effect on {' and '.join(terms)} only. Add such a term, or leave it out. "
                    f"Received: {field}={getattr(self, field)!r}, loss={self.loss!r}"
                )
        counts = ("epochs", "batch_size", "accumulate", "max_objects", "captions", "min_count")
        optional = (field for field in ("steps_per_epoch", "patience") if getattr(self, field) is not None)
        for field in (*counts, *optional):
            if not (isinstance(getattr(self, field), int) and getattr(self, field) >= 1):
                raise ValueError(f"`{field}` must be a positive integer. Received: {field}={getattr(self, field)!r}")
        if not (isinstance(self.evaluate_every, int) and self.evaluate_every >= 0):
            raise ValueError(
                f"`evaluate_every` must be a number of epochs, or 0. Received: evaluate_every={self.evaluate_every!r}"
            )
        for field in ("weight_decay", "warmup_epochs", "clip_norm", "seed"):
            if getattr(self, field) is not None and not getattr(self, field) >= 0:
                raise ValueError(f"`{field}` must be at least 0. Received: {field}={getattr(self, field)!r}")
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"`momentum` must be in 0..1. Received: momentum={self.momentum!r}")
        if not self.learning_rate > 0:
            raise ValueError(f"`learning_rate` must be positive. Received: learning_rate={self.learning_rate!r}")
        stones = self.falls
        numbers = all(isinstance(epoch, int | float) for epoch in stones)
        if not numbers or sorted({0, *stones}) != [0, *stones] or (self.schedule == "steps" and not stones):
            raise ValueError(
                "`milestones` must be the epochs, in ascending order, after which the rate of schedule=steps falls, "
                f"such as 12 or (8, 11). Received: milestones={self.milestones!r}, schedule={self.schedule!r}"
            )
        if not 0 < self.milestone_factor < 1:
            raise ValueError(
                "`milestone_factor` must be between 0 and 1, what the rate is multiplied by. Received: "
                f"milestone_factor={self.milestone_factor!r}"
            )
        for field in ("input_size", "crop_size"):
            value = getattr(self, field)
            if value is not None and not (len(value) == 2 and all(isinstance(v, int) and v > 0 for v in value)):
                raise ValueError(f"`{field}` must be (height, width) in pixels. Received: {field}={value!r}")

    @property
    def falls(self) -> tuple[float, ...]:
        """The `milestones`, also where there is but one."""
        return tuple(self.milestones) if isinstance(self.milestones, tuple | list) else (self.milestones,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """Where a system comes from: the paper, its year, what it published, and its parameter count.

    `parameters` holds for the builder's arguments in `parameters_of`.
    """

    paper: str
    year: int
    url: str
    result: str
    parameters: int
    parameters_of: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A system's entry in `SYSTEMS`.

    Fields that make objects with variables (`build`, `make_loss`, `make_metrics`) are factories, because variables
    must be created inside `strategy.scope()`.

    Attributes:
        name: the key in `SYSTEMS`.
        summary: one line for `kcvl list`.
        build: the builder; called as `build(input_shape, num_classes, **config)`.
        config: builder arguments of the default training.
        smoke: overrides of `config` that make a network which trains in seconds on a CPU.
        options: how it is trained by default.
        smoke_options: how the contract tests train `smoke`.
        demo: overrides of `config`, and with `demo_options` and `demo_augmentation`, overrides of `augmentation`, what
            `kcvl demo` trains on generated shapes.
        augmentation: fields of `preprocessing.Augmentation` used in training.
        make_batches: (dataset of examples, output_size=, base_size=, batch_size=, augmentation=, channels=,
            drop_remainder=, context=) -> dataset of (inputs, targets).
        context: (builder arguments, options, class names) -> what `make_batches` takes as `context`: for a network
            with valid convolutions a function from the wanted output side to (input side, margin) in pixels; for a
            detector the fields of its targets; None for the others.
        needs_one_size: builder arguments -> whether the network takes certain picture sizes only.
        fit_config: (builder arguments, options, source, `build`) -> builder arguments with what follows from the
            others, such as the size that a detector brings pictures to. `build` may be a builder of the caller's own
            that is put in its place.
        names: (source, options) -> (names, colours) of the classes that the network tells apart; for a captioner the
            words of its vocabulary.
        keys: of an example that `make_batches` reads, where the example has them.
        add_weights: (source, options, class weights or None) -> source whose examples carry pixel weights, if the
            options ask for it.
        count_labels: source -> weight of every class, for `class_weights`; None where a system has no such thing.
        make_loss: (options, class_weights or None) -> keras loss; None where the model has its own.
        make_metrics: num_classes -> list of keras metrics; their names appear in the progress bar and the history.
        evaluate: (runner, source, progress=) -> `Evaluation`, `DetectionEvaluation` or the like.
        epoch_scores: what `evaluate` returned -> name -> number, for the history of a training with `evaluate_every`;
            None where `make_metrics` measures all there is, after every epoch.
        epoch_score_names: all names that `epoch_scores` may give.
        epoch_evaluate: `evaluate` without what only a last evaluation needs, for the epochs of a training; None where
            there is no such thing.
        unused: training options and fields of the augmentation that have no effect on the system, and are refused where
            they are changed.
        check_score: raises a `ValueError` for one of `epoch_score_names` that `epoch_scores` will not give.
        check_source: raises a `DataError` for a source whose examples lack what the system learns.
        agreement: (outputs of one file, outputs of another) for the same pictures -> share of equal answers, 0..1.
        overfit_steps, overfit_rate: steps and rate of Adam by which the smoke network learns four pictures by heart.
        reference: the paper.
        stages: names of the systems that training in stages goes through, coarsest first and this one last; () where
            the paper has no such thing.
    """

    name: str
    summary: str
    build: Callable[..., Any]
    config: Mapping[str, Any]
    smoke: Mapping[str, Any]
    options: TrainingOptions
    smoke_options: TrainingOptions
    demo: Mapping[str, Any]
    demo_options: TrainingOptions
    augmentation: Mapping[str, Any]
    make_batches: Callable[..., Any]
    keys: tuple[str, ...]
    add_weights: Callable[..., Any]
    count_labels: Callable[..., Any] | None
    make_loss: Callable[..., Any]
    make_metrics: Callable[[int], list]
    evaluate: Callable[..., Any]
    agreement: Callable[[Mapping[str, Any], Mapping[str, Any]], float]
    reference: Reference
    context: Callable[[Mapping[str, Any], TrainingOptions, tuple[str, ...]], Any] = lambda config, options, names: None
    epoch_scores: Callable[[Any], Mapping[str, float]] | None = None
    epoch_score_names: tuple[str, ...] = ()
    epoch_evaluate: Callable[..., Any] | None = None
    unused: tuple[str, ...] = ()
    check_score: Callable[[str], None] = lambda name: None
    check_source: Callable[[Any], None] = lambda source: None
    needs_one_size: Callable[[Mapping[str, Any]], bool] = lambda config: False
    fit_config: Callable[..., Mapping[str, Any]] = lambda config, options, source, build=None: config
    names: Callable[[Any, TrainingOptions], tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]] = (
        lambda source, options: (source.classes, source.colors)
    )
    demo_augmentation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    stages: tuple[str, ...] = ()
    overfit_steps: int = 60
    overfit_rate: float = 1e-2


def split_settings(recipe: Recipe, settings: Mapping[str, Any], augmentation_fields: Mapping[str, Any]):
    """Sorts `option=value` settings into builder arguments, training options and augmentation fields.

    Returns:
        (config overrides, options overrides, augmentation overrides).

    Raises:
        ValueError: for a name that none of the three has, with the closest ones.
    """
    import difflib
    import inspect

    builder = [p for p in inspect.signature(recipe.build).parameters if p not in ("input_shape", "num_classes", "name")]
    options = [field.name for field in dataclasses.fields(TrainingOptions)]
    found: tuple[dict, dict, dict] = ({}, {}, {})
    for key, value in settings.items():
        for names, chosen in zip((builder, options, augmentation_fields), found, strict=True):
            if key in names:
                chosen[key] = value
                break
        else:
            if key in ("num_classes", "classes"):
                raise ValueError(
                    f"`{key}` is no option: there are as many classes as the data have. Segmentations: a file "
                    "labels=FILE names them, detectors: the annotations, captioners: the vocabulary."
                )
            known = [*builder, *options, *augmentation_fields]
            close = difflib.get_close_matches(key, known, 3)
            raise ValueError(
                f"{recipe.name} has no option `{key}`."
                + (f" Close: {', '.join(close)}." if close else "")
                + f" Network: {', '.join(builder)}. Training: {', '.join(options)}. "
                f"Augmentation: {', '.join(augmentation_fields)}."
            )
    return found
