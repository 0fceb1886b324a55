"""Whose is it: every kind of asker asks every route for its own things and for another's, by the front door."""

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from app import create_app
from config import Config
from llm import LLM
from tests.conftest import HEADERS, SECRET, TOKEN, Serve
from tests.servers import ModelServer, one_piece, serving, wait_until
from tests.tokens import SIGNED, visitor

OPERATOR = {"X-Cron-Secret": SECRET}
ALICE, BOB, CAROL = visitor("alice"), visitor("bob"), visitor("carol")
PATH = "/api/conversations"


@pytest.fixture
def url(database_url: str, model: ModelServer) -> Iterator[str]:
    """The app on either engine, with visitors let in."""
    settings: dict[str, Any] = {"webchat_token": TOKEN, "cron_secret": SECRET, "telegram_webhook_secret": SECRET}
    with serving(Starlette(routes=[Route("/{rest:path}", take, methods=["POST"])]), lifespan="off") as telegram:
        settings |= {"telegram_bot_token": "7:AA", "telegram_api_url": telegram, **SIGNED}
        config = Config(database_url=database_url, openai_base_url=model.url, **settings)
        with serving(create_app(config, llm=LLM(config))) as url:
            yield url


async def take(request: Request) -> JSONResponse:
    return JSONResponse({"ok": True})


def call(url: str, method: str, path: str, headers: dict[str, str], body: Any = None, **query: str) -> httpx.Response:
    return httpx.request(
        method, f"{url}{path}", headers=headers, json=body, params=query or None, timeout=30, trust_env=False
    )


def ask(url: str, headers: dict[str, str], message: str = "Hi", **body: Any) -> httpx.Response:
    return call(url, "POST", "/api/chat", headers, {"message": message, **body})


def ask_ui(
    url: str, headers: dict[str, str], id: str, message_id: str, text: str = "Hi", **body: Any
) -> httpx.Response:
    message = {"id": message_id, "role": "user", "parts": [{"type": "text", "text": text}]}
    return call(url, "POST", "/api/chat/ui", headers, {"id": id, "messages": [message], **body})


def said(url: str, headers: dict[str, str], id: str, **query: str) -> list[str]:
    """What was asked in a conversation."""
    answer = call(url, "GET", f"{PATH}/{id}", headers, **query).json()
    return [message["content"] for message in answer["data"]["messages"] if message["role"] == "user"]


def ids(answer: httpx.Response) -> list[str]:
    return sorted(conversation["id"] for conversation in answer.json()["data"]["conversations"])


# Equal ids.


def test_equal_ids_of_two_visitors_never_meet(url: str, model: ModelServer):
    for who, text in ((ALICE, "I am alice"), (BOB, "I am bob")):
        assert ask(url, who, text, conversationId="same").status_code == 200
        assert [m["content"] for m in model.asked[-1]["messages"]] == [text]
        assert ask_ui(url, who, "ui", "m", text).status_code == 200
    again = ask_ui(url, BOB, "ui", "m", "I am bob", trigger="regenerate-message")
    assert again.status_code == 200
    for id in ("same", "ui"):
        assert said(url, ALICE, id) == ["I am alice"]
        assert said(url, BOB, id) == ["I am bob"]
    asked = len(model.asked)
    first = [ask(url, who, "equal", messageId="mid").headers["x-conversation-id"] for who in (ALICE, BOB)]
    assert len(set(first)) == 2
    assert [ask(url, who, "equal", messageId="mid").headers["x-conversation-id"] for who in (ALICE, BOB)] == first
    assert len(model.asked) == asked + 2


def test_no_answer_tells_whether_somebody_elses_id_exists(url: str):
    ask(url, BOB, conversationId="bobs")
    for method in ("GET", "DELETE", "HEAD"):
        theirs, nobodys = (call(url, method, f"{PATH}/{id}", ALICE) for id in ("bobs", "none"))
        assert (theirs.status_code, theirs.content) == (404, nobodys.content)
        names = [sorted(set(answer.headers) - {"date", "x-request-id"}) for answer in (theirs, nobodys)]
        assert names[0] == names[1]
    assert said(url, BOB, "bobs") == ["Hi"]


def test_owners_and_ids_are_not_joined(url: str):
    ask(url, visitor("a"), "one", conversationId="b:c")
    ask(url, visitor("a:b"), "two", conversationId="c")
    assert said(url, visitor("a"), "b:c") == ["one"]
    assert said(url, visitor("a:b"), "c") == ["two"]


# Who names whom.


