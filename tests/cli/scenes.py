# SPDX-License-Identifier: BSD-3-Clause
"""What the tests of the command line share: outputs that are displaced, and a folder's content."""

import hashlib

import numpy as np

FAULT = "crop-origin:variant=zero"


def displaced(shape=(8, 1, 2, 48, 40), *, by=(3, -2), seed=0):
    """Give reference and observed outputs, windows of a larger scene; content displaced."""
    generator = np.random.default_rng(seed)
    margin = 8
    scene = generator.standard_normal((*shape[:-2], *(size + 2 * margin for size in shape[-2:])))

    def window(rows, columns):
        return scene[
            ...,
            margin - rows : margin - rows + shape[-2],
            margin - columns : margin - columns + shape[-1],
        ].astype(np.float32)

    return window(0, 0), window(*by)


def content(folder):
    """Give every file and folder below one, with a hash of what it holds."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in sorted(folder.rglob("*"))
    }
