"""The promises of docs/jobs.md, each with tests of its name, on both engines."""

import asyncio
import contextlib
import json
import logging
import re
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest

from db import Row, database
from tests.servers import Clock, wait_until, working
from worker import GiveUp, Job, JobFile, Retry, Worker, step
from worker.table import Encoded

Run = Callable[..., Any]


def job(run: Run, name: str = "job", **options: Any) -> dict[str, JobFile]:
    return {name: JobFile(name=name, file=f"jobs/{name}.py", run=run, **options)}


async def until(condition: Callable[[], object], seconds: float = 60) -> None:
    await asyncio.to_thread(wait_until, condition, seconds)


async def row_of(worker: Worker, id: str) -> Row:
    [row] = await worker.db.read("SELECT * FROM house_job WHERE id = $1", id)
    return row


async def waits(worker: Worker, id: str) -> None:
    """Wait until a job that was begun waits again: from then on the clock may be set."""
    for _ in range(3000):
        if (await row_of(worker, id))["token"] is None:
            return
        await anyio.sleep(0.01)
    raise AssertionError(f"{id} does not wait")


async def end_of(worker: Worker, id: str) -> Row:
    for _ in range(3000):
        row = await row_of(worker, id)
        if row["done_at"] is not None:
            return row
        await anyio.sleep(0.01)
    raise AssertionError(f"{id} did not end")


# A job can end nothing but itself.


class Panic(BaseException):
    """What Rust extensions raise."""


async def leaks_a_cancellation(job: Job) -> None:
    sleeping = asyncio.ensure_future(asyncio.sleep(60))
    asyncio.get_running_loop().call_later(0.01, sleeping.cancel)
    await asyncio.gather(sleeping)


async def cancels_itself(job: Job) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(60)


async def raises_cancelled(job: Job) -> None:
    raise asyncio.CancelledError


async def exits(job: Job) -> None:
    await asyncio.sleep(0)
    sys.exit(2)


async def is_interrupted(job: Job) -> None:
    raise KeyboardInterrupt


async def panics(job: Job) -> None:
    raise Panic


async def closes(job: Job) -> None:
    raise GeneratorExit


async def closes_in_a_thread(job: Job) -> None:
    def work() -> None:
        raise GeneratorExit

    await anyio.to_thread.run_sync(work)


async def stops_iterating(job: Job) -> None:
    raise StopIteration


async def exits_in_a_task(job: Job) -> None:
    async def child() -> None:
        sys.exit(2)

    await asyncio.create_task(child())


async def exits_in_a_task_group(job: Job) -> None:
    async def child() -> None:
        await asyncio.sleep(0)
        raise KeyboardInterrupt

    async with asyncio.TaskGroup() as group:
        group.create_task(child())


async def exits_in_anyio_s_task_group(job: Job) -> None:
    async def child() -> None:
        await asyncio.to_thread(sys.exit, 2)

    async with anyio.create_task_group() as group:
        group.start_soon(child)
        group.start_soon(anyio.sleep, 60)


def exits_in_a_thread(job: Job) -> None:
    sys.exit(2)


def closes_its_thread(job: Job) -> None:
    raise GeneratorExit


def stops_its_thread(job: Job) -> None:
    raise StopIteration


def panics_in_a_thread(job: Job) -> None:
    raise Panic


async def retries_without_a_time(job: Job) -> None:
    class Busy(Retry):
        def __init__(self, answer: str) -> None:  # and nothing of Retry's own
            self.answer = answer

    raise Busy("503")


async def gives_up_in_words_that_raise(job: Job) -> None:
    class Never(GiveUp):
        def __str__(self) -> str:
            sys.exit(2)

    raise Never


BREAKERS: list[Run] = [
    *(leaks_a_cancellation, cancels_itself, raises_cancelled, exits, is_interrupted, panics, closes),
    *(exits_in_a_task, exits_in_a_task_group, exits_in_anyio_s_task_group),
    *(closes_in_a_thread, stops_iterating, exits_in_a_thread, closes_its_thread, stops_its_thread, panics_in_a_thread),
    *(retries_without_a_time, gives_up_in_words_that_raise),
]


