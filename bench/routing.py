"""How many requests a second the router answers, beside a bare ASGI callable and other frameworks.

    python3 -m venv .venv/bench
    .venv/bench/bin/pip install --constraint constraints.txt . --requirement bench/requirements.txt
    .venv/bench/bin/python -m bench.routing

Every app answers the same paths with the same JSON, on uvicorn, uvloop and httptools. Half of its routes are static
and half have one parameter. `ours` is the whole app, its routes written as the shipped ones are; `ours/starlette-json`
is the same with Starlette's own JSONResponse. One core serves and another one asks: with `wrk` where it is installed,
else with a client in Python, which is slower than some of the servers. The apps of one size take turns within each
round, and the median of the rounds counts. Of the routes of a kind, `--ask last` asks for the one written last, which
a framework that tries its routes one by one comes to after all others; `--ask each` asks for each in turn.

It ends with what loading 1,000 route files costs on top of importing the same files as plain modules.
"""

import argparse
import asyncio
import http.client
import importlib
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from bench import machine
from bench.machine import HERE, Server, Unfit, become_server, client_core, environment, pin, serve_app

SIZES = (2, 200, 10_000)
KINDS = ("static", "dynamic")
CONNECTIONS = 32
PATIENCE = 60.0  # seconds that an app may take to start


# What is asked.


class Question(NamedTuple):
    path: str
    answer: dict[str, str]


