# SPDX-License-Identifier: BSD-3-Clause
"""Operations that pick, put, order, make, recur and quantise against the evaluator."""

import numpy as np
import pytest
from coreml.models import save_package
from evaluator import evaluate, to_half
from programs import ct, make_package, mb
from tensor_cases import CASES, X, draw, layer, lstm

from convcal.coreml.package import read_package
from convcal.errors import RunnerError, UnsupportedModelError
from convcal.runtime.reference import ReferenceRunner

# fp32 rounds to 6e-8, and these sums are short; recurrent layers feed their errors back.
RELATIVE = 1e-5


def package_of(case, **options):
    build, target, inputs = case
    described = {
        name: (array.shape, "int32") if array.dtype == np.int32 else array.shape
        for name, array in inputs.items()
    }
    return make_package(build, target=target, **described, **options), inputs


def run(package, sample):
    with ReferenceRunner(package, threads=1) as runner:
        return runner.run(sample)


def assert_agrees(case, **options):
    package, sample = package_of(case, **options)
    results, truth = run(package, sample), evaluate(package, sample)
    for name, result in results.items():
        expected = truth[name]
        assert result.shape == expected.shape
        scale = np.abs(expected).max(initial=0.0)
        np.testing.assert_allclose(result, expected, rtol=RELATIVE, atol=0.1 * RELATIVE * scale)


@pytest.mark.parametrize(
    ("kind", "case"), [(kind, case) for kind, cases in CASES.items() for case in cases]
)
def test_operation_agrees_with_the_evaluator(kind, case):
    assert_agrees(case)


@pytest.mark.parametrize("kind", ["gather", "gather_along_axis", "scatter", "scatter_nd"])
@pytest.mark.parametrize(("target", "index"), [("iOS16", 3), ("iOS16", -4), ("iOS17", -1)])
def test_an_index_out_of_bounds_is_an_error_of_the_run_or_if_constant_of_the_translation(
    kind, target, index
):
    x = draw(3, 3)
    indices = np.full((1, 3), index, np.int32) if kind == "gather_along_axis" else np.int32([index])
    if kind == "scatter_nd":
        indices = np.int32([[0, index]])
    operation = getattr(mb, kind)
    if kind.startswith("scatter"):
        updates = draw(1) if kind == "scatter_nd" else draw(1, 3)
        arguments = {"updates": updates, "mode": "update"}
        taken = "data"
    else:
        arguments, taken = {}, "x"
    package = make_package(
        lambda x: operation(**{taken: x}, indices=indices, **arguments), target=target, x=x.shape
    )
    with pytest.raises(UnsupportedModelError, match=rf"{kind} .*the index {index}"):
        ReferenceRunner(package)
    package = make_package(
        lambda x, i: operation(**{taken: x}, indices=i, **arguments),
        target=target,
        x=x.shape,
        i=(indices.shape, "int32"),
    )
    with pytest.raises(RunnerError, match="ONNX Runtime failed"):
        run(package, {"x": x, "i": indices})


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (layer("gru", "forward", sequence=True, activation="scaled_tanh"), "scaled_tanh"),
        (lstm("forward", sequence=True, names=("hard_sigmoid", "tanh", "tanh")), "hard_sigmoid"),
    ],
)
def test_activations_without_documented_constants_are_refused(case, reason):
    package, _ = package_of(case)
    with pytest.raises(UnsupportedModelError, match=reason):
        ReferenceRunner(package)


def test_a_clipped_cell_and_a_gru_with_reset_after_are_refused():
    weights = {"weight_ih": draw(8, 2), "weight_hh": draw(8, 2)}
    package = make_package(
        lambda x, h: mb.lstm(x=x, initial_h=h, initial_c=h, clip=1.0, **weights)[0],
        x=(3, 1, 2),
        h=(1, 2),
    )
    with pytest.raises(UnsupportedModelError, match=r"lstm .*'clip'"):
        ReferenceRunner(package)
    weights = {"weight_ih": draw(6, 2), "weight_hh": draw(6, 2)}
    package = make_package(
        lambda x, h: mb.gru(x=x, initial_h=h, reset_after=True, **weights)[0],
        target="iOS18",
        x=(3, 1, 2),
        h=(1, 2),
    )
    with pytest.raises(UnsupportedModelError, match=r"gru .*'reset_after'"):
        ReferenceRunner(package)


