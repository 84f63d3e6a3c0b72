# SPDX-License-Identifier: BSD-3-Clause
"""Measure the reference runtime against its targets: speed, translation time and memory.

    python benchmarks/runtime.py [PART ...] [--full] [--write-docs]

The quick form takes under a minute; ``--full`` takes more runs and larger weights. Each line names
the figure, the target and whether it is met. Exit code 1 where a target is missed.
``--write-docs`` writes the table, ``docs/runtime-figures.md``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from cases import Row
from networks import NETWORKS, PRECISIONS, Network
from networks.layers import Layers, mb
from networks.originals import ORIGINALS, original

from convcal.coreml.package import read_package
from convcal.coreml.program import load_program
from convcal.runtime.execution import ExecutableProgram, load_onnxruntime
from convcal.runtime.reference import ReferenceRunner

__all__ = ["WEIGHTY", "peak_memory"]

DOCS = Path(__file__).parents[1] / "docs"
RATIO = 1.3
SECONDS = 2.0
SHARE = 1.5
LEAST_TURNS = 15

EXPLAINED = """\
How to read it:

- Speed: the fp32 package in a `ReferenceRunner` and the network's ONNX original, written by hand
  with the same weights, in a session of ONNX Runtime with the same number of threads, which do not
  spin in either. Both run the same samples by turns in one process. With one thread the medians of
  its processor time are compared; with all threads, which other work on the machine holds up, the
  fastest turns. Of the fp16 package, every result of which is rounded to fp16, the same ratio
  stands beside, without a target.
- Translation: from the package's path to what can run, once coremltools, onnx and ONNX Runtime are
  imported. It is one thread's work; what counts is processor time, the median of a few times.
- Memory: the peak of a fresh process that opens the package and runs it once, as Linux counts it
  (`VmHWM`), less what it took before it opened the package (it had opened a small one, so
  that all is imported), over the size of the weights. The runtime computes in fp32, so the weights
  at compute precision are fp32, also those of an fp16 package. Activations are below 1 MB.
"""

# Large enough that a run takes milliseconds.
SHAPES = {
    "recognizer": (1, 20, 1216),
    "separator": (1, 1, 16008),
    "transformer": (1, 3, 112, 160),
    "unet": (1, 3, 176, 208),
    "upsampler": (1, 3, 72, 88),
}


def speed(is_full: bool) -> list[Row]:
    """Compare with ONNX Runtime on the original ONNX models."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ORIGINALS:
            network = replace(NETWORKS[name], input_shape=SHAPES[name])
            paths = [network.build(Path(folder), precision) for precision in PRECISIONS]
            packages = [read_package(path) for path in paths]
            model = original(network).SerializeToString()
            budget = 10.0 if is_full else 1.0
            rows += [_compared(network, model, packages, threads, budget) for threads in (1, None)]
    return rows


def _compared(
    network: Network, model: bytes, packages: list[Any], threads: int | None, budget: float
) -> Row:
    """Run the original and the packages by turns, for about `budget` seconds."""
    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    # As in the reference runtime: threads that spin take the cores from the session that is next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    runners = [ReferenceRunner(package, threads=threads) for package in packages]
    runs: list[Callable[[Any], Any]] = [
        lambda sample: session.run(None, sample),
        *(runner.run for runner in runners),
    ]
    samples = network.samples(4)
    results = [run(samples[0]) for run in runs]
    names = [output.name for output in session.get_outputs()]
    for output, array in zip(names, results[0], strict=True):
        np.testing.assert_allclose(results[1][output], array, rtol=1e-4, atol=1e-5)
    # Other work on the machine does not count where all is done in this thread.
    clock = time.thread_time if threads == 1 else time.perf_counter
    turns: list[list[float]] = []
    end = time.perf_counter() + budget
    while len(turns) < LEAST_TURNS or time.perf_counter() < end:
        turn = [0.0] * len(runs)
        for step in range(len(runs)):
            index = (step + len(turns)) % len(runs)
            start = clock()
            runs[index](samples[len(turns) % len(samples)])
            turn[index] = clock() - start
        turns.append(turn)
    seconds = np.array(turns)
    typical = np.median(seconds, axis=0) if threads == 1 else np.min(seconds, axis=0)
    fp32, fp16 = typical[1:] / typical[0]
    shape = "x".join(str(length) for length in network.input_shape[1:])
    return Row(
        f"{network.name} {shape}, {'1 thread' if threads == 1 else 'all threads'}",
        f"{fp32:.2f} times the original's {typical[0] * 1e3:.1f} ms (fp16 {fp16:.2f})",
        f"at most {RATIO}",
        is_met=bool(fp32 <= RATIO),
    )


