# SPDX-License-Identifier: BSD-3-Clause
import json
from dataclasses import replace

import numpy as np
import pytest
from coreml.corrections import FRACTIONAL, LAYOUTS, MIXED, SCALED, WHOLE, correction_of
from coreml.models import (
    quiet,
    read_with_coremltools,
    save_functions,
    save_package,
    weighted,
)

from convcal import AxisFilter, Correction, SincFilter
from convcal.coreml._coremltools import load_coremltools, load_message_types
from convcal.coreml.package import read_package
from convcal.coreml.patch import PATCH_KEY, append_corrections, patched_outputs
from convcal.errors import InputError, UnsupportedModelError

SHIFT = Correction(spatial_shape=(8, 9), shift=(1.0, -2.0), gain=(1.5,) * 4, bias=(0.25,) * 4)


def copy(spec):
    copied = type(spec)()
    copied.CopyFrom(spec)
    return copied


def bodies(spec):
    for _, function in sorted(spec.mlProgram.functions.items()):
        yield from function.block_specializations.values()


def appended(spec, output="out"):
    """The operations that make the corrected output, of the only function."""
    (body,) = bodies(spec)
    return [
        operation
        for operation in body.operations
        if operation.attributes["name"]
        .immediateValue.tensor.strings.values[0]
        .startswith(f"{output}__correction")
    ]


def kinds(spec, output="out"):
    return [item.type for item in appended(spec, output) if item.type != "const"]


def constant(spec, operation, parameter):
    name = operation.inputs[parameter].arguments[0].name
    made = next(item for item in appended(spec) if item.outputs[0].name == name)
    return list(made.attributes["val"].immediateValue.tensor.ints.values)


def rename(operation, old, new):
    for value in operation.outputs:
        value.name = new if value.name == old else value.name
    for argument in operation.inputs.values():
        for binding in argument.arguments:
            if binding.name == old:
                binding.name = new
    for inner in operation.blocks:
        inner.outputs[:] = [new if name == old else name for name in inner.outputs]
        for item in inner.operations:
            rename(item, old, new)


def without_correction(spec, outputs):
    """Take a patch out again, by what the patched model says of itself."""
    spec = copy(spec)
    names = json.loads(spec.description.metadata.userDefined.pop(PATCH_KEY))["uncorrected"]
    assert sorted(names) == sorted(outputs)
    for output, tensor in names.items():
        for body in bodies(spec):
            kept = []
            for operation in body.operations:
                name = operation.attributes["name"].immediateValue.tensor.strings.values[0]
                if not name.startswith(f"{output}__correction"):
                    rename(operation, tensor, output)
                    kept.append(operation)
            del body.operations[:]
            body.operations.extend(kept)
    if not spec.description.metadata.ByteSize():  # coremltools gives none to several functions
        spec.description.ClearField("metadata")
    return spec


def save_identity(path, shape, *, dtype="fp32", target="iOS15"):
    return save_package(
        path, lambda mb, x: mb.relu(x=x, name="out"), shape=shape, dtype=dtype, target=target
    )


@pytest.mark.parametrize("target", ["iOS15", "iOS16", "iOS17", "iOS18"])
@pytest.mark.parametrize("filters", [WHOLE, FRACTIONAL], ids=["whole", "fractional"])
def test_only_the_correction_differs_for_every_deployment_target(tmp_path, target, filters):
    path = save_package(
        tmp_path / "m.mlpackage",
        weighted,
        shape=(1, 3, 8, 9),
        target=target,
        precision="FLOAT16",
    )
    package = read_package(path)
    before = package.serialize()
    correction = Correction(
        spatial_shape=(8, 9),
        shift=tuple(-float(item.offset) for item in filters[:2]),
        filters=tuple(filters[:2]),
        gain=(1.5,) * 4,
        bias=(0.25,) * 4,
    )
    patched = append_corrections(package, {"out": correction})
    assert without_correction(patched.spec, ["out"]) == package.spec
    assert package.serialize() == before
    assert patched.spec.specificationVersion == package.spec.specificationVersion
    assert patched.weights_sha256 == package.weights_sha256 != ""
    saved = read_package(patched.save(tmp_path / "patched.mlpackage"))
    program = read_with_coremltools(saved)
    assert [str(out.name) for out in program.functions["main"].outputs] == ["out"]
    assert saved.spec.description.output == package.spec.description.output
    assert saved.spec.description.metadata.shortDescription == "a small model"
    assert saved.spec.description.metadata.userDefined["owner"] == "the tests"


