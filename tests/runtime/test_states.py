# SPDX-License-Identifier: BSD-3-Clause
"""States on the reference runtime: what Core ML's ``MLState`` does, by closed forms."""

import numpy as np
import pytest
from programs import State, get_new_symbol, make_package, mb, save

from convcal.coreml.describe import describe
from convcal.errors import InputError, RunnerError
from convcal.faults import parse_fault
from convcal.runtime import open_runner
from convcal.runtime.reference import ReferenceRunner

X = {"x": np.array([1, 2048], np.float16)}


def adder():
    """Give the state as it was and as it is after adding the input."""

    def build(x, total):
        old = mb.read_state(input=total)
        new = mb.coreml_update_state(state=total, value=mb.add(x=old, y=x))
        return mb.identity(x=old, name="before"), mb.identity(x=new, name="after")

    return make_package(build, target="iOS18", x=((2,), "float16"), total=State((2,)))


def test_every_run_begins_with_zeros():
    with ReferenceRunner(adder(), threads=1) as runner:
        for _ in range(3):
            outputs = runner.run(X)
            np.testing.assert_array_equal(outputs["before"], [0, 0])
            np.testing.assert_array_equal(outputs["after"], X["x"])


def test_a_state_goes_on_and_several_are_independent():
    with ReferenceRunner(adder(), threads=1) as runner:
        one, other = runner.make_state(), runner.make_state()
        for count, state in enumerate((one, one, one), start=1):
            outputs = runner.run(X, state=state)
            np.testing.assert_array_equal(outputs["after"], count * X["x"])
        np.testing.assert_array_equal(runner.run(X, state=other)["before"], [0, 0])
        np.testing.assert_array_equal(runner.run(X)["before"], [0, 0])
        np.testing.assert_array_equal(runner.run(X, state=one)["before"], 3 * X["x"])


def test_a_state_is_kept_as_fp16():
    # 2048 + 1 is 2048 in fp16; kept in fp32 it would be 2049 and then 2050.
    ones = {"x": np.ones(2, np.float16)}
    with ReferenceRunner(adder(), threads=1) as runner:
        state = runner.make_state()
        runner.run({"x": np.full(2, 2048, np.float16)}, state=state)
        for _ in range(3):
            outputs = runner.run(ones, state=state)
        np.testing.assert_array_equal(outputs["after"], [2048, 2048])
        runner.run({"x": np.full(2, 65504, np.float16)}, state=state)
        assert np.isinf(runner.run(ones, state=state)["after"]).all()


def test_reads_and_updates_are_in_the_order_of_the_program():
    def build(x, first, second):
        a = mb.read_state(input=first)  # 0
        mb.coreml_update_state(state=first, value=mb.add(x=x, y=np.float16(1)))
        b = mb.read_state(input=first)  # x + 1
        c = mb.coreml_update_state(state=second, value=mb.mul(x=b, y=np.float16(2)))  # 2x + 2
        mb.coreml_update_state(state=first, value=mb.add(x=b, y=c))  # 3x + 3
        mb.coreml_update_state(state=first, value=mb.sub(x=mb.read_state(input=first), y=a))
        d, e = mb.read_state(input=first), mb.read_state(input=second)
        return mb.concat(values=[a, b, c, d, e], axis=0, name="y")

    states = {"first": State((2,)), "second": State((2,))}
    package = make_package(build, target="iOS18", x=((2,), "float16"), **states)
    x = np.array([1, 10])
    with ReferenceRunner(package, threads=1, extra_outputs=["first", "second"]) as runner:
        state = runner.make_state()
        for _ in range(2):
            outputs = runner.run({"x": x.astype(np.float16)}, state=state)
            a = outputs["y"][:2]
            expected = [a, x + 1, 2 * x + 2, 3 * x + 3 - a, 2 * x + 2]
            np.testing.assert_array_equal(outputs["y"], np.concatenate(expected))
            # As the run leaves them.
            np.testing.assert_array_equal(outputs["first"], 3 * x + 3 - a)
            np.testing.assert_array_equal(outputs["second"], 2 * x + 2)
        np.testing.assert_array_equal(a, 3 * x + 3)  # the second run began with it


def test_what_is_read_twice_in_a_row_has_both_names():
    # coremltools reads an update and all reads behind it as one tensor, under the last name.
    def build(x, total):
        kept = mb.coreml_update_state(state=total, value=mb.add(x=x, y=x), name="first")
        return kept, mb.read_state(input=total, name="second"), mb.relu(x=kept, name="third")

    package = make_package(build, target="iOS18", x=((2,), "float16"), total=State((2,)))
    with ReferenceRunner(package, threads=1) as runner:
        outputs = runner.run(X)
    assert list(outputs) == ["first", "second", "third"]
    for array in outputs.values():
        np.testing.assert_array_equal(array, 2 * X["x"])


