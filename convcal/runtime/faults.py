# SPDX-License-Identifier: BSD-3-Clause
"""What emulated faults do to a runner: inside the network, and to its outputs."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from convcal.errors import ConvcalWarning
from convcal.faults import ArrayFault, CropOrigin, Fault
from convcal.layout import Layout
from convcal.runtime.translation.transposed_convolution import (
    Crop,
    crop_of,
    cropped_conv_transpose,
)

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

    from convcal.coreml.program import Operation
    from convcal.model_description import ModelDescription
    from convcal.runtime.runner import Runner
    from convcal.runtime.translation.graph import Graph

__all__ = ["Distortion", "FaultyRunner", "MovedCrop", "operation_faults", "warn_of_idle"]


@dataclass(frozen=True)
class MovedCrop:
    """`CropOrigin` at work.

    Parameters
    ----------
    fault : CropOrigin
        Its parameters.
    """

    fault: CropOrigin

    def translate(self, graph: Graph, operation: Operation) -> list[str] | None:
        """Translate a ``conv_transpose`` with its crop at the wrong place, if this one is hit."""
        if operation.type != "conv_transpose" or not _is_at(self.fault, operation):
            return None
        if self.fault.precision == "fp16" and operation.outputs[0].dtype != "float16":
            return None
        crop = crop_of(operation)
        if crop.is_regular:
            return None
        moved = dataclasses.replace(crop, begin=self._begin(crop))
        if moved == crop:
            return None
        return cropped_conv_transpose(graph, operation, moved)

    def _begin(self, crop: Crop) -> tuple[int, ...]:
        if self.fault.variant == "zero":
            return (0,) * len(crop.full)
        return tuple(max(0, f - n) // 2 for f, n in zip(crop.full, crop.size, strict=True))


class FaultyRunner:
    """A runner whose outputs the faults of arrays distort.

    Parameters
    ----------
    runner : Runner
        Runs the model; it is closed with this one.
    faults : sequence of ArrayFault
        Applied in their order.
    """

    def __init__(self, runner: Runner, faults: Sequence[Fault]) -> None:
        self._runner = runner
        self._faults = tuple(faults)
        self._distortion = Distortion(faults)

    @property
    def description(self) -> ModelDescription:
        """The model's inputs and outputs."""
        return self._runner.description

    @property
    def provenance(self) -> Mapping[str, str]:
        """What runs the model, and which faults are emulated."""
        faults = "; ".join(str(fault) for fault in self._faults)
        return MappingProxyType({**self._runner.provenance, "faults": faults})

    @property
    def idle_faults(self) -> tuple[str, ...]:
        """The faults that changed no output of any sample so far."""
        return self._distortion.idle

    def run(self, sample: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run one sample and distort its outputs."""
        return self._distortion.apply(self._runner.run(sample), self.description)

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


def operation_faults(faults: Sequence[Fault]) -> list[MovedCrop]:
    """Give those that act inside the network, ready for the translator."""
    return [MovedCrop(fault) for fault in faults if isinstance(fault, CropOrigin)]


def _is_at(fault: Fault, operation: Operation) -> bool:
    """Say whether an operation, or a result of it, is where a fault of operations acts."""
    names = {operation.name, *(value.name for value in operation.outputs)}
    return not fault.places or not names.isdisjoint(fault.places)


class Distortion:
    """What faults of arrays do to the tensors and outputs of one model, and whether they do.

    Parameters
    ----------
    faults : sequence of Fault
        Applied in their order.
    """

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._faults = tuple(faults)
        self._changing: set[Fault] = set()
        self._has_run = False
        self._has_warned = False

    @property
    def faults(self) -> tuple[Fault, ...]:
        """All faults, also those that this class does not apply."""
        return self._faults

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
        """The faults of arrays that changed nothing yet; none before there was a sample."""
        return tuple(
            str(fault)
            for fault in self._faults
            if self._has_run and isinstance(fault, ArrayFault) and fault not in self._changing
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
