"""The tables: which files run, when and once, what stops the start, and databases of before their prefix."""

import asyncio
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from config import ConfigError
from db import Conflict, Database, Row, database
from db.migrations import BEFORE_NAMES, TABLES, gaps, read_folder
from db.statements import statements
from store import Store
from tests.servers import Clock, write_tree
from worker import Worker

OURS = [f"db/tables/{file.name}" for file in sorted(TABLES.iterdir())]

TEAM = {
    "001_customers.sql": """
        -- who buys; and pays
        CREATE TABLE customer (id TEXT PRIMARY KEY, name TEXT NOT NULL);
        /* a ; of no meaning */
        INSERT INTO customer (id, name) VALUES ('c1', 'Ada; of London'), ('c2', 'it''s; Bob');
    """,
    "002_orders.sql": "CREATE TABLE purchase (id TEXT PRIMARY KEY, customer TEXT NOT NULL REFERENCES customer (id));",
    "010_total.sql": "ALTER TABLE purchase ADD COLUMN total BIGINT NOT NULL DEFAULT 0;",
}


def folder(root: Path, files: Mapping[str, str]) -> Path:
    return write_tree(root / "migrations", dict(files))


def names(*files: str) -> list[str]:
    return [f"migrations/{file}" for file in files]


async def opened(url: str, migrations: Path | None = None) -> Database:
    db = database(url)
    await db.open(migrations)
    return db


async def read(url: str, sql: str, *values: object) -> list[Row]:
    db = await opened(url)
    try:
        return await db.read(sql, *values)
    finally:
        await db.aclose()


async def tables(url: str) -> set[str]:
    """The names of every table, whoever made it."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as file:
            return {name for (name,) in file.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    return {row["name"] for row in await fetch(url, "SELECT relname AS name FROM pg_stat_user_tables")}


async def fetch(url: str, sql: str) -> Any:
    driver: Any = import_module("asyncpg")
    connection = await driver.connect(url)
    try:
        return await connection.fetch(sql)
    finally:
        await connection.close()


async def execute(url: str, script: str) -> None:
    """Run a script as another app would, past our own code."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as file:
            file.executescript(script)
        return
    driver: Any = import_module("asyncpg")
    connection = await driver.connect(url)
    try:
        await connection.execute(script)
    finally:
        await connection.close()


# A team's files.


async def test_a_teams_files_run_in_order_and_once(database_url: str, tmp_path: Path):
    migrations = folder(tmp_path, TEAM)
    assert await database(database_url).migrate(migrations) == [*OURS, *names(*TEAM)]
    assert await database(database_url).migrate(migrations) == []
    assert await database(database_url).pending(migrations) == []
    db = await opened(database_url, migrations)
    assert [row["name"] for row in await db.read("SELECT name FROM customer ORDER BY id")] == [
        "Ada; of London",
        "it's; Bob",
    ]
    await db.write(("INSERT INTO purchase (id, customer) VALUES ($1, $2)", ("o1", "c1")))
    assert await db.read("SELECT id, total FROM purchase") == [{"id": "o1", "total": 0}]
    await db.aclose()


async def test_an_earlier_number_that_comes_later_runs(database_url: str, tmp_path: Path):
    await database(database_url).migrate(folder(tmp_path, TEAM))
    migrations = folder(tmp_path, {"005_tags.sql": "CREATE TABLE tag (id TEXT PRIMARY KEY)"})
    assert await database(database_url).pending(migrations) == names("005_tags.sql")
    assert await database(database_url).migrate(migrations) == names("005_tags.sql")