STRETCH = Correction(
    spatial_shape=(8, 9), scale=(1.0, 1.01), origin=(0.0, 4.0), gain=(1.0,) * 4, bias=(0.0,) * 4
)


@pytest.mark.parametrize(
    ("target", "validates"), [("iOS15", 0), ("iOS16", 0), ("iOS17", 1), ("iOS18", 1)]
)
def test_a_scale_is_gathered_in_the_form_of_every_deployment_target(tmp_path, target, validates):
    package = read_package(
        save_package(tmp_path / "m.mlpackage", weighted, shape=(1, 3, 8, 9), target=target)
    )
    patched = append_corrections(package, {"out": STRETCH}, allow_scale=True)
    assert without_correction(patched.spec, ["out"]) == package.spec
    n_taps = SincFilter.for_size(9).n_taps
    assert sorted(kinds(patched.spec)) == (
        ["add"] * (n_taps - 1) + ["gather"] * n_taps + ["mul"] * n_taps
    )
    for operation in appended(patched.spec):
        if operation.type == "gather":
            assert ("validate_indices" in operation.inputs) == validates
    read_with_coremltools(read_package(patched.save(tmp_path / "patched.mlpackage")))


def test_a_scale_is_refused_unless_it_is_asked_for_with_its_cost(model_path):
    package = read_package(model_path)
    words = r"scales.*2 multiply-adds per value and 36 constants.*--allow-scale.*--to python"
    with pytest.raises(InputError, match=words):
        append_corrections(package, {"out": STRETCH})


@pytest.mark.parametrize(
    ("correction", "words"),
    [
        (Correction((8, 8), crop=((0, 0), (0, 1))), "changes its shape"),
        (Correction((8, 9), row_stride=16), "puts its rows right"),
    ],
)
def test_what_changes_shapes_belongs_to_the_post_processor(model_path, correction, words):
    package = read_package(model_path)
    with pytest.raises(InputError, match=rf"{words}.*post-processor.*--to python"):
        append_corrections(package, {"out": correction}, allow_scale=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "kind", [WHOLE, FRACTIONAL, MIXED, SCALED], ids=["whole", "fractional", "mixed", "scaled"]
)
@pytest.mark.parametrize(
    ("dtype", "precision"), [("float32", "float32"), ("float16", "float32"), ("float16", "output")]
)
def test_every_layout_gives_a_program_that_coremltools_types_alike(
    layout_path, layout, kind, dtype, precision
):
    shape, _, _ = LAYOUTS[layout]
    package = read_package(layout_path(layout, dtype))
    correction = correction_of(layout, kind, dtype=dtype)
    patched = append_corrections(
        package, {"out": correction}, precision=precision, allow_scale=True
    )
    assert without_correction(patched.spec, ["out"]) == package.spec
    (output,) = read_with_coremltools(patched).functions["main"].outputs
    assert output.shape == shape
    assert ("cast" in kinds(patched.spec)) == (dtype == "float16" and precision == "float32")
    for operation in appended(patched.spec):
        if operation.type == "pad":  # Core ML's own limit, which coremltools does not check
            assert len(constant(patched.spec, operation, "pad")) <= 4


def test_two_axes_move_with_one_pad_and_one_slice(model_path):
    patched = append_corrections(
        read_package(model_path),
        {"out": Correction((8, 9), shift=(1.0, -2.0), gain=(1.0,) * 4, bias=(0.0,) * 4)},
    )
    assert kinds(patched.spec) == ["pad", "slice_by_index"]
    pad, crop = (item for item in appended(patched.spec) if item.type != "const")
    assert constant(patched.spec, pad, "pad") == [1, 0, 0, 2]
    assert constant(patched.spec, crop, "begin") == [0, 0, 0, 2]


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "rank2-affine"])
@pytest.mark.parametrize("kind", [WHOLE, FRACTIONAL], ids=["whole", "fractional"])
def test_half_precision_never_slices_the_width_from_within(layout_path, layout, kind):
    package = read_package(layout_path(layout, "float16"))
    filters = [AxisFilter(abs(item.offset), item.taps) for item in kind]
    correction = correction_of(layout, filters, dtype="float16")
    patched = append_corrections(package, {"out": correction}, precision="output")
    crops = [item for item in appended(patched.spec) if item.type == "slice_by_index"]
    assert crops
    assert all(constant(patched.spec, crop, "begin")[-1] == 0 for crop in crops)


