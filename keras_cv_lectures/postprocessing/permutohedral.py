"""Gaussian filtering in many dimensions on the permutohedral lattice (Adams, Baek and Davis, Eurographics 2010).

The points are embedded in the lattice's hyperplane, their values spread over the vertices of the simplex around each
(splat), blurred along the d + 1 lattice directions with (1/2, 1, 1/2), and read back (slice). The cost is O(N d)
instead of O(N^2). The lattice depends on the points alone, so it is built once and then filters any values: here the
steps are sparse matrices and the hash table of the C++ programs is a sorted array of packed vertex coordinates.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# float32 then still resolves a sixteenth of a cell.
MOST_CELLS = 2**20


class PermutohedralLattice:
    """Approximates `out[i] = sum_j exp(-|f_i - f_j|^2 / 2) * values[j]` up to a constant factor, j = i included.

    Paper: https://graphics.stanford.edu/papers/permutohedral/. Differs from the paper: only vertices of simplices that
    hold a point exist, as in the programs of Adams and of Kraehenbuehl; the factor 1 / (1 + 2^-d) is theirs as well.

    Args:
        features: (N, d) float, finite; coordinates in units of the filter's standard deviation.

    Attributes:
        num_vertices: M, the number of lattice vertices in use.

    Raises:
        ValueError: `features` is not a non-empty (N, d) array of finite numbers, or spans more standard deviations than
            a 64-bit vertex number can tell apart.
    """

    def __init__(self, features: np.ndarray):
        features = np.asarray(features, np.float32)
        if features.ndim != 2 or 0 in features.shape or not np.isfinite(features).all():
            raise ValueError(
                f"`features` must be a non-empty (points, dimensions) array of finite numbers. Received: shape "
                f"{features.shape}. Flatten the picture's pixels into rows."
            )
        from scipy.sparse import csr_array

        count, dimensions = features.shape
        corner, rank, weights = _enclosing_simplex(features)
        quotients = corner[:, :-1] // (dimensions + 1)
        lowest, steps = _packing(quotients)
        numbers = ((quotients - lowest) @ steps)[:, None] + np.arange(dimensions + 1)  # (N, d + 1)
        # A vertex of remainder r has r added to every coordinate, less d + 1 where that would pass the point's rank.
        for axis in range(dimensions):
            numbers -= (rank[:, axis, None] > dimensions - np.arange(dimensions + 1)) * steps[axis]
        vertices, which = np.unique(numbers.ravel(), return_inverse=True)
        self.num_vertices = len(vertices)

        rows = np.arange(count + 1, dtype=np.int32) * (dimensions + 1)
        which = which.astype(np.int32)
        self._slice = csr_array((weights.ravel(), which, rows), shape=(count, len(vertices)))
        self._splat = self._slice.T.tocsr()
        self._blurs = [_blur(vertices, axis, steps) for axis in range(dimensions + 1)]
        self._scale = np.float32(1 / (1 + 2.0**-dimensions))

    def filter(self, values: np.ndarray, *, reverse: bool = False) -> np.ndarray:
        """Filters every channel alike.

        Args:
            values: (N, K) float.
            reverse: blur the directions in the opposite order, which is the transposed operation.

        Returns:
            (N, K) float32.
        """
        x = self._splat @ np.ascontiguousarray(values, np.float32)  # (M, K)
        for blur in reversed(self._blurs) if reverse else self._blurs:
            x = blur @ x
        return (self._slice @ x) * self._scale


def _enclosing_simplex(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Simplex around each point.

    Returns:
        corner: (N, d + 1) int64, the vertex of remainder 0: multiples of d + 1 that sum to 0.
        rank: (N, d + 1) int64, the place of each coordinate's residual in descending order.
        weights: (N, d + 1) float32 barycentric coordinates of the vertices by remainder; they sum to 1.
    """
    count, d = features.shape
    # Variance of splat, blur and slice together is (2/3) (d + 1)^2 in lattice units (page 6 of the paper).
    scale = (np.sqrt(2 / 3) * (d + 1) / np.sqrt(np.arange(1, d + 1) * np.arange(2, d + 2))).astype(np.float32)
    scaled = features * scale
    elevated = np.empty((count, d + 1), np.float32)
    total = np.zeros(count, np.float32)
    for j in range(d, 0, -1):
        elevated[:, j] = total - j * scaled[:, j - 1]
        total += scaled[:, j - 1]
    elevated[:, 0] = total

    if np.abs(elevated).max() > MOST_CELLS:
        raise ValueError(
            f"`features` must not be larger than about {MOST_CELLS} standard deviations, beyond which float32 cannot "
            f"place them. Received: {np.abs(features).max()}. Use larger standard deviations."
        )
    nearest = np.rint(elevated / np.float32(d + 1)).astype(np.int64)
    residual = elevated - (nearest * (d + 1)).astype(np.float32)
    rank = np.zeros((count, d + 1), np.int64)
    for i in range(d + 1):
        for j in range(i + 1, d + 1):
            lower = residual[:, i] < residual[:, j]
            rank[:, i] += lower
            rank[:, j] += ~lower
    # Rounding may leave the plane: walk back along the coordinates with the largest rounding error.
    rank += nearest.sum(axis=1, keepdims=True)
    back = (rank < 0).astype(np.int64) - (rank > d)
    rank += back * (d + 1)
    corner = (nearest + back) * (d + 1)

    rest = (elevated - corner.astype(np.float32)) / np.float32(d + 1)
    by_rank = np.empty_like(rest)
    np.put_along_axis(by_rank, rank, rest, axis=1)
    descending = by_rank[:, ::-1]  # (N, d + 1), smallest residual first
    weights = descending.copy()
    weights[:, 1:] -= descending[:, :-1]
    weights[:, 0] += 1 - descending[:, -1]
    return corner, rank, weights


