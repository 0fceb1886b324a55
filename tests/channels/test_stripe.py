"""channels/stripe.py, as Stripe signs."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from auth import is_signed
from tests.conftest import Serve
from tests.routes.test_api_webhooks import hexmac, new, post
from tests.servers import wait_until, write_tree

EVENT: Any = {"id": "evt_1", "object": "event", "type": "invoice.paid", "data": {"object": {"id": "in_1"}}}
BODY = json.dumps(EVENT, indent=2).encode()


def header(body: bytes = BODY, key: str = "whsec_1", age: float = 0.0, before: str = "") -> dict[str, str]:
    now = int(time.time() - age)
    return {"Stripe-Signature": f"t={now},{before}v1={hexmac(key, b'%d.%b' % (now, body))},v0=old"}


def test_an_event_goes_to_the_job_of_its_type_once(serve: Serve, project: Path):
    job = f"import json, pathlib\ndef run(job): pathlib.Path({str(project / 'ran')!r}).write_text(json.dumps(job))\n"
    write_tree(project, {"jobs/on_stripe_invoice_paid.py": job})
    url = serve(routes_dir=project / "routes", stripe_webhook_secret="whsec_2,whsec_1")
    assert [new(post(url, "stripe", BODY, header())) for _ in range(2)] == [1, 0]
    wait_until(lambda: (project / "ran").exists() and (project / "ran").read_text())
    assert json.loads((project / "ran").read_text())["payload"] == EVENT


@pytest.mark.parametrize(
    ("signed", "status"),
    [
        ({}, 200),
        ({"before": "v1=wrong," * 7}, 200),
        ({"before": "v1=wrong," * 8}, 401),
        ({"key": "whsec_other"}, 401),
        ({"age": 400}, 401),
        ({"body": b"{}"}, 401),
    ],
)
def test_what_is_not_signed_by_stripe_is_401(serve: Serve, signed: dict[str, Any], status: int):
    url = serve(stripe_webhook_secret="whsec_1")
    assert post(url, "stripe", BODY, header(**signed)).status_code == status  # signed when the test runs


@pytest.mark.parametrize("headers", [{"Stripe-Signature": "t=,v1="}, {"Stripe-Signature": "nonsense"}, {}])
def test_what_is_no_signature_is_401(serve: Serve, headers: dict[str, str]):
    assert post(serve(stripe_webhook_secret="whsec_1"), "stripe", BODY, headers).status_code == 401


def test_without_its_secret_it_is_closed(serve: Serve):
    assert post(serve(), "stripe", BODY, header(key="")).status_code == 401


def test_a_signature_made_by_stripes_own_library_is_understood():
    # stripe.WebhookSignature._compute_signature("1700000000.{}", "whsec_test_secret") of stripe 16.1
    expected = "ceb8863f7208fa249a6cd8f951e993c7563412aca65866f6272283debe143ab3"
    assert is_signed(expected, "", b"1700000000.{}", "whsec_test_secret")
