# SPDX-License-Identifier: BSD-3-Clause
"""Packages with operations rewritten: what changes, what stays, what is refused."""

import json
import shutil
import struct

import numpy as np
import pytest
from coreml.models import quiet, save_functions, save_package
from coreml.rewritten import CROPS

import convcal
from convcal.coreml._coremltools import load_coremltools
from convcal.coreml.cures import BUILDERS
from convcal.coreml.package import read_package
from convcal.coreml.patch import append_corrections
from convcal.coreml.weights import WeightFile
from convcal.errors import ConvcalWarning, InputError, SelfCheckError, UnsupportedModelError
from convcal.export.rewriting import REWRITE_KEY, rewrite
from convcal.runtime import open_runner
from convcal.words import STRATEGIES


def weights(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def network(mb, x, *, name="up", pad=(1, 0, 2, 1)):
    """A transposed convolution that the fault touches, between layers that it does not."""
    y = mb.conv(x=x, weight=weights((4, 2, 3, 3)), pad_type="same", name="features")
    y = mb.conv_transpose(
        x=y,
        weight=weights((4, 3, 3, 3), 1),
        bias=weights(3, 2),
        strides=[2, 2],
        pad_type="custom",
        pad=pad,
        name=name,
    )
    return mb.tanh(x=y, name="out")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The network in fp32 and in fp16; not to be written to."""
    folder = tmp_path_factory.mktemp("pair")
    paths = folder / "fp32.mlpackage", folder / "fp16.mlpackage"
    for path, precision in zip(paths, ("FLOAT32", "FLOAT16"), strict=True):
        save_package(path, network, shape=(1, 2, 6, 5), precision=precision)
    return paths


@pytest.fixture
def model(pair):
    return pair[1]


def messages(package, function="main"):
    message = package.spec.mlProgram.functions[function]
    return list(message.block_specializations[message.opset].operations)


def run(path, sample):
    with open_runner(path, runtime="reference") as runner:
        (result,) = runner.run(sample).values()
    return result


# What coremltools makes of the name.
UP = "up_has_output_shape_cast_fp16"
SAMPLE = {"x": weights((1, 2, 6, 5), 9)}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_only_the_operation_changes_and_the_weights_stay_where_they_are(model, tmp_path, strategy):
    written = rewrite(model, tmp_path / "fixed.mlpackage", strategy=strategy)
    old, new = read_package(model), read_package(written.path)
    assert convcal.inspect(model).faults
    assert convcal.inspect(written.path)
    # The specification: all messages but one are there, in their order, byte for byte.
    kept = [each.SerializeToString(deterministic=True) for each in messages(old)]
    found = [each.SerializeToString(deterministic=True) for each in messages(new)]
    place = next(i for i, each in enumerate(messages(old)) if each.type == "conv_transpose")
    tail = len(kept) - place - 1
    assert found[:place] == kept[:place]
    assert found[-tail:] == kept[-tail:]
    for package in (old, new):
        package.spec.mlProgram.functions["main"].Clear()
    assert new.spec.specificationVersion == written.specification_version
    record = json.loads(new.spec.description.metadata.userDefined.pop(REWRITE_KEY))
    (entry,) = record["rewritten"]
    assert entry == {
        "function": "main",
        "operation": UP,
        "type": "conv_transpose",
        "strategy": strategy,
        "convcal": convcal.__version__,
        "original": read_package(model).sha256,
    }
    assert new.spec == old.spec
    # The weight file: the old one, a count in its header aside, and new blobs behind it.
    before, after = (each.weights_path.read_bytes() for each in (old, new))
    n_new = {"explicit-crop": 0, "zero-insertion": 1, "subpixel": 2, "fp32-island": 1}[strategy]
    assert struct.unpack("<II", after[:8]) == (struct.unpack("<I", before[:4])[0] + n_new, 2)
    assert after[8 : len(before)] == before[8:]
    assert written.new_weight_bytes == len(after) - len(before)
    assert (written.new_weight_bytes > 0) == (n_new > 0)
    if not n_new:
        assert after == before
    for each in written.path.rglob("*"):
        if each.is_file() and each.name not in ("model.mlmodel", "weight.bin"):
            assert each.read_bytes() == (model / each.relative_to(written.path)).read_bytes()
    np.testing.assert_allclose(run(written.path, SAMPLE), run(model, SAMPLE), atol=2**-9)


def test_new_blobs_lie_where_coremltools_finds_them(model, tmp_path):
    path = rewrite(model, tmp_path / "fixed.mlpackage", strategy="subpixel").path
    package = read_package(path)
    load_coremltools()
    from coremltools.libmilstoragepython import _BlobStorageReader  # noqa: TID251

    made = [each for each in messages(package) if each.type == "const"]
    (blob,) = (
        each.attributes["val"].blobFileValue
        for each in made
        if each.outputs[0].name.endswith("conv_weight")
    )
    values = _BlobStorageReader(str(package.weights_path)).read_fp16_data(blob.offset)
    record = WeightFile(package.weights_path).blob(blob.offset)
    assert blob.offset % 64 == record.start % 64 == 0
    assert record.n_elements == len(values) == 4 * 3 * 4 * 2 * 2
    assert np.count_nonzero(values) == 4 * 3 * 3 * 3


@pytest.mark.parametrize("strategy", CROPS)
def test_the_cost_is_that_of_the_operations(model, tmp_path, strategy):
    (each,) = rewrite(model, tmp_path / "fixed.mlpackage", strategy=strategy).operations
    taps = 4 * 3 * 9
    assert (each.before.operations, each.before.multiply_adds) == (1, 6 * 5 * taps)
    full, kept = 13 * 11, 12 * 8
    x, weight, bias = 4 * 6 * 5, 4 * 3 * 9, 3
    assert each.before.bytes_moved == 2 * (x + weight + bias + 3 * kept)
    if strategy == "explicit-crop":  # rows are cropped, then turned, cropped and turned again
        assert (each.after.operations, each.after.multiply_adds) == (5, 6 * 5 * taps)
        moved = x + weight + bias + 3 * full + 3 * (full + 12 * 10)
        moved += 3 * (2 * 12 * 10 + 12 * 10 + kept + 2 * kept)
        assert each.after.bytes_moved == 2 * moved
    elif strategy == "zero-insertion":  # two pads and the convolution of every position
        assert each.after.multiply_adds == kept * taps
    else:  # four phases of 2x2 taps each
        assert each.after.multiply_adds == 6 * 4 * 4 * 3 * 4 * 4


def test_the_names_decide_and_what_is_unknown_is_refused_with_those_that_there_are(model, tmp_path):
    target = tmp_path / "fixed.mlpackage"
    written = rewrite(model, target, strategy="fp32-island", at=["features_cast_fp16"])
    assert [each.operation for each in written.operations] == ["features_cast_fp16"]
    target = tmp_path / "other.mlpackage"
    with pytest.raises(
        InputError,
        match=r"no operation and no tensor 'nonsense' that .*; it has .*'up_has_output_shape_cast",
    ):
        rewrite(model, target, strategy="explicit-crop", at=["nonsense"])
    with pytest.raises(InputError, match="no strategy 'magic'; choose one of explicit-crop"):
        rewrite(model, target, strategy="magic")
    assert not target.exists()


def test_where_no_fault_calls_for_it_nothing_is_written(model, tmp_path):
    fixed = rewrite(model, tmp_path / "fixed.mlpackage", strategy="subpixel").path
    assert rewrite(fixed, tmp_path / "again.mlpackage", strategy="subpixel") is None
    assert not (tmp_path / "again.mlpackage").exists()


def test_a_package_can_be_rewritten_again(model, tmp_path):
    first = rewrite(model, tmp_path / "a.mlpackage", strategy="subpixel").path
    at = ["features_cast_fp16", UP]
    second = rewrite(first, tmp_path / "b.mlpackage", strategy="fp32-island", at=at).path
    record = json.loads(read_package(second).spec.description.metadata.userDefined[REWRITE_KEY])
    assert [each["strategy"] for each in record["rewritten"]] == ["subpixel", *["fp32-island"] * 2]
    np.testing.assert_allclose(run(second, SAMPLE), run(model, SAMPLE), atol=2**-9)


def test_a_correction_that_is_built_in_is_warned_of(model, tmp_path):
    package = read_package(model)
    correction = convcal.Correction(
        spatial_shape=(12, 8), shift=(-1.0, -1.0), gain=(1.0,) * 3, bias=(0.0,) * 3
    )
    path = append_corrections(package, {"out": correction}).save(tmp_path / "corrected.mlpackage")
    with pytest.warns(ConvcalWarning, match=r"\['out'\] of .* carry a correction"):
        rewrite(path, tmp_path / "fixed.mlpackage", strategy="subpixel")


def test_what_is_left_as_it_is_is_said(tmp_path):
    def build(mb, x):
        y = network(mb, x, name="even")
        return mb.conv_transpose(
            x=y, weight=weights((3, 1, 2, 2)), strides=[1, 2], pad_type="custom", pad=[1, 0, 0, 0]
        )

    path = save_package(tmp_path / "m.mlpackage", build, shape=(1, 2, 6, 5), precision="FLOAT16")
    with pytest.warns(ConvcalWarning, match=r"left as it is: 'subpixel' .* strides \(1, 2\) diff"):
        written = rewrite(path, tmp_path / "fixed.mlpackage", strategy="subpixel")
    assert [each.operation for each in written.operations] == ["even_has_output_shape_cast_fp16"]
    assert len(written.refused) == 1
    assert len(convcal.inspect(written.path).faults) == 1


def test_functions_that_are_not_named_keep_every_byte(tmp_path):
    parts = {}
    for name, pad in (("first", (1, 0, 2, 1)), ("second", (1, 1, 1, 1)), ("third", (0, 2, 0, 0))):
        parts[name] = save_package(
            tmp_path / f"{name}.mlpackage",
            lambda mb, x, pad=pad: network(mb, x, pad=pad),
            shape=(1, 2, 6, 5),
            precision="FLOAT16",
            target="iOS18",
        )
    path = save_functions(tmp_path / "all.mlpackage", parts)
    findings = convcal.inspect(path).findings
    assert [each.function for each in findings if each.rule.level == "fault"] == ["first", "third"]
    written = rewrite(path, tmp_path / "fixed.mlpackage", strategy="subpixel")
    assert [each.function for each in written.operations] == ["first", "third"]
    assert all(each.largest_difference is not None for each in written.operations)
    old, new = (read_package(each).spec.mlProgram.functions for each in (path, written.path))
    assert new["second"] == old["second"]
    assert new["first"] != old["first"]


def up(mb, x, dtype=np.float32):
    return mb.conv_transpose(
        x=x,
        weight=weights((3, 3, 3, 3)).astype(dtype),
        strides=[2, 2],
        pad_type="custom",
        pad=[1, 0, 1, 0],
        name="up",
    )


def with_pictures(ct, mb):
    @mb.program(input_specs=[mb.TensorSpec((1, 3, 8, 8))], opset_version=ct.target.iOS16)
    def program(x):
        return mb.mul(x=up(mb, x), y=100.0, name="picture")

    return program, {
        "inputs": [ct.ImageType(name="x", shape=(1, 3, 8, 8), scale=1 / 255)],
        "outputs": [ct.ImageType(name="picture", color_layout=ct.colorlayout.RGB)],
    }


def with_labels(ct, mb):
    @mb.program(input_specs=[mb.TensorSpec((1, 3, 8, 8))], opset_version=ct.target.iOS16)
    def program(x):
        y = mb.reduce_mean(x=up(mb, x), axes=[2, 3], keep_dims=False)
        return mb.softmax(x=y, axis=1, name="probabilities")

    return program, {"classifier_config": ct.ClassifierConfig(["a", "b", "c"])}


def with_a_state(ct, mb):
    half = {"dtype": ct.converters.mil.mil.types.fp16}
    specs = [mb.TensorSpec((1, 3, 8, 8), **half), mb.StateTensorSpec((1, 3, 8, 8), **half)]

    @mb.program(input_specs=specs, opset_version=ct.target.iOS18)
    def program(x, memory):
        y = mb.add(x=x, y=mb.read_state(input=memory))
        mb.coreml_update_state(state=memory, value=y)
        return up(mb, y, np.float16)

    return program, {"minimum_deployment_target": ct.target.iOS18}


# A runtime that has no classifiers or states compares the operations alone, and says so.
@pytest.mark.filterwarnings("ignore:operations were compared:convcal.errors.ConvcalWarning")
@pytest.mark.parametrize("build", [with_pictures, with_labels, with_a_state])
def test_pictures_labels_and_states_stay(tmp_path, build):
    ct = load_coremltools()
    program, options = build(ct, ct.converters.mil.Builder)
    path = tmp_path / "m.mlpackage"
    with quiet():
        ct.convert(
            program,
            convert_to="mlprogram",
            skip_model_load=True,
            **{"minimum_deployment_target": ct.target.iOS16, **options},
        ).save(str(path))
    written = rewrite(path, tmp_path / "fixed.mlpackage", strategy="subpixel")
    assert written.operations[0].largest_difference is not None
    assert convcal.inspect(written.path)
    old, new = (read_package(each).spec for each in (path, written.path))
    del new.description.metadata.userDefined[REWRITE_KEY]
    assert new.description == old.description
    assert new.specificationVersion == old.specificationVersion
    assert list(new.mlProgram.functions["main"].inputs) == list(
        old.mlProgram.functions["main"].inputs
    )


def test_operations_in_blocks_are_found_and_rewritten(tmp_path):
    def build(mb, x):
        largest = mb.reduce_max(x=x, axes=[0, 1, 2, 3], keep_dims=False)
        y = mb.cond(
            pred=mb.greater(x=largest, y=np.float32(0.5)),
            _true_fn=lambda: network(mb, x),
            _false_fn=lambda: mb.upsample_nearest_neighbor(
                x=mb.slice_by_size(
                    x=mb.concat(values=[x, x], axis=1), begin=[0] * 4, size=[1, 3, 6, 4]
                ),
                scale_factor_height=2,
                scale_factor_width=2,
            ),
        )
        return mb.relu(x=y, name="end")

    path = save_package(tmp_path / "m.mlpackage", build, shape=(1, 2, 6, 5))
    (finding,) = convcal.inspect(path).findings
    assert (finding.operation, finding.rule.fault) == ("up_has_output_shape", "A3")
    assert finding.inside
    written = rewrite(path, tmp_path / "fixed.mlpackage", strategy="zero-insertion")
    assert not convcal.inspect(written.path).findings
    for scale in (1, -1):  # both branches
        sample = {"x": scale * np.abs(SAMPLE["x"])}
        np.testing.assert_allclose(run(written.path, sample), run(path, sample), atol=1e-5)


@pytest.fixture(scope="module", params=[1, 2])
def flexible(request, tmp_path_factory):
    """A transposed convolution of any length in one or two dimensions; and in how many."""
    ct = load_coremltools()
    from coremltools.converters.mil.mil import get_new_symbol  # noqa: TID251

    mb = ct.converters.mil.Builder
    rank = request.param
    symbols = (1, 2, *(get_new_symbol() for _ in range(rank)))

    @mb.program(input_specs=[mb.TensorSpec(symbols)], opset_version=ct.target.iOS16)
    def program(x):
        y = mb.conv_transpose(
            x=x,
            weight=weights((2, 3, *[3] * rank)),
            strides=[2] * rank,
            pad_type="custom",
            pad=[2, 1] * rank,
            name="up",
        )
        return mb.tanh(x=y, name="out")

    shape = ct.Shape((1, 2, *[ct.RangeDim(3, 32, default=6)] * rank))
    path = tmp_path_factory.mktemp("flexible") / "m.mlpackage"
    with quiet():
        ct.convert(
            program,
            inputs=[ct.TensorType(name="x", shape=shape)],
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS16,
            skip_model_load=True,
        ).save(str(path))
    return path, rank


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_flexible_shapes_stay_flexible(flexible, tmp_path, strategy):
    path, rank = flexible
    target = tmp_path / "fixed.mlpackage"
    if (strategy, rank) == ("zero-insertion", 2):
        with pytest.raises(UnsupportedModelError, match="along several flexible axes at once"):
            rewrite(path, target, strategy=strategy, at=["up_cast_fp16"])
        return
    rewrite(path, target, strategy=strategy, at=["up_cast_fp16"])
    assert read_package(target).spec.description.input == read_package(path).spec.description.input
    for length in (3, 6, 11):
        sample = {"x": weights((1, 2, *[length] * rank), length)}
        result = run(target, sample)
        assert result.shape[2:] == (2 * length - 2,) * rank
        np.testing.assert_allclose(result, run(path, sample), atol=2**-9)


def test_the_weights_of_another_network_are_refused(pair, tmp_path):
    target = tmp_path / "fixed.mlpackage"
    other = save_package(
        tmp_path / "other.mlpackage",
        lambda mb, x: mb.conv_transpose(x=x, weight=weights((2, 3, 3, 3), 7), name="up"),
        shape=(1, 2, 6, 5),
    )
    with pytest.raises(InputError, match="no conv_transpose whose weights round to those of the"):
        rewrite(pair[1], target, strategy="fp32-island", weights_from=other)
    with pytest.raises(InputError, match="'subpixel' keeps the weights"):
        rewrite(pair[1], target, strategy="subpixel", weights_from=pair[0])
    written = rewrite(pair[1], target, strategy="fp32-island", weights_from=pair[0])
    user = read_package(written.path).spec.description.metadata.userDefined
    (entry,) = json.loads(user[REWRITE_KEY])["rewritten"]
    assert entry["weights_from"] == read_package(pair[0]).sha256


def test_a_constant_that_fp16_cannot_hold_is_mended_by_that_of_the_fp32_package(tmp_path):
    def normalised(mb, x, *, dtype):
        with np.errstate(over="ignore"):
            return mb.batch_norm(
                x=x,
                mean=np.zeros(2, dtype),
                variance=np.array([1e5, 1.0]).astype(dtype),
                epsilon=np.array(1e-3, dtype)[()],
                name="norm",
            )

    paths = []
    for kind in ("fp32", "fp16"):
        dtype = np.float16 if kind == "fp16" else np.float32
        paths.append(
            save_package(
                tmp_path / f"{kind}.mlpackage",
                lambda mb, x, dtype=dtype: normalised(mb, x, dtype=dtype),
                shape=(1, 2, 6, 5),
                dtype=kind,
                target="iOS16",
            )
        )
    assert [each.rule.fault for each in convcal.inspect(paths[1]).faults] == ["E4"]
    sample = {"x": 100 * SAMPLE["x"]}
    truth, dead = (run(each, sample).astype(np.float64) for each in paths)
    assert not dead[:, 0].any()
    target = tmp_path / "fixed.mlpackage"
    with pytest.warns(ConvcalWarning, match="constants that were infinite in fp16 are finite now"):
        rewrite(paths[1], target, strategy="fp32-island", weights_from=paths[0])
    np.testing.assert_allclose(run(target, sample), truth, rtol=2**-10, atol=1e-4)
    assert convcal.inspect(target)


def test_what_does_not_compute_the_same_is_not_kept(model, tmp_path, monkeypatch):
    build = BUILDERS["subpixel"]

    def wrong(operations, site):
        (tensor,) = build(operations, site)
        return [operations.multiply(tensor, np.float32(1.01))]

    monkeypatch.setitem(BUILDERS, "subpixel", wrong)
    with pytest.raises(SelfCheckError, match=r"differs by .* from that of the original"):
        rewrite(model, tmp_path / "fixed.mlpackage", strategy="subpixel")
    assert list(tmp_path.iterdir()) == []


def test_compressed_weights_are_made_dense_where_new_ones_are_needed(tmp_path):
    ct = load_coremltools()
    path = tmp_path / "dense.mlpackage"
    save_package(path, network, shape=(1, 2, 6, 5), precision="FLOAT16", target="iOS16")
    with quiet():
        config = ct.optimize.coreml.OptimizationConfig(
            global_config=ct.optimize.coreml.OpPalettizerConfig(nbits=4, weight_threshold=10)
        )
        small = ct.optimize.coreml.palettize_weights(
            ct.models.MLModel(str(path), skip_model_load=True), config
        )
        small.save(str(tmp_path / "small.mlpackage"))
    path = tmp_path / "small.mlpackage"
    assert "constexpr_lut_to_dense" in {each.type for each in messages(read_package(path))}
    for strategy in STRATEGIES:
        target = tmp_path / f"{strategy}.mlpackage"
        written = rewrite(path, target, strategy=strategy)
        np.testing.assert_allclose(run(target, SAMPLE), run(path, SAMPLE), atol=2**-9)
        # The un-cropped operation keeps its compressed weights.
        assert (written.new_weight_bytes == 0) == (strategy == "explicit-crop")


def edited(source, target, edit):
    """Save a copy of a package whose specification was changed."""
    shutil.copytree(source, target)
    package = read_package(source)
    edit(package.spec)
    (target / package.model_path.relative_to(source)).write_bytes(package.serialize())
    return target


def find(spec, kind):
    function = spec.mlProgram.functions["main"]
    block = function.block_specializations[function.opset]
    return next(each for each in block.operations if each.type == kind)


def parameter(spec, operation, name):
    """Give the tensor of constant integers that a parameter holds."""
    (binding,) = operation.inputs[name].arguments
    function = spec.mlProgram.functions["main"]
    block = function.block_specializations[function.opset]
    (constant,) = (each for each in block.operations if each.outputs[0].name == binding.name)
    return constant.attributes["val"].immediateValue.tensor.ints.values


def reads_itself(spec):
    operation = find(spec, "conv_transpose")
    operation.inputs["x"].arguments[0].name = operation.outputs[0].name


def lacks_its_input(spec):
    del find(spec, "conv_transpose").inputs["x"]


def has_two_weights(spec):
    arguments = find(spec, "conv_transpose").inputs["weight"].arguments
    arguments.add().CopyFrom(arguments[0])


def declares_a_huge_result(spec):
    operation = find(spec, "conv_transpose")
    parameter(spec, operation, "pad")[:] = [0, -(10**9), 0, 0]


def has_no_stride(spec):
    parameter(spec, find(spec, "conv_transpose"), "strides")[:] = [0, 2]


def dilates_far(spec):
    operation = find(spec, "conv_transpose")
    parameter(spec, operation, "dilations")[:] = [10**6, 10**6]
    parameter(spec, operation, "pad")[:] = [10**6, 10**6 - 3 + 2, 10**6, 10**6 - 3 + 2]


def points_outside_the_weights(spec):
    function = spec.mlProgram.functions["main"]
    for each in function.block_specializations[function.opset].operations:
        if each.type == "const" and each.attributes["val"].HasField("blobFileValue"):
            each.attributes["val"].blobFileValue.offset = 1 << 40


@pytest.mark.parametrize(
    "edit",
    [
        reads_itself,
        lacks_its_input,
        has_two_weights,
        declares_a_huge_result,
        has_no_stride,
        dilates_far,
        points_outside_the_weights,
    ],
)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_hostile_package_ends_in_an_error_and_writes_nothing(model, tmp_path, edit, strategy):
    path = edited(model, tmp_path / "hostile.mlpackage", edit)
    with pytest.raises(convcal.ConvcalError):
        rewrite(path, tmp_path / "fixed.mlpackage", strategy=strategy, at=[UP])
    assert [each.name for each in tmp_path.iterdir()] == ["hostile.mlpackage"]


def test_names_with_quotes_and_separators_are_names(model, tmp_path):
    name = "../\"quoted'\\name"

    def rename(spec):
        operation = find(spec, "conv_transpose")
        old = operation.outputs[0].name
        operation.outputs[0].name = name
        function = spec.mlProgram.functions["main"]
        for each in function.block_specializations[function.opset].operations:
            for argument in each.inputs.values():
                for binding in argument.arguments:
                    if binding.name == old:
                        binding.name = name

    path = edited(model, tmp_path / "named.mlpackage", rename)
    written = rewrite(path, tmp_path / "fixed.mlpackage", strategy="subpixel", at=[name])
    assert [each.output for each in written.operations] == [name]
    np.testing.assert_allclose(run(written.path, SAMPLE), run(model, SAMPLE), atol=2**-9)
