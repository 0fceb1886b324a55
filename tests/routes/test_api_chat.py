"""POST /api/chat, by the front door: the app on one real socket, a model server of ours on another."""

import json
import re
from typing import Any, get_args, get_type_hints

import httpx
import pytest

from chat import Asked
from config import Config
from tests.conftest import TOKEN, Serve
from tests.servers import Exchange, ModelServer, wait_until

Headers = dict[str, str]


async def ask(url: str, body: Any = None, **options: Any) -> httpx.Response:
    body = {"message": "Hi"} if body is None else body
    headers = {"Authorization": f"Bearer {TOKEN}"} | options.pop("headers", {})
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.post(f"{url}/api/chat", json=body, headers=headers, timeout=20, **options)


def frames(response: httpx.Response) -> list[Any]:
    """The data of each frame; the frames must be as chat.md writes them, byte for byte."""
    parts = response.content.split(b"\n\n")
    assert parts.pop() == b""
    assert parts.pop() == b"data: [DONE]"
    assert all(re.match(rb"id: [0-9]+\ndata: {", part) for part in parts)
    return [*(json.loads(part.partition(b"\ndata: ")[2]) for part in parts), "[DONE]"]


async def test_an_answer_is_streamed_as_it_is_written(serve: Serve, model: ModelServer):
    response = await ask(serve(openai_base_url=model.url))
    assert response.status_code == 200
    assert response.content == b'id: 3\ndata: {"text": "Hel"}\n\nid: 5\ndata: {"text": "lo"}\n\ndata: [DONE]\n\n'
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["cache-control"] == "no-cache, no-store"
    assert response.headers["connection"] == "keep-alive"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["x-conversation-id"]


async def test_a_piece_arrives_before_the_next_is_written(serve: Serve, model: ModelServer):
    url = serve(openai_base_url=model.url, chat_leave_seconds=0)

    async def one_word(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.delta("Hel")
        await exchange.hang()

    model.answer = one_word
    async with (
        httpx.AsyncClient(trust_env=False) as client,
        client.stream(
            "POST", f"{url}/api/chat", json={"message": "Hi"}, headers={"Authorization": f"Bearer {TOKEN}"}
        ) as response,
    ):
        assert await anext(response.aiter_bytes()) == b'id: 3\ndata: {"text": "Hel"}\n\n'
        assert model.aborted == 0
    wait_until(lambda: model.aborted == 1)


async def test_the_model_gets_the_message_and_the_name_behind_the_alias(serve: Serve, model: ModelServer):
    url = serve(openai_base_url=model.url, openai_api_key="sk-test", model_fast="tiny")
    await ask(url, {"message": "Grüße 👋", "model": "fast"})
    assert model.asked[0]["messages"][-1] == {"role": "user", "content": "Grüße 👋"}
    assert (model.asked[0]["model"], model.asked[0]["stream"]) == ("tiny", True)
    assert model.exchanges[0].headers["authorization"] == "Bearer sk-test"


async def test_the_conversation_id_comes_back(serve: Serve, model: ModelServer):
    url = serve(openai_base_url=model.url)
    response = await ask(url, {"message": "Hi", "conversationId": "abc-1", "channelId": None})
    assert response.headers["x-conversation-id"] == "abc-1"


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer é"])
async def test_without_the_token_nothing_is_answered(serve: Serve, model: ModelServer, header: str | None):
    url = serve(openai_base_url=model.url)
    headers: Any = {} if header is None else {"Authorization": header.encode()}
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.post(f"{url}/api/chat", json={"message": "Hi"}, headers=headers)
    assert (response.status_code, response.json()) == (401, {"error": "Unauthorized"})
    assert response.headers["www-authenticate"] == "Bearer"
    assert model.asked == []


async def test_an_unset_token_lets_nobody_in(serve: Serve):
    for header in ("Bearer", "Bearer None", "Bearer undefined"):
        assert (await ask(serve(webchat_token=None), headers={"Authorization": header})).status_code == 401


async def test_both_tokens_are_good_while_one_replaces_the_other(serve: Serve, model: ModelServer):
    url = serve(openai_base_url=model.url, webchat_token="new,old")
    for token, status in (("new", 200), ("old", 200), ("new,old", 401), ("ne", 401)):
        assert (await ask(url, headers={"Authorization": f"bearer {token}"})).status_code == status


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ([], "body", "must be an object"),
        ("Hi", "body", "must be an object"),
        ({}, "message", "is required"),
        ({"message": None}, "message", "must be a non-empty string"),
        ({"message": ""}, "message", "must be a non-empty string"),
        ({"message": " \n"}, "message", "must be a non-empty string"),
        ({"message": 7}, "message", "must be a non-empty string"),
        ({"message": ["Hi"]}, "message", "must be a non-empty string"),
        ({"message": "Hi", "model": "gpt-9"}, "model", 'must be one of "smart", "fast"'),
        ({"message": "Hi", "model": None}, "model", 'must be one of "smart", "fast"'),
        ({"message": "Hi", "conversationId": 7}, "conversationId", "must be a string of 1 to 200 characters or null"),
        ({"message": "Hi", "conversationId": "a\r\nX-Evil: 1"}, "conversationId", "visible ASCII"),
        ({"message": "Hi", "conversationId": "é"}, "conversationId", "visible ASCII"),
        ({"message": "Hi", "conversationId": "."}, "conversationId", "no path leads"),
        ({"message": "Hi", "conversationId": ".."}, "conversationId", "no path leads"),
        ({"message": "Hi", "channel": {}}, "channel", "must be a string of 1 to 200 characters"),
        ({"message": "Hi", "channelId": 1}, "channelId", "must be a string of 1 to 200 characters or null"),
        ({"message": "Hi", "reasoning": 1}, "reasoning", "must be true or false"),
        ({"message": "Hi", "reasoning": "true"}, "reasoning", "must be true or false"),
        ({"message": "Hi", "reasoning": None}, "reasoning", "must be true or false"),
    ],
)
async def test_a_wrong_field_is_400_and_named(serve: Serve, model: ModelServer, body: Any, field: str, words: str):
    response = await ask(serve(openai_base_url=model.url), body)
    assert response.status_code == 400
    [detail] = response.json()["details"]
    assert detail["field"] == field
    assert words in detail["message"]
    assert model.asked == []


