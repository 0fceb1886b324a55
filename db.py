"""The database: a SQLite file or a PostgreSQL server, with one SQL text for both.

That text keeps to what both accept: markers ``$1, $2``, ``ON CONFLICT``, ``RETURNING``, and a ``CAST`` where
PostgreSQL could not tell a parameter's type. A write is a list of statements that happen together or not at all,
and what it acknowledges has reached the disk. On SQLite the writes run in one thread, and what waits together is
committed together: one fsync for all of them, which gives `synchronous=FULL` its speed back.
"""

import asyncio
import contextlib
import queue
import re
import sqlite3
import threading
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from config import HERE, ConfigError

Row = dict[str, Any]
Statement = tuple[str, Sequence[object]]

MIGRATIONS: Sequence[Sequence[str]] = (
    (
        """CREATE TABLE conversation (
             id TEXT PRIMARY KEY,
             channel TEXT NOT NULL,
             channel_id TEXT,
             model TEXT NOT NULL,
             created_at DOUBLE PRECISION NOT NULL)""",
        "CREATE INDEX conversation_newest ON conversation (channel, created_at, id)",
        """CREATE TABLE message (
             conversation_id TEXT NOT NULL,
             seq BIGINT NOT NULL,               -- 1, 2, 3 ... a question is followed by its answer
             role TEXT NOT NULL,
             content TEXT NOT NULL,
             state TEXT NOT NULL,               -- done, left, error, stopped; running while it is written
             message_id TEXT,                   -- the client's own, which makes a repeat harmless
             turn TEXT NOT NULL,                -- who writes the answer; fences a late writer
             created_at DOUBLE PRECISION NOT NULL,
             touched_at DOUBLE PRECISION NOT NULL,
             PRIMARY KEY (conversation_id, seq))""",
        "CREATE UNIQUE INDEX message_once ON message (conversation_id, message_id)",
        "CREATE INDEX message_turn ON message (turn)",
    ),
    (
        """CREATE TABLE job (
             id TEXT PRIMARY KEY,               -- the dedup key: 'telegram:42', 'cron:daily:2026-11-23T08:00:00+00:00'
             name TEXT NOT NULL,
             lane TEXT,
             payload TEXT NOT NULL,
             run_at DOUBLE PRECISION NOT NULL,  -- when it is due; while it is claimed, when the claim lapses
             attempts INTEGER NOT NULL,
             token TEXT,                        -- the claim; fences a late writer
             done_at DOUBLE PRECISION,
             error TEXT,
             created_at DOUBLE PRECISION NOT NULL)""",
        "CREATE INDEX job_due ON job (run_at) WHERE done_at IS NULL",
        "CREATE INDEX job_done ON job (done_at) WHERE done_at IS NOT NULL",
        "CREATE INDEX job_waiting ON job (lane, created_at) WHERE done_at IS NULL",
        "CREATE UNIQUE INDEX job_lane ON job (lane) WHERE token IS NOT NULL",  # one runs in a lane
    ),
    (  # in the order that a claim asks for, so that none of the rows that wait is read but the first (bench/claims.py)
        "DROP INDEX job_due",
        "CREATE INDEX job_due ON job (run_at, id) WHERE done_at IS NULL",
        "DROP INDEX job_waiting",
        "CREATE INDEX job_waiting ON job (lane, created_at, id) WHERE done_at IS NULL",
    ),
    (
        # a conversation is its owner's: equal ids of two owners are two; the column id is a key that no client sees
        "ALTER TABLE house_conversation ADD COLUMN client_id TEXT",  # NULL in older rows: id is both
        "CREATE UNIQUE INDEX house_conversation_owned "
        "ON house_conversation (channel, COALESCE(channel_id, ''), COALESCE(client_id, id))",
        "CREATE INDEX house_conversation_newest_of "
        "ON house_conversation (channel, COALESCE(channel_id, ''), created_at, id)",
    ),
)


class Conflict(Exception):
    """A row of that key is there already. Nothing of the write was kept."""


class Database(Protocol):
    """What both engines are. `open` it, `read` and `write` from any task, and `aclose` it."""

    skip_locked: str  # what a claim adds on an engine that locks rows

    async def open(self) -> None:
        """Open it, and bring its tables up to date. Raises `ConfigError`."""

    async def aclose(self) -> None: ...

    async def read(self, sql: str, *values: object) -> list[Row]:
        """Run one query on what has been committed."""
        ...

    async def write(self, *statements: Statement) -> list[list[Row]]:
        """Run statements in one transaction; the rows that each returned. They are on disk when this returns.

        Raises `Conflict`.
        """
        ...


