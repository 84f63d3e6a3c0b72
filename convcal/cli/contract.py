# SPDX-License-Identifier: BSD-3-Clause
"""What scripts rely on: exit codes and the document that ``--json`` writes."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["ENVELOPE", "EXIT_CODES", "SCHEMA_VERSION", "ExitCode", "Outcome", "envelope"]

SCHEMA_VERSION = 1
"""Raised when a key of the document changes its meaning or goes; new keys do not raise it."""


class ExitCode(enum.IntEnum):
    """What the process ends with."""

    DONE = 0
    NO = 1
    FAILED = 2
    SELF_CHECK = 3
    INTERRUPTED = 130


EXIT_CODES = {
    ExitCode.DONE: "done (fit: identical, correctable or partly-correctable)",
    ExitCode.NO: "the answer is no (check: a threshold was missed; fit: not-correctable or "
    "not-identifiable, the file is written all the same; export: there is no correction; capture "
    "--verify: damaged; diagnose: an operation is wrong; inspect: a known fault touches the model; "
    "doctor: what everything needs is missing)",
    ExitCode.FAILED: "not done: usage, bad input, or not possible on this machine",
    ExitCode.SELF_CHECK: "a product did not pass its own check",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C, SIGTERM, SIGHUP); nothing half-written is left",
}

ENVELOPE = {
    "schema_version": f"{SCHEMA_VERSION}",
    "command": "the verb, or null",
    "status": "done, a verdict, passed, failed, found, nothing-to-do, error or interrupted",
    "result": "what the verb gives, or null",
    "warnings": "list of sentences",
    "error": 'null or {"code", "message"}',
}
"""The keys of the document, in order, and what they hold."""


@dataclass(frozen=True)
class Outcome:
    """What a verb came to.

    Parameters
    ----------
    result : dict
        For ``--json``; JSON-ready.
    render : callable
        Gives what people see instead: texts and tables, top to bottom.
    status : str
        A word for the whole.
    exit_code : ExitCode
        What the process ends with.
    """

    result: dict[str, Any]
    render: Callable[[], Sequence[RenderableType]]
    status: str = "done"
    exit_code: ExitCode = field(default=ExitCode.DONE)


def envelope(
    *,
    command: str | None,
    status: str,
    result: dict[str, Any] | None,
    warnings: Sequence[str],
    error: dict[str, str] | None,
) -> dict[str, Any]:
    """Give the document that ``--json`` writes; its keys are those of `ENVELOPE`."""
    values = (SCHEMA_VERSION, command, status, result, list(warnings), error)
    return dict(zip(ENVELOPE, values, strict=True))
