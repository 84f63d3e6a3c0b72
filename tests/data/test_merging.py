# SPDX-License-Identifier: BSD-3-Clause
"""Captures that become one: the same however they are put together."""

import itertools

import pytest
from data.descriptions import refused
from data.recorded import HERE, held, record, values
from hypothesis import given, settings
from hypothesis import strategies as st

from convcal.data import grow_role, merge_captures, open_capture, verify_capture
from convcal.errors import InputError, OutputExistsError

SAMPLES = st.lists(st.sampled_from("abcde"), min_size=1, max_size=3, unique=True)


@settings(max_examples=4, deadline=None)
@given(st.lists(SAMPLES, min_size=3, max_size=3))
def test_neither_order_nor_grouping_changes_what_a_merged_capture_holds(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("merging")
    for name, samples in zip("012", parts, strict=True):
        data = {"source": name, "sha256": name, "n_files": 1, "n_samples": len(samples)}
        record(folder / name, "observed", samples, data=data, source=name)
    paths = [folder / name for name in "012"]
    names = itertools.count()

    def merged(*parts):
        return merge_captures(parts, folder / f"merged-{next(names)}").path

    one, two, three = paths
    whole = held(merged(*paths))
    assert set(whole["observed"][0]) == {sample for samples in parts for sample in samples}
    assert held(merged(*paths[::-1])) == whole
    assert held(merged(merged(one, two), three)) == whole
    assert held(merged(three, merged(two, one))) == whole
    assert held(merged(two, merged(one, three))) == whole


def test_a_capture_merged_with_itself_is_itself(tmp_path):
    path = record(tmp_path / "c", "reference", "ab", data={"sha256": "a"})
    assert held(merge_captures([path, path], tmp_path / "d").path) == held(path)


def test_roles_of_two_captures_come_together_and_samples_keep_their_order(tmp_path):
    reference = record(tmp_path / "r", "reference", "dab")
    observed = record(tmp_path / "o", "observed", "dab", seed=1, sha256="b")
    more = record(tmp_path / "m", "observed", "ac", seed=1, sha256="b")
    capture = merge_captures([reference, observed, more], tmp_path / "c")
    assert capture.roles == ("reference", "observed")
    assert capture.samples == ("d", "a", "b")
    assert capture.unpaired == {"observed": ("c",)}
    for sample in "dabc":
        outputs, tensors = values(sample, seed=1)
        found = capture.read_sample("observed", sample)
        assert all((found[name] == array).all() for name, array in outputs.items())
        assert (capture.read_tensors("observed", sample)["inner"] == tensors["inner"]).all()
    assert verify_capture(tmp_path / "c")


def test_an_input_that_one_of_them_knows_is_known(tmp_path):
    known = record(tmp_path / "k", "observed", "a")
    unknown = record(tmp_path / "u", "observed", "a", digest=lambda _: "")
    for paths in ([known, unknown], [unknown, known]):
        merged = merge_captures(paths, tmp_path / "c", force=True)
        assert held(merged.path)["observed"][0]["a"][0] == "a"


def other_outputs(path):
    return record(path, "observed", "ca", seed=1)


def another_input(path):
    return record(path, "observed", "ca", digest=lambda sample: f"{sample}'")


def another_device(path):
    return record(path, "observed", "c", os="macOS 26.0")


def without_tensors(path):
    with grow_role(path, "observed", provenance=HERE) as grower:
        grower.append("c", values("c")[0])
    return path


def unlike_the_other_role(path):
    with grow_role(path, "reference", provenance=HERE) as grower:
        grower.append("a", {"z": values("a")[0]["y"]})
    return path


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (other_outputs, ("'a'", "differ in 'y'", "'1'", "'2'")),
        (another_input, ("'a'", "two inputs")),
        (another_device, ("os 'Linux 6', not 'macOS 26.0'", "'2'")),
        (without_tensors, ("'2'", "'c' has tensors none", "'inner'")),
        (unlike_the_other_role, ("make no capture together", "outputs 'z'")),
    ],
)
def test_captures_that_contradict_each_other_are_refused_by_name(
    tmp_path, monkeypatch, make, parts
):
    monkeypatch.chdir(tmp_path)
    paths = [record(tmp_path / "1", "observed", "ab").name, make(tmp_path / "2").name]
    for order in (paths, paths[::-1]):
        named = parts if order is paths else ()
        with refused(tmp_path, *named, error=InputError):
            merge_captures(order, "c")


def test_damage_is_not_merged(tmp_path):
    path = record(tmp_path / "1", "observed", "ab")
    chunk = path / "observed/output-1/c/1"
    chunk.write_bytes(chunk.read_bytes()[::-1])
    whole = record(tmp_path / "2", "observed", "c")
    with refused(tmp_path, "sample 'b'", "'" + str(path), error=InputError):
        merge_captures([path, whole], tmp_path / "c")


def test_a_target_that_exists_is_replaced_only_on_request(tmp_path):
    paths = [record(tmp_path / "1", "observed", "a"), record(tmp_path / "2", "observed", "b")]
    with refused(tmp_path, "--force", error=OutputExistsError):
        merge_captures(paths, paths[0])
    with refused(tmp_path, "two captures or more", error=InputError):
        merge_captures(paths[:1], tmp_path / "c")
    merge_captures(paths, paths[0], force=True)
    assert open_capture(paths[0]).samples == ("a", "b")
