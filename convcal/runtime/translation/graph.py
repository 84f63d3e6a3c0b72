# SPDX-License-Identifier: BSD-3-Clause
"""The ONNX graph under construction: tensors by name, nodes, constants, fp16 roundings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from convcal.errors import UnsupportedModelError
from convcal.runtime.translation.model import Model

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convcal.coreml.program import Program, Value

__all__ = ["OPSET", "Graph", "element_type"]

# Opset 18 and IR 8 are read by every ONNX Runtime since 1.14, and have all that is used here.
OPSET = 18
_IR_VERSION = 8

# ONNX element types (TensorProto.DataType) in which the values of a program live in the graph.
# fp16 values live as fp32 numbers that fp16 can represent: see `Graph.rounded`.
_FLOAT, _INT32, _BOOL, _FLOAT16 = 1, 6, 9, 10
_UINT8, _INT8, _UINT16, _INT16, _INT64 = 2, 3, 4, 5, 7
_ELEMENT_TYPES = {
    "float32": _FLOAT,
    "float16": _FLOAT,
    "int32": _INT32,
    "bool": _BOOL,
    "int8": _INT8,
    "uint8": _UINT8,
    "int16": _INT16,
    "uint16": _UINT16,
}


def element_type(value: Value) -> int:
    """Give the ONNX element type in which a value lives in the graph.

    Raises
    ------
    UnsupportedModelError
        If the reference runtime has no such values.
    """
    if value.dtype not in _ELEMENT_TYPES:
        raise UnsupportedModelError(
            f"the tensor '{value.name}' is of type {value.dtype}; "
            f"the reference runtime computes with {', '.join(_ELEMENT_TYPES)}"
        )
    return _ELEMENT_TYPES[value.dtype]


class Graph:
    """Collects the nodes and constants of an ONNX model, each under a name of its own.

    Parameters
    ----------
    translate : callable
        Adds the operations of a block of the program.

    Attributes
    ----------
    warnings : list of str
        What the user should know about how the program was understood.
    states : tuple of Value
        What the program keeps from one run to the next.
    """

    def __init__(
        self, translate: Callable[[Graph, Program], None], states: Sequence[Value] = ()
    ) -> None:
        self._translate = translate
        self.states = tuple(states)
        self.warnings: list[str] = []
        self._nodes: list[Any] = []
        self._constants: dict[str, NDArray[Any]] = {}
        self._names: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._tensors: dict[Value, str] = {}

    def bind(self, value: Value, tensor: str) -> None:
        """Say which tensor of the graph holds a value of the program."""
        self._tensors[value] = tensor

    def reserve(self, name: str) -> str:
        """Take a name like `name` that nothing else in the graph has."""
        candidate = name
        while candidate in self._names:
            self._counts[name] += 1
            candidate = f"{name}/{self._counts[name]}"
        self._names.add(candidate)
        return candidate

    def tensor(self, value: Value) -> str:
        """Give the tensor that holds a value; a constant is added when it is first asked for."""
        if value not in self._tensors:
            if value.constant is None:
                raise UnsupportedModelError(f"the tensor '{value.name}' is used before it is made")
            element_type(value)
            array = value.constant.astype(value.dtype, copy=False)
            self.bind(value, self.constant(array, name=value.name))
        return self._tensors[value]

    def constant(self, array: NDArray[Any], *, name: str = "constant") -> str:
        """Add a constant; one of fp16 lives as fp32."""
        tensor = self.reserve(name)
        self._constants[tensor] = array
        return tensor

    def integers(self, values: Sequence[int]) -> str:
        """Add a vector of int64, which ONNX takes for shapes, axes and pads."""
        return self.constant(np.array(values, np.int64))

    def int64(self, value: Value) -> str:
        """Give integers of the program as int64, which ONNX takes for shapes, axes and pads."""
        if value.constant is not None:
            return self.constant(np.asarray(value.constant, np.int64), name=value.name)
        return self.node("Cast", self.tensor(value), to=_INT64)

    def number(self, value: float) -> str:
        """Add an fp32 scalar."""
        return self.constant(np.array(value, np.float32))

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one result, and give its name."""
        return self.split_node(kind, *inputs, n_outputs=1, **attributes)[0]

    def split_node(self, kind: str, *inputs: str, n_outputs: int, **attributes: Any) -> list[str]:
        """Add a node with several results, and give their names."""
        from onnx import helper

        outputs = [self.reserve(kind.lower()) for _ in range(n_outputs)]
        self._nodes.append(
            helper.make_node(kind, list(inputs), outputs, name=outputs[0], **attributes)
        )
        return outputs

    def subgraph(
        self,
        inputs: Sequence[Value],
        outputs: Sequence[Value],
        build: Callable[[list[str]], list[str]],
        *,
        is_loop: bool = False,
    ) -> Any:
        """Make a graph that runs inside a node, and may use the tensors of this one.

        Parameters
        ----------
        inputs, outputs : sequence of Value
            What it takes and gives.
        build : callable
            Adds its nodes: from the tensors that hold the inputs to those that hold the outputs.
        is_loop : bool
            Whether it takes the number of the turn and the condition first, as a loop's does.

        Returns
        -------
        onnx.GraphProto
            The graph.
        """
        from onnx import helper

        outer, self._nodes = self._nodes, []
        taken = [self.reserve(value.name) for value in inputs]
        described = [
            helper.make_tensor_value_info(tensor, element_type(value), None)
            for tensor, value in zip(taken, inputs, strict=True)
        ]
        if is_loop:
            turn, condition = (self.reserve(name) for name in ("turn", "condition"))
            described = [
                helper.make_tensor_value_info(turn, _INT64, []),
                helper.make_tensor_value_info(condition, _BOOL, []),
                *described,
            ]
        # A result may come from outside, which ONNX does not allow.
        given = [self.node("Identity", tensor) for tensor in build(taken)]
        results = [
            helper.make_tensor_value_info(tensor, element_type(value), None)
            for tensor, value in zip(given, outputs, strict=True)
        ]
        graph = helper.make_graph(self._nodes, self.reserve("block"), described, results)
        self._nodes = outer
        return graph

    def block(self, program: Program) -> list[str]:
        """Translate the operations of a block here; give the tensors that hold its results."""
        self._translate(self, program)
        return [self.tensor(value) for value in program.outputs]

    def rounded(self, tensor: str) -> str:
        """Round fp32 numbers to fp16 (ties to even, overflow to infinity) and widen them again.

        ONNX Runtime drops such a pair between fp16 operations but keeps it between fp32 ones.
        """
        return self.node("Cast", self.node("Cast", tensor, to=_FLOAT16), to=_FLOAT)

    def expose(self, value: Value) -> str:
        """Give a value a tensor that can be an output of the graph, under its own name."""
        from onnx import helper

        name = self.reserve(value.name)
        self._nodes.append(helper.make_node("Identity", [self.tensor(value)], [name]))
        return name

    def model(
        self, inputs: Sequence[tuple[str, Value]], outputs: Sequence[tuple[str, Value]]
    ) -> Model:
        """Assemble the model; inputs and outputs are pairs of name and value."""
        from onnx import helper

        def described(tensor: str, value: Value) -> Any:
            return helper.make_tensor_value_info(tensor, element_type(value), list(value.shape))

        graph = helper.make_graph(
            self._nodes,
            "program",
            [described(tensor, value) for tensor, value in inputs],
            [described(tensor, value) for tensor, value in outputs],
        )
        opsets = [helper.make_opsetid("", OPSET)]
        proto = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        return Model(proto, self._constants)
