# SPDX-License-Identifier: BSD-3-Clause
"""What the tensors of the observed package hold where it runs."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convcal.coreml.exposure import expose
from convcal.coreml.package import read_package
from convcal.runtime.runner import open_runner, runs_on_core_ml
from convcal.words import TIMEOUT

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

__all__ = ["Tracer"]

_MOST_ON_CORE_ML = 32


class Tracer:
    """Runs the observed package, some of its tensors in view.

    On the reference runtime any tensors can be looked at. Core ML gives outputs only: a copy of the
    package gets the tensors as outputs, a few at a time, since that may change what it fuses.

    Parameters
    ----------
    path : path
        The package.
    runtime, compute_units, faults, timeout
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
        timeout: float = TIMEOUT,
    ) -> None:
        self._path = path
        self.how: dict[str, Any] = {
            "runtime": runtime,
            "compute_units": compute_units,
            "faults": tuple(faults),
            "timeout": timeout,
        }
        self._is_exposing = runs_on_core_ml(runtime)
        self._provenance: dict[str, Any] | None = None
        self.most = _MOST_ON_CORE_ML if self._is_exposing else None

    @property
    def provenance(self) -> dict[str, Any]:
        """What runs the package."""
        if self._provenance is None:
            with open_runner(self._path, **self.how) as runner:
                self._provenance = dict(runner.provenance)
        return self._provenance

    def trace(
        self, names: Sequence[str], samples: Iterable[Mapping[str, NDArray[Any]]]
    ) -> Iterator[dict[str, NDArray[Any]]]:
        """Run samples; give the outputs, and the tensors of these names, one sample at a time."""
        with contextlib.ExitStack() as stack:
            path: str | os.PathLike[str] = self._path
            outputs = {name: name for name in names}
            how = {**self.how, "extra_outputs": tuple(names)}
            if self._is_exposing:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="convcal-")))
                package, outputs = expose(read_package(self._path), names)
                path = package.save(folder / "exposed.mlpackage")
                how = self.how
            runner = stack.enter_context(open_runner(path, **how))
            if not self._is_exposing:  # of a copy it would be that of the copy
                self._provenance = dict(runner.provenance)
            for sample in samples:
                found = runner.run(sample)
                yield {**found, **{name: found[given] for name, given in outputs.items()}}
