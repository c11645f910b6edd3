"""Weights of "Show, Attend and Tell" from elsewhere -> our decoder: the authors' code, and the PyTorch tutorial.

Both know other ids for their words. A file's rows and columns are put into the order of `text.Vocabulary`, so the
vocabulary that goes with a file is made here, too.

* arctic-captions (https://github.com/kelvinxu/arctic-captions): a `.npz` of arrays, for `variant="paper"`.
* a-PyTorch-Tutorial-to-Image-Captioning (https://github.com/sgrvinod): the decoder's state dict, as `.pth`,
  `.safetensors` or `.npz`, for `variant="tutorial"`. What the tutorial publishes are pickled modules: load these with
  its own code once, and `torch.save(checkpoint["decoder"].state_dict(), PATH)`.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cv_lectures.errors import DataError, ModelError
from keras_cv_lectures.files import read_json
from keras_cv_lectures.text import SPECIAL_WORDS, Vocabulary
from keras_cv_lectures.weights.pth import TORCH_SUFFIXES, read_torch

CAPTION_SUFFIXES = (*TORCH_SUFFIXES, ".npz")
# In the place of a word that a file does not have.
_NO_WORD = -1
# The bias of such a word: no softmax gives it anything.
_NEVER = -100.0
# Trained numbers hardly compress; what would grow further than this is made to fill the memory.
_SMALL, _DENSEST = 2**26, 32
# An array of the model, and what the file says it is.
Slot = tuple[str, Any, np.ndarray]


def load_caption_weights(
    model: keras.Model,
    source: str | os.PathLike | Mapping[str, np.ndarray],
    *,
    order: Sequence[int] | None = None,
    halved: bool = True,
) -> None:
    """Gives a captioner's decoder the weights of a file: all of them, or, where something does not fit, none.

    The score's bias is left out, because a softmax takes no notice of it. The encoder stays as it is: VGG-19 of
    `backbone_weights="imagenet"` with `annotation_stage="c4"`, the default, is arctic-captions' conv5_4 (14x14 places
    of a 224x224 picture). The tutorial's is `backbone="resnet101_v1_5"` with its own `backbone_weights`,
    `annotation_stage="c5"` and `annotation_grid=(14, 14)`, for pictures of 256x256.

    Args:
        model: of `build_show_attend_tell`, with the variant and the widths that the file has.
        source: path of the file, or its arrays by name.
        order: for each of the model's words the file's id, -1 for a word that the file does not have. None: the ids of
            arctic-captions (0 end, 1 unknown, then words; there is no start, which is a vector of zeros) or those of
            the tutorial (0 padding, words, then unknown, start, end).
        halved: of arctic-captions: it was trained with dropout (its default), which there halves what passes outside
            training instead of doubling it in training.

    Raises:
        ModelError: the file cannot be read or is neither of the two, the model has another form, or an array is
            missing, left over or of another shape. Nothing was changed.
    """
    what = "the arrays" if isinstance(source, Mapping) else f"file {os.fspath(source)}"
    arrays = dict(source) if isinstance(source, Mapping) else read_arrays(source)
    decoder = getattr(model, "decoder", None)
    if getattr(decoder, "kind", None) not in ("soft", "hard", "mean"):
        raise ModelError(f"`weights` {what}: {model.name!r} has no decoder with attention, which these files are for.")
    attention = _tutorial_prefix(arrays)
    if "Wemb" in arrays:
        form, variant = _Arctic(arrays, halved), "paper"
    elif attention is not None:
        form, variant = _Tutorial(arrays, attention), "tutorial"
    else:
        raise ModelError(
            f"`weights` {what} is of no captioner known here: expected the arrays of arctic-captions (Wemb, decoder_U, "
            "...) or the state dict of the tutorial's decoder (attention.encoder_att.weight, ...). It has "
            f"{', '.join(list(arrays)[:5]) or 'nothing'}."
        )
    if _form_of(decoder) != form.form:
        raise ModelError(f'`weights` {what} is for variant="{variant}", and {model.name!r} is another. Build it so.')
    rows = form.order() if order is None else [int(i) for i in order]
    problems = form.wrong_outputs() or _wrong_words(rows, form.words, decoder.vocabulary_size, order is not None)
    slots: list[Slot] = []
    if not problems:
        for name, variable, value in form.slots(decoder, rows):
            if value is None:
                problems.append(f"{name} is missing")
            elif tuple(variable.shape) != value.shape:
                problems.append(f"{name} has shape {value.shape} in Keras's layout, the model {tuple(variable.shape)}")
            slots.append((name, variable, value))
        problems += [f"{name} has no place in the model" for name in form.left()]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise ModelError(f"`weights` {what} does not fit the model {model.name!r}: {shown}. Nothing was changed.")
    for _, variable, value in slots:
        variable.assign(np.asarray(value, "float32"))


def arctic_vocabulary(words: Mapping[str, int] | Sequence[str], size: int | None = None) -> Vocabulary:
    """The vocabulary that goes with a file of arctic-captions.

    Args:
        words: its dictionary (word -> id, from 2 on), or the words in that order.
        size: `n_words` of its options, end and unknown word included: words beyond are unknown.

    Raises:
        DataError: ids are missing or occur twice, or what is given are no words.
    """
    if isinstance(words, Mapping):
        words = _in_order({word: number for word, number in words.items() if number >= 2}, 2, "the dictionary")
    return Vocabulary((*SPECIAL_WORDS, *list(words)[: None if size is None else size - 2]))


def tutorial_vocabulary(word_map: Mapping[str, int] | str | os.PathLike) -> Vocabulary:
    """The vocabulary that goes with a file of the tutorial.

    Args:
        word_map: `WORDMAP_....json`, or what it holds: word -> id, `<pad>` 0, then words, then `<unk>`, `<start>` and
            `<end>`.

    Raises:
        DataError: the file cannot be read, or the ids are in another order.
    """
    name = "the word map"
    if not isinstance(word_map, Mapping):
        name = os.fspath(word_map)
        word_map = read_json(word_map, repair="Give the tutorial's WORDMAP file.")
    if not (isinstance(word_map, Mapping) and all(type(number) is int for number in word_map.values())):
        raise DataError(f"{name} is no word map: expected a number for each word.")
    words = _in_order(word_map, 0, name)
    if words[:1] != ["<pad>"] or words[-3:] != ["<unk>", "<start>", "<end>"]:
        raise DataError(f"{name} must begin with <pad> and end with <unk>, <start>, <end>, not with {words[-3:]}.")
    return Vocabulary((*SPECIAL_WORDS, *words[1:-3]))


def is_captioner(model: keras.Model) -> bool:
    """Whether the model has a decoder whose weights may come from elsewhere."""
    return hasattr(getattr(model, "decoder", None), "vocabulary_size")


def read_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` file or a state dict by name; nothing in the file is run.

    Raises:
        ModelError: the file is absent or damaged, or holds anything but numbers.
    """
    path = Path(path)
    if path.suffix in TORCH_SUFFIXES:
        return read_torch(path)
    try:
        claimed = 0
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                claimed += entry.file_size
        if claimed > max(_SMALL, _DENSEST * path.stat().st_size):
            raise ValueError(f"it claims {claimed:,} bytes of arrays, which no file of its size holds")
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    # What zipfile, zlib, NumPy and Python's parser raise over bytes that make no sense is not one family.
    except Exception as error:
        told = str(error) or type(error).__name__
        raise ModelError(f"`weights` file {path} cannot be read as arrays of numbers: {told}") from error
    # What is no .npy file in the archive comes as bytes.
    others = [name for name, array in arrays.items() if getattr(array, "dtype", np.dtype("O")).kind not in "fiub"]
    if others:
        raise ModelError(f"`weights` file {path} holds something else than numbers as {', '.join(others[:5])}.")
    return arrays


