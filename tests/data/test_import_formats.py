# SPDX-License-Identifier: BSD-3-Clause
"""Outputs from elsewhere are the same in every format, and what is not as it should be is named."""

import base64
import json

import numpy as np
import pytest
from data.descriptions import refused
from data.elsewhere import write_folder, write_npz, write_raw, write_run_results, write_safetensors
from data.recorded import held
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from convcal.data import import_outputs, open_capture
from convcal.errors import InputError

DTYPES = st.sampled_from([*"?bBhHiIlLefd"]).map(np.dtype)
NAMES = st.text("xyz01", min_size=1, max_size=6)


WRITERS = {
    "o.npz": write_npz,
    "o": write_folder,
    "o.safetensors": write_safetensors,
    "o.json": write_run_results,
}


def imported(source, target, **how):
    return import_outputs(source, target, role="observed", provenance={}, **how)


@settings(max_examples=12, deadline=None)
@given(
    st.integers(1, 3),
    st.dictionaries(
        NAMES,
        st.tuples(DTYPES, arrays.array_shapes(min_dims=0, max_dims=3, max_side=3)),
        min_size=1,
        max_size=2,
    ),
    st.data(),
)
def test_every_format_gives_the_same_capture(tmp_path_factory, n_samples, kinds, data):
    folder = tmp_path_factory.mktemp("importing")
    outputs = {
        f"sample-{index}": {
            name: data.draw(arrays.arrays(dtype, shape)) for name, (dtype, shape) in kinds.items()
        }
        for index in range(n_samples)
    }
    found = [
        held(imported(write(folder / name, outputs), folder / f"{name}.capture").path)
        for name, write in WRITERS.items()
    ]
    assert all(each == found[0] for each in found)
    for sample, each in outputs.items():
        for name, array in each.items():
            code, content = found[0]["observed"][0][sample][1][name]
            assert (np.dtype(code), content) == (array.dtype, array.tobytes())


@pytest.mark.parametrize("name", ["o.npz", "o", "o.safetensors"])
def test_stacked_outputs_are_taken_from_every_format_alike(tmp_path, name):
    stack = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)
    source = tmp_path / name
    if name == "o":
        source.mkdir()
        np.save(source / "y.npy", stack)
    elif name == "o.npz":
        np.savez(source, y=stack)
    else:
        header = {"y": {"dtype": "F32", "shape": [4, 3, 5], "data_offsets": [0, stack.nbytes]}}
        write_raw(source, header, stack.tobytes())
    capture = imported(source, tmp_path / "c")
    assert capture.samples == ("sample-0", "sample-1", "sample-2", "sample-3")
    np.testing.assert_array_equal(capture.read("observed", "y"), stack[:, None])


@pytest.mark.parametrize("is_lazy", [True, False])
def test_iterations_take_the_names_of_the_other_role(tmp_path, is_lazy):
    arrays_ = np.random.default_rng(0).standard_normal((2, 1, 3, 5)).astype(np.float32)
    outputs = {name: {"a/b": array} for name, array in zip("yx", arrays_, strict=True)}
    source = write_npz(tmp_path / "o.npz", outputs)
    import_outputs(source, tmp_path / "c", role="reference", provenance={})
    results = write_run_results(tmp_path / "o.json", outputs, is_lazy=is_lazy)
    capture = imported(results, tmp_path / "c")
    assert capture.samples == ("y", "x")
    np.testing.assert_array_equal(capture.read("observed", "a/b"), arrays_)
    with refused(tmp_path, "does not name its samples", error=InputError):
        imported(results, tmp_path / "c", append=True)
    fewer = write_run_results(tmp_path / "fewer.json", {"y": outputs["y"]})
    with refused(tmp_path, "1 iterations", "2 samples", error=InputError):
        imported(fewer, tmp_path / "c", force=True)


def test_named_samples_are_added_from_any_format(tmp_path):
    outputs = {sample: {"y": np.full((1, 3), ord(sample))} for sample in "ab"}
    first = write_folder(tmp_path / "o", {"a": outputs["a"]})
    imported(first, tmp_path / "c")
    both = write_safetensors(tmp_path / "o.safetensors", outputs)
    imported(both, tmp_path / "c", append=True)
    assert open_capture(tmp_path / "c").samples == ("a", "b")


