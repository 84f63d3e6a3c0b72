# SPDX-License-Identifier: BSD-3-Clause
"""Three-way comparison: what the original framework gives tells the converter from the device."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcal.data.arrays import ArrayFile, group_keys
from convcal.diagnosis.comparing import Comparison, Programs
from convcal.diagnosis.judging import as_batch, measure_levels
from convcal.diagnosis.locating import Samples
from convcal.diagnosis.tracing import Tracer
from convcal.errors import InputError

__all__ = ["SourceOutputs", "compare_three", "conclude"]

Array = NDArray[Any]


class SourceOutputs:
    """Outputs that PyTorch, ONNX Runtime, … gave for the samples.

    Parameters
    ----------
    path : path
        A ``.npz`` whose keys are ``SAMPLE/OUTPUT``, or ``OUTPUT`` with all samples along the first
        axis, in the order of the data.
    samples : sequence of str
        All samples of the data, in order.
    outputs : sequence of str
        The outputs of the models.

    Raises
    ------
    InputError
        If the file cannot be read, has none of the outputs, or not all samples.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, samples: Sequence[str], outputs: Sequence[str]
    ) -> None:
        self._arrays: dict[tuple[str, str], Array] = {}
        with ArrayFile(path) as file:
            groups = group_keys(file.headers, where=f"'{file.path}'", tensors=tuple(outputs))
            for sample, keys in groups.items():
                for name, key in keys.items():
                    if name not in outputs:
                        continue
                    array = file.read(key)
                    if sample is not None:
                        self._arrays[name, sample] = array
                        continue
                    n_held = len(array) if array.ndim else 0
                    if n_held != len(samples):
                        raise InputError(
                            f"'{name}' of '{path}' holds {n_held} samples along its first "
                            f"axis, the data have {len(samples)}; give one of each, in their "
                            "order, or keys SAMPLE/OUTPUT"
                        )
                    for index, each in enumerate(samples):
                        self._arrays[name, each] = array[index]
        self.outputs = tuple(name for name in outputs if (name, samples[0]) in self._arrays)
        if not self.outputs:
            raise InputError(
                f"'{path}' has no outputs of these samples; the outputs are {list(outputs)}, the "
                f"samples {list(samples[:3])}{' …' if len(samples) > 3 else ''}: keys are OUTPUT, "
                "or SAMPLE/OUTPUT"
            )

    def array(self, output: str, sample: str, *, like: Array) -> Array:
        """Give an output of a sample in the shape of `like`.

        Raises
        ------
        InputError
            If it is not there, or has another number of values.
        """
        array = self._arrays.get((output, sample))
        if array is None or array.size != like.size:
            what = "lacks" if array is None else f"has {array.size} values of"
            raise InputError(
                f"the source {what} output '{output}' of sample '{sample}'; {like.size} values "
                f"of shape {like.shape} are wanted"
            )
        return np.asarray(array).reshape(like.shape)


def conclude(*, reference_is_right: bool, observed_is_right: bool, is_same: bool) -> str:
    """Say whose fault a difference is.

    Parameters
    ----------
    reference_is_right, observed_is_right : bool
        Whether each agrees with the source, up to what fp16 makes of the network.
    is_same : bool
        Whether reference and observed agree.
    """
    if reference_is_right and observed_is_right:
        return "all three agree"
    if reference_is_right:
        return "source and reference agree: the device, or fp16, is at fault"
    if observed_is_right:
        return "source and observed agree: the reference package is at fault; convert it again"
    if is_same:
        return "reference and observed agree and the source differs: the converter is at fault"
    return "all three differ: the converter is at fault, and the device or fp16, too"


def compare_three(
    programs: Programs, tracer: Tracer, samples: Samples, source: SourceOutputs
) -> dict[str, dict[str, Any]]:
    """Compare outputs of the source, the reference and the observed model with each other.

    Returns
    -------
    dict
        By output its ``conclusion``, and how far both models are off the source.

    Raises
    ------
    InputError
        If the source lacks an output of a sample.
    """
    outputs = [name for name in programs.outputs if name in source.outputs]
    comparison = Comparison(programs, given=(), steps=outputs)
    worst: dict[str, dict[str, Any]] = {}
    indices = range(len(samples.names))
    arrays = list(samples.arrays(indices))
    for index, found in enumerate(tracer.trace(comparison.names, arrays)):
        for name, triple in comparison.triples(found, samples.tensors(arrays[index])):
            like = programs.seen(name, found)
            right = as_batch(source.array(name, samples.names[index], like=like))
            noise = triple.rounded.astype(np.float64) - triple.expected
            right = right.astype(np.float64)
            levels = {
                "reference": measure_levels(right, right + noise, triple.expected),
                "observed": measure_levels(right, right + noise, triple.observed),
                "between": measure_levels(triple.expected, triple.rounded, triple.observed),
            }
            for key, each in levels.items():
                known = worst.setdefault(name, {}).get(key)
                worst[name][key] = each if known is None else known.joined(each)
    return {
        name: {
            "conclusion": conclude(
                reference_is_right=not levels["reference"].is_wrong,
                observed_is_right=not levels["observed"].is_wrong,
                is_same=not levels["between"].is_wrong,
            ),
            "reference_relative_error": levels["reference"].relative,
            "observed_relative_error": levels["observed"].relative,
        }
        for name, levels in worst.items()
    }
