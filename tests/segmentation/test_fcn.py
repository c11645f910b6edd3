"""FCN: the papers' claims, and equality with recorded torch networks."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_cv_lectures as kcvl
from keras_cv_lectures.backbones import resnet_v1_5
from keras_cv_lectures.layers import BilinearConv2DTranspose
from keras_cv_lectures.segmentation import build_fcn, build_fcn8s, build_fcn16s, build_fcn32s
from keras_cv_lectures.weights.torchvision import load_torch

VGG_FORMS = [build_fcn32s, build_fcn16s, build_fcn8s]
NARROW = {"filters": 2, "convolutions": (1, 1, 1, 1, 1), "fc_filters": 4}
IGNORE = 255


def _nhwc(array):
    return array.transpose(0, 2, 3, 1)


def _trainable(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def _close(got, expected, relative=1e-4):
    assert np.abs(np.asarray(got) - expected).max() <= relative * np.abs(expected).max()


@pytest.mark.parametrize("variant", ["paper", "modern"])
@pytest.mark.parametrize(
    ("builder", "published", "full_kernels"),
    [
        (build_fcn32s, 134_346_581, 0),
        (build_fcn16s, 134_357_354, 7_056),
        (build_fcn8s, 134_362_751, 2 * 7_056),
    ],
)
def test_parameters_are_the_published_ones(unfilled, builder, published, full_kernels, variant):
    assert _trainable(unfilled(builder, variant=variant)) == published
    # The paper fixes the last upsampling to bilinear interpolation and learns those before it.
    assert _trainable(unfilled(builder, variant=variant, upsampling="learned")) == published + full_kernels


def test_shapes_of_the_released_network_at_500_pixels(unfilled):
    model = unfilled(build_fcn8s, (500, 500, 3), variant="paper")
    traced = {
        "conv1_1": 698,
        "pool1": 349,
        "pool2": 175,
        "pool3": 88,
        "pool4": 44,
        "pool5": 22,
        "fc6": 16,
        "score_fr": 16,
        "upscore2": 34,
        "score_pool4c_like": 34,
        "upscore_pool4": 70,
        "score_pool3c_like": 70,
        "upscore8": 568,
    }
    for name, side in traced.items():
        assert model.get_layer(name).output.shape[1:3] == (side, side), name
    assert model.output_shape == (None, 500, 500, 21)
    assert unfilled(build_fcn32s, (500, 500, 3), variant="paper").get_layer("upscore").output.shape[1] == 544


@pytest.mark.parametrize(
    ("builder", "crops"), [(build_fcn32s, [19]), (build_fcn16s, [5, 27]), (build_fcn8s, [5, 9, 31])]
)
def test_released_crops(builder, crops):
    model = builder(variant="paper", **NARROW)
    found = [layer.cropping for layer in model.layers if isinstance(layer, keras.layers.Cropping2D)]
    assert sorted(found) == [((offset, 0), (offset, 0)) for offset in crops]


@pytest.mark.parametrize("builder", VGG_FORMS)
@pytest.mark.parametrize("variant", ["paper", "modern"])
def test_scores_stand_over_the_pixels_that_they_were_taken_from(builder, variant):
    """One bright score in the middle of the deepest map comes out as a bump around the middle of what it saw."""
    model = builder((None, None, 3), 1, variant=variant, include_preprocessing=False, **NARROW)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D) and layer.name.startswith("conv"):
            # The middle tap alone: a pooled pixel answers to its own window and nothing else.
            kernel = np.zeros(layer.kernel.shape, "float32")
            kernel[1, 1, 0, 0] = 1
            layer.set_weights([kernel, np.zeros(layer.filters)])
    for name, size in (("fc6", 7), ("fc7", 1)):
        kernel = np.zeros((size, size, *model.get_layer(name).kernel.shape[2:]), "float32")
        kernel[size // 2, size // 2, 0, 0] = 1
        model.get_layer(name).set_weights([kernel, np.zeros(NARROW["fc_filters"])])
    for name in ("score_fr", "score_pool4", "score_pool3"):
        if name in {layer.name for layer in model.layers}:
            layer = model.get_layer(name)
            kernel = np.zeros(layer.kernel.shape, "float32")
            kernel[..., 0, 0] = 1
            layer.set_weights([kernel, np.zeros(1)])
    picture = np.zeros((1, 256, 256, 3), "float32")
    picture[:, 96:160, 128:192] = 1  # Its middle is (128, 160).
    bump = np.asarray(model(picture))[0, ..., 0]
    rows, columns = bump.sum(axis=1), bump.sum(axis=0)
    middle = [(v * (np.arange(256) + 0.5)).sum() / v.sum() for v in (rows, columns)]
    # The padding of 100 leaves the pooled windows up to half a window off; the released crops centre them on average.
    assert np.abs(np.subtract(middle, (128, 160))).max() <= (1e-3 if variant == "modern" else 16)


def test_bilinear_kernels_and_what_is_learned():
    fixed = build_fcn8s((None, None, 3), 3, **NARROW)
    assert isinstance(fixed.get_layer("upscore2"), BilinearConv2DTranspose)
    assert not any("upscore" in v.path for v in fixed.trainable_variables)
    learned = build_fcn8s((None, None, 3), 3, upsampling="learned", **NARROW)
    kernel = learned.get_layer("upscore2").kernel.numpy()
    np.testing.assert_allclose(16 * kernel[:, :, 1, 1], np.outer([1, 3, 3, 1], [1, 3, 3, 1]))
    assert not kernel[:, :, 0, 1].any()
    assert len([v for v in learned.trainable_variables if "upscore" in v.path]) == 2
    assert not learned.get_layer("upscore8").trainable
    shared = {layer.name: layer.get_weights() for layer in fixed.layers if "upscore" not in layer.name}
    for layer in learned.layers:
        if layer.name in shared:
            layer.set_weights(shared[layer.name])
    x = np.random.default_rng(0).uniform(0, 255, (1, 40, 70, 3))
    _close(learned(x), np.asarray(fixed(x)), 1e-5)


def test_at_once_scales_the_pools_before_their_scores():
    model = build_fcn8s((None, None, 3), 3, at_once=True, **NARROW)
    scales = {name: model.get_layer(name).scale for name in ("scale_pool4", "scale_pool3")}
    assert scales == {"scale_pool4": 0.01, "scale_pool3": 0.0001}
    assert model.get_layer("score_pool3").input is model.get_layer("scale_pool3").output
    plain = build_fcn8s((None, None, 3), 3, **NARROW)
    plain.set_weights(model.get_weights())
    for name, scale in scales.items():
        layer = plain.get_layer(name.replace("scale", "score"))
        kernel, bias = layer.get_weights()
        layer.set_weights([kernel * scale, bias])
    x = np.random.default_rng(0).uniform(0, 255, (1, 33, 65, 3))
    _close(plain(x), np.asarray(model(x)), 1e-5)


def test_scores_of_the_paper_start_at_zero_and_of_the_modern_form_do_not():
    for variant, zero in (("paper", True), ("modern", False)):
        model = build_fcn8s((None, None, 3), 3, variant=variant, **NARROW)
        for name in ("score_fr", "score_pool4", "score_pool3"):
            assert (not model.get_layer(name).kernel.numpy().any()) == zero


@pytest.mark.parametrize(
    ("builder", "config"),
    [
        (build_fcn32s, {"normalization": "batch"}),
        (build_fcn16s, {"upsampling": "learned"}),
        (build_fcn8s, {"variant": "paper"}),
    ],
)
def test_any_size_and_channel_count(builder, config):
    model = builder((None, None, 2), 3, **config, **NARROW)
    for size in ((33, 51), (1, 7)):
        assert model(np.zeros((1, *size, 2), "uint8")).shape == (1, *size, 3)


@pytest.mark.parametrize("builder", VGG_FORMS)
def test_a_backbone_by_contract(builder):
    backbone = resnet_v1_5((1, 1, 1, 1), (2, 2, 2, 4), stem=2)
    model = builder((None, None, 3), 3, backbone=backbone)
    assert model.get_layer("fc6").filters == 16 // 4
    assert model(np.zeros((1, 37, 70, 3), "uint8")).shape == (1, 37, 70, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "released"}, "`variant` must be one of"),
        ({"upsampling": "nearest"}, "`upsampling` must be one of"),
        ({"filters": [1, 2]}, "`filters` must be a number or a list of five"),
        ({"convolutions": [1, 2]}, "`convolutions` must be five positive numbers"),
        ({"backbone": "resnet50", "variant": "paper"}, '`variant="paper"` is VGG16'),
        ({"normalization": "batch", "backbone_weights": "vgg.h5"}, "without normalisation"),
        ({"num_classes": 0}, "`num_classes` must be at least 1"),
    ],
)
def test_wrong_options_are_explained(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build_fcn8s((None, None, 3), **{"num_classes": 2, **arguments})
    with pytest.raises(TypeError, match="no argument `at_once`"):
        build_fcn32s((None, None, 3), 2, at_once=True)


def test_tflite_of_the_paper_network_takes_any_size(tmp_path):
    model = build_fcn8s((None, None, 3), 3, variant="paper", **NARROW)
    for layer in model.layers:
        if layer.name.startswith("score_") and layer.weights:
            layer.set_weights([np.random.default_rng(1).normal(size=w.shape) for w in layer.weights])
    path = kcvl.export_tflite(model, tmp_path / "fcn.tflite", dynamic=True).path
    runner = kcvl.load_runner(path)
    for size in ((33, 51), (64, 48)):
        x = np.random.default_rng(0).integers(0, 256, (1, *size, 3)).astype("uint8")
        expected = np.asarray(model(x))
        np.testing.assert_allclose(runner(x)["logits"], expected, atol=1e-4 * max(1, np.abs(expected).max()))


@pytest.mark.golden
def test_fcn8s_equals_the_recorded_torch_network(golden):
    arrays, _ = golden("model_fcn8s_tiny")
    params = {key.removeprefix("param/"): value for key, value in arrays.items() if key.startswith("param/")}
    blocks = sorted({key.split(".")[1] for key in params if key.startswith("block.")})
    x, expected = _nhwc(arrays["in/x"]), _nhwc(arrays["out/y"])
    model = build_fcn8s(
        (None, None, x.shape[-1]),
        expected.shape[-1],
        variant="paper",
        filters=[params[f"block.{block}.weight"].shape[0] for block in blocks],
        convolutions=[1] * len(blocks),
        fc_filters=params["fc6.weight"].shape[0],
        upsampling="learned",
        include_preprocessing=False,
    )
    names = {f"block.{block}": f"conv{int(block) + 1}_1" for block in blocks}
    names |= {"score": "score_fr", "score4": "score_pool4", "score3": "score_pool3"}
    names |= {"up2": "upscore2", "up4": "upscore_pool4", "up8": "upscore8", "fc6": "fc6", "fc7": "fc7"}
    for recorded, name in names.items():
        bias = [params[f"{recorded}.bias"]] if f"{recorded}.bias" in params else []
        model.get_layer(name).set_weights([params[f"{recorded}.weight"].transpose(2, 3, 1, 0), *bias])
    _close(model(x), expected)


@pytest.fixture(scope="module")
def recorded(golden):
    """The recorded narrow network of torchvision's shape: arrays, and a function that builds ours with its weights."""
    arrays, cfg = golden("model_fcn_narrow")
    state = {key.removeprefix("param/"): value for key, value in arrays.items() if key.startswith("param/")}
    described = cfg["resnet"]
    units, planes = (
        [int(n) for n in re.search(rf"{word} ([\d,]+)", described)[1].strip(",").split(",")]
        for word in ("blocks", "planes")
    )
    backbone = resnet_v1_5(
        units,
        planes,
        stem=int(re.search(r"stem (\d+)", described)[1]),
        output_stride=int(re.search(r"stride (\d+)", described)[1]),
    )
    model = build_fcn(
        (None, None, 3),
        state["classifier.4.weight"].shape[0],
        backbone=backbone,
        auxiliary=True,
        dropout=0,
        include_preprocessing=False,
    )
    load_torch(model, state)
    return arrays, cfg, model


