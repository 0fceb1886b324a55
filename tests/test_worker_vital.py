"""A worker that ends unasked ends its process, with status 1, so that a supervisor starts it again."""

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
from worker import Worker

async def serve(self):
    {ends}

Worker.serve = serve
logging.basicConfig()
routes = Path(sys.argv[1]) / "routes"
routes.mkdir()
app = create_app(Config(routes_dir=routes, database_url=f"sqlite:///{{sys.argv[1]}}/app.db", jobs_grace=0))
uvicorn.run(app, port=0, log_level="warning")
"""


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["raise ValueError('why')", "raise SystemExit(0)", "pass"])
def test_a_worker_that_ends_unasked_ends_the_process_with_status_1(tmp_path: Path, ends: str):
    command = [sys.executable, "-c", SCRIPT.format(ends=ends), str(tmp_path)]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert "the worker ended unasked: the process stops, with status 1" in done.stderr