@pytest.mark.parametrize(
    ("gain", "bias", "expected"),
    [(1.5, 0.0, ["mul"]), (1.0, 0.5, ["add"]), (1.5, 0.5, ["mul", "add"])],
)
def test_what_does_nothing_is_left_out(model_path, gain, bias, expected):
    correction = Correction((8, 9), gain=(gain,) * 4, bias=(bias,) * 4)
    patched = append_corrections(read_package(model_path), {"out": correction})
    assert kinds(patched.spec) == expected


def test_an_identity_gives_the_package_itself(model_path):
    package = read_package(model_path)
    assert (
        append_corrections(package, {"out": Correction((8, 9), gain=(1.0,) * 4, bias=(0.0,) * 4)})
        is package
    )


def test_another_output_keeps_every_byte(tmp_path):
    def body(mb, x):
        first = weighted(mb, x, name="first")
        return first, mb.sigmoid(x=first, name="second")

    package = read_package(save_package(tmp_path / "m.mlpackage", body, shape=(1, 3, 8, 9)))
    patched = append_corrections(package, {"second": SHIFT})
    (old,), (new,) = bodies(package.spec), bodies(patched.spec)
    untouched = zip(old.operations, new.operations, strict=False)
    changed = [
        before.outputs[0].name
        for before, after in untouched
        if before.SerializeToString(deterministic=True)
        != after.SerializeToString(deterministic=True)
    ]
    assert changed == ["second"]
    assert without_correction(patched.spec, ["second"]) == package.spec
    both = append_corrections(package, {"first": SHIFT, "second": SHIFT})
    assert patched_outputs(append_corrections(patched, {"first": SHIFT})) == patched_outputs(both)
    assert without_correction(both.spec, ["first", "second"]) == package.spec
    read_with_coremltools(both)


def test_operations_inside_go_on_using_the_uncorrected_tensor(tmp_path):
    def body(mb, x):
        first = weighted(mb, x, name="first")
        return first, mb.sigmoid(x=first, name="second")

    package = read_package(save_package(tmp_path / "m.mlpackage", body, shape=(1, 3, 8, 9)))
    patched = append_corrections(package, {"first": SHIFT})
    program = read_with_coremltools(patched).functions["main"]
    sigmoid = next(item for item in program.operations if item.op_type == "sigmoid")
    assert sigmoid.x.name == "first__uncorrected"
    assert [output.name for output in program.outputs] == ["first", "second"]
    assert program.outputs[0].op.op_type == "add"


def test_tensors_used_inside_a_branch_are_followed(tmp_path):
    def body(mb, x):
        first = weighted(mb, x, name="out")
        condition = mb.greater(x=mb.reduce_sum(x=x, keep_dims=False, axes=[0, 1, 2, 3]), y=0.0)
        second = mb.cond(
            pred=condition,
            _true_fn=lambda: mb.sigmoid(x=first),
            _false_fn=lambda: first,
            name="second",
        )
        return first, second

    package = read_package(save_package(tmp_path / "m.mlpackage", body, shape=(1, 3, 8, 9)))
    patched = append_corrections(package, {"out": SHIFT})
    assert without_correction(patched.spec, ["out"]) == package.spec
    program = read_with_coremltools(patched).functions["main"]
    branch = next(item for item in program.operations if item.op_type == "cond")
    inside = [
        item for block in branch.blocks for item in block.operations if item.op_type != "const"
    ]
    assert {item.x.name for item in inside} == {"out__uncorrected"}


def test_an_output_returned_twice_is_corrected_in_both_places(model_path):
    package = read_package(model_path)
    (body,) = bodies(package.spec)
    body.outputs.append("out")
    patched = append_corrections(package, {"out": SHIFT})
    (new,) = bodies(patched.spec)
    assert list(new.outputs) == ["out", "out"]
    assert without_correction(patched.spec, ["out"]) == package.spec


