"""Faster R-CNN of 2015 and ResNet C4: the published counts, and Caffe's conventions by hand-worked numbers."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import keras_cv_lectures as kcvl
from keras_cv_lectures.detection import DetectorSettings, build_faster_rcnn, build_mask_rcnn
from keras_cv_lectures.detection.single_level import (
    VARIANT_DEFAULTS,
    CaffeAnchors,
    CaffeDetector,
    CaffeLosses,
    CaffeRoIPool,
    ObjectLessBackground,
    load_vgg16_layers,
    two_way_rpn_head,
)
from keras_cv_lectures.geometry.box_coding import encode_boxes
from keras_cv_lectures.layers.roi import RoIPool

SMALL = {
    "pyramid_filters": 8,
    "box_units": (16, 16),
    "min_size": None,
    "max_size": None,
    "anchor_sizes": ((16, 32),),
    "rpn_pre_nms": (60, 60),
    "rpn_post_nms": (20, 20),
    "samples": 16,
    "max_detections": 10,
}


def body(channels=3, width=8):
    """The smallest backbone by contract."""
    x = picture = keras.Input((None, None, channels), name="picture")
    stages = {}
    for k in range(1, 6):
        x = keras.layers.Conv2D(width, 3, 2, padding="same", activation="relu", name=f"conv{k}")(x)
        stages[f"c{k}"] = x
    return keras.Model(picture, stages, name="small")


def detector(variant, **options):
    keras.utils.set_random_seed(0)
    return build_faster_rcnn((None, None, 3), 3, variant=variant, **{**SMALL, "backbone": body(), **options})


def test_the_networks_have_the_published_numbers_of_parameters(unfilled):
    def parameters(*args, **config):
        return sum(int(np.prod(v.shape)) for v in unfilled(*args, **config).trainable_variables)

    assert parameters(build_faster_rcnn, num_classes=20, variant="vgg16") == 137_078_239
    assert parameters(two_way_rpn_head, 512, 9) == 2_387_510
    resnet, rpn = 23_508_032, (9 * 1024 + 1) * 1024 + 1025 * 15 * (1 + 4)
    assert parameters(build_faster_rcnn, num_classes=20, variant="c4") == resnet + rpn + 2049 * 21 * 5


def test_a_variant_brings_its_defaults_which_a_call_overrides():
    model = detector("vgg16", min_size=320, max_size=640)
    settings = model.graph.settings
    assert (settings.min_size, settings.max_size, settings.samples) == (320, 640, 16)
    assert (settings.box_nms, settings.beta, settings.rpn_nms) == (0.3, 1.0, 0.7)
    assert VARIANT_DEFAULTS["vgg16"]["rpn_post_nms"] == (2000, 300)
    # The signature that users see is the builder's.
    assert list(inspect.signature(build_faster_rcnn).parameters)[:3] == ["input_shape", "num_classes", "backbone"]


@pytest.mark.parametrize(("options", "side"), [({}, 63), ({"min_size": None}, 512), ({"max_size": None}, 512)])
def test_windows_are_long_enough_for_pictures_of_any_size(options, side):
    assert detector("vgg16", **{"min_size": 600, "max_size": 1000, **options}).graph.box_pool.max_side == side


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (build_faster_rcnn, {"variant": "c5"}, r"`variant` must be one of .*'c4', 'vgg16'.*Received: variant='c5'"),
        (build_mask_rcnn, {"variant": "c4"}, r"`variant` must be one of \('v1', 'v2'\)"),
        (
            build_faster_rcnn,
            {"variant": "c4", "anchor_sizes": ((32,), (64,))},
            "`anchor_sizes` must hold the sizes of one",
        ),
    ],
)
def test_what_does_not_fit_is_refused(build, options, message):
    with pytest.raises(ValueError, match=message):
        build((None, None, 3), 3, backbone=body(), **options)


def test_a_backbone_that_cannot_be_cut_is_refused():
    small = body()
    tied = keras.layers.Add()([small.output["c5"], keras.layers.MaxPooling2D(4, 4, "same")(small.output["c3"])])
    with pytest.raises(ValueError, match='"c5" from "c4" alone'):
        detector("c4", backbone=keras.Model(small.input, {**small.output, "c5": tied}))


def test_anchors_are_caffes_with_the_edge_behind_the_last_pixel():
    """The table of the release counts pixels from 1 and names the last: -83 -39 100 56 is [-84, 100) x [-40, 56)."""
    layer = CaffeAnchors(((128, 256, 512),))
    (anchors,) = layer([np.zeros((1, 32, 48, 3), "f4"), np.zeros((1, 2, 3, 4), "f4")])
    anchors = np.asarray(anchors).reshape(2, 3, 9, 4)
    np.testing.assert_array_equal(anchors[0, 0, 0], [-84, -40, 100, 56])
    np.testing.assert_array_equal(anchors[0, 0, 5], [-248, -248, 264, 264])  # ratio 1, scale 32
    np.testing.assert_array_equal(anchors[1, 2] - anchors[0, 0], np.tile([32, 16, 32, 16], (9, 1)))


def test_codes_of_edges_are_caffes_codes_of_last_pixels():
    generator = np.random.default_rng(0)
    corners = generator.integers(0, 90, (2, 20, 2)).astype("f4")
    anchors, boxes = np.concatenate([corners, corners + generator.integers(4, 60, (2, 20, 2))], axis=-1).astype("f4")
    pixel = np.float32([0, 0, 1, 1])
    caffe = encode_boxes(anchors - pixel, boxes - pixel, inclusive=True)
    np.testing.assert_allclose(encode_boxes(anchors, boxes), caffe, atol=1e-6)


def test_regions_are_pooled_up_to_their_last_pixel():
    """Last pixels 39 and 55 are in cells 2 and 3 of stride 16; the edge at 56 would be rounded to cell 4."""
    ramp = np.arange(25, dtype="f4").reshape(1, 5, 5, 1)
    box = np.float32([[[0, 0, 40, 56]]])
    pooled = CaffeRoIPool(2, 1 / 16)([ramp], box)
    np.testing.assert_array_equal(np.asarray(pooled)[0, 0, :, :, 0], [[6, 7], [16, 17]])
    assert np.asarray(RoIPool(2, 1 / 16)([ramp, box]))[0, 0, 1, 0, 0] != 16


def test_two_scores_become_the_logit_of_their_softmax():
    scores = np.random.default_rng(0).normal(size=(2, 3, 4, 6)).astype("f4")
    both = np.exp(np.stack([scores[..., :3], scores[..., 3:]]))
    probability = 1 / (1 + np.exp(-np.asarray(ObjectLessBackground()(scores))))
    np.testing.assert_allclose(probability, both[1] / both.sum(axis=0), rtol=1e-5)


def losses_of_anchors(anchors, logits, size, boxes, **options):
    settings = DetectorSettings(rpn_samples=8, **options)
    losses = CaffeLosses(SimpleNamespace(settings=settings, mask=None, keypoint=None))
    count = len(anchors)
    dense = {
        "anchors": [np.float32(anchors)],
        "logits": [np.float32(logits).reshape(1, 1, count, 1)],
        "deltas": [np.zeros((1, 1, count, 4), "f4")],
        "size": np.float32([size]),
    }
    boxes = np.float32([boxes])
    found = losses._rpn(dense, boxes, np.ones(boxes.shape[:2], bool), keras.random.SeedGenerator(0))
    return {name: float(value) for name, value in found.items()}


def test_anchors_that_stick_out_are_not_trained():
    """The first anchor is the object, the second background; the two others, however wrong, stick out."""
    anchors = [[0, 0, 20, 20], [40, 40, 60, 60], [50, 50, 61, 60], [-1, 0, 20, 20]]
    found = losses_of_anchors(anchors, [1, -2, 50, -50], (60, 60), [[0, 0, 20, 20]])
    expected = (np.log1p(np.exp(-1)) + np.log1p(np.exp(-2))) / 2
    assert found == {"loss_objectness": pytest.approx(expected, rel=1e-6), "loss_rpn_box_reg": 0.0}


def test_the_best_anchor_within_the_picture_is_an_object():
    """An overlap of 0.5 is enough for the best one, although an anchor that sticks out has more."""
    found = losses_of_anchors([[0, 0, 20, 20], [-1, 0, 20, 10]], [1, 9], (60, 60), [[0, 0, 20, 10]])
    assert found["loss_objectness"] == pytest.approx(np.log1p(np.exp(-1)), rel=1e-6)
    # Half as high, centre a quarter higher: smooth L1 with beta 1/9 of (0, -0.25, 0, log 0.5), one anchor drawn.
    assert found["loss_rpn_box_reg"] == pytest.approx(0.25 - 1 / 18 + np.log(2) - 1 / 18, rel=1e-5)


def test_a_picture_without_room_for_any_anchor_uses_all():
    found = losses_of_anchors([[-8, -8, 24, 24], [0, 0, 64, 64]], [1, -2], (16, 16), [[-8, -8, 24, 24]])
    assert found["loss_objectness"] == pytest.approx((np.log1p(np.exp(-1)) + np.log1p(np.exp(-2))) / 2, rel=1e-6)


def test_the_last_stage_of_c4_is_the_head_of_the_regions():
    model = detector("c4")
    weighted = [layer.name for layer in model.graph.backbone.layers if layer.weights]
    assert weighted == ["conv1", "conv2", "conv3", "conv4"]
    tail = model.graph.box.get_layer("tail")
    assert [layer.name for layer in tail.layers if layer.weights] == ["conv5"]
    assert tail.compute_output_shape((7, 14, 14, 8)) == (7, 7, 7, 8)
    assert model.graph.box_pool.output_size == (14, 14)
    assert model.graph.box.output_shape == [(None, 4), (None, 16)]


@pytest.fixture(scope="module", params=["c4", "vgg16"])
def small(request):
    return detector(request.param)


def pictures(*shape):
    return np.random.default_rng(0).integers(0, 256, shape).astype("uint8")


def test_a_file_gives_the_same_detector_back(small, tmp_path):
    small.save(tmp_path / "a.keras")
    copy = keras.saving.load_model(tmp_path / "a.keras", compile=False)
    assert type(copy) is type(small)
    assert copy.graph.settings == small.graph.settings
    x = pictures(2, 53, 70, 3)
    expected, found = small(x), copy(x)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    boxes = np.asarray(expected["boxes"])
    assert boxes.min() >= 0
    assert boxes[..., 2].max() <= 70
    assert boxes[..., 3].max() <= 53


@pytest.mark.parametrize("labels", [[1, -1], [-1, -1]])
def test_every_part_learns_and_a_picture_without_objects_gives_a_finite_loss(small, labels):
    import tensorflow as tf

    targets = {"boxes": np.float32([[[10, 10, 40, 50], [0, 0, 0, 0]]]), "labels": np.int32([labels])}
    with tf.GradientTape() as tape:
        losses = small.losses_of(small(pictures(1, 64, 64, 3), training=True), targets, seed=small.noise, training=True)
        loss = sum(losses.values())
    gradients = tape.gradient(loss, [v.value for v in small.trainable_variables])
    assert np.isfinite(float(loss))
    for variable, gradient in zip(small.trainable_variables, gradients, strict=True):
        assert np.isfinite(np.asarray(gradient)).all(), variable.path
        # Without objects no box is regressed.
        assert labels[0] < 0 or variable.name == "bias" or np.any(gradient), variable.path


def test_proposals_are_at_least_a_cell_of_the_map_large():
    model = detector("vgg16")
    assert isinstance(model, CaffeDetector)
    assert model.graph.proposals.min_size == model.graph.train_proposals.min_size == 16
    dense = model.graph.dense(pictures(1, 64, 64, 3))
    boxes, count = model.graph.proposals([dense["size"], *dense["logits"], *dense["deltas"], *dense["anchors"]])
    boxes = np.asarray(boxes)[0, : int(count[0])]
    assert len(boxes)
    assert (boxes[:, 2:] - boxes[:, :2]).min() >= 16


def test_layers_of_a_vgg16_classifier_arrive_in_backbone_and_head():
    picture = keras.Input((14, 14, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="block1_conv1")(picture)
    x = keras.layers.Flatten()(keras.layers.MaxPooling2D(2)(x))
    x = keras.layers.Dense(6, name="fc1")(x)
    classifier = keras.Model(picture, keras.layers.Dense(5, name="predictions")(keras.layers.Dense(6, name="fc2")(x)))

    from keras_cv_lectures.detection import box_head

    head = box_head(4, 3, units=(6, 6), dropout=0.5)
    first = keras.layers.Conv2D(4, 3, name="block1_conv1")
    first.build((None, None, None, 1))
    load_vgg16_layers([first, *head.layers], classifier)
    original = {layer.name: layer.get_weights() for layer in classifier.layers}
    np.testing.assert_allclose(first.kernel, original["block1_conv1"][0].sum(axis=2, keepdims=True), rtol=1e-6)
    np.testing.assert_array_equal(np.reshape(head.get_layer("box_head.fc6").kernel, (-1, 6)), original["fc1"][0])
    np.testing.assert_array_equal(head.get_layer("box_head.fc7").kernel, original["fc2"][0])


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["c4", "vgg16"])
def test_the_tflite_file_gives_the_same_detections(variant, tmp_path):
    model = detector(variant)
    kcvl.export_tflite(model, tmp_path / "a.tflite", input_shape=(64, 96), verify=False)
    x = pictures(1, 64, 96, 3)
    expected, found = kcvl.load_runner(model)(x), kcvl.load_runner(tmp_path / "a.tflite")(x)
    count = int(expected["count"][0])
    assert count
    assert int(found["count"][0]) == count
    # RoI pooling gives neighbouring regions the same scores, so their order may differ.
    for box, label in zip(expected["boxes"][0, :count], expected["labels"][0, :count], strict=True):
        same = found["labels"][0] == label
        assert np.abs(found["boxes"][0][same] - box).max(axis=1).min() < 1e-3
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-5)
