# SPDX-License-Identifier: BSD-3-Clause
"""What an answer does not show, as far as its provenance tells: said as warnings."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from convcal.correction import FP16_LARGEST
from convcal.errors import ConvcalWarning, InputError

if TYPE_CHECKING:
    from convcal.calibration import Calibration

__all__ = [
    "check_built_in",
    "warn_of_fitted_data",
    "warn_of_models",
    "warn_of_other_device",
    "warn_of_overflow",
    "warn_of_reference_runtime",
    "warn_of_uncorrected",
]


def warn_of_reference_runtime(provenance: Mapping[str, Any], *, finding: str) -> None:
    """Say that a device was not asked, where all is well on the reference runtime.

    Parameters
    ----------
    provenance : mapping
        As of a calibration: ``'faults'``, and for ``'observed'`` the ``'runtime'``.
    finding : str
        What was found, as the beginning of the sentence.

    Warns
    -----
    ConvcalWarning
        If the observed outputs come from the reference runtime and no fault was emulated.
    """
    if provenance.get("faults") or _role(provenance, "observed").get("runtime") != "reference":
        return
    _warn(
        f"{finding}; a fault of a device cannot show there: record the outputs on the device "
        "(convcal capture --import), or run this on a Mac"
    )


def warn_of_models(provenance: Mapping[str, Any]) -> None:
    """Say where the two models look like the wrong ones.

    Parameters
    ----------
    provenance : mapping
        As of a calibration: what ran as ``'reference'`` and as ``'observed'``.

    Warns
    -----
    ConvcalWarning
        If the reference computes in fp16 and the observed model in fp32, or both are the same
        package run in the same way.
    """
    reference, observed = _role(provenance, "reference"), _role(provenance, "observed")
    if (reference.get("precision"), observed.get("precision")) == ("float16", "float32"):
        _warn(
            f"the reference '{reference.get('package')}' computes in fp16 and the observed model "
            f"'{observed.get('package')}' in fp32; are they the wrong way round?"
        )
    elif "sha256" in reference and reference == observed:
        _warn(
            f"reference and observed are the same package '{reference.get('package')}', on the "
            "same runtime and compute units; one of the two should be another"
        )


def check_built_in(
    provenance: Mapping[str, Any],
    *,
    calibration: Calibration | None,
    margins: Calibration | None,
) -> None:
    """See that a correction that is built into the candidate is not applied to it again.

    Parameters
    ----------
    provenance : mapping
        As of a calibration: what ran as ``'observed'``.
    calibration, margins : Calibration, optional
        What is to be applied, and what only gives its margins.

    Raises
    ------
    InputError
        If a calibration that was not fitted on the corrected package is to be applied to it.

    Warns
    -----
    ConvcalWarning
        If its margins, where the correction has nothing to give, count as errors.
    """
    candidate = _role(provenance, "observed")
    if "corrected" not in candidate or margins is not None:
        return
    subject = f"the candidate '{candidate.get('package')}' has a correction built in"
    if calibration is None:
        _warn(
            f"{subject}, and what it lost at the border counts as an error; leave that out with "
            "--margins CALIBRATION (margins=)"
        )
    elif _role(calibration.provenance, "observed").get("sha256") != candidate.get("sha256"):
        raise InputError(
            f"{subject}, and would be corrected twice; give the calibration as --margins "
            "(margins=) instead"
        )


def warn_of_fitted_data(provenance: Mapping[str, Any], calibration: Calibration) -> None:
    """Say where a calibration is proven on the very data that it was fitted on.

    Parameters
    ----------
    provenance : mapping
        As of a calibration: the hash of the data that it is proven on.
    calibration : Calibration
        What was fitted.

    Warns
    -----
    ConvcalWarning
        If the data are the same.
    """
    digest = _role(provenance, "data").get("sha256")
    if digest is not None and digest == _role(calibration.provenance, "data").get("sha256"):
        _warn("these are the data that the calibration was fitted on; prove it on others")


def warn_of_other_device(
    provenance: Mapping[str, Any], calibration: Calibration, *, is_built_in: bool
) -> None:
    """Say where a correction is used elsewhere than it was fitted, to which alone it belongs.

    Parameters
    ----------
    provenance : mapping
        As of a calibration: what ran as ``'observed'``.
    calibration : Calibration
        What was fitted.
    is_built_in : bool
        Whether the package has it built in, and so is another one than the one it was fitted on.

    Warns
    -----
    ConvcalWarning
        If runtime, package, emulated faults or, on Core ML, compute units, chip or major version
        of the system differ. What either side does not say is not compared.
    """
    used, fitted = _role(provenance, "observed"), _role(calibration.provenance, "observed")
    if "imported" in (used.get("runtime"), fitted.get("runtime")):
        return
    keys = ["runtime"] if is_built_in else ["runtime", "sha256"]
    if used.get("runtime") == fitted.get("runtime") == "coreml":
        keys += ["compute_units", "chip", "os"]
    differences = [
        f"{_KEYS[key]} {used[key]}, not {fitted[key]}"
        for key in keys
        if key in used and key in fitted and _major(used[key]) != _major(fitted[key])
    ]
    if used and fitted and used.get("faults") != fitted.get("faults"):
        differences.append(
            f"emulated faults: {used.get('faults', 'none')} here, "
            f"{fitted.get('faults', 'none')} there"
        )
    if differences:
        _warn(
            f"the calibration was fitted elsewhere ({'; '.join(differences)}); what one device "
            "needs may be wrong on another: fit it there"
        )


_KEYS = {
    "runtime": "the runtime is",
    "sha256": "the package is",
    "compute_units": "the compute units are",
    "chip": "the chip is",
    "os": "the system is",
}


def _major(value: object) -> str:
    """Give a value up to its first dot: of versions, as "macOS 15.1 (24B83)", the major one."""
    return str(value).partition(".")[0]


def warn_of_uncorrected(calibration: Calibration) -> None:
    """Say which outputs of a product stay wrong.

    Parameters
    ----------
    calibration : Calibration
        What the product was made of.

    Warns
    -----
    ConvcalWarning
        If some outputs are corrected and others are wrong and have no correction.
    """
    wrong = [
        f"'{name}' ({output.verdict})"
        for name, output in calibration.outputs.items()
        if output.correction.is_identity and output.verdict.startswith("not-")
    ]
    if wrong and not calibration.is_identity:
        _warn(
            f"there is no correction for {', '.join(wrong)}: the observed outputs are passed "
            "through there, wrong as they may be; keep to the reference model for these"
        )


def warn_of_overflow(calibration: Calibration, *, precision: str) -> None:
    """Say where corrected values may be too large for the fp16 output that they go into.

    Parameters
    ----------
    calibration : Calibration
        What the product is made of. How far the reference reaches is known by its range.
    precision : {'float32', 'output'}
        The dtype to compute in; in that of the output, the product with the gain has to fit, too.

    Warns
    -----
    ConvcalWarning
        If that exceeds 65504, the largest fp16 number, in an output that is corrected.
    """
    for name, output in calibration.outputs.items():
        correction = output.correction
        span = output.metrics.get("before", {}).get("data_range")
        if correction.is_identity or correction.dtype != "float16" or not _is_finite(span):
            continue
        largest = float(span)
        if precision == "output" and correction.has_gain:
            largest += max(abs(bias) for bias in correction.bias)
        if largest > FP16_LARGEST:
            _warn(
                f"corrected values of '{name}' may reach {largest:.6g}, and its fp16 output holds "
                f"{FP16_LARGEST:.0f} at most: what is beyond becomes infinite; let the output be "
                "fp32 where the model is converted, or scale it down inside the model"
            )


def _is_finite(value: object) -> bool:
    """Tell whether a metric is there and finite; infinities are text in a calibration."""
    return isinstance(value, int | float) and math.isfinite(value)


def _role(provenance: Mapping[str, Any], role: str) -> Mapping[str, Any]:
    record = provenance.get(role)
    return record if isinstance(record, Mapping) else {}


def _warn(message: str) -> None:
    warnings.warn(message, ConvcalWarning, stacklevel=4)
