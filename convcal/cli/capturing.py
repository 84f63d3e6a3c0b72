# SPDX-License-Identifier: BSD-3-Clause
"""The verb ``capture``: record outputs, import them, merge captures, verify one."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convcal.cli.contract import ExitCode, Outcome
from convcal.cli.parser import (
    UsageError,
    Verbs,
    add_data,
    add_emulate,
    add_function,
    add_json,
    add_runtime,
    model_flags,
)
from convcal.cli.terminal import progress, say
from convcal.errors import RunnerError
from convcal.words import ROLES

if TYPE_CHECKING:
    from rich.console import RenderableType

    from convcal.data.captures import Capture
    from convcal.data.verifying import Damage, Verification

__all__ = ["add_capture"]

_DESCRIPTION = """\
Record a model's outputs for every sample, as the reference's or the observed
ones, so that fitting needs no model and no Mac. Both roles go to one PATH.
--import takes outputs recorded elsewhere (docs/captures.md)."""

_USAGE = """convcal capture MODEL --role ROLE --data PATH -o PATH [options]
       convcal capture --import OUTPUTS --role ROLE -o PATH
       convcal capture --merge PATH PATH ... -o PATH
       convcal capture --verify PATH"""

_EPILOG = """\
example:
  convcal capture fp32.mlpackage --role reference --data data/ -o net.capture
  convcal capture fp16.mlpackage --role observed --data data/ -o net.capture
  convcal capture --verify net.capture
  convcal fit --captures net.capture -o net.json

