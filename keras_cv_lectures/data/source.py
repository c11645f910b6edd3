"""A finite list of examples, and the way from it into `tf.data`."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_cv_lectures.data.contract import check_example
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.text import as_text

# Array keys whose last axes have one length in the whole source; every other axis may differ between examples.
_FIXED_TRAILING_AXES = {"image": 1, "annotations": 3, "boxes": 1, "keypoints": 2, "mask_windows": 1}


@dataclass(frozen=True, kw_only=True)
class Source:
    """A finite, indexable list of examples that are read when asked for.

    Attributes:
        name: for messages, such as "camvid train".
        ids: one per example, unique.
        read: index -> example, a dict of arrays as described in `keras_cv_lectures.data`; raises `DataError` naming
            the file at fault. Must be callable from several threads at once.
        classes: class names in label order; segmentation includes the background.
        colors: one (red, green, blue) in 0..255 for each class.
        files: index -> the files of that example, the picture first; None for generated data.
        object_classes: names of the `labels` of boxes in their order, without background; () where no example has
            boxes. They are the last ones of `classes`.
        keypoint_names: names of the keypoints of an object in their order; () where no example has keypoints.
        keypoint_flip: for each keypoint the index of the one that it becomes in a mirrored picture; () without
            keypoints.
        inspect: index -> the example and one line for each object that was left out of it, with the file and the
            reason; None where nothing is ever left out.
        texts: all captions, without opening a picture; None for data without captions. Where it is not given,
            `captions_at` makes it.
        captions_at: index -> the captions of that example, without opening the picture; None where only `texts` or
            nothing is known.
        notes: for the user: what was guessed, and how to override it.
    """

    name: str
    ids: tuple[str, ...]
    read: Callable[[int], dict[str, Any]]
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    files: Callable[[int], tuple[Path, ...]] | None = None
    object_classes: tuple[str, ...] = ()
    keypoint_names: tuple[str, ...] = ()
    keypoint_flip: tuple[int, ...] = ()
    inspect: Callable[[int], tuple[dict[str, Any], tuple[str, ...]]] | None = None
    texts: Callable[[], Iterable[str]] | None = None
    captions_at: Callable[[int], Sequence[str]] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        if self.texts is None and self.captions_at is not None:
            captions_at, count = self.captions_at, len(self.ids)
            object.__setattr__(self, "texts", lambda: (text for i in range(count) for text in captions_at(i)))
        if len(set(self.ids)) != len(self.ids):
            seen: set[str] = set()
            twice = next(i for i in self.ids if i in seen or seen.add(i))
            raise DataError(f"{self.name}: example ids must be unique, but {twice!r} occurs twice. Rename one of them.")
        if len(self.classes) != len(self.colors):
            raise DataError(
                f"{self.name}: {len(self.classes)} classes but {len(self.colors)} colors; both must be equal."
            )
        if self.object_classes and self.classes[-len(self.object_classes) :] != self.object_classes:
            raise DataError(
                f"{self.name}: object_classes must be the last ones of classes {self.classes}, not "
                f"{self.object_classes}. Name the background, if there is one, first."
            )

    @property
    def object_colors(self) -> tuple[tuple[int, int, int], ...]:
        """One (red, green, blue) in 0..255 for each of `object_classes`."""
        return self.colors[len(self.colors) - len(self.object_classes) :]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} examples; index {index} is outside.")
        return self.read(int(index) % len(self))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self.read(i) for i in range(len(self)))

    def subset(self, indices: Iterable[int], name: str | None = None) -> Source:
        """The examples at `indices`, in that order, as a source of their own."""
        chosen = [range(len(self))[int(i)] for i in indices]
        files, inspect, captions_at = self.files, self.inspect, self.captions_at
        if captions_at is None and self.texts is not None:
            captions_at = self._read_captions
        return replace(
            self,
            name=name or self.name,
            ids=tuple(self.ids[i] for i in chosen),
            read=lambda i: self.read(chosen[i]),
            files=None if files is None else lambda i: files(chosen[i]),
            inspect=None if inspect is None else lambda i: inspect(chosen[i]),
            texts=None,
            captions_at=None if captions_at is None else lambda i: captions_at(chosen[i]),
        )

    def _read_captions(self, index: int) -> list[str]:
        return [as_text(text) for text in self.read(index)["captions"]]


def cached(source: Source, max_bytes: int = 1 << 30) -> Source:
    """Keeps decoded examples of `source` in memory until they fill `max_bytes`; the rest is read anew each time.

    The arrays that it returns are read-only views, because every caller gets the same ones; those of `source` itself
    stay as they are.
    """
    kept: dict[int, dict[str, Any]] = {}
    lock = threading.Lock()
    used = 0

    def read(index: int) -> dict[str, Any]:
        nonlocal used
        example = kept.get(index)
        if example is None:
            # Outside the lock, so that several threads decode at once; reading one example twice is harmless.
            example = {key: _read_only(value) for key, value in source.read(index).items()}
            size = sum(v.nbytes for v in example.values() if isinstance(v, np.ndarray))
            with lock:
                if index not in kept and used + size <= max_bytes:
                    kept[index] = example
                    used += size
        return dict(example)

    return replace(source, read=read)


def _read_only(value: Any) -> Any:
    """A view of an array that cannot be written through; anything else as it is."""
    if not isinstance(value, np.ndarray):
        return value
    view = value.view()
    view.flags.writeable = False
    return view


def to_dataset(
    source: Source,
    *,
    shuffle: bool,
    seed: int,
    first_epoch: int = 0,
    epochs: int | None = None,
    examples_per_epoch: int | None = None,
    skip: int = 0,
    keys: Iterable[str] | None = None,
    parallel: int = 2,
) -> tf.data.Dataset:
    """Unbatched example dicts of epochs `first_epoch`, ..., `epochs - 1`, one after the other.

    The order within an epoch depends on nothing but (`seed`, epoch), and an example's `seed` on nothing but (`seed`,
    epoch, index, how often it was met before in that epoch):
    a training that is resumed at epoch e sees exactly what the uninterrupted one would have seen.

    Args:
        source: where examples come from. Reading is done by `parallel` threads, in a fixed order.
        shuffle: a new permutation in each epoch; otherwise the order of the source.
        seed: any integer.
        first_epoch: number of the first epoch, from 0.
        epochs: the epoch to stop before, as in `Model.fit(initial_epoch=, epochs=)`; None never stops.
        examples_per_epoch: None for each example once; a smaller number takes the first of each epoch's order, a
            larger one goes round again (so that every epoch is a whole number of batches).
        skip: examples at the start of `first_epoch` that are passed over without reading them.
        keys: the keys wanted; None means every array, string and list of numbers or strings of the first example.
        parallel: threads that read.

    Returns:
        A dataset of dicts: the example's arrays with axes of unknown length (the image's channels and the last axes
        of boxes and keypoints are known), texts as `tf.string`, `seed` (2,) int32 for `tf.random.stateless_*`, and
        `index` () int64, the position in `source`.

    Raises:
        DataError: `source` is empty, or its first example cannot be read or is refused by `check_example`. An error in
            a later example surfaces as `tf.errors.OpError` from the iterator; `data_error` gives its text back.
    """
    if len(source) == 0:
        raise DataError(f"{source.name} has no examples. Check the path and the list file.")
    template = _arrays(source.read(0))
    check_example(template, f"{source.name}, example {source.ids[0]}")
    if keys is not None:
        keys = tuple(keys)
        if set(keys) - set(template):
            missing = ", ".join(sorted(set(keys) - set(template)))
            raise DataError(f"{source.name} has no {missing}; its examples hold {', '.join(sorted(template))}.")
        template = {name: template[name] for name in keys}
    seed = int(seed) % 2**63
    names = tuple(template)
    dtypes = [_tensor_dtype(template[name]) for name in names]

    length = examples_per_epoch or len(source)

    rounds = -(-length // len(source))

    @_counted
    def order(epoch: np.ndarray) -> np.ndarray:
        """Rows of (index, round): how often the example was met in this epoch before."""
        rng = np.random.Generator(np.random.PCG64((seed, int(epoch))))
        indices = [rng.permutation(len(source)) if shuffle else np.arange(len(source)) for _ in range(rounds)]
        rows = np.stack([np.concatenate(indices), np.repeat(np.arange(rounds), len(source))], axis=1)
        return rows[:length].astype(np.int64)

    @_counted
    def read(epoch: np.ndarray, index: np.ndarray, turn: np.ndarray) -> list[np.ndarray]:
        arrays, where = _arrays(source.read(int(index)), names), f"{source.name}, example {source.ids[int(index)]}"
        check_example(arrays, where)
        for name in names:
            _check_like(template, arrays, name, where)
        # An example met again within an epoch gets another seed, or it would be augmented alike every time.
        state = np.random.SeedSequence((seed, int(epoch), int(index), int(turn))).generate_state(2)
        return [state.view(np.int32), *(arrays[name] for name in names)]

    @tf.autograph.experimental.do_not_convert
    def rows(epoch: tf.Tensor) -> tf.data.Dataset:
        table = tf.numpy_function(order, [epoch], tf.int64, stateful=False)
        table.set_shape([length, 2])
        return tf.data.Dataset.from_tensor_slices(table).map(lambda row: (epoch, row[0], row[1]))

    @tf.autograph.experimental.do_not_convert
    def load(epoch: tf.Tensor, index: tf.Tensor, turn: tf.Tensor) -> dict[str, tf.Tensor]:
        state, *values = tf.numpy_function(read, [epoch, index, turn], [tf.int32, *dtypes], stateful=False)
        state.set_shape([2])
        for name, value in zip(names, values, strict=True):
            value.set_shape(_static_shape(name, template[name]))
        return dict(zip(names, values, strict=True)) | {"seed": state, "index": index}

    stop = np.iinfo(np.int64).max if epochs is None else epochs
    dataset = tf.data.Dataset.range(first_epoch, stop).flat_map(rows).skip(skip)
    dataset = dataset.map(load, num_parallel_calls=parallel, deterministic=True)
    total = max(0, (stop - first_epoch) * length - skip) if epochs is not None else tf.data.INFINITE_CARDINALITY
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(total))
    options = tf.data.Options()
    options.deterministic = True
    # Its thread may sleep through being cancelled, the longer the longer the iterator lived, and whoever drops the
    # iterator waits for it: 45 s were seen. Maps run as many calls at once without it.
    options.autotune.enabled = False
    return dataset.with_options(options)


class _Readers:
    """How many threads of `tf.data` are inside a Python reader, and when the last one left."""

    def __init__(self):
        self.lock, self.active, self.left = threading.Lock(), 0, time.monotonic()


_readers = _Readers()


def _counted(function: Callable) -> Callable:
    def counted(*arguments):
        with _readers.lock:
            _readers.active += 1
        try:
            return function(*arguments)
        finally:
            with _readers.lock:
                _readers.active -= 1
                _readers.left = time.monotonic()

    return counted


def wait_for_readers(timeout: float = 30.0, quiet: float = 0.3) -> None:
    """Waits until no reader of any dataset is at work, because all buffers are full.

    To be called before an iterator that was not read to its end goes out of use, for instance while handling an
    exception: TensorFlow's destructor waits for the readers with Python's global lock held, which they need to finish.
    """
    stop = time.monotonic() + timeout
    while time.monotonic() < stop:
        with _readers.lock:
            if not _readers.active and time.monotonic() - _readers.left > quiet:
                return
        time.sleep(0.02)


def data_error(exception: BaseException | None) -> str | None:
    """The text of the `DataError` behind `exception`, or None if there is none.

    TensorFlow turns what a reader raises inside `tf.data` into an error of its own, whose text contains the original
    one between names of nodes and a Python traceback.
    """
    while exception is not None:
        if isinstance(exception, DataError):
            return str(exception)
        found = re.search(r"\bDataError: (.*?)\s*\nTraceback \(most recent call last\)", str(exception), re.DOTALL)
        if found:
            return found.group(1)
        exception = exception.__cause__ or exception.__context__
    return None


def _arrays(example: dict[str, Any], keys: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """What of `example` can become tensors: numbers as they are, texts as arrays of UTF-8 bytes."""
    arrays = {}
    for name in example if keys is None else keys:
        if name not in example or name in ("seed", "index"):
            continue
        value = example[name]
        if not isinstance(value, np.ndarray):
            texts = [value] if isinstance(value, str | bytes) else value
            if isinstance(texts, list | tuple) and all(isinstance(text, str | bytes) for text in texts):
                value = np.array(value, dtype=object)
            elif isinstance(value, list | tuple) and not all(isinstance(v, int | float | np.generic) for v in value):
                continue  # Nested descriptions, such as question-answer pairs, have no tensor form.
            else:
                value = np.asarray(value)
        if value.dtype.kind in "UO":
            value = np.array(
                [text if isinstance(text, bytes) else str(text).encode() for text in value.ravel()], dtype=object
            ).reshape(value.shape)
        if value.dtype.kind in "biufSO":
            arrays[name] = value
    return arrays


def _tensor_dtype(array: np.ndarray) -> tf.DType:
    return tf.string if array.dtype.kind in "SO" else tf.as_dtype(array.dtype)


def _static_shape(name: str, array: np.ndarray) -> list[int | None]:
    fixed = _FIXED_TRAILING_AXES.get(name, 0)
    return [None] * (array.ndim - fixed) + list(array.shape[array.ndim - fixed :])


def _check_like(template: dict[str, np.ndarray], arrays: dict[str, np.ndarray], name: str, where: str) -> None:
    if name not in arrays:
        raise DataError(f"{where}: has no {name!r}, which the first example of the source has.")
    expected, received = template[name], arrays[name]
    shape = _static_shape(name, expected)
    fits = received.ndim == len(shape) and all(s in (None, r) for s, r in zip(shape, received.shape, strict=True))
    if not fits or _tensor_dtype(received) != _tensor_dtype(expected):
        shown = "(" + ", ".join("any" if s is None else str(s) for s in shape) + ")"
        raise DataError(
            f"{where}: {name!r} must be {expected.dtype} of shape {shown} as in the first example, "
            f"but is {received.dtype} of shape {received.shape}. Read all examples with the same number of channels."
        )
