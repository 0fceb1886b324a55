"""Durable work: one table of due rows, claimed by one process at a time, retried, and kept when they fail for good.

A row is put in a transaction before anybody is told that it will be done. To run it, a process claims it for the
length of a lease and renews that while it works; a lease that lapses is just a due row again, so a process that
died needs no cleaning up after. Scheduled jobs are rows like any other: each tick stores the next occurrence of
every schedule under an id that is the same in every process, so that however many are ticked, one starts it.
"""

import inspect
import json
import logging
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from secrets import SystemRandom
from typing import Any, TypedDict
from uuid import uuid4
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from cronsim import CronSim, CronSimError

from db import Conflict, Database, Row
from errors import is_async
from loader import load_files
from router import positional

logger = logging.getLogger("worker")

_chance = SystemRandom()  # the jobs' own `random` is left alone: they may have seeded it

LEASE = 60.0  # seconds that a claim lasts unless it is renewed
POLL = 5.0  # seconds between looks for work that another process left behind
PATIENCE = 20.0  # seconds that a tick waits for what it started
AT_ONCE = 50  # jobs that one process runs at once: most of them wait for a model
KEPT = 30 * 86_400.0  # seconds that a finished row is kept: longer than any sender delivers again


class Job(TypedDict):
    """What ``run(job)`` gets."""

    id: str  # the same at every attempt: an idempotency key
    name: str
    attempts: int  # 1, 2, 3 ...
    payload: Any  # any JSON value


@dataclass(frozen=True, kw_only=True)
class JobFile:
    """One file of the jobs folder."""

    name: str
    file: str
    run: Callable[..., Any]
    schedule: str | None = None  # five fields of cron
    timezone: tzinfo = UTC
    attempts: int = 3
    timeout: float = 300.0  # seconds
    grace: float | None = None  # seconds that a missed occurrence may be late; None: run it late, once

    def next_after(self, moment: float) -> float:
        """The first occurrence after a moment, in Unix seconds."""
        assert self.schedule is not None
        return next(CronSim(self.schedule, datetime.fromtimestamp(moment, self.timezone))).timestamp()


def load_jobs(root: Path) -> dict[str, JobFile]:
    """Load the files of a jobs folder, by name; {} where there is none. Problems are raised as `load_routes` does."""
    return load_files(root, job_file)


def job_file(name: str, shown: str, found: Mapping[str, Any]) -> JobFile:
    """Read what a job's module defines. Raises `ValueError` with the mend."""
    run, schedule, zone = found.get("run"), found.get("schedule"), found.get("timezone", "UTC")
    if not inspect.isfunction(run) or inspect.isasyncgenfunction(run) or inspect.isgeneratorfunction(run):
        raise ValueError("has no function 'run'. Write: async def run(job): ...")
    try:
        positional(run)
    except TypeError as exc:
        raise ValueError(f"run takes {exc}, but it is called with (job) or (job, state)") from None
    try:
        timezone = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        raise ValueError(f"timezone {zone!r} is not known. Write a name such as Europe/Paris, or UTC") from None
    if schedule is not None:
        try:
            if len(str(schedule).split()) != 5:
                raise CronSimError("five fields are wanted")
            next(CronSim(schedule, datetime.now(timezone)))
        except (CronSimError, StopIteration) as exc:
            reason = str(exc) or "it never comes"
            raise ValueError(
                f'schedule {schedule!r} cannot be used: {reason}. Write five fields: "0 9 * * *"'
            ) from None
    numbers = {key: found.get(key, getattr(JobFile, key)) for key in ("attempts", "timeout", "grace")}
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float | None) or (value is not None and value <= 0):
            raise ValueError(f"{key} = {value!r} cannot be used: a number above 0 is wanted")
    if not isinstance(numbers["attempts"], int) or numbers["timeout"] is None:
        raise ValueError("attempts is a whole number, timeout a number of seconds")
    return JobFile(name=name, file=shown, run=run, schedule=schedule, timezone=timezone, **numbers)


