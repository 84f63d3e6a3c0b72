# SPDX-License-Identifier: BSD-3-Clause
"""The verb ``inspect``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from convcal.cli.contract import ExitCode, Outcome
from convcal.cli.parser import Verbs, add_json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from convcal.coreml.inspection import Inspection

__all__ = ["add_inspect"]

_DESCRIPTION = """\
List the operations of MODEL that a known fault of a device touches, with what
of them matches, where it was reported, and the cure. Nothing is run: whether
your device has the fault, 'convcal fit' measures.

A FAULT shows whatever the data are. Whether a risk does depends on the values,
on sizes, or on the chip; risks alone are no reason for exit code 1."""

_EPILOG = """\
example:
  convcal inspect fp16.mlpackage
  convcal rewrite fp16.mlpackage --strategy explicit-crop -o fixed.mlpackage

exit code 0: no fault (perhaps risks); 1: a known fault touches an operation;
2: not done."""


def add_inspect(verbs: Verbs) -> None:
    """Add the parser of ``inspect``."""
    parser = verbs.add_parser(
        "inspect",
        help="list operations that known faults touch",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("model", metavar="MODEL", help="an .mlpackage")
    add_json(parser)
    parser.set_defaults(run=_inspect)


def _inspect(arguments: argparse.Namespace) -> Outcome:
    from convcal.coreml.inspection import inspect

    inspection = inspect(arguments.model)
    return Outcome(
        status="done" if inspection else "found",
        result={"model": arguments.model, **inspection.to_dict()},
        render=lambda: _render(arguments.model, inspection),
        exit_code=ExitCode.DONE if inspection else ExitCode.NO,
    )


def _render(model: str, inspection: Inspection) -> list[RenderableType]:
    from convcal.cli.commands import command_line
    from convcal.report.inspection import inspection_tables

    parts = inspection_tables(inspection)
    if strategies := inspection.strategies:
        line = command_line(
            *("convcal", "rewrite", model, "--strategy", strategies[0], "-o", "fixed.mlpackage")
        )
        parts += ["\na cure that convcal can build in:", f"  {line}"]
    return parts
