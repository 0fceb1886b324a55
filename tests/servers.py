"""Real servers for the tests, each on a socket of its own on 127.0.0.1, in a thread of its own. And a clock."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import uvicorn
from starlette.types import ASGIApp

from db import database
from worker import JobFile, Worker


@contextmanager
def serving(app: ASGIApp, **options: Any) -> Generator[str]:
    """Serve an app with uvicorn; the URL it answers at. On the way out it is told to stop, and is waited for."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        options = {"log_config": None, "lifespan": "on", "timeout_graceful_shutdown": 3, **options}
        server = uvicorn.Server(uvicorn.Config(app, **options))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        wait_until(lambda: server.started or not thread.is_alive())
        assert server.started, "the app did not start"
        try:
            yield url
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive(), "the server did not stop"


def wait_until(condition: Callable[[], object], timeout: float = 60) -> None:
    """Wait for something another thread or process does."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError(f"did not happen within {timeout} s")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Exchange:
    """One request to the model server, and the means to answer it badly."""

    headers: dict[str, str]
    body: dict[str, Any]
    writer: asyncio.StreamWriter
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def head(self, status: int = 200, **headers: str) -> None:
        lines = {"content-type": "text/event-stream", "transfer-encoding": "chunked"}
        if status != 200:
            lines = {"content-type": "application/json", "content-length": "2"}
        lines |= {name.replace("_", "-"): value for name, value in headers.items()}
        text = f"HTTP/1.1 {status} Whatever\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"
        await self.raw(text.encode() + (b"{}" if status != 200 else b""))

    async def send(self, data: bytes) -> None:
        """Send a piece of the body, as it is."""
        await self.raw(b"%x\r\n%b\r\n" % (len(data), data))

    async def event(self, event: Any) -> None:
        await self.send(b"data: " + json.dumps(event).encode() + b"\n\n")

    async def delta(self, text: str, finish_reason: str | None = None) -> None:
        await self.event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}]})

    async def done(self) -> None:
        await self.send(b"data: [DONE]\n\n")
        await self.end()

    async def end(self) -> None:
        await self.raw(b"0\r\n\r\n")

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Drop the connection without a goodbye."""
        self.writer.transport.abort()

    async def hang(self) -> None:
        """Say nothing more until the client leaves."""
        await self.left.wait()


Answer = Callable[[Exchange], Awaitable[None]]


async def two_words(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.delta("Hel")
    await exchange.delta("lo", "stop")
    await exchange.done()


async def one_piece(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.delta("Hel")
    await exchange.hang()


async def breaks_off(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.delta("Hel")
    exchange.reset()


class ModelServer:
    """A small OpenAI-compatible server that answers as the test says, and counts the clients that leave early."""

    def __init__(self) -> None:
        self.answer: Answer = two_words
        self.exchanges: list[Exchange] = []
        self.aborted = 0  # requests whose client left before the answer was over
        self.connections = 0
        self.writers: set[asyncio.StreamWriter] = set()
        self.url = ""

    @property
    def asked(self) -> list[dict[str, Any]]:
        return [exchange.body for exchange in self.exchanges]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.add(writer)
        try:
            while True:
                try:
                    head = await reader.readuntil(b"\r\n\r\n")
                except (asyncio.IncompleteReadError, ConnectionError):
                    return
                lines = head.decode("latin-1").split("\r\n")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:] if line)}
                raw = await reader.readexactly(int(headers.get("content-length", "0")))
                exchange = Exchange(headers, json.loads(raw or b"{}"), writer)
                if not lines[0].startswith("POST"):  # a client that warms its connection
                    await exchange.head(404)
                    continue
                self.exchanges.append(exchange)
                watch = asyncio.create_task(self.watch(reader, exchange))
                try:
                    await self.answer(exchange)
                except ConnectionError:
                    exchange.left.set()
                finally:
                    watch.cancel()
                    await asyncio.wait([watch])  # two must not read at once
                if exchange.left.is_set() or writer.transport.is_closing():
                    return
        finally:
            self.writers.discard(writer)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def watch(self, reader: asyncio.StreamReader, exchange: Exchange) -> None:
        try:
            gone = not await reader.read(1)
        except ConnectionError:
            gone = True
        if gone and not exchange.left.is_set():
            self.aborted += 1
            exchange.left.set()

    @contextmanager
    def running(self) -> Generator["ModelServer"]:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self.serve, "127.0.0.1", 0), loop).result(5)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self._stop(server), loop).result(5)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(5)
            loop.close()

    async def _stop(self, server: asyncio.Server) -> None:
        server.close()
        idle = 0
        while idle < 4:  # a connection may still be on its way in
            idle = idle + 1 if len(asyncio.all_tasks()) == 1 else 0
            for writer in list(self.writers):
                writer.transport.abort()  # its task notices, and ends
            await asyncio.sleep(0.005)


def write_tree(root: Path, files: dict[str, str]) -> Path:
    """Write files below a folder; the folder."""
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


class Clock:
    """A clock that the test sets."""

    def __init__(self, text: str = "2026-03-01T07:30:00+00:00") -> None:
        self.set(text)

    def set(self, text: str) -> None:
        self.now = datetime.fromisoformat(text).timestamp()

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def working(
    url: str, jobs: Mapping[str, JobFile], clock: Clock | None = None, **options: Any
) -> AsyncGenerator[Worker]:
    """A worker on a database of its own connections, served until the block ends."""
    db = database(url)
    await db.open()
    settings: dict[str, Any] = {"poll": 0.02, **options}
    worker = Worker(db, jobs, clock=clock or Clock(), **settings)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.serve)
        await anyio.lowlevel.checkpoint()
        try:
            yield worker
        finally:
            worker.stop()
    await db.aclose()
