"""What relaying a model's answer costs, beside the usual way of doing it.

    python3 -m venv .venv/bench
    .venv/bench/bin/pip install --constraint constraints.txt '.[fast]' --requirement bench/requirements.txt
    .venv/bench/bin/python -m bench.chat

`usual` is the relay of the tutorials: `async for chunk in client.chat.completions.create(stream=True)` inside a
StreamingResponse. `fastapi` is the same with FastAPI's EventSourceResponse. `httpx2` and `aiohttp` are this app with
one transport to the model and the other: the real POST /api/chat with token, storage and heartbeat, which the others do
not have. `floor-httpx2` and `floor-aiohttp` are what no relay on those clients can go below: their bytes, parsed and
sent on by a bare ASGI callable. All run on uvicorn, uvloop and httptools, each in a process of its own on one core. The
model server and the client, which checks every piece of every answer, are one process on the other core, which never
sleeps while it measures: see `Ends`. The relays take turns within each round, and the median of the rounds counts;
shares are medians of each round's own.

A processor time is the difference of the relay's own clock. Linux only.

`added` is what gateways publish: the time that a question takes through a relay, less that of asking the model server
itself, which waits for 20 ms. There nginx stands beside the relays, and the litellm proxy where a command is given:

    .venv/bench/bin/python -m bench.chat --measures added --relays nginx,httpx2,aiohttp,litellm --litellm COMMAND
"""

import argparse
import asyncio
import importlib
import json
import logging
import os
import re
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self
from urllib.parse import urlsplit

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from bench import machine
from bench.machine import Server, Unfit, become_server, client_core, pin, serve_app

TOKEN = "a-token-of-the-benchmark"
MODEL = "a-model"
PATIENCE = 60.0  # seconds that a process may take to start, and an answer to come
LATE = 0.02  # seconds that the model takes, where a question says late
PAST = 401  # messages of a long conversation, with the question

Numbers = dict[str, float]


# What is asked. The question itself tells the model server how to answer.


class Question(NamedTuple):
    """Ask for ``pieces`` at ``rate`` a second; -1 is not even a head. ``then`` is stop, hang, flood or late.

    The last one is a stop, with a head that waits for `LATE` seconds.
    """

    pieces: int
    rate: int
    then: str = "stop"
    messages: int = 1
    conversation: str | None = None
    id: int = 0

    @property
    def text(self) -> str:
        return f"pieces={self.pieces} rate={self.rate} then={self.then} id={self.id}"

    @property
    def answer(self) -> list[str]:
        """The pieces that the answer must have. The first tells how many messages reached the model."""
        return [f"{self.messages} messages. ", *(f"{i} " for i in range(1, self.pieces))]


INSTRUCTION = re.compile(rb"pieces=(-?\d+) rate=(\d+) then=(\w+) id=(\d+)")


def past_message(i: int) -> dict[str, str]:
    return {"role": ("user", "assistant")[i % 2], "content": f"Message {i} of a long conversation, as long as this."}


def request_of(name: str, question: Question) -> bytes:
    """Return the request: this app knows the past of a conversation, the others are told."""
    path = "/api/chat"
    if name in PROXIES:
        path = "/v1/chat/completions"
        body: dict[str, Any] = {"model": MODEL, "stream": True}
        body["messages"] = [{"role": "user", "content": question.text}]
    elif name in OURS:
        body = {"message": question.text}
        if question.conversation:
            body["conversationId"] = question.conversation
    else:
        past = [past_message(i) for i in range(question.messages - 1)]
        body = {"messages": [*past, {"role": "user", "content": question.text}]}
    data = json.dumps(body).encode()
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    ).encode() + data


def pieces_of(raw: bytes) -> list[str]:
    """Read a whole response: the pieces before [DONE]. Raises `Unfit`."""
    head, _, rest = raw.partition(b"\r\n\r\n")
    body = b""
    while rest:  # the chunked encoding, RFC 9112 7.1
        size, _, rest = rest.partition(b"\r\n")
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    frames = [frame for frame in body.split(b"\n\n") if frame and not frame.startswith(b":")]
    if not head.startswith(b"HTTP/1.1 200 ") or frames[-1:] != [b"data: [DONE]"]:
        raise Unfit(f"an answer without its end: {raw[:300]!r} ... {raw[-100:]!r}")
    found = [text_of(json.loads(frame.rpartition(b"data:")[2])) for frame in frames[:-1]]
    return [text for text in found if text]


