# SPDX-License-Identifier: BSD-3-Clause
"""Bounded, mergeable statistics of one output."""

from __future__ import annotations

import io
import json
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convcal.errors import InputError
from convcal.estimation import OutputStatistics
from convcal.estimation.moments import pool_moments

SHAPE = (2, 6, 5)
SIZE = 60  # values of a sample
DTYPES = ["float16", "float32", "float64", "uint8", "int32", "bool"]


def draw(n, *, shape=SHAPE, dtype="float32", offset=0.0, seed=0):
    rng = np.random.default_rng(seed)
    observed = rng.normal(size=(n, *shape))
    reference = 1.5 * observed + 0.1 * rng.normal(size=observed.shape)
    pair = [20 * array + 40 + offset for array in (reference, observed)]
    return [(a > 40) if dtype == "bool" else a.astype(dtype) for a in pair]


def collect(reference, observed, *, cuts=(), budget=8 * SIZE, **options):
    """Update statistics with the batches between the cuts."""
    statistics = OutputStatistics(budget=budget, **options)
    edges = [0, *sorted(cuts), len(reference)]
    for start, stop in pairwise(edges):
        if start < stop:
            statistics.update(reference[start:stop], observed[start:stop])
    return statistics


def assert_same(first, second, tolerance=1e-12):
    """Compare all that is held: samples and counts bit for bit, moments to round-off."""
    one, two = first.to_arrays(), second.to_arrays()
    assert one.keys() == two.keys()
    assert str(one["header"]) == str(two["header"])
    for name in set(one) - {"header", "pivot", "mean", "comoment"}:
        assert one[name].dtype == two[name].dtype
        np.testing.assert_array_equal(one[name], two[name], strict=True)
    if first.n_samples == 0:
        return
    moments = first.moments(), second.moments()
    power = moments[0].comoment.max(initial=1e-300)
    np.testing.assert_allclose(moments[0].comoment, moments[1].comoment, atol=tolerance * power)
    means = [m.pivot[(..., *(None,) * len(m.limits))] + m.mean for m in moments]
    spread = np.sqrt(power) + np.abs(means[0]).max()
    np.testing.assert_allclose(means[0], means[1], atol=tolerance * spread)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 30),
    cuts=st.lists(st.integers(0, 30), max_size=4),
    dtype=st.sampled_from(DTYPES),
    copies=st.lists(st.integers(0, 29), max_size=6),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_order_and_any_batches_give_the_same(n, cuts, dtype, copies, seed):
    reference, observed = draw(n, dtype=dtype, seed=seed)
    chosen = [*range(n), *(c % n for c in copies)]
    reference, observed = reference[chosen], observed[chosen]
    before = reference.copy(), observed.copy()
    for array in (reference, observed):
        array.flags.writeable = False
    whole = collect(reference, observed)
    assert whole.n_samples == len(chosen)
    cuts = [min(c, len(chosen)) for c in cuts]
    assert_same(whole, collect(reference, observed, cuts=cuts))
    order = np.random.default_rng(seed).permutation(len(chosen))
    assert_same(whole, collect(reference[order], observed[order], cuts=cuts))
    np.testing.assert_array_equal(reference, before[0])
    np.testing.assert_array_equal(observed, before[1])


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(st.integers(0, 15), st.integers(0, 15), st.integers(0, 15)),
    overlap=st.integers(0, 5),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32 - 1),
)
def test_merging_is_updating_whatever_the_order_and_grouping(sizes, overlap, dtype, seed):
    reference, observed = draw(sum(sizes) + 1, dtype=dtype, seed=seed)
    edges = np.cumsum([0, *sizes])
    parts = [
        # Samples of one part come in the other as well.
        [*range(a, b), *range(min(overlap, b - a))]
        for a, b in pairwise(edges)
    ]

    def part(k):
        statistics = OutputStatistics(budget=8 * SIZE)
        return (
            statistics.update(reference[parts[k]], observed[parts[k]]) if parts[k] else statistics
        )

    everything = list(chain.from_iterable(parts))
    whole = OutputStatistics(budget=8 * SIZE)
    if everything:
        whole.update(reference[everything], observed[everything])
    assert_same(whole, part(0).merge(part(1)).merge(part(2)))
    assert_same(whole, part(2).merge(part(1)).merge(part(0)))
    assert_same(whole, part(0).merge(part(1).merge(part(2))))


def test_merging_leaves_the_other_as_it_was():
    reference, observed = draw(30)
    first, second = collect(reference[:10], observed[:10]), collect(reference[10:], observed[10:])
    before = second.to_arrays()
    first.merge(second)
    second.update(reference[:1], observed[:1])
    first_again = collect(reference[:10], observed[:10])
    second = collect(reference[10:], observed[10:])
    for name, array in second.to_arrays().items():
        np.testing.assert_array_equal(array, before[name])
    assert_same(first, first_again.merge(second))


