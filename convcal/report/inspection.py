# SPDX-License-Identifier: BSD-3-Clause
"""Tables for the terminal: what known faults touch, and what a rewrite costs."""

from __future__ import annotations

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from convcal.coreml.inspection import Finding, Inspection
from convcal.coreml.rules import Rule
from convcal.export.rewriting import Rewriting
from convcal.report.text import number, plain, printable

__all__ = ["inspection_tables", "rewriting_tables"]

# So many operations are listed per rule.
_MOST = 8
_STYLES = {"fault": "bold red", "risk": "bold yellow"}


def inspection_tables(inspection: Inspection) -> list[RenderableType]:
    """Say which operations known faults touch.

    Parameters
    ----------
    inspection : Inspection
        What `convcal.inspect` found.

    Returns
    -------
    list of RenderableType
        Per rule the fault, its operations and what of them matched, where it was reported and the
        cure; faults first. At the end how many there are.
    """
    by_rule: dict[Rule, list[Finding]] = {}
    for finding in inspection.findings:
        by_rule.setdefault(finding.rule, []).append(finding)
    parts: list[RenderableType] = []
    for rule in sorted(by_rule, key=lambda rule: rule.level != "fault"):
        parts += _rule(rule, by_rule[rule])
    parts += [f"not decided: {plain(sentence)}" for sentence in inspection.undecided]
    counts = [
        f"{n} {level}{'s' if n != 1 else ''}"
        for level in _STYLES
        if (n := sum(finding.rule.level == level for finding in inspection.findings))
    ]
    found = " and ".join(counts) or "no fault and no risk"
    parts.append(f"{found} among {inspection.n_operations} operations")
    return parts


def _rule(rule: Rule, findings: list[Finding]) -> list[RenderableType]:
    heading = Text()
    heading.append(f"{rule.level} {rule.fault}", style=_STYLES[rule.level])
    heading.append(f"  {rule.title}", style="bold")
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for place, finding in enumerate(findings[:_MOST]):
        table.add_row(Text("" if place else "where"), Text(_where(finding)))
    if len(findings) > _MOST:
        table.add_row(Text(), Text(f"and {len(findings) - _MOST} more, which --json lists"))
    for label, words in (
        ("reported", f"{rule.devices} ({', '.join(rule.sources)})"),
        ("cure", rule.cure),
        ("rewrite", ", ".join(rule.strategies) or "none"),
    ):
        table.add_row(Text(label), Text(words))
    return [heading, Padding(table, (0, 0, 0, 2))]


def _where(finding: Finding) -> str:
    text = f"{finding.type} '{printable(finding.operation)}'"
    if finding.function != "main":
        text += f" of function '{printable(finding.function)}'"
    if finding.inside:
        text += f" in '{printable(finding.inside)}'"
    return f"{text}: {plain(finding.matched)}"


def rewriting_tables(rewriting: Rewriting) -> list[RenderableType]:
    """Say what was rewritten, and what it costs.

    Parameters
    ----------
    rewriting : Rewriting
        What `convcal.rewrite` wrote.

    Returns
    -------
    list of RenderableType
        By how much weights grew; per operation a table of its cost before and after, and how
        much the result differs.
    """
    parts: list[RenderableType] = [
        f"strategy {rewriting.strategy}; the weight file grew by {rewriting.new_weight_bytes} bytes"
    ]
    for each in rewriting.operations:
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        table.add_column("per prediction", no_wrap=True)
        for heading in ("before", "after"):
            table.add_column(heading, justify="right", no_wrap=True)
        for key in vars(each.before):
            costs = (str(vars(cost)[key]) for cost in (each.before, each.after))
            table.add_row(key.replace("_", "-" if key == "multiply_adds" else " "), *costs)
        difference = each.largest_difference
        said = (
            "not measured"
            if difference is None
            else f"at most {number(difference)} of the largest value, on random inputs"
        )
        parts += [
            Text(f"{each.type} '{printable(each.operation)}'", style="bold"),
            Padding(table, (0, 0, 0, 2)),
            f"  difference {said}",
        ]
    return parts
