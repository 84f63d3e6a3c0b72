# SPDX-License-Identifier: BSD-3-Clause
"""The verdict: what kind of error it is, and whether the correction is the answer."""

from __future__ import annotations

import math

import numpy as np

from convcal.estimation import recognition
from convcal.estimation.candidates import Candidate
from convcal.estimation.facts import Facts
from convcal.estimation.judgement import Judgement, conclude, helps, refuse, tried, unit
from convcal.estimation.registration import Registration
from convcal.estimation.structure import CLEAR_GROWTH, Growth
from convcal.estimation.validity import Validity
from convcal.words import AXES

__all__ = ["judge"]

# Below this share of common variance the two have nothing to do with each other.
_RELATED = 0.1
# Neighbouring residuals correlate less than this in white noise (and in rounding).
_WHITE = 0.2
# Fewer values per channel than this decide nothing.
_LEAST_VALUES = 32
_LEAST_UNITS = 16
# A larger share of clipped values is named beside what else is wrong.
_CLIPPED = 0.001
# Below this share of common variance what was added is no noise on a signal but garbage.
_INTACT = 0.8
# Above this, with a clear fraction of a pixel, it is displaced.
_MOVED = 0.4
# Pixels over the field by which a shift must grow to be a change of scale: the clear growth where
# the shift leaves more than rounding, half of the shift where it does not (the mean of a
# displacement that grows from nothing is half of its end) or where no shift is fitted; never less
# than the smallest shift that is told from none.
_LEAST_GROWTH = 0.01
# Fractions of a pixel below this are not clear.
_LEAST_FRACTION = 0.01


def judge(facts: Facts) -> Judgement:
    """Give the verdict: that of the first rule that has one."""
    if facts.candidate.resampling is not None:
        growth = facts.growth((_LEAST_GROWTH,) * len(facts.limits))
        if growth is not None:
            _note(facts, growth)
    for rule in _RULES:
        judgement = rule(facts)
        if judgement is not None:
            return judgement
    return _unstructured(facts)


# The rules, in their order


def _nothing_finite(facts: Facts) -> Judgement | None:
    for role, array in (("reference", facts.reference), ("observed", facts.observed)):
        if not np.isfinite(array).any():
            return refuse(
                facts,
                "not-identifiable" if role == "reference" else "not-correctable",
                "non-finite",
                f"no value of the {role} output is finite, so that nothing can be compared",
            )
    return None


def _constant_reference(facts: Facts) -> Judgement | None:
    if facts.has_signal.any():
        return None
    return refuse(
        facts,
        "not-identifiable",
        "constant",
        "the reference is constant in every channel, so that no shift or gain can be seen; "
        "calibrate with data that make the output vary",
    )


def _identical(facts: Facts) -> Judgement | None:
    if facts.level_before > 1 or facts.n_lost or facts.is_corrected:
        return None
    if np.array_equal(facts.reference, facts.observed, equal_nan=True):
        reason = "the two outputs are equal, value by value"
        return refuse(facts, "identical", "identical", reason)
    return refuse(
        facts,
        "identical",
        "rounding",
        f"the difference is {facts.level_before:.2g} times what a faithful fp16 network may "
        "leave, and no shift, gain or bias takes away a material part of it",
    )


def _constant_observed(facts: Facts) -> Judgement | None:
    facts.findings["clipped_share"] = facts.share_clipped
    facts.findings["dead_channels"] = np.flatnonzero(facts.is_flat & facts.has_signal).tolist()
    if not facts.is_flat.all():
        return None
    return refuse(
        facts,
        "not-correctable",
        "constant",
        "the observed output is constant in every channel where the reference is not: its "
        "content is lost",
    )


def _solved(facts: Facts) -> Judgement | None:
    """Accept what leaves rounding only, unless it is one of many or the mean of a growth."""
    if not facts.is_corrected or facts.level_after > 1 or facts.n_lost:
        return None
    shift = facts.candidate.shift
    if facts.registration is not None and facts.registration.ambiguous and any(shift):
        return _periodic(facts, facts.registration)
    if any(s != round(s) for s in shift) and facts.candidate.resampling is None:
        growth = facts.growth(tuple(max(_LEAST_GROWTH, abs(s) / 2) for s in shift))
        if growth is not None and not _is_repetition(growth, facts.registration):
            return _scale(facts, growth)
    reason = helps(facts.choice.chosen, facts.level_after)
    return conclude(facts, "correctable", _family(facts.candidate), reason, facts.candidate)


def _clipped_only(facts: Facts) -> Judgement | None:
    if not facts.is_clipped.any() or facts.in_tolerances(facts.clean_residual) > 1:
        return None
    reason = f"{_clipped_text(facts)}; the rest "
    if not facts.is_corrected:
        reason += "differs by rounding only"
        return refuse(facts, "not-correctable", "saturation", reason)
    reason += "is corrected to rounding, those values are lost"
    return conclude(facts, "partly-correctable", "saturation", reason, facts.candidate)


