"""POST /api/webhooks/[channel] with a channel of one's own: the one of docs/porting.md."""

import hashlib
import hmac
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from config import HERE
from tests.servers import wait_until
from tests.test_docs import PORTING, files_of, tree

__all__ = ["tree"]

ROUTE = "routes/api/webhooks/[channel]/route.py"


def test_the_ported_webhook_sends_one_receipt_for_two_deliveries(
    tree: Path, serve_tree: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SHOP_SECRET", "shop")
    files = {**files_of(PORTING), ROUTE: (HERE / ROUTE).read_text()}
    url = f"{serve_tree({f'../{name}': text for name, text in files.items()})}/api/webhooks/shop"
    body = b'{"id": "7", "order": "a book"}'
    signed = {"X-Shop-Signature": hmac.digest(b"shop", body, hashlib.sha256).hex()}
    with httpx.Client(trust_env=False) as client:
        assert client.post(url, content=body).status_code == 401
        new = [client.post(url, content=body, headers=signed).json()["data"]["new"] for _ in range(2)]
    assert new == [1, 0]
    wait_until(lambda: list(sys.modules["mailing"].SENT.values()) == ["a book"])
