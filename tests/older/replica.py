"""A worker in a process of its own, on the code of the folder that it is started in: this one's, or an older one's.

    cd FOLDER && python REPLICA.py DATABASE_URL LOG PREFIX COUNT serve|put

It puts COUNT jobs, the half of them in five lanes, notes each run's beginning and end in LOG, and serves until
somebody closes its stdin. A run ends once there is a file LOG.go.
"""

import asyncio
import json
import os
import sys
from typing import Any

sys.path.insert(0, os.getcwd())

from db import database
from worker import JobFile, Worker


async def main(url: str, log: str, prefix: str, count: int, serves: bool) -> None:
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(what: str, job: Any) -> None:
        os.write(file, (json.dumps([what, job["id"], job["payload"], os.getpid()]) + "\n").encode())

    async def run(job: Any) -> None:
        note("begin", job)
        while not os.path.exists(f"{log}.go"):  # noqa: ASYNC110, ASYNC240 - another process makes it
            await asyncio.sleep(0.02)
        note("end", job)

    db = database(url)
    await db.open()
    worker = Worker(db, {"job": JobFile(name="job", file="jobs/job.py", run=run)}, poll=0.1)
    for n in range(count):
        lane = f"lane-{n % 10}" if n % 10 < 5 else None
        await worker.put("job", lane, id=f"{prefix}-{n:03}", lane=lane)
    if serves:
        serving = asyncio.create_task(worker.serve())
        print("serves", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        worker.stop()
        await serving
    await db.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5] == "serve"))
