"""What an encoder that is not trained says of pictures, computed once and kept on disk.

An encoder is most of the work of a captioner's training; a decoder that is trained for many epochs on the same
annotations need not wait for it. The price is augmentation: pictures are encoded as they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_cv_lectures.data import Source, data_error, to_dataset, wait_for_readers
from keras_cv_lectures.data.features import FeatureFolder, feature_source
from keras_cv_lectures.errors import DataError, KcvlWarning, ModelError
from keras_cv_lectures.preprocessing import Augmentation, augment
from keras_cv_lectures.preprocessing.colour import with_channels
from keras_cv_lectures.recipe import TrainingOptions

_CHECKED = 4  # Pictures that are encoded again to see whether a folder is theirs.
# Of what is kept: float16 has 11 bits, and an encoder in bfloat16 has 8.
_TOLERANCE = 0.02
# Of a network's description: what does not change what it computes.
_NEUTRAL = ("name", "trainable", "training", "batch_shape", "build_config", "shape", "input_shape", "seed")
# Where one layer is named by another.
_LINKS = ("inbound_nodes", "input_layers", "output_layers")


def cache_features(
    encoder: keras.Model,
    source: Source,
    folder: str | os.PathLike,
    *,
    input_size: tuple[int, int],
    batch_size: int = 16,
    shard_bytes: int = 1 << 28,
    dtype: str = "float16",
    progress: Callable[[int, int], None] | None = None,
) -> Source:
    """`source` with what `encoder` says of its pictures instead of the pictures.

    What is in `folder` already is not computed again: a call that was killed goes on where it was, shard by shard, and
    ends with the files that an uninterrupted one writes. A folder belongs to an encoder (its layers and weights), a
    picture size and a list of pictures; a few pictures are encoded anew to see that they are the same.

    Args:
        encoder: pictures (B, H, W, C) in 0..255 -> (B, h, w, D), such as `model.encoder` of a captioner.
        source: pictures, with captions or without.
        folder: new, empty, or what an earlier call wrote. 14x14x512 of 10,000 pictures take 2 GB.
        input_size: (height, width) that pictures are resized to, as training does it without augmentation.
        batch_size: pictures that are encoded at once.
        shard_bytes: about the size of a file, and what a killed call loses at most.
        dtype: "float16" or "float32".
        progress: called with (done, total) after every batch, those that were there already counted as done.

    Returns:
        A source whose examples hold `annotations` (h, w, D) float32, read by memory map, `captions` and `image_id`.

    Raises:
        DataError: the folder belongs to something else, a file in it is damaged, a picture cannot be read, or the disk
            is full; what is complete is kept.
        ModelError: the encoder gives no map of features, or numbers that are not finite or beyond the range of `dtype`.
        ValueError: an argument is out of range.

    Example:
        >>> train = cache_features(model.encoder, train, "features", input_size=(224, 224))  # doctest: +SKIP
    """
    size = tuple(input_size)
    if not (len(size) == 2 and all(isinstance(n, int) and n > 0 for n in size)):
        raise ValueError(f"`input_size` must be (height, width) in pixels. Received: input_size={input_size!r}")
    if dtype not in ("float16", "float32"):
        raise ValueError(f'`dtype` must be "float16" or "float32". Received: dtype={dtype!r}')
    for name, value in (("batch_size", batch_size), ("shard_bytes", shard_bytes)):
        if not (isinstance(value, int) and value >= 1):
            raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
    if len(source) == 0:
        raise DataError(f"{source.name} holds no pictures; there is nothing to encode.")
    encode = _Encode(encoder, size)
    store = FeatureFolder.at(
        folder,
        ids=source.ids,
        shape=encode.shape,
        dtype=dtype,
        shard_bytes=shard_bytes,
        made_with=identity(encoder) | {"input_size": list(size)},
    )
    store.check()
    missing = store.missing()
    _check_pictures(store, source, encode, missing)
    ranges = [range(*store.range_of(shard)) for shard in missing]
    done = len(source) - sum(map(len, ranges))
    # Batches end where shards do, so that they are the same after an interruption.
    batches = [pictures[k : k + batch_size] for pictures in ranges for k in range(0, len(pictures), batch_size)]
    with contextlib.closing(encode.all(source, batches)) as encoded:
        for shard, pictures in zip(missing, ranges, strict=True):
            features, filled = np.empty((len(pictures), *store.shape), dtype), 0
            while filled < len(pictures):
                found = next(encoded)
                features[filled : filled + len(found)] = _kept(found, dtype, source.ids[pictures[filled]])
                filled, done = filled + len(found), done + len(found)
                if progress is not None:
                    progress(done, len(source))
            store.write(shard, features)
    return feature_source(store, source)


def trained_on_features(
    model: keras.Model,
    options: TrainingOptions,
    train_source: Source,
    val_source: Source | None,
    *,
    verbose: int | str = 0,
) -> tuple[Source, Source | None]:
    """The sources of a training with `options.cache_features`: annotations from its folders `train` and `val`,
    as float16, or from `train_float32` and `val_float32` where they are too large for that.

    Raises:
        ValueError: the model or another option does not go with features, naming what to change.
        others: as `cache_features`.
    """
    folder, encoder = Path(options.cache_features), getattr(model, "encoder", None)
    asked = f"cache_features={options.cache_features}"
    if not isinstance(encoder, keras.Model):
        raise ValueError(f"{asked} is for captioners, whose encoder can stay as it is. Leave it out for {model.name}.")
    if encoder.trainable_variables:
        raise ValueError(
            f"{asked} keeps what the encoder says of a picture, and this training changes the encoder. Freeze it with "
            "freeze_backbone=true, or leave cache_features out."
        )
    if options.input_size is None or options.crop_size is not None:
        raise ValueError(f"{asked} needs input_size=HEIGHTxWIDTH and no crop_size: pictures are encoded whole.")
    found = []
    for name, source in (("train", train_source), ("val", val_source)):
        if source is not None:
            bar = keras.utils.Progbar(len(source), verbose=1 if verbose == "auto" else verbose, unit_name="picture")
            progress = (lambda done, total, bar=bar: bar.update(done)) if verbose else None
            settings = {"input_size": options.input_size, "progress": progress}
            source = _cached_for_training(encoder, source, folder / name, **settings)
        found.append(source)
    return found[0], found[1]


def _cached_for_training(encoder: keras.Model, source: Source, folder: Path, **settings: Any) -> Source:
    """`cache_features`, in float32 and in a folder beside `folder` where features are too large for float16."""
    wide = folder.with_name(f"{folder.name}_float32")
    # What an earlier training found out is not found out again.
    if not wide.exists():
        try:
            return cache_features(encoder, source, folder, **settings)
        except _Overflow:
            warnings.warn(
                f"features of {source.name} are too large for float16: they are kept as float32 in {wide}, in twice "
                f"the space, and {folder} is of no use any more. Delete it.",
                KcvlWarning,
                stacklevel=2,
            )
    return cache_features(encoder, source, wide, dtype="float32", **settings)


def identity(encoder: keras.Model) -> dict[str, str]:
    """What an encoder's features depend on: digests of its layers (names left out), and of its weights."""
    weights = hashlib.sha256()
    for variable in encoder.weights:
        value = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
        weights.update(f"{value.dtype}{value.shape}".encode())
        weights.update(value.tobytes())
    network = json.dumps(_without_names(encoder.get_config(), {}), sort_keys=True, default=str)
    return {
        "network": hashlib.sha256(network.encode()).hexdigest(),
        "weights": weights.hexdigest(),
    }


