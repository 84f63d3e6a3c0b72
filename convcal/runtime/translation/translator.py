# SPDX-License-Identifier: BSD-3-Clause
"""Walk through a program and translate its operations, or say which ones cannot be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import partial
from typing import TYPE_CHECKING, Protocol

from convcal.errors import InputError, UnsupportedModelError
from convcal.runtime.translation import (
    activations,
    arithmetic,
    comparisons,
    control,
    convolution,
    elementwise,
    gathering,
    linear_algebra,
    lists,
    normalization,
    ordering,
    padding,
    pooling,
    quantization,
    rearrangement,
    recurrence,
    reductions,
    resizing,
    sampling,
    scattering,
    shape,
    slicing,
    states,
    suppression,
    tensors,
    transposed_convolution,
)
from convcal.runtime.translation.graph import Graph, element_type
from convcal.runtime.translation.model import Model
from convcal.runtime.translation.parameters import flags

if TYPE_CHECKING:
    from convcal.coreml.program import Operation, Program, Value

__all__ = [
    "NO_TENSORS",
    "OPERATIONS",
    "OperationFault",
    "Translation",
    "find_value",
    "nearest",
    "translate",
    "unsupported",
]

_MOST_NAMES = 12
"""So many names a message has."""

OPERATIONS = {
    **activations.OPERATIONS,
    **arithmetic.OPERATIONS,
    **comparisons.OPERATIONS,
    **control.OPERATIONS,
    **convolution.OPERATIONS,
    **elementwise.OPERATIONS,
    **gathering.OPERATIONS,
    **linear_algebra.OPERATIONS,
    **lists.OPERATIONS,
    **normalization.OPERATIONS,
    **ordering.OPERATIONS,
    **padding.OPERATIONS,
    **pooling.OPERATIONS,
    **quantization.OPERATIONS,
    **rearrangement.OPERATIONS,
    **recurrence.OPERATIONS,
    **reductions.OPERATIONS,
    **resizing.OPERATIONS,
    **sampling.OPERATIONS,
    **scattering.OPERATIONS,
    **shape.OPERATIONS,
    **slicing.OPERATIONS,
    **states.OPERATIONS,
    **suppression.OPERATIONS,
    **tensors.OPERATIONS,
    **transposed_convolution.OPERATIONS,
}
# These move elements that are rounded already.
_EXACT = frozenset(
    {
        *comparisons.OPERATIONS,
        *control.OPERATIONS,
        *gathering.OPERATIONS,
        *lists.OPERATIONS,
        *ordering.OPERATIONS,
        *padding.OPERATIONS,
        *rearrangement.OPERATIONS,
        *shape.OPERATIONS,
        *slicing.OPERATIONS,
        *states.OPERATIONS,
        "tile",
    }
)
NO_TENSORS = ("string", "int64")
"""The types of labels, which a classifier gives and nothing can compute with."""
# Why there is no translation of an operation, and never will be.
_REASONS = dict.fromkeys(
    ("random_bernoulli", "random_categorical", "random_normal", "random_uniform"),
    "it draws random numbers as no other runtime does, so that no two outputs can be compared; "
    "convert the model with these numbers as an input",
)
_MAX_EXAMPLES = 3
_REMEDY = (
    "run the package on macOS (runtime='coreml', --runtime coreml), or record the outputs there "
    "or in your app and fit from these (convcal capture --import, convcal fit --captures)"
)


class OperationFault(Protocol):
    """A fault that acts inside the network, where an operation's parameters call for it."""

    def translate(
        self,
        graph: Graph,
        operation: Operation,
        translate: Callable[[Graph, Operation], list[str]],
    ) -> list[str] | None:
        """Translate the operation as the device computes it; None where it does so rightly.

        The `translate` that is given does so without this fault, under the other ones.
        """


@dataclass(frozen=True, eq=False)
class Translation:
    """A program as an ONNX model.

    Parameters
    ----------
    model : Model
        The model.
    inputs, outputs : mapping of str to str
        From the program's name of a tensor to the model's.
    states : mapping of str to (str, str)
        From the program's name of a state to what the model takes and gives of it.
    faulted : frozenset of OperationFault
        The faults that act on some operation.
    warnings : tuple of str
        What the user should know about how the program was understood.
    """

    model: Model
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    states: Mapping[str, tuple[str, str]]
    faulted: frozenset[OperationFault]
    warnings: tuple[str, ...]