def text_of(event: Any) -> str:
    """Return the text of a relay's event, or of a chunk that a proxy passed on."""
    return event["text"] if "text" in event else event["choices"][0]["delta"].get("content") or ""


# The relays. Each is given the URL of the model server and the file of the database.


def usual(model: str, database: Path) -> ASGIApp:
    import openai
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    client = openai.AsyncOpenAI(base_url=model, api_key="none")

    async def relay(messages: Any) -> AsyncIterator[str]:
        async for chunk in await client.chat.completions.create(model=MODEL, messages=messages, stream=True):
            if chunk.choices and (text := chunk.choices[0].delta.content):
                yield f"data: {json.dumps({'text': text})}\n\n"
        yield "data: [DONE]\n\n"

    async def chat(request: Request) -> StreamingResponse:
        body = await request.json()
        return StreamingResponse(relay(body["messages"]), media_type="text/event-stream")

    return Starlette(routes=[Route("/api/chat", chat, methods=["POST"])])


def fastapi(model: str, database: Path) -> ASGIApp:
    import openai

    sse = importlib.import_module("fastapi.sse")
    app = importlib.import_module("fastapi").FastAPI()
    client = openai.AsyncOpenAI(base_url=model, api_key="none")

    async def chat(body: dict[str, Any]) -> AsyncIterator[dict[str, str]]:
        stream = await client.chat.completions.create(model=MODEL, messages=body["messages"], stream=True)
        async for chunk in stream:
            if chunk.choices and (text := chunk.choices[0].delta.content):
                yield {"text": text}
        yield sse.ServerSentEvent(raw_data="[DONE]")

    app.post("/api/chat", response_class=sse.EventSourceResponse)(chat)
    return app


def floor(chunks_of: Callable[[str, Any], AbstractAsyncContextManager[AsyncIterator[bytes]]]) -> Any:
    """The least that a relay can do with the bytes of a client: parse and send on each event. It notices no failure."""

    def build(model: str, database: Path) -> ASGIApp:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                raise NotImplementedError  # uvicorn takes it that there is no lifespan
            asked = {"model": MODEL, "stream": True, "messages": json.loads((await receive())["body"])["messages"]}
            headers = [(b"content-type", b"text/event-stream")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async with chunks_of(f"{model}/chat/completions", asked) as chunks:
                async for chunk in chunks:
                    frames: list[str] = []
                    for event in chunk.split(b"\n\n"):
                        if event.startswith(b"data: {") and (text := text_of(orjson.loads(event[6:]))):
                            frames.append(f"data: {json.dumps({'text': text})}\n\n")
                    if frames:
                        body = "".join(frames).encode()
                        await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

        return app

    return build


@asynccontextmanager
async def by_aiohttp(url: str, asked: Any) -> AsyncGenerator[AsyncIterator[bytes]]:
    async with aiohttp_session().post(url, json=asked) as response:
        yield response.content.iter_any()


@asynccontextmanager
async def by_httpx2(url: str, asked: Any) -> AsyncGenerator[AsyncIterator[bytes]]:
    async with httpx2_client().stream("POST", url, json=asked) as response:
        yield aiter(response.stream)


@cache
def aiohttp_session() -> Any:
    aiohttp: Any = importlib.import_module("aiohttp")
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))  # 100 otherwise


@cache
def httpx2_client() -> Any:
    httpx2: Any = importlib.import_module("httpx2")
    return httpx2.AsyncClient(limits=httpx2.Limits(max_connections=None), timeout=PATIENCE)


def ours(aiohttp: bool) -> Callable[[str, Path], ASGIApp]:
    def build(model: str, database: Path) -> ASGIApp:
        from app import create_app
        from llm import LLM

        config = our_config(model, database)
        return create_app(config, llm=LLM(config, aiohttp=aiohttp))

    return build


def our_config(model: str, database: Path) -> Any:
    from config import Config

    return Config(
        webchat_token=TOKEN,
        openai_base_url=model,
        model_smart=MODEL,
        database_url=f"sqlite:///{database}",
        log_level="warning",
        chat_max_streams=10_000,
        chat_leave_seconds=0,
        chat_history_chars=10**9,
    )


RELAYS: dict[str, Callable[[str, Path], ASGIApp]] = {
    "usual": usual,
    "fastapi": fastapi,
    "floor-aiohttp": floor(by_aiohttp),
    "floor-httpx2": floor(by_httpx2),
    "httpx2": ours(aiohttp=False),
    "aiohttp": ours(aiohttp=True),
}
OURS = ("httpx2", "aiohttp")
PROXIES = ("direct", "nginx", "litellm")  # they speak as the model does


