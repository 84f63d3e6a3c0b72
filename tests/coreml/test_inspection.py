# SPDX-License-Identifier: BSD-3-Clause
"""Every rule finds what its report describes, and leaves the same operation alone without that."""

import re
from pathlib import Path

import numpy as np
import pytest
from programs import make_package, mb

import convcal
from convcal.coreml.inspection import inspect
from convcal.coreml.rules import RULES
from convcal.errors import InputError
from convcal.words import STRATEGIES

HALF = "float16"


def ones(*shape):
    return np.ones(shape, np.float32)


def up(kernel=(3,), *, pad=None, **arguments):
    """A conv_transpose of two channels."""
    if pad is not None:
        arguments |= {"pad_type": "custom", "pad": pad}
    return lambda x: mb.conv_transpose(x=x, weight=ones(2, 2, *kernel), name="op", **arguments)


def masked(value):
    return lambda x: mb.add(x=x, y=np.float16(value), name="op")


def norm(variance, epsilon, dtype="float32"):
    return lambda x: mb.batch_norm(
        x=x,
        mean=np.zeros(2, dtype),
        variance=np.array(variance, dtype),
        epsilon=np.array(epsilon, dtype)[()],
        name="op",
    )


def attention(x):
    return mb.scaled_dot_product_attention(query=x, key=x, value=x, name="op")


def resampled(mode):
    return lambda x, grid: mb.resample(
        x=x,
        coordinates=grid,
        sampling_mode="bilinear",
        padding_mode="constant",
        padding_value=np.float32(0),
        coordinates_mode=mode,
        align_corners=True,
        name="op",
    )


def cropped(x):
    return mb.crop_resize(
        x=x,
        roi=np.array([[[[[0]], [[0]], [[0]], [[1]], [[1]]]]], np.float32).reshape(1, 1, 5, 1, 1),
        target_height=3,
        target_width=3,
        normalized_coordinates=True,
        spatial_scale=1.0,
        box_coordinate_mode="CORNERS_HEIGHT_FIRST",
        sampling_mode="ALIGN_CORNERS",
        name="op",
    )


def sliced(begin, *, mask=False):
    return lambda x: mb.slice_by_index(
        x=x,
        begin=[0, 0, begin],
        end=[1, 2, 6],
        begin_mask=[False, False, mask],
        name="op",
    )


def pooled(kind, **arguments):
    return lambda x: getattr(mb, kind)(x=x, kernel_sizes=[2], name="op", **arguments)


LINE, PLANE = (1, 2, 6), (1, 2, 6, 6)
UPSAMPLE = {"scale_factor_height": 2.0, "scale_factor_width": 2.0}
GRID = {"x": (1, 2, 6, 6), "grid": (1, 4, 4, 2)}
WIDE_GRID = {"x": (1, 2, 6, 600), "grid": (1, 4, 4, 2)}

