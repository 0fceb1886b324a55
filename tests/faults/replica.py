"""One replica of the app in a process of its own, for the faults: it ends when the test that started it does.

    python -m tests.faults.replica ROUTES PORT DATABASE_URL SPEED LEASE

With a SPEED of 60 its worker's clock runs 60 times too fast, so that a minute takes it a second. A claim lasts LEASE
seconds of a right clock.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn

from app import create_app
from config import Config
from tests.faults.settings import SECRETS

START = 1_790_000_000.0  # where fast clocks begin: the same in every replica


def main(routes: str, port: str, database_url: str, speed: str, lease: str) -> None:
    threading.Thread(target=end_with_the_test, args=(os.getppid(),), daemon=True).start()
    logging.basicConfig(level="WARNING", format="%(asctime)s %(name)s: %(message)s")
    app = create_app(Config(routes_dir=Path(routes), database_url=database_url, shutdown_grace=0, **SECRETS))
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncGenerator[Any]:
        async with inner(app) as state:
            worker: Any = dict(state or {})["worker"]
            worker.lease = float(lease) * float(speed)
            if speed != "1":
                worker.clock = lambda: START + (time.time() - START) * float(speed)
            yield state

    app.router.lifespan_context = lifespan
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")


def end_with_the_test(parent: int) -> None:
    until = time.monotonic() + 300
    while os.getppid() == parent and time.monotonic() < until:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
