"""State dicts of PyTorch <-> models whose layers are named after torchvision's modules.

A layer named `layer1.0.conv1` in a nested model named `backbone` takes the tensors `backbone.layer1.0.conv1.*`. Kernels
change their layout by the type of the layer; nothing here knows a network.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np

from keras_cv_lectures.errors import KcvlWarning, ModelError
from keras_cv_lectures.weights.keras_applications import adapt_first_kernel
from keras_cv_lectures.weights.pth import read_torch

# The layers that score the classes, which are other classes in another data set.
HEAD = (
    "classifier.4",
    "aux_classifier.4",
    "segmentation_head.0",
    "roi_heads.box_predictor.*",
    "roi_heads.mask_predictor.mask_fcn_logits",
    "roi_heads.keypoint_predictor.*",
)
# What a model may lack although the file has it: the auxiliary head, and the classifier of a ResNet.
IGNORE = ("aux_classifier.", "fc.")
# The layers of VGG16 under their names in Caffe, and where torchvision keeps them.
VGG16_NAMES = {
    "conv1_1": "features.0",
    "conv1_2": "features.2",
    "conv2_1": "features.5",
    "conv2_2": "features.7",
    "conv3_1": "features.10",
    "conv3_2": "features.12",
    "conv3_3": "features.14",
    "conv4_1": "features.17",
    "conv4_2": "features.19",
    "conv4_3": "features.21",
    "conv5_1": "features.24",
    "conv5_2": "features.26",
    "conv5_3": "features.28",
    "fc6": "classifier.0",
    "fc7": "classifier.3",
    "fc8": "classifier.6",
}
# Detection files of 2019 have older names: (pattern, replacement).
_LEGACY = (
    (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
    (r"\bfpn\.(inner_blocks|layer_blocks)\.(\d+)\.(weight|bias)$", r"fpn.\1.\2.0.\3"),
    (r"^roi_heads\.mask_head\.mask_fcn(\d)\.", lambda match: f"roi_heads.mask_head.{int(match[1]) - 1}.0."),
)
# How files may begin their names: a whole segmentation network, the convolutions of a classifier.
_PREFIXES = ("", "backbone.", "features.")
_SUFFIXES = {
    "kernel": "weight",
    "gamma": "weight",
    "bias": "bias",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def load_torch(
    model: keras.Model,
    source: str | os.PathLike | Mapping[str, np.ndarray],
    *,
    prefix: str | None = None,
    head: Sequence[str] = HEAD,
    ignore: Sequence[str] = IGNORE,
    new: Sequence[str] = (),
    names: Mapping[str, str] | None = None,
) -> None:
    """Gives `model` the weights of a state dict: all of them, or, where something does not fit, none and an error.

    Args:
        model: its layers are named after the modules of the torch network; the layers of a nested model have that
            model's name and a dot before theirs.
        source: path of a `.pth`, `.pt` or `.safetensors` file, or the tensors by name.
        prefix: what stands before the layers' names in the file; tensors without it belong to other parts and are
            left alone. None: "", "backbone." or "features.", whichever fits most layers.
        head: patterns (`fnmatch`) of layers that may have another number of classes than the file: they keep their
            values and a warning names them.
        ignore: beginnings of tensor names that the model may lack.
        new: patterns of layers that the file need not have: they keep their values.
        names: module path by layer name where the two differ, such as `VGG16_NAMES`.

    A first kernel for other than three channels is adapted (see `adapt_first_kernel`). A linear layer's matrix fits a
    convolution over the whole of its input, as FCN's fc6.

    Raises:
        ModelError: the file cannot be read, a layer finds no tensor or one of another shape, or tensors are left over.
    """
    state = dict(source) if isinstance(source, Mapping) else read_torch(source)
    what = "the state dict" if isinstance(source, Mapping) else os.fspath(source)
    state = _current_names(_without_wrapper(state))
    slots = list(_slots(model, names or {}))
    if prefix is None:
        prefix = max(_PREFIXES, key=lambda p: sum(f"{p}{slot.key}" in state for slot in slots))
    plan, used, problems, kept = [], set(), [], set()
    first = next((slot for slot in slots if slot.kind == "kernel" and len(slot.shape) == 4), None)
    for slot in slots:
        key = prefix + slot.key
        if key not in state:
            if not slot.matches(new):
                problems.append(f"{slot.path} finds no {key}")
            continue
        used.add(key)
        value = slot.from_torch(np.asarray(state[key]))
        if slot is first and value is not None and _differs_in_channels(value.shape, slot.shape):
            value = adapt_first_kernel(value, slot.shape[2])
        if value is not None and value.shape == slot.shape:
            plan.append((slot, value))
        elif slot.matches(head) and value is not None and slot.differs_in_outputs_only(value.shape):
            kept.add(slot.module)
        else:
            problems.append(f"{slot.path} has shape {slot.shape}, {key} has {np.shape(state[key])} in torch's layout")
    left = [key for key in state if key not in used and key.startswith(prefix) and not _may_be_left(key, ignore)]
    problems += [f"{key} has no layer" for key in left]
    if problems or not plan:
        raise ModelError(_refusal(model, what, problems, len(plan), len(slots)))
    for slot, value in plan:
        # A head whose kernel stays as it was keeps its bias, too.
        if slot.module not in kept:
            slot.variable.assign(value)
    if kept:
        warnings.warn(
            f"{os.path.basename(what)} has other shapes for {sorted(kept)}: these keep their initial values.",
            KcvlWarning,
            stacklevel=2,
        )


def to_torch_state(
    model: keras.Model, *, prefix: str = "", names: Mapping[str, str] | None = None
) -> dict[str, np.ndarray]:
    """The model's weights as the state dict that `load_torch` would take them from, in torch's layouts, float32.

    Counters (`num_batches_tracked`) are left out; torch fills them in.

    Raises:
        ModelError: a layer with weights has no counterpart in torch.
    """
    return {
        f"{prefix}{slot.key}": slot.to_torch(keras.ops.convert_to_numpy(slot.variable).astype("float32"))
        for slot in _slots(model, names or {})
    }


@dataclasses.dataclass(frozen=True)
class _Slot:
    """A variable of a layer and its place in the state dict."""

    layer: keras.layers.Layer
    variable: keras.Variable
    kind: str
    module: str

    @property
    def key(self) -> str:
        return f"{self.module}.{_SUFFIXES[self.kind]}"

    @property
    def path(self) -> str:
        return f"{self.module}/{self.kind}"

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.variable.shape)

    def matches(self, patterns: Sequence[str]) -> bool:
        return any(fnmatch.fnmatchcase(name, p) for name in (self.module, self.layer.name) for p in patterns)

    def differs_in_outputs_only(self, shape: tuple[int, ...]) -> bool:
        """Whether a value of `shape`, in Keras's layout, would fit a layer of another number of outputs."""
        transposed = self.kind == "kernel" and isinstance(self.layer, keras.layers.Conv2DTranspose)
        outputs = len(self.shape) - (2 if transposed else 1)
        sides = enumerate(zip(shape, self.shape, strict=False))
        return len(shape) == len(self.shape) and all(a == b for axis, (a, b) in sides if axis != outputs)

    def from_torch(self, value: np.ndarray) -> np.ndarray | None:
        """The tensor in Keras's layout, or None where its number of axes fits no layout of the layer."""
        if self.kind != "kernel":
            return value
        layer, axes = self.layer, value.ndim
        if isinstance(layer, keras.layers.Dense):
            # Squeeze-and-excitation is written with 1x1 convolutions as well as with dense layers.
            return value.reshape(value.shape[:2]).T if value.shape[2:] in ((), (1, 1)) and axes >= 2 else None
        if axes == 2 and isinstance(layer, keras.layers.Conv2D):
            # torch flattens (C, H, W): the matrix of a linear layer over a whole map is a kernel of the map's size.
            height, width, channels, _ = self.shape
            if value.shape[1] != height * width * channels:
                return None
            value = value.reshape(len(value), channels, height, width)
        if value.ndim != 4:
            return None
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            _, _, channels, multiplier = self.shape
            if value.shape[:2] != (channels * multiplier, 1):
                return None
            return value.reshape(channels, multiplier, *value.shape[2:]).transpose(2, 3, 0, 1)
        # (out, in, h, w) -> (h, w, in, out); a transposed convolution has in and out exchanged on both sides.
        return value.transpose(2, 3, 1, 0)

    def to_torch(self, value: np.ndarray) -> np.ndarray:
        if self.kind != "kernel":
            return value
        if isinstance(self.layer, keras.layers.Dense):
            return np.ascontiguousarray(value.T)
        if isinstance(self.layer, keras.layers.DepthwiseConv2D):
            height, width, channels, multiplier = value.shape
            return value.transpose(2, 3, 0, 1).reshape(channels * multiplier, 1, height, width)
        return np.ascontiguousarray(value.transpose(3, 2, 0, 1))


