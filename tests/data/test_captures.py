# SPDX-License-Identifier: BSD-3-Clause
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import zarr
from data.descriptions import content, refused, unchanged
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from convcal.data import import_outputs, open_capture, write_role
from convcal.errors import ConvcalWarning, InputError, OutputExistsError, WriteError
from convcal.pairs import read_pairs

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["..", ".", "../../etc/passwd", "a/b", "/", "\\", "zarr.json", "c", "é", "é", "a\0b"]
)
SAMPLES = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8)
DTYPES = st.sampled_from([np.float16, np.float32, np.float64, np.int32, np.uint8, np.bool_])
VALUES = arrays.arrays(DTYPES, arrays.array_shapes(min_dims=0, max_dims=4, max_side=3))
RANDOM = np.random.default_rng(10)
Y = RANDOM.random((5, 1, 2, 3), np.float32)
NAMED = tuple(f"s{index}" for index in range(5))


def record(path, role, values=Y, *, names=NAMED, output="y", force=False, **provenance):
    with write_role(path, role, provenance=provenance, force=force) as writer:
        for name, value in zip(names, values, strict=True):
            writer.append(name, {output: value})
    return path


@pytest.fixture
def capture(tmp_path):
    record(tmp_path / "c", "reference", runtime="reference")
    return record(tmp_path / "c", "observed", Y.astype(np.float16), runtime="coreml")


# ---------------------------------------------------------------- laws


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(NAMES, VALUES, min_size=1, max_size=3),
    st.lists(SAMPLES, min_size=1, max_size=3, unique=True),
    st.dictionaries(st.text(max_size=5), st.integers() | st.lists(st.text(max_size=3)), max_size=2),
)
def test_outputs_come_back_bit_by_bit_under_any_name(tmp_path_factory, outputs, names, provenance):
    folder = tmp_path_factory.mktemp("captures")
    with write_role(folder / "c", "observed", provenance=provenance) as writer:
        for name in names:
            writer.append(name, outputs)
    capture = open_capture(folder / "c")
    assert capture.roles == ("observed",)
    assert capture.samples == tuple(names)
    assert capture.outputs == tuple(outputs)
    assert capture.provenance == {"observed": provenance}
    for output, values in outputs.items():
        found = capture.read("observed", output)
        assert found.dtype == values.dtype
        assert found.shape == (len(names), *values.shape)
        assert all(sample.tobytes() == values.tobytes() for sample in found)
    assert [path.name for path in folder.iterdir()] == ["c"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_nan_payloads_and_signed_zeros_are_kept(tmp_path, dtype):
    bits = RANDOM.integers(0, 256, (3, 64 * np.dtype(dtype).itemsize), dtype=np.uint8)
    values = bits.view(dtype)
    values[0] = -0.0  # a whole sample that Zarr would take for empty
    values[1] = 0.0
    values[2, 0] = np.nan
    record(tmp_path / "c", "reference", values, names="abc")
    assert open_capture(tmp_path / "c").read("reference", "y").tobytes() == values.tobytes()


def test_other_byte_orders_and_strides_are_values_all_the_same(tmp_path):
    strided = np.asfortranarray(Y.astype(">f4"))[:, ::-1, :, ::2]
    record(tmp_path / "c", "reference", strided)
    np.testing.assert_array_equal(open_capture(tmp_path / "c").read("reference", "y"), strided)


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(5)))
def test_roles_are_paired_by_name_whatever_their_order(tmp_path_factory, order):
    path = tmp_path_factory.mktemp("captures") / "c"
    record(path, "reference")
    record(path, "observed", 2 * Y[order], names=[NAMED[index] for index in order])
    capture = open_capture(path)
    assert capture.samples == NAMED
    np.testing.assert_array_equal(capture.read("observed", "y"), 2 * Y)
    np.testing.assert_array_equal(capture.read("reference", "y"), Y)


def test_either_role_may_come_first_and_dtypes_may_differ(tmp_path):
    record(tmp_path / "c", "observed", Y.astype(np.float16))
    record(tmp_path / "c", "reference")
    capture = open_capture(tmp_path / "c")
    assert capture.roles == ("reference", "observed")
    assert capture.read("reference", "y").dtype == np.float32
    assert capture.read("observed", "y").dtype == np.float16


