"""A PostgreSQL server, through `asyncpg`, which is installed with the extra ``postgres``."""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from config import ConfigError
from db import names
from db.contract import Conflict, Engine, Row, Statement
from db.migrations import is_older, migrate, pending, read_migrations

T = TypeVar("T")

LOCK = 7204093714  # the same number in every version of the house: processes that start together wait for each other


class PostgreSQL:
    """A PostgreSQL server and its pool of connections."""

    engine: Engine = "postgresql"
    skip_locked = " FOR UPDATE OF j SKIP LOCKED"

    def __init__(self, url: str) -> None:
        self.url = url
        self._pool: Any = None
        self._named: Callable[[str], str] = names.as_written
        try:
            self._driver: Any = import_module("asyncpg")  # it comes without type stubs
        except ImportError:
            raise ConfigError(
                "DATABASE_URL names a PostgreSQL server, but its driver is not installed. "
                """Install it: .venv/bin/python -m pip install -c constraints.txt ".[postgres]\""""
            ) from None
        self._conflict: type[Exception] = self._driver.UniqueViolationError

    async def open(self, folder: Path | None = None) -> None:
        """Run the migrations that did not run yet, and open the pool. Raises `ConfigError`."""
        await self.migrate(folder)
        async with self._explained():
            url, options = _asyncpg_options(self.url)
            self._pool = await self._driver.create_pool(
                url, min_size=1, max_size=10, timeout=10, command_timeout=30, **options
            )

    async def migrate(self, folder: Path | None = None) -> list[str]:
        found = read_migrations(folder)
        return await self._with_session(lambda session: migrate(session, found))

    async def pending(self, folder: Path | None = None) -> list[str]:
        found = read_migrations(folder)
        return [migration.name for migration in await self._with_session(lambda session: pending(session, found))]

    async def _with_session(self, use: Callable[["_Session"], Awaitable[T]]) -> T:
        """Use one connection of its own: a migration may take longer than a request's statement."""
        async with self._explained():
            url, options = _asyncpg_options(self.url)
            connection = await self._driver.connect(url, timeout=10, **{**options, "statement_cache_size": 0})
            try:
                session = _Session(connection)
                if await is_older(session):
                    self._named = session.named = names.without_prefix
                return await use(session)
            finally:
                await connection.close()

    @asynccontextmanager
    async def _explained(self) -> AsyncGenerator[None]:
        driver = self._driver
        try:
            yield
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
        return [dict(row) for row in await self._pool.fetch(self._named(sql), *values)]

    async def write(self, *statements: Statement) -> list[list[Row]]:
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                return [
                    [dict(row) for row in await connection.fetch(self._named(sql), *values)]
                    for sql, values in statements
                ]
        except self._conflict as exc:
            raise Conflict(str(exc)) from exc


class _Session:
    """One connection, for migrations."""

    engine: Engine = "postgresql"

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.named: Callable[[str], str] = names.as_written

    async def read(self, sql: str, *values: object) -> list[Row]:
        return [dict(row) for row in await self.connection.fetch(self.named(sql), *values)]

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
            yield


def _asyncpg_options(url: str) -> tuple[str, dict[str, int]]:
    """Take out of a URL what is the driver's: ``statement_cache_size=0``, for PgBouncer's transaction mode."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if "statement_cache_size" not in query:
        return url, {}
    size = int(query.pop("statement_cache_size"))
    return urlunsplit(parts._replace(query=urlencode(query))), {"statement_cache_size": size}
