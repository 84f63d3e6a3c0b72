# SPDX-License-Identifier: BSD-3-Clause
"""Write outputs as other programs do: dicts by sample and output."""

import base64
import io
import json

import numpy as np

from convcal.data.arrays import escape_name


def write_npz(path, outputs):
    np.savez(path, **keys(outputs))
    return path


def write_folder(path, outputs):
    for key, array in keys(outputs).items():
        file = path / f"{key}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, array)
    (path / ".DS_Store").write_bytes(b"\0")
    return path


def write_safetensors(path, outputs):
    header, values = {"__metadata__": {"made": "here"}}, b""
    for key, array in keys(outputs).items():
        code = "BOOL" if array.dtype.kind == "b" else f"{array.dtype.kind.upper()}"
        if code != "BOOL":
            code += str(8 * array.itemsize)
        content = array.tobytes()
        header[key] = {
            "dtype": code,
            "shape": list(array.shape),
            "data_offsets": [len(values), len(values) + len(content)],
        }
        values += content
    return write_raw(path, header, values)


def write_raw(path, header, values):
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + values)
    return path


def write_run_results(path, outputs, *, is_lazy=True):
    def encoded(array):
        stream = io.BytesIO()
        np.save(stream, array)
        value = {
            "array": base64.b64encode(stream.getvalue()).decode(),
            "polygraphy_class": "ndarray",
        }
        return {"values": value, "polygraphy_class": "LazyArray"} if is_lazy else value

    iterations = [
        {
            "outputs": {name: encoded(array) for name, array in each.items()},
            "runtime": 0.1,
            "runner_name": "onnxrt-runner",
            "polygraphy_class": "IterationResult",
        }
        for each in outputs.values()
    ]
    document = {"lst": [["onnxrt-runner", iterations]], "polygraphy_class": "RunResults"}
    path.write_text(json.dumps(document))
    return path


def keys(outputs):
    return {
        f"{escape_name(sample)}/{escape_name(name)}": array
        for sample, each in outputs.items()
        for name, array in each.items()
    }
