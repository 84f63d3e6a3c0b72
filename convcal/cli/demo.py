# SPDX-License-Identifier: BSD-3-Clause
"""The verb ``demo``: the whole job, by the commands that a user would type."""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import shutil
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convcal.cli.commands import command_line
from convcal.cli.contract import ExitCode, Outcome
from convcal.cli.parser import Verbs, add_json, add_runtime
from convcal.cli.terminal import say
from convcal.errors import ConvcalError, ConvcalWarning, InputError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from convcal.demo import DemoCase

__all__ = ["add_demo"]

_DESCRIPTION = """\
Do the whole job on calibration_data/, for super-resolution, sound and the
program of apple/coremltools #2324: fit, export both ways, prove it on held-out
data, draw a picture. Prints where each product lies and the commands that made
it. On a Mac the models run on Core ML as it is; elsewhere, and with --runtime
reference, the fault is emulated, and labelled so."""

FAULT = "crop-origin:variant=zero"
"""What is emulated where Core ML cannot show it: apple/coremltools #2324."""


def add_demo(verbs: Verbs) -> None:
    """Add the parser of ``demo``."""
    parser = verbs.add_parser(
        "demo",
        help="the whole job on data of its own",
        description=_DESCRIPTION,
        epilog="example:\n  convcal demo -o demo-output",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("demo-output"),
        metavar="FOLDER",
        help="folder for the products (default: demo-output)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="calibration_data/ (default: here, or beside the package)",
    )
    parser.add_argument(
        "--force", action="store_true", help="write into a folder that exists, over older products"
    )
    add_runtime(parser)
    add_json(parser)
    parser.set_defaults(run=_demo)


_LABELS = ("fp32", "fp16", "corrected")


class DemoError(ConvcalError):
    """A command of the demo that failed."""

    code = "demo-failed"


