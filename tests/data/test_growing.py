# SPDX-License-Identifier: BSD-3-Clause
"""Captures that grow, stop at any moment, and go on: no sample is lost, doubled or halved."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from data.descriptions import content, refused, unchanged
from hypothesis import given, settings
from hypothesis import strategies as st

from convcal import fit_captures
from convcal.cli import main
from convcal.data import growing, import_outputs, open_capture, write_role
from convcal.data.growing import grow_role, record_role
from convcal.errors import InputError, OutputExistsError, RunnerError
from convcal.pairs import read_pairs

Y = np.random.default_rng(2).random((12, 1, 2, 3), np.float32)


def grow(path, indices, role="reference", *, values=Y, **provenance):
    with grow_role(path, role, provenance=provenance) as grower:
        for index in indices:
            if grower.lacks(f"s{index}", f"input {index}"):
                grower.append(f"s{index}", {"y": values[index]}, digest=f"input {index}")
    return path


def held(path, role="reference"):
    """Give what a capture holds, by the name of the sample."""
    capture = open_capture(path)
    return dict(zip(capture.samples, capture.read(role, "y"), strict=True))


def assert_holds(path, indices, role="reference"):
    found = held(path, role)
    assert list(found) == [f"s{index}" for index in indices]
    for index in indices:
        np.testing.assert_array_equal(found[f"s{index}"], Y[index])


# ---------------------------------------------------------------- laws


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 11), max_size=6, unique=True), min_size=1, max_size=4))
def test_a_role_holds_every_sample_once_however_it_was_added(tmp_path_factory, parts):
    path = tmp_path_factory.mktemp("captures") / "c"
    parts = [[0], *parts]
    for indices in parts:
        grow(path, indices)
    assert_holds(path, list(dict.fromkeys(index for part in parts for index in part)))
    assert sorted(each.name for each in path.iterdir()) == ["reference", "zarr.json"]


def test_a_role_that_grew_is_a_capture_of_version_1_like_any_other(tmp_path):
    import zarr

    grow(tmp_path / "grown", range(5), runtime="r")
    grow(tmp_path / "grown", range(5, 12), runtime="r")
    group = zarr.open_group(tmp_path / "grown", mode="r")
    assert group.attrs["convcal"] == {"format": "convcal.capture", "version": 1}
    assert group["reference"].attrs["samples"] == [f"s{index}" for index in range(12)]
    assert group["reference/output-0"].nchunks_initialized == 12
    np.testing.assert_array_equal(group["reference/output-0"][:], Y)


def test_roles_that_were_written_at_once_grow_too(tmp_path):
    with write_role(tmp_path / "c", "reference", provenance={}) as writer:
        writer.append("s0", {"y": Y[0]})
    grow(tmp_path / "c", [0, 1])
    assert_holds(tmp_path / "c", [0, 1])


def test_outputs_keep_their_numbers_whatever_order_they_come_in(tmp_path):
    for index, names in enumerate((("a", "b"), ("b", "a"))):
        with grow_role(tmp_path / "c", "reference", provenance={}) as grower:
            grower.append(f"s{index}", {name: np.full(2, ord(name), "f4") for name in names})
    capture = open_capture(tmp_path / "c")
    for name in ("a", "b"):
        assert np.all(capture.read("reference", name) == ord(name))


# ---------------------------------------------------------------- moments


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it, nothing is cleaned up."""


def moments(monkeypatch, tmp_path, path):
    """Give, one after the other, what is on disk before every rename of an addition."""
    copies = []
    renames = {name: getattr(Path, name) for name in ("rename", "replace")}

    def wrapped(name):
        def rename(self, target):
            copies.append(shutil.copytree(path, tmp_path / f"moment-{len(copies)}" / "c"))
            return renames[name](self, target)

        return rename

    with monkeypatch.context() as patch:
        for name in renames:
            patch.setattr(Path, name, wrapped(name))
        grow(path, range(3, 6))
    return copies


