"""What must survive a restart: conversations and their messages.

A turn is a question and its answer. Both rows are written before the model is asked, in one transaction, so that
two turns at once keep their order; the answer's row is ``running`` until it is finished. It knows no HTTP.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from uuid import uuid4

from db import Database, Row, Statement

State = Literal["done", "left", "error", "stopped"]

STALE = 180.0  # seconds; a running answer is touched at least every 120 (llm.READ), so this one's writer is dead
HISTORY = 500  # messages at most, however short

# A conversation belongs to its channel, and to whose it is there where that is asked.
OWNED = "id = $1 AND channel = $2 AND COALESCE(CAST($3 AS TEXT), '') IN ('', COALESCE(channel_id, ''))"


class NotFound(Exception):
    """There is no such conversation in that channel."""


class Running(Exception):
    """The answer to that message is still being written."""


class Reused(Exception):
    """That message id belongs to another message of the conversation."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What somebody said, and where."""

    conversation: str
    content: str
    model: str = "smart"
    channel: str = "web"
    channel_id: str | None = None
    message_id: str | None = None


@dataclass(frozen=True)
class Turn:
    """The right to write one answer; ``answer`` is set where it was written before and is to be repeated."""

    conversation: str
    seq: int
    turn: str
    answer: str | None = None


class Store:
    """Conversations in a database."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.time) -> None:
        self.db = db
        self.clock = clock

    async def begin(self, question: Question, *, again: bool = False, stale: float = STALE) -> Turn:
        """Store a question, making its conversation where there is none, and the empty answer behind it.

        A repeated ``message_id`` stores nothing: it gives the finished answer, or the right to write it once more
        where it was not finished. With ``again`` the answer is always written once more, to the question as it is
        now, and what came after it is deleted. A running answer that was not touched for ``stale`` seconds counts as
        not finished. Raises `NotFound` for a conversation of another channel, `Running`,
        `Reused`.
        """
        now, turn = self.clock(), uuid4().hex
        owner = (question.conversation, question.channel, question.channel_id)
        inserted: tuple[Statement, ...] = (
            (
                "INSERT INTO conversation (id, channel, channel_id, model, created_at) VALUES ($1, $2, $3, $4, $5) "
                "ON CONFLICT (id) DO UPDATE SET model = excluded.model WHERE conversation.channel = excluded.channel "
                "AND COALESCE(conversation.channel_id, '') = COALESCE(excluded.channel_id, '') RETURNING id",
                (*owner, question.model, now),
            ),
            (
                "INSERT INTO message (conversation_id, seq, role, content, state, message_id, turn, created_at, "
                "touched_at) SELECT id, COALESCE((SELECT MAX(seq) FROM message WHERE conversation_id = $1), 0) + 1, "
                "'user', CAST($4 AS TEXT), 'done', CAST($5 AS TEXT), CAST($6 AS TEXT), CAST($7 AS DOUBLE PRECISION), "
                "CAST($7 AS DOUBLE PRECISION) FROM conversation WHERE id = $1 AND channel = $2 AND "
                "COALESCE(channel_id, '') = COALESCE($3, '') ON CONFLICT (conversation_id, message_id) DO NOTHING",
                (*owner, question.content, question.message_id, turn, now),
            ),
            (
                "INSERT INTO message (conversation_id, seq, role, content, state, turn, created_at, touched_at) "
                "SELECT conversation_id, seq + 1, 'assistant', '', 'running', turn, CAST($2 AS DOUBLE PRECISION), "
                "CAST($2 AS DOUBLE PRECISION) FROM message "
                "WHERE turn = $1 AND role = 'user' RETURNING seq",
                (turn, now),
            ),
        )
        repeated: tuple[Statement, ...] = (
            (
                "UPDATE message SET state = 'running', content = '', turn = $4, touched_at = $5 "
                "WHERE conversation_id = $1 AND role = 'assistant' AND turn <> $4 AND seq = (SELECT seq + 1 FROM "
                "message WHERE conversation_id = $1 AND message_id = $2 AND (content = $3 OR $6 = 1)) AND "
                "(state IN ('left', 'error', 'stopped') OR (state = 'done' AND $6 = 1) OR "
                "(state = 'running' AND touched_at < $7)) AND EXISTS (SELECT 1 FROM conversation WHERE id = $1 "
                "AND channel = $8 AND COALESCE(channel_id, '') = COALESCE($9, '')) RETURNING seq",
                (
                    *(question.conversation, question.message_id, question.content, turn, now),
                    *(int(again), now - stale, question.channel, question.channel_id),
                ),
            ),
            (
                "SELECT q.content AS question, a.content, a.state, a.seq FROM message q JOIN message a "
                "ON a.conversation_id = q.conversation_id AND a.seq = q.seq + 1 "
                "WHERE q.conversation_id = $1 AND q.message_id = $2",
                (question.conversation, question.message_id),
            ),
        )
        replaced: tuple[Statement, ...] = (
            (
                "UPDATE message SET content = $3 WHERE conversation_id = $1 "
                "AND seq = (SELECT seq - 1 FROM message WHERE turn = $2 AND role = 'assistant')",
                (question.conversation, turn, question.content),
            ),
            (
                "DELETE FROM message WHERE conversation_id = $1 "
                "AND seq > (SELECT seq FROM message WHERE turn = $2 AND role = 'assistant')",
                (question.conversation, turn),
            ),
        )
        owned, _, fresh, *rest = await self.db.write(
            *inserted, *(repeated if question.message_id else ()), *(replaced if again else ())
        )
        if not owned:
            raise NotFound(question.conversation)
        if taken := fresh or rest[0]:
            return Turn(question.conversation, taken[0]["seq"], turn)
        [before] = rest[1]
        if before["question"] != question.content and not again:
            raise Reused(question.message_id)
        if before["state"] != "done":
            raise Running(question.message_id)
        return Turn(question.conversation, before["seq"], turn, before["content"])

    async def save(self, turn: Turn, content: str, state: State | Literal["running"]) -> None:
        """Write down the answer so far, or finished. One that lost its turn, or was deleted, writes nothing."""
        sql = (
            "UPDATE message SET content = $4, state = $5, touched_at = $6 "
            "WHERE conversation_id = $1 AND seq = $2 AND turn = $3"
        )
        await self.db.write((sql, (turn.conversation, turn.seq, turn.turn, content, state, self.clock())))

    async def history(self, turn: Turn, budget: int) -> list[dict[str, str]]:
        """Return the newest messages up to the turn's question that fit a number of characters, oldest first.

        The question itself is always among them.
        """
        rows = await self.db.read(
            "SELECT role, content FROM message WHERE conversation_id = $1 AND seq < $2 AND content <> '' "
            "AND (state <> 'running' OR touched_at < $3) ORDER BY seq DESC LIMIT $4",
            *(turn.conversation, turn.seq, self.clock() - STALE, HISTORY),
        )
        kept: list[dict[str, str]] = []
        for row in rows:
            budget -= len(row["content"])
            if kept and budget < 0:
                break
            kept.append({"role": row["role"], "content": row["content"]})
        return kept[::-1]

    async def conversations(
        self, channel: str, channel_id: str | None, limit: int, before: tuple[float, str] | None
    ) -> list[Row]:
        """Return conversations of a channel, newest first: those before a (created_at, id), or all."""
        created_at, id = before or (float("inf"), "")
        return await self.db.read(
            "SELECT id, channel, channel_id, model, created_at FROM conversation WHERE channel = $1 "
            "AND ($2 = '' OR channel_id = $2) AND (created_at < $3 OR (created_at = $3 AND id < $4)) "
            "ORDER BY created_at DESC, id DESC LIMIT $5",
            *(channel, channel_id or "", created_at, id, limit),
        )

    async def conversation(self, id: str, channel: str, channel_id: str | None) -> tuple[Row, list[Row]]:
        """Return a conversation and its messages, oldest first. Raises `NotFound`, also where it is another channel's.

        An answer that is being written is not among them; one whose writer died shows what was saved of it.
        """
        found = await self.db.read(
            f"SELECT id, channel, channel_id, model, created_at FROM conversation WHERE {OWNED}",  # noqa: S608 - fixed text
            *(id, channel, channel_id),
        )
        if not found:
            raise NotFound(id)
        messages = await self.db.read(
            "SELECT role, content, CASE state WHEN 'running' THEN 'error' ELSE state END AS state, created_at "
            "FROM message WHERE conversation_id = $1 AND (state <> 'running' OR touched_at < $2) ORDER BY seq",
            *(id, self.clock() - STALE),
        )
        return found[0], messages

    async def delete(self, id: str, channel: str, channel_id: str | None) -> None:
        """Delete a conversation and its messages. Raises `NotFound`, also where it is another channel's."""
        owned = f"(SELECT id FROM conversation WHERE {OWNED})"  # noqa: S608 - fixed text
        values: tuple[Any, ...] = (id, channel, channel_id)
        _, gone = await self.db.write(
            (f"DELETE FROM message WHERE conversation_id IN {owned}", values),  # noqa: S608 - fixed text
            (f"DELETE FROM conversation WHERE {OWNED} RETURNING id", values),  # noqa: S608 - fixed text
        )
        if not gone:
            raise NotFound(id)

    async def forget(self, age: float) -> int:
        """Delete the conversations without a message for ``age`` seconds, and say how many there were."""
        before = self.clock() - age
        [old, *_] = await self.db.write(
            (
                "SELECT id FROM conversation c WHERE created_at < $1 AND NOT EXISTS "
                "(SELECT 1 FROM message WHERE conversation_id = c.id AND touched_at >= $1)",
                (before,),
            )
        )
        for row in old:  # one at a time: a long transaction would keep everybody else waiting
            await self.db.write(
                ("DELETE FROM message WHERE conversation_id = $1", (row["id"],)),
                ("DELETE FROM conversation WHERE id = $1", (row["id"],)),
            )
        return len(old)