@dataclass
class _Job:
    """What one case of the demo ran and made."""

    case: DemoCase
    commands: list[str] = field(default_factory=list)
    products: dict[str, str] = field(default_factory=dict)
    verdict: str = ""
    shift: tuple[float, ...] = ()
    quality: dict[str, float] = field(default_factory=dict)
    patched_difference: float | None = None
    exit_codes: list[int] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Give it JSON-ready."""
        return {
            "case": self.case.name,
            "verdict": self.verdict,
            "shift": list(self.shift),
            "quality": {
                label: value if math.isfinite(value) else str(value)
                for label, value in self.quality.items()
            },
            "patched_difference": self.patched_difference,
            "products": self.products,
            "commands": self.commands,
            "exit_codes": self.exit_codes,
        }


def _demo(arguments: argparse.Namespace) -> Outcome:
    from convcal.demo import CASES, find_calibration_data
    from convcal.files import staged

    data = find_calibration_data(arguments.data)
    runtime = arguments.runtime
    faults = () if _is_real(runtime) else (FAULT,)
    with _folder(arguments.output, force=arguments.force):
        jobs = [
            _run_case(case, data, arguments.output, faults=faults, runtime=runtime)
            for case in CASES
        ]
        script = arguments.output / "commands.sh"
        with staged(script, force=True) as temporary:
            temporary.write_text(_script(line for job in jobs for line in job.commands))
    result = {
        "folder": str(arguments.output),
        "commands": str(script),
        "emulated": bool(faults),
        "faults": list(faults),
        "cases": [job.to_dict() for job in jobs],
    }
    return Outcome(result=result, render=lambda: _render(jobs, faults, script))


def _script(commands: Iterable[str]) -> str:
    """Write commands as a shell script that runs them where, and with what, the demo ran."""
    lines = [
        "#!/bin/sh",
        "# The commands of 'convcal demo'; what they write replaces what they wrote before.",
        "set -e",
        command_line("cd", Path.cwd()),
        f"PATH={command_line(Path(sys.executable).parent)}:$PATH",
        *commands,
    ]
    return "\n".join(lines) + "\n"


def _is_real(runtime: str) -> bool:
    """Tell whether Core ML itself runs the models: then nothing is emulated."""
    return sys.platform == "darwin" and runtime != "reference"


@contextlib.contextmanager
def _folder(target: Path, *, force: bool) -> Iterator[None]:
    """Make the folder; remove it again when the demo does not come to its end."""
    from convcal.files import ensure_absent

    ensure_absent(target, force=force)
    is_new = not os.path.lexists(target)
    if not is_new and not target.is_dir():
        raise InputError(f"'{target}' is no folder; choose another name for the demo's folder")
    target.mkdir(exist_ok=True)
    try:
        yield
    except BaseException:
        if is_new:
            shutil.rmtree(target, ignore_errors=True)
        raise


def _run_case(
    case: DemoCase, data: Path, target: Path, *, faults: tuple[str, ...], runtime: str
) -> _Job:
    from convcal.calibration import Calibration
    from convcal.demo import largest_difference, measure_quality

    say(f"\n== {case.title} ==")
    job = _Job(case)
    models = data / "models" / case.name
    reference, observed = models / "fp32.mlpackage", models / "fp16.mlpackage"
    place = [] if runtime == "auto" else ["--runtime", runtime]
    emulate = [*place, *(word for fault in faults for word in ("--emulate", fault))]
    heldout = data / case.heldout

    def product(kind: str, name: str) -> Path:
        job.products[kind] = str(target / name)
        return target / name

    calibration = product("calibration", f"{case.name}.calibration.json")
    _run(
        job,
        "fit",
        reference,
        observed,
        "--data",
        data / case.train,
        *emulate,
        "-o",
        calibration,
        is_shown=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvcalWarning)  # the command has said it already
        ((_, output),) = Calibration.load(calibration).outputs.items()
    job.verdict, job.shift = output.verdict, output.correction.shift
    if output.correction.is_identity:
        return job
    script = product("post-processor", f"{case.name.replace('-', '_')}_corrections.py")
    _run(job, "export", calibration, "--to", "python", "-o", script)
    package = product("patched package", f"{case.name}-corrected.mlpackage")
    _run(job, "export", calibration, "--to", "coreml", "--model", observed, "-o", package)
    _run(
        job, "check", reference, observed, "--data", heldout, *emulate, "--calibration", calibration
    )
    outputs = {
        label: product(f"{label} outputs", f"{case.name}-{label}.npz")
        for label in ("fp32", "fp16", "corrected", "patched")
    }
    for label, model, words in (
        ("fp32", reference, place),
        ("fp16", observed, emulate),
        ("patched", package, emulate),
    ):
        _run(job, "run", model, "--data", heldout, *words, "-o", outputs[label])
    _run(job, "apply", calibration, outputs["fp16"], "-o", outputs["corrected"])
    job.quality = {
        label: measure_quality(
            case, data, outputs[label], fp32=outputs["fp32"], correction=output.correction
        )
        for label in _LABELS
    }
    job.patched_difference = largest_difference(outputs["patched"], outputs["corrected"])
    _draw(case, outputs, product("picture", f"{case.name}.png"), faults=faults)
    return job


def _run(job: _Job, *words: str | Path, is_shown: bool = False) -> None:
    """Run a command as if it were typed; what it says is shown on request, or when it fails."""
    from convcal.cli.application import run_command

    if words[0] != "check":
        # The folder is ours: a demo that was allowed to use it replaces its older products.
        words = (*words, "--force")
    line = command_line("convcal", *words)
    job.commands.append(line)
    say(f"$ {line}")
    said = io.StringIO()
    streams = (sys.stdout, sys.stderr) if is_shown else (said, said)
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        code = run_command([os.fspath(word) for word in words])
    job.exit_codes.append(code)
    if code == ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    if code not in (ExitCode.DONE, ExitCode.NO):
        say(said.getvalue())
        raise DemoError(f"the demo stopped, because a command failed with exit code {code}: {line}")


def _draw(
    case: DemoCase, outputs: dict[str, Path], target: Path, *, faults: tuple[str, ...]
) -> None:
    from convcal.demo import example
    from convcal.report.picture import draw_before_after

    arrays = example([outputs[label] for label in ("fp32", "fp16", "corrected")])
    note = f"EMULATED FAULT: {', '.join(faults)}" if faults else ""
    draw_before_after(
        target,
        title=case.title,
        reference=arrays[0],
        observed=arrays[1],
        corrected=arrays[2],
        note=note,
        force=True,
    )


def _render(jobs: list[_Job], faults: tuple[str, ...], script: Path) -> list[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    from convcal.report.tables import emulation_notice

    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("case", "verdict", "shift", "in dB", *_LABELS):
        table.add_column(heading)
    for job in jobs:
        metric = {"psnr_db": "PSNR", "snr_db": "SNR"}[job.case.metric]
        against = "truth" if job.case.truth else "fp32"
        shift = f"({', '.join(f'{value:g}' for value in job.shift)})"
        row = [job.case.name, job.verdict, shift, f"{metric} to {against}"]
        row += [f"{job.quality[label]:.2f}" if job.quality else "-" for label in _LABELS]
        table.add_row(*(Text(cell) for cell in row))
    parts: list[RenderableType] = [Text()]
    if faults:
        parts.append(emulation_notice(faults))
    parts += [table, Text("\nheld-out samples, inside the margins")]
    for job in jobs:
        parts.append(Text(f"\n{job.case.name}", style="bold"))
        parts += [f"  {kind:18} {path}" for kind, path in job.products.items()]
        if job.verdict == "identical":
            parts.append("  nothing to correct: the fp16 model gives here what it should")
        if job.patched_difference is not None:
            parts.append(
                "  the patched package gives the same bits as the post-processor"
                if job.patched_difference == 0
                else "  the patched package and the post-processor differ by at most "
                f"{job.patched_difference:g}"
            )
    if not faults:
        parts.append(
            "\nCore ML on this machine ran the models and no fault was emulated; "
            "to see one emulated and corrected: convcal demo --runtime reference"
        )
    parts.append(f"\nthe commands that made it all: {script}")
    return parts
