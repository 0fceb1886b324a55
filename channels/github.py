"""GitHub (https://docs.github.com/en/webhooks): an event goes to jobs/on_github_push.py, named after it, or nowhere."""

import json
import os
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request

from auth import is_signed
from state import State
from worker import Job


def verify(request: Request[State], body: bytes) -> bool:
    return is_signed(request.headers.get("x-hub-signature-256"), "sha256=", body, os.environ.get("GITHUB_SECRET"))


def parse(request: Request[State], body: bytes) -> Any:
    """Read JSON, or the form that holds it, which is GitHub's default for a new webhook."""
    if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        body = parse_qs(body.decode()).get("payload", [""])[0].encode()
    return {"event": request.headers.get("x-github-event"), "payload": json.loads(body)}


def events(payload: Any) -> list[Any]:
    return [] if payload["event"] == "ping" else [payload]  # it asks only whether we are there


def key(request: Request[State], event: Any) -> str:
    return request.headers["x-github-delivery"]  # GitHub does not sign it: a copy under another id is run again


async def run(job: Job, state: State) -> None:
    name = f"on_github_{job['payload']['event']}"
    if name in state["worker"].jobs:
        await state["worker"].put(name, job["payload"]["payload"], id=f"{job['id']}:{name}")
