# SPDX-License-Identifier: BSD-3-Clause
"""What to do about a culprit, by the way in which it is wrong and where."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from convcal.diagnosis.record import Step

__all__ = ["advise"]

# What a correction of an output can mend.
_CORRECTABLE = frozenset(
    {"shift", "sub-pixel-shift", "affine", "scale", "row-stride", "length", "grid", "flat-offset"}
)
_OVERFLOWS = frozenset({"saturation", "dead-channel"})
_STRIDES = (
    "read the array through its strides, which Core ML pads: in Swift "
    "MLShapedArray<Float>(converting: output) does, output.dataPointer alone does not"
)
_REORDER = "put the channels in order where they are read, or convert again with another layout"


def advise(
    *,
    family: str,
    cause: str,
    operations: Sequence[Step],
    is_output: bool,
    has_fp16: bool,
    how: Mapping[str, Any],
) -> tuple[str, ...]:
    """Say what to do, the cheapest that helps first.

    Parameters
    ----------
    family, cause : str
        Of the culprit.
    operations : sequence of Step
        What computes it in the observed program.
    is_output : bool
        Whether an output of the model comes directly from it, so that correcting the output
        corrects the fault.
    has_fp16 : bool
        Whether it computes in fp16.
    how : mapping of str to object
        How the observed model ran, as `convcal.diagnosis.tracing.Tracer` tells it; where faults
        were emulated, no device is at fault.

    Returns
    -------
    tuple of str
        Sentences and command lines; REFERENCE, OBSERVED, DATA stand for those of the command.
    """
    advice: list[str] = []
    if family == "row-stride" and is_output:
        advice.append(_STRIDES)
    if family == "channel-order":
        advice.append(_REORDER)
    if is_output and family in _CORRECTABLE and cause != "program":
        advice.append(
            f"correct the output: convcal fit REFERENCE OBSERVED --data DATA{_flags(how)} "
            "-o NAME.calibration.json"
        )
    if family in _OVERFLOWS:
        advice.append("scale down before the operation and up after it, so that fp16 holds it")
    if family == "cliff":
        advice.append("keep the argument small: subtract the maximum, or bound it, before")
    if has_fp16 and any(step.type != "cast" for step in operations):
        advice.append(
            "without converting again, change the package: "
            f"{rewriting(operations, family=family, cause=cause)}"
        )
    if cause == "program" and not has_fp16:
        advice.append(
            "the packages compute different things here: compare the parameters and weights of "
            "this operation, and convert the same network again with the same options"
        )
    elif has_fp16 and operations:
        advice.append(f"if you can convert again, keep it in fp32: {op_selector(operations)}")
        if cause == "program":
            advice.append(
                "if that does not help, the packages compute different things here: compare "
                "parameters and weights"
            )
    if cause == "device" and not how["faults"]:
        advice.append(
            "see whether other compute units have the fault: --observed-compute-units cpu-only"
        )
    return tuple(advice)


def rewriting(operations: Sequence[Step], *, family: str, cause: str) -> str:
    """Give the command line that replaces operations by others that the fault leaves alone."""
    strategy = "fp32-island"
    transposed = [step for step in operations if step.type == "conv_transpose"]
    if cause == "device" and transposed:
        operations = transposed
        # A shift is a crop at the wrong place; anything else is wrong before it is cropped.
        strategy = "explicit-crop" if family == "shift" else "zero-insertion"
    names = " ".join(shlex.quote(step.name) for step in operations if step.type != "cast")
    return f"convcal rewrite OBSERVED --strategy {strategy} --at {names} -o NAME.mlpackage"


def _flags(how: Mapping[str, Any]) -> str:
    """Give the flags of ``convcal fit`` that run the observed model in the same way."""
    words = [] if how["function"] is None else ["--function", how["function"]]
    if how["runtime"] != "auto":
        words += ["--runtime", how["runtime"]]
    if how["compute_units"] != "all":
        words += ["--observed-compute-units", how["compute_units"]]
    for fault in how["faults"]:
        words += ["--emulate", fault]
    return "".join(f" {shlex.quote(word)}" for word in words)


def op_selector(operations: Sequence[Step]) -> str:
    """Give the argument of ``coremltools.convert`` that keeps operations in fp32."""
    names = [step.name for step in operations]
    # coremltools appends this to the names of what it makes fp16.
    names = [name.removesuffix("_cast_fp16") for name in names]
    test = f"op.name != {names[0]!r}" if len(names) == 1 else f"op.name not in {names!r}"
    return f"compute_precision=ct.transform.FP16ComputePrecision(op_selector=lambda op: {test})"
