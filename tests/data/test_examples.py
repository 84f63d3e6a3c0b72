# SPDX-License-Identifier: BSD-3-Clause
import doctest

import pytest

from convcal.data import pictures, sound


@pytest.mark.parametrize("module", [pictures, sound])
def test_the_examples_of_the_docstrings_run(module):
    done = doctest.testmod(module)
    assert done.attempted
    assert not done.failed
