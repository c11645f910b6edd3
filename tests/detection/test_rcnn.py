"""Region-based detectors: equality with recorded torchvision networks, and what users rely on."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.backbones import resnet_v1_5
from keras_cv_lectures.detection import (
    COCO_CLASSES,
    COCO_KEYPOINTS,
    Detector,
    DetectorSettings,
    box_head,
    build_faster_rcnn,
    build_keypoint_rcnn,
    build_mask_rcnn,
    feature_pyramid,
    mask_head,
    rpn_head,
)
from keras_cv_lectures.detection.coco import COCO_IDS, COCO_OUTPUTS
from keras_cv_lectures.detection.freezing import freeze_normalization, freeze_stages
from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.geometry.masks import paste_masks_numpy
from keras_cv_lectures.layers import FitPicture
from keras_cv_lectures.weights.torchvision import _slots, load_torch

SMALL = {
    "backbone": "resnet14_v1_5",
    "pyramid_filters": 16,
    "box_units": (32, 32),
    "min_size": None,
    "max_size": None,
    "anchor_sizes": ((8,), (16,), (32,), (64,), (128,)),
    "rpn_pre_nms": (50, 50),
    "rpn_post_nms": (30, 20),
    "rpn_samples": 4096,
    "samples": 64,
    "max_detections": 5,
}
GOLDEN = ["model_fasterrcnn_narrow", "model_maskrcnn_narrow"]


def _counts(text):
    """Planes and units of the recorded bottom-up network, from the words of its description."""
    units, planes, stem, pyramid = re.search(
        r"Bottleneck ([\d,]+) planes ([\d,]+) stem (\d+).*FPN (\d+) ch", text
    ).groups()
    return (
        tuple(int(n) for n in units.split(",")),
        tuple(int(n) for n in planes.split(",")),
        int(stem),
        int(pyramid),
    )


def _number(pattern, text):
    return float(re.search(pattern, text).group(1))


def _recorded(arrays, cfg):
    """The recorded network, and its two pictures on one canvas with the boxes that are on them."""
    state = {key.removeprefix("param/"): value for key, value in arrays.items() if key.startswith("param/")}
    units, planes, stem, filters = _counts(cfg["backbone"])
    body = resnet_v1_5(units, planes, stem=stem)
    freeze_normalization(body, epsilon=1e-5)
    outputs = cfg["num_classes"]
    mask = None
    if "roi_heads.mask_predictor.mask_fcn_logits.weight" in state:
        widths = [v.shape[0] for k, v in state.items() if re.fullmatch(r"roi_heads\.mask_head\.\d+\.0\.weight", k)]
        mask = mask_head(filters, outputs, filters=widths)
    pre, post = (int(_number(rf"{name}_nms (\d+)", cfg["rpn"])) for name in ("pre", "post"))
    widths = tuple(state[f"roi_heads.box_head.{name}.weight"].shape[0] for name in ("fc6", "fc7"))
    model = Detector(
        feature_pyramid(body, filters=filters),
        rpn_head(filters, 3),
        box_head(filters, outputs, units=widths),
        mask,
        settings=DetectorSettings(
            min_size=cfg["min_size"],
            max_size=cfg["max_size"],
            anchor_sizes=tuple((size,) for size in cfg["anchors"]),
            rpn_pre_nms=(pre, pre),
            rpn_post_nms=(post, post),
            max_detections=int(_number(r"(\d+) detections", cfg["box"])),
            box_score=_number(r"score (\.\d+)", cfg["box"]),
            box_nms=_number(r"nms (\.\d+)", cfg["box"]),
            rpn_samples=10**6,
            samples=10**6,
        ),
    )
    load_torch(model, state, names=model.torch_names)
    return model


@pytest.fixture(scope="module", params=GOLDEN)
def recorded(request, golden):
    arrays, cfg = golden(request.param)
    model = _recorded(arrays, cfg)
    canvas = np.zeros((2, *arrays["mid/batch"].shape[2:], 3), "float32")
    sizes, factors = [], []
    for index, name in enumerate("ab"):
        picture = 255 * arrays[f"in/{name}"].transpose(1, 2, 0)
        resized = np.asarray(FitPicture(cfg["min_size"], cfg["max_size"])(picture[None])[0])[0]
        canvas[index, : resized.shape[0], : resized.shape[1]] = resized
        sizes.append(resized.shape[:2])
        factors.append(np.tile(np.divide(resized.shape[1::-1], picture.shape[1::-1]), 2))
    inputs = {"image": canvas, "size": np.array(sizes, "int32")}
    return model, arrays, inputs, factors


@pytest.mark.golden
def test_dense_answers_and_proposals_are_torchvisions(recorded):
    model, arrays, inputs, _ = recorded
    np.testing.assert_array_equal(inputs["size"], arrays["mid/image_sizes"])
    dense = model.graph.dense(inputs)
    levels = [("fpn_" + name, dense["maps"][name]) for name in dense["maps"]]
    levels += [(f"rpn_cls{i}", x) for i, x in enumerate(dense["logits"])]
    levels += [(f"rpn_box{i}", x) for i, x in enumerate(dense["deltas"])]
    for name, got in [("batch", dense["picture"]), *levels]:
        expected = arrays[f"mid/{name}"].transpose(0, 2, 3, 1)
        np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max(), err_msg=name)
    boxes, count = model.graph.proposals([dense["size"], *dense["logits"], *dense["deltas"], *dense["anchors"]])
    for index in range(2):
        expected = arrays[f"mid/proposals{index}"]
        assert int(count[index]) == len(expected)
        np.testing.assert_allclose(boxes[index, : len(expected)], expected, atol=1e-3)


@pytest.mark.golden
def test_detections_are_torchvisions_in_their_order(recorded):
    model, arrays, inputs, factors = recorded
    found = {key: np.asarray(value) for key, value in model(inputs).items()}
    for index, name in enumerate("ab"):
        expected = arrays[f"out/{name}_boxes"]
        count = int(found["count"][index])
        assert count == len(expected)
        boxes = found["boxes"][index, :count] / factors[index]
        np.testing.assert_allclose(boxes, expected, atol=1e-2)
        np.testing.assert_allclose(found["scores"][index, :count], arrays[f"out/{name}_scores"], atol=1e-4)
        np.testing.assert_array_equal(found["labels"][index, :count] + 1, arrays[f"out/{name}_labels"])
        assert (found["labels"][index, count:] == -1).all()
        assert not found["boxes"][index, count:].any()
        if "masks" in found:
            picture = arrays[f"in/{name}"].shape[1:]
            pasted = paste_masks_numpy(found["masks"][index, :count], boxes, picture, "torchvision")
            recorded_masks = arrays[f"out/{name}_masks_u8"][:, 0].astype(int)
            assert np.abs(np.rint(255 * pasted).astype(int) - recorded_masks).max() <= 1


@pytest.mark.golden
def test_losses_and_gradients_are_torchvisions(recorded):
    model, arrays, inputs, factors = recorded
    height, width = inputs["image"].shape[1:3]
    most = 2 + max(len(arrays[f"in/{name}_gt_boxes"]) for name in "ab")
    targets = {
        "boxes": np.zeros((2, most, 4), "float32"),
        "labels": np.full((2, most), -1, "int32"),
        "masks": np.zeros((2, most, height, width), "uint8"),
        "mask_windows": np.tile(np.float32([0, 0, width, height]), (2, most, 1)),
    }
    for index, name in enumerate("ab"):
        boxes, labels = arrays[f"in/{name}_gt_boxes"], arrays[f"in/{name}_gt_labels"]
        targets["boxes"][index, : len(boxes)] = boxes * factors[index]
        targets["labels"][index, : len(boxes)] = labels - 1
        if f"in/{name}_gt_masks" in arrays:
            masks, (rows, columns) = arrays[f"in/{name}_gt_masks"], inputs["size"][index]
            row = np.floor(np.arange(rows) * (masks.shape[1] / rows)).astype(int)  # torch's "nearest"
            column = np.floor(np.arange(columns) * (masks.shape[2] / columns)).astype(int)
            targets["masks"][index, : len(masks), :rows, :columns] = masks[:, row][:, :, column]
    slots = {slot.key: slot for slot in _slots(model, model.torch_names)}
    watched = [key.removeprefix("grad/") for key in arrays if key.startswith("grad/")]
    with tf.GradientTape() as tape:
        losses = model.losses_of(model(inputs, training=True), targets, seed=model.noise, training=True)
        total = sum(losses.values())
    expected = {key.removeprefix("train/"): value for key, value in arrays.items() if key.startswith("train/")}
    assert set(losses) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(losses[name], value, rtol=1e-4, err_msg=name)
    gradients = tape.gradient(total, [slots[key].variable.value for key in watched])
    for key, gradient in zip(watched, gradients, strict=True):
        recorded_gradient = arrays[f"grad/{key}"]
        got = slots[key].to_torch(np.asarray(gradient)).reshape(recorded_gradient.shape)
        assert np.abs(got - recorded_gradient).max() <= 1e-3 * np.abs(recorded_gradient).max(), key


@pytest.mark.parametrize(
    ("build", "options", "published"),
    [
        (build_faster_rcnn, {"variant": "v2"}, 43_712_278),
        (build_mask_rcnn, {"variant": "v2"}, 46_359_409),
        (build_faster_rcnn, {"backbone": "mobilenetv3_large", "frozen_normalization": True}, 19_386_354),
    ],
)
def test_published_parameter_counts_of_the_other_networks(unfilled, build, options, published):
    model = unfilled(build, coco_outputs=True, **options)
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == published


def test_coco_names_have_no_gaps():
    assert len(COCO_CLASSES) == len(COCO_IDS) == 80
    assert COCO_OUTPUTS == 91
    assert (COCO_CLASSES[0], COCO_CLASSES[11], COCO_CLASSES[-1]) == ("person", "stop sign", "toothbrush")
    assert (COCO_IDS[0], COCO_IDS[11], COCO_IDS[-1]) == (1, 13, 90)
    assert len(COCO_KEYPOINTS) == 17
    assert "" not in COCO_CLASSES


def test_targets_in_the_pictures_pixels_train_at_the_networks_scale():
    """A picture that the network enlarges, and the same picture enlarged before: one loss."""
    keras.utils.set_random_seed(0)
    model = build_mask_rcnn((None, None, 3), 2, **{**SMALL, "min_size": 64, "max_size": 96}, mask_filters=(8,))
    picture = np.random.default_rng(0).integers(0, 255, (1, 32, 48, 3)).astype("uint8")
    boxes = np.float32([[[4, 6, 20, 30], [0, 0, 0, 0]]])
    targets = {
        "boxes": boxes,
        "labels": np.int32([[1, -1]]),
        "masks": np.ones((1, 2, 16, 16), "uint8"),
        "mask_windows": boxes,
    }
    doubled = {**targets, "boxes": 2 * boxes, "mask_windows": 2 * boxes}
    large = {"image": np.asarray(FitPicture(64, 96)(picture)[0]), "size": np.int32([[64, 96]])}
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    losses = [
        float(model.compute_loss(x, y, model(x, training=True))) for x, y in ((picture, targets), (large, doubled))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize(
    ("size", "sides", "fitted"),
    [((1, 2000), (500, 1000), (1, 1000)), ((700, 2), (350, 350), (350, 1)), ((3, 4000), (500, 1000), (1, 1000))],
)
def test_no_side_of_a_long_picture_is_lost(size, sides, fitted):
    """Where its scaled length is 1/2, 1 and 3/4 of a pixel."""
    picture = np.full((1, *size, 3), 80, "uint8")
    layer = FitPicture(*sides)
    traced = tf.function(layer, input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8)], autograph=False)
    for resized, found in (layer(picture), traced(picture)):
        assert resized.shape == (1, *fitted, 3)
        np.testing.assert_array_equal(found, [fitted])
        np.testing.assert_allclose(resized, 80, rtol=1e-6)
    assert layer.compute_output_shape(picture.shape)[0] == (1, *fitted, 3)


def test_losses_show_up_by_name_and_pictures_without_objects_are_no_nan():
    keras.utils.set_random_seed(0)
    model = build_keypoint_rcnn((48, 64, 3), 1, num_keypoints=3, keypoint_filters=(8,), **SMALL)
    model.compile(keras.optimizers.SGD(1e-3), jit_compile=False)
    pictures = np.random.default_rng(0).integers(0, 255, (2, 48, 64, 3)).astype("uint8")
    targets = {
        "boxes": np.zeros((2, 4, 4), "float32"),
        "labels": np.full((2, 4), -1, "int32"),
        "keypoints": np.zeros((2, 4, 3, 3), "float32"),
    }
    history = model.fit(pictures, targets, verbose=0).history
    assert set(history) == {"loss", *model.losses_of.names}
    assert np.isfinite(list(history.values())).all()
    assert history["loss_keypoint"] == [0.0]
    assert history["loss_box_reg"] == [0.0]
    assert history["loss_objectness"][0] > 0
    assert history["loss_classifier"][0] > 0


def test_a_step_in_bfloat16_keeps_sizes_and_boxes_exact():
    """257 rows and 259 columns are 256 and 260 in bfloat16."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build_mask_rcnn((None, None, 3), 2, mask_filters=(8,), **SMALL)
    finally:
        keras.config.set_dtype_policy("float32")
    boxes = np.float32([[[3, 2, 251, 249], [40, 40, 60.3, 70.7]]])
    inputs = {"image": np.full((1, 288, 288, 3), 255, "uint8"), "size": np.int32([[257, 259]])}
    targets = {
        "boxes": boxes,
        "labels": np.int32([[0, 1]]),
        "masks": np.ones((1, 2, 8, 8), "uint8"),
        "mask_windows": boxes,
    }
    dense = model(inputs, training=True)
    assert {x.dtype.name for x in dense["maps"].values()} == {"bfloat16"}
    assert {x.dtype.name for x in (dense["size"], dense["picture"], *dense["anchors"])} == {"float32"}
    shown = np.asarray(dense["picture"])[0].any(axis=-1)
    np.testing.assert_array_equal(shown, np.outer(np.arange(288) < 257, np.arange(288) < 259))
    proposals, count = model.graph.train_proposals(
        [dense["size"], *dense["logits"], *dense["deltas"], *dense["anchors"]]
    )
    proposals = np.asarray(proposals)[0, : int(count[0])]
    assert proposals.dtype == np.float32
    assert proposals.max(axis=0)[2:].tolist() == [259, 257]
    assert (proposals != np.asarray(tf.cast(tf.cast(proposals, "bfloat16"), "float32"))).any()
    model.compile(keras.optimizers.SGD(1e-4), run_eagerly=True)
    before = [w.copy() for w in model.get_weights()]
    logs = model.train_on_batch(inputs, targets, return_dict=True)
    assert set(logs) == {"loss", *model.losses_of.names}
    assert np.isfinite(list(logs.values())).all()
    assert any((new != old).any() for new, old in zip(model.get_weights(), before, strict=True))
    assert model(inputs)["boxes"].dtype == "float32"


