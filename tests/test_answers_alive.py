"""What keeps an answer alive that is written for long: signs of life of its process, on both engines."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from answers import Answer, Answers, Ended
from db import database
from store import LOST, Question, Store, Turn
from tests.servers import Clock

Vital = Callable[[str, Callable[[], Awaitable[None]]], Coroutine[Any, Any, None]]

Q = Question(conversation="c", content="Hi", message_id="m")


@asynccontextmanager
async def keeping(url: str, clock: Clock, run: Vital | None = None) -> AsyncGenerator[Answers]:
    """The answers of a process."""
    db = database(url)
    await db.open()
    answers = Answers(Store(db, clock))
    try:
        async with answers.serving(run or just_run):
            yield answers
    finally:
        await db.aclose()


async def just_run(name: str, work: Callable[[], Awaitable[None]]) -> None:
    await work()


async def never(turn: Turn, answer: Answer) -> None:
    raise AssertionError("it is being written by another process")


async def test_a_model_that_thinks_for_minutes_is_alive_all_the_time_and_a_repeat_joins_it(
    database_url: str, clock: Clock
):
    speaks = anyio.Event()

    async def thinks(turn: Turn, answer: Answer) -> None:
        answer.add([], ["Let me see."])
        await speaks.wait()
        answer.add(["Hello"])

    async with keeping(database_url, clock) as one, keeping(database_url, clock) as other:
        answer = await one.begin(Q, thinks)
        with answer.reader() as here, (await other.begin(Q, never)).reader() as there:
            assert await here.news() == ["Let me see."]
            for _ in range(12):
                clock.now += LOST - 1
                with anyio.fail_after(20):
                    while await last_sign_of_life(one) < clock.now:  # noqa: ASYNC110 - another task's write
                        await anyio.sleep(0.01)
                joined = await other.begin(Q, never)
                assert (joined.turn, joined.state) == (answer.turn, "running")
            speaks.set()
            assert await here.news() == await there.news() == ["Hello"]
            assert await here.news() == await there.news() == []


async def last_sign_of_life(answers: Answers) -> float:
    [row] = await answers.store.db.read("SELECT alive_at FROM house_writer WHERE id = $1", answers.store.writer)
    return row["alive_at"]


async def test_a_writer_that_nothing_can_handle_ends_the_keeping_and_its_readers_are_told(
    database_url: str, clock: Clock
):
    class Beyond(BaseException):
        pass

    ended = anyio.Event()

    async def breaks(turn: Turn, answer: Answer) -> None:
        answer.add(["Hello"])
        raise Beyond

    async def vital(name: str, work: Callable[[], Awaitable[None]]) -> None:
        with pytest.raises(Beyond):
            await work()
        ended.set()

    async with keeping(database_url, clock, vital) as answers:
        answer = await answers.begin(Q, breaks)
        with answer.reader() as reader, pytest.raises(Ended):  # noqa: PT012 - some of it may come first
            while await reader.news():
                pass
        with anyio.fail_after(20):
            await ended.wait()
        assert not answers.writing


async def test_answers_that_are_left_when_the_block_ends_are_stopped_and_kept(database_url: str, clock: Clock):
    async def goes_on(turn: Turn, answer: Answer) -> None:
        answer.add([f"to {turn.turn}"])
        await anyio.sleep_forever()

    async with keeping(database_url, clock) as answers:
        begun = [await answers.begin(Question(conversation=f"c{n}", content="Hi"), goes_on) for n in range(5)]
        while not all(answer.told for answer in begun):  # noqa: ASYNC110 - by their tasks
            await anyio.sleep(0.01)
    assert [(answer.state, answer.reason) for answer in begun] == [("stopped", "server")] * 5
    async with keeping(database_url, clock) as answers:
        rows = await answers.store.db.read("SELECT turn, content, state FROM house_message WHERE role = 'assistant'")
    assert {row["turn"]: (row["content"], row["state"]) for row in rows} == {
        answer.turn: (f"to {answer.turn}", "stopped") for answer in begun
    }


async def test_a_block_that_is_cancelled_twice_still_waits_for_what_is_being_kept(
    database_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    begun, saving, save = anyio.Event(), anyio.Event(), Store.save

    async def slowly(self: Store, *values: Any, **named: Any) -> None:
        saving.set()
        await asyncio.sleep(0.3)
        await save(self, *values, **named)

    async def goes_on(turn: Turn, answer: Answer) -> None:
        answer.add(["Hello"])
        begun.set()
        await anyio.sleep_forever()

    async def host() -> None:
        async with keeping(database_url, clock) as answers:
            await answers.begin(Q, goes_on)
            await anyio.sleep_forever()

    monkeypatch.setattr(Store, "save", slowly)
    task = asyncio.create_task(host())
    await begun.wait()
    task.cancel()
    await saving.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    monkeypatch.undo()
    db = database(database_url)
    await db.open()
    assert await db.read("SELECT content, state FROM house_message WHERE role = 'assistant'") == [
        {"content": "Hello", "state": "stopped"}
    ]
    await db.aclose()