def _packing(quotients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How the coordinates of a vertex become one 64-bit number.

    All coordinates of a vertex are congruent modulo d + 1, and the last follows from the others: a vertex is a
    remainder, the lowest digit, and d quotients.

    Returns:
        lowest: (d,) int64, the quotients that count as zero.
        steps: (d,) int64, what one more of each quotient adds to the number.
    """
    d = quotients.shape[1]
    # A simplex reaches one below its corner, a neighbour one further on both sides: digits must not run into the next.
    lowest = quotients.min(axis=0) - 2
    sizes = [int(size) for size in quotients.max(axis=0) + 2 - lowest]
    steps = [d + 1]
    for size in sizes:
        steps.append(steps[-1] * size)
    if steps[-1] >= 2**63:
        raise ValueError(
            "`features` must not span more lattice cells than 64 bits can number. Received: spans of "
            f"{sizes} cells. Use larger standard deviations."
        )
    return lowest, np.array(steps[:-1], np.int64)


def _blur(vertices: np.ndarray, axis: int, steps: np.ndarray) -> Any:
    """Sparse (M, M) matrix of the kernel (1/2, 1, 1/2) along one direction: -1 in all coordinates, + d in one."""
    from scipy.sparse import coo_array

    d, count = len(steps), len(vertices)
    step = steps[axis] if axis < d else 0
    # Remainder r becomes r - 1; from 0 it becomes d, and every quotient falls by one.
    target = vertices - 1 + step
    target[vertices % (d + 1) == 0] += d + 1 - steps.sum()
    place = np.minimum(np.searchsorted(vertices, target), count - 1)
    lower = np.flatnonzero(vertices[place] == target)
    upper = place[lower]

    index = np.arange(count)
    rows = np.concatenate([index, lower, upper]).astype(np.int32)
    columns = np.concatenate([index, upper, lower]).astype(np.int32)
    values = np.concatenate([np.ones(count), np.full(2 * len(lower), 0.5)]).astype(np.float32)
    return coo_array((values, (rows, columns)), shape=(count, count)).tocsr()


__all__ = ["PermutohedralLattice"]