def test_at_every_moment_the_capture_opens_and_goes_on(tmp_path, monkeypatch):
    path = grow(tmp_path / "c", range(3))
    copies = moments(monkeypatch, tmp_path, path)
    assert len(copies) >= 3 + 1 + 1  # chunks, shape, names
    for copy in copies:
        assert_holds(copy, range(3))
        grow(copy, range(8))
        assert_holds(copy, range(8))
        assert content(copy).keys() == content(grow(copy.parent / "new", range(8))).keys()


def test_what_was_appended_before_an_interruption_is_there(tmp_path):
    for error in (KeyboardInterrupt, RunnerError, SystemExit):
        path = tmp_path / error.__name__
        with (
            pytest.raises(error),
            grow_role(path, "reference", provenance={}) as grower,
        ):
            for index in range(3):
                grower.append(f"s{index}", {"y": Y[index]})
            raise error
        assert_holds(path, range(3))
    with (
        unchanged(tmp_path),
        pytest.raises(ValueError, match="of the user"),
        grow_role(path, "reference", provenance={}) as grower,
    ):
        grower.append("s3", {"y": Y[3]})
        raise ValueError("of the user's")


def test_what_is_committed_stays_whatever_comes(tmp_path, monkeypatch):
    monkeypatch.setattr(growing, "SECONDS_BETWEEN_COMMITS", 0)
    with (
        pytest.raises(InputError, match="of one shape"),
        grow_role(tmp_path / "c", "reference", provenance={}) as grower,
    ):
        grower.append("s0", {"y": Y[0]})
        grower.append("s1", {"y": Y[1]})
        grower.append("s2", {"y": Y[2, :, :1]})
    assert_holds(tmp_path / "c", range(2))


SLOW = """\
import pathlib, time
import numpy as np

def samples():
    first = not pathlib.Path("run").exists()
    for index in range(12):
        if index == 7 and not first and not pathlib.Path("go").exists():
            pathlib.Path("started").touch()
            time.sleep(60)
        yield {"x": np.full((1, 1, 4), index, np.float32)}
    pathlib.Path("run").touch()
"""
PROGRAM = """\
import sys
from convcal.cli import main
from convcal.data import growing

growing.SECONDS_BETWEEN_COMMITS = 0
sys.exit(main(sys.argv[1:]))
"""
MODELS = Path(__file__).parents[2] / "calibration_data" / "models" / "issue-2324"


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_recording_that_is_killed_goes_on(tmp_path, monkeypatch, sent):
    monkeypatch.chdir(tmp_path)
    Path("slow.py").write_text(SLOW)
    how = ("--role", "reference", "--data", "slow.py:samples", "--runtime", "reference")
    words = ["capture", str(MODELS / "fp32.mlpackage"), *how, "-o", "net.capture"]
    command = [sys.executable, "-c", PROGRAM, *words]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 60
    while not Path("started").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(sent)
    _, err = process.communicate(timeout=30)
    partial = Path("net.capture.reference.partial")
    assert not Path("net.capture").exists()
    before = open_capture(partial).read("reference", "y")
    assert len(before) == 7
    if sent == signal.SIGINT:
        assert f"what was recorded is kept in {partial.absolute().name}" in err
    Path("go").touch()
    Path("run").unlink()

    def run(*more):
        return subprocess.run(
            [*command, *more], capture_output=True, text=True, env=environment, check=False
        )

    again = run()
    assert again.returncode == 2
    assert "--resume" in again.stderr
    assert run("--resume").returncode == 0
    assert not partial.exists()
    assert run("--resume").returncode == 0  # there is nothing left to do
    whole = run("-o", "whole.capture")
    assert whole.returncode == 0
    whole, found = (
        open_capture(name).read("reference", "y") for name in ("whole.capture", "net.capture")
    )
    np.testing.assert_array_equal(found, whole)
    np.testing.assert_array_equal(found[:7], before)


# ---------------------------------------------------------------- new roles


