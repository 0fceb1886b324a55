"""CHAT_QUOTA and the shipped ways in: the same questions of the same owner, by the service, by its JWT, by useChat."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app import create_app
from config import Config, Limit
from llm import LLM
from tests.conftest import HEADERS, SECRET, TOKEN
from tests.servers import ModelServer, serving
from tests.tokens import SIGNED, visitor

MINUTE = {"chat_quota": (Limit(3, 60),)}


@pytest.fixture
def replicas(database_url: str, model: ModelServer) -> Iterator[list[str]]:
    settings: dict[str, Any] = {"webchat_token": TOKEN, "cron_secret": SECRET, **SIGNED, **MINUTE}
    config = Config(database_url=database_url, openai_base_url=model.url, **settings)
    with serving(create_app(config, llm=LLM(config))) as one, serving(create_app(config, llm=LLM(config))) as two:
        yield [one, two]


def ask(url: str, owner: str = "alice", headers: dict[str, str] = HEADERS, **body: Any) -> httpx.Response:
    body = {"message": "Hi", **body} | ({"channelId": owner} if headers is HEADERS else {})
    return httpx.post(f"{url}/api/chat", json=body, headers=headers, timeout=60, trust_env=False)


def ask_ui(url: str, owner: str = "alice") -> httpx.Response:
    message = {"role": "user", "parts": [{"type": "text", "text": "Hi"}]}
    body = {"id": "c", "messages": [message], "channelId": owner}
    return httpx.post(f"{url}/api/chat/ui", json=body, headers=HEADERS, timeout=60, trust_env=False)


def listed(url: str, owner: str = "alice") -> list[Any]:
    query = {"channelId": owner}
    answer = httpx.get(f"{url}/api/conversations", params=query, headers=HEADERS, trust_env=False)
    return answer.json()["data"]["conversations"]


def test_every_way_in_counts_and_is_refused_alike(replicas: list[str], model: ModelServer):
    one, two = replicas
    assert ask(one, conversationId="a", message=" ").status_code == 400  # counts for nothing
    for n, url in enumerate([one, two, one]):
        assert ask(url, conversationId=f"c{n}", messageId="m").status_code == 200
    for _ in range(5):
        assert ask(two, conversationId="c1", messageId="m").status_code == 200  # a repeat, from the store
    for c in listed(one):
        httpx.delete(f"{one}/api/conversations/{c['id']}?channelId=alice", headers=HEADERS, trust_env=False)
    refused = [ask(two), ask(one), ask_ui(two), ask(one, headers=visitor("alice"))]
    assert [answer.status_code for answer in refused] == [429] * 4
    for answer in refused:
        assert set(answer.json()) == {"error"}
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert listed(two) == []
    assert len(model.asked) == 3
    assert ask(two, "bob").status_code == 200
