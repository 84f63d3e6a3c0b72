# SPDX-License-Identifier: BSD-3-Clause
"""One worker, many, dying ones, and any order of the samples: the same calibration."""

import concurrent.futures
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from fake_runner import FakeRunner
from numpy.testing import assert_allclose

import convcal
from convcal import FitOptions, fit, fit_captures
from convcal.cli import main
from convcal.data import write_role
from convcal.errors import InputError, RunnerError, UnavailableError
from convcal.fitting.shards import LEAST_SAMPLES, MOST_SHARDS, plan_shards
from convcal.fitting.workers import dask_executor

MODELS = Path(__file__).parents[2] / "calibration_data" / "models" / "issue-2324"
PAIR = (MODELS / "fp32.mlpackage", MODELS / "fp16.mlpackage")
OPTIONS = FitOptions(max_shift=4)
SMALL, LARGE = (40, 1, 2, 24, 20), (72, 1, 1, 256, 256)


def record(path, shape, order=None):
    """Capture windows of larger scenes, displaced by (2, -1), with gain, bias and noise."""
    generator = np.random.default_rng(5)
    margin = 4
    scenes = generator.normal(size=(*shape[:3], shape[3] + 2 * margin, shape[4] + 2 * margin))
    rows, columns = shape[3:]
    reference = scenes[..., margin : margin + rows, margin : margin + columns]
    observed = 1.25 * scenes[..., margin - 2 : margin - 2 + rows, margin + 1 : margin + 1 + columns]
    observed = observed + 0.5 + 0.01 * generator.normal(size=observed.shape)
    for role, values in (("reference", reference), ("observed", observed)):
        with write_role(path, role, provenance={}) as writer:
            for index in range(len(values)) if order is None else order:
                writer.append(f"s{index}", {"y": values[index].astype(np.float16)})
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A capture whose samples are all kept, and its calibration."""
    path = record(tmp_path_factory.mktemp("small") / "c", SMALL)
    return path, fit_captures(path, options=OPTIONS)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A capture of which some samples are in the sums alone, and its calibration."""
    path = record(tmp_path_factory.mktemp("large") / "c", LARGE)
    return path, fit_captures(path, options=OPTIONS)


def numbers(value):
    """Give every number of nested objects and lists by its place, and all else as it is."""
    if isinstance(value, dict):
        return {(key, *k): v for key, part in value.items() for k, v in numbers(part).items()}
    if isinstance(value, list | tuple):
        return {(i, *k): v for i, part in enumerate(value) for k, v in numbers(part).items()}
    return {(): value}


def assert_same(calibration, expected):
    found, wanted = (
        numbers({name: output.to_dict() for name, output in each.outputs.items()})
        for each in (calibration, expected)
    )
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        if isinstance(value, float):
            # The law of the statistics, for outputs of the order of 1.
            assert_allclose(found[key], value, rtol=1e-12, atol=1e-12, err_msg=str(key))
        else:
            assert found[key] == value, key


# ---------------------------------------------------------------- the same result


@pytest.mark.parametrize("n_samples", [1, 3, 4, 7, 8, 100, 255, 256, 1000, 10**6])
def test_shards_cover_every_sample_once_and_are_not_too_small(n_samples):
    shards = plan_shards(n_samples)
    assert [start for start, _ in shards] == [0, *(stop for _, stop in shards[:-1])]
    assert shards[-1][1] == n_samples
    assert len(shards) <= MOST_SHARDS
    assert min(stop - start for start, stop in shards) >= min(n_samples, LEAST_SAMPLES)


def test_four_workers_give_what_one_gives(large):
    path, expected = large
    progress = []
    calibration = fit_captures(
        path, options=OPTIONS, n_jobs=4, progress=lambda *numbers: progress.append(numbers)
    )
    assert_same(calibration, expected)
    assert calibration.provenance == expected.provenance
    assert progress == [(stop, LARGE[0]) for _, stop in plan_shards(LARGE[0])]
    assert multiprocessing.active_children() == []


