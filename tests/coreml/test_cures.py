# SPDX-License-Identifier: BSD-3-Clause
"""Each rewrite computes exactly what the operation did, and is not touched by its fault.

Inputs and weights are small integers, so that every sum is exact in float32 and, here, in float16.
"""

import agreement
import evaluator
import numpy as np
import pytest
from coreml.rewritten import CROPS, deconvolutions, kinds, rewritten, run
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import make_package, mb

from convcal.coreml.program import Value, load_program
from convcal.errors import InputError, UnsupportedModelError


def crops_nothing(case):
    """Whether the result is the un-cropped one, which explicit-crop has no business with."""
    full = tuple(
        (n - 1) * s + (k - 1) * d + 1
        for n, s, k, d in zip(
            case.x.shape[2:],
            case.parameters["strides"],
            case.weight.shape[2:],
            case.parameters["dilations"],
            strict=True,
        )
    )
    return "output_shape" not in case.parameters and case.truth.shape[2:] == full


@pytest.mark.parametrize("strategy", CROPS)
@given(
    data=st.data(),
    precision=st.sampled_from(["float16", "float32"]),
    variant=st.sampled_from([None, "zero", "half"]),
)
@settings(max_examples=30, deadline=None)
def test_a_rewritten_transposed_convolution_is_the_closed_form_under_the_fault_too(
    strategy, data, precision, variant
):
    case = data.draw(deconvolutions(equal_strides=strategy == "subpixel"))
    if strategy == "explicit-crop" and crops_nothing(case):
        return
    package = case.package(precision)
    changed = rewritten(package, strategy, ["up" if precision == "float32" else "up_cast_fp16"])
    is_transposed = "conv_transpose" in kinds(changed)
    assert is_transposed == (strategy == "explicit-crop")
    result = run(changed, {"x": case.x}, variant=variant)
    np.testing.assert_array_equal(result, case.truth)


@given(case=deconvolutions(ranks=(2, 3)))
@settings(max_examples=30, deadline=None)
def test_subpixel_refuses_unequal_strides_by_name(case):
    strides = case.parameters["strides"]
    if len(set(strides)) == 1:
        return
    with pytest.raises(UnsupportedModelError, match=r"'subpixel' .* conv_transpose 'up': .*differ"):
        rewritten(case.package(), "subpixel", ["up"])


def halves(shape, *, seed=0, positive=False):
    values = np.random.default_rng(seed).standard_normal(shape)
    return (np.abs(values) + 0.5 if positive else values).astype(np.float32)


# By type an operation as a test builds it; x is (2, 4, 6, 5).
ISLANDS = {
    "add": lambda x: mb.add(x=x, y=halves((4, 1, 1)), name="op"),
    "avg_pool": lambda x: mb.avg_pool(x=x, kernel_sizes=[2, 2], pad_type="valid", name="op"),
    "batch_norm": lambda x: mb.batch_norm(
        x=x,
        mean=halves(4),
        variance=halves(4, positive=True),
        gamma=halves(4),
        beta=halves(4),
        epsilon=1e-5,
        name="op",
    ),
    "concat": lambda x: mb.concat(values=[x, x, mb.relu(x=x)], axis=1, name="op"),
    "conv": lambda x: mb.conv(x=x, weight=halves((3, 4, 2, 2)), bias=halves(3), name="op"),
    "conv_transpose": lambda x: mb.conv_transpose(x=x, weight=halves((4, 3, 2, 3)), name="op"),
    "gelu": lambda x: mb.gelu(x=x, name="op"),
    "layer_norm": lambda x: mb.layer_norm(
        x=x, axes=[-1], gamma=halves(5), beta=halves(5), name="op"
    ),
    "linear": lambda x: mb.linear(x=x, weight=halves((7, 5)), bias=halves(7), name="op"),
    "matmul": lambda x: mb.matmul(x=x, y=mb.transpose(x=x, perm=[0, 1, 3, 2]), name="op"),
    "reduce_log_sum_exp": lambda x: mb.reduce_log_sum_exp(x=x, axes=[1], name="op"),
    "slice_by_index": lambda x: mb.slice_by_index(
        x=x, begin=[0, 0, 0, 2], end=[2, 4, 6, 5], name="op"
    ),
    "softplus": lambda x: mb.softplus(x=x, name="op"),
    "split": lambda x: mb.split(x=x, num_splits=2, axis=1, name="op"),
    "topk": lambda x: mb.topk(x=x, k=2, axis=1, name="op")[0],
    "upsample_bilinear": lambda x: mb.upsample_bilinear(
        x=x, scale_factor_height=2.0, scale_factor_width=2.0, name="op"
    ),
}


