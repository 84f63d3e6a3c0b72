# SPDX-License-Identifier: BSD-3-Clause
"""Networks that take a picture: segmentation, text detection, upsampling, detection, a transformer.

Each function adds a network's operations to a MIL program and returns its outputs. None of the
row lengths is a multiple of 32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from networks.layers import Layers, mb

__all__ = ["detector", "text_detector", "transformer", "unet", "upsampler"]


def standardized(image: Any) -> Any:
    """Take a picture in [0, 1] to mean 0 and deviation 1, about."""
    return mb.mul(x=mb.sub(x=image, y=np.float32(0.5)), y=np.float32(4.0), name="standardized")


def unet(layers: Layers, image: Any) -> Any:
    """Segment, after Ronneberger et al. (2015): 2-wide transposed convolutions with skips.

    The transposed convolutions have 3 taps, a pad of 1 in front and none at the back, as the
    conversion of TensorFlow's ``same`` or of PyTorch's ``output_padding`` makes them.
    """

    def block(x: Any, name: str, n: int) -> Any:
        x = mb.relu(x=layers.batch_norm(layers.conv(x, f"{name}.a", n), f"{name}.norm"))
        return mb.relu(x=layers.conv(x, f"{name}.b", n))

    x, skips = standardized(image), []
    for level, n in enumerate((12, 20, 32)):
        x = block(x, f"down{level}", n)
        skips.append(x)
        x = mb.max_pool(x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid")
    x = block(x, "bottom", 48)
    for level, n in ((2, 32), (1, 20), (0, 12)):
        x = layers.conv_transpose(x, f"up{level}", n, 3, stride=2, pad=(1, 0, 1, 0), gain=1.0)
        x = mb.concat(values=[x, skips[level]], axis=1)
        # Behind a concatenation there is no convolution that coremltools could merge it into.
        x = layers.batch_norm(x, f"joined{level}")
        x = block(x, f"merge{level}", n)
    return mb.sigmoid(x=layers.conv(x, "head", 2, 1, gain=1.0), name="mask")


def text_detector(layers: Layers, image: Any) -> tuple[Any, Any, Any]:
    """Detect text, after Liao et al. (2020): a feature pyramid, and heads that sharpen it.

    Gives the probability map, the threshold map, and their difference made steep.
    """

    def hard_swish(x: Any) -> Any:
        return mb.mul(x=x, y=mb.sigmoid_hard(x=x, alpha=1 / 6, beta=0.5))

    x = hard_swish(layers.conv(standardized(image), "stem", 8, stride=2))
    stages = []
    for stage, n in enumerate((12, 20, 32)):
        down = hard_swish(layers.conv(x, f"stage{stage}.down", n, stride=2, pad=(0, 1, 0, 1)))
        inner = hard_swish(
            layers.batch_norm(
                layers.conv(down, f"stage{stage}.depthwise", n, 5, groups=n), f"stage{stage}.norm"
            )
        )
        gate = mb.reduce_mean(x=inner, axes=[2, 3], keep_dims=True)
        gate = mb.sigmoid(x=layers.conv(gate, f"stage{stage}.gate", n, 1))
        x = mb.add(
            x=down, y=layers.conv(mb.mul(x=inner, y=gate), f"stage{stage}.out", n, 1, gain=1.0)
        )
        stages.append(x)
    n = 12
    level = layers.conv(stages[2], "lateral2", n, 1, gain=1.0)
    pyramid = [level]
    for stage in (1, 0):
        wider = mb.upsample_nearest_neighbor(
            x=level, scale_factor_height=2.0, scale_factor_width=2.0
        )
        level = mb.add(x=wider, y=layers.conv(stages[stage], f"lateral{stage}", n, 1, gain=1.0))
        pyramid.append(layers.conv(level, f"smooth{stage}", n, gain=0.5))
    wide = [
        mb.upsample_nearest_neighbor(
            x=each, scale_factor_height=float(factor), scale_factor_width=float(factor)
        )
        for each, factor in zip(pyramid[:2], (4, 2), strict=True)
    ]
    fused = mb.concat(values=[*wide, pyramid[2]], axis=1)

    def head(name: str) -> Any:
        y = layers.conv(fused, f"{name}.conv", n)
        y = mb.relu(x=layers.batch_norm(y, f"{name}.norm"))
        y = layers.conv_transpose(y, f"{name}.up", n // 2, 3, stride=2, pad=(0, 1, 0, 1))
        y = mb.relu(x=y)
        y = layers.conv_transpose(y, f"{name}.out", 1, 4, stride=2, pad=(1, 1, 1, 1), gain=1.0)
        return mb.sigmoid(x=y, name=name)

    probability, threshold = head("probability"), head("threshold")
    steep = mb.mul(x=mb.sub(x=probability, y=threshold), y=np.float32(50.0))
    return probability, threshold, mb.sigmoid(x=steep, name="binary")


def upsampler(layers: Layers, image: Any) -> Any:
    """Upsample four times, after Wang et al. (ESRGAN, 2018): dense blocks within residuals."""
    n, growth = 16, 8

    def leaky(x: Any) -> Any:
        return mb.leaky_relu(x=x, alpha=0.2)

    def dense(x: Any, name: str) -> Any:
        seen = [x]
        for index in range(3):
            joined = seen[0] if index == 0 else mb.concat(values=seen, axis=1)
            seen.append(leaky(layers.conv(joined, f"{name}.{index}", growth)))
        out = layers.conv(mb.concat(values=seen, axis=1), f"{name}.out", n, gain=1.0)
        return mb.add(x=mb.mul(x=out, y=np.float32(0.2)), y=x)

    first = layers.conv(standardized(image), "first", n, gain=1.0)
    x = first
    for block in range(2):
        inner = x
        for index in range(2):
            inner = dense(inner, f"block{block}.dense{index}")
        x = mb.add(x=mb.mul(x=inner, y=np.float32(0.2)), y=x)
    x = mb.add(x=layers.conv(x, "trunk", n, gain=0.5), y=first)
    x = mb.upsample_nearest_neighbor(x=x, scale_factor_height=2.0, scale_factor_width=2.0)
    x = layers.prelu(layers.conv(x, "wide", n), "slope")
    x = mb.pixel_shuffle(x=layers.conv(x, "shuffle", 4 * growth), upscale_factor=2)
    x = leaky(x)
    return mb.clip(
        x=mb.add(x=layers.conv(x, "last", 3, gain=0.05), y=np.float32(0.5)),
        alpha=0.0,
        beta=1.0,
        name="upscaled",
    )


def detector(layers: Layers, image: Any) -> tuple[Any, Any, Any]:
    """Detect objects at three scales, after YOLO: features down, up and down again, then heads.

    Gives boxes, scores and a map of how much is an object, as large as the picture.
    """

    def silu(x: Any, name: str, n: int, size: int = 3, **options: Any) -> Any:
        return mb.silu(x=layers.conv(x, name, n, size, **options))

    def split_block(x: Any, name: str, n: int) -> Any:
        left, right = mb.split(x=silu(x, f"{name}.in", n, 1), num_splits=2, axis=1)
        inner = silu(silu(right, f"{name}.a", n // 2), f"{name}.b", n // 2)
        joined = mb.concat(values=[left, right, mb.add(x=right, y=inner)], axis=1)
        return silu(joined, f"{name}.out", n, 1)

    x = silu(standardized(image), "stem", 8, stride=2)
    fine = split_block(silu(x, "down0", 16, stride=2), "stage0", 16)
    middle = split_block(silu(fine, "down1", 24, stride=2), "stage1", 24)
    coarse = silu(middle, "down2", 32, stride=2)
    pools = [coarse]
    for _ in range(2):
        pools.append(
            mb.max_pool(
                x=pools[-1], kernel_sizes=[5, 5], strides=[1, 1], pad_type="custom", pad=[2] * 4
            )
        )
    coarse = silu(mb.concat(values=pools, axis=1), "pooled", 32, 1)

    wider = mb.upsample_nearest_neighbor(x=coarse, scale_factor_height=2.0, scale_factor_width=2.0)
    middle = split_block(mb.concat(values=[wider, middle], axis=1), "up1", 24)
    wider = mb.upsample_bilinear(
        x=middle, scale_factor_height=2.0, scale_factor_width=2.0, align_corners=False
    )
    fine = split_block(mb.concat(values=[wider, fine], axis=1), "up0", 16)
    lower = silu(fine, "again1", 24, stride=2)
    middle = silu(mb.concat(values=[lower, middle], axis=1), "merge1", 24, 1)
    lower = silu(middle, "again2", 32, stride=2)
    coarse = silu(mb.concat(values=[lower, coarse], axis=1), "merge2", 32, 1)

    boxes, scores = [], []
    for level, features in enumerate((fine, middle, coarse)):
        for kind, n, found in (("box", 4, boxes), ("score", 5, scores)):
            inner = silu(features, f"{kind}{level}.a", 16)
            values = layers.conv(inner, f"{kind}{level}.b", n, 1, gain=1.0)
            found.append(mb.reshape(x=values, shape=[1, n, -1]))
    objectness = layers.conv(fine, "objectness", 1, gain=1.0)
    objectness = mb.resize_bilinear(
        x=objectness,
        target_size_height=image.shape[2],
        target_size_width=image.shape[3],
        sampling_mode="STRICT_ALIGN_CORNERS",
    )
    return (
        mb.softplus(x=mb.concat(values=boxes, axis=2), name="boxes"),
        mb.sigmoid(x=mb.concat(values=scores, axis=2), name="scores"),
        mb.sigmoid(x=objectness, name="objects"),
    )


def transformer(layers: Layers, image: Any) -> tuple[Any, Any]:
    """Classify patches, after Dosovitskiy et al. (2021); gives class scores and a patch map.

    The first block has its attention in single steps, the second as one operation.
    """
    n, n_heads = 48, 4
    patches = layers.conv(
        standardized(image), "patches", n, 8, stride=8, pad=(0, 0, 0, 0), gain=0.05
    )
    rows, columns = patches.shape[2:]
    x = mb.transpose(x=mb.reshape(x=patches, shape=[1, n, -1]), perm=[0, 2, 1])
    first = layers.normal("class", (1, 1, n), 0.5)
    x = mb.concat(values=[first, x], axis=1)
    x = mb.add(x=x, y=layers.normal("positions", (1, rows * columns + 1, n), 0.5))
    for index in range(2):
        name = f"block{index}"
        y = layers.layer_norm(x, f"{name}.norm0")
        query, key, value = (
            mb.transpose(
                x=mb.reshape(
                    x=layers.linear(y, f"{name}.{part}", n), shape=[1, -1, n_heads, n // n_heads]
                ),
                perm=[0, 2, 1, 3],
            )
            for part in ("query", "key", "value")
        )
        if index == 0:
            scores = mb.matmul(x=query, y=key, transpose_y=True)
            scores = mb.mul(x=scores, y=np.float32((n / n_heads) ** -0.5))
            mixed = mb.matmul(x=mb.softmax(x=scores, axis=-1), y=value)
        else:
            mixed = mb.scaled_dot_product_attention(query=query, key=key, value=value)
        mixed = mb.reshape(x=mb.transpose(x=mixed, perm=[0, 2, 1, 3]), shape=[1, -1, n])
        x = mb.add(x=x, y=layers.linear(mixed, f"{name}.mixed", n))
        y = layers.linear(layers.layer_norm(x, f"{name}.norm1"), f"{name}.wide", 3 * n, gain=2.0)
        x = mb.add(x=x, y=layers.linear(mb.gelu(x=y, mode="EXACT"), f"{name}.narrow", n))
    x = layers.layer_norm(x, "norm")
    chosen = mb.slice_by_index(
        x=x, begin=[0, 0, 0], end=[1, 1, n], squeeze_mask=[False, True, False]
    )
    others = mb.slice_by_index(x=x, begin=[0, 1, 0], end=[1, rows * columns + 1, n])
    grid = mb.reshape(x=mb.transpose(x=others, perm=[0, 2, 1]), shape=[1, n, rows, columns])
    return (
        mb.softmax(x=layers.linear(chosen, "classes", 10), axis=-1, name="probabilities"),
        layers.conv(grid, "features", 8, gain=1.0),
    )
