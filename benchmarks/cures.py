# SPDX-License-Identifier: BSD-3-Clause
"""What corrections and rewrites bring back where the operation at fault lies inside the network.

    python benchmarks/cures.py                # measure and judge
    python benchmarks/cures.py --write-docs   # ... and write docs/cures.md

A network conv_transpose -> conv -> conv -> sigmoid with unequal pads runs under the emulated fault
of apple/coremltools #2324 (crop-origin). Corrections are fitted on half of the samples; everything
is measured on the other half, against the fp32 network without the fault. The exit code is 1 where
a rewrite leaves more of the whole output than fp16 does without the fault.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import coremltools as ct  # noqa: TID251 - a script, no part of the package
import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813, TID251
from numpy.typing import NDArray
from pages import put_between

from convcal import OutputCalibrator, inspect, rewrite
from convcal.coreml.costs import Cost, cost_of
from convcal.coreml.package import read_package
from convcal.coreml.program import Program, load_program
from convcal.errors import ConvcalWarning
from convcal.runtime import open_runner
from convcal.runtime.execution import ExecutableProgram
from convcal.words import STRATEGIES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DOCS = Path(__file__).resolve().parents[1] / "docs" / "cures.md"
MARKS = ("<!-- benchmarks/cures.py writes what follows -->", "<!-- to here -->")
FAULT = "crop-origin:variant=zero"
N_SAMPLES, SIZE, CHANNELS = 32, 32, 8
# What lies nearer to the border than that depends on positions that the shift loses.
MARGIN = 4
# A rewrite may differ from fp16 without the fault by how its sums are rounded.
SLACK_DB = 1.0


@dataclass(frozen=True)
class Row:
    """One way to run the network, measured."""

    name: str
    whole_db: float
    inside_db: float
    largest: float
    cost: Cost | None = None


def build(folder: Path) -> tuple[Path, Path]:
    """Write the network in fp32 and in fp16."""
    generator = np.random.default_rng(2324)

    def weight(*shape: int, fan_in: int) -> NDArray[np.float32]:
        scale = np.sqrt(2 / fan_in)
        return (scale * generator.standard_normal(shape)).astype(np.float32)

    up = weight(4, CHANNELS, 4, 4, fan_in=4 * 4)
    layers = [weight(CHANNELS, CHANNELS, 3, 3, fan_in=9 * CHANNELS) for _ in range(2)]

    @mb.program(input_specs=[mb.TensorSpec((1, 4, SIZE, SIZE))], opset_version=ct.target.iOS15)
    def program(x: Any) -> Any:
        x = mb.conv_transpose(
            x=x, weight=up, strides=[2, 2], pad_type="custom", pad=[2, 0, 2, 0], name="up"
        )
        for number, each in enumerate(layers):
            x = mb.conv(x=x, weight=each, pad_type="same", name=f"conv{number}")
        return mb.sigmoid(x=x, name="y")

    paths = []
    for name, precision in (("fp32", ct.precision.FLOAT32), ("fp16", ct.precision.FLOAT16)):
        paths.append(folder / f"{name}.mlpackage")
        ct.convert(
            program,
            convert_to="mlprogram",
            compute_precision=precision,
            minimum_deployment_target=ct.target.iOS15,
            skip_model_load=True,
        ).save(str(paths[-1]))
    return paths[0], paths[1]


def run(
    path: Path, samples: Sequence[Mapping[str, NDArray[Any]]], *faults: str, tensor: str = "y"
) -> NDArray[np.float32]:
    """Give one tensor of all samples."""
    extra = [tensor] if tensor != "y" else []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvcalWarning)  # the fault has nothing left to act on
        with open_runner(path, runtime="reference", faults=faults, extra_outputs=extra) as runner:
            return np.concatenate([runner.run(sample)[tensor] for sample in samples])


def run_behind(path: Path, name: str, tensors: NDArray[Any]) -> NDArray[np.float32]:
    """Run what follows a tensor of the program."""
    program = load_program(read_package(path))
    index = next(i for i, each in enumerate(program.operations) if each.outputs[0].name == name)
    value = program.operations[index].outputs[0]
    rest = ExecutableProgram(Program((value,), program.outputs, program.operations[index + 1 :]))
    return np.concatenate([rest.run({name: each[np.newaxis]})["y"] for each in tensors])


def corrected(reference: NDArray[Any], observed: NDArray[Any], fresh: NDArray[Any]) -> NDArray[Any]:
    """Fit a correction, and apply it to fresh outputs."""
    calibrator = OutputCalibrator().fit(reference, observed)
    result: NDArray[Any] = calibrator.transform(fresh)
    return result


def measure(
    name: str, reference: NDArray[Any], found: NDArray[Any], cost: Cost | None = None
) -> Row:
    """Compare with the reference, on the whole output and inside."""

    def snr(region: tuple[slice, ...]) -> float:
        truth = reference[region].astype(np.float64)
        error = found[region].astype(np.float64) - truth
        return float(10 * np.log10(np.sum(truth**2) / np.sum(error**2)))

    inside = (..., slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
    largest = float(np.abs(found.astype(np.float64) - reference).max())
    return Row(name, snr((...,)), snr(inside), largest, cost)


def rows(folder: Path) -> list[Row]:
    """Run the network in every way."""
    wide, narrow = build(folder)
    generator = np.random.default_rng(0)
    samples = [
        {"x": generator.standard_normal((1, 4, SIZE, SIZE)).astype(np.float32)}
        for _ in range(N_SAMPLES)
    ]
    fitted, fresh = samples[: N_SAMPLES // 2], samples[N_SAMPLES // 2 :]
    (finding,) = inspect(narrow).faults
    tensor = finding.output
    truth = run(wide, fresh)
    operations = load_program(read_package(narrow)).operations
    before = cost_of(each for each in operations if each.outputs[0].name == tensor)
    found = [
        measure("fp16 without the fault", truth, run(narrow, fresh), before),
        measure("fp16 under the fault", truth, run(narrow, fresh, FAULT), before),
        measure(
            "corrected at the output",
            truth,
            corrected(run(wide, fitted), run(narrow, fitted, FAULT), run(narrow, fresh, FAULT)),
        ),
        measure(
            "corrected behind the operation",
            truth,
            run_behind(
                narrow,
                tensor,
                corrected(
                    run(narrow, fitted, tensor=tensor),
                    run(narrow, fitted, FAULT, tensor=tensor),
                    run(narrow, fresh, FAULT, tensor=tensor),
                ),
            ),
        ),
    ]
    for strategy in STRATEGIES:
        target = folder / f"{strategy}.mlpackage"
        wide_weights = wide if strategy == "fp32-island" else None
        # The sigmoid is a risk that 'fp32-island' would take too.
        written = rewrite(narrow, target, strategy=strategy, at=[tensor], weights_from=wide_weights)
        assert written is not None
        (operation,) = written.operations
        found.append(measure(f"`{strategy}`", truth, run(target, fresh, FAULT), operation.after))
    return found


def table(found: Sequence[Row]) -> str:
    """Write the rows as Markdown."""
    headings = (
        *("under the emulated fault", "SNR, dB", "SNR inside, dB", "largest error"),
        *("operations", "multiply-adds", "bytes moved"),
    )
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for row in found:
        costs = ["-"] * 3 if row.cost is None else [f"{each:,}" for each in vars(row.cost).values()]
        lines.append(
            f"| {row.name} | {row.whole_db:.1f} | {row.inside_db:.1f} | {row.largest:.2g} | "
            f"{' | '.join(costs)} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Run, print and judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--write-docs", action="store_true", help="write the table into docs/")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = rows(Path(folder))
    print(table(found))
    if options.write_docs:
        put_between(DOCS, MARKS, table(found))
    least = found[0].whole_db - SLACK_DB
    wrong = [row.name for row in found if row.name.startswith("`") and row.whole_db < least]
    for name in wrong:
        print(f"{name} leaves more than fp16 does without the fault")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
