# SPDX-License-Identifier: BSD-3-Clause
"""The verbs ``demo`` and ``doctor``, which need nothing of the user's."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from convcal.cli.contract import ExitCode, Outcome
from convcal.cli.parser import Verbs, add_json
from convcal.cli.terminal import progress, say

if TYPE_CHECKING:
    from rich.console import RenderableType

    from convcal.diagnostics import MachineReport

__all__ = ["add_demo", "add_doctor"]

_DEMO_DESCRIPTION = """\
Do the whole job on calibration_data/: fit, verdict, calibration file, exported
post-processor, corrected package, picture. Prints where each lies, and the
commands that made it. Without a Mac the fault is emulated, and labelled so."""

_DOCTOR_DESCRIPTION = """\
Say what works on this machine and what would make the rest work. Nothing is
written or sent. Exit code 0 unless what everything needs is missing."""


def add_demo(verbs: Verbs) -> None:
    """Add the parser of ``demo``."""
    parser = verbs.add_parser(
        "demo",
        help="the whole job on data of its own",
        description=_DEMO_DESCRIPTION,
        epilog="example:\n  convcal demo -o demo-output",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("convcal-demo"),
        metavar="FOLDER",
        help="folder to write (default: convcal-demo)",
    )
    parser.add_argument("--force", action="store_true", help="replace it if it exists")
    add_json(parser)
    parser.set_defaults(run=_demo)


def _demo(arguments: argparse.Namespace) -> Outcome:
    from convcal.demo import run_demo
    from convcal.files import ensure_absent

    ensure_absent(arguments.output, force=arguments.force)
    with progress("demo") as tell:
        result = run_demo(arguments.output, force=arguments.force, progress=tell, say=say)
    return Outcome(result=result.to_dict(), render=lambda: [str(result)])


def add_doctor(verbs: Verbs) -> None:
    """Add the parser of ``doctor``."""
    parser = verbs.add_parser(
        "doctor",
        help="what works on this machine",
        description=_DOCTOR_DESCRIPTION,
        epilog="example:\n  convcal doctor",
    )
    add_json(parser)
    parser.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> Outcome:
    del arguments  # it has none of its own
    from convcal.diagnostics import examine_machine

    report = examine_machine()
    return Outcome(
        status="done" if report.is_sound else "failed",
        result=report.to_dict(),
        render=lambda: _render_doctor(report),
        exit_code=ExitCode.DONE if report.is_sound else ExitCode.FAILED,
    )


def _render_doctor(report: MachineReport) -> list[RenderableType]:
    from convcal.report.tables import machine_tables

    return machine_tables(report)
