"""Telegram (https://core.telegram.org/bots/api#setwebhook): a message to the bot is answered by the model."""

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request

from auth import is_secret
from chat import reply
from state import State
from worker import Job

from ._send import messages, send

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
    return event["message"]["chat"]["id"]


async def run(job: Job, state: State) -> None:
    message = job["payload"]["message"]
    chat = message["chat"]["id"]
    answer = await reply(state, job, channel_id=str(chat), text=message["text"])
    config = state["config"]
    for text in messages(answer):
        url = f"{config.telegram_api_url}/bot{config.telegram_bot_token}/sendMessage"
        await send(state, url, {"chat_id": chat, "text": text})
