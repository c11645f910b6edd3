"""The base of models that bring their own losses: what they minimise is a sum of parts with names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras

from keras_cv_lectures.errors import ModelError


class ModelOfParts(keras.Model):
    """A model whose `compute_loss` gives a sum of `loss_parts`, and whose `compile` takes weights of them.

    Keras leaves `loss_weights` out of account where there is no `loss`, does not ask a `compute_loss` of one's own for
    `loss`, and gives metrics what such a model says in training, which are no predictions.

    `keras.models.clone_model` makes a plain functional model of it, without its losses. A copy that can be trained:

        copy = type(model).from_config(model.get_config())
        copy.set_weights(model.get_weights())
    """

    # What measures predictions of the whole model; where the messages send those who give metrics.
    measured_by = ""
    weights_of_parts: Mapping[str, float] = {}

    @property
    def loss_parts(self) -> tuple[str, ...]:
        """Names of what the loss is the sum of."""
        raise NotImplementedError

    def part_weight(self, name: str) -> float:
        """What `compile` was given for the part, 1 where nothing."""
        return self.weights_of_parts.get(name, 1.0)

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Mapping[str, float] | None = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        **settings: Any,
    ) -> None:
        """As Keras's, without `loss` and metrics.

        Args:
            loss_weights: name of a part of the loss -> factor, 1 for those that are not named. The history has the
                parts without it.

        Raises:
            ModelError: `loss` or metrics are given, or `loss_weights` are no numbers by names of parts.
        """
        if loss is not None:
            raise ModelError(
                f"{self.name} brings its losses itself: {', '.join(self.loss_parts)}. Received: loss={loss!r}. Leave "
                "`loss` out; `loss_weights` says by their names how much each counts."
            )
        for argument, given in (("metrics", metrics), ("weighted_metrics", weighted_metrics)):
            if given:
                raise ModelError(
                    f"{self.name} takes no `{argument}`: in training it makes no predictions to measure. Received: "
                    f"{argument}={given!r}. Leave it out, and measure the trained model with {self.measured_by}."
                )
        if loss_weights is not None:
            if not self._weighs_parts(loss_weights):
                raise ModelError(
                    f"`loss_weights` must be numbers by names of {self.name}'s losses, which are "
                    f"{', '.join(self.loss_parts)}. Received: loss_weights={loss_weights!r}"
                )
            loss_weights = dict(loss_weights)
        super().compile(optimizer, loss_weights=loss_weights, **settings)
        self.weights_of_parts = loss_weights or {}

    def compile_from_config(self, config):
        # Keras's own does so only where `compile` is its own.
        config = dict(keras.saving.deserialize_keras_object(config))
        # Files of earlier versions may hold what had no effect then and is refused now.
        dropped = ["loss", "metrics", "weighted_metrics"]
        if config.get("loss") is not None or not self._weighs_parts(config.get("loss_weights")):
            dropped.append("loss_weights")
        self.compile(**{name: value for name, value in config.items() if name not in dropped})
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def _weighs_parts(self, loss_weights: Any) -> bool:
        """Whether `loss_weights` are numbers by names of parts."""
        named = isinstance(loss_weights, Mapping) and not set(loss_weights) - set(self.loss_parts)
        return named and all(isinstance(w, int | float) and math.isfinite(w) for w in loss_weights.values())


__all__ = ["ModelOfParts"]
