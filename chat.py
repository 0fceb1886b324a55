"""One turn of a conversation: the question is stored, the model asked, and its answer told to whoever reads.

What /api/chat, its variants and the channels share. Nothing here depends on how the answer is put on the wire.
"""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Annotated, Any, Literal
from uuid import uuid4

import anyio
from pydantic import AfterValidator, Field, StrictBool
from starlette.requests import Request

from answers import Answer, Write
from answers.live import clean
from answers.wire import Wire
from auth import Who, place, who_asks
from db import Row
from errors import BadRequest
from llm import LLMError
from quota import OverQuota
from sse import Emit, EventStream, Pace
from state import State
from store import NotFound, Question, Turn, answer_id
from worker import Job

OVER = "You have asked as many questions as are possible for now. Please try again later."


async def ask(state: State, question: Question, *, again: bool = False) -> Answer:
    """Return the answer to a question: one that begins now, is being written, or was written before.

    It is written by a task of the app, whoever reads. With ``again`` it is written once more. Raises what
    `Answers.begin` raises; what the model fails with is raised in the answer's readers.
    """
    return await state["answers"].begin(question, _writer(state, question), again=again)


async def reply(state: State, job: Job, *, channel_id: str, text: str) -> str:
    """Answer what somebody said in a channel, whole: in the conversation of the job's channel and the channel's id.

    The job's id is the message's, so that a job that is tried again finds the answer that was given before. Raises
    `ValueError` where nothing was said, and what `LLM.chat_reads` raises. Somebody who asked as much as CHAT_QUOTA
    allows is told so once, and then "" is returned until a question may be asked again.
    """
    if not isinstance(text, str) or not text.strip():  # pyright: ignore[reportUnnecessaryIsInstance] - as it was sent
        raise ValueError("a message without text")
    channel = job["name"].removeprefix("webhook:")
    question = Question(
        conversation=f"{channel}:{channel_id}",
        content=clean(text),  # nobody could be told that a character is refused
        channel=channel,
        owner=channel_id,
        message_id=job["id"],
    )
    answers = state["answers"]
    try:
        # an heir: the claim on the job says that nobody else is writing this answer, however lately somebody was
        answer = await answers.begin(question, _writer(state, question), heir=True, counts=False)
    except OverQuota as over:
        quota, now = state["store"].quota, state["store"].clock()
        return OVER if await quota.is_to_be_told(channel, channel_id, job["id"], over, now) else ""
    try:
        with answer.reader() as reader:
            while await reader.news():
                pass
    except anyio.get_cancelled_exc_class():
        with anyio.CancelScope(shield=True):
            await answers.stop(answer.turn, "server")
        raise
    return answer.text


def _writer(state: State, question: Question) -> Write:
    async def write(turn: Turn, answer: Answer) -> None:
        """Ask the model, and add to the answer what it says."""
        messages = dialogue(await _history(state, turn))
        if prompt := state["config"].system_prompt:
            messages.insert(0, {"role": "system", "content": prompt})
        try:
            with Pace.of_loop() as pace:
                async with aclosing(state["llm"].chat_reads(question.model, messages)) as reads:
                    async for read in reads:
                        answer.add(read.text, read.reasoning)
                        if read.finish is not None:
                            answer.finish, answer.tokens_in, answer.tokens_out = read[2:]
                        if pace.rest:
                            await asyncio.sleep(pace.rest)  # what comes meanwhile is read at once
        except LLMError as exc:
            answer.reason = str(exc)
            raise

    return write


async def _history(state: State, turn: Turn) -> list[Row]:
    """Return what the model is told. An answer of another process that nobody reads any more ends first."""
    store, budget = state["store"], state["config"].chat_history_chars
    rows = await store.history(turn, budget)
    running = {row["turn"] for row in rows if row["is_running"]}
    if running and await state["answers"].end_unread(running):
        rows = await store.history(turn, budget)
    return rows


def told_by(
    request: Request[State],
    find: Callable[[], Awaitable[Answer]],
    wire: Wire,
    *,
    after: int | None = None,
    at_once: bool = False,
    headers: Mapping[str, str] | None = None,
) -> EventStream:
    """Return the response that tells an answer in the words of a wire, from a place on.

    With ``at_once`` the status does not wait for the first piece.
    """

    async def write(emit: Emit) -> None:
        answer = await find()
        with answer.reader(after) as reader:
            wire.begin(answer, reader.told)
            if at_once:
                await emit(pieces=0)
            while pieces := await reader.news():
                events, texts = wire.news(pieces)
                if events:
                    await emit(*events, pieces=texts)
        if end := wire.end():
            await emit(*end, pieces=0)
        tokens = {"tokens_in": answer.tokens_in, "tokens_out": answer.tokens_out}
        request.scope.get("log", {}).update({name: count for name, count in tokens.items() if count is not None})

    return EventStream(write, headers={**wire.headers, **(headers or {})}, on_error=wire.error, opening=wire.start)


def follow(request: Request[State], turn: Turn, id: str, wire: Wire, after: int | None = None) -> EventStream:
    """Return the response that tells the answer of a conversation that was begun by another request."""
    request.scope.get("log", {})["conversation"] = id

    async def find() -> Answer:
        return request.state["answers"].of(turn)

    return told_by(request, find, wire, after=after, at_once=True)


