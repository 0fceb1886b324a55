"""What processes tell each other about running answers: who is alive, who follows, what is to be stopped."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from db import Row, Statement
from store import DEAD, Store

FORGOTTEN = 86_400.0  # seconds after which the name of a process that ended is deleted

LOOK = """
    WITH wanted (turn, told) AS (VALUES {wanted})
    SELECT m.turn, m.state, m.reason, m.finish, m.tokens_in, m.tokens_out,
      substr(m.content, CAST(wanted.told AS INTEGER) + 1) AS more, {dead} AS is_dead
    FROM wanted JOIN house_message m ON m.turn = wanted.turn WHERE m.role = 'assistant'"""

# a late save must not open an answer again that was finished
SAVE = """
    UPDATE house_message SET content = $2, touched_at = $3
    WHERE turn = $1 AND role = 'assistant' AND state = 'running'"""

ASK_TO_STOP = f"""
    UPDATE house_message SET stop = 1 WHERE turn = $1 AND role = 'assistant' AND state = 'running'
    AND NOT {DEAD.format(row="house_message", now="$2")} RETURNING turn"""  # noqa: S608 - fixed text

ASK_TO_LEAVE = f"""
    UPDATE house_message SET stop = 2 WHERE turn = $1 AND role = 'assistant' AND state = 'running'
    AND COALESCE(stop, 2) = 2 AND NOT {DEAD.format(row="house_message", now="$2")} RETURNING turn"""  # noqa: S608 - fixed text

STOP, LEAVE = 1, 2  # what the column stop says: stop it; stop it if nobody reads it

AT_ONCE = 100  # answers in one statement


class Flags(NamedTuple):
    """What others ask of a running answer."""

    stop: int | None
    followed_at: float


class Rows:
    """The rows of running answers, for one process. Moments are the store's clock."""

    def __init__(self, store: Store) -> None:
        self.db, self.clock, self.writer = store.db, store.clock, store.writer

    async def beat(self) -> None:
        """Say that this process is alive, and with it every answer that it writes."""
        now = self.clock()
        sql = "INSERT INTO house_writer (id, alive_at) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET alive_at = $2"
        await self.db.write(
            (sql, (self.writer, now)), ("DELETE FROM house_writer WHERE alive_at < $1", (now - FORGOTTEN,))
        )

    async def flags(self) -> dict[str, Flags]:
        """Return what is asked of the answers that this process writes, by turn. One that is not there was lost."""
        sql = "SELECT turn, stop, followed_at FROM house_message WHERE writer = $1 AND state = 'running'"
        rows = await self.db.read(sql, self.writer)
        return {row["turn"]: Flags(row["stop"], row["followed_at"] or 0.0) for row in rows}

    async def save(self, texts: Mapping[str, str]) -> None:
        """Write down what was said so far, by turn."""
        now = self.clock()
        # in one order everywhere: two processes that lock the same rows in two orders wait for each other
        await self.db.write(*((SAVE, (turn, text, now)) for turn, text in sorted(texts.items())))

    async def look(self, told: Mapping[str, int]) -> dict[str, Row]:
        """Return what there is of others' answers beyond a number of characters, by turn."""
        found: dict[str, Row] = {}
        turns = list(told.items())
        for start in range(0, len(turns), AT_ONCE):
            some = turns[start : start + AT_ONCE]
            wanted = ", ".join(f"(CAST(${i} AS TEXT), CAST(${i + 1} AS BIGINT))" for i in range(1, 2 * len(some), 2))
            dead = DEAD.format(row="m", now=f"${2 * len(some) + 1}")
            sql = LOOK.format(wanted=wanted, dead=dead)
            values = [value for pair in some for value in pair]
            rows = await self.db.read(sql, *values, self.clock())
            found |= {row["turn"]: row for row in rows}
        return found

    async def follow(self, turns: Sequence[str]) -> None:
        """Tell the writers of answers that somebody follows them from here."""
        sql = "UPDATE house_message SET followed_at = $2 WHERE turn = $1 AND role = 'assistant' AND state = 'running'"
        now = self.clock()
        statements: list[Statement] = [(sql, (turn, now)) for turn in sorted(turns)]
        await self.db.write(*statements)

    async def ask_to_stop(self, turn: str) -> bool:
        """Ask the process that writes an answer to stop it. False where none does."""
        [rows] = await self.db.write((ASK_TO_STOP, (turn, self.clock())))
        return bool(rows)

    async def ask_to_leave(self, turns: Sequence[str]) -> list[str]:
        """Ask the processes that write these answers to stop what nobody reads. Those of them that are asked."""
        now = self.clock()
        statements: list[Statement] = [(ASK_TO_LEAVE, (turn, now)) for turn in sorted(turns)]
        found = await self.db.write(*statements) if statements else []
        return [row["turn"] for rows in found for row in rows]

    async def are_asked_to_leave(self, turns: Sequence[str]) -> bool:
        """Return whether a process did not say yet what becomes of one of these answers."""
        marks = ", ".join(f"${number}" for number in range(1, len(turns) + 1))
        sql = f"SELECT turn FROM house_message WHERE turn IN ({marks}) AND stop = 2 AND state = 'running'"  # noqa: S608 - marks
        return bool(await self.db.read(sql, *turns))

    async def refuse_to_leave(self, turns: Sequence[str]) -> None:
        """Say that these answers are read."""
        sql = "UPDATE house_message SET stop = NULL WHERE turn = $1 AND role = 'assistant' AND stop = 2"
        statements: list[Statement] = [(sql, (turn,)) for turn in sorted(turns)]
        await self.db.write(*statements)
