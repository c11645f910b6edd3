"""One way to run a model, whatever it is stored as: Keras, SavedModel or TensorFlow Lite; its speed and its cost.

    runner = load_runner("saved_models/unet/run")
    outputs = runner(pictures)  # (B, H, W, C) uint8 -> {"logits": ..., "probabilities": ..., "class_map": ...}

The same keys and the same numbers (to rounding) come out of every kind, so whatever stands behind a runner can be
exchanged.
"""

from __future__ import annotations

import os
import platform
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_cv_lectures.errors import ModelError, PictureError
from keras_cv_lectures.h5 import check_h5
from keras_cv_lectures.metadata import Metadata, read_metadata
from keras_cv_lectures.serving import declared_shape, first_line, freeze, running, serving_function

Outputs = dict[str, np.ndarray]
InputShape = tuple[int | None, int | None, int]

SIGNATURE = "serving_default"
# Of a file with several signatures the one that takes a picture and gives the best answer. A captioner's file has steps
# too, of which `serving_default` may be one.
_WHOLE_ANSWERS = ("caption", "beam", SIGNATURE, "greedy")
EXPECTED = "a run folder with best.keras, a .keras file, a SavedModel folder or a .tflite file"
# Traced functions of that many picture sizes are kept; each holds memory of its own.
_KEPT_SHAPES = 8


@dataclass(frozen=True, kw_only=True)
class Runner:
    """A model that can be called on pictures.

    Attributes:
        kind: "keras", "saved_model" or "tflite".
        metadata: labels and sizes, from beside the file; `Metadata()` where none stands there.
        input_shape: (height or None, width or None, channels) of a picture.
        input_dtype: "uint8", or "float32" for a model that takes fractions of grey levels too.
        path: what was loaded; None for a model in memory.
        run: (B, H, W, C) array of `input_dtype` -> named outputs.
        model: the Keras model behind it; None for files without a graph of layers.
        facts: what callers found out about it and want to keep as long as it lives.
    """

    kind: str
    metadata: Metadata
    input_shape: InputShape
    input_dtype: str
    path: Path | None
    run: Callable[[np.ndarray], Outputs]
    model: keras.Model | None = field(default=None, repr=False)
    facts: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, images: np.ndarray) -> Outputs:
        """Outputs by name for a batch of pictures. Several threads may call at a time.

        Args:
            images: (B, H, W, C), uint8 or float in 0..255. A model exported for uint8 rounds fractions.

        Raises:
            PictureError: (a ModelError) the model does not take pictures of this shape, or failed on them.
        """
        images = np.asarray(images)
        expected = (None, *self.input_shape)
        fits = images.ndim == 4 and all(e in (None, s) for e, s in zip(expected, images.shape, strict=True))
        if not fits or not len(images):
            raise PictureError(
                f"{self.path or 'The model'} takes pictures of shape {_shape_text(expected)}. Received: an array of "
                f"shape {images.shape}. Resize the pictures, or add the batch axis with images[None]."
            )
        if self.input_dtype == "uint8" and images.dtype != np.uint8:
            images = np.clip(np.rint(images), 0, 255)
        with running(self.path, images.shape[1:3]):
            return self.run(np.ascontiguousarray(images, self.input_dtype))


def load_runner(model_or_path: keras.Model | str | os.PathLike, *, threads: int = 2, optimize: bool = False) -> Runner:
    """Makes a model callable on pictures.

    Args:
        model_or_path: a `keras.Model`, or the path of a `.keras` file, of a run folder (its `best.keras`, else its
            `last.keras`), of a SavedModel folder or of a `.tflite` file.
        threads: threads of a TensorFlow Lite interpreter. TensorFlow's own number of threads is set once for the
            process, by `tf.config.threading`.
        optimize: for Keras models: turn the weights into constants first (`freeze`), which lets TensorFlow fold batch
            normalisation into the convolutions. The fastest float32 path on a CPU; later changes of the weights have
            no effect, and each new picture size takes a second or more to prepare.

    Raises:
        ModelError: nothing there can be run; the message says what was expected.
    """
    if threads < 1:
        raise ModelError(f"`threads` must be at least 1. Received: threads={threads}")
    if isinstance(model_or_path, keras.Model):
        return _keras_runner(model_or_path, Metadata(), None, optimize)
    path = Path(model_or_path)
    if not path.exists():
        raise ModelError(f"There is no {path}. Expected {EXPECTED}.")
    metadata = read_metadata(path)
    if (path / "saved_model.pb").exists():
        return _saved_model_runner(path, metadata)
    if path.suffix == ".tflite":
        return _tflite_runner(path, metadata, threads)
    return _keras_runner(load_keras_model(path), metadata, path, optimize)


