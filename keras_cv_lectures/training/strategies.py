"""`tf.distribute` strategies by name."""

from __future__ import annotations

import json
import os

import tensorflow as tf

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.serving import require_tensorflow

STRATEGIES = ("none", "mirrored", "multiworker")


def make_strategy(name: str) -> tf.distribute.Strategy:
    """Strategy by name; call it before anything else touches TensorFlow, which then finds its devices configured.

    Args:
        name: "none" (one device), "mirrored" (all GPUs of this machine; without any, every logical CPU) or
            "multiworker" (the processes that `TF_CONFIG` names).

    Raises:
        ModelError: for "multiworker" without a usable `TF_CONFIG`, with an example of one, and on another backend.
        ValueError: for another name.
    """
    require_tensorflow("The trainer")
    if name == "none":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        gpus = tf.config.list_logical_devices("GPU")
        devices = gpus or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    if name == "multiworker":
        _check_tf_config()
        return tf.distribute.MultiWorkerMirroredStrategy()
    raise ValueError(f"`strategy` must be one of {STRATEGIES}. Received: strategy={name!r}")


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the files: always, but for the workers after the first."""
    resolver = strategy.cluster_resolver if hasattr(strategy, "cluster_resolver") else None
    if resolver is None or resolver.task_type is None:
        return True
    workers = resolver.cluster_spec().as_dict()
    return resolver.task_type == "chief" or ("chief" not in workers and resolver.task_id == 0)


def _check_tf_config() -> None:
    example = '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": {"type": "worker", "index": 0}}'
    text = os.environ.get("TF_CONFIG", "")
    try:
        config = json.loads(text)
        workers = config["cluster"].get("worker", []) + config["cluster"].get("chief", [])
        valid = len(workers) > 0 and "index" in config["task"] and "type" in config["task"]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        valid = False
    if not valid:
        raise ModelError(
            "strategy multiworker needs the environment variable TF_CONFIG, the same cluster in every process and "
            f"another index in each, such as {example}. Received: TF_CONFIG={text!r}"
        )
