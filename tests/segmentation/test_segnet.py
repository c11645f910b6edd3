"""SegNet: the claims of the paper, the recorded PyTorch network, and local response normalisation by hand."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_cv_lectures as kcvl
from keras_cv_lectures.layers import LocalResponseNormalization, MaxPoolWithArgmax, MaxUnpool
from keras_cv_lectures.segmentation.crf import append_crf
from keras_cv_lectures.segmentation.segnet import build_segnet, predict_bayesian


def _trainable(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def _pictures(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype("uint8")


@pytest.mark.parametrize(("variant", "parameters"), [("vgg16", 29_449_355), ("basic", 1_415_563 + 1_024)])
def test_has_the_parameters_of_the_released_networks(variant, parameters):
    assert _trainable(build_segnet(variant=variant)) == parameters


def test_layers_and_sizes_of_the_published_table():
    """Table of the release at 360x480: channels, height, width; odd sizes by ceil pooling."""
    model = build_segnet((360, 480, 3), 11, filters=2)
    scale = 64 // 2
    table = {
        "conv1_2_relu": (360, 480, 64),
        "conv3_3_relu": (90, 120, 256),
        "pool4": (23, 30, 512),
        "pool5": (12, 15, 512),
        "upsample5": (23, 30, 512),
        "conv5_1_D_relu": (23, 30, 512),
        "upsample4": (45, 60, 512),
        "conv4_1_D_relu": (45, 60, 256),
        "upsample3": (90, 120, 256),
        "conv3_1_D_relu": (90, 120, 128),
        "conv2_1_D_relu": (180, 240, 64),
        "conv1_2_D_relu": (360, 480, 64),
    }
    for name, (height, width, channels) in table.items():
        output = model.get_layer(name).output
        output = output[0] if isinstance(output, list) else output
        assert tuple(output.shape[1:]) == (height, width, channels // scale), name
    assert [x.name for x in model.layers if isinstance(x, keras.layers.Conv2D)][-1] == "conv1_1_D"
    assert len([x for x in model.layers if isinstance(x, keras.layers.Conv2D)]) == 26


def test_basic_has_no_relu_in_its_decoder_and_normalises_the_picture():
    model = build_segnet((None, None, 3), 11, variant="basic", filters=2)
    assert [x.name for x in model.layers if isinstance(x, keras.layers.ReLU)] == [f"conv{k}_relu" for k in range(1, 5)]
    convolutions = [(x.name, x.kernel_size) for x in model.layers if isinstance(x, keras.layers.Conv2D)]
    decoder = [(f"conv_decode{k}", (7, 7)) for k in (4, 3, 2, 1)]
    assert convolutions == [(f"conv{k}", (7, 7)) for k in (1, 2, 3, 4)] + [*decoder, ("conv_classifier", (1, 1))]
    assert model.get_layer("norm").input is model.get_layer("normalize").output


def test_a_maximum_returns_to_its_place_through_pooling_and_unpooling():
    """A bright pixel in each corner of the picture's odd border comes back where it was, and nothing else does."""
    x = np.zeros((1, 5, 7, 1), "float32")
    places = [(0, 0), (0, 6), (3, 3), (4, 0), (4, 6)]
    for value, (row, column) in enumerate(places, start=1):
        x[0, row, column] = value
    pooled, index = MaxPoolWithArgmax(2, padding="same")(x)
    np.testing.assert_array_equal(MaxUnpool(2)([pooled, index, x]), x)


def test_indices_of_each_stage_come_from_the_rectified_map_and_go_to_its_mirror():
    model = build_segnet((32, 32, 3), 3, filters=2)
    for stage, last in zip(range(1, 6), (2, 2, 3, 3, 3), strict=True):
        pool = model.get_layer(f"pool{stage}")
        values, index, before = model.get_layer(f"upsample{stage}").input
        assert index is pool.output[1]
        assert before is pool.input is model.get_layer(f"conv{stage}_{last}_relu").output
        assert values is not pool.output[0] or stage == 5


