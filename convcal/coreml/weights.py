# SPDX-License-Identifier: BSD-3-Clause
"""Find blobs in the weight file of an ML Program (MIL blob storage, version 2), and append others.

The file is a 64-byte header (number of blobs, format version) followed by blobs. A blob is a
64-byte record (sentinel, data type, size, offset of the data, unused bits) and its data, both
aligned to 64 bytes; a program refers to the record by its offset. All numbers are little-endian.
Layout: ``mlmodel/src/MILBlob/Blob/StorageFormat.hpp`` and ``BlobDataType.hpp`` of
https://github.com/apple/coremltools.
"""

from __future__ import annotations

import math
import mmap
import struct
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convcal.coreml.blocks import walk_blocks
from convcal.errors import InputError, UnsupportedModelError, WriteError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

__all__ = [
    "Blob",
    "WeightFile",
    "WeightTail",
    "blob_values",
    "check_blob",
    "release_pages",
    "spilled",
]

_ALIGNMENT = 64
_CHUNK = 1 << 24
_VERSION = 2
_SENTINEL = 0xDEADBEEF
_LEAST_SPILLED = 1 << 20
_HEADER = struct.Struct("<II")
_RECORD = struct.Struct("<IIQQQ")

# The data types by their number in the file.
_DTYPES = {
    1: "float16",
    2: "float32",
    3: "uint8",
    4: "int8",
    5: "bfloat16",
    6: "int16",
    7: "uint16",
    8: "int4",
    9: "uint1",
    10: "uint2",
    11: "uint4",
    12: "uint3",
    13: "uint6",
    14: "int32",
    15: "uint32",
    16: "float8e4m3fn",
    17: "float8e5m2",
}
_BITS = {name: int("".join(filter(str.isdigit, name.split("e")[0]))) for name in _DTYPES.values()}
# Types of a program's values that are stored under another name, or not in weight files at all.
_BITS |= {"bool": 8, "int64": 64, "uint64": 64, "float64": 64}


@dataclass(frozen=True)
class Blob:
    """One record of a weight file.

    Parameters
    ----------
    dtype : str
        ``"float16"``, ``"float32"``, ``"uint4"``, …
    start, n_bytes : int
        Where its data lie in the file.
    n_elements : int
        How many elements the data hold.
    """

    dtype: str
    start: int
    n_bytes: int
    n_elements: int


