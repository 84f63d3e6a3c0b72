# SPDX-License-Identifier: BSD-3-Clause
"""What the tensors of the observed package hold where it runs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convcal.coreml.exposure import expose
from convcal.coreml.package import read_package
from convcal.faults import parse_fault
from convcal.runtime.reference import ReferenceRunner
from convcal.runtime.runner import open_runner, runtime_here
from convcal.words import TIMEOUT

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

__all__ = ["Tracer"]

_MOST_ON_CORE_ML = 32


class Tracer:
    """Runs the observed package, some of its tensors in view; to be closed.

    On the reference runtime any tensors can be looked at. Core ML gives outputs only: a copy of the
    package gets the tensors as outputs, a few at a time, since that may change what it fuses.

    Parameters
    ----------
    path : path
        The package.
    runtime, compute_units, faults, function, timeout
        As for `convcal.runtime.open_runner`.

    Attributes
    ----------
    how : dict
        The arguments.
    most : int or None
        How many tensors can be looked at in one run; None: any number.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        runtime: str = "auto",
        compute_units: str = "all",
        faults: Sequence[str] = (),
        function: str | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self._path = path
        self.how: dict[str, Any] = {
            "runtime": runtime,
            "compute_units": compute_units,
            "faults": tuple(faults),
            "function": function,
            "timeout": timeout,
        }
        self._runner: ReferenceRunner | None = None
        self._provenance: dict[str, Any] | None = None
        self.most = _MOST_ON_CORE_ML if runtime_here(runtime) == "coreml" else None
        if self.most is None:
            self._runner = ReferenceRunner(
                read_package(path),
                faults=[parse_fault(each) for each in faults],
                function=function,
            )

    def close(self) -> None:
        """Close the runner, which warns of faults that changed nothing."""
        if self._runner is not None:
            self._runner.close()

    @property
    def provenance(self) -> dict[str, Any]:
        """What runs the package."""
        if self._runner is not None:
            return dict(self._runner.provenance)
        if self._provenance is None:
            with open_runner(self._path, **self.how) as runner:
                self._provenance = dict(runner.provenance)
        return self._provenance

    def trace(
        self, names: Sequence[str], samples: Iterable[Mapping[str, NDArray[Any]]]
    ) -> Iterator[dict[str, NDArray[Any]]]:
        """Run samples; give the outputs, and the tensors of these names, one sample at a time."""
        if self._runner is not None:
            self._runner.look_at(names)
            for sample in samples:
                yield self._runner.run(sample)
            return
        with tempfile.TemporaryDirectory(prefix="convcal-") as folder:
            package, outputs = expose(
                read_package(self._path), names, function=self.how["function"]
            )
            path = package.save(Path(folder) / "exposed.mlpackage")
            with open_runner(path, **self.how) as runner:
                for sample in samples:
                    found = runner.run(sample)
                    yield {**found, **{name: found[given] for name, given in outputs.items()}}