def _resampled(facts: Facts) -> Judgement | None:
    """Keep what was proven to undo a scale or a row stride: what it leaves comes of that."""
    candidate = facts.candidate
    return None if candidate.resampling is None and candidate.rows is None else _partly(facts)


def _growing(facts: Facts) -> Judgement | None:
    if facts.registration is None:
        return None
    least = (CLEAR_GROWTH,) * len(facts.limits)
    if facts.candidate.model != "affine":
        least = tuple(
            min(CLEAR_GROWTH, max(_LEAST_GROWTH, abs(s) / 2)) for s in facts.candidate.shift
        )
    growth = facts.growth(least)
    if growth is None or _is_repetition(growth, facts.registration):
        return None
    return _scale(facts, growth)


def _repeating(facts: Facts) -> Judgement | None:
    found = facts.registration
    if found is None or not (found.ambiguous and any(found.whole_shift) and facts.is_corrected):
        return None
    return _periodic(facts, found)


def _partly(facts: Facts) -> Judgement | None:
    if not facts.is_corrected:
        return None
    family, more = _family(facts.candidate), ""
    if family == "shift" and facts.registration is not None:
        fine = facts.registration
        if not all(fine.is_whole):
            values = ", ".join(f"{s:+.4g}" for s in fine.raw_shift)
            family, more = (
                "sub-pixel-shift",
                f"; registration says ({values}), whose fraction corrects no more than that",
            )
    # Flat areas that are stretched repeat their values too.
    if facts.share_lost > _CLIPPED and facts.candidate.resampling is None:
        family, more = "saturation", f"; {facts.share_lost:.2%} of the values are clipped"
    if _at_edge(facts):
        more += (
            "; the shift lies at the edge of the search: search further with "
            "--max-shift (max_shift=)"
        )
    dead = facts.findings["dead_channels"]
    if dead:
        more += f"; channels {dead} are constant in the observed output: their content is lost"
    reason = helps(facts.choice.chosen, facts.level_after) + more
    return conclude(facts, "partly-correctable", family, reason, facts.candidate)


def _clipped(facts: Facts) -> Judgement | None:
    if facts.share_lost <= _CLIPPED:
        return None
    return refuse(facts, "not-correctable", "saturation", _clipped_text(facts))


def _zeroed(facts: Facts) -> Judgement | None:
    """Name saturation to zero: where the reference is beyond all that is seen, nothing is."""
    largest = np.abs(np.where(np.isfinite(facts.observed), facts.observed, 0.0))
    largest = largest.max(axis=(0, *range(2, facts.observed.ndim)), keepdims=True)
    # Of two values either side of the limit the kept one may have been rounded up past the other.
    is_beyond = np.abs(facts.reference) > (1 - 2.0**-10) * largest
    is_zeroed = (facts.observed == 0) & is_beyond
    if facts.is_corrected or not is_zeroed.any():
        return None
    rest = np.where(is_zeroed, np.nan, facts.reference - facts.observed)
    if facts.in_tolerances(rest) > 1:
        return None
    return refuse(
        facts,
        "not-correctable",
        "saturation",
        f"{float(is_zeroed.mean()):.2%} of the observed values are 0 where the reference is "
        f"larger than any observed value ({float(largest.max()):.6g}); the rest differs by "
        "rounding only",
    )


def _blurred(facts: Facts) -> Judgement | None:
    """Name a shift that moving back does not mend."""
    found = facts.registration
    if found is None or found.ambiguous or facts.related < _MOVED:
        return None
    clear = [
        abs(s - round(s)) > max(_LEAST_FRACTION, 10 * error)
        for s, error in zip(found.raw_shift, found.standard_error, strict=True)
    ]
    if not any(clear):
        return None
    values = ", ".join(f"{s:+.4g}" for s in found.raw_shift)
    return refuse(
        facts,
        "not-correctable",
        "sub-pixel-shift",
        f"the observed output is displaced, by a shift of ({values}) {unit(found.raw_shift)}, but "
        f"moving it back does not help beyond doubt: resampling lost the detail{tried(facts)}",
    )


def _too_few(facts: Facts) -> Judgement | None:
    n_values, n_channels = facts.reference.size, facts.reference.shape[1]
    if n_values < _LEAST_VALUES * n_channels:
        return refuse(
            facts,
            "not-identifiable",
            "too-few-data",
            f"{n_values} values in {n_channels} channels decide nothing; give more samples",
        )
    unproven = [t for t in facts.choice.trials[1:] if t.share > 0.5 and not t.is_admissible]
    if not unproven or unproven[0].n_units >= _LEAST_UNITS:
        return None
    return refuse(
        facts,
        "not-identifiable",
        "too-few-data",
        f"a {unproven[0].candidate.model} correction would take away {unproven[0].share:.0%} "
        f"of the squared error, but {unproven[0].n_units:.0f} independent held-out values do "
        "not prove it; give more samples",
    )


def _unrelated(facts: Facts) -> Judgement | None:
    facts.findings["related_share"] = facts.related
    facts.findings["neighbour_correlation"] = facts.neighbour_correlation
    if facts.related >= _RELATED:
        return None
    return refuse(
        facts,
        "not-correctable",
        "unstructured",
        f"{_searched(facts)} does the observed output share more than {facts.related:.0%} of the "
        "reference's variance: its content is not there",
    )


