"""GET /api/health, by the front door."""

import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx

from app import create_app
from config import HERE, Config
from tests.conftest import Serve
from tests.servers import serving
from worker import Worker


def test_everybody_may_ask_whether_the_app_and_its_database_answer(serve: Serve):
    response = httpx.get(f"{serve()}/api/health", trust_env=False)
    assert (response.status_code, response.json()) == (200, {"success": True, "data": "ok"})


def test_a_file_that_another_process_holds_or_that_is_gone_is_told(serve: Serve, tmp_path: Path):
    url = f"{serve()}/api/health"
    with closing(sqlite3.connect(tmp_path / "data/app.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        response = httpx.get(url, trust_env=False, timeout=10)
        assert (response.status_code, response.json()) == (503, {"error": "The database takes no write"})
    assert httpx.get(url, trust_env=False, timeout=10).status_code == 200
    (tmp_path / "data/app.db").unlink()
    assert httpx.get(url, trust_env=False, timeout=10).status_code == 503


def test_where_the_worker_alone_is_gone_it_is_503(tmp_path: Path):
    app = create_app(Config(routes_dir=HERE / "routes", database_url=f"sqlite:///{tmp_path / 'app.db'}"))
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncGenerator[Any]:
        async with inner(app) as state:
            yield {**dict(state or {}), "worker": Worker(dict(state or {})["db"], {})}  # which nobody serves

    app.router.lifespan_context = lifespan
    with serving(app) as url:
        response = httpx.get(f"{url}/api/health", trust_env=False)
        assert (response.status_code, response.json()) == (503, {"error": "No jobs are run here"})
        assert httpx.get(f"{url}/", trust_env=False).status_code != 500
