"""What is counted for Prometheus, where the extra `metrics` is installed; else nothing is, and nothing is spent on it.

routes/api/metrics gives it out. Routes are named by their pattern and odd methods are one, so that no client can make
the number of series grow.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

AVAILABLE = find_spec("prometheus_client") is not None
SHARED = "PROMETHEUS_MULTIPROC_DIR" in os.environ  # several processes count together, in files

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

_counts: defaultdict[tuple[str, str, int], int] = defaultdict(int)  # of requests, by method, route and status


class Requests:
    """The counter of requests: adding to a number in `_counts` costs a fifth of what the library's own counter does."""

    name = "http_requests"
    about = "Requests, by route and status."
    labels = ("method", "route", "status")

    def collect(self) -> Iterator[Any]:
        family = CounterMetricFamily(self.name, self.about, labels=self.labels)
        for (method, route, status), count in list(_counts.items()):
            family.add_metric((method, route, str(status or "left")), count)
        yield family


if AVAILABLE:
    from prometheus_client import REGISTRY, Counter, Histogram
    from prometheus_client.metrics_core import CounterMetricFamily

    _first: Any = Histogram("chat_first_piece_seconds", "Until the first piece of an answer.", buckets=SECONDS)
    _jobs: Any = Histogram("job_seconds", "How long jobs ran.", ["job", "outcome"], buckets=SECONDS)
    if SHARED:
        _shared: Any = Counter(Requests.name, Requests.about, Requests.labels)
    else:
        REGISTRY.register(Requests())


def request_ended(method: str, route: str, status: int) -> None:
    """Count a request; its status is 0 where the client left before there was one."""
    if not AVAILABLE:
        return
    method = method if method in METHODS else "other"
    if SHARED:
        _shared.labels(method, route, str(status or "left")).inc()
    else:
        _counts[method, route, status] += 1


def first_piece(took: float) -> None:
    """Count how long it took until the first piece of an answer; ``took`` is in seconds."""
    if AVAILABLE:
        _first.observe(took)


def job_ended(name: str, took: float, *, failed: bool) -> None:
    """Count a run of a job; ``took`` is in seconds."""
    if AVAILABLE:
        _jobs.labels(name, "failed" if failed else "done").observe(took)
