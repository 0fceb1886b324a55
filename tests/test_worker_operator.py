"""What an operator sees and does, by the command line and by /api/jobs, on both engines."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from cli.jobs import misused, run_jobs
from config import HERE, Config
from tests.conftest import SECRET
from tests.servers import Clock, wait_until, working
from worker import Impossible, Job, JobFile, Worker

HEADERS = {"X-Cron-Secret": SECRET}


def job(run: Callable[..., Any], name: str = "job", **options: Any) -> dict[str, JobFile]:
    return {name: JobFile(name=name, file=f"jobs/{name}.py", run=run, **options)}


async def until(condition: Callable[[], object]) -> None:
    await asyncio.to_thread(wait_until, condition)


async def state_of(worker: Worker, id: str) -> Any:
    rows = await worker.db.read("SELECT done_at, error, token, begun FROM house_job WHERE id = $1", id)
    return rows[0] if rows else None


async def end_of(worker: Worker, id: str) -> Any:
    for _ in range(3000):
        if (row := await state_of(worker, id))["done_at"] is not None:
            return row
        await anyio.sleep(0.01)
    raise AssertionError(f"{id} did not end")


async def overview_with(worker: Worker, *, failed: int) -> Any:
    """The overview, once so many have failed."""
    found: Any = None
    for _ in range(3000):
        if (found := await worker.overview())["counts"]["failed"] == failed:
            return found
        await anyio.sleep(0.01)
    raise AssertionError(f"{found['counts']}, and not {failed} failed")


async def fails(job: Job) -> None:
    raise ValueError


async def test_counts_go_on_beyond_what_is_listed(database_url: str, capsys: pytest.CaptureFixture[str]):
    async with working(database_url, job(fails, attempts=1)) as worker:
        for _ in range(130):
            await worker.put("job")
        await overview_with(worker, failed=130)
        found = await worker.overview()  # once more: one that was read while jobs ended has the counts of two moments
        assert (len(found["failed"]), found["counts"]) == (100, {"due": 0, "running": 0, "failed": 130})
    config = Config(database_url=database_url)
    assert await run_jobs(config, job(fails), []) == 0
    assert "failed   130 in all" in capsys.readouterr().out


async def test_the_last_run_its_end_and_how_long_it_took_are_told(
    database_url: str, capsys: pytest.CaptureFixture[str]
):
    clock = Clock()

    async def run(job: Job) -> None:
        clock.now += 2.3

    async with working(database_url, job(run, "sleeper"), clock) as worker:
        await worker.put("sleeper", id="a")
        await until(lambda: clock.now > Clock().now + 2)
        await end_of(worker, "a")
        last = (await worker.overview())["jobs"][0]["last"]
    assert (last["id"], last["state"], round(last["seconds"], 3)) == ("a", "done", 2.3)
    assert await run_jobs(Config(database_url=database_url), job(run, "sleeper"), []) == 0
    assert "sleeper  done in 2.3 s" in capsys.readouterr().out


async def test_cancel_of_what_waits_and_of_what_runs(database_url: str):
    begun, ended = list[str](), list[str]()

    async def run(job: Job) -> None:
        begun.append(job["id"])
        if job["id"] == "next":
            return
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(job["id"])

    clock = Clock()
    async with working(database_url, job(run), clock) as worker:
        await worker.put("job", id="runs", lane="a")
        await until(lambda: begun)
        clock.now += 1
        await worker.put("job", id="waits", lane="a")
        await worker.put("job", id="next", lane="a")
        assert await worker.cancel("waits") == "cancelled"
        assert await worker.cancel("runs") == "stopping"
        await until(lambda: ended == ["runs"])
        await until(lambda: begun == ["runs", "next"])
        assert (await state_of(worker, "runs"))["error"] == "cancelled by an operator"
        assert (await worker.overview())["failed"] == []
        for id, words in (
            ("nope", "There is no job nope"),
            ("waits", "Job waits is cancelled: it cannot be cancelled"),
        ):
            with pytest.raises(Impossible, match=words):
                await worker.cancel(id)
        await worker.replay("waits")
        await until(lambda: begun[-1] == "waits")


@pytest.mark.parametrize("places", [1, 2])
@pytest.mark.parametrize("here", [True, False])
async def test_what_runs_is_stopped_at_once_by_whichever_process_calls_it_off(
    database_url: str, places: int, here: bool
):
    begun, ended = anyio.Event(), anyio.Event()

    async def run(job: Job) -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    clock, never = Clock(), 3600.0  # no poll helps
    async with working(database_url, job(run), clock, poll=never, at_once=places) as worker:
        await worker.put("job", id="runs")
        await begun.wait()
        async with working(database_url, {}, clock, poll=never) as other:
            assert await (worker if here else other).cancel("runs") == "stopping"
            with anyio.fail_after(30):
                await ended.wait()


async def test_replay_and_delete_by_name(database_url: str):
    failing = True

    async def run(job: Job) -> None:
        if failing:
            raise ValueError

    jobs = {**job(run, "bad", attempts=1), **job(run, "worse", attempts=1)}
    async with working(database_url, jobs) as worker:
        for n in range(3):
            await worker.put("bad", id=f"bad-{n}")
            await worker.put("worse", id=f"worse-{n}")
        await overview_with(worker, failed=6)
        failing = False
        assert sorted(await worker.replay_all("bad")) == ["bad-0", "bad-1", "bad-2"]
        assert [row["name"] for row in (await worker.overview())["failed"]] == ["worse"] * 3
        await worker.delete("worse-0")
        assert await state_of(worker, "worse-0") is None
        assert sorted(await worker.delete_failed("worse")) == ["worse-1", "worse-2"]
        with pytest.raises(Impossible, match="There is no job worse-1"):
            await worker.delete("worse-1")
        await overview_with(worker, failed=0)
        assert [(await end_of(worker, f"bad-{n}"))["error"] for n in range(3)] == [None] * 3


async def test_what_runs_is_not_deleted(database_url: str):
    async def run(job: Job) -> None:
        await anyio.sleep_forever()

    async with working(database_url, job(run)) as worker:
        await worker.put("job", id="a")
        await until(lambda: worker.running)
        with pytest.raises(Impossible, match="Job a is running: it cannot be deleted; cancel it first"):
            await worker.delete("a")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "dayly"], "There is no job 'dayly'; did you mean daily?"),
        (["run", "daily", "{"], "The payload '{' is not JSON"),
        (["run", "daily", "[NaN]"], "The payload '[NaN]' is not JSON: Out of range float values"),
        (["run", "daily", "1e999"], "The payload '1e999' is not JSON: Out of range float values"),
        (["replay", "nope"], "There is no job nope"),
        (["cancel", "nope"], "There is no job nope"),
        (["delete", "nope"], "There is no job nope"),
        (["cancel", "-100123"], "There is no job -100123"),  # the id of a group of Telegram's, for one
        (["cancel", "caf\udce9"], "There is no job caf?"),  # as a terminal that is not UTF-8 sends it
        (["replay", "--all", "caf\udce9"], "No job called caf? has failed"),
        (["run", "daily", "[" * 100_000], "is not JSON: maximum recursion depth"),
        (["replay", "--all", "nope"], "No job called nope has failed"),
        (["delete", "--failed", "nope"], "No job called nope has failed"),
    ],
)
async def test_what_a_command_cannot_do_ends_with_status_1(
    database_url: str, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    assert misused(words) is None
    assert await run_jobs(Config(database_url=database_url), job(fails, "daily"), words) == 1
    assert said in capsys.readouterr().err


async def test_a_job_that_a_command_puts_is_begun_by_the_server_at_once(database_url: str):
    begun: list[Any] = []

    async def run(job: Job) -> None:
        begun.append(job["payload"])

    jobs = job(run, "daily", schedule="0 0 1 1 *")
    clock = Clock()
    clock.now = time.time() + 60  # the command's own clock is the real one
    async with working(database_url, jobs, clock, poll=60):  # which no poll would find in time
        await anyio.sleep(0.3)  # it listens by now
        assert await run_jobs(Config(database_url=database_url), jobs, ["run", "daily", '{"n": 1}']) == 0
        await until(lambda: begun == [{"n": 1}])


TREE = {
    "../jobs/plain_one.py": "from pathlib import Path\n"
    "def run(job): Path(__file__).with_name('ran').write_text(str(job['payload']))\n",
}


def test_post_api_jobs_runs_what_it_names_with_the_secret_alone(serve_tree: Callable[..., str], tmp_path: Path):
    route = (HERE / "routes" / "api" / "jobs" / "route.py").read_text()
    url = f"{serve_tree({'api/jobs/route.py': route, **TREE})}/api/jobs"

    def post(body: Any, headers: Any = HEADERS) -> httpx.Response:
        headers = {"Content-Type": "application/json", **headers}
        return httpx.post(url, content=json.dumps(body), headers=headers, trust_env=False)

    assert post({"name": "plain_one"}, {}).status_code == 401
    assert httpx.get(url, headers=HEADERS, trust_env=False).json()["data"]["counts"]["due"] == 0
    assert post({"name": "plain_one", "payload": 7}).status_code == 202
    ran = tmp_path / "jobs" / "ran"
    wait_until(lambda: ran.exists() and ran.read_text() == "7")
    refused: list[tuple[Any, str]] = [
        ({"name": "nope"}, "There is no job 'nope'"),
        ({"name": 5}, "name"),
        ({}, "name"),
        ([], "body"),
        ({"action": "explode", "id": "a"}, "action"),
        ({"action": "cancel", "id": "nope"}, "There is no job nope"),
        ({"action": "replay", "id": "a\0"}, "id"),
        ({"action": "delete", "id": "\ud800"}, "body"),
    ]
    for body, words in refused:
        response = post(body)
        assert (response.status_code, words in response.text) == (400, True), response.text