def test_freezing():
    body = resnet_v1_5((1, 1, 1, 1), (4, 4, 4, 4), stem=4)
    freeze_normalization(body, epsilon=0.0)
    assert not any("bn" in v.path or "downsample.1" in v.path for v in body.trainable_variables)
    assert body.get_layer("bn1").epsilon == 0.0
    freeze_stages(body, 3)
    trained = {v.path.split("/")[0].split(".")[0] for v in body.trainable_variables}
    assert trained == {"layer2", "layer3", "layer4"}
    with pytest.raises(ValueError, match="0 to 5"):
        freeze_stages(body, 6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"variant": "v3"}, "`variant` must be one of"),
        ({"num_classes": 0}, "background does not count"),
        ({"input_shape": (None, None, None)}, "known number of channels"),
        ({"coco_outputs": True, "num_classes": 3}, "80 classes"),
        ({"min_size": 800, "max_size": 100}, "`min_size`"),
        ({"anchor_sizes": (32, 64, 128, 256, 512)}, "`anchor_sizes` must hold the sizes of every level"),
        ({"anchor_sizes": ((32,), (64,), (128,), (256,))}, "for each of the 5 levels"),
        ({"anchor_sizes": ((32,), (64,), (128,), (256,), (512, 600))}, "equally many sizes"),
        ({"anchor_ratios": 1.0}, "`anchor_ratios` must be height by width"),
        ({"rpn_pre_nms": 1000}, "`rpn_pre_nms` must be two numbers"),
        ({"rpn_post_nms": (10,)}, "`rpn_post_nms` must be two numbers"),
        ({"box_units": ()}, "`box_units` must be one number a layer"),
        ({"box_nms": 5}, "`box_nms` must be in 0..1"),
        ({"max_detections": 0}, "`max_detections` must be a whole number of at least 1"),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        build_faster_rcnn(**{**SMALL, **arguments})


