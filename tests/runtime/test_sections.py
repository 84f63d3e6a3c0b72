# SPDX-License-Identifier: BSD-3-Clause
"""Faults of arrays at tensors inside the network."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import NETWORKS
from programs import make_package, mb

from convcal.coreml.package import read_package
from convcal.coreml.program import load_program
from convcal.errors import ConvcalWarning, InputError
from convcal.faults import CropOrigin, parse_fault
from convcal.runtime.reference import ReferenceRunner

GENERATOR = np.random.default_rng(0)
WEIGHTS = [GENERATOR.standard_normal((3, 3, 3, 3)).astype(np.float32) / 5 for _ in range(3)]
SAMPLE = {"x": GENERATOR.standard_normal((1, 3, 7, 6)).astype(np.float32)}
TENSORS = ("first", "bent", "second", "sum", "third")


def network(x):
    """A chain with a skip: `first` is used at once and again later."""
    first = mb.conv(x=x, weight=WEIGHTS[0], pad_type="same", name="first")
    bent = mb.relu(x=first, name="bent")
    second = mb.conv(x=bent, weight=WEIGHTS[1], pad_type="same", name="second")
    total = mb.add(x=second, y=first, name="sum")
    return mb.conv(x=total, weight=WEIGHTS[2], pad_type="same", name="third")


PACKAGES = {
    precision: make_package(network, precision=precision, x=(1, 3, 7, 6))
    for precision in ("float32", "float16")
}


def run(package, *faults, sample=SAMPLE, extra_outputs=()):
    with ReferenceRunner(
        package,
        faults=[parse_fault(fault) for fault in faults],
        extra_outputs=extra_outputs,
        threads=1,
    ) as runner:
        return runner.run(sample)


def parts(precision):
    """Give the network's operations as packages of their own, of the same precision."""

    def conv(index):
        return make_package(
            lambda x: mb.conv(x=x, weight=WEIGHTS[index], pad_type="same"),
            precision=precision,
            x=(1, 3, 7, 6),
        )

    def applied(package):
        return lambda x: next(iter(run(package, sample={"x": x.astype(np.float32)}).values()))

    return [applied(conv(index)) for index in range(3)]


def by_hand(precision, distort):
    """Run the network in NumPy, and let `distort` have each tensor as it is made."""
    dtype = np.dtype(precision)
    convolutions = parts(precision)
    known = {}

    def made(name, array):
        known[name] = distort(name, array.astype(dtype))
        return known[name]

    first = made("first", convolutions[0](SAMPLE["x"]))
    bent = made("bent", np.maximum(first, 0))
    second = made("second", convolutions[1](bent))
    total = made("sum", second.astype(np.float32) + first.astype(np.float32))
    made("third", convolutions[2](total))
    return known


FAULTS = st.sampled_from(
    [
        "int-shift:displacement=1/-2,fill=zero",
        "channel-affine:gain=1.25,bias=0.5,seed=2",
        "row-stride",
        "saturate:limit=0.25",
        "noise:relative=0.1",
        "frac-shift:displacement=0.5+channel-affine:gain=0.75",
    ]
)


def with_place(text, name):
    joined = (f"{part}{',' if ':' in part else ':'}at={name}" for part in text.split("+"))
    return "+".join(joined)


# One fault may leave nothing to another at the same place.
@pytest.mark.filterwarnings("ignore:the emulated fault:convcal.errors.ConvcalWarning")
@settings(max_examples=25, deadline=None)
@given(
    planted=st.lists(st.tuples(st.sampled_from(TENSORS), FAULTS), min_size=1, max_size=4),
    precision=st.sampled_from(["float32", "float16"]),
)
def test_faults_inside_are_what_numpy_makes_of_each_tensor_in_program_order(planted, precision):
    suffix = "_cast_fp16" if precision == "float16" else ""
    faults = [with_place(text, name + suffix) for name, text in planted]
    names = [name + suffix for name in TENSORS]

    def distort(name, array):
        for place, text in planted:
            if place == name:
                array = parse_fault(text).apply(array)
        return array

    expected = by_hand(precision, distort)
    results = run(PACKAGES[precision], *faults, extra_outputs=names)
    for name in TENSORS:
        result = results[name + suffix]
        assert result.dtype == precision
        # The sum of fp16 numbers in fp32, rounded, is that of the runtime: all is exact.
        np.testing.assert_array_equal(result, expected[name], err_msg=name)
    np.testing.assert_array_equal(results["third"], expected["third"].astype(np.float32))


