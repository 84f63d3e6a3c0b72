# SPDX-License-Identifier: BSD-3-Clause
"""What every fault is: a name, parameters, and for those of arrays a transform."""

from __future__ import annotations

import dataclasses
import operator
import re
import zlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from convcal.errors import InputError

__all__ = ["KINDS", "ArrayFault", "Fault", "as_device", "as_dtype", "filling", "moments"]

KINDS = {
    "float": "a number",
    "int": "a whole number",
    "int | None": "a whole number",
    "tuple[int, ...]": "whole numbers separated by slashes",
    "tuple[float, ...]": "numbers separated by slashes",
    "tuple[str, ...]": "words separated by slashes",
    "tuple[str, ...] | None": "words separated by slashes",
}
"""What the types of parameters are called; all others are words."""


@dataclass(frozen=True)
class Fault:
    """A known way in which hardware distorts outputs, with its parameters.

    ``str(fault)`` gives the text that `parse_fault` takes.

    Parameters
    ----------
    at : str, optional
        Where inside the network it acts: the name of a tensor or of an operation, or several
        separated by slashes. By default where its class says.
    """

    name: ClassVar[str]
    at: str | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if (kind := str(field.type)) in KINDS:
                value = getattr(self, field.name)
                try:
                    object.__setattr__(self, field.name, _of_kind(value, kind))
                except (TypeError, ValueError):
                    self._require(field.name, KINDS[kind], accepted=False)
        seed = getattr(self, "seed", None)
        self._require("seed", "at least 0", accepted=seed is None or seed >= 0)
        # What the text of faults is made of cannot be part of a name in it.
        is_names = self.at is None or re.fullmatch(r"[^\s,;+/]+(/[^\s,;+/]+)*", self.at)
        self._require("at", "names separated by slashes", accepted=bool(is_names))
        self._check_place()
        self._check()

    @classmethod
    def parameters(cls) -> dict[str, str]:
        """Give the types of its parameters by name: its own, then those that others have too."""
        fields = sorted(dataclasses.fields(cls), key=lambda field: bool(field.kw_only))
        return {field.name: str(field.type) for field in fields if field.init}

    @property
    def places(self) -> tuple[str, ...]:
        """The names of `at`; none where there is no `at`."""
        return () if self.at is None else tuple(self.at.split("/"))

    @property
    def is_inside(self) -> bool:
        """Whether it acts inside the network, not on outputs."""
        return True

    def _check_place(self) -> None:
        """Refuse further ways to say where it acts."""

    def _check(self) -> None:
        """Refuse what is not accepted; the numbers are of their types by now."""

    def __str__(self) -> str:
        given = (
            f"{name}={_text(value)}"
            for name in self.parameters()
            if (value := getattr(self, name)) is not None
        )
        return ":".join(part for part in (self.name, ",".join(given)) if part)

    def _require(self, name: str, what: str, *, accepted: bool) -> None:
        """Refuse the parameter `name` where it is not `accepted`."""
        if not accepted:
            raise InputError(
                f"the fault {self.name} has {name}={_text(getattr(self, name))}; it must be {what}"
            )

    def _require_choice(self, name: str, *choices: str) -> None:
        """Refuse the parameter `name` where it is, or holds, none of the choices."""
        value = getattr(self, name)
        values = value if isinstance(value, tuple) else (value,)
        *others, last = choices
        what = f"{', '.join(others)} or {last}"
        are_choices = all(isinstance(each, str) and each in choices for each in values)
        self._require(name, what, accepted=bool(values) and are_choices)

    def _require_finite(self, name: str) -> None:
        """Refuse the parameter `name` where it is, or holds, no finite number."""
        values = np.atleast_1d(np.asarray(getattr(self, name), np.float64))
        what = "finite numbers" if isinstance(getattr(self, name), tuple) else "a finite number"
        self._require(name, what, accepted=bool(values.size and np.isfinite(values).all()))

    def _per_axis(self, values: Sequence[Any], n_axes: int) -> tuple[Any, ...]:
        """Give one value per spatial axis, from one or from as many."""
        if len(values) == 1:
            return tuple(values) * n_axes
        if len(values) != n_axes:
            raise InputError(
                f"the fault '{self}' is for {len(values)} spatial axes, the output has {n_axes}"
            )
        return tuple(values)


