"""POST /api/webhooks/[channel], by the front door: a sender's API is a server of the test's own on a real socket."""

import asyncio
import hashlib
import hmac
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from standardwebhooks import Webhook
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from app import create_app
from auth import is_signed
from channels import standard
from config import HERE, Config
from db import database
from loader import RouteError
from tests.conftest import SECRET, Serve
from tests.servers import Exchange, ModelServer, serving, wait_until, write_tree

WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SETTINGS = {
    "standard_webhooks_secret": WHSEC,
    "slack_signing_secret": "slack-secret",
    "slack_bot_token": "xoxb-1",
    "telegram_webhook_secret": "telegram-secret",
    "telegram_bot_token": "7:AA",
    "whatsapp_app_secret": "whatsapp-secret",
    "whatsapp_verify_token": "verify-me",
    "whatsapp_access_token": "EAA",
}

NOW = "UPDATE house_job SET run_at = 0 WHERE token IS NULL AND done_at IS NULL"  # the next attempt is due

Headers = dict[str, str]


class SenderAPI:
    """What Slack, Telegram and WhatsApp are told, and what they say to it."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str | None, Any]] = []  # path, Authorization, body
        self.answers: list[Response] = []  # the next ones; then all is well
        self.url = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope, receive)
            self.told.append((request.url.path, request.headers.get("authorization"), await request.json()))
            answer = self.answers.pop(0) if self.answers else JSONResponse({"ok": True})
            await answer(scope, receive, send)

    @property
    def texts(self) -> list[str]:
        return [body["text"] for _, _, body in self.told]


@pytest.fixture
def api() -> Iterator[SenderAPI]:
    api = SenderAPI()
    with serving(api, lifespan="off") as api.url:
        yield api


@pytest.fixture
def url(database_url: str, serve: Serve, api: SenderAPI, model: ModelServer) -> str:
    """The app with every channel open, on one database engine after the other."""
    apis = {f"{name}_api_url": f"{api.url}/{name}" for name in ("slack", "telegram", "whatsapp")}
    return serve(openai_base_url=model.url, database_url=database_url, **SETTINGS, **apis)


def post(url: str, channel: str, body: bytes, headers: Headers) -> httpx.Response:
    return httpx.post(f"{url}/api/webhooks/{channel}", content=body, headers=headers, trust_env=False, timeout=20)


def hexmac(secret: str, message: bytes) -> str:
    return hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()


def signed(channel: str, body: bytes, id: str = "msg_1", at: int | None = None) -> Headers:
    """The headers that a sender puts on a body."""
    now = int(time.time()) if at is None else at
    if channel == "standard":
        signature = Webhook(WHSEC).sign(id, datetime.fromtimestamp(now, UTC), body.decode())
        return {"webhook-id": id, "webhook-timestamp": str(now), "webhook-signature": signature}
    if channel == "slack":
        signature = "v0=" + hexmac("slack-secret", b"v0:%d:%b" % (now, body))
        return {"X-Slack-Request-Timestamp": str(now), "X-Slack-Signature": signature}
    if channel == "telegram":
        return {"X-Telegram-Bot-Api-Secret-Token": "telegram-secret"}
    return {"X-Hub-Signature-256": "sha256=" + hexmac("whatsapp-secret", body)}


def deliver(url: str, channel: str, payload: Any, **options: Any) -> httpx.Response:
    body = json.dumps(payload).encode()
    return post(url, channel, body, signed(channel, body, **options))


def telegram(text: str = "Hi", chat: int = 42, update: int | None = None) -> Any:
    update = update or uuid4().int % 10**9
    return {"update_id": update, "message": {"message_id": 1, "chat": {"id": chat, "type": "private"}, "text": text}}


def slack(text: str = "Hi", **event: Any) -> Any:
    event = {"type": "message", "channel_type": "im", "channel": "D1", "user": "U1", "ts": "1.2", "text": text} | event
    return {"type": "event_callback", "event_id": f"Ev{uuid4().hex}", "event": event}


def whatsapp(*messages: tuple[str, str], **value: Any) -> Any:
    texts = [
        {"from": person, "id": f"wamid.{uuid4().hex}", "type": "text", "text": {"body": text}}
        for person, text in messages
    ]
    value = {"messaging_product": "whatsapp", "metadata": {"phone_number_id": "555"}, "messages": texts} | value
    return {"object": "whatsapp_business_account", "entry": [{"changes": [{"field": "messages", "value": value}]}]}


PAYLOADS: dict[str, Callable[[], Any]] = {
    "standard": lambda: {"type": "invoice.paid", "timestamp": "2026-11-23T08:00:00Z", "data": {"id": 1}},
    "slack": slack,
    "telegram": telegram,
    "whatsapp": lambda: whatsapp(("49170", "Hi")),
}


def new(response: httpx.Response) -> int:
    assert response.status_code == 200, response.text
    return response.json()["data"]["new"]


def overview(url: str) -> Any:
    return httpx.get(f"{url}/api/jobs", headers={"X-Cron-Secret": SECRET}, trust_env=False).json()["data"]


def until_dead(url: str, database_url: str, count: int) -> list[Any]:
    """Put off no attempt, until so many jobs have failed for good."""

    def dead() -> bool:
        asyncio.run(write(database_url, NOW))
        deliver(url, "telegram", telegram("wake up", chat=1))  # what is put wakes the worker
        time.sleep(0.1)
        return len(overview(url)["failed"]) >= count

    wait_until(dead, 30)
    return overview(url)["failed"]


# What is answered, later.


def test_telegram_a_message_is_answered_by_the_model(url: str, api: SenderAPI, model: ModelServer):
    assert new(deliver(url, "telegram", telegram("Wie geht's? 👋"))) == 1
    wait_until(lambda: api.told)
    assert api.told == [("/telegram/bot7:AA/sendMessage", None, {"chat_id": 42, "text": "Hello"})]
    assert model.asked[0]["messages"] == [{"role": "user", "content": "Wie geht's? 👋"}]
    headers = {"X-Cron-Secret": SECRET}
    said = httpx.get(
        f"{url}/api/conversations/telegram:42?channel=telegram&channelId=42", headers=headers, trust_env=False
    ).json()
    assert [(m["role"], m["content"], m["state"]) for m in said["data"]["messages"]] == [
        ("user", "Wie geht's? 👋", "done"),
        ("assistant", "Hello", "done"),
    ]
    assert said["data"]["channelId"] == "42"


def test_slack_a_direct_message_is_answered_by_the_model(url: str, api: SenderAPI, model: ModelServer):
    assert new(deliver(url, "slack", slack("a &lt; b &amp;amp; c"))) == 1
    wait_until(lambda: api.told)
    assert api.told == [("/slack/chat.postMessage", "Bearer xoxb-1", {"channel": "D1", "text": "Hello"})]
    assert model.asked[0]["messages"][-1]["content"] == "a < b &amp; c"


def test_slack_a_mention_is_answered_in_its_thread_and_nobody_is_called(url: str, api: SenderAPI, model: ModelServer):
    async def shout(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.delta("<!channel> & co", "stop")
        await exchange.done()

    model.answer = shout
    deliver(url, "slack", slack("<@U0> hi", type="app_mention", channel="C1", channel_type=None, thread_ts="9.9"))
    wait_until(lambda: api.told)
    assert api.told[0][2] == {"channel": "C1", "thread_ts": "9.9", "text": "&lt;!channel&gt; &amp; co"}


@pytest.mark.parametrize(
    "event",
    [
        *({"bot_id": "B1"}, {"subtype": "message_changed"}, {"channel_type": "channel"}, {"type": "reaction_added"}),
        {"text": "", "attachments": [{"is_share": True, "text": "what another said"}]},  # forwarded, without a word
    ],
)
def test_slack_what_is_not_said_to_the_bot_is_ignored(serve: Serve, event: dict[str, Any], model: ModelServer):
    assert new(deliver(serve(**SETTINGS), "slack", slack(**event))) == 0


def test_slack_what_has_no_event_in_it_is_ignored(serve: Serve):
    limited = {"token": "J", "type": "app_rate_limited", "team_id": "T1", "minute_rate_limited": 1, "api_app_id": "A1"}
    assert new(deliver(serve(**SETTINGS), "slack", limited)) == 0


def test_slack_asks_whether_the_address_is_ours(serve: Serve):
    url = serve(**SETTINGS)
    response = deliver(url, "slack", {"type": "url_verification", "challenge": "3eZb"})
    assert (response.status_code, response.json()) == (200, {"challenge": "3eZb"})
    body = b'{"type": "url_verification", "challenge": "3eZb"}'
    assert post(url, "slack", body, {}).status_code == 401


def test_whatsapp_every_message_of_a_delivery_is_answered(url: str, api: SenderAPI):
    assert new(deliver(url, "whatsapp", whatsapp(("49170", "One"), ("49171", "Two")))) == 2
    wait_until(lambda: len(api.told) == 2)
    assert {(path, token, body["to"], body["text"]["body"]) for path, token, body in api.told} == {
        ("/whatsapp/555/messages", "Bearer EAA", "49170", "Hello"),
        ("/whatsapp/555/messages", "Bearer EAA", "49171", "Hello"),
    }
    assert new(deliver(url, "whatsapp", whatsapp(statuses=[{"id": "wamid.1", "status": "read"}]))) == 0


def test_whatsapp_asks_whether_the_address_is_ours(serve: Serve):
    query = {"hub.mode": "subscribe", "hub.verify_token": "verify-me", "hub.challenge": "<b>1158</b>"}
    address = f"{serve(**SETTINGS)}/api/webhooks/whatsapp"
    response = httpx.get(address, params=query, trust_env=False)
    assert (response.status_code, response.text) == (200, "<b>1158</b>")
    assert response.headers["content-type"].startswith("text/plain")
    for wrong in ({"hub.verify_token": "other"}, {"hub.mode": "unsubscribe"}, {"hub.challenge": None}):
        sent = {name: value for name, value in (query | wrong).items() if value is not None}
        assert httpx.get(address, params=sent, trust_env=False).status_code == 401


def test_whatsapp_a_verify_token_may_have_any_letters(serve: Serve):
    address = f"{serve(**SETTINGS | {'whatsapp_verify_token': 'clé-ключ'})}/api/webhooks/whatsapp"
    for token, status in (("clé-ключ", 200), ("cle", 401), ("clé-????", 401)):
        query = {"hub.mode": "subscribe", "hub.verify_token": token, "hub.challenge": "1158"}
        assert httpx.get(address, params=query, trust_env=False).status_code == status


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the routes and channels, to which a test adds files."""
    for folder in ("routes", "channels"):
        shutil.copytree(HERE / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_standard_an_event_goes_to_the_job_of_its_type(database_url: str, serve: Serve, project: Path):
    job = f"import json, pathlib\ndef run(job): pathlib.Path({str(project / 'ran')!r}).write_text(json.dumps(job))\n"
    write_tree(project, {"jobs/on_invoice_paid.py": job})
    url = serve(routes_dir=project / "routes", database_url=database_url, **SETTINGS)
    payload = PAYLOADS["standard"]()
    assert new(deliver(url, "standard", payload, id="msg_7")) == 1
    wait_until((project / "ran").exists)
    wait_until(lambda: (project / "ran").read_text())
    ran = json.loads((project / "ran").read_text())
    assert (ran["name"], ran["payload"]) == ("on_invoice_paid", payload)
    assert new(deliver(url, "standard", payload, id="msg_7")) == 0


def test_standard_an_event_without_a_job_is_kept_and_says_which_file_to_write(
    url: str, database_url: str, caplog: pytest.LogCaptureFixture
):
    deliver(url, "standard", {"type": "forget_conversations"}, id="msg_8")
    [dead] = until_dead(url, database_url, 1)
    assert (dead["id"], dead["name"]) == ("standard:msg_8", "webhook:standard")
    assert "write jobs/on_forget_conversations.py with a function run(job)" in caplog.text


# The answer to the sender.


def test_the_answer_does_not_wait_for_the_model(url: str, api: SenderAPI, model: ModelServer):
    released = threading.Event()

    async def slow(exchange: Exchange) -> None:
        await exchange.head()
        await asyncio.to_thread(released.wait, 20)
        await exchange.delta("At last", "stop")
        await exchange.done()

    model.answer = slow
    assert deliver(url, "telegram", telegram()).status_code == 200
    wait_until(lambda: model.asked)
    assert api.told == []
    released.set()
    wait_until(lambda: api.texts == ["At last"])


@pytest.mark.parametrize("channel", PAYLOADS)
def test_what_is_delivered_again_is_absorbed(url: str, model: ModelServer, channel: str):
    payload = PAYLOADS[channel]()
    assert new(deliver(url, channel, payload)) == 1
    assert new(deliver(url, channel, payload)) == 0
    assert len(model.asked) <= 1


def test_messages_of_one_chat_are_answered_in_order(url: str, api: SenderAPI, model: ModelServer):
    async def echo(exchange: Exchange) -> None:
        await exchange.head()
        await asyncio.sleep(0.02 if "0" in exchange.body["messages"][-1]["content"] else 0)
        await exchange.delta(exchange.body["messages"][-1]["content"], "stop")
        await exchange.done()

    model.answer = echo
    for number in range(6):
        deliver(url, "telegram", telegram(f"{number}"))
        deliver(url, "telegram", telegram("other", chat=43))
    wait_until(lambda: len(api.told) == 12)
    assert [text for text in api.texts if text != "other"] == ["0", "1", "2", "3", "4", "5"]


def test_an_answer_that_could_not_be_sent_is_sent_again_without_asking_the_model_again(
    url: str, api: SenderAPI, model: ModelServer, database_url: str
):
    api.answers = [JSONResponse({"ok": False}, 500)]
    deliver(url, "telegram", telegram("Hi"))
    wait_until(lambda: len(api.told) == 1)

    def sent() -> bool:
        asyncio.run(write(database_url, NOW))
        deliver(url, "standard", {"type": "nothing"}, id=uuid4().hex)  # what is put wakes the worker
        return len(api.told) == 2

    wait_until(sent)
    assert api.told[0] == api.told[1]
    assert len(model.asked) == 1


def test_a_long_answer_is_sent_in_several_messages(url: str, api: SenderAPI, model: ModelServer):
    answer = "\n".join(["👋" * 900] * 6) + "x" * 9000

    async def long(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.delta(answer, "stop")
        await exchange.done()

    model.answer = long
    deliver(url, "telegram", telegram())
    wait_until(lambda: sum(len(text) for text in api.texts) >= 14_400 - 6)
    assert all(len(text.encode("utf-16-le")) <= 8192 for text in api.texts)
    assert "".join(api.texts).replace("\n", "") == answer.replace("\n", "")


def test_no_token_of_ours_is_logged(url: str, api: SenderAPI, database_url: str, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    api.answers = [JSONResponse({"ok": False, "error": "no"}, status) for status in (401, 403, 500)]
    deliver(url, "telegram", telegram("a secret text"))
    wait_until(lambda: "failed, and will be tried again" in caplog.text)
    assert "answered 401" in caplog.text
    ours = [r for r in caplog.records if r.name in ("worker", "webhooks", "app", "requests")]
    text = "\n".join(logging.Formatter().format(record) for record in ours)
    assert not [word for word in ("7:AA", "telegram-secret", "a secret text") if word in text]


# What is refused.


WRONG: list[tuple[str, Callable[[bytes], Headers]]] = [
    *((channel, lambda body: {}) for channel in PAYLOADS),
    ("telegram", lambda body: {"X-Telegram-Bot-Api-Secret-Token": "telegram-secre"}),
    ("telegram", lambda body: {"X-Telegram-Bot-Api-Secret-Token": "None"}),
    ("telegram", lambda body: {"X-Telegram-Bot-Api-Secret-Token": ""}),
    ("slack", lambda body: signed("slack", body, at=int(time.time()) - 400)),
    ("slack", lambda body: signed("slack", body, at=int(time.time()) + 400)),
    ("slack", lambda body: signed("slack", body) | {"X-Slack-Request-Timestamp": "now"}),
    ("slack", lambda body: signed("slack", body) | {"X-Slack-Request-Timestamp": "9" * 5000}),
    ("slack", lambda body: signed("slack", body) | {"X-Slack-Signature": "v0="}),
    ("slack", lambda body: signed("slack", body) | {"X-Slack-Signature": "v1=" + "0" * 64}),
    ("slack", lambda body: signed("slack", body + b" ")),
    ("whatsapp", lambda body: signed("whatsapp", body[:-1])),
    ("whatsapp", lambda body: {"X-Hub-Signature-256": hexmac("whatsapp-secret", body)}),
    ("whatsapp", lambda body: {"X-Hub-Signature-256": "sha256=" + hexmac("", body)}),
    ("whatsapp", lambda body: {"X-Hub-Signature-256": "sha256=" + hexmac("None", body)}),
    ("standard", lambda body: signed("standard", body, at=int(time.time()) - 400)),
    ("standard", lambda body: signed("standard", body) | {"webhook-id": "msg_2"}),
    ("standard", lambda body: signed("standard", body) | {"webhook-signature": "v1,"}),
    ("standard", lambda body: signed("standard", body) | {"webhook-signature": "v1"}),
    ("standard", lambda body: signed("standard", body) | {"webhook-signature": "v2,AAAA v1,!!!! ,"}),
    ("standard", lambda body: signed("standard", body) | {"webhook-timestamp": "1e9"}),
]


@pytest.mark.parametrize(("channel", "headers"), WRONG)
def test_what_is_not_the_senders_is_401(
    serve: Serve, model: ModelServer, channel: str, headers: Callable[[bytes], Headers]
):
    url = serve(openai_base_url=model.url, **SETTINGS)
    body = json.dumps(PAYLOADS[channel]()).encode()
    response = post(url, channel, body, headers(body))
    assert (response.status_code, response.json()) == (401, {"error": "Unauthorized"})
    assert model.asked == []
    assert overview(url)["due"] == []


@pytest.mark.parametrize("channel", PAYLOADS)
def test_a_channel_without_its_secret_is_closed_to_everything(serve: Serve, channel: str):
    url = serve()
    body = json.dumps(PAYLOADS[channel]()).encode()
    headers = {"X-Telegram-Bot-Api-Secret-Token": "None"} if channel == "telegram" else signed(channel, body)
    for method in ("GET", "HEAD", "POST"):
        query = {"hub.mode": "subscribe", "hub.verify_token": "None", "hub.challenge": "1"}
        address = f"{url}/api/webhooks/{channel}"
        sent = httpx.request(method, address, content=body, headers=headers, params=query, trust_env=False)
        assert sent.status_code == 401


@pytest.mark.parametrize("channel", PAYLOADS)
def test_two_secrets_are_good_while_one_replaces_the_other(serve: Serve, channel: str):
    names = [name for name in SETTINGS if name.startswith(channel) and "secret" in name]
    other = "whsec_bmV3LXNlY3JldC1uZXctc2VjcmV0" if channel == "standard" else "new"
    url = serve(**SETTINGS | {name: f"{other},{SETTINGS[name]}" for name in names})
    assert new(deliver(url, channel, PAYLOADS[channel]())) == 1


def test_the_path_says_which_sender_and_an_unknown_one_is_404(serve: Serve):
    assert post(serve(**SETTINGS), "myspace", b"{}", {}).status_code == 404


@pytest.mark.parametrize("channel", PAYLOADS)
@pytest.mark.parametrize("body", ["", "{", "\u00e9{}", '{"a": ' + "9" * 5000 + "}"])
def test_what_is_not_json_is_400(serve: Serve, channel: str, body: str):
    raw = body.encode()
    response = post(serve(**SETTINGS), channel, raw, signed(channel, raw))
    assert (response.status_code, response.json()["details"][0]["field"]) == (400, "body")


def test_a_body_over_the_limit_is_413(serve: Serve):
    url = serve(max_body_bytes=1000, **SETTINGS)
    assert deliver(url, "telegram", telegram("x" * 1000)).status_code == 413


@pytest.mark.slow
def test_json_that_is_nested_as_deeply_as_can_be_is_never_500(serve: Serve):
    url = serve(**SETTINGS)
    statuses = set[int]()
    for depth in range(850, 1050, 7):
        body = b'{"update_id": %d, "a": ' % depth + b"[" * depth + b"]" * depth + b"}"
        statuses.add(post(url, "telegram", body, signed("telegram", body)).status_code)
    assert statuses <= {200, 400}


@pytest.mark.slow
async def test_a_body_that_does_not_come_is_408(serve: Serve):
    url = httpx.URL(serve(**SETTINGS))
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"POST /api/webhooks/telegram HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
    assert b" 408 " in await asyncio.wait_for(reader.readline(), 20)
    writer.close()


ABSURD: list[tuple[str, Any]] = [
    ("telegram", []),
    ("telegram", 7),
    ("telegram", None),
    ("telegram", {}),
    ("telegram", {"update_id": None, "message": {"chat": {"id": 1}, "text": " "}}),
    ("telegram", {"update_id": 1001, "message": "nonsense"}),
    ("telegram", {"update_id": 1002, "message": {"chat": {"id": 1}, "text": 5}}),
    ("telegram", {"update_id": 1003, "message": {"chat": {"id": 1}, "text": " "}}),
    ("telegram", {"update_id": 1005, "message": {"chat": [], "text": "x"}}),
    ("telegram", {"update_id": "\0" + "x" * 5000, "message": {"chat": {"id": "\ud800"}, "text": 1}}),
    ("slack", {}),
    ("slack", {"type": "event_callback", "event": []}),
    ("slack", {"type": "event_callback", "event_id": {}, "event": {"type": "app_mention"}}),
    ("whatsapp", {"entry": 5}),
    ("whatsapp", {"entry": [{"changes": [{"value": {"messages": [{}]}}]}]}),
    ("standard", "text"),
    ("standard", {"type": 5}),
]


@pytest.mark.slow
def test_what_is_signed_but_absurd_is_kept_as_a_dead_letter_and_stops_nothing(
    url: str, database_url: str, api: SenderAPI
):
    for number, (channel, payload) in enumerate(ABSURD):
        response = deliver(url, channel, payload, id=f"msg_{number}")
        assert (channel, payload, response.status_code, new(response)) == (channel, payload, 200, 1)
    half = {
        "update_id": 1004,
        "message": {"chat": {"id": 2}, "text": "half \ud83d of a pair"},
    }  # is cleaned, and answered
    assert new(deliver(url, "telegram", half)) == 1
    deliver(url, "telegram", telegram("after all that"))
    wait_until(lambda: len(api.told) == 2)
    dead = until_dead(url, database_url, len(ABSURD))
    assert len(dead) == len(ABSURD)
    assert {row["name"] for row in dead} == {f"webhook:{channel}" for channel in PAYLOADS}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["update_id", "message", "chat", "id", "text", "event", "type", "entry", "changes", "value"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(channel=st.sampled_from(sorted(PAYLOADS)), payload=json_values)
def test_whatever_is_signed_is_stored_or_ignored(serve_once: Callable[[], str], channel: str, payload: Any):
    assert deliver(serve_once(), channel, payload, id=uuid4().hex).status_code == 200


@pytest.fixture
def serve_once(serve: Serve, model: ModelServer) -> Callable[[], str]:
    return cache(lambda: serve(openai_base_url=model.url, **SETTINGS))


# Signatures against what the senders publish.


def test_slacks_own_example_is_signed_as_slack_says():
    # https://docs.slack.dev/authentication/verifying-requests-from-slack
    body = (
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&"
        b"channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&"
        b"response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F"
        b"96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
    )
    expected = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"
    assert is_signed(expected, "v0=", b"v0:1531420618:" + body, "8f742231b10e8888abcd99yyyzzz85a5")


def test_the_example_of_x_hub_signature_256_is_signed_as_github_says():
    # https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries; Meta signs in the same way
    expected = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    assert is_signed(expected, "sha256=", b"Hello, World!", "It's a Secret to Everybody")


def test_the_example_of_standard_webhooks_is_signed_as_its_specification_says():
    # https://github.com/standard-webhooks/standard-webhooks, in the tests of its libraries
    signed_bytes = b'msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}'
    assert standard.signature(WHSEC, signed_bytes) == "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


# The files of channels/.


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("def key(r, e): ...\nasync def run(job): ...", r"channels/x.py: has no function 'verify'. Write: def verify"),
        ("def verify(r, b): ...\nasync def run(job): ...", "has no function 'key'"),
        ("verify = True\ndef key(r, e): ...\nasync def run(job): ...", "verify must be a plain function"),
        ("def verify(r, b): ...\nasync def key(r, e): ...\nasync def run(job): ...", "key must be a plain function"),
        ("def verify(r, b): ...\ndef key(r, e): ...", "has no function 'run'"),
        ("def verify(r, b): ...\ndef key(r, e): ...\nasync def run(job): ...\nattempts = 0", "attempts = 0"),
    ],
)
def test_a_channel_that_cannot_work_stops_the_start(tmp_path: Path, text: str, fix: str):
    write_tree(tmp_path, {"channels/x.py": text})
    (tmp_path / "routes").mkdir()
    with pytest.raises(RouteError, match=fix):
        create_app(Config(routes_dir=tmp_path / "routes"))


def test_an_answer_of_verify_that_is_not_true_lets_nobody_in(serve: Serve, project: Path):
    write_tree(project, {"channels/odd.py": "def verify(r, b): return 'yes'\ndef key(r, e): ...\ndef run(job): ..."})
    assert post(serve(routes_dir=project / "routes"), "odd", b"{}", {}).status_code == 401


async def write(database_url: str, sql: str) -> None:
    db = database(database_url)
    await db.open()
    await db.write((sql, ()))
    await db.aclose()


# What a channel answers, and how it asks.

OPEN_CHANNEL = "def verify(request, body): return True\ndef key(request, event): return event['id']\n"
NOTED = "def run(job): pathlib.Path({file!r}).write_text(json.dumps(job['payload']))\n"


def channel_tree(root: Path, text: str) -> str:
    """A channel's text with its imports, and a run that notes the event in a file."""
    head = "import json, pathlib\nfrom jsonresponse import JSONResponse\nfrom starlette.responses import Response\n"
    return head + text + NOTED.format(file=str(root / "ran"))


def serve_channel(serve: Serve, project: Path, text: str, **settings: Any) -> str:
    write_tree(project, {"channels/own.py": channel_tree(project, text)})
    return serve(routes_dir=project / "routes", **settings)


@pytest.mark.parametrize(
    ("answer", "body", "kind"),
    [
        ('Response("<Response/>", media_type="text/xml")', b"<Response/>", "text/xml; charset=utf-8"),
        ("Response()", b"", None),
        ('JSONResponse({"type": 5})', b'{"type":5}', "application/json"),
    ],
)
def test_a_channel_may_give_the_answer_itself_once_the_event_is_stored(
    serve: Serve, project: Path, answer: str, body: bytes, kind: str | None
):
    url = serve_channel(serve, project, OPEN_CHANNEL + f"def answer(payload): return {answer}\n")
    response = post(url, "own", b'{"id": "a"}', {})
    assert (response.status_code, response.content, response.headers.get("content-type")) == (200, body, kind)
    wait_until(lambda: (project / "ran").exists() and (project / "ran").read_text() == '{"id": "a"}')


@pytest.mark.parametrize(
    ("parse", "status", "ran", "told"),
    [
        (
            "json.loads(body)['payload']",
            200,
            '"{\\"id\\": NaN}"',
            "channels/own.py: cannot read a delivery; it is kept as text",
        ),
        ("1 / 0", 200, '"{\\"id\\": NaN}"', "channels/own.py: cannot read a delivery; it is kept as text"),
        ("body", 200, '"{\\"id\\": NaN}"', "channels/own.py: cannot read a delivery; it is kept as text"),
        ("int('seven')", 400, None, ""),
        ("json.loads(body)", 200, '{"id": null}', "channels/own.py: cannot tell the id of an event"),
    ],
    ids=["KeyError", "ZeroDivisionError", "bytes", "ValueError", "NaN"],
)
def test_a_signed_delivery_that_parse_cannot_read_is_kept_and_a_value_error_is_400(
    serve: Serve,
    project: Path,
    parse: str,
    status: int,
    ran: str | None,
    told: str,
    caplog: pytest.LogCaptureFixture,
):
    url = serve_channel(serve, project, OPEN_CHANNEL + f"def parse(request, body): return {parse}\n")
    assert post(url, "own", b'{"id": NaN}', {}).status_code == status
    assert told in caplog.text
    if ran is not None:
        wait_until(lambda: (project / "ran").exists() and (project / "ran").read_text() == ran)


def test_events_that_are_no_json_are_kept_with_the_delivery(
    serve: Serve, project: Path, caplog: pytest.LogCaptureFixture
):
    url = serve_channel(serve, project, OPEN_CHANNEL + "def events(payload): return [{'id': {payload['id']}}]\n")
    assert new(post(url, "own", b'{"id": "a"}', {})) == 1
    assert "channels/own.py: cannot tell the events of a delivery apart; it is kept whole" in caplog.text
    wait_until(lambda: (project / "ran").exists() and (project / "ran").read_text() == '{"id": "a"}')


@pytest.mark.parametrize("events", ["payload", "payload['id']", "None", "7"])
def test_events_that_are_no_list_are_kept_with_the_delivery(
    serve: Serve, project: Path, events: str, caplog: pytest.LogCaptureFixture
):
    url = serve_channel(serve, project, OPEN_CHANNEL + f"def events(payload): return {events}\n")
    assert new(post(url, "own", b'{"id": "abc"}', {})) == 1
    assert "channels/own.py: cannot tell the events of a delivery apart; it is kept whole" in caplog.text
    wait_until(lambda: (project / "ran").exists() and (project / "ran").read_text() == '{"id": "abc"}')


def test_what_verify_raises_is_500_and_names_the_channel(serve: Serve, project: Path, caplog: pytest.LogCaptureFixture):
    text = OPEN_CHANNEL.replace("return True", "return request.headers['x-signature'] == 'right'")
    url = serve_channel(serve, project, text)
    assert post(url, "own", b'{"id": "a"}', {}).status_code == 500
    wait_until(lambda: "while channels/own.py verified a delivery" in caplog.text)  # logged behind the answer
    assert new(post(url, "own", b'{"id": "a"}', {"x-signature": "right"})) == 1


@pytest.mark.parametrize("answer", ["'text'", "1 / 0"])
def test_an_answer_that_cannot_be_made_is_200_all_the_same(
    serve: Serve, project: Path, answer: str, caplog: pytest.LogCaptureFixture
):
    url = serve_channel(serve, project, OPEN_CHANNEL + f"def answer(payload): return {answer}\n")
    assert new(post(url, "own", b'{"id": "a"}', {})) == 1
    assert "channels/own.py: cannot make the answer; the sender gets 200" in caplog.text


def test_a_signed_delivery_that_the_handshake_cannot_read_is_kept(
    serve: Serve, project: Path, caplog: pytest.LogCaptureFixture
):
    text = OPEN_CHANNEL + 'def handshake(payload): return JSONResponse({"type": 1}) if payload["type"] == 1 else None\n'
    url = serve_channel(serve, project, text)
    assert post(url, "own", b'{"id": "a", "type": 1}', {}).json() == {"type": 1}
    for body in (b'{"id": "a"}', b"[1]", b"null"):
        assert new(post(url, "own", body, {})) == 1, body
    assert "channels/own.py: cannot tell whether a delivery is a handshake; it is taken for events" in caplog.text


def test_a_handshake_that_is_no_response_is_told_and_the_delivery_kept(
    serve: Serve, project: Path, caplog: pytest.LogCaptureFixture
):
    url = serve_channel(serve, project, OPEN_CHANNEL + "def handshake(payload): return {'type': 1}\n")
    assert new(post(url, "own", b'{"id": "a"}', {})) == 1
    assert "channels/own.py: cannot tell whether a delivery is a handshake" in caplog.text
    assert "handshake returned dict, not a Response or None" in caplog.text


def test_a_challenge_may_be_answered_with_a_response(serve: Serve, project: Path):
    text = OPEN_CHANNEL + 'def challenge(request): return JSONResponse({"hub.challenge": request.query_params["c"]})\n'
    url = serve_channel(serve, project, text)
    response = httpx.get(f"{url}/api/webhooks/own?c=7", trust_env=False)
    assert (response.status_code, response.json()) == (200, {"hub.challenge": "7"})


@pytest.mark.parametrize(("said", "status"), [("True", 200), ("False", 401), ("None", 401), ("'yes'", 401)])
def test_verify_may_be_async_where_a_key_must_be_fetched(serve: Serve, project: Path, said: str, status: int):
    text = f"async def verify(request, body): return {said}\ndef key(request, event): return event['id']\n"
    assert post(serve_channel(serve, project, text), "own", b'{"id": "a"}', {}).status_code == status


# Standard Webhooks, by all its names.


def svix(headers: Headers) -> Headers:
    return {name.replace("webhook-", "svix-"): value for name, value in headers.items()}


def test_standard_svix_names_are_the_same(serve: Serve):
    url = serve(**SETTINGS)
    body = json.dumps(PAYLOADS["standard"]()).encode()
    assert [new(post(url, "standard", body, svix(signed("standard", body)))) for _ in range(2)] == [1, 0]


def test_standard_svixs_own_example_is_signed_as_it_says():
    # https://docs.svix.com/receiving/verifying-payloads/how-manual
    signed_bytes = b'msg_loFOjxBNrRLzqYUf.1731705121.{"event_type":"ping","data":{"success":true}}'
    expected = "rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="
    assert standard.signature("whsec_plJ3nmyCDGBKInavdOK15jsl", signed_bytes) == expected


@pytest.mark.parametrize(("before", "status"), [(7, 200), (8, 401)])
def test_standard_at_most_8_signatures_are_looked_at(serve: Serve, before: int, status: int):
    body = json.dumps(PAYLOADS["standard"]()).encode()
    headers = signed("standard", body)
    headers["webhook-signature"] = " ".join(["v1,d3Jvbmc="] * before + [headers["webhook-signature"]])
    assert post(serve(**SETTINGS), "standard", body, headers).status_code == status


@pytest.mark.parametrize("secret", ["new,", "new,,old", ",new"])
def test_half_a_rotation_opens_the_door_to_nobody(secret: str):
    def digest(key: bytes) -> str:
        return hmac.new(key, b"x", hashlib.sha256).hexdigest()

    assert is_signed(digest(b"new"), "", b"x", secret)
    assert not is_signed(digest(b""), "", b"x", secret)


# Where a question is asked is where it is answered.


def asked_in(model: ModelServer) -> list[list[str]]:
    return [[message["content"] for message in asked["messages"]] for asked in model.asked]


def test_telegram_a_topic_is_a_conversation_of_its_own(url: str, api: SenderAPI, model: ModelServer):
    for topic in (7, 8):
        payload = telegram(f"in {topic}")
        payload["message"] |= {"is_topic_message": True, "message_thread_id": topic}
        deliver(url, "telegram", payload)
        wait_until(lambda topic=topic: len(api.told) == topic - 6)
    assert [body["message_thread_id"] for _, _, body in api.told] == [7, 8]
    assert asked_in(model) == [["in 7"], ["in 8"]]


def test_telegram_a_reply_in_a_group_without_topics_stays_in_its_chat(url: str, api: SenderAPI):
    payload = telegram("a reply")
    payload["message"] |= {"message_thread_id": 9}  # what replies have, where there are no topics
    deliver(url, "telegram", payload)
    wait_until(lambda: api.told)
    assert api.told[0][2] == {"chat_id": 42, "text": "Hello"}


def test_telegram_what_each_person_writes_to_a_channel_is_a_conversation_of_its_own(
    url: str, api: SenderAPI, model: ModelServer
):
    for topic in (7, 8):
        payload = telegram(f"from {topic}", chat=-100)
        payload["message"] |= {"direct_messages_topic": {"topic_id": topic, "user": {"id": topic}}}
        deliver(url, "telegram", payload)
        wait_until(lambda topic=topic: len(api.told) == topic - 6)
    assert [body for _, _, body in api.told] == [
        {"chat_id": -100, "direct_messages_topic_id": topic, "text": "Hello"} for topic in (7, 8)
    ]
    assert asked_in(model) == [["from 7"], ["from 8"]]


def test_slack_a_thread_is_a_conversation_of_its_own(url: str, api: SenderAPI, model: ModelServer):
    for number, thread in enumerate(("100.1", "200.1"), 1):
        deliver(url, "slack", slack(thread, type="app_mention", channel="C1", channel_type=None, thread_ts=thread))
        wait_until(lambda number=number: len(api.told) == number)
    assert [body["thread_ts"] for _, _, body in api.told] == ["100.1", "200.1"]
    assert asked_in(model) == [["100.1"], ["200.1"]]


def test_slack_a_question_with_a_file_is_answered(url: str, api: SenderAPI):
    assert new(deliver(url, "slack", slack("what is this?", subtype="file_share"))) == 1
    assert new(deliver(url, "slack", slack("", subtype="file_share"))) == 0
    wait_until(lambda: api.told)


def test_whatsapp_a_person_has_a_conversation_with_each_of_our_numbers(url: str, api: SenderAPI, model: ModelServer):
    for number in ("11", "22"):
        deliver(url, "whatsapp", whatsapp(("49170", number), metadata={"phone_number_id": number}))
        wait_until(lambda number=number: any(f"/{number}/" in path for path, _, _ in api.told))
    assert asked_in(model) == [["11"], ["22"]]


def test_whatsapp_a_group_and_who_shows_no_number_are_answered_where_they_asked(
    url: str, api: SenderAPI, model: ModelServer
):
    text = {"type": "text", "text": {"body": "Hi"}}
    people = [
        ({"from": "49170", "from_user_id": "DE.1", "group_id": "G1"}, {"recipient_type": "group", "to": "G1"}),
        ({"from_user_id": "DE.1"}, {"recipient_type": "individual", "recipient": "DE.1"}),
        ({"from": "49170", "from_user_id": "DE.1"}, {"to": "49170"}),
    ]
    for number, (person, to) in enumerate(people):
        assert new(deliver(url, "whatsapp", whatsapp(messages=[{"id": f"wamid.{number}", **text, **person}]))) == 1
        wait_until(lambda number=number: len(api.told) == number + 1)
        assert api.told[-1][2] == {
            **{"messaging_product": "whatsapp", "type": "text", "text": {"body": "Hello"}},
            **to,
        }
    assert asked_in(model) == [["Hi"]] * 3


# What a sender's API refuses.


def row_of(database_url: str, name: str) -> Any:
    return asyncio.run(read_row(database_url, name))


async def read_row(database_url: str, name: str) -> Any:
    db = database(database_url)
    await db.open()
    try:
        return (await db.read("SELECT * FROM house_job WHERE name = $1", name))[0]
    finally:
        await db.aclose()


@pytest.mark.parametrize(
    ("refusal", "seconds"),
    [
        (JSONResponse({"ok": False, "parameters": {"retry_after": 20}}, 429), 20),
        (Response(status_code=429, headers={"Retry-After": "7"}), 7),
        (Response("slow down", 429), 30),
    ],
)
def test_429_waits_as_long_as_it_says_and_counts_no_attempt(
    url: str, database_url: str, api: SenderAPI, refusal: Response, seconds: int
):
    api.answers = [refusal]
    before = time.time()
    deliver(url, "telegram", telegram())
    wait_until(lambda: row_of(database_url, "webhook:telegram")["begun"] == 1)
    wait_until(lambda: row_of(database_url, "webhook:telegram")["token"] is None)
    row = row_of(database_url, "webhook:telegram")
    assert (row["attempts"], len(api.told)) == (0, 1)
    assert before + seconds <= row["run_at"] <= time.time() + seconds


def test_403_is_not_tried_again_and_the_next_message_is_answered(url: str, api: SenderAPI):
    api.answers = [JSONResponse({"ok": False, "description": "Forbidden: bot was blocked by the user"}, 403)]
    deliver(url, "telegram", telegram("one"))
    wait_until(lambda: overview(url)["failed"])
    [failed] = overview(url)["failed"]
    assert (failed["begun"], failed["error"]) == (1, "gave up: the sender's API refuses this recipient (403)")
    deliver(url, "telegram", telegram("two"))
    wait_until(lambda: len(api.told) == 2)


def test_a_part_that_was_sent_is_not_sent_again(url: str, api: SenderAPI, model: ModelServer, database_url: str):
    async def long(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.delta("a" * 3999 + " " + "b" * 3999 + " " + "c" * 1900, "stop")
        await exchange.done()

    model.answer = long
    api.answers = [JSONResponse({"ok": True}), Response(status_code=429, headers={"Retry-After": "1"})]
    deliver(url, "telegram", telegram("Hi"))
    wait_until(lambda: len(api.told) == 4, 20)
    assert [text[0] for text in api.texts] == ["a", "b", "b", "c"]
    assert len(model.asked) == 1
