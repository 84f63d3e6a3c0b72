# SPDX-License-Identifier: BSD-3-Clause
"""The program that runs Core ML models, in a process of its own.

The framework can crash, and it can hang while it compiles for the Neural Engine. Here that ends
this process; `convcal.runtime.worker` starts it, asks, and reports.

Messages in both directions are frames::

    b"CVC1", header length (uint32), payload length (uint64), header, payload

little endian, with a JSON header and the arrays of its list ``arrays``, one ``.npy`` after the
other, as the payload. Requests: ``{"do": "load", "package", "compute_units", "function"}``, then
any number of ``{"do": "make-state", "state"}``, which keeps a state under a number, and of
``{"do": "predict", "images", "outputs", "labels", "state", "forget"}``, each with ``limit``, the
seconds after which the process ends itself if nobody did. Replies: ``{"is_done": true}`` with the
outputs, or ``{"is_done": false, "message"}``. Nothing is pickled. When standard input ends, the
process does.
"""

from __future__ import annotations

import faulthandler
import importlib
import io
import json
import os
import queue
import struct
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, NoReturn, Protocol

import numpy as np

from convcal.errors import UnavailableError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "PREFIX",
    "decode",
    "encode",
    "frame_length",
    "load_framework",
    "load_model",
    "run_worker",
]


class Model(Protocol):
    """What predicts: coremltools' ``CompiledMLModel``."""

    def predict(self, data: dict[str, Any], state: Any = None) -> Mapping[str, Any]:
        """Predict one sample: dict of arrays and PIL images in, dict of the same out."""

    def make_state(self) -> Any:
        """Make what a prediction may go on from, and updates."""


Loader = Callable[[str, str, str | None], Model]
Message = tuple[dict[str, Any], dict[str, "NDArray[np.generic]"]]

_MAGIC = b"CVC1"
PREFIX = struct.Struct("<4sIQ")
_COMPUTE_UNITS = {
    "all": "ALL",
    "cpu-only": "CPU_ONLY",
    "cpu-and-gpu": "CPU_AND_GPU",
    "cpu-and-ne": "CPU_AND_NE",
}


