# SPDX-License-Identifier: BSD-3-Clause
"""How exact the shift is, on content that determines it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import scipy.optimize
import scipy.stats
from bounds import bound, ratio
from cases import KINDS, REFUSED, Case, Outcome, Row, draw, estimated, moves, spread_over, worst

from convcal.estimation import estimate

__all__ = [
    "contents",
    "linearity",
    "noise",
    "pooling",
    "refusals",
    "resampled",
    "rounding",
    "sizes",
]

_PLANE = Case((64, 64), (0.0, 0.0))


def rounding(is_full: bool) -> list[Row]:
    """Measure what fp16 rounding alone leaves."""
    cases = spread_over(KINDS, _PLANE, per_kind=40 if is_full else 1)
    outcomes = [estimated(case) for case in cases]
    middle, high = np.percentile([o.size for o in outcomes], (50, 95))
    missed = _missed(outcomes)
    return [
        Row(
            "fp16 rounding only, 64x64x3",
            f"median {middle:.5f} px, 95th percentile {high:.5f} px, {missed:.1%} missed",
            "0.0003, 0.005, none",
            middle <= 0.0003 and high <= 0.005 and missed == 0,
            worst(outcomes),
        )
    ]


def noise(is_full: bool) -> list[Row]:
    """Compare with the bound at 20 and 10 dB, content by content in the full form."""
    rows = []
    for snr_db in (20.0, 10.0):
        case = replace(_PLANE, snr_db=snr_db)
        cases = spread_over(KINDS, case, per_kind=40 if is_full else 1)
        outcomes = [estimated(case) for case in cases]
        by_kind = {k: [o for o in outcomes if o.case.content == k] for k in KINDS}
        pooled = ratio(outcomes)
        figure = f"{pooled:.2f} times the bound, {_missed(outcomes):.1%} missed"
        highest = pooled
        if is_full:
            ratios = {kind: ratio(part) for kind, part in by_kind.items()}
            kind = max(ratios, key=lambda k: ratios[k])
            highest = ratios[kind]
            figure += f"; worst content: {highest:.2f} ({kind})"
        name = f"{snr_db:.0f} dB, 64x64x3, band-limited"
        rows.append(Row(name, figure, "<= 1.5 times", highest <= 1.5, worst(outcomes)))
    return rows


def resampled(is_full: bool) -> list[Row]:
    """Measure shifts that were not made band-limited, as devices make them."""
    rows = []
    for resampling, limit in (("area", 0.01), ("bilinear", 0.02)):
        for snr_db in (20.0, 10.0) if is_full else (20.0,):
            case = replace(_PLANE, snr_db=snr_db, resampling=resampling)
            cases = spread_over(KINDS, case, per_kind=20 if is_full else 1)
            outcomes = [estimated(case) for case in cases]
            middle = float(np.median([o.size for o in outcomes]))
            lowered = np.mean([o.band < 1 for o in outcomes])
            rows.append(
                Row(
                    f"{snr_db:.0f} dB, 64x64x3, {resampling}",
                    f"median {middle:.4f} px, {_missed(outcomes):.1%} missed, "
                    f"band lowered in {lowered:.0%}",
                    f"<= {limit} px",
                    middle <= limit,
                    worst(outcomes),
                )
            )
    return rows


def sizes(is_full: bool, only: Sequence[str] = ()) -> list[Row]:
    """Count misses, whole shifts that are called so, and fractions that are lost, by size.

    Parameters
    ----------
    is_full : bool
    only : sequence of str
        Names of sizes, as ``32x32``, to leave out all others.
    """
    shapes: list[tuple[tuple[int, ...], int]] = [
        *(((n,), 8) for n in ((8, 16, 32, 128, 1024, 16384) if is_full else (8, 16, 1024))),
        *(((n, n), 2) for n in ((16, 32, 64, 128, 256) if is_full else (16, 32))),
        *(((n, n), 1) for n in ((512, 1024) if is_full else ())),
        *(((n, n, n), 1) for n in ((16, 32) if is_full else (16,))),
    ]
    rows = []
    for shape, n_samples in shapes:
        name = "x".join(str(n) for n in shape)
        if only and name not in only:
            continue
        values = np.prod(shape) * n_samples
        count = 60 if values < 5000 else (20 if values < 100000 else 6)
        per_kind = count if is_full else 2
        case = Case(shape, (0.0,) * len(shape), n_samples=n_samples, snr_db=20.0)
        fractional = spread_over(("pink", "white", "edges"), case, per_kind=per_kind)
        whole = [replace(c, shift=tuple(float(round(s)) for s in c.shift)) for c in fractional]
        on_fractions, on_whole = ([estimated(c) for c in part] for part in (fractional, whole))
        missed = _missed([*on_fractions, *on_whole])
        found = [o for o in on_whole if not o.is_miss]
        called = np.mean([o.is_whole.all() for o in found]) if found else 0.0
        lost = np.mean([_is_lost(o) for o in on_fractions if not o.is_miss] or [0.0])
        middle = np.median([o.size for o in on_fractions])
        rows.append(
            Row(
                f"size {name}, {n_samples} x 3, 20 dB",
                f"{missed:.1%} missed, {called:.1%} of whole called whole, {lost:.1%} of fractions "
                f"lost; median {middle:.4f} px ({2 * len(fractional)} cases)",
                "<= 1 %, >= 99 %, none",
                bool(missed <= 0.01 and called >= 0.99 and lost == 0),
                worst([*on_fractions, *on_whole]),
            )
        )
    return rows


def pooling(is_full: bool) -> list[Row]:
    """Compare with the bound as samples and channels become more."""
    rows = []
    counts = ((1, 1), (1, 8), (8, 1), (8, 8), (1, 256), (256, 1), (40, 25))
    for n_samples, n_channels in counts if is_full else (counts[0], counts[3], counts[4]):
        few = n_samples * n_channels < 100
        case = replace(
            _PLANE, shape=(32, 32), n_samples=n_samples, n_channels=n_channels, snr_db=10.0
        )
        per_kind = (60 if few else 10) if is_full else (4 if few else 1)
        kinds = ("pink", "white", "edges", "features") if is_full else ("pink", "white")
        cases = spread_over(kinds, case, per_kind=per_kind)
        outcomes = [estimated(case) for case in cases]
        times = ratio(outcomes)
        middle = np.median([o.size for o in outcomes])
        rows.append(
            Row(
                f"{n_samples} samples x {n_channels} channels, 32x32, 10 dB",
                f"{times:.2f} times the bound, {_missed(outcomes):.1%} missed; "
                f"median {middle:.4f} px",
                "<= 2 times",
                times <= 2 and _missed(outcomes) == 0,
                worst(outcomes),
            )
        )
    return rows


def contents(is_full: bool) -> list[Row]:
    """Measure every kind of content at 20 dB.

    Where the bound itself leaves no room below 0.008 px, 1.5 times it is what can be wanted.
    """
    rows = []
    case = replace(_PLANE, snr_db=20.0)
    for k, kind in enumerate(KINDS):
        count = 40 if is_full else 2
        outcomes = [estimated(c) for c in spread_over((kind,), case, per_kind=count, first=k * 500)]
        middle = float(np.median([o.size for o in outcomes]))
        # The error of the worse axis, which the median is of, as the bound lets it be.
        least = float(np.median([_worse_axis(bound(o.case)) for o in outcomes]))
        missed = _missed(outcomes)
        rows.append(
            Row(
                f"{kind}, 64x64x3, 20 dB",
                f"median {middle:.4f} px, that of the bound {least:.4f}; {missed:.1%} missed",
                "<= 0.008 px or 1.5 times the bound's, none",
                middle <= max(0.008, 1.5 * least) and missed == 0,
                worst(outcomes),
            )
        )
    return rows


def refusals(is_full: bool) -> list[Row]:
    """Count how often what does not determine a shift is refused, or called ambiguous."""
    count = 50 if is_full else 5
    right: dict[str, list[bool]] = {content: [] for content in REFUSED}
    for seed in range(count):
        for content, answers in right.items():
            case = replace(
                _PLANE, content=content, shift=moves(seed, 2), snr_db=20.0, n_samples=4, seed=seed
            )
            pair = draw(case)
            result = estimate(pair.reference, pair.observed)
            found = result.evidence["registration"]
            if content == "constant":
                answers.append(not any(found["is_identifiable"]))
            elif content == "stripes":
                error = abs(found["shift"][1] - case.shift[1])
                answers.append(found["is_identifiable"] == [False, True] and error < 0.05)
            else:
                # The truth, and every shift a period of 8 px away, fits equally.
                listed = [*found["ambiguous_shifts"], found["whole_shift"]]
                steps = [np.subtract(each, case.shift) for each in listed]
                periodic = all((np.abs((s + 4) % 8 - 4) < 1).all() for s in steps)
                answers.append(len(listed) > 1 and periodic)
    wanted = {
        "constant": "refused",
        "lattice": "ambiguous, by whole periods",
        "stripes": "refused along the stripes, found across them",
    }
    return [
        Row(f"{name}: {wanted[name]}", f"{np.mean(each):.1%}", "always", all(each))
        for name, each in right.items()
    ]


def linearity(is_full: bool) -> list[Row]:
    """Regress the estimate on the truth, and swap the two outputs."""
    truths = np.linspace(-0.5, 0.5, 11)
    rows = []
    for kind in KINDS if is_full else ("pink", "photographs"):
        slopes, sums = [], []
        for seed in range(2 if is_full else 1):
            errors = []
            for k, truth in enumerate(truths):
                case = replace(_PLANE, shift=(truth, -0.8 * truth), content=kind, seed=seed)
                pair = draw(case)
                outcome = estimated(case, pair)
                errors.append(outcome.error[0])
                if is_full or k % 5 == 2:
                    back = estimate(pair.observed, pair.reference).evidence["registration"]
                    sums.append(np.abs(outcome.error + case.shift + back["shift"]).max())
            slopes.append(1 + float(np.polyfit(truths, errors, 1)[0]))
        slope, largest = max(slopes, key=lambda s: abs(s - 1)), max(sums)
        rows.append(
            Row(
                f"slope on truth; s(a, b) + s(b, a): {kind}",
                f"{slope:.5f}; {largest:.5f} px",
                "1.000 +- 0.001; <= 0.001 px",
                abs(slope - 1) <= 0.001 and largest <= 0.001,
            )
        )
    return rows


def _worse_axis(deviations: np.ndarray) -> float:
    """Give the median of the largest of normal errors, independent, of these deviations."""

    def share(largest: float) -> float:
        return float(np.prod(2 * scipy.stats.norm.cdf(largest / deviations) - 1)) - 0.5

    return float(scipy.optimize.brentq(share, 0.0, 10 * deviations.max()))


def _missed(outcomes: Sequence[Outcome]) -> float:
    return float(np.mean([o.is_miss for o in outcomes]))


def _is_lost(outcome: Outcome) -> bool:
    """Whether a fraction that stands out of the noise was called whole."""
    truth = np.array(outcome.case.shift)
    away = np.abs(truth - np.round(truth))
    stands_out = away > 6 * np.where(
        np.isfinite(outcome.standard_error), outcome.standard_error, 0.01
    )
    return bool((outcome.is_whole & stands_out).any())
