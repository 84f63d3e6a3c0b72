# SPDX-License-Identifier: BSD-3-Clause
import json
import warnings

import pytest
from coreml.models import read_with_coremltools

from convcal import Calibration, Correction, OutputCalibration, export_coreml
from convcal.coreml.package import read_package
from convcal.coreml.patch import patched_outputs
from convcal.errors import (
    ConvcalWarning,
    InputError,
    OutputExistsError,
    SelfCheckError,
    UnsupportedModelError,
)
from convcal.export.coreml import PROVENANCE_KEY

SHIFT = Correction((8, 9), shift=(1.0, -2.0), gain=(1.5,) * 4, bias=(0.25,) * 4)
IDENTITY = Correction((8, 9), gain=(1.0,) * 4, bias=(0.0,) * 4)


def calibration_of(correction, *, name="out", **provenance):
    output = OutputCalibration(
        verdict="correctable", reason="a test", family="shift", correction=correction
    )
    return Calibration({name: output}, provenance)


def content(folder):
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def test_the_reference_is_not_corrected(model_path, tmp_path):
    digest = read_package(model_path).sha256
    other = calibration_of(SHIFT, reference={"sha256": digest}, observed={"sha256": "beef"})
    with pytest.raises(InputError, match="is the reference of the calibration"):
        export_coreml(other, model_path, tmp_path / "new.mlpackage")
    assert not (tmp_path / "new.mlpackage").exists()
    # One package on two compute units is both.
    same = calibration_of(SHIFT, reference={"sha256": digest}, observed={"sha256": digest})
    assert export_coreml(same, model_path, tmp_path / "new.mlpackage")


def test_the_export_is_a_checked_package_that_says_where_it_comes_from(model_path, tmp_path):
    package = read_package(model_path)
    calibration = calibration_of(
        SHIFT,
        emulated=True,
        faults=["crop-origin:variant=zero"],
        observed={"sha256": package.sha256, "os": "Linux", "path": "/home/someone/secret"},
        data={"sha256": "beef", "source": "pictures"},
    )
    before = content(model_path)
    path = export_coreml(calibration, model_path, tmp_path / "new.mlpackage")
    assert path == tmp_path / "new.mlpackage"
    assert content(model_path) == before
    written = read_package(path)
    assert written.weights_sha256 == package.weights_sha256
    assert written.spec.specificationVersion == package.spec.specificationVersion
    assert patched_outputs(written) == {"out": "out__uncorrected"}
    read_with_coremltools(written)
    record = json.loads(written.spec.description.metadata.userDefined[PROVENANCE_KEY])
    assert record["calibration"] == calibration.id
    assert record["emulated"] is True
    assert record["faults"] == ["crop-origin:variant=zero"]
    assert record["observed"] == {"sha256": package.sha256, "os": "Linux"}
    assert record["data"] == {"sha256": "beef"}
    assert (record["precision"], record["verdict"]) == ("float32", "correctable")


def test_the_same_export_gives_the_same_bytes(model_path, tmp_path):
    first = export_coreml(calibration_of(SHIFT), model_path, tmp_path / "a.mlpackage")
    second = export_coreml(calibration_of(SHIFT), model_path, tmp_path / "b.mlpackage")
    assert content(first) == content(second)


def test_nothing_to_correct_writes_nothing(model_path, tmp_path):
    assert export_coreml(calibration_of(IDENTITY), model_path, tmp_path / "new.mlpackage") is None
    assert [path.name for path in tmp_path.iterdir()] == ["model.mlpackage"]


def test_another_package_than_the_fitted_one_is_warned_of(model_path, tmp_path):
    calibration = calibration_of(SHIFT, observed={"sha256": "0" * 64})
    with pytest.warns(ConvcalWarning, match="fitted on another package than .*convcal check"):
        export_coreml(calibration, model_path, tmp_path / "new.mlpackage")


