# SPDX-License-Identifier: BSD-3-Clause
"""A package with tensors exposed gives what the program computes, and is the same otherwise."""

import numpy as np
import pytest
from programs import make_package, mb

from convcal.coreml.describe import describe, tensor_dtype
from convcal.coreml.exposure import expose
from convcal.errors import InputError, UnsupportedModelError
from convcal.runtime.reference import ReferenceRunner

X = np.array([[-1.5, 0.25, 3.0]], np.float32)


def build(x):
    doubled = mb.mul(x=x, y=np.float32(2), name="doubled")
    positive = mb.greater(x=doubled, y=np.float32(0), name="positive")
    chosen = mb.select(cond=positive, a=mb.exp(x=doubled, name="raised"), b=doubled, name="out")
    places = mb.argsort(x=doubled, axis=-1, name="places")
    return chosen, mb.add(x=places, y=np.int32(1), name="ranks")


def package(target):
    return make_package(build, precision="float16", target=target, x=(1, 3))


def operations(package):
    (function,) = package.spec.mlProgram.functions.values()
    return function.block_specializations[function.opset].operations


def tensors(package):
    """Give the result of an operation of each type."""
    return {operation.type: operation.outputs[0] for operation in operations(package)}


@pytest.mark.parametrize(("target", "dtype"), [("iOS15", "float32"), ("iOS16", "float16")])
def test_exposed_tensors_hold_what_the_program_computes(target, dtype):
    given = package(target)
    names = [tensors(given)[kind].name for kind in ("mul", "exp", "greater", "argsort")]
    exposed, outputs = expose(given, names)
    with (
        ReferenceRunner(given, extra_outputs=names) as inside,
        ReferenceRunner(exposed) as outside,
    ):
        wanted, found = inside.run({"x": X}), outside.run({"x": X})
    for name in names:
        np.testing.assert_array_equal(found[outputs[name]], wanted[name])
    np.testing.assert_array_equal(found["out"], wanted["out"])
    described = {feature.name: feature for feature in describe(exposed).outputs}
    assert [described[outputs[name]].dtype for name in names] == [dtype, dtype, "int32", "int32"]
    assert {described[outputs[name]].shape for name in names} == {(1, 3)}


def test_all_else_stays_as_it_is():
    given = package("iOS16")
    before = given.serialize()
    name = tensors(given)["exp"].name
    exposed, outputs = expose(given, [name, "out"])
    assert given.serialize() == before
    assert outputs["out"] == "out"
    assert exposed.spec.specificationVersion == given.spec.specificationVersion
    (function,) = exposed.spec.mlProgram.functions.values()
    block = function.block_specializations[function.opset]
    block.outputs.remove(name)
    del exposed.spec.description.output[-1]
    assert exposed.serialize() == before


def test_tensors_that_do_not_exist_or_cannot_be_given_are_refused():
    with pytest.raises(InputError, match="computes no tensor 'nothing'"):
        expose(package("iOS16"), ["nothing"])
    with pytest.raises(InputError, match="computes no tensor 'x'"):
        expose(package("iOS16"), ["x"])
    given = package("iOS16")
    text = next(
        value.name
        for operation in operations(given)
        for value in operation.outputs
        if tensor_dtype(value.type) == "string"
    )
    with pytest.raises(UnsupportedModelError, match="string"):
        expose(given, [text])
