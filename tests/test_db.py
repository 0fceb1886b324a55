"""The database: what both engines promise, and what stops the start."""

import asyncio
from pathlib import Path

import pytest

from config import ConfigError
from db import Conflict, database

INSERT = "INSERT INTO house_job (id, name, payload, run_at, attempts, created_at) VALUES ($1, 'x', 'null', $2, 0, $2)"


async def test_a_write_happens_whole_or_not_at_all(database_url: str):
    db = database(database_url)
    await db.open()
    await db.write((INSERT, ("a", 1.5)))
    with pytest.raises(Conflict):
        await db.write((INSERT, ("b", 1.0)), (INSERT, ("a", 1.0)))
    assert await db.read("SELECT id, run_at FROM house_job") == [{"id": "a", "run_at": 1.5}]
    await db.aclose()


async def test_writes_at_once_are_all_there_and_one_that_fails_takes_no_other_with_it(database_url: str):
    db = database(database_url)
    await db.open()
    writes = [db.write((INSERT, (str(n % 90), 1.0))) for n in range(100)]
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(result) for result in results if result != [[]]] == [Conflict] * 10
    assert (await db.read("SELECT COUNT(*) AS n FROM house_job")) == [{"n": 90}]
    await db.aclose()


async def test_many_may_start_together_on_a_new_database(database_url: str):
    several = [database(database_url) for _ in range(5)]
    await asyncio.gather(*(db.open() for db in several))
    for n, db in enumerate(several):
        await db.write((INSERT, (str(n), 1.0)))
    assert (await several[0].read("SELECT COUNT(*) AS n FROM house_job")) == [{"n": 5}]
    for db in several:
        await db.aclose()


async def test_what_was_written_is_there_after_a_restart(database_url: str):
    for n in range(2):
        db = database(database_url)
        await db.open()
        await db.write((INSERT, (str(n), 1.0)))
        await db.aclose()
    db = database(database_url)
    await db.open()
    assert len(await db.read("SELECT id FROM house_job")) == 2
    await db.aclose()


async def test_a_file_that_cannot_be_written_stops_the_start_with_the_mend(tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigError, match=r"^DATABASE_URL: .*file/app\.db cannot be opened for writing") as error:
        await database(f"sqlite:///{tmp_path}/file/app.db").open()
    assert "write permission" in str(error.value)


async def test_a_server_that_is_not_there_stops_the_start_without_its_password():
    with pytest.raises(
        ConfigError, match=r"^DATABASE_URL: postgresql://\.\.\.@127\.0\.0\.1:9/x cannot be used"
    ) as error:
        await database("postgresql://ada:s3cret@127.0.0.1:9/x").open()
    assert "s3cret" not in str(error.value)
    assert "Start the server" in str(error.value)


@pytest.mark.parametrize(("option", "kept"), [("", True), ("&statement_cache_size=0", False)])
async def test_statements_need_not_be_prepared_where_a_pooler_would_lose_them(postgres: str, option: str, kept: bool):
    db = database(postgres + option)
    await db.open()
    rows = await db.read("SELECT name FROM pg_prepared_statements WHERE name <> ''")
    rows = await db.read("SELECT name FROM pg_prepared_statements WHERE name <> ''")
    await db.aclose()
    assert bool(rows) is kept
