# SPDX-License-Identifier: BSD-3-Clause
"""The two trained networks: their weights on disk and a forward pass in NumPy.

The forward pass is the one the packages contain, written out independently of Core ML, ONNX
Runtime and PyTorch. It runs in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODELS = Path(__file__).resolve().parent / "models"
LAYERS = ("feature", "shrink", "map0", "map1", "map2", "map3", "expand")


@dataclass(frozen=True)
class Network:
    """What a package is built from, besides the weights.

    `pad` and `output_shape` are those of the transposed convolution, in coremltools' order:
    front and back for each axis in turn.
    """

    name: str
    description: str
    input_name: str
    output_name: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    stride: int
    pad: tuple[int, ...]

    @property
    def folder(self) -> Path:
        """The folder of the weights and packages."""
        return MODELS / self.name


FSRCNN = Network(
    name="fsrcnn",
    description="FSRCNN x2 super-resolution of luma in [0, 1]",
    input_name="luma",
    output_name="upscaled",
    input_shape=(1, 1, 64, 64),
    output_shape=(1, 1, 128, 128),
    stride=2,
    pad=(4, 3, 4, 3),
)
AUDIO_UPSAMPLER = Network(
    name="audio-upsampler",
    description="Upsampler of mono sound in [-1, 1] from 2 kHz to 8 kHz",
    input_name="waveform",
    output_name="upsampled",
    input_shape=(1, 1, 1024),
    output_shape=(1, 1, 4096),
    stride=4,
    pad=(6, 5),
)
NETWORKS = (FSRCNN, AUDIO_UPSAMPLER)


def load_weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """Read the arrays of a `weights.npz`, in the order they were written."""
    with np.load(path, allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def _per_channel(values: NDArray[np.floating], features: NDArray[np.floating]) -> NDArray:
    return values.reshape(-1, *[1] * (features.ndim - 1))


def _convolve(features: NDArray, weight: NDArray, bias: NDArray) -> NDArray:
    spatial = features.shape[1:]
    halves = [size // 2 for size in weight.shape[2:]]
    padded = np.pad(features, [(0, 0), *[(half, half) for half in halves]])
    result = np.zeros((weight.shape[0], *spatial))
    for tap in product(*[range(size) for size in weight.shape[2:]]):
        window = [slice(start, start + length) for start, length in zip(tap, spatial, strict=True)]
        result += np.tensordot(weight[(..., *tap)], padded[(slice(None), *window)], axes=1)
    return result + _per_channel(bias, result)


def _transposed_convolution(
    features: NDArray, weight: NDArray, bias: NDArray, stride: int
) -> NDArray:
    spatial, kernel = features.shape[1:], weight.shape[2:]
    result = np.zeros(
        (
            weight.shape[1],
            *[(size - 1) * stride + taps for size, taps in zip(spatial, kernel, strict=True)],
        )
    )
    for tap in product(*[range(size) for size in kernel]):
        window = [
            slice(start, start + (size - 1) * stride + 1, stride)
            for start, size in zip(tap, spatial, strict=True)
        ]
        result[(slice(None), *window)] += np.tensordot(weight[(..., *tap)], features, axes=(0, 0))
    return result + _per_channel(bias, result)


def forward(
    network: Network, weights: dict[str, NDArray[np.float32]], inputs: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Run one network on one input.

    Parameters
    ----------
    network : Network
        `FSRCNN` or `AUDIO_UPSAMPLER`.
    weights : dict of ndarray
        What `load_weights` gives.
    inputs : ndarray
        Of shape ``(1, 1, *spatial)``, whatever the spatial size: the weights do not depend on it.

    Returns
    -------
    ndarray of float64
        Of shape ``(1, 1, *outputs)``, each spatial axis `network.stride` times as long.
    """
    features = np.asarray(inputs[0], np.float64)
    for name in LAYERS:
        features = _convolve(features, weights[f"{name}.weight"], weights[f"{name}.bias"])
        slope = _per_channel(weights[f"{name}.alpha"], features)
        features = np.where(features > 0, features, slope * features)
    full = _transposed_convolution(
        features, weights["deconvolution.weight"], weights["deconvolution.bias"], network.stride
    )
    crop = [
        slice(front, front + network.stride * size)
        for front, size in zip(network.pad[::2], inputs.shape[2:], strict=True)
    ]
    return full[(slice(None), *crop)][None]