def test_names_in_use_are_avoided(tmp_path):
    def body(mb, x):
        y = weighted(mb, x, name="out__uncorrected")
        z = mb.relu(x=y, name="out__correction_pad")
        z = mb.exp(x=z, name="out__correction_mul_y")
        return mb.sigmoid(x=z, name="out")

    package = read_package(save_package(tmp_path / "m.mlpackage", body, shape=(1, 3, 8, 9)))
    patched = append_corrections(package, {"out": SHIFT})
    assert patched_outputs(patched) == {"out": "out__uncorrected_1"}
    (new,) = bodies(patched.spec)
    names = [value.name for operation in new.operations for value in operation.outputs]
    assert len(set(names)) == len(names)
    assert "out__correction_mul_y_1" in names
    read_with_coremltools(patched)


def test_each_function_that_has_the_output_is_corrected(tmp_path):
    parts = {}
    for seed, name in enumerate(["day", "night"]):
        parts[name] = save_package(
            tmp_path / f"{name}.mlpackage",
            lambda mb, x, seed=seed: weighted(mb, x, seed=seed),
            shape=(1, 3, 8, 9),
            target="iOS18",
        )
    parts["other"] = save_package(
        tmp_path / "other.mlpackage",
        lambda mb, x: weighted(mb, x, name="mask"),
        shape=(1, 3, 8, 9),
        target="iOS18",
    )
    package = read_package(save_functions(tmp_path / "all.mlpackage", parts))
    patched = append_corrections(package, {"out": SHIFT})
    assert without_correction(patched.spec, ["out"]) == package.spec
    functions = patched.spec.mlProgram.functions
    assert functions["other"] == package.spec.mlProgram.functions["other"]
    for name in ("day", "night"):
        assert functions[name] != package.spec.mlProgram.functions[name]
    saved = read_package(patched.save(tmp_path / "patched.mlpackage"))
    assert saved.weights_sha256 == package.weights_sha256


def test_a_model_without_batch_axis_takes_a_correction_with_one(tmp_path):
    package = read_package(save_identity(tmp_path / "m.mlpackage", (4, 8, 9)))
    patched = append_corrections(package, {"out": SHIFT})
    (output,) = read_with_coremltools(patched).functions["main"].outputs
    assert output.shape == (4, 8, 9)


def test_metadata_is_added(model_path):
    patched = append_corrections(
        read_package(model_path), {"out": SHIFT}, metadata={"convcal.provenance": "{}"}
    )
    metadata = patched.spec.description.metadata.userDefined
    assert metadata["convcal.provenance"] == "{}"
    assert metadata["owner"] == "the tests"


MISFITS = {
    "size": Correction((8, 10), gain=(2.0,) * 4, bias=(0.0,) * 4),
    "channels": Correction((8, 9), gain=(2.0,) * 3, bias=(0.0,) * 3),
    "rank": Correction((8,), gain=(2.0,) * 4, bias=(0.0,) * 4),
    "axes": Correction((4, 8, 9), gain=(2.0,), bias=(0.0,), channel_axis=None, batch_axis=None),
}


@pytest.mark.parametrize("correction", MISFITS.values(), ids=MISFITS)
def test_a_correction_of_another_output_is_refused_with_both_shapes(model_path, correction):
    package = read_package(model_path)
    message = r"output 'out' .* shape \(1, 4, 8, 9\), .* fitted with"
    with pytest.raises(InputError, match=message):
        append_corrections(package, {"out": correction})


def test_a_correction_fitted_on_recordings_of_another_dtype_is_the_same(model_path):
    package = read_package(model_path)
    specs = [
        append_corrections(package, {"out": replace(SHIFT, dtype=dtype)}).spec
        for dtype in ("float16", "float32")
    ]
    assert specs[0] == specs[1] != package.spec


def test_an_unknown_output_is_named_with_those_that_exist(model_path):
    with pytest.raises(InputError, match=r"no output 'mask'; its outputs are \['out'\]"):
        append_corrections(read_package(model_path), {"mask": SHIFT})


def test_an_unknown_precision_is_refused(model_path):
    with pytest.raises(InputError, match="precision is 'double'"):
        append_corrections(read_package(model_path), {"out": SHIFT}, precision="double")


def test_a_corrected_output_is_not_corrected_again(model_path):
    patched = append_corrections(read_package(model_path), {"out": SHIFT})
    with pytest.raises(InputError, match=r"'out' .*corrected by convcal before"):
        append_corrections(patched, {"out": SHIFT})


