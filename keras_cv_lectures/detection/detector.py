"""The model class of the region-based detectors: one functional graph to detect, the same layers to train.

`fit` trains it as it is: the losses come from `compute_loss`, the targets are padded to a fixed number of objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import keras
from keras import ops

from keras_cv_lectures.detection.graph import DetectorSettings, Graph
from keras_cv_lectures.detection.training import DetectionLosses
from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.parts import ModelOfParts
from keras_cv_lectures.replicas import as_measured, replica_count

_PARTS = ("backbone", "rpn", "box", "mask", "keypoint")
_NOISE = 0
# Whether losses are measured, which need no detections. Of a thread: replicas are traced in threads of their own.
_MEASURES: ContextVar[bool] = ContextVar("measures", default=False)


@keras.saving.register_keras_serializable("keras_cv_lectures")
class Detector(ModelOfParts):
    """Faster R-CNN, Mask R-CNN or Keypoint R-CNN, put together from its parts.

    Input: (B, H, W, C) pictures in 0..255 of one size, uint8 or float32; or a dict of `image` (B, H, W, C), pictures at
    the network's own scale at the top left of a canvas, and `size` (B, 2), their heights and widths.
    Output: a dict of fixed sizes, ordered by descending score: `boxes` (B, D, 4) in the given picture's pixels,
    `scores` (B, D), `labels` (B, D) int32 from 0 and -1 behind the last, `count` (B,) int32; with a mask head `masks`
    (B, D, 28, 28), probabilities inside each box; with a keypoint head `keypoints` (B, D, K, 3), x, y and score.

    Targets of `fit`: a dict of `boxes` (B, N, 4) in the pixels of the given picture, `labels` (B, N) int32 with
    -1 for padding; for masks `masks` (B, N, M, M) and `mask_windows` (B, N, 4), the boxes that the M x M crops cover;
    for keypoints `keypoints` (B, N, K, 3), x, y, visibility. A picture without objects has nothing but padding.
    `preprocessing.detection_batches` makes inputs and targets. Which anchors and regions the losses are of is drawn:
    anew for every step of training, and by the same numbers in every evaluation.

    The losses, each also a metric of its name: `loss_objectness`, `loss_rpn_box_reg`, `loss_classifier`,
    `loss_box_reg` and, with the head, `loss_mask` and `loss_keypoint`. `compile(loss_weights={"loss_mask": 0.5})` says
    how much one counts in their sum, else 1; `compile` takes neither `loss` nor metrics: `evaluate_detection` measures.

    A copy is `type(model).from_config(model.get_config())` with `copy.set_weights(model.get_weights())`;
    `keras.models.clone_model` makes a plain functional model, which cannot be trained.

    Args:
        backbone: picture (normalised) -> dict of maps, finest first.
        rpn, box, mask, keypoint: heads (see `detection.heads`); the last two may be None.
        settings: fields of `DetectorSettings`.
        input_shape: (H or None, W or None, C).
        convention: of `layers.ImageNormalization`.
    """

    # How it is computed and what it is trained on; the 2015 network has others.
    graph_class = Graph
    losses_class = DetectionLosses
    measured_by = "`kcvl.evaluate_detection`"

    def __init__(
        self,
        backbone: keras.Model,
        rpn: keras.Model,
        box: keras.Model,
        mask: keras.Model | None = None,
        keypoint: keras.Model | None = None,
        *,
        settings: Mapping[str, Any] | DetectorSettings,
        input_shape: tuple[int | None, int | None, int] = (None, None, 3),
        convention: str = "torch",
        name: str = "detector",
        **kwargs,
    ):
        settings = settings if isinstance(settings, DetectorSettings) else DetectorSettings(**settings)
        graph = self.graph_class(backbone, rpn, box, mask, keypoint, settings=settings, convention=convention)
        image = keras.Input(tuple(input_shape), name="image")
        super().__init__(image, graph.detect(image), name=name, **kwargs)
        self.graph = graph
        self.losses_of = self.losses_class(graph)
        # A dict with sizes is as good an input as a tensor.
        self.input_spec = None
        self._arguments = {"input_shape": tuple(input_shape), "convention": convention}
        self.loss_trackers = {name: keras.metrics.Mean(name=name) for name in self.losses_of.names}
        self.noise = keras.random.SeedGenerator(_NOISE)

    @property
    def loss_parts(self) -> tuple[str, ...]:
        return tuple(self.loss_trackers)

    def call(self, inputs, training=None, mask=None):
        if training or _MEASURES.get():
            return self.graph.dense(inputs, training=bool(training))
        return self.graph.detect(inputs)

    def test_step(self, *arguments):
        """As Keras's, on what the losses are of and not on detections."""
        token = _MEASURES.set(True)
        try:
            return super().test_step(*arguments)
        finally:
            _MEASURES.reset(token)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Sum of the system's losses, each of which is also a metric of its name.

        Raises:
            ModelError: with sample weights, or without the targets that the heads need.
        """
        self._check_targets(y)
        if sample_weight is not None:
            raise ModelError(
                "`sample_weight` has no meaning for a detector, whose losses are means over anchors and regions. Leave "
                "it out; objects with the label -1 and pictures without objects are passed over or count as background."
            )
        dense = y_pred if training or "maps" in y_pred else self.graph.dense(x, training=False)
        # A number draws the same in every evaluation, and leaves the stream of the training as it is.
        seed = self.noise if training else _NOISE
        losses = self.losses_of(dense, self.graph.fit_targets(x, dense, y), seed=seed, training=training)
        replicas, pictures = replica_count(), ops.shape(y["labels"])[0]
        if not training:
            losses = {name: as_measured(value, pictures) for name, value in losses.items()}
        for name, value in losses.items():
            # Each replica's value is its share of a sum; of the replicas' metrics Keras takes the mean.
            self.loss_trackers[name].update_state(value * replicas, ops.cast(pictures, "float32"))
        total = sum(self.part_weight(name) * value for name, value in losses.items())
        return total + sum(ops.cast(loss, "float32") / replicas for loss in self.losses)

    def _check_targets(self, y):
        needed = ["boxes", "labels"]
        needed += ["masks", "mask_windows"] if self.graph.mask is not None else []
        needed += ["keypoints"] if self.graph.keypoint is not None else []
        if not isinstance(y, Mapping) or set(needed) - set(y):
            received = sorted(y) if isinstance(y, Mapping) else type(y).__name__
            raise ModelError(
                f"{self.name} is fitted and evaluated with targets, a dict of {', '.join(needed)}, as its class "
                f"describes them and `preprocessing.detection_batches` makes them. Received: {received}"
            )

    @property
    def torch_names(self) -> dict[str, str]:
        """torchvision's module path of each layer with weights, by the layer's name."""
        names = {}
        for part in (self.graph.box, self.graph.mask, self.graph.keypoint):
            names |= {layer.name: f"roi_heads.{layer.name}" for layer in part.layers} if part is not None else {}
        body = next((layer for layer in self.graph.backbone.layers if isinstance(layer, keras.Model)), None)
        if body is not None:
            names |= {layer.name: f"backbone.body.{layer.name}" for layer in body.layers}
        return names

    def get_config(self):
        parts = {name: getattr(self.graph, name) for name in _PARTS}
        return {
            **{name: part and keras.saving.serialize_keras_object(part) for name, part in parts.items()},
            "settings": self.graph.settings.to_json(),
            "name": self.name,
            **self._arguments,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for name in _PARTS:
            if config[name] is not None:
                config[name] = keras.saving.deserialize_keras_object(config[name], custom_objects)
        config["input_shape"] = tuple(config["input_shape"])
        return cls(**config)


__all__ = ["Detector"]