Keys of OUTPUTS are SAMPLE/OUTPUT, or OUTPUT with all samples along the first
axis: 24 samples of (1, 3, 64, 64) are (24, 3, 64, 64) or (24, 1, 3, 64, 64)."""

_FORMS = {
    "MODEL": ("--role", "--data", "-o"),
    "--import": ("--role", "-o"),
    "--merge": ("-o",),
    "--verify": (),
}
"""By what makes a form of the verb, what it needs."""
_TAKEN = {
    "--import": {"--append", "--force"},
    "--merge": {"--force"},
    "--verify": set[str](),
}
"""By form, what it takes besides; a model takes everything."""


def add_capture(verbs: Verbs) -> None:
    """Add the parser of ``capture``."""
    parser = verbs.add_parser(
        "capture",
        help="record outputs, for fitting elsewhere",
        usage=_USAGE,
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help=".mlpackage to run")
    parser.add_argument(
        "--import",
        dest="imported",
        metavar="OUTPUTS",
        help=".npz, .safetensors, folder of .npy, or .json of polygraphy run --save-outputs",
    )
    parser.add_argument(
        "--merge", nargs="+", metavar="PATH", help="captures to make one of, with their samples"
    )
    parser.add_argument(
        "--verify", metavar="PATH", help="capture to check by its checksums; 1 if it is damaged"
    )
    parser.add_argument("--role", choices=ROLES, metavar="ROLE", help=" or ".join(ROLES))
    add_data(parser)
    parser.add_argument(
        "--tensors",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="intermediate tensors to record too",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="PATH", help="capture (a folder) to write"
    )
    parser.add_argument("--force", action="store_true", help="replace this role, or a merged one")
    parser.add_argument(
        "--append",
        "--resume",
        dest="append",
        action="store_true",
        help="add samples to this role, or go on with an interrupted recording",
    )
    add_runtime(parser)
    add_function(parser)
    add_emulate(parser, model="the observed MODEL")
    add_json(parser)
    parser.set_defaults(run=_capture)


def _capture(arguments: argparse.Namespace) -> Outcome:
    form = _form(arguments)
    if form == "--verify":
        return _verify(arguments)
    if form == "--merge":
        return _merge(arguments)
    return _import(arguments) if form == "--import" else _record(arguments)


def _form(arguments: argparse.Namespace) -> str:
    """Say which form of the verb this is; refuse what does not belong to it."""
    marks = {
        "MODEL": arguments.model,
        "--import": arguments.imported,
        "--merge": arguments.merge,
        "--verify": arguments.verify,
    }
    given = {
        "--role": arguments.role is not None,
        "--data": arguments.data is not None,
        "-o": arguments.output is not None,
        "--tensors": bool(arguments.tensors),
        "--force": arguments.force,
        "--append": arguments.append,
    }
    forms = [name for name, value in marks.items() if value is not None]
    flags = [name for name, is_given in given.items() if is_given] + model_flags(arguments)
    if not forms:
        raise UsageError("give MODEL --data PATH, or --import OUTPUTS, --merge or --verify")
    form = forms[-1]
    allowed = {*_FORMS[form], *_TAKEN.get(form, flags)}
    surplus = [name for name in (*forms[:-1], *flags) if name not in allowed]
    if surplus:
        raise UsageError(f"{form} takes the place of {', '.join(surplus)}; leave one out")
    if missing := [name for name in _FORMS[form] if name not in flags]:
        raise UsageError(
            f"{', '.join(missing)} missing; give MODEL --role ROLE --data PATH -o PATH, or "
            "--import OUTPUTS, --merge or --verify; see 'convcal capture --help'"
        )
    if arguments.emulate and arguments.role == "reference":
        raise UsageError("--emulate acts on observed outputs, never on the reference")
    return form


def _record(arguments: argparse.Namespace) -> Outcome:
    from convcal.capturing import capture_by_units, capture_outputs, path_of_units

    how: dict[str, Any] = {
        name: getattr(arguments, name)
        for name in (
            *("role", "tensors", "runtime", "function"),
            *("emulate", "timeout", "append", "force"),
        )
    }
    units: tuple[str, ...] = arguments.compute_units
    source = (arguments.model, arguments.data, arguments.output)
    targets = {name: path_of_units(arguments.output, name) for name in units}
    if len(units) == 1:
        targets = {units[0]: arguments.output}
    before = {
        name: _samples_there(target, arguments.role) if arguments.append else frozenset[str]()
        for name, target in targets.items()
    }
    with progress("running the model") as tell, _told_what_is_kept(arguments, targets):
        captures = (
            {units[0]: capture_outputs(*source, compute_units=units[0], progress=tell, **how)}
            if len(units) == 1
            else capture_by_units(*source, compute_units=units, progress=tell, **how)
        )
    results = [_result(capture, arguments.role) for capture in captures.values()]
    return Outcome(
        result=results[0] if len(units) == 1 else {"captures": results},
        render=lambda: [
            part
            for name, capture in captures.items()
            for part in _render(capture, arguments.role, before=before[name])
        ],
    )


def _import(arguments: argparse.Namespace) -> Outcome:
    from convcal.capturing import import_capture

    role = arguments.role
    before = _samples_there(arguments.output, role) if arguments.append else frozenset[str]()
    capture = import_capture(
        arguments.imported,
        arguments.output,
        role=role,
        append=arguments.append,
        force=arguments.force,
    )
    return Outcome(
        result=_result(capture, role),
        render=lambda: _render(capture, role, before=before, is_imported=True),
    )


def _merge(arguments: argparse.Namespace) -> Outcome:
    from convcal.data.merging import merge_captures

    capture = merge_captures(arguments.merge, arguments.output, force=arguments.force)
    return Outcome(result=_result(capture), render=lambda: _render_merged(capture))


def _verify(arguments: argparse.Namespace) -> Outcome:
    from convcal.data.verifying import verify_capture

    with progress("reading the capture") as tell:
        verification = verify_capture(arguments.verify, progress=tell)
    return Outcome(
        status="passed" if verification else "failed",
        result=verification.to_dict(),
        render=lambda: _render_verification(verification),
        exit_code=ExitCode.DONE if verification else ExitCode.NO,
    )


def _result(capture: Capture, role: str | None = None) -> dict[str, Any]:
    return {
        "path": str(capture.path),
        **({} if role is None else {"role": role}),
        "roles": list(capture.roles),
        "samples": list(capture.samples),
        "outputs": list(capture.outputs),
        "tensors": {holder: list(names) for holder, names in capture.tensors.items()},
        "provenance": capture.provenance,
    }


def _places(target: Path, role: str) -> tuple[Path, Path]:
    """Give where the role is, and where it grows until it is recorded to its end."""
    from convcal.data.growing import partial_path

    return target, partial_path(target, role)


def _samples_there(target: Path, role: str) -> frozenset[str]:
    """Give the samples that an earlier recording of the role has left."""
    from convcal.data.captures import open_role

    _, partial = _places(target, role)
    place = partial if partial.exists() else target
    found = open_role(place, role) if place.exists() else None
    return frozenset() if found is None else frozenset(found.samples)


@contextlib.contextmanager
def _told_what_is_kept(
    arguments: argparse.Namespace, targets: Mapping[str, Path]
) -> Iterator[None]:
    """Say where an interrupted recording lies, if there is anything of it."""
    try:
        yield
    except (KeyboardInterrupt, RunnerError):
        kept = []
        for path in targets.values():
            target, partial = _places(path, arguments.role)
            if partial.exists():
                kept.append(str(partial))
            elif (target / arguments.role).exists() and (arguments.append or len(targets) > 1):
                kept.append(str(target))
        if kept:
            say(f"what was recorded is kept in {', '.join(kept)}; --resume goes on from there")
        else:
            say("no sample was recorded yet; run the same command again")
        raise


def _render(
    capture: Capture, role: str, *, before: frozenset[str], is_imported: bool = False
) -> list[RenderableType]:
    from convcal.report.tables import emulation_notice
    from convcal.report.text import n_samples, printable

    parts: list[RenderableType] = []
    if faults := capture.provenance[role].get("faults"):
        parts.append(emulation_notice([str(faults)]))
    samples = [*capture.samples, *capture.unpaired.get(role, ())]
    if before.issuperset(samples):
        done = f"nothing was left to do: {n_samples(samples)} are in {capture.path} already"
    elif before:
        added = [name for name in samples if name not in before]
        done = f"{n_samples(added)} added to the {len(before)} in {capture.path}"
    else:
        done = f"{n_samples(samples)} written to {capture.path}"
    parts.append(f"{role} outputs, {done}; each has")
    parts.extend(_axes(capture, role, samples[0]))
    for name, array in capture.read_tensors(role, samples[0]).items():
        shape = "x".join(map(str, array.shape)) or "scalar"
        parts.append(f"  {printable(name)}: {array.dtype} {shape}, an intermediate tensor")
    if is_imported:  # nothing in the file says what its axes are
        parts.append("if these are other axes, tell fit and check: --batch-axis, --channel-axis")
    return parts + _what_next(capture)


def _axes(capture: Capture, role: str, sample: str) -> Iterator[str]:
    from convcal.layout import Layout
    from convcal.report.text import describe_axes, printable

    for name, array in capture.read_sample(role, sample).items():
        layout = Layout.of(array, kind=capture.kinds.get(name))
        yield f"  {printable(name)}: {array.dtype}, {describe_axes(array.shape, layout)}"


def _what_next(capture: Capture) -> list[RenderableType]:
    from convcal.cli.commands import command_line
    from convcal.report.text import n_samples

    parts: list[RenderableType] = []
    missing = [each for each in ROLES if each not in capture.roles]
    for holder, names in capture.unpaired.items():
        lacking = ROLES[1 - ROLES.index(holder)]
        parts.append(
            f"{n_samples(names)} still to be added to the {lacking} outputs, with --append"
        )
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


def _render_merged(capture: Capture) -> list[RenderableType]:
    from convcal.report.tables import emulation_notice
    from convcal.report.text import n_samples

    parts: list[RenderableType] = []
    for role in capture.roles:
        samples = [*capture.samples, *capture.unpaired.get(role, ())]
        if faults := capture.provenance[role].get("faults"):
            parts.append(emulation_notice([str(faults)]))
        parts.append(f"{role} outputs, {n_samples(samples)} written to {capture.path}")
    return parts + _what_next(capture)


def _render_verification(verification: Verification) -> list[RenderableType]:
    from convcal.report.text import n_samples

    parts: list[RenderableType] = [
        f"{role}: {n_samples(samples)}" for role, samples in verification.samples.items()
    ]
    parts.extend(f"note: {remark}" for remark in verification.remarks)
    parts.extend(_line(damage) for damage in verification.damage)
    n_damaged = len(verification.damage)
    parts.append(
        f"{verification.path} is as it was recorded, {verification.n_chunks} chunks"
        if verification
        else f"{verification.path} is damaged in {n_damaged} place{'s' if n_damaged > 1 else ''}; "
        "copy it again, or record what is damaged again"
    )
    return parts


def _line(damage: Damage) -> str:
    from convcal.report.text import printable

    words = {"sample": damage.sample, "output": damage.output, "tensor": damage.tensor}
    named = [f"{word} {printable(name)}" for word, name in words.items() if name]
    where = ", ".join(word for word in (damage.role, *named) if word)
    return f"damaged: {where + ': ' if where else ''}{' '.join(damage.reason.split())}"
