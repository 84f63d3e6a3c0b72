# SPDX-License-Identifier: BSD-3-Clause
"""An ONNX model whose constants stay where they are until it is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["Model"]

_SMALL = 1 << 20
# Constants below this many bytes stand in the model: ONNX Runtime wants to see shapes and axes.
_LEAST_EXTERNAL = 1 << 12
# ONNX Runtime maps the file, and mappings begin at pages.
_PAGE = 1 << 12
_CONSTANTS = "constants.bin"


@dataclass(frozen=True, eq=False)
class Model:
    """A model in two parts.

    Parameters
    ----------
    proto : onnx.ModelProto
        The graph, without the constants.
    constants : mapping of str to ndarray
        By their names in the graph. Those of fp16 are fp32 in the graph.
    """

    proto: Any
    constants: Mapping[str, NDArray[Any]]

    @property
    def is_small(self) -> bool:
        """Whether the constants are few enough to go through memory."""
        return sum(array.nbytes for array in self.constants.values()) < _SMALL

    def serialize(self) -> bytes:
        """Give the model as it is stored in a single file."""
        return self._stored(None)

    def save(self, folder: Path) -> Path:
        """Write the model to a folder, large constants to a file of their own.

        One constant at a time is in memory, where they are views of a file.

        Returns
        -------
        Path
            The model's file.

        Raises
        ------
        OSError
            If the operating system refuses a write.
        """
        path = folder / "model.onnx"
        with (folder / _CONSTANTS).open("wb") as file:
            path.write_bytes(self._stored(file))
        return path

    def _stored(self, file: BinaryIO | None) -> bytes:
        proto = type(self.proto)()
        proto.CopyFrom(self.proto)
        for name, array in self.constants.items():
            proto.graph.initializer.append(_initializer(name, array, file))
        data: bytes = proto.SerializeToString()
        return data


def _initializer(name: str, array: NDArray[Any], file: BinaryIO | None) -> Any:
    """Make a constant that stands in the model, or in `file` if it is large."""
    from onnx import TensorProto, helper, numpy_helper

    if array.dtype == np.float16:
        array = array.astype(np.float32)
    if file is None or array.nbytes < _LEAST_EXTERNAL:
        return numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
    file.write(bytes(-file.tell() % _PAGE))
    tensor = TensorProto(
        name=name,
        dims=array.shape,
        data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
        data_location=TensorProto.EXTERNAL,
    )
    where = {"location": _CONSTANTS, "offset": file.tell(), "length": array.nbytes}
    for key, value in where.items():
        tensor.external_data.add(key=key, value=str(value))
    file.write(np.ascontiguousarray(array).data)
    return tensor
