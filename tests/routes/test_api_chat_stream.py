"""GET and DELETE /api/chat/[id]/stream, by the front door: an answer goes on without its request, in any process."""

import asyncio
import json
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest
from httpx_sse import ServerSentEvent, connect_sse

from tests.conftest import HEADERS, Serve, kept_in
from tests.servers import Exchange, ModelServer, breaks_off, two_words, wait_until

STREAM = "/api/chat/c/stream"
TEXT = "".join(f"word {n} " for n in range(40)) + "and 😀 at the end"

Servers = tuple[str, str]


class Slow:
    """A model that says `TEXT` in pieces, and waits after each until the test lets it go on."""

    def __init__(self, pieces: int = 10) -> None:
        size = len(TEXT) // pieces + 1
        self.pieces = [TEXT[start : start + size] for start in range(0, len(TEXT), size)]
        self.may = 1

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.head()
        for number, piece in enumerate(self.pieces):
            while number >= self.may:
                if exchange.left.is_set():
                    return
                await asyncio.sleep(0.005)
            await exchange.delta(piece)
        await exchange.delta("", "stop")
        await exchange.done()

    def go_on(self, pieces: int = 1000) -> None:
        self.may += pieces


@pytest.fixture
def slow(model: ModelServer) -> Slow:
    model.answer = slow = Slow()
    return slow


@pytest.fixture(params=["the same server", "another server"])
def servers(request: pytest.FixtureRequest, serve: Serve, model: ModelServer, database_url: str) -> Servers:
    """The server that is asked, and the one that is used afterwards."""
    settings: dict[str, Any] = {"openai_base_url": model.url, "database_url": database_url}
    first = serve(**settings)
    return first, first if request.param == "the same server" else serve(**settings)


@contextmanager
def stream(url: str, path: str = STREAM, body: Any = None, **headers: str) -> Generator[Iterator[ServerSentEvent]]:
    with (
        httpx.Client(headers=HEADERS | headers, timeout=20, trust_env=False) as client,
        connect_sse(client, "GET" if body is None else "POST", f"{url}{path}", json=body) as source,
    ):
        source.response.raise_for_status()
        yield source.iter_sse()


def ask(url: str, **more: Any) -> Any:
    return stream(url, "/api/chat", {"message": "Hi", "conversationId": "c", "messageId": "m"} | more)


def text_of(events: Iterator[ServerSentEvent]) -> str:
    """The text of the events up to [DONE], whose ids must count its characters. An error is no text."""
    *told, last = events
    assert last.data == "[DONE]"
    return "".join(json.loads(event.data)["text"] for event in told)


def get(url: str, path: str = STREAM) -> httpx.Response:
    return httpx.get(f"{url}{path}", headers=HEADERS, trust_env=False)


def stop(url: str, query: str = "") -> bool:
    response = httpx.delete(f"{url}{STREAM}{query}", headers=HEADERS, timeout=20, trust_env=False)
    assert response.status_code == 200
    return response.json()["data"]["stopped"]


def until(events: Iterator[ServerSentEvent], text: str) -> str:
    """Read on until that much was said; the last id."""
    said, id = "", ""
    while len(said) < len(text):
        event = next(events)
        said, id = said + json.loads(event.data)["text"], event.id
    assert said == text
    return id


# Following.


def test_an_answer_goes_on_where_a_client_was_cut(servers: Servers, slow: Slow, model: ModelServer):
    first, second = servers
    with ask(first) as events:
        id = until(events, slow.pieces[0])
    assert id == str(len(slow.pieces[0]))
    with stream(second, **{"Last-Event-ID": id}) as events:
        slow.go_on()
        assert slow.pieces[0] + text_of(events) == TEXT
    wait_until(lambda: kept_in(second)[-1] == ("assistant", TEXT, "done"))
    assert (len(model.exchanges), model.aborted) == (1, 0)


@pytest.mark.parametrize("after", [0, 1, 7, len(TEXT) - 1, len(TEXT), len(TEXT) + 5])
def test_after_says_where_to_go_on(servers: Servers, slow: Slow, after: int):
    first, second = servers
    with ask(first) as events, stream(second, f"{STREAM}?after={after}") as others:
        slow.go_on()
        assert text_of(events) == TEXT
        assert text_of(others) == TEXT[after:]


def test_an_id_is_the_number_of_characters_so_far_everywhere(servers: Servers, slow: Slow):
    first, second = servers
    with ask(first) as events, stream(second) as others:
        slow.go_on()
        for told in (list(events), list(others)):
            said = ""
            for event in told[:-1]:
                said += json.loads(event.data)["text"]
                assert event.id == str(len(said))  # code points: the emoji is one
            assert said == TEXT