@pytest.mark.parametrize("run", BREAKERS, ids=lambda run: run.__name__)
async def test_a_job_can_end_nothing_but_itself(database_url: str, run: Run):
    async def fine(job: Job) -> None:
        pass

    async with working(database_url, {**job(run, "bad", attempts=1), **job(fine, "good")}) as worker:
        await worker.put("bad", id="bad")
        assert (await end_of(worker, "bad"))["error"] is not None
        assert [row["id"] for row in (await worker.overview())["failed"]] == ["bad"]
        await worker.put("good", id="good")
        assert (await end_of(worker, "good"))["error"] is None
        assert worker.is_alive


async def test_a_failure_deep_down_names_the_line_of_the_jobs_file_too(database_url: str):
    async def run(job: Job) -> None:
        json.loads("{")

    file = JobFile(name="job", file="tests/test_worker_promises.py", run=run, attempts=1)
    async with working(database_url, {"job": file}) as worker:
        await worker.put("job", id="a")
        error = (await end_of(worker, "a"))["error"]
    assert re.fullmatch(r"JSONDecodeError at decoder\.py:\d+, from test_worker_promises\.py:\d+", error)


async def test_plain_jobs_that_never_return_take_no_thread_from_others(database_url: str):
    released = threading.Event()

    def hangs(job: Job) -> None:
        released.wait(30)

    try:
        async with working(database_url, job(hangs), grace=0) as worker:
            for _ in range(45):
                await worker.put("job")
            await until(lambda: len(worker.running) == 45)
            with anyio.fail_after(5):
                assert await anyio.to_thread.run_sync(lambda: 1) == 1
                assert await asyncio.to_thread(lambda: 1) == 1
            released.set()
    finally:
        released.set()


async def test_a_plain_job_over_its_timeout_is_told_and_has_failed_when_it_returns(
    database_url: str, caplog: pytest.LogCaptureFixture
):
    released = threading.Event()

    def hangs(job: Job) -> None:
        released.wait(30)

    async with working(database_url, job(hangs, attempts=1, timeout=0.05)) as worker:
        await worker.put("job", id="a")
        await until(lambda: "is over its timeout of 0.05 s and still runs: a thread cannot be stopped" in caplog.text)
        assert (await row_of(worker, "a"))["done_at"] is None
        released.set()
        assert (await end_of(worker, "a"))["error"] == "its timeout of 0.05 s was over"


async def test_a_plain_job_may_put_and_take_steps_in_a_loop_of_its_own(database_url: str):
    async def work(job: Job) -> None:
        assert await step(job, "part", part) == 1
        await asyncio.gather(*(worker.put("fine", id=f"{job['id']}:{n}") for n in range(20)))
        await worker.db.notify("jobs")

    async def part() -> int:
        return len(await worker.db.read("SELECT id FROM house_job WHERE id = 'a'"))

    def run(job: Job) -> None:
        asyncio.run(work(job))

    async def fine(job: Job) -> None:
        pass

    async with working(database_url, {**job(run, attempts=1), **job(fine, "fine")}) as worker:
        await worker.put("job", id="a")
        assert (await end_of(worker, "a"))["error"] is None
        assert [(await end_of(worker, f"a:{n}"))["error"] for n in range(20)] == [None] * 20


async def test_what_a_plain_function_returns_to_be_awaited_is_done(database_url: str):
    ran: list[str] = []

    async def work(job: Job) -> None:
        await asyncio.sleep(0.01)
        ran.append(job["id"])
        if job["payload"] == "hang":
            await asyncio.sleep(60)
        assert job["payload"] != "fail"

    def run(job: Job) -> Any:  # as a decorator does that is no async def
        return work(job)

    async with working(database_url, job(run, attempts=1, timeout=5)) as worker:
        await worker.put("job", id="a")
        assert (await end_of(worker, "a"))["error"] is None
        await worker.put("job", "fail", id="b")
        assert (await end_of(worker, "b"))["error"].startswith("AssertionError")
        await worker.put("job", "hang", id="c")
        await until(lambda: ran == ["a", "b", "c"])
        await worker.cancel("c")
        assert (await end_of(worker, "c"))["error"] == "cancelled by an operator"


async def test_what_a_plain_function_returns_after_its_timeout_is_not_done(database_url: str):
    ran: list[str] = []

    async def work(job: Job) -> None:
        await asyncio.sleep(0)
        ran.append(job["id"])

    def run(job: Job) -> Any:
        wait_until(lambda: worker.running[next(iter(worker.running))].stopped)
        return work(job)

    async with working(database_url, job(run, attempts=1, timeout=0.01)) as worker:
        await worker.put("job", id="a")
        assert (await end_of(worker, "a"))["error"] == "its timeout of 0.01 s was over"
    assert ran == []


