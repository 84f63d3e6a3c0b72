# SPDX-License-Identifier: BSD-3-Clause
"""Hypothesis strategies for convcal's records."""

from hypothesis import strategies as st

from convcal import AxisFilter, Calibration, Correction, OutputCalibration

finite = st.floats(allow_nan=False, allow_infinity=False)
small = st.floats(-100, 100, width=32)


@st.composite
def corrections(draw, numbers=finite, max_spatial=3, max_size=40):
    """Draw any correction that can be written down."""
    n_spatial = draw(st.integers(0, max_spatial))
    axes = draw(st.permutations(range(n_spatial + 2)))
    batch_axis, channel_axis = draw(st.sampled_from([(0, 1), (0, None), (None, 0), (None, None)]))
    if (batch_axis, channel_axis) == (0, 1):
        batch_axis, channel_axis = axes[0], axes[1]
    n_channels = 1 if channel_axis is None else draw(st.integers(1, 4))
    filters, shift = [], []
    for _ in range(n_spatial):
        if draw(st.booleans()):
            offset = draw(st.integers(-50, 50))
            filters.append(AxisFilter(offset))
            shift.append(float(-offset))
        else:
            taps = tuple(draw(st.lists(numbers, min_size=2, max_size=5)))
            offset = draw(st.integers(-9, 9))
            filters.append(AxisFilter(offset, taps))
            shift.append(-draw(st.floats(offset, offset + len(taps) - 1)))
    return Correction(
        spatial_shape=tuple(draw(st.integers(1, max_size)) for _ in range(n_spatial)),
        dtype=draw(st.sampled_from(["float16", "float32", "float64"])),
        shift=tuple(shift),
        filters=tuple(filters),
        gain=tuple(draw(numbers) for _ in range(n_channels)),
        bias=tuple(draw(numbers) for _ in range(n_channels)),
        batch_axis=batch_axis,
        channel_axis=channel_axis,
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
