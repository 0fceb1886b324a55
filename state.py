"""What lives as long as the app: handlers find it in `request.state`, typed as `Request[State]`."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypedDict

import anyio

from config import Config
from db import Database
from llm import LLM
from sse import draining
from store import Store


class State(TypedDict):
    """``request.state["config"]`` and so on; an editor completes the keys."""

    config: Config
    llm: LLM
    store: Store
    streams: anyio.CapacityLimiter


@asynccontextmanager
async def open_state(config: Config, llm: LLM | None = None) -> AsyncGenerator[State]:
    """Open what the app needs, and close it again in the reverse order. Raises `ConfigError`."""
    async with AsyncExitStack() as stack:
        db = Database(config.database_url)
        await db.open()
        stack.push_async_callback(db.aclose)
        llm = llm or LLM(config)
        stack.push_async_callback(llm.aclose)
        await stack.enter_async_context(draining(config.shutdown_grace))
        tasks = await stack.enter_async_context(anyio.create_task_group())
        tasks.start_soon(llm.warm)  # the import takes half a second, and the port need not wait for it
        stack.callback(tasks.cancel_scope.cancel)
        yield State(config=config, llm=llm, store=Store(db), streams=anyio.CapacityLimiter(config.chat_max_streams))
