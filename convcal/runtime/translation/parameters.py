# SPDX-License-Identifier: BSD-3-Clause
"""Parameters of operations, as the translations know them."""

from convcal.coreml.parameters import flags, number, static_shape, text

__all__ = ["flags", "number", "static_shape", "text"]
