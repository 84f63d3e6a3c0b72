# SPDX-License-Identifier: BSD-3-Clause
"""One package at many shapes: shape arithmetic, limits that are stated, translations that stay."""

import numpy as np
import pytest
from coreml.models import save_package
from evaluator import evaluate
from programs import ct, get_new_symbol, make_package, mb

from convcal.coreml.describe import describe
from convcal.errors import InputError
from convcal.runtime import open_runner, reference
from convcal.runtime.reference import ReferenceRunner

SIZES = ((4, 6), (5, 3), (8, 8), (4, 6), (1, 7))


def length(x, axis):
    return mb.gather(x=mb.shape(x=x), indices=axis, axis=0)


def joined(*lengths):
    parts = [np.int32([each]) if isinstance(each, int) else each for each in lengths]
    parts = [mb.expand_dims(x=p, axes=[0]) if p.shape == () else p for p in parts]
    return mb.concat(values=parts, axis=0)


def to_float(x, like):
    return mb.cast(x=x, dtype="fp16" if ct.converters.mil.mil.types.fp16 == like.dtype else "fp32")


def attention(x):
    """Pixels as tokens: every one looks at every other, and they become pixels again."""
    rows, columns = length(x, 2), length(x, 3)
    tokens = mb.reshape(x=x, shape=joined(1, 3, mb.mul(x=rows, y=columns)))
    scores = mb.matmul(x=tokens, y=tokens, transpose_x=True, transpose_y=False)
    seen = mb.matmul(x=tokens, y=mb.softmax(x=scores, axis=-1))
    return mb.reshape(x=seen, shape=joined(1, 3, rows, columns))


def coordinates(x):
    """A channel that holds the row, repeated over the columns, beside what there is."""
    rows, columns = length(x, 2), length(x, 3)
    row = to_float(mb.range_1d(start=0, end=rows, step=1), x)
    row = mb.reshape(x=row, shape=joined(1, 1, rows, 1))
    return mb.concat(values=[x, mb.tile(x=row, reps=joined(1, 1, 1, columns))], axis=1)


def halves(x):
    """The upper half, doubled in size, minus a constant of that shape."""
    half = mb.floor_div(x=mb.add(x=length(x, 2), y=1), y=2)
    upper = mb.slice_by_index(
        x=x,
        begin=[0, 0, 0, 0],
        end=joined(1, 3, half, 1),
        end_mask=[True, True, False, True],
    )
    large = mb.upsample_nearest_neighbor(x=upper, scale_factor_height=2, scale_factor_width=2)
    value = np.float16(0.5) if x.dtype == ct.converters.mil.mil.types.fp16 else np.float32(0.5)
    return mb.sub(x=large, y=mb.fill(shape=mb.shape(x=large), value=value))


def pyramid(x):
    """Down by a strided convolution and a pool, up again to the size that there was."""
    kernel = np.linspace(-1, 1, 81).reshape(3, 3, 3, 3)
    kernel = kernel.astype(ct.converters.mil.mil.types.nptype_from_builtin(x.dtype))
    y = mb.conv(x=x, weight=kernel, strides=[2, 2], pad_type="same")
    y = mb.conv_transpose(x=y, weight=kernel, strides=[2, 2], pad_type="valid")
    y = mb.slice_by_size(x=y, begin=[0, 0, 0, 0], size=joined(1, 3, length(x, 2), length(x, 3)))
    return mb.add(x=mb.reduce_mean(x=y, axes=[2, 3], keep_dims=True), y=mb.mul(x=x, y=y))


def one_hot_rows(x):
    """The index of the largest of each column, as a vector of as many as there are rows."""
    largest = mb.reduce_argmax(x=x, axis=2, keep_dims=False)
    return mb.one_hot(indices=largest, one_hot_vector_size=length(x, 2), axis=-1)


PROGRAMS = {
    function.__name__: function
    for function in (attention, coordinates, halves, pyramid, one_hot_rows)
}


def flexible(build, *, dtype="float32"):
    shape = (1, 3, get_new_symbol(), get_new_symbol())
    package = make_package(build, target="iOS16", x=(shape, dtype))
    array = package.spec.description.input[0].type.multiArrayType
    array.shape[:] = [1, 3, 4, 6]
    state_limits(array, (1, 1), (3, 3), (1, 8), (1, -1))
    return package


def state_limits(array, *limits):
    del array.shapeRange.sizeRanges[:]
    for lower, upper in limits:
        each = array.shapeRange.sizeRanges.add()
        each.lowerBound, each.upperBound = lower, upper


