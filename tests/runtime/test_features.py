# SPDX-License-Identifier: BSD-3-Clause
"""What models take and give besides arrays of one shape: pictures, defaults, classes."""

import numpy as np
import pytest
from coreml.models import quiet, save_package
from programs import ct, get_new_symbol, make_package, mb

from convcal.coreml.describe import describe
from convcal.coreml.package import read_package
from convcal.data import open_samples
from convcal.errors import InputError, UnsupportedModelError
from convcal.runtime import open_runner
from convcal.runtime.reference import ReferenceRunner

RGB = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def run(path, sample):
    with open_runner(path, runtime="reference") as runner:
        return runner.run(sample)


def save_picture(path, *, layout="RGB", shape=(1, 3, 4, 6), outputs=None, dtype="fp32", **options):
    build = options.pop("build", lambda mb, x: mb.identity(x=x, name="y"))
    # Only the programs of its builder have symbols; the description gets the sizes.
    symbolic = isinstance(shape, tuple)
    return save_package(
        path,
        build,
        shape=shape if symbolic else (1, 3, get_new_symbol(), get_new_symbol()),
        target="iOS16",
        dtype=dtype,
        precision="FLOAT16" if dtype == "fp16" else "FLOAT32",
        inputs=[
            ct.ImageType(
                name="x", shape=shape, color_layout=getattr(ct.colorlayout, layout), **options
            )
        ],
        outputs=outputs,
    )


@pytest.mark.parametrize("layout", ["RGB", "BGR"])
def test_scale_and_bias_of_an_image_are_in_the_program(tmp_path, layout):
    bias = np.array([-1, -0.5, 0.25])
    path = save_picture(tmp_path / "m.mlpackage", layout=layout, scale=1 / 127.5, bias=bias)
    # scale * picture + bias, the bias in the order of the program's channels.
    planes = np.moveaxis(RGB if layout == "RGB" else RGB[..., ::-1], 2, 0)[None]
    expected = planes / 127.5 + bias.reshape(3, 1, 1)
    np.testing.assert_allclose(run(path, {"x": RGB})["y"], expected, rtol=1e-6, atol=1e-6)


def test_a_grey_float16_picture_keeps_its_fractions(tmp_path):
    path = save_picture(
        tmp_path / "m.mlpackage",
        layout="GRAYSCALE_FLOAT16",
        shape=(1, 1, 4, 6),
        dtype="fp16",
        build=lambda mb, x: mb.mul(x=x, y=np.float16(3), name="y"),
        outputs=[ct.ImageType(name="y", color_layout=ct.colorlayout.GRAYSCALE_FLOAT16)],
    )
    grey = np.linspace(-1, 300, 24).reshape(4, 6).astype(np.float16)
    (result,) = run(path, {"x": grey}).values()
    assert (result.dtype, result.shape) == (np.float16, (4, 6))
    np.testing.assert_array_equal(result, grey * np.float16(3))  # neither rounded nor clamped


def test_a_bgr_output_is_given_as_rgb(tmp_path):
    path = save_picture(
        tmp_path / "m.mlpackage",
        outputs=[ct.ImageType(name="y", color_layout=ct.colorlayout.BGR)],
    )
    np.testing.assert_array_equal(run(path, {"x": RGB})["y"], RGB[..., ::-1])


@pytest.mark.parametrize(
    ("shape", "accepted", "message"),
    [
        (
            ct.Shape((1, 3, ct.RangeDim(2, 64, default=4), ct.RangeDim(2, 32, default=6))),
            [(4, 6), (64, 2), (5, 32)],
            r"it must be \(2 to 64, 2 to 32, 3\)",
        ),
        (
            ct.EnumeratedShapes([(1, 3, 4, 6), (1, 3, 8, 8)]),
            [(4, 6), (8, 8)],
            r"it must be \(4, 6, 3\) or \(8, 8, 3\)",
        ),
    ],
    ids=["range", "enumerated"],
)
def test_a_picture_of_flexible_size_runs_at_each(tmp_path, shape, accepted, message):
    path = save_picture(
        tmp_path / "m.mlpackage",
        shape=shape,
        build=lambda mb, x: mb.mul(x=x, y=np.float32(0.5), name="y"),
        outputs=[ct.ImageType(name="y")],
    )
    with open_runner(path, runtime="reference") as runner:
        for size in accepted:
            picture = np.full((*size, 3), 101, np.uint8)
            # 50.5 is rounded to even.
            np.testing.assert_array_equal(runner.run({"x": picture})["y"], picture // 2)
        for wrong in ((1, 6, 3), (4, 6), (4, 6, 1), (3, 8, 8)):
            with pytest.raises(InputError, match=message):
                runner.run({"x": np.zeros(wrong, np.uint8)})


@pytest.fixture(scope="module")
def optional(tmp_path_factory):
    """A package with an input that need not be there, as the converter writes it."""
    specs = [mb.TensorSpec((1, 3)), mb.TensorSpec((1, 3))]

    @mb.program(input_specs=specs, opset_version=ct.target.iOS16)
    def program(x, bias):
        return mb.add(x=x, y=bias, name="y")

    path = tmp_path_factory.mktemp("optional") / "m.mlpackage"
    with quiet():
        model = ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS16,
            skip_model_load=True,
            inputs=[
                ct.TensorType(name="x", shape=(1, 3)),
                ct.TensorType(
                    name="bias", shape=(1, 3), default_value=np.full((1, 3), 2.5, np.float32)
                ),
            ],
        )
        model.save(str(path))
    return path


