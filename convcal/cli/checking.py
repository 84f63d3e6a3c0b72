# SPDX-License-Identifier: BSD-3-Clause
"""The verb ``check``, the gate for CI."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from convcal.cli.commands import command_line
from convcal.cli.contract import ExitCode, Outcome
from convcal.cli.parser import (
    Verbs,
    add_axes,
    add_data,
    add_emulate,
    add_function,
    add_json,
    add_runtime,
    at_least,
    between,
    read_axes,
    source,
)
from convcal.cli.terminal import progress

if TYPE_CHECKING:
    from rich.console import RenderableType

    from convcal.calibration import Calibration
    from convcal.checking import CheckResult, Thresholds

__all__ = ["add_check"]

_DESCRIPTION = """\
Compare the outputs of the CANDIDATE with those of the REFERENCE; a gate for CI.
Every output must reach every threshold given; without any, an SNR of 50 dB."""

_USAGE = """convcal check REFERENCE CANDIDATE --data PATH [options]
       convcal check --captures PATH [options]"""

_EPILOG = """\
example:
  convcal check fp32.mlpackage fp16.mlpackage --data heldout/ --min-snr 45

exit code 0: passed; 1: a threshold was missed, or values are not finite where
the reference is; 2: not done."""


def add_check(verbs: Verbs) -> None:
    """Add the parser of ``check``."""
    parser = verbs.add_parser(
        "check",
        help="pass or fail on thresholds",
        usage=_USAGE,
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("reference", nargs="?", metavar="REFERENCE", help="trusted .mlpackage")
    parser.add_argument("candidate", nargs="?", metavar="CANDIDATE", help=".mlpackage to judge")
    add_data(parser)
    parser.add_argument(
        "--captures",
        metavar="PATH",
        help="instead of models and data: what 'capture' recorded; observed is the candidate",
    )
    corrected = parser.add_mutually_exclusive_group()
    corrected.add_argument(
        "--calibration",
        metavar="FILE",
        help="correct the candidate's outputs first; then only values inside the margins count",
    )
    corrected.add_argument(
        "--margins",
        metavar="FILE",
        help="calibration that the candidate has built in: only values inside its margins count",
    )
    parser.add_argument("--min-snr", type=float, metavar="DB", help="signal to noise ratio")
    parser.add_argument(
        "--min-psnr", type=float, metavar="DB", help="peak: the range of the reference"
    )
    parser.add_argument(
        "--max-abs-error", type=at_least(0), metavar="X", help="largest error, in output units"
    )
    parser.add_argument("--max-rmse", type=at_least(0), metavar="X", help="in output units")
    parser.add_argument("--min-cosine", type=between(-1, 1), metavar="X", help="cosine similarity")
    add_runtime(parser, "reference", "candidate")
    add_function(parser)
    add_emulate(parser, model="CANDIDATE")
    add_axes(parser)
    add_json(parser)
    parser.set_defaults(run=_check)


def _check(arguments: argparse.Namespace) -> Outcome:
    is_captured = source(arguments, models=("reference", "candidate")) == "captures"
    from convcal.calibration import Calibration
    from convcal.checking import check
    from convcal.pairs import read_pairs, record_pairs

    # Read first: a calibration that cannot be used should cost no run of the models.
    calibration = Calibration.load(arguments.calibration) if arguments.calibration else None
    margins = Calibration.load(arguments.margins) if arguments.margins else None
    axes = read_axes(arguments)
    thresholds = _thresholds(arguments)
    if is_captured:
        pairs = read_pairs(arguments.captures, axes=axes)
    else:
        with progress("running both models") as tell:
            pairs = record_pairs(
                arguments.reference,
                arguments.candidate,
                arguments.data,
                runtime=arguments.runtime,
                reference_compute_units=arguments.reference_compute_units,
                observed_compute_units=arguments.candidate_compute_units,
                function=arguments.function,
                emulate=arguments.emulate,
                timeout=arguments.timeout,
                axes=axes,
                progress=tell,
            )
    result = check(pairs, thresholds=thresholds, calibration=calibration, margins=margins)
    return Outcome(
        status="passed" if result else "failed",
        result={
            **result.to_dict(),
            "calibration": None if calibration is None else calibration.id,
            "provenance": pairs.provenance,
        },
        render=lambda: [
            *_render(result, calibration, pairs.provenance),
            *_next_step(arguments, is_passed=bool(result)),
        ],
        exit_code=ExitCode.DONE if result else ExitCode.NO,
    )


def _thresholds(arguments: argparse.Namespace) -> Thresholds:
    from convcal.checking import DEFAULT_THRESHOLDS, Thresholds

    given = Thresholds(
        min_snr_db=arguments.min_snr,
        min_psnr_db=arguments.min_psnr,
        max_abs_error=arguments.max_abs_error,
        max_rmse=arguments.max_rmse,
        min_cosine=arguments.min_cosine,
    )
    return DEFAULT_THRESHOLDS if given == Thresholds() else given


def _render(
    result: CheckResult, calibration: Calibration | None, provenance: dict[str, Any]
) -> list[RenderableType]:
    from convcal.report.tables import check_tables, origin_notices

    parts: list[RenderableType] = list(origin_notices(provenance))
    parts += check_tables(result)
    corrected = "" if calibration is None else f", corrected by calibration {calibration.id}"
    parts.append(f"\n{'passed' if result else 'failed'}{corrected}: {_wanted(result.thresholds)}")
    return parts


def _next_step(arguments: argparse.Namespace, *, is_passed: bool) -> Iterator[str]:
    """Say how to learn why the models differ, where `diagnose` can be asked the same."""
    models = (arguments.reference, arguments.candidate)
    if is_passed or None in models or arguments.calibration or arguments.margins:
        return
    if arguments.function is None:
        words = ["convcal", "diagnose", *models, "--data", arguments.data]
        words += [word for fault in arguments.emulate for word in ("--emulate", fault)]
        yield f"which operation goes wrong:\n  {command_line(*words)}"


def _wanted(thresholds: Thresholds) -> str:
    """Put the thresholds into words."""
    words = {
        "SNR at least {:g} dB": thresholds.min_snr_db,
        "PSNR at least {:g} dB": thresholds.min_psnr_db,
        "largest error at most {:g}": thresholds.max_abs_error,
        "RMSE at most {:g}": thresholds.max_rmse,
        "cosine at least {:g}": thresholds.min_cosine,
    }
    return ", ".join(text.format(limit) for text, limit in words.items() if limit is not None)
