"""A SQLite file, through one thread that writes and one that reads."""

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from config import HERE, ConfigError
from db import names
from db.contract import Engine, Row, Statement
from db.migrations import is_older, migrate, pending, read_migrations
from db.thread import Thread, connect, make_file, rows_of
from db.wakeups import LOOKS, Callback, Listeners

T = TypeVar("T")

OLDEST = (3, 35, 0)  # RETURNING, and DROP COLUMN
PATIENCE = 600.0  # seconds that a start waits for the migrations of another process
RECENT = round(4 * LOOKS * 1e9)  # nanoseconds: the clock of a file system may be a little slow


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
        self._writer = Thread(self.path, writes=True)
        self._reader = Thread(self.path, writes=False)
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
            session = _Session(await asyncio.to_thread(connect, self.path, patience=PATIENCE, shared=True))
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
        """Look twenty times a second, while somebody listens, whether another connection wrote.

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


class _Session:
    """One connection, for migrations."""

    engine: Engine = "sqlite"

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.named: Callable[[str], str] = names.as_written

    async def read(self, sql: str, *values: object) -> list[Row]:
        return await asyncio.to_thread(rows_of, self.connection, self.named(sql), values)

    async def write(self, *statements: Statement) -> list[list[Row]]:
        """Run statements in the transaction of the migration."""
        return [await self.read(sql, *values) for sql, values in statements]

    async def columns(self, table: str) -> set[str]:
        """Return the names of a table's columns; none where there is no such table."""
        rows = await asyncio.to_thread(rows_of, self.connection, "SELECT name FROM pragma_table_info($1)", (table,))
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


def try_to_make(path: Path) -> None:
    """Make a file and its folders, and take them away again. Raises `OSError`."""
    new = [folder for folder in path.parents if not folder.is_dir()]
    make_file(path)
    path.unlink()
    for folder in new:
        folder.rmdir()