def test_unknown_argument_of_the_shared_options():
    with pytest.raises(TypeError, match="box_score"):
        build_mask_rcnn((None, None, 3), 2, box_scores=0.1)


def test_the_heads_layers_are_those_that_were_asked_for(unfilled):
    def units(**options):
        model = unfilled(build_faster_rcnn, **{**SMALL, "variant": "v2", **options})
        layers = [layer for layer in model.graph.box.layers if "predictor" not in layer.name]
        return [layer.units for layer in layers if hasattr(layer, "units")]

    assert units(box_units=(24, 8)) == [24, 8]
    assert units(box_units=None) == [1024]


@pytest.mark.parametrize(
    ("backbone", "epsilon"), [("mobilenetv2", 1e-3), ("mobilenetv3_large", 1e-5), ("resnet14_v1_5", 1e-5)]
)
def test_freezing_leaves_the_network_as_it_was_trained(unfilled, backbone, epsilon):
    """Only torchvision's own detectors have another epsilon when frozen."""
    small = {k: v for k, v in SMALL.items() if k != "anchor_sizes"}
    model = unfilled(build_faster_rcnn, **{**small, "backbone": backbone, "frozen_normalization": True})
    layers = model.graph.backbone._flatten_layers()
    assert {x.epsilon for x in layers if isinstance(x, keras.layers.BatchNormalization)} == {epsilon}


