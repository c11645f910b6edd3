"""DeepLab: the papers' claims, and parts of it by hand; `test_deeplab_recorded` compares with PyTorch networks."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.backbones import resnet_v1_5
from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.exporting import export_tflite
from keras_cv_lectures.layers import SyncBatchNormalization
from keras_cv_lectures.runners import load_runner
from keras_cv_lectures.segmentation import aspp, build_deeplab
from keras_cv_lectures.segmentation.deeplab_vgg import pool5a, vgg16_stride8
from keras_cv_lectures.serving import gflops
from keras_cv_lectures.weights import load_torch, to_torch_state


def _trained(model) -> int:
    return sum(math.prod(v.shape) for v in model.trainable_variables)


def _narrow(channels=3, output_stride=8):
    return resnet_v1_5((1, 1, 1, 1), (2, 2, 2, 2), stem=4, channels=channels, output_stride=output_stride)


_HEADS = {"aspp_filters": 4, "decoder_filters": 4, "low_level_filters": 2}


# Parameter counts, strides and rates. --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "rate", "filters", "parameters"),
    [
        (3, 12, 1024, 20_505_429),
        pytest.param(4, 8, 4096, 65_140_565, marks=pytest.mark.slow),
        pytest.param(7, 4, 4096, 134_346_581, marks=pytest.mark.slow),
    ],
)
def test_large_fov_has_the_parameters_of_table_1(kernel, rate, filters, parameters):
    """v1, table 1: 134.3 M, 65.1 M and 20.5 M."""
    model = build_deeplab(version="v1", fc6_kernel_size=kernel, rates=(rate,), aspp_filters=filters)
    assert model.count_params() == parameters
    assert model.get_layer("fc6").dilation_rate == (rate, rate)
    if kernel == 3:
        default = build_deeplab(version="v1", filters=2, aspp_filters=4)
        assert default.get_layer("fc6").dilation_rate == (rate, rate)
        assert default.get_layer("fc6").kernel_size == (kernel, kernel)


def test_v2_sums_four_large_fov_heads():
    v1, v2 = (build_deeplab(version=version, filters=2, aspp_filters=8) for version in ("v1", "v2"))
    trunk = sum(x.count_params() for x in v1.layers if x.name.startswith("conv"))
    assert v2.count_params() - trunk == 4 * (v1.count_params() - trunk)
    assert [v2.get_layer(f"fc6_{k}").dilation_rate[0] for k in (1, 2, 3, 4)] == [6, 12, 18, 24]
    assert [x.name for x in _sources(v2, "fc8")] == ["fc8_1", "fc8_2", "fc8_3", "fc8_4"]
    # As the authors' networks have it: v1's mean over 3x3 is not in v2.
    assert _sources(v1, "fc6") == [v1.get_layer("pool5a")]
    assert all(_sources(v2, f"fc6_{k}") == [v2.get_layer("pool5")] for k in (1, 2, 3, 4))


def test_v2_on_a_resnet_sums_four_convolutions_to_the_scores():
    model = build_deeplab((None, None, 3), 5, version="v2", backbone=_narrow())
    assert [model.get_layer(f"fc1_c{k}").dilation_rate[0] for k in range(4)] == [6, 12, 18, 24]
    assert model.get_layer("fc1_c0").kernel.shape == (3, 3, 8, 5)
    assert [x.name for x in _sources(model, "fc1")] == ["fc1_c0", "fc1_c1", "fc1_c2", "fc1_c3"]


def _sources(model, name):
    """The layers whose outputs `name` takes."""
    return [x._keras_history.operation for x in keras.tree.flatten(model.get_layer(name).input)]


@pytest.mark.parametrize(
    ("backbone", "parameters", "stride"),
    [
        ("resnet50_v1_5", 42_004_074, 8),
        pytest.param("resnet101_v1_5", 60_996_202, 8, marks=pytest.mark.slow),
        ("mobilenetv3_large", 11_029_328, 16),
    ],
)
def test_v3_is_the_network_that_torchvision_published(backbone, parameters, stride):
    model = build_deeplab(version="v3", backbone=backbone, auxiliary=True)
    assert _trained(model) == parameters
    assert [model.get_layer(f"classifier.0.convs.{k}.0").dilation_rate[0] for k in (1, 2, 3)] == [12, 24, 36]
    shape = model.get_layer("backbone").compute_output_shape((1, 64, 96, 3))["c5"]
    assert shape[1:3] == (64 // stride, 96 // stride)
    if backbone == "mobilenetv3_large":  # Its auxiliary head looks at `features.4`, of 40 channels.
        assert model.get_layer("aux_classifier.0").kernel.shape == (3, 3, 40, 10)


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "published"), [("resnet50_v1_5", 178.722), ("mobilenetv3_large", 10.452)])
def test_v3_has_the_operations_that_torchvision_published(backbone, published):
    """Torchvision counts multiply-adds at 520 x 520, those of the auxiliary head, too."""
    model = build_deeplab(version="v3", backbone=backbone, auxiliary=True)
    assert gflops(model, (520, 520)) / 2 == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize(("stride", "rates"), [(8, (12, 24, 36)), (16, (6, 12, 18))])
def test_rates_follow_the_output_stride(stride, rates):
    """The pyramid sees the same part of the picture: half the stride, twice the rates."""
    settings = {"decoder_filters": 4, "aspp_filters": 4}
    model = build_deeplab(backbone="mobilenetv3_large", output_stride=stride, **settings)
    assert tuple(model.get_layer(f"decoder.aspp.0.convs.{k}.0.0").dilation_rate[0] for k in (1, 2, 3)) == rates
    shape = model.get_layer("backbone").compute_output_shape((1, 64, 96, 3))["c5"]
    assert shape[1:3] == (64 // stride, 96 // stride)


def test_v3plus_reduces_stride_4_to_48_channels_and_separates_its_convolutions():
    model = build_deeplab(backbone=_narrow())
    assert model.get_layer("decoder.block1.0").kernel.shape == (1, 1, 8, 48)
    assert model.get_layer("decoder.block2.0.0").kernel.shape == (3, 3, 256 + 48, 1)
    assert model.get_layer("decoder.block2.0.1").kernel.shape == (1, 1, 256 + 48, 256)
    assert [model.get_layer(f"decoder.aspp.0.convs.{k}.0.0").dilation_rate[0] for k in (1, 2, 3)] == [6, 12, 18]
    full = build_deeplab(backbone=_narrow(), separable=False)
    assert full.get_layer("decoder.block3.0").kernel.shape == (3, 3, 256, 256)


@pytest.mark.slow
def test_multi_grid_multiplies_the_rates_of_the_last_stage():
    model = build_deeplab(version="v3", output_stride=16, multi_grid=(1, 2, 4))
    backbone = model.get_layer("backbone")
    # Torchvision's first unit keeps the rate of the stage before, which is 1 here; the others have 2.
    assert [backbone.get_layer(f"layer4.{k}.conv2").dilation_rate[0] for k in range(3)] == [1, 4, 8]


# Parts, by hand. ----------------------------------------------------------------------------------------------------


def test_vgg_pools_where_caffe_does():
    """Cells lie on pixels 0, 8, 16, ...: a picture of 8 k + 1 pixels has k + 1 cells."""
    x = keras.Input((None, None, 3))
    trunk = keras.Model(x, vgg16_stride8(x, filters=1))
    for side, cells in ((33, 5), (32, 5), (25, 4), (321, 41), (513, 65)):
        assert trunk.compute_output_shape((1, side, side, 3))[1:3] == (cells, cells)
    # 7 -> windows of three around pixels 0, 2, 4, 6, by hand.
    pool = keras.Sequential([trunk.get_layer("pool1_pad"), trunk.get_layer("pool1")])
    row = np.array([5, 1, 0, 2, 0, 0, 3], "float32")
    got = np.asarray(pool(np.tile(row, (1, 7, 1))[..., None]))[0, 3, :, 0]
    np.testing.assert_array_equal(got, [5, 2, 2, 3])


def test_pool5a_divides_by_nine_at_the_border_too():
    x = keras.Input((None, None, 8))
    pool = keras.Model(x, pool5a(x))
    np.testing.assert_allclose(
        np.asarray(pool(np.ones((1, 3, 3, 8))))[0, :, :, 0], np.array([[4, 6, 4], [6, 9, 6], [4, 6, 4]]) / 9, rtol=1e-6
    )


def test_image_pooling_tells_every_place_the_mean_of_the_picture():
    """With the other branches silenced, the pyramid gives one value everywhere: that of the pooled vector."""
    x = keras.Input((None, None, 2))
    model = keras.Model(x, aspp(x, 3, (2,), name="a"))
    keras.utils.set_random_seed(1)
    for branch in ("a.convs.0.1", "a.convs.1.1"):
        layer = model.get_layer(branch)
        layer.set_weights([np.zeros(3), np.zeros(3), np.zeros(3), np.ones(3)])
    picture = np.random.default_rng(0).normal(size=(1, 5, 6, 2)).astype("float32")
    out = np.asarray(model(picture))[0]
    np.testing.assert_allclose(out, np.broadcast_to(out[0, 0], out.shape), atol=1e-6)
    pooled = np.maximum(picture.mean((0, 1, 2)) @ model.get_layer("a.convs.2.1").kernel.numpy()[0, 0], 0)
    projected = pooled @ model.get_layer("a.project.0").kernel.numpy()[0, 0, 6:]
    np.testing.assert_allclose(out[0, 0], np.maximum(projected / np.sqrt(1 + 1e-5), 0), rtol=1e-4, atol=1e-6)


def test_one_picture_leaves_the_statistics_of_the_image_pooling():
    """Its mean would be the value itself, its variance 0, and prediction would divide by the root of nearly nothing."""
    x = keras.Input((None, None, 2))
    model = keras.Model(x, aspp(x, 3, (2,), name="a"))
    picture = np.random.default_rng(0).normal(size=(1, 5, 6, 2)).astype("float32")
    trained = np.asarray(tf.function(model)(picture, training=True))
    pooled, dense = (model.get_layer(f"a.convs.{branch}") for branch in ("2.2", "0.1"))
    np.testing.assert_array_equal(pooled.moving_variance, np.ones(3))
    np.testing.assert_array_equal(pooled.moving_mean, np.zeros(3))
    assert not np.array_equal(dense.moving_variance, np.ones(3))
    two = np.asarray(model(np.concatenate([picture, picture + 1]), training=True))
    assert np.isfinite(trained).all()
    assert np.isfinite(two).all()
    assert not np.array_equal(pooled.moving_variance, np.ones(3))


# Any picture, any channel count, any precision. -----------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v1", "v2", "v3", "v3+"])
def test_any_size_and_channel_count(version):
    settings = {"filters": 2, "aspp_filters": 4} if version in ("v1", "v2") else {"backbone": _narrow(5)}
    model = build_deeplab((None, None, 5), 3, version=version, **settings)
    assert model.output_names == ["logits"]
    for size in ((33, 50), (1, 7)):
        picture = np.zeros((1, *size, 5), "uint8")
        assert model(picture).shape == (1, *size, 3)


def test_scores_are_taken_before_they_are_enlarged():
    model = build_deeplab((64, 64, 3), 3, backbone=_narrow(), decoder_filters=8)
    assert model.get_layer("segmentation_head.0").output.shape == (None, 16, 16, 3)
    assert model.get_layer("logits_resize").input[0] is model.get_layer("segmentation_head.0").output


def test_logits_stay_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build_deeplab((32, 32, 3), 2, backbone=_narrow(), decoder_filters=8, auxiliary=True)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.get_layer("decoder.block2.0.1").compute_dtype == "bfloat16"
    outputs = model(np.zeros((1, 32, 32, 3)))
    assert {name: value.dtype for name, value in outputs.items()} == {"logits": tf.float32, "auxiliary": tf.float32}


def test_tflite_keeps_dilated_convolutions_and_agrees(tmp_path):
    keras.utils.set_random_seed(0)
    model = build_deeplab((None, None, 3), 3, version="v3", backbone=_narrow(), aspp_filters=4, rates=(2, 3))
    result = export_tflite(model, tmp_path / "deeplab.tflite", input_shape=(33, 47))
    x = np.random.default_rng(0).integers(0, 256, (1, 33, 47, 3)).astype("uint8")
    expected = np.asarray(model(x))
    got = load_runner(result.path)(x)["logits"]
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
    from ai_edge_litert.interpreter import Interpreter

    kinds = {details["op_name"] for details in Interpreter(model_path=str(result.path))._get_ops_details()}
    assert "CONV_2D" in kinds
    assert not {"SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND"} & kinds


# Weights. ------------------------------------------------------------------------------------------------------------


def test_large_fov_takes_the_classifier_s_layers_and_leaves_numbers_out():
    """fc6 7x7 -> taps 0, 3, 6 and evenly spaced filters; fc7 the same channels."""
    rng = np.random.default_rng(0)
    image = keras.Input((224, 224, 3))
    x = keras.layers.Conv2D(2, 3, name="block1_conv1")(image)
    x = keras.layers.AveragePooling2D(32, padding="same")(x)  # 7 x 7 x 2
    x = keras.layers.Conv2D(16, 3, padding="same", name="block5_conv3")(keras.layers.Conv2D(16, 1, name="wider")(x))
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(9, name="fc2")(keras.layers.Dense(9, name="fc1")(x))
    classifier = keras.Model(image, keras.layers.Dense(4, name="predictions")(x))
    for variable in classifier.variables:
        variable.assign(rng.normal(size=variable.shape))
    model = build_deeplab(version="v2", filters=2, aspp_filters=5, backbone_weights=classifier)
    np.testing.assert_array_equal(model.get_layer("conv1_1").kernel, classifier.get_layer("block1_conv1").kernel)
    kept = [0, 2, 4, 6, 8]
    dense = classifier.get_layer("fc1").kernel.numpy().reshape(7, 7, 16, 9)
    for k in (1, 2, 3, 4):
        np.testing.assert_array_equal(model.get_layer(f"fc6_{k}").kernel, dense[::3, ::3][..., kept])
        second = classifier.get_layer("fc2").kernel.numpy()
        np.testing.assert_array_equal(model.get_layer(f"fc7_{k}").kernel[0, 0], second[np.ix_(kept, kept)])


def _vgg(width=2, fc=None, extra=()):
    """VGG-16 under Keras's names, narrow, with or without its fully connected layers, as layers that nothing runs."""
    image = x = keras.Input((224, 224, 3))
    for block, (factor, count) in enumerate([(1, 2), (2, 2), (4, 3), (8, 3), (8, 3)], start=1):
        for step in range(1, count + 1):
            x = keras.layers.Conv2D(width * factor, 3, padding="same", name=f"block{block}_conv{step}")(x)
        x = keras.layers.MaxPooling2D(2)(x)
    for name in extra:
        x = keras.layers.Conv2D(width * 8, 3, padding="same", name=name)(x)
    if fc:
        x = keras.layers.Flatten()(x)
        x = keras.layers.Dense(fc, name="fc2")(keras.layers.Dense(fc, name="fc1")(x))
    return keras.Model(image, x, name="vgg")


