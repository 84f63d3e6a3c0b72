# SPDX-License-Identifier: BSD-3-Clause
"""Control flow: blocks of operations that run on a condition, or again and again."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from convcal.errors import UnsupportedModelError

if TYPE_CHECKING:
    from convcal.coreml.program import Operation, Program, Value
    from convcal.runtime.translation.graph import Graph

__all__ = ["OPERATIONS"]


def cond(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``cond``: one block where the predicate holds, another where not."""
    true, false = operation.blocks
    branches = [
        graph.subgraph([], block.outputs, partial(_block_of, graph, block))
        for block in (true, false)
    ]
    return graph.split_node(
        "If",
        _scalar(graph, graph.tensor(operation.tensor("pred")), operation.tensor("pred")),
        n_outputs=len(operation.outputs),
        then_branch=branches[0],
        else_branch=branches[1],
    )


def while_loop(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``while_loop``; ONNX asks for the condition of the next turn at the end of one."""
    condition, body = operation.blocks
    values = _loop_variables(operation)
    if any(value.dtype == "list" for value in values):
        raise UnsupportedModelError("it goes on with a list")

    def condition_of(tensors: list[str]) -> str:
        (holds,) = _block_of(graph, condition, tensors)
        return _scalar(graph, holds, condition.outputs[0])

    def turn(tensors: list[str]) -> list[str]:
        results = _block_of(graph, body, tensors)
        return [condition_of(results), *results]

    starts = [graph.tensor(value) for value in values]
    loop = graph.subgraph(body.inputs, [condition.outputs[0], *body.outputs], turn, is_loop=True)
    return graph.split_node(
        "Loop", "", condition_of(starts), *starts, n_outputs=len(operation.outputs), body=loop
    )


def _scalar(graph: Graph, tensor: str, value: Value) -> str:
    """Give a condition as a scalar, which ONNX takes; MIL also has vectors of one."""
    return graph.node("Reshape", tensor, graph.integers([])) if value.shape else tensor


def _loop_variables(operation: Operation) -> tuple[Value, ...]:
    values = operation.inputs["loop_vars"]
    return values if isinstance(values, tuple) else (values,)


def _block_of(graph: Graph, block: Program, tensors: list[str]) -> list[str]:
    """Add the operations of a block, which takes these tensors; give its results."""
    for value, tensor in zip(block.inputs, tensors, strict=True):
        graph.bind(value, tensor)
    return graph.block(block)


OPERATIONS = {"cond": cond, "while_loop": while_loop}
