# SPDX-License-Identifier: BSD-3-Clause
"""The reference runtime: closed forms, fp16 as it is stored, samples, pictures, errors."""

import builtins
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from evaluator import evaluate, to_half
from programs import get_new_symbol, make_package, mb

from convcal.coreml.program import load_program
from convcal.errors import (
    ConvcalWarning,
    InputError,
    RunnerError,
    UnavailableError,
    UnsupportedModelError,
)
from convcal.runtime.reference import ReferenceRunner
from convcal.runtime.translation import OPERATIONS


@pytest.fixture
def without_two_operations(monkeypatch):
    """They stand for any that are not translated."""
    monkeypatch.delitem(OPERATIONS, "erf")
    monkeypatch.delitem(OPERATIONS, "non_zero")


def run(package, sample, **options):
    with ReferenceRunner(package, threads=1, **options) as runner:
        return runner.run(sample)


def deconvolution(weight, *, precision="float32", shape, **arguments):
    return make_package(
        lambda x: mb.conv_transpose(x=x, weight=np.asarray(weight, np.float32), **arguments),
        precision=precision,
        x=shape,
    )


def upsampler(pad, output_shape=None, precision="float32"):
    """The program of coremltools #2324, with weights that tell every crop apart."""
    arguments = {} if output_shape is None else {"output_shape": output_shape}
    return deconvolution(
        [[[1, 10, 100]]],
        precision=precision,
        shape=(1, 1, 4),
        strides=[2],
        pad_type="custom",
        pad=pad,
        **arguments,
    )


RAMP = np.array([[[1, 2, 3, 4]]], np.float32)
FULL = [1, 10, 102, 20, 203, 30, 304, 40, 400]


@pytest.mark.parametrize(
    ("pad", "output_shape", "expected"),
    [
        ([0, 0], None, FULL),
        ([1, 0], [1, 1, 8], FULL[1:]),
        ([1, 0], None, FULL[1:]),
        ([0, 1], [1, 1, 8], FULL[:8]),
        ([2, 1], [1, 1, 6], FULL[2:8]),
        # An output_shape decides the length whatever the pad at the back says.
        ([2, 1], [1, 1, 3], FULL[2:5]),
        ([1, 1], [1, 1, 10], [*FULL[1:], 0, 0]),
    ],
)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_custom_pads_and_output_shape_keep_the_known_part(pad, output_shape, expected, precision):
    package = upsampler(pad, output_shape, precision)
    (result,) = run(package, {"x": RAMP}).values()
    np.testing.assert_array_equal(result, [[expected]])


def test_positions_past_the_end_hold_the_bias_as_in_pytorch():
    package = deconvolution(
        [[[1, 10, 100]]],
        shape=(1, 1, 4),
        strides=[2],
        pad_type="custom",
        pad=[1, 0],
        output_shape=[1, 1, 9],
        bias=np.array([0.5], np.float32),
    )
    (result,) = run(package, {"x": RAMP}).values()
    np.testing.assert_array_equal(result, [[[*(value + 0.5 for value in FULL[1:]), 0.5]]])


def test_valid_with_a_shorter_output_shape_keeps_the_centre_and_warns_issue_2281():
    package = deconvolution(
        np.ones((3, 3, 3, 3)), shape=(1, 3, 4, 4), output_shape=[1, 3, 4, 4], pad_type="valid"
    )
    with pytest.warns(ConvcalWarning, match=r"#2281.*keeps the centre"):
        (result,) = run(package, {"x": np.ones((1, 3, 4, 4), np.float32)}).values()
    rows = [[12, 18, 18, 12], [18, 27, 27, 18], [18, 27, 27, 18], [12, 18, 18, 12]]
    np.testing.assert_array_equal(result, np.broadcast_to(rows, (1, 3, 4, 4)))


@pytest.mark.parametrize("kind", ["input", "output"])
def test_a_description_of_another_program_is_named(kind):
    package = make_package(lambda x: mb.add(x=x, y=np.float32(1), name="y"), x=(1, 4))
    getattr(package.spec.description, kind)[0].name = "other"
    with pytest.raises(InputError, match=r"described with .*'other'.* takes \['x'\] and gives"):
        ReferenceRunner(package)


