"""What an operator sees and does: `python -m app jobs`, GET and POST /api/jobs."""

import asyncio
import difflib
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from db import Row
from worker.claims import WITHOUT_FILE, with_names
from worker.schedules import lane_of
from worker.table import IS_CANCELLED, IS_SKIPPED, STATE, Table

COLUMNS = "id, name, lane, run_at, attempts, begun, error, created_at, began_at, done_at"
NO_FAILURE = f"NOT {IS_SKIPPED} AND NOT {IS_CANCELLED}"

WAITING = "done_at IS NULL AND token IS NULL AND run_at <= $1"
RUNNING = "done_at IS NULL AND token IS NOT NULL AND created_at <= $1"
# as its index is written, so that no engine takes another one
FAILED = f"COALESCE(done_at, $1 + 1) <= $1 AND (error IS NULL) IS FALSE AND {NO_FAILURE}"

LISTS = {
    "due": f"SELECT {COLUMNS} FROM house_job WHERE {WAITING} AND name IN ({{names}}) ORDER BY run_at, id LIMIT $2",  # noqa: S608 - fixed text
    "running": f"SELECT {COLUMNS} FROM house_job WHERE {RUNNING} ORDER BY run_at, id LIMIT $2",  # noqa: S608 - fixed text
    "failed": f"SELECT {COLUMNS} FROM house_job WHERE {FAILED} ORDER BY done_at, id LIMIT $2",  # noqa: S608 - fixed text
}
COUNTS = {
    "due": f"SELECT COUNT(*) AS n FROM house_job WHERE {WAITING} AND name IN ({{names}})",  # noqa: S608 - fixed text
    "running": f"SELECT COUNT(*) AS n FROM house_job WHERE {RUNNING}",  # noqa: S608 - fixed text
    "failed": f"SELECT COUNT(*) AS n FROM house_job WHERE {FAILED}",  # noqa: S608 - fixed text
}
LAST = f"""SELECT {COLUMNS}, {STATE} AS state FROM house_job WHERE name = $1 AND done_at IS NOT NULL
  ORDER BY done_at DESC LIMIT 1"""  # noqa: S608 - fixed text

AGAIN = "done_at = NULL, token = NULL, attempts = 0, run_at = $1, cancelled_at = NULL"
REPLAY = f"UPDATE house_job SET {AGAIN} WHERE id = $2 AND done_at IS NOT NULL AND error IS NOT NULL RETURNING id"  # noqa: S608 - fixed text
REPLAY_ALL = f"UPDATE house_job SET {AGAIN} WHERE {FAILED} {{name}} RETURNING id"  # noqa: S608 - fixed text
CANCEL = """UPDATE house_job SET cancelled_at = $1,
    done_at = CASE WHEN token IS NULL THEN CAST($1 AS DOUBLE PRECISION) ELSE done_at END,
    error = CASE WHEN token IS NULL THEN 'cancelled by an operator' ELSE error END
  WHERE id = $2 AND done_at IS NULL RETURNING done_at"""
DELETE = "DELETE FROM house_job WHERE id = $1 AND token IS NULL RETURNING id"
DELETE_FAILED = f"DELETE FROM house_job WHERE {FAILED} {{name}} RETURNING id"  # noqa: S608 - fixed text
DELETE_STEPS = "DELETE FROM house_step WHERE NOT EXISTS (SELECT 1 FROM house_job WHERE id = house_step.job_id)"
SHOW = f"SELECT {COLUMNS}, {STATE} AS state FROM house_job WHERE id = $1"  # noqa: S608 - fixed text


class Impossible(Exception):
    """What an operator asked for cannot be done; the message names the ID or the job, and says why."""


