"""Servers that tests start: ready when they say so, stopped by pid, and never left behind."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_START_TIMEOUT_S = 120
_STOP_TIMEOUT_S = 30
_KEPT_LINES = 2000
_PR_SET_PDEATHSIG = 1  # prctl(2)


@dataclass(frozen=True)
class Account:
    """Whom a process runs as; ids are None when that is simply the user who runs the tests."""

    uid: int | None = None
    gid: int | None = None

    def owns(self, path: Path) -> None:
        """Makes this account the owner of a file or folder."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def start(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[str]:
        """Starts a command in `folder` as this account; its output and errors are one piped stream of text."""
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            user=self.uid,
            group=self.gid,
            extra_groups=None if self.uid is None else [],
            preexec_fn=_stop_with_parent(),  # noqa: PLW1509 - it calls prctl alone
        )


def _stop_with_parent() -> Callable[[], None] | None:
    """On Linux the kernel stops a server when the tests are killed, so that none is left behind."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)

    def ask_kernel() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGINT), 0, 0, 0)

    return ask_kernel


@dataclass
class Server:
    """A running server and the end of its log."""

    process: subprocess.Popen[str]
    log: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT_LINES))
    _ready: bool = False
    _ready_or_over: threading.Event = field(default_factory=threading.Event)

    def watch(self, ready_line: str) -> None:
        """Reads the log until the server ends; notices the line that says it is ready."""
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self.log.append(line)
                if ready_line in line:
                    self._ready = True
                    self._ready_or_over.set()
        self._ready_or_over.set()

    def is_ready(self, timeout_s: float) -> bool:
        """Waits until the server is ready (True), or has ended or `timeout_s` has passed (False)."""
        self._ready_or_over.wait(timeout_s)
        return self._ready


def stop(process: subprocess.Popen[str]) -> None:
    """Stops a server by its pid: orderly first, then by force."""
    for request in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(request)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            continue


@contextmanager
def running_server(
    command: Sequence[str],
    *,
    ready_line: str,
    folder: Path,
    environment: Mapping[str, str],
    account: Account | None = None,
) -> Iterator[Server]:
    """Runs a server for the duration of the block, entered once its output holds `ready_line`.

    Raises RuntimeError with the end of its output if it ends before that or is not ready within two minutes.
    """
    server = Server((account or Account()).start(command, folder, environment))
    watcher = threading.Thread(target=server.watch, args=(ready_line,), name=f"log of {command[0]}", daemon=True)
    watcher.start()
    try:
        if not server.is_ready(_START_TIMEOUT_S):
            raise RuntimeError(f"{command[0]} did not become ready:\n" + "".join(list(server.log)[-40:]))
        yield server
    finally:
        stop(server.process)
        watcher.join(_STOP_TIMEOUT_S)
