"""The store by itself: who may write an answer, what the model is told, and a clock of the test's own."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from db import database
from db.sqlite import SQLite
from store import HISTORY, KEY, LIST, LIST_OWNED, STALE, NotFound, Question, Reused, Running, Store, Turn
from tests.servers import Clock

Q = Question(conversation="c", content="Hi", message_id="m")


@pytest_asyncio.fixture
async def store(database_url: str, clock: Clock) -> AsyncIterator[Store]:
    db = database(database_url)
    await db.open()
    yield Store(db, clock)
    await db.aclose()


async def say(store: Store, question: Question, answer: str = "Hello") -> Turn:
    turn = await store.begin(question)
    await store.save(turn, answer, "done")
    return turn


async def kept_in(store: Store, conversation: str = "c") -> list[tuple[str, str, str]]:
    _, messages = await store.conversation(conversation, "web", None)
    return [(m["role"], m["content"], m["state"]) for m in messages]


# A turn.


async def test_a_turn_is_a_question_and_its_answer(store: Store):
    turn = await store.begin(Q)
    assert await kept_in(store) == [("user", "Hi", "done")]
    await store.save(turn, "Hello", "done")
    assert await kept_in(store) == [("user", "Hi", "done"), ("assistant", "Hello", "done")]


async def test_of_many_turns_at_once_each_answer_follows_its_question(store: Store):
    turns = await asyncio.gather(*(store.begin(Question(conversation="c", content=str(n))) for n in range(50)))
    await asyncio.gather(*(store.save(turn, f"to {n}", "done") for n, turn in enumerate(turns)))
    kept = [content for _, content, _ in await kept_in(store)]
    assert kept[1::2] == [f"to {question}" for question in kept[::2]]
    assert sorted(kept[::2], key=int) == [str(n) for n in range(50)]


async def test_of_many_repeats_at_once_one_may_write(store: Store):
    results = await asyncio.gather(*(store.begin(Q) for _ in range(20)), return_exceptions=True)
    assert [type(result) for result in results].count(Turn) == 1
    assert [type(result) for result in results].count(Running) == 19
    assert await kept_in(store) == [("user", "Hi", "done")]


async def test_a_repeat_of_a_finished_answer_gives_it(store: Store):
    assert (await store.begin(Q)).answer is None
    other = await say(store, replace(Q, message_id="n", content="Other"), "Yes")
    assert other.answer is None
    assert (await store.begin(replace(Q, message_id="n", content="Other"))).answer == "Yes"


@pytest.mark.parametrize("ending", ["left", "error", "stopped"])
async def test_a_repeat_of_an_unfinished_answer_may_write_it_again(store: Store, ending: Any):
    first = await store.begin(Q)
    await store.save(first, "Hel", ending)
    second = await store.begin(Q)
    assert (second.seq, second.answer) == (first.seq, None)
    await store.save(second, "Hello", "done")
    assert await kept_in(store) == [("user", "Hi", "done"), ("assistant", "Hello", "done")]


async def test_another_text_under_the_same_id_is_refused(store: Store):
    await say(store, Q)
    with pytest.raises(Reused):
        await store.begin(replace(Q, content="Ho"))
    with pytest.raises(Reused):  # a running answer or not
        await store.begin(replace(Q, content="Ho", model="fast"))
    await say(store, replace(Q, conversation="d", content="Ho"))


OWNERS: list[dict[str, Any]] = [{"owner": "7"}, {"channel": "app"}, {"channel": "app", "owner": "7"}]


@pytest.mark.parametrize("other", OWNERS)
async def test_equal_ids_of_two_owners_never_meet(store: Store, other: dict[str, Any]):
    await store.save(await store.begin(Q), "Hel", "left")
    theirs = replace(Q, content="Ho", model="fast", **other)  # the same message id, another text
    turn = await store.begin(theirs)
    assert await store.history(turn, 1000) == [{"role": "user", "content": "Ho"}]
    await store.save(turn, "Huh", "done")
    assert (await store.begin(theirs)).answer == "Huh"
    await store.save(await store.begin(replace(theirs, message_id="n"), again=True), "More", "done")
    row, _ = await store.conversation("c", "web", None)
    assert (row["id"], row["channel"], row["owner"], row["model"]) == ("c", "web", None, "smart")
    assert await kept_in(store) == [("user", "Hi", "done"), ("assistant", "Hel", "left")]
    await store.delete("c", theirs.channel, theirs.owner)
    assert await kept_in(store) == [("user", "Hi", "done"), ("assistant", "Hel", "left")]


@pytest.mark.parametrize("places", [(("a", "b:c"), ("a:b", "c")), (("a", "bc"), ("ab", "c")), (("", "x"), ("x", ""))])
async def test_an_owner_and_an_id_are_not_joined(store: Store, places: tuple[tuple[str, str], tuple[str, str]]):
    for owner, id in places:
        await say(store, replace(Q, owner=owner, conversation=id, content=owner), f"to {owner}")
    for owner, id in places:
        row, messages = await store.conversation(id, "web", owner)
        assert (row["id"], [m["content"] for m in messages]) == (id, [owner, f"to {owner}"])


async def test_a_conversation_is_read_and_deleted_by_its_channel_its_owner_and_its_id(store: Store):
    await say(store, replace(Q, channel="app", owner="7"))
    await say(store, replace(Q, conversation="d", channel="app"))
    for id, channel, owner in (
        *(("c", "app", "8"), ("c", "app", None), ("c", "web", "7"), ("c", "web", None)),
        *(("d", "app", "7"), ("d", "web", None)),
    ):
        with pytest.raises(NotFound):
            await store.conversation(id, channel, owner)
        with pytest.raises(NotFound):
            await store.delete(id, channel, owner)
    assert len((await store.conversation("c", "app", "7"))[1]) == 2
    assert len((await store.conversation("d", "app", None))[1]) == 2
    await store.delete("c", "app", "7")
    await store.delete("d", "app", None)
    assert await store.db.read("SELECT seq FROM house_message") == []


async def test_an_owners_list_has_the_owners_own_and_everybodys_has_all(store: Store):
    for owner in ("7", "8", None):
        for id in ("c", "d"):
            await say(store, replace(Q, conversation=id, owner=owner))
    await say(store, replace(Q, channel="app", owner="7"))
    for owner in ("7", "8"):
        rows = await store.conversations("web", owner, 10, None)
        assert sorted((row["id"], row["owner"]) for row in rows) == [("c", owner), ("d", owner)]
        [second] = await store.conversations("web", owner, 10, (rows[0]["created_at"], rows[0]["key"]))
        assert second == rows[1]
    assert len(await store.conversations("web", None, 10, None)) == 6
    assert sorted(await store.owners("c", "web"), key=str) == ["7", "8", None]


PLANS = [
    (f"SELECT {KEY}", ("web", "7", "c"), "conversation_owned"),
    (LIST_OWNED, ("web", 9.0, "", 10, "7"), "conversation_newest_of"),
    (LIST, ("web", 9.0, "", 10), "conversation_newest"),
]


@pytest.mark.parametrize(("sql", "values", "index"), PLANS)
async def test_no_owner_waits_for_the_number_of_others(store: Store, sql: str, values: Sequence[object], index: str):
    if not isinstance(store.db, SQLite):
        pytest.skip("PostgreSQL plans by how many rows there are: the same indexes are there")
    plan = await store.db.read(f"EXPLAIN QUERY PLAN {sql}", *values)
    assert any(f"{index} (" in step["detail"] for step in plan), plan


# A writer that died.


async def test_a_running_answer_is_taken_over_when_its_writer_is_silent_for_too_long(store: Store, clock: Clock):
    dead = await store.begin(Q)
    await store.save(dead, "Hel", "running")
    clock.now += STALE
    with pytest.raises(Running):
        await store.begin(Q)
    clock.now += 1
    heir = await store.begin(Q)
    assert (heir.seq, heir.turn != dead.turn) == (dead.seq, True)
    await store.save(dead, "I am still alive", "done")  # too late: the turn is no longer its own
    await store.save(heir, "Hello", "done")
    assert await kept_in(store) == [("user", "Hi", "done"), ("assistant", "Hello", "done")]


async def test_a_writer_that_saves_now_and_then_keeps_its_turn(store: Store, clock: Clock):
    turn = await store.begin(Q)
    for n in range(5):
        clock.now += STALE - 1
        await store.save(turn, "Hello"[: n + 1], "running")
        with pytest.raises(Running):
            await store.begin(Q)
    await store.save(turn, "Hello", "done")
    assert (await store.begin(Q)).answer == "Hello"


async def test_what_a_dead_writer_had_saved_is_shown_and_told_as_broken_off(store: Store, clock: Clock):
    dead = await store.begin(Q)
    await store.save(dead, "Hel", "running")
    assert await kept_in(store) == [("user", "Hi", "done")]
    clock.now += STALE + 1
    assert await kept_in(store) == [("user", "Hi", "done"), ("assistant", "Hel", "error")]
    turn = await store.begin(Question(conversation="c", content="Go on"))
    assert [m["content"] for m in await store.history(turn, 1000)] == ["Hi", "Hel", "Go on"]


# Again.


async def test_again_replaces_the_answer_the_question_and_what_came_after(store: Store):
    for id, text in (("m", "one"), ("n", "two"), ("o", "three")):
        await say(store, replace(Q, message_id=id, content=text), f"to {text}")
    turn = await store.begin(replace(Q, message_id="n", content="two!"), again=True)
    assert [m["content"] for m in await store.history(turn, 1000)] == ["one", "to one", "two!"]
    await store.save(turn, "to two!", "done")
    assert [content for _, content, _ in await kept_in(store)] == ["one", "to one", "two!", "to two!"]
    await say(store, replace(Q, message_id="o", content="three"), "to three")
    assert [content for _, content, _ in await kept_in(store)][4:] == ["three", "to three"]


async def test_again_waits_for_an_answer_that_is_written_and_deletes_nothing(store: Store):
    await store.begin(Q)
    await say(store, replace(Q, message_id="n", content="two"))
    for content in ("Hi", "Ho"):
        with pytest.raises(Running):
            await store.begin(replace(Q, content=content), again=True)
    assert [content for _, content, _ in await kept_in(store)] == ["Hi", "two", "Hello"]


async def test_again_takes_the_answers_after_it_from_their_writers(store: Store):
    await say(store, Q)
    later = await store.begin(replace(Q, message_id="n", content="two"))
    turn = await store.begin(Q, again=True)
    new = await store.begin(replace(Q, message_id="o", content="three"))
    assert new.seq == later.seq
    await store.save(later, "lost", "done")
    await store.save(turn, "Hello again", "done")
    await store.save(new, "to three", "done")
    assert [content for _, content, _ in await kept_in(store)] == ["Hi", "Hello again", "three", "to three"]


async def test_again_for_a_question_that_is_new_is_a_question(store: Store):
    await say(store, Q)
    turn = await store.begin(replace(Q, message_id="n", content="two"), again=True)
    await store.save(turn, "to two", "done")
    assert [content for _, content, _ in await kept_in(store)] == ["Hi", "Hello", "two", "to two"]


# What the model is told.


async def test_the_question_is_told_however_long_it_is(store: Store):
    await say(store, replace(Q, content="before"))
    turn = await store.begin(replace(Q, message_id="n", content="x" * 1000))
    assert await store.history(turn, 1) == [{"role": "user", "content": "x" * 1000}]


async def test_empty_and_running_answers_and_later_questions_are_not_told(store: Store):
    empty = await store.begin(Question(conversation="c", content="one"))
    await store.save(empty, "", "error")
    running = await store.begin(Question(conversation="c", content="two"))
    await store.save(running, "half", "running")
    turn = await store.begin(Question(conversation="c", content="three"))
    await store.begin(Question(conversation="c", content="four"))
    assert [m["content"] for m in await store.history(turn, 1000)] == ["one", "two", "three"]


async def test_no_more_than_so_many_messages_are_told(store: Store):
    for _ in range(HISTORY // 2 + 2):
        await say(store, Question(conversation="c", content="q"), "a")
    turn = await store.begin(Question(conversation="c", content="q"))
    assert len(await store.history(turn, 10_000)) == HISTORY


# Deleting.


async def test_a_deleted_conversation_takes_its_messages_with_it(store: Store):
    running = await store.begin(Q)
    await say(store, replace(Q, conversation="d"))
    await store.delete("c", "web", None)
    await store.save(running, "Hello", "done")
    for id, channel in (("c", "web"), ("d", "app"), ("e", "web")):
        with pytest.raises(NotFound):
            await store.delete(id, channel, None)
        with pytest.raises(NotFound):
            await store.conversation(id, channel, None)
    assert len(await kept_in(store, "d")) == 2
    assert len(await store.db.read("SELECT seq FROM house_message")) == 2
    assert (await store.begin(Q)).seq == 2
