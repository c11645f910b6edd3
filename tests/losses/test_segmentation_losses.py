"""Segmentation losses: hand-worked numbers, a NumPy reference, torch and smp, and what must never go wrong."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.losses import (
    DiceLoss,
    FocalLoss,
    JaccardLoss,
    LovaszSoftmaxLoss,
    SegmentationCrossEntropy,
    TverskyLoss,
    WeightedSum,
    median_frequency_weights,
)

LOSSES = {
    "cross_entropy": lambda **settings: SegmentationCrossEntropy(**settings),
    "weighted": lambda **settings: SegmentationCrossEntropy(class_weights=[1, 2, 0.5], label_smoothing=0.1, **settings),
    "pixels": lambda **settings: SegmentationCrossEntropy(class_weights=[1, 2, 0.5], normalize="pixels", **settings),
    "focal": lambda **settings: FocalLoss(0.5, [0.2, 1, 0.7], **settings),
    "dice": lambda **settings: DiceLoss(**settings),
    "jaccard": lambda **settings: JaccardLoss(**settings),
    "tversky": lambda **settings: TverskyLoss(0.3, 0.7, 0.75, **settings),
    "lovasz": lambda **settings: LovaszSoftmaxLoss(**settings),
    "sum": lambda **settings: WeightedSum(
        [SegmentationCrossEntropy(class_weights=[1, 2, 0.5]), DiceLoss(smooth=1.0)], [0.5, 2.0], **settings
    ),
}


@pytest.fixture
def batch():
    """Labels (4, 5, 6) of 3 classes and 255, and logits."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (4, 5, 6)).astype("float32")
    labels[rng.random(labels.shape) < 0.2] = 255
    return labels, rng.normal(size=(4, 5, 6, 3)).astype("float32")


def value_and_gradient(loss, labels, logits, jit=False):
    @tf.function(jit_compile=jit)
    def step(labels, logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            values = loss.call(labels, logits)
        return values, tape.gradient(values, logits)

    values, gradient = step(tf.convert_to_tensor(labels), tf.convert_to_tensor(logits))
    return values.numpy(), gradient.numpy()


def softmax(logits):
    power = np.exp(np.asarray(logits, "float64"))
    return power / power.sum(axis=-1, keepdims=True)


# Hand-worked: probabilities of class 1 are 3/4, 1/2, 1/4; labels 1, 0, 1, and one pixel to ignore.
HAND_LOGITS = np.array([[[[0, np.log(3)], [0, 0], [np.log(3), 0], [5, -5]]]], "float32")
HAND_LABELS = np.array([[[1, 0, 1, 255]]])


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (SegmentationCrossEntropy(), (np.log(4 / 3) + np.log(2) + np.log(4)) / 3),
        (SegmentationCrossEntropy(class_weights=[2, 1]), (np.log(4 / 3) + 2 * np.log(2) + np.log(4)) / 4),
        (
            SegmentationCrossEntropy(class_weights=[2, 1], normalize="pixels"),
            (np.log(4 / 3) + 2 * np.log(2) + np.log(4)) / 3,
        ),
        (FocalLoss(), (np.log(4 / 3) / 16 + np.log(2) / 4 + np.log(4) * 9 / 16) / 3),
        (FocalLoss(1.0, [3, 1]), (np.log(4 / 3) / 4 + 3 * np.log(2) / 2 + np.log(4) * 3 / 4) / 3),
        # Class 0: inside 1/2, predicted 1/4 + 1/2 + 3/4, labelled 1. Class 1: inside 1, predicted 3/2, labelled 2.
        (DiceLoss(), 1 - (1 / 2.5 + 2 / 3.5) / 2),
        (JaccardLoss(), 1 - (0.5 / 2 + 1 / 2.5) / 2),
        (TverskyLoss(1.0, 0.0), 1 - (0.5 / 1.5 + 1 / 1.5) / 2),
        (TverskyLoss(0.0, 1.0, 2.0), (1 - (0.5 / 1 + 1 / 2) / 2) ** 2),
        # Errors of both classes sorted: 3/4 (label 1), 1/2 (label 0), 1/4 (label 1).
        # Class 0: Jaccard loss after each 1/2, 1, 1. Class 1: 1/2, 2/3, 1.
        (LovaszSoftmaxLoss(), ((3 / 8 + 1 / 4) + (3 / 8 + 1 / 12 + 1 / 12)) / 2),
    ],
)
def test_hand_worked(loss, expected):
    np.testing.assert_allclose(loss(HAND_LABELS, HAND_LOGITS), expected, rtol=1e-6)


