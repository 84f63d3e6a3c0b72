# SPDX-License-Identifier: BSD-3-Clause
"""Every translated operation against the independent evaluator, which is NumPy in float64."""

import layer_evaluator
import numpy as np
import pytest
from agreement import run
from evaluator import evaluate
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import make_package, mb
from tensor_cases import CASES as TENSOR_CASES

from convcal.runtime.translation import (
    OPERATIONS,
    activations,
    arithmetic,
    comparisons,
    lists,
    nearest,
    normalization,
    reductions,
    states,
)

# fp32 has 2**-24 = 6e-8 of relative rounding; sums of up to a few hundred products of order 1
# stay below 1e-5 of the largest result.
RELATIVE = 1e-5


def assert_agrees(package, sample, *, terms=0.0):
    """Compare to 1e-5 of each value, and a tenth of that of the largest value or sum of terms."""
    results = run(package, sample)
    truth = evaluate(package, sample)
    for name, result in results.items():
        expected = truth[name]
        assert result.shape == expected.shape
        scale = max(terms, np.abs(expected[np.isfinite(expected)]).max(initial=0.0))
        np.testing.assert_allclose(result, expected, rtol=RELATIVE, atol=RELATIVE * scale * 0.1)


def sum_of_terms(x, arguments):
    """What the magnitudes of the products in one sum add up to: sums may cancel, errors do not."""
    return np.abs(x).max() * np.abs(arguments["weight"]).sum(axis=tuple(range(1, x.ndim))).max()


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


X = draw(0, 2, 6, 5, 7)
POSITIVE = np.abs(X) + np.float32(0.1)
ROW = draw(1, 1, 6, 1, 7)

CASES = {
    "abs": lambda x: mb.abs(x=x),
    "add": lambda x: mb.add(x=x, y=ROW),
    "cast": lambda x: mb.cast(x=mb.cast(x=x, dtype="int32"), dtype="fp32"),
    "clip": lambda x: mb.clip(x=x, alpha=-0.5, beta=0.25),
    "concat": lambda x: mb.concat(values=[x, mb.abs(x=x), ROW + np.zeros_like(X)], axis=-2),
    "exp": lambda x: mb.exp(x=mb.mul(x=x, y=np.float32(10))),
    "expand_dims": lambda x: mb.expand_dims(x=mb.relu(x=x), axes=[0, -1][:1]),
    "identity": lambda x: mb.identity(x=x),
    "leaky_relu": lambda x: mb.leaky_relu(x=x, alpha=0.1),
    "maximum": lambda x: mb.maximum(x=x, y=ROW),
    "minimum": lambda x: mb.minimum(x=x, y=np.float32(0.1)),
    "mul": lambda x: mb.mul(x=x, y=ROW),
    "prelu": lambda x: mb.prelu(x=x, alpha=np.linspace(-1, 1, 6).astype(np.float32)),
    "real_div": lambda x: mb.real_div(x=x, y=POSITIVE),
    "relu": lambda x: mb.relu(x=x),
    "relu6": lambda x: mb.relu6(x=mb.mul(x=x, y=np.float32(5))),
    "reshape": lambda x: mb.reshape(x=x, shape=[0, 3, -1, 7]),
    # Far into the tail, where ONNX Runtime's own sigmoid has lost all relative precision.
    "sigmoid": lambda x: mb.sigmoid(x=mb.mul(x=x, y=np.float32(20))),
    "silu": lambda x: mb.silu(x=mb.mul(x=x, y=np.float32(5))),
    "slice_by_index": lambda x: mb.slice_by_index(x=x, begin=[0, 1, 0, -5], end=[2, -1, 5, 7]),
    "slice_by_size": lambda x: mb.slice_by_size(x=x, begin=[1, -4, 0, 2], size=[1, 3, -1, 4]),
    "softsign": lambda x: mb.softsign(x=x),
    "split": lambda x: tuple(mb.split(x=x, axis=1, split_sizes=[1, 3, 2])),
    "sqrt": lambda x: mb.sqrt(x=mb.abs(x=x)),
    "square": lambda x: mb.square(x=x),
    "squeeze": lambda x: mb.squeeze(
        x=mb.slice_by_index(x=x, begin=[0, 0, 0, 0], end=[1, 6, 1, 7]), axes=[0, 2]
    ),
    "sub": lambda x: mb.sub(x=ROW, y=x),
    "tanh": lambda x: mb.tanh(x=x),
    "transpose": lambda x: mb.transpose(x=x, perm=[0, -1, 1, 2]),
}


