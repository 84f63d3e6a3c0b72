# SPDX-License-Identifier: BSD-3-Clause
"""The packages and outputs that `tests/golden/pytorch.py` wrote."""

import json
from pathlib import Path

import numpy as np

__all__ = ["GOLDENS", "load"]

_FOLDER = Path(__file__).parent / "golden" / "pytorch"
GOLDENS = sorted(path.stem for path in _FOLDER.glob("*.npz"))
_MODEL, _WEIGHTS = "com.apple.CoreML/model.mlmodel", "com.apple.CoreML/weights"


def load(name, folder):
    """Write a package into `folder`; give its path, and the samples: inputs and outputs by name."""
    with np.load(_FOLDER / f"{name}.npz") as file:
        arrays = dict(file)
    package = folder / f"{name}.mlpackage"
    (package / "Data" / _WEIGHTS).mkdir(parents=True)
    (package / "Data" / _MODEL).write_bytes(arrays.pop("model").tobytes())
    if "weights" in arrays:
        (package / "Data" / _WEIGHTS / "weight.bin").write_bytes(arrays.pop("weights").tobytes())
    entries = {
        key: {"author": "com.apple.CoreML", "name": Path(path).name, "path": path}
        for key, path in (("model", _MODEL), ("weights", _WEIGHTS))
    }
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": entries,
        "rootModelIdentifier": "model",
    }
    (package / "Manifest.json").write_text(json.dumps(manifest), "utf-8")
    samples = {}
    for key, array in arrays.items():
        index, tensor = key.split("/", 1)
        samples.setdefault(int(index), {})[tensor] = array
    return package, [samples[index] for index in sorted(samples)]
