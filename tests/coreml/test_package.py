# SPDX-License-Identifier: BSD-3-Clause
import json
import os
import shutil
import struct

import numpy as np
import pytest
from coreml.models import read_with_coremltools

from convcal.coreml._coremltools import load_message_types
from convcal.coreml.package import read_package
from convcal.errors import InputError, OutputExistsError, UnsupportedModelError, WriteError

MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


def snapshot(folder):
    """Names, kinds and contents of everything in a folder."""
    return {
        str(path.relative_to(folder)): (
            str(path.readlink())
            if path.is_symlink()
            else path.read_bytes()
            if path.is_file()
            else None
        )
        for path in sorted(folder.rglob("*"))
    }


def edit_manifest(path, edit):
    file = path / "Manifest.json"
    manifest = json.loads(file.read_text())
    edit(manifest)
    file.write_text(json.dumps(manifest))


def edit_spec(path, edit):
    file = path / MODEL
    model, _ = load_message_types()
    spec = model.Model.FromString(file.read_bytes())
    edit(spec)
    file.write_bytes(spec.SerializeToString())


def entry(manifest, name):
    return next(item for item in manifest["itemInfoEntries"].values() if item["name"] == name)


def first_blob(spec):
    for operation in spec.mlProgram.functions["main"].block_specializations["CoreML5"].operations:
        value = operation.attributes.get("val", None)
        if value is not None and value.WhichOneof("value") == "blobFileValue":
            return value.blobFileValue
    raise LookupError


def to_neural_network(spec):
    spec.neuralNetwork.layers.add()


def to_pipeline(spec):
    spec.pipeline.models.add()


def no_functions(spec):
    spec.mlProgram.functions.clear()


def other_opset(spec):
    spec.mlProgram.functions["main"].opset = "CoreML7"


def described_function_is_missing(spec):
    spec.description.functions.add(name="encode")


def offset_outside(spec):
    first_blob(spec).offset = 64 * 10**6


def offset_inside_data(spec):
    first_blob(spec).offset = 128


def weights_elsewhere(spec):
    first_blob(spec).fileName = "@model_path/../../../../etc/passwd"


def weights_not_in_the_package(spec):
    first_blob(spec).fileName = "/etc/passwd"


def huge_weight(spec):
    block = spec.mlProgram.functions["main"].block_specializations["CoreML5"]
    for operation in block.operations:
        if "val" in operation.attributes:
            value = operation.attributes["val"]
            if value.WhichOneof("value") == "blobFileValue":
                value.type.tensorType.dimensions[0].constant.size = 2**62


def truncate(name, size):
    def damage(path):
        data = (path / name).read_bytes()
        (path / name).write_bytes(data[:size])

    return damage


def overwrite(name, data):
    return lambda path: (path / name).write_bytes(data)


def manifest(edit):
    return lambda path: edit_manifest(path, edit)


def spec(edit):
    return lambda path: edit_spec(path, edit)


def patch_weights(offset, data):
    def damage(path):
        content = bytearray((path / WEIGHTS).read_bytes())
        content[offset : offset + len(data)] = data
        (path / WEIGHTS).write_bytes(content)

    return damage


def link_to(name, target):
    def damage(path):
        (path / name).unlink()
        (path / name).symlink_to(target)

    return damage