def test_the_kind_of_an_output_is_kept_where_a_model_said_it(tmp_path):
    picture = np.ones((4, 6), np.float16)
    for role, kinds in (("reference", None), ("observed", {"picture": "image"})):
        with write_role(tmp_path / "c", role, provenance={}, kinds=kinds) as writer:
            writer.append("s", {"picture": picture, "other": picture})
    assert open_capture(tmp_path / "c").kinds == {"picture": "image"}
    pairs = read_pairs(tmp_path / "c").outputs
    assert pairs["picture"].observed.shape == (1, 1, 4, 6)
    assert pairs["other"].observed.shape == (4, 6)


def test_what_data_a_capture_is_of_is_known_where_its_roles_agree(tmp_path):
    data = {"source": "pictures", "sha256": "a", "n_files": 5, "n_samples": 5}
    imported, same, other = (
        record(tmp_path / name, "reference", data=data) for name in ("imported", "same", "other")
    )
    record(imported, "observed")
    record(same, "observed", data={**data, "source": "elsewhere"})
    record(other, "observed", data={**data, "sha256": "b"})
    for path in (imported, same):
        pairs = read_pairs(path)
        assert pairs.provenance["data"] == data
        assert "data" not in pairs.provenance["reference"]
    with pytest.warns(ConvcalWarning, match="'.*other' were recorded from different data"):
        pairs = read_pairs(other)
    assert pairs.provenance["data"] == {"source": "other", "n_samples": 5}


def test_any_zarr_library_finds_what_the_format_says(capture):
    root = zarr.open_group(capture, mode="r")
    assert root.metadata.zarr_format == 3
    assert root.attrs["convcal"] == {"format": "convcal.capture", "version": 1}
    assert root["observed"].attrs["samples"] == list(NAMED)
    assert root["observed"].attrs["provenance"] == {"runtime": "coreml"}
    array = root["observed/output-0"]
    assert array.attrs["name"] == "y"
    assert array.shape == (5, 1, 2, 3)
    assert array.chunks == (1, 1, 2, 3)
    np.testing.assert_array_equal(array[:], Y.astype(np.float16))


# ---------------------------------------------------------------- writing


def test_a_role_that_exists_is_replaced_only_on_request(capture):
    with refused(capture, "holds observed outputs already", "--force", error=OutputExistsError):
        record(capture, "observed")
    record(capture, "observed", 3 * Y, force=True, runtime="elsewhere")
    opened = open_capture(capture)
    np.testing.assert_array_equal(opened.read("observed", "y"), 3 * Y)
    np.testing.assert_array_equal(opened.read("reference", "y"), Y)
    assert opened.provenance["observed"] == {"runtime": "elsewhere"}


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError, SystemExit])
@pytest.mark.parametrize("is_new", [True, False])
def test_an_interrupted_role_leaves_everything_as_it_was(tmp_path, interruption, is_new):
    if not is_new:
        record(tmp_path / "c", "reference")
    with (
        unchanged(tmp_path),
        pytest.raises(interruption),
        write_role(tmp_path / "c", "observed", provenance={}) as writer,
    ):
        writer.append("s0", {"y": Y[0]})
        assert content(tmp_path)
        raise interruption


def test_an_interrupted_replacement_leaves_the_old_role(capture):
    with (
        unchanged(capture.parent),
        pytest.raises(KeyboardInterrupt),
        write_role(capture, "observed", provenance={}, force=True) as writer,
    ):
        writer.append("s0", {"y": Y[0]})
        raise KeyboardInterrupt


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    record(tmp_path / "c", "reference")
    monkeypatch.setattr(zarr.Array, "append", full)
    with refused(tmp_path, "cannot write", "No space left on device", error=WriteError):
        record(tmp_path / "c", "observed")


