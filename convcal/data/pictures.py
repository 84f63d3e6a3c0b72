# SPDX-License-Identifier: BSD-3-Clause
"""Photographs as model inputs: read, turned upright, cut into tiles of the input's size.

Tiles do not overlap: a tile that shared pixels with another could stand on both sides of the
split into fitting and held-out samples. What is left at the right and at the bottom, less than
one tile, is dropped.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from convcal.errors import InputError, UnavailableError

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from numpy.typing import NDArray

    from convcal.model_description import Feature

__all__ = ["PICTURE_SUFFIXES", "luma", "picture_tiles", "read_picture", "tile_names", "tiles"]

PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Decoders that only decode. Others of Pillow's start programs (EPS, PDF).
_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# ITU-R BT.601-7, section 2.5.1, in thousandths: integer sums keep grey pictures exact.
_LUMA_THOUSANDTHS = (299, 587, 114)
_DEEP_MODES = ("I", "F")


def tiles(size: tuple[int, int], crop: tuple[int, int]) -> dict[str, tuple[slice, slice]]:
    """List the tiles into which a picture is cut, row by row.

    Parameters
    ----------
    size : (height, width)
        The size of the picture that is cut: the model's input.
    crop : (height, width)
        The size of a tile.

    Returns
    -------
    dict of str to (slice, slice)
        By position ``"ROW,COLUMN"``, the first pixel of the tile, its rows and columns. Samples
        are called ``FILE@ROW,COLUMN``. Empty if the picture is smaller than a tile.

    Examples
    --------
    >>> list(tiles((128, 200), (64, 64)))
    ['0,0', '0,64', '0,128', '64,0', '64,64', '64,128']
    >>> tiles((64, 128), (64, 64))["0,64"]
    (slice(0, 64, None), slice(64, 128, None))
    """
    (height, width), (rows, columns) = size, crop
    return {
        f"{top},{left}": (slice(top, top + rows), slice(left, left + columns))
        for top in range(0, height - rows + 1, rows)
        for left in range(0, width - columns + 1, columns)
    }


def luma(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Compute the luma of a picture, 0.299 R + 0.587 G + 0.114 B, in [0, 1].

    Parameters
    ----------
    picture : (H, W, 3) or (H, W) uint8
        RGB or grey; grey v gives v / 255.

    Returns
    -------
    (H, W) float32
        Full range, rounded once.

    References
    ----------
    ITU-R BT.601-7, section 2.5.1.
    """
    return (_luma_thousandths(picture) / 255000).astype(np.float32)


