# SPDX-License-Identifier: BSD-3-Clause
"""The verbs ``capture`` and ``run``, which record outputs."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from convcal.cli.contract import Outcome
from convcal.cli.parser import (
    UsageError,
    Verbs,
    add_data,
    add_emulate,
    add_json,
    add_output,
    add_runtime,
    model_flags,
)
from convcal.cli.terminal import progress, say
from convcal.errors import RunnerError
from convcal.words import ROLES

if TYPE_CHECKING:
    from rich.console import RenderableType

    from convcal.capturing import Recording
    from convcal.data.captures import Capture

__all__ = ["add_capture", "add_run"]

_CAPTURE_DESCRIPTION = """\
Record a model's outputs for every sample, as the reference's or the observed
ones, so that fitting needs no model and no Mac. Both roles go to one PATH, one
after the other. --import takes outputs recorded in an app, in PyTorch, ..."""

_CAPTURE_USAGE = """convcal capture MODEL --role ROLE --data PATH -o PATH [options]
       convcal capture --import OUTPUTS.npz --role ROLE -o PATH [options]"""

_CAPTURE_EPILOG = """\
example:
  convcal capture fp32.mlpackage --role reference --data data/ -o net.capture
  convcal capture fp16.mlpackage --role observed --data data/ -o net.capture
  convcal fit --captures net.capture -o net.json

A file for --import has keys SAMPLE/OUTPUT, or OUTPUT with all samples along
the first axis. A sample is an output as the model gives it, with its batch
axis: 24 of shape (1, 3, 64, 64) are one array of (24, 3, 64, 64), or of
(24, 1, 3, 64, 64). The roles are paired by the names of the samples."""

_RUN_DESCRIPTION = """\
Run a model over a calibration set, write its outputs with keys SAMPLE/TENSOR."""

_RUN_USAGE = "convcal run MODEL --data PATH -o OUTPUTS.npz [options]"

_RUN_EPILOG = """\
example:
  convcal run fp16.mlpackage --data pictures/ -o outputs.npz

faults for --emulate (docs/faults.md; + joins; inside: at=NAME/… or on=TYPE/…):
  crop-origin:variant=zero,precision=fp16  stride-one  fp16-index
  fp16-scale:constant=1/(N-1),corner=start  fp16-grid:mode=stored
  fp16-epsilon:subnormals=zero  slice-saturate:limit=4094.0
  lut-activation:knots=33,reach=8.0  int-shift:displacement=1,fill=edge,seed=0
  frac-shift:displacement=-0.5  scale-corner:growth=0.00048828125,corner=start
  scale-centre:ratio=0.984375  grid-quant:mode=stored
  row-stride:fill=zero,seed=0  flat-offset:displacement=1,fill=zero,seed=0
  overlong:tail=1,fill=zero,seed=0  stride-collapse:stride=2
  channel-affine:gain=1.0,bias=0.0  channel-dead:channels=0,value=0.0
  edge-gain:width=1,gain=0.5,side=both  last-elem:error=1.0
  saturate:limit=65504.0,to=clamp,nan=keep  cliff:threshold=10.4,value=0.0
  lut-bias:function=sigmoid,knots=33,reach=8.0  flush:threshold=6.103515625e-05
  fp16-round  noise:relative=0.01,seed=0  garbage:strength=1.0,seed=0
  prefix-only:length=4,along=last,seed=0
