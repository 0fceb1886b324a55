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


class Offline(httpx2.AsyncBaseTransport):
    """Answers every chat completion request by repeating the last message."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body: dict[str, Any] = json.loads(await request.aread())
        question = next((m["content"] for m in reversed(body["messages"]) if m["role"] == "user"), "")
        return httpx2.Response(
            200, headers={"content-type": "text/event-stream"}, stream=Stream(ANSWER.format(question=question))
        )


class Stream(httpx2.AsyncByteStream):
    """A text as a chat completion stream, some words at a time."""

    def __init__(self, text: str) -> None:
        words = re.findall(r"\S+\s*|\s+", text)
        size = -(-len(words) // PIECES)
        self.pieces = ["".join(words[i : i + size]) for i in range(0, len(words), size)]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield _chunk({"content": piece}, None)
            await anyio.sleep(PAUSE)
        yield _chunk({}, "stop") + b"data: [DONE]\n\n"


def _chunk(delta: dict[str, str], finish_reason: str | None) -> bytes:
    event = {
        "id": "chatcmpl-offline",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "offline",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }
    return b"data: " + json.dumps(event).encode() + b"\n\n"