class _Form:
    """Arrays by name, and what was taken of them."""

    # The arrays with a word for each step along an axis, beside the embedding.
    outputs: tuple[tuple[str, int], ...] = ()

    def __init__(self, arrays: Mapping[str, np.ndarray], words: str):
        self.arrays, self.used = arrays, set()
        self.words = int(arrays[words].shape[0]) if arrays[words].ndim == 2 else 0

    def take(self, name: str) -> np.ndarray | None:
        self.used.add(name)
        return self.arrays.get(name)

    def wrong_outputs(self) -> list[str]:
        shapes = {name: (self.arrays[name].shape, axis) for name, axis in self.outputs if name in self.arrays}
        return [
            f"{name} has shape {shape}, and the embedding has {self.words} words"
            for name, (shape, axis) in shapes.items()
            if len(shape) <= axis or shape[axis] != self.words
        ]

    def left(self) -> list[str]:
        return [name for name in self.arrays if name not in self.used]


class _Arctic(_Form):
    """The arrays of arctic-captions: matrices as in Keras, gates i, f, o, g."""

    form = ("deep", "scalar", "tanh", "tanh")
    outputs = (("ff_logit_W", 1), ("ff_logit_b", 0))

    def __init__(self, arrays: Mapping[str, np.ndarray], halved: bool):
        super().__init__(arrays, "Wemb")
        # Dropout there is not inverted: the layers behind it get half of what passes.
        self.factor = 0.5 if halved else 1.0
        self.used |= {"decoder_c_tt", "history_errs"}

    def order(self) -> list[int]:
        return [_NO_WORD, _NO_WORD, 0, 1, *range(2, self.words)]

    def slots(self, decoder, rows) -> Iterator[Slot]:
        def dense(layer, name, factor=1.0):
            yield f"{name}_W", layer.kernel, _scaled(self.take(f"{name}_W"), factor)
            yield f"{name}_b", layer.bias, self.take(f"{name}_b")

        yield "Wemb", decoder.embedding.embeddings, _rows(self.take("Wemb"), rows)
        for k, layer in enumerate(decoder.begin_layers, 1):
            # From the second on they stand behind a dropout.
            yield from dense(layer, f"ff_init_{k}", self.factor if k > 1 else 1.0)
        behind = self.factor if decoder.begin_layers else 1.0
        yield from dense(decoder.begin_hidden, "ff_state", behind)
        yield from dense(decoder.begin_cell, "ff_memory", behind)
        for name, variable in (
            ("decoder_W", decoder.word_kernel),
            ("decoder_Wc", decoder.context_kernel),
            ("decoder_U", decoder.recurrent_kernel),
            ("decoder_b", decoder.bias),
        ):
            yield name, variable, _gates_ifgo(self.take(name))
        attention = decoder.attention
        first, *others = attention.annotation_layers
        yield "decoder_Wc_att", first.kernel, self.take("decoder_Wc_att")
        yield "decoder_b_att", first.bias, self.take("decoder_b_att")
        for k, layer in enumerate(others, 1):
            yield f"decoder_W_att_{k}", layer.kernel, self.take(f"decoder_W_att_{k}")
            yield f"decoder_b_att_{k}", layer.bias, self.take(f"decoder_b_att_{k}")
        yield "decoder_Wd_att", attention.query_layer.kernel, self.take("decoder_Wd_att")
        yield "decoder_U_att", attention.score, _flat(self.take("decoder_U_att"))
        yield "decoder_W_sel", decoder.gate.kernel, self.take("decoder_W_sel")
        yield "decoder_b_sel", decoder.gate.bias, _flat(self.take("decoder_b_sel"))
        yield from dense(decoder.readout_state, "ff_logit_lstm", self.factor)
        yield from dense(decoder.readout_context, "ff_logit_ctx")
        yield "ff_logit_W", decoder.vocabulary.kernel, _columns(_scaled(self.take("ff_logit_W"), self.factor), rows)
        yield "ff_logit_b", decoder.vocabulary.bias, _biases(self.take("ff_logit_b"), rows)


