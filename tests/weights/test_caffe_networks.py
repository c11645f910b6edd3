"""Whole networks with random blobs under Caffe's names: the logits equal a NumPy run of the authors' prototxt."""

from __future__ import annotations

import numpy as np
import pytest
from caffe_reference import (
    ILSVRC12_MEAN,
    affine,
    caffe_input,
    close,
    conv,
    deconv,
    numbers,
    picture,
    pool,
    relu,
    unpool,
    write,
)

from keras_cv_lectures.segmentation import build_unet
from keras_cv_lectures.segmentation.deconvnet import build_deconvnet
from keras_cv_lectures.segmentation.deeplab import build_deeplab
from keras_cv_lectures.segmentation.fcn_vgg import build_fcn8s
from keras_cv_lectures.segmentation.segnet import build_segnet
from keras_cv_lectures.weights import load_caffe


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def fill(rng, layers):
    """Random blobs by a table of name -> shape: He's scale, which keeps activations in range."""
    return {
        name: [
            numbers(rng, *shape, scale=(2 / np.prod([shape[1], *shape[2:]])) ** 0.5),
            numbers(rng, shape[0] if bias is None else bias, scale=0.1),
        ]
        for name, (shape, bias) in layers.items()
    }


def vgg(width=2):
    """Name -> (shape, None) of VGG16's convolutions at a 32nd of their width."""
    layers, below = {}, 3
    for block, (factor, count) in enumerate([(1, 2), (2, 2), (4, 3), (8, 3), (8, 3)], start=1):
        for step in range(1, count + 1):
            layers[f"conv{block}_{step}"] = ((width * factor, below, 3, 3), None)
            below = width * factor
    return layers


