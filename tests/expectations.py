# SPDX-License-Identifier: BSD-3-Clause
"""What tests of the estimation expect of a result."""


def assert_identity(result):
    assert result.model == "identity"
    assert not any(result.shift)
    assert set(result.gain) == {1.0}
    assert set(result.bias) == {0.0}
    assert all(taps == (1.0,) and offset == 0 for offset, taps in result.filters)
