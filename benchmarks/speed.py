# SPDX-License-Identifier: BSD-3-Clause
# ruff: noqa: E402 - the number of threads is set before NumPy is loaded
"""Measure how fast shift, gain and bias are found, beside the libraries that find a shift.

    python benchmarks/speed.py           # under a minute
    python benchmarks/speed.py --full    # more repeats and sizes

One thread. Ours and theirs are called in turn, so that other work on the machine slows both, and
medians are compared. Peers that are not installed are left out and named. scikit-image is given
float32 planes one by one and, for OpenCV's phaseCorrelate with a window, copies: it overwrites
its inputs.
"""

from __future__ import annotations

import argparse
import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import importlib.util
import math
import time
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import scipy.fft

from convcal.datasets import make_pair
from convcal.estimation import align
from convcal.estimation.affine import fit_affine
from convcal.estimation.structure import find_block_shifts, find_growth
from convcal.faults import parse_fault

Call = Callable[[], object]

# Shape, scikit-image's upsampling, most of its time that ours may take.
TARGETS: tuple[tuple[tuple[int, ...], int, float], ...] = (
    ((1, 1, 64, 64), 100, 1.0),
    ((1, 1, 256, 256), 100, 1.0),
    ((1, 1, 1024, 1024), 100, 1.0),
    ((1, 1, 16384), 100, 1.0),
    ((8, 16, 64, 64), 10, 0.8),
    ((1, 64, 256, 256), 10, 0.3),
    ((1, 3, 1080, 1920), 10, 0.08),
)


def main() -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="more repeats and sizes")
    full = parser.parse_args().full
    missing = [n for n in ("skimage", "cv2", "sklearn") if not importlib.util.find_spec(n)]
    if missing:
        print("not installed, left out:", ", ".join(missing))
    print_targets(full=full)
    print_growth(full=full)
    print_affine(full=full)
    print_scale(full=full)


def medians(calls: Sequence[Call], *, seconds: float) -> list[float]:
    """Call each in turn for about so long, at least 3 times, and give the medians in ms."""
    for call in calls:
        call()  # caches are filled, libraries loaded
    times: list[list[float]] = [[] for _ in calls]
    begin = time.perf_counter()
    while len(times[0]) < 3 or time.perf_counter() - begin < seconds:
        for own, call in zip(times, calls, strict=True):
            start = time.perf_counter()
            call()
            own.append(time.perf_counter() - start)
    return [1000 * float(np.median(own)) for own in times]


def stacks(shape: tuple[int, ...], snr_db: float | None = 20.0) -> tuple[np.ndarray, np.ndarray]:
    """Draw a pair of float32 stacks, (1.3, -2.6) pixels apart."""
    n_samples, n_channels, *spatial = shape
    pair = make_pair(
        spatial,
        shift=(1.3, -2.6, 0.4)[: len(spatial)],
        n_samples=n_samples,
        n_channels=n_channels,
        gain=1.02,
        snr_db=snr_db,
        seed=1,
    )
    return pair.reference, pair.observed.astype(np.float32)


def planes_of(reference: np.ndarray, observed: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Give the planes of both stacks."""
    spatial = reference.shape[2:]
    return list(zip(reference.reshape(-1, *spatial), observed.reshape(-1, *spatial), strict=True))


def peers(planes: list[tuple[np.ndarray, np.ndarray]], upsampling: int) -> dict[str, Call]:
    """Give the calls of the libraries that are installed, each of which takes all planes."""
    calls: dict[str, Call] = {}
    if importlib.util.find_spec("skimage"):
        from skimage.registration import phase_cross_correlation

        def scikit_image() -> None:
            for reference, observed in planes:
                phase_cross_correlation(reference, observed, upsample_factor=upsampling)

        calls["scikit-image"] = scikit_image
    if importlib.util.find_spec("cv2") and planes[0][0].ndim == 2:
        import cv2

        cv2.setNumThreads(1)
        window = cv2.createHanningWindow(planes[0][0].shape[::-1], cv2.CV_32F)

        def phase_correlate() -> None:
            for reference, observed in planes:
                cv2.phaseCorrelate(reference.copy(), observed.copy(), window)

        calls["phaseCorrelate"] = phase_correlate

        def ecc() -> None:
            for reference, observed in planes:
                _ecc(reference, observed, cv2.MOTION_TRANSLATION)

        calls["ECC"] = ecc
    return calls


def _ecc(reference: np.ndarray, observed: np.ndarray, motion: int) -> bool:
    """Register by OpenCV's enhanced correlation coefficient; tell whether it converged."""
    import cv2

    ends = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 1e-5)
    warp = np.eye(2, 3, dtype=np.float32)
    try:
        cv2.findTransformECC(reference, observed, warp, motion, ends, None, 5)
    except cv2.error:
        return False
    return True


def transforms(planes: list[tuple[np.ndarray, np.ndarray]]) -> Call:
    """Give the three transforms that any correlation of a plane takes, and nothing else."""

    def call() -> None:
        for reference, observed in planes:
            scipy.fft.rfftn(reference)
            scipy.fft.irfftn(scipy.fft.rfftn(observed), reference.shape)

    return call


