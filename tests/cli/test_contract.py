# SPDX-License-Identifier: BSD-3-Clause
"""What scripts rely on: exit codes, one JSON document, streams, help, start-up without weight."""

import subprocess
import sys
import warnings

import jsonschema
import pytest
from cli.scenes import FAULT, displaced

import convcal as package
from convcal.cli.application import VERBS, build_parser
from convcal.cli.contract import ENVELOPE, EXIT_CODES, ExitCode
from convcal.errors import ConvcalError, ConvcalWarning, SelfCheckError

DOCUMENT = {
    "type": "object",
    "required": list(ENVELOPE),
    "additionalProperties": False,
    "properties": {
        "schema_version": {"const": 1},
        "command": {"enum": [*VERBS, None]},
        "status": {
            "enum": [
                *("done", "identical", "correctable", "partly-correctable", "not-identifiable"),
                *("not-correctable", "passed", "failed", "found", "nothing-to-do", "error"),
                *("interrupted", "precision-noise", "accumulated", "culprit-found"),
            ]
        },
        "result": {"type": ["object", "null"]},
        "warnings": {"type": "array", "items": {"type": "string"}},
        "error": {
            "oneOf": [
                {"type": "null"},
                {
                    "type": "object",
                    "required": ["code", "message"],
                    "additionalProperties": False,
                    "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
                },
            ]
        },
    },
}


def check(result):
    document = result.document
    jsonschema.validate(document, DOCUMENT)
    assert (document["result"] is None) == (document["error"] is not None)
    return document


def test_every_verb_writes_one_document(convcal, pair, data, captured):
    for command, expected in (
        (("fit", *pair, "--data", data, "--emulate", FAULT, "-o", "net.json"), "correctable"),
        (("check", *pair, "--data", data), "passed"),
        (("check", *pair, "--data", data, "--emulate", FAULT), "failed"),
        (("run", pair[1], "--data", data, "-o", "outputs.npz"), "done"),
        (("diagnose", *pair, "--data", data), "identical"),
        (("diagnose", *pair, "--data", data, "--emulate", FAULT, "-o", "d.json"), "culprit-found"),
        (("capture", pair[1], "--role", "observed", "--data", data, "-o", "c"), "done"),
        (("capture", "--import", "outputs.npz", "--role", "reference", "-o", "c"), "done"),
        (("apply", "net.json", "outputs.npz", "-o", "corrected.npz"), "done"),
        (("export", "net.json", "--to", "python", "-o", "net.py"), "done"),
        (("inspect", pair[1]), "found"),
        (("rewrite", pair[1], "--strategy", "subpixel", "-o", "fixed.mlpackage"), "done"),
        (("inspect", "fixed.mlpackage"), "done"),
        (("rewrite", pair[0], "--strategy", "fp32-island", "-o", "n.mlpackage"), "nothing-to-do"),
        (("doctor",), "done"),
    ):
        document = check(convcal(*command, "--json"))
        assert document["status"] == expected
        assert document["command"] == command[0]


def test_warnings_of_ours_are_told_and_listed_and_others_are_not(convcal, pair, data, monkeypatch):
    def examine_machine():
        warnings.warn("a library deprecates something", DeprecationWarning, stacklevel=1)
        for _ in range(2):
            warnings.warn("mind the gap", ConvcalWarning, stacklevel=1)
        raise ConvcalError("enough")

    monkeypatch.setattr("convcal.diagnostics.examine_machine", examine_machine)
    result = convcal("doctor", "--json")
    assert check(result)["warnings"] == ["mind the gap"]
    assert result.err.splitlines() == ["warning: mind the gap", "error: enough"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((), "VERB"),
        (("bogus",), "bogus"),
        (("fit", "--bogus", "-o", "net.json"), "--bogus"),
        (("fit", "-o", "net.json"), "REFERENCE, OBSERVED, --data missing"),
        (("fit", "a", "-o", "net.json", "--captures", "c"), "REFERENCE"),
        (("fit", "--captures", "c"), "--output"),
        (("fit", "--captures", "c", "--emulate", "crop-origin", "-o", "n"), "--emulate"),
        (("check", "a", "b"), "--data missing"),
        (("capture", "--role", "observed", "-o", "c"), "--import"),
        (("capture", "m", "--import", "o", "--role", "observed", "-o", "c"), "MODEL"),
        (("capture", "m", "--data", "d", "--role", "best", "-o", "c"), "best"),
        (
            ("capture", "m", "--data", "d", "--role", "reference", "--emulate", "noise", "-o", "c"),
            "never on the reference",
        ),
        (("export", "c", "--to", "coreml", "-o", "n"), "--model"),
        (("export", "c", "--to", "python", "--model", "m", "-o", "n"), "--model"),
        (("export", "c", "--to", "python", "--allow-scale", "-o", "n"), "--allow-scale"),
        (("export", "c", "--to", "c", "-o", "n"), "'c'"),
        (("apply", "c", "i", "-o", "o", "--precision", "float8"), "float8"),
        (("inspect",), "MODEL"),
        (("rewrite", "m", "-o", "n.mlpackage"), "--strategy"),
        (("rewrite", "m", "--strategy", "magic", "-o", "n.mlpackage"), "magic"),
        (("rewrite", "m", "--strategy", "subpixel", "--at", "-o", "n.mlpackage"), "--at"),
        (
            ("rewrite", "m", "--strategy", "subpixel", "--weights-from", "w", "-o", "n.mlpackage"),
            "--weights-from",
        ),
        (("fit", "--json=1"), "--json"),
    ],
)
def test_usage_errors_say_what_is_wrong_in_both_forms(convcal, folder, words, named):
    result = convcal(*words)
    assert result.code == 2
    assert result.out == ""
    assert named in result.err
    assert len(result.err.splitlines()) == 1
    if words != ("fit", "--json=1"):
        document = check(convcal(*words, "--json"))
        assert document["error"]["code"] == "usage"
        assert named in document["error"]["message"]
    assert list(folder.iterdir()) == []


