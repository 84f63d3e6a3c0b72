# SPDX-License-Identifier: BSD-3-Clause
"""The verbs ``apply`` and ``export``, which put a calibration to work."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from convcal.cli.contract import ExitCode, Outcome
from convcal.cli.parser import Parser, UsageError, Verbs, add_json, add_output
from convcal.words import PRECISIONS

if TYPE_CHECKING:
    from rich.console import RenderableType

    from convcal.applying import Application
    from convcal.calibration import Calibration

__all__ = ["add_apply", "add_export"]

_APPLY_DESCRIPTION = """\
Correct outputs that lie in a file: keys SAMPLE/OUTPUT or OUTPUT, as 'convcal
run' or numpy.savez writes them. Outputs without a correction are copied."""

_APPLY_EPILOG = """\
example:
  convcal apply net.json outputs.npz -o corrected.npz"""

_EXPORT_DESCRIPTION = """\
Make a product of a calibration: one Python file that needs NumPy only, or the
observed package with the correction appended, a drop-in for the old one."""

_EXPORT_EPILOG = """\
example:
  convcal export net.json --to python -o corrections.py
  convcal export net.json --to coreml --model fp16.mlpackage -o new.mlpackage

exit code 0: written, or nothing to do (outputs are identical: no file is made);
1: there is no correction (no file is made); 2: not done; 3: failed its check."""


def add_apply(verbs: Verbs) -> None:
    """Add the parser of ``apply``."""
    parser = verbs.add_parser(
        "apply",
        help="correct outputs in a file",
        description=_APPLY_DESCRIPTION,
        epilog=_APPLY_EPILOG,
    )
    parser.add_argument("calibration", metavar="CALIBRATION", help="what 'fit' wrote")
    parser.add_argument("outputs", metavar="INPUT.npz", help="the observed model's outputs")
    add_output(parser, metavar="OUTPUT.npz", what="corrected outputs")
    _add_precision(parser)
    add_json(parser)
    parser.set_defaults(run=_apply)


def _add_precision(parser: Parser) -> None:
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        metavar="DTYPE",
        help="compute in float32 or in the output's own dtype (default: float32)",
    )


def _apply(arguments: argparse.Namespace) -> Outcome:
    from convcal.applying import apply_to_file
    from convcal.calibration import Calibration
    from convcal.files import ensure_absent

    ensure_absent(arguments.output, force=arguments.force)
    calibration = Calibration.load(arguments.calibration)
    application = apply_to_file(
        calibration,
        arguments.outputs,
        arguments.output,
        precision=arguments.precision,
        force=arguments.force,
    )
    return Outcome(
        result={
            "file": str(application.path),
            "n_samples": application.n_samples,
            "corrected": list(application.corrected),
            "unchanged": list(application.unchanged),
        },
        render=lambda: _render_application(application, calibration),
    )


def _render_application(application: Application, calibration: Calibration) -> list[RenderableType]:
    from convcal.report.text import printable

    parts: list[RenderableType] = []
    if calibration.is_identity:
        parts.append(f"the calibration is {calibration.verdict} and changes nothing")
    samples = f"{application.n_samples} sample{'s' if application.n_samples != 1 else ''} "
    names = ", ".join(printable(name) for name in application.corrected) or "none"
    parts.append(f"{samples}written to {application.path}; corrected: {names}")
    if application.unchanged:
        copied = ", ".join(printable(name) for name in application.unchanged)
        parts.append(f"without a correction, copied: {copied}")
    return parts


