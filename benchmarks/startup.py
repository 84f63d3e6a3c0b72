# SPDX-License-Identifier: BSD-3-Clause
"""Measure how long the command line and ``import convcal`` take to start.

    python benchmarks/startup.py

The best of several fresh processes is compared with its limit: other work on the machine adds to
a time and never takes away. Exit code 1 where a limit is exceeded. A bare interpreter is measured
beside them and, where Typer is installed, the help of a small verb in Typer: the command line is
built on argparse because of the difference.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time

N_RUNS = 15
MAIN = "import sys; from convcal.cli import main; sys.exit(main(sys.argv[1:]))"
TYPER = """
import typer
app = typer.Typer()
@app.command()
def fit(reference: str, observed: str, data: str = "", holdout: float = 0.25, force: bool = False):
    'Find the correction.'
app()
"""
CASES: dict[str, tuple[list[str], float | None]] = {
    "python -c pass": (["-c", "pass"], None),
    "import convcal": (["-c", "import convcal"], 0.25),
    "convcal --help": (["-c", MAIN, "--help"], 0.3),
    "convcal fit --help": (["-c", MAIN, "fit", "--help"], 0.3),
    "convcal --version": (["-c", MAIN, "--version"], 0.3),
}
if importlib.util.find_spec("typer"):
    CASES["fit --help in Typer"] = (["-c", TYPER, "--help"], None)


def seconds(arguments: list[str]) -> float:
    """Time a fresh interpreter, its start and end included."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def measure() -> bool:
    """Print a line per case; true where all are within their limits."""
    all_within = True
    for name, (arguments, limit) in CASES.items():
        times = sorted(seconds(arguments) for _ in range(N_RUNS))
        within = limit is None or times[0] < limit
        all_within &= within
        told = "" if limit is None else f"  limit {limit:.2f} s{'' if within else '  EXCEEDED'}"
        print(f"{name:<20} best {times[0]:.3f} s  median {times[N_RUNS // 2]:.3f} s{told}")
    return all_within


if __name__ == "__main__":
    sys.exit(0 if measure() else 1)