def test_merging_with_itself_counts_everything_twice():
    reference, observed = draw(20)
    twice = collect(np.concatenate([reference] * 2), np.concatenate([observed] * 2))
    statistics = collect(reference, observed)
    assert_same(twice, statistics.merge(statistics))


def test_what_is_kept_are_whole_samples_and_all_of_them_where_they_fit():
    reference, observed = draw(8)
    statistics = collect(reference[[*range(7), 6]], observed[[*range(7), 6]])
    assert statistics.is_complete
    kept = statistics.subsample()
    order = np.lexsort(reference[[*range(7), 6]].reshape(8, -1).T)
    found = np.lexsort(kept[0].reshape(8, -1).T)
    np.testing.assert_array_equal(kept[0][found], reference[[*range(7), 6]][order], strict=True)
    np.testing.assert_array_equal(kept[1][found], observed[[*range(7), 6]][order], strict=True)


def test_beyond_the_budget_different_samples_are_kept_once_each():
    reference, observed = draw(40)
    twice = collect(np.concatenate([reference] * 2), np.concatenate([observed] * 2))
    once = collect(reference, observed)
    assert not twice.is_complete
    assert twice.capacity == 8
    np.testing.assert_array_equal(twice.subsample()[0], once.subsample()[0])
    assert len(np.unique(twice.subsample()[0], axis=0)) == 8
    assert twice.to_arrays()["count"].tolist() == [2] * 8
    assert twice.moments().n_planes.tolist() == [80, 80]


def test_at_least_four_samples_are_kept_of_any_size():
    reference, observed = draw(9)
    statistics = collect(reference, observed, budget=1)
    assert len(statistics.subsample()[0]) == 4


@pytest.mark.parametrize("shape", [(3,), (2, 16), SHAPE, (1, 4, 5, 6)])
def test_the_moments_are_over_all_samples(shape):
    reference, observed = draw(40, shape=shape)
    statistics = collect(reference, observed, cuts=(3, 20), budget=1)
    moments = statistics.moments()
    whole = pool_moments(reference, observed, limits=statistics.limits)
    assert moments.n_planes.tolist() == [40] * shape[0]
    np.testing.assert_allclose(
        moments.comoment, whole.comoment, rtol=1e-12, atol=1e-12 * whole.comoment.max()
    )


def test_the_state_is_bounded_by_its_formula_whatever_the_number_of_samples():
    n_channels, spatial, limits = 2, (6, 5), (3, 2)
    statistics = OutputStatistics(budget=8 * SIZE)
    sizes = []
    for seed in range(10):
        statistics.update(*draw(20, dtype="float16", seed=seed))
        sizes.append(statistics.nbytes)
    n_values = n_channels * np.prod(spatial)
    n_shifts = np.prod([2 * m + 1 for m in limits])
    bound = 8 * n_channels * (3 + 5 * n_shifts) + 64 * n_channels + 8 * (2 * n_values * 2 + 24)
    assert statistics.limits == limits
    assert sizes == [bound] * 10
    arrays = statistics.to_arrays()
    del arrays["header"]
    # The digests are not written: they are taken anew from the samples.
    assert sum(array.nbytes for array in arrays.values()) == bound - 8 * 16


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(0, 20),
    dtype=st.sampled_from(DTYPES),
    max_shift=st.sampled_from([None, 0, 2, (1, 3)]),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_bit_comes_back_from_arrays_without_pickling(n, dtype, max_shift, seed):
    reference, observed = draw(n, dtype=dtype, seed=seed)
    if n > 2 and reference.dtype.kind == "f":
        reference[0, 0, 0, 0], observed[1, 1, 2, 2] = np.nan, np.inf
    statistics = collect(reference, observed, max_shift=max_shift)
    file = io.BytesIO()
    arrays = statistics.to_arrays()
    np.savez(file, **arrays)
    file.seek(0)
    with np.load(file, allow_pickle=False) as record:
        again = OutputStatistics.from_arrays(record)
    for name, array in again.to_arrays().items():
        assert array.dtype == arrays[name].dtype
        assert array.tobytes() == arrays[name].tobytes()
    # It goes on as if nothing had happened.
    more = draw(5, dtype=dtype, seed=seed + 1)
    assert_same(statistics.update(*more), again.update(*more))


def test_arrays_that_were_given_away_do_not_change_the_statistics():
    statistics = collect(*draw(20))
    before = statistics.to_arrays()
    for array in (*statistics.to_arrays().values(), *statistics.subsample()):
        if array.dtype.kind != "U":
            array[...] = 1
    for name, array in statistics.to_arrays().items():
        np.testing.assert_array_equal(array, before[name])


