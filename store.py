"""What must survive a restart: conversations and their messages.

A turn is a question and its answer. Both rows are written before the model is asked, in one transaction, so that
two turns at once keep their order; the answer's row is ``running`` until it is finished. It knows no HTTP.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import uuid4

from config import Limit
from db import Database, Row, Statement
from quota import Quota

State = Literal["done", "left", "error", "stopped"]

STALE = 180.0  # seconds; a running answer is touched at least every 120 (llm.READ), so this one's writer is dead
HISTORY = 500  # messages at most, however short

# A conversation is found by its channel, its owner and its id, in the words of the index house_conversation_owned. Its
# column id is a key of ours, which no client sees; in rows from before that index it is also the client's.
OWNED = "channel = $1 AND COALESCE(channel_id, '') = COALESCE(CAST($2 AS TEXT), '') AND COALESCE(client_id, id) = $3"
KEY = f"(SELECT id FROM house_conversation WHERE {OWNED})"  # noqa: S608 - fixed text
COLUMNS = """c.id AS key, COALESCE(c.client_id, c.id) AS id, c.channel, c.channel_id AS owner, c.model, c.created_at,
    (SELECT SUBSTR(content, 1, 100) FROM house_message WHERE conversation_id = c.id ORDER BY seq LIMIT 1) AS title"""

ADD_CONVERSATION = """
    INSERT INTO house_conversation (id, channel, channel_id, client_id, model, created_at)
    VALUES ($4, $1, $2, $3, $5, $6) ON CONFLICT (channel, COALESCE(channel_id, ''), COALESCE(client_id, id))
    DO UPDATE SET model = excluded.model RETURNING id"""

ADD_QUESTION = f"""
    INSERT INTO house_message (conversation_id, seq, role, content, state, message_id, turn, created_at, touched_at)
    SELECT c.id, COALESCE((SELECT MAX(seq) FROM house_message WHERE conversation_id = c.id), 0) + 1, 'user',
      CAST($4 AS TEXT), 'done', CAST($5 AS TEXT), CAST($6 AS TEXT), CAST($7 AS DOUBLE PRECISION),
      CAST($7 AS DOUBLE PRECISION)
    FROM house_conversation c WHERE {OWNED} ON CONFLICT (conversation_id, message_id) DO NOTHING"""  # noqa: S608 - fixed text

ADD_ANSWER = """
    INSERT INTO house_message (conversation_id, seq, role, content, state, turn, created_at, touched_at)
    SELECT conversation_id, seq + 1, 'assistant', '', 'running', turn, CAST($2 AS DOUBLE PRECISION),
      CAST($2 AS DOUBLE PRECISION)
    FROM house_message WHERE turn = $1 AND role = 'user' RETURNING seq"""

TAKE_ANSWER = f"""
    UPDATE house_message SET state = 'running', content = '', turn = $6, touched_at = $7
    WHERE conversation_id = {KEY} AND role = 'assistant' AND turn <> $6
    AND seq = (SELECT seq + 1 FROM house_message
      WHERE conversation_id = {KEY} AND message_id = $4 AND (content = $5 OR $8 = 1))
    AND (state IN ('left', 'error', 'stopped') OR (state = 'done' AND $8 = 1)
      OR (state = 'running' AND touched_at < $9))
    RETURNING seq"""  # noqa: S608 - fixed text

FIND_ANSWER = f"""
    SELECT q.content AS question, a.content, a.state, a.seq FROM house_message q
    JOIN house_message a ON a.conversation_id = q.conversation_id AND a.seq = q.seq + 1
    WHERE q.conversation_id = {KEY} AND q.message_id = $4"""  # noqa: S608 - fixed text

CHANGE_QUESTION = f"""
    UPDATE house_message SET content = $5 WHERE conversation_id = {KEY}
    AND seq = (SELECT seq - 1 FROM house_message WHERE turn = $4 AND role = 'assistant')"""  # noqa: S608 - fixed text

DELETE_LATER = f"""
    DELETE FROM house_message WHERE conversation_id = {KEY}
    AND seq > (SELECT seq FROM house_message WHERE turn = $4 AND role = 'assistant')"""  # noqa: S608 - fixed text

LIST = f"""
    SELECT {COLUMNS} FROM house_conversation c
    WHERE channel = $1 AND (created_at < $2 OR (created_at = $2 AND c.id < $3))
    ORDER BY created_at DESC, c.id DESC LIMIT $4"""  # noqa: S608 - fixed text

LIST_OWNED = LIST.replace("channel = $1", "channel = $1 AND COALESCE(channel_id, '') = $5")


class NotFound(Exception):
    """That owner has no such conversation."""


class Running(Exception):
    """The answer to that message is still being written."""


class Reused(Exception):
    """That message id belongs to another message of the conversation."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What somebody said, and where. Ids of conversations are the owner's own: two owners' equal ids never meet."""

    conversation: str
    content: str
    model: str = "smart"
    channel: str = "web"
    owner: str | None = None  # whose the conversation is within its channel, the client's ``channelId``; None: nobody's
    message_id: str | None = None


@dataclass(frozen=True)
class Turn:
    """The right to write one answer; ``answer`` is set where it was written before and is to be repeated."""

    conversation: str  # its key in the tables, not the id that its owner knows
    seq: int
    turn: str
    answer: str | None = None


