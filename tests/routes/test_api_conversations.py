"""GET and DELETE /api/conversations, by the front door, and what a conversation means for POST /api/chat."""

import base64
import json
import logging
import re
from typing import Any

import httpx
import pytest

from answers.writing import GONE
from db import database
from tests.conftest import HEADERS, TOKEN, Serve, kept_in
from tests.servers import Exchange, ModelServer, breaks_off, one_piece, wait_until


def get(url: str, path: str = "/api/conversations", **query: Any) -> httpx.Response:
    return httpx.get(f"{url}{path}", params=query, headers=HEADERS, trust_env=False)


def delete(url: str, path: str, **query: Any) -> httpx.Response:
    return httpx.delete(f"{url}{path}", params=query, headers=HEADERS, trust_env=False)


def ask(url: str, message: str = "Hi", headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    body = {"message": message, **body}
    return httpx.post(f"{url}/api/chat", json=body, headers=HEADERS | (headers or {}), timeout=20, trust_env=False)


def text_of(response: httpx.Response) -> str:
    assert response.text.endswith("data: [DONE]\n\n")
    return "".join(json.loads(line[6:])["text"] for line in response.text.splitlines() if line.startswith("data: {"))


def told(model: ModelServer) -> list[tuple[str, str]]:
    """What the model was told last."""
    return [(message["role"], message["content"]) for message in model.asked[-1]["messages"]]


async def insert(database_url: str, *rows: tuple[str, float]) -> None:
    """Put conversations of the channel "web" into the app's database, by (id, created_at)."""
    db = database(database_url)
    await db.open()
    sql = "INSERT INTO house_conversation (id, channel, model, created_at) VALUES ($1, 'web', 'smart', $2)"
    await db.write(*((sql, row) for row in rows))
    await db.aclose()


def pages(url: str, **query: Any) -> list[list[str]]:
    """The ids on each page, until the last; everybody's unless an owner is named."""
    query |= {} if "channelId" in query else {"all": "true"}
    found: list[list[str]] = []
    while len(found) < 100:
        data = get(url, **query).json()["data"]
        found.append([conversation["id"] for conversation in data["conversations"]])
        if data["next"] is None:
            return found
        query["cursor"] = data["next"]
    raise AssertionError("the pages do not end")


# The list.


def test_a_conversation_is_listed_and_read_as_it_was_held(serve: Serve, model: ModelServer):
    url = serve(openai_base_url=model.url)
    id = ask(url, model="fast", channelId="7").headers["x-conversation-id"]
    listed = get(url, channelId="7").json()
    [conversation] = listed["data"]["conversations"]
    created = conversation.pop("created")
    assert listed["success"] is True
    assert conversation == {"id": id, "channel": "web", "channelId": "7", "model": "fast", "title": "Hi"}
    assert created.endswith("Z")
    data = get(url, f"/api/conversations/{id}", channelId="7").json()["data"]
    messages = data.pop("messages")
    assert data == conversation | {"created": created}
    assert [(m["role"], m["content"], m["state"], m["created"]) for m in messages] == [
        ("user", "Hi", "done", created),
        ("assistant", "Hello", "done", created),
    ]


@pytest.mark.parametrize("limit", [1, 7, 20, 100])
async def test_pages_follow_each_other_newest_first(serve: Serve, tmp_path: Any, limit: int):
    at = f"sqlite:///{tmp_path}/app.db"
    url = serve(database_url=at)
    # three conversations a second: those of the same moment are told apart by their ids
    await insert(at, *((f"c{n:02}", 1000.0 + n // 3) for n in range(45)))
    found = pages(url, limit=limit)
    assert [id for page in found for id in page] == [f"c{n:02}" for n in range(44, -1, -1)]
    assert {len(page) for page in found[:-1]} <= {limit}


async def test_a_conversation_that_begins_meanwhile_moves_no_page(serve: Serve, tmp_path: Any):
    at = f"sqlite:///{tmp_path}/app.db"
    url = serve(database_url=at)
    await insert(at, *((f"c{n}", float(n)) for n in range(4)))
    first = get(url, all="true", limit=2).json()["data"]
    await insert(at, ("new", 9.0))
    second = get(url, all="true", limit=2, cursor=first["next"]).json()["data"]
    assert [c["id"] for c in second["conversations"]] == ["c1", "c0"]
    assert second["next"] is None


def test_an_empty_list_is_an_empty_page(serve: Serve):
    assert get(serve(), all="true").json() == {"success": True, "data": {"conversations": [], "next": None}}


def cursor(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "-1"}, "limit"),
        ({"limit": "1.5"}, "limit"),
        ({"limit": ""}, "limit"),
        ({"limit": "ten"}, "limit"),
        ({"limit": "²"}, "limit"),
        ({"limit": "9" * 5000}, "limit"),
        ({"limit": "000000050999"}, "limit"),
        ({"limit": "000000001" + "0" * 5000}, "limit"),
        ({"cursor": "x"}, "cursor"),
        ({"cursor": "é"}, "cursor"),
        ({"cursor": cursor("x")}, "cursor"),
        ({"cursor": cursor(["1", "x"])}, "cursor"),
        ({"cursor": cursor([1.0, 2])}, "cursor"),
        ({"cursor": cursor([1.0, "x", 3])}, "cursor"),
        ({"cursor": cursor([1.0, "\ud83d"])}, "cursor"),
        ({"cursor": cursor({"a": 1, "b": 2})}, "cursor"),
        ({"cursor": base64.urlsafe_b64encode(b"[" * 1500).decode()}, "cursor"),
    ],
)
def test_a_wrong_limit_or_cursor_is_400_and_named(serve: Serve, query: dict[str, str], field: str):
    response = get(serve(), **query)
    assert (response.status_code, response.json()["error"]) == (400, "Invalid request")
    [detail] = response.json()["details"]
    assert detail["field"] == field


def test_an_owner_sees_its_own_conversations_and_a_service_names_one_or_says_all(serve: Serve, model: ModelServer):
    url = serve(openai_base_url=model.url)
    ask(url, conversationId="a")
    ask(url, conversationId="b", channelId="1")
    ask(url, conversationId="a", channelId="1")
    assert pages(url) == [["a", "b", "a"]]
    assert pages(url, channelId="1") == [["a", "b"]]
    assert pages(url, channelId="2") == [[]]
    response = get(url)
    assert (response.status_code, response.json()["details"][0]["field"]) == (400, "channelId")


# One conversation.


def test_what_is_not_there_is_404(serve: Serve):
    url = serve()
    for response in (get(url, "/api/conversations/x"), delete(url, "/api/conversations/x")):
        assert (response.status_code, response.json()) == (404, {"error": "Not Found"})


def test_another_owners_conversation_is_the_same_404_as_none(serve: Serve, model: ModelServer):
    url = serve(openai_base_url=model.url)
    good, model.answer = model.answer, breaks_off
    ask(url, "secret", conversationId="c", channelId="7", messageId="m")
    model.answer = good
    path, none = "/api/conversations/c", get(url, "/api/conversations/none")
    places: list[dict[str, Any]] = [{}, {"channelId": "8"}]
    for place in places:
        for response in (get(url, path, **place), delete(url, path, **place)):
            assert (response.status_code, response.content) == (404, none.content)
        assert text_of(ask(url, "mine", conversationId="c", messageId="m", **place)) == "Hello"
        assert told(model) == [("user", "mine")]
    data = get(url, path, channelId="7").json()["data"]
    assert [message["content"] for message in data["messages"]] == ["secret", "Hel"]
    assert delete(url, path, channelId="7").status_code == 200
    assert get(url, path, channelId="7").status_code == 404
    assert get(url, path, channelId="8").status_code == 200


def test_a_deleted_conversation_is_gone_and_its_id_begins_anew(serve: Serve, model: ModelServer):
    url = serve(openai_base_url=model.url)
    ask(url, "one", conversationId="a/b")
    assert delete(url, "/api/conversations/a%2Fb").json() == {"success": True, "data": {"id": "a/b"}}
    assert get(url, "/api/conversations/a%2Fb").status_code == 404
    assert delete(url, "/api/conversations/a%2Fb").status_code == 404
    assert pages(url) == [[]]
    ask(url, "two", conversationId="a/b")
    assert told(model) == [("user", "two")]


def test_a_conversation_deleted_while_it_is_answered_stays_deleted(serve: Serve, model: ModelServer):
    url = serve(openai_base_url=model.url)

    async def wait(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.delta("Hel")
        gone.append(delete(url, "/api/conversations/c").status_code)
        await exchange.hang()

    gone: list[int] = []
    model.answer = wait
    *_, last, done, _ = ask(url, conversationId="c").text.split("\n\n")
    assert (last.split("data: ")[1], done) == (json.dumps({"error": GONE}), "data: [DONE]")
    assert gone == [200]
    wait_until(lambda: model.aborted)
    assert get(url, "/api/conversations/c").status_code == 404


def test_an_answer_that_is_being_written_is_shown_with_what_was_said_so_far(serve: Serve, model: ModelServer):
    url = serve(openai_base_url=model.url, chat_leave_seconds=0)
    model.answer = one_piece
    body = {"message": "Hi", "conversationId": "c"}
    with httpx.stream("POST", f"{url}/api/chat", json=body, headers=HEADERS, trust_env=False) as response:
        frames = response.iter_lines()  # dropped, it would close the connection
        assert [next(frames), next(frames)] == ["id: 3", 'data: {"text": "Hel"}']
        assert kept_in(url) == [("user", "Hi", "done"), ("assistant", "Hel", "running")]
    wait_until(lambda: kept_in(url) == [("user", "Hi", "done"), ("assistant", "Hel", "left")])


def test_a_message_has_its_id_and_an_answer_how_it_ended(serve: Serve, model: ModelServer):
    async def cut(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.delta("Hel", "length")
        await exchange.done()

    model.answer = cut
    url = serve(openai_base_url=model.url)
    ask(url, conversationId="c", messageId="m")
    ask(url, "Go on", conversationId="c")  # a message without an id gets one
    messages = get(url, "/api/conversations/c").json()["data"]["messages"]
    assert [message["id"] for message in messages][:2] == ["m", "m-answer"]
    assert messages[3]["id"] == f"{messages[2]['id']}-answer"
    assert list(messages[0]) == ["id", "role", "content", "state", "created"]
    ended = {name: messages[1][name] for name in ("state", "finish", "reason", "tokensIn", "tokensOut")}
    assert ended == {"state": "done", "finish": "length", "reason": None, "tokensIn": None, "tokensOut": None}


@pytest.mark.parametrize("path", ["/api/conversations", "/api/conversations/c"])
def test_without_the_token_it_is_closed(serve: Serve, path: str):
    url = serve()
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
        for method in ("GET", "DELETE") if path.endswith("c") else ("GET",):
            response = httpx.request(method, f"{url}{path}", headers=headers, trust_env=False)
            assert (response.status_code, response.json()) == (401, {"error": "Unauthorized"})


# What the model is told.


def test_the_model_is_told_the_conversation_so_far(serve: Serve, counting: ModelServer):
    url = serve(openai_base_url=counting.url)
    for text in ("one", "two", "three"):
        ask(url, text, conversationId="c")
    ask(url, "else", conversationId="d")
    assert [[m["content"] for m in body["messages"]] for body in counting.asked] == [
        ["one"],
        ["one", "answer 1", "two"],
        ["one", "answer 1", "two", "answer 2", "three"],
        ["else"],
    ]
    assert [m["role"] for m in counting.asked[2]["messages"]] == ["user", "assistant", "user", "assistant", "user"]


@pytest.mark.parametrize(
    ("budget", "contents"),
    [
        (1, ["four"]),
        (11, ["four"]),
        (12, ["four"]),  # a dialogue begins with a question
        (14, ["four"]),
        (15, ["two", "answer 2", "four"]),
        (26, ["one", "answer 1", "two", "answer 2", "four"]),
    ],
)
def test_the_newest_messages_that_fit_the_budget_are_told(
    serve: Serve, counting: ModelServer, budget: int, contents: list[str]
):
    url = serve(openai_base_url=counting.url, chat_history_chars=budget, system_prompt="A prompt is not counted.")
    for text in ("one", "two", "four"):
        ask(url, text, conversationId="c")
    assert told(counting)[0] == ("system", "A prompt is not counted.")
    assert [content for _, content in told(counting)[1:]] == contents


def test_what_was_said_before_an_answer_broke_off_is_told_again(serve: Serve, model: ModelServer):
    url = serve(openai_base_url=model.url)
    good, model.answer = model.answer, breaks_off
    ask(url, "one", conversationId="c")
    model.answer = good
    ask(url, "two", conversationId="c")
    assert told(model) == [("user", "one"), ("assistant", "Hel"), ("user", "two")]


# The same message again.


def test_a_repeat_of_a_finished_answer_comes_from_the_store(serve: Serve, counting: ModelServer):
    url = serve(openai_base_url=counting.url)
    first = ask(url, conversationId="c", messageId="m")
    again = ask(url, conversationId="c", messageId="m")
    assert (text_of(first), text_of(again)) == ("answer 1", "answer 1")
    assert len(counting.asked) == 1
    assert kept_in(url) == [("user", "Hi", "done"), ("assistant", "answer 1", "done")]


def test_a_repeat_without_the_conversation_finds_it(serve: Serve, counting: ModelServer):
    url = serve(openai_base_url=counting.url)
    first, again = (ask(url, messageId="m") for _ in range(2))
    assert first.headers["x-conversation-id"] == again.headers["x-conversation-id"]
    assert (text_of(again), len(counting.asked)) == ("answer 1", 1)
    others: list[dict[str, Any]] = [{"messageId": "n"}, {"messageId": "m", "channelId": "7"}]
    for other in others:
        assert ask(url, **other).headers["x-conversation-id"] != first.headers["x-conversation-id"]


@pytest.mark.parametrize("leaves", [True, False], ids=["the client left", "the model broke off"])
def test_a_repeat_of_an_unfinished_answer_writes_it_again(serve: Serve, model: ModelServer, leaves: bool):
    url = serve(openai_base_url=model.url, chat_leave_seconds=0)
    good, model.answer = model.answer, one_piece if leaves else breaks_off
    body = {"message": "Hi", "conversationId": "c", "messageId": "m"}
    with httpx.stream("POST", f"{url}/api/chat", json=body, headers=HEADERS, trust_env=False) as response:
        frames = response.iter_lines()
        assert [next(frames), next(frames)] == ["id: 3", 'data: {"text": "Hel"}']
        if not leaves:
            assert 'data: {"error": "The model broke off its answer."}' in list(frames)
    ended = "left" if leaves else "error"
    wait_until(lambda: kept_in(url) == [("user", "Hi", "done"), ("assistant", "Hel", ended)])
    model.answer = good
    assert text_of(ask(url, conversationId="c", messageId="m")) == "Hello"
    assert told(model) == [("user", "Hi")]
    assert kept_in(url) == [("user", "Hi", "done"), ("assistant", "Hello", "done")]


def test_the_id_of_another_message_is_400(serve: Serve, model: ModelServer):
    url = serve(openai_base_url=model.url)
    ask(url, "one", conversationId="c", messageId="m")
    response = ask(url, "two", conversationId="c", messageId="m")
    assert response.status_code == 400
    assert response.json()["details"] == [
        {"field": "messageId", "message": "belongs to another message of the conversation"}
    ]
    assert len(model.asked) == 1
    assert ask(url, "two", conversationId="d", messageId="m").status_code == 200


# The line in the log.


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "request"]


def words(line: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in line.split(" ")[4:])


def test_a_chat_leaves_one_line_that_says_how_it_went(
    serve: Serve, model: ModelServer, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "request")
    url = serve(openai_base_url=model.url)
    response = ask(url, "private", headers={"X-Request-Id": "r-1"}, conversationId="c", messageId="private-id")
    assert response.headers["x-request-id"] == "r-1"
    wait_until(lambda: lines(caplog))
    [line] = lines(caplog)
    assert line.split(" ")[:3] == ["POST", "/api/chat", "200"]
    assert line.split(" ")[3].removesuffix("ms").isdigit()
    said = words(line)
    assert said.pop("first_ms").isdigit()
    assert said == {"id": "r-1", "conversation": "c", "ended": "done", "pieces": "2"}


@pytest.mark.parametrize(("leaves", "ended"), [(True, "left"), (False, "error")])
def test_the_line_says_how_a_stream_ended(
    serve: Serve, model: ModelServer, caplog: pytest.LogCaptureFixture, leaves: bool, ended: str
):
    caplog.set_level(logging.INFO, "request")
    url = serve(openai_base_url=model.url)
    model.answer = one_piece if leaves else breaks_off
    with httpx.stream("POST", f"{url}/api/chat", json={"message": "Hi"}, headers=HEADERS, trust_env=False) as response:
        for line in response.iter_lines():
            if leaves and "Hel" in line:
                break
    wait_until(lambda: lines(caplog))
    [line] = lines(caplog)
    assert line.split(" ")[2] == "200"
    assert words(line)["ended"] == ended
    assert words(line)["pieces"] == "1"  # the error frame is none


def test_the_line_has_the_routes_path_and_nothing_private(
    serve: Serve, model: ModelServer, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    url = serve(openai_base_url=model.url, openai_api_key="key-of-the-model")
    ask(url, "private question")
    get(url, "/api/conversations/private-path", channelId="private-owner")
    get(url, "/private-path/nowhere", cursor="private-query")
    httpx.get(f"{url}/api/conversations", headers={"Authorization": "Bearer wrong-token"}, trust_env=False)
    wait_until(lambda: len(lines(caplog)) == 4)
    assert [line.split(" ")[:3] for line in lines(caplog)[1:]] == [
        ["GET", "/api/conversations/[id]", "404"],
        ["GET", "-", "404"],
        ["GET", "/api/conversations", "401"],
    ]
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name in ("request", "app"))
    for private in ("private", "Hello", TOKEN, "wrong-token", "key-of-the-model"):
        assert private not in ours


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "é".encode("latin-1")])
def test_a_request_id_that_cannot_stand_in_the_line_is_replaced(serve: Serve, given: Any):
    url = serve()
    response = httpx.get(f"{url}/x", headers={"X-Request-Id": given}, trust_env=False)
    assert re.fullmatch("[0-9a-f-]{8,40}", response.headers["x-request-id"])
    assert httpx.get(f"{url}/x", trust_env=False).headers["x-request-id"] != response.headers["x-request-id"]


def test_at_the_level_warning_requests_leave_no_line(
    serve: Serve, model: ModelServer, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.WARNING, "request")
    assert text_of(ask(serve(openai_base_url=model.url))) == "Hello"
    assert lines(caplog) == []


def test_a_conversation_that_somebody_has_filled_is_told_from_its_end(serve: Serve, model: ModelServer):
    url = serve(openai_base_url=model.url)
    for n in range(6):
        assert ask(url, f"{n}" * 900_000, conversationId="c", messageId=f"m{n}").status_code == 200
    answer = get(url, "/api/conversations/c")
    asked = [message["id"] for message in answer.json()["data"]["messages"] if message["role"] == "user"]
    assert asked == ["m1", "m2", "m3", "m4", "m5"]
    assert answer.json()["data"]["title"] == "0" * 100
