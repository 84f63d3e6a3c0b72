# SPDX-License-Identifier: BSD-3-Clause
"""The blocks of a program's message."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["walk_blocks"]


def walk_blocks(block: Any) -> Iterator[Any]:
    """Give a block, and those inside its operations."""
    yield block
    for operation in block.operations:
        for inner in operation.blocks:
            yield from walk_blocks(inner)