async def test_a_file_that_was_changed_after_it_ran_stops_the_start_until_it_is_put_back(
    database_url: str, tmp_path: Path
):
    migrations = folder(tmp_path, TEAM)
    await database(database_url).migrate(migrations)
    folder(tmp_path, {"001_customers.sql": TEAM["001_customers.sql"] + "-- more"})
    for attempt in (database(database_url).open, database(database_url).migrate, database(database_url).pending):
        with pytest.raises(ConfigError, match=r"^migrations/001_customers\.sql was changed after it ran") as error:
            await attempt(migrations)
    assert "a new file with the next number" in str(error.value)
    (migrations / "001_customers.sql").write_bytes(TEAM["001_customers.sql"].replace("\n", "\r\n").encode())
    await (await opened(database_url, migrations)).aclose()  # a checkout on Windows is no change
    (migrations / "011_editor.sql").write_text("CREATE TABLE editor (id TEXT)", encoding="utf-8-sig")
    assert await database(database_url).migrate(migrations) == names("011_editor.sql")


async def test_a_file_that_fails_leaves_nothing_behind_and_runs_when_it_is_fixed(database_url: str, tmp_path: Path):
    half = "CREATE TABLE half (id TEXT);\n-- and\n\nINSERT INTO nowhere\n  VALUES (1);"
    migrations = folder(tmp_path, {**TEAM, "020_half.sql": half})
    with pytest.raises(ConfigError) as error:
        await database(database_url).open(migrations)
    assert str(error.value).startswith("migrations/020_half.sql, line 4: INSERT INTO nowhere: ")
    assert "nowhere" in str(error.value).split("INSERT INTO nowhere: ")[1]  # the database's own words
    found = await tables(database_url)
    assert {"customer", "purchase"} < found
    assert "half" not in found
    folder(tmp_path, {"020_half.sql": half.replace("nowhere", "half")})
    assert await database(database_url).migrate(migrations) == names("020_half.sql")


async def test_of_those_that_start_together_one_runs_each_file(database_url: str, tmp_path: Path):
    migrations = folder(tmp_path, TEAM)
    several = [database(database_url) for _ in range(4)]
    ran = await asyncio.gather(*(db.migrate(migrations) for db in several))
    assert sorted(name for some in ran for name in some) == sorted([*OURS, *names(*TEAM)])


async def test_a_file_of_python_reads_and_writes(database_url: str, tmp_path: Path):
    script = """
        async def migrate(db):
            await db.write(("CREATE TABLE person (id TEXT PRIMARY KEY, engine TEXT NOT NULL)", ()))
            for row in await db.read("SELECT id FROM customer WHERE id <> $1", "c2"):
                await db.write(("INSERT INTO person (id, engine) VALUES ($1, $2)", (row["id"], db.engine)))
    """.replace("\n        ", "\n")
    migrations = folder(tmp_path, {**TEAM, "011_people.py": script})
    db = await opened(database_url, migrations)
    engine = "sqlite" if database_url.startswith("sqlite") else "postgresql"
    assert await db.read("SELECT id, engine FROM person") == [{"id": "c1", "engine": engine}]
    await db.aclose()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("", "has no function 'migrate'. Write: async def migrate(db): ..."),
        (
            "async def migrate(db):\n    await db.write(('CREATE TABLE x (y TEXT)', ()))\n    raise LookupError('no')",
            "no",
        ),
    ],
)
async def test_a_file_of_python_that_fails_leaves_nothing_behind(
    database_url: str, tmp_path: Path, script: str, said: str
):
    with pytest.raises(ConfigError, match=r"^migrations/001_x\.py") as error:
        await database(database_url).open(folder(tmp_path, {"001_x.py": script}))
    assert said in str(error.value)
    assert "x" not in await tables(database_url)


