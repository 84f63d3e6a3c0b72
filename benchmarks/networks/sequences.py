# SPDX-License-Identifier: BSD-3-Clause
"""Networks that take a sequence: separation of sound, and recognition with an LSTM.

Each function adds a network's operations to a MIL program and returns its outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from networks.layers import EPSILON, Layers, mb

__all__ = ["recognizer", "separator"]


def separator(layers: Layers, waveform: Any) -> tuple[Any, Any]:
    """Separate two voices, after Luo and Mesgarani (Conv-TasNet, 2019).

    A learnt transform, masks from dilated depthwise convolutions with gated skips, and a
    transposed convolution back to sound, with unequal pads.
    """
    n, n_inner, size, stride = 32, 40, 16, 8

    def norm(x: Any, name: str) -> Any:
        """Normalise over channels and time, then scale per channel."""
        shape = (1, x.shape[1], 1)
        x = mb.layer_norm(x=x, axes=[1, 2], epsilon=EPSILON)
        x = mb.mul(x=x, y=layers.normal(f"{name}.gamma", shape, 0.1, mean=1.0))
        return mb.add(x=x, y=layers.normal(f"{name}.beta", shape, 0.1))

    frames = layers.conv(waveform, "encoder", n, size, stride=stride, pad=(3, 5), gain=8.0)
    frames = mb.relu(x=frames, name="frames")
    x = layers.conv(norm(frames, "norm"), "bottleneck", n, 1, gain=1.0)
    skips = None
    for index in range(5):
        name, dilation = f"block{index}", 2 ** (index % 4)
        y = layers.prelu(layers.conv(x, f"{name}.in", n_inner, 1), f"{name}.slope0")
        y = norm(y, f"{name}.norm0")
        y = layers.conv(y, f"{name}.depthwise", n_inner, dilation=dilation, groups=n_inner)
        y = norm(layers.prelu(y, f"{name}.slope1"), f"{name}.norm1")
        skip = layers.conv(y, f"{name}.skip", n, 1, gain=0.3)
        skips = skip if skips is None else mb.add(x=skips, y=skip)
        if index < 4:
            x = mb.add(x=x, y=layers.conv(y, f"{name}.out", n, 1, gain=0.3))
    masks = mb.sigmoid(x=layers.conv(layers.prelu(skips, "slope"), "masks", 2 * n, 1, gain=4.0))
    voices = []
    for index, mask in enumerate(mb.split(x=masks, num_splits=2, axis=1)):
        voices.append(
            layers.conv_transpose(
                mb.mul(x=mask, y=frames), f"voice{index}", 1, size, stride=stride, pad=(3, 5)
            )
        )
    return voices[0], voices[1]


def recognizer(layers: Layers, features: Any) -> tuple[Any, Any]:
    """Recognise speech: convolutions, a two-way and a one-way LSTM with a skip, a class per frame.

    Gives the classes' probabilities and how loud each instant is, at four times the frames' rate.
    """
    x = mb.relu(x=layers.batch_norm(layers.conv(features, "first", 24, 5), "norm0"))
    x = mb.tanh(x=layers.conv(x, "second", 24, stride=2, pad=(1, 0)))
    skip = x
    x = mb.transpose(x=x, perm=[2, 0, 1])  # time first
    x = layers.lstm(x, "both", 20, is_bidirectional=True)
    x = layers.linear(layers.layer_norm(x, "norm1"), "narrow", 24)
    x = layers.lstm(x, "forward", 24)
    x = mb.add(x=x, y=mb.transpose(x=skip, perm=[2, 0, 1]))
    classes = layers.linear(x, "classes", 12, gain=4.0)
    back = mb.transpose(x=x, perm=[1, 2, 0])
    loud = mb.elu(x=layers.conv_transpose(back, "double", 12, 5, stride=2, pad=(2, 1)), alpha=1.0)
    loud = layers.conv_transpose(loud, "again", 1, 4, stride=2, pad=(1, 1), gain=1.0)
    return (
        mb.softmax(x=mb.transpose(x=classes, perm=[1, 0, 2]), axis=-1, name="probabilities"),
        mb.softplus(x=mb.mul(x=loud, y=np.float32(0.5)), name="loudness"),
    )