@pytest.mark.parametrize(
    ("calls", "parts"),
    [
        ([], ["no samples to record", "reference of capture"]),
        ([("a", {})], ["sample 'a' has no outputs"]),
        ([("a", {"y": Y[0]}), ("a", {"y": Y[0]})], ["holds sample 'a' already"]),
        ([("a/b", {"y": Y[0]})], ["'a/b' cannot be the name of a sample"]),
        ([("a", {"y": Y[0]}), ("b", {"z": Y[0]})], ["sample 'b' has outputs 'z'", "have 'y'"]),
        ([("a", {"y": Y[0]}), ("b", {"y": Y[0, 0]})], ["(2, 3)", "(1, 2, 3)", "of one shape"]),
        ([("a", {"y": Y[0]}), ("b", {"y": Y[0].astype("f8")})], ["float64", "float32"]),
        ([("a", {"y": np.array([{}], dtype=object)})], ["output 'y'", "dtype object"]),
        ([("a", {"y": np.array(["cat"])})], ["dtype <U3"]),
        ([("a", {"y": np.zeros((1, 0))})], ["shape (1, 0)", "at least one value"]),
    ],
)
def test_outputs_that_cannot_be_recorded_are_named(tmp_path, calls, parts):
    with (
        refused(tmp_path, *parts, error=InputError),
        write_role(tmp_path / "c", "reference", provenance={}) as writer,
    ):
        for sample, outputs in calls:
            writer.append(sample, outputs)


@pytest.mark.parametrize(
    ("values", "names", "output", "parts"),
    [
        (Y, [*NAMED[:4], "t"], "y", ["sample 't'", "'s0', 's1'", "choose another path"]),
        (Y[:3], NAMED[:3], "y", ["lacks samples 's3', 's4'", "choose another path"]),
        (Y, NAMED, "z", ["'z': (1, 2, 3)", "'y': (1, 2, 3)"]),
        (Y[..., 0], NAMED, "y", ["(1, 2)", "(1, 2, 3)"]),
    ],
)
def test_what_does_not_match_the_other_role_is_refused(tmp_path, values, names, output, parts):
    record(tmp_path / "c", "reference")
    with refused(tmp_path, "observed of capture", *parts, error=InputError):
        record(tmp_path / "c", "observed", values, names=names, output=output)


def test_unknown_roles_are_refused(tmp_path):
    with refused(tmp_path, "no role 'target'", "'reference', 'observed'", error=InputError):
        record(tmp_path / "c", "target")


@pytest.mark.parametrize("provenance", [{"when": object()}, {"gain": float("nan")}])
def test_provenance_must_be_json(tmp_path, provenance):
    with refused(tmp_path, "provenance of reference is no JSON", error=InputError):
        record(tmp_path / "c", "reference", **provenance)


def test_a_folder_that_is_no_capture_is_never_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("dear to me")
    with refused(tmp_path, "photos", "is no capture", error=InputError):
        record(tmp_path / "photos", "reference", force=True)


def test_the_folder_around_must_exist(tmp_path):
    with refused(tmp_path, f"the folder '{tmp_path / 'no'}' does not exist", error=InputError):
        record(tmp_path / "no" / "c", "reference")


# ---------------------------------------------------------------- damaged, foreign


def change_json(path, **changes):
    document = json.loads(path.read_text())
    document.update(changes)
    path.write_text(json.dumps(document))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-3])


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.write_bytes(raw)


def add_unmatched(capture):
    shutil.rmtree(capture / "observed")
    other = record(capture.parent / "other", "observed", Y[:, :, :1], names="abcde")
    shutil.move(other / "observed", capture / "observed")


