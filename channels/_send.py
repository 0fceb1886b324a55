"""What the chat channels share: an answer is cut into messages that their senders take, and sent with httpx."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import httpx

from state import State
from worker import GiveUp, Job, Retry, step

# Slack's words for a place where the bot can say nothing any more
GONE = {"channel_not_found", "is_archived", "not_in_channel", "user_not_found", "account_inactive"}

LONGEST = 4000  # UTF-16 units: Telegram and WhatsApp take 4,096


class NotSent(Exception):
    """The sender's API did not take a message. Its URL may hold a token, so httpx's own words are not repeated."""


async def send_all(
    state: State, job: Job, url: str, bodies: Iterable[Mapping[str, Any]], headers: Mapping[str, str] | None = None
) -> None:
    """Send the parts of an answer, each once, also when a later one has to be tried again. Raises as `send` does."""
    for number, body in enumerate(bodies, 1):
        await step(job, f"part-{number}", send, state, url, body, headers)


async def send(state: State, url: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
    """Post JSON. Raises `Retry` where it is to come later, `GiveUp` where it never can, `NotSent`, or httpx's own."""
    response = await state["http"].post(url, json=body, headers=headers)
    if response.status_code == 429:
        raise Retry(after=wait_of(response), words="the sender's API wants to be asked later (429)")
    if response.status_code == 403:
        raise GiveUp("the sender's API refuses this recipient (403)")
    if response.is_error:
        raise NotSent(f"answered {response.status_code}")
    said = json_of(response)
    if said.get("ok") is False:  # Slack says so with status 200, and Telegram in the same words
        error = str(said.get("error"))
        if error in GONE:
            raise GiveUp(f"the sender's API refuses this recipient ({error})")
        raise NotSent(error)


def wait_of(response: httpx.Response) -> float:
    """How many seconds to wait: Telegram's parameters.retry_after, Slack's and Meta's Retry-After, or half a minute."""
    match json_of(response):
        case {"parameters": {"retry_after": int() | float() as wait}}:
            pass
        case _:
            wait = response.headers.get("retry-after", "")
    try:
        return min(max(1.0, float(wait)), 86_400.0)
    except ValueError:  # nothing, or a date
        return 30.0


def json_of(response: httpx.Response) -> Mapping[str, Any]:
    try:
        found = response.json()
    except ValueError:
        return {}
    return cast("Mapping[str, Any]", found) if isinstance(found, dict) else {}


def messages(text: str) -> Iterator[str]:
    """Cut a text that is too long for one message at the end of a line or of a word, where there is one."""
    while text:
        head = text.encode("utf-16-le")[: 2 * LONGEST].decode("utf-16-le", "ignore")
        if head != text and (cut := max(head.rfind("\n"), head.rfind(" "))) > 0:
            head = head[:cut]
        yield head
        text = text[len(head) :].lstrip()
