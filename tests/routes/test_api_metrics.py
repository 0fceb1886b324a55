"""GET /api/metrics, as Prometheus asks it."""

import httpx

from tests.conftest import HEADERS, SECRET, Serve
from tests.servers import wait_until

OPERATOR = {"Authorization": f"Bearer {SECRET}"}


def test_requests_are_counted_by_route_and_status(serve: Serve):
    url = serve()

    def shown() -> str:
        response = httpx.get(f"{url}/api/metrics", headers=OPERATOR, trust_env=False)
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/plain")
        return response.text

    def count(line: str) -> float:
        return next((float(found.split()[-1]) for found in shown().splitlines() if found.startswith(line)), 0.0)

    asked = 'http_requests_total{method="GET",route="/api/conversations/[id]",status="404"}'
    odd = 'http_requests_total{method="other",route="-",status="404"}'
    before, before_odd = count(asked), count(odd)
    httpx.get(f"{url}/api/conversations/nobody", headers=HEADERS, trust_env=False)
    httpx.request("PROPFIND", f"{url}/coffee", trust_env=False)
    wait_until(lambda: count(asked) == before + 1)
    wait_until(lambda: count(odd) == before_odd + 1)
    first = count("chat_first_piece_seconds_count")
    with httpx.stream("POST", f"{url}/api/chat", json={"message": "Hi"}, headers=HEADERS, trust_env=False) as answer:
        answer.read()
    wait_until(lambda: count("chat_first_piece_seconds_count") == first + 1)
    wait_until(lambda: count("chat_streams_open") == 0)
    assert 'jobs{state="failed"} 0.0' in shown()
    assert "[DONE]" not in shown()


def test_nobody_else_sees_them(serve: Serve):
    assert httpx.get(f"{serve()}/api/metrics", headers=HEADERS, trust_env=False).status_code == 401