# Fault, precision, what is built, inputs, words of what matched (None: the rule leaves it alone).
CASES = [
    ("A1", HALF, up(pad=[1, 0]), {"x": LINE}, "pads in front 1, at the back 0"),
    ("A1", HALF, up(pad=[1, 1]), {"x": LINE}, None),
    ("A1", "float32", up(pad=[1, 0]), {"x": LINE}, None),
    ("A1", HALF, up((3, 3), pad=[1, 1, 0, 2]), {"x": PLANE}, "pads in front 1x0, at the back 1x2"),
    ("A2", "float32", up(output_shape=[1, 2, 7]), {"x": LINE}, "output_shape 7, where .* make 8"),
    ("A2", "float32", up(output_shape=[1, 2, 8]), {"x": LINE}, None),
    ("A3", "float32", up(pad=[1, 0]), {"x": LINE}, "pads in front 1"),
    ("A3", HALF, up(pad=[1, 0]), {"x": LINE}, None),
    ("A3", HALF, up(pad_type="same"), {"x": LINE}, "pad_type 'same'"),
    ("A4", HALF, up(pad=[1, 0], output_shape=[1, 2, 8]), {"x": LINE}, "1 positions past"),
    ("A4", HALF, up(pad=[1, 0]), {"x": LINE}, None),
    ("A6", HALF, up((8,)), {"x": LINE}, "kernel 8"),
    ("A6", HALF, up((7,), strides=[15]), {"x": LINE}, None),
    ("A9", HALF, up(strides=[16]), {"x": LINE}, "strides 16"),
    ("A9", HALF, up(strides=[8]), {"x": LINE}, None),
    (
        "B2",
        "float32",
        lambda x: mb.conv(
            x=x, weight=ones(1, 2, 3, 2), strides=[2, 2], pad_type="custom", pad=[1] * 4, name="op"
        ),
        {"x": (1, 2, 5, 5)},
        "kernel 3x2, strides 2x2, padded",
    ),
    (
        "B2",
        "float32",
        lambda x: mb.conv(x=x, weight=ones(1, 2, 3, 2), strides=[2, 2], name="op"),
        {"x": (1, 2, 5, 5)},
        None,
    ),
    ("B3", HALF, pooled("max_pool", pad_type="same_lower"), {"x": LINE}, "same_lower"),
    ("B3", HALF, pooled("max_pool", pad_type="same"), {"x": LINE}, None),
    (
        "B4",
        HALF,
        pooled("avg_pool", pad_type="custom", pad=[0, 0], strides=[4], ceil_mode=True),
        {"x": LINE},
        "ceil_mode",
    ),
    ("B4", HALF, pooled("avg_pool", pad_type="valid"), {"x": LINE}, None),
    (
        "C1",
        HALF,
        lambda x: mb.upsample_nearest_neighbor(
            x=x, scale_factor_height=1.5, scale_factor_width=2.0, name="op"
        ),
        {"x": PLANE},
        "scale factors 1.5 and 2",
    ),
    (
        "C1",
        HALF,
        lambda x: mb.upsample_nearest_neighbor(x=x, name="op", **UPSAMPLE),
        {"x": PLANE},
        None,
    ),
    ("C1", "float32", cropped, {"x": PLANE}, "is used"),
    ("C2", HALF, lambda x: mb.upsample_bilinear(x=x, **UPSAMPLE), {"x": PLANE}, "in fp16"),
    ("C2", "float32", lambda x: mb.upsample_bilinear(x=x, **UPSAMPLE), {"x": PLANE}, None),
    (
        "C3",
        HALF,
        lambda x: mb.upsample_bilinear(x=x, **UPSAMPLE),
        {"x": (1, 1, 2, 600)},
        "coordinates up to 1200 in fp16",
    ),
    ("C3", HALF, lambda x: mb.upsample_bilinear(x=x, **UPSAMPLE), {"x": (1, 1, 2, 512)}, None),
    ("C4", HALF, resampled("normalized_minus_one_to_one"), WIDE_GRID, "over 600 positions"),
    ("C4", HALF, resampled("normalized_minus_one_to_one"), GRID, None),
    ("C4", "float32", resampled("unnormalized"), GRID, "'unnormalized'"),
    ("E1", HALF, sliced(2), {"x": LINE}, "a slice of the width that begins at 2"),
    ("E1", HALF, sliced(-4), {"x": LINE}, "begins at 2"),
    ("E1", HALF, sliced(0), {"x": LINE}, None),
    ("E1", HALF, sliced(2, mask=True), {"x": LINE}, None),
    ("E1", "float32", sliced(2), {"x": LINE}, None),
    (
        "E1",
        HALF,
        lambda x: mb.crop(x=x, crop_height=[2, 0], crop_width=[1, 0], name="op"),
        {"x": PLANE},
        "begins at 1",
    ),
    (
        "E1",
        HALF,
        lambda x: mb.slice_by_size(x=x, begin=[0, 0, 3], size=[1, 2, 2], name="op"),
        {"x": LINE},
        "begins at 3",
    ),
    ("E1", "as built", masked(-np.inf), {"x": (LINE, HALF)}, "infinite in fp16: y"),
    ("E1", "as built", masked(-1e4), {"x": (LINE, HALF)}, None),
    ("E2", HALF, lambda x: mb.softplus(x=x), {"x": LINE}, "in fp16"),
    ("E2", HALF, lambda x: mb.reduce_log_sum_exp(x=x, axes=[1]), {"x": LINE}, "in fp16"),
    ("E2", "float32", lambda x: mb.softplus(x=x), {"x": LINE}, None),
    ("E3", HALF, lambda x: mb.sigmoid(x=x), {"x": LINE}, "in fp16"),
    ("E3", HALF, lambda x: mb.atan(x=x), {"x": LINE}, "in fp16"),
    ("E3", HALF, lambda x: mb.tanh(x=x), {"x": LINE}, None),
    ("E4", "as built", norm([np.inf, 1.0], 1e-3, HALF), {"x": (PLANE, HALF)}, "in 1 channels"),
    ("E4", HALF, norm([1.0, 1e-5], 1e-5), {"x": PLANE}, "the gain 1.41"),
    ("E4", HALF, norm([1.0, 0.0], 1e-5), {"x": PLANE}, "a variance of 0 beside"),
    ("E4", HALF, norm([1.0, 1.0], 1e-5), {"x": PLANE}, None),
    ("E4", HALF, norm([1.0, 1e-5], 1e-3), {"x": PLANE}, None),
    ("E6", HALF, attention, {"x": (10, 2, 4, 8)}, "a batch of 10"),
    ("E6", HALF, attention, {"x": (9, 2, 4, 8)}, None),
    (
        "E6",
        "float32",
        lambda x, w: mb.conv(x=x, weight=w, name="op"),
        {"x": LINE, "w": (2, 2, 3)},
        "computed when the program runs",
    ),
    ("E6", HALF, lambda x: mb.layer_norm(x=x, axes=[-1], name="op"), {"x": LINE}, "in fp16"),
    ("E6", "float32", lambda x: mb.layer_norm(x=x, axes=[-1], name="op"), {"x": LINE}, None),
]


