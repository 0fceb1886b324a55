"""GET /api/health, by the front door."""

import sqlite3
from contextlib import closing
from pathlib import Path

import httpx

from tests.conftest import Serve


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
