"""How much: the questions that one owner may ask, counted in the database, so that all replicas count together.

A question is a row, written in the transaction that stores it; the row's number within its owner is a key, so of two
transactions that would take the same one, the second waits for the first and counts again. A repeat adds no row,
except where the asker ended the answer before: the model is asked once more, and stopping must not make that free.
Deleting a conversation takes none away.
"""

import math
from collections.abc import Sequence

from config import Limit
from db import Conflict, Database, Row, Statement

COUNTED = "SELECT COUNT(*) FROM house_asked WHERE channel = $1 AND owner = COALESCE(CAST($2 AS TEXT), '')"

# What is too much gets a number that is taken, and with it the whole transaction is taken back.
ASK = """
    INSERT INTO house_asked (channel, owner, number, asked_at)
    SELECT $1, COALESCE(CAST($2 AS TEXT), ''), last.number + CASE WHEN {allowed} THEN 1 ELSE 0 END,
      CAST($5 AS DOUBLE PRECISION)
    FROM (SELECT COALESCE(MAX(number), 0) AS number FROM house_asked
      WHERE channel = $1 AND owner = COALESCE(CAST($2 AS TEXT), '')) last
    WHERE $6 = 1 OR NOT EXISTS (SELECT 1 FROM house_message m JOIN house_conversation c ON c.id = m.conversation_id
      WHERE c.channel = $1 AND COALESCE(c.channel_id, '') = COALESCE(CAST($2 AS TEXT), '')
      AND COALESCE(c.client_id, c.id) = $3 AND m.message_id = CAST($4 AS TEXT)
      AND NOT EXISTS (SELECT 1 FROM house_message a WHERE a.conversation_id = m.conversation_id AND a.seq = m.seq + 1
        AND (a.state = 'left' OR (a.state = 'stopped' AND a.reason = 'client'))))"""

FORGET = "DELETE FROM house_asked WHERE channel = $1 AND owner = COALESCE(CAST($2 AS TEXT), '') AND asked_at <= $3"

LIMITING = """
    SELECT asked_at FROM house_asked WHERE channel = $1 AND owner = COALESCE(CAST($2 AS TEXT), '') AND asked_at > $3
    ORDER BY asked_at DESC LIMIT 1 OFFSET {most}"""

TELL = """
    INSERT INTO house_told (channel, owner, until, message_id) VALUES ($1, COALESCE(CAST($2 AS TEXT), ''), $3, $4)
    ON CONFLICT (channel, owner) DO UPDATE SET until = excluded.until, message_id = excluded.message_id
    WHERE house_told.until <= $5 OR house_told.message_id = excluded.message_id RETURNING channel"""


class OverQuota(Exception):
    """The owner has asked as much as is allowed. ``retry_after`` is in whole seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the next question may be asked in {retry_after} s")
        self.retry_after = retry_after


class Quota:
    """What `Store` writes questions through."""

    def __init__(self, db: Database, limits: Sequence[Limit]) -> None:
        self.db = db
        self.limits = limits
        allowed = " AND ".join(
            f"({COUNTED} AND asked_at > ${number}) < {limit.most}" for number, limit in enumerate(limits, 7)
        )
        self._ask = ASK.format(allowed=allowed)

    async def write(
        self, place: tuple[str, str | None, str], message_id: str | None, again: bool, now: float, *does: Statement
    ) -> list[list[Row]]:
        """Store a question of an owner, and count it. Raises `OverQuota`; then nothing was stored.

        ``place`` is the channel, the owner and the conversation's id. A ``message_id`` that is there already counts
        only where its answer is asked for ``again``.
        """
        if not self.limits:
            return await self.db.write(*does)
        starts = [now - limit.seconds for limit in self.limits]
        counted: tuple[Statement, ...] = (
            (self._ask, (*place, message_id, now, int(again), *starts)),
            (FORGET, (*place[:2], min(starts))),
        )
        while True:
            try:
                return (await self.db.write(*counted, *does))[len(counted) :]
            except Conflict:
                if wait := await self._wait(*place[:2], now):
                    raise OverQuota(math.ceil(wait)) from None

    async def forget(self, now: float) -> None:
        """Delete what no longer counts, and who was told of it."""
        longest = max((limit.seconds for limit in self.limits), default=0.0)
        await self.db.write(
            ("DELETE FROM house_asked WHERE asked_at <= $1", (now - longest,)),
            ("DELETE FROM house_told WHERE until <= $1", (now,)),
        )

    async def is_to_be_told(
        self, channel: str, owner: str | None, message_id: str, over: OverQuota, now: float
    ) -> bool:
        """Whether somebody is to be told that the quota is used up: once, until a question may be asked again."""
        [told] = await self.db.write((TELL, (channel, owner, now + over.retry_after, message_id, now)))
        return bool(told)

    async def _wait(self, channel: str, owner: str | None, now: float) -> float:
        """Seconds until the next question may be asked; 0 where it may be now."""
        waits = [0.0]
        for limit in self.limits:
            sql = LIMITING.format(most=limit.most - 1)
            rows = await self.db.read(sql, channel, owner, now - limit.seconds)
            waits += [row["asked_at"] + limit.seconds - now for row in rows]
        return max(waits)
