"""A real PgBouncer in its transaction mode in front of PostgreSQL, and `?pgbouncer=true`."""

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from db import database
from tests.servers import free_port, wait_until, working
from worker import Job, JobFile, step

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed: apt-get install pgbouncer"),
]

SETTINGS = """
[databases]
* = host={host} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
"""


@pytest.fixture
def pooled(postgres: str) -> Iterator[str]:
    """The URL of a database behind PgBouncer, which has two connections to the server."""
    host, port = postgres.partition("host=")[2], free_port()
    owner = Path(host).stat().st_uid  # who alone may use the server's socket; PgBouncer does not run as root
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pgbouncer.ini")
        file.write_text(SETTINGS.format(host=host, port=port))
        command = [PGBOUNCER or "", "--quiet", str(file)]
        if os.getuid() == 0:
            os.chown(folder, owner, -1)
            os.chown(file, owner, -1)
            command += ["--user", pwd.getpwuid(owner).pw_name]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            url = f"postgresql://postgres:@127.0.0.1:{port}/postgres"
            wait_until(lambda: asyncio.run(answers(f"{url}?pgbouncer=true")), 20)
            yield url
        finally:
            process.terminate()
            process.wait(20)


async def answers(url: str) -> bool:
    db = database(url)
    try:
        await db.open()
        await db.write(("DELETE FROM house_job", ()))
    except Exception:
        return False
    finally:
        await db.aclose()
    return True


async def test_jobs_are_put_and_run_once_behind_a_pooler_of_transactions(pooled: str):
    ran: list[str] = []

    async def run(job: Job) -> None:
        ran.append(await step(job, "part", lambda: job["id"]))

    jobs = {"job": JobFile(name="job", file="jobs/job.py", run=run)}
    url = f"{pooled}?pgbouncer=true"
    async with working(url, jobs, poll=0.2) as one, working(url, jobs, poll=0.2):
        lanes = [None, "a", "b"]
        await asyncio.gather(*(one.put("job", id=f"job-{n}", lane=lanes[n % 3]) for n in range(150)))
        await asyncio.to_thread(wait_until, lambda: len(ran) >= 150)
    assert await number_done(url) == 150
    assert Counter(ran) == Counter(f"job-{n}" for n in range(150))


async def number_done(url: str) -> int:
    db = database(url)
    await db.open()
    [row] = await db.read("SELECT COUNT(*) AS n FROM house_job WHERE done_at IS NOT NULL AND error IS NULL")
    await db.aclose()
    return row["n"]


async def test_what_another_process_puts_is_found_by_the_poll(pooled: str):
    ran: list[str] = []

    async def run(job: Job) -> None:
        ran.append(job["id"])

    jobs = {"job": JobFile(name="job", file="jobs/job.py", run=run)}
    url = f"{pooled}?pgbouncer=true"
    db = database(url)
    await db.open()
    async with working(url, jobs, poll=0.2) as worker:
        await db.write(worker.put_statement("job", id="a"))
        await db.notify("jobs")  # which nobody hears there
        await asyncio.to_thread(wait_until, lambda: ran == ["a"])
    await db.aclose()
