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
