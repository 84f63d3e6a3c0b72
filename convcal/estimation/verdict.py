# SPDX-License-Identifier: BSD-3-Clause
"""The verdict: what kind of error it is, and whether the correction is the answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convcal.estimation.registration import Registration
from convcal.estimation.rounding import RoundingLevel
from convcal.estimation.selection import Candidate, Choice, Trial, inside
from convcal.estimation.splitting import Split
from convcal.estimation.standard import standardised
from convcal.estimation.structure import (
    Growth,
    find_growth,
    find_row_stride,
    neighbour_correlation,
)
from convcal.estimation.validity import Validity

__all__ = ["Judgement", "judge"]

Array = NDArray[np.float64]

# Below this share of common variance the two have nothing to do with each other.
_RELATED = 0.1
# Neighbouring residuals correlate less than this in white noise (and in rounding).
_WHITE = 0.2
# Fewer fitted values per channel than this decide nothing.
_LEAST_VALUES = 32
_LEAST_UNITS = 16
# Pixels over the field by which a shift must grow to be a change of scale: these where the shift
# leaves more than rounding, half of the shift where it does not (the mean of a displacement that
# grows from nothing is half of its end) or where no shift is fitted; never less than the smallest
# shift that is told from none.
_GROWTH = 0.05
_LEAST_GROWTH = 0.01


@dataclass(frozen=True, eq=False)
class Judgement:
    """A verdict with its reason, and the correction that goes with it.

    Attributes
    ----------
    verdict, family, reason : str
    candidate : Candidate
        Identity where nothing is to be corrected.
    level_before, level_after : float
        Held-out residual before and after the chosen candidate, in units of what a faithful fp16
        network leaves (all channels together, or half of the worst one's); up to 1 is rounding.
    findings : dict
        What the tests for structure found, JSON-ready.
    """

    verdict: str
    family: str
    reason: str
    candidate: Candidate
    level_before: float
    level_after: float
    findings: dict[str, object]

    @property
    def is_corrected(self) -> bool:
        """Tell whether the candidate changes anything."""
        return self.candidate.model != "identity"


def judge(
    reference: Array,
    observed: Array,
    *,
    split: Split,
    choice: Choice,
    registration: Registration | None,
    validity: Validity,
    level: RoundingLevel,
    limits: tuple[int, ...],
) -> Judgement:
    """Give the verdict.

    Parameters
    ----------
    reference, observed : ndarray of float64, shape (N, C, *spatial)
    split, choice, registration, validity, level, limits
        Of the estimate.

    Returns
    -------
    Judgement
    """
    chosen = choice.chosen
    identity = choice.trials[0].candidate
    before = _level(reference, observed, identity, split, level)
    after = _level(reference, observed, chosen.candidate, split, level)
    lost = _n_lost(reference, observed, chosen.candidate)
    findings: dict[str, object] = {}

    def verdict(name: str, family: str, reason: str, *, keep: bool = False) -> Judgement:
        candidate = chosen.candidate if keep else identity
        return Judgement(name, family, reason, candidate, before, after, findings)

    for role, array in (("reference", reference), ("observed", observed)):
        if not np.isfinite(array).any():
            return verdict(
                "not-identifiable" if role == "reference" else "not-correctable",
                "non-finite",
                f"no value of the {role} output is finite, so that nothing can be compared",
            )
    spread = _spread(reference)
    if not (spread > 3 * level.single).any():
        return verdict(
            "not-identifiable",
            "constant",
            "the reference is constant in every channel, so that no shift or gain can be seen; "
            "calibrate with data that make the output vary",
        )
    if before <= 1 and lost == 0 and chosen.candidate.model == "identity":
        if _is_equal(reference, observed):
            return verdict("identical", "identical", "the two outputs are equal, value by value")
        return verdict(
            "identical",
            "rounding",
            f"the difference is {before:.2g} times what a faithful fp16 network may leave, and "
            "no shift, gain or bias takes away a material part of it",
        )
    share_clipped = float(validity.saturated.sum() + validity.nonfinite_observed.sum())
    share_clipped /= observed.size
    findings["clipped_share"] = share_clipped
    is_flat = _spread(observed) == 0
    dead = np.flatnonzero(is_flat & (spread > 3 * level.single)).tolist()
    findings["dead_channels"] = dead
    if is_flat.all():
        return verdict(
            "not-correctable",
            "constant",
            "the observed output is constant in every channel where the reference is not: its "
            "content is lost",
        )
    is_corrected = chosen.candidate.model != "identity"
    if is_corrected and after <= 1 and lost == 0:
        if registration is not None and registration.ambiguous and any(chosen.candidate.shift):
            return _periodic(verdict, registration, chosen)
        if any(s != round(s) for s in chosen.candidate.shift):
            least = tuple(max(_LEAST_GROWTH, abs(s) / 2) for s in chosen.candidate.shift)
            growth = _growth(
                reference, observed, validity=validity, limits=limits, level=level, least=least
            )
            if growth is not None:
                return _scale(verdict, growth)
        return verdict("correctable", _family(chosen.candidate), _helps(chosen, after), keep=True)
    clean = _clean_residual(reference, observed, chosen.candidate, split, validity)
    if share_clipped > 0 and _rms_level(clean, level) <= 1:
        reason = (
            f"{share_clipped:.2%} of the observed values are not finite or stand at a limit "
            f"({_limits_text(validity)}) where the reference goes on; the rest "
        )
        if is_corrected:
            return verdict(
                "partly-correctable",
                "saturation",
                reason + "is corrected to rounding, those values are lost",
                keep=True,
            )
        return verdict("not-correctable", "saturation", reason + "differs by rounding only")

    if registration is not None:
        stride = find_row_stride(reference, observed)
        if stride is not None:
            findings["row_stride"] = stride
            return verdict(
                "not-correctable",
                "row-stride",
                f"rows of {reference.shape[-1]} values were read from a buffer whose rows are "
                f"{stride} values apart, each row sheared further than the last; read the output "
                "through its strides",
            )
        least = (_GROWTH,) * len(limits)
        if chosen.candidate.model != "affine":
            least = tuple(
                min(_GROWTH, max(_LEAST_GROWTH, abs(s) / 2)) for s in chosen.candidate.shift
            )
        growth = _growth(
            reference, observed, validity=validity, limits=limits, level=level, least=least
        )
        if growth is not None:
            return _scale(verdict, growth)
        if registration.ambiguous and any(registration.whole_shift) and is_corrected:
            return _periodic(verdict, registration, chosen)
    if is_corrected:
        family, more = _family(chosen.candidate), ""
        if share_clipped > 0.001:
            family, more = "saturation", f"; {share_clipped:.2%} of the values are clipped"
        if dead:
            more += f"; channels {dead} are constant in the observed output: their content is lost"
        return verdict("partly-correctable", family, _helps(chosen, after) + more, keep=True)
    if share_clipped > 0.001:
        return verdict(
            "not-correctable",
            "saturation",
            f"{share_clipped:.2%} of the observed values are not finite or stand at a limit "
            f"({_limits_text(validity)}) where the reference goes on",
        )
    if reference.size < _LEAST_VALUES * reference.shape[1]:
        return verdict(
            "not-identifiable",
            "too-few-data",
            f"{reference.size} values in {reference.shape[1]} channels decide nothing; give more "
            "samples",
        )
    unproven = [t for t in choice.trials[1:] if t.share > 0.5 and not t.is_admissible]
    if unproven and unproven[0].n_units < _LEAST_UNITS:
        return verdict(
            "not-identifiable",
            "too-few-data",
            f"a {unproven[0].candidate.model} correction would take away {unproven[0].share:.0%} "
            f"of the squared error, but {unproven[0].n_units:.0f} independent held-out values do "
            "not prove it; give more samples",
        )
    related = _related(reference, observed, split, registration)
    findings["related_share"] = related
    findings["neighbour_correlation"] = neighbour_correlation(clean)
    if related < _RELATED:
        return verdict(
            "not-correctable",
            "unstructured",
            f"at no shift does the observed output share more than {related:.0%} of the "
            "reference's variance: its content is not there",
        )
    best = max(choice.trials[1:], key=lambda trial: trial.share, default=None)
    tried = "" if best is None else f"; the best of what can be fitted takes away {best.share:.0%}"
    if abs(neighbour_correlation(clean)) < _WHITE:
        return verdict(
            "not-correctable",
            "noise",
            f"the residual is noise, {before:.3g} times what a faithful fp16 network may leave, "
            f"and neighbours in it are unrelated{tried}",
        )
    return verdict(
        "not-correctable",
        "unstructured",
        f"the residual is {before:.3g} times what a faithful fp16 network may leave, and "
        f"no shift, gain or bias helps beyond doubt{tried}",
    )


_Verdict = Callable[..., Judgement]


def _family(candidate: Candidate) -> str:
    if candidate.model.startswith("subpixel"):
        return "sub-pixel-shift"
    return "shift" if candidate.model.startswith("shift") else "affine"


def _helps(chosen: Trial, after: float) -> str:
    candidate = chosen.candidate
    parts = []
    if any(candidate.shift):
        unit = "px" if len(candidate.shift) > 1 else "samples"
        parts.append(f"a shift of ({', '.join(f'{s:+.4g}' for s in candidate.shift)}) {unit}")
    n_channels = int(((candidate.gain != 1) | (candidate.bias != 0)).sum())
    if n_channels:
        parts.append(f"gain and bias in {n_channels} of {len(candidate.gain)} channels")
    left = (
        "leaves no more than fp16 rounding"
        if after <= 1
        else f"leaves {after:.3g} times what a faithful fp16 network may"
    )
    return (
        f"{' with '.join(parts)} takes away {chosen.share:.2%} of the squared error on held-out "
        f"data ({min(chosen.sigmas, 9999):.0f} standard errors) and {left}"
    )


def _scale(verdict: _Verdict, growth: Growth) -> Judgement:
    axis = int(np.argmax(np.abs(growth.growth)))
    result = verdict(
        "not-correctable",
        "scale",
        f"the shift grows by {growth.growth[axis]:+.3g} px along spatial axis {axis} "
        f"({growth.sigmas:.0f} standard errors over {growth.n_blocks} blocks), zero at "
        f"position {growth.fixed_point[axis]:.4g}: a change of scale, not a shift",
    )
    result.findings["growth"] = list(growth.growth)
    result.findings["fixed_point"] = [None if math.isnan(p) else p for p in growth.fixed_point]
    return result


def _periodic(verdict: _Verdict, registration: Registration, chosen: Trial) -> Judgement:
    others = ", ".join(str(s) for s in registration.ambiguous[:3])
    return verdict(
        "not-identifiable",
        "periodic",
        f"the content repeats: shifts {others} and {len(registration.ambiguous)} in all fit as "
        f"well as {registration.whole_shift} (which takes away {chosen.share:.0%}); calibrate with "
        "data that do not repeat",
    )


def _spread(array: Array) -> Array:
    """Give each channel's standard deviation over its finite values; 0 where it has none."""
    result = np.zeros(array.shape[1])
    for channel in range(array.shape[1]):
        values = array[:, channel]
        values = values[np.isfinite(values)]
        if values.size:
            result[channel] = float(values.std()) if np.ptp(values) > 0 else 0.0
    return result


def _is_equal(reference: Array, observed: Array) -> bool:
    return bool(np.array_equal(reference, observed, equal_nan=True))


def _held_residual(
    reference: Array, observed: Array, candidate: Candidate, split: Split
) -> tuple[Array, Array]:
    """Give residual and reference on held-out data, inside the margins; NaN where not held."""
    ref = reference[split.held]
    if split.held_mask is not None:
        ref = np.where(split.held_mask, ref, np.nan)
    window = inside(candidate.margins, reference.shape[2:])
    with np.errstate(invalid="ignore"):  # inf - inf: not finite, not counted
        residual = ref[window] - candidate.apply(observed[split.held])[window]
    return residual, ref[window]


def _rms_level(residual: Array, level: RoundingLevel) -> float:
    """Give the residual in units of the tolerance: of all, or half of the worst channel's."""
    finite = np.isfinite(residual)
    axes = (0, *range(2, residual.ndim))
    squares = np.square(np.where(finite, residual, 0.0)).sum(axis=axes)
    rms = np.sqrt(squares / np.maximum(finite.sum(axis=axes), 1))
    # An output that is zero throughout has no rounding: any difference is beyond it.
    tolerance = np.where(level.tolerance > 0, level.tolerance, np.finfo(np.float64).tiny)
    relative = rms / tolerance
    return float(max(np.sqrt(np.mean(relative**2)), relative.max() / 2))


def _level(
    reference: Array, observed: Array, candidate: Candidate, split: Split, level: RoundingLevel
) -> float:
    return _rms_level(_held_residual(reference, observed, candidate, split)[0], level)


def _n_lost(reference: Array, observed: Array, candidate: Candidate) -> int:
    """Count values, over all samples, that are not finite where the reference is."""
    window = inside(candidate.margins, reference.shape[2:])
    with np.errstate(invalid="ignore"):
        residual = reference[window] - candidate.apply(observed)[window]
    ref = reference[window]
    return int((np.isfinite(ref) & ~np.isfinite(residual)).sum())


def _clean_residual(
    reference: Array, observed: Array, candidate: Candidate, split: Split, validity: Validity
) -> Array:
    """Give the held-out residual without clipped values; NaN there."""
    if validity.observed is not None:
        observed = np.where(validity.observed, observed, np.nan)
    return _held_residual(reference, observed, candidate, split)[0]


def _limits_text(validity: Validity) -> str:
    ends = sorted({end for channel in validity.saturation_limits for end in channel})
    return ", ".join(f"{end:.6g}" for end in ends[:4]) or "not finite"


def _growth(
    reference: Array,
    observed: Array,
    *,
    validity: Validity,
    limits: tuple[int, ...],
    level: RoundingLevel,
    least: tuple[float, ...],
) -> Growth | None:
    ref, spread = standardised(reference, validity.reference)
    # Clipped values do not count, but zeros in their place would put edges there.
    finite = np.isfinite(observed)
    obs, _ = standardised(observed, None if finite.all() else finite)
    return find_growth(
        ref,
        obs,
        limits=limits,
        floor=np.square(level.single / spread),
        least=least,
        valid_reference=validity.reference,
        valid_observed=validity.observed,
    )


def _related(
    reference: Array, observed: Array, split: Split, registration: Registration | None
) -> float:
    """Give the share of variance in common, at the best shift."""
    if registration is not None:
        return 1 - registration.unexplained
    ref, _ = standardised(reference[split.train], np.isfinite(reference[split.train]))
    obs, _ = standardised(observed[split.train], np.isfinite(observed[split.train]))
    return float(np.median(np.square((ref * obs).mean(axis=0))))