def database(url: str) -> Database:
    """Return the database that a URL names, not yet opened. Raises `ConfigError` where its driver is missing."""
    return SQLite(url) if url.startswith("sqlite:") else PostgreSQL(url)


def _named(sql: str) -> str:
    """Our tables have no prefix yet; the statements name them with it."""
    return sql.replace("house_", "")


async def migrate(db: Database, *first: Statement) -> None:
    """Bring the tables up to date, one transaction a version; ``first`` is what each of them begins with."""
    await db.write(*first, ("CREATE TABLE IF NOT EXISTS migration (version BIGINT PRIMARY KEY)", ()))
    [rows] = await db.write(("SELECT version FROM migration", ()))
    done = {row["version"] for row in rows}
    for version, statements in enumerate(MIGRATIONS, 1):
        if version in done:
            continue
        note = ("INSERT INTO migration (version) VALUES ($1)", (version,))
        with contextlib.suppress(Conflict):  # another process was quicker, and its note takes this transaction back
            await db.write(*first, note, *((sql, ()) for sql in statements))


class SQLite:
    """A SQLite file: one thread that writes, one that reads."""

    skip_locked = ""  # there is one writer at a time

    def __init__(self, url: str) -> None:
        self.path = sqlite_path(url)
        self._writer = _Thread(self.path, writes=True)
        self._reader = _Thread(self.path, writes=False)

    async def open(self) -> None:
        """Open the file, made where there is none, and bring its tables up to date. Raises `ConfigError`."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            await self._writer.start()
            await migrate(self)
            await self._reader.start()
        except (OSError, sqlite3.Error) as exc:
            await self.aclose()
            raise ConfigError(
                f"DATABASE_URL: {self.path} cannot be opened for writing: {exc}. "
                "Give this user write permission for its folder, or name another file."
            ) from exc

    async def aclose(self) -> None:
        await self._writer.stop()
        await self._reader.stop()

    async def read(self, sql: str, *values: object) -> list[Row]:
        """Run one query on what has been committed."""
        return (await self._reader.run([(sql, values)]))[0]

    async def write(self, *statements: Statement) -> list[list[Row]]:
        """Run statements in one transaction; the rows that each returned. They are on disk when this returns."""
        return await self._writer.run(statements)


def sqlite_path(url: str) -> Path:
    """Return the file that a URL names: sqlite:///data/app.db below the project, sqlite:////var/app.db elsewhere."""
    return HERE / url.removeprefix("sqlite:///")


class _Job:
    """Statements that one task waits for."""

    def __init__(self, statements: Sequence[Statement]) -> None:
        self.statements = statements
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[list[list[Row]]] = self.loop.create_future()
        self.result: list[list[Row]] | BaseException = []


class _Thread:
    """One connection in a thread of its own, fed by a queue."""

    def __init__(self, path: Path, *, writes: bool) -> None:
        self.path = path
        self.writes = writes
        self.jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self.thread: threading.Thread | None = None

    async def start(self) -> None:
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.thread = threading.Thread(
            target=self._work, args=(opened, asyncio.get_running_loop()), name=f"sqlite-{self.path.name}", daemon=True
        )
        self.thread.start()
        await opened

    async def stop(self) -> None:
        thread, self.thread = self.thread, None
        if thread is not None:
            self.jobs.put(None)
            await asyncio.to_thread(thread.join)

    async def run(self, statements: Sequence[Statement]) -> list[list[Row]]:
        if self.thread is None:
            raise RuntimeError("the database is closed")
        job = _Job(statements)
        self.jobs.put(job)
        return await job.future

    def _work(self, opened: "asyncio.Future[None]", loop: asyncio.AbstractEventLoop) -> None:
        try:
            connection = self._connect()
        except BaseException as exc:
            loop.call_soon_threadsafe(opened.set_exception, exc)
            return
        loop.call_soon_threadsafe(opened.set_result, None)
        last = False
        while not last and (first := self.jobs.get()) is not None:
            batch = [first]
            while len(batch) < 256:
                try:
                    more = self.jobs.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    last = True
                    break
                batch.append(more)
            self._run(connection, batch)
            for waiting in {job.loop for job in batch}:
                waiting.call_soon_threadsafe(_resolve, [job for job in batch if job.loop is waiting])
        connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        try:
            _use_wal(connection)
            connection.execute("PRAGMA synchronous=FULL")  # with NORMAL a power cut takes what was acknowledged
            if not self.writes:
                connection.execute("PRAGMA query_only=1")
        except BaseException:  # a file that is no database shows it here
            connection.close()
            raise
        return connection

    def _run(self, connection: sqlite3.Connection, batch: Sequence[_Job]) -> None:
        if not self.writes or (len(batch) == 1 and len(batch[0].statements) == 1):  # which is a transaction by itself
            for job in batch:
                job.result = _attempt(connection, job)
            return
        try:
            connection.execute("BEGIN IMMEDIATE")
            for job in batch:
                connection.execute("SAVEPOINT job")
                job.result = _attempt(connection, job)
                if isinstance(job.result, BaseException):
                    connection.execute("ROLLBACK TO job")
                connection.execute("RELEASE job")
            connection.execute("COMMIT")
        except BaseException as exc:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            for job in batch:
                job.result = exc


