"""Commands as somebody types them: processes of their own, in a copy of the project (the fixture `project`) or here."""

import os
import signal
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from config import HERE
from tests.servers import free_port, wait_until

Project = Path

PYTHON = ".venv/bin/python"


class Command:
    """A running command and what it has printed so far."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.output = ""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line

    def wait_for(self, words: str) -> None:
        try:
            wait_until(lambda: words in self.output or self.process.poll() is not None, 300)
        finally:
            assert words in self.output, self.output


@contextmanager
def running(project: Project, *command: str, **environ: str) -> Generator[Command]:
    environ = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **environ}
    process = subprocess.Popen(
        command,
        cwd=project,
        env=environ,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    started = Command(process)
    try:
        yield started
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)  # uvicorn waits 30 s for the answer of a worker that this ended while it started
        started.reader.join(5)
        assert process.stdout is not None
        process.stdout.close()


def run(project: Project, *command: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    environ = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **environ}
    return subprocess.run(command, cwd=project, env=environ, text=True, capture_output=True, timeout=600)


@contextmanager
def replica(database_url: str, model: str, **environ: str) -> Generator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Run this project as production does, in a process of its own; its URL and the process, which may be killed."""
    port = free_port()
    environ = {"PATH": os.environ["PATH"], "LOG_LEVEL": "warning", "SHUTDOWN_GRACE": "0.5", **environ}
    environ |= {"DATABASE_URL": database_url, "OPENAI_BASE_URL": model, "PORT": str(port)}
    command = [str(HERE / PYTHON), "-m", "app", "start"]
    process = subprocess.Popen(command, cwd=HERE, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: is_up(url) or process.poll() is not None)
        assert process.poll() is None, "the replica did not start"
        yield url, process
    finally:
        process.kill()
        process.wait(10)
        assert process.stderr is not None
        process.stderr.close()


def is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/api/health", trust_env=False).is_success
    except httpx.TransportError:
        return False