@pytest.mark.parametrize("record", ["{", "[]", '{"version": 2}', '{"version": 1}', "[" * 9999])
def test_a_patch_record_of_another_version_is_refused(model_path, record):
    package = read_package(model_path)
    package.spec.description.metadata.userDefined[PATCH_KEY] = record
    with pytest.raises(InputError, match="another version of convcal"):
        append_corrections(package, {"out": SHIFT})


def test_a_move_by_the_whole_length_is_refused(model_path):
    correction = Correction((8, 9), shift=(0.0, 9.0), gain=(1.0,) * 4, bias=(0.0,) * 4)
    with pytest.raises(InputError, match=r"9 positions on axis 3, .* reaches 9 past"):
        append_corrections(read_package(model_path), {"out": correction})


def test_an_image_output_is_refused_by_name(tmp_path):
    ct = load_coremltools()
    path = save_package(
        tmp_path / "m.mlpackage",
        lambda mb, x: mb.relu(x=x, name="out"),
        shape=(1, 3, 8, 9),
        outputs=[ct.ImageType(name="out", color_layout=ct.colorlayout.RGB)],
        target="iOS16",
    )
    correction = Correction((8, 9), shift=(1.0, 0.0), gain=(1.0,) * 3, bias=(0.0,) * 3)
    with pytest.raises(UnsupportedModelError, match=r"'out' .* is an image.*post-processor"):
        append_corrections(read_package(path), {"out": correction})


def test_a_flexible_output_is_refused_by_name(tmp_path):
    ct = load_coremltools()
    range_dim = ct.RangeDim(lower_bound=4, upper_bound=64, default=9)
    path = save_package(
        tmp_path / "m.mlpackage",
        lambda mb, x: mb.relu(x=x, name="out"),
        shape=(1, 4, 8, ct.converters.mil.mil.get_new_symbol()),
        inputs=[ct.TensorType(name="x", shape=(1, 4, 8, range_dim))],
    )
    with pytest.raises(UnsupportedModelError, match=r"'out' .* flexible shape.*post-processor"):
        append_corrections(read_package(path), {"out": SHIFT})


def test_an_integer_output_is_refused_by_name(tmp_path):
    path = save_package(
        tmp_path / "m.mlpackage",
        lambda mb, x: mb.cast(x=x, dtype="int32", name="out"),
        shape=(1, 4, 8, 9),
    )
    with pytest.raises(UnsupportedModelError, match=r"'out' .* dtype int32.*post-processor"):
        append_corrections(read_package(path), {"out": SHIFT})


def test_an_input_passed_through_is_refused_by_name(model_path):
    package = read_package(model_path)
    package.spec.description.output[0].name = "x"
    (body,) = bodies(package.spec)
    body.outputs[0] = "x"
    with pytest.raises(UnsupportedModelError, match=r"'x' .* is an input passed through"):
        append_corrections(package, {"x": SHIFT})


def test_an_output_that_the_program_does_not_make_is_refused(model_path):
    package = read_package(model_path)
    (body,) = bodies(package.spec)
    body.outputs[0] = "elsewhere"
    with pytest.raises(InputError, match=r"does not return it \(it returns \['elsewhere'\]\)"):
        append_corrections(package, {"out": SHIFT})
    package.spec.description.output[0].name = "elsewhere"
    with pytest.raises(InputError, match=r"'elsewhere' .* is made by no operation"):
        append_corrections(package, {"elsewhere": SHIFT})


@pytest.mark.parametrize("change", [{"shape": [1, 4, 8, 8]}, {"dataType": 65552}])
def test_an_output_that_is_described_otherwise_than_the_program_makes_it_is_refused(
    model_path, change
):
    package = read_package(model_path)
    array = package.spec.description.output[0].type.multiArrayType
    array.shape[:] = change.get("shape", list(array.shape))
    array.dataType = change.get("dataType", array.dataType)
    with pytest.raises(InputError, match=r"'out' .* is described as .*, but the program makes"):
        append_corrections(package, {"out": SHIFT})


def test_an_element_type_of_tomorrow_is_refused_by_name(model_path):
    package = read_package(model_path)
    (body,) = bodies(package.spec)
    body.operations[-1].outputs[0].type.tensorType.dataType = 999
    with pytest.raises(UnsupportedModelError, match=r"'out' .* dtype 999"):
        append_corrections(package, {"out": SHIFT})


