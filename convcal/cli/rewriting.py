# SPDX-License-Identifier: BSD-3-Clause
"""The verb ``rewrite``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from convcal.cli.contract import Outcome
from convcal.cli.parser import UsageError, Verbs, add_json, add_output
from convcal.words import STRATEGIES

if TYPE_CHECKING:
    from rich.console import RenderableType

    from convcal.export.rewriting import Rewriting

__all__ = ["add_rewrite"]

_DESCRIPTION = """\
Write MODEL with operations replaced by others that compute the same and that no
known fault touches. No data and no calibration are needed; the border is right
too. The result is run beside MODEL on random inputs before it is kept.

  explicit-crop   a transposed convolution without pads, then a slice
  zero-insertion  zeros between the inputs, then an ordinary convolution
  subpixel        one ordinary convolution for all phases, then pixel_shuffle
  fp32-island     any operation in fp32, casts around it"""

_EPILOG = """\
example:
  convcal rewrite fp16.mlpackage --strategy subpixel -o fixed.mlpackage
  convcal rewrite fp16.mlpackage --strategy fp32-island --at y -o y32.mlpackage

exit code 0: written, or nothing to do (no known fault calls for this strategy:
no file is made); 2: not done; 3: did not compute the same, and was not kept."""


def add_rewrite(verbs: Verbs) -> None:
    """Add the parser of ``rewrite``."""
    parser = verbs.add_parser(
        "rewrite",
        help="replace operations that known faults touch",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("model", metavar="MODEL", help="an .mlpackage; it stays as it is")
    parser.add_argument("--strategy", choices=STRATEGIES, required=True, help="see above")
    parser.add_argument(
        "--at",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="operations, or tensors that they make; * and ? stand for any characters, for one "
        "(default: all that 'convcal inspect' names and the strategy cures)",
    )
    parser.add_argument(
        "--weights-from",
        metavar="FP32",
        help="the same network in fp32, whose weights fp32-island takes (default: those of MODEL, "
        "widened)",
    )
    add_output(parser, metavar="FIXED", what="the .mlpackage")
    add_json(parser)
    parser.set_defaults(run=_rewrite)


def _rewrite(arguments: argparse.Namespace) -> Outcome:
    if arguments.weights_from is not None and arguments.strategy != "fp32-island":
        raise UsageError(
            f"--strategy {arguments.strategy} keeps the weights of MODEL; leave --weights-from out"
        )
    from convcal.export.rewriting import rewrite

    written = rewrite(
        arguments.model,
        arguments.output,
        strategy=arguments.strategy,
        at=arguments.at,
        weights_from=arguments.weights_from,
        force=arguments.force,
    )
    if written is None:
        return Outcome(
            status="nothing-to-do",
            result={"file": None, "strategy": arguments.strategy},
            render=lambda: [_nothing(arguments.strategy)],
        )
    return Outcome(result=written.to_dict(), render=lambda: _render(arguments, written))


def _nothing(strategy: str) -> str:
    return (
        f"nothing to do: no fault that is known calls for {strategy} here; name operations with "
        "--at, or see 'convcal inspect'; nothing was written"
    )


def _render(arguments: argparse.Namespace, written: Rewriting) -> list[RenderableType]:
    from convcal.cli.commands import command_line
    from convcal.report.inspection import rewriting_tables

    line = command_line("convcal", "check", "REFERENCE", written.path, "--data", "PATH")
    return [
        (
            f"rewritten package written to {written.path}; same inputs, outputs and specification "
            f"version as {arguments.model}"
        ),
        *rewriting_tables(written),
        "prove it, on the device:",
        f"  {line}",
    ]
