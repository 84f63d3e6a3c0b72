# SPDX-License-Identifier: BSD-3-Clause
"""Spread shards over processes: of this machine, or of any executor."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import threading
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection

from convcal.errors import ConvcalError, InputError, RunnerError, UnavailableError
from convcal.fitting.shards import Job, fit_shard
from convcal.fitting.state import FitState

__all__ = ["dask_executor", "process_executor", "shard_states"]

SHARDS_AT_ONCE = 16
"""How many an executor gets that does not say how many it can take."""
TRIES = 3
"""How often a shard is tried: Dask's executor may fail one whose worker died as it was done."""


def shard_states(
    job: Job, shards: Sequence[tuple[int, int]], *, executor: Executor, n_at_once: int
) -> Generator[tuple[FitState, tuple[str, ...]], None, None]:
    """Fit on shards, in any process, and give their states in the order of the shards.

    Parameters
    ----------
    job : Job
        Of `Job.shared`.
    shards : sequence of (int, int)
        Ranges of samples.
    executor : concurrent.futures.Executor
        Runs them.
    n_at_once : int
        How many are under way or waiting to be merged at any time, which bounds the memory.

    Yields
    ------
    (FitState, tuple of str)
        With the emulated faults that changed nothing.

    Raises
    ------
    RunnerError
        If a worker died.
    ConvcalError
        What the work itself raised.
    """
    waiting = deque(shards)
    running: deque[tuple[tuple[int, int], Future[tuple[bytes, tuple[str, ...]]]]] = deque()
    n_failed = 0
    try:
        while waiting or running:
            while waiting and len(running) < n_at_once:
                shard = waiting.popleft()
                running.append((shard, executor.submit(fit_shard, job, *shard)))
            shard, future = running[0]
            try:
                content, idle_faults = future.result()
            except (ConvcalError, BrokenProcessPool):
                raise
            except Exception:
                n_failed += 1
                if n_failed == TRIES:
                    raise
                running[0] = (shard, executor.submit(fit_shard, job, *shard))
                continue
            n_failed = 0
            running.popleft()
            yield FitState.from_bytes(content, job.options), idle_faults
    except ConvcalError:
        raise
    except BrokenProcessPool as error:
        raise RunnerError(
            "a worker process ended before its work was done (killed, out of memory, or a script "
            "that calls fit without 'if __name__ == \"__main__\":'); run again with --resume "
            "(resume=True) to go on from the checkpoint, with fewer workers if memory was short"
        ) from error
    except Exception as error:
        raise RunnerError(
            f"a worker failed on samples {shard[0]} to {shard[1] - 1}: {type(error).__name__}: "
            f"{error}; run again with --resume (resume=True) to go on from the checkpoint"
        ) from error
    finally:
        for _, future in running:
            future.cancel()


@contextlib.contextmanager
def process_executor(n_workers: int) -> Iterator[Executor]:
    """Give an executor of fresh processes of this machine.

    They end when the block does, and when this process dies, however it does.
    """
    context = multiprocessing.get_context("spawn")
    lifeline, held = context.Pipe(duplex=False)
    with contextlib.closing(lifeline), contextlib.closing(held):
        executor = ProcessPoolExecutor(
            n_workers, mp_context=context, initializer=_start_worker, initargs=(lifeline,)
        )
        try:
            yield executor
        except BaseException:
            held.close()  # what is still under way is of no use
            executor.shutdown(wait=True, cancel_futures=True)
            raise
        executor.shutdown(wait=True, cancel_futures=True)


def _start_worker(lifeline: Connection) -> None:
    """Leave Ctrl-C and warnings to the parent, which opens the same, and leave with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")

    def leave() -> None:
        with contextlib.suppress(EOFError, OSError):
            lifeline.recv_bytes()  # nothing is ever sent: it ends when the other end is closed
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()


@contextlib.contextmanager
def dask_executor(address: str) -> Iterator[Executor]:
    """Give the executor of a Dask cluster.

    Parameters
    ----------
    address : str
        Of its scheduler, as ``tcp://host:8786``. Workers need convcal, and models, data or
        captures under the same paths.

    Raises
    ------
    InputError
        If the address has no port.
    UnavailableError
        If Dask is not installed, or no scheduler answers.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise UnavailableError(
            f"a cluster needs the Python package dask[distributed] ({error}); install it with "
            "pip install 'convcal[dask]'"
        ) from error
    # A client that cannot read its address never ends.
    if not re.fullmatch(r".+:\d+", address):
        raise InputError(
            f"the cluster's address is '{address}', which has no port; give the address that "
            "'dask scheduler' prints, as tcp://host:8786"
        )
    try:
        client = Client(address, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise UnavailableError(
            f"no Dask scheduler answers at '{address}' ({error}); give the address that "
            "'dask scheduler' prints, as tcp://host:8786"
        ) from error
    with client:
        yield client.get_executor()