@pytest.mark.parametrize("named", [None, "alice"])
def test_a_visitor_may_name_itself(url: str, named: str | None):
    body: dict[str, Any] = {"channelId": named}
    query = {"channelId": named} if named else {}
    assert ask(url, ALICE, conversationId="c", **body).status_code == 200
    assert ask_ui(url, ALICE, "u", "m", **body).status_code == 200
    assert ids(call(url, "GET", PATH, ALICE, **query)) == ["c", "u"]
    for method in ("GET", "DELETE"):
        assert call(url, method, f"{PATH}/c", ALICE, **query).status_code == 200


@pytest.mark.parametrize("place", [{"channelId": "bob"}, {"channel": "telegram"}])
def test_a_visitor_that_names_another_is_403_everywhere(url: str, place: dict[str, str], model: ModelServer):
    ask(url, BOB, conversationId="c")
    ask(url, ALICE, conversationId="c")
    answers = [
        ask(url, ALICE, conversationId="c", **place),
        ask_ui(url, ALICE, "c", "m", **place),
        call(url, "GET", PATH, ALICE, **place),
        call(url, "GET", f"{PATH}/c", ALICE, **place),
        call(url, "DELETE", f"{PATH}/c", ALICE, **place),
    ]
    assert [answer.status_code for answer in answers] == [403] * 5
    assert call(url, "GET", PATH, ALICE, all="true").status_code == 403
    assert said(url, BOB, "c") == said(url, ALICE, "c") == ["Hi"]
    assert len(model.asked) == 2


def test_the_service_names_the_owner(url: str):
    assert ask(url, HEADERS, channelId="carol", conversationId="sc").status_code == 200
    assert said(url, CAROL, "sc") == said(url, HEADERS, "sc", channelId="carol") == ["Hi"]
    for query in ({}, {"channelId": "dora"}):
        assert call(url, "GET", f"{PATH}/sc", HEADERS, **query).status_code == 404
        assert call(url, "DELETE", f"{PATH}/sc", HEADERS, **query).status_code == 404
    assert call(url, "GET", PATH, HEADERS).status_code == 400
    assert ids(call(url, "GET", PATH, HEADERS, all="true")) == ["sc"]
    assert ids(call(url, "GET", PATH, HEADERS, channelId="carol")) == ["sc"]
    assert ids(call(url, "GET", PATH, HEADERS, channelId="dora")) == []


@pytest.mark.parametrize("who", [HEADERS, ALICE], ids=["service", "visitor"])
def test_an_empty_channel_id_is_no_check_but_400(url: str, who: dict[str, str]):
    for empty in ("", " "):
        assert ask(url, who, channelId=empty).status_code == 400
        assert call(url, "GET", PATH, who, channelId=empty).status_code == 400
        assert call(url, "GET", f"{PATH}/c", who, channelId=empty).status_code == 400
        assert call(url, "DELETE", f"{PATH}/c", who, channelId=empty).status_code == 400


@pytest.mark.parametrize("query", [{"all": "1"}, {"all": ""}, {"all": "false"}, {"all": "true", "channelId": "a"}])
def test_all_is_true_or_absent(url: str, query: dict[str, str]):
    assert call(url, "GET", PATH, HEADERS, **query).status_code == 400


# The other channels.


def deliver(url: str, update: int, text: str | None = None) -> None:
    body = {"update_id": update, "message": {"chat": {"id": 4242}, "text": text or f"update {update}"}}
    answer = call(url, "POST", "/api/webhooks/telegram", {"X-Telegram-Bot-Api-Secret-Token": SECRET}, body)
    assert answer.status_code == 200


def test_a_web_client_cannot_touch_a_person_of_telegram(url: str, model: ModelServer):
    id = "telegram:4242"
    for who in (HEADERS, ALICE):
        for body in ({}, {"channel": "telegram"}, {"channel": "telegram", "channelId": "4242"}, {"channelId": "4242"}):
            ask(url, who, "from the web", conversationId=id, **body)
            ask_ui(url, who, id, "telegram:1", "from the web", **body)
            call(url, "DELETE", f"{PATH}/{id}", who, **body)
    ask(url, HEADERS, "from the web", conversationId=id, messageId="telegram:1")
    before = len(model.asked)
    deliver(url, 1)
    wait_until(lambda: len(model.asked) > before)
    assert [m["content"] for m in model.asked[-1]["messages"]] == ["update 1"]
    where = {"channel": "telegram", "channelId": "4242"}
    wait_until(lambda: said(url, OPERATOR, id, **where) == ["update 1"])
    for who in (HEADERS, ALICE):
        assert call(url, "DELETE", f"{PATH}/{id}", who, **where).status_code == 403
        assert call(url, "GET", PATH, who, channel="telegram", all="true").status_code == 403
    before = len(model.asked)
    deliver(url, 2)
    wait_until(lambda: len(model.asked) > before)
    assert "from the web" not in json.dumps(model.asked[-1])