def test_an_output_may_be_a_constant():
    package = make_package(lambda x: mb.const(val=np.float32([1, 2]), name="y"), x=(1, 4))
    (result,) = run(package, {"x": np.zeros((1, 4), np.float32)}).values()
    np.testing.assert_array_equal(result, np.float32([1, 2]))


def random_network(seed, *, size=9):
    """A seeded network with branches, and layers of every kind that patches use."""
    generator = np.random.default_rng(seed)

    def weight(*shape):
        scale = np.sqrt(np.prod(shape[1:]))
        return (generator.standard_normal(shape) / scale).astype(np.float32)

    kernel, stride = int(generator.integers(3, 6)), int(generator.integers(1, 4))

    def build(x):
        y = mb.conv(x=x, weight=weight(6, 2, 3, 3), bias=weight(6, 1)[:, 0], pad_type="same")
        y = mb.prelu(x=y, alpha=np.linspace(0.1, 0.4, 6).astype(np.float32))
        left, right = mb.split(x=y, axis=1, num_splits=2)
        left = mb.tanh(x=mb.mul(x=left, y=np.float32(3.3)))
        right = mb.sigmoid(x=mb.sub(x=right, y=left))
        y = mb.concat(values=[left, right, left], axis=1)
        y = mb.pad(x=y, pad=[1, 2, 2, 1], mode="reflect")
        y = mb.conv_transpose(
            x=y,
            weight=weight(9, 2, kernel, kernel),
            strides=[stride, stride],
            bias=weight(2, 1)[:, 0],
        )
        y = mb.add(x=mb.mul(x=y, y=weight(1, 2, 1, 1)), y=weight(1, 2, 1, 1))
        y = mb.slice_by_index(x=y, begin=[0, 0, 1, 2], end=[1, 2, 9, 11])
        return mb.leaky_relu(x=y, alpha=0.05)

    sample = {"x": generator.standard_normal((1, 2, size, size)).astype(np.float32)}
    return build, sample


@pytest.mark.parametrize("seed", range(8))
def test_random_fp32_networks_agree_with_the_evaluator(seed):
    build, sample = random_network(seed)
    package = make_package(build, x=sample["x"].shape)
    truth = evaluate(package, sample)
    for name, result in run(package, sample).items():
        scale = np.abs(truth[name]).max()
        np.testing.assert_allclose(result, truth[name], rtol=1e-5, atol=1e-6 * scale)


def tensors_of(package):
    program = load_program(package)
    return {value.name: value for operation in program.operations for value in operation.outputs}


@pytest.mark.parametrize("seed", range(4))
def test_every_fp16_tensor_is_its_own_rounding_and_one_rounding_from_its_inputs(seed):
    build, sample = random_network(seed)
    package = make_package(build, precision="float16", x=sample["x"].shape)
    values = tensors_of(package)
    halves = [name for name, value in values.items() if value.dtype == "float16"]
    results = run(package, sample, extra_outputs=list(values))
    assert len(halves) > 10
    for name in halves:
        assert results[name].dtype == np.float16
    # Each operation by itself, in float64, from the very inputs that it had here.
    steps = evaluate(package, sample, rounds=False, start=results)
    for name in halves:
        exact = steps[name]
        spacing = np.spacing(np.abs(exact).astype(np.float16)).astype(np.float64)
        # Half a unit in the last place for the one rounding to fp16, and a thousandth of one
        # beside it for the sums in fp32 (2**-13 of an fp16 unit each, relative to the terms).
        slack = 1e-6 * np.abs(exact).max()
        assert np.all(np.abs(results[name].astype(np.float64) - exact) <= 0.501 * spacing + slack)


@pytest.mark.parametrize("seed", range(4))
def test_the_graph_itself_holds_only_fp16_numbers_where_the_program_says_so(seed):
    """What ONNX Runtime computes before it is handed out as fp16: fp32 arrays, exactly fp16."""
    build, sample = random_network(seed)
    package = make_package(build, precision="float16", x=sample["x"].shape)
    values = tensors_of(package)
    runner = ReferenceRunner(package, threads=1, extra_outputs=list(values))
    (executable,) = runner._executables.values()
    (section,) = executable.sections
    names = section.translation.outputs
    arrays = section._session.run(list(names.values()), {"x": sample["x"]})
    for name, array in zip(names, arrays, strict=True):
        if values[name].dtype == "float16":
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, to_half(array))