def keras_file(path: str | os.PathLike) -> Path:
    """`best.keras` (else `last.keras`) of a run folder; any other path as it is.

    Raises:
        ModelError: the folder has neither.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    found = next((file for file in (path / "best.keras", path / "last.keras") if file.is_file()), None)
    if found is None:
        raise ModelError(f"{path} holds neither best.keras, last.keras nor saved_model.pb. Expected {EXPECTED}.")
    return found


def load_keras_model(path: str | os.PathLike) -> keras.Model:
    """Loads a `.keras` file, or `best.keras` (else `last.keras`) of a run folder. Code inside a file is never run.

    Raises:
        ModelError: the file is missing, damaged, an export, or not a Keras 3 model.
    """
    path = Path(path)
    if not path.exists():
        raise ModelError(f"There is no {path}. Expected {EXPECTED}.")
    if path.suffix == ".tflite" or (path / "saved_model.pb").exists():
        raise ModelError(
            f"{path} is an export already, and holds no Keras model. Give the run folder or the `.keras` file that it "
            "was made from."
        )
    path = keras_file(path)
    if path.suffix != ".keras":
        raise ModelError(
            f"{path} is not a model that can be run. Expected {EXPECTED}. A model in another Keras format must be "
            "saved again with model.save('NAME.keras')."
        )
    # Registers the package's layers; safe mode does not import modules that a file names.
    import keras_cv_lectures.layers  # noqa: F401

    try:
        if zipfile.is_zipfile(path):
            check_h5(path)
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    # Keras raises whatever the damaged part raised: zip, JSON, HDF5 and type errors.
    except Exception as error:
        raise ModelError(
            f"{path} cannot be loaded as a Keras model ({type(error).__name__}: {first_line(error)}). The file is "
            "damaged, was written by another version of Keras, or needs a custom layer whose module was not imported. "
            "Take another checkpoint of the run (last.keras), or save the model again."
        ) from error


def tensorflow_threads() -> int:
    """Threads that an operation of TensorFlow uses in this process, which Keras models and SavedModels run with."""
    told = os.environ.get("TF_NUM_INTRAOP_THREADS", "")
    return tf.config.threading.get_intra_op_parallelism_threads() or int(told if told.isdecimal() else 0) or _cpus()


def machine() -> str:
    """What measured times belong to: "x86_64, 2 CPUs", and the GPUs where there are any."""
    gpus = len(tf.config.list_physical_devices("GPU"))
    found = {"CPU": _cpus(), "GPU": gpus}
    return ", ".join(
        [platform.machine(), *(f"{count} {name}{'s' * (count != 1)}" for name, count in found.items() if count)]
    )


def versions() -> dict[str, str]:
    """What a file or a run was made with."""
    import keras_cv_lectures  # Its name is bound by the time that this is called, not when this module is imported.

    modules = {"keras_cv_lectures": keras_cv_lectures, "tensorflow": tf, "keras": keras, "numpy": np}
    return {name: module.__version__ for name, module in modules.items()}


def _cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _keras_runner(model: keras.Model, metadata: Metadata, path: Path | None, optimize: bool) -> Runner:
    input_shape = _picture_shape(declared_shape(model, path), path or model.name)
    functions: OrderedDict[tuple, Callable[[tf.Tensor], Outputs]] = OrderedDict()
    lock = threading.Lock()

    def prepare(shape: tuple[int, ...]) -> Callable[[tf.Tensor], Outputs]:
        if not optimize:
            concrete = serving_function(model).get_concrete_function(tf.TensorSpec(shape, "float32", name="image"))
            return lambda x: {name: value.numpy() for name, value in concrete(x).items()}
        frozen = freeze(model, shape)
        return lambda x: {k: v.numpy() for k, v in zip(frozen.output_names, frozen(x), strict=True)}

    def run(images: np.ndarray) -> Outputs:
        with lock:
            if images.shape not in functions:
                functions[images.shape] = prepare(images.shape)
            functions.move_to_end(images.shape)
            if len(functions) > _KEPT_SHAPES:
                functions.popitem(last=False)
            function = functions[images.shape]
        return function(tf.constant(images))

    return Runner(
        kind="keras",
        metadata=metadata,
        input_shape=input_shape,
        input_dtype="float32",
        path=path,
        run=run,
        model=model,
    )


def _saved_model_runner(path: Path, metadata: Metadata) -> Runner:
    try:
        loaded = tf.saved_model.load(str(path))
    # A damaged protocol buffer, a missing variable file, a missing custom operator: each has its own exception type.
    except Exception as error:
        raise ModelError(
            f"{path} cannot be loaded as a SavedModel ({type(error).__name__}: {first_line(error)}). "
            "Export it again with kcvl export --format saved_model."
        ) from error
    key = _whole_answer(loaded.signatures)
    if key is None:
        raise ModelError(
            f"{path} has no signature {SIGNATURE!r}, only {sorted(loaded.signatures)}. "
            "Export it again with kcvl export --format saved_model."
        )
    function = loaded.signatures[key]
    inputs = function.structured_input_signature[1]
    if len(inputs) != 1:
        raise ModelError(f"{path} takes {len(inputs)} inputs; expected one picture. Export one with one input.")
    (name, spec), *_ = inputs.items()

    def run(images: np.ndarray, _keep_alive=loaded) -> Outputs:
        batches = [images] if spec.shape[0] in (None, len(images)) else np.split(images, len(images))
        results = [{k: v.numpy() for k, v in function(**{name: tf.constant(b)}).items()} for b in batches]
        return _joined(results)

    return Runner(
        kind="saved_model",
        metadata=metadata,
        input_shape=_picture_shape(tuple(spec.shape) if spec.shape.rank else spec.shape, path),
        input_dtype=spec.dtype.name,
        path=path,
        run=run,
    )


def _tflite_runner(path: Path, metadata: Metadata, threads: int) -> Runner:
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_path=str(path), num_threads=threads)
        if len(interpreter.get_signature_list()) > 1:
            return _signature_runner(interpreter, path, metadata)
        names = _output_indices(interpreter)
        inputs = interpreter.get_input_details()
        if all(size > 0 for size in inputs[0]["shape_signature"]):
            interpreter.allocate_tensors()
    # A damaged file makes the interpreter and what binds it to Python raise almost anything.
    except Exception as error:
        raise ModelError(
            f"{path} cannot be run as a TensorFlow Lite file of builtin operators ({first_line(error)}). "
            "Export it again with kcvl export --format tflite."
        ) from error
    if len(inputs) != 1 or inputs[0]["dtype"] not in (np.uint8, np.float32):
        found = [(d["name"], np.dtype(d["dtype"]).name) for d in inputs]
        raise ModelError(f"{path} takes {found}; expected one uint8 or float32 picture. Export it with kcvl export.")
    index = inputs[0]["index"]
    signature = tuple(None if s < 0 else int(s) for s in inputs[0]["shape_signature"])
    current = None if None in signature else signature
    # An interpreter has one place for the picture, and between that and the answer nobody else may use it.
    lock = threading.Lock()

    def run_once(images: np.ndarray) -> Outputs:
        nonlocal current
        if images.shape != current:
            current = None
            interpreter.resize_tensor_input(index, images.shape)
            try:
                interpreter.allocate_tensors()
            except RuntimeError as error:
                raise PictureError(
                    f"{path} cannot take a picture of {images.shape[1]}x{images.shape[2]} pixels "
                    f"({first_line(error)}). Resize the picture, or export the model with that input_shape."
                ) from error
            current = images.shape
        interpreter.set_tensor(index, images)
        interpreter.invoke()
        return {name: interpreter.get_tensor(i) for name, i in names.items()}

    def run(images: np.ndarray) -> Outputs:
        with lock:
            return _joined([run_once(images[i : i + 1]) for i in range(len(images))])

    return Runner(
        kind="tflite",
        metadata=metadata,
        input_shape=_picture_shape(signature, path),
        input_dtype=np.dtype(inputs[0]["dtype"]).name,
        path=path,
        run=run,
    )


def _signature_runner(interpreter, path: Path, metadata: Metadata) -> Runner:
    """One signature of a TensorFlow Lite file that has several, such as a captioner's, which has its steps too."""
    signatures = interpreter.get_signature_list()
    key = _whole_answer(signatures)
    details = interpreter.get_signature_runner(key).get_input_details() if key else {}
    if len(details) != 1 or (detail := next(iter(details.values())))["dtype"] not in (np.uint8, np.float32):
        found = {name: list(each["inputs"]) for name, each in signatures.items()}
        raise ModelError(
            f"{path} has the signatures {found}; expected {', '.join(_WHOLE_ANSWERS)}, one of which takes one uint8 or "
            "float32 picture. Export it with kcvl export, or run it with its own program."
        )
    call = interpreter.get_signature_runner(key)
    lock = threading.Lock()

    def run(images: np.ndarray) -> Outputs:
        with lock:
            return _joined([call(**{next(iter(details)): images[i : i + 1]}) for i in range(len(images))])

    return Runner(
        kind="tflite",
        metadata=metadata,
        input_shape=_picture_shape(tuple(None if s < 0 else int(s) for s in detail["shape_signature"]), path),
        input_dtype=np.dtype(detail["dtype"]).name,
        path=path,
        run=run,
    )


