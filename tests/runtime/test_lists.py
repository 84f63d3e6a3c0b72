# SPDX-License-Identifier: BSD-3-Clause
"""Lists, which loops read from and write to, by closed forms; random numbers, which are refused."""

import numpy as np
import pytest
from programs import get_new_symbol, make_package, mb

from convcal.errors import RunnerError, UnsupportedModelError
from convcal.runtime.reference import ReferenceRunner

STEPS = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


def run(package, **sample):
    with ReferenceRunner(package, threads=1) as runner:
        return runner.run(sample)


def recurrence(*, dtype="fp32", length=4, is_dynamic=False):
    """A scripted recurrent layer: h = h / 2 + x[i], every h written to a list."""
    kind = np.float16 if dtype == "fp16" else np.float32

    def build(x):
        steps = mb.make_list(init_length=4, dynamic_length=False, elem_shape=(3,), dtype=dtype)
        steps = mb.list_scatter(ls=steps, indices=np.arange(4, dtype=np.int32), value=x)
        found = mb.make_list(
            init_length=length, dynamic_length=is_dynamic, elem_shape=(3,), dtype=dtype
        )

        def body(i, h, found):
            h = mb.add(x=mb.mul(x=h, y=kind(0.5)), y=mb.list_read(ls=steps, index=i))
            return mb.add(x=i, y=1), h, mb.list_write(ls=found, index=i, value=h)

        start = (0, np.zeros(3, kind), found)
        *_, found = mb.while_loop(
            _cond=lambda i, h, found: mb.less(x=i, y=4), _body=body, loop_vars=start
        )
        count = mb.list_length(ls=found)
        everything = mb.range_1d(start=0, end=count, step=1)
        return (
            mb.list_gather(ls=found, indices=everything, name="all"),
            mb.list_gather(ls=found, indices=np.int32([3, 0, 3]), name="some"),
            mb.identity(x=count, name="count"),
        )

    kinds = {"fp16": "float16", "fp32": "float32"}
    return make_package(build, target="iOS16", x=((4, 3), kinds[dtype]))


@pytest.mark.parametrize(
    ("length", "is_dynamic"), [(4, False), (6, False), (1, True), (3, True), (6, True)]
)
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_loop_reads_and_writes_lists(dtype, length, is_dynamic):
    steps = STEPS.astype(np.float16 if dtype == "fp16" else np.float32)
    results = run(recurrence(dtype=dtype, length=length, is_dynamic=is_dynamic), x=steps)
    h, expected = np.zeros(3, steps.dtype), []
    for step in steps:  # NumPy rounds each of these operations once, as the program types it
        h = h * steps.dtype.type(0.5) + step
        expected.append(h)
    assert results["all"].dtype == steps.dtype
    assert results["count"] == max(length, 4)
    np.testing.assert_array_equal(results["all"][:4], expected)
    np.testing.assert_array_equal(results["all"][4:], 0)  # never written
    np.testing.assert_array_equal(results["some"], [expected[i] for i in (3, 0, 3)])


@pytest.mark.parametrize(("dtype", "given"), [("int32", "int32"), ("bool", "bool")])
@pytest.mark.parametrize("index", [0, 2, 5])
def test_a_list_of_dynamic_length_grows_to_what_is_written(dtype, given, index):
    def build(i, x):
        ls = mb.make_list(init_length=2, elem_shape=(3,), dtype=dtype)
        ls = mb.list_write(ls=ls, index=mb.squeeze(x=i), value=mb.cast(x=x, dtype=dtype))
        last = mb.list_read(ls=ls, index=mb.squeeze(x=i))
        everything = mb.range_1d(start=0, end=mb.list_length(ls=ls), step=1)
        return (
            mb.cast(x=last, dtype="int32", name="last"),
            mb.cast(x=mb.list_gather(ls=ls, indices=everything), dtype="int32", name="all"),
        )

    package = make_package(build, target="iOS16", i=((1,), "int32"), x=((3,), "int32"))
    results = run(package, i=np.int32([index]), x=np.int32([1, 0, 1]))
    expected = np.zeros((max(2, index + 1), 3))
    expected[index] = [1, 0, 1]
    np.testing.assert_array_equal(results["all"], expected)
    np.testing.assert_array_equal(results["last"], [1, 0, 1])


def test_a_list_of_computed_length_holds_tensors_of_any_rank():
    def build(n, x):
        ls = mb.make_list(init_length=mb.squeeze(x=n), dynamic_length=False, elem_shape=(2, 1, 3))
        ls = mb.list_scatter(ls=ls, indices=np.int32([2, 0, 2]), value=x)
        everything = mb.range_1d(start=0, end=mb.squeeze(x=n), step=1)
        return mb.list_gather(ls=ls, indices=everything, name="y")

    x = np.arange(18, dtype=np.float32).reshape(3, 2, 1, 3) + 1
    package = make_package(build, target="iOS16", n=((1,), "int32"), x=x.shape)
    for n in (3, 5):
        expected = np.zeros((n, 2, 1, 3))
        expected[[2, 0]] = x[[2, 1]]  # of two in one place the last stays
        np.testing.assert_array_equal(run(package, n=np.int32([n]), x=x)["y"], expected)


