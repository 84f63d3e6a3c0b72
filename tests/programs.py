# SPDX-License-Identifier: BSD-3-Clause
"""Small ML Programs for tests, made with coremltools' MIL builder in about a millisecond."""

import atexit
import inspect
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from convcal.coreml._coremltools import load_coremltools
from convcal.coreml.package import Package

ct = load_coremltools()

from coremltools.converters.mil import Builder as mb  # noqa: E402, N813, TID251 - after the door
from coremltools.converters.mil.backend.mil.load import load as _export  # noqa: E402, TID251
from coremltools.converters.mil.mil import get_new_symbol, types  # noqa: E402, TID251
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY  # noqa: E402, TID251

__all__ = ["State", "ct", "get_new_symbol", "make_package", "mb", "save", "types"]

_DTYPES = {
    "float32": types.fp32,
    "float16": types.fp16,
    "int32": types.int32,
    "bool": types.bool,
}
_TO_FP16 = ("add_fp16_cast", "const_elimination", "cast_optimization", "dead_code_elimination")


class State(NamedTuple):
    """A state of a program; coremltools writes fp16 ones only."""

    shape: tuple
    dtype: str = "float16"


def make_package(build, *, precision="float32", target="iOS16", **inputs):
    """Make a package in memory: `build` takes the inputs by name, whose shapes are given as
    ``name=shape`` or ``name=(shape, dtype)``, states as ``name=State(shape)``, and returns
    the output or a tuple of them.

    With precision "float16" coremltools' own pass makes the program compute in fp16.
    """
    specs = []
    for name in inspect.signature(build).parameters:
        given = inputs[name]
        if isinstance(given, State):
            specs.append(mb.StateTensorSpec(given.shape, _DTYPES[given.dtype]))
            continue
        shape, dtype = given if given and isinstance(given[-1], str) else (given, "float32")
        specs.append(mb.TensorSpec(shape, _DTYPES[dtype]))
    version = getattr(ct.target, target)
    program = mb.program(input_specs=specs, opset_version=version)(build)
    if precision == "float16":
        for step in _TO_FP16:
            PASS_REGISTRY[f"common::{step}"](program)
    program.export_as_multifunction = False
    folder = Path(tempfile.mkdtemp(prefix="convcal-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    spec = _export(program, str(folder), specification_version=int(version))
    weights = folder / "weight.bin"
    return Package(
        path=folder / "program.mlpackage",
        spec=spec,
        model_path=folder / "model.mlmodel",
        weights_dir=folder,
        weights_path=weights if weights.exists() else None,
    )


def save(package, path):
    """Write a package that `make_package` made, for what takes paths."""
    model = ct.models.MLModel(
        package.spec, weights_dir=str(package.weights_dir), skip_model_load=True
    )
    model.save(str(path))
    return path
