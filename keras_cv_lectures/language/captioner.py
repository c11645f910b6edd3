"""The captioning model: an encoder, a decoder and a search as one functional graph that `fit` can train."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.language.beam import check_search, sample_words
from keras_cv_lectures.language.search import CaptionSearch, flatten
from keras_cv_lectures.losses.captions import doubly_stochastic, reinforce_attention, word_cross_entropy
from keras_cv_lectures.parts import ModelOfParts
from keras_cv_lectures.replicas import as_measured, replica_count, sum_over_replicas
from keras_cv_lectures.text import END, PAD, START
from keras_cv_lectures.weights import load_weights

_BASELINE_MEMORY = 0.9


@keras.saving.register_keras_serializable("keras_cv_lectures")
class Captioner(ModelOfParts):
    """Pictures -> sentences. Made by `build_show_attend_tell` and `build_show_and_tell`.

    Called on pictures (B, H, W, C) it searches: a dict of `tokens` (B, T) int32 (words, then END, then PAD), `length`
    (B,) int32, words without the end, `log_probability` (B,), and, where the decoder attends, `attention` (B, T, h, w),
    the weights of each emitted token over the annotation map.

    Called on a dict with `tokens` (B, N, T + 1), N captions a picture that begin with START, it says what it thinks of
    their words: `logits` (B, N, T, V) and `attention` (B, N, T, h, w). This is what `fit` trains, with the tokens as
    inputs and targets: `fit({"image": pictures, "tokens": tokens}, tokens)`. The dict may hold `annotations`
    (B, h, w, D), what the encoder said of the pictures, instead of `image`.

    Losses, each also a metric of its name: `cross_entropy`, the negative log likelihood of a caption in nats, mean over
    captions; `doubly_stochastic`; for hard attention `reinforce`, whose gradient counts and not its value: it is part
    of the loss in training alone. `word_accuracy` is the share of words that came first, given the words before.
    `sample_weight`, of pictures (B,) or of captions (B, N), makes all of them weighted means. The first three may have
    a factor in `compile(loss_weights={"cross_entropy": 2.0})`, beside the weights below; `compile` takes neither `loss`
    nor metrics: `evaluate_captioning` measures sentences.

    A copy is `type(model).from_config(model.get_config())` with `copy.set_weights(model.get_weights())`;
    `keras.models.clone_model` makes a plain functional model, which cannot be trained.

    Args:
        encoder: picture in 0..255 -> annotation map (B, h, w, D).
        decoder: see `language.decoders`.
        input_shape: (H or None, W or None, C).
        max_words: T, the longest sentence. One of T words has no room for its end, which then does not count.
        beam_size: hypotheses of the search; 1 is greedy.
        length_penalty: exponent of `language.beam_search`; 0 for none.
        ban_unknown: never say UNKNOWN.
        doubly_stochastic_weight: of that term; which weights others have, see `losses.captions.doubly_stochastic`.
        reinforce_weight, entropy_weight: lambda_r and lambda_e of hard attention.
        label_smoothing: of the cross entropy.
        scheduled_sampling: chance that a word which the network is given in training is replaced by the one that it
            would have said there itself, so that it learns to go on from its own mistakes (Bengio et al. 2015,
            https://arxiv.org/abs/1506.03099). In two passes, as Mihaylova and Martins (2019,
            https://arxiv.org/abs/1906.07651) and Duckworth et al. (2019, https://arxiv.org/abs/1906.04331) do it: the
            first reads the true words, without dropout and gradient, and its likeliest words are mixed into what the
            second reads. Start, end and padding are neither replaced nor put in. Targets stay the true words. It costs
            a second forward pass of the decoder. The chance stays as it is unless a callback assigns another to
            `model.scheduled_sampling`, such as the paper's inverse sigmoid decay of the true words with k = 5 epochs:

                decay = keras.callbacks.LambdaCallback(
                    on_epoch_begin=lambda epoch, logs: setattr(
                        model, "scheduled_sampling", 1 - 5 / (5 + math.exp(epoch / 5))))
    """

    measured_by = "`kcvl.evaluate_captioning`"

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.layers.Layer,
        *,
        input_shape: tuple[int | None, int | None, int],
        max_words: int = 20,
        beam_size: int = 3,
        length_penalty: float = 0.0,
        ban_unknown: bool = True,
        doubly_stochastic_weight: float = 1.0,
        reinforce_weight: float = 0.1,
        entropy_weight: float = 0.002,
        label_smoothing: float = 0.0,
        scheduled_sampling: float = 0.0,
        name: str = "captioner",
        **kwargs: Any,
    ):
        check_search(beam_size, max_words, length_penalty)
        search = {
            "max_words": max_words,
            "beam_size": beam_size,
            "length_penalty": length_penalty,
            "ban_unknown": ban_unknown,
        }
        image = keras.Input(tuple(input_shape), name="image")
        finder = CaptionSearch(decoder, **search, name="search")
        super().__init__(image, finder(encoder(image)), name=name, **kwargs)
        self.encoder, self.decoder, self.search = encoder, decoder, finder
        # Encoder and decoder cast what they compute with; read from here, recurrent weights stay in float32.
        self.dtype_policy = keras.DTypePolicy("float32")
        self.weights_of_losses = {
            "doubly_stochastic_weight": doubly_stochastic_weight,
            "reinforce_weight": reinforce_weight,
            "entropy_weight": entropy_weight,
            "label_smoothing": label_smoothing,
        }
        # A dict with tokens is as good an input as a picture.
        self.input_spec = None
        # Neither is there before it is needed.
        self.draws = self._rate = None
        self._arguments = {"input_shape": tuple(input_shape), **search, **self.weights_of_losses}
        self._arguments["scheduled_sampling"] = 0.0
        self.scheduled_sampling = scheduled_sampling
        names = ["cross_entropy", "word_accuracy"]
        if self.attends and doubly_stochastic_weight:
            names.append("doubly_stochastic")
        self.baseline = None
        if decoder.kind == "hard":
            names.append("reinforce")
            self.baseline = self.add_weight(
                shape=(), initializer="zeros", trainable=False, aggregation="mean", name="baseline"
            )
        self.loss_trackers = {name: keras.metrics.Mean(name=name) for name in names}

    @property
    def loss_parts(self) -> tuple[str, ...]:
        return tuple(name for name in self.loss_trackers if name != "word_accuracy")

    @property
    def scheduled_sampling(self) -> float:
        """The chance in use; what is assigned holds from the next step on."""
        return self._arguments["scheduled_sampling"]

    @scheduled_sampling.setter
    def scheduled_sampling(self, chance: float) -> None:
        if not 0 <= chance <= 1:
            raise ValueError(f"`scheduled_sampling` must be a chance, 0 to 1. Received: scheduled_sampling={chance!r}")
        self._arguments["scheduled_sampling"] = float(chance)
        begins = chance > 0 and self.draws is None
        strategy = getattr(self, "distribute_strategy", None)
        with contextlib.nullcontext() if strategy is None else strategy.scope():
            if begins:
                self.draws, self._rate = keras.random.SeedGenerator(), _Rate()
            if self._rate is not None:
                self._rate.state.assign(chance)
        if begins and self.train_function is not None:
            # A step that was traced without a second pass knows of none.
            self.make_train_function(force=True)

    @property
    def attends(self) -> bool:
        """Whether the decoder has attention over places."""
        return self.decoder.kind in ("soft", "hard")

    def call(self, inputs, training=None, mask=None):
        if not isinstance(inputs, Mapping):
            return self.search(self.encoder(inputs, training=training))
        annotations = inputs.get("annotations")
        if annotations is None:
            annotations = self.encoder(inputs["image"], training=training)
        if "tokens" not in inputs:
            return self.search(annotations)
        flat, grid = flatten(annotations)
        tokens = inputs["tokens"]
        if training and self.draws is not None:
            tokens = self._with_own_words(flat, tokens)
        found = self.decoder.teach(flat, tokens, training=bool(training))
        if "attention" in found and self.attends:
            found["maps"] = ops.reshape(found["attention"], (*ops.shape(found["attention"])[:3], *grid))
        return found

    def _with_own_words(self, annotations, tokens):
        """Captions (B, N, T + 1) some of whose words are those that the network says there, given the true ones."""
        logits = ops.stop_gradient(self.decoder.teach(annotations, tokens)["logits"])
        # An end is not put in either: nothing is ever said after one.
        never = ops.sum(ops.one_hot(ops.array((*self.search.banned, END)), logits.shape[-1]), axis=0)
        own = ops.cast(ops.argmax(logits - 1e9 * never, axis=-1), "int32")
        tokens = ops.cast(tokens, "int32")
        own = ops.concatenate([tokens[:, :, :1], own], axis=-1)
        drawn = keras.random.uniform(ops.shape(tokens), seed=self.draws) < ops.convert_to_tensor(self._rate.state)
        is_word = ops.logical_and(ops.logical_and(tokens != PAD, tokens != START), tokens != END)
        return ops.where(ops.logical_and(drawn, is_word), own, tokens)

    def compile(self, optimizer="rmsprop", *arguments: Any, auto_scale_loss: bool = True, **settings: Any) -> None:
        """As that of `ModelOfParts`: the loss is scaled where the encoder or the decoder computes in float16, which
        Keras would see by the policy of the whole model alone."""
        optimizer = keras.optimizers.get(optimizer)
        scaled = keras.optimizers.LossScaleOptimizer
        if auto_scale_loss and optimizer and not isinstance(optimizer, scaled) and self._computes_in_float16():
            optimizer = scaled(optimizer, name="loss_scale_optimizer")
        super().compile(optimizer, *arguments, **settings)

    def _computes_in_float16(self) -> bool:
        return any(layer.compute_dtype == "float16" for layer in (*self.encoder._flatten_layers(), self.decoder))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """This replica's share of the mean over captions; what a picture lacks in captions (rows of PAD) is not one.

        Raises:
            ValueError: `sample_weight` is neither of pictures nor of captions.
            ModelError: captions are missing among the inputs or are not the targets.
        """
        self._check_captions(y, y_pred)
        targets = ops.cast(y, "int32")[:, :, 1:]
        mask = ops.cast(targets != PAD, "float32")
        captions = _weighted(ops.max(mask, axis=-1), sample_weight)
        counted = mask * captions[..., None]
        number, words = ops.sum(captions), ops.sum(counted)
        # Of the global batch, so that a caption weighs the same whichever replica has it.
        count = _or_one(sum_over_replicas(number))
        weights = self.weights_of_losses
        cost = word_cross_entropy(y_pred["logits"], targets, mask)
        logits = ops.stop_gradient(y_pred["logits"])
        right = ops.take_along_axis(logits, targets[..., None], axis=-1)[..., 0] >= ops.max(logits, axis=-1)
        self.loss_trackers["word_accuracy"].update_state(
            ops.sum(ops.cast(right, "float32") * counted) / _or_one(words), words
        )
        shares = {"cross_entropy": ops.sum(cost * counted) / count}
        if weights["label_smoothing"]:
            even = ops.logsumexp(y_pred["logits"], axis=-1) - ops.mean(y_pred["logits"], axis=-1)
            share = weights["label_smoothing"]
            trained = ops.sum(((1 - share) * cost + share * even) * counted) / count
        else:
            trained = shares["cross_entropy"]
        sums = [self.part_weight("cross_entropy") * trained]
        if "doubly_stochastic" in self.loss_trackers:
            shares["doubly_stochastic"] = ops.sum(doubly_stochastic(y_pred["attention"], mask) * captions) / count
            weight = self.part_weight("doubly_stochastic") * weights["doubly_stochastic_weight"]
            sums.append(weight * shares["doubly_stochastic"])
        if self.baseline is not None:
            shares["reinforce"] = self._reinforce(ops.sum(cost, axis=-1), captions, count, mask, y_pred, training)
            if training:
                sums.append(self.part_weight("reinforce") * shares["reinforce"])
        for name, share in shares.items():
            # Batches differ in captions, and the last one of a data set may be empty.
            self.loss_trackers[name].update_state(share * count / _or_one(number), number)
        total = sum(sums) if training else as_measured(sum(sums), ops.shape(targets)[0])
        return total + sum(ops.cast(loss, "float32") for loss in self.losses) / replica_count()

    def _check_captions(self, y, y_pred):
        if "logits" not in y_pred or len(getattr(y, "shape", ())) != 3:
            given = "without" if "logits" not in y_pred else "with"
            raise ModelError(
                f"{self.name} is fitted and evaluated with captions, tokens (B, N, T + 1), as inputs and as targets: "
                '`fit({"image": pictures, "tokens": tokens}, tokens)`. Received: inputs '
                f"{given} tokens and targets of shape {getattr(y, 'shape', None)}"
            )

    def _reinforce(self, cost, captions, count, mask, y_pred, training):
        weights = self.weights_of_losses
        surrogate = reinforce_attention(
            cost,
            ops.convert_to_tensor(self.baseline),
            y_pred["attention"],
            y_pred["used"],
            mask,
            # A step that used the expected context drew nothing that could have been better or worse.
            reward_weight=weights["reinforce_weight"] * y_pred["drawn"],
            entropy_weight=weights["entropy_weight"],
        )
        if training:
            mean = sum_over_replicas(ops.sum(ops.stop_gradient(cost) * captions)) / count
            self.baseline.assign(_BASELINE_MEMORY * self.baseline + (1 - _BASELINE_MEMORY) * mean)
        return ops.sum(surrogate * captions) / count

    def with_search(self, **changes: Any) -> Captioner:
        """The same network (shared weights) with another search: `max_words`, `beam_size`, `length_penalty`,
        `ban_unknown`.

        >>> greedy = model.with_search(beam_size=1)  # doctest: +SKIP
        """
        allowed = ("max_words", "beam_size", "length_penalty", "ban_unknown")
        unknown = sorted(set(changes) - set(allowed))
        if unknown:
            raise TypeError(f"with_search() takes {allowed}. Received: {unknown}.")
        changed = Captioner(self.encoder, self.decoder, **{**self._arguments, **changes}, name=self.name)
        if self.baseline is not None:
            # What training goes on from is the network's, too; afterwards each moves its own.
            changed.baseline.assign(self.baseline)
        return changed

    def sample(self, pictures, count: int = 1, *, temperature: float = 1.0, seed: int | None = None) -> dict[str, Any]:
        """Sentences drawn from the model: as the output of a call, with an axis of `count` after the first.

        Args:
            pictures: (B, H, W, C) in 0..255.
            count: sentences a picture.
            temperature: above 1 more varied, below 1 nearer to the likeliest words.
            seed: of the draws.
        """
        flat, grid = flatten(self.encoder(ops.convert_to_tensor(pictures)))
        memory = self.decoder.prepare(flat)
        shape = (ops.shape(flat)[0], count, self.search.max_words)
        found = sample_words(
            lambda state, tokens: self.decoder.step(memory, state, tokens),
            self.decoder.begin(memory, count),
            keras.random.uniform(shape, seed=seed),
            temperature=temperature,
            banned=self.search.banned,
            places=ops.shape(flat)[1] if self.attends else None,
        )
        if self.attends:
            found["attention"] = ops.reshape(found["attention"], (*shape, *grid))
        return found

    def get_config(self):
        return {
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "decoder": keras.saving.serialize_keras_object(self.decoder),
            "name": self.name,
            **self._arguments,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for part in ("encoder", "decoder"):
            config[part] = keras.saving.deserialize_keras_object(config[part], custom_objects)
        config["input_shape"] = tuple(config["input_shape"])
        return cls(**config)


class _Rate(keras.random.SeedGenerator):
    """A number that steps read anew and no file keeps.

    Keras has such a place for the state of random numbers alone: with the variables of a model, so that the steps of
    every backend and the replicas of a strategy see what is assigned, and not among its weights.
    """

    def __init__(self):
        self.state = keras.Variable(0.0, dtype="float32", trainable=False, aggregation="mean", name="rate")

    def get_config(self):
        return {}


def _weighted(captions, sample_weight):
    """(B, N): 1 for each caption and 0 for none, by the weights of pictures (B,) or of captions (B, N)."""
    if sample_weight is None:
        return captions
    given = ops.cast(sample_weight, "float32")
    given = given[:, None] if len(given.shape) == 1 else given
    most = captions.shape[1]
    if len(given.shape) != 2 or (most is not None and given.shape[1] not in (None, 1, most)):
        raise ValueError(
            f"`sample_weight` must be one number a picture (B,) or a caption (B, N), here N = {most}. "
            f"Received: sample_weight of shape {tuple(sample_weight.shape)}."
        )
    return captions * given


def _or_one(total):
    """A sum that is divided by; 1 where it is 0."""
    return ops.where(total > 0, total, ops.ones_like(total))


def weights_of_backbone(weights: str | os.PathLike | None) -> str | os.PathLike | None:
    """`weights` if they are of the whole network; other people's files are of the decoder alone."""
    return weights if weights is not None and str(weights).endswith((".keras", ".h5")) else None


def load_captioner(model: Captioner, path: str | os.PathLike) -> None:
    """Loads the weights at `path`, all of them: a decoder in part would speak in the words of another vocabulary.

    Raises:
        ModelError: the file cannot be read or is of another network or vocabulary.
    """
    try:
        load_weights(model, path, whole=True)
    except ModelError as error:
        if not (os.path.exists(path) and str(path).endswith((".keras", ".h5"))):
            raise
        raise ModelError(
            f"{error} The network asked for has num_classes={model.decoder.vocabulary_size}: give the length of the "
            "vocabulary that the weights were trained with, and the other options of its network, such as backbone: "
            '`kcvl train show_attend_tell` has "resnet14_v1_5" from random numbers, and the builder alone "vgg19".'
        ) from error


__all__ = ["Captioner", "flatten", "load_captioner", "weights_of_backbone"]
