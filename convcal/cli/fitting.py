# SPDX-License-Identifier: BSD-3-Clause
"""The verb ``fit``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from convcal.cli.commands import command_line
from convcal.cli.contract import ExitCode, Outcome
from convcal.cli.parser import (
    Verbs,
    add_axes,
    add_data,
    add_emulate,
    add_json,
    add_output,
    add_runtime,
    at_least,
    between,
    read_axes,
    source,
)
from convcal.cli.terminal import progress
from convcal.words import MODELS

if TYPE_CHECKING:
    from rich.console import RenderableType

    from convcal.calibration import Calibration

__all__ = ["add_fit"]

_MODELS = ("auto", *MODELS)
_DESCRIPTION = """\
Find out what separates the outputs of the OBSERVED model (fp16) from those of
the REFERENCE (fp32), and correct it where that can be done: by a shift, then
gain and bias per channel. Samples kept from fitting prove the correction."""

_USAGE = """convcal fit REFERENCE OBSERVED --data PATH -o FILE [options]
       convcal fit --captures PATH -o FILE [options]"""

_EPILOG = """\
example:
  convcal fit fp32.mlpackage fp16.mlpackage --data pictures/ -o net.json
  convcal export net.json --to coreml --model fp16.mlpackage -o new.mlpackage

exit code 0: identical, correctable or partly-correctable; 1: not-correctable
or not-identifiable (the file is written all the same); 2: not done."""


def add_fit(verbs: Verbs) -> None:
    """Add the parser of ``fit``."""
    parser = verbs.add_parser(
        "fit",
        help="find the correction",
        usage=_USAGE,
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("reference", nargs="?", metavar="REFERENCE", help="trusted .mlpackage")
    parser.add_argument("observed", nargs="?", metavar="OBSERVED", help=".mlpackage to correct")
    add_data(parser)
    parser.add_argument(
        "--captures", metavar="PATH", help="instead of models and data: what 'capture' recorded"
    )
    add_output(parser, metavar="FILE", what="calibration, by custom NAME.calibration.json,")
    add_runtime(parser, "reference", "observed")
    add_emulate(parser, model="OBSERVED")
    parser.add_argument(
        "--holdout",
        type=between(0, 0.5),
        default=0.25,
        metavar="SHARE",
        help="share that decides, up to 0.5 (default: 0.25)",
    )
    parser.add_argument(
        "--max-shift",
        type=at_least(0, int),
        metavar="N",
        help="search that far, in pixels (default: a quarter of the size, 4 to 32)",
    )
    parser.add_argument(
        "--model",
        choices=_MODELS,
        default="auto",
        metavar="KIND",
        help=f"{', '.join(_MODELS)} (default: auto, chosen on held-out samples)",
    )
    parser.add_argument("--robust", action="store_true", help="gain and bias ignore gross outliers")
    add_axes(parser)
    add_json(parser)
    parser.set_defaults(run=_fit)


def _fit(arguments: argparse.Namespace) -> Outcome:
    is_captured = source(arguments, models=("reference", "observed")) == "captures"
    from convcal.assessment import FitOptions
    from convcal.files import ensure_absent
    from convcal.fitting import fit, fit_captures

    ensure_absent(arguments.output, force=arguments.force)
    options = FitOptions(
        max_shift=arguments.max_shift,
        model=arguments.model,
        holdout=arguments.holdout,
        robust=arguments.robust,
    )
    axes = read_axes(arguments)
    if is_captured:
        calibration = fit_captures(arguments.captures, options=options, axes=axes)
    else:
        with progress("running both models") as tell:
            calibration = fit(
                arguments.reference,
                arguments.observed,
                arguments.data,
                options=options,
                runtime=arguments.runtime,
                reference_compute_units=arguments.reference_compute_units,
                observed_compute_units=arguments.observed_compute_units,
                emulate=arguments.emulate,
                timeout=arguments.timeout,
                axes=axes,
                progress=tell,
            )
    calibration.save(arguments.output, force=arguments.force)
    next_commands = _next_commands(calibration, arguments.output, arguments.observed)
    return Outcome(
        status=calibration.verdict,
        result={
            "file": str(arguments.output),
            "calibration": calibration.to_dict(),
            "next": next_commands,
        },
        render=lambda: _render(calibration, arguments.output, next_commands),
        exit_code=ExitCode.NO if calibration.verdict.startswith("not-") else ExitCode.DONE,
    )


def _next_commands(calibration: Calibration, file: Path, observed: str | None) -> list[str]:
    """Give the commands that make the products, with the paths of this run."""
    if calibration.is_identity:
        return []
    stem = file.name.removesuffix(".json").removesuffix(".calibration")
    # What Python can import by its name.
    module = re.sub(r"\W|^(?=\d)", "_", f"{stem}_corrections", flags=re.ASCII)
    package = observed or "OBSERVED.mlpackage"
    corrected = file.with_name(f"{Path(package).stem}-corrected.mlpackage")
    export = ("convcal", "export", file, "--to")
    return [
        command_line(*export, "coreml", "--model", package, "-o", corrected),
        command_line(*export, "python", "-o", file.with_name(f"{module}.py")),
    ]


def _render(
    calibration: Calibration, file: Path, next_commands: Sequence[str]
) -> list[RenderableType]:
    from convcal.report.tables import calibration_tables

    parts = calibration_tables(calibration)
    parts.append(f"\n{calibration.verdict}; written to {file}")
    if next_commands:
        parts.extend(("next:", *(f"  {command}" for command in next_commands)))
    return parts
