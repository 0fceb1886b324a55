"""The failures of a model, and what the HTTP status of its server means.

A failure has three texts: its own words, which a client may see; ``why``, for the log; and ``fix``, for who runs the
app. The provider's text is in none of them, since it may repeat what was asked. Its `code` and `param` are fixed words
and go into ``why``, where they look like words.
"""

import math
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

LONGEST_WAIT = 2.0  # seconds: a longer Retry-After is not waited out with a client kept waiting, but handed on
LONGEST_TOLD = 86_400.0  # seconds: what is handed on
SHORTEST_WAIT = 0.5  # seconds, where the server names none


class LLMError(Exception):
    """The model did not give a whole answer. The text is ours, and safe to show to a client.

    ``fix`` may have ``{setting}``, the variable that names the model, ``{name}``, its value, and ``{key}``, what is
    wrong with the key: `LLM` fills them in.
    """

    another_may_help = True  # whether another model of the same server may answer where this one failed
    ask_again_in: float | None = None  # seconds, where the same request may be answered the second time

    def __init__(self, words: str, *, why: str = "", fix: str = "") -> None:
        super().__init__(words)
        self.why = why
        self.fix = fix


class Refused(LLMError):
    """The model server could not be reached, or said no."""


class RateLimited(LLMError):
    """The model server is busy; ``retry_after`` is the wait that it asked for, in seconds."""

    def __init__(self, words: str, retry_after: float | None, *, why: str = "", fix: str = "") -> None:
        super().__init__(words, why=why, fix=fix)
        self.retry_after = retry_after


class Silent(LLMError):
    """The model server took the request and then said nothing for too long."""


class BrokenOff(LLMError):
    """The answer began, or should have begun, and did not come to its end."""


class NotAStream(BrokenOff):
    """What came is not the stream of a chat completion, nor a whole one."""

    another_may_help = False


class Meaning(NamedTuple):
    """What a refusal means: the words for the client, the fix for the log, and whether another model may help."""

    words: str
    fix: str = ""
    another_may_help: bool = False


REFUSED = "The model refused the request."
REPORTED = "The model reported an error."
UNKNOWN = Meaning(
    "The model server does not know the model.",
    "{setting}={name}: name a model that the server has. If it has this one, fix OPENAI_BASE_URL: the server's address "
    "with the path before /chat/completions, often /v1",
    another_may_help=True,
)
TOO_LONG = Meaning(
    "The conversation is too long for the model.",
    "Lower CHAT_HISTORY_CHARS, or set {setting} to a model with a longer context",
    another_may_help=True,
)
FILTERED = Meaning("The content filter of the model server refused the message.")
KEY = Meaning(REFUSED, "OPENAI_API_KEY {key}: set the key that belongs to OPENAI_BASE_URL (unset: to OpenAI)")
NO_CREDIT = Meaning(REFUSED, "The account of OPENAI_API_KEY has no credit left: waiting does not help")
PARAMETER = Meaning(REFUSED, "Change or remove this parameter in {setting}_OPTIONS", another_may_help=True)

BY_CODE = {
    "context_length_exceeded": TOO_LONG,
    "contextwindowexceedederror": TOO_LONG,  # litellm
    "exceed_context_size_error": TOO_LONG,  # llama.cpp
    "model_max_prompt_tokens_exceeded": TOO_LONG,  # GitHub
    "string_above_max_length": TOO_LONG,
    "request_too_large": TOO_LONG,
    "insufficient_quota": NO_CREDIT,
    "insufficient_balance": NO_CREDIT,
    "billing_hard_limit_reached": NO_CREDIT,
    "billing_not_active": NO_CREDIT,
    "exceeded_current_quota_error": NO_CREDIT,  # Moonshot, with 429
    "budget_exceeded": NO_CREDIT,  # litellm
    "arrearage": NO_CREDIT,  # DashScope
    "1008": NO_CREDIT,  # MiniMax
    "1113": NO_CREDIT,  # Zhipu, with 429
    "content_filter": FILTERED,
    "content_policy_violation": FILTERED,
    "contentpolicyviolationerror": FILTERED,  # litellm
    "data_inspection_failed": FILTERED,  # DashScope
    "1301": FILTERED,  # Zhipu
    "model_not_found": UNKNOWN,
    "invalid_model": UNKNOWN,  # Mistral
    "unsupported_parameter": PARAMETER,
    "unsupported_value": PARAMETER,
    "unknown_parameter": PARAMETER,
    "invalid_value": PARAMETER,
    "invalid_api_key": KEY,
    "1004": KEY,  # MiniMax
}
BY_STATUS = {
    401: KEY,
    402: NO_CREDIT,
    403: Meaning(REFUSED, "OPENAI_API_KEY may not use {setting}={name}, or not from here", another_may_help=True),
    404: UNKNOWN,
    405: UNKNOWN,
    413: TOO_LONG,
}
REDIRECTED = Meaning(
    "The model server sends requests elsewhere.",
    "Redirects are not followed: set OPENAI_BASE_URL to the address that the server redirects to",
)
FIXED = ("code", "error_code", "status_code", "statusCode", "status", "type", "error_type", "param")
SPOKEN = ("message", "error", "detail", "status_msg")
IN_WORDS = {  # what many say in the message alone
    re.compile(  # vLLM, llama.cpp, Anthropic, xAI, Gemini, Moonshot, watsonx, DashScope, TGI; Bedrock when it is busy
        r"(?i)context (length|window|size)|maximum context|too many (input )?tokens(?!, please wait)"
        r"|(prompt|input) is too long|maximum prompt length|exceed\w* (the )?max\w* (number of tokens|length)"
        r"|exceed\w* (model|the total) tokens? limit|range of input length|`inputs` (tokens|must)"
    ): TOO_LONG,
    re.compile(r"(?i)(invalid|unknown|no such) model|\bmodel\b.{0,120}(not exist|not found)"): UNKNOWN,
    re.compile(r"(?i)(incorrect|invalid) api.?key|api.?key (is )?(not valid|invalid)"): KEY,  # xAI, Gemini
    re.compile(r"(?i)credit balance|insufficient (account )?balance"): NO_CREDIT,  # Anthropic
}

