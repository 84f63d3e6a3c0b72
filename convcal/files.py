# SPDX-License-Identifier: BSD-3-Clause
"""Write files and folders whole or not at all, and go through folders that nobody vouches for."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from convcal.errors import InputError, OutputExistsError, WriteError

__all__ = ["check_plain", "ensure_absent", "ensure_resumable", "staged", "walk"]


def ensure_absent(target: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Check that a target may be written, before any long work is done for it.

    Parameters
    ----------
    target : path
        The file or folder that is to be written.
    force : bool
        Allow it to exist.

    Returns
    -------
    pathlib.Path
        The target.

    Raises
    ------
    OutputExistsError
        If the target exists and `force` is false.
    InputError
        If the folder that should hold it does not exist, or its path cannot be followed.
    """
    path = Path(target)
    try:
        has_folder = path.parent.is_dir()
    except OSError as error:  # too long, or through a folder that may not be entered
        raise InputError(f"cannot write '{path}': {error.strerror}; choose another path") from error
    if not has_folder:
        msg = f"cannot write '{path}': the folder '{path.parent}' does not exist; create it first"
        raise InputError(msg)
    if os.path.lexists(path) and not force:
        msg = f"'{path}' exists already; choose another name, or pass --force (force=True)"
        raise OutputExistsError(msg)
    return path


def ensure_resumable(target: str | os.PathLike[str], *, resume: bool, what: str) -> Path:
    """Check that a checkpoint of `what` may be written, before any model is opened.

    Raises
    ------
    OutputExistsError
        If there is one already and `resume` is false.
    InputError
        If the folder that should hold it does not exist.
    """
    if os.path.lexists(target) and not resume:
        raise OutputExistsError(
            f"'{os.fspath(target)}' is the checkpoint of a {what} that was interrupted; pass "
            "--resume (resume=True) to go on from it, or remove it (--force does) to start anew"
        )
    return ensure_absent(target, force=True)


@contextlib.contextmanager
def staged(target: str | os.PathLike[str], *, force: bool = False) -> Iterator[Path]:
    """Give a temporary path beside the target, renamed to it when the block ends well.

    The caller creates a file or a folder at the temporary path. On any exception, Ctrl-C
    included, what was written is removed and the target is as it was.

    Parameters
    ----------
    target : path
        The file or folder to be written.
    force : bool
        Replace a target that exists.

    Yields
    ------
    pathlib.Path
        A path that does not exist, in a new folder on the target's file system; it carries
        the target's name.

    Raises
    ------
    OutputExistsError
        If the target exists and `force` is false.
    WriteError
        If the operating system refuses a write (full disk, no permission).
    """
    path = ensure_absent(target, force=force)
    place = path.absolute()  # the block may run code of the user's that changes the folder
    stage: Path | None = None
    try:
        stage = Path(tempfile.mkdtemp(prefix=".convcal-", dir=place.parent))
        temporary = stage / place.name
        yield temporary
        ensure_absent(place, force=force)  # the work may have been long
        _replace(temporary, place, stage)
    except (OutputExistsError, WriteError):
        raise
    except OSError as error:
        msg = f"cannot write '{path}': {error.strerror or error}; nothing was changed"
        raise WriteError(msg) from error
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)


def _replace(source: Path, target: Path, stage: Path) -> None:
    """Rename `source` to `target`; an old folder there is put back when that fails."""
    if not source.is_dir() or not os.path.lexists(target):
        source.replace(target)
        return
    aside = stage / "replaced"
    try:
        target.rename(aside)
        source.rename(target)
    except BaseException:  # Ctrl-C too: what lies aside is removed with the stage
        if os.path.lexists(aside) and not os.path.lexists(target):
            aside.rename(target)
        raise


def walk(folder: Path) -> Iterator[Path]:
    """Give everything inside a folder in a fixed order, a folder before its content.

    Raises
    ------
    OSError
        If a folder cannot be read.
    """
    for root, folders, files in os.walk(folder, onerror=_raise):
        folders.sort()
        for name in sorted(folders + files):
            yield Path(root, name)


def _raise(error: OSError) -> None:
    raise error


def check_plain(folder: Path, *, what: str) -> None:
    """Refuse anything but files and folders: a link may lead anywhere, a pipe may never end.

    Parameters
    ----------
    folder : pathlib.Path
        What came from elsewhere.
    what : str
        What to call it in messages.

    Raises
    ------
    InputError
        If it holds a link, a pipe or a device, however deep.
    OSError
        If a folder in it cannot be read.
    """
    for entry in walk(folder):
        mode = entry.lstat().st_mode
        if stat.S_ISLNK(mode):
            raise InputError(
                f"{what} has a link, '{entry.relative_to(folder)}', which may lead out of it; copy "
                "it with its links resolved (cp -RL) and use the copy"
            )
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            raise InputError(
                f"{what} has '{entry.relative_to(folder)}', which is neither a file nor a folder; "
                "remove it"
            )
