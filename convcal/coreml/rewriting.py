# SPDX-License-Identifier: BSD-3-Clause
"""Rewrite operations of a finished package, by surgery on its protobuf messages.

The messages of an operation are replaced, where it stands, by those that ``convcal.coreml.cures``
builds; the last of them make its tensors under their old names. Nothing else changes: constants
and weights stay where they are, the old ones too, and new ones are appended. Every new operation is
of the iOS 15 set, so that the specification version stays.
"""

from __future__ import annotations

import fnmatch
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from convcal.coreml._coremltools import load_message_types
from convcal.coreml.blocks import walk_blocks
from convcal.coreml.cures import BUILDERS, Site, is_candidate
from convcal.coreml.describe import tensor_dtype, tensor_shape
from convcal.coreml.inspection import inspect_programs, load_defaults
from convcal.coreml.operations import LargeConstants, OperationList, Tensor, all_names
from convcal.coreml.program import Value
from convcal.coreml.weights import WeightTail, blob_values
from convcal.errors import InputError, UnsupportedModelError
from convcal.words import STRATEGIES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convcal.coreml.package import Package
    from convcal.coreml.program import Operation, Program

__all__ = ["Replacement", "Surgery", "rewrite_operations"]

_MOST_NAMES = 12
# 1 GiB of fp32: more than a phone has for a tensor, and little enough to check on any machine.
_MOST_VALUES = 1 << 28


@dataclass(frozen=True)
class Replacement:
    """An operation and what took its place.

    Parameters
    ----------
    function : str
        The function of the package that has it.
    old : Operation
        Its view.
    tensors : frozenset of str
        What the new operations make, by name; the old tensors are among them.
    narrow : mapping of str to str
        By the name of an fp32 tensor that the new ones take that of the fp16 tensor that the old
        one took.
    weights : mapping of str to ndarray
        By parameter the constants of an fp32 package that took the place of fp16 ones.
    """

    function: str
    old: Operation
    tensors: frozenset[str]
    narrow: Mapping[str, str]
    weights: Mapping[str, NDArray[Any]]

    @property
    def mends_constants(self) -> bool:
        """Whether constants that fp16 could not hold are finite now: results are to differ."""
        narrow = _constants(self.old, "float16")
        return any(
            bool(np.any(np.isinf(narrow[name]) & np.isfinite(wide)))
            for name, wide in self.weights.items()
        )


@dataclass(frozen=True)
class Surgery:
    """A package with operations rewritten.

    Parameters
    ----------
    package : Package
        The new package, not saved yet; its weight file exists with the new weights once it is.
    programs : mapping of str to Program
        The functions of the old one.
    replacements : tuple of Replacement
        What was rewritten; none where no known fault calls for it.
    refused : tuple of str
        What a known fault touches, and this strategy cannot rewrite: one sentence each.
    """

    package: Package
    programs: Mapping[str, Program]
    replacements: tuple[Replacement, ...]
    refused: tuple[str, ...]


def rewrite_operations(
    package: Package,
    *,
    strategy: str,
    at: Sequence[str] = (),
    weights_from: Package | None = None,
) -> Surgery:
    """Rewrite operations of a package.

    Parameters
    ----------
    package : Package
        It is not changed.
    strategy : str
        One of `convcal.words.STRATEGIES`.
    at : sequence of str
        Operations, by their names or those of tensors that they make, in every function that has
        them; ``*`` and ``?`` in a name stand for any characters and for one, and mean the
        operations among them that the strategy is for. By default all that `inspect` names and
        the strategy cures.
    weights_from : Package, optional
        The same network in fp32, whose weights ``fp32-island`` takes.

    Returns
    -------
    Surgery

    Raises
    ------
    InputError
        If a name is unknown or ambiguous, or the fp32 package is of another network.
    UnsupportedModelError
        If one that `at` names in full cannot be rewritten in this way, with its reason.
    """
    if strategy not in STRATEGIES:
        raise InputError(
            f"there is no strategy '{strategy}'; choose one of {', '.join(STRATEGIES)}"
        )
    if weights_from is not None and strategy != "fp32-island":
        raise InputError(
            f"'{strategy}' keeps the weights of the model; weights of an fp32 package "
            "(--weights-from, weights_from) go with 'fp32-island'"
        )
    programs = load_defaults(package)
    chosen = _chosen(package, programs, strategy, at)
    named = {key for key, is_named in chosen.items() if is_named}
    model, _ = load_message_types()
    spec = model.Model()
    spec.CopyFrom(package.spec)
    file = _weight_file(package)
    taken = set(all_names(spec.mlProgram))
    wide = {} if weights_from is None else _wide_operations(weights_from)
    replacements: list[Replacement] = []
    refused: list[str] = []
    for function, program in programs.items():
        surgeon = _Surgeon(spec.mlProgram.functions[function], taken, file)
        for operation, _ in program.walk():
            key = (function, operation.outputs[0].name) if operation.outputs else None
            if key not in chosen:
                continue
            weights = {} if weights_from is None else _matching_weights(operation, wide)
            try:
                tensors, narrow = surgeon.replace(operation, strategy, weights)
            except UnsupportedModelError as error:
                reason = f"'{strategy}' cannot rewrite the {operation}: {error}"
                if key in named:
                    raise UnsupportedModelError(reason) from error
                refused.append(reason)
                continue
            replacements.append(Replacement(function, operation, tensors, narrow, weights))
    if not replacements:
        return Surgery(package, programs, (), tuple(refused))
    tail = None if file is None or file.tail.is_empty else file.tail
    return Surgery(
        package.with_spec(spec, tail=tail), programs, tuple(replacements), tuple(refused)
    )


