# SPDX-License-Identifier: BSD-3-Clause
"""A capture is as it was recorded, or what is not is named."""

import json
import shutil

import numpy as np
import pytest
import zarr
from data.recorded import record
from hypothesis import given, settings
from hypothesis import strategies as st

from convcal.data import open_capture, verify_capture, write_role
from convcal.errors import InputError

SAMPLES = ("s0", "s1", "s2")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Give a capture that is not to be changed."""
    path = tmp_path_factory.mktemp("verifying") / "net.capture"
    for seed, role in enumerate(("reference", "observed")):
        record(path, role, SAMPLES, seed=seed)
    return path


@pytest.fixture
def capture(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "net.capture")


def test_what_was_recorded_is_sound(sound):
    verification = verify_capture(sound)
    assert verification
    assert verification.n_chunks == 2 * 3 * len(SAMPLES)
    assert verification.samples == dict.fromkeys(("reference", "observed"), SAMPLES)
    assert verification.remarks == ()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_changed_byte_is_noticed(sound, data):
    files = sorted(path for path in sound.rglob("*") if path.is_file())
    path = data.draw(st.sampled_from(files), label="file")
    content = path.read_bytes()
    offset = data.draw(st.integers(0, len(content) - 1), label="offset")
    changed = bytearray(content)
    changed[offset] ^= data.draw(st.integers(1, 255), label="mask")
    path.write_bytes(changed)
    try:
        is_noticed = not verify_capture(sound)
    except InputError:  # no capture any more
        is_noticed = True
    finally:
        path.write_bytes(content)
    # A space between two words of JSON may become another one: nothing is lost.
    assert is_noticed or (path.name == "zarr.json" and json.loads(changed) == json.loads(content))


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_any_file_that_is_cut_or_missing_is_noticed(sound, data):
    files = sorted(path for path in sound.rglob("*") if path.is_file())
    path = data.draw(st.sampled_from(files), label="file")
    content = path.read_bytes()
    length = data.draw(st.none() | st.integers(0, len(content) - 1), label="length")
    path.unlink() if length is None else path.write_bytes(content[:length])
    try:
        is_noticed = not verify_capture(sound)
    except InputError:
        is_noticed = True
    finally:
        path.write_bytes(content)
    assert is_noticed


@pytest.mark.parametrize(
    ("member", "place"),
    [("output-1", {"output": "label"}), ("tensor-0", {"tensor": "inner"})],
)
@pytest.mark.parametrize("is_missing", [False, True])
def test_damaged_values_are_named(capture, member, place, is_missing):
    array = zarr.open_array(capture / "observed" / member, mode="r")
    chunk = capture / "observed" / member / f"c/1{'/0' * (array.ndim - 1)}"
    if is_missing:
        chunk.unlink()
    else:
        chunk.write_bytes(chunk.read_bytes()[::-1])
    (damage,) = verify_capture(capture).damage
    named = {"role": damage.role, "sample": damage.sample}
    named |= {word: getattr(damage, word) for word in ("output", "tensor") if word in place}
    assert named == {"role": "observed", "sample": "s1", **place}
    assert ("missing" in damage.reason) == is_missing


def test_chunks_that_were_mixed_up_are_noticed(capture):
    first, second = (capture / f"observed/tensor-0/c/{index}/0/0" for index in (0, 2))
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    damage = verify_capture(capture).damage
    assert [(each.role, each.sample) for each in damage] == [("observed", "s0"), ("observed", "s2")]
    assert all("another sample or recording" in each.reason for each in damage)


@pytest.mark.parametrize(
    "change",
    [
        lambda attributes: attributes.update(samples=["s0", "s2", "s1"]),
        lambda attributes: attributes["provenance"].update(os="macOS 26.0"),
        lambda attributes: attributes["inputs"].reverse(),
        lambda attributes: attributes.update(note="another attribute"),
    ],
)
def test_a_description_that_was_changed_is_named(capture, change):
    document = json.loads((capture / "observed/zarr.json").read_text())
    change(document["attributes"])
    (capture / "observed/zarr.json").write_text(json.dumps(document))
    open_capture(capture)  # reads on, as ever
    (damage,) = verify_capture(capture).damage
    assert damage.role == "observed"
    assert "is not what was recorded" in damage.reason


def test_an_output_that_is_gone_is_noticed(capture):
    shutil.rmtree(capture / "observed/output-1")
    reasons = [damage.reason for damage in verify_capture(capture).damage]
    assert any("observed says of its samples, arrays" in reason for reason in reasons)
    assert any("only the reference has outputs 'label'" in reason for reason in reasons)


def test_a_role_that_cannot_be_read_does_not_hide_the_other_ones_damage(capture):
    (capture / "reference/zarr.json").write_text("{")
    chunk = next((capture / "observed/output-0/c/2").rglob("0"))
    while chunk.is_dir():
        chunk /= "0"
    chunk.write_bytes(b"")
    first, second = verify_capture(capture).damage
    assert (first.role, first.sample) == ("reference", "")
    assert "'reference/zarr.json'" in first.reason
    assert (second.role, second.sample, second.output) == ("observed", "s2", "y")


def test_what_is_no_damage_is_remarked(tmp_path):
    record(tmp_path / "c", "reference", SAMPLES, data={"sha256": "a"})
    record(tmp_path / "c", "observed", SAMPLES[:2], data={"sha256": "b"})
    document = json.loads((tmp_path / "c/observed/zarr.json").read_text())
    del document["attributes"]["seal"]
    (tmp_path / "c/observed/zarr.json").write_text(json.dumps(document))
    verification = verify_capture(tmp_path / "c")
    assert verification
    text = "\n".join(verification.remarks)
    for word in ("observed has no seal", "observed lacks 1 samples of reference", "different data"):
        assert word in text


def test_what_another_zarr_library_wrote_is_checked_as_far_as_it_can_be(tmp_path):
    with write_role(tmp_path / "c", "observed", provenance={}) as writer:
        writer.append("s", {"y": np.ones(3)})
    group = zarr.open_group(tmp_path / "c" / "observed", mode="a")
    del group.attrs["seal"], group.attrs["contents"], group["output-0"]
    group.create_array("output-0", data=np.ones((1, 3)), chunks=(1, 3), attributes={"name": "y"})
    verification = verify_capture(tmp_path / "c")
    assert verification
    assert "the chunks of y of observed carry no checksum" in verification.remarks


def test_what_is_no_capture_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(InputError, match="capture"):
            verify_capture(path)
