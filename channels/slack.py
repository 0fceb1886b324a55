"""Slack (https://docs.slack.dev/apis/events-api): a direct message, or a mention, is answered by the model."""

import html
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from auth import is_recent, is_signed
from chat import reply
from jsonresponse import JSONResponse
from state import State
from worker import Job

from ._send import messages, send_all

attempts = 5


def verify(request: Request[State], body: bytes) -> bool:
    sent_at = request.headers.get("x-slack-request-timestamp", "")
    signed = b"v0:%b:%b" % (sent_at.encode("latin-1"), body)
    given = request.headers.get("x-slack-signature", "")
    return is_recent(sent_at) and is_signed(given, "v0=", signed, request.state["config"].slack_signing_secret)


def handshake(payload: Any) -> Response | None:
    """Slack asks once whether this address is ours."""
    match payload:
        case {"type": "url_verification", "challenge": challenge}:
            return JSONResponse({"challenge": challenge})
        case _:
            return None


def events(payload: Any) -> Sequence[Any]:
    """What people say to the bot: not what bots say, the bot itself among them, nor edits and people who join."""
    if payload.get("type") == "app_rate_limited":  # it has no event: Slack leaves some out, for a minute
        return []
    event = payload["event"]
    is_ours = event["type"] == "app_mention" or (event["type"], event.get("channel_type")) == ("message", "im")
    # a question may have a file; a file alone, and what is forwarded, have an empty text
    is_said = event.get("subtype", "file_share") == "file_share" and event.get("text") != ""
    return [payload] if is_ours and "bot_id" not in event and is_said else []


def key(request: Request[State], event: Any) -> str:
    return event["event_id"]


def lane(event: Any) -> str:
    return conversation(event["event"])


def conversation(event: Any) -> str:
    """A channel, or a thread in it: what is said in one is not told in another."""
    return ":".join(event[name] for name in ("channel", "thread_ts") if name in event)


async def run(job: Job, state: State) -> None:
    event = job["payload"]["event"]
    answer = await reply(state, job, channel_id=conversation(event), text=html.unescape(event["text"]))
    url = f"{state['config'].slack_api_url}/chat.postMessage"
    headers = {"Authorization": f"Bearer {state['config'].slack_bot_token}"}
    where = {name: event[name] for name in ("channel", "thread_ts") if name in event}
    # escaped as Slack asks: the model could call <!channel> otherwise
    parts = [{**where, "text": html.escape(text, quote=False)} for text in messages(answer)]
    await send_all(state, job, url, parts, headers)
