# SPDX-License-Identifier: BSD-3-Clause
import sys
import tracemalloc

import numpy as np
import pytest
import soundfile
from data.descriptions import image, model, refused, tensor, unchanged
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from convcal.data import open_samples
from convcal.data.inputs import as_input, count_samples
from convcal.errors import InputError

X = np.random.default_rng(8).random((24, 1, 1, 4), np.float32)
ONE = model(tensor((1, 1, 4)))
TWO = model(tensor((1, 1, 4)), tensor((1, 2), name="z", dtype="int32"))
Z = np.arange(48, dtype=np.int32).reshape(24, 1, 2)


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def values(samples, name="x"):
    return np.stack([sample[name] for sample in samples])


# ---------------------------------------------------------------- forms of data


def test_an_array_of_the_inputs_own_shape_is_one_sample(tmp_path):
    samples = open_samples(save(tmp_path / "one.npz", x=X[0]), ONE)
    assert samples.names == ("one",)
    assert len(samples) == samples.n_files == 1
    np.testing.assert_array_equal(values(samples), X[:1])


@pytest.mark.parametrize("given_array", [X, X[:, 0], X.astype(np.float64), np.asfortranarray(X)])
def test_a_leading_sample_axis_holds_many(tmp_path, given_array):
    samples = open_samples(save(tmp_path / "many.npz", x=given_array), ONE)
    assert samples.names == tuple(f"many[{index}]" for index in range(24))
    assert samples.n_files == 1
    np.testing.assert_array_equal(values(samples), X)
    assert values(samples).dtype == np.float32


@given(
    st.lists(st.integers(1, 3), max_size=3).map(tuple),
    st.integers(2, 5),
)
def test_the_rules_for_many_samples_do_not_contradict_each_other(own, n):
    assert count_samples(own, own) is None
    assert count_samples((n, *own), own) == n
    if own[:1] == (1,):
        assert count_samples((n, *own[1:]), own) == n
    with pytest.raises(ValueError, match="holds no samples"):
        count_samples((*own, n + 7, 2), own)


def test_one_sample_with_a_sample_axis_works(tmp_path):
    assert open_samples(save(tmp_path / "f.npz", x=X[:1]), ONE).names == ("f[0]",)


@pytest.mark.parametrize("z", [Z, Z[:, 0]])
def test_inputs_are_taken_together(tmp_path, z):
    samples = open_samples(save(tmp_path / "f.npz", z=z, x=X), TWO)
    assert [list(sample) for sample in samples] == [["x", "z"]] * 24
    np.testing.assert_array_equal(values(samples, "z"), Z)


def test_keys_of_samples_and_inputs(tmp_path):
    path = save(tmp_path / "f.npz", **{"b/x": X[0], "b/z": Z[0], "a/z": Z[1], "a/x": X[1]})
    samples = open_samples(path, TWO)
    assert samples.names == ("b", "a")
    np.testing.assert_array_equal(values(samples), X[:2])


def test_an_input_name_with_a_slash_is_known_from_the_model(tmp_path):
    named = model(tensor((1, 1, 4), name="encoder/x"))
    samples = open_samples(save(tmp_path / "f.npz", **{"s/encoder/x": X[0]}), named)
    assert samples.names == ("s",)
    np.testing.assert_array_equal(values(samples, "encoder/x"), X[:1])


@pytest.mark.parametrize("array", [X, X[:, 0], np.asfortranarray(X)])
def test_a_npy_file_fits_a_model_with_one_input(tmp_path, array):
    np.save(tmp_path / "f.npy", array)
    samples = open_samples(tmp_path / "f.npy", ONE)
    assert samples.names[:2] == ("f[0]", "f[1]")
    np.testing.assert_array_equal(values(samples), X)
    np.testing.assert_array_equal(values(samples), X)


def test_a_npy_file_may_hold_one_sample(tmp_path):
    array = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    np.save(tmp_path / "f.npy", array)
    (sample,) = open_samples(tmp_path / "f.npy", model(tensor((2, 3))))
    np.testing.assert_array_equal(sample["x"], array)