@pytest.mark.golden
def test_fcn_equals_the_recorded_torchvision_network(recorded):
    arrays, _, model = recorded
    x = _nhwc(arrays["in/x"])
    got = model(x)
    _close(got["logits"], _nhwc(arrays["out/out"]))
    _close(got["auxiliary"], _nhwc(arrays["out/aux"]))
    stages = model.get_layer("backbone")(x)
    _close(stages["c4"], _nhwc(arrays["mid/layer3"]))
    _close(stages["c5"], _nhwc(arrays["mid/layer4"]))


def _torch_layout(name, variable):
    array = variable.numpy()
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array


def _variable(model, key):
    """The variable under a `state_dict` key: `backbone.layer4.0.conv2.weight`, `classifier.4.bias`."""
    module, _, kind = key.rpartition(".")
    owner = model
    if module.startswith("backbone."):
        owner, module = model.get_layer("backbone"), module.removeprefix("backbone.")
    layer = owner.get_layer(module)
    norm = isinstance(layer, keras.layers.BatchNormalization)
    names = {"running_mean": "moving_mean", "running_var": "moving_variance"}
    names |= {"weight": "gamma", "bias": "beta"} if norm else {"weight": "kernel", "bias": "bias"}
    return getattr(layer, names[kind])


def _in_float64(model):
    """The same network with layers and variables in float64."""

    def clone(layer):
        return layer.__class__.from_config({**layer.get_config(), "dtype": "float64"})

    copy = keras.models.clone_model(model, clone_function=clone, recursive=True)
    copy.set_weights(model.get_weights())
    return copy