DAMAGES = {
    "manifest-missing": (lambda p: (p / "Manifest.json").unlink(), "has no Manifest.json"),
    "manifest-truncated": (truncate("Manifest.json", 40), "is not JSON"),
    "manifest-binary": (overwrite("Manifest.json", b"\xff\xfe\x00"), "is not JSON"),
    "manifest-nested": (overwrite("Manifest.json", b"[" * 100_000), "is not JSON"),
    "manifest-list": (overwrite("Manifest.json", b"[]"), "holds a JSON list"),
    "manifest-huge": (overwrite("Manifest.json", b" " * (2**20 + 1)), "more than 1048576"),
    "manifest-version": (
        manifest(lambda m: m.update(fileFormatVersion="2.0.0")),
        "format version '2.0.0', not 1.x.x",
    ),
    "manifest-no-items": (manifest(lambda m: m.pop("itemInfoEntries")), "'itemInfoEntries'"),
    "manifest-no-root": (manifest(lambda m: m.pop("rootModelIdentifier")), "names None"),
    "manifest-other-root": (
        manifest(lambda m: m.update(rootModelIdentifier="beef")),
        "names 'beef' as its model",
    ),
    "manifest-item-gone": (
        manifest(lambda m: entry(m, "weights").update(path="com.apple.CoreML/gone")),
        "'Data/com.apple.CoreML/gone', which does not exist",
    ),
    "manifest-item-number": (
        manifest(lambda m: entry(m, "weights").update(path=7)),
        "gives no usable path for its item",
    ),
    "manifest-item-surrogate": (
        manifest(lambda m: entry(m, "weights").update(path="\ud800")),
        "gives no usable path for its item",
    ),
    "manifest-item-endless": (
        manifest(lambda m: entry(m, "weights").update(path="a" * 9999)),
        "cannot be read",
    ),
    "manifest-traversal": (
        manifest(lambda m: entry(m, "model.mlmodel").update(path="../../../secret")),
        "'../../../secret', which points outside the package",
    ),
    "manifest-absolute": (
        manifest(lambda m: entry(m, "model.mlmodel").update(path="/etc/passwd")),
        "'/etc/passwd', which points outside the package",
    ),
    "manifest-root-is-a-folder": (
        manifest(lambda m: entry(m, "model.mlmodel").update(path="com.apple.CoreML")),
        "as its model, not a file",
    ),
    "model-empty": (truncate(MODEL, 0), "is empty"),
    "model-truncated": (truncate(MODEL, 700), "truncated or not a Core ML model"),
    "model-garbage": (overwrite(MODEL, b"\x89PNG\r\n" * 99), "truncated or not a Core ML model"),
    "model-untyped": (overwrite(MODEL, b"\x08\x06"), "holds no Core ML model"),
    "model-link": (link_to(MODEL, "/etc/passwd"), f"a link, '{MODEL}'"),
    "no-functions": (spec(no_functions), "without functions"),
    "no-body": (spec(other_opset), "no body for its operation set 'CoreML7'"),
    "function-missing": (spec(described_function_is_missing), r"functions \['encode'\]"),
    "weights-missing": (lambda p: (p / WEIGHTS).unlink(), "weight.bin' does not exist"),
    "weights-empty": (truncate(WEIGHTS, 0), "weight.bin' is empty"),
    "weights-headless": (truncate(WEIGHTS, 63), "less than its 64-byte header"),
    "weights-truncated": (truncate(WEIGHTS, 200), "do not lie behind it inside the file"),
    "weights-version": (patch_weights(4, struct.pack("<I", 1)), "states version 1"),
    "weights-sentinel": (patch_weights(64, bytes(4)), "no blob begins at offset 64"),
    "weights-dtype": (patch_weights(68, struct.pack("<I", 99)), "unknown data type 99"),
    "weights-size": (patch_weights(72, struct.pack("<Q", 2**63)), "do not lie behind it"),
    "weights-start": (patch_weights(80, struct.pack("<Q", 0)), "do not lie behind it"),
    "weights-short": (patch_weights(72, struct.pack("<Q", 8)), "declares 432 bytes at offset 64"),
    "weights-ragged": (patch_weights(72, struct.pack("<Q", 430)), "not a whole number of float32"),
    "offset-outside": (spec(offset_outside), "no blob at offset 64000000"),
    "offset-inside-data": (spec(offset_inside_data), "no blob begins at offset 128"),
    "weights-traversal": (spec(weights_elsewhere), "which points outside the package"),
    "weights-absolute": (spec(weights_not_in_the_package), "'/etc/passwd', which points outside"),
    "weights-huge": (spec(huge_weight), "declares .* bytes at offset 64"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_package_is_named_and_left_alone(model_path, damage, message):
    damage(model_path)
    before = snapshot(model_path.parent)
    with pytest.raises((InputError, UnsupportedModelError), match=message) as caught:
        read_package(model_path)
    assert str(model_path) in str(caught.value)
    assert snapshot(model_path.parent) == before


@pytest.mark.parametrize(
    ("edit", "kind"), [(to_neural_network, "neuralNetwork"), (to_pipeline, "pipeline")]
)
def test_another_kind_of_model_is_named_with_the_way_out(model_path, edit, kind):
    edit_spec(model_path, edit)
    with pytest.raises(UnsupportedModelError, match=f"type '{kind}'.*convert_to='mlprogram'"):
        read_package(model_path)


def test_a_single_file_model_is_named_by_its_kind(tmp_path):
    model, _ = load_message_types()
    network = model.Model()
    to_neural_network(network)
    path = tmp_path / "old.mlmodel"
    path.write_bytes(network.SerializeToString())
    with pytest.raises(UnsupportedModelError, match="type 'neuralNetwork'"):
        read_package(path)


def test_a_compiled_model_is_refused(tmp_path):
    path = tmp_path / "model.mlmodelc"
    path.mkdir()
    with pytest.raises(UnsupportedModelError, match="compiled"):
        read_package(path)


def test_a_missing_package_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.mlpackage' does not exist"):
        read_package(tmp_path / "nowhere.mlpackage")


@pytest.mark.parametrize("name", ["a" * 9999, "nul\0", ""])
def test_a_path_that_cannot_be_is_bad_input(name):
    with pytest.raises(InputError, match=r"cannot be read|does not exist|has no Manifest"):
        read_package(name)


def test_a_folder_without_a_manifest_is_not_searched(tmp_path, monkeypatch):
    monkeypatch.setattr("convcal.coreml.package.os.walk", None)
    with pytest.raises(InputError, match=r"is not a Core ML package: it has no Manifest\.json"):
        read_package(tmp_path)


def test_a_file_in_place_of_a_package_is_named(tmp_path):
    path = tmp_path / "model.mlpackage"
    path.write_bytes(b"PK")
    with pytest.raises(InputError, match=r"is a file, and an \.mlpackage is a folder"):
        read_package(path)


def test_outputs_in_place_of_a_package_are_sent_to_a_capture(tmp_path):
    path = tmp_path / "outputs.npz"
    np.savez(path, y=np.zeros(3))
    with pytest.raises(InputError, match=r"is a file, .* convcal capture --import"):
        read_package(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes")
def test_a_pipe_in_a_package_does_not_hang(model_path):
    os.mkfifo(model_path / "pipe")
    with pytest.raises(InputError, match="'pipe', which is neither a file nor a folder"):
        read_package(model_path)


def test_a_saved_package_holds_the_same(model_path, tmp_path):
    (model_path / "Data" / "note.txt").write_text("kept")
    package = read_package(model_path)
    target = package.save(tmp_path / "saved.mlpackage")
    again = read_package(target)
    assert again.spec == package.spec
    assert again.sha256 == package.sha256
    kept = snapshot(model_path)
    assert {**snapshot(target), MODEL: None} == {**kept, MODEL: None}
    read_with_coremltools(again)


def test_saving_twice_gives_the_same_bytes(model_path, tmp_path):
    package = read_package(model_path)
    first = package.save(tmp_path / "first.mlpackage")
    second = read_package(first).save(tmp_path / "second.mlpackage")
    assert snapshot(first) == snapshot(second)


@pytest.mark.skipif(os.name == "nt", reason="modes are of Unix")
def test_a_saved_package_can_be_read_by_whom_the_umask_allows(model_path, tmp_path):
    (model_path / MODEL).chmod(0o600)
    before = os.umask(0o022)
    try:
        target = read_package(model_path).save(tmp_path / "saved.mlpackage")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in target.rglob("*") if path.is_file()}
    assert modes == {0o644}
    assert {path.stat().st_mode & 0o777 for path in target.rglob("*") if path.is_dir()} == {0o755}


def test_the_hash_tells_weights_and_specification_apart(model_path):
    package = read_package(model_path)
    spec_changed = type(package.spec)()
    spec_changed.CopyFrom(package.spec)
    spec_changed.description.metadata.author = "someone else"
    assert package.with_spec(spec_changed).sha256 != package.sha256
    assert package.with_spec(spec_changed).weights_sha256 == package.weights_sha256
    weights = np.fromfile(model_path / WEIGHTS, np.uint8)
    weights[140] ^= 1
    weights.tofile(model_path / WEIGHTS)
    assert read_package(model_path).sha256 != package.sha256


def test_an_existing_target_is_kept_unless_forced(model_path, tmp_path):
    package = read_package(model_path)
    target = tmp_path / "there.mlpackage"
    target.mkdir()
    with pytest.raises(OutputExistsError, match="exists already"):
        package.save(target)
    assert list(target.iterdir()) == []
    package.save(target, force=True)
    assert read_package(target).sha256 == package.sha256


def test_a_package_can_be_saved_over_itself(model_path):
    package = read_package(model_path)
    content = package.sha256
    package.save(model_path, force=True)
    assert read_package(model_path).sha256 == content


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("place", ["Data/new.mlpackage", "new.mlpackage", "Data/a/../b.mlpackage"])
def test_a_package_is_not_saved_inside_itself(model_path, place, force):
    (model_path / "Data/a").mkdir()
    before = snapshot(model_path)
    with pytest.raises(InputError, match=r"lies inside the package .*beside it"):
        read_package(model_path).save(model_path / place, force=force)
    assert snapshot(model_path) == before


def test_a_package_does_not_replace_the_folder_around_it(model_path, tmp_path):
    around = tmp_path / "around.mlpackage"
    around.mkdir()
    inner = model_path.rename(around / "inner.mlpackage")
    before = snapshot(around)
    with pytest.raises(InputError, match="or around it"):
        read_package(inner).save(around, force=True)
    assert snapshot(around) == before


def test_a_folder_that_is_no_package_is_never_replaced(model_path, tmp_path):
    target = tmp_path / "thesis.mlpackage"
    target.mkdir()
    package = read_package(model_path)
    (target / "thesis.txt").write_text("three years of work")
    with pytest.raises(InputError, match=r"thesis\.mlpackage': it is a folder of something else"):
        package.save(target, force=True)
    assert (target / "thesis.txt").read_text() == "three years of work"
    (target / "thesis.txt").unlink()
    package.save(target, force=True)  # an empty folder loses nothing


def test_a_link_to_a_folder_is_replaced_and_the_folder_kept(model_path, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(model_path, elsewhere)
    before = snapshot(elsewhere)
    target = tmp_path / "new.mlpackage"
    target.symlink_to(elsewhere)
    read_package(model_path).save(target, force=True)
    assert not target.is_symlink()
    assert snapshot(elsewhere) == before


def test_a_target_of_another_ending_is_refused(model_path, tmp_path):
    with pytest.raises(InputError, match=r"use '.*saved\.mlpackage'"):
        read_package(model_path).save(tmp_path / "saved.mlmodel")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.mlpackage"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_half_written_stays_behind(model_path, tmp_path, monkeypatch, error):
    package = read_package(model_path)
    before = snapshot(tmp_path)

    def fail(source, target):
        raise error

    monkeypatch.setattr("convcal.coreml.package.shutil.copyfile", fail)
    expected = WriteError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        package.save(tmp_path / "new.mlpackage")
    assert snapshot(tmp_path) == before


def test_a_failed_check_leaves_the_old_target_in_place(model_path, tmp_path):
    package = read_package(model_path)
    target = package.save(tmp_path / "saved.mlpackage")
    before = snapshot(tmp_path)

    def refuse(written):
        assert written.is_dir()
        raise InputError("not good enough")

    with pytest.raises(InputError, match="not good enough"):
        package.save(target, force=True, check=refuse)
    assert snapshot(tmp_path) == before
