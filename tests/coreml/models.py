# SPDX-License-Identifier: BSD-3-Clause
"""Small packages for the tests, made with coremltools' own builder."""

import contextlib
import io
import logging
import warnings

import numpy as np

from convcal.coreml._coremltools import load_coremltools


def save_package(
    path, body, *, shape, target="iOS15", dtype="fp32", precision="FLOAT32", outputs=None, **options
):
    """Convert a program with one input 'x' and save it.

    `body(mb, x)` returns the outputs; they are named by their operations.
    """
    ct = load_coremltools()
    mb, types = ct.converters.mil.Builder, ct.converters.mil.mil.types
    version = getattr(ct.target, target)

    @mb.program(
        input_specs=[mb.TensorSpec(shape, dtype=getattr(types, dtype))], opset_version=version
    )
    def program(x):
        return body(mb, x)

    if outputs is not None:  # the converter leaves them alone for programs of its builder
        program.functions["main"].set_output_types(outputs)
    with quiet():
        model = ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=version,
            compute_precision=getattr(ct.precision, precision),
            skip_model_load=True,
            **options,
        )
        model.short_description = "a small model"
        model.user_defined_metadata["owner"] = "the tests"
        model.save(str(path))
    return path


def save_functions(path, parts):
    """Save one package with several functions, given packages by function name."""
    ct = load_coremltools()
    descriptor = ct.utils.MultiFunctionDescriptor()
    for name, part in parts.items():
        descriptor.add_function(str(part), src_function_name="main", target_function_name=name)
    descriptor.default_function_name = next(iter(parts))
    with quiet():
        ct.utils.save_multifunction(descriptor, str(path))
    return path


def weighted(mb, x, *, name="out", n_channels=4, kernel=3, seed=0):
    """A same-size convolution with weights large enough for the weight file, then tanh."""
    generator = np.random.default_rng(seed)
    n_spatial = x.rank - 2
    weight = generator.standard_normal((n_channels, x.shape[1], *[kernel] * n_spatial))
    dtype = load_coremltools().converters.mil.mil.types.nptype_from_builtin(x.dtype)
    y = mb.conv(x=x, weight=weight.astype(dtype), pad_type="same")
    return mb.tanh(x=y, name=name)


@contextlib.contextmanager
def quiet():
    """Silence the converter's progress bars and warnings."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def read_with_coremltools(package):
    """Load a package's program with coremltools' own reader; it checks types and shapes."""
    load_coremltools()
    from coremltools.converters.mil.frontend.milproto.load import load  # noqa: TID251

    spec = type(package.spec)()
    spec.CopyFrom(package.spec)
    return load(spec, spec.specificationVersion, str(package.weights_dir))
