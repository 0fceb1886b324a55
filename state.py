"""What lives as long as the app: handlers find it in `request.state`, typed as `Request[State]`."""

import gc
import inspect
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypedDict, cast

import anyio
import httpx

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
    streams: anyio.CapacityLimiter
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
        db = database(config.database_url)
        await db.open(config.routes_dir.parent / "migrations")
        stack.push_async_callback(db.aclose)
        llm = llm or LLM(config)
        stack.push_async_callback(llm.aclose)
        await stack.enter_async_context(draining(config.shutdown_grace))
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=HTTP_TIMEOUT))
        channels = channels or {}
        worker = Worker(db, {**(jobs or {}), **{channel.job.name: channel.job for channel in channels.values()}})
        state = State(
            config=config,
            db=db,
            llm=llm,
            store=Store(db),
            worker=worker,
            channels=channels,
            http=http,
            streams=anyio.CapacityLimiter(config.chat_max_streams),
            visitors=Visitors(config, http),
        )
        worker.state = state
        if register is not None:  # before a job runs, and closed after the last one
            await stack.enter_async_context(registered(register, state))
        works = await stack.enter_async_context(anyio.create_task_group())
        works.start_soon(worker.serve)
        stack.callback(worker.stop)
        # inside of works: a job that is cancelled from outside of its own scope is not handed back
        tasks = await stack.enter_async_context(anyio.create_task_group())
        tasks.start_soon(warm_up, llm)  # half a second, for which the port need not wait
        tasks.start_soon(state["visitors"].serve)
        if config.cron_interval:
            tasks.start_soon(tick_every, worker, config.cron_interval)
        stack.callback(tasks.cancel_scope.cancel)
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
    await llm.warm()
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
