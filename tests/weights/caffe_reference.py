"""What the tests of the Caffe reader need of Caffe: a writer of its files and its layers in NumPy, (N, C, H, W)."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

CAFFE_MEAN = (103.939, 116.779, 123.68)  # of VGG, blue, green, red
ILSVRC12_MEAN = (104.00699, 116.66877, 122.67892)  # of Caffe's `ilsvrc_2012_mean.npy`
Blobs = Mapping[str, Sequence[np.ndarray]]
_V1_TYPES = {"Convolution": 4, "Data": 5, "ReLU": 18}


def varint(number: int) -> bytes:
    number &= 2**64 - 1
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out + bytes([number]))


def field(number: int, value: bytes | int) -> bytes:
    """A length-delimited field for bytes, a varint for a whole number."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def blob(values: np.ndarray, *, dims: str = "shape", data: str = "packed") -> bytes:
    """BlobProto: `dims` "shape", "shape unpacked" or "legacy"; `data` "packed", "pieces", "unpacked" or "double"."""
    values = np.asarray(values)
    flat = values.astype("<f4").reshape(-1)
    if dims == "legacy":
        legacy = (1,) * (4 - values.ndim) + values.shape
        out = b"".join(field(number, size) for number, size in enumerate(legacy, start=1))
    elif dims == "shape":
        out = field(7, field(1, b"".join(varint(size) for size in values.shape)))
    else:
        out = field(7, b"".join(field(1, size) for size in values.shape))
    if data == "packed":
        out += field(5, flat.tobytes())
    elif data == "pieces":
        out += field(5, flat[:1].tobytes()) + field(5, flat[1:].tobytes())
    elif data == "unpacked":
        out += b"".join(varint(5 << 3 | 5) + struct.pack("<f", number) for number in flat)
    else:
        out += field(8, values.astype("<f8").tobytes())
    return out + field(6, np.zeros(2, "<f4").tobytes())  # `diff`, which is of no interest


def layer(name: str, blobs: Sequence[np.ndarray], *, version: int = 2, kind: str = "Convolution", **how: str) -> bytes:
    """One `layer` (version 2) or `layers` (version 1) field of NetParameter."""
    encoded = [blob(values, **how) for values in blobs]
    if version == 2:
        inside = field(1, name.encode()) + field(2, kind.encode()) + field(3, b"bottom") + field(4, b"top")
        inside += b"".join(field(7, one) for one in encoded)
        return field(100, inside + field(106, field(1, 8)))
    inside = field(2, b"bottom") + field(3, b"top") + field(4, name.encode()) + field(5, _V1_TYPES[kind])
    inside += b"".join(field(6, one) for one in encoded)
    return field(2, inside + varint(7 << 3 | 5) + struct.pack("<f", 1.0))  # blobs_lr


def net(blobs: Blobs, *, version: int = 2, **how: str) -> bytes:
    """A whole file, with a data layer before and a ReLU behind, which have no blobs."""
    out = field(1, b"net") + layer("data", [], version=version, kind="Data")
    out += b"".join(layer(name, arrays, version=version, **how) for name, arrays in blobs.items())
    return out + layer("relu", [], version=version, kind="ReLU")


def write(path: Path, blobs: Blobs, **how) -> Path:
    path.write_bytes(net(blobs, **how))
    return path


def caffe_input(pictures: np.ndarray, mean=(0.0, 0.0, 0.0)) -> np.ndarray:
    """RGB pictures (B, H, W, 3) -> (B, 3, H, W) blue, green, red, without the mean (blue, green, red)."""
    return (pictures[..., ::-1] - np.array(mean)).transpose(0, 3, 1, 2)


def conv(x, weight, bias=None, *, pad=0, group=1):
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(2, 3))
    parts = [
        np.tensordot(some, kernels, axes=([1, 4, 5], [1, 2, 3])).transpose(0, 3, 1, 2)
        for some, kernels in zip(np.split(windows, group, 1), np.split(weight, group), strict=True)
    ]
    return np.concatenate(parts, 1) + (0 if bias is None else bias.reshape(1, -1, 1, 1))


def deconv(x, weight, bias=None, *, stride=1, pad=0, group=1):
    """Each input value stamps its kernel, scaled, on the output; overlaps are summed; `pad` is cut off."""
    (batch, _, height, width), (_, per_group, kh, kw) = x.shape, weight.shape
    out = np.zeros((batch, per_group * group, (height - 1) * stride + kh, (width - 1) * stride + kw))
    for g, (some, kernels) in enumerate(zip(np.split(x, group, 1), np.split(weight, group), strict=True)):
        stamps = np.tensordot(some, kernels, axes=([1], [0]))  # (B, H, W, out, kh, kw)
        for i in range(height):
            for j in range(width):
                place = np.s_[i * stride : i * stride + kh, j * stride : j * stride + kw]
                out[(slice(None), slice(g * per_group, (g + 1) * per_group), *place)] += stamps[:, i, j]
    out = out[:, :, pad : out.shape[2] - pad, pad : out.shape[3] - pad]
    return out + (0 if bias is None else bias.reshape(1, -1, 1, 1))


def affine(x, scale, shift):
    return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)


def relu(x):
    return np.maximum(x, 0)


def pool(x):
    """2x2 maxima, rounding up, and a mask (of x's shape) of the places where they were; the first of equal ones."""
    batch, channels, height, width = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (0, height % 2), (0, width % 2)), constant_values=-np.inf)
    rows, columns = padded.shape[2] // 2, padded.shape[3] // 2
    windows = padded.reshape(batch, channels, rows, 2, columns, 2).transpose(0, 1, 2, 4, 3, 5)
    windows = windows.reshape(batch, channels, rows, columns, 4)
    first = np.eye(4, dtype=bool)[windows.argmax(-1)].reshape(batch, channels, rows, columns, 2, 2)
    mask = first.transpose(0, 1, 2, 4, 3, 5).reshape(padded.shape)[:, :, :height, :width]
    return windows.max(-1), mask


def unpool(x, mask):
    spread = x.repeat(2, axis=2).repeat(2, axis=3)
    return spread[:, :, : mask.shape[2], : mask.shape[3]] * mask


def numbers(rng, *shape, scale=1.0):
    return (scale * rng.standard_normal(shape)).astype("float32")


def picture(rng, *shape):
    return rng.integers(0, 256, shape).astype("float32")


def close(got, wanted):
    """Keras's output equals Caffe's up to float32: 1e-5 of the largest value."""
    got, wanted = np.asarray(got), wanted.transpose(0, 2, 3, 1)
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()