@dataclass(frozen=True)
class ArrayFault(Fault):
    """A fault that acts on an output, or on a tensor inside, whatever the network.

    Same input, same parameters, same result: what is drawn at random depends on a seed and on
    the output.

    Parameters
    ----------
    at : str, optional
        The tensors that it distorts, or the operations whose results; what comes later in the
        network sees them distorted. By default it distorts the model's outputs.
    on : tuple of str, optional
        Instead of `at`: the types of operations, such as ``conv``, that it distorts all results of.
    """

    on: tuple[str, ...] | None = dataclasses.field(default=None, kw_only=True)

    _is_of_buffer: ClassVar[bool] = False
    """Whether it sees the elements as they follow each other, of one sample at a time."""

    @property
    def is_inside(self) -> bool:
        """Whether it acts inside the network, not on outputs."""
        return self.at is not None or self.on is not None

    def _check_place(self) -> None:
        is_types = self.on is None or (self.on and all(re.fullmatch(r"\w+", e) for e in self.on))
        self._require("on", "types of operations, separated by slashes", accepted=bool(is_types))
        is_single = self.at is None or self.on is None
        self._require("on", "left out where 'at' is given", accepted=is_single)

    def apply(
        self, y: NDArray[Any], *, channel_axis: int | None = 1, batch_axis: int | None = 0
    ) -> NDArray[Any]:
        """Distort an output.

        Parameters
        ----------
        y : ndarray
            The output of one prediction, or of several along `batch_axis`; it is left as it is.
        channel_axis, batch_axis : int or None
            The axes of `y` that are not spatial. Each index of the batch axis is a sample with a
            buffer of its own: nothing runs on from one into the next.

        Returns
        -------
        ndarray
            Of the dtype of `y` and, but for `Overlong`, of its shape. Values that are computed
            are rounded to fp16 first, as a device would hold them; values that are only moved
            are not. Those of integer outputs are rounded and clamped.

        Raises
        ------
        InputError
            If `y` is neither of a floating nor of an integer dtype, has no such axis, or has
            another number of spatial axes or fewer channels than the parameters are for.
        """
        y = np.asarray(y)
        if y.dtype.kind not in "fiu":
            raise InputError(f"the fault {self.name} needs numbers; the output is of {y.dtype}")
        others = {}
        for role, axis in (("channel", channel_axis), ("batch", batch_axis)):
            if axis is not None:
                if not -y.ndim <= axis < y.ndim:
                    raise InputError(
                        f"the output of shape {y.shape} has no {role} axis {axis}; "
                        f"pass {role}_axis=None if it has none"
                    )
                others[role] = axis % y.ndim
        spatial = tuple(axis for axis in range(y.ndim) if axis not in others.values())
        # NaN and infinities go where arithmetic takes them, and values too large to infinity.
        with np.errstate(over="ignore", invalid="ignore"):
            channel, batch = others.get("channel"), others.get("batch")
            if self._is_of_buffer and batch is not None and y.shape[batch] > 1:
                parts = np.split(y, y.shape[batch], axis=batch)
                distorted = np.concatenate(
                    [self._distort(part, channel, spatial) for part in parts], axis=batch
                )
            else:
                distorted = np.asarray(self._distort(y, channel, spatial))
        return distorted.astype(y.dtype, copy=False)  # in its byte order

    @abstractmethod
    def _distort(
        self, y: NDArray[Any], channel: int | None, spatial: tuple[int, ...]
    ) -> NDArray[Any]:
        """Give a new array; `channel` and `spatial` are axes of `y`, none of them negative."""

    def _generator(self, y: NDArray[Any]) -> np.random.Generator:
        """Give a generator that depends on the seed and on the output."""
        return np.random.default_rng([getattr(self, "seed", 0), zlib.crc32(y.tobytes())])


def as_device(values: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Round computed values to fp16, then give them the dtype of the output."""
    return as_dtype(values.astype(np.float16), dtype)


def as_dtype(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Give values the dtype of the output; integers are rounded and clamped, NaN is 0."""
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    whole = np.rint(np.nan_to_num(values.astype(np.float64), posinf=np.inf, neginf=-np.inf))
    inside = np.clip(whole, limits.min, limits.max)
    # The largest 64-bit integers have no float64: the nearest one lies beyond.
    return np.where(inside >= float(limits.max), limits.max, inside.astype(dtype)).astype(dtype)


def filling(
    fill: str, shape: tuple[int, ...], y: NDArray[Any], generator: np.random.Generator
) -> NDArray[Any]:
    """Give what stands where there is no content: zeros, or values like those of the output.

    Parameters
    ----------
    fill : {"zero", "random"}
        Random values are normal, with the mean and the standard deviation of the finite values
        of `y`, and rounded to fp16.
    shape : tuple of int
    y : ndarray
    generator : Generator
    """
    if fill == "zero":
        return np.zeros(shape, y.dtype)
    mean, spread = moments(y)
    return as_device(mean + spread * generator.standard_normal(shape), y.dtype)


def moments(y: NDArray[Any]) -> tuple[float, float]:
    """Give the mean and the standard deviation of the finite values; zeros if there are none."""
    values = y.astype(np.float64)
    values = values[np.isfinite(values)]
    return (float(values.mean()), float(values.std())) if values.size else (0.0, 0.0)


def _of_kind(value: Any, kind: str) -> Any:
    """Give a parameter its type: equal faults have equal texts, and all can be hashed."""
    if value is None and kind.endswith("None"):
        return None
    if kind.startswith("tuple"):
        single = isinstance(value, str) or not isinstance(value, Iterable)
        values = (value,) if single else tuple(value)
        return tuple(_of_kind(each, kind[6 : kind.index(",")]) for each in values)
    readers: dict[str, Callable[[Any], Any]] = {"float": float, "str": str}
    return readers.get(kind, operator.index)(value)


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return "/".join(_text(each) for each in value)
    return repr(value) if isinstance(value, float) else str(value)