def translation(is_full: bool) -> list[Row]:
    """Time each step from a package of 500 operations to what can run."""
    rows = []
    for precision in PRECISIONS:
        with tempfile.TemporaryDirectory() as folder:
            path = LONG.build(Path(folder), precision)
            times: dict[str, list[float]] = {}
            for _ in range(5 if is_full else 3):
                clock = time.process_time
                marks = [clock()]
                package = read_package(path)
                marks.append(clock())
                program = load_program(package)
                marks.append(clock())
                ExecutableProgram(program, threads=1)
                marks.append(clock())
                steps = ("read the package", "load the program", "translate and make the session")
                for step, value in zip(steps, np.diff(marks), strict=True):
                    times.setdefault(step, []).append(value)
            typical = {step: float(np.median(values)) for step, values in times.items()}
            parts = ", ".join(f"{step} {value:.2f} s" for step, value in typical.items())
            total = sum(typical.values())
            rows.append(
                Row(
                    f"{len(program.operations)} operations, {precision}",
                    f"{total:.2f} s ({parts})",
                    f"below {SECONDS:.0f} s",
                    is_met=bool(total < SECONDS),
                )
            )
    return rows


def _long(layers: Layers, image: Any) -> Any:
    """Add 500 operations of several kinds, with skips."""
    x = layers.conv(image, "first", 16)
    for index in range(62):
        y = layers.batch_norm(x, f"norm{index}")
        y = mb.silu(x=layers.conv(y, f"in{index}", 16, gain=1.0))
        left, right = mb.split(x=y, num_splits=2, axis=1)
        y = mb.concat(values=[mb.tanh(x=left), right], axis=1)
        x = mb.add(x=x, y=layers.conv(y, f"out{index}", 16, 1, gain=0.05))
    return mb.sigmoid(x=x, name="result")


LONG = Network("long", "500 operations", _long, (1, 3, 24, 40))


def memory(is_full: bool) -> list[Row]:
    """Measure the peak of fresh processes."""
    rows = []
    megabytes = 400 if is_full else 200
    for name in WEIGHTY if is_full else ("pictures", "matrices"):
        for precision in PRECISIONS:
            share = peak_memory(name, precision, megabytes)
            rows.append(
                Row(
                    f"{name}, {megabytes} MB of weights at fp32, {precision}",
                    f"{share:.2f} of the weights",
                    f"at most {SHARE}",
                    is_met=share <= SHARE,
                )
            )
    return rows


def _pictures(layers: Layers, name: str, x: Any) -> Any:
    return layers.conv(x, name, x.shape[1], 3, gain=0.05)


