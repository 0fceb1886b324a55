"""What must not be lost, nor done twice, when processes are killed and databases go away: `make faults`.

Each case runs on both engines, with replicas that are processes of their own. The run ends with a table of all cases;
those of a PostgreSQL server alone are in postgresql_cases.py.
"""

import random
import signal
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from tests.faults.conftest import Told
from tests.faults.place import (
    EVENTS,
    KILLS,
    PUT,
    SCHEDULED,
    SLEEPER,
    Engine,
    Place,
    Senders,
    begun,
    finished,
    overlaps,
    put,
    ran_twice,
    reading,
    ticking,
    unfinished,
)
from tests.faults.settings import LEASE
from tests.servers import wait_until, write_tree
from tests.test_worker_older import COUNT, older, share_the_work

__all__ = ["older"]  # a fixture


def test_nothing_acknowledged_is_lost_when_the_server_is_killed_over_and_over(place: Place, told: Told):
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
    wait_until(lambda: finished(place), 150)  # what a killed process was at is taken over when its lease ends
    notes, rows = place.notes(), place.rows()
    ended = {note.id for note in notes if note.what == "end"}
    assert {f"standard:{id}:on_ping" for id in senders.acknowledged} == ended
    assert len(senders.acknowledged) == EVENTS
    assert [row["id"] for row in rows if row["error"]] == []
    twice = ran_twice(notes, killed)
    told(
        f"kill -9 of the server, {KILLS} times, under {senders.again + EVENTS} deliveries",
        jobs=len(ended),
        lost=EVENTS - len(ended),
        twice=len(twice),
        more="twice: killed between end and commit",
    )


def test_two_replicas_ticked_as_fast_as_possible_start_every_occurrence_once(place: Place, told: Told):
    write_tree(place.root, SCHEDULED)
    one, two = place.replica(speed=60), place.replica(speed=60)
    with ticking(one, two):
        time.sleep(15)
    wait_until(lambda: not unfinished(place.notes()), 30)
    notes = place.notes()
    counts = Counter(note.id for note in notes if note.what == "begin")
    assert max(counts.values()) == 1
    assert len([id for id in counts if id.startswith("cron:short:")]) >= 10
    assert not overlaps([note for note in notes if note.id.startswith("cron:long:")])
    assert {note.pid for note in notes} == {one.pid, two.pid}
    told("two replicas, ticked without a pause", jobs=len(counts), more="occurrences, no overlap")


def test_what_a_killed_replica_was_at_is_finished_by_the_other_one(place: Place, told: Told):
    write_tree(place.root, SCHEDULED)
    one, two = place.replica(speed=60), place.replica(speed=60)
    with ticking(one, two):
        wait_until(lambda: any(note.pid == one.pid and ":long:" in note.id for note in unfinished(place.notes())), 30)
        killed = {one.pid: one.kill()}
        [cut] = [note for note in unfinished(place.notes()) if note.pid == one.pid and ":long:" in note.id]
        wait_until(lambda: ("end", cut.id) in [(note.what, note.id) for note in place.notes()], 3 * LEASE)
    wait_until(lambda: {note.pid for note in unfinished(place.notes())} <= {one.pid}, 30)
    notes = place.notes()
    counts = Counter(note.id for note in notes if note.what == "begin")
    assert [note.pid for note in notes if note.id == cut.id] == [one.pid, two.pid, two.pid]
    allowed = {note.id for note in unfinished(notes)} | {cut.id, *ran_twice(notes, killed)}
    assert {id for id, count in counts.items() if count > 1} <= allowed
    assert not overlaps([note for note in notes if note.id.startswith("cron:long:") and note.id != cut.id])
    told("kill -9 of one of two replicas", jobs=len(counts), more="what it was at was finished by the other")


def test_a_database_that_is_away_for_a_while_costs_nothing_that_was_acknowledged(
    place: Place, engine: Engine, told: Told
):
    replica = place.replica(lease=60)
    senders = Senders(replica.url, 3 * EVENTS)
    wait_until(lambda: len(senders.acknowledged) >= 100, 60)
    engine.away(5)
    senders.wait()
    wait_until(lambda: finished(place), 150)
    ended = Counter(note.id for note in place.notes() if note.what == "end")
    assert set(ended) == {f"standard:{id}:on_ping" for id in senders.acknowledged}
    assert len(senders.acknowledged) == 3 * EVENTS
    assert senders.statuses[500] > 0
    assert set(senders.statuses) == {200, 500}
    assert replica.process.poll() is None
    told(
        "database away for 5 s (PostgreSQL: a restart)",
        jobs=len(ended),
        lost=3 * EVENTS - len(ended),
        twice=sum(count > 1 for count in ended.values()),
        more=f"answers {dict(senders.statuses)}",
    )


