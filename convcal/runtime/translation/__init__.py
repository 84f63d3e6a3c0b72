# SPDX-License-Identifier: BSD-3-Clause
"""Translate ML Programs to ONNX, one small function per MIL operation.

Each module lists its translations in ``OPERATIONS``: functions of the graph under construction
and the operation, which add nodes and give the names of the tensors that hold the results.
Whatever the program types fp16 is rounded to fp16 after its operation, by the translator.
"""

from convcal.runtime.translation.translator import (
    NO_TENSORS,
    OPERATIONS,
    OperationFault,
    Translation,
    find_value,
    nearest,
    translate,
    unsupported,
)

__all__ = [
    "NO_TENSORS",
    "OPERATIONS",
    "OperationFault",
    "Translation",
    "find_value",
    "nearest",
    "translate",
    "unsupported",
]
