"""Attention over annotation vectors: soft (a weighted mean) and hard (one place, sampled).

Bahdanau, Cho, Bengio, "Neural Machine Translation by Jointly Learning to Align and Translate", ICLR 2015;
Xu et al., "Show, Attend and Tell", ICML 2015.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

_FAR_BELOW = -1e9


@keras.saving.register_keras_serializable("keras_cv_lectures")
class SoftAttention(keras.layers.Layer):
    """Additive attention: scores v . act(W_a a_i + W_h h), softmax over the places i, and the mean of a under it.

    Input: [annotations (B, L, D), query (B, H) or (B, N, H)]; several queries (captions, beams) of one picture share
    its annotations. Output: (context (B, D) or (B, N, D), weights (B, L) or (B, N, L), which sum to 1), float32.
    An optional mask (B, L), true where there is an annotation, keeps the others' weights at 0.

    Differs from the paper: no bias of the score, which changes nothing. `normalize` is weight normalisation of v with a
    bias before the activation, as in tensorflow-addons.

    Args:
        units: width of the space where annotations and queries meet.
        activation: "tanh" or "relu".
        depth: layers of the annotations' projection; the first is linear, further ones end in tanh, as the paper's code
            has them on COCO.
        use_bias: biases of the annotations' projection. The score has none: softmax removes constants.
        query_bias: a bias of the query's projection too.
        normalize: v is g v / |v|.
        temperature: multiplies the scores.

    >>> attention = SoftAttention(8)
    >>> context, weights = attention([keras.ops.ones((1, 4, 3)), keras.ops.ones((1, 5))])
    >>> weights.shape, bool(abs(float(keras.ops.sum(weights)) - 1) < 1e-6)
    (TensorShape([1, 4]), True)
    """

    def __init__(
        self,
        units: int,
        *,
        activation: str = "tanh",
        depth: int = 1,
        use_bias: bool = True,
        query_bias: bool = True,
        normalize: bool = False,
        temperature: float = 1.0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if activation not in ("tanh", "relu"):
            raise ValueError(f'`activation` must be "tanh" or "relu". Received: activation={activation!r}')
        for name, value in (("units", units), ("depth", depth)):
            if not (isinstance(value, int) and value >= 1):
                raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
        if not temperature > 0:
            raise ValueError(f"`temperature` must be positive. Received: temperature={temperature!r}")
        self.units, self.activation, self.depth = units, activation, depth
        self.use_bias, self.query_bias, self.normalize, self.temperature = use_bias, query_bias, normalize, temperature
        self.annotation_layers = [
            keras.layers.Dense(
                units,
                activation="tanh" if k > 1 else None,
                use_bias=use_bias,
                dtype=self.dtype_policy,
                name=f"annotations_{k}",
            )
            for k in range(1, depth + 1)
        ]
        self.query_layer = keras.layers.Dense(units, use_bias=query_bias, dtype=self.dtype_policy, name="query")
        self.supports_masking = True

    def build(self, input_shape):
        annotations, query = input_shape
        width = annotations[-1]
        for layer in self.annotation_layers:
            layer.build((None, None, width))
            width = self.units
        self.query_layer.build((None, query[-1]))
        add = self.add_weight
        self.score = add(shape=(self.units,), initializer=_score_initializer(self.units), name="score")
        self.gain = self.shift = None
        if self.normalize:
            self.gain = add(shape=(), initializer=keras.initializers.Constant(self.units**-0.5), name="gain")
            self.shift = add(shape=(self.units,), initializer="zeros", name="shift")
        self.built = True

    def project(self, annotations):
        """Annotations (B, L, D) -> (B, L, units): the part of the scores that no query changes. Once a picture."""
        for layer in self.annotation_layers:
            annotations = layer(annotations)
        projected = ops.cast(annotations, "float32")
        return projected if self.shift is None else projected + ops.cast(self.shift, "float32")

    def score_vector(self):
        """The vector v (units,) that scores are products with, float32."""
        score = ops.cast(self.score, "float32")
        if self.gain is None:
            return score
        return score * (ops.cast(self.gain, "float32") * ops.rsqrt(ops.sum(ops.square(score))))

    def weigh(self, projected, query, mask=None):
        """Weights (B, N, L) of queries (B, N, H) over annotations projected (B, L, units)."""
        asked = ops.cast(self.query_layer(query), "float32")
        scores = additive_scores(projected, asked, self.score_vector(), self.activation) * self.temperature
        if mask is not None:
            scores = ops.where(ops.cast(mask, "bool")[:, None], scores, _FAR_BELOW)
        return place_probabilities(scores)

    def look(self, weights, training=False):
        """The weights (B, N, L) that the context is the mean under: the attention itself."""
        del training
        return weights

    def call(self, inputs, mask=None, training=False):
        annotations, query = inputs
        mask = mask[0] if isinstance(mask, list | tuple) else mask
        single = len(query.shape) == 2
        query = query[:, None] if single else query
        weights = self.weigh(self.project(annotations), query, mask)
        context = ops.matmul(self.look(weights, training), ops.cast(annotations, "float32"))
        return (context[:, 0], weights[:, 0]) if single else (context, weights)

    def compute_mask(self, inputs, previous_mask=None):
        """None: places end here."""
        del inputs, previous_mask

    def compute_output_shape(self, input_shape):
        annotations, query = input_shape
        return (*query[:-1], annotations[-1]), (*query[:-1], annotations[-2])

    def compute_output_spec(self, inputs, mask=None, training=False):
        shapes = self.compute_output_shape([tuple(x.shape) for x in inputs])
        return tuple(keras.KerasTensor(shape, dtype="float32") for shape in shapes)

    def get_config(self):
        names = ("units", "activation", "depth", "use_bias", "query_bias", "normalize", "temperature")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable("keras_cv_lectures")
class HardAttention(SoftAttention):
    """Stochastic attention: the context is the annotation at one place, drawn with the weights as probabilities.

    Input and output as `SoftAttention`; the returned weights are the probabilities. A place that is drawn has no
    derivative: the gradient with respect to the weights comes from REINFORCE, see
    `losses.captions.reinforce_attention`, which needs the draw itself: `sample(weights)` gives it.

    Differs from the paper: none. Outside training the context is the expected one, as in the paper's code; "argmax"
    takes the likeliest place instead, "sample" draws there as well.

    Args:
        inference: "expected", "argmax" or "sample".
        seed: of the draws.
        others: as `SoftAttention`.
    """

    def __init__(self, units: int, *, inference: str = "expected", seed: int | None = None, **kwargs: Any):
        super().__init__(units, **kwargs)
        if inference not in ("expected", "argmax", "sample"):
            raise ValueError(f'`inference` must be "expected", "argmax" or "sample". Received: inference={inference!r}')
        self.inference, self.seed = inference, seed
        self.draws = keras.random.SeedGenerator(seed)

    def sample(self, weights):
        """One place for each row of `weights` (..., L), as a one-hot row. No gradient."""
        return draw_places(weights, keras.random.uniform(ops.shape(weights)[:-1], seed=self.draws))

    def look(self, weights, training=False):
        if training or self.inference == "sample":
            return self.sample(weights)
        return likeliest_places(weights) if self.inference == "argmax" else weights

    def get_config(self):
        return {**super().get_config(), "inference": self.inference, "seed": self.seed}


def additive_scores(projected, query, score, activation: str = "tanh"):
    """Scores (B, N, L) from annotations projected (B, L, A), queries projected (B, N, A) and the vector (A,)."""
    met = meet(projected, query, activation)
    # As a product of two matrices: TensorFlow's product of a rank-4 tensor and a matrix may crash on CPUs.
    scores = ops.matmul(ops.reshape(met, (-1, met.shape[-1])), score[:, None])
    return ops.reshape(scores, ops.shape(met)[:3])


def meet(projected, query, activation: str = "tanh"):
    """act(projected + query) (B, N, L, A) for every query and place."""
    total = projected[:, None] + query[:, :, None]
    return ops.tanh(total) if activation == "tanh" else ops.relu(total)


def place_probabilities(scores):
    """Softmax over the last axis."""
    # Keras warns of a softmax over one place, which is what a picture's mean has.
    return ops.softmax(scores, axis=-1) if scores.shape[-1] != 1 else ops.ones_like(scores) + 0 * scores


def draw_places(weights, uniform):
    """One-hot rows (..., L): the place where the running sum of the weights passes a number in 0..1 of shape (...)."""
    weights = ops.stop_gradient(weights)
    running = ops.cumsum(weights, axis=-1)
    # Rounding may leave the whole sum a little below 1: the last place with any weight then stands for the rest.
    passed = ops.cast(running <= (uniform[..., None] * running[..., -1:]), "int32")
    place = ops.minimum(ops.sum(passed, axis=-1), weights.shape[-1] - 1)
    return ops.one_hot(place, weights.shape[-1], dtype=weights.dtype)


def likeliest_places(weights):
    """One-hot rows at the greatest weight, the first of equal ones."""
    _, place = ops.top_k(ops.stop_gradient(weights), 1)  # ops.argmax is not a LiteRT builtin.
    return ops.one_hot(place[..., 0], weights.shape[-1], dtype=weights.dtype)


def _score_initializer(units: int):
    bound = (6.0 / (units + 1)) ** 0.5  # Glorot's, of a dense layer with one unit
    return keras.initializers.RandomUniform(-bound, bound)


__all__ = [
    "HardAttention",
    "SoftAttention",
    "additive_scores",
    "draw_places",
    "likeliest_places",
    "meet",
    "place_probabilities",
]