async def test_a_job_that_catches_its_timeout_and_goes_on_is_told(database_url: str, caplog: pytest.LogCaptureFixture):
    async def goes_on(job: Job) -> None:
        while "it catches CancelledError" not in caplog.text:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    async with working(database_url, job(goes_on, attempts=1, timeout=0.05), poll=0.01) as worker:
        await worker.put("job", id="a")
        assert (await end_of(worker, "a"))["error"] == "its timeout of 0.05 s was over"
    assert "job a (jobs/job.py) was stopped (overtime) and still runs" in caplog.text


async def test_a_job_that_catches_its_timeout_and_returns_has_failed_all_the_same(database_url: str):
    async def catches(job: Job) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return

    async with working(database_url, job(catches, attempts=1, timeout=0.02)) as worker:
        await worker.put("job", id="a")
        assert (await end_of(worker, "a"))["error"] == "its timeout of 0.02 s was over"


# Begun, failed, counted.


async def test_attempts_of_1_is_at_most_once_also_when_its_server_is_stopped(database_url: str):
    begun = 0

    async def run(job: Job) -> None:
        nonlocal begun
        begun += 1
        await anyio.sleep_forever()

    for _ in range(3):
        async with working(database_url, job(run, attempts=1)) as worker:
            if begun == 0:
                await worker.put("job", id="a")
            await until(lambda: begun)
            await anyio.sleep(0.05)
    async with working(database_url, job(run, attempts=1)) as worker:
        row = await end_of(worker, "a")
    assert (begun, row["error"]) == (1, "stopped with its server, and attempts = 1 is at most once")


async def test_a_hand_back_counts_no_attempt_and_is_not_forgotten(database_url: str):
    attempts: list[int] = []

    async def run(job: Job) -> None:
        attempts.append(job["attempts"])
        if len(attempts) < 3:
            await anyio.sleep_forever()

    for number in range(3):
        async with working(database_url, job(run)) as worker:
            if number == 0:
                await worker.put("job", id="a")
            await until(lambda number=number: len(attempts) > number)
            if number == 2:
                row = await end_of(worker, "a")
                assert (row["attempts"], row["begun"], row["error"]) == (1, 3, None)
    assert attempts == [1, 1, 1]


async def test_a_running_job_has_its_grace_to_end_by_itself(database_url: str):
    begun, ended = anyio.Event(), list[str]()

    async def run(job: Job) -> None:
        begun.set()
        await anyio.sleep(0.2)
        ended.append(job["id"])

    async with working(database_url, job(run), grace=10) as worker:
        await worker.put("job", id="a")
        await begun.wait()
    assert ended == ["a"]
    db = database(database_url)
    await db.open()
    [row] = await db.read("SELECT done_at, error FROM house_job")
    await db.aclose()
    assert row["done_at"] is not None
    assert row["error"] is None


async def test_grace_is_for_what_never_began(database_url: str):
    clock, begun = Clock(), list[str]()

    async def run(job: Job) -> None:
        begun.append(job["id"])
        if len(begun) == 1:
            await anyio.sleep_forever()

    jobs = job(run, schedule="0 8 * * *", grace=8)
    async with working(database_url, jobs, clock) as worker:
        await worker.tick()
        clock.set("2026-03-01T08:00:01+00:00")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.tick)
            await until(lambda: begun)
            worker.stop()
    clock.set("2026-03-01T08:00:15+00:00")
    async with working(database_url, jobs, clock) as worker:
        await worker.tick()
        assert (await end_of(worker, begun[0]))["error"] is None
    assert len(set(begun)) == 1
    assert len(begun) == 2


