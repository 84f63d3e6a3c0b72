# SPDX-License-Identifier: BSD-3-Clause
"""What works on this machine, and what would make the rest work."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import sys
from dataclasses import asdict, dataclass
from typing import Any

from convcal.errors import ConvcalError

__all__ = ["Ability", "MachineReport", "Part", "examine_machine"]


@dataclass(frozen=True)
class Part:
    """A package that convcal uses.

    Parameters
    ----------
    name : str
        Its name in the package index.
    version : str or None
        The version that loads here; None if it does not.
    purpose : str
        What it is needed for.
    is_core : bool
        Whether nothing works without it.
    problem, remedy : str
        Why it does not load, and what to do; empty where it does.
    """

    name: str
    version: str | None
    purpose: str
    is_core: bool
    problem: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Ability:
    """Something that convcal can do, or why it cannot do it here.

    Parameters
    ----------
    name : str
        What.
    verbs : str
        Which verbs do it.
    is_available : bool
        Whether it works here.
    reason, remedy : str
        Why it does not, and what to do; empty where it does.
    """

    name: str
    verbs: str
    is_available: bool
    reason: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class MachineReport:
    """What was found about this machine."""

    system: dict[str, str]
    parts: tuple[Part, ...]
    abilities: tuple[Ability, ...]

    @property
    def is_sound(self) -> bool:
        """Whether all that everything needs is there."""
        return all(part.version is not None for part in self.parts if part.is_core)

    def to_dict(self) -> dict[str, Any]:
        """Give the report JSON-ready."""
        return asdict(self)


# Name in the index, module, purpose, extra of convcal that brings it ("" for a dependency).
_PARTS = (
    ("numpy", "numpy", "arrays, and all that a post-processor needs", ""),
    ("scipy", "scipy.fft", "estimating shifts", ""),
    ("scikit-learn", "sklearn.base", "OutputCalibrator", ""),
    ("zarr", "zarr", "captures", ""),
    ("rich", "rich", "tables and progress", ""),
    ("coremltools", "", "reading, correcting and running packages", ""),
    ("onnx", "onnx", "the reference runtime", "reference"),
    ("onnxruntime", "onnxruntime", "the reference runtime", "reference"),
    ("pillow", "PIL.Image", "pictures as data", "pictures"),
    ("soundfile", "soundfile", "sound as data", "sound"),
    ("matplotlib", "matplotlib", "plots", "plot"),
    ("distributed", "distributed", "fitting on a cluster", "dask"),
)
_CORE = ("numpy", "scipy", "scikit-learn", "rich")


def examine_machine() -> MachineReport:
    """Find out what works here, by loading every package that convcal can use.

    Returns
    -------
    MachineReport
        Takes some seconds; nothing is installed, written or sent.
    """
    parts = tuple(_examine_part(*entry) for entry in _PARTS)
    return MachineReport(_system(), parts, _abilities(parts))


def _system() -> dict[str, str]:
    from convcal.runtime.machine import machine_provenance

    return {**machine_provenance(), "cores": str(os.cpu_count() or 1)}


def _examine_part(name: str, module: str, purpose: str, extra: str) -> Part:
    wanted = f"convcal[{extra}]" if extra else name
    remedy = f"pip install '{wanted}'"
    try:
        if name == "coremltools":
            from convcal.coreml._coremltools import load_coremltools

            load_coremltools()
        else:
            importlib.import_module(module)
        version = importlib.metadata.version(name)
    except ConvcalError as error:
        problem, _, advice = str(error).partition("; ")
        return Part(name, None, purpose, name in _CORE, problem, advice or remedy)
    except ModuleNotFoundError as error:
        return Part(name, None, purpose, name in _CORE, f"there is no module {error.name}", remedy)
    # A broken binary raises what it likes: ImportError, OSError, AttributeError.
    except Exception as error:  # noqa: BLE001
        problem = f"it does not load ({type(error).__name__}: {error})"
        return Part(name, None, purpose, name in _CORE, problem, f"{remedy} --force-reinstall")
    return Part(name, version, purpose, name in _CORE)


def _framework_problem() -> str:
    """Say why coremltools does not reach Core ML here; empty where it does."""
    from convcal.coreml.prediction import load_framework
    from convcal.runtime.machine import without_core_ml

    if sys.platform != "darwin":
        return str(without_core_ml())
    try:
        load_framework()
    except ConvcalError as error:
        return str(error)
    return ""


def _abilities(parts: tuple[Part, ...]) -> tuple[Ability, ...]:
    known = {part.name: part for part in parts}

    def needs(name: str, verbs: str, *required: str, only_macos: bool = False) -> Ability:
        missing = [known[part] for part in required if known[part].version is None]
        if (
            only_macos
            and (not missing or sys.platform != "darwin")
            and (problem := _framework_problem())
        ):
            reason, _, remedy = problem.partition("; ")
            return Ability(name, verbs, is_available=False, reason=reason, remedy=remedy)
        if missing:
            return Ability(
                name,
                verbs,
                is_available=False,
                reason="; ".join(f"{part.name}: {part.problem}" for part in missing),
                remedy="; ".join(dict.fromkeys(part.remedy for part in missing)),
            )
        return Ability(name, verbs, is_available=True)

    models = "fit, check, capture, run"
    return (
        needs("fit and check on captures", "fit, check", "numpy", "scipy", "zarr"),
        needs(
            "import outputs, merge and verify captures",
            "capture --import, --merge, --verify",
            "numpy",
            "zarr",
        ),
        needs("correct outputs in files", "apply", "numpy"),
        needs("export a post-processor", "export --to python", "numpy"),
        needs("export a corrected package", "export --to coreml", "coremltools"),
        needs("find what known faults touch", "inspect", "coremltools"),
        needs("rewrite operations", "rewrite", "coremltools", "onnx", "onnxruntime"),
        needs(
            "run models on the reference runtime",
            f"{models} --runtime reference",
            "coremltools",
            "onnx",
            "onnxruntime",
        ),
        needs(
            "run models on Core ML",
            f"{models} --runtime coreml",
            "coremltools",
            only_macos=True,
        ),
        needs("pictures as data", "--data", "pillow"),
        needs("sound as data", "--data", "soundfile"),
        needs("plots", "demo", "matplotlib"),
        needs("fit on a Dask cluster", "fit --cluster", "distributed"),
    )
