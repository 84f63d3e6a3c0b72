# SPDX-License-Identifier: BSD-3-Clause
"""A process that answers, crashes or hangs, seen from the side that asks."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import convcal
from convcal.coreml.prediction import PREFIX, decode, encode, frame_length
from convcal.errors import RunnerError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["WorkerProcess"]

_BLOCK = 1 << 20
# The last lines of what a crashing framework says; more would fill the screen.
_TAIL = 2000
# The worker ends itself this much after the time limit, should this process be gone by then.
_GRACE_SECONDS = 30.0


class WorkerProcess:
    """A worker that speaks the protocol of `convcal.coreml.prediction`.

    Parameters
    ----------
    command : sequence of str
        The program and its arguments.
    timeout : float
        Seconds that one answer may take.
    """

    def __init__(self, command: Sequence[str], *, timeout: float) -> None:
        self._timeout = timeout
        self._tail = b""
        # The compiled model lies there, and the worker cannot clean up when it is killed.
        self._scratch = tempfile.TemporaryDirectory(prefix="convcal-", ignore_cleanup_errors=True)
        here = str(Path(convcal.__file__).parent.parent)
        paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(  # noqa: S603  (our own program)
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={
                **os.environ,
                "TMPDIR": self._scratch.name,
                "PYTHONPATH": os.pathsep.join(paths),
            },
            # Ctrl-C is for this process, which then ends the worker.
            start_new_session=True,
        )
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def ask(
        self,
        request: Mapping[str, Any],
        arrays: Mapping[str, NDArray[np.generic]],
        *,
        doing: str,
    ) -> dict[str, NDArray[np.generic]]:
        """Send a request and wait for the answer.

        Parameters
        ----------
        request : mapping
            The header.
        arrays : mapping of str to ndarray
            Its arrays.
        doing : str
            What the worker is to do, for messages: "Core ML, loading 'x.mlpackage'".

        Returns
        -------
        dict of str to ndarray
            The arrays of the answer.

        Raises
        ------
        RunnerError
            If the worker reports a failure; or if it crashes, talks nonsense or does not answer
            in time, in which case it has been ended.
        """
        header = {**request, "limit": self._timeout + _GRACE_SECONDS}
        try:
            reply, outputs = self._exchange(encode(header, arrays), doing=doing)
        except BaseException:
            # The two sides may be out of step now, also after Ctrl-C.
            self.close()
            raise
        if reply.get("is_done") is not True:
            raise RunnerError(f"{doing}: {reply.get('message')}")
        return outputs

    def _exchange(
        self, request: bytes, *, doing: str
    ) -> tuple[dict[str, Any], dict[str, NDArray[np.generic]]]:
        process = self._process
        if process.stdin is None or process.stdin.closed:
            raise RunnerError(f"{doing}: its process has ended; open the model again")
        unsent = memoryview(request)
        received = bytearray()
        length: int | None = None
        deadline = time.monotonic() + self._timeout
        # Sending and receiving at once: either side may fill its pipe. By poll, as subprocess does
        # it: kqueue may raise BrokenPipeError at once for the input of a worker that has ended.
        with selectors.PollSelector() as selector:
            selector.register(process.stdin, selectors.EVENT_WRITE)
            for stream in (process.stdout, process.stderr):
                selector.register(stream, selectors.EVENT_READ)  # type: ignore[arg-type]
            while length is None or len(received) < length:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise RunnerError(self._timeout_message(doing))
                for key, _ in selector.select(left):
                    if key.fileobj is process.stdin:
                        unsent = self._send(unsent)
                        if not unsent:
                            selector.unregister(process.stdin)
                        continue
                    block = os.read(key.fd, _BLOCK)
                    if not block:
                        selector.unregister(key.fileobj)
                    if key.fileobj is process.stderr:
                        self._tail = (self._tail + block)[-_TAIL:]
                    elif not block:
                        raise RunnerError(self._end_message(doing))
                    else:
                        received += block
                if length is None and len(received) >= PREFIX.size:
                    length = self._understood(frame_length, received[: PREFIX.size], doing=doing)
        message: tuple[dict[str, Any], dict[str, NDArray[np.generic]]] = self._understood(
            decode, received, doing=doing
        )
        return message

    def _send(self, unsent: memoryview) -> memoryview:
        try:
            return unsent[os.write(self._process.stdin.fileno(), unsent[:_BLOCK]) :]  # type: ignore[union-attr]
        except BlockingIOError:
            return unsent
        except BrokenPipeError:
            # It has ended; its standard output will say so next.
            return unsent[:0]

    def _understood(self, read: Any, content: bytearray, *, doing: str) -> Any:
        try:
            return read(content)
        except (ValueError, EOFError) as error:
            raise RunnerError(
                f"{doing}: its process gave an unreadable answer ({error})"
            ) from error

    def _timeout_message(self, doing: str) -> str:
        return (
            f"{doing}: no answer within {self._timeout:g} s, so it was ended; allow more time "
            f"with --timeout (timeout=) or other compute units{self._last_words()}"
        )

    def _end_message(self, doing: str) -> str:
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return f"{doing}: its process stopped answering{self._last_words()}"
        how = f"with exit code {code}"
        if code < 0:
            how = f"by signal {-code}"
            if -code in set(signal.Signals):
                how += f" ({signal.Signals(-code).name})"
        return (
            f"{doing}: its process ended {how}; try other compute units, e.g. cpu-only"
            f"{self._last_words()}"
        )

    def _last_words(self) -> str:
        """Quote the end of what the worker wrote to standard error."""
        stream = self._process.stderr
        while stream is not None and not stream.closed:
            try:
                block = os.read(stream.fileno(), _BLOCK)
            except BlockingIOError:
                break
            if not block:
                break
            self._tail = (self._tail + block)[-_TAIL:]
        text = self._tail.decode(errors="replace").strip()
        return f". The last it said was:\n{text}" if text else ""

    def close(self) -> None:
        """End the process, whatever it does, and remove its temporary files."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        self._scratch.cleanup()