_WITH_KERNEL = (keras.layers.Conv2D, keras.layers.Conv2DTranspose, keras.layers.DepthwiseConv2D, keras.layers.Dense)
_WITH_SCALE = (keras.layers.BatchNormalization, keras.layers.LayerNormalization, keras.layers.GroupNormalization)


def _slots(model: keras.Model, names: Mapping[str, str], prefix: str = "") -> Iterator[_Slot]:
    """Every variable of the model in the order of the layers, nested models opened."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _slots(layer, names, f"{prefix}{layer.name}.")
        elif layer.weights:
            if not isinstance(layer, _WITH_KERNEL + _WITH_SCALE):
                raise ModelError(
                    f"layer {layer.name!r} of model {model.name!r} is a {type(layer).__name__}, which has no "
                    "counterpart in a state dict of PyTorch."
                )
            for variable in layer.weights:
                yield _Slot(layer, variable, variable.name, names.get(layer.name, prefix + layer.name))


def _without_wrapper(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The names as they are without `DataParallel`, which puts "module." before each."""
    if state and all(key.startswith("module.") for key in state):
        return {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _current_names(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    def current(key: str) -> str:
        for pattern, replacement in _LEGACY:
            key = re.sub(pattern, replacement, key)
        return key

    return {current(key): value for key, value in state.items()}


def _may_be_left(key: str, ignore: Sequence[str]) -> bool:
    return key.endswith("num_batches_tracked") or key.startswith(tuple(ignore))


def _differs_in_channels(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[2] == 3 != wanted[2] and shape[:2] + shape[3:] == wanted[:2] + wanted[3:]


def _refusal(model: keras.Model, what: str, problems: list[str], fitting: int, wanted: int) -> str:
    shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
    return (
        f"`weights` {what} does not fit the model {model.name!r} ({fitting} of {wanted} variables found): {shown}. "
        "Build the model with the architecture and the settings that the weights are for. Nothing was changed."
    )
