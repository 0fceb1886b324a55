"""POST /api/webhooks/[channel]: take what a sender delivers. docs/webhooks.md says how to add a sender.

The answer is 200 once the events are on disk, and before anything is done about them.
"""

import json
from typing import Any

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from auth import Unauthorized
from errors import BadRequest
from jsonresponse import JSONResponse
from state import State
from webhooks import Channel, answer_to, events_of, handshake_with, is_senders, read_body

READ = 5.0  # seconds for the body: every sender has given up by then
STORE = 2.5  # seconds for the database: Slack waits for 3, and what was answered 500 is delivered again


async def POST(request: Request[State]) -> Response:
    channel = channel_of(request)
    body = await read(request)
    if not await is_senders(channel, request, body):
        raise Unauthorized
    payload = read_or_refuse(request, channel, body)
    if answer := handshake_with(channel, payload):
        return answer
    with anyio.fail_after(STORE):
        new = await put_events(request, channel, payload)
    return answer_to(channel, payload) or JSONResponse({"success": True, "data": {"new": new}})


async def GET(request: Request[State]) -> Response:
    """Prove to a sender that asks, such as Meta, that this address is ours."""
    channel = channel_of(request)
    answer = channel.challenge(request) if channel.challenge else None
    if answer is None:
        raise Unauthorized
    if isinstance(answer, Response):
        return answer
    return PlainTextResponse(answer, headers={"X-Content-Type-Options": "nosniff"})


async def put_events(request: Request[State], channel: Channel, payload: object) -> int:
    """Store the events of a delivery, and say how many were new."""
    put = request.state["worker"].put
    try:
        return sum(
            [
                await put(channel.job.name, event.payload, id=event.id, lane=event.lane)
                for event in events_of(channel, request, payload)
            ]
        )
    except RecursionError:
        raise BadRequest(("body", "is nested too deeply")) from None


def read_or_refuse(request: Request[State], channel: Channel, body: bytes) -> Any:
    """Read JSON as Python does, NaN and half a character too: what was signed is kept, and orjson refuses these."""
    try:
        return read_body(channel, request, body)
    except json.JSONDecodeError as exc:
        raise BadRequest(("body", f"is not JSON: {exc.msg} at line {exc.lineno} column {exc.colno}")) from None
    except ValueError:
        raise BadRequest(("body", "cannot be read")) from None
    except RecursionError:
        raise BadRequest(("body", "is nested too deeply")) from None


def channel_of(request: Request[State]) -> Channel:
    channel = request.state["channels"].get(request.path_params["channel"])
    if channel is None:
        raise HTTPException(404)
    return channel


async def read(request: Request[State]) -> bytes:
    with anyio.move_on_after(READ):
        return await request.body()
    raise HTTPException(408, "The body took too long", {"Connection": "close"})