@pytest.mark.parametrize("statement", ["BEGIN", "commit", "ROLLBACK TO x", "START TRANSACTION"])
async def test_a_file_cannot_leave_its_transaction(database_url: str, tmp_path: Path, statement: str):
    script = f"CREATE TABLE x (y TEXT);\n{statement};\nCREATE TABLE z (y TEXT);"
    with pytest.raises(ConfigError, match=r"line 2: .*: each file runs in a transaction of its own"):
        await database(database_url).open(folder(tmp_path, {"001_x.sql": script}))
    assert not {"x", "z"} & await tables(database_url)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["customers.sql"], ["migrations/customers.sql has no number"]),
        (["001.sql"], ["migrations/001.sql has no number"]),
        (["001_a.SQL"], ["migrations/001_a.SQL has no number"]),
        (["001_a.sql", "001_b.sql"], ["001_a.sql and migrations/001_b.sql have the same number"]),
        (["1_a.sql", "001_b.py"], ["have the same number"]),
        (["a.sql", "002_a.sql", "02_b.sql"], ["migrations/a.sql has no number", "have the same number"]),
    ],
)
def test_a_file_whose_place_is_not_certain_is_refused(tmp_path: Path, files: list[str], said: list[str]):
    with pytest.raises((ConfigError, ExceptionGroup)) as error:
        read_folder(folder(tmp_path, dict.fromkeys(files, "")), "migrations")
    problems = getattr(error.value, "exceptions", [error.value])
    for words, problem in zip(said, problems, strict=True):
        assert words in str(problem)


def test_a_gap_is_allowed_and_what_is_no_migration_is_left_alone(tmp_path: Path):
    files = [*TEAM, "README.md", "_draft.sql", ".hidden.sql", "003_old.sql.bak", "__init__.py"]
    found = read_folder(folder(tmp_path, dict.fromkeys(files, "")), "migrations")
    assert [migration.name for migration in found] == names(*TEAM)
    assert gaps(found) == ["003 to 009"]
    assert read_folder(tmp_path / "nothing", "migrations") == []


# A file's statements.


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("; ;; -- nothing\n /* here; */ ;", []),
        ("SELECT 1; SELECT 2", ["SELECT 1", "SELECT 2"]),
        ("-- one; two\nSELECT 1 -- three;\n;", ["SELECT 1 -- three;"]),
        ("SELECT ';', 'it''s;', \";\"; SELECT 2;", ["SELECT ';', 'it''s;', \";\"", "SELECT 2"]),
        ("SELECT 1 /* ; ' */; SELECT 2", ["SELECT 1 /* ; ' */", "SELECT 2"]),
        ("SELECT CASE WHEN 1 THEN 2 END; SELECT 2", ["SELECT CASE WHEN 1 THEN 2 END", "SELECT 2"]),
    ],
)
@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_a_file_is_split_where_its_statements_end(text: str, found: list[str], engine: Any):
    assert [statement.sql for statement in statements(text, engine)] == found


TRIGGER = """CREATE TRIGGER IF NOT EXISTS t AFTER INSERT ON a WHEN CASE NEW.end WHEN 1 THEN 1 END BEGIN
  UPDATE a SET b = CASE WHEN 1 THEN ';' ELSE 2 END;
  DELETE FROM a;
END"""
FUNCTION = "CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END"


@pytest.mark.parametrize(
    ("engine", "statement"),
    [
        ("sqlite", TRIGGER),
        ("sqlite", "SELECT [a;b], `c;d`"),
        ("sqlite", "SELECT 1 /* /* ; */"),
        ("postgresql", FUNCTION),
        ("postgresql", "DO $$ BEGIN PERFORM 1; END $$"),
        ("postgresql", "CREATE FUNCTION g() RETURNS int AS $f$ SELECT '$$;'; $f$ LANGUAGE sql"),
        ("postgresql", "SELECT E'it\\'s; ', e'\\\\', U&'\\0041;'"),
        ("postgresql", "SELECT 1 /* /* ; */ ; */"),
        ("postgresql", "CREATE TRIGGER t AFTER INSERT ON a FOR EACH ROW EXECUTE FUNCTION begin_work()"),
    ],
)
def test_what_has_semicolons_inside_is_one_statement(engine: Any, statement: str):
    found = statements(f"SELECT 1;\n{statement};\nSELECT 2;", engine)
    assert [(one.sql, one.line) for one in found[:2]] == [("SELECT 1", 1), (statement, 2)]
    assert found[2].sql == "SELECT 2"
    if engine == "sqlite":
        assert sqlite3.complete_statement(statement + ";")


# Databases of before the prefix, and other people's.


