"""What detectors are put together from: sizes of pictures, strides of maps, what lies around a picture, samples."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.backbones import dilate, resnet_v1_5
from keras_cv_lectures.detection import Detector, build_faster_rcnn, build_mask_rcnn
from keras_cv_lectures.detection.training import _sampled
from keras_cv_lectures.layers import FitPicture
from keras_cv_lectures.postprocessing.detection import CANVAS_COLOR, fitted_size, on_canvas
from keras_cv_lectures.preprocessing import resize_rule

SMALL = {
    "pyramid_filters": 4,
    "box_units": (4,),
    "min_size": None,
    "rpn_pre_nms": (20, 20),
    "rpn_post_nms": (10, 10),
    "max_detections": 3,
}


# Sizes of pictures ---------------------------------------------------------------------------------------------------


def _torchvision_size(height, width, min_size, max_size):
    """Of `_resize_image_and_masks` and `interpolate` outside of TorchScript: numbers of Python."""
    scale = min(min_size / min(height, width), max_size / max(height, width))
    return max(1, int(float(height * scale))), max(1, int(float(width * scale)))


def test_pictures_get_torchvisions_sizes_to_the_pixel():
    layer = FitPicture(800, 1333)
    assert layer.compute_output_shape((1, 480, 640, 3))[0] == (1, 800, 1066, 3)  # in float32 799 rows
    sizes = [(height, width) for height in range(90, 1500, 37) for width in range(61, 1400, 53)]
    for sides in ((800, 1333), (320, 320), (600, 1000), (240, 320)):
        fit = FitPicture(*sides)
        for size in sizes:
            expected = _torchvision_size(*size, *sides)
            assert fit.compute_output_shape((1, *size, 3))[0][1:3] == expected, (size, sides)
            assert resize_rule(size, *sides) == expected
    traced = tf.function(layer, input_signature=[tf.TensorSpec((None, None, None, 1), tf.uint8)], autograph=False)
    for size in ((480, 640), (427, 640), (375, 500), (1200, 90)):
        found = traced(np.zeros((1, *size, 1), np.uint8))[1]
        np.testing.assert_array_equal(found, [_torchvision_size(*size, 800, 1333)])


@pytest.mark.parametrize("size", [(480, 640), (59, 101), (427, 640), (50, 80)], ids=str)
def test_a_canvas_of_one_size_takes_pictures_as_training_brings_them(size):
    assert fitted_size(size, (320, 320)) == tuple(resize_rule(size, 320, 320))


# Strides of a backbone -----------------------------------------------------------------------------------------------


def _averages(strides, *, first=2):
    """A backbone whose stages are means of the picture: the stage of a stride knows where it looks."""
    picture = keras.Input((None, None, 1))
    stages = enumerate(strides, first)
    return keras.Model(picture, {f"c{k}": keras.layers.AveragePooling2D(stride)(picture) for k, stride in stages})


@pytest.mark.parametrize("strides", [(4, 8, 16, 32), (4, 8, 16, 16), (4, 8, 8, 8)])
def test_regions_are_read_where_they_lie_whatever_the_strides(strides):
    """In maps that hold the place of each of their cells; 480 pixels are read from the coarsest."""
    model = build_faster_rcnn((None, None, 1), 2, backbone=_averages(strides), aligned=True, **SMALL)
    assert model.graph.settings.region_strides == strides
    picture = np.tile(np.arange(512, dtype=np.float32)[None, None, :, None] + 0.5, (1, 512, 1, 1))
    stages = _averages(strides)(picture)
    for box, middle in (((16, 16, 496, 496), 256), ((100, 200, 130, 230), 115)):
        pooled = model.graph.box_pool([stages[f"c{k}"] for k in (2, 3, 4, 5)], np.float32([[box]]))
        assert float(np.mean(pooled)) == pytest.approx(middle, abs=0.5)


def test_a_backbone_has_the_stages_that_are_used():
    model = build_faster_rcnn((64, 64, 1), 2, backbone=_averages((4, 8, 16, 32)), **SMALL)
    assert model.graph.backbone.output["0"].shape[-1] == 4
    with pytest.raises(ValueError, match="`trainable_stages` must leave frozen.* 4, which needs c1.*gives c2, c3"):
        build_faster_rcnn((64, 64, 1), 2, backbone=_averages((4, 8, 16, 32)), trainable_stages=4, **SMALL)
    with pytest.raises(ValueError, match="Missing: \\['c2'\\]"):
        build_faster_rcnn((64, 64, 1), 2, backbone=_averages((8, 16, 32), first=3), **SMALL)


def test_detectors_on_one_map_need_it_at_their_stride():
    single = {k: v for k, v in SMALL.items() if k != "box_units"}

    def build(stride):
        body = dilate(resnet_v1_5((1, 1, 1, 1), (2, 2, 2, 2), stem=2), stride)
        body = keras.Model(body.input, {name: body.output[name] for name in ("c4", "c5")})
        return build_faster_rcnn((64, 64, 3), 2, variant="c4", backbone=body, **single)

    assert build(16).graph.settings.region_strides == (16,)
    with pytest.raises(ValueError, match='stage "c4" of `backbone` must have the stride 16.*where it is 8.*dilate'):
        build(8)


def test_no_stage_is_frozen_that_a_backbone_does_not_give_unless_asked(tmp_path):
    def build(**options):
        picture = keras.Input((None, None, 1))
        c4 = keras.layers.Conv2D(4, 16, 16)(picture)
        body = keras.Model(picture, {"c4": c4, "c5": keras.layers.Conv2D(4, 1)(c4)})
        single = {k: v for k, v in SMALL.items() if k != "box_units"}
        return build_faster_rcnn((64, 64, 1), 2, variant="c4", backbone=body, **single, **options)

    built, file = build(), str(tmp_path / "own.weights.h5")
    built.save_weights(file)
    loaded = build(weights=file)
    assert [layer.trainable for layer in loaded.graph.backbone.layers] == [True, True]
    for found, expected in zip(loaded.get_weights(), built.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="`trainable_stages` must leave frozen.* 3, which needs c2"):
        build(trainable_stages=3)


# What lies around a picture ------------------------------------------------------------------------------------------


def test_all_surroundings_of_a_network_that_normalises_itself_are_those_of_files():
    """Training's canvas, the padding to a multiple, and the canvas of a file of one size."""
    model = build_faster_rcnn((None, None, 3), 2, backbone=_rgb_averages(), **SMALL)
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    expected = on_canvas(picture, (64, 64)).astype(np.float32)
    assert tuple(expected[-1, -1]) == CANVAS_COLOR
    black = np.zeros((64, 64, 3), np.uint8)
    black[:40, :50] = picture
    trained = model.graph.dense({"image": black[None], "size": np.int32([[40, 50]])})["picture"]
    np.testing.assert_array_equal(trained[0], expected)
    np.testing.assert_allclose(model.graph.dense(picture[None])["picture"][0], expected, atol=1e-4)
    np.testing.assert_array_equal(model.graph.dense(expected[None])["picture"][0], expected)


