# SPDX-License-Identifier: BSD-3-Clause
"""The packages of the small network, made once."""

from types import SimpleNamespace

import pytest
from locating.scenes import build


@pytest.fixture(autouse=True)
def _reference_runtime(monkeypatch):
    """Let auto mean the reference runtime on a Mac too: none of these tests is about Core ML."""
    monkeypatch.setattr("convcal.runtime.runner.sys", SimpleNamespace(platform="linux"))


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """The packages in fp32 and in fp16, not to be written to."""
    folder = tmp_path_factory.mktemp("packages")
    return tuple(
        build(folder / f"{precision}.mlpackage", precision=precision)
        for precision in ("fp32", "fp16")
    )
