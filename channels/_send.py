"""What the chat channels share: an answer is cut into messages that their senders take, and sent with httpx."""

from collections.abc import Iterator, Mapping
from typing import Any

from state import State

LONGEST = 4000  # UTF-16 units: Telegram and WhatsApp take 4,096


class NotSent(Exception):
    """The sender's API did not take a message. Its URL may hold a token, so httpx's own words are not repeated."""


async def send(state: State, url: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Any:
    """Post JSON and return what comes back. Raises `NotSent`, or what httpx raises without an answer."""
    response = await state["http"].post(url, json=body, headers=headers)
    if response.is_error:
        raise NotSent(f"answered {response.status_code}")
    return response.json()


def messages(text: str) -> Iterator[str]:
    """Cut a text that is too long for one message at the end of a line or of a word, where there is one."""
    while text:
        head = text.encode("utf-16-le")[: 2 * LONGEST].decode("utf-16-le", "ignore")
        if head != text and (cut := max(head.rfind("\n"), head.rfind(" "))) > 0:
            head = head[:cut]
        yield head
        text = text[len(head) :].lstrip()
