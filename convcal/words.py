# SPDX-License-Identifier: BSD-3-Clause
"""The words and limits of arguments; imports nothing, so that parsing them costs nothing."""

__all__ = [
    "AXES",
    "COMPUTE_UNITS",
    "MEMORY",
    "MODELS",
    "PRECISIONS",
    "ROLES",
    "RUNTIMES",
    "STRATEGIES",
    "TIMEOUT",
    "TIMEOUT_MAX",
]

_PICTURE = (("row", "top", "bottom"), ("column", "left", "right"))
AXES = {
    0: (),
    1: (("sample", "start", "end"),),
    2: _PICTURE,
    3: (("plane", "front", "back"), *_PICTURE),
}
"""By how many spatial axes an output has: what the positions of each are called, and its ends."""

COMPUTE_UNITS = ("all", "cpu-only", "cpu-and-gpu", "cpu-and-ne")
MEMORY = 2 << 30
"""Bytes that the tensors of one sample may take in a diagnosis."""
MODELS = (
    "identity",
    "shift",
    "affine",
    "shift-affine",
    "subpixel-shift",
    "subpixel-shift-affine",
    "scale",
    "scale-affine",
    "row-stride",
    "row-stride-affine",
)
"""Kinds of correction, the simplest first. A ``shift`` is of whole pixels; a ``scale`` moves each
position by another amount, a ``row-stride`` puts rows right that were read without padding."""
PRECISIONS = ("float32", "output")
ROLES = ("reference", "observed")
RUNTIMES = ("auto", "coreml", "reference")
STRATEGIES = ("explicit-crop", "zero-insertion", "subpixel", "fp32-island")
TIMEOUT = 300.0
TIMEOUT_MAX = 1e6
"""Seconds that Core ML gets for loading a model, or for one sample."""
