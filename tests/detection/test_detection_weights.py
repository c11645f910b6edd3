"""torchvision's detection files: both spellings of their names, COCO's 91 outputs, other classes, normalisation."""

from __future__ import annotations

import json
import re

import keras
import numpy as np
import pytest

from keras_cv_lectures.detection import COCO_CLASSES, build_faster_rcnn, build_keypoint_rcnn, build_mask_rcnn
from keras_cv_lectures.detection.coco import COCO_IDS, COCO_OUTPUTS
from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.weights import load_weights, to_torch_state
from keras_cv_lectures.weights.published import find_published

SMALL = {
    "backbone": "resnet14_v1_5",
    "pyramid_filters": 8,
    "box_units": (16, 16),
    "min_size": None,
    "max_size": None,
    "anchor_sizes": ((8,), (16,), (32,), (64,), (128,)),
    "rpn_pre_nms": (40, 40),
    "rpn_post_nms": (20, 20),
    "box_score": 0.0,
    "max_detections": 5,
}
BUILDERS = {
    "faster": (build_faster_rcnn, {}),
    "mask": (build_mask_rcnn, {"mask_filters": (8, 8)}),
    "keypoint": (build_keypoint_rcnn, {"keypoint_filters": (8, 8), "num_keypoints": 3}),
}


def build(kind, classes=3, seed=0, **options):
    keras.utils.set_random_seed(seed)
    function, more = BUILDERS[kind]
    return function((None, None, 3), classes, **{**SMALL, **more, **options})


@pytest.fixture(scope="module")
def states():
    """State dicts in torchvision's spelling, none of whose tensors has the value that a new network has."""
    found = {}
    for kind in BUILDERS:
        model = build(kind)
        generator = np.random.default_rng(1)
        state = to_torch_state(model, names=model.torch_names)
        found[kind] = {
            key: value * 0.9 + (0.1 * generator.random(value.shape)).astype("f4") for key, value in state.items()
        }
    return found


def write(path, state):
    """A `.safetensors` file."""
    header, begin = {}, 0
    for key, value in state.items():
        header[key] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [begin, begin + value.nbytes]}
        begin += value.nbytes
    encoded = json.dumps(header).encode()
    data = b"".join(np.ascontiguousarray(value, "<f4").tobytes() for value in state.values())
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)
    return path


def legacy(key):
    """The name that a tensor had in the files of 2019."""
    key = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
    key = re.sub(r"fpn\.(inner|layer)_blocks\.(\d)\.0\.", r"fpn.\1_blocks.\2.", key)
    return re.sub(r"mask_head\.(\d)\.0\.", lambda found: f"mask_head.mask_fcn{int(found[1]) + 1}.", key)


def test_the_names_are_torchvisions(states):
    mask, keypoint = states["mask"], states["keypoint"]
    assert set(states["faster"]) < set(mask)
    for key, shape in {
        "backbone.body.conv1.weight": (16, 3, 7, 7),
        "backbone.body.layer1.0.downsample.1.running_var": (64,),
        "backbone.fpn.inner_blocks.3.0.weight": (8, 512, 1, 1),
        "backbone.fpn.layer_blocks.0.0.bias": (8,),
        "rpn.head.conv.0.0.weight": (8, 8, 3, 3),
        "rpn.head.cls_logits.weight": (3, 8, 1, 1),
        "rpn.head.bbox_pred.weight": (12, 8, 1, 1),
        "roi_heads.box_head.fc6.weight": (16, 8 * 7 * 7),
        "roi_heads.box_head.fc7.weight": (16, 16),
        "roi_heads.box_predictor.cls_score.weight": (4, 16),
        "roi_heads.box_predictor.bbox_pred.weight": (16, 16),
        "roi_heads.mask_head.1.0.weight": (8, 8, 3, 3),
        "roi_heads.mask_predictor.conv5_mask.weight": (8, 8, 2, 2),
        "roi_heads.mask_predictor.mask_fcn_logits.weight": (4, 8, 1, 1),
    }.items():
        # Linear layers over a map are stored flat by torchvision, and as kernels here; both load.
        assert mask[key].reshape(shape).shape == shape, key
    assert keypoint["roi_heads.keypoint_head.2.weight"].shape == (8, 8, 3, 3)
    assert keypoint["roi_heads.keypoint_predictor.kps_score_lowres.weight"].shape == (8, 3, 4, 4)


@pytest.mark.parametrize(
    ("kind", "spelling"), [("faster", "legacy"), ("mask", "current"), ("mask", "legacy"), ("keypoint", "legacy")]
)
def test_files_in_both_spellings_load_completely(kind, spelling, states, tmp_path):
    state = states[kind]
    stored = {legacy(key) if spelling == "legacy" else key: value for key, value in state.items()}
    if spelling == "legacy":
        assert len(set(stored) - set(state)) == 18 + 4 * (kind == "mask")
    # torch stores the first linear layer flat.
    name = "roi_heads.box_head.fc6.weight"
    stored[name] = stored[name].reshape(16, -1)
    model = build(kind, seed=5)
    load_weights(model, write(tmp_path / "a.safetensors", stored))
    found = to_torch_state(model, names=model.torch_names)
    assert list(found) == list(state)
    for key, value in state.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)


