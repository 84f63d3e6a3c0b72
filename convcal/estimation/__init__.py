# SPDX-License-Identifier: BSD-3-Clause
"""Estimation of what is wrong with an output: arrays in, numbers out."""

from convcal.estimation.estimate import Estimate, estimate
from convcal.estimation.metrics import Metrics, measure, measure_channels
from convcal.estimation.pooled import estimate_statistics
from convcal.estimation.statistics import OutputStatistics

__all__ = [
    "Estimate",
    "Metrics",
    "OutputStatistics",
    "estimate",
    "estimate_statistics",
    "measure",
    "measure_channels",
]
