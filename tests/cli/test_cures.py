# SPDX-License-Identifier: BSD-3-Clause
"""The verbs inspect and rewrite, as a user sees them."""

import shutil

import pytest
from cli.conftest import PAIR
from programs import make_package, mb

from convcal.coreml.cures import BUILDERS
from convcal.words import STRATEGIES


def test_what_is_found_is_named_with_its_report_and_its_cure(convcal, pair):
    result = convcal("inspect", pair[1])
    assert result.code == 1
    text = " ".join(result.out.split())
    for words in (
        "fault A1 the crop of a transposed convolution begins at the wrong place",
        "where conv_transpose 'y_cast_fp16': pads in front 1, at the back 0",
        "apple/coremltools #2324",
        f"rewrite {', '.join(STRATEGIES)}",
        "1 fault among 3 operations",
        f"convcal rewrite {pair[1]} --strategy explicit-crop -o fixed.mlpackage",
    ):
        assert words in text
    (finding,) = convcal("inspect", pair[1], "--json").document["result"]["findings"]
    assert finding["fault"] == "A1"
    assert finding["level"] == "fault"
    assert finding["strategies"] == list(STRATEGIES)


def test_the_command_that_is_proposed_cures_it(convcal, pair):
    shutil.copytree(pair[1], "fp16.mlpackage")
    proposed = convcal("inspect", "fp16.mlpackage").out.splitlines()[-1].split()
    assert proposed[0] == "convcal"
    result = convcal(*proposed[1:])
    assert result.code == 0
    for words in ("operations", "multiply-adds", "bytes moved", "difference at most 0"):
        assert words in result.out
    result = convcal("inspect", "fixed.mlpackage")
    assert result.code == 0
    assert "no fault and no risk among" in result.out


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_rewrite_brings_the_whole_output_back_under_the_emulated_fault(
    convcal, pair, data, strategy
):
    fault = ("--emulate", "crop-origin")
    assert convcal("check", *pair, "--data", data, *fault).code == 1
    convcal("rewrite", pair[1], "--strategy", strategy, "-o", "fixed.mlpackage")
    checked = convcal("check", pair[0], "fixed.mlpackage", "--data", data, *fault)
    assert checked.code == 0, checked.out
    assert "no operation of 'fixed.mlpackage' is one that the emulated fault" in checked.err


def test_where_nothing_calls_for_it_nothing_is_written(convcal, pair, folder):
    result = convcal("rewrite", pair[0], "--strategy", "fp32-island", "-o", "fixed.mlpackage")
    assert result.code == 0
    assert "nothing to do: no fault that is known calls for fp32-island here" in result.out
    assert list(folder.iterdir()) == []


def test_what_cannot_be_done_is_refused(refused, pair, data):
    words = ("--strategy", "explicit-crop", "-o", "fixed.mlpackage")
    refused("inspect", data, names=["data.npz"], error="bad-input")
    refused("rewrite", "gone.mlpackage", *words, names=["gone.mlpackage", "does not exist"])
    refused("rewrite", pair[1], *words, "--at", "z", names=["'z'", "y_cast_fp16"])
    refused("rewrite", pair[1], *words[:-1], "fixed", names=["'fixed'", ".mlpackage"])
    refused(
        *("rewrite", pair[1], "--strategy", "fp32-island", "--at", "y", "-o", "f.mlpackage"),
        names=["'fp32-island' cannot rewrite the cast", "it gives nothing in fp16"],
        error="unsupported-model",
    )
    shutil.copytree(pair[1], "fixed.mlpackage")
    refused("rewrite", pair[1], *words, names=["exists already"], error="output-exists")


def test_what_does_not_compute_the_same_exits_with_3(refused, pair, monkeypatch):
    def wrong(operations, site):
        (tensor,) = BUILDERS["explicit-crop"](operations, site)
        return [operations.sum(tensor, tensor)]

    monkeypatch.setitem(BUILDERS, "subpixel", wrong)
    words = ("--strategy", "subpixel", "-o", "fixed.mlpackage")
    refused(
        *("rewrite", pair[1], *words),
        names=["did not pass its own check", "'y_cast_fp16' differs by"],
        code=3,
        error="self-check-failed",
    )


def test_a_fault_of_many_operations_is_told_once_and_all_are_in_the_document(convcal, folder):
    def build(x):
        for number in range(12):
            x = mb.sigmoid(x=x, name=f"bend{number}\x1b[31m")
        return x

    package = make_package(build, precision="float16", x=(1, 2))
    path = folder / "model.mlpackage"
    data = path / "Data" / "com.apple.CoreML"
    data.mkdir(parents=True)
    (data / "model.mlmodel").write_bytes(package.serialize())
    manifest = PAIR / "fp16.mlpackage" / "Manifest.json"
    shutil.copy(manifest, path)
    result = convcal("inspect", path)
    assert result.code == 0
    assert result.out.count("risk E3") == 1
    assert "and 4 more" in result.out
    assert "\x1b" not in result.out
    assert len(convcal("inspect", path, "--json").document["result"]["findings"]) == 12
