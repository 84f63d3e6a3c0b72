# SPDX-License-Identifier: BSD-3-Clause
"""Find the operations of a package that a known fault touches, without running anything."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from convcal.coreml.describe import describe
from convcal.coreml.package import Package, read_package
from convcal.coreml.program import Program, load_program
from convcal.coreml.rules import RULES, Rule
from convcal.errors import UnsupportedModelError

__all__ = [
    "Finding",
    "Inspection",
    "inspect",
    "inspect_programs",
    "load_default",
    "load_defaults",
]


@dataclass(frozen=True)
class Finding:
    """An operation that a known fault touches.

    Parameters
    ----------
    rule : Rule
        The fault, where it was reported, and its cure.
    function : str
        The function of the package that has the operation.
    operation, type : str
        Its name and its type.
    output : str
        Its first tensor.
    inside : str
        The operation in whose block it is; empty at the top.
    matched : str
        What of it matched, in words.
    """

    rule: Rule
    function: str
    operation: str
    type: str
    output: str
    inside: str
    matched: str

    def to_dict(self) -> dict[str, Any]:
        """Give the finding JSON-ready."""
        return {
            "fault": self.rule.fault,
            "title": self.rule.title,
            "level": self.rule.level,
            "function": self.function,
            "operation": self.operation,
            "type": self.type,
            "output": self.output,
            "inside": self.inside or None,
            "matched": self.matched,
            "devices": self.rule.devices,
            "sources": list(self.rule.sources),
            "cure": self.rule.cure,
            "strategies": list(self.rule.strategies),
        }


@dataclass(frozen=True)
class Inspection:
    """What was found in a package; true where no fault was, though there may be risks.

    Parameters
    ----------
    findings : tuple of Finding
        By function, in the order of its operations.
    n_operations : int
        How many operations were looked at, constants not counted.
    undecided : tuple of str
        What could not be decided, since it depends on the values of the inputs; one sentence each.
    """

    findings: tuple[Finding, ...]
    n_operations: int
    undecided: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return not self.faults

    @property
    def faults(self) -> tuple[Finding, ...]:
        """The findings that show whatever the data are."""
        return tuple(finding for finding in self.findings if finding.rule.level == "fault")

    @property
    def strategies(self) -> tuple[str, ...]:
        """The strategies of `convcal.rewrite` that cure every fault that any cures."""
        curable = [finding.rule.strategies for finding in self.faults if finding.rule.strategies]
        if not curable:
            return ()
        return tuple(each for each in curable[0] if all(each in other for other in curable))

    def to_dict(self) -> dict[str, Any]:
        """Give the inspection JSON-ready."""
        return {
            "findings": [finding.to_dict() for finding in self.findings],
            "n_operations": self.n_operations,
            "undecided": list(self.undecided),
        }


def inspect(model: Package | str | os.PathLike[str]) -> Inspection:
    """Find the operations that a known fault touches.

    Parameters
    ----------
    model : Package or path
        An ``.mlpackage`` that holds an ML Program. Every function of it is read, with the blocks
        of control flow. Flexible inputs are taken in their default shape.

    Returns
    -------
    Inspection
        Findings are what public reports say of such operations, not what this model does: run it
        on the device in question (``convcal fit``) to know.

    Raises
    ------
    InputError
        If the package cannot be read.
    UnsupportedModelError
        If it is no ML Program, or coremltools cannot read its operations.
    """
    package = model if isinstance(model, Package) else read_package(model)
    return inspect_programs(load_defaults(package))


def inspect_programs(programs: Mapping[str, Program]) -> Inspection:
    """Find the operations that a known fault touches, in programs by the names of functions."""
    findings: list[Finding] = []
    undecided: list[str] = []
    n_operations = 0
    for function, program in programs.items():
        for operation, inside in program.walk():
            if operation.is_folded:
                continue
            n_operations += 1
            for rule in RULES:
                try:
                    matched = rule.match(operation)
                except UnsupportedModelError as error:
                    undecided.append(f"{operation} against {rule.fault}: {error}")
                    continue
                if matched is not None:
                    output = operation.outputs[0].name if operation.outputs else ""
                    findings.append(
                        Finding(
                            rule, function, operation.name, operation.type, output, inside, matched
                        )
                    )
    return Inspection(tuple(findings), n_operations, tuple(undecided))


def load_defaults(package: Package) -> dict[str, Program]:
    """Read every function of a package, flexible inputs in their default shape, in fixed order."""
    return {
        function: load_default(package, function)
        for function in sorted(package.spec.mlProgram.functions)
    }


def load_default(package: Package, function: str) -> Program:
    """Read one function of a package, its flexible inputs in their default shape."""
    description = describe(package, function=function)
    shapes = {feature.name: feature.tensor_shape for feature in description.inputs}
    return load_program(package, function=function, input_shapes=shapes)