def _use_wal(connection: sqlite3.Connection, patience: float = 30.0) -> None:
    """Switch to write-ahead logging; SQLite does not wait by itself when two switch a new file at once."""
    until = time.monotonic() + patience
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)


def _attempt(connection: sqlite3.Connection, job: _Job) -> list[list[Row]] | BaseException:
    try:
        results: list[list[Row]] = []
        for sql, values in job.statements:
            cursor = connection.execute(_named(sql), {str(i): value for i, value in enumerate(values, 1)})
            names = [column[0] for column in cursor.description or ()]
            results.append([dict(zip(names, row, strict=True)) for row in cursor])
        return results
    except sqlite3.IntegrityError as exc:
        return Conflict(str(exc))
    except BaseException as exc:
        return exc


def _resolve(batch: Sequence[_Job]) -> None:
    for job in batch:
        if job.future.done():  # its task was cancelled
            continue
        if isinstance(job.result, BaseException):
            job.future.set_exception(job.result)
        else:
            job.future.set_result(job.result)


class PostgreSQL:
    """A PostgreSQL server, through `asyncpg`, which is installed with the extra ``postgres``."""

    skip_locked = " FOR UPDATE OF j SKIP LOCKED"

    def __init__(self, url: str) -> None:
        self.url = url
        self._pool: Any = None
        try:
            self._driver: Any = import_module("asyncpg")  # it comes without type stubs
        except ImportError:
            raise ConfigError(
                "DATABASE_URL names a PostgreSQL server, but its driver is not installed. "
                """Install it: .venv/bin/python -m pip install -c constraints.txt ".[postgres]\""""
            ) from None
        self._conflict: type[Exception] = self._driver.UniqueViolationError

    async def open(self) -> None:
        driver = self._driver
        try:
            url, options = _asyncpg_options(self.url)
            self._pool = await driver.create_pool(
                url, min_size=1, max_size=10, timeout=10, command_timeout=30, **options
            )
            # replicas that start together wait for each other: CREATE TABLE IF NOT EXISTS alone is not safe
            await migrate(self, ("SELECT pg_advisory_xact_lock(7204093714)", ()))
        except (OSError, ValueError, driver.PostgresError, driver.InterfaceError) as exc:
            where = re.sub(r"//[^@/]*@", "//...@", self.url)
            raise ConfigError(
                f"DATABASE_URL: {where} cannot be used: {type(exc).__name__}: {exc}. "
                "Start the server, or mend the URL: postgresql://user:password@host:5432/name"
            ) from exc

    async def aclose(self) -> None:
        if self._pool is not None:
            await self._pool.close()

    async def read(self, sql: str, *values: object) -> list[Row]:
        return [dict(row) for row in await self._pool.fetch(_named(sql), *values)]

    async def write(self, *statements: Statement) -> list[list[Row]]:
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                return [
                    [dict(row) for row in await connection.fetch(_named(sql), *values)] for sql, values in statements
                ]
        except self._conflict as exc:
            raise Conflict(str(exc)) from exc


def _asyncpg_options(url: str) -> tuple[str, dict[str, int]]:
    """Take out of a URL what is the driver's: ``statement_cache_size=0``, for PgBouncer's transaction mode."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if "statement_cache_size" not in query:
        return url, {}
    size = int(query.pop("statement_cache_size"))
    return urlunsplit(parts._replace(query=urlencode(query))), {"statement_cache_size": size}