async def store_past(file: Path, conversations: Sequence[str]) -> None:
    """Store conversations of 400 messages."""
    from db import database
    from store import Question as Asked
    from store import Store

    db = database(f"sqlite:///{file}")
    await db.open()
    store = Store(db)

    async def store_one(conversation: str) -> None:
        for i in range(1, PAST, 2):
            turn = await store.begin(Asked(conversation=conversation, content=past_message(i - 1)["content"]))
            await store.save(turn, past_message(i)["content"], "done")

    await asyncio.gather(*(store_one(conversation) for conversation in conversations))
    await db.aclose()


# The model server: OpenAI's stream of chunks, made before anybody asks.


def model_chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    event = {
        "id": "chatcmpl-9f2d7c61a4e84b0c8f35",
        "object": "chat.completion.chunk",
        "created": 1_790_000_000,
        "model": MODEL,
        "system_fingerprint": None,
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}],
    }
    return http_chunk(b"data: %b\n\n" % json.dumps(event, separators=(",", ":")).encode())


def http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
PIECES = [model_chunk({"content": f"{i} "}) for i in range(2_000)]
END = model_chunk({}, "stop") + http_chunk(b"data: [DONE]\n\n") + http_chunk(b"")


class Model(asyncio.Protocol):
    """One connection to the model server."""

    left: ClassVar[dict[int, asyncio.Future[float]]] = {}  # by question: when its client left before the end

    def connection_made(self, transport: Any) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport = transport
        self.received = b""
        self.question: Question | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.is_writing = True
        self.closes = False

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if not end or len(body) < int(length[1] if length else 0):
            return
        self.received = b""
        if head.startswith(b"POST"):
            self.closes = b"\r\nConnection: close" in head  # a client of ours, which asks it without a relay
            self.answer(body)
        else:  # a client that warms its connection
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    def answer(self, body: bytes) -> None:
        pieces, rate, then, id = INSTRUCTION.findall(body)[-1]
        self.question = Question(int(pieces), int(rate), then.decode(), body.count(b'"role"'), None, int(id))
        self.sent = 0
        if self.question.pieces < 0:
            return
        if self.question.then == "late":
            self.timer = self.loop.call_later(LATE, self.begin)
        else:
            self.begin()

    def begin(self) -> None:
        self.transport.write(HEAD)
        self.next_at = self.loop.time()
        self.tell()

    def tell(self) -> None:
        if self.question is None:
            return
        if self.sent < self.question.pieces:
            first = model_chunk({"role": "assistant", "content": self.question.answer[0]}) if not self.sent else b""
            self.transport.write(first or PIECES[self.sent])
            self.sent += 1
            self.next_at += 1 / self.question.rate
            self.timer = self.loop.call_at(self.next_at, self.tell)
        elif self.question.then in ("stop", "late"):
            self.question = None
            self.transport.write(END)
            if self.closes:
                self.transport.close()
        elif self.question.then == "flood":
            self.transport.write(PIECES[1] * 100)
            if self.is_writing:  # else resume_writing goes on
                self.timer = self.loop.call_later(0.001, self.tell)

    def pause_writing(self) -> None:
        self.is_writing = False

    def resume_writing(self) -> None:
        self.is_writing = True
        if self.question is not None and self.sent == self.question.pieces:
            self.tell()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        left = self.left.pop(self.question.id, None) if self.question is not None else None
        self.question = None
        if left is not None and not left.done():
            left.set_result(time.monotonic())