@pytest.mark.parametrize("kind", ISLANDS)
def test_an_island_computes_in_fp32_what_the_operation_did(kind):
    package = make_package(ISLANDS[kind], precision="float16", x=(2, 4, 6, 5))
    operation = next(each for each in load_program(package).operations if each.type == kind)
    assert operation.outputs[0].dtype == "float16"
    changed = rewritten(package, "fp32-island", [operation.name])
    made = [each for each in load_program(changed).operations if each.type == kind]
    (island,) = (each for each in made if each.outputs[0].dtype == "float32")
    assert len(made) == kinds(package).count(kind)
    for argument in island.inputs.values():
        values = (argument,) if isinstance(argument, Value) else argument
        assert "float16" not in {value.dtype for value in values}
    sample = {"x": halves((2, 4, 6, 5), seed=1)}
    # The reference runtime computes in fp32 and rounds the result in both.
    old, new = (agreement.run(each, sample) for each in (package, changed))
    assert list(old) == list(new)
    for name in old:
        assert old[name].dtype == new[name].dtype
        np.testing.assert_array_equal(old[name], new[name])


def test_an_island_with_the_weights_of_the_fp32_package_is_nearer_to_the_truth():
    def build(x):
        y = mb.conv(x=x, weight=halves((8, 16, 3, 3), seed=1), bias=halves(8), name="other")
        y = mb.relu(x=y)
        return mb.conv(x=y, weight=halves((4, 8, 3, 3), seed=2), bias=halves(4), name="op")

    wide = make_package(build, x=(1, 16, 12, 12))
    narrow = make_package(build, precision="float16", x=(1, 16, 12, 12))
    name = "op_cast_fp16"
    widened = rewritten(narrow, "fp32-island", [name])
    replaced = rewritten(narrow, "fp32-island", [name], weights_from=wide)
    (island,) = (
        each
        for each in load_program(replaced).operations
        if each.type == "conv" and each.outputs[0].dtype == "float32"
    )
    np.testing.assert_array_equal(island.constant("weight"), halves((4, 8, 3, 3), seed=2))
    x = {"x": halves((1, 16, 12, 12), seed=3)}
    feature = next(each for each in load_program(narrow).operations if each.type == "relu")
    tensors = agreement.run(narrow, x, extra_outputs=[feature.outputs[0].name])
    seen = tensors[feature.outputs[0].name].astype(np.float64)
    truth = evaluator.conv(
        x=seen,
        weight=halves((4, 8, 3, 3), seed=2).astype(np.float64),
        bias=halves(4).astype(np.float64),
        strides=[1, 1],
        pad_type="valid",
        pad=[0] * 4,
        dilations=[1, 1],
        groups=1,
    )
    errors = [np.abs(run(each, x) - truth).mean() for each in (widened, replaced)]
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize(
    ("strategy", "name", "reason"),
    [
        ("explicit-crop", "bend", "it is no conv_transpose"),
        ("zero-insertion", "bend", "it is no conv_transpose"),
        ("explicit-crop", "up", "it crops nothing"),
        ("fp32-island", "up", "it gives nothing in fp16"),
    ],
)
def test_what_cannot_be_rewritten_is_refused_with_the_reason(strategy, name, reason):
    package = make_package(
        lambda x: mb.relu(
            x=mb.conv_transpose(x=x, weight=halves((2, 3, 2)), name="up"), name="bend"
        ),
        x=(1, 2, 6),
    )
    with pytest.raises(UnsupportedModelError, match=f"'{strategy}' cannot .* '{name}': {reason}"):
        rewritten(package, strategy, [name])


