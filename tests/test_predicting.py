"""The predictor: tiles equal a single pass, every kind of file and of picture gives one answer, results are saved."""

import gc
import json
import tracemalloc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_cv_lectures.data.images import read_mask
from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.geometry.receptive import receptive_field
from keras_cv_lectures.geometry.tiles import mirror_pad
from keras_cv_lectures.metadata import Metadata
from keras_cv_lectures.postprocessing.segmentation import resize_probabilities
from keras_cv_lectures.predicting import SegmentationResult, predict, predict_averaged, predict_tiled, stream_tiles
from keras_cv_lectures.predicting.tiled import as_runner, tile_plan
from keras_cv_lectures.runners import Runner, load_runner
from keras_cv_lectures.segmentation import (
    append_crf,
    build_deconvnet,
    build_fcn8s,
    build_fcn32s,
    build_segnet,
    build_unet,
)

NAMES = ("sky", "road", "tree")
COLORS = ((10, 20, 30), (200, 0, 0), (0, 200, 0))


# Tiles ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(67, 45), (9, 130), (1, 1)], ids=str)
@pytest.mark.parametrize("variant", ["paper", "released", "modern", "bilinear"])
def test_tiles_equal_one_pass_over_the_mirrored_picture(models, variant, size):
    model, picture = models[variant], _picture(size)
    tiles = predict_tiled(model, picture, tile=64, output="logits")
    np.testing.assert_allclose(tiles, _single_pass(model, picture, tile=64), atol=1e-5)


@pytest.mark.parametrize("variant", ["paper", "modern"])
def test_tiles_of_a_picture_of_odd_size_equal_one_pass(models, variant):
    model, picture = models[variant], _picture((333, 517))
    for tile in ("auto", (140, 252)):
        tiles = predict_tiled(model, picture, tile=tile, output="logits", batch_size=2)
        np.testing.assert_allclose(tiles, _single_pass(model, picture, tile=tile), atol=1e-5)


_FCN = {"filters": 2, "convolutions": (1, 1, 1, 1, 1), "fc_filters": 4}


@pytest.mark.parametrize(
    ("build", "tile"),
    [
        (lambda shape: build_fcn8s(shape, 3, **_FCN), 416),
        (lambda shape: build_fcn8s(shape, 3, variant="paper", **_FCN), 416),
        (lambda shape: build_fcn32s(shape, 3, **_FCN), 416),
        (lambda shape: build_segnet(shape, 3, variant="basic", filters=2), 240),
        (
            lambda shape: build_deconvnet(shape, 3, convolutions=(1, 1, 1, 1, 1), filters=1, fc_filters=4, fc_kernel=2),
            416,
        ),
        (lambda shape: append_crf(build_unet(shape, 3, depth=1, filters=2), window=5, iterations=2), 48),
    ],
    ids=["fcn8s", "fcn8s paper", "fcn32s", "segnet basic", "deconvnet", "crf"],
)
def test_tiles_of_networks_with_layers_of_their_own_equal_one_pass(build, tile):
    model, picture = _randomized(build((None, None, 3))), _picture((67, 45))
    tiles = predict_tiled(model, picture, tile=tile, output="logits")
    expected = _single_pass(model, picture, tile=tile)
    np.testing.assert_allclose(tiles, expected, atol=1e-5 * max(1.0, np.abs(expected).max()))


def test_inside_the_picture_tiles_equal_the_plain_model(models):
    picture = _picture((96, 80))
    plain = models["modern"].predict_on_batch(picture[None].astype("float32"))[0]
    reach = receptive_field(models["modern"]).reach[0]
    tiles = predict_tiled(models["modern"], picture, tile=64, output="logits")
    inner = slice(reach, -reach)
    np.testing.assert_allclose(tiles[inner, inner], plain[inner, inner], atol=1e-5)
    assert np.abs(tiles - plain).max() > 1e-3  # at the border the one mirrors and the other pads zeros


