# SPDX-License-Identifier: BSD-3-Clause
"""The reference runtime: ML Programs through ONNX Runtime, on every OS."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from convcal.coreml.describe import describe
from convcal.coreml.program import list_operations, load_program
from convcal.coreml.provenance import package_provenance
from convcal.errors import (
    ConvcalWarning,
    InputError,
    RunnerError,
    UnsupportedModelError,
)
from convcal.runtime.execution import load_onnxruntime
from convcal.runtime.faults import Distortion
from convcal.runtime.machine import machine_provenance
from convcal.runtime.operation_faults import operation_faults
from convcal.runtime.samples import (
    checked_sample,
    default_array,
    from_tensor,
    tensor_shape,
    to_tensor,
)
from convcal.runtime.sections import SectionedProgram
from convcal.runtime.state import State, check_has_states
from convcal.runtime.translation import OPERATIONS, unsupported

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

    from convcal.coreml.package import Package
    from convcal.coreml.program import Program
    from convcal.faults import Fault
    from convcal.model_description import ModelDescription

__all__ = ["ReferenceRunner"]

# Of a flexible model: so many translations, and so many bytes of weights in all of them.
_MOST_KEPT = 8
_LARGEST_KEPT = 1 << 28


class ReferenceRunner:
    """Runs a package's ML Program with ONNX Runtime, on the CPU.

    Every result that the program types fp16 is computed in fp32 and rounded to fp16, as storage
    in fp16 does; sums within an operation are fp32. Faults are emulated on request.

    Parameters
    ----------
    package : Package
        Holds an ML Program.
    faults : sequence of Fault
        Faults to emulate: those of operations inside the network, those of arrays where they
        say or on the outputs, in their order.
    extra_outputs : sequence of str
        Names of tensors of the program that `run` returns besides the outputs; a state is
        returned as the run leaves it.
    function : str, optional
        Which of the package's functions; by default its default.
    threads : int, optional
        How many threads an operation may use; by default as many as there are cores.

    Raises
    ------
    InputError
        If an argument or the program is not usable.
    UnsupportedModelError
        If the program has operations that are not translated yet; it lists all of them.
    UnavailableError
        If onnx or onnxruntime is not installed.
    WriteError
        If there is no space for a temporary file as large as the weights at fp32.

    Warns
    -----
    ConvcalWarning
        If a fault has no operation to act on or, when the runner is closed, changed no output;
        or the program is not clear.
    """

    def __init__(
        self,
        package: Package,
        *,
        faults: Sequence[Fault] = (),
        extra_outputs: Sequence[str] = (),
        function: str | None = None,
        threads: int | None = None,
    ) -> None:
        self._onnxruntime = load_onnxruntime()
        self._description = describe(package, function=function)
        self._package = package
        self._function = function
        self._faults = tuple(faults)
        self._distortion = Distortion(faults)
        self._extra_outputs = tuple(extra_outputs)
        self._threads = threads
        self._is_kept = False
        self._kept: tuple[dict[str, tuple[int, ...]], Program] | None = None
        self._is_closed = False
        # By the shapes of the inputs, the one that was used last at the end.
        self._executables: dict[tuple[tuple[int, ...], ...], SectionedProgram] = {}
        self._warn(self._prepared({}))

    @property
    def description(self) -> ModelDescription:
        """The model's inputs and outputs."""
        return self._description

    @property
    def provenance(self) -> Mapping[str, str]:
        """What runs the model, and which faults are emulated."""
        entries = {
            "runtime": "reference",
            "compute_units": "cpu-only",
            "coremltools": importlib.metadata.version("coremltools"),
            "onnx": importlib.metadata.version("onnx"),
            "onnxruntime": str(self._onnxruntime.__version__),
            **machine_provenance(),
            **package_provenance(self._package, function=self._function),
            **self._distortion.provenance,
        }
        return MappingProxyType(entries)

    @property
    def idle_faults(self) -> tuple[str, ...]:
        """The faults that changed no output of any sample so far."""
        return self._distortion.idle

    def look_at(self, names: Sequence[str]) -> None:
        """Let `run` return other tensors of the program besides the outputs.

        From now on the program is kept, so that looking elsewhere does not read it again.

        Parameters
        ----------
        names : sequence of str
            As for `extra_outputs`.
        """
        self._extra_outputs = tuple(names)
        self._executables.clear()
        self._is_kept = True

    def make_state(self) -> State[dict[str, NDArray[Any]]]:
        """Make what the model keeps from one run to the next; all zeros.

        Raises
        ------
        InputError
            If the model keeps nothing.
        """
        check_has_states(self._description)
        return State(self, {})

    def run(
        self,
        sample: Mapping[str, NDArray[Any]],
        *,
        state: State[dict[str, NDArray[Any]]] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Run one sample.

        Parameters
        ----------
        sample : mapping of str to ndarray
            One array per input, of its shape; optional ones may be missing. Floating inputs take
            any floating dtype, integer inputs any integers that fit, pictures (H, W, 3) RGB or
            (H, W) grey uint8.
        state : State, optional
            From `make_state`; the run goes on from it and updates it. By default every run of a
            model with states begins with zeros, and what it leaves is dropped.

        Returns
        -------
        dict of str to ndarray
            The outputs in the model's order, each of the model's own dtype (pictures uint8 RGB
            or grey, rounded to nearest and clamped; a classifier's probabilities as a vector in
            the order of its labels), and then the extra outputs.

        Raises
        ------
        InputError
            If the sample does not match the inputs; the message says what they are. If the state
            was made by another runner.
        RunnerError
            If ONNX Runtime fails, or the runner is closed.
        """
        if self._is_closed:
            raise RunnerError("the runner is closed; open the package again")
        arrays = checked_sample(sample, self._description)
        kept = None if state is None else state.content_for(self)
        tensors = {}
        for feature in self._description.inputs:
            given = arrays.get(feature.name)
            array = default_array(feature) if given is None else given
            tensors[feature.name] = to_tensor(array, feature)
        executable = self._prepared({name: tensor.shape for name, tensor in tensors.items()})
        return self._gathered(executable.run(tensors, states=kept))

    def close(self) -> None:
        """Free the session, and warn of faults that changed nothing; it cannot run afterwards."""
        self._executables.clear()
        self._kept = None
        self._is_closed = True
        self._distortion.warn_of_idle()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _gathered(self, results: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        with np.errstate(over="ignore"):  # what fp16 cannot hold is infinite there
            outputs = {
                feature.name: from_tensor(results[feature.name], feature)
                for feature in self._description.outputs
            }
        extra = {name: results[name] for name in self._extra_outputs if name not in outputs}
        return {**self._distortion.apply(outputs, self._description), **extra}

    def _prepared(self, shapes: Mapping[str, tuple[int, ...]]) -> SectionedProgram:
        """Give the program for these input shapes, translated if it is not yet for them."""
        wanted = {
            feature.name: shapes.get(feature.name, tensor_shape(feature))
            for feature in self._description.inputs
        }
        key = tuple(wanted.values())
        if (executable := self._executables.pop(key, None)) is None:
            while len(self._executables) >= _n_kept(self._package):
                del self._executables[next(iter(self._executables))]
            executable = self._translated(wanted)
        self._executables[key] = executable
        return executable

    def _translated(self, shapes: Mapping[str, tuple[int, ...]]) -> SectionedProgram:
        if self._kept is not None and self._kept[0] == shapes:
            program = self._kept[1]
        else:
            program = _read(self._package, self._function, shapes)
        if self._is_kept:
            self._kept = dict(shapes), program
        where = f"the package '{self._package.path}'"
        executable = SectionedProgram(
            program,
            distortion=self._distortion,
            outputs=self._extra_outputs,
            threads=self._threads,
            where=where,
        )
        _check_names(program, self._description, where=where)
        return executable

    def _warn(self, executable: SectionedProgram) -> None:
        """Say once what the user should know about this program under these faults."""
        messages = [
            *executable.warnings,
            *(
                f"no operation of '{self._package.path}' is one that the emulated fault "
                f"'{fault.fault}' touches; the outputs are those without it"
                for fault in operation_faults(self._faults)
                if fault not in executable.faulted
            ),
        ]
        for message in messages:
            warnings.warn(message, ConvcalWarning, stacklevel=3)


def _n_kept(package: Package) -> int:
    """Say for how many shapes translations stay in memory; each holds the weights."""
    path = package.weights_path
    size = path.stat().st_size if path is not None and path.exists() else 0
    return max(1, min(_MOST_KEPT, _LARGEST_KEPT // max(size, 1)))


def _read(
    package: Package, function: str | None, input_shapes: Mapping[str, tuple[int, ...]]
) -> Program:
    """Load the program; if coremltools cannot, say which operations we could not run anyway."""
    try:
        return load_program(package, function=function, input_shapes=input_shapes)
    except (InputError, UnsupportedModelError) as error:
        unknown = [
            (kind, name, "")
            for kind, name in list_operations(package, function=function)
            if kind != "const" and kind not in OPERATIONS
        ]
        if unknown:
            raise unsupported(unknown) from error
        raise


def _check_names(program: Program, description: ModelDescription, *, where: str) -> None:
    """Refuse a program that does not take and give what its description says."""
    taken, given, kept = (
        {value.name for value in part} for part in (program.inputs, program.outputs, program.states)
    )
    if (
        taken != set(description.input_names)
        or kept != {feature.name for feature in description.states}
        or not given >= set(description.output_names)
    ):
        keeps = f", keeps {sorted(kept)}" if kept else ""
        raise InputError(
            f"{where} is described with {description}, but its program takes {sorted(taken)}"
            f"{keeps} and gives {sorted(given)}; export the package again"
        )