@pytest.mark.golden
def test_fcn_takes_the_recorded_training_steps(recorded):
    """Gradients of step 1 and state after step 3. Torch's running variance is the unbiased one, Keras's the biased.

    In float64: what float32 rounds away in the normalised layers grows to 0.4 % in the gradient of the first kernel.
    """
    arrays, cfg, model = recorded
    model = _in_float64(model)
    x, target = _nhwc(arrays["in/x"]).astype("float64"), arrays["in/target"]
    rate, momentum, decay = (
        float(re.search(rf"{word} ([\d.e-]+)", cfg["train"])[1]) for word in ("lr", "momentum", "wd")
    )
    auxiliary = float(re.search(r"([\d.]+)\*aux", cfg["train"])[1])
    steps = len(arrays["train/losses"])
    variables = [v.value for v in model.trainable_variables]
    velocity = [tf.zeros_like(v) for v in variables]
    losses, gradients, first_output = [], [], None

    def cross_entropy(logits):
        valid = target != IGNORE
        values = tf.nn.sparse_softmax_cross_entropy_with_logits(np.where(valid, target, 0), logits)
        return tf.reduce_sum(tf.where(valid, values, 0.0)) / valid.sum()

    for step in range(steps):
        with tf.GradientTape() as tape:
            outputs = model(x, training=True)
            loss = cross_entropy(outputs["logits"]) + auxiliary * cross_entropy(outputs["auxiliary"])
        losses.append(float(loss))
        found = tape.gradient(loss, variables)
        if step == 0:
            gradients, first_output = found, np.asarray(outputs["logits"])
        for index, (variable, gradient) in enumerate(zip(variables, found, strict=True)):
            velocity[index] = momentum * velocity[index] + gradient + decay * variable
            variable.assign_sub(rate * velocity[index])

    _close(first_output, _nhwc(arrays["out/train_out"]))
    np.testing.assert_allclose(losses, arrays["train/losses"], rtol=1e-4)
    position = {id(v): i for i, v in enumerate(model.trainable_variables)}
    for key in (k for k in arrays if k.startswith("grad/")):
        gradient = gradients[position[id(_variable(model, key.removeprefix("grad/")))]]
        gradient = np.asarray(gradient)
        _close(gradient.transpose(3, 2, 0, 1) if gradient.ndim == 4 else gradient, arrays[key], 1e-3)
    for key in (k for k in arrays if k.startswith("after/")):
        name = key.removeprefix("after/")
        got = _torch_layout(name, _variable(model, name))
        if name.endswith("running_var"):
            encoder = model.get_layer("backbone")
            layer = encoder.get_layer(name.removeprefix("backbone.").removesuffix(".running_var"))
            n = np.prod(keras.Model(encoder.input, layer.output)(x).shape[:3])
            kept = 0.9**steps * arrays[f"param/{name}"]
            got = kept + (got - kept) * n / (n - 1)
        _close(got, arrays[key])