class Worker:
    """Runs the rows of the table whose names it knows. ``state`` is what ``run(job, state)`` gets."""

    def __init__(
        self,
        db: Database,
        jobs: Mapping[str, JobFile],
        state: Any = None,
        *,
        clock: Callable[[], float] = time.time,
        lease: float = LEASE,
        poll: float = POLL,
    ) -> None:
        self.db = db
        self.jobs = jobs
        self.state = state
        self.clock = clock
        self.lease = lease
        self.poll = poll
        self._wake = anyio.Event()
        self._tasks: TaskGroup | None = None
        self._running: dict[str, anyio.CancelScope] = {}
        self._stopping = False

    async def put(
        self,
        name: str,
        payload: Any = None,
        *,
        id: str | None = None,
        run_at: float | None = None,
        lane: str | None = None,
    ) -> bool:
        """Store a job to be run; on disk when this returns. False where a job of that id was put before.

        ``payload`` is any JSON value, ``run_at`` a moment in Unix seconds (default: now). Jobs of one ``lane`` run
        one at a time, in the order they were put. Raises `KeyError` for a name that no file has.
        """
        if name not in self.jobs:
            raise KeyError(f"there is no job {name!r}: write jobs/{name}.py with a function run(job)")
        now = self.clock()
        rows = await self._insert(id or uuid4().hex, name, lane, json.dumps(payload), now if run_at is None else run_at)
        self._wake.set()
        return bool(rows)

    async def serve(self) -> None:
        """Run what is due, for as long as the app lives; `stop` ends it."""
        async with anyio.create_task_group() as self._tasks:
            while not self._stopping:
                self._wake = anyio.Event()
                try:
                    while len(self._running) < AT_ONCE and (row := await self._claim(ticked=False)):
                        self._start(row)
                except Exception:  # the database is away for a while: what was put is still there afterwards
                    logger.exception("cannot look for work, trying again in %s s", self.poll)
                with anyio.move_on_after(self.poll):
                    await self._wake.wait()

    def stop(self) -> None:
        """Take no more work, and hand back what is running without counting the attempt."""
        self._stopping = True
        self._wake.set()
        for scope in self._running.values():
            scope.cancel()

    async def tick(self) -> dict[str, str]:
        """Store the next occurrence of each schedule, run the ones that are due, and say how each went.

        Waits at most 20 s: a longer job goes on, and is "running". The other outcomes are "done", "will retry",
        "failed" and "skipped".
        """
        now = self.clock()
        for job in self.jobs.values():
            if job.schedule is not None:
                await self._store_next(job, now)
        await self.db.write(("DELETE FROM house_job WHERE done_at < $1", (now - KEPT,)))
        due = await self.db.read(
            "SELECT id FROM house_job WHERE id LIKE 'cron:%' AND done_at IS NULL AND run_at <= $1 ORDER BY run_at, id",
            now,
        )
        ended: list[anyio.Event] = []
        while not self._stopping and (row := await self._claim(ticked=True)):
            ended.append(self._start(row))
        with anyio.move_on_after(PATIENCE):
            for event in ended:
                await event.wait()
        return {row["id"]: await self._outcome(row["id"]) for row in due}

    async def overview(self, limit: int = 100) -> dict[str, Any]:
        """Say what is due, running and failed, oldest first, and when each schedule is next (Unix seconds)."""
        now = self.clock()
        columns = "SELECT id, name, lane, run_at, attempts, error, created_at FROM house_job WHERE"
        where = {
            "due": "done_at IS NULL AND token IS NULL AND run_at <= $1 ORDER BY run_at, id",
            "running": "done_at IS NULL AND token IS NOT NULL AND created_at <= $1 ORDER BY run_at, id",
            "failed": "done_at <= $1 AND error IS NOT NULL AND error NOT LIKE 'skipped%' ORDER BY done_at, id",
        }
        found = {word: await self.db.read(f"{columns} {text} LIMIT $2", now, limit) for word, text in where.items()}
        schedules = {job.name: job.next_after(now) for job in self.jobs.values() if job.schedule is not None}
        return {**found, "next": schedules}

    async def replay(self, id: str) -> bool:
        """Put a dead letter back, with all its attempts. False where no failed job has that id."""
        sql = (
            "UPDATE house_job SET done_at = NULL, error = NULL, attempts = 0, run_at = $2 "
            "WHERE id = $1 AND done_at IS NOT NULL AND error IS NOT NULL RETURNING id"
        )
        [rows] = await self.db.write((sql, (id, self.clock())))
        self._wake.set()
        return bool(rows)

    async def _store_next(self, job: JobFile, now: float) -> None:
        at = job.next_after(now)
        id = f"cron:{job.name}:{datetime.fromtimestamp(at, UTC).isoformat()}"
        await self._insert(id, job.name, f"job:{job.name}", "null", at)
        waiting = "name = $1 AND id LIKE 'cron:%' AND attempts = 0 AND token IS NULL AND done_at IS NULL"
        await self.db.write(
            # an occurrence that the schedule no longer has, since the file was changed
            (
                f"DELETE FROM house_job WHERE {waiting} AND id <> $2 AND run_at > $3",  # noqa: S608 - fixed text
                (job.name, id, now),
            ),
            # what piles up while the job runs for longer than its interval
            (
                f"UPDATE house_job SET done_at = $2, error = $3 WHERE {waiting} AND run_at < "  # noqa: S608 - fixed text
                f"(SELECT MAX(run_at) FROM house_job WHERE {waiting} AND run_at <= $2)",
                (job.name, now, "skipped: a later one was due before it could begin"),
            ),
        )

    async def _insert(self, id: str, name: str, lane: str | None, payload: str, run_at: float) -> list[Row]:
        sql = (
            "INSERT INTO house_job (id, name, lane, payload, run_at, attempts, created_at) "
            "VALUES ($1, $2, $3, $4, $5, 0, $6) ON CONFLICT (id) DO NOTHING RETURNING id"
        )
        return (await self.db.write((sql, (id, name, lane, payload, run_at, self.clock()))))[0]

    async def _claim(self, *, ticked: bool) -> Row | None:
        """Claim the row that has been due longest, whose lane is free and whose name has a file here.

        An occurrence of a schedule is begun by a tick alone; a poll takes over the ones that were begun.
        """
        if not self.jobs:
            return None
        now = self.clock()
        names = ", ".join(f"${i}" for i in range(4, len(self.jobs) + 4))
        begun = "" if ticked else "AND (j.id NOT LIKE 'cron:%' OR j.attempts > 0)"
        # a lane's row waits for the one that runs, and for every earlier one: turns stay in order, retries included
        sql = f"""
            UPDATE house_job SET token = $1, run_at = $2, attempts = attempts + 1 WHERE id = (
              SELECT j.id FROM house_job j WHERE j.done_at IS NULL AND j.run_at <= $3 AND j.name IN ({names}) {begun}
              AND NOT EXISTS (SELECT 1 FROM house_job k WHERE k.lane = j.lane AND k.token IS NOT NULL AND k.id <> j.id)
              AND NOT EXISTS (SELECT 1 FROM house_job k WHERE k.lane = j.lane AND k.done_at IS NULL
                AND (k.created_at, k.id) < (j.created_at, j.id))
              ORDER BY j.run_at, j.id LIMIT 1{self.db.skip_locked}) RETURNING *"""  # noqa: S608 - fixed text and markers
        try:
            [rows] = await self.db.write((sql, (uuid4().hex, now + self.lease, now, *self.jobs)))
        except Conflict:  # another process claimed a row of the same lane at the same moment
            return None
        return rows[0] if rows else None

    def _start(self, row: Row) -> anyio.Event:
        assert self._tasks is not None, "the worker is not being served"
        ended = anyio.Event()
        self._tasks.start_soon(self._run, row, ended)
        return ended

    async def _run(self, row: Row, ended: anyio.Event) -> None:
        """Run a claimed row to its end, whatever that is, and write the end down."""
        file, now = self.jobs[row["name"]], self.clock()
        try:
            if row["attempts"] > file.attempts:
                return await self._finish(row, "its process ended while it ran")
            if row["attempts"] == 1 and file.grace is not None and row["id"].startswith("cron:"):
                late = now - _scheduled(row["id"])
                if late > file.grace:
                    return await self._finish(row, f"skipped: {late:.0f} s late")
            await self._work(row, file)
        except Exception:
            logger.exception("cannot write down how %s went: it is taken up again when its lease ends", row["id"])
        finally:
            ended.set()
            self._wake.set()

    async def _work(self, row: Row, file: JobFile) -> None:
        failure: Exception | None = None
        with anyio.CancelScope() as scope:
            self._running[row["id"]] = scope
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._renew, row, scope)
                    try:
                        with anyio.fail_after(file.timeout):
                            await self._call(file, row)
                    except Exception as exc:
                        failure = exc
                    tasks.cancel_scope.cancel()
            finally:
                del self._running[row["id"]]
        with anyio.CancelScope(shield=True):
            if scope.cancelled_caught:
                await self._hand_back(row)
            elif failure is None:
                await self._finish(row, None)
            else:
                await self._fail(row, file, failure)

    async def _call(self, file: JobFile, row: Row) -> None:
        payload = json.loads(row["payload"])
        job = Job(id=row["id"], name=row["name"], attempts=row["attempts"], payload=payload)
        arguments = (job, self.state)[: positional(file.run)]
        if is_async(file.run):
            await file.run(*arguments)
        else:
            await anyio.to_thread.run_sync(file.run, *arguments)

    async def _renew(self, row: Row, scope: anyio.CancelScope) -> None:
        """Keep the claim; stop the job when it was lost, since another process runs it by then."""
        sql = "UPDATE house_job SET run_at = $3 WHERE id = $1 AND token = $2 RETURNING id"
        while True:
            await anyio.sleep(self.lease / 3)
            try:
                [kept] = await self.db.write((sql, (row["id"], row["token"], self.clock() + self.lease)))
            except Exception:
                logger.exception("cannot renew the claim on %s", row["id"])
                continue
            if not kept:
                logger.error("lost the claim on %s: stopping it here", row["id"])
                scope.cancel()

    async def _hand_back(self, row: Row) -> None:
        await self._update(row, "token = NULL, attempts = attempts - 1, run_at = $3", self.clock())

    async def _finish(self, row: Row, error: str | None) -> None:
        # what was done needs its id alone: somebody's message must not outlive the conversation that it is in
        forget = "" if error else ", payload = 'null'"
        await self._update(row, f"token = NULL, done_at = $3, error = $4{forget}", self.clock(), error)
        logger.log(logging.ERROR if error else logging.INFO, "job %s: %s", row["id"], error or "done")

    async def _fail(self, row: Row, file: JobFile, failure: Exception) -> None:
        if row["attempts"] < file.attempts:
            at, words = self.clock() + _delay(row["attempts"]), "failed, and will be tried again"
            await self._update(row, "token = NULL, run_at = $3, error = $4", at, _where(failure))
        else:
            words = "failed for good"
            await self._update(row, "token = NULL, done_at = $3, error = $4", self.clock(), _where(failure))
        logger.error("job %s %s (attempt %s)", row["id"], words, row["attempts"], exc_info=failure)

    async def _update(self, row: Row, changes: str, *values: object) -> None:
        """Write an end down, unless the claim was lost: then another process writes it.

        While the database is away this is tried again for half a claim's time: else the job would run twice.
        """
        sql = f"UPDATE house_job SET {changes} WHERE id = $1 AND token = $2"  # noqa: S608 - the columns are ours
        until = self.clock() + self.lease / 2
        while True:
            try:
                await self.db.write((sql, (row["id"], row["token"], *values)))
                return
            except Exception:
                if self._stopping or self.clock() > until:
                    raise
                logger.warning("cannot write down how %s went, trying again", row["id"], exc_info=True)
                await anyio.sleep(1)

    async def _outcome(self, id: str) -> str:
        rows = await self.db.read("SELECT done_at, error, token, attempts FROM house_job WHERE id = $1", id)
        row = rows[0]
        if row["done_at"] is not None:
            error = row["error"] or ""
            return "skipped" if error.startswith("skipped") else "failed" if error else "done"
        return "will retry" if row["token"] is None and row["attempts"] else "running"


def _scheduled(id: str) -> float:
    """The moment in an occurrence's id, cron:daily:2026-11-23T08:00:00+00:00."""
    return datetime.fromisoformat(id.split(":", 2)[2]).timestamp()


def _delay(attempts: int) -> float:
    """Seconds until the next attempt: 10, 30, 90 ... up to an hour, half of it left to chance."""
    return min(10.0 * 3 ** (attempts - 1), 3600.0) * _chance.uniform(0.5, 1.5)


def _where(exc: BaseException) -> str:
    """What failed and where, without the exception's text: it may hold what must not be kept."""
    frames = traceback.extract_tb(exc.__traceback__)
    return (
        f"{type(exc).__name__} at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else repr(type(exc))
    )
