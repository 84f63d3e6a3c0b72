# SPDX-License-Identifier: BSD-3-Clause
"""The machine that a model runs on, as provenance names it."""

from __future__ import annotations

import platform
import subprocess

import convcal
from convcal.errors import UnavailableError

__all__ = ["chip", "machine_provenance", "operating_system", "without_core_ml"]


def machine_provenance() -> dict[str, str]:
    """Give what the provenance of every runtime says of this machine."""
    return {
        "convcal": convcal.__version__,
        "python": platform.python_version(),
        "os": operating_system(),
        "chip": chip(),
        "machine": platform.machine(),
    }


def without_core_ml() -> UnavailableError:
    """Give the error that says that this is no Mac, and what can be done all the same."""
    return UnavailableError(
        f"Core ML runs on macOS only, and this is {platform.system()}; use the reference runtime "
        "(runtime='reference', --runtime reference), with emulated faults if need be, or record "
        "the outputs on a Mac or in an app and fit from these (convcal capture, convcal fit "
        "--captures)"
    )


def operating_system() -> str:
    """Name the operating system and its version.

    Returns
    -------
    str
        Of macOS with the build, "macOS 15.1 (24B83)", because Core ML changes with it; elsewhere
        the kernel, "Linux 6.8.0".
    """
    if platform.system() != "Darwin":
        return f"{platform.system()} {platform.release()}"
    # platform.mac_ver() reads a file that macOS forges for programs built with an older SDK:
    # 16.0 for 26.0 (python/cpython#135675), 10.16 for 11.0. Apple's own program gets the truth.
    version = _answer("/usr/bin/sw_vers", "-productVersion") or platform.mac_ver()[0]
    build = _answer("/usr/bin/sw_vers", "-buildVersion")
    return f"macOS {version}{f' ({build})' if build else ''}"


def chip() -> str:
    """Name the chip on macOS, "Apple M2" or, in a virtual machine, "Apple M1 (Virtual)".

    Returns
    -------
    str
        Elsewhere the architecture, "x86_64".
    """
    if platform.system() != "Darwin":
        return platform.machine() or "unknown"
    name = _answer("/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string")
    return name or platform.machine() or "unknown"


def _answer(*command: str) -> str:
    """Give what a program says, empty if it does not run."""
    try:
        done = subprocess.run(  # noqa: S603  (programs of the system, by their full path)
            command, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
