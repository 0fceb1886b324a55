"""POST /api/chat/ui, by the front door: what `useChat` sends, and the parts that it reads."""

import asyncio
import json
import logging
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from db import database
from tests.conftest import HEADERS, SECRET, Serve, kept_in
from tests.servers import Exchange, ModelServer, breaks_off, one_piece, wait_until

Message = dict[str, Any]


def user(text: str, id: str = "q1") -> Message:
    return {"id": id, "role": "user", "parts": [{"type": "text", "text": text}]}


def assistant(text: str, id: str = "q1-answer") -> Message:
    return {"id": id, "role": "assistant", "parts": [{"type": "step-start"}, {"type": "text", "text": text}]}


def body_of(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"id": "c", "messages": list(messages), "trigger": "submit-message"} | more


def ask(url: str, *messages: Any, **more: Any) -> httpx.Response:
    return send(url, body_of(*(messages or [user("Hi")]), **more))


def send(url: str, body: Any) -> httpx.Response:
    return httpx.post(f"{url}/api/chat/ui", json=body, headers=HEADERS, timeout=20, trust_env=False)


def parts_of(response: httpx.Response) -> list[Any]:
    """The parts of a stream, without the [DONE] that must end it."""
    *frames, done, nothing = response.text.split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


def text_of(response: httpx.Response) -> str:
    return "".join(part["delta"] for part in parts_of(response) if part["type"] == "text-delta")


def told(model: ModelServer) -> list[str]:
    """What the model was told last, without the roles."""
    return [message["content"] for message in model.asked[-1]["messages"]]


def test_an_answer_is_a_ui_message_stream(serve: Serve, model: ModelServer):
    response = ask(serve(openai_base_url=model.url))
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["x-vercel-ai-ui-message-stream"] == "v1"
    assert response.headers["x-conversation-id"] == "c"
    assert response.content == (
        b'data: {"type": "start", "messageId": "q1-answer"}\n\n'
        b'data: {"type": "start-step"}\n\n'
        b'data: {"type": "text-start", "id": "text"}\n\n'
        b'data: {"type": "text-delta", "id": "text", "delta": "Hel"}\n\n'
        b'data: {"type": "text-delta", "id": "text", "delta": "lo"}\n\n'
        b'data: {"type": "text-end", "id": "text"}\n\n'
        b'data: {"type": "finish-step"}\n\n'
        b'data: {"type": "finish", "finishReason": "stop"}\n\n'
        b"data: [DONE]\n\n"
    )


@pytest.mark.parametrize(
    ("body", "question"),
    [
        (body_of(user("Hi")), "Hi"),
        (body_of(user("before"), assistant("yes"), user("Hi", "q2")), "Hi"),
        (body_of({"role": "system", "parts": []}, user("Hi")), "Hi"),
        (body_of({"id": "q", "role": "user", "parts": [{"type": "text", "text": t} for t in ("H", "i")]}), "Hi"),
        (body_of({"id": "q", "role": "user", "parts": [{"type": "data-x"}, {"type": "text", "text": "Hi"}]}), "Hi"),
        (body_of({"role": "user", "parts": [{"type": "text", "text": "Hi"}]}), "Hi"),
        (body_of(user("Hi"), trigger=None, messageId=None, anything={"else": 1}), "Hi"),
        (body_of(user('"q" \\ \n \u2028 👩‍💻')), '"q" \\ \n \u2028 👩‍💻'),
    ],
)
def test_the_last_message_of_the_user_is_the_question(serve: Serve, model: ModelServer, body: Any, question: str):
    assert text_of(send(serve(openai_base_url=model.url), body)) == "Hello"
    assert model.asked[0]["messages"] == [{"role": "user", "content": question}]


