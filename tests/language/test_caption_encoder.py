"""Encoders of captioners: a backbone of one's own stays its owner's, and the layer of the authors' weights."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest

from keras_cv_lectures.errors import KcvlWarning
from keras_cv_lectures.language import build_show_and_tell, build_show_attend_tell, caption_encoder
from keras_cv_lectures.language.captioner import weights_of_backbone
from keras_cv_lectures.weights import load_caption_weights


def own_backbone():
    """Its first two stages are not trained."""
    keras.utils.set_random_seed(0)
    image = keras.Input((None, None, 3))
    stages, x = {}, image
    for k in range(1, 6):
        x = keras.layers.Conv2D(k, 3, strides=2, padding="same", name=f"conv{k}")(x)
        x = stages[f"c{k}"] = keras.layers.BatchNormalization(name=f"norm{k}")(x)
    model = keras.Model(image, stages)
    for layer in model.layers:
        layer.trainable = layer.name[-1] not in "12"
    return model


def trained(model):
    return {path.split("/")[-2] for v in model.trainable_variables for path in [v.path]}


LATER = {"conv3", "norm3", "conv4", "norm4"}


@pytest.mark.parametrize("build", [build_show_attend_tell, build_show_and_tell])
def test_of_ones_own_backbone_what_is_trainable_is_trained(build):
    own = own_backbone()
    deepest = LATER | ({"conv5", "norm5"} if build is build_show_and_tell else set())
    model = build((32, 32, 3), 11, backbone=own, units=4, embedding_units=3)
    assert trained(model.encoder) == deepest
    assert model.encoder.get_layer("backbone").get_layer("conv1") is own.get_layer("conv1")
    own.trainable = False
    assert not trained(build((32, 32, 3), 11, backbone=own, units=4, embedding_units=3).encoder)


@pytest.mark.parametrize("frozen", [True, False])
def test_ones_own_backbone_stays_as_it_is(frozen):
    own = own_backbone()
    before = [layer.trainable for layer in own.layers]
    encoder = caption_encoder((32, 32, 3), own, frozen=frozen)
    assert trained(encoder) == (set() if frozen else LATER | {"conv1", "norm1", "conv2", "norm2"})
    assert [layer.trainable for layer in own.layers] == before
    assert trained(own) == LATER | {"conv5", "norm5"}
    # The copy says the same, and learns alone.
    picture = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype("float32")
    expected = own(picture)["c4"]
    np.testing.assert_allclose(encoder(picture), expected, rtol=1e-6)
    encoder.get_layer("backbone").get_layer("conv1").kernel.assign_add(np.ones((3, 3, 3, 1)))
    np.testing.assert_array_equal(own(picture)["c4"], expected)


@pytest.mark.parametrize("build", [build_show_attend_tell, build_show_and_tell])
def test_a_backbone_that_nobody_trained_is_not_frozen_silently(build):
    with pytest.warns(KcvlWarning, match="keeps the random numbers of resnet14_v1_5"):
        build((32, 32, 3), 11, backbone="resnet14_v1_5", freeze_backbone=True, units=4, embedding_units=3)


def test_which_files_have_weights_of_the_backbone():
    for whole in ("run/best.keras", "a.weights.h5"):
        assert weights_of_backbone(whole) == whole
    for decoder_alone in ("model.npz", "best.pth", "decoder.safetensors", None):
        assert weights_of_backbone(decoder_alone) is None


def test_the_stage_for_the_authors_weights_is_conv5_4():
    (stage,) = re.findall(r'annotation_stage="(c\d)"`, the default', load_caption_weights.__doc__)
    encoder = caption_encoder((224, 224, 3), "vgg19", stage=stage)
    assert encoder.get_layer("backbone").layers[-1].name == "block5_conv4"
    assert encoder.output_shape == (None, 14, 14, 512)
    assert caption_encoder.__kwdefaults__["stage"] == stage