def test_a_new_role_grows_beside_the_capture_and_is_moved_there(tmp_path):
    path, partial = tmp_path / "c", tmp_path / "c.observed.partial"
    with (
        pytest.raises(KeyboardInterrupt),
        record_role(path, "observed", provenance={}) as grower,
    ):
        grower.append("s0", {"y": Y[0]})
        raise KeyboardInterrupt
    assert not path.exists()
    assert_holds(partial, [0], "observed")
    with (
        refused(tmp_path, "interrupted recording", "--resume", "--force", error=OutputExistsError),
        record_role(path, "observed", provenance={}),
    ):
        pass
    with record_role(path, "observed", provenance={}, append=True) as grower:
        grower.append("s0", {"y": Y[0]})
        grower.append("s1", {"y": Y[1]})
    assert_holds(path, [0, 1], "observed")
    assert [each.name for each in tmp_path.iterdir()] == ["c"]


def test_a_new_role_must_match_the_other_one_to_its_end(tmp_path):
    path = grow(tmp_path / "c", range(3))
    with (
        unchanged(path),
        pytest.raises(InputError, match="lacks samples 's1', 's2'"),
        record_role(path, "observed", provenance={}) as grower,
    ):
        grower.append("s0", {"y": Y[0]})
    with record_role(path, "observed", provenance={}, append=True) as grower:
        for index in range(3):
            grower.append(f"s{index}", {"y": Y[index]})
    assert_holds(path, range(3), "observed")


def test_a_replacement_that_is_interrupted_leaves_the_old_role(tmp_path):
    path = grow(tmp_path / "c", range(3), "observed")
    with (
        unchanged(path),
        pytest.raises(KeyboardInterrupt),
        record_role(path, "observed", provenance={}, force=True) as grower,
    ):
        grower.append("s9", {"y": Y[9]})
        raise KeyboardInterrupt
    with (
        refused(tmp_path, "--resume and --force", error=InputError),
        record_role(path, "observed", provenance={}, append=True),
    ):
        pass
    with record_role(path, "observed", provenance={}, append=True, force=True) as grower:
        grower.append("s10", {"y": Y[10]})
    assert_holds(path, [9, 10], "observed")


# ---------------------------------------------------------------- both roles


def test_roles_that_grow_one_after_the_other_are_paired_when_both_have_a_sample(tmp_path):
    path = tmp_path / "c"
    for role in ("reference", "observed"):
        grow(path, range(4), role)
    grow(path, range(4, 9))
    capture = open_capture(path)
    assert capture.samples == ("s0", "s1", "s2", "s3")
    assert capture.unpaired == {"reference": tuple(f"s{index}" for index in range(4, 9))}
    assert capture.read("observed", "y").shape[0] == 4
    for use in (read_pairs, fit_captures):
        with pytest.raises(InputError, match=r"only the reference has samples 's4'.*--append"):
            use(path)
    grow(path, reversed(range(9)), "observed")
    assert len(read_pairs(path).outputs["y"].reference) == 9


def test_data_that_were_added_in_any_order_are_the_same_data(tmp_path):
    sets = [{"source": n, "sha256": n, "n_files": 1, "n_samples": 2} for n in ("a", "b", "c")]
    for role, order in (("reference", (0, 1, 2, 1)), ("observed", (2, 0, 1))):
        for index in order:
            grow(tmp_path / "c", [2 * index, 2 * index + 1], role, data=sets[index])
    data = read_pairs(tmp_path / "c").provenance["data"]
    assert data["n_samples"] == 6
    assert data["source"] == "a; b; c"
    assert data["parts"] == sets