@pytest.fixture
def older(database_url: str) -> str:
    """A database that the code of 26 November 2026 filled."""
    engine = "sqlite" if database_url.startswith("sqlite") else "postgresql"
    script = (Path(__file__).parent / "older" / f"{engine}.sql").read_text(encoding="utf-8")
    asyncio.run(execute(database_url, script))
    return database_url


async def test_a_database_of_before_the_prefix_is_taken_over_with_all_its_rows(older: str, clock: Clock):
    before = await tables(older)
    clock.now += 60
    db = await opened(older)
    try:
        _, messages = await Store(db, clock).conversation("greeting", "web", None)
        assert [(row["role"], row["content"], row["state"]) for row in messages][:4] == [
            ("user", "Hi", "done"),
            ("assistant", "Hello; it's me\n-- yes", "done"),
            ("user", "Grüße 👋🏽", "done"),
            ("assistant", "", "error"),
        ]
        overview = await Worker(db, {}, clock=clock).overview()
        assert [row["id"] for row in overview["failed"]] == ["dead-letter"]
        assert await db.read("SELECT id FROM house_job WHERE done_at IS NULL ORDER BY created_at, id") == [
            {"id": id} for id in ("cron:daily:2026-03-01T09:00:00+00:00", "waits-1", "waits-2", "later")
        ]
        assert [row["name"] for row in await db.read("SELECT name FROM house_migration ORDER BY name")] == OURS
        assert await db.read("SELECT version FROM migration ORDER BY version") == [
            {"version": n} for n in range(1, BEFORE_NAMES + 1)
        ]
        now = await tables(older)
        assert before <= now
        assert not {"house_job", "house_message", "house_conversation"} & now
    finally:
        await db.aclose()
    assert await database(older).migrate() == []


async def test_a_database_that_had_two_of_the_three_numbers_gets_the_third(older: str):
    indexes = "DROP INDEX job_due; CREATE INDEX job_due ON job (run_at) WHERE done_at IS NULL; DROP INDEX job_waiting;"
    waiting = "CREATE INDEX job_waiting ON job (lane, created_at) WHERE done_at IS NULL; "
    await execute(older, indexes + waiting)
    await execute(older, "DELETE FROM migration WHERE version = 3")
    assert await database(older).migrate() == OURS[2:]
    assert await read(older, "SELECT version FROM migration ORDER BY version") == [{"version": n} for n in (1, 2, 3)]


OTHERS = """
    CREATE TABLE message (id TEXT PRIMARY KEY, body TEXT);
    CREATE TABLE job (id BIGINT PRIMARY KEY, queue TEXT);
    CREATE TABLE conversation (id TEXT PRIMARY KEY, title TEXT);
    CREATE TABLE migration (id TEXT PRIMARY KEY, checksum TEXT);
    INSERT INTO job (id, queue) VALUES (1, 'theirs');
"""


async def test_another_apps_tables_of_the_same_names_are_left_alone(database_url: str):
    await execute(database_url, OTHERS)
    db = await opened(database_url)
    await db.write(
        ("INSERT INTO house_job (id, name, payload, run_at, attempts, created_at) VALUES ('a', 'x', '', 0, 0, 0)", ())
    )
    with pytest.raises(Conflict):
        await db.write(("INSERT INTO job (id, queue) VALUES (1, 'ours')", ()))
    assert await db.read("SELECT id, queue FROM job") == [{"id": 1, "queue": "theirs"}]
    await db.aclose()


async def test_a_first_start_among_prismas_tables_says_that_prisma_may_drop_ours(
    database_url: str, caplog: pytest.LogCaptureFixture
):
    await execute(database_url, "CREATE TABLE _prisma_migrations (id TEXT PRIMARY KEY, checksum TEXT)")
    for _ in range(2):
        await (await opened(database_url)).aclose()
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 1
    place = "add schema=house to DATABASE_URL" if database_url.startswith("postgresql") else "name another file in"
    assert "prisma migrate dev, migrate reset and db push drop ours" in said[0]
    assert place in said[0]
