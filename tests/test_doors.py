"""The rule on credentials that a team may ask of its routes: what counts as open, and that no handler runs."""

from pathlib import Path

import pytest

from tests.doors import open_doors
from tests.servers import write_tree

RAISES = """from auth import requires, service

async def {verb}(): raise RuntimeError("a handler was called")
"""
GUARD = """from starlette.middleware import Middleware
from starlette.responses import Response

class Guard:
    def __init__(self, app): self.app = app
    async def __call__(self, scope, receive, send):
        await Response(status_code={status}, headers={{"location": "/login"}})(scope, receive, send)

middleware = [Middleware(Guard)]
"""


def test_a_handler_that_asks_for_nothing_is_open_and_is_not_called(tmp_path: Path):
    files = {f"routes/{verb}/[id]/[...rest]/route.py": RAISES.format(verb=verb) for verb in ("GET", "PATCH", "DELETE")}
    write_tree(tmp_path, files)
    assert open_doors(tmp_path / "app.db", tmp_path / "routes") == {
        "GET /GET/[id]/[...rest]",
        "PATCH /PATCH/[id]/[...rest]",
        "DELETE /DELETE/[id]/[...rest]",
    }


def test_a_handler_that_requires_somebody_is_closed(tmp_path: Path):
    write_tree(tmp_path, {"routes/x/route.py": RAISES.format(verb="GET").replace("async", "@requires(service)\nasync")})
    assert open_doors(tmp_path / "app.db", tmp_path / "routes") == set()


@pytest.mark.parametrize("status", [307, 308, 400, 401, 403, 404, 422])
def test_whatever_a_guard_answers_before_the_handler_is_closed(tmp_path: Path, status: int):
    files = {"routes/x/middleware.py": GUARD.format(status=status), "routes/x/route.py": RAISES.format(verb="DELETE")}
    write_tree(tmp_path, {**files, "routes/y/route.py": RAISES.format(verb="GET")})
    assert open_doors(tmp_path / "app.db", tmp_path / "routes") == {"GET /y"}
