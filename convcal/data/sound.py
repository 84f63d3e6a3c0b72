# SPDX-License-Identifier: BSD-3-Clause
"""Sound files as model inputs: mono, at their own rate, cut into windows of the input's length.

Windows do not overlap, as tiles of pictures do not; what is left at the end is dropped.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from convcal.errors import InputError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from convcal.model_description import Feature

__all__ = ["SOUND_SUFFIXES", "sound_windows", "window_names", "windows"]

SOUND_SUFFIXES = (".aif", ".aiff", ".flac", ".mp3", ".oga", ".ogg", ".wav")


def windows(length: int, window: int) -> dict[str, slice]:
    """List the windows into which a sound is cut.

    Parameters
    ----------
    length : int
        Of the sound that is cut, in samples per channel.
    window : int
        The length of a window.

    Returns
    -------
    dict of str to slice
        By position, the first sample of the window, its samples. Samples of the calibration set
        are called ``FILE@POSITION``. Empty if the sound is shorter than a window.

    Examples
    --------
    >>> windows(1000, 400)
    {'0': slice(0, 400, None), '400': slice(400, 800, None)}
    """
    return {
        str(start): slice(start, start + window) for start in range(0, length - window + 1, window)
    }


def _window_length(feature: Feature) -> int:
    """Find the length of the sounds that an input takes.

    Raises
    ------
    InputError
        If the input takes no sound.
    """
    length = math.prod(feature.shape)
    if (
        feature.kind != "tensor"
        or not feature.dtype.startswith("float")
        or sum(axis > 1 for axis in feature.shape) != 1
        or min(feature.shape) < 1  # a length that the package leaves open
    ):
        msg = (
            f"input {feature} takes no sound; it goes into float tensors with a single axis "
            "longer than 1, e.g. (1, 1, T); give .npz files or FILE.py:FUNCTION instead"
        )
        raise InputError(msg)
    return length


def window_names(path: Path, feature: Feature) -> list[str]:
    """Name the windows of one sound file, from its header alone.

    Raises
    ------
    InputError
        If the file cannot be read or is shorter than the input.
    UnavailableError
        If soundfile is missing.
    """
    window = _window_length(feature)
    with _Sound(path) as sound:
        length = sound.length
    names = [f"{path.stem}@{position}" for position in windows(length, window)]
    if not names:
        msg = (
            f"sound '{path}' has {length} samples, fewer than the {window} of input {feature}; "
            "leave it out or use a longer one"
        )
        raise InputError(msg)
    return names


def sound_windows(path: Path, feature: Feature) -> Iterator[NDArray[np.generic]]:
    """Read one sound file window by window.

    Parameters
    ----------
    path : pathlib.Path
        The file. Integer formats are scaled to [-1, 1); several channels are averaged.
    feature : Feature
        A float tensor with one axis longer than 1.

    Yields
    ------
    numpy.ndarray
        float32, in the input's shape, in the order of `windows`; one window is in memory.

    Raises
    ------
    InputError, UnavailableError
        As `window_names` does.
    """
    window = _window_length(feature)
    with _Sound(path) as sound:
        for _ in windows(sound.length, window):
            yield sound.read(window).reshape(feature.shape)


class _Sound:
    """An open sound file whose failures are input errors that name it."""

    def __init__(self, path: Path) -> None:
        try:
            import soundfile
        except (ImportError, OSError) as error:  # OSError: the wheel without libsndfile
            msg = (
                "reading sound needs soundfile, which is not installed; "
                "pip install 'convcal[sound]'"
            )
            raise UnavailableError(msg) from error
        self._path = path
        self._error = soundfile.SoundFileError
        try:
            self._file: Any = soundfile.SoundFile(path)
        except (self._error, OSError) as error:
            raise self._failure(error) from error
        self.length: int = self._file.frames

    def read(self, length: int) -> NDArray[np.float32]:
        try:
            channels = self._file.read(length, dtype="float32", always_2d=True)
        except (self._error, OSError) as error:
            raise self._failure(error) from error
        if len(channels) != length:
            raise self._failure("it ends earlier than its header says")
        if channels.shape[1] == 1:
            return np.asarray(channels[:, 0], dtype=np.float32)
        return np.asarray(channels.mean(axis=1, dtype=np.float64), dtype=np.float32)

    def _failure(self, reason: object) -> InputError:
        return InputError(
            f"cannot read sound '{self._path}' ({reason}); it should be one of "
            f"{', '.join(SOUND_SUFFIXES)} and undamaged"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