def test_only_indices_tell_a_pixel_from_its_neighbour():
    """Moving a bright pixel within its pooling window does not change what nearest upsampling of one stage sees."""
    pictures = np.zeros((2, 4, 4, 1), "float32")
    pictures[0, 0, 0] = pictures[1, 1, 1] = 255
    for upsampling, differs in (("indices", True), ("nearest", False), ("bilinear", False)):
        keras.utils.set_random_seed(1)
        model = build_segnet((4, 4, 1), 2, variant="basic", filters=((1,),), normalization=None, upsampling=upsampling)
        identity = np.zeros((7, 7, 1, 1), "float32")
        identity[3, 3] = 1
        model.get_layer("conv1").set_weights([identity, np.zeros(1)])
        first, second = np.asarray(model(pictures))
        assert (np.abs(first - second).max() > 0) == differs, upsampling


@pytest.mark.parametrize("upsampling", ["indices", "nearest", "bilinear"])
def test_any_size_works(upsampling):
    model = build_segnet((None, None, 2), 3, variant="basic", filters=1, upsampling=upsampling)
    for size in ((33, 51), (1, 7), (16, 48)):
        assert model(np.zeros((1, *size, 2), "uint8")).shape == (1, *size, 3)
    static = build_segnet((1, 51, 2), 3, variant="basic", filters=1, upsampling=upsampling)
    assert static.output_shape == (None, 1, 51, 3)


def test_a_static_and_a_dynamic_network_agree_on_an_odd_size():
    dynamic = build_segnet((None, None, 3), 2, filters=2)
    static = build_segnet((23, 37, 3), 2, filters=2)
    static.set_weights(dynamic.get_weights())
    x = _pictures(2, 23, 37, 3)
    expected = np.asarray(dynamic(x))
    np.testing.assert_allclose(static(x), expected, atol=1e-5 * np.abs(expected).max())


def test_released_networks_get_bgr_in_0_to_255():
    model = build_segnet((2, 2, 3), 2, filters=((2,),))
    layers = keras.Model(model.input, model.get_layer("normalize").output)
    np.testing.assert_array_equal(layers(np.full((1, 2, 2, 3), [1, 2, 255], "uint8"))[0, 0, 0], [255, 2, 1])


def test_local_response_normalization_by_hand():
    # Window of 3 over 4 channels: sums of squares 1 + 4, 1 + 4 + 9, 4 + 9 + 16, 9 + 16; alpha / size = 0.5.
    x = np.array([1, 2, 3, 4], "float32").reshape(1, 1, 1, 4)
    got = LocalResponseNormalization(size=3, alpha=1.5, beta=0.5)(x)
    expected = x[0, 0, 0] / np.sqrt(1 + 0.5 * np.array([5, 14, 29, 25]))
    np.testing.assert_allclose(got[0, 0, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 4, 9])
def test_local_response_normalization_equals_tensorflow(channels):
    import tensorflow as tf

    x = np.random.default_rng(0).uniform(0, 255, (2, 3, 4, channels)).astype("float32")
    expected = tf.nn.local_response_normalization(x, depth_radius=2, bias=1.0, alpha=1e-4 / 5, beta=0.75)
    np.testing.assert_allclose(LocalResponseNormalization()(x), expected, rtol=1e-5)


def test_dropout_stands_where_the_bayesian_networks_have_it():
    def dropouts(variant):
        model = build_segnet((32, 32, 3), 2, variant=variant, filters=1, dropout=0.5)
        return [(x.name, x.input) for x in model.layers if isinstance(x, keras.layers.Dropout)], model

    found, model = dropouts("vgg16")
    assert [name for name, _ in found] == ["encdrop3", "encdrop4", "encdrop5", "decdrop5", "decdrop4", "decdrop3"]
    assert found[0][1] is model.get_layer("pool3").output[0]
    assert found[3][1] is model.get_layer("conv5_1_D_relu").output
    found, model = dropouts("basic")
    assert [name for name, _ in found] == ["encdrop3", "encdrop4", "decdrop4", "decdrop3"]
    assert found[2][1] is model.get_layer("conv_decode4_bn").output
    assert not [x for x in build_segnet(filters=1).layers if isinstance(x, keras.layers.Dropout)]