def test_fp16_overflows_to_infinity_and_keeps_subnormals():
    package = make_package(lambda x: mb.mul(x=x, y=np.float16(2)), x=((1, 6), "float16"))
    x = np.array([[40000, -40000, 32759, 3e-8, 6e-8, 1]], np.float16)
    (result,) = run(package, {"x": x}).values()
    assert result.dtype == np.float16
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(result, x * np.float16(2))


def test_a_chain_of_fp16_operations_is_rounded_at_every_step():
    # 2048 + 1 is 2048 in fp16, so adding 1 four times changes nothing; in fp32 it gives 2052.
    def build(x):
        for _ in range(4):
            x = mb.add(x=x, y=np.float32(1))
        return x

    sample = {"x": np.full((1, 2), 2048, np.float32)}
    (half,) = run(make_package(build, precision="float16", x=(1, 2)), sample).values()
    (single,) = run(make_package(build, x=(1, 2)), sample).values()
    np.testing.assert_array_equal(half, [[2048, 2048]])
    np.testing.assert_array_equal(single, [[2052, 2052]])


def test_outputs_keep_the_order_and_the_dtypes_of_the_model():
    package = make_package(
        lambda x: (mb.relu(x=x, name="zeta"), mb.cast(x=x, dtype="int32", name="alpha")),
        x=((2, 3), "float16"),
    )
    results = run(package, {"x": np.full((2, 3), 1.5, np.float16)}, extra_outputs=["x"])
    assert list(results) == ["zeta", "alpha", "x"]
    assert [array.dtype.name for array in results.values()] == ["float16", "int32", "float16"]


def test_extra_outputs_name_the_tensors_that_there_are():
    with pytest.raises(InputError, match=r"no tensor 'nowhere'.*'zeta'"):
        run(
            make_package(lambda x: mb.relu(x=x, name="zeta"), x=(1, 2)),
            {},
            extra_outputs=["nowhere"],
        )


def test_weights_of_the_weight_file_are_read():
    weight = np.random.default_rng(0).standard_normal((16, 16, 3, 3)).astype(np.float32)
    package = make_package(
        lambda x: mb.conv(x=x, weight=weight, pad_type="valid"),
        precision="float16",
        x=(1, 16, 5, 5),
    )
    assert package.weights_path is not None
    sample = {"x": np.random.default_rng(1).standard_normal((1, 16, 5, 5)).astype(np.float32)}
    (result,) = run(package, sample).values()
    (expected,) = (evaluate(package, sample)[name] for name in run(package, sample))
    np.testing.assert_allclose(result, expected, atol=2**-10 * np.abs(expected).max())


def test_a_missing_weight_file_is_named():
    weight = np.ones((16, 16, 3, 3), np.float32)
    package = make_package(lambda x: mb.conv(x=x, weight=weight), x=(1, 16, 5, 5))
    package.weights_path.unlink()
    with pytest.raises(InputError, match=r"weight\.bin' does not exist; copy or export"):
        ReferenceRunner(package)


@pytest.mark.usefixtures("without_two_operations")
def test_one_error_lists_all_unsupported_operations_with_types_counts_and_names():
    def build(x):
        for i in range(4):
            x = mb.erf(x=x, name=f"err{i}")
        x = mb.relu(x=x)
        places = mb.non_zero(x=x, name="places")
        return places, mb.conv_transpose(
            x=mb.expand_dims(x=x, axes=[0]), weight=np.ones((2, 1, 2), np.float32)
        )

    package = make_package(build, x=(2, 3))
    with pytest.raises(UnsupportedModelError) as caught:
        ReferenceRunner(package)
    message = str(caught.value)
    assert "erf (4: 'err0', 'err1', 'err2', …)" in message
    assert "non_zero (1: 'places')" in message
    assert "relu" not in message
    assert "conv_transpose" not in message
    assert "--runtime coreml" in message
    assert "--captures" in message


