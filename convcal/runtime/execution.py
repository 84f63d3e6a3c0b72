# SPDX-License-Identifier: BSD-3-Clause
"""A program on ONNX Runtime: tensors in, tensors out."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, MutableMapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convcal.coreml.weights import release_pages
from convcal.errors import RunnerError, UnavailableError, WriteError
from convcal.interrupts import deferred_interrupts
from convcal.runtime.allocator import large_blocks_returned
from convcal.runtime.translation import translate
from convcal.runtime.translation.parameters import static_shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convcal.coreml.program import Program, Value
    from convcal.runtime.translation import OperationFault, Translation
    from convcal.runtime.translation.model import Model

__all__ = ["ExecutableProgram", "load_onnxruntime"]


class ExecutableProgram:
    """A program, translated and ready to run on the CPU.

    Parameters
    ----------
    program : Program
        A function of a package, or a part of one.
    outputs : sequence of str
        Tensors that `run` gives besides the program's outputs.
    faults : sequence of OperationFault
        Emulated faults that act inside.
    threads : int, optional
        How many threads an operation may use; by default as many as there are cores.
    where : str
        What errors call the program.

    Raises
    ------
    InputError
        If `outputs` names a tensor that the program does not have.
    UnsupportedModelError
        If the program has operations that are not translated; it lists all of them.
    UnavailableError
        If onnx or onnxruntime is not installed.
    RunnerError
        If ONNX Runtime does not take the translation.
    WriteError
        If the operating system refuses a temporary file.
    """

    def __init__(
        self,
        program: Program,
        *,
        outputs: Sequence[str] = (),
        faults: Sequence[OperationFault] = (),
        threads: int | None = None,
        where: str = "the program",
    ) -> None:
        onnxruntime = load_onnxruntime()
        self._where = where
        self._translation = translate(program, outputs=outputs, faults=faults)
        self._inputs = {value.name: value for value in program.inputs}
        self._states = {value.name: value for value in program.states}
        self._values = {value.name: value for value in _values(program)}
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # fatal only: failures come as exceptions
        # Sessions take turns (sections, the parts that a diagnosis runs): threads that spin after
        # their turn would take the cores from the next one.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = _session(onnxruntime, self._translation.model, options)
        except OSError as error:
            raise WriteError(
                f"the translation of {where} cannot be written to the folder for temporary files "
                f"'{tempfile.gettempdir()}' ({error.strerror or error}); free some space there, "
                "or name another folder in the environment variable TMPDIR"
            ) from error
        except Exception as error:  # ONNX Runtime's own exceptions have no common public class
            raise RunnerError(
                f"ONNX Runtime does not take the translation of {where}: {error}; "
                "please report this with the package"
            ) from error

    @property
    def translation(self) -> Translation:
        """What runs, and what there is to say about it."""
        return self._translation

    def run(
        self,
        tensors: Mapping[str, NDArray[Any]],
        *,
        states: MutableMapping[str, NDArray[Any]] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Run once.

        Parameters
        ----------
        tensors : mapping of str to ndarray
            One per input of the program; they are rounded to its dtype.
        states : mutable mapping of str to ndarray, optional
            What the program keeps, in its dtypes, fp16 as float32; what is not in there is zero.
            The run updates it, unless it fails. By default every state begins with zeros.

        Returns
        -------
        dict of str to ndarray
            The outputs and then the extra ones, in the dtypes of the program.

        Raises
        ------
        RunnerError
            If ONNX Runtime fails, or a tensor comes out in another shape than the program says.
        """
        feeds = {
            tensor: _as_fed(tensors[name], self._inputs[name].dtype)
            for name, tensor in self._translation.inputs.items()
        }
        kept = {} if states is None else states
        for name, (before, _) in self._translation.states.items():
            feeds[before] = kept[name] if name in kept else _zeros(self._states[name])
        names = self._translation.outputs
        after = [tensor for _, tensor in self._translation.states.values()]
        try:
            results = self._session.run([*names.values(), *after], feeds)
        except Exception as error:  # ONNX Runtime's own exceptions have no common public class
            raise RunnerError(f"ONNX Runtime failed on {self._where}: {error}") from error
        found = dict(zip(names, results[: len(names)], strict=True))
        for name, array in found.items():
            _check_shape(array.shape, self._values[name])
        kept.update(zip(self._translation.states, results[len(names) :], strict=True))
        with np.errstate(over="ignore"):  # fp16 values are representable, or infinite, already
            return {
                name: array.astype(self._values[name].dtype, copy=False)
                for name, array in found.items()
            }


def load_onnxruntime() -> Any:
    """Import ONNX Runtime, and see that onnx is there too.

    Raises
    ------
    UnavailableError
        If one of them is not installed.
    """
    try:
        with deferred_interrupts():
            import onnx  # noqa: F401 - the translation needs it
            import onnxruntime
    except ImportError as error:
        raise UnavailableError(
            f"the reference runtime needs the Python packages onnx and onnxruntime "
            f"({error}); install them with pip install 'convcal[reference]'"
        ) from error
    return onnxruntime


def _session(onnxruntime: Any, model: Model, options: Any) -> Any:
    """Open a session, on a large model by way of files.

    ONNX Runtime maps the file of the constants, so that those that it does not need in another
    layout are never copied. What is mapped stays when the file goes.
    """
    open_session = partial(
        onnxruntime.InferenceSession, sess_options=options, providers=["CPUExecutionProvider"]
    )
    if model.is_small:
        return open_session(model.serialize())
    with tempfile.TemporaryDirectory(prefix="convcal-", ignore_cleanup_errors=True) as folder:
        path = model.save(Path(folder))
        release_pages()
        with large_blocks_returned():
            return open_session(str(path))


def _values(program: Program) -> list[Value]:
    made = [value for operation in program.operations for value in operation.outputs]
    # An output may be a constant.
    return [*program.inputs, *program.states, *made, *program.outputs]


def _check_shape(shape: tuple[int, ...], value: Value) -> None:
    """Refuse a result of another shape than the program types: never wrong in silence."""
    agrees = len(shape) == len(value.shape) and all(
        stated in (None, length) for length, stated in zip(shape, value.shape, strict=True)
    )
    if not agrees:
        raise RunnerError(
            f"the tensor '{value.name}' came out in the shape {shape}, the program says "
            f"{value.shape}; please report this with the package"
        )


def _zeros(state: Value) -> NDArray[Any]:
    return _as_fed(np.zeros(static_shape(state)), state.dtype)


def _as_fed(tensor: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Give an input the dtype in which the graph takes it: fp16 as fp32."""
    if dtype in ("float16", "float32"):
        with np.errstate(over="ignore"):
            return np.asarray(tensor.astype(dtype, copy=False), np.float32, order="C")
    return np.asarray(tensor, dtype, order="C")
