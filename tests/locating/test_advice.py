# SPDX-License-Identifier: BSD-3-Clause
"""What is advised about a culprit."""

import itertools
import shlex

import pytest

from convcal.cli.application import build_parser
from convcal.diagnosis.advice import advise
from convcal.diagnosis.record import Step

CROPPED = Step("conv_transpose", "up_cast_fp16")
HOW = {"runtime": "auto", "compute_units": "all", "faults": (), "function": None}
CORRECTABLE = ("shift", "affine", "row-stride")
OTHERS = ("saturation", "cliff", "channel-order", "unstructured")


def advice(*operations, family, cause="device", is_output=False, has_fp16=True, **how):
    return advise(
        family=family,
        cause=cause,
        operations=operations,
        is_output=is_output,
        has_fp16=has_fp16,
        how=HOW | how,
    )


@pytest.mark.parametrize(
    ("family", "cause", "strategy"),
    [
        ("shift", "device", "explicit-crop"),
        ("unstructured", "device", "zero-insertion"),
        ("saturation", "program", "fp32-island"),
    ],
)
def test_a_transposed_convolution_is_rewritten_by_what_is_wrong(family, cause, strategy):
    command = f"convcal rewrite OBSERVED --strategy {strategy} --at up_cast_fp16 -o NAME.mlpackage"
    found = advice(CROPPED, family=family, cause=cause)
    assert sum(each.endswith(command) for each in found) == 1


def test_casts_are_no_operations_to_rewrite():
    found = advice(Step("cast", "cast_3"), Step("exp", "e_cast_fp16"), family="affine")
    assert any("--strategy fp32-island --at e_cast_fp16 -o" in each for each in found)
    assert not any("rewrite" in each for each in advice(Step("cast", "c"), family="affine"))


def test_what_is_fp32_already_is_not_rewritten():
    found = advice(CROPPED, family="shift", cause="program", has_fp16=False)
    assert not any("convcal rewrite" in each for each in found)


@pytest.mark.parametrize("is_output", [True, False])
def test_only_an_output_can_be_read_through_its_strides(is_output):
    found = advice(Step("conv", "c"), family="row-stride", is_output=is_output)
    assert any("MLShapedArray" in each for each in found) == is_output


@pytest.mark.parametrize("cause", ["device", "program", "unknown"])
@pytest.mark.parametrize("family", [*CORRECTABLE, *OTHERS])
def test_every_command_is_one(family, cause):
    how = {"runtime": "coreml", "function": "a b", "faults": ("noise:at=up_1",)}
    operations = (Step("conv_transpose", "up 1"), Step("add", "sum"))
    commands = set()
    for is_output, has_fp16 in itertools.product((False, True), repeat=2):
        found = advice(
            *operations, family=family, cause=cause, is_output=is_output, has_fp16=has_fp16, **how
        )
        for text in found:
            _, mark, command = text.partition("convcal ")
            if mark:
                build_parser().parse_args(shlex.split(command))
                commands.add(command.split()[0])
    assert "rewrite" in commands
    assert ("fit" in commands) == (cause != "program" and family in CORRECTABLE)


def test_other_units_are_proposed_where_a_device_did_it():
    asked = {"family": "noise", "has_fp16": False}
    assert advice(Step("add", "sum"), **asked, faults=("noise",)) == ()
    assert "--observed-compute-units cpu-only" in advice(Step("add", "sum"), **asked)[-1]
