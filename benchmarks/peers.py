# SPDX-License-Identifier: BSD-3-Clause
"""Other registration software at its best settings, for comparison.

Every peer sees planes, so each is given the plane that suits it: the mean over the channels, each
of spread 1, or every channel by itself and the median of what it finds, whichever is the better
over all cases. What is not installed is named and left out (``pip install scikit-image
opencv-python-headless pystackreg SimpleITK``). Exceptions and misses are counted, not dropped.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from cases import KINDS, MISS, Case, Drawn, draw, estimated, spread_over
from numpy.typing import NDArray

from convcal.estimation import align

__all__ = ["PeerResult", "compare"]

Plane = NDArray[np.float32]
Register = Callable[[Plane, Plane], "tuple[float, float]"]


@dataclass(frozen=True)
class PeerResult:
    """One program over all cases.

    Attributes
    ----------
    name : str
    median : float
        Error in pixels along the worse axis, misses included.
    missed : float
        Share of errors above half a pixel, and of exceptions.
    seconds : float
        Median time of a case of 3 channels.
    """

    name: str
    median: float
    missed: float
    seconds: float


def compare(is_full: bool) -> Iterator[PeerResult | str]:
    """Give a result per program, or the name of one that is not installed.

    64 x 64, 3 channels, fractional shifts to 4 px, 20 dB, over all contents; signs as in
    `convcal.estimation.estimate`.
    """
    base = Case((64, 64), (0.0, 0.0), snr_db=20.0)
    cases = spread_over(KINDS, base, per_kind=10 if is_full else 1)
    pairs = [(case, draw(case)) for case in cases]
    yield _ours("convcal estimate", pairs, lambda case, pair: estimated(case, pair).error)
    yield _ours(
        "convcal align",
        pairs,
        lambda case, pair: align(pair.reference, pair.observed).shift - case.shift,
    )
    for package, names in _PEERS.items():
        if importlib.util.find_spec(package) is None:
            yield package
            continue
        for name, register in names.items():
            yield min(
                (
                    _peer(f"{name}, {how}", pairs, register, split)
                    for how, split in (("mean plane", _mean), ("median of planes", _planes))
                ),
                key=lambda result: (round(result.missed, 2), result.median),
            )


def _ours(
    name: str,
    pairs: list[tuple[Case, Drawn]],
    run: Callable[[Case, Drawn], NDArray[np.float64]],
) -> PeerResult:
    errors, seconds = [], []
    for case, pair in pairs:
        start = time.perf_counter()
        errors.append(float(np.abs(run(case, pair)).max()))
        seconds.append(time.perf_counter() - start)
    return _result(name, errors, seconds)


def _peer(
    name: str,
    pairs: list[tuple[Case, Drawn]],
    register: Register,
    split: Callable[[Drawn], list[tuple[Plane, Plane]]],
) -> PeerResult:
    errors, seconds = [], []
    for case, pair in pairs:
        start = time.perf_counter()
        try:
            found = np.median([register(*planes) for planes in split(pair)], axis=0)
            error = float(np.abs(found - case.shift).max())
        except Exception:  # noqa: BLE001 - each has errors of its own; all are failures
            error = np.inf
        seconds.append(time.perf_counter() - start)
        errors.append(error if np.isfinite(error) else np.inf)
    return _result(name, errors, seconds)


def _result(name: str, errors: list[float], seconds: list[float]) -> PeerResult:
    return PeerResult(
        name,
        float(np.median(errors)),
        float(np.mean(np.array(errors) > MISS)),
        float(np.median(seconds)),
    )


def _planes(pair: Drawn) -> list[tuple[Plane, Plane]]:
    return [
        (_unit(ref), _unit(obs))
        for ref, obs in zip(pair.reference[0], pair.observed[0], strict=True)
    ]


def _mean(pair: Drawn) -> list[tuple[Plane, Plane]]:
    references, observed = zip(*_planes(pair), strict=True)
    return [(np.mean(references, axis=0), np.mean(observed, axis=0))]


def _unit(plane: NDArray[np.floating]) -> Plane:
    values = plane.astype(np.float64)
    return np.asarray((values - values.mean()) / (values.std() or 1.0), dtype=np.float32)


def _scikit_image(normalization: str | None) -> Register:
    def register(reference: Plane, observed: Plane) -> tuple[float, float]:
        from skimage.registration import phase_cross_correlation

        found = phase_cross_correlation(
            reference, observed, upsample_factor=100, normalization=normalization
        )[0]
        return float(found[0]), float(found[1])

    return register


def _opencv(reference: Plane, observed: Plane) -> tuple[float, float]:
    import cv2

    # It multiplies its inputs by the window in place.
    window = cv2.createHanningWindow(reference.shape[::-1], cv2.CV_32F)
    (x, y), _ = cv2.phaseCorrelate(observed.copy(), reference.copy(), window)
    return y, x


def _opencv_iterative(reference: Plane, observed: Plane) -> tuple[float, float]:
    import cv2

    x, y = cv2.phaseCorrelateIterative(observed.copy(), reference.copy())[:2]
    return float(y), float(x)


def _opencv_ecc(reference: Plane, observed: Plane) -> tuple[float, float]:
    import cv2

    y, x = _opencv(reference, observed)
    start = np.array([[1, 0, -x], [0, 1, -y]], dtype=np.float32)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 200, 1e-8)
    _, found = cv2.findTransformECC(
        reference, observed, start, cv2.MOTION_TRANSLATION, criteria, None, 5
    )
    return -float(found[1, 2]), -float(found[0, 2])


def _pystackreg(reference: Plane, observed: Plane) -> tuple[float, float]:
    from pystackreg import StackReg

    matrix = StackReg(StackReg.TRANSLATION).register(
        reference.astype(np.float64), observed.astype(np.float64)
    )
    return -float(matrix[1, 2]), -float(matrix[0, 2])


def _simpleitk(reference: Plane, observed: Plane) -> tuple[float, float]:
    import SimpleITK as Itk

    method = Itk.ImageRegistrationMethod()
    method.SetMetricAsCorrelation()
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetInterpolator(Itk.sitkBSpline)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0, minStep=1e-5, numberOfIterations=200, gradientMagnitudeTolerance=1e-9
    )
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    method.SetInitialTransform(Itk.TranslationTransform(2), inPlace=False)
    found = method.Execute(Itk.GetImageFromArray(reference), Itk.GetImageFromArray(observed))
    x, y = found.GetParameters()
    return -float(y), -float(x)


_PEERS: dict[str, dict[str, Register]] = {
    "skimage": {
        "scikit-image, phase": _scikit_image("phase"),
        "scikit-image, unnormalised": _scikit_image(None),
    },
    "cv2": {
        "OpenCV phaseCorrelate": _opencv,
        "OpenCV phaseCorrelateIterative": _opencv_iterative,
        "OpenCV findTransformECC": _opencv_ecc,
    },
    "pystackreg": {"pystackreg": _pystackreg},
    "SimpleITK": {"SimpleITK correlation": _simpleitk},
}