def test_a_folder_is_taken_in_the_order_of_names(tmp_path):
    np.save(tmp_path / "b.npy", X[0])
    save(tmp_path / "a.npz", x=X[1:3])
    save(tmp_path / "c.npz", **{"last/x": X[3]})
    (tmp_path / "README.md").write_text("what this is")
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    (tmp_path / "more").mkdir()
    samples = open_samples(tmp_path, ONE)
    assert samples.names == ("a[0]", "a[1]", "b", "last")
    assert samples.n_files == 3
    np.testing.assert_array_equal(values(samples), X[[1, 2, 0, 3]])
    assert str(samples) == f"3 files of folder '{tmp_path.name}', 4 samples"


def test_images_come_from_arrays_too(tmp_path):
    pixels = np.random.default_rng(9).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    samples = open_samples(save(tmp_path / "f.npz", picture=pixels), model(image(4, 6)))
    np.testing.assert_array_equal(values(samples, "picture"), pixels)


def test_a_flexible_input_takes_other_sizes(tmp_path):
    flexible = model(tensor((1, 1, 4), is_flexible=True))
    array = np.ones((1, 2, 9), np.float32)
    (sample,) = open_samples(save(tmp_path / "f.npz", x=array), flexible)
    np.testing.assert_array_equal(sample["x"], array)


LIMITS = ((1, 1), (1, 1), (2, 9))


def test_many_samples_of_a_flexible_input_may_have_another_size_than_the_default(tmp_path):
    flexible = model(tensor((1, 1, 4), is_flexible=True, allowed=(LIMITS,)))
    array = np.random.default_rng(0).standard_normal((5, 1, 1, 9)).astype(np.float32)
    for stacked in (array, array[:, 0]):
        samples = open_samples(save(tmp_path / "f.npz", x=stacked), flexible)
        np.testing.assert_array_equal(values(samples), array)
    (sample,) = open_samples(save(tmp_path / "f.npz", x=array[0]), flexible)
    np.testing.assert_array_equal(sample["x"], array[0])


def test_a_size_that_a_flexible_input_does_not_allow_is_refused_with_those_that_it_does(tmp_path):
    flexible = model(
        tensor((1, 1, 4), is_flexible=True, allowed=(LIMITS, ((1, 1), (2, 2), (3, 3))))
    )
    for shape in ((1, 1, 10), (3, 1, 1, 10), (1, 2, 4)):
        path = save(tmp_path / "f.npz", x=np.zeros(shape, np.float32))
        accepted = "(1, 1, 2 to 9) or (1, 2, 3), and N samples of one shape have one more axis"
        with refused(tmp_path, f"shape {shape}", accepted, error=InputError):
            open_samples(path, flexible)


LOADER = """
from dataclasses import dataclass
import neighbour

@dataclass
class Item:
    value: float

def samples():
    for value in neighbour.VALUES:
        yield {"x": [[[Item(value).value] * 4]]}

def listed():
    return list(samples())

def number():
    return 3

def failing():
    yield from samples()
    raise OSError("the disk is gone")

def empty():
    return []

calls = 0
def shrinking():
    global calls
    calls += 1
    return listed()[: 4 - calls]

def random():
    import numpy
    yield {"x": numpy.random.default_rng().random((1, 1, 4))}

LIMIT = 5
"""


@pytest.fixture
def loader(tmp_path, monkeypatch):
    folder = tmp_path / "loaders"
    folder.mkdir()
    (folder / "loader.py").write_text(LOADER)
    (folder / "neighbour.py").write_text("VALUES = (1.0, 2.0, 3.0)\n")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # of the neighbour
    yield folder / "loader.py"
    sys.modules.pop("neighbour", None)


@pytest.mark.parametrize("function", ["samples", "listed"])
def test_a_function_yields_samples_as_often_as_asked(loader, function):
    path = list(sys.path)
    with unchanged(loader.parent):
        samples = open_samples(f"{loader}:{function}", ONE)
        for _ in range(2):
            np.testing.assert_array_equal(values(samples)[:, 0, 0, 0], [1, 2, 3])
    assert samples.names == ("sample-0", "sample-1", "sample-2")
    assert samples.n_files == 0
    assert samples.description == f"function '{function}' of 'loader.py', 3 samples"
    assert sys.path == path


