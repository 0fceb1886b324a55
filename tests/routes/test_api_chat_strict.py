"""What a model is told of a conversation, by the front door: one that answers 400 unless the roles alternate."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import pytest

from chat import dialogue
from tests.conftest import HEADERS, Serve, kept_in
from tests.servers import Exchange, ModelServer, wait_until

Ask = Callable[[str, str], httpx.Response]


class Strict:
    """A model like Gemma's or Mistral's. It answers what the test queues: a text, a status, or None for silence."""

    def __init__(self) -> None:
        self.queue: list[str | int | None] = []

    async def __call__(self, exchange: Exchange) -> None:
        roles = roles_of(exchange.body)
        spoken = roles[1:] if roles[:1] == ["system"] else roles
        if spoken != (["user", "assistant"] * len(spoken))[: len(spoken)] or spoken[-1:] != ["user"]:
            return await exchange.head(400)
        answer = self.queue.pop(0) if self.queue else "Hello"
        if isinstance(answer, int):
            return await exchange.head(answer)
        await exchange.head()
        if answer is None:
            return await exchange.hang()
        await exchange.delta(answer, "stop")
        await exchange.done()


def roles_of(body: Any) -> list[str]:
    return [message["role"] for message in body["messages"]]


def told(model: ModelServer) -> list[tuple[str, str]]:
    """What the model was told last."""
    return [(message["role"], message["content"]) for message in model.asked[-1]["messages"]]


@pytest.fixture
def strict(model: ModelServer) -> Strict:
    model.answer = strict = Strict()
    return strict


@pytest.fixture(params=[False, True], ids=["httpx2", "aiohttp"])
def start(request: pytest.FixtureRequest, serve: Serve, model: ModelServer) -> Serve:
    return partial(serve, openai_base_url=model.url, aiohttp=request.param)


def send(url: str, path: str, body: Any) -> httpx.Response:
    return httpx.post(f"{url}{path}", json=body, headers=HEADERS, timeout=20, trust_env=False)


def in_frames(url: str, text: str) -> httpx.Response:
    return send(url, "/api/chat", {"message": text, "conversationId": "c"})


def in_parts(url: str, text: str) -> httpx.Response:
    parts = [{"type": "text", "text": text}]
    message = {"id": f"id-{text}", "role": "user", "parts": parts}
    return send(url, "/api/chat/ui", {"id": "c", "messages": [message], "trigger": "submit-message"})


@pytest.fixture(params=[in_frames, in_parts], ids=["/api/chat", "/api/chat/ui"])
def ask(request: pytest.FixtureRequest) -> Ask:
    return request.param


def text_of(response: httpx.Response) -> str:
    """What a good answer says, in the words of either door."""
    assert response.status_code == 200, response.text
    found = [json.loads(line[6:]) for line in response.text.split("\n") if line.startswith("data: {")]
    assert not any("error" in event or event.get("type") == "error" for event in found), response.text
    return "".join(event.get("text", event.get("delta", "")) for event in found)


def test_after_a_failure_the_conversation_goes_on(start: Serve, ask: Ask, strict: Strict, model: Any):
    strict.queue = ["answer 1", 402]
    url = start()
    assert text_of(ask(url, "one")) == "answer 1"
    assert ask(url, "two").status_code == 502
    assert text_of(ask(url, "three")) == "Hello"
    assert told(model) == [("user", "one"), ("assistant", "answer 1"), ("user", "two\n\nthree")]
    assert text_of(ask(url, "four")) == "Hello"
    assert told(model)[2:] == [("user", "two\n\nthree"), ("assistant", "Hello"), ("user", "four")]


def test_questions_that_failed_from_the_first_on_are_told_as_one(start: Serve, ask: Ask, strict: Strict, model: Any):
    strict.queue = [402, 402]
    url = start()
    assert [ask(url, "one").status_code, ask(url, "two").status_code] == [502, 502]
    assert text_of(ask(url, "three")) == "Hello"
    assert told(model) == [("user", "one\n\ntwo\n\nthree")]


def test_a_client_that_stopped_before_the_first_piece_can_ask_again(
    start: Serve, ask: Ask, strict: Strict, model: ModelServer
):
    strict.queue = [None]
    url = start(chat_leave_seconds=0)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{url}/api/chat",
            json={"message": "one", "conversationId": "c"},
            headers=HEADERS,
            timeout=httpx.Timeout(20, read=0.5),
            trust_env=False,
        )
    wait_until(lambda: kept_in(url)[-1] == ("assistant", "", "left"))
    assert text_of(ask(url, "two")) == "Hello"
    assert told(model) == [("user", "one\n\ntwo")]


def test_a_history_that_is_cut_begins_with_a_question(start: Serve, ask: Ask, strict: Strict, model: ModelServer):
    answers = [letter * 300 for letter in "abcd"]
    strict.queue = [*answers]
    url = start(chat_history_chars=700)
    for number, answer in enumerate(answers):
        assert text_of(ask(url, f"question {number}")) == answer
    # the third question: both answers and their questions are 620 characters; the fourth: three are too many
    assert roles_of(model.asked[2]) == ["user", "assistant", "user", "assistant", "user"]
    assert told(model) == [
        ("user", "question 1"),
        ("assistant", "b" * 300),
        ("user", "question 2"),
        ("assistant", "c" * 300),
        ("user", "question 3"),
    ]


@pytest.mark.parametrize("chars", [300, 305, 311, 400, 615, 625])
def test_wherever_a_history_is_cut_it_begins_with_a_question(
    start: Serve, strict: Strict, model: ModelServer, chars: int
):
    strict.queue = ["a" * 300, "b" * 300, "c" * 300]
    url = start(chat_history_chars=chars)
    for number in range(4):
        text_of(in_frames(url, f"question {number}"))
    assert [roles_of(body)[0] for body in model.asked] == ["user"] * 4


def test_after_a_failure_the_system_prompt_stays_in_front(start: Serve, ask: Ask, strict: Strict, model: ModelServer):
    strict.queue = ["answer 1", 402]
    url = start(system_prompt="Be short.")
    for text in ("one", "two", "three"):
        ask(url, text)
    assert told(model) == [
        ("system", "Be short."),
        ("user", "one"),
        ("assistant", "answer 1"),
        ("user", "two\n\nthree"),
    ]


@pytest.mark.parametrize(
    ("answer", "past"),
    [
        ("<think>\nplan\n</think>\n\nHello", "Hello"),
        ("plan\n</think>\n\nHello", "Hello"),
        ("Write `<b>` and 1 < 2 here.", "Write `<b>` and 1 < 2 here."),
        ("Write `<think>` and `</think>` around it.", "Write `<think>` and `</think>` around it."),
    ],
)
def test_thinking_in_an_answer_is_not_told_again_and_nothing_else_is_changed(
    start: Serve, ask: Ask, strict: Strict, model: ModelServer, answer: str, past: str
):
    strict.queue = [answer]
    url = start()
    assert text_of(ask(url, "one")) == answer
    text_of(ask(url, "two"))
    assert told(model) == [("user", "one"), ("assistant", past), ("user", "two")]
    assert kept_in(url)[1] == ("assistant", answer, "done")


def test_an_answer_that_is_all_thinking_is_none(start: Serve, ask: Ask, strict: Strict, model: Any):
    strict.queue = ["<think>\nplan, and cut"]
    url = start()
    ask(url, "one")
    text_of(ask(url, "two"))
    assert told(model) == [("user", "one\n\ntwo")]


def test_a_repeat_that_is_being_answered_does_not_take_its_failed_first_try_along():
    rows: list[Any] = [
        {"role": role, "content": content, "is_running": running}
        for role, content, running in (
            ("user", "Hi", False),
            ("assistant", "", False),
            ("user", "Hi", False),
            ("assistant", "", True),
            ("user", "Go on", False),
        )
    ]
    assert dialogue(rows) == [{"role": "user", "content": "Hi\n\nGo on"}]
    rows[3]["is_running"] = False  # it failed too: a question that was tried twice is told once
    assert dialogue(rows) == [{"role": "user", "content": "Hi\n\nGo on"}]
