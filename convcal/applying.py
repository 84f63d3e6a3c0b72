# SPDX-License-Identifier: BSD-3-Clause
"""Correct outputs that lie in a file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from convcal.calibration import Calibration
from convcal.correction import Precision
from convcal.data.arrays import read_samples, write_samples
from convcal.errors import InputError
from convcal.files import ensure_absent
from convcal.postprocessor import PostProcessor

__all__ = ["Application", "apply_to_file"]


@dataclass(frozen=True)
class Application:
    """What was corrected.

    Parameters
    ----------
    path : pathlib.Path
        The file that was written.
    n_samples : int
        How many samples it holds; where its keys name none, the length of the batch.
    corrected, unchanged : tuple of str
        The outputs that have a correction, and those that were copied.
    """

    path: Path
    n_samples: int
    corrected: tuple[str, ...]
    unchanged: tuple[str, ...]


def apply_to_file(
    calibration: Calibration,
    outputs: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    precision: Precision = "float32",
    force: bool = False,
) -> Application:
    """Correct the outputs in a ``.npz`` file.

    Parameters
    ----------
    calibration : Calibration
        What is to be applied.
    outputs : path
        A file with keys ``SAMPLE/OUTPUT`` or ``OUTPUT``. One sample at a time is in memory.
    target : path
        The file to be written, with the same keys.
    precision : {'float32', 'output'}
        The dtype to compute in.
    force : bool
        Replace a file that exists.

    Returns
    -------
    Application

    Raises
    ------
    InputError
        If the file cannot be read, an array does not fit its correction, or nothing in it has a
        correction.
    OutputExistsError, WriteError
        If the target exists or cannot be written.
    """
    path = ensure_absent(target, force=force)
    process = PostProcessor(calibration.corrections, precision=precision)
    seen: dict[str, None] = {}
    n_samples = 0

    def corrected() -> Iterator[tuple[str | None, dict[str, Any]]]:
        nonlocal n_samples
        for sample, arrays in read_samples(outputs):
            try:
                yield sample, process(arrays)
            except InputError as error:
                where = f"sample '{sample}' of " if sample is not None else ""
                raise InputError(f"{where}'{os.fspath(outputs)}': {error}") from None
            seen.update(dict.fromkeys(arrays))
            n_samples += 1 if sample is not None else _batch(arrays, process)

    write_samples(path, corrected(), force=force)
    changed = {name for name, item in process.corrections.items() if not item.is_identity}
    return Application(
        path,
        n_samples,
        tuple(name for name in seen if name in changed),
        tuple(name for name in seen if name not in changed),
    )


def _batch(arrays: Mapping[str, NDArray[Any]], process: PostProcessor) -> int:
    """Give how many samples lie along the batch axis of the corrected outputs."""
    lengths = (
        arrays[name].shape[correction.batch_axis]
        for name, correction in process.corrections.items()
        if name in arrays and correction.batch_axis is not None
    )
    return next(lengths, 1)
