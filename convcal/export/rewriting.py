# SPDX-License-Identifier: BSD-3-Clause
"""Write a package in which operations are rewritten, and prove that it computes the same."""

from __future__ import annotations

import contextlib
import json
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import convcal
from convcal.coreml.costs import Cost, cost_of
from convcal.coreml.crop import crop_of
from convcal.coreml.describe import describe
from convcal.coreml.inspection import load_default
from convcal.coreml.package import Package, read_package
from convcal.coreml.patch import patched_outputs
from convcal.coreml.program import Operation, Program, Value
from convcal.coreml.rewriting import Replacement, Surgery, rewrite_operations
from convcal.errors import (
    ConvcalError,
    ConvcalWarning,
    InputError,
    RunnerError,
    SelfCheckError,
    UnsupportedModelError,
)
from convcal.files import ensure_absent
from convcal.runtime.execution import ExecutableProgram, load_onnxruntime
from convcal.runtime.reference import ReferenceRunner

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convcal.model_description import Feature

__all__ = ["REWRITE_KEY", "Rewriting", "RewrittenOperation", "rewrite"]

REWRITE_KEY = "convcal.rewrite"
"""The user metadata of a rewritten package that says what was rewritten (JSON)."""

_VERSION = 1
_SEED = 0
# 1 GiB of fp32.
_MOST_VALUES = 1 << 28
# Of the largest value of an operation's result. In fp16 four times its rounding of 2**-11, in fp32
# far more than the order of the sums explains, and far less than a tensor at the wrong place.
_TOLERANCES = {"float16": 2.0**-9, "float32": 2.0**-16}
# Of the size of a network's output: rounding that falls the other way in one operation grows in
# those behind it, to a few tenths of a per cent in deep networks, where a tensor at the wrong
# place changes everything.
_NETWORK_TOLERANCE = 2.0**-6


@dataclass(frozen=True)
class RewrittenOperation:
    """An operation that was rewritten.

    Parameters
    ----------
    function, operation, type : str
        The function that has it, its name and its type.
    output : str
        Its first tensor.
    before, after : Cost
        What it cost, and what the operations in its place cost, inputs in their default shape.
    largest_difference : float or None
        Between both on random inputs, as a part of the largest value; None where that could not
        be measured.
    """

    function: str
    operation: str
    type: str
    output: str
    before: Cost
    after: Cost
    largest_difference: float | None

    def to_dict(self) -> dict[str, Any]:
        """Give the record JSON-ready."""
        return {**vars(self), "before": vars(self.before), "after": vars(self.after)}


@dataclass(frozen=True)
class Rewriting:
    """What `rewrite` wrote.

    Parameters
    ----------
    path : pathlib.Path
        The new package.
    strategy : str
        How its operations were rewritten.
    operations : tuple of RewrittenOperation
        Which.
    refused : tuple of str
        What a known fault touches, and could not be rewritten: one sentence each.
    new_weight_bytes : int
        By how much the weight file grew.
    specification_version : int
        That of both packages: no strategy needs a newer one.
    """

    path: Path
    strategy: str
    operations: tuple[RewrittenOperation, ...]
    refused: tuple[str, ...]
    new_weight_bytes: int
    specification_version: int

    def to_dict(self) -> dict[str, Any]:
        """Give the record JSON-ready."""
        return {
            "file": str(self.path),
            "strategy": self.strategy,
            "operations": [each.to_dict() for each in self.operations],
            "refused": list(self.refused),
            "new_weight_bytes": self.new_weight_bytes,
            "specification_version": self.specification_version,
        }


