"""What becomes of answers when the process that writes or tells them is stopped or killed: real processes."""

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.conftest import HEADERS, TOKEN, Serve, kept_in
from tests.processes import replica
from tests.servers import Exchange, ModelServer, one_piece, two_words, wait_until

pytestmark = pytest.mark.slow

Started = tuple[str, "subprocess.Popen[bytes]"]

SAID = 'id: 3\ndata: {"text": "Hel"}\n\n'
STOPPING = "The server is stopping. Ask again in a moment."
STOPPED = f'id: 3\ndata: {{"error": "{STOPPING}"}}\n\ndata: [DONE]\n\n'
UI_STOPPED = f'data: {{"type": "error", "errorText": "{STOPPING}"}}\n\ndata: [DONE]\n\n'


@pytest.fixture
def started(model: ModelServer, database_url: str) -> Iterator[Started]:
    """The app as a process of its own, as production runs it."""
    with replica(database_url, model.url, WEBCHAT_TOKEN=TOKEN) as found:
        yield found


@pytest.fixture
def other(started: Started, serve: Serve, model: ModelServer, database_url: str) -> str:
    """A second server on the same database."""
    return serve(database_url=database_url, openai_base_url=model.url)


async def told(client: httpx.AsyncClient, url: str, body: Any = None) -> str:
    """The whole of a stream."""
    response = await client.request("GET" if body is None else "POST", url, json=body, headers=HEADERS, timeout=30)
    assert response.status_code == 200
    return response.text


def client_of_many() -> httpx.AsyncClient:
    return httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_connections=100))


async def test_sigterm_ends_fifty_streams_with_a_word_and_keeps_what_was_said(
    started: Started, other: str, model: ModelServer
):
    url, process = started
    model.answer = one_piece
    async with client_of_many() as client:
        bodies = [{"message": "Hi", "conversationId": f"c{n}"} for n in range(50)]
        streams = [asyncio.create_task(told(client, f"{url}/api/chat", body)) for body in bodies]
        await asyncio.to_thread(wait_until, lambda: len(model.exchanges) == 50)
        await asyncio.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert set(await asyncio.gather(*streams)) == {SAID + STOPPED}
    await ended(process)
    for n in range(50):
        assert kept_in(other, f"c{n}")[-1] == ("assistant", "Hel", "stopped")


async def test_sigterm_is_told_to_every_reader_here_and_in_another_process(
    started: Started, other: str, model: ModelServer
):
    url, process = started
    model.answer = one_piece
    async with client_of_many() as client:
        frames: list[asyncio.Task[str]] = []
        parts: list[asyncio.Task[str]] = []
        for n in range(5):
            body = {"message": "Hi", "conversationId": f"c{n}"}
            frames.append(asyncio.create_task(told(client, f"{url}/api/chat", body)))
        await asyncio.to_thread(wait_until, lambda: len(model.exchanges) == 5)
        for n in range(5):
            frames += [asyncio.create_task(told(client, f"{at}/api/chat/c{n}/stream")) for at in (url, other)]
            parts += [asyncio.create_task(told(client, f"{at}/api/chat/ui/c{n}/stream")) for at in (url, other)]
        await asyncio.sleep(1)
        process.send_signal(signal.SIGTERM)
        assert set(await asyncio.gather(*frames)) == {SAID + STOPPED}
        for text in await asyncio.gather(*parts):
            assert '"delta": "Hel"' in text
            assert text.endswith(UI_STOPPED)
    await ended(process)
    for n in range(5):
        last = last_of(other, f"c{n}")
        assert (last["content"], last["state"], last["reason"]) == ("Hel", "stopped", "server")


async def test_sigterm_of_a_process_that_only_follows_stops_no_answer(started: Started, other: str, model: ModelServer):
    url, process = started
    goes_on = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def answer(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.delta("Hel")
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(goes_on.wait(), loop))
        await exchange.delta("lo", "stop")
        await exchange.done()

    model.answer = answer
    async with client_of_many() as client:
        asked = asyncio.create_task(told(client, f"{other}/api/chat", {"message": "Hi", "conversationId": "c"}))
        await asyncio.to_thread(wait_until, lambda: len(model.exchanges) == 1)
        followed = asyncio.create_task(told(client, f"{url}/api/chat/c/stream"))
        await asyncio.sleep(1)
        process.send_signal(signal.SIGTERM)
        assert await followed == SAID + STOPPED
        await ended(process)
        goes_on.set()
        assert await asked == SAID + 'id: 5\ndata: {"text": "lo"}\n\ndata: [DONE]\n\n'
    assert kept_in(other)[-1] == ("assistant", "Hello", "done")


def last_of(url: str, conversation: str) -> Any:
    found = httpx.get(f"{url}/api/conversations/{conversation}", headers=HEADERS, trust_env=False)
    return found.json()["data"]["messages"][-1]


async def ended(process: "subprocess.Popen[bytes]") -> None:
    """Expect a process that was told to stop to end by itself, without a word of complaint."""
    assert await asyncio.to_thread(process.wait, 10) in (0, -signal.SIGTERM)
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()


def test_when_the_writers_process_is_killed_followers_elsewhere_are_told_and_the_conversation_goes_on(
    started: Started, other: str, model: ModelServer
):
    url, process = started
    model.answer = one_piece
    body = {"message": "Hi", "conversationId": "c", "messageId": "m"}
    with ExitStack() as stack:
        client = stack.enter_context(httpx.Client(headers=HEADERS, timeout=30, trust_env=False))
        asked = stack.enter_context(client.stream("POST", f"{url}/api/chat", json=body)).iter_lines()
        assert next(asked) == "id: 3"
        lines = stack.enter_context(client.stream("GET", f"{other}/api/chat/c/stream")).iter_lines()
        assert [next(lines), next(lines)] == ["id: 3", 'data: {"text": "Hel"}']
        process.kill()
        killed_at = time.monotonic()
        rest = [line for line in lines if line]
    assert rest == ["id: 3", 'data: {"error": "The answer broke off."}', "data: [DONE]"]
    assert time.monotonic() - killed_at < 15
    model.answer = two_words
    answer = httpx.post(f"{other}/api/chat", json=body, headers=HEADERS, timeout=20, trust_env=False)
    frames = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    assert "".join(frame["text"] for frame in frames) == "Hello"
    assert kept_in(other) == [("user", "Hi", "done"), ("assistant", "Hello", "done")]
