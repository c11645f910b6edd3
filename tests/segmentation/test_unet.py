"""U-Net: the paper's claims, and equality with recorded PyTorch networks."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_cv_lectures as kcvl
from keras_cv_lectures.layers import ImageNormalization
from keras_cv_lectures.segmentation import build_unet, unet_decoder
from keras_cv_lectures.segmentation.unet import context_margin, valid_size


def test_the_paper_network_has_the_published_shape_and_parameters():
    model = build_unet((572, 572, 1), 2, variant="paper")
    assert model.output_shape == (None, 388, 388, 2)
    assert model.count_params() == 31_030_658
    convolutions = [x for x in model.layers if isinstance(x, keras.layers.Conv2D | keras.layers.Conv2DTranspose)]
    assert len(convolutions) == 23


def test_the_released_network_has_the_parameters_of_its_file():
    assert build_unet((572, 572, 1), 2, variant="released").count_params() == 31_100_354


@pytest.mark.parametrize("side", [188, 204, 572])
def test_valid_sizes_lose_184_pixels(side):
    model = build_unet((side, side + 16, 1), 2, variant="paper", filters=2)
    assert model.output_shape == (None, side - 184, side + 16 - 184, 2)


def test_context_of_the_valid_network():
    assert context_margin(4) == 92
    assert [valid_size(side) for side in (388, 389, 1, 4, 5)] == [572, 588, 188, 188, 204]
    # One level less: 140 -> 100 by hand: 136 | 68 64 | 32 28 | 14 10 | 20 16 | 32 28 | 56 52... margin (2+4+8)*2+16=44.
    assert context_margin(3) == 44


@pytest.mark.parametrize(
    ("size", "named"),
    [((573, 572), (572, 588, 604)), ((572, 100), (188, 204, 220)), ((186, 572), (188, 204)), ((572, 172), (188, 204))],
)
def test_sizes_that_valid_convolutions_cannot_take_are_refused_with_the_next_ones(size, named):
    fitting = ", ".join(map(str, named))
    with pytest.raises(ValueError, match=rf"`input_shape` .* must make every pooled map even: {fitting}"):
        build_unet((*size, 1), 2, variant="paper", filters=2)
    for side in named:
        build_unet((side, side, 1), 2, variant="paper", filters=1)


def test_skips_are_taken_after_dropout_and_dropout_stands_at_the_end_of_the_contracting_path():
    model = build_unet((188, 188, 1), 2, variant="paper", filters=2)
    names = [layer.name for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert names == ["dropout_d3c", "dropout_d4c"]
    assert model.get_layer("crop_d3c").input[0] is model.get_layer("dropout_d3c").output


def test_up_convolution_comes_first_in_the_concatenation():
    model = build_unet((188, 188, 1), 2, variant="paper", filters=2)
    first, second = model.get_layer("concat_u3b").input
    assert first is model.get_layer("upconv_d4c_u3a").output
    assert second is model.get_layer("crop_d3c").output


@pytest.mark.parametrize("upsampling", ["transpose", "bilinear", "nearest"])
@pytest.mark.parametrize("size", [(33, 51), (1, 7), (64, 48)])
def test_modern_network_keeps_any_size(upsampling, size):
    model = build_unet((None, None, 2), 3, filters=2, depth=3, upsampling=upsampling)
    assert model(np.zeros((1, *size, 2), "uint8")).shape == (1, *size, 3)


def test_padding_does_not_change_the_pixels_that_need_none():
    """A picture and the same picture in a static graph of its own size agree."""
    dynamic = build_unet((None, None, 3), 2, filters=2, depth=2)
    static = build_unet((20, 24, 3), 2, filters=2, depth=2)
    static.set_weights(dynamic.get_weights())
    x = np.random.default_rng(0).uniform(0, 255, (2, 20, 24, 3))
    np.testing.assert_allclose(static(x), dynamic(x), atol=1e-6)


def test_uint8_and_float_pictures_give_the_same_logits():
    model = build_unet((None, None, 3), 2, filters=2, depth=1)
    x = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3)).astype("uint8")
    np.testing.assert_array_equal(model(x), model(x.astype("float32")))


@pytest.mark.parametrize("normalization", ["batch", "group", "layer", None])
def test_normalizations(normalization):
    model = build_unet((16, 16, 3), 2, filters=4, depth=1, normalization=normalization)
    kinds = {type(layer).__name__ for layer in model.layers if "_norm" in layer.name}
    expected = {"batch": "SyncBatchNormalization", "group": "GroupNormalization", "layer": "LayerNormalization"}
    assert kinds == ({expected[normalization]} if normalization else set())
    convolution = model.get_layer("conv_d0a-b")
    assert convolution.use_bias == (normalization is None)


def test_logits_stay_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build_unet((16, 16, 3), 2, filters=2, depth=1)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.get_layer("conv_d0a-b").compute_dtype == "bfloat16"
    assert model(np.zeros((1, 16, 16, 3))).dtype == "float32"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_classes": 3}, "Did you mean `num_classes`"),
        ({"encoder_weights": "imagenet"}, "Did you mean `backbone_weights`"),
        ({"fliters": 3}, "Did you mean `filters`"),
    ],
)
def test_unknown_arguments_name_the_right_one(arguments, message):
    with pytest.raises(TypeError, match=message):
        build_unet((None, None, 3), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "papper"}, "`variant` must be one of"),
        ({"upsampling": "bicubic"}, "`upsampling` must be one of"),
        ({"depth": 0}, "`depth` must be at least 1"),
        ({"filters": [1, 2, 3]}, r"depth \+ 1 = 5"),
        ({"num_classes": 0}, "`num_classes` must be at least 1"),
        ({"backbone": "resnet5"}, "Did you mean 'resnet50'"),
        ({"backbone": "vgg16", "variant": "paper"}, "`backbone` needs"),
        ({"backbone_weights": "imagenet"}, "goes with a `backbone`.*'resnet50_v1_5'"),
        ({"normalization": "instance"}, "`normalization` must be one of"),
    ],
)
def test_wrong_options_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_unet((None, None, 3), **{"num_classes": 2, **arguments})


def _torch_kernel(array):
    """(out, in, h, w) -> (h, w, in, out); the same axes serve torch's transposed (in, out, h, w) -> (h, w, out, in)."""
    return array.transpose(2, 3, 1, 0)


