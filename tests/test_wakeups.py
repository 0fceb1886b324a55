"""Wake-ups between processes: two databases on one file or server stand for two processes."""

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from db import Database, Row, SQLite, Statement, database
from db.thread import Thread
from tests.conftest import execute

INSERT = "INSERT INTO house_job (id, name, payload, run_at, attempts, created_at) VALUES ($1, 'x', '', 0, 0, 0)"


@asynccontextmanager
async def two(url: str) -> AsyncGenerator[tuple[Database, Database]]:
    one, other = database(url), database(url)
    await one.open()
    await other.open()
    try:
        yield one, other
    finally:
        await one.aclose()
        await other.aclose()


class Bell:
    """Counts, and lets a test wait for the next ring."""

    def __init__(self) -> None:
        self.rung = 0
        self.event = asyncio.Event()

    def __call__(self) -> None:
        self.rung += 1
        self.event.set()

    async def next(self) -> None:
        await asyncio.wait_for(self.event.wait(), 10)
        self.event.clear()


async def change(db: Database) -> None:
    await db.write((INSERT, (uuid4().hex,)))
    await db.notify("jobs")


async def rung_by(bell: Bell, db: Database) -> None:
    """Change something until the bell rings: the listener may not be there yet."""
    for _ in range(100):
        await change(db)
        try:
            await asyncio.wait_for(bell.event.wait(), 0.1)
        except TimeoutError:
            continue
        bell.event.clear()
        return
    raise AssertionError("nobody was woken")


async def test_a_change_of_another_process_calls_back(database_url: str):
    async with two(database_url) as (one, other):
        bell = Bell()
        end = one.listen("jobs", bell)
        await rung_by(bell, other)
        bell.event.clear()
        await change(other)
        await bell.next()
        end()
        end()


async def test_a_file_at_rest_is_asked_once_a_second_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    one = SQLite(f"sqlite:///{tmp_path}/a.db")
    await one.open()
    asked: list[object] = []
    run = Thread.run

    async def counted(self: Thread, statements: Sequence[Statement]) -> list[list[Row]]:
        asked.append(statements)
        return await run(self, statements)

    monkeypatch.setattr(Thread, "run", counted)
    os.utime(f"{tmp_path}/a.db-wal", (1.0, 1.0))
    one.listen("jobs", Bell())
    await asyncio.sleep(1.5)
    assert 1 <= len(asked) <= 2
    await one.aclose()


async def test_a_name_that_nobody_told_of_stays_quiet(postgres: str):
    async with two(postgres) as (one, other):
        bell, chats = Bell(), Bell()
        one.listen("jobs", bell)
        one.listen("chats", chats)
        await rung_by(bell, other)
        assert chats.rung == 0
        await other.notify("chats")
        await chats.next()


async def test_a_process_does_not_wake_itself(database_url: str):
    async with two(database_url) as (one, other):
        bell = Bell()
        one.listen("jobs", bell)
        await rung_by(bell, other)
        before = bell.rung
        for _ in range(10):
            await change(one)
        bell.event.clear()
        other_bell = Bell()
        other.listen("jobs", other_bell)
        await rung_by(bell, other)
        assert bell.rung <= before + 2


async def test_many_wakeups_of_a_name_are_told_as_few(postgres: str):
    async with two(postgres) as (one, other):
        bell, last = Bell(), Bell()
        one.listen("jobs", bell)
        one.listen("last", last)
        await rung_by(bell, other)
        before = bell.rung
        for _ in range(500):
            await other.notify("jobs")
            await asyncio.sleep(0)
        await other.notify("last")
        await last.next()
        assert 1 <= bell.rung - before <= 3


async def test_after_a_lost_connection_it_calls_back_once_and_listens_again(postgres: str):
    async with two(postgres) as (one, other):
        bell = Bell()
        one.listen("jobs", bell)
        await rung_by(bell, other)
        await asyncio.sleep(0.3)  # what was told meanwhile arrives
        bell.event.clear()
        sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
        await execute(postgres, sql)
        await bell.next()  # by itself: something may have been missed
        await rung_by(bell, other)


async def test_a_callback_that_raises_stops_no_other(database_url: str, caplog: pytest.LogCaptureFixture):
    def broken() -> None:
        raise LookupError("no")

    async with two(database_url) as (one, other):
        bell = Bell()
        one.listen("jobs", broken)
        one.listen("jobs", bell)
        await rung_by(bell, other)
        await rung_by(bell, other)
    assert "a wake-up of jobs failed" in caplog.text


async def test_who_listens_no_more_leaves_no_task_behind(database_url: str):
    async with two(database_url) as (one, _):
        before = len(asyncio.all_tasks())
        ends = [one.listen("jobs", Bell()), one.listen("chats", Bell())]
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == before + 1
        for end in ends:
            end()
        await asyncio.sleep(0.05)
        assert len(asyncio.all_tasks()) == before
