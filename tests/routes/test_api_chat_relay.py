"""What can go wrong between a client and a model, on real sockets, with each transport to the model."""

import asyncio
import gc
import json
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.middleware.base import BaseHTTPMiddleware

from app import create_app
from config import Config
from tests.conftest import HEADERS, TOKEN, Serve, kept_in
from tests.servers import Exchange, ModelServer, one_piece, serving, wait_until

Relay = Callable[..., str]


@pytest.fixture(params=["httpx2", "aiohttp"])
def relay(request: pytest.FixtureRequest, serve: Serve, model: ModelServer) -> Relay:
    """Start the app in front of the model server, with one transport after the other."""

    def start(**settings: Any) -> str:
        return serve(openai_base_url=model.url, aiohttp=request.param == "aiohttp", **settings)

    return start


@contextmanager
def client_of(url: str, body: dict[str, Any] | None = None) -> Generator[socket.socket]:
    """Send a chat request over a bare socket, and leave when the block ends."""
    host, port = url.removeprefix("http://").split(":")
    data = json.dumps({"message": "Hi", "conversationId": "c"} | (body or {})).encode()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((host, int(port)))
        head = f"POST /api/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        client.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        client.settimeout(10)
        yield client


def ask(url: str, **body: Any) -> httpx.Response:
    body = {"message": "Hi", "conversationId": "c"} | body
    return httpx.post(f"{url}/api/chat", json=body, headers=HEADERS, timeout=20, trust_env=False)


def events(response: httpx.Response) -> list[Any]:
    return [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]


# The client leaves.


async def never(exchange: Exchange) -> None:
    await exchange.hang()