def _noise(facts: Facts) -> Judgement | None:
    if abs(facts.neighbour_correlation) >= _WHITE or facts.related < _INTACT:
        return None
    return refuse(
        facts,
        "not-correctable",
        "noise",
        f"the residual is noise, {facts.level_before:.3g} times what a faithful fp16 network may "
        f"leave, and neighbours in it are unrelated{tried(facts)}; keep the operation in fp32",
    )


def _unstructured(facts: Facts) -> Judgement:
    return refuse(
        facts,
        "not-correctable",
        "unstructured",
        f"the residual is {facts.level_before:.3g} times what a faithful fp16 network may leave, "
        f"and no shift, gain or bias helps beyond doubt{tried(facts)}",
    )


_RULES = (
    _nothing_finite,
    _constant_reference,
    recognition.wrong_places,
    recognition.threshold,
    _identical,
    _constant_observed,
    recognition.dead_channels,
    recognition.channel_order,
    recognition.stride_collapse,
    recognition.flat_offset,
    _solved,
    _clipped_only,
    _resampled,
    recognition.row_stride,
    _growing,
    recognition.prefix,
    _repeating,
    recognition.warp,
    recognition.tabulated,
    _partly,
    _clipped,
    _zeroed,
    _blurred,
    _too_few,
    _unrelated,
    _noise,
)


# Their words


def _family(candidate: Candidate) -> str:
    for name in ("scale", "row-stride"):
        if candidate.model.startswith(name):
            return name
    if candidate.model.startswith("subpixel"):
        return "sub-pixel-shift"
    return "shift" if candidate.model.startswith("shift") else "affine"


def _at_edge(facts: Facts) -> bool:
    """Tell whether the whole-pixel shift is the largest that was tried along some axis."""
    found = facts.registration
    return found is not None and any(
        abs(s) == limit < size - 1
        for s, limit, size in zip(
            found.whole_shift, facts.limits, facts.reference.shape[2:], strict=True
        )
        if s
    )


def _searched(facts: Facts) -> str:
    """Say which shifts were tried, and how to try more."""
    if not facts.limits:
        return "in no channel"
    limits = " x ".join(str(limit) for limit in facts.limits)
    return (
        f"at no shift up to {limits} {unit(facts.limits)} either way (search further with "
        "--max-shift (max_shift=))"
    )


def _note(facts: Facts, growth: Growth) -> None:
    facts.findings["growth"] = list(growth.growth)
    facts.findings["fixed_point"] = [None if math.isnan(p) else p for p in growth.fixed_point]


def _is_repetition(growth: Growth, found: Registration | None) -> bool:
    """Tell whether blocks may have taken one repetition of the content for another."""
    if found is None or not found.ambiguous:
        return False
    nearest = min(
        max(abs(o - s) for o, s in zip(other, found.whole_shift, strict=True))
        for other in found.ambiguous
    )
    return max(abs(g) for g in growth.growth) > nearest / 2


def _scale(facts: Facts, growth: Growth) -> Judgement:
    _note(facts, growth)
    spatial = facts.reference.shape[2:]
    grown = " and ".join(
        f"by {pixels:+.3g} {unit(spatial)} over {size} {noun}s (zero at {noun} {place:.4g})"
        for (noun, _, _), pixels, size, place in zip(
            AXES[len(spatial)], growth.growth, spatial, growth.fixed_point, strict=True
        )
        if pixels
    )
    shares = [t.share for t in facts.choice.trials if t.candidate.resampling is not None]
    undone = (
        f"undoing it takes away {max(shares):.0%} of the squared error on held-out data, which "
        "does not prove it: give more samples, or some with more detail"
        if shares
        else "no scale could be fitted: let --model (model=) be auto or scale, or give more samples"
    )
    return refuse(
        facts,
        "not-correctable",
        "scale",
        f"the shift grows {grown}, {growth.sigmas:.0f} standard errors over {growth.n_blocks} "
        f"blocks: a change of scale, not a shift; {undone}; or mend the operation that resamples: "
        "state its sampling mode, keep it in fp32, or tile what it works on",
    )


def _periodic(facts: Facts, found: Registration) -> Judgement:
    others = ", ".join(str(s) for s in found.ambiguous[:3])
    return refuse(
        facts,
        "not-identifiable",
        "periodic",
        f"the content repeats: {len(found.ambiguous)} other shifts, {others} among them, fit as "
        f"well as {found.whole_shift} (which takes away {facts.choice.chosen.share:.0%}); "
        "calibrate with data that do not repeat",
    )


def _clipped_text(facts: Facts) -> str:
    return (
        f"{facts.share_clipped:.2%} of the observed values are not finite or stand at a limit "
        f"({_limits_text(facts.validity)}) where the reference goes on"
    )


def _limits_text(validity: Validity) -> str:
    ends = sorted({end for channel in validity.saturation_limits for end in channel})
    return ", ".join(f"{end:.6g}" for end in ends[:4]) or "not finite"
