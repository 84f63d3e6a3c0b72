# SPDX-License-Identifier: BSD-3-Clause
"""The examples in docstrings give what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

import convcal

ROOT = Path(convcal.__file__).parent
WITH_EXAMPLES = [
    ".".join(("convcal", *path.relative_to(ROOT).with_suffix("").parts))
    for path in sorted(ROOT.rglob("*.py"))
    if ">>> " in path.read_text("utf-8")
]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_the_docstrings_run(name):
    done = doctest.testmod(importlib.import_module(name))
    assert done.attempted
    assert not done.failed