@settings(max_examples=10, deadline=None)
@given(text=FAULTS)
def test_a_fault_at_the_last_tensor_is_the_fault_on_the_output(text):
    package = PACKAGES["float32"]
    inside = run(package, with_place(text, "third"))
    np.testing.assert_array_equal(inside["third"], run(package, text)["third"])


def test_a_fault_at_an_input_is_the_fault_on_the_sample():
    fault = "int-shift:displacement=2/1"
    distorted = {"x": parse_fault(fault).apply(SAMPLE["x"])}
    for precision, package in PACKAGES.items():
        # Where the program computes in fp16 the input is fp32 all the same.
        result = run(package, f"{fault},at=x", extra_outputs=["x"])
        np.testing.assert_array_equal(result["x"], distorted["x"], err_msg=precision)
        np.testing.assert_array_equal(result["third"], run(package, sample=distorted)["third"])


def test_several_places_of_one_fault_are_so_many_faults():
    package = PACKAGES["float32"]
    joint = run(package, "channel-affine:gain=1.5,at=first/sum")
    each = run(package, "channel-affine:gain=1.5,at=sum", "channel-affine:gain=1.5,at=first")
    np.testing.assert_array_equal(joint["third"], each["third"])
    alone = run(package, "channel-affine:gain=1.5,at=first")
    assert not np.array_equal(joint["third"], alone["third"])


def test_an_operation_stands_for_all_its_results():
    package = make_package(
        lambda x: mb.split(x=mb.relu(x=x), num_splits=2, axis=1, name="parts"), x=(1, 2, 4)
    )
    x = np.arange(1, 9, dtype=np.float32).reshape(1, 2, 4)
    left, right = run(package, "channel-affine:gain=2,at=parts", sample={"x": x}).values()
    np.testing.assert_array_equal(left, 2 * x[:, :1])
    np.testing.assert_array_equal(right, 2 * x[:, 1:])
    (name, plain), (other, _) = run(package, sample={"x": x}).items()
    results = run(package, f"channel-affine:gain=2,at={other}", sample={"x": x})
    np.testing.assert_array_equal(results[name], plain)
    np.testing.assert_array_equal(results[other], 2 * x[:, 1:])


@pytest.mark.parametrize("name", ["unet", "transformer", "recognizer"])
def test_a_cut_behind_every_operation_changes_nothing(name, tmp_path):
    package = read_package(NETWORKS[name].build(tmp_path, "fp32"))
    types = "/".join(sorted({each.type for each in load_program(package).operations}))
    (sample,) = NETWORKS[name].samples(1)
    with pytest.warns(ConvcalWarning, match="changes no output"):
        cut = run(package, f"saturate:limit=1e30,on={types}", sample=sample)
    for output, array in run(package, sample=sample).items():
        # ONNX Runtime fuses operations, and sums in another order then.
        np.testing.assert_allclose(cut[output], array, atol=1e-5 * np.abs(array).max())


def test_integers_cross_from_one_section_to_the_next():
    def build(x):
        order = mb.argsort(x=x, axis=-1, ascending=True, name="order")
        bent = mb.relu(x=x, name="bent")
        return mb.gather_along_axis(x=bent, indices=order, axis=-1), order

    package = make_package(build, x=(1, 4))
    x = np.array([[3, 1, 4, 2]], np.float32)
    values, order = run(package, "channel-affine:bias=1,at=bent", sample={"x": x}).values()
    np.testing.assert_array_equal(order, [[1, 3, 0, 2]])
    assert order.dtype == np.int32
    np.testing.assert_array_equal(values, [[2, 3, 4, 5]])