@pytest.mark.usefixtures("without_two_operations")
def test_operations_that_coremltools_does_not_know_are_in_the_same_list():
    package = make_package(lambda x: mb.erf(x=mb.relu(x=x, name="bend"), name="err"), x=(1, 2))
    function = package.spec.mlProgram.functions["main"]
    for operation in function.block_specializations[function.opset].operations:
        if operation.type == "relu":
            operation.type = "bend_it"
    with pytest.raises(UnsupportedModelError, match=r"bend_it \(1: 'bend'\); erf \(1: 'err'\)"):
        ReferenceRunner(package)


@pytest.mark.usefixtures("without_two_operations")
def test_a_use_that_is_not_supported_is_named_with_its_reason():
    package = make_package(
        lambda x, y: (
            mb.real_div(x=x, y=y, name="quotient"),
            mb.erf(x=mb.cast(x=x, dtype="fp32"), name="err"),
        ),
        x=((2,), "int32"),
        y=((2,), "int32"),
    )
    with pytest.raises(UnsupportedModelError, match=r"erf \(1.*real_div \(1: 'quotient'; division"):
        ReferenceRunner(package)


@pytest.mark.usefixtures("without_two_operations")
def test_operations_on_constants_need_no_translation():
    package = make_package(lambda x: mb.add(x=x, y=mb.erf(x=np.zeros(2, np.float32))), x=(1, 2))
    (result,) = run(package, {"x": np.ones((1, 2), np.float32)}).values()
    np.testing.assert_array_equal(result, [[1, 1]])


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({}, "lacks 'x'.*takes 'x' \\(float32 1x1x4\\)"),
        ({"x": RAMP, "y": RAMP}, "has 'y'"),
        ({"x": RAMP[0]}, "shape \\(1, 4\\); it must be \\(1, 1, 4\\)"),
        ({"x": RAMP.astype(np.int32)}, "dtype int32; it must hold floating"),
        ({"x": RAMP.astype(np.complex64)}, "dtype complex64"),
    ],
)
def test_a_sample_that_does_not_fit_is_refused_with_the_inputs_named(sample, message):
    with ReferenceRunner(upsampler([1, 0])) as runner, pytest.raises(InputError, match=message):
        runner.run(sample)


def test_a_closed_runner_does_not_run():
    runner = ReferenceRunner(upsampler([1, 0]))
    runner.close()
    with pytest.raises(RunnerError, match="closed"):
        runner.run({"x": RAMP})


def test_inputs_are_not_changed():
    x = np.asfortranarray(np.random.default_rng(0).standard_normal((1, 1, 4)))
    kept = x.copy()
    run(upsampler([1, 0], precision="float16"), {"x": x})
    np.testing.assert_array_equal(x, kept)


def picture_package(colour, *, gain):
    """A package whose description says that its input and output are pictures."""
    channels = 1 if colour == "GRAYSCALE" else 3
    ramp = np.arange(channels, dtype=np.float32).reshape(1, channels, 1, 1)
    package = make_package(
        lambda picture: mb.add(x=mb.mul(x=picture, y=np.float32(gain)), y=ramp, name="result"),
        picture=(1, channels, 4, 6),
    )
    for feature in (*package.spec.description.input, *package.spec.description.output):
        image = feature.type.imageType
        image.height, image.width = 4, 6
        image.colorSpace = image.ColorSpace.Value(colour)
    return package


@pytest.mark.parametrize("colour", ["RGB", "BGR", "GRAYSCALE"])
def test_pictures_go_in_and_come_out_as_rgb_or_grey_bytes(colour):
    shape = (4, 6) if colour == "GRAYSCALE" else (4, 6, 3)
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with ReferenceRunner(picture_package(colour, gain=1.25)) as runner:
        assert runner.description.input("picture").shape == shape
        result = runner.run({"picture": picture})["result"]
    # The program adds 0, 1, 2 to its channels, which are red, green, blue unless it asks for BGR.
    offset = {"RGB": [0, 1, 2], "BGR": [2, 1, 0], "GRAYSCALE": 0}[colour]
    expected = np.clip(np.rint(picture * 1.25 + offset), 0, 255)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, expected)


