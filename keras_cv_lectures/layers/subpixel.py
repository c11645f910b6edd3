"""Transposed convolution as convolution + depth-to-space (Shi et al. 2016, arXiv 1609.05158, section 2.2).

A transposed convolution with stride 2 computes four interleaved pictures, one per parity of row and column, and each
of them is an ordinary convolution of the input. Computing the four as channels and interleaving them afterwards gives
the same numbers with operators that phones run fast.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

# Kernel size of the transposed convolution -> size of the equivalent convolution.
_CONV_SIZE = {2: 1, 4: 3}


@keras.saving.register_keras_serializable("keras_cv_lectures")
class SubPixelConv2DTranspose(keras.layers.Layer):
    """Transposed convolution with stride 2, computed as a convolution to 4 F channels and a depth-to-space.

    Equal to `keras.layers.Conv2DTranspose(F, kernel_size, strides=2, padding="same")` whose kernel went through
    `subpixel_kernel`. With `kernel_size=2` padding "valid" is the same thing.

    Input shape: (B, H, W, C). Output shape: (B, 2 H, 2 W, F).

    Args:
        filters: F, the number of output channels.
        kernel_size: 2 or 4, of the transposed convolution.
        activation: as in `keras.layers.Conv2DTranspose`.
        use_bias: whether each output channel has a bias.
    """

    def __init__(self, filters: int, kernel_size: int = 2, *, activation=None, use_bias: bool = True, **kwargs):
        super().__init__(**kwargs)
        if kernel_size not in _CONV_SIZE:
            raise ValueError(f"`kernel_size` must be one of {sorted(_CONV_SIZE)}. Received: kernel_size={kernel_size}")
        self.filters = filters
        self.kernel_size = kernel_size
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias

    def build(self, input_shape):
        size = _CONV_SIZE[self.kernel_size]
        self.kernel = self.add_weight(
            shape=(size, size, input_shape[-1], 4 * self.filters), initializer="glorot_uniform", name="kernel"
        )
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias") if self.use_bias else None

    def call(self, x):
        x = ops.conv(x, self.kernel, strides=1, padding="same")  # (B, H, W, 4 F)
        if self.bias is not None:
            # Before the interleaving: a convolution with bias is one operator everywhere.
            x = x + ops.tile(self.bias, 4)
        return self.activation(ops.depth_to_space(x, 2))  # (B, 2 H, 2 W, F)

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        return batch, height and 2 * height, width and 2 * width, self.filters

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
        }


def subpixel_kernel(kernel: np.ndarray) -> np.ndarray:
    """Kernel of the convolution that computes a stride-2 transposed convolution's four interleaved outputs.

    Output row o = 2 i + p of the transposed convolution sums input rows i + d times kernel rows t with
    o + (k - 2) / 2 = 2 (i + d) ... read backwards: t = p + (k - 2) / 2 - 2 d. For k = 2 only d = 0 occurs; for k = 4
    parity 0 uses t = 3 at d = -1 and t = 1 at d = 0, parity 1 uses t = 2 at d = 0 and t = 0 at d = 1.

    Args:
        kernel: (k, k, F, C) of `keras.layers.Conv2DTranspose`, k = 2 or 4.

    Returns:
        (s, s, C, 4 F) with s = 1 or 3, channels ordered (row parity, column parity, filter).

    Raises:
        ValueError: for another shape.
    """
    kernel = np.asarray(kernel)
    if kernel.ndim != 4 or kernel.shape[0] != kernel.shape[1] or kernel.shape[0] not in _CONV_SIZE:
        raise ValueError(f"`kernel` must be (k, k, filters, channels) with k = 2 or 4. Received: shape {kernel.shape}")
    k, _, filters, channels = kernel.shape
    size = _CONV_SIZE[k]
    reach, padding = size // 2, (k - 2) // 2
    # taps[p, d + reach, t] = 1 where parity p reads kernel row t at input offset d.
    taps = np.zeros((2, size, k), kernel.dtype)
    for parity in range(2):
        for offset in range(-reach, reach + 1):
            t = parity + padding - 2 * offset
            if 0 <= t < k:
                taps[parity, offset + reach, t] = 1
    converted = np.einsum("pit,qju,tufc->ijcpqf", taps, taps, kernel)  # (s, s, C, 2, 2, F)
    return converted.reshape(size, size, channels, 4 * filters)
