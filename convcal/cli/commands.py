# SPDX-License-Identifier: BSD-3-Clause
"""Commands as a user would type them."""

from __future__ import annotations

import os
import shlex

__all__ = ["command_line"]


def command_line(*words: str | os.PathLike[str]) -> str:
    """Join words into a line that a POSIX shell splits into the same words."""
    return shlex.join(os.fspath(word) for word in words)
