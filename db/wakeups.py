"""Wake-ups between processes: something of this name may have changed, look again.

Nothing may depend on one arriving: who listens looks by itself now and then, only less often.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import uuid4

logger = logging.getLogger("db")

Callback = Callable[[], None]

LOOKS = 0.05  # seconds between two looks at a SQLite file
TELLS = 0.1  # seconds between two messages of a process to a server: each takes a lock that all of them share
AGAIN = (0.1, 0.5, 2.0, 5.0)  # seconds until the next try to connect
PULSE = 30.0  # seconds between two questions to a server that says nothing


class Listeners:
    """Who wants to know, by name, and the task that finds out while somebody does."""

    def __init__(self, watch: Callable[[], Awaitable[None]]) -> None:
        self.callbacks: dict[str, list[Callback]] = {}
        self.watch = watch
        self.task: asyncio.Task[None] | None = None

    def add(self, name: str, callback: Callback) -> Callable[[], None]:
        """Call back on every wake-up of a name; returns what ends it."""
        self.callbacks.setdefault(name, []).append(callback)
        if self.task is None or self.task.done():
            self.task = asyncio.ensure_future(self.watch())

        def end() -> None:
            found = self.callbacks.get(name, [])
            if callback in found:
                found.remove(callback)
            if not found:
                self.callbacks.pop(name, None)
            if not self.callbacks and self.task is not None:
                self.task.cancel()
                self.task = None

        return end

    def wake(self, name: str | None = None) -> None:
        """Call back who listens to a name, or everybody."""
        for found in [name] if name is not None else list(self.callbacks):
            for callback in list(self.callbacks.get(found, ())):
                try:
                    callback()
                except Exception:
                    logger.exception("a wake-up of %s failed", found)

    async def aclose(self) -> None:
        task, self.task = self.task, None
        self.callbacks.clear()
        if task is not None:
            task.cancel()
            await asyncio.wait([task])


class Channel:
    """One connection to PostgreSQL that listens, and what tells the other processes, ten times a second at most."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Any]],
        execute: Callable[[str, Sequence[object]], Awaitable[object]],
    ) -> None:
        self.connect = connect
        self.execute = execute
        self.name = "house"
        self.me = uuid4().hex  # in each message: a process does not wake itself
        self.listeners = Listeners(self.listen)
        self.names: set[str] = set()
        self.teller: asyncio.Task[None] | None = None

    async def listen(self) -> None:
        """Listen, and connect again when the connection is lost: then whatever it was may have been missed."""
        tries, before = 0, False
        while True:
            with contextlib.suppress(Exception):  # the server is away: who listens looks by itself meanwhile
                connection = await self.connect()
                lost = asyncio.Event()
                try:
                    connection.add_termination_listener(ending(lost))
                    await connection.add_listener(self.name, self.heard)
                    tries = 0
                    if before:
                        self.listeners.wake()
                    before = True
                    while not lost.is_set():
                        with contextlib.suppress(TimeoutError):
                            await asyncio.wait_for(lost.wait(), PULSE)
                            break
                        await connection.execute("SELECT 1", timeout=10)
                finally:
                    connection.terminate()
            await asyncio.sleep(AGAIN[min(tries, len(AGAIN) - 1)])
            tries += 1

    def heard(self, connection: object, pid: int, channel: str, payload: object) -> None:
        sender, _, name = str(payload).partition(" ")
        if sender != self.me:
            self.listeners.wake(name)

    def tell(self, name: str) -> None:
        """Tell the other processes, now or with what else is told a tenth of a second later."""
        self.names.add(name)
        if self.teller is None or self.teller.done():
            self.teller = asyncio.ensure_future(self.tell_all())

    async def tell_all(self) -> None:
        while self.names:
            await self.told()
            await asyncio.sleep(TELLS)

    async def told(self) -> None:
        names, self.names = sorted(self.names), set[str]()
        with contextlib.suppress(Exception):  # who listens looks by itself too
            sql = "SELECT pg_notify($1, name) FROM unnest(CAST($2 AS TEXT[])) AS name"
            await self.execute(sql, (self.name, [f"{self.me} {name}" for name in names]))

    async def aclose(self) -> None:
        await self.listeners.aclose()
        if self.teller is not None and self.names:  # a command that ends now has told nobody yet
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.told(), 2)
        if self.teller is not None:
            self.teller.cancel()
            await asyncio.wait([self.teller])


def ending(lost: asyncio.Event) -> Callable[[object], None]:
    return lambda connection: lost.set()
