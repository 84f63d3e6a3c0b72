# SPDX-License-Identifier: BSD-3-Clause
"""Non-maximum suppression of the boxes of a detector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from convcal.runtime.translation.parameters import flags, number, static_shape

if TYPE_CHECKING:
    from convcal.coreml.program import Operation
    from convcal.runtime.translation.graph import Graph

__all__ = ["OPERATIONS"]

_INT32 = 6


def non_maximum_suppression(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``non_maximum_suppression``; a box's score is that of its best class.

    Where MIL leaves it open, this follows coremltools' tests against Core ML: what is missing to
    ``max_boxes`` is filled with boxes and scores of 0 and indices of -1, and of boxes that are all
    below ``score_threshold`` the best one stays.
    """
    # Until iOS16 the last axis holds the coordinates, from iOS17 the boxes, without a threshold.
    is_box_last = "score_threshold" not in operation.inputs
    boxes, scores = (graph.tensor(operation.tensor(name)) for name in ("boxes", "scores"))
    if is_box_last:
        boxes, scores = (graph.node("Transpose", each, perm=[0, 2, 1]) for each in (boxes, scores))
    n_batch = static_shape(operation.tensor("boxes"))[0]
    max_boxes = (operation.integers("max_boxes") or (0,))[0]
    best = graph.node("ReduceMax", scores, graph.integers([2]), keepdims=0)
    one = graph.integers([1])
    ranked = graph.node("Unsqueeze", best, one)
    if flags(operation, "per_class_suppression", 1)[0]:
        # A box is of its best class; the other classes do not see it.
        n_classes = static_shape(operation.tensor("scores"))[1 if is_box_last else 2]
        classes = graph.constant(np.arange(n_classes).reshape(-1, 1))
        own = graph.node("Unsqueeze", graph.node("ArgMax", scores, axis=2, keepdims=0), one)
        hidden = graph.number(-np.inf)
        ranked = graph.node("Where", graph.node("Equal", own, classes), ranked, hidden)
    limits = [graph.integers([max_boxes]), graph.number(number(operation, "iou_threshold"))]
    threshold = np.float32(-np.inf if is_box_last else number(operation, "score_threshold"))
    if np.isfinite(threshold):
        # MIL rejects scores below the threshold, ONNX those at it, too.
        threshold = np.nextafter(threshold, np.float32(-np.inf))
    limits.append(graph.number(float(threshold)))
    results = [
        _suppressed(graph, [boxes, scores, best, ranked], limits, batch=batch, max_boxes=max_boxes)
        for batch in range(n_batch)
    ]
    stacked = [graph.node("Concat", *parts, axis=0) for parts in zip(*results, strict=True)]
    if is_box_last:
        stacked[:2] = (graph.node("Transpose", each, perm=[0, 2, 1]) for each in stacked[:2])
    return stacked[: len(operation.outputs)]


def _suppressed(
    graph: Graph, tensors: list[str], limits: list[str], *, batch: int, max_boxes: int
) -> list[str]:
    """Suppress in one entry of the batch; give its boxes, scores, indices and their number."""
    first, behind = graph.integers([batch]), graph.integers([batch + 1])
    zero, one, most = (graph.integers([count]) for count in (0, 1, max_boxes))
    boxes, scores, best, ranked = (
        graph.node("Slice", each, first, behind, zero) for each in tensors
    )
    selected = graph.node("NonMaxSuppression", boxes, ranked, *limits, center_point_box=1)
    # Rows of batch, class and box, in the order of the scores within a class only.
    indices = graph.node("Gather", selected, graph.constant(np.array(2)), axis=1)
    marks = graph.node("Gather", graph.node("Squeeze", best, zero), indices)
    length = graph.node("Shape", marks)
    _, order = graph.split_node("TopK", marks, length, n_outputs=2, axis=0, sorted=1)
    indices = graph.node("Gather", indices, order)
    count = graph.node("Max", graph.node("Shape", indices), one)
    count = graph.node("Min", count, most)
    top = graph.node("Reshape", graph.node("ArgMax", best, axis=1), graph.integers([1]))
    kept = graph.node("Slice", graph.node("Concat", indices, top, axis=0), zero, count)
    filling = graph.integers([-1] * max_boxes)
    indices = graph.node("Concat", kept, filling, axis=0)
    indices = graph.node("Slice", indices, zero, most)
    # Index -1 is the row of zeros at the end.
    rows = (_with_zeros(graph, each) for each in (boxes, scores))
    picked = [graph.node("Gather", each, indices, axis=1) for each in rows]
    numbers = (graph.node("Unsqueeze", indices, zero), count)
    return [*picked, *(graph.node("Cast", each, to=_INT32) for each in numbers)]


def _with_zeros(graph: Graph, rows: str) -> str:
    return graph.node("Pad", rows, graph.integers([0, 0, 0, 0, 1, 0]))


OPERATIONS = {"non_maximum_suppression": non_maximum_suppression}
