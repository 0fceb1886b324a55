"""What a typed body costs, beside `await request.json()`, the same checks by hand, and FastAPI with the same model.

    .venv/bench/bin/python -m bench.typed        (the environment of bench/routing.py)

Every app is called in this process as a server calls it, without a socket: what is left is the app's own time. Within
each round the apps take short turns in a random order, each after a few calls that are not counted: who comes behind
another app finds its memory cold, which cost the first of ours 1.5 us when the order was fixed. The median of the
rounds counts, and of what a round says against `json`. Then come hostile bodies of growing size, whose
cost a byte must not grow, and the requests a second over sockets where `wrk` is installed: there a bare callable shows
what the server itself takes, which no framework can save.
"""

import argparse
import asyncio
import json
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import create_app
from bench.machine import Unfit, become_server, client_core, pin, serve_app, serving
from config import Config

SENT = {"title": "A title", "text": "Some words of text", "tags": ["a", "b"], "stars": 4, "draft": False}

FIELDS = """
    title: Annotated[str, Field(min_length=1, max_length=200)]
    text: str
    tags: Annotated[list[str], Field(max_length=10)]
    stars: Annotated[int, Field(ge=0, le=5)]
    draft: bool = False
"""
MODEL = f"""
from typing import Annotated
from pydantic import BaseModel, Field

class New(BaseModel):
{FIELDS}"""
DATACLASS = f"""
from dataclasses import dataclass
from typing import Annotated
from pydantic import Field

@dataclass
class New:
{FIELDS}"""
BY_HAND = """
from typing import Any
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from errors import BadRequest

def is_tags(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 10 and all(isinstance(tag, str) for tag in value)

async def POST(request: Request) -> Response:
    if request.headers.get("content-type") != "application/json":
        raise HTTPException(415)
    body = await request.json()
    wrong: list[tuple[str, str]] = []
    if not isinstance(body, dict):
        raise BadRequest(("body", "must be an object"))
    title = body.get("title")
    if not isinstance(title, str) or not 1 <= len(title) <= 200:
        wrong.append(("title", "must be a string of 1 to 200 characters"))
    if not isinstance(body.get("text"), str):
        wrong.append(("text", "must be a string"))
    if not is_tags(body.get("tags")):
        wrong.append(("tags", "must be a list of at most 10 entries"))
    stars = body.get("stars")
    if not isinstance(stars, int) or isinstance(stars, bool) or not 0 <= stars <= 5:
        wrong.append(("stars", "must be a whole number from 0 to 5"))
    if not isinstance(body.get("draft", False), bool):
        wrong.append(("draft", "must be true or false"))
    if wrong:
        raise BadRequest(*wrong)
"""
TREE = {
    "json": """
from starlette.requests import Request
from starlette.responses import Response

async def POST(request: Request) -> Response:
    body = await request.json()
    return Response(body["title"])
""",
    "typed": f"""{MODEL}
from starlette.requests import Request
from starlette.responses import Response

async def POST(request: Request, body: New) -> Response:
    return Response(body.title)
""",
    "typed/dataclass": f"""{DATACLASS}
from starlette.requests import Request
from starlette.responses import Response

async def POST(request: Request, body: New) -> Response:
    return Response(body.title)
""",
    "typed/dict": """
from typing import Annotated
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import NotRequired, TypedDict

class New(TypedDict):
    title: Annotated[str, Field(min_length=1, max_length=200)]
    text: str
    tags: Annotated[list[str], Field(max_length=10)]
    stars: Annotated[int, Field(ge=0, le=5)]
    draft: NotRequired[bool]

async def POST(request: Request, body: New) -> Response:
    return Response(body["title"])
""",
    "by hand": f"""{BY_HAND}
    return Response(title)
""",
    "by hand/dataclass": f"""{DATACLASS}{BY_HAND}
    new = New(title, body["text"], body["tags"], stars, body.get("draft", False))
    return Response(new.title)
""",
}
HOSTILE: dict[str, Callable[[int], bytes]] = {
    "one field": lambda size: b'{"title": "' + b"a" * size + b'"}',
    "wrong entries": lambda size: b'{"tags": [' + b"0," * (size // 2) + b"0]}",
    "unknown keys": lambda size: b"{" + b",".join(b'"%d": 1' % i for i in range(size // 10)) + b"}",
    "one key again": lambda size: b"{" + b'"text": "a", ' * (size // 13) + b'"text": "a"}',
    "depth": lambda size: b'{"tags": ' + b"[" * size,
    "digits": lambda size: b'{"stars": ' + b"9" * size + b"}",
    "many numbers": lambda size: b'{"tags": ["' + b"1" * 20 + b'"' + b",0" * (size // 2) + b"]}",
    "infinities": lambda size: b'{"tags": [' + b"1e999," * (size // 6) + b"0]}",
    "escapes": lambda size: b'{"title": "' + b"\\\\u0041" * (size // 6) + b'"}',
    "deep keys": lambda size: b'{"text": ' + (b'{"%s": ' % (b"k" * 100)) * (size // 106) + b"1",
}


def ours(folder: Path) -> ASGIApp:
    """The whole app, with a route for each way of reading the body."""
    for name, source in TREE.items():
        file = folder / "routes" / name / "route.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
    return create_app(Config(routes_dir=folder / "routes"))


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """What nothing is quicker than: reads the body without a look at it, and answers fixed bytes."""
    if scope["type"] == "lifespan":
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})
        return
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-length", b"7"), (b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"A title"})


def fastapi() -> ASGIApp | None:
    """FastAPI with the same model; None where it is not installed."""
    try:
        module: Any = import_module("fastapi")  # by name: type checkers need not find it
    except ModuleNotFoundError:
        return None
    from starlette.responses import Response

    found: dict[str, Any] = {}
    exec(MODEL, found)  # noqa: S102 - the text above
    app = module.FastAPI()

    async def post(body: Any) -> Response:
        return Response(body.title)

    post.__annotations__["body"] = found["New"]
    app.post("/fastapi")(post)
    return app


def caller(app: ASGIApp, path: str, body: bytes) -> Callable[[], Awaitable[int]]:
    """A function that sends a body to a path of an app, and returns the status of the answer."""
    headers = [(b"host", b"x"), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]

    async def call() -> int:
        status = 0

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]

        scope: Scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": list(headers),
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "state": {},
        }  # fmt: skip
        await app(scope, receive, send)
        return status

    return call


async def timed(call: Callable[[], Awaitable[int]], count: int) -> float:
    """Seconds of processor time for one call."""
    began = time.process_time()
    for _ in range(count):
        await call()
    return (time.process_time() - began) / count


async def compare(calls: dict[str, Callable[[], Awaitable[int]]], rounds: int, count: int) -> dict[str, list[float]]:
    """Microseconds for a call of each, in every round."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    turns = list(calls.items())
    for _ in range(rounds):
        random.shuffle(turns)
        for name, call in turns:
            assert [await call() for _ in range(3)] == [200, 200, 200], name
            found[name].append(await timed(call, count) * 1e6)
    return found


async def grow(app: ASGIApp, sizes: Sequence[int]) -> dict[str, list[tuple[int, int, float]]]:
    """For each hostile body: size, status and milliseconds, the best of three."""
    found: dict[str, list[tuple[int, int, float]]] = {}
    for name, made in HOSTILE.items():
        for size in sizes:
            call = caller(app, "/typed", made(size))
            status = await call()
            best = min([await timed(call, 1) for _ in range(3)])
            found.setdefault(name, []).append((size, status, best * 1e3))
    return found


WRK = """
wrk.method = "POST"
wrk.body = %s
wrk.headers["Content-Type"] = "application/json"
"""


def by_sockets(rounds: int, seconds: int) -> dict[str, float]:
    """Requests a second over sockets, asked by wrk: the bare callable, ours and FastAPI in turn within each round."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        script = folder / "post.lua"
        script.write_text(WRK % json.dumps(json.dumps(SENT)))
        servers = [
            stack.enter_context(serving("bench.typed", name, folder, rounds * 4 * seconds + 60, patience=60))
            for name in ("bare", "typed", "fastapi")
        ]
        found: dict[str, list[float]] = {server.name: [] for server in servers}
        for _ in range(rounds):
            for server in servers:
                command = ["wrk", "-t1", "-c32", f"-d{seconds}s", "-s", str(script)]
                done = subprocess.run(
                    [*command, f"http://127.0.0.1:{server.port}/{server.name}"],
                    capture_output=True,
                    text=True,
                    check=True,
                    preexec_fn=partial(pin, client_core()),
                )
                if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
                    raise Unfit(done.stdout)
                asked = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
                assert asked, done.stdout
                found[server.name].append(float(asked[1]))
        return {name: statistics.median(times) for name, times in found.items()}


async def main(rounds: int, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        app = ours(Path(folder))
        calls = {"bare": caller(bare, "/", json.dumps(SENT).encode())}
        calls |= {name: caller(app, f"/{name}".replace(" ", "%20"), json.dumps(SENT).encode()) for name in TREE}
        if anchor := fastapi():
            calls["fastapi"] = caller(anchor, "/fastapi", json.dumps(SENT).encode())
        found = await compare(calls, rounds, count)
        medians = {name: statistics.median(costs) for name, costs in found.items()}
        for name, cost in medians.items():
            more = statistics.median(one - other for one, other in zip(found[name], found["json"], strict=True))
            against = f"   {medians['fastapi'] / cost:.1f} times FastAPI's" if "fastapi" in found else ""
            print(f"{name:18} {cost:6.2f} us   {more:+6.2f}   {1e6 / cost:8,.0f} a second{against}")
        print()
        for name, sizes in (await grow(app, (10_000, 100_000, 1_000_000))).items():
            print(f"{name:14}", "   ".join(f"{size:9,} bytes {status} {ms:7.2f} ms" for size, status, ms in sizes))


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        descriptor, served, place, longest = sys.argv[2:]
        become_server(int(longest))
        serving_app = {"bare": lambda: bare, "fastapi": fastapi, "typed": lambda: ours(Path(place))}[served]()
        assert serving_app, "FastAPI is not installed"
        serve_app(serving_app, int(descriptor))
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--count", type=int, default=25, help="calls of each app in a round")
    parser.add_argument("--socket-rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each app in a round over sockets")
    given = parser.parse_args()
    asyncio.run(main(given.rounds, given.count))
    if shutil.which("wrk") and find_spec("fastapi"):
        print()
        asked = by_sockets(given.socket_rounds, given.seconds)
        for name, rate in asked.items():
            print(f"{name:12} {rate:9,.0f} a second over sockets")
        for one, other in (("bare", "fastapi"), ("typed", "fastapi"), ("typed", "bare")):
            print(f"{one + ' : ' + other:18} {asked[one] / asked[other]:.2f}")
