"""The AI SDK's own client, cut by a proxy and resumed on another server: what it shows is what is stored.

By hand, with more cuts and others, on each engine: `.venv/bin/python -m tests.routes.test_api_chat_ui_client 50 SEED`.
"""

import asyncio
import json
import random
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from app import create_app
from config import Config
from llm import LLM
from tests.conftest import HEADERS, TOKEN, postgres_server
from tests.servers import Exchange, ModelServer, serving
from tests.test_typescript import SOURCES, needs_node

TEXT = "".join(f"word {n} " for n in range(60)) + "and 😀 at the end"
CUTS = 5

pytestmark = pytest.mark.slow


async def in_pieces(exchange: Exchange) -> None:
    await exchange.head()
    for start in range(0, len(TEXT), 10):
        await exchange.delta(TEXT[start : start + 10])
        await asyncio.sleep(0.01)
    await exchange.delta("", "stop")
    await exchange.event({"choices": [], "usage": {"prompt_tokens": 4711, "completion_tokens": 815}})
    await exchange.done()


class Cutting:
    """A proxy that drops its connections after so many bytes of an answer, head and framing included."""

    def __init__(self, url: str, after: int) -> None:
        self.to = urlsplit(url)
        self.after = after
        self.cuts = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, there = await asyncio.open_connection(self.to.hostname, self.to.port)
        asking = asyncio.create_task(self.pass_on(reader, there))
        try:
            left = self.after
            while data := await theirs.read(left):
                writer.write(data)
                await writer.drain()
                left -= len(data)
                if not left:
                    self.cuts += 1
                    break
        except (ConnectionError, asyncio.CancelledError):
            pass  # somebody left, or the test is over
        finally:
            asking.cancel()
            await asyncio.wait([asking])
            there.close()
            writer.close()

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()


@contextmanager
def running(proxies: list[Cutting]) -> Generator[list[str]]:
    """Run the proxies; their addresses."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> list[asyncio.Server]:
        return [await asyncio.start_server(proxy, "127.0.0.1", 0) for proxy in proxies]

    async def stop(servers: list[asyncio.Server]) -> None:
        for server in servers:
            server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    servers = asyncio.run_coroutine_threadsafe(start(), loop).result(5)
    try:
        yield [f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in servers]
    finally:
        asyncio.run_coroutine_threadsafe(stop(servers), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


def cut_and_resumed(servers: list[str], count: int, chance: random.Random) -> tuple[list[Any], int]:
    """Have the client ask as many questions on the first server, and resume on the others; what it holds then.

    Each first answer is cut at a random byte, and so is each second one; the third is whole. Returns the cuts too.
    """
    first, second = servers
    proxies: list[Cutting] = []
    for _ in range(count):
        # an answer is about 4,000 bytes: a cut may be in the head, in a frame, in a character, or after the end: none
        proxies += [Cutting(first, chance.randint(1, 3800)), Cutting(second, chance.randint(1, 3800))]
    with running(proxies) as urls:
        chats = [[f"c{n}", *urls[2 * n : 2 * n + 2], first] for n in range(count)]
        command = ["node", str(SOURCES / "resumes.mjs"), TOKEN, json.dumps(chats)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), sum(proxy.cuts for proxy in proxies)


def check(chats: list[Any], url: str) -> None:
    for chat in chats:
        assert (chat["status"], chat.get("error")) == ("ready", None), chat
        question, answer = chat["said"]
        response = httpx.get(f"{url}/api/conversations/{chat['id']}", headers=HEADERS, trust_env=False)
        kept = response.json()["data"]["messages"]
        assert [message["id"] for message in kept] == [question["id"], answer["id"]]
        assert [message["content"] for message in kept] == ["one", TEXT]
        assert (answer["text"], kept[1]["state"]) == (TEXT, "done"), chat
        assert answer["metadata"] == {"usage": {"inputTokens": 4711, "outputTokens": 815}}


@contextmanager
def two_servers(model: ModelServer, database_url: str) -> Generator[list[str]]:
    config = Config(webchat_token=TOKEN, cron_secret="s" * 20, database_url=database_url, openai_base_url=model.url)
    with ExitStack() as stack:
        yield [stack.enter_context(serving(create_app(config, llm=LLM(config)))) for _ in range(2)]


@pytest.mark.parametrize("seed", [1])
def test_a_client_that_is_cut_anywhere_and_resumes_elsewhere_shows_what_is_stored(
    model: ModelServer, database_url: str, seed: int
):
    needs_node()
    model.answer = in_pieces
    with two_servers(model, database_url) as servers:
        chats, cuts = cut_and_resumed(servers, CUTS, random.Random(seed))
        check(chats, servers[1])
    assert cuts >= CUTS
    assert len(model.exchanges) == CUTS  # no answer was asked for twice


def by_hand(count: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder, postgres_server() as postgres:
        for engine, database_url in (("SQLite", f"sqlite:///{Path(folder) / 'app.db'}"), ("PostgreSQL", postgres)):
            with ModelServer().running() as model, two_servers(model, database_url) as servers:
                model.answer = in_pieces
                chats, cuts = cut_and_resumed(servers, count, random.Random(seed))
                check(chats, servers[1])
                assert len(model.exchanges) == count
            resumed = sum(chat["resumed"] for chat in chats)
            print(f"{engine}: {count} answers, {cuts} cuts, {resumed} times resumed: all whole, each asked once")


if __name__ == "__main__":
    by_hand(int(sys.argv[1]), int(sys.argv[2]))
