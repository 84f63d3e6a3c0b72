# SPDX-License-Identifier: BSD-3-Clause
import os
import subprocess
import sys

import pytest

from convcal.coreml._coremltools import load_coremltools, parse_model, silenced
from convcal.errors import UnavailableError


def test_importing_coremltools_writes_nothing_and_warns_of_nothing():
    program = (
        "from convcal.coreml._coremltools import load_coremltools; "
        "print(load_coremltools().__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "coremltools\n"
    assert done.stderr == ""


def test_importing_the_coreml_part_does_not_import_coremltools():
    program = (
        "import sys, convcal.coreml.package, convcal.coreml.patch, convcal.export.coreml; "
        "print('coremltools' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


def test_a_missing_coremltools_is_an_error_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "coremltools", None)
    load_coremltools.cache_clear()
    try:
        with pytest.raises(UnavailableError, match="pip install coremltools") as caught:
            load_coremltools()
    finally:
        load_coremltools.cache_clear()
    assert "Linux on x86-64" in str(caught.value)


def test_what_is_written_during_a_failed_import_is_not_lost(capfd):
    def fail():
        with silenced():
            os.write(2, b"libnative: symbol not found\n")
            raise ImportError("cannot load")

    with pytest.raises(ImportError, match="cannot load") as caught:
        fail()
    assert "libnative: symbol not found" in caught.value.__notes__[0]
    assert capfd.readouterr().err == ""


def test_standard_error_works_again_afterwards(capfd):
    with silenced():
        os.write(2, b"chatter\n")
    os.write(2, b"said\n")
    assert capfd.readouterr().err == "said\n"


def test_bytes_that_are_no_model_are_none():
    assert parse_model(b"\xff\xff\xff\xff") is None