CHUNK = "observed/output-0/c/2/0/0/0"
ARRAY = "observed/output-0/zarr.json"
DAMAGE = {
    "removed": (shutil.rmtree, ["there is no capture at"]),
    "a Zarr 2 group": (
        lambda c: (shutil.rmtree(c), zarr.create_group(c, zarr_format=2)),
        ["is no capture", "Zarr format 2"],
    ),
    "a foreign group": (
        lambda c: (shutil.rmtree(c), zarr.create_group(c, zarr_format=3)),
        ["Zarr group, but no capture"],
    ),
    "an array": (
        lambda c: (shutil.rmtree(c), zarr.create_array(c, shape=(2,), dtype="f4")),
        ["cannot read its description"],
    ),
    "an empty description": (lambda c: (c / "zarr.json").write_text(""), ["cannot read"]),
    "a list as description": (lambda c: (c / "zarr.json").write_text("[]"), ["no JSON object"]),
    "another version": (
        lambda c: change_json(
            c / "zarr.json", attributes={"convcal": {"format": "convcal.capture", "version": 2}}
        ),
        ["version 2", "reads 1", "update convcal"],
    ),
    "no roles": (
        lambda c: [shutil.rmtree(c / role) for role in ("reference", "observed")],
        ["holds neither of 'reference', 'observed'"],
    ),
    "no sample names": (
        lambda c: change_json(c / "observed/zarr.json", attributes={}),
        ["observed of capture", "does not name its samples"],
    ),
    "sample names that repeat": (
        lambda c: change_json(c / "observed/zarr.json", attributes={"samples": ["a"] * 5}),
        ["does not name its samples"],
    ),
    "more names than samples": (
        lambda c: change_json(c / "observed/zarr.json", attributes={"samples": [*NAMED, "s5"]}),
        ["output 'y'", "(5, 1, 2, 3)", "6 samples are named"],
    ),
    "provenance that is no object": (
        lambda c: change_json(
            c / "observed/zarr.json", attributes={"samples": list(NAMED), "provenance": 3}
        ),
        ["provenance 3"],
    ),
    "provenance that JSON does not have": (
        lambda c: change_json(
            c / "observed/zarr.json",
            attributes={"samples": list(NAMED), "provenance": {"chip": float("nan")}},
        ),
        ["cannot read role 'observed'", "not JSON compliant"],
    ),
    "faults that are no text": (
        lambda c: change_json(
            c / "observed/zarr.json",
            attributes={"samples": list(NAMED), "provenance": {"faults": ["noise"]}},
        ),
        ["the faults ['noise'], which are no text"],
    ),
    "a link to a device": (
        lambda c: ((c / CHUNK).unlink(), (c / CHUNK).symlink_to("/dev/zero")),
        [f"has a link, '{CHUNK}'"],
    ),
    "a pipe": (
        lambda c: ((c / CHUNK).unlink(), os.mkfifo(c / CHUNK)),
        [f"has '{CHUNK}', which is neither a file nor a folder"],
    ),
    "no outputs": (lambda c: shutil.rmtree(c / "observed/output-0"), ["holds no outputs"]),
    "an output without a name": (
        lambda c: change_json(c / ARRAY, attributes={}),
        ["'output-0'", "unusable name None"],
    ),
    "a lost chunk": (lambda c: (c / CHUNK).unlink(), ["output 'y'", "lacks the values of 1 of"]),
    "a huge shape": (
        lambda c: change_json(c / ARRAY, shape=[5, 1, 2, 10**15]),
        ["a chunk holds one sample"],
    ),
    "a huge number of samples": (
        lambda c: change_json(c / ARRAY, shape=[10**15, 1, 2, 3]),
        ["5 samples are named"],
    ),
    "text": (
        lambda c: change_json(c / ARRAY, data_type="string", fill_value=""),
        ["cannot read role 'observed'"],
    ),
    "dates": (
        lambda c: change_json(
            c / ARRAY,
            data_type={
                "name": "numpy.datetime64",
                "configuration": {"unit": "s", "scale_factor": 1},
            },
            fill_value=0,
        ),
        ["dtype datetime64[s]"],
    ),
    "an unknown codec": (
        lambda c: change_json(c / ARRAY, codecs=[{"name": "bytes"}, {"name": "pickle"}]),
        ["cannot read role 'observed'", "pickle"],
    ),
    "a codec that loses values": (
        lambda c: change_json(
            c / ARRAY,
            codecs=[
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "numcodecs.zlib", "configuration": {"level": 1}},
            ],
        ),
        ["'numcodecs.zlib'", "accepted are"],
    ),
    "roles that do not match": (add_unmatched, ["do not match", "'s0'", "'a'"]),
}


@pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning", "ignore::UserWarning")
@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_and_foreign_captures_are_named(capture, case):
    damage, parts = DAMAGE[case]
    damage(capture)
    with refused(capture.parent, str(capture), *parts, error=InputError):
        open_capture(capture)


@pytest.mark.parametrize("damage", [truncate, flip, lambda chunk: chunk.write_bytes(b"")])
def test_a_damaged_chunk_is_named_when_it_is_read(capture, damage):
    damage(capture / CHUNK)
    opened = open_capture(capture)
    parts = ["sample 's2' of output 'y' (observed)", str(capture), "record it again"]
    with refused(capture, *parts, error=InputError):
        opened.read("observed", "y")


