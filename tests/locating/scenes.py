# SPDX-License-Identifier: BSD-3-Clause
"""A small network of every kind of step, with its packages and samples."""

import numpy as np
from networks.network import Function, Program, convert
from programs import ct, mb

SHAPE = (1, 3, 24, 28)


def weights(rng, *shape):
    """Draw weights that keep the size of what they are applied to."""
    fan_in = int(np.prod(shape[1:]))
    return (rng.standard_normal(shape) / np.sqrt(fan_in / 2)).astype(np.float32)


def layers(x, *, change=lambda name, array: array):
    """Eight steps in a row, a branch and a residual; `change` sees all weights."""
    rng = np.random.default_rng(0)

    def conv(x, name, n_channels, **options):
        weight = change(name, weights(rng, n_channels, x.shape[1], 3, 3))
        return mb.conv(x=x, weight=weight, pad_type="same", name=name, **options)

    x = conv(x, "first", 8)
    x = mb.leaky_relu(x=x, alpha=0.1, name="bent")
    skipped = conv(x, "side", 8)
    x = conv(x, "second", 8)
    x = mb.tanh(x=x, name="curved")
    x = mb.add(x=x, y=skipped, name="joined")
    x = mb.max_pool(x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid", name="pooled")
    x = conv(x, "third", 12)
    x = mb.upsample_nearest_neighbor(
        x=x, scale_factor_height=2, scale_factor_width=2, name="enlarged"
    )
    return conv(x, "out", 4)


def build(path, build_layers=layers, *, shape=SHAPE, precision="fp16", **options):
    """Convert layers and save the package."""
    with Function({"image": mb.TensorSpec(shape=shape)}, ct.target.iOS15) as function:
        result = build_layers(function.inputs["image"], **options)
        function.set_outputs(list(result) if isinstance(result, tuple) else [result])
    program = Program()
    program.add_function("main", function)
    return convert(program, path, precision)


def samples(n=4, *, shape=SHAPE, seed=0):
    """Draw smooth pictures."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[-2], : shape[-1]]
    found = []
    for _ in range(n):
        waves = rng.uniform(0.05, 0.5, (shape[1], 5, 2))
        phases = rng.uniform(0, 6, (shape[1], 5, 1, 1))
        angles = waves[..., :1, None] * rows + waves[..., 1:, None] * columns + phases
        picture = np.sin(angles).sum(axis=1) / 3 + 0.02 * rng.standard_normal(shape[1:])
        found.append({"image": picture[None].astype(np.float32)})
    return found
