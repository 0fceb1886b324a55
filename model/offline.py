"""The offline model: a model server inside this process, for when none is configured.

It is a transport of the `openai` client, so its answer takes the same way as a real one: the same request, the
same bytes of a chat completion stream, the same code to read them.
"""

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx2

PAUSE = 0.02  # seconds between pieces: fast enough to wait for, slow enough to see
PIECES = 100  # at most: a long question is repeated in longer pieces

ANSWER = (
    "I am the offline model that comes with this app, not a real one. You asked: {question}\n"
    "To connect a real model, set OPENAI_API_KEY, or OPENAI_BASE_URL for a server of your own, and start again."
)
THOUGHTS = "This is an offline model. It has no thoughts of its own, so these have to do. "


class Offline(httpx2.AsyncBaseTransport):
    """Answers every chat completion request by repeating the last message.

    A message that begins with one of these words shows what a real model does at times: /think thinks first, /length
    and /filter cut the answer, /error breaks it off, /busy refuses it.
    """

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body: dict[str, Any] = json.loads(await request.aread())
        question = next((m["content"] for m in reversed(body["messages"]) if m["role"] == "user"), "")
        word = (question.split() or [""])[0]
        if word == "/busy":
            return httpx2.Response(429, headers={"retry-after": "20"}, json={"error": {"code": "rate_limit_exceeded"}})
        return httpx2.Response(
            200, headers={"content-type": "text/event-stream"}, stream=Stream(ANSWER.format(question=question), word)
        )


class Stream(httpx2.AsyncByteStream):
    """A text as a chat completion stream, some words at a time."""

    def __init__(self, text: str, word: str = "") -> None:
        self.thoughts = pieces_of(THOUGHTS) if word == "/think" else []
        self.pieces = pieces_of(text)
        if word in ("/length", "/filter", "/error"):
            del self.pieces[len(self.pieces) // 2 :]
        self.fails = word == "/error"
        self.finish = {"/length": "length", "/filter": "content_filter"}.get(word, "stop")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for name, pieces in (("reasoning_content", self.thoughts), ("content", self.pieces)):
            for piece in pieces:
                yield _chunk({name: piece}, None)
                await anyio.sleep(PAUSE)
        if self.fails:
            yield b'data: {"error": {"code": "offline_model_error"}}\n\n'
        else:
            yield _chunk({}, self.finish) + b"data: [DONE]\n\n"


def pieces_of(text: str) -> list[str]:
    words = re.findall(r"\S+\s*|\s+", text)
    size = -(-len(words) // PIECES)
    return ["".join(words[i : i + size]) for i in range(0, len(words), size)]


def _chunk(delta: dict[str, str], finish_reason: str | None) -> bytes:
    event = {
        "id": "chatcmpl-offline",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "offline",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }
    return b"data: " + json.dumps(event).encode() + b"\n\n"