def test_a_classifier_table_is_refused_by_name(model_path):
    package = read_package(model_path)
    package.spec.description.output[0].type.dictionaryType.stringKeyType.SetInParent()
    with pytest.raises(UnsupportedModelError, match=r"'out' .* of type 'dictionaryType'"):
        append_corrections(package, {"out": SHIFT})


def test_half_precision_constants_are_rounded_once(tmp_path):
    package = read_package(
        save_identity(tmp_path / "m.mlpackage", (1, 2, 8), dtype="fp16", target="iOS16")
    )
    correction = Correction((8,), dtype="float16", gain=(1.0005, 1.1), bias=(0.0, 0.0))
    patched = append_corrections(package, {"out": correction}, precision="output")
    made = next(item for item in appended(patched.spec) if item.outputs[0].name.endswith("_y"))
    stored = np.frombuffer(made.attributes["val"].immediateValue.tensor.bytes.values, "<f2")
    np.testing.assert_array_equal(stored, np.array([1.0005, 1.1], np.float16))
    _, mil = load_message_types()
    assert made.outputs[0].type.tensorType.dataType == mil.FLOAT16


def palettize(ct, model, n_bits):
    config = ct.optimize.coreml.OpPalettizerConfig(mode="uniform", nbits=n_bits, weight_threshold=0)
    return ct.optimize.coreml.palettize_weights(
        model, ct.optimize.coreml.OptimizationConfig(config)
    )


def quantize(ct, model, n_bits):
    config = ct.optimize.coreml.OpLinearQuantizerConfig(dtype=f"int{n_bits}", weight_threshold=0)
    return ct.optimize.coreml.linear_quantize_weights(
        model, ct.optimize.coreml.OptimizationConfig(config)
    )


def prune(ct, model, n_bits):
    config = ct.optimize.coreml.OpMagnitudePrunerConfig(target_sparsity=0.5, weight_threshold=0)
    return ct.optimize.coreml.prune_weights(model, ct.optimize.coreml.OptimizationConfig(config))


@pytest.mark.parametrize(
    ("compress", "n_bits", "target"),
    [
        (palettize, 4, "iOS16"),
        (palettize, 3, "iOS18"),
        (quantize, 8, "iOS16"),
        (quantize, 4, "iOS18"),
        (prune, 0, "iOS16"),
        (prune, 0, "iOS18"),
    ],
)
def test_compressed_weights_are_kept(tmp_path, compress, n_bits, target):
    ct = load_coremltools()
    path = save_package(
        tmp_path / "m.mlpackage",
        lambda mb, x: weighted(mb, x, kernel=5),
        shape=(1, 16, 8, 9),
        target=target,
    )
    with quiet():
        model = ct.models.MLModel(str(path), skip_model_load=True)
        compress(ct, model, n_bits).save(str(tmp_path / "compressed.mlpackage"))
    package = read_package(tmp_path / "compressed.mlpackage")
    patched = append_corrections(package, {"out": SHIFT})
    assert without_correction(patched.spec, ["out"]) == package.spec
    saved = read_package(patched.save(tmp_path / "patched.mlpackage"))
    assert saved.weights_sha256 == package.weights_sha256 != read_package(path).weights_sha256
    read_with_coremltools(saved)


def test_states_are_kept(tmp_path):
    ct = load_coremltools()
    mb, types = ct.converters.mil.Builder, ct.converters.mil.mil.types

    @mb.program(
        input_specs=[
            mb.TensorSpec((1, 4, 8, 9)),
            mb.StateTensorSpec((1, 4, 8, 9), dtype=types.fp16),
        ],
        opset_version=ct.target.iOS18,
    )
    def program(x, state):
        total = mb.add(x=mb.read_state(input=state), y=mb.cast(x=x, dtype="fp16"))
        mb.coreml_update_state(state=state, value=total)
        return mb.cast(x=total, dtype="fp32", name="out")

    with quiet():
        model = ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS18,
            skip_model_load=True,
        )
        model.save(str(tmp_path / "m.mlpackage"))
    package = read_package(tmp_path / "m.mlpackage")
    assert package.weights_path is None
    patched = append_corrections(package, {"out": SHIFT})
    assert without_correction(patched.spec, ["out"]) == package.spec
    saved = read_package(patched.save(tmp_path / "patched.mlpackage"))
    assert saved.spec.description.state == package.spec.description.state
    read_with_coremltools(saved)
