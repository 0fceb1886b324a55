"""The loop of a process: claim as many rows as there are free places, run them, wait.

One turn is one claim, however many rows it takes. Between turns it waits for a job that ends, for a job that is put
here or elsewhere, for the next attempt of one of its own, and for the poll, which needs none of these.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import uuid4

from db import Conflict, Database, Row
from worker.claimed import WRITERS, Claim, Claimed
from worker.claims import (
    CALLED_OFF,
    HEADS,
    LET_GO,
    NAMES,
    WITHOUT_FILE,
    claim_statement,
    sorted_rows,
    with_names,
)
from worker.ends import End, cancelled, crashed, end_of, not_beside, skipped
from worker.files import JobFile
from worker.operator import Operator
from worker.runs import Run, hold_tasks
from worker.schedules import DUE, forgotten, next_occurrences, scheduled_at
from worker.table import STATE

logger = logging.getLogger("worker")

LEASE = 60.0  # seconds that a claim lasts unless it is renewed
POLL = 5.0  # seconds between looks for work that another process left behind
PATIENCE = 20.0  # seconds that a tick waits for what it started
AT_ONCE = 50  # jobs that one process runs at once: most of them wait for a model
CLEANUP = 5.0  # seconds that a job has for its `finally` once it is stopped
LOOK_AT_HEADS = 8  # turns: how often a process that is never idle looks past a lane that is full


class Worker(Operator):
    """Runs the rows of the table whose names it knows. ``state`` is what ``run(job, state)`` gets.

    ``at_once`` is how many it runs at once; ``grace`` the seconds that running jobs have to end by themselves when it
    is stopped.
    """

    def __init__(
        self,
        db: Database,
        jobs: Mapping[str, JobFile],
        state: Any = None,
        *,
        clock: Callable[[], float] = time.time,
        lease: float = LEASE,
        poll: float = POLL,
        at_once: int = AT_ONCE,
        grace: float = 0.0,
    ) -> None:
        super().__init__(db, jobs, clock)
        self.state = state
        self.lease = lease
        self.poll = poll
        self.at_once = at_once
        self.grace = grace
        self.running: dict[Claim, Run] = {}
        self.claimed = Claimed(self)
        self._wake = asyncio.Event()  # something is to be done
        self._look = False  # another process may have changed something
        self._ticks: list[asyncio.Future[None]] = []  # who wait for a turn that begins occurrences
        self._ticked = False
        self._is_full = False  # the last claim did not get all that is due
        # Of the next claim. It is made before: reading random bytes would let SQLite's thread begin with the ends that
        # were handed to it just now, and commit them and the claim one after the other.
        self._token = uuid4().hex
        self._turns = 0
        self._lane = ""  # where the next look at the heads of lanes begins
        self._looked_at = self._polled_at = 0.0
        self._serving = self._stopping = False
        self._notified_at = 0.0
        self._told: set[str] = set()
        self._timers: set[asyncio.TimerHandle] = set()

    # Serving.

    async def serve(self) -> None:
        """Run what is due, for as long as the app lives; `stop` ends it."""
        self._serving = True
        hold_tasks(asyncio.get_running_loop())
        unlisten = self.db.listen("jobs", self._on_change)
        tasks = [
            asyncio.create_task(self._turn_until_stopped(), name="worker: turns"),
            *(asyncio.create_task(self.claimed.write_ends(), name=f"worker: ends {n}") for n in range(WRITERS)),
            asyncio.create_task(self.claimed.keep(), name="worker: claims"),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._serving = False
            unlisten()
            for ending in (*tasks, *self._timers):
                ending.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def is_alive(self) -> bool:
        """Whether it looked for work lately, or is waiting for the database to answer."""
        return self._serving and time.monotonic() - self._looked_at < 3 * self.poll + 60

    def stop(self) -> None:
        """Take no more work; running jobs have ``grace`` seconds to end, then they are handed back uncounted."""
        if not self._stopping:
            self._stopping = True
            self.wake()

    def wake(self) -> None:
        """Look for work, or for what has ended."""
        self._wake.set()

    async def _turn_until_stopped(self) -> None:
        while not self._stopping:
            self._wake.clear()
            self._looked_at = time.monotonic()
            try:
                again = await self._turn()
            except Exception:  # the database is away for a while: what was put is still there afterwards
                logger.exception("cannot look for work, trying again in %s s", self.poll)
                await self._wait(self.poll, self._stopped)
                continue
            if not again:
                await self._wait(self.poll, self._woken)
        await self._end_all()

    async def _woken(self) -> None:
        await self._wake.wait()

    async def _stopped(self) -> None:
        while not self._stopping:
            self._wake.clear()
            await self._wake.wait()

    @staticmethod
    async def _wait(seconds: float, what: Callable[[], Any]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await what()

    async def _end_all(self) -> None:
        """Let running jobs end, stop those that do not, and hand them back."""
        await self._until_ended(self.grace)
        for run in list(self.running.values()):
            run.stop("shutdown")
        await self._until_ended(CLEANUP)
        for run in self.running.values():
            logger.error("job %s did not stop: its claim lapses in %s s", run.row["id"], self.lease)

    async def _until_ended(self, seconds: float) -> None:
        """Wait until nothing runs and every end is written down, for so many seconds; a write is waited for."""
        until = time.monotonic() + seconds
        while self.running or not self.claimed.is_written:
            self._wake.clear()
            if (left := until - time.monotonic()) > 0:
                await self._wait(left, self._woken)
            elif self.claimed.is_writing:
                await self._woken()
            else:
                return

    # One turn.

    async def _turn(self) -> bool:
        """Begin what is due. True where there may be more to begin."""
        now = self.clock()  # also the claim's: this process may be stopped for longer than a lease at any await
        if now - self.claimed.renewed_at > self.lease / 2:
            await self.claimed.renew()  # what runs here must not be claimed again
        ticks, self._ticks = self._ticks, []
        ticked = self._ticked = self._ticked or bool(ticks)
        self._turns += 1
        await self._stop_called_off()
        places = self.at_once - len(self.running)
        room = self._room(places)
        try:
            count = self._begin(await self._claim(room, places, now, ticked=ticked)) if room else 0
            self._is_full = not room or count >= places or len(self.jobs) > NAMES
            if room and (count < places or self._turns % LOOK_AT_HEADS == 0):
                count += await self._begin_heads(now, ticked=ticked)
                self._is_full |= bool(self._lane)
        finally:
            for tick in ticks:
                if not tick.done():
                    tick.set_result(None)
        if room and count < places:
            self._ticked = False
            await self._look_around()
        return bool(room) and (count >= places or (bool(self._lane) and count > 0))

    def _room(self, places: int) -> dict[str, int]:
        """How many rows of each name may be begun, for the names that one claim looks at."""
        if places <= 0 or not self.jobs:
            return {}
        running: dict[str, int] = {}
        for run in self.running.values():
            running[run.row["name"]] = running.get(run.row["name"], 0) + 1
        names = list(self.jobs)
        if len(names) > NAMES:
            first = self._turns * NAMES % len(names)
            names = (names + names)[first : first + NAMES]
        return {
            name: places
            if (most := self.jobs[name].at_once) is None
            else max(0, min(places, most - running.get(name, 0)))
            for name in names
        }

    async def _claim(
        self, room: Mapping[str, int], places: int, now: float, *, ticked: bool, heads: Sequence[str] = ()
    ) -> list[Row]:
        token, lease = self._token, self.lease
        statement = claim_statement(
            self.db, token, room, now=now, lease=lease, places=places, ticked=ticked, heads=heads
        )
        try:
            [rows] = await self.db.write(statement)
        except Conflict:  # another process claimed a row of the same lane at the same moment
            self.wake()
            return []
        finally:
            self._token = uuid4().hex
        return sorted_rows(rows)

    def _begin(self, rows: Sequence[Row]) -> int:
        still_here = {id for id, _ in self.running}  # a run whose claim was lost, and which cannot be stopped
        for row in rows:
            file, now = self.jobs[row["name"]], self.clock()
            self.claimed.add(row)
            if row["id"] in still_here:
                self.claimed.end(row, not_beside(row, now + self.poll))
            elif row["cancelled_at"] is not None:
                self.claimed.end(row, cancelled(row, now))
            elif row["attempts"] > file.attempts:
                self.claimed.end(row, crashed(row, now))
            elif is_first(row) and file.grace is not None and (late := now - scheduled_at(row["id"])) > file.grace:
                self.claimed.end(row, skipped(row, late, now))
            else:
                self.running[row["id"], row["token"]] = Run(self, row, file, self._on_end)
        return len(rows)

    async def _begin_heads(self, now: float, *, ticked: bool) -> int:
        """Begin the first rows of some lanes, where the rows that are due first wait for one another."""
        found = await self.db.read(HEADS, now, self._lane)
        self._lane = found[-1]["lane"] if found and found[-1]["lane"] is not None else ""
        heads = [row["id"] for row in found if row["id"] is not None]
        places = self.at_once - len(self.running)
        room = self._room(places)
        if not heads or not room:
            return 0
        return self._begin(await self._claim(room, places, now, ticked=ticked, heads=heads))

    def _on_end(self, run: Run) -> None:
        """A run is over. Its place is wanted where the last claim did not get all that is due."""
        del self.running[run.claim]
        if run.stopped == "lost":
            logger.error("job %s was stopped here: another process runs it", run.row["id"])
            self.claimed.drop(run.claim)
        else:
            try:
                end = end_of(run.row, run.file, run.failure, run.stopped, self.clock())
            except BaseException as exc:  # the failure's own code raised: a Retry without its time, an odd __str__
                end = end_of(run.row, run.file, exc, run.stopped, self.clock())
            self.claimed.end(run.row, end, run)
        if self._is_full or self._stopping or run.file.at_once is not None:
            self.wake()

    def written(self, row: Row, end: End) -> None:
        """An end is on disk: the next of its lane can be claimed, or itself, later."""
        if end.done_at is None:
            self._wake_in(end.run_at - self.clock())
        if row["lane"] is not None or self._stopping:
            self.wake()

    # Noticing what others change.

    def _on_change(self) -> None:
        self._look = True
        self.wake()

    async def _stop_called_off(self) -> None:
        """Stop what an operator has called off."""
        if not self._look:
            return
        self._look = False
        if self.running:
            for row in await self.db.read(CALLED_OFF):
                if run := self.running.get((row["id"], row["token"])):
                    run.stop("cancelled")

    async def _look_around(self) -> None:
        """At a poll: what nobody can run is told, and does not hold its lane."""
        if time.monotonic() - self._polled_at < self.poll:
            return
        self._polled_at = time.monotonic()
        self._look = True
        now, names = self.clock(), list(self.jobs)
        for row in await self.db.read(with_names(WITHOUT_FILE, names), now, *names):
            if row["name"] not in self._told:
                self._told.add(row["name"])
                logger.error(
                    "job %s: no file jobs/%s.py, so its rows are not run (python -m app jobs)", *(row["name"],) * 2
                )
        await self.db.write((with_names(LET_GO, names), (now - self.lease, *names)))

    def _wake_in(self, seconds: float) -> None:
        """Look for work then; a poll comes by itself."""
        if self._serving and seconds < self.poll:

            def wake() -> None:
                self._timers.discard(timer)
                self.wake()

            timer = asyncio.get_running_loop().call_later(max(0.0, seconds) + 0.001, wake)
            self._timers.add(timer)

    async def _changed(self) -> None:
        """Wake this process; where it runs nothing or has no free place, the others. It looks when a place is free."""
        if self._serving and not self._stopping and len(self.running) < self.at_once:
            return self.wake()
        if time.monotonic() - self._notified_at > 0.25 or not self._serving:  # it takes a lock of the whole server
            self._notified_at = time.monotonic()
            await self._notify()

    async def _called_off(self) -> None:
        """Stop what an operator has called off, whoever runs it."""
        self._on_change()
        await self._notify()

    async def _notify(self) -> None:
        try:
            await self.db.notify("jobs")
        except Exception:  # the row is on disk: a poll finds it
            logger.warning("cannot tell other processes of a job", exc_info=True)

    # Schedules.

    async def tick(self) -> dict[str, str]:
        """Store the next occurrence of each schedule, begin the ones that are due, and say how each went.

        Waits at most 20 s: a longer job goes on, and is "running", as is one that waits for a free place. The other
        outcomes are "done", "will retry", "failed", "skipped" and "cancelled".
        """
        now = self.clock()
        await self.db.write(*next_occurrences(self.jobs.values(), now), *forgotten(now))
        rows = await self.db.read(DUE, now)
        due = [row["id"] for row in rows if row["name"] in self.jobs]
        if self._serving and not self._stopping:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await self._begin_occurrences()
                    for event in [event for claim, event in self.claimed.events.items() if claim[0] in due]:
                        await event.wait()
        return {id: await self._outcome(id) for id in due}

    async def _begin_occurrences(self) -> None:
        turned: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ticks.append(turned)
        self.wake()
        await turned

    async def _outcome(self, id: str) -> str:
        rows = await self.db.read(f"SELECT {STATE} AS state, begun, attempts FROM house_job WHERE id = $1", id)  # noqa: S608 - fixed text
        if not rows:
            return "skipped"
        state: str = rows[0]["state"]
        if state == "waiting":
            return "will retry" if rows[0]["begun"] or rows[0]["attempts"] else "running"
        return state


def is_first(row: Row) -> bool:
    """Whether a claimed row is an occurrence that never began before, nor is replayed: its grace counts."""
    return row["id"].startswith("cron:") and row["begun"] == row["attempts"] == 1 and row["error"] is None