@pytest.mark.parametrize("is_zarr_2", [True, False])
def test_pickles_in_a_capture_are_never_run(capture, is_zarr_2):
    # Protocol 0: what a loaded pickle would do is to make the file 'owned'.
    owned = capture.parent / "owned"
    chunk = f"cos\nsystem\n(S'touch {owned}'\ntR.".encode()
    shutil.rmtree(capture / "observed/output-0")
    folder = capture / "observed/output-0"
    folder.mkdir()
    if is_zarr_2:
        document = {"zarr_format": 2, "shape": [5], "chunks": [1], "dtype": "|O", "order": "C"}
        document |= {"fill_value": None, "compressor": None, "filters": [{"id": "pickle"}]}
        (folder / ".zarray").write_text(json.dumps(document))
        (folder / "0").write_bytes(chunk)
    else:
        shutil.copytree(capture / "reference/output-0", folder, dirs_exist_ok=True)
        change_json(folder / "zarr.json", codecs=[{"name": "numcodecs.pickle"}])
        (folder / "c/0/0/0/0").write_bytes(chunk)
    with refused(capture.parent, "observed", error=InputError):
        open_capture(capture).read("observed", "y")
    assert not owned.exists()


def test_missing_roles_and_outputs_are_named(tmp_path):
    opened = open_capture(record(tmp_path / "c", "reference"))
    with refused(tmp_path, "holds no observed outputs", "convcal capture", error=InputError):
        opened.read("observed", "y")
    with refused(tmp_path, "no output 'z'; it has 'y'", error=InputError):
        opened.read("reference", "z")


def test_a_file_is_no_capture(tmp_path):
    (tmp_path / "c").write_text("")
    with refused(tmp_path, "is a file", "convcal capture --import", error=InputError):
        open_capture(tmp_path / "c")


# ---------------------------------------------------------------- outputs from elsewhere


@pytest.mark.parametrize("role", ["reference", "observed"])
def test_outputs_by_sample_are_imported(tmp_path, role):
    np.savez(tmp_path / "o.npz", **{f"{name}/y": y for name, y in zip(NAMED, Y, strict=True)})
    capture = import_outputs(
        tmp_path / "o.npz", tmp_path / "c", role=role, provenance={"runtime": "torch"}
    )
    assert capture.samples == NAMED
    assert capture.provenance == {role: {"runtime": "torch"}}
    np.testing.assert_array_equal(capture.read(role, "y"), Y)


@pytest.mark.parametrize("stacked", [Y, Y[:, 0], np.asfortranarray(Y)])
def test_stacked_outputs_take_the_names_of_the_other_role(tmp_path, stacked):
    record(tmp_path / "c", "reference", names="edcba")
    np.savez(tmp_path / "o.npz", y=stacked)
    capture = import_outputs(tmp_path / "o.npz", tmp_path / "c", role="observed", provenance={})
    assert capture.samples == tuple("edcba")
    np.testing.assert_array_equal(capture.read("observed", "y"), Y)


def test_stacked_outputs_alone_are_numbered(tmp_path):
    np.savez(tmp_path / "o.npz", y=Y[..., None], z=Y[:, 0, 0])
    capture = import_outputs(tmp_path / "o.npz", tmp_path / "c", role="observed", provenance={})
    assert capture.samples == tuple(f"sample-{index}" for index in range(5))
    np.testing.assert_array_equal(capture.read("observed", "y"), Y[..., None])
    np.testing.assert_array_equal(capture.read("observed", "z"), Y[:, 0, :1])


@pytest.mark.parametrize(
    ("shape", "dtype", "own"),
    [
        ((5, 3, 8, 9), np.float32, (1, 3, 8, 9)),
        ((5, 3, 8), np.float16, (1, 3, 8)),
        ((5, 7), np.float32, (1, 7)),
        ((5,), np.float32, (1,)),
        ((5, 2, 4, 8, 9), np.float32, (1, 2, 4, 8, 9)),
        ((5, 1, 3, 8, 9), np.float32, (1, 3, 8, 9)),
        ((5, 8, 9, 3), np.uint8, (8, 9, 3)),
        ((5, 8, 9), np.uint8, (8, 9)),
        ((5, 3, 8, 9), np.uint8, (1, 3, 8, 9)),
    ],
)
def test_each_sample_of_a_stack_keeps_its_batch_axis(tmp_path, shape, dtype, own):
    stack = (RANDOM.random(shape) * 100).astype(dtype)
    np.savez(tmp_path / "o.npz", y=stack)
    capture = import_outputs(tmp_path / "o.npz", tmp_path / "c", role="reference", provenance={})
    np.testing.assert_array_equal(capture.read("reference", "y"), stack.reshape(5, *own))