def test_a_replica_that_was_stopped_for_longer_than_a_lease_runs_nothing_twice(place: Place, told: Told):
    write_tree(place.root, {**PUT, "jobs/sleeper.py": SLEEPER.format(attempts=3, seconds=8)})
    replica = place.replica()
    put(replica, "sleeper", "a")
    wait_until(lambda: begun(place), 20)
    time.sleep(2)
    replica.process.send_signal(signal.SIGSTOP)
    time.sleep(LEASE + 4)
    replica.process.send_signal(signal.SIGCONT)
    wait_until(lambda: finished(place), 30)
    assert [(note.what, note.id) for note in place.notes()] == [("begin", "a"), ("end", "a")]
    told(f"SIGSTOP of the server for {LEASE + 4:.0f} s, a lease is {LEASE:.0f} s", jobs=1)


def test_a_replica_that_was_stopped_while_another_took_over_ends_nothing(place: Place, told: Told):
    write_tree(place.root, {**PUT, "jobs/sleeper.py": SLEEPER.format(attempts=3, seconds=8)})
    one, two = place.replica(), place.replica()
    put(one, "sleeper", "a")
    wait_until(lambda: begun(place), 20)
    if place.notes()[0].pid == two.pid:
        one, two = two, one
    one.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: len(begun(place)) == 2, 60)
    one.process.send_signal(signal.SIGCONT)
    wait_until(lambda: "job a was stopped here: another process runs it" in place.said(), 30)
    wait_until(lambda: finished(place), 60)
    seen = [(note.what, note.pid) for note in place.notes()]
    assert seen == [("begin", one.pid), ("begin", two.pid), ("end", two.pid)]
    [row] = place.rows()
    assert (row["error"], row["begun"]) == (None, 2)
    told(
        "SIGSTOP of one of two replicas for longer than a lease", jobs=1, more="the other ended it, it stopped its run"
    )


def test_what_is_at_most_once_is_begun_once_over_three_deploys(place: Place, told: Told):
    write_tree(place.root, {**PUT, "jobs/charge.py": SLEEPER.format(attempts=1, seconds=40)})
    replica = place.replica()
    put(replica, "charge", "a")
    wait_until(lambda: begun(place), 20)
    for _ in range(3):
        replica.stop()
        replica = place.replica()
        time.sleep(1)
    [row] = place.rows()
    assert (begun(place), row["error"]) == (["a"], AT_MOST_ONCE)
    told("SIGTERM in three deploys, attempts = 1", jobs=1, more="begun once, and failed")


AT_MOST_ONCE = "stopped with its server, and attempts = 1 is at most once"


def test_a_rolling_deploy_begins_each_job_of_one_attempt_once(place: Place, told: Told):
    quick, slow = SLEEPER.format(attempts=1, seconds=1), SLEEPER.format(attempts=1, seconds=60)
    write_tree(place.root, {**PUT, "jobs/quick.py": quick, "jobs/slow.py": slow})
    old = [place.replica(), place.replica()]
    for n, replica in enumerate(old):
        put(replica, "slow", *(f"slow-{n}-{m}" for m in range(10)))
    wait_until(lambda: len(begun(place)) == 20, 20)
    for n, replica in enumerate(old):
        put(replica, "quick", *(f"old-{n}-{m}" for m in range(20)))
        new = place.replica()
        put(new, "quick", *(f"new-{n}-{m}" for m in range(20)))
        replica.stop()
    wait_until(lambda: finished(place), 60)
    rows, counts = place.rows(), Counter(begun(place))
    assert set(counts.values()) == {1}
    ended = {note.id for note in place.notes() if note.what == "end"}
    assert {row["id"] for row in rows if row["error"] is None} == ended
    assert {row["error"] for row in rows if row["id"] not in ended} == {AT_MOST_ONCE}
    assert {row["id"] for row in rows if row["id"].startswith("slow-")}.isdisjoint(ended)
    told(
        "SIGTERM of two replicas in a rolling deploy, attempts = 1",
        jobs=len(counts),
        lost=100 - len(counts),
        more=f"{len(ended)} done, {len(rows) - len(ended)} failed with their server",
    )


def test_two_thousand_due_rows_and_ticks_stay_within_the_limit(place: Place, told: Told):
    text = SLEEPER.format(attempts=3, seconds=1).replace("sleep(1)", "sleep(0.2)")
    write_tree(place.root, {**PUT, "jobs/sleeper.py": text})
    replica = place.replica(lease=60)
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
    told("2,000 due rows, and ticks without a pause", jobs=2_000, more=f"{most} at once at most")


def test_old_and_new_code_share_one_database(engine: Engine, older: Path, tmp_path: Path, told: Told):
    share_the_work(engine.url, older, tmp_path / "log")
    told("old and new code on one database", jobs=3 * COUNT, more="lanes hold across them")


def test_readers_that_pin_old_rows_stop_no_job(place: Place, engine: Engine, told: Told):
    write_tree(place.root, {**PUT, "jobs/sleeper.py": SLEEPER.format(attempts=3, seconds=0)})
    replica = place.replica(lease=60)
    put(replica, "sleeper", "first")
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(reading(engine.url))
        for first in range(0, 3_000, 500):
            put(replica, "sleeper", *(f"{n}" for n in range(first, first + 500)))
        wait_until(lambda: finished(place), 120)
    counts = Counter(begun(place))
    assert set(counts.values()) == {1}
    told("three readers that pin old row versions", jobs=len(counts), lost=3_001 - len(counts))