def _load_golden_unet(model, arrays):
    """Weights of the recorded network: `down.L.K`, `up.L`, `dec.L.K`, where K counts layers within a level."""
    params = {key.removeprefix("param/"): value for key, value in arrays.items() if key.startswith("param/")}
    depth = len({key.split(".")[1] for key in params if key.startswith("up.")})

    def fill(layer, prefix, norm=None):
        bias = params.get(f"{prefix}.bias")
        kernel = _torch_kernel(params[f"{prefix}.weight"])
        layer.set_weights([kernel] if not layer.use_bias else [kernel, bias])
        if norm is not None:
            stem = norm[1]
            beta, mean = params[f"{stem}.bias"], params[f"{stem}.running_mean"]
            if bias is not None and not layer.use_bias:
                mean = mean - bias  # A bias before batch normalisation is part of the mean.
            norm[0].set_weights([params[f"{stem}.weight"], beta, mean, params[f"{stem}.running_var"]])

    def fill_block(names, prefix):
        numbers = sorted({int(k.split(".")[2]) for k in params if k.startswith(f"{prefix}.")})
        convolutions = [n for n in numbers if params[f"{prefix}.{n}.weight"].ndim == 4]
        for name, n in zip(names, convolutions, strict=True):
            with_norm = f"{prefix}.{n + 1}.running_mean" in params
            norm = (model.get_layer(f"{name}_norm"), f"{prefix}.{n + 1}") if with_norm else None
            fill(model.get_layer(name), f"{prefix}.{n}", norm)

    for level in range(depth + 1):
        fill_block([f"conv_d{level}a-b", f"conv_d{level}b-c"], f"down.{level}")
    for k in range(depth):
        level = depth - 1 - k
        below = f"d{depth}c" if k == 0 else f"u{level + 1}d"
        fill(model.get_layer(f"upconv_{below}_u{level}a"), f"up.{k}")
        fill_block([f"conv_u{level}b-c", f"conv_u{level}c-d"], f"dec.{k}")
        # The recorded network concatenates the skip first, the paper's released files (and ours) the up-convolution.
        first = model.get_layer(f"conv_u{level}b-c")
        kernel, *bias = first.get_weights()
        skip = model.get_layer(f"conv_d{level}b-c").filters
        first.set_weights([np.concatenate([kernel[:, :, skip:], kernel[:, :, :skip]], axis=2), *bias])
    fill(model.get_layer("score"), "head")


