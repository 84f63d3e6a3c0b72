# SPDX-License-Identifier: BSD-3-Clause
"""How a shift differs from one sample or block to the next."""

from __future__ import annotations

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from convcal.estimation.solution import solve

__all__ = ["unit_covariance", "unit_deviations"]

Array = NDArray[np.float64]

_LEAST_UNITS = 8


def unit_deviations(grams: Array, floor: Array) -> Array:
    """Give by how much each unit would rather shift, to first order.

    Parameters
    ----------
    grams : ndarray of float64, shape (units, C, k, k)
        Of a `Refinement`.
    floor : ndarray of float64, shape (C,)

    Returns
    -------
    ndarray of float64, shape (units, k - 4)
    """
    scores, information = _per_unit(grams, floor)
    total = information.sum(axis=0)
    ridge = 1e-9 * np.diag(np.diag(total)) / len(grams)
    own = np.linalg.solve(information + ridge, scores[:, :, None])[:, :, 0]
    # The products were summed a last step before the shift.
    return np.asarray(own - np.linalg.solve(total, scores.sum(axis=0)))


def unit_covariance(grams: Array, floor: Array) -> Array | None:
    """Give the covariance of a shift by what its units say; None where they are fewer than 8.

    Whatever correlates the residuals within a unit, their scores count as one: the infinitesimal
    jackknife, to which the bootstrap over units converges (Efron 1982, "The jackknife, the
    bootstrap and other resampling plans").
    """
    scores, information = _per_unit(grams, floor)
    n_units = int((np.trace(information, axis1=1, axis2=2) > 0).sum())
    if n_units < _LEAST_UNITS:
        return None
    inverse = np.linalg.inv(information.sum(axis=0))
    step = inverse @ scores.sum(axis=0)
    centred = scores - information @ step
    covariance: Array = inverse @ (centred.T @ centred) @ inverse * n_units / (n_units - 1)
    # It is itself a sum over units, fewer in effect where some say most: Student's t tells how
    # much wider an interval has to be.
    told = np.trace(information, axis1=1, axis2=2)
    freedom = max(told.sum() ** 2 / np.square(told).sum() - 1, 1.0)
    wider = float(scipy.stats.t.ppf(0.975, freedom) / scipy.stats.norm.ppf(0.975))
    return covariance * wider**2


def _per_unit(grams: Array, floor: Array) -> tuple[Array, Array]:
    solution = solve(grams.sum(axis=0), floor)
    if solution is None:
        raise ValueError("the units have no gradient in common")
    basis = solution.to_score
    residual = np.zeros((basis.shape[0], basis.shape[2]))
    residual[:, -1] = 1.0
    residual[:, 1] = -solution.slope
    mean = grams.sum(axis=0)[:, 0, :]
    mean = mean / np.where(mean[:, :1] > 0, mean[:, :1], 1.0)
    residual[:, 0] = -(residual[:, 1:] * mean[:, 1:]).sum(axis=1)
    scores = np.einsum("cak,uckl,cl->ua", basis, grams, residual, optimize=True)
    # `basis` is weighted by slope over residual already: times the residual it is the slopes.
    plain = basis * solution.residual[:, None, None]
    information = np.einsum("cak,uckl,cbl->uab", basis, grams, plain, optimize=True)
    return scores, information
