# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convcal.coreml._coremltools import load_coremltools
from convcal.coreml.weights import WeightFile
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
def test_packed_integers_read_as_coremltools_wrote_them(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("weights") / "weight.bin"
    arrays = []
    for dtype in data.draw(st.lists(st.sampled_from(sorted(PACKED)), min_size=1, max_size=4)):
        low, high = PACKED[dtype]
        values = data.draw(st.lists(st.integers(low, high), min_size=1, max_size=40))
        arrays.append((dtype, np.array(values, np.int8 if low < 0 else np.uint8)))
    offsets = write(path, arrays)
    weights = WeightFile(path)
    assert weights.count == len(arrays)
    for (dtype, values), offset in zip(arrays, offsets, strict=True):
        assert weights.blob(offset).dtype == dtype
        np.testing.assert_array_equal(weights.read(offset), values)


@pytest.mark.parametrize(
    "dtype", ["float32", "float16", "int8", "uint8", "int16", "uint16", "int32", "uint32"]
)
def test_whole_types_read_as_coremltools_wrote_them(tmp_path, dtype):
    values = np.random.default_rng(0).integers(0, 100, 37).astype(dtype)
    (first, second) = write(tmp_path / "w", [(dtype, values), (dtype, values[::-1].copy())])
    weights = WeightFile(tmp_path / "w")
    assert weights.read(first).dtype == dtype
    np.testing.assert_array_equal(weights.read(first), values)
    np.testing.assert_array_equal(weights.read(second), values[::-1])
    assert not weights.read(first).flags.writeable


def relabel(path, offset, number):
    """Give the blob at an offset another data type."""
    content = bytearray(path.read_bytes())
    content[offset + 4] = number
    path.write_bytes(content)
    return WeightFile(path)


def test_bfloat16_is_widened(tmp_path):
    values = np.array([1.0, -2.5, 3.0e38], np.float32)
    (offset,) = write(tmp_path / "w", [("uint16", (values.view(np.uint32) >> 16).astype("u2"))])
    widened = relabel(tmp_path / "w", offset, 5).read(offset)
    # bfloat16 keeps the upper half of a float32: 8 bits of significand.
    np.testing.assert_allclose(widened, values, rtol=2**-7)


def test_eight_bit_floats_are_refused_by_name(tmp_path):
    (offset,) = write(tmp_path / "w", [("uint8", np.arange(9, dtype=np.uint8))])
    with pytest.raises(UnsupportedModelError, match="float8e4m3fn values at offset 64"):
        relabel(tmp_path / "w", offset, 16).read(offset)


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
        values = WeightFile(path).read(where)
    except (InputError, UnsupportedModelError):
        return
    assert values.nbytes <= 8 * size
