"""SQLite's connections: each in a thread of its own, since SQLite holds up who calls it until the disk has it.

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
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from db.contract import Conflict, Row, Statement

LARGEST = 256  # writes that are committed together, but for those of one turn of the event loop
LOG_SIZE = 8 * 2**20  # bytes that app.db-wal shrinks to again after a reader was open for long
# a marker, where it does not stand in a text, a quoted name or a comment
MARKER = re.compile(
    r"""'[^']*'|"[^"]*"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?(?:\*/|\Z)|(?<!\w)\$(?P<number>[1-9]\d*)\b""", re.S
)
UNIQUE = (sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_ROWID)


class Asked:
    """Statements that one task waits for."""

    def __init__(self, statements: Sequence[Statement], future: "asyncio.Future[list[list[Row]]]") -> None:
        self.statements = statements
        self.future = future
        self.result: list[list[Row]] | BaseException = []


class Thread:
    """One connection in a thread of its own, fed by a queue: one group for each turn of the event loop."""

    def __init__(self, path: Path, *, writes: bool) -> None:
        self.path = path
        self.writes = writes
        self.asked: list[Asked] = []  # in this turn of the loop
        self.groups: queue.SimpleQueue[list[Asked] | None] = queue.SimpleQueue()
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
        one = Asked(statements, loop.create_future())
        self.asked.append(one)
        if len(self.asked) == 1:
            loop.call_soon(self._send)
        return await one.future

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
                loop.call_soon_threadsafe(resolve, group)
        connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = connect(self.path)
        connection.execute("PRAGMA foreign_keys=1" if self.writes else "PRAGMA query_only=1")
        return connection

    def _run(self, connection: sqlite3.Connection, group: Sequence[Asked]) -> None:
        if not self.writes or (len(group) == 1 and len(group[0].statements) == 1):  # which is a transaction by itself
            for one in group:
                one.result = attempt(connection, one)
            return
        try:
            connection.execute("BEGIN IMMEDIATE")
            for one in group:
                one.result = attempt_within(connection, one)
            connection.execute("COMMIT")
        except BaseException as exc:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            for one in group:
                one.result = exc


def make_file(path: Path) -> None:
    """Make a file that only its owner reads, and the folders that it needs; SQLite gives its logs the same mode."""
    for folder in reversed(path.parents):
        if not folder.is_dir():
            folder.mkdir(mode=0o700, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def connect(path: Path, *, patience: float = 30.0, shared: bool = False) -> sqlite3.Connection:
    make_file(path)
    connection = sqlite3.connect(path, timeout=patience, isolation_level=None, check_same_thread=not shared)
    try:
        use_wal(connection)
        connection.execute("PRAGMA synchronous=FULL")  # with NORMAL a power cut takes what was acknowledged
        connection.execute(f"PRAGMA journal_size_limit={LOG_SIZE}")
    except BaseException:  # a file that is no database shows it here
        connection.close()
        raise
    return connection


def rows_of(connection: sqlite3.Connection, sql: str, values: Sequence[object]) -> list[Row]:
    text, order, count = by_position(sql) if values else (sql, [], 0)
    if len(values) != count:
        raise sqlite3.ProgrammingError(f"the SQL has values up to ${count}, and {len(values)} follow it")
    cursor = connection.execute(text, [values[i] for i in order] if order else values)
    if cursor.description is None:
        return []
    keys = [column[0] for column in cursor.description]
    return [dict(zip(keys, row, strict=True)) for row in cursor]


@lru_cache(maxsize=1024)
def by_position(sql: str) -> tuple[str, list[int], int]:
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


def use_wal(connection: sqlite3.Connection, patience: float = 30.0) -> None:
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


def attempt(connection: sqlite3.Connection, one: Asked) -> list[list[Row]] | BaseException:
    try:
        return [rows_of(connection, sql, values) for sql, values in one.statements]
    except sqlite3.IntegrityError as exc:
        return Conflict(str(exc)) if exc.sqlite_errorcode in UNIQUE else exc
    except BaseException as exc:
        return exc


def attempt_within(connection: sqlite3.Connection, one: Asked) -> list[list[Row]] | BaseException:
    """Run a task's statements in the transaction of a group; where one fails, none of the task's is kept.

    A single statement that fails takes itself back, and needs no savepoint, which is two more calls: before each call
    the thread waits for the interpreter's lock, up to 5 ms while the event loop is busy.
    """
    if len(one.statements) == 1:
        result = attempt(connection, one)
        if isinstance(result, BaseException) and not connection.in_transaction:  # a full disk takes back everything
            raise result
        return result
    connection.execute("SAVEPOINT one")
    result = attempt(connection, one)
    if isinstance(result, BaseException):
        connection.execute("ROLLBACK TO one")
    connection.execute("RELEASE one")
    return result


def resolve(group: Sequence[Asked]) -> None:
    for one in group:
        if one.future.done():  # its task was cancelled
            continue
        if isinstance(one.result, BaseException):
            one.future.set_exception(one.result)
        else:
            one.future.set_result(one.result)
