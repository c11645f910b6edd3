"""Serving outputs against NumPy, in a TensorFlow Lite file of builtin operators; resizing against tf.image.resize."""

import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.postprocessing import class_map_at, resize_probabilities, segmentation, serving_outputs

RNG = np.random.default_rng(5)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_logits_become_probabilities_and_classes():
    logits = RNG.normal(size=(2, 3, 5, 4)).astype("float32")
    outputs = tf.function(lambda x: serving_outputs(x, "logits"))(tf.constant(logits))
    assert list(outputs) == ["logits", "probabilities", "class_map"]
    np.testing.assert_array_equal(outputs["logits"], logits)
    np.testing.assert_allclose(outputs["probabilities"], softmax(logits), atol=1e-6)
    np.testing.assert_array_equal(outputs["class_map"], logits.argmax(-1))
    assert outputs["class_map"].dtype == tf.int32


def test_tie_goes_to_the_lowest_label():
    class_map = serving_outputs(tf.constant([[[[1.0, 3.0, 3.0]]]]), "logits")["class_map"]
    assert class_map.numpy().tolist() == [[[1]]]


def test_one_channel_is_the_foreground():
    logits = tf.constant([[[[-1.0], [0.0], [2.0]]]])
    outputs = serving_outputs(logits, "logits")
    assert outputs["class_map"].numpy().tolist() == [[[0, 0, 1]]]
    np.testing.assert_allclose(outputs["probabilities"].numpy().ravel(), 1 / (1 + np.exp([1.0, 0.0, -2.0])), atol=1e-6)


def test_half_precision_logits_are_decided_in_float32():
    outputs = serving_outputs(tf.constant([[[[1.0, 2.0]]]], tf.bfloat16), "logits")
    assert outputs["logits"].dtype == tf.float32
    assert outputs["probabilities"].dtype == tf.float32


def test_other_outputs_pass_through():
    table = tf.zeros((2, 7))
    boxes = {"boxes": table}
    assert serving_outputs(boxes, "logits") is boxes
    assert serving_outputs(table, "logits") == {"output": table}
    picture = tf.zeros((1, 2, 2, 3))
    assert list(serving_outputs(picture, "image")) == ["output"]
    assert list(serving_outputs(tf.zeros((1, 2, 2, 3), tf.int32), "logits")) == ["output"]
    assert list(serving_outputs([picture, table], "logits")) == ["output_0", "output_1"]
    assert list(serving_outputs([picture], "logits")) == ["logits", "probabilities", "class_map"]


@pytest.mark.parametrize("channels", [1, 4])
def test_a_tflite_file_of_builtin_operators_agrees(channels):
    from ai_edge_litert.interpreter import Interpreter

    function = tf.function(
        lambda image: serving_outputs(tf.pad(image, [[0, 0]] * 3 + [[0, channels - 1]]), "logits"),
        input_signature=[tf.TensorSpec((1, 4, 6, 1), tf.float32, name="image")],
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], tf.Module())
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    interpreter = Interpreter(model_content=converter.convert())
    image = RNG.normal(size=(1, 4, 6, 1)).astype("float32")
    served = interpreter.get_signature_runner()(image=image)
    for name, value in function(image).items():
        np.testing.assert_allclose(served[name], value, atol=1e-5)


@pytest.mark.parametrize("size", [(7, 9), (13, 9), (20, 31), (7, 10), (64, 48)])
def test_enlarging_equals_tf_image_resize(size):
    probabilities = softmax(3 * RNG.normal(size=(7, 9, 4))).astype("float32")
    result = resize_probabilities(probabilities, size)
    np.testing.assert_allclose(result, tf.image.resize(probabilities, size, antialias=False), atol=1e-6)
    np.testing.assert_allclose(result.sum(-1), 1.0, atol=1e-5)


@pytest.mark.parametrize("size", [(3, 4), (1, 1), (5, 20), (6, 2)])
def test_shrinking_equals_tf_image_resize_with_antialias(size):
    probabilities = softmax(3 * RNG.normal(size=(7, 9, 4))).astype("float32")
    np.testing.assert_allclose(
        resize_probabilities(probabilities, size), tf.image.resize(probabilities, size, antialias=True), atol=1e-6
    )


def test_two_pixels_to_four_by_hand():
    row = np.array([[[0.0], [1.0]]])
    assert resize_probabilities(row, (1, 4)).ravel().tolist() == [0.0, 0.25, 0.75, 1.0]
    assert class_map_at(row, (1, 4)).tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize("strip_bytes", [1, 4 * 31 * 4 * 3, 2**20])
def test_class_map_is_the_argmax_of_the_resized_whatever_the_strips(monkeypatch, strip_bytes):
    probabilities = softmax(RNG.normal(size=(7, 9, 4))).astype("float32")
    expected = tf.image.resize(probabilities, (20, 31), antialias=False).numpy()
    top = np.sort(expected, axis=-1)
    clear = top[..., -1] - top[..., -2] > 1e-5
    assert clear.mean() > 0.99
    monkeypatch.setattr(segmentation, "STRIP_BYTES", strip_bytes)
    result = class_map_at(probabilities, (20, 31))
    assert result.dtype == np.int32
    np.testing.assert_array_equal(result[clear], expected.argmax(-1)[clear])
    np.testing.assert_array_equal(class_map_at(probabilities, (7, 9)), probabilities.argmax(-1))


@pytest.mark.parametrize("size", [(0, 3), (4,), (2.5, 3)])
def test_wrong_sizes_are_named(size):
    with pytest.raises(ValueError, match="size must be"):
        resize_probabilities(np.zeros((2, 2, 3)), size)


def test_a_batch_is_refused():
    with pytest.raises(ValueError, match="Pass one picture of the batch"):
        class_map_at(np.zeros((1, 2, 2, 3)), (4, 4))


def test_of_several_heads_the_logits_are_served():
    logits = np.array([0.0, 2.0, 1.0], "float32").reshape(1, 1, 1, 3)
    served = serving_outputs({"logits": logits, "auxiliary": -logits}, "auxiliary")
    assert set(served) == {"logits", "probabilities", "class_map"}
    assert int(served["class_map"][0, 0, 0]) == 1
    other = {"boxes": logits}
    assert serving_outputs(other, "boxes") is other
