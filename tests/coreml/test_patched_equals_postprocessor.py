# SPDX-License-Identifier: BSD-3-Clause
"""The patched package and the post-processor are the same function.

The packages return their input, so that the observed output is known exactly.
"""

import numpy as np
import pytest
from coreml.corrections import (
    FRACTIONAL,
    LAYOUTS,
    MIXED,
    SCALED,
    SCALED_MIXED,
    WHOLE,
    correction_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from convcal import AxisFilter, PostProcessor
from convcal.arithmetic import sinc_taps
from convcal.coreml.package import read_package
from convcal.coreml.patch import append_corrections
from convcal.runtime.reference import ReferenceRunner

PRECISIONS = [("float32", "float32"), ("float16", "float32"), ("float16", "output")]


def both(path, correction, observed, *, precision):
    """Run the patched package, and the post-processor on what the package was given."""
    patched = append_corrections(
        read_package(path), {"out": correction}, precision=precision, allow_scale=True
    )
    with ReferenceRunner(patched, threads=1) as runner:
        from_package = runner.run({"x": observed})["out"]
    post_process = PostProcessor({"out": correction}, precision=precision)
    return from_package, post_process({"out": observed})["out"]


def observed_of(layout, dtype, *, seed=0):
    shape = LAYOUTS[layout][0]
    return (3 * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def same_bits(first, second):
    return first.dtype == second.dtype and first.tobytes() == second.tobytes()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "precision"), PRECISIONS)
def test_whole_pixels_gain_and_bias_agree_bit_for_bit(layout_path, layout, dtype, precision):
    correction = correction_of(layout, WHOLE, dtype=dtype)
    from_package, from_post_processor = both(
        layout_path(layout, dtype), correction, observed_of(layout, dtype), precision=precision
    )
    assert same_bits(from_package, from_post_processor)
    assert not np.array_equal(from_package, observed_of(layout, dtype))


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "rank2-affine"])
@pytest.mark.parametrize(("dtype", "precision"), PRECISIONS)
def test_a_scale_agrees_bit_for_bit(layout_path, layout, dtype, precision):
    correction = correction_of(layout, SCALED, dtype=dtype)
    observed = observed_of(layout, dtype)
    from_package, from_post_processor = both(
        layout_path(layout, dtype), correction, observed, precision=precision
    )
    assert same_bits(from_package, from_post_processor)
    assert not np.array_equal(from_package, observed)


def test_a_value_that_is_not_finite_spoils_no_more_than_the_taps_that_reach_it(layout_path):
    observed = observed_of("rank4-2d", "float32")
    observed[0, 0, 3, 4] = np.inf
    correction = correction_of("rank4-2d", SCALED, affine=False)
    from_package, from_post_processor = both(
        layout_path("rank4-2d", "float32"), correction, observed, precision="float32"
    )
    assert same_bits(from_package, from_post_processor)
    assert 0 < np.sum(~np.isfinite(from_package)) <= 5


@pytest.mark.parametrize("precision", ["float32", "output"])
def test_moved_values_keep_infinities_nan_and_the_sign_of_zero(layout_path, precision):
    observed = observed_of("rank4-2d", "float16")
    observed[0, 0, 2:5, 3] = [np.inf, np.nan, -np.inf]
    observed[0, 1, 2:5, 3] = -0.0
    correction = correction_of("rank4-2d", WHOLE, dtype="float16", affine=False)
    from_package, from_post_processor = both(
        layout_path("rank4-2d", "float16"), correction, observed, precision=precision
    )
    assert same_bits(from_package, from_post_processor)
    assert np.isnan(from_package).sum() == 1


@given(
    offsets=st.tuples(st.integers(-6, 6), st.integers(-8, 8)),
    precision=st.sampled_from(PRECISIONS),
    seed=st.integers(0, 99),
)
@settings(max_examples=20, deadline=None)
def test_any_whole_shift_agrees_bit_for_bit(layout_path, offsets, precision, seed):
    dtype, compute = precision
    kind = [AxisFilter(offset) for offset in offsets]
    correction = correction_of("rank4-2d", kind, dtype=dtype)
    from_package, from_post_processor = both(
        layout_path("rank4-2d", dtype),
        correction,
        observed_of("rank4-2d", dtype, seed=seed),
        precision=compute,
    )
    assert same_bits(from_package, from_post_processor)


def rounding_bound(correction, observed, *, compute, dtype):
    """How far two evaluations of the same taps, gain and bias may lie apart.

    A sum of n products in any order, each product and partial sum rounded with unit roundoff u,
    lies within n u / (1 - n u) of sum |taps| |x| of the exact one (Higham 2002, section 3.1),
    written gamma(n) here. Filters on several axes add up their n; gain and bias round once more
    each, and the bias adds its own size. Two evaluations may lie on either side: twice that. A cast
    to a narrower output dtype may round the two to neighbours: one unit in the last place more.
    """
    unit = np.finfo(compute).eps / 2
    taps = [
        np.array(item.taps)[None] if step is None else sinc_taps(size, step)[1]
        for size, item, step in zip(
            correction.spatial_shape, correction.filters, correction.resampling, strict=True
        )
    ]
    steps = sum(item.shape[1] for item in taps if item.shape[1] > 1) + 2
    gamma = steps * unit / (1 - steps * unit)
    reach = np.abs(observed.astype(np.float64)).max() * max(map(abs, correction.gain))
    for item in taps:
        reach *= np.abs(item).sum(axis=1).max()
    size = reach + max(map(abs, correction.bias))
    last_place = 0.0 if dtype == compute else np.finfo(dtype).eps * size
    return 2 * gamma * size + last_place


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "rank2-affine"])
@pytest.mark.parametrize(
    "kind", [FRACTIONAL, MIXED, SCALED_MIXED], ids=["fractional", "mixed", "scaled"]
)
@pytest.mark.parametrize(("dtype", "precision"), PRECISIONS)
def test_fractions_agree_within_the_rounding_of_their_sums(
    layout_path, layout, kind, dtype, precision
):
    correction = correction_of(layout, kind, dtype=dtype)
    observed = observed_of(layout, dtype)
    from_package, from_post_processor = both(
        layout_path(layout, dtype), correction, observed, precision=precision
    )
    compute = "float32" if precision == "float32" else dtype
    bound = rounding_bound(correction, observed, compute=compute, dtype=dtype)
    apart = from_package.astype(np.float64) - from_post_processor.astype(np.float64)
    assert np.abs(apart).max() <= bound
    # The bound would not notice a wrong tap if it were as large as what the taps do.
    assert bound < 0.02 * np.abs(from_package - observed).max()
