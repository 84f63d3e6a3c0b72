# SPDX-License-Identifier: BSD-3-Clause
"""Networks of the suite as ONNX models, node by node as PyTorch's exporter writes them.

They share the weights with the ML Programs and nothing else: what they give, and how fast, is what
the original model gives on ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from networks.layers import EPSILON
from networks.network import Network

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Weights = Mapping[str, NDArray[np.float32]]

__all__ = ["ORIGINALS", "original"]

_OPSET = 17


def original(network: Network) -> Any:
    """Give the ONNX model of a network.

    Parameters
    ----------
    network : Network
        One whose name is in `ORIGINALS`, of any input shape.

    Returns
    -------
    onnx.ModelProto
    """
    _, weights = network.program()
    nodes = _Nodes(weights)
    outputs = ORIGINALS[network.name](nodes, network.input_name)
    graph = helper.make_graph(
        nodes.nodes,
        network.name,
        [helper.make_tensor_value_info(network.input_name, TensorProto.FLOAT, network.input_shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        initializer=nodes.initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)


class _Nodes:
    """Collects the nodes and the initializers of a graph."""

    def __init__(self, weights: Weights) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.weights = weights

    def add(self, kind: str, *inputs: str, n: int = 1, to: str | None = None, **attrs: Any) -> Any:
        """Add a node; give the name of its result, or the names of its `n` results."""
        name = to or f"{kind}_{len(self.nodes)}"
        outputs = [name] if n == 1 else [f"{name}.{index}" for index in range(n)]
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, name=name, **attrs))
        return outputs[0] if n == 1 else outputs

    def constant(self, array: NDArray[Any]) -> str:
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def number(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def weight(self, name: str) -> str:
        return self.constant(self.weights[name])

    def conv(self, x: str, name: str, **attributes: Any) -> str:
        """Add a convolution, by default padded by half the kernel."""
        kernel = self.weights[f"{name}.weight"].shape[2:]
        halves = [size // 2 for size in kernel]
        attributes = {"kernel_shape": kernel, "pads": [*halves, *halves], **attributes}
        inputs = (self.weight(f"{name}.weight"), self.weight(f"{name}.bias"))
        return self.add("Conv", x, *inputs, **attributes)

    def conv_transpose(self, x: str, name: str, **attributes: Any) -> str:
        inputs = (self.weight(f"{name}.weight"), self.weight(f"{name}.bias"))
        return self.add("ConvTranspose", x, *inputs, **attributes)

    def batch_norm(self, x: str, name: str) -> str:
        kinds = ("gamma", "beta", "mean", "variance")
        parameters = [self.weight(f"{name}.{kind}") for kind in kinds]
        return self.add("BatchNormalization", x, *parameters, epsilon=EPSILON)

    def layer_norm(self, x: str, name: str) -> str:
        parameters = [self.weight(f"{name}.{kind}") for kind in ("gamma", "beta")]
        return self.add("LayerNormalization", x, *parameters, axis=-1, epsilon=EPSILON)

    def linear(self, x: str, name: str) -> str:
        weight = self.constant(self.weights[f"{name}.weight"].T)
        return self.add("Add", self.weight(f"{name}.bias"), self.add("MatMul", x, weight))

    def lstm(self, x: str, name: str, ways: Sequence[str]) -> str:
        """Add an LSTM over (time, batch, features), and give its sequence in the same order.

        MIL has the gates in the order i, f, o, g; ONNX i, o, f, g.
        """

        def ordered(kind: str) -> NDArray[np.float32]:
            parts = []
            for way in ways:
                i, f, o, g = np.split(self.weights[f"{name}.{kind}{way}"], 4)
                parts.append(np.concatenate([i, o, f, g]))
            return np.stack(parts)

        bias = ordered("bias")
        sequence = self.add(
            "LSTM",
            x,
            self.constant(ordered("weight_ih")),
            self.constant(ordered("weight_hh")),
            self.constant(np.concatenate([bias, np.zeros_like(bias)], axis=1)),
            hidden_size=bias.shape[1] // 4,
            direction="bidirectional" if len(ways) == 2 else "forward",
        )
        sequence = self.add("Transpose", sequence, perm=[0, 2, 1, 3])
        return self.add("Reshape", sequence, self.integers(0, 0, -1))

    def standardized(self, image: str) -> str:
        return self.add("Mul", self.add("Sub", image, self.number(0.5)), self.number(4.0))

    def wider(self, x: str, factor: float) -> str:
        scales = self.constant(np.array([1, 1, factor, factor], np.float32))
        options = {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        }
        return self.add("Resize", x, "", scales, **options)


def _unet(nodes: _Nodes, image: str) -> list[str]:
    def block(x: str, name: str) -> str:
        x = nodes.batch_norm(nodes.conv(x, f"{name}.a"), f"{name}.norm")
        return nodes.add("Relu", nodes.conv(nodes.add("Relu", x), f"{name}.b"))

    x, skips = nodes.standardized(image), []
    for level in range(3):
        x = block(x, f"down{level}")
        skips.append(x)
        x = nodes.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = block(x, "bottom")
    for level in (2, 1, 0):
        x = nodes.conv_transpose(x, f"up{level}", strides=[2, 2], pads=[1, 1, 0, 0])
        x = nodes.add("Concat", x, skips[level], axis=1)
        x = block(nodes.batch_norm(x, f"joined{level}"), f"merge{level}")
    return [nodes.add("Sigmoid", nodes.conv(x, "head"), to="mask")]


def _upsampler(nodes: _Nodes, image: str) -> list[str]:
    def leaky(x: str) -> str:
        return nodes.add("LeakyRelu", x, alpha=0.2)

    def residual(x: str, y: str) -> str:
        return nodes.add("Add", nodes.add("Mul", y, nodes.number(0.2)), x)

    def dense(x: str, name: str) -> str:
        seen = [x]
        for index in range(3):
            joined = seen[0] if index == 0 else nodes.add("Concat", *seen, axis=1)
            seen.append(leaky(nodes.conv(joined, f"{name}.{index}")))
        return residual(x, nodes.conv(nodes.add("Concat", *seen, axis=1), f"{name}.out"))

    first = nodes.conv(nodes.standardized(image), "first")
    x = first
    for index in range(2):
        x = residual(x, dense(dense(x, f"block{index}.dense0"), f"block{index}.dense1"))
    x = nodes.wider(nodes.add("Add", nodes.conv(x, "trunk"), first), 2.0)
    slopes = nodes.constant(nodes.weights["slope.alpha"][:, None, None])
    x = nodes.add("PRelu", nodes.conv(x, "wide"), slopes)
    x = nodes.add("DepthToSpace", nodes.conv(x, "shuffle"), blocksize=2, mode="CRD")
    x = nodes.add("Add", nodes.conv(leaky(x), "last"), nodes.number(0.5))
    return [nodes.add("Clip", x, nodes.number(0.0), nodes.number(1.0), to="upscaled")]


def _transformer(nodes: _Nodes, image: str) -> list[str]:
    patches = nodes.conv(nodes.standardized(image), "patches", strides=[8, 8], pads=[0, 0, 0, 0])
    n = len(nodes.weights["patches.weight"])
    grid = nodes.add("Shape", patches)
    x = nodes.add("Reshape", patches, nodes.integers(1, n, -1))
    x = nodes.add("Transpose", x, perm=[0, 2, 1])
    x = nodes.add("Concat", nodes.weight("class"), x, axis=1)
    x = nodes.add("Add", x, nodes.weight("positions"))
    n_heads = 4
    for index in range(2):
        name = f"block{index}"
        y = nodes.layer_norm(x, f"{name}.norm0")

        def heads(part: str, perm: Sequence[int], y: str = y, name: str = name) -> str:
            z = nodes.linear(y, f"{name}.{part}")
            z = nodes.add("Reshape", z, nodes.integers(1, -1, n_heads, n // n_heads))
            return nodes.add("Transpose", z, perm=perm)

        query, value = (heads(part, [0, 2, 1, 3]) for part in ("query", "value"))
        scores = nodes.add("MatMul", query, heads("key", [0, 2, 3, 1]))
        scores = nodes.add("Mul", scores, nodes.number((n / n_heads) ** -0.5))
        mixed = nodes.add("MatMul", nodes.add("Softmax", scores, axis=-1), value)
        mixed = nodes.add("Transpose", mixed, perm=[0, 2, 1, 3])
        mixed = nodes.add("Reshape", mixed, nodes.integers(1, -1, n))
        x = nodes.add("Add", x, nodes.linear(mixed, f"{name}.mixed"))
        y = nodes.linear(nodes.layer_norm(x, f"{name}.norm1"), f"{name}.wide")
        error = nodes.add("Erf", nodes.add("Div", y, nodes.number(2**0.5)))
        y = nodes.add("Mul", y, nodes.add("Add", error, nodes.number(1.0)))
        y = nodes.add("Mul", y, nodes.number(0.5))
        x = nodes.add("Add", x, nodes.linear(y, f"{name}.narrow"))
    x = nodes.layer_norm(x, "norm")
    chosen = nodes.add("Gather", x, nodes.constant(np.array(0, np.int64)), axis=1)
    others = nodes.add("Slice", x, nodes.integers(1), nodes.integers(2**62), nodes.integers(1))
    others = nodes.add("Reshape", nodes.add("Transpose", others, perm=[0, 2, 1]), grid)
    return [
        nodes.add("Softmax", nodes.linear(chosen, "classes"), axis=-1, to="probabilities"),
        nodes.conv(others, "features", to="features"),
    ]


def _separator(nodes: _Nodes, waveform: str) -> list[str]:
    def norm(x: str, name: str) -> str:
        centred = nodes.add("Sub", x, nodes.add("ReduceMean", x, axes=[1, 2]))
        squares = nodes.add("Pow", centred, nodes.number(2.0))
        variance = nodes.add("ReduceMean", squares, axes=[1, 2])
        root = nodes.add("Sqrt", nodes.add("Add", variance, nodes.number(EPSILON)))
        scaled = nodes.add("Mul", nodes.weight(f"{name}.gamma"), centred)
        return nodes.add("Add", nodes.add("Div", scaled, root), nodes.weight(f"{name}.beta"))

    def prelu(x: str, name: str) -> str:
        return nodes.add("PRelu", x, nodes.weight(f"{name}.alpha"))

    frames = nodes.add("Relu", nodes.conv(waveform, "encoder", strides=[8], pads=[3, 5]))
    x, skips = nodes.conv(norm(frames, "norm"), "bottleneck"), None
    for index in range(5):
        name, dilation = f"block{index}", 2 ** (index % 4)
        y = norm(prelu(nodes.conv(x, f"{name}.in"), f"{name}.slope0"), f"{name}.norm0")
        options = {"dilations": [dilation], "pads": [dilation] * 2, "group": 40}
        y = prelu(nodes.conv(y, f"{name}.depthwise", **options), f"{name}.slope1")
        y = norm(y, f"{name}.norm1")
        skip = nodes.conv(y, f"{name}.skip")
        skips = skip if skips is None else nodes.add("Add", skips, skip)
        if index < 4:
            x = nodes.add("Add", x, nodes.conv(y, f"{name}.out"))
    masks = nodes.add("Sigmoid", nodes.conv(prelu(skips, "slope"), "masks"))
    voices = []
    for index, mask in enumerate(nodes.add("Split", masks, axis=1, n=2)):
        masked = nodes.add("Mul", mask, frames)
        options = {"strides": [8], "pads": [3, 5], "to": f"voice{index}"}
        voices.append(nodes.conv_transpose(masked, f"voice{index}", **options))
    return voices


def _recognizer(nodes: _Nodes, features: str) -> list[str]:
    x = nodes.add("Relu", nodes.batch_norm(nodes.conv(features, "first"), "norm0"))
    skip = nodes.add("Tanh", nodes.conv(x, "second", strides=[2], pads=[1, 0]))
    x = nodes.lstm(nodes.add("Transpose", skip, perm=[2, 0, 1]), "both", ("", "_back"))
    x = nodes.linear(nodes.layer_norm(x, "norm1"), "narrow")
    x = nodes.lstm(x, "forward", ("",))
    x = nodes.add("Add", x, nodes.add("Transpose", skip, perm=[2, 0, 1]))
    classes = nodes.add("Transpose", nodes.linear(x, "classes"), perm=[1, 0, 2])
    loud = nodes.add("Transpose", x, perm=[1, 2, 0])
    loud = nodes.add("Elu", nodes.conv_transpose(loud, "double", strides=[2], pads=[2, 1]))
    loud = nodes.conv_transpose(loud, "again", strides=[2], pads=[1, 1])
    return [
        nodes.add("Softmax", classes, axis=-1, to="probabilities"),
        nodes.add("Softplus", nodes.add("Mul", loud, nodes.number(0.5)), to="loudness"),
    ]


ORIGINALS: dict[str, Callable[[_Nodes, str], list[str]]] = {
    "recognizer": _recognizer,
    "separator": _separator,
    "transformer": _transformer,
    "unet": _unet,
    "upsampler": _upsampler,
}
"""The networks that there is an ONNX model of, by name."""