def test_the_operator_has_the_other_channels_and_not_the_web(url: str, model: ModelServer):
    deliver(url, 1)
    wait_until(lambda: model.asked)
    where = {"channel": "telegram"}
    wait_until(lambda: ids(call(url, "GET", PATH, OPERATOR, all="true", **where)) == ["telegram:4242"])
    assert ids(call(url, "GET", PATH, OPERATOR, channelId="4242", **where)) == ["telegram:4242"]
    assert call(url, "GET", PATH, OPERATOR, **where).status_code == 400
    bearer = {"Authorization": f"Bearer {SECRET}"}
    assert said(url, bearer, "telegram:4242", **where) == said(url, OPERATOR, "telegram:4242", **where)
    for path in (PATH, f"{PATH}/c"):
        assert call(url, "GET", path, OPERATOR, channelId="alice").status_code == 403
    assert ask(url, bearer).status_code == ask_ui(url, bearer, "c", "m").status_code == 401
    assert call(url, "DELETE", f"{PATH}/telegram:4242", OPERATOR, **where).status_code == 200
    assert call(url, "DELETE", f"{PATH}/telegram:4242", OPERATOR, **where).status_code == 404


def test_a_person_of_a_channel_is_answered_whatever_characters_they_send(url: str, model: ModelServer):
    deliver(url, 1, "before \0 after")
    wait_until(lambda: model.asked)
    assert said(url, OPERATOR, "telegram:4242", channel="telegram") == ["before \ufffd after"]


# An answer that is being written.


def test_nobody_else_follows_or_stops_an_answer(url: str, model: ModelServer):
    model.answer = one_piece
    body = {"message": "Hi", "conversationId": "live", "messageId": "m"}
    with httpx.stream("POST", f"{url}/api/chat", json=body, headers=ALICE, trust_env=False) as response:
        lines = response.iter_lines()  # dropped, it would close the connection
        assert "Hel" in next(line for line in lines if "Hel" in line)
        for headers in (BOB, HEADERS):
            for path in ("/api/chat/live/stream", "/api/chat/ui/live/stream"):
                assert call(url, "GET", path, headers).status_code in (204, 404)
            for query in ({}, {"messageId": "m"}, {"messageId": "m-answer"}):
                theirs, nobodys = (
                    call(url, "DELETE", f"/api/chat/{id}/stream", headers, **query) for id in ("live", "none")
                )
                assert (theirs.status_code, theirs.content) == (404, nobodys.content)
                assert nobodys.status_code == 404
        assert call(url, "GET", "/api/chat/live/stream", BOB, channelId="alice").status_code == 403
        assert call(url, "DELETE", "/api/chat/live/stream", BOB, messageId="m", channelId="alice").status_code == 403
        following = f"{url}/api/chat/live/stream"
        with httpx.stream("GET", following, headers=ALICE, trust_env=False, timeout=20) as followed:
            assert followed.status_code == 200  # it was not stopped
            assert "Hel" in next(line for line in followed.iter_lines() if "Hel" in line)
        other = call(url, "DELETE", "/api/chat/live/stream", ALICE, messageId="another")
        assert (other.status_code, other.json()["data"]) == (200, {"stopped": False})
        assert call(url, "DELETE", "/api/chat/live/stream", ALICE, messageId="m").json()["data"] == {"stopped": True}


# What can be a key.


@pytest.mark.parametrize("name", ["channelId", "conversationId", "messageId"])
def test_a_key_is_one_to_two_hundred_characters(url: str, name: str):
    assert ask(url, HEADERS, **{name: "k" * 200}).status_code == 200
    assert ask(url, HEADERS, **{name: "k" * 201}).status_code == 400
    assert ask(url, HEADERS, **{name: "a\0b"}).status_code == 400
    half = b'{"message": "Hi", "%b": "\\ud83d"}' % name.encode()
    answer = httpx.post(f"{url}/api/chat", content=half, headers=HEADERS, trust_env=False)
    assert answer.status_code == 400


def test_wide_owners_are_owners(url: str):
    owner = "ż" * 200
    assert ask(url, HEADERS, channelId=owner, messageId="😀" * 200, conversationId="c").status_code == 200
    assert ids(call(url, "GET", PATH, visitor(owner))) == ["c"]


