# SPDX-License-Identifier: BSD-3-Clause
"""Transposed convolutions of every kind, and packages in memory with operations rewritten."""

import atexit
import dataclasses
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import evaluator
import numpy as np
from hypothesis import strategies as st
from programs import make_package, mb

from convcal.coreml.rewriting import rewrite_operations
from convcal.errors import ConvcalWarning
from convcal.faults import CropOrigin
from convcal.runtime.reference import ReferenceRunner

CROPS = ("explicit-crop", "zero-insertion", "subpixel")


@dataclass
class Deconvolution:
    """A conv_transpose, its weights and an input, all small integers: every sum is exact."""

    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray | None
    parameters: dict

    def package(self, precision="float32", **options):
        arguments = dict(self.parameters)
        if self.bias is not None:
            arguments["bias"] = self.bias
        return make_package(
            lambda x: mb.conv_transpose(x=x, weight=self.weight, name="up", **arguments),
            precision=precision,
            x=self.x.shape,
            **options,
        )

    @property
    def truth(self):
        rank = self.x.ndim - 2
        defaults = {"pad_type": "valid", "pad": [0] * (2 * rank)}
        arrays = {
            key: None if array is None else array.astype(np.float64)
            for key, array in (("x", self.x), ("weight", self.weight), ("bias", self.bias))
        }
        return evaluator.conv_transpose(**arrays, **{**defaults, **self.parameters})


@st.composite
def deconvolutions(draw, *, equal_strides=False, ranks=(1, 2, 3)):
    """Draw strides, dilations, groups, kernels, pads of all types and lengths of the result."""
    rank = draw(st.sampled_from(ranks))
    most = {1: 7, 2: 4, 3: 3}[rank]

    def each(low, high):
        return [draw(st.integers(low, high)) for _ in range(rank)]

    lengths, kernel, dilations = each(1, most), each(1, most), each(1, 3)
    strides = each(1, 1) if draw(st.booleans()) else each(1, most)
    if equal_strides:
        strides = strides[:1] * rank
    groups, n_in, n_out = (draw(st.integers(1, 2)) for _ in range(3))
    pad_type = draw(st.sampled_from(["valid", "custom", "same", "same_lower"]))
    parameters = {"strides": strides, "dilations": dilations, "groups": groups}
    parameters["pad_type"] = pad_type
    fronts, backs = each(0, most), each(0, most)
    full = [
        (n - 1) * s + (k - 1) * d + 1
        for n, s, k, d in zip(lengths, strides, kernel, dilations, strict=True)
    ]
    natural = full
    if pad_type == "custom":
        fronts = [min(front, size - 1) for front, size in zip(fronts, full, strict=True)]
        natural = [f - p - q for f, p, q in zip(full, fronts, backs, strict=True)]
        parameters["pad"] = np.ravel(np.stack([fronts, backs], axis=1)).tolist()
    elif pad_type != "valid":
        natural = [n * s for n, s in zip(lengths, strides, strict=True)]
    batch = draw(st.integers(1, 2))
    must_state = pad_type == "same_lower" or min(natural) < 1
    if must_state or draw(st.booleans()):
        sizes = [max(1, size + draw(st.integers(-3, 4))) for size in natural]
        parameters["output_shape"] = [batch, groups * n_out, *sizes]
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def integers(*shape):
        return generator.integers(-3, 4, shape).astype(np.float32)

    return Deconvolution(
        x=integers(batch, groups * n_in, *lengths),
        weight=integers(groups * n_in, n_out, *kernel),
        bias=integers(groups * n_out) if draw(st.booleans()) else None,
        parameters=parameters,
    )


def rewritten(package, strategy, at=(), **options):
    """Rewrite operations of a package in memory; its new weights lie in a folder of their own."""
    surgery = rewrite_operations(package, strategy=strategy, at=at, **options)
    changed = surgery.package
    if changed.tail is None:
        return changed
    folder = Path(tempfile.mkdtemp(prefix="convcal-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "weight.bin").write_bytes(b"".join(changed.tail.chunks()))
    return dataclasses.replace(
        changed, weights_dir=folder, weights_path=folder / "weight.bin", tail=None
    )


def run(package, sample, *, variant=None):
    """Run on the reference runtime, under the emulated fault of the crop's origin if asked."""
    faults = [] if variant is None else [CropOrigin(variant=variant, precision="all")]
    with warnings.catch_warnings():
        # The fault has nothing to act on, which is the point; the crop of the original is unclear.
        warnings.simplefilter("ignore", ConvcalWarning)
        with ReferenceRunner(package, faults=faults, threads=1) as runner:
            (result,) = runner.run(sample).values()
    return result


def kinds(package, function="main"):
    """List the types of a function's operations, constants left out."""
    message = package.spec.mlProgram.functions[function]
    operations = message.block_specializations[message.opset].operations
    return [operation.type for operation in operations if operation.type != "const"]