def test_a_label_without_a_class_gives_no_loss_that_falls_for_ever():
    model = build_faster_rcnn((64, 64, 3), 2, **SMALL)
    pictures = np.zeros((1, 64, 64, 3), "uint8")
    targets = {"boxes": np.float32([[[8, 8, 40, 40]]]), "labels": np.int32([[1]])}
    dense = model(pictures, training=True)
    assert np.isfinite(model.compute_loss(pictures, targets, dense))
    assert np.isnan(model.compute_loss(pictures, {**targets, "labels": np.int32([[2]])}, dense))
    with pytest.raises(ModelError, match="`sample_weight` has no meaning for a detector"):
        model.compute_loss(pictures, targets, dense, sample_weight=np.ones(1))


def test_a_file_brings_the_epsilons_it_was_trained_with(tmp_path):
    body = resnet_v1_5((1, 1, 1, 1), (2, 2, 2, 2), stem=2)
    options = {**SMALL, "frozen_normalization": True}
    model = build_faster_rcnn((None, None, 3), 2, **{**options, "backbone": body})
    freeze_normalization(body, epsilon=0.01)
    model.save(tmp_path / "model.keras")
    again = build_faster_rcnn(
        (None, None, 3),
        2,
        **{**options, "backbone": resnet_v1_5((1, 1, 1, 1), (2, 2, 2, 2), stem=2), "weights": tmp_path / "model.keras"},
    )
    picture = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype("uint8")
    for name, maps in model.graph.dense(picture, training=False)["maps"].items():
        np.testing.assert_array_equal(maps, again.graph.dense(picture, training=False)["maps"][name])
