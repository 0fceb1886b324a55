"""The occurrences of schedules: each is a row whose id says which, so that it is there once, whoever stores it."""

from collections.abc import Iterable
from datetime import UTC, datetime

from db import Statement
from worker.files import JobFile
from worker.table import CRON, PUT

KEPT = 30 * 86_400.0  # seconds that a finished row is kept: longer than any sender delivers again

# one that was replayed has an error
WAITS = """name = $1 AND id LIKE 'cron:%' AND begun = 0 AND attempts = 0 AND error IS NULL
  AND token IS NULL AND done_at IS NULL"""

# an occurrence that the schedule no longer has, since the file was changed
DROP = f"DELETE FROM house_job WHERE {WAITS} AND id <> $2 AND run_at > $3"  # noqa: S608 - fixed text

# what piles up while the job runs for longer than its interval
OVERTAKEN = f"""UPDATE house_job SET done_at = $2, error = 'skipped: a later one was due before it could begin'
  WHERE {WAITS} AND run_at < (SELECT MAX(run_at) FROM house_job WHERE {WAITS} AND run_at <= $2)"""  # noqa: S608 - fixed text

FORGET = "DELETE FROM house_job WHERE done_at < $1"
FORGET_STEPS = "DELETE FROM house_step WHERE NOT EXISTS (SELECT 1 FROM house_job WHERE id = house_step.job_id)"

DUE = """SELECT id, name FROM house_job WHERE id LIKE 'cron:%' AND done_at IS NULL AND run_at <= $1
  ORDER BY run_at, id"""


def lane_of(name: str) -> str:
    """The lane of a job's occurrences, so that it does not overlap itself."""
    return f"job:{name}"


def occurrence(name: str, at: float) -> str:
    """The id of an occurrence: cron:daily:2026-11-23T08:00:00+00:00."""
    return f"{CRON}{name}:{datetime.fromtimestamp(at, UTC).isoformat()}"


def scheduled_at(id: str) -> float:
    """The moment in an occurrence's id."""
    return datetime.fromisoformat(id.split(":", 2)[2]).timestamp()


def next_occurrences(jobs: Iterable[JobFile], now: float) -> list[Statement]:
    """Store each schedule's next occurrence, and clear away what it no longer has or what a later one has overtaken."""
    statements: list[Statement] = []
    for job in jobs:
        if job.schedules:
            at = job.next_after(now)
            id = occurrence(job.name, at)
            statements += [
                (PUT, (id, job.name, lane_of(job.name), "null", at, now)),
                (DROP, (job.name, id, now)),
                (OVERTAKEN, (job.name, now)),
            ]
    return statements


def forgotten(now: float) -> list[Statement]:
    """Delete what ended long ago."""
    return [(FORGET, (now - KEPT,)), (FORGET_STEPS, ())]
