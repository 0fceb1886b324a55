"""The SQLite file by itself: one thread that writes, what it acknowledges, and how it opens and closes."""

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio

from config import ConfigError
from db import Conflict
from db.migrations import TABLES
from db.sqlite import SQLite, sqlite_path

INSERT = "INSERT INTO house_conversation (id, channel, model, created_at) VALUES ($1, 'web', 'smart', 0)"
COUNT = "SELECT COUNT(*) AS n FROM house_conversation"


@pytest_asyncio.fixture
async def db(tmp_path: Path) -> AsyncIterator[SQLite]:
    database = SQLite(f"sqlite:///{tmp_path}/data/app.db")
    await database.open()
    yield database
    await database.aclose()


async def ids(db: SQLite) -> list[str]:
    return [row["id"] for row in await db.read("SELECT id FROM house_conversation ORDER BY id")]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("sqlite-")]


# Writing.


async def test_an_acknowledged_write_is_readable_at_once(db: SQLite):
    async def write_and_read(n: int) -> int:
        await db.write((INSERT, (f"c{n}",)))
        return len(await db.read("SELECT id FROM house_conversation WHERE id = $1", f"c{n}"))

    assert await asyncio.gather(*(write_and_read(n) for n in range(1000))) == [1] * 1000
    assert await db.read(COUNT) == [{"n": 1000}]


async def test_a_write_that_fails_takes_no_other_with_it(db: SQLite):
    await db.write((INSERT, ("taken",)))
    writes = [db.write((INSERT, ("taken" if n % 7 == 0 else f"c{n:03}",))) for n in range(500)]
    results = await asyncio.gather(*writes, return_exceptions=True)
    failed = [n for n, result in enumerate(results) if isinstance(result, Conflict)]
    assert failed == list(range(0, 500, 7))
    assert await ids(db) == [f"c{n:03}" for n in range(500) if n % 7] + ["taken"]


async def test_the_statements_of_a_write_happen_together_or_not_at_all(db: SQLite):
    with pytest.raises(Conflict):
        await db.write((INSERT, ("a",)), (INSERT, ("b",)), (INSERT, ("a",)))
    assert await ids(db) == []
    assert await db.write((INSERT, ("a",)), (f"{INSERT} RETURNING id", ("b",)), (COUNT, ())) == [
        [],
        [{"id": "b"}],
        [{"n": 2}],
    ]


async def test_a_statement_by_itself_happens_whole_or_not_at_all_and_is_committed_when_it_is_told(
    db: SQLite, tmp_path: Path
):
    two = INSERT.replace("($1, 'web', 'smart', 0)", "($1, 'web', 'smart', 0), ($2, 'web', 'smart', 0)")
    with pytest.raises(Conflict):
        await db.write((two, ("a", "a")))
    assert await db.write((f"{two} RETURNING id", ("a", "b"))) == [[{"id": "a"}, {"id": "b"}]]
    with sqlite3.connect(tmp_path / "data/app.db", timeout=0) as another:  # neither waits for the other's end
        assert another.execute("SELECT id FROM house_conversation ORDER BY id").fetchall() == [("a",), ("b",)]
        another.execute(INSERT, {"1": "c"})
    another.close()
    await db.write((INSERT, ("d",)))
    assert await ids(db) == ["a", "b", "c", "d"]


async def test_a_task_that_is_cancelled_does_not_stop_the_writes_behind_it(db: SQLite):
    tasks = [asyncio.create_task(db.write((INSERT, (f"c{n:03}",)))) for n in range(100)]
    await asyncio.sleep(0)  # they have begun: what is cancelled now is only the wait for it
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [result for result in results[1::2] if result != [[]]] == []
    assert await ids(db) == [f"c{n:03}" for n in range(100)]


@pytest.mark.parametrize("text", ["", "Grüße 👋🏽", "a\u2028b\r\nc", "'; DROP TABLE house_job; --", "$1 ? :x", "a\0b"])
async def test_any_text_comes_back_as_it_was(db: SQLite, text: str):
    await db.write((INSERT, (text,)))
    assert await ids(db) == [text]
    assert await db.read("SELECT $1 AS [$2], $2 AS `$1`", text, text + "x") == [{"$2": text, "$1": text + "x"}]