async def test_all_wrong_fields_are_named_at_once(serve: Serve):
    response = await ask(serve(), {"model": "gpt-9", "channel": 1})
    assert [detail["field"] for detail in response.json()["details"]] == ["message", "model", "channel"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"Hi", b"\xff", b'{"message": "\xff"}', b"[" * 100_000, b'{"message": ' + b"9" * 5000 + b"}"],
    ids=["empty", "cut", "text", "bytes", "not UTF-8", "nested", "number"],
)
async def test_what_is_not_json_is_400(serve: Serve, bearer: Headers, body: bytes):
    url = serve()
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.post(f"{url}/api/chat", content=body, headers=bearer)
    assert (response.status_code, response.json()["error"]) == (400, "Invalid request")
    assert response.json()["details"][0]["field"] in ("body", "message")


async def test_half_of_a_surrogate_pair_is_400(serve: Serve, bearer: Headers):
    url = serve()
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.post(f"{url}/api/chat", content=b'{"message": "\\ud83d"}', headers=bearer)
    assert response.status_code == 400
    assert response.json()["details"][0]["message"].startswith("is not JSON: unexpected end of hex escape")


@pytest.mark.parametrize("kind", [None, "text/plain;charset=UTF-8", "application/x-www-form-urlencoded"])
async def test_a_body_is_read_whatever_its_content_type_says(serve: Serve, bearer: Headers, kind: str | None):
    headers = bearer | ({"Content-Type": kind} if kind else {})  # what fetch, sendBeacon and curl -d say by themselves
    url = serve()
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.post(f"{url}/api/chat", content=b'{"message": "Hi"}', headers=headers)
    assert response.status_code == 200


def test_the_models_that_a_client_may_name_are_those_of_the_settings():
    assert get_args(get_type_hints(Asked)["model"]) == tuple(Config().models)


async def fails_with(exchange: Exchange, status: int, **headers: str) -> None:
    await exchange.head(status, **headers)


@pytest.mark.parametrize(
    ("status", "headers", "answered"),
    [(400, {}, 502), (401, {}, 502), (404, {}, 502), (500, {}, 502), (429, {"retry_after": "17"}, 503)],
)
async def test_a_model_that_fails_at_once_is_an_honest_status(
    serve: Serve, model: ModelServer, status: int, headers: dict[str, str], answered: int
):
    model.answer = lambda exchange: fails_with(exchange, status, **headers)
    response = await ask(serve(openai_base_url=model.url))
    assert response.status_code == answered
    assert response.headers.get("retry-after") == headers.get("retry_after")
    assert list(response.json()) == ["error"]
    assert response.json()["error"].startswith("The model ")


async def refuse(exchange: Exchange, status: int, body: bytes) -> None:
    head = f"HTTP/1.1 {status} No\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    await exchange.raw(head.encode() + body)


