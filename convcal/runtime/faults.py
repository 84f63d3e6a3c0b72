# SPDX-License-Identifier: BSD-3-Clause
"""What emulated faults of arrays do to the tensors of a model."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from convcal.errors import ConvcalWarning
from convcal.faults import ArrayFault, Fault, Profile, expanded
from convcal.layout import Layout

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

    from convcal.model_description import ModelDescription
    from convcal.runtime.runner import PackageRunner
    from convcal.runtime.state import State

__all__ = ["Distortion", "FaultyRunner", "warn_of_idle"]


class FaultyRunner:
    """A runner whose outputs the faults of arrays distort.

    Parameters
    ----------
    runner : PackageRunner
        Runs the model; it is closed with this one.
    faults : sequence of ArrayFault
        Applied in their order.
    """

    def __init__(self, runner: PackageRunner, faults: Sequence[Fault]) -> None:
        self._runner = runner
        self._distortion = Distortion(faults)

    @property
    def description(self) -> ModelDescription:
        """The model's inputs and outputs."""
        return self._runner.description

    @property
    def provenance(self) -> Mapping[str, str]:
        """What runs the model, and which faults are emulated."""
        return MappingProxyType({**self._runner.provenance, **self._distortion.provenance})

    @property
    def idle_faults(self) -> tuple[str, ...]:
        """The faults that changed no output of any sample so far."""
        return self._distortion.idle

    def make_state(self) -> State[Any]:
        """Make what the model keeps from one run to the next; faults of arrays leave it alone."""
        return self._runner.make_state()

    def run(
        self, sample: Mapping[str, NDArray[Any]], *, state: State[Any] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Run one sample and distort its outputs."""
        # A runner of the user's own need not know of states.
        known = {} if state is None else {"state": state}
        return self._distortion.apply(self._runner.run(sample, **known), self.description)

    def close(self) -> None:
        """Close the runner inside, and warn of faults that changed nothing."""
        self._runner.close()
        self._distortion.warn_of_idle()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Distortion:
    """What faults of arrays do to the tensors and outputs of one model, and whether they do.

    Parameters
    ----------
    faults : sequence of Fault
        Applied in their order.
    """

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._given = tuple(faults)
        self._faults = expanded(faults)
        self._changing: set[Fault] = set()
        self._has_run = False
        self._has_warned = False

    @property
    def faults(self) -> tuple[Fault, ...]:
        """All faults, also those that this class does not apply; the parts of profiles."""
        return self._faults

    @property
    def provenance(self) -> dict[str, str]:
        """The label of what runs under these faults: each of them, and the names of profiles."""
        profiles = [str(fault) for fault in self._given if isinstance(fault, Profile)]
        entries = {"faults": self._faults, "fault_profiles": profiles}
        return {
            key: "; ".join(str(fault) for fault in values)
            for key, values in entries.items()
            if values
        }

    def note(self, faults: Iterable[Fault]) -> None:
        """Take note of faults that change something inside the network."""
        self._changing.update(faults)

    def distort(self, array: NDArray[Any], fault: ArrayFault, *, kind: str) -> NDArray[Any]:
        """Distort a tensor, or an output of this kind, by one of the faults."""
        layout = Layout.of(array, kind=kind)
        distorted = fault.apply(
            array, batch_axis=layout.batch_axis, channel_axis=layout.channel_axis
        )
        if not np.array_equal(array, distorted, equal_nan=array.dtype.kind == "f"):
            self._changing.add(fault)
        return distorted

    def apply(
        self, outputs: Mapping[str, NDArray[Any]], description: ModelDescription
    ) -> dict[str, NDArray[Any]]:
        """Distort the outputs of one sample that the model declares, by the faults without place.

        Outputs of the model that hold integers other than pictures (indices, labels) are left
        alone, and so are tensors that it does not declare. The axes are those of `Layout.of`.
        """
        result = dict(outputs)
        for feature in description.outputs:
            array = result.get(feature.name)
            if array is None or (array.dtype.kind != "f" and feature.kind != "image"):
                continue
            for fault in self._faults:
                if isinstance(fault, ArrayFault) and not fault.is_inside:
                    array = self.distort(array, fault, kind=feature.kind)
            result[feature.name] = array
        self._has_run = True
        return result

    @property
    def idle(self) -> tuple[str, ...]:
        """The faults of arrays that changed nothing yet; none before there was a sample.

        And the profiles of which no part did.
        """
        return tuple(
            str(fault)
            for fault in self._given
            if self._has_run
            and isinstance(fault, ArrayFault | Profile)
            and self._changing.isdisjoint(expanded([fault]))
        )

    def warn_of_idle(self) -> None:
        """Say once which faults changed no output of any sample; see `warn_of_idle`."""
        idle = () if self._has_warned else self.idle
        self._has_warned = True
        warn_of_idle(idle)


def warn_of_idle(faults: Iterable[str]) -> None:
    """Say which faults changed no output of any sample.

    Warns
    -----
    ConvcalWarning
        For each of them.
    """
    for fault in faults:
        warnings.warn(
            f"the emulated fault '{fault}' changes no output of these samples; the outputs "
            "are those without it",
            ConvcalWarning,
            stacklevel=4,
        )
