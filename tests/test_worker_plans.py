"""No claim, page or history of jobs reads the whole table: each query's plan names its index, on both engines."""

from collections.abc import Callable
from typing import Any

import pytest

from db import Database, Row, database
from worker import operator, schedules, steps
from worker.claims import CALLED_OFF, HEADS, LET_GO, WITHOUT_FILE, claim_statement, renewals, with_names
from worker.ends import DROP_STEPS, End, ends
from worker.operator import COUNTS, LAST, LISTS
from worker.table import many

NAMES = ["job", "other", "rare"]

LATER = 2e9  # after all of the rows


def claim(db: Database, heads: int = 0) -> tuple[str, Any]:
    room = dict.fromkeys(NAMES, 50)
    ids = [f"due-{n}" for n in range(heads)]
    return claim_statement(db, "token", room, now=LATER, lease=60, places=50, ticked=False, heads=ids)


def renewal(db: Database) -> tuple[str, Any]:
    return renewals(db, [("due-1", "token")], LATER)[0]


def ended(db: Database) -> tuple[str, Any]:
    return ends(db, [({"id": "due-1", "token": "t"}, End(LATER, LATER, None, 1, 1, "done"))])[0]


STATEMENTS: dict[str, tuple[Callable[[Database], tuple[str, Any]], set[str]]] = {
    "claim": (claim, {"house_job_free", "house_job_laned", "house_job_waiting", "house_job_lane"}),
    "claim of the heads of lanes": (lambda db: claim(db, 5), {"house_job_free", "house_job_waiting"}),
    "heads of lanes": (lambda db: (HEADS, (LATER, "")), {"house_job_laned", "house_job_waiting"}),
    "renewal": (renewal, {"_job_"}),
    "end": (ended, {"_job_"}),
    "steps": (lambda db: (steps.STEPS, ("due-1", 1.0)), {"key"}),
    "steps of what is done": (lambda db: many(db, DROP_STEPS, ("TEXT",), [("due-1",)])[0], {"key"}),
    "called off": (lambda db: (CALLED_OFF, ()), {"house_job_"}),
    "claims that lapsed": (lambda db: (with_names(LET_GO, NAMES), (LATER, *NAMES)), {"house_job_"}),
    "names without a file": (lambda db: (with_names(WITHOUT_FILE, NAMES), (LATER, *NAMES)), {"house_job_due"}),
    "due occurrences": (lambda db: (schedules.DUE, (1.0,)), {"house_job_"}),
    "forget": (lambda db: (schedules.FORGET, (1.0,)), {"house_job_done"}),
    "list of due": (lambda db: (with_names(LISTS["due"], NAMES, 3), (LATER, 100, *NAMES)), {"house_job_due"}),
    "list of running": (lambda db: (LISTS["running"], (LATER, 100)), {"house_job_"}),
    "list of failed": (lambda db: (LISTS["failed"], (LATER, 100)), {"house_job_failed"}),
    "count of failed": (lambda db: (COUNTS["failed"], (LATER,)), {"house_job_failed"}),
    "last run": (lambda db: (LAST, ("rare",)), {"house_job_last"}),
    "replay of all": (lambda db: (operator.REPLAY_ALL.format(name=""), (LATER,)), {"house_job_failed"}),
}


async def fill(db: Database, *, analyzed: bool) -> None:
    """Due rows with and without a lane, a full lane, done and failed ones."""
    sql = (
        "INSERT INTO house_job (id, name, lane, payload, run_at, attempts, token, done_at, error, created_at) "
        "VALUES ($1, $2, $3, 'null', $4, 0, $5, $6, $7, $4)"
    )
    rows: list[tuple[Any, ...]] = []
    for n in range(3_000):
        at = 1e9 + n
        rows += [
            (f"due-{n}", "job", None, at, None, None, None),
            (f"lane-{n}", "other", f"lane-{n}", at, None, None, None),
            (f"full-{n}", "job", "full", at, "token" if n == 0 else None, None, None),
            (f"done-{n}", "job", None, at, None, at, None),
            (f"done-other-{n}", "other", None, at, None, at, None),
        ]
    rows += [(f"rare-{n}", "rare", None, 1e9, None, 1e9 + n, None) for n in range(3)]
    rows += [(f"failed-{n}", "job", None, 1e9, None, 1e9 + n, "ValueError at x.py:1") for n in range(50)]
    for first in range(0, len(rows), 5_000):
        await db.write(*((sql, row) for row in rows[first : first + 5_000]))
    step = "INSERT INTO house_step (job_id, name, result) VALUES ($1, $2, '1')"
    await db.write(*((step, (f"failed-{n}", f"{m}")) for n in range(50) for m in range(40)))
    if analyzed:
        await db.write(("ANALYZE", ()))


def text_of(rows: list[Row]) -> str:
    return "\n".join(str(row.get("detail") or row.get("QUERY PLAN")) for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("analyzed", [True, False], ids=["analyzed", "as it is"])
async def test_each_query_names_its_index(database_url: str, analyzed: bool):
    db = database(database_url)
    await db.open()
    try:
        await fill(db, analyzed=analyzed or db.engine == "postgresql")  # which analyzes by itself
        explain = "EXPLAIN QUERY PLAN" if db.engine == "sqlite" else "EXPLAIN"
        wrong: list[str] = []
        for name, (statement, indexes) in STATEMENTS.items():
            sql, values = statement(db)
            plan = text_of((await db.write((f"{explain} {sql}", values)))[0])
            known = {"key": ("sqlite_autoindex", "pkey")}
            missing = {i for i in indexes if not any(word in plan for word in known.get(i, (i,)))}
            scans = [line for line in plan.splitlines() if is_scan(line)]
            if missing or scans:
                wrong.append(f"{name}: without {missing or 'nothing'}, with {scans}\n{plan}")
        assert not wrong, "\n\n".join(wrong)
    finally:
        await db.aclose()


def is_scan(line: str) -> bool:
    """Whether a line of a plan reads all of the table."""
    line = line.strip()
    reads_table = line.startswith("SCAN") and "USING" not in line
    return (reads_table and any(f"SCAN {name}" == line for name in ("house_job", "j", "k"))) or (
        "Seq Scan on house_job" in line
    )


@pytest.mark.parametrize("line", ["SCAN house_job", "->  Seq Scan on house_job j  (cost=0.00..1.00)"])
def test_what_reads_the_whole_table_is_noticed(line: str):
    assert is_scan(line)