def test_pixel_weights_raise_the_loss():
    weights = np.array([[[1, 11, 1, 4]]])
    loss = SegmentationCrossEntropy()(np.stack([HAND_LABELS, weights], axis=-1), HAND_LOGITS)
    np.testing.assert_allclose(loss, (np.log(4 / 3) + 11 * np.log(2) + np.log(4)) / 3, rtol=1e-6)


@pytest.mark.parametrize("name", ["dice", "jaccard", "tversky", "lovasz"])
def test_pixel_of_weight_two_counts_as_two_pixels(name, batch):
    labels, logits = batch
    loss = LOSSES[name]()
    weights = np.ones_like(labels)
    weights[:, 0] = 2
    weighted = loss.call(np.stack([labels, weights], axis=-1), logits)
    twice = loss.call(np.concatenate([labels, labels[:, :1]], axis=1), np.concatenate([logits, logits[:, :1]], axis=1))
    np.testing.assert_allclose(weighted, twice, rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_weight_zero_and_ignore_give_no_gradient(name, batch):
    labels, logits = batch
    weights = np.ones_like(labels)
    weights[:, :, 2] = 0
    _, gradient = value_and_gradient(LOSSES[name](), np.stack([labels, weights], axis=-1), logits)
    silent = (labels == 255) | (weights == 0)
    assert np.abs(gradient[silent]).max() == 0
    assert np.abs(gradient[~silent]).max() > 0


def test_cross_entropy_against_numpy(batch):
    labels, logits = batch
    class_weights, smoothing = np.array([1, 2, 0.5]), 0.2
    log_p = np.log(softmax(logits))
    expected = []
    for label, log_p_of_one in zip(labels, log_p, strict=True):
        total = count = 0.0
        for y, row in zip(label.ravel(), log_p_of_one.reshape(-1, 3), strict=True):
            if y == 255:
                continue
            target = smoothing / 3 + (1 - smoothing) * np.eye(3)[int(y)]
            total -= (class_weights * target * row).sum()
            count += class_weights[int(y)]
        expected.append(total / count)
    loss = SegmentationCrossEntropy(class_weights=class_weights, label_smoothing=smoothing)
    np.testing.assert_allclose(loss.call(labels, logits), expected, rtol=1e-5)


def test_a_class_that_is_ruled_out_costs_nothing():
    """A logit of minus infinity has no probability: what is left are two equal classes."""
    logits = tf.constant([[[[0.0, 0.0, -np.inf]]]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = SegmentationCrossEntropy()(np.zeros((1, 1, 1)), logits)
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(loss, logits)[0, 0, 0], [-0.5, 0.5, 0.0], atol=1e-6)
    # With label smoothing that class shall be predicted too, which costs without end.
    assert np.isposinf(SegmentationCrossEntropy(label_smoothing=0.1)(np.zeros((1, 1, 1)), logits))


def test_smooth_of_dice_is_that_of_tversky_with_halves():
    """By hand: probabilities 1/2, two pixels of class 0. I = 1, P = 1, T = 2 of class 0; class 1 does not occur."""
    logits, labels = np.zeros((1, 1, 2, 2), "float32"), np.zeros((1, 1, 2))
    expected = (1 - (1 + 3) / ((1 + 2) / 2 + 3)) / 2
    np.testing.assert_allclose(DiceLoss(smooth=3.0)(labels, logits), expected, rtol=1e-6)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("key", "target", "make"),
    [
        ("ce_ignore255", "target", lambda weight: SegmentationCrossEntropy()),
        ("ce_weighted", "target", lambda weight: SegmentationCrossEntropy(class_weights=weight)),
        # The file does not record its smoothing and Tversky settings; only these reproduce value and gradient.
        ("ce_smooth", "target", lambda weight: SegmentationCrossEntropy(label_smoothing=0.1)),
        ("smp_dice_multiclass", "target_no_ignore", lambda weight: DiceLoss(ignore_label=None)),
        ("smp_jaccard_multiclass", "target_no_ignore", lambda weight: JaccardLoss(ignore_label=None)),
        ("smp_lovasz_multiclass", "target_no_ignore", lambda weight: LovaszSoftmaxLoss(ignore_label=None)),
        ("smp_tversky_multiclass", "target_no_ignore", lambda weight: TverskyLoss(0.3, 0.7, ignore_label=None)),
    ],
)
def test_torch_and_smp(golden, key, target, make):
    arrays, _ = golden("op_losses")
    logits = np.moveaxis(arrays["in/logits"], 1, -1)
    # Both libraries sum over the batch: the batch becomes one tall picture.
    labels = arrays[f"in/{target}"].reshape(1, -1, logits.shape[2])
    loss = make(arrays.get("in/weight"))
    value, gradient = value_and_gradient(loss, labels, logits.reshape(1, -1, *logits.shape[2:]))
    expected = np.moveaxis(arrays[f"grad/{key}"], 1, -1)
    np.testing.assert_allclose(value[0], arrays[f"out/{key}"], rtol=1e-6)
    largest = np.abs(expected).max()
    np.testing.assert_allclose(gradient.reshape(expected.shape), expected, rtol=1e-5, atol=1e-6 * largest)


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("name", LOSSES)
def test_degenerate_pictures(name, jit):
    """All ignored; one class, rightly and wrongly, with saturated logits; and an ordinary one."""
    labels = np.array([[[255, 255]], [[1, 1]], [[0, 0]], [[0, 2]]])
    logits = np.zeros((4, 1, 2, 3), "float32")
    logits[0] = [-200, -300, -250]
    logits[1:3, ..., 1] = 300
    values, gradient = value_and_gradient(LOSSES[name](), labels, logits, jit)
    assert values.shape == (4,)
    assert np.isfinite(values).all()
    assert np.isfinite(gradient).all()
    assert values[0] == 0
    assert np.abs(gradient[0]).max() == 0
    if name not in ("weighted", "sum"):  # smoothing and `smooth` give perfect predictions a loss
        np.testing.assert_allclose(values[1], 0, atol=1e-6)
    assert values[2] > values[1]


@pytest.mark.parametrize("name", LOSSES)
def test_one_value_per_example_and_float32_inside(name, batch):
    labels, logits = batch
    loss = LOSSES[name](reduction=None)
    together = np.asarray(loss(labels, logits))
    alone = [float(loss(labels[i : i + 1], logits[i : i + 1])[0]) for i in range(len(labels))]
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    np.testing.assert_allclose(loss(labels.astype("int32"), logits), together, rtol=1e-6)
    rounded = tf.cast(logits, "bfloat16")
    low = loss(labels, rounded)
    assert keras.backend.standardize_dtype(low.dtype) == "float32"
    np.testing.assert_allclose(low, loss(labels, tf.cast(rounded, "float32")), rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("label", [3, -1, 254, 0.5, np.nan])
def test_unusable_label_is_nan_and_teaches_nothing(name, label, batch):
    labels, logits = batch
    labels[1, 2, 3] = label
    values, gradient = value_and_gradient(LOSSES[name](), labels, logits)
    np.testing.assert_array_equal(np.isnan(values), [False, True, False, False])
    assert np.abs(gradient[1]).max() == 0


@pytest.mark.parametrize("name", LOSSES)
def test_round_trip(name, batch):
    loss = LOSSES[name](reduction="sum", name="mine")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert again.get_config() == loss.get_config()
    assert float(again(*batch)) == float(loss(*batch))


def test_ignore_label_within_the_classes(batch):
    labels, logits = batch
    labels[labels == 255] = 1
    elsewhere = np.where(labels == 0, 255, labels)
    for make in (SegmentationCrossEntropy, DiceLoss, LovaszSoftmaxLoss):
        np.testing.assert_array_equal(make(ignore_label=0).call(labels, logits), make().call(elsewhere, logits))


def test_weighted_sum(batch):
    parts = [SegmentationCrossEntropy(), FocalLoss()]
    total = WeightedSum(parts, [0.5, 2]).call(*batch)
    np.testing.assert_allclose(total, 0.5 * parts[0].call(*batch) + 2 * parts[1].call(*batch), rtol=1e-6)


def test_tversky_is_dice_and_jaccard(batch):
    np.testing.assert_allclose(TverskyLoss(0.5, 0.5).call(*batch), DiceLoss().call(*batch), rtol=1e-6)
    np.testing.assert_allclose(TverskyLoss(1, 1).call(*batch), JaccardLoss().call(*batch), rtol=1e-6)


def test_replicas_give_one_value_per_example(batch, replicas):
    labels, logits = batch
    loss = WeightedSum([SegmentationCrossEntropy(), DiceLoss()], reduction=None)
    data = tf.data.Dataset.from_tensor_slices((labels, logits)).batch(len(labels))
    (shards,) = replicas.experimental_distribute_dataset(data)
    values = tf.function(lambda shards: replicas.run(loss, args=shards))(shards)
    values = [value.numpy() for value in replicas.experimental_local_results(values)]
    assert [value.shape for value in values] == [(2,), (2,)]
    np.testing.assert_allclose(np.concatenate(values), loss(labels, logits), rtol=1e-6)


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_fit_with_pixel_weights(batch, jit):
    labels, logits = batch
    model = keras.Sequential([keras.layers.Input((None, None, 3)), keras.layers.Conv2D(3, 1)])
    model.compile("sgd", WeightedSum([SegmentationCrossEntropy(), DiceLoss()]), jit_compile=jit)
    history = model.fit(logits, np.stack([labels, np.ones_like(labels)], axis=-1), epochs=3, verbose=0).history["loss"]
    assert history[2] < history[0]


@pytest.mark.parametrize(
    ("loss", "labels", "logits", "message"),
    [
        (DiceLoss(), (1, 4, 4, 1), (1, 4, 4, 3), "Squeeze"),
        (DiceLoss(), (1, 6, 6), (1, 4, 4, 3), "crop the labels"),
        (DiceLoss(), (1, 4, 4), (1, 4, 4, 1), "num_classes=2"),
        (SegmentationCrossEntropy(class_weights=[1, 2]), (1, 4, 4), (1, 4, 4, 3), "2 values .* 3 classes"),
        (WeightedSum([keras.losses.MeanSquaredError()]), (1, 4, 4, 3), (1, 4, 4, 3), r"one per example"),
    ],
)
def test_shapes_that_do_not_fit(loss, labels, logits, message):
    with pytest.raises(ValueError, match=message):
        loss(np.zeros(labels), np.zeros(logits))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SegmentationCrossEntropy(normalize="mean"), "normalize"),
        (lambda: SegmentationCrossEntropy(label_smoothing=1.0), "label_smoothing"),
        (lambda: SegmentationCrossEntropy(class_weights=[1, np.inf]), "class_weights"),
        (lambda: FocalLoss(-1), "gamma"),
        (lambda: TverskyLoss(0, 0), "alpha and beta"),
        (lambda: WeightedSum([]), "losses"),
        (lambda: WeightedSum([DiceLoss()], [1, 2]), "1 losses, 2 weights"),
    ],
)
def test_settings_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_median_frequency():
    # Frequencies 60/100, 30/100, 10/50: median 3/10.
    np.testing.assert_allclose(median_frequency_weights([60, 30, 10], [100, 100, 50]), [0.5, 1, 1.5])
    # Two classes seen, 75/100 and 25/100: median 1/2; the class never seen gets 0.
    np.testing.assert_allclose(median_frequency_weights([75, 0, 25]), [2 / 3, 0, 2])


