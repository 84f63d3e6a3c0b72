# SPDX-License-Identifier: BSD-3-Clause
"""A fault that is planted is found where it is, as what it is, in every way of looking."""

import json
import math

import numpy as np
import pytest
from coreml.models import save_functions
from locating.scenes import build, samples
from programs import mb

import convcal.diagnosis.journal
from convcal import diagnose
from convcal.coreml.package import read_package
from convcal.coreml.program import load_program
from convcal.diagnosis import tracing
from convcal.diagnosis.outline import Outline
from convcal.diagnosis.sources import conclude
from convcal.diagnosis.tracing import Tracer
from convcal.errors import InputError
from convcal.runtime import open_runner

N_STEPS = 10


def names(diagnosis):
    return [
        (operation.name.removesuffix("_cast_fp16"), culprit.family, culprit.cause)
        for culprit in diagnosis.culprits
        for operation in culprit.operations
    ]


@pytest.mark.parametrize(
    ("fault", "name", "family"),
    [
        ("int-shift:displacement=1/-2", "first", "shift"),
        ("channel-affine:gain=1.3", "bent", "affine"),
        ("saturate:limit=0.7", "curved", "saturation"),
        ("row-stride", "joined", "row-stride"),
        ("edge-gain:width=1,gain=0.5", "pooled", "edge"),
        ("channel-dead:channels=3", "third", "dead-channel"),
        ("last-elem:error=1", "enlarged", "element"),
        ("noise:relative=0.1", "out", "noise"),
    ],
)
def test_both_ways_of_looking_name_the_operation_and_the_family(pair, fault, name, family):
    separator = "," if ":" in fault else ":"
    place = "out" if name == "out" else f"{name}_cast_fp16"
    emulate = [f"{fault}{separator}at={place}"]
    at_once, by_halves = (
        diagnose(*pair, samples(), emulate=emulate, memory=memory) for memory in (1 << 30, 1)
    )
    assert names(at_once) == [(name, family, "device")]
    assert at_once.verdict == "culprit-found"
    assert at_once.pairing.share == 1
    assert at_once.is_emulated
    assert at_once.n_runs == 2
    assert by_halves.n_runs <= math.ceil(math.log2(N_STEPS)) + 2
    assert (by_halves.culprits, by_halves.outputs) == (at_once.culprits, at_once.outputs)


@pytest.mark.parametrize("memory", [1 << 30, 1])
def test_faithful_fp16_has_no_fault(pair, memory):
    found = diagnose(*pair, samples(), memory=memory, find_all=True)
    assert found.culprits == ()
    assert found.verdict == "identical"
    assert found.outputs["out"].state == "identical"
    assert found.n_runs == 1


@pytest.mark.parametrize("memory", [1 << 30, 1])
def test_all_faults_are_found_each_by_itself(pair, memory):
    emulate = [
        "int-shift:displacement=1,at=first_cast_fp16",
        "channel-affine:gain=0.8,at=third_cast_fp16",
    ]
    found = diagnose(*pair, samples(), emulate=emulate, memory=memory, find_all=True)
    assert names(found) == [("first", "shift", "device"), ("third", "affine", "device")]


def test_what_core_ml_does_is_seen_through_more_outputs(pair, monkeypatch):
    """The reference runtime stands for Core ML, which gives outputs only, a few at a time."""
    emulate = ["int-shift:displacement=1,at=third_cast_fp16"]
    direct = diagnose(*pair, samples(), emulate=emulate, memory=1)

    def open_exposed(path, **how):
        assert how.pop("runtime") == "auto"
        opened.append(path)
        return open_runner(path, runtime="reference", **how)

    opened = []
    monkeypatch.setattr(tracing, "runtime_here", lambda runtime: "coreml")
    monkeypatch.setattr(tracing, "_MOST_ON_CORE_ML", N_STEPS - 1)
    monkeypatch.setattr(tracing, "open_runner", open_exposed)
    found = diagnose(*pair, samples(), emulate=emulate)
    assert found.culprits == direct.culprits
    assert found.n_runs == direct.n_runs
    assert len(opened) == found.n_runs + 1  # the last one tells where it ran


def test_the_same_package_twice_differs_by_the_fault_alone(pair):
    emulate = ["int-shift:displacement=1,at=second_cast_fp16"]
    assert diagnose(pair[1], pair[1], samples()).verdict == "identical"
    found = diagnose(pair[1], pair[1], samples(), emulate=emulate)
    assert names(found) == [("second", "shift", "device")]


def test_a_fault_of_the_outputs_is_one_of_the_last_operation(pair):
    found = diagnose(*pair, samples(), emulate=["int-shift:displacement=1"])
    assert names(found) == [("out", "shift", "device")]
    assert any("convcal fit REFERENCE OBSERVED" in each for each in found.culprits[0].advice)


def test_other_weights_are_the_fault_of_the_program(pair, tmp_path):
    def change(name, array):
        return np.float32(1.2) * array if name == "second" else array

    other = build(tmp_path / "other.mlpackage", change=change)
    found = diagnose(pair[0], other, samples(), find_all=True)
    assert names(found) == [("second", "affine", "program")]
    assert found.pairing.differing == ("second_cast_fp16",)


