"""Answers whose database goes away, whose readers are a thousand, whose model is silent, and whose writer is killed:
`make faults`.

Each case runs on both engines, with replicas that are processes of their own.
"""

import asyncio
import json
import resource
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.conftest import TOKEN, kept_in
from tests.faults.conftest import Told
from tests.faults.place import Engine
from tests.processes import replica
from tests.servers import Exchange, ModelServer, wait_until

READERS = 1000
SILENT = 30.0  # seconds, of a process that is lost after ten without a sign of life


def ask(conversation: str, **more: Any) -> bytes:
    """A request for an answer on a connection of its own."""
    body = json.dumps({"message": "Hi", "conversationId": conversation} | more).encode()
    head = f"POST /api/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def follow(conversation: str) -> bytes:
    path = f"/api/chat/{conversation}/stream"
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n".encode()


class Followed:
    """What a connection was told, as it comes."""

    def __init__(self, url: str, request: bytes) -> None:
        self.at = urlsplit(url)
        self.request = request
        self.raw = b""
        self.reading = asyncio.create_task(self.read())

    async def read(self) -> list[Any]:
        reader, writer = await asyncio.open_connection(self.at.hostname, self.at.port)
        writer.write(self.request)
        while data := await reader.read(65536):
            self.raw += data
        writer.close()
        return self.frames()

    def frames(self) -> list[Any]:
        body, rest = b"", self.raw.partition(b"\r\n\r\n")[2]
        while rest:  # the chunked encoding, RFC 9112 7.1
            size, _, rest = rest.partition(b"\r\n")
            body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        lines = [line[6:] for line in body.decode().split("\n") if line.startswith("data: ")]
        assert lines[-1:] == ["[DONE]"], self.raw[-300:]
        return [json.loads(line) for line in lines[:-1]]

    async def text(self) -> str:
        frames = await self.reading
        assert not [frame for frame in frames if "error" in frame]
        return "".join(frame["text"] for frame in frames)


async def until(*all_of_them: Followed) -> None:
    """Wait until each has been told something."""
    await asyncio.to_thread(wait_until, lambda: all(b"data:" in one.raw for one in all_of_them), 60)


@contextmanager
def two_replicas(engine: Engine, model: ModelServer) -> Generator[list[tuple[str, Any]]]:
    with (
        replica(engine.url, model.url, WEBCHAT_TOKEN=TOKEN) as one,
        replica(engine.url, model.url, WEBCHAT_TOKEN=TOKEN) as two,
    ):
        yield [one, two]


@pytest.mark.parametrize("away", [5, 14])  # the second is longer than a process may be without a sign of life
async def test_a_database_that_is_away_for_a_while_costs_no_answer_a_word(
    engine: Engine, model: ModelServer, told: Told, away: int
):
    seconds = {"c3": 3, "c5": 5, "c7": 7, "c9": 9, "c12": 12, "c20": 20}  # how long each is written
    texts = {name: "".join(f"{name}-{n} " for n in range(20 * length)) for name, length in seconds.items()}

    async def answer(exchange: Exchange) -> None:
        words = texts[exchange.body["messages"][-1]["content"]].split(" ")[:-1]
        await exchange.head()
        for word in words:
            await exchange.delta(f"{word} ")
            await asyncio.sleep(0.05)
        await exchange.delta("", "stop")
        await exchange.done()

    model.answer = answer
    with two_replicas(engine, model) as [(first, _), (second, _)]:
        asked = {name: Followed(first, ask(name, message=name)) for name in texts}
        await until(*asked.values())
        followed = {name: Followed(second, follow(name)) for name in texts}
        await until(*followed.values())
        await asyncio.to_thread(engine.away, away)
        for name, text in texts.items():
            assert await asked[name].text() == text
            assert await followed[name].text() == text
            assert kept_in(second, name)[-1] == ("assistant", text, "done")
        assert (len(model.exchanges), model.aborted) == (len(texts), 0)
    told(
        f"database away for {away} s, answers",
        jobs=len(texts),
        more="whole here, in the other process and in the database",
    )


async def test_a_thousand_readers_of_one_answer_are_told_the_same(engine: Engine, model: ModelServer, told: Told):
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    text = "".join(f"{n:099} " for n in range(300))
    goes_on = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def answer(exchange: Exchange) -> None:
        await exchange.head()
        for n in range(300):
            await exchange.delta(text[n * 100 : n * 100 + 100])
            await asyncio.sleep(0.01)
            if n == 20:
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(goes_on.wait(), loop))
        await exchange.delta("", "stop")
        await exchange.done()

    model.answer = answer
    with two_replicas(engine, model) as replicas:
        urls, pids = [url for url, _ in replicas], [process.pid for _, process in replicas]
        asked = Followed(urls[0], ask("c"))
        await until(asked)
        before = [memory(pid) for pid in pids]
        idle = [await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port) for url in urls * 5]
        for _, writer in idle:  # ten who never read
            writer.write(follow("c"))
        readers: list[Followed] = []
        for n in range(READERS):
            readers.append(Followed(urls[n % 2], follow("c")))
            if n % 50 == 49:
                await until(*readers)
        goes_on.set()
        peaks = before
        while not all(reader.reading.done() for reader in readers):
            peaks = [max(peak, memory(pid)) for peak, pid in zip(peaks, pids, strict=True)]
            await asyncio.sleep(0.1)
        assert {await reader.text() for reader in [asked, *readers]} == {text}
        for _, writer in idle:
            writer.close()
        assert kept_in(urls[1])[-1] == ("assistant", text, "done")
    grown = [(peak - start) / (READERS / 2 + 5) for peak, start in zip(peaks, before, strict=True)]
    told(
        f"{READERS} readers of one answer, two processes",
        jobs=1,
        more=f"{len(text):,} characters: {shown(grown)} kB each",
    )
    assert max(grown) < 250_000


