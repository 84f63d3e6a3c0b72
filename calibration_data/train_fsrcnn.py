# SPDX-License-Identifier: BSD-3-Clause
"""Train the FSRCNN x2 network on `pictures/train` and write its weights.

Needs PyTorch, run it from the top of the repository::

    python -m calibration_data.train_fsrcnn

The network is that of Dong, Loy and Tang, "Accelerating the super-resolution convolutional
neural network" (ECCV 2016). The held-out pictures are not looked at.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from calibration_data.training import fsrcnn, run

PICTURES = Path(__file__).resolve().parent / "pictures" / "train" / "high"
FACTOR = 2
SCALES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
PATCH = 40
BATCH = 12


def training_pairs() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return (low, high) pictures in [0, 1]: each train picture at several sizes."""
    pairs = []
    for path in sorted(PICTURES.glob("*.png")):
        with Image.open(path) as picture:
            for scale in SCALES:
                width = int(picture.width * scale) // FACTOR
                height = int(picture.height * scale) // FACTOR
                size = (width * FACTOR, height * FACTOR)
                high = picture.resize(size, Image.Resampling.BICUBIC)
                low = high.resize((width, height), Image.Resampling.BICUBIC)
                arrays = [np.asarray(image, np.float32) / 255 for image in (low, high)]
                pairs.append((torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1])))
    return pairs


class PatchDraw:
    """Draw patches, in proportion to the pictures' areas, in one of eight orientations."""

    def __init__(self) -> None:
        self.pairs = training_pairs()
        areas = np.array([low.numel() for low, _ in self.pairs], np.float64)
        self.shares = areas / areas.sum()

    def __call__(self, random: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Return low and high patches, (BATCH, 1, size, size)."""
        inputs, targets = [], []
        for index in random.choice(len(self.pairs), BATCH, p=self.shares):
            low, high = self.pairs[index]
            top = random.integers(low.shape[0] - PATCH + 1)
            left = random.integers(low.shape[1] - PATCH + 1)
            turns, mirrored = random.integers(4), random.integers(2)
            for patches, image, factor in ((inputs, low, 1), (targets, high, FACTOR)):
                rows = slice(top * factor, (top + PATCH) * factor)
                columns = slice(left * factor, (left + PATCH) * factor)
                patch = torch.rot90(image[rows, columns], int(turns))
                patches.append(patch.flip(0) if mirrored else patch)
        return torch.stack(inputs)[:, None], torch.stack(targets)[:, None]


if __name__ == "__main__":
    run("fsrcnn", fsrcnn, PatchDraw(), torch.nn.functional.l1_loss, steps=16000)
