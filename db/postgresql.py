"""A PostgreSQL server, through `asyncpg`, which is installed with the extra ``postgres``."""

import asyncio
import logging
import re
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from config import ConfigError
from db import names
from db.contract import Conflict, Engine, Row, Statement
from db.grouping import Groups, Refused
from db.migrations import is_older, migrate, pending, read_migrations
from db.pool import Pool
from db.url import EXAMPLE, read_url
from db.wakeups import Callback, Channel

logger = logging.getLogger("db")

T = TypeVar("T")

LOCK = 7204093714  # the same number in every version of the house: processes that start together wait for each other
PATIENCE = 2.0  # seconds that a look at the server may take
OURS = re.compile(r"\s*(INSERT INTO|UPDATE|DELETE FROM) house_\w+")  # what may be committed in groups
RETURNING = re.compile(r"\bRETURNING\b")


class Unreachable(ConnectionError):
    """The server cannot be connected to. The message has no user and no password in it."""


class PostgreSQL:
    """A PostgreSQL server and its pool of connections."""

    engine: Engine = "postgresql"
    skip_locked = " FOR UPDATE OF j SKIP LOCKED"

    def __init__(self, url: str, pool: int = 10) -> None:
        self.target = read_url(url)
        self.hears = not self.target.pooled  # a pooler of transactions forgets who listens
        self.size = self.target.pool or pool
        self._pool = Pool(self._connect, self.size, self.target.pool_timeout)
        self._named: Callable[[str], str] = names.as_written
        self._loop: asyncio.AbstractEventLoop | None = None  # which the connections are of
        try:
            self._driver: Any = import_module("asyncpg")  # it comes without type stubs
        except ImportError:
            raise ConfigError(
                "DATABASE_URL names a PostgreSQL server, but its driver is not installed. "
                """Install it: .venv/bin/python -m pip install -c constraints.txt ".[postgres]\""""
            ) from None
        self._groups = Groups(self._run_one, self._run_many, at_once=min(2, self.size))
        self._channel = Channel(self._connect, self._run_one)

    # Opening and closing.

    async def open(self, folder: Path | None = None) -> None:
        """Run the migrations that did not run yet, and open the pool. Raises `ConfigError`."""
        self._loop = asyncio.get_running_loop()
        await self.migrate(folder)
        if self.target.binding:
            logger.warning("channel_binding=require is not checked by the driver: sslmode=verify-full is")
        async with self._explained():
            self._pool.open()
            try:
                await self._run_one("SELECT 1 AS one", ())  # the first connection, with all the time that the URL gives
            except BaseException:
                await self.aclose()
                raise

    async def migrate(self, folder: Path | None = None) -> list[str]:
        """Run the migrations that did not run yet, and return their names. Raises `ConfigError`."""
        found = read_migrations(folder)
        return await self._with_session(lambda session: migrate(session, found))

    async def pending(self, folder: Path | None = None) -> list[str]:
        """Return the names of the migrations that did not run yet. Raises `ConfigError`."""
        found = read_migrations(folder)
        return [migration.name for migration in await self._with_session(lambda session: pending(session, found))]

    async def aclose(self) -> None:
        await self._channel.aclose()
        await self._groups.aclose()
        await self._pool.aclose()

    async def _with_session(self, use: Callable[["_Session"], Awaitable[T]]) -> T:
        """Use one connection of its own: a migration may take longer than a request's statement."""
        async with self._explained():
            connection = await self._connect(statement_cache_size=0, command_timeout=None)
            try:
                session = _Session(connection, self.target.schema)
                await self._look_around(connection)
                if await is_older(session):
                    self._named = session.named = names.without_prefix
                return await use(session)
            finally:
                await connection.close()

    async def _look_around(self, connection: Any) -> None:
        """Find out whether the server is the one that the URL means. Raises `ConfigError`."""
        if await connection.fetchval("SELECT current_setting('transaction_read_only')") == "on":
            raise ConfigError(f"DATABASE_URL: {self.target.shown} is read-only (a standby?). Name the primary server.")
        path = await connection.fetchval("SELECT current_setting('search_path')")
        wanted = self.target.connect["server_settings"].get("search_path", path)
        if path != wanted:  # a pooler drops what it does not know
            raise ConfigError(
                f"DATABASE_URL: the pooler in front of the server drops schema={self.target.schema}. Write once, as "
                f"the role's owner: ALTER ROLE the_role SET search_path = {wanted}, and take it out of the URL."
            )
        schema = self.target.schema or await connection.fetchval("SELECT current_schema()")
        self._channel.name = f"house_{schema}"[:63]

    async def _connect(self, **options: Any) -> Any:
        """Open one connection. Raises `Unreachable`."""
        driver, given = self._driver, {"command_timeout": 30, **self.target.connect, **options}
        try:
            connection = await driver.connect(**given)
        except (OSError, ValueError, driver.PostgresError, driver.InterfaceError) as exc:
            words = self.target.without_secrets(str(exc)) or "it does not answer"
            raise Unreachable(f"{self.target.shown} cannot be used: {type(exc).__name__}: {words}") from None
        self._keep_alive(connection)
        return connection

    def _keep_alive(self, connection: Any) -> None:
        """Notice a connection whose other end is gone; the driver has no way to ask for it."""
        transport = getattr(connection, "_transport", None)
        found = transport.get_extra_info("socket") if transport is not None else None
        if found is None or found.family not in (socket.AF_INET, socket.AF_INET6) or not self.target.keepalives:
            return
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in self.target.keepalives.items():
            if option := getattr(socket, f"TCP_{name}", None):
                found.setsockopt(socket.IPPROTO_TCP, option, value)

    @asynccontextmanager
    async def _explained(self) -> AsyncGenerator[None]:
        driver = self._driver
        try:
            yield
        except driver.InsufficientPrivilegeError as exc:
            raise ConfigError(
                f"DATABASE_URL: this role may not change the tables: {self.target.without_secrets(str(exc))}. "
                "Run python -m app migrate with a role that may, and start again with this one."
            ) from None
        except (OSError, driver.PostgresError, driver.InterfaceError) as exc:
            words = f"{self.target.shown} cannot be used: {type(exc).__name__}: {self.target.without_secrets(str(exc))}"
            words = str(exc) if isinstance(exc, Unreachable) else words
            raise ConfigError(f"DATABASE_URL: {words}. Start the server, or fix the URL: {EXAMPLE}") from None

    # Reading and writing.

    async def read(self, sql: str, *values: object) -> list[Row]:
        """Run one query on what has been committed."""
        if asyncio.get_running_loop() is not self._loop:
            return await self._elsewhere(self._run_one(self._named(sql), values))
        return await self._run_one(self._named(sql), values)

    async def write(self, *statements: Statement) -> list[list[Row]]:
        """Run statements in one transaction; the rows that each returned. They are on disk when this returns."""
        if asyncio.get_running_loop() is not self._loop:
            return await self._elsewhere(self.write(*statements))
        try:
            if len(statements) == 1:  # which is a transaction by itself
                [(sql, values)] = statements
                run = self._groups.run if OURS.match(sql) else self._run_one
                return [await run(self._named(sql), values)]
            return await self._run_together([(self._named(sql), values) for sql, values in statements])
        except self._driver.UniqueViolationError as exc:
            raise Conflict(str(exc)) from exc
        except self._driver.ReadOnlySQLTransactionError:
            self._pool.expire()  # the server is a standby by now; another one may be in its place
            raise

    async def _elsewhere(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it where the connections are: a plain job's thread may have a loop of its own, by `asyncio.run`."""
        if self._loop is None:
            work.close()
            raise RuntimeError("the database is closed")
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def _run_together(self, statements: Sequence[Statement]) -> list[list[Row]]:
        """Run statements in one transaction, once more where the server took it back for a reason of its own."""
        driver = self._driver
        for last in (False, False, True):
            try:
                async with self._pool.lend() as connection, connection.transaction():
                    return [rows_of(await connection.fetch(sql, *values)) for sql, values in statements]
            # the last one: a migration of a newer process changed a table that a prepared statement knows
            except (driver.DeadlockDetectedError, driver.SerializationError, driver.InvalidCachedStatementError):
                if last:
                    raise
        raise AssertionError("unreachable")

    async def _run_one(self, sql: str, values: Sequence[object]) -> list[Row]:
        async with self._pool.lend() as connection:
            return rows_of(await connection.fetch(sql, *values))

    async def _run_many(self, sql: str, many: list[Sequence[object]]) -> list[list[Row]]:
        """Run a statement with many values, in one round trip and one transaction. Raises `Refused`."""
        results: list[list[Row]] = [[] for _ in many]
        try:
            async with self._pool.lend() as connection:
                if not RETURNING.search(sql):
                    await connection.executemany(sql, many)
                    return results
                # the driver returns the rows of all in one list: each says which it belongs to
                numbered = f"{sql}, CAST(${len(many[0]) + 1} AS INTEGER) AS house_number"
                found = await connection.fetchmany(numbered, [(*values, n) for n, values in enumerate(many)])
        except self._driver.PostgresError as exc:
            if str(exc.sqlstate or "")[:2] in ("08", "57"):  # the connection is gone: whether it was kept is not known
                raise
            raise Refused from exc
        for row in rows_of(found):
            number: int = row.pop("house_number")
            results[number].append(row)
        return results

    async def try_write(self) -> None:
        """Find out whether a write would be kept. Raises where it would not, after two seconds at most."""
        async with asyncio.timeout(PATIENCE):
            [row] = await self._run_one("SELECT current_setting('transaction_read_only') AS read_only", ())
        if row["read_only"] == "on":
            self._pool.expire()  # a setting of a session holds for as long as its connection
            raise Unreachable(f"{self.target.shown} cannot be used: it is read-only (a standby?)")

    # Wake-ups.

    def listen(self, name: str, callback: Callback) -> Callable[[], None]:
        """Call back when another process may have changed something of this name; returns what ends it."""
        if not self.hears:
            return lambda: None
        return self._channel.listeners.add(name, callback)

    async def notify(self, name: str) -> None:
        """Wake the other processes that listen to a name."""
        if self._loop is not None and asyncio.get_running_loop() is not self._loop:
            self._loop.call_soon_threadsafe(self._channel.tell, name)
        else:
            self._channel.tell(name)


def rows_of(found: Any) -> list[Row]:
    return [dict(row) for row in found]


class _Session:
    """One connection, for migrations."""

    engine: Engine = "postgresql"

    def __init__(self, connection: Any, schema: str | None) -> None:
        self.connection = connection
        self.schema = schema
        self.named: Callable[[str], str] = names.as_written

    async def read(self, sql: str, *values: object) -> list[Row]:
        return rows_of(await self.connection.fetch(self.named(sql), *values))

    async def write(self, *statements: Statement) -> list[list[Row]]:
        """Run statements in the transaction of the migration."""
        return [await self.read(sql, *values) for sql, values in statements]

    async def columns(self, table: str) -> set[str]:
        """Return the names of a table's columns; none where there is no such table."""
        sql = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped"
        return {row["attname"] for row in await self.connection.fetch(sql, table)}

    @asynccontextmanager
    async def locked(self) -> AsyncGenerator[None]:
        """Run a block in one transaction, while no other process is in such a block."""
        async with self.connection.transaction():
            await self.connection.execute(f"SELECT pg_advisory_xact_lock({LOCK})")
            await self._make_schema()
            yield

    async def _make_schema(self) -> None:
        """Make the schema of the URL where there is none; IF NOT EXISTS would need the right to make one even then."""
        find = "SELECT 1 FROM pg_namespace WHERE nspname = $1"
        if self.schema and not await self.connection.fetchval(find, self.schema):
            await self.connection.execute('CREATE SCHEMA "' + self.schema.replace('"', '""') + '"')
