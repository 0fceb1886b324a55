"""What this process has claimed: its claims are renewed until the ends of their runs are written down.

An end is written as soon as one of two writers is free, together with those that came meanwhile. It waits for no claim
and no timer: what a killed process has to repeat is what ran, or was on its way to the disk.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from db import Row
from worker.claims import renewals
from worker.ends import DROP_STEPS, End, ends
from worker.runs import Run
from worker.table import many

if TYPE_CHECKING:
    from worker.loop import Worker

logger = logging.getLogger("worker")

Claim = tuple[str, str]  # an id and a token

WRITERS = 2  # with one, an end waits on the average for half of the write before it
AGAIN = 1.0  # seconds until a write that failed is tried again


class Ended(NamedTuple):
    """A claimed row, and what becomes of it; no run where it was not begun."""

    row: Row
    end: End
    run: Run | None = None


class Claimed:
    """The claims of a worker, from their beginning until their end is written down."""

    def __init__(self, worker: "Worker") -> None:
        self.worker = worker
        self.events: dict[Claim, asyncio.Event] = {}  # set when the claim is over
        self.renewed_at = worker.clock()
        self._ended: list[Ended] = []  # not written down yet
        self._on_the_way = 0  # ends in the writes that run
        self._more = asyncio.Event()

    @property
    def is_written(self) -> bool:
        """Whether every end is on disk."""
        return not self._ended and not self._on_the_way

    @property
    def is_writing(self) -> bool:
        """Whether ends are on their way to the disk."""
        return self._on_the_way > 0

    def add(self, row: Row) -> None:
        """Keep the claim on a row from now on."""
        self.events[row["id"], row["token"]] = asyncio.Event()

    def end(self, row: Row, end: End, run: Run | None = None) -> None:
        """Write an end down, with the next write."""
        self._ended.append(Ended(row, end, run))
        self._more.set()

    def drop(self, claim: Claim) -> None:
        """Keep a claim no longer."""
        if event := self.events.pop(claim, None):
            event.set()

    async def write_ends(self) -> None:
        """Write down what ends, for as long as the worker lives."""
        while True:
            await self._more.wait()
            self._more.clear()
            try:
                await self._write()
            except Exception:  # the database is away for a while: the claims are kept meanwhile
                logger.warning("cannot write down how jobs went, trying again", exc_info=True)
                self.worker.wake()
                await asyncio.sleep(AGAIN)
                self._more.set()

    async def _write(self) -> None:
        ended, self._ended = self._ended, []
        self._on_the_way += len(ended)
        try:
            ours = await self._written(ended)
        except BaseException:
            self._ended = ended + self._ended
            raise
        finally:
            self._on_the_way -= len(ended)
        for one in ended:
            self._tell(one, is_ours=one.row["id"] in ours)

    async def _written(self, ended: Sequence[Ended]) -> set[str]:
        """Write ends, and return the ids of the rows whose claim was still ours."""
        db = self.worker.db
        statements = ends(db, [(row, end) for row, end, _ in ended])
        count = len(statements)
        if done := [(row["id"],) for row, end, run in ended if run and run.steps and end.done_at]:
            statements += many(db, DROP_STEPS, ("TEXT",), done)
        results = await db.write(*statements) if statements else []
        return {row["id"] for rows in results[:count] for row in rows}

    def _tell(self, ended: Ended, *, is_ours: bool) -> None:
        row, end, run = ended
        if not is_ours:
            logger.error("lost the claim on %s: how it ended here is not written down", row["id"])
        else:
            failure = run.failure if run is not None and end.is_wrong else None
            logger.log(
                logging.ERROR if end.is_wrong else logging.INFO, "job %s: %s", row["id"], end.words, exc_info=failure
            )
        self.drop((row["id"], row["token"]))
        self.worker.written(row, end)

    async def keep(self) -> None:
        """Renew the claims, for as long as the worker lives."""
        while True:
            await asyncio.sleep(self.worker.lease / 3)
            try:
                await self.renew()
            except Exception:
                logger.exception("cannot renew the claims on %s", ", ".join(id for id, _ in self.worker.running))

    async def renew(self) -> None:
        """Keep the claims, and stop the jobs whose claim was lost: another process runs them by then."""
        now, claims = self.worker.clock(), list(self.events)
        statements = renewals(self.worker.db, claims, now + self.worker.lease)
        results = await self.worker.db.write(*statements) if statements else []
        self.renewed_at = now
        kept = {(row["id"], row["token"]) for rows in results for row in rows}
        for claim in claims:
            if claim not in kept and (run := self.worker.running.get(claim)):
                logger.error("lost the claim on %s: stopping it here", claim[0])
                run.stop("lost")
