"""The table of jobs: what a row's columns say, its states, and how a row comes into it.

    waiting    it will be run: now, or at ``run_at``
    running    a process has claimed it until ``run_at``, and renews that
    done       it came to its end
    failed     it failed for good: its attempts are used up, or it gave up
    skipped    an occurrence of a schedule that was not begun: later than its grace, or overtaken by the next one
    cancelled  somebody called it off

    from       to         who
    -          waiting    put, a tick (the next occurrence of a schedule), an operator (jobs run)
    waiting    running    the one process whose claim it is: a row that is due, whose lane is free
    running    waiting    its claim's process: it failed and has attempts left; Retry; the server is stopped
    running    running    another process, once the lease has lapsed: the first is dead, or will find its claim gone
    running    done, failed, skipped, cancelled    its claim's process
    waiting    cancelled  an operator; a running one is asked to (``cancelled_at``), and its process ends it
    waiting    skipped    a tick: a later occurrence is due too
    failed, skipped, cancelled    waiting    an operator (jobs replay)
    done, failed, skipped, cancelled    waiting    put(unique="pending") with its id
    any but running    -  an operator (jobs delete); after 30 days where it has ended

The state is computed and not kept, so that what older code writes beside us is right as well (it knows ``token``,
``run_at``, ``attempts``, ``done_at`` and ``error``, claims what is due and not done, and wants one token in a lane).
Three facts are kept apart:

    begun      how often somebody claimed it. Above 0: a tick's grace is over for it, its lane waits for it
    attempts   how many of these count: not those that ended in Retry, or because the server was stopped
    error      what went wrong last, also while it waits to be tried again

A claim is its ``token``, never the id: a process that was stopped for longer than a lease finds another token there,
and writes nothing.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple
from unicodedata import category
from uuid import uuid4

from db import Database, Statement
from worker.files import JobFile

# how the errors of these two begin; LIKE would take the case of a CancelledError for ours, on SQLite
IS_SKIPPED, IS_CANCELLED = "substr(error, 1, 8) = 'skipped:'", "substr(error, 1, 12) = 'cancelled by'"

STATE = f"""CASE WHEN done_at IS NULL AND token IS NULL THEN 'waiting' WHEN done_at IS NULL THEN 'running'
  WHEN error IS NULL THEN 'done' WHEN {IS_SKIPPED} THEN 'skipped'
  WHEN {IS_CANCELLED} THEN 'cancelled' ELSE 'failed' END"""

PUT = """INSERT INTO house_job (id, name, lane, payload, run_at, attempts, created_at)
  VALUES ($1, $2, $3, $4, $5, 0, $6) ON CONFLICT (id) DO NOTHING RETURNING id"""

# the row of an id that has ended becomes a new one
PUT_PENDING = """INSERT INTO house_job (id, name, lane, payload, run_at, attempts, created_at)
  VALUES ($1, $2, $3, $4, $5, 0, $6) ON CONFLICT (id) DO UPDATE SET name = excluded.name, lane = excluded.lane,
    payload = excluded.payload, run_at = excluded.run_at, attempts = 0, begun = 0, began_at = NULL, token = NULL,
    done_at = NULL, error = NULL, cancelled_at = NULL, created_at = excluded.created_at
  WHERE house_job.done_at IS NOT NULL RETURNING id"""

ODD = {"Cc", "Cs", "Zl", "Zp"}  # Unicode's categories of control characters, half a pair, line and paragraph ends
LONGEST = 200  # characters of an id, a lane or a step's name
CRON = "cron:"  # what the ids of occurrences begin with


class Encoded(NamedTuple):
    """A payload that is JSON already: `put` stores this text."""

    text: str


class Table:
    """The rows, and the files that their names stand for."""

    def __init__(self, db: Database, jobs: Mapping[str, JobFile], clock: Callable[[], float]) -> None:
        self.db = db
        self.jobs = jobs
        self.clock = clock

    async def put(
        self,
        name: str,
        payload: Any = None,
        *,
        id: str | None = None,
        run_at: float | None = None,
        lane: str | None = None,
        unique: Literal["always", "pending"] = "always",
    ) -> bool:
        """Store a job to be run; on disk when this returns. False where a job of that id was put before.

        ``payload`` is any JSON value, or one that is `Encoded`; ``run_at`` a moment in Unix seconds (default: now).
        Jobs of one ``lane`` run one at a time, in the order they were put. With ``unique="pending"`` the id is free
        again once its job has ended. Raises `KeyError` for a name that no file has, `TypeError` and `ValueError` for
        what could never run.
        """
        statement = self.put_statement(name, payload, id=id, run_at=run_at, lane=lane, unique=unique)
        [rows] = await self.db.write(statement)
        await self._changed()
        return bool(rows)

    def put_statement(
        self,
        name: str,
        payload: Any = None,
        *,
        id: str | None = None,
        run_at: float | None = None,
        lane: str | None = None,
        unique: Literal["always", "pending"] = "always",
    ) -> Statement:
        """Return what `put` would write, for a transaction of your own: ``db.write(*mine, worker.put_statement(…))``.

        It returns one row where the job is new. The job is begun within the 5 seconds of a poll.
        """
        if name not in self.jobs:
            raise KeyError(f"there is no job {name!r}: write jobs/{name}.py with a function run(job)")
        if unique not in ("always", "pending"):
            raise ValueError(f'unique={unique!r} is not known: write "pending", or leave it out')
        if unique == "pending" and id is None:
            raise ValueError('unique="pending" is about an id: write put(..., id="...", unique="pending")')
        now = self.clock()
        values = (
            uuid4().hex if id is None else checked_id(id),
            name,
            None if lane is None else checked_text("lane", lane),
            checked_payload(payload),
            now if run_at is None else checked_moment(run_at),
            now,
        )
        return PUT_PENDING if unique == "pending" else PUT, values

    async def _changed(self) -> None:
        """Tell who runs jobs that a row has changed."""
        await self.db.notify("jobs")

    async def _called_off(self) -> None:
        """Tell whoever runs a job that it is to be stopped."""
        await self.db.notify("jobs")


def checked_id(id: object) -> str:
    text = checked_text("id", id)
    if not text:
        raise ValueError("id is empty: leave it out for one of the job's own")
    if text.startswith(CRON):
        raise ValueError(f"id {text!r} has the form of a schedule's occurrences: let it begin otherwise")
    return text


def checked_text(what: str, value: object) -> str:
    """Return an id, a lane or a name that every database and log line takes. Raises `TypeError` and `ValueError`."""
    if not isinstance(value, str):
        raise TypeError(f"{what} is a text of at most {LONGEST} characters, not {type(value).__name__}")
    if len(value) > LONGEST:
        raise ValueError(f"{what} has {len(value)} characters: at most {LONGEST}. Use a digest of it")
    if not value.isprintable() and (odd := next((c for c in value if category(c) in ODD), None)):
        raise ValueError(f"{what} {value!r} has the character {odd!r}: no control characters, line ends or half pairs")
    return value


def checked_payload(payload: Any) -> str:
    """Return a payload as JSON. Raises `TypeError` and `ValueError` for what is none."""
    if isinstance(payload, Encoded):
        return payload.text
    try:
        return json.dumps(payload, allow_nan=False)
    except ValueError as exc:
        raise ValueError(f"the payload is not JSON: {exc}. Write None for NaN and Infinity") from None


def checked_moment(run_at: Any) -> float:
    """Return a moment in Unix seconds. Raises `TypeError` and `ValueError` for what could never come."""
    if isinstance(run_at, bool) or not isinstance(run_at, int | float):
        raise TypeError(
            f"run_at is a moment in Unix seconds, not {type(run_at).__name__}: write run_at=moment.timestamp()"
        )
    if run_at != run_at or run_at in (math.inf, -math.inf):
        raise ValueError(f"run_at={run_at} never comes: write Unix seconds, such as time.time() + 60")
    if not -6.2e10 < run_at < 1e11:  # the years 5 and 5138
        raise ValueError(f"run_at={run_at} is no moment in Unix seconds; are these milliseconds? Divide by 1000")
    return float(run_at)


def many(db: Database, sql: str, types: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> list[Statement]:
    """Write one statement for many rows: the word VALUES in ``sql`` becomes the table of their values.

    There are few texts, so that an engine can keep their plans: one for any number of rows on PostgreSQL, where each
    statement is a round trip, and those for 64, 16, 4 and 1 rows on SQLite, which has no arrays.
    """
    if db.engine == "postgresql":
        return [(with_arrays(sql, types), [list(column) for column in zip(*rows, strict=True)])] if rows else []
    found: list[Statement] = []
    while rows:
        size = next(size for size in (64, 16, 4, 1) if size <= len(rows))
        found.append((with_values(sql, types, size), [value for row in rows[:size] for value in row]))
        rows = rows[size:]
    return found


@lru_cache
def with_values(sql: str, types: tuple[str, ...], size: int) -> str:
    markers = iter(range(1, size * len(types) + 1))
    table = ", ".join("(" + ", ".join(f"CAST(${next(markers)} AS {kind})" for kind in types) + ")" for _ in range(size))
    return sql.replace("VALUES", f"VALUES {table}")


@lru_cache
def with_arrays(sql: str, types: tuple[str, ...]) -> str:
    arrays = ", ".join(f"CAST(${i} AS {kind}[])" for i, kind in enumerate(types, 1))
    return sql.replace("VALUES", f"SELECT * FROM unnest({arrays})")  # noqa: S608 - fixed text
