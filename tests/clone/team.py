"""What a team has added to its clone: tables, a middleware, a package, a job, a channel, a setting, open routes."""

OPEN = {
    f"routes/team/open/p{n:02}/route.py": """from pathlib import Path

from starlette.responses import PlainTextResponse, Response

CALLED = Path(__file__).parents[4] / "called"


async def GET() -> Response:
    return PlainTextResponse("open")


async def POST() -> Response:
    CALLED.touch()  # stands for another service that is asked
    return PlainTextResponse("done")


PATCH = DELETE = POST
"""
    for n in range(25)
}

# What an earlier version of the machine can load too.
ANY_VERSION = {
    **OPEN,
    "pricing.py": """def gross(net: int) -> int:
    return net + net * 19 // 100
""",
    "warehouse/__init__.py": "",
    "warehouse/shelves.py": """from pricing import gross

SHELVES = {"a": gross(100)}
""",
    "jobs/team_count.py": """from typing import Any

from warehouse.shelves import SHELVES

schedule = "0 3 * * *"


async def run(job: Any) -> None:
    assert SHELVES
""",
    "channels/team_till.py": """import os
from typing import Any

from starlette.requests import Request

from auth import is_signed


def verify(request: Request[Any], body: bytes) -> bool:
    return is_signed(request.headers.get("x-till"), "", body, os.environ.get("TILL_SECRET"))


def key(request: Request[Any], event: Any) -> str:
    return str(event["id"])


async def run(job: Any) -> None: ...
""",
    "public/team.txt": "a file of the team's\n",
}

TEAM = {
    **ANY_VERSION,
    "migrations/901_customers.sql": """-- a table of the team's; its name is not one of the machine's
CREATE TABLE team_customer (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
INSERT INTO team_customer (id, name) VALUES (1, 'Ada; the first');
""",
    "migrations/902_purchases.sql": """CREATE TABLE team_purchase (
  id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL REFERENCES team_customer (id), cents INTEGER NOT NULL);
INSERT INTO team_purchase (id, customer_id, cents) VALUES (7, 1, 1200);
""",
    "middleware.py": """from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Team:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-team"] = "yes"
            await send(message)

        await self.app(scope, receive, marked)


middleware = [Middleware(Team)]
""",
    "instrumentation.py": """from collections.abc import AsyncGenerator

from state import State
from warehouse.shelves import SHELVES


async def register(state: State) -> AsyncGenerator[dict[str, object]]:
    yield {"shelves": SHELVES}
""",
    "routes/team/customers/[id]/route.py": """import os
from typing import Any

from starlette.requests import Request

from jsonresponse import JSONResponse


async def GET(request: Request[Any], params: dict[str, str]) -> JSONResponse:
    rows = await request.state["db"].read(
        "SELECT name, cents FROM team_customer t JOIN team_purchase ON customer_id = t.id WHERE t.id = $1",
        int(params["id"]),
    )
    return JSONResponse({"rows": rows, "opened": len(request.state), "greeting": os.environ.get("TEAM_GREETING")})
""",
    "tests/test_team.py": """import httpx

from tests.conftest import Serve
from warehouse.shelves import SHELVES


def test_the_team_reads_its_tables_by_its_own_route(serve: Serve):
    url = serve()
    answer = httpx.get(f"{url}/team/customers/1", trust_env=False).json()
    assert answer["rows"] == [{"name": "Ada; the first", "cents": 1200}]
    assert httpx.get(f"{url}/team/open/p07", trust_env=False).text == "open"


def test_the_package_of_the_team_is_found():
    assert SHELVES == {"a": 119}
""",
}
SETTINGS = "TEAM_GREETING=hello\nWEBCHAT_TOKEN=a-token-of-the-team\nCRON_SECRET=a-secret-of-the-team\n"
