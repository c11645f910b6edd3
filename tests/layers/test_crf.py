"""MeanFieldCRF against the formulas pixel by pixel, against the fully connected CRF, and in a TensorFlow Lite file."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.layers import MeanFieldCRF

RNG = np.random.default_rng(11)
LOGITS = RNG.normal(size=(2, 5, 6, 3)).astype("float32")
IMAGE = RNG.uniform(0, 60, (2, 5, 6, 3)).astype("float32")


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kernel_matrix(image, weight, xy, rgb, *, window, dilation, normalization, include_self):
    """(N, N) kernel of one picture in float64; `rgb` None for the kernel that sees the place alone."""
    height, width, _ = image.shape
    places = [(i, j) for i in range(height) for j in range(width)]
    reach = [dilation * step for step in range(-(window // 2), window // 2 + 1)]
    k = np.zeros((len(places),) * 2)
    for a, (i, j) in enumerate(places):
        for b, (y, x) in enumerate(places):
            if y - i not in reach or x - j not in reach or (a == b and not include_self):
                continue
            exponent = ((y - i) ** 2 + (x - j) ** 2) / (2 * xy**2)
            if rgb is not None:
                exponent += ((image[i, j].astype(float) - image[y, x]) ** 2).sum() / (2 * rgb**2)
            k[a, b] = np.exp(-exponent)
    if normalization == "symmetric":
        total = k.sum(1)
        k = k / np.sqrt(np.outer(total, total))
    return weight * k


def reference(
    logits, image, *, window=3, iterations=2, dilation=1, bilateral_weight=2.0, bilateral_xy=3.0, bilateral_rgb=25.0,
    spatial_weight=1.5, spatial_xy=2.0, normalization="symmetric", include_self=False, compatibility=None,
):  # fmt: skip
    labels = logits.shape[-1]
    mu = -np.eye(labels) if compatibility is None else compatibility
    refined = []
    for scores, picture in zip(logits.astype(float), image, strict=True):
        window_options = {
            "window": window, "dilation": dilation, "normalization": normalization, "include_self": include_self,
        }  # fmt: skip
        k = kernel_matrix(picture, bilateral_weight, bilateral_xy, bilateral_rgb, **window_options)
        k = k + kernel_matrix(picture, spatial_weight, spatial_xy, None, **window_options)
        u = scores.reshape(-1, labels)
        result = u
        for _ in range(iterations):
            result = u - (k @ softmax(result)) @ mu.T
        refined.append(result.reshape(scores.shape))
    return np.stack(refined)


def layer(**options):
    defaults = {
        "window": 3, "iterations": 2, "bilateral_weight": 2.0, "bilateral_xy": 3.0, "bilateral_rgb": 25.0,
        "spatial_weight": 1.5, "spatial_xy": 2.0,
    }  # fmt: skip
    return MeanFieldCRF(**{**defaults, **options})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalization": "none"},
        {"window": 5, "iterations": 1},
        {"dilation": 2},
        {"include_self": True, "normalization": "none"},
    ],
)
def test_equals_the_formulas(options):
    refined = np.asarray(layer(**options)([LOGITS, IMAGE]))
    np.testing.assert_allclose(refined, reference(LOGITS, IMAGE, **options), atol=3e-5)


@pytest.mark.parametrize("option", [{"kernel_weights": "matrix"}, {"trainable_widths": True}, {"include_self": True}])
def test_options_start_from_the_same_numbers(option):
    expected = reference(LOGITS, IMAGE, **(option if "include_self" in option else {}))
    np.testing.assert_allclose(np.asarray(layer(**option)([LOGITS, IMAGE])), expected, atol=3e-5)


def test_a_row_of_two_pixels_by_hand():
    # Equal colours, one neighbour each at weight 2: q of the other pixel is added twice. Potts, so minus a constant.
    crf = layer(iterations=1, bilateral_weight=2.0, spatial_weight=0.0, normalization="symmetric")
    logits = np.log([[[[0.75, 0.25], [0.5, 0.5]]]]).astype("float32")
    refined = np.asarray(crf([logits, np.zeros((1, 1, 2, 3), "float32")]))
    np.testing.assert_allclose(refined - logits, [[[[1.0, 1.0], [1.5, 0.5]]]], atol=1e-5)


def test_window_over_all_pixels_is_the_fully_connected_crf():
    from keras_cv_lectures.postprocessing import dense_crf

    options = {
        "bilateral_weight": 2.0, "bilateral_xy": 3.0, "bilateral_rgb": 25.0, "spatial_weight": 1.5, "spatial_xy": 2.0,
        "iterations": 3,
    }  # fmt: skip
    for normalization in ("symmetric", "none"):
        crf = MeanFieldCRF(11, **options, normalization=normalization, include_self=True)
        refined = softmax(np.asarray(crf([LOGITS, IMAGE])))
        for i in range(len(IMAGE)):
            expected = dense_crf(
                IMAGE[i], softmax(LOGITS[i]), **options, normalization=normalization, method="exact", floor=1e-9
            )
            np.testing.assert_allclose(refined[i], expected, atol=5e-5)


def test_trained_compatibility_is_used_row_by_column():
    crf = layer(iterations=1)
    crf.build([LOGITS.shape, IMAGE.shape])
    mu = RNG.normal(size=(3, 3))
    crf.compatibility.assign(mu)
    expected = reference(LOGITS, IMAGE, iterations=1, compatibility=mu)
    np.testing.assert_allclose(np.asarray(crf([LOGITS, IMAGE])), expected, atol=3e-5)
    fixed = layer(iterations=1, trainable_compatibility=False)
    np.testing.assert_allclose(np.asarray(fixed([LOGITS, IMAGE])), reference(LOGITS, IMAGE, iterations=1), atol=3e-5)
    assert len(fixed.trainable_weights) == 2


def test_one_label_is_the_foreground():
    two = np.concatenate([np.zeros_like(LOGITS[..., :1]), LOGITS[..., :1]], axis=-1)
    expected = reference(two, IMAGE)
    refined = np.asarray(layer()([LOGITS[..., :1], IMAGE]))
    assert refined.shape == (2, 5, 6, 1)
    np.testing.assert_allclose(refined[..., 0], expected[..., 1] - expected[..., 0], atol=3e-5)


def gradients(crf, logits, image, target, training):
    """With respect to the logits, the picture and every weight."""
    sources = [tf.constant(logits), tf.constant(image)]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        value = tf.reduce_sum(crf(sources, training=training) * target)
    return [g.numpy() for g in tape.gradient(value, [*sources, *[v.value for v in crf.trainable_variables]])]


@pytest.mark.parametrize("options", [{}, {"kernel_weights": "matrix", "trainable_widths": True, "include_self": True}])
def test_the_gradient_used_in_training_is_that_of_the_formulas(options):
    crf, target = layer(**options), RNG.normal(size=LOGITS.shape).astype("float32")
    plain, lean = (gradients(crf, LOGITS, IMAGE, target, training) for training in (False, True))
    assert len(lean) == 2 + len(crf.trainable_variables)
    for one, other in zip(plain, lean, strict=True):
        assert np.abs(one).max() > 0
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(one).max())


def test_gradient_equals_the_difference_of_the_reference():
    target, direction = RNG.normal(size=LOGITS.shape), RNG.normal(size=LOGITS.shape)
    step = 1e-4
    values = [(reference(LOGITS + sign * step * direction, IMAGE) * target).sum() for sign in (1, -1)]
    gradient = gradients(layer(), LOGITS, IMAGE, target.astype("float32"), training=True)[0]
    np.testing.assert_allclose((gradient * direction).sum(), (values[0] - values[1]) / (2 * step), rtol=1e-3)


def test_isolated_colours_and_certain_logits_stay_finite():
    image = np.zeros((1, 4, 4, 3), "float32")
    image[0, 1, 1] = 255
    logits = tf.constant(np.where(RNG.uniform(size=(1, 4, 4, 3)) < 0.5, 500.0, -500.0).astype("float32"))
    crf = layer(bilateral_rgb=1.0, trainable_widths=True)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        refined = crf([logits, image], training=True)
        value = tf.reduce_sum(refined)
    slopes = tape.gradient(value, [logits, *[v.value for v in crf.trainable_variables]])
    assert np.isfinite(refined).all()
    assert all(np.isfinite(g).all() for g in slopes)


def test_half_precision_and_whole_numbers_are_computed_in_float32():
    crf = MeanFieldCRF(3, 1, dtype="mixed_bfloat16")
    whole = IMAGE.astype("uint8")
    refined = crf([tf.cast(LOGITS, tf.bfloat16), whole])
    assert refined.dtype == tf.float32
    expected = MeanFieldCRF(3, 1)([np.asarray(tf.cast(tf.cast(LOGITS, tf.bfloat16), tf.float32)), whole])
    np.testing.assert_allclose(refined, expected, atol=1e-6)


def functional(**options):
    logits, image = keras.Input((None, None, 3), name="scores"), keras.Input((None, None, 3), name="image")
    return keras.Model([logits, image], layer(name="logits", **options)([logits, image]))


def test_saved_and_reloaded(tmp_path):
    model = functional(trainable_widths=True)
    assert model.output_shape == (None, None, None, 3)
    crf = model.get_layer("logits")
    crf.compatibility.assign(RNG.normal(size=(3, 3)))
    model.save(tmp_path / "m.keras")
    reloaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(np.asarray(reloaded([LOGITS, IMAGE])), np.asarray(model([LOGITS, IMAGE])))
    assert reloaded.get_layer("logits").get_config() == crf.get_config()


def test_tflite_file_of_builtin_operators_takes_any_size(tmp_path):
    from ai_edge_litert.interpreter import Interpreter
    from keras.export import ExportArchive

    model = functional(kernel_weights="matrix")
    archive = ExportArchive()
    archive.track(model)
    signature = [tf.TensorSpec((1, None, None, 3), name=name) for name in ("scores", "image")]
    archive.add_endpoint("serve", lambda scores, image: model([scores, image]), input_signature=signature)
    archive.write_out(tmp_path / "saved", verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved"))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    runner = Interpreter(model_content=converter.convert()).get_signature_runner()
    for height, width in ((5, 6), (3, 4)):
        logits, image = LOGITS[:1, :height, :width], IMAGE[:1, :height, :width]
        (refined,) = runner(scores=logits, image=image).values()
        np.testing.assert_allclose(refined, np.asarray(model([logits, image])), atol=1e-4)


def test_xla_agrees():
    crf = layer()
    compiled = tf.function(lambda a, b: crf([a, b]), jit_compile=True)
    np.testing.assert_allclose(compiled(LOGITS, IMAGE), reference(LOGITS, IMAGE), atol=3e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 4}, "odd"),
        ({"window": 1}, "at least 3"),
        ({"iterations": 0}, "iterations=0"),
        ({"iterations": 10.0}, r"iterations=10\.0"),
        ({"window": 7.0}, r"window=7\.0"),
        ({"dilation": 1.5}, "dilation=1.5"),
        ({"spatial_xy": 0}, "spatial_xy=0"),
        ({"normalization": "after"}, "'after'"),
        ({"kernel_weights": "vector"}, "'vector'"),
    ],
)
def test_wrong_options_are_explained(options, message):
    with pytest.raises(ValueError, match=message):
        layer(**options)


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="Crop or resize"):
        layer().build([(None, 8, 8, 3), (None, 8, 9, 3)])