def rewrite(
    model: Package | str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    strategy: str,
    at: Sequence[str] = (),
    weights_from: Package | str | os.PathLike[str] | None = None,
    force: bool = False,
) -> Rewriting | None:
    """Write a package in which operations are replaced by others that compute the same.

    Parameters
    ----------
    model : Package or path
        An ``.mlpackage`` that holds an ML Program; it is not changed.
    target : path
        The new package, a name that ends in ``.mlpackage``.
    strategy : {'explicit-crop', 'zero-insertion', 'subpixel', 'fp32-island'}
        The first three are for ``conv_transpose``: without pads and ``output_shape``, and a slice
        behind it; zeros inserted, and an ordinary convolution; one convolution for all phases of
        the stride, and ``pixel_shuffle`` (equal strides). The last computes any operation in
        fp32, with casts around it.
    at : sequence of str
        Names of operations, or of tensors that they make, perhaps with ``*`` and ``?``; by
        default all that `convcal.inspect` names and the strategy cures.
    weights_from : Package or path, optional
        The same network in fp32, whose weights ``fp32-island`` takes; by default those of the
        model are widened.
    force : bool
        Replace a target that exists.

    Returns
    -------
    Rewriting or None
        None if no fault that is known calls for this strategy; then nothing is written.
        Everything else of the package is as it was: other operations and functions, inputs,
        outputs, descriptions, the specification version, and the weights, behind which new ones
        are appended.

    Raises
    ------
    InputError
        If the package or an argument cannot be used.
    UnsupportedModelError
        If the package is no ML Program, or an operation cannot be rewritten in this way, or not
        be checked; the message names it and says why.
    OutputExistsError, WriteError
        If the target exists or cannot be written.
    UnavailableError
        If onnx or onnxruntime is not installed, with which the result is checked.
    SelfCheckError
        If what was written does not read back, or does not compute the same on random inputs,
        but for rounding; it is not kept.

    Warns
    -----
    ConvcalWarning
        If operations that a fault touches are left as they are, something could not be checked, or
        outputs carry a correction of convcal's already.
    """
    ensure_absent(target, force=force)
    load_onnxruntime()  # before any long work
    original = model if isinstance(model, Package) else read_package(model)
    if weights_from is not None and not isinstance(weights_from, Package):
        weights_from = read_package(weights_from)
    surgery = rewrite_operations(original, strategy=strategy, at=at, weights_from=weights_from)
    for reason in surgery.refused:
        warnings.warn(f"left as it is: {reason}", ConvcalWarning, stacklevel=2)
    if not surgery.replacements:
        return None
    if corrected := patched_outputs(original):
        warnings.warn(
            f"the outputs {sorted(corrected)} of '{original.path}' carry a correction that was "
            "fitted on the fault; where the rewrite cures it, that correction does harm: rewrite "
            "the package as it was before",
            ConvcalWarning,
            stacklevel=2,
        )
    changed = surgery.package
    changed.spec.description.metadata.userDefined[REWRITE_KEY] = _record(
        original, surgery, strategy, weights_from
    )
    operations: list[RewrittenOperation] = []

    def check(folder: Path) -> None:
        try:
            operations.extend(_checked(original, surgery, folder))
        except UnsupportedModelError:  # it could not be checked
            raise
        except ConvcalError as error:
            raise SelfCheckError(
                f"the rewritten package did not pass its own check and was not kept: {error}; "
                "this is a defect of convcal, please report it with the package"
            ) from error

    path = changed.save(target, force=force, check=check)
    return Rewriting(
        path,
        strategy,
        tuple(operations),
        surgery.refused,
        _size(read_package(path)) - _size(original),
        int(original.spec.specificationVersion),
    )


def _size(package: Package) -> int:
    return 0 if package.weights_path is None else package.weights_path.stat().st_size


def _record(
    original: Package, surgery: Surgery, strategy: str, weights_from: Package | None
) -> str:
    """Say in the metadata what was rewritten, after what was rewritten before."""
    text = original.spec.description.metadata.userDefined.get(REWRITE_KEY, "")
    before: list[Any] = []
    try:
        before = [*json.loads(text)["rewritten"]] if text else []
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(
            f"the user metadata '{REWRITE_KEY}' of '{original.path}' reads {text[:80]!r}, which "
            "this version of convcal does not know; rewrite the package as it was before"
        ) from error
    rewritten = [
        {
            "function": each.function,
            "operation": each.old.name,
            "type": each.old.type,
            "strategy": strategy,
            "convcal": convcal.__version__,
            "original": original.sha256,
            **(
                {"weights_from": weights_from.sha256}
                if weights_from is not None and each.weights
                else {}
            ),
        }
        for each in surgery.replacements
    ]
    return json.dumps({"version": _VERSION, "rewritten": [*before, *rewritten]}, sort_keys=True)


