# SPDX-License-Identifier: BSD-3-Clause
"""Count how often `convcal.diagnose` names the operation that was made wrong, and in which way.

    python benchmarks/diagnosis.py                      # a few cases per network, under a minute
    python benchmarks/diagnosis.py --full               # every fault at three depths, clean runs
    python benchmarks/diagnosis.py --full --write-docs  # ... and write docs/diagnosis-figures.md
    python benchmarks/diagnosis.py --network unet --fault cliff   # these alone, failures in words

Each case plants one fault at one tensor of a network of `benchmarks/networks`, in its first, middle
or last third, drawn from a seed of its own. A tensor on which the fault would change nothing, or
less than a noisy device does, is not drawn. The exit code is 1 where the planted operation is named
first in less than 95 of 100 cases, the family is right in less than 95 of 100, or a fault is found
in a clean fp16 run.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from networks import NETWORKS, Network
from pages import put_between
from planting import PLANTED, Planted

from convcal.coreml.package import read_package
from convcal.coreml.program import Value, load_program
from convcal.diagnosis import Diagnosis, diagnose
from convcal.diagnosis.judging import as_batch, measure_levels
from convcal.diagnosis.outline import Outline
from convcal.diagnosis.segments import Computation
from convcal.faults import ArrayFault, Fault

DOCS = pathlib.Path(__file__).parent.parent / "docs" / "diagnosis-figures.md"
MARKS = ("<!-- benchmarks/diagnosis.py writes what follows -->", "<!-- to here -->")
DEPTHS = ("first", "middle", "last")
WANTED = 0.95
N_SAMPLES = 5
N_CLEAN = 15


class Scene:
    """A network's two packages, samples, and the clean tensors of the fp16 one."""

    def __init__(self, network: Network, folder: pathlib.Path) -> None:
        self.network = network
        self.reference, self.observed = (network.build(folder, each) for each in ("fp32", "fp16"))
        self.samples = network.samples(N_SAMPLES)
        self.outline = Outline(load_program(read_package(self.observed)))
        computed = self.outline.tensors[len(self.outline.program.inputs) :]
        self.tensors = [value for value in computed if value.dtype == "float16"]
        self._arrays: dict[Value, list[np.ndarray]] = {}

    def arrays(self, value: Value) -> list[np.ndarray]:
        """Give a tensor of a clean run, one array per sample."""
        if not self._arrays:
            computation = Computation(self.outline, wanted=self.tensors)
            runs = [dict(computation.run(sample)) for sample in self.samples]
            self._arrays = {each: [run[each.name] for run in runs] for each in self.tensors}
        return self._arrays[value]

    def draw(self, planted: Planted, depth: int, seed: int) -> tuple[Fault, Value] | None:
        """Draw a tensor in a third of the network, and the fault's parameters."""
        key = zlib.crc32(f"{self.network.name} {planted.name}".encode())
        rng = np.random.default_rng([key, depth, seed])
        n = len(self.tensors)
        part = self.tensors[n * depth // 3 : n * (depth + 1) // 3]
        for index in rng.permutation(len(part)):
            value = part[index]
            if not planted.acts_on(self.outline.producer(value)):
                continue
            arrays = self.arrays(value)
            values = np.concatenate([as_batch(array) for array in arrays])
            fault = planted.draw(rng, values)
            if fault is not None and _shows(fault, arrays):
                return fault, value
        return None


def _shows(fault: Fault, arrays: Sequence[np.ndarray]) -> bool:
    """Tell whether a fault does more than a noisy device does."""
    if not isinstance(fault, ArrayFault):
        return True
    clean = [as_batch(array) for array in arrays]
    wrong = [as_batch(_applied(fault, array)) for array in arrays]
    before, after = np.concatenate(clean).astype(np.float32), np.concatenate(wrong)
    return measure_levels(before, before, after).is_wrong


def _applied(fault: ArrayFault, array: np.ndarray) -> np.ndarray:
    if array.ndim < 2:
        return fault.apply(array, batch_axis=None, channel_axis=0 if array.ndim else None)
    return fault.apply(array)


@dataclass
class Count:
    """What became of the cases of one fault."""

    name: str
    n_cases: int = 0
    n_located: int = 0
    n_named: int = 0
    wrong: Counter[str] = field(default_factory=Counter)


def cases(scenes: Sequence[Scene], faults: Sequence[Planted]) -> Iterator[tuple[Any, ...]]:
    """Give scene, fault, depth."""
    for scene in scenes:
        for planted in faults:
            for depth in range(len(DEPTHS)):
                yield scene, planted, depth


def run_case(scene: Scene, fault: Fault, value: Value) -> Diagnosis:
    """Diagnose the network with the fault at the tensor."""
    text = f"{fault},at={value.name}" if ":" in str(fault) else f"{fault}:at={value.name}"
    return diagnose(scene.reference, scene.observed, scene.samples, emulate=[text])


def is_located(diagnosis: Diagnosis, value: Value) -> bool:
    """Tell whether the planted operation is the first that is named, alone or among few."""
    return bool(diagnosis.culprits) and diagnosis.culprits[0].tensor == value.name


def plant(
    scenes: Sequence[Scene], faults: Sequence[Planted], *, n_most: int | None, seed: int
) -> dict[str, Count]:
    """Run cases, and count them by fault."""
    counts = {each.name: Count(each.name) for each in faults}
    drawn = list(cases(scenes, faults))
    if n_most is not None:
        rng = np.random.default_rng(0)
        drawn = [drawn[index] for index in sorted(rng.permutation(len(drawn))[:n_most])]
    for scene, planted, depth in drawn:
        found = scene.draw(planted, depth, seed)
        if found is None:
            continue
        fault, value = found
        diagnosis = run_case(scene, fault, value)
        count = counts[planted.name]
        count.n_cases += 1
        located = is_located(diagnosis, value) or _is_output(scene, diagnosis, value)
        count.n_located += located
        culprit = diagnosis.culprits[0] if diagnosis.culprits else None
        right = planted.right(np.concatenate([as_batch(a) for a in scene.arrays(value)]), fault)
        named = culprit is not None and located and culprit.family in right
        count.n_named += named
        if not named:
            count.wrong[culprit.family if culprit else "none"] += 1
            where = f"{scene.network.name} {DEPTHS[depth]} {value.name} {value.shape}"
            what = f"{culprit.tensor} {culprit.family}: {culprit.reason}" if culprit else "none"
            print(f"  {where} {fault}: not {'/'.join(right)} but {what}", flush=True)
    return counts


def _is_output(scene: Scene, diagnosis: Diagnosis, value: Value) -> bool:
    """Tell whether the culprit is the output that the planted tensor is."""
    outputs = scene.outline.outputs
    return bool(diagnosis.culprits) and outputs.get(diagnosis.culprits[0].tensor) is value


def clean(scenes: Sequence[Scene], n_each: int) -> tuple[int, int]:
    """Diagnose clean fp16 networks on other samples; give how many, and with how many faults."""
    n_runs = n_faulty = 0
    for scene in scenes:
        for seed in range(1, n_each + 1):
            samples = scene.network.samples(2, seed=seed)
            diagnosis = diagnose(scene.reference, scene.observed, samples, find_all=True)
            n_runs += 1
            if diagnosis.culprits or diagnosis.verdict == "accumulated":
                n_faulty += 1
                print(f"  {scene.network.name} seed {seed}: {diagnosis.verdict}", flush=True)
                for culprit in diagnosis.culprits:
                    print(f"    {culprit.tensor} {culprit.family}: {culprit.reason}", flush=True)
    return n_runs, n_faulty


def table(counts: Sequence[Count], n_clean: int, n_faulty: int) -> str:
    """Give the counts in Markdown."""
    lines = [
        "| fault | cases | operation named first | family right | other answers |",
        "|---|---|---|---|---|",
    ]
    total = Count("**all**")
    for count in counts:
        total.n_cases += count.n_cases
        total.n_located += count.n_located
        total.n_named += count.n_named
        lines.append(_row(count))
    lines += [_row(total), "", f"Clean fp16: a fault was found in {n_faulty} of {n_clean} runs."]
    return "\n".join(lines)


def _row(count: Count) -> str:
    wrong = ", ".join(f"`{name}` {n}" for name, n in count.wrong.most_common()) or "-"
    name = count.name if count.name.startswith("*") else f"`{count.name}`"
    return f"| {name} | {count.n_cases} | {count.n_located} | {count.n_named} | {wrong} |"


def failures(counts: Sequence[Count], n_faulty: int) -> list[str]:
    """Say what falls short."""
    n_cases = sum(count.n_cases for count in counts)
    found = []
    for what, n_right in (
        ("operation", sum(count.n_located for count in counts)),
        ("family", sum(count.n_named for count in counts)),
    ):
        if n_right < WANTED * n_cases:
            found.append(f"the {what} is right in {n_right} of {n_cases} cases")
    if n_faulty:
        found.append(f"a fault was found in {n_faulty} clean runs")
    return found


def main() -> int:
    """Run, print and judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="all cases")
    parser.add_argument("--network", action="append", help="this one alone (may be repeated)")
    parser.add_argument("--fault", action="append", help="this one alone (may be repeated)")
    parser.add_argument("--seed", type=int, default=0, help="draw other cases")
    parser.add_argument("--write-docs", action="store_true", help="write the table into docs/")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    is_partial = bool(options.network or options.fault)
    faults = [each for each in PLANTED if not options.fault or each.name in options.fault]
    with tempfile.TemporaryDirectory() as folder:
        scenes = [
            Scene(network, pathlib.Path(folder))
            for network in NETWORKS.values()
            if not options.network or network.name in options.network
        ]
        n_most = None if options.full or is_partial else 7
        counts = list(plant(scenes, faults, n_most=n_most, seed=options.seed).values())
        n_clean, n_faulty = (0, 0) if is_partial else clean(scenes, N_CLEAN if options.full else 1)
    counts = [count for count in counts if count.n_cases]
    result = table(counts, n_clean, n_faulty)
    print(result)
    print(f"{time.perf_counter() - start:.0f} s")
    if options.write_docs:
        put_between(DOCS, MARKS, result)
    wrong = failures(counts, n_faulty)
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
