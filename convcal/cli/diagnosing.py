# SPDX-License-Identifier: BSD-3-Clause
"""The verb ``diagnose``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from convcal.cli.contract import ExitCode, Outcome
from convcal.cli.parser import (
    UsageError,
    Verbs,
    add_data,
    add_emulate,
    add_function,
    add_json,
    add_runtime,
    byte_count,
)
from convcal.cli.terminal import progress, say
from convcal.words import MEMORY

if TYPE_CHECKING:
    from rich.console import RenderableType

    from convcal.diagnosis import Diagnosis

__all__ = ["add_diagnose"]

_DESCRIPTION = """\
Find the first operation of the OBSERVED model whose output is wrong though its
inputs are right: every one is computed as the REFERENCE says, from observed
inputs. Say in which way it is wrong, whose fault that is, and what to do."""

_USAGE = "convcal diagnose REFERENCE OBSERVED --data PATH [options]"

_EPILOG = """\
example:
  convcal diagnose fp32.mlpackage fp16.mlpackage --data pictures/

exit code 0: every operation is right, but for the noise of fp16; 1: one is
wrong; 2: not done."""


def add_diagnose(verbs: Verbs) -> None:
    """Add the parser of ``diagnose``."""
    parser = verbs.add_parser(
        "diagnose",
        help="find the operation at fault",
        usage=_USAGE,
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("reference", metavar="REFERENCE", help="trusted .mlpackage")
    parser.add_argument("observed", metavar="OBSERVED", help=".mlpackage to look into")
    add_data(parser, required=True)
    parser.add_argument(
        "--all", action="store_true", help="find all operations at fault, not the first alone"
    )
    parser.add_argument(
        "--source",
        metavar="FILE.npz",
        help="outputs of the original network for these samples, keys SAMPLE/OUTPUT or OUTPUT: "
        "they tell the converter's fault from the device's",
    )
    parser.add_argument(
        "--memory",
        type=byte_count,
        default=MEMORY,
        metavar="SIZE",
        help="what the tensors of one sample may take, as 500M or 4G; beyond that the model is "
        f"halved again and again (default: {MEMORY >> 30}G)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write the diagnosis as JSON, too"
    )
    parser.add_argument("--force", action="store_true", help="replace it if it exists")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on where an interrupted diagnosis stopped; what was done is kept beside FILE",
    )
    add_runtime(parser, "observed")
    add_function(parser)
    add_emulate(parser, model="OBSERVED")
    add_json(parser)
    parser.set_defaults(run=_diagnose)


def _diagnose(arguments: argparse.Namespace) -> Outcome:
    if arguments.resume and arguments.output is None:
        raise UsageError("--resume goes on from what is kept beside FILE; give -o FILE")
    from convcal.diagnosis import diagnose
    from convcal.files import ensure_absent

    checkpoint = _checkpoint(arguments)
    if arguments.output is not None:
        ensure_absent(arguments.output, force=arguments.force)
    try:
        with progress("running the model") as tell:
            diagnosis = diagnose(
                arguments.reference,
                arguments.observed,
                arguments.data,
                runtime=arguments.runtime,
                observed_compute_units=arguments.observed_compute_units,
                function=arguments.function,
                emulate=arguments.emulate,
                find_all=arguments.all,
                source=arguments.source,
                memory=arguments.memory,
                timeout=arguments.timeout,
                checkpoint=checkpoint,
                progress=lambda _, done, total: tell(done, total),
            )
    except KeyboardInterrupt:
        if checkpoint is not None and checkpoint.exists():
            say(f"what was done is kept in {checkpoint}; --resume goes on from there")
        raise
    if arguments.output is not None:
        diagnosis.save(arguments.output, force=arguments.force)
    paths = {
        "REFERENCE": arguments.reference,
        "OBSERVED": arguments.observed,
        "DATA": arguments.data,
    }
    return Outcome(
        status=diagnosis.verdict,
        result={
            "file": None if arguments.output is None else str(arguments.output),
            "diagnosis": diagnosis.to_dict(),
        },
        render=lambda: _render(diagnosis, arguments.output, paths),
        exit_code=ExitCode.NO if diagnosis.culprits else ExitCode.DONE,
    )


def _checkpoint(arguments: argparse.Namespace) -> Path | None:
    """Say where the checkpoint is; remove an old one where that is asked for."""
    if arguments.output is None:
        return None
    from convcal.files import ensure_resumable

    path: Path = arguments.output.with_name(f"{arguments.output.name}.checkpoint.json")
    if arguments.force and not arguments.resume:
        path.unlink(missing_ok=True)
    return ensure_resumable(path, resume=arguments.resume, what="diagnosis")


def _render(diagnosis: Diagnosis, file: Path | None, paths: dict[str, str]) -> list[RenderableType]:
    from convcal.report.diagnoses import diagnosis_tables

    parts = diagnosis_tables(diagnosis, paths=paths)
    if file is not None:
        parts.append(f"\nwritten to {file}")
    return parts
