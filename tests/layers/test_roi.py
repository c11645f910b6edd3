"""RoIAlign, RoIPool and RoIWarp: hand-worked numbers, loops, gradients, and the runtimes that they are exported to."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.exporting.quantize import main_operators
from keras_cv_lectures.layers.portable import portable_operators
from keras_cv_lectures.layers.roi import MultiLevelRoIAlign, RoIAlign, RoIPool, RoIWarp, roi_levels, weighted

RNG = np.random.default_rng(0)
RAMP = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)
BOTH = pytest.mark.parametrize("implementation", ["sparse", "gather"])
LAYERS = {
    "align": lambda **kwargs: RoIAlign(3, 0.5, **kwargs),
    "gather": lambda **kwargs: RoIAlign((2, 3), 0.5, implementation="gather", **kwargs),
    "adaptive": lambda **kwargs: RoIAlign(2, 0.5, sampling_ratio=0, aligned=True, **kwargs),
    "pool": lambda **kwargs: RoIPool((3, 2), 0.5, max_side=16, **kwargs),
    "warp": lambda **kwargs: RoIWarp(4, 0.5, **kwargs),
}


def some_boxes(batch: int, regions: int, side: float) -> np.ndarray:
    """Boxes of which some leave the picture, one is empty, and one lies outside."""
    corners = RNG.uniform(-0.1 * side, side, (batch, regions, 2))
    boxes = np.concatenate([corners, corners + RNG.uniform(0, side, corners.shape)], axis=-1)
    boxes[:, 0, 2:] = boxes[:, 0, :2]
    boxes[:, 1] += 2 * side
    return boxes.astype("float32")


def sums_and_gradient(function, x):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
        loss = tf.reduce_sum(y * np.linspace(-1, 1, int(tf.size(y)), dtype="float32").reshape(y.shape))
    return np.asarray(y), np.asarray(tape.gradient(loss, x))


@BOTH
def test_hand_worked_bins(implementation):
    def bins(box, size, **kwargs):
        return np.asarray(
            RoIAlign(size, implementation=implementation, **kwargs)([RAMP, np.array([[box]], "float32")])
        )[0, 0, :, :, 0]

    # With half a pixel taken off, the centres of 2 x 2 bins lie between four pixels each.
    np.testing.assert_array_equal(bins([0, 0, 4, 4], 2, sampling_ratio=1, aligned=True), [[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_array_equal(bins([0, 0, 4, 4], 2, sampling_ratio=2, aligned=True), [[2.5, 4.5], [10.5, 12.5]])
    # Without, everything is half a pixel further, and 3.5 is beyond the last centre: (1 + 3) / 2 columns, rows alike.
    np.testing.assert_array_equal(bins([0, 0, 4, 4], 2, sampling_ratio=1), [[5, 7], [13, 15]])
    np.testing.assert_array_equal(bins([0, 0, 4, 4], 1, sampling_ratio=2), [[(5 + 7 + 13 + 15) / 4]])
    # A box without size is one pixel long unless aligned.
    np.testing.assert_array_equal(bins([1, 2, 1, 2], 1, sampling_ratio=1), [[1.5 + 4 * 2.5]])
    np.testing.assert_array_equal(bins([1.5, 2.5, 1.5, 2.5], 1, sampling_ratio=1, aligned=True), [[9]])
    # Columns at -1.5, -0.5, 0.5, 1.5: outside, the first pixel, between, between.
    np.testing.assert_array_equal(bins([-2, 0, 2, 0], (1, 4), sampling_ratio=1), [[0, 2, 2.5, 3.5]])
    # Model Garden goes on along the line through the first pixels, and has no smallest box.
    garden = bins([-2, 0, 2, 0], (1, 4), sampling_ratio=1, rule="model_garden")
    np.testing.assert_array_equal(garden, [[-1.5, -0.5, 0.5, 1.5]])


def test_hand_worked_maxima_and_warp():
    pool = np.asarray(RoIPool(2)([RAMP, np.array([[[0, 0, 2, 3], [1, 1, 1, 1], [6, 6, 8, 8]]], "float32")]))[
        0, :, :, :, 0
    ]
    np.testing.assert_array_equal(pool[0], [[5, 6], [13, 14]])  # Three columns: both bins have the middle one.
    np.testing.assert_array_equal(pool[1], [[5, 5], [5, 5]])
    np.testing.assert_array_equal(pool[2], [[0, 0], [0, 0]])
    # Halves are rounded away from 0: rows and columns -1 to 1.
    np.testing.assert_array_equal(RoIPool(1)([RAMP, np.array([[[-0.5, -0.5, 0.5, 0.5]]], "float32")])[0, 0, 0, 0], [5])
    warp = np.asarray(RoIWarp(2)([RAMP, np.array([[[0, 0, 3, 3], [3, 3, 5, 5]]], "float32")]))[0, :, :, :, 0]
    np.testing.assert_array_equal(warp[0], [[0, 1.5], [6, 7.5]])
    np.testing.assert_array_equal(warp[1], [[15, 0], [0, 0]])  # Column 4 is more than half a pixel outside.


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (5, 13), (16, 9)])
def test_pooling_equals_loops(size, inside):
    x = RNG.normal(size=(2, *size, 3)).astype("float32")
    boxes = RNG.uniform(0, 1, (2, 9, 2, 2))
    boxes = np.sort(boxes, axis=2) if inside else np.sort(boxes * 3 - 1, axis=2)
    boxes = (boxes * size[::-1]).reshape(2, 9, 4).astype("float32")
    layer = RoIPool((3, 2), boxes_inside=inside)
    expected = np.zeros((2, 9, 3, 2, 3), "float32")
    for b, r, i, j in np.ndindex(expected.shape[:4]):
        x1, y1, x2, y2 = np.floor(np.abs(boxes[b, r]) + 0.5) * np.sign(boxes[b, r])
        rows, columns = (
            np.clip([np.floor(k * np.float32(n / bins)) + a, np.ceil((k + 1) * np.float32(n / bins)) + a], 0, side)
            for k, a, n, bins, side in (
                (i, y1, max(y2 - y1 + 1, 1), 3, size[0]),
                (j, x1, max(x2 - x1 + 1, 1), 2, size[1]),
            )
        )
        part = x[b, int(rows[0]) : int(rows[1]), int(columns[0]) : int(columns[1])]
        expected[b, r, i, j] = part.max(axis=(0, 1)) if part.size else 0
    np.testing.assert_array_equal(layer([x, boxes]), expected)


def test_levels_at_their_thresholds():
    sides = np.array([0, 1, 111.9, 112, 223.9, 224, 447, 448, 4000], "float32")
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], axis=-1)
    np.testing.assert_array_equal(roi_levels(boxes, (4, 8, 16, 32)), [0, 0, 0, 1, 1, 2, 2, 3, 3])
    np.testing.assert_array_equal(roi_levels(boxes, (4, 8, 16, 32), rule="model_garden"), [0, 0, 0, 1, 1, 2, 2, 3, 3])
    np.testing.assert_array_equal(roi_levels(boxes, (8, 16), 112, 3), [0, 0, 0, 0, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(roi_levels([[5.0, 5.0, 3.0, 9.0]], (4, 8)), [0])  # A negative area.


@pytest.mark.parametrize("strides", [(32, 32), (4, 8, 16, 32), (8, 16), (16,), (8, 8, 16)])
def test_levels_are_torchvisions(strides):
    """`setup_scales` and `LevelMapper` of its poolers.py: the levels end at those of the first and the last map."""
    sides = np.array([1, 56, 111.9, 112, 223.9, 224, 447, 448, 900, 4000], "float32")
    first, last = -np.log2(1 / strides[0]), -np.log2(1 / strides[-1])
    levels = np.clip(np.floor(4 + np.log2(sides / 224) + 1e-6), first, last) - first
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], axis=-1)
    np.testing.assert_array_equal(roi_levels(boxes, strides), levels)
    np.testing.assert_array_equal(roi_levels(boxes, [tf.constant(float(s)) for s in strides]), levels)


@pytest.mark.parametrize("ratio", [1, 2, 3])
@pytest.mark.parametrize("aligned", [False, True])
def test_both_forms_agree(ratio, aligned):
    maps = [RNG.normal(size=(2, 24 >> i, 32 >> i, 5)).astype("float32") for i in range(3)]
    boxes = some_boxes(2, 30, 96)
    assert set(np.ravel(roi_levels(boxes, (4, 8, 16), 24, 3))) == {0, 1, 2}
    found = {}
    for implementation in ("sparse", "gather"):
        layer = MultiLevelRoIAlign(
            (2, 3), ratio, 24, 3, aligned, implementation=implementation, strides=(4, 8, 16), name="align"
        )
        for i in range(3):

            def one(x, i=i, layer=layer):
                return layer([x if j == i else each for j, each in enumerate(maps)], boxes)

            found[implementation, i] = sums_and_gradient(one, maps[i])
    for i in range(3):
        for sparse, gather in zip(found["sparse", i], found["gather", i], strict=True):
            np.testing.assert_allclose(sparse, gather, atol=2e-5)
            assert np.abs(gather).max() > 0


def test_the_gradient_of_a_traced_pyramid():
    # Forward and backward are two graphs here, and what passes between them must be plain tensors.
    x, boxes = RNG.normal(size=(1, 8, 8, 2)).astype("float32"), some_boxes(1, 6, 32)
    layer = MultiLevelRoIAlign(2, 2, 8, 3, strides=(4, 8))

    def function(x):
        return layer([x, x[:, ::2, ::2]], boxes)

    traced = tf.function(function, autograph=False)
    for found, expected in zip(sums_and_gradient(traced, x), sums_and_gradient(function, x), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_long_gathers_are_cut_into_portions(monkeypatch):
    x, boxes = RNG.normal(size=(2, 9, 9, 3)).astype("float32"), some_boxes(2, 5, 9)
    expected = RoIAlign(3, implementation="gather")([x, boxes])
    monkeypatch.setattr("keras_cv_lectures.layers.roi.weighted._PORTION", 16 * 3 * 7)  # 90 bins, 7 at a time.
    layer = RoIAlign(3, implementation="gather")
    np.testing.assert_allclose(layer([x, boxes]), expected, atol=1e-6)
    # Of numbers that are none, too, each portion begins where it should.
    bad = x.copy()
    bad[:, 4:] = np.nan
    found = np.asarray(layer([bad, boxes]))
    assert np.isnan(found).any()
    np.testing.assert_allclose(found, np.where(np.isnan(found), np.nan, expected), atol=1e-6)


def test_portions_in_a_loop_are_those_one_by_one():
    random = np.random.default_rng(0)
    flat, place = random.normal(size=(20, 3)).astype("float32"), random.integers(0, 20, (11, 4)).astype("int32")
    lines = random.normal(size=(11, 1, 4)).astype("float32")
    expected = np.einsum("nok,nkc->noc", lines, flat[place])
    for portion in (1, 3, 4, 5, 10):  # The last of them is filled up, but for portions of one.
        np.testing.assert_allclose(weighted._in_a_loop(flat, place, lines, portion), expected, atol=1e-5)
        np.testing.assert_allclose(weighted._in_portions(flat, place, lines, portion), expected, atol=1e-5)


def test_the_sparse_gradient_adds_all_of_many_equal_boxes():
    # 400 boxes over the same pixels: `crop_and_resize` loses some of what several threads add.
    x, boxes = np.zeros((1, 8, 8, 32), "float32"), np.tile([[[1.0, 1.0, 5.0, 5.0]]], (1, 400, 1))
    with tf.GradientTape() as tape:
        x = tf.constant(x)
        tape.watch(x)
        y = RoIAlign(4, sampling_ratio=1, aligned=True, implementation="sparse")([x, boxes])
    expected = np.zeros((1, 8, 8, 32))
    expected[:, 1:5, 1:5] = 400
    np.testing.assert_allclose(tape.gradient(y, x), expected, rtol=1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_no_boxes_and_no_pictures(name):
    for batch, regions in ((2, 0), (0, 3), (0, 0)):
        x = tf.zeros((batch, 6, 7, 2))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = LAYERS[name]()([x, tf.zeros((batch, regions, 4))])
        assert y.shape[:2] == (batch, regions)
        assert tape.gradient(y, x, unconnected_gradients="zero").shape == x.shape


@pytest.mark.parametrize("name", LAYERS)
def test_unknown_sizes_and_a_reloaded_model(name, tmp_path):
    features, boxes = keras.Input((None, None, 3)), keras.Input((None, 4))
    model = keras.Model([features, boxes], LAYERS[name](name="roi")([features, boxes]))
    size = model.get_layer("roi").output_size
    assert model.output_shape == (None, None, *size, 3)
    model.save(tmp_path / "m.keras")
    reloaded = keras.saving.load_model(tmp_path / "m.keras")
    assert reloaded.get_layer("roi").get_config() == model.get_layer("roi").get_config()
    function = tf.function(model, autograph=False)
    for height, width, regions in ((7, 9, 4), (12, 10, 2)):
        x, box = RNG.normal(size=(2, height, width, 3)).astype("float32"), some_boxes(2, regions, 16)
        expected = LAYERS[name]()([x, box])
        np.testing.assert_allclose(function([tf.constant(x), tf.constant(box)]), expected, atol=1e-6)
        np.testing.assert_allclose(reloaded([x, box]), expected, atol=1e-6)


def _pyramid(height, width, **kwargs):
    """Model of four maps and boxes, the picture's size being read from a picture."""
    image = keras.Input((height, width, 3), name="image")
    maps = {}
    for level in (2, 3, 4):
        maps[f"p{level}"] = keras.layers.AveragePooling2D(2**level, name=f"p{level}")(image)
    boxes = keras.Input((6, 4), name="boxes")
    return keras.Model([image, boxes], MultiLevelRoIAlign((3, 2), 2, 32, 3, name="roi", **kwargs)(maps, boxes, image))


