# SPDX-License-Identifier: BSD-3-Clause
"""Rearrangements between channels, batch and space, crops and windows: they change no element.

Where MIL leaves the order of the elements open (``depth_to_space``, ``space_to_depth``,
``space_to_batch``, ``batch_to_space``), it is that of the TensorFlow operations of the same name,
which coremltools converts to them as they stand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from convcal.errors import UnsupportedModelError
from convcal.runtime.translation.parameters import static_shape
from convcal.runtime.translation.shape import reshape

if TYPE_CHECKING:
    from convcal.coreml.program import Operation
    from convcal.runtime.translation.graph import Graph

__all__ = ["OPERATIONS"]


def pixel_shuffle(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``pixel_shuffle``: channel (c, i, j) goes to row i, column j of each block."""
    x = graph.tensor(operation.tensor("x"))
    factor = _integer(operation, "upscale_factor")
    return [graph.node("DepthToSpace", x, blocksize=factor, mode="CRD")]


def pixel_unshuffle(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``pixel_unshuffle``, the inverse of ``pixel_shuffle``."""
    factor = _integer(operation, "downscale_factor")
    n, c, h, w = static_shape(operation.tensor("x"))
    _divides(factor, h, w)
    blocks = (n, c, h // factor, factor, w // factor, factor)
    return [_regrouped(graph, operation, blocks, (0, 1, 3, 5, 2, 4))]


def depth_to_space(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``depth_to_space``: channel (i, j, c) goes to row i, column j of each block."""
    x = graph.tensor(operation.tensor("x"))
    block = _integer(operation, "block_size")
    return [graph.node("DepthToSpace", x, blocksize=block, mode="DCR")]


def space_to_depth(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``space_to_depth``, the inverse of ``depth_to_space``."""
    block = _integer(operation, "block_size")
    _divides(block, *static_shape(operation.tensor("x"))[2:])
    return [graph.node("SpaceToDepth", graph.tensor(operation.tensor("x")), blocksize=block)]


def space_to_batch(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``space_to_batch``: row i, column j of each block goes to batch (i, j, n)."""
    rows, columns = operation.integers("block_shape") or (1, 1)
    top, bottom, left, right = operation.integers("paddings") or (0, 0, 0, 0)
    n, c, h, w = static_shape(operation.tensor("x"))
    h, w = h + top + bottom, w + left + right
    _divides(rows, h)
    _divides(columns, w)
    padded = graph.node(
        "Pad",
        graph.tensor(operation.tensor("x")),
        graph.integers((0, 0, top, left, 0, 0, bottom, right)),
    )
    blocks = (n, c, h // rows, rows, w // columns, columns)
    return [_regrouped(graph, operation, blocks, (3, 5, 0, 1, 2, 4), tensor=padded)]


def batch_to_space(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``batch_to_space``: the inverse of ``space_to_batch``, then the crops."""
    rows, columns = operation.integers("block_shape") or (1, 1)
    top, _, left, _ = operation.integers("crops") or (0, 0, 0, 0)
    n, c, h, w = static_shape(operation.tensor("x"))
    n //= rows * columns
    split = graph.node(
        "Reshape",
        graph.tensor(operation.tensor("x")),
        graph.integers((rows, columns, n, c, h, w)),
        allowzero=1,
    )
    moved = graph.node("Transpose", split, perm=(2, 3, 4, 0, 5, 1))
    joined = graph.node(
        "Reshape", moved, graph.integers((n, c, h * rows, w * columns)), allowzero=1
    )
    return [_cropped(graph, operation, joined, top, left)]


def crop(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``crop`` of the last two axes."""
    top, _ = operation.integers("crop_height") or (0, 0)
    left, _ = operation.integers("crop_width") or (0, 0)
    return [_cropped(graph, operation, graph.tensor(operation.tensor("x")), top, left)]


def sliding_windows(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``sliding_windows``: one axis becomes two, the window and the place in it."""
    lengths = static_shape(operation.tensor("x"))
    axis = _integer(operation, "axis") % len(lengths)
    size, stride = _integer(operation, "size"), (operation.integers("stride") or (1,))[0]
    starts = np.arange(0, lengths[axis] - size + 1, stride, dtype=np.int64)
    places = graph.constant(starts[:, None] + np.arange(size))
    return [graph.node("Gather", graph.tensor(operation.tensor("x")), places, axis=axis)]


def _regrouped(
    graph: Graph,
    operation: Operation,
    blocks: Sequence[int],
    perm: Sequence[int],
    *,
    tensor: str | None = None,
) -> str:
    """Split axes into blocks, permute, and merge to the shape of the result."""
    source = graph.tensor(operation.tensor("x")) if tensor is None else tensor
    split = graph.node("Reshape", source, graph.integers(blocks), allowzero=1)
    moved = graph.node("Transpose", split, perm=perm)
    shape = graph.integers(static_shape(operation.outputs[0]))
    return graph.node("Reshape", moved, shape, allowzero=1)


def _cropped(graph: Graph, operation: Operation, tensor: str, top: int, left: int) -> str:
    """Keep as much of the last two axes as the result has, from `top` and `left`."""
    height, width = static_shape(operation.outputs[0])[-2:]
    starts, ends = graph.integers((top, left)), graph.integers((top + height, left + width))
    return graph.node("Slice", tensor, starts, ends, graph.integers((-2, -1)))


def _integer(operation: Operation, name: str) -> int:
    values = operation.integers(name)
    if values is None:
        raise UnsupportedModelError(f"the parameter '{name}' is missing")
    return values[0]


def _divides(block: int, *lengths: int) -> None:
    """Refuse lengths that are no multiple of the block, which MIL does not define."""
    for length in lengths:
        if length % block:
            raise UnsupportedModelError(f"{length} positions are not a multiple of {block}")


OPERATIONS: dict[str, Callable[[Graph, Operation], list[str]]] = {
    "batch_to_space": batch_to_space,
    "crop": crop,
    "depth_to_space": depth_to_space,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "reshape_like": reshape,
    "sliding_windows": sliding_windows,
    "space_to_batch": space_to_batch,
    "space_to_depth": space_to_depth,
}