async def test_what_is_replayed_is_begun_however_late(database_url: str):
    clock, begun = Clock(), list[str]()

    async def run(job: Job) -> None:
        begun.append(job["id"])
        if len(begun) == 1:
            raise ValueError

    async with working(database_url, job(run, schedule="0 8 * * *", grace=4, attempts=1), clock) as worker:
        await worker.tick()
        clock.set("2026-03-01T08:00:01+00:00")
        await worker.tick()
        clock.now += 8
        await worker.replay(begun[0])
        assert (await end_of(worker, begun[0]))["error"] is None
        clock.set("2026-03-02T08:00:09+00:00")  # too late, and skipped
        await worker.tick()
        skipped = "cron:job:2026-03-02T08:00:00+00:00"
        assert (await end_of(worker, skipped))["error"] == "skipped: 9 s late"
        await worker.replay(skipped)
        assert (await end_of(worker, skipped))["error"] is None
    assert begun == ["cron:job:2026-03-01T08:00:00+00:00"] * 2 + [skipped]


# A failure has three classes.


async def test_retry_counts_no_attempt(database_url: str):
    clock, attempts = Clock(), list[int]()

    async def run(job: Job) -> None:
        attempts.append(job["attempts"])
        if len(attempts) < 5:
            raise Retry(after=30)

    async with working(database_url, job(run, attempts=1), clock) as worker:
        await worker.put("job", id="a")
        for number in range(1, 5):
            await until(lambda number=number: len(attempts) == number)
            row = await row_of(worker, "a")
            while row["token"] is not None:
                row = await row_of(worker, "a")
            assert row["run_at"] == clock.now + 30
            clock.now += 29
            await anyio.sleep(0.06)
            assert len(attempts) == number
            clock.now += 1
        row = await end_of(worker, "a")
    assert (attempts, row["error"], row["begun"]) == ([1] * 5, None, 5)


async def test_retry_is_also_found_in_a_task_group(database_url: str):
    clock, attempts = Clock(), list[int]()

    async def part() -> None:
        raise Retry(after=1)

    async def run(job: Job) -> None:
        attempts.append(job["attempts"])
        if len(attempts) == 1:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(part())

    async with working(database_url, job(run, attempts=1), clock) as worker:
        await worker.put("job", id="a")
        await until(lambda: attempts)
        await waits(worker, "a")
        clock.now += 1
        assert (await end_of(worker, "a"))["error"] is None
    assert attempts == [1, 1]


@pytest.mark.parametrize("after", [-1, float("nan"), float("inf"), "5", None, True, 1_790_000_000, 10**400])
def test_retry_wants_seconds(after: Any):
    with pytest.raises(ValueError, match="a number of seconds is required"):
        Retry(after=after)


async def test_give_up_is_not_tried_again_and_says_why(database_url: str, caplog: pytest.LogCaptureFixture):
    begun = 0

    async def run(job: Job) -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            raise GiveUp("blocked by the user\0")

    async with working(database_url, job(run, attempts=5)) as worker:
        await worker.put("job", id="a")
        assert (await end_of(worker, "a"))["error"] == "gave up: blocked by the user\ufffd"
        [failed] = (await worker.overview())["failed"]
        assert failed["error"] == "gave up: blocked by the user\ufffd"
        assert begun == 1
        await worker.replay("a")
        assert (await end_of(worker, "a"))["error"] is None
    assert "job a: gave up: blocked by the user" in caplog.text


async def test_the_words_of_give_up_are_cut_where_errors_are(database_url: str, caplog: pytest.LogCaptureFixture):
    async def run(job: Job) -> None:
        raise GiveUp("x" * 10_000)

    async with working(database_url, job(run)) as worker:
        await worker.put("job", id="a")
        assert (await end_of(worker, "a"))["error"] == f"gave up: {'x' * 491}"
        await until(lambda: f"job a: gave up: {'x' * 491}" in [record.getMessage() for record in caplog.records])


# Steps.


async def test_a_step_that_was_done_is_not_done_again(database_url: str):
    clock, sent, results, sends = Clock(), list[str](), list[Any](), [0]

    async def send(word: str, n: int) -> Any:
        sent.append(word)
        return {"word": word, "list": (n, None, "é")}

    def count() -> int:
        sends[0] += 1
        return sends[0]

    async def run(job: Job) -> None:
        a = await step(job, "part-1", send, "x", 1)
        b = await step(job, "part-2", send, "y", n=2)
        c = await step(job, "plain", count)
        d = await step(job, "nothing", lambda: None)
        results.append([a, b, c, d])
        if len(results) == 1:
            raise ValueError
        if len(results) == 2:
            raise Retry(after=60)

    async with working(database_url, job(run, attempts=2), clock) as worker:
        await worker.put("job", id="a")
        for number in (1, 2):
            await until(lambda number=number: len(results) == number)
            await waits(worker, "a")
            clock.now += 60
        assert (await end_of(worker, "a"))["error"] is None
        assert await worker.db.read("SELECT * FROM house_step") == []  # what is done needs them no more
    assert sent == ["x", "y"]
    assert results[0] == [{"word": "x", "list": [1, None, "é"]}, {"word": "y", "list": [2, None, "é"]}, 1, None]
    assert results[1] == results[2] == results[0]


