# SPDX-License-Identifier: BSD-3-Clause
"""Control flow: blocks of operations that run on a condition, or again and again."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convcal.coreml.program import Operation, Program, Value
    from convcal.runtime.translation.graph import Graph

__all__ = ["OPERATIONS"]


def cond(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``cond``: one block where the predicate holds, another where not."""
    true, false = operation.blocks
    states, before = graph.states, [graph.tensor(state) for state in graph.states]

    def branch_of(block: Program, _: list[str]) -> list[str]:
        _bind(graph, states, before)
        return [*graph.block(block), *(graph.tensor(state) for state in states)]

    branches = [
        graph.subgraph([], [*block.outputs, *states], partial(branch_of, block))
        for block in (true, false)
    ]
    results = graph.split_node(
        "If",
        _scalar(graph, graph.tensor(operation.tensor("pred")), operation.tensor("pred")),
        n_outputs=len(operation.outputs) + len(states),
        then_branch=branches[0],
        else_branch=branches[1],
    )
    return _without_states(graph, operation, results)


def while_loop(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``while_loop``; ONNX asks for the condition of the next turn at the end of one."""
    condition, body = operation.blocks
    values = _loop_variables(operation)
    states = graph.states

    def condition_of(tensors: list[str]) -> str:
        _bind(graph, condition.inputs, tensors)
        (holds,) = graph.block(condition)
        return _scalar(graph, holds, condition.outputs[0])

    def turn(tensors: list[str]) -> list[str]:
        _bind(graph, [*body.inputs, *states], tensors)
        results = graph.block(body)
        holds = condition_of(results)  # which may update states, too
        return [holds, *results, *(graph.tensor(state) for state in states)]

    starts = [graph.tensor(value) for value in values]
    holds = condition_of(starts)
    starts += [graph.tensor(state) for state in states]
    loop = graph.subgraph(
        [*body.inputs, *states],
        [condition.outputs[0], *body.outputs, *states],
        turn,
        is_loop=True,
    )
    results = graph.split_node("Loop", "", holds, *starts, n_outputs=len(starts), body=loop)
    return _without_states(graph, operation, results)


def _scalar(graph: Graph, tensor: str, value: Value) -> str:
    """Give a condition as a scalar, which ONNX takes; MIL also has vectors of one."""
    return graph.node("Reshape", tensor, graph.integers([])) if value.shape else tensor


def _loop_variables(operation: Operation) -> tuple[Value, ...]:
    values = operation.inputs["loop_vars"]
    return values if isinstance(values, tuple) else (values,)


def _bind(graph: Graph, values: Sequence[Value], tensors: Sequence[str]) -> None:
    for value, tensor in zip(values, tensors, strict=True):
        graph.bind(value, tensor)


def _without_states(graph: Graph, operation: Operation, results: list[str]) -> list[str]:
    """Take the states as the blocks leave them, which come last, from the results."""
    n_results = len(operation.outputs)
    _bind(graph, graph.states, results[n_results:])
    return results[:n_results]


OPERATIONS = {"cond": cond, "while_loop": while_loop}
