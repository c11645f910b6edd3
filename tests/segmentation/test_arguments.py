"""Arguments of the builders that a version or a backbone has no use for, and those that other packages have."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_cv_lectures.backbones import resnet_v1_5
from keras_cv_lectures.losses import SegmentationCrossEntropy
from keras_cv_lectures.segmentation import build_deeplab, build_fcn, build_fcn8s, build_segnet, build_unet
from keras_cv_lectures.systems import SYSTEMS


@pytest.fixture(scope="module")
def narrow():
    return resnet_v1_5((1, 1, 1, 1), (2, 2, 2, 2), stem=4)


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        ({"version": "v3", "filters": 16}, "v1 and v2 on their own VGG-16"),
        ({"version": "v1", "backbone": "resnet50_v1_5", "filters": 16}, "v1 and v2 on their own VGG-16"),
        ({"version": "v2", "fc6_kernel_size": 7}, "v1. Received: fc6_kernel_size=7, version='v2', backbone=None"),
        ({"version": "v3", "decoder": "smp"}, "v3+"),
        ({"version": "v3", "decoder_filters": 16}, "v3+"),
        ({"version": "v2", "low_level_filters": 16}, "v3+"),
        ({"version": "v1", "image_pooling": False}, "v3 and v3+"),
        ({"version": "v2", "separable": True}, "v3 and v3+"),
        (
            {"version": "v2", "backbone": "vgg19", "aspp_filters": 8},
            "the other versions, and with v2 on its own VGG-16",
        ),
        ({"version": "v2", "backbone": "vgg19", "dropout": 0.0}, "the other versions, and with v2 on its own VGG-16"),
    ],
)
def test_deeplab_refuses_what_has_no_effect(arguments, place):
    with pytest.raises(ValueError) as refused:
        build_deeplab((None, None, 3), 2, **arguments)
    assert str(refused.value).startswith(f"`{list(arguments)[-1]}` goes with {place}")


@pytest.mark.parametrize(
    ("build", "arguments"),
    [
        (build_unet, {"decoder_filters": (8, 8, 4, 4, 4)}),
        (build_unet, {"freeze_backbone": True}),
        (build_unet, {"backbone": "resnet14_v1_5", "filters": 8}),
        (build_unet, {"backbone": "resnet14_v1_5", "depth": 3}),
        (build_fcn8s, {"backbone": "resnet14_v1_5", "filters": 8}),
        (build_fcn8s, {"backbone": "resnet14_v1_5", "convolutions": (1, 1, 1, 1, 1)}),
    ],
)
def test_the_others_refuse_what_has_no_effect(build, arguments):
    with pytest.raises(ValueError, match=f"^`{list(arguments)[-1]}` goes with "):
        build((None, None, 3), 2, **arguments)


def test_a_model_has_its_own_output_stride(narrow):
    with pytest.raises(ValueError, match=r"`output_stride` goes with a backbone's name.*backbones\.dilate"):
        build_fcn((None, None, 3), 2, backbone=narrow, output_stride=16)


@pytest.mark.parametrize("name", ["fcn8s", "fcn16s", "fcn32s", "unet", "deeplabv1", "deeplabv2"])
def test_recipes_leave_out_what_another_backbone_has_no_use_for(name, narrow):
    """`--set backbone=...` is enough; what is set beside it and has no effect is refused all the same."""
    recipe = SYSTEMS[name]
    given = {**recipe.config, "backbone": narrow}
    fitted = recipe.fit_config(given, recipe.options, None)
    assert recipe.build((None, None, 3), 2, **fitted).output_shape[-1] == 2
    wrong = recipe.fit_config({**given, "filters": 5}, recipe.options, None)
    with pytest.raises(ValueError, match="`filters` goes with"):
        recipe.build((None, None, 3), 2, **wrong)


def test_channels_first_is_refused_by_every_network():
    """Or height would be taken for channels."""
    keras.config.set_image_data_format("channels_first")
    try:
        for recipe in SYSTEMS.values():
            with pytest.raises(ValueError, match=r"channels last.*set_image_data_format\('channels_last'\)"):
                recipe.build((64, 64, 3), 5)
    finally:
        keras.config.set_image_data_format("channels_last")


@pytest.mark.parametrize("scale", ["config", "smoke", "demo"])
def test_recipes_keep_their_own_arguments(scale):
    for recipe in SYSTEMS.values():
        if "mask" in recipe.keys:
            config = {**recipe.config, **getattr(recipe, scale)}
            assert recipe.fit_config(config, recipe.options, None) == config, recipe.name


@pytest.mark.parametrize(("build", "options"), [(build_fcn, {}), (build_deeplab, {"version": "v3", "aspp_filters": 4})])
def test_an_auxiliary_head_is_trained_as_its_argument_says(narrow, build, options):
    """And counts half."""
    model = build((32, 32, 3), 3, backbone=narrow, auxiliary=True, dropout=0.0, **options)
    loss = SegmentationCrossEntropy()
    model.compile(
        keras.optimizers.SGD(0.0),
        loss={"logits": loss, "auxiliary": loss},
        loss_weights={"logits": 1, "auxiliary": 0.5},
        run_eagerly=True,
    )
    pictures, masks = np.zeros((1, 32, 32, 3), "uint8"), np.ones((1, 32, 32), "uint8")
    found = model.evaluate(pictures, {"logits": masks, "auxiliary": masks}, verbose=0, return_dict=True)
    parts = {name: float(loss(masks, logits)) for name, logits in model(pictures).items()}
    assert found["loss"] == pytest.approx(parts["logits"] + 0.5 * parts["auxiliary"], rel=1e-5)
    assert {name: found[f"{name}_loss"] for name in parts} == pytest.approx(parts, rel=1e-5)


def test_a_rate_may_be_a_number():
    model = build_deeplab((None, None, 3), 2, version="v1", filters=2, aspp_filters=4, rates=5)
    assert model.get_layer("fc6").dilation_rate == (5, 5)


@pytest.mark.parametrize(("decoder", "rate"), [("paper", 0.1), ("smp", 0.5)])
def test_the_decoder_of_segmentation_models_drops_half(narrow, decoder, rate):
    model = build_deeplab((None, None, 3), 2, backbone=narrow, decoder=decoder, decoder_filters=4, aspp_filters=4)
    dropouts = [x for x in model.layers if isinstance(x, keras.layers.Dropout)]
    assert [(x.name, x.rate) for x in dropouts] == [("decoder.aspp.0.project.3", rate)]


@pytest.mark.parametrize(
    ("build", "arguments", "hint"),
    [
        (build_segnet, {"encoder_weights": "imagenet"}, "`. Its arguments"),
        (build_segnet, {"backbone_name": "vgg16"}, "`. Its arguments"),
        (build_unet, {"encoder_freeze": True}, "Did you mean `freeze_backbone`?"),
        (build_fcn, {"freeze_encoder": True}, "Did you mean `freeze_backbone`?"),
        (build_unet, {"activation": "softmax"}, "networks give logits"),
        (build_deeplab, {"classifier_activation": None}, "networks give logits"),
    ],
)
def test_hints_name_only_what_the_builder_has(build, arguments, hint):
    with pytest.raises(TypeError) as refused:
        build((None, None, 3), 2, **arguments)
    assert hint in str(refused.value)
