"""CHAT_QUOTA: counted exactly, over two replicas."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from answers.rows import Rows
from config import ConfigError, Limit, load_config
from db import database
from quota import OverQuota
from store import Question, Store
from tests.conftest import HEADERS
from tests.servers import Clock, ModelServer

ASK = """
from answers.wire import Frames
from auth import requires, service, who_asks
from chat import Asked, ask, read_question, told_by

@requires(service)
async def POST(request, body: Asked):
    question = read_question(who_asks(request), body)
    return told_by(request, lambda: ask(request.state, question), Frames())
"""


@pytest.fixture
def replicas(serve_tree: Callable[..., str], database_url: str, model: ModelServer) -> list[str]:
    """Two of them on one database, with three questions a minute."""
    settings: dict[str, Any] = {"database_url": database_url, "openai_base_url": model.url}
    return [serve_tree({"ask/route.py": ASK}, chat_quota=(Limit(3, 60),), **settings) for _ in range(2)]


def ask(url: str, owner: str = "alice", **body: Any) -> httpx.Response:
    body = {"message": "Hi", "channelId": owner, **body}
    return httpx.post(f"{url}/ask", json=body, headers=HEADERS, timeout=60, trust_env=False)


async def stored(database_url: str, owner: str) -> int:
    db = database(database_url)
    await db.open()
    found = await db.read("SELECT id FROM house_conversation WHERE channel_id = $1", owner)
    await db.aclose()
    return len(found)


async def test_the_fourth_question_is_429_on_every_replica_and_stores_nothing(
    replicas: list[str], model: ModelServer, database_url: str
):
    one, two = replicas
    for n, url in enumerate([one, two, one]):
        assert ask(url, conversationId=f"c{n}", messageId="m").status_code == 200
    for refused in (ask(two), ask(one)):
        assert (refused.status_code, set(refused.json())) == (429, {"error"})
        assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert ask(two, conversationId="c0", messageId="m").status_code == 200  # a repeat, from the store
    assert (await stored(database_url, "alice"), len(model.asked)) == (3, 3)
    assert ask(two, "bob").status_code == 200


async def test_of_sixteen_at_once_over_two_replicas_three_are_answered(
    replicas: list[str], model: ModelServer, database_url: str
):
    def nth(n: int) -> int:
        return ask(replicas[n % 2], conversationId=f"c{n}").status_code

    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(nth, range(16)))
    assert sorted(found) == [200] * 3 + [429] * 13
    assert len(model.asked) == await stored(database_url, "alice") == 3


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
