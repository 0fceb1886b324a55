"""What keeps an answer alive that is written for long: signs of life of its process, on both engines."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio

from answers import Answer, Answers
from db import database
from store import LOST, Question, Store, Turn
from tests.servers import Clock

Q = Question(conversation="c", content="Hi", message_id="m")


@asynccontextmanager
async def keeping(url: str, clock: Clock) -> AsyncGenerator[Answers]:
    """The answers of a process."""
    db = database(url)
    await db.open()
    answers = Answers(Store(db, clock))
    async with answers.serving(run):
        yield answers
    await db.aclose()


async def run(name: str, work: Callable[[], Awaitable[None]]) -> None:
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