# Reading.


async def test_reading_cannot_write(db: SQLite):
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await db.read(INSERT, "c")
    assert await ids(db) == []


async def test_a_wrong_query_is_its_own_error_and_the_next_one_works(db: SQLite):
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        await db.read("SELECT * FROM nowhere")
    assert await db.read(COUNT) == [{"n": 0}]


# Opening and closing.


async def test_what_was_written_is_there_after_closing_and_opening(tmp_path: Path):
    for n in range(3):
        db = SQLite(f"sqlite:///{tmp_path}/app.db")
        await db.open()
        assert len(await ids(db)) == n
        await db.write((INSERT, (f"c{n}",)))
        await db.aclose()
    assert os.listdir(tmp_path) == ["app.db"]  # closed for good: nothing waits in the log beside it


async def test_closing_waits_for_what_was_asked_before_it(tmp_path: Path):
    db = SQLite(f"sqlite:///{tmp_path}/app.db")
    await db.open()
    writes = [asyncio.create_task(db.write((INSERT, (f"c{n}",)))) for n in range(600)]
    await asyncio.sleep(0)
    await db.aclose()
    assert await asyncio.gather(*writes) == [[[]]] * 600


async def test_a_closed_database_says_so_and_closing_twice_is_harmless(tmp_path: Path):
    db = SQLite(f"sqlite:///{tmp_path}/app.db")
    await db.aclose()
    await db.open()
    await db.aclose()
    await db.aclose()
    with pytest.raises(RuntimeError, match="the database is closed"):
        await db.read(COUNT)
    with pytest.raises(RuntimeError, match="the database is closed"):
        await db.write((INSERT, ("c",)))


async def test_no_thread_is_left_behind(tmp_path: Path):
    db = SQLite(f"sqlite:///{tmp_path}/app.db")
    await db.open()
    assert len(threads()) == 2
    await db.aclose()
    assert threads() == []


async def test_no_thread_is_left_behind_by_a_migration_that_fails(tmp_path: Path):
    file = tmp_path / "app.db"
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE house_conversation (id)")
    connection.close()
    with pytest.raises(ConfigError, match="table house_conversation already exists"):
        await SQLite(f"sqlite:///{file}").open()
    assert threads() == []


@pytest.mark.slow
async def test_those_that_open_a_new_file_at_once_migrate_it_once(tmp_path: Path):
    for attempt in range(20):  # now and then one found the file locked
        both = [SQLite(f"sqlite:///{tmp_path}/{attempt}.db") for _ in range(4)]
        await asyncio.gather(*(db.open() for db in both))
        await asyncio.gather(*(db.write((INSERT, (f"c{n}",))) for n, db in enumerate(both)))
        for db in both:
            assert await ids(db) == ["c0", "c1", "c2", "c3"]
            ran = await db.read("SELECT name FROM house_migration ORDER BY name")
            assert ran == [{"name": f"db/tables/{file.name}"} for file in sorted(TABLES.iterdir())]
        for db in both:
            await db.aclose()


@pytest.mark.parametrize("what", ["a parent that is a file", "a folder"])
async def test_a_path_that_cannot_be_written_is_named_with_the_fix(tmp_path: Path, what: str):
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder").mkdir()
    file = {"a parent that is a file": "file/app.db", "a folder": "folder"}[what]
    for attempt in (SQLite.open, SQLite.pending):
        with pytest.raises(ConfigError) as caught:
            await attempt(SQLite(f"sqlite:///{tmp_path}/{file}"))
        message = str(caught.value)
        assert message.startswith(f"DATABASE_URL: {tmp_path}/{file} cannot be opened for writing: ")
        assert message.endswith("Give this user write permission for its folder, or name another file.")
    assert threads() == []