@pytest.mark.parametrize("arguments", [([0, 0],), ([-1, 2],), ([1, 2], [3]), ([4, 2], [3, 3])])
def test_median_frequency_refuses(arguments):
    with pytest.raises(ValueError, match="pixel"):
        median_frequency_weights(*arguments)


@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
@pytest.mark.parametrize("name", ["cross_entropy", "dice", "jaccard", "lovasz"])
def test_one_hot_masks_of_two_classes_are_unusable(name, dtype):
    """Read as [class id, pixel weight], [1, 0] would be class 1 with weight 0: all that counts would be background."""
    one_hot = np.eye(2)[[[[0, 1], [1, 0]], [[0, 0], [0, 0]]]].astype(dtype)
    values, gradient = value_and_gradient(LOSSES[name](), one_hot, np.zeros((2, 2, 2, 2), "float32"))
    assert np.isnan(values).all()
    assert not gradient.any()


@pytest.mark.parametrize(
    ("pairs", "classes"),
    [
        ([[0, 1], [1, 1], [1, 0]], 2),  # One pixel of class 1 counts.
        ([[0, 1], [0, 1], [0, 1]], 2),  # Background alone.
        ([[0, 1], [1, 0], [0, 0.5]], 2),
        ([[0, 1], [1, 0], [1, 0]], 3),  # One-hot masks of three classes have three numbers.
    ],
)
def test_maps_of_classes_and_weights_are_no_one_hot_masks(pairs, classes):
    """Even logits: the sum of the weights times log K, over three pixels."""
    loss = SegmentationCrossEntropy()(np.array([[pairs]], "float32"), np.zeros((1, 1, 3, classes), "float32"))
    np.testing.assert_allclose(loss, sum(weight for _, weight in pairs) * np.log(classes) / 3, rtol=1e-6)
