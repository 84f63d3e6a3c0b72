# SPDX-License-Identifier: BSD-3-Clause
"""Read and write ``.mlpackage`` folders that hold an ML Program.

A package is untrusted input: whatever its manifest, model or weight file claims is checked before
it is used, and nothing outside the package is ever read through it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convcal.coreml._coremltools import parse_model
from convcal.coreml.describe import tensor_dtype
from convcal.coreml.weights import WeightFile, WeightTail, blob_values, check_blob
from convcal.errors import InputError, UnsupportedModelError
from convcal.files import check_plain, staged, walk

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Package", "read_package"]

_MANIFEST = "Manifest.json"
_MODEL_PATH = "@model_path/"
_LARGEST_MANIFEST = 1 << 20
# A protobuf message cannot be longer.
_LARGEST_MODEL = (1 << 31) - 1
_REMEDY = "copy or export the package again"


@dataclass(frozen=True, eq=False)
class Package:
    """An ML Program package: its specification in memory, everything else on disk.

    Made by `read_package`; `with_spec` gives a changed copy.

    Parameters
    ----------
    path : pathlib.Path
        The package folder that was read. It must stay there until the package is saved.
    spec : Model_pb2.Model
        The specification. Treat it as read-only.
    model_path : pathlib.Path
        The model file inside the folder.
    weights_dir : pathlib.Path
        The folder of the weight file; it need not exist where the program has no weights.
    weights_path : pathlib.Path or None
        The weight file that the program refers to; None if it refers to none.
    tail : WeightTail, optional
        What is appended to the weight file when the package is saved.
    """

    path: Path
    spec: Any
    model_path: Path
    weights_dir: Path
    weights_path: Path | None
    tail: WeightTail | None = None

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the specification and the weights, the same wherever the package lies."""
        digest = hashlib.sha256()
        model = self.serialize()
        digest.update(len(model).to_bytes(8, "little"))
        digest.update(model)
        digest.update(self.weights_sha256.encode())
        return digest.hexdigest()

    @functools.cached_property
    def weights_sha256(self) -> str:
        """Hash of the weight file alone; the empty string without one."""
        if self.weights_path is None:
            return ""
        if self.tail is not None:
            digest = hashlib.sha256()
            for chunk in self.tail.chunks():
                digest.update(chunk)
            return digest.hexdigest()
        with self.weights_path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def serialize(self) -> bytes:
        """Give the specification as bytes, the same for equal messages."""
        data: bytes = self.spec.SerializeToString(deterministic=True)
        return data

    def with_spec(self, spec: Any, *, tail: WeightTail | None = None) -> Package:
        """Give a package with another specification and the same weights.

        Parameters
        ----------
        spec : Model_pb2.Model
            The new specification; the caller must not change it afterwards.
        tail : WeightTail, optional
            Weights that it needs besides.
        """
        return replace(self, spec=spec, tail=tail or self.tail)

    def save(
        self,
        target: str | os.PathLike[str],
        *,
        force: bool = False,
        check: Callable[[Path], None] | None = None,
    ) -> Path:
        """Write the package, whole or not at all.

        Manifest, weights and any other file are copied byte for byte, new weights appended; the
        model file is written anew, the same bytes for the same specification.

        Parameters
        ----------
        target : path
            A folder name that ends in ``.mlpackage``.
        force : bool
            Replace a target that exists.
        check : callable, optional
            Called with the written package before it takes its place; what it raises stops that.

        Returns
        -------
        pathlib.Path
            The target.

        Raises
        ------
        InputError
            If the target has another ending or its folder does not exist, lies inside the package
            that was read or around it, or is a folder of something else than a package (which
            `force` does not replace), or if the specification is larger than a protobuf message
            can be.
        OutputExistsError
            If the target exists and `force` is false.
        WriteError
            If the operating system refuses a write; the target is then as it was.
        """
        path = Path(target)
        if path.suffix != ".mlpackage":
            raise InputError(
                f"cannot write a package to '{path}': Core ML knows packages by the ending "
                f"'.mlpackage'; use '{path.with_suffix('.mlpackage')}'"
            )
        self._check_target(path)
        if self.spec.ByteSize() > _LARGEST_MODEL:
            raise InputError(
                f"the specification of '{self.path}' has {self.spec.ByteSize()} bytes with the "
                f"changes, more than the {_LARGEST_MODEL} of a model file"
            )
        with staged(path, force=force) as temporary:
            self.write_folder(temporary)
            if check is not None:
                check(temporary)
        return path

    def _check_target(self, target: Path) -> None:
        """Refuse what would copy the package into itself, or remove what is no package."""
        source, place = self.path.resolve(), target.resolve()
        if source in place.parents or place in source.parents:
            raise InputError(
                f"cannot write '{target}': it lies inside the package '{self.path}' or around it; "
                "choose a path beside it"
            )
        if target.is_dir() and not (target / _MANIFEST).is_file() and any(target.iterdir()):
            raise InputError(
                f"cannot replace '{target}': it is a folder of something else than a package (it "
                f"has no {_MANIFEST}); choose another path, or remove it yourself"
            )

    def write_folder(self, folder: Path) -> None:
        """Write the package to a folder that does not exist, without any of `save`'s care."""
        model = self.model_path.relative_to(self.path)
        folder.mkdir()
        # Nothing keeps its mode: coremltools makes model files that only their owner can read.
        for source in walk(self.path):
            relative = source.relative_to(self.path)
            if source.is_dir():
                (folder / relative).mkdir()
            elif self.tail is not None and source.samefile(str(self.weights_path)):
                with (folder / relative).open("wb") as file:
                    file.writelines(self.tail.chunks())
            elif relative != model:
                shutil.copyfile(source, folder / relative)
        (folder / model).write_bytes(self.serialize())


