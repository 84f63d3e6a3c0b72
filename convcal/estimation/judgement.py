# SPDX-License-Identifier: BSD-3-Clause
"""A verdict with its reason, and the words that reasons share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convcal.estimation.candidates import Candidate
from convcal.estimation.facts import Facts
from convcal.estimation.selection import Trial

__all__ = ["Judgement", "conclude", "helps", "refuse", "tried", "unit"]


@dataclass(frozen=True, eq=False)
class Judgement:
    """A verdict with its reason, and the correction that goes with it.

    Attributes
    ----------
    verdict, family, reason : str
    candidate : Candidate
        Identity where nothing is to be corrected.
    level_before, level_after : float
        Residual before and after the chosen candidate, every value corrected by what was fitted
        without it, in units of what a faithful fp16 network leaves (all channels together, or half
        of the worst one's); up to 1 is rounding.
    findings : dict
        What the tests for structure found, JSON-ready.
    """

    verdict: str
    family: str
    reason: str
    candidate: Candidate
    level_before: float
    level_after: float
    findings: dict[str, object]

    @property
    def is_corrected(self) -> bool:
        """Tell whether the candidate changes anything."""
        return self.candidate.model != "identity"


def refuse(facts: Facts, verdict: str, family: str, reason: str) -> Judgement:
    """Give a verdict that corrects nothing."""
    return conclude(facts, verdict, family, reason, facts.identity)


def conclude(
    facts: Facts, verdict: str, family: str, reason: str, candidate: Candidate
) -> Judgement:
    """Give a verdict with the correction that goes with it."""
    return Judgement(
        verdict, family, reason, candidate, facts.level_before, facts.level_after, facts.findings
    )


def helps(chosen: Trial, after: float) -> str:
    """Say what a correction does and what it leaves, in tolerances."""
    candidate = chosen.candidate
    parts = []
    if any(candidate.shift):
        values = ", ".join(f"{s:+.4g}" for s in candidate.shift)
        parts.append(f"a shift of ({values}) {unit(candidate.shift)}")
    if candidate.resampling is not None:
        values = ", ".join("1" if r is None else f"{r[0]:.6g}" for r in candidate.resampling)
        parts.append(f"a scale of ({values})")
    if candidate.rows is not None:
        parts.append(f"reading rows {candidate.rows[1]} values apart")
    n_channels = int(((candidate.gain != 1) | (candidate.bias != 0)).sum())
    if n_channels:
        of_all = f" in {n_channels} of {len(candidate.gain)} channels"
        parts.append("gain and bias" + (of_all if len(candidate.gain) > 1 else ""))
    takes, leaves = ("take", "leave") if n_channels and len(parts) == 1 else ("takes", "leaves")
    sigmas = f"{chosen.sigmas:.0f}" if chosen.sigmas < 1000 else "over 1000"
    left = (
        f"{leaves} no more than fp16 rounding"
        if after <= 1
        else f"{leaves} {after:.3g} times what a faithful fp16 network may"
    )
    return (
        f"{' with '.join(parts)} {takes} away {chosen.share:.2%} of the squared error on held-out "
        f"data ({sigmas} standard errors), inside the margins, and {left}"
    )


def unit(per_axis: Sequence[float]) -> str:
    """Give the unit of what is one number per spatial axis."""
    return "px" if len(per_axis) > 1 else "samples"


def tried(facts: Facts) -> str:
    """Say how far the best that can be fitted would have got."""
    best = max(facts.choice.trials[1:], key=lambda trial: trial.share, default=None)
    return "" if best is None else f"; the best of what can be fitted takes away {best.share:.0%}"