def _checked(original: Package, surgery: Surgery, folder: Path) -> Iterator[RewrittenOperation]:
    """Read the written package back, compare it with the old one, and give what it costs.

    Every operation is compared by itself or, where that cannot be, as a part of its network.
    """
    written = read_package(folder)
    if written.serialize() != surgery.package.serialize():
        raise InputError("the specification does not read back as it was written")
    if written.weights_sha256 != surgery.package.weights_sha256:
        raise InputError("the weights do not read back as they were written")
    for function, program in surgery.programs.items():
        replacements = [each for each in surgery.replacements if each.function == function]
        if not replacements:
            continue
        _compare_description(original, written, function)
        operations = _Operations(load_default(written, function))
        compared = [
            _compare_operation(each, operations.making(each.tensors)) for each in replacements
        ]
        reason = (
            "constants that were infinite in fp16 are finite now, and outputs are meant to differ"
            if any(each.mends_constants for each in replacements)
            else _compare_networks(original, written, function, program)
        )
        for each in compared:
            if reason is not None and each.largest_difference is None:
                raise UnsupportedModelError(
                    f"neither the {each.type} '{each.operation}' nor its network could be run to "
                    f"check the rewrite, and nothing was written: {reason}"
                )
        if reason is not None:
            warnings.warn(
                f"operations were compared one by one, but not the whole network: {reason}",
                ConvcalWarning,
                stacklevel=2,
            )
        yield from compared


def _compare_description(original: Package, written: Package, function: str) -> None:
    """See that the program still gives what is described."""
    for feature in describe(written, function=function).outputs:
        if feature != describe(original, function=function).output(feature.name):
            raise InputError(f"the output {feature} is not the one of the original")


def _compare_operation(each: Replacement, after: Sequence[Operation]) -> RewrittenOperation:
    """Run an operation and what took its place on the same random inputs, where it can be run."""
    before = [each.old]
    difference: float | None = None
    # Where its shapes are open, or the reference runtime does not have it, its network decides.
    with contextlib.suppress(UnsupportedModelError, RunnerError):
        _check_size(before)
        sample = _sample(_inputs(before))
        results = _run_part([_with_constants(each.old, each.weights)], before, sample)
        sample |= {wide: sample[name].astype(np.float32) for wide, name in each.narrow.items()}
        difference = _largest_difference(results, _run_part(after, before, sample))
    return RewrittenOperation(
        each.function,
        each.old.name,
        each.old.type,
        each.old.outputs[0].name,
        cost_of(before),
        cost_of(after),
        difference,
    )


class _Operations:
    """Finds operations of a program by what they make."""

    def __init__(self, program: Program) -> None:
        self._operations = [each for each, _ in program.walk() if each.outputs]
        self._places = {each.outputs[0].name: place for place, each in enumerate(self._operations)}

    def making(self, tensors: Iterable[str]) -> list[Operation]:
        """Give the operations whose first tensor is one of these, in their order."""
        places = sorted(self._places[name] for name in tensors if name in self._places)
        return [self._operations[place] for place in places]


