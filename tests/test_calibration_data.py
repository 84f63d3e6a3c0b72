# SPDX-License-Identifier: BSD-3-Clause
"""The committed data are what their README says, and the packages what their weights say."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "calibration_data"
MODELS = DATA / "models"
NAMES = ("fsrcnn", "audio-upsampler", "issue-2324")
PRECISIONS = ("fp32", "fp16")
DECONVOLUTIONS = {
    "fsrcnn": {"strides": [2, 2], "pad": [4, 3, 4, 3], "output_shape": [1, 1, 128, 128]},
    "audio-upsampler": {"strides": [4], "pad": [6, 5], "output_shape": [1, 1, 4096]},
    "issue-2324": {"strides": [2], "pad": [1, 0], "output_shape": [1, 2, 8]},
}
VERSION_KEY = "com.github.apple.coremltools.version"


@pytest.fixture
def script(monkeypatch):
    """Import a module of `calibration_data` by name."""
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"calibration_data.{name}")


@pytest.fixture(scope="module")
def coremltools():
    """Give coremltools; what it warns of while it is imported is no concern of these tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("coremltools")


@pytest.fixture(scope="module")
def read_spec(coremltools):
    """Read the specification of a package."""

    def read(package):
        document = package / "Data" / "com.apple.CoreML" / "model.mlmodel"
        return coremltools.proto.Model_pb2.Model.FromString(document.read_bytes())

    return read


@pytest.fixture(scope="module")
def rebuilt(coremltools, tmp_path_factory):
    """Build all packages again, in their own process, from the committed weights."""
    folder = tmp_path_factory.mktemp("rebuilt")
    command = [sys.executable, "-m", "calibration_data.build", "--output", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def data_files():
    return {
        path.relative_to(DATA).as_posix()
        for folder in ("pictures", "sound", "models")
        for path in (DATA / folder).rglob("*")
        if path.is_file()
    }


def constants(block):
    """Return the immediate values of the constants in a MIL block."""
    values = {}
    for operation in block.operations:
        value = operation.attributes["val"] if operation.type == "const" else None
        if value is not None and value.HasField("immediateValue"):
            tensor = value.immediateValue.tensor
            values[operation.outputs[0].name] = list(
                getattr(tensor, tensor.WhichOneof("value")).values
            )
    return values


def only_block(spec):
    function = spec.mlProgram.functions["main"]
    return function.block_specializations[function.opset]


def test_readme_and_folder_list_the_same_files():
    text = (DATA / "README.md").read_text(encoding="utf-8")
    listed = set()
    for pattern in re.findall(r"`((?:pictures|sound|models)/[^`{}]*[^`/{}])`", text):
        found = list(DATA.glob(pattern))
        assert found, f"README lists {pattern}, which matches nothing"
        for path in found:
            paths = path.rglob("*") if path.is_dir() else [path]
            listed |= {p.relative_to(DATA).as_posix() for p in paths if p.is_file()}
    assert listed == data_files()


def test_sizes_are_bounded():
    sizes = {path: path.stat().st_size for path in DATA.rglob("*") if path.is_file()}
    assert max(sizes.values()) < 1_500_000
    assert sum(sizes.values()) < 6_000_000


@pytest.mark.parametrize("kind", ["pictures", "sound"])
def test_train_and_heldout_are_disjoint(kind):
    names, contents = {}, {}
    for split in ("train", "heldout"):
        low = {path.name for path in (DATA / kind / split / "low").iterdir()}
        high = {path.name for path in (DATA / kind / split / "high").iterdir()}
        assert low == high
        names[split] = low
        contents[split] = {
            hashlib.sha256(path.read_bytes()).digest()
            for path in (DATA / kind / split).rglob("*")
            if path.is_file()
        }
    assert not names["train"] & names["heldout"]
    assert not contents["train"] & contents["heldout"]


def test_no_source_is_used_for_both_splits(script):
    pytest.importorskip("PIL")
    prepare = script("prepare")
    for sources in (prepare.PICTURES, prepare.SOUNDS):
        splits = {}
        for source in sources:
            splits.setdefault((source.package, source.file), set()).add(source.split)
        assert all(len(used) == 1 for used in splits.values())


def test_issue_samples_are_disjoint():
    folder = MODELS / "issue-2324" / "samples"
    with np.load(folder / "train.npz") as train, np.load(folder / "heldout.npz") as heldout:
        assert train["x"].shape == (24, 1, 1, 4)
        assert heldout["x"].shape == (8, 1, 1, 4)
        assert not np.isin(train["x"], heldout["x"]).any()


@pytest.mark.parametrize("kind", ["pictures", "sound"])
def test_low_divides_into_the_input_of_the_model(script, kind):
    pytest.importorskip("PIL")
    evaluate, networks = script("evaluate"), script("networks")
    for path in (DATA / kind / "heldout" / "low").iterdir():
        if kind == "pictures":
            low, network = evaluate.read_picture(path), networks.FSRCNN
            high = evaluate.read_picture(path.parents[1] / "high" / path.name)
        else:
            low, network = evaluate.read_sound(path), networks.AUDIO_UPSAMPLER
            high = evaluate.read_sound(path.parents[1] / "high" / path.name)
        assert high.shape == tuple(network.stride * size for size in low.shape)
        tile = network.input_shape[2:]
        assert not any(size % step for size, step in zip(low.shape, tile, strict=True))


@pytest.mark.parametrize("name", ["fsrcnn", "audio-upsampler"])
def test_numpy_forward_pass_agrees_with_the_golden_outputs(script, name):
    networks = script("networks")
    network = next(network for network in networks.NETWORKS if network.name == name)
    weights = networks.load_weights(network.folder / "weights.npz")
    with np.load(ROOT / "tests" / "golden" / f"{name}.npz") as golden:
        expected = golden[network.output_name]
        got = [networks.forward(network, weights, x) for x in golden[network.input_name]]
        crop = [slice(None), slice(None)]
        for front, size in zip(network.pad[::2], network.output_shape[2:], strict=True):
            crop.append(slice(front, front + size))
        np.testing.assert_array_equal(golden["uncropped"][tuple(crop)], expected[0])
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_issue_golden_is_the_closed_form():
    with np.load(MODELS / "issue-2324" / "weights.npz") as weights:
        weight = weights["weight"].astype(np.float64)
    with np.load(ROOT / "tests" / "golden" / "issue-2324.npz") as golden:
        for x, y in zip(golden["x"], golden["y"], strict=True):
            stretched = np.zeros(7)
            stretched[::2] = x[0, 0]
            full = [np.convolve(stretched, taps) for taps in weight[0]]
            np.testing.assert_allclose(y[0], np.array(full)[:, 1:9], rtol=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NAMES)
def test_transposed_convolution_of_the_package(read_spec, coremltools, name, precision):
    spec = read_spec(MODELS / name / f"{precision}.mlpackage")
    block = only_block(spec)
    found = [operation for operation in block.operations if operation.type == "conv_transpose"]
    assert len(found) == 1
    inputs = {key: value.arguments[0].name for key, value in found[0].inputs.items()}
    values = constants(block)
    assert values[inputs["pad_type"]] in (["custom"], [b"custom"])
    for key, expected in DECONVOLUTIONS[name].items():
        assert values[inputs[key]] == expected
    data_types = coremltools.proto.MIL_pb2.DataType
    (output,) = found[0].outputs
    expected_type = {"fp32": data_types.FLOAT32, "fp16": data_types.FLOAT16}[precision]
    assert output.type.tensorType.dataType == expected_type
    array_type = coremltools.proto.FeatureTypes_pb2.ArrayFeatureType
    for feature in (*spec.description.input, *spec.description.output):
        assert feature.type.multiArrayType.dataType == array_type.FLOAT32
    assert spec.description.metadata.author == "convcal"
    assert spec.description.metadata.license == "BSD-3-Clause"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NAMES)
