# SPDX-License-Identifier: BSD-3-Clause
"""Layers of MIL with weights drawn from one seeded generator."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcal.coreml._coremltools import load_coremltools

load_coremltools()

from coremltools.converters.mil import Builder as mb  # noqa: E402, N813, TID251 - after the door

__all__ = ["EPSILON", "Layers", "mb"]

EPSILON = 1e-5
"""Added to every variance."""


class Layers:
    """Adds layers to a MIL program, and keeps the weights that it draws for them.

    Weights are normal with a variance of `gain` over the number of inputs that a result sums
    (He et al., 2015), so that each layer gives about the variance it gets: 2 before a ReLU or
    the like, 1 before none.

    Parameters
    ----------
    seed : int

    Attributes
    ----------
    weights : dict of str to ndarray of float32
        All weights by layer and kind, such as ``"head.weight"``.
    """

    def __init__(self, seed: int) -> None:
        self.weights: dict[str, NDArray[np.float32]] = {}
        self._rng = np.random.default_rng(seed)

    def normal(
        self, name: str, shape: tuple[int, ...], deviation: float, *, mean: float = 0.0
    ) -> NDArray[np.float32]:
        """Draw normal weights and keep them under `name`."""
        if name in self.weights:
            raise ValueError(f"two layers are called '{name}'")
        self.weights[name] = self._rng.normal(mean, deviation, shape).astype(np.float32)
        return self.weights[name]

    def conv(
        self,
        x: Any,
        name: str,
        n_out: int,
        size: int = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        pad: tuple[int, ...] | None = None,
        gain: float = 2.0,
    ) -> Any:
        """Add a convolution with a bias.

        `size` is that of every spatial axis; `pad` is coremltools' (front and back for each axis
        in turn), half of the kernel by default.
        """
        rank = len(x.shape) - 2
        n_in = x.shape[1] // groups
        deviation = np.sqrt(gain / (n_in * size**rank))
        return mb.conv(
            x=x,
            weight=self.normal(f"{name}.weight", (n_out, n_in, *[size] * rank), deviation),
            bias=self.normal(f"{name}.bias", (n_out,), 0.05),
            strides=[stride] * rank,
            dilations=[dilation] * rank,
            groups=groups,
            pad_type="custom",
            pad=[size // 2 * dilation] * (2 * rank) if pad is None else list(pad),
            name=name,
        )

    def conv_transpose(
        self,
        x: Any,
        name: str,
        n_out: int,
        size: int,
        *,
        stride: int,
        pad: tuple[int, ...],
        gain: float = 2.0,
    ) -> Any:
        """Add a transposed convolution with a bias, `stride` times as long on every axis."""
        rank = len(x.shape) - 2
        n_in = x.shape[1]
        deviation = np.sqrt(gain / (n_in * (size / stride) ** rank))
        return mb.conv_transpose(
            x=x,
            weight=self.normal(f"{name}.weight", (n_in, n_out, *[size] * rank), deviation),
            bias=self.normal(f"{name}.bias", (n_out,), 0.05),
            strides=[stride] * rank,
            pad_type="custom",
            pad=list(pad),
            output_shape=[x.shape[0], n_out, *[length * stride for length in x.shape[2:]]],
            name=name,
        )

    def linear(self, x: Any, name: str, n_out: int, *, gain: float = 1.0) -> Any:
        """Add a fully connected layer along the last axis."""
        n_in = x.shape[-1]
        return mb.linear(
            x=x,
            weight=self.normal(f"{name}.weight", (n_out, n_in), np.sqrt(gain / n_in)),
            bias=self.normal(f"{name}.bias", (n_out,), 0.05),
            name=name,
        )

    def batch_norm(self, x: Any, name: str) -> Any:
        """Add a batch normalisation, its statistics near those of what comes in."""
        n = (x.shape[1],)
        variance = self.normal(f"{name}.variance", n, 0.1, mean=1.0)
        return mb.batch_norm(
            x=x,
            mean=self.normal(f"{name}.mean", n, 0.1),
            variance=np.abs(variance, out=variance),
            gamma=self.normal(f"{name}.gamma", n, 0.1, mean=1.0),
            beta=self.normal(f"{name}.beta", n, 0.1),
            epsilon=EPSILON,
            name=name,
        )

    def layer_norm(self, x: Any, name: str) -> Any:
        """Add a layer normalisation along the last axis."""
        n = (x.shape[-1],)
        return mb.layer_norm(
            x=x,
            axes=[-1],
            gamma=self.normal(f"{name}.gamma", n, 0.1, mean=1.0),
            beta=self.normal(f"{name}.beta", n, 0.1),
            epsilon=EPSILON,
            name=name,
        )

    def prelu(self, x: Any, name: str) -> Any:
        """Add a ReLU with a learnt slope: one per channel of a picture, one for all of a sound."""
        n_slopes = x.shape[1] if len(x.shape) == 4 else 1
        slopes = self.normal(f"{name}.alpha", (n_slopes,), 0.05, mean=0.2)
        return mb.prelu(x=x, alpha=np.resize(slopes, x.shape[1]), name=name)

    def lstm(self, x: Any, name: str, n_hidden: int, *, is_bidirectional: bool = False) -> Any:
        """Add an LSTM over (time, batch, features) that gives its whole sequence."""
        n_in, n_ways = x.shape[2], 1 + is_bidirectional
        parts = {}
        for suffix in ("", "_back")[:n_ways]:
            for key, n in (("weight_ih", n_in), ("weight_hh", n_hidden)):
                shape = (4 * n_hidden, n)
                parts[f"{key}{suffix}"] = self.normal(f"{name}.{key}{suffix}", shape, n**-0.5)
            parts[f"bias{suffix}"] = self.normal(f"{name}.bias{suffix}", (4 * n_hidden,), 0.2)
        start = np.zeros((x.shape[1], n_ways * n_hidden), np.float32)
        sequence, _, _ = mb.lstm(
            x=x,
            initial_h=start,
            initial_c=start,
            direction="bidirectional" if is_bidirectional else "forward",
            output_sequence=True,
            name=name,
            **parts,
        )
        return sequence