async def test_a_step_that_is_asked_for_twice_at_once_is_done_once(database_url: str):
    done: list[str] = []
    rounds: list[int] = []

    async def work(word: str) -> int:
        await asyncio.sleep(0)
        done.append(word)
        return len(done)

    async def run(job: Job) -> None:
        same = await asyncio.gather(*(step(job, "same", work, "same") for _ in range(3)))
        others = await asyncio.gather(*(step(job, f"other {n}", work, "other") for n in range(3)))
        await asyncio.gather(*(step(job, f"other {n}", work, "other") for n in range(3)))
        assert (same, others) == ([1, 1, 1], [2, 3, 4])
        rounds.append(job["attempts"])
        if len(rounds) == 1:
            raise Retry(after=0)

    async with working(database_url, job(run, attempts=1)) as worker:
        await worker.put("job", id="a")
        assert (await end_of(worker, "a"))["error"] is None
    assert rounds == [1, 1]
    assert done == ["same", "other", "other", "other"]


async def test_steps_outlive_the_failure_and_are_there_for_a_replay(database_url: str):
    sent: list[str] = []

    async def send(word: str) -> None:
        sent.append(word)

    async def run(job: Job) -> None:
        await step(job, "one", send, "one")
        if sent == ["one"] and job["payload"] == "fail":
            await step(job, "two", send, "two")
            raise ValueError

    async with working(database_url, job(run, attempts=1)) as worker:
        await worker.put("job", "fail", id="a")
        assert (await end_of(worker, "a"))["error"] is not None
        await worker.replay("a")
        assert (await end_of(worker, "a"))["error"] is None
        await worker.put("job", id="a2", unique="pending")
        await end_of(worker, "a2")
        await worker.put("job", id="a2", unique="pending")
        await until(lambda: sent.count("one") == 3)  # a new job of that id has no steps yet
    assert sent == ["one", "two", "one", "one"]


async def test_the_steps_of_an_id_that_is_put_again_are_done_again(database_url: str):
    clock, begun, done = Clock(), 0, list[str]()

    async def send(what: str) -> str:
        done.append(what)
        return what

    async def run(job: Job) -> None:
        nonlocal begun
        begun += 1
        assert await step(job, "one", send, f"one of {job['payload']}") == f"one of {job['payload']}"
        if begun == 2:
            raise ValueError
        assert await step(job, "two", send, f"two of {job['payload']}") == f"two of {job['payload']}"
        if begun == 1:
            raise GiveUp

    async with working(database_url, job(run), clock) as worker:
        await worker.put("job", "a", id="u")
        await end_of(worker, "u")
        clock.now += 1
        await worker.db.write(worker.put_statement("job", "b", id="u", unique="pending"))
        worker.wake()
        await until(lambda: begun == 2)
        await waits(worker, "u")
        clock.now += 60
        assert (await end_of(worker, "u"))["error"] is None
    assert done == ["one of a", "two of a", "one of b", "two of b"]


async def test_a_result_that_is_not_json_fails_the_attempt_with_the_steps_name(database_url: str):
    async def run(job: Job) -> None:
        await step(job, "part-1", lambda: object())

    async with working(database_url, job(run, attempts=1)) as worker:
        await worker.put("job", id="a")
        error = (await end_of(worker, "a"))["error"]
    assert error.startswith("step 'part-1': its result is not JSON: Object of type object")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "a step's name is empty"),
        ("x" * 201, "a step's name has 201 characters: at most 200. Use a digest of it"),
        ("a\0", "a step's name 'a\\x00' has the character '\\x00': no control characters, line ends or half pairs"),
    ],
)
async def test_a_step_that_could_not_be_stored_is_not_done(database_url: str, name: str, words: str):
    async def run(job: Job) -> None:
        await step(job, name, done.append, 1)

    done: list[int] = []
    async with working(database_url, job(run, attempts=1)) as worker:
        await worker.put("job", id="a")
        assert (await end_of(worker, "a"))["error"] == words
    assert done == []


