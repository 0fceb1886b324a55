"""A chat completion, read from its bytes: what arrived together as `Read`s, and how the answer ended.

The stream is server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html) of the chunks that
OpenAI documents (https://platform.openai.com/docs/api-reference/chat-streaming). Other servers send other things; the
table in docs/chat.md lists them, and tests/test_dialects.py has a row for each. Nothing here does I/O.

The lines are split here, for 1 us an event. The parsers of httpx2 and of the SDK take 3 and 5 us, JSON not counted
(250 bytes, Python 3.11), and neither drops a BOM or tells of a failure outside of `data:`.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from model.errors import BrokenOff, LLMError, NotAStream, reported

EVENT_BYTES = 1_048_576  # of one event, or one line, or an answer that is no stream
ANSWER_CHARS = 1_000_000  # of one answer's text; of its reasoning as many again

NOTHING: Mapping[str, Any] = {}
BOM = b"\xef\xbb\xbf"

# finish_reason in the words of other servers: in OpenAI's, "error" for a failure, or "null" for no end
FINISHES = {
    "complete": "stop",  # Cohere
    "end_turn": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_length": "length",
    "model_context_window_exceeded": "length",
    "token_limit": "length",  # watsonx
    "function_call": "tool_calls",
    "function_call_filter": "tool_calls",  # Gemini, of a call that is malformed
    "malformed_function_call": "tool_calls",
    "tool_use": "tool_calls",
    "blocklist": "content_filter",  # Vertex AI, as prohibited_content and spii
    "prohibited_content": "content_filter",
    "safety": "content_filter",
    "spii": "content_filter",
    "content_filtered": "content_filter",  # Bedrock
    "guardrail_intervened": "content_filter",
    "error_toxic": "content_filter",  # Cohere
    "recitation": "content_filter",
    "sensitive": "content_filter",
    "refusal": "content_filter",
    "abort": "error",
    "error_limit": "error",  # Cohere
    "network_error": "error",
    "insufficient_system_resource": "error",
    "not_finished": "null",  # watsonx
}
THOUGHT = ("thinking", "reasoning", "summary", "text", "content")  # where a part of the reasoning has its text
TOO_LONG = f"The model sent an event of more than {EVENT_BYTES:,} bytes."
ENDLESS = f"The model's answer is longer than {ANSWER_CHARS:,} characters."
EMPTY = {
    "length": "The model reached its token limit before the first word of its answer.",
    "content_filter": "The content filter of the model server held back the whole answer.",
    "tool_calls": "The model asked for a tool instead of giving an answer.",
}
THOUGHT_TOO_LONG = "The model reached its token limit (its answer's length) while it thought, before its first word."


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


class Pieces:
    """Text that comes in pieces and is given on as whole characters: half of a surrogate pair waits for the other."""

    def __init__(self) -> None:
        self.new: list[str] = []  # since it was last taken
        self.is_spoken = False  # more than blanks came
        self.is_too_long = False
        self._blanks = ""
        self._half = ""
        self._length = 0

    def add(self, text: str) -> None:
        if self._half or not text.isascii():
            text = self._whole_characters(text)
        if not text:
            return
        self._length += len(text)
        if self._length > ANSWER_CHARS:
            self.is_too_long = True
            text = text[: ANSWER_CHARS - self._length]
        if not self.is_spoken:  # blanks alone are no answer: they wait for what follows
            if text.isspace():
                self._blanks += text
                return
            self.is_spoken = True
            text = self._blanks + text
        if text:
            self.new.append(text)

    def end(self) -> None:
        if self._half:
            self._half = ""
            self.add("\ufffd")

    def take(self) -> list[str]:
        new, self.new = self.new, []
        return new

    def _whole_characters(self, text: str) -> str:
        text = self._half + text
        if not text:
            return ""
        self._half = text[-1] if "\ud800" <= text[-1] <= "\udbff" else ""
        text = text.removesuffix(self._half)
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class Completion:
    """An answer as it comes. Bytes go in with `take`; the end of the body is told with `end`.

    The answer is whole after a ``finish_reason`` or ``[DONE]``, and some text before it.
    """

    def __init__(self) -> None:
        self.failure: LLMError | None = None
        self.finish: str | None = None
        self.went_on = False  # text followed a finish_reason
        self.is_done = False  # nothing more is to come
        self._text, self._reasoning = Pieces(), Pieces()
        self._tokens_in: int | None = None
        self._tokens_out: int | None = None
        self._state = Completion._at_bom  # the method that the next bytes go to
        self._rest = b""  # of a line that is not complete
        self._later: list[bytes] = []  # what belongs to it
        self._later_size = 0
        self._is_after_cr = False
        self._event = b""
        self._data: list[bytes] = []
        self._data_size = 0
        self._saw_event = False

    @property
    def has_ended(self) -> bool:
        """Whether a ``finish_reason`` came, so that what follows is no failure.

        A stop before the first word is none: some gateways say it in every chunk (gcli2api), or the first (Open WebUI).
        """
        return self.finish is not None and (self.finish != "stop" or self._text.is_spoken)

    def take(self, chunk: bytes) -> Read | None:
        """Return what the events say that are complete with this chunk; afterwards ``failure`` may be set."""
        if not self.is_done:
            self._state(self, chunk)
        text, reasoning = self._text, self._reasoning
        return Read(text.take(), reasoning.take()) if text.new or reasoning.new else None

    def end(self) -> Read:
        """Return the last `Read`: without a ``finish`` where the answer is not whole, and ``failure`` says why."""
        if not self.is_done and self._state is Completion._in_document:
            self._take_document(b"".join(self._later))
        elif not self.is_done and self._state is Completion._in_lines:
            self._in_lines(b"\n\n")  # an event without its last line end counts
        self._text.end()
        self._reasoning.end()
        if self.failure is None and self.finish is None:
            has_come = self._state is not Completion._at_bom and not self._saw_event
            self._fail(not_a_stream() if has_come else BrokenOff("The model broke off its answer."))
        if self.failure is None and not self._text.is_spoken:
            self._fail(self._emptiness())
        finish = None if self.failure else self.finish
        return Read(self._text.take(), self._reasoning.take(), finish, self._tokens_in, self._tokens_out)

    def _fail(self, failure: LLMError) -> None:
        self.failure = failure
        self.is_done = True

    def _emptiness(self) -> BrokenOff:
        words = EMPTY.get(self.finish or "", "The model gave an empty answer.")
        fix = ""
        if self.finish == "length":
            words = THOUGHT_TOO_LONG if self._reasoning.is_spoken else words
            fix = "Raise the limit on tokens in {setting}_OPTIONS, or lower reasoning_effort there"
        return BrokenOff(words, why=f"finish_reason {self.finish}", fix=fix)

    # From bytes to events. A state takes bytes, and may hand the rest of them to the next.

    def _at_bom(self, chunk: bytes) -> None:
        head = self._rest = self._rest + chunk
        if not BOM.startswith(head):
            self._rest = b""
            self._state = Completion._at_start
            self._at_start(head.removeprefix(BOM))

    def _at_start(self, chunk: bytes) -> None:
        """Tell what this is by its first visible byte: the content type that a server names is often wrong."""
        head = self._rest = (self._rest + chunk).lstrip(b"\r\n")
        visible = head.lstrip()
        if visible[:1] == b"<" or len(head) - len(visible) > EVENT_BYTES:
            self._fail(not_a_stream())
        elif visible:
            is_document = visible[:1] in (b"{", b"[")
            self._rest = b""
            self._state = Completion._in_document if is_document else Completion._in_lines
            self._state(self, head)

    def _in_document(self, chunk: bytes) -> None:
        self._later.append(chunk)
        self._later_size += len(chunk)
        if self._later_size > EVENT_BYTES:
            self._fail(BrokenOff(TOO_LONG))

    def _in_lines(self, chunk: bytes) -> None:
        is_plain = chunk.startswith(b"data: {") and chunk.endswith(b"}\n\n") and chunk.count(b"\n") == 2
        is_plain = is_plain and b"\r" not in chunk and len(chunk) <= EVENT_BYTES
        if is_plain and not (self._later or self._data or self._event):  # nearly always, for half of what follows
            self._saw_event, self._is_after_cr = True, False
            return self._take_json(chunk[6:-2])
        if self._is_after_cr and chunk:
            self._is_after_cr = False
            chunk = chunk.removeprefix(b"\n")  # it belongs to the line end before
        if b"\r" in chunk:
            self._is_after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b"\n" in chunk:
            if self._later:
                chunk = b"".join([*self._later, chunk])
                self._later = []
            *lines, chunk = chunk.split(b"\n")  # as bytes: U+2028 is no line end inside JSON
            self._later_size = 0
            for line in lines:
                self._take_line(line)
                if self.is_done:
                    return
        if chunk:
            self._later.append(chunk)
            self._later_size += len(chunk)
            if self._data_size + self._later_size > EVENT_BYTES:
                self._fail(BrokenOff(TOO_LONG))

    def _take_line(self, line: bytes) -> None:
        if not line:
            if self._data or self._event:
                self._take_event()
        elif self._data_size + len(line) > EVENT_BYTES:
            self._fail(BrokenOff(TOO_LONG))
        elif line.startswith(b"data:"):
            self._data.append(line[5:])
            self._data_size += len(line)
        elif line.startswith(b"event:"):
            self._event = line[6:].strip()
        elif line.startswith(b"error:") and not self.has_ended:  # llama.cpp
            self._fail(reported(json_of(line[6:])))
        elif line.startswith(b"{") and not self.has_ended:  # Lemonade passes on an error as it is
            event = json_of(line) or NOTHING
            if is_failure(event):
                self._fail(reported(event))

    def _take_event(self) -> None:
        name, self._event = self._event, b""
        data = b"\n".join(self._data).strip()
        self._data = []
        self._data_size = 0
        self._saw_event = True
        if name == b"error" and not self.has_ended:
            self._fail(reported(json_of(data)))
        elif not data or (name and name != b"message"):
            return  # an event without data is none, and one of another name is not for us
        elif data == b"[DONE]":
            self.finish = self.finish or "stop"
            self.is_done = True
        else:
            self._take_json(data)

    def _take_json(self, data: bytes) -> None:
        try:
            self._take_chunk(parse(data))
        except (ValueError, AttributeError, LookupError, TypeError, RecursionError):
            if not self.has_ended:
                self._fail(BrokenOff("The model sent something that is not a chat completion."))

    def _take_document(self, data: bytes) -> None:
        """Take a body that is no stream: a whole completion, or an error."""
        document = json_of(data)
        if isinstance(document, list) and document:  # Gemini's errors
            document = document[0]  # pyright: ignore[reportUnknownVariableType] - JSON
        if isinstance(document, dict) and (document.get("choices") or is_failure(document)):  # pyright: ignore - JSON
            self._saw_event = True
            self._take_json(json.dumps(document).encode())
            self.finish = self.finish or "stop"

    # From events to text.

    def _take_chunk(self, event: Any) -> None:
        if event.get("error") or event.get("object") == "error":
            return self._take_failure(event)
        if usage := event.get("usage"):
            self._count(usage)
        if groq := event.get("x_groq"):
            if groq.get("error"):
                return self._take_failure(groq)
            self._count(groq.get("usage"))
        choices = event.get("choices")
        if not choices:
            if is_failure(event):
                self._take_failure(event)
            return
        choice = choices[0]
        if choice.get("index"):  # where several were asked for by an option, the first one is the answer
            choice = next((one for one in choices if not one.get("index")), NOTHING)
        if choice.get("error"):
            return self._take_failure(choice)
        delta = choice.get("delta")
        if delta is None and not self._text.is_spoken:
            delta = choice.get("message")  # a whole completion; elsewhere it repeats what was said
        if delta:
            self._take_delta(delta)
        if (finish := choice.get("finish_reason")) and self.finish in (None, "stop") and not self.is_done:
            self._finish(str(finish).lower(), choice)

    def _take_delta(self, delta: Mapping[str, Any]) -> None:
        content = delta.get("content")
        if content:
            self._say(content)
        if len(delta) > 1 or not content:
            if delta.get("error"):
                return self._take_failure(delta)
            if refusal := delta.get("refusal"):
                self._say(refusal)
            # the same thoughts may stand under two names
            thought = delta.get("reasoning_content") or delta.get("reasoning") or delta.get("thinking")
            if thought := thought or delta.get("reasoning_details"):
                self._think(thought)

    def _say(self, content: Any) -> None:
        """Take text, or parts: those that think go to the reasoning."""
        if isinstance(content, str):
            self.went_on = self.went_on or self.finish is not None
            self._text.add(content)
            if self._text.is_too_long:
                self._fail(BrokenOff(ENDLESS))
        elif isinstance(content, list):
            for part in content:  # pyright: ignore[reportUnknownVariableType] - JSON
                self._say(part)
        elif isinstance(content, dict):
            part: dict[str, Any] = content  # pyright: ignore[reportUnknownVariableType] - JSON
            if part.get("type") in ("thinking", "reasoning"):
                self._think(part)
            elif part.get("type") in ("text", "output_text", "refusal", None):
                self._say(part.get("text") or part.get("refusal"))

    def _think(self, thought: Any) -> None:
        if isinstance(thought, str):
            if thought:
                self._reasoning.add(thought)
            if self._reasoning.is_too_long:
                self._fail(BrokenOff(ENDLESS))
        elif isinstance(thought, list):
            for part in thought:  # pyright: ignore[reportUnknownVariableType] - JSON
                self._think(part)
        elif isinstance(thought, dict):
            part: dict[str, Any] = thought  # pyright: ignore[reportUnknownVariableType] - JSON
            self._think(next((part[name] for name in THOUGHT if part.get(name)), ""))

    def _finish(self, word: str, choice: Mapping[str, Any]) -> None:
        word = word.partition(":")[0]  # Gemini adds its own: "content_filter: SPII"
        word = FINISHES.get(word, word)
        if word == "error":
            self._take_failure(choice)
        elif word != "null":
            self.finish = word if re.fullmatch("[a-z_]{1,40}", word) else "other"
        if usage := choice.get("usage"):  # Moonshot
            self._count(usage)

    def _take_failure(self, holder: Any) -> None:
        if not self.has_ended:
            self._fail(reported(holder))

    def _count(self, usage: Any) -> None:
        self._tokens_in = count_in(usage, "prompt_tokens", "input_tokens") or self._tokens_in
        self._tokens_out = count_in(usage, "completion_tokens", "output_tokens") or self._tokens_out


def parse(data: bytes) -> Any:
    """Parse JSON. Raises `ValueError` and `RecursionError`.

    orjson takes half the time; what it refuses, such as half a surrogate pair or NaN, Python's own reads.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return json.loads(data.decode("utf-8", "replace"))  # as the SSE standard says


def json_of(data: bytes) -> Any:
    try:
        return parse(data.strip())
    except (ValueError, RecursionError):
        return None


def is_failure(event: Mapping[str, Any]) -> bool:
    """Whether an event without choices tells of a failure; others carry usage, or filter results, or nothing."""
    if any(event.get(name) for name in ("error", "errors", "detail", "error_code", "error_msg", "error_message")):
        return True
    if "error" in (event.get("type"), event.get("object")):
        return True
    status: Any = event.get("base_resp")  # MiniMax
    if isinstance(status, dict) and status.get("status_code"):  # pyright: ignore[reportUnknownMemberType] - JSON
        return True
    return bool(event.get("message")) and event.get("code") not in (0, 200, "0", "200")


def count_in(usage: Any, *names: str) -> int | None:
    found = [usage.get(name) for name in names] if isinstance(usage, dict) else []  # pyright: ignore - JSON
    return next((n for n in found if type(n) is int and 0 <= n < 2**53), None)  # pyright: ignore - JSON


def not_a_stream() -> NotAStream:
    return NotAStream(
        "The model server did not send the stream of an answer.",
        fix="OPENAI_BASE_URL is to be the address before /chat/completions, often with /v1 at its end",
    )
