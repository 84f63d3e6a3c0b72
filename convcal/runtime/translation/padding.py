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
    lengths = static_shape(operation.tensor("x"))
    mode = text(operation, "mode", default="constant")
    if mode not in _MODES:
        raise UnsupportedModelError(f"the mode '{mode}' is not one of MIL's")
    given = operation.integers("pad") or ()
    absent = (0,) * (len(lengths) - len(given) // 2)
    fronts, backs = (*absent, *given[0::2]), (*absent, *given[1::2])
    if mode == "reflect":
        for length, *amounts in zip(lengths, fronts, backs, strict=True):
            if max(amounts) >= length > 0 and any(amounts):
                raise UnsupportedModelError(
                    f"it reflects {max(amounts)} positions of an axis of {length}; "
                    f"MIL allows {length - 1}"
                )
    inputs = [graph.tensor(operation.tensor("x")), graph.integers((*fronts, *backs))]
    if mode == "constant":
        inputs.append(graph.number(number(operation, "constant_val")))
    return [graph.node("Pad", *inputs, mode=_MODES[mode])]


OPERATIONS = {"pad": pad}
