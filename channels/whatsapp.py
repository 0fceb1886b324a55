"""WhatsApp Cloud API (https://developers.facebook.com/docs/whatsapp/cloud-api): a message is answered by the model."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from starlette.requests import Request

from auth import is_secret, is_signed
from chat import reply
from state import State
from worker import Job

from ._send import messages, send_all

attempts = 5


def verify(request: Request[State], body: bytes) -> bool:
    given = request.headers.get("x-hub-signature-256", "")
    return is_signed(given, "sha256=", body, request.state["config"].whatsapp_app_secret)


def challenge(request: Request[State]) -> str | None:
    """Meta asks once whether this address is ours."""
    query = request.query_params
    given = query.get("hub.verify_token", "").encode().decode("latin-1")  # as a header would have come
    if query.get("hub.mode") == "subscribe" and is_secret(given, request.state["config"].whatsapp_verify_token):
        return query.get("hub.challenge")
    return None


def events(payload: Any) -> Sequence[Any]:
    """Each text of a delivery, which may hold several, and much else: that a message was read, for one."""
    values = [change["value"] for entry in payload["entry"] for change in entry["changes"]]
    found = [(value, message) for value in values for message in value.get("messages", ())]
    return [
        {"from_us": value["metadata"]["phone_number_id"], "message": message}
        for value, message in found
        if message["type"] == "text"
    ]


def key(request: Request[State], event: Any) -> str:
    return event["message"]["id"]


def lane(event: Any) -> str:
    return conversation(event)


def conversation(event: Any) -> str:
    """A person's or a group's with one of our numbers: two businesses may share this address."""
    to = recipient(event)
    return f"{event['from_us']}:{to.get('to') or to['recipient']}"


def recipient(event: Any) -> dict[str, str]:
    """Whom to answer, as the API names it: a group, or a person by number or, who shows a username alone, by id."""
    message = event["message"]
    if group := message.get("group_id"):
        return {"recipient_type": "group", "to": group}
    if number := message.get("from"):
        return {"to": number}
    return {"recipient_type": "individual", "recipient": message["from_user_id"]}


async def run(job: Job, state: State) -> None:
    event, config = job["payload"], state["config"]
    answer = await reply(state, job, channel_id=conversation(event), text=event["message"]["text"]["body"])
    url = f"{config.whatsapp_api_url}/{quote(event['from_us'], safe='')}/messages"
    headers = {"Authorization": f"Bearer {config.whatsapp_access_token}"}
    to = {"messaging_product": "whatsapp", **recipient(event), "type": "text"}
    await send_all(state, job, url, [{**to, "text": {"body": text}} for text in messages(answer)], headers)
