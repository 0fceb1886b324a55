"""What lives as long as the app: handlers find it in `request.state`, typed as `Request[State]`."""

import gc
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypedDict

import anyio
import httpx

from config import Config
from db import Database, database
from llm import LLM
from sse import draining
from store import Store
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


@asynccontextmanager
async def open_state(
    config: Config,
    jobs: Mapping[str, JobFile] | None = None,
    channels: Mapping[str, Channel] | None = None,
    llm: LLM | None = None,
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
        )
        worker.state = state
        works = await stack.enter_async_context(anyio.create_task_group())
        works.start_soon(worker.serve)
        stack.callback(worker.stop)
        # inside of works: a job that is cancelled from outside of its own scope is not handed back
        tasks = await stack.enter_async_context(anyio.create_task_group())
        tasks.start_soon(warm_up, llm)  # half a second, for which the port need not wait
        if config.cron_interval:
            tasks.start_soon(tick_every, worker, config.cron_interval)
        stack.callback(tasks.cancel_scope.cancel)
        yield state


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
