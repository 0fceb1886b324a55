"""How a run ended, and what becomes of its row: nothing here reads a clock or a table."""

import traceback
from pathlib import Path
from secrets import SystemRandom
from typing import Literal, NamedTuple, TypeVar, cast

from db import Database, Row, Statement
from worker.files import LARGEST, JobFile
from worker.table import many

# why a run was stopped: its time was over, the server stops, an operator called it off, or another process has it
T = TypeVar("T", bound=BaseException)

Stopped = Literal["overtime", "shutdown", "cancelled", "lost"]

_chance = SystemRandom()  # the jobs' own `random` is left alone: they may have seeded it

END = """WITH e (id, token, run_at, done_at, error, attempts, begun, forget) AS (VALUES)
UPDATE house_job SET token = NULL, run_at = e.run_at, done_at = e.done_at, error = e.error, attempts = e.attempts,
  begun = e.begun, payload = CASE WHEN e.forget = 1 THEN 'null' ELSE payload END
  FROM e WHERE house_job.id = e.id AND house_job.token = e.token RETURNING house_job.id"""
END_TYPES = ("TEXT", "TEXT", "DOUBLE PRECISION", "DOUBLE PRECISION", "TEXT", "BIGINT", "BIGINT", "BIGINT")

# The steps of what is done; those of what failed wait for a replay.
DROP_STEPS = """WITH e (id) AS (VALUES) DELETE FROM house_step WHERE job_id IN (SELECT id FROM e)
  AND EXISTS (SELECT 1 FROM house_job j WHERE j.id = job_id AND j.done_at IS NOT NULL AND j.error IS NULL)"""


class Retry(Exception):
    """Not now: raise it in a job to be tried again after so many seconds. It counts no attempt."""

    def __init__(self, after: float, words: str = "") -> None:
        if isinstance(after, bool) or not isinstance(after, int | float) or not 0 <= after <= LARGEST:  # pyright: ignore[reportUnnecessaryIsInstance] - a user's
            raise ValueError(f"Retry(after={after!r}): a number of seconds is required, 0 to {LARGEST:,}")
        super().__init__(words or f"again in {after:g} s")
        self.after = float(after)


class GiveUp(Exception):
    """Never: raise it in a job that no further attempt can help. Its words are kept with the job."""


class OwnWords(Exception):
    """A failure of which we made the text, so that it may be kept."""


class End(NamedTuple):
    """What is written into the row, and said in the log."""

    run_at: float
    done_at: float | None
    error: str | None
    attempts: int
    begun: int
    words: str
    is_wrong: bool = False  # an error, for the log


def end_of(row: Row, file: JobFile, failure: BaseException | None, stopped: Stopped | None, now: float) -> End:
    """Decide what becomes of a claimed row whose run ended, by itself or because it was stopped."""
    attempts, begun = row["attempts"], row["begun"]

    def over(error: str | None, words: str) -> End:
        return End(now, now, error, attempts, begun, words, error is not None)

    if stopped == "overtime":
        failure = OwnWords(f"its timeout of {file.timeout:g} s was over")
    if failure is None:
        return over(None, "done")
    if stopped == "cancelled":
        return cancelled(row, now)
    if stopped == "shutdown" and not isinstance(failure, Exception):
        if file.attempts == 1:  # at most once: what it did already is not known
            return over("stopped with its server, and attempts = 1 is at most once", "failed: stopped with its server")
        return End(now, None, row["error"], attempts - 1, begun, "handed back: the server stops")
    if again := found(failure, Retry):
        at = now + again.after
        return End(at, None, row["error"], attempts - 1, begun, kept(f"not now: {again.args[0]}"))
    if never := found(failure, GiveUp):
        words = kept(f"gave up: {never}")
        return over(words, words)
    if attempts < file.attempts:
        words = f"failed, and will be tried again (attempt {attempts})"
        return End(now + delay(attempts), None, where(failure, file.file), attempts, begun, words, True)
    return over(where(failure, file.file), f"failed for good (attempt {attempts})")


def crashed(row: Row, now: float) -> End:
    words = "its process ended while it ran"
    return End(now, now, words, row["attempts"], row["begun"] - 1, words, True)


def skipped(row: Row, late: float, now: float) -> End:
    words = f"skipped: {late:.0f} s late"
    return End(now, now, words, row["attempts"] - 1, row["begun"] - 1, words, True)


def cancelled(row: Row, now: float) -> End:
    words = "cancelled by an operator"
    return End(now, now, words, row["attempts"], row["begun"], words)


def not_beside(row: Row, at: float) -> End:
    words = "still runs here, under a claim that was lost: not begun beside itself"
    return End(at, None, row["error"], row["attempts"] - 1, row["begun"] - 1, words, True)


def found(failure: BaseException, kind: type[T]) -> T | None:
    """The exception of that kind, also where a task group has wrapped it and no other failure is beside it."""
    if isinstance(failure, kind):
        return failure
    if isinstance(failure, BaseExceptionGroup):
        matching, others = cast("BaseExceptionGroup[BaseException]", failure).split(kind)
        if matching is not None and others is None:
            return found(matching.exceptions[0], kind)
    return None


def ends(db: Database, found: "list[tuple[Row, End]]") -> list[Statement]:
    """Write ends down, each where the claim is still ours; the ids of these come back.

    In the order of the ids, as `renewals` does: two statements lock equal rows in the same order.
    """
    return many(
        db,
        END,
        END_TYPES,
        [
            # what was done needs its id alone: somebody's message must not outlive the conversation that it is in
            (row["id"], row["token"], *end[:5], int(end.done_at is not None and end.error is None))
            for row, end in sorted(found, key=lambda one: one[0]["id"])
        ],
    )


def delay(attempts: int) -> float:
    """Seconds until the next attempt: 10, 30, 90 ... up to an hour, half of it left to chance."""
    return min(10.0 * 3 ** (min(attempts, 9) - 1), 3600.0) * _chance.uniform(0.5, 1.5)


def where(failure: BaseException, file: str) -> str:
    """What failed and where, in the job's own file too.

    The exception's text is left out: it may hold what must not be kept. Our own texts may.
    """
    if isinstance(failure, OwnWords):
        return kept(str(failure))
    frames = traceback.extract_tb(failure.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).as_posix().endswith(f"/{file}")]
    places = [frames[-1], *own[-1:]] if frames else []
    told = dict.fromkeys(f"{Path(frame.filename).name}:{frame.lineno}" for frame in places)
    return f"{type(failure).__name__}{' at ' if told else ''}{', from '.join(told)}"


def kept(words: str) -> str:
    """A text that every database takes, and a list can show."""
    return words.encode("utf-8", "replace").decode().replace("\0", "\ufffd")[:500]
