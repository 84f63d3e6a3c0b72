# SPDX-License-Identifier: BSD-3-Clause
"""The suite: what each network takes, how it is built, and samples for it."""

from __future__ import annotations

import contextlib
import inspect
import io
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convcal.coreml._coremltools import load_coremltools
from convcal.datasets.contents import draw_scene
from networks import pictures, sequences
from networks.layers import Layers, mb

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["NETWORKS", "PRECISIONS", "Network", "convert"]

ct = load_coremltools()

from coremltools.converters.mil.mil import Function, Program  # noqa: E402, TID251 - after the door

PRECISIONS = {"fp32": ct.precision.FLOAT32, "fp16": ct.precision.FLOAT16}


@dataclass(frozen=True)
class Network:
    """A network with seeded weights.

    Parameters
    ----------
    name, description : str
    layers : callable
        Adds the operations, from `Layers` and the input to the output or outputs. Its second
        parameter names the input: ``image``, in [0, 1]; ``waveform``, in [-1, 1]; or
        ``features``, of mean 0 and variance 1.
    input_shape : tuple of int
        The input's: a batch of 1, channels, spatial lengths.
    target : str
        The deployment target that the operations need.
    """

    name: str
    description: str
    layers: Callable[[Layers, Any], Any]
    input_shape: tuple[int, ...]
    target: str = "iOS15"

    @property
    def input_name(self) -> str:
        """The name of the input."""
        _, name = inspect.signature(self.layers).parameters
        return name

    def program(self) -> tuple[Any, dict[str, NDArray[np.float32]]]:
        """Make the MIL program, as the builder leaves it, and give it with its weights."""
        layers = Layers(zlib.crc32(self.name.encode()))
        inputs = {self.input_name: mb.TensorSpec(shape=self.input_shape)}
        with Function(inputs, getattr(ct.target, self.target)) as function:
            results = self.layers(layers, function.inputs[self.input_name])
            function.set_outputs(list(results) if isinstance(results, tuple) else [results])
        program = Program()
        program.add_function("main", function)
        return program, layers.weights

    def build(self, folder: Path, precision: str) -> Path:
        """Convert the network and save it as ``NAME-PRECISION.mlpackage`` in a folder.

        Parameters
        ----------
        folder : Path
        precision : str
            A key of `PRECISIONS`.

        Returns
        -------
        Path
            The package.
        """
        program, _ = self.program()
        return convert(program, folder / f"{self.name}-{precision}.mlpackage", precision)

    def samples(self, n: int, *, seed: int = 0) -> list[dict[str, NDArray[np.float32]]]:
        """Draw `n` samples: pictures and sounds with the spectrum of natural ones."""
        rng = np.random.default_rng([zlib.crc32(self.name.encode()), seed])
        return [{self.input_name: self._drawn(rng)} for _ in range(n)]

    def _drawn(self, rng: np.random.Generator) -> NDArray[np.float32]:
        _, channels, *spatial = self.input_shape
        planes = np.stack([draw_scene(rng, tuple(spatial), "pink") for _ in range(channels)])
        if self.input_name == "image":
            grey, colour = planes[:1], planes
            array = np.clip(0.5 + 0.2 * grey + 0.1 * colour, 0, 1)
        elif self.input_name == "waveform":
            array = np.clip(0.3 * planes, -1, 1)
        else:
            array = planes
        return array[None].astype(np.float32)


def convert(program: Any, package: Path, precision: str) -> Path:
    """Convert a MIL program as coremltools does by default, and save the package.

    Parameters
    ----------
    program : coremltools.converters.mil.mil.Program
    package : Path
        The `.mlpackage` to write.
    precision : str
        A key of `PRECISIONS`.

    Returns
    -------
    Path
        The package.
    """
    target = program.functions["main"].opset_version
    # coremltools draws progress bars, and warns of versions of packages that are not used here.
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ct.convert(
            program,
            convert_to="mlprogram",
            compute_precision=PRECISIONS[precision],
            minimum_deployment_target=target,
            skip_model_load=True,
        )
        model.save(str(package))
    return package


_ALL = (
    Network("unet", "U-Net that segments", pictures.unet, (1, 3, 88, 104)),
    Network(
        "text-detector", "DBNet-like detector of text", pictures.text_detector, (1, 3, 80, 112)
    ),
    Network("separator", "Conv-TasNet-like separator of voices", sequences.separator, (1, 1, 2008)),
    Network("upsampler", "ESRGAN-like upsampler x4", pictures.upsampler, (1, 3, 36, 44)),
    Network("transformer", "Vision transformer", pictures.transformer, (1, 3, 56, 80), "iOS18"),
    Network("recognizer", "LSTM recogniser of speech", sequences.recognizer, (1, 20, 76)),
    Network("detector", "YOLO-like detector", pictures.detector, (1, 3, 112, 144)),
)
NETWORKS = {network.name: network for network in _ALL}
"""The suite by name."""
