# SPDX-License-Identifier: BSD-3-Clause
"""Models as the calibration data see them, and what must not change in a folder."""

import contextlib
import hashlib

import pytest

from convcal.model_description import Feature, ModelDescription


def model(*inputs):
    return ModelDescription(inputs=inputs, outputs=(Feature("y", "tensor", (1, 1), "float32"),))


def tensor(shape, *, name="x", dtype="float32", is_flexible=False, **details):
    return Feature(name, "tensor", shape, dtype, is_flexible, **details)


def image(height, width, *, colour="RGB", dtype="uint8"):
    is_grey = colour == "GRAYSCALE"
    shape = (height, width) if is_grey else (height, width, 3)
    layout = "HW" if is_grey else "HWC"
    return Feature("picture", "image", shape, dtype, colour=colour, layout=layout)


def content(folder):
    """Say what a folder holds, down to the bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else None
        for path in folder.rglob("*")
    }


@contextlib.contextmanager
def unchanged(folder):
    before = content(folder)
    yield
    assert content(folder) == before


@contextlib.contextmanager
def refused(folder, *parts, error):
    """Expect an error that names all `parts`, and a folder that is as it was."""
    with unchanged(folder), pytest.raises(error) as caught:
        yield
    for part in parts:
        assert part in str(caught.value), f"{part!r} is not in {caught.value}"
    assert str(caught.value)[0].islower() or str(caught.value)[0] == "'"