def test_a_detector_keeps_the_surroundings_that_it_was_trained_with():
    model = build_faster_rcnn((None, None, 3), 2, backbone=_rgb_averages(), **SMALL)
    settings = model.get_config()["settings"]
    assert tuple(settings["surroundings"]) == CANVAS_COLOR
    earlier = {name: value for name, value in settings.items() if name != "surroundings"}
    inputs = {"image": np.full((1, 64, 64, 3), 9, np.uint8), "size": np.int32([[40, 50]])}
    corners = []
    for kept in (settings, earlier):
        again = Detector.from_config({**model.get_config(), "settings": kept})
        corners.append(np.asarray(again.graph.dense(inputs)["picture"])[0, -1, -1].tolist())
    assert corners == [list(CANVAS_COLOR), [0, 0, 0]]


def _rgb_averages():
    picture = keras.Input((None, None, 3))
    return keras.Model(picture, {f"c{k}": keras.layers.AveragePooling2D(2**k)(picture) for k in (2, 3, 4, 5)})


# Precision and samples -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("built", "loaded"), [("float32", "mixed_bfloat16"), ("mixed_bfloat16", "float32")])
def test_regions_are_pooled_in_the_detectors_own_precision(built, loaded):
    try:
        keras.config.set_dtype_policy(built)
        model = build_mask_rcnn((64, 64, 1), 2, backbone=_averages((4, 8, 16, 32)), mask_filters=(4,), **SMALL)
        keras.config.set_dtype_policy(loaded)
        again = Detector.from_config(model.get_config())
    finally:
        keras.config.set_dtype_policy("float32")
    for graph in (model.graph, again.graph):
        pools = (graph.box_pool, graph.mask_pool, graph.keypoint_pool)
        assert {pool.compute_dtype for pool in pools} == {built.removeprefix("mixed_")}


def test_the_share_of_objects_is_one_of_all_samples():
    """Of 400 candidates for 512 samples, a quarter of 512 may be objects, as torchvision has it, not one of 400."""
    positive = np.arange(400)[None] < 200
    _, found, valid = _sampled(positive, ~positive, 512, 0.25, seed=1)
    assert found.shape == (1, 400)
    assert (int(np.sum(found)), int(np.sum(valid))) == (128, 328)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"samples": 3}, "`samples` must be at least 4, because at most 0.25 of them are objects"),
        ({"rpn_samples": 1}, "`rpn_samples` must be at least 2, because at most 0.5 of them are objects"),
    ],
)
def test_samples_without_an_object_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        build_faster_rcnn((64, 64, 1), 2, backbone=_averages((4, 8, 16, 32)), **SMALL, **arguments)
    least = {name: count + 1 for name, count in arguments.items()}
    settings = build_faster_rcnn((64, 64, 1), 2, backbone=_averages((4, 8, 16, 32)), **SMALL, **least).graph.settings
    assert min(int(settings.samples * settings.positives), int(settings.rpn_samples * settings.rpn_positives)) >= 1
