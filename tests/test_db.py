"""The database: what both engines promise, and what stops the start."""

import asyncio
import contextlib
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


async def test_a_loop_that_ends_before_its_answer_comes_takes_no_other_with_it(database_url: str):
    db = database(database_url)
    await db.open()

    async def give_up_at_once(n: int) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                await db.write((INSERT, (str(n), 1.0)))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                await db.read("SELECT 1 AS one")

    for n in range(20):  # as a plain job does, in a thread of its own
        await asyncio.to_thread(asyncio.run, give_up_at_once(n))
    async with asyncio.timeout(20):
        await db.write((INSERT, ("after", 1.0)))
        assert await db.read("SELECT id FROM house_job WHERE id = 'after'") == [{"id": "after"}]
        assert await asyncio.to_thread(asyncio.run, db.read("SELECT 1 AS one")) == [{"one": 1}]
    await db.aclose()


A, B = "CAST($1 AS TEXT)", "CAST($2 AS TEXT)"


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        (f"SELECT {A} AS x, {B} AS y", [{"x": "one", "y": "two"}]),
        (f"SELECT {B} AS x, {A} AS y, {B} AS z", [{"x": "two", "y": "one", "z": "two"}]),
        (f"SELECT '$3''$1' AS x, {A} || '?' AS y, {B} AS z", [{"x": "$3'$1", "y": "one?", "z": "two"}]),
        (f'SELECT {A} AS "$2", {B} AS "y""$1"', [{"$2": "one", 'y"$1': "two"}]),
        (f"SELECT {A} AS x -- $3 isn't one\n, {B} AS y /* nor $4 */", [{"x": "one", "y": "two"}]),
        (f"WITH a$1 AS (SELECT {A} AS x) SELECT x, {B} AS y FROM a$1", [{"x": "one", "y": "two"}]),  # noqa: S608 - fixed text
    ],
)
async def test_each_marker_is_its_value_and_what_stands_in_a_text_a_name_or_a_comment_is_none(
    database_url: str, sql: str, rows: list[dict[str, str]]
):
    db = database(database_url)
    await db.open()
    assert await db.read(sql, "one", "two") == rows
    await db.aclose()


@pytest.mark.parametrize(
    ("sql", "values"), [(f"SELECT {A}", ()), (f"SELECT {A}", ("one", "two")), (f"SELECT {B}, {A}", ("one",))]
)
async def test_a_value_too_few_or_too_many_is_an_error(database_url: str, sql: str, values: tuple[str, ...]):
    db = database(database_url)
    await db.open()
    with pytest.raises(Exception, match=r"1 was passed|0 were passed|2 were passed|values up to|bindings"):
        await db.read(sql, *values)
    await db.aclose()


PUT = (
    "INSERT INTO house_job (id, name, payload, run_at, attempts, created_at) VALUES ($1, $2, 'null', $3, 0, $3) "
    "ON CONFLICT (id) DO NOTHING RETURNING id, name"
)


async def test_each_of_many_writes_at_once_gets_its_own_rows(database_url: str):
    db = database(database_url)
    await db.open()
    puts = await asyncio.gather(*(db.write((PUT, (str(n % 150), f"put-{n}", 1.0))) for n in range(300)))
    kept = {row["id"]: row["name"] for row in await db.read("SELECT id, name FROM house_job")}
    assert len(kept) == 150
    for n, [rows] in enumerate(puts):
        assert rows == ([{"id": str(n % 150), "name": f"put-{n}"}] if kept[str(n % 150)] == f"put-{n}" else [])
    rename = "UPDATE house_job SET name = $2 WHERE CAST(id AS INTEGER) < $1 RETURNING id"
    renamed = await asyncio.gather(*(db.write((rename, (n, "x"))) for n in range(20)))
    assert [len(rows) for [rows] in renamed] == list(range(20))
    assert (
        await asyncio.gather(*(db.write(("DELETE FROM house_job WHERE id = $1", (str(n),))) for n in range(20)))
        == [[[]]] * 20
    )
    await db.aclose()


async def test_of_many_writes_at_once_those_that_fail_say_so_and_the_others_are_kept(database_url: str):
    db = database(database_url)
    await db.open()
    plain = PUT.partition(" ON CONFLICT")[0]
    broken: object = object()
    values = [("taken" if n % 7 == 0 else f"j{n}", broken if n % 11 == 5 else "x", 1.0) for n in range(100)]
    results = await asyncio.gather(*(db.write((plain, value)) for value in values), return_exceptions=True)
    wrong = [n for n in range(100) if n % 11 == 5]
    taken = [n for n in range(100) if n % 7 == 0 and n not in wrong]
    assert [n for n, result in enumerate(results) if isinstance(result, Conflict)] == taken[1:]
    assert [n for n, result in enumerate(results) if result != [[]] and not isinstance(result, Conflict)] == wrong
    [row] = await db.read("SELECT COUNT(*) AS n FROM house_job")
    assert row["n"] == 100 - len(wrong) - len(taken) + 1
    await db.aclose()


async def test_a_write_whose_task_was_cancelled_stops_none_of_the_others(database_url: str):
    db = database(database_url)
    await db.open()
    tasks = [asyncio.create_task(db.write((PUT, (str(n), "x", 1.0)))) for n in range(100)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[1::2] == [[[{"id": str(n), "name": "x"}]] for n in range(1, 100, 2)]
    await db.write((PUT, ("last", "x", 1.0)))
    await db.aclose()


async def test_closing_waits_for_the_writes_of_before(database_url: str):
    db = database(database_url)
    await db.open()
    writes = [asyncio.create_task(db.write((PUT, (str(n), "x", 1.0)))) for n in range(300)]
    await asyncio.sleep(0)
    await db.aclose()
    assert len([rows for [rows] in await asyncio.gather(*writes) if rows]) == 300
    with pytest.raises(RuntimeError, match="the database is closed"):
        await db.read("SELECT 1 AS one")
    await db.open()
    assert await db.read("SELECT COUNT(*) AS n FROM house_job") == [{"n": 300}]
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


async def test_a_file_that_cannot_be_written_stops_the_start_with_the_fix(tmp_path: Path):
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
