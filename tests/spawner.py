"""Servers as forks of one process that has imported everything: most of what a start takes is imports.

``python spawner.py FD`` is that process. Every server gets a keeper: its parent, which tells how it ended.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
_NUMBER = 12
# DuckDB imports pandas where there is one.
_IMPORTED = ("flight_server.app", "pandas")


class Forked:
    """A server process, to be used like ``subprocess.Popen``."""

    def __init__(self, keeper: socket.socket, stdout: IO[str]) -> None:
        self._keeper = keeper
        self.stdout = stdout
        self.pid = self._told()
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit status, or None while it runs."""
        return self._ended(0.0)

    def wait(self, timeout: float) -> int:
        """Its exit status, when it has ended.

        Raises:
            TimeoutError: It is still running.
        """
        status = self._ended(timeout)
        if status is None:
            raise TimeoutError(f"the server is still running after {timeout} s")
        return status

    def kill(self) -> None:
        """kill -9."""
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _ended(self, timeout: float) -> int | None:
        if self.returncode is None:
            self._keeper.settimeout(timeout)
            with contextlib.suppress(TimeoutError, BlockingIOError):
                self.returncode = os.waitstatus_to_exitcode(self._told())
                self._keeper.close()
        return self.returncode

    def _told(self) -> int:
        message = self._keeper.recv(_NUMBER)
        if not message:
            raise RuntimeError("the keeper of the server has gone")
        return int(message)


class Spawner:
    """The process that servers are forked from, started when the first of them is."""

    def __init__(self) -> None:
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, arguments: Sequence[str], environment: Mapping[str, str]) -> Forked:
        """Run the command ``lakehouse`` with arguments and an environment."""
        control = self._control = self._control or self._started()
        ours, theirs = socket.socketpair()
        reading, writing = os.pipe()
        request = json.dumps([list(arguments), dict(environment)]).encode()
        with theirs:
            control.send(len(request).to_bytes(4))
            control.sendall(request)
            socket.send_fds(control, [b"!"], [theirs.fileno(), writing])
        os.close(writing)
        return Forked(ours, os.fdopen(reading, encoding="utf-8", errors="replace"))

    def _started(self) -> socket.socket:
        control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd=ROOT,
            )
        return control


def main() -> None:
    """Fork a server for each request, until there is nobody left who could send one."""
    sys.path[0] = str(ROOT)
    from flight_server.cli import arrow_memory

    arrow_memory.bound_arrow_memory()
    for name in _IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    while size := control.recv(4, socket.MSG_WAITALL):
        request = control.recv(int.from_bytes(size), socket.MSG_WAITALL)
        _, fds, _, _ = socket.recv_fds(control, 1, 2)
        if os.fork() == 0:
            control.close()
            _keep(json.loads(request), *fds)
        for fd in fds:
            os.close(fd)
    os._exit(0)  # without DuckDB's complaints of being torn down


def _keep(request: Any, told: int, output: int) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    server = os.fork()
    if server == 0:
        os.close(told)
        _serve(*request, output)
    os.close(output)
    with socket.socket(fileno=told) as teller, contextlib.suppress(BrokenPipeError):
        teller.send(str(server).encode().ljust(_NUMBER))
        ended = os.pidfd_open(server)
        if ended not in select.select([teller, ended], [], [])[0]:
            os.kill(server, signal.SIGKILL)  # nobody is left who could ask for it
        teller.send(str(os.waitpid(server, 0)[1]).encode().ljust(_NUMBER))
    os._exit(0)


def _serve(arguments: list[str], environment: dict[str, str], output: int) -> None:
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["lakehouse", *arguments]
    status: Any = 1
    try:
        from flight_server.cli import main as command

        command()
    except SystemExit as exit_:
        status = exit_.code or 0
    finally:
        sys.stdout.flush()
        os._exit(status if isinstance(status, int) else 1)


if __name__ == "__main__":
    main()
