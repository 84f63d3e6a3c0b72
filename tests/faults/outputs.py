# SPDX-License-Identifier: BSD-3-Clause
"""Outputs to be distorted, and what fp16 makes of them."""

import numpy as np


def output(*shape, dtype="float32", seed=0):
    """Draw a normal output."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def to_half(values):
    """Round to fp16."""
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(np.float16)


def wave(*shape):
    """Give an output so smooth that cubic interpolation is exact to 1e-4, and no period fits."""
    grids = np.meshgrid(*(np.arange(size) for size in shape), indexing="ij")
    phase = sum(0.11 * (axis + 1) ** 0.5 * grid for axis, grid in enumerate(grids))
    return np.sin(phase)[np.newaxis, np.newaxis]