def add_export(verbs: Verbs) -> None:
    """Add the parser of ``export``."""
    parser = verbs.add_parser(
        "export",
        help="make a post-processor or a corrected package",
        description=_EXPORT_DESCRIPTION,
        epilog=_EXPORT_EPILOG,
    )
    parser.add_argument("calibration", metavar="CALIBRATION", help="what 'fit' wrote")
    parser.add_argument("--to", choices=("python", "coreml"), required=True, help="which product")
    parser.add_argument(
        "--model",
        metavar="OBSERVED",
        help="the observed .mlpackage, for --to coreml; it stays as it is",
    )
    parser.add_argument(
        "--allow-scale",
        action="store_true",
        help="accept 'gather' operations for a scaled axis, for --to coreml",
    )
    add_output(parser, metavar="FILE", what="file or package")
    _add_precision(parser)
    add_json(parser)
    parser.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> Outcome:
    if arguments.to == "coreml" and arguments.model is None:
        raise UsageError("--to coreml needs --model OBSERVED, the package to be corrected")
    if arguments.to == "python" and arguments.model is not None:
        raise UsageError("--to python needs no --model; leave it out")
    if arguments.to == "python" and arguments.allow_scale:
        raise UsageError("--to python scales as it is; leave --allow-scale out")
    from convcal.calibration import Calibration
    from convcal.files import ensure_absent

    ensure_absent(arguments.output, force=arguments.force)
    calibration = Calibration.load(arguments.calibration)
    written: Path | None = None
    if arguments.to == "coreml":
        from convcal.export.coreml import export_coreml

        # Also where there is nothing to correct: a wrong package should not go unnoticed.
        written = export_coreml(
            calibration,
            arguments.model,
            arguments.output,
            precision=arguments.precision,
            allow_scale=arguments.allow_scale,
            force=arguments.force,
        )
    elif not calibration.is_identity:
        from convcal.export.python import export_python

        written = export_python(
            calibration, arguments.output, precision=arguments.precision, force=arguments.force
        )
    if written is None:
        return _nothing_exported(arguments, calibration)
    return Outcome(
        result={
            "file": str(written),
            "to": arguments.to,
            "calibration": calibration.id,
            "corrected": _corrected(calibration),
            "unchanged": _unchanged(calibration),
        },
        render=lambda: _render_export(arguments, calibration, written),
    )


def _corrected(calibration: Calibration) -> list[str]:
    return [name for name, item in calibration.outputs.items() if not item.correction.is_identity]


def _unchanged(calibration: Calibration) -> dict[str, str]:
    """Give the outputs that stay as they are, with their verdicts."""
    return {
        name: item.verdict
        for name, item in calibration.outputs.items()
        if item.correction.is_identity
    }


def _describe_outputs(calibration: Calibration) -> str:
    from convcal.report.text import printable

    text = f"corrected: {', '.join(printable(name) for name in _corrected(calibration))}"
    if unchanged := _unchanged(calibration):
        left = ", ".join(f"{printable(name)} ({verdict})" for name, verdict in unchanged.items())
        text += f"; left as {'it is' if len(unchanged) == 1 else 'they are'}: {left}"
    return text


def _nothing_exported(arguments: argparse.Namespace, calibration: Calibration) -> Outcome:
    """Tell "all is well as it is" from "there is no correction"."""
    is_well = calibration.verdict == "identical"
    text = (
        "there is nothing to do: the observed outputs are identical to the reference's but for "
        "rounding; nothing was written"
        if is_well
        else f"there is no correction to export: the verdict is {calibration.verdict} (see the "
        f"reason in {arguments.calibration}); nothing was written"
    )
    return Outcome(
        status="nothing-to-do" if is_well else calibration.verdict,
        result={"file": None, "to": arguments.to, "calibration": calibration.id},
        render=lambda: [text],
        exit_code=ExitCode.DONE if is_well else ExitCode.NO,
    )


def _render_export(
    arguments: argparse.Namespace, calibration: Calibration, written: Path
) -> list[RenderableType]:
    from convcal.cli.commands import command_line

    if arguments.to == "python":
        return [
            f"post-processor written to {written}; it needs NumPy only",
            _describe_outputs(calibration),
            "test it:",
            f"  {command_line('python', written)}",
        ]
    # A correction of an emulated fault is right only together with the fault.
    emulate = [word for fault in _emulated(calibration) for word in ("--emulate", fault)]
    check = ("convcal", "check", "REFERENCE", written, "--data", "PATH", "--margins")
    return [
        (
            f"corrected package written to {written}; same inputs, outputs and weights as "
            f"{arguments.model}"
        ),
        _describe_outputs(calibration),
        "prove it, on data that were not fitted:",
        f"  {command_line(*check, arguments.calibration, *emulate)}",
    ]


def _emulated(calibration: Calibration) -> list[str]:
    """Give the faults under which it was fitted; a profile by its name, not by its parts."""
    from convcal.faults import PROFILES

    if not calibration.is_emulated:
        return []
    faults = [str(fault) for fault in calibration.provenance.get("faults", [])]
    observed = calibration.provenance.get("observed", {})
    for name in str(observed.get("fault_profiles", "")).split("; "):
        parts = [str(part) for part in PROFILES[name].parts] if name in PROFILES else []
        start = next((i for i in range(len(faults)) if faults[i : i + len(parts)] == parts), None)
        if parts and start is not None:
            faults[start : start + len(parts)] = [name]
    return faults