def test_integers_of_any_width_are_gathered_and_cast():
    for dtype in ("int8", "uint8", "int16", "uint16"):
        package = make_package(
            lambda x, i: mb.cast(
                x=mb.gather(
                    x=mb.cast(x=x, dtype=dtype),  # noqa: B023 - called at once
                    indices=mb.cast(x=i, dtype="uint16"),
                ),
                dtype="fp32",
            ),
            target="iOS17",
            x=(4,),
            i=((2, 2), "int32"),
        )
        x = np.float32([1, 127, 3.75, 0])
        (result,) = run(package, {"x": x, "i": np.int32([[1, 2], [3, 0]])}).values()
        np.testing.assert_array_equal(result, [[127, 3], [0, 1]])


@pytest.mark.parametrize(
    "case",
    [layer("rnn", "forward", sequence=True), CASES["scatter"][1], CASES["cumsum"][0]],
)
def test_fp16_results_are_the_sums_of_fp32_rounded_once(case):
    build, _, inputs = case
    package, _ = package_of((build, "iOS17", inputs), precision="float16")
    sample = {name: to_half(array).astype(np.float32) for name, array in inputs.items()}
    results, truth = run(package, sample), evaluate(package, sample)
    for name, result in results.items():
        # Where fp32 and float64 round to neighbours, they differ by one step of fp16.
        np.testing.assert_allclose(result, truth[name], rtol=2**-10, atol=2**-24)
        assert np.mean(result == truth[name]) > 0.9


def test_a_slice_runs_from_and_to_where_the_program_says():
    package = make_package(
        lambda x, b, e: (
            mb.slice_by_index(
                x=x, begin=b, end=e, stride=[1, -1, 2], end_mask=[False, True, False]
            ),
            mb.slice_by_index(x=x, begin=b, end=e, squeeze_mask=[False, True, False]),
        ),
        x=X.shape,
        b=((3,), "int32"),
        e=((3,), "int32"),
    )
    sample = {"x": X, "b": np.int32([1, -1, 0]), "e": np.int32([3, 0, -1])}
    first, second = run(package, sample).values()
    np.testing.assert_array_equal(first, X[1:3, ::-1, 0:-1:2])
    np.testing.assert_array_equal(second, X[1:3, -1, 0:-1])


def test_a_slice_by_size_from_where_the_program_says_does_not_end_short():
    package = make_package(
        lambda x, b: mb.slice_by_size(x=x, begin=b, size=[2, 1, 3]), x=X.shape, b=((3,), "int32")
    )
    (result,) = run(package, {"x": X, "b": np.int32([-3, 3, 2])}).values()
    np.testing.assert_array_equal(result, X[0:2, 3:4, 2:5])
    with pytest.raises(RunnerError, match="ONNX Runtime failed"):
        run(package, {"x": X, "b": np.int32([2, 3, 2])})


@pytest.mark.parametrize("target", ["iOS16", "iOS17"])
def test_a_shape_may_be_computed_when_the_program_runs(target):
    package = make_package(
        lambda x, s: mb.reshape(x=mb.relu(x=x), shape=s),
        target=target,
        x=X.shape,
        s=((3,), "int32"),
    )
    for shape, expected in (
        ([2, -1, 5], (2, 6, 5)),
        ([0, 0, 5], (3, 4, 5)),
        ([4, 3, 0], (4, 3, 5)),
    ):
        (result,) = run(package, {"x": X, "s": np.int32(shape)}).values()
        np.testing.assert_array_equal(result, np.maximum(X, 0).reshape(expected))


