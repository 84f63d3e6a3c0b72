# SPDX-License-Identifier: BSD-3-Clause
"""What the parsers of all verbs share: errors as exceptions, help on one screen, value types."""

from __future__ import annotations

import argparse
import math
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from convcal.errors import InputError
from convcal.words import COMPUTE_UNITS, RUNTIMES, TIMEOUT, TIMEOUT_MAX

if TYPE_CHECKING:
    from convcal.layout import OutputAxes

__all__ = [
    "Parser",
    "UsageError",
    "Verbs",
    "add_axes",
    "add_data",
    "add_emulate",
    "add_function",
    "add_json",
    "add_output",
    "add_runtime",
    "at_least",
    "between",
    "byte_count",
    "model_flags",
    "plain_help",
    "read_axes",
    "source",
]


class UsageError(InputError):
    """A command line that cannot be understood."""

    code = "usage"


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keep examples as they are written, and give flags room for their words."""

    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size().columns, 100) - 1
        super().__init__(prog, max_help_position=24, width=width)

    def _split_lines(self, text: str, width: int) -> list[str]:
        # Names with hyphens, as of faults, are there to be copied.
        return textwrap.wrap(text, width, break_on_hyphens=False)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        # "-o, --output FILE" instead of "-o FILE, --output FILE".
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are exceptions, so that they can be told in JSON too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_HelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing and exiting."""
        raise UsageError(f"{message}; see '{self.prog} --help'")


class Verbs(Protocol):
    """Where verbs add their parsers."""

    def add_parser(self, name: str, **options: Any) -> Parser:
        """Add the parser of one verb."""


def add_json(parser: Parser) -> None:
    """Add ``--json``."""
    parser.add_argument(
        "--json", action="store_true", help="write one JSON document instead of text"
    )


def add_output(
    parser: Parser, *, metavar: str, what: str, force: str = "replace it if it exists"
) -> None:
    """Add ``-o`` and ``--force``."""
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar=metavar, help=f"{what} to write"
    )
    parser.add_argument("--force", action="store_true", help=force)


def add_data(parser: Parser, *, required: bool = False) -> None:
    """Add ``--data``."""
    parser.add_argument(
        "--data",
        required=required,
        metavar="PATH",
        help="calibration set: .npz or .npy, a folder of them, pictures, sound; or "
        "module.py:function that yields dicts of arrays (this RUNS that file)",
    )


def add_runtime(parser: Parser, *roles: str, units: str | None = "all") -> None:
    """Add ``--runtime``, the compute units of each role, and ``--timeout``.

    Without a role, ``--compute-units`` takes several, and gives a tuple; `units` is its default,
    None where the verb has one of its own.
    """
    parser.add_argument(
        "--runtime",
        choices=RUNTIMES,
        default="auto",
        metavar="NAME",
        help="where models run: coreml, reference, or auto, which is coreml on macOS and "
        "reference elsewhere (default: auto)",
    )
    for role in roles:
        parser.add_argument(
            f"--{role}-compute-units" if role else "--compute-units",
            choices=COMPUTE_UNITS,
            default="all",
            metavar="UNITS",
            help=f"what coreml may use: {', '.join(COMPUTE_UNITS)} (default: all)"
            if role == roles[0]
            else "the same for the other model",
        )
    if not roles:
        parser.add_argument(
            "--compute-units",
            type=_compute_units,
            default=units,
            metavar="UNITS",
            help=f"what coreml may use: {', '.join(COMPUTE_UNITS)}; several, joined by commas, "
            f"one after the other (default: {units or 'each but all'})",
        )
    parser.add_argument(
        "--timeout",
        type=between(0, TIMEOUT_MAX),
        default=TIMEOUT,
        metavar="SECONDS",
        help=f"for coreml, per model and sample (default: {TIMEOUT:g})",
    )


def add_function(parser: Parser) -> None:
    """Add ``--function``."""
    parser.add_argument(
        "--function",
        metavar="NAME",
        help="which of the package's functions (its default one)",
    )


def _compute_units(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in COMPUTE_UNITS]:
        choices = ", ".join(f"'{name}'" for name in COMPUTE_UNITS)
        raise argparse.ArgumentTypeError(f"invalid choice: '{unknown[0]}' (choose from {choices})")
    if len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"'{text}' names some units twice")
    return names


