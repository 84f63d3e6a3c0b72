# SPDX-License-Identifier: BSD-3-Clause
"""Correct a model's outputs at run time, with NumPy alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from convcal.calibration import Calibration
from convcal.correction import Correction, Precision
from convcal.errors import InputError
from convcal.words import PRECISIONS

__all__ = ["PostProcessor"]


class PostProcessor:
    """Apply the corrections of a calibration to a model's outputs.

    Parameters
    ----------
    corrections : mapping of str to Correction
        By the name of the output.
    precision : {'float32', 'output'}
        The dtype to compute in: float32, or that of the arrays.

    Raises
    ------
    InputError
        If there is no correction or `precision` is unknown.

    See Also
    --------
    Correction.apply : The same for one array, with its rules for shapes, dtypes and borders.

    Examples
    --------
    >>> import numpy as np
    >>> from convcal import Correction, PostProcessor
    >>> process = PostProcessor({"y": Correction(spatial_shape=(4,), shift=(-1.0,), gain=(2.0,),
    ...                                          bias=(0.0,))})
    >>> process({"y": np.array([[[1, 2, 3, 4]]], np.float32)})["y"]
    array([[[4., 6., 8., 8.]]], dtype=float32)
    """

    def __init__(
        self, corrections: Mapping[str, Correction], *, precision: Precision = "float32"
    ) -> None:
        if not corrections:
            raise InputError("a post-processor needs at least one correction")
        if precision not in PRECISIONS:
            raise InputError(f"precision is '{precision}'; 'float32' or 'output' is accepted")
        self.corrections = dict(corrections)
        self.precision: Precision = precision

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, precision: Precision = "float32"
    ) -> PostProcessor:
        """Read a calibration file; see `Calibration.load` for what is raised and warned of.

        Parameters
        ----------
        path : path
            A file that ``convcal fit`` wrote.
        precision : {'float32', 'output'}
            The dtype to compute in.

        Returns
        -------
        PostProcessor
        """
        return cls(Calibration.load(path).corrections, precision=precision)

    def __call__(
        self,
        outputs: Mapping[str, np.ndarray[Any, Any]],
        *,
        out: Mapping[str, np.ndarray[Any, Any]] | None = None,
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Correct what a model gave for one sample or a batch.

        Parameters
        ----------
        outputs : mapping of str to ndarray
            By output name; never written to. Outputs without a correction pass through.
        out : mapping of str to ndarray, optional
            Buffers for the results, by output name; outputs not named here get new arrays.

        Returns
        -------
        dict of str to ndarray
            The names of `outputs`, in their order.

        Raises
        ------
        InputError
            If this is no mapping, none of the names has a correction, or an array does not fit its
            correction.
        """
        if not isinstance(outputs, Mapping):
            raise InputError(
                f"the outputs are of type {type(outputs).__name__}; accepted is a dict of arrays "
                "by output name (apply corrects a single array)"
            )
        if not any(name in self.corrections for name in outputs):
            raise InputError(
                f"none of the outputs {sorted(outputs)} has a correction; "
                f"there are corrections for {sorted(self.corrections)}"
            )
        buffers = {} if out is None else out
        return {
            name: self.apply(name, array, out=buffers.get(name))
            if name in self.corrections
            else array
            for name, array in outputs.items()
        }

    def apply(
        self,
        name: str,
        observed: np.ndarray[Any, Any],
        *,
        out: np.ndarray[Any, Any] | None = None,
    ) -> np.ndarray[Any, Any]:
        """Correct one output.

        Parameters
        ----------
        name : str
            The output's name.
        observed : ndarray
            Its values, with or without the batch axis; never written to.
        out : ndarray, optional
            Receives the result.

        Returns
        -------
        ndarray
            The corrected output; of the shape and dtype of `observed`, less what is cropped.

        Raises
        ------
        InputError
            If there is no correction of that name, or the array does not fit it.
        """
        if name not in self.corrections:
            raise InputError(
                f"there is no correction for output {name!r}; "
                f"there are corrections for {sorted(self.corrections)}"
            )
        try:
            return self.corrections[name].apply(observed, precision=self.precision, out=out)
        except InputError as error:
            raise InputError(f"output {name!r}: {error}") from None

    def __repr__(self) -> str:
        return f"PostProcessor({sorted(self.corrections)}, precision={self.precision!r})"
