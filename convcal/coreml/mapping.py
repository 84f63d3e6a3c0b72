# SPDX-License-Identifier: BSD-3-Clause
"""Weights as views of their file, where coremltools' reader would hold them in memory twice."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

from convcal.coreml.describe import tensor_dtype
from convcal.coreml.weights import WeightFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convcal.coreml.package import Package

__all__ = ["mapped_weights"]

# The rest (integers, packed types) is small, and coremltools knows how to unpack it.
_DTYPES = ("float16", "float32")
_LOCK = threading.Lock()


@contextlib.contextmanager
def mapped_weights(package: Package) -> Iterator[None]:
    """Let coremltools' reader take floating weights from a mapping of the weight file.

    The reader copies every weight out of a mapping of its own, and holds both. Nothing in its
    interface changes that, so the function that reads a value is replaced while the block runs; of
    a reader without such a function nothing is replaced.

    Parameters
    ----------
    package : Package
        Its weights were checked when it was read.
    """
    from coremltools.converters.mil.frontend.milproto import load  # noqa: TID251 - after the door

    original = getattr(load, "_load_value", None)
    if package.weights_path is None or original is None:
        yield
        return
    weights = WeightFile(package.weights_path)

    def load_value(context: Any, value: Any) -> Any:
        shape = [each.constant.size for each in value.type.tensorType.dimensions]
        if value.WhichOneof("value") == "blobFileValue" and shape:  # a scalar is no array there
            dtype = tensor_dtype(value.type)
            if dtype in _DTYPES:
                return weights.array(value.blobFileValue.offset, dtype=dtype, shape=shape)
        return original(context, value)

    with _LOCK:
        load._load_value = load_value  # noqa: SLF001
        try:
            yield
        finally:
            load._load_value = original  # noqa: SLF001
