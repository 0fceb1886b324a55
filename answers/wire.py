"""How an answer is told to a client: the frames of /api/chat, and the parts of `useChat`. Nothing here does I/O.

Both turn what a `Reader` gave into events for `EventStream.emit`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from typing_extensions import TypedDict

from answers.live import Answer, Thought
from sse import Framed, encode, framed

# What the AI SDK calls the ends that OpenAI names; its client takes no other words, and "other" for the rest
REASONS = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content-filter",
    "tool_calls": "tool-calls",
    "function_call": "tool-calls",
}


class Wire(Protocol):
    """A way to tell an answer."""

    headers: Mapping[str, str]

    def begin(self, answer: Answer, known: int = 0) -> None:
        """Take the answer that is told from now on, and how many characters of it the client knows."""
        ...

    def start(self) -> Sequence[Any]:
        """Return the events that go out with the status."""
        ...

    def news(self, pieces: Sequence[str]) -> tuple[list[Any], int]:
        """Return the events for the next pieces, and how many of them carry text."""
        ...

    def end(self) -> Sequence[Any]:
        """Return the events behind the last piece of a whole answer."""
        ...

    def error(self, words: str) -> Any:
        """Return the event that says why the answer is not whole."""
        ...


class Frame(TypedDict, total=False):
    """One event of /api/chat: docs/chat.md. It has a ``text``, which may be empty, or the ``error`` at its end."""

    text: str
    reasoning: str
    finish: str
    error: str


class Frames:
    """The frames of /api/chat. The id of each is how many characters of the answer are told with it."""

    headers: Mapping[str, str] = {}

    def __init__(self, *, after: int | None = None, reasoning: bool = False) -> None:
        self.told = after or 0
        self.reasoning = reasoning

    def begin(self, answer: Answer, known: int = 0) -> None:
        self._answer = answer
        self.told = known

    def start(self) -> Sequence[Framed]:
        return ()

    def news(self, pieces: Sequence[str]) -> tuple[list[Framed], int]:
        events: list[Framed] = []
        texts = 0
        for piece in pieces:
            if type(piece) is not Thought:
                texts += 1
                self.told += len(piece)
                events.append(framed(f'{{"text": {encode(piece)}}}', self.told))  # a string alone takes a fifth
            elif self.reasoning:
                events.append(self._framed({"text": "", "reasoning": piece}))
        return events, texts

    def end(self) -> Sequence[Framed]:
        finish = self._answer.finish
        return [self._framed({"text": "", "finish": finish})] if finish not in (None, "stop") else ()

    def error(self, words: str) -> Framed:
        return self._framed({"error": words})

    def _framed(self, frame: Frame) -> Framed:
        return framed(encode(frame), self.told)


class Parts:
    """The parts of a UI message stream, version 1 (https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol)."""

    headers: Mapping[str, str] = {"x-vercel-ai-ui-message-stream": "v1"}

    def __init__(self, *, reasoning: bool = False) -> None:
        self.reasoning = reasoning
        self._answer: Answer | None = None
        self._open = ""  # the kind of the part that is being written
        self._begun = {"text": 0, "reasoning": 0}

    def begin(self, answer: Answer, known: int = 0) -> None:
        self._answer = answer

    def start(self) -> Sequence[Any]:
        # the client puts it in the place of what has the same id; before the question is stored there is none
        id = {"messageId": self._answer.id} if self._answer else {}
        return [{"type": "start", **id}, {"type": "start-step"}]

    def news(self, pieces: Sequence[str]) -> tuple[list[Any], int]:
        events: list[Any] = []
        texts = 0
        for piece in pieces:
            kind = "text" if type(piece) is not Thought else "reasoning"
            if kind == "text":
                texts += 1
            elif not self.reasoning:
                continue
            if self._open != kind:
                events += self._close()
                self._open = kind
                self._begun[kind] += 1
                events.append({"type": f"{kind}-start", "id": self._id(kind)})
            events.append({"type": f"{kind}-delta", "id": self._id(kind), "delta": piece})
        return events, texts

    def end(self) -> Sequence[Any]:
        answer = self._answer
        assert answer is not None
        finish: dict[str, Any] = {"type": "finish", "finishReason": REASONS.get(answer.finish or "stop", "other")}
        usage = {"inputTokens": answer.tokens_in, "outputTokens": answer.tokens_out}
        if counted := {name: tokens for name, tokens in usage.items() if tokens is not None}:
            finish["messageMetadata"] = {"usage": counted}
        return [*self._close(), {"type": "finish-step"}, finish]

    def error(self, words: str) -> Any:
        return {"type": "error", "errorText": words}

    def _close(self) -> list[Any]:
        kind, self._open = self._open, ""
        return [{"type": f"{kind}-end", "id": self._id(kind)}] if kind else []

    def _id(self, kind: str) -> str:
        number = self._begun[kind]
        return kind if number == 1 else f"{kind}-{number}"
