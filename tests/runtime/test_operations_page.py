# SPDX-License-Identifier: BSD-3-Clause
"""The page of operations says what the code and the tests say."""

import importlib.util
from pathlib import Path

from convcal.runtime.translation import OPERATIONS

ROOT = Path(__file__).parents[2]


def load_script():
    path = ROOT / "benchmarks" / "operations.py"
    spec = importlib.util.spec_from_file_location("operations_page", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date_and_has_every_operation():
    text = load_script().page()
    assert set(OPERATIONS) <= set(text.split("`"))
    is_current = text == (ROOT / "docs" / "operations.md").read_text("utf-8")
    assert is_current, "run python benchmarks/operations.py --write-docs"
