# SPDX-License-Identifier: BSD-3-Clause
"""Make the outputs of an fp16 Core ML model right again.

Everything public is listed in ``__all__`` and imported when it is first used, so that
``import convcal`` costs neither coremltools nor scikit-learn nor ONNX Runtime.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convcal.assessment import FitOptions
    from convcal.calibration import Calibration, OutputCalibration
    from convcal.calibrator import OutputCalibrator
    from convcal.checking import Thresholds, check
    from convcal.coreml.inspection import Inspection, inspect
    from convcal.correction import Correction
    from convcal.diagnosis import Diagnosis, diagnose
    from convcal.errors import ConvcalError, ConvcalWarning
    from convcal.estimation import align
    from convcal.export.coreml import export_coreml
    from convcal.export.python import export_python
    from convcal.export.rewriting import Rewriting, rewrite
    from convcal.filters import AxisFilter, SincFilter
    from convcal.fitting import fit, fit_captures
    from convcal.layout import Layout
    from convcal.pairs import read_pairs, record_pairs
    from convcal.postprocessor import PostProcessor
    from convcal.runtime import open_runner

__version__ = "0.1.0"

_HOMES = {
    "AxisFilter": "convcal.filters",
    "Calibration": "convcal.calibration",
    "ConvcalError": "convcal.errors",
    "ConvcalWarning": "convcal.errors",
    "Correction": "convcal.correction",
    "Diagnosis": "convcal.diagnosis",
    "FitOptions": "convcal.assessment",
    "Inspection": "convcal.coreml.inspection",
    "Layout": "convcal.layout",
    "OutputCalibration": "convcal.calibration",
    "OutputCalibrator": "convcal.calibrator",
    "PostProcessor": "convcal.postprocessor",
    "Rewriting": "convcal.export.rewriting",
    "SincFilter": "convcal.filters",
    "Thresholds": "convcal.checking",
    "align": "convcal.estimation",
    "check": "convcal.checking",
    "diagnose": "convcal.diagnosis",
    "export_coreml": "convcal.export.coreml",
    "export_python": "convcal.export.python",
    "fit": "convcal.fitting",
    "fit_captures": "convcal.fitting",
    "inspect": "convcal.coreml.inspection",
    "open_runner": "convcal.runtime",
    "read_pairs": "convcal.pairs",
    "record_pairs": "convcal.pairs",
    "rewrite": "convcal.export.rewriting",
}

__all__ = [
    "AxisFilter",
    "Calibration",
    "ConvcalError",
    "ConvcalWarning",
    "Correction",
    "Diagnosis",
    "FitOptions",
    "Inspection",
    "Layout",
    "OutputCalibration",
    "OutputCalibrator",
    "PostProcessor",
    "Rewriting",
    "SincFilter",
    "Thresholds",
    "align",
    "check",
    "diagnose",
    "export_coreml",
    "export_python",
    "fit",
    "fit_captures",
    "inspect",
    "open_runner",
    "read_pairs",
    "record_pairs",
    "rewrite",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'convcal' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
