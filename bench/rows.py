"""How many pages of 200 rows a second: JSON of the size that lists have, beside a bare callable and other frameworks.

    .venv/bench/bin/python -m bench.rows

Each app answers one path with the same rows, as its own users return them: a list of dictionaries. `bare` sends bytes
that were encoded before, the most that the server can do. Served and asked as in bench/routing.py.
"""

import argparse
import http.client
import importlib
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from bench import machine
from bench.machine import Server, Unfit, become_server, client_core, pin, serve_app
from bench.routing import PATIENCE, Sample, measure, share_of

ROWS = [
    {"id": n, "name": f"Customer {n}", "email": f"customer{n}@example.com", "active": n % 3 > 0, "balance": n * 1.25}
    for n in range(200)
]
PATH = "/rows"


def bare(folder: Path) -> ASGIApp:
    body = json.dumps(ROWS, separators=(",", ":")).encode()
    headers = [(b"content-length", str(len(body)).encode()), (b"content-type", b"application/json")]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def starlette(folder: Path) -> ASGIApp:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def rows(request: Request) -> JSONResponse:
        return JSONResponse(ROWS)

    return Starlette(routes=[Route(PATH, rows)])


def fastapi(folder: Path) -> ASGIApp:
    app = importlib.import_module("fastapi").FastAPI()

    async def rows() -> list[dict[str, Any]]:
        return ROWS

    app.get(PATH)(rows)
    return app


def blacksheep(folder: Path) -> ASGIApp:
    package = importlib.import_module("blacksheep")
    app = package.Application()

    async def rows() -> Any:
        return package.json(ROWS)

    app.router.add_get(PATH, rows)
    return app


ROUTE = """\
from starlette.requests import Request

from bench.rows import ROWS
from jsonresponse import JSONResponse


async def GET(request: Request) -> JSONResponse:
    return JSONResponse(ROWS)
"""


def ours(folder: Path) -> ASGIApp:
    from app import create_app
    from config import Config

    file = folder / "routes" / PATH[1:] / "route.py"
    file.parent.mkdir(parents=True)
    file.write_text(ROUTE)
    return create_app(Config(routes_dir=folder / "routes"))


APPS: dict[str, Callable[[Path], ASGIApp]] = {
    "bare": bare,
    "starlette": starlette,
    "fastapi": fastapi,
    "blacksheep": blacksheep,
    "ours": ours,
}


def check(port: int) -> None:
    """Ask an app once. Raises `Unfit` when the answer is not the rows."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", PATH)
        response = connection.getresponse()
        body = response.read()
        if response.status != 200 or json.loads(body) != ROWS:
            raise Unfit(f"{PATH} is answered {response.status} {body[:80]!r}")


@contextmanager
def serving(name: str, seconds: int) -> Generator[Server]:
    """Serve an app that answers rightly. Raises `Unfit`."""
    with (
        tempfile.TemporaryDirectory() as folder,
        machine.serving("bench.rows", name, folder, seconds, patience=PATIENCE) as server,
    ):
        check(server.port)
        yield server


def compare(names: Sequence[str], rounds: int, seconds: float) -> str:
    """Measure the apps in turns; a table in Markdown."""
    samples: dict[str, list[Sample]] = {}
    unfit: dict[str, str] = {}
    limit = int(len(names) * (PATIENCE + 10) + len(names) * (rounds + 1) * (seconds + 5))
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for name in names:
            try:
                servers[name] = stack.enter_context(serving(name, limit))
            except Unfit as exc:
                unfit[name] = str(exc)
        for round in range(rounds + 1):
            for name, server in servers.items():
                sample = measure(server, [PATH], seconds)
                if round:  # the first one warms up
                    samples.setdefault(name, []).append(sample)
    lines = ["| JSON of 200 rows | req/s | of bare | CPU µs | ours, in times of it |", "|---|" + "--:|" * 4]
    for name in names:
        if name in unfit:
            lines.append(f"| {name} | skipped: {unfit[name]} | | | |")
            continue
        found = samples[name]
        rate, cost = statistics.median(s.rate for s in found), statistics.median(s.cost for s in found)
        times = f"{share_of(samples['ours'], found):.2f}" if "ours" in samples else ""
        lines.append(f"| {name} | {rate:,.0f} | {share_of(found, samples['bare']):.2f} | {cost:,.0f} | {times} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["serve"]:
        become_server(int(given[4]))
        return serve_app(APPS[given[2]](Path(given[3])), int(given[1]))
    parser = argparse.ArgumentParser(prog="python -m bench.rows", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--apps", default=",".join(APPS), help="what to compare (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds that count (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=1, help="of each measurement (default: %(default)s)")
    args = parser.parse_args(given)
    pin(client_core())
    print(compare(list(dict.fromkeys(["bare", *args.apps.split(",")])), args.rounds, args.seconds))


if __name__ == "__main__":
    main()
