# SPDX-License-Identifier: BSD-3-Clause
"""Which part of the un-cropped result a ``conv_transpose`` keeps, where MIL leaves it open too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from convcal.coreml.parameters import static_shape, text
from convcal.errors import UnsupportedModelError

if TYPE_CHECKING:
    from convcal.coreml.program import Operation

__all__ = ["Crop", "crop_of"]


@dataclass(frozen=True)
class Crop:
    """Which part of the un-cropped result a transposed convolution keeps, per spatial axis.

    Parameters
    ----------
    full : tuple of int
        Lengths of the un-cropped result, ``(length - 1) * stride + (kernel - 1) * dilation + 1``.
    size : tuple of int
        Lengths of the result.
    begin : tuple of int
        Where the result begins in the un-cropped one. Positions past its end hold the bias
        alone (zero without one), as those of PyTorch's ``output_padding`` do.
    natural : tuple of int
        Lengths that pads, strides and kernel make without an ``output_shape``.
    is_regular : bool
        Whether the pads are equal in front and at the back on every axis, and the result is as
        long as pads, strides and kernel make it: the case that no device is known to get wrong.
    """

    full: tuple[int, ...]
    size: tuple[int, ...]
    begin: tuple[int, ...]
    natural: tuple[int, ...]
    is_regular: bool

    @property
    def back(self) -> tuple[int, ...]:
        """How much lies behind the result; negative where it reaches past the un-cropped one."""
        return tuple(
            full - begin - size
            for full, begin, size in zip(self.full, self.begin, self.size, strict=True)
        )


def crop_of(operation: Operation) -> Crop:
    """Work out which part of the un-cropped result a ``conv_transpose`` keeps.

    Notes
    -----
    With P the un-cropped length less that of the result, at least 0, the result begins

    - ``custom``: at the pad in front, whatever ``output_shape`` says;
    - ``valid``: at 0, and at floor(P/2) if ``output_shape`` makes it shorter, as in ONNX;
    - ``same``: at floor(P/2) (``same_lower``: ceil), with ``length * stride`` positions unless
      ``output_shape`` says otherwise: the transpose of a ``same`` convolution.

    Raises
    ------
    UnsupportedModelError
        If the lengths are not known before the program runs, or the ``pad_type`` is unknown.
    """
    lengths = static_shape(operation.tensor("x"))[2:]
    kernel = static_shape(operation.tensor("weight"))[2:]
    rank = len(kernel)
    strides = operation.integers("strides") or (1,) * rank
    dilations = operation.integers("dilations") or (1,) * rank
    for name, values in (("x", lengths), ("strides", strides), ("dilations", dilations)):
        if len(values) != rank or min(values, default=1) < 1:
            raise UnsupportedModelError(
                f"'{name}' has {values} along the spatial axes, and {rank} numbers of at least 1 "
                "belong there"
            )
    full = tuple(
        (length - 1) * stride + (taps - 1) * dilation + 1
        for length, stride, taps, dilation in zip(lengths, strides, kernel, dilations, strict=True)
    )
    pad_type = text(operation, "pad_type", default="valid")
    fronts = backs = (0,) * rank
    natural = full
    if pad_type == "custom":
        pads = operation.integers("pad") or (0,) * (2 * rank)
        if len(pads) != 2 * rank or min(pads) < 0:
            raise UnsupportedModelError(
                f"'pad' is {pads}, and {2 * rank} numbers of at least 0 belong there"
            )
        fronts, backs = pads[0::2], pads[1::2]
        natural = tuple(f - p - q for f, p, q in zip(full, fronts, backs, strict=True))
    elif pad_type in ("same", "same_lower"):
        natural = tuple(length * s for length, s in zip(lengths, strides, strict=True))
    elif pad_type != "valid":
        raise UnsupportedModelError(f"the pad_type '{pad_type}' is not one of MIL's")

    shape = operation.integers("output_shape")
    size = natural if shape is None else shape[2:]
    if len(size) != rank or min(size, default=1) < 1:
        raise UnsupportedModelError(
            f"the result has {size} positions along the spatial axes, and {rank} numbers of at "
            "least 1 belong there"
        )
    surplus = tuple(max(0, f - n) for f, n in zip(full, size, strict=True))
    if pad_type == "custom":
        begin = fronts
    elif pad_type == "same_lower":
        begin = tuple(p - p // 2 for p in surplus)
    else:
        begin = tuple(p // 2 for p in surplus)
    return Crop(full, size, begin, natural, is_regular=fronts == backs and size == natural)