def print_targets(*, full: bool) -> None:
    """Print our times beside the peers'."""
    print("shift + gain + bias of a stack against shifts plane by plane, at 20 dB and fp16; ms")
    print(
        f"{'shape':20}{'snr':>5}{'ours':>8}{'scikit-image':>14}{'ratio':>7}{'target':>8}"
        f"{'phaseCorr.':>12}{'ECC':>9}{'FFTs':>8}{'ours/FFTs':>11}"
    )
    for shape, upsampling, target in TARGETS:
        for snr_db in (20.0, None) if full or math.prod(shape) < 2**17 else (20.0,):
            reference, observed = stacks(shape, snr_db)
            planes = planes_of(reference, observed)
            others = peers(planes, upsampling)
            if not full and len(planes) > 1:
                # One plane stands for all: the time is in proportion.
                others = peers(planes[:1], upsampling)
            names = list(others)
            ours: Call = lambda r=reference, o=observed: align(r, o)  # noqa: E731
            times = medians(
                [ours, *others.values(), transforms(planes)], seconds=8 if full else 1.2
            )
            factor = 1 if full or len(planes) == 1 else len(planes)
            theirs = {n: t * factor for n, t in zip(names, times[1:-1], strict=True)}
            own, ffts = times[0], times[-1]
            base = theirs.get("scikit-image", math.nan)
            verdict = "" if not own / base > target else "  MISSED"
            print(
                f"{shape!s:20}{'fp16' if snr_db is None else snr_db:>5}{own:8.2f}{base:14.2f}"
                f"{own / base:7.3f}{target:8.2f}{theirs.get('phaseCorrelate', math.nan):12.2f}"
                f"{theirs.get('ECC', math.nan):9.1f}{ffts:8.2f}{own / ffts:11.2f}{verdict}"
            )


def print_growth(*, full: bool) -> None:
    """Print how our time grows, with the slope on logarithmic axes."""
    print("growth: ms, and the slope on log axes (1 is in proportion, 0 does not grow)")
    top = 5 if full else 4
    series = {
        "N, (N, 3, 64, 64)": [(4**k, 3, 64, 64) for k in range(top)],
        "C, (2, C, 64, 64)": [(2, 4**k, 64, 64) for k in range(top)],
        "size, (1, 1, s, s)": [(1, 1, 32 * 2**k, 32 * 2**k) for k in range(top + 1)],
        "size, (1, 1, s)": [(1, 1, 256 * 4**k) for k in range(top)],
    }
    for name, shapes in series.items():
        times = []
        for shape in shapes:
            reference, observed = stacks(shape)
            times += medians(
                [lambda r=reference, o=observed: align(r, o)], seconds=2 if full else 0.3
            )
        sizes = np.log([math.prod(shape) for shape in shapes])
        slope = float(np.polyfit(sizes, np.log(times), 1)[0])
        print(f"  {name:20} {'  '.join(f'{t:.2f}' for t in times)}   slope {slope:.2f}")


def print_affine(*, full: bool) -> None:
    """Print gain and bias beside a loop of scikit-learn's regressions."""
    if not importlib.util.find_spec("sklearn"):
        return
    from sklearn.linear_model import HuberRegressor, LinearRegression

    print("gain and bias against a loop of LinearRegression, HuberRegressor (a fifth is garbage)")
    for n_channels, n in ((1, 4096), (1, 65536), (512, 256), (512, 1024)):
        rng = np.random.default_rng(0)
        observed = rng.normal(size=(1, n_channels, n))
        reference = 1.7 * observed - 0.4 + 3e-4 * rng.normal(size=observed.shape)
        hit = rng.random(observed.shape) < 0.2
        spoilt = np.where(hit, 30 * rng.normal(size=observed.shape), observed)
        few = min(n_channels, 512 if full else 16)

        def loop(kind: type, values: np.ndarray, few: int, target: np.ndarray) -> None:
            for c in range(few):
                kind().fit(values[0, c, :, None], target[0, c])

        calls: list[Call] = [
            lambda r=reference, o=observed: fit_affine(r, o),
            lambda r=reference, o=spoilt: fit_affine(r, o, robust=True),
            lambda r=reference, o=observed, k=few: loop(LinearRegression, o, k, r),
            lambda r=reference, o=spoilt, k=few: loop(HuberRegressor, o, k, r),
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plain, robust, linear, huber = medians(calls, seconds=6 if full else 1)
        factor = n_channels / few
        error = np.abs(fit_affine(reference, spoilt, robust=True).gain - 1.7).max()
        print(
            f"  {n_channels:4} x {n:<6} {plain:8.2f} ms, {linear * factor / plain:5.0f} times as "
            f"fast (target {5 if n_channels == 1 else 40}); robust {robust:8.2f} ms, "
            f"{huber * factor / robust:5.0f} times (target 100), gain off by {error:.1e}"
        )


def print_scale(*, full: bool) -> None:
    """Print the time to find a growing shift beside OpenCV's affine registration."""
    reference = make_pair((1024, 1024), n_samples=1, n_channels=1, seed=1).reference
    observed = parse_fault("scale-corner:growth=0.00048828125").apply(reference)
    given = [(a - a.mean()) / a.std() for a in (reference, observed)]
    standard = [a.astype(np.float64) for a in given]

    def growth() -> object:
        blocks = find_block_shifts(standard[0], standard[1], limits=(8, 8), floor=np.full(1, 1e-8))
        return find_growth(blocks, least=(0.01, 0.01))

    calls: list[Call] = [growth]
    if importlib.util.find_spec("cv2"):
        import cv2

        cv2.setNumThreads(1)
        planes = [np.ascontiguousarray(a[0, 0], dtype=np.float32) for a in given]
        calls.append(lambda: _ecc(planes[0], planes[1], cv2.MOTION_AFFINE))
    times = medians(calls, seconds=10 if full else 2)
    told = "" if len(times) == 1 else f", {times[0] / times[1]:.2f} of findTransformECC's affine"
    told += "" if len(times) == 1 else f" {times[1]:.0f} ms (target 0.25)"
    print(f"growing shift at 1024 x 1024: {times[0]:.0f} ms{told}; found {growth()}")


if __name__ == "__main__":
    main()
