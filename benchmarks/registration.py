# SPDX-License-Identifier: BSD-3-Clause
"""Measure how exact the estimate is, against its targets, the Cramér-Rao bound and peers.

    python benchmarks/registration.py [PART ...] [--full] [--sizes SIZE,...] [--write-docs]

The quick form draws a few pairs for every line and takes under a minute; ``--full`` draws as many
as the targets speak of and takes about an hour. One thread, everything seeded. Each line names the
figure, the target and whether it is met; where it is not, the worst case and its seed. Exit code 1
where a target is missed. ``--write-docs`` writes the table, ``docs/estimation-figures.md``, and the
figures of ``docs/estimation.md``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cases import Row
from exactness import contents, linearity, noise, pooling, refusals, resampled, rounding, sizes
from figures import draw_figures
from gains import channels_without_signal, clean_gains, spoilt_gains
from peers import PeerResult, compare
from robustness import coverage, growth, hard_input, repeats
from threadpoolctl import threadpool_limits

DOCS = Path(__file__).parents[1] / "docs"

EXPLAINED = """\
How to read it:

- `4 x 3, 64x64` is 4 samples of 3 channels each, of 64 by 64 positions; where only `64x64x3` stands
  it is one sample of 3 channels.
- An error is that of the worse axis. A case is *missed* where it is above half a pixel, or where
  the shift was refused.
- *Of whole called whole*: of the cases displaced by whole pixels that were not missed, how many
  were given a whole shift on every axis. *Of fractions lost*: of those displaced by fractions that
  were not missed, how many were given a whole shift on an axis where the truth is more than 6 of
  the claimed standard errors away from any whole one. A fraction that noise hides is not lost.
- Few cases cannot show 93 to 97 %: a 95 % interval counts as met where the share lies within
  2 sqrt(0.05 * 0.95 / n) of that, two standard errors of a share of 95 % among n: 8.9 % of 24,
  7.3 % of 36. `--full` draws more, and leaves less.
"""

PARTS: dict[str, Callable[[bool], list[Row]]] = {
    "rounding": rounding,
    "noise": noise,
    "resampled": resampled,
    "sizes": sizes,
    "pooling": pooling,
    "contents": contents,
    "refusals": refusals,
    "linearity": linearity,
    "hard-input": hard_input,
    "coverage": coverage,
    "gains": clean_gains,
    "spoilt-gains": spoilt_gains,
    "no-signal": channels_without_signal,
    "growth": growth,
    "repeats": repeats,
}


def measure(parts: list[str], *, is_full: bool, only: Sequence[str] = ()) -> list[Row]:
    """Run some parts, print their lines, and give them."""
    rows: list[Row] = []
    for part in parts:
        start = time.perf_counter()
        found = sizes(is_full, only) if part == "sizes" else PARTS[part](is_full)
        print(f"{part} ({time.perf_counter() - start:.1f} s)", flush=True)
        for row in found:
            state = {None: "", True: "met", False: "MISSED"}[row.is_met]
            print(f"  {state:7}{row.name}: {row.figure}   [{row.target}]")
            if row.is_met is False and row.worst:
                print(f"         worst: {row.worst}")
        rows += found
    return rows


def measure_peers(*, is_full: bool) -> list[PeerResult]:
    """Run the peers, print a line for each, and give what was found."""
    print("peers, 64x64x3, 20 dB, fractional shifts, all contents")
    results = []
    for result in compare(is_full):
        if isinstance(result, str):
            print(f"  {result}: not installed, left out")
            continue
        print(
            f"  {result.name:52} median {result.median:.4f} px  {result.missed:5.1%} missed  "
            f"{result.seconds * 1e3:7.1f} ms"
        )
        results.append(result)
    return results


def write_table(rows: list[Row], peers: list[PeerResult], *, is_full: bool) -> None:
    """Write what was measured to ``docs/estimation-figures.md``."""
    command = f"python benchmarks/registration.py{' --full' if is_full else ''} --write-docs"
    lines = [
        "# Figures of the estimation",
        "",
        f"Written by `{command}`; [estimation.md](estimation.md) says what is estimated and how.",
        "",
        EXPLAINED,
        "| | measured | target | |",
        "|---|---|---|---|",
    ]
    for row in rows:
        state = {None: "", True: "met", False: "**missed**"}[row.is_met]
        cells = (row.name, row.figure, row.target, state)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    lines += [
        "",
        "Peers on the same pairs: 64x64, 3 channels, shifts to 4 px that are not whole, 20 dB, all",
        "contents that determine a shift. The error is that of the worse axis; failures count as",
        "misses.",
        "",
        "| | median error, px | missed | time, ms |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {p.name} | {p.median:.4f} | {p.missed:.1%} | {p.seconds * 1e3:.1f} |" for p in peers
    ]
    (DOCS / "estimation-figures.md").write_text("\n".join([*lines, ""]), encoding="utf-8")


def main() -> int:
    """Run what the command line names; give the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"of {', '.join((*PARTS, 'peers'))}; default: all"
    )
    parser.add_argument("--full", action="store_true", help="as many cases as the targets ask for")
    parser.add_argument(
        "--sizes", metavar="SIZE,...", help="of the part sizes these alone: 128,64x64"
    )
    parser.add_argument("--write-docs", action="store_true", help="write the table and figures")
    given = parser.parse_args()
    unknown = set(given.parts) - {*PARTS, "peers"}
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if given.sizes is not None and given.parts != ["sizes"]:
        parser.error("--sizes is for the part sizes alone: name it")
    if given.write_docs and given.parts:
        parser.error("--write-docs writes all parts; leave the names out")
    peers = []
    with threadpool_limits(1):
        rows = measure(
            [p for p in PARTS if p in (given.parts or PARTS)],
            is_full=given.full,
            only=given.sizes.split(",") if given.sizes else (),
        )
        if not given.parts or "peers" in given.parts:
            peers = measure_peers(is_full=given.full)
        if given.write_docs:
            write_table(rows, peers, is_full=given.full)
            draw_figures(DOCS / "figures", peers, is_full=given.full)
    missed = [row.name for row in rows if row.is_met is False]
    print(f"{len(missed)} of {len(rows)} targets missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
