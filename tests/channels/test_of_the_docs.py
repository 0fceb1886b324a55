"""The channels that docs/webhooks.md shows, and does not ship."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from config import HERE
from tests.conftest import Serve
from tests.servers import write_tree


def address_of(name: str, serve: Serve, project: Path) -> str:
    """Serve a channel as the docs show it."""
    text = (HERE / "docs" / "webhooks.md").read_text()
    write_tree(project, {f"channels/{name}.py": text.split(f"```python\n# channels/{name}.py\n")[1].split("```\n")[0]})
    return f"{serve(routes_dir=project / 'routes')}/api/webhooks/{name}"


def post(address: str, body: bytes, headers: Mapping[str, str]) -> httpx.Response:
    return httpx.post(address, content=body, headers=headers, trust_env=False)


def test_twilio_s_signature_is_checked_and_it_gets_its_xml(
    serve: Serve, project: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", "token")
    address = address_of("twilio", serve, project)
    sms = {"MessageSid": "SM1", "From": "+4917", "Body": "Grüße & = +", "MediaUrl0": ""}
    body = urlencode(sms).encode()

    def headers(called: str, key: bytes = b"token") -> dict[str, str]:
        text = called + "".join(name + sms[name] for name in sorted(sms))
        signature = base64.b64encode(hmac.digest(key, text.encode(), hashlib.sha1)).decode()
        return {"Content-Type": "application/x-www-form-urlencoded", "X-Twilio-Signature": signature}

    response = post(address, body, headers(address))
    assert (response.status_code, response.text) == (200, "<Response/>")
    assert response.headers["content-type"].startswith("text/xml")
    assert post(f"{address}?a=b%20c", body, headers(f"{address}?a=b%20c")).status_code == 200
    proxied = {"Host": "example.com", "X-Forwarded-Proto": "https"}
    assert post(address, body, headers("https://example.com/api/webhooks/twilio")).status_code == 401
    assert post(address, body, headers(address, b"wrong")).status_code == 401
    assert post(address, b"\xff", headers(address)).status_code == 401
    assert post(address, body, proxied).status_code == 401


def test_discord_s_signature_is_checked_and_it_gets_its_json(
    serve: Serve, project: Path, monkeypatch: pytest.MonkeyPatch
):
    private = Ed25519PrivateKey.generate()
    monkeypatch.setenv("DISCORD_PUBLIC_KEY", private.public_key().public_bytes_raw().hex())
    address = address_of("discord", serve, project)

    def send(payload: object) -> httpx.Response:
        body = json.dumps(payload).encode()
        signature = private.sign(b"1795733685" + body).hex()
        return post(address, body, {"X-Signature-Ed25519": signature, "X-Signature-Timestamp": "1795733685"})

    assert send({"type": 1}).json() == {"type": 1}
    assert send({"type": 2, "id": "7", "data": {"name": "ask"}}).json() == {"type": 5}
    assert send([1]).json() == {"type": 5}  # signed, and not understood: kept
    for signature in ("00" * 64, "no hex", ""):
        headers = {"X-Signature-Ed25519": signature, "X-Signature-Timestamp": "1795733685"}
        assert post(address, b'{"type": 1}', headers).status_code == 401
    assert post(address, b'{"type": 1}', {}).status_code == 401
