# SPDX-License-Identifier: BSD-3-Clause
"""A diagnosis for the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from convcal.diagnosis import Culprit, Diagnosis, Step
from convcal.report.tables import origin_notices
from convcal.report.text import number, printable

__all__ = ["diagnosis_tables"]

_MOST_NAMES = 8
_CAUSES = {
    "device": "the program, run faithfully, gives the right values: it is the device",
    "program": "the program, run faithfully, gives the same wrong values: it is the converter, "
    "or what fp16 cannot hold",
    "unknown": "the reference runtime cannot run the observed program here",
}
_VERDICTS = {
    "identical": "every operation is right: nothing beyond what fp16 rounds off",
    "precision-noise": "every operation is right, but noisier than faithful fp16",
    "accumulated": "every operation alone is right, and outputs are wrong: the error adds up",
    "culprit-found": "",
}


def diagnosis_tables(diagnosis: Diagnosis, *, paths: Mapping[str, str]) -> list[RenderableType]:
    """Say which operation is wrong, how, whose fault it is and what to do.

    Parameters
    ----------
    diagnosis : Diagnosis
    paths : mapping of str to str
        What stands for REFERENCE, OBSERVED and DATA in command lines.

    Returns
    -------
    list of RenderableType
        Top to bottom: the label of an emulation, the culprits, the outputs, and what was not
        looked at.
    """
    parts: list[RenderableType] = list(origin_notices(diagnosis.provenance))
    for culprit in diagnosis.culprits:
        parts.extend(_culprit(culprit, paths, is_emulated=diagnosis.is_emulated))
    if verdict := _VERDICTS[diagnosis.verdict]:
        parts.append(Text(verdict, style="bold green" if not diagnosis.drift else "bold yellow"))
    if drift := diagnosis.drift:
        parts.append(
            f"it grows most in {_named(drift.operation)}: from {number(drift.before)} to "
            f"{number(drift.after)} of the signal; keep that and what follows in fp32, or scale "
            "what goes in"
        )
    if diagnosis.outputs:
        parts.append(_outputs(diagnosis))
    if not diagnosis.culprits and not diagnosis.is_emulated and _ran_on_reference(diagnosis):
        parts.append(
            "a fault of a device cannot show here; if the outputs of one are wrong, see which "
            + _filled("operations known faults touch: convcal inspect OBSERVED", paths)
        )
    for name, found in (diagnosis.source or {}).items():
        parts.append(
            f"{printable(name)}: {found['conclusion']} (relative error of the reference "
            f"{number(found['reference_relative_error'])}, of the observed model "
            f"{number(found['observed_relative_error'])})"
        )
    parts.extend(_limits(diagnosis))
    return parts


def _culprit(
    culprit: Culprit, paths: Mapping[str, str], *, is_emulated: bool
) -> Iterator[RenderableType]:
    # An output may be an input or a constant, which no operation computes.
    title = Text(_listed(culprit.operations) or printable(culprit.tensor), style="bold")
    title.append(f": {culprit.family}", style="bold red")
    yield title
    cause = "the fault is emulated" if is_emulated and culprit.cause == "device" else None
    lines = [
        culprit.reason,
        f"tensor {printable(culprit.tensor)}: {number(culprit.level)} times what fp16 rounds off",
        cause or _CAUSES[culprit.cause],
        *(f"to do: {_filled(each, paths)}" for each in culprit.advice),
    ]
    for line in lines:
        yield f"  {line}"


def _filled(advice: str, paths: Mapping[str, str]) -> str:
    """Put the paths of this run into a command line."""
    before, mark, command = advice.partition("convcal ")
    words = (shlex.quote(paths[word]) if word in paths else word for word in command.split(" "))
    return f"{before}{mark}{' '.join(words)}"


def _outputs(diagnosis: Diagnosis) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("output", "state", "relative error", "times fp16"):
        table.add_column(heading)
    for name, output in diagnosis.outputs.items():
        style = "bold red" if output.state == "wrong" else "bold green"
        table.add_row(
            Text(printable(name)),
            Text(output.state, style=style),
            number(output.relative_error),
            number(output.level),
        )
    return table


def _limits(diagnosis: Diagnosis) -> Iterator[str]:
    """Say what was matched, and what was not looked at."""
    pairing = diagnosis.pairing
    yield (
        f"{pairing.n_matched} of {pairing.n_operations} operations matched "
        f"({pairing.share:.0%}), {_counted(diagnosis.n_samples, 'sample')}, "
        f"{_counted(diagnosis.n_runs, 'run')}"
    )
    if pairing.unmatched:
        yield f"without a partner, judged with their neighbours: {_listed(pairing.unmatched)}"
    if diagnosis.passed_over:
        yield (
            "passed over, since the reference runtime cannot run them by themselves: "
            f"{_listed(diagnosis.passed_over)}"
        )
    if diagnosis.culprits and not diagnosis.is_complete:
        yield "what comes after the first culprit was not judged; --all does that"


def _ran_on_reference(diagnosis: Diagnosis) -> bool:
    record = diagnosis.provenance.get("observed")
    return isinstance(record, Mapping) and record.get("runtime") == "reference"


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'s' if n != 1 else ''}"


def _listed(steps: Sequence[Step]) -> str:
    names = [_named(step) for step in steps[:_MOST_NAMES]]
    more = len(steps) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _named(step: Step) -> str:
    return f"{step.type} '{printable(step.name)}'"
