"""Training targets of mask heads, in `keras.ops` on float32."""

from __future__ import annotations

from typing import Any

from keras import ops

Tensor = Any

_NO_BORDER = 1e9


def mask_targets(
    crops: Tensor,
    windows: Tensor,
    boxes: Tensor,
    matched: Tensor,
    size: int = 28,
    *,
    image_size: Tensor | tuple[int, int] | None = None,
) -> Tensor:
    """What a mask head shall predict for each box: the part of its object's mask in the box, `size` x `size`.

    torchvision's `project_masks_on_boxes`: RoIAlign of the object's picture-sized mask at scale 1, not aligned (the
    value at the coordinate y of a box is that of pixel row y), with ceil(height / size) x ceil(width / size) samples a
    cell. The picture-sized mask is never made: samples are taken from the crop that covers `windows`. Where a window is
    whole pixels and its crop has one value a pixel, the result is that of the picture-sized mask; a crop of another
    resolution is interpolated, and falls to 0 over one pixel at the edge of its window, whatever its resolution.

    Paper: He et al. 2017, https://arxiv.org/abs/1703.06870, section 3.1.
    Differs from the paper: the targets are not rounded to 0 and 1, as in torchvision; `targets >= 0.5` rounds them.

    Args:
      crops: (..., N, h, w) of any dtype, the masks of the true objects, 0..1.
      windows: (..., N, 4) box in pixels that each crop covers. Whole pictures are (0, 0, W, H). A window without extent
        gives zeros.
      boxes: (..., R, 4) in the same pixels.
      matched: (..., R) int, index of each box's object; below 0 for none, which gives zeros.
      size: side of the targets in cells.
      image_size: (height, width) of the picture, (2,) or (..., 2). As in torchvision, samples up to one pixel outside
        of the picture take the value at its border, those farther out 0. None: a window that begins at (0, 0) is taken
        for the whole picture, and at other windows the picture has no right and lower border, which is half a pixel off
        for objects that touch it.

    Returns:
      (..., R, size, size) float32 in 0..1, without gradient.
    """
    crops, matched = ops.convert_to_tensor(crops), ops.cast(matched, "int32")
    windows, boxes = _float(windows), _float(boxes)
    lead = list(ops.shape(boxes))[:-2]
    objects, height, width = list(ops.shape(crops))[-3:]
    count = ops.shape(boxes)[-2]
    if boxes.shape[-2] == 0 or windows.shape[-2] == 0:
        return ops.zeros([*lead, count, size, size], "float32")
    windows = ops.reshape(windows, (-1, objects, 4))
    examples = ops.shape(windows)[0]
    boxes, matched = ops.reshape(boxes, (-1, 4)), ops.reshape(matched, (-1, count))
    row = ops.reshape(ops.maximum(matched, 0) + objects * ops.arange(examples, dtype="int32")[:, None], (-1,))
    crops = _float(ops.take(ops.reshape(crops, (-1, height, width)), row, axis=0))
    windows = ops.take(ops.reshape(windows, (-1, 4)), row, axis=0)
    if image_size is None:
        whole = ops.all(windows[:, :2] == 0.0, axis=1, keepdims=True)
        sides = ops.where(whole, windows[:, :1:-1], _NO_BORDER)
    else:
        sides = ops.broadcast_to(ops.reshape(_float(image_size), (-1, 1, 2)), (examples, count, 2))
        sides = ops.reshape(sides, (-1, 2))
    rows, columns = _sample_weights(boxes, windows, sides, (height, width), size)
    extent = ops.logical_and(windows[:, 2] > windows[:, 0], windows[:, 3] > windows[:, 1])
    counted = ops.logical_and(extent, ops.reshape(matched, (-1,)) >= 0)
    targets = ops.matmul(ops.matmul(rows, crops), ops.transpose(columns, (0, 2, 1)))
    targets = ops.where(counted[:, None, None], targets, 0.0)
    return ops.stop_gradient(ops.reshape(targets, [*lead, count, size, size]))


def _sample_weights(
    boxes: Tensor, windows: Tensor, sides: Tensor, cells: tuple[Tensor | int, Tensor | int], size: int
) -> tuple[Tensor, Tensor]:
    """Share of each row (R, size, h) and column (R, size, w) of the crops in the cells of the targets."""
    low = [boxes[:, 1], boxes[:, 0]]
    bins = [ops.maximum(boxes[:, axis + 2] - boxes[:, axis], 1.0) / size for axis in (1, 0)]
    numbers = [ops.ceil(bin_) for bin_ in bins]

    def term(sample: Tensor, axis: int) -> Tensor:
        """Weights of one sample a target cell; `sample` counts from 0 within the cell."""
        begin, end, side = windows[:, 1 - axis, None], windows[:, 3 - axis, None], sides[:, axis, None]
        cell = ops.arange(size, dtype="float32")
        step, number = bins[axis][:, None], numbers[axis][:, None]
        place = low[axis][:, None] + cell * step + (sample + 0.5) * step / number
        counted = ops.logical_and(ops.logical_and(place >= -1.0, place <= side), sample < number)
        place = ops.clip(place, 0.0, ops.maximum(side - 1.0, 0.0))
        # `place` is an index of pixels: the point in the picture is half a pixel farther.
        inside = ops.clip(place + 1.0 - begin, 0.0, 1.0) * ops.clip(end - place, 0.0, 1.0)
        last = ops.cast(cells[axis], "float32")
        index = (place + 0.5 - begin) * (last / ops.maximum(end - begin, 1e-6)) - 0.5
        distance = ops.abs(ops.clip(index, 0.0, last - 1.0)[..., None] - ops.arange(cells[axis], dtype="float32"))
        share = ops.where(counted, inside / number, 0.0)
        return ops.maximum(1.0 - distance, 0.0) * share[..., None]

    # One sample at a time: all at once, boxes as large as the picture would take gigabytes.
    most = ops.max(ops.maximum(*numbers), initial=1.0)
    zero = ops.zeros((), "float32")
    return ops.while_loop(
        lambda sample, rows, columns: sample < most,
        lambda sample, rows, columns: (sample + 1.0, rows + term(sample, 0), columns + term(sample, 1)),
        (zero + 1.0, term(zero, 0), term(zero, 1)),
    )[1:]


def _float(values: Tensor) -> Tensor:
    return ops.cast(values, "float32")