class _Tutorial(_Form):
    """The state dict of the tutorial's decoder: matrices transposed, gates i, f, g, o, two biases."""

    form = ("plain", "vector", None, "relu")
    outputs = (("fc.weight", 0), ("fc.bias", 0))

    def __init__(self, arrays: Mapping[str, np.ndarray], prefixes: tuple[str, str]):
        prefix, self.attention = prefixes
        own = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
        if "embedding.weight" not in own:
            raise ModelError("`weights`: embedding.weight is missing. Nothing was changed.")
        super().__init__(own, "embedding.weight")
        self.cell = "cell" if "cell.weight_ih" in own else "decode_step"
        self.used.add(f"{self.attention}full_att.bias")

    def order(self) -> list[int]:
        last = self.words - 1
        return [0, last - 1, last, last - 2, *range(1, last - 2)]

    def slots(self, decoder, rows) -> Iterator[Slot]:
        def dense(layer, name):
            yield f"{name}.weight", layer.kernel, _turned(self.take(f"{name}.weight"))
            yield f"{name}.bias", layer.bias, self.take(f"{name}.bias")

        attention, cell = decoder.attention, self.cell
        yield from dense(attention.annotation_layers[0], f"{self.attention}encoder_att")
        yield from dense(attention.query_layer, f"{self.attention}decoder_att")
        yield "full_att.weight", attention.score, _flat(self.take(f"{self.attention}full_att.weight"))
        yield "embedding.weight", decoder.embedding.embeddings, _rows(self.take("embedding.weight"), rows)
        inputs, width = _turned(self.take(f"{cell}.weight_ih")), decoder.word_kernel.shape[0]
        parts = (None, None) if inputs is None else (inputs[:width], inputs[width:])
        yield f"{cell}.weight_ih (words)", decoder.word_kernel, parts[0]
        yield f"{cell}.weight_ih (context)", decoder.context_kernel, parts[1]
        yield f"{cell}.weight_hh", decoder.recurrent_kernel, _turned(self.take(f"{cell}.weight_hh"))
        biases = [self.take(f"{cell}.bias_ih"), self.take(f"{cell}.bias_hh")]
        fit = all(b is not None for b in biases) and biases[0].shape == biases[1].shape
        yield f"{cell}.bias_ih and bias_hh", decoder.bias, biases[0] + biases[1] if fit else None
        yield from dense(decoder.begin_hidden, "init_h")
        yield from dense(decoder.begin_cell, "init_c")
        yield from dense(decoder.gate, "f_beta")
        yield "fc.weight", decoder.vocabulary.kernel, _columns(_turned(self.take("fc.weight")), rows)
        yield "fc.bias", decoder.vocabulary.bias, _biases(self.take("fc.bias"), rows)


