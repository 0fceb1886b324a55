"""A chat completion, read from its bytes: what arrived together as `Read`s, and how the answer ended.

The stream is server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html) of the chunks that
OpenAI documents (https://platform.openai.com/docs/api-reference/chat-streaming). Nothing here does I/O.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

NOTHING: Mapping[str, Any] = {}


class LLMError(Exception):
    """The model did not give a whole answer. The text is ours, and safe to show to a client.

    ``fix`` is for who runs the app: which setting to change, where that can be told.
    """

    fix = ""


class BrokenOff(LLMError):
    """The answer began, or should have, and did not come to its end."""


class Read(NamedTuple):
    """What arrived together. The last one of an answer, and no other, has a ``finish``.

    ``finish`` is OpenAI's word: stop, length, content_filter, tool_calls, ... The tokens are what the model server
    counted, where it tells.
    """

    text: list[str]
    reasoning: list[str]
    finish: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None


class Completion:
    """A chat completion stream, read from its bytes.

    Its end is a ``finish_reason`` or ``[DONE]``, after some text. An error event is an end that failed.
    """

    def __init__(self) -> None:
        self.is_done = False  # nothing more is to come
        self._finish: str | None = None
        self._spoken = False
        self._rest: list[bytes] = []
        self._data: list[bytes] = []

    def take(self, chunk: bytes) -> tuple[list[str], BrokenOff | None]:
        """Return the text of the events that are complete with this chunk, also of those before a failure."""
        pieces: list[str] = []
        self._rest.append(chunk)
        if b"\n" not in chunk:
            return pieces, None
        *lines, last = b"".join(self._rest).split(b"\n")  # as bytes: U+2028 is no line end inside JSON
        self._rest = [last]
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:])
            elif not line and self._data:
                data = b"\n".join(self._data).strip()
                self._data.clear()
                if data == b"[DONE]":
                    self.is_done = True
                    self._finish = self._finish or "stop"
                    break
                try:
                    error, text, finish = read_chunk(data)
                except BrokenOff as failure:
                    return pieces, failure
                if error:
                    return pieces, BrokenOff("The model reported an error.")
                self._finish = self._finish or finish
                if text:
                    self._spoken = True
                    pieces.append(text)
        return pieces, None

    def end(self) -> tuple[Read, BrokenOff | None]:
        """Return the last `Read`, with what an event without its last line end says, or why the answer is not whole."""
        pieces: list[str] = []
        failure = None
        if not self.is_done:
            pieces, failure = self.take(b"\n\n")
        if not failure and not self._finish:
            failure = BrokenOff("The model broke off its answer.")
        if not failure and not self._spoken:
            failure = BrokenOff("The model gave an empty answer.")
        return Read(pieces, [], None if failure else self._finish), failure


DECODER = json.JSONDecoder()  # json.loads() would look for blanks around each value, and guess the encoding of bytes


def read_chunk(data: bytes) -> tuple[bool, str, str | None]:
    """Read one chunk of a chat completion: whether it is an error, its text, and why it is the last, if it is."""
    try:
        source = data.decode()
        event, end = DECODER.raw_decode(source)
        if end < len(source):
            raise ValueError
        choices: list[Any] = event.get("choices") or [NOTHING]
        delta: Mapping[str, Any] = choices[0].get("delta") or NOTHING
        text = delta.get("content")
        finish = choices[0].get("finish_reason")
        return bool(event.get("error")), text if isinstance(text, str) else "", str(finish) if finish else None
    except (ValueError, AttributeError, LookupError, TypeError, RecursionError):
        raise BrokenOff("The model sent what is not a chat completion.") from None
