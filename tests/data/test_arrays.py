# SPDX-License-Identifier: BSD-3-Clause
import io
import struct
import zipfile

import numpy as np
import pytest
from data.descriptions import refused, unchanged
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from convcal.data.arrays import (
    ArrayFile,
    check_sample_name,
    escape_name,
    group_keys,
    read_samples,
    unescape_name,
    write_samples,
)
from convcal.errors import InputError, OutputExistsError, WriteError

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    [
        "..",
        ".",
        "../../etc/passwd",
        "a/b",
        "/",
        "\\",
        "%2F",
        "%",
        "x.npy",
        "C:\\y",
        "a\0b",
        "é",
        "é",
    ]
)
DTYPES = st.sampled_from(
    [np.float16, np.float32, np.float64, np.int8, np.int64, np.uint8, np.bool_]
)
VALUES = arrays.arrays(DTYPES, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3))


def npy(values, *, version=None):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, values, version=version)
    return stream.getvalue()


def header(description):
    """Make the first bytes of a .npy file with any text as its header."""
    text = description.encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def npz(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return path


@given(NAMES)
def test_any_name_survives_escaping_and_is_no_path(name):
    escaped = escape_name(name)
    assert unescape_name(escaped) == name
    assert not set(escaped) & set("/\\\0")
    assert escaped not in {".", ".."}


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(NAMES, VALUES, min_size=1, max_size=3))
def test_arrays_under_any_names_come_back_bit_by_bit(tmp_path_factory, tensors):
    path = tmp_path_factory.mktemp("npz") / "outputs.npz"
    write_samples(path, [("first", tensors), ("second", tensors)])
    read = list(read_samples(path))
    assert [name for name, _ in read] == ["first", "second"]
    for _, found in read:
        assert list(found) == list(tensors)
        for name, values in tensors.items():
            assert found[name].dtype == values.dtype
            assert found[name].shape == values.shape
            assert found[name].tobytes() == values.tobytes()


def test_unpacking_a_written_file_stays_in_its_folder(tmp_path):
    write_samples(tmp_path / "o.npz", [("s", {"../../up": np.zeros(1), "..": np.zeros(1)})])
    inner = tmp_path / "deep" / "inner"
    with zipfile.ZipFile(tmp_path / "o.npz") as archive:
        assert not any(".." in name.split("/") for name in archive.namelist())
        archive.extractall(inner)
    assert len(list(inner.rglob("*.npy"))) == 2


def test_numpy_reads_what_is_written_and_the_other_way_round(tmp_path):
    values = np.random.default_rng(0).random((2, 3))
    write_samples(tmp_path / "a.npz", [(None, {"y": values})])
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["y"], values)
    np.savez_compressed(tmp_path / "b.npz", y=np.asfortranarray(values), z=values.astype(">f4"))
    ((name, found),) = read_samples(tmp_path / "b.npz")
    assert name is None
    np.testing.assert_array_equal(found["y"], values)
    assert found["y"].flags.c_contiguous
    assert found["z"].dtype == np.dtype("=f4")
    np.testing.assert_array_equal(found["z"], values.astype("f4"))


def test_equal_samples_give_equal_bytes(tmp_path):
    for name in ("a.npz", "b.npz"):
        write_samples(tmp_path / name, [("s", {"y": np.arange(3.0)})])
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@settings(max_examples=30, deadline=None)
@given(
    arrays.arrays(DTYPES, arrays.array_shapes(min_dims=1, max_dims=3, max_side=4)),
    st.sampled_from("CF"),
)
def test_rows_are_those_of_the_whole(tmp_path_factory, values, order):
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    np.savez(path, y=np.asarray(values, order=order))
    with ArrayFile(path) as file:
        rows = list(file.rows("y"))
        whole = file.read("y")
    assert whole.tobytes() == np.ascontiguousarray(values).tobytes()
    assert [row.tobytes() for row in rows] == [np.asarray(row).tobytes() for row in whole]


def test_known_names_decide_where_a_key_is_divided():
    keys = ["s/enc/out", "s/out", "t/enc/out", "t/out"]
    groups = group_keys(keys, where="f", tensors=["enc/out", "out"])
    assert groups == {
        "s": {"enc/out": "s/enc/out", "out": "s/out"},
        "t": {"enc/out": "t/enc/out", "out": "t/out"},
    }
    assert group_keys(["enc/out"], where="f", tensors=["enc/out"]) == {None: {"enc/out": "enc/out"}}