def test_manifest_names_only_what_git_keeps(name, precision):
    package = MODELS / name / f"{precision}.mlpackage"
    manifest = json.loads((package / "Manifest.json").read_text(encoding="utf-8"))
    for entry in manifest["itemInfoEntries"].values():
        item = package / "Data" / entry["path"]
        assert item.is_file() or any(item.iterdir()), item


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NAMES)
def test_rebuilding_gives_the_same_package(coremltools, read_spec, rebuilt, name, precision):
    committed = MODELS / name / f"{precision}.mlpackage"
    version = read_spec(committed).description.metadata.userDefined[VERSION_KEY]
    if coremltools.__version__ != version:
        pytest.skip(f"the packages were built with coremltools {version}")
    again = rebuilt / name / f"{precision}.mlpackage"
    files = {path.relative_to(committed) for path in committed.rglob("*") if path.is_file()}
    assert files == {path.relative_to(again) for path in again.rglob("*") if path.is_file()}
    assert read_spec(again) == read_spec(committed)
    for file in files - {Path("Data/com.apple.CoreML/model.mlmodel")}:
        assert (again / file).read_bytes() == (committed / file).read_bytes(), file


def test_rebuilding_gives_the_same_samples(rebuilt):
    for file in ("weights.npz", "samples/train.npz", "samples/heldout.npz"):
        paths = (MODELS / "issue-2324" / file, rebuilt / "issue-2324" / file)
        with np.load(paths[0]) as committed, np.load(paths[1]) as again:
            assert committed.files == again.files
            for key in committed.files:
                np.testing.assert_array_equal(again[key], committed[key])


def test_figures_of_the_readme_are_measured(script):
    pytest.importorskip("PIL")
    evaluate = script("evaluate")
    text = (DATA / "README.md").read_text(encoding="utf-8")
    pictures, sounds = evaluate.picture_figures(), evaluate.sound_figures()
    for name, figures in {**pictures, **sounds}.items():
        row = re.search(rf"^\| {re.escape(name)} \| (\S+) \| (\S+) \|", text, re.MULTILINE)
        assert row is not None, f"README has no figures for {name}"
        np.testing.assert_allclose([float(cell) for cell in row.groups()], figures, atol=0.02)
    gains = [network - baseline for baseline, network in pictures.values()]
    assert min(gains) > 0
    assert np.mean(gains) >= 1
    assert np.mean([network - baseline for baseline, network in sounds.values()]) > 0