def test_a_product_that_fails_its_own_check_exits_with_3(refused, folder, calibration, monkeypatch):
    def fail(*_, **__):
        raise SelfCheckError("it does not hold")

    monkeypatch.setattr("convcal.export.python.export_python", fail)
    words = ("export", calibration, "--to", "python", "-o", "net.py")
    refused(*words, names=["it does not hold"], code=3, error="self-check-failed")


def test_a_defect_gets_a_short_message_and_a_traceback_on_request(refused, convcal, monkeypatch):
    def fail():
        raise KeyError("strange\nand long")

    monkeypatch.setattr("convcal.diagnostics.examine_machine", fail)
    refused("doctor", names=["defect", "KeyError", "CONVCAL_DEBUG"], error="internal-error")
    monkeypatch.setenv("CONVCAL_DEBUG", "1")
    result = convcal("doctor")
    assert result.code == 2
    assert "Traceback" in result.err
    assert "in fail" in result.err


def test_names_from_models_cannot_act_on_the_terminal(convcal, captured):
    name = "y\n\x1b[31m[bold]red\u202e" + "n" * 300
    path = captured(*displaced(), name=name)
    result = convcal("fit", "--captures", path, "-o", "net.json")
    assert result.code == 0
    for text in (result.out, convcal("check", "--captures", path).out):
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert r"y\n\x1b[31m[bold]red" in text
        assert "n" * 60 not in text
    document = check(convcal("check", "--captures", path, "--json"))
    assert list(document["result"]["outputs"]) == [name]


def test_numbers_that_json_lacks_are_text(convcal, captured):
    reference, _ = displaced()
    result = convcal("check", "--captures", captured(reference, reference), "--json")
    assert result.code == 0
    assert check(result)["result"]["outputs"]["y"]["metrics"]["snr_db"] == "inf"


@pytest.mark.parametrize("verb", VERBS)
def test_help_fits_one_screen_and_has_an_example(convcal, verb):
    result = convcal(verb, "--help")
    assert result.code == 0
    lines = result.out.splitlines()
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 80
    assert f"  convcal {verb}" in result.out.split("example:")[1]
    for word in result.out.split("example:")[1].splitlines():
        if word.startswith("  convcal "):
            build_parser().parse_args(word.split()[1:])


def test_help_has_every_verb_every_exit_code_and_every_key(convcal):
    text = convcal("--help").out
    assert max(map(len, text.splitlines())) <= 80
    for word in (*VERBS, *ENVELOPE, *(f"{code:d}" for code in ExitCode)):
        assert f"  {word} " in text
    assert set(EXIT_CODES) == set(ExitCode)
    for verb in ("fit", "capture"):
        assert "RUNS that file" in convcal(verb, "--help").out


def test_the_version_is_told(convcal):
    result = convcal("--version")
    assert result.code == 0
    assert result.out == f"convcal {package.__version__}\n"


def test_help_loads_neither_numpy_nor_rich():
    code = (
        "import sys; from convcal.cli import main; main(['fit', '--help']); "
        "print(sorted({'numpy', 'rich', 'coremltools', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_output_goes_through_any_encoding(folder, captured):
    path = captured(*displaced(), name="ü→")
    words = [sys.executable, "-m", "convcal", "check", "--captures", str(path), "--min-snr", "-9"]
    done = subprocess.run(
        words, capture_output=True, check=False, env={"PYTHONIOENCODING": "ascii", "PATH": ""}
    )
    assert done.returncode == 0, done.stderr
    assert b"\\xfc" in done.stdout


def test_the_help_lists_every_fault_with_its_defaults_and_every_profile(convcal):
    from convcal.faults import FAULTS, PROFILES

    text = convcal("run", "--help").out.split("faults for --emulate", 1)[1]
    faults, profiles = text.split("):", 1)[1].split("devices:", 1)
    assert faults.split() == [str(fault()) for fault in FAULTS.values()]
    assert profiles.split() == list(PROFILES)


def test_an_unknown_flag_leads_to_the_help_of_the_verb(convcal):
    result = convcal("check", "a", "b", "--data", "c", "--min-snrr", "3")
    assert result.code == 2
    assert "unknown arguments: --min-snrr 3; see 'convcal check --help'" in result.err
