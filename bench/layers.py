"""What one request costs in process, layer by layer: no server, no sockets, and a `send` that does nothing.

    .venv/bin/python -m bench.layers

The stack grows from the router outwards, as app.py lists it; each line is one layer more. All take turns within each
round, and the fastest round of each counts, so that a busy machine changes little: a round is a fraction of a
millisecond. In the same table stand a bare callable and Starlette, from bench/routing.py.
"""

import argparse
import asyncio
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from starlette.types import ASGIApp, Message, Scope

from app import App, create_app
from bench.routing import bare, questions, starlette, write_routes
from config import Config

REQUESTS = 300  # of one round
KINDS = ("static", "dynamic")


def stacks(folder: Path) -> dict[str, ASGIApp]:
    """The apps to compare, by name."""
    whole = create_app(Config(routes_dir=write_routes(folder / "routes", 2)))
    assert isinstance(whole, App)
    found: dict[str, ASGIApp] = {"bare": bare(2, folder), "starlette": starlette(2, folder), "router": whole.router}
    app: ASGIApp = whole.router
    for cls, args, kwargs in reversed(whole.layers()):
        app = cls(app, *args, **kwargs)
        found[f"+ {getattr(cls, '__name__', cls)}"] = app
    found["the whole app"] = whole
    return found


def scope_of(path: str) -> Scope:
    """A request as uvicorn gives it."""
    addresses = {"server": ("127.0.0.1", 8000), "client": ("127.0.0.1", 50_000), "scheme": "http"}
    asked = {"method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": ""}
    headers = [(b"host", b"127.0.0.1:8000")]
    return {"type": "http", "http_version": "1.1", "headers": headers, "state": {}, **addresses, **asked}


async def receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Message) -> None: ...


async def cost(app: ASGIApp, path: str) -> float:
    """Microseconds of processor time for each request of one round."""
    scopes = [scope_of(path) for _ in range(REQUESTS)]
    began = time.process_time()
    for scope in scopes:
        await app(scope, receive, send)
    return (time.process_time() - began) / REQUESTS * 1e6


async def compare(apps: Mapping[str, ASGIApp], rounds: int) -> str:
    """Measure the apps in turns; a table in Markdown."""
    best: dict[tuple[str, str], float] = {}
    paths = {kind: questions(2, kind)[-1].path for kind in KINDS}
    for _ in range(rounds):
        for name, app in apps.items():
            for kind in KINDS:
                best[name, kind] = min(best.get((name, kind), float("inf")), await cost(app, paths[kind]))
    heads = " | ".join(f"{kind} µs | more than before | of bare" for kind in KINDS)
    lines = [f"| | {heads} |", "|---|" + "--:|" * 6]
    before = dict.fromkeys(KINDS, 0.0)
    for name in apps:
        cells: list[str] = []
        for kind in KINDS:
            found = best[name, kind]
            more = f"{found - before[kind]:+.2f}" if name.startswith(("+", "the")) else ""
            cells += [f"{found:.2f}", more, f"{found / best['bare', kind]:.1f}"]
            before[kind] = found
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.layers", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=1000, help="(default: %(default)s)")
    args = parser.parse_args(arguments)
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        print(asyncio.run(compare(stacks(Path(folder)), args.rounds)))


if __name__ == "__main__":
    main()