def encode(header: Mapping[str, Any], arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """Make a frame.

    Parameters
    ----------
    header : mapping
        JSON.
    arrays : mapping of str to ndarray
        Of numbers; sent in C order whatever their strides are.
    """
    payload = io.BytesIO()
    for values in arrays.values():
        np.lib.format.write_array(payload, np.array(values, order="C"), allow_pickle=False)
    text = json.dumps({**header, "arrays": list(arrays)}).encode()
    content = payload.getbuffer()
    return b"".join([PREFIX.pack(_MAGIC, len(text), len(content)), text, content])


def frame_length(prefix: bytes) -> int:
    """Tell from its first 16 bytes how long a frame is in all.

    Raises
    ------
    ValueError
        If this is no frame.
    """
    magic, n_header, n_payload = PREFIX.unpack(prefix[: PREFIX.size])
    if magic != _MAGIC:
        raise ValueError(f"expected a message and got {bytes(prefix)!r}")
    return PREFIX.size + int(n_header) + int(n_payload)


def decode(frame: bytes | bytearray) -> Message:
    """Take a whole frame apart.

    Returns
    -------
    tuple of dict and dict
        The header and the arrays: contiguous, and writable, as coremltools needs them to be.

    Raises
    ------
    ValueError
        If this is no frame.
    """
    _, n_header, _ = PREFIX.unpack(frame[: PREFIX.size])
    start = PREFIX.size + n_header
    header = json.loads(bytes(frame[PREFIX.size : start]))
    if not isinstance(header, dict) or not isinstance(header.get("arrays"), list):
        raise ValueError("expected a message with a list of arrays")  # noqa: TRY004  (from outside)
    payload = io.BytesIO(memoryview(frame)[start:])
    arrays = {
        str(name): np.lib.format.read_array(payload, allow_pickle=False)
        for name in header["arrays"]
    }
    return header, arrays


def load_framework() -> None:
    """Load the library by which coremltools reaches Core ML.

    Where it is missing, coremltools says so in a log message, goes on without it, and fails at
    the first prediction.

    Raises
    ------
    UnavailableError
        If it is missing, or coremltools is; the message says what to do.
    """
    from convcal.coreml._coremltools import load_coremltools

    load_coremltools()
    try:
        importlib.import_module("coremltools.libcoremlpython")
    except ImportError as error:
        raise UnavailableError(
            f"coremltools is installed without its library for Core ML ({error}); its wheels for "
            "macOS have it: run 'pip install --force-reinstall --only-binary :all: coremltools'"
        ) from error


def load_model(package: str, compute_units: str, function: str | None = None) -> Model:
    """Load a package into Core ML.

    Parameters
    ----------
    package : str
        The path of an ``.mlpackage``.
    compute_units : {'all', 'cpu-only', 'cpu-and-gpu', 'cpu-and-ne'}
        What Core ML may use.
    function : str, optional
        Of a package with several functions, which.

    Returns
    -------
    Model
        A ``CompiledMLModel``.

    Raises
    ------
    UnavailableError
        If Core ML cannot be reached.
    Exception
        Whatever coremltools raises where the framework refuses the model.
    """
    from convcal.coreml._coremltools import load_coremltools

    load_framework()
    coremltools = load_coremltools()
    # MLModel compiles into the user's temporary folder, which the framework finds without
    # TMPDIR, and removes that in a destructor, which a process that is killed never runs. It
    # expands "$NAME" in paths, too. So: compile here, and move it to where the parent cleans up.
    compiled = os.path.join(tempfile.mkdtemp(), "model.mlmodelc")  # noqa: PTH118
    coremltools.models.utils.compile_model(package, compiled)
    model: Model = coremltools.models.CompiledMLModel(
        compiled,
        compute_units=coremltools.ComputeUnit[_COMPUTE_UNITS[compute_units]],
        function_name=function,
    )
    return model


def run_worker(load: Loader) -> NoReturn:
    """Answer requests on this process's standard streams until standard input ends.

    The framework and coremltools write to standard output as they please; it is turned to
    standard error, so that it cannot get between the frames.

    Parameters
    ----------
    load : callable
        Called with package, compute units and function; gives what predicts.
    """
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    waiting: queue.SimpleQueue[Message] = queue.SimpleQueue()

    def listen() -> None:
        try:
            while (request := _receive(requests)) is not None:
                waiting.put(request)
        finally:
            # The parent is gone. A prediction may still be running, perhaps for ever.
            os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    model: Model | None = None
    states: dict[int, Any] = {}
    while True:
        header, arrays = waiting.get()
        # Ends the process by a C thread, even where the framework holds Python's lock.
        faulthandler.dump_traceback_later(float(header["limit"]), exit=True, file=2)
        try:
            outputs: dict[str, NDArray[np.generic]] = {}
            if header["do"] == "load":
                model = load(header["package"], header["compute_units"], header["function"])
            elif model is None:
                raise RuntimeError("no model is loaded")
            elif header["do"] == "make-state":
                states[header["state"]] = model.make_state()
            else:
                for number in header["forget"]:
                    states.pop(number, None)
                outputs = _predict(model, header, arrays, states)
            reply = encode({"is_done": True}, outputs)
        except Exception as error:  # noqa: BLE001  (reported to the parent, whatever it is)
            reply = encode({"is_done": False, "message": f"{type(error).__name__}: {error}"}, {})
        finally:
            faulthandler.cancel_dump_traceback_later()
        replies.write(reply)
        replies.flush()


def _predict(
    model: Model,
    header: Mapping[str, Any],
    arrays: Mapping[str, NDArray[np.generic]],
    states: Mapping[int, Any],
) -> dict[str, NDArray[np.generic]]:
    images, labels = set(header["images"]), header["labels"]
    inputs = {name: _to_picture(each) if name in images else each for name, each in arrays.items()}
    if header["state"] is None:
        given = model.predict(inputs)
    else:
        given = model.predict(inputs, states[header["state"]])
    return {name: _to_array(given[name], name, labels[name]) for name in header["outputs"]}


def _receive(requests: IO[bytes]) -> Message | None:
    """Read one frame; None at the end, or where the parent broke off."""
    prefix = requests.read(PREFIX.size)
    if len(prefix) < PREFIX.size:
        return None
    rest = requests.read(frame_length(prefix) - PREFIX.size)
    return decode(prefix + rest)


def _to_picture(values: NDArray[np.generic]) -> Any:
    """Make the PIL image that coremltools wants: RGB (also for BGR inputs), L, or F for float16."""
    from PIL import Image

    if values.dtype.kind == "f":
        return Image.fromarray(np.asarray(values, dtype=np.float32))
    return Image.fromarray(np.asarray(values))


def _to_array(value: Any, name: str, labels: Sequence[str | int]) -> NDArray[np.generic]:
    """Copy an output, through its strides; PIL images become (H, W, 3) RGB or (H, W).

    A table becomes a vector, in the order of the labels.
    """
    if labels:
        return np.array([value[label] for label in labels], np.float64)
    mode = getattr(value, "mode", None)
    if mode is not None and mode not in {"L", "F", "RGB"}:
        # Core ML's colour pictures come with an alpha channel that means nothing.
        value = value.convert("RGB")
    values = np.array(value, order="C")
    if values.dtype.kind not in "biuf":
        raise TypeError(f"output '{name}' is of type {type(value).__name__}, not an array")
    return values


if __name__ == "__main__":
    run_worker(load_model)
