# SPDX-License-Identifier: BSD-3-Clause
"""Which family is right for each fault, and where another one is, too, or instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import faulty
import numpy as np
from faulty import Case

from convcal.datasets import CONTENTS

# A residual of one tolerance is rounding by definition; held-out data may show a little less.
ROUNDING_UP_TO = 1.25
SHOWN = tuple(content for content in CONTENTS if content != "constant")

Draw = Callable[[np.random.Generator, str], Case]


@dataclass(frozen=True)
class Otherwise:
    """Where another family is right too, or instead."""

    when: str
    holds: Callable[[Case], bool]
    families: tuple[str, ...]
    instead: bool = False


@dataclass(frozen=True)
class Row:
    """One fault, how its cases are drawn, and which family is right."""

    name: str
    family: str
    draw: Draw
    drawn: str
    exceptions: tuple[Otherwise, ...] = ()
    contents: tuple[str, ...] = SHOWN

    def right(self, case: Case) -> tuple[str, ...]:
        """Give the families that are right for a case."""
        families = (self.family,)
        for other in (*self.exceptions, INVISIBLE):
            if other.holds(case):
                if other.instead:
                    return other.families
                families += other.families
        return families


INVISIBLE = Otherwise(
    f"up to {ROUNDING_UP_TO} times what a faithful fp16 network may leave",
    lambda case: case.level <= ROUNDING_UP_TO,
    ("rounding", "identical"),
)
REPEATS = Otherwise(
    "a lattice, every axis at least 32 long: it repeats within the search",
    lambda case: case.content == "lattice" and min(case.reference.shape[2:]) >= 32,
    ("periodic",),
    instead=True,
)
MAY_REPEAT = Otherwise("a lattice", lambda case: case.content == "lattice", ("periodic",))

ROWS: tuple[Row, ...] = (
    Row(
        "int-shift",
        "shift",
        faulty.draw_int_shift,
        "up to 4 px per axis, all fills",
        (REPEATS, MAY_REPEAT),
    ),
    Row(
        "crop",
        "shift",
        lambda rng, content: faulty.draw_window(rng, content, whole=True),
        "as int-shift, but new content enters",
        (REPEATS, MAY_REPEAT),
    ),
    Row(
        "frac-shift",
        "sub-pixel-shift",
        faulty.draw_frac_shift,
        "0.1 to 3.9 px per axis",
        (REPEATS, MAY_REPEAT),
    ),
    Row(
        "window",
        "sub-pixel-shift",
        lambda rng, content: faulty.draw_window(rng, content, whole=False),
        "as frac-shift, but new content enters; band-limited, by areas or linear",
        (REPEATS, MAY_REPEAT),
    ),
    Row(
        "channel-affine",
        "affine",
        faulty.draw_channel_affine,
        "gain 0.3 to 3.5, bias up to the spread",
        (MAY_REPEAT,),
    ),
    Row(
        "compose",
        "shift",
        faulty.draw_compose,
        "int-shift + channel-affine + fp16-round",
        (REPEATS, MAY_REPEAT),
    ),
    Row(
        "scale-corner",
        "scale",
        faulty.draw_scale_corner,
        "0.3 to 2 px over 64 to 256 positions",
        (MAY_REPEAT,),
    ),
    Row(
        "scale-centre",
        "scale",
        faulty.draw_scale_centre,
        "0.3 to 2 px over 64 to 256 positions",
        (MAY_REPEAT,),
    ),
    Row("grid-quant", "grid", faulty.draw_grid, "both modes, 96 to 1024 positions", (MAY_REPEAT,)),
    Row("row-stride", "row-stride", faulty.draw_row_stride, "both fills, float16 and float32"),
    Row(
        "flat-offset",
        "flat-offset",
        faulty.draw_flat_offset,
        "up to a fifth of a row and 3 rows",
        (
            Otherwise(
                "one channel of sound: there is no other row to come from",
                lambda case: case.n_axes == 1 and case.reference.shape[1] == 1,
                ("shift",),
            ),
            Otherwise(
                "stripes, whose rows are all alike",
                lambda case: case.content == "stripes",
                ("shift",),
            ),
            MAY_REPEAT,
        ),
    ),
    Row("stride-collapse", "stride-collapse", faulty.draw_stride_collapse, "stride 2 to 4"),
    Row("channel-dead", "dead-channel", faulty.draw_channel_dead, "up to half of the channels"),
    Row("channel-order", "channel-order", faulty.draw_channel_order, "any other order"),
    Row(
        "edge-gain",
        "edge",
        faulty.draw_edge_gain,
        "width 1 to 3, gain 0 to 2, all sides",
        (
            Otherwise(
                "one position wide, in 1-D",
                lambda case: case.n_axes == 1 and case.facts["width"] == 1,
                ("element",),
            ),
        ),
    ),
    Row(
        "last-elem",
        "element",
        faulty.draw_last_elem,
        "0.3 to 3 times the spread",
    ),
    Row("saturate", "saturation", faulty.draw_saturate, "1 to 20 % beyond each limit, all ways"),
    Row("cliff", "cliff", faulty.draw_cliff, "2 to 40 % of the values beyond the threshold"),
    Row(
        "lut-bias",
        "tabulated",
        faulty.draw_lut_bias,
        "9 to 33 knots, values spread over the table",
        (
            Otherwise(
                f"gain and bias leave up to {ROUNDING_UP_TO} times that of a faithful network",
                lambda case: case.level_after_lines <= ROUNDING_UP_TO,
                ("affine",),
            ),
        ),
    ),
    Row("flush", "flush", faulty.draw_flush, "outputs of 2**-14 to 1"),
    Row("fp16-round", "rounding", faulty.draw_fp16_round, "nothing else", contents=SHOWN),
    Row(
        "noise",
        "noise",
        faulty.draw_noise,
        "0.1 to 4 %",
        (
            Otherwise(
                "a third of the reference's spread or more",
                lambda case: case.facts["share"] > 1 / 3,
                ("unstructured",),
            ),
        ),
    ),
    Row("garbage", "unstructured", faulty.draw_garbage, "1 to 2 times the output's spread"),
    Row("prefix-only", "prefix", faulty.draw_prefix_only, "3 elements to half of all"),
    Row("(any)", "constant", faulty.draw_compose, "constant content", contents=("constant",)),
)
