# SPDX-License-Identifier: BSD-3-Clause
"""What hard input does, how often intervals are right, and what must not change an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import scipy.ndimage
from cases import KINDS, Case, Drawn, Row, draw, estimated, moves, spread_over, worst
from numpy.typing import NDArray

from convcal.estimation import align, estimate

__all__ = ["coverage", "growth", "hard_input", "repeats"]

Values = NDArray[np.float64]
Spoil = Callable[[Values, np.random.Generator], Values]


def _with_nan(observed: Values, rng: np.random.Generator) -> Values:
    return np.where(rng.random(observed.shape) < 0.02, np.nan, observed)


def _with_infinities(observed: Values, rng: np.random.Generator) -> Values:
    chance = rng.random(observed.shape)
    return np.where(chance < 0.01, np.inf, np.where(chance > 0.99, -np.inf, observed))


def _with_dead_channel(observed: Values, _: np.random.Generator) -> Values:
    return np.concatenate([np.zeros_like(observed[:, :1]), observed[:, 1:]], axis=1)


def _with_flipped_channel(observed: Values, _: np.random.Generator) -> Values:
    return np.concatenate([-observed[:, :1], observed[:, 1:]], axis=1)


def _with_salt_and_pepper(observed: Values, rng: np.random.Generator) -> Values:
    chance = rng.random(observed.shape)
    low, high = observed.min(), observed.max()
    return np.where(chance < 0.025, low, np.where(chance > 0.975, high, observed))


def _saturated(observed: Values, _: np.random.Generator) -> Values:
    return np.minimum(observed, _quantile(observed, 0.8))


def _saturated_at_both_ends(observed: Values, _: np.random.Generator) -> Values:
    return np.clip(observed, _quantile(observed, 0.1), _quantile(observed, 0.9))


def _quantised(observed: Values, _: np.random.Generator) -> Values:
    low = observed.min(axis=(0, 2, 3), keepdims=True)
    step = (observed.max(axis=(0, 2, 3), keepdims=True) - low) / 15
    return low + step * np.round((observed - low) / step)


def _with_junk_channel(observed: Values, rng: np.random.Generator) -> Values:
    junk = rng.standard_normal(observed[:, :1].shape)
    return np.concatenate([junk, observed[:, 1:]], axis=1)


def _quantile(observed: Values, share: float) -> Values:
    return np.asarray(np.quantile(observed, share, axis=(0, 2, 3), keepdims=True))


_ONE_END, _BOTH_ENDS = "20 % saturation", "10 % saturation at both ends"
_SPARSE = ("blobs", "features")  # nothing is left of them without their highest fifth

_SPOILT: dict[str, Spoil] = {
    "2 % NaN": _with_nan,
    "2 % Inf": _with_infinities,
    "a dead channel": _with_dead_channel,
    "a sign-flipped channel": _with_flipped_channel,
    "5 % salt and pepper": _with_salt_and_pepper,
    _ONE_END: _saturated,
    _BOTH_ENDS: _saturated_at_both_ends,
    "16 levels": _quantised,
    "a channel of junk": _with_junk_channel,
}


def hard_input(is_full: bool) -> list[Row]:
    """Spoil the observed output of pairs of 4 samples at 30 dB, over all contents."""
    rows = []
    kinds = KINDS if is_full else ("edges", "photographs")
    cases = spread_over(
        kinds, Case((64, 64), (0.0, 0.0), n_samples=4, snr_db=30.0), per_kind=10 if is_full else 1
    )
    for name, spoil in _SPOILT.items():
        outcomes = []
        for case in cases:
            if name in {_ONE_END, _BOTH_ENDS} and case.content in _SPARSE:
                continue
            pair = draw(case)
            rng = np.random.default_rng((case.seed, 5))
            spoilt = spoil(pair.observed.astype(np.float64), rng).astype(np.float16)
            outcomes.append(estimated(case, replace(pair, observed=spoilt)))
        middle = float(np.median([o.size for o in outcomes]))
        missed = float(np.mean([o.is_miss for o in outcomes]))
        rows.append(
            Row(
                f"{name}, 4 x 3, 64x64",
                f"median {middle:.4f} px, {missed:.1%} missed",
                "<= 0.01 px, <= 5 %",
                middle <= 0.01 and missed <= 0.05,
                worst(outcomes),
            )
        )
    return rows


def coverage(is_full: bool) -> list[Row]:
    """Count how often the truth lies in the 95 % interval.

    A row counts as met where the count is within two of its own standard errors of 93 to 97 %.
    """
    rows = []
    count = 100 if is_full else 3
    for snr_db in (40.0, 30.0, 20.0, 10.0):
        case = Case((32, 32), (0.0, 0.0), n_samples=2, snr_db=snr_db)
        inside: dict[str, list[bool]] = {}
        for each in spread_over(("pink", "white", "edges", "features"), case, per_kind=count):
            pair = draw(each)
            outcome, found = estimated(each, pair), align(pair.reference, pair.observed)
            for name, covered, truth in (
                ("shift", outcome.is_covered, np.array(each.shift)),
                ("gain", outcome.gain_covered, pair.gain),
                ("bias", outcome.bias_covered, pair.bias),
            ):
                inside.setdefault(f"estimate, {name}", []).extend(covered.tolist())
                off = np.abs(getattr(found, name) - truth)
                near = off <= 1.96 * getattr(found, f"{name}_error")
                inside.setdefault(f"align, {name}", []).extend(near.tolist())
        rows += [
            _covered(f"{name}, {snr_db:.0f} dB, 2 x 3, 32x32", flags)
            for name, flags in inside.items()
        ]
    return [*rows, _covered_where_noise_is_correlated(count)]


def _covered_where_noise_is_correlated(count: int) -> Row:
    inside = []
    case = Case((32, 32), (0.0, 0.0), n_samples=16)
    for each in spread_over(("pink", "edges"), case, per_kind=count):
        pair = draw(each)
        rng = np.random.default_rng((each.seed, 6))
        noise = scipy.ndimage.gaussian_filter(
            rng.standard_normal(pair.observed.shape), (0, 0, 1.5, 1.5), mode="wrap"
        )
        noise *= 0.1 * pair.observed.std(dtype=np.float64) / noise.std()
        spoilt = (pair.observed + noise).astype(np.float16)
        inside += estimated(each, replace(pair, observed=spoilt)).is_covered.tolist()
    return _covered("estimate, shift, noise blurred by 1.5 px, 20 dB, 16 x 3, 32x32", inside)


def _covered(name: str, inside: Sequence[bool]) -> Row:
    share = float(np.mean(inside)) if inside else 0.0
    allowed = 2 * np.sqrt(0.05 * 0.95 / max(len(inside), 1))
    return Row(
        f"95 % interval: {name}",
        f"{share:.1%} of {len(inside)}",
        "93 to 97 %",
        bool(0.93 - allowed <= share <= 0.97 + allowed),
    )


def growth(is_full: bool) -> list[Row]:
    """Measure a shift that grows by half a pixel over 1024, and count false alarms."""
    rows = []
    count = 20 if is_full else 2
    for shape, n_samples, n_channels in (((1024,), 8, 3), ((1024, 1024), 1, 1)):
        if len(shape) == 2 and not is_full:
            continue
        for place, origin in (("a corner", 0.0), ("the centre", 511.5)):
            found, off, fixed = [], [], []
            for seed in range(count if len(shape) == 1 else max(1, count // 4)):
                case = Case(
                    shape,
                    (0.0,) * len(shape),
                    n_samples=n_samples,
                    n_channels=n_channels,
                    scale=1 + 0.5 / 1023,
                    origin=origin,
                    snr_db=30.0,
                    seed=seed,
                )
                pair = draw(case)
                result = estimate(pair.reference, pair.observed)
                findings = result.evidence["findings"]
                named = result.family == "scale" and "growth" in findings
                found.append(named)
                if named:
                    off.append(np.abs(np.abs(findings["growth"]) - np.array(0.5)).max() / 0.5)
                    fixed.append(
                        max(
                            abs(p - origin) if p is not None else np.inf
                            for p in findings["fixed_point"]
                        )
                    )
            size = "x".join(str(n) for n in shape)
            off_by, at = (np.median(each) if each else np.inf for each in (off, fixed))
            rows.append(
                Row(
                    f"0.5 px over {size}, about {place}, {n_samples} x {n_channels}, 30 dB",
                    f"named in {np.mean(found):.0%} of {len(found)}, growth off by {off_by:.1%}, "
                    f"origin by {at:.1f} px",
                    "always, <= 1 %",
                    all(found) and bool(off_by <= 0.01),
                )
            )
    alarms = []
    for seed in range(200 if is_full else 10):
        shape, n_samples = (((1024,), 8), ((64, 64), 4))[seed % 2]
        case = Case(
            shape,
            moves(seed, len(shape)),
            KINDS[seed % len(KINDS)] if len(shape) == 2 else "pink",
            n_samples=n_samples,
            snr_db=(None, 30.0, 20.0)[seed % 3],
            seed=seed,
        )
        pair = draw(case)
        result = estimate(pair.reference, pair.observed)
        if result.family == "scale" or "growth" in result.evidence["findings"]:
            alarms.append(case)
    told = "; ".join(str(case) for case in alarms[:3])
    rows.append(
        Row("growth where there is none", f"{len(alarms)} of {seed + 1}", "none", not alarms, told)
    )
    return rows


def repeats(is_full: bool) -> list[Row]:
    """Estimate again, in another order, from arrays that may not be written to."""
    same, permuted, moved = [], [], []
    for seed in range(20 if is_full else 3):
        case = Case((32, 32), moves(seed, 2), "pink", n_samples=8, snr_db=20.0, seed=seed)
        pair = draw(case)
        kept = pair.reference.copy(), pair.observed.copy()
        pair.reference.flags.writeable = pair.observed.flags.writeable = False
        order = np.random.default_rng(seed).permutation(8)
        first, second, third = (
            estimate(reference, observed).evidence["registration"]
            for reference, observed in (
                (pair.reference, pair.observed),
                (pair.reference, pair.observed),
                (pair.reference[order], pair.observed[order]),
            )
        )
        same.append(first == second)
        permuted.append(float(np.abs(np.subtract(first["shift"], third["shift"])).max()))
        moved.append(_differs(pair, kept))
    return [
        Row("the same again", f"{np.mean(same):.0%} bit for bit", "always", all(same)),
        Row(
            "samples in another order",
            f"shift differs by {max(permuted):.1e} px",
            "the same: <= 1e-12",
            max(permuted) <= 1e-12,
        ),
        Row("inputs written to", f"{sum(moved)} of {len(moved)}", "never", not any(moved)),
    ]


def _differs(pair: Drawn, kept: tuple[np.ndarray, np.ndarray]) -> bool:
    return not (np.array_equal(pair.reference, kept[0]) and np.array_equal(pair.observed, kept[1]))