def _whole_answer(signatures: Iterable[str]) -> str | None:
    """The signature to run."""
    return next((key for key in _WHOLE_ANSWERS if key in signatures), None)


def _output_indices(interpreter) -> dict[str, int]:
    """Output name -> tensor index: the signature's names, or the tensors' own in a file without signature."""
    signatures = interpreter.get_signature_list()
    if not signatures:
        return {d["name"]: d["index"] for d in interpreter.get_output_details()}
    details = interpreter.get_signature_runner(next(iter(signatures))).get_output_details()
    return {name: d["index"] for name, d in details.items()}


def _picture_shape(shape, owner) -> InputShape:
    """(H, W, C) of a (B, H, W, C) input, or a ModelError."""
    if not isinstance(shape, tuple) or len(shape) != 4 or not isinstance(shape[3], int):
        raise ModelError(
            f"{owner} takes an input of shape {shape}; expected one picture (batch, height, width, channels). "
            "Run it with its own framework."
        )
    return tuple(shape[1:])


def _joined(results: list[Outputs]) -> Outputs:
    if len(results) == 1:
        return results[0]
    return {name: np.concatenate([r[name] for r in results]) for name in results[0]}


def _shape_text(shape) -> str:
    return "(" + ", ".join("any" if s is None else str(s) for s in shape) + ")"
