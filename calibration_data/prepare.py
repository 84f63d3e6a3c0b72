# SPDX-License-Identifier: BSD-3-Clause
"""Make the pictures and the sound of this folder from packages that ship them.

Run it from the top of the repository::

    python -m calibration_data.prepare

Every `high` file is the ground truth, the `low` file of the same name is what a network gets.
Nothing is random: the same packages give the same pixels and the same sound samples.
"""

from __future__ import annotations

import importlib.util
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy.signal import resample_poly

if TYPE_CHECKING:
    from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
PICTURE_FACTOR = 2
SOUND_FACTOR = 4
SOUND_RATE = 8000
SOUND_LENGTH = 32768
DEBIAN_SOUNDS = Path("/usr/share/asterisk")


@dataclass(frozen=True)
class Picture:
    """One photograph: which file of which Python package, and which part of it."""

    split: str
    name: str
    package: str
    file: str
    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Sound:
    """One recording: which file of which Debian package, and where the excerpt starts."""

    split: str
    name: str
    package: str
    file: str
    start_seconds: float


# Held-out sizes are such that `low` divides into 64 x 64 tiles, the input of the FSRCNN package.
PICTURES = (
    Picture("train", "astronaut", "skimage", "data/astronaut.png", 0, 0, 512, 512),
    Picture("train", "brick", "skimage", "data/brick.png", 0, 0, 384, 384),
    Picture("train", "coins", "skimage", "data/coins.png", 0, 0, 384, 302),
    Picture("train", "grass", "skimage", "data/grass.png", 0, 0, 384, 384),
    Picture("train", "gravel", "skimage", "data/gravel.png", 0, 0, 384, 384),
    Picture("train", "hubble", "skimage", "data/hubble_deep_field.jpg", 250, 220, 512, 384),
    Picture("train", "ihc", "skimage", "data/ihc.png", 0, 0, 512, 512),
    Picture("train", "rocket", "skimage", "data/rocket.jpg", 0, 0, 640, 426),
    Picture("heldout", "camera", "skimage", "data/camera.png", 64, 0, 384, 384),
    Picture("heldout", "chelsea", "skimage", "data/chelsea.png", 32, 22, 384, 256),
    Picture("heldout", "china", "sklearn", "datasets/images/china.jpg", 64, 22, 512, 384),
    Picture("heldout", "coffee", "skimage", "data/coffee.png", 44, 8, 512, 384),
    Picture("heldout", "flower", "sklearn", "datasets/images/flower.jpg", 64, 22, 512, 384),
)

_EN = ("asterisk-core-sounds-en-wav", "sounds/en_US_f_Allison")
_FR = ("asterisk-core-sounds-fr-wav", "sounds/fr_CA_f_June")
_IT = ("asterisk-core-sounds-it-wav", "sounds/it_IT_m_Carlo")
_MUSIC = ("asterisk-moh-opsound-wav", "moh")


def _sound(split: str, name: str, source: tuple[str, str], file: str, start: float) -> Sound:
    package, folder = source
    return Sound(split, name, package, f"{folder}/{file}.wav", start)


SOUNDS = (
    _sound("train", "en-agent-alreadyon", _EN, "agent-alreadyon", 0.1),
    _sound("train", "en-conf-adminmenu", _EN, "conf-adminmenu", 1.0),
    _sound("train", "en-demo-abouttotry", _EN, "demo-abouttotry", 1.0),
    _sound("train", "en-demo-echotest", _EN, "demo-echotest", 1.0),
    _sound("train", "en-demo-instruct", _EN, "demo-instruct", 20.0),
    _sound("train", "en-dir-intro", _EN, "dir-intro", 1.0),
    _sound("train", "en-priv-callee-options", _EN, "priv-callee-options", 5.0),
    _sound("train", "en-vm-options", _EN, "vm-options", 2.0),
    _sound("train", "fr-conf-adminmenu", _FR, "conf-adminmenu", 1.0),
    _sound("train", "fr-demo-echotest", _FR, "demo-echotest", 1.0),
    _sound("train", "fr-demo-instruct", _FR, "demo-instruct", 20.0),
    _sound("train", "fr-vm-msginstruct", _FR, "vm-msginstruct", 2.0),
    _sound("train", "it-conf-adminmenu", _IT, "conf-adminmenu", 1.0),
    _sound("train", "it-demo-echotest", _IT, "demo-echotest", 1.0),
    _sound("train", "it-demo-instruct", _IT, "demo-instruct", 20.0),
    _sound("train", "it-vm-options", _IT, "vm-options", 2.0),
    _sound("train", "music-cold-day", _MUSIC, "macroform-cold_day", 60.0),
    _sound("train", "music-robot-dity", _MUSIC, "macroform-robot_dity", 60.0),
    _sound("train", "music-system", _MUSIC, "reno_project-system", 60.0),
    _sound("heldout", "en-demo-congrats", _EN, "demo-congrats", 1.0),
    _sound("heldout", "en-vm-msginstruct", _EN, "vm-msginstruct", 1.0),
    _sound("heldout", "fr-demo-congrats", _FR, "demo-congrats", 1.0),
    _sound("heldout", "it-demo-congrats", _IT, "demo-congrats", 1.0),
    _sound("heldout", "music-morning-coffee", _MUSIC, "manolo_camp-morning_coffee", 60.0),
    _sound("heldout", "music-the-simplicity", _MUSIC, "macroform-the_simplicity", 60.0),
)

