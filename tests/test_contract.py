"""What the shipped routes answer is what openapi.json says, whatever they are sent: schemathesis asks them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SECRET, TOKEN, Serve

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "ignored_auth",
)


@pytest.mark.slow
def test_no_request_is_answered_otherwise_than_the_document_says(serve: Serve, tmp_path: Path):
    program = Path(sys.executable).with_name("schemathesis")
    if not program.exists():
        reason = 'needs schemathesis: .venv/bin/pip install --constraint constraints.txt ".[contract]"'
        assert not os.environ.get("CI"), reason
        pytest.skip(reason)
    url = serve(chat_max_streams=50)
    command = [str(program), "run", f"{url}/api/openapi.json", "--checks", ",".join(CHECKS), "--max-examples", "10"]
    command += ["-H", f"Authorization: Bearer {TOKEN}", "-H", f"X-Cron-Secret: {SECRET}", "--generation-deterministic"]
    command += ["--exclude-path-regex", "stream$", "--request-timeout", "30", "--no-color"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout
