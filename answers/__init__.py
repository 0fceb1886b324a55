"""The answers that are being written: each by a task of the app, followed by whoever reads, in any process.

The way of a piece: the writer adds it to its `Answer` (live.py), which wakes the readers in this process; each takes it
and sends it. Beside that, `Answers` writes the text so far into the answer's row; a process whose readers follow
somebody else's answer looks at the row and adds what is new to an `Answer` of its own, a mirror, for its readers.

The way of a stop: the writer's scope is cancelled, so its connection to the model closes, the text is kept and the
readers are told. In another process the row is marked, which the writer's process sees at a wake-up, or its next look.

It knows neither HTTP nor model: `write(turn, answer)` is given to `begin`. What a crash can take is `SAVE_EVERY`; an
answer whose process died is given up `store.LOST` seconds after its last sign of life.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

import anyio

from answers.live import Answer, Ended, Reader, Thought
from answers.rows import LEAVE, STOP, Rows
from answers.writing import GONE, WORDS, Tasks, Writing, ended, replayed
from db import Row
from store import BEAT, LOST, Question, Running, Store, Turn

__all__ = ["Answer", "Answers", "Busy", "Ended", "Reader", "Thought", "Write"]

logger = logging.getLogger("answers")

NAME = "answers"  # of the wake-ups between processes

LOOK_EVERY = 0.25  # seconds: what others say is looked for this often, with a wake-up at once
RARELY = 1.0  # seconds: what they ask of the answers that are written here, where wake-ups are heard
SAVE_FOLLOWED = 0.1  # seconds: how often what is followed from elsewhere is saved
GAP = 0.02  # seconds between two looks, however many wake-ups come
FRESH = 0.5  # seconds in which a new follower looks as often as that: a reader waits for what was said so far
SAVE_EVERY = 5.0  # seconds: how much of an answer a crash can take, where nobody follows it from elsewhere
FOLLOW_EVERY = 3.0  # seconds: how often a follower in another process says that it is there
FOLLOWED = 10.0  # seconds for which that counts
SAVE_PATIENCE = 20.0  # seconds that the end of an answer waits for a database that is away
STOP_PATIENCE = 5.0  # seconds to wait for the end of an answer that was told to stop
LEAVE_PATIENCE = 1.0  # seconds to wait for another process to say whether an answer is read

Write = Callable[[Turn, Answer], Awaitable[None]]


class Busy(Exception):
    """As many answers are being written as the settings allow."""


class Answers:
    """The answers of one process: those that it writes, and the mirrors of those that its readers follow elsewhere.

    ``leave`` is how many seconds an answer goes on without a reader; ``most`` is how many are written at once.
    """

    def __init__(self, store: Store, *, leave: float = 30.0, most: int = 1000) -> None:
        self.store = store
        self.rows = Rows(store)
        self.leave = leave
        self.most = most
        self.writing: dict[str, Writing] = {}
        self.mirrors: dict[str, Answer] = {}
        self._beginning = 0
        self._beat_at = self._followed_at = self._joined_at = self._turn_at = float("-inf")
        self._away_at = float("-inf")  # when the database took no signs of life, of whatever process
        self._beating = anyio.Lock()
        self._wake = anyio.Event()
        self._tasks: Tasks | None = None  # those that write
        self._is_closing = self._is_away = False

    @asynccontextmanager
    async def serving(
        self, vital: Callable[[str, Callable[[], Awaitable[None]]], Coroutine[Any, Any, None]]
    ) -> AsyncGenerator[None]:
        """Keep the answers while the block runs. On the way out those that are left are stopped and kept.

        ``vital`` runs what must not end before.
        """
        async with anyio.create_task_group() as keeper:
            self._tasks = tasks = Tasks(lambda: self._wake.set())
            keeper.start_soon(vital, "the keeping of answers", self._keep)
            deafen = self.store.db.listen(NAME, lambda: self._wake.set())
            try:
                yield
            finally:
                self.stop_all()
                await tasks.end()
                deafen()
                keeper.cancel_scope.cancel()

    def stop_all(self) -> None:
        """Stop every answer, because the server stops."""
        self._is_closing = True
        for writing in list(self.writing.values()):
            writing.end("stopped", "server")

    async def begin(
        self, question: Question, write: Write, *, again: bool = False, heir: bool = False, counts: bool = True
    ) -> Answer:
        """Return the answer to a question: one that is written from now on, or is being written, or was written before.

        With ``again`` it is written once more, and what is being written is stopped first. An ``heir`` takes over
        whoever writes it. Raises `Busy` unless it ``counts`` not, and what `Store.begin` raises.
        """
        with anyio.CancelScope(shield=True):  # the client may leave now, but what began must be written
            await self._stop_unread(question, again)
            if counts and len(self.writing) + self._beginning >= self.most:
                known = await self.store.find(question) if question.message_id else None
                if known is None or known.state not in ("running", "done") or again:
                    raise Busy
                return self._joined(known)
            self._beginning += 1
            try:
                await self._beat()
                turn = await self._begun(question, again, heir)
            finally:
                self._beginning -= 1
            return self._start(turn, question, write) if turn.is_ours else self._joined(turn)
        raise AssertionError  # for the type checker: the scope is never cancelled

    def of(self, turn: Turn) -> Answer:
        """Return an answer that is there: a mirror of one that is written elsewhere."""
        return self._joined(turn)

    def refresh(self, rows: Sequence[Row]) -> None:
        """Put what was said by now into the rows of messages that are written here: they were saved a moment ago."""
        for row in rows:
            if row["state"] == "running" and (writing := self.writing.get(row["turn"])):
                row["content"] = writing.answer.text

    async def stop(self, turn: str, reason: Literal["client", "server"] = "client") -> bool:
        """Stop the answer of a turn and wait until it is kept. False where it is not being written."""
        if writing := self.writing.get(turn):
            writing.end("stopped", reason)
            with anyio.move_on_after(STOP_PATIENCE):
                await writing.answer.over()
            return writing.ending == ("stopped", reason)
        asked = await self.rows.ask_to_stop(turn)
        if asked:
            await self._notify()
        return asked

    async def end_unread(self, turns: Collection[str]) -> bool:
        """Have other processes stop those of these answers that nobody reads. False where they are read, or ours.

        It waits until that is known, and what was said is kept.
        """
        asked = await self.rows.ask_to_leave([turn for turn in turns if turn not in self.writing])
        if not asked:
            return False
        await self._notify()
        with anyio.move_on_after(LEAVE_PATIENCE):
            while True:
                await anyio.sleep(GAP)
                if not await self.rows.are_asked_to_leave(asked):
                    break
        return True

    async def _stop_unread(self, question: Question, again: bool) -> None:
        """Stop an answer to which nobody came back when its conversation goes on: the model is told what it said."""
        place = question.place
        for writing in [writing for writing in self.writing.values() if writing.place == place]:
            is_other = again or writing.turn.message_id != question.message_id
            if is_other and not writing.answer.readers and not writing.is_followed:
                writing.end("left")
                with anyio.move_on_after(STOP_PATIENCE):
                    await writing.answer.over()

    async def _begun(self, question: Question, again: bool, heir: bool) -> Turn:
        for attempt in range(2):
            try:
                return await self.store.begin(question, again=again, heir=heir)
            except Running as running:
                if attempt:
                    raise
                await self.stop(running.turn)
                await self._ended(running.turn)
        raise AssertionError

    async def _ended(self, turn: str) -> None:
        """Wait until an answer that was told to stop is over, wherever it is written."""
        if turn in self.writing:
            return
        mirror = self._mirror(turn, "")
        with mirror.reader(), anyio.move_on_after(STOP_PATIENCE):
            await mirror.over()

    def _joined(self, turn: Turn) -> Answer:
        if writing := self.writing.get(turn.turn):
            return writing.answer
        return self._mirror(turn.turn, turn.answer_id) if turn.state == "running" else replayed(turn)

    def _mirror(self, turn: str, id: str) -> Answer:
        if turn not in self.mirrors:
            self.mirrors[turn] = Answer(turn, id, self._unfollowed, lags=True)
            self._followed_at, self._joined_at = float("-inf"), time.monotonic()
        self._wake.set()
        return self.mirrors[turn]

    def _unfollowed(self, mirror: Answer) -> None:
        self.mirrors.pop(mirror.turn, None)

    # Writing.

    def _start(self, turn: Turn, question: Question, write: Write) -> Answer:
        assert self._tasks is not None, "the answers are not being served"
        answer = Answer(turn.turn, turn.answer_id, self._unread)
        writing = self.writing[turn.turn] = Writing(turn, question, answer)
        self._tasks.start(self._write(writing, write))
        if self._is_closing:
            writing.end("stopped", "server")
        self._leave_later(writing, max(self.leave, 1.0))  # whoever asked may be gone before reading
        self._wake.set()
        return answer

    async def _write(self, writing: Writing, write: Write) -> None:
        answer, failure = writing.answer, None
        try:
            with writing.scope:
                await write(writing.turn, answer)
                writing.end("done")
        except Exception as exc:
            failure = exc
            writing.end("error", answer.reason)
            if answer.reason is None and not answer.readers:  # nobody is left in whom it could be raised
                logger.exception("an answer failed that nobody was reading")
        finally:
            with anyio.CancelScope(shield=True):
                writing.end("stopped", "server")
                await self._finish(writing, failure)

    async def _finish(self, writing: Writing, failure: Exception | None) -> None:
        answer = writing.answer
        assert writing.ending is not None
        state, reason = writing.ending
        if state in ("left", "stopped") or (state == "error" and failure is None):
            failure = ended(state, reason)  # whatever else the cancelled writer raised
        answer.complete()
        turn = writing.turn
        tokens = {"tokens_in": answer.tokens_in, "tokens_out": answer.tokens_out}
        until = time.monotonic() + (SAVE_PATIENCE if not self._is_closing else 1.0)
        while reason != GONE:
            try:
                await self.store.save(turn, answer.text, state, reason=reason, finish=answer.finish, **tokens)
                break
            except Exception:
                if time.monotonic() > until:
                    logger.exception("an answer could not be kept: the database was away for too long")
                    state, failure = "error", failure or Ended("The answer could not be kept.")
                    break
                await anyio.sleep(0.25)
        if writing.leaving is not None:
            writing.leaving.cancel()
        del self.writing[answer.turn]
        answer.close(state, reason=reason, failure=failure)
        if writing.is_followed:
            await self._notify()

    def _unread(self, answer: Answer) -> None:
        writing = self.writing.get(answer.turn)
        if writing is None or writing.ending is not None:
            return
        if self.leave == 0 and not writing.is_followed:
            return writing.end("left")
        self._leave_later(writing, self.leave or FOLLOWED)

    def _leave_later(self, writing: Writing, seconds: float) -> None:
        def leave() -> None:
            if writing.answer.readers or writing.ending is not None:
                return
            if writing.is_followed:
                return self._leave_later(writing, FOLLOW_EVERY)
            writing.end("left")

        if writing.leaving is not None:
            writing.leaving.cancel()
        writing.leaving = asyncio.get_running_loop().call_later(seconds, leave)

    # What the processes tell each other.

    async def _keep(self) -> None:
        assert self._tasks is not None
        while self._tasks.failure is None:
            if not self.writing and not self.mirrors:
                await self._wake.wait()
            self._wake = anyio.Event()
            self._turn_at = time.monotonic()
            try:
                await self._beat()
                await self._look_after_own()
                await self._look_at_others()
                self._is_away = False
            except Exception:
                if not self._is_away:  # once, not four times a second
                    logger.exception("cannot keep the answers that are being written, trying again")
                self._is_away, self._away_at = True, time.monotonic()
            await anyio.sleep(GAP)
            if self.mirrors and time.monotonic() - self._joined_at < FRESH:
                continue
            is_followed = any(writing.is_followed for writing in self.writing.values())
            looks = LOOK_EVERY if self.mirrors or not self.store.db.hears else RARELY
            with anyio.move_on_after(SAVE_FOLLOWED if is_followed else looks):
                await self._wake.wait()
        raise self._tasks.failure

    async def _beat(self) -> None:
        """Say that this process is alive, each `BEAT` seconds while it writes and before it begins to."""
        async with self._beating:
            now = self.store.clock()  # by which others judge it; where the clock jumps, a sign is due
            if not 0 <= now - self._beat_at < BEAT:
                await self.rows.beat()
                self._beat_at = now

    async def _look_after_own(self) -> None:
        mine = list(self.writing.values())
        if not mine:
            return
        flags, now, read = await self.rows.flags(), self.store.clock(), list[str]()
        for writing in mine:
            if writing.ending is not None:
                continue
            flag = flags.get(writing.answer.turn)
            if flag is None:
                writing.end("error", GONE)
                continue
            writing.is_followed = flag.followed_at > now - FOLLOWED
            if flag.stop == STOP:
                writing.end("stopped", "client")
            elif flag.stop == LEAVE and (writing.answer.readers or writing.is_followed):
                read.append(writing.answer.turn)
            elif flag.stop == LEAVE:
                writing.end("left")
        if read:
            await self.rows.refuse_to_leave(read)
        due = [writing for writing in mine if self._is_due(writing)]
        if due:
            texts = {writing.answer.turn: writing.answer.text for writing in due}
            await self.rows.save(texts)
            for writing in due:
                writing.saved, writing.saved_at = len(texts[writing.answer.turn]), time.monotonic()
            if any(writing.is_followed for writing in due):
                await self._notify()

    def _is_due(self, writing: Writing) -> bool:
        is_old = writing.is_followed or time.monotonic() - writing.saved_at >= SAVE_EVERY
        return is_old and writing.ending is None and writing.answer.told > writing.saved

    async def _look_at_others(self) -> None:
        for turn, mirror in list(self.mirrors.items()):
            if not mirror.readers:
                del self.mirrors[turn]
        mirrors = dict(self.mirrors)
        if not mirrors:
            return
        if (now := time.monotonic()) - self._followed_at >= FOLLOW_EVERY:
            await self.rows.follow(list(mirrors))
            self._followed_at = now
            await self._notify()
        found = await self.rows.look({turn: mirror.told for turn, mirror in mirrors.items()})
        if time.monotonic() - self._turn_at > BEAT:  # a locked file is no failure, only late
            self._away_at = time.monotonic()
        for turn, mirror in mirrors.items():
            self._reflect(mirror, found.get(turn))

    def _reflect(self, mirror: Answer, row: Row | None) -> None:
        """Let the readers of a mirror see what the row of its answer says."""
        if row is None:
            return mirror.close("error", failure=Ended(GONE))
        mirror.add([row["more"]])
        mirror.finish, mirror.tokens_in, mirror.tokens_out = row["finish"], row["tokens_in"], row["tokens_out"]
        if row["state"] != "running":
            failure = None if row["state"] == "done" else ended(row["state"], row["reason"])
            mirror.close(row["state"], reason=row["reason"], failure=failure)
        elif row["is_dead"] and time.monotonic() - self._away_at > LOST:
            mirror.close("error", failure=Ended(WORDS["error", None]))

    async def _notify(self) -> None:
        """Tell the other processes that something changed; without it they see it at their next look."""
        with contextlib.suppress(Exception):
            await self.store.db.notify(NAME)