def add_emulate(parser: Parser, *, model: str) -> None:
    """Add ``--emulate``."""
    parser.add_argument(
        "--emulate",
        type=_fault,
        action="append",
        default=[],
        metavar="FAULT",
        help=f"make {model} wrong as a device would: NAME[:KEY=VALUE,...], as "
        "crop-origin:variant=zero (all names: convcal run --help); repeatable and labelled",
    )


def _fault(text: str) -> str:
    """Refuse a fault that does not exist before any model is opened."""
    from convcal.faults import parse_fault

    try:
        parse_fault(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def add_axes(parser: argparse._ActionsContainer) -> None:
    """Add ``--channel-axis`` and ``--batch-axis``."""
    for role, default in (("channel", 1), ("batch", 0)):
        parser.add_argument(
            f"--{role}-axis",
            type=_axis,
            action="append",
            default=[],
            metavar="AXIS",
            help="[OUTPUT=]NUMBER or none; repeatable "
            f"({default}; images {2 if role == 'channel' else 'none'})",
        )


def read_axes(arguments: argparse.Namespace) -> OutputAxes:
    """Give what ``--channel-axis`` and ``--batch-axis`` say."""
    from convcal.layout import OutputAxes

    return OutputAxes(batch=dict(arguments.batch_axis), channel=dict(arguments.channel_axis))


def _axis(text: str) -> tuple[str | None, int | None]:
    name, equals, axis = text.rpartition("=")
    if axis != "none" and not axis.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not [OUTPUT=]AXIS; AXIS is a number or none")
    return name if equals else None, None if axis == "none" else int(axis)


def model_flags(arguments: argparse.Namespace) -> list[str]:
    """Name the flags that say how a model runs, where they say other than the default."""
    usual: dict[str, tuple[Any, ...]] = {
        "runtime": ("auto",),
        "function": (None,),
        "timeout": (TIMEOUT,),
        "emulate": ([],),
    }
    names = [name for name in vars(arguments) if name.endswith("compute_units")]
    usual |= dict.fromkeys(names, (None, "all", ("all",)))
    return [
        f"--{name.replace('_', '-')}"
        for name, values in usual.items()
        if name in arguments and getattr(arguments, name) not in values
    ]


def source(arguments: argparse.Namespace, *, models: tuple[str, str]) -> str:
    """Say where outputs come from, ``'models'`` or ``'captures'``; refuse anything between.

    Raises
    ------
    UsageError
        If something is missing, or both are given.
    """
    first, second = (name.upper() for name in models)
    given = [name.upper() for name in models if getattr(arguments, name) is not None]
    given += ["--data"] if arguments.data is not None else []
    if arguments.captures is not None:
        given += model_flags(arguments)
        if given:
            raise UsageError(
                f"--captures holds outputs and takes the place of {', '.join(given)}; leave one "
                "out, or say how a model runs in 'convcal capture'"
            )
        return "captures"
    missing = [word for word in (first, second, "--data") if word not in given]
    if missing:
        raise UsageError(
            f"{', '.join(missing)} missing; give {first} {second} --data PATH, or --captures PATH"
        )
    return "models"


def at_least(limit: float, kind: Callable[[str], float] = float) -> Callable[[str], float]:
    """Give a value type: a number that is no less than `limit`."""

    def read(text: str) -> float:
        value = _number(text, kind)
        if not value >= limit:
            raise argparse.ArgumentTypeError(f"'{text}' is less than {limit:g}")
        return value

    return read


def between(low: float, high: float) -> Callable[[str], float]:
    """Give a value type: a number above `low` and at most `high`."""

    def read(text: str) -> float:
        value = _number(text, float)
        if not low < value <= high:
            raise argparse.ArgumentTypeError(f"'{text}' is not above {low:g} and at most {high:g}")
        return value

    return read


def byte_count(text: str) -> int:
    """Read a number of bytes, as ``500M`` or ``4G``."""
    unit = {"K": 10, "M": 20, "G": 30}.get(text[-1:].upper(), 0)
    try:
        size = float(text[:-1] if unit else text) * 2**unit
    except ValueError:
        size = math.nan
    if not 1 <= size < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is no size; as 500M or 4G")
    return int(size)


def _number(text: str, kind: Callable[[str], float]) -> float:
    try:
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"'{text}' is not {what}") from None


def plain_help(term: str, text: str) -> str:
    """Lay out a term and its meaning as argparse lays out a flag."""
    return textwrap.fill(
        text, 79, initial_indent=f"  {term:<16}", subsequent_indent=" " * 18, break_on_hyphens=False
    )