def test_a_classifier_without_its_top_is_loaded_with_a_warning():
    source = _vgg()
    with pytest.warns(UserWarning, match=r"nothing for \['fc6', 'fc7'\]"):
        model = build_deeplab(version="v1", filters=2, aspp_filters=4, backbone_weights=source)
    np.testing.assert_array_equal(model.get_layer("conv5_3").kernel, source.get_layer("block5_conv3").kernel)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: _vgg(4, fc=4), r"does not fit layer 'conv1_1'.*expected a kernel \(3, 3, 3, 2\).*\(3, 3, 3, 4\)"),
        (lambda: _vgg(fc=3), r"does not fit layer 'fc6'"),
        (lambda: _vgg(fc=4, extra=["block3_conv4"]), r"another network.*\['conv3_4'\]"),
    ],
    ids=["wider", "fewer filters", "VGG-19"],
)
def test_a_classifier_that_does_not_fit_is_refused(source, message):
    with pytest.raises(ModelError, match=message):
        build_deeplab(version="v1", filters=2, aspp_filters=4, backbone_weights=source())


@pytest.mark.parametrize("version", ["v3", "v3+"])
def test_a_state_dict_of_other_classes_leaves_the_head(version):
    sizes = _HEADS if version == "v3+" else {"aspp_filters": 4}
    first, other = (build_deeplab((32, 32, 3), n, version=version, backbone=_narrow(), **sizes) for n in (5, 3))
    head = {"v3": "classifier.4", "v3+": "segmentation_head.0"}[version]
    before, state = other.get_layer(head).get_weights()[0], to_torch_state(first)
    with pytest.warns(UserWarning, match=rf"other shapes for \['{head}'\]"):
        load_torch(other, state)
    np.testing.assert_array_equal(other.get_layer(head).kernel, before)
    fitting = {"v3": "classifier.0.project.0", "v3+": "decoder.block1.0"}[version]
    np.testing.assert_array_equal(other.get_layer(fitting).kernel, first.get_layer(fitting).kernel)


