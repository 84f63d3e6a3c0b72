# SPDX-License-Identifier: BSD-3-Clause
"""Measure the figures in the comments of ``convcal.estimation``: fractional taps, fp16 networks.

    python benchmarks/estimation.py

Takes some seconds. Everything is seeded; on another machine the last digits may differ. How exact
the estimates are is measured by ``registration.py``.
"""

from __future__ import annotations

import numpy as np
import scipy.signal

from convcal.datasets import make_pair
from convcal.estimation import measure
from convcal.estimation.interpolation import apply_filters, axis_filter

CONTENTS = ("smooth", "blobs", "edges", "pink", "white")


def print_taps() -> None:
    """Print how far the fractional filter is from the ideal one, at half a pixel."""
    offset, taps = axis_filter(0.5)
    frequency = np.linspace(0, 1, 2001)  # of the Nyquist frequency
    positions = offset + np.arange(len(taps)) + 0.5
    response = np.exp(1j * np.pi * np.outer(frequency, positions)) @ np.array(taps)
    error = np.abs(response - 1)
    print(f"{len(taps)} taps at half a pixel: error of the transfer function")
    for limit in (1e-3, 1e-2, 1e-1):
        beyond = frequency[np.argmax(error > limit)]
        print(f"  below {limit:g} up to {beyond:.2f} of the Nyquist frequency")
    print("what they leave at (0.37, -2.5) px, SNR")
    for content in CONTENTS:
        shift = (0.37, -2.5)
        pair = make_pair((64, 64), shift=shift, content=content, dtype=np.float64, seed=0)
        filters = tuple(axis_filter(each) for each in shift)
        corrected = apply_filters(pair.observed, filters)
        inside = (slice(None), slice(None), slice(8, -8), slice(8, -8))
        print(f"  {content:8} {measure(pair.reference[inside], corrected[inside]).snr_db:5.1f} dB")


def print_rounding() -> None:
    """Print what fp16 rounding leaves of networks of 3x3 convolutions with ReLU."""
    print("fp16 networks against fp64, SNR over 10 seeds")
    for n_layers in (1, 3, 8, 15):
        snr = [_rounded_network(n_layers, seed) for seed in range(10)]
        print(f"  {n_layers:2} layers: {min(snr):.0f} to {max(snr):.0f} dB")


def _rounded_network(n_layers: int, seed: int) -> float:
    rng = np.random.default_rng(seed)
    exact = rng.normal(size=(8, 24, 24))
    half = exact.astype(np.float16).astype(np.float64)
    for _ in range(n_layers):
        weight = rng.normal(size=(8, len(exact), 3, 3)) * np.sqrt(2 / (9 * len(exact)))
        rounded = weight.astype(np.float16).astype(np.float64)
        exact = np.maximum(_convolve(exact, weight), 0)
        half = np.maximum(_convolve(half, rounded), 0).astype(np.float16).astype(np.float64)
    return measure(exact, half).snr_db


def _convolve(planes: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return np.stack(
        [
            sum(
                scipy.signal.correlate2d(plane, kernel, "same")
                for plane, kernel in zip(planes, kernels, strict=True)
            )
            for kernels in weight
        ]
    )


if __name__ == "__main__":
    print_taps()
    print_rounding()
