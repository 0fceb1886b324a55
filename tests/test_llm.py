"""What a model server's statuses and faults mean, with both transports; the settings that reach it; a second model."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, aclosing
from email.utils import formatdate
from typing import Any

import pytest

from config import Config, ConfigError, load_config
from llm import LLM, BrokenOff, LLMError, RateLimited, Read, Refused, Silent
from tests.dialects import HELLO, D, F, T, chunk
from tests.servers import Exchange, ModelServer

QUESTION = [{"role": "user", "content": "Hi"}]

Connect = Callable[..., LLM]
Answer = Callable[[Exchange], Awaitable[None]]


@pytest.fixture(params=["httpx2", "aiohttp"])
async def connect(request: pytest.FixtureRequest, model: ModelServer) -> AsyncIterator[Connect]:
    """The models of the tests' model server, by one transport after the other; settings are the test's."""
    made: list[LLM] = []

    def start(silence: float = 10, **settings: Any) -> LLM:
        settings = {"openai_base_url": model.url, "openai_api_key": "a-key", **settings}
        config = Config(**settings)
        made.append(LLM(config, aiohttp=request.param == "aiohttp", silence=silence))
        return made[-1]

    yield start
    for llm in made:
        await llm.aclose()


async def say(llm: LLM, alias: str = "smart") -> str:
    return "".join([text async for text in llm.chat_stream(alias, QUESTION)])


async def failure_of(llm: LLM, hear: Callable[[str], object] = lambda text: None) -> LLMError:
    try:
        async for text in llm.chat_stream("smart", QUESTION):
            hear(text)
    except LLMError as exc:
        return exc
    raise AssertionError("it did not fail")


def answers(status: int, body: bytes = b"{}", **headers: str) -> Answer:
    lines = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())

    async def answer(exchange: Exchange) -> None:
        await exchange.raw(f"HTTP/1.1 {status} Whatever\r\n{head}\r\n".encode() + body)

    return answer


async def hello(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.send(HELLO)
    await exchange.end()


def first(one: Answer, then: Answer = hello) -> Answer:
    """Answer the first request in one way, the others in another."""
    asked = 0

    async def answer(exchange: Exchange) -> None:
        nonlocal asked
        asked += 1
        await (one if asked == 1 else then)(exchange)

    return answer


# Refusals with a reason.


def error_body(**words: Any) -> bytes:
    return json.dumps({"error": {"message": "SECRET", **words}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "logged"),
    [
        (400, error_body(code="context_length_exceeded", param="messages"),
         "context_length_exceeded messages) Lower CHAT_HISTORY_CHARS"),
        (400, b'{"object":"error","message":"maximum context length is 9, SECRET","code":400}', "CHAT_HISTORY_CHARS"),
        (413, b"SECRET", "CHAT_HISTORY_CHARS"),
        (429, error_body(code="insufficient_quota"), "insufficient_quota) The account of OPENAI_API_KEY"),
        (429, error_body(type="insufficient_quota", code=None), "insufficient_quota"),
        (402, b"SECRET", "The account of OPENAI_API_KEY"),
        (400, error_body(code="unsupported_parameter", param="max_tokens"),
         "unsupported_parameter max_tokens) Change or remove this parameter in MODEL_SMART_OPTIONS"),
        (400, error_body(code="unsupported_value", param="temperature"), "unsupported_value temperature) Change"),
        (400, error_body(code="content_filter"), "refused the message. (400 content_filter)"),
        (401, error_body(code="invalid_api_key"), "(401 invalid_api_key) OPENAI_API_KEY is not one of the server's"),
        (403, b"", "OPENAI_API_KEY may not use MODEL_SMART=gpt-5.5"),
        (404, b"Not Found", "MODEL_SMART=gpt-5.5: name a model that the server has. If it has this one, fix OPENAI"),
        (400, error_body(type="invalid_request_error", message="Invalid model name passed in model=SECRET. Call ..."),
         "(400 invalid_request_error) MODEL_SMART=gpt-5.5: name a model that the server has"),
        (400, error_body(message="Model Not Exist"), "(400) MODEL_SMART=gpt-5.5: name a model"),
        (400, b'{"object":"error","message":"Invalid model: SECRET","type":"invalid_model","code":"1500"}',
         "(400 1500 invalid_model) MODEL_SMART=gpt-5.5: name a model"),
        (400, b'[{"error":{"code":400,"status":"INVALID_ARGUMENT","message":"SECRET"}}]', "(400 INVALID_ARGUMENT)"),
        (400, b'{"code":"Client specified an invalid argument","error":"Incorrect API key provided: SECRET"}',
         "(400) OPENAI_API_KEY is not one of the server's"),  # xAI
        (400, b'[{"error":{"code":400,"status":"INVALID_ARGUMENT","message":"API key not valid. SECRET"}}]',
         "(400 INVALID_ARGUMENT) OPENAI_API_KEY is not one of the server's"),  # Gemini
        (400, b'{"error":"Input validation error: `inputs` tokens + `max_new_tokens` must be <= 9. SECRET",'
              b'"error_type":"validation"}', "(400 validation) Lower CHAT_HISTORY_CHARS"),  # TGI
        (400, error_body(message="prompt is too long: 200251 tokens > 199999 maximum SECRET"), "CHAT_HISTORY_CHARS"),
        (400, error_body(message="The input token count (9) exceeds the maximum number of tokens allowed (8)."),
         "CHAT_HISTORY_CHARS"),
        (400, error_body(message="This model's maximum prompt length is 8 but the request contains 9 tokens."),
         "CHAT_HISTORY_CHARS"),
        (400, error_body(message="Invalid request: Your request exceeded model token limit: 8192"),
         "CHAT_HISTORY_CHARS"),  # Moonshot
        (400, error_body(message="Range of input length should be [1, 30720]"), "CHAT_HISTORY_CHARS"),  # DashScope
        (400, error_body(code="1261", message="Prompt exceeds max length"), "(400 1261) Lower CHAT"),  # Zhipu
        (422, b'{"detail":"Input is too long for requested model. SECRET"}', "(422) Lower CHAT_HISTORY_CHARS"),
        (400, b'{"errors":[{"code":5007,"message":"No such model SECRET"}],"success":false}',
         "(400 5007) MODEL_SMART=gpt-5.5: name a model"),  # Cloudflare
        (429, error_body(type="exceeded_current_quota_error"), "The account of OPENAI_API_KEY"),  # Moonshot
        (429, error_body(code="1113"), "(429 1113) The account of OPENAI_API_KEY"),  # Zhipu
        (400, error_body(code="Arrearage"), "(400 Arrearage) The account of OPENAI_API_KEY"),  # DashScope
        (400, error_body(type="budget_exceeded", code="400"), "The account of OPENAI_API_KEY"),  # litellm
        (400, error_body(message="Your credit balance is too low to access the API. SECRET"),
         "The account of OPENAI_API_KEY"),  # Anthropic
        (400, error_body(code="data_inspection_failed"), "refused the message. (400 data_inspection_failed)"),
        (400, error_body(code="x\nERROR:    forged line"), "The model refused the request. (400)"),
        (400, error_body(code={"SECRET": 1}, param=["SECRET"]), "The model refused the request. (400)"),
    ],
)  # fmt: skip
async def test_a_refusal_is_502_asked_once_and_its_reason_is_logged(
    connect: Connect, model: ModelServer, caplog: pytest.LogCaptureFixture, status: int, body: bytes, logged: str
):
    model.answer = answers(status, body)
    error = await failure_of(connect())
    assert isinstance(error, Refused)
    assert len(model.asked) == 1
    assert logged in caplog.text
    assert "SECRET" not in caplog.text + str(error)
    assert "forged" not in caplog.text


# Busy and late.


@pytest.mark.parametrize(
    ("status", "headers", "kind", "wait", "asked"),
    [
        (429, {"Retry_After": "20"}, RateLimited, 20, 1),
        (429, {"retry_after_ms": "20000"}, RateLimited, 20, 1),
        (429, {"Retry_After": "soon"}, RateLimited, None, 2),
        (429, {}, RateLimited, None, 2),
        (503, {"Retry_After": "20"}, RateLimited, 20, 1),
        (503, {}, RateLimited, None, 2),
        (529, {}, RateLimited, None, 2),
        (529, {"Retry_After": "99999999999"}, RateLimited, 86_400, 1),
        (504, {}, Silent, None, 1),
        (524, {}, Silent, None, 1),
        (408, {}, Silent, None, 2),
        (500, {}, Refused, None, 2),
        (502, {}, Refused, None, 2),
        (500, {"Retry_After": "20"}, Refused, None, 1),
        (500, {"x_should_retry": "false"}, Refused, None, 1),
    ],
)
async def test_a_status_means_busy_late_or_broken(
    connect: Connect, model: ModelServer, status: int, headers: dict[str, str], kind: Any, wait: Any, asked: int
):
    model.answer = answers(status, b"<html>", **headers)
    error = await failure_of(connect())
    assert type(error) is kind
    assert getattr(error, "retry_after", None) == wait
    assert len(model.asked) == asked


@pytest.mark.parametrize(
    "event",
    [
        b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"SECRET"}}\n\n',
        b'data: {"error":{"code":"rate_limit_exceeded","message":"SECRET"}}\n\n',
        b'data: {"error":{"code":429,"message":"SECRET"}}\n\n',
        b'{"error":{"code":"429","status":"RESOURCE_EXHAUSTED","message":"SECRET"}}',
        b'{"base_resp":{"status_code":1002,"status_msg":"SECRET"}}',
    ],
)
async def test_a_server_that_says_200_and_then_that_it_is_busy_is_busy(
    connect: Connect, model: ModelServer, event: bytes
):
    model.answer = sends(UNTIL_CLOSED + event)
    assert type(await failure_of(connect())) is RateLimited


async def test_a_wait_until_a_date_is_told_in_seconds(connect: Connect, model: ModelServer):
    model.answer = answers(429, Retry_After=formatdate(time.time() + 60, usegmt=True))
    error = await failure_of(connect())
    assert isinstance(error, RateLimited)
    assert 0 < (error.retry_after or 0) <= 60
    assert len(model.asked) == 1


async def test_a_short_wait_is_waited_out(connect: Connect, model: ModelServer):
    model.answer = first(answers(429, Retry_After="0.1"))
    assert await say(connect()) == "Hello"
    assert len(model.asked) == 2


# Faults of the transport.


def sends(data: bytes, *, then: str = "close") -> Answer:
    async def answer(exchange: Exchange) -> None:
        await exchange.raw(data)
        if then == "hang":
            await exchange.hang()
        exchange.writer.close()

    return answer


CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
UNTIL_CLOSED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
PIECE = b"%x\r\n%b\r\n" % (len(T("Hel")), T("Hel"))


async def test_a_head_that_is_none_is_a_failure(connect: Connect, model: ModelServer):
    model.answer = sends(b"HTP/1.1 200 OK\r\n\r\n")
    assert isinstance(await failure_of(connect()), Refused)
    assert len(model.asked) == 2


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
             b"HTTP/1.1 000 Whatever\r\ncontent-length: 0\r\n\r\n"],
)  # fmt: skip
async def test_a_status_below_200_is_a_failure(connect: Connect, model: ModelServer, head: bytes):
    model.answer = sends(head)
    assert isinstance(await failure_of(connect()), Refused)


@pytest.mark.parametrize("then", ["hang", "close"])
async def test_a_chunk_whose_framing_is_broken_ends_the_answer_at_once(connect: Connect, model: ModelServer, then: str):
    async def answer(exchange: Exchange) -> None:
        await exchange.raw(CHUNKED)
        await asyncio.sleep(0.2)  # with the head in the same packet aiohttp takes the whole for a head that is none
        await sends(PIECE + b"zz\r\n", then=then)(exchange)

    model.answer = answer
    said: list[str] = []
    async with asyncio.timeout(5):
        failure = await failure_of(connect(), said.append)
    assert isinstance(failure, BrokenOff)
    assert said == ["Hel"]


async def test_a_broken_framing_in_the_first_packet_is_a_failure_at_once(connect: Connect, model: ModelServer):
    model.answer = sends(CHUNKED + PIECE + b"zz\r\n", then="hang")
    async with asyncio.timeout(5):
        assert isinstance(await failure_of(connect()), LLMError)


async def test_a_broken_framing_that_comes_later_ends_the_answer_at_once(connect: Connect, model: ModelServer):
    release = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def answer(exchange: Exchange) -> None:
        await exchange.raw(CHUNKED + PIECE)
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(release.wait(), loop))
        await exchange.raw(b"zz\r\n")
        await exchange.hang()

    model.answer = answer
    said: list[str] = []
    async with asyncio.timeout(5):
        failure = await failure_of(connect(), lambda text: (said.append(text), release.set()))
    assert isinstance(failure, BrokenOff)
    assert said == ["Hel"]


async def test_stale_connections_are_asked_again_once_and_answered(connect: Connect, model: ModelServer):
    llm = connect()
    held = asyncio.Barrier(4)  # all at once, so that each has a connection of its own
    loop = asyncio.get_running_loop()

    async def together(exchange: Exchange) -> None:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(held.wait(), loop))
        await hello(exchange)

    model.answer = together
    assert await asyncio.gather(*(say(llm) for _ in range(4))) == ["Hello"] * 4
    old = {exchange.writer for exchange in model.exchanges}
    assert len(old) == 4

    async def close_the_old(exchange: Exchange) -> None:
        if exchange.writer in old:
            return exchange.writer.close()
        await hello(exchange)

    model.answer = close_the_old
    assert await say(llm) == "Hello"
    assert len(model.asked) == 6


async def test_a_header_section_has_a_limit(connect: Connect, model: ModelServer):
    model.answer = sends(
        UNTIL_CLOSED[:-2] + b"".join(b"x-%d: %b\r\n" % (i, b"x" * 7_000) for i in range(11)) + b"\r\n" + HELLO
    )
    assert isinstance(await failure_of(connect()), LLMError)
    model.answer = sends(UNTIL_CLOSED[:-2] + b"x: " + b"x" * 20_000 + b"\r\n\r\n" + HELLO)
    assert await say(connect()) == "Hello"


async def test_an_error_page_without_an_end_is_not_read_to_its_end(connect: Connect, model: ModelServer):
    async def answer(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 404 Not Found\r\ncontent-type: text/html\r\nconnection: close\r\n\r\n")
        while not exchange.left.is_set():
            await exchange.raw(b"x" * 10_000)

    model.answer = answer
    async with asyncio.timeout(5):
        assert isinstance(await failure_of(connect()), Refused)


# After the end.


@pytest.mark.parametrize("beats", [b"", b": keepalive\n\n", b"data: {broken\n\n"], ids=["silence", "pings", "junk"])
async def test_what_follows_the_end_does_not_keep_the_answer_open(connect: Connect, model: ModelServer, beats: bytes):
    async def answer(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.send(T("Hello") + F("stop"))
        while beats and not exchange.left.is_set():
            await exchange.send(beats)
            await asyncio.sleep(0.05)
        await exchange.hang()

    model.answer = answer
    async with asyncio.timeout(5):
        assert await say(connect()) == "Hello"


async def test_a_reset_after_the_end_is_no_failure(connect: Connect, model: ModelServer):
    async def answer(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.send(T("Hello") + F("stop"))
        await asyncio.sleep(0.1)  # a reset may take what was not read
        exchange.reset()

    model.answer = answer
    assert await say(connect()) == "Hello"


async def test_an_answer_that_says_stop_in_every_chunk_is_read_to_its_end(connect: Connect, model: ModelServer):
    async def answer(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.send(chunk({"reasoning_content": "hm"}, "stop"))
        await asyncio.sleep(1.2)
        await exchange.delta("H", "stop")
        await exchange.delta("el", "stop")
        await asyncio.sleep(1.2)
        await exchange.delta("lo", "stop")
        await exchange.end()

    model.answer = answer
    assert await say(connect()) == "Hello"


async def test_a_stop_before_the_first_word_with_silence_behind_it_is_an_empty_answer(
    connect: Connect, model: ModelServer, monkeypatch: pytest.MonkeyPatch
):
    async def answer(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.delta("", "stop")
        await exchange.hang()

    model.answer = answer
    monkeypatch.setattr("llm.MORE", 0.2)
    with pytest.raises(BrokenOff, match="empty answer"):
        await say(connect())


async def test_thinking_and_comments_keep_the_connection(connect: Connect, model: ModelServer):
    async def answer(exchange: Exchange) -> None:
        await exchange.head()
        for _ in range(8):
            await exchange.send(b": PROCESSING\n\n")
            await asyncio.sleep(0.1)
        await exchange.send(HELLO)
        await exchange.end()

    model.answer = answer
    assert await say(connect(silence=0.5)) == "Hello"


# Elsewhere.


@pytest.fixture
def elsewhere() -> Iterator[ModelServer]:
    with ExitStack() as stack:
        yield stack.enter_context(ModelServer().running())


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(
    connect: Connect, model: ModelServer, elsewhere: ModelServer, caplog: pytest.LogCaptureFixture, status: int
):
    model.answer = answers(status, b"", location=f"{elsewhere.url}/chat/completions")
    assert isinstance(await failure_of(connect()), Refused)
    assert (elsewhere.connections, len(model.asked)) == (0, 1)
    assert "OPENAI_BASE_URL" in caplog.text


async def test_no_cookie_is_kept(connect: Connect, model: ModelServer):
    llm = connect()
    model.answer = sends(UNTIL_CLOSED[:-2] + b"set-cookie: bar=1; path=/\r\n\r\n" + HELLO)
    assert [await say(llm), await say(llm)] == ["Hello", "Hello"]
    assert not any("cookie" in exchange.headers for exchange in model.exchanges)


# Settings.


async def test_options_and_headers_reach_the_model_server(connect: Connect, model: ModelServer):
    options = {"temperature": 0.2, "reasoning_effort": "low", "stream_options": {"include_usage": True}}
    llm = connect(model_smart_options=options, openai_headers={"X-Team": "blue", "api-key": "k2"})
    await say(llm)
    await say(llm, "fast")
    smart, fast = model.asked
    plain = {"messages": QUESTION, "stream": True}
    assert smart == {**plain, "model": "gpt-5.5", **options}
    assert fast == {**plain, "model": "gpt-5.4-mini"}
    for exchange in model.exchanges:
        assert (exchange.headers["x-team"], exchange.headers["api-key"]) == ("blue", "k2")
        assert exchange.headers["authorization"] == "Bearer a-key"


@pytest.mark.parametrize(
    ("name", "value", "fix"),
    [
        ("MODEL_SMART_OPTIONS", "[1]", "a JSON object is required"),
        ("MODEL_SMART_OPTIONS", "temperature=1", "a JSON object is required"),
        ("MODEL_SMART_OPTIONS", '{"temperature": NaN}', "a JSON object is required"),
        ("MODEL_SMART_OPTIONS", '{"temperature": 1e999}', "a JSON object is required"),
        ("MODEL_FAST_OPTIONS", '{"stop": "\\ud83d"}', "a JSON object is required"),
        ("SYSTEM_PROMPT", b"caf\xe9".decode("utf-8", "surrogateescape"), "UTF-8 is required"),  # as os.environ has it
        ("MODEL_SMART_OPTIONS", '{"model": "x"}', "model cannot be set here"),
        ("MODEL_FAST_OPTIONS", '{"messages": []}', "messages cannot be set here"),
        ("MODEL_FAST_OPTIONS", '{"stream": true}', "stream cannot be set here"),
        ("OPENAI_HEADERS", '"x"', "a JSON object is required"),
        ("OPENAI_HEADERS", '{"X": 1}', "the value of X must be a string"),
        ("OPENAI_HEADERS", '{"X": "a\\nb"}', "the value of X must be a string"),
        ("OPENAI_HEADERS", '{"X Y": "a"}', "the name of a header"),
        ("OPENAI_HEADERS", '{"Content-Length": "1"}', "cannot be set here"),
        ("OPENAI_BASE_URL", "http://localhost:99999/v1", "the port must be a number"),
        ("OPENAI_BASE_URL", "http://localhost:abc/v1", "the port must be a number"),
        ("OPENAI_BASE_URL", "http://[::1]:0/v1", "the port must be a number"),
        ("MODEL_SMART", "gpt-5.5,", "the name of a model is required"),
    ],
)
def test_a_setting_that_cannot_reach_the_model_stops_the_start(tmp_path: Any, name: str, value: str, fix: str):
    with pytest.raises(ConfigError, match=rf"^{name}: .*{fix}"):
        load_config({name: value}, tmp_path)


@pytest.mark.parametrize("value", ["sk-1\n", "sk-1\r\n", "sk-\n1", " sk-1", "sk-é1"])
def test_a_key_that_cannot_be_a_header_stops_the_start_and_is_not_shown(tmp_path: Any, value: str):
    with pytest.raises(ConfigError, match=r"^OPENAI_API_KEY: the value cannot be used") as error:
        load_config({"OPENAI_API_KEY": value}, tmp_path)
    assert "sk-" not in str(error.value)


@pytest.mark.parametrize("url", ["http://[::1]:8000/v1", "http://me:pw@host/v1", "https://host", "http://host:1"])
def test_an_address_with_or_without_a_port_is_taken(tmp_path: Any, url: str):
    assert load_config({"OPENAI_BASE_URL": url}, tmp_path).openai_base_url == url


def test_options_are_read_from_a_file(tmp_path: Any):
    (tmp_path / ".env").write_text('MODEL_SMART_OPTIONS={"temperature": 0.2}\nMODEL_FAST_OPTIONS=\'{"top_p": 1}\'\n')
    config = load_config({}, tmp_path)
    assert config.model_options == {"smart": {"temperature": 0.2}, "fast": {"top_p": 1}}


# A second model.


async def test_a_second_model_steps_in_before_the_first_piece(
    connect: Connect, model: ModelServer, caplog: pytest.LogCaptureFixture
):
    model.answer = first(answers(429, error_body(code="rate_limit_exceeded"), Retry_After="20"))
    assert await say(connect(model_smart="gpt-5.5,fallback-name")) == "Hello"
    assert [body["model"] for body in model.asked] == ["gpt-5.5", "fallback-name"]
    assert "(429 rate_limit_exceeded) Asking fallback-name." in caplog.text


@pytest.mark.parametrize(
    "answer",
    [
        answers(404),
        answers(504),
        answers(400, error_body(code="context_length_exceeded")),
        sends(UNTIL_CLOSED + D),
        sends(UNTIL_CLOSED + b'data: {"error": {"message": "SECRET"}}\n\n'),
        sends(UNTIL_CLOSED),
    ],
    ids=["unknown", "late", "too long", "empty", "an error first", "no bytes"],
)
async def test_a_second_model_is_asked_where_it_may_help(connect: Connect, model: ModelServer, answer: Answer):
    model.answer = first(answer)
    assert await say(connect(model_smart="a,b")) == "Hello"


@pytest.mark.parametrize(
    "answer",
    [
        answers(401),
        answers(429, error_body(code="insufficient_quota")),
        answers(400, error_body(code="content_filter")),
        answers(400),
        answers(302),
        sends(UNTIL_CLOSED + T("Hel")),
        sends(UNTIL_CLOSED + b"<html>"),
    ],
    ids=["key", "quota", "filter", "refused", "elsewhere", "after a piece", "a page"],
)
async def test_a_second_model_is_not_asked_where_it_would_not_help(
    connect: Connect, model: ModelServer, answer: Answer
):
    model.answer = first(answer)
    await failure_of(connect(model_smart="a,b"))
    assert len(model.asked) == 1


async def test_when_both_fail_the_second_failure_is_told(connect: Connect, model: ModelServer, caplog: Any):
    model.answer = first(answers(504), answers(404))
    assert str(await failure_of(connect(model_smart="a,b"))) == "The model server does not know the model."
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [line.partition(":")[0] for line in lines] == ["model smart (a)", "model smart (b)"]


async def test_the_last_read_and_no_other_has_a_finish_and_the_tokens(connect: Connect, model: ModelServer):
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 4711, "completion_tokens": 815}}\n\n'
    model.answer = sends(UNTIL_CLOSED + T("Hel") + F("length") + usage + D)
    async with aclosing(connect().chat_reads("smart", QUESTION)) as reads:
        found = [read async for read in reads]
    assert found[-1] == Read([], [], "length", 4711, 815)
    assert [read.finish for read in found[:-1]] == [None] * (len(found) - 1)


# The offline model.


@pytest.mark.parametrize(
    ("word", "reasons", "finish", "failure"),
    [
        ("Hello", False, "stop", None),
        ("/think", True, "stop", None),
        ("/length", False, "length", None),
        ("/filter", False, "content_filter", None),
        ("/error", False, None, BrokenOff),
        ("/busy", False, None, RateLimited),
    ],
)
@pytest.mark.parametrize("aiohttp", [False, True], ids=["httpx2", "aiohttp"])
async def test_the_offline_model_shows_what_a_real_one_does(
    aiohttp: bool, word: str, reasons: bool, finish: str | None, failure: type[LLMError] | None
):
    llm = LLM(Config(), aiohttp=aiohttp)
    reads: list[Read] = []
    raised: LLMError | None = None
    try:
        async for read in llm.chat_reads("smart", [{"role": "user", "content": f"{word} and so on"}]):
            reads.append(read)
    except LLMError as exc:
        raised = exc
    await llm.aclose()
    assert type(raised) is (failure or type(None))
    assert any(read.reasoning for read in reads) == reasons
    assert [read.finish for read in reads if read.finish] == ([finish] if finish else [])
    assert any(read.text for read in reads) == (word != "/busy")
