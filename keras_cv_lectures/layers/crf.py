"""Mean field inference of a CRF as a layer: Zheng et al. (CRF as RNN, ICCV 2015) in a window (ConvCRF, BMVC 2019).

Joining each pixel to those of a window makes message passing a sum of shifted copies of the probabilities, each times
a kernel that depends on the picture. That trains by back-propagation and is made of operators that every runtime has;
the fully connected form is `keras_cv_lectures.postprocessing.dense_crf`.
"""

from __future__ import annotations

import math
import numbers

import keras
from keras import ops

NORMALIZATIONS = ("symmetric", "none")
KERNEL_WEIGHTS = ("scalar", "matrix")


@keras.saving.register_keras_serializable("keras_cv_lectures")
class MeanFieldCRF(keras.layers.Layer):
    """Refines logits so that they follow the edges of the picture; all its parameters can be trained.

    A step is `q <- softmax(logits - compatibility @ sum_m w_m K_m q)` with the two kernels of `dense_crf`:
    `exp(-|p - p'|^2 / 2 bilateral_xy^2 - |I - I'|^2 / 2 bilateral_rgb^2)` and `exp(-|p - p'|^2 / 2 spatial_xy^2)`,
    between pixels p and p' of one window. The defaults are pydensecrf's and ConvCRF's.

    Input shape: [(B, H, W, K) logits, (B, H, W, C) picture in 0..255, uint8 or float]. Height and width may be unknown.
    Output shape: (B, H, W, K), logits in float32 under any policy; their softmax is the last step's q. K = 1 is the
    logit of the foreground against a background of logit 0.

    Paper: https://arxiv.org/abs/1502.03240 and https://arxiv.org/abs/1805.04777. Differs from the paper: the window
    (CRF as RNN joins all pixels); symmetric normalisation (CRF as RNN divides the filtered values by the kernel's
    sum); one number weighs a kernel unless `kernel_weights="matrix"`; no pooling of pictures by 4, instead of which
    `dilation` widens the reach; the colour kernel sees the distance, which ConvCRF switches off.

    Args:
        window: side of the window, odd. The reach is `dilation * (window // 2)` pixels.
        iterations: mean field steps, at least 1.
        dilation: pixels between the neighbours.
        bilateral_weight: initial strength of the kernel that sees place and colour.
        bilateral_xy: its standard deviation in pixels.
        bilateral_rgb: its standard deviation in grey levels of 0..255.
        spatial_weight: initial strength of the kernel that sees the place alone.
        spatial_xy: its standard deviation in pixels.
        normalization: "symmetric" divides each kernel by sqrt(n n'), n being the kernel summed over the window; "none".
        include_self: whether a pixel counts among its neighbours, as in `dense_crf`.
        kernel_weights: "scalar", one weight a kernel, or "matrix", a (K, K) matrix that starts as weight times
            identity, as in CRF as RNN; twice the work.
        trainable_compatibility: whether the (K, K) label compatibility, which starts as Potts (minus identity), is
            trained; False saves a product.
        trainable_widths: whether the three standard deviations are trained (by their logarithms).

    Raises:
        ValueError: for an option out of range, or if the two inputs differ in size.

    Example:
        >>> refined = MeanFieldCRF(window=7, iterations=5, name="logits")([logits, image])
    """

    def __init__(
        self,
        window: int = 7,
        iterations: int = 5,
        *,
        dilation: int = 1,
        bilateral_weight: float = 10.0,
        bilateral_xy: float = 80.0,
        bilateral_rgb: float = 13.0,
        spatial_weight: float = 3.0,
        spatial_xy: float = 3.0,
        normalization: str = "symmetric",
        include_self: bool = False,
        kernel_weights: str = "scalar",
        trainable_compatibility: bool = True,
        trainable_widths: bool = False,
        **kwargs,
    ):
        # Half precision would round the picture's grey levels and the probabilities that decide.
        super().__init__(**{**kwargs, "dtype": "float32"})
        self._options = {
            "window": window,
            "iterations": iterations,
            "dilation": dilation,
            "bilateral_weight": bilateral_weight,
            "bilateral_xy": bilateral_xy,
            "bilateral_rgb": bilateral_rgb,
            "spatial_weight": spatial_weight,
            "spatial_xy": spatial_xy,
            "normalization": normalization,
            "include_self": include_self,
            "kernel_weights": kernel_weights,
            "trainable_compatibility": trainable_compatibility,
            "trainable_widths": trainable_widths,
        }
        _check(self._options)
        self.iterations = iterations
        self.normalization = normalization
        self.include_self = include_self
        self.kernel_weights = kernel_weights
        # One of each pair of opposite neighbours: the kernels are symmetric.
        reach = range(-(window // 2), window // 2 + 1)
        self.offsets = [(dy * dilation, dx * dilation) for dy in reach for dx in reach if (dy, dx) > (0, 0)]

    def build(self, input_shape):
        logits, image = input_shape
        for size, other in zip(logits[1:3], image[1:3], strict=True):
            if size is not None and other is not None and size != other:
                raise ValueError(
                    f"`MeanFieldCRF` needs logits of the picture's height and width. Received: {tuple(logits[1:3])} "
                    f"for a picture of {tuple(image[1:3])}. Crop or resize one of the two."
                )
        labels = max(2, logits[-1])
        options = self._options
        identity = keras.initializers.Identity
        for kernel in ("bilateral", "spatial"):
            name = f"{kernel}_weight"
            if self.kernel_weights == "matrix":
                weight = self.add_weight(shape=(labels, labels), initializer=identity(options[name]), name=name)
            else:
                initializer = keras.initializers.Constant(options[name])
                weight = self.add_weight(shape=(), initializer=initializer, name=name)
            setattr(self, name, weight)
        self.compatibility = None
        if options["trainable_compatibility"]:
            self.compatibility = self.add_weight(
                shape=(labels, labels), initializer=identity(-1.0), name="compatibility"
            )
        self.log_widths = {}
        if options["trainable_widths"]:
            for name in ("bilateral_xy", "bilateral_rgb", "spatial_xy"):
                initializer = keras.initializers.Constant(math.log(options[name]))
                self.log_widths[name] = self.add_weight(shape=(), initializer=initializer, name=f"log_{name}")

    def call(self, inputs, training=False):
        logits, image = inputs
        # Channels first: a kernel then multiplies whole rows, and need not be repeated K times a pixel.
        unary = ops.transpose(ops.cast(logits, "float32"), (0, 3, 1, 2))  # (B, K, H, W)
        image = ops.transpose(ops.cast(image, "float32"), (0, 3, 1, 2))  # (B, C, H, W)
        foreground_alone = unary.shape[1] == 1
        if foreground_alone:
            unary = ops.concatenate([ops.zeros_like(unary), unary], axis=1)
        kernels = self._kernels(image)
        refined = unary
        for _ in range(self.iterations):
            refined = unary + self._message(kernels, _softmax(refined), _lean_filter if training else _filter)
        if foreground_alone:
            refined = refined[:, 1:] - refined[:, :1]
        return ops.transpose(refined, (0, 2, 3, 1))

    def _kernels(self, image):
        """[(kernel (B, 2 S, H, W) at the neighbours, kernel (B, 1, H, W) at the pixel itself, (K, K) weights or None)].

        Scalar weights are in the kernels, which are then summed into one.
        """
        contrast = ops.square(_neighbours(image, self.offsets) - image[:, None])  # (B, S, C, H, W)
        contrast = ops.sum(contrast, axis=2)  # (B, S, H, W)
        squares = [float(dy * dy + dx * dx) for dy, dx in self.offsets]
        distance = ops.reshape(ops.convert_to_tensor(squares, dtype="float32"), (1, -1, 1, 1))
        # 0 where the neighbour lies outside the picture.
        # These ones come from the picture, or exported files would hold 2 S maps of them as constants.
        ones = ops.minimum(ops.abs(image[:, :1]) + 1.0, 1.0)
        inside = _neighbours(ones, self.offsets)[:, :, 0]  # (B, S, H, W)
        place = -distance * self._precision("bilateral_xy")
        bilateral = inside * ops.exp(place - contrast * self._precision("bilateral_rgb"))
        spatial = inside * ops.exp(-distance * self._precision("spatial_xy"))

        kernels = []
        for kernel, weight in ((bilateral, self.bilateral_weight), (spatial, self.spatial_weight)):
            kernel, own = self._normalized(kernel)
            kernels.append((ops.concatenate([kernel, _mirrored(kernel, self.offsets)], axis=1), own, weight))
        if self.kernel_weights == "matrix":
            return kernels
        neighbours = sum(weight * kernel for kernel, _, weight in kernels)
        return [(neighbours, sum(weight * own for _, own, weight in kernels), None)]

    def _precision(self, name: str):
        """1 / (2 width^2)."""
        if name in self.log_widths:
            return 0.5 * ops.exp(-2.0 * self.log_widths[name])
        return 0.5 / self._options[name] ** 2

    def _normalized(self, kernel):
        """The kernel at half of the neighbours, (B, S, H, W), and at the pixel itself, (B, 1, H, W), normalised."""
        own = ops.ones_like(kernel[:, :1])
        if self.normalization == "none":
            return kernel, own
        total = ops.sum(kernel, axis=1, keepdims=True)
        total = total + ops.sum(_mirrored(kernel, self.offsets), axis=1, keepdims=True)
        # A pixel whose colour no neighbour has would divide by zero.
        scale = ops.rsqrt(total + (1.0 if self.include_self else 1e-6))
        return kernel * scale * _neighbours(scale, self.offsets)[:, :, 0], own * ops.square(scale)

    def _message(self, kernels, q, gather):
        message = 0.0
        for kernel, own, weight in kernels:
            filtered = gather(kernel, q, self.offsets)
            if self.include_self:
                filtered = filtered + own * q
            message = message + (filtered if weight is None else _mix(weight, filtered))
        return message if self.compatibility is None else -_mix(self.compatibility, message)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[0])

    def get_config(self):
        return {**super().get_config(), **self._options}


def _filter(kernel, x, half):
    """Sum over the window of kernel times neighbour, the pixel itself left out.

    Args:
        kernel: (B, 2 S, H, W): for the pairs of p and p + half[s], then for those of p and p - half[s].
        x: (B, K, H, W).
    """
    beyond, total = _pad(x, half), None
    both = _both_ways(half)
    for weight, offset in zip(ops.split(kernel, len(both), axis=1), both, strict=True):
        term = weight * _shifted(beyond, offset, half)
        total = term if total is None else total + term
    return total


def _lean_filter(kernel, x, half):
    """`_filter` for training: differentiated term by term, it would keep every shifted copy of x for the way back.

    Not for inference, because a gradient of one's own cannot be saved with a graph whose weights became constants.
    """

    @ops.custom_gradient
    def filtered(kernel, x):
        def gradient(*args, upstream=None):
            (upstream,) = args or (upstream,)
            beyond = _pad(x, half)
            by_kernel = [
                ops.sum(upstream * _shifted(beyond, offset, half), axis=1, keepdims=True) for offset in _both_ways(half)
            ]
            # The pair (p, p') has one kernel in both directions, so the filter is its own transpose.
            return ops.concatenate(by_kernel, axis=1), _filter(kernel, upstream, half)

        return _filter(kernel, x, half), gradient

    return filtered(kernel, x)


def _both_ways(half):
    return half + [(-dy, -dx) for dy, dx in half]


def _neighbours(x, offsets):
    """(B, C, H, W) -> (B, S, C, H, W), zero outside the picture."""
    beyond = _pad(x, offsets)
    return ops.stack([_shifted(beyond, offset, offsets) for offset in offsets], axis=1)


def _mirrored(kernel, offsets):
    """Kernel of p and p + offsets[s] -> kernel of p and p - offsets[s], both (B, S, H, W)."""
    parts = ops.split(_pad(kernel, offsets), len(offsets), axis=1)
    return ops.concatenate(
        [_shifted(part, (-dy, -dx), offsets) for part, (dy, dx) in zip(parts, offsets, strict=True)], axis=1
    )


def _pad(x, offsets):
    """Zeros around (B, ., H, W), as far as the neighbours reach."""
    reach = offsets[-1][0]
    return ops.pad(x, [[0, 0], [0, 0], [reach, reach], [reach, reach]])


def _shifted(padded, offset, offsets):
    """The neighbours at `offset`, (B, ., H, W). Counted from both ends, so that no height or width need be known."""
    reach = offsets[-1][0]
    (top, left), (bottom, right) = [[reach + o for o in offset], [o - reach or None for o in offset]]
    return padded[:, :, top:bottom, left:right]


def _mix(matrix, x):
    """(L, K) times (B, K, H, W) over the labels."""
    return ops.einsum("lk,bkhw->blhw", matrix, x)


def _softmax(x):
    # Over axis 1 with elementary operators: the softmax of the runtimes takes the last axis alone and would transpose.
    x = ops.exp(x - ops.max(x, axis=1, keepdims=True))
    return x / ops.sum(x, axis=1, keepdims=True)


def _check(options) -> None:
    for name in ("window", "iterations", "dilation"):
        value = options[name]
        if not isinstance(value, numbers.Integral) or value < 1:
            raise ValueError(f"`{name}` must be a positive whole number. Received: {name}={value!r}")
    if options["window"] % 2 == 0 or options["window"] < 3:
        raise ValueError(
            f"`window` must be odd and at least 3: a centre and neighbours. Received: window={options['window']}"
        )
    for name in ("bilateral_xy", "bilateral_rgb", "spatial_xy"):
        if not 0 < options[name] < math.inf:
            raise ValueError(f"`{name}` must be a positive standard deviation. Received: {name}={options[name]!r}")
    for name, allowed in (("normalization", NORMALIZATIONS), ("kernel_weights", KERNEL_WEIGHTS)):
        if options[name] not in allowed:
            raise ValueError(f"`{name}` must be one of {allowed}. Received: {name}={options[name]!r}")