async def head_only(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.hang()


@pytest.mark.parametrize(
    ("answer", "reads", "kept"),
    [(never, b"", ""), (head_only, b"", ""), (one_piece, b'id: 3\ndata: {"text": "Hel"}', "Hel")],
    ids=["before the head", "before the first piece", "in the middle"],
)
def test_a_client_that_leaves_closes_the_upstream_and_what_was_said_is_kept(
    relay: Relay, model: ModelServer, answer: Any, reads: bytes, kept: str
):
    url = relay(chat_leave_seconds=0)
    model.answer = answer
    with client_of(url) as client:
        wait_until(lambda: len(model.exchanges) == 1)
        seen = b""
        while reads not in seen:
            seen += client.recv(4096)
        assert model.aborted == 0
    wait_until(lambda: model.aborted == 1)
    wait_until(lambda: kept_in(url) == [("user", "Hi", "done"), ("assistant", kept, "left")])


def test_a_client_that_does_not_read_holds_up_neither_the_model_nor_another_reader(relay: Relay, model: ModelServer):
    url = relay()

    async def flood(exchange: Exchange) -> None:
        await exchange.head()
        for _ in range(90):
            await exchange.delta("x" * 10_000)
        await exchange.delta("", "stop")
        await exchange.done()

    model.answer = flood
    with client_of(url, {"messageId": "m"}):
        wait_until(lambda: kept_in(url)[1:] == [("assistant", "x" * 900_000, "done")])
        assert "".join(event["text"] for event in events(ask(url, messageId="m"))) == "x" * 900_000
    assert len(model.exchanges) == 1


@pytest.mark.parametrize("answer", [never, one_piece])
def test_the_same_with_a_base_http_middleware_around_the_app(model: ModelServer, tmp_path: Path, answer: Any):
    async def pass_on(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    config = Config(
        webchat_token=TOKEN, openai_base_url=model.url, chat_leave_seconds=0, database_url=f"sqlite:///{tmp_path}/a.db"
    )
    app = create_app(config)
    app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    model.answer = answer
    with serving(app) as url:
        with client_of(url):
            wait_until(lambda: len(model.exchanges) == 1)
        wait_until(lambda: model.aborted == 1)
        wait_until(lambda: kept_in(url)[-1][2] == "left")


# The model fails.


async def refuses(exchange: Exchange) -> None:
    await exchange.head(401)


async def is_busy(exchange: Exchange) -> None:
    await exchange.head(429, retry_after="60")


async def is_busy_without_saying_for_how_long(exchange: Exchange) -> None:
    await exchange.head(429)


async def breaks(exchange: Exchange) -> None:
    await exchange.head(500)


async def resets_at_once(exchange: Exchange) -> None:
    exchange.reset()


async def says_nothing(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.done()


@pytest.mark.parametrize(
    ("answer", "status", "retry_after"),
    [
        (refuses, 502, None),
        (is_busy, 503, "60"),
        (is_busy_without_saying_for_how_long, 503, "10"),
        (breaks, 502, None),
        (resets_at_once, 502, None),
        (says_nothing, 502, None),
    ],
)
def test_a_failure_before_the_first_piece_has_its_own_status(
    relay: Relay, model: ModelServer, answer: Any, status: int, retry_after: str | None
):
    url = relay()
    model.answer = answer
    response = ask(url)
    assert (response.status_code, response.headers.get("retry-after")) == (status, retry_after)
    assert kept_in(url) == [("user", "Hi", "done"), ("assistant", "", "error")]


def test_a_model_that_is_busy_for_long_is_not_waited_for(relay: Relay, model: ModelServer):
    url = relay()
    model.answer = is_busy
    ask(url)
    assert len(model.exchanges) == 1


def test_a_model_that_failed_once_is_asked_again(relay: Relay, model: ModelServer):
    url = relay()

    async def fail_once(exchange: Exchange) -> None:
        if len(model.exchanges) == 1:
            return await exchange.head(500)
        await exchange.head()
        await exchange.delta("Hello", "stop")
        await exchange.done()

    model.answer = fail_once
    assert events(ask(url)) == [{"text": "Hello"}]


@pytest.mark.parametrize("answer", [never, one_piece], ids=["before the head", "in the middle"])
def test_a_model_that_falls_silent_is_given_up(relay: Relay, model: ModelServer, answer: Any):
    url = relay(silence=0.3)
    model.answer = answer
    response = ask(url)
    if answer is never:
        assert (response.status_code, response.json()) == (504, {"error": "The model did not answer in time."})
    else:
        assert events(response) == [{"text": "Hel"}, {"error": "The model stopped answering."}]
        assert response.text.endswith("data: [DONE]\n\n")


async def resets(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.delta("Hel")
    await exchange.delta("lo")
    exchange.reset()


async def stops_short(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.delta("Hel")
    await exchange.delta("lo")
    await exchange.end()


async def reports_an_error(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.delta("Hello")
    await exchange.event({"error": {"message": "provider text"}})
    await exchange.done()


async def reports_an_error_in_the_same_breath(exchange: Exchange) -> None:
    await exchange.head()
    piece = b'data: {"choices": [{"delta": {"content": "%s"}}]}\n\n'
    await exchange.send(piece % b"Hel" + piece % b"lo" + b'data: {"error": {"message": "provider text"}}\n\n')
    await exchange.done()


async def says_more_than_json(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.delta("Hel")
    await exchange.delta("lo")
    await exchange.send(b'data: {"choices": [{"delta": {"content": "?"}}]} {}\n\n')
    await exchange.done()


@pytest.mark.parametrize(
    "answer",
    [resets, stops_short, reports_an_error, reports_an_error_in_the_same_breath, says_more_than_json],
)
def test_a_failure_later_ends_with_an_error_and_keeps_what_was_said(relay: Relay, model: ModelServer, answer: Any):
    url = relay()
    model.answer = answer
    response = ask(url)
    *pieces, error = events(response)
    said = "".join(piece["text"] for piece in pieces)
    # a reset takes what was not read yet, which is more while the stream rests (sse.Pace), as while openai is imported
    assert said in (("Hel", "Hello") if answer is resets else ("Hello",))
    assert list(error) == ["error"]
    assert "provider" not in response.text
    assert response.text.endswith("data: [DONE]\n\n")
    assert kept_in(url)[-1] == ("assistant", said, "error")


# The model is odd, but right.


async def sends_line_separators(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.send('data: {"choices": [{"delta": {"content": "a\u2028b\u0085c"}}]}\n\n'.encode())
    await exchange.done()


async def splits_a_pair(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.send(b'data: {"choices": [{"delta": {"content": "a\\ud83d"}}]}\n\n')
    await exchange.send(b'data: {"choices": [{"delta": {"content": "\\udc4bb"}}]}\n\n')
    await exchange.done()


async def sends_byte_by_byte(exchange: Exchange) -> None:
    await exchange.head()
    data = 'data: {"choices": [{"delta": {"content": "Grüße"}}]}\r\n\r\n: ping\r\n\r\ndata: [DONE]\r\n\r\n'
    for byte in data.encode():
        await exchange.send(bytes([byte]))
        await asyncio.sleep(0)
    await exchange.end()


async def sends_blanks_around_json(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.send(b'data:{"choices": [{"delta": {"content": "a"}}]}\n\n')
    await exchange.send(b'data: \t {"choices": [{"delta":\ndata: {"content": "b"}}]} \t\r\n\r\ndata:  [DONE] \n\n')
    await exchange.end()


async def sends_a_megabyte(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.delta("x" * 1_000_000, "stop")
    await exchange.done()


async def sends_all_at_once(exchange: Exchange) -> None:
    await exchange.head()
    event = b'data: {"choices": [{"delta": {"content": "ab"}}]}\n\n'
    await exchange.send(event * 50 + b"data: [DONE]\n\n")
    await exchange.end()


async def leaves_out_the_last_line_end(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.delta("ab")
    await exchange.send(b"data: [DONE]")
    await exchange.end()


async def never_says_done_but_finishes(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.delta("a")
    await exchange.event({"choices": [], "usage": {"total_tokens": 1}})
    await exchange.delta("b", "stop")
    await exchange.end()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (sends_line_separators, "a\u2028b\u0085c"),
        (splits_a_pair, "a👋b"),
        (sends_byte_by_byte, "Grüße"),
        (sends_blanks_around_json, "ab"),
        (sends_a_megabyte, "x" * 1_000_000),
        (sends_all_at_once, "ab" * 50),
        (leaves_out_the_last_line_end, "ab"),
        (never_says_done_but_finishes, "ab"),
    ],
)
def test_an_odd_answer_arrives_whole_and_is_kept_whole(relay: Relay, model: ModelServer, answer: Any, text: str):
    url = relay()
    model.answer = answer
    response = ask(url)
    assert response.content.isascii()
    assert json.loads(json.dumps("".join(event["text"] for event in events(response)))) == text
    assert kept_in(url)[-1] == ("assistant", text, "done")
    assert response.text.endswith("data: [DONE]\n\n")


def test_a_connection_to_the_model_is_used_again(relay: Relay, model: ModelServer):
    url = relay()
    for _ in range(5):
        assert ask(url).status_code == 200
    assert model.connections <= 2  # the one that was warmed, and at most one that began before it was


# The server.


def test_more_streams_than_allowed_are_503_at_once(relay: Relay, model: ModelServer):
    url = relay(chat_max_streams=1, chat_leave_seconds=0)
    model.answer = one_piece
    with client_of(url) as client:
        assert b"200 OK" in client.recv(4096)
        response = ask(url, conversationId="d")
        assert (response.status_code, response.headers["retry-after"]) == (503, "5")
        assert kept_in(url, "d") == []
    wait_until(lambda: model.aborted == 1)
    model.answer = sends_all_at_once
    wait_until(lambda: ask(url, conversationId="d").status_code == 200)


def test_two_questions_at_once_are_both_kept_in_order(relay: Relay, model: ModelServer, database_url: str):
    url = relay(database_url=database_url)

    async def wait(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.delta(f"to {exchange.body['messages'][-1]['content']}", "stop")
        await asyncio.to_thread(wait_until, lambda: len(model.exchanges) == 2)
        await exchange.done()

    model.answer = wait

    async def both() -> None:
        async with httpx.AsyncClient(headers=HEADERS, trust_env=False) as client:
            bodies = [{"message": text, "conversationId": "c"} for text in ("one", "two")]
            answers = await asyncio.gather(*(client.post(f"{url}/api/chat", json=body) for body in bodies))
            assert [answer.status_code for answer in answers] == [200, 200]

    asyncio.run(both())
    kept = [content for _, content, _ in kept_in(url)]
    assert kept in (["one", "to one", "two", "to two"], ["two", "to two", "one", "to one"])


def test_what_a_chat_imports_is_left_out_of_garbage_collection(serve: Serve, model: ModelServer):
    gc.unfreeze()  # an earlier app of this process did it before
    serve(openai_base_url=model.url)
    wait_until(gc.get_freeze_count)
