"""One turn of a conversation: the question is stored, the model asked, the answer told and stored.

What /api/chat, its variants and the channels share. Nothing here depends on how the answer is put on the wire.
"""

import hashlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import anyio

from auth import Who, place
from db import Row
from errors import BadRequest
from llm import Read
from quota import OverQuota
from sse import EventStream
from state import State
from store import STALE, Question, Turn
from store import State as AnswerState
from worker import Job

OVER = "You have asked as many questions as are possible for now. Please try again later."
SAVE_EVERY = 5.0  # seconds: how much of an answer a crash can take

Say = Callable[[Sequence[str]], Awaitable[None]]  # takes the pieces that came together


class Busy(Exception):
    """As many answers are being streamed as CHAT_MAX_STREAMS allows."""


async def answer(state: State, question: Question, say: Say, stream: EventStream, *, again: bool = False) -> None:
    """Store the question, then tell the model's answer piece by piece; whatever happens, what was said is kept.

    Raises `Busy`, and what `Store.begin` and `LLM.chat_stream` raise.
    """
    try:
        state["streams"].acquire_on_behalf_of_nowait(stream)
    except anyio.WouldBlock:
        raise Busy from None
    try:
        await _turn(state, question, say, lambda: "stopped" if stream.ended == "stopped" else "left", again=again)
    finally:
        state["streams"].release_on_behalf_of(stream)


async def reply(state: State, job: Job, *, channel_id: str, text: str) -> str:
    """Answer what somebody said in a channel, whole: in the conversation of the job's channel and the channel's id.

    The job's id is the message's, so that a job that is tried again finds the answer that was given before. Raises
    `ValueError` where nothing was said, and what `LLM.chat_stream` raises. Somebody who asked as much as CHAT_QUOTA
    allows is told so once, and then "" is returned until a question may be asked again.
    """
    if not isinstance(text, str) or not text.strip():  # pyright: ignore[reportUnnecessaryIsInstance] - as it was sent
        raise ValueError("a message without text")
    channel = job["name"].removeprefix("webhook:")
    question = Question(
        conversation=f"{channel}:{channel_id}",
        content=text,
        channel=channel,
        owner=channel_id,
        message_id=job["id"],
    )
    said: list[str] = []

    async def say(pieces: Sequence[str]) -> None:
        said.extend(pieces)

    try:
        # the claim on the job says that nobody else is writing this answer, however lately somebody was
        await _turn(state, question, say, lambda: "stopped", stale=0.0)
    except OverQuota as over:
        quota, now = state["store"].quota, state["store"].clock()
        return OVER if await quota.is_to_be_told(channel, channel_id, job["id"], over, now) else ""
    return join(said)


async def _turn(
    state: State,
    question: Question,
    say: Say,
    cancelled: Callable[[], AnswerState],
    *,
    again: bool = False,
    stale: float = STALE,
) -> None:
    store = state["store"]
    turn: Turn | None = None
    with anyio.CancelScope(shield=True):  # the client may leave now, but a turn that began must be finished
        turn = await store.begin(question, again=again, stale=stale)
    assert turn is not None
    if turn.answer is not None:
        return await say([turn.answer])
    said: list[str] = []
    ending: AnswerState = "error"
    try:
        messages = await store.history(turn, state["config"].chat_history_chars)
        if prompt := state["config"].system_prompt:
            messages.insert(0, {"role": "system", "content": prompt})
        async with aclosing(state["llm"].chat_reads(question.model, messages)) as reads:
            await _tell(state, turn, reads, say, said)
        ending = "done"
    except anyio.get_cancelled_exc_class():
        ending = cancelled()
        raise
    finally:
        with anyio.CancelScope(shield=True):
            await store.save(turn, join(said), ending)


async def _tell(state: State, turn: Turn, reads: AsyncIterator[Read], say: Say, said: list[str]) -> None:
    saved_at = time.monotonic()
    async for read in reads:
        if read.text:
            said += read.text
            await say(read.text)
        if (now := time.monotonic()) - saved_at > SAVE_EVERY:
            saved_at = now
            await state["store"].save(turn, join(said), "running")