@pytest.mark.golden
@pytest.mark.parametrize(("name", "variant"), [("model_unet_same_tiny", "modern"), ("model_unet_valid_tiny", "paper")])
def test_equals_the_recorded_torch_network(golden, name, variant):
    arrays, _ = golden(name)
    levels = len({key.split(".")[1] for key in arrays if key.startswith("param/down.")})
    filters = [arrays[f"param/down.{level}.0.weight"].shape[0] for level in range(levels)]
    x = arrays["in/x"].transpose(0, 2, 3, 1)
    expected = arrays["out/y"].transpose(0, 2, 3, 1)
    model = build_unet(
        x.shape[1:],
        expected.shape[-1],
        variant=variant,
        depth=levels - 1,
        filters=filters,
        dropout=0.0,
        include_preprocessing=False,
    )
    _load_golden_unet(model, arrays)
    got = np.asarray(model(x))
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.golden
def test_decoder_equals_the_recorded_smp_decoder(golden):
    arrays, cfg = golden("model_smp_unet_decoder")
    features = {k: arrays[f"in/f{k}"].transpose(0, 2, 3, 1) for k in range(1, 6)}
    inputs = {f"c{k}": keras.Input(value.shape[1:], name=f"c{k}") for k, value in features.items()}
    output = unet_decoder(inputs, cfg["decoder_channels"], upsampling=cfg["interpolation"])
    decoder = keras.Model(inputs, output)
    for stage, level in enumerate((4, 3, 2, 1, 0)):
        for step, conv in (("a", "conv1"), ("b", "conv2")):
            stem = f"param/blocks.{stage}.{conv}"
            decoder.get_layer(f"decoder{level}{step}").set_weights([_torch_kernel(arrays[f"{stem}.0.weight"])])
            norm = [arrays[f"{stem}.1.{part}"] for part in ("weight", "bias", "running_mean", "running_var")]
            decoder.get_layer(f"decoder{level}{step}_norm").set_weights(norm)
    expected = arrays["out/y"].transpose(0, 2, 3, 1)
    got = np.asarray(decoder({f"c{k}": value for k, value in features.items()}))
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


def test_image_normalization_conventions_by_hand():
    x = np.array([[[[0, 127.5, 255]]]], "float32")
    np.testing.assert_allclose(ImageNormalization("unit")(x)[0, 0, 0], [0, 0.5, 1], atol=1e-6)
    np.testing.assert_allclose(ImageNormalization("symmetric")(x)[0, 0, 0], [-1, 0, 1], atol=1e-6)
    torch = [(0 - 123.675) / 58.395, (127.5 - 116.28) / 57.12, (255 - 103.53) / 57.375]
    np.testing.assert_allclose(ImageNormalization("torch")(x)[0, 0, 0], torch, rtol=1e-5)
    # BGR: the last channel comes first.
    np.testing.assert_allclose(
        ImageNormalization("caffe")(x)[0, 0, 0], [255 - 103.939, 127.5 - 116.779, -123.68], rtol=1e-5
    )


def test_weights_from_a_file_keep_the_head_when_classes_differ(tmp_path):
    source = build_unet((None, None, 3), 4, filters=2, depth=1)
    source.save(tmp_path / "four.keras")
    same = build_unet((None, None, 3), 4, filters=2, depth=1, weights=str(tmp_path / "four.keras"))
    x = np.random.default_rng(0).uniform(0, 255, (1, 8, 8, 3))
    np.testing.assert_array_equal(source(x), same(x))
    with pytest.warns(UserWarning, match=r"other shapes for \['score'\]"):
        other = build_unet((None, None, 3), 7, filters=2, depth=1, weights=str(tmp_path / "four.keras"))
    np.testing.assert_array_equal(
        source.get_layer("conv_d0a-b").kernel.numpy(), other.get_layer("conv_d0a-b").kernel.numpy()
    )
    with pytest.raises(ValueError, match="must be an existing file"):
        build_unet((None, None, 3), 4, filters=2, depth=1, weights=str(tmp_path / "none.keras"))


def test_tflite_with_open_height_and_width_takes_any_size(tmp_path):
    """The padding inside is computed from a size that only the device knows."""
    model = build_unet((None, None, 3), 3, filters=4, depth=2)
    path = kcvl.export_tflite(model, tmp_path / "unet.tflite", dynamic=True).path
    runner = kcvl.load_runner(path)
    for size in ((33, 51), (64, 48)):
        x = np.random.default_rng(0).integers(0, 256, (1, *size, 3)).astype("uint8")
        np.testing.assert_allclose(runner(x)["logits"], model(x), atol=1e-4)