class Ends:
    """Both ends of a relay, in this process: the model server, and a loop for the clients.

    While it runs it never sleeps. A write to a process that sleeps wakes it, and on a virtual machine the relay pays
    for that: up to a third of what a piece costs, which no client on a network would ask of it.
    """

    port: ClassVar[int] = 0  # of the model server that runs

    def __enter__(self) -> Self:
        import uvloop

        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.url = self.runner.run(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self.runner.run(self._hang_up())
        self.runner.close()

    async def _listen(self) -> str:
        self.server = await asyncio.get_running_loop().create_server(Model, "127.0.0.1", 0, backlog=4096)
        Ends.port = self.server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{self.port}/v1"

    async def _hang_up(self) -> None:
        self.server.close()  # by hand: uvloop's loop.close() waits for ever for a listener that is still open

    def run(self, what: Coroutine[Any, Any, Numbers]) -> Numbers:
        async def awake() -> Numbers:
            loop = asyncio.get_running_loop()

            def turn() -> None:
                nonlocal next_turn
                next_turn = loop.call_soon(turn)

            next_turn = loop.call_soon(turn)
            try:
                return await what
            finally:
                next_turn.cancel()

        return self.runner.run(awake())


# Serving: each in a process of its own, which ends by itself when nobody ends it.


def serve(descriptor: int, name: str, seconds: int, model: str, database: Path) -> None:
    become_server(seconds)
    raise_file_limit()
    logging.basicConfig(level="WARNING")
    serve_app(RELAYS[name](model, database), descriptor)


@contextmanager
def serving(name: str, seconds: int, model: str, past: Path | None = None) -> Generator[Server]:
    """Serve a relay between the model at a URL and a database of its own. Raises `Unfit` when it does not start."""
    if name in PROXIES:
        with proxy_serving(name, model) as server:
            yield server
        return
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder, "app.db")
        if past is not None:
            shutil.copy(past, database)
        with machine.serving("bench.chat", name, seconds, model, database, patience=PATIENCE) as server:
            yield server


NGINX = """
daemon off; pid {folder}/pid; error_log stderr; worker_processes 1;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream model {{ server {model}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://model; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""
LITELLM = """
model_list:
  - model_name: {name}
    litellm_params: {{model: openai/{name}, api_key: none, api_base: "http://{model}/v1"}}
general_settings:
  dangerously_permit_weak_or_unset_master_key: true
"""
commands = {"nginx": "nginx", "litellm": "litellm"}  # by proxy


@contextmanager
def proxy_serving(name: str, model: str) -> Generator[Server]:
    """Serve somebody else's proxy in front of the model; `direct` is the model itself."""
    address = urlsplit(model)
    if name == "direct":
        yield Server(name, address.port or 0, os.getpid(), 0.0)
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config")
        file.write_text(
            (NGINX if name == "nginx" else LITELLM).format(folder=folder, model=address.netloc, port=port, name=MODEL)
        )
        options = (
            ["-p", folder, "-c", file] if name == "nginx" else ["--config", file, "--port", port, "--host", "127.0.0.1"]
        )
        command = ["taskset", "-c", str(machine.server_core()), commands[name], *map(str, options)]
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=machine.environment() | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        )
        try:
            while not machine.is_listening(port):
                if process.poll() is not None or time.monotonic() - began > 3 * PATIENCE:
                    raise Unfit(f"{name} did not start")
                time.sleep(0.05)
            yield Server(name, port, process.pid, time.monotonic() - began)
        finally:
            process.terminate()
            process.wait()


def raise_file_limit() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


# Asking.


@dataclass
class Client(asyncio.Protocol):
    """One question on a connection of its own. It keeps what comes and reads it when nothing is measured any more."""

    request: bytes
    received: list[bytes] = field(default_factory=list[bytes])
    sent_at: float = 0
    first_at: float = 0  # when the first piece came

    def __post_init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.begun: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.sent_at = time.monotonic()
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.received.append(data)
        if not self.first_at and b"data:" in data:
            self.first_at = time.monotonic()
            self.begun.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(None)
        if not self.begun.done():
            self.begun.set_result(None)


async def start(server: Server, question: Question) -> Client:
    client = Client(request_of(server.name, question))
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: client, "127.0.0.1", server.port)
    return client


async def ask(server: Server, question: Question) -> Client:
    """Ask, and wait for the whole answer. Raises `Unfit` when it is not the right one."""
    client = await start(server, question)
    async with asyncio.timeout(PATIENCE):
        await client.ended
    check(client, question)
    return client


def check(client: Client, question: Question) -> None:
    pieces = pieces_of(b"".join(client.received))
    if pieces != question.answer:
        raise Unfit(f"{question} was answered {pieces[:3]} ... {pieces[-3:]}")


# Measuring. Each takes a relay and gives numbers by name.