@pytest.mark.parametrize(
    ("filters", "names"), [(((2,), (2,)), ["encdrop2", "decdrop2"]), (((2,),), ["encdrop1", "decdrop1"])]
)
def test_the_deepest_stage_of_a_small_network_drops(filters, names):
    model = build_segnet((8, 8, 3), 2, filters=filters, dropout=0.5)
    assert [x.name for x in model.layers if isinstance(x, keras.layers.Dropout)] == names


def test_bayesian_prediction_averages_passes_that_drop():
    """One stage-3 map, one weight: half of the passes see 2 x the activation, half see none."""
    inputs = keras.Input((1, 1, 1), name="image")
    logits = keras.layers.Dropout(0.5, name="drop")(inputs)
    logits = keras.layers.Concatenate()([logits, keras.layers.Rescaling(0.0)(logits)])
    model = keras.Model(inputs, logits)
    mean, variance = predict_bayesian(model, np.full((400, 1, 1, 1), np.log(3) / 2, "float32"), samples=20, seed=0)
    # Kept: softmax(log 3, 0) = 0.75; dropped: 0.5. Mean 0.625, variance 0.125^2.
    assert abs(mean[..., 0].mean() - 0.625) < 5 * 0.125 / np.sqrt(8000)
    assert abs(variance[..., 0].mean() - 0.125**2 * 19 / 20) < 1e-3
    np.testing.assert_allclose(mean.sum(-1), 1, rtol=1e-6)


def test_bayesian_prediction_of_one_class_takes_the_sigmoid():
    """Kept: sigmoid(log 3) = 0.75; dropped: 0.5. The softmax of one channel is 1."""
    inputs = keras.Input((1, 1, 1), name="image")
    model = keras.Model(inputs, keras.layers.Dropout(0.5)(inputs))
    mean, variance = predict_bayesian(model, np.full((400, 1, 1, 1), np.log(3) / 2, "float32"), samples=20, seed=0)
    assert abs(mean.mean() - 0.625) < 5 * 0.125 / np.sqrt(8000)
    assert abs(variance.mean() - 0.125**2 * 19 / 20) < 1e-3


def test_bayesian_prediction_of_a_network_keeps_its_statistics_and_repeats_with_a_seed(tmp_path):
    model = build_segnet((16, 16, 3), 3, variant="basic", filters=4, dropout=0.5)
    before = model.get_weights()
    x = _pictures(2, 16, 16, 3)
    first, variance = predict_bayesian(model, x, 3, seed=1)
    again, _ = predict_bayesian(model, x, 3, seed=1)
    np.testing.assert_array_equal(first, again)
    assert variance.max() > 0
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(model(x), model(x))  # The model itself still does not drop.
    model.save(tmp_path / "segnet.keras")  # Nor do the sampler's calls of its layers get into its file.
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "segnet.keras")(x), model(x))


def test_bayesian_prediction_drops_in_every_layer_on_its_own():
    """The first dropout keeps or loses the one class, the second the other: all four cases come up, not two."""
    inputs = keras.Input((1, 1, 1), name="image")
    halves = [keras.layers.Dropout(0.5, name=f"drop{k}")(inputs) for k in (1, 2)]
    model = keras.Model(inputs, keras.layers.Subtract()(halves))
    logits = keras.layers.Concatenate()([model.output, keras.layers.Rescaling(0.0)(model.output)])
    model = keras.Model(inputs, logits)
    mean, variance = predict_bayesian(model, np.full((400, 1, 1, 1), np.log(3) / 2, "float32"), samples=4, seed=0)
    # Identical masks would leave 0 logits in every pass. Independent ones: 0.5, 0.75 or 0.25 with 1/2, 1/4 and 1/4.
    assert abs(mean[..., 0].mean() - 0.5) < 0.03
    assert abs(variance[..., 0].mean() - 0.25**2 / 2 * 3 / 4) < 4e-3


