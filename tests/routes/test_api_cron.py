"""GET /api/cron, by the front door."""

from collections.abc import Callable

import httpx
import pytest

from config import HERE
from tests.conftest import SECRET, Serve


@pytest.mark.parametrize("headers", [{"X-Cron-Secret": SECRET}, {"Authorization": f"Bearer {SECRET}"}])
def test_with_the_secret_it_says_which_jobs_ran(serve: Serve, headers: dict[str, str]):
    url = serve()
    for method in ("GET", "POST"):
        response = httpx.request(method, f"{url}/api/cron", headers=headers, trust_env=False)
        assert (response.status_code, response.json()) == (200, {"success": True, "data": {"jobs": {}}})
    assert httpx.head(f"{url}/api/cron", headers=headers, trust_env=False).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"X-Cron-Secret": "wrong"}, {"Authorization": f"Basic {SECRET}"}])
def test_without_the_secret_it_is_closed(serve: Serve, headers: dict[str, str]):
    url = serve()
    for method in ("GET", "HEAD", "POST"):
        response = httpx.request(method, f"{url}/api/cron", headers=headers, trust_env=False)
        assert response.status_code == 401
    assert httpx.get(f"{url}/api/cron", headers=headers, trust_env=False).json() == {"error": "Unauthorized"}


def test_with_no_secret_set_it_is_closed_to_everybody(serve: Serve):
    url = serve(cron_secret=None)
    assert httpx.get(f"{url}/api/cron", trust_env=False).status_code == 401
    assert httpx.get(f"{url}/api/cron", headers={"X-Cron-Secret": "None"}, trust_env=False).status_code == 401


def test_no_other_method_runs_anything(serve: Serve):
    response = httpx.put(f"{serve()}/api/cron", headers={"X-Cron-Secret": SECRET}, trust_env=False)
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD, OPTIONS, POST")


def test_the_cron_route_runs_what_is_due_and_says_so(serve_tree: Callable[..., str]):
    cron = (HERE / "routes/api/cron/route.py").read_text()
    url = serve_tree(
        {
            "api/cron/route.py": cron,
            "late/route.py": "from starlette.responses import Response\n"
            "async def POST(request):\n"
            "    await request.state['worker'].db.write(('UPDATE house_job SET run_at = 0', ()))\n"
            "    return Response()\n",
            "../jobs/note.py": "schedule = '0 0 1 1 *'\ndef run(job): ...\n",
        }
    )
    headers = {"X-Cron-Secret": SECRET}
    assert httpx.get(f"{url}/api/cron", headers=headers, trust_env=False).json()["data"] == {"jobs": {}}
    httpx.post(f"{url}/late", trust_env=False)
    assert httpx.head(f"{url}/api/cron", headers=headers, trust_env=False).status_code == 200
    [(id, state)] = httpx.get(f"{url}/api/cron", headers=headers, trust_env=False).json()["data"]["jobs"].items()
    assert (id.startswith("cron:note:"), state) == (True, "done")