async def test_a_step_of_a_lost_claim_stores_nothing_and_ends_the_run(database_url: str):
    went_on: list[str] = []
    taken = anyio.Event()

    async def run(job: Job) -> None:
        await taken.wait()
        await step(job, "one", lambda: 1)
        went_on.append("after the step")

    async with working(database_url, job(run), lease=1e6) as worker:
        await worker.put("job", id="a")
        await until(lambda: worker.running)
        await worker.db.write(("UPDATE house_job SET token = 'another' WHERE id = 'a'", ()))
        taken.set()
        await until(lambda: not worker.running)
        assert await worker.db.read("SELECT * FROM house_step") == []
        row = await row_of(worker, "a")
        assert (row["token"], row["done_at"], went_on) == ("another", None, [])


async def test_without_a_worker_a_step_is_a_call():
    given = Job(id="a", name="job", attempts=1, payload=None)
    assert await step(given, "one", lambda: 1) == 1


# A claim is not its row.


async def test_a_process_that_was_stopped_for_longer_than_a_lease_does_not_run_its_own_job_beside_itself(
    database_url: str,
):
    clock, begun, finish = Clock(), list[str](), anyio.Event()

    async def run(job: Job) -> None:
        begun.append(job["id"])
        await finish.wait()

    async with working(database_url, job(run), clock) as worker:
        await worker.put("job", id="a")
        await until(lambda: begun)
        clock.now += 66  # as SIGSTOP and SIGCONT: time went on, nothing ran
        await anyio.sleep(0.2)
        assert begun == ["a"]
        finish.set()
        row = await end_of(worker, "a")
        assert (row["attempts"], row["error"]) == (1, None)


