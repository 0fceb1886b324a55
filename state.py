"""What lives as long as the app: handlers find it in `request.state`, typed as `Request[State]`."""

import gc
import inspect
import logging
import os
import signal
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, cast

import anyio
import httpx

from answers import Answers
from config import Config
from db import Database, database
from llm import LLM
from loader import RouteError, load_beside
from sse import draining
from store import Store
from visitors import Visitors
from webhooks import Channel
from worker import JobFile, Worker

logger = logging.getLogger("worker")

STOPPING = 30.0  # seconds that a process has to end once something vital has failed
HTTP_TIMEOUT = 10.0  # seconds, for each of connecting, sending and waiting


class State(TypedDict):
    """``request.state["config"]`` and so on; an editor completes the keys."""

    config: Config
    db: Database
    llm: LLM
    store: Store
    worker: Worker
    channels: Mapping[str, Channel]
    http: httpx.AsyncClient
    answers: Answers
    visitors: Visitors


Register = Callable[[State], object]  # an async context manager, if it is right: it yields a mapping, or None


@asynccontextmanager
async def open_state(
    config: Config,
    jobs: Mapping[str, JobFile] | None = None,
    channels: Mapping[str, Channel] | None = None,
    llm: LLM | None = None,
    register: Register | None = None,
) -> AsyncGenerator[State]:
    """Open what the app needs, and close it again in the reverse order. Raises `ConfigError`."""
    async with AsyncExitStack() as stack:
        vital = Vital()
        stack.callback(vital.end)
        db = database(config.database_url, config.database_pool)
        await db.open(config.routes_dir.parent / "migrations")
        stack.push_async_callback(db.aclose)
        llm = llm or LLM(config)
        stack.push_async_callback(llm.aclose)
        store = Store(db, limits=config.chat_quota or ())
        answers = Answers(store, leave=config.chat_leave_seconds, most=config.chat_max_streams)
        await stack.enter_async_context(draining(config.shutdown_grace, answers.stop_all))
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=HTTP_TIMEOUT, follow_redirects=True))
        channels = channels or {}
        worker = Worker(
            db,
            {**(jobs or {}), **{channel.job.name: channel.job for channel in channels.values()}},
            at_once=config.jobs_at_once,
            grace=config.jobs_grace,
        )
        state = State(
            config=config,
            db=db,
            llm=llm,
            store=store,
            worker=worker,
            channels=channels,
            http=http,
            answers=answers,
            visitors=Visitors(config, http),
        )
        worker.state = state
        if register is not None:  # before a job or an answer runs, and closed after the last one; outside of every task
            await stack.enter_async_context(registered(register, state))  # group, which would wrap what it raises
        await stack.enter_async_context(answers.serving(vital.run))
        works = await stack.enter_async_context(anyio.create_task_group())
        works.start_soon(vital.run, "the worker", worker.serve)
        stack.callback(worker.stop)
        # inside of works: the worker is stopped by `stop`, which hands back what runs, and not by a cancellation
        tasks = await stack.enter_async_context(anyio.create_task_group())
        tasks.start_soon(warm_up, llm)  # half a second, for which the port need not wait
        if config.auth_jwks_url:
            tasks.start_soon(vital.run, "the keys of visitors", state["visitors"].serve)
        if config.cron_interval:
            tasks.start_soon(vital.run, "the ticks", partial(tick_every, worker, config.cron_interval))
        stack.callback(tasks.cancel_scope.cancel)
        stack.callback(vital.stop)
        yield state


def load_register(folder: Path) -> Register | None:
    """Return `register` of the instrumentation.py in a folder, or None. Raises what `load_beside` raises."""
    return load_beside(folder / "instrumentation.py", read_register)


def read_register(found: Mapping[str, Any]) -> Register:
    register = found.get("register")
    fix = "Write: @asynccontextmanager async def register(state): ... yield {'pool': pool}."
    if not callable(register):
        raise ValueError(f"has no function 'register'. {fix}")
    try:
        inspect.signature(register).bind(None)
    except TypeError:
        raise ValueError(f"register{inspect.signature(register)} is called with the state alone. {fix}") from None
    if inspect.isasyncgenfunction(register):  # written without the decorator
        return asynccontextmanager(register)
    if inspect.iscoroutinefunction(register):  # as in Next.js: nothing to close

        @asynccontextmanager
        async def once(state: State) -> AsyncGenerator[object]:
            yield await register(state)

        return once
    return register


@asynccontextmanager
async def registered(register: Register, state: State) -> AsyncGenerator[None]:
    """Run a team's `register` around the app. What it yields, or puts into the state, is found in `request.state`."""
    ours = dict(state)
    opened: object = register(state)
    if not isinstance(opened, AbstractAsyncContextManager):
        raise RouteError(
            f"instrumentation.py: register returned {type(opened).__name__}, not an async context manager. Put "
            "@asynccontextmanager above it, and make it an async def that yields once."
        )
    async with AsyncExitStack() as stack:
        try:
            found = await stack.enter_async_context(cast("AbstractAsyncContextManager[object]", opened))
        except Exception as exc:
            exc.add_note("while running register of instrumentation.py")
            raise
        if found is not None and not isinstance(found, Mapping):
            raise RouteError(
                f"instrumentation.py: register yields {type(found).__name__}. Yield a dict, such as {{'pool': pool}}, "
                "whose names are then in request.state; or nothing."
            )
        given = {**state, **cast("Mapping[str, Any]", found or {})}
        if taken := [name for name, value in ours.items() if given.get(name) is not value]:
            raise RouteError(f"instrumentation.py: state[{taken[0]!r}] is the app's own. Choose another name.")
        state.update(given)  # pyright: ignore[reportArgumentType, reportCallIssue] - with the team's own names
        yield


async def warm_up(llm: LLM) -> None:
    """Import what a chat needs, and leave it out of garbage collection from then on.

    A full collection walks the 100,000 objects of the imports each time: 50 ms in which no stream gets a word.
    """
    try:
        await llm.warm()
    except Exception:  # a chat says what is wrong with the model; all else can be served
        logger.exception("cannot prepare the model's client")
    if not gc.get_freeze_count():  # once in a process
        gc.collect()
        gc.freeze()


async def tick_every(worker: Worker, interval: float) -> None:
    """Do by itself what calls of /api/cron do: for development, and for a single server without a crontab."""
    while True:
        try:
            await worker.tick()
        except Exception:
            logger.exception("a tick failed, the next comes in %s s", interval)
        await anyio.sleep(interval)


class Vital:
    """What the app cannot be without: where it ends unasked, the process ends, so that its supervisor starts it again.

    A server without its worker would take webhooks and never run them, with every light green.
    """

    def __init__(self) -> None:
        self.is_stopping = self.has_failed = False

    def stop(self) -> None:
        """From now on, ends are asked for."""
        self.is_stopping = True

    async def run(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        failure: BaseException | None = None
        try:
            await work()
        except BaseException as exc:
            failure = exc
            if self.is_stopping:
                raise
        if self.is_stopping:
            return
        logger.critical("%s ended unasked: the process stops, with status 1", name, exc_info=failure)
        self.has_failed = True
        threading.Thread(target=exit_after, args=(STOPPING,), daemon=True).start()
        signal.raise_signal(signal.SIGTERM)  # the server finishes what it answers

    def end(self) -> None:
        """End the process where something vital has failed; everything of the app is closed by now."""
        if self.has_failed:
            logging.shutdown()
            os._exit(1)


def exit_after(seconds: float) -> None:
    time.sleep(seconds)
    os._exit(1)