def _without_names(value: Any, names: dict[str, int], links: bool = False) -> Any:
    """A network's description with layers numbered in their order: Keras names them differently every time."""
    if isinstance(value, Mapping):
        if value.get("class_name") == "DTypePolicy":
            return dict(value)
        if isinstance(value.get("name"), str) and "class_name" in value:
            names.setdefault(value["name"], len(names))
        kept = ((key, item) for key, item in value.items() if key not in _NEUTRAL)
        return {key: _without_names(item, names, links or key in _LINKS) for key, item in kept}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_without_names(item, names, links) for item in value]
    return f"layer {names[value]}" if links and isinstance(value, str) and value in names else value


class _Encode:
    """Pictures of a source -> float32 features, at one size."""

    def __init__(self, encoder: keras.Model, size: tuple[int, int]):
        shape = encoder.input_shape
        fits = isinstance(shape, tuple) and len(shape) == 4 and shape[-1] is not None
        if not fits or any(n not in (None, given) for n, given in zip(shape[1:3], size, strict=True)):
            raise ModelError(
                f"{encoder.name} takes {shape}, and pictures of {size[0]}x{size[1]} pixels are to be encoded. Give an "
                "encoder of pictures (B, H, W, C), or its size as `input_size`."
            )
        self.size, self.channels, self.name = size, shape[-1], encoder.name

        @tf.function(input_signature=[tf.TensorSpec([None, *size, self.channels], tf.uint8)], autograph=False)
        def encode(pictures):
            return tf.cast(encoder(pictures, training=False), tf.float32)

        self.encode = encode
        found = encode(tf.zeros([1, *size, self.channels], tf.uint8)).numpy()
        if found.ndim != 4:
            raise ModelError(f"{encoder.name} gives {found.shape[1:]} for a picture; a map (h, w, D) was expected.")
        self.shape = found.shape[1:]

    def all(self, source: Source, batches: Sequence[Sequence[int]]) -> Iterator[np.ndarray]:
        """Features of the pictures whose indices each of `batches` has."""
        if not batches:
            return

        @tf.autograph.experimental.do_not_convert
        def prepare(example):
            picture = {"image": with_channels(example["image"], self.channels)}
            return augment(picture, Augmentation.none(), self.size)["image"]

        chosen = source.subset(index for batch in batches for index in batch)
        examples = to_dataset(chosen, shuffle=False, seed=0, epochs=1, keys=["image"])
        # One data set for batches of all lengths: to make one takes longer than to encode a few pictures.
        pictures = examples.map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        pictures = pictures.prefetch(2 * max(map(len, batches)))
        try:
            try:
                waiting = iter(pictures)
                for batch in batches:
                    yield self.encode(tf.stack([next(waiting) for _ in batch])).numpy()
            except BaseException:
                # Before the iterator goes: its destructor would block on a reader at work.
                wait_for_readers()
                raise
        except tf.errors.OpError as error:
            message = data_error(error)
            if message is None:
                raise
            raise DataError(message) from error


