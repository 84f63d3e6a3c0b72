# SPDX-License-Identifier: BSD-3-Clause
"""Faults inside the network, and on the outputs of a runner."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import make_package, mb

from convcal.errors import ConvcalWarning
from convcal.faults import CropOrigin, parse_fault
from convcal.model_description import Feature, ModelDescription
from convcal.runtime.faults import Distortion, FaultyRunner
from convcal.runtime.reference import ReferenceRunner

RAMP = np.array([[[1, 2, 3, 4]]], np.float32)
FULL = [1, 10, 102, 20, 203, 30, 304, 40, 400]


def upsampler(pad, output_shape=None, precision="float16"):
    """The program of coremltools #2324, with weights that tell every crop apart."""
    arguments = {} if output_shape is None else {"output_shape": [1, 1, output_shape]}
    return make_package(
        lambda x: mb.conv_transpose(
            x=x,
            weight=np.array([[[1, 10, 100]]], np.float32),
            strides=[2],
            pad_type="custom",
            pad=pad,
            name="upsample",
            **arguments,
        ),
        precision=precision,
        x=(1, 1, 4),
    )


def run(package, sample, *faults):
    faults = [parse_fault(fault) for fault in faults]
    with ReferenceRunner(package, faults=faults, threads=1) as runner:
        return runner.run(sample)


def only(results):
    (result,) = results.values()
    return result


# The origins 0 and floor(P/2) for pads [1,0], [2,0] and [2,1].
@pytest.mark.parametrize(
    ("pad", "zero", "half"),
    [([1, 0], 0, 0), ([2, 0], 0, 1), ([2, 1], 0, 1)],
)
@pytest.mark.parametrize("states_shape", [True, False])
def test_asymmetric_pads_lose_the_origin_issue_2324(pad, zero, half, states_shape):
    size = 9 - sum(pad)
    package = upsampler(pad, size if states_shape else None)
    for variant, origin in (("zero", zero), ("half", half)):
        result = only(run(package, {"x": RAMP}, f"crop-origin:variant={variant}"))
        np.testing.assert_array_equal(result, [[FULL[origin : origin + size]]])


@pytest.mark.filterwarnings("ignore:the conv_transpose:convcal.errors.ConvcalWarning")
def test_an_output_shape_loses_the_origin_issue_2281():
    package = make_package(
        lambda x: mb.conv_transpose(
            x=x, weight=np.ones((3, 3, 3, 3), np.float32), output_shape=[1, 3, 4, 4]
        ),
        x=(1, 3, 4, 4),
    )
    ones = {"x": np.ones((1, 3, 4, 4), np.float32)}
    rows = [[3, 6, 9, 9], [6, 12, 18, 18], [9, 18, 27, 27], [9, 18, 27, 27]]
    result = only(run(package, ones, "crop-origin:precision=all"))
    np.testing.assert_array_equal(result, np.broadcast_to(rows, (1, 3, 4, 4)))
    # The centre is what the reference runtime keeps here, so variant half changes nothing.
    with pytest.warns(ConvcalWarning, match="no operation"):
        centre = only(run(package, ones, "crop-origin:variant=half,precision=all"))
    np.testing.assert_array_equal(centre, only(run(package, ones)))


@pytest.mark.parametrize(("pad", "output_shape"), [([1, 1], None), ([1, 1], 7), ([0, 0], 9)])
def test_symmetric_pads_and_a_natural_output_shape_are_not_touched(pad, output_shape):
    package = upsampler(pad, output_shape)
    with pytest.warns(ConvcalWarning, match="no operation of .* 'crop-origin:variant=zero"):
        faulty = only(run(package, {"x": RAMP}, "crop-origin"))
    np.testing.assert_array_equal(faulty, only(run(package, {"x": RAMP})))


def test_an_unnatural_output_shape_triggers_with_symmetric_pads():
    package = upsampler([1, 1], 8)
    np.testing.assert_array_equal(only(run(package, {"x": RAMP})), [[FULL[1:]]])
    result = only(run(package, {"x": RAMP}, "crop-origin"))
    np.testing.assert_array_equal(result, [[FULL[:8]]])


