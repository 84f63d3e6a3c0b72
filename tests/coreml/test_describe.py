# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest
from coreml.models import save_functions, save_package, weighted

from convcal.coreml._coremltools import load_coremltools
from convcal.coreml.describe import UNKNOWN_LENGTH, describe
from convcal.coreml.package import read_package
from convcal.errors import InputError, UnsupportedModelError
from convcal.model_description import Feature


def test_tensors_are_described_in_the_order_of_the_package(tmp_path):
    def body(mb, x):
        return mb.relu(x=x, name="first"), mb.cast(x=x, dtype="int32", name="second")

    path = save_package(tmp_path / "m.mlpackage", body, shape=(1, 3, 8), target="iOS16")
    description = describe(read_package(path))
    assert description.inputs == (Feature("x", "tensor", (1, 3, 8), "float32"),)
    assert description.outputs == (
        Feature("first", "tensor", (1, 3, 8), "float32"),
        Feature("second", "tensor", (1, 3, 8), "int32"),
    )


def test_half_precision_features_are_told_apart(tmp_path):
    path = save_package(
        tmp_path / "m.mlpackage", weighted, shape=(1, 3, 8, 8), target="iOS16", dtype="fp16"
    )
    description = describe(read_package(path))
    assert description.input("x").dtype == "float16"
    assert description.output("out") == Feature("out", "tensor", (1, 4, 8, 8), "float16")


def test_a_flexible_shape_gives_its_default_and_says_so(tmp_path):
    ct = load_coremltools()
    range_dim = ct.RangeDim(lower_bound=4, upper_bound=64, default=16)
    path = save_package(
        tmp_path / "m.mlpackage",
        lambda mb, x: mb.relu(x=x, name="out"),
        shape=(1, 3, 16, ct.converters.mil.mil.get_new_symbol()),
        inputs=[ct.TensorType(name="x", shape=(1, 3, 16, range_dim))],
    )
    description = describe(read_package(path))
    limits = ((1, 1), (3, 3), (16, 16), (4, 64))
    assert description.input("x") == Feature(
        "x", "tensor", (1, 3, 16, 16), "float32", is_flexible=True, allowed=(limits,)
    )
    assert description.input("x").accepted == "(1, 3, 16, 4 to 64)"
    assert description.output("out").is_flexible
    assert description.output("out").shape == (1, 3, 16, UNKNOWN_LENGTH)


@pytest.mark.parametrize(
    ("colour", "shape"), [("RGB", (8, 10, 3)), ("BGR", (8, 10, 3)), ("GRAYSCALE", (8, 10))]
)
def test_images_are_described_as_callers_see_them(tmp_path, colour, shape):
    ct = load_coremltools()
    layout = getattr(ct.colorlayout, colour)
    size = (1, 1 if colour == "GRAYSCALE" else 3, 8, 10)
    path = save_package(
        tmp_path / "m.mlpackage",
        lambda mb, x: mb.relu(x=x, name="out"),
        shape=size,
        inputs=[ct.ImageType(name="x", shape=size, color_layout=layout)],
        outputs=[ct.ImageType(name="out", color_layout=layout)],
        target="iOS16",
    )
    description = describe(read_package(path))
    for feature in (*description.inputs, *description.outputs):
        assert (feature.kind, feature.shape, feature.dtype) == ("image", shape, "uint8")
        assert (feature.colour, feature.layout) == (colour, "HWC"[: len(shape)])
        assert not feature.is_flexible


def test_each_function_is_described_by_name(tmp_path):
    parts = {
        "small": save_package(tmp_path / "a.mlpackage", weighted, shape=(1, 3, 8), target="iOS18"),
        "large": save_package(tmp_path / "b.mlpackage", weighted, shape=(1, 3, 16), target="iOS18"),
    }
    package = read_package(save_functions(tmp_path / "both.mlpackage", parts))
    assert describe(package).input("x").shape == (1, 3, 8)
    assert describe(package, function="large").output("out").shape == (1, 4, 16)
    with pytest.raises(InputError, match=r"no function 'other'.*\['large', 'small'\]"):
        describe(package, function="other")


def test_a_classifier_keeps_its_arrays_only(tmp_path):
    ct = load_coremltools()
    path = save_package(
        tmp_path / "m.mlpackage",
        lambda mb, x: mb.softmax(x=x, axis=1, name="scores"),
        shape=(1, 3),
        classifier_config=ct.ClassifierConfig(["cat", "dog", "owl"]),
    )
    description = describe(read_package(path))
    assert all(feature.kind == "tensor" for feature in description.outputs)
    assert "classLabel" not in description.output_names


def test_an_input_that_is_no_array_is_refused_by_name(model_path):
    package = read_package(model_path)
    package.spec.description.input[0].type.stringType.SetInParent()
    with pytest.raises(UnsupportedModelError, match=r"input 'x' .* is of type 'stringType'"):
        describe(package)


def test_an_unknown_element_type_is_refused_by_name(model_path):
    package = read_package(model_path)
    package.spec.description.output[0].type.multiArrayType.dataType = 0
    with pytest.raises(InputError, match=r"'out' .* unknown element type 0"):
        describe(package)
    assert np.dtype(describe(read_package(model_path)).output("out").dtype) == np.float32
