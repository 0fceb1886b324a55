"""A claimed row while it runs here: a task of its own, or a thread, that can end nothing but itself.

Whatever a job raises, a BaseException too, is caught in its own task and handed on as a value. A thread is a daemon of
our own: a plain function that never returns takes no thread from the routes, and does not keep the process from ending.
"""

import asyncio
import json
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any

from db import Row
from errors import is_async
from logs import current_id
from metrics import job_ended
from router import positional
from worker.ends import Stopped
from worker.files import Job, JobFile

if TYPE_CHECKING:
    from worker.loop import Worker

logger = logging.getLogger("worker")

AGAIN = 5.0  # seconds until a job that goes on after it was stopped is stopped once more

current: "ContextVar[Run | None]" = ContextVar("current", default=None)


class Run:
    """One run of a row: what is known of it in this process. ``on_end`` is called when it is over, on the loop."""

    def __init__(self, worker: "Worker", row: Row, file: JobFile, on_end: "Callable[[Run], None]") -> None:
        self.worker = worker
        self.row = row
        self.file = file
        self.failure: BaseException | None = None
        self.stopped: Stopped | None = None
        self.steps: dict[str, Any] | None = None  # by name, once the first was asked for
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._begun_at = self._loop.time()
        self._timer = self._loop.call_later(file.timeout, self.stop, "overtime")
        self._task = self._loop.create_task(self._run(), name=f"job {row['id']}")
        self._task.add_done_callback(self._ended)

    @property
    def claim(self) -> tuple[str, str]:
        return self.row["id"], self.row["token"]

    @property
    def is_thread(self) -> bool:
        return not is_async(self.file.run)

    def stop(self, why: Stopped) -> None:
        """Stop it; a thread cannot be stopped, so it is over when it returns. The first reason counts."""
        if self._task.done():
            return
        if self.stopped is None or why == "lost":
            self.stopped = why
        self._timer.cancel()
        if not self.is_thread:
            self._task.cancel()
            self._timer = self._loop.call_later(AGAIN, self.stop, why)  # it may have caught that, and gone on
        if why == "overtime" and self.is_thread:
            logger.error(
                "job %s (%s) is over its timeout of %s s and still runs: a thread cannot be stopped. Let run end by "
                "itself, or write async def run",
                self.row["id"],
                self.file.file,
                self.file.timeout,
            )

    async def _run(self) -> None:
        current.set(self)
        current_id.set(self.row["id"])  # stands in every line that is logged meanwhile
        try:
            payload = json.loads(self.row["payload"])
            job = Job(id=self.row["id"], name=self.row["name"], attempts=self.row["attempts"], payload=payload)
            arguments = (job, self.worker.state)[: positional(self.file.run)]
            if self.is_thread:
                _, self.failure = await in_thread(self.file.run, *arguments)
            else:
                await self.file.run(*arguments)
        except BaseException as exc:  # also SystemExit, KeyboardInterrupt, a CancelledError that leaked, GeneratorExit
            self.failure = exc

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._timer.cancel()
        if task.cancelled():  # before it began
            self.failure = asyncio.CancelledError()
        elif (failure := task.exception()) is not None:
            self.failure = failure
        job_ended(self.row["name"], self._loop.time() - self._begun_at, failed=self.failure is not None)
        self._on_end(self)


async def in_thread(function: Callable[..., Any], *arguments: object) -> tuple[Any, BaseException | None]:
    """Run a function in a thread of its own. What it raises is returned: thrown, it could end who waits."""
    loop, context = asyncio.get_running_loop(), copy_context()
    ended: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()

    def work() -> None:
        result, failure = None, None
        try:
            result = context.run(function, *arguments)
        except BaseException as exc:
            failure = exc
        with suppress(RuntimeError):  # the loop is closed: the process ends
            loop.call_soon_threadsafe(tell, result, failure)

    def tell(result: Any, failure: BaseException | None) -> None:
        if not ended.done():
            ended.set_result((result, failure))

    threading.Thread(target=work, name="job", daemon=True).start()
    return await ended
