"""The channels that docs/webhooks.md shows, and does not ship."""

from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest

from config import HERE
from tests.conftest import Serve
from tests.servers import write_tree


def test_twilio_gets_its_xml(serve: Serve, project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TWILIO_SECRET", "twilio-secret")
    shown = (HERE / "docs" / "webhooks.md").read_text().split("```python\n# channels/twilio.py\n")[1].split("```\n")[0]
    write_tree(project, {"channels/twilio.py": shown})
    address = f"{serve(routes_dir=project / 'routes')}/api/webhooks/twilio"
    body = urlencode({"MessageSid": "SM1", "From": "+4917", "Body": "Hi"})
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    response = httpx.post(f"{address}?secret=twilio-secret", content=body, headers=headers, trust_env=False)
    assert (response.status_code, response.text) == (200, "<Response/>")
    assert response.headers["content-type"].startswith("text/xml")
    assert httpx.post(address, content=body, headers=headers, trust_env=False).status_code == 401
