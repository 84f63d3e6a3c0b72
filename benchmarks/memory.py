# SPDX-License-Identifier: BSD-3-Clause
"""Measure how much memory a fit takes, and how fast it goes through a large capture.

    python benchmarks/memory.py                   # about 1 GB, in under a minute
    python benchmarks/memory.py --gigabytes 32
    python benchmarks/memory.py --gigabytes 32 --workers 2

The capture is simulated: windows of scenes displaced by a known shift, with gain, bias and noise,
in float32. A hundred distinct samples are written, and their files linked under other names
until the capture has the size that is asked for: every one is read, decompressed and hashed like
any other, but the disk holds the distinct ones only. To the estimator a linked sample is the
same sample come again. Where thousands of links take long, put them into memory:
``--folder /dev/shm``.

Peak memory is that of a process that does nothing but the fit, as the operating system counts it
(``ru_maxrss``; with workers, of the largest one besides). Exit code 1 where it is above 1 GB or
the shift is not found.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from convcal.data import write_role

SHAPE = (1, 8, 256, 256)
SHIFT = (-2.0, 1.0)
N_DISTINCT = 96
LIMIT = 1e9


def build(path: Path, n_samples: int) -> None:
    """Write a capture of so many samples."""
    n_distinct = min(N_DISTINCT, n_samples)
    names = [f"sample-{index}" for index in range(n_samples)]
    for role in ("reference", "observed"):
        generator = np.random.default_rng(7)
        with write_role(path, role, provenance={"runtime": "simulated"}) as writer:
            for name in names[:n_distinct]:
                writer.append(name, {"y": sample(generator, role)})
    for role in ("reference", "observed"):
        enlarge(path / role, names, n_distinct)


def sample(generator: np.random.Generator, role: str) -> np.ndarray:
    """Give one output; both roles draw the same numbers."""
    rows, columns = (size + 8 for size in SHAPE[2:])
    scene = generator.standard_normal((*SHAPE[:2], rows, columns), dtype=np.float32)
    noise = generator.standard_normal(SHAPE, dtype=np.float32)
    if role == "reference":
        return scene[..., 4:-4, 4:-4].astype(np.float32)
    moved = scene[..., 2 : rows - 6, 5 : columns - 3]
    return (1.25 * moved + 0.5 + 0.01 * noise).astype(np.float32)


def enlarge(role: Path, names: list[str], n_distinct: int) -> None:
    """Link chunks under the indices that are still free, and name them."""
    array = role / "output-0"
    for index in range(n_distinct, len(names)):
        chunk = Path(*("0" for _ in SHAPE))
        source = array / "c" / str(index % n_distinct) / chunk
        target = array / "c" / str(index) / chunk
        target.parent.mkdir(parents=True)
        target.hardlink_to(source)
    for document, change in (
        (array / "zarr.json", lambda record: record["shape"].__setitem__(0, len(names))),
        (role / "zarr.json", lambda record: record["attributes"].update(samples=names)),
    ):
        record = json.loads(document.read_text())
        change(record)
        document.write_text(json.dumps(record))


def fit(path: Path, n_workers: int) -> None:
    """Fit, and print what came of it: the work of the process that is measured."""
    from convcal import FitOptions, fit_captures

    start = time.perf_counter()
    calibration = fit_captures(path, options=FitOptions(max_shift=8), n_jobs=n_workers)
    output = calibration.outputs["y"]
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - start,
                "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
                "peak_worker": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit,
                "shift": output.correction.shift,
                "verdict": output.verdict,
            }
        )
    )


def measure(gigabytes: float, n_workers: int, folder: str | None) -> bool:
    """Print one line; true where memory and shift are as they should be."""
    n_bytes = 2 * 4 * int(np.prod(SHAPE))
    n_samples = max(8, round(gigabytes * 1e9 / n_bytes))
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "simulated.capture"
        build(path, n_samples)
        command = [sys.executable, __file__, "--fit", str(path), "--workers", str(n_workers)]
        environment = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", **os.environ}
        done = subprocess.run(command, check=True, capture_output=True, env=environment)
    found = json.loads(done.stdout)
    total = n_samples * n_bytes
    print(
        f"{total / 1e9:.2f} GB, {n_samples} samples of {SHAPE}, {n_workers} "
        f"worker{'s' if n_workers > 1 else ''}: {found['verdict']}, shift {found['shift']}, "
        f"{found['seconds']:.0f} s, {total / 1e6 / found['seconds']:.0f} MB/s, peak memory "
        f"{found['peak'] / 1e6:.0f} MB"
        + (f", of a worker {found['peak_worker'] / 1e6:.0f} MB" if n_workers > 1 else "")
    )
    return max(found["peak"], found["peak_worker"]) < LIMIT and tuple(found["shift"]) == SHIFT


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.0, help="logical size (default: 1)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--folder", help="where the capture is built (default: a temporary one)")
    parser.add_argument("--fit", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.fit:
        fit(arguments.fit, arguments.workers)
        return 0
    return 0 if measure(arguments.gigabytes, arguments.workers, arguments.folder) else 1


if __name__ == "__main__":
    sys.exit(main())