@pytest.mark.parametrize(
    ("kind", "options", "heads"),
    [
        (
            "mask",
            {"classes": 5},
            ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_predictor.mask_fcn_logits"),
        ),
        ("keypoint", {"num_keypoints": 5}, ("keypoint_predictor.kps_score_lowres",)),
    ],
)
def test_other_numbers_of_outputs_keep_the_initial_values_of_the_heads(kind, options, heads, states, tmp_path):
    path = write(tmp_path / "a.safetensors", states[kind])
    model = build(kind, seed=5, **options)
    before = to_torch_state(model, names=model.torch_names)
    with pytest.warns(UserWarning, match="keep their initial values") as caught:
        load_weights(model, path)
    assert all(f"roi_heads.{head}" in str(caught[0].message) for head in heads)
    for key, value in to_torch_state(model, names=model.torch_names).items():
        expected = before[key] if any(head in key for head in heads) else states[kind][key]
        np.testing.assert_array_equal(value, expected, err_msg=key)


def test_a_file_that_lacks_a_part_changes_nothing(states, tmp_path):
    path = write(tmp_path / "a.safetensors", {k: v for k, v in states["faster"].items() if "rpn.head.conv" not in k})
    model = build("faster", seed=5)
    before = model.get_weights()
    with pytest.raises(ModelError, match=r"rpn\.head\.conv\.0\.0/kernel finds no rpn\.head\.conv\.0\.0\.weight"):
        load_weights(model, path)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ModelError, match=r"roi_heads\.mask_head\.0\.0\.weight has no layer"):
        load_weights(model, write(tmp_path / "b.safetensors", states["mask"]))


def backbone_norms(model):
    body = next(layer for layer in model.graph.backbone.layers if isinstance(layer, keras.Model))
    return [layer for layer in body.layers if isinstance(layer, keras.layers.BatchNormalization)]


@pytest.mark.parametrize(
    ("name", "epsilon"),
    [
        ("fasterrcnn_resnet50_fpn_coco-mine", 0.0),
        ("keypointrcnn_resnet50_fpn_coco-fc266e95", 0.0),
        ("keypointrcnn_resnet50_fpn_coco-9f466800", 1e-5),
        ("fine_tuned", 1e-5),
    ],
)
def test_normalisation_of_loaded_weights_is_a_constant(name, epsilon, states, tmp_path):
    """torchvision's first recipe was trained without the epsilon that its layers have otherwise."""
    kind = "keypoint" if name.startswith("keypoint") else "faster"
    model = build(kind, weights=write(tmp_path / f"{name}.safetensors", states[kind]))
    norms = backbone_norms(model)
    assert len(norms) == 17
    assert {norm.epsilon for norm in norms} == {epsilon}
    assert not any(norm.trainable for norm in norms)


@pytest.mark.parametrize(
    ("kind", "label", "options", "epsilon"),
    [
        ("faster", "coco_v1", {}, 0.0),
        ("faster", "coco_v1", {"variant": "v2", "frozen_normalization": True}, 1e-5),
        ("faster", "coco_v1", {"backbone": "mobilenetv3_large", "anchor_sizes": None}, 1e-5),
        ("mask", "coco_v1", {}, 0.0),
        ("keypoint", "coco_v1", {}, 0.0),
        ("keypoint", "coco_legacy", {}, 1e-5),
    ],
)
def test_published_weights_without_an_epsilon(unfilled, monkeypatch, kind, label, options, epsilon):
    """Those for which torchvision's builders call `overwrite_eps(model, 0.0)`."""
    monkeypatch.setattr("keras_cv_lectures.detection.rcnn.load_weights", lambda *a, **k: None)
    function, more = BUILDERS[kind]
    options = {**SMALL, "backbone": "resnet50_v1_5", **more, **options, "weights": f"torchvision/{label}"}
    model = unfilled(function, (None, None, 3), 3, **options)
    assert {norm.epsilon for norm in backbone_norms(model)} == {epsilon}