def test_bayesian_prediction_looks_into_nested_models_and_at_the_logits():
    network = build_segnet((8, 8, 3), 2, variant="basic", filters=4, dropout=0.5)
    x = _pictures(1, 8, 8, 3)
    _, variance = predict_bayesian(append_crf(network, window=3, iterations=1), x, 3, seed=1)
    assert variance.max() > 0
    two = keras.Model(network.input, {"auxiliary": network.output * 0.0, "logits": network.output})
    for got, expected in zip(predict_bayesian(two, x, 3, seed=1), predict_bayesian(network, x, 3, seed=1), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "small"}, "`variant` must be one of"),
        ({"upsampling": "index"}, "`upsampling` must be one of"),
        ({"pooling": "round"}, "`pooling` must be one of"),
        ({"pooling": "floor", "upsampling": "nearest"}, 'needs `upsampling="indices"`'),
        ({"pooling": "floor", "input_shape": (31, 64, 3)}, "at least 32 pixels"),
        ({"filters": 0}, "`filters` must be at least 1"),
        ({"filters": ((8, 8), ())}, "list of stages"),
        ({"filters": ((8, 8),), "variant": "basic"}, "one number each"),
        ({"filters": ((8, 8),), "decoder_filters": ((8,),)}, "as many stages and convolutions"),
        ({"normalization": "instance"}, "`normalization` must be one of"),
    ],
)
def test_wrong_options_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_segnet(**{"num_classes": 2, **arguments})


def test_bayesian_prediction_explains_what_it_needs():
    model = build_segnet((8, 8, 3), 2, variant="basic", filters=1)
    with pytest.raises(ValueError, match="must have Dropout layers"):
        predict_bayesian(model, np.zeros((1, 8, 8, 3)))
    with pytest.raises(ValueError, match="`samples` must be at least 1"):
        predict_bayesian(model, np.zeros((1, 8, 8, 3)), 0)


def test_file_and_tflite_of_basic_agree_with_the_model(tmp_path):
    """The contract suite does this for the VGG16 form."""
    model = build_segnet((None, None, 3), 3, variant="basic", filters=4)
    x = _pictures(1, 33, 47, 3)
    expected = np.asarray(model(x))
    model.save(tmp_path / "segnet.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "segnet.keras")(x), expected)
    path = kcvl.export_tflite(model, tmp_path / "segnet.tflite", input_shape=(33, 47)).path
    got = kcvl.load_runner(path)(x)["logits"]
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.golden
def test_equals_the_recorded_torch_network(golden):
    """Three stages with floor pooling; the decoder changes its channels at the first convolution of a stage."""
    arrays, _ = golden("model_segnet_tiny")
    params = {key.removeprefix("param/"): value for key, value in arrays.items() if key.startswith("param/")}

    def stages(prefix):
        found = sorted({int(key.split(".")[1]) for key in params if key.startswith(f"{prefix}.")})
        return [
            sorted(
                k.removesuffix(".weight") for k, v in params.items() if k.startswith(f"{prefix}.{s}.") and v.ndim == 4
            )
            for s in found
        ]

    def widths(names):
        return [[params[f"{name}.weight"].shape[0] for name in stage] for stage in names]

    x, expected = (arrays[key].transpose(0, 2, 3, 1) for key in ("in/x", "out/y"))
    encoder, decoder = stages("enc"), stages("dec")
    model = build_segnet(
        x.shape[1:],
        expected.shape[-1],
        filters=widths(encoder),
        decoder_filters=widths(decoder),
        pooling="floor",
        include_preprocessing=False,
    )
    ours = [f"conv{s}_{k}" for s, stage in enumerate(encoder, 1) for k in range(1, len(stage) + 1)]
    ours += [f"conv{len(decoder) - s}_{k}_D" for s, stage in enumerate(decoder) for k in range(len(stage), 0, -1)]
    theirs = [name for stage in encoder + decoder for name in stage]
    for name, key in zip([*ours, "conv_classifier"], [*theirs, "head"], strict=True):
        kernel = params[f"{key}.weight"].transpose(2, 3, 1, 0)
        model.get_layer(name).set_weights([kernel, params[f"{key}.bias"]])
        if key != "head":
            stem, number = key.rsplit(".", 1)
            norm = [params[f"{stem}.{int(number) + 1}.{p}"] for p in ("weight", "bias", "running_mean", "running_var")]
            model.get_layer(f"{name}_bn").set_weights(norm)
    got = np.asarray(model(x))
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