def join(pieces: list[str]) -> str:
    """Join the pieces of an answer; a surrogate pair that two of them share becomes the character it is."""
    whole = "".join(pieces).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return whole.replace("\0", "\ufffd")  # PostgreSQL has no such character


LONGEST = 200  # characters of a channel, an owner, or an id: they are keys of the tables

FIELDS = ("message", "conversationId", "model", "channel", "channelId", "messageId")


def read_question(who: Who, body: Any, models: Mapping[str, object]) -> Question:
    """Check the body of POST /api/chat, and that who asks may. Raises `BadRequest` with every field that is wrong.

    Fields that it does not know are left alone.
    """
    if not isinstance(body, dict):
        raise BadRequest(("body", 'must be a JSON object such as {"message": "Hello"}'))
    sent: dict[str, Any] = body  # pyright: ignore[reportUnknownVariableType] - JSON
    found = {name: sent[name] for name in FIELDS if name in sent}
    for name in ("conversationId", "channelId", "messageId"):
        if found.get(name, "") is None:
            del found[name]  # null says that there is none
    wrong = [(name, problem) for name, value in found.items() if (problem := what_is_wrong(name, value, models))]
    if "message" not in found:
        wrong.insert(0, ("message", "is required: a non-empty string"))
    if wrong:
        raise BadRequest(*wrong)
    channel, owner = place(who, found.get("channel", "web"), found.get("channelId"))
    return Question(
        conversation=found.get("conversationId") or new_conversation(found, owner),
        content=found["message"],
        model=found.get("model", "smart"),
        channel=channel,
        owner=owner,
        message_id=found.get("messageId"),
    )


def read_place(who: Who, query: Mapping[str, str]) -> tuple[str, str | None, bool]:
    """Read whose conversations a query is about: a channel, an owner, and whether it says ``all=true``.

    Raises `BadRequest`, and what `place` raises.
    """
    found = {name: query[name] for name in ("channel", "channelId") if name in query}
    wrong = [(name, problem) for name, value in found.items() if (problem := what_is_wrong(name, value, {}))]
    if query.get("all", "true") != "true":
        wrong.append(("all", "must be true, or absent"))
    if "all" in query and "channelId" in query:
        wrong.append(("all", "cannot be used with a channelId"))
    if wrong:
        raise BadRequest(*wrong)
    everybody = "all" in query
    return *place(who, found.get("channel", "web"), found.get("channelId"), several=everybody), everybody


def what_is_wrong(name: str, value: object, models: Mapping[str, object]) -> str | None:
    if not isinstance(value, str) or not value.strip():
        return "must be a non-empty string"
    if name == "model" and value not in models:
        return f"is not known; use one of {', '.join(models)}"
    if name == "conversationId" and not re.fullmatch(r"[!-~]{1,200}", value):
        return "must be 1 to 200 visible ASCII characters without blanks: it is sent back in a header"
    if name in ("channel", "channelId", "messageId") and len(value) > LONGEST:
        return f"must be 1 to {LONGEST} characters"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "has half of a surrogate pair, which is not Unicode text"
    return "has a NUL character" if "\0" in value else None


def new_conversation(found: Mapping[str, str], owner: str | None) -> str:
    """Return a new conversation's id; for a message with an id always the same, so that a repeat finds it."""
    if "messageId" not in found:
        return str(uuid4())
    parts = (found.get("channel", ""), owner or "", found["messageId"], found["message"])
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def conversation_json(row: Row) -> dict[str, Any]:
    """Return a conversation as clients see it."""
    return {
        "id": row["id"],
        "channel": row["channel"],
        "channelId": row["owner"],
        "model": row["model"],
        "title": row["title"] or "",  # the first words of the first question
        "created": iso(row["created_at"]),
    }


def message_json(row: Row) -> dict[str, Any]:
    """Return a message as clients see it."""
    return {name: row[name] for name in ("role", "content", "state")} | {"created": iso(row["created_at"])}


def iso(moment: float) -> str:
    """Write a moment as JavaScript does: 2026-11-23T08:00:00.000Z."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