async def cost_of_pieces(server: Server, streams: int = 40, pieces: int = 300, rate: int = 50) -> Numbers:
    """Microseconds of processor time for each piece, while that many paced streams are open and no request comes."""
    question = Question(pieces, rate)
    clients: list[Client] = []
    for i in range(streams):  # not all in step: as if each had come by itself
        clients.append(await start(server, question))
        await asyncio.sleep((i % 7 + 1) / 7 / rate)
    async with asyncio.timeout(PATIENCE):
        for client in clients:
            await client.begun
        before, already = server.cpu(), told(clients)
        await asyncio.wait([client.ended for client in clients], return_when=asyncio.FIRST_COMPLETED)
        spent, all_told = server.cpu() - before, told(clients)
        for client in clients:
            await client.ended
    for client in clients:
        check(client, question)
    return {"µs": spent / (all_told - already) * 1e6}


def told(clients: Sequence[Client]) -> int:
    """How many pieces have come so far."""
    return sum(data.count(b"data:") for client in clients for data in client.received)


async def cost_of_requests(server: Server, conversations: Iterator[str], requests: int = 40) -> Numbers:
    """Milliseconds of processor time for a request with one message, and with 400 before it."""
    costs: Numbers = {}
    for messages in (1, PAST):
        questions = [
            Question(1, 1000, messages=messages, conversation=next(conversations) if messages > 1 else None)
            for _ in range(requests)
        ]
        before = server.cpu()
        for question in questions:
            await ask(server, question)
        costs[f"{messages}"] = (server.cpu() - before) / requests * 1e3
    return costs


