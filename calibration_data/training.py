# SPDX-License-Identifier: BSD-3-Clause
"""The trained networks in PyTorch, and the training loop they share. Needs PyTorch."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from calibration_data.networks import MODELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

Draw = Callable[[np.random.Generator], tuple[torch.Tensor, torch.Tensor]]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Layer(nn.Module):
    """A convolution that keeps the size, followed by a PReLU.

    The PReLU has one slope per channel in 2-D and a single one in 1-D, where MIL's ``prelu``
    takes no other.
    """

    def __init__(self, dimensions: int, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        convolution = nn.Conv1d if dimensions == 1 else nn.Conv2d
        self.conv = convolution(inputs, outputs, kernel, padding=kernel // 2)
        self.prelu = nn.PReLU(1 if dimensions == 1 else outputs, init=0.25)
        nn.init.kaiming_normal_(self.conv.weight, a=0.25)
        nn.init.zeros_(self.conv.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Apply the convolution and the PReLU."""
        return self.prelu(self.conv(features))


class Upsampler(nn.Module):
    """A network with the plan of FSRCNN in one or two dimensions.

    Parameters
    ----------
    dimensions : int
        1 or 2.
    factor : int
        Stride of the transposed convolution at the end.
    features, shrunk, mappings : int
        FSRCNN's d, s and m: channels of the wide and of the narrow part, and the number of
        convolutions in the narrow part.
    kernels : tuple of int
        Kernel sizes of the first convolution, of the narrow ones, and of the transposed one.
    front : int
        Where the output begins in the uncropped transposed convolution, on every axis.
    """

    def __init__(
        self,
        dimensions: int,
        *,
        factor: int,
        features: int,
        shrunk: int,
        mappings: int,
        kernels: tuple[int, int, int],
        front: int,
    ) -> None:
        super().__init__()
        self.factor, self.front = factor, front
        first, middle, last = kernels
        self.layers = nn.ModuleDict({"feature": Layer(dimensions, 1, features, first)})
        self.layers["shrink"] = Layer(dimensions, features, shrunk, 1)
        for index in range(mappings):
            self.layers[f"map{index}"] = Layer(dimensions, shrunk, shrunk, middle)
        self.layers["expand"] = Layer(dimensions, shrunk, features, 1)
        transposed = nn.ConvTranspose1d if dimensions == 1 else nn.ConvTranspose2d
        self.deconvolution = transposed(features, 1, last, stride=factor)
        nn.init.normal_(self.deconvolution.weight, std=0.01)
        nn.init.zeros_(self.deconvolution.bias)

    def uncropped(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return all of the transposed convolution's output."""
        features = inputs
        for layer in self.layers.values():
            features = layer(features)
        return self.deconvolution(features)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the part of the output that registers with the inputs."""
        outputs = self.uncropped(inputs)
        for axis in range(2, inputs.ndim):
            outputs = outputs.narrow(axis, self.front, self.factor * inputs.shape[axis])
        return outputs

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return the weights under the names that `weights.npz` uses."""
        tensors = {}
        for name, layer in self.layers.items():
            tensors[f"{name}.weight"] = layer.conv.weight
            tensors[f"{name}.bias"] = layer.conv.bias
            tensors[f"{name}.alpha"] = layer.prelu.weight
        tensors["deconvolution.weight"] = self.deconvolution.weight
        tensors["deconvolution.bias"] = self.deconvolution.bias
        return {key: tensor.detach().numpy().astype(np.float32) for key, tensor in tensors.items()}

    def load_arrays(self, arrays: dict[str, NDArray[np.float32]]) -> None:
        """Set the weights from arrays under the names that `weights.npz` uses."""
        state = {}
        for key, value in arrays.items():
            name, kind = key.split(".")
            part = "prelu.weight" if kind == "alpha" else f"conv.{kind}"
            target = key if name == "deconvolution" else f"layers.{name}.{part}"
            state[target] = torch.from_numpy(value)
        self.load_state_dict(state)


def fsrcnn() -> Upsampler:
    """Return an untrained FSRCNN x2 with d = 56, s = 12, m = 4."""
    return Upsampler(2, factor=2, features=56, shrunk=12, mappings=4, kernels=(5, 3, 9), front=4)


def audio_upsampler() -> Upsampler:
    """Return an untrained 1-D upsampler x4."""
    return Upsampler(1, factor=4, features=48, shrunk=24, mappings=4, kernels=(15, 9, 15), front=6)


def fit(network: Upsampler, draw: Draw, loss: Loss, *, steps: int, rate: float, seed: int) -> None:
    """Train with Adam, a warm-up of 200 steps and a cosine decay.

    Parameters
    ----------
    network : Upsampler
        Trained in place.
    draw : callable
        Gives one batch of inputs and targets from a random generator.
    loss : callable
        Takes outputs and targets.
    steps, rate, seed : int, float, int
        Number of batches, highest learning rate, and seed of the drawing.
    """
    random = np.random.default_rng(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)

    def decay(step: int) -> float:
        return min(1.0, (step + 1) / 200) * (0.5 + 0.5 * np.cos(np.pi * step / steps)) + 1e-3

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, decay)
    start, total = time.monotonic(), 0.0
    for step in range(1, steps + 1):
        inputs, targets = draw(random)
        value = loss(network(inputs), targets)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        total += value.item()
        if step % 200 == 0:
            print(f"{step:6d}  {time.monotonic() - start:5.0f} s  loss {total / 200:.5f}")
            total = 0.0


def run(name: str, make: Callable[[], Upsampler], draw: Draw, loss: Loss, *, steps: int) -> None:
    """Train one network from the command line and write `models/NAME/weights.npz`."""
    parser = argparse.ArgumentParser(description=f"Train {name}.")
    parser.add_argument("--steps", type=int, default=steps, help="default: %(default)s")
    parser.add_argument("--rate", type=float, default=2e-3, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(arguments.seed)
    network = make()
    options = {"steps": arguments.steps, "rate": arguments.rate, "seed": arguments.seed}
    fit(network, draw, loss, **options)
    path = MODELS / name / "weights.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **network.arrays())
    print(f"wrote {path.relative_to(MODELS.parent.parent)}")