async def test_whose_claim_was_taken_over_stops_and_writes_nothing(database_url: str, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    slow, fast = Clock(), Clock()
    begun, stopped = list[str](), list[str]()
    finish = anyio.Event()

    async def run_slowly(job: Job) -> None:
        begun.append("one")
        try:
            await anyio.sleep_forever()
        finally:
            stopped.append("one")

    async def run(job: Job) -> None:
        begun.append("two")
        await finish.wait()

    async with working(database_url, job(run_slowly), slow) as one:
        await one.put("job", id="a")
        await until(lambda: begun)
        fast.now += 61
        async with working(database_url, job(run), fast) as two:
            await until(lambda: begun == ["one", "two"])
            slow.now += 61
            await until(lambda: stopped)
            assert "lost the claim on a" in caplog.text
            finish.set()
            await end_of(two, "a")
            assert caplog.text.count("job a: done") == 1


# What nobody can run.


async def test_a_row_without_a_file_is_told_and_is_no_obstacle(database_url: str, caplog: pytest.LogCaptureFixture):
    ran: list[str] = []

    async def run(job: Job) -> None:
        ran.append(job["id"])

    both = {**job(run, "old_name"), **job(run, "mail")}
    async with working(database_url, both) as worker:
        worker.stop()
        for name in both:
            await worker.put(name, id=name, lane="user:7")
    async with working(database_url, job(run, "mail")) as worker:
        await end_of(worker, "mail")
        await until(lambda: "old_name" in caplog.text)
        overview = await worker.overview()
    assert ran == ["mail"]
    assert "no file jobs/old_name.py, so its rows are not run" in caplog.text
    assert (overview["due"], overview["without_file"]) == ([], [{"name": "old_name", "n": 1}])


async def test_a_lane_whose_running_job_lost_its_file_is_free_again(database_url: str):
    ran: list[str] = []

    async def run(job: Job) -> None:
        ran.append(job["id"])

    clock = Clock()
    async with working(database_url, job(run, "mail"), clock) as worker:
        await worker.db.write(
            (
                "INSERT INTO house_job (id, name, lane, payload, run_at, attempts, token, created_at) "
                "VALUES ('a', 'gone', 'user:7', 'null', $1, 1, 'dead', $1)",
                (clock.now,),
            )
        )
        await worker.put("mail", id="b", lane="user:7")
        clock.now += 61
        await until(lambda: ran == ["b"])


async def test_a_row_that_is_not_due_is_no_obstacle_and_one_that_is_tried_again_is(database_url: str):
    clock, ran = Clock(), list[str]()

    async def run(job: Job) -> None:
        ran.append(job["id"])
        if job["id"] == "fails" and job["attempts"] == 1:
            raise ValueError

    async with working(database_url, job(run), clock) as worker:
        await worker.put("job", id="later", lane="a", run_at=clock.now + 30 * 86_400)
        clock.now += 1
        await worker.put("job", id="fails", lane="a")
        await until(lambda: ran == ["fails"])
        await waits(worker, "fails")
        clock.now += 1
        await worker.put("job", id="next", lane="a")
        await anyio.sleep(0.1)
        assert ran == ["fails"]
        clock.now += 60
        await until(lambda: ran == ["fails", "fails", "next"])


async def test_the_occurrence_of_a_deleted_file_is_neither_due_nor_running(database_url: str):
    clock = Clock()

    async def run(job: Job) -> None: ...

    async with working(database_url, job(run, schedule="* * * * *"), clock) as worker:
        await worker.tick()
    clock.now += 90
    async with working(database_url, {}, clock) as worker:
        assert await worker.tick() == {}
        assert (await worker.overview())["due"] == []


# One rule, one limit.


async def test_no_more_run_at_once_than_there_are_places_also_when_ticked(database_url: str):
    running = most = 0
    finish = anyio.Event()

    async def run(job: Job) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await finish.wait()
        running -= 1

    clock = Clock()
    jobs = {**job(run), **job(run, "tick", schedule="* * * * *")}
    async with working(database_url, jobs, clock, at_once=7) as worker:
        await worker.tick()
        for _ in range(30):
            await worker.put("job")
        await until(lambda: running == 7)
        clock.now += 60
        assert list((await worker.tick()).values()) == ["running"]
        await anyio.sleep(0.05)
        assert running == 7
        finish.set()
        await until(lambda: not running and not worker.running)
    assert most == 7


async def test_what_is_put_while_every_place_is_taken_is_begun_when_one_is_free(database_url: str):
    finish, begun = anyio.Event(), list[str]()

    async def run(job: Job) -> None:
        begun.append(job["id"])
        await finish.wait()

    async with working(database_url, job(run), at_once=2, poll=600) as worker:  # which no poll would find in time
        for id in ("a", "b"):
            await worker.put("job", id=id)
        await until(lambda: begun == ["a", "b"])
        for id in ("c", "d", "e"):
            await worker.put("job", id=id)
        finish.set()
        await until(lambda: sorted(begun) == ["a", "b", "c", "d", "e"])


async def test_a_slow_kind_has_its_own_limit_and_is_no_obstacle(database_url: str):
    finish, slow, ran = anyio.Event(), list[str](), list[str]()

    async def run_slow(job: Job) -> None:
        slow.append(job["id"])
        await finish.wait()

    async def run(job: Job) -> None:
        ran.append(job["id"])

    async with working(database_url, {**job(run_slow, "slow", at_once=3), **job(run, "quick")}) as worker:
        for number in range(80):
            await worker.put("slow", lane=f"{number}" if number % 2 else None)
        await until(lambda: len(slow) == 3)
        await worker.put("quick", id="a")
        await worker.put("quick", id="b", lane="b")  # behind more rows in lanes than a claim looks at
        await until(lambda: sorted(ran) == ["a", "b"])
        assert len(slow) == 3
        finish.set()
        await until(lambda: len(slow) == 80)


@pytest.mark.slow
@pytest.mark.parametrize("lane", [None, "mine"])
async def test_rows_behind_a_full_lane_are_no_obstacle(database_url: str, lane: str | None):
    finish, first, ran = anyio.Event(), list[str](), list[str]()

    async def run(job: Job) -> None:
        if job["id"] == "first":
            first.append("first")
            await finish.wait()
        ran.append(job["id"])

    clock = Clock()
    async with working(database_url, job(run), clock) as worker:
        await worker.put("job", id="first", lane="full")
        await until(lambda: first)
        for number in range(200):
            clock.now += 0.001
            await worker.put("job", id=f"{number:03}", lane="full")
        await worker.put("job", id="other", lane=lane)
        await until(lambda: ran == ["other"])
        finish.set()
        await until(lambda: len(ran) == 202)
    assert ran[2:] == sorted(ran[2:])


# Put refuses what could never run.


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"run_at": datetime.now(UTC)}, TypeError, "Unix seconds, not datetime: write run_at=moment.timestamp"),
        ({"run_at": "2026-11-26T10:00:00Z"}, TypeError, "Unix seconds, not str"),
        ({"run_at": True}, TypeError, "not bool"),
        ({"run_at": float("nan")}, ValueError, "never comes"),
        ({"run_at": float("inf")}, ValueError, "never comes"),
        ({"run_at": 1_790_000_000_000}, ValueError, "are these milliseconds"),
        ({"run_at": -1e11}, ValueError, "no moment"),  # before the year 1, which no list could show
        ({"id": "cron:job:2026-11-26T10:00:00+00:00"}, ValueError, "the form of a schedule's occurrences"),
        ({"id": ""}, ValueError, "id is empty"),
        ({"id": 7}, TypeError, "id is a text"),
        ({"id": "x" * 201}, ValueError, "id has 201 characters: at most 200"),
        ({"lane": "x" * 201}, ValueError, "lane has 201 characters"),
        ({"lane": 7}, TypeError, "lane is a text"),
        ({"id": "a\0"}, ValueError, r"id 'a\\x00' has the character '\\x00': no control characters"),
        ({"id": "a\ud800"}, ValueError, "half pairs"),
        ({"id": "a\nERROR: forged"}, ValueError, r"has the character '\\n'"),
        ({"lane": "a\u2028b"}, ValueError, r"lane 'a\\u2028b' has the character"),
        ({"lane": "a\x1b[2J"}, ValueError, r"lane .* has the character '\\x1b'"),
        ({"payload": object()}, TypeError, "not JSON serializable"),
        ({"payload": {"n": float("nan")}}, ValueError, "the payload is not JSON: .*Write None for NaN and Infinity"),
        ({"payload": [float("-inf")]}, ValueError, "the payload is not JSON"),
        ({"id": "a", "unique": "sometimes"}, ValueError, "is not known"),
        ({"unique": "pending"}, ValueError, "is about an id"),
    ],
)
async def test_put_refuses_what_could_never_run(
    database_url: str, options: dict[str, Any], error: type[Exception], words: str
):
    async with working(database_url, job(print)) as worker:
        with pytest.raises(error, match=words):
            await worker.put("job", **options)
        assert await worker.db.read("SELECT id FROM house_job") == []