def translate(
    program: Program, *, outputs: Sequence[str] = (), faults: Sequence[OperationFault] = ()
) -> Translation:
    """Translate a program to ONNX.

    Parameters
    ----------
    program : Program
        With shapes that are known.
    outputs : sequence of str
        Names of tensors to expose besides the program's outputs.
    faults : sequence of OperationFault
        Emulated faults; several that act on an operation do so together, the first outermost.

    Returns
    -------
    Translation
        The model, with the names of its inputs and outputs.

    Raises
    ------
    UnsupportedModelError
        If there are operations, or uses of them, without a translation; it lists all of them.
    InputError
        If `outputs` names a tensor that the program does not have.
    """
    exposed = {value.name: value for value in program.outputs if value.dtype not in NO_TENSORS}
    exposed |= {name: find_value(program, name) for name in outputs}
    faulted: set[OperationFault] = set()
    refused: list[tuple[str, str, str]] = []
    graph = Graph(
        lambda graph, block: _translate(graph, block, faults, faulted, refused), program.states
    )
    taken = [(graph.reserve(value.name), value) for value in (*program.inputs, *program.states)]
    for tensor, value in taken:
        graph.bind(value, tensor)
    _translate(graph, program, faults, faulted, refused)
    if refused:
        raise unsupported(dict.fromkeys(refused))
    names = {name: graph.expose(value) for name, value in exposed.items()}
    kept = [(graph.expose(value), value) for value in program.states]
    given = [(names[name], value) for name, value in exposed.items()]
    model = graph.model(taken, [*given, *kept])
    n_inputs = len(program.inputs)
    return Translation(
        model,
        {value.name: tensor for tensor, value in taken[:n_inputs]},
        names,
        {
            value.name: (before, after)
            for (before, value), (after, _) in zip(taken[n_inputs:], kept, strict=True)
        },
        frozenset(faulted),
        tuple(dict.fromkeys(graph.warnings)),
    )


def unsupported(refused: Iterable[tuple[str, str, str]]) -> UnsupportedModelError:
    """Make the one error that lists all that cannot be translated.

    Parameters
    ----------
    refused : iterable of (str, str, str)
        Type and name of each operation, and what is wrong with this use of it (empty if there
        is no translation of the type at all).
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for kind, name, reason in refused:
        groups.setdefault((kind, reason), []).append(name)
    lines = []
    for (kind, reason), names in sorted(groups.items()):
        examples = ", ".join(f"'{name}'" for name in names[:_MAX_EXAMPLES])
        more = ", …" if len(names) > _MAX_EXAMPLES else ""
        lines.append(f"{kind} ({len(names)}: {examples}{more}{'; ' if reason else ''}{reason})")
    return UnsupportedModelError(
        "the reference runtime does not have these operations of the model: "
        f"{'; '.join(lines)}. To go on, {_REMEDY}"
    )


def find_value(program: Program, name: str) -> Value:
    """Give a tensor of a program by its name.

    Raises
    ------
    InputError
        If there is none outside of the blocks of operations.
    UnsupportedModelError
        If it is of a type that the reference runtime does not have.
    """
    names = []
    made = (operation.outputs for operation in program.operations)
    # An output may be a constant, which nothing makes.
    fixed = [value for value in program.outputs if value.constant is not None]
    for values in (program.inputs, program.states, *made, fixed):
        for value in values:
            if value.name == name:
                element_type(value)
                return value
            names.append(value.name)
    raise InputError(f"the program has no tensor '{name}'; it has {nearest(name, names)}")


def nearest(name: str, names: Sequence[str]) -> str:
    """Give names for a message: all, if they are few, or those most like a name that is not one.

    A name that begins or contains it comes first, as ``conv_cast_fp16`` for ``conv``.
    """
    rest = ""
    if len(names) > _MOST_NAMES:
        likeness = {
            each: (name in each, SequenceMatcher(None, name, each).ratio()) for each in names
        }
        names = sorted(names, key=likeness.__getitem__, reverse=True)[:_MOST_NAMES]
        rest = " …"
    return ", ".join(f"'{each}'" for each in names) + rest


def _translate(
    graph: Graph,
    program: Program,
    faults: Sequence[OperationFault],
    faulted: set[OperationFault],
    refused: list[tuple[str, str, str]],
) -> None:
    """Add all operations to the graph; note which a fault acts on, and which cannot be added."""
    for operation in program.operations:
        if operation.is_folded:
            if operation.type == "concat" and flags(operation, "interleave", 1)[0]:
                reason = "coremltools joins constants end to end that are to be interleaved"
                refused.append((operation.type, operation.name, reason))
            continue
        tensors: Sequence[str] | None = None
        try:
            for value in operation.outputs:
                if operation.type != "classify":
                    element_type(value)
            if operation.type not in OPERATIONS:
                reason = _REASONS.get(operation.type, "")
                refused.append((operation.type, operation.name, reason))
            else:
                tensors = _translated(graph, operation, faults=faults, faulted=faulted)
        except UnsupportedModelError as error:
            refused.append((operation.type, operation.name, str(error)))
        for index, value in enumerate(operation.outputs):
            # After a refusal the walk goes on, to find the other ones.
            tensor = "" if tensors is None else tensors[index]
            if value.dtype == "float16" and operation.type not in _EXACT:
                tensor = graph.rounded(tensor)
            graph.bind(value, tensor)


def _translated(
    graph: Graph,
    operation: Operation,
    *,
    faults: Sequence[OperationFault],
    faulted: set[OperationFault],
) -> list[str]:
    """Translate one operation under faults."""
    if not faults:
        return OPERATIONS[operation.type](graph, operation)
    inner = partial(_translated, faults=faults[1:], faulted=faulted)
    tensors = faults[0].translate(graph, operation, inner)
    if tensors is None:
        return inner(graph, operation)
    faulted.add(faults[0])
    return tensors
