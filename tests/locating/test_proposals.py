# SPDX-License-Identifier: BSD-3-Clause
"""What is advised can be done: every command is one of ours, as it stands."""

import itertools
import shlex

import pytest

from convcal.cli.application import build_parser
from convcal.diagnosis.advice import advise
from convcal.diagnosis.record import Step

HOW = {"runtime": "auto", "compute_units": "all", "faults": (), "function": None}
FAMILIES = ("shift", "affine", "row-stride", "saturation", "cliff", "channel-order", "unstructured")


@pytest.mark.parametrize("cause", ["device", "program", "unknown"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_command_is_one(family, cause):
    advised = set()
    for is_output, has_fp16 in itertools.product((False, True), repeat=2):
        advice = advise(
            family=family,
            cause=cause,
            operations=(Step("conv_transpose", "up 1"), Step("add", "sum")),
            is_output=is_output,
            has_fp16=has_fp16,
            how=HOW | {"runtime": "coreml", "function": "a b", "faults": ("noise:at=up_1",)},
        )
        for text in advice:
            _, mark, command = text.partition("convcal ")
            if mark:
                build_parser().parse_args(shlex.split(command))
                advised.add(command.split()[0])
    assert "rewrite" in advised
    assert ("fit" in advised) == (cause != "program" and family in FAMILIES[:3])


def test_other_units_are_proposed_where_a_device_did_it():
    asked = {
        "family": "noise",
        "cause": "device",
        "operations": (Step("add", "sum"),),
        "is_output": False,
        "has_fp16": False,
    }
    assert advise(**asked, how=HOW | {"faults": ("noise",)}) == ()
    assert "--observed-compute-units cpu-only" in advise(**asked, how=HOW)[-1]