def _tutorial_prefix(arrays: Mapping[str, np.ndarray]) -> tuple[str, str] | None:
    """(what stands before every name of the decoder, what else before those of its attention)."""
    for name in arrays:
        if name.endswith("encoder_att.weight"):
            prefix = name.removesuffix("encoder_att.weight")
            inner = "attention." if prefix.endswith("attention.") else ""
            return prefix.removesuffix(inner), inner
    return None


def _form_of(decoder) -> tuple[str | None, ...]:
    config = decoder.get_config()
    return config["readout"], config["gate"], config["begin_activation"], config["attention_activation"]


def _wrong_words(rows: Sequence[int], words: int, wanted: int, given: bool) -> list[str]:
    if len(rows) != wanted:
        described = f"`order` has {len(rows)}" if given else f"with our padding and start the file has {len(rows)}"
        return [
            f"the model has {wanted} words, {described}. Build it with num_classes={len(rows)}, and take the "
            "vocabulary from arctic_vocabulary or tutorial_vocabulary"
        ]
    wrong = [number for number in rows if not _NO_WORD <= number < words]
    return [f"`order` names the ids {wrong[:5]}, and the file has 0 to {words - 1}"] if wrong else []


def _in_order(numbers: Mapping[str, int], first: int, name: str) -> list[str]:
    words = sorted(numbers, key=lambda word: numbers[word])
    if [numbers[word] for word in words] != list(range(first, first + len(words))):
        raise DataError(f"{name} must give each word one of the ids {first} to {first + len(words) - 1}, none twice.")
    return words


def _rows(table: np.ndarray | None, rows: Sequence[int]) -> np.ndarray | None:
    """The rows of a table in another order; zeros for a word that is not there."""
    if table is None or table.ndim != 2:
        return table
    there = np.array(rows) != _NO_WORD
    return np.where(there[:, None], table[np.maximum(rows, 0)], 0)


def _columns(kernel: np.ndarray | None, rows: Sequence[int]) -> np.ndarray | None:
    return kernel if kernel is None or kernel.ndim != 2 else _rows(kernel.T, rows).T


def _biases(bias: np.ndarray | None, rows: Sequence[int]) -> np.ndarray | None:
    if bias is None or bias.ndim != 1:
        return bias
    return np.where(np.array(rows) == _NO_WORD, _NEVER, bias[np.maximum(rows, 0)])


def _gates_ifgo(value: np.ndarray | None) -> np.ndarray | None:
    """Gates i, f, o, g on the last axis -> i, f, g, o."""
    if value is None or value.ndim == 0 or value.shape[-1] % 4:
        return value
    i, f, o, g = np.split(value, 4, axis=-1)
    return np.concatenate([i, f, g, o], axis=-1)


def _scaled(value: np.ndarray | None, factor: float) -> np.ndarray | None:
    return value if value is None else value * factor


def _turned(value: np.ndarray | None) -> np.ndarray | None:
    return value if value is None else value.T


def _flat(value: np.ndarray | None) -> np.ndarray | None:
    return value if value is None else value.reshape(-1)


__all__ = [
    "CAPTION_SUFFIXES",
    "arctic_vocabulary",
    "is_captioner",
    "load_caption_weights",
    "read_arrays",
    "tutorial_vocabulary",
]