def _run_part(
    part: Sequence[Operation], original: Sequence[Operation], sample: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Run operations; give the floating-point tensors that the original ones give."""
    names = [value.name for each in original for value in each.outputs]
    outputs = tuple(_made(part, name) for name in names)
    floats = tuple(value for value in outputs if value.dtype in _TOLERANCES)
    return ExecutableProgram(Program(_inputs(part), floats, tuple(part))).run(sample)


def _with_constants(operation: Operation, weights: Mapping[str, NDArray[Any]]) -> Operation:
    """Give an operation with other constants, which the new one is to be compared with."""
    values = {
        name: Value(operation.tensor(name).name, "float32", array.shape, array)
        for name, array in weights.items()
    }
    return replace(operation, inputs={**operation.inputs, **values})


def _largest_difference(
    expected: Mapping[str, NDArray[Any]], found: Mapping[str, NDArray[Any]]
) -> float:
    """Give the largest difference, as a part of the largest value; refuse more than rounding."""
    largest = 0.0
    for name, array in expected.items():
        old, new = array.astype(np.float64), found[name].astype(np.float64)
        finite = np.isfinite(old)
        size = float(np.abs(old[finite]).max(initial=0.0))
        difference = float(np.abs(new[finite] - old[finite]).max(initial=0.0))
        if not difference <= _TOLERANCES[array.dtype.name] * size:
            raise InputError(
                f"'{name}' differs by {difference:.3g} from that of the original, where the "
                f"largest value is {size:.3g}, on random inputs"
            )
        largest = max(largest, difference / size if size else 0.0)
    return largest


def _sample(values: Sequence[Value]) -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(_SEED)
    return {value.name: _random(value, generator) for value in values}


def _made(part: Sequence[Operation], name: str) -> Value:
    return next(value for each in part for value in each.outputs if value.name == name)


def _inputs(part: Sequence[Operation]) -> tuple[Value, ...]:
    """Give the tensors that operations take from outside."""
    made = {value.name for each in part for value in each.outputs}
    taken = {
        value.name: value
        for each in part
        for value in each.values
        if value.constant is None and value.name not in made
    }
    return tuple(taken.values())


def _random(value: Value, generator: np.random.Generator) -> NDArray[Any]:
    shape = tuple(length for length in value.shape if length is not None)
    if len(shape) != len(value.shape):
        raise UnsupportedModelError(f"the shape of '{value.name}' is open")
    if value.dtype.startswith("float"):
        return generator.standard_normal(shape).astype(value.dtype)
    return np.zeros(shape, value.dtype)  # indices and conditions: valid everywhere


def _compare_networks(
    original: Package, written: Package, function: str, program: Program
) -> str | None:
    """Run one function of both packages on the same random inputs; or say why that cannot be."""
    sample = {}
    try:
        _check_size(each for each, _ in program.walk())
        generator = np.random.default_rng(_SEED)
        for feature in describe(original, function=function).inputs:
            sample[feature.name] = _random_input(feature, generator)
        expected = _run_network(original, function, sample)
    except (UnsupportedModelError, RunnerError) as error:
        return str(error)
    for name, found in _run_network(written, function, sample).items():
        _compare_outputs(name, expected[name], found)
    return None


def _run_network(
    package: Package, function: str, sample: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvcalWarning)  # known of the original, or cured
        with ReferenceRunner(_with_default(package, function)) as runner:
            return runner.run(sample)


def _check_size(operations: Iterable[Operation]) -> None:
    """Refuse to run what takes or makes tensors that no device has room for."""
    for operation in operations:
        values = [*_inputs([operation]), *operation.outputs]
        sizes = {value.name: math.prod(length or 1 for length in value.shape) for value in values}
        if operation.type == "conv_transpose":
            channels = math.prod(length or 1 for length in operation.outputs[0].shape[:2])
            sizes["its un-cropped result"] = channels * math.prod(crop_of(operation).full)
        for name, n_values in sizes.items():
            if n_values > _MOST_VALUES:
                raise UnsupportedModelError(
                    f"the {operation} has to do with {n_values} values at once ({name}), and at "
                    f"most {_MOST_VALUES} are handled"
                )


def _compare_outputs(name: str, expected: NDArray[Any], found: NDArray[Any]) -> None:
    if expected.dtype.kind != "f" and expected.dtype != np.uint8:
        return  # indices and labels: rounding decides between values that lie close
    old, new = expected.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(old)
    size = float(np.sqrt(np.mean(old[finite] ** 2))) if finite.any() else 0.0
    error = float(np.sqrt(np.mean((new[finite] - old[finite]) ** 2))) if finite.any() else 0.0
    # Pictures are rounded to whole numbers.
    if not error <= _NETWORK_TOLERANCE * size + (0.5 if expected.dtype == np.uint8 else 0.0):
        raise InputError(
            f"the output '{name}' differs by {error:.3g} (RMS) from that of the original, whose "
            f"values are {size:.3g} (RMS), on random inputs"
        )


def _with_default(package: Package, function: str) -> Package:
    """Give a view of the package whose default function is another one."""
    if not package.spec.description.functions:
        return package
    spec = type(package.spec)()
    spec.CopyFrom(package.spec)
    spec.description.defaultFunctionName = function
    return package.with_spec(spec)


def _random_input(feature: Feature, generator: np.random.Generator) -> NDArray[Any]:
    if feature.kind == "image":
        return generator.integers(0, 256, feature.shape).astype(np.uint8)
    if feature.dtype.startswith("float"):
        return generator.standard_normal(feature.shape).astype(feature.dtype)
    return np.zeros(feature.shape, feature.dtype)