def _chosen(
    package: Package, programs: Mapping[str, Program], strategy: str, at: Sequence[str]
) -> dict[tuple[str, str], bool]:
    """Give function and first tensor of all that is to be rewritten, and whether it was named."""
    if not at:
        return {
            (finding.function, finding.output): False
            for finding in inspect_programs(programs).findings
            if strategy in finding.rule.strategies
        }
    operations = [
        (function, operation)
        for function, program in programs.items()
        for operation, _ in program.walk()
        if operation.outputs
    ]
    chosen: dict[tuple[str, str], bool] = {}
    for name in at:
        found = {
            (function, operation.outputs[0].name): True
            for function, operation in operations
            if name in _names_of(operation)
        } or {
            (function, operation.outputs[0].name): False
            for function, operation in operations
            if any(fnmatch.fnmatchcase(each, name) for each in _names_of(operation))
            and is_candidate(strategy, operation)
        }
        if not found:
            raise InputError(
                f"'{package.path}' has no operation and no tensor '{name}' that '{strategy}' is "
                f"for; {_names(programs, strategy)}"
            )
        for key, is_named in found.items():
            chosen[key] = is_named or chosen.get(key, False)
    return chosen


def _names_of(operation: Operation) -> tuple[str, ...]:
    return (operation.name, *(value.name for value in operation.outputs))


def _names(programs: Mapping[str, Program], strategy: str) -> str:
    """List the operations that could have been meant."""
    names = dict.fromkeys(
        str(operation)
        for program in programs.values()
        for operation, _ in program.walk()
        if is_candidate(strategy, operation)
    )
    if not names:
        return "it has none at all"
    more = ", …" if len(names) > _MOST_NAMES else ""
    return f"it has {', '.join([*names][:_MOST_NAMES])}{more}"


def _weight_file(package: Package) -> LargeConstants | None:
    """Give the place for new weights; None where the program keeps its own in itself."""
    if package.weights_path is None:
        return None
    _, value = next(blob_values(package.spec.mlProgram))
    return LargeConstants(value.blobFileValue.fileName, WeightTail(package.weights_path))


