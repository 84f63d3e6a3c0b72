# SPDX-License-Identifier: BSD-3-Clause
"""Write `tests/golden/`: inputs and outputs of the three fp32 models as PyTorch computes them.

Needs PyTorch, run it from the top of the repository::

    python -m calibration_data.golden

Each file holds the inputs and outputs under the packages' names with a leading sample axis, and
`uncropped`, all of the first sample's transposed convolution. PyTorch works in float64 here;
the results are rounded to float32 once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from calibration_data.evaluate import HERE, read_picture, read_sound
from calibration_data.networks import AUDIO_UPSAMPLER, FSRCNN, MODELS, Network, load_weights
from calibration_data.training import Upsampler, audio_upsampler, fsrcnn

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

GOLDEN = HERE.parent / "tests" / "golden"


def _write(name: str, arrays: dict[str, NDArray[np.float32]]) -> None:
    GOLDEN.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(GOLDEN / f"{name}.npz", **arrays)
    print(f"wrote tests/golden/{name}.npz")


def write_network(
    network: Network, make: Callable[[], Upsampler], samples: NDArray[np.float32]
) -> None:
    """Write the golden file of one trained network."""
    model = make()
    model.load_arrays(load_weights(network.folder / "weights.npz"))
    model.double()
    with torch.no_grad():
        inputs = torch.from_numpy(samples).double()
        outputs = torch.stack([model(sample) for sample in inputs])
        uncropped = model.uncropped(inputs[0])
    arrays = {
        network.input_name: samples,
        network.output_name: outputs.numpy().astype(np.float32),
        "uncropped": uncropped.numpy().astype(np.float32),
    }
    _write(network.name, arrays)


def write_issue() -> None:
    """Write the golden file of the program of apple/coremltools issue 2324."""
    folder = MODELS / "issue-2324"
    weight = torch.from_numpy(load_weights(folder / "weights.npz")["weight"]).double()
    samples = load_weights(folder / "samples" / "heldout.npz")["x"]
    inputs = torch.from_numpy(samples).double()
    full = torch.stack(
        [torch.nn.functional.conv_transpose1d(sample, weight, stride=2) for sample in inputs]
    )
    full_arrays = full.numpy().astype(np.float32)
    outputs = full_arrays[..., 1:9]
    _write("issue-2324", {"x": samples, "y": outputs, "uncropped": full_arrays[0]})


def main() -> None:
    """Write all three golden files."""
    random = np.random.default_rng(0)
    tile = read_picture(HERE / "pictures" / "heldout" / "low" / "chelsea.png")[:64, 64:128]
    noise = random.random(FSRCNN.input_shape, np.float32)
    write_network(FSRCNN, fsrcnn, np.stack([tile[None, None], noise]))
    window = read_sound(HERE / "sound" / "heldout" / "low" / "en-demo-congrats.wav")[1024:2048]
    noise = random.uniform(-1, 1, AUDIO_UPSAMPLER.input_shape).astype(np.float32)
    write_network(AUDIO_UPSAMPLER, audio_upsampler, np.stack([window[None, None], noise]))
    write_issue()


if __name__ == "__main__":
    main()