@pytest.mark.parametrize("kind", CASES)
def test_operation_agrees_with_the_evaluator(kind):
    assert_agrees(make_package(CASES[kind], x=X.shape), {"x": X})


def test_every_operation_of_the_registry_is_tested():
    elsewhere = {"conv", "conv_transpose", "pad"}
    elsewhere |= set(TENSOR_CASES) | {"classify", "cond", "while_loop"}
    elsewhere |= {*lists.OPERATIONS, *states.OPERATIONS}
    elsewhere |= set(layer_evaluator.EVALUATORS)  # test_layers has a test of each
    elsewhere |= {*activations.OPERATIONS, *arithmetic.OPERATIONS, *comparisons.OPERATIONS}
    elsewhere |= {*normalization.OPERATIONS, *reductions.OPERATIONS}
    assert set(CASES) | elsewhere == set(OPERATIONS)


def test_small_values_keep_their_relative_precision():
    x = np.concatenate([np.logspace(-8, 1.9, 500), -np.logspace(-8, 1.9, 500)])
    x = x.astype(np.float32).reshape(1, 1, -1)
    for kind in ("tanh", "sigmoid", "softsign", "silu"):
        activation = getattr(mb, kind)
        package = make_package(lambda x: activation(x=x), x=x.shape)  # noqa: B023 - called at once
        ((name, result),) = run(package, {"x": x}).items()
        expected = evaluate(package, {"x": x})[name]
        # Beyond exp(87) fp32 ends; what is smaller than its normal numbers is not compared.
        np.testing.assert_allclose(result, expected, rtol=RELATIVE, atol=2e-38)


def test_two_inputs_broadcast_and_integers_are_added_exactly():
    package = make_package(
        lambda a, b: mb.cast(x=mb.mul(x=mb.add(x=a, y=b), y=a), dtype="fp32"),
        a=((2, 1, 3), "int32"),
        b=((4, 1), "int32"),
    )
    a, b = np.arange(6, dtype=np.int32).reshape(2, 1, 3) - 3, np.arange(4, dtype=np.int32)[:, None]
    (result,) = run(package, {"a": a, "b": b}).values()
    np.testing.assert_array_equal(result, (a + b) * a)


def test_cast_to_bool_asks_for_non_zero():
    package = make_package(lambda x: mb.cast(x=mb.cast(x=x, dtype="bool"), dtype="fp32"), x=(1, 4))
    (result,) = run(package, {"x": np.array([[0, 0.25, -3, -0.0]], np.float32)}).values()
    np.testing.assert_array_equal(result, [[0, 1, 1, 0]])


def test_concat_interleaves():
    first, second = np.array([[1, 2], [3, 4], [5, 6]]), np.array([[7, 8], [9, 10], [11, 12]])
    package = make_package(
        lambda x: mb.concat(values=[x, second.astype(np.float32)], axis=0, interleave=True),
        x=(3, 2),
    )
    (result,) = run(package, {"x": first.astype(np.float32)}).values()
    # The example in MIL's documentation of concat.
    np.testing.assert_array_equal(result, [[1, 2], [7, 8], [3, 4], [9, 10], [5, 6], [11, 12]])


@st.composite
def slices(draw):
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    rank = len(lengths)
    steps = [draw(st.sampled_from([1, 2, -1, -2])) for _ in lengths]
    begins, ends = [], []
    for length, step in zip(lengths, steps, strict=True):
        first = draw(st.integers(0, length - 1))
        last = draw(st.integers(0, length - 1))
        low, high = min(first, last), max(first, last)
        signed = draw(st.booleans())
        begin, end = (low, high + 1) if step > 0 else (high, low - 1)
        # -1 as an end would mean the last element, so running down to the first takes a mask.
        begins.append(begin - length if signed else begin)
        ends.append(end)
    masks = {
        name: [draw(st.booleans()) for _ in range(rank)] for name in ("begin_mask", "squeeze_mask")
    }
    masks["end_mask"] = [draw(st.booleans()) or end < 0 for end in ends]
    if all(masks["squeeze_mask"]):
        masks["squeeze_mask"][0] = False
    return {"x": lengths, "begin": begins, "end": ends, "stride": steps, **masks}