def _enlarged(layers: Layers, name: str, x: Any) -> Any:
    wide = layers.conv_transpose(x, name, x.shape[1], 3, stride=2, pad=(1, 0, 1, 0), gain=0.05)
    return mb.max_pool(x=wide, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid")


def _matrices(layers: Layers, name: str, x: Any) -> Any:
    return layers.linear(x, name, x.shape[-1], gain=0.05)


WEIGHTY: dict[str, tuple[Callable[[Layers, str, Any], Any], tuple[int, ...], int]] = {
    "pictures": (_pictures, (1, 256, 9, 9), 256 * 256 * 9),
    "sounds": (_pictures, (1, 512, 24), 512 * 512 * 3),
    "transposed": (_enlarged, (1, 512, 5, 5), 512 * 512 * 9),
    "matrices": (_matrices, (1, 32, 1024), 1024 * 1024),
}
"""Networks that are weights above all: a layer, the shape between layers, weights per layer."""


def peak_memory(name: str, precision: str, megabytes: int) -> float:
    """Open and run a network of many weights in a fresh process.

    Parameters
    ----------
    name : str
        A key of `WEIGHTY`.
    precision : str
        The package's.
    megabytes : int
        Of weights, at fp32, about.

    Returns
    -------
    float
        Peak memory beyond what was there before, over the weights at fp32.
    """
    layer, shape, n_weights = WEIGHTY[name]
    n_layers = max(1, round(megabytes * 1e6 / (4 * n_weights)))

    def program(layers: Layers, features: Any) -> Any:
        x = features
        for index in range(n_layers):
            x = mb.add(x=x, y=mb.relu(x=layer(layers, f"layer{index}", x)))
        return x

    with tempfile.TemporaryDirectory() as folder:
        small = NETWORKS["recognizer"].build(Path(folder), precision)
        large = Network(name, name, program, shape).build(Path(folder), precision)
        command = [sys.executable, __file__, "--child", str(small), str(large)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return int(done.stdout) / (4 * n_weights * n_layers)


def _child(small: str, large: str) -> None:
    """Open and run two packages; print the peak of the second: the work that is measured."""

    def run(path: str) -> None:
        with ReferenceRunner(read_package(path)) as runner:
            (feature,) = runner.description.inputs
            runner.run({feature.name: np.ones(feature.shape, np.float32)})

    run(small)
    before = _memory("VmRSS")
    run(large)
    print(_memory("VmHWM") - before)


def _memory(kind: str) -> int:
    """Give a figure of this process in bytes, as Linux counts it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{kind}:"))
    return int(line.split()[1]) * 1024


PARTS: dict[str, Callable[[bool], list[Row]]] = {
    "speed": speed,
    "translation": translation,
    "memory": memory,
}


def measure(parts: list[str], *, is_full: bool) -> list[Row]:
    """Run some parts, print their lines, and give them."""
    rows: list[Row] = []
    for part in parts:
        start = time.perf_counter()
        found = PARTS[part](is_full)
        print(f"{part} ({time.perf_counter() - start:.1f} s)", flush=True)
        for row in found:
            print(
                f"  {'met' if row.is_met else 'MISSED':7}{row.name}: {row.figure}   [{row.target}]"
            )
        rows += found
    return rows


def write_table(rows: list[Row], *, is_full: bool) -> None:
    """Write what was measured to ``docs/runtime-figures.md``."""
    command = f"python benchmarks/runtime.py{' --full' if is_full else ''} --write-docs"
    lines = [
        "# Figures of the reference runtime",
        "",
        f"Written by `{command}`.",
        "",
        EXPLAINED,
        "| | measured | target | |",
        "|---|---|---|---|",
    ]
    for row in rows:
        state = "met" if row.is_met else "**missed**"
        lines.append(f"| {row.name} | {row.figure} | {row.target} | {state} |")
    (DOCS / "runtime-figures.md").write_text("\n".join([*lines, ""]), encoding="utf-8")


def main() -> int:
    """Run what the command line names; give the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all"
    )
    parser.add_argument("--full", action="store_true", help="more runs, larger weights")
    parser.add_argument("--write-docs", action="store_true", help="write the table")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        _child(*given.child)
        return 0
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if given.write_docs and given.parts:
        parser.error("--write-docs writes all parts; leave the names out")
    rows = measure([p for p in PARTS if p in (given.parts or PARTS)], is_full=given.full)
    if given.write_docs:
        write_table(rows, is_full=given.full)
    missed = [row.name for row in rows if not row.is_met]
    print(f"{len(missed)} of {len(rows)} targets missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
