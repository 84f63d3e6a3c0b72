# SPDX-License-Identifier: BSD-3-Clause
"""What a model takes and gives: names, kinds, shapes and dtypes, without the model itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from convcal.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Feature", "ModelDescription"]

_MAX_ALTERNATIVES = 10


@dataclass(frozen=True)
class Feature:
    """One input or output of a model, as its caller sees it.

    Parameters
    ----------
    name : str
        The name in the package.
    kind : {"tensor", "image"}
        An image is exchanged as (H, W, 3) RGB or (H, W) grey arrays.
    shape : tuple of int
        The shape of the array that is exchanged: of a tensor as the package states it, of an
        image (H, W, 3) or (H, W). Flexible shapes give their default, and -1 where the package
        leaves a length open.
    dtype : str
        ``"float32"``, ``"float16"``, ``"int32"`` or, of images, ``"uint8"``.
    is_flexible : bool
        Whether other shapes than `shape` are accepted.
    colour : {"RGB", "BGR", "GRAYSCALE"}, optional
        How the package stores an image; callers always see RGB or grey. None for tensors.
    layout : str
        Axis letters of an image, ``"HWC"`` or ``"HW"``. Empty for tensors: Core ML does not say.
    allowed : tuple of tuple of (int, int or None)
        Of a flexible input the shapes that are accepted: alternatives, each with the least and
        the greatest length of every axis; None stands for no limit. Empty where nothing is
        stated: any lengths.
    default : float, optional
        What an input is filled with, in `shape`, where a sample lacks it. None if it must be
        there.
    labels : tuple of str or int
        Of a classifier's table of probabilities, which is exchanged as a vector, the classes in
        the vector's order. Empty for everything else.
    """

    name: str
    kind: Literal["tensor", "image"]
    shape: tuple[int, ...]
    dtype: str
    is_flexible: bool = False
    colour: str | None = None
    layout: str = ""
    allowed: tuple[tuple[tuple[int, int | None], ...], ...] = ()
    default: float | None = None
    labels: tuple[str | int, ...] = ()

    def accepts(self, shape: Sequence[int]) -> bool:
        """Say whether an array of this shape can be exchanged."""
        if not self.is_flexible:
            return tuple(shape) == self.shape
        if len(shape) != len(self.shape) or 0 in shape:
            return False
        if self.layout == "HWC" and shape[2] != 3:
            return False
        return not self.allowed or any(
            all(
                low <= length and (high is None or length <= high)
                for length, (low, high) in zip(shape, limits, strict=True)
            )
            for limits in self.allowed
        )

    @property
    def accepted(self) -> str:
        """The shapes that are accepted, in words: ``'(1, 3, 4 to 64)'``."""
        if not self.is_flexible:
            return str(self.shape)
        if not self.allowed:
            return f"{self.shape} or as flexible as that"
        alternatives = [
            f"({', '.join(_range(*limit) for limit in limits)}{',' * (len(limits) == 1)})"
            for limits in self.allowed
        ]
        more = " or …" if len(alternatives) > _MAX_ALTERNATIVES else ""
        return " or ".join(alternatives[:_MAX_ALTERNATIVES]) + more

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """The shape of the tensor that the program sees for an array of this shape."""
        if self.kind == "tensor":
            return self.shape
        channels = self.shape[2] if len(self.shape) == 3 else 1
        return (1, channels, *self.shape[:2])

    def __str__(self) -> str:
        lengths = (str(length) if length >= 0 else "?" for length in self.shape)
        size = "x".join(lengths) or "scalar"
        details = [f"{self.colour} image" if self.kind == "image" else "", self.dtype, size]
        if self.is_flexible:
            details.append("flexible")
        if self.default is not None:
            details.append("optional")
        return f"'{self.name}' ({' '.join(detail for detail in details if detail)})"


@dataclass(frozen=True)
class ModelDescription:
    """The inputs and outputs of a model, in the package's order.

    Parameters
    ----------
    inputs, outputs : tuple of Feature
        In the order of the package's description.
    states : tuple of Feature
        What the model keeps from one run to the next, if the caller lets it.
    """

    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    states: tuple[Feature, ...] = ()

    @property
    def input_names(self) -> tuple[str, ...]:
        """The names of the inputs, in order."""
        return tuple(feature.name for feature in self.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the outputs, in order."""
        return tuple(feature.name for feature in self.outputs)

    @property
    def output_kinds(self) -> dict[str, str]:
        """By name whether an output is a ``"tensor"`` or an ``"image"``, in order."""
        return {feature.name: feature.kind for feature in self.outputs}

    def input(self, name: str) -> Feature:
        """Find an input by name.

        Raises
        ------
        InputError
            If there is none; the message lists those that there are.
        """
        return _find(self.inputs, name, role="input")

    def output(self, name: str) -> Feature:
        """Find an output by name.

        Raises
        ------
        InputError
            If there is none; the message lists those that there are.
        """
        return _find(self.outputs, name, role="output")

    def __str__(self) -> str:
        text = f"inputs: {_listing(self.inputs)}; outputs: {_listing(self.outputs)}"
        return f"{text}; states: {_listing(self.states)}" if self.states else text


def _range(low: int, high: int | None) -> str:
    if high is None:
        return f"{low} or more"
    return str(low) if low == high else f"{low} to {high}"


def _listing(features: Sequence[Feature]) -> str:
    return ", ".join(str(feature) for feature in features) or "none"


def _find(features: Sequence[Feature], name: str, *, role: str) -> Feature:
    for feature in features:
        if feature.name == name:
            return feature
    msg = f"the model has no {role} '{name}'; its {role}s are {_listing(features)}"
    raise InputError(msg)
