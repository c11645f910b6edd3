"""`.caffemodel` files: written here byte by byte, read back, and run in NumPy straight from Caffe's layout."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
from caffe_reference import (
    CAFFE_MEAN,
    blob,
    caffe_input,
    close,
    conv,
    deconv,
    field,
    layer,
    net,
    numbers,
    picture,
    varint,
    write,
)

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.layers import BilinearConv2DTranspose, ImageNormalization
from keras_cv_lectures.weights import load_caffe, read_caffemodel


@pytest.fixture
def rng():
    return np.random.default_rng(3)


# The format.


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("dims", ["shape", "shape unpacked", "legacy"])
@pytest.mark.parametrize("data", ["packed", "pieces", "unpacked", "double"])
def test_blobs_come_back_from_every_form_of_the_format(tmp_path, rng, version, dims, data):
    wanted = {"conv-1": [numbers(rng, 3, 2, 1, 5), numbers(rng, 3)], "fc/6 ä": [numbers(rng, 4, 300)]}
    got = read_caffemodel(write(tmp_path / "a.caffemodel", wanted, version=version, dims=dims, data=data))
    assert list(got) == list(wanted)
    for name, arrays in wanted.items():
        for array, read in zip(arrays, got[name], strict=True):
            assert read.dtype == "float32"
            legacy = (1,) * (4 - array.ndim) + array.shape
            np.testing.assert_array_equal(read, array.reshape(legacy) if dims == "legacy" else array)


def test_a_file_worked_by_hand(tmp_path):
    path = tmp_path / "hand.caffemodel"
    path.write_bytes(
        bytes.fromhex(
            "a206 14"  # field 100 (100 * 8 + 2 = 802 = 6 * 128 + 34, so 34 + 128 and 6), 20 bytes: layer
            "0a 01 63"  # field 1, one byte: name "c"
            "3a 0f"  # field 7, 15 bytes: blob
            "2a 08 0000803f 000000c0"  # field 5, 8 bytes: 1.0 and -2.0
            "3a 03 0a 01 02"  # field 7, shape, with field 1, one byte: 2
        )
    )
    assert list(read_caffemodel(path)) == ["c"]
    assert read_caffemodel(path)["c"][0].tolist() == [1.0, -2.0]


def test_packed_numbers_are_views_of_the_file(tmp_path, rng):
    read = read_caffemodel(write(tmp_path / "a.caffemodel", {"a": [numbers(rng, 8)]}))["a"][0]
    assert not read.flags.owndata
    assert not read.flags.writeable


def test_every_truncation_is_refused(tmp_path, rng):
    whole = net({"a": [numbers(rng, 2, 3)], "b": [numbers(rng, 2)]})
    path = tmp_path / "cut.caffemodel"
    first = len(field(1, b"net") + layer("data", [], kind="Data"))
    ends = {len(whole) - len(layer("relu", [], kind="ReLU"))}
    ends.add(next(iter(ends)) - len(layer("b", [np.zeros(2)])))
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        # Between two layers a file is whole as far as its format goes: which layers are there is the loader's business.
        if length in ends and length > first:
            assert set(read_caffemodel(path)) <= {"a", "b"}
        else:
            with pytest.raises(ModelError, match="cut.caffemodel"):
                read_caffemodel(path)


def one_layer(*fields: bytes) -> bytes:
    return field(100, field(1, b"a") + field(7, b"".join(fields)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"hello, I am text", "no whole"),
        (field(1, b"a net without layers"), "no layer with weights"),
        (one_layer(field(7, field(1, varint(2**62))), field(5, bytes(8))), "does not hold its 2 numbers"),
        (one_layer(field(7, field(1, varint(2**32) * 2)), field(5, bytes(8))), "does not hold"),  # product is 2**64
        (one_layer(field(7, field(1, varint(-2) * 2)), field(5, bytes(16))), "does not hold"),
        (one_layer(field(7, field(1, varint(1) * 64)), field(5, bytes(4))), "does not hold"),
        (one_layer(field(1, 2), field(5, bytes(8))), "does not hold"),  # the other three are 0
        (one_layer(field(7, field(1, varint(2))), field(5, bytes(7))), "no list of numbers"),
        (one_layer(field(7, field(1, varint(2))), field(5, 7)), "no list of numbers"),
        (one_layer(field(7, 3)), "not a message"),
        (field(100, b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "bytes and"),
        (field(100, b"\x0a" + b"\xff" * 11), "longer than ten bytes"),
        (b"\x0b\x0c", "wire type 3"),
        (b"\x00\x01", "number 0"),
        (field(100, field(1, b"\xff\xfe") + field(7, blob([1.0]))), "no text"),
        (layer("a", [np.ones(1)]) * 2, "two layers with weights are called 'a'"),
        (field(2, field(1, b"\x0a\x01a")), "upgrade_net_proto_binary"),
    ],
)
def test_broken_and_hostile_files_are_refused(tmp_path, content, message):
    path = tmp_path / "bad.caffemodel"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        read_caffemodel(path)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(ModelError, match="absent.caffemodel"):
        read_caffemodel(tmp_path / "absent.caffemodel")


@pytest.mark.parametrize("how", [{"version": 2}, {"version": 1, "dims": "legacy"}])
def test_flipped_bytes_raise_nothing_but_model_errors(tmp_path, rng, how):
    blobs = {"conv": [numbers(rng, 2, 3, 1, 1), numbers(rng, 2)], "bn": [numbers(rng, 1, 2, 1, 1)] * 2}
    whole = np.frombuffer(net(blobs, **how), "uint8")
    x = keras.Input((None, None, 3))
    model = keras.Model(x, keras.layers.BatchNormalization(name="bn")(keras.layers.Conv2D(2, 1, name="conv")(x)))
    path, refused = tmp_path / "flipped.caffemodel", 0
    for _ in range(200):
        flipped = whole.copy()
        places = rng.integers(0, len(whole), rng.integers(1, 4))
        flipped[places] = rng.integers(0, 256, len(places))
        path.write_bytes(flipped.tobytes())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a flipped size may look like another number of classes
                load_caffe(model, path)
        except ModelError:
            refused += 1
    assert 50 < refused < 200
    assert all(np.isfinite(array).all() for array in model.get_weights())


# Layers.


def test_convolutions_with_groups_and_an_inner_product_give_caffes_outputs(tmp_path, rng):
    blobs = {
        "conv1": [numbers(rng, 4, 3, 3, 3), numbers(rng, 4)],
        "conv2": [numbers(rng, 6, 2, 3, 3)],
        "fc6": [numbers(rng, 5, 6 * 4 * 3), numbers(rng, 5)],
        "fc7": [numbers(rng, 1, 1, 3, 5), numbers(rng, 1, 1, 1, 3)],  # as files before 2014 store a matrix
    }
    image = keras.Input((4, 3, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="conv1")(image)
    x = keras.layers.Conv2D(6, 3, padding="same", groups=2, name="conv2")(x)  # its bias is absent, so zero
    x = keras.layers.Conv2D(5, (4, 3), name="fc6")(x)
    model = keras.Model(image, keras.layers.Conv2D(3, 1, name="fc7")(x))
    assert load_caffe(model, write(tmp_path / "a.caffemodel", blobs)) == []

    x = numbers(rng, 2, 4, 3, 3)
    y = conv(x.transpose(0, 3, 1, 2), *blobs["conv1"], pad=1)
    y = conv(y, *blobs["conv2"], pad=1, group=2).reshape(2, -1)  # an inner product flattens channel, row, column
    y = y @ blobs["fc6"][0].T + blobs["fc6"][1]
    y = y @ blobs["fc7"][0][0, 0].T + blobs["fc7"][1][0, 0]
    close(model(x), y[:, :, None, None])


@pytest.mark.parametrize("group", [1, 2])
def test_deconvolutions_give_caffes_outputs(tmp_path, rng, group):
    blobs = {"up": [numbers(rng, 4, 6 // group, 4, 4), numbers(rng, 6)]}
    image = keras.Input((3, 2, 4))
    model = keras.Model(image, keras.layers.Conv2DTranspose(6, 4, strides=2, name="up")(image))
    load_caffe(model, write(tmp_path / "a.caffemodel", blobs))
    x = numbers(rng, 2, 3, 2, 4)
    close(model(x), deconv(x.transpose(0, 3, 1, 2), *blobs["up"], stride=2, group=group))


@pytest.mark.parametrize("grouped", [False, True])
def test_diagonal_deconvolutions_become_one_kernel_a_channel(rng, grouped):
    kernels = numbers(rng, 3, 4, 4)
    full = kernels[:, None] * np.eye(3, dtype="float32")[:, :, None, None]
    image = keras.Input((3, 2, 3))
    model = keras.Model(image, BilinearConv2DTranspose(2, name="upscore2")(image))
    load_caffe(model, {"upscore2": [kernels[:, None] if grouped else full]})
    np.testing.assert_array_equal(model.layers[-1].get_weights()[0], kernels.transpose(1, 2, 0))
    x = numbers(rng, 1, 3, 2, 3)
    close(model(x), deconv(x.transpose(0, 3, 1, 2), full, stride=2))


def test_a_kernel_across_channels_does_not_fit_one_kernel_a_channel(rng):
    image = keras.Input((3, 2, 3))
    model = keras.Model(image, BilinearConv2DTranspose(2, name="upscore2")(image))
    kernel = numbers(rng, 3, 4, 4)[:, None] * np.eye(3, dtype="float32")[:, :, None, None]
    kernel[0, 1, 2, 2] = 1e-6
    with pytest.raises(ModelError, match="mixes channels"):
        load_caffe(model, {"upscore2": [kernel]})


def normalization(epsilon=1e-3, channels=3):
    image = keras.Input((2, 2, channels))
    return keras.Model(image, keras.layers.BatchNormalization(epsilon=epsilon, name="bn_a")(image))


@pytest.mark.parametrize("epsilon", [1e-3, 1e-5, 1e-9])
@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (3,)])
def test_scale_and_shift_alone_are_the_whole_normalization(rng, epsilon, shape):
    scale, shift = numbers(rng, 3), numbers(rng, 3)
    model = normalization(epsilon)
    load_caffe(model, {"bn_a": [scale.reshape(shape), shift.reshape(shape)]})
    x = numbers(rng, 2, 2, 2, 3)
    np.testing.assert_allclose(model(x), x * scale + shift, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("scaled", ["scale and shift", "scale", "nothing"])
def test_batch_norm_and_scale_become_one_normalization(rng, scaled):
    mean, variance, factor = numbers(rng, 3), numbers(rng, 3) ** 2 * 1e-3, np.array([40.0], "float32")
    scale, shift = numbers(rng, 3), numbers(rng, 3)
    blobs = {"bn_a": [mean * factor, variance * factor, factor], "scale_a": [scale, shift]}
    if scaled != "scale and shift":
        shift = np.zeros(3)
        blobs["scale_a"] = [scale]
    if scaled == "nothing":
        scale = np.ones(3)
        del blobs["scale_a"]
    model = normalization(epsilon=1e-3)
    load_caffe(model, blobs)
    x = numbers(rng, 2, 2, 2, 3)
    np.testing.assert_allclose(
        model(x), (x - mean) / np.sqrt(variance + 1e-5) * scale + shift, rtol=2e-5, atol=1e-5 * np.abs(x).max()
    )


def test_normalization_blobs_that_make_no_sense_are_refused(rng):
    three, one = numbers(rng, 3) ** 2, np.ones(1, "float32")
    for blobs, message in [
        ({"bn_a": [three]}, "expected scale and shift"),
        ({"bn_a": [three, three, three]}, "expected scale and shift"),
        ({"bn_a": [three, three[:2]]}, "normalizes 3 channels"),
        ({"bn_a": [three, -three, one]}, "negative"),
        ({"bn_a": [three, three], "scale_a": [three, three]}, "expected scale and shift"),
    ]:
        with pytest.raises(ModelError, match=message):
            load_caffe(normalization(), blobs)


# The loader.


def small(classes=2, convention="caffe", channels=3, bias=True):
    image = keras.Input((None, None, channels))
    x = ImageNormalization(convention, name="normalize")(image)
    x = keras.layers.Conv2D(4, 3, name="conv1")(x)
    x = keras.layers.Conv2D(classes, 1, name="score_fr", use_bias=bias)(x)
    return keras.Model(image, BilinearConv2DTranspose(2, name="upscore2")(x))


def small_blobs(rng, classes=2, channels=3):
    diagonal = np.eye(classes, dtype="float32")[:, :, None, None]
    return {
        "conv1": [numbers(rng, 4, channels, 3, 3), numbers(rng, 4)],
        "score_fr": [numbers(rng, classes, 4, 1, 1), numbers(rng, classes)],
        "upscore2": [numbers(rng, 1, 1, 4, 4) * diagonal],
    }


def run_small(x, blobs):
    y = conv(conv(x, *blobs["conv1"]), *blobs["score_fr"])
    return deconv(y, blobs["upscore2"][0], stride=2)


def test_layers_that_only_one_side_has_are_errors_and_change_nothing(rng):
    blobs = small_blobs(rng)
    for given, message in [
        ({**blobs, "fc8": blobs["conv1"]}, "that the model lacks: fc8"),
        ({name: blobs[name] for name in ("conv1", "upscore2")}, "that the file lacks: score_fr"),
        ({"other": blobs["conv1"]}, "that the model lacks: other"),
        ({**blobs, "conv1": [blobs["conv1"][0][:, :, :2]]}, r"layer 'conv1' .* Received, in Keras's order: \[\(2, 3"),
        ({**blobs, "conv1": blobs["conv1"] * 2}, "at most a bias"),
        ({**blobs, "score_fr": [np.full((2, 4, 1, 1), np.nan, "float32")]}, "not finite"),
        ({**blobs, "normalize": [np.ones(3)]}, "has no weights"),
    ]:
        model = small()
        before = model.get_weights()
        with pytest.raises(ModelError, match=message):
            load_caffe(model, given)
        assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_what_fits_is_loaded_with_a_warning_when_not_strict(rng):
    blobs = small_blobs(rng)
    model = small()
    with pytest.warns(UserWarning, match="score_fr, upscore2 are not in the file .*; fc8 are not in the model"):
        left = load_caffe(model, {"conv1": blobs["conv1"], "fc8": blobs["score_fr"]}, strict=False)
    assert left == ["score_fr", "upscore2"]
    np.testing.assert_array_equal(model.get_layer("conv1").bias, blobs["conv1"][1])


def test_heads_of_another_number_of_classes_keep_their_values(rng):
    model = small(classes=5)
    before = model.get_layer("score_fr").get_weights()
    with pytest.warns(UserWarning, match="score_fr, upscore2 have another number of classes"):
        assert load_caffe(model, small_blobs(rng, classes=2)) == ["score_fr", "upscore2"]
    np.testing.assert_array_equal(model.get_layer("score_fr").kernel, before[0])


def test_another_width_is_no_other_number_of_classes(rng):
    blobs = small_blobs(rng)
    blobs["conv1"] = [numbers(rng, 6, 3, 3, 3), numbers(rng, 6)]
    with pytest.raises(ModelError, match="layer 'conv1'"):
        load_caffe(small(), blobs)


def test_names_can_be_mapped_and_left_out(rng):
    blobs = small_blobs(rng)
    other = {
        "first": blobs["conv1"],
        "fc8": blobs["conv1"],
        "score_fr": blobs["score_fr"],
        "upscore2": blobs["upscore2"],
    }
    model = small()
    assert load_caffe(model, other, rename={"first": "conv1", "fc8": None}) == []
    np.testing.assert_array_equal(model.get_layer("conv1").bias, blobs["conv1"][1])
    with pytest.raises(ModelError, match="`rename` maps 'first' to 'conv_1'"):
        load_caffe(model, other, rename={"first": "conv_1", "fc8": None})


def test_nested_models_are_loaded_and_equal_names_refused(rng):
    inner = small()
    outer = keras.Model(inner.input, inner(inner.input))
    load_caffe(outer, blobs := small_blobs(rng))
    np.testing.assert_array_equal(inner.get_layer("conv1").bias, blobs["conv1"][1])
    twice = keras.layers.Conv2D(4, 1, name="conv1")(outer.output)
    with pytest.raises(ModelError, match="two layers called 'conv1'"):
        load_caffe(keras.Model(outer.input, twice), blobs)


@pytest.mark.parametrize("convention", ["caffe", "none"])
def test_kernels_read_blue_green_red_whether_or_not_the_network_turns_the_picture(rng, convention):
    blobs, model = small_blobs(rng), small(convention=convention)
    load_caffe(model, blobs)
    x = picture(rng, 1, 5, 6, 3)
    wanted = run_small(caffe_input(x, CAFFE_MEAN if convention == "caffe" else (0, 0, 0)), blobs)
    close(model(x), wanted)
    load_caffe(model, blobs, bgr_to_rgb=convention == "caffe")  # the other way round
    assert np.abs(np.asarray(model(x)) - wanted.transpose(0, 2, 3, 1)).max() > 1


def test_the_first_kernel_is_adapted_to_grey_and_to_four_channels(rng):
    blobs = small_blobs(rng)
    rgb = blobs["conv1"][0].transpose(2, 3, 1, 0)[:, :, ::-1]
    for channels, wanted in [(1, rgb.sum(2, keepdims=True)), (4, rgb[:, :, [0, 1, 2, 0]] * 0.75)]:
        model = small(channels=channels)
        load_caffe(model, blobs)
        np.testing.assert_allclose(model.get_layer("conv1").kernel, wanted, rtol=1e-6)


def test_a_bias_that_has_no_place_is_refused_unless_it_is_zero(rng):
    blobs = small_blobs(rng)
    with pytest.raises(ModelError, match="`use_bias=True`"):
        load_caffe(small(bias=False), blobs)
    blobs["score_fr"][1] = np.zeros(2, "float32")
    load_caffe(small(bias=False), blobs)
