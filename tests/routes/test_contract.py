"""What the shipped routes answer is what openapi.json says, whatever they are sent: schemathesis asks them."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.conftest import HEADERS, SECRET, TOKEN, Serve
from tests.servers import ModelServer
from tests.shipped import ROUTES, copy_shipped

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "ignored_auth",
)


# What cannot be made up: another channel is 403 for the token, and of another id nothing is there.
KNOWN = """
[parameters]
"query.channel" = "web"
"path.id" = "c"
"""


@pytest.mark.slow
def test_no_request_is_answered_otherwise_than_the_document_says(serve: Serve, model: ModelServer, tmp_path: Path):
    program = Path(sys.executable).with_name("schemathesis")
    if not program.exists():
        reason = 'needs schemathesis: .venv/bin/pip install --constraint constraints.txt ".[contract]"'
        assert not os.environ.get("CI"), reason
        pytest.skip(reason)
    copy_shipped(tmp_path, ROUTES)  # no handler of yours is called
    url = serve(chat_max_streams=50, openai_base_url=model.url, routes_dir=tmp_path / "routes")
    asked = {"message": "Hi", "conversationId": "c"}
    httpx.post(f"{url}/api/chat", json=asked, headers=HEADERS, trust_env=False).raise_for_status()
    (tmp_path / "schemathesis.toml").write_text(KNOWN)
    command = [str(program), "run", f"{url}/api/openapi.json", "--checks", ",".join(CHECKS), "--max-examples", "10"]
    command += ["-H", f"Authorization: Bearer {TOKEN}", "-H", f"X-Cron-Secret: {SECRET}", "--generation-deterministic"]
    command += ["--request-timeout", "30", "--no-color"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout
    assert len(model.asked) > 5  # the chat was answered, and not only refused
