"""The processes of a benchmark and the two cores they have: one serves, the other one asks."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from starlette.types import ASGIApp

HERE = Path(__file__).resolve().parent.parent


class Unfit(Exception):
    """What cannot be measured: a server that does not start, or does not answer rightly."""


class Server(NamedTuple):
    """A process that listens on 127.0.0.1."""

    name: str
    port: int
    pid: int
    started_in: float  # seconds

    def cpu(self) -> float:
        """The processor time of all its threads so far, in seconds, by the clock of the process (Linux)."""
        return time.clock_gettime((~self.pid << 3) | 2)  # as clock_getcpuclockid() of the C library builds it

    def memory(self) -> int:
        """Its resident memory, in bytes (Linux)."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def serving(module: str, name: str, *arguments: object, patience: float) -> Generator[Server]:
    """Run `python -m MODULE serve DESCRIPTOR NAME ARGUMENTS`, with a socket of that descriptor. Raises `Unfit`."""
    with socket.socket() as listener, tempfile.TemporaryFile() as errors:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", module, "serve", str(listener.fileno()), name, *map(str, arguments)],
            cwd=HERE,
            env=environment(),
            pass_fds=[listener.fileno()],
            stderr=errors,
        )
        try:
            while not is_listening(port):
                if process.poll() is not None:
                    errors.seek(0)
                    raise Unfit((errors.read().decode().strip() or f"ended with {process.returncode}").splitlines()[-1])
                if time.perf_counter() - began > patience:
                    raise Unfit(f"did not start in {patience:.0f} s")
                time.sleep(0.02)
            yield Server(name, port, process.pid, time.perf_counter() - began)
        finally:
            process.kill()
            process.wait()


def serve_app(app: ASGIApp, descriptor: int) -> None:
    """Serve an app on a socket that was handed in, as all servers of a comparison are served."""
    import uvicorn

    options: dict[str, Any] = {"loop": "uvloop", "http": "httptools", "access_log": False, "log_level": "warning"}
    with socket.socket(fileno=descriptor) as listener:
        uvicorn.Server(uvicorn.Config(app, **options)).run(sockets=[listener])


def become_server(seconds: int) -> None:
    """Take the servers' core, and end after so many seconds at the latest."""
    signal.alarm(seconds)
    pin(server_core())


def environment() -> dict[str, str]:
    """What a process of ours gets of the environment: no settings of the app, nor of Python."""
    return {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "TMPDIR")}


def is_listening(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


def server_core() -> int:
    return cores()[0]


def client_core() -> int:
    return cores()[-1]


def cores() -> list[int]:
    return list(range(os.cpu_count() or 1))[:2]


def pin(core: int) -> None:
    if hasattr(os, "sched_setaffinity"):  # Linux
        os.sched_setaffinity(0, {core})
