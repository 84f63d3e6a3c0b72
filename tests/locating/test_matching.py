# SPDX-License-Identifier: BSD-3-Clause
"""Programs that say the same in other words are paired rightly, or not at all."""

import numpy as np
import pytest
from programs import make_package, mb

from convcal.coreml.program import load_program
from convcal.diagnosis.outline import Outline
from convcal.diagnosis.pairing import pair_programs
from convcal.diagnosis.segments import Computation

RNG = np.random.default_rng(1)
SHAPE = (1, 4, 10, 12)
WEIGHTS = {
    name: RNG.standard_normal((6, n, 3, 3)).astype(np.float32) / 5
    for name, n in (("a", 4), ("b", 6), ("c", 6))
}
GAIN, BIAS, MEAN = (RNG.standard_normal(6).astype(np.float32) for _ in range(3))
VARIANCE = RNG.uniform(0.5, 2, 6).astype(np.float32)
EPSILON = 1e-3


def conv(x, key, **options):
    return mb.conv(x=x, weight=WEIGHTS[key], pad_type="same", **options)


def normalised(x):
    return mb.batch_norm(
        x=x, mean=MEAN, variance=VARIANCE, gamma=GAIN, beta=BIAS, epsilon=np.float32(EPSILON)
    )


def plain(x):
    x = mb.gelu(x=normalised(conv(x, "a")), mode="EXACT")
    y = mb.add(x=conv(x, "b"), y=conv(x, "c"))
    y = mb.layer_norm(x=y, axes=[-1], epsilon=np.float32(1e-3))
    return mb.softmax(x=y, axis=1, name="out")


def folded(x):
    scale = GAIN / np.sqrt(VARIANCE + EPSILON)
    weight = WEIGHTS["a"] * scale[:, None, None, None]
    x = mb.conv(x=x, weight=weight, bias=BIAS - MEAN * scale, pad_type="same", name="renamed")
    half = mb.mul(x=x, y=np.float32(0.5))
    inner = mb.erf(x=mb.mul(x=x, y=np.float32(1 / np.sqrt(2))))
    x = mb.mul(x=mb.add(x=inner, y=np.float32(1)), y=half)
    right = conv(x, "c")
    left = conv(x, "b")
    mb.exp(x=left, name="dead")
    y = mb.add(x=right, y=mb.identity(x=left))
    y = mb.reshape(x=mb.reshape(x=y, shape=[6, 10, 12]), shape=[1, 6, 10, 12])
    centred = mb.sub(x=y, y=mb.reduce_mean(x=y, axes=[-1], keep_dims=True))
    power = mb.reduce_mean(x=mb.square(x=centred), axes=[-1], keep_dims=True)
    y = mb.mul(x=centred, y=mb.rsqrt(x=power, epsilon=np.float32(1e-3)))
    raised = mb.exp(x=y)
    total = mb.reduce_sum(x=raised, axes=[1], keep_dims=True)
    return mb.real_div(x=raised, y=total, name="out")


def outline(build, precision, **inputs):
    package = make_package(build, precision=precision, **(inputs or {"x": SHAPE}))
    return Outline(load_program(package))


def samples(n=2, shape=SHAPE):
    return [
        {"x": np.random.default_rng(n).standard_normal(shape).astype(np.float32)} for n in range(n)
    ]


def off(reference, observed, matching, sample):
    """Give how far the pairs are apart in a clean run."""
    ours = dict(Computation(observed, wanted=matching.pairs).run(sample))
    theirs = dict(Computation(reference, wanted=matching.pairs.values()).run(sample))
    return {
        one.name: np.abs(ours[one.name].ravel().astype(float) - theirs[other.name].ravel()).max()
        / theirs[other.name].std()
        for one, other in matching.pairs.items()
    }


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("builds", [(plain, folded), (folded, plain)])
def test_fused_folded_split_and_reordered_programs(builds, precision):
    reference, observed = outline(builds[0], "float32"), outline(builds[1], precision)
    matching = pair_programs(reference, observed, samples())
    distances = off(reference, observed, matching, samples(3)[2])
    assert max(distances.values()) < 0.02, distances
    assert not matching.bridged
    # x, the normalised one, gelu, both branches, the sum, layer norm, the output.
    assert len(matching.pairs) == 8
    kinds = {operation.type for operation in matching.unmatched}
    if builds[1] is plain:
        assert kinds == {"conv"}  # the one before the batch normalisation
        assert len(matching.unmatched) == 1
    else:
        assert kinds >= {"erf", "square", "rsqrt", "exp", "reduce_sum"}
        assert "dead" not in {operation.name for operation in matching.unmatched}


