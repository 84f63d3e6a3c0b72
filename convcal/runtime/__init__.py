# SPDX-License-Identifier: BSD-3-Clause
"""Run Core ML packages: on Core ML (macOS), or on the reference runtime (every OS)."""

from convcal.runtime.runner import Runner, open_runner, runtime_here

__all__ = ["Runner", "open_runner", "runtime_here"]
