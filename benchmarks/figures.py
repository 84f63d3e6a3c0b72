# SPDX-License-Identifier: BSD-3-Clause
"""The figures of ``docs/estimation.md``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bounds import bound
from cases import Case, estimated, spread_over
from peers import PeerResult

__all__ = ["draw_figures"]

_SIZE = (6.4, 3.6)
_DPI = 100


def draw_figures(folder: Path, peers: Sequence[PeerResult], *, is_full: bool) -> None:
    """Draw all figures into a folder, as PNG."""
    folder.mkdir(exist_ok=True)
    per_kind = 20 if is_full else 3
    _draw_noise(folder / "noise.png", per_kind)
    _draw_pooling(folder / "pooling.png", per_kind)
    if peers:
        _draw_peers(folder / "peers.png", peers)


def _draw_noise(path: Path, per_kind: int) -> None:
    """Draw the error over the noise: at the bound, and where the resampling is to blame."""
    levels = (5.0, 10.0, 20.0, 30.0, 40.0, 50.0)
    kinds = ("pink", "edges", "photographs")
    figure, axes = _axes("signal over noise, dB", "error, px (root mean square of an axis)")
    for resampling, label, mark in (
        ("bilinear", "straight lines between values", "s"),
        ("area", "means over areas", "^"),
        ("fourier", "band-limited", "o"),
    ):
        errors, bounds = [], []
        for snr_db in levels:
            base = Case((64, 64), (0.0, 0.0), snr_db=snr_db, resampling=resampling)
            cases = spread_over(kinds, base, per_kind=per_kind)
            errors.append(_rms([estimated(case).error for case in cases]))
            if resampling == "fourier":
                bounds.append(_rms([bound(case) for case in cases]))
        axes.plot(levels, errors, mark, label=label)
        if bounds:
            axes.plot(levels, bounds, "k-", linewidth=1, label="Cramér-Rao bound")
    axes.set_yscale("log")
    _save(figure, axes, path)


def _draw_pooling(path: Path, per_kind: int) -> None:
    """Draw the error over the number of planes."""
    counts = (1, 4, 16, 64, 256, 1024) if per_kind > 3 else (1, 4, 16, 64, 256)
    figure, axes = _axes("samples times channels", "error, px (root mean square of an axis)")
    errors, bounds = [], []
    for count in counts:
        base = Case((32, 32), (0.0, 0.0), n_samples=count, n_channels=1, snr_db=10.0)
        cases = spread_over(("pink", "white"), base, per_kind=per_kind)
        errors.append(_rms([estimated(case).error for case in cases]))
        bounds.append(_rms([bound(case) for case in cases]))
    axes.loglog(counts, errors, "o", label="measured, 32x32, 10 dB")
    axes.loglog(counts, bounds, "k-", linewidth=1, label="Cramér-Rao bound")
    _save(figure, axes, path)


def _draw_peers(path: Path, peers: Sequence[PeerResult]) -> None:
    """Draw the median error of every program, and its misses."""
    ordered = sorted(peers, key=lambda peer: peer.median, reverse=True)
    figure, axes = _axes("median error, px", "")
    names = [peer.name for peer in ordered]
    axes.barh(names, [peer.median for peer in ordered], color="0.6", height=0.6)
    for k, peer in enumerate(ordered):
        axes.text(peer.median * 1.1, k, f"{peer.missed:.0%} missed", va="center", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(1e-3, 1)
    axes.tick_params(axis="y", labelsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=_DPI)


def _rms(parts: Sequence[np.ndarray]) -> float:
    return float(np.sqrt(np.mean(np.square(parts))))


def _axes(across: str, up: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE)
    axes = figure.add_subplot()
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(which="major", linewidth=0.4, alpha=0.5)
    return figure, axes


def _save(figure: Any, axes: Any, path: Path) -> None:
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=_DPI)
