"""What an exporter is given: models by path, places that hold something else, networks without normalisation, disks."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_cv_lectures.data.images import read_image
from keras_cv_lectures.errors import KcvlWarning, ModelError
from keras_cv_lectures.exporting import export_saved_model, export_tflite, saved_model, tflite
from keras_cv_lectures.exporting.detector_files import check_labels, picture_read
from keras_cv_lectures.exporting.given import model_to_export, refuse_other_content
from keras_cv_lectures.layers import ResizeLike
from keras_cv_lectures.layers.preprocessing import is_without_normalization
from keras_cv_lectures.metadata import Metadata, read_metadata
from keras_cv_lectures.predicting import predict
from keras_cv_lectures.runners import load_runner
from keras_cv_lectures.segmentation import build_fcn, build_unet

FACTS = Metadata(classes=("a", "b"), colors=((0, 0, 0), (9, 9, 9)), input_size=(4, 6))


def brightness(name="brightness"):
    """Two classes of grey pictures: label 1 where a pixel is brighter than 100."""
    image = keras.Input((4, 6, 1), name="image")
    logits = keras.layers.Conv2D(2, 1, name="logits")
    model = keras.Model(image, logits(image), name=name)
    logits.set_weights([np.float32([[[[0, 1]]]]), np.float32([0, -100.5])])
    return model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mine"
    (folder / "checkpoint").mkdir(parents=True)
    brightness().save(folder / "best.keras")
    (folder / "run.json").write_text(json.dumps(FACTS.to_json()))
    return folder


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Places --------------------------------------------------------------------------------------------------------------


def test_a_folder_that_holds_something_else_is_left_alone(run, tmp_path):
    before = content(run)
    with pytest.raises(ModelError, match=r"`path` .* with a SavedModel and nothing else.*best\.keras, checkpoint"):
        export_saved_model(run, run)
    assert content(run) == before
    places = {
        "exports": ({"unet.tflite": ""}, r"exports holds unet\.tflite\. Choose another `path`.*exports/saved_model"),
        "mixed": ({"saved_model.pb": "", "notes.txt": ""}, r"mixed holds notes\.txt\."),
        "half": ({"model_card.json": ""}, r"half has no saved_model\.pb\."),
    }
    for name, (files, message) in places.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
        with pytest.raises(ModelError, match=message):
            export_saved_model(run, tmp_path / name)
        assert {p.name for p in (tmp_path / name).iterdir()} == set(files)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ModelError, match="file is a file; .* Choose another `path`"):
        export_saved_model(run, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_an_older_saved_model_is_replaced(run, tmp_path):
    old = tmp_path / "m"
    (old / "variables").mkdir(parents=True)
    for name in ("saved_model.pb", "fingerprint.pb", "model_card.json", "MODEL_CARD.md", "run.py", "labels.txt"):
        (old / name).write_text("old")
    export_saved_model(run, old, verify=False)
    found = content(old)
    assert b"old" not in found.values()
    assert {"run.py", "labels.txt"}.isdisjoint(path.name for path in found)
    (tmp_path / "empty").mkdir()
    for free in ("empty", "absent"):
        refuse_other_content(tmp_path / free)


# Models --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["m.tflite", "m"])
def test_a_path_brings_the_model_and_what_stands_beside_it(run, tmp_path, name):
    export = export_tflite if name.endswith("tflite") else export_saved_model
    export(run, tmp_path / name, verify=False)
    assert read_metadata(tmp_path / name) == dataclasses.replace(FACTS, tile_margin=(0, 0), tile_stride=1)
    picture = np.random.default_rng(0).integers(0, 256, (4, 6, 1), np.uint8)
    np.testing.assert_array_equal(predict(tmp_path / name, picture).class_map, picture[..., 0] > 100)
    with pytest.raises(ModelError, match="is an export already"):
        export(tmp_path / name, tmp_path / f"again{name[1:]}")
    with pytest.raises(ModelError, match=r"`model` must be a Keras model, or the path.*Received: model=7 \(int\)"):
        export(7, tmp_path / f"again{name[1:]}")
    assert model_to_export(str(run / "best.keras"), Metadata(classes=("x", "y")))[1].classes == ("x", "y")


@pytest.mark.parametrize(
    ("build", "options"),
    [
        (build_unet, {"filters": 2, "depth": 2}),
        (build_unet, {"filters": 2, "depth": 2, "variant": "paper"}),
        (build_unet, {"backbone": "resnet14_v1_5", "decoder_filters": (2,) * 5}),
        (build_fcn, {"backbone": "resnet14_v1_5"}),
    ],
)
def test_a_network_without_normalisation_is_known(unfilled, build, options):
    for preprocessing in (True, False):
        model = unfilled(build, (None, None, 3), 2, include_preprocessing=preprocessing, **options)
        assert is_without_normalization(model) is not preprocessing
    assert not is_without_normalization(brightness())  # Anybody else's may take 0..255.
    pair = [keras.Input((8, 8, 3), name=name) for name in ("image", "other")]
    summed = ResizeLike()([keras.layers.Add()(pair), pair[0]])
    assert not is_without_normalization(keras.Model(pair, summed))


@pytest.mark.parametrize("name", ["m.tflite", "m"])
def test_an_export_without_normalisation_says_what_the_file_takes(tmp_path, name):
    model = build_unet((16, 16, 3), 2, filters=2, depth=1, include_preprocessing=False)
    export = export_tflite if name.endswith("tflite") else export_saved_model
    warned = pytest.warns(KcvlWarning, match=r"include_preprocessing=False.*will see 0\.\.255 as it is")
    with warned, pytest.raises(ModelError, match="`input_shape` must be"):  # Nothing need be written to be warned.
        export(model, tmp_path / name, input_shape=(16,))
    with pytest.raises(ValueError, match=r"Undo its normalisation; .*include_preprocessing=False takes it as model"):
        predict(model, np.full((16, 16, 3), -0.5, np.float32))


@pytest.mark.parametrize("export", [export_tflite, export_saved_model])
def test_names_and_colours_of_other_numbers_are_refused(export, tmp_path):
    for facts in (Metadata(classes=("a", "b", "c")), Metadata(classes=("a", "b"), colors=((0, 0, 0),))):
        name, count = ("colors", 1) if facts.colors else ("classes", 3)
        with pytest.raises(
            ModelError, match=rf"tells 2 classes apart, `metadata.{name}` has {count}\. Pass 2 in label"
        ):
            export(brightness(), tmp_path / "m.tflite", metadata=facts)
    assert not list(tmp_path.iterdir())


def test_one_channel_tells_two_classes_apart():
    image = keras.Input((4, 6, 1))
    for model, count in (
        (keras.Model(image, keras.layers.Conv2D(1, 1, name="logits")(image)), 2),
        (keras.Sequential([keras.Input((4, 6, 1)), keras.layers.Conv2D(5, 1, name="logits")]), 5),
        (keras.Model(image, [keras.layers.Conv2D(5, 1, name="logits")(image)]), 5),
        (keras.Model(image, {"logits": image, "other": keras.layers.Conv2D(5, 1)(image)}), 2),
        (keras.Model(image, keras.layers.Conv2D(5, 1, name="depth")(image)), None),
    ):
        for given in (0, 1, 2, 5):
            metadata = Metadata(classes=tuple("abcde"[:given]))
            if count in (None, given) or not given:
                check_labels(metadata, model)
            else:
                with pytest.raises(ModelError, match=rf"tells {count} classes apart, .* has {given}\."):
                    check_labels(metadata, model)


def test_one_size_is_not_opened(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match=r"takes pictures of 4x6 pixels, which `dynamic=True` cannot open.*None, 1\)"):
        export_tflite(brightness(), tmp_path / "m.tflite", dynamic=True)
    image = keras.Input((None, 6, 1))
    with pytest.raises(ModelError, match="takes pictures of anyx6 pixels, which"):
        export_tflite(keras.Model(image, image), tmp_path / "m.tflite", dynamic=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "item",
    [
        (np.zeros((2, 4, 6, 1), np.uint8), np.zeros((2, 4, 6), np.uint8)),
        {"image": 0, "mask": 0},
        (np.zeros((4, 6, 1), np.uint8),) * 2,
        (np.zeros((4, 6, 1), np.uint8),) * 3,
        (*[np.zeros((4, 6, 1), np.uint8)] * 3, np.zeros((4, 6), np.uint8)),
    ],
)
def test_pictures_alone_are_representative(item, tmp_path):
    """A pair may be a picture and a target of its shape, a triple has a weight, too."""
    message = rf"pictures alone\. Received: a {type(item).__name__} of {len(item)}\. Leave out the targets"
    with pytest.raises(ModelError, match=message):
        export_tflite(brightness(), tmp_path / "m.tflite", representative=[item])


def test_tuples_that_hold_nothing_but_pictures_are_representative():
    """As a data set of `(pictures,)` gives them, and a batch that nobody has stacked."""
    pictures = np.random.default_rng(0).integers(0, 256, (4, 4, 6, 1), np.uint8)
    for items in ([(picture,) for picture in pictures], [(pictures,)], [tuple(pictures)]):
        found = list(tflite._pictures(items, (4, 6, 1)))
        np.testing.assert_array_equal(found, pictures[:, None])
    assert not list(tflite._pictures(tf.data.Dataset.from_tensor_slices((pictures[:0],)), (4, 6, 1)))


@pytest.mark.parametrize("name", ["m.tflite", "m"])
def test_the_card_leaves_open_what_is_open(name, tmp_path):
    """Of whatever the network gives, here in half the size, of one size, and without any."""
    image = keras.Input((None, None, 1))
    outputs = {
        "half": keras.layers.AveragePooling2D(2)(image),
        "small": keras.layers.Resizing(3, 4)(image),
        "mean": keras.layers.GlobalAveragePooling2D()(image),
        # The graph knows not even its rank, since any side may be 1.
        "plain": keras.layers.Lambda(tf.squeeze, output_shape=(None,))(image),
    }
    options = {"dynamic": True} if name == "m.tflite" else {}
    export = export_tflite if options else export_saved_model
    result = export(keras.Model(image, outputs), tmp_path / name, **options)
    card = json.loads(result.card_path.read_text())
    shapes = {key: value["shape"] for key, value in card["outputs"].items()}
    assert shapes.pop("plain") == [None, None]
    assert [shapes[key][1:] for key in ("half", "small", "mean")] == [[None, None, 1], [3, 4, 1], [1]]
    assert {shape[0] for shape in shapes.values()} == {1}
    other = ", and a generated one of another size" if options else ""
    assert card["compared_on"] == f"a generated picture{other}"


# Disks and memory ----------------------------------------------------------------------------------------------------


def test_full_memory_is_no_full_disk(run, tmp_path, monkeypatch):
    def full(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(saved_model, "compare", full)
    with pytest.raises(tf.errors.ResourceExhaustedError, match="OOM"):
        export_saved_model(run, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["m.tflite", "m"])
def test_a_disk_that_tensorflow_finds_full(run, tmp_path, monkeypatch, name):
    def full(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, f"{tmp_path}/x; No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", full)
    export = export_tflite if name.endswith("tflite") else export_saved_model
    with pytest.raises(ModelError, match=r"could not be written: .*No space left on device.*MB free.*Free some space"):
        export(run, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


# Programs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_programs_read_pictures_as_predict_does(tmp_path, mode):
    rng = np.random.default_rng(1)
    deep = rng.integers(0, 65536, (5, 7), np.uint16)
    deep[0, :4] = 128, 129, 385, 65535  # On both sides of a half: round(129 / 257) is 1.
    arrays = {"deep.png": deep, "float.tif": rng.uniform(0, 1, (5, 7)).astype(np.float32)}
    arrays |= {"grey.png": np.uint8(deep >> 8), "color.png": rng.integers(0, 256, (5, 7, 3), np.uint8)}
    for name, array in arrays.items():
        file = str(tmp_path / name)
        Image.fromarray(array).save(file)
        found: dict = {}
        exec(
            "\n".join(["import numpy as np", "from PIL import Image, ImageOps", *picture_read(repr(file), mode)]), found
        )
        expected = read_image(file, channels=len(mode))
        np.testing.assert_array_equal(np.asarray(found["picture"]).reshape(expected.shape), expected, err_msg=name)


def test_the_program_of_the_card_takes_grey_of_16_bits(run, tmp_path, monkeypatch):
    export_saved_model(run, tmp_path / "m", verify=False)
    picture = np.uint16([[0, 60, 99, 101, 180, 255]] * 4) * 257
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture).save("PICTURE.jpg", format="PNG")
    program = json.loads((tmp_path / "m" / "model_card.json").read_text())["program"]
    exec(compile(program, "program", "exec"), {})
    assert np.load("OUTPUT.npy").tolist() == [[0, 0, 0, 1, 1, 1]] * 4
    np.testing.assert_array_equal(predict(load_runner("m"), "PICTURE.jpg").class_map, np.load("OUTPUT.npy"))
