# SPDX-License-Identifier: BSD-3-Clause
import dataclasses
import importlib.resources
import json
import warnings

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from strategies import calibrations

from convcal import Calibration, ConvcalWarning, Correction, OutputCalibration
from convcal.errors import InputError, OutputExistsError
from convcal.estimation.metrics import measure

SCHEMA = json.loads(
    importlib.resources.files("convcal").joinpath("calibration.schema.json").read_text("utf-8")
)


def load_quietly(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvcalWarning)
        return Calibration.load(path)


def sample(verdict="correctable"):
    correction = Correction(spatial_shape=(8, 8), shift=(-1.0, 0.0), gain=(1.1,), bias=(0.1,))
    return OutputCalibration(verdict, "it is shifted", "shift", correction)


def real():
    return {"emulated": False, "faults": [], "reference": {}, "observed": {}, "data": {}}


@given(calibrations())
@settings(deadline=None, max_examples=50)
def test_a_file_reads_back_bit_for_bit(tmp_path_factory, calibration):
    path = tmp_path_factory.mktemp("calibration") / "c.calibration.json"
    calibration.save(path)
    again = load_quietly(path)
    assert again == calibration
    # Equality lets -0.0 pass for 0.0; the text does not.
    assert json.dumps(again.to_dict()) == json.dumps(calibration.to_dict())
    assert again.id == calibration.id


@given(calibrations())
@settings(deadline=None, max_examples=50)
def test_every_calibration_follows_the_published_schema(calibration):
    record = json.loads(json.dumps(calibration.to_dict(), allow_nan=False))
    jsonschema.validate(record, SCHEMA, cls=jsonschema.Draft202012Validator)


def test_a_calibration_of_unknown_origin_follows_the_published_schema():
    metrics = measure(np.ones(3), np.array([1.0, 2.0, np.nan])).to_dict()
    output = dataclasses.replace(sample(), metrics={"before": metrics})
    record = Calibration({"y": output}).to_dict()
    jsonschema.validate(record, SCHEMA, cls=jsonschema.Draft202012Validator)
    assert set(metrics) == set(SCHEMA["$defs"]["metrics"]["properties"])


PLAIN = Correction(spatial_shape=(8, 8), shift=(-1.0, 0.0), gain=(1.1,), bias=(0.1,))
KINDS = {
    "plain": (PLAIN, 1, ()),
    "scale": (Correction(spatial_shape=(8, 8), scale=(1.1, 1.0)), 1, ()),
    "crop": (Correction(spatial_shape=(8, 8), crop=((0, 0), (0, 3))), 2, ("crop",)),
    "row_stride": (Correction(spatial_shape=(8, 8), row_stride=16), 2, ("row_stride",)),
}


@pytest.mark.parametrize(("correction", "version", "keys"), KINDS.values(), ids=KINDS)
def test_a_file_has_the_version_whose_readers_know_all_its_keys(
    tmp_path, correction, version, keys
):
    calibration = Calibration({"y": OutputCalibration("correctable", "", "", correction)})
    record = calibration.to_dict()
    assert record["version"] == version
    known = {"shift", "scale", "origin", "gain", "bias", "border", "interpolation", "margins"}
    known |= {"batch_axis", "channel_axis", "spatial_shape", "dtype"}
    assert set(record["outputs"]["y"]["correction"]) - known == set(keys)
    calibration.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json") == calibration
    jsonschema.validate(json.loads(json.dumps(record)), SCHEMA, cls=jsonschema.Draft202012Validator)


def test_a_file_of_version_1_with_keys_of_version_2_contradicts_itself():
    correction, _, _ = KINDS["crop"]
    record = Calibration({"y": OutputCalibration("correctable", "", "", correction)}).to_dict()
    with pytest.raises(InputError, match="version 1, and 'crop' and 'row_stride' belong to"):
        Calibration.from_dict(record | {"version": 1})


def test_the_id_of_a_correction_that_was_written_before_stays():
    # Written by convcal when there was neither scale nor crop.
    calibration = Calibration({"y": OutputCalibration("correctable", "", "", PLAIN)})
    assert calibration.id == "420e6263b6ad96eb"


def test_the_schema_itself_is_valid():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_verdict_is_the_worst_one():
    calibration = Calibration({"a": sample("identical"), "b": sample("not-identifiable")})
    assert calibration.verdict == "not-identifiable"
    assert (
        Calibration({"a": sample("identical"), "b": sample("correctable")}).verdict == "correctable"
    )


def test_emulation_is_said_when_a_file_is_read(tmp_path):
    emulated = {**real(), "emulated": True, "faults": ["crop-origin:variant=zero"]}
    Calibration({"y": sample()}, emulated).save(tmp_path / "c.json")
    with pytest.warns(ConvcalWarning, match="crop-origin:variant=zero"):
        assert Calibration.load(tmp_path / "c.json").is_emulated


def test_an_existing_file_is_kept(tmp_path):
    path = tmp_path / "c.json"
    path.write_text("mine")
    with pytest.raises(OutputExistsError, match="exists already"):
        Calibration({"y": sample()}, real()).save(path)
    assert path.read_text() == "mine"
    Calibration({"y": sample()}, real()).save(path, force=True)
    assert Calibration.load(path).verdict == "correctable"


def test_any_truncation_is_refused_by_name(tmp_path):
    path = tmp_path / "c.json"
    Calibration({"y": sample()}, real()).save(path)
    whole = path.read_bytes().rstrip()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"c\.json' is not a calibration"):
            Calibration.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 3}, "version 3 and this convcal reads up to 2; update convcal"),
        ({"version": 0}, "version 0"),
        ({"version": "1"}, "'version' is of type str"),
        ({"format": "other"}, "convcal.calibration"),
        ({"outputs": {}}, "at least one output"),
        ({"outputs": {"y": 3}}, "output 'y': an object was expected, not int"),
        ({"outputs": []}, "'outputs' is of type list"),
        ({"provenance": None}, "'provenance' is of type NoneType"),
        ({"provenance": {"emulated": True, "faults": 5}}, "'faults' is 5; a list"),
        ({"provenance": {"emulated": True, "faults": [None]}}, "'faults' is .None."),
        ({"provenance": {"emulated": "no"}}, "'emulated' is 'no'; true or false"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, change, message):
    path = tmp_path / "c.json"
    record = Calibration({"y": sample()}, real()).to_dict() | change
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match=message) as caught:
        Calibration.load(path)
    assert "c.json" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00", "not a calibration"),
        (b"[" * 100_000, "not a calibration"),
        (b'{"format": NaN}', "NaN"),
        (b"[]", "format"),
        (b"3", "format"),
    ],
)
def test_foreign_content_is_refused(tmp_path, content, message):
    path = tmp_path / "c.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        Calibration.load(path)


def test_a_missing_file_says_what_to_give(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.json.*convcal fit"):
        Calibration.load(tmp_path / "nothing.json")
    with pytest.raises(InputError, match="cannot read"):
        Calibration.load(tmp_path)


def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "c.json"
    with path.open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(InputError, match="too large"):
        Calibration.load(path)


def test_an_unknown_verdict_is_refused():
    with pytest.raises(InputError, match="'fine'"):
        sample("fine")
