"""The upsampling operators of the lectures: repetition, interpolation, bed of nails, bilinear transposed convolution.

Max unpooling is in `unpooling`. Learnt transposed convolutions are `keras.layers.Conv1DTranspose` and `Conv2DTranspose`
(with stride 2, `SubPixelConv2DTranspose` is the same function, faster on phones); `convolution_matrix` writes one down.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

Shape = tuple[int | None, ...]
INTERPOLATIONS = ("nearest", "bilinear", "bicubic")


@keras.saving.register_keras_serializable("keras_cv_lectures")
class Upsample(keras.layers.Layer):
    """Enlarges height and width by a whole factor: repetition, or interpolation between pixel centres.

    Output pixel i reads position (i + 0.5) / factor - 0.5 of the input; beyond the border the border pixel counts.
    Unlike `keras.layers.UpSampling2D`, every form can be exported with unknown height and width and to TensorFlow Lite.

    Input shape: (B, H, W, C). Output shape: (B, factor * H, factor * W, C).

    >>> x = np.array([[1, 2], [3, 4]], "float32").reshape(1, 2, 2, 1)
    >>> Upsample(2)(x)[0, :, :, 0]
    [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    >>> Upsample(2, "bilinear")(x[:, :1])[0, 0, :, 0]
    [1., 1.25, 1.75, 2.]
    >>> Upsample(2, "bilinear", align_corners=True)(x[:, :1])[0, 0, :, 0]
    [1., 1.333, 1.667, 2.]

    Args:
        factor: at least 1.
        interpolation: "nearest"; "bilinear"; or "bicubic", Keys's cubic convolution (1981).
        align_corners: put the first and the last output pixel upon those of the input, output pixel i at
            i * (H - 1) / (factor * H - 1). Not with "nearest".
        cubic_coefficient: a of Keys's kernel, used by "bicubic" alone. -0.75 is torch's and OpenCV's, -0.5 Keys's own
            and TensorFlow's (which differs at the border, where it leaves out what lies beyond).

    Raises:
        ValueError: for other settings.
    """

    def __init__(
        self,
        factor: int = 2,
        interpolation: str = "nearest",
        *,
        align_corners: bool = False,
        cubic_coefficient: float = -0.75,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.factor = _positive("factor", factor)
        if interpolation not in INTERPOLATIONS:
            raise ValueError(f"`interpolation` must be one of {INTERPOLATIONS}. Received: {interpolation!r}")
        if interpolation == "nearest" and align_corners:
            raise ValueError('`align_corners` needs interpolation="bilinear" or "bicubic". Received: "nearest"')
        self.interpolation = interpolation
        self.align_corners = align_corners
        self.cubic_coefficient = cubic_coefficient

    def call(self, x):
        height, width = ops.shape(x)[1:3]
        if self.interpolation == "bicubic" or self.align_corners:
            return self._by_matrices(x, height, width)
        if isinstance(height, int) and isinstance(width, int):
            return ops.image.resize(x, (self.factor * height, self.factor * width), interpolation=self.interpolation)
        # keras.ops.image.resize fails in an exported graph when the size is a tensor (Keras 3.15).
        import tensorflow as tf

        size = tf.stack([self.factor * height, self.factor * width])
        return ops.cast(tf.image.resize(x, size, method=self.interpolation), x.dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, channels = input_shape
        return batch, height and self.factor * height, width and self.factor * width, channels

    def get_config(self):
        return {
            **super().get_config(),
            "factor": self.factor,
            "interpolation": self.interpolation,
            "align_corners": self.align_corners,
            "cubic_coefficient": self.cubic_coefficient,
        }

    def _by_matrices(self, x, height, width):
        """One product an axis, without transposition: rows (H', H) x (B, H, W C), columns (W', W) x (B, H', W, C)."""
        channels = x.shape[3]
        rows, columns = (
            ops.cast(
                _weights(size, self.factor * size, self.interpolation, self.align_corners, self.cubic_coefficient),
                x.dtype,
            )
            for size in (height, width)
        )
        x = ops.matmul(rows, ops.reshape(x, (-1, height, width * channels)))
        return ops.matmul(columns, ops.reshape(x, (-1, self.factor * height, width, channels)))


@keras.saving.register_keras_serializable("keras_cv_lectures")
class BedOfNails(keras.layers.Layer):
    """Puts each pixel at the top left of a block of zeros: the Kronecker product with [[1, 0], [0, 0]].

    "Fixed unpooling": Dosovitskiy, Springenberg, Brox (2015, arXiv 1411.5928, section 3) follow it with a convolution.

    Input shape: (B, H, W, C). Output shape: (B, factor * H, factor * W, C).

    >>> BedOfNails(2)(np.array([[1, 2], [3, 4]], "float32").reshape(1, 2, 2, 1))[0, :, :, 0]
    [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]

    Args:
        factor: side of the block, at least 1.
    """

    def __init__(self, factor: int = 2, **kwargs):
        super().__init__(**kwargs)
        self.factor = _positive("factor", factor)

    def call(self, x):
        _, height, width, channels = ops.shape(x)
        # In memory an output row is every input pixel followed by zeros, and rows of zeros follow it.
        row = ops.pad(x, [[0, 0], [0, 0], [0, 0], [0, (self.factor - 1) * channels]])
        rows = ops.concatenate([row] + [ops.zeros_like(row)] * (self.factor - 1), axis=2)
        return ops.reshape(rows, (-1, self.factor * height, self.factor * width, channels))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, channels = input_shape
        return batch, height and self.factor * height, width and self.factor * width, channels

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


@keras.saving.register_keras_serializable("keras_cv_lectures")
class BilinearConv2DTranspose(keras.layers.Layer):
    """Transposed convolution of every channel by itself, initialised to bilinear interpolation (FCN's upsampling).

    The function of `keras.layers.Conv2DTranspose(C, k, strides=f, kernel_initializer=Bilinear(), use_bias=False)` as
    long as channels do not mix: C kernels instead of C^2, of which all but C are zero. Zeros lie beyond the border.

    Input shape: (B, H, W, C).
    Output shape: (B, (H - 1) * f + k, (W - 1) * f + k, C) with padding "valid", (B, f * H, f * W, C) with "same".

    >>> x = np.array([1, 2], "float32").reshape(1, 1, 2, 1)
    >>> BilinearConv2DTranspose(2, padding="same")(x)[0, 0, :, 0] / 0.75  # of the single row 0.75 is left
    [0.75, 1.25, 1.75, 1.5]

    Args:
        factor: f, the stride, at least 1.
        kernel_size: k, at least f; default 2 f - f % 2, which interpolates.
        trainable: whether the kernel (k, k, C) is learnt. FCN's paper fixes the last upsampling and learns the others.
        padding: "valid", or "same", which removes (k - f) // 2 rows at the top and the rest of k - f at the bottom, as
            Keras does.

    Raises:
        ValueError: for other settings.
    """

    def __init__(
        self,
        factor: int,
        kernel_size: int | None = None,
        *,
        trainable: bool = False,
        padding: str = "valid",
        **kwargs,
    ):
        super().__init__(trainable=trainable, **kwargs)
        self.factor = _positive("factor", factor)
        self.kernel_size = 2 * factor - factor % 2 if kernel_size is None else kernel_size
        if not isinstance(self.kernel_size, int) or self.kernel_size < factor:
            raise ValueError(f"`kernel_size` must be an integer >= factor={factor}. Received: {kernel_size!r}")
        if padding not in ("valid", "same"):
            raise ValueError(f'`padding` must be "valid" or "same". Received: padding={padding!r}')
        self.padding = padding

    def build(self, input_shape):
        shape = (self.kernel_size, self.kernel_size, input_shape[-1])
        self.kernel = self.add_weight(shape=shape, initializer=Bilinear(), name="kernel")

    def call(self, x):
        f, (_, height, width, channels) = self.factor, ops.shape(x)
        taps = -(-self.kernel_size // f)  # input pixels that reach an output pixel, along an axis
        spare = taps * f - self.kernel_size
        # kernel[t f + p] weighs the input t pixels before, for the output pixels f i + p.
        kernel = ops.reshape(ops.pad(self.kernel, [[0, spare], [0, spare], [0, 0]]), (taps, f, taps, f * channels, 1))
        kernel = ops.flip(kernel, (0, 2))
        around = taps - 1
        x = ops.pad(x, [[0, 0], [around, around], [around, around], [0, 0]])
        # Depthwise convolutions, one for each remainder of the output row, whose channels are the f pixels of a row.
        x = ops.concatenate([x] * f, axis=3)
        rows = [ops.depthwise_conv(x, kernel[:, row], strides=1, padding="valid") for row in range(f)]
        x = ops.reshape(ops.concatenate(rows, axis=2), (-1, (height + around) * f, (width + around) * f, channels))
        crop = 0 if self.padding == "valid" else (self.kernel_size - f) // 2
        height, width = self._upsampled(height), self._upsampled(width)
        return x[:, crop : crop + height, crop : crop + width]

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, channels = input_shape
        return batch, self._upsampled(height), self._upsampled(width), channels

    def get_config(self):
        return {
            **super().get_config(),
            "factor": self.factor,
            "kernel_size": self.kernel_size,
            "padding": self.padding,
        }

    def _upsampled(self, size):
        if size is None:
            return None
        return size * self.factor if self.padding == "same" else (size - 1) * self.factor + self.kernel_size


@keras.saving.register_keras_serializable("keras_cv_lectures")
class Bilinear(keras.initializers.Initializer):
    """Initialises a transposed convolution to bilinear interpolation of each channel by itself.

    For `keras.layers.Conv2DTranspose(K, k, strides=f)` on K channels, with k = 2 f - f % 2: the kernel (k, k, out, in)
    is `bilinear_kernel(k)` where out == in, and zero elsewhere. A kernel (k, k, C) gets it for every channel.

    Raises:
        ValueError: for kernels of another shape.
    """

    def __call__(self, shape, dtype=None):
        if len(shape) not in (3, 4) or shape[0] != shape[1]:
            raise ValueError(
                f"`Bilinear` initialises kernels (k, k, out, in) or (k, k, channels). Received: shape={tuple(shape)}"
            )
        across = np.ones(shape[2]) if len(shape) == 3 else np.eye(shape[2], shape[3])
        kernel = np.multiply.outer(bilinear_kernel(shape[0]), across)
        return ops.convert_to_tensor(kernel, dtype=dtype or keras.config.floatx())


def bilinear_kernel(size: int) -> np.ndarray:
    """Kernel (size, size), float32, of the transposed convolution that interpolates (FCN, arXiv 1411.4038, 3.3).

    The outer product of a triangle with itself, whose top lies between two entries where `size` is even.

    >>> 16 * bilinear_kernel(4)[0]
    [1., 3., 3., 1.]

    Raises:
        ValueError: for a size below 1.
    """
    size = _positive("size", size)
    reach = (size + 1) // 2
    triangle = 1 - np.abs(np.arange(size) - (size - 1) / 2) / reach
    return np.outer(triangle, triangle).astype("float32")


def convolution_matrix(kernel: np.ndarray, length: int, stride: int = 1, padding: int = 0) -> np.ndarray:
    """The 1-D convolution of deep learning (the kernel is not flipped) as a matrix.

    `matrix @ x` is the convolution of x (length,), zeros beyond its border. `matrix.T @ y` is the transposed
    convolution: it adds y[i] * kernel from position i * stride - padding on. With stride 1 that is a convolution again,
    with the kernel flipped; with a larger stride it is not, it enlarges.

    >>> convolution_matrix([1, 2, 3], length=6)
    [[1, 2, 3, 0, 0, 0], [0, 1, 2, 3, 0, 0], [0, 0, 1, 2, 3, 0], [0, 0, 0, 1, 2, 3]]
    >>> convolution_matrix([1, 2, 3], length=5, stride=2).T @ [10, 100]
    [10, 20, 130, 200, 300]

    Args:
        kernel: (k,).
        length: of x. As the length of the transposed convolution's result, it says how many of the `stride` possible
            lengths is meant ("output padding").
        stride: at least 1.
        padding: zeros on either side of x.

    Returns:
        ((length + 2 padding - k) // stride + 1, length), with the kernel's dtype.

    Raises:
        ValueError: where the kernel does not fit on the padded x.
    """
    kernel = np.asarray(kernel)
    stride = _positive("stride", stride)
    if kernel.ndim != 1 or padding < 0 or not 0 < len(kernel) <= length + 2 * padding:
        raise ValueError(
            "`kernel` must be one row, not longer than the padded input of length + 2 * padding entries. "
            f"Received: kernel of shape {kernel.shape}, length={length}, padding={padding}"
        )
    rows = (length + 2 * padding - len(kernel)) // stride + 1
    matrix = np.zeros((rows, length + 2 * padding), kernel.dtype)
    for row in range(rows):
        matrix[row, row * stride : row * stride + len(kernel)] = kernel
    return matrix[:, padding : padding + length]


def interpolation_matrix(
    size: int,
    new_size: int,
    interpolation: str = "bilinear",
    *,
    align_corners: bool = False,
    cubic_coefficient: float = -0.75,
) -> np.ndarray:
    """Matrix (new_size, size), float32, that resizes a row of pixels by interpolation, as `Upsample` does, to any size.

    `rows @ picture @ columns.T` resizes a picture (H, W). Every row of the matrix sums to one.

    >>> interpolation_matrix(2, 4)
    [[1., 0.], [0.75, 0.25], [0.25, 0.75], [0., 1.]]

    Args:
        size, new_size: pixels before and after.
        interpolation: "nearest" (of two pixels at the same distance the later), "bilinear" or "bicubic".
        align_corners, cubic_coefficient: as in `Upsample`.

    Raises:
        ValueError: for other settings.
    """
    _positive("size", size), _positive("new_size", new_size)
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"`interpolation` must be one of {INTERPOLATIONS}. Received: {interpolation!r}")
    return ops.convert_to_numpy(_weights(size, new_size, interpolation, align_corners, cubic_coefficient))


def _weights(size, new_size, interpolation: str, align_corners: bool, a: float):
    """`interpolation_matrix` as a tensor; the sizes may be tensors too."""
    pixels = ops.cast(ops.arange(size), "float32")
    position = ops.cast(ops.arange(new_size), "float32")
    last, count = ops.cast(size - 1, "float32"), ops.cast(new_size, "float32")
    if align_corners:
        position = position * last / ops.maximum(count - 1, 1)
    else:
        position = (position + 0.5) * ((last + 1) / count) - 0.5
    if interpolation == "nearest":
        taps = [(ops.floor(position + 0.5), ops.ones_like(position))]
    else:
        before = ops.floor(position)
        kernel, offsets = (_triangle, (0, 1)) if interpolation == "bilinear" else (_cubic, (-1, 0, 1, 2))
        taps = [(before + offset, kernel(ops.abs(position - before - offset), a)) for offset in offsets]
    # Beyond the border the border pixel counts, so it may get the weights of several taps.
    return sum(weight[:, None] * ops.cast(ops.clip(tap, 0, last)[:, None] == pixels, "float32") for tap, weight in taps)


def _triangle(distance, _):
    return 1 - distance


def _cubic(distance, a: float):
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return ops.where(distance <= 1, near, far)


def _positive(name: str, value: int) -> int:
    if not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
    return int(value)
