"""GET /api/metrics: what Prometheus reads, with the secret of /api/cron as bearer token. docs/running.md explains it.

It requires the extra `metrics`. With several processes, each of them answers for itself, unless
PROMETHEUS_MULTIPROC_DIR names a folder that they share.
"""

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from auth import operator, requires
from metrics import AVAILABLE, SHARED
from state import State


@requires(operator)
async def GET(request: Request[State]) -> Response:
    if not AVAILABLE:
        raise HTTPException(501, 'The extra metrics is not installed: pip install -c constraints.txt ".[metrics]"')
    from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Gauge, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector

    now = CollectorRegistry()
    streams = Gauge("chat_streams_open", "Answers that this process writes now.", registry=now)
    streams.set(len(request.state["answers"].writing))
    rows = Gauge("jobs", "Jobs, by state; those that failed wait for somebody.", ["state"], registry=now)
    for word, count in (await request.state["worker"].overview(1))["counts"].items():
        rows.labels(word).set(count)
    counted = REGISTRY
    if SHARED:
        counted = CollectorRegistry()
        MultiProcessCollector(counted)
    return Response(generate_latest(counted) + generate_latest(now), media_type=CONTENT_TYPE_LATEST)
