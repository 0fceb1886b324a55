"""Webhooks: a file in channels/ says how one sender signs its deliveries, and what is to be done with them.

A delivery is answered 200 once its events are rows of the job table, on disk, and before anything is done about
them: a job of the channel's own does that later. An event's id is the sender's, so that one that is delivered again
is stored, and run, once. docs/webhooks.md is the manual.
"""

import hashlib
import inspect
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from starlette.requests import Request
from starlette.responses import Response

from loader import load_files
from worker import JobFile, job_file
from worker.table import LONGEST, Encoded

logger = logging.getLogger("webhooks")

OPTIONAL = ("parse", "events", "lane", "handshake", "challenge", "answer")


@dataclass(frozen=True, kw_only=True)
class Channel:
    """One file of the channels folder. Its functions are plain, since the sender waits; `verify` may be async."""

    name: str
    file: str
    job: JobFile  # runs each event: async def run(job, state)
    verify: Callable[[Request[Any], bytes], bool | Awaitable[bool]]  # whether the body is the sender's
    key: Callable[[Request[Any], Any], str | int]  # the event's id, the same when it is delivered again
    parse: Callable[[Request[Any], bytes], Any] | None = None  # the body, read; default: as JSON
    events: Callable[[Any], Sequence[Any]] = lambda payload: [payload]  # what one delivery holds; [] to ignore it
    lane: Callable[[Any], str | int | None] = lambda event: None  # events of one lane are run one at a time, in order
    handshake: Callable[[Any], Response | None] | None = None  # the answer to a payload that is no event
    challenge: Callable[[Request[Any]], Response | str | None] | None = None  # the answer to GET; None: 401
    answer: Callable[[Any], Response] | None = None  # the answer to a delivery that is on disk; default: {"new": 1}


class Event(NamedTuple):
    """One event of a delivery, as it is put: ``id`` and ``lane`` begin with the channel's name."""

    id: str
    lane: str | None
    payload: Encoded


def load_channels(root: Path) -> dict[str, Channel]:
    """Load the files of a channels folder, by name; {} where there is none. Problems: see `load_files`."""
    return load_files(root, channel_file)


def channel_file(name: str, shown: str, found: Mapping[str, Any]) -> Channel:
    """Read what a channel's module defines. Raises `ValueError` with the fix."""
    functions = {word: found[word] for word in ("verify", "key", *OPTIONAL) if word in found}
    for word, fix in (("verify", "def verify(request, body): ... True or False"), ("key", "def key(request, event):")):
        if word not in functions:
            raise ValueError(f"has no function {word!r}. Write: {fix}")
    for word, function in functions.items():
        if not inspect.isfunction(function) or (inspect.iscoroutinefunction(function) and word != "verify"):
            raise ValueError(f"{word} must be a plain function. Write: def {word}(...), and do what waits in run(job)")
    settings = {word: found[word] for word in ("__name__", "run", "attempts", "timeout", "at_once") if word in found}
    return Channel(name=name, file=shown, job=job_file(f"webhook:{name}", shown, settings), **functions)


async def is_senders(channel: Channel, request: Request[Any], body: bytes) -> bool:
    """Whether a body is the sender's: True alone says so, not a coroutine nor anything else that is true."""
    try:
        said: object = channel.verify(request, body)
        return (await said if inspect.isawaitable(said) else said) is True
    except Exception as exc:  # whose it is cannot be told: 500, and a sender delivers again
        exc.add_note(f"while {channel.file} verified a delivery")
        raise


def read_body(channel: Channel, request: Request[Any], body: bytes) -> Any:
    """Read a body that is the sender's; as its text where the channel's own `parse` fails. Raises `ValueError`."""
    if channel.parse is None:
        return json.loads(body)
    try:
        payload = channel.parse(request, body)
        json.dumps(payload)  # what is no JSON could not be stored
        return payload
    except ValueError:  # it says so: this is not what the sender sends
        raise
    except Exception:
        logger.exception("%s: cannot read a delivery; it is kept as text", channel.file)
        return body.decode(errors="replace")


def handshake_with(channel: Channel, payload: Any) -> Response | None:
    """The channel's answer to a payload that is no event; None where it is one, or nobody can tell: it is stored."""
    if channel.handshake is None:
        return None
    try:
        answer: Any = channel.handshake(payload)
        if answer is not None and not isinstance(answer, Response):
            raise TypeError(f"handshake returned {type(answer).__name__}, not a Response or None")
        return answer
    except Exception:
        logger.exception("%s: cannot tell whether a delivery is a handshake; it is taken for events", channel.file)
        return None


def answer_to(channel: Channel, payload: Any) -> Response | None:
    """The channel's own answer to a delivery that is on disk; None where it has none, or cannot tell."""
    if channel.answer is None:
        return None
    try:
        answer: Any = channel.answer(payload)
        if isinstance(answer, Response):
            return answer
        raise TypeError(f"answer returned {type(answer).__name__}, not a Response")
    except Exception:  # 500 would have it delivered again, though nothing is lost
        logger.exception("%s: cannot make the answer; the sender gets 200", channel.file)
        return None


def events_of(channel: Channel, request: Request[Any], payload: Any) -> list[Event]:
    """Tell the events of a delivery apart.

    What a channel cannot read was signed by the sender all the same, so it is kept too, under its digest: its job
    fails, and stays as a dead letter until somebody has looked at it.
    """
    try:
        events: Any = channel.events(payload)
        if isinstance(events, str | bytes | Mapping):  # its letters, or its names alone, would be stored
            raise TypeError(f"events returned {type(cast('object', events)).__name__}, not a list")
        found = [as_json(event) for event in events]
    except Exception:
        logger.exception("%s: cannot tell the events of a delivery apart; it is kept whole", channel.file)
        found = [as_json(payload)]
    return [_event(channel, request, event, payload) for event, payload in found]


def as_json(event: Any) -> tuple[Any, Encoded]:
    """Return an event as JSON has it, and encoded: null for NaN and Infinity, as JavaScript writes them."""
    try:
        return event, Encoded(json.dumps(event, allow_nan=False))
    except ValueError:
        event = json.loads(json.dumps(event), parse_constant=lambda word: None)
        return event, Encoded(json.dumps(event))


def _event(channel: Channel, request: Request[Any], event: Any, payload: Encoded) -> Event:
    try:
        key, lane = channel.key(request, event), channel.lane(event)
        return Event(_name(channel, key), None if lane is None else _name(channel, lane), payload)
    except Exception:
        logger.exception("%s: cannot tell the id of an event; it is kept under its digest", channel.file)
        return Event(_name(channel, hashlib.sha256(payload.text.encode()).hexdigest()), None, payload)


def _name(channel: Channel, text: object) -> str:
    """Name an event or a lane: telegram:42. What is long or odd becomes its digest: no database refuses that."""
    if not isinstance(text, str | int) or isinstance(text, bool) or text == "":
        raise TypeError(f"a non-empty text is required, not {type(text).__name__}")
    if not re.fullmatch("[!-~]+", str(text)) or len(f"{channel.name}:{text}") > LONGEST:
        text = hashlib.sha256(str(text).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{channel.name}:{text}"
