# SPDX-License-Identifier: BSD-3-Clause
import shutil

import pytest
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