@pytest.mark.parametrize(
    "kind", [list, tuple, iter, lambda samples: (dict(sample) for sample in samples)]
)
def test_any_iterable_of_dicts_is_a_calibration_set(kind):
    samples = open_samples(kind([{"x": x} for x in X]), ONE)
    assert len(samples) == 24
    for _ in range(2):
        np.testing.assert_array_equal(values(samples), X)


def test_samples_are_copies():
    given_samples = [{"x": X[0].copy()}]
    (sample,) = open_samples(given_samples, ONE)
    sample["x"][...] = 9
    np.testing.assert_array_equal(given_samples[0]["x"], X[0])


# ---------------------------------------------------------------- hash, memory


def test_the_hash_is_that_of_the_content(tmp_path):
    first = open_samples(save(tmp_path / "f.npz", x=X), ONE)
    assert first.sha256 == open_samples(tmp_path / "f.npz", ONE).sha256
    assert len(first.sha256) == 64
    changed = X.copy()
    changed[7, 0, 0, 1] = np.nextafter(changed[7, 0, 0, 1], np.float32(2))
    assert open_samples(save(tmp_path / "f.npz", x=changed), ONE).sha256 != first.sha256
    objects = [[{"x": x} for x in array] for array in (X, X, changed, X[::-1])]
    hashes = [open_samples(each, ONE).sha256 for each in objects]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_the_hash_does_not_depend_on_where_the_files_are(tmp_path):
    hashes = set()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "f.npy", X)
        hashes.add(open_samples(tmp_path / folder, ONE).sha256)
    assert len(hashes) == 1


def test_files_are_read_when_they_are_reached(tmp_path):
    for index in range(3):
        np.save(tmp_path / f"{index}.npy", X[index])
    iterator = iter(open_samples(tmp_path, ONE))
    np.testing.assert_array_equal(next(iterator)["x"], X[0])
    np.save(tmp_path / "1.npy", X[9])
    np.testing.assert_array_equal(next(iterator)["x"], X[9])


@pytest.mark.parametrize("save_as", [np.save, lambda path, array: np.savez(path, x=array)])
def test_memory_does_not_grow_with_the_number_of_samples(tmp_path, save_as):
    one_sample = 4 * 64 * 1024  # bytes
    save_as(tmp_path / "f", np.ones((64, 1, 64, 1024), np.float32))
    samples = open_samples(next(tmp_path.iterdir()), model(tensor((1, 64, 1024))))
    tracemalloc.start()
    try:
        assert sum(int(sample["x"][0, 0, 0]) for sample in samples) == 64
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Bytes as read, the array, its copy in the input's dtype and the mask of NaN, for the sample
    # at hand and the one before it.
    assert peak < 8 * one_sample


# ---------------------------------------------------------------- values


@settings(max_examples=50)
@given(st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.uint8, np.int64, np.bool_]))
def test_numbers_are_brought_to_the_inputs_dtype(dtype):
    array = np.array([[[0, 1, 1, 0]]], dtype)
    for wanted in ("float16", "float32"):
        result = as_input(array, tensor((1, 1, 4), dtype=wanted), where="x")
        assert result.dtype == wanted
        np.testing.assert_array_equal(result, array.astype(float))


def test_infinities_pass_because_masks_have_them():
    array = np.array([[[0, -np.inf, np.inf, 1]]])
    for dtype in ("float16", "float32"):
        result = as_input(array, tensor((1, 1, 4), dtype=dtype), where="x")
        np.testing.assert_array_equal(result, array)


@pytest.mark.parametrize(
    ("array", "feature", "parts"),
    [
        (np.array([[[0, np.nan, 1, np.nan]]]), tensor((1, 1, 4)), ["2 NaN among 4 values"]),
        (np.full((1, 4), 7e4), tensor((1, 4), dtype="float16"), ["70000.0", "range of float16"]),
        (np.full((1, 4), 1e39), tensor((1, 4)), ["1e+39", "range of float32"]),
        (np.full((1, 4), 2**40), tensor((1, 4), dtype="int32"), ["1099511627776", "int32"]),
        (np.full((1, 4), 0.5), tensor((1, 4), dtype="int32"), ["float64", "integers"]),
        (np.full((1, 4), 1j), tensor((1, 4)), ["complex128", "floats and integers"]),
        (np.full((1, 4), "a"), tensor((1, 4)), ["<U1", "floats and integers"]),
        (np.array([[{}] * 4]), tensor((1, 4)), ["object"]),
        ([[1, 2, 3, 4], [5]], tensor((2, 4)), ["is no array"]),
        (np.zeros((2, 2, 3)), image(2, 2), ["float64", "uint8, 0 to 255"]),
        (
            np.zeros((1, 3)),
            tensor((1, 4)),
            ["(1, 3)", "(1, 4)", "N samples have (N, 1, 4) or (N, 4)"],
        ),
        (np.zeros((3, 2, 3), np.uint8), image(2, 2), ["(3, 2, 3)", "(2, 2, 3)"]),
    ],
)
def test_values_that_do_not_fit_are_named(tmp_path, array, feature, parts):
    name = feature.name
    with refused(tmp_path, f"input '{name}' of sample 0", *parts, error=InputError):
        open_samples([{name: array}], model(feature))


