# SPDX-License-Identifier: BSD-3-Clause
"""The worker process: it may crash, hang or talk nonsense, and the run goes on."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from convcal.coreml.prediction import decode, encode, frame_length
from convcal.errors import RunnerError
from convcal.runtime.worker import WorkerProcess

FAKE = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))
X = {"x": np.arange(6, dtype=np.float32).reshape(1, 2, 3)}


def opened(model, *, timeout=30.0, command=FAKE):
    worker = WorkerProcess(command, timeout=timeout)
    request = {"do": "load", "package": model, "compute_units": "all", "function": None}
    try:
        worker.ask(request, {}, doing=f"loading {model}")
    except BaseException:
        worker.close()
        raise
    return worker


def predict(worker, inputs=X, *, outputs=("x",), images=()):
    request = {"do": "predict", "images": list(images), "outputs": list(outputs)}
    request |= {"labels": dict.fromkeys(outputs, ()), "state": None, "forget": []}
    return worker.ask(request, inputs, doing="running the model")


@pytest.fixture
def open_worker():
    workers = []

    def open_one(model, **options):
        workers.append(opened(model, **options))
        return workers[-1]

    yield open_one
    for worker in workers:
        worker.close()


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=8),
        arrays.arrays(
            st.sampled_from([np.float16, np.float32, np.int32, np.uint8, np.bool_]),
            arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
        ),
        max_size=3,
    )
)
def test_messages_survive_the_pipe_bit_by_bit(values):
    frame = encode({"do": "predict"}, values)
    header, received = decode(frame)
    assert frame_length(frame[:16]) == len(frame)
    assert header["do"] == "predict"
    assert list(received) == list(values)
    for name, array in values.items():
        assert received[name].dtype == array.dtype
        assert received[name].shape == array.shape
        assert received[name].tobytes() == array.tobytes()
        # coremltools takes the address of the data as one to write to, and refuses others.
        assert received[name].flags.c_contiguous
        assert received[name].flags.writeable


def test_object_arrays_cannot_be_sent():
    with pytest.raises(ValueError, match="Object arrays"):
        encode({}, {"x": np.array([{}], dtype=object)})


def test_a_model_answers_again_and_again(open_worker):
    worker = open_worker("echo")
    for value in range(3):
        x = np.full((2, 2), value, np.float16)
        np.testing.assert_array_equal(predict(worker, {"x": x})["x"], x)


def test_strided_outputs_are_copied_element_by_element_and_keep_their_dtype(open_worker):
    outputs = predict(open_worker("stride"), outputs=["y", "z", "scalar"])
    assert outputs["y"].dtype == np.float16
    np.testing.assert_array_equal(outputs["y"], X["x"])
    np.testing.assert_array_equal(outputs["z"], X["x"])
    assert outputs["z"].flags.c_contiguous
    assert outputs["scalar"].shape == ()
    assert outputs["scalar"] == 2.5


@pytest.mark.parametrize(
    ("shape", "dtype", "mode"),
    [((4, 5, 3), np.uint8, b"RGB"), ((4, 5), np.uint8, b"L"), ((4, 5), np.float16, b"F")],
)
def test_pictures_arrive_in_the_mode_of_the_input_and_come_back_as_arrays(
    open_worker, shape, dtype, mode
):
    image = np.random.default_rng(1).integers(0, 256, shape).astype(dtype)
    outputs = predict(
        open_worker("picture"),
        {"picture": image},
        outputs=["picture", "mode"],
        images=["picture"],
    )
    assert outputs["mode"].tobytes() == mode
    assert outputs["picture"].shape == shape
    np.testing.assert_array_equal(outputs["picture"], image[::-1])


def test_what_the_framework_prints_does_not_get_between_the_messages(open_worker):
    np.testing.assert_array_equal(predict(open_worker("chatter"))["x"], X["x"])


def test_a_message_larger_than_any_pipe_passes_both_ways(open_worker):
    x = np.random.default_rng(2).random((6, 1024, 1024), dtype=np.float32)  # 24 MB
    assert np.array_equal(predict(open_worker("echo"), {"x": x})["x"], x)


def test_a_failure_of_the_framework_is_reported_and_the_worker_lives_on(open_worker):
    worker = open_worker("fail")
    with pytest.raises(
        RunnerError, match=r"running the model: RuntimeError: the framework says no"
    ):
        predict(worker)
    assert worker.is_alive


def test_a_model_that_does_not_load_is_reported():
    with pytest.raises(
        RunnerError, match=r"loading unloadable: ValueError: cannot compile for all"
    ):
        opened("unloadable")


def test_an_output_that_is_no_array_is_reported(open_worker):
    with pytest.raises(RunnerError, match=r"output 'y' is of type str, not an array"):
        predict(open_worker("text"), outputs=["y"])


def test_an_output_that_the_model_does_not_give_is_reported(open_worker):
    with pytest.raises(RunnerError, match=r"KeyError: 'w'"):
        predict(open_worker("echo"), outputs=["w"])


def test_a_crash_is_an_error_with_the_signal_and_the_last_words(open_worker):
    worker = open_worker("crash")
    with pytest.raises(RunnerError, match=r"by signal 11 \(SIGSEGV\)") as caught:
        predict(worker)
    assert "the last words" in str(caught.value)
    assert not worker.is_alive


def test_an_exit_is_an_error_with_the_exit_code(open_worker):
    with pytest.raises(RunnerError, match="with exit code 7"):
        predict(open_worker("leave"))


@pytest.mark.parametrize("model", ["hang", "babble"])
def test_a_hang_ends_with_the_time_limit(open_worker, model):
    worker = open_worker(model, timeout=30.0)
    worker._timeout = 0.5  # enough for loading above, however slow the machine is
    begin = time.monotonic()
    with pytest.raises(RunnerError, match=r"no answer within 0.5 s"):
        predict(worker)
    assert time.monotonic() - begin < 20
    assert not worker.is_alive


def test_a_worker_that_hangs_ends_itself_if_nobody_does(open_worker, monkeypatch):
    worker = open_worker("hang", timeout=30.0)
    monkeypatch.setattr("convcal.runtime.worker._GRACE_SECONDS", -29.5)
    with pytest.raises(RunnerError, match=r"with exit code 1(.|\n)*Timeout \(0:00:00\.5"):
        predict(worker)


def test_a_worker_that_ended_is_not_asked_again(open_worker):
    worker = open_worker("leave")
    with pytest.raises(RunnerError):
        predict(worker)
    with pytest.raises(RunnerError, match="its process has ended; open the model again"):
        predict(worker)


def test_a_worker_that_ended_between_two_questions_is_an_error(open_worker):
    # With kqueue, macOS may raise BrokenPipeError as soon as its input is registered.
    worker = open_worker("farewell")
    predict(worker)
    worker._process.wait(timeout=20)
    with pytest.raises(RunnerError, match="with exit code 7"):
        predict(worker)


@pytest.mark.parametrize("words", ["this is no frame at all", "CVC1" + "\\0" * 12 + "rest"])
def test_garbage_on_the_pipe_is_an_error(words):
    command = (sys.executable, "-c", f"print('{words}', flush=True); import time; time.sleep(60)")
    with pytest.raises(RunnerError, match="unreadable answer"):
        opened("echo", command=command)


def test_a_program_that_cannot_start_is_an_error_with_its_message():
    command = (sys.executable, "-m", "convcal.no_such_module")
    with pytest.raises(RunnerError, match=r"exit code 1(.|\n)*No module named"):
        opened("echo", command=command)


def test_closing_ends_the_process_and_removes_its_temporary_files():
    worker = opened("echo")
    scratch = Path(worker._scratch.name)
    assert scratch.is_dir()
    worker.close()
    worker.close()
    assert not worker.is_alive
    assert not scratch.exists()


def test_the_worker_dies_with_its_parent_even_in_the_middle_of_a_prediction(tmp_path):
    # A parent that starts a prediction that hangs, says who the worker is, and is killed.
    program = f"""
import os, signal, sys
import numpy as np
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_worker import opened
from convcal.coreml.prediction import encode
worker = opened("hang")
request = {{"do": "predict", "images": [], "outputs": [], "labels": {{}}, "state": None}}
frame = encode({{**request, "forget": [], "limit": 600}}, {{}})
os.write(worker._process.stdin.fileno(), frame)
print(worker._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    pid = int(done.stdout)
    deadline = time.monotonic() + 20
    while _is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_running(pid):
    """Tell whether a process still runs; an ended one may wait for a parent to take notice."""
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], stdout=subprocess.PIPE, check=False
    )
    return state.stdout.strip()[:1] not in {b"", b"Z"}