def test_zeros_in_a_shape_of_another_rank_count_from_the_last_axis():
    package = make_package(
        lambda x, s: mb.reshape(x=mb.relu(x=x), shape=s),
        target="iOS17",
        x=(2, 50),
        s=((4,), "int32"),
    )
    # The example in MIL's documentation of reshape.
    (result,) = run(package, {"x": draw(2, 50), "s": np.int32([1, 0, -1, 0])}).values()
    assert result.shape == (1, 1, 2, 50)


@pytest.mark.parametrize("mode", ["constant", "replicate"])
def test_pads_may_be_computed_when_the_program_runs(mode):
    package = make_package(
        lambda x, p: mb.pad(x=x, pad=p, mode=mode, constant_val=2.0), x=X.shape, p=((6,), "int32")
    )
    sample = {"x": X, "p": np.int32([0, 1, 2, 0, 0, 3])}
    ((name, result),) = run(package, sample).items()
    np.testing.assert_array_equal(result, evaluate(package, sample)[name])


def test_reflections_that_are_computed_when_the_program_runs_are_refused():
    package = make_package(
        lambda x, p: mb.pad(x=x, pad=p, mode="reflect"), x=X.shape, p=((6,), "int32")
    )
    with pytest.raises(UnsupportedModelError, match=r"pad .*reflects"):
        ReferenceRunner(package)


@pytest.mark.parametrize(
    "build",
    [
        lambda x: mb.add(x=x, y=mb.random_normal(shape=[3, 4, 5])),
        lambda x: mb.random_categorical(x=x),
    ],
)
def test_random_numbers_are_refused_by_name(build):
    package = make_package(build, x=X.shape)
    with pytest.raises(UnsupportedModelError, match="random_"):
        ReferenceRunner(package)


def counting(n, x, y):
    """Add y to x as often as n says, and do something else to it where that is never."""

    def goes_on(i, x):
        return mb.cast(x=mb.sub(x=n, y=i), dtype="bool")

    def turn(i, x):
        return mb.add(x=i, y=1), mb.add(x=x, y=y)

    sums = mb.while_loop(_cond=goes_on, _body=turn, loop_vars=(0, x))[1]
    return mb.cond(
        pred=mb.cast(x=n, dtype="bool"),
        _true_fn=lambda: mb.identity(x=sums),
        _false_fn=lambda: mb.mul(x=mb.tanh(x=x), y=y),
    )


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_blocks_run_on_a_condition_and_again_and_again(precision):
    package = make_package(
        lambda n, x, y: counting(mb.squeeze(x=n), mb.relu(x=x), y),
        n=((1,), "int32"),
        x=(2, 3),
        y=(2, 3),
        precision=precision,
    )
    x, y = (np.abs(draw(2, 3)).astype(precision).astype(np.float32) for _ in range(2))
    for count in (0, 1, 5):
        (result,) = run(package, {"n": np.int32([count]), "x": x, "y": y}).values()
        expected = x.astype(precision)
        for _ in range(count):
            expected = expected + y.astype(precision)
        if count == 0:
            expected = np.tanh(x.astype(np.float64)).astype(precision) * y.astype(precision)
        np.testing.assert_allclose(result, expected, rtol=1e-6 if precision == "float32" else 2e-3)


def test_a_block_with_an_operation_that_is_not_translated_is_refused_by_that_name():
    package = make_package(
        lambda n, x: mb.cond(
            pred=mb.cast(x=mb.squeeze(x=n), dtype="bool"),
            _true_fn=lambda: mb.random_normal(shape=[2]),
            _false_fn=lambda: mb.relu(x=x),
        ),
        n=((1,), "int32"),
        x=(2,),
    )
    with pytest.raises(UnsupportedModelError, match="random_normal"):
        ReferenceRunner(package)