Y = {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "n_bytes", "part"),
    [
        ({"s/y": {**Y, "shape": [2**40, 2**40]}}, 8, "impossible shape"),
        ({"s/y": {**Y, "shape": [1] * 99 + [2]}}, 8, "impossible shape"),
        ({"s/y": {**Y, "shape": [1, 3]}}, 8, "8 bytes for the shape (1, 3)"),
        ({"s/y": {**Y, "shape": [-1, -2]}}, 8, "shape [-1, -2]"),
        ({"s/y": {**Y, "shape": [True, 2]}}, 8, "shape [True, 2]"),
        ({"s/y": {**Y, "shape": 2}}, 8, "shape 2"),
        ({"s/y": {**Y, "data_offsets": [8, 16]}}, 16, "do not follow"),
        ({"s/y": {**Y, "data_offsets": [0]}}, 8, "at [0]"),
        ({"s/y": Y, "t/y": Y}, 8, "do not follow"),
        ({"s/y": Y}, 7, "announces"),
        ({"s/y": Y}, 9, "announces"),
        ({"s/y": {**Y, "dtype": "BF16"}}, 8, "'BF16'"),
        ({"s/y": 3}, 8, "says nothing"),
        ({}, 0, "no arrays"),
        ([], 0, "no JSON object"),
    ],
)
def test_what_a_safetensors_header_claims_is_checked(tmp_path, header, n_bytes, part):
    source = write_raw(tmp_path / "o.safetensors", header, bytes(n_bytes))
    with refused(tmp_path, "o.safetensors", part, error=InputError):
        imported(source, tmp_path / "c")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 8,
        (2**63).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{",
        (99_999).to_bytes(8, "little") + b"[" * 99_999,
        (16).to_bytes(8, "little") + b'{"a":{},"a":{}}\n',
    ],
)
def test_what_is_no_safetensors_file_is_named(tmp_path, content):
    source = tmp_path / "o.safetensors"
    source.write_bytes(content)
    with refused(tmp_path, "is no readable .safetensors file", error=InputError):
        imported(source, tmp_path / "c")


def results(value, *, n_runners=1):
    iteration = {"outputs": {"y": value}, "polygraphy_class": "IterationResult"}
    return {"lst": [[f"runner-{index}", [iteration]] for index in range(n_runners)]}


def in_base64(shape, *, descr="<f4", n_bytes=8):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}"
    text = header.ljust(117).encode() + b"\n"
    content = b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text + bytes(n_bytes)
    return {"array": base64.b64encode(content).decode(), "polygraphy_class": "ndarray"}


@pytest.mark.parametrize(
    ("document", "part"),
    [
        ([], "no list of runners"),
        ({"lst": [["a", {}]]}, "no list of runners"),
        ({"lst": [["a", []]]}, "no iteration"),
        ({"lst": [["a", [3]]]}, "no outputs"),
        (results(in_base64((1, 2)), n_runners=2), "2 runners, 'runner-0', 'runner-1'"),
        (results(3), "no array"),
        (results({"array": "????"}), "not base64"),
        (results({"array": "AAAA", "polygraphy_class": "Tensor"}), "never unpickles"),
        (results({"values": {"array": "AA==", "polygraphy_class": "Tensor"}}), "never unpickles"),
        (results(in_base64((2**40, 2**20))), "announces"),
        (results(in_base64((1, 2), n_bytes=4)), "damaged"),
        (results(in_base64((1,), descr="|O")), "Python objects"),
    ],
)
def test_what_run_results_claim_is_checked(tmp_path, document, part):
    source = tmp_path / "o.json"
    source.write_text(json.dumps(document))
    with refused(tmp_path, "o.json", part, error=InputError):
        imported(source, tmp_path / "c")


def test_json_of_another_kind_is_named(tmp_path):
    source = tmp_path / "o.json"
    for text in ("", "[" * 100_000, "\xff"):
        source.write_text(text, "latin-1")
        with refused(tmp_path, "not JSON", error=InputError):
            imported(source, tmp_path / "c")


def test_a_folder_holds_plain_arrays_only(tmp_path):
    source = write_folder(tmp_path / "o", {"s": {"y": np.ones(2)}})
    (source / "readme.txt").write_text("hello")
    with refused(tmp_path, "'readme.txt'", "no .npy array", error=InputError):
        imported(source, tmp_path / "c")
    (source / "readme.txt").unlink()
    np.save(source / "s" / "z.npy", np.array([{}]), allow_pickle=True)
    with refused(tmp_path, "'s/z'", "never unpickles", error=InputError):
        imported(source, tmp_path / "c")
    (source / "s" / "z.npy").unlink()
    (source / "s" / "z.npy").symlink_to("y.npy")
    with refused(tmp_path, "link", error=InputError):
        imported(source, tmp_path / "c")


def test_what_is_not_there_is_named(tmp_path):
    for name in ("o.npz", "o.safetensors", "o.json"):
        with refused(tmp_path, name, error=InputError):
            imported(tmp_path / name, tmp_path / "c")


def test_an_output_that_comes_twice_in_a_polygraphy_file_is_refused(tmp_path):
    write_run_results(tmp_path / "o.json", {"sample-0": {"a": np.ones(2), "b": np.zeros(2)}})
    text = (tmp_path / "o.json").read_text()
    (tmp_path / "o.json").write_text(text.replace('"b": ', '"a": '))
    with pytest.raises(InputError, match="a key comes twice"):
        imported(tmp_path / "o.json", tmp_path / "c")
