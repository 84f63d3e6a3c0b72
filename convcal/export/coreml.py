# SPDX-License-Identifier: BSD-3-Clause
"""Write a package that gives corrected outputs, a drop-in for the observed one."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import convcal
from convcal.cautions import warn_of_overflow, warn_of_uncorrected
from convcal.coreml.describe import describe, function_description
from convcal.coreml.package import Package, read_package
from convcal.coreml.patch import append_corrections
from convcal.coreml.program import load_program
from convcal.errors import ConvcalError, ConvcalWarning, InputError, SelfCheckError
from convcal.files import ensure_absent

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from convcal.calibration import Calibration
    from convcal.correction import Precision

__all__ = ["PROVENANCE_KEY", "export_coreml"]

PROVENANCE_KEY = "convcal.provenance"
"""The user metadata of a corrected package that says where its corrections come from (JSON)."""

# What is worth knowing about the observed model's run, of what a calibration may say of it.
_DEVICE_KEYS = ("sha256", "runtime", "compute_units", "os", "machine", "chip")


def export_coreml(
    calibration: Calibration,
    package: Package | str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    precision: Precision = "float32",
    allow_scale: bool = False,
    force: bool = False,
) -> Path | None:
    """Write the observed package with its corrections appended.

    Parameters
    ----------
    calibration : Calibration
        What is to be applied.
    package : Package or path
        The observed ``.mlpackage``; it is not changed.
    target : path
        The new package, a name that ends in ``.mlpackage``.
    precision : {'float32', 'output'}
        The dtype to compute in: float32 (the result is cast back), or each output's own.
    allow_scale : bool
        Accept corrections that scale an axis. Per scaled axis of size ``n`` they take ``n_taps``
        (12) ``gather`` operations, as many multiply-adds per value, and ``2 n_taps n`` constants.
        The Neural Engine may leave ``gather`` to the CPU or the GPU.
    force : bool
        Replace a target that exists.

    Returns
    -------
    pathlib.Path or None
        The new package: the same inputs, outputs, functions, descriptions and deployment target,
        the same weights byte for byte, and operations at the end of its program that give the
        bits of `PostProcessor` for whole-pixel shifts, scale, gain and bias. None if there is
        nothing to correct; then nothing is written.

    Raises
    ------
    InputError
        If the package cannot be read, the calibration is for another model, or a correction scales
        an axis without `allow_scale`, crops or has a row stride: the last two belong to the
        post-processor (`convcal.export_python`).
    UnsupportedModelError
        If the package is no ML Program, or an output to be corrected is an image or flexible.
    OutputExistsError, WriteError
        If the target exists or cannot be written.
    SelfCheckError
        If what was written does not read back as intended; it is not kept.

    Warns
    -----
    ConvcalWarning
        If the calibration was fitted on another package, has no correction for an output that is
        wrong, or coremltools cannot read the program, so that the check of its types is left out.
    """
    ensure_absent(target, force=force)
    original = package if isinstance(package, Package) else read_package(package)
    _compare_with_observed(calibration, original)
    corrections = calibration.corrections
    patched = append_corrections(
        original,
        corrections,
        precision=precision,
        allow_scale=allow_scale,
        metadata={PROVENANCE_KEY: _provenance(calibration, precision)},
    )
    if calibration.is_identity:
        return None
    corrected = [name for name, item in corrections.items() if not item.is_identity]

    def check(written: Path) -> None:
        try:
            _check(written, patched, original, corrected)
        except ConvcalError as error:
            raise SelfCheckError(
                f"the corrected package did not pass its own check and was not kept: {error}; "
                "this is a defect of convcal, please report it with the package"
            ) from error

    saved = patched.save(target, force=force, check=check)
    warn_of_uncorrected(calibration)
    warn_of_overflow(calibration, precision=precision)
    return saved


def _compare_with_observed(calibration: Calibration, package: Package) -> None:
    """Refuse the reference, and warn of a package that the calibration does not know."""
    expected, reference = (
        role.get("sha256") if isinstance(role := calibration.provenance.get(name), dict) else None
        for name in ("observed", "reference")
    )
    if package.sha256 == reference != expected:
        raise InputError(
            f"'{package.path}' is the reference of the calibration, whose outputs are right; give "
            "the observed package, the one to be corrected"
        )
    if expected is not None and expected != package.sha256:
        warnings.warn(
            f"the calibration was fitted on another package than '{package.path}' (content hash "
            f"{str(expected)[:12]}, not {package.sha256[:12]}); its corrections hold for this one "
            "only if it was converted in the same way: run 'convcal check'",
            ConvcalWarning,
            stacklevel=3,
        )


def _provenance(calibration: Calibration, precision: Precision) -> str:
    """Say in short where the corrections come from."""
    faults = calibration.provenance.get("faults")
    record: dict[str, Any] = {
        "calibration": calibration.id,
        "convcal": convcal.__version__,
        "emulated": calibration.is_emulated,
        "faults": [str(fault)[:200] for fault in faults] if isinstance(faults, list) else [],
        "precision": precision,
        "verdict": calibration.verdict,
    }
    for role, keys in (("observed", _DEVICE_KEYS), ("data", ("sha256",))):
        entries = calibration.provenance.get(role)
        if isinstance(entries, dict):
            record[role] = {key: str(entries[key])[:200] for key in keys if key in entries}
    return json.dumps(record, sort_keys=True)


def _check(folder: Path, patched: Package, original: Package, corrected: list[str]) -> None:
    """Read a written package back and compare it with what it should be."""
    written = read_package(folder)
    if written.serialize() != patched.serialize():
        raise InputError("the specification does not read back as it was written")
    if written.weights_sha256 != original.weights_sha256:
        raise InputError("the weights are not those of the observed package")
    for function in sorted(written.spec.mlProgram.functions):
        try:
            program = load_program(written, function=function)
        except ConvcalError as error:
            if _is_readable(original, function):
                raise
            warnings.warn(
                f"coremltools cannot read the program of the observed package either ({error}), so "
                "that the types of the corrected one are not checked; compile it on a Mac first",
                ConvcalWarning,
                stacklevel=2,
            )
            continue
        made = {value.name: value for value in program.outputs}
        names = {feature.name for feature in function_description(written, function).output}
        for name in names.intersection(corrected):
            stated = describe(written, function=function).output(name)
            if (made[name].shape, made[name].dtype) != (stated.shape, stated.dtype):
                raise InputError(f"the program makes {made[name]}, and {stated} is described")


def _is_readable(package: Package, function: str) -> bool:
    try:
        load_program(package, function=function)
    except ConvcalError:
        return False
    return True
