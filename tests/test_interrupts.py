# SPDX-License-Identifier: BSD-3-Clause
import signal
import subprocess
import sys

# A stand-in for coremltools, which is interrupted during its import and loses it, as it does.
LOSES = """
try:
    import signal
    signal.raise_signal(signal.SIGINT)
except:
    pass
"""


def test_ctrl_c_during_the_import_is_not_lost(tmp_path):
    package = tmp_path / "coremltools"
    (package / "proto").mkdir(parents=True)
    (package / "__init__.py").write_text(LOSES)
    (package / "proto" / "__init__.py").write_text("")
    code = (
        "from convcal.coreml._coremltools import load_coremltools\n"
        "try:\n    load_coremltools()\n"
        "except KeyboardInterrupt:\n    print('interrupted')\n"
        "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": f"{tmp_path}:{':'.join(sys.path)}"},
    )
    assert done.stdout.split() == ["interrupted", "True"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# A stand-in for ONNX Runtime, which makes another error of an interrupt during its import.
RENAMES = """
try:
    import signal
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt as error:
    raise ImportError("initialization failed") from error
"""


def test_ctrl_c_during_the_import_of_onnxruntime_is_no_missing_package(tmp_path):
    (tmp_path / "onnxruntime.py").write_text(RENAMES)
    code = (
        "from convcal.runtime.execution import load_onnxruntime\n"
        "try:\n    load_onnxruntime()\n"
        "except KeyboardInterrupt:\n    print('interrupted')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": f"{tmp_path}:{':'.join(sys.path)}"},
    )
    assert done.stdout.split() == ["interrupted"]
