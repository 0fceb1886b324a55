"""GET /api/metrics, as Prometheus asks it."""

from collections.abc import Callable
from pathlib import Path

import httpx

from config import HERE
from tests.conftest import HEADERS, SECRET, Serve
from tests.processes import PYTHON, Project, running
from tests.servers import free_port, wait_until

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


def test_jobs_are_counted_by_what_became_of_them(serve_tree: Callable[..., str]):
    shipped = {
        f"api/{name}/route.py": (HERE / f"routes/api/{name}/route.py").read_text() for name in ("jobs", "metrics")
    }
    jobs = {
        "../jobs/tidy_counted.py": "def run(job): ...\n",
        "../jobs/fail_counted.py": "from worker import GiveUp\ndef run(job): raise GiveUp('no')\n",
    }
    url = serve_tree({**shipped, **jobs})

    def shown() -> str:
        return httpx.get(f"{url}/api/metrics", headers=OPERATOR, trust_env=False).text

    for name in ("tidy_counted", "fail_counted"):
        assert httpx.post(f"{url}/api/jobs", json={"name": name}, headers=OPERATOR, trust_env=False).status_code == 202
    wait_until(lambda: 'job_seconds_count{job="tidy_counted",outcome="done"} 1.0' in shown())
    wait_until(lambda: 'job_seconds_count{job="fail_counted",outcome="failed"} 1.0' in shown())
    assert 'job_seconds_bucket{job="tidy_counted",le="300.0",outcome="done"} 1.0' in shown()


def test_several_processes_count_together_in_the_folder_that_they_share(clone: Project, tmp_path: Path):
    shared = tmp_path / "shared"
    shared.mkdir()
    port = free_port()
    settings = {"PORT": str(port), "CRON_SECRET": SECRET, "WEB_CONCURRENCY": "2"}
    with running(clone, PYTHON, "-m", "app", "start", PROMETHEUS_MULTIPROC_DIR=str(shared), **settings) as server:
        wait_until(lambda: server.output.count("Application startup complete") == 2)

        def count() -> float:
            text = httpx.get(f"http://127.0.0.1:{port}/api/metrics", headers=OPERATOR, trust_env=False).text
            asked = 'http_requests_total{method="PUT",route="-",status="404"}'
            return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(asked)), 0.0)

        for _ in range(20):
            httpx.put(f"http://127.0.0.1:{port}/nowhere", trust_env=False)
        wait_until(lambda: count() == 20)


def test_nobody_else_sees_them(serve: Serve):
    assert httpx.get(f"{serve()}/api/metrics", headers=HEADERS, trust_env=False).status_code == 401