X = np.float32([[1, 2, 3]])


def test_an_optional_input_has_its_default_where_a_sample_lacks_it(optional, tmp_path):
    with open_runner(optional, runtime="reference") as runner:
        np.testing.assert_array_equal(runner.run({"x": X})["y"], X + 2.5)
        np.testing.assert_array_equal(runner.run({"x": X, "bias": -X})["y"], 0 * X)
        with pytest.raises(InputError, match=r"lacks 'x'; .* 'bias' \(float32 1x3 optional\)"):
            runner.run({"bias": X})
        # The same from data: one archive may hold samples of both kinds.
        np.savez(tmp_path / "data.npz", **{"a/x": X, "b/x": X, "b/bias": -X})
        for data in (tmp_path / "data.npz", [{"x": X}, {"x": X, "bias": -X}]):
            samples = open_samples(data, runner.description)
            sums = [runner.run(sample)["y"] for sample in samples]
            np.testing.assert_array_equal(sums, [X + 2.5, 0 * X])
        np.savez(tmp_path / "many.npz", x=np.stack([X, 2 * X]))
        samples = open_samples(tmp_path / "many.npz", runner.description)
        np.testing.assert_array_equal(
            [runner.run(sample)["y"] for sample in samples], [X + 2.5, 2 * X + 2.5]
        )


def test_an_optional_input_of_integers_has_a_whole_default():
    package = make_package(lambda x: mb.add(x=x, y=1, name="y"), x=((1, 3), "int32"))
    kind = package.spec.description.input[0].type
    kind.isOptional, kind.multiArrayType.intDefaultValue = True, -7
    with ReferenceRunner(package, threads=1) as runner:
        np.testing.assert_array_equal(runner.run({})["y"], [[-6, -6, -6]])


@pytest.mark.parametrize("value", [None, 0.5, np.nan, 1e20])
def test_an_optional_input_without_a_default_that_fits_must_be_there(value):
    package = make_package(lambda x: mb.add(x=x, y=1, name="y"), x=((1, 3), "int32"))
    kind = package.spec.description.input[0].type
    kind.isOptional = True
    if value is not None:
        kind.multiArrayType.doubleDefaultValue = value
    with (
        ReferenceRunner(package, threads=1) as runner,
        pytest.raises(InputError, match="lacks 'x'"),
    ):
        runner.run({})


@pytest.mark.parametrize("labels", [["cat", "dog", "owl"], [3, 1, 2]])
@pytest.mark.parametrize("precision", ["FLOAT32", "FLOAT16"])
def test_a_classifier_gives_its_probabilities_in_the_order_of_its_labels(
    tmp_path, labels, precision
):
    path = save_package(
        tmp_path / "m.mlpackage",
        lambda mb, x: mb.softmax(x=x, axis=1, name="scores"),
        shape=(1, 3),
        target="iOS16",
        precision=precision,
        classifier_config=ct.ClassifierConfig(labels),
    )
    (feature,) = describe(read_package(path)).outputs
    assert (feature.name, feature.shape, feature.labels) == ("classLabel_probs", (3,), (*labels,))
    ((name, result),) = run(path, {"x": X}).items()
    exact = np.exp(X[0].astype(float)) / np.exp(X[0].astype(float)).sum()
    assert (name, result.dtype) == ("classLabel_probs", np.float32)
    if precision == "FLOAT16":
        np.testing.assert_array_equal(result, exact.astype(np.float16))
    else:
        np.testing.assert_allclose(result, exact, rtol=1e-6)


def test_a_classifier_that_gives_its_label_alone_is_refused_by_name(tmp_path):
    path = save_package(
        tmp_path / "m.mlpackage",
        lambda mb, x: mb.softmax(x=x, axis=1, name="scores"),
        shape=(1, 3),
        target="iOS16",
        classifier_config=ct.ClassifierConfig(["cat", "dog", "owl"]),
    )
    package = read_package(path)
    del package.spec.description.output[1]
    with pytest.raises(UnsupportedModelError, match=r"gives 'classLabel' \(stringType\), and"):
        ReferenceRunner(package)


def test_outputs_that_are_not_described_are_left_out():
    package = make_package(
        lambda x: (mb.relu(x=x, name="first"), mb.tanh(x=x, name="second")), x=(1, 3)
    )
    del package.spec.description.output[0]
    with ReferenceRunner(package, threads=1) as runner:
        ((name, result),) = runner.run({"x": X}).items()
    assert name == "second"
    np.testing.assert_allclose(result, np.tanh(X), rtol=1e-6)