def _multiply_adds(model, size, unfilled):
    """Of the convolutions, at a square picture of `size`."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            static = unfilled(keras.models.clone_model, layer, input_tensors=keras.Input((size, size, 3)))
            total += _multiply_adds(static, size, unfilled)
        elif isinstance(layer, keras.layers.Conv2D):
            total += int(np.prod(layer.output.shape[1:3]) * np.prod(layer.kernel.shape))
    return total


def test_torchvision_counts_of_parameters_and_multiply_adds(unfilled):
    with_auxiliary = unfilled(build_fcn, (520, 520, 3), auxiliary=True)
    assert _trainable(with_auxiliary) == 35_322_218
    assert _multiply_adds(with_auxiliary, 520, unfilled) == pytest.approx(152.717e9, rel=1e-4)
    names = {layer.name for layer in with_auxiliary.layers}
    assert {"backbone", "classifier.0", "classifier.1", "classifier.4", "aux_classifier.4", "logits"} <= names
    assert set(with_auxiliary.output) == {"logits", "auxiliary"}


def test_fcn_takes_any_size():
    model = build_fcn((None, None, 1), 3, backbone=resnet_v1_5((1, 1, 1, 1), (2, 2, 2, 4), stem=2, channels=1))
    assert model(np.zeros((1, 37, 70, 1), "uint8")).shape == (1, 37, 70, 3)
