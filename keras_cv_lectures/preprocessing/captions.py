"""Examples -> batches for captioning: a picture and its sentences as ids.

Sentences become ids in Python, once each, before pictures are touched; a picture is augmented, and later encoded, once
for all of its sentences.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_cv_lectures.preprocessing.augment import Augmentation, augment
from keras_cv_lectures.preprocessing.batches import at_base_size
from keras_cv_lectures.preprocessing.colour import with_channels
from keras_cv_lectures.preprocessing.random_map import draw_numbers
from keras_cv_lectures.text import PAD, Vocabulary, as_text, tokenize

_log = logging.getLogger(__name__)

_KEYS = ("image", "annotations", "captions", "seed", "index")
_CONTEXT = {"vocabulary", "max_words", "captions_per_picture", "captions", "mirror_sides", "examples_per_epoch"}
_REMEMBERED = 200_000  # Sentences whose ids are kept.
_POOL_BYTES, _POOL_BATCHES = 96 << 20, 32  # Of the pictures that are sorted by the length of their sentences.


def caption_batches(
    dataset: tf.data.Dataset,
    *,
    output_size: tuple[int, int] | None,
    base_size: tuple[int, int] | None,
    batch_size: int,
    augmentation: Augmentation | None = None,
    channels: int = 3,
    drop_remainder: bool = False,
    context: Mapping[str, Any],
) -> tf.data.Dataset:
    """Batches for training and evaluation.

    Args:
      dataset: unbatched examples with `image` (h, w, C) and `captions` (n,) strings; with a random augmentation `seed`
        int32 (2,) too. Instead of the picture they may have `annotations` (h, w, D), what an encoder said of it
        (`training.cache_features`): these are batched as they are, not augmented, and sizes and channels do not count.
        Other keys are left out. A picture whose captions have no word gives rows of 0 (with
        `captions_per_picture` 1 nothing), which is logged.
      output_size, base_size, batch_size, augmentation, channels, drop_remainder: as in `training_batches`. Captions
        describe upright pictures: `flip_vertical` and `quarter_turns` make them untrue, and so does `flip` where one
        says left or right, see `mirror_sides`.
      context: `vocabulary`, its words in the order of ids (`Vocabulary.words`); `max_words` (20), by which longer
        captions are cut; `captions_per_picture`, "all" (the default) or 1; `captions` (5), the N of the batch under
        "all": a picture with more gives the first N, or with an augmentation N drawn by its seed. `mirror_sides`
        (False): True lets `flip` mirror also pictures of which a caption in use has a word that begins with "left" or
        "right"; otherwise those are not mirrored. `examples_per_epoch`, see below.

    Returns:
      A dataset of `(inputs, targets)`. Inputs: `image` (B, H, W, channels) uint8, or `annotations` (B, h, w, D) where
      the examples have these; `tokens` (B, N, T) int32, each row `[1, words ..., 2, 0 ...]` padded to the longest of
      the batch; rows that a picture lacks are all 0. Targets: the same tokens.
      Under "all" the order is that of `dataset`. With 1 every caption is an example of its own (N is 1), augmented
      on its own, and batches are bucketed by length: of every so many batches' examples, as many as fit into 96 MB, the
      shortest go together and so on, and these batches come in random order by the seed. None is lost, so the number of
      batches stays that of the examples. Give `examples_per_epoch`, the (picture, caption) examples of one epoch of
      `dataset`, and no bucket reaches over its end: a training that is resumed there sees the same batches.

    Differs from the paper: (Xu et al. 2015) draws batches of captions of exactly one length, and throws incomplete ones
    away.

    Raises:
      ValueError: an entry of the context is missing, unknown or out of range; no output size with batches of several
        pictures or with an augmentation.
      DataError: the words are no vocabulary.
    """
    settings = _Settings.of(context)
    seen = "annotations" if "annotations" in dataset.element_spec else "image"
    if seen == "image" and output_size is None and (batch_size != 1 or augmentation is not None):
        raise ValueError(
            f"output_size: expected (height, width) for batch_size={batch_size} and augmentation={augmentation}, "
            "received None. Give a size, or use batch_size=1 without an augmentation."
        )
    missing = {seen, "captions"} - set(dataset.element_spec)
    if missing:
        raise ValueError(
            f"{', '.join(sorted(missing))}: expected in every example, received only "
            f"{', '.join(sorted(dataset.element_spec))}. Give data with captions."
        )
    keys = [key for key in _KEYS if key in dataset.element_spec and (key != "image" or key == seen)]
    dataset = dataset.map(lambda example: {key: example[key] for key in keys})
    dataset = _encoded(dataset, settings, draws=augmentation is not None and "seed" in dataset.element_spec)
    if seen == "image":
        dataset, augmentation = at_base_size(dataset, augmentation, output_size, base_size)
    plan = augmentation or Augmentation.none()

    # Nothing here needs AutoGraph, which takes seconds to read it all.
    @tf.autograph.experimental.do_not_convert
    def prepare(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        seed = example["seed"] if "seed" in example else tf.zeros([2], tf.int32)
        if seen == "annotations":
            return {seen: example[seen], "tokens": example["tokens"], "seed": seed}
        picture = {key: example[key] for key in ("image", "seed") if key in example}
        picture["image"] = with_channels(picture["image"], channels)
        image = picture["image"]
        if output_size is not None:
            image = _augmented(picture, plan, output_size, settings.mirror_sides | ~example["sided"])
        return {"image": image, "tokens": example["tokens"], "seed": seed}

    dataset = dataset.map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if settings.pairs:
        batches = _by_length(dataset, seen, batch_size, drop_remainder, settings.examples_per_epoch)
    else:
        batches = dataset.padded_batch(batch_size, drop_remainder=drop_remainder)
    return batches.map(lambda batch: ({seen: batch[seen], "tokens": batch["tokens"]}, batch["tokens"])).prefetch(
        tf.data.AUTOTUNE
    )


def _augmented(
    picture: dict[str, tf.Tensor], plan: Augmentation, size: tuple[int, int], mirrors: tf.Tensor
) -> tf.Tensor:
    """The picture at `size`, mirrored only where `mirrors` is true."""
    if not plan.flip:
        return augment(picture, plan, size)["image"]
    upright = dataclasses.replace(plan, flip=0.0)
    if upright.moves:
        return tf.cond(
            mirrors, lambda: augment(picture, plan, size)["image"], lambda: augment(picture, upright, size)["image"]
        )
    # Mirroring alone looks up no pixel: a sixth of the time.
    image = augment(picture, upright, size)["image"]
    mirrors &= draw_numbers(tf.cast(picture["seed"], tf.int32))["flip"] < plan.flip
    return tf.ensure_shape(tf.cond(mirrors, lambda: image[:, ::-1], lambda: image), image.shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Settings:
    vocabulary: Vocabulary
    max_words: int = 20
    pairs: bool = False
    captions: int = 5
    mirror_sides: bool = False
    examples_per_epoch: int | None = None

    @classmethod
    def of(cls, context: Mapping[str, Any]) -> _Settings:
        unknown = set(context) - _CONTEXT
        if unknown or "vocabulary" not in context:
            wrong = f"received {', '.join(sorted(unknown))}" if unknown else "vocabulary is missing"
            raise ValueError(f"context: expected {', '.join(sorted(_CONTEXT))}; {wrong}.")
        values = dict(context)
        each = values.pop("captions_per_picture", "all")
        if each not in ("all", 1):
            raise ValueError(f"captions_per_picture: expected 'all' or 1, received {each!r}.")
        for name in ("max_words", "captions", "examples_per_epoch"):
            value = values.get(name)
            if name in values and not (value is None and name == "examples_per_epoch") and not (value and value >= 1):
                raise ValueError(f"{name}: expected a whole number of at least 1, received {value!r}.")
        return cls(pairs=each == 1, **{**values, "vocabulary": Vocabulary(tuple(values["vocabulary"]))})


def _encoded(dataset: tf.data.Dataset, settings: _Settings, draws: bool) -> tf.data.Dataset:
    """Examples with `tokens` (N, T) instead of `captions`, and `sided`, whether one of them says left or right."""
    encoder = _Encoder(settings, draws)
    rows = None if settings.pairs else settings.captions

    @tf.autograph.experimental.do_not_convert
    def encode(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        captions, rest = example["captions"], {k: v for k, v in example.items() if k not in ("captions", "index")}
        seed = example.get("seed", tf.zeros([2], tf.int32))
        index = example.get("index", tf.constant(-1, tf.int64))
        tokens, sided = tf.numpy_function(encoder, [captions, seed, index], [tf.int32, tf.bool], stateful=False)
        tokens.set_shape([rows, None])
        sided.set_shape([None])
        return {**rest, "tokens": tokens, "sided": sided}

    @tf.autograph.experimental.do_not_convert
    def pairs(example: dict[str, tf.Tensor]) -> tf.data.Dataset:
        rest = {key: value for key, value in example.items() if key not in ("tokens", "sided")}

        def one(number: tf.Tensor, tokens: tf.Tensor, sided: tf.Tensor) -> dict[str, tf.Tensor]:
            # Each caption's picture is augmented on its own.
            seed = {}
            if "seed" in rest:
                seed = {"seed": tf.random.experimental.stateless_fold_in(rest["seed"], number)}
            length = tf.math.count_nonzero(tokens, dtype=tf.int32)
            return {**rest, **seed, "tokens": tokens[None, :length], "sided": sided}

        numbers = tf.range(tf.shape(example["tokens"])[0])
        return tf.data.Dataset.from_tensor_slices((numbers, example["tokens"], example["sided"])).map(one)

    dataset = dataset.map(encode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if settings.pairs:
        return dataset.filter(lambda example: tf.size(example["sided"]) > 0).flat_map(pairs)
    # No picture is left out here, so that batches can be counted beforehand.
    return dataset.map(lambda example: {**example, "sided": tf.reduce_any(example["sided"])})


class _Encoder:
    """Captions (n,) of one picture -> their ids, padded to a rectangle, and for each whether it says left or right.

    A picture without a usable caption gives no flag at all.
    """

    def __init__(self, settings: _Settings, draws: bool):
        self.settings, self.draws = settings, draws
        self.known: dict[bytes, tuple[list[int], bool] | None] = {}
        self.bare: set[int] = set()
        self.told = False

    def __call__(self, captions: np.ndarray, seed: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = [ids for text in captions.ravel() if (ids := self._ids(text)) is not None]
        most = self.settings.captions
        if not self.settings.pairs and len(found) > most:
            order = np.arange(len(found))
            if self.draws:
                rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed.view(np.uint32).tolist())))
                order = rng.permutation(len(found))
            found = [found[i] for i in sorted(order[:most].tolist())]
        if not found:
            self._tell(int(index))
        rows = len(found) if self.settings.pairs else most
        tokens = np.full((rows, max((len(ids) for ids, _ in found), default=2)), PAD, np.int32)
        for row, (ids, _) in enumerate(found):
            tokens[row, : len(ids)] = ids
        return tokens, np.array([sided for _, sided in found], bool)

    def _ids(self, text: bytes) -> tuple[list[int], bool] | None:
        """Ids and whether a side is named; None for a caption without words."""
        if text not in self.known:
            caption = as_text(text)
            words = tokenize(caption)[: self.settings.max_words]
            value = None
            if words:
                ids = self.settings.vocabulary.encode(caption, self.settings.max_words)
                value = ids, any(word.startswith(("left", "right")) for word in words)
            if len(self.known) >= _REMEMBERED:
                return value
            self.known[text] = value
        return self.known[text]

    def _tell(self, index: int) -> None:
        # By the picture's number, because every epoch meets it again.
        before = len(self.bare)
        self.bare.add(index)
        if len(self.bare) > before and str(len(self.bare)).strip("0") == "1":
            _log.warning(
                "%d picture(s) without a caption that has a word: they teach nothing. `kcvl doctor` names them.",
                len(self.bare),
            )


def _by_length(
    dataset: tf.data.Dataset, seen: str, batch_size: int, drop_remainder: bool, epoch: int | None
) -> tf.data.Dataset:
    """Batches of captions of similar length: examples are sorted within pools of several batches.

    Not `bucket_by_sequence_length`, whose incomplete buckets would change the number of batches.
    """
    spec = dataset.element_spec[seen]
    height, width, channels = spec.shape
    per_batch = batch_size * (height or 1) * (width or 1) * channels * spec.dtype.size
    pool = batch_size * max(1, min(_POOL_BATCHES, _POOL_BYTES // per_batch)) if height and width else 1

    def place(position: tf.Tensor, example: Any) -> tf.Tensor:
        del example
        return (position % epoch if epoch else position) // pool

    def size(key: tf.Tensor) -> tf.Tensor:
        return tf.minimum(tf.constant(pool, tf.int64), epoch - key * pool) if epoch else tf.constant(pool, tf.int64)

    @tf.autograph.experimental.do_not_convert
    def ordered(example: dict[str, tf.Tensor]) -> tf.data.Dataset:
        """One pool, batched whole -> its batches."""
        lengths = tf.math.count_nonzero(example["tokens"], axis=(1, 2), dtype=tf.int32)
        rows = tf.argsort(lengths, stable=True)
        full = tf.shape(rows)[0] // batch_size
        batches = tf.reshape(rows[: full * batch_size], [full, batch_size])
        batches = tf.gather(batches, tf.random.experimental.stateless_shuffle(tf.range(full), example["seed"][0]))
        rows = tf.concat([tf.reshape(batches, [-1]), rows[full * batch_size :]], axis=0)
        found = tf.data.Dataset.from_tensor_slices(rows).batch(batch_size, drop_remainder=drop_remainder)
        return found.map(lambda chosen: _cut({key: tf.gather(value, chosen) for key, value in example.items()}))

    def reduce(key: tf.Tensor, window: tf.data.Dataset) -> tf.data.Dataset:
        del key
        return window.map(lambda position, example: example).padded_batch(pool).flat_map(ordered)

    return dataset.enumerate().group_by_window(key_func=place, reduce_func=reduce, window_size_func=size)


def _cut(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Without the columns of `tokens` that are padding in every row."""
    used = tf.reduce_max(tf.math.count_nonzero(batch["tokens"], axis=-1, dtype=tf.int32))
    return {**batch, "tokens": batch["tokens"][..., :used]}