def test_only_fp16_operations_are_touched_unless_told_otherwise():
    package = upsampler([1, 0], precision="float32")
    with pytest.warns(ConvcalWarning, match="no operation"):
        untouched = only(run(package, {"x": RAMP}, "crop-origin"))
    np.testing.assert_array_equal(untouched, [[FULL[1:]]])
    touched = only(run(package, {"x": RAMP}, "crop-origin:precision=all"))
    np.testing.assert_array_equal(touched, [[FULL[:8]]])


@st.composite
def transposed_convolutions(draw):
    rank = draw(st.integers(1, 3))
    kernel = [draw(st.integers(2, 4)) for _ in range(rank)]
    strides = [draw(st.integers(1, 3)) for _ in range(rank)]
    lengths = [draw(st.integers(4, 6)) for _ in range(rank)]  # the pads leave something
    pads = [[draw(st.integers(0, 2)) for _ in range(2)] for _ in range(rank)]
    return kernel, strides, lengths, pads, draw(st.integers(0, 2**16))


@pytest.mark.filterwarnings("ignore:no operation:convcal.errors.ConvcalWarning")
@settings(max_examples=40, deadline=None)
@given(case=transposed_convolutions(), variant=st.sampled_from(["zero", "half"]))
def test_the_observed_part_is_that_of_the_uncropped_tensor_at_the_wrong_origin(case, variant):
    kernel, strides, lengths, pads, seed = case
    generator = np.random.default_rng(seed)
    weight = generator.standard_normal((2, 3, *kernel)).astype(np.float32)
    x = generator.standard_normal((1, 2, *lengths)).astype(np.float32)

    def package(**arguments):
        return make_package(
            lambda x: mb.conv_transpose(x=x, weight=weight, strides=strides, **arguments),
            precision="float16",
            x=x.shape,
        )

    full = only(run(package(), {"x": x}))
    flat = [amount for pair in pads for amount in pair]
    result = only(
        run(package(pad_type="custom", pad=flat), {"x": x}, f"crop-origin:variant={variant}")
    )
    is_hit = any(front != back for front, back in pads)
    fronts = [front for front, _ in pads]
    if is_hit:
        fronts = [0 if variant == "zero" else sum(pair) // 2 for pair in pads]
    window = tuple(
        slice(front, front + size) for front, size in zip(fronts, result.shape[2:], strict=True)
    )
    np.testing.assert_array_equal(result, full[(slice(None), slice(None), *window)])


def test_later_layers_see_the_displaced_tensor():
    def build(x):
        y = mb.conv_transpose(
            x=x,
            weight=np.array([[[1, 10, 100]]], np.float32),
            strides=[2],
            pad_type="custom",
            pad=[1, 0],
        )
        return mb.conv(
            x=mb.relu(x=y), weight=np.ones((1, 1, 2), np.float32), pad_type="valid", name="sum"
        )

    package = make_package(build, precision="float16", x=(1, 1, 4))
    result = only(run(package, {"x": RAMP}, "crop-origin"))
    np.testing.assert_array_equal(result, [[np.add(FULL[:7], FULL[1:8])]])


def test_faults_act_in_their_order_and_are_in_the_provenance():
    package = upsampler([1, 0])
    texts = ["crop-origin:variant=half,precision=fp16", "saturate:limit=100.0,to=clamp,nan=keep"]
    texts.append("channel-affine:gain=2.0,bias=1.0")
    with ReferenceRunner(package, faults=[parse_fault(text) for text in texts]) as runner:
        assert runner.provenance["faults"] == "; ".join(texts)
        result = only(runner.run({"x": RAMP}))
    np.testing.assert_array_equal(result, [[2 * np.minimum(FULL[:8], 100) + 1]])


def test_only_outputs_are_distorted_and_not_intermediate_tensors():
    package = upsampler([1, 0])
    with ReferenceRunner(
        package,
        faults=[parse_fault("channel-affine:gain=2")],
        extra_outputs=["upsample_cast_fp16"],
    ) as runner:
        results = runner.run({"x": RAMP})
    np.testing.assert_array_equal(results["upsample_cast_fp16"], [[FULL[1:]]])
    np.testing.assert_array_equal(results["upsample"], 2 * np.array([[FULL[1:]]]))


def test_labels_are_left_alone_and_pictures_have_channels_last():
    description = ModelDescription(
        inputs=(),
        outputs=(
            Feature("label", "tensor", (1,), "int32"),
            Feature("picture", "image", (2, 2, 3), "uint8", colour="RGB", layout="HWC"),
            Feature("score", "tensor", (), "float32"),
        ),
    )
    outputs = {
        "label": np.array([7], np.int32),
        "picture": np.full((2, 2, 3), 100, np.uint8),
        "score": np.float32(2.0) * np.ones((), np.float32),
    }
    fault = parse_fault("channel-affine:gain=1.5,seed=2")
    results = Distortion([fault]).apply(outputs, description)
    np.testing.assert_array_equal(results["label"], [7])
    gain, _ = fault.coefficients(3)
    expected = np.rint((100 * gain).astype(np.float16).astype(np.float64))
    np.testing.assert_array_equal(results["picture"][0, 0], expected)
    assert results["score"] == np.float16(2.0 * fault.coefficients(1)[0][0])


class Recorded:
    """A runner that gives what it was made with."""

    description = ModelDescription(
        inputs=(), outputs=(Feature("y", "tensor", (1, 1, 3), "float32"),)
    )
    provenance = {"runtime": "recorded"}  # noqa: RUF012 - never changed

    def __init__(self):
        self.is_closed = False

    def run(self, _):
        return {"y": np.array([[[1, 2, 3]]], np.float32)}

    def close(self):
        self.is_closed = True


def test_any_runner_can_be_distorted_and_is_labelled():
    inner = Recorded()
    with FaultyRunner(inner, [parse_fault("int-shift:displacement=1")]) as runner:
        np.testing.assert_array_equal(only(runner.run({})), [[[1, 1, 2]]])
        assert runner.provenance == {
            "runtime": "recorded",
            "faults": "int-shift:displacement=1,fill=edge,seed=0",
        }
    assert inner.is_closed
    assert CropOrigin() == parse_fault("crop-origin")


@pytest.mark.parametrize(
    "idle", ["channel-affine", "saturate", "noise:relative=0", "scale-corner:growth=0"]
)
def test_a_fault_that_changes_nothing_is_warned_of_once(idle):
    runner = FaultyRunner(Recorded(), [parse_fault(idle), parse_fault("saturate:limit=2")])
    runner.run({})
    with pytest.warns(ConvcalWarning) as caught:
        runner.close()
    (warning,) = caught
    assert f"fault '{parse_fault(idle)}' changes no output" in str(warning.message)
    runner.close()


def test_a_fault_that_changes_one_sample_of_several_is_not_idle():
    description = ModelDescription((), (Feature("y", "tensor", (2,), "float32"),))
    distortion = Distortion([parse_fault("saturate:limit=5")])
    for value in (1, 9, 1):
        distortion.apply({"y": np.full(2, value, np.float32)}, description)
    distortion.warn_of_idle()
    Distortion([parse_fault("saturate")]).warn_of_idle()  # no samples, no claim


def test_the_reference_runtime_warns_of_idle_faults_too():
    package = make_package(lambda x: mb.relu(x=x), precision="float16", x=(1, 1, 4))
    runner = ReferenceRunner(package, faults=[parse_fault("saturate")])
    runner.run({"x": RAMP})
    with pytest.warns(
        ConvcalWarning, match="'saturate:limit=65504.0,to=clamp,nan=keep' changes no output"
    ):
        runner.close()


def test_the_channels_of_a_vector_are_those_that_a_correction_has():
    description = ModelDescription((), (Feature("y", "tensor", (3,), "float32"),))
    fault = parse_fault("channel-affine:gain=2,bias=0,seed=1")
    vector = np.ones(3, np.float32)
    distorted = Distortion([fault]).apply({"y": vector}, description)["y"]
    assert len(set(distorted.tolist())) == 3
