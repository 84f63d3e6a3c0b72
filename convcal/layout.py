# SPDX-License-Identifier: BSD-3-Clause
"""Which axes of an output are batch, channels and space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import numpy as np

from convcal.errors import InputError

__all__ = ["Layout", "OutputAxes", "excess", "without_excess"]


@dataclass(frozen=True)
class Layout:
    """Say which axes of an output are not spatial.

    Parameters
    ----------
    batch_axis : int or None
        The axis of independent samples inside one output; None where there is none.
    channel_axis : int or None
        The axis of channels; None where there is none. All other axes are spatial.
    """

    batch_axis: int | None = 0
    channel_axis: int | None = 1

    @classmethod
    def of(cls, array: np.ndarray[Any, Any], *, kind: str | None = None) -> Layout:
        """Give the usual layout of an output as Core ML gives it.

        Parameters
        ----------
        array : ndarray
            One output for one sample.
        kind : {'tensor', 'image'}, optional
            What the model says it is. Where no model says it, uint8 arrays of two or three axes
            are taken for images.

        Returns
        -------
        Layout
            Images, (H, W, channels) or (H, W), have no batch axis. Other outputs have the batch
            on axis 0 and the channels on axis 1; a vector is all channels, a scalar has neither.
        """
        is_picture = array.dtype == np.uint8 and array.ndim in (2, 3)
        if kind == "image" or (kind is None and is_picture):
            return cls(None, 2 if array.ndim == 3 else None)
        if array.ndim < 2:
            return cls(None, 0 if array.ndim else None)
        return cls()

    def check(self, shape: Sequence[int]) -> None:
        """Raise InputError where the axes do not exist in `shape`, or are the same one."""
        axes = [axis for axis in (self.batch_axis, self.channel_axis) if axis is not None]
        if any(isinstance(axis, bool) or not isinstance(axis, Integral) for axis in axes):
            raise InputError(
                f"batch axis {self.batch_axis!r} and channel axis {self.channel_axis!r} are not "
                "both whole numbers; whole numbers or None are accepted"
            )
        if len(set(axes)) < len(axes) or any(not 0 <= axis < len(shape) for axis in axes):
            raise InputError(
                f"batch axis {self.batch_axis} and channel axis {self.channel_axis} do not fit "
                f"the shape {tuple(shape)}; different axes from 0 to {len(shape) - 1}, "
                "or none, are accepted"
            )

    def spatial_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Give the sizes of the spatial axes of an output of that shape."""
        return tuple(
            size
            for axis, size in enumerate(shape)
            if axis not in (self.batch_axis, self.channel_axis)
        )

    def canonical(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """View an output as (batch, channels, *space).

        Parameters
        ----------
        array : ndarray
            One output for one sample.

        Returns
        -------
        ndarray
            A view with the batch on axis 0 and the channels on axis 1, of size 1 where the
            output has no such axis.
        """
        self.check(array.shape)
        axes = [axis for axis in (self.batch_axis, self.channel_axis) if axis is not None]
        moved = np.moveaxis(array, axes, range(len(axes)))
        if self.channel_axis is None:
            moved = np.expand_dims(moved, len(axes))
        return moved if self.batch_axis is not None else moved[np.newaxis]


@dataclass(frozen=True)
class OutputAxes:
    """Which axes of outputs are stated; all others are as `Layout.of` says.

    Parameters
    ----------
    batch, channel : mapping of str or None to int or None
        By output name the axis, None where the output has none. The name None stands for all
        outputs that are not named.
    """

    batch: Mapping[str | None, int | None] = field(default_factory=dict)
    channel: Mapping[str | None, int | None] = field(default_factory=dict)

    def __iter__(self) -> Iterator[str]:
        return iter({name for name in (*self.batch, *self.channel) if name is not None})

    def layout(self, name: str, array: np.ndarray[Any, Any], *, kind: str | None = None) -> Layout:
        """Give the layout of one output.

        Parameters
        ----------
        name : str
            The output's name.
        array : ndarray
            The output for one sample.
        kind : {'tensor', 'image'}, optional
            What the model says it is.

        Returns
        -------
        Layout
            Not checked against the array.
        """
        usual = Layout.of(array, kind=kind)
        return Layout(
            self.batch.get(name, self.batch.get(None, usual.batch_axis)),
            self.channel.get(name, self.channel.get(None, usual.channel_axis)),
        )


def excess(reference: tuple[int, ...], observed: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Give what an observed output has too much at the start and the end of each spatial axis.

    An output that is longer than its reference holds it first and something spurious behind
    (apple/coreai-torch #57): all that is too much is at the end.

    Parameters
    ----------
    reference, observed : tuple of int
        Shapes (N, channels, *space).

    Returns
    -------
    tuple of (int, int)
        One per spatial axis; zeros where the shapes are the same.

    Raises
    ------
    InputError
        If the shapes differ in more than that, or the observed output is shorter: nothing brings
        back what it lacks.
    """
    pairs = list(zip(reference[2:], observed[2:], strict=False))
    if reference[:2] != observed[:2] or len(reference) != len(observed):
        raise InputError(
            f"reference has shape {reference} and observed {observed}; they must be the same, but "
            "for observed outputs that are too long in space"
        )
    if any(size < wanted for wanted, size in pairs):
        raise InputError(
            f"reference has shape {reference} and observed {observed}: it is shorter, and nothing "
            "brings back what it lacks; outputs of the same shape or longer are accepted"
        )
    return tuple((0, size - wanted) for wanted, size in pairs)


def without_excess(array: np.ndarray[Any, Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Give the part of an observed output (N, channels, *space) that a reference has, too."""
    return array[(slice(None), slice(None), *(slice(size) for size in shape[2:]))]