def test_the_examples_of_the_document_are_questions(serve: Serve, model: ModelServer):
    url = serve(openai_base_url=model.url)
    document = httpx.get(f"{url}/api/openapi.json", headers={"X-Cron-Secret": SECRET}, trust_env=False).json()
    body = document["paths"]["/api/chat/ui"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    answers = [text_of(send(url, example)) for example in body["examples"]]
    assert answers == ["Hello", "Hello"]  # all messages, and the last one alone


def test_the_model_and_the_owner_are_chosen_as_in_the_chat(serve: Serve, model: ModelServer):
    url = serve(openai_base_url=model.url, model_fast="quick")
    assert ask(url, model="fast", channel="web", channelId="7").status_code == 200
    assert model.asked[0]["model"] == "quick"
    data = httpx.get(f"{url}/api/conversations/c?channelId=7", headers=HEADERS, trust_env=False).json()["data"]
    assert (data["channel"], data["channelId"]) == ("web", "7")


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ([], "messages", "must hold a user message"),
        ("Hi", "messages", "must hold a user message"),
        ({"id": "c"}, "messages", "must hold a user message"),
        ({"id": "c", "message": assistant("Hi")}, "messages", "must hold a user message"),
        ({"id": "c", "message": {"role": "user"}}, "messages", "must hold a user message"),
        ({"id": "c", "trigger": "regenerate-message"}, "messages", "must hold a user message"),
        (body_of(user("Hi"), reasoning=1), "reasoning", "must be true or false"),
        ({"id": "c", "messages": "Hi"}, "messages", "must hold a user message"),
        (body_of("Hi"), "messages", "must hold a user message"),
        (body_of(assistant("Hi")), "messages", "must hold a user message"),
        (body_of({"role": "user", "content": "Hi"}), "messages", "must hold a user message"),
        (body_of({"role": "user", "parts": ["Hi"]}), "messages", "must hold a user message"),
        (body_of({"role": "user", "parts": [{"type": "text", "text": 7}]}), "messages", "must hold a user message"),
        (body_of({"role": "user", "parts": [{"type": "file", "url": "x"}]}), "messages", "only text"),
        ({"messages": [user("Hi")]}, "id", "must be the chat's id"),
        (body_of(user("Hi"), id=None), "id", "must be the chat's id"),
        (body_of(user("Hi"), id=7), "id", "must be the chat's id"),
        (body_of(user("Hi"), id="é"), "conversationId", "visible ASCII"),
        (body_of(user(" ")), "message", "must be a non-empty string"),
        (body_of(user("Hi") | {"id": 7}), "messageId", "must be a string of 1 to 200 characters or null"),
        (body_of(user("Hi"), model="gpt-9"), "model", 'must be one of "smart", "fast"'),
    ],
)
def test_what_cannot_be_used_is_400_and_named(serve: Serve, model: ModelServer, body: Any, field: str, words: str):
    response = send(serve(openai_base_url=model.url), body)
    assert (response.status_code, response.json()["error"]) == (400, "Invalid request")
    [detail] = response.json()["details"]
    assert detail["field"] == field
    assert words in detail["message"]
    assert model.asked == []


def test_without_the_token_it_is_closed(serve: Serve, model: ModelServer):
    url = serve(openai_base_url=model.url)
    response = httpx.post(f"{url}/api/chat/ui", json=body_of(user("Hi")), trust_env=False)
    assert (response.status_code, response.json()) == (401, {"error": "Unauthorized"})
    assert model.asked == []


@pytest.mark.parametrize(("upstream", "status"), [(401, 502), (429, 503), (500, 502)])
def test_a_failure_before_the_first_piece_is_an_honest_status(
    serve: Serve, model: ModelServer, upstream: int, status: int
):
    async def fail(exchange: Exchange) -> None:
        await exchange.head(upstream, retry_after="60")

    model.answer = fail
    response = ask(serve(openai_base_url=model.url))
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]


def test_a_failure_later_is_an_error_part(serve: Serve, model: ModelServer):
    model.answer = breaks_off
    parts = parts_of(ask(serve(openai_base_url=model.url)))
    assert [part["type"] for part in parts] == ["start", "start-step", "text-start", "text-delta", "error"]
    assert parts[-1] == {"type": "error", "errorText": "The model broke off its answer."}


def test_the_history_is_ours_whatever_the_client_sends(serve: Serve, counting: ModelServer):
    url = serve(openai_base_url=counting.url)
    ask(url, user("one"))
    ask(url, user("one"), assistant("forged"), user("two", "q2"))
    assert told(counting) == ["one", "answer 1", "two"]


def test_the_same_question_again_is_answered_from_the_store(serve: Serve, counting: ModelServer):
    url = serve(openai_base_url=counting.url)
    first, second = ask(url), ask(url)
    assert parts_of(first) == parts_of(second)
    assert len(counting.asked) == 1


def test_regenerate_asks_the_model_again_and_replaces_the_answer(serve: Serve, counting: ModelServer):
    url = serve(openai_base_url=counting.url)
    first = ask(url, user("one"))
    again = ask(url, user("one"), trigger="regenerate-message")
    assert (text_of(first), text_of(again)) == ("answer 1", "answer 2")
    assert parts_of(again)[0] == parts_of(first)[0] == {"type": "start", "messageId": "q1-answer"}
    assert told(counting) == ["one"]
    assert kept_in(url) == [("user", "one", "done"), ("assistant", "answer 2", "done")]