_PIP_NAMES = {"skimage": "scikit-image", "sklearn": "scikit-learn"}


def _picture_path(picture: Picture) -> Path:
    spec = importlib.util.find_spec(picture.package)
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    for folder in folders:
        path = Path(folder) / picture.file
        if path.is_file():
            return path
    msg = (
        f"picture {picture.name!r}: {picture.file} of the Python package {picture.package!r} is "
        f"missing; run 'python -m pip install {_PIP_NAMES[picture.package]}'"
    )
    raise SystemExit(msg)


def _sound_path(sound: Sound) -> Path:
    path = DEBIAN_SOUNDS / sound.file
    if not path.is_file():
        msg = (
            f"sound {sound.name!r}: {path} is missing; it is in the Debian package "
            f"{sound.package!r}: run 'apt-get install {sound.package}'"
        )
        raise SystemExit(msg)
    return path


def _read_sound(path: Path) -> NDArray[np.int16]:
    with wave.open(str(path), "rb") as file:
        form = (file.getnchannels(), file.getsampwidth(), file.getframerate())
        if form != (1, 2, SOUND_RATE):
            msg = f"{path}: (channels, bytes, rate) is {form}, expected (1, 2, {SOUND_RATE})"
            raise SystemExit(msg)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def _write_sound(path: Path, samples: NDArray[np.int16], rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())


def prepare_picture(picture: Picture) -> None:
    """Write the BT.601 luma of one photograph and its half-size version.

    Pillow's `resize` widens the bicubic kernel by the factor when it reduces, so that the low
    picture is free of aliasing and bicubic enlargement of it is a fair baseline.
    """
    box = (
        picture.left,
        picture.top,
        picture.left + picture.width,
        picture.top + picture.height,
    )
    with Image.open(_picture_path(picture)) as source:
        high = source.convert("L").crop(box)
    size = (picture.width // PICTURE_FACTOR, picture.height // PICTURE_FACTOR)
    low = high.resize(size, Image.Resampling.BICUBIC)
    for kind, image in (("high", high), ("low", low)):
        path = HERE / "pictures" / picture.split / kind / f"{picture.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, optimize=True)


def reduce_sound(high: NDArray[np.int16]) -> NDArray[np.int16]:
    """Return the band-limited version of a recording at a quarter of its rate."""
    reduced = resample_poly(high.astype(np.float64), 1, SOUND_FACTOR)
    return np.clip(np.rint(reduced), -32768, 32767).astype(np.int16)


def training_recordings(shortest: int) -> list[list[NDArray[np.int16]]]:
    """Return every whole recording at 8 kHz that may be trained on, package by package.

    These are far more than the excerpts in `sound/train`: all that the Debian packages hold,
    without the files that `sound/heldout` was cut from.

    Parameters
    ----------
    shortest : int
        Shorter recordings, in samples, are left out.
    """
    heldout = {_sound_path(sound) for sound in SOUNDS if sound.split == "heldout"}
    packages = []
    for _, folder in (_EN, _FR, _IT, _MUSIC):
        paths = sorted((DEBIAN_SOUNDS / folder).rglob("*.wav"))
        recordings = [_read_sound(path) for path in paths if path not in heldout]
        packages.append([recording for recording in recordings if recording.size >= shortest])
    return packages


def prepare_sound(sound: Sound) -> None:
    """Write one excerpt at 8 kHz and its reduced version at 2 kHz."""
    source = _read_sound(_sound_path(sound))
    start = round(sound.start_seconds * SOUND_RATE)
    high = source[start : start + SOUND_LENGTH]
    if high.size != SOUND_LENGTH:
        msg = f"sound {sound.name!r}: only {high.size} of {SOUND_LENGTH} samples from {start} on"
        raise SystemExit(msg)
    low = reduce_sound(high)
    folder = HERE / "sound" / sound.split
    _write_sound(folder / "high" / f"{sound.name}.wav", high, SOUND_RATE)
    _write_sound(folder / "low" / f"{sound.name}.wav", low, SOUND_RATE // SOUND_FACTOR)


def main() -> None:
    """Write every file of `pictures/` and `sound/`."""
    for picture in PICTURES:
        prepare_picture(picture)
    for sound in SOUNDS:
        prepare_sound(sound)
    print(f"wrote {len(PICTURES)} pictures and {len(SOUNDS)} sounds, each high and low")


if __name__ == "__main__":
    main()
