# SPDX-License-Identifier: BSD-3-Clause
"""Tables for the terminal: what a calibration does, and what a check measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from convcal.calibration import Calibration, OutputCalibration
from convcal.checking import CheckResult
from convcal.correction import AxisFilter
from convcal.diagnostics import MachineReport
from convcal.report.text import (
    describe_channels,
    describe_crop,
    describe_displacement,
    describe_margins,
    describe_scale,
    in_flags,
    number,
    plain,
    printable,
)

__all__ = [
    "calibration_tables",
    "check_tables",
    "emulation_notice",
    "machine_tables",
    "origin_notices",
]

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


def origin_notices(provenance: Mapping[str, Any]) -> Iterator[Text]:
    """Say what keeps outputs from being those of a device.

    Parameters
    ----------
    provenance : mapping
        As of a calibration: ``'faults'``, and by role the ``'runtime'``.

    Yields
    ------
    rich.text.Text
        The label of emulated faults, and of what ran on the reference runtime; nothing where
        all outputs come from Core ML, or from elsewhere.
    """
    if faults := provenance.get("faults"):
        yield emulation_notice(faults)
    observed = provenance.get("observed")
    if isinstance(observed, Mapping) and (profiles := observed.get("fault_profiles")):
        yield Text(f"They are those of {plain(str(profiles))}.", style="bold magenta")
    roles = [
        role for role in ("reference", "observed") if _runtime(provenance, role) == "reference"
    ]
    if roles:
        yield Text(
            f"The {' and '.join(roles)} outputs come from the reference runtime, which computes "
            "on the CPU as the model says: no Apple hardware took part.",
            style="magenta",
        )


def _runtime(provenance: Mapping[str, Any], role: str) -> object:
    record = provenance.get(role)
    return record.get("runtime") if isinstance(record, Mapping) else None


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
        correction in words, how many samples decided, and the errors before and after.
    """
    parts: list[RenderableType] = list(origin_notices(calibration.provenance))
    for name, output in calibration.outputs.items():
        parts.append(_verdict(name, output))
        lines = (*_correction_lines(output), *_holdout_line(output))
        parts.extend(_Indented(line) for line in lines)
        parts.extend(_before_after(output))
    return parts


@dataclass(frozen=True)
class _Indented:
    """A line whose every part stands two columns in where the terminal wraps it."""

    line: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # Padding would cut off what is not to be wrapped, as in a pipe.
        text = Text(self.line)
        yield Text("  ").append(text) if options.no_wrap else Padding(text, (0, 0, 0, 2))


def _verdict(name: str, output: OutputCalibration) -> Text:
    text = Text(f"{printable(name)}: ", style="bold")
    text.append(output.verdict, style=_STYLES[output.verdict])
    text.append(f" - {plain(in_flags(output.reason))}", style="not bold")
    return text


def _correction_lines(output: OutputCalibration) -> Iterator[str]:
    correction = output.correction
    if correction.is_identity:
        if output.verdict == "identical":
            yield "there is nothing to correct"
        else:
            yield "no correction; outputs stay as they are"
        return
    if correction.row_stride is not None:
        yield f"row stride {correction.row_stride}: rows were read as if they followed each other"
    if correction.has_crop:
        yield f"crop {describe_crop(correction)}: not in the reference, dropped"
    if any(correction.shift):
        unit = "samples" if len(correction.shift) == 1 else "px"
        values = ", ".join(f"{value:.5g}" for value in correction.shift)
        yield f"shift ({values}) {unit}: {describe_displacement(correction)}"
    elif correction.has_shift and not correction.has_scale:
        taps = [len(used.taps) for used in correction.filters if isinstance(used, AxisFilter)]
        yield f"neighbours weighted by filters of {', '.join(map(str, taps))} taps, without a shift"
    yield from describe_scale(correction)
    yield from describe_channels(correction)
    if any(any(pair) for pair in correction.margins):
        yield f"margins {describe_margins(correction)}: lost content, the edge is repeated there"


def _holdout_line(output: OutputCalibration) -> Iterator[str]:
    """Say what was fitted and what decided."""
    holdout = output.evidence.get("holdout")
    if not isinstance(holdout, Mapping):
        return
    if holdout["kind"] == "blocks":
        n_samples = holdout["n_fitted"]
        whose = "it" if n_samples == 1 else "each"
        yield f"{_samples(n_samples)}: blocks of {whose} held out in turn, {_folds(holdout)}"
    else:
        n_fitted, n_held = holdout["n_fitted"], holdout["n_held_out"]
        n_used = n_fitted + n_held
        pooled = output.evidence.get("pooled")
        n_seen = pooled["n_samples"] if isinstance(pooled, Mapping) else n_used
        seen = f"{n_seen} samples, of which a subsample of {n_used}" if n_seen > n_used else None
        yield f"{seen or _samples(n_used)}: each held out once, {_folds(holdout)}"


def _folds(holdout: Mapping[str, Any]) -> str:
    return f"{holdout['n_folds']} folds"


def _samples(n: int) -> str:
    return f"{n} sample{'s' if n != 1 else ''}"


def _before_after(output: OutputCalibration) -> Iterator[RenderableType]:
    before = output.metrics.get("before")
    if not isinstance(before, Mapping):
        return
    columns = {"observed": before}
    if not output.correction.is_identity:
        moments = {
            "before\ninside margins": "before",
            "after\ninside margins": "after",
            "before\nwhole output": "before_full",
            "after\nwhole output": "after_full",
        }
        columns = {
            heading: metrics
            for heading, key in moments.items()
            if isinstance(metrics := output.metrics.get(key), Mapping)
        }
    yield from _table(columns, title="held-out error")


def _table(columns: Mapping[str, Mapping[str, Any]], *, title: str) -> Iterator[RenderableType]:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column(Text(title), no_wrap=True)
    for heading in columns:
        table.add_column(Text(heading), justify="right", no_wrap=True)
    first = next(iter(columns.values()))
    for key, label in _ROWS.items():
        if key in first:
            digits = 8 if key == "cosine" else 4
            cells = (number(metrics[key], digits=digits) for metrics in columns.values())
            table.add_row(Text(label), *(Text(cell) for cell in cells))
    if any(metrics.get("n_excluded") for metrics in columns.values()):
        cells = (str(metrics.get("n_excluded", 0)) for metrics in columns.values())
        table.add_row(Text("not finite, left out"), *(Text(cell) for cell in cells))
    yield Padding(table, (0, 0, 0, 2))
    if "data_range" in first:
        yield Text(f"  PSNR with data_range {number(first['data_range'])}", style="dim")


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
        parts.extend(_table({"candidate": output.metrics.to_dict()}, title="error"))
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
            lines.append(_Indented(f"remedy: {plain(ability.remedy)}"))
    return lines
