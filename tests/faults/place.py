"""A project of the faults' own, its replicas, which are processes, and the senders that deliver webhooks to them.

What the jobs do is to write lines to a file, which a killed process cannot take back: what happened is read from there.
"""

import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from anyio.from_thread import start_blocking_portal
from standardwebhooks import Webhook

from config import HERE
from db import Row, database
from tests.faults.settings import CRON_SECRET, LEASE, WHSEC
from tests.servers import free_port, wait_until

EVENTS, SENDERS, KILLS = 500, 8, 15

JOBS = {
    "jobs/_note.py": """
import json, os, time
log = os.open(os.environ["FAULTS_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def note(what, job):
    os.write(log, (json.dumps([what, job["id"], os.getpid(), time.time()]) + "\\n").encode())
""",
    "jobs/on_ping.py": f"""
import asyncio
from ._note import note
attempts = {KILLS + 1}  # where the kills take longer than leases, one job may be at each of them
async def run(job):
    note("begin", job)
    await asyncio.sleep(0.01)
    note("end", job)
""",
}
SCHEDULED = {
    f"jobs/{name}.py": f"""
import asyncio
from ._note import note
schedule = "* * * * *"
async def run(job):
    note("begin", job)
    await asyncio.sleep({seconds})
    note("end", job)
"""
    for name, seconds in (("short", 0.05), ("long", 1.5))  # with a clock 60 times too fast, a minute takes one second
}


class Note(NamedTuple):
    what: str
    id: str
    pid: int
    at: float


class Engine(NamedTuple):
    name: str
    url: str
    away: Callable[[float], None]  # takes the database away for so many seconds


class Place:
    """A project of the test's own, the log of its jobs, and its replicas."""

    def __init__(self, root: Path, url: str) -> None:
        self.root = root
        self.url = url
        self.log = root / "log"
        self.log.touch()
        self.replicas: list[Replica] = []

    def replica(self, port: int = 0, speed: int = 1, lease: float = LEASE) -> "Replica":
        replica = Replica(self, port or free_port(), speed, lease)
        self.replicas.append(replica)
        return replica

    def notes(self) -> list[Note]:
        return [Note(*json.loads(line)) for line in self.log.read_text().splitlines()]

    def said(self) -> str:
        """What the replicas wrote to stderr."""
        return (self.root / "stderr").read_text()

    def rows(self) -> list[Row]:
        return asyncio.run(read(self.url, "SELECT * FROM house_job"))


async def read(url: str, sql: str) -> list[Row]:
    db = database(url)
    await db.open()
    try:
        return await db.read(sql)
    finally:
        await db.aclose()


