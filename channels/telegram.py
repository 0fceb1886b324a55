"""Telegram (https://core.telegram.org/bots/api#setwebhook): a message to the bot is answered by the model."""

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request

from auth import is_secret
from chat import reply
from state import State
from worker import Job

from ._send import messages, send_all

attempts = 5


def verify(request: Request[State], body: bytes) -> bool:
    given = request.headers.get("x-telegram-bot-api-secret-token")
    return is_secret(given, request.state["config"].telegram_webhook_secret)


def events(payload: Any) -> Sequence[Any]:
    """Texts alone: not pictures, edits or people who join."""
    return [payload] if "update_id" not in payload or payload.get("message", {}).get("text") else []


def key(request: Request[State], event: Any) -> str:
    return event["update_id"]


def lane(event: Any) -> str:
    return conversation(event["message"])


def conversation(message: Any) -> str:
    """A chat, or a topic of one that has topics: what is said in one is not told in another."""
    return ":".join(str(id) for id in (message["chat"]["id"], *topic_of(message).values()))


def topic_of(message: Any) -> dict[str, Any]:
    """The topic that a message is of, as sendMessage names it: a group's, or what one person writes to a channel."""
    match message:
        case {"direct_messages_topic": {"topic_id": topic}}:
            return {"direct_messages_topic_id": topic}
        case {"is_topic_message": True, "message_thread_id": topic}:
            return {"message_thread_id": topic}
        case _:
            return {}


async def run(job: Job, state: State) -> None:
    message = job["payload"]["message"]
    answer = await reply(state, job, channel_id=conversation(message), text=message["text"])
    config = state["config"]
    where = {"chat_id": message["chat"]["id"], **topic_of(message)}
    url = f"{config.telegram_api_url}/bot{config.telegram_bot_token}/sendMessage"
    await send_all(state, job, url, [{**where, "text": text} for text in messages(answer)])
