"""The store by itself: who may write an answer, what the model is told, and a clock of the test's own."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from answers.rows import Rows
from db import Row, database
from db.sqlite import SQLite
from store import HISTORY, KEY, LIST, LIST_OWNED, LOST, STALE, NotFound, Question, Reused, Running, Store, Turn
from tests.servers import Clock

Q = Question(conversation="c", content="Hi", message_id="m")


@pytest_asyncio.fixture
async def store(database_url: str, clock: Clock) -> AsyncIterator[Store]:
    db = database(database_url)
    await db.open()
    store = Store(db, clock)
    await Rows(store).beat()
    yield store
    await db.aclose()


async def say(store: Store, question: Question, answer: str = "Hello") -> Turn:
    turn = await store.begin(question)
    await store.save(turn, answer, "done")
    return turn


def contents(rows: list[Row]) -> list[str]:
    return [row["content"] for row in rows]


async def test_a_long_conversation_is_read_from_its_end_as_far_as_there_is_room(store: Store):
    for n in range(4):
        await say(store, replace(Q, content=f"{n}" * 40, message_id=f"m{n}"), "a" * 10)

    async def read(room: int) -> list[str]:
        _, messages = await store.conversation("c", "web", None, room)
        return [text[0] for text in contents(messages)]

    assert await read(1000) == await read(200) == ["0", "a", "1", "a", "2", "a", "3", "a"]
    assert await read(199) == await read(150) == ["1", "a", "2", "a", "3", "a"]
    assert await read(99) == ["3", "a"]
    assert await read(10) == await read(0) == ["3", "a"]  # never less than the last question and its answer


async def kept_in(store: Store, conversation: str = "c") -> list[tuple[str, str, str]]:
    _, messages = await store.conversation(conversation, "web", None)
    return [(m["role"], m["content"], m["state"]) for m in messages]


# A turn.


async def test_a_turn_is_a_question_and_its_answer(store: Store):
    turn = await store.begin(Q)
    assert await kept_in(store) == [("user", "Hi", "done"), ("assistant", "", "running")]
    await store.save(turn, "Hello", "done")
    assert await kept_in(store) == [("user", "Hi", "done"), ("assistant", "Hello", "done")]


async def test_of_many_turns_at_once_each_answer_follows_its_question(store: Store):
    turns = await asyncio.gather(*(store.begin(Question(conversation="c", content=str(n))) for n in range(50)))
    await asyncio.gather(*(store.save(turn, f"to {n}", "done") for n, turn in enumerate(turns)))
    kept = [content for _, content, _ in await kept_in(store)]
    assert kept[1::2] == [f"to {question}" for question in kept[::2]]
    assert sorted(kept[::2], key=int) == [str(n) for n in range(50)]


async def test_of_many_repeats_at_once_one_may_write_and_the_others_join_it(store: Store):
    turns = await asyncio.gather(*(store.begin(Q) for _ in range(20)))
    assert [turn.is_ours for turn in turns].count(True) == 1
    assert len({turn.turn for turn in turns}) == 1
    assert {turn.state for turn in turns} == {"running"}
    assert await kept_in(store) == [("user", "Hi", "done"), ("assistant", "", "running")]


async def test_a_repeat_of_a_finished_answer_gives_it_with_how_it_ended(store: Store):
    assert (await store.begin(Q)).is_ours
    turn = await store.begin(replace(Q, message_id="n", content="Other"))
    await store.save(turn, "Yes", "done", finish="length", tokens_in=7, tokens_out=2)
    again = await store.begin(replace(Q, message_id="n", content="Other"))
    assert (again.is_ours, again.content, again.state, again.answer_id) == (False, "Yes", "done", "n-answer")
    assert (again.finish, again.tokens_in, again.tokens_out) == ("length", 7, 2)


@pytest.mark.parametrize("ending", ["left", "error", "stopped"])
async def test_a_repeat_of_an_unfinished_answer_may_write_it_again(store: Store, ending: Any):
    first = await store.begin(Q)
    await store.save(first, "Hel", ending)
    second = await store.begin(Q)
    assert (second.seq, second.is_ours) == (first.seq, True)
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
    assert contents(await store.history(turn, 1000)) == ["Ho"]
    await store.save(turn, "Huh", "done")
    assert (await store.begin(theirs)).content == "Huh"
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


async def test_a_running_answer_is_taken_over_when_its_writer_gives_no_sign_of_life(store: Store, clock: Clock):
    dead = await store.begin(Q)
    await store.save(dead, "Hel", "running")
    clock.now += LOST
    assert (await store.begin(Q)).turn == dead.turn
    clock.now += 1
    assert await store.last(Q.place, running=True) is None
    heir = await Store(store.db, clock).begin(Q)
    assert (heir.seq, heir.is_ours, heir.turn != dead.turn) == (dead.seq, True, True)
    await store.save(dead, "I am still alive", "done")  # too late: the turn is no longer its own
    await store.save(heir, "Hello", "done")
    assert await kept_in(store) == [("user", "Hi", "done"), ("assistant", "Hello", "done")]


async def test_a_writer_that_gives_signs_of_life_keeps_its_turn_however_long_it_says_nothing(
    store: Store, clock: Clock
):
    turn = await store.begin(Q)
    for _ in range(100):
        clock.now += LOST - 1
        assert not (await store.begin(Q)).is_ours
        await Rows(store).beat()
    await store.save(turn, "Hello", "done")
    assert (await store.begin(Q)).content == "Hello"


async def test_an_answer_of_a_version_without_signs_of_life_is_dead_when_nobody_touches_it(store: Store, clock: Clock):
    older = await store.begin(Q)
    await store.db.write(("UPDATE house_message SET writer = NULL", ()))
    clock.now += STALE
    assert (await store.begin(Q)).turn == older.turn
    clock.now += 1
    assert (await store.begin(Q)).is_ours


async def test_an_heir_takes_the_turn_whatever_signs_of_life_there_are(store: Store):
    first = await store.begin(Q)
    heir = await store.begin(Q, heir=True)
    assert (heir.seq, heir.is_ours, heir.turn != first.turn) == (first.seq, True, True)


async def test_what_a_dead_writer_had_saved_is_shown_and_told_as_broken_off(store: Store, clock: Clock):
    dead = await store.begin(Q)
    await store.save(dead, "Hel", "running")
    assert await kept_in(store) == [("user", "Hi", "done"), ("assistant", "Hel", "running")]
    clock.now += LOST + 1
    assert await kept_in(store) == [("user", "Hi", "done"), ("assistant", "Hel", "error")]
    turn = await store.begin(Question(conversation="c", content="Go on"))
    assert contents(await store.history(turn, 1000)) == ["Hi", "Hel", "Go on"]


async def test_a_late_save_does_not_open_a_finished_answer_again(store: Store):
    turn = await store.begin(Q)
    await store.save(turn, "Hello", "done")
    await store.save(turn, "Hel", "running")
    await Rows(store).save({turn.turn: "Hel"})
    assert await kept_in(store) == [("user", "Hi", "done"), ("assistant", "Hello", "done")]


# Again.


async def test_again_replaces_the_answer_the_question_and_what_came_after(store: Store):
    for id, text in (("m", "one"), ("n", "two"), ("o", "three")):
        await say(store, replace(Q, message_id=id, content=text), f"to {text}")
    turn = await store.begin(replace(Q, message_id="n", content="two!"), again=True)
    assert contents(await store.history(turn, 1000)) == ["one", "to one", "two!"]
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
    assert [content for _, content, _ in await kept_in(store)] == ["Hi", "", "two", "Hello"]


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
    assert contents(await store.history(turn, 1)) == ["x" * 1000]


async def test_empty_and_running_answers_and_later_questions_are_not_told(store: Store):
    empty = await store.begin(Question(conversation="c", content="one"))
    await store.save(empty, "", "error")
    running = await store.begin(Question(conversation="c", content="two"))
    await store.save(running, "half", "running")
    turn = await store.begin(Question(conversation="c", content="three"))
    await store.begin(Question(conversation="c", content="four"))
    assert [(row["content"], bool(row["is_running"])) for row in await store.history(turn, 1000)] == [
        *(("one", False), ("", False)),
        *(("two", False), ("", True)),
        ("three", False),
    ]


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
