"""What bench/chat.py compares gives right answers, on small counts. Nothing is timed."""

import asyncio
import shutil
from collections.abc import Generator, Iterator
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import pytest

from bench import chat
from bench.chat import PAST, Question
from bench.machine import Server, Unfit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the bench reads Linux's /proc"),
]


@pytest.fixture(scope="module")
def ends() -> Iterator[chat.Ends]:
    with chat.Ends() as ends:
        yield ends


@pytest.fixture(scope="module", params=chat.RELAYS)
def relay(
    request: pytest.FixtureRequest, ends: chat.Ends, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Server]:
    if request.param == "fastapi" and find_spec("fastapi") is None:
        pytest.skip("fastapi is not installed: it is in bench/requirements.txt")
    past = tmp_path_factory.mktemp("past") / "past.db"
    asyncio.run(chat.store_past(past, ["long"]))
    with chat.serving(request.param, 120, ends.url, past) as server:
        yield server


def test_every_relay_tells_all_pieces_in_order(relay: Server, ends: chat.Ends):
    ends.run(chat.cost_of_pieces(relay, streams=3, pieces=20, rate=200))


def test_every_relay_sends_the_past_to_the_model(relay: Server, ends: chat.Ends):
    numbers = ends.run(chat.cost_of_requests(relay, iter(["long"]), requests=1))
    assert list(numbers) == ["1", str(PAST)]


def test_the_first_pieces_of_streams_that_come_and_go_are_found(relay: Server, ends: chat.Ends):
    numbers = ends.run(chat.time_to_first(relay, streams=4, seconds=0.1))
    assert list(numbers) == ["1 p50", "1 p99", "4 p50", "4 p99"]
    assert min(numbers.values()) > 0


def test_the_time_that_a_relay_adds_is_measured(relay: Server, ends: chat.Ends):
    numbers = ends.run(chat.added_time(relay, Server("direct", ends.port, 0, 0.0), requests=4))
    assert list(numbers) == [f"{n} {name}" for n in (1, 16, 64) for name in ("p50", "p99")]


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed: apt install nginx")
def test_the_time_that_nginx_adds_is_measured(ends: chat.Ends):
    with chat.serving("nginx", 120, ends.url) as nginx:
        ends.run(chat.added_time(nginx, Server("direct", ends.port, 0, 0.0), requests=4))


def test_silent_streams_stay_open(relay: Server, ends: chat.Ends):
    ends.run(chat.memory_of_streams(relay, streams=5))


def test_every_relay_leaves_the_model_when_its_client_leaves(relay: Server, ends: chat.Ends):
    numbers = ends.run(chat.time_to_close(relay, count(1), patience=10))
    assert list(numbers) == list(chat.MOMENTS)


HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        HEAD,
        HEAD + chat.http_chunk(b'data: {"text": "a"}\n\n') + chat.http_chunk(b""),
        b"HTTP/1.1 500 No\r\n\r\n" + chat.http_chunk(b"data: [DONE]\n\n"),
    ],
    ids=["nothing", "cut off", "failed"],
)
def test_an_answer_without_its_end_is_wrong(raw: bytes):
    with pytest.raises(Unfit, match="without its end"):
        chat.pieces_of(raw)


async def test_pieces_in_another_order_are_wrong():
    client = chat.Client(b"")
    frames = b'data: {"text": "1 "}\n\ndata: {"text": "1 messages. "}\n\ndata: [DONE]\n\n'
    client.received.append(HEAD + chat.http_chunk(frames) + chat.http_chunk(b""))
    with pytest.raises(Unfit, match="was answered"):
        chat.check(client, Question(2, 1))
