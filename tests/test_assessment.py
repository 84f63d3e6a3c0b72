# SPDX-License-Identifier: BSD-3-Clause
"""From arrays or statistics of one output to its calibration."""

import numpy as np
import pytest

from convcal import FitOptions, Layout, OutputCalibrator
from convcal.assessment import assess, assess_statistics
from convcal.calibration import OutputCalibration
from convcal.datasets import make_pair
from convcal.errors import InputError
from convcal.estimation import OutputStatistics

LAYOUT = Layout()


@pytest.fixture
def pair():
    return make_pair((32, 32), shift=(-2, 1), gain=(1.1, -0.9, 1.0), n_samples=20, seed=1)


@pytest.mark.parametrize("options", [None, FitOptions(max_shift=4, holdout=0.5, robust=True)])
def test_statistics_that_keep_all_samples_give_what_the_arrays_give(pair, options):
    statistics = OutputStatistics(max_shift=options and options.max_shift)
    statistics.update(pair.reference[:9], pair.observed[:9])
    statistics.update(pair.reference[9:], pair.observed[9:])
    found = assess_statistics(statistics, layout=LAYOUT, dtype="float16", options=options)
    arrays = statistics.subsample()
    assert found == assess(*arrays, layout=LAYOUT, dtype="float16", options=options)
    assert found.verdict == "correctable"
    assert found.correction.shift == (-2, 1)


def test_what_statistics_of_more_samples_add_is_written_and_read(pair):
    statistics = OutputStatistics(budget=8 * 3 * 32 * 32).update(pair.reference, pair.observed)
    found = assess_statistics(statistics, layout=LAYOUT, dtype="float16")
    assert found.evidence["pooled"]["n_samples"] == 20
    assert OutputCalibration.from_dict(found.to_dict()) == found


@pytest.mark.parametrize("dtype", ["int32", "int8"])
@pytest.mark.parametrize("n_different", [0, 5])
def test_labels_are_compared_and_never_corrected(dtype, n_different):
    reference = (np.arange(60).reshape(3, 1, 4, 5) % 2).astype(dtype)
    observed = reference.copy()
    observed[1].ravel()[:n_different] = 1 - observed[1].ravel()[:n_different]
    arrays = assess(reference, observed, layout=LAYOUT, dtype=dtype)
    statistics = OutputStatistics().update(reference, observed)
    assert assess_statistics(statistics, layout=LAYOUT, dtype=dtype) == arrays
    assert arrays.evidence == {"share_different": n_different / 60}
    assert arrays.verdict == ("not-correctable" if n_different else "identical")


def test_options_may_not_contradict_the_statistics(pair):
    statistics = OutputStatistics(max_shift=4).update(pair.reference, pair.observed)
    with pytest.raises(InputError, match="max_shift is 5 and the statistics were made with 4"):
        assess_statistics(
            statistics, layout=LAYOUT, dtype="float16", options=FitOptions(max_shift=5)
        )


def test_statistics_of_nothing_are_refused():
    with pytest.raises(InputError, match="no sample yet"):
        assess_statistics(OutputStatistics(), layout=LAYOUT, dtype="float16")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("holdout", "x"),
        ("holdout", None),
        ("holdout", True),
        ("holdout", float("nan")),
        ("max_shift", "x"),
        ("max_shift", 1.5),
        ("max_shift", [[1], [1, 2]]),
        ("data_range", "x"),
        ("data_range", 1j),
        ("robust", "no"),
        ("model", 3),
    ],
)
def test_a_parameter_of_a_wrong_type_is_named(pair, name, value):
    for refused in (
        lambda: FitOptions(**{name: value}),
        lambda: OutputCalibrator(**{name: value}).fit(pair.reference, pair.observed),
    ):
        with pytest.raises(InputError, match=rf"{name} is .* accepted"):
            refused()


@pytest.mark.parametrize("axis", ["0", 0.5, True])
def test_an_axis_that_is_no_whole_number_is_named(pair, axis):
    with pytest.raises(InputError, match="whole numbers or None are accepted"):
        OutputCalibrator(channel_axis=axis).fit(pair.reference, pair.observed)
