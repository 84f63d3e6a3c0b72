# SPDX-License-Identifier: BSD-3-Clause
"""The verb ``doctor``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from convcal.cli.contract import ExitCode, Outcome
from convcal.cli.parser import Verbs, add_json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from convcal.diagnostics import MachineReport

__all__ = ["add_doctor"]

_DOCTOR_DESCRIPTION = """\
Say what works on this machine and what would make the rest work. Nothing is
written or sent. Exit code 1 if what everything needs is missing."""


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
        exit_code=ExitCode.DONE if report.is_sound else ExitCode.NO,
    )


def _render_doctor(report: MachineReport) -> list[RenderableType]:
    try:
        from convcal.report.tables import machine_tables
    except ModuleNotFoundError:  # what is missing is what the report says
        return [*_lines(report)]
    return machine_tables(report)


def _lines(report: MachineReport) -> Iterator[str]:
    """Say without tables what works on this machine."""
    yield ", ".join(f"{key} {value}" for key, value in report.system.items())
    for part in report.parts:
        yield f"{part.name}: {part.version or f'missing; {part.remedy}'}"
    for ability in report.abilities:
        yield f"{ability.name}: {'yes' if ability.is_available else f'no, {ability.reason}'}"
