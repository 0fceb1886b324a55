"""What both engines promise."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Literal, Protocol

Row = dict[str, Any]
Statement = tuple[str, Sequence[object]]
Engine = Literal["sqlite", "postgresql"]


class Conflict(Exception):
    """A row of that key is there already. Nothing of the write was kept."""


class Database(Protocol):
    """What both engines are. `open` it, `read` and `write` from any task, and `aclose` it."""

    engine: Engine
    skip_locked: str  # what a claim adds on an engine that locks rows
    hears: bool  # whether `listen` is told of what other processes change

    async def open(self, folder: Path | None = None) -> None:
        """Open it, and run our migrations and those of a folder that did not run yet. Raises `ConfigError`."""

    async def migrate(self, folder: Path | None = None) -> list[str]:
        """Run the migrations alone, and return the names of those that ran now. Raises `ConfigError`."""
        ...

    async def pending(self, folder: Path | None = None) -> list[str]:
        """Return the names of the migrations that `open` would run; nothing is changed. Raises `ConfigError`."""
        ...

    async def aclose(self) -> None: ...

    async def read(self, sql: str, *values: object) -> list[Row]:
        """Run one query on what has been committed."""
        ...

    async def write(self, *statements: Statement) -> list[list[Row]]:
        """Run statements in one transaction; the rows that each returned. They are on disk when this returns.

        A statement by itself on a table of ours is committed together with those of other tasks that wait. Raises
        `Conflict`.
        """
        ...

    async def try_write(self) -> None:
        """Find out whether a write would be kept. Raises where it would not, after two seconds at most."""

    def listen(self, name: str, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back when another process may have changed something of this name; returns what ends it.

        It runs on the event loop, now and then without a reason, and once after a connection was lost. Nothing may
        depend on it: who listens looks by itself too, only less often.
        """
        ...

    async def notify(self, name: str) -> None:
        """Wake the other processes that listen to a name, now or a tenth of a second later."""


class Session(Protocol):
    """One connection, for migrations; what ``migrate(db)`` of a .py file gets."""

    engine: Engine

    async def read(self, sql: str, *values: object) -> list[Row]: ...

    async def write(self, *statements: Statement) -> list[list[Row]]:
        """Run statements in the transaction of the migration."""
        ...

    async def columns(self, table: str) -> set[str]:
        """Return the names of a table's columns; none where there is no such table."""
        ...

    def locked(self) -> AbstractAsyncContextManager[None]:
        """Run a block in one transaction, while no other process is in such a block."""
        ...
