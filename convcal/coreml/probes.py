# SPDX-License-Identifier: BSD-3-Clause
"""Make packages of one operation, to see what a device makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from convcal.coreml._coremltools import load_coremltools, silenced

__all__ = ["PRECISIONS", "save_operation"]

PRECISIONS = {"float32": "FLOAT32", "float16": "FLOAT16"}


def save_operation(
    path: Path, operation: str, *, shape: tuple[int, ...], precision: str, **parameters: Any
) -> Path:
    """Convert a program of one operation and save it, as a converter's user would.

    Parameters
    ----------
    path : pathlib.Path
        The ``.mlpackage`` to be written.
    operation : str
        An operation of MIL's iOS 15 set, as ``'conv_transpose'``.
    shape : tuple of int
        Of the input ``x``, float32. The output is ``y``, float32 too.
    precision : {'float32', 'float16'}
        What it computes in. Float16 is what coremltools makes by default, with casts around it.
    **parameters
        The operation's other inputs: numbers, texts and arrays.

    Returns
    -------
    pathlib.Path
        The package.

    Raises
    ------
    UnavailableError
        If coremltools is not available here.
    """
    coremltools = load_coremltools()
    mil = coremltools.converters.mil
    target = coremltools.target.iOS15

    def build(x: Any) -> Any:
        return getattr(mil.Builder, operation)(x=x, name="y", **parameters)

    specs = [mil.Builder.TensorSpec(shape=shape)]
    with silenced():
        program = mil.Builder.program(input_specs=specs, opset_version=target)(build)
        model = coremltools.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=target,
            compute_precision=getattr(coremltools.precision, PRECISIONS[precision]),
            skip_model_load=True,
        )
        model.save(str(path))
    return path