@pytest.mark.parametrize(
    ("keys", "tensors", "parts"),
    [
        ([], None, ["'f' holds no arrays", "SAMPLE/TENSOR"]),
        (["y", "s/y"], None, ["mixes", "'y'"]),
        (["a/b/c"], None, ["'a/b/c'", "2 slashes", "%2F"]),
        (["s/z"], ["y", "w"], ["'s/z'", "'y', 'w'"]),
        (["../y"], None, ["'..' cannot be the name of a sample", "'../y'"]),
        (["/y"], None, ["'' cannot be the name of a sample"]),
        (["s%2F/y"], None, ["'s/' cannot be the name"]),
        (["a\nb/y"], None, [r"'a\nb' cannot be the name"]),
        (["s/%2F", "s//"], ["/"], ["'/' twice"]),
    ],
)
def test_bad_keys_are_named(keys, tensors, parts, tmp_path):
    with refused(tmp_path, *parts, error=InputError):
        group_keys(keys, where="'f'", tensors=tensors)


@pytest.mark.parametrize(
    "name", ["", ".", "...", "a/b", "a\\b", "a\0", "\x7f", "\ud800", "n" * 256]
)
def test_names_that_could_be_paths_are_refused(name):
    with pytest.raises(InputError, match=r"cannot be the name of a sample; a name has 1 to 255"):
        check_sample_name(name, where="key")


@pytest.mark.parametrize("name", ["a", "astronaut@0,64", "日本", "..a", "a b", "50%"])
def test_usual_names_are_taken(name):
    assert check_sample_name(name, where="key") == name