def test_bytes_of_a_picture_that_are_not_bytes_are_refused():
    with ReferenceRunner(picture_package("RGB", gain=1.0)) as runner:
        with pytest.raises(InputError, match="dtype float64; it must hold whole numbers"):
            runner.run({"picture": np.zeros((4, 6, 3))})
        with pytest.raises(InputError, match=r"shape \(3, 4, 6\); it must be \(4, 6, 3\)"):
            runner.run({"picture": np.zeros((3, 4, 6), np.uint8)})


def test_a_flexible_input_is_run_at_each_shape():
    symbol = get_new_symbol()
    package = make_package(
        lambda x: mb.slice_by_index(
            x=mb.conv_transpose(
                x=x,
                weight=np.array([[[1, 10, 100]]], np.float32),
                strides=[2],
                pad_type="custom",
                pad=[1, 0],
            ),
            begin=[0, 0, 1],
            end=[0, 0, -1],
            begin_mask=[True, True, False],
            end_mask=[True, True, False],
        ),
        x=(1, 1, symbol),
    )
    size = package.spec.description.input[0].type.multiArrayType.shapeRange.sizeRanges
    del size[:]
    for lower, upper in ((1, 1), (1, 1), (2, 64)):
        each = size.add()
        each.lowerBound, each.upperBound = lower, upper
    with ReferenceRunner(package) as runner:
        for length in (4, 7, 4, 2):
            x = np.arange(1, length + 1, dtype=np.float32).reshape(1, 1, -1)
            (result,) = runner.run({"x": x}).values()
            full = np.zeros(2 * length + 1)
            for tap, weight in enumerate((1, 10, 100)):
                full[tap : tap + 2 * length - 1 : 2] += weight * x[0, 0]
            np.testing.assert_array_equal(result[0, 0], full[2:-1])


def test_a_shape_that_the_program_cannot_take_is_refused():
    package = make_package(
        lambda x: mb.conv(x=x, weight=np.ones((1, 1, 5), np.float32), pad_type="valid"),
        x=(1, 1, get_new_symbol()),
    )
    sizes = package.spec.description.input[0].type.multiArrayType.shapeRange.sizeRanges
    del sizes[:]
    for lower, upper in ((1, 1), (1, 1), (2, 64)):
        each = sizes.add()
        each.lowerBound, each.upperBound = lower, upper
    package.spec.description.input[0].type.multiArrayType.shape[:] = [1, 1, 8]
    with (
        ReferenceRunner(package) as runner,
        pytest.raises(InputError, match=r"not take inputs of the shapes \{'x': \(1, 1, 3\)\}"),
    ):
        runner.run({"x": np.ones((1, 1, 3), np.float32)})


def test_provenance_says_what_ran_and_that_it_was_emulated():
    package = upsampler([1, 0], precision="float16")
    with ReferenceRunner(package) as runner:
        assert runner.provenance["runtime"] == "reference"
        assert runner.provenance["sha256"] == package.sha256
        assert {"coremltools", "onnx", "onnxruntime", "convcal", "os", "chip", "machine"} <= set(
            runner.provenance
        )
        assert "faults" not in runner.provenance


def test_without_onnx_runtime_the_message_names_the_extra(monkeypatch):
    package = upsampler([1, 0])
    real_import = builtins.__import__

    def without(name, *arguments, **options):
        if name == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'", name=name)
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UnavailableError, match=r"pip install 'convcal\[reference\]'"):
        ReferenceRunner(package)


def test_nothing_but_the_result_is_printed():
    path = Path(__file__).parents[2] / "calibration_data/models/issue-2324/fp16.mlpackage"
    code = (
        "import sys, numpy as np; from convcal import open_runner\n"
        "with open_runner(sys.argv[1], runtime='reference') as runner:\n"
        "    print(runner.run({'x': np.ones((1, 1, 4), np.float32)})['y'].shape)"
    )
    command = [sys.executable, "-c", code, path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("(1, 2, 8)", "")


def test_importing_the_runtime_loads_neither_onnx_nor_coremltools():
    code = (
        "import sys, convcal.runtime, convcal.faults, convcal.coreml.program;"
        "print([m for m in ('onnx', 'onnxruntime', 'coremltools') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