def bilinear(classes, size):
    centre = (size - 1) / 2
    row = 1 - np.abs(np.arange(size) - centre) / (size // 2)
    return (np.outer(row, row) * np.eye(classes)[:, :, None, None]).astype("float32")


@pytest.mark.parametrize("older", [False, True])
def test_fcn8s_gives_caffes_logits(tmp_path, rng, older):
    classes = 3
    blobs = fill(
        rng,
        {
            **vgg(),
            "fc6": ((5, 16, 7, 7), None),
            "fc7": ((5, 5, 1, 1), None),
            "score_fr": ((classes, 5, 1, 1), None),
            "score_pool4": ((classes, 16, 1, 1), None),
            "score_pool3": ((classes, 8, 1, 1), None),
        },
    )
    blobs |= {
        "upscore2": [bilinear(classes, 4)],
        "upscore_pool4": [bilinear(classes, 4)],
        "upscore8": [bilinear(classes, 16)],
    }
    if older:
        blobs["upscore2"].append(numbers(rng, classes))

    x = picture(rng, 1, 37, 20, 3)
    y, pools = caffe_input(x, ILSVRC12_MEAN), []
    for block, count in enumerate([2, 2, 3, 3, 3], start=1):
        for step in range(1, count + 1):
            y = relu(conv(y, *blobs[f"conv{block}_{step}"], pad=100 if (block, step) == (1, 1) else 1))
        y = pool(y)[0]
        pools.append(y)
    y = conv(relu(conv(relu(conv(y, *blobs["fc6"])), *blobs["fc7"])), *blobs["score_fr"])
    for skip, score, up, crop in [(3, "score_pool4", "upscore2", 5), (2, "score_pool3", "upscore_pool4", 9)]:
        y = deconv(y, *blobs[up], stride=2)
        y = y + conv(pools[skip], *blobs[score])[:, :, crop : crop + y.shape[2], crop : crop + y.shape[3]]
    y = deconv(y, *blobs["upscore8"], stride=8)[:, :, 31 : 31 + 37, 31 : 31 + 20]

    if older:
        names = {"upscore2": "score2", "upscore_pool4": "score4", "upscore8": "upsample"}
        blobs = {names.get(name, name.replace("score_", "score-")): arrays for name, arrays in blobs.items()}
    model = build_fcn8s(num_classes=classes, variant="paper", filters=2, fc_filters=5)
    load_caffe(model, write(tmp_path / "fcn8s.caffemodel", blobs, version=1 if older else 2))
    close(model(x), y)


def test_a_vgg_classifier_starts_fcn(tmp_path, rng):
    blobs = fill(rng, {**vgg(), "fc6": ((5, 16 * 49), None), "fc7": ((5, 5), None), "fc8": ((1000, 5), None)})
    model = build_fcn8s(num_classes=3, variant="paper", filters=2, fc_filters=5)
    path = write(tmp_path / "vgg.caffemodel", blobs, version=1, dims="legacy")
    with pytest.warns(UserWarning, match="are not in the file"):
        left = load_caffe(model, path, rename={"fc8": None}, strict=False)
    assert set(left) == {"score_fr", "score_pool4", "score_pool3", "upscore2", "upscore_pool4", "upscore8"}
    fc6 = blobs["fc6"][0].reshape(5, 16, 7, 7)
    np.testing.assert_array_equal(model.get_layer("fc6").kernel[2, 3, 4], fc6[:, 4, 2, 3])


@pytest.mark.parametrize("heads", [[""], ["_1", "_2", "_3", "_4"]], ids=["v1", "v2"])
def test_deeplab_takes_the_authors_files_whose_scores_name_the_data_set(tmp_path, rng, heads):
    shapes = vgg()
    for k in heads:
        shapes |= {f"fc6{k}": ((5, 16, 3, 3), None), f"fc7{k}": ((5, 5, 1, 1), None)}
        shapes[f"fc8_pascal_context{k}"] = ((3, 5, 1, 1), None)
    blobs = fill(rng, shapes)
    path = write(tmp_path / "deeplab.caffemodel", blobs, version=2)
    version = "v1" if heads == [""] else "v2"
    model = build_deeplab(num_classes=3, version=version, filters=2, aspp_filters=5)
    assert load_caffe(model, path) == []
    for k in heads:
        scores = blobs[f"fc8_pascal_context{k}"]
        np.testing.assert_array_equal(model.get_layer(f"fc8{k}").kernel[0, 0], scores[0][:, :, 0, 0].T)
        np.testing.assert_array_equal(model.get_layer(f"fc8{k}").bias, scores[1])
    other = build_deeplab(num_classes=7, version=version, filters=2, aspp_filters=5)
    with pytest.warns(UserWarning, match="another number of classes"):
        assert load_caffe(other, path) == [f"fc8{k}" for k in heads]


def with_affine(rng, blobs, name_of):
    """Adds a scale near one and a small shift to every layer that has a normalization, shape (1, C, 1, 1)."""
    for name, arrays in list(blobs.items()):
        if name_of(name):
            shape = (1, arrays[1].size, 1, 1)
            blobs[name_of(name)] = [1 + numbers(rng, *shape, scale=0.1), numbers(rng, *shape, scale=0.1)]
    return blobs


def segnet_decoder(classes, width=2):
    layers, below = {}, 8 * width
    for block, factors in [(5, (8, 8, 8)), (4, (8, 8, 4)), (3, (4, 4, 2)), (2, (2, 1)), (1, (1, None))]:
        for step, factor in zip(range(len(factors), 0, -1), factors, strict=True):
            out = classes if factor is None else factor * width
            layers[f"conv{block}_{step}_D"] = ((out, below, 3, 3), None)
            below = out
    return layers


def test_segnet_gives_caffes_logits(tmp_path, rng):
    blobs = fill(rng, {**vgg(), **segnet_decoder(classes=3)})
    blobs = with_affine(rng, blobs, lambda name: None if name == "conv1_1_D" else f"{name}_bn")
    x = picture(rng, 1, 35, 42, 3)
    y, masks = caffe_input(x), []
    for block, count in enumerate([2, 2, 3, 3, 3], start=1):
        for step in range(1, count + 1):
            name = f"conv{block}_{step}"
            y = relu(affine(conv(y, *blobs[name], pad=1), *blobs[f"{name}_bn"]))
        y, mask = pool(y)
        masks.append(mask)
    for block, count in zip((5, 4, 3, 2, 1), (3, 3, 3, 2, 2), strict=True):
        y = unpool(y, masks[block - 1])
        for step in range(count, 0, -1):
            name = f"conv{block}_{step}_D"
            y = conv(y, *blobs[name], pad=1)
            if name != "conv1_1_D":
                y = relu(affine(y, *blobs[f"{name}_bn"]))
    model = build_segnet(num_classes=3, filters=2)
    load_caffe(model, write(tmp_path / "segnet.caffemodel", blobs))
    close(model(x), y)


def test_segnet_basic_gives_caffes_logits(tmp_path, rng):
    names = [f"conv{i}" for i in range(1, 5)] + [f"conv_decode{i}" for i in range(4, 0, -1)]
    layers = {name: ((4, 3 if name == "conv1" else 4, 7, 7), None) for name in names}
    blobs = with_affine(rng, fill(rng, layers), lambda name: f"{name}_bn")
    blobs |= fill(rng, {"conv_classifier": ((3, 4, 1, 1), None)})
    x = picture(rng, 1, 19, 26, 3)
    y, masks = caffe_input(x), []
    # Local response normalization over 5 channels; three channels are all within reach.
    y = y / (1 + 1e-4 / 5 * (y**2).sum(1, keepdims=True)) ** 0.75
    for i in range(1, 5):
        y, mask = pool(relu(affine(conv(y, *blobs[f"conv{i}"], pad=3), *blobs[f"conv{i}_bn"])))
        masks.append(mask)
    for i in range(4, 0, -1):
        y = conv(unpool(y, masks[i - 1]), *blobs[f"conv_decode{i}"], pad=3)
        y = affine(y, *blobs[f"conv_decode{i}_bn"])
    model = build_segnet(num_classes=3, variant="basic", filters=4)
    load_caffe(model, write(tmp_path / "basic.caffemodel", blobs))
    close(model(x), conv(y, *blobs["conv_classifier"]))


def test_deconvnet_gives_caffes_logits(tmp_path, rng):
    width, classes = 2, 3
    decoder, below = {}, 8 * width
    for block, factors in [(5, (8, 8, 8)), (4, (8, 8, 4)), (3, (4, 4, 2)), (2, (2, 1)), (1, (1, 1))]:
        for step, factor in enumerate(factors, start=1):
            # A deconvolution's blob is (in, out, h, w), and its bias has as many numbers as it has outputs.
            decoder[f"deconv{block}_{step}"] = ((below, factor * width, 3, 3), factor * width)
            below = factor * width
    middle = {"fc6": ((5, 16, 2, 2), None), "fc7": ((5, 5, 1, 1), None), "fc6-deconv": ((5, 16, 2, 2), 16)}
    blobs = fill(rng, {**vgg(width), **middle, **decoder})

    def norm(name):
        if name == "fc6-deconv":
            return "fc6-deconv-bn"
        return f"bn{name}" if name.startswith("fc") else name.replace("deconv", "debn").replace("conv", "bn")

    blobs = with_affine(rng, blobs, norm) | fill(rng, {"seg-score-voc": ((classes, width, 1, 1), None)})
    x = picture(rng, 1, 64, 64, 3)
    y, masks = caffe_input(x, ILSVRC12_MEAN), []
    for block, count in enumerate([2, 2, 3, 3, 3], start=1):
        for step in range(1, count + 1):
            y = relu(affine(conv(y, *blobs[f"conv{block}_{step}"], pad=1), *blobs[f"bn{block}_{step}"]))
        y, mask = pool(y)
        masks.append(mask)
    y = relu(affine(conv(y, *blobs["fc6"]), *blobs["bnfc6"]))
    y = relu(affine(conv(y, *blobs["fc7"]), *blobs["bnfc7"]))
    y = relu(affine(deconv(y, *blobs["fc6-deconv"]), *blobs["fc6-deconv-bn"]))
    for block, count in zip((5, 4, 3, 2, 1), (3, 3, 3, 2, 2), strict=True):
        y = unpool(y, masks[block - 1])
        for step in range(1, count + 1):
            y = relu(affine(deconv(y, *blobs[f"deconv{block}_{step}"], pad=1), *blobs[f"debn{block}_{step}"]))
    model = build_deconvnet((64, 64, 3), classes, filters=width, fc_filters=5, fc_kernel=2)
    load_caffe(model, write(tmp_path / "deconvnet.caffemodel", blobs, version=1, dims="legacy"))
    close(model(x), conv(y, *blobs["seg-score-voc"]))


def test_the_released_unet_gives_caffes_logits(tmp_path, rng):
    blobs = fill(
        rng,
        {
            "conv_d0a-b": ((3, 1, 3, 3), None),
            "conv_d0b-c": ((3, 3, 3, 3), None),
            "conv_d1a-b": ((6, 3, 3, 3), None),
            "conv_d1b-c": ((6, 6, 3, 3), None),
            "upconv_d1c_u0a": ((6, 6, 2, 2), None),
            "conv_u0b-c": ((3, 9, 3, 3), None),
            "conv_u0c-d": ((3, 3, 3, 3), None),
            "conv_u0d-score": ((2, 3, 1, 1), None),
        },
    )
    x = picture(rng, 1, 28, 36, 1)
    y = x.transpose(0, 3, 1, 2) / 255
    skip = relu(conv(relu(conv(y, *blobs["conv_d0a-b"])), *blobs["conv_d0b-c"]))
    y = relu(conv(relu(conv(pool(skip)[0], *blobs["conv_d1a-b"])), *blobs["conv_d1b-c"]))
    y = relu(deconv(y, *blobs["upconv_d1c_u0a"], stride=2))
    y = np.concatenate([y, skip[:, :, 4:-4, 4:-4]], 1)
    y = conv(relu(conv(relu(conv(y, *blobs["conv_u0b-c"])), *blobs["conv_u0c-d"])), *blobs["conv_u0d-score"])
    model = build_unet((28, 36, 1), 2, variant="released", depth=1, filters=3)
    load_caffe(model, write(tmp_path / "phseg_v5.caffemodel", blobs))
    close(model(x), y)