class WeightFile:
    """A weight file, memory-mapped.

    Parameters
    ----------
    path : path
        The file, such as ``Data/com.apple.CoreML/weights/weight.bin`` inside a package.

    Raises
    ------
    InputError
        If the file cannot be read, is shorter than its header, or is of another version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        try:
            with Path(path).open("rb") as file:
                # It lives as long as the arrays that are views of it.
                mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            raise InputError(f"the weight file '{path}' does not exist; {_COPY_AGAIN}") from error
        except ValueError as error:  # an empty file cannot be mapped
            raise InputError(f"the weight file '{path}' is empty; {_COPY_AGAIN}") from error
        except OSError as error:
            raise InputError(
                f"the weight file '{path}' cannot be read ({error.strerror or error}); "
                "check its permissions"
            ) from error
        _MAPPINGS.add(mapping)
        self._bytes: NDArray[np.uint8] = np.frombuffer(mapping, np.uint8)
        if self._bytes.size < _ALIGNMENT:
            raise InputError(
                f"the weight file '{path}' is corrupt: it has {self._bytes.size} bytes, less than "
                f"its {_ALIGNMENT}-byte header; {_COPY_AGAIN}"
            )
        _, version = _HEADER.unpack(self._bytes[: _HEADER.size].tobytes())
        if version != _VERSION:
            raise InputError(
                f"the weight file '{path}' states version {version} of its format, and version "
                f"{_VERSION} (ML Programs, iOS 15 on) is what convcal reads; {_COPY_AGAIN}"
            )

    @property
    def content(self) -> NDArray[np.uint8]:
        """Every byte of the file."""
        return self._bytes

    def blob(self, offset: int) -> Blob:
        """Read the record at an offset.

        Parameters
        ----------
        offset : int
            In bytes, as a program's ``BlobFileValue`` states it.

        Raises
        ------
        InputError
            If there is no valid record, or its data do not lie inside the file.
        """
        size = self._bytes.size
        where = f"the weight file '{self.path}' ({size} bytes)"
        if not _ALIGNMENT <= offset <= size - _ALIGNMENT or offset % _ALIGNMENT:
            raise InputError(
                f"{where} has no blob at offset {offset}, where the program expects one (a "
                f"multiple of {_ALIGNMENT} inside the file); {_COPY_AGAIN}"
            )
        record = self._bytes[offset : offset + _RECORD.size].tobytes()
        sentinel, number, n_bytes, start, padding = _RECORD.unpack(record)
        if sentinel != _SENTINEL:
            raise InputError(
                f"{where} is corrupt: no blob begins at offset {offset}, where the program expects "
                f"one; {_COPY_AGAIN}"
            )
        if number not in _DTYPES:
            raise UnsupportedModelError(
                f"{where} has a blob of the unknown data type {number} at offset {offset}; convcal "
                f"knows types 1 to {max(_DTYPES)}"
            )
        dtype = _DTYPES[number]
        bits = _BITS[dtype]
        if start < offset + _ALIGNMENT or start % _ALIGNMENT or n_bytes > size - start:
            raise InputError(
                f"{where} is corrupt: the blob at offset {offset} claims bytes {start} to "
                f"{start + n_bytes}, which do not lie behind it inside the file; {_COPY_AGAIN}"
            )
        # Before iOS 18 the last field was not initialised; it counts for sub-byte types only.
        used = 8 * n_bytes - (padding if bits < 8 else 0)
        if used < 0 or used % bits:
            raise InputError(
                f"{where} is corrupt: the blob at offset {offset} has {n_bytes} bytes, which is "
                f"not a whole number of {dtype} values; {_COPY_AGAIN}"
            )
        return Blob(dtype=dtype, start=start, n_bytes=n_bytes, n_elements=used // bits)

    def array(self, offset: int, *, dtype: str, shape: Sequence[int]) -> NDArray[Any]:
        """Give the values of a blob, as a read-only view of the file.

        Parameters
        ----------
        offset : int
            As for `blob`.
        dtype : str
            A type that NumPy has.
        shape : sequence of int

        Raises
        ------
        InputError
            If there is no valid record, its data do not lie inside the file, or they are of
            another type or fewer than the shape asks for.
        """
        blob = self.blob(offset)
        count = math.prod(shape)
        if blob.dtype != dtype or blob.n_elements < count:
            raise InputError(
                f"the weight file '{self.path}' is corrupt: the blob at offset {offset} has "
                f"{blob.n_elements} values of type {blob.dtype}, and the program expects {count} "
                f"of type {dtype}; {_COPY_AGAIN}"
            )
        return np.frombuffer(self._bytes, dtype, count, blob.start).reshape(shape)


def spilled(array: NDArray[Any]) -> NDArray[Any]:
    """Move a large array to a temporary file without a name; give it as a read-only view.

    Small ones stay where they are.

    Raises
    ------
    WriteError
        If the operating system refuses the file.
    """
    if array.nbytes < _LEAST_SPILLED:
        return array
    try:
        with tempfile.TemporaryFile() as file:
            file.write(np.ascontiguousarray(array).data)
            file.flush()
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise WriteError(
            f"weights of {array.nbytes} bytes cannot be written to the folder for temporary files "
            f"'{tempfile.gettempdir()}' ({error.strerror or error}); free some space there, or "
            "name another folder in the environment variable TMPDIR"
        ) from error
    _MAPPINGS.add(mapping)
    return np.frombuffer(mapping, array.dtype).reshape(array.shape)


_MAPPINGS: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


def release_pages() -> None:
    """Give back the memory that reading weight files and spilled arrays has taken.

    The arrays that are views of them stay valid: what is looked at again is read again.
    """
    if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        for mapping in _MAPPINGS:
            mapping.madvise(mmap.MADV_DONTNEED)


_COPY_AGAIN = "copy or export the package again"


class WeightTail:
    """Blobs to be appended to a weight file; what is in it stays where it is.

    Parameters
    ----------
    path : path
        The weight file.

    Raises
    ------
    InputError
        As `WeightFile`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = WeightFile(path)
        self._size = self._file.content.size
        self._parts: list[bytes] = []
        self._end = self._size
        self._n_blobs = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be appended."""
        return not self._parts

    def append(self, array: NDArray[Any]) -> int:
        """Add an array of float16 or float32, in C order; give the offset of its record."""
        data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        number = next(key for key, name in _DTYPES.items() if name == array.dtype.name)
        self._pad()
        offset = self._end
        record = _RECORD.pack(_SENTINEL, number, len(data), offset + _ALIGNMENT, 0)
        for part in (record.ljust(_ALIGNMENT, b"\0"), data):
            self._parts.append(part)
            self._end += len(part)
        self._n_blobs += 1
        self._pad()
        return offset

    def _pad(self) -> None:
        if self._end % _ALIGNMENT:
            self._parts.append(bytes(-self._end % _ALIGNMENT))
            self._end += len(self._parts[-1])

    def chunks(self) -> Iterator[bytes]:
        """Give the whole file with what was appended, in pieces.

        Only the number of blobs in the header differs from what the file holds now.
        """
        content = self._file.content
        count, version = _HEADER.unpack(content[: _HEADER.size].tobytes())
        yield _HEADER.pack(count + self._n_blobs, version)
        for start in range(_HEADER.size, self._size, _CHUNK):
            yield content[start : min(start + _CHUNK, self._size)].tobytes()
        yield from self._parts


def blob_values(program: Any) -> Iterator[tuple[str, Any]]:
    """Find every value of a program that lies in a weight file.

    Parameters
    ----------
    program : MIL_pb2.Program
        The program; it is not checked otherwise.

    Yields
    ------
    where : str
        The operation or attribute, for messages.
    value : MIL_pb2.Value
        A value whose ``blobFileValue`` is set.
    """
    for function_name, function in program.functions.items():
        for specialization in function.block_specializations.values():
            for block in walk_blocks(specialization):
                for where, value in _block_values(block):
                    yield f"{where} of function '{function_name}'", value


def _block_values(block: Any) -> Iterator[tuple[str, Any]]:
    for operation in block.operations:
        name = operation.outputs[0].name if operation.outputs else ""
        values = [*operation.attributes.values()]
        for argument in operation.inputs.values():
            values += [binding.value for binding in argument.arguments if binding.HasField("value")]
        for value in values:
            if value.WhichOneof("value") == "blobFileValue":
                yield f"'{name}' ({operation.type})", value


def check_blob(weights: WeightFile, where: str, value: Any, *, dtype: str) -> None:
    """Check that a value's blob exists and holds as many bytes as the value's type declares.

    Parameters
    ----------
    weights : WeightFile
        The file that the value names.
    where : str
        As `blob_values` gives it.
    value : MIL_pb2.Value
        A value whose ``blobFileValue`` is set.
    dtype : str
        The element type of the value, in lower case.

    Raises
    ------
    InputError
        If the blob does not exist or is too short.
    """
    blob = weights.blob(value.blobFileValue.offset)
    dimensions = value.type.tensorType.dimensions
    bits = _BITS.get(dtype)  # None: strings, and types that convcal does not know
    if bits is None or any(not dimension.HasField("constant") for dimension in dimensions):
        return
    needed = -(-math.prod(dimension.constant.size for dimension in dimensions) * bits // 8)
    if needed > blob.n_bytes:
        raise InputError(
            f"the weight file '{weights.path}' is corrupt: {where} declares {needed} bytes at "
            f"offset {value.blobFileValue.offset}, and the blob there has {blob.n_bytes}; "
            f"{_COPY_AGAIN}"
        )
