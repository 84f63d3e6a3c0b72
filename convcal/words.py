# SPDX-License-Identifier: BSD-3-Clause
"""The words that an argument may be; imports nothing, so that parsing them costs nothing."""

__all__ = ["COMPUTE_UNITS", "MODELS", "PRECISIONS", "ROLES", "RUNTIMES"]

COMPUTE_UNITS = ("all", "cpu-only", "cpu-and-gpu", "cpu-and-ne")
MODELS = (
    "identity",
    "shift",
    "affine",
    "shift-affine",
    "subpixel-shift",
    "subpixel-shift-affine",
)
"""Kinds of correction, the simplest first. A ``shift`` is of whole pixels."""
PRECISIONS = ("float32", "output")
ROLES = ("reference", "observed")
RUNTIMES = ("auto", "coreml", "reference")
