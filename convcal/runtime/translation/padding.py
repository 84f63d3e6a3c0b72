# SPDX-License-Identifier: BSD-3-Clause
"""Padding with a constant, by reflection or by replication."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convcal.errors import UnsupportedModelError
from convcal.runtime.translation.parameters import number, static_shape, text

if TYPE_CHECKING:
    from convcal.coreml.program import Operation
    from convcal.runtime.translation.graph import Graph

__all__ = ["OPERATIONS"]

_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}


def pad(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``pad`` of the last axes of a tensor of any rank."""
    mode = text(operation, "mode", default="constant")
    if mode not in _MODES:
        raise UnsupportedModelError(f"the mode '{mode}' is not one of MIL's")
    is_known = operation.tensor("pad").constant is not None
    amounts = _known(graph, operation, mode) if is_known else _at_run_time(graph, operation, mode)
    inputs = [graph.tensor(operation.tensor("x")), amounts]
    if mode == "constant":
        inputs.append(graph.number(number(operation, "constant_val")))
    return [graph.node("Pad", *inputs, mode=_MODES[mode])]


def _known(graph: Graph, operation: Operation, mode: str) -> str:
    lengths = operation.tensor("x").shape
    given = operation.integers("pad") or ()
    absent = (0,) * (len(lengths) - len(given) // 2)
    fronts, backs = (*absent, *given[0::2]), (*absent, *given[1::2])
    if mode == "reflect":
        lengths = static_shape(operation.tensor("x"))
        for length, *amounts in zip(lengths, fronts, backs, strict=True):
            if max(amounts) >= length > 0 and any(amounts):
                raise UnsupportedModelError(
                    f"it reflects {max(amounts)} positions of an axis of {length}; "
                    f"MIL allows {length - 1}"
                )
    return graph.integers((*fronts, *backs))


def _at_run_time(graph: Graph, operation: Operation, mode: str) -> str:
    """Give pads that are computed when the program runs, one pair per axis, as ONNX has them."""
    if mode == "reflect":
        raise UnsupportedModelError("how many positions it reflects is computed at run time")
    pairs = graph.node("Reshape", graph.int64(operation.tensor("pad")), graph.integers([-1, 2]))
    columns = graph.node("Transpose", pairs, perm=[1, 0])
    return graph.node("Reshape", columns, graph.integers([-1]))


OPERATIONS = {"pad": pad}