def pairs(size: int) -> Iterator[tuple[str, str]]:
    """Yield the paths of a static route and of the folder that holds a dynamic one, until there are enough."""
    for i in range(size // 2):
        group = f"/api/group{i // 50}"
        yield f"{group}/item{i % 50}", f"{group}/thing{i % 50}"


def questions(size: int, kind: str) -> list[Question]:
    if kind == "static":
        return [Question(static, {"id": static.rpartition("/")[2]}) for static, _ in pairs(size)]
    return [Question(f"{dynamic}/{i}", {"id": str(i)}) for i, (_, dynamic) in enumerate(pairs(size))]


def check(port: int, size: int) -> None:
    """Ask an app for the first and the last path of each kind. Raises `Unfit` when an answer is not the right one."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        for kind in KINDS:
            for path, answer in (questions(size, kind)[0], questions(size, kind)[-1]):
                connection.request("GET", path)
                response = connection.getresponse()
                body, media_type = response.read(), response.headers.get_content_type()
                if (response.status, media_type) != (200, "application/json") or json.loads(body) != answer:
                    raise Unfit(f"{path} is answered {response.status} {media_type} {body[:80]!r}, want {answer}")


# The apps. Each is given the number of routes and an empty folder.


def bare(size: int, folder: Path) -> ASGIApp:
    """The fastest that an ASGI app can be on this server: it knows no routes, and builds its JSON by hand."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = b'{"id":"' + scope["path"].rpartition("/")[2].encode() + b'"}'
        length = str(len(body)).encode()
        headers = [(b"content-length", length), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def starlette(size: int, folder: Path) -> ASGIApp:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    def item(name: str) -> Any:
        async def get(request: Request) -> JSONResponse:
            return JSONResponse({"id": name})

        return get

    async def thing(request: Request) -> JSONResponse:
        return JSONResponse({"id": request.path_params["id"]})

    routes: list[Route] = []
    for static, dynamic in pairs(size):
        routes += [Route(static, item(static.rpartition("/")[2])), Route(dynamic + "/{id}", thing)]
    return Starlette(routes=routes)


def fastapi(size: int, folder: Path) -> ASGIApp:
    app = importlib.import_module("fastapi").FastAPI()

    def item(name: str) -> Any:
        async def get() -> dict[str, str]:
            return {"id": name}

        return get

    async def thing(id: str) -> dict[str, str]:
        return {"id": id}

    for static, dynamic in pairs(size):
        app.get(static)(item(static.rpartition("/")[2]))
        app.get(dynamic + "/{id}")(thing)
    return app


def blacksheep(size: int, folder: Path) -> ASGIApp:
    package = importlib.import_module("blacksheep")
    app = package.Application()

    def item(name: str) -> Any:
        async def get() -> Any:
            return package.json({"id": name})

        return get

    async def thing(id: str) -> Any:
        return package.json({"id": id})

    for static, dynamic in pairs(size):
        app.router.add_get(static, item(static.rpartition("/")[2]))
        app.router.add_get(dynamic + "/{id}", thing)
    return app


def ours(size: int, folder: Path, json_response: str = "jsonresponse") -> ASGIApp:
    from app import create_app
    from config import Config

    return create_app(Config(routes_dir=write_routes(folder / "routes", size, json_response)))


def ours_starlette_json(size: int, folder: Path) -> ASGIApp:
    return ours(size, folder, "starlette.responses")


APPS: dict[str, Callable[[int, Path], ASGIApp]] = {
    "bare": bare,
    "starlette": starlette,
    "fastapi": fastapi,
    "blacksheep": blacksheep,
    "ours": ours,
    "ours/starlette-json": ours_starlette_json,
}

ROUTE = """\
from starlette.requests import Request

from {module} import JSONResponse


async def GET(request: Request) -> JSONResponse:
    return JSONResponse({{"id": {id}}})
"""


def write_routes(folder: Path, size: int, json_response: str = "jsonresponse") -> Path:
    """Write one route.py for each route; the folder."""
    for static, dynamic in pairs(size):
        name = static.rpartition("/")[2]
        for path, id in ((static, repr(name)), (f"{dynamic}/[id]", 'request.path_params["id"]')):
            file = folder / path[1:] / "route.py"
            file.parent.mkdir(parents=True)
            file.write_text(ROUTE.format(module=json_response, id=id))
    return folder


# Serving: each app in a process of its own, which ends by itself when nobody ends it.


def serve(descriptor: int, name: str, size: int, folder: Path, seconds: int) -> None:
    become_server(seconds)
    serve_app(APPS[name](size, folder), descriptor)


@contextmanager
def serving(name: str, size: int, seconds: int) -> Generator[Server]:
    """Serve an app that answers rightly. Raises `Unfit`."""
    with (
        tempfile.TemporaryDirectory() as folder,
        machine.serving("bench.routing", name, size, folder, seconds, patience=PATIENCE) as server,
    ):
        check(server.port, size)
        yield server


# Asking.


def requests_per_second(port: int, paths: Sequence[str], seconds: float) -> float:
    return (ask_with_wrk if shutil.which("wrk") else ask_with_python)(port, paths, seconds)


WRK_SCRIPT = """
local requests, i = {}, 0
init = function()
  for path in io.lines(%s) do requests[#requests + 1] = wrk.format("GET", path) end
end
request = function() i = i %% #requests + 1; return requests[i] end
"""


def ask_with_wrk(port: int, paths: Sequence[str], seconds: float) -> float:
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:.0f}s"]
    with tempfile.TemporaryDirectory() as folder:
        if len(paths) > 1:
            listed, script = Path(folder, "paths"), Path(folder, "each.lua")
            listed.write_text("\n".join(paths))
            script.write_text(WRK_SCRIPT % json.dumps(str(listed)))
            command += ["-s", str(script)]
        done = subprocess.run(
            [*command, f"http://127.0.0.1:{port}{paths[0]}"],
            capture_output=True,
            text=True,
            check=True,
            timeout=seconds + 30,
        )
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise Unfit(done.stdout)
    found = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    assert found, done.stdout
    return float(found[1])


def ask_with_python(port: int, paths: Sequence[str], seconds: float) -> float:
    import uvloop

    async def ask() -> float:
        loop = asyncio.get_running_loop()
        asked = [f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode() for path in paths]
        clients = [Client(asked, i) for i in range(CONNECTIONS)]
        began = loop.time()
        for client in clients:
            await loop.create_connection(lambda client=client: client, "127.0.0.1", port)
        await asyncio.sleep(seconds)
        took = loop.time() - began
        for client in clients:
            client.transport.abort()
        return sum(client.answered for client in clients) / took

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(ask())


class Client(asyncio.Protocol):
    """One connection: asks again as soon as it is answered."""

    def __init__(self, requests: Sequence[bytes], first: int) -> None:
        self.requests = requests
        self.next = first
        self.answered = 0
        self.buffer = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        self.transport.write(self.requests[self.next % len(self.requests)])
        self.next += 1

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, end, body = self.buffer.partition(b"\r\n\r\n")
        if end and len(body) == int(re.findall(rb"(?i)content-length: (\d+)", head)[0]):
            assert head.startswith(b"HTTP/1.1 200 "), head
            self.buffer = b""
            self.answered += 1
            self.ask()


# Comparing.


class Sample(NamedTuple):
    rate: float  # requests per second
    cost: float  # microseconds of the server's processor time for each request


def measure(server: Server, paths: Sequence[str], seconds: float) -> Sample:
    before = server.cpu()
    rate = requests_per_second(server.port, paths, seconds)
    return Sample(rate, (server.cpu() - before) / (rate * seconds) * 1e6)


def compare(size: int, names: Sequence[str], ask: str, rounds: int, seconds: float) -> str:
    """Measure the apps of one size in turns; a table in Markdown."""
    samples: dict[tuple[str, str], list[Sample]] = {}
    unfit: dict[str, str] = {}
    limit = int(len(names) * (PATIENCE + 10) + len(names) * (rounds + 1) * len(KINDS) * (seconds + 5))
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for name in names:
            try:
                servers[name] = stack.enter_context(serving(name, size, limit))
            except Unfit as exc:
                unfit[name] = str(exc)
        for round in range(rounds + 1):
            for kind in KINDS:
                paths = [question.path for question in questions(size, kind)]
                for name, server in servers.items():
                    sample = measure(server, paths[-1:] if ask == "last" else paths, seconds)
                    if round:  # the first one warms up
                        samples.setdefault((name, kind), []).append(sample)
    kinds = " | ".join(f"{kind} req/s | of bare | CPU µs" for kind in KINDS)
    lines = [f"| {size:,} routes | {kinds} | starts in |", "|---|" + "--:|" * 7]
    for name in names:
        if name in unfit:
            lines.append(f"| {name} | skipped: {unfit[name]} | | | | | | |")
            continue
        cells: list[str] = []
        for kind in KINDS:
            share = share_of(samples[name, kind], samples["bare", kind])
            cells.append(f"{statistics.median(sample.rate for sample in samples[name, kind]):,.0f}")
            cells.append(f"{share:.2f}" if share >= 0.1 else f"{share:.3f}")
            cells.append(f"{statistics.median(sample.cost for sample in samples[name, kind]):,.0f}")
        lines.append(f"| {name} | {' | '.join(cells)} | {servers[name].started_in:.1f} s |")
    for name in servers:
        if "ours" in servers and name not in ("bare", "ours"):
            times = [f"{kind} {share_of(samples['ours', kind], samples[name, kind]):.2f}" for kind in KINDS]
            lines += ["", f"ours, in times of {name}: {', '.join(times)}"]
    return "\n".join(lines)


def share_of(found: Sequence[Sample], others: Sequence[Sample]) -> float:
    """The median of each round's own ratio."""
    return statistics.median(mine.rate / its.rate for mine, its in zip(found, others, strict=True))


# Loading.


def load(how: str, folder: Path) -> float:
    """Load each route file of a folder; the seconds, without those that the files' own imports take."""
    importlib.import_module("jsonresponse")
    loader = importlib.import_module("loader")
    if how == "routes":
        began = time.perf_counter()
        loader.load_routes(folder / "routes")
        return time.perf_counter() - began
    names = sorted(file.stem for file in (folder / "plain").glob("*.py"))
    sys.path.insert(0, str(folder / "plain"))
    began = time.perf_counter()
    for name in names:
        importlib.import_module(name)
    return time.perf_counter() - began


def compare_loading(count: int, rounds: int) -> str:
    """Load files as routes and as plain modules, in turns; a table in Markdown."""
    times: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        routes = write_routes(Path(folder, "routes"), count)
        plain = Path(folder, "plain")
        plain.mkdir()
        for i, file in enumerate(sorted(routes.rglob("route.py"))):
            shutil.copy(file, plain / f"route_{i}.py")
        for state, options in (("compiled anew", ["-B"]), ("compiled before", [])):  # -B writes no compiled files
            for _ in range(rounds + 1):
                for how in ("plain", "routes"):
                    command = [sys.executable, *options, "-m", "bench.routing", "load", how, folder]
                    done = subprocess.run(
                        command, cwd=HERE, env=environment(), capture_output=True, text=True, check=True, timeout=120
                    )
                    times.setdefault((state, how), []).append(float(done.stdout))
    lines = [f"| {count:,} route files | plain imports | load_routes | on top |", "|---|--:|--:|--:|"]
    for state in ("compiled anew", "compiled before"):
        before, after = (statistics.median(times[state, how][1:]) for how in ("plain", "routes"))
        lines.append(f"| {state} | {before:.3f} s | {after:.3f} s | {after - before:.3f} s |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["serve"]:
        return serve(int(given[1]), given[2], int(given[3]), Path(given[4]), int(given[5]))
    if given[:1] == ["load"]:
        return print(load(given[1], Path(given[2])))
    parser = argparse.ArgumentParser(prog="python -m bench.routing", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="numbers of routes (default: %(default)s)")
    parser.add_argument("--apps", default=",".join(APPS), help="what to compare (default: %(default)s)")
    parser.add_argument("--ask", choices=("last", "each"), default="last", help="which routes (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds that count (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=1, help="of each measurement (default: %(default)s)")
    args = parser.parse_args(given)
    pin(client_core())
    names = list(dict.fromkeys(["bare", *args.apps.split(",")]))
    with_wrk = shutil.which("wrk") is not None
    print(f"asked with {'wrk' if with_wrk else 'Python'}, {CONNECTIONS} connections; median of {args.rounds} rounds\n")
    for size in map(int, args.sizes.split(",")):
        print(compare(size, names, args.ask, args.rounds, args.seconds), end="\n\n", flush=True)
    print(compare_loading(1_000, args.rounds))


if __name__ == "__main__":
    main()
