# SPDX-License-Identifier: BSD-3-Clause
"""What an answer does not show, as far as its provenance tells: said as warnings."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from convcal.errors import ConvcalWarning

if TYPE_CHECKING:
    from convcal.calibration import Calibration

__all__ = ["warn_of_reference_runtime", "warn_of_uncorrected"]


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


def _role(provenance: Mapping[str, Any], role: str) -> Mapping[str, Any]:
    record = provenance.get(role)
    return record if isinstance(record, Mapping) else {}


def _warn(message: str) -> None:
    warnings.warn(message, ConvcalWarning, stacklevel=4)
