"""Durable work: what the table promises, with a clock of the test's own and real files underneath."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import anyio
import httpx
import pytest

from app import create_app
from config import Config
from db import database
from loader import RouteError
from tests.servers import Clock, serving, wait_until, working, write_tree
from worker import Impossible, Job, JobFile, Worker, load_jobs

Run = Callable[..., Any]


def job(run: Run, name: str = "job", **options: Any) -> dict[str, JobFile]:
    return {name: JobFile(name=name, file=f"jobs/{name}.py", run=run, **options)}


async def until(condition: Callable[[], object]) -> None:
    await asyncio.to_thread(wait_until, condition)


async def state_of(worker: Worker, id: str) -> tuple[int, bool, str | None]:
    [row] = await worker.db.read("SELECT attempts, done_at, error FROM house_job WHERE id = $1", id)
    return row["attempts"], row["done_at"] is not None, row["error"]


async def end_of(worker: Worker, id: str) -> tuple[int, bool, str | None]:
    for _ in range(500):
        if (state := await state_of(worker, id))[1]:
            return state
        await anyio.sleep(0.01)
    raise AssertionError(f"{id} did not end")


async def test_what_is_put_is_run_with_its_payload(database_url: str):
    ran: list[Job] = []

    async def run(job: Job) -> None:
        ran.append(job)

    async with working(database_url, job(run)) as worker:
        assert await worker.put("job", {"n": 1}, id="a") is True
        await until(lambda: ran)
        assert ran == [{"id": "a", "name": "job", "attempts": 1, "payload": {"n": 1}}]
        await end_of(worker, "a")
        assert await worker.db.read("SELECT payload FROM house_job") == [{"payload": "null"}]  # not kept with the id


async def test_the_same_id_is_run_once(database_url: str):
    ran: list[str] = []

    async def run(job: Job) -> None:
        ran.append(job["id"])

    async with working(database_url, job(run)) as worker:
        assert await worker.put("job", id="a") is True
        assert await worker.put("job", id="a") is False
        await until(lambda: ran)
        assert await worker.put("job", id="a") is False
        await worker.put("job", id="b")
        await until(lambda: len(ran) == 2)
        assert ran == ["a", "b"]


async def test_a_plain_function_runs_in_a_thread_and_state_is_handed_in(database_url: str):
    ran: list[Any] = []

    def run(job: Job, state: Any) -> None:
        ran.append(state)

    async with working(database_url, job(run)) as worker:
        worker.state = "the state"
        await worker.put("job")
        await until(lambda: ran == ["the state"])


async def test_a_state_with_a_default_is_handed_in_too(database_url: str):
    ran: list[Any] = []

    async def run(job: Job, state: Any = None) -> None:
        ran.append(state)

    async with working(database_url, job(run)) as worker:
        worker.state = "the state"
        await worker.put("job")
        await until(lambda: ran)
    assert ran == ["the state"]


async def test_an_unknown_name_is_refused_with_the_mend(database_url: str):
    async with working(database_url, job(print)) as worker:
        with pytest.raises(KeyError, match=r"write jobs/other\.py with a function run\(job\)"):
            await worker.put("other")


async def test_a_failure_is_tried_again_and_then_kept_as_a_dead_letter(
    database_url: str, caplog: pytest.LogCaptureFixture
):
    clock, ran = Clock(), 0

    async def run(job: Job) -> None:
        nonlocal ran
        ran += 1
        raise ValueError("a secret")

    async with working(database_url, job(run, attempts=2), clock) as worker:
        await worker.put("job", id="a")
        await until(lambda: "will be tried again" in caplog.text)
        attempts, done, error = await state_of(worker, "a")
        assert (ran, attempts, done) == (1, 1, False)
        assert error is not None
        assert error.startswith("ValueError at test_worker.py:")
        clock.now += 60
        await until(lambda: "failed for good" in caplog.text)
        assert (await state_of(worker, "a"))[:2] == (2, True)
        clock.now += 86_400
        await anyio.sleep(0.1)
        assert ran == 2


async def test_a_lane_keeps_its_order_even_when_the_first_one_fails(database_url: str):
    clock, ran = Clock(), list[str]()

    async def run(job: Job) -> None:
        ran.append(job["id"])
        if job["id"] == "a" and job["attempts"] == 1:
            raise ValueError

    async with working(database_url, job(run), clock) as worker:
        for id in ("a", "b", "c"):
            clock.now += 1
            await worker.put("job", id=id, lane="one")
        await worker.put("job", id="d", lane="two")
        await until(lambda: set(ran) == {"a", "d"})
        await anyio.sleep(0.1)
        assert "b" not in ran
        clock.now += 60
        await until(lambda: len(ran) == 5)
        assert [id for id in ran if id != "d"] == ["a", "a", "b", "c"]


async def test_a_lane_runs_one_at_a_time(database_url: str):
    running = most = 0

    async def run(job: Job) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(0.01)
        running -= 1

    async with working(database_url, job(run)) as worker, working(database_url, job(run)) as other:
        for n in range(20):
            await (worker, other)[n % 2].put("job", id=f"{n:02}", lane="one")
        for n in range(20):
            await end_of(worker, f"{n:02}")
    assert most == 1


async def test_two_workers_share_the_work_and_do_none_of_it_twice(database_url: str):
    ran: list[str] = []

    async def run(job: Job) -> None:
        ran.append(job["id"])
        await anyio.sleep(0.001)

    async with working(database_url, job(run)) as worker, working(database_url, job(run)):
        for n in range(100):
            await worker.put("job", id=str(n))
        await until(lambda: len(ran) >= 100)
        await anyio.sleep(0.1)
    assert sorted(ran) == sorted(map(str, range(100)))


async def test_a_lease_that_lapsed_is_taken_over_and_the_late_writer_is_fenced(database_url: str):
    ran: list[int] = []

    async def run(job: Job) -> None:
        ran.append(job["attempts"])

    clock = Clock()
    async with working(database_url, job(run), clock) as worker:
        old = ("old-token", clock.now + 60)
        await worker.db.write(
            (
                "INSERT INTO house_job (id, name, payload, run_at, attempts, token, created_at) "
                "VALUES ('a', 'job', 'null', $2, 1, $1, $2)",
                old,
            )
        )
        await anyio.sleep(0.1)
        assert ran == []
        clock.now += 61
        await until(lambda: ran == [2])
        [late] = await worker.db.write(
            ("UPDATE house_job SET error = 'late' WHERE id = 'a' AND token = $1 RETURNING id", old[:1])
        )
        assert late == []


async def test_a_crash_counts_as_an_attempt(database_url: str):
    ran: list[str] = []

    async def run(job: Job) -> None:
        ran.append(job["id"])

    clock = Clock()
    async with working(database_url, job(run, attempts=1), clock) as worker:
        await worker.db.write(
            (
                "INSERT INTO house_job (id, name, payload, run_at, attempts, token, created_at) "
                "VALUES ('a', 'job', 'null', $1, 1, 'dead', $1)",
                (clock.now - 1,),
            )
        )
        assert await end_of(worker, "a") == (2, True, "its process ended while it ran")
        assert ran == []


async def test_shutdown_hands_a_running_job_back_without_counting_it(database_url: str):
    begun, ended = anyio.Event(), list[str]()

    async def run(job: Job) -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("cleaned up")

    async with working(database_url, job(run)) as worker:
        await worker.put("job", id="a")
        await begun.wait()
    db = database(database_url)
    await db.open()
    [row] = await db.read("SELECT attempts, token, done_at FROM house_job")
    await db.aclose()
    assert (row, ended) == ({"attempts": 0, "token": None, "done_at": None}, ["cleaned up"])


async def test_a_claim_is_renewed_while_the_job_runs(database_url: str):
    finish, ran = anyio.Event(), list[int]()

    async def run(job: Job) -> None:
        ran.append(job["attempts"])
        await finish.wait()

    clock = Clock()
    async with working(database_url, job(run), clock, lease=0.06) as worker:
        await worker.put("job", id="a")
        await until(lambda: ran)
        for _ in range(10):
            clock.now += 0.03
            await anyio.sleep(0.03)
        finish.set()
        await end_of(worker, "a")
    assert ran == [1]


async def test_a_job_that_takes_too_long_has_failed(database_url: str, caplog: pytest.LogCaptureFixture):
    async def run(job: Job) -> None:
        await anyio.sleep_forever()

    async with working(database_url, job(run, attempts=1, timeout=0.05)) as worker:
        await worker.put("job", id="a")
        await until(lambda: "failed for good" in caplog.text)
        assert (await state_of(worker, "a"))[2] is not None


# Schedules.


def ticks(name: str = "job", **options: Any) -> tuple[list[str], dict[str, JobFile]]:
    ran: list[str] = []

    async def run(job: Job) -> None:
        ran.append(job["id"])

    return ran, job(run, name, **{"schedule": "0 8 * * *", **options})


async def test_a_schedule_first_seen_today_does_not_fire_for_this_morning(database_url: str):
    clock = Clock("2026-03-01T09:00:00+00:00")
    ran, jobs = ticks()
    async with working(database_url, jobs, clock) as worker:
        assert await worker.tick() == {}
        clock.set("2026-03-02T08:00:00+00:00")
        assert await worker.tick() == {"cron:job:2026-03-02T08:00:00+00:00": "done"}
        assert await worker.tick() == {}
    assert ran == ["cron:job:2026-03-02T08:00:00+00:00"]


async def test_an_occurrence_is_begun_by_a_tick_and_not_by_a_poll(database_url: str):
    clock = Clock()
    ran, jobs = ticks()
    async with working(database_url, jobs, clock) as worker:
        await worker.tick()
        clock.set("2026-03-01T08:00:30+00:00")
        await anyio.sleep(0.1)
        assert ran == []
        await worker.tick()
        assert len(ran) == 1


async def test_what_was_missed_runs_once_and_late(database_url: str):
    clock = Clock()
    ran, jobs = ticks()
    async with working(database_url, jobs, clock) as worker:
        await worker.tick()
        clock.set("2026-03-09T12:00:00+00:00")
        assert await worker.tick() == {"cron:job:2026-03-01T08:00:00+00:00": "done"}
        clock.set("2026-03-10T08:00:00+00:00")
        await worker.tick()
    assert ran == ["cron:job:2026-03-01T08:00:00+00:00", "cron:job:2026-03-10T08:00:00+00:00"]


async def test_what_is_later_than_its_grace_is_skipped_and_recorded(database_url: str):
    clock = Clock()
    ran, jobs = ticks(grace=3600)
    async with working(database_url, jobs, clock) as worker:
        await worker.tick()
        clock.set("2026-03-01T09:30:00+00:00")
        assert await worker.tick() == {"cron:job:2026-03-01T08:00:00+00:00": "skipped"}
        assert (await state_of(worker, "cron:job:2026-03-01T08:00:00+00:00"))[2] == "skipped: 5400 s late"
    assert ran == []


async def test_many_ticks_at_once_start_an_occurrence_once(database_url: str):
    clock = Clock()
    ran, jobs = ticks()
    async with working(database_url, jobs, clock) as one, working(database_url, jobs, clock) as two:
        await one.tick()
        clock.set("2026-03-01T08:00:00+00:00")
        await asyncio.gather(*((one, two)[n % 2].tick() for n in range(20)))
    assert ran == ["cron:job:2026-03-01T08:00:00+00:00"]


async def test_a_job_never_overlaps_itself_and_has_one_run_waiting_at_most(database_url: str):
    clock, finish = Clock(), anyio.Event()
    ran: list[str] = []

    async def run(job: Job) -> None:
        ran.append(job["id"])
        await finish.wait()

    async with working(database_url, job(run, schedule="* * * * *"), clock, lease=1e6) as worker:
        await worker.tick()
        clock.now += 60
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.tick)
            await until(lambda: ran)
            for _ in range(10):
                clock.now += 60
                assert list((await worker.tick()).values()) == ["running"]
            assert len(ran) == 1
            finish.set()
        await worker.tick()
        assert ran == ["cron:job:2026-03-01T07:31:00+00:00", "cron:job:2026-03-01T07:41:00+00:00"]
        skipped = await state_of(worker, "cron:job:2026-03-01T07:35:00+00:00")
        assert skipped == (0, True, "skipped: a later one was due before it could begin")


async def test_a_changed_schedule_drops_the_occurrence_that_it_no_longer_has(database_url: str):
    clock = Clock()
    _, jobs = ticks()
    async with working(database_url, jobs, clock) as worker:
        await worker.tick()
    ran, jobs = ticks(schedule="0 10 * * *")
    async with working(database_url, jobs, clock) as worker:
        await worker.tick()
        clock.set("2026-03-01T10:00:00+00:00")
        await worker.tick()
    assert ran == ["cron:job:2026-03-01T10:00:00+00:00"]


@pytest.mark.parametrize(
    ("zone", "schedule", "day", "runs"),
    [
        ("America/New_York", "30 2 * * *", "2026-03-08", ["2026-03-08T07:00:00+00:00"]),
        ("America/New_York", "30 1 * * *", "2026-11-01", ["2026-11-01T05:30:00+00:00"]),
        ("Australia/Lord_Howe", "15 2 * * *", "2026-10-04", ["2026-10-03T15:30:00+00:00"]),
        ("Australia/Lord_Howe", "45 1 * * *", "2026-04-05", ["2026-04-04T14:45:00+00:00"]),
        ("UTC", "30 1 * * *", "2026-11-01", ["2026-11-01T01:30:00+00:00"]),
    ],
)
async def test_a_daily_job_runs_once_on_the_days_the_clocks_change(
    database_url: str, zone: str, schedule: str, day: str, runs: list[str]
):
    clock = Clock()
    start = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone))
    clock.now = start.timestamp() - 1
    end = start.replace(hour=23, minute=59).timestamp()
    ran, jobs = ticks(schedule=schedule, timezone=ZoneInfo(zone))
    async with working(database_url, jobs, clock) as worker:
        while clock.now < end:
            await worker.tick()
            clock.now += 900
    assert [id.split(":", 2)[2] for id in ran] == runs


async def test_a_schedule_first_seen_in_an_hour_that_is_repeated_does_not_fire_for_the_hour_before(database_url: str):
    clock = Clock("2026-10-25T01:10:00+00:00")  # 2:10 in Paris, for the second time
    ran, jobs = ticks(schedule="30 2 * * *", timezone=ZoneInfo("Europe/Paris"))
    async with working(database_url, jobs, clock) as worker:
        assert (await worker.overview())["next"] == {"job": datetime(2026, 10, 26, 1, 30, tzinfo=UTC).timestamp()}
        assert await worker.tick() == {}
    assert ran == []


# Files, and the front door.


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no function 'run'. Write: async def run(job): ..."),
        ("run = 1", "has no function 'run'"),
        ("async def run(a, b, c): ...", "but it is called with (job) or (job, state)"),
        ("async def run(job): yield", "run is a generator: nothing would read what it yields. Write it without yield"),
        ("schedule = '61 * * * *'\ndef run(job): ...", "schedule '61 * * * *' cannot be used: Bad minute"),
        ("schedule = '* * * *'\ndef run(job): ...", "five fields"),
        ("schedule = '* * * * * *'\ndef run(job): ...", "five fields"),
        ("schedule = '0 0 30 2 *'\ndef run(job): ...", "cannot be used"),
        ("timezone = 'Mars/North'\ndef run(job): ...", "timezone 'Mars/North' is not known"),
        ("timezone = '../etc'\ndef run(job): ...", "timezone '../etc' is not known"),
        ("attempts = 0\ndef run(job): ...", "attempts = 0 cannot be used"),
        ("timeout = 'long'\ndef run(job): ...", "timeout = 'long' cannot be used"),
        ("timeout = None\ndef run(job): ...", "timeout = None cannot be used: a number above 0 is required"),
        ("timeout = 10**400\ndef run(job): ...", "timeout cannot be more than 1,000,000,000"),
        ("at_once = 1.5\ndef run(job): ...", "at_once = 1.5 cannot be used: a whole number"),
        ("schedule = []\ndef run(job): ...", "schedule is an empty list"),
        ("schedule = ['0 9 * * *', '61 * * * *']\ndef run(job): ...", "schedule '61 * * * *' cannot be used"),
    ],
)
def test_a_file_that_cannot_be_a_job_stops_the_start(tmp_path: Path, text: str, words: str):
    root = write_tree(tmp_path / "jobs", {"daily.py": text})
    with pytest.raises(RouteError, match=r"^jobs/daily\.py: ") as error:
        load_jobs(root)
    assert words in str(error.value)


def test_what_a_file_imports_is_no_setting_of_it(tmp_path: Path):
    imports = (
        "from asyncio import timeout\nfrom datetime import datetime, timezone\nimport sched as schedule\n"
        "async def run(job): ...\n"
    )
    write_tree(tmp_path / "jobs", {"a.py": imports, "b.py": imports + "timezone = 'Europe/Paris'\ntimeout = 5\n"})
    jobs = load_jobs(tmp_path / "jobs")
    assert [(str(job.timezone), job.timeout, job.schedule) for job in jobs.values()] == [
        ("UTC", 300.0, None),
        ("Europe/Paris", 5, None),
    ]
    write_tree(tmp_path / "jobs", {"c.py": "def timeout(): return 5\ndef run(job): ...\n"})
    with pytest.raises(RouteError, match="timeout = <function timeout> cannot be used"):
        load_jobs(tmp_path / "jobs")


def test_every_file_is_a_job_but_those_with_an_underscore(tmp_path: Path):
    root = write_tree(
        tmp_path / "jobs",
        {
            "daily.py": "from ._lib import N\nschedule = '0 9 * * *'\ntimezone = 'Europe/Paris'\nattempts = N\n"
            "async def run(job): ...",
            "_lib.py": "N = 7",
            "notes.txt": "",
        },
    )
    jobs = load_jobs(root)
    assert list(jobs) == ["daily"]
    assert (jobs["daily"].attempts, str(jobs["daily"].timezone)) == (7, "Europe/Paris")
    summer = datetime(2026, 7, 1, tzinfo=UTC).timestamp()
    assert datetime.fromtimestamp(jobs["daily"].next_after(summer), UTC).isoformat() == "2026-07-01T07:00:00+00:00"


def test_two_broken_files_are_both_named(tmp_path: Path):
    root = write_tree(tmp_path / "jobs", {"a.py": "", "b.py": "raise ValueError('the module\\'s own')"})
    with pytest.raises(ExceptionGroup) as error:
        load_jobs(root)
    assert "jobs/a.py" in str(error.value.exceptions[0])
    assert "while loading jobs/b.py" in error.value.exceptions[1].__notes__


def test_a_job_put_by_a_route_is_run(serve_tree: Callable[..., str], tmp_path: Path):
    out = tmp_path / "out"
    url = serve_tree(
        {
            "put/route.py": "from starlette.responses import JSONResponse\n"
            "async def POST(request):\n"
            "    put = await request.state['worker'].put('note', await request.json(), id='once')\n"
            "    return JSONResponse(put)\n",
            "../jobs/note.py": "from pathlib import Path\n"
            f"async def run(job): Path({str(out)!r}).write_text(job['payload'])\n",
        }
    )
    assert [httpx.post(f"{url}/put", json="hello", trust_env=False).json() for _ in range(2)] == [True, False]
    wait_until(lambda: out.exists() and out.read_text() == "hello")


def test_a_server_with_an_interval_ticks_by_itself(
    serve_tree: Callable[..., str], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    url = serve_tree(
        {
            "see/route.py": "from starlette.responses import JSONResponse\n"
            "async def GET(request):\n"
            "    return JSONResponse(await request.state['worker'].db.read('SELECT id FROM house_job'))\n",
            "../jobs/note.py": "schedule = '0 0 1 1 *'\ndef run(job): ...\n",
        },
        cron_interval=0.05,
    )
    wait_until(lambda: "cron:note:" in httpx.get(f"{url}/see", trust_env=False).text)


async def test_a_dead_letter_can_be_put_back(database_url: str):
    fails = True

    async def run(job: Job) -> None:
        if fails:
            raise ValueError

    async with working(database_url, job(run, attempts=1)) as worker:
        await worker.put("job", id="a")
        assert (await end_of(worker, "a"))[2] is not None
        assert [row["id"] for row in (await worker.overview())["failed"]] == ["a"]
        fails = False
        with pytest.raises(Impossible, match="There is no job b"):
            await worker.replay("b")
        await worker.replay("a")
        assert await end_of(worker, "a") == (1, True, None)
        with pytest.raises(Impossible, match="Job a is done: it cannot be replayed"):
            await worker.replay("a")
        assert (await worker.overview())["failed"] == []


@pytest.mark.slow
def test_a_server_that_stops_hands_its_running_job_back(tmp_path: Path):
    files = {
        "jobs/long.py": "import anyio\nasync def run(job, state):\n    await anyio.sleep(60)",
        "routes/go/route.py": (
            "from starlette.responses import Response\n"
            "async def POST(request):\n    await request.state['worker'].put('long', id='long')\n    return Response()"
        ),
    }
    write_tree(tmp_path, files)
    file = tmp_path / "app.db"
    with serving(create_app(Config(routes_dir=tmp_path / "routes", database_url=f"sqlite:///{file}"))) as url:
        assert httpx.post(f"{url}/go").status_code == 200
        wait_until(lambda: row_of(file, "long")[1] is not None)
    assert row_of(file, "long") == (0, None, None)


def row_of(file: Path, id: str) -> tuple[int, str | None, float | None]:
    with closing(sqlite3.connect(file)) as db:
        return db.execute("SELECT attempts, token, done_at FROM house_job WHERE id = ?", (id,)).fetchone()
