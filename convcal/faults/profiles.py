# SPDX-License-Identifier: BSD-3-Clause
"""Devices by name: the faults that public sources document for each, together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from convcal.faults.base import Fault
from convcal.faults.operations import CropOrigin, LutActivation, SliceSaturate, StrideOne
from convcal.faults.values import Cliff, Flush, Saturate

__all__ = ["PROFILES", "Profile", "expanded"]


@dataclass(frozen=True)
class Profile(Fault):
    """All faults that public sources document for one device.

    Its text is its name. What runs under it is labelled with its parts and, beside, with its name.

    Parameters
    ----------
    title : str
        Its name, ``profile-`` and the device.
    device : str
        What it is, in words.
    parts : tuple of Fault
        The faults, in their order.
    """

    name = "profile"
    title: str
    device: str
    parts: tuple[Fault, ...]
    at: str | None = field(init=False, default=None)

    def __str__(self) -> str:
        return self.title


_SATURATION = Saturate(limit=32752.0, to="inf", on=("conv", "linear", "matmul"))
"""Sums of products are infinite from 32768 on."""

PROFILES: dict[str, Profile] = {
    profile.title: profile
    for profile in (
        # sbryngelson/ane-guide, chapter 3 and 19, measured on an M1 (H13): saturation (not of a
        # convolution with one tap, which this touches too), slices, subnormals in sums of products,
        # and the size of the tables' errors, to which the reaches here are set. apple/coremltools
        # #2687 and #2690 see the cliffs on Neural Engines; #2618 the first on an M1 Pro.
        Profile(
            title="profile-m1-ane",
            device="Neural Engine of an M1 (H13)",
            parts=(
                _SATURATION,
                Flush(on=("conv", "linear", "matmul")),
                SliceSaturate(),
                Cliff(threshold=10.4, on=("softplus",)),
                Cliff(threshold=11.09, on=("reduce_log_sum_exp",)),
                LutActivation(functions=("sigmoid",), reach=8.5),
                LutActivation(functions=("tanh",), reach=2.1),
                LutActivation(functions=("gelu", "silu"), reach=3.9),
                LutActivation(functions=("atan", "cos", "sin"), reach=9.0),
            ),
        ),
        # sbryngelson/ane-guide, chapter 3: slices as on an M1. sbryngelson/ANEForge #164: the
        # saturation of matrix products, on an M2 Pro.
        Profile(
            title="profile-m2-ane",
            device="Neural Engine of an A14 or M2 (H14)",
            parts=(Saturate(limit=32752.0, to="inf", on=("matmul",)), SliceSaturate()),
        ),
        # sbryngelson/ANEForge #115 (matrix products) and #113 (softplus(10) right, softplus(11) 0).
        Profile(
            title="profile-m5-ane",
            device="Neural Engine of an M5",
            parts=(
                Saturate(limit=32752.0, to="inf", on=("matmul",)),
                Cliff(threshold=10.4, on=("softplus",)),
            ),
        ),
        # apple/coremltools #2324.
        Profile(
            title="profile-m1-macos-14",
            device="Core ML on an M1 with macOS 14.3",
            parts=(CropOrigin(),),
        ),
        # pytorch #82711.
        Profile(
            title="profile-mps-macos-12",
            device="PyTorch on MPS with macOS 12.5",
            parts=(StrideOne(),),
        ),
    )
}
"""Every profile by its name."""


def expanded(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    """Give faults with the parts of profiles in their place."""
    return tuple(
        part
        for fault in faults
        for part in (fault.parts if isinstance(fault, Profile) else (fault,))
    )
