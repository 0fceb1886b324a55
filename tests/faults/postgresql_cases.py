"""What a PostgreSQL server may do to a queue: the faults of cases.py that need a server, under eight senders.

With the restart, the repeated kills of a server and the active readers of cases.py these are the seven faults of
hardbyte's public benchmark of PostgreSQL job queues.
"""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.faults.conftest import Told
from tests.faults.place import EVENTS, Engine, Place, Senders, backends, finished, sessions
from tests.servers import wait_until

pytestmark = pytest.mark.parametrize("engine", ["postgresql"], indirect=True)


def faced(place: Place, fault: Callable[[], None], told: Told, name: str) -> None:
    """Let a fault happen under senders: nothing that was acknowledged is lost, and no job has failed."""
    replica = place.replica()
    senders = Senders(replica.url)
    wait_until(lambda: len(senders.acknowledged) >= 50, 60)
    fault()
    senders.wait()
    wait_until(lambda: finished(place), 150)
    ended = Counter(note.id for note in place.notes() if note.what == "end")
    assert set(ended) == {f"standard:{id}:on_ping" for id in senders.acknowledged}
    assert set(senders.statuses) <= {200, 500}
    assert [row["error"] for row in place.rows() if row["error"]] == []
    assert replica.process.poll() is None
    told(
        name,
        jobs=len(ended),
        lost=EVENTS - len(ended),
        twice=sum(count > 1 for count in ended.values()),
        more=f"answers {dict(senders.statuses)}",
    )


def test_killed_backends_lose_nothing(place: Place, engine: Engine, told: Told):
    def kill() -> None:
        with sessions(engine.url, 1, TERMINATE):
            pass

    faced(place, kill, told, "all backends terminated once")


TERMINATE = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
  WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"""


def test_backends_that_are_killed_over_and_over_lose_nothing(place: Place, engine: Engine, told: Told):
    def kill() -> None:
        with sessions(engine.url, 1, *[TERMINATE, "SELECT pg_sleep(0.3)"] * 10):
            pass

    faced(place, kill, told, "all backends terminated 10 times")


def test_a_server_that_crashes_and_recovers_loses_nothing(place: Place, engine: Engine, told: Told):
    def crash() -> None:
        os.kill(backends(engine.url)[0], signal.SIGKILL)  # the server ends all others, and recovers from its log

    faced(place, crash, told, "kill -9 of a backend: crash recovery")


def test_a_server_without_a_free_connection_loses_nothing(place: Place, engine: Engine, told: Told):
    def exhaust() -> None:
        with sessions(engine.url, 1_000):
            time.sleep(5)

    faced(place, exhaust, told, "no connection is free for 5 s")


def test_a_session_that_is_idle_in_a_transaction_on_the_jobs_loses_nothing(place: Place, engine: Engine, told: Told):
    def idle() -> None:
        held = "SELECT id FROM house_job WHERE done_at IS NULL FOR UPDATE"
        with sessions(engine.url, 1, "BEGIN", "SELECT COUNT(*) FROM house_job", held):
            time.sleep(5)

    faced(place, idle, told, "idle in a transaction that locks the open rows, 5 s")
