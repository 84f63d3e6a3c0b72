# SPDX-License-Identifier: BSD-3-Clause
"""Typed access to a JSON object that nobody vouches for."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

from convcal.errors import InputError

__all__ = ["Record", "is_number", "unique_keys"]


class Record:
    """A JSON object whose members are read by key and checked for their type.

    Parameters
    ----------
    record : object
        What was read.

    Raises
    ------
    InputError
        If it is no object; every method raises it too, naming the key.
    """

    def __init__(self, record: object) -> None:
        if not isinstance(record, Mapping):
            raise InputError(f"an object was expected, not {type(record).__name__}")
        self._record = record

    def __contains__(self, key: str) -> bool:
        return key in self._record

    def value(self, key: str) -> Any:
        """Give a member of any type."""
        if key not in self._record:
            raise InputError(f"'{key}' is missing")
        return self._record[key]

    def numbers(self, key: str) -> tuple[float, ...]:
        """Give a list of numbers."""
        values = self.value(key)
        if not isinstance(values, list) or not all(is_number(value) for value in values):
            raise InputError(f"'{key}' must be a list of numbers")
        return tuple(_float(value, key) for value in values)

    def number(self, key: str) -> float:
        """Give a number."""
        value = self.value(key)
        if not is_number(value):
            raise InputError(f"'{key}' must be a number, not {value!r}")
        return _float(value, key)

    def wholes(self, key: str) -> tuple[int, ...]:
        """Give a list of whole numbers."""
        values = self.value(key)
        if not isinstance(values, list) or not all(_is_whole(value) for value in values):
            raise InputError(f"'{key}' must be a list of whole numbers")
        return tuple(values)

    def whole(self, key: str) -> int:
        """Give a whole number."""
        value = self.value(key)
        if not _is_whole(value):
            raise InputError(f"'{key}' must be a whole number, not {value!r}")
        return int(value)

    def pairs(self, key: str) -> tuple[tuple[int, int], ...]:
        """Give a list of pairs of whole numbers."""
        values = self.value(key)
        if not isinstance(values, list) or not all(
            isinstance(pair, list) and len(pair) == 2 and all(_is_whole(value) for value in pair)
            for pair in values
        ):
            raise InputError(f"'{key}' must be a list of pairs of whole numbers")
        return tuple((first, second) for first, second in values)

    def axis(self, key: str) -> int | None:
        """Give the number of an axis, or None."""
        return None if self.value(key) is None else self.whole(key)

    def nested(self, key: str) -> Record:
        """Give an object inside this one."""
        try:
            return Record(self.value(key))
        except InputError as error:
            raise InputError(f"'{key}': {error}") from None

    def records(self, key: str) -> list[Record]:
        """Give a list of objects."""
        values = self.value(key)
        if not isinstance(values, list):
            raise InputError(f"'{key}' must be a list")
        return [Record(value) for value in values]


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object of pairs; raise ValueError where a key comes twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice")
    return found


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Tell whether a value is one real number; a boolean is none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _float(value: float, key: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise InputError(f"'{key}' has a number beyond float64") from None
