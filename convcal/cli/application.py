# SPDX-License-Identifier: BSD-3-Clause
"""Run one command: find its verb, collect its warnings, tell its outcome or its error."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import convcal
from convcal.cli import (
    capturing,
    checking,
    correcting,
    demo,
    diagnosing,
    fitting,
    inspecting,
    machine,
    recording,
    rewriting,
)
from convcal.cli.contract import ENVELOPE, EXIT_CODES, ExitCode, Outcome, envelope
from convcal.cli.parser import Parser, UsageError, plain_help
from convcal.cli.terminal import prepare_streams, say, write_document, write_result
from convcal.errors import ConvcalError, ConvcalWarning, InputError, UnavailableError
from convcal.report.text import in_flags

__all__ = ["VERBS", "build_parser", "run_command"]

DEBUG_VARIABLE = "CONVCAL_DEBUG"

VERBS = {
    "fit": fitting.add_fit,
    "capture": capturing.add_capture,
    "apply": correcting.add_apply,
    "export": correcting.add_export,
    "check": checking.add_check,
    "run": recording.add_run,
    "diagnose": diagnosing.add_diagnose,
    "inspect": inspecting.add_inspect,
    "rewrite": rewriting.add_rewrite,
    "demo": demo.add_demo,
    "doctor": machine.add_doctor,
}
"""By name what adds the verb's parser, in the order of ``convcal --help``."""

_DESCRIPTION = """\
Make the outputs of an fp16 Core ML model right again: find the shift, gain and
bias that separate them from the fp32 model's, prove the correction, ship it.

  convcal fit fp32.mlpackage fp16.mlpackage --data pictures/ -o net.json
  convcal export net.json --to coreml --model fp16.mlpackage -o new.mlpackage

No models at hand? 'convcal demo' does the whole job on data of its own."""


def build_parser() -> Parser:
    """Give the parser of the whole command line; parsed arguments carry the verb as ``run``."""
    parser = Parser(prog="convcal", description=_DESCRIPTION, epilog=_epilog())
    parser.add_argument(
        "--version",
        action="version",
        help="show the version",
        version=f"convcal {convcal.__version__}",
    )
    verbs = parser.add_subparsers(
        title="verbs", metavar="VERB", required=True, help="'convcal VERB --help' has an example"
    )
    for add in VERBS.values():
        add(verbs)
    return parser


def _epilog() -> str:
    codes = "\n".join(plain_help(f"{code:d}", text) for code, text in EXIT_CODES.items())
    keys = "\n".join(plain_help(key, text) for key, text in ENVELOPE.items())
    return (
        f"exit codes:\n{codes}\n\n"
        f"--json writes one document to standard output, on errors too:\n{keys}\n\n"
        "Results go to standard output, progress and warnings to standard error.\n"
        f"NO_COLOR is honoured; {DEBUG_VARIABLE}=1 adds a traceback to errors."
    )


def run_command(arguments: Sequence[str]) -> int:
    """Run one command and tell what came of it.

    Parameters
    ----------
    arguments : sequence of str
        What follows ``convcal`` on the command line.

    Returns
    -------
    int
        The exit code.
    """
    prepare_streams()
    teller = _Teller(arguments)
    outcome: Outcome | None = None
    with _told_warnings(teller.warnings):
        try:
            try:
                parsed, unknown = build_parser().parse_known_args(arguments)
            except SystemExit:  # after --help or --version
                return ExitCode.DONE
            if unknown:  # argparse would send its reader to the help of no verb
                words = " ".join(unknown)
                raise UsageError(f"unknown arguments: {words}; see 'convcal {teller.verb} --help'")
            outcome = _run(parsed)
            return teller.tell_outcome(outcome)
        except KeyboardInterrupt:
            message = "interrupted" if outcome else "interrupted; nothing half-written is left"
            return teller.tell_error("interrupted", message, ExitCode.INTERRUPTED)
        except ConvcalError as error:
            _show_traceback_if_asked()
            return teller.tell_error(error.code, str(error), ExitCode(error.exit_code))
        except Exception as error:  # noqa: BLE001 - the last resort: users get no traceback
            _show_traceback_if_asked()
            if isinstance(error, OSError) and error.filename is not None:
                # A path that the system refuses (too long, no permission) is no defect of ours.
                refused = InputError(f"cannot use '{error.filename}': {error.strerror}")
                return teller.tell_error(refused.code, str(refused), ExitCode.FAILED)
            if isinstance(error, ModuleNotFoundError) and (package := _package(error)) != "convcal":
                missing = UnavailableError(
                    f"this needs the Python package {package}, which is not installed; "
                    "pip install convcal"
                )
                return teller.tell_error(missing.code, str(missing), ExitCode.FAILED)
            return teller.tell_error("internal-error", _describe_defect(error), ExitCode.FAILED)


def _package(error: ModuleNotFoundError) -> str:
    """Name the package that the module is of; our own where the error names none."""
    return (error.name or "convcal").partition(".")[0]


def _run(parsed: argparse.Namespace) -> Outcome:
    # What the user's own code prints (--data FILE.py:FUNCTION) is no result of ours.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            outcome: Outcome = parsed.run(parsed)
        except SystemExit as error:
            raise InputError(
                f"code that was called ended the program with {error.code!r}; "
                "a function for --data must return its samples"
            ) from error
    return outcome


class _Teller:
    """Tell the end of one command, in words or as a JSON document."""

    def __init__(self, arguments: Sequence[str]) -> None:
        # Read off the words, because it must be known where they cannot be parsed, too.
        self.is_json = "--json" in arguments
        self.verb = next((word for word in arguments if word in VERBS), None)
        self.warnings: list[str] = []

    def tell_outcome(self, outcome: Outcome) -> int:
        if self.is_json:
            self._write(outcome.status, result=outcome.result)
        else:
            write_result(outcome.render())
        return outcome.exit_code

    def tell_error(self, code: str, message: str, exit_code: ExitCode) -> int:
        message = in_flags(message)
        say(f"error: {message}")
        if self.is_json:
            status = "interrupted" if exit_code is ExitCode.INTERRUPTED else "error"
            self._write(status, error={"code": code, "message": message})
        return exit_code

    def _write(
        self,
        status: str,
        *,
        result: dict[str, Any] | None = None,
        error: dict[str, str] | None = None,
    ) -> None:
        document = envelope(
            command=self.verb, status=status, result=result, warnings=self.warnings, error=error
        )
        write_document(document)


@contextlib.contextmanager
def _told_warnings(told: list[str]) -> Iterator[None]:
    """Say each of our own warnings once, as it comes, and keep it; silence those of libraries."""

    def tell(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        text = in_flags(str(message))
        if issubclass(category, ConvcalWarning) and text not in told:
            told.append(text)
            say(f"warning: {text}")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", ConvcalWarning)
        warnings.showwarning = tell
        yield


def _describe_defect(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return (
        f"this is a defect of convcal {convcal.__version__}: {type(error).__name__}"
        f"{': ' + text[0] if text else ''}; please report it with the command and the traceback "
        f"that {DEBUG_VARIABLE}=1 shows"
    )


def _show_traceback_if_asked() -> None:
    if os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
        say(traceback.format_exc().rstrip())
