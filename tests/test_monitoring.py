"""What traces and error reports say of a request, with the real packages."""

from pathlib import Path
from typing import Any

import pytest
from starlette.middleware.opentelemetry import OpenTelemetryMiddleware
from starlette.testclient import TestClient

from app import create_app
from config import Config
from tests.processes import PYTHON, Project, run
from tests.servers import write_tree

OK = "from starlette.responses import PlainTextResponse\ndef GET(): return PlainTextResponse('ok')\n"


def test_a_trace_names_the_route(tmp_path: Path):
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    write_tree(tmp_path / "routes", {"users/[id]/route.py": OK})
    app = create_app(Config(routes_dir=tmp_path / "routes", database_url=f"sqlite:///{tmp_path}/a.db"))
    app.add_middleware(OpenTelemetryMiddleware, tracer_provider=provider)
    assert TestClient(app).get("/users/7").text == "ok"
    [span] = exporter.get_finished_spans()
    attributes: Any = span.attributes
    assert (span.name, attributes["http.route"]) == ("GET /users/[id]", "/users/[id]")


SENTRY = """
import json, sentry_sdk
from sentry_sdk.transport import Transport

class Kept(Transport):
    def capture_envelope(self, envelope):
        for item in envelope.items:
            if item.payload.json:
                found = item.payload.json
                url = (found.get("request") or {}).get("url")
                print(json.dumps([found.get("type", "error"), found.get("transaction"), url]))

sentry_sdk.init(dsn="http://key@localhost/1", transport=Kept, traces_sample_rate=1)

from app import app
from starlette.testclient import TestClient

client = TestClient(app, raise_server_exceptions=False)
client.get("/ok")
client.get("/boom/7")
sentry_sdk.flush()
"""


@pytest.mark.slow
def test_sentry_sees_each_request_and_each_error_with_its_route(project: Project):
    boom = "def GET(): 1 / 0\n"
    write_tree(project, {"routes/boom/[id]/route.py": boom, "routes/ok/route.py": OK, "sentry.py": SENTRY})
    done = run(project, PYTHON, "sentry.py")
    assert done.returncode == 0, done.stderr
    assert '["transaction", "/ok", "http://testserver/ok"]' in done.stdout
    assert '["error", "/boom/[id]", "http://testserver/boom/7"]' in done.stdout
    assert '["transaction", "/boom/[id]", "http://testserver/boom/7"]' in done.stdout