def test_regenerate_of_an_earlier_answer_forgets_what_came_after_it(serve: Serve, counting: ModelServer):
    url = serve(openai_base_url=counting.url)
    ask(url, user("one"))
    ask(url, user("two", "q2"))
    assert text_of(ask(url, user("one"), trigger="regenerate-message", messageId="q1-answer")) == "answer 3"
    assert kept_in(url) == [("user", "one", "done"), ("assistant", "answer 3", "done")]
    ask(url, user("three", "q3"))
    assert told(counting) == ["one", "answer 3", "three"]


def test_regenerate_after_a_failure_writes_the_answer(serve: Serve, model: ModelServer, counting: ModelServer):
    url = serve(openai_base_url=model.url)
    good, model.answer = model.answer, breaks_off
    ask(url)
    model.answer = good
    assert text_of(ask(url, trigger="regenerate-message")) == "answer 2"
    assert kept_in(url) == [("user", "Hi", "done"), ("assistant", "answer 2", "done")]


def test_an_edited_question_replaces_the_old_one_and_all_after_it(serve: Serve, counting: ModelServer):
    url = serve(openai_base_url=counting.url)
    ask(url, user("one"))
    ask(url, user("two", "q2"))
    ask(url, user("three", "q3"))
    assert text_of(ask(url, user("two!", "q2"), messageId="q2")) == "answer 4"
    assert told(counting) == ["one", "answer 1", "two!"]
    assert [content for _, content, _ in kept_in(url)] == ["one", "answer 1", "two!", "answer 4"]


def test_another_question_under_the_same_id_is_400_unless_it_is_an_edit(serve: Serve, counting: ModelServer):
    url = serve(openai_base_url=counting.url)
    ask(url, user("one"))
    response = ask(url, user("two"))
    assert (response.status_code, response.json()["details"][0]["field"]) == (400, "messageId")


def test_messages_without_ids_get_an_id_each(serve: Serve, counting: ModelServer):
    url = serve(openai_base_url=counting.url)
    ids: set[str] = set()
    for text in ("one", "two"):  # one id for both, and the client would put the second in the place of the first
        start = parts_of(ask(url, user(text) | {"id": None}))[0]
        ids.add(start["messageId"])
    assert len(ids) == 2
    assert [content for _, content, _ in kept_in(url)] == ["one", "answer 1", "two", "answer 2"]


def test_a_client_that_stops_the_answer_keeps_what_was_said(serve: Serve, model: ModelServer):
    url = serve(openai_base_url=model.url, chat_leave_seconds=0)
    model.answer = one_piece
    with httpx.stream(
        "POST", f"{url}/api/chat/ui", json=body_of(user("Hi")), headers=HEADERS, trust_env=False
    ) as response:
        lines = response.iter_lines()
        while "Hel" not in next(lines):
            pass
    wait_until(lambda: model.aborted == 1)
    wait_until(lambda: kept_in(url) == [("user", "Hi", "done"), ("assistant", "Hel", "left")])