async def time_to_first(server: Server, streams: int = 200, seconds: float = 2, rate: int = 50) -> Numbers:
    """Milliseconds to the first piece, alone and among many streams that keep coming and going."""
    alone = [await ask(server, Question(2, 1000)) for _ in range(streams // 2)]
    question = Question(int(seconds * rate), rate)
    began_at = asyncio.get_running_loop().time()
    clients: list[Client] = []
    for i in range(streams * 2):  # the first half makes them as many as is wanted, the second half is measured
        clients.append(await start(server, question))
        await asyncio.sleep(began_at + (i + 1) * seconds / streams - asyncio.get_running_loop().time())
    async with asyncio.timeout(PATIENCE * 2):
        for client in clients:
            await client.ended
    for client in clients:
        check(client, question)
    return {
        f"{amount} {name}": percentile([(c.first_at - c.sent_at) * 1e3 for c in found], share)
        for amount, found in (("1", alone), (f"{streams}", clients[streams:]))
        for name, share in (("p50", 0.5), ("p99", 0.99))
    }


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


async def added_time(server: Server, direct: Server, requests: int = 320) -> Numbers:
    """Milliseconds that a relay adds to a question which the model answers in 20, by connections at once."""
    found: Numbers = {}
    for connections in (1, 16, 64):
        times = [await times_of(one, connections, max(requests // 4, connections * 5)) for one in (direct, server)]
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            without, through = (percentile(some, share) for some in times)
            found[f"{connections} {name}"] = through - without
    return found


async def times_of(server: Server, connections: int, requests: int) -> list[float]:
    """Milliseconds that each of so many questions takes, asked on that many connections at once."""
    times: list[float] = []

    async def one_after_the_other() -> None:
        for _ in range(-(-requests // connections)):
            client = await ask(server, Question(2, 10_000, "late"))
            times.append((time.monotonic() - client.sent_at) * 1e3)

    await asyncio.gather(*(one_after_the_other() for _ in range(connections)))
    return times


async def memory_of_streams(server: Server, streams: int = 1000) -> Numbers:
    """Kilobytes of resident memory for each stream that is open and silent."""
    for _ in range(20):
        await ask(server, Question(2, 1000))
    before = server.memory()
    clients: list[Client] = []
    for _ in range(streams):
        clients.append(await start(server, Question(1, 1, "hang")))
        if len(clients) % 20 == 0:
            await clients[-1].begun
    for client in clients:
        await client.begun
        if not client.first_at:
            raise Unfit(f"{server.name} ended a stream: {b''.join(client.received)!r}")
    after = server.memory()
    for client in clients:
        client.transport.abort()
    return {"kB": (after - before) / streams / 1e3}


MOMENTS = {
    "before the head": Question(-1, 1),
    "before the first piece": Question(0, 1, "hang"),
    "in the middle": Question(1000, 50, "hang"),
    "not reading": Question(1, 1, "flood"),
}


async def time_to_close(server: Server, ids: Iterator[int], patience: float = 3) -> Numbers:
    """Milliseconds from the client's leaving to the end of the connection to the model; infinite: not in time."""
    found: Numbers = {}
    for moment, question in MOMENTS.items():
        question = question._replace(id=next(ids))
        Model.left[question.id] = left = asyncio.get_running_loop().create_future()
        client = await start(server, question)
        if moment == "not reading":
            client.transport.pause_reading()
        await asyncio.sleep(0.5)
        left_at = time.monotonic()
        client.transport.abort()
        found[moment] = float("inf")
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                found[moment] = (await left - left_at) * 1e3
    return found


# Comparing.


class Measure(NamedTuple):
    title: str
    run: Callable[[Server], Coroutine[Any, Any, Numbers]]
    afresh: bool = False  # in new processes each round: memory that was used once is not given back
    shares: bool = True


def compare(measure: Measure, names: Sequence[str], rounds: int, limit: int, past: Path | None) -> str:
    """Measure the relays in turns; a table in Markdown."""
    samples: dict[str, list[Numbers]] = {name: [] for name in names}
    with Ends() as ends, ExitStack() as stack:
        servers: dict[str, Server] = {}
        for round in range(rounds + 1):
            for name in names:
                if measure.afresh:
                    with serving(name, limit, ends.url, past) as server:
                        sample = ends.run(measure.run(server))
                else:
                    if name not in servers:
                        servers[name] = stack.enter_context(serving(name, limit, ends.url, past))
                    sample = ends.run(measure.run(servers[name]))
                if round:  # the first one warms up
                    samples[name].append(sample)
    return table(measure, samples)


def table(measure: Measure, samples: dict[str, list[Numbers]]) -> str:
    """Medians, and the medians of each round's shares of the first relay, in Markdown."""
    first = next(iter(samples.values()))
    columns = list(first[0])
    heads = [head for name in columns for head in ([name, f"of {next(iter(samples))}"] if measure.shares else [name])]
    lines = [f"| {measure.title} | {' | '.join(heads)} |", "|---|" + "--:|" * len(heads)]
    for name, found in samples.items():
        cells: list[str] = []
        for column in columns:
            cells.append(shown(statistics.median(sample[column] for sample in found)))
            if measure.shares:
                pairs = [(mine[column], its[column]) for mine, its in zip(found, first, strict=True)]
                shares = [mine / its for mine, its in pairs if its > 0]  # an added time may be less than nothing
                cells.append(f"{statistics.median(shares):.2f}" if shares else "-")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def shown(value: float) -> str:
    return "not in time" if value == float("inf") else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def measures(past: Iterator[str]) -> dict[str, Measure]:
    """What can be measured; ``past`` names conversations that hold a past, each for one use."""
    ids = count(1)

    async def requests(server: Server) -> Numbers:
        return await cost_of_requests(server, past)

    async def leaving(server: Server) -> Numbers:
        return await time_to_close(server, ids)

    async def added(server: Server) -> Numbers:
        return await added_time(server, Server("direct", Ends.port, 0, 0.0))

    return {
        "added": Measure("ms added to a 20 ms model, by connections", added),
        "pieces": Measure("CPU for each piece, 40 streams", cost_of_pieces),
        "requests": Measure("CPU ms for each request, by messages", requests),
        "first": Measure("ms to the first piece, by open streams", time_to_first),
        "memory": Measure("memory for each of 1,000 silent streams", memory_of_streams, afresh=True),
        "leaving": Measure("ms until the model is left", leaving, shares=False),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["serve"]:
        return serve(int(given[1]), given[2], int(given[3]), given[4], Path(given[5]))
    parser = argparse.ArgumentParser(prog="python -m bench.chat", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--measures",
        default=",".join(name for name in measures(iter(())) if name != "added"),
        help="what to measure (default: %(default)s)",
    )
    parser.add_argument("--relays", default=",".join(RELAYS), help="what to compare (default: %(default)s)")
    parser.add_argument("--litellm", default="litellm", help="the command of the litellm proxy (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count (default: %(default)s)")
    args = parser.parse_args(given)
    commands["litellm"] = args.litellm
    pin(client_core())
    raise_file_limit()
    names = args.relays.split(",")
    with tempfile.TemporaryDirectory() as folder:
        for name in args.measures.split(","):
            conversations = [f"past-{i}" for i in range(40 * (args.rounds + 1) * len(names))]
            past = None
            if name == "requests":
                past = Path(folder, "past.db")
                asyncio.run(store_past(past, conversations))
            limit = int(len(names) * (args.rounds + 1) * PATIENCE)
            measure = measures(iter(conversations))[name]
            print(compare(measure, names, args.rounds, limit, past), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
