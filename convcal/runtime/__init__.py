# SPDX-License-Identifier: BSD-3-Clause
"""Run Core ML packages: on Core ML (macOS), or on the reference runtime (every OS)."""

from convcal.runtime.runner import PackageRunner, Runner, open_runner, runtime_here
from convcal.runtime.state import State

__all__ = ["PackageRunner", "Runner", "State", "open_runner", "runtime_here"]
