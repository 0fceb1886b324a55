"""What is counted for Prometheus, where the extra `metrics` is installed; else nothing is, and nothing is spent on it.

routes/api/metrics gives it out. Routes are named by their pattern and odd methods are one, so that no client can make
the number of series grow.
"""

from functools import cache
from importlib.util import find_spec
from typing import Any

AVAILABLE = find_spec("prometheus_client") is not None

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

if AVAILABLE:
    from prometheus_client import Counter, Histogram

    _requests: Any = Counter("http_requests", "Requests, by route and status.", ["method", "route", "status"])
    _first: Any = Histogram("chat_first_piece_seconds", "Until the first piece of an answer.", buckets=SECONDS)
    _jobs: Any = Histogram("job_seconds", "How long jobs ran.", ["job", "outcome"], buckets=SECONDS)


@cache  # as many as there are series: the library builds its key anew at each look-up, 2 us
def counted(method: str, route: str, status: int) -> Any:
    """The counter of one series of requests."""
    return _requests.labels(method, route, str(status) if status else "left")


def request_ended(method: str, route: str, status: int, first_ms: float | None) -> None:
    """Count a request, and the time until its first piece where it was a chat."""
    if AVAILABLE:
        counted(method if method in METHODS else "other", route, status).inc()
        if first_ms is not None:
            _first.observe(first_ms / 1000)


def job_ended(name: str, took: float, *, failed: bool) -> None:
    """Count a run of a job; ``took`` is in seconds."""
    if AVAILABLE:
        _jobs.labels(name, "failed" if failed else "done").observe(took)
