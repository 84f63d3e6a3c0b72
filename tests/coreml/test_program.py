# SPDX-License-Identifier: BSD-3-Clause
"""The view of an ML Program: names, types, folded constants, and what is refused."""

import numpy as np
import pytest
from programs import get_new_symbol, make_package, mb

from convcal.coreml.program import list_operations, load_program
from convcal.errors import InputError, UnsupportedModelError


def network(x):
    weight = np.arange(16 * 16, dtype=np.float32).reshape(16, 16, 1, 1)
    y = mb.conv(x=x, weight=weight, name="mix")
    left, right = mb.split(x=y, num_splits=2, axis=1, name="halves")
    return mb.concat(values=[right, left], axis=1, name="swapped")


def test_operations_come_in_order_with_names_types_defaults_and_weights():
    package = make_package(network, precision="float16", x=(1, 16, 2, 2))
    assert package.weights_path is not None
    program = load_program(package)
    assert [operation.type for operation in program.operations] == [
        "cast", "conv", "split", "concat", "cast",
    ]  # fmt: skip
    cast, mix, halves, swapped, back = program.operations
    assert cast.tensor("x") is program.inputs[0]
    assert back.outputs == program.outputs
    assert (program.outputs[0].name, program.outputs[0].dtype) == ("swapped", "float32")
    weight = mix.constant("weight")
    assert weight.dtype == np.float16
    np.testing.assert_array_equal(weight.ravel(), np.arange(256))
    assert mix.integers("strides") == (1, 1)  # a default that the package states or implies
    assert mix.constant("bias") is None
    assert [value.shape for value in halves.outputs] == [(1, 8, 2, 2)] * 2
    assert swapped.inputs["values"] == halves.outputs[::-1]
    assert swapped.outputs[0].dtype == "float16"
    with pytest.raises(ValueError, match="read-only"):
        weight[0] = 0


def test_what_does_not_depend_on_the_inputs_is_folded():
    package = make_package(
        lambda x: mb.add(x=x, y=mb.square(x=np.array([3, 4], np.float32))), x=(1, 2)
    )
    square, add = load_program(package).operations
    assert square.is_folded
    assert not add.is_folded
    np.testing.assert_array_equal(add.constant("y"), [9, 16])
    with pytest.raises(UnsupportedModelError, match="'x' is computed at run time"):
        add.constant("x")


def test_open_lengths_are_none_until_they_are_given():
    package = make_package(lambda x: mb.relu(x=x), x=(1, get_new_symbol()))
    assert load_program(package).outputs[0].shape == (1, None)
    assert load_program(package, input_shapes={"x": (1, 5)}).outputs[0].shape == (1, 5)
    assert load_program(package).outputs[0].shape == (1, None)


def test_loading_and_listing_leave_the_package_as_it_is():
    package = make_package(network, x=(1, 16, get_new_symbol(), 2))
    before = package.spec.SerializeToString(deterministic=True)
    load_program(package, input_shapes={"x": (1, 16, 2, 2)})
    operations = list_operations(package)
    assert package.spec.SerializeToString(deterministic=True) == before
    assert [each for each in operations if each[0] != "const"] == [
        ("conv", "mix"), ("split", "halves"), ("concat", "swapped"),
    ]  # fmt: skip


def test_a_function_that_is_not_there_is_refused():
    with pytest.raises(InputError, match=r"no function 'other'.*main"):
        load_program(make_package(network, x=(1, 16, 2, 2)), function="other")


def test_an_operation_that_coremltools_does_not_know_is_named():
    package = make_package(lambda x: mb.relu(x=x, name="bend"), x=(1, 2))
    function = package.spec.mlProgram.functions["main"]
    for operation in function.block_specializations[function.opset].operations:
        operation.type = "bend_it"
    with pytest.raises(UnsupportedModelError, match=r"does not know: bend_it \(such as 'bend'\)"):
        load_program(package)


def test_a_program_whose_types_do_not_match_is_refused():
    package = make_package(lambda x: mb.relu(x=x, name="bend"), x=(1, 2))
    function = package.spec.mlProgram.functions["main"]
    (operation,) = function.block_specializations[function.opset].operations
    operation.outputs[0].type.tensorType.dimensions[1].constant.size = 3
    with pytest.raises(InputError, match=r"program\.mlpackage' \(function 'main'\) is not consist"):
        load_program(package)
