# SPDX-License-Identifier: BSD-3-Clause
"""ONNX's own test cases of operators, whose results its authors computed with NumPy.

They come as arrays; nothing of ONNX computes here.
"""

import importlib
import warnings

import numpy as np
import pytest
from agreement import run
from onnx import helper
from onnx.backend.test.case import node
from programs import make_package, mb

UNARY = (
    "acos asin atan atanh ceil cos cosh erf floor round sign sin sinh softplus softsign tan tanh"
)
UNARY = {name.title(): name for name in (*UNARY.split(), "sigmoid", "exp", "abs", "sqrt")}
BINARY = {
    "And": "logical_and",
    "Equal": "equal",
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
    "Less": "less",
    "LessOrEqual": "less_equal",
    "Or": "logical_or",
    "Pow": "pow",
    "Xor": "logical_xor",
}
REDUCTIONS = {
    "ReduceL1": "reduce_l1_norm",
    "ReduceL2": "reduce_l2_norm",
    "ReduceLogSum": "reduce_log_sum",
    "ReduceLogSumExp": "reduce_log_sum_exp",
    "ReduceMax": "reduce_max",
    "ReduceMean": "reduce_mean",
    "ReduceMin": "reduce_min",
    "ReduceProd": "reduce_prod",
    "ReduceSum": "reduce_sum",
    "ReduceSumSquare": "reduce_sum_square",
}
MODULES = (
    "and_ argmax argmin batch_normalization elu equal gelu greater greater_or_equal hardsigmoid "
    "instance_normalization layernormalization less less_or_equal lrn mod not_ or_ pow "
    "reduce_log_sum reduce_log_sum_exp reducel1 reducel2 reducemax reducemean reducemin reduceprod "
    "reducesum reducesumsquare softmax where xor"
)
DTYPES = {"float32": "fp32", "float64": "fp32", "int32": "int32", "bool": "bool"}


def norm(name, **options):
    """Read scale and bias, and mean and variance where there are any, from the inputs."""

    def build(x, attributes, inputs):
        parameters = dict(zip(("gamma", "beta", "mean", "variance"), inputs[1:], strict=False))
        epsilon = attributes.get("epsilon", 1e-5)
        return getattr(mb, name)(x=x, epsilon=np.float32(epsilon), **parameters, **options)

    return build


def layer_norm(x, attributes, inputs):
    rank = inputs[0].ndim
    axes = list(range(attributes.get("axis", -1) % rank, rank))
    return norm("layer_norm", axes=axes)(x, attributes, inputs)


def argument(name):
    return lambda x, attributes, _: getattr(mb, name)(
        x=x, axis=attributes.get("axis", 0), keep_dims=bool(attributes.get("keepdims", 1))
    )


BUILD = {
    "ArgMax": argument("reduce_argmax"),
    "ArgMin": argument("reduce_argmin"),
    "BatchNormalization": norm("batch_norm"),
    "Elu": lambda x, attributes, _: mb.elu(x=x, alpha=attributes.get("alpha", 1.0)),
    "Gelu": lambda x, attributes, _: mb.gelu(
        x=x, mode="TANH_APPROXIMATION" if attributes.get("approximate") == b"tanh" else "EXACT"
    ),
    "HardSigmoid": lambda x, attributes, _: mb.sigmoid_hard(
        x=x, alpha=attributes.get("alpha", 0.2), beta=attributes.get("beta", 0.5)
    ),
    "InstanceNormalization": norm("instance_norm"),
    "LRN": lambda x, attributes, _: mb.local_response_norm(
        x=x,
        size=attributes["size"],
        alpha=attributes.get("alpha", 1e-4),
        beta=attributes.get("beta", 0.75),
        k=attributes.get("bias", 1.0),
    ),
    "LayerNormalization": layer_norm,
    "Mod": lambda x, _, inputs: mb.mod(x=x, y=inputs[1]),
    "Not": lambda x, *_: mb.logical_not(x=x),
    "Softmax": lambda x, attributes, _: mb.softmax(x=x, axis=attributes.get("axis", -1)),
    "Where": lambda x, _, inputs: mb.select(cond=x, a=inputs[1], b=inputs[2]),
}


def built(kind, x, attributes, inputs):
    if kind in UNARY:
        return getattr(mb, UNARY[kind])(x=x)
    if kind in BINARY:
        return getattr(mb, BINARY[kind])(x=x, y=inputs[1])
    if kind in REDUCTIONS:
        axes = {"axes": inputs[1].astype(np.int32)} if len(inputs) > 1 else {}
        keeps = bool(attributes.get("keepdims", 1))
        return getattr(mb, REDUCTIONS[kind])(x=x, keep_dims=keeps, **axes)
    return BUILD[kind](x, attributes, inputs)


def is_mils(case):
    """Whether MIL has the types and the meaning of a case."""
    inputs, attributes = case.data_sets[0][0], attributes_of(case)
    is_typed = all(array.dtype.name in DTYPES for array in inputs[:1])
    is_typed &= all(array.size for array in inputs)
    is_typed &= len({array.dtype for array in inputs}) == 1 or kind_of(case) not in BINARY
    is_reduction = kind_of(case) in REDUCTIONS
    # ONNX also knows the last of ties, C's remainder, training, and reductions of bool or of none.
    other = ("select_last_index", "fmod", "training_mode", "noop_with_empty_axes")
    is_meant = not any(attributes.get(name) for name in other)
    return is_typed and is_meant and not (is_reduction and inputs[0].dtype == bool)


def kind_of(case):
    return case.model.graph.node[0].op_type


def attributes_of(case):
    each = case.model.graph.node[0].attribute
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in each}


def cases():
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for module in (*UNARY.values(), *MODULES.split()):
            importlib.import_module(f"onnx.backend.test.case.node.{module}")
    found = {}
    for case in node._NodeTestCases:
        known = kind_of(case) in {*UNARY, *BINARY, *REDUCTIONS, *BUILD}
        if known and len(case.model.graph.node) == 1 and is_mils(case):
            found[case.name] = case
    return found


CASES = cases()


def test_every_operator_has_a_case():
    assert {kind_of(case) for case in CASES.values()} == {*UNARY, *BINARY, *REDUCTIONS, *BUILD}


def inputs_of(case):
    """The inputs, in the types that MIL has."""
    narrower = {"float64": "float32", "int64": "int32"}
    return [
        array.astype(narrower.get(array.dtype.name, array.dtype)) for array in case.data_sets[0][0]
    ]


def package_of(case):
    """The program that a case is; all but its first input are constants."""
    inputs = inputs_of(case)
    # coremltools has no bool among the inputs of a model; fp32 holds these integers as they are.
    dtype = DTYPES[inputs[0].dtype.name]
    return make_package(
        lambda x: mb.cast(
            x=built(kind_of(case), mb.cast(x=x, dtype=dtype), attributes_of(case), inputs),
            dtype="fp32",
        ),
        x=inputs[0].shape,
    )


@pytest.mark.parametrize("name", CASES)
def test_onnx_case(name):
    case = CASES[name]
    (result,) = run(package_of(case), {"x": inputs_of(case)[0].astype(np.float32)}).values()
    expected = case.data_sets[0][1][0]
    # Both sides are computed in fp32; sums of the normalisations cancel to a few roundings of 1.
    np.testing.assert_allclose(result, np.asarray(expected, np.float64), rtol=1e-5, atol=2e-6)
