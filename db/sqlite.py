"""A SQLite file, through one thread that writes and one that reads.

What waits together is committed together: one fsync for all of it, which gives `synchronous=FULL` its speed back.
"""

import asyncio
import contextlib
import os
import queue
import re
import sqlite3
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from config import HERE, ConfigError
from db import names
from db.contract import Conflict, Engine, Row, Statement
from db.migrations import is_older, migrate, pending, read_migrations
from db.wakeups import LOOKS, Callback, Listeners

T = TypeVar("T")

OLDEST = (3, 35, 0)  # RETURNING, and DROP COLUMN
PATIENCE = 600.0  # seconds that a start waits for the migrations of another process
RECENT = round(3 * LOOKS * 1e9)  # nanoseconds: the clock of a file system may be a little slow
LARGEST = 256  # jobs that are committed together, but for those of one turn of the event loop
LOG_SIZE = 8 * 2**20  # bytes that app.db-wal shrinks to again after a reader was open for long
# a marker, where it does not stand in a text, a quoted name or a comment
MARKER = re.compile(
    r"""'[^']*'|"[^"]*"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?(?:\*/|\Z)|(?<!\w)\$(?P<number>[1-9]\d*)\b""", re.S
)
UNIQUE = (sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_ROWID)


class SQLite:
    """A SQLite file: one thread that writes, one that reads."""

    engine: Engine = "sqlite"
    skip_locked = ""  # there is one writer at a time
    hears = True

    def __init__(self, url: str) -> None:
        if sqlite3.sqlite_version_info < OLDEST:
            raise ConfigError(
                f"DATABASE_URL: this Python has SQLite {sqlite3.sqlite_version}, and 3.35 or later is needed. "
                "Take a newer Python, or a PostgreSQL server."
            )
        self.path = sqlite_path(url)
        self._file = (0, 0)  # what the path named when it was opened
        self._writer = _Thread(self.path, writes=True)
        self._reader = _Thread(self.path, writes=False)
        self._named: Callable[[str], str] = names.as_written
        self._listeners = Listeners(self._watch)

    async def open(self, folder: Path | None = None) -> None:
        """Open the file, made where there is none, and run the migrations that did not run yet.

        Raises `ConfigError`.
        """
        await self.migrate(folder)
        async with self._explained():
            await self._writer.start()
            await self._reader.start()
            self._file = identity(self.path)

    async def migrate(self, folder: Path | None = None) -> list[str]:
        found = read_migrations(folder)
        return await self._with_session(lambda session: migrate(session, found))

    async def pending(self, folder: Path | None = None) -> list[str]:
        found = read_migrations(folder)
        if not self.path.exists():
            async with self._explained():
                await asyncio.to_thread(try_to_make, self.path)
            return [migration.name for migration in found]
        return [migration.name for migration in await self._with_session(lambda session: pending(session, found))]

    async def _with_session(self, use: Callable[["_Session"], Awaitable[T]]) -> T:
        """Use one connection of its own, which waits longer than a request may."""
        async with self._explained():
            session = _Session(await asyncio.to_thread(_connect, self.path, patience=PATIENCE, shared=True))
            try:
                if await is_older(session):
                    self._named = session.named = names.without_prefix
                return await use(session)
            finally:
                await asyncio.to_thread(session.connection.close)

    @asynccontextmanager
    async def _explained(self) -> AsyncGenerator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as exc:
            await self.aclose()
            if getattr(exc, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise ConfigError(
                    f"DATABASE_URL: {self.path} is no SQLite database, or it is damaged: {exc}. "
                    "Name another file, or put a backup in its place."
                ) from exc
            raise ConfigError(
                f"DATABASE_URL: {self.path} cannot be opened for writing: {exc}. "
                "Give this user write permission for its folder, or name another file."
            ) from exc

    async def aclose(self) -> None:
        await self._listeners.aclose()
        await self._writer.stop()
        await self._reader.stop()

    async def read(self, sql: str, *values: object) -> list[Row]:
        """Run one query on what has been committed."""
        return (await self._reader.run([(self._named(sql), values)]))[0]

    async def write(self, *statements: Statement) -> list[list[Row]]:
        """Run statements in one transaction; the rows that each returned. They are on disk when this returns."""
        return await self._writer.run([(self._named(sql), values) for sql, values in statements])

    async def try_write(self) -> None:
        """Find out whether a write would be kept. Raises where it would not, after two seconds at most."""
        if identity(self.path) != self._file:
            raise FileNotFoundError(f"{self.path} was deleted or replaced under the app: restart it")
        async with asyncio.timeout(2.0):
            await self._writer.run(())  # takes the lock of writers, and gives it back

    def listen(self, name: str, callback: Callback) -> Callable[[], None]:
        """Call back when another process may have changed something, of whatever name; returns what ends it."""
        return self._listeners.add(name, callback)

    async def notify(self, name: str) -> None:
        """Nothing is to be done: other processes see in the file itself that it changed."""

    async def _watch(self) -> None:
        """Look ten times a second, while somebody listens, whether another connection wrote.

        What is written goes into the log first: SQLite is asked where that was written lately, and once a second.
        """
        log, before = f"{self.path}-wal", None
        while True:
            for look in range(round(1 / LOOKS)):
                at = written_at(log)
                if not look or at is None or time.time_ns() - at < RECENT:
                    with contextlib.suppress(sqlite3.Error):  # who writes does not see its own writes in it
                        [[row]] = await self._writer.run([("PRAGMA data_version", ())])
                        if before not in (None, row["data_version"]):
                            self._listeners.wake()
                        before = row["data_version"]
                await asyncio.sleep(LOOKS)


def written_at(path: str) -> int | None:
    """When a file was last written to, in nanoseconds of Unix time; None where it is not there."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None


def identity(path: Path) -> tuple[int, int]:
    """Tell a file from another one that takes its name. Raises `OSError`."""
    found = path.stat()
    return found.st_dev, found.st_ino


def sqlite_path(url: str) -> Path:
    """Return the file that a URL names: sqlite:///data/app.db below the project, sqlite:////var/app.db elsewhere."""
    return HERE / url.removeprefix("sqlite:///")


class _Job:
    """Statements that one task waits for."""

    def __init__(self, statements: Sequence[Statement], future: "asyncio.Future[list[list[Row]]]") -> None:
        self.statements = statements
        self.future = future
        self.result: list[list[Row]] | BaseException = []


class _Thread:
    """One connection in a thread of its own, fed by a queue: one group for each turn of the event loop."""

    def __init__(self, path: Path, *, writes: bool) -> None:
        self.path = path
        self.writes = writes
        self.asked: list[_Job] = []  # in this turn of the loop
        self.groups: queue.SimpleQueue[list[_Job] | None] = queue.SimpleQueue()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread: threading.Thread | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = loop.create_future()
        self.thread = threading.Thread(
            target=self._work, args=(opened, loop), name=f"sqlite-{self.path.name}", daemon=True
        )
        self.thread.start()
        await opened
        self.loop = loop

    async def stop(self) -> None:
        thread, self.thread, self.loop = self.thread, None, None
        if thread is not None:
            self._send()
            self.groups.put(None)
            await asyncio.to_thread(thread.join)

    async def run(self, statements: Sequence[Statement]) -> list[list[Row]]:
        """Run statements in one transaction, together with what others ask for in this turn of the loop."""
        loop = self.loop
        if loop is None:
            raise RuntimeError("the database is closed")
        if asyncio.get_running_loop() is not loop:  # a plain job's thread may have one of its own, by `asyncio.run`
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.run(statements), loop))
        job = _Job(statements, loop.create_future())
        self.asked.append(job)
        if len(self.asked) == 1:
            loop.call_soon(self._send)
        return await job.future

    def _send(self) -> None:
        if self.asked:
            self.groups.put(self.asked)
            self.asked = []

    def _work(self, opened: "asyncio.Future[None]", loop: asyncio.AbstractEventLoop) -> None:
        try:
            connection = self._connect()
        except BaseException as exc:
            loop.call_soon_threadsafe(opened.set_exception, exc)
            return
        loop.call_soon_threadsafe(opened.set_result, None)
        last = False
        while not last and (group := self.groups.get()) is not None:
            while len(group) < LARGEST and not self.groups.empty():
                if (more := self.groups.get()) is None:
                    last = True
                    break
                group += more
            self._run(connection, group)
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits
                loop.call_soon_threadsafe(_resolve, group)
        connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = _connect(self.path)
        connection.execute("PRAGMA foreign_keys=1" if self.writes else "PRAGMA query_only=1")
        return connection

    def _run(self, connection: sqlite3.Connection, group: Sequence[_Job]) -> None:
        if not self.writes or (len(group) == 1 and len(group[0].statements) == 1):  # which is a transaction by itself
            for job in group:
                job.result = _attempt(connection, job)
            return
        try:
            connection.execute("BEGIN IMMEDIATE")
            for job in group:
                job.result = _attempt_within(connection, job)
            connection.execute("COMMIT")
        except BaseException as exc:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            for job in group:
                job.result = exc


