# SPDX-License-Identifier: BSD-3-Clause
"""States: what a program keeps from one run to the next.

A state is a tensor that the graph takes and gives. In between, each update replaces the tensor by
which later operations of the program see it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convcal.coreml.program import Operation
    from convcal.runtime.translation.graph import Graph

__all__ = ["OPERATIONS"]


def read_state(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``read_state``."""
    return [graph.tensor(operation.tensor("input"))]


def update_state(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``coreml_update_state``, as which coremltools reads ``write_state``."""
    tensor = graph.tensor(operation.tensor("value"))
    graph.bind(operation.tensor("state"), tensor)
    return [tensor]


OPERATIONS = {"coreml_update_state": update_state, "read_state": read_state}