def looping(x):
    """Double and add in a loop, whose turns use a tensor from outside."""
    outside = mb.relu(x=x, name="outside")

    def condition(i, _):
        return mb.less(x=i, y=np.int32(2))

    def body(i, total):
        return mb.add(x=i, y=np.int32(1)), mb.add(x=total, y=outside, name="inner")

    _, total = mb.while_loop(
        _cond=condition, _body=body, loop_vars=(np.int32(0), mb.add(x=x, y=x)), name="loop"
    )
    return mb.mul(x=total, y=np.float32(1), name="last")


def test_a_block_sees_the_distorted_tensor_from_outside():
    package = make_package(looping, x=(1, 4))
    x = np.array([[1, 2, 3, 4]], np.float32)
    (result,) = run(package, "channel-affine:bias=10,at=outside", sample={"x": x}).values()
    np.testing.assert_array_equal(result, 2 * x + 2 * (x + 10))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("noise:at=nowhere", "is to act at 'nowhere', and the program has no such tensor.*'x'"),
        ("crop-origin:at=nowhere", "'crop-origin:.*at=nowhere'.*no such tensor or operation"),
        ("noise:at=inner", "'inner', which lies inside the while_loop 'loop'.*outside of blocks"),
    ],
)
def test_a_place_that_no_fault_reaches_is_refused_by_name(fault, message):
    package = make_package(looping, x=(1, 4))
    with pytest.raises(InputError, match=message):
        run(package, fault, sample={"x": np.ones((1, 4), np.float32)})


def test_tensors_that_are_no_floating_numbers_are_refused():
    package = make_package(
        lambda x: mb.cast(x=mb.argsort(x=x, axis=-1, name="order"), dtype="fp32"), x=(1, 4)
    )
    with pytest.raises(InputError, match=r"'order', which is of type int32; .*float16 and float32"):
        run(package, "noise:at=order", sample={"x": np.ones((1, 4), np.float32)})


def test_a_shape_that_contradicts_the_program_is_refused():
    with pytest.raises(InputError, match=r"'overlong:.*at=bent' gives the tensor 'bent' the shape"):
        run(PACKAGES["float32"], "overlong:at=bent")


def test_a_fault_inside_that_changes_nothing_is_warned_of():
    with pytest.warns(ConvcalWarning, match="'saturate:.*at=bent' changes no output"):
        result = run(PACKAGES["float32"], "saturate:at=bent", "channel-affine:gain=2")
    plain = run(PACKAGES["float32"])
    np.testing.assert_array_equal(
        result["third"], parse_fault("channel-affine:gain=2").apply(plain["third"])
    )


def test_a_fault_of_operations_acts_at_those_that_are_named():
    def build(x):
        weight = np.array([[[1, 10, 100]]], np.float32)
        return tuple(
            mb.conv_transpose(x=x, weight=weight, pad_type="custom", pad=[1, 0], name=name)
            for name in ("left", "right")
        )

    package = make_package(build, x=(1, 1, 4))
    sample = {"x": np.array([[[1, 2, 3, 4]]], np.float32)}
    both = run(package, "crop-origin:precision=all", sample=sample)
    one = run(package, "crop-origin:precision=all,at=right", sample=sample)
    plain = run(package, sample=sample)
    np.testing.assert_array_equal(one["left"], plain["left"])
    np.testing.assert_array_equal(one["right"], both["right"])
    assert not np.array_equal(plain["right"], both["right"])
    assert CropOrigin(at="right", precision="all") == parse_fault(
        "crop-origin:precision=all,at=right"
    )


def test_each_fault_of_operations_that_touches_none_is_warned_of():
    with pytest.warns(ConvcalWarning) as caught:
        run(PACKAGES["float16"], "crop-origin", "crop-origin:at=bent_cast_fp16")
    messages = [str(each.message) for each in caught]
    assert len(messages) == 2
    assert all("no operation" in message for message in messages)
    assert "at=bent_cast_fp16'" in messages[1]