def test_a_repeat_joins_the_answer_that_is_being_written(servers: Servers, slow: Slow, model: ModelServer):
    first, second = servers
    with ask(first) as events, ask(second) as others, stream(second) as third:
        until(others, slow.pieces[0])
        slow.go_on()
        assert text_of(events) == slow.pieces[0] + text_of(others) == text_of(third) == TEXT
    with ask(second) as events:  # it is finished, and comes from the store
        assert text_of(events) == TEXT
    body = {"message": "Hi", "conversationId": "c", "messageId": "m"}
    with stream(second, "/api/chat", body, **{"Last-Event-ID": "5"}) as events:
        assert text_of(events) == TEXT[5:]
    assert len(model.exchanges) == 1


def test_an_answer_that_is_written_anew_is_told_from_its_beginning(servers: Servers, slow: Slow, model: ModelServer):
    first, second = servers
    model.answer = breaks_off
    with ask(first) as events:
        id = until(events, "Hel")
    wait_until(lambda: kept_in(second)[-1] == ("assistant", "Hel", "error"))
    model.answer = slow
    body = {"message": "Hi", "conversationId": "c", "messageId": "m"}
    with stream(second, "/api/chat", body, **{"Last-Event-ID": id}) as events:  # its first three characters are others
        assert until(events, slow.pieces[0]) == str(len(slow.pieces[0]))


