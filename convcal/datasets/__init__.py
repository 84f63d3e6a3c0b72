# SPDX-License-Identifier: BSD-3-Clause
"""Pairs of outputs whose error is known, to test estimators with and to learn from.

The pairs are not circular: both outputs are windows cut out of one larger scene, so that new
content enters at the borders as it does on a device.
"""

from convcal.datasets.contents import CONTENTS, Content
from convcal.datasets.pairs import RESAMPLINGS, Pair, Resampling, make_pair

__all__ = ["CONTENTS", "RESAMPLINGS", "Content", "Pair", "Resampling", "make_pair"]