def test_one_function_of_several_is_diagnosed(tmp_path):
    def network(x, n_times):
        for n in range(n_times):
            x = mb.tanh(x=x, name=f"curved{n}")
        return mb.exp(x=x, name="out")

    parts = {
        name: build(tmp_path / f"{name}.mlpackage", network, n_times=n_times)
        for name, n_times in (("short", 1), ("long", 2))
    }
    both = save_functions(tmp_path / "both.mlpackage", parts)
    fault = "int-shift:displacement=1,at=curved1_cast_fp16"
    found = diagnose(both, both, samples(), function="long", emulate=[fault])
    assert names(found) == [("curved1", "shift", "device")]
    assert {found.provenance[role]["function"] for role in ("reference", "observed")} == {"long"}
    assert diagnose(both, both, samples()).pairing.n_operations == 2
    with pytest.raises(InputError, match="no function 'tall'"):
        diagnose(both, both, samples(), function="tall")


def test_what_fp16_cannot_hold_is_the_fault_of_the_program(tmp_path):
    def overflowing(x):
        big = mb.mul(x=x, y=np.float32(60000.0), name="big")
        return mb.tanh(x=mb.mul(x=big, y=np.float32(1e-5), name="small"), name="out")

    both = [
        build(tmp_path / f"{each}.mlpackage", overflowing, precision=each)
        for each in ("fp32", "fp16")
    ]
    found = diagnose(*both, samples())
    assert names(found) == [("big", "saturation", "program")]


def test_a_source_tells_the_converter_from_the_device(pair, tmp_path):
    with open_runner(pair[0]) as runner:
        right = np.stack([runner.run(sample)["out"] for sample in samples()])

    def conclusion(scale, *emulate):
        file = tmp_path / "source.npz"
        np.savez(file, out=scale * right)
        found = diagnose(*pair, samples(), source=file, emulate=emulate)
        return found.source["out"]["conclusion"]

    assert "the converter is at fault" in conclusion(1.5)
    shift = "int-shift:displacement=1,at=second_cast_fp16"
    assert "the device, or fp16, is at fault" in conclusion(1, shift)
    np.savez(tmp_path / "other.npz", out=right[:2])
    with pytest.raises(InputError, match="holds 2 samples"):
        diagnose(*pair, samples(), source=tmp_path / "other.npz")


@pytest.mark.parametrize(
    ("is_right", "is_same", "conclusion"),
    [
        ((True, True), True, "all three agree"),
        ((True, False), False, "the device, or fp16, is at fault"),
        ((False, True), False, "the reference package is at fault"),
        ((False, False), True, "the source differs: the converter is at fault"),
        ((False, False), False, "the device or fp16, too"),
    ],
)
def test_who_agrees_tells_who_is_at_fault(is_right, is_same, conclusion):
    reference, observed = is_right
    told = conclude(reference_is_right=reference, observed_is_right=observed, is_same=is_same)
    assert conclusion in told


def test_an_interrupted_diagnosis_goes_on_and_comes_to_the_same(pair, tmp_path, monkeypatch):
    emulate = ["int-shift:displacement=1,at=third_cast_fp16"]
    whole = diagnose(*pair, samples(), emulate=emulate, memory=1)
    traced = Tracer.trace
    counts = []

    def interrupted(self, names, samples):
        counts.append(0)
        for found in traced(self, names, samples):
            if limit is not None and len(counts) > limit:
                raise KeyboardInterrupt
            counts[-1] += 1
            yield found

    monkeypatch.setattr(Tracer, "trace", interrupted)
    kept = tmp_path / "kept.json"
    limit = 2
    with pytest.raises(KeyboardInterrupt):
        diagnose(*pair, samples(), emulate=emulate, memory=1, checkpoint=kept)
    assert json.loads(kept.read_text())["format"] == convcal.diagnosis.journal.FORMAT
    with pytest.raises(InputError, match="of other packages, data or options"):
        diagnose(*pair, samples(), memory=1, checkpoint=kept)
    limit, n_before = None, sum(counts)
    counts.clear()
    resumed = diagnose(*pair, samples(), emulate=emulate, memory=1, checkpoint=kept)
    assert resumed == whole
    assert not kept.exists()
    n_all = whole.n_runs * len(samples())
    assert n_before + sum(counts) == n_all


def test_an_error_that_no_operation_makes_alone_is_said_to_add_up(pair):
    # Every step a little too large, no more than noise; all of them add up.
    program = Outline(load_program(read_package(pair[1])))
    places = [value.name for value in program.tensors[1:]]
    emulate = [f"channel-affine:gain=1.0015,at={name}" for name in places]
    found = diagnose(*pair, samples(), emulate=emulate)
    assert found.culprits == ()
    assert found.verdict == "accumulated"
    assert found.drift.after > found.drift.before


def test_a_diagnosis_is_json(pair, tmp_path):
    found = diagnose(*pair, samples(), emulate=["saturate:limit=0.5,to=inf,at=curved_cast_fp16"])
    record = json.loads(found.save(tmp_path / "d.json").read_text())
    assert record["format"] == "convcal.diagnosis"
    assert record["version"] == 1
    assert record["provenance"]["emulated"] is True
    assert record["culprits"][0]["level"] == "inf"


def test_an_output_that_is_used_inside_is_judged_twice(tmp_path):
    def two_outputs(x):
        inner = mb.tanh(x=x, name="inner")
        return mb.identity(x=inner, name="handed"), mb.exp(x=inner, name="last")

    both = [
        build(tmp_path / f"{each}.mlpackage", two_outputs, precision=each)
        for each in ("fp32", "fp16")
    ]
    found = diagnose(*both, samples(), emulate=["int-shift:displacement=1"], find_all=True)
    assert {culprit.tensor for culprit in found.culprits} == {"handed", "last"}
