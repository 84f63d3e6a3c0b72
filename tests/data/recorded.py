# SPDX-License-Identifier: BSD-3-Clause
"""Captures for tests, of few values, with intermediate tensors."""

import numpy as np

from convcal.data import grow_role, open_capture

HERE = {"runtime": "reference", "sha256": "a", "os": "Linux 6"}


def values(sample, *, seed=0):
    """Give outputs and tensors that differ from sample to sample."""
    generator = np.random.default_rng([seed, *sample.encode()])
    outputs = {
        "y": generator.standard_normal((1, 2, 3)).astype(np.float32),
        "label": generator.integers(0, 9, ()).astype(np.int32),
    }
    return outputs, {"inner": generator.standard_normal((2, 5)).astype(np.float16)}


def record(path, role, samples, *, seed=0, digest=str, **provenance):
    """Record a role of such samples."""
    with grow_role(path, role, provenance={**HERE, **provenance}, tensors=("inner",)) as grower:
        for sample in samples:
            outputs, tensors = values(sample, seed=seed)
            grower.append(sample, outputs, tensors=tensors, digest=digest(sample))
    return path


def held(path):
    """Say all that a capture holds, whatever the order of its samples."""
    capture = open_capture(path)
    result = {}
    for role in capture.roles:
        inner = capture._roles[role]
        samples = {
            sample: (
                inner.inputs[inner.index[sample]],
                {
                    name: (array.dtype.str, array[inner.index[sample]].tobytes())
                    for name, array in sorted({**inner.arrays, **inner.tensors}.items())
                },
            )
            for sample in inner.samples
        }
        result[role] = samples, inner.provenance, inner.kinds, sorted(inner.tensors)
    return result
