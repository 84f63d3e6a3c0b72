# SPDX-License-Identifier: BSD-3-Clause
"""One way to run a model, whatever runs it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

from convcal.errors import InputError
from convcal.faults import Fault, parse_fault
from convcal.runtime.machine import without_core_ml
from convcal.words import COMPUTE_UNITS, RUNTIMES, TIMEOUT, TIMEOUT_MAX

if TYPE_CHECKING:
    import os
    from types import TracebackType

    from numpy.typing import NDArray

    from convcal.model_description import ModelDescription
    from convcal.runtime.state import State

__all__ = ["PackageRunner", "Runner", "open_runner", "runtime_here"]


class Runner(Protocol):
    """A model that is ready to run; a context manager that closes it.

    Attributes
    ----------
    description : ModelDescription
        Its inputs and outputs.
    provenance : mapping of str to str
        What runs it: ``runtime``, ``sha256`` of the package, versions, ``os``, ``machine`` or
        chip, ``compute_units``; and ``faults``, separated by ``"; "``, if any are emulated.
    """

    @property
    def description(self) -> ModelDescription:
        """The model's inputs and outputs."""

    @property
    def provenance(self) -> Mapping[str, str]:
        """What runs the model, and which faults are emulated."""

    def run(self, sample: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run one sample; give the outputs by name, in the model's order."""

    def close(self) -> None:
        """Free what the runner holds; it cannot run afterwards."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class PackageRunner(Runner, Protocol):
    """The runner of a package, which may keep states from one run to the next."""

    def make_state(self) -> State[Any]:
        """Make what the model keeps from one run to the next, all zeros."""

    def run(
        self, sample: Mapping[str, NDArray[Any]], *, state: State[Any] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Run one sample, from zeros or going on from `state`, which is updated."""


def runtime_here(runtime: str) -> str:
    """Say which runtime a name means on this machine.

    Parameters
    ----------
    runtime : {"auto", "coreml", "reference"}
        As `open_runner` takes it.

    Returns
    -------
    {"coreml", "reference"}

    Raises
    ------
    InputError
        If there is no such runtime.
    UnavailableError
        If it is Core ML, and this is no Mac.
    """
    if runtime not in RUNTIMES:
        raise InputError(f"there is no runtime '{runtime}'; choose one of {', '.join(RUNTIMES)}")
    is_macos = sys.platform == "darwin"
    if runtime == "coreml" and not is_macos:
        raise without_core_ml()
    return "coreml" if is_macos and runtime != "reference" else "reference"


def open_runner(
    path: str | os.PathLike[str],
    *,
    runtime: str = "auto",
    compute_units: str = "all",
    faults: Sequence[Fault | str] = (),
    extra_outputs: Sequence[str] = (),
    function: str | None = None,
    timeout: float = TIMEOUT,
) -> PackageRunner:
    """Open a package for running.

    Parameters
    ----------
    path : path
        An ``.mlpackage`` that holds an ML Program.
    runtime : {"auto", "coreml", "reference"}
        Core ML itself (macOS), or the reference runtime (every OS). Auto takes Core ML on macOS
        and the reference runtime elsewhere.
    compute_units : {"all", "cpu-only", "cpu-and-gpu", "cpu-and-ne"}
        What Core ML may use. The reference runtime uses the CPU, whatever is allowed here.
    faults : sequence of Fault or str
        Faults to emulate, as objects or as `convcal.faults.parse_fault` reads them. Those that
        act inside the network need the reference runtime.
    extra_outputs : sequence of str
        Tensors of the program to return besides the outputs; reference runtime only.
    function : str, optional
        Of a package with several functions, which; by default the one that the package names.
    timeout : float
        Seconds that Core ML may take for loading the model, or for one sample; the reference
        runtime is not limited.

    Returns
    -------
    PackageRunner
        To be closed, or used in a ``with`` statement.

    Raises
    ------
    InputError
        If the package or an argument is not usable.
    UnsupportedModelError
        If the package holds another kind of model, or operations that the reference runtime
        does not have.
    UnavailableError
        If this machine cannot run it in that way; the message says how it can.

    Warns
    -----
    ConvcalWarning
        If a fault has nothing to act on, or the program is not clear about what it computes.
    """
    runtime = runtime_here(runtime)
    if compute_units not in COMPUTE_UNITS:
        raise InputError(
            f"there are no compute units '{compute_units}'; "
            f"choose one of {', '.join(COMPUTE_UNITS)}"
        )
    if not 0 < timeout <= TIMEOUT_MAX:
        raise InputError(
            f"the timeout is {timeout}; seconds above 0 and at most {TIMEOUT_MAX:g} are accepted"
        )
    emulated = tuple(parse_fault(each) if isinstance(each, str) else each for each in faults)
    if runtime == "reference":
        from convcal.coreml.package import read_package
        from convcal.runtime.reference import ReferenceRunner

        return ReferenceRunner(
            read_package(path), faults=emulated, extra_outputs=extra_outputs, function=function
        )
    _check_coreml(emulated, extra_outputs)
    from convcal.runtime.coreml import CoreMLRunner
    from convcal.runtime.faults import FaultyRunner

    runner: PackageRunner = CoreMLRunner(
        path, compute_units=compute_units, function=function, timeout=timeout
    )
    return FaultyRunner(runner, emulated) if emulated else runner


def _check_coreml(faults: tuple[Fault, ...], extra_outputs: Sequence[str]) -> None:
    """Refuse what only the reference runtime can do."""
    inside = [str(fault) for fault in faults if fault.is_inside]
    if inside:
        raise InputError(
            f"the fault '{inside[0]}' acts inside the network, which Core ML does not let us "
            "reach; run the package on the reference runtime (runtime='reference', "
            "--runtime reference)"
        )
    if extra_outputs:
        raise InputError(
            f"Core ML gives the outputs of a model, not its tensor '{extra_outputs[0]}'; run the "
            "package on the reference runtime (runtime='reference', --runtime reference)"
        )