def test_the_caller_may_write_over_a_batch_that_was_taken_in():
    reference, observed = draw(20)
    expected = collect(reference.copy(), observed.copy()).to_arrays()
    statistics = collect(reference, observed)
    reference[...], observed[...] = 7, 7
    for name, array in statistics.to_arrays().items():
        np.testing.assert_array_equal(array, expected[name])


def with_header(arrays, **changes):
    header = {**json.loads(str(arrays["header"])), **changes}
    return {**arrays, "header": np.array(json.dumps(header))}


def changed(name, index, value):
    def change(arrays):
        array = arrays[name].copy()
        array[index] = value
        return {**arrays, name: array}

    return change


def replaced(name, make):
    return lambda arrays: {**arrays, name: make(arrays[name])}


HOSTILE = {
    "no header": lambda a: {k: v for k, v in a.items() if k != "header"},
    "no array": lambda a: {k: v for k, v in a.items() if k != "mean"},
    "header of bytes": lambda a: {**a, "header": np.array(b"{}")},
    "header of objects": lambda a: {**a, "header": np.array({}, dtype=object)},
    "header not JSON": lambda a: {**a, "header": np.array("{")},
    "header too deep": lambda a: {**a, "header": np.array("[" * 60000)},
    "header too long": lambda a: {**a, "header": np.array(" " * 70000)},
    "header a list": lambda a: {**a, "header": np.array("[]")},
    "other format": lambda a: with_header(a, format="npz"),
    "later version": lambda a: with_header(a, version=2),
    "version a text": lambda a: with_header(a, version="1"),
    "negative shift": lambda a: with_header(a, max_shift=-1),
    "shift a number": lambda a: with_header(a, max_shift=1.5),
    "shift true": lambda a: with_header(a, max_shift=True),
    "shifts of too many axes": lambda a: with_header(a, max_shift=[1, 1, 1]),
    "shifts of none": lambda a: with_header(a, max_shift=[]),
    "other shift": lambda a: with_header(a, max_shift=2),
    "no budget": lambda a: with_header(a, budget=0),
    "large budget": lambda a: with_header(a, budget=2**40),
    "small budget": lambda a: with_header(a, budget=1),
    "negative samples": lambda a: with_header(a, n_samples=-1),
    "fewer samples": lambda a: with_header(a, n_samples=3),
    "more samples": lambda a: with_header(a, n_samples=1000),
    "no shape": lambda a: with_header(a, shape=None),
    "shape of zero": lambda a: with_header(a, shape=[2, 6, 0]),
    "large shape": lambda a: with_header(a, shape=[2, 60, 50]),
    "huge shape": lambda a: with_header(a, shape=[2**50, 2**50, 2**50]),
    "large shift": lambda a: with_header(a, max_shift=2**50),
    "shape of too many axes": lambda a: with_header(a, shape=[2, 6, 5, 1, 1]),
    "dtype of objects": lambda a: with_header(a, dtypes=["O", "O"]),
    "dtype of nonsense": lambda a: with_header(a, dtypes=["<f4", "a,b,,"]),
    "dtype a number": lambda a: with_header(a, dtypes=[4, 4]),
    "one dtype": lambda a: with_header(a, dtypes=["<f4"]),
    "other dtypes": lambda a: with_header(a, dtypes=["<f8", "<f8"]),
    "count of zero": changed("count", 0, 0),
    "count too large": changed("count", 0, 2**60),
    "counts of halves": replaced("count", lambda c: c.astype(float)),
    "one count fewer": replaced("count", lambda c: c[:-1]),
    "samples changed": changed("reference", (0, 0, 0, 0), 5.0),
    "samples in another order": lambda a: {
        **a,
        "reference": a["reference"][::-1],
        "observed": a["observed"][::-1],
    },
    "one sample twice": lambda a: {
        **a,
        "reference": a["reference"][[0, 0, 2, 3, 4, 5, 6, 7]],
        "observed": a["observed"][[0, 0, 2, 3, 4, 5, 6, 7]],
    },
    "samples of objects": replaced("reference", lambda r: r.astype(object)),
    "means not finite": changed("mean", (0, 0, 0, 0), np.nan),
    "pivot infinite": changed("pivot", (0, 0), np.inf),
    "means too large": changed("mean", (0, 0, 0, 0), 1e300),
    "co-moments too large": changed("comoment", (2, 0, 0, 0), 1e305),
    "negative squares": changed("comoment", (0, 0, 0, 0), -1.0),
    "other shape of moments": replaced("comoment", lambda c: c[:, :, :-1]),
    "planes that were not given": changed("n_planes", 0, 1000),
    "planes missing": changed("n_planes", 0, 3),
    "negative counts": changed("n_left_out", 0, -1),
    "too many left out": changed("n_left_out", 0, 100),
    "too many different": changed("n_different", 0, 10**9),
    "a range upside down": changed("minimum", (0, 0), 1e9),
    "a range of NaN": changed("maximum", (0, 0), np.nan),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_arrays_that_no_statistics_gave_are_refused(name):
    arrays = collect(*draw(20)).to_arrays()
    OutputStatistics.from_arrays(arrays)
    with pytest.raises(InputError):
        OutputStatistics.from_arrays(HOSTILE[name](arrays))


def test_ranges_and_holes_are_counted():
    reference, observed = draw(20)
    reference[3, 0, 0, 0], reference[3, 0, 0, 1] = np.nan, np.inf
    observed[5, 1, 2, 2] = -np.inf
    statistics = collect(reference, observed, cuts=(4,))
    counts = statistics.counts
    assert counts.n_nonfinite.tolist() == [[2, 0], [0, 1]]
    assert counts.n_left_out.tolist() == [1, 1]
    assert statistics.moments().n_planes.tolist() == [19, 19]
    for role, array in enumerate((reference, observed)):
        values = np.where(np.isfinite(array), array, np.nan)
        assert counts.minimum[role].tolist() == np.nanmin(values, axis=(0, 2, 3)).tolist()
        assert counts.maximum[role].tolist() == np.nanmax(values, axis=(0, 2, 3)).tolist()


def test_a_sample_of_nothing_but_nan_spoils_no_other():
    reference, observed = draw(20)
    clean = collect(reference, observed, budget=1).moments()
    observed_too = np.concatenate([observed, np.full_like(observed[:1], np.nan)])
    statistics = collect(np.concatenate([reference, reference[:1]]), observed_too, budget=1)
    assert statistics.n_samples == 21
    np.testing.assert_allclose(statistics.moments().comoment, clean.comoment, rtol=1e-11)


def test_differing_labels_are_counted():
    reference = np.arange(24, dtype=np.int32).reshape(2, 1, 3, 4) % 7
    observed = reference.copy()
    observed[1, 0, 2] += 1
    assert collect(reference, observed).counts.n_different.tolist() == [4]


def test_another_byte_order_is_the_same_content():
    reference, observed = draw(20)
    swapped = collect(reference.astype(">f4"), observed.astype(">f4"))
    assert_same(collect(reference, observed), swapped)


def test_long_doubles_are_kept_as_doubles():
    reference, observed = (array.astype(np.longdouble) for array in draw(9))
    assert collect(reference, observed).dtypes == (np.dtype(float), np.dtype(float))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (draw(3, shape=(2, 6, 6)), r"shape \(2, 6, 6\) and those before \(2, 6, 5\)"),
        (draw(3, dtype="float64"), "dtypes float64 and float64, and before they had float32"),
        ((np.zeros((2, 2, 6, 5)), np.zeros((2, 2, 6, 4))), "they must be the same"),
        (([["a"]], [["b"]]), "dtype"),
        ((np.zeros((0, 2, 6, 5)),) * 2, "empty"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_and_changes_nothing(batch, message):
    statistics = collect(*draw(20))
    before = statistics.to_arrays()
    with pytest.raises(InputError, match=message):
        statistics.update(*batch)
    for name, array in statistics.to_arrays().items():
        np.testing.assert_array_equal(array, before[name])


def test_statistics_with_other_parameters_are_not_merged():
    with pytest.raises(InputError, match="same parameters"):
        OutputStatistics(max_shift=3).merge(OutputStatistics())
    with pytest.raises(InputError, match=r"shape \(3, 4\)"):
        collect(*draw(2)).merge(collect(*draw(2, shape=(3, 4))))
    with pytest.raises(InputError, match="of type NoneType"):
        OutputStatistics().merge(None)


@pytest.mark.parametrize(
    "options", [{"max_shift": -1}, {"max_shift": 1.5}, {"budget": 0}, {"budget": 1.5}]
)
def test_parameters_that_mean_nothing_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        OutputStatistics(**options)


def test_without_samples_there_is_nothing_to_tell():
    statistics = OutputStatistics()
    assert (statistics.n_samples, statistics.nbytes) == (0, 0)
    with pytest.raises(InputError, match="no sample yet"):
        statistics.subsample()
    assert_same(OutputStatistics.from_arrays(statistics.to_arrays()), statistics)
    reference, observed = draw(20)
    full = collect(reference, observed)
    assert_same(collect(reference, observed), full.merge(OutputStatistics(budget=8 * SIZE)))
    assert_same(full, OutputStatistics(budget=8 * SIZE).merge(full))