BUSY = {429, 503, 529}
BUSY_WORDS = {  # of what is told with another status: an error event after 200
    "rate_limit_exceeded",
    "rate_limit_error",
    "rate_limit_reached_error",  # Moonshot
    "engine_overloaded_error",
    "overloaded_error",  # Anthropic
    "resource_exhausted",  # Gemini
    "throttlingexception",  # Bedrock
    "1002",  # MiniMax
}
LATE = {408, 504, 524}
AGAIN = {408, 409, 429}  # and 5xx, but where a gateway has already waited for long


def refusal(status: int, headers: Mapping[str, str], body: object, now: float) -> LLMError:
    """Return what an answer with an error status means; ``body`` is its JSON, if it was."""
    words, message = words_of(body)
    why = " ".join(dict.fromkeys([str(status), *words]))
    wait = wait_of(headers, now)
    error = error_of(status, words, message, why, REFUSED, wait)
    may_pass = status in AGAIN or (status >= 500 and status not in LATE)
    if may_pass and not error.fix and (wait or 0.0) <= LONGEST_WAIT and headers.get("x-should-retry") != "false":
        error.ask_again_in = wait or SHORTEST_WAIT
    return error


def reported(event: object) -> LLMError:
    """Return what an error inside of an answer means."""
    words, message = words_of(event)
    status = next((int(word) for word in words if re.fullmatch("[3-5][0-9]{2}", word)), 0)
    return error_of(status, words, message, " ".join(["error event", *words]), REPORTED, None)


def error_of(status: int, words: list[str], message: str, why: str, otherwise: str, wait: float | None) -> LLMError:
    meaning = next((BY_CODE[word.lower()] for word in words if word.lower() in BY_CODE), None) or BY_STATUS.get(status)
    if meaning is None and 300 <= status < 400 and otherwise is REFUSED:
        meaning = REDIRECTED
    is_busy = status in BUSY or any(word.lower() in BUSY_WORDS for word in words)
    if meaning is None and not is_busy and status < 500:
        meaning = next((meaning for pattern, meaning in IN_WORDS.items() if pattern.search(message)), None)
    if meaning is None and is_busy:
        return RateLimited("The model is busy. Try again later.", wait, why=why)
    if meaning is None and status in LATE:
        return Silent("The model did not answer in time.", why=why)
    known = meaning or Meaning(otherwise, another_may_help=status >= 500 or otherwise is REPORTED)
    error = (BrokenOff if otherwise is REPORTED else Refused)(known.words, why=why, fix=known.fix)
    error.another_may_help = known.another_may_help
    return error


def words_of(body: Any) -> tuple[list[str], str]:
    """Return the fixed words of an error body (code, type and param), and its message, which is not for the log."""
    error = error_in(body)
    found = [str(error[name]) for name in FIXED if error.get(name)]
    words = [word for word in found if re.fullmatch(r"[\w.\[\]-]{1,80}", word, re.A)]
    message = next((error[name] for name in SPOKEN if isinstance(error.get(name), str)), "")
    return list(dict.fromkeys(words)), message


def error_in(body: Any) -> Mapping[str, Any]:
    """Return the object that tells of an error: a body, or what stands in it."""
    for _ in range(4):
        if isinstance(body, list):  # Gemini
            body = next(iter(body), None)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - JSON
        if not isinstance(body, dict):
            return {}
        holder: dict[str, Any] = body  # pyright: ignore[reportUnknownVariableType] - JSON
        inner = holder.get("error") or holder.get("errors") or holder.get("base_resp")  # Cloudflare; MiniMax
        if not isinstance(inner, dict | list):
            return holder
        body = inner  # pyright: ignore[reportUnknownVariableType] - JSON
    return {}


def wait_of(headers: Mapping[str, str], now: float) -> float | None:
    """Return the wait that is asked for, in seconds: `retry-after-ms`, or `Retry-After` as seconds or as a date.

    The latter is RFC 9110 10.2.3. Nonsense is None; a moment that has passed is 0.
    """
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?", value, re.A):
            return min(float(value) / unit, LONGEST_TOLD)
    try:
        wait = parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - now
    except (ValueError, OverflowError):
        return None
    return min(max(wait, 0.0), LONGEST_TOLD) if math.isfinite(wait) else None