def test_what_the_model_thinks_is_told_by_the_server_that_writes_and_by_no_other(servers: Servers, model: ModelServer):
    goes_on = threading.Event()

    async def thinks(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.event({"choices": [{"index": 0, "delta": {"reasoning_content": "Let me see."}}]})
        await exchange.delta("Hel")
        await asyncio.to_thread(goes_on.wait, 20)
        await exchange.event({"choices": [{"index": 0, "delta": {"reasoning_content": "Well."}}]})
        await exchange.delta("lo", "stop")
        await exchange.done()

    model.answer = thinks
    first, second = servers
    with ask(first, reasoning=True) as events, stream(second, f"{STREAM}?reasoning=true") as others:
        goes_on.set()
        told, followed = ([json.loads(event.data) for event in list(found)[:-1]] for found in (events, others))
    whole = [
        {"text": "", "reasoning": "Let me see."},
        {"text": "Hel"},
        {"text": "", "reasoning": "Well."},
        {"text": "lo"},
    ]
    assert told == whole
    if first == second:
        assert followed == whole
    else:
        assert "".join(event["text"] for event in followed) == "Hello"
        assert not any("reasoning" in event for event in followed)


def test_where_nothing_is_being_written_there_is_nothing_to_follow(servers: Servers, slow: Slow):
    first, second = servers
    slow.go_on()
    assert get(second).status_code == 204
    with ask(first) as events:
        text_of(events)
    for url in servers:
        response = get(url)
        assert (response.status_code, response.content) == (204, b"")
        assert not stop(url)


@pytest.mark.parametrize("query", ["?after=x", "?after=-1", "?after=1.5", "?after=9999999999", "?reasoning=1"])
def test_what_cannot_be_used_is_400(serve: Serve, query: str):
    response = get(serve(), f"{STREAM}{query}")
    assert (response.status_code, response.json()["error"]) == (400, "Invalid request")


def test_somebody_elses_answer_is_neither_followed_nor_stopped(
    serve: Serve, slow: Slow, model: ModelServer, database_url: str
):
    url = serve(database_url=database_url, openai_base_url=model.url)
    with ask(url, channelId="7") as events:
        until(events, slow.pieces[0])
        for query in ("", "?channelId=8"):
            assert get(url, f"{STREAM}{query}").status_code == 204
            stopped = httpx.delete(f"{url}{STREAM}{query}", headers=HEADERS, trust_env=False)
            assert (stopped.status_code, stopped.json()) == (404, {"error": "Not Found"})
        slow.go_on()
        assert slow.pieces[0] + text_of(events) == TEXT


# Leaving, and coming back.


def test_who_leaves_for_longer_than_the_settings_say_stops_the_answer(
    serve: Serve, model: ModelServer, slow: Slow, database_url: str
):
    url = serve(openai_base_url=model.url, chat_leave_seconds=0.3, database_url=database_url)
    with ask(url) as events:
        until(events, slow.pieces[0])
    with stream(url) as events:  # back in time
        until(events, slow.pieces[0])
        slow.go_on(1)
        until(events, slow.pieces[1])
        time.sleep(0.5)
        assert model.aborted == 0
    wait_until(lambda: model.aborted == 1)
    wait_until(lambda: kept_in(url)[-1] == ("assistant", "".join(slow.pieces[:2]), "left"))


def test_a_follower_in_another_process_is_a_reader(serve: Serve, model: ModelServer, slow: Slow, database_url: str):
    settings: dict[str, Any] = {"openai_base_url": model.url, "database_url": database_url, "chat_leave_seconds": 0.5}
    first, second = serve(**settings), serve(**settings)
    with ExitStack() as asking, ExitStack() as following:
        until(asking.enter_context(ask(first)), slow.pieces[0])
        followed = following.enter_context(stream(second))
        id = until(followed, slow.pieces[0])
        time.sleep(0.3)  # the writer's process sees at its next look that somebody follows
        asking.close()
        time.sleep(1)
        slow.go_on()
        assert text_of(followed) == TEXT[int(id) :]
    assert model.aborted == 0


def test_a_conversation_that_goes_on_does_not_wait_for_who_left(servers: Servers, model: ModelServer, slow: Slow):
    first, second = servers
    with ask(first) as events:
        until(events, slow.pieces[0])
    model.answer = two_words
    with ask(second, message="Something else", messageId="n") as events:
        text_of(events)
    assert [message["content"] for message in model.asked[-1]["messages"]] == ["Hi", slow.pieces[0], "Something else"]
    assert [state for _, _, state in kept_in(second)] == ["done", "left", "done", "done"]
    wait_until(lambda: model.aborted == 1)


def test_a_conversation_that_goes_on_leaves_what_is_read_alone(servers: Servers, model: ModelServer, slow: Slow):
    first, second = servers
    with ask(first) as events:
        until(events, slow.pieces[0])
        with ask(second, message="Something else", messageId="n") as others:
            until(others, slow.pieces[0])
            slow.go_on()
            assert slow.pieces[0] + text_of(others) == slow.pieces[0] + text_of(events) == TEXT
    assert [message["content"] for message in model.asked[-1]["messages"]] == ["Something else"]
    assert [state for _, _, state in kept_in(second)] == ["done", "done", "done", "done"]
    assert model.aborted == 0


# Stopping.


@pytest.mark.parametrize("query", ["", "?messageId=m", "?messageId=m-answer"])
def test_an_answer_is_stopped_by_a_request(servers: Servers, slow: Slow, model: ModelServer, query: str):
    first, second = servers
    with ask(first) as events:
        until(events, slow.pieces[0])
        assert stop(second, query)
        error, done = events
        assert (json.loads(error.data), done.data) == ({"error": "The answer was stopped."}, "[DONE]")
    wait_until(lambda: model.aborted == 1)
    wait_until(lambda: kept_in(second)[-1] == ("assistant", slow.pieces[0], "stopped"))
    last = get(second, "/api/conversations/c").json()["data"]["messages"][-1]
    assert (last["state"], last["reason"]) == ("stopped", "client")
    assert not stop(second, query)


def test_a_stop_for_an_older_message_does_nothing(servers: Servers, slow: Slow, model: ModelServer):
    first, second = servers
    slow.go_on()
    with ask(first) as events:
        text_of(events)
    slow.may = 1
    with ask(first, messageId="n", message="More") as events:
        until(events, slow.pieces[0])
        assert not stop(second, "?messageId=m")
        assert not stop(second, "?messageId=none")
        slow.go_on()
        assert slow.pieces[0] + text_of(events) == TEXT
    assert model.aborted == 0


def test_of_two_stops_and_an_end_the_first_counts(serve: Serve, slow: Slow, model: ModelServer, database_url: str):
    url = serve(database_url=database_url, openai_base_url=model.url)
    with ask(url) as events:
        until(events, slow.pieces[0])
        assert stop(url)
        assert not stop(url)
        text = [json.loads(event.data) for event in list(events)[:-1]]
    assert text == [{"error": "The answer was stopped."}]
    wait_until(lambda: kept_in(url)[-1][2] == "stopped")


# How many.


def test_answers_that_are_written_count_read_or_not(serve: Serve, slow: Slow, model: ModelServer, database_url: str):
    url = serve(database_url=database_url, openai_base_url=model.url, chat_max_streams=1)
    with ask(url) as events:
        until(events, slow.pieces[0])
    assert httpx.post(f"{url}/api/chat", json={"message": "Hi"}, headers=HEADERS, trust_env=False).status_code == 503
    with ask(url) as events:  # who joins takes no place
        slow.go_on()
        assert text_of(events) == TEXT
    with ask(url) as events:
        assert text_of(events) == TEXT


def test_hundreds_of_readers_of_one_answer(serve: Serve, slow: Slow, model: ModelServer, database_url: str):
    url = serve(database_url=database_url, openai_base_url=model.url)

    there: set[int] = set()

    async def follow(client: httpx.AsyncClient, number: int) -> str:
        async with client.stream("GET", f"{url}{STREAM}") as response:
            there.add(number)
            if len(there) == 300:
                slow.go_on()
            return (await response.aread()).decode()

    async def all_of_them() -> list[str]:
        limits = httpx.Limits(max_connections=300)
        async with httpx.AsyncClient(headers=HEADERS, timeout=60, trust_env=False, limits=limits) as client:
            return list(await asyncio.gather(*(follow(client, number) for number in range(300))))

    with ask(url) as events:
        until(events, slow.pieces[0])
        texts = asyncio.run(all_of_them())
        assert slow.pieces[0] + text_of(events) == TEXT
    for text in texts:
        frames = [line[6:] for line in text.split("\n") if line.startswith("data: {")]
        assert "".join(json.loads(frame)["text"] for frame in frames) == TEXT