async def test_a_payload_that_is_json_already_is_stored_as_it_is(database_url: str):
    payloads = list[object]()

    async def run(job: Job) -> None:
        payloads.append(job["payload"])

    async with working(database_url, job(run)) as worker:
        await worker.put("job", Encoded('{ "n": 1 }'), id="a")
        assert (await row_of(worker, "a"))["payload"] == '{ "n": 1 }'
        await until(lambda: payloads == [{"n": 1}])


async def test_unique_while_pending_is_one_while_it_waits_or_runs_and_again_after(database_url: str):
    clock, begun, finish = Clock(), list[str](), anyio.Event()

    async def run(job: Job) -> None:
        begun.append(job["payload"])
        await finish.wait()

    async with working(database_url, job(run), clock) as worker:

        async def put(payload: str, **options: Any) -> bool:
            return await worker.put("job", payload, id="u", unique="pending", **options)

        assert [await put("first", run_at=clock.now + 60), await put("second")] == [True, False]
        clock.now += 60
        await until(lambda: begun)
        assert await put("third") is False
        finish.set()
        await end_of(worker, "u")
        assert await put("fourth") is True
        await until(lambda: begun == ["first", "fourth"])
        row = await end_of(worker, "u")
        assert (row["attempts"], row["begun"]) == (1, 1)


async def test_a_job_is_put_together_with_ones_own_rows_or_not_at_all(database_url: str):
    ran: list[Any] = []

    async def run(job: Job) -> None:
        ran.append(job["payload"])

    async with working(database_url, job(run, "mark")) as worker:
        db = worker.db
        await db.write(("CREATE TABLE mine (id TEXT PRIMARY KEY)", ()))
        statement = worker.put_statement("mark", {"n": 1}, id="j1")
        with pytest.raises(Exception, match=r"(?i)nowhere"):
            await db.write(statement, ("INSERT INTO nowhere (id) VALUES ('a')", ()))
        assert await db.read("SELECT id FROM house_job") == []
        await db.write(("INSERT INTO mine (id) VALUES ('a')", ()), statement)
        await until(lambda: ran == [{"n": 1}])
