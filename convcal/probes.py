# SPDX-License-Identifier: BSD-3-Clause
"""Small questions to a device, whose right and wrong answers are known in closed form.

Each probe is one operation on one sample, and what its output is under each reading of the public
reports: of transposed convolutions with pads that differ (apple/coremltools #2324, #2281), of wide
resizes (microsoft/onnxruntime #21170).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["PROBES", "Probe"]

_PADS = ((1, 0), (0, 1), (2, 0), (2, 1))
_WIDTHS = (1025, 2047, 2048, 2049)
# Of integers below 2048, which fp16 holds, sums of few terms; what tells readings apart is more.
_CROP_TOLERANCE = 2.0**-8
# Of values up to 4, interpolated in fp16, is off by a hundredth; a drift of a pixel is 0.5.
_RESIZE_TOLERANCE = 0.05
_REACH = 8
"""How far a ramp goes to each side of its middle, in input pixels; half of that is compared."""


@dataclass(frozen=True)
class Probe:
    """One operation, a sample for it, and what comes out under each hypothesis.

    Parameters
    ----------
    question : str
        What is asked: ``crop-1d``, ``crop-2d``, ``crop-valid``, ``resize``.
    source : str
        The report that it follows.
    setting : dict
        What differs between the probes of a question, as ``{"pads": [1, 0]}``.
    operation : str
        An operation of MIL.
    parameters : dict
        Its other inputs.
    sample : numpy.ndarray
        Its input, float32.
    predictions : dict of str to numpy.ndarray
        By hypothesis the output, float64; the right one first.
    tolerance : float
        How far from a prediction a value of the output may be.
    region : numpy.ndarray, optional
        True where the output is compared; everywhere by default.
    origins : dict of tuple of int to numpy.ndarray
        By where the crop begins, along each axis, the output; empty for a resize.
    positions : numpy.ndarray, optional
        Of a resize, where each result of the last axis lies in the input.
    centres : tuple of int
        Of a resize, where in the input the ramp of each channel is zero.
    """

    question: str
    source: str
    setting: dict[str, Any]
    operation: str
    parameters: dict[str, Any]
    sample: NDArray[np.float32]
    predictions: dict[str, NDArray[np.float64]]
    tolerance: float
    region: NDArray[np.bool_] | None = None
    origins: Mapping[tuple[int, ...], NDArray[np.float64]] = field(default_factory=dict)
    positions: NDArray[np.float64] | None = None
    centres: tuple[int, ...] = ()

    def fits(self, output: NDArray[Any]) -> tuple[str, ...]:
        """Name the hypotheses that an output fits; none where it has another shape or a NaN."""
        return tuple(
            name for name, predicted in self.predictions.items() if self._is_fit(output, predicted)
        )

    def measured(self, output: NDArray[Any]) -> dict[str, Any]:
        """Say where the crop begins, or how far each place has drifted.

        Returns
        -------
        dict
            ``origin``: per axis where the crop of a transposed convolution begins, None if
            nowhere. ``drift_px``: of a resize, per channel ``[position, displacement]`` of the
            content in output pixels, positive where it sits too near to the start.
        """
        if self.positions is None:
            found = [each for each, y in self.origins.items() if self._is_fit(output, y)]
            return {"origin": list(found[0]) if len(found) == 1 else None}
        return {"drift_px": [] if self.region is None else [*self._drifts(output, self.positions)]}

    def values(self, output: NDArray[Any]) -> list[Any]:
        """Give what is compared of an output, as nested lists: all of it, or a row per channel."""
        if self.region is None or output.shape != self.region.shape:
            return [output.tolist()]
        channels = zip(output[0, :, 0], self.region[0, :, 0], strict=True)
        return [row[is_compared].tolist() for row, is_compared in channels]

    def _is_fit(self, output: NDArray[Any], predicted: NDArray[np.float64]) -> bool:
        if output.shape != predicted.shape:
            return False
        error = np.abs(output.astype(np.float64) - predicted)
        return bool(
            np.all((error if self.region is None else error[self.region]) <= self.tolerance)
        )

    def _drifts(
        self, output: NDArray[Any], positions: NDArray[np.float64]
    ) -> list[list[float | None]]:
        scale = (len(positions) - 1) / positions[-1]
        drifts: list[list[float | None]] = []
        if self.region is None or output.shape != self.region.shape:
            return drifts
        for channel, centre in enumerate(self.centres):
            compared = self.region[0, channel, 0]
            found = output[0, channel][:, compared].astype(np.float64) + centre
            drift = float(np.mean(found - positions[compared]) * scale)
            drifts.append([centre * scale, drift if np.isfinite(drift) else None])
        return drifts


def _transposed(
    x: NDArray[np.float64], weight: NDArray[np.float64], stride: int
) -> NDArray[np.float64]:
    """Give the un-cropped transposed convolution of (channels, *space) by its definition."""
    kernel = weight.shape[2:]
    lengths = x.shape[1:]
    full = np.zeros(
        (weight.shape[1], *((n - 1) * stride + k for n, k in zip(lengths, kernel, strict=True)))
    )
    for tap in np.ndindex(kernel):
        places: Any = [
            slice(first, first + (n - 1) * stride + 1, stride)
            for first, n in zip(tap, lengths, strict=True)
        ]
        weights = weight[:, :, *tap]
        full[:, *places] += np.tensordot(weights.T, x, axes=1)
    return full


def _cropped(
    full: NDArray[np.float64], begin: int | Sequence[int], size: Sequence[int], *, drop: int = 0
) -> NDArray[np.float64]:
    """Take `size` positions from `begin` on; zeros past the end, or past `drop` before it."""
    result = np.zeros((1, full.shape[0], *size))
    begins = [begin] * len(size) if isinstance(begin, int) else begin
    ends = [min(n - drop, b + m) for n, b, m in zip(full.shape[1:], begins, size, strict=True)]
    kept: Any = tuple(slice(b, max(b, e)) for b, e in zip(begins, ends, strict=True))
    places: Any = tuple(slice(0, each.stop - each.start) for each in kept)
    result[0, :, *places] = full[:, *kept]
    return result


def _crop_probe(
    question: str,
    source: str,
    x: NDArray[np.float64],
    weight: NDArray[np.float64],
    *,
    stride: int,
    pads: tuple[int, int] | None,
) -> Probe:
    """Ask which part of the un-cropped result is kept; of ``valid`` convolutions without pads."""
    rank = weight.ndim - 2
    full = _transposed(x, weight, stride)
    flipped = _transposed(x, np.flip(weight, axis=tuple(range(2, 2 + rank))), stride)
    front, back = pads or (0, 0)
    surplus = front + back if pads else 2
    size = [length - surplus for length in full.shape[1:]]
    origin = front if pads else surplus // 2
    predictions = {"correct": _cropped(full, origin, size), "pads-ignored": _cropped(full, 0, size)}
    if pads:
        widest = max(pads)
        predictions |= {
            "pads-swapped": _cropped(full, back, size),
            "pads-halved": _cropped(full, surplus // 2, size),
            "pads-symmetric": _cropped(full, widest, size, drop=widest),
        }
    else:
        predictions["from-the-end"] = _cropped(full, surplus, size)
    predictions["kernel-flipped"] = _cropped(flipped, origin, size)
    if stride > 1:
        predictions["stride-collapsed"] = _cropped(_transposed(x, weight, 1), origin, size)
    parameters: dict[str, Any] = {
        "weight": weight.astype(np.float32),
        "strides": [stride] * rank,
        "pad_type": "custom" if pads else "valid",
        "output_shape": [1, weight.shape[1], *size],
    }
    if pads:
        parameters["pad"] = [*pads] * rank
    return Probe(
        question,
        source,
        setting={"pads": list(pads)} if pads else {"output_shape": parameters["output_shape"]},
        operation="conv_transpose",
        parameters=parameters,
        sample=x[np.newaxis].astype(np.float32),
        predictions=predictions,
        tolerance=_CROP_TOLERANCE * float(np.abs(full).max()),
        origins={
            begin: _cropped(full, begin, size)
            for begin in itertools.product(range(surplus + 1), repeat=rank)
        },
    )


def _resize_probe(width: int) -> Probe:
    """Ask where a wide resize with aligned corners looks, by ramps about five places.

    A constant that normalises coordinates and is held in fp16 makes them grow by a factor, from
    one end on; coordinates held in fp16 make them jump.
    """
    n_input = (width + 1) // 2
    last = n_input - 1
    centres = tuple(
        # As far from the ends as the ramps go, so that what drifts stays inside.
        round(_REACH + part * (last - 2 * _REACH))
        for part in (0.0, 0.25, 0.5, 0.75, 1.0)
    )
    results = np.arange(width, dtype=np.float64)
    step = last / (width - 1)

    def ramps(places: NDArray[np.float64]) -> NDArray[np.float64]:
        inside = np.clip(places, 0, last)
        rows = np.stack([np.clip(inside - centre, -_REACH, _REACH) for centre in centres])
        return np.repeat(rows[np.newaxis, :, np.newaxis], 2, axis=2)

    def grown(constant: float, *, from_end: bool = False) -> NDArray[np.float64]:
        growth = float(np.float16(constant)) / constant - 1
        moved = results + (results - (width - 1) if from_end else results) * growth
        return ramps(moved * step)

    with np.errstate(over="ignore"):
        in_fp16 = (results * step).astype(np.float16).astype(np.float64)
    reciprocal, ratio = 1 / (width - 1), width / (width - 1)
    correct = ramps(results * step)
    return Probe(
        "resize",
        "microsoft/onnxruntime #21170",
        setting={"width": width},
        operation="resize_bilinear",
        parameters={
            "target_size_height": 2,
            "target_size_width": width,
            "sampling_mode": "STRICT_ALIGN_CORNERS",
        },
        sample=ramps(np.arange(n_input, dtype=np.float64)).astype(np.float32),
        predictions={
            "correct": correct,
            "reciprocal-in-fp16": grown(reciprocal),
            "ratio-in-fp16": grown(ratio),
            "reciprocal-in-fp16-from-end": grown(reciprocal, from_end=True),
            "ratio-in-fp16-from-end": grown(ratio, from_end=True),
            "coordinates-in-fp16": ramps(in_fp16),
        },
        tolerance=_RESIZE_TOLERANCE,
        region=np.abs(correct) <= _REACH / 2,
        positions=results * step,
        centres=centres,
    )


def _probes() -> tuple[Probe, ...]:
    # The first open question asks for these values: every crop of them is unlike every other.
    line = np.array([[1.0, 2.0, 3.0, 4.0]])
    taps = np.array([[[1.0, 10.0, 100.0], [2.0, 3.0, 5.0]]])
    # The ones of the report tell no crop from another away from the border.
    plane = np.arange(1.0, 17.0).reshape(1, 4, 4) + np.arange(3.0).reshape(3, 1, 1)
    window = np.eye(3)[:, :, None, None] * np.arange(1.0, 10.0).reshape(3, 3)
    one, two = "apple/coremltools #2324", "apple/coremltools #2281"
    return (
        *(_crop_probe("crop-1d", one, line, taps, stride=2, pads=pads) for pads in _PADS),
        *(_crop_probe("crop-2d", two, plane, window, stride=1, pads=pads) for pads in _PADS),
        _crop_probe("crop-valid", two, plane, window, stride=1, pads=None),
        *(_resize_probe(width) for width in _WIDTHS),
    )


PROBES = _probes()
"""What `convcal.probing` asks."""
