# SPDX-License-Identifier: BSD-3-Clause
"""The command line: parse, call one service, render, exit code; it computes nothing.

It is built on argparse: ``convcal fit --help`` takes 0.05 s, a smaller verb in Typer 0.14 s
(``benchmarks/startup.py``). A rejected choice is named in the user's words, and ``--json`` can tell
usage errors, whose classes Typer keeps private.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments : sequence of str, optional
        What follows ``convcal`` on the command line; by default that of the process.

    Returns
    -------
    int
        The exit code, one of `convcal.cli.contract.ExitCode`.
    """
    if threading.current_thread() is threading.main_thread():
        _handle_signals()
    try:
        # Imported here, so that Ctrl-C during the imports is no traceback either.
        from convcal.cli.application import run_command

        return run_command(sys.argv[1:] if arguments is None else list(arguments))
    except KeyboardInterrupt:
        return 130


def _handle_signals() -> None:
    """Leave nothing half-written when a CI cancels the job or a terminal is closed, either."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, signal.default_int_handler)
