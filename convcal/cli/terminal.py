# SPDX-License-Identifier: BSD-3-Clause
"""Where words go: results to standard output, all else to standard error."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from convcal.errors import WriteError
from convcal.report.text import plain

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["prepare_streams", "progress", "say", "write_document", "write_result"]

SECONDS_BETWEEN_LINES = 15.0
"""How often progress is told where there is no terminal to draw it on, as in a CI log."""


def prepare_streams() -> None:
    """Let characters that the terminal's encoding lacks be escaped, and open what is closed.

    A descriptor that a daemon or ``>&-`` has closed would be given to the next file that is
    opened, and whatever a library prints would go into that file.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free, this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def say(message: str) -> None:
    """Write a line to standard error."""
    with contextlib.suppress(OSError, ValueError):  # nobody listens; the result still counts
        print(plain(message), file=sys.stderr, flush=True)  # noqa: T201


def write_document(document: dict[str, Any]) -> None:
    """Write one JSON document to standard output, in ASCII, so that any encoding carries it."""
    _write(lambda stream: stream.write(json.dumps(document, indent=1, allow_nan=False) + "\n"))


def write_result(parts: Sequence[RenderableType]) -> None:
    """Write texts and tables to standard output, plain where that is no terminal."""

    def render(stream: TextIO) -> None:
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) == len(parts):
            # Without Rich: outputs are corrected where there is nothing but NumPy.
            stream.writelines(f"{plain(text)}\n" for text in texts)
            return
        from rich.console import Console

        is_shown = stream.isatty()
        target = stream if is_shown else io.StringIO()
        console = Console(file=target, highlight=False, markup=False, emoji=False)
        for part in parts:
            # Text that goes to a file or another program keeps its lines whole, and commands
            # and paths always do: they are there to be copied.
            text = plain(part) if isinstance(part, str) else part
            console.print(text, soft_wrap=isinstance(part, str) or not is_shown)
        if isinstance(target, io.StringIO):
            stream.writelines(f"{line.rstrip()}\n" for line in target.getvalue().splitlines())

    _write(render)


def _write(write: Callable[[TextIO], object]) -> None:
    try:
        write(sys.stdout)
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # the latter is what Rich makes of the former
        # The reader has left (`convcal … | head`): the work is done and its exit code stands.
        _discard_output()
    except OSError as error:
        _discard_output()
        raise WriteError(
            f"cannot write to standard output: {error.strerror or error}; what the command was to "
            "write elsewhere is there"
        ) from error


def _discard_output() -> None:
    """Point standard output elsewhere, or the interpreter complains when it closes it."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """Show how far long work is, and how long it will still take.

    Parameters
    ----------
    label : str
        What is done.

    Yields
    ------
    callable
        To be called with how many are done, and of how many.
    """
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _bar(label) as update:
            yield update
    else:
        yield _lines(label)


@contextlib.contextmanager
def _bar(label: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"{label}: opening", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total, description=label)


def _lines(label: str) -> Callable[[int, int], None]:
    start = told = latest = time.monotonic()
    before = 0

    def update(done: int, total: int) -> None:
        nonlocal start, told, latest, before
        now = time.monotonic()
        if done < before:  # a new run over the samples, which what came before says nothing of
            start = latest
        latest, before = now, done
        if now - told >= SECONDS_BETWEEN_LINES and 0 < done < total:
            told = now
            left = (now - start) / done * (total - done)
            say(f"{label}: {done} of {total}, about {left:.0f} s left")

    return update