class Operator(Table):
    """The table as an operator has it."""

    async def overview(self, limit: int = 100) -> dict[str, Any]:
        """Say what is due, running and failed, oldest first, how many there are, and when each schedule is next.

        ``jobs`` has the last run of each job, and how long it took; ``without_file`` the rows that nobody can run.
        Moments are Unix seconds.
        """
        now, names = self.clock(), list(self.jobs)
        lists = [
            self.db.read(with_names(sql, names, 3), now, limit, *(names if "{names}" in sql else ()))
            for sql in LISTS.values()
        ]
        counts = [
            self.db.read(with_names(sql, names), now, *(names if "{names}" in sql else ())) for sql in COUNTS.values()
        ]
        lost = self.db.read(with_names(WITHOUT_FILE, names), now, *names)
        found = await asyncio.gather(*lists, *counts, lost, *(self.db.read(LAST, name) for name in names))
        rows, numbers, [without], last = found[:3], found[3:6], found[6:7], found[7:]
        return {
            **dict(zip(LISTS, rows, strict=True)),
            "next": {job.name: job.next_after(now) for job in self.jobs.values() if job.schedules},
            "counts": {word: number[0]["n"] for word, number in zip(COUNTS, numbers, strict=True)},
            "jobs": [self._job(name, found, now) for name, found in zip(names, last, strict=True)],
            "without_file": without,
        }

    def _job(self, name: str, last: Sequence[Row], now: float) -> dict[str, Any]:
        job = self.jobs[name]
        return {
            "name": name,
            "schedule": list(job.schedules),
            "next": job.next_after(now) if job.schedules else None,
            "last": {**last[0], "seconds": seconds(last[0])} if last else None,
        }

    async def run(self, name: str, payload: Any = None) -> str:
        """Put a job, to be begun at once, and return its id.

        Raises `Impossible` for a name that no file has, `ValueError` for a payload that is not JSON.
        """
        if name not in self.jobs:
            near = difflib.get_close_matches(name, self.jobs, n=1)
            fix = f"did you mean {near[0]}?" if near else f"write jobs/{name}.py with a function run(job)"
            raise Impossible(f"There is no job {name!r}; {fix}")
        id = f"run:{name}:{uuid4().hex}"[-200:]
        await self.put(name, payload, id=id, lane=lane_of(name) if self.jobs[name].schedules else None)
        return id

    async def replay(self, id: str) -> None:
        """Put a failed, skipped or cancelled job back, with all its attempts. Raises `Impossible`."""
        [rows] = await self.db.write((REPLAY, (self.clock(), id)))
        if not rows:
            raise Impossible(await self._why_not(id, "replayed"))
        await self._changed()

    async def replay_all(self, name: str | None = None) -> list[str]:
        """Put every failed job back, or those of one name, and return their ids."""
        return await self._all(REPLAY_ALL, name)

    async def cancel(self, id: str) -> str:
        """Call a job off: "cancelled" where it waits, "stopping" where it runs. Raises `Impossible`."""
        [rows] = await self.db.write((CANCEL, (self.clock(), id)))
        if not rows:
            raise Impossible(await self._why_not(id, "cancelled"))
        if rows[0]["done_at"] is None:
            await self._called_off()
            return "stopping"
        await self._changed()
        return "cancelled"

    async def delete(self, id: str) -> None:
        """Delete a row that is not running. Raises `Impossible`."""
        rows, _ = await self.db.write((DELETE, (id,)), (DELETE_STEPS, ()))
        if not rows:
            raise Impossible(await self._why_not(id, "deleted"))
        await self._changed()

    async def delete_failed(self, name: str | None = None) -> list[str]:
        """Delete every failed job, or those of one name, and return their ids."""
        ids = await self._all(DELETE_FAILED, name)
        await self.db.write((DELETE_STEPS, ()))
        return ids

    async def _all(self, sql: str, name: str | None) -> list[str]:
        named = "" if name is None else "AND name = $2"
        values = (self.clock(),) if name is None else (self.clock(), name)
        [rows] = await self.db.write((sql.format(name=named), values))
        await self._changed()
        return [row["id"] for row in rows]

    async def _why_not(self, id: str, done: str) -> str:
        rows = await self.db.read(SHOW, id)
        if not rows:
            return f"There is no job {id}; see: python -m app jobs"
        return f"Job {id} is {rows[0]['state']}: it cannot be {done}" + (
            "; cancel it first" if rows[0]["state"] == "running" else ""
        )


def seconds(row: Row) -> float | None:
    """How long a run took that has ended; None where that was not noted, or nothing ran."""
    began, ended = row["began_at"], row["done_at"]
    return None if began is None or ended is None else max(0.0, ended - began)
