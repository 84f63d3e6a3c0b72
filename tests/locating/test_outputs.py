# SPDX-License-Identifier: BSD-3-Clause
"""Every output of a model is judged, whatever it is: no difference of one goes by in silence."""

import numpy as np
import pytest
from programs import make_package, mb, save

from convcal import diagnose
from convcal.errors import InputError
from convcal.report.diagnoses import diagnosis_tables

SHAPE = (1, 3, 12, 14)
WEIGHT = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32) / 4
DATA = [{"x": np.random.default_rng(n).standard_normal(SHAPE).astype(np.float32)} for n in range(3)]


def conv(x, *, weight=WEIGHT, name="conv"):
    return mb.conv(x=x, weight=weight, pad_type="same", name=name)


def packages(folder, reference, observed=None):
    """Save a program in fp32, and it or another one in fp16."""
    return tuple(
        save(make_package(build, precision=precision, x=SHAPE), folder / f"{precision}.mlpackage")
        for build, precision in ((reference, "float32"), (observed or reference, "float16"))
    )


def with_twin(make):
    def build(x):
        y = conv(x)
        return mb.identity(x=y, name="one"), make(y)

    return build


def with_constant(*values):
    def build(x):
        return conv(x), mb.identity(x=np.float32(values), name="fixed")

    return build


def conv_alone(x):
    return conv(x)


def padded(x):
    return mb.pad(x=conv(x, weight=WEIGHT[:2], name="c"), pad=[0, 1, 0, 2], name="conv")


def whole(x):
    return mb.cast(x=conv(x, name="c"), dtype="int32", name="conv")


def copied(y):
    return mb.identity(x=y, name="two")


def bent(y):
    return mb.relu(x=y, name="two")


@pytest.mark.parametrize("memory", [1 << 30, 1])
@pytest.mark.parametrize(
    ("reference", "observed", "wrong"),
    [
        (with_twin(copied), with_twin(copied), None),
        (with_twin(copied), with_twin(bent), "two"),
        (with_twin(bent), with_twin(copied), "two"),
        (with_constant(1, 2, 3), with_constant(1, 2, 3), None),
        (with_constant(1, 2, 3), with_constant(1, 2, 4), "fixed"),
    ],
)
def test_an_output_is_judged_by_that_of_its_name(tmp_path, reference, observed, wrong, memory):
    both = packages(tmp_path, reference, observed)
    found = diagnose(*both, DATA, find_all=True, memory=memory)
    assert len(found.outputs) == 2
    assert [name for name, each in found.outputs.items() if each.state == "wrong"] == (
        [wrong] if wrong else []
    )
    assert [(each.tensor, each.cause) for each in found.culprits] == (
        [(wrong, "program")] if wrong else []
    )


@pytest.mark.parametrize("memory", [1 << 30, 1])
def test_an_output_that_is_an_input_is_judged_too(tmp_path, memory):
    both = packages(tmp_path, lambda x: mb.identity(x=x, name="same"))
    assert diagnose(*both, DATA, memory=memory).verdict == "identical"
    found = diagnose(*both, DATA, memory=memory, emulate=["channel-affine:gain=1.3"])
    (culprit,) = found.culprits
    assert (culprit.tensor, culprit.operations, culprit.family) == ("same", (), "affine")
    assert not any("op_selector" in each for each in culprit.advice)  # there is no operation
    paths = dict.fromkeys(("REFERENCE", "OBSERVED", "DATA"), "path")
    shown = [str(part) for part in diagnosis_tables(found, paths=paths)]
    assert "same: affine" in shown


def test_an_output_may_have_the_name_of_an_input(tmp_path):
    both = packages(tmp_path, lambda x: (x, conv(x)))
    assert diagnose(*both, DATA).outputs["x"].state == "identical"


def test_numbers_and_whole_numbers_are_not_compared(tmp_path):
    both = [  # both in fp32: coremltools warns of its own where it makes the cast one of fp16
        save(make_package(build, x=SHAPE), tmp_path / f"{build.__name__}.mlpackage")
        for build in (conv_alone, whole)
    ]
    with pytest.raises(InputError, match="'conv' is of type float32 in the reference and int32"):
        diagnose(*both, DATA)


@pytest.mark.parametrize("memory", [1 << 30, 1])
@pytest.mark.parametrize(
    ("observed", "family"),
    [
        (conv_alone, "unstructured"),
        (padded, "length"),
    ],
)
def test_an_output_of_another_shape_is_the_fault_of_the_program(tmp_path, observed, family, memory):
    both = packages(tmp_path, lambda x: conv(x, weight=WEIGHT[:2]), observed)
    (culprit,) = diagnose(*both, DATA, memory=memory).culprits
    assert (culprit.tensor, culprit.family, culprit.cause) == ("conv", family, "program")
    assert "is expected" in culprit.reason


def test_numbers_where_there_are_none_to_have_are_wrong(tmp_path):
    both = packages(
        tmp_path, lambda x: mb.log(x=x, name="out"), lambda x: mb.log(x=mb.abs(x=x), name="out")
    )
    (culprit,) = diagnose(*both, DATA).culprits
    assert (culprit.tensor, culprit.family) == ("out", "non-finite")
    assert diagnose(both[0], both[0], DATA).verdict == "identical"


def test_a_number_of_no_axes_decides_which_block_runs(tmp_path):
    def build(x):
        total = mb.reduce_sum(x=x, axes=[0, 1, 2, 3], keep_dims=False)
        return mb.cond(
            pred=mb.greater(x=total, y=np.float32(0)),
            _true_fn=lambda: mb.relu(x=x),
            _false_fn=lambda: mb.tanh(x=x),
            name="out",
        )

    both = packages(tmp_path, build)
    assert diagnose(*both, DATA).verdict == "identical"


def test_a_source_of_one_number_is_refused(tmp_path):
    both = packages(tmp_path, conv_alone)
    np.savez(tmp_path / "source.npz", conv=np.float32(3))
    with pytest.raises(InputError, match="holds 0 samples along its first axis"):
        diagnose(*both, DATA, source=tmp_path / "source.npz")
