"""CHAT_QUOTA: counted exactly, over two replicas, whichever way the questions come in."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from answers.rows import Rows
from app import create_app
from chat import OVER
from config import Config, ConfigError, Limit, load_config
from db import database
from llm import LLM
from quota import OverQuota
from store import Question, Store
from tests.conftest import HEADERS, SECRET, TOKEN
from tests.servers import Clock, ModelServer, serving, wait_until
from tests.tokens import SIGNED, visitor

MINUTE = {"chat_quota": (Limit(3, 60),)}
Ask = Callable[..., httpx.Response]


@pytest.fixture
def replicas(database_url: str, model: ModelServer) -> Iterator[list[str]]:
    settings: dict[str, Any] = {"webchat_token": TOKEN, "cron_secret": SECRET, **SIGNED, **MINUTE}
    config = Config(database_url=database_url, openai_base_url=model.url, **settings)
    with serving(create_app(config, llm=LLM(config))) as one, serving(create_app(config, llm=LLM(config))) as two:
        yield [one, two]


def ask(url: str, owner: str = "alice", headers: dict[str, str] = HEADERS, **body: Any) -> httpx.Response:
    body = {"message": "Hi", **body} | ({"channelId": owner} if headers is HEADERS else {})
    return httpx.post(f"{url}/api/chat", json=body, headers=headers, timeout=60, trust_env=False)


def ask_ui(url: str, owner: str = "alice") -> httpx.Response:
    message = {"role": "user", "parts": [{"type": "text", "text": "Hi"}]}
    body = {"id": "c", "messages": [message], "channelId": owner}
    return httpx.post(f"{url}/api/chat/ui", json=body, headers=HEADERS, timeout=60, trust_env=False)


def listed(url: str, owner: str = "alice") -> list[Any]:
    query = {"channelId": owner}
    answer = httpx.get(f"{url}/api/conversations", params=query, headers=HEADERS, trust_env=False)
    return answer.json()["data"]["conversations"]


def test_the_fourth_question_is_429_on_every_replica_and_every_way_in(replicas: list[str], model: ModelServer):
    one, two = replicas
    assert ask(one, conversationId="a", message=" ").status_code == 400  # counts for nothing
    for n, url in enumerate([one, two, one]):
        assert ask(url, conversationId=f"c{n}", messageId="m").status_code == 200
    for _ in range(5):
        assert ask(two, conversationId="c1", messageId="m").status_code == 200  # a repeat, from the store
    for c in listed(one):
        httpx.delete(f"{one}/api/conversations/{c['id']}?channelId=alice", headers=HEADERS, trust_env=False)
    refused = [ask(two), ask(one), ask_ui(two), ask(one, headers=visitor("alice"))]
    assert [answer.status_code for answer in refused] == [429] * 4
    for answer in refused:
        assert set(answer.json()) == {"error"}
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert listed(two) == []
    assert len(model.asked) == 3
    assert ask(two, "bob").status_code == 200


def test_of_sixteen_at_once_over_two_replicas_three_are_answered(replicas: list[str], model: ModelServer):
    def nth(n: int) -> int:
        return ask(replicas[n % 2], conversationId=f"c{n}").status_code

    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(nth, range(16)))
    assert sorted(found) == [200] * 3 + [429] * 13
    assert len(model.asked) == len(listed(replicas[0])) == 3


async def test_a_question_is_possible_again_when_the_answer_says_so_also_after_a_restart(
    database_url: str, clock: Clock
):
    limits = (Limit(2, 60), Limit(3, 3600))
    asked = [(0, 0), (10, 0), (20, 40), (59, 1), (60, 0), (61, 3539), (3599, 1), (3600, 0)]  # at, and how long to wait
    began = clock.now
    for at, wait in asked:
        clock.now = began + at
        db = database(database_url)
        await db.open()
        store = Store(db, clock, limits)
        try:
            await store.begin(Question(conversation=f"c{at}", content="Hi", owner="alice"))
            waited = 0
        except OverQuota as over:
            waited = over.retry_after
        assert (at, waited) == (at, wait)
        await db.aclose()


async def test_repeats_at_once_count_once_and_again_counts(database_url: str, clock: Clock):
    db = database(database_url)
    await db.open()
    store = Store(db, clock, (Limit(2, 60),))
    await Rows(store).beat()
    question = Question(conversation="c", content="Hi", owner="a", message_id="m")
    found = await asyncio.gather(*(store.begin(question) for _ in range(8)))
    [turn] = [turn for turn in found if turn.is_ours]
    await store.save(turn, "Hello", "done")
    await store.save(await store.begin(question, again=True), "Hello", "done")
    for again in (True, False):
        with pytest.raises(OverQuota):
            await store.begin(Question(conversation="c", content="Hi", owner="a", message_id="n"), again=again)
    with pytest.raises(OverQuota):
        await store.begin(question, again=True)
    assert await store.begin(question)
    await store.begin(Question(conversation="c", content="Hi", message_id="m"))  # nobody's
    await store.begin(Question(conversation="c", content="Hi", owner="a", channel="app", message_id="m"))
    assert not (await store.begin(Question(conversation="c", content="Hi", message_id="m"))).is_ours
    await store.quota.forget(clock.now)
    assert len(await db.read("SELECT number FROM house_asked")) == 4
    await store.quota.forget(clock.now + 60)
    assert await db.read("SELECT number FROM house_asked") == []
    await db.aclose()


@pytest.mark.parametrize(
    ("state", "reason", "count"),
    [("stopped", "client", 2), ("left", None, 2), ("stopped", "server", 1), ("error", "The model is busy.", 1)],
)
async def test_a_repeat_counts_where_the_asker_ended_the_answer_before(
    database_url: str, clock: Clock, state: Any, reason: str | None, count: int
):
    db = database(database_url)
    await db.open()
    store = Store(db, clock, (Limit(2, 60),))
    question = Question(conversation="c", content="Hi", owner="a", message_id="m")
    await store.save(await store.begin(question), "Hel", state, reason=reason)
    assert (await store.begin(question)).is_ours
    assert len(await db.read("SELECT number FROM house_asked")) == count
    await db.aclose()


async def test_who_is_over_the_quota_is_told_once_until_it_is_possible_again(database_url: str):
    db = database(database_url)
    await db.open()
    quota, over = Store(db, limits=(Limit(1, 60),)).quota, OverQuota(30)
    told = [await quota.is_to_be_told("telegram", "42", id, over, now) for id, now in [("5", 0), ("6", 1), ("5", 2)]]
    assert told == [True, False, True]  # the third is another attempt of what was told
    assert await quota.is_to_be_told("telegram", "43", "7", over, 3)
    assert not await quota.is_to_be_told("telegram", "42", "8", over, 31)
    assert await quota.is_to_be_told("telegram", "42", "8", over, 32)
    await db.aclose()


@pytest.mark.parametrize(
    "value", ["20/fortnight", "20", "20/minute;200/day", "-1/minute", "0/day", "1.5/day", ",", "/day"]
)
def test_a_quota_that_is_none_is_named(value: str):
    with pytest.raises(ConfigError, match=r"^CHAT_QUOTA: .*20/minute,200/day"):
        load_config({"CHAT_QUOTA": value}, Path("/nowhere"))


def test_a_quota_is_read():
    config = load_config({"CHAT_QUOTA": "20/minute, 200/day"}, Path("/nowhere"))
    assert config.chat_quota == (Limit(20, 60), Limit(200, 86_400))


def test_a_person_of_a_channel_is_told_once_and_no_job_fails(tmp_path: Path, model: ModelServer):
    sent: list[str] = []

    async def take(request: Request) -> JSONResponse:
        sent.append((await request.json())["text"])
        return JSONResponse({"ok": True})

    api = Starlette(routes=[Route("/{rest:path}", take, methods=["POST"])])
    with serving(api, lifespan="off") as sender:
        config = Config(
            database_url=f"sqlite:///{tmp_path}/app.db",
            openai_base_url=model.url,
            cron_secret=SECRET,
            telegram_webhook_secret=SECRET,
            telegram_bot_token="7:AA",
            telegram_api_url=sender,
            chat_quota=(Limit(3, 60),),
        )
        with serving(create_app(config, llm=LLM(config))) as url:
            for n in range(7):
                update = {"update_id": n, "message": {"chat": {"id": 42}, "text": f"question {n}"}}
                headers = {"X-Telegram-Bot-Api-Secret-Token": SECRET}
                answer = httpx.post(f"{url}/api/webhooks/telegram", json=update, headers=headers, trust_env=False)
                assert answer.status_code == 200

            def jobs() -> Any:
                return httpx.get(f"{url}/api/jobs", headers={"X-Cron-Secret": SECRET}, trust_env=False).json()["data"]

            wait_until(lambda: not jobs()["due"] and not jobs()["running"], 30)
            assert jobs()["failed"] == []
    assert sent == ["Hello"] * 3 + [OVER]
    assert len(model.asked) == 3
