# SPDX-License-Identifier: BSD-3-Clause
import functools
import shutil

import pytest
from coreml.corrections import LAYOUTS
from coreml.models import save_package, weighted


@pytest.fixture(scope="session")
def _saved(tmp_path_factory):
    """One fp32 package with weights, made once."""
    path = tmp_path_factory.mktemp("packages") / "model.mlpackage"
    return save_package(path, weighted, shape=(1, 3, 8, 9))


@pytest.fixture
def model_path(_saved, tmp_path):
    """A copy of that package, to be damaged."""
    return shutil.copytree(_saved, tmp_path / "model.mlpackage")


@pytest.fixture(scope="session")
def layout_path(tmp_path_factory):
    """Give packages that return their input, one per layout and dtype; not to be written to."""
    folder = tmp_path_factory.mktemp("layouts")

    @functools.cache
    def save(layout, dtype):
        return save_package(
            folder / f"{layout}-{dtype}.mlpackage",
            lambda mb, x: mb.identity(x=x, name="out"),
            shape=LAYOUTS[layout][0],
            dtype="fp16" if dtype == "float16" else "fp32",
            target="iOS16" if dtype == "float16" else "iOS15",
        )

    return save
