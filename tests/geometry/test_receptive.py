"""Receptive fields read from graphs, against arithmetic by hand and against pictures with one changed pixel."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_cv_lectures.geometry.receptive import (
    ReceptiveField,
    fit_size,
    output_size,
    receptive_field,
    window_margin,
)
from keras_cv_lectures.layers import (
    AtrousConv2D,
    BedOfNails,
    BilinearConv2DTranspose,
    CropLike,
    LocalResponseNormalization,
    MaxPoolWithArgmax,
    MaxUnpool,
    MeanFieldCRF,
    PadToAtLeast,
    PadToMultiple,
    ResizeLike,
    SubPixelConv2DTranspose,
    Upsample,
    UpsampleTwice,
)

# Ways to double a map, by the name that `_unet` knows them by.
_DOUBLING = {
    "transpose": lambda: layers.Conv2DTranspose(2, 2, strides=2),
    "overlapping": lambda: layers.Conv2DTranspose(2, 4, strides=2, padding="same"),
    "fixed": lambda: BilinearConv2DTranspose(2, padding="same"),
    "fixed-wide": lambda: BilinearConv2DTranspose(2, 5, padding="same"),
    "subpixel": lambda: SubPixelConv2DTranspose(2, 4),
    "nails": lambda: BedOfNails(2),
    "repeated": lambda: Upsample(2),
    "bicubic": lambda: Upsample(2, "bicubic"),
    "nearest": lambda: UpsampleTwice("nearest"),
    "bilinear": lambda: UpsampleTwice("bilinear"),
}


def test_arithmetic_by_hand():
    x = keras.Input((None, None, 1))
    y = layers.Conv2D(1, 3, padding="same", dilation_rate=2)(x)  # 2 pixels to each side
    y = layers.MaxPooling2D(2)(y)  # pixel i: 2 i, 2 i + 1
    y = layers.Conv2D(1, 3, padding="same")(y)  # 2 more, at stride 2
    y = layers.UpSampling2D(2)(y)  # back on the picture's grid: pixel 2 i + 1 reads what pixel 2 i reads
    field = receptive_field(keras.Model(x, y))
    assert field.stride == 2
    assert field.reach == (5, 5)  # 2 + 2 + 1
    assert field.margin == (6, 6)
    assert field.lost == (0, 0)
    assert field.limit == ""


@pytest.mark.parametrize(
    ("field", "window", "expected"),
    [
        # 384 - 2 * 96 leaves half; 376 - 2 * 96 leaves less, so that a quarter, 94, is rounded down to 80.
        ({"margin": (96, 96), "stride": 16}, (384, 376), ((96, 80), 16)),
        ({"margin": (96, 96), "stride": 16}, (256, 200), ((64, 48), 16)),
        ({"margin": (8, 8), "stride": 16}, (32, 31), ((8, 7), 16)),
        ({"stride": 32, "limit": "it sees all"}, (256, 300), ((64, 64), 32)),
        # A quarter of 48 is less than the stride; of 20 a quarter would leave 10, less than the stride, so that 2 goes.
        ({"margin": (96, 96), "stride": 16}, (48, 20), ((12, 2), 16)),
        # Of windows below the stride each answers for itself.
        ({"stride": 32, "limit": "it sees all"}, (16, 100), ((0, 16), 16)),
        # Valid convolutions: 572 pixels answer for 388.
        ({"margin": (0, 0), "stride": 16, "lost": (184, 184)}, (572, 572), ((0, 0), 16)),
        ({"stride": 16, "lost": (184, 184), "limit": "it sees all"}, (572, 572), ((96, 96), 16)),
    ],
)
def test_the_margin_of_windows_by_hand(field, window, expected):
    assert window_margin(ReceptiveField(**field), window) == expected


def test_unpooling_by_hand():
    x = keras.Input((None, None, 1))
    y, index = MaxPoolWithArgmax()(x)  # pixel i: 2 i, 2 i + 1
    y = AtrousConv2D(1, 3, padding="same", dilation_rate=3)(y)  # 3 to each side, at stride 2
    y = MaxUnpool()([y, index, x])  # pixels 2 i and 2 i + 1 read window i
    field = receptive_field(keras.Model(x, y))
    assert (field.stride, field.reach, field.limit) == (2, (7, 7), "")  # 6 + 1


def test_a_mean_field_reads_a_window_an_iteration_and_one_for_its_kernels():
    x, logits = keras.Input((None, None, 3)), layers.Conv2D(2, 3, padding="same")
    refined = MeanFieldCRF(window=5, iterations=3, dilation=2)([logits(x), x])
    assert receptive_field(keras.Model(x, refined)).reach == (17, 17)  # 1 + (3 + 1) * 4


def test_normalising_channels_and_filling_up_read_no_neighbours():
    x = keras.Input((None, None, 3))
    y = LocalResponseNormalization()(PadToAtLeast(5)(x))
    assert (receptive_field(keras.Model(x, y)).reach, receptive_field(keras.Model(x, y)).stride) == ((0, 0), 1)


def test_corners_upon_corners_have_no_reach_of_their_own():
    x = keras.Input((None, None, 3))
    y = Upsample(2, "bilinear", align_corners=True)(layers.AveragePooling2D(2)(x))
    assert "Upsample" in receptive_field(keras.Model(x, y)).limit


def test_rows_and_columns_are_told_apart():
    x = keras.Input((None, None, 1))
    field = receptive_field(keras.Model(x, layers.Conv2D(1, (7, 1), padding="same")(x)))
    assert (field.reach, field.margin) == ((3, 0), (3, 0))


def test_valid_convolutions_need_no_margin():
    model = _unet(valid=True, upsampling="transpose")
    field = receptive_field(model)
    assert field.stride == 4
    assert field.lost == (40, 40)  # 4 + 2 * 4 at levels 0 and 1 twice, 4 * 4 at level 2
    assert field.margin == (0, 0)
    assert output_size(model, (44, 48)) == (4, 8)
    assert output_size(model, (45, 48)) is None
    assert fit_size(model, (1, 61), field) == (44, 64)


@pytest.mark.parametrize("valid", [True, False])
@pytest.mark.parametrize("upsampling", [*_DOUBLING, "like"])
def test_bound_of_a_unet_holds_and_is_tight(valid, upsampling):
    if valid and upsampling == "like":
        pytest.skip("resizes to the skip, which is larger than the map that it is cropped to")
    model = _unet(valid=valid, upsampling=upsampling)
    field = receptive_field(model)
    true = _measured_reach(model, field, size=fit_size(model, (3 * field.reach[0] + field.lost[0],) * 2, field)[0])
    assert true <= field.reach[0] <= 1.5 * true


@pytest.mark.parametrize("strided", ["conv", "pool", "padded", "depthwise"])
def test_bound_of_strided_layers_holds(strided):
    x = keras.Input((None, None, 1))
    if strided == "conv":
        y = layers.Conv2D(2, 5, strides=2, padding="same")(x)
    elif strided == "pool":
        y = layers.AveragePooling2D(3, strides=2, padding="same")(x)
    elif strided == "padded":
        y = layers.Conv2D(2, 3, strides=2)(layers.ZeroPadding2D(((0, 1), (0, 1)))(x))
    else:
        y = layers.DepthwiseConv2D(3, strides=2, padding="same")(x)
    y = layers.Conv2D(2, 3, padding="same")(y)
    model = keras.Model(x, layers.UpSampling2D(2)(y))
    field = receptive_field(_positive_weights(model))
    true = _measured_reach(model, field, size=32)
    assert true <= field.reach[0] <= true + 2


def test_nested_models_and_operations_are_followed():
    inner_input = keras.Input((None, None, 2))
    inner = keras.Model(inner_input, layers.Conv2D(2, 3, padding="same")(inner_input))
    x = keras.Input((None, None, 2))
    y = keras.ops.relu(inner(inner(x)) + x) * 2.0
    assert receptive_field(keras.Model(x, keras.ops.concatenate([y, x], axis=-1))).reach == (2, 2)
    chain = keras.Sequential([keras.Input((None, None, 2)), layers.Conv2D(1, 5, padding="same"), layers.ReLU()])
    assert receptive_field(chain).reach == (2, 2)
    x = keras.Input((None, None, 2))
    assert receptive_field(keras.Model(x, chain(x))).reach == (2, 2)


def test_padding_to_a_multiple_counts_as_stride():
    x = keras.Input((None, None, 1))
    y = layers.Conv2D(1, 3, padding="same")(PadToMultiple(8)(x))
    field = receptive_field(keras.Model(x, CropLike(anchor="start")([y, x])))
    assert (field.stride, field.margin) == (8, (8, 8))


@pytest.mark.parametrize(
    "layer",
    [
        layers.GlobalAveragePooling2D(keepdims=True, name="squeeze"),
        layers.GroupNormalization(1, name="squeeze"),
        layers.LayerNormalization(axis=(1, 2, 3), name="squeeze"),
        layers.Softmax(axis=(1, 2), name="squeeze"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_that_see_everything_are_named(layer):
    x = keras.Input((32, 32, 2))
    y = layers.Conv2D(2, 3, padding="same")(x)
    field = receptive_field(keras.Model(x, layers.Multiply()([y, layer(y)])))
    assert field.reach is None
    assert field.margin is None
    assert "squeeze" in field.limit
    assert type(layer).__name__ in field.limit


def test_a_users_layer_is_not_trusted_by_its_name():
    class Conv2D(layers.Layer):
        def call(self, x):
            return x - keras.ops.mean(x, axis=(1, 2), keepdims=True)

    x = keras.Input((None, None, 1))
    assert "Conv2D" in receptive_field(keras.Model(x, Conv2D()(x))).limit


def test_coarse_outputs_say_so():
    x = keras.Input((None, None, 1))
    field = receptive_field(keras.Model(x, layers.MaxPooling2D(4)(x)))
    assert field.output_stride == (4, 4)
    assert field.limit


def test_logits_of_several_outputs():
    x = keras.Input((None, None, 1))
    logits = layers.Conv2D(2, 5, padding="same")(x)
    assert receptive_field(keras.Model(x, {"auxiliary": layers.MaxPooling2D(2)(x), "logits": logits})).reach == (2, 2)


def test_models_without_a_picture_are_refused():
    x = keras.Input((5,))
    with pytest.raises(ValueError, match="batch of pictures"):
        receptive_field(keras.Model(x, layers.Dense(2)(x)))


def _unet(*, valid, upsampling, depth=2):
    """Tiny U-Net with positive weights and averages for maxima, so that no dependence hides behind a zero."""
    padding = "valid" if valid else "same"
    image = keras.Input((None, None, 1))
    x, skips = image, []
    for level in range(depth + 1):
        for _ in range(2):
            x = layers.Conv2D(2, 3, padding=padding, activation="relu")(x)
        if level < depth:
            skips.append(x)
            x = layers.AveragePooling2D(2)(x)
    for skip in reversed(skips):
        if upsampling == "like":
            x = ResizeLike("bilinear")([x, skip])
        else:
            x = _DOUBLING[upsampling]()(x)
        x = layers.Concatenate()([x, CropLike()([skip, x])])
        for _ in range(2):
            x = layers.Conv2D(2, 3, padding=padding, activation="relu")(x)
    return _positive_weights(keras.Model(image, x))


def _positive_weights(model):
    """No bias and no negative weight: one bright pixel in a black picture lights exactly what depends on it."""
    model.set_weights([np.full(w.shape, 0.1 if w.ndim > 1 else 0.0, "float32") for w in model.get_weights()])
    return model


def _measured_reach(model, field, size):
    """Largest distance from a bright pixel to a lit output, over every phase of the strides."""
    places = size // 2 + np.arange(field.stride)
    pictures = np.zeros((field.stride, size, size, 1), "float32")
    pictures[np.arange(field.stride), places, size // 2] = 1000.0
    reach = 0
    for output, place in zip(model.predict_on_batch(pictures), places, strict=True):
        rows = np.nonzero((output != 0).any((1, 2)))[0] + field.lost[0] // 2
        reach = max(reach, int(np.abs(rows - place).max()))
    return reach
