# SPDX-License-Identifier: BSD-3-Clause
"""How exact gain and bias are, on clean data and on data that are wrong in part."""

from __future__ import annotations

import math

import numpy as np
from cases import Case, Row, draw
from numpy.typing import NDArray

from convcal.estimation import estimate
from convcal.estimation.affine import fit_affine
from convcal.estimation.moments import pool_moments

__all__ = ["channels_without_signal", "clean_gains", "spoilt_gains"]

Array = NDArray[np.float64]


def clean_gains(is_full: bool) -> list[Row]:
    """Compare with exact least squares, in one piece and in shards at an offset."""
    largest = 0.0
    for seed in range(20 if is_full else 5):
        rng = np.random.default_rng(seed)
        observed = rng.normal(rng.uniform(-100, 100), 1, (4, 1, 32, 32))
        reference = 1.1 * observed + 0.3 + 1e-3 * rng.standard_normal(observed.shape)
        fit = fit_affine(reference, observed)
        gain, bias = _least_squares(reference, observed)
        largest = max(largest, abs(fit.gain[0] / gain - 1), abs(fit.bias[0] - bias) / 100)
    rng = np.random.default_rng(0)
    count = 1000 if is_full else 200
    shards = 1e4 + rng.standard_normal((count, 1, 16))
    targets = 1.1 * shards - 1000.0 + 1e-3 * rng.standard_normal(shards.shape)
    pooled = pool_moments(targets[:1], shards[:1], limits=(0,))
    for k in range(1, count):
        pooled = pooled.pooled(pool_moments(targets[k : k + 1], shards[k : k + 1], limits=(0,)))
    found = float(pooled.comoment[2, 0, 0] / pooled.comoment[1, 0, 0])
    off = abs(found / _least_squares(targets, shards)[0] - 1)
    return [
        Row(
            "gain and bias, clean, against exact sums",
            f"{largest:.1e}",
            "<= 1e-12",
            largest <= 1e-12,
        ),
        Row(f"{count} shards merged, at offset 1e4", f"{off:.1e}", "<= 1e-13", off <= 1e-13),
    ]


def spoilt_gains(is_full: bool) -> list[Row]:
    """Measure the gain with garbage and saturation, fp16 rounding beside them."""
    rows = []
    for name, limit in (("garbage", 1e-4), ("5 % saturated", 3e-4), ("20 % saturated", 2e-3)):
        off = []
        for seed in range(20 if is_full else 1):
            case = Case((64, 64), (0.0, 0.0), n_samples=4, seed=seed)
            pair = draw(case)
            observed = pair.observed.astype(np.float64)
            rng = np.random.default_rng((seed, 7))
            if name == "garbage":
                chosen = rng.random(observed.shape) < 0.2
                observed = np.where(chosen, rng.uniform(-20, 20, observed.shape), observed)
            else:
                share = 0.95 if name.startswith("5") else 0.8
                top = np.quantile(observed, share, axis=(0, 2, 3), keepdims=True)
                observed = np.minimum(observed, top)
            found = estimate(pair.reference, observed.astype(np.float16), robust=True)
            gain = np.array(found.evidence["channels"]["gain_fitted"])
            off.append(float(np.abs(gain / pair.gain - 1).max()))
        middle = float(np.median(off))
        title = "20 % garbage" if name == "garbage" else f"{name} at one side"
        rows.append(
            Row(f"gain, {title}", f"median {middle:.1e}", f"<= {limit:.0e}", middle <= limit)
        )
    return rows


def channels_without_signal(is_full: bool) -> list[Row]:
    """Put channels with little or no signal beside a good one."""
    right, count = 0, 0
    wrong = ""
    for seed in range(20 if is_full else 3):
        pair = draw(Case((32, 32), (0.0, 0.0), n_channels=1, n_samples=8, seed=seed))
        rng = np.random.default_rng((seed, 8))
        shape = pair.reference.shape
        sparse = np.maximum(rng.standard_normal(shape) - 2.5, 0)
        channels = {
            "constant": (np.full(shape, 3.0), np.full(shape, 3.1)),
            "almost constant": (
                3 + 1e-4 * rng.standard_normal(shape),
                3 + 1e-4 * rng.standard_normal(shape),
            ),
            "zero": (np.zeros(shape), np.zeros(shape)),
            "zero observed": (rng.standard_normal(shape), np.zeros(shape)),
            "ReLU-sparse": (sparse, sparse / 1.2),
        }
        reference = np.concatenate([pair.reference, *(c[0] for c in channels.values())], axis=1)
        observed = np.concatenate([pair.observed, *(c[1] for c in channels.values())], axis=1)
        result = estimate(reference.astype(np.float32), observed.astype(np.float16))
        found = result.evidence["channels"]
        for k, name in enumerate(channels, start=1):
            gain, flagged = result.gain[k], found["is_constant"][k]
            is_right = (
                math.isclose(gain, 1.2, rel_tol=5e-3)
                if name == "ReLU-sparse"
                else (gain == 1 and (flagged or name != "constant"))
            )
            right, count = right + is_right, count + 1
            if not is_right:
                wrong = f"{name}, seed {seed}: gain {gain:.4f}, flagged: {flagged}"
    return [
        Row(
            "channels without signal, or with little",
            f"{right} of {count} right, or gain 1 and flagged",
            "all",
            right == count,
            wrong,
        )
    ]


def _least_squares(reference: Array, observed: Array) -> tuple[float, float]:
    """Give gain and bias from sums without round-off."""
    ref, obs = reference.ravel().tolist(), observed.ravel().tolist()
    mean_ref, mean_obs = math.fsum(ref) / len(ref), math.fsum(obs) / len(obs)
    # The differences are rounded once each; their mean is off by less than 1e-16 of the offset.
    d_ref, d_obs = [r - mean_ref for r in ref], [o - mean_obs for o in obs]
    gain = math.fsum(r * o for r, o in zip(d_ref, d_obs, strict=True)) / math.fsum(
        o * o for o in d_obs
    )
    return gain, mean_ref - gain * mean_obs
