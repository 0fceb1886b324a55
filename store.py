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

BEAT = 3.0  # seconds between two signs of life of a process that writes answers
LOST = 10.0  # seconds without one: the process is dead, and so are the answers that it was writing
STALE = 180.0  # seconds without a touch: the same for an answer of a version that gave no signs of life
HISTORY = 500  # messages at most, however short
ROOM = 5_000_000  # characters of a conversation that is read: who fills one must not fill the process's memory

# A conversation is found by its channel, its owner and its id, in the words of the index house_conversation_owned. Its
# column id is a key of ours, which no client sees; in rows from before that index it is also the client's.
OWNED = "channel = $1 AND COALESCE(channel_id, '') = COALESCE(CAST($2 AS TEXT), '') AND COALESCE(client_id, id) = $3"
KEY = f"(SELECT id FROM house_conversation WHERE {OWNED})"  # noqa: S608 - fixed text
COLUMNS = """c.id AS key, COALESCE(c.client_id, c.id) AS id, c.channel, c.channel_id AS owner, c.model, c.created_at,
    (SELECT SUBSTR(content, 1, 100) FROM house_message WHERE conversation_id = c.id ORDER BY seq LIMIT 1) AS title"""

# Whether a running answer, the row of a message, has lost its writer.
DEAD = f"""(CASE WHEN {{row}}.writer IS NULL THEN {{row}}.touched_at < CAST({{now}} AS DOUBLE PRECISION) - {STALE}
      ELSE NOT EXISTS (SELECT 1 FROM house_writer w WHERE w.id = {{row}}.writer
        AND w.alive_at >= CAST({{now}} AS DOUBLE PRECISION) - {LOST}) END)"""  # noqa: S608 - fixed text

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
    INSERT INTO house_message (conversation_id, seq, role, content, state, turn, created_at, touched_at, writer)
    SELECT conversation_id, seq + 1, 'assistant', '', 'running', turn, CAST($2 AS DOUBLE PRECISION),
      CAST($2 AS DOUBLE PRECISION), CAST($3 AS TEXT)
    FROM house_message WHERE turn = $1 AND role = 'user' RETURNING seq"""

TAKE_ANSWER = f"""
    UPDATE house_message SET state = 'running', content = '', turn = $6, touched_at = $7, writer = $9, stop = NULL,
      followed_at = NULL, reason = NULL, finish = NULL, tokens_in = NULL, tokens_out = NULL
    WHERE conversation_id = {KEY} AND role = 'assistant' AND turn <> $6
    AND seq = (SELECT seq + 1 FROM house_message
      WHERE conversation_id = {KEY} AND message_id = $4 AND (content = $5 OR $8 = 1))
    AND (state IN ('left', 'error', 'stopped') OR (state = 'done' AND $8 = 1)
      OR (state = 'running' AND ($10 = 1 OR {DEAD.format(row="house_message", now="$7")})))
    RETURNING seq"""  # noqa: S608 - fixed text

ANSWER = f"""
    SELECT c.id AS conversation, q.content AS question, COALESCE(q.message_id, q.turn) AS message_id, a.seq, a.turn,
      a.content, a.reason, a.finish, a.tokens_in, a.tokens_out, a.touched_at,
      CASE WHEN a.state = 'running' AND {DEAD.format(row="a", now="$5")} THEN 'error' ELSE a.state END AS state
    FROM house_conversation c JOIN house_message q ON q.conversation_id = c.id AND q.role = 'user'
    JOIN house_message a ON a.conversation_id = c.id AND a.seq = q.seq + 1
    WHERE {OWNED}"""  # noqa: S608 - fixed text

FIND_ANSWER = f"{ANSWER} AND q.message_id = $4"

LAST_ANSWER = f"{ANSWER} AND ($4 = '' OR COALESCE(q.message_id, q.turn) = $4) ORDER BY q.seq DESC LIMIT 1"

LAST_RUNNING = LAST_ANSWER.replace(
    "ORDER BY", f"AND a.state = 'running' AND NOT {DEAD.format(row='a', now='$5')} ORDER BY"
)

FIND_QUESTION = f"""
    SELECT COALESCE(message_id, turn) AS message_id, content FROM house_message WHERE conversation_id = {KEY}
    AND role = 'user' ORDER BY
      CASE WHEN COALESCE(message_id, turn) IN ($4, $5) THEN 0 WHEN content = $6 THEN 1 ELSE 2 END, seq DESC LIMIT 1"""  # noqa: S608 - fixed text

SAVE = """
    UPDATE house_message SET content = $4, state = $5, touched_at = $6, reason = $7, finish = $8, tokens_in = $9,
      tokens_out = $10
    WHERE conversation_id = $1 AND seq = $2 AND turn = $3 AND state = 'running'"""

# the newest messages that fit the budget; the question itself, however long it is
HISTORY_OF = f"""
    WITH newest AS (
      SELECT seq, role, turn, state = 'running' AND NOT {DEAD.format(row="m", now="$4")} AS is_running,
        CASE WHEN state = 'running' AND NOT {DEAD.format(row="m", now="$4")} THEN '' ELSE content END AS content
      FROM house_message m WHERE conversation_id = $1 AND seq <= $2 ORDER BY seq DESC LIMIT {HISTORY}),
    counted AS (SELECT newest.*, SUM(length(content)) OVER (ORDER BY seq DESC) AS total FROM newest)
    SELECT role, content, turn, is_running FROM counted WHERE seq = $2 OR total <= $3 ORDER BY seq"""  # noqa: S608 - fixed text

MESSAGES = f"""
    SELECT role, content, COALESCE(message_id, turn) AS id, turn, reason, finish, tokens_in, tokens_out, created_at,
      CASE WHEN state = 'running' AND {DEAD.format(row="m", now="$2")} THEN 'error' ELSE state END AS state
    FROM house_message m WHERE conversation_id = $1 AND seq >= COALESCE(
      (SELECT MIN(seq) FROM house_message WHERE conversation_id = $1 AND role = 'user' AND seq > (
        SELECT COALESCE(MAX(seq), 0) FROM (
          SELECT seq, SUM(length(content)) OVER (ORDER BY seq DESC) AS total
          FROM house_message WHERE conversation_id = $1) counted
        WHERE total > $3)),
      (SELECT MAX(seq) FROM house_message WHERE conversation_id = $1 AND role = 'user'))
    ORDER BY seq"""  # noqa: S608 - fixed text

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
    """The answer to that message is still being written, by ``turn``."""

    def __init__(self, turn: str) -> None:
        super().__init__(turn)
        self.turn = turn


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
    reasoning: bool = False  # whether who asks wants to be told what the model thinks

    @property
    def place(self) -> tuple[str, str | None, str]:
        """Whose conversation it is in, and which."""
        return self.channel, self.owner, self.conversation


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One answer: the right to write it where it ``is_ours``, else what there is of it."""

    conversation: str  # its key in the tables, not the id that its owner knows
    seq: int
    turn: str
    message_id: str  # of the question
    is_ours: bool = False
    state: State | Literal["running"] = "running"
    content: str = ""
    reason: str | None = None
    finish: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    touched_at: float = 0.0

    @property
    def answer_id(self) -> str:
        return answer_id(self.message_id)


