# SPDX-License-Identifier: BSD-3-Clause
"""Recurrent layers: LSTM, GRU and the plain one.

What MIL's documentation leaves open follows coremltools' tests against Core ML: a layer of
direction ``reverse`` gives its states in the order in which it computes them, from the last input
to the first; the backward half of a ``bidirectional`` one comes in the order of the inputs; the
reset gate of a GRU scales the state before the recurrent matrix is applied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from convcal.errors import UnsupportedModelError
from convcal.runtime.translation.parameters import flags, static_shape, text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convcal.coreml.program import Operation
    from convcal.runtime.translation.graph import Graph

__all__ = ["OPERATIONS"]

_FAR = 2**31 - 1
_ACTIVATIONS = {"linear": "Affine", "relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}
# The order of the gates in a weight, MIL's and ONNX's: input, output, forget, cell; reset, new
# (MIL calls it output), update.
_LSTM_GATES = ("ifoz", "iofz")
_GRU_GATES = ("roz", "zro")
_PEEPHOLES = ("ifo", "iof")


def lstm(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``lstm``, in one direction or both, with peepholes."""
    if operation.constant("clip") is not None:
        raise UnsupportedModelError(
            "MIL does not say which of the cell's values the parameter 'clip' bounds"
        )
    suffixes = ("", "_back") if _direction(operation) == "bidirectional" else ("",)
    peepholes = ""
    if any(operation.constant(f"peephole{suffix}") is not None for suffix in suffixes):
        size = static_shape(operation.tensor("weight_hh"))[1]
        peepholes = graph.constant(
            np.stack([_vector(operation, f"peephole{s}", _PEEPHOLES, size) for s in suffixes])
        )
    count = len(suffixes)
    states = [_split_state(graph, operation, name, count) for name in ("initial_h", "initial_c")]
    return _layer(
        graph,
        operation,
        "LSTM",
        gates=_LSTM_GATES,
        suffixes=suffixes,
        states=(*states, peepholes),
        activations=("recurrent_activation", "cell_activation", "activation"),
    )


def gru(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``gru``."""
    if flags(operation, "reset_after", 1)[0] or operation.constant("input_bias") is not None:
        raise UnsupportedModelError(
            "MIL's documentation contradicts itself about 'reset_after' and 'input_bias'"
        )
    return _layer(
        graph,
        operation,
        "GRU",
        gates=_GRU_GATES,
        suffixes=("",),
        states=[_split_state(graph, operation, "initial_h", 1)],
        activations=("recurrent_activation", "activation"),
    )


def rnn(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``rnn``, the plain recurrent layer."""
    return _layer(
        graph,
        operation,
        "RNN",
        gates=("h", "h"),
        suffixes=("",),
        states=[_split_state(graph, operation, "initial_h", 1)],
        activations=("activation",),
    )


def _layer(
    graph: Graph,
    operation: Operation,
    kind: str,
    *,
    gates: tuple[str, str],
    suffixes: Sequence[str],
    states: Sequence[str],
    activations: Sequence[str],
) -> list[str]:
    """Add a layer, with its weights in ONNX's order; give MIL's results."""
    size = static_shape(operation.tensor("weight_hh"))[1]
    weights = [
        graph.constant(np.stack([_rows(operation, f"{name}{s}", gates, size) for s in suffixes]))
        for name in ("weight_ih", "weight_hh")
    ]
    # ONNX takes two biases, MIL their sum.
    biases = np.stack([_vector(operation, f"bias{s}", gates, size) for s in suffixes])
    bias = graph.constant(np.concatenate([biases, np.zeros_like(biases)], axis=1))
    functions = [_activation(operation, name) for name in activations] * len(suffixes)
    affine = functions.count("Affine")
    options: dict[str, object] = {
        "activations": functions,
        "direction": "bidirectional" if len(suffixes) > 1 else "forward",
        "hidden_size": size,
    }
    if affine:
        options |= {"activation_alpha": [1.0] * affine, "activation_beta": [0.0] * affine}
    x = graph.tensor(operation.tensor("x"))
    if _direction(operation) == "reverse":
        bounds = ([-1], [-_FAR], [0], [-1])
        x = graph.node("Slice", x, *(graph.integers(bound) for bound in bounds))
    # The empty name: all sequences have the length of x.
    sequence, *last = graph.split_node(
        kind, x, *weights, bias, "", *states, n_outputs=len(operation.outputs), **options
    )
    last = [_joined_state(graph, state) for state in last]
    if flags(operation, "output_sequence", 1)[0]:
        # (steps, directions, batch, size) to (steps, batch, directions * size)
        moved = graph.node("Transpose", sequence, perm=[0, 2, 1, 3])
        return [graph.node("Reshape", moved, graph.integers([0, 0, -1])), *last]
    return [graph.node("Unsqueeze", last[0], graph.integers([0])), *last]


def _direction(operation: Operation) -> str:
    direction = text(operation, "direction", default="forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        raise UnsupportedModelError(f"the direction '{direction}' is not one of MIL's")
    return direction


def _activation(operation: Operation, name: str) -> str:
    given = text(operation, name, default="tanh").lower()
    if given not in _ACTIVATIONS:
        raise UnsupportedModelError(
            f"MIL does not say the constants of the activation '{given}' of recurrent layers"
        )
    return _ACTIVATIONS[given]


def _rows(
    operation: Operation, name: str, gates: tuple[str, str], size: int
) -> NDArray[np.float32]:
    """Give a weight with its blocks of rows, one per gate, in ONNX's order."""
    constant = operation.constant(name)
    if constant is None:
        raise UnsupportedModelError(f"the parameter '{name}' is missing")
    blocks = np.asarray(constant, np.float32).reshape(len(gates[0]), size, -1)
    return np.concatenate([blocks[gates[0].index(gate)] for gate in gates[1]])


def _vector(
    operation: Operation, name: str, gates: tuple[str, str], size: int
) -> NDArray[np.float32]:
    """Give a bias or peepholes in ONNX's order; zero if absent."""
    if operation.constant(name) is None:
        return np.zeros(len(gates[0]) * size, np.float32)
    return _rows(operation, name, gates, size)[:, 0]


def _split_state(graph: Graph, operation: Operation, name: str, directions: int) -> str:
    """Turn a state (batch, directions * size) into ONNX's (directions, batch, size)."""
    state = graph.tensor(operation.tensor(name))
    parts = graph.node("Reshape", state, graph.integers([0, directions, -1]))
    return graph.node("Transpose", parts, perm=[1, 0, 2])


def _joined_state(graph: Graph, state: str) -> str:
    moved = graph.node("Transpose", state, perm=[1, 0, 2])
    return graph.node("Reshape", moved, graph.integers([0, -1]))


OPERATIONS: dict[str, Callable[[Graph, Operation], list[str]]] = {
    "gru": gru,
    "lstm": lstm,
    "rnn": rnn,
}
