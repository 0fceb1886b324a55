"""What lives as long as the app: handlers find it in `request.state`, typed as `Request[State]`."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TypedDict

import anyio

from config import Config
from llm import LLM


class State(TypedDict):
    """``request.state["config"]`` and so on; an editor completes the keys."""

    config: Config
    llm: LLM


@asynccontextmanager
async def open_state(config: Config) -> AsyncGenerator[State]:
    """Open what the app needs, and close it again in the reverse order."""
    llm = LLM(config)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(llm.client)  # the import takes half a second, and the port need not wait for it
        try:
            yield State(config=config, llm=llm)
        finally:
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await llm.aclose()