@pytest.mark.parametrize(
    ("sizes", "digits", "proposals"),
    [((320, 640), "907ea3f9", 150), ((800, 1333), "fb6a3cc7", 1000), ((320, 1333), "fb6a3cc7", 1000)],
)
def test_the_network_for_small_pictures_is_torchvisions(unfilled, monkeypatch, sizes, digits, proposals):
    """Its weights, its proposals at inference and the first block that is trained are of torchvision's builder."""
    asked = []

    def load(model, weights, architecture):
        asked.append(find_published(weights, architecture).sha256_prefix)

    monkeypatch.setattr("keras_cv_lectures.detection.rcnn.load_weights", load)
    options = {"backbone": "mobilenetv3_large", "weights": "torchvision/coco_v1", "pyramid_filters": 8}
    options |= {"box_units": (16, 16), **dict(zip(("min_size", "max_size"), sizes, strict=True))}
    model = unfilled(build_faster_rcnn, (None, None, 3), 3, **options)
    assert asked == [digits]
    settings = model.graph.settings
    assert settings.rpn_pre_nms == settings.rpn_post_nms == (2000, proposals)
    assert (settings.rpn_score, settings.box_score) == (0.05, 0.05)
    given = unfilled(build_faster_rcnn, (None, None, 3), 3, **options, rpn_post_nms=(60, 50)).graph.settings
    assert (given.rpn_pre_nms, given.rpn_post_nms) == ((2000, proposals), (60, 50))
    convolutions = {keras.layers.Conv2D, keras.layers.DepthwiseConv2D}
    blocks = [
        (int(layer.path.rpartition("/")[2].partition(".")[0]), layer.trainable)
        for layer in model.graph.backbone._flatten_layers()
        if type(layer) in convolutions and layer.name[0].isdigit()
    ]
    assert {number for number, trained in blocks if not trained} == set(range(7))
    assert {number for number, trained in blocks if trained} == set(range(7, 17))


@pytest.fixture(scope="module")
def coco():
    """A Mask R-CNN with COCO's 91 outputs for 80 classes."""
    sizes = {"max_detections": 100, "rpn_post_nms": (COCO_OUTPUTS,) * 2, "samples": 16}
    return build("mask", 80, coco_outputs=True, box_score=0.5, **sizes)


def regions_of_each_output(model):
    """Detections of one region for each of the 91 outputs, which that output alone is sure of, far from the others."""
    count = COCO_OUTPUTS
    left = 20.0 * np.arange(count, dtype="f4")
    boxes = np.stack([left, np.zeros(count), left + 10, np.full(count, 10.0)], axis=-1).astype("f4")
    logits = np.where(np.eye(count, dtype=bool), 20, -20).astype("f4")
    # Background and the others of a region have another box, 5 pixels lower, than its own output.
    deltas = np.zeros((count, count, 4), "f4")
    deltas[..., 1] = np.where(np.eye(count, dtype=bool), 0, 5)  # weight 10, height 10
    found = model.graph.detections(
        [
            np.float32([[10, 20 * count]]),
            boxes[None],
            np.int32([count]),
            logits[None],
            deltas.reshape(1, count, 4 * count),
        ]
    )
    return {key: np.asarray(value)[0] for key, value in found.items()}, boxes


def test_labels_have_no_gaps_and_outputs_without_a_category_are_never_seen(coco):
    found, boxes = regions_of_each_output(coco)
    count = int(found["count"])
    assert count == 80
    assert sorted(found["labels"][:count]) == list(range(80))
    for label, box in zip(found["labels"][:count], found["boxes"][:count], strict=True):
        np.testing.assert_allclose(box, boxes[COCO_IDS[label]], atol=1e-3)
    assert (found["labels"][count:] == -1).all()
    # Categories of COCO's own numbering, around the gaps.
    names = {COCO_IDS[label]: COCO_CLASSES[label] for label in found["labels"][:count]}
    assert {i: names.get(i) for i in (1, 11, 12, 13, 44, 45, 90)} == {
        1: "person",
        11: "fire hydrant",
        12: None,
        13: "stop sign",
        44: "bottle",
        45: None,
        90: "toothbrush",
    }


def test_masks_are_of_the_outputs_of_their_labels(coco):
    labels = np.int32([[0, 11, 79, -1]])
    logits = np.full((1, 4, 1, 1, COCO_OUTPUTS), -20, "f4")
    for row, output in enumerate((1, 13, 90)):
        logits[0, row, 0, 0, output] = 20
    np.testing.assert_allclose(np.ravel(coco.graph.masks([logits, labels])), [1, 1, 1, 0], atol=1e-6)


def test_training_pulls_at_the_outputs_of_the_labels(coco):
    """From equal scores, the class loss makes those of the background and of the truth's output grow, no others."""
    import tensorflow as tf

    predictor = coco.graph.box.get_layer("box_predictor.cls_score")
    predictor.set_weights([np.zeros(w.shape, "f4") for w in predictor.weights])
    targets = {
        "boxes": np.float32([[[8, 8, 40, 40]]]),
        "labels": np.int32([[79]]),
        "masks": np.ones((1, 1, 8, 8), "uint8"),
        "mask_windows": np.float32([[[8, 8, 40, 40]]]),
    }
    picture = np.random.default_rng(0).integers(0, 255, (1, 64, 64, 3)).astype("uint8")
    with tf.GradientTape() as tape:
        losses = coco.losses_of(coco(picture, training=True), targets, seed=coco.noise, training=True)
    gradient = np.asarray(tape.gradient(losses["loss_classifier"], predictor.bias.value))
    assert set(np.flatnonzero(gradient < 0)) == {0, 90}