def findings(case):
    fault, precision, build, inputs, _ = case
    target = "iOS18" if build is attention else "iOS16"
    package = make_package(build, precision=precision, target=target, **inputs)
    return [each for each in inspect(package).findings if each.rule.fault == fault]


@pytest.mark.parametrize("case", CASES, ids=[f"{each[0]}-{i}" for i, each in enumerate(CASES)])
def test_a_rule_finds_what_the_report_describes_and_nothing_else(case):
    found = findings(case)
    words = case[-1]
    if words is None:
        assert found == []
    else:
        assert [each for each in found if re.search(words, each.matched)], found


def test_every_rule_has_a_case_in_which_it_finds_something():
    found = {each.rule for case in CASES for each in findings(case)}
    assert found == set(RULES)


def test_every_rule_names_a_fault_a_source_and_a_cure():
    for rule in RULES:
        assert re.fullmatch(r"[A-E]\d", rule.fault)
        assert rule.title
        assert rule.devices
        assert rule.sources
        assert rule.cure
        assert set(rule.strategies) <= set(STRATEGIES)
        # Only transposed convolutions can be rewritten in other ways than in fp32.
        is_transposed = "conv_transpose" in rule.operations
        assert is_transposed or set(rule.strategies) <= {"fp32-island"}


def test_risks_alone_are_no_fault():
    inspection = inspect(make_package(lambda x: mb.sigmoid(x=x), precision=HALF, x=LINE))
    assert inspection.findings
    assert not inspection.faults
    assert inspection
    assert inspection.strategies == ()


def test_the_networks_of_the_repository_are_touched_where_they_are_known_to_be():
    models = Path(__file__).parents[2] / "calibration_data" / "models"
    for name in ("fsrcnn", "audio-upsampler", "issue-2324"):
        (finding,) = convcal.inspect(models / name / "fp16.mlpackage").faults
        assert (finding.rule.fault, finding.type) == ("A1", "conv_transpose")
        assert finding.rule.strategies == STRATEGIES


def test_a_package_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        convcal.inspect(tmp_path / "gone.mlpackage")