def test_an_emoji_split_over_two_pieces_arrives_whole(serve: Serve, model: ModelServer):
    async def split(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.send(b'data: {"choices": [{"delta": {"content": "a\\ud83d"}}]}\n\n')
        await exchange.send(b'data: {"choices": [{"delta": {"content": "\\udc4b\\u2028"}}]}\n\n')
        await exchange.done()

    model.answer = split
    url = serve(openai_base_url=model.url)
    response = ask(url)
    assert response.content.isascii()
    assert text_of(response) == "a👋\u2028"
    assert all(part["delta"].encode() for part in parts_of(response) if "delta" in part)  # no half of a pair


def test_the_line_in_the_log_counts_pieces_of_the_answer_and_no_other_parts(
    serve: Serve, model: ModelServer, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "request")
    assert len(parts_of(ask(serve(openai_base_url=model.url)))) == 8
    wait_until(lambda: "pieces=2" in caplog.text)


# The persistence pattern of the AI SDK's documents, and ids.


def test_one_message_is_taken_too_and_its_answer_can_be_asked_for_again(serve: Serve, counting: ModelServer):
    url = serve(openai_base_url=counting.url)
    body = {"id": "c", "message": user("one"), "trigger": "submit-message"}
    assert text_of(send(url, body)) == "answer 1"
    for number, again in enumerate(({"message": user("one")}, {"messageId": "q1-answer"}, {"messageId": "q1"}, {}), 2):
        response = send(url, {"id": "c", "trigger": "regenerate-message", **again})
        assert text_of(response) == f"answer {number}"
        assert parts_of(response)[0] == {"type": "start", "messageId": "q1-answer"}
        assert kept_in(url) == [("user", "one", "done"), ("assistant", f"answer {number}", "done")]


def test_regenerate_with_ids_that_are_not_known_means_the_last_question(serve: Serve, counting: ModelServer):
    url = serve(openai_base_url=counting.url)
    ask(url, user("one"))
    ask(url, user("two", "q2"))
    again = ask(url, user("two", "unknown"), trigger="regenerate-message", messageId="unknown too")
    assert text_of(again) == "answer 3"
    assert [content for _, content, _ in kept_in(url)] == ["one", "answer 1", "two", "answer 3"]
    ask(url, user("one", "unknown"), trigger="regenerate-message")  # the one with that text
    assert [content for _, content, _ in kept_in(url)] == ["one", "answer 4"]


def test_a_conversation_that_was_loaded_can_be_regenerated_and_edited(serve: Serve, counting: ModelServer):
    url = serve(openai_base_url=counting.url)
    for text in ("one", "two"):  # asked without ids
        httpx.post(
            f"{url}/api/chat", json={"message": text, "conversationId": "c"}, headers=HEADERS, trust_env=False
        ).raise_for_status()
    loaded = httpx.get(f"{url}/api/conversations/c", headers=HEADERS, trust_env=False).json()["data"]["messages"]
    first, answer, second, _ = [message["id"] for message in loaded]
    again = ask(
        url, user("one", first), assistant("answer 1", answer), user("two", second), trigger="regenerate-message"
    )
    assert text_of(again) == "answer 3"
    assert [content for _, content, _ in kept_in(url)] == ["one", "answer 1", "two", "answer 3"]
    assert text_of(ask(url, user("one!", first), messageId=first)) == "answer 4"
    assert [content for _, content, _ in kept_in(url)] == ["one!", "answer 4"]


# Coming back: GET /api/chat/ui/[id]/stream.


def resume(url: str, query: str = "") -> httpx.Response:
    return httpx.get(f"{url}/api/chat/ui/c/stream{query}", headers=HEADERS, timeout=20, trust_env=False)


def test_who_comes_back_gets_the_answer_from_its_beginning_and_then_on(serve: Serve, model: ModelServer):
    may_go_on = threading.Event()

    async def goes_on(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.delta("Hel")
        await asyncio.to_thread(may_go_on.wait, 10)
        await exchange.delta("lo", "stop")
        await exchange.done()

    model.answer = goes_on
    url = serve(openai_base_url=model.url)
    with httpx.stream(
        "POST", f"{url}/api/chat/ui", json=body_of(user("Hi")), headers=HEADERS, trust_env=False
    ) as response:
        lines = response.iter_lines()
        while "Hel" not in next(lines):
            pass
    with httpx.stream("GET", f"{url}/api/chat/ui/c/stream", headers=HEADERS, trust_env=False) as response:
        lines = response.iter_lines()
        assert next(lines) == 'data: {"type": "start", "messageId": "q1-answer"}'
        may_go_on.set()
        assert [line for line in lines if line][-2:] == [
            'data: {"type": "finish", "finishReason": "stop"}',
            "data: [DONE]",
        ]
    again = resume(url)  # it ended a moment ago: a client that was cut has half of it
    assert text_of(again) == "Hello"
    assert again.headers["x-vercel-ai-ui-message-stream"] == "v1"
    assert len(model.exchanges) == 1


def test_an_answer_that_broke_off_is_told_with_its_error(serve: Serve, model: ModelServer):
    model.answer = breaks_off
    url = serve(openai_base_url=model.url)
    ask(url)
    parts = parts_of(resume(url))
    assert [part["type"] for part in parts] == ["start", "start-step", "text-start", "text-delta", "error"]
    assert parts[-1] == {"type": "error", "errorText": "The model broke off its answer."}


async def make_older(database_url: str, seconds: float) -> None:
    db = database(database_url)
    await db.open()
    await db.write(("UPDATE house_message SET touched_at = touched_at - $1", (seconds,)))
    await db.aclose()


def test_where_nothing_was_missed_there_is_nothing_to_tell(serve: Serve, model: ModelServer, tmp_path: Path):
    at = f"sqlite:///{tmp_path}/app.db"
    url = serve(openai_base_url=model.url, database_url=at)
    assert (resume(url).status_code, resume(url).content) == (204, b"")
    ask(url)
    asyncio.run(make_older(at, 61))
    assert resume(url).status_code == 204
    assert httpx.get(f"{url}/api/chat/ui/c/stream", trust_env=False).status_code == 401
