# SPDX-License-Identifier: BSD-3-Clause
"""The errors that convcal raises, one class per remedy.

Every message says which object was wrong, what was wrong with it, what is accepted and what to
do next. The command line prints the message alone; the class decides the exit code.
"""

from __future__ import annotations


class ConvcalError(Exception):
    """Base class of every error that a user can mend.

    Attributes
    ----------
    code : str
        A stable name for machines, in the ``error`` object of ``--json``.
    exit_code : int
        What the command line exits with.
    """

    code = "error"
    exit_code = 2


class InputError(ConvcalError, ValueError):
    """Input that cannot be used: an array, a file, a parameter or a combination of them."""

    code = "bad-input"


class OutputExistsError(InputError, FileExistsError):
    """A target that exists already and would be overwritten."""

    code = "output-exists"

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class WriteError(ConvcalError, OSError):
    """A result that could not be written (full disk, no permission); nothing is left behind."""

    code = "cannot-write"

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class UnsupportedModelError(ConvcalError):
    """A model of a kind, or with an operation, that convcal does not handle."""

    code = "unsupported-model"


class UnavailableError(ConvcalError):
    """Something that this machine cannot do: wrong platform, or a missing optional package."""

    code = "unavailable"


class RunnerError(ConvcalError):
    """A model that failed while it ran: the framework raised, crashed or exceeded its time."""

    code = "run-failed"


class SelfCheckError(ConvcalError):
    """A product that was written but did not pass its own check."""

    code = "self-check-failed"
    exit_code = 3


class ConvcalWarning(UserWarning):
    """Something a user should know that does not stop the work."""
