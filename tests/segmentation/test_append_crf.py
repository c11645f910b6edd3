"""A CRF behind a network: the same scores refined, trained together, exported as a segmentation network."""

import keras
import numpy as np
import pytest

from keras_cv_lectures.layers import MeanFieldCRF
from keras_cv_lectures.segmentation import append_crf
from keras_cv_lectures.segmentation.heads import class_scores, logits_like, picture_input

RNG = np.random.default_rng(2)


def network(padding="same"):
    image = picture_input((None, None, 3), 2)
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.Conv2D(4, 3, padding=padding, activation="relu", name="conv")(x)
    return keras.Model(image, logits_like(class_scores(x, 2), image, "none"), name="tiny")


def test_refines_the_logits_of_the_network():
    model = network()
    refined = append_crf(model, window=3, iterations=2)
    image = RNG.uniform(0, 255, (1, 6, 7, 3)).astype("float32")
    expected = MeanFieldCRF(3, 2)([model(image), image])
    assert (refined.name, refined.output_names) == ("tiny_crf", ["logits"])
    np.testing.assert_allclose(np.asarray(refined(image)), np.asarray(expected), atol=1e-6)


def test_valid_convolutions_see_the_centre():
    model = network("valid")
    image = RNG.uniform(0, 255, (1, 6, 7, 3)).astype("float32")
    expected = MeanFieldCRF(3, 2)([model(image), image[:, 1:-1, 1:-1]])
    refined = append_crf(model, window=3, iterations=2)
    np.testing.assert_allclose(np.asarray(refined(image)), np.asarray(expected), atol=1e-6)


def test_trains_end_to_end_and_reloads(tmp_path):
    keras.utils.set_random_seed(0)
    model = append_crf(network(), window=3, iterations=2)
    labels = np.zeros((4, 8, 8), "int32")
    labels[:, :, 4:] = 1
    images = np.where(labels[..., None] == 1, 200.0, 50.0) + RNG.normal(0, 40, (4, 8, 8, 3))
    model.compile(
        keras.optimizers.Adam(0.05),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    before = [w.copy() for w in model.get_weights()]
    history = model.fit(images.astype("float32"), labels, epochs=25, verbose=0).history["loss"]
    assert history[-1] < 0.2 * history[0]
    assert all(np.abs(old - new).max() > 0 for old, new in zip(before, model.get_weights(), strict=True))

    model.save(tmp_path / "m.keras")
    reloaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(reloaded.predict(images, verbose=0), model.predict(images, verbose=0))


def test_exports_with_the_exporter(tmp_path):
    from keras_cv_lectures import export_tflite

    # The exporter refuses operators that are not builtin, and a file whose output is not the model's.
    result = export_tflite(append_crf(network(), window=3, iterations=1), tmp_path / "m.tflite", input_shape=(6, 8))
    assert result.path.exists()


def test_other_networks_are_refused():
    image = keras.Input((8, 8, 3))
    with pytest.raises(ValueError, match='named "logits"'):
        append_crf(keras.Model(image, keras.layers.Conv2D(2, 1, name="other")(image)))
    with pytest.raises(ValueError, match="odd"):
        append_crf(network(), window=4)