def test_weights_that_are_computed_are_refused_where_they_are_needed():
    def build(x, w):
        return mb.conv_transpose(x=x, weight=w, pad_type="custom", pad=[1, 0], name="up")

    package = make_package(build, target="iOS17", x=(1, 2, 6), w=(2, 3, 3))
    sample = {"x": halves((1, 2, 6)), "w": halves((2, 3, 3), seed=1)}
    changed = rewritten(package, "explicit-crop", ["up"])
    np.testing.assert_array_equal(run(changed, sample), run(package, sample))
    for strategy in ("zero-insertion", "subpixel"):
        with pytest.raises(UnsupportedModelError, match="'weight' is computed at run time"):
            rewritten(package, strategy, ["up"])


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("strategy", CROPS)
def test_nothing_is_ever_sliced_in_front_along_the_width_in_fp16(strategy, rank):
    # All axes are cropped in front, by more than the kernel reaches.
    package = make_package(
        lambda x: mb.conv_transpose(
            x=x,
            weight=halves((2, 3, *[3] * rank)),
            strides=[2] * rank,
            pad_type="custom",
            pad=[4, 1] * rank,
            name="up",
        ),
        precision="float16",
        x=(1, 2, *[6] * rank),
    )
    changed = rewritten(package, strategy, ["up_cast_fp16"])
    operations = load_program(changed).operations
    slices = [each for each in operations if each.type == "slice_by_index"]
    assert slices or strategy != "explicit-crop"
    assert all(each.integers("begin")[-1] == 0 for each in slices)


def test_islands_hand_each_other_what_they_computed_unrounded():
    def build(x):
        y = mb.conv(x=x, weight=halves((8, 4, 3, 3), seed=1), bias=halves(8), name="first")
        y = mb.relu(x=y, name="second")
        z = mb.conv(x=y, weight=halves((4, 8, 3, 3), seed=2), name="third")
        return mb.reduce_mean(x=y, axes=[1], keep_dims=True, name="other"), z

    narrow = make_package(build, precision="float16", x=(1, 4, 12, 12))
    wide = make_package(build, x=(1, 4, 12, 12))
    x = {"x": np.float32(np.float16(halves((1, 4, 12, 12), seed=3)))}
    truth = [*agreement.run(wide, x).values()]
    results = [
        [*agreement.run(rewritten(narrow, "fp32-island", at, weights_from=wide), x).values()]
        for at in (["*"], ["first*", "second*"], ["third*"])
    ]
    # All in fp32: nothing is rounded but the input, which is fp16, and the outputs.
    for array, expected in zip(results[0], truth, strict=True):
        np.testing.assert_allclose(array, expected, rtol=2**-11, atol=1e-6)
    errors = [
        sum(np.abs(array - expected).sum() for array, expected in zip(each, truth, strict=True))
        for each in results
    ]
    assert errors[0] < 0.7 * min(errors[1:])


def test_a_pattern_means_the_operations_that_the_strategy_is_for():
    def build(x):
        y = mb.conv_transpose(
            x=x, weight=halves((2, 2, 3)), pad_type="custom", pad=[1, 0], name="up_a"
        )
        y = mb.relu(x=y, name="up_b")
        return mb.conv_transpose(
            x=y, weight=halves((2, 2, 3)), pad_type="custom", pad=[1, 1], name="up_c"
        )

    package = make_package(build, x=(1, 2, 6))
    assert kinds(rewritten(package, "subpixel", ["up_?"])) == ["conv", "relu", "conv"]
    assert kinds(rewritten(package, "subpixel", ["*_c"])) == ["conv_transpose", "relu", "conv"]
    with pytest.raises(InputError, match=r"no tensor 'down_\*' that 'subpixel' is for; .* 'up_a'"):
        rewritten(package, "subpixel", ["down_*"])
