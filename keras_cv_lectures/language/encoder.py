"""The encoder of captioners: a picture -> a map of annotation vectors."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from keras_cv_lectures.backbones import resolve_backbone
from keras_cv_lectures.layers import ImageNormalization
from keras_cv_lectures.signatures import check_axes


def caption_encoder(
    input_shape: tuple[int | None, int | None, int],
    backbone: str | keras.Model,
    *,
    weights: str | None = None,
    frozen: bool | None = None,
    stage: str = "c4",
    grid: tuple[int, int] | None = None,
    output_stride: int = 32,
    positions: bool = False,
) -> keras.Model:
    """Pictures (B, H, W, C) in 0..255 -> annotations (B, h, w, D) of one stage of a backbone.

    Args:
        input_shape: (height or None, width or None, channels).
        backbone, weights, output_stride: see `backbones.resolve_backbone`.
        frozen: not trained, and its batch normalisation a constant; None: if it has pretrained weights. A model of
            one's own is trained by None as far as its layers are trainable; True and False are for a copy of it with
            the weights that it has now, so that the model that is given stays as it is.
        stage: name in the backbone's output.
        grid: (h, w) that the map is averaged to; None: as it is.
        positions: each annotation also says where it is, see `AppendPositions`; D is two more.

    Raises:
        ValueError: for a stage that the backbone does not have, or where Keras is set to channels first.
    """
    check_axes()
    network, convention = resolve_backbone(backbone, input_shape[-1], weights, output_stride)
    if stage not in network.output:
        raise ValueError(
            f"`annotation_stage` must be one of {sorted(network.output)}. Received: annotation_stage={stage!r}"
        )
    network = keras.Model(network.input, network.output[stage], name="backbone")
    if isinstance(backbone, str):
        frozen = weights is not None if frozen is None else frozen
    elif frozen is not None:
        given = network.get_weights()
        network = keras.models.clone_model(network)
        network.set_weights(given)
        # Off and on: TensorFlow hands on to a model's layers only what changes in the model itself.
        network.trainable = False
        network.trainable = True
    if frozen:
        network.trainable = False
    image = keras.Input(tuple(input_shape), name="image")
    picture = ImageNormalization(convention, name="normalize")(image)
    annotations = network(picture, training=False) if frozen else network(picture)
    if grid is not None:
        annotations = AverageToGrid(grid, name="grid")(annotations)
    if positions:
        annotations = AppendPositions(name="positions")(annotations)
    return keras.Model(image, annotations, name="encoder")


@keras.saving.register_keras_serializable("keras_cv_lectures")
class AverageToGrid(keras.layers.Layer):
    """Means over a grid of cells: (B, H, W, C) -> (B, rows, columns, C), as PyTorch's adaptive average pooling.

    Cell i covers floor(i H / rows) to ceil((i + 1) H / rows); a grid finer than the map repeats its values.

    Args:
        grid: (rows, columns).
    """

    def __init__(self, grid: tuple[int, int], **kwargs):
        super().__init__(**kwargs)
        if not (len(tuple(grid)) == 2 and all(isinstance(n, int) and n >= 1 for n in grid)):
            raise ValueError(f"`grid` must be (rows, columns), both 1 or more. Received: grid={grid!r}")
        self.grid = tuple(grid)

    def call(self, x):
        height, width = x.shape[1:3]
        if height is None or width is None:
            raise ValueError("`annotation_grid` needs pictures of one size. Give input_shape=(height, width, channels)")
        if (height, width) == self.grid:
            return x
        down, across = (_means(size, cells) for size, cells in ((height, self.grid[0]), (width, self.grid[1])))
        dtype = x.dtype
        rows = ops.reshape(x, (-1, height, width * x.shape[-1]))
        rows = ops.reshape(ops.matmul(ops.cast(down, dtype), rows), (-1, width, x.shape[-1]))
        return ops.reshape(ops.matmul(ops.cast(across, dtype), rows), (-1, *self.grid, x.shape[-1]))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *self.grid, input_shape[-1])

    def get_config(self):
        return {**super().get_config(), "grid": self.grid}


@keras.saving.register_keras_serializable("keras_cv_lectures")
class AppendPositions(keras.layers.Layer):
    """Two more channels, column and row of each place from -1 to 1 of its picture: (B, H, W, C) -> (B, H, W, C + 2).

    Liu et al., An Intriguing Failing of Convolutional Neural Networks and the CoordConv Solution, NeurIPS 2018,
    https://arxiv.org/abs/1807.03247; here the ends are those of the picture, not the middles of the outermost places.
    """

    def call(self, x):
        rows, columns = (
            _places(size, known, x.dtype) for size, known in zip(ops.shape(x)[1:3], x.shape[1:3], strict=True)
        )
        like = ops.zeros_like(x[..., :1])
        return ops.concatenate([x, like + columns[:, None], like + rows[:, None, None]], axis=-1)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], input_shape[-1] + 2)


def _places(size, known: int | None, dtype: str):
    """(size,): the middles of so many equal parts of -1 to 1."""
    if known is not None:
        return ops.convert_to_tensor((np.arange(known) * 2 + 1) / known - 1, dtype)
    places = ops.cast(ops.arange(size), "float32") * 2 + 1
    return ops.cast(places / ops.cast(size, "float32") - 1, dtype)


def _means(size: int, cells: int) -> np.ndarray:
    """(cells, size): the weights of each cell's mean."""
    matrix = np.zeros((cells, size), "float32")
    for k in range(cells):
        begin, end = k * size // cells, -(-(k + 1) * size // cells)
        matrix[k, begin:end] = 1 / (end - begin)
    return matrix


__all__ = ["AppendPositions", "AverageToGrid", "caption_encoder"]
