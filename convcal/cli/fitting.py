# SPDX-License-Identifier: BSD-3-Clause
"""The verb ``fit``."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
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
    add_output,
    add_runtime,
    at_least,
    between,
    read_axes,
    source,
)
from convcal.cli.terminal import progress, say
from convcal.errors import RunnerError
from convcal.words import MODELS

if TYPE_CHECKING:
    from rich.console import RenderableType

    from convcal.assessment import FitOptions
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
    add_function(parser)
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
        help="auto, identity, affine, or shift, subpixel-shift, scale, row-stride, each also as "
        "KIND-affine (default: auto)",
    )
    parser.add_argument("--robust", action="store_true", help="gain and bias ignore gross outliers")
    add_axes(parser)
    workers = parser.add_mutually_exclusive_group()
    workers.add_argument(
        "--workers",
        type=at_least(1, int),
        default=1,
        metavar="N",
        help="processes that share the work (default: 1)",
    )
    workers.add_argument(
        "--cluster", metavar="ADDRESS", help="share it on a Dask cluster, tcp://HOST:PORT"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on where an interrupted fit stopped"
    )
    add_json(parser)
    parser.set_defaults(run=_fit)


def _fit(arguments: argparse.Namespace) -> Outcome:
    is_captured = source(arguments, models=("reference", "observed")) == "captures"
    from convcal.assessment import FitOptions
    from convcal.files import ensure_absent

    ensure_absent(arguments.output, force=arguments.force)
    options = FitOptions(
        max_shift=arguments.max_shift,
        model=arguments.model,
        holdout=arguments.holdout,
        robust=arguments.robust,
    )
    checkpoint = _checkpoint(arguments)
    try:
        calibration = _fitted(arguments, options, checkpoint, is_captured=is_captured)
    except (KeyboardInterrupt, RunnerError):
        if checkpoint.exists():
            say(f"what was done is kept in {checkpoint}; --resume goes on from there")
        else:
            say("nothing was kept of the fit yet; run the same command again")
        raise
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


def _checkpoint(arguments: argparse.Namespace) -> Path:
    """Say where the checkpoint is; remove an old one where that is asked for."""
    from convcal.files import ensure_resumable

    path: Path = arguments.output.with_name(f"{arguments.output.name}.checkpoint.npz")
    if arguments.force and not arguments.resume:
        path.unlink(missing_ok=True)
    return ensure_resumable(path, resume=arguments.resume, what="fit")


def _fitted(
    arguments: argparse.Namespace, options: FitOptions, checkpoint: Path, *, is_captured: bool
) -> Calibration:
    from convcal.fitting import fit, fit_captures
    from convcal.fitting.workers import dask_executor

    with contextlib.ExitStack() as stack:
        executor = None
        if arguments.cluster is not None:
            executor = stack.enter_context(dask_executor(arguments.cluster))
        label = "reading the capture" if is_captured else "running both models"
        how: dict[str, Any] = {
            "options": options,
            "axes": read_axes(arguments),
            "n_jobs": arguments.workers,
            "executor": executor,
            "checkpoint": checkpoint,
            "resume": arguments.resume,
            "progress": stack.enter_context(progress(label)),
        }
        if is_captured:
            return fit_captures(arguments.captures, **how)
        return fit(
            arguments.reference,
            arguments.observed,
            arguments.data,
            runtime=arguments.runtime,
            reference_compute_units=arguments.reference_compute_units,
            observed_compute_units=arguments.observed_compute_units,
            function=arguments.function,
            emulate=arguments.emulate,
            timeout=arguments.timeout,
            **how,
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
    commands = [command_line(*export, "python", "-o", file.with_name(f"{module}.py"))]
    corrections = [output.correction for output in calibration.outputs.values()]
    # What a package cannot do is not proposed: see `export_coreml`.
    if not any(item.has_crop or item.row_stride is not None for item in corrections):
        allow = ("--allow-scale",) if any(item.has_scale for item in corrections) else ()
        to_coreml = command_line(*export, "coreml", "--model", package, *allow, "-o", corrected)
        commands.insert(0, to_coreml)
    return commands


def _render(
    calibration: Calibration, file: Path, next_commands: Sequence[str]
) -> list[RenderableType]:
    from convcal.report.tables import calibration_tables

    parts = calibration_tables(calibration)
    parts.append(f"\n{calibration.verdict}; written to {file}")
    if next_commands:
        parts.extend(("next:", *(f"  {command}" for command in next_commands)))
    return parts
