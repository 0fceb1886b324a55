"""Stripe (https://docs.stripe.com/webhooks#verify-manually): an event goes to the job that is named after its type.

`invoice.paid` goes to jobs/on_stripe_invoice_paid.py. With no such file the event is kept as a dead letter, to be
replayed once there is one.
"""

import hashlib
from typing import Any

from starlette.requests import Request

from auth import is_recent, is_signed
from state import State
from worker import Job
from worker.table import LONGEST

MOST = 8  # signatures that are looked at


def verify(request: Request[State], body: bytes) -> bool:
    pairs = [part.partition("=")[::2] for part in request.headers.get("stripe-signature", "").split(",")]
    sent_at = next((value for name, value in pairs if name == "t"), "")
    if not is_recent(sent_at):
        return False
    # one signature for each of the endpoint's secrets, while Stripe replaces one
    given = [value for name, value in pairs if name == "v1"][:MOST]
    signed, secret = b"%b.%b" % (sent_at.encode(), body), request.state["config"].stripe_webhook_secret
    return any([is_signed(one, "", signed, secret) for one in given])


def key(request: Request[State], event: Any) -> str:
    return event["id"]


async def run(job: Job, state: State) -> None:
    name = "on_stripe_" + job["payload"]["type"].replace(".", "_")
    id = f"{job['id']}:{name}"
    if len(id) > LONGEST:
        id = f"stripe:{hashlib.sha256(id.encode()).hexdigest()}"
    await state["worker"].put(name, job["payload"], id=id)