def test_a_decoder_fits_without_its_encoder():
    first, other = (build_deeplab((32, 32, 3), 3, backbone=_narrow(), decoder="smp", **_HEADS) for _ in range(2))
    before = other.get_layer("backbone").get_weights()
    state = {key: value for key, value in to_torch_state(first).items() if not key.startswith("backbone.")}
    # Of a file of segmentation_models.pytorch, whose encoder has other names.
    state |= {"encoder.conv1.weight": np.zeros((4, 3, 7, 7)), "encoder.bn1.num_batches_tracked": np.zeros(())}
    load_torch(other, state, new=("backbone.*",), ignore=("encoder.",))
    for name in ("decoder.block1.0", "segmentation_head.0"):
        np.testing.assert_array_equal(other.get_layer(name).kernel, first.get_layer(name).kernel)
    for got, kept in zip(other.get_layer("backbone").get_weights(), before, strict=True):
        np.testing.assert_array_equal(got, kept)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"version": "v4"}, "`version` must be one of"),
        ({"decoder": "unet"}, "`decoder` must be one of"),
        ({"output_stride": 32}, "`output_stride` must be 8 or 16"),
        ({"version": "v1", "output_stride": 16}, "`output_stride` must be 8 for v1"),
        ({"version": "v2", "auxiliary": True}, "`auxiliary` goes with v3"),
        ({"multi_grid": (1, 2, 4), "backbone": "mobilenetv2"}, "`multi_grid` goes with"),
        ({"normalization": "batch"}, "`normalization` goes with v1"),
        ({"version": "v2", "normalization": "batch", "backbone": "mobilenetv2"}, "`normalization` goes with v1"),
        ({"version": "v1", "normalization": "batch", "backbone_weights": "a.h5"}, "Leave one of the two out"),
        ({"version": "v1", "rates": ()}, r"`rates` must be one number for v1. Received: rates=\(\)"),
        ({"version": "v1", "rates": (6, 12)}, "`rates` must be one number for v1"),
        ({"version": "v2", "rates": ()}, "`rates` must be at least one number for v2"),
        ({"version": "v2", "backbone": "mobilenetv2", "rates": ()}, "`rates` must be at least one number for v2"),
        ({"backbone": "resnet5"}, "`backbone` must be one of"),
        ({"num_classes": 0}, "`num_classes` must be at least 1"),
        ({"weights": "torchvision/coco-voc"}, "has no published file"),
    ],
)
def test_wrong_options_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_deeplab((None, None, 3), **{"num_classes": 2, **arguments})


def test_unknown_arguments_name_the_right_one():
    with pytest.raises(TypeError, match="Did you mean `rates`"):
        build_deeplab(rate=(1, 2))


@pytest.mark.parametrize(("version", "heads"), [("v1", 1), ("v2", 4)])
def test_vgg_takes_a_normalization_behind_every_convolution_but_the_scores(version, heads):
    small = {"version": version, "filters": 2, "aspp_filters": 4}
    model = build_deeplab((None, None, 3), 2, **small, normalization="batch")
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds.count("SyncBatchNormalization") == 13 + 2 * heads
    assert {layer.name for layer in build_deeplab((None, None, 3), 2, **small).layers} < {x.name for x in model.layers}


def test_every_normalization_is_synchronized():
    model = build_deeplab((None, None, 3), 2, backbone=_narrow(), auxiliary=True)
    found = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert found
    assert all(isinstance(layer, SyncBatchNormalization) for layer in found)