class Replica:
    """A process that serves the place's routes and channels, and runs its jobs."""

    def __init__(self, place: Place, port: int, speed: int, lease: float) -> None:
        self.url = f"http://127.0.0.1:{port}"
        arguments = [str(place.root / "routes"), str(port), place.url, str(speed), str(lease)]
        command = [sys.executable, "-m", "tests.faults.replica", *arguments]
        environ = {**os.environ, "FAULTS_LOG": str(place.log)}
        with (place.root / "stderr").open("ab") as stderr:
            self.process = subprocess.Popen(command, cwd=HERE, env=environ, stderr=stderr)
        self.pid = self.process.pid
        wait_until(self.is_up, 30)

    def is_up(self) -> bool:
        assert self.process.poll() is None, "the replica did not start"
        try:
            return httpx.get(f"{self.url}/api/health", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> float:
        """Kill it as a power cut would, and say when."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        return time.time()

    def stop(self) -> None:
        """Stop it as a deploy does."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(40)

    def tick(self) -> None:
        httpx.get(f"{self.url}/api/cron", headers={"X-Cron-Secret": CRON_SECRET}, timeout=30, trust_env=False)


class Senders:
    """Eight senders that deliver every event until it is acknowledged, and one in ten once more."""

    def __init__(self, url: str, events: int = EVENTS) -> None:
        self.url = url
        self.acknowledged: list[str] = []
        self.statuses: Counter[int] = Counter()
        self.again = 0
        self.refused = 0
        self.pool = ThreadPoolExecutor(SENDERS)
        self.work = [self.pool.submit(self.send, range(n, events, SENDERS)) for n in range(SENDERS)]

    def send(self, numbers: range) -> None:
        with httpx.Client(trust_env=False, timeout=10) as client:
            for number in numbers:
                self.deliver(client, f"msg_{number}")
                self.acknowledged.append(f"msg_{number}")
                if number % 10 == 0:
                    self.deliver(client, f"msg_{number}")
                    self.again += 1

    def deliver(self, client: httpx.Client, id: str) -> None:
        body = json.dumps({"type": "ping", "data": {"id": id}})
        for _ in range(1000):
            now = datetime.now(UTC)
            signature = Webhook(WHSEC).sign(id, now, body)
            headers = {"webhook-id": id, "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature}
            try:
                response = client.post(f"{self.url}/api/webhooks/standard", content=body, headers=headers)
            except httpx.TransportError:
                self.refused += 1
            else:
                self.statuses[response.status_code] += 1
                if response.status_code == 200:
                    return
            time.sleep(random.uniform(0.02, 0.1))
        raise AssertionError(f"{id} was never acknowledged")

    def wait(self) -> None:
        for work in self.work:
            work.result(120)
        self.pool.shutdown()


@contextmanager
def ticking(*replicas: Replica, at_once: int = 4) -> Generator[None]:
    """Tick replicas as fast as they answer; one that is killed is left alone."""
    stop = threading.Event()

    def tick(replica: Replica) -> None:
        while not stop.is_set():
            try:
                replica.tick()
            except httpx.TransportError:
                if replica.process.poll() is not None:
                    return

    threads = [threading.Thread(target=tick, args=(r,), daemon=True) for r in replicas for _ in range(at_once)]
    with ExitStack() as stack:
        for thread in threads:
            thread.start()
            stack.callback(thread.join, 40)
        stack.callback(stop.set)
        yield


def finished(place: Place) -> bool:
    return all(row["done_at"] is not None for row in place.rows())


def ran_twice(notes: list[Note], killed: dict[int, float]) -> list[str]:
    """The jobs that came to their end twice, each of which must be a kill's: between an end and the note of it."""
    ends: dict[str, list[Note]] = {}
    for note in notes:
        if note.what == "end":
            ends.setdefault(note.id, []).append(note)
    twice = [id for id, all_of_it in ends.items() if len(all_of_it) > 1]
    for id in twice:
        for note in ends[id][:-1]:
            assert note.pid in killed, f"{id} ran twice, and nobody killed the first process"
            assert killed[note.pid] - note.at < 2, f"{id} ran twice: it had ended long before its process was killed"
    return twice


def unfinished(notes: list[Note]) -> list[Note]:
    """The beginnings without an end by the same process."""
    ended = {(note.id, note.pid) for note in notes if note.what == "end"}
    return [note for note in notes if note.what == "begin" and (note.id, note.pid) not in ended]


def overlaps(notes: list[Note]) -> list[tuple[Note, Note]]:
    """The pairs of one job's runs of which the second began before the first had ended."""
    ordered = sorted(notes, key=lambda note: note.at)
    return [(a, b) for a, b in pairwise(ordered) if a.what == b.what == "begin"]


SLEEPER = """
import asyncio
from ._note import note
attempts = {attempts}
async def run(job):
    note("begin", job)
    for _ in range({seconds}):
        await asyncio.sleep(1)
    note("end", job)
"""
PUT = {
    "routes/put/route.py": """
from starlette.responses import JSONResponse
async def POST(request):
    asked = await request.json()
    put = request.state["worker"].put
    return JSONResponse([await put(asked["name"], id=id) for id in asked["ids"]])
"""
}


def put(replica: Replica, name: str, *ids: str) -> None:
    httpx.post(f"{replica.url}/put", json={"name": name, "ids": ids}, timeout=60, trust_env=False).raise_for_status()


def begun(place: Place) -> list[str]:
    return [note.id for note in place.notes() if note.what == "begin"]


@contextmanager
def sessions(url: str, count: int, *statements: str) -> Generator[None]:
    """Let another program open sessions on a PostgreSQL server, as many as it gets, and run statements in each."""
    driver: Any = import_module("asyncpg")
    with start_blocking_portal() as portal:
        opened: list[Any] = []
        try:
            for _ in range(count):
                try:
                    opened.append(portal.call(driver.connect, url))
                except driver.TooManyConnectionsError:
                    break
                for statement in statements:
                    portal.call(opened[-1].execute, statement)
            yield
        finally:
            for session in opened:
                portal.call(session.close)


def backends(url: str) -> list[int]:
    """The processes of a PostgreSQL server that serve the replicas."""
    sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    return [row["pid"] for row in asyncio.run(read(url, sql))]


@contextmanager
def reading(url: str) -> Generator[None]:
    """Read the jobs in one transaction while the block runs, so that no old version of a row is cleared away."""
    count = "SELECT COUNT(*) FROM house_job"
    if not url.startswith("sqlite:"):
        with sessions(url, 1, "BEGIN ISOLATION LEVEL REPEATABLE READ", count):
            yield
        return
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute(count).fetchall()
        yield