def test_a_cache_is_filled_slice_by_slice():
    """As the key cache of a decoder is, with `slice_update` at a position that is an input."""

    def build(x, position, cache):
        begin = mb.concat(values=[np.int32([0]), position], axis=0)
        end = mb.concat(values=[np.int32([2]), mb.add(x=position, y=np.int32([1]))], axis=0)
        filled = mb.slice_update(x=mb.read_state(input=cache), update=x, begin=begin, end=end)
        return mb.identity(x=mb.coreml_update_state(state=cache, value=filled), name="y")

    package = make_package(
        build,
        target="iOS18",
        x=((2, 1), "float16"),
        position=((1,), "int32"),
        cache=State((2, 4)),
    )
    rows = np.arange(8, dtype=np.float16).reshape(2, 4) + 1
    with ReferenceRunner(package, threads=1) as runner:
        state = runner.make_state()
        for i in (2, 0, 3, 1):
            sample = {"x": rows[:, i : i + 1], "position": np.array([i], np.int32)}
            outputs = runner.run(sample, state=state)
        np.testing.assert_array_equal(outputs["y"], rows)


def test_a_decoder_gives_token_by_token_what_attention_over_all_gives():
    """A key and a value cache, a flexible number of tokens, and masks, as language models have."""
    n_tokens, size = 6, 4
    symbol = get_new_symbol()

    def build(x, end, mask, keys, values):
        begin = mb.sub(x=end, y=mb.gather(x=mb.shape(x=x), indices=[1], axis=0))
        places = {
            name: mb.concat(values=[np.int32([0]), place, np.int32([0])], axis=0)
            for name, place in (("begin", begin), ("end", end))
        }
        kept = []
        for cache, update in ((keys, mb.mul(x=x, y=np.float16(0.5))), (values, mb.relu(x=x))):
            filled = mb.slice_update(
                x=mb.read_state(input=cache),
                update=update,
                begin_mask=[True, False, True],
                end_mask=[True, False, True],
                **places,
            )
            kept.append(mb.coreml_update_state(state=cache, value=filled))
        return mb.scaled_dot_product_attention(
            query=x, key=kept[0], value=kept[1], attn_mask=mask, name="y"
        )

    package = make_package(
        build,
        target="iOS18",
        x=((1, symbol, size), "float16"),
        end=((1,), "int32"),
        mask=((1, symbol, n_tokens), "float16"),
        keys=State((1, n_tokens, size)),
        values=State((1, n_tokens, size)),
    )
    for feature, length in ((0, size), (2, n_tokens)):
        array = package.spec.description.input[feature].type.multiArrayType
        array.shape[:] = [1, 1, length]
        limits = ((1, 1), (1, n_tokens), (length, length))
        for size_range, (lower, upper) in zip(array.shapeRange.sizeRanges, limits, strict=True):
            size_range.lowerBound, size_range.upperBound = lower, upper
    tokens = np.random.default_rng(0).standard_normal((n_tokens, size)).astype(np.float16)
    hidden = np.triu(np.full((n_tokens, n_tokens), -np.inf), 1)
    scores = tokens.astype(float) @ (tokens.T.astype(float) / 2) / np.sqrt(size) + hidden
    weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    expected = weights @ np.maximum(tokens.astype(float), 0)
    with ReferenceRunner(package, threads=1) as runner:
        state = runner.make_state()
        for first, last in ((0, 3), (3, 4), (4, 5), (5, 6)):
            sample = {
                "x": tokens[None, first:last],
                "end": np.int32([last]),
                "mask": hidden[None, first:last].astype(np.float16),
            }
            (result,) = runner.run(sample, state=state).values()
            # Scores and weights of order 1 are rounded to fp16, sums are of six.
            np.testing.assert_allclose(result[0], expected[first:last], atol=2**-8)


def test_a_branch_updates_a_state_where_it_is_taken():
    def build(x, c, total):
        y = mb.cond(
            pred=mb.greater(x=mb.squeeze(x=c), y=np.float16(0)),
            _true_fn=lambda: mb.coreml_update_state(
                state=total, value=mb.add(x=mb.read_state(input=total), y=x)
            ),
            _false_fn=lambda: mb.identity(x=x),
        )
        return mb.identity(x=y, name="y"), mb.identity(x=mb.read_state(input=total), name="kept")

    package = make_package(
        build, target="iOS18", x=((2,), "float16"), c=((1,), "float16"), total=State((2,))
    )
    with ReferenceRunner(package, threads=1) as runner:
        state, total = runner.make_state(), np.zeros(2)
        for c in (1, -1, 1, -1):
            outputs = runner.run({**X, "c": np.array([c], np.float16)}, state=state)
            total += X["x"] if c > 0 else 0
            np.testing.assert_array_equal(outputs["kept"], total)
            np.testing.assert_array_equal(outputs["y"], total if c > 0 else X["x"])


