"""Connections to PostgreSQL, lent to one task at a time.

The driver's own pool asks the server to reset each connection that comes back, and makes a task for it: half of the
time of a short statement. Nothing here changes a session, so there is nothing to reset.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

IDLE = 300.0  # seconds after which a connection that nobody needed is closed


class Pool:
    """``size`` connections at most, opened when they are needed. ``patience``: seconds that a task waits for one."""

    def __init__(self, connect: Callable[[], Awaitable[Any]], size: int, patience: float | None) -> None:
        self.connect = connect
        self.size = size
        self.patience = patience
        self.count = 0  # open, or on its way
        self.free: list[tuple[Any, float]] = []  # the last one back is lent first; with the time it came back
        self.lent: set[Any] = set()
        self.old: set[Any] = set()  # lent, and to be closed when they come back
        self.waiting: deque[asyncio.Future[Any]] = deque()
        self.all_back = asyncio.Event()
        self.closed = True

    def open(self) -> None:
        self.closed = False

    @asynccontextmanager
    async def lend(self) -> AsyncGenerator[Any]:
        connection = await self._take()
        try:
            yield connection
        finally:
            self._give_back(connection)  # without a wait, which a second cancellation could interrupt

    async def _take(self) -> Any:
        while not self.closed:
            if self.free:
                connection, _ = self.free.pop()
                if connection.is_closed():
                    self.count -= 1
                    continue
            elif self.count < self.size:
                self.count += 1
                try:
                    connection = await self.connect()
                except BaseException:
                    self.count -= 1
                    self._let_next(None)
                    raise
            else:
                connection = await self._wait()
                if connection is None:  # there is room for a new one
                    continue
            self.lent.add(connection)
            return connection
        raise RuntimeError("the database is closed")

    async def _wait(self) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        try:
            async with asyncio.timeout(self.patience):
                return await future
        except BaseException as exc:
            if future.done() and not future.cancelled():  # it came in the moment in which we left
                self._let_next(future.result())
            if isinstance(exc, TimeoutError):
                raise TimeoutError(
                    f"none of the {self.size} connections to the database was free for {self.patience:g} s"
                ) from None
            raise

    def _give_back(self, connection: Any) -> None:
        self.lent.discard(connection)
        self.all_back.set()
        if not connection.is_closed() and (connection.is_in_transaction() or connection in self.old or self.closed):
            connection.terminate()  # cancelled in a transaction: the server takes it back
        self.old.discard(connection)
        if connection.is_closed():
            self.count -= 1
            connection = None
        self._let_next(connection)

    def _let_next(self, connection: Any | None) -> None:
        """Hand a connection, or the room for one, to who waits longest."""
        while self.waiting:
            future = self.waiting.popleft()
            if not future.done():
                future.set_result(connection)
                return
        if connection is not None:
            loop = asyncio.get_running_loop()
            self.free.append((connection, loop.time()))
            if len(self.free) == 1:
                loop.call_later(IDLE, self._close_idle)

    def _close_idle(self) -> None:
        loop = asyncio.get_running_loop()
        while self.free and loop.time() - self.free[0][1] >= IDLE:
            connection, _ = self.free.pop(0)
            connection.terminate()
            self.count -= 1
        if self.free:
            loop.call_later(self.free[0][1] + IDLE - loop.time(), self._close_idle)

    def expire(self) -> None:
        """Open new connections from now on: what the old ones were told at their beginning does not hold any more."""
        self.old |= self.lent
        for connection, _ in self.free:
            connection.terminate()
        self.count -= len(self.free)
        self.free.clear()

    async def aclose(self) -> None:
        """Close all of them; those that are lent get five seconds to come back."""
        self.closed = True
        while self.lent:
            self.all_back.clear()
            try:
                await asyncio.wait_for(self.all_back.wait(), 5)
            except TimeoutError:
                break
        for connection in [*self.lent, *(connection for connection, _ in self.free)]:
            connection.terminate()
        self.free.clear()
        for future in self.waiting:
            if not future.done():
                future.set_result(None)