@pytest.mark.parametrize("text", ["short", "This is text, and no database. " * 100])
async def test_a_file_that_is_no_database_is_told_as_what_it_is(tmp_path: Path, text: str):
    (tmp_path / "app.db").write_text(text)
    for attempt in (SQLite.open, SQLite.pending):
        with pytest.raises(ConfigError, match=r"app\.db is no SQLite database, or it is damaged: ") as caught:
            await attempt(SQLite(f"sqlite:///{tmp_path}/app.db"))
        assert "permission" not in str(caught.value)
    assert (tmp_path / "app.db").read_text() == text
    assert threads() == []


def test_an_old_sqlite_is_refused_with_the_version_that_is_needed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(ConfigError, match=r"3\.35 or later is needed"):
        SQLite("sqlite:///data/app.db")


async def test_looking_at_what_would_run_makes_no_file(tmp_path: Path):
    assert len(await SQLite(f"sqlite:///{tmp_path}/data/deep/app.db").pending()) == len(list(TABLES.iterdir()))
    assert os.listdir(tmp_path) == []


async def test_only_its_owner_reads_a_new_file_and_a_new_folder(tmp_path: Path):
    before = os.umask(0o022)
    try:
        db = SQLite(f"sqlite:///{tmp_path}/data/app.db")
        await db.open()
        await db.write((INSERT, ("c",)))
        modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "data").iterdir()}
        await db.aclose()
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("app.db", "app.db-wal", "app.db-shm"), 0o600)
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


async def test_the_mode_of_a_file_that_is_there_is_left_as_it_is(tmp_path: Path):
    (tmp_path / "app.db").touch(mode=0o640)
    (tmp_path / "app.db").chmod(0o640)
    db = SQLite(f"sqlite:///{tmp_path}/app.db")
    await db.open()
    await db.aclose()
    assert (tmp_path / "app.db").stat().st_mode & 0o777 == 0o640


async def test_the_log_shrinks_again_after_a_reader_was_open_for_long(db: SQLite, tmp_path: Path):
    await db.write(("CREATE TABLE page (text TEXT)", ()))
    with closing(sqlite3.connect(tmp_path / "data/app.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT COUNT(*) FROM page").fetchone()
        for _ in range(30):
            await db.write(("INSERT INTO page (text) VALUES ($1)", ("x" * 1_000_000,)))
        assert (tmp_path / "data/app.db-wal").stat().st_size > 20_000_000
    for _ in range(30):
        await db.write(("INSERT INTO page (text) VALUES ($1)", ("x",)))
    assert (tmp_path / "data/app.db-wal").stat().st_size < 20_000_000


async def test_rows_that_refer_to_none_are_refused(db: SQLite):
    await db.write(
        ("CREATE TABLE a (id TEXT PRIMARY KEY)", ()), ("CREATE TABLE b (a TEXT NOT NULL REFERENCES a (id))", ())
    )
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        await db.write(("INSERT INTO b (a) VALUES ('x')", ()))
    with pytest.raises(sqlite3.IntegrityError, match="NOT NULL"):
        await db.write(("INSERT INTO b (a) VALUES (NULL)", ()))


# Health.


@pytest.mark.slow
async def test_a_file_that_another_process_holds_cannot_be_written_and_can_afterwards(db: SQLite, tmp_path: Path):
    await db.try_write()
    with closing(sqlite3.connect(tmp_path / "data/app.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TimeoutError):
            await db.try_write()
    await db.try_write()


@pytest.mark.parametrize("again", [False, True])
async def test_a_file_that_was_deleted_under_the_app_cannot_be_written(db: SQLite, tmp_path: Path, again: bool):
    for file in (tmp_path / "data").iterdir():
        file.unlink()
    if again:
        (tmp_path / "data/app.db").touch()
    with pytest.raises(FileNotFoundError, match="No such file" if not again else "was deleted or replaced"):
        await db.try_write()


def test_a_url_names_a_file_below_the_project_or_an_absolute_one():
    assert sqlite_path("sqlite:////var/lib/app.db") == Path("/var/lib/app.db")
    below = sqlite_path("sqlite:///data/app.db")
    assert below.is_absolute()
    assert below.parts[-2:] == ("data", "app.db")
