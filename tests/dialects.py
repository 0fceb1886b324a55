"""What model servers really send: one row a recorded shape, what becomes of it, and what the log says.

`ModelServer.answer = speaks(dialect)` makes the tests' model server speak one.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tests.servers import Exchange

Send = Callable[[Exchange], Awaitable[None]]


@dataclass(frozen=True)
class Dialect:
    """A body, and what comes out: either a ``finish``, or the words of a ``failure``, and what was said before."""

    kind: str  # as the table in docs/chat.md names it
    name: str
    body: bytes
    text: str = ""
    reasoning: str = ""
    finish: str | None = None
    failure: str = ""
    log: tuple[str, ...] = ()  # words of the log line
    tokens: tuple[int | None, int | None] = (None, None)
    content_type: str = "text/event-stream"


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def T(content: Any) -> bytes:
    return chunk({"content": content})


def R(text: str) -> bytes:
    return chunk({"reasoning_content": text})


def F(reason: str) -> bytes:
    return chunk({}, reason)


def chunk(delta: Any, reason: str | None = None, **more: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": delta, "finish_reason": reason, **more}]})


D = b"data: [DONE]\n\n"
HELLO = T("Hel") + T("lo") + F("stop") + D
COMPLETION = {
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}}],
}
COMPLETION["choices"][0]["finish_reason"] = "stop"  # type: ignore[index]

EMPTY = "The model gave an empty answer."
BROKE_OFF = "The model broke off its answer."
REPORTED = "The model reported an error."
NO_STREAM = "The model server did not send the stream of an answer."
NO_COMPLETION = "The model sent something that is not a chat completion."
THOUGHT = "The model reached its token limit (its answer's length) while it thought, before its first word."


def ends(name: str, body: bytes, finish: str, text: str = "Hello", **more: Any) -> Dialect:
    return Dialect("an end that is not a good one", name, body, text, finish=finish, **more)


def fails(name: str, body: bytes, *log: str, failure: str = REPORTED, text: str = "Hel") -> Dialect:
    return Dialect("a failure that does not look like OpenAI's", name, body, text, failure=failure, log=log)


def content(name: str, body: bytes, text: str = "Hello", **more: Any) -> Dialect:
    return Dialect("content of another shape", name, body, text, finish="stop", **more)


def thinks(name: str, body: bytes, reasoning: str, **more: Any) -> Dialect:
    more = {"text": "Hello", "finish": "stop"} | more
    return Dialect("thinking", name, body, reasoning=reasoning, **more)


def nothing(name: str, body: bytes, **more: Any) -> Dialect:
    more = {"text": "Hello", "finish": "stop"} | more
    return Dialect("nothing said", name, body, **more)


def after(name: str, body: bytes) -> Dialect:
    return Dialect("after the end", name, body, "Hello", finish="stop")


def no_end(name: str, body: bytes, finish: str | None = "stop", text: str = "Hello", **more: Any) -> Dialect:
    return Dialect("no end", name, body, text, finish=finish, **more)


def no_stream(name: str, content_type: str, body: bytes, **more: Any) -> Dialect:
    more = {"failure": NO_STREAM, "log": (content_type, "OPENAI_BASE_URL")} | more
    return Dialect("not a stream", name, body, content_type=content_type, **more)


DIALECTS = [
    # OpenAI's own, and small departures from it
    Dialect("a good answer", "OpenAI", HELLO, "Hello", finish="stop"),
    Dialect("a good answer", "without [DONE]", T("Hello") + F("stop"), "Hello", finish="stop"),
    Dialect("a good answer", "without a finish_reason", T("Hello") + D, "Hello", finish="stop"),
    Dialect("a good answer", "both in the last text", chunk({"content": "Hello"}, "stop") + D, "Hello", finish="stop"),
    Dialect(
        "a good answer",
        "usage at the end",
        T("Hello") + F("stop") + event({"choices": [], "usage": {"prompt_tokens": 4711, "completion_tokens": 815}}) + D,
        "Hello",
        finish="stop",
        tokens=(4711, 815),
    ),
    Dialect(
        "a good answer",
        "usage in each chunk (vLLM)",
        event({"choices": [{"delta": {"content": "Hello"}}], "usage": {"prompt_tokens": 9, "completion_tokens": 1}})
        + event({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}})
        + F("stop")
        + D,
        "Hello",
        finish="stop",
        tokens=(9, 2),
    ),
    Dialect(
        "a good answer",
        "usage in the choice (Moonshot)",
        T("Hello") + chunk({}, "stop", usage={"prompt_tokens": 9, "completion_tokens": 2}) + D,
        "Hello",
        finish="stop",
        tokens=(9, 2),
    ),
    Dialect(
        "a good answer",
        "usage in x_groq (Groq)",
        T("Hello")
        + event(
            {
                "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
                "x_groq": {"id": "1", "usage": {"prompt_tokens": 9, "completion_tokens": 2}},
            }
        )
        + D,
        "Hello",
        finish="stop",
        tokens=(9, 2),
    ),
    Dialect(
        "a good answer",
        "usage that is none",
        event({"choices": [{"delta": {"content": "Hello"}}], "usage": None})
        + event({"choices": [], "usage": {"prompt_tokens": "9", "completion_tokens": True}})
        + F("stop")
        + D,
        "Hello",
        finish="stop",
    ),
    Dialect(
        "a good answer",
        "several choices (an option n)",
        event({"choices": [{"index": 1, "delta": {"content": "no"}}, {"index": 0, "delta": {"content": "Hello"}}]})
        + event({"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "length"}]})
        + F("stop")
        + D,
        "Hello",
        finish="stop",
    ),
    # an end that is not a good one
    ends("length", T("Hel") + F("length") + D, "length", "Hel"),
    ends("length without [DONE]", T("Hel") + F("length"), "length", "Hel"),
    ends("length in the last text", chunk({"content": "Hel"}, "length") + D, "length", "Hel"),
    ends("max_tokens (Anthropic's word)", T("Hel") + F("max_tokens") + D, "length", "Hel"),
    ends("MAX_TOKENS (Gemini's)", T("Hel") + F("MAX_TOKENS") + D, "length", "Hel"),
    ends("content_filter", T("Hel") + F("content_filter") + D, "content_filter", "Hel"),
    ends("SAFETY (Gemini)", T("Hel") + F("SAFETY") + D, "content_filter", "Hel"),
    ends(
        "tool_calls",
        T("Hel")
        + chunk({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{"}}]})
        + F("tool_calls")
        + D,
        "tool_calls",
        "Hel",
    ),
    ends("PROHIBITED_CONTENT (Vertex AI)", T("Hel") + F("PROHIBITED_CONTENT") + D, "content_filter", "Hel"),
    ends("a reason with its reason (Gemini)", T("Hel") + F("content_filter: SPII") + D, "content_filter", "Hel"),
    ends("guardrail_intervened (Bedrock)", T("Hel") + F("guardrail_intervened") + D, "content_filter", "Hel"),
    ends("token_limit (watsonx)", chunk({"content": "Hel"}, "not_finished") + F("token_limit") + D, "length", "Hel"),
    ends("COMPLETE (Cohere)", T("Hello") + F("COMPLETE") + D, "stop"),
    ends("eos_token (TGI)", T("Hello") + F("eos_token") + D, "stop"),
    ends("end_turn", T("Hello") + F("end_turn") + D, "stop"),
    ends("a reason that is no word", T("Hello") + F("x\nERROR: forged") + D, "other"),
    ends("a reason called null", chunk({"content": "Hel"}, "null") + chunk({"content": "lo"}, "") + F("stop"), "stop"),
    Dialect(
        "an end that is not a good one",
        "a filter before the first word",
        chunk({}) + F("content_filter") + D,
        failure="The content filter of the model server held back the whole answer.",
        log=("content_filter",),
    ),
    Dialect(
        "an end that is not a good one",
        "a filter before the first word, with its reason (Gemini)",
        event({"choices": [{"finish_reason": "content_filter: PROHIBITED_CONTENT", "index": 0}]}) + D,
        failure="The content filter of the model server held back the whole answer.",
        log=("content_filter",),
    ),
    Dialect(
        "an end that is not a good one",
        "a tool that was called wrongly (Gemini)",
        F("function_call_filter: MALFORMED_FUNCTION_CALL") + D,
        failure="The model asked for a tool instead of giving an answer.",
        log=("tool_calls",),
    ),
    Dialect(
        "an end that is not a good one",
        "a tool instead of an answer",
        F("tool_calls") + D,
        failure="The model asked for a tool instead of giving an answer.",
        log=("tool_calls",),
    ),
    Dialect(
        "an end that is not a good one",
        "length before the first word",
        F("length") + D,
        failure="The model reached its token limit before the first word of its answer.",
        log=("length", "MODEL_SMART_OPTIONS"),
    ),
    Dialect("an end that is not a good one", "no end", T("Hel"), "Hel", failure=BROKE_OFF),
    Dialect("an end that is not a good one", "no bytes", b"", failure=BROKE_OFF),
    Dialect("an end that is not a good one", "[DONE] alone", D, failure=EMPTY),
    # a failure that does not look like OpenAI's
    fails("an error object", T("Hel") + event({"error": {"message": "SECRET", "code": 500}}) + D, "500"),
    fails(
        "an error object, and nothing before",
        event({"error": {"message": "SECRET", "type": "server_error"}}),
        "server_error",
        text="",
    ),
    fails("an error string", T("Hel") + event({"error": "SECRET"}) + D),
    fails("object: error (vLLM)", T("Hel") + event({"object": "error", "message": "SECRET", "code": 500}) + D, "500"),
    fails("object: error at once", event({"object": "error", "message": "SECRET", "code": 500}) + D, text=""),
    fails(
        "in the choice (OpenRouter)",
        T("Hel") + chunk({"content": ""}, None, error={"code": 502, "message": "SECRET"}) + D,
        "502",
    ),
    fails("finish_reason error", T("Hel") + chunk({"content": ""}, "error") + D),
    fails("finish_reason insufficient_system_resource (DeepSeek)", T("Hel") + F("insufficient_system_resource") + D),
    fails("event: error (LM Studio)", T("Hel") + b'event: error\ndata: {"message":"SECRET"}\n\n' + D),
    fails("event: error at once", b'event: error\ndata: {"message":"SECRET"}\n\n', text=""),
    fails("event: error after its data", T("Hel") + b'data: {"message":"SECRET"}\nevent: error\n\n' + D),
    fails("event: error without data", T("Hel") + b"event: error\n\n" + D),
    fails("a line error: (llama.cpp)", T("Hel") + b'error: {"code":500,"message":"SECRET"}\n\n' + D, "500"),
    fails("ERROR_LIMIT (Cohere)", T("Hel") + F("ERROR_LIMIT") + D),
    fails("JSON outside of data: (Lemonade)", T("Hel") + b'{"error":{"code":500,"message":"SECRET"}}\n\n' + D, "500"),
    fails(
        "JSON outside of data: that is the first event, after an empty delta",
        chunk({"role": "assistant"}) + b'{"error":{"type":"exceed_context_size_error","message":"SECRET"}}',
        "CHAT_HISTORY_CHARS",
        failure="The conversation is too long for the model.",
        text="",
    ),
    fails(
        "x_groq (Groq)", T("Hel") + event({"choices": [{"delta": {}}], "x_groq": {"id": "1", "error": "SECRET"}}) + D
    ),
    fails("in the delta", T("Hel") + chunk({"error": {"code": 502, "message": "SECRET"}}) + D, "502"),
    fails("type: error", T("Hel") + event({"type": "error", "message": "SECRET"}) + D),
    fails("a detail (FastAPI)", T("Hel") + event({"detail": "SECRET"}) + D),
    fails("code and message", T("Hel") + event({"code": 10013, "message": "SECRET"}) + D, "10013"),
    fails("base_resp (MiniMax)", T("Hel") + event({"choices": None, "base_resp": {"status_code": 1033}}) + D, "1033"),
    fails(
        "base_resp at once (MiniMax)",
        b'{"base_resp":{"status_code":1008,"status_msg":"SECRET"}}',
        "1008",
        "The account of OPENAI_API_KEY",
        failure="The model refused the request.",
        text="",
    ),
    fails("error_code (Bedrock)", T("Hel") + event({"error": {"error": "SECRET", "error_code": 4001}}) + D, "4001"),
    fails(
        "an error with a known code",
        event({"error": {"code": "context_length_exceeded", "message": "SECRET"}}),
        "context_length_exceeded",
        "CHAT_HISTORY_CHARS",
        failure="The conversation is too long for the model.",
        text="",
    ),
    fails("an error with a forged code", T("Hel") + event({"error": {"code": "x\nERROR: forged"}}) + D),
    fails("what is no JSON", T("Hel") + b"data: {broken\n\n" + D, failure=NO_COMPLETION),
    fails("JSON of another kind", T("Hel") + b'data: ["x"]\n\n' + D, failure=NO_COMPLETION),
    fails("more than one value", T("Hel") + b'data: {"choices":[]} {}\n\n' + D, failure=NO_COMPLETION),
    fails("JSON without a bottom", T("Hel") + b"data: " + b"[" * 100_000 + b"\n\n" + D, failure=NO_COMPLETION),
    content(
        "error: null is none",
        event({"choices": [{"delta": {"content": "Hello"}, "error": None}], "error": None}) + F("stop") + D,
    ),
    content("JSON outside of data: that is none", b"\n" + T("Hel") + b'{"status":"ok"}\n\n' + T("lo") + F("stop") + D),
    content("code 0 is none", event({"code": 0, "message": "Success", "choices": []}) + HELLO),
    # content of another shape
    content("parts", T([{"type": "text", "text": "Hel"}]) + T([{"type": "text", "text": "lo"}]) + F("stop") + D),
    content("parts, then strings", T([{"type": "text", "text": "Hel"}]) + T("lo") + F("stop") + D),
    content("a part that is no list", T({"type": "text", "text": "Hello"}) + F("stop") + D),
    content(
        "parts of other types", T([{"type": "reference", "ids": [1]}, {"type": "text", "text": "Hello"}]) + F("stop")
    ),
    content(
        "a thinking part (Mistral)",
        T([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}])
        + T([{"type": "text", "text": "Hello"}])
        + F("stop")
        + D,
        reasoning="hm",
    ),
    content(
        "a refusal",
        chunk({"content": None, "refusal": ""}) + chunk({"refusal": "Hel"}) + chunk({"refusal": "lo"}) + F("stop") + D,
    ),
    content("a refusal as a part", T([{"type": "refusal", "refusal": "Hello"}]) + F("stop") + D),
    content("halves of an emoji", T("a\ud83d") + T("\ude00b") + F("stop") + D, "a😀b"),
    content("a half by itself", T("\ud83d") + T("\ude00") + F("stop") + D, "😀"),
    content("a half without the other", T("a\ud83d") + T("b\ude00") + F("stop") + D, "a\ufffdb\ufffd"),
    content("a half at the end", T("a\ud83d") + F("stop") + D, "a\ufffd"),
    content(
        "bytes that are no UTF-8", b'data: {"choices":[{"delta":{"content":"a\xffb"}}]}\n\n' + F("stop") + D, "a\ufffdb"
    ),
    content(
        "no choices", event({"choices": []}) + event({"choices": None}) + event({"choices": [{"delta": None}]}) + HELLO
    ),
    content("a filter's result first (Azure)", event({"choices": [], "prompt_filter_results": [{"index": 0}]}) + HELLO),
    content(
        "a message beside the deltas (Perplexity)",
        chunk({"content": "Hello"}, message={"content": "Hello"})
        + event({"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]})
        + D,
    ),
    content("a whole completion as one event", event(COMPLETION) + D),
    # thinking
    thinks("reasoning_content (DeepSeek)", R("hm ") + R("well") + HELLO, "hm well"),
    thinks("reasoning (OpenRouter, Ollama)", chunk({"content": "", "reasoning": "hm"}) + HELLO, "hm"),
    thinks("thinking", chunk({"thinking": "hm"}) + HELLO, "hm"),
    thinks("under two names", chunk({"reasoning": "hm", "reasoning_content": "hm"}) + HELLO, "hm"),
    thinks(
        "a summary in a part (Databricks)",
        T([{"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}])
        + T([{"type": "text", "text": "Hello"}])
        + F("stop")
        + D,
        "hm",
    ),
    thinks("an object (Bedrock)", chunk({"reasoning_content": {"text": "hm", "signature": "x"}}) + HELLO, "hm"),
    thinks(
        "reasoning_details alone (MiniMax, OpenRouter)",
        chunk({"reasoning_details": [{"type": "reasoning.text", "text": "h"}]})
        + chunk({"reasoning_details": [{"type": "reasoning.summary", "summary": "m"}]})
        + chunk({"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]})
        + HELLO,
        "hm",
    ),
    thinks(
        "reasoning_details beside the same thoughts (OpenRouter)",
        chunk({"reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}) + HELLO,
        "hm",
    ),
    thinks("in one chunk with text", chunk({"content": "Hello", "reasoning_content": "hm"}) + F("stop"), "hm"),
    thinks("halves of an emoji in it", R("\ud83d") + R("\ude00") + HELLO, "😀"),
    thinks("thinking alone", R("hm ") + F("stop") + D, "hm ", text="", finish=None, failure=EMPTY),
    thinks(
        "thinking alone, cut by length",
        R("hm ") + R("well") + F("length") + D,
        "hm well",
        text="",
        finish=None,
        failure=THOUGHT,
        log=("length", "MODEL_SMART_OPTIONS", "reasoning_effort"),
    ),
    # nothing said
    nothing("empty data", b"data:\n\ndata: \n\n" + T("Hel") + b"data:\n\n" + T("lo") + F("stop") + D),
    nothing("comments", b": PROCESSING\n\n" + T("Hel") + b":\n\n" + T("lo") + F("stop") + D),
    nothing("a ping event", b"event: ping\ndata: 2026-01-01 00:00:00\n\n" + HELLO),
    nothing("the event message", b"event: message\n" + HELLO),
    nothing("an id and a retry", b"id: 1\nretry: 1000\n" + HELLO),
    nothing("\\r as line end", HELLO.replace(b"\n", b"\r")),
    nothing("\\r\\n as line end", HELLO.replace(b"\n", b"\r\n")),
    nothing("a BOM", b"\xef\xbb\xbf" + HELLO),
    nothing("blank lines first", b"\n\r\n" + HELLO),
    nothing("data on two lines", b'data: {"choices":[{"delta":\ndata: {"content":"Hello"}}]}\n\n' + F("stop") + D),
    nothing("no blank after data:", HELLO.replace(b"data: ", b"data:")),
    nothing("no line end at the end", HELLO.rstrip(b"\n")),
    nothing(
        "U+2028 in the text",
        'data: {"choices":[{"delta":{"content":"a\u2028b\u0085c"}}]}\n\n'.encode() + D,
        text="a\u2028b\u0085c",
    ),
    nothing("blanks first", T("\n\n") + HELLO, text="\n\nHello"),
    nothing("blanks alone", T("\n\n") + F("stop") + D, text="", finish=None, failure=EMPTY),
    # after the end
    after("junk", T("Hello") + F("stop") + b"data: {broken\n\n"),
    after("[done]", T("Hello") + F("stop") + b"data: [done]\n\n"),
    after("an error", T("Hello") + F("stop") + event({"error": "SECRET"}) + b"event: error\ndata: x\n\nerror: x\n\n"),
    after("after [DONE]", HELLO + b"data: {broken\n\n" + T("no")),
    # no end
    no_end("a stop in every chunk (gcli2api)", chunk({"content": "Hel"}, "stop") + chunk({"content": "lo"}, "stop")),
    no_end("a stop in every thought", chunk({"reasoning_content": "hm"}, "stop") + HELLO, reasoning="hm"),
    no_end("a stop in the first chunk (Open WebUI)", chunk({"content": ""}, "stop") + R("hm") + HELLO, reasoning="hm"),
    no_end(
        "a stop in every chunk, and another word in the last",
        chunk({"content": "Hel"}, "stop") + chunk({"content": "lo"}, "length") + D,
        "length",
    ),
    no_end("another word, and then a stop", chunk({"content": "Hello"}, "length") + F("stop") + D, "length"),
    no_end(
        "a failure after a stop in a thought",
        chunk({"reasoning_content": "hm"}, "stop") + event({"error": "SECRET"}) + D,
        None,
        text="",
        reasoning="hm",
        failure=REPORTED,
    ),
    # not a stream
    no_stream("a web page", "text/html", b"<!doctype html>\n<p>SECRET</p>\n"),
    no_stream("a web page that calls itself a stream", "text/event-stream", b"\n <html>SECRET</html>"),
    no_stream("plain words", "text/plain", b"SECRET\n"),
    no_stream("NDJSON", "application/x-ndjson", b'{"message":{"content":"SECRET"}}\n{"done":true}\n'),
    no_stream("JSON of another kind", "application/json", b'{"status":"SECRET"}'),
    no_stream(
        "a whole completion",
        "application/json",
        json.dumps(COMPLETION).encode(),
        text="Hello",
        finish="stop",
        failure="",
        log=(),
    ),
    no_stream(
        "a whole completion that calls itself a stream",
        "text/event-stream",
        json.dumps(COMPLETION, indent=2).encode(),
        text="Hello",
        finish="stop",
        failure="",
        log=(),
    ),
    no_stream(
        "a stream that calls itself JSON", "application/json", HELLO, text="Hello", finish="stop", failure="", log=()
    ),
    no_stream(
        "a JSON error",
        "application/json",
        b'{"error":{"message":"SECRET","code":"server_error"}}',
        failure=REPORTED,
        log=("server_error",),
    ),
    no_stream(
        "a JSON error in a list (Gemini)",
        "application/json",
        b'[{"error":{"message":"SECRET","status":"INTERNAL"}}]',
        failure=REPORTED,
        log=("INTERNAL",),
    ),
    # unbounded
    Dialect("unbounded", "a long line", T("x" * 950_000) + F("stop"), "x" * 950_000, finish="stop"),
    Dialect(
        "unbounded",
        "a line without an end",
        b"data: " + b"x" * 3_000_000,
        failure="The model sent an event of more than 1,048,576 bytes.",
    ),
    Dialect(
        "unbounded",
        "an event without an end",
        T("Hel") + b"data: x\n" * 200_000,
        "Hel",
        failure="The model sent an event of more than 1,048,576 bytes.",
    ),
    Dialect(
        "unbounded",
        "an event of 2 MiB",
        T("Hel") + T("x" * 2**21),
        "Hel",
        failure="The model sent an event of more than 1,048,576 bytes.",
    ),
    Dialect(
        "unbounded",
        "JSON of 2 MiB",
        b'{"x": "' + b"x" * 2**21,
        failure="The model sent an event of more than 1,048,576 bytes.",
    ),
    Dialect(
        "unbounded",
        "text without an end",
        T("x" * 60_000) * 40,
        "x" * 1_000_000,
        failure="The model's answer is longer than 1,000,000 characters.",
    ),
    Dialect(
        "unbounded",
        "thinking without an end",
        R("x" * 60_000) * 40,
        reasoning="x" * 1_000_000,
        failure="The model's answer is longer than 1,000,000 characters.",
    ),
]


def speaks(dialect: Dialect, *, closes: bool = True) -> Send:
    """An answer of the tests' model server."""

    async def answer(exchange: Exchange) -> None:
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {dialect.content_type}\r\nconnection: close\r\n\r\n"
        await exchange.raw(head.encode() + dialect.body)
        if not closes:
            return await exchange.hang()
        exchange.writer.close()

    return answer
