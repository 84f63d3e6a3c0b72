# SPDX-License-Identifier: BSD-3-Clause
"""Parts of a program compute what the whole does, each from what it is given."""

import numpy as np
from programs import make_package, mb

from convcal.coreml.program import load_program
from convcal.diagnosis.outline import Outline
from convcal.diagnosis.segments import Computation, in_precision, part
from convcal.runtime.execution import ExecutableProgram


def build(x):
    a = mb.exp(x=x, name="a")
    b = mb.add(x=a, y=x, name="b")
    mb.sqrt(x=b, name="dead")
    c = mb.cond(
        pred=mb.greater(x=mb.reduce_sum(x=b, axes=[0]), y=np.float32(0)),
        _true_fn=lambda: mb.mul(x=b, y=a),
        _false_fn=lambda: mb.sub(x=b, y=a),
        name="c",
    )
    return mb.tanh(x=c, name="d")


def outline():
    return Outline(load_program(make_package(build, x=(3,))))


def by_name(program):
    return {value.name: value for value in program.tensors}


def test_dead_code_and_constants_are_left_out():
    assert [each.name for each in outline().operations if each.name in "abcd"] == list("abcd")
    assert "dead" not in by_name(outline())


def test_a_step_is_computed_from_what_is_given_for_those_before_it():
    program = outline()
    values = by_name(program)
    given = {name: np.full(3, n + 1, np.float32) for n, name in enumerate("abc")}
    sample = {"x": np.array([0.5, 1.0, -1.0], np.float32)}
    steps = [values[name] for name in "abcd"]
    computation = Computation(program, given=steps, wanted=steps)
    found = dict(computation.run({**sample, **given}))
    np.testing.assert_allclose(found["a"], np.exp(sample["x"]), rtol=1e-6)
    np.testing.assert_allclose(found["b"], 1 + sample["x"], rtol=1e-6)
    np.testing.assert_allclose(found["c"], 2.0 * np.ones(3))  # inside the block, too
    np.testing.assert_allclose(found["d"], np.tanh(3.0) * np.ones(3), rtol=1e-6)


def test_a_part_needs_no_more_than_it_uses():
    program = outline()
    values = by_name(program)
    cut = part(program, given=[values["b"], values["a"]], wanted=[values["d"]])
    assert {value.name for value in cut.inputs} == {"a", "b"}
    assert "x" not in {value.name for value in cut.inputs}


def test_another_precision_rounds_results_and_weights_but_no_epsilon():
    def normalised(x):
        scaled = mb.mul(x=x, y=np.array([1 / 3, 2 / 3, 1.0], np.float32))
        return mb.rsqrt(x=mb.mul(x=scaled, y=np.float32(0)), epsilon=np.float32(1e-12), name="y")

    program = Outline(load_program(make_package(normalised, x=(3,)))).program
    half = in_precision(program, "float16")
    assert {value.dtype for each in half.operations for value in each.outputs} == {"float16"}
    thirds = half.operations[0].inputs["y"].constant
    assert thirds.dtype == np.float16
    run = ExecutableProgram(half).run({"x": np.ones(3, np.float32)})
    assert np.isinf(run["y"]).all()  # 1e6 is beyond fp16, and 1 / 0 was not taken
    assert float(half.operations[-1].inputs["epsilon"].constant) > 0
