# SPDX-License-Identifier: BSD-3-Clause
"""Outputs that ``polygraphy run --save-outputs`` wrote.

Such a file is JSON: the results of runners, each a list of iterations, each a mapping of outputs,
whose values are ``.npy`` files in base64::

    {"polygraphy_class": "RunResults", "lst": [[RUNNER, [
        {"polygraphy_class": "IterationResult", "outputs": {OUTPUT:
            {"polygraphy_class": "LazyArray", "values":
                {"polygraphy_class": "ndarray", "array": BASE64}}}}]]]}

Before 0.33 the marks were keys, ``"__polygraphy_encoded_ndarray"``; nothing here depends on them.
Tensors of PyTorch (``"Tensor"``) are pickled, and are refused.

References
----------
NVIDIA/TensorRT, tools/Polygraphy/polygraphy: json/serde.py, comparator/struct.py.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convcal.data.arrays import escape_name, listing
from convcal.data.npy import NpyHeader, read_npy, read_npy_header
from convcal.errors import InputError
from convcal.records import unique_keys

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["RunResultsFile"]


class RunResultsFile:
    """The outputs of one runner, by iteration; the file is in memory, its arrays are not.

    Parameters
    ----------
    path : path
        The file.
    samples : sequence of str, optional
        What the iterations are called, in their order; ``sample-0``, ``sample-1``, … by default.

    Attributes
    ----------
    path : pathlib.Path
        The file.
    headers : dict of str to NpyHeader
        Shape and dtype of every output, by ``SAMPLE/OUTPUT``.

    Raises
    ------
    InputError
        If it is no such file, holds the outputs of several runners or of another number of
        iterations than there are samples, or an output is no array of numbers.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, samples: tuple[str, ...] | None = None
    ) -> None:
        self.path = Path(path)
        iterations = self._iterations()
        names = samples or tuple(f"sample-{index}" for index in range(len(iterations)))
        if len(names) != len(iterations):
            raise InputError(
                f"'{self.path}' holds {len(iterations)} iterations, and the other role has "
                f"{len(names)} samples; run both on the same data"
            )
        self.headers: dict[str, NpyHeader] = {}
        self._texts: dict[str, str] = {}
        for sample, iteration in zip(names, iterations, strict=True):
            outputs = iteration.get("outputs") if isinstance(iteration, dict) else None
            if not isinstance(outputs, dict):
                raise self._foreign(f"iteration '{sample}' has no outputs")
            for output, value in outputs.items():
                key = f"{escape_name(sample)}/{escape_name(output)}"
                self._texts[key] = self._text(value, key)
                self.headers[key], _ = self._open(key)

    def _iterations(self) -> list[Any]:
        try:
            document = json.loads(self.path.read_text("utf-8"), object_pairs_hook=unique_keys)
        except OSError as error:
            raise InputError(f"'{self.path}' cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise self._foreign(f"it is not JSON ({error})") from error
        results = document.get("lst") if isinstance(document, dict) else None
        if not isinstance(results, list) or not all(
            isinstance(each, list)
            and len(each) == 2
            and isinstance(each[0], str)
            and isinstance(each[1], list)
            for each in results
        ):
            raise self._foreign("it holds no list of runners")
        if len(results) != 1:
            raise InputError(
                f"'{self.path}' holds the outputs of {len(results)} runners, "
                f"{listing([name for name, _ in results])}; a role is of one: run polygraphy with "
                "one runner for each file"
            )
        if not (iterations := results[0][1]):
            raise self._foreign("its runner ran no iteration")
        return list(iterations)

    def _text(self, value: Any, key: str) -> str:
        """Give an array's base64, of what may be wrapped once."""
        if isinstance(value, dict) and isinstance(value.get("values"), dict):
            value = value["values"]
        kind = value.get("polygraphy_class", "ndarray") if isinstance(value, dict) else None
        if kind == "Tensor":
            raise InputError(
                f"{self.where(key)} is a pickled tensor of PyTorch, which convcal never "
                "unpickles; save the outputs as NumPy arrays"
            )
        text = value.get("array") if isinstance(value, dict) else None
        if not isinstance(text, str):
            raise self._foreign(f"'{key}' is no array")
        return text

    def _open(self, key: str) -> tuple[NpyHeader, io.BytesIO]:
        try:
            content = base64.b64decode(self._texts[key], validate=True)
        except (binascii.Error, ValueError) as error:
            raise self._foreign(f"'{key}' is not base64 ({error})") from error
        stream = io.BytesIO(content)
        return read_npy_header(stream, n_bytes=len(content), where=self.where(key)), stream

    def _foreign(self, what: str) -> InputError:
        return InputError(
            f"'{self.path}' is not what polygraphy run --save-outputs writes: {what}; give such "
            "a file, or .npz, .safetensors or a folder of .npy files"
        )

    def where(self, key: str) -> str:
        """Name an array of this file for a message."""
        return f"array '{key}' of '{self.path}'"

    def read(self, key: str) -> NDArray[np.generic]:
        """Read one output of one sample."""
        header, stream = self._open(key)
        return read_npy(stream, header, where=self.where(key))

    def rows(self, key: str) -> Iterator[NDArray[np.generic]]:
        """Read one output along its first axis."""
        yield from self.read(key)
