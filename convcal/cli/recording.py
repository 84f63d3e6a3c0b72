# SPDX-License-Identifier: BSD-3-Clause
"""The verb ``run``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from convcal.cli.contract import Outcome
from convcal.cli.parser import (
    Verbs,
    add_data,
    add_emulate,
    add_function,
    add_json,
    add_output,
    add_runtime,
)
from convcal.cli.terminal import progress

if TYPE_CHECKING:
    from rich.console import RenderableType

    from convcal.capturing import Recording

__all__ = ["add_run"]

_RUN_DESCRIPTION = """\
Run a model over a calibration set, write its outputs with keys SAMPLE/TENSOR."""

_RUN_USAGE = "convcal run MODEL --data PATH -o OUTPUTS.npz [options]"

_RUN_EPILOG = """\
example:
  convcal run fp16.mlpackage --data pictures/ -o outputs.npz

faults for --emulate (docs/faults.md; + joins; inside: at=NAME/… or on=TYPE/…):
  crop-origin:variant=zero,precision=fp16  stride-one  fp16-index
  fp16-scale:constant=step,corner=start  fp16-grid:mode=stored
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
    add_function(parser)
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
            function=arguments.function,
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
    from convcal.report.text import n_samples, printable

    parts: list[RenderableType] = []
    if faults := recording.provenance.get("faults"):
        parts.append(emulation_notice([str(faults)]))
    if recording.provenance.get("runtime") == "reference":
        parts.append("made by the reference runtime, on the CPU: no Apple hardware took part")
    parts.append(
        f"outputs of {n_samples(recording.samples)} written to {recording.path}, each with"
    )
    parts.extend(f"  {printable(name)}: {kind}" for name, kind in recording.outputs.items())
    # An app that records outputs must call them the same.
    parts.append(f"called {listing(recording.samples)}")
    return parts