class Store:
    """Conversations in a database."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.time, limits: Sequence[Limit] = ()) -> None:
        self.db = db
        self.clock = clock
        self.quota = Quota(db, limits)

    async def begin(self, question: Question, *, again: bool = False, stale: float = STALE) -> Turn:
        """Store a question, making its conversation where there is none, and the empty answer behind it.

        A repeated ``message_id`` stores nothing: it gives the finished answer, or the right to write it once more
        where it was not finished. With ``again`` the answer is always written once more, to the question as it is
        now, and what came after it is deleted. A running answer that was not touched for ``stale`` seconds counts as
        not finished. Raises `Running`, `Reused`, `OverQuota`.
        """
        now, turn = self.clock(), uuid4().hex
        place = (question.channel, question.owner, question.conversation)
        inserted: tuple[Statement, ...] = (
            (ADD_CONVERSATION, (*place, uuid4().hex, question.model, now)),
            (ADD_QUESTION, (*place, question.content, question.message_id, turn, now)),
            (ADD_ANSWER, (turn, now)),
        )
        repeated: tuple[Statement, ...] = (
            (TAKE_ANSWER, (*place, question.message_id, question.content, turn, now, int(again), now - stale)),
            (FIND_ANSWER, (*place, question.message_id)),
        )
        replaced: tuple[Statement, ...] = (
            (CHANGE_QUESTION, (*place, turn, question.content)),
            (DELETE_LATER, (*place, turn)),
        )
        [conversation], _, fresh, *rest = await self.quota.write(
            *(place, question.message_id, again, now),
            *inserted,
            *(repeated if question.message_id else ()),
            *(replaced if again else ()),
        )
        if taken := fresh or rest[0]:
            return Turn(conversation["id"], taken[0]["seq"], turn)
        [before] = rest[1]
        if before["question"] != question.content and not again:
            raise Reused(question.message_id)
        if before["state"] != "done":
            raise Running(question.message_id)
        return Turn(conversation["id"], before["seq"], turn, before["content"])

    async def save(self, turn: Turn, content: str, state: State | Literal["running"]) -> None:
        """Write down the answer so far, or finished. One that lost its turn, or was deleted, writes nothing."""
        sql = (
            "UPDATE house_message SET content = $4, state = $5, touched_at = $6 "
            "WHERE conversation_id = $1 AND seq = $2 AND turn = $3"
        )
        await self.db.write((sql, (turn.conversation, turn.seq, turn.turn, content, state, self.clock())))

    async def history(self, turn: Turn, budget: int) -> list[dict[str, str]]:
        """Return the newest messages up to the turn's question that fit a number of characters, oldest first.

        The question itself is always among them.
        """
        rows = await self.db.read(
            "SELECT role, content FROM house_message WHERE conversation_id = $1 AND seq < $2 AND content <> '' "
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
        self, channel: str, owner: str | None, limit: int, before: tuple[float, str] | None
    ) -> list[Row]:
        """Return an owner's conversations in a channel, newest first; without an owner everybody's.

        ``before`` is the ``(created_at, key)`` of the last one of the page before.
        """
        created_at, key = before or (float("inf"), "")
        values = (channel, created_at, key, limit)
        return await (self.db.read(LIST, *values) if owner is None else self.db.read(LIST_OWNED, *values, owner))

    async def owners(self, id: str, channel: str) -> list[str | None]:
        """Return the owners of the conversations that have an id in a channel."""
        sql = "SELECT channel_id FROM house_conversation WHERE channel = $1 AND COALESCE(client_id, id) = $2"
        return [row["channel_id"] for row in await self.db.read(sql, channel, id)]

    async def conversation(self, id: str, channel: str, owner: str | None) -> tuple[Row, list[Row]]:
        """Return a conversation and its messages, oldest first. Raises `NotFound`, also where it is another owner's.

        An answer that is being written is not among them; one whose writer died shows what was saved of it.
        """
        found = await self.db.read(
            f"SELECT {COLUMNS} FROM house_conversation c WHERE {OWNED}",  # noqa: S608 - fixed text
            *(channel, owner, id),
        )
        if not found:
            raise NotFound(id)
        messages = await self.db.read(
            "SELECT role, content, CASE state WHEN 'running' THEN 'error' ELSE state END AS state, created_at "
            "FROM house_message WHERE conversation_id = $1 AND (state <> 'running' OR touched_at < $2) ORDER BY seq",
            *(found[0]["key"], self.clock() - STALE),
        )
        return found[0], messages

    async def delete(self, id: str, channel: str, owner: str | None) -> None:
        """Delete a conversation and its messages. Raises `NotFound`, also where it is another owner's."""
        place = (channel, owner, id)
        _, gone = await self.db.write(
            (f"DELETE FROM house_message WHERE conversation_id IN {KEY}", place),  # noqa: S608 - fixed text
            (f"DELETE FROM house_conversation WHERE {OWNED} RETURNING id", place),  # noqa: S608 - fixed text
        )
        if not gone:
            raise NotFound(id)

    async def forget(self, age: float) -> int:
        """Delete the conversations without a message for ``age`` seconds, and say how many there were."""
        before = self.clock() - age
        [old, *_] = await self.db.write(
            (
                "SELECT id FROM house_conversation c WHERE created_at < $1 AND NOT EXISTS "
                "(SELECT 1 FROM house_message WHERE conversation_id = c.id AND touched_at >= $1)",
                (before,),
            )
        )
        for row in old:  # one at a time: a long transaction would keep everybody else waiting
            await self.db.write(
                ("DELETE FROM house_message WHERE conversation_id = $1", (row["id"],)),
                ("DELETE FROM house_conversation WHERE id = $1", (row["id"],)),
            )
        return len(old)