@pytest.mark.parametrize("who", [HEADERS, ALICE, OPERATOR], ids=["service", "visitor", "operator"])
def test_what_no_database_takes_is_never_500(url: str, who: dict[str, str]):
    cursor = "WzEuMCwgIlx1MDAwMCJd"  # [1.0, "\u0000"]
    for path in (
        *(f"{PATH}/%00", f"{PATH}/{'x' * 5000}", f"{PATH}/%F0%9F%98%80", f"{PATH}?cursor={cursor}&all=true"),
        *(f"{PATH}{one}?{name}={value}" for one in ("", "/c") for name in ("channelId", "channel") for value in BAD),
    ):
        for method in ("GET", "DELETE") if path.startswith(f"{PATH}/") else ("GET",):
            assert call(url, method, path, who).status_code in (400, 403, 404), path


@pytest.mark.parametrize("who", [HEADERS, ALICE], ids=["service", "visitor"])
def test_a_message_id_that_no_database_takes_is_never_500(url: str, who: dict[str, str]):
    assert ask(url, who, conversationId="c").status_code == 200
    assert call(url, "DELETE", "/api/chat/c/stream?messageId=a%00b", who).status_code == 400
    again: dict[str, Any] = {"id": "c", "trigger": "regenerate-message", "messageId": "a\0b", "messages": []}
    answer = httpx.post(f"{url}/api/chat/ui", json=again, headers=who, trust_env=False)
    assert answer.status_code == 200  # an id that is not known means the last answer


BAD = ("%00", "", "x" * 5000, "a%00b")


def test_a_channel_of_half_a_megabyte_is_refused(url: str):
    assert ask(url, HEADERS, channel="x" * 500_000).status_code == 400


# Whatever is asked, by whomever: the answers are those of twenty lines.

NAMES = {"alice": ALICE, "bob": BOB}
ASKERS = {"stranger": {}, "service": HEADERS, "operator": OPERATOR, **NAMES}
WAYS = ("ask", "ui", "read", "delete", "list", "all")
Kept = set[tuple[str | None, str]]


def reference(kept: Kept, asker: str, way: str, id: str, owner: str | None) -> int | list[str]:
    """The status, or the ids of a list."""
    if asker == "stranger" or (asker == "operator" and way in ("ask", "ui")):
        return 401
    if owner == "":
        return 400
    if asker == "operator" or (asker in NAMES and (owner not in (None, asker) or way == "all")):
        return 403
    owner = asker if asker in NAMES else owner
    if way in ("ask", "ui"):
        kept.add((owner, id))
        return 200
    if way in ("list", "all"):
        if way == "list" and owner is None:
            return 400
        return sorted(id for whose, id in kept if way == "all" or whose == owner)
    if (owner, id) not in kept:
        return 404
    kept -= {(owner, id)} if way == "delete" else set()
    return 200


def really(client: httpx.Client, asker: str, way: str, id: str, owner: str | None) -> int | list[str]:
    named = {} if owner is None else {"channelId": owner}
    headers = ASKERS[asker]
    if way == "ask":
        answer = client.post("/api/chat", json={"message": "Hi", "conversationId": id, **named}, headers=headers)
    elif way == "ui":
        messages = [{"role": "user", "parts": [{"type": "text", "text": "Hi"}]}]
        answer = client.post("/api/chat/ui", json={"id": id, "messages": messages, **named}, headers=headers)
    elif way in ("list", "all"):
        query = {"all": "true"} if way == "all" else named
        answer = client.get(PATH, params={**query, "limit": "100"}, headers=headers)
        return ids(answer) if answer.status_code == 200 else answer.status_code
    else:
        answer = client.request("GET" if way == "read" else "DELETE", f"{PATH}/{id}", params=named, headers=headers)
    return answer.status_code


steps = st.tuples(
    st.sampled_from(sorted(ASKERS)),
    st.sampled_from(WAYS),
    st.sampled_from(["c", "d"]),
    st.sampled_from([None, None, "alice", "bob", "carol", ""]),
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, min_size=1, max_size=12))
def test_every_answer_is_the_references(serve: Serve, model: ModelServer, steps: list[Any]):
    if not SERVED:
        SERVED.append(serve(openai_base_url=model.url, **SIGNED))
    kept: Kept = set()
    with closing(httpx.Client(base_url=SERVED[0], trust_env=False, timeout=30)) as client:
        for owner in (None, "alice", "bob", "carol"):  # what the examples before left
            for id in ("c", "d"):
                query = {} if owner is None else {"channelId": owner}
                client.delete(f"{PATH}/{id}", params=query, headers=HEADERS)
        for asker, way, id, owner in steps:
            owner = None if way == "all" else owner
            assert really(client, asker, way, id, owner) == reference(kept, asker, way, id, owner)


SERVED: list[str] = []