@pytest.mark.parametrize("observed", [None, "a string", {"sha256": 7}, {"os": ["a", "list"]}])
def test_a_provenance_of_another_form_does_no_harm(model_path, tmp_path, observed):
    calibration = calibration_of(SHIFT, observed=observed, faults="not a list", data=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvcalWarning)
        path = export_coreml(calibration, model_path, tmp_path / "new.mlpackage")
    record = read_package(path).spec.description.metadata.userDefined[PROVENANCE_KEY]
    assert json.loads(record)["faults"] == []


def refuse(model_path, tmp_path, calibration, error, message, **options):
    before = content(tmp_path)
    with pytest.raises(error, match=message):
        export_coreml(calibration, model_path, tmp_path / "new.mlpackage", **options)
    assert content(tmp_path) == before


def test_a_calibration_of_another_model_is_refused(model_path, tmp_path):
    calibration = calibration_of(SHIFT, name="mask")
    refuse(model_path, tmp_path, calibration, InputError, "no output 'mask'")
    other = calibration_of(Correction((8, 8), gain=(2.0,) * 4, bias=(0.0,) * 4))
    refuse(model_path, tmp_path, other, InputError, r"\(1, 4, 8, 9\)")


def test_an_existing_target_is_kept_unless_forced(model_path, tmp_path):
    (tmp_path / "new.mlpackage").mkdir()
    calibration = calibration_of(SHIFT)
    refuse(model_path, tmp_path, calibration, OutputExistsError, "exists already")
    export_coreml(calibration, model_path, tmp_path / "new.mlpackage", force=True)
    assert patched_outputs(read_package(tmp_path / "new.mlpackage"))


def test_a_result_that_coremltools_does_not_type_alike_is_not_kept(
    model_path, tmp_path, monkeypatch
):
    from convcal.coreml import patch

    def build_too_small(operations, source, correction, *, precision):
        operations.crop_ends(source, amounts=[(0, 0), (0, 0), (0, 0), (0, 2)])

    monkeypatch.setattr(patch, "_build", build_too_small)
    refuse(model_path, tmp_path, calibration_of(SHIFT), SelfCheckError, "was not kept")


def test_a_result_that_coremltools_does_not_read_is_not_kept(model_path, tmp_path, monkeypatch):
    from convcal.coreml import patch

    real = patch._build

    def build_nonsense(operations, source, correction, *, precision):
        real(operations, source, correction, precision=precision)
        operations.messages[-1].type = "conv_transpose_backwards"

    monkeypatch.setattr(patch, "_build", build_nonsense)
    refuse(model_path, tmp_path, calibration_of(SHIFT), SelfCheckError, "was not kept")


def test_a_weight_file_that_changes_on_the_way_is_noticed(model_path, tmp_path, monkeypatch):
    import shutil

    real = shutil.copyfile

    def flip_a_bit(source, target):
        real(source, target)
        if target.suffix == ".bin":
            data = bytearray(target.read_bytes())
            data[-1] ^= 1
            target.write_bytes(data)

    monkeypatch.setattr("convcal.coreml.package.shutil.copyfile", flip_a_bit)
    refuse(model_path, tmp_path, calibration_of(SHIFT), SelfCheckError, "weights are not those")


def test_a_program_that_coremltools_cannot_read_is_exported_with_a_warning(model_path, tmp_path):
    package = read_package(model_path)
    body = package.spec.mlProgram.functions["main"].block_specializations["CoreML5"]
    custom = body.operations.add(type="a_layer_of_tomorrow")
    custom.inputs["x"].arguments.add(name="x")
    custom.outputs.add(name="unused").type.CopyFrom(body.operations[-2].outputs[0].type)
    with pytest.warns(ConvcalWarning, match="types of the corrected one are not checked"):
        path = export_coreml(calibration_of(SHIFT), package, tmp_path / "new.mlpackage")
    assert patched_outputs(read_package(path)) == {"out": "out__uncorrected"}


def test_another_kind_of_model_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "model.mlmodelc").mkdir()
    path = tmp_path / "model.mlmodelc"
    refuse(path, tmp_path, calibration_of(SHIFT), UnsupportedModelError, "compiled")