def dialogue(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Make a valid dialogue of a conversation's newest messages: user, assistant, user ..., as strict models want it.

    A question whose answer has no text is joined with the next one. One that is being answered right now is left
    out, and so is an answer whose question is too old to be told.
    """
    told: list[dict[str, str]] = []
    waiting: list[str] = []
    for row in rows:
        if row["role"] == "user":
            waiting.append(row["content"])
        elif row["is_running"]:
            waiting = waiting[:-1]
        elif waiting and (said := without_thinking(row["content"])).strip():
            told += [_message("user", waiting), _message("assistant", [said])]
            waiting = []
    return [*told, _message("user", waiting)]


def _message(role: str, texts: Sequence[str]) -> dict[str, str]:
    once = [text for text, _ in groupby(texts)]  # a question that was tried twice
    return {"role": role, "content": "\n\n".join(once)}


def without_thinking(text: str) -> str:
    """Return an answer without the reasoning that its model put before it, in ``<think>...</think>``.

    Some templates leave out the first half, so that the second one stands on a line of its own; an answer that was cut
    while its model thought has no second half.
    """
    start = end = 0
    while text.startswith("<think>", start := after_blanks(text, end)):
        end = text.find("</think>", start)
        if end < 0:
            return ""
        end += len("</think>")
    if end:
        return text[start:]
    plan, half, rest = text.partition("</think>")
    alone = plan.rstrip(" \t")[-1:] in ("", "\n") and rest.lstrip(" \t")[:1] in ("", "\n")
    return rest.lstrip() if half and alone else text


def after_blanks(text: str, start: int) -> int:
    found = re.compile(r"\S").search(text, start)
    return found.start() if found else len(text)


LONGEST = 200  # characters of a channel, an owner, or an id: they are keys of the tables


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("must be a non-empty string")
    if "\0" in value:
        raise ValueError("has a NUL character")  # which PostgreSQL does not take
    return value


def _id(value: str) -> str:
    if not re.fullmatch("[!-~]+", value):
        raise ValueError("must be 1 to 200 visible ASCII characters without blanks: it is sent back in a header")
    if value in (".", ".."):
        raise ValueError("must be another id: no path leads to this one, so it could not be read or deleted")
    return value


Text = Annotated[str, Field(min_length=1), AfterValidator(_text)]
Key = Annotated[Text, Field(max_length=LONGEST)]
Flag = Literal["true", "false"]


@dataclass
class Asked:
    """The body of POST /api/chat: docs/chat.md."""

    message: Text
    conversationId: Annotated[Key, AfterValidator(_id)] | None = None
    model: Literal["smart", "fast"] = "smart"
    channel: Key = "web"
    channelId: Key | None = None
    messageId: Key | None = None
    reasoning: StrictBool = False


@dataclass
class Place:
    """Whose conversations a query is about."""

    channel: Key = "web"
    channelId: Key | None = None


@dataclass
class Following(Place):
    """The query of who follows an answer, or comes back to it."""

    reasoning: Flag = "false"


def read_question(who: Who, asked: Asked) -> Question:
    """Return the question, if who asks may ask it. Raises what `place` raises."""
    channel, owner = place(who, asked.channel, asked.channelId)
    return Question(
        conversation=asked.conversationId or new_conversation(asked, owner),
        content=asked.message,
        model=asked.model,
        channel=channel,
        owner=owner,
        message_id=asked.messageId,
        reasoning=asked.reasoning,
    )


async def read_key(request: Request[State], query: Place) -> tuple[str, str | None, str]:
    """Return the channel, the owner and the id of the conversation in a path. An operator need not know the owner.

    Raises `BadRequest`, `NotFound` for what can be no id, and what `place` raises.
    """
    id, who = request.path_params["id"], who_asks(request)
    channel, owner = place(who, query.channel, query.channelId)
    if "\0" in id:
        raise NotFound(id)  # PostgreSQL has no such character
    if who.kind == "operator" and owner is None:
        owners = await request.state["store"].owners(id, channel)
        if len(owners) > 1:
            raise BadRequest(("channelId", "is required: several have a conversation of this id"))
        owner = owners[0] if owners else None
    return channel, owner, id


def read_after(request: Request[State], after: str = "") -> int | None:
    """Return after how many characters a client wants to go on: ``?after=12``, or what `EventSource` sends by itself.

    Raises `BadRequest`.
    """
    header = request.headers.get("last-event-id", "")
    if not re.fullmatch("[0-9]{0,9}", header):
        raise BadRequest(("Last-Event-ID", "must be the id of the last event that was read, a number of characters"))
    return int(header or after) if header or after else None


def new_conversation(asked: Asked, owner: str | None) -> str:
    """Return a new conversation's id; for a message with an id always the same, so that a repeat finds it."""
    if asked.messageId is None:
        return str(uuid4())
    return hashlib.sha256("\0".join(("", owner or "", asked.messageId, asked.message)).encode()).hexdigest()[:32]


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


def messages_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return a conversation's messages as clients see them, oldest first. An answer's id is made of its question's."""
    found: list[dict[str, Any]] = []
    for row in rows:
        is_answer = row["role"] == "assistant" and found
        message = {"id": answer_id(found[-1]["id"]) if is_answer else row["id"]}
        message |= {name: row[name] for name in ("role", "content", "state")} | {"created": iso(row["created_at"])}
        if row["role"] == "assistant":
            message |= {"finish": row["finish"], "reason": row["reason"]}
            message |= {"tokensIn": row["tokens_in"], "tokensOut": row["tokens_out"]}
        found.append(message)
    return found


def iso(moment: float) -> str:
    """Write a moment as JavaScript does: 2026-11-23T08:00:00.000Z."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