def test_the_size_may_come_from_a_picture(tmp_path):
    model = _pyramid(None, None)
    model.save(tmp_path / "m.keras")
    reloaded = keras.saving.load_model(tmp_path / "m.keras")
    fixed = _pyramid(48, 64)
    x, boxes = RNG.uniform(size=(2, 48, 64, 3)).astype("float32"), some_boxes(2, 6, 64)
    expected = _pyramid(48, 64, strides=(4, 8, 16))([x, boxes])
    for found in (fixed([x, boxes]), reloaded([x, boxes]), model.predict([x, boxes], verbose=0)):
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("dynamic", [False, True])
def test_lite_runs_the_pyramid_on_builtin_operators(dynamic):
    x, boxes = RNG.uniform(size=(1, 48, 64, 3)).astype("float32"), some_boxes(1, 6, 64)
    model = _pyramid(*(None, None) if dynamic else (48, 64))
    content = _converted(model, [(1, *model.inputs[0].shape[1:]), boxes.shape])
    np.testing.assert_allclose(_run_lite(content, x, boxes), model([x, boxes]), atol=2e-6)


def test_lite_runs_a_pyramid_of_two_equal_levels():
    """torchvision's MobileNetV3 detectors have one."""
    x, boxes = RNG.uniform(size=(1, 48, 64, 3)).astype("float32"), some_boxes(1, 6, 64)
    image, places = keras.Input((48, 64, 3)), keras.Input((6, 4))
    maps = [keras.layers.AveragePooling2D(8)(image), keras.layers.MaxPooling2D(8)(image)]
    model = keras.Model([image, places], MultiLevelRoIAlign(2, 2, 32, 3, strides=(8, 8))(maps, places))
    content = _converted(model, [x.shape, boxes.shape])
    np.testing.assert_allclose(_run_lite(content, x, boxes), model([x, boxes]), atol=2e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_lite_runs_single_maps_on_builtin_operators(name):
    x, boxes = RNG.normal(size=(1, 9, 8, 2)).astype("float32"), some_boxes(1, 5, 18)
    layer = LAYERS[name]()
    content = _converted(lambda inputs: layer(inputs), [x.shape, boxes.shape])
    np.testing.assert_allclose(_run_lite(content, x, boxes), layer([x, boxes]), atol=2e-5)


def test_in_a_lite_file_a_portion_waits_for_the_one_before(monkeypatch):
    monkeypatch.setattr("keras_cv_lectures.layers.roi.weighted._PORTION", 16 * 3 * 7)
    x, boxes = RNG.normal(size=(1, 9, 9, 3)).astype("float32"), some_boxes(1, 5, 9)
    layer = RoIAlign(3, implementation="gather")
    content = _converted(layer, [x.shape, boxes.shape])
    needs, products = [], []
    for index, operator in enumerate(found := main_operators(content)):
        makers = [i for i, other in enumerate(found[:index]) if set(other.outputs) & set(operator.inputs)]
        needs.append({index}.union(*(needs[maker] for maker in makers)))
        if operator.kind == "BATCH_MATMUL":
            assert needs[index].issuperset(products)
            products.append(index)
    assert len(products) == 7  # 45 bins, 7 at a time.
    np.testing.assert_allclose(_run_lite(content, x, boxes), layer([x, boxes]), atol=1e-6)


def _converted(function, shapes) -> bytes:
    specs = [tf.TensorSpec(shape, name=name) for shape, name in zip(shapes, ("features", "boxes"), strict=True)]
    with portable_operators():
        traced = tf.function(lambda *inputs: function(list(inputs)), autograph=False).get_concrete_function(*specs)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([traced])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    return converter.convert()


def _run_lite(content: bytes, *arrays):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    places = sorted(interpreter.get_input_details(), key=lambda detail: -len(detail["shape"]))
    for place, array in zip(places, arrays, strict=True):
        interpreter.resize_tensor_input(place["index"], array.shape)
    interpreter.allocate_tensors()
    for place, array in zip(places, arrays, strict=True):
        interpreter.set_tensor(place["index"], array)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def test_xla_takes_the_portable_form():
    x, boxes = RNG.normal(size=(2, 9, 8, 3)).astype("float32"), some_boxes(2, 5, 18)
    for layer in (RoIAlign(3, 0.5), RoIPool(2, 0.5)):
        expected = layer([x, boxes])
        with portable_operators():
            found = tf.function(lambda x, b, layer=layer: layer([x, b]), jit_compile=True, autograph=False)(x, boxes)
        np.testing.assert_allclose(found, expected, atol=2e-5)
    assert not RoIAlign(3).supports_jit  # What keeps `compile(jit_compile="auto")` from XLA.
    assert RoIAlign(3, implementation="gather").supports_jit


def test_the_switch_is_for_what_is_inside():
    x, boxes = tf.zeros((1, 4, 4, 1)), tf.zeros((1, 2, 4))

    def operators():
        graph = tf.function(lambda: RoIAlign(2)([x, boxes]), autograph=False).get_concrete_function().graph
        return {node.type for node in graph.get_operations()}

    assert "SparseMatrixMatMul" in operators()
    with portable_operators():
        assert "SparseMatrixMatMul" not in operators()
    assert "SparseMatrixMatMul" in operators()


@pytest.mark.parametrize("name", LAYERS)
def test_places_are_exact_in_sixteen_bits(name):
    # In bfloat16 1001 is 1000, and the box would move by a pixel.
    x = RNG.integers(0, 9, (1, 4, 600, 2)).astype("float32")
    boxes = np.array([[[1001, 0, 1007, 4]]], "float32")
    found = LAYERS[name](dtype="mixed_bfloat16")([x, boxes])
    assert found.dtype == "bfloat16"
    np.testing.assert_allclose(tf.cast(found, "float32"), LAYERS[name]()([x, boxes]), rtol=0.02, atol=0.02)


def test_a_saved_model_keeps_the_fast_form(tmp_path):
    x, boxes = RNG.normal(size=(2, 9, 8, 3)).astype("float32"), some_boxes(2, 5, 18)
    module = tf.Module()
    layer = RoIAlign(3, 0.5)
    module.run = tf.function(
        lambda x, b: layer([x, b]),
        input_signature=[tf.TensorSpec((None, None, None, 3)), tf.TensorSpec((None, None, 4))],
        autograph=False,
    )
    tf.saved_model.save(module, tmp_path / "m")
    loaded = tf.saved_model.load(tmp_path / "m")
    np.testing.assert_allclose(loaded.run(x, boxes), layer([x, boxes]), atol=1e-6)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"output_size.*Received: \(3, 0\)"):
        RoIAlign((3, 0))
    with pytest.raises(ValueError, match="sampling_ratio=-1"):
        RoIAlign(3, sampling_ratio=-1)
    with pytest.raises(ValueError, match="rule='caffe'"):
        RoIAlign(3, rule="caffe")
    with pytest.raises(ValueError, match="at least 1"):
        RoIAlign(3, sampling_ratio=0, rule="model_garden")
    with pytest.raises(ValueError, match="Received: 'crop'"):
        MultiLevelRoIAlign(3, implementation="crop")
    with pytest.raises(ValueError, match="max_side=0"):
        RoIPool(3, max_side=0)
    maps, boxes = [tf.zeros((1, 8, 8, 1)), tf.zeros((1, 4, 4, 1))], tf.zeros((1, 2, 4))
    with pytest.raises(ValueError, match="how large the picture is"):
        MultiLevelRoIAlign(2)(maps, boxes)
    with pytest.raises(ValueError, match=r"strides=\(4,\) for 2 maps"):
        MultiLevelRoIAlign(2, strides=(4,))(maps, boxes)
    with pytest.raises(ValueError, match="must end in their level"):
        MultiLevelRoIAlign(2, strides=(4, 8))(dict(zip(("a", "b"), maps, strict=True)), boxes)
