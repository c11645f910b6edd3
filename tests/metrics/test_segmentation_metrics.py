"""Scores from one confusion matrix: a matrix worked by hand, NumPy, counting past float32, replicas."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.metrics import (
    ConfusionMatrix,
    FrequencyWeightedIoU,
    MeanAccuracy,
    MeanDice,
    MeanIoU,
    PixelAccuracy,
    confusion_matrix,
    scores,
)

METRICS = {
    "pixel_accuracy": PixelAccuracy,
    "mean_accuracy": MeanAccuracy,
    "mean_iou": MeanIoU,
    "mean_dice": MeanDice,
    "frequency_weighted_iou": FrequencyWeightedIoU,
}

# Classes 0 and 1 are labelled, 2 is only predicted, 3 never occurs; one pixel is void.
LABELS = np.array([[[0, 0, 0, 0], [1, 1, 1, 255]]])
PREDICTIONS = np.array([[[0, 0, 0, 1], [1, 1, 2, 0]]])
MATRIX = [[3, 1, 0, 0], [0, 2, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
# IoU: 3/4, 2/4, 0/1, and 0/0. Dice: 6/7, 4/6, 0/1, and 0/0.
SCORES = {
    "pixel_accuracy": 5 / 7,
    "mean_accuracy": (3 / 4 + 2 / 3) / 2,
    "mean_iou": (3 / 4 + 1 / 2 + 0) / 3,
    "mean_dice": (6 / 7 + 2 / 3 + 0) / 3,
    "frequency_weighted_iou": (4 * 3 / 4 + 3 * 1 / 2) / 7,
}


def random_batch(batch=6, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, (batch, 9, 11)).astype("float32")
    labels[rng.random(labels.shape) < 0.2] = 255
    return labels, rng.normal(size=(batch, 9, 11, classes)).astype("float32")


def test_matrix_by_hand():
    np.testing.assert_array_equal(confusion_matrix(LABELS, PREDICTIONS, 4), MATRIX)
    metric = ConfusionMatrix(4)
    np.testing.assert_array_equal(metric(LABELS, PREDICTIONS), MATRIX)
    np.testing.assert_array_equal(metric(LABELS, PREDICTIONS), 2 * np.array(MATRIX))


@pytest.mark.parametrize("name", METRICS)
def test_scores_by_hand(name):
    np.testing.assert_allclose(METRICS[name](4)(LABELS, PREDICTIONS), SCORES[name], rtol=1e-6)
    np.testing.assert_allclose(scores(np.array(MATRIX))[name], SCORES[name], rtol=1e-12)


@pytest.mark.parametrize(("metric", "expected"), [(MeanIoU, (1 / 2 + 0) / 2), (MeanDice, (2 / 3 + 0) / 2)])
def test_background_may_be_left_out_of_the_mean(metric, expected):
    made = metric(4, ignore_background=True)
    np.testing.assert_allclose(made(LABELS, PREDICTIONS), expected, rtol=1e-6)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(made))
    np.testing.assert_allclose(again(LABELS, PREDICTIONS), expected, rtol=1e-6)


def test_one_hot_masks_of_two_classes_count_nothing():
    """They have the shape of ids and weights, of which [1, 0] would be class 1."""
    ids, one_hot = np.array([[[0, 1, 1]]]), np.array([[[[1, 0], [0, 1], [0, 1]]]])
    assert not np.asarray(ConfusionMatrix(2)(one_hot, ids)).any()
    weighted = np.stack([ids, [[[0, 1, 1]]]], axis=-1)
    np.testing.assert_array_equal(ConfusionMatrix(2)(weighted, ids), [[1, 0], [0, 2]])


def test_rows_of_scores():
    result = scores(np.array(MATRIX), ["sky", "road", "car", "ship"])
    assert result["per_class"] == [
        {"name": "sky", "iou": 0.75, "dice": 6 / 7, "accuracy": 0.75, "precision": 1.0, "pixels": 4},
        {"name": "road", "iou": 0.5, "dice": 2 / 3, "accuracy": 2 / 3, "precision": 2 / 3, "pixels": 3},
        {"name": "car", "iou": 0.0, "dice": 0.0, "accuracy": None, "precision": 0.0, "pixels": 0},
        {"name": "ship", "iou": None, "dice": None, "accuracy": None, "precision": None, "pixels": 0},
    ]
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("form", ["logits", "ids", "weights"])
def test_batches_in_every_form_equal_numpy(form, jit):
    total, metric = np.zeros((5, 5), "int64"), ConfusionMatrix(5)
    update = tf.function(metric.update_state, jit_compile=jit)
    for seed in range(3):
        labels, logits = random_batch(seed=seed)
        total += confusion_matrix(labels, logits.argmax(axis=-1), 5)
        if form == "weights":
            labels = np.stack([labels, np.full_like(labels, 7)], axis=-1)
        update(labels, logits.argmax(axis=-1).astype("int32") if form == "ids" else logits)
    np.testing.assert_array_equal(metric.result(), total)
    metric.reset_state()
    assert not np.asarray(metric.result()).any()


def test_unknown_height_and_width():
    metric = ConfusionMatrix(5)
    labels, logits = random_batch()
    specs = [tf.TensorSpec((None, None, None)), tf.TensorSpec((None, None, None, 5))]
    tf.function(metric.update_state, input_signature=specs)(labels, logits)
    np.testing.assert_array_equal(metric.result(), confusion_matrix(labels, logits.argmax(axis=-1), 5))


def test_scores_and_metrics_agree():
    labels, logits = random_batch()
    expected = scores(confusion_matrix(labels, logits.argmax(axis=-1), 5))
    for name, metric in METRICS.items():
        np.testing.assert_allclose(metric(5)(labels, logits), expected[name], rtol=1e-6)


def test_counts_past_float32():
    metric = PixelAccuracy(2)
    start = np.array([[2**40, 0], [0, 0]])
    metric.matrix.assign(start)
    metric.update_state(np.array([[[0]]]), np.array([[[1]]]))
    np.testing.assert_array_equal(metric.matrix, start + [[0, 1], [0, 0]])
    assert scores(start)["per_class"][0]["pixels"] == 2**40


@pytest.mark.parametrize("name", METRICS)
def test_nothing_labelled_is_zero(name):
    assert float(METRICS[name](3)(np.full((1, 2, 2), 255), np.zeros((1, 2, 2, 3)))) == 0
    assert scores(np.zeros((3, 3), int))[name] == 0


def test_ignore_label_within_the_classes():
    left_out = confusion_matrix(LABELS[0, 0], PREDICTIONS[0, 0], 3, ignore_label=0)
    np.testing.assert_array_equal(left_out, np.zeros((3, 3)))
    metric = ConfusionMatrix(3, ignore_label=0)
    np.testing.assert_array_equal(metric(LABELS, PREDICTIONS), [[0, 0, 0], [0, 2, 1], [0, 0, 0]])
    # 255 is no class, whatever the ignore label is.
    assert np.sum(ConfusionMatrix(3, ignore_label=None)(LABELS, PREDICTIONS)) == 7


def test_ids_outside_the_classes_never_move_to_other_cells():
    labels, predictions = np.array([[[0, 0, 5, -1]]]), np.array([[[7, -1, 1, 1]]])
    assert not np.asarray(ConfusionMatrix(3)(labels, predictions)).any()
    with pytest.raises(ValueError, match="a label lies in -1"):
        confusion_matrix(labels, predictions, 3)
    with pytest.raises(ValueError, match="a prediction lies in -1"):
        confusion_matrix(np.zeros_like(labels), predictions, 3)


@pytest.mark.parametrize("name", METRICS)
def test_replicas_equal_one_device(name, replicas):
    labels, logits = random_batch()
    with replicas.scope():
        metric = METRICS[name](5)
    data = replicas.experimental_distribute_dataset(tf.data.Dataset.from_tensor_slices((labels, logits)).batch(4))
    for shards in data:
        replicas.run(metric.update_state, args=shards)
    matrix = confusion_matrix(labels, logits.argmax(axis=-1), 5)
    np.testing.assert_array_equal(metric.matrix, matrix)
    np.testing.assert_allclose(metric.result(), scores(matrix)[name], rtol=1e-6)


def test_evaluate_under_replicas(replicas):
    labels, images = random_batch()
    with replicas.scope():
        model = keras.Sequential([keras.layers.Input((9, 11, 5)), keras.layers.Conv2D(5, 1)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255)
        model.compile(loss=loss, metrics=[metric(5) for metric in METRICS.values()], jit_compile=False)
    result = model.evaluate(images, labels, batch_size=4, verbose=0, return_dict=True)
    expected = scores(confusion_matrix(labels, model(images).numpy().argmax(axis=-1), 5))
    for name in METRICS:
        np.testing.assert_allclose(result[name], expected[name], rtol=1e-6)


@pytest.mark.parametrize("name", METRICS)
def test_callbacks_know_that_more_is_better(name):
    model = keras.Sequential([keras.layers.Input((2, 2, 3)), keras.layers.Conv2D(3, 1)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, metrics=[METRICS[name](3)], run_eagerly=True)
    model.evaluate(np.zeros((1, 2, 2, 3)), np.zeros((1, 2, 2)), verbose=0)
    stop = keras.callbacks.EarlyStopping(monitor=f"val_{name}", patience=1)
    stop.set_model(model)
    stop.on_train_begin()
    stop.on_epoch_end(0, {f"val_{name}": 0.5})
    stop.on_epoch_end(1, {f"val_{name}": 0.4})
    assert (stop.best, stop.stopped_epoch) == (0.5, 1)


@pytest.mark.parametrize("metric", [ConfusionMatrix, *METRICS.values()])
def test_round_trip(metric):
    made = metric(7, ignore_label=6, name="mine")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(made))
    assert type(again) is metric
    assert again.get_config() == made.get_config()
    assert (again.num_classes, again.ignore_label, again.name) == (7, 6, "mine")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MeanIoU(1), "num_classes"),
        (lambda: MeanIoU(3)(np.zeros((1, 2, 2)), np.zeros((1, 2, 2, 4))), "4 channels"),
        (lambda: MeanIoU(3)(np.zeros((1, 2, 2, 1)), np.zeros((1, 2, 2, 3))), "y_true must be"),
        (lambda: MeanIoU(3)(LABELS, PREDICTIONS, sample_weight=np.ones(1)), "sample_weight"),
        (lambda: confusion_matrix(np.zeros((2, 2)), np.zeros((3, 2)), 2), "resize"),
        (lambda: scores(np.zeros((2, 3))), "square"),
        (lambda: scores(np.zeros((2, 2)), ["only"]), "names"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
