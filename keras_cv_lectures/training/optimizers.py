"""Optimizers and learning-rate schedules from `TrainingOptions`."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from keras_cv_lectures.recipe import TrainingOptions
from keras_cv_lectures.replicas import replica_count


def make_optimizer(options: TrainingOptions, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """The optimizer that `options` describe, its schedule counted in steps of this training."""
    common = {
        "learning_rate": make_schedule(options, steps_per_epoch),
        "global_clipnorm": options.clip_norm,
        "gradient_accumulation_steps": options.accumulate if options.accumulate > 1 else None,
    }
    decay = options.weight_decay or None
    kind, settings = {
        "sgd": (PenalizedSGD, {"momentum": float(options.momentum), "weight_decay": decay}),
        "rmsprop": (
            keras.optimizers.RMSprop,
            {"rho": 0.95, "momentum": 0.9, "centered": True, "epsilon": 1e-4, "weight_decay": decay},
        ),
        "adam": (keras.optimizers.Adam, {}),
        "adamw": (keras.optimizers.AdamW, {"weight_decay": options.weight_decay}),
    }[options.optimizer]
    if options.clip_norm is not None and replica_count() > 1:
        kind = _clipping_sums(kind)
    optimizer = kind(**settings, **common)
    if options.optimizer != "adam" and options.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


@keras.saving.register_keras_serializable("keras_cv_lectures")
class PenalizedSGD(keras.optimizers.SGD):
    """SGD whose weight decay is the gradient of an L2 penalty, as in Caffe, PyTorch and the papers that use them.

    It is added after clipping and goes through the momentum: over many steps a weight loses `1 / (1 - momentum)` times
    the share `learning_rate * weight_decay` of it that Keras's own SGD takes off beside the momentum.
    """

    def _apply_weight_decay(self, variables):
        pass

    def update_step(self, gradient, variable, learning_rate):
        if self.weight_decay is not None and self._use_weight_decay(variable):
            decay = keras.ops.multiply(variable, keras.ops.cast(self.weight_decay, variable.dtype))
            gradient = keras.ops.add(keras.ops.cast(gradient, variable.dtype), decay)
        super().update_step(gradient, variable, learning_rate)


def _clipping_sums(kind: type[keras.optimizers.Optimizer]) -> type[keras.optimizers.Optimizer]:
    """The optimizer with the norm of the whole gradient clipped: Keras clips what each replica adds to it."""

    class Clipping(kind):
        def _clip_gradients(self, grads):
            return grads

        def _all_reduce_sum_gradients(self, grads_and_vars):
            pairs = super()._all_reduce_sum_gradients(grads_and_vars)
            clipped = super()._clip_gradients([gradient for gradient, _ in pairs])
            return [(gradient, variable) for gradient, (_, variable) in zip(clipped, pairs, strict=True)]

    return Clipping


def make_schedule(options: TrainingOptions, steps_per_epoch: int):
    """Rate over steps: linear warm-up from zero, then cosine or poly (power 0.9) to zero, steps down, or constant."""
    total = max(1, options.epochs * steps_per_epoch)
    warmup = min(round(options.warmup_epochs * steps_per_epoch), total - 1)
    if options.schedule == "cosine":
        return keras.optimizers.schedules.CosineDecay(
            0.0 if warmup else options.learning_rate,
            total - warmup,
            warmup_target=options.learning_rate if warmup else None,
            warmup_steps=warmup,
        )
    if options.schedule == "steps":
        falls = [round(epoch * steps_per_epoch) for epoch in options.falls]
        return Steps(options.learning_rate, warmup, falls, options.milestone_factor)
    return WarmUp(options.learning_rate, warmup, total, 0.9 if options.schedule == "poly" else 0.0)


def stand_at(optimizer: keras.optimizers.Optimizer, step: int) -> None:
    """Lets the schedule of `optimizer` go on from `step`, however many steps it has taken already.

    For a training that is continued with another number of steps in an epoch: its schedule counts those of the new
    epochs. What else depends on the steps taken, such as Adam's bias correction, stays as it is.
    """
    # Not `iterations`, which counts updates: with accumulated gradients several steps make one.
    offset = step - int(keras.ops.convert_to_numpy(optimizer._iterations))
    if offset:
        optimizer.learning_rate = Shifted(optimizer._learning_rate, offset)


@keras.saving.register_keras_serializable("keras_cv_lectures")
class Shifted(keras.optimizers.schedules.LearningRateSchedule):
    """`schedule` at `offset` steps later than the step it is asked for."""

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule, offset: int):
        self.schedule, self.offset = schedule, offset

    def __call__(self, step):
        return self.schedule(step + self.offset)

    def get_config(self):
        return {"schedule": keras.saving.serialize_keras_object(self.schedule), "offset": self.offset}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["schedule"]), config["offset"])


@keras.saving.register_keras_serializable("keras_cv_lectures")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then `rate * (1 - progress) ** power`; power 0 is a constant rate, 0.9 the poly of DeepLab."""

    def __init__(self, rate: float, warmup_steps: int, total_steps: int, power: float):
        self.rate, self.warmup_steps, self.total_steps, self.power = rate, warmup_steps, total_steps, power

    def __call__(self, step):
        ops = keras.ops
        step = ops.cast(step, "float32")
        progress = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        decayed = self.rate * (1.0 - ops.clip(progress, 0.0, 1.0)) ** self.power
        return ops.where(step < self.warmup_steps, self.rate * step / max(1, self.warmup_steps), decayed)

    def get_config(self):
        return {
            "rate": self.rate,
            "warmup_steps": self.warmup_steps,
            "total_steps": self.total_steps,
            "power": self.power,
        }


@keras.saving.register_keras_serializable("keras_cv_lectures")
class Steps(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then `rate`, multiplied by `factor` from each of the steps `falls` on."""

    def __init__(self, rate: float, warmup_steps: int, falls: Sequence[int], factor: float):
        self.rate, self.warmup_steps, self.falls, self.factor = rate, warmup_steps, list(falls), factor

    def __call__(self, step):
        ops = keras.ops
        step = ops.cast(step, "float32")
        fallen = ops.sum(ops.cast(step >= ops.convert_to_tensor(self.falls, "float32"), "float32"))
        warm = ops.minimum(step / max(1, self.warmup_steps), 1.0) if self.warmup_steps else 1.0
        return self.rate * warm * self.factor**fallen

    def get_config(self):
        return {
            "rate": self.rate,
            "warmup_steps": self.warmup_steps,
            "falls": self.falls,
            "factor": self.factor,
        }
