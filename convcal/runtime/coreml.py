# SPDX-License-Identifier: BSD-3-Clause
"""Run packages on Core ML itself, in a worker process."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
import weakref
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from convcal.coreml.describe import describe
from convcal.coreml.package import read_package
from convcal.coreml.provenance import package_provenance
from convcal.errors import RunnerError, UnavailableError
from convcal.runtime.machine import machine_provenance, without_core_ml
from convcal.runtime.samples import checked_sample
from convcal.runtime.state import State, check_has_states
from convcal.runtime.worker import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from numpy.typing import NDArray

    from convcal.model_description import Feature, ModelDescription

__all__ = ["CoreMLRunner"]

# -P: nothing in the current folder can stand in for a module of the worker's.
_COMMAND = (sys.executable, "-P", "-m", "convcal.coreml.prediction")


class CoreMLRunner:
    """A package on Core ML; macOS only.

    The model runs in a process of its own: a crash or a hang of the framework is a
    `RunnerError`. It is to be closed, or used in a ``with`` statement.

    Parameters
    ----------
    path : path
        An ``.mlpackage`` that holds an ML Program.
    compute_units : {'all', 'cpu-only', 'cpu-and-gpu', 'cpu-and-ne'}
        What Core ML may use; what it then does use it does not tell.
    function : str, optional
        Which of the package's functions; by default its default.
    timeout : float
        Seconds for loading (compiling included), and for one sample.

    Raises
    ------
    UnavailableError
        If this is not macOS, or the model takes or gives pictures and Pillow is not installed;
        the message says what can be done.
    InputError, UnsupportedModelError
        If the package cannot be read, or has no such function.
    RunnerError
        If Core ML does not load it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        compute_units: str = "all",
        function: str | None = None,
        timeout: float = 300.0,
    ) -> None:
        if platform.system() != "Darwin":
            raise without_core_ml()
        self._path = os.path.abspath(path)  # noqa: PTH100  (links stay as they are)
        self._compute_units = compute_units
        package = read_package(path)
        self._description = describe(package, function=function)
        _check_pillow(self._description)
        self._origin = package_provenance(package, function=function)
        self._doing = f"Core ML, running '{os.fspath(path)}' on {compute_units}"
        self._worker = WorkerProcess(_COMMAND, timeout=timeout)
        # States by number: what of them is gone here is named with the next request.
        self._n_states = 0
        self._gone: list[int] = []
        # Core ML takes a function's name from packages only that describe functions.
        is_multifunction = bool(package.spec.description.functions)
        request = {
            "do": "load",
            "package": self._path,
            "compute_units": compute_units,
            "function": function if is_multifunction else None,
        }
        try:
            self._worker.ask(
                request, {}, doing=f"Core ML, loading '{os.fspath(path)}' for {compute_units}"
            )
        except BaseException:
            self._worker.close()
            raise

    @property
    def description(self) -> ModelDescription:
        """The model's inputs and outputs."""
        return self._description

    @property
    def provenance(self) -> Mapping[str, str]:
        """What runs the model: versions, macOS, chip and the compute units that are allowed."""
        return MappingProxyType(
            {
                "runtime": "coreml",
                "compute_units": self._compute_units,
                "coremltools": importlib.metadata.version("coremltools"),
                **machine_provenance(),
                **self._origin,
            }
        )

    def make_state(self) -> State[int]:
        """Make what the model keeps from one run to the next, as Core ML does.

        Raises
        ------
        InputError
            If the model keeps nothing.
        RunnerError
            If Core ML fails; it has states from macOS 15 on.
        """
        check_has_states(self._description)
        number = self._n_states
        self._worker.ask({"do": "make-state", "state": number}, {}, doing=self._doing)
        self._n_states += 1
        state = State(self, number)
        weakref.finalize(state, self._gone.append, number).atexit = False
        return state

    def run(
        self, sample: Mapping[str, NDArray[Any]], *, state: State[int] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Run one sample.

        Parameters
        ----------
        sample : mapping of str to ndarray
            One array per input, of its shape; optional ones may be missing. Pictures are
            (H, W, 3) RGB or (H, W) grey, uint8.
        state : State, optional
            From `make_state`; the run goes on from it and updates it. By default every run of a
            model with states begins with a new one.

        Returns
        -------
        dict of str to ndarray
            The outputs in the model's order and in the dtypes that its description states; a
            classifier's probabilities as a vector in the order of its labels.

        Raises
        ------
        InputError
            If the sample does not match the model, or the state is another runner's.
        RunnerError
            If Core ML fails, crashes or takes too long; after the last two the runner is closed.
        """
        arrays = checked_sample(sample, self._description)
        if state is None and self._description.states:
            state = self.make_state()
        forgotten = len(self._gone)
        request = {
            "do": "predict",
            "images": [each.name for each in self._description.inputs if each.kind == "image"],
            "outputs": list(self._description.output_names),
            "labels": {each.name: each.labels for each in self._description.outputs},
            "state": None if state is None else state.content_for(self),
            "forget": self._gone[:forgotten],
        }
        outputs = self._worker.ask(request, arrays, doing=self._doing)
        del self._gone[:forgotten]
        return {
            feature.name: self._stated(outputs[feature.name], feature)
            for feature in self._description.outputs
        }

    def _stated(self, values: NDArray[Any], feature: Feature) -> NDArray[Any]:
        """Give an output in the dtype and the shape of the description.

        coremltools hands float16 arrays over as float32, which changes no value, so the way back
        is exact; and Core ML has no arrays of rank 0, it gives one of length 1.
        """
        if not feature.shape and values.size == 1:
            values = values.reshape(())
        is_fit = feature.is_flexible or values.shape == feature.shape
        if not is_fit:
            msg = f"{self._doing}: output {feature} came with shape {values.shape}"
            raise RunnerError(msg)
        with np.errstate(over="ignore"):
            return values.astype(feature.dtype, copy=False)

    def close(self) -> None:
        """End the worker process; the runner cannot run afterwards."""
        self._worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _check_pillow(description: ModelDescription) -> None:
    """Refuse pictures where coremltools, which exchanges them as PIL images, could not."""
    for feature in (*description.inputs, *description.outputs):
        if feature.kind == "image" and importlib.util.find_spec("PIL") is None:
            raise UnavailableError(
                f"Core ML exchanges {feature} through Pillow, which is not installed; "
                "pip install 'convcal[pictures]'"
            )
