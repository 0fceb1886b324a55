"""A claimed row while it runs here: a task of its own, or a thread, that can end nothing but itself.

Whatever a job raises, a BaseException too, is caught in its own task and handed on as a value; so are SystemExit and
KeyboardInterrupt of the tasks that it begins, which asyncio else lets end the loop. A thread is a daemon of our own: a
plain function that never returns takes no thread from the routes, and does not keep the process from ending.
"""

import asyncio
import inspect
import json
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import ContextVar, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

from db import Row
from errors import is_async
from logs import current_id
from metrics import job_ended
from router import positional
from worker.ends import OwnWords, Stopped
from worker.files import Job, JobFile

if TYPE_CHECKING:
    from worker.loop import Worker

logger = logging.getLogger("worker")

current: "ContextVar[Run | None]" = ContextVar("current", default=None)


class Run:
    """One run of a row: what is known of it in this process. ``on_end`` is called when it is over, on the loop."""

    def __init__(self, worker: "Worker", row: Row, file: JobFile, on_end: "Callable[[Run], None]") -> None:
        self.worker = worker
        self.row = row
        self.file = file
        self.is_thread = not is_async(file.run)
        self.failure: BaseException | None = None
        self.stopped: Stopped | None = None
        self._is_told = False  # that it goes on after it was stopped
        self.steps: dict[str, Any] | None = None  # by name, once the first was asked for
        self.locks: dict[str, asyncio.Lock] = {}  # by name: a step that is asked for twice at once is done once
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._begun_at = self._loop.time()
        self._timer = self._loop.call_later(file.timeout, self.stop, "overtime")
        self._task = self._loop.create_task(self._run(), name=f"job {row['id']}")
        self._task.add_done_callback(self._ended)

    @property
    def claim(self) -> tuple[str, str]:
        return self.row["id"], self.row["token"]

    def stop(self, why: Stopped) -> None:
        """Stop it; a thread cannot be stopped, so it is over when it returns. The first reason counts."""
        if self._task.done():
            return
        if self.stopped is None or why == "lost":
            self.stopped = why
        self._timer.cancel()
        if not self.is_thread:
            self._task.cancel()
            self._timer = self._loop.call_later(self.worker.poll, self._stop_again, why)
        if why == "overtime" and self.is_thread:
            logger.error(
                "job %s (%s) is over its timeout of %s s and still runs: a thread cannot be stopped. Let run end by "
                "itself, or write async def run",
                self.row["id"],
                self.file.file,
                self.file.timeout,
            )

    def _stop_again(self, why: Stopped) -> None:
        """It caught its cancellation, and went on."""
        if not self._is_told:
            self._is_told = True
            logger.error(
                "job %s (%s) was stopped (%s) and still runs: it catches CancelledError. Let run raise it again",
                self.row["id"],
                self.file.file,
                self.stopped,
            )
        self.stop(why)

    async def _run(self) -> None:
        current.set(self)
        current_id.set(self.row["id"])  # stands in every line that is logged meanwhile
        try:
            payload = json.loads(self.row["payload"])
            job = Job(id=self.row["id"], name=self.row["name"], attempts=self.row["attempts"], payload=payload)
            arguments = (job, self.worker.state)[: positional(self.file.run, "state")]
            if self.is_thread:
                result, self.failure = await in_thread(self.file.run, *arguments)
                if inspect.isawaitable(result):  # of an async def that it called, as decorators do
                    await self._rest(result)
            else:
                await self.file.run(*arguments)
        except BaseException as exc:  # also SystemExit, KeyboardInterrupt, a CancelledError that leaked, GeneratorExit
            self.failure = exc

    async def _rest(self, result: Awaitable[Any]) -> None:
        """Do what a plain function returned, to be awaited; from here on it can be stopped."""
        self.is_thread = False
        if self.stopped is not None:
            self.stop(self.stopped)
        await result

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


class Exited(OwnWords):
    """A task of a job called sys.exit(), or raised KeyboardInterrupt; who awaits the task gets this instead."""


class Held(Coroutine[Any, Any, Any]):
    """A coroutine that raises `Exited` where the one in it would end the loop, and is that one in all else."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine

    def __getattr__(self, name: str) -> Any:  # cr_running, cr_frame ...: anyio and debuggers look at them
        return getattr(self._coroutine, name)

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        try:
            return self._coroutine.send(value)
        except (SystemExit, KeyboardInterrupt) as exc:
            raise Exited(f"a task of it raised {exc!r}") from exc

    def throw(self, *error: Any) -> Any:
        try:
            return self._coroutine.throw(*error)
        except (SystemExit, KeyboardInterrupt) as exc:
            raise Exited(f"a task of it raised {exc!r}") from exc

    def close(self) -> None:
        self._coroutine.close()


def hold_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """See to it that no task that a job begins ends the loop; other tasks are made as before."""
    make: Any = loop.get_task_factory() or make_task
    if make is not make_held:
        loop.set_task_factory(make_held if make is make_task else partial(make_held, make=make))


def make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> "asyncio.Future[Any]":
    return asyncio.Task(coroutine, loop=loop, **options)


def make_held(
    loop: asyncio.AbstractEventLoop, coroutine: Any, *, make: Any = make_task, **options: Any
) -> "asyncio.Future[Any]":
    return make(loop, coroutine if current.get() is None else Held(coroutine), **options)
