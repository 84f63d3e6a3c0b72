# SPDX-License-Identifier: BSD-3-Clause
import errno
import os
from pathlib import Path

import pytest

from convcal.errors import InputError, OutputExistsError, WriteError
from convcal.files import ensure_absent, staged


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_file_appears_whole(tmp_path):
    with staged(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
        assert not (tmp_path / "a.txt").exists()
    assert (tmp_path / "a.txt").read_text() == "new"
    assert listing(tmp_path) == ["a.txt"]


def test_a_folder_replaces_a_folder(tmp_path):
    old = tmp_path / "package"
    old.mkdir()
    (old / "old").touch()
    with staged(old, force=True) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
    assert listing(tmp_path) == ["package", "package/new"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_stays_when_the_block_fails(tmp_path, error):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(error), staged(tmp_path / "a.txt", force=True) as temporary:
        temporary.write_text("half")
        raise error
    assert listing(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_full_disk_is_a_clear_error(tmp_path):
    with (
        pytest.raises(WriteError, match=r"a\.txt.*No space left"),
        staged(tmp_path / "a.txt") as temporary,
    ):
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert listing(tmp_path) == []


def test_a_folder_is_put_back_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    package = tmp_path / "package"
    package.mkdir()
    (package / "old").touch()
    rename = type(package).rename

    def refuse_the_new_one(self, target):
        if self.parent.name.startswith(".convcal-") and self.name == "package":
            raise OSError(errno.EACCES, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(type(package), "rename", refuse_the_new_one)
    with pytest.raises(WriteError, match="Permission denied"), staged(package, force=True) as new:
        new.mkdir()
    assert listing(tmp_path) == ["package", "package/old"]


def test_existing_targets_need_force(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(OutputExistsError, match="--force"):
        ensure_absent(tmp_path / "a.txt")
    with pytest.raises(OutputExistsError), staged(tmp_path / "a.txt"):
        pytest.fail("the block must not run")
    assert ensure_absent(tmp_path / "a.txt", force=True).read_text() == "old"


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere' does not exist"):
        ensure_absent(tmp_path / "nowhere" / "a.txt")


def test_an_interrupt_between_the_two_renames_gives_the_old_folder_back(tmp_path, monkeypatch):
    old = tmp_path / "package"
    old.mkdir()
    (old / "old").touch()
    rename = Path.rename

    def interrupted(self, target):
        result = rename(self, target)
        if self == old:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), staged(old, force=True) as temporary:
        temporary.mkdir()
    assert listing(tmp_path) == ["package", "package/old"]


def test_what_appears_at_the_target_meanwhile_is_kept(tmp_path):
    with pytest.raises(OutputExistsError), staged(tmp_path / "a.txt") as temporary:
        temporary.write_text("ours")
        (tmp_path / "a.txt").write_text("theirs")
    assert listing(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "theirs"


def test_a_relative_target_stays_where_it_was_when_the_block_changes_the_folder(
    tmp_path, monkeypatch
):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with staged("a.txt") as temporary:
        temporary.write_text("new")
        os.chdir("elsewhere")
    assert listing(tmp_path) == ["a.txt", "elsewhere"]


def test_a_path_that_is_too_long_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot write .*too long"):
        ensure_absent(tmp_path / ("a" * 300) / "b.txt")