def _check_pictures(store: FeatureFolder, source: Source, encode: _Encode, missing: Sequence[int]) -> None:
    """A few of the pictures whose features are there, encoded again: ids alone do not say what is in a file."""
    absent = set(missing)
    there = [index for index in range(store.count) if index // store.per_shard not in absent]
    chosen = sorted({there[i] for i in np.linspace(0, len(there) - 1, _CHECKED).astype(int)}) if there else []
    # Closed before an error is raised, see `_Encode.all`.
    with contextlib.closing(encode.all(source, [[index] for index in chosen])) as encoded:
        found = list(encoded)
    for index, (again,) in zip(chosen, found, strict=True):
        kept = store.read(index)
        if np.abs(kept - again).max() > _TOLERANCE * max(np.abs(again).max(), 1e-6):
            raise DataError(
                f"the features in {store.folder} are not those of {source.name}: of {source.ids[index]} the encoder "
                "now says something else. Name another folder, or delete this one."
            )


def _kept(features: np.ndarray, dtype: str, first_id: str) -> np.ndarray:
    if not np.isfinite(features).all():
        raise ModelError(
            f"the encoder's features of {first_id} or a picture after it are not all finite numbers. Check the "
            "encoder's weights."
        )
    with np.errstate(over="ignore"):
        kept = features.astype(dtype)
    if not np.isfinite(kept).all():
        raise _Overflow(
            f"the encoder's features of {first_id} or a picture after it do not fit into {dtype} (their largest is "
            f"{np.abs(features).max():.3g}). Use dtype='float32', or check the encoder's weights."
        )
    return kept


class _Overflow(ModelError):
    """Features are finite, but beyond the range of float16."""


__all__ = ["cache_features", "identity", "trained_on_features"]