@settings(max_examples=60, deadline=None)
@given(case=slices())
def test_slices_with_strides_and_masks_agree_with_numpy(case):
    lengths = case.pop("x")
    package = make_package(lambda x: mb.slice_by_index(x=mb.relu(x=x), **case), x=tuple(lengths))
    assert_agrees(package, {"x": np.abs(draw(2, *lengths))})


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_pads_of_any_mode_and_rank_agree_with_numpy(data):
    lengths = data.draw(st.lists(st.integers(2, 4), min_size=1, max_size=5))
    n_padded = data.draw(st.integers(1, len(lengths)))
    mode = data.draw(st.sampled_from(["constant", "reflect", "replicate"]))
    amounts = [
        data.draw(st.integers(0, length - 1 if mode == "reflect" else length))
        for length in lengths[-n_padded:]
        for _ in range(2)
    ]
    package = make_package(
        lambda x: mb.pad(x=x, pad=np.array(amounts, np.int32), mode=mode, constant_val=-1.5),
        x=tuple(lengths),
    )
    assert_agrees(package, {"x": draw(3, *lengths)})


@st.composite
def convolutions(draw, *, transposed):
    rank = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 2))
    n_in, n_out = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    kernel = [draw(st.integers(1, 4)) for _ in range(rank)]
    strides = [draw(st.integers(1, 3)) for _ in range(rank)]
    dilations = [draw(st.integers(1, 2)) for _ in range(rank)]
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    lengths = [
        draw(st.integers(1, 5)) if transposed else span + draw(st.integers(0, 4)) for span in spans
    ]
    arguments = {"strides": strides, "dilations": dilations, "groups": groups}
    if transposed:
        full = [(n - 1) * s + span for n, s, span in zip(lengths, strides, spans, strict=True)]
        arguments["pad_type"] = draw(st.sampled_from(["valid", "custom", "same"]))
        pads = [[draw(st.integers(0, max(0, f - 1) // 2)) for _ in range(2)] for f in full]
        # coremltools infers no length for same_lower by itself.
        if draw(st.booleans()):
            arguments["pad_type"] = draw(st.sampled_from(["valid", "custom", "same", "same_lower"]))
            extra = [draw(st.integers(-2, 2)) for _ in full]
            sizes = [max(1, f - sum(p) + e) for f, p, e in zip(full, pads, extra, strict=True)]
            arguments["output_shape"] = [2, n_out, *sizes]
        weight_shape = (n_in, n_out // groups, *kernel)
    else:
        arguments["pad_type"] = draw(st.sampled_from(["valid", "custom", "same", "same_lower"]))
        pads = [[draw(st.integers(0, 3)) for _ in range(2)] for _ in kernel]
        weight_shape = (n_out, n_in // groups, *kernel)
    if arguments["pad_type"] == "custom":
        arguments["pad"] = [amount for pair in pads for amount in pair]
    if draw(st.booleans()):
        arguments["bias"] = np.linspace(-1, 1, n_out).astype(np.float32)
    seed = draw(st.integers(0, 2**16))
    generator = np.random.default_rng(seed)
    arguments["weight"] = generator.standard_normal(weight_shape).astype(np.float32)
    return generator.standard_normal((2, n_in, *lengths)).astype(np.float32), arguments


@settings(max_examples=80, deadline=None)
@given(case=convolutions(transposed=False))
def test_convolutions_agree_with_the_evaluator(case):
    x, arguments = case
    package = make_package(lambda x: mb.conv(x=x, **arguments), x=x.shape)
    assert_agrees(package, {"x": x}, terms=sum_of_terms(x, arguments))


@pytest.mark.filterwarnings("ignore:the conv_transpose:convcal.errors.ConvcalWarning")
@settings(max_examples=120, deadline=None)
@given(case=convolutions(transposed=True))
def test_transposed_convolutions_agree_with_the_evaluator(case):
    x, arguments = case
    package = make_package(lambda x: mb.conv_transpose(x=x, **arguments), x=x.shape)
    assert_agrees(package, {"x": x}, terms=sum_of_terms(x, arguments))


def test_of_many_names_those_are_named_that_are_most_like_the_wrong_one():
    names = [f"conv_{n}_cast_fp16" for n in range(40)] + ["up2_cast_fp16", "mask"]
    assert nearest("up2", names).startswith("'up2_cast_fp16', ")
    assert nearest("maks", names).startswith("'mask', ")
    assert nearest("mas", names).count("'") == 2 * 12
    assert nearest("up2", ["first", "second"]) == "'first', 'second'"
