# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convcal.coreml._coremltools import load_coremltools
from convcal.coreml.weights import WeightFile, WeightTail, release_pages, spilled
from convcal.errors import InputError, UnsupportedModelError

# The largest value of each packed integer type, and its lowest.
PACKED = {
    "uint1": (0, 1),
    "uint2": (0, 3),
    "uint3": (0, 7),
    "uint4": (0, 15),
    "uint6": (0, 63),
    "int4": (-8, 7),
}
WRITERS = {"float32": "write_float_data", "float16": "write_fp16_data"}


def write(path, arrays):
    """Write arrays with coremltools' own writer; give their offsets."""
    load_coremltools()
    from coremltools.libmilstoragepython import _BlobStorageWriter  # noqa: TID251

    writer = _BlobStorageWriter(str(path))
    offsets = []
    for dtype, array in arrays:
        method = getattr(writer, WRITERS.get(dtype, f"write_{dtype}_data"))
        offsets.append(method(array.view(np.uint16) if dtype == "float16" else array))
    del writer  # the file is complete when the writer goes
    return offsets


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_packed_integers_lie_where_coremltools_wrote_them(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("weights") / "weight.bin"
    arrays = []
    for dtype in data.draw(st.lists(st.sampled_from(sorted(PACKED)), min_size=1, max_size=4)):
        low, high = PACKED[dtype]
        values = data.draw(st.lists(st.integers(low, high), min_size=1, max_size=40))
        arrays.append((dtype, np.array(values, np.int8 if low < 0 else np.uint8)))
    offsets = write(path, arrays)
    weights = WeightFile(path)
    for (dtype, values), offset in zip(arrays, offsets, strict=True):
        blob = weights.blob(offset)
        assert (blob.dtype, blob.n_elements) == (dtype, len(values))


@pytest.mark.parametrize(
    "dtype", ["float32", "float16", "int8", "uint8", "int16", "uint16", "int32", "uint32"]
)
def test_whole_types_lie_where_coremltools_wrote_them(tmp_path, dtype):
    values = np.random.default_rng(0).integers(0, 100, 37).astype(dtype)
    arrays = [(dtype, values), (dtype, values[::-1].copy())]
    content = tmp_path / "w"
    for (_, array), offset in zip(arrays, write(content, arrays), strict=True):
        blob = WeightFile(content).blob(offset)
        assert (blob.dtype, blob.n_elements) == (dtype, 37)
        assert content.read_bytes()[blob.start : blob.start + blob.n_bytes] == array.tobytes()
        view = WeightFile(content).array(offset, dtype=dtype, shape=(37, 1))
        np.testing.assert_array_equal(view, array[:, None], strict=True)
        assert not view.flags.writeable


@pytest.mark.parametrize(("dtype", "shape"), [("float16", (37,)), ("float32", (38,))])
def test_a_blob_of_another_type_or_too_few_values_is_refused(tmp_path, dtype, shape):
    (offset,) = write(tmp_path / "w", [("float32", np.zeros(37, np.float32))])
    with pytest.raises(InputError, match=r"has 37 values of type float32, and the program expects"):
        WeightFile(tmp_path / "w").array(offset, dtype=dtype, shape=shape)


def test_arrays_stay_valid_when_their_pages_are_released(tmp_path):
    values = np.random.default_rng(0).standard_normal((600, 500)).astype(np.float32)
    (offset,) = write(tmp_path / "w", [("float32", values.ravel())])
    view = WeightFile(tmp_path / "w").array(offset, dtype="float32", shape=values.shape)
    large, small = spilled(values.T), spilled(values[:2])
    release_pages()
    np.testing.assert_array_equal(view, values)
    np.testing.assert_array_equal(large, values.T)
    np.testing.assert_array_equal(small, values[:2])


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_no_damage_makes_the_reader_leave_the_file(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("weights") / "weight.bin"
    (offset,) = write(path, [("float32", np.arange(20, dtype=np.float32))])
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, 127))] = data.draw(st.integers(0, 255))
    size = data.draw(st.integers(64, len(content)))
    path.write_bytes(content[:size])
    where = data.draw(st.sampled_from([0, 1, 64, 128, 192, 2**63, offset]))
    try:
        blob = WeightFile(path).blob(where)
    except (InputError, UnsupportedModelError):
        return
    assert 0 <= blob.start <= blob.start + blob.n_bytes <= size


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_appended_arrays_are_where_coremltools_reads_them_behind_what_was_there(
    tmp_path_factory, data
):
    from coremltools.libmilstoragepython import _BlobStorageReader  # noqa: TID251

    def arrays(least):
        drawn = []
        for dtype in data.draw(st.lists(st.sampled_from(sorted(WRITERS)), min_size=least)):
            size = data.draw(st.integers(1, 70))
            drawn.append((dtype, data.draw(st.integers(0, 99)) + np.arange(size).astype(dtype)))
        return drawn

    path = tmp_path_factory.mktemp("weights") / "weight.bin"
    old, new = arrays(1), arrays(0)
    offsets = write(path, old)
    before = path.read_bytes()
    tail = WeightTail(path)
    assert tail.is_empty
    offsets += [tail.append(array) for _, array in new]
    assert tail.is_empty == (not new)
    path.write_bytes(b"".join(tail.chunks()))
    after = path.read_bytes()
    assert after[4 : len(before)] == before[4:]
    assert int.from_bytes(after[:4], "little") == len(old) + len(new)
    assert new or after == before
    reader = _BlobStorageReader(str(path))
    for (dtype, array), offset in zip(old + new, offsets, strict=True):
        assert offset % 64 == 0
        assert WeightFile(path).blob(offset).n_elements == array.size
        if dtype == "float16":
            read = np.asarray(reader.read_fp16_data(offset)).view(np.float16)
        else:
            read = reader.read_float_data(offset)
        np.testing.assert_array_equal(read, array)
