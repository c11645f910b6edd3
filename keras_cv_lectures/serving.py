"""What is served of a model: its serving function, that function with constant weights, and what it costs."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_cv_lectures.errors import DataError, ModelError, PictureError
from keras_cv_lectures.postprocessing.segmentation import serving_outputs


@contextlib.contextmanager
def running(owner: str | os.PathLike | None, size: Sequence[int]) -> Iterator[None]:
    """Around a call of a model: what TensorFlow and TensorFlow Lite raise there becomes a `PictureError`.

    Args:
        owner: path of the model; None for one in memory.
        size: (height, width) of the pictures.

    Raises:
        PictureError: the call failed. This package's errors, and what is not the picture's fault, such as
            `tf.errors.ResourceExhaustedError`, pass as they are.
    """
    try:
        yield
    except (DataError, ModelError):
        raise
    # Not of full memory, or of a device or a worker that is lost: the next picture would fail as well.
    except (RuntimeError, ValueError, tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
        raise PictureError(
            f"{owner or 'The model'} failed while it ran on a picture of {size[0]}x{size[1]} pixels "
            f"({first_line(error)}). If it takes any size, resize the picture (multiples of 32 suit most networks), or "
            "predict a segmentation with `tile` (--tile). If no size works, save the model or export it again."
        ) from error


def first_line(error: BaseException) -> str:
    """What happened, in at most 300 characters of an error's message."""
    # Keras tells first, at length, where it was, and then what happened there; in bold, of a call.
    text = str(error).rpartition("Exception encountered: ")[2].rpartition("\x1b[1m")[2].partition("\x1b[0m")[0].strip()
    if isinstance(error, tf.errors.OpError):
        # TensorFlow does so, too, and names the node behind it.
        text = text.partition("\n\t [[")[0].rpartition("\n")[2].rpartition("}} ")[2]
    text = text.partition(" for '{{node")[0]
    return text.splitlines()[0][:300] if text else "no details"


def declared_shape(model: keras.Model, owner: str | os.PathLike | None = None) -> Any:
    """The shape of a model's input: of one picture (B or None, H or None, W or None, C).

    Args:
        owner: path of the model, for the message.

    Raises:
        ModelError: it has none: a `keras.Sequential` without input, or a subclass of `keras.Model` with its own `call`.
    """
    shape = getattr(model, "input_shape", None)
    if shape is None:
        raise ModelError(
            f"{owner or model.name} does not say which pictures it takes. Build the model with keras.Input: "
            "keras.Model(inputs, outputs), or keras.Sequential([keras.Input((None, None, 3)), ...])."
        )
    return shape


def require_tensorflow(what: str) -> None:
    """Says that `what` needs the TensorFlow backend, where Keras runs on another.

    Raises:
        ModelError: it does.
    """
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ModelError(
            f"{what} needs the TensorFlow backend of Keras, and this process runs on {backend}. Save the model as a "
            ".keras file, and open it in a process with KERAS_BACKEND=tensorflow."
        )


def serving_function(model: keras.Model):
    require_tensorflow("Predicting with a runner, and exporting,")
    # Of a Sequential, which names no outputs, the last layer's name is that of its output.
    name = (getattr(model, "output_names", None) or [model.layers[-1].name])[0]

    def serve(image):
        return serving_outputs(model(tf.cast(image, "float32"), training=False), name)

    return tf.function(serve, autograph=False)


def freeze(model: keras.Model, input_shape: tuple[int | None, ...], *, dtype: str = "float32"):
    """Serving function of a model with its weights as constants.

    TensorFlow then folds batch normalisation into the convolutions, fuses bias, shortcut and ReLU, and prepares the
    weights for oneDNN once instead of at every call.

    Args:
        input_shape: (B or None, H or None, W or None, C) of the batch.
        dtype: "float32" or "uint8", of the pictures.

    Returns:
        A concrete function: tensor of `dtype` -> list of the outputs of `serving_outputs`, in the order of their
        sorted names; its attribute `output_names` has the names.

    Raises:
        ModelError: the model changes a variable while it predicts.
    """
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2_as_graph

    concrete = serving_function(model).get_concrete_function(tf.TensorSpec(input_shape, dtype, name="image"))
    refuse_changes(concrete, model.name)
    # Constants have no gradients. Left in, gradients of our own make TensorFlow warn whenever it loads the graph.
    for node in _nodes(concrete.graph):
        if "_gradient_op_type" in node.node_def.attr:
            node._clear_attr("_gradient_op_type")
    constant, graph = convert_variables_to_constants_v2_as_graph(concrete)
    _name_biases(graph, constant.graph)
    (given,), answers = constant.inputs, [tensor.name for tensor in constant.outputs]
    del constant  # It holds a copy of all weights, and so does the message, which the function would keep.
    frozen = tf.compat.v1.wrap_function(
        lambda image: tf.graph_util.import_graph_def(graph, {given.name: image}, answers, name=""),
        [tf.TensorSpec(input_shape, dtype, name="image")],
    )
    graph.Clear()
    frozen.output_names = sorted(concrete.structured_outputs)
    return frozen


