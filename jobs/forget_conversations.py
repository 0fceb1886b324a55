"""Delete the conversations that nobody has spoken in for CONVERSATION_DAYS. Unset: they are all kept.

What no longer counts towards CHAT_QUOTA goes too.
"""

from state import State
from worker import Job

schedule = "0 4 * * *"


async def run(job: Job, state: State) -> None:
    store, days = state["store"], state["config"].conversation_days
    await store.quota.forget(store.clock())
    if days is not None:
        await store.forget(days * 86_400)
