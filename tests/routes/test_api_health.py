"""GET /api/health, by the front door."""

import httpx

from tests.conftest import Serve


def test_everybody_may_ask_whether_the_app_and_its_database_answer(serve: Serve):
    response = httpx.get(f"{serve()}/api/health", trust_env=False)
    assert (response.status_code, response.json()) == (200, {"success": True, "data": "ok"})