def _luma_thousandths(picture: NDArray[np.uint8]) -> NDArray[np.int64]:
    if picture.ndim == 2:
        return picture.astype(np.int64) * 1000
    weighted: NDArray[np.int64] = picture.astype(np.int64) @ np.array(_LUMA_THOUSANDTHS)
    return weighted


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Read a picture as the viewer sees it.

    Returns
    -------
    (H, W, 3) or (H, W) uint8
        RGB, or grey if the file is. Turned upright as its EXIF data say; transparency is left
        out; of several frames the first.

    Raises
    ------
    InputError
        If the file is no picture, is damaged, has more than 8 bits per channel, or more pixels
        than Pillow takes for safe.
    UnavailableError
        If Pillow is missing.
    """
    with _opened(path) as image:
        if image.mode.split(";")[0] in _DEEP_MODES:
            msg = (
                f"picture '{path}' has mode {image.mode}, more than 8 bits per channel; save it "
                "with 8 bits, or as a .npy array in the model's own range"
            )
            raise InputError(msg)
        _, ops = _pillow()
        mode = "L" if image.mode in {"1", "L", "LA", "La"} else "RGB"
        return np.array(ops.exif_transpose(image).convert(mode), dtype=np.uint8)


def _picture_size(path: Path) -> tuple[int, int]:
    """Find a picture's (height, width), upright."""
    with _opened(path) as image:
        width, height = image.size
        # EXIF orientations 5 to 8 turn by a quarter.
        is_turned = image.getexif().get(0x0112, 1) in range(5, 9)
    return (width, height) if is_turned else (height, width)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a picture; whatever Pillow does not like about it is an input error that names it."""
    image_module, _ = _pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", image_module.DecompressionBombWarning)
            with image_module.open(path, formats=_FORMATS) as image:
                yield image
    except InputError:
        raise
    # Pillow's decoders raise nearly anything on damaged files, SyntaxError included.
    except Exception as error:
        msg = (
            f"cannot read picture '{path}' ({error}); it should be one of "
            f"{', '.join(PICTURE_SUFFIXES)} and undamaged"
        )
        raise InputError(msg) from error


def _crop_size(feature: Feature) -> tuple[int, int]:
    """Find the (height, width) of the pictures that an input takes.

    Raises
    ------
    InputError
        If the input takes no pictures.
    """
    if feature.kind == "image" and feature.dtype == "uint8":
        return cast("tuple[int, int]", feature.shape[:2])
    leading = feature.shape[:-2]
    is_batched = len(leading) < 2 or leading[0] == 1
    channels = leading[-1] if leading else 1
    if (
        feature.kind == "image"
        or not feature.dtype.startswith("float")
        or not 2 <= len(feature.shape) <= 4
        or not is_batched
        or channels not in {1, 3}
        or min(feature.shape) < 1  # a length that the package leaves open
    ):
        msg = (
            f"input {feature} takes no pictures; they go into 8-bit image inputs and into float "
            "tensors of shape (1, C, H, W), (C, H, W) or (H, W) with C 1 or 3; give .npz files "
            "or FILE.py:FUNCTION instead"
        )
        raise InputError(msg)
    if 1 in feature.shape[-2:]:
        # A row of pixels would do for its shape, but never for what it means.
        raise InputError(f"input {feature} is one-dimensional; give sound or arrays")
    return cast("tuple[int, int]", feature.shape[-2:])


def tile_names(path: Path, feature: Feature) -> list[str]:
    """Name the tiles of one picture, from its size.

    Raises
    ------
    InputError
        If the picture cannot be read or is smaller than the input.
    """
    size, crop = _picture_size(path), _crop_size(feature)
    names = [f"{path.stem}@{position}" for position in tiles(size, crop)]
    if not names:
        msg = (
            f"picture '{path}' is {size[0]} x {size[1]} pixels (height x width), smaller than "
            f"the {crop[0]} x {crop[1]} of input {feature}; leave it out or use a larger one"
        )
        raise InputError(msg)
    return names


def picture_tiles(path: Path, feature: Feature) -> Iterator[NDArray[np.generic]]:
    """Read one picture and cut it into arrays for a model's input.

    Parameters
    ----------
    path : pathlib.Path
        The picture.
    feature : Feature
        An image input takes uint8, (h, w, 3) RGB or (h, w) grey. A tensor takes [0, 1] in its
        own dtype and shape: RGB for 3 channels, BT.601 luma for 1.

    Yields
    ------
    numpy.ndarray
        The tiles in the order of `tiles`.

    Raises
    ------
    InputError, UnavailableError
        As `read_picture` and `tile_names` do.
    """
    picture = read_picture(path)
    crop = _crop_size(feature)
    values = _values(picture, feature)
    for rows, columns in tiles(cast("tuple[int, int]", picture.shape[:2]), crop).values():
        tile = values[rows, columns]
        if feature.kind == "tensor" and tile.ndim == 3:
            tile = np.moveaxis(tile, -1, 0)
        yield np.array(tile, order="C").reshape(feature.shape)


def _values(picture: NDArray[np.uint8], feature: Feature) -> NDArray[np.generic]:
    """Convert the whole picture: (H, W, 3) or (H, W) in the input's dtype."""
    if feature.kind == "image":
        if len(feature.shape) == 2:
            # Rounded to nearest; grey is unchanged.
            return ((_luma_thousandths(picture) + 500) // 1000).astype(np.uint8)
        return _colour(picture)
    is_grey = len(feature.shape) == 2 or feature.shape[-3] == 1
    if is_grey:
        return luma(picture).astype(feature.dtype)
    # Divided in float32: correctly rounded, the same as v / 255 in any precision above.
    return (_colour(picture) / np.float32(255)).astype(feature.dtype)


def _colour(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(picture[..., None], 3, axis=-1) if picture.ndim == 2 else picture


def _pillow() -> tuple[ModuleType, ModuleType]:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        msg = (
            "reading pictures needs Pillow, which is not installed; pip install 'convcal[pictures]'"
        )
        raise UnavailableError(msg) from error
    Image.init()  # registers the formats; open() with names of others fails
    return Image, ImageOps
