"""How many tokens an answer took, by the front door: in the log, in the store, and in useChat's message."""

import json
import logging
from typing import Any

import httpx
import pytest

from tests.conftest import HEADERS, Serve
from tests.servers import Exchange, ModelServer, two_words, wait_until

QUESTION = {"message": "Hi", "conversationId": "c", "messageId": "q"}
PARTS = {"id": "c", "messages": [{"id": "q", "role": "user", "parts": [{"type": "text", "text": "Hi"}]}]}


async def counts(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.delta("Hello", "stop")
    await exchange.event({"choices": [], "usage": {"prompt_tokens": 4711, "completion_tokens": 815}})
    await exchange.done()


def send(url: str, path: str, body: Any) -> list[Any]:
    response = httpx.post(f"{url}{path}", json=body, headers=HEADERS, timeout=20, trust_env=False)
    return [json.loads(line[6:]) for line in response.text.split("\n") if line.startswith("data: {")]


def kept(url: str) -> tuple[Any, Any]:
    response = httpx.get(f"{url}/api/conversations/c", headers=HEADERS, trust_env=False)
    last = response.json()["data"]["messages"][-1]
    return last["tokensIn"], last["tokensOut"]


@pytest.fixture(params=[False, True], ids=["httpx2", "aiohttp"])
def url(request: pytest.FixtureRequest, serve: Serve, model: ModelServer, caplog: pytest.LogCaptureFixture) -> str:
    caplog.set_level(logging.INFO, "request")
    model.answer = counts
    return serve(openai_base_url=model.url, aiohttp=request.param)


@pytest.mark.parametrize(("path", "body"), [("/api/chat", QUESTION), ("/api/chat/ui", PARTS)])
def test_tokens_are_in_the_log_and_in_the_stored_message(
    url: str, model: ModelServer, caplog: pytest.LogCaptureFixture, path: str, body: Any
):
    send(url, path, body)
    assert kept(url) == (4711, 815)
    wait_until(lambda: "tokens_in=4711 tokens_out=815" in caplog.text)


def test_tokens_are_in_the_metadata_of_the_client_s_message_now_and_when_it_comes_back(url: str):
    usage = {"usage": {"inputTokens": 4711, "outputTokens": 815}}
    assert send(url, "/api/chat/ui", PARTS)[-1] == {"type": "finish", "finishReason": "stop", "messageMetadata": usage}
    stream = httpx.get(f"{url}/api/chat/ui/c/stream", headers=HEADERS, trust_env=False).text
    assert json.dumps(usage)[1:-1] in stream


def test_a_model_that_does_not_count_leaves_all_of_them_out(
    url: str, model: ModelServer, caplog: pytest.LogCaptureFixture
):
    model.answer = two_words
    assert send(url, "/api/chat/ui", PARTS)[-1] == {"type": "finish", "finishReason": "stop"}
    assert kept(url) == (None, None)
    wait_until(lambda: "pieces=2" in caplog.text)
    assert "tokens" not in caplog.text