def test_the_same_program_pairs_with_itself():
    reference, observed = outline(plain, "float32"), outline(plain, "float32")
    matching = pair_programs(reference, observed, samples())
    assert not matching.unmatched
    places = [reference.positions[other] for other in matching.pairs.values()]
    assert places == list(range(len(reference.tensors)))


def test_tensors_that_hold_the_same_are_told_by_structure():
    def build(x):
        x = mb.relu(x=mb.abs(x=x, name="size"), name="kept")  # changes nothing
        return mb.relu(x=mb.relu(x=x, name="again"), name="out")

    reference, observed = outline(build, "float32"), outline(build, "float16")
    matching = pair_programs(reference, observed, samples())
    named = {one.name.removesuffix("_cast_fp16"): o.name for one, o in matching.pairs.items()}
    assert all(one == other for one, other in named.items()), named
    assert len(named) == 5


def test_a_constant_tensor_is_told_by_structure():
    def build(x):
        dead = mb.relu(x=mb.sub(x=mb.sigmoid(x=x), y=np.float32(2), name="below"), name="dead")
        return mb.add(x=dead, y=x, name="out")

    reference, observed = outline(build, "float32"), outline(build, "float16")
    matching = pair_programs(reference, observed, samples())
    assert not matching.unmatched
    assert not matching.bridged


def test_what_comes_after_a_difference_is_paired_too():
    def build(x, factor):
        x = mb.tanh(x=conv(x, "a"))
        x = mb.conv(x=x, weight=np.float32(factor) * WEIGHTS["b"], pad_type="same", name="changed")
        return mb.sigmoid(x=conv(mb.relu(x=x), "c"), name="out")

    reference = outline(lambda x: build(x, 1.0), "float32")
    observed = outline(lambda x: build(x, -2.0), "float16")
    matching = pair_programs(reference, observed, samples())
    assert not matching.unmatched
    assert {value.name for value in matching.bridged} == {"changed_cast_fp16"}


def test_another_activation_is_a_difference_and_not_a_gap():
    def build(x, bend):
        x = bend(x=conv(x, "a"), name="bent")
        return mb.sigmoid(x=conv(x, "b"), name="out")

    reference = outline(lambda x: build(x, mb.tanh), "float32")
    observed = outline(lambda x: build(x, mb.exp), "float16")
    matching = pair_programs(reference, observed, samples())
    assert not matching.unmatched
    assert {value.name for value in matching.bridged} == {"bent_cast_fp16"}


def test_a_missing_operation_leaves_its_neighbours_paired():
    def build(x, is_whole):
        x = conv(x, "a", name="first")
        x = mb.relu(x=x) if is_whole else x
        return conv(x, "b", name="out")

    reference = outline(lambda x: build(x, is_whole=True), "float32")
    observed = outline(lambda x: build(x, is_whole=False), "float16")
    matching = pair_programs(reference, observed, samples())
    named = {one.name.removesuffix("_cast_fp16"): o.name for one, o in matching.pairs.items()}
    assert named == {"x": "x", "first": "first", "out": "out"}


def test_what_the_reference_runtime_lacks_is_paired_by_structure(monkeypatch):
    from convcal.runtime.translation import translator

    def build(x):
        return mb.sigmoid(x=conv(mb.tanh(x=conv(x, "a")), "b"), name="out")

    reference, observed = outline(build, "float32"), outline(build, "float16")
    without = {name: each for name, each in translator.OPERATIONS.items() if name != "tanh"}
    monkeypatch.setattr(translator, "OPERATIONS", without)
    matching = pair_programs(reference, observed, samples())
    assert not matching.unmatched
