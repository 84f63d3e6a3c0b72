# SPDX-License-Identifier: BSD-3-Clause
"""Train the 1-D audio upsampler (2 kHz to 8 kHz) and write its weights.

Needs PyTorch and the Debian packages that `prepare.py` names, run it from the top of the
repository::

    python -m calibration_data.train_audio

The network has the plan of FSRCNN in one dimension: a wide first convolution, a narrow stack,
and a strided transposed convolution at the end. The excerpts of `sound/train` alone are too
little for it: after 12000 steps on them it gained 2 dB there and nothing on other recordings. It
learns from whole packages instead, without the recordings that `sound/heldout` was cut from.
"""

from __future__ import annotations

import numpy as np
import torch

from calibration_data.prepare import SOUND_FACTOR, reduce_sound, training_recordings
from calibration_data.training import audio_upsampler, run

WINDOW = 1024
BATCH = 8


class WindowDraw:
    """Draw windows from each package equally often, with random loudness and sign."""

    def __init__(self) -> None:
        packages = training_recordings(shortest=WINDOW * SOUND_FACTOR)
        self.packages = [[(reduce_sound(high), high) for high in highs] for highs in packages]
        lengths = [np.array([high.size for high in highs], np.float64) for highs in packages]
        self.shares = [length / length.sum() for length in lengths]

    def __call__(self, random: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Return low and high windows, (BATCH, 1, length)."""
        inputs, targets = [], []
        for package in random.integers(len(self.packages), size=BATCH):
            pairs = self.packages[package]
            low, high = pairs[random.choice(len(pairs), p=self.shares[package])]
            start = random.integers(high.size // SOUND_FACTOR - WINDOW + 1)
            stop = start + WINDOW
            gain = random.choice((-1, 1)) * np.exp(random.uniform(-1.5, 0.5)) / 32768
            inputs.append(gain * low[start:stop])
            targets.append(gain * high[start * SOUND_FACTOR : stop * SOUND_FACTOR])
        return (
            torch.from_numpy(np.stack(inputs).astype(np.float32)[:, None]),
            torch.from_numpy(np.stack(targets).astype(np.float32)[:, None]),
        )


def negative_snr(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return minus the mean SNR of the windows in dB; near-silent ones count for little."""
    floor = 1e-6
    error = torch.mean((outputs - targets) ** 2, dim=-1) + floor
    return torch.mean(10 * torch.log10(error / (torch.mean(targets**2, dim=-1) + floor)))


if __name__ == "__main__":
    run("audio-upsampler", audio_upsampler, WindowDraw(), negative_snr, steps=20000)