def test_any_order_of_the_samples_gives_the_same(large, tmp_path):
    order = np.random.default_rng(6).permutation(LARGE[0])
    shuffled = record(tmp_path / "c", LARGE, order)
    assert_same(fit_captures(shuffled, options=OPTIONS), large[1])


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_any_executor_will_do(small, n_jobs):
    path, expected = small
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        calibration = fit_captures(path, options=OPTIONS, executor=executor, n_jobs=n_jobs)
    # All samples are kept, so there is nothing that could round differently.
    assert calibration.outputs == expected.outputs


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_fault_that_changes_nothing_is_warned_of_with_workers_too(tmp_path, n_jobs):
    data = np.random.default_rng(0).standard_normal((12, 1, 1, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=data)
    faults = ("saturate:limit=1000", "int-shift:displacement=1")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(*PAIR, tmp_path / "data.npz", runtime="reference", emulate=faults, n_jobs=n_jobs)
    (told,) = (str(w.message) for w in caught if "changes no output" in str(w.message))
    assert "saturate:limit=1000" in told


def test_loky_will_do(small):
    loky = pytest.importorskip("loky")
    path, expected = small
    executor = loky.get_reusable_executor(max_workers=2)
    calibration = fit_captures(path, options=OPTIONS, executor=executor)
    executor.shutdown()
    assert calibration.outputs == expected.outputs


def test_models_are_run_by_workers_as_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # paths are relative, and workers may be elsewhere
    inputs = np.random.default_rng(0).standard_normal((12, 1, 1, 4)).astype(np.float32)
    np.savez("data.npz", x=inputs)
    how = ("--data", "data.npz", "--emulate", "crop-origin", "--runtime", "reference")
    for name, more in (("one", ()), ("two", ("--workers", 2))):
        words = ("fit", *PAIR, *how, "-o", f"{name}.json", *more)
        assert main([str(word) for word in words]) == 0
    one, two = ((tmp_path / f"{name}.json").read_text() for name in ("one", "two"))
    assert one == two
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.npz", "one.json", "two.json"]


# ---------------------------------------------------------------- workers that die


@pytest.fixture
def cluster():
    """A Dask cluster of two processes on this machine, and its client."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def test_a_worker_of_a_cluster_that_is_killed_changes_nothing(small, cluster):
    path, expected = small
    processes = cluster.run(os.getpid)
    killed = []

    def kill(_done, _total):
        if not killed:
            killed.append(next(iter(processes.values())))
            os.kill(killed[0], signal.SIGKILL)

    calibration = fit_captures(
        path, options=OPTIONS, executor=cluster.get_executor(), progress=kill
    )
    assert calibration.outputs == expected.outputs
    assert killed


def test_the_command_line_fits_on_a_cluster(small, cluster, tmp_path):
    path, expected = small
    target = tmp_path / "net.json"
    address = cluster.scheduler.address
    words = ("fit", "--captures", path, "--max-shift", 4, "--cluster", address, "-o", target)
    assert main([str(word) for word in words]) == 0
    assert convcal.Calibration.load(target).corrections == expected.corrections


class Dying:
    """An executor of the standard library, one process of which is killed."""

    def __init__(self):
        context = multiprocessing.get_context("spawn")
        self.executor = concurrent.futures.ProcessPoolExecutor(1, mp_context=context)
        self.n_submitted = 0

    def submit(self, function, *arguments):
        self.n_submitted += 1
        if self.n_submitted == 3:
            return self.executor.submit(os._exit, 1)
        return self.executor.submit(function, *arguments)


def test_a_process_that_dies_is_named_and_the_fit_goes_on_from_its_checkpoint(small, tmp_path):
    path, expected = small
    checkpoint = tmp_path / "checkpoint.npz"
    dying = Dying()
    with pytest.raises(RunnerError, match=r"ended before its work was done.*--resume"):
        fit_captures(path, options=OPTIONS, executor=dying, n_jobs=2, checkpoint=checkpoint)
    dying.executor.shutdown()
    assert checkpoint.exists()
    progress = []
    calibration = fit_captures(
        path,
        options=OPTIONS,
        checkpoint=checkpoint,
        resume=True,
        progress=lambda done, _: progress.append(done),
    )
    assert calibration.outputs == expected.outputs
    assert progress[0] > 1
    assert not checkpoint.exists()


class Losing:
    """An executor that loses the first results, so many times."""

    def __init__(self, n_lost):
        self.n_lost = n_lost

    def submit(self, function, *arguments):
        future = concurrent.futures.Future()
        if self.n_lost:
            self.n_lost -= 1
            future.set_exception(OSError("the connection is gone"))
        else:
            future.set_result(function(*arguments))
        return future


def test_a_part_that_is_lost_on_its_way_is_worked_out_again(small):
    path, expected = small
    calibration = fit_captures(path, options=OPTIONS, executor=Losing(2), n_jobs=2)
    assert calibration.outputs == expected.outputs
    with pytest.raises(RunnerError, match=r"samples 0 to 3: OSError: the connection is gone"):
        fit_captures(path, options=OPTIONS, executor=Losing(10**6), n_jobs=2)


PARENT = """\
import sys
from convcal import fit_captures
from convcal.fitting.workers import process_executor
import os, time

if __name__ == "__main__":
    with process_executor(2) as executor:
        print(executor.submit(os.getpid).result(), flush=True)
        time.sleep(60)
"""


def test_workers_do_not_outlive_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 30
    while is_alive(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # Dead, and waited for by nobody.
    status = Path(f"/proc/{process}/stat")
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


# ---------------------------------------------------------------- refusals


def test_runners_and_iterables_cannot_be_shared():
    shape = (1, 2, 8, 8)
    runner = FakeRunner(lambda x: x, shape=shape)
    with pytest.raises(InputError, match=r"the reference is of type FakeRunner.*fit_captures"):
        fit(runner, runner, [{"x": np.zeros(shape, np.float32)}], n_jobs=2)
    with pytest.raises(InputError, match=r"the data are of type list.*FILE.py:FUNCTION"):
        fit("a.mlpackage", "b.mlpackage", [], n_jobs=2)


@pytest.mark.parametrize("n_jobs", [0, -1])
def test_a_number_of_workers_below_one_is_refused(small, n_jobs):
    with pytest.raises(InputError, match=f"n_jobs is {n_jobs}"):
        fit_captures(small[0], n_jobs=n_jobs)


def test_what_is_wrong_with_the_data_is_told_as_without_workers(small, tmp_path):
    path = record(tmp_path / "c", SMALL)
    chunk = path / "observed/output-0/c/31/0/0/0/0"
    chunk.write_bytes(b"")
    with (
        concurrent.futures.ThreadPoolExecutor(2) as executor,
        pytest.raises(InputError, match="sample 's31' of output 'y'"),
    ):
        fit_captures(path, executor=executor)


def test_a_cluster_that_is_not_there_is_named(small, monkeypatch):
    distributed = pytest.importorskip("distributed")
    from convcal.fitting.workers import dask_executor

    def refuse(*_, **__):
        raise OSError("timed out")

    monkeypatch.setattr(distributed, "Client", refuse)
    with pytest.raises(UnavailableError, match="no Dask scheduler answers at 'tcp://nowhere:1'"):
        dask_executor("tcp://nowhere:1").__enter__()


def test_dask_that_is_not_installed_is_named_with_the_way_to_get_it(monkeypatch):
    from convcal.fitting.workers import dask_executor

    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UnavailableError, match=r"pip install 'convcal\[dask\]'"):
        dask_executor("tcp://nowhere:1").__enter__()


def test_the_address_of_a_cluster_has_a_port():
    with (
        pytest.raises(InputError, match="'nonsense', which has no port"),
        dask_executor("nonsense"),
    ):
        pass