def one_access(kind, *, is_dynamic=False):
    def build(i, x):
        ls = mb.make_list(init_length=2, dynamic_length=is_dynamic, elem_shape=(3,))
        index = mb.squeeze(x=i)
        if kind == "write":
            ls = mb.list_write(ls=ls, index=index, value=x)
        elif kind == "read":
            return mb.add(x=mb.list_read(ls=ls, index=index), y=x)
        elif kind == "gather":
            return mb.add(x=mb.list_gather(ls=ls, indices=i), y=x)
        else:
            ls = mb.list_scatter(ls=ls, indices=i, value=mb.expand_dims(x=x, axes=[0]))
        return mb.list_read(ls=ls, index=0)

    return make_package(build, target="iOS16", i=((1,), "int32"), x=(3,))


@pytest.mark.parametrize("index", [-1, 2])
@pytest.mark.parametrize("kind", ["read", "write", "gather", "scatter"])
def test_an_index_outside_is_an_error_of_the_run(kind, index):
    with pytest.raises(RunnerError, match=r"out of data bounds|out of range"):
        run(one_access(kind), i=np.int32([index]), x=STEPS[0])


@pytest.mark.parametrize("kind", ["write", "scatter"])
def test_a_negative_index_grows_nothing(kind):
    with pytest.raises(RunnerError, match="out of data bounds"):
        run(one_access(kind, is_dynamic=True), i=np.int32([-1]), x=STEPS[0])


def test_a_constant_negative_index_is_refused():
    def build(x):
        ls = mb.make_list(init_length=2, elem_shape=(3,))
        return mb.list_read(ls=mb.list_write(ls=ls, index=-1, value=x), index=0)

    with pytest.raises(UnsupportedModelError, match=r"list_write .*the negative index -1"):
        ReferenceRunner(make_package(build, target="iOS16", x=(3,)))


@pytest.mark.parametrize(("length", "is_dynamic"), [(4, False), (1, True)])
def test_elements_may_have_a_length_that_is_known_only_at_run_time(length, is_dynamic):
    """As TensorFlow's recurrent layers have, whose batch is open."""

    def build(x):
        found = mb.make_list(init_length=length, dynamic_length=is_dynamic, elem_shape=("batch", 3))

        def body(i, h, found):
            h = mb.add(x=h, y=x)
            return mb.add(x=i, y=1), h, mb.list_write(ls=found, index=i, value=h)

        start = (0, mb.sub(x=x, y=x), found)
        *_, found = mb.while_loop(
            _cond=lambda i, h, found: mb.less(x=i, y=4), _body=body, loop_vars=start
        )
        return mb.list_gather(ls=found, indices=np.arange(4, dtype=np.int32), name="y")

    package = make_package(build, target="iOS16", x=(get_new_symbol(), 3))
    array = package.spec.description.input[0].type.multiArrayType
    array.shape[:] = [1, 3]
    del array.shapeRange.sizeRanges[:]
    for lower, upper in ((1, 8), (3, 3)):
        each = array.shapeRange.sizeRanges.add()
        each.lowerBound, each.upperBound = lower, upper
    with ReferenceRunner(package, threads=1) as runner:
        for batch in (2, 1, 5):
            x = np.arange(3 * batch, dtype=np.float32).reshape(batch, 3)
            expected = np.multiply.outer([1, 2, 3, 4], x)
            np.testing.assert_array_equal(runner.run({"x": x})["y"], expected)


def test_a_list_has_length_1_unless_more_is_said():
    def build(x):
        ls = mb.make_list(elem_shape=(1,))
        count = mb.list_length(ls=ls)
        ls = mb.list_write(ls=ls, index=0, value=x)
        return mb.list_gather(ls=ls, indices=np.int32([0, 0]), name="y"), mb.identity(
            x=count, name="count"
        )

    results = run(make_package(build, target="iOS16", x=(1,)), x=np.float32([3]))
    np.testing.assert_array_equal(results["y"], [[3], [3]])
    assert results["count"] == 1


@pytest.mark.parametrize("kind", ["bernoulli", "normal", "uniform", "categorical"])
def test_random_numbers_are_refused_with_the_reason(kind):
    def build(x):
        if kind == "categorical":
            return mb.random_categorical(x=x, name="drawn")
        drawn = getattr(mb, f"random_{kind}")(shape=np.int32([4, 3]), seed=0, name="drawn")
        return mb.add(x=x, y=drawn)

    reason = rf"random_{kind} \(1: .drawn.; it draws random .* can be compared; convert"
    with pytest.raises(UnsupportedModelError, match=reason):
        ReferenceRunner(make_package(build, target="iOS16", x=(4, 3)))