def test_the_verb_adds_new_data_to_both_roles(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for name in ("monday", "tuesday"):
        np.savez(f"{name}.npz", x=generator.normal(size=(6, 1, 1, 4)).astype(np.float32))
        for role, package in (("reference", "fp32"), ("observed", "fp16")):
            words = ("capture", MODELS / f"{package}.mlpackage", "--role", role, "--append")
            how = ("--data", f"{name}.npz", "--runtime", "reference", "-o", "net.capture")
            assert main([str(word) for word in (*words, *how)]) == 0
    assert "6 samples still to be added to the observed outputs" in capsys.readouterr().out
    capture = open_capture("net.capture")
    assert capture.samples == tuple(
        f"{name}[{index}]" for name in ("monday", "tuesday") for index in range(6)
    )
    assert capture.unpaired == {}
    assert read_pairs("net.capture").provenance["data"]["n_samples"] == 12


# ---------------------------------------------------------------- refusals


def test_samples_of_the_same_name_and_other_content_are_refused(tmp_path):
    path = grow(tmp_path / "c", range(3))
    with (
        refused(tmp_path, "sample 's1'", "another input", error=InputError),
        grow_role(path, "reference", provenance={}) as grower,
    ):
        grower.lacks("s1", "input 7")
    with (
        refused(tmp_path, "sample 's1'", "differ in 'y'", "rename", error=InputError),
        grow_role(path, "reference", provenance={}) as grower,
    ):
        grower.append("s1", {"y": Y[7]})


@pytest.mark.parametrize(
    ("outputs", "parts"),
    [
        ({"z": Y[5]}, ["outputs 'z'", "have 'y'"]),
        ({"y": Y[5, 0]}, ["(2, 3)", "(1, 2, 3)"]),
        ({"y": Y[5].astype("f8")}, ["float64", "float32"]),
    ],
)
def test_outputs_unlike_those_that_are_there_are_refused(tmp_path, outputs, parts):
    path = grow(tmp_path / "c", range(3))
    with (
        refused(tmp_path, "reference of capture", *parts, error=InputError),
        grow_role(path, "reference", provenance={}) as grower,
    ):
        grower.append("s5", outputs)


def test_samples_of_another_model_or_device_are_refused(tmp_path):
    path = grow(tmp_path / "c", range(3), sha256="1", chip="Apple M1")
    with refused(tmp_path, "chip 'Apple M1', not 'Apple M2'", "--force", error=InputError):
        grow(path, range(3, 5), sha256="1", chip="Apple M2")


def test_chunks_are_not_put_where_they_are_coded_otherwise(tmp_path):
    path = grow(tmp_path / "c", range(3))
    document = path / "reference/output-0/zarr.json"
    record = json.loads(document.read_text())
    record["codecs"][0]["configuration"]["endian"] = "big"
    document.write_text(json.dumps(record))
    with pytest.raises(InputError, match="no samples can be added"):
        grow(path, range(3, 5))
    assert len(open_capture(path).samples) == 3


def test_imports_are_added_by_the_names_of_their_samples(tmp_path):
    path, file = tmp_path / "c", tmp_path / "o.npz"
    for indices in (range(3), range(1, 6)):
        np.savez(file, **{f"s{index}/y": Y[index] for index in indices})
        import_outputs(
            file, path, role="reference", provenance={"source": str(indices)}, append=True
        )
    assert_holds(path, range(6))
    assert open_capture(path).provenance["reference"]["source"] == "range(0, 3); range(1, 6)"
    np.savez(file, y=Y)
    with refused(path, "does not name its samples", error=InputError):
        import_outputs(file, path, role="reference", provenance={}, append=True)
    with refused(path, "not both", error=InputError):
        import_outputs(file, path, role="reference", provenance={}, append=True, force=True)


WRITER = """
import sys, time, numpy as np
from convcal.data.growing import record_role
with record_role(sys.argv[1], "reference", provenance={}) as grower:
    grower.append("s0", {"y": np.ones((1, 2, 3), np.float32)})
    grower.commit()
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such locks")
def test_a_second_writer_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    path = tmp_path / "c"
    first = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE)
    assert first.stdout.readline() == b"writing\n"
    for force in (False, True):
        second = record_role(path, "reference", provenance={}, append=not force, force=force)
        with refused(tmp_path, f"another process ({first.pid}) is writing", error=InputError):
            second.__enter__()
    with record_role(path, "observed", provenance={}) as grower:  # the other role is free
        grower.append("s0", {"y": np.zeros((1, 2, 3), np.float32)})
    first.kill()
    first.communicate()
    with record_role(path, "reference", provenance={}, append=True) as grower:
        grower.append("s0", {"y": np.ones((1, 2, 3), np.float32)})
    assert not [*tmp_path.glob("*.lock")]
    assert open_capture(path).roles == ("reference", "observed")