def answer_id(message_id: str) -> str:
    """Return the id that clients know an answer by."""
    return f"{message_id}-answer"


class Store:
    """Conversations in a database."""

    def __init__(
        self,
        db: Database,
        clock: Callable[[], float] = time.time,
        limits: Sequence[Limit] = (),
        writer: str | None = None,
    ) -> None:
        self.db = db
        self.clock = clock
        self.quota = Quota(db, limits)
        self.writer = writer or uuid4().hex  # this process, among those that write answers

    async def begin(self, question: Question, *, again: bool = False, heir: bool = False) -> Turn:
        """Store a question, making its conversation where there is none, and the empty answer behind it.

        A repeated ``message_id`` stores nothing: it gives the answer that is finished or being written, or the right
        to write it once more where it was neither. With ``again`` the answer is always written once more, to the
        question as it is now, and what came after it is deleted. An ``heir`` takes a running answer from its writer,
        who is known to be dead; of others the database knows (`LOST`). Raises `Running` with
        ``again``, `Reused`, `OverQuota`.
        """
        now, turn = self.clock(), uuid4().hex
        place, message_id = question.place, question.message_id or turn
        inserted: tuple[Statement, ...] = (
            (ADD_CONVERSATION, (*place, uuid4().hex, question.model, now)),
            (ADD_QUESTION, (*place, question.content, message_id, turn, now)),
            (ADD_ANSWER, (turn, now, self.writer)),
        )
        taking = (*place, message_id, question.content, turn, now, int(again), self.writer, int(heir))
        repeated: tuple[Statement, ...] = ((TAKE_ANSWER, taking), (FIND_ANSWER, (*place, message_id, now)))
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
            return Turn(
                conversation=conversation["id"], seq=taken[0]["seq"], turn=turn, message_id=message_id, is_ours=True
            )
        [before] = rest[1]
        if before.pop("question") != question.content and not again:
            raise Reused(question.message_id)
        if again:
            raise Running(before["turn"])
        return Turn(**before)

    async def find(self, question: Question) -> Turn | None:
        """Return the answer to a message that was sent before; None where it was not. Raises `Reused`."""
        rows = await self.db.read(FIND_ANSWER, *question.place, question.message_id, self.clock())
        if not rows:
            return None
        if rows[0].pop("question") != question.content:
            raise Reused(question.message_id)
        return Turn(**rows[0])

    async def last(self, place: tuple[str, str | None, str], message_id: str = "", *, running: bool) -> Turn | None:
        """Return the last answer of a conversation, or the one to a message, or the last that is being written."""
        rows = await self.db.read(LAST_RUNNING if running else LAST_ANSWER, *place, message_id, self.clock())
        return Turn(**{name: value for name, value in rows[0].items() if name != "question"}) if rows else None

    async def asked(self, place: tuple[str, str | None, str], *ids: str, text: str = "") -> tuple[str, str] | None:
        """Return the id and the text of the question that somebody wants answered again.

        It is the one of these ids, else the last with this text, else the last one; None where there is none.
        """
        first, second = (*ids, "", "")[:2]
        rows = await self.db.read(FIND_QUESTION, *place, first, second, text)
        return (rows[0]["message_id"], rows[0]["content"]) if rows else None

    async def save(
        self,
        turn: Turn,
        content: str,
        state: State | Literal["running"],
        *,
        reason: str | None = None,
        finish: str | None = None,
        tokens_in: int | None = None,
        tokens_out: int | None = None,
    ) -> None:
        """Write down the answer so far, or finished. One that lost its turn, or was deleted, writes nothing."""
        ending = (reason, finish, tokens_in, tokens_out)
        await self.db.write((SAVE, (turn.conversation, turn.seq, turn.turn, content, state, self.clock(), *ending)))

    async def history(self, turn: Turn, budget: int) -> list[Row]:
        """Return the newest messages up to the turn's question that fit a number of characters, oldest first.

        Each is a role, a content, a turn, and whether it is being written, which leaves the content out. The question
        is always among them.
        """
        return await self.db.read(HISTORY_OF, turn.conversation, turn.seq - 1, budget, self.clock())

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

    async def conversation(self, id: str, channel: str, owner: str | None, room: int = ROOM) -> tuple[Row, list[Row]]:
        """Return a conversation and its messages, oldest first. Raises `NotFound`, also where it is another owner's.

        What is being written is among them, as it was saved last; what lost its writer is an error. Where all of them
        have more than ``room`` characters, they are the newest that have not, from a question on.
        """
        found = await self.db.read(
            f"SELECT {COLUMNS} FROM house_conversation c WHERE {OWNED}",  # noqa: S608 - fixed text
            *(channel, owner, id),
        )
        if not found:
            raise NotFound(id)
        return found[0], await self.db.read(MESSAGES, found[0]["key"], self.clock(), room)

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
