# SPDX-License-Identifier: BSD-3-Clause
"""Corrections for outputs of every rank and layout."""

import numpy as np

from convcal import AxisFilter, Correction, SincFilter

# Shape of the output, batch axis, channel axis.
LAYOUTS = {
    "rank1": ((9,), None, None),
    "rank2-affine": ((2, 5), 0, 1),
    "rank2-map": ((7, 9), None, None),
    "rank2-batched-line": ((2, 9), 0, None),
    "rank2-channels-line": ((3, 9), None, 0),
    "rank3-1d": ((2, 3, 9), 0, 1),
    "rank3-map": ((1, 7, 9), 0, None),
    "rank3-image": ((3, 7, 9), None, 0),
    "rank3-channels-last": ((7, 9, 3), None, 2),
    "rank4-2d": ((2, 3, 7, 9), 0, 1),
    "rank4-channels-last": ((1, 7, 9, 3), 0, 3),
    "rank4-volume": ((1, 6, 7, 9), 0, None),
    "rank4-batch-inside": ((3, 2, 7, 9), 1, 0),
    "rank5-3d": ((1, 2, 6, 7, 9), 0, 1),
    "rank5-3d-channels-last": ((1, 6, 7, 9, 2), 0, 4),
}

# Per axis: whole pixels both ways, and fractions whose taps lie on one side, astride and behind.
WHOLE = [AxisFilter(2), AxisFilter(-1), AxisFilter(3)]
FRACTIONAL = [
    AxisFilter(-1, (-0.0625, 0.5625, 0.5625, -0.0625)),
    AxisFilter(2, (0.3, 0.7)),
    AxisFilter(-4, (0.25, 0.75)),
]
# One stretched, one moved, one squeezed, where there are as many axes; and with a fraction.
SCALED = [SincFilter(4), AxisFilter(1), SincFilter(6)]
SCALED_MIXED = [AxisFilter(2, (0.3, 0.7)), SincFilter(4), AxisFilter(-1)]
SCALES = [1.07, 1.05, 0.8]
ORIGINS = [1.5, 0.0, -2.0]
MIXED = [AxisFilter(0, (0.4, 0.6)), AxisFilter(1), AxisFilter(-2)]


def correction_of(layout, kind, *, dtype="float32", affine=True):
    """Give a correction of one kind for one of the layouts."""
    shape, batch_axis, channel_axis = LAYOUTS[layout]
    axes = [axis for axis in range(len(shape)) if axis not in (batch_axis, channel_axis)]
    filters = tuple(kind[: len(axes)])
    n_channels = 1 if channel_axis is None else shape[channel_axis]
    channels = np.arange(n_channels)
    sinc = [isinstance(item, SincFilter) for item in filters]
    return Correction(
        spatial_shape=tuple(shape[axis] for axis in axes),
        dtype=dtype,
        shift=tuple(0.6 if isinstance(item, SincFilter) else -item.offset for item in filters),
        filters=filters,
        scale=tuple(SCALES[axis] if used else 1.0 for axis, used in enumerate(sinc)),
        origin=tuple(ORIGINS[axis] if used else 0.0 for axis, used in enumerate(sinc)),
        gain=tuple((1.0 + 0.013 * (channels + 1)).tolist()) if affine else (1.0,) * n_channels,
        bias=tuple((0.1 - 0.07 * channels).tolist()) if affine else (0.0,) * n_channels,
        batch_axis=batch_axis,
        channel_axis=channel_axis,
    )