def memory(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def shown(bytes: list[float]) -> str:
    return " and ".join(f"{one / 1e3:.0f}" for one in bytes)


@pytest.mark.parametrize("thinks", [False, True], ids=["silent", "thinking"])
async def test_a_model_that_takes_long_is_alive_all_the_time_and_a_repeat_joins_it(
    engine: Engine, model: ModelServer, thinks: bool, told: Told
):
    async def answer(exchange: Exchange) -> None:
        await exchange.head()
        until = time.monotonic() + SILENT
        while time.monotonic() < until:
            if thinks:
                await exchange.event({"choices": [{"index": 0, "delta": {"reasoning_content": "hm "}}]})
            await asyncio.sleep(1)
        await exchange.delta("Hello", "stop")
        await exchange.done()

    model.answer = answer
    with two_replicas(engine, model) as [(first, _), (second, _)]:
        readers = [Followed(first, ask("c", messageId="m"))]
        await asyncio.to_thread(wait_until, lambda: len(model.exchanges) == 1)
        for _ in range(4):
            readers += [Followed(url, ask("c", messageId="m")) for url in (first, second)]
            await asyncio.sleep(SILENT / 5)
            assert kept_in(second)[-1] == ("assistant", "", "running")
        assert [await reader.text() for reader in readers] == ["Hello"] * len(readers)
        assert kept_in(second)[-1] == ("assistant", "Hello", "done")
    assert (len(model.exchanges), model.aborted) == (1, 0)
    told(
        f"a model {'thinks' if thinks else 'is silent'} for {SILENT:.0f} s",
        jobs=1,
        more=f"{len(readers)} readers, asked once",
    )


class Telegram:
    """Telegram's API, which takes messages; it answers when the test lets it."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.may = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        self.sent.append(json.loads(await reader.readexactly(length)))
        await self.may.wait()
        writer.write(b'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 11\r\n\r\n{"ok":true}')
        writer.close()


async def test_a_channels_answer_survives_the_kill_of_its_process_and_is_asked_once_where_it_was_whole(
    engine: Engine, model: ModelServer, told: Told
):
    async def answer(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.delta("Hel")
        question = exchange.body["messages"][-1]["content"]
        if question == "cut" and [e.body["messages"][-1]["content"] for e in model.exchanges].count("cut") == 1:
            await exchange.hang()  # the first one is still writing when its process is killed
        await exchange.delta("lo", "stop")
        await exchange.done()

    model.answer = answer
    telegram = Telegram()
    api = await asyncio.start_server(telegram.serve, "127.0.0.1", 0)
    environ = {
        "WEBCHAT_TOKEN": TOKEN,
        "TELEGRAM_BOT_TOKEN": "a-bot",
        "TELEGRAM_WEBHOOK_SECRET": "a-secret-of-telegram",
        "TELEGRAM_API_URL": f"http://127.0.0.1:{api.sockets[0].getsockname()[1]}",
    }

    async def say(url: str, update: int, text: str) -> None:
        body = {"update_id": update, "message": {"chat": {"id": update}, "text": text}}
        headers = {"X-Telegram-Bot-Api-Secret-Token": "a-secret-of-telegram"}
        async with httpx.AsyncClient(trust_env=False) as client:
            response = await client.post(f"{url}/api/webhooks/telegram", json=body, headers=headers)
            assert response.status_code == 200

    with replica(engine.url, model.url, **environ) as (url, process):
        await say(url, 1, "whole")
        await say(url, 2, "cut")
        # the first answer is whole and on its way to Telegram, which does not take it yet; the second is being written
        await asyncio.to_thread(wait_until, lambda: len(telegram.sent) == 1 and len(model.exchanges) == 2)
        await asyncio.sleep(0.5)
        process.kill()
        await asyncio.to_thread(process.wait)
    telegram.may.set()
    with replica(engine.url, model.url, **environ):
        # a job of a killed process is taken over when its lease of 60 s ends
        await asyncio.to_thread(wait_until, lambda: len(telegram.sent) == 3, 150)
        await asyncio.sleep(2)
    api.close()
    questions = [exchange.body["messages"][-1]["content"] for exchange in model.exchanges]
    assert sorted(questions) == ["cut", "cut", "whole"]
    assert sorted((sent["chat_id"], sent["text"]) for sent in telegram.sent) == [
        (1, "Hello"),
        (1, "Hello"),
        (2, "Hello"),
    ]
    told(
        "kill -9 under a channel's answers",
        jobs=2,
        twice=1,
        more="twice: was sent, asked once; the cut one: asked again",
    )