def test_a_loop_updates_a_state_in_every_turn():
    def build(n, total):
        def body(i):
            mb.coreml_update_state(state=total, value=mb.add(x=mb.read_state(input=total), y=i))
            return mb.sub(x=i, y=np.float16(1))

        def goes_on(i):
            return mb.greater(x=mb.reduce_sum(x=i, axes=[0], keep_dims=False), y=np.float16(0))

        left = mb.while_loop(_cond=goes_on, _body=body, loop_vars=(n,))
        return mb.identity(x=left, name="left"), mb.identity(x=mb.read_state(input=total), name="y")

    package = make_package(build, target="iOS18", n=((1,), "float16"), total=State((1,)))
    with ReferenceRunner(package, threads=1) as runner:
        state = runner.make_state()
        for n, total in ((3, 6), (0, 6), (4, 16)):  # 3 + 2 + 1, nothing, 4 + 3 + 2 + 1
            outputs = runner.run({"n": np.array([n], np.float16)}, state=state)
            assert (outputs["left"], outputs["y"]) == (0, total)


def test_a_run_that_fails_leaves_the_state_alone():
    def build(i, total):
        new = mb.add(x=mb.read_state(input=total), y=np.float16([1, 1]))
        kept = mb.coreml_update_state(state=total, value=new)
        return mb.gather(x=kept, indices=i, validate_indices=False, name="y")

    package = make_package(build, target="iOS18", i=((1,), "int32"), total=State((2,)))
    with ReferenceRunner(package, threads=1) as runner:
        state = runner.make_state()
        runner.run({"i": np.int32([1])}, state=state)
        with pytest.raises(RunnerError, match="ONNX Runtime failed"):
            runner.run({"i": np.int32([7])}, state=state)
        np.testing.assert_array_equal(runner.run({"i": np.int32([1])}, state=state)["y"], [2])


def test_states_are_described_and_those_of_others_refused():
    package = adder()
    (state,) = describe(package).states
    assert (state.name, state.shape, state.dtype) == ("total", (2,), "float16")
    assert str(describe(package)).endswith("; states: 'total' (float16 2)")
    with (
        ReferenceRunner(package, threads=1) as one,
        ReferenceRunner(package, threads=1) as other,
        pytest.raises(InputError, match="made by another runner"),
    ):
        one.run(X, state=other.make_state())
    stateless = make_package(lambda x: mb.relu(x=x, name="y"), x=(1, 2))
    with (
        ReferenceRunner(stateless, threads=1) as runner,
        pytest.raises(InputError, match=r"keeps no states, it has inputs: 'x'"),
    ):
        runner.make_state()


def test_a_state_that_is_described_and_not_in_the_program_is_named():
    package = adder()
    package.spec.description.state[0].name = "sum"
    with pytest.raises(InputError, match=r"states: 'sum'.* keeps \['total'\]"):
        ReferenceRunner(package)


def test_faults_of_arrays_act_on_the_outputs_and_not_on_the_states(tmp_path):
    path = save(adder(), tmp_path / "adder.mlpackage")
    with open_runner(path, runtime="reference", faults=["channel-affine:gain=2"]) as runner:
        state = runner.make_state()
        for count in (1, 2):
            outputs = runner.run(X, state=state)
            np.testing.assert_array_equal(outputs["after"], 2 * count * X["x"])


@pytest.mark.parametrize("place", ["sum", "kept", "y"])
def test_a_state_passes_through_the_sections_of_a_program_with_a_fault_inside(place):
    def build(x, total):
        new = mb.add(x=mb.read_state(input=total), y=x, name="sum")
        kept = mb.coreml_update_state(state=total, value=new, name="kept")
        return mb.add(x=kept, y=x, name="y")

    package = make_package(build, target="iOS18", x=((1, 2), "float16"), total=State((1, 2)))
    fault = parse_fault(f"channel-affine:bias=16,at={place}")
    x = np.array([[1, 2]], np.float16)
    with ReferenceRunner(package, threads=1, faults=[fault], extra_outputs=["total"]) as runner:
        state, total = runner.make_state(), 0
        for _ in range(3):
            outputs = runner.run({"x": x}, state=state)
            total = total + x + 16 * (place == "sum")
            np.testing.assert_array_equal(outputs["total"], total)
            # What is written is what the operation got; what comes of it is beside the state.
            np.testing.assert_array_equal(outputs["y"], total + x + 16 * (place != "sum"))
