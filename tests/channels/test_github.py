"""channels/github.py, as GitHub delivers: JSON, or the form that is its default."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from config import HERE
from tests.conftest import Serve
from tests.routes.test_api_webhooks import hexmac, new, post
from tests.servers import wait_until, write_tree


def github(url: str, body: bytes, kind: str, event: str = "push", id: str = "d1") -> httpx.Response:
    headers = {
        "X-Hub-Signature-256": "sha256=" + hexmac("github-secret", body),
        "X-GitHub-Delivery": id,
        "X-GitHub-Event": event,
        "Content-Type": kind,
    }
    return post(url, "github", body, headers)


@pytest.fixture
def url(serve: Serve, project: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("GITHUB_SECRET", "github-secret")
    job = f"import json, pathlib\ndef run(job): pathlib.Path({str(project / 'ran')!r}).write_text(json.dumps(job))\n"
    write_tree(project, {"jobs/on_github_push.py": job})
    return serve(routes_dir=project / "routes")


FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize("kind", ["application/json", FORM])
def test_an_event_goes_to_the_job_of_its_name(url: str, project: Path, kind: str):
    payload: Any = {"ref": "refs/heads/main", "é": "& ="}
    body = json.dumps(payload).encode() if kind != FORM else urlencode({"payload": json.dumps(payload)}).encode()
    assert [new(github(url, body, kind)) for _ in range(2)] == [1, 0]
    wait_until(lambda: (project / "ran").exists() and (project / "ran").read_text())
    assert json.loads((project / "ran").read_text())["payload"] == payload


def test_a_ping_and_what_has_no_file_are_left_alone(url: str):
    assert new(github(url, b"{}", "application/json", "ping")) == 0
    assert new(github(url, b"{}", "application/json", "star")) == 1


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [(b"[1]", "application/json", 200), (b"payload=%5B1%5D", FORM, 200), (b"other=1", FORM, 400), (b"\xff", FORM, 400)],
)
def test_what_is_signed_is_never_500(url: str, body: bytes, kind: str, status: int):
    assert github(url, body, kind).status_code == status


def test_what_is_not_signed_is_401(url: str):
    assert post(url, "github", b"{}", {"X-GitHub-Delivery": "1"}).status_code == 401


def test_the_file_that_the_docs_show_is_this_one():
    shown = (HERE / "docs" / "webhooks.md").read_text().split("```python\n# channels/github.py\n")[1].split("```\n")[0]
    assert (HERE / "channels" / "github.py").read_text().endswith(shown)