devices: profile-m1-ane  profile-m2-ane  profile-m5-ane  profile-m1-macos-14
  profile-mps-macos-12"""


def add_capture(verbs: Verbs) -> None:
    """Add the parser of ``capture``."""
    parser = verbs.add_parser(
        "capture",
        help="record outputs, for fitting elsewhere",
        usage=_CAPTURE_USAGE,
        description=_CAPTURE_DESCRIPTION,
        epilog=_CAPTURE_EPILOG,
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help=".mlpackage to run")
    parser.add_argument(
        "--import",
        dest="imported",
        metavar="OUTPUTS.npz",
        help="instead of a model and data: outputs recorded elsewhere",
    )
    parser.add_argument(
        "--role",
        choices=ROLES,
        required=True,
        metavar="ROLE",
        help=" or ".join(ROLES),
    )
    add_data(parser)
    add_output(
        parser,
        metavar="PATH",
        what="capture (a folder)",
        force="replace this role if it is recorded already",
    )
    parser.add_argument(
        "--append",
        "--resume",
        dest="append",
        action="store_true",
        help="add samples to this role, or go on with an interrupted recording; samples that are "
        "there are not run again",
    )
    add_runtime(parser, "")
    add_emulate(parser, model="the observed MODEL")
    add_json(parser)
    parser.set_defaults(run=_capture)


def _capture(arguments: argparse.Namespace) -> Outcome:
    if arguments.imported is not None:
        given = ["MODEL"] if arguments.model is not None else []
        given += ["--data"] if arguments.data is not None else []
        given += model_flags(arguments)
        if given:
            raise UsageError(f"--import takes the place of {', '.join(given)}; leave one out")
    elif arguments.model is None or arguments.data is None:
        raise UsageError("give MODEL --data PATH, or --import OUTPUTS.npz")
    if arguments.emulate and arguments.role == "reference":
        raise UsageError("--emulate acts on observed outputs, never on the reference")
    from convcal.capturing import capture_outputs, import_capture

    before = _samples_there(arguments) if arguments.append else frozenset()
    if arguments.imported is not None:
        capture = import_capture(
            arguments.imported,
            arguments.output,
            role=arguments.role,
            append=arguments.append,
            force=arguments.force,
        )
    else:
        with progress("running the model") as tell, _told_what_is_kept(arguments):
            capture = capture_outputs(
                arguments.model,
                arguments.data,
                arguments.output,
                role=arguments.role,
                runtime=arguments.runtime,
                compute_units=arguments.compute_units,
                emulate=arguments.emulate,
                timeout=arguments.timeout,
                append=arguments.append,
                force=arguments.force,
                progress=tell,
            )
    return Outcome(
        result={
            "path": str(capture.path),
            "role": arguments.role,
            "roles": list(capture.roles),
            "samples": list(capture.samples),
            "outputs": list(capture.outputs),
            "provenance": capture.provenance,
        },
        render=lambda: _render_capture(
            capture, arguments.role, before=before, imported=arguments.imported is not None
        ),
    )


def _places(arguments: argparse.Namespace) -> tuple[Path, Path]:
    """Give where the role is, and where it grows until it is recorded to its end."""
    from convcal.data.growing import partial_path

    target: Path = arguments.output
    return target, partial_path(target, arguments.role)


def _samples_there(arguments: argparse.Namespace) -> frozenset[str]:
    """Give the samples that an earlier recording of the role has left."""
    from convcal.data.captures import open_role

    target, partial = _places(arguments)
    place = partial if partial.exists() else target
    role = open_role(place, arguments.role) if place.exists() else None
    return frozenset() if role is None else frozenset(role.samples)


@contextlib.contextmanager
def _told_what_is_kept(arguments: argparse.Namespace) -> Iterator[None]:
    """Say where an interrupted recording lies, if there is anything of it."""
    try:
        yield
    except (KeyboardInterrupt, RunnerError):
        target, partial = _places(arguments)
        if partial.exists() or (arguments.append and target.exists()):
            kept = partial if partial.exists() else target
            say(f"what was recorded is kept in {kept}; --resume goes on from there")
        else:
            say("no sample was recorded yet; run the same command again")
        raise


def _render_capture(
    capture: Capture, role: str, *, before: frozenset[str], imported: bool
) -> list[RenderableType]:
    from convcal.cli.commands import command_line
    from convcal.layout import Layout
    from convcal.report.tables import emulation_notice
    from convcal.report.text import describe_axes, printable

    parts: list[RenderableType] = []
    if faults := capture.provenance[role].get("faults"):
        parts.append(emulation_notice([str(faults)]))
    samples = [*capture.samples, *capture.unpaired.get(role, ())]
    if before.issuperset(samples):
        done = f"nothing was left to do: {_samples(samples)} are in {capture.path} already"
    elif before:
        added = [name for name in samples if name not in before]
        done = f"{_samples(added)} added to the {len(before)} in {capture.path}"
    else:
        done = f"{_samples(samples)} written to {capture.path}"
    parts.append(f"{role} outputs, {done}; each has")
    for name, array in capture.read_sample(role, samples[0]).items():
        layout = Layout.of(array, kind=capture.kinds.get(name))
        axes = describe_axes(array.shape, layout)
        parts.append(f"  {printable(name)}: {array.dtype}, {axes}")
    if imported:  # nothing in the file says what its axes are
        parts.append("if these are other axes, tell fit and check: --batch-axis, --channel-axis")
    missing = [each for each in ROLES if each not in capture.roles]
    for holder, names in capture.unpaired.items():
        lacking = ROLES[1 - ROLES.index(holder)]
        parts.append(f"{_samples(names)} still to be added to the {lacking} outputs, with --append")
    if missing:
        command = command_line("-o", capture.path)
        parts.append(
            f"the {missing[0]} outputs are still to be added to it: "
            f"convcal capture … --role {missing[0]} {command}"
        )
    elif not capture.unpaired:
        parts.append("next:")
        fit = ("convcal", "fit", "--captures", capture.path, "-o")
        name = f"{capture.path.name.removesuffix('.capture')}.calibration.json"
        parts.append(f"  {command_line(*fit, capture.path.with_name(name))}")
    return parts


def add_run(verbs: Verbs) -> None:
    """Add the parser of ``run``."""
    parser = verbs.add_parser(
        "run",
        help="run a model, keep its outputs",
        usage=_RUN_USAGE,
        description=_RUN_DESCRIPTION,
        epilog=_RUN_EPILOG,
    )
    parser.add_argument("model", metavar="MODEL", help=".mlpackage to run")
    add_data(parser, required=True)
    parser.add_argument(
        "--outputs",
        nargs="+",
        action="extend",
        default=[],
        metavar="TENSOR",
        help="what to write: outputs or, on the reference runtime, any tensor of the program "
        "(default: all outputs)",
    )
    add_output(parser, metavar="OUTPUTS.npz", what="file")
    add_runtime(parser, "")
    add_emulate(parser, model="MODEL")
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> Outcome:
    from convcal.capturing import record_outputs

    with progress("running the model") as tell:
        recording = record_outputs(
            arguments.model,
            arguments.data,
            arguments.output,
            tensors=arguments.outputs,
            runtime=arguments.runtime,
            compute_units=arguments.compute_units,
            emulate=arguments.emulate,
            timeout=arguments.timeout,
            force=arguments.force,
            progress=tell,
        )
    return Outcome(
        result={
            "file": str(recording.path),
            "samples": list(recording.samples),
            "outputs": recording.outputs,
            "provenance": recording.provenance,
        },
        render=lambda: _render_run(recording),
    )


def _render_run(recording: Recording) -> list[RenderableType]:
    from convcal.data.arrays import listing
    from convcal.report.tables import emulation_notice
    from convcal.report.text import printable

    parts: list[RenderableType] = []
    if faults := recording.provenance.get("faults"):
        parts.append(emulation_notice([str(faults)]))
    parts.append(f"outputs of {_samples(recording.samples)} written to {recording.path}, each with")
    parts.extend(f"  {printable(name)}: {kind}" for name, kind in recording.outputs.items())
    # An app that records outputs must call them the same.
    parts.append(f"called {listing(recording.samples)}")
    return parts


def _samples(names: Sequence[str]) -> str:
    return f"{len(names)} sample{'s' if len(names) != 1 else ''}"