def _name_biases(graph: tf.compat.v1.GraphDef, shapes: tf.Graph) -> None:
    """Makes `AddV2` of a picture and a vector of its channels `BiasAdd`, which is the same sum.

    Where a residual network adds a shortcut, TensorFlow otherwise makes one sum of bias and shortcut, which it cannot
    fuse into the convolution. As a bias it fuses both, and the ReLU behind them.
    """
    sums = {op.name: op.inputs for op in shapes.get_operations() if op.type == "AddV2"}  # none that nothing needs
    for node in graph.node:
        if node.name in sums and tf.as_dtype(node.attr["T"].type).is_floating:
            picture, vector = (tensor.shape for tensor in sums[node.name])
            if picture.rank == 4 and vector.rank == 1 and picture[-1] is not None and picture[-1] == vector[0]:
                node.op = "BiasAdd"


def refuse_changes(concrete, owner: str) -> None:
    """Raises ModelError where a concrete function changes a variable; `owner` is the model's name."""
    changing = sorted({op.name.rpartition("/")[0] for op in _nodes(concrete.graph) if "Assign" in op.type})
    if changing:
        raise ModelError(
            f"{owner} changes variables while it predicts (in {', '.join(changing)}), so its weights cannot "
            "become constants. Remove layers that draw random numbers or keep a state at inference."
        )


def gflops(model: keras.Model, input_shape: tuple[int, int, int] | tuple[int, int], *, loop_steps: int = 1) -> float:
    """Billions of floating-point operations a picture: twice the multiply-adds of convolutions and matrix products.

    Counted on the graph with that picture size, so padding inside the model and nested models are included.
    Normalisation, activations and pooling count nothing.

    Args:
        input_shape: (height, width) or (height, width, channels), all known.
        loop_steps: how often the body of a loop counts: of a captioner, the words of its sentence.
    """
    shape = (1, *input_shape[:2], declared_shape(model)[-1])
    # Not the frozen graph: freezing forgets some shapes.
    graph = serving_function(model).get_concrete_function(tf.TensorSpec(shape, "float32", name="image")).graph
    once = sum(_operations(node) for node in _nodes(graph))
    return (once + loop_steps * sum(_operations(node) for body in _bodies(graph) for node in _nodes(body))) / 1e9


def _operations(node: tf.Operation) -> int:
    """Floating-point operations of one graph node."""

    def size(tensor) -> int:
        return math.prod(int(d) for d in tensor.shape)

    if node.type == "Conv2D":
        *window, channels, _ = node.inputs[1].shape  # channels of one group
        return 2 * size(node.outputs[0]) * math.prod(window) * channels
    if node.type == "Conv3D":
        return 2 * size(node.outputs[0]) * math.prod(node.inputs[1].shape[:-1])
    if node.type == "DepthwiseConv2dNative":
        return 2 * size(node.outputs[0]) * math.prod(node.inputs[1].shape[:2])
    if node.type == "Conv2DBackpropInput":  # transposed convolution: each input element meets the whole kernel
        return 2 * size(node.inputs[2]) * math.prod(node.inputs[1].shape[:3])
    if node.type in ("MatMul", "BatchMatMulV2"):
        transposed = node.get_attr("transpose_a" if node.type == "MatMul" else "adj_x")
        return 2 * size(node.outputs[0]) * int(node.inputs[0].shape[-2 if transposed else -1])
    return 0


def _nodes(graph: tf.Graph) -> Iterator[tf.Operation]:
    """Nodes of a graph and of the functions that it calls: Keras wraps grouped convolutions in one."""
    for node in graph.get_operations():
        if node.type in ("PartitionedCall", "StatefulPartitionedCall"):
            yield from _nodes(graph._get_function(node.get_attr("f").name).graph)
        else:
            yield node


def _bodies(graph: tf.Graph) -> Iterator[tf.Graph]:
    """What the loops of a graph do at each step; loops within loops too."""
    for node in _nodes(graph):
        if node.type in ("While", "StatelessWhile"):
            body = node.graph._get_function(node.get_attr("body").name).graph
            yield body
            yield from _bodies(body)
