"""Standard Webhooks (https://www.standardwebhooks.com), and Svix, which has the same under other names.

An event goes to the job that is named after its type: `invoice.paid` to jobs/on_invoice_paid.py. With no such file it
is kept as a dead letter, to be replayed once there is one.
"""

import base64
import hashlib
import hmac
from typing import Any

from starlette.requests import Request

from auth import is_recent, is_secret
from state import State
from worker import Job
from worker.table import LONGEST

MOST = 8  # signatures that are looked at


def verify(request: Request[State], body: bytes) -> bool:
    id, sent_at, given = (header(request, name) for name in ("id", "timestamp", "signature"))
    secrets = request.state["config"].standard_webhooks_secret
    if not secrets or not id or not is_recent(sent_at):
        return False
    signed = b"%b.%b.%b" % (id.encode("latin-1"), sent_at.encode(), body)
    expected = ",".join(signature(secret, signed) for secret in secrets.split(","))
    # one signature for each of the sender's secrets, while it replaces one
    signatures = [one.removeprefix("v1,") for one in given.split(" ")[:MOST] if one.startswith("v1,")]
    return any([is_secret(one, expected) for one in signatures])


def header(request: Request[State], name: str) -> str:
    return request.headers.get(f"webhook-{name}") or request.headers.get(f"svix-{name}", "")


def signature(secret: str, signed: bytes) -> str:
    """Sign ``id.timestamp.body`` with a secret, `whsec_` and base64."""
    key = base64.b64decode(secret.removeprefix("whsec_") + "==")  # some senders leave the padding out
    return base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def key(request: Request[State], event: Any) -> str:
    return header(request, "id")


async def run(job: Job, state: State) -> None:
    name = "on_" + job["payload"]["type"].replace(".", "_")
    id = f"{job['id']}:{name}"
    if len(id) > LONGEST:
        id = f"standard:{hashlib.sha256(id.encode()).hexdigest()}"
    await state["worker"].put(name, job["payload"], id=id)
