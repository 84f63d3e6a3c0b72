# SPDX-License-Identifier: BSD-3-Clause
"""Build the packages of `models/` from the committed weights with coremltools' MIL builder.

Run it from the top of the repository; PyTorch is not needed::

    python -m calibration_data.build                  # rewrites the committed packages
    python -m calibration_data.build --output FOLDER  # builds them somewhere else

Everything is left as `coremltools.convert` does it by default; only what would differ from one
build to the next is set right afterwards: the conversion date, the identifiers in the package's
manifest and the order of protobuf maps.
"""

from __future__ import annotations

import argparse
import json
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import coremltools as ct  # noqa: TID251 - a script, no part of the package
import numpy as np
from coremltools.converters.mil import Builder  # noqa: TID251
from numpy.typing import NDArray

from calibration_data.networks import (
    AUDIO_UPSAMPLER,
    FSRCNN,
    LAYERS,
    MODELS,
    NETWORKS,
    Network,
    load_weights,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Weights = dict[str, NDArray[np.float32]]
PRECISIONS = {"fp32": ct.precision.FLOAT32, "fp16": ct.precision.FLOAT16}
TARGET = ct.target.iOS15
ISSUE = "issue-2324"
ISSUE_DESCRIPTION = "The program of apple/coremltools issue 2324"
DATE_KEY = "com.github.apple.coremltools.conversion_date"


def _upsampler_output(network: Network, weights: Weights, features: Any) -> Any:
    """Add the operations of a trained network, whose input is `features`."""
    for name in LAYERS:
        weight = weights[f"{name}.weight"]
        features = Builder.conv(
            x=features,
            weight=weight,
            bias=weights[f"{name}.bias"],
            pad_type="custom",
            pad=[size // 2 for size in weight.shape[2:] for _ in range(2)],
            name=f"{name}_conv",
        )
        alpha = weights[f"{name}.alpha"]
        if alpha.size == 1:
            features = Builder.leaky_relu(x=features, alpha=alpha.item(), name=f"{name}_prelu")
        else:
            features = Builder.prelu(x=features, alpha=alpha, name=f"{name}_prelu")
    return Builder.conv_transpose(
        x=features,
        weight=weights["deconvolution.weight"],
        bias=weights["deconvolution.bias"],
        strides=[network.stride] * (len(network.pad) // 2),
        pad_type="custom",
        pad=list(network.pad),
        output_shape=list(network.output_shape),
        name=network.output_name,
    )


def fsrcnn_program(weights: Weights) -> Any:
    """Return the MIL program of the FSRCNN package."""

    @Builder.program(
        input_specs=[Builder.TensorSpec(shape=FSRCNN.input_shape)], opset_version=TARGET
    )
    def program(luma: Any) -> Any:
        return _upsampler_output(FSRCNN, weights, luma)

    return program


def audio_upsampler_program(weights: Weights) -> Any:
    """Return the MIL program of the audio upsampler package."""

    @Builder.program(
        input_specs=[Builder.TensorSpec(shape=AUDIO_UPSAMPLER.input_shape)], opset_version=TARGET
    )
    def program(waveform: Any) -> Any:
        return _upsampler_output(AUDIO_UPSAMPLER, weights, waveform)

    return program


def issue_program(weights: Weights) -> Any:
    """Return the MIL program of apple/coremltools issue 2324."""

    @Builder.program(input_specs=[Builder.TensorSpec(shape=(1, 1, 4))], opset_version=TARGET)
    def program(x: Any) -> Any:
        return Builder.conv_transpose(
            x=x,
            weight=weights["weight"],
            strides=[2],
            pad_type="custom",
            pad=[1, 0],
            output_shape=[1, 2, 8],
            name="y",
        )

    return program


PROGRAMS: dict[str, tuple[Callable[[Weights], Any], str]] = {
    "fsrcnn": (fsrcnn_program, FSRCNN.description),
    "audio-upsampler": (audio_upsampler_program, AUDIO_UPSAMPLER.description),
    ISSUE: (issue_program, ISSUE_DESCRIPTION),
}


def _normalise_manifest(package: Path) -> None:
    """Give the items fixed identifiers, and leave out a folder for weights that has none.

    Tiny weights are stored in the program itself, and git keeps no empty folder: a manifest that
    names one makes the package unreadable in a clone.
    """
    path = package / "Manifest.json"
    manifest = json.loads(path.read_text())
    root = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    entries = {}
    for entry in sorted(manifest["itemInfoEntries"].values(), key=lambda entry: entry["path"]):
        item = package / "Data" / entry["path"]
        if item.is_dir() and not any(item.iterdir()):
            item.rmdir()
            continue
        identifier = str(uuid.uuid5(uuid.NAMESPACE_URL, f"convcal:{entry['path']}")).upper()
        entries[identifier] = entry
        if entry["path"] == root:
            manifest["rootModelIdentifier"] = identifier
    manifest["itemInfoEntries"] = entries
    path.write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n")


def build(name: str, precision: str, weights: Weights, package: Path) -> None:
    """Convert one program and write one package, replacing what is there.

    Parameters
    ----------
    name : str
        A key of `PROGRAMS`.
    precision : str
        ``"fp32"`` or ``"fp16"``.
    weights : dict of ndarray
        What `calibration_data.networks.load_weights` gives.
    package : Path
        The `.mlpackage` to write.
    """
    program, description = PROGRAMS[name]
    model = ct.convert(
        program(weights),
        convert_to="mlprogram",
        compute_precision=PRECISIONS[precision],
        minimum_deployment_target=TARGET,
        skip_model_load=True,
    )
    model.short_description = f"{description}, {precision}"
    model.author = "convcal"
    model.license = "BSD-3-Clause"
    model.version = "1"
    if package.exists():
        shutil.rmtree(package)
    package.parent.mkdir(parents=True, exist_ok=True)
    model.save(str(package))
    spec = model.get_spec()
    spec.description.metadata.userDefined.pop(DATE_KEY, None)
    document = package / "Data" / "com.apple.CoreML" / "model.mlmodel"
    document.write_bytes(spec.SerializeToString(deterministic=True))
    _normalise_manifest(package)


def write_issue_data(folder: Path) -> None:
    """Write the weights and the samples of the tiny pair: uniform in [0, 1), seeded."""
    random = np.random.default_rng(2324)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "weights.npz", weight=random.random((1, 2, 3), np.float32))
    (folder / "samples").mkdir(exist_ok=True)
    for split, count in (("train", 24), ("heldout", 8)):
        samples = random.random((count, 1, 1, 4), np.float32)
        np.savez(folder / "samples" / f"{split}.npz", x=samples)


def main(arguments: Iterable[str] | None = None) -> None:
    """Build all six packages."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=Path, default=MODELS, help="default: %(default)s")
    output = parser.parse_args(arguments).output
    write_issue_data(output / ISSUE)
    sources = {network.name: network.folder for network in NETWORKS} | {ISSUE: output / ISSUE}
    for name, source in sources.items():
        weights = load_weights(source / "weights.npz")
        for precision in PRECISIONS:
            build(name, precision, weights, output / name / f"{precision}.mlpackage")
            print(f"built {name}/{precision}.mlpackage")


if __name__ == "__main__":
    main()
