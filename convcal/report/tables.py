# SPDX-License-Identifier: BSD-3-Clause
"""Tables for the terminal: what a calibration does, and what a check measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from convcal.calibration import Calibration, OutputCalibration
from convcal.checking import CheckResult
from convcal.diagnostics import MachineReport
from convcal.report.text import (
    describe_displacement,
    describe_range,
    number,
    plain,
    printable,
)

__all__ = ["calibration_tables", "check_tables", "emulation_notice", "machine_tables"]

_STYLES = {
    "identical": "bold green",
    "correctable": "bold green",
    "partly-correctable": "bold yellow",
    "not-identifiable": "bold red",
    "not-correctable": "bold red",
}
_ROWS = {
    "max_abs_error": "largest error",
    "mean_abs_error": "mean error",
    "rmse": "RMSE",
    "snr_db": "SNR, dB",
    "psnr_db": "PSNR, dB",
    "cosine": "cosine",
}


def emulation_notice(faults: Sequence[object]) -> Text:
    """Give the label that whatever was made under emulated faults must carry."""
    names = ", ".join(plain(str(fault)) for fault in faults)
    return Text(
        f"EMULATED FAULT: {names}. This says nothing about real hardware.", style="bold magenta"
    )


def calibration_tables(calibration: Calibration) -> list[RenderableType]:
    """Say what was found about every output, and what the correction changes.

    Parameters
    ----------
    calibration : Calibration
        What ``convcal fit`` found.

    Returns
    -------
    list of RenderableType
        Top to bottom: the label of an emulation; per output the verdict with its reason, the
        correction in words, and the errors before and after.
    """
    parts: list[RenderableType] = []
    if calibration.is_emulated:
        parts.append(emulation_notice(calibration.provenance.get("faults", [])))
    for name, output in calibration.outputs.items():
        parts.append(_verdict(name, output))
        body = Group(*_correction_lines(output), *_before_after(output))
        parts.append(Padding(body, (0, 0, 0, 2)))
    return parts


def _verdict(name: str, output: OutputCalibration) -> Text:
    text = Text(f"{printable(name)}: ", style="bold")
    text.append(output.verdict, style=_STYLES[output.verdict])
    text.append(f" - {plain(output.reason)}", style="not bold")
    return text


def _correction_lines(output: OutputCalibration) -> Iterator[Text]:
    correction = output.correction
    if correction.is_identity:
        if output.verdict == "identical":
            yield Text("there is nothing to correct")
        else:
            yield Text("no correction; outputs stay as they are")
        return
    if correction.has_shift:
        unit = "samples" if len(correction.shift) == 1 else "px"
        values = ", ".join(f"{value:.5g}" for value in correction.shift)
        yield Text(f"shift ({values}) {unit}: {describe_displacement(correction)}")
    if correction.has_gain:
        yield Text(f"gain {describe_range(correction.gain)}")
    if correction.has_bias:
        yield Text(f"bias {describe_range(correction.bias)}")
    if any(any(pair) for pair in correction.margins):
        margins = ", ".join(
            f"{start} at the start and {end} at the end" for start, end in correction.margins
        )
        yield Text(
            f"margins, where content is lost and the edge is repeated; per spatial axis: {margins}"
        )


def _before_after(output: OutputCalibration) -> Iterator[Table]:
    regions = {"inside margins": "", "whole output": "_full"}
    metrics = output.metrics
    known = {
        region: (metrics.get(f"before{suffix}"), metrics.get(f"after{suffix}"))
        for region, suffix in regions.items()
    }
    before = metrics.get("before")
    if not isinstance(before, Mapping):
        return
    if output.correction.is_identity:
        yield _table({"observed": before}, title="error of the observed outputs")
        return
    columns = {
        f"{moment}, {region}": values
        for region, pair in known.items()
        for moment, values in zip(("before", "after"), pair, strict=True)
        if isinstance(values, Mapping)
    }
    yield _table(columns, title="error on held-out samples")


def _table(columns: Mapping[str, Mapping[str, Any]], *, title: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column(Text(title))
    for heading in columns:
        table.add_column(Text(heading.replace(", ", "\n")), justify="right")
    first = next(iter(columns.values()))
    for key, label in _ROWS.items():
        if key in first:
            digits = 8 if key == "cosine" else 4
            title_cell = label
            if key == "psnr_db" and "data_range" in first:
                title_cell += f" (data_range {number(first['data_range'])})"
            cells = (number(metrics[key], digits=digits) for metrics in columns.values())
            table.add_row(Text(title_cell), *(Text(cell) for cell in cells))
    if any(metrics.get("n_excluded") for metrics in columns.values()):
        cells = (str(metrics.get("n_excluded", 0)) for metrics in columns.values())
        table.add_row(Text("not finite, left out"), *(Text(cell) for cell in cells))
    return table


def check_tables(result: CheckResult) -> list[RenderableType]:
    """Say of every output what was measured and which thresholds it missed.

    Parameters
    ----------
    result : CheckResult
        What `convcal.check` gave.

    Returns
    -------
    list of RenderableType
        Top to bottom: per output the answer and a column of metrics.
    """
    parts: list[RenderableType] = []
    for name, output in result.outputs.items():
        answer = Text(f"{printable(name)}: ", style="bold")
        if output.failures:
            answer.append("failed", style="bold red")
            answer.append(f" - {plain('; '.join(output.failures))}", style="not bold")
        else:
            answer.append("passed", style="bold green")
        parts.append(answer)
        table = _table({"candidate": output.metrics.to_dict()}, title="error")
        parts.append(Padding(table, (0, 0, 0, 2)))
    return parts


def machine_tables(report: MachineReport) -> list[RenderableType]:
    """Say what works on this machine, and what would make the rest work.

    Parameters
    ----------
    report : MachineReport
        What `convcal.diagnostics.examine_machine` found.

    Returns
    -------
    list of RenderableType
        Top to bottom: the system, the packages, what convcal can do here, the remedies.
    """
    system = ", ".join(f"{key} {value}" for key, value in report.system.items())
    parts = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("package", "version", "for"):
        parts.add_column(heading)
    for part in report.parts:
        version = Text(part.version) if part.version else Text("missing", style="bold red")
        parts.add_row(Text(part.name), version, Text(part.purpose))
    abilities = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("", "what", "with"):
        abilities.add_column(heading)
    for ability in report.abilities:
        mark = Text("yes", style="bold green") if ability.is_available else Text("no", "bold red")
        abilities.add_row(mark, Text(ability.name), Text(ability.verbs))
    lines: list[RenderableType] = [Text(system), Text(), parts, Text(), abilities]
    for ability in report.abilities:
        if not ability.is_available:
            lines.append(Text(f"\n{ability.name}: no, because {plain(ability.reason)}"))
            lines.append(Text(f"  remedy: {plain(ability.remedy)}"))
    return lines