@pytest.mark.parametrize("shape", [(5, 1, 8, 9), (5, 1, 8)])
def test_a_stack_whose_axis_of_one_may_be_batch_or_channel_is_refused(tmp_path, shape):
    np.savez(tmp_path / "o.npz", y=np.ones(shape, np.float32))
    with refused(tmp_path, str(shape), "batch", "SAMPLE/OUTPUT", error=InputError):
        import_outputs(tmp_path / "o.npz", tmp_path / "c", role="reference", provenance={})


def test_one_stacked_sample_may_lack_the_sample_axis(tmp_path):
    record(tmp_path / "c", "reference", Y[:1], names="a")
    np.savez(tmp_path / "o.npz", y=Y[0])
    capture = import_outputs(tmp_path / "o.npz", tmp_path / "c", role="observed", provenance={})
    np.testing.assert_array_equal(capture.read("observed", "y"), Y[:1])


def test_an_output_that_the_import_lacks_is_named_with_a_way_out(tmp_path):
    np.savez(tmp_path / "both.npz", y=Y[:, 0], mask=Y[:, 0])
    np.savez(tmp_path / "one.npz", y=Y[:, 0])
    import_outputs(tmp_path / "both.npz", tmp_path / "c", role="reference", provenance={})
    with refused(tmp_path, "lacks output 'mask'", "convcal run --outputs", error=InputError):
        import_outputs(tmp_path / "one.npz", tmp_path / "c", role="observed", provenance={})


def test_an_output_name_with_a_slash_is_known_from_the_other_role(tmp_path):
    record(tmp_path / "c", "reference", output="decoder/y")
    np.savez(tmp_path / "o.npz", **{f"{n}/decoder/y": y for n, y in zip(NAMED, Y, strict=True)})
    capture = import_outputs(tmp_path / "o.npz", tmp_path / "c", role="observed", provenance={})
    assert capture.outputs == ("decoder/y",)


@pytest.mark.parametrize(
    ("tensors", "parts"),
    [
        ({"y": Y[:4]}, ["'y' 4", "the other role has 5"]),
        ({"y": Y[..., :2]}, ["(5, 1, 2, 2)", "(1, 2, 3)"]),
        ({"z": Y}, ["'z'", "names are 'y'"]),
        ({"s0/y": Y[0]}, ["lacks samples 's1', 's2', 's3', 's4'"]),
        ({"other/y": Y[0]}, ["sample 'other'", "'s0'"]),
        ({"y": Y, "s0/y": Y[0]}, ["mixes"]),
        ({}, ["holds no arrays"]),
    ],
)
def test_outputs_that_do_not_match_the_other_role_are_refused(tmp_path, tensors, parts):
    record(tmp_path / "c", "reference")
    np.savez(tmp_path / "o.npz", **tensors)
    with refused(tmp_path, *parts, error=InputError):
        import_outputs(tmp_path / "o.npz", tmp_path / "c", role="observed", provenance={})


@pytest.mark.parametrize(
    ("tensors", "parts"),
    [
        ({"y": Y[:, 0], "z": Y[:3, 0]}, ["unequal numbers of samples: 'y' 5, 'z' 3"]),
        ({"y": np.float32(1)}, ["array 'y' of", "scalar"]),
        ({"../y": Y}, ["'..' cannot be the name of a sample"]),
        ({"y": Y[:0, 0]}, ["no samples to record"]),
    ],
)
def test_outputs_that_cannot_be_imported_are_named(tmp_path, tensors, parts):
    np.savez(tmp_path / "o.npz", **tensors)
    with refused(tmp_path, *parts, error=InputError):
        import_outputs(tmp_path / "o.npz", tmp_path / "c", role="observed", provenance={})


def test_an_existing_role_is_imported_over_only_on_request(capture):
    source = capture.parent / "o.npz"
    np.savez(source, y=Y)
    with refused(capture, "--force", error=OutputExistsError):
        import_outputs(source, capture, role="observed", provenance={})
    imported = import_outputs(source, capture, role="observed", provenance={}, force=True)
    assert imported.read("observed", "y").dtype == np.float32


def test_importing_the_data_part_loads_nothing_heavy():
    program = (
        "import sys, convcal.data; "
        "heavy = {'zarr', 'PIL', 'soundfile', 'coremltools', 'scipy'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"
