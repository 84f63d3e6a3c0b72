# SPDX-License-Identifier: BSD-3-Clause
"""Draw an output before and after its correction."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convcal.errors import UnavailableError
from convcal.files import staged

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = ["draw_before_after"]

_ABOVE: dict[str, Any] = {
    "loc": "lower right",
    "bbox_to_anchor": (1, 1),
    "ncols": 2,
    "frameon": False,
}
_COLOURS = {"reference": "0.55", "observed": "tab:red", "corrected": "tab:blue"}


def draw_before_after(
    target: str | os.PathLike[str],
    *,
    title: str,
    reference: NDArray[Any],
    observed: NDArray[Any],
    corrected: NDArray[Any],
    note: str = "",
    force: bool = False,
) -> Path:
    """Draw the reference, the observed and the corrected output, and where the last two are wrong.

    Parameters
    ----------
    target : path
        The ``.png`` file.
    title : str
        What it is.
    reference, observed, corrected : ndarray of shape (H, W) or (T,)
        A picture, or a piece of sound.
    note : str
        Stands below the title; for the label of an emulated fault.
    force : bool
        Replace a file that exists.

    Returns
    -------
    pathlib.Path
        The file. The errors share one scale, from 0 to the largest of the observed ones.

    Raises
    ------
    UnavailableError
        If Matplotlib is missing.
    OutputExistsError, WriteError
        If the file exists or cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnavailableError(
            "drawing needs Matplotlib, which is not installed; pip install 'convcal[plot]'"
        ) from error
    arrays = {"reference": reference, "observed": observed, "corrected": corrected}
    figure = Figure(figsize=(10, 7.2), layout="constrained", dpi=110)
    figure.suptitle(title + (f"\n{note}" if note else ""))
    draw = _draw_pictures if reference.ndim == 2 else _draw_curves
    draw(figure, {name: np.asarray(array, np.float64) for name, array in arrays.items()})
    with staged(target, force=force) as temporary:
        figure.savefig(temporary, format="png")
    return Path(target)


def _draw_pictures(figure: Figure, arrays: dict[str, NDArray[np.float64]]) -> None:
    above, below = figure.subplots(2, 3)
    low, high = np.min(arrays["reference"]), np.max(arrays["reference"])
    for axes, (name, array) in zip(above, arrays.items(), strict=True):
        axes.imshow(array, cmap="gray", vmin=low, vmax=high)
        axes.set_title(name)
    below[0].set_visible(False)
    errors = {
        name: np.abs(arrays[name] - arrays["reference"]) for name in ("observed", "corrected")
    }
    for axes, (name, error) in zip(below[1:], errors.items(), strict=True):
        image = axes.imshow(error, cmap="magma", vmin=0, vmax=errors["observed"].max())
        axes.set_title(f"|{name} - reference|")
    figure.colorbar(image, ax=list(below[1:]), shrink=0.9)
    for axes in (*above, *below):
        axes.set_xticks([])
        axes.set_yticks([])


def _draw_curves(figure: Figure, arrays: dict[str, NDArray[np.float64]]) -> None:
    axes: tuple[Axes, ...] = figure.subplots(3, 1, sharex=True)
    for panel, name in zip(axes, ("observed", "corrected"), strict=False):
        panel.plot(arrays["reference"], color=_COLOURS["reference"], lw=3, label="reference")
        panel.plot(arrays[name], color=_COLOURS[name], lw=1, label=name)
        panel.legend(**_ABOVE)
        error = np.abs(arrays[name] - arrays["reference"])
        # A whole-pixel correction leaves errors far below the observed ones: show both.
        axes[2].semilogy(np.maximum(error, 1e-8), color=_COLOURS[name], lw=1, label=name)
    axes[2].set_title("absolute error", loc="left")
    axes[2].legend(**_ABOVE)
    axes[2].set_xlabel("sample")
