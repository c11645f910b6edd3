"""A frozen backbone: training changes the head alone, also after the model was saved and read again."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.backbones import resnet_v1_5
from keras_cv_lectures.errors import KcvlWarning
from keras_cv_lectures.segmentation import build_deeplab, build_fcn, build_unet


def _narrow():
    return resnet_v1_5((1, 1, 1, 1), (2, 2, 2, 2), stem=4)


def _of_backbone(network) -> set[int]:
    nested = [x for x in network.layers if x.name == "backbone"]
    layers = nested or [x for x in network.layers if x.name.startswith("conv")]
    return {id(v) for layer in layers for v in layer.variables}


@pytest.mark.filterwarnings("ignore:.*random numbers:keras_cv_lectures.errors.KcvlWarning")
@pytest.mark.parametrize(
    "build",
    [
        lambda: build_unet(
            (None, None, 3), 2, backbone=_narrow(), decoder_filters=(4, 4, 4, 4, 4), freeze_backbone=True
        ),
        lambda: build_fcn((None, None, 3), 2, backbone=_narrow(), freeze_backbone=True),
        lambda: build_deeplab(
            (None, None, 3), 2, backbone=_narrow(), decoder_filters=4, aspp_filters=4, freeze_backbone=True
        ),
        lambda: build_deeplab(
            (None, None, 3), 2, version="v1", filters=2, aspp_filters=4, normalization="batch", freeze_backbone=True
        ),
    ],
    ids=["unet", "fcn", "deeplab v3+", "deeplab v1"],
)
def test_a_step_changes_the_head_alone(build, tmp_path):
    model = build()
    model.save(tmp_path / "frozen.keras")
    x = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    for network in (model, keras.saving.load_model(tmp_path / "frozen.keras")):
        frozen = _of_backbone(network)
        assert frozen
        before = [keras.ops.convert_to_numpy(v) for v in network.variables]
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(tf.square(network(x, training=True) - 1.0))
        trained = [v.value for v in network.trainable_variables]
        keras.optimizers.SGD(1e-3).apply(tape.gradient(value, trained), network.trainable_variables)
        changed = {id(v) for v, old in zip(network.variables, before, strict=True) if not np.array_equal(v, old)}
        assert changed
        assert not changed & frozen


def test_a_backbone_that_nobody_trained_is_not_frozen_silently():
    for build in (build_unet, build_fcn, build_deeplab):
        with pytest.warns(KcvlWarning, match="keeps the random numbers of resnet14_v1_5"):
            build((None, None, 3), 2, backbone="resnet14_v1_5", freeze_backbone=True)