UNKNOWN = b'{"error": {"message": "a provider\'s text", "type": "invalid_request_error", "code": "model_not_found"}}'
WRONG_KEY = b'{"error": {"message": "Incorrect API key: sk-nobodys", "code": "invalid_api_key"}}'


@pytest.mark.parametrize(
    ("status", "body", "alias", "told", "logged"),
    [
        (404, UNKNOWN, "smart", "does not know the model.", "MODEL_SMART=gpt-nine: name a model that"),
        (404, b"Not Found", "fast", "does not know the model.", "MODEL_FAST=gpt-tiny: name a model that"),
        (400, UNKNOWN, "fast", "does not know the model.", "MODEL_FAST=gpt-tiny: name a model that"),
        (401, WRONG_KEY, "smart", "The model refused the request.", "OPENAI_API_KEY is not one of the server's"),
    ],
)
@pytest.mark.parametrize("aiohttp", [False, True], ids=["httpx2", "aiohttp"])
async def test_a_wrong_model_name_and_a_wrong_key_name_the_setting_in_the_log(
    serve: Serve,
    model: ModelServer,
    caplog: pytest.LogCaptureFixture,
    aiohttp: bool,
    status: int,
    body: bytes,
    alias: str,
    told: str,
    logged: str,
):
    model.answer = lambda exchange: refuse(exchange, status, body)
    settings = {"openai_api_key": "sk-nobodys", "model_smart": "gpt-nine", "model_fast": "gpt-tiny"}
    response = await ask(
        serve(openai_base_url=model.url, aiohttp=aiohttp, **settings), {"message": "Hi", "model": alias}
    )
    assert response.status_code == 502
    assert told in response.json()["error"]
    assert "gpt" not in response.text  # whose model it is, is not the client's to know
    wait_until(lambda: logged in caplog.text)
    assert "provider's text" not in caplog.text
    assert "sk-nobodys" not in caplog.text
    assert len(model.exchanges) == 1  # nothing is gained by asking again


async def test_a_server_that_wants_a_key_which_is_not_set_is_told_so_in_the_log(
    serve: Serve, model: ModelServer, caplog: pytest.LogCaptureFixture
):
    model.answer = lambda exchange: refuse(exchange, 401, WRONG_KEY)
    assert (await ask(serve(openai_base_url=model.url))).status_code == 502
    wait_until(lambda: "OPENAI_API_KEY is not set, and the server requires one" in caplog.text)


async def test_a_model_that_cannot_be_reached_is_502(serve: Serve):
    response = await ask(serve(openai_base_url="http://127.0.0.1:9/v1"))
    assert (response.status_code, response.json()) == (502, {"error": "The model cannot be reached."})


async def reset(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.delta("Hel")
    exchange.reset()


async def stop_short(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.delta("Hel")
    await exchange.end()


async def report_error(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.delta("Hel")
    await exchange.event({"error": {"message": "secret provider text"}})
    await exchange.done()


async def babble(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.delta("Hel")
    await exchange.send(b"data: {not json\n\n")
    await exchange.done()


@pytest.mark.parametrize("answer", [reset, stop_short, report_error, babble])
async def test_a_model_that_fails_later_ends_the_stream_with_an_error(serve: Serve, model: ModelServer, answer: Any):
    model.answer = answer
    response = await ask(serve(openai_base_url=model.url))
    text, error, done = frames(response)
    assert (text, done) == ({"text": "Hel"}, "[DONE]")
    assert list(error) == ["error"]
    assert "secret" not in response.text


async def say_nothing(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.delta("", "stop")
    await exchange.done()


async def test_an_empty_answer_is_an_error(serve: Serve, model: ModelServer):
    model.answer = say_nothing
    response = await ask(serve(openai_base_url=model.url))
    assert (response.status_code, response.json()) == (502, {"error": "The model gave an empty answer."})


async def test_without_a_model_the_offline_one_answers(serve: Serve):
    response = await ask(serve(), {"message": "Is anybody there?"})
    *pieces, done = frames(response)
    text = "".join(piece["text"] for piece in pieces)
    assert len(pieces) > 10
    assert done == "[DONE]"
    for words in ("offline model", "Is anybody there?", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        assert words in text


async def test_with_a_key_or_a_server_the_offline_model_is_never_reached(serve: Serve, model: ModelServer):
    assert frames(await ask(serve(openai_base_url=model.url)))[0] == {"text": "Hel"}
    model.answer = lambda exchange: fails_with(exchange, 401)
    assert (await ask(serve(openai_base_url=model.url, openai_api_key="wrong"))).status_code == 502