@pytest.mark.parametrize("kind", PROGRAMS)
@pytest.mark.parametrize(
    # Sums of up to 64 terms of order 1 in fp32; fp16 rounds after each of a dozen operations.
    ("dtype", "relative"),
    [("float32", 1e-5), ("float16", 2**-8)],
)
def test_shape_arithmetic_agrees_with_the_evaluator_at_every_size(kind, dtype, relative):
    package = flexible(PROGRAMS[kind], dtype=dtype)
    generator = np.random.default_rng(1)
    with ReferenceRunner(package, threads=1) as runner:
        for size in SIZES:
            x = generator.standard_normal((1, 3, *size)).astype(dtype)
            truth = evaluate(package, {"x": x})
            ((name, result),) = runner.run({"x": x}).items()
            assert result.shape == truth[name].shape
            scale = np.abs(truth[name]).max()
            np.testing.assert_allclose(
                result.astype(float), truth[name], rtol=relative, atol=relative * scale
            )


def test_a_shape_outside_the_range_is_refused_with_what_is_accepted():
    package = flexible(lambda x: mb.relu(x=x, name="y"))
    assert describe(package).input("x").allowed == (((1, 1), (3, 3), (1, 8), (1, None)),)
    with ReferenceRunner(package, threads=1) as runner:
        assert runner.run({"x": np.ones((1, 3, 8, 99), np.float32)})["y"].shape == (1, 3, 8, 99)
        for shape in ((1, 3, 9, 6), (1, 4, 4, 6), (2, 3, 4, 6), (3, 4, 6), (1, 3, 0, 6)):
            with pytest.raises(InputError, match=r"must be \(1, 3, 1 to 8, 1 or more\)"):
                runner.run({"x": np.ones(shape, np.float32)})


def test_a_shape_that_is_not_enumerated_is_refused_with_those_that_are(tmp_path):
    path = save_package(
        tmp_path / "m.mlpackage",
        lambda mb, x: mb.reshape(x=x, shape=joined(length(x, 3), -1), name="y"),
        shape=(1, 2, get_new_symbol(), get_new_symbol()),
        inputs=[
            ct.TensorType("x", ct.EnumeratedShapes([[1, 2, 4, 6], [1, 2, 6, 4], [1, 2, 1, 3]]))
        ],
        target="iOS16",
    )
    with open_runner(path, runtime="reference") as runner:
        for shape in ((1, 2, 6, 4), (1, 2, 1, 3), (1, 2, 4, 6)):
            x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
            expected = x.reshape(shape[3], -1)
            np.testing.assert_array_equal(runner.run({"x": x})["y"], expected)
        # Within the bounds of all three together, which is not enough.
        with pytest.raises(
            InputError, match=r"must be \(1, 2, 1, 3\) or \(1, 2, 4, 6\) or \(1, 2, 6, 4\)"
        ):
            runner.run({"x": np.zeros((1, 2, 4, 4), np.float32)})


def test_flexible_shapes_of_another_rank_are_a_damaged_package():
    package = flexible(lambda x: mb.relu(x=x, name="y"))
    state_limits(package.spec.description.input[0].type.multiArrayType, (1, 1), (3, 3))
    with pytest.raises(InputError, match=r"'x' .* another number of axes; convert"):
        describe(package)


@pytest.fixture
def translated(monkeypatch):
    """Give the list of the translations that are made."""
    made = []
    kind = reference.SectionedProgram

    def counting(program, **options):
        made.append(program.inputs[0].shape)
        return kind(program, **options)

    monkeypatch.setattr(reference, "SectionedProgram", counting)
    return made


def run_at(runner, *lengths):
    for count in lengths:
        x = np.full((1, 3, 1, count), count, np.float32)
        np.testing.assert_array_equal(runner.run({"x": x})["y"], x)


def test_alternating_shapes_are_translated_once(translated):
    with ReferenceRunner(flexible(lambda x: mb.relu(x=x, name="y")), threads=1) as runner:
        run_at(runner, 2, 5, 2, 5, 5, 2)
    assert translated == [(1, 3, 4, 6), (1, 3, 1, 2), (1, 3, 1, 5)]


def test_the_translation_that_was_not_used_for_longest_goes_first(translated, monkeypatch):
    monkeypatch.setattr(reference, "_MOST_KEPT", 2)
    with ReferenceRunner(flexible(lambda x: mb.relu(x=x, name="y")), threads=1) as runner:
        run_at(runner, 2, 3, 2, 4, 2, 3)
    assert [shape[-1] for shape in translated] == [6, 2, 3, 4, 3]


def test_large_weights_leave_room_for_one_translation(translated, monkeypatch):
    monkeypatch.setattr(reference, "_LARGEST_KEPT", 1)
    weight = np.zeros((16, 3, 3, 3), np.float32)
    package = flexible(lambda x: mb.conv(x=x, weight=weight, pad_type="same", name="y"))
    assert package.weights_path is not None
    with ReferenceRunner(package, threads=1) as runner:
        for count in (2, 3, 2):
            runner.run({"x": np.zeros((1, 3, 1, count), np.float32)})
    assert [shape[-1] for shape in translated] == [6, 2, 3, 2]
