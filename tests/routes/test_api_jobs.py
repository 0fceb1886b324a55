"""GET /api/jobs, by the front door."""

from collections.abc import Callable

import httpx

from config import HERE
from tests.conftest import SECRET


def test_an_operator_sees_what_is_due_running_and_failed(serve_tree: Callable[..., str]):
    route = (HERE / "routes/api/jobs/route.py").read_text()
    url = serve_tree({"api/jobs/route.py": route, "../jobs/tidy.py": "schedule = '0 4 * * *'\ndef run(job): ...\n"})
    data = httpx.get(f"{url}/api/jobs", headers={"X-Cron-Secret": SECRET}, trust_env=False).json()["data"]
    assert data["next"]["tidy"] > 0
    assert (data["due"], data["running"], data["failed"]) == ([], [], [])


def test_an_operator_runs_replays_cancels_and_deletes(serve_tree: Callable[..., str]):
    route = (HERE / "routes/api/jobs/route.py").read_text()
    url = serve_tree({"api/jobs/route.py": route, "../jobs/tidy.py": "def run(job): ...\n"})

    def post(**sent: object) -> httpx.Response:
        return httpx.post(f"{url}/api/jobs", json=sent, headers={"X-Cron-Secret": SECRET}, trust_env=False)

    begun = post(name="tidy", payload={"a": 1})
    assert (begun.status_code, begun.json()["data"]["id"].partition(":")[0]) == (202, "run")
    assert httpx.post(f"{url}/api/jobs", json={"name": "tidy"}, trust_env=False).status_code == 401
    for sent, field, words in (
        ({}, "name", "is required: a non-empty text"),
        ({"name": "tydi"}, "name", "There is no job 'tydi'"),
        ({"name": ""}, "name", "must be a string that matches"),
        ({"name": "a\0"}, "name", "must be a string that matches"),
        ({"action": "stop"}, "action", 'must be one of "run", "cancel", "replay", "delete"'),
        ({"action": "cancel"}, "id", "is required: a non-empty text"),
        ({"action": "replay", "id": "nowhere"}, "id", ""),
        ({"action": "delete", "id": "nowhere"}, "id", ""),
    ):
        refused = post(**sent)
        [detail] = refused.json()["details"]
        assert (refused.status_code, detail["field"]) == (400, field)
        assert detail["message"].startswith(words)
    for payload in ("NaN", "[1e999]", "-Infinity"):
        refused = httpx.post(
            f"{url}/api/jobs",
            content=f'{{"name": "tidy", "payload": {payload}}}',
            headers={"X-Cron-Secret": SECRET, "Content-Type": "application/json"},
            trust_env=False,
        )
        [detail] = refused.json()["details"]
        assert (refused.status_code, detail["field"].partition(".")[0]) == (400, "payload")