def test_a_classifier_gives_its_probabilities_its_tensors_and_no_label(tmp_path):
    path = save_package(
        tmp_path / "classifier.mlpackage",
        lambda mb, x: mb.relu(x=x, name="probabilities"),
        shape=(1, 3),
        classifier_config=ct.ClassifierConfig(["a", "b", "c"]),
    )
    package = read_package(path)
    with ReferenceRunner(package, extra_outputs=["probabilities"], threads=1) as runner:
        results = runner.run({"x": np.float32([[-1, 0, 2]])})
    assert list(results) == ["classLabel_probs", "probabilities"]
    np.testing.assert_array_equal(results["classLabel_probs"], [0, 0, 2])
    np.testing.assert_array_equal(results["probabilities"], [[0, 0, 2]])
    with pytest.raises(UnsupportedModelError, match=r"'classLabel' is of type str"):
        ReferenceRunner(package, extra_outputs=["classLabel"])


def test_shapes_are_reckoned_with_when_the_program_runs():
    def build(x):
        count, rank = mb.split(x=mb.shape(x=mb.non_zero(x=x)), num_splits=2, axis=0)
        count, rank = mb.squeeze(x=count), mb.squeeze(x=rank)
        # Numbers, joined to a vector.
        ones = mb.fill(shape=mb.concat(values=[count, mb.add(x=rank, y=1)], axis=0), value=1.0)
        return mb.reshape(x=ones, shape=mb.concat(values=[-1, count], axis=0))

    package = make_package(build, x=(2, 3))
    (result,) = run(package, {"x": np.float32([[0, 1, 2], [3, 4, 0]])}).values()
    np.testing.assert_array_equal(result, np.ones((3, 4)))


@pytest.mark.parametrize("chosen", [[[1, 0, 1], [0, 0, 1]], np.zeros((2, 3)), np.ones((2, 3))])
def test_elements_where_a_mask_holds_are_read_and_replaced(chosen):
    def build(x, mask):
        places = mb.non_zero(x=mask)
        picked = mb.gather_nd(x=x, indices=places)
        doubled = mb.mul(x=picked, y=np.float32(2))
        return picked, mb.scatter_nd(data=x, indices=places, updates=doubled, mode="update")

    package = make_package(build, x=(2, 3), mask=(2, 3))
    x, mask = X[0, :2, :3], np.float32(chosen)
    picked, replaced = run(package, {"x": x, "mask": mask}).values()
    np.testing.assert_array_equal(picked, x[mask != 0])
    np.testing.assert_array_equal(replaced, np.where(mask, 2 * x, x))


def test_a_condition_may_be_a_vector_of_one():
    def build(x):
        counted = mb.while_loop(
            _cond=lambda n, _: mb.less(x=n, y=np.int32([3])),
            _body=lambda n, y: (mb.add(x=n, y=np.int32(1)), mb.add(x=y, y=y)),
            loop_vars=(mb.cast(x=mb.slice_by_size(x=x, begin=[0], size=[1]), dtype="int32"), x),
        )[1]
        return mb.identity(x=counted)

    package = make_package(build, x=(2,))
    for start, doublings in ((1, 2), (3, 0)):
        (result,) = run(package, {"x": np.float32([start, 5])}).values()
        np.testing.assert_array_equal(result, 2.0**doublings * np.float32([start, 5]))


def test_a_slice_that_mil_and_numpy_count_differently_is_refused():
    # x[:-1] of one element is empty in NumPy; MIL's shape inference says that it has one.
    package = make_package(
        lambda x: mb.slice_by_index(x=mb.relu(x=x), begin=[0, 0], end=[-1, 2]), x=(1, 2)
    )
    with pytest.raises(UnsupportedModelError, match=r"slice_by_index .*counts 1 .*NumPy 0"):
        ReferenceRunner(package)


def test_constants_that_coremltools_folds_wrongly_are_refused():
    def build(x):
        parts = [np.float32([1, 2]), np.float32([3, 4])]
        return mb.add(x=x, y=mb.concat(values=parts, axis=0, interleave=True))

    with pytest.raises(UnsupportedModelError, match=r"concat .*end to end"):
        ReferenceRunner(make_package(build, x=(4,)))
