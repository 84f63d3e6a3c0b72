# SPDX-License-Identifier: BSD-3-Clause
"""Weights that are stored compressed: the examples of MIL's documentation, and the evaluator."""

import numpy as np
import pytest
from evaluator import evaluate
from programs import make_package, mb, types

from convcal.runtime.reference import ReferenceRunner

GENERATOR = np.random.default_rng(11)


def whole(low, high, *shape, dtype=np.uint8):
    return GENERATOR.integers(low, high, shape).astype(dtype)


def draw(*shape, dtype=np.float32):
    return GENERATOR.standard_normal(shape).astype(dtype)


def narrow(array, name):
    """An array of integers of a few bits, as the builder takes them."""
    return np.array(array).astype(types.nptype_from_builtin(types.string_to_builtin(name)))


def packed(indices, n_bits):
    """Numbers of `n_bits` each, from the lowest bit of the first byte on."""
    bits = [(int(index) >> i) & 1 for index in np.ravel(indices) for i in range(n_bits)]
    return np.packbits(bits, bitorder="little")


def assert_agrees(weight, *, shape, target):
    """Add a weight to an input of its shape: what is compressed must reach the graph."""
    package = make_package(lambda x: mb.add(x=x, y=weight()), target=target, x=shape)
    sample = {"x": np.zeros(shape, np.float32)}
    with ReferenceRunner(package, threads=1) as runner:
        ((name, result),) = runner.run(sample).items()
    np.testing.assert_array_equal(result, evaluate(package, sample)[name].astype(np.float32))
    return result


@pytest.mark.parametrize("axis", [0, -2, None])
def test_affine_weights(axis):
    data = whole(0, 256, 4, 3, 2)
    length = () if axis is None else (data.shape[axis],)
    for signed in (False, True):
        dtype = np.int8 if signed else np.uint8
        assert_agrees(
            lambda: mb.constexpr_affine_dequantize(
                quantized_data=data.astype(dtype),  # noqa: B023 - called at once
                zero_point=whole(0, 256, *length).astype(dtype)[()],  # noqa: B023
                # Powers of two, so that products are exact.
                scale=np.float32(2.0 ** whole(-9, 4, *length, dtype=np.float32)),
                axis=axis or 0,
            ),
            shape=data.shape,
            target="iOS16",
        )


@pytest.mark.parametrize("n_bits", [1, 2, 4, 6, 8])
def test_looked_up_weights_packed_into_bytes(n_bits):
    indices = whole(0, 2**n_bits, 3, 7)
    lut = draw(2**n_bits)
    result = assert_agrees(
        lambda: mb.constexpr_lut_to_dense(
            indices=packed(indices, n_bits), lut=lut, shape=np.uint32(indices.shape)
        ),
        shape=indices.shape,
        target="iOS16",
    )
    np.testing.assert_array_equal(result, lut[indices])


def test_sparse_weights_with_a_mask_in_bytes():
    mask = whole(0, 2, 3, 7)
    result = assert_agrees(
        lambda: mb.constexpr_sparse_to_dense(
            nonzero_data=draw(mask.sum()), mask=packed(mask, 1), shape=np.uint32(mask.shape)
        ),
        shape=mask.shape,
        target="iOS16",
    )
    np.testing.assert_array_equal(result != 0, mask == 1)


def test_cast_weights():
    weight = draw(3, 4, dtype=np.float16)
    result = assert_agrees(
        lambda: mb.constexpr_cast(source_val=weight, output_dtype="fp32"),
        shape=weight.shape,
        target="iOS16",
    )
    np.testing.assert_array_equal(result, weight)


@pytest.mark.parametrize("dtype", ["int4", "uint4", "int8", "uint8"])
def test_blockwise_weights(dtype):
    low, high = (-8, 8) if dtype == "int4" else (0, 16)
    data, offset = (narrow(whole(low, high, *n), dtype) for n in ((4, 6), (2, 3)))
    scale = np.float32(2.0 ** whole(-9, 4, 2, 3, dtype=np.float32))
    for given in ({"offset": offset}, {}):
        assert_agrees(
            lambda: mb.constexpr_blockwise_shift_scale(data=data, scale=scale, **given),  # noqa: B023
            shape=data.shape,
            target="iOS18",
        )


def test_looked_up_weights_of_groups():
    # The first example in MIL's documentation.
    indices = narrow(np.reshape([2, 3, 3, 0, 1, 0, 3, 0, 2, 1, 0, 3], (6, 2)), "uint2")
    lut = np.float32([1, 5, 9, 13, 2, 10, 18, 26]).reshape(2, 1, 4, 1)
    result = assert_agrees(
        lambda: mb.constexpr_lut_to_dense(indices=indices, lut=lut), shape=(6, 2), target="iOS18"
    )
    expected = [[9, 13], [13, 1], [5, 1], [26, 2], [18, 10], [2, 26]]
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_looked_up_vectors(axis):
    shape = np.array([2, 2, 4])
    indices = narrow(whole(0, 2, *shape), "uint1")
    lut = draw(1, 2, 2, 2, 3)
    shape[axis] *= 3
    assert_agrees(
        lambda: mb.constexpr_lut_to_dense(indices=indices, lut=lut, vector_axis=axis),
        shape=tuple(int(n) for n in shape),
        target="iOS18",
    )


def test_sparse_weights_that_are_looked_up_and_scaled():
    mask = narrow(whole(0, 2, 4, 6), "uint1")
    count = int(np.count_nonzero(mask))

    def weight():
        mask_1, data = mb.constexpr_lut_to_sparse(
            indices_mask=mask,
            indices_nonzero_data=narrow(whole(0, 4, count), "uint2"),
            lut=whole(-9, 9, 1, 2, 4, 1, dtype=np.int8),
        )
        mask_2, scaled = mb.constexpr_sparse_blockwise_shift_scale(
            data_mask=mask_1,
            nonzero_data=data,
            scale=np.float32([[0.5], [2.0]]),
            offset=np.int8([[1], [-3]]),
        )
        return mb.constexpr_sparse_to_dense(nonzero_data=scaled, mask=mask_2)

    assert_agrees(weight, shape=mask.shape, target="iOS18")


def test_a_convolution_with_compressed_weight_and_bias():
    def build(x):
        weight = mb.constexpr_affine_dequantize(
            quantized_data=whole(0, 256, 4, 3, 3, 3),
            zero_point=np.uint8(128),
            scale=np.float32(2.0**-8),
            axis=0,
        )
        bias = mb.constexpr_cast(source_val=draw(4, dtype=np.float16), output_dtype="fp32")
        return mb.conv(x=x, weight=weight, bias=bias, pad_type="same")

    package = make_package(build, x=(1, 3, 5, 5))
    sample = {"x": draw(1, 3, 5, 5)}
    with ReferenceRunner(package, threads=1) as runner:
        ((name, result),) = runner.run(sample).items()
    # 27 terms of order 1.
    np.testing.assert_allclose(result, evaluate(package, sample)[name], rtol=1e-5, atol=1e-5)
