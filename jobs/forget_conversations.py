"""Delete the conversations that nobody has spoken in for CONVERSATION_DAYS. Unset: they are all kept."""

from state import State
from worker import Job

schedule = "0 4 * * *"


async def run(job: Job, state: State) -> None:
    days = state["config"].conversation_days
    if days is not None:
        await state["store"].forget(days * 86_400)
