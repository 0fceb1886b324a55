"""An answer that is written in this process, and how one that is over is told: why it is not whole, and again."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import anyio

from answers.live import Answer, Ended, Ending
from store import Question, Turn

WORDS: dict[tuple[str, str | None], str] = {
    ("left", None): "The answer was stopped, since nobody was reading it.",
    ("stopped", "client"): "The answer was stopped.",
    ("stopped", "server"): "The server is stopping. Ask again in a moment.",
    ("stopped", None): "The server was stopped.",
    ("error", None): "The answer broke off.",
}
GONE = "The answer is no longer there: it is written anew, or its conversation was deleted."


def ended(state: Ending, reason: str | None) -> Ended:
    """Return why an answer is not whole; an error's reason is in words already."""
    words = reason if state == "error" and reason else WORDS.get((state, reason)) or WORDS["error", None]
    return Ended(words, state, reason)


def replayed(turn: Turn) -> Answer:
    """Return an answer that was written before, to be read again."""
    answer = Answer(turn.turn, turn.answer_id)
    answer.add([turn.content])
    answer.finish, answer.tokens_in, answer.tokens_out = turn.finish, turn.tokens_in, turn.tokens_out
    assert turn.state != "running"
    failure = None if turn.state == "done" else ended(turn.state, turn.reason)
    answer.close(turn.state, reason=turn.reason, failure=failure)
    return answer


class Tasks:
    """The tasks that write. In a task group of anyio's each takes 3 kB more, which is a twentieth of a silent stream.

    ``on_failure`` is called when one of them ends with a ``failure``, which none should: they tell theirs themselves.
    """

    def __init__(self, on_failure: Callable[[], None]) -> None:
        self.failure: BaseException | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._on_failure = on_failure

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)

    async def end(self) -> None:
        """Wait until all are over, however often this is cancelled meanwhile."""
        cancelled: asyncio.CancelledError | None = None
        with anyio.CancelScope(shield=True):
            while self._running:
                try:
                    await asyncio.wait(self._running)
                except asyncio.CancelledError as exc:
                    cancelled = exc
        if cancelled is not None:
            raise cancelled

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (failure := task.exception()):
            self.failure = failure
            self._on_failure()


class Writing:
    """An answer that is written in this process."""

    def __init__(self, turn: Turn, question: Question, answer: Answer) -> None:
        self.turn = turn
        self.place = question.place
        self.answer = answer
        self.scope = anyio.CancelScope()
        self.ending: tuple[Ending, str | None] | None = None
        self.saved = 0  # characters
        self.saved_at = time.monotonic()
        self.is_followed = False  # from another process
        self.leaving: asyncio.TimerHandle | None = None

    def end(self, state: Ending, reason: str | None = None) -> None:
        """Decide how it ends, unless that is decided: the first of two ends counts."""
        if self.ending is None:
            self.ending = (state, reason)
            self.scope.cancel()