def read_package(path: str | os.PathLike[str]) -> Package:
    """Read an ML Program package, checking all that convcal relies on.

    Parameters
    ----------
    path : path
        The ``.mlpackage`` folder.

    Returns
    -------
    Package

    Raises
    ------
    InputError
        If it is missing, not a package, or damaged: manifest, model file or weight file.
    UnsupportedModelError
        If it holds another kind of model than an ML Program; the message names the kind.
    UnavailableError
        If coremltools is not available here.
    """
    folder = Path(path)
    try:
        return _read_package(folder)
    except OSError as error:
        raise InputError(
            f"the package '{folder}' cannot be read: {error.strerror or error} "
            f"('{error.filename}'); check the path and its permissions"
        ) from error


def _read_package(folder: Path) -> Package:
    _check_is_package(folder)
    check_plain(folder, what=f"the package '{folder}'")
    model_path = _read_manifest(folder)
    spec = _read_spec(model_path)
    kind = spec.WhichOneof("Type")
    if kind != "mlProgram":
        raise _wrong_kind(f"the package '{folder}'", kind)
    _check_program(folder, spec)
    weights_path = _check_weights(folder, model_path, spec)
    return Package(
        path=folder,
        spec=spec,
        model_path=model_path,
        weights_dir=model_path.parent / "weights" if weights_path is None else weights_path.parent,
        weights_path=weights_path,
    )


def _check_is_package(folder: Path) -> None:
    if folder.is_dir():
        if folder.suffix == ".mlmodelc" or (folder / "coremldata.bin").is_file():
            raise UnsupportedModelError(
                f"'{folder}' is a compiled model (.mlmodelc), from which the program cannot be "
                "taken back; use the .mlpackage that it was compiled from"
            )
        if not (folder / _MANIFEST).is_file():  # before all that is in the folder is looked at
            raise InputError(
                f"'{folder}' is not a Core ML package: it has no {_MANIFEST}; give the .mlpackage "
                "folder itself"
            )
        return
    if folder.is_file():
        if folder.suffix == ".mlmodel":
            raise _wrong_kind(f"the file '{folder}'", _read_spec(folder).WhichOneof("Type"))
        remedy = (
            "outputs that were recorded elsewhere go into a capture, with convcal capture --import"
            if folder.suffix in {".npy", ".npz"}
            else "if it is an archive, unpack it"
        )
        raise InputError(f"'{folder}' is a file, and an .mlpackage is a folder; {remedy}")
    raise InputError(f"the package '{folder}' does not exist; check the path")


def _wrong_kind(what: str, kind: str | None) -> InputError | UnsupportedModelError:
    if kind is None:
        return InputError(f"{what} holds no Core ML model (its type is not set); {_REMEDY}")
    return UnsupportedModelError(
        f"{what} holds a model of type '{kind}', and convcal handles ML Programs (.mlpackage, iOS "
        "15 on); convert the original model with coremltools.convert(..., convert_to='mlprogram'), "
        "or record its outputs in the app and use them as captures"
    )


def _read_bytes(path: Path, what: str, *, limit: int) -> bytes:
    size = path.stat().st_size
    if size > limit:
        raise InputError(
            f"{what} '{path}' has {size} bytes, and no valid one has more than {limit}; {_REMEDY}"
        )
    return path.read_bytes()