class _Session:
    """One connection, for migrations."""

    engine: Engine = "sqlite"

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.named: Callable[[str], str] = names.as_written

    async def read(self, sql: str, *values: object) -> list[Row]:
        return await asyncio.to_thread(_rows, self.connection, self.named(sql), values)

    async def write(self, *statements: Statement) -> list[list[Row]]:
        """Run statements in the transaction of the migration."""
        return [await self.read(sql, *values) for sql, values in statements]

    async def columns(self, table: str) -> set[str]:
        """Return the names of a table's columns; none where there is no such table."""
        rows = await asyncio.to_thread(_rows, self.connection, "SELECT name FROM pragma_table_info($1)", (table,))
        return {row["name"] for row in rows}

    @asynccontextmanager
    async def locked(self) -> AsyncGenerator[None]:
        """Run a block in one transaction, while no other process is in such a block."""
        await self.read("BEGIN IMMEDIATE")
        try:
            yield
            await self.read("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise


def _make_file(path: Path) -> None:
    """Make a file that only its owner reads, and the folders that it needs; SQLite gives its logs the same mode."""
    for folder in reversed(path.parents):
        if not folder.is_dir():
            folder.mkdir(mode=0o700, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def try_to_make(path: Path) -> None:
    """Make a file and its folders, and take them away again. Raises `OSError`."""
    new = [folder for folder in path.parents if not folder.is_dir()]
    _make_file(path)
    path.unlink()
    for folder in new:
        folder.rmdir()


def _connect(path: Path, *, patience: float = 30.0, shared: bool = False) -> sqlite3.Connection:
    _make_file(path)
    connection = sqlite3.connect(path, timeout=patience, isolation_level=None, check_same_thread=not shared)
    try:
        _use_wal(connection)
        connection.execute("PRAGMA synchronous=FULL")  # with NORMAL a power cut takes what was acknowledged
        connection.execute(f"PRAGMA journal_size_limit={LOG_SIZE}")
    except BaseException:  # a file that is no database shows it here
        connection.close()
        raise
    return connection


def _rows(connection: sqlite3.Connection, sql: str, values: Sequence[object]) -> list[Row]:
    text, order, count = _by_position(sql) if values else (sql, [], 0)
    if len(values) != count:
        raise sqlite3.ProgrammingError(f"the SQL has values up to ${count}, and {len(values)} follow it")
    cursor = connection.execute(text, [values[i] for i in order] if order else values)
    if cursor.description is None:
        return []
    keys = [column[0] for column in cursor.description]
    return [dict(zip(keys, row, strict=True)) for row in cursor]


@lru_cache(maxsize=1024)
def _by_position(sql: str) -> tuple[str, list[int], int]:
    """Write ``?`` for each marker: the text, whose value each one is (empty: in their order), how many values it has.

    To SQLite ``$1`` is a name: a dict of six values costs 1 us more than the values themselves.
    """
    found: list[int] = []

    def write(part: re.Match[str]) -> str:
        if part["number"] is None:
            return part[0]
        found.append(int(part["number"]) - 1)
        return "?"

    text = MARKER.sub(write, sql)
    count = max(found, default=-1) + 1
    return text, [] if found == list(range(count)) else found, count


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
        return [_rows(connection, sql, values) for sql, values in job.statements]
    except sqlite3.IntegrityError as exc:
        return Conflict(str(exc)) if exc.sqlite_errorcode in UNIQUE else exc
    except BaseException as exc:
        return exc


def _attempt_within(connection: sqlite3.Connection, job: _Job) -> list[list[Row]] | BaseException:
    """Run a job's statements in the transaction of a group; where one fails, none of the job's is kept.

    A single statement that fails takes itself back, and needs no savepoint, which is two more calls: before each call
    the thread waits for the interpreter's lock, up to 5 ms while the event loop is busy.
    """
    if len(job.statements) == 1:
        result = _attempt(connection, job)
        if isinstance(result, BaseException) and not connection.in_transaction:  # a full disk takes back everything
            raise result
        return result
    connection.execute("SAVEPOINT job")
    result = _attempt(connection, job)
    if isinstance(result, BaseException):
        connection.execute("ROLLBACK TO job")
    connection.execute("RELEASE job")
    return result


def _resolve(group: Sequence[_Job]) -> None:
    for job in group:
        if job.future.done():  # its task was cancelled
            continue
        if isinstance(job.result, BaseException):
            job.future.set_exception(job.result)
        else:
            job.future.set_result(job.result)
