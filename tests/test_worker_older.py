"""Rows of the code before this one, and its processes beside ours on one database: a rolling deploy."""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from config import HERE
from db import database
from tests.servers import wait_until

OLDER = "ec0e590"
REPLICA = HERE / "tests" / "older" / "replica.py"
COUNT = 60


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The older code, from the history of this project."""
    found = subprocess.run(["git", "archive", OLDER], cwd=HERE, capture_output=True)
    if found.returncode:
        pytest.skip(f"the history of this clone does not have {OLDER}, with the code of before")
    folder = tmp_path_factory.mktemp("older")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=found.stdout, check=True)
    return folder


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(REPLICA), *arguments]
    return subprocess.Popen(command, cwd=folder, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def put(folder: Path, url: str, log: Path, prefix: str) -> None:
    process = start(folder, url, str(log), prefix, str(COUNT), "put")
    process.communicate(timeout=60)
    assert process.returncode == 0


async def counts(url: str) -> tuple[int, int]:
    db = database(url)
    await db.open()
    try:
        [row] = await db.read(
            "SELECT COUNT(*) AS n, COUNT(done_at) AS done FROM house_job WHERE token IS NULL AND error IS NULL"
        )
        return row["n"], row["done"]
    finally:
        await db.aclose()


@pytest.mark.slow
def test_old_and_new_processes_share_the_work_and_the_lanes(database_url: str, older: Path, tmp_path: Path):
    share_the_work(database_url, older, tmp_path / "log")


def share_the_work(database_url: str, older: Path, log: Path) -> None:
    """Let a process of the older code and one of ours run jobs of both: each once, one at a time in a lane."""
    log.touch()
    put(older, database_url, log, "before")
    old = start(older, database_url, str(log), "old", str(COUNT), "serve")
    new = start(HERE, database_url, str(log), "new", str(COUNT), "serve")
    try:
        wait_until(lambda: {pid for *_, pid in read(log)} == {old.pid, new.pid}, 60)
        Path(f"{log}.go").touch()
        wait_until(lambda: asyncio.run(counts(database_url)) == (3 * COUNT, 3 * COUNT), 60)
    finally:
        Path(f"{log}.go").touch()
        for process in (old, new):
            process.communicate(timeout=30)
    assert (old.returncode, new.returncode) == (0, 0)
    notes = read(log)
    begun = Counter(id for what, id, _, _ in notes if what == "begin")
    assert len(begun) == 3 * COUNT
    assert set(begun.values()) == {1}
    for lane in {lane for _, _, lane, _ in notes if lane}:
        of_lane = [(what, id) for what, id, its, _ in notes if its == lane]
        assert not [pair for pair in pairwise(of_lane) if pair[0][0] == pair[1][0]], f"{lane} overlaps"


def read(log: Path) -> list[Any]:
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.slow
def test_what_the_older_code_left_is_run(database_url: str, older: Path, tmp_path: Path):
    log = tmp_path / "log"
    Path(f"{log}.go").touch()
    put(older, database_url, log, "before")
    new = start(HERE, database_url, str(log), "new", "0", "serve")
    try:
        wait_until(lambda: asyncio.run(counts(database_url)) == (COUNT, COUNT), 60)
    finally:
        new.communicate(timeout=30)
    ends = [id for what, id, _, _ in read(log) if what == "end"]
    assert sorted(ends) == [f"before-{n:03}" for n in range(COUNT)]
    assert [id for id in ends if id.endswith("1")] == sorted(id for id in ends if id.endswith("1"))  # one lane