def test_a_margin_that_is_too_small_shows(models):
    picture = _picture((96, 80))
    tiles = predict_tiled(models["modern"], picture, tile=64, margin=0, output="logits")
    assert np.abs(tiles - _single_pass(models["modern"], picture, tile=64)).max() > 1e-3


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_network_sees_windows_of_one_shape_only(models, batch_size):
    runner, seen = _spy(as_runner(models["modern"]))
    predict_tiled(runner, _picture((50, 90)), tile=64, margin=24, stride=4, batch_size=batch_size)
    # The first is a black window that tells the size of the answer, since a spy has no graph.
    assert set(seen[1:]) == {(batch_size, 64, 64, 3)}
    assert len(seen[1:]) == -(-4 * 6 // batch_size)


def test_memory_does_not_grow_with_the_picture(models, tmp_path):
    def peak(height):
        path = tmp_path / f"{height}.raw"
        np.memmap(path, np.uint8, "w+", shape=(height, 150, 3)).flush()
        picture = np.memmap(path, np.uint8, "r", shape=(height, 150, 3))
        tracemalloc.start()
        blocks = sum(1 for _ in stream_tiles(models["paper"], picture, tile=108))
        bytes_used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return blocks, bytes_used

    peak(100)  # tracing the network's function
    (few, small), (many, large) = peak(200), peak(2000)
    assert many >= 9 * few
    assert large < small + 300_000  # the larger picture alone holds 900,000 bytes, its answer 3,600,000
    picture_bytes = 2000 * 150 * 3
    assert large < picture_bytes


def test_a_window_too_small_names_one_that_would_do(models):
    with pytest.raises(ValueError, match="at least 52 x 52"):
        predict_tiled(models["modern"], _picture((60, 60)), tile=32)
    predict_tiled(models["modern"], _picture((60, 60)), tile=52)


def test_a_network_that_sees_everything_needs_a_margin():
    model = build_unet((None, None, 3), 3, depth=2, filters=2, normalization="group")
    picture = _picture((40, 40))
    with pytest.raises(ValueError, match=r"GroupNormalization.*margin=64"):
        predict_tiled(model, picture, tile=64)
    assert predict_tiled(model, picture, tile=64, margin=8).shape == (40, 40, 3)


@pytest.mark.parametrize(("tile", "message"), [("large", "auto"), (True, "auto"), (0, "at least one pixel")])
def test_wrong_tiles_are_refused(models, tile, message):
    with pytest.raises(ValueError, match=message):
        predict(models["modern"], _picture((40, 40)), tile=tile)


@pytest.mark.parametrize("predicting", [predict, predict_tiled, lambda *a, **k: next(stream_tiles(*a, **k))])
def test_batches_of_no_window_are_refused(models, predicting):
    for batch_size in (0, 2.0):
        with pytest.raises(ModelError, match=f"`batch_size` must be a positive integer.*={batch_size}"):
            predicting(models["modern"], _picture((40, 40)), tile=64, batch_size=batch_size)


def test_a_model_prepares_its_function_once_and_is_freed():
    model = build_unet((None, None, 3), 3, depth=1, filters=2)
    assert as_runner(model) is as_runner(model)
    predict(model, _picture((20, 20)))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_new_weights_are_seen():
    model = _randomized(build_unet((None, None, 3), 3, depth=1, filters=2))
    picture = _picture((20, 20))
    before = predict(model, picture).probabilities
    model.set_weights([w * 0.5 for w in model.get_weights()])
    assert np.abs(predict(model, picture).probabilities - before).max() > 1e-3


# The size that the network sees --------------------------------------------------------------------------------------


def test_without_a_known_size_the_picture_is_given_as_it_is(models):
    picture = _picture((37, 51))
    result = predict(models["modern"], picture)
    logits = models["modern"].predict_on_batch(picture[None].astype("float32"))[0]
    np.testing.assert_array_equal(result.class_map, logits.argmax(-1))
    np.testing.assert_allclose(result.probabilities, tf.nn.softmax(logits), atol=1e-6)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """One network as every kind of file, with the training size beside it: name -> runner, and the model."""
    folder = tmp_path_factory.mktemp("stored")
    model = _randomized(build_unet((None, None, 3), 3, depth=2, filters=2))
    facts = Metadata(classes=NAMES, colors=COLORS, input_size=(32, 48)).to_json()
    (folder / "run").mkdir()
    model.save(folder / "run" / "best.keras")
    archive = keras.export.ExportArchive()
    archive.track(model)

    def serve(image):
        logits = model(tf.cast(image, tf.float32), training=False)
        return {"logits": logits, "probabilities": tf.nn.softmax(logits)}

    archive.add_endpoint("serving_default", serve, [tf.TensorSpec((1, 32, 48, 3), tf.uint8, name="image")])
    archive.write_out(folder / "saved", verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved"))
    (folder / "model.tflite").write_bytes(converter.convert())
    for card in ("run/run.json", "model.json", "saved/model_card.json"):
        (folder / card).write_text(json.dumps(facts))
    kinds = {"run": "run", "keras": "run/best.keras", "saved_model": "saved", "tflite": "model.tflite"}
    return {kind: as_runner(folder / name) for kind, name in kinds.items()}, model


@pytest.mark.parametrize("size", [(32, 48), (101, 77), (20, 300)], ids=str)
def test_every_kind_of_file_gives_the_same_answer(stored, size):
    runners, model = stored
    picture = _picture(size)
    seen = tf.cast(tf.image.resize(picture, (32, 48), antialias=True) + 0.5, tf.uint8)
    expected = tf.nn.softmax(model.predict_on_batch(tf.cast(seen, tf.float32)[None])[0]).numpy()
    expected = resize_probabilities(expected, size)
    for kind, runner in runners.items():
        result = predict(runner, picture)
        assert (result.classes, result.colors) == (NAMES, COLORS), kind
        np.testing.assert_allclose(result.probabilities, expected, atol=1e-5, err_msg=kind)
        # Where two classes are all but equal, rounding decides.
        top = np.sort(expected, -1)
        clear = top[..., -1] - top[..., -2] > 1e-4
        np.testing.assert_array_equal(result.class_map[clear], expected.argmax(-1)[clear], err_msg=kind)


@pytest.mark.filterwarnings("ignore:this model is made for pictures:keras_cv_lectures.errors.KcvlWarning")
def test_tile_looks_at_the_pictures_own_resolution(stored):
    runners, model = stored
    picture = _picture((101, 77))
    result = predict(runners["keras"], picture, tile=64)
    np.testing.assert_allclose(result.probabilities, predict_tiled(model, picture, tile=64), atol=1e-6)
    for kind in ("saved_model", "tflite"):
        with pytest.raises(ValueError, match="receptive_field"):
            predict(runners[kind], picture, tile="auto")
        with pytest.raises(ValueError, match="32 x 48 pixels only"):
            predict(runners[kind], picture, tile=64, margin=12)
        tiles = predict(runners[kind], picture, tile="auto", margin=12, stride=4)
        same = predict_tiled(model, picture, tile=(32, 48), margin=12, stride=4)
        np.testing.assert_allclose(tiles.probabilities, same, atol=1e-5)


def test_valid_networks_answer_for_every_pixel(models):
    picture = _picture((50, 71))
    result = predict(models["paper"], picture)
    assert result.class_map.shape == (50, 71)
    np.testing.assert_allclose(result.probabilities, predict_tiled(models["paper"], picture), atol=1e-6)
    fixed = build_unet((60, 76, 3), 3, variant="paper", depth=2, filters=2)
    fixed.set_weights(models["paper"].get_weights())
    np.testing.assert_allclose(predict(fixed, picture).probabilities, result.probabilities, atol=1e-5)
    # As a file without graph: the window's output tells what is lost.
    runner = as_runner(fixed)
    opaque = Runner(
        kind="tflite",
        metadata=Metadata(),
        input_shape=runner.input_shape,
        input_dtype="uint8",
        path=None,
        run=lambda images: runner(images),
    )
    np.testing.assert_allclose(predict(opaque, picture).probabilities, result.probabilities, atol=1e-5)


def test_valid_networks_see_the_scale_that_they_were_trained_at(models, tmp_path):
    models["paper"].save(tmp_path / "best.keras")
    (tmp_path / "run.json").write_text(json.dumps(Metadata(input_size=(40, 40)).to_json()))
    picture = _picture((80, 120))
    seen = np.uint8(tf.image.resize(picture, (40, 40), antialias=True) + 0.5)
    expected = resize_probabilities(predict_tiled(models["paper"], seen), (80, 120))
    for model in (tmp_path, load_runner(tmp_path)):
        np.testing.assert_allclose(predict(model, picture).probabilities, expected, atol=1e-5)


def test_the_size_of_a_network_of_one_size_goes_before_that_of_the_training(models):
    fixed = keras.models.clone_model(models["modern"], input_tensors=keras.Input((32, 40, 3)))
    fixed.set_weights(models["modern"].get_weights())
    runner, seen = _spy(as_runner(fixed), metadata=Metadata(input_size=(16, 20)))
    assert predict(runner, _picture((30, 50))).class_map.shape == (30, 50)
    assert set(seen) == {(1, 32, 40, 3)}  # of the picture, and of one that asks for the number of classes


def test_large_tiled_pictures_keep_no_probabilities(models, monkeypatch):
    picture = _picture((60, 60))
    kept = predict(models["modern"], picture, tile=64)
    monkeypatch.setattr("keras_cv_lectures.predicting.predictor._KEPT_BYTES", 0)
    made = predict(models["modern"], picture, tile=64)
    np.testing.assert_array_equal(made.class_map, kept.class_map)
    np.testing.assert_allclose(made.probabilities, kept.probabilities, atol=1e-6)


def test_one_output_channel_means_background_and_foreground():
    model = _randomized(build_unet((None, None, 1), 1, depth=1, filters=2))
    result = predict(model, _picture((20, 20, 1)))
    assert result.classes == ("class 0", "class 1")
    np.testing.assert_array_equal(result.class_map, result.probabilities[..., 0] > 0.5)


# Pictures ------------------------------------------------------------------------------------------------------------


def test_files_arrays_and_pil_images_are_one_picture(models, tmp_path):
    picture = _picture((21, 30))
    Image.fromarray(picture).save(tmp_path / "street.png")
    expected = predict(models["modern"], picture)
    from_file = predict(models["modern"], str(tmp_path / "street.png"))
    assert (from_file.name, expected.name) == ("street", "")
    forms = [tmp_path / "street.png", Image.fromarray(picture), picture.astype(float), tf.constant(picture)]
    alpha = np.concatenate([picture, picture[..., :1]], -1)
    for form in [*forms, alpha, Image.fromarray(alpha)]:
        np.testing.assert_array_equal(predict(models["modern"], form).class_map, expected.class_map)


def test_grey_and_colour_are_converted(models):
    grey = _picture((21, 30, 1))
    expected = predict(models["modern"], np.repeat(grey, 3, -1)).class_map
    for form in (grey, grey[..., 0], Image.fromarray(grey[..., 0]), (grey[..., 0].astype(np.uint16))):
        np.testing.assert_array_equal(predict(models["modern"], form).class_map, expected)
    deep = Image.fromarray(grey[..., 0].astype(np.uint16) * 257)
    np.testing.assert_array_equal(predict(models["modern"], deep).class_map, expected)
    one = _randomized(build_unet((None, None, 1), 3, depth=1, filters=2))
    colour = _picture((21, 30))
    luma = np.uint8(colour @ np.array([0.299, 0.587, 0.114], "float32") + 0.5)
    np.testing.assert_array_equal(predict(one, colour).class_map, predict(one, luma).class_map)
    assert predict(one, colour).image.shape == (21, 30, 3)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.uint8), r"list\(batch\)"),
        (np.zeros((8,), np.uint8), "shape"),
        (np.zeros((0, 8, 3), np.uint8), "shape"),
        (np.zeros((3, 64, 64), np.uint8), "moveaxis"),
        (np.full((8, 8, 3), 0.5), "Multiply it by 255"),
        (np.full((8, 8, 3), 300, np.uint16), "Divide 16-bit values by 257"),
        (np.full((8, 8, 3), -1.0), "normalisation"),
        (np.full((8, 8, 3), np.nan), r"0\.\.255"),
        (np.ones((8, 8, 3), bool), "boolean"),
        (np.zeros((8, 8, 5), np.uint8), "takes 3 channels"),
        ([[1, 2], [3, 4]], "shape"),
        ([1, 2, 3], "numbers"),
        ("nowhere/street.png", "does not exist"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_picture_is_explained(models, image, message):
    with pytest.raises(ValueError, match=message):
        _classes_of(models["modern"], image)


def test_a_folder_and_a_list_give_one_result_at_a_time(models, tmp_path):
    pictures = [_picture((20 + i, 24), seed=i) for i in range(3)]
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"b{2 - i}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    assert [r.name for r in predict(models["modern"], tmp_path)] == ["b0", "b1", "b2"]
    taken = []
    results = predict(models["modern"], (taken.append(i) or p for i, p in enumerate(pictures)))
    assert next(results).class_map.shape == (20, 24)
    assert taken == [0]
    assert [r.class_map.shape for r in results] == [(21, 24), (22, 24)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no pictures"):
        predict(models["modern"], tmp_path / "empty")


def test_pictures_of_one_training_size_share_a_batch(models):
    runner, seen = _spy(as_runner(models["modern"]), metadata=Metadata(input_size=(16, 20)))
    pictures = [_picture((10 + 7 * i, 24), seed=i) for i in range(5)]
    together = list(predict(runner, pictures, batch_size=2))
    assert seen == [(2, 16, 20, 3), (2, 16, 20, 3), (1, 16, 20, 3)]
    for picture, result in zip(pictures, together, strict=True):
        assert result.class_map.shape == picture.shape[:2]
        np.testing.assert_allclose(result.probabilities, predict(runner, picture).probabilities, atol=1e-5)


# Results -------------------------------------------------------------------------------------------------------------


def test_saved_files_hold_labels_and_show_colours(models, tmp_path):
    picture = _picture((90, 120))
    result = predict(models["modern"], picture, classes=NAMES, colors=COLORS)
    paths = result.save(tmp_path / "out", "street")
    assert [p.name for p in paths.values()] == ["street_classes.png", "street_overlay.png"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["street_classes.png", "street_overlay.png"]
    np.testing.assert_array_equal(read_mask(paths["classes"]), result.class_map)
    np.testing.assert_array_equal(read_mask(paths["classes"], colors=True), np.array(COLORS)[result.class_map])
    shown = np.asarray(Image.open(paths["overlay"]))
    np.testing.assert_array_equal(shown[:90], result.overlay())
    np.testing.assert_array_equal(shown[90:], result.legend(width=120))
    assert result.save(tmp_path)["classes"].name == "prediction_classes.png"


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_overlay_of_any_channels(channels):
    image = _picture((12, 14, channels))
    result = SegmentationResult(
        image=image,
        class_map=np.full((12, 14), 1, np.int32),
        classes=NAMES,
        colors=COLORS,
        make_probabilities=lambda: None,
    )
    assert result.present == [1]
    np.testing.assert_array_equal(result.overlay(alpha=1.0), np.broadcast_to(COLORS[1], (12, 14, 3)))


def test_names_and_colours_must_fit(models):
    with pytest.raises(ValueError, match="has 3 classes, but `classes` has 2"):
        predict(models["modern"], _picture((20, 20)), classes=("a", "b"))
    with pytest.raises(ValueError, match="`colors` has 1"):
        predict(models["modern"], _picture((20, 20)), colors=[(1, 2, 3)])
    result = predict(models["modern"], _picture((20, 20)))
    assert result.classes == ("class 0", "class 1", "class 2")
    assert len(set(result.colors)) == 3


def test_a_sequential_is_predicted_as_it_is_written():
    kernel, bias = np.random.default_rng(0).normal(0, 1, (3, 2)).astype("float32"), np.array([9, -9], "float32")
    layers = [keras.Input((None, None, 3)), keras.layers.Conv2D(2, 1, name="logits")]
    model = keras.Sequential(layers)
    model.set_weights([kernel[None, None], bias])
    picture = _picture((13, 20))
    expected = (picture @ kernel + bias).argmax(-1)
    assert 0 < expected.mean() < 1
    for settings in ({}, {"tile": 8}):
        np.testing.assert_array_equal(predict(model, picture, **settings).class_map, expected)


def test_what_is_no_segmentation_is_refused():
    x = keras.Input((8, 8, 3))
    model = keras.Model(x, keras.layers.Dense(2, name="scores")(keras.layers.Flatten()(x)))
    with pytest.raises(ValueError, match='name the last layer "logits"'):
        predict(model, _picture((8, 8)))


def test_a_coarse_output_is_brought_to_the_pictures_size():
    x = keras.Input((None, None, 3))
    model = keras.Model(x, keras.layers.Conv2D(3, 4, strides=4, name="logits")(x))
    assert predict(model, _picture((32, 48))).class_map.shape == (32, 48)
    with pytest.raises(ValueError, match="stride 4"):
        predict(model, _picture((32, 48)), tile=32)
    with pytest.raises(ValueError, match="Predict without `tile`"):
        predict(model, _picture((32, 48)), tile=32, margin=0)


# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models():
    def build(**options):
        return _randomized(build_unet((None, None, 3), 3, depth=2, filters=2, **options))

    return {
        "paper": build(variant="paper"),
        "released": build(variant="released"),
        "modern": build(),
        "bilinear": build(upsampling="bilinear"),
    }


def _randomized(model):
    """Weights and batch statistics that matter everywhere, and logits of a size that shows every difference."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        value = rng.normal(0, 1 / np.sqrt(max(1, np.prod(variable.shape[:-1]) / 2)), variable.shape)
        if "variance" in variable.path or "gamma" in variable.path:
            value = rng.uniform(0.5, 1.5, variable.shape)
        variable.assign(value)
    return model


def _picture(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size if len(size) == 3 else (*size, 3), np.uint8)


def _single_pass(model, picture, tile):
    """Logits of one pass over the mirrored picture, without any tile."""
    runner = as_runner(model)
    height, width = picture.shape[:2]
    plan = tile_plan(runner, (height, width), tile=tile)
    stride = receptive_field(model).stride
    padding = []
    for n, before, window in zip((height, width), plan.border, plan.window, strict=True):
        after = before + (window - n - 2 * before) % stride
        padding.append((before, after))
    padded = mirror_pad(picture, tuple(padding))
    logits = model.predict_on_batch(padded[None].astype("float32"))[0]
    top, left = plan.margin
    return logits[top : top + height, left : left + width]


def _classes_of(model, image):
    result = predict(model, image)
    return (result if isinstance(result, SegmentationResult) else next(result)).class_map


def _spy(runner, **changes):
    """A runner that notes the shapes that it is given."""
    seen = []

    def run(images):
        seen.append(images.shape)
        return runner(images)

    fields = {"kind": "other", "metadata": runner.metadata, "path": None, "run": run, **changes}
    return Runner(input_shape=runner.input_shape, input_dtype=runner.input_dtype, **fields), seen


def test_averaging_brings_every_version_back_to_its_place():
    """A network that copies its input sees eight versions and must give the picture itself."""
    image = keras.Input((None, None, 3))
    x = keras.layers.Rescaling(1 / 255)(image)
    model = keras.Model(image, keras.layers.Activation("linear", name="logits")(x))
    picture = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype("uint8")
    expected = predict(model, picture).probabilities
    np.testing.assert_allclose(predict_averaged(model, picture), expected, atol=1e-6)
    np.testing.assert_allclose(predict_averaged(model, picture, rotations=False), expected, atol=1e-6)
