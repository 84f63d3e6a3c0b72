# SPDX-License-Identifier: BSD-3-Clause
"""The cases of ``convcal demo``: model pairs of calibration_data/ with their ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from convcal.correction import Correction
from convcal.data.arrays import read_samples
from convcal.data.samples import CalibrationSet, open_samples
from convcal.errors import InputError
from convcal.estimation.metrics import measure
from convcal.model_description import Feature, ModelDescription

__all__ = [
    "CASES",
    "DemoCase",
    "example",
    "find_calibration_data",
    "ground_truth",
    "largest_difference",
    "measure_quality",
]


@dataclass(frozen=True)
class DemoCase:
    """A model pair, the data to fit it on, and the data to prove it on.

    Parameters
    ----------
    name : str
        Of the case, and of its folder under ``models/``.
    title : str
        What it is, for people.
    train, heldout : str
        Calibration sets, inside calibration_data/.
    truth : str or None
        What the held-out outputs should be: pictures or sound of the output's size.
    metric : {'psnr_db', 'snr_db'}
        What quality is measured in; PSNR with the data range 1.
    """

    name: str
    title: str
    train: str
    heldout: str
    truth: str | None
    metric: Literal["psnr_db", "snr_db"]


CASES = (
    DemoCase(
        name="fsrcnn",
        title="FSRCNN x2 super-resolution of photographs (2-D)",
        train="pictures/train/low",
        heldout="pictures/heldout/low",
        truth="pictures/heldout/high",
        metric="psnr_db",
    ),
    DemoCase(
        name="audio-upsampler",
        title="upsampler of speech and music (1-D)",
        train="sound/train/low",
        heldout="sound/heldout/low",
        truth="sound/heldout/high",
        metric="snr_db",
    ),
    DemoCase(
        name="issue-2324",
        title="the exact program of apple/coremltools #2324",
        train="models/issue-2324/samples/train.npz",
        heldout="models/issue-2324/samples/heldout.npz",
        truth=None,
        metric="snr_db",
    ),
)


def find_calibration_data(given: Path | None = None) -> Path:
    """Find calibration_data/: where it was given, else here, or beside the package in a checkout.

    Raises
    ------
    InputError
        If it is not there.
    """
    here, beside = Path("calibration_data"), Path(__file__).resolve().parents[1]
    places = [given] if given else [here, beside / "calibration_data"]
    for place in places:
        if (place / "models" / CASES[0].name).is_dir():
            return place
    raise InputError(
        f"there is no calibration_data/ at '{places[0]}'; it is part of the repository and not of "
        "the installed package: run the demo in a clone of the repository, or give --data"
    )


def ground_truth(case: DemoCase, data: Path, shape: tuple[int, ...]) -> CalibrationSet:
    """Read what the held-out outputs should be.

    Parameters
    ----------
    case : DemoCase
        A case that has ground truth.
    data : pathlib.Path
        calibration_data/.
    shape : tuple of int
        The shape of the output.

    Returns
    -------
    CalibrationSet
        Samples with the key ``'truth'``, in the order of the held-out set: files of the same
        names, so many times as large as the output is of the input, are cut alike.
    """
    if case.truth is None:
        raise InputError(f"the case '{case.name}' has no ground truth")
    feature = Feature("truth", "tensor", shape, "float32")
    return open_samples(data / case.truth, ModelDescription(inputs=(feature,), outputs=()))


def measure_quality(
    case: DemoCase, data: Path, outputs: Path, *, fp32: Path, correction: Correction
) -> float:
    """Compare recorded held-out outputs with the truth, inside the margins of a correction.

    Parameters
    ----------
    case : DemoCase
        Which data, and which metric.
    data : pathlib.Path
        calibration_data/.
    outputs : pathlib.Path
        What ``convcal run`` or ``convcal apply`` wrote for the held-out set.
    fp32 : pathlib.Path
        What ``convcal run`` wrote for the fp32 model; the truth of a case that has no other.
    correction : Correction
        Its margins are left out, whether it was applied or not.

    Returns
    -------
    float
        PSNR (data range 1) or SNR in dB, over all samples together; infinite for equal outputs.
    """
    actual = [array for _, arrays in read_samples(outputs) for array in arrays.values()]
    if case.truth is None:
        truth = [array for _, arrays in read_samples(fp32) for array in arrays.values()]
    else:
        truth = [sample["truth"] for sample in ground_truth(case, data, actual[0].shape)]
    region = (slice(None), *correction.valid_region(actual[0].shape))
    metrics = measure(np.stack(truth)[region], np.stack(actual)[region], data_range=1.0)
    return float(getattr(metrics, case.metric))


def largest_difference(first: Path, second: Path) -> float:
    """Give the largest absolute difference between the outputs in two files, 0 for equal bits."""
    pairs = zip(read_samples(first), read_samples(second), strict=True)
    return max(
        float(np.max(np.abs(arrays[name].astype(np.float64) - others[name].astype(np.float64))))
        for (_, arrays), (_, others) in pairs
        for name in arrays
    )


def example(files: Sequence[Path]) -> list[np.ndarray[Any, Any]]:
    """Pick the sample with the most detail from recorded outputs, for a picture.

    Parameters
    ----------
    files : sequence of pathlib.Path
        Recordings of the same samples; the first one decides.

    Returns
    -------
    list of ndarray
        Of each file one channel, (H, W), or (T,) with at most 160 positions.
    """
    recorded = [
        [array[0, 0] for _, arrays in read_samples(file) for array in arrays.values()]
        for file in files
    ]
    detail = [float(np.mean(np.abs(np.diff(array)))) for array in recorded[0]]
    chosen = int(np.argmax(detail))
    part = slice(160) if recorded[0][chosen].ndim == 1 else slice(None)
    return [arrays[chosen][part] for arrays in recorded]