def test_nan_in_a_file_is_named_with_file_and_key(tmp_path):
    bad = X.copy()
    bad[5, 0, 0, 2] = np.nan
    samples = open_samples(save(tmp_path / "f.npz", x=bad), ONE)
    with refused(tmp_path, "array 'x' of", "f.npz", "1 NaN among 4 values", error=InputError):
        list(samples)


# ---------------------------------------------------------------- bad input


def write_bytes(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def write_npz(name, **arrays):
    return lambda folder: save(folder / name, **arrays)


def write_mixed(folder):
    np.save(folder / "a.npy", X[0])
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "b.png")
    soundfile.write(folder / "c.wav", np.zeros(10), 8000)


def write_twice(folder):
    np.save(folder / "a.npy", X[0])
    save(folder / "a.npz", x=X[0])


BAD = {
    "nothing there": (lambda folder: None, "nowhere", ONE, ["no calibration data at", "nowhere"]),
    "an empty folder": (lambda folder: None, "", ONE, ["holds no calibration data"]),
    "only folders": (
        lambda folder: (folder / "low").mkdir(),
        "",
        ONE,
        ["it has folders 'low': name one of them"],
    ),
    "a foreign file": (write_bytes("a.mat", b"x"), "", ONE, ["a.mat", ".npz or .npy file"]),
    "a foreign file alone": (write_bytes("a.mat", b"x"), "a.mat", ONE, ["a.mat", ".npz"]),
    "mixed kinds": (write_mixed, "", ONE, ["mixes arrays ('a.npy'), pictures ('b.png'), sound"]),
    "one name twice": (write_twice, "", ONE, ["two samples of 2 files", "called 'a'"]),
    "no samples": (write_npz("f.npz", x=X[:0]), "", ONE, ["holds no samples"]),
    "a missing input": (write_npz("f.npz", x=X), "", TWO, ["f.npz", "lacks input 'z'", "'x'"]),
    "an unknown input": (
        write_npz("f.npz", x=X, label=Z),
        "",
        ONE,
        ["f.npz' has key 'label', but the known names are 'x'"],
    ),
    "a missing input of a sample": (
        write_npz("f.npz", **{"s/x": X[0]}),
        "",
        TWO,
        ["sample 's' of", "lacks input 'z'"],
    ),
    "unequal numbers": (
        write_npz("f.npz", x=X, z=Z[:5]),
        "",
        TWO,
        ["unequal numbers of samples: 'x' 24, 'z' 5"],
    ),
    "a wrong shape": (
        write_npz("f.npz", x=X[..., :3]),
        "",
        ONE,
        ["array 'x' of", "(24, 1, 1, 3)", "(1, 1, 4)", "N samples have (N, 1, 1, 4) or (N, 1, 4)"],
    ),
    "a wrong shape of a sample": (
        write_npz("f.npz", **{"s/x": X}),
        "",
        ONE,
        ["array 's/x' of", "(24, 1, 1, 4)"],
    ),
    "a wrong dtype": (
        write_npz("f.npz", x=X, z=Z.astype(float)),
        "",
        TWO,
        ["array 'z' of", "float64", "integers"],
    ),
    "a .npy file for two inputs": (
        lambda folder: np.save(folder / "f.npy", X),
        "",
        TWO,
        ["f.npy", "one input", "a key per input"],
    ),
    "objects in .npy": (
        lambda folder: np.save(folder / "f.npy", np.array([{}]), allow_pickle=True),
        "",
        ONE,
        ["f.npy", "Python objects", "never unpickles"],
    ),
    "a damaged .npy": (write_bytes("f.npy", b"\x93NUMPY"), "", ONE, ["f.npy", "no readable .npy"]),
    "a damaged .npz": (write_bytes("f.npz", b"PK"), "", ONE, ["f.npz", "no readable .npz file"]),
    "a name that is a path": (
        write_npz("f.npz", **{"../x": X[0]}),
        "",
        ONE,
        ["'..' cannot be the name of a sample"],
    ),
    "a missing script": (lambda folder: None, "no.py:samples", ONE, ["no.py", "'samples'"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_named(tmp_path, case):
    write, name, description, parts = BAD[case]
    write(tmp_path)
    with refused(tmp_path, *parts, error=InputError):
        open_samples(tmp_path / name, description)


class Tensor:
    """As PyTorch's, while it records gradients."""

    def __array__(self, *_, **__):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ({"x": X[0]}, ["type dict", "[sample]"]),
        ([{"x": Tensor()}], ["input 'x' of sample 0", "no array", "requires grad"]),
        (3, ["type int", "iterable of dicts"]),
        ([], ["holds no samples"]),
        ([X[0]], ["sample 0", "type ndarray", "dict of arrays"]),
        ([{"x": X[0]}, {}], ["sample 1", "lacks input 'x'"]),
        ([{"x": X[0], "w": X[0]}], ["sample 0", "holds 'w', which the model does not take"]),
    ],
)
def test_bad_python_objects_are_named(tmp_path, data, parts):
    with refused(tmp_path, *parts, error=InputError):
        open_samples(data, ONE)


@pytest.mark.parametrize(
    ("function", "parts"),
    [
        ("no_such", ["loader.py", "no function 'no_such'", "functions are 'samples'"]),
        ("LIMIT", ["no function 'LIMIT'"]),
        ("number", ["'number'", "gives int"]),
        ("failing", ["function 'failing' of", "OSError: the disk is gone"]),
        ("empty", ["'empty'", "holds no samples"]),
    ],
)
def test_bad_functions_are_named(loader, function, parts):
    with refused(loader.parent, *parts, error=InputError):
        open_samples(f"{loader}:{function}", ONE)


@pytest.mark.parametrize("code", ["1 / 0", "import no_such_package", "def ("])
def test_a_script_that_fails_is_named(tmp_path, code):
    (tmp_path / "broken.py").write_text(code)
    with refused(tmp_path, "broken.py", "fails when it is run", error=InputError):
        open_samples(f"{tmp_path / 'broken.py'}:samples", ONE)


@pytest.mark.parametrize(
    ("function", "parts"),
    [
        ("shrinking", ["gave 3 samples when it was first gone through and 2 now"]),
        ("random", ["another sample 0", "seed the random numbers"]),
    ],
)
def test_data_that_change_between_two_passes_are_noticed(loader, function, parts):
    samples = open_samples(f"{loader}:{function}", ONE)
    with refused(loader.parent, *parts, error=InputError):
        list(samples)


@pytest.mark.parametrize("form", ["npy", "npz", "keys", "files", "objects", "fortran"])
def test_a_part_is_what_is_there_of_the_whole(tmp_path, form):
    values = np.random.default_rng(4).random((9, 1, 3, 8), np.float32)
    path = tmp_path / "data.npz"
    if form == "files":
        path = tmp_path / "files"
        path.mkdir()
        for index in range(3):
            np.save(path / f"{index}.npy", values[3 * index : 3 * index + 3])
    elif form == "keys":
        np.savez(path, **{f"s{index}/x": value for index, value in enumerate(values)})
    elif form == "npz":
        np.savez_compressed(path, x=values)
    else:
        path = path.with_suffix(".npy")
        np.save(path, np.asfortranarray(values) if form == "fortran" else values)
    source = [{"x": value} for value in values] if form == "objects" else path
    samples = open_samples(source, model(tensor((1, 3, 8))))
    for start in range(10):
        for stop in range(start, 10):
            found = [sample["x"] for sample in samples.part(start, stop)]
            np.testing.assert_array_equal(np.reshape(found, (-1, 1, 3, 8)), values[start:stop])