FLOATS = "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }"
DAMAGED = {
    "an object array": (npy(np.array([{}], dtype=object)), ["Python objects", "never unpickles"]),
    "text": (npy(np.array(["cat"])), ["dtype <U3", "booleans, integers and floats"]),
    "complex": (npy(np.zeros(2, complex)), ["dtype complex128"]),
    "records": (npy(np.zeros(2, [("a", "f4")])), ["booleans, integers and floats"]),
    "dates": (npy(np.zeros(2, "M8[s]")), ["datetime64"]),
    "no npy": (b"hello", ["no readable .npy array"]),
    "nothing": (b"", ["no readable .npy array"]),
    "version 3": (b"\x93NUMPY\x03\x00" + bytes(20), ["version (3, 0)"]),
    "code": (header("__import__('os').getcwd()"), ["no readable .npy array"]),
    "a tuple": (header("('f4', 1)"), ["no readable .npy array"]),
    "a huge shape": (header(FLOATS % "(1000000000, 1000000000)"), ["damaged", "(1000000000,"]),
    "a negative shape": (header(FLOATS % "(-1,)"), ["impossible shape (-1,)"]),
    "an empty shape beyond memory": (
        header(FLOATS % "(0, 1000000000000000000000000000000)"),
        ["impossible shape (0, 1000"],
    ),
    "a length of True": (header(FLOATS % "(True, 7)"), ["damaged", "(shape (1, 7)"]),
    "seventy axes": (header(FLOATS % f"({'1, ' * 70})"), ["impossible shape (1, 1, "]),
    "a header without end": (header("(" * 100), ["no readable .npy array"]),
    "too few values": (npy(np.zeros(4))[:-1], ["damaged", "32 bytes", "31 are there"]),
    "too many values": (npy(np.zeros(4)) + b"1", ["damaged", "33 are there"]),
    "a long header": (
        b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 30) + b" " * 200_000,
        ["header is longer than"],
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_member_is_refused_before_anything_is_allocated(tmp_path, case):
    member, parts = DAMAGED[case]
    path = npz(tmp_path / "f.npz", {"s/y.npy": member})
    with refused(tmp_path, "array 's/y' of", "f.npz", *parts, error=InputError):
        ArrayFile(path)


def test_a_member_whose_compression_is_damaged_is_named(tmp_path):
    path = tmp_path / "f.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("y.npy", npy(np.arange(1000.0)))
    raw = bytearray(path.read_bytes())
    raw[60:120] = bytes(60)
    path.write_bytes(raw)
    with refused(tmp_path, "f.npz", "no readable .npz", error=InputError):
        list(read_samples(path))


def test_a_name_longer_than_a_zip_file_holds_is_refused(tmp_path):
    samples = [("s", {"y" * 70_000: np.zeros(1)})]
    with refused(tmp_path, "f.npz", "70002 characters", error=InputError):
        write_samples(tmp_path / "f.npz", samples)


def test_a_lying_zip_directory_is_noticed(tmp_path):
    path = tmp_path / "f.npz"
    np.savez(path, y=np.zeros(4, np.float32))
    raw = path.read_bytes()
    # The sizes in the central directory: as if the member had 400 bytes of values more.
    position = raw.index(b"PK\x01\x02") + 20
    sizes = struct.unpack_from("<II", raw, position)
    grown = struct.pack("<II", *(size + 400 for size in sizes))
    path.write_bytes(raw[:position] + grown + raw[position + 8 :])
    with refused(tmp_path, "f.npz", error=InputError), ArrayFile(path) as file:
        file.read("y")


@pytest.mark.parametrize(
    ("members", "parts"),
    [
        ({"readme.txt": b"hello"}, ["'readme.txt', which is no .npy array"]),
        ({"y": npy(np.zeros(2))}, ["'y', which is no .npy array"]),
    ],
)
def test_a_file_with_other_things_is_refused(tmp_path, members, parts):
    path = npz(tmp_path / "f.npz", members)
    with refused(tmp_path, "f.npz", *parts, error=InputError):
        ArrayFile(path)


def test_two_arrays_of_one_name_are_refused(tmp_path):
    path = tmp_path / "f.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("y.npy", npy(np.zeros(1)))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("y.npy", npy(np.ones(1)))
    with refused(tmp_path, "two arrays 'y'", error=InputError):
        ArrayFile(path)


def test_folders_in_the_file_are_passed_over(tmp_path):
    # As `zip -r` writes them.
    path = npz(tmp_path / "f.npz", {"s/": b"", "s/y.npy": npy(np.ones(2))})
    ((name, found),) = read_samples(path)
    assert name == "s"
    np.testing.assert_array_equal(found["y"], [1, 1])


def test_a_name_that_is_not_the_utf8_that_it_should_be_is_refused(tmp_path):
    np.savez(tmp_path / "o.npz", ü=np.ones(2))
    raw = (tmp_path / "o.npz").read_bytes()
    # In the header before the array; the directory at the end keeps the name.
    (tmp_path / "o.npz").write_bytes(raw.replace("ü".encode(), b"\xc3\xff", 1))
    with pytest.raises(InputError, match="is no readable"):
        ArrayFile(tmp_path / "o.npz")


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 truncated"])
def test_a_file_that_is_no_zip_is_refused(tmp_path, content):
    (tmp_path / "f.npz").write_bytes(content)
    with refused(tmp_path, "f.npz", "no readable .npz file", error=InputError):
        ArrayFile(tmp_path / "f.npz")


def test_a_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "f.npz"
    np.savez(path, y=np.zeros(64, np.float32))
    raw = bytearray(path.read_bytes())
    raw[300] ^= 1  # among the zeros: the header of zip and npy take 182 bytes
    path.write_bytes(raw)
    with refused(tmp_path, "f.npz", "CRC", error=InputError):
        list(read_samples(path))


def test_a_missing_file_is_named(tmp_path):
    with refused(tmp_path, "there is no file", "nowhere.npz", error=InputError):
        ArrayFile(tmp_path / "nowhere.npz")


def test_writing_needs_samples(tmp_path):
    with refused(tmp_path, "no samples to write", "o.npz", error=InputError):
        write_samples(tmp_path / "o.npz", [])


def test_writing_a_key_twice_is_refused(tmp_path):
    sample = ("s", {"y": np.zeros(1)})
    with refused(tmp_path, "'s/y' twice", error=InputError):
        write_samples(tmp_path / "o.npz", [sample, sample])


def test_writing_objects_is_refused(tmp_path):
    with refused(tmp_path, "'s/y'", "dtype object", error=InputError):
        write_samples(tmp_path / "o.npz", [("s", {"y": np.array([{}], dtype=object)})])


def test_an_existing_file_is_replaced_only_on_request(tmp_path):
    path = tmp_path / "o.npz"
    write_samples(path, [("s", {"y": np.zeros(1)})])
    with refused(tmp_path, "o.npz", "--force", error=OutputExistsError):
        write_samples(path, [("s", {"y": np.ones(1)})])
    write_samples(path, [("s", {"y": np.ones(1)})], force=True)
    ((_, found),) = read_samples(path)
    assert found["y"] == 1


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ValueError])
def test_an_interrupted_write_leaves_nothing(tmp_path, interruption):
    def samples():
        yield "s", {"y": np.zeros(1)}
        raise interruption

    with unchanged(tmp_path), pytest.raises(interruption):
        write_samples(tmp_path / "o.npz", samples())


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with refused(tmp_path, "cannot write", "No space left", "o.npz", error=WriteError):
        write_samples(tmp_path / "o.npz", [("s", {"y": np.zeros(1)})])


def test_a_header_that_is_too_long_is_refused_without_advice_to_trust_it(tmp_path):
    header = b"(" * 20000
    member = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(tmp_path / "long.npz", "w") as archive:
        archive.writestr("x.npy", member)
    with (
        pytest.raises(InputError, match=r"no readable \.npy array") as caught,
        ArrayFile(tmp_path / "long.npz"),
    ):
        pass
    assert "pickle" not in str(caught.value)