@dataclass
class _Surgeon:
    """Replaces operations of one function, in its messages."""

    function: Any
    taken: set[str]
    file: LargeConstants | None
    places: dict[str, Any] = field(init=False)  # by tensor the block that makes it
    tensors: dict[str, Tensor] = field(init=False)
    counts: Counter[str] = field(init=False)
    wide: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.places = {}
        made: list[Any] = [*self.function.inputs]
        for block in walk_blocks(self.function.block_specializations[self.function.opset]):
            made += block.inputs
            for operation in block.operations:
                made += operation.outputs
                self.places.update((value.name, block) for value in operation.outputs)
        self.tensors = {
            value.name: Tensor(value.name, tensor_shape(value.type), tensor_dtype(value.type))
            for value in made
            if value.type.WhichOneof("type") == "tensorType"
        }
        self.counts = Counter(value.name for value in made)
        self.wide = {}

    def replace(
        self, operation: Operation, strategy: str, weights: Mapping[str, NDArray[Any]]
    ) -> tuple[frozenset[str], dict[str, str]]:
        """Put new messages in the place of an operation's.

        Gives the names of what they make, and those of fp32 tensors that they take, each with the
        fp16 tensor that the operation took.
        """
        if len(self.function.block_specializations) > 1:
            raise UnsupportedModelError("its function has bodies for several operation sets")
        block, index, message = self._find(operation)
        self._check(operation, message)
        name = operation.outputs[0].name
        operations = OperationList(
            f"{name}__{strategy.replace('-', '_')}",
            self.taken,
            opset=self.function.opset,
            file=self.file,
        )
        site = Site(operation, message, self.tensors, weights, dict(self.wide))
        results = BUILDERS[strategy](operations, site)
        for tensor in (*site.results, *operations.tensors):
            if (n_values := math.prod(map(abs, tensor.shape))) > _MOST_VALUES:
                raise UnsupportedModelError(
                    f"'{tensor.name}' would have {n_values} values, and at most {_MOST_VALUES} "
                    "are handled"
                )
        for result, old in zip(results, site.results, strict=True):
            if (result.shape, result.dtype) != (old.shape, old.dtype):
                raise UnsupportedModelError(
                    f"the new tensor would be {result.dtype} of shape {result.shape}, and the old "
                    f"one is {old.dtype} of shape {old.shape}"
                )
        names = {result.name: old.name for result, old in zip(results, site.results, strict=True)}
        for each in operations.messages:
            for value in each.outputs:
                value.name = names.get(value.name, value.name)
        del block.operations[index]
        for offset, each in enumerate(operations.messages):
            block.operations.insert(index + offset, each)
        taken = {
            binding.name
            for each in operations.messages
            for argument in each.inputs.values()
            for binding in argument.arguments
        }
        narrow = {wide: name for name, wide in self.wide.items() if wide in taken}
        self.wide = dict(site.wide)
        made = [each for each in operations.messages if each.type != "const"]
        return frozenset(value.name for each in made for value in each.outputs), narrow

    def _find(self, operation: Operation) -> tuple[Any, int, Any]:
        name = operation.outputs[0].name
        block = self.places.get(name)
        for index, message in enumerate(() if block is None else block.operations):
            makes_it = bool(message.outputs) and message.outputs[0].name == name
            if makes_it and message.type == operation.type:
                return block, index, message
        raise UnsupportedModelError("the package does not hold it under the name of its tensor")

    def _check(self, operation: Operation, message: Any) -> None:
        """Refuse what the messages leave open: a name made twice, an input without a name."""
        named = [value.name for value in message.outputs]
        for argument in message.inputs.values():
            named += [
                each.name for each in argument.arguments if each.WhichOneof("binding") == "name"
            ]
        for name in named:
            if self.counts[name] != 1 or name not in self.tensors:
                raise UnsupportedModelError(
                    f"its tensor '{name}' shares its name with another one, or is no tensor"
                )
        x = operation.inputs.get("x")
        if isinstance(x, Value) and x.constant is None and x.name not in named:
            raise UnsupportedModelError("its input 'x' has no name")


def _wide_operations(package: Package) -> dict[str, list[Operation]]:
    """Give the operations of an fp32 package by their type."""
    by_type: dict[str, list[Operation]] = {}
    for program in load_defaults(package).values():
        for operation, _ in program.walk():
            by_type.setdefault(operation.type, []).append(operation)
    return by_type


def _matching_weights(
    operation: Operation, wide: Mapping[str, Sequence[Operation]]
) -> dict[str, NDArray[Any]]:
    """Find the fp32 constants of the same operation in another package.

    It is the one of the same type whose constants have the same shapes and round to the same fp16
    values; of several, the one of the same name.

    Raises
    ------
    InputError
        If there is none, or several that differ.
    """
    narrow = _constants(operation, "float16")
    if not narrow:
        return {}
    matches = [
        (other, constants)
        for other in wide.get(operation.type, ())
        if (constants := _same_when_rounded(narrow, _constants(other, "float32"))) is not None
    ]
    plain = operation.name.removesuffix("_cast_fp16")
    named = [constants for other, constants in matches if other.name in (operation.name, plain)]
    candidates = named or [constants for _, constants in matches]
    if not candidates:
        raise InputError(
            f"the fp32 package has no {operation.type} whose weights round to those of the "
            f"{operation}; give the package of the same network in fp32"
        )
    first = candidates[0]
    for other_constants in candidates[1:]:
        if any(not np.array_equal(first[key], other_constants[key]) for key in first):
            raise InputError(
                f"the fp32 package has {len(candidates)} operations whose weights round to those "
                f"of the {operation}, and they differ; name it alike in both packages"
            )
    return first


def _constants(operation: Operation, dtype: str) -> dict[str, NDArray[Any]]:
    return {
        name: value.constant
        for name, value in operation.inputs.items()
        if isinstance(value, Value) and value.constant is not None and value.dtype == dtype
    }


def _same_when_rounded(
    narrow: Mapping[str, NDArray[Any]], wide: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]] | None:
    """Give the wide constants of the same parameters, if they round to the narrow ones."""
    for name, values in narrow.items():
        if name not in wide or wide[name].shape != values.shape:
            return None
        with np.errstate(over="ignore"):
            if not np.array_equal(wide[name].astype(np.float16), values, equal_nan=True):
                return None
    return {name: wide[name] for name in narrow}
