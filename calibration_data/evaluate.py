# SPDX-License-Identifier: BSD-3-Clause
"""Measure both networks on the held-out files against plain interpolation.

Run it from the top of the repository; it prints the table of `README.md`::

    python -m calibration_data.evaluate

The networks run in NumPy, tile by tile (window by window) as the packages with their
fixed shapes are used, neighbouring tiles sharing nothing. The interpolations see the whole file.
"""

from __future__ import annotations

import wave
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy.signal import resample_poly

from calibration_data.networks import AUDIO_UPSAMPLER, FSRCNN, Network, forward, load_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
SHAVE = 2


def read_picture(path: Path) -> NDArray[np.float32]:
    """Return a greyscale picture as (height, width) in [0, 1]."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L"), np.float32) / 255


def read_sound(path: Path) -> NDArray[np.float32]:
    """Return a mono 16-bit recording as samples in [-1, 1)."""
    with wave.open(str(path), "rb") as file:
        frames = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return frames.astype(np.float32) / 32768


def by_tiles(
    network: Network, weights: dict[str, NDArray[np.float32]], signal: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Run a network over non-overlapping tiles of its fixed input shape and join the outputs."""
    tile = network.input_shape[2:]
    if any(size % step for size, step in zip(signal.shape, tile, strict=True)):
        msg = f"a signal of shape {signal.shape} does not divide into tiles of {tile}"
        raise ValueError(msg)
    result = np.empty([size * network.stride for size in signal.shape])
    counts = [size // step for size, step in zip(signal.shape, tile, strict=True)]
    for index in np.ndindex(*counts):
        starts = [i * step for i, step in zip(index, tile, strict=True)]
        source = tuple(slice(start, start + step) for start, step in zip(starts, tile, strict=True))
        target = tuple(
            slice(part.start * network.stride, part.stop * network.stride) for part in source
        )
        result[target] = forward(network, weights, signal[source][None, None])[0, 0]
    return result


def bicubic(luma: NDArray[np.float32]) -> NDArray[np.float64]:
    """Enlarge a picture twofold with Pillow's bicubic filter, in floating point, clipped."""
    size = (luma.shape[1] * FSRCNN.stride, luma.shape[0] * FSRCNN.stride)
    enlarged = Image.fromarray(luma).resize(size, Image.Resampling.BICUBIC)
    return np.clip(np.asarray(enlarged, np.float64), 0, 1)


def psnr(reference: NDArray[np.floating], picture: NDArray[np.floating]) -> float:
    """Return the PSNR in dB for a data range of 1, without the outermost `SHAVE` pixels."""
    inner = (slice(SHAVE, -SHAVE), slice(SHAVE, -SHAVE))
    return float(-10 * np.log10(np.mean((reference[inner] - picture[inner]) ** 2)))


def snr(reference: NDArray[np.floating], sound: NDArray[np.floating]) -> float:
    """Return the SNR in dB."""
    return float(10 * np.log10(np.sum(reference**2) / np.sum((reference - sound) ** 2)))


def picture_figures() -> dict[str, tuple[float, float]]:
    """Return bicubic's and the network's PSNR for each held-out picture."""
    weights = load_weights(FSRCNN.folder / "weights.npz")
    figures = {}
    for path in sorted((HERE / "pictures" / "heldout" / "low").glob("*.png")):
        low = read_picture(path)
        high = read_picture(path.parents[1] / "high" / path.name).astype(np.float64)
        upscaled = np.clip(by_tiles(FSRCNN, weights, low), 0, 1)
        figures[path.stem] = (psnr(high, bicubic(low)), psnr(high, upscaled))
    return figures


def sound_figures() -> dict[str, tuple[float, float]]:
    """Return polyphase resampling's and the network's SNR for each held-out sound."""
    weights = load_weights(AUDIO_UPSAMPLER.folder / "weights.npz")
    figures = {}
    for path in sorted((HERE / "sound" / "heldout" / "low").glob("*.wav")):
        low = read_sound(path).astype(np.float64)
        high = read_sound(path.parents[1] / "high" / path.name).astype(np.float64)
        resampled = resample_poly(low, AUDIO_UPSAMPLER.stride, 1)
        upsampled = by_tiles(AUDIO_UPSAMPLER, weights, low)
        figures[path.stem] = (snr(high, resampled), snr(high, upsampled))
    return figures


def table(figures: dict[str, tuple[float, float]], heading: tuple[str, str, str]) -> str:
    """Return a Markdown table of the figures with their gains and means."""
    rows = list(figures.items())
    baseline, network = np.mean([pair for _, pair in rows], axis=0)
    rows.append(("mean", (baseline, network)))
    lines = [f"| {' | '.join(heading)} | gain |", "|---|---:|---:|---:|"]
    for name, (before, after) in rows:
        lines.append(f"| {name} | {before:.2f} | {after:.2f} | {after - before:+.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Print both tables."""
    print(table(picture_figures(), ("held-out picture", "bicubic, dB", "FSRCNN, dB")))
    print()
    print(table(sound_figures(), ("held-out sound", "resample_poly, dB", "network, dB")))


if __name__ == "__main__":
    main()
