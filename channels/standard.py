"""Standard Webhooks (https://www.standardwebhooks.com): an event goes to the job that is named after its type.

`invoice.paid` goes to jobs/on_invoice_paid.py. With no such file the event is kept as a dead letter, to be replayed
once there is one.
"""

import base64
import hashlib
import hmac
from typing import Any

from starlette.requests import Request

from auth import is_recent, is_secret
from state import State
from worker import Job


def verify(request: Request[State], body: bytes) -> bool:
    id, sent_at, given = (request.headers.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature"))
    secrets = request.state["config"].standard_webhooks_secret
    if not secrets or not id or not is_recent(sent_at):
        return False
    signed = b"%b.%b.%b" % (id.encode("latin-1"), sent_at.encode(), body)
    expected = ",".join(signature(secret, signed) for secret in secrets.split(","))
    # one signature for each of the sender's secrets, while it replaces one
    return any([is_secret(one.removeprefix("v1,"), expected) for one in given.split(" ") if one.startswith("v1,")])


def signature(secret: str, signed: bytes) -> str:
    """Sign ``id.timestamp.body`` with a secret, `whsec_` and base64."""
    key = base64.b64decode(secret.removeprefix("whsec_") + "==")  # some senders leave the padding out
    return base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def key(request: Request[State], event: Any) -> str:
    return request.headers["webhook-id"]


async def run(job: Job, state: State) -> None:
    name = "on_" + job["payload"]["type"].replace(".", "_")
    await state["worker"].put(name, job["payload"], id=f"{job['id']}:{name}")
