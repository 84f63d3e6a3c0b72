# SPDX-License-Identifier: BSD-3-Clause
"""The verb ``doctor``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from convcal.cli.contract import ExitCode, Outcome
from convcal.cli.parser import (
    UsageError,
    Verbs,
    add_emulate,
    add_json,
    add_runtime,
    model_flags,
)
from convcal.cli.terminal import progress

if TYPE_CHECKING:
    from rich.console import RenderableType

    from convcal.diagnostics import MachineReport
    from convcal.probing import ProbeReport

__all__ = ["add_doctor"]

_DOCTOR_DESCRIPTION = """\
Say what works on this machine and what would make the rest work; write and
send nothing. Exit code 1 if what everything needs is missing.

--probe asks the device what public reports leave open: which part of a
transposed convolution it keeps, where a wide resize looks; in fp32 and fp16,
on each kind of compute units. What it saw goes to a file that can be shared."""

_DOCTOR_USAGE = """convcal doctor
       convcal doctor --probe -o FILE [options]"""

_DOCTOR_EPILOG = """\
example:
  convcal doctor
  convcal doctor --probe -o mac.probe.json"""


def add_doctor(verbs: Verbs) -> None:
    """Add the parser of ``doctor``."""
    parser = verbs.add_parser(
        "doctor",
        help="what works on this machine",
        usage=_DOCTOR_USAGE,
        description=_DOCTOR_DESCRIPTION,
        epilog=_DOCTOR_EPILOG,
    )
    parser.add_argument(
        "--probe", action="store_true", help="ask the device itself; some minutes, on a Mac"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="what the probe saw, as JSON"
    )
    parser.add_argument("--force", action="store_true", help="replace it if it exists")
    add_runtime(parser, units=None)
    add_emulate(parser, model="every package of the probe")
    add_json(parser)
    parser.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> Outcome:
    if arguments.probe:
        return _probe(arguments)
    given = ["-o"] if arguments.output is not None else []
    given += ["--force"] if arguments.force else []
    if given := given + model_flags(arguments):
        raise UsageError(f"{', '.join(given)} belong to --probe; give it, or leave them out")
    from convcal.diagnostics import examine_machine

    report = examine_machine()
    return Outcome(
        status="done" if report.is_sound else "failed",
        result=report.to_dict(),
        render=lambda: _render_doctor(report),
        exit_code=ExitCode.DONE if report.is_sound else ExitCode.NO,
    )


def _probe(arguments: argparse.Namespace) -> Outcome:
    if arguments.output is None:
        raise UsageError("-o missing; say where what the probe sees is to be written: -o FILE")
    from convcal.files import ensure_absent
    from convcal.probing import UNITS, built_probes, check_machine, probe_machine

    ensure_absent(arguments.output, force=arguments.force)
    check_machine(arguments.runtime)
    with progress("asking the device") as tell, built_probes() as packages:
        report = probe_machine(
            packages,
            runtime=arguments.runtime,
            compute_units=arguments.compute_units or UNITS,
            emulate=arguments.emulate,
            timeout=arguments.timeout,
            progress=tell,
        )
    path = report.save(arguments.output, force=arguments.force)
    return Outcome(
        result={"file": str(path), **report.to_dict()}, render=lambda: _render_probe(report, path)
    )


def _render_probe(report: ProbeReport, path: Path) -> list[RenderableType]:
    from convcal.report.tables import emulation_notice

    parts: list[RenderableType] = []
    if faults := report.provenance.get("faults"):
        parts.append(emulation_notice([faults]))
    elif report.provenance.get("runtime") == "reference":
        parts.append("on the reference runtime, which has no fault of a device")
    for each in report.summary():
        where = f"{each['question']}, {each['precision']}, {each['compute_units']}"
        failed = f"; {each['n_failed']} did not run" if each["n_failed"] else ""
        parts.append(f"{where}: {', '.join(each['fits'])}{failed}")
    parts.append(
        f"{len(report.answers)} answers written to {path}; docs/probe.md says what they mean"
    )
    return parts


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
