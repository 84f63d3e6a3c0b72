# SPDX-License-Identifier: BSD-3-Clause
"""Hypothesis strategies for convcal's records."""

from hypothesis import strategies as st

from convcal import AxisFilter, Calibration, Correction, OutputCalibration, SincFilter

finite = st.floats(allow_nan=False, allow_infinity=False)
small = st.floats(-100, 100, width=32)


@st.composite
def corrections(draw, numbers=finite, max_spatial=3, max_size=40, *, crops=None):
    """Draw any correction that can be written down, or one that crops (or does not, as asked)."""
    n_spatial = draw(st.integers(1 if crops else 0, max_spatial))
    axes = draw(st.permutations(range(n_spatial + 2)))
    batch_axis, channel_axis = draw(st.sampled_from([(0, 1), (0, None), (None, 0), (None, None)]))
    if (batch_axis, channel_axis) == (0, 1):
        batch_axis, channel_axis = axes[0], axes[1]
    n_channels = 1 if channel_axis is None else draw(st.integers(1, 4))
    spatial_shape = [draw(st.integers(1, max_size)) for _ in range(n_spatial)]
    if crops is None:
        crops = draw(st.booleans())
    crop = tuple((axis, 2 - axis) for axis in range(n_spatial)) if crops else ()
    row_stride = None
    if not crop and n_spatial > 1 and (batch_axis, channel_axis) != (0, 1) and draw(st.booleans()):
        # Where nothing but rows at the end is lost.
        batch_axis, channel_axis = draw(st.sampled_from([(0, 1), (0, None), (None, None)]))
        n_channels = 1
        spatial_shape[:-2] = [1] * (n_spatial - 2)
        row_stride = spatial_shape[-1] + draw(st.integers(1, 20))
    filters, shift, scale, origin = [], [], [], []
    for _ in range(n_spatial):
        kind = draw(st.sampled_from(["whole", "taps", "sinc"]))
        scale.append(draw(st.floats(0.5, 2).filter(lambda x: x != 1)) if kind == "sinc" else 1.0)
        origin.append(draw(st.floats(-50, 50)) if kind == "sinc" else 0.0)
        if kind == "sinc":
            filters.append(SincFilter(2 * draw(st.integers(1, 8)), draw(st.floats(0, 12))))
            shift.append(draw(st.floats(-9, 9)))
        elif kind == "whole":
            offset = draw(st.integers(-50, 50))
            filters.append(AxisFilter(offset))
            shift.append(float(-offset))
        else:
            taps = tuple(draw(st.lists(numbers, min_size=2, max_size=5)))
            offset = draw(st.integers(-9, 9))
            filters.append(AxisFilter(offset, taps))
            shift.append(-draw(st.floats(offset, offset + len(taps) - 1)))
    return Correction(
        spatial_shape=tuple(spatial_shape),
        dtype=draw(st.sampled_from(["float16", "float32", "float64"])),
        shift=tuple(shift),
        filters=tuple(filters),
        gain=tuple(draw(numbers) for _ in range(n_channels)),
        bias=tuple(draw(numbers) for _ in range(n_channels)),
        batch_axis=batch_axis,
        channel_axis=channel_axis,
        scale=tuple(scale),
        origin=tuple(origin),
        crop=crop,
        row_stride=row_stride,
    )


@st.composite
def calibrations(draw, numbers=finite):
    """Draw any calibration, under any names."""
    names = draw(st.lists(st.text(max_size=12), min_size=1, max_size=3, unique=True))
    outputs = {
        name: OutputCalibration(
            verdict=draw(st.sampled_from(["identical", "correctable", "not-correctable"])),
            reason=draw(st.text(max_size=20)),
            family="shift",
            correction=draw(corrections(numbers)),
            evidence={"peak_ratio": draw(finite)},
            metrics={},
        )
        for name in names
    }
    emulated = draw(st.booleans())
    faults = [draw(st.text(max_size=20))] if emulated else []
    provenance = {
        "emulated": emulated,
        "faults": faults,
        "reference": {},
        "observed": {},
        "data": {},
    }
    return Calibration(outputs, provenance)


def observed_shape(correction, *, n_batch=1):
    """Give the shape that a correction expects of the observed output."""
    lengths = zip(correction.spatial_shape, correction.crop, strict=True)
    sizes = iter(size + start + end for size, (start, end) in lengths)
    axes = (correction.batch_axis, correction.channel_axis)
    n_axes = len(correction.spatial_shape) + sum(axis is not None for axis in axes)
    return tuple(
        n_batch if axis == axes[0] else correction.n_channels if axis == axes[1] else next(sizes)
        for axis in range(n_axes)
    )
