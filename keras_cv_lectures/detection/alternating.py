"""Four-step alternating training of Faster R-CNN, the way its paper was trained.

Ren, He, Girshick, Sun, "Faster R-CNN", NeurIPS 2015, section 3.2: https://arxiv.org/abs/1506.01497.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras

from keras_cv_lectures.detection.detector import Detector
from keras_cv_lectures.detection.graph import Graph
from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.weights import set_weights

STEPS = ("rpn", "detector", "rpn_shared", "detector_shared")
_RPN = ("loss_objectness", "loss_rpn_box_reg")


def train_alternating(
    model: Detector,
    data: Any,
    *,
    optimizer: Callable[[], keras.optimizers.Optimizer],
    epochs: int | Sequence[int] = 1,
    validation_data: Any = None,
    on_step: Callable[[str], None] | None = None,
    **options: Any,
) -> dict[str, dict[str, list[float]]]:
    """Trains `model` in the four steps of the paper, one network's half at a time:

    1. "rpn": backbone and proposal network, from the backbone's initial weights;
    2. "detector": a second backbone from the same initial weights, and the heads, on the proposals of step 1;
    3. "rpn_shared": the proposal network alone goes on, on the backbone of step 2;
    4. "detector_shared": the heads alone go on, on the same backbone and the proposals of step 3.

    What results is one network, with the backbone of step 2, compiled anew for all losses. The
    `loss_weights` that it was compiled with hold in every step and after. Joint training (`model.fit`)
    is shorter and the default everywhere else; it takes the proposals as given, too.

    Paper: https://arxiv.org/abs/1506.01497, section 3.2. Differs from the paper: proposals are computed anew for every
    batch and not once for all pictures, so augmentation may be random; in step 3 the proposal network's own layers
    continue from step 1, where the paper starts from the detector network of step 2, which has no such layers.

    Args:
        model: freshly built, with or without pretrained weights of the backbone. What is frozen in it stays frozen.
        data: batches of (inputs, targets) for `fit`, re-iterable, such as `detection_batches(...)`.
        optimizer: makes a new optimizer for each step.
        epochs: of every step, or four numbers. The paper's proportions are 2 : 1 : 2 : 1.
        validation_data: as of `fit`; a step's validation losses are its own.
        on_step: called with a step's name before it starts.
        options: of `fit`, such as `verbose` and `callbacks`.

    Returns:
        For each step the losses that it minimised, by name, one number an epoch, `val_` ones too. The progress bar of
        `fit` shows zero for the others.

    Raises:
        ValueError: for epochs that are neither one number nor four.
        ModelError: for a model that is no `Detector`.
    """
    if not isinstance(model, Detector):
        raise ModelError(
            f"`model` must be a Detector, such as build_faster_rcnn returns. Received: {type(model).__name__}"
        )
    epochs = (epochs,) * len(STEPS) if isinstance(epochs, int) else tuple(epochs)
    if len(epochs) != len(STEPS) or min(epochs) < 0:
        raise ValueError(f"`epochs` must be one number or four, none negative. Received: epochs={epochs!r}")

    other = model.from_config(model.get_config())
    set_weights(other, model.get_weights())
    options = {"shuffle": False, **options}  # Keras warns of True, its default, where the batches are given.
    weights = dict(model.weights_of_parts) or None
    regions = tuple(name for name in model.losses_of.names if name not in _RPN)
    history = {}

    def run(network: Detector, fixed: Sequence[keras.Model], losses: tuple[str, ...], proposer: Graph | None = None):
        step, count = STEPS[len(history)], epochs[len(history)]
        if on_step is not None:
            on_step(step)
        with _only(network, losses, proposer), _fixed(fixed):
            # XLA has neither the sparse product of RoIAlign nor the suppression of boxes.
            network.compile(optimizer(), loss_weights=weights, jit_compile=False)
            # Or TensorFlow traces the step twice.
            network.optimizer.build(network.trainable_variables)
            found = network.fit(data, epochs=count, validation_data=validation_data, **options).history
        shown = {*losses, *(f"val_{name}" for name in losses)}
        history[step] = {name: values for name, values in found.items() if name in shown}

    try:
        run(model, _heads(model), _RPN)
        run(other, [other.graph.rpn], regions, proposer=model.graph)
        trained, shared = ([m.graph.backbone, *_heads(m)] for m in (other, model))
        for source, target in zip(trained, shared, strict=True):
            set_weights(target, source.get_weights())
        run(model, shared, _RPN)
        run(model, [model.graph.backbone, model.graph.rpn], regions)
    finally:
        # What Keras traced for a step is for its losses and its part of the network alone.
        model.compile(optimizer(), loss_weights=weights, jit_compile=False)
    return history


class _ChosenLosses:
    """Some of a detector's losses, for the proposals of a network that may be another one.

    What the others need is left out of the step's graph by TensorFlow, because nothing depends on it.
    """

    def __init__(self, losses: Callable[..., dict[str, Any]], names: tuple[str, ...], proposer: Graph | None):
        self.losses, self.names, self.proposer = losses, names, proposer

    def __call__(self, dense: dict[str, Any], targets: dict[str, Any], *, seed, training: bool) -> dict[str, Any]:
        if self.proposer is not None:
            maps = self.proposer.backbone(dense["picture"], training=False)
            answers = [self.proposer.rpn(level, training=False) for level in maps.values()]
            dense = {**dense, "logits": [x for x, _ in answers], "deltas": [x for _, x in answers]}
        found = self.losses(dense, targets, seed=seed, training=training)
        return {name: found[name] for name in self.names}


@contextlib.contextmanager
def _only(model: Detector, names: tuple[str, ...], proposer: Graph | None) -> Iterator[None]:
    """Within, `fit` minimises the losses of `names` alone."""
    every = model.losses_of
    model.losses_of = _ChosenLosses(every, names, proposer)
    try:
        yield
    finally:
        model.losses_of = every


@contextlib.contextmanager
def _fixed(models: Iterable[keras.Model]) -> Iterator[None]:
    """Within, the layers of `models` are not trained, and their batch normalisation is a constant."""
    before = [(layer, layer.trainable) for model in models for layer in _leaves(model)]
    for layer, _ in before:
        layer.trainable = False
    try:
        yield
    finally:
        for layer, trainable in before:
            layer.trainable = trainable


def _leaves(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer)
        else:
            yield layer


def _heads(model: Detector) -> list[keras.Model]:
    """What looks at single regions."""
    return [head for head in (model.graph.box, model.graph.mask, model.graph.keypoint) if head is not None]


__all__ = ["STEPS", "train_alternating"]