def _read_manifest(folder: Path) -> Path:
    """Check the manifest and all that it lists, and give the path of the model file."""
    data = _read_bytes(folder / _MANIFEST, "the manifest", limit=_LARGEST_MANIFEST)
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError) as error:  # JSONDecodeError, UnicodeDecodeError
        raise _bad_manifest(folder, f"is not JSON ({error})") from error
    if not isinstance(manifest, dict):
        raise _bad_manifest(folder, f"holds a JSON {type(manifest).__name__}, not an object")
    version = manifest.get("fileFormatVersion")
    if not isinstance(version, str) or version.split(".")[0] != "1":
        raise _bad_manifest(folder, f"states the format version {version!r}, not 1.x.x")
    entries = manifest.get("itemInfoEntries")
    if not isinstance(entries, dict):
        raise _bad_manifest(folder, "has no object 'itemInfoEntries'")
    paths = {
        identifier: _item_path(folder, identifier, item) for identifier, item in entries.items()
    }
    root = manifest.get("rootModelIdentifier")
    if not isinstance(root, str) or root not in paths:
        raise _bad_manifest(
            folder, f"names {root!r} as its model ('rootModelIdentifier'), which it does not list"
        )
    if not paths[root].is_file():
        raise _bad_manifest(folder, f"names '{entries[root]['path']}' as its model, not a file")
    return paths[root]


def _item_path(folder: Path, identifier: str, item: object) -> Path:
    """Give the place of one item of the manifest, which must exist inside the package."""
    relative = item.get("path") if isinstance(item, dict) else None
    if not isinstance(relative, str) or not relative or not relative.isprintable():
        raise _bad_manifest(folder, f"gives no usable path for its item {identifier!r}")
    data = folder / "Data"
    path = data / relative
    if not path.resolve().is_relative_to(data.resolve()):
        raise _bad_manifest(
            folder, f"lists the item '{relative}', which points outside the package"
        )
    if not path.exists():
        raise _bad_manifest(folder, f"lists the item 'Data/{relative}', which does not exist")
    return path


def _bad_manifest(folder: Path, what: str) -> InputError:
    return InputError(f"the package '{folder}' is damaged: its {_MANIFEST} {what}; {_REMEDY}")


def _read_spec(path: Path) -> Any:
    data = _read_bytes(path, "the model file", limit=_LARGEST_MODEL)
    if not data:
        raise InputError(f"the model file '{path}' is empty; {_REMEDY}")
    spec = parse_model(data)
    if spec is None:
        raise InputError(
            f"the model file '{path}' ({len(data)} bytes) is truncated or not a Core ML model; "
            f"{_REMEDY}"
        )
    return spec


def _check_program(folder: Path, spec: Any) -> None:
    """Check that the functions exist, and that they match what the description says of them."""
    program = spec.mlProgram
    if not program.functions:
        raise InputError(f"the package '{folder}' holds an ML Program without functions; {_REMEDY}")
    described = {function.name for function in spec.description.functions} or set(program.functions)
    if missing := sorted(described - set(program.functions)):
        raise InputError(
            f"the package '{folder}' describes the functions {missing}, and its program has "
            f"{sorted(program.functions)}; {_REMEDY}"
        )
    for name, function in program.functions.items():
        blocks = function.block_specializations
        if function.opset not in blocks:
            raise InputError(
                f"the function '{name}' of the package '{folder}' has no body for its operation "
                f"set '{function.opset}' (it has {sorted(blocks)}); {_REMEDY}"
            )


def _check_weights(folder: Path, model_path: Path, spec: Any) -> Path | None:
    """Check every reference into a weight file, and give the file; None without references."""
    files: dict[str, WeightFile] = {}
    for where, value in blob_values(spec.mlProgram):
        name = value.blobFileValue.fileName
        if name not in files:
            files[name] = WeightFile(_weight_path(folder, model_path, name, where=where))
        check_blob(files[name], where, value, dtype=tensor_dtype(value.type))
    if len(files) > 1:
        raise UnsupportedModelError(
            f"the program of '{folder}' has its weights in several files ({sorted(files)}), "
            "and convcal handles one; convert the model again with coremltools"
        )
    return Path(next(iter(files.values())).path) if files else None


def _weight_path(folder: Path, model_path: Path, name: str, *, where: str) -> Path:
    path = model_path.parent / name.removeprefix(_MODEL_PATH)
    if (
        not name.startswith(_MODEL_PATH)
        or not name.isprintable()
        or not path.resolve().is_relative_to(folder.resolve())
    ):
        raise InputError(
            f"{where} in '{folder}' has its weights in '{name}', which points outside the "
            f"package; {_REMEDY}"
        )
    return path
