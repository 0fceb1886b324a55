"""A background task that ends unasked ends its process, with status 1, so that a supervisor starts it again."""

import subprocess
import sys
from pathlib import Path

import pytest

from config import HERE

SCRIPT = """
import logging, sys
from pathlib import Path
import uvicorn
from app import create_app
from config import Config
from answers import Answers
from visitors import Visitors
from worker import Worker

async def ends(self):
    {ends}

{what} = ends
logging.basicConfig()
routes = Path(sys.argv[1]) / "routes"
routes.mkdir()
app = create_app(Config(routes_dir=routes, database_url=f"sqlite:///{{sys.argv[1]}}/app.db", jobs_grace=0, {settings}))
uvicorn.run(app, port=0, log_level="warning")
"""

KEYS = "auth_jwks_url='http://127.0.0.1:1/keys', auth_audience='here'"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "settings", "ends", "told"),
    [
        ("Worker.serve", "", "raise ValueError('why')", "the worker"),
        ("Worker.serve", "", "raise SystemExit(0)", "the worker"),
        ("Worker.serve", "", "pass", "the worker"),
        ("Worker.tick", "cron_interval=1", "raise SystemExit(0)", "the ticks"),
        ("Visitors.serve", KEYS, "raise ValueError('why')", "the keys of visitors"),
        ("Visitors.serve", KEYS, "pass", "the keys of visitors"),
        ("Answers._keep", "", "raise ValueError('why')", "the keeping of answers"),
    ],
)
def test_a_background_task_that_ends_unasked_ends_the_process_with_status_1(
    tmp_path: Path, what: str, settings: str, ends: str, told: str
):
    command = [sys.executable, "-c", SCRIPT.format(what=what, settings=settings, ends=ends), str(tmp_path)]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert f"{told} ended unasked: the process stops, with status 1" in done.stderr
